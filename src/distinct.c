/*-------------------------------------------------------------------------
 *
 * distinct.c
 *		The distinct values of a field of a segment, on their way to its filter
 *		and sketch.
 *
 * They are kept as 64-bit hashes in a table with open addressing, until there
 * are too many of them, or all such tables together are too large: then a
 * filter of the greatest size takes their place, and the rest of the values.
 *
 * A filter is kept only if it pays.  It does not when
 * - it is larger than MIN_FILTER bytes and than MAX_FILTER_PER_ROW bytes a
 *   row, 1 MB for 100,000 rows: that is a tenth of what such rows take, and
 *   who probes it reads more than the rows' index would have been;
 * - it is so full that more than MAX_FALSE of what is not there gets through;
 * - it is of trace_ids that all are UUIDs of version 7 of about the segment's
 *   own time: their bounds tell segments apart.
 *
 * Failure cases: without memory, functions return false and leave the reason
 * in the summary.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "sketch.h"
#include "summary.h"

/* when a filter pays */
#define MIN_FILTER (64 * 1024)
#define MAX_FILTER_PER_ROW 10
#define MAX_FALSE 0.1

/* slots that a table begins with */
#define FIRST_SLOTS 1024

/*
 * Bytes of a table with so many slots.
 */
static size_t
distinct_bytes(const LogqDistinct *set, size_t nslots)
{
	return nslots * (sizeof(uint64_t) +
					 (set->counted ? sizeof(uint32_t) : 0));
}

/*
 * Free the table.
 */
static void
distinct_free_table(LogqSummary *sum, LogqDistinct *set)
{
	sum->memory -= distinct_bytes(set, set->nslots);
	free(set->hashes);
	free(set->counts);
	set->hashes = NULL;
	set->counts = NULL;
	set->nslots = 0;
}

/*
 * Add all that the table has to the filter and the sketch, those that are
 * there.
 */
static void
distinct_pour(LogqDistinct *set)
{
	size_t		i;

	if (set->has_zero)
	{
		if (set->filter != NULL)
			logq_bloom_add(set->filter, 0);
		if (set->sketch != NULL)
			logq_sketch_add(set->sketch, 0, set->zero_count);
	}
	for (i = 0; i < set->nslots; i++)
	{
		if (set->hashes[i] == 0)
			continue;
		if (set->filter != NULL)
			logq_bloom_add(set->filter, set->hashes[i]);
		if (set->sketch != NULL)
			logq_sketch_add(set->sketch, set->hashes[i], set->counts[i]);
	}
}

/*
 * Make an empty filter and, if it is wanted, a sketch.
 */
static bool
distinct_make(LogqDistinct *set, bool with_filter, int log2_blocks,
			  uint64_t nvalues)
{
	if (with_filter)
	{
		set->filter_size = logq_bloom_size(log2_blocks);
		set->filter = malloc(set->filter_size);
		if (set->filter == NULL)
			return false;
		logq_bloom_init(set->filter, log2_blocks, nvalues);
	}
	if (set->counted)
	{
		int			log2_width = logq_sketch_log2_width(nvalues);

		set->sketch_size = logq_sketch_size(log2_width);
		set->sketch = malloc(set->sketch_size);
		if (set->sketch == NULL)
			return false;
		logq_sketch_init(set->sketch, log2_width);
	}
	return true;
}

/*
 * Make the table larger, or, when it must not be, go over to the filter.
 */
