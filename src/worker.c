/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The maintenance worker of a database: it keeps the copies of the
 *		partitions' catalogs true and confirmed, has segments made ahead, and
 *		starts the sealer when there is something to do for it, and a worker
 *		for each Kafka topic.
 *
 * It holds one connection to each partition, on which it listens, and asks all
 * of them for the version of their catalog: twice in logq.catalog_max_age, at
 * once when a partition notifies or a session doubts.  Nobody waits for an
 * answer; one loop and one wait set serve all.  An answer that matches the
 * copy in our tables confirms it.  Another one, or none published yet (after a
 * start of the server), makes us copy, for which the loop stands still.  The
 * partition has just answered by then, and one that falls silent for
 * ANSWER_MS is given up, so the others are not kept waiting for long.
 *
 * It acts towards a partition as the owner of the server object, with the
 * owner's user mapping and the password rules for the owner.  In its own
 * database it is logq.worker_role, or the superuser that a background worker
 * is without it, and touches nothing but logq's tables, as their owner.
 *
 * Failure cases: a partition's trouble is caught, shown in
 * logq.catalog_status(), logged once, and tried again after one second to
 * half a minute.  Any other error ends the worker, and the launcher starts it
 * again: all that has to last is on the partitions and in tables.  While the
 * extension is not there it only looks for it from time to time.  Between
 * rounds it holds neither locks nor a transaction, and it gives up on a lock
 * before somebody else becomes the victim of a deadlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest.h"
#include "watch.h"

#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* bounds of the time between two polls of a partition */
#define MIN_POLL_MS 100
#define MAX_POLL_MS 1000
/* how often to look for the extension */
#define EXTENSION_MS 5000
/* how often to look whether servers are back that did not answer */
#define PROBE_MS 500
/* and at a connection that is being made for that */
#define PROBE_STEP_MS 20

static WaitEventSet *wait_set = NULL;
static bool extension_there = false;
static bool options_changed = false;	/* of a server or user mapping */
static BackgroundWorkerHandle *sealer = NULL;
static TimestampTz sealer_at = 0;	/* not before */

/* ---------- which partitions there are ---------- */

/*
 * A server or user mapping has changed: what failed before may work now.
 */
static void
note_changed_options(Datum arg, int cacheid, uint32 hashvalue)
{
	options_changed = true;
}

static void
sync_watches(void *arg)
{
	List	   *parts = NIL;
	ListCell   *lc;

	extension_there = OidIsValid(get_extension_oid("logq", true));
	if (extension_there)
		parts = logq_partitions();

	foreach(lc, logq_maintenance.watches)
		((LogqWatch *) lfirst(lc))->wanted = false;
	foreach(lc, parts)
	{
		LogqPartition *part = lfirst(lc);
		LogqWatch  *w = NULL;
		ListCell   *lc2;

		foreach(lc2, logq_maintenance.watches)
			if (((LogqWatch *) lfirst(lc2))->part == part)
				w = lfirst(lc2);
		if (w == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(logq_maintenance.cxt);

			w = palloc0(sizeof(LogqWatch));
			w->part = part;
			logq_maintenance.watches = lappend(logq_maintenance.watches, w);
			MemoryContextSwitchTo(old);
		}
		w->wanted = true;

		/* the server may have been changed, or another one have the name */
		if (w->conn != NULL &&
			(w->conn->stale || w->serverid != part->serverid))
		{
			logq_shmem_doubt(part->number);
			logq_watch_disconnect(w, 0);
		}
	}
	foreach(lc, logq_maintenance.watches)
	{
		LogqWatch  *w = lfirst(lc);

		if (w->wanted)
			continue;
		logq_maintenance.watches =
			foreach_delete_current(logq_maintenance.watches, lc);
		logq_watch_free(w);
	}
	logq_shmem_forget_others(parts);
}

static void
look_for_extension(void *arg)
{
	extension_there = OidIsValid(get_extension_oid("logq", true));
}

/*
 * Bring our list of partitions up to date.
 */
static void
look_for_partitions(void)
{
	ErrorData  *edata;
	ListCell   *lc;

	edata = logq_in_round(sync_watches, NULL);
	if (options_changed)
	{
		options_changed = false;
		foreach(lc, logq_maintenance.watches)
			((LogqWatch *) lfirst(lc))->retry_at = 0;
	}
	if (edata == NULL)
		return;
	/* the extension may be on its way out, which gives errors of all kinds */
	if (!logq_worker_is_temporary(edata) &&
		edata->sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
		edata->sqlerrcode != ERRCODE_UNDEFINED_SCHEMA &&
		(logq_in_round(look_for_extension, NULL) != NULL || extension_there))
		ReThrowError(edata);
	extension_there = false;
}

/* ---------- servers in trouble ---------- */

/*
 * See whether they are back, so that no query has to find out.
 */
static void
probe_servers(void *arg)
{
	ListCell   *lc;

	foreach(lc, logq_partitions())
	{
		LogqPartition *part = lfirst(lc);

		if (OidIsValid(part->serverid))
			logq_probe_servers(logq_servers(part->serverid),
							   GetForeignServer(part->serverid)->owner);
	}
}

/*
 * Go on with that.  Who a connection belongs to is looked up when it is there.
 */
static void
advance_probes(void *arg)
{
	logq_advance_probes();
}

/*
 * Do one of these two.  What goes wrong is nobody's problem but the servers'.
 */
static void
do_probes(void (*function) (void *arg))
{
	ErrorData  *edata = logq_in_round(function, NULL);

	if (edata != NULL && !logq_worker_is_temporary(edata))
		ereport(LOG,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not look for servers that are back: %s",
						logq_worker_error_text(edata))));
}

/* ---------- the sealer ---------- */

