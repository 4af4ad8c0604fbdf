/*-------------------------------------------------------------------------
 *
 * topicrun.c
 *		The maintenance worker starts and ends the ingest workers of its
 *		database, one for each topic that is not paused.
 *
 * Workers that were started by a maintenance worker before this one are found
 * in shared memory and left alone; about their end nobody tells us, so we look
 * every second.  A worker that ends is started again after a pause that grows
 * as long as it never lasts; a change of any topic cuts the pause short, as it
 * may be what somebody does about the trouble.
 *
 * A worker that is not wanted any more finds out for itself, and finishes what
 * it is doing; it is terminated only when it does not.
 *
 * Failure cases: while the tables cannot be read, all stays as it was.  When
 * there is no background worker to be had, the topic says so in
 * logq.stat_ingest, and it is tried again.  Should two workers of one topic
 * ever run, the later one cannot register; and were both to write, the
 * partitions would let one through.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest.h"
#include "maintain.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* how often to look for topics, unless one is known to have changed */
#define LOOK_MS 1000
#define NO_EXTENSION_LOOK_MS 5000
/* when to start a worker again */
#define MIN_RESTART_MS 1000
#define MAX_RESTART_MS 30000
/* one that has run for so long was in order */
#define GOOD_RUN_MS 10000
/* how long a worker may take to see that it is not wanted */
#define UNWANTED_MS 2000

/* A topic that has a worker or should have one; in TopMemoryContext */
typedef struct TopicRun
{
	int32		number;
	bool		wanted;
	bool		interrupted;	/* was not wanted for a while */
	bool		terminated;		/* told to end */
	BackgroundWorkerHandle *handle; /* NULL: not started by us */
	TimestampTz started_at;
	TimestampTz unwanted_at;	/* since when, unless wanted */
	TimestampTz retry_at;
	int			backoff;		/* ms */
} TopicRun;

/* What is read in a transaction */
typedef struct TopicLook
{
	MemoryContext cxt;			/* for the list */
	List	   *rows;			/* of LogqTopicRow */
} TopicLook;

static List *runs = NIL;
static TimestampTz look_at = 0;
static uint64 changes_seen = 0;
static bool changed = false;	/* since we last knew the topics */

/*
 * Take in the rows of logq.topic.
 */
static void
read_topics(void *arg)
{
	TopicLook  *look = arg;
	MemoryContext old = MemoryContextSwitchTo(look->cxt);

	look->rows = logq_topic_rows();
	MemoryContextSwitchTo(old);
}

/*
 * Our record of a topic, made when it is new.
 */
static TopicRun *
find_run(int32 number)
{
	MemoryContext old;
	TopicRun   *run;
	ListCell   *lc;

	foreach(lc, runs)
		if (((TopicRun *) lfirst(lc))->number == number)
			return lfirst(lc);
	old = MemoryContextSwitchTo(TopMemoryContext);
	run = palloc0(sizeof(TopicRun));
	run->number = number;
	run->backoff = MIN_RESTART_MS;
	runs = lappend(runs, run);
	MemoryContextSwitchTo(old);
	return run;
}

/*
 * Look which topics there are.
 */
static void
look_for_topics(TimestampTz now)
{
	TopicLook	look = {CurrentMemoryContext, NIL};
	List	   *all = NIL;
	List	   *keep = NIL;
	ErrorData  *edata;
	ListCell   *lc;

	edata = logq_worker_transaction(read_topics, &look, look.cxt);
	if (edata != NULL)
	{
		/* the extension may be on its way out */
		if (!logq_worker_is_temporary(edata) &&
			edata->sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
			edata->sqlerrcode != ERRCODE_UNDEFINED_SCHEMA)
			ReThrowError(edata);
		return;
	}

	foreach(lc, runs)
		((TopicRun *) lfirst(lc))->wanted = false;
	foreach(lc, look.rows)
	{
		const LogqTopicRow *row = lfirst(lc);

		all = lappend_int(all, row->number);
		if (!row->paused)
			find_run(row->number)->wanted = true;
	}
	foreach(lc, runs)
	{
		TopicRun   *run = lfirst(lc);

		if (run->wanted)
		{
			run->unwanted_at = 0;
			if (changed)
			{
				run->backoff = MIN_RESTART_MS;
				run->retry_at = Min(run->retry_at,
									TimestampTzPlusMilliseconds(run->started_at,
																MIN_RESTART_MS));
			}
		}
		else if (run->unwanted_at == 0)
		{
			run->unwanted_at = now;
			run->interrupted = true;
		}
		/* those that are ours are ended in due time */
		if (run->wanted || run->handle != NULL)
			keep = lappend_int(keep, run->number);
	}
	logq_ingest_terminate_others(keep);
	logq_ingest_forget_others(all);
	changed = false;
}

