/*-------------------------------------------------------------------------
 *
 * test_merge.c
 *		The merge against qsort(), and its heap against a plain array.
 *
 * The comparisons here are written anew rather than taken from merge.h: an
 * error in the order must not cancel itself out.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "merge.h"
#include "tap.h"

#define MAX_STREAMS 40
#define MAX_ROWS 60				/* a stream */

typedef struct Stream
{
	LogqMergeEntry rows[MAX_ROWS];
	int			nrows;
	int			at;
} Stream;

/* how the keys of a random merge are drawn */
typedef enum Keys
{
	KEYS_UNIQUE_IDS,			/* few timestamps, no id twice */
	KEYS_EQUAL,					/* the same (ts, id) again and again */
	KEYS_EXTREME,				/* the ends of int64 */
	KEYS_WIDE,					/* anything */
	KEYS_KINDS
} Keys;

static const char *const keys_name[KEYS_KINDS] = {
	"equal timestamps", "equal keys", "extreme keys", "any keys"
};

static const int64_t extremes[] = {
	INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX
};

static int64_t next_id;

/*
 * Compare for qsort(), ascending, ties by stream.
 */
static int
compare_ascending(const void *pa, const void *pb)
{
	const LogqMergeEntry *a = pa;
	const LogqMergeEntry *b = pb;

	if (a->ts != b->ts)
		return a->ts < b->ts ? -1 : 1;
	if (a->id != b->id)
		return a->id < b->id ? -1 : 1;
	return (a->stream > b->stream) - (a->stream < b->stream);
}

/*
 * The same descending.  Ties still go to the lower stream.
 */
static int
compare_descending(const void *pa, const void *pb)
{
	const LogqMergeEntry *a = pa;
	const LogqMergeEntry *b = pb;

	if (a->ts != b->ts)
		return a->ts > b->ts ? -1 : 1;
	if (a->id != b->id)
		return a->id > b->id ? -1 : 1;
	return (a->stream > b->stream) - (a->stream < b->stream);
}

/*
 * The comparison for a direction.
 */
static int
compare(bool descending, const LogqMergeEntry *a, const LogqMergeEntry *b)
{
	return descending ? compare_descending(a, b) : compare_ascending(a, b);
}

/*
 * Are two entries the same?
 */
static bool
same(const LogqMergeEntry *a, const LogqMergeEntry *b)
{
	return a->ts == b->ts && a->id == b->id && a->stream == b->stream;
}

/*
 * Draw a key.
 */
static void
random_key(Keys keys, int64_t *ts, int64_t *id)
{
	switch (keys)
	{
		case KEYS_UNIQUE_IDS:
			*ts = tap_random_int(-3, 3);
			/* an odd factor: every id once, in no order */
			*id = (int64_t) ((uint64_t) next_id++ *
							 UINT64_C(0x9e3779b97f4a7c15));
			break;
		case KEYS_EQUAL:
			*ts = tap_random_int(0, 2);
			*id = tap_random_int(0, 2);
			break;
		case KEYS_EXTREME:
			*ts = extremes[tap_random_int(0, 6)];
			*id = extremes[tap_random_int(0, 6)];
			break;
		default:
			*ts = (int64_t) tap_random();
			*id = (int64_t) tap_random();
			break;
	}
}

/*
 * Does every entry stand below its parent?
 */
static bool
heap_holds(const LogqMerge *merge)
{
	for (int i = 1; i < merge->nentries; i++)
	{
		if (compare(merge->descending, &merge->entries[(i - 1) / 2],
					&merge->entries[i]) > 0)
			return false;
	}
	return true;
}

/*
 * Merge k random streams and compare with everything sorted at once.
 */
