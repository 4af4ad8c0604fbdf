/*-------------------------------------------------------------------------
 *
 * test_summary.c
 *		The summary of random rows against what qsort() makes of them.
 *
 * Everything is counted here once more, slowly, from the rows themselves:
 * values are sorted as texts, never hashed.  Only the words of a message are
 * taken from words.c, which has tests of its own, and filters and sketches are
 * read by sketch.c.
 *
 * LINK: src/distinct.c src/sketch.c src/words.c
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "sketch.h"
#include "summary.h"
#include "tap.h"
#include "words.h"

#define MAX_COLUMNS (LOGQ_SUMMARY_NCOLUMNS + LOGQ_SUMMARY_MAX_ATTRS)
#define HOUR INT64_C(3600000000)
#define MINUTE INT64_C(60000000)

/* a text, or NULL */
typedef struct Text
{
	char	   *data;
	int			len;			/* -1: NULL */
} Text;

typedef struct Row
{
	int64_t		ts;
	int64_t		id;
	Text		level;
	Text		service;
	Text		message;
	Text		trace_id;
	Text		attrs[LOGQ_SUMMARY_MAX_ATTRS];
} Row;

/* what trace_ids look like */
typedef enum Traces
{
	TRACES_RANDOM,
	TRACES_NONE,
	TRACES_UUID7,				/* of the segment's time */
	TRACES_UUID7_BARE,			/* the same without hyphens */
	TRACES_UUID7_OLD,			/* one of them of another time */
	TRACES_UUID7_MIXED,			/* both ways of writing */
	TRACES_UUID7_UPPER,			/* one in upper case */
	TRACES_UUID4,
	TRACES_KINDS
} Traces;

static const char *const traces_name[TRACES_KINDS] = {
	"random", "none", "UUIDv7", "UUIDv7 without hyphens",
	"one UUIDv7 of another time", "UUIDv7 in two forms",
	"one UUIDv7 in upper case", "UUIDv4"
};

/* how rows are drawn */
typedef struct Plan
{
	int			nrows;
	int			nlevels;
	int			nservices;
	int			nattrs;
	int			nulls;			/* of 100 */
	int			nvalues;		/* of attrs and words */
	int			minutes;		/* over which rows spread */
	Traces		traces;
	int64_t		lower;
} Plan;

/* a list of texts, with repetitions */
typedef struct Texts
{
	Text	   *texts;
	int			n;
	int			size;
} Texts;

static const char *const odd_texts[] = {
	"", " ", "'", "\\", "a\nb", "\xc3\xa9", "\xe6\x97\xa5\xe6\x9c\xac", "{}",
	"NULL", "\"", "\x01"
};

/*
 * Make a text.
 */
static Text
text_of(const char *string)
{
	Text		text;

	text.len = (int) strlen(string);
	text.data = tap_alloc(text.len + 1);
	memcpy(text.data, string, text.len + 1);
	return text;
}

static Text
null_text(void)
{
	Text		text = {NULL, -1};

	return text;
}

/*
 * One of n texts, some of them odd, or NULL.
 */
static Text
random_text(const Plan *plan, const char *prefix, int n)
{
	char		buf[64];
	int			i = tap_random_int(0, n - 1);

	if (tap_random_int(0, 99) < plan->nulls)
		return null_text();
	if (i < (int) (sizeof(odd_texts) / sizeof(odd_texts[0])))
		return text_of(odd_texts[i]);
	snprintf(buf, sizeof(buf), "%s%d", prefix, i);
	return text_of(buf);
}

/*
 * A UUID of a version and time (µs since 2000).
 */
static Text
uuid(int version, int64_t ts, bool hyphens)
{
	char		buf[64];
	int64_t		ms = ts / 1000 + INT64_C(946684800000);
	unsigned	a = (unsigned) (tap_random() & 0xfff);
	unsigned	b = 0x8000 | (unsigned) (tap_random() & 0x3fff);
	unsigned long long c = tap_random() & UINT64_C(0xffffffffffff);

	if (version == 4)
		ms = (int64_t) (tap_random() & UINT64_C(0xffffffffffff));
	snprintf(buf, sizeof(buf),
			 hyphens ? "%08x-%04x-%x%03x-%04x-%012llx" :
			 "%08x%04x%x%03x%04x%012llx",
			 (unsigned) (ms >> 16), (unsigned) (ms & 0xffff), version, a, b, c);
	return text_of(buf);
}

/*
 * A trace_id of the i-th row.
 */