/*
 * Start the worker of a topic.
 */
static void
start_run(TopicRun *run, TimestampTz now)
{
	static const char *const no_worker =
		"no background worker is free: raise max_worker_processes (logq needs one for its launcher, two for each database, and one for each topic)";

	run->started_at = now;
	run->interrupted = run->terminated = false;
	run->handle = logq_start_worker(LOGQ_WORKER_INGEST,
									MyBgworkerEntry->bgw_extra,
									Int32GetDatum(run->number));
	if (run->handle != NULL)
		return;
	(void) logq_ingest_note(run->number, LOGQ_INGEST_FAILED, no_worker);
	run->retry_at = TimestampTzPlusMilliseconds(now, run->backoff);
	run->backoff = Min(run->backoff * 2, MAX_RESTART_MS);
}

/*
 * See after one topic.  Returns when to look again, DT_NOEND: when woken.
 */
static TimestampTz
look_after(TopicRun *run, TimestampTz now)
{
	pid_t		pid;

	if (run->handle != NULL)
	{
		BgwHandleStatus status = GetBackgroundWorkerPid(run->handle, &pid);
		TimestampTz patience;

		if (status == BGWH_POSTMASTER_DIED)
			proc_exit(1);
		if (status != BGWH_STOPPED)
		{
			if (run->wanted || run->terminated)
				return DT_NOEND;
			patience = TimestampTzPlusMilliseconds(run->unwanted_at,
												   UNWANTED_MS);
			if (now < patience)
				return patience;
			TerminateBackgroundWorker(run->handle);
			run->terminated = true;
			return DT_NOEND;
		}
		pfree(run->handle);
		run->handle = NULL;
		if (run->interrupted ||
			TimestampDifferenceExceeds(run->started_at, now, GOOD_RUN_MS))
			run->backoff = MIN_RESTART_MS;
		if (run->wanted && !run->interrupted)
		{
			run->retry_at = TimestampTzPlusMilliseconds(now, run->backoff);
			run->backoff = Min(run->backoff * 2, MAX_RESTART_MS);
			(void) logq_ingest_note(run->number, LOGQ_INGEST_STOPPED,
									"the worker has ended; see the server's log");
		}
	}
	if (!run->wanted)
		return DT_NOEND;
	if (now < run->retry_at)
		return run->retry_at;
	if (logq_ingest_find(run->number) != 0)
	{
		/* that of a maintenance worker before us */
		run->retry_at = TimestampTzPlusMilliseconds(now, MIN_RESTART_MS);
		return run->retry_at;
	}
	start_run(run, now);
	return run->handle != NULL ? DT_NOEND : run->retry_at;
}

/*
 * Start workers that should be there and are not, end those that should not.
 */
TimestampTz
logq_topics_look_after(bool extension_there)
{
	TimestampTz now = logq_now();
	uint64		changes = logq_topics_change_count();
	TimestampTz next;
	ListCell   *lc;

	/* without shared memory no worker could register */
	if (!logq_shmem_available())
		return DT_NOEND;
	if (changes != changes_seen || now >= look_at)
	{
		/* the count was read before the tables, so no change is missed */
		changed = changed || changes != changes_seen;
		changes_seen = changes;
		look_for_topics(now);
		now = logq_now();
		look_at = TimestampTzPlusMilliseconds(now, extension_there ? LOOK_MS :
											  NO_EXTENSION_LOOK_MS);
	}

	next = look_at;
	foreach(lc, runs)
	{
		TopicRun   *run = lfirst(lc);
		TimestampTz at = look_after(run, now);

		next = Min(next, at);
		if (!run->wanted && run->handle == NULL)
		{
			runs = foreach_delete_current(runs, lc);
			pfree(run);
		}
	}
	return next;
}
