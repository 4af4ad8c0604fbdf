/*-------------------------------------------------------------------------
 *
 * summary.c
 *		What a segment holds, computed from its rows in one pass.
 *
 * Everything is exact until it would take too much memory, and is then given
 * up on its own, whatever the segment holds:
 *
 * - Levels and services are listed and counted while they are few.  Services
 *   that are too many get a filter and a sketch instead.
 * - Distinct values of a field are kept as 64-bit hashes, so that its filter
 *   can be sized by their exact number.  When they are too many, a filter of
 *   the greatest size is filled from there on; their number is then what the
 *   filter did not know yet, which is somewhat too low.
 * - Rollups count rows by minute.  They need both lists (that by level only
 *   the levels), and are given up when they would be about as long as the
 *   segment itself.
 *
 * Whether a filter pays, so that it is kept, distinct.c decides, and for
 * trace_ids this file: if they all are UUIDs of version 7 of about the
 * segment's own time, their bounds tell segments apart.
 *
 * NULL is a value of level and service, and of nothing else.  Failure cases:
 * without memory, and with rows that are none, functions return false and
 * leave the reason in "error"; the summary can then only be freed.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "sketch.h"
#include "summary.h"
#include "words.h"

/* limits of what is kept */
#define MAX_DISTINCT 4000000
#define MAX_MEMORY ((size_t) 256 * 1024 * 1024)
#define MAX_ROLLUP 1000000
#define MAX_LEVEL_BYTES (64 * 1024)
#define MAX_SERVICE_BYTES (1024 * 1024)
/* slots that a rollup begins with */
#define FIRST_SLOTS 1024

#define USECS_PER_MINUTE INT64_C(60000000)
/* from 1970-01-01 to 2000-01-01, in ms */
#define EPOCH_MS INT64_C(946684800000)

/*
 * Note why something failed.
 */
bool
logq_summary_fail(LogqSummary *sum, const char *error)
{
	sum->error = error;
	return false;
}

/* ---------- values of a column that has few ---------- */

/*
 * Make an empty dictionary.
 */
static bool
dict_init(LogqDict *dict, int max, size_t max_bytes)
{
	dict->complete = true;
	dict->max = max;
	dict->max_bytes = max_bytes;
	dict->null_index = -1;
	dict->nslots = 2;
	while (dict->nslots < 2 * max)
		dict->nslots *= 2;
	dict->texts = calloc(max, sizeof(char *));
	dict->lens = calloc(max, sizeof(int));
	dict->rows = calloc(max, sizeof(uint64_t));
	dict->order = calloc(max, sizeof(int));
	dict->slots = malloc(dict->nslots * sizeof(int16_t));
	if (dict->slots != NULL)
		memset(dict->slots, 0xff, dict->nslots * sizeof(int16_t));
	return dict->texts != NULL && dict->lens != NULL && dict->rows != NULL &&
		dict->order != NULL && dict->slots != NULL;
}

/*
 * Free what a dictionary holds; it is then not complete.
 */
static void
dict_free(LogqDict *dict)
{
	int			i;

	for (i = 0; i < dict->n; i++)
		free(dict->texts[i]);
	free(dict->texts);
	free(dict->lens);
	free(dict->rows);
	free(dict->order);
	free(dict->slots);
	memset(dict, 0, sizeof(LogqDict));
}

/* what dict_index returns instead of an index */
#define DICT_FULL (-1)
#define DICT_NO_MEMORY (-2)

/*
 * Index of a value, which is added when it is new.
 */