static Text
random_trace(const Plan *plan, int i, int64_t ts)
{
	char		buf[64];
	Text		text;
	bool		odd_one = i == plan->nrows / 2;

	switch (plan->traces)
	{
		case TRACES_NONE:
			return null_text();
		case TRACES_RANDOM:
			if (tap_random_int(0, 99) < plan->nulls)
				return null_text();
			snprintf(buf, sizeof(buf), "%x",
					 tap_random_int(0, plan->nvalues * 3));
			return text_of(buf);
		case TRACES_UUID4:
			return uuid(4, ts, true);
		default:
			break;
	}
	if (!odd_one && tap_random_int(0, 99) < plan->nulls)
		return null_text();
	/* up to a width of the segment before and after it is near enough */
	ts += tap_random_int(-50, 50) * MINUTE;
	if (plan->traces == TRACES_UUID7_OLD && odd_one)
		ts += tap_random_int(0, 1) ? 3 * HOUR : -3 * HOUR;
	text = uuid(7, ts, plan->traces != TRACES_UUID7_BARE &&
				!(plan->traces == TRACES_UUID7_MIXED && odd_one));
	if (plan->traces == TRACES_UUID7_UPPER && odd_one)
		text.data[0] = 'A';
	return text;
}

/*
 * Draw rows.
 */
static Row *
random_rows(const Plan *plan)
{
	Row		   *rows = tap_alloc(sizeof(Row) * (plan->nrows + 1));

	for (int i = 0; i < plan->nrows; i++)
	{
		Row		   *row = &rows[i];
		char		buf[200];

		row->ts = plan->lower + (int64_t) (tap_random() %
										   (uint64_t) (plan->minutes * MINUTE));
		row->id = (INT64_C(3) << 44) + (int64_t) (tap_random() % 1000000000);
		row->level = random_text(plan, "level", plan->nlevels);
		row->service = random_text(plan, "service-", plan->nservices);
		snprintf(buf, sizeof(buf), "User %d did Thing_%d; it took %d.%d ms",
				 tap_random_int(0, plan->nvalues),
				 tap_random_int(0, plan->nvalues), tap_random_int(0, 99),
				 tap_random_int(0, 9));
		row->message = tap_random_int(0, 99) < plan->nulls ? null_text() :
			text_of(buf);
		row->trace_id = random_trace(plan, i, row->ts);
		for (int a = 0; a < plan->nattrs; a++)
			row->attrs[a] = random_text(plan, "value ",
										a == 0 ? 1 : plan->nvalues);
	}
	return rows;
}

static void
free_rows(const Plan *plan, Row *rows)
{
	for (int i = 0; i < plan->nrows; i++)
	{
		free(rows[i].level.data);
		free(rows[i].service.data);
		free(rows[i].message.data);
		free(rows[i].trace_id.data);
		for (int a = 0; a < plan->nattrs; a++)
			free(rows[i].attrs[a].data);
	}
	free(rows);
}

/*
 * Eight bytes, big-endian.
 */
static void
put_int64(char *to, int64_t value)
{
	for (int i = 7; i >= 0; i--)
	{
		to[i] = (char) (value & 0xff);
		value = (int64_t) ((uint64_t) value >> 8);
	}
}

static void
set_field(LogqField *field, const Text *text)
{
	field->data = text->data;
	field->len = text->len;
}

/*
 * Give a row to the summary.  The memory that fields point to is gone after
 * the call, as it is in earnest.
 */
static bool
add_row(LogqSummary *sum, const Row *row, int nattrs)
{
	LogqField	fields[MAX_COLUMNS];
	char	   *copies[MAX_COLUMNS];
	char		ts[8];
	char		id[8];
	bool		result;

	put_int64(ts, row->ts);
	put_int64(id, row->id);
	fields[LOGQ_SUMMARY_TS].data = ts;
	fields[LOGQ_SUMMARY_TS].len = 8;
	fields[LOGQ_SUMMARY_ID].data = id;
	fields[LOGQ_SUMMARY_ID].len = 8;
	set_field(&fields[LOGQ_SUMMARY_LEVEL], &row->level);
	set_field(&fields[LOGQ_SUMMARY_SERVICE], &row->service);
	set_field(&fields[LOGQ_SUMMARY_MESSAGE], &row->message);
	set_field(&fields[LOGQ_SUMMARY_TRACE_ID], &row->trace_id);
	for (int a = 0; a < nattrs; a++)
		set_field(&fields[LOGQ_SUMMARY_NCOLUMNS + a], &row->attrs[a]);
	for (int i = 0; i < LOGQ_SUMMARY_NCOLUMNS + nattrs; i++)
	{
		/* exactly as long: a read beyond the end is found out */
		copies[i] = tap_alloc(fields[i].len > 0 ? fields[i].len : 0);
		if (fields[i].len > 0)
			memcpy(copies[i], fields[i].data, fields[i].len);
		if (fields[i].len >= 0)
			fields[i].data = copies[i];
	}
	result = logq_summary_add(sum, fields);
	for (int i = 0; i < LOGQ_SUMMARY_NCOLUMNS + nattrs; i++)
		free(copies[i]);
	return result;
}