static bool
distinct_grow(LogqSummary *sum, LogqDistinct *set)
{
	LogqDistinct old = *set;
	size_t		nslots = old.nslots > 0 ? old.nslots * 2 : FIRST_SLOTS;
	size_t		mask = nslots - 1;
	size_t		i;

	if (set->nvalues >= sum->max_distinct ||
		sum->memory + distinct_bytes(set, nslots) > sum->max_memory)
	{
		if (!distinct_make(set, true, LOGQ_BLOOM_MAX_LOG2, UINT64_MAX))
			return logq_summary_fail(sum, "out of memory");
		distinct_pour(set);
		distinct_free_table(sum, set);
		set->direct = true;
		return true;
	}

	set->hashes = calloc(nslots, sizeof(uint64_t));
	if (set->counted)
		set->counts = malloc(nslots * sizeof(uint32_t));
	if (set->hashes == NULL || (set->counted && set->counts == NULL))
	{
		free(set->hashes);
		free(set->counts);
		*set = old;
		return logq_summary_fail(sum, "out of memory");
	}
	for (i = 0; i < old.nslots; i++)
	{
		uint64_t	hash = old.hashes[i];
		size_t		slot = hash & mask;

		if (hash == 0)
			continue;
		while (set->hashes[slot] != 0)
			slot = (slot + 1) & mask;
		set->hashes[slot] = hash;
		if (set->counted)
			set->counts[slot] = old.counts[i];
	}
	set->nslots = nslots;
	sum->memory += distinct_bytes(set, nslots);
	distinct_free_table(sum, &old);
	return true;
}

/*
 * Take rows of a value.
 */
bool
logq_distinct_values_add(LogqSummary *sum, LogqDistinct *set, uint64_t hash,
						 uint64_t count)
{
	size_t		slot;

	if (!set->direct &&
		(set->nvalues >= set->nslots / 4 * 3 ||
		 set->nvalues >= sum->max_distinct))
	{
		/* one that is known does not need the room, but that is rare */
		if (!distinct_grow(sum, set))
			return false;
	}

	if (set->direct)
	{
		if (!logq_bloom_test(set->filter, hash))
		{
			set->nvalues++;
			logq_bloom_add(set->filter, hash);
		}
		if (set->counted)
			logq_sketch_add(set->sketch, hash, count);
		return true;
	}

	if (hash == 0)
	{
		if (!set->has_zero)
			set->nvalues++;
		set->has_zero = true;
		set->zero_count += (uint32_t) count;
		return true;
	}
	slot = hash & (set->nslots - 1);
	while (set->hashes[slot] != hash)
	{
		if (set->hashes[slot] == 0)
		{
			set->hashes[slot] = hash;
			if (set->counted)
				set->counts[slot] = 0;
			set->nvalues++;
			break;
		}
		slot = (slot + 1) & (set->nslots - 1);
	}
	if (set->counted)
		set->counts[slot] += (uint32_t) count;
	return true;
}

/*
 * Make the filter and the sketch from what has been taken.
 */
bool
logq_distinct_values_finish(LogqSummary *sum, LogqDistinct *set, bool wanted)
{
	int			log2_blocks;
	size_t		size;
	bool		pays;

	if (!set->used)
		return true;
	log2_blocks = set->direct ? LOGQ_BLOOM_MAX_LOG2 :
		logq_bloom_log2_blocks(set->nvalues);
	size = logq_bloom_size(log2_blocks);
	pays = wanted &&
		(size <= MIN_FILTER + LOGQ_BLOOM_HEADER ||
		 size / MAX_FILTER_PER_ROW <= (uint64_t) sum->rows) &&
		logq_bloom_fpp(log2_blocks, set->nvalues) <= MAX_FALSE;

	if (!set->direct)
	{
		if (!distinct_make(set, pays, log2_blocks, set->nvalues))
			return logq_summary_fail(sum, "out of memory");
		distinct_pour(set);
		distinct_free_table(sum, set);
	}
	else if (pays)
	{
		/* now its header can tell how many values it has */
		uint8_t    *filter = malloc(size);

		if (filter == NULL)
			return logq_summary_fail(sum, "out of memory");
		logq_bloom_init(filter, log2_blocks, set->nvalues);
		memcpy(filter + LOGQ_BLOOM_HEADER, set->filter + LOGQ_BLOOM_HEADER,
			   size - LOGQ_BLOOM_HEADER);
		free(set->filter);
		set->filter = filter;
	}
	else
	{
		free(set->filter);
		set->filter = NULL;
		set->filter_size = 0;
	}
	return true;
}

/*
 * Free all of it.
 */
void
logq_distinct_values_free(LogqSummary *sum, LogqDistinct *set)
{
	distinct_free_table(sum, set);
	free(set->filter);
	free(set->sketch);
}
