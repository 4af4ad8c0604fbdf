/*-------------------------------------------------------------------------
 *
 * watch.h
 *		The maintenance worker's loop (worker.c), and what it does for one
 *		partition (watch.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_WATCH_H
#define LOGQ_WATCH_H

#include "health.h"
#include "maintain.h"

/* how soon after a change to look for work again, or to start a sealer */
#define LOGQ_MIN_CHECK_MS 1000
/* how long sealing rests on a partition where it did not get far */
#define LOGQ_SEAL_PAUSE_MS 60000

typedef enum LogqWatchPhase
{
	LOGQ_WATCH_DOWN,			/* not connected */
	LOGQ_WATCH_CONNECTING,
	LOGQ_WATCH_IDLE,
	LOGQ_WATCH_ASKED
} LogqWatchPhase;

/* A partition, as the loop sees it; in logq_maintenance.cxt */
typedef struct LogqWatch
{
	LogqPartition *part;
	bool		wanted;
	LogqWatchPhase phase;
	LogqConn   *conn;			/* NULL when down */
	Oid			serverid;		/* of the connection */
	LogqServers *servers;		/* those of the partition, then */
	uint32		events;			/* what we wait for on the socket */
	uint32		ready;			/* what it was found ready for */
	int			position;		/* in the wait set */
	bool		listening;
	TimestampTz poll_at;		/* idle: when to ask */
	TimestampTz asked_at;
	TimestampTz answer_by;		/* else it is given up */
	TimestampTz checked_at;		/* the request that asked for work began */
	TimestampTz check_at;		/* when to ask that again */
	TimestampTz copy_at;		/* not before, 0: at any time */
	TimestampTz refresh_at;		/* copy also when the version is the same */
	/* the answer */
	int64		version;		/* -1: none yet */
	bool		row_security;	/* there is, came with it */
	bool		checking;		/* asked for work, too */
	bool		need_segment;
	bool		need_sealer;
	LogqPartitionFacts facts;	/* with asked_at: told this time */
	int			told_format;	/* the one that was last logged, 0: none */
	char	   *refusal;		/* the partition reported an error */
	/* trouble */
	TimestampTz failed_at;
	TimestampTz retry_at;
	int			backoff;		/* ms */
	char	   *error;			/* why it is down, NULL: it is not */
	char	   *work_error;		/* why segments cannot be made */
} LogqWatch;

/* The worker, which there is one of in a process */
typedef struct LogqMaintenance
{
	MemoryContext cxt;			/* for the worker's life */
	MemoryContext round_cxt;	/* for one turn of the loop */
	List	   *watches;		/* of LogqWatch */
	bool		sockets_changed;	/* the wait set is to be made anew */
	bool		sealer_wanted;
} LogqMaintenance;

extern LogqMaintenance logq_maintenance;

/* call function(arg) in a transaction; the error is returned, for this turn */
extern ErrorData *logq_in_round(void (*function) (void *arg), void *arg);

/*
 * Do what can be done for a partition now; interval is the time between two
 * questions in ms.  Returns when to do the next thing.
 */
extern TimestampTz logq_watch_advance(LogqWatch *w, int interval);
/* close the connection, to be opened again at the given time */
extern void logq_watch_disconnect(LogqWatch *w, TimestampTz retry_at);
extern void logq_watch_free(LogqWatch *w);
/* give all partitions so many microseconds more */
extern void logq_watches_put_off(TimestampTz by);

#endif							/* LOGQ_WATCH_H */
