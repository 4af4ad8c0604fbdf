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

extern int	logq_max_concurrent_queries;
extern int	logq_max_concurrent_queries_per_role;
extern int	logq_max_connections_per_partition; /* 0: any number */
extern int	logq_queue_timeout; /* ms */

/*
 * A scan begins: its session must have a place among the queries, which it
 * has already when another of its scans is under way (calls nest).  Waits for
 * up to logq.queue_timeout, then throws 53300.  Returns ms that it waited.
 */
extern double logq_admit_query(void);
/* the scan has ended; never throws */
extern void logq_leave_query(void);

/*
 * Set connections aside for a scan or a transaction that is about to need
 * them, all at once, so that nobody waits for one while holding another.
 * wanted[i] is how many to serverids[i].  Waits for up to logq.queue_timeout,
 * then throws 53300 and names the partition (its server).  Returns ms that it
 * waited.  Nothing is done when there is no limit.
 */
extern double logq_reserve_connections(int n, const Oid *serverids,
									   const int *wanted);
/* what was not needed; never throws */
extern void logq_unreserve_connection(Oid serverid);
/*
 * A connection is about to be opened.  reserved: one that was set aside.
 * False: there may not be one more; never with reserved, or when forced (the
 * few connections of workers and of functions, which the limit is not for).
 */
extern bool logq_count_connection(Oid serverid, bool reserved, bool forced);
/* it was closed; never throws */
extern void logq_uncount_connection(Oid serverid);
/*
 * May one that is idle be kept?  Not when somebody waits, nor when idle ones
 * could take half of all places.
 */
extern bool logq_may_keep_connection(Oid serverid);
/* for logq.stat_partitions */
extern void logq_connection_counts(Oid serverid, int *open, int *waiting);

extern Size logq_admission_shmem_size(void);
/* called with AddinShmemInitLock held */
extern void logq_admission_shmem_startup(LWLock *lock);

#endif							/* LOGQ_ADMISSION_H */