static int
dict_index(LogqDict *dict, const LogqField *field)
{
	int			slot = 0;
	int			i;

	if (field->len < 0)
	{
		if (dict->null_index >= 0)
			return dict->null_index;
	}
	else
	{
		slot = (int) (logq_hash(field->data, field->len) &
					  (uint64_t) (dict->nslots - 1));
		while ((i = dict->slots[slot]) >= 0)
		{
			if (dict->lens[i] == field->len &&
				memcmp(dict->texts[i], field->data, field->len) == 0)
				return i;
			slot = (slot + 1) & (dict->nslots - 1);
		}
	}

	i = dict->n;
	if (i == dict->max)
		return DICT_FULL;
	if (field->len < 0)
		dict->null_index = i;
	else
	{
		if ((size_t) field->len > dict->max_bytes - dict->bytes)
			return DICT_FULL;
		dict->texts[i] = malloc((size_t) field->len + 1);
		if (dict->texts[i] == NULL)
			return DICT_NO_MEMORY;
		memcpy(dict->texts[i], field->data, field->len);
		dict->texts[i][field->len] = '\0';
		dict->bytes += field->len;
		dict->slots[slot] = (int16_t) i;
	}
	dict->lens[i] = field->len;
	dict->n++;
	return i;
}

/*
 * Does one value come before another?  NULL comes last.
 */
static bool
dict_before(const LogqDict *dict, int a, int b)
{
	int			len;
	int			c;

	if (dict->texts[a] == NULL || dict->texts[b] == NULL)
		return dict->texts[a] != NULL;
	len = dict->lens[a] < dict->lens[b] ? dict->lens[a] : dict->lens[b];
	c = memcmp(dict->texts[a], dict->texts[b], len);
	return c < 0 || (c == 0 && dict->lens[a] < dict->lens[b]);
}

/*
 * Sort: by insertion, as there are few.
 */
static void
dict_sort(LogqDict *dict)
{
	int			i;
	int			at;

	for (i = 0; i < dict->n; i++)
	{
		for (at = i; at > 0 && dict_before(dict, i, dict->order[at - 1]); at--)
			dict->order[at] = dict->order[at - 1];
		dict->order[at] = i;
	}
}

/* ---------- rows by minute ---------- */

/*
 * Stop keeping a rollup.
 */
static void
rollup_give_up(LogqRollup *rollup)
{
	free(rollup->entries);
	memset(rollup, 0, sizeof(LogqRollup));
}

/*
 * The slot of a key, or the free one where it belongs.
 */
static LogqRollupEntry *
rollup_slot(LogqRollup *rollup, uint64_t key)
{
	/* neighbouring keys are not to lie next to each other */
	size_t		slot = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 32;

	for (;; slot++)
	{
		LogqRollupEntry *entry = &rollup->entries[slot & (rollup->nslots - 1)];

		if (entry->key == key || entry->key == 0)
			return entry;
	}
}

/*
 * Count a row.
 */
static bool
rollup_add(LogqSummary *sum, LogqRollup *rollup, uint64_t key)
{
	LogqRollupEntry *entry;

	if (rollup->n >= rollup->nslots / 4 * 3)
	{
		LogqRollup	old = *rollup;
		size_t		i;

		if (old.n >= sum->max_rollup)
		{
			rollup_give_up(rollup);
			return true;
		}
		rollup->nslots = old.nslots > 0 ? old.nslots * 2 : FIRST_SLOTS;
		rollup->entries = calloc(rollup->nslots, sizeof(LogqRollupEntry));
		if (rollup->entries == NULL)
		{
			*rollup = old;
			return logq_summary_fail(sum, "out of memory");
		}
		for (i = 0; i < old.nslots; i++)
			if (old.entries[i].key != 0)
				*rollup_slot(rollup, old.entries[i].key) = old.entries[i];
		free(old.entries);
	}
	entry = rollup_slot(rollup, key);
	if (entry->key == 0)
	{
		entry->key = key;
		rollup->n++;
	}
	entry->rows++;
	return true;
}

/*
 * Compare two entries by their keys, for qsort().
 */
static int
rollup_compare(const void *pa, const void *pb)
{
	const LogqRollupEntry *a = pa;
	const LogqRollupEntry *b = pb;

	return (a->key > b->key) - (a->key < b->key);
}

/*
 * Put the entries in order, unless they are too many to be of use.
 */
