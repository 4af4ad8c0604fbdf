/*-------------------------------------------------------------------------
 *
 * merge.h
 *		The k-way merge of ordered streams, in plain C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_MERGE_H
#define LOGQ_MERGE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct LogqMergeEntry
{
	int64_t		ts;
	int64_t		id;
	int			stream;
} LogqMergeEntry;

typedef struct LogqMerge
{
	bool		descending;
	int			nentries;
	int			capacity;
	LogqMergeEntry *entries;	/* the caller's memory */
} LogqMerge;

extern void logq_merge_init(LogqMerge *merge, LogqMergeEntry *entries,
							int capacity, bool descending);
extern void logq_merge_push(LogqMerge *merge, int64_t ts, int64_t id,
							int stream);
extern void logq_merge_replace_top(LogqMerge *merge, int64_t ts, int64_t id);
extern void logq_merge_pop(LogqMerge *merge);
extern void logq_merge_raise(LogqMerge *merge, int64_t ts, int64_t id,
							 int stream);

/*
 * Does key a come strictly before key b in the merge's order?
 */
static inline bool
logq_merge_before(const LogqMerge *merge, int64_t a_ts, int64_t a_id,
				  int64_t b_ts, int64_t b_id)
{
	if (a_ts != b_ts)
		return merge->descending ? a_ts > b_ts : a_ts < b_ts;
	return merge->descending ? a_id > b_id : a_id < b_id;
}

#endif							/* LOGQ_MERGE_H */