static bool
merge_once(Keys keys, bool descending, int k)
{
	static Stream streams[MAX_STREAMS];
	static LogqMergeEntry expected[MAX_STREAMS * MAX_ROWS];
	LogqMergeEntry *entries = tap_alloc(sizeof(LogqMergeEntry) * k);
	LogqMerge	merge;
	int			nexpected = 0;
	int			nmerged = 0;
	int			live = 0;
	bool		good = true;

	for (int s = 0; s < k; s++)
	{
		Stream	   *stream = &streams[s];

		/* some are empty, some have one row */
		stream->nrows = tap_random_int(0, 4) == 0 ? tap_random_int(0, 1) :
			tap_random_int(0, MAX_ROWS);
		stream->at = 0;
		for (int i = 0; i < stream->nrows; i++)
		{
			random_key(keys, &stream->rows[i].ts, &stream->rows[i].id);
			stream->rows[i].stream = s;
			expected[nexpected++] = stream->rows[i];
		}
		qsort(stream->rows, stream->nrows, sizeof(LogqMergeEntry),
			  descending ? compare_descending : compare_ascending);
	}
	qsort(expected, nexpected, sizeof(LogqMergeEntry),
		  descending ? compare_descending : compare_ascending);

	/* the order in which streams arrive must not matter */
	logq_merge_init(&merge, entries, k, descending);
	for (int i = 0, s = tap_random_int(0, k - 1); i < k; i++, s = (s + 1) % k)
	{
		if (streams[s].nrows == 0)
			continue;
		logq_merge_push(&merge, streams[s].rows[0].ts, streams[s].rows[0].id,
						s);
		live++;
		good = good && heap_holds(&merge);
	}

	while (good && merge.nentries > 0)
	{
		LogqMergeEntry top = merge.entries[0];
		Stream	   *stream = &streams[top.stream];

		good = nmerged < nexpected && same(&top, &expected[nmerged]);
		nmerged++;
		if (++stream->at < stream->nrows)
			logq_merge_replace_top(&merge, stream->rows[stream->at].ts,
								   stream->rows[stream->at].id);
		else
		{
			logq_merge_pop(&merge);
			live--;
		}
		good = good && merge.nentries == live && heap_holds(&merge);
	}
	good = good && nmerged == nexpected;
	if (!good)
		printf("# row %d of %d, %d streams, %s, %s\n", nmerged, nexpected, k,
			   keys_name[keys], descending ? "descending" : "ascending");
	free(entries);
	return good;
}

/*
 * Every k, several times.
 */
static void
test_merges(Keys keys, bool descending)
{
	bool		good = true;

	for (int k = 1; good && k <= MAX_STREAMS; k++)
	{
		for (int i = 0; good && i < 12; i++)
			good = merge_once(keys, descending, k);
	}
	ok(good, "merges of 1 to %d streams, %s, %s", MAX_STREAMS,
	   keys_name[keys], descending ? "descending" : "ascending");
}

/*
 * Random pushes, replacements and pops, with keys that may also go backward,
 * against an unordered array in which the top is searched for.
 */
static void
test_operations(Keys keys, bool descending)
{
	LogqMergeEntry *entries = tap_alloc(sizeof(LogqMergeEntry) * MAX_STREAMS);
	LogqMergeEntry model[MAX_STREAMS];
	int			nmodel = 0;
	LogqMerge	merge;
	bool		used[MAX_STREAMS] = {false};
	bool		good;

	logq_merge_init(&merge, entries, MAX_STREAMS, descending);
	good = merge.nentries == 0 && merge.capacity == MAX_STREAMS &&
		merge.entries == entries;

	for (int i = 0; good && i < 20000; i++)
	{
		int			what = tap_random_int(0, 2);
		int64_t		ts;
		int64_t		id;
		int			top = 0;

		for (int m = 1; m < nmodel; m++)
		{
			if (compare(descending, &model[m], &model[top]) < 0)
				top = m;
		}

		random_key(keys, &ts, &id);
		if (nmodel == 0 || (what == 0 && nmodel < MAX_STREAMS))
		{
			int			s = tap_random_int(0, MAX_STREAMS - 1);

			while (used[s])
				s = (s + 1) % MAX_STREAMS;
			used[s] = true;
			model[nmodel].ts = ts;
			model[nmodel].id = id;
			model[nmodel++].stream = s;
			logq_merge_push(&merge, ts, id, s);
		}
		else if (what == 1)
		{
			good = same(&merge.entries[0], &model[top]);
			model[top].ts = ts;
			model[top].id = id;
			logq_merge_replace_top(&merge, ts, id);
		}
		else
		{
			good = same(&merge.entries[0], &model[top]);
			used[model[top].stream] = false;
			model[top] = model[--nmodel];
			logq_merge_pop(&merge);
		}

		good = good && merge.nentries == nmodel && heap_holds(&merge);
		/* nothing is lost and nothing comes up twice */
		for (int m = 0; good && m < nmodel; m++)
		{
			int			found = 0;

			for (int e = 0; e < merge.nentries; e++)
				found += same(&merge.entries[e], &model[m]);
			good = found == 1;
		}
	}
	ok(good, "push, replace_top and pop, %s, %s", keys_name[keys],
	   descending ? "descending" : "ascending");
	free(entries);
}

