/*-------------------------------------------------------------------------
 *
 * admission.h
 *		How many queries and connections there may be at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_ADMISSION_H
#define LOGQ_ADMISSION_H

#include "logq.h"

#include "storage/lwlock.h"

extern int	logq_max_concurrent_queries;
extern int	logq_max_concurrent_queries_per_role;	/* 0: any number */
extern int	logq_max_connections_per_partition; /* 0: any number */
extern int	logq_queue_timeout; /* ms */

/*
 * Those who wait look whether they may go on at least this often, in ms: a
 * limit may have been raised, which wakes nobody.
 */
#define LOGQ_ADMISSION_STEP 1000L

/* ---------- queries, in admission.c ---------- */

/*
 * Wait until somebody wakes us, or it is time to look again.  False: it is
 * past the deadline.
 */
extern bool logq_wait_for_turn(TimestampTz deadline);

/*
 * A scan begins: its session must have a place among the queries, which it
 * has already when another of its scans is under way (calls nest).  Waits for
 * up to logq.queue_timeout, then throws 53300.  Returns ms that it waited.
 */
extern double logq_admit_query(void);
/* the scan has ended; never throws */
extern void logq_leave_query(void);

/* assign hook of logq.max_concurrent_queries */
extern void logq_assign_query_limit(int newval, void *extra);
extern Size logq_admission_shmem_size(void);
/* called with AddinShmemInitLock held */
extern void logq_admission_shmem_startup(LWLock *lock);

/* ---------- connections, in connlimit.c ---------- */

/* the limit that all backends go by at the moment; 0: there is none */
extern int	logq_connection_limit(void);
/*
 * Take places for connections that a scan or a transaction is about to need,
 * all at once, so that nobody waits for one while holding another.  wanted[i]
 * is how many at serverids[i].  Waits for up to logq.queue_timeout, then
 * throws 53300 and names the partition (its server).  Returns ms that it
 * waited.  The places stay until they are given back, whether or not there are
 * connections on them.  Need not be called while there is no limit.
 */
extern double logq_reserve_connections(int n, const Oid *serverids,
									   const int *wanted);
/* one more, which the limit is not for; throws only for lack of memory */
extern void logq_force_reservation(Oid serverid);
/* give places back.  Closes idle connections on them; never throws. */
extern void logq_unreserve_connections(Oid serverid, int n);
/*
 * A connection is about to be opened.  reserved: on a place that was taken.
 * Else it takes one, that logq_uncount_connection() or
 * logq_unreserve_connections() gives back: when forced (the few connections of
 * workers and of functions, which the limit is not for) always, else only
 * without waiting.  False: there was none.
 */
extern bool logq_count_connection(Oid serverid, bool reserved, bool forced);
/* it was closed; own_place: give back the one it took.  Never throws. */
extern void logq_uncount_connection(Oid serverid, bool own_place);
/* has this backend a place at a server without a connection on it? */
extern bool logq_has_free_place(Oid serverid);
/* how many places has it there? */
extern int	logq_own_places(Oid serverid);
/*
 * May one that is idle be kept?  Always on a place that is taken; else not
 * when somebody waits, nor when idle ones could be in the way of a query.
 */
extern bool logq_may_keep_connection(Oid serverid);
/* for logq.stat_partitions */
extern void logq_connection_counts(Oid serverid, int *open, int *waiting);

/* for logq.stat_admission: sums over all partitions of all databases */
typedef struct LogqConnectionStats
{
	int			limit;
	int64		open;
	int64		reserved;		/* places without a connection */
	int64		waiting;		/* backends */
	int64		rejected;
	TimestampTz rejected_at;	/* the last one, 0: none */
} LogqConnectionStats;

extern void logq_connection_stats(LogqConnectionStats *stats);

/* assign hook of logq.max_connections_per_partition */
extern void logq_assign_connection_limit(int newval, void *extra);
extern Size logq_connlimit_shmem_size(void);
/* called with AddinShmemInitLock held */
extern void logq_connlimit_shmem_startup(LWLock *lock);

/* ---------- who takes how many, in reserve.c ---------- */

struct LogqScanState;

/* a scan node was made, which may run or not */
extern void logq_reserve_begin_scan(struct LogqScanState *state);
/* partitions were chosen: take places at them; returns ms that it waited */
extern double logq_reserve_start_run(struct LogqScanState *state);
/*
 * The transaction is about to write to a partition for the nwriters-th time
 * (as another user): take places at all partitions, the first time.
 */
extern void logq_reserve_write(Oid serverid, int nwriters);

#endif							/* LOGQ_ADMISSION_H */