/*
 * Compare texts by bytes, NULL last.
 */
static int
compare_texts(const void *pa, const void *pb)
{
	const Text *a = pa;
	const Text *b = pb;
	int			len = a->len < b->len ? a->len : b->len;
	int			c;

	if (a->len < 0 || b->len < 0)
		return (a->len < 0) - (b->len < 0);
	c = memcmp(a->data, b->data, len);
	return c != 0 ? c : (a->len > b->len) - (a->len < b->len);
}

static void
texts_add(Texts *list, Text text)
{
	if (list->n == list->size)
	{
		list->size = list->size * 2 + 100;
		list->texts = tap_realloc(list->texts, list->size * sizeof(Text));
	}
	list->texts[list->n++] = text;
}

/*
 * Sort; returns how many different ones there are.
 */
static int
texts_sort(Texts *list)
{
	int			n = 0;

	if (list->n > 0)
		qsort(list->texts, list->n, sizeof(Text), compare_texts);
	for (int i = 0; i < list->n; i++)
		if (i == 0 || compare_texts(&list->texts[i - 1], &list->texts[i]) != 0)
			n++;
	return n;
}

/*
 * Does a dictionary say what the sorted list does?
 */
static bool
dict_matches(const LogqDict *dict, const Texts *list)
{
	int			at = 0;

	for (int i = 0; i < dict->n; i++)
	{
		int			d = dict->order[i];
		Text		text = {dict->texts[d], dict->lens[d]};
		uint64_t	rows = 0;

		if ((text.data == NULL) != (text.len < 0))
			return false;
		while (at < list->n && compare_texts(&list->texts[at], &text) == 0)
		{
			at++;
			rows++;
		}
		if (rows == 0 || rows != dict->rows[d])
			return false;
	}
	return at == list->n;
}

/*
 * Does a summary of a field say what the sorted list of its values does?
 * Values that are not there must get through seldom.
 */
static bool
distinct_matches(const LogqDistinct *set, const Texts *list, int ndistinct,
				 bool kept, bool counted)
{
	int			passed = 0;

	if (!set->used || set->nvalues != (uint64_t) ndistinct ||
		(set->filter != NULL) != kept || (set->sketch != NULL) != counted)
		return false;
	if (kept)
	{
		if (!logq_bloom_valid(set->filter, set->filter_size) ||
			logq_bloom_get_log2_blocks(set->filter) !=
			logq_bloom_log2_blocks(ndistinct) ||
			logq_bloom_get_nvalues(set->filter) != (uint64_t) ndistinct)
			return false;
		for (int i = 0; i < list->n; i++)
			if (!logq_bloom_test(set->filter, logq_hash(list->texts[i].data,
														list->texts[i].len)))
				return false;
		for (int i = 0; i < 2000; i++)
		{
			char		buf[32];

			snprintf(buf, sizeof(buf), "not there %d", i);
			passed += logq_bloom_test(set->filter,
									  logq_hash(buf, strlen(buf)));
		}
		if (passed > 100)
			return false;
	}
	if (counted)
	{
		if (!logq_sketch_valid(set->sketch, set->sketch_size) ||
			logq_sketch_total(set->sketch) != (uint64_t) list->n)
			return false;
		for (int i = 0; i < list->n;)
		{
			const Text *text = &list->texts[i];
			uint64_t	rows = 0;

			for (; i < list->n &&
				 compare_texts(&list->texts[i], text) == 0; i++)
				rows++;
			if (logq_sketch_upper(set->sketch,
								  logq_hash(text->data, text->len)) < rows)
				return false;
		}
	}
	return true;
}

/*
 * The minute of a time, rounded down.
 */
static int64_t
minute_of(int64_t ts)
{
	int64_t		rest = ts % MINUTE;

	return ts - rest - (rest < 0 ? MINUTE : 0);
}

/* a row of a rollup, with the texts themselves */
typedef struct Count
{
	int64_t		minute;
	Text		service;
	Text		level;
	uint64_t	rows;
} Count;

static int
compare_counts(const void *pa, const void *pb)
{
	const Count *a = pa;
	const Count *b = pb;
	int			c = (a->minute > b->minute) - (a->minute < b->minute);

	if (c == 0)
		c = compare_texts(&a->service, &b->service);
	return c != 0 ? c : compare_texts(&a->level, &b->level);
}

/*
 * Sort counts and add up equal ones.
 */
static int
counts_merge(Count *counts, int n)
{
	int			to = 0;

	if (n > 0)
		qsort(counts, n, sizeof(Count), compare_counts);
	for (int i = 0; i < n; i++)
	{
		if (to > 0 && compare_counts(&counts[to - 1], &counts[i]) == 0)
			counts[to - 1].rows += counts[i].rows;
		else
			counts[to++] = counts[i];
	}
	return to;
}

/*
 * The rollup of the rows, counted here.
 */
