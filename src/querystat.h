/*-------------------------------------------------------------------------
 *
 * querystat.h
 *		What all sessions' queries add up to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_QUERYSTAT_H
#define LOGQ_QUERYSTAT_H

#include "scan.h"

#include "storage/lwlock.h"

/* Why segments are not asked; the first ones are those of LogqPruneReason */
typedef enum LogqNotAsked
{
	LOGQ_NOT_ASKED_PARTITION = LOGQ_NREASONS,	/* by a qual on partition */
	LOGQ_NOT_ASKED_PARTITION_ID,	/* ids of other partitions */
	LOGQ_NOT_ASKED_CONTRADICTION,	/* no row can match at all */
	LOGQ_NNOT_ASKED
} LogqNotAsked;

/* of the text of a slow query, without the terminating zero */
#define LOGQ_SLOW_QUERY_TEXT 1024

/* A query that is over */
typedef struct LogqQueryRecord
{
	TimestampTz started_at;
	double		total_ms;
	double		first_row_ms;	/* -1: there was none */
	double		queued_ms;
	bool		failed;
	bool		partial;
	int			partitions_asked;
	int			partitions_pruned;
	int64		segments_asked;
	int64		segments_cached;
	int64		segments_pruned;	/* all that are neither of these */
	int64		not_asked[LOGQ_NNOT_ASKED]; /* of these, the known reasons */
	int64		rows;
	int64		bytes;
	int64		retried;
	int64		hedged;
	Oid			userid;
	const char *text;			/* short enough; NULL: unknown */
} LogqQueryRecord;

extern int	logq_slow_query_ms;

extern Size logq_querystat_shmem_size(void);
extern void logq_querystat_shmem_startup(LWLock *lock);
/* a query is over; never throws, allocates nothing */
extern void logq_querystat_record(const LogqQueryRecord *record);

#endif							/* LOGQ_QUERYSTAT_H */