/*
 * Start the sealer, unless it is at work.
 */
static void
start_sealer(TimestampTz now)
{
	pid_t		pid;

	if (now < sealer_at || logq_find_worker(LOGQ_WORKER_SEALER, NULL) != 0)
		return;
	if (sealer != NULL)
	{
		if (GetBackgroundWorkerPid(sealer, &pid) != BGWH_STOPPED)
			return;
		pfree(sealer);
		sealer = NULL;
	}

	/* until the next look at the partitions */
	logq_maintenance.sealer_wanted = false;
	sealer = logq_start_worker(LOGQ_WORKER_SEALER, MyBgworkerEntry->bgw_extra,
							   (Datum) 0);
	sealer_at = TimestampTzPlusMilliseconds(now, sealer != NULL ?
											LOGQ_MIN_CHECK_MS : LOGQ_SEAL_PAUSE_MS);
}

/* ---------- the loop ---------- */

/*
 * Wait for sockets, the latch, or a time.
 */
static void
wait_for_events(TimestampTz until)
{
	WaitEvent  *occurred;
	TimestampTz before;
	long		timeout;
	ListCell   *lc;
	int			n = list_length(logq_maintenance.watches) + 2;
	int			i;

	if (wait_set == NULL || logq_maintenance.sockets_changed)
	{
		if (wait_set != NULL)
			FreeWaitEventSet(wait_set);
		wait_set = logq_create_wait_event_set(n);
		AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch,
						  NULL);
		AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
						  NULL, NULL);
		foreach(lc, logq_maintenance.watches)
		{
			LogqWatch  *w = lfirst(lc);

			if (w->conn != NULL)
				w->position = AddWaitEventToSet(wait_set, w->events,
												logq_conn_socket(w->conn), NULL,
												w);
		}
		logq_maintenance.sockets_changed = false;
	}
	else
	{
		foreach(lc, logq_maintenance.watches)
		{
			LogqWatch  *w = lfirst(lc);

			if (w->conn != NULL)
				ModifyWaitEvent(wait_set, w->position, w->events, NULL);
		}
	}

	before = logq_now();
	timeout = TimestampDifferenceMilliseconds(before, until);
	occurred = palloc(n * sizeof(WaitEvent));
	n = WaitEventSetWait(wait_set, timeout, occurred, n, PG_WAIT_EXTENSION);
	logq_watches_put_off(logq_time_stopped(before, timeout));
	for (i = 0; i < n; i++)
	{
		if (occurred[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (occurred[i].user_data != NULL)
			((LogqWatch *) occurred[i].user_data)->ready |=
				occurred[i].events & WL_SOCKET_MASK;
	}
}

/*
 * The configuration was read again: look at everything now, or end if this
 * database is not to have a worker any more.
 */
static void
reload(void)
{
	ListCell   *lc;

	ProcessConfigFile(PGC_SIGHUP);
	if (!logq_worker_wanted(MyBgworkerEntry->bgw_extra) ||
		logq_worker_role_changed())
		proc_exit(0);
	foreach(lc, logq_maintenance.watches)
	{
		LogqWatch  *w = lfirst(lc);

		w->poll_at = w->check_at = w->retry_at = 0;
		(void) logq_shmem_set_seal_paused(w->part->number, 0, NULL);
	}
}

/*
 * The maintenance worker.
 */
void
logq_maintenance_main(Datum arg)
{
	TimestampTz sync_at = 0;
	TimestampTz probe_at = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	logq_worker_connect_database();
	if (!logq_register_worker(LOGQ_WORKER_MAINTENANCE,
							  MyBgworkerEntry->bgw_extra))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("database \"%s\" has a logq maintenance worker already",
						MyBgworkerEntry->bgw_extra)));
	logq_worker_session("logq maintenance");
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_changed_options,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_changed_options,
								  (Datum) 0);

	logq_maintenance.cxt =
		AllocSetContextCreate(TopMemoryContext, "logq maintenance",
							  ALLOCSET_DEFAULT_SIZES);
	logq_maintenance.round_cxt =
		AllocSetContextCreate(logq_maintenance.cxt, "logq maintenance round",
							  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		int			interval = MAX_POLL_MS;
		TimestampTz now;
		TimestampTz next;
		ListCell   *lc;

		MemoryContextSwitchTo(logq_maintenance.round_cxt);
		MemoryContextReset(logq_maintenance.round_cxt);
		/* nothing is under way here that somebody could want to cancel */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			reload();
			sync_at = 0;
		}

		/* without an age, nothing is ever confirmed */
		if (logq_catalog_max_age > 0)
			interval = Min(Max(logq_catalog_max_age / 2, MIN_POLL_MS),
						   MAX_POLL_MS);

		now = logq_now();
		if (TimestampTzPlusMilliseconds(now, interval / 10) >= sync_at)
		{
			look_for_partitions();
			sync_at =
				TimestampTzPlusMilliseconds(now, !extension_there ?
											EXTENSION_MS :
											logq_maintenance.watches == NIL ?
											MAX_POLL_MS : interval);
		}
		next = Min(sync_at, logq_topics_look_after(extension_there));
		foreach(lc, logq_maintenance.watches)
			next = Min(next, logq_watch_advance(lfirst(lc), interval));
		if (logq_maintenance.sealer_wanted)
			start_sealer(logq_now());
		if (now >= probe_at && logq_health_any_trouble())
		{
			do_probes(probe_servers);
			probe_at = TimestampTzPlusMilliseconds(now, PROBE_MS);
		}
		if (logq_probing())
		{
			do_probes(advance_probes);
			next = Min(next, TimestampTzPlusMilliseconds(now,
														 PROBE_STEP_MS));
		}
		wait_for_events(next);
	}
}