static Count *
naive_rollup(const Plan *plan, const Row *rows, bool with_service, int *n)
{
	Count	   *counts = tap_alloc(sizeof(Count) * (plan->nrows + 1));

	for (int i = 0; i < plan->nrows; i++)
	{
		counts[i].minute = minute_of(rows[i].ts);
		counts[i].service = with_service ? rows[i].service : null_text();
		counts[i].level = rows[i].level;
		counts[i].rows = 1;
	}
	*n = counts_merge(counts, plan->nrows);
	return counts;
}

/*
 * Is a rollup what was counted here?
 */
static bool
rollup_matches(const LogqSummary *sum, const LogqRollup *rollup,
			   const Count *wanted, int n, bool with_service)
{
	Count	   *counts;
	bool		same;

	if (rollup->n != (size_t) n)
		return false;
	counts = tap_alloc(sizeof(Count) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		const LogqRollupEntry *entry = &rollup->entries[i];
		int			level = logq_rollup_level(entry);
		int			service = logq_rollup_service(entry);

		counts[i].minute = logq_rollup_minute(entry);
		counts[i].service = null_text();
		if (with_service)
		{
			counts[i].service.data = sum->services.texts[service];
			counts[i].service.len = sum->services.lens[service];
		}
		counts[i].level.data = sum->levels.texts[level];
		counts[i].level.len = sum->levels.lens[level];
		counts[i].rows = entry->rows;
	}
	same = counts_merge(counts, n) == n;
	for (int i = 0; same && i < n; i++)
		same = compare_counts(&counts[i], &wanted[i]) == 0 &&
			counts[i].rows == wanted[i].rows;
	free(counts);
	return same;
}

/* words go to a list */
static void
collect_word(void *arg, const char *word, size_t len)
{
	Text		text;

	text.data = tap_alloc(len + 1);
	memcpy(text.data, word, len);
	text.data[len] = '\0';
	text.len = (int) len;
	texts_add(arg, text);
}

/*
 * Does a filter of so many values pay, for words?
 */
static bool
filter_pays(int ndistinct, int nrows)
{
	size_t		bytes = logq_bloom_size(logq_bloom_log2_blocks(ndistinct)) -
		LOGQ_BLOOM_HEADER;

	return bytes <= 65536 || bytes <= (size_t) nrows * 10;
}

/*
 * Do all trace_ids carry a time of the segment's, by how they were drawn?
 */
static bool
all_carry_time(const Plan *plan, const Texts *traces)
{
	if (traces->n == 0)
		return false;
	/* the odd one of another form may be the only one that is not NULL */
	for (int i = 1; i < traces->n; i++)
		if (traces->texts[i].len != traces->texts[0].len)
			return false;
	return plan->traces == TRACES_UUID7 ||
		plan->traces == TRACES_UUID7_BARE ||
		plan->traces == TRACES_UUID7_MIXED;
}

/*
 * Compare all of a summary.  Returns what is wrong, or NULL.
 */