static void
rollup_finish(LogqSummary *sum, LogqRollup *rollup, uint64_t most)
{
	size_t		i;
	size_t		n = 0;

	if (!rollup->kept)
		return;
	if (rollup->n > most || rollup->n > sum->max_rollup)
	{
		rollup_give_up(rollup);
		return;
	}
	for (i = 0; i < rollup->nslots; i++)
		if (rollup->entries[i].key != 0)
			rollup->entries[n++] = rollup->entries[i];
	if (n > 0)
		qsort(rollup->entries, n, sizeof(LogqRollupEntry), rollup_compare);
}

/* ---------- trace_id ---------- */

/*
 * The time within a UUID of version 7, in ms since 1970, or -1 when it is
 * none.  Only as it is usually written, with or without hyphens: bounds tell
 * nothing of time when upper and lower case mix.
 */
static int64_t
uuid7_time(const char *text, int len)
{
	int64_t		ms = 0;
	int			digits = 0;
	int			i;

	if (len != 36 && len != 32)
		return -1;
	for (i = 0; i < len; i++)
	{
		char		c = text[i];
		int			value;

		if (len == 36 && (i == 8 || i == 13 || i == 18 || i == 23))
		{
			if (c != '-')
				return -1;
			continue;
		}
		if (c >= '0' && c <= '9')
			value = c - '0';
		else if (c >= 'a' && c <= 'f')
			value = c - 'a' + 10;
		else
			return -1;
		if (digits < 12)
			ms = ms * 16 + value;
		else if ((digits == 12 && value != 7) ||
				 (digits == 16 && (value & 12) != 8))
			return -1;
		digits++;
	}
	return ms;
}

/*
 * Does the trace_id carry a time of about the segment's own, as all before
 * it did?
 */
static bool
trace_fits_time(LogqSummary *sum, const LogqField *field)
{
	int64_t		ms = uuid7_time(field->data, field->len);
	int64_t		width = (sum->upper - sum->lower) / 1000 + 1;

	if (ms < 0 || (sum->trace_form != 0 && sum->trace_form != field->len))
		return false;
	sum->trace_form = field->len;
	ms -= EPOCH_MS;
	return ms >= sum->lower / 1000 - width && ms <= sum->upper / 1000 + width;
}

/*
 * Keep a bound of trace_id, if this one is beyond it (sign: -1 the lower, 1
 * the upper one).
 */
static bool
trace_bound(LogqSummary *sum, char **bound, int *bound_len,
			const LogqField *field, int sign)
{
	char	   *text;

	if (*bound != NULL)
	{
		int			len = field->len < *bound_len ? field->len : *bound_len;
		int			c = memcmp(field->data, *bound, len);

		if (c == 0)
			c = (field->len > *bound_len) - (field->len < *bound_len);
		if (sign < 0 ? c >= 0 : c <= 0)
			return true;
	}
	if (field->len > LOGQ_SUMMARY_MAX_KEY)
	{
		sum->trace_too_long = true;
		return true;
	}
	text = *bound ? *bound : malloc(LOGQ_SUMMARY_MAX_KEY + 1);
	if (text == NULL)
		return logq_summary_fail(sum, "out of memory");
	memcpy(text, field->data, field->len);
	text[field->len] = '\0';
	*bound = text;
	*bound_len = field->len;
	return true;
}

/*
 * Take a trace_id.
 */
static bool
add_trace_id(LogqSummary *sum, const LogqField *field)
{
	if (field->len < 0)
		return true;
	if (sum->trace_carries_time && !trace_fits_time(sum, field))
		sum->trace_carries_time = false;
	if (!sum->trace_too_long &&
		(!trace_bound(sum, &sum->min_trace_id, &sum->min_trace_len, field,
					  -1) ||
		 !trace_bound(sum, &sum->max_trace_id, &sum->max_trace_len, field,
					  1)))
		return false;
	return logq_distinct_values_add(sum, &sum->trace_id,
									logq_hash(field->data, field->len), 1);
}

/* ---------- rows ---------- */

/*
 * Take a word of a message.
 */
static void
add_word(void *arg, const char *word, size_t len)
{
	LogqSummary *sum = arg;

	if (sum->error == NULL)
		(void) logq_distinct_values_add(sum, &sum->words,
										logq_hash(word, len), 1);
}