/*
 * logq_merge_before() is a strict total order, at the ends of int64 too.
 */
static void
test_before(bool descending)
{
	LogqMerge	merge;
	bool		good = true;

	logq_merge_init(&merge, NULL, 0, descending);
	for (int i = 0; i < 7 * 7 * 7 * 7; i++)
	{
		LogqMergeEntry a = {extremes[i % 7], extremes[i / 7 % 7], 0};
		LogqMergeEntry b = {extremes[i / 49 % 7], extremes[i / 343], 0};

		good = good && logq_merge_before(&merge, a.ts, a.id, b.ts, b.id) ==
			(compare(descending, &a, &b) < 0);
		good = good && logq_merge_before(&merge, b.ts, b.id, a.ts, a.id) ==
			(compare(descending, &b, &a) < 0);
	}
	ok(good, "logq_merge_before at the ends of int64, %s",
	   descending ? "descending" : "ascending");
}

/*
 * One key in every stream: the streams come in their order, whichever way
 * the merge goes and however they arrived.
 */
static void
test_ties(bool descending)
{
	LogqMergeEntry entries[MAX_STREAMS];
	LogqMerge	merge;
	bool		good = true;

	logq_merge_init(&merge, entries, MAX_STREAMS, descending);
	/* 7 and 40 have no common divisor */
	for (int i = 0; i < MAX_STREAMS; i++)
		logq_merge_push(&merge, 5, 5, i * 7 % MAX_STREAMS);
	for (int i = 0; i < MAX_STREAMS; i++)
	{
		good = good && merge.nentries == MAX_STREAMS - i &&
			merge.entries[0].stream == i;
		logq_merge_pop(&merge);
	}
	ok(good && merge.nentries == 0, "equal keys come by stream, %s",
	   descending ? "descending" : "ascending");
}

/*
 * A merge of one stream, emptied and used again.
 */
static void
test_single(void)
{
	LogqMergeEntry entry;
	LogqMerge	merge;
	bool		good = true;

	logq_merge_init(&merge, &entry, 1, false);
	for (int i = 0; i < 3; i++)
	{
		logq_merge_push(&merge, INT64_MIN, INT64_MAX, 9);
		good = good && merge.nentries == 1 && merge.entries[0].stream == 9;
		logq_merge_replace_top(&merge, INT64_MAX, INT64_MIN);
		good = good && merge.entries[0].ts == INT64_MAX &&
			merge.entries[0].id == INT64_MIN && merge.entries[0].stream == 9;
		logq_merge_pop(&merge);
		good = good && merge.nentries == 0;
	}
	ok(good, "a merge of one stream, emptied and used again");
}

int
main(void)
{
	tap_seed();
	for (int d = 0; d < 2; d++)
	{
		for (int keys = 0; keys < KEYS_KINDS; keys++)
			test_merges(keys, d == 1);
		/* the model tells entries apart by stream, so any keys will do */
		test_operations(KEYS_EQUAL, d == 1);
		test_operations(KEYS_EXTREME, d == 1);
		test_operations(KEYS_WIDE, d == 1);
		test_before(d == 1);
		test_ties(d == 1);
	}
	test_single();
	return tap_done();
}