static const char *
compare(const Plan *plan, const Row *rows, const LogqSummary *sum)
{
	const char *wrong = NULL;
	Texts		levels = {NULL};
	Texts		services = {NULL};
	Texts		values = {NULL};
	int			nlevels;
	int			nservices;
	int			n;

#define CHECK(what, condition) \
	do { if (wrong == NULL && !(condition)) wrong = (what); } while (0)

	CHECK("rows", sum->rows == plan->nrows);
	if (plan->nrows > 0)
	{
		int64_t		min_ts = INT64_MAX;
		int64_t		max_ts = INT64_MIN;
		int64_t		min_id = INT64_MAX;
		int64_t		max_id = INT64_MIN;

		for (int i = 0; i < plan->nrows; i++)
		{
			min_ts = rows[i].ts < min_ts ? rows[i].ts : min_ts;
			max_ts = rows[i].ts > max_ts ? rows[i].ts : max_ts;
			min_id = rows[i].id < min_id ? rows[i].id : min_id;
			max_id = rows[i].id > max_id ? rows[i].id : max_id;
		}
		CHECK("bounds of ts", sum->min_ts == min_ts && sum->max_ts == max_ts);
		CHECK("bounds of id", sum->min_id == min_id && sum->max_id == max_id);
	}

	/* levels and services */
	for (int i = 0; i < plan->nrows; i++)
	{
		texts_add(&levels, rows[i].level);
		texts_add(&services, rows[i].service);
	}
	nlevels = texts_sort(&levels);
	nservices = texts_sort(&services);
	CHECK("completeness of levels",
		  sum->levels.complete == (nlevels <= LOGQ_SUMMARY_MAX_LEVELS));
	CHECK("completeness of services",
		  sum->services.complete == (nservices <= LOGQ_SUMMARY_MAX_SERVICES));
	if (sum->levels.complete)
		CHECK("levels", dict_matches(&sum->levels, &levels));
	if (sum->services.complete)
	{
		CHECK("services", dict_matches(&sum->services, &services));
		CHECK("no filter of services", !sum->service.used);
	}
	else
	{
		for (int i = 0; i < plan->nrows; i++)
			if (rows[i].service.len >= 0)
				texts_add(&values, rows[i].service);
		n = texts_sort(&values);
		CHECK("filter of services",
			  distinct_matches(&sum->service, &values, n, true, true));
		values.n = 0;
	}

	/* service x level */
	CHECK("is there service x level",
		  (sum->service_level_rows != NULL) ==
		  (sum->levels.complete && sum->services.complete));
	if (sum->service_level_rows != NULL)
	{
		uint64_t	total = 0;

		for (int s = 0; s < sum->services.n && wrong == NULL; s++)
		{
			uint64_t	of_service = 0;

			for (int l = 0; l < sum->levels.n; l++)
				of_service += logq_summary_cell(sum, s, l);
			CHECK("rows of a service", of_service == sum->services.rows[s]);
			total += of_service;
		}
		CHECK("service x level in all", total == (uint64_t) plan->nrows);
		/* some cells, counted */
		for (int t = 0; t < 5 && plan->nrows > 0 && wrong == NULL; t++)
		{
			const Row  *row = &rows[tap_random_int(0, plan->nrows - 1)];
			uint64_t	rows_here = 0;
			uint64_t	cell = 0;

			for (int i = 0; i < plan->nrows; i++)
				rows_here +=
					compare_texts(&rows[i].service, &row->service) == 0 &&
					compare_texts(&rows[i].level, &row->level) == 0;
			for (int s = 0; s < sum->services.n; s++)
			{
				Text		service = {sum->services.texts[s],
				sum->services.lens[s]};

				if (compare_texts(&service, &row->service) != 0)
					continue;
				for (int l = 0; l < sum->levels.n; l++)
				{
					Text		level = {sum->levels.texts[l],
					sum->levels.lens[l]};

					if (compare_texts(&level, &row->level) == 0)
						cell = logq_summary_cell(sum, s, l);
				}
			}
			CHECK("a cell of service x level", cell == rows_here);
		}
	}

	/* rollups */
	if (wrong == NULL)
	{
		Count	   *counts;

		counts = naive_rollup(plan, rows, false, &n);
		CHECK("is there a rollup of levels",
			  sum->level_rollup.kept == sum->levels.complete);
		if (sum->level_rollup.kept)
			CHECK("rollup of levels",
				  rollup_matches(sum, &sum->level_rollup, counts, n, false));
		free(counts);
		counts = naive_rollup(plan, rows, true, &n);
		CHECK("is there a rollup of services",
			  sum->service_rollup.kept ==
			  (sum->levels.complete && sum->services.complete &&
			   n <= plan->nrows / 2));
		if (sum->service_rollup.kept)
			CHECK("rollup of services",
				  rollup_matches(sum, &sum->service_rollup, counts, n, true));
		free(counts);
	}

	/* trace_id */
	for (int i = 0; i < plan->nrows; i++)
		if (rows[i].trace_id.len >= 0)
			texts_add(&values, rows[i].trace_id);
	n = texts_sort(&values);
	CHECK("filter of trace_id",
		  distinct_matches(&sum->trace_id, &values, n,
						   !all_carry_time(plan, &values), true));
	if (values.n == 0)
		CHECK("no bounds of trace_id",
			  sum->min_trace_id == NULL && sum->max_trace_id == NULL);
	else
		CHECK("bounds of trace_id",
			  sum->min_trace_id != NULL && sum->max_trace_id != NULL &&
			  strcmp(sum->min_trace_id, values.texts[0].data) == 0 &&
			  strcmp(sum->max_trace_id, values.texts[values.n - 1].data) == 0);

	/* attrs */
	for (int a = 0; a < plan->nattrs; a++)
	{
		values.n = 0;
		for (int i = 0; i < plan->nrows; i++)
			if (rows[i].attrs[a].len >= 0)
				texts_add(&values, rows[i].attrs[a]);
		n = texts_sort(&values);
		CHECK("filter of attrs",
			  distinct_matches(&sum->attrs[a], &values, n, true, true));
	}

	/* words */
	values.n = 0;
	for (int i = 0; i < plan->nrows; i++)
		if (rows[i].message.len >= 0)
			logq_words_of_text(rows[i].message.data, rows[i].message.len,
							   collect_word, &values);
	n = texts_sort(&values);
	CHECK("filter of words",
		  distinct_matches(&sum->words, &values, n,
						   filter_pays(n, plan->nrows), false));
	CHECK("odd case", !sum->odd_case);

#undef CHECK
	for (int i = 0; i < values.n; i++)
		free(values.texts[i].data);
	free(values.texts);
	free(levels.texts);
	free(services.texts);
	return wrong;
}