/*
 * There are too many services to be listed: what has been counted goes over
 * to a filter and a sketch.
 */
static bool
give_up_services(LogqSummary *sum)
{
	LogqDict   *dict = &sum->services;
	int			i;

	sum->service.used = true;
	for (i = 0; i < dict->n; i++)
		if (dict->texts[i] != NULL &&
			!logq_distinct_values_add(sum, &sum->service,
									  logq_hash(dict->texts[i],
												dict->lens[i]),
									  dict->rows[i]))
			return false;
	dict_free(dict);
	free(sum->service_level_rows);
	sum->service_level_rows = NULL;
	rollup_give_up(&sum->service_rollup);
	return true;
}

/*
 * There are too many levels to be listed.
 */
static void
give_up_levels(LogqSummary *sum)
{
	dict_free(&sum->levels);
	free(sum->service_level_rows);
	sum->service_level_rows = NULL;
	rollup_give_up(&sum->level_rollup);
	rollup_give_up(&sum->service_rollup);
}

/*
 * Count the row by level and service.
 */
static bool
add_level_and_service(LogqSummary *sum, const LogqField *level,
					  const LogqField *service, int64_t ts)
{
	int			l = -1;
	int			s = -1;
	int64_t		minute;
	uint64_t	key;

	if (sum->levels.complete)
	{
		l = dict_index(&sum->levels, level);
		if (l == DICT_NO_MEMORY)
			return logq_summary_fail(sum, "out of memory");
		if (l >= 0)
			sum->levels.rows[l]++;
		else
			give_up_levels(sum);
	}
	if (sum->services.complete)
	{
		s = dict_index(&sum->services, service);
		if (s == DICT_NO_MEMORY)
			return logq_summary_fail(sum, "out of memory");
		if (s >= 0)
			sum->services.rows[s]++;
		else if (!give_up_services(sum))
			return false;
	}
	if (!sum->services.complete && service->len >= 0 &&
		!logq_distinct_values_add(sum, &sum->service,
								  logq_hash(service->data, service->len), 1))
		return false;

	if (sum->service_level_rows != NULL)
		sum->service_level_rows[s * LOGQ_SUMMARY_MAX_LEVELS + l]++;

	/* rounded down, before 2000 too */
	minute = ts / USECS_PER_MINUTE - (ts % USECS_PER_MINUTE < 0);
	key = (uint64_t) (minute + (INT64_C(1) << 40)) << 16;
	if (sum->level_rollup.kept &&
		!rollup_add(sum, &sum->level_rollup, key | l))
		return false;
	if (sum->service_rollup.kept &&
		!rollup_add(sum, &sum->service_rollup, key | s << 6 | l))
		return false;
	return true;
}

/*
 * Make an empty summary.
 */
LogqSummary *
logq_summary_create(int nattrs, int64_t lower, int64_t upper, bool utf8)
{
	LogqSummary *sum = calloc(1, sizeof(LogqSummary));
	int			i;

	if (sum == NULL)
		return NULL;
	sum->nattrs = nattrs;
	sum->lower = lower;
	sum->upper = upper;
	sum->utf8 = utf8;
	sum->max_distinct = MAX_DISTINCT;
	sum->max_memory = MAX_MEMORY;
	sum->max_rollup = MAX_ROLLUP;
	sum->trace_carries_time = true;
	sum->level_rollup.kept = true;
	sum->service_rollup.kept = true;
	sum->trace_id.used = sum->trace_id.counted = true;
	sum->service.counted = true;
	sum->words.used = true;
	for (i = 0; i < nattrs; i++)
		sum->attrs[i].used = sum->attrs[i].counted = true;

	sum->service_level_rows = calloc((size_t) LOGQ_SUMMARY_MAX_SERVICES *
									 LOGQ_SUMMARY_MAX_LEVELS,
									 sizeof(uint64_t));
	if (!dict_init(&sum->levels, LOGQ_SUMMARY_MAX_LEVELS, MAX_LEVEL_BYTES) ||
		!dict_init(&sum->services, LOGQ_SUMMARY_MAX_SERVICES,
				   MAX_SERVICE_BYTES) ||
		sum->service_level_rows == NULL)
	{
		logq_summary_free(sum);
		return NULL;
	}
	return sum;
}

