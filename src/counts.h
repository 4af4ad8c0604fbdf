/*-------------------------------------------------------------------------
 *
 * counts.h
 *		Exact numbers of rows of sealed segments, by level and service.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_COUNTS_H
#define LOGQ_COUNTS_H

#include "catalog.h"

/*
 * Called with each combination that has rows.  level or service is NULL when
 * it is NULL, and when it was not asked for.  Both are good for the call only.
 */
typedef void (*LogqCountCallback) (const char *level, const char *service,
								   int64 rows, void *arg);

/* What counting keeps open from one segment to the next */
typedef struct LogqCounts LogqCounts;

/*
 * Begin, in the current memory context, which must outlive the counting.  Is
 * to be ended under the same resource owner; after an error it need not be.
 */
extern LogqCounts *logq_counts_begin(void);
/*
 * Rows of a segment as of the version that part and seg say.  Never connects.
 * False: not known, and the callback was not called.  The callback may throw,
 * but it must neither bring part up to date nor use counts.
 */
extern bool logq_segment_counts(LogqCounts *counts, const LogqPartition *part,
								const LogqSegment *seg, bool by_level,
								bool by_service, LogqCountCallback callback,
								void *arg);
extern void logq_counts_end(LogqCounts *counts);

#endif							/* LOGQ_COUNTS_H */