/*
 * Summarise rows.
 */
static LogqSummary *
summarise(const Plan *plan, const Row *rows)
{
	LogqSummary *sum = logq_summary_create(plan->nattrs, plan->lower,
										   plan->lower + HOUR, true);
	bool		good = sum != NULL;

	for (int i = 0; good && i < plan->nrows; i++)
		good = add_row(sum, &rows[i], plan->nattrs);
	if (good)
		good = logq_summary_finish(sum);
	if (!good)
	{
		printf("Bail out! %s\n", sum ? sum->error : "no summary");
		exit(1);
	}
	return sum;
}

/*
 * Compare a random segment.
 */
static void
check_random(Plan plan, const char *name)
{
	Row		   *rows = random_rows(&plan);
	LogqSummary *sum = summarise(&plan, rows);
	const char *wrong = compare(&plan, rows, sum);

	if (!ok(wrong == NULL, "%s", name))
		printf("# %s is wrong: %d rows, %d levels, %d services, %d attrs, %d %% NULLs, trace_ids %s, bounds from %lld\n",
			   wrong, plan.nrows, plan.nlevels, plan.nservices, plan.nattrs,
			   plan.nulls, traces_name[plan.traces], (long long) plan.lower);
	logq_summary_free(sum);
	free_rows(&plan, rows);
}

/*
 * A plan like most segments.
 */
static Plan
usual_plan(void)
{
	Plan		plan;

	memset(&plan, 0, sizeof(plan));
	plan.nrows = 2000;
	plan.nlevels = 16;
	plan.nservices = 30;
	plan.nattrs = 2;
	plan.nulls = 10;
	plan.nvalues = 500;
	plan.minutes = 60;
	plan.lower = 230000 * HOUR;
	return plan;
}

/*
 * Segments of all sorts.
 */
static void
test_random(void)
{
	static const int levels[] = {1, 5, 63, 64, 65, 66, 300};
	static const int services[] = {1, 12, 300, 999, 1000, 1001, 1002, 3000};
	char		name[100];

	for (int i = 0; i < 60; i++)
	{
		Plan		plan = usual_plan();

		plan.nrows = tap_random_int(0, 3) == 0 ? tap_random_int(0, 20) :
			tap_random_int(0, 6000);
		plan.nlevels = levels[tap_random_int(0, 6)];
		plan.nservices = services[tap_random_int(0, 7)];
		plan.nattrs = tap_random_int(0, 3);
		plan.nulls = tap_random_int(0, 2) * 20;
		plan.nvalues = tap_random_int(1, 3000);
		plan.minutes = tap_random_int(1, 60);
		plan.traces = (Traces) tap_random_int(0, TRACES_KINDS - 1);
		/* also before 2000, when numbers are negative, but not before 1970 */
		plan.lower = tap_random_int(-250000, 300000) * HOUR;
		snprintf(name, sizeof(name), "random segment %d", i + 1);
		check_random(plan, name);
	}
}

/*
 * At the bounds of lists, all values are sure to occur.
 */
static void
test_bounds(void)
{
	for (int with_null = 0; with_null <= 1; with_null++)
	{
		for (int beyond = 0; beyond <= 1; beyond++)
		{
			Plan		plan = usual_plan();
			Row		   *rows;
			LogqSummary *sum;
			const char *wrong;
			int			nlevels = LOGQ_SUMMARY_MAX_LEVELS - with_null + beyond;
			int			nservices = LOGQ_SUMMARY_MAX_SERVICES - with_null + beyond;

			plan.nrows = 2500;
			plan.nulls = 0;
			rows = random_rows(&plan);
			for (int i = 0; i < plan.nrows; i++)
			{
				char		buf[32];

				free(rows[i].level.data);
				free(rows[i].service.data);
				snprintf(buf, sizeof(buf), "l%d", i % nlevels);
				rows[i].level = with_null && i == 99 ? null_text() :
					text_of(buf);
				snprintf(buf, sizeof(buf), "s%d", i % nservices);
				rows[i].service = with_null && i == 99 ? null_text() :
					text_of(buf);
			}
			sum = summarise(&plan, rows);
			wrong = compare(&plan, rows, sum);
			ok(wrong == NULL && sum->levels.complete == !beyond &&
			   sum->services.complete == !beyond,
			   "%s levels and services%s are %s",
			   beyond ? "one more than the most" : "the most",
			   with_null ? ", NULL among them," : "",
			   beyond ? "not listed" : "listed");
			if (wrong != NULL)
				printf("# %s is wrong\n", wrong);
			logq_summary_free(sum);
			free_rows(&plan, rows);
		}
	}
}

/*
 * Every sort of trace_id.
 */