/*
 * Take a row.
 */
bool
logq_summary_add(LogqSummary *sum, const LogqField *fields)
{
	const LogqField *message = &fields[LOGQ_SUMMARY_MESSAGE];
	int64_t		ts;
	int64_t		id;
	int			i;

	if (fields[LOGQ_SUMMARY_TS].len != 8 || fields[LOGQ_SUMMARY_ID].len != 8)
		return logq_summary_fail(sum, "a row has no time or no id");
	ts = logq_decode_int64(fields[LOGQ_SUMMARY_TS].data);
	id = logq_decode_int64(fields[LOGQ_SUMMARY_ID].data);
	if (sum->rows == 0 || ts < sum->min_ts)
		sum->min_ts = ts;
	if (sum->rows == 0 || ts > sum->max_ts)
		sum->max_ts = ts;
	if (sum->rows == 0 || id < sum->min_id)
		sum->min_id = id;
	if (sum->rows == 0 || id > sum->max_id)
		sum->max_id = id;
	sum->rows++;

	if (!add_level_and_service(sum, &fields[LOGQ_SUMMARY_LEVEL],
							   &fields[LOGQ_SUMMARY_SERVICE], ts) ||
		!add_trace_id(sum, &fields[LOGQ_SUMMARY_TRACE_ID]))
		return false;
	if (message->len > 0)
	{
		logq_words_of_text(message->data, message->len, add_word, sum);
		if (!sum->odd_case)
			sum->odd_case = logq_odd_case(message->data, message->len,
										  sum->utf8);
	}
	for (i = 0; i < sum->nattrs; i++)
	{
		const LogqField *value = &fields[LOGQ_SUMMARY_NCOLUMNS + i];

		if (value->len >= 0 &&
			!logq_distinct_values_add(sum, &sum->attrs[i],
									  logq_hash(value->data, value->len), 1))
			return false;
	}
	return sum->error == NULL;
}

/*
 * Bring all into the form in which it is kept.
 */
bool
logq_summary_finish(LogqSummary *sum)
{
	int			i;

	dict_sort(&sum->levels);
	dict_sort(&sum->services);
	rollup_finish(sum, &sum->level_rollup, UINT64_MAX);
	rollup_finish(sum, &sum->service_rollup, (uint64_t) sum->rows / 2);
	if (sum->trace_too_long)
	{
		free(sum->min_trace_id);
		free(sum->max_trace_id);
		sum->min_trace_id = sum->max_trace_id = NULL;
	}

	/* without any trace_id, a filter says so */
	if (!logq_distinct_values_finish(sum, &sum->trace_id,
									 !sum->trace_carries_time ||
									 sum->trace_form == 0) ||
		!logq_distinct_values_finish(sum, &sum->words, true) ||
		!logq_distinct_values_finish(sum, &sum->service, true))
		return false;
	for (i = 0; i < sum->nattrs; i++)
		if (!logq_distinct_values_finish(sum, &sum->attrs[i], true))
			return false;
	return true;
}

/*
 * Free a summary, in whatever state it is.
 */
void
logq_summary_free(LogqSummary *sum)
{
	int			i;

	if (sum == NULL)
		return;
	dict_free(&sum->levels);
	dict_free(&sum->services);
	free(sum->service_level_rows);
	rollup_give_up(&sum->level_rollup);
	rollup_give_up(&sum->service_rollup);
	logq_distinct_values_free(sum, &sum->trace_id);
	logq_distinct_values_free(sum, &sum->words);
	logq_distinct_values_free(sum, &sum->service);
	for (i = 0; i < sum->nattrs; i++)
		logq_distinct_values_free(sum, &sum->attrs[i]);
	free(sum->min_trace_id);
	free(sum->max_trace_id);
	free(sum);
}