static void
test_traces(void)
{
	for (int t = 0; t < TRACES_KINDS; t++)
	{
		Plan		plan = usual_plan();
		char		name[100];

		plan.traces = (Traces) t;
		snprintf(name, sizeof(name), "trace_ids: %s", traces_name[t]);
		check_random(plan, name);
	}
}

/*
 * A bound that is too long is not kept, nor is the other one.
 */
static void
test_long_texts(void)
{
	Plan		plan = usual_plan();
	Row		   *rows = random_rows(&plan);
	LogqSummary *sum;
	char	   *text = tap_alloc(200000);

	memset(text, 'z', 199999);
	text[LOGQ_SUMMARY_MAX_KEY] = '\0';
	free(rows[7].trace_id.data);
	rows[7].trace_id = text_of(text);
	sum = summarise(&plan, rows);
	ok(sum->max_trace_id != NULL &&
	   strcmp(sum->max_trace_id, text) == 0 && sum->min_trace_id != NULL,
	   "a long trace_id is kept as a bound");
	logq_summary_free(sum);

	text[LOGQ_SUMMARY_MAX_KEY] = 'z';
	text[LOGQ_SUMMARY_MAX_KEY + 1] = '\0';
	free(rows[7].trace_id.data);
	rows[7].trace_id = text_of(text);
	sum = summarise(&plan, rows);
	ok(sum->max_trace_id == NULL && sum->min_trace_id == NULL,
	   "one that is too long ends the bounds");
	ok(sum->trace_id.filter != NULL &&
	   logq_bloom_test(sum->trace_id.filter, logq_hash(text, strlen(text))),
	   "but not the filter");
	logq_summary_free(sum);

	/* texts that would take the memory of a thousand */
	text[LOGQ_SUMMARY_MAX_KEY + 1] = 'z';
	text[199999] = '\0';
	free(rows[8].level.data);
	rows[8].level = text_of(text);
	sum = summarise(&plan, rows);
	ok(!sum->levels.complete && sum->services.complete &&
	   sum->service_level_rows == NULL && !sum->level_rollup.kept &&
	   !sum->service_rollup.kept, "a very long level ends their list");
	logq_summary_free(sum);

	/* and two that only together would */
	for (int i = 0; i < 2; i++)
	{
		text[40000] = '\0';
		text[0] = (char) ('a' + i);
		free(rows[8 + i].level.data);
		rows[8 + i].level = text_of(text);
		sum = summarise(&plan, rows);
		ok(sum->levels.complete == (i == 0), "%d long level%s", i + 1,
		   i == 0 ? " does not" : "s do, too");
		logq_summary_free(sum);
	}
	free(rows[9].level.data);
	rows[9].level = null_text();

	free(text);
	text = tap_alloc(1024 * 1024 + 2);
	memset(text, 's', 1024 * 1024 + 1);
	text[1024 * 1024 + 1] = '\0';
	free(rows[8].level.data);
	rows[8].level = text_of("INFO");
	free(rows[8].service.data);
	rows[8].service = text_of(text);
	sum = summarise(&plan, rows);
	ok(sum->levels.complete && !sum->services.complete &&
	   sum->service.filter != NULL &&
	   logq_bloom_test(sum->service.filter, logq_hash(text, strlen(text))) &&
	   logq_sketch_total(sum->service.sketch) > 1000,
	   "very long services end theirs, and have a filter");
	logq_summary_free(sum);
	free(text);
	free_rows(&plan, rows);
}

/*
 * More distinct values than are kept: filters of the greatest size.
 */
static void
test_too_many(void)
{
	Plan		plan = usual_plan();
	Row		   *rows;

	plan.nrows = 20000;
	plan.nvalues = 5000;
	plan.nulls = 0;
	plan.traces = TRACES_UUID4;
	rows = random_rows(&plan);
	for (int by_memory = 0; by_memory <= 1; by_memory++)
	{
		LogqSummary *sum = logq_summary_create(plan.nattrs, plan.lower,
											   plan.lower + HOUR, true);
		bool		all = true;
		uint64_t	total = 0;

		if (by_memory)
			sum->max_memory = 100000;
		else
			sum->max_distinct = 3000;
		for (int i = 0; i < plan.nrows; i++)
			all = all && add_row(sum, &rows[i], plan.nattrs);
		/* otherwise it would not pay for so few rows */
		sum->rows *= 100;
		all = all && logq_summary_finish(sum);
		ok(all && sum->trace_id.filter != NULL &&
		   logq_bloom_valid(sum->trace_id.filter, sum->trace_id.filter_size) &&
		   logq_bloom_get_log2_blocks(sum->trace_id.filter) ==
		   LOGQ_BLOOM_MAX_LOG2,
		   "too many values%s: a filter of the greatest size",
		   by_memory ? " for the memory" : "");
		ok(sum->trace_id.nvalues <= (uint64_t) plan.nrows &&
		   sum->trace_id.nvalues > (uint64_t) plan.nrows - 100 &&
		   logq_bloom_get_nvalues(sum->trace_id.filter) ==
		   sum->trace_id.nvalues, "which knows about how many it has");
		all = true;
		for (int i = 0; i < plan.nrows; i++)
		{
			uint64_t	hash = logq_hash(rows[i].trace_id.data,
										 rows[i].trace_id.len);

			all = all && logq_bloom_test(sum->trace_id.filter, hash) &&
				logq_sketch_upper(sum->trace_id.sketch, hash) >= 1;
			total++;
		}
		ok(all && logq_sketch_total(sum->trace_id.sketch) == total,
		   "no value is missing");
		logq_summary_free(sum);
	}
	free_rows(&plan, rows);
}

/*
 * Filters and rollups that do not pay.
 */
static void
test_not_worth(void)
{
	Plan		plan = usual_plan();
	Row		   *rows;
	LogqSummary *sum;
	char		buf[4096];

	/* a hundred words of its own in each row */
	plan.nrows = 1000;
	rows = random_rows(&plan);
	for (int i = 0; i < plan.nrows; i++)
	{
		int			len = 0;

		for (int w = 0; w < 100; w++)
			len += snprintf(buf + len, sizeof(buf) - len, "w%d_%d ", i, w);
		free(rows[i].message.data);
		rows[i].message = text_of(buf);
	}
	sum = summarise(&plan, rows);
	ok(sum->words.nvalues == 100000 && sum->words.filter == NULL &&
	   sum->words.filter_size == 0,
	   "a filter of words that would be larger than the rows is not kept");
	logq_summary_free(sum);
	free_rows(&plan, rows);

	plan = usual_plan();
	rows = random_rows(&plan);
	sum = logq_summary_create(plan.nattrs, plan.lower, plan.lower + HOUR,
							  true);
	sum->max_rollup = 50;
	for (int i = 0; i < plan.nrows; i++)
		(void) add_row(sum, &rows[i], plan.nattrs);
	ok(logq_summary_finish(sum) && !sum->level_rollup.kept &&
	   !sum->service_rollup.kept && sum->level_rollup.entries == NULL,
	   "rollups that are too long are given up");
	logq_summary_free(sum);
	free_rows(&plan, rows);
}

/*
 * Words and case of messages.
 */
static void
test_messages(void)
{
	Plan		plan = usual_plan();
	Row		   *rows;

	plan.nrows = 3;
	plan.nulls = 0;
	for (int i = 0; i < 4; i++)
	{
		/* the Kelvin sign is a k in lower case */
		static const char *const texts[] = {
			"no \xc3\xa9 odd", "the \xe2\x84\xaa sign", "", "\xc4\xb0stanbul"
		};
		LogqSummary *sum;

		rows = random_rows(&plan);
		free(rows[1].message.data);
		rows[1].message = text_of(texts[i]);
		sum = summarise(&plan, rows);
		ok(sum->odd_case == logq_odd_case(texts[i], strlen(texts[i]), true),
		   "odd case of message %d", i + 1);
		logq_summary_free(sum);
		free_rows(&plan, rows);
	}
	ok(logq_odd_case("the \xe2\x84\xaa sign", 12, true), "there is odd case");
}

/*
 * Rows that are none.
 */
static void
test_bad_rows(void)
{
	LogqField	fields[LOGQ_SUMMARY_NCOLUMNS];
	LogqSummary *sum;

	for (int i = 0; i < 3; i++)
	{
		memset(fields, 0, sizeof(fields));
		for (int f = 0; f < LOGQ_SUMMARY_NCOLUMNS; f++)
			fields[f].len = -1;
		if (i != 1)
		{
			fields[LOGQ_SUMMARY_TS].data = "12345678";
			fields[LOGQ_SUMMARY_TS].len = i == 2 ? 4 : 8;
		}
		if (i != 0)
		{
			fields[LOGQ_SUMMARY_ID].data = "12345678";
			fields[LOGQ_SUMMARY_ID].len = 8;
		}
		sum = logq_summary_create(0, 0, HOUR, true);
		ok(!logq_summary_add(sum, fields) && sum->error != NULL,
		   "bad row %d is refused", i + 1);
		logq_summary_free(sum);
	}
	logq_summary_free(NULL);
	ok(true, "there may be nothing to free");
}

int
main(void)
{
	Plan		plan;

	tap_seed();
	plan = usual_plan();
	plan.nrows = 0;
	check_random(plan, "an empty segment");
	plan.nrows = 1;
	check_random(plan, "one row");
	plan = usual_plan();
	plan.nulls = 100;
	check_random(plan, "nothing but NULLs");
	test_bounds();
	test_traces();
	test_random();
	test_long_texts();
	test_too_many();
	test_not_worth();
	test_messages();
	test_bad_rows();
	return tap_done();
}
