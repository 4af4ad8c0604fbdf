/*-------------------------------------------------------------------------
 *
 * sealer.c
 *		The sealer: drops segments that retention has passed, seals those
 *		that are due, and ends.
 *
 * The maintenance worker starts it when there is something to do, one at a
 * time for a database, as both can take long on a partition and nothing else
 * shall wait for it.  It acts as the owner of the server, like that worker,
 * over connections of its own.  The partitions take turns, one segment each.
 *
 * Failure cases: an error on one partition, or a segment that cannot be had,
 * ends the work there for now; it rests for a minute (shmem.c keeps the time)
 * while the others go on.  An error is logged when it is a new one.  Should
 * the sealer be killed, its transactions on the partitions go with it, and
 * the next one finds the same segments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "maintain.h"

#include "commands/extension.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* building an index is a long silence, but not one without an end */
#define SILENCE_MS (30 * 60 * 1000)
#define PAUSE_MS 60000
/* look again at what there is to do, while doing it */
#define LIST_MS 60000

/* What there is to do on one partition; in sealer_cxt */
typedef struct SealTask
{
	LogqPartition *part;
	LogqConn   *conn;
	List	   *segments;		/* names */
	TimestampTz listed_at;
	bool		stuck;			/* a lock could not be had */
	bool		over;
} SealTask;

static MemoryContext sealer_cxt;
static List *tasks = NIL;

static void
find_tasks(void *arg)
{
	TimestampTz now = logq_now();
	ListCell   *lc;

	if (!OidIsValid(get_extension_oid("logq", true)))
		return;
	foreach(lc, logq_partitions())
	{
		LogqPartition *part = lfirst(lc);
		MemoryContext old = MemoryContextSwitchTo(sealer_cxt);
		SealTask   *task = palloc0(sizeof(SealTask));

		task->part = part;
		/* leave those alone that are resting */
		if (TimestampDifferenceExceeds(logq_shmem_seal_paused_at(part->number),
									   now, PAUSE_MS))
			tasks = lappend(tasks, task);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Drop what is to be dropped, and list what is to be sealed.
 */
static void
list_segments(SealTask *task, TimestampTz now)
{
	MemoryContext old;
	List	   *names;
	ListCell   *lc;

	if (logq_apply_retention(task->part, task->conn) < 0)
		task->stuck = true;
	names = logq_segments_to_seal(task->part, task->conn, NULL);
	list_free_deep(task->segments);
	task->segments = NIL;
	old = MemoryContextSwitchTo(sealer_cxt);
	foreach(lc, names)
		task->segments = lappend(task->segments, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
	task->listed_at = now;
}

/*
 * One step: connect and list, or seal one segment.
 */
static void
seal_step(void *arg)
{
	SealTask   *task = arg;
	TimestampTz now = logq_now();
	char	   *name;
	int64		rows;

	if (task->conn == NULL)
	{
		task->conn = logq_worker_connect(task->part);
		logq_conn_wait_ready(task->conn);
		task->conn->io_timeout = SILENCE_MS;
	}
	if (TimestampDifferenceExceeds(task->listed_at, now, LIST_MS))
		list_segments(task, now);
	if (task->segments == NIL)
	{
		task->over = true;
		return;
	}

	name = linitial(task->segments);
	task->segments = list_delete_first(task->segments);
	pgstat_report_activity(STATE_RUNNING,
						   psprintf("sealing segment \"%s\" of partition \"%s\"",
									name, task->part->name));
	switch (logq_seal_segment(task->part, task->conn, name, &rows))
	{
		case LOGQ_SEAL_DONE:
			ereport(DEBUG1,
					(errmsg_internal("sealed segment \"%s\" of partition \"%s\", " INT64_FORMAT " rows",
									 name, task->part->name, rows)));
			break;
		case LOGQ_SEAL_BUSY:
		case LOGQ_SEAL_WRITTEN:
			task->stuck = true;
			break;
		case LOGQ_SEAL_GONE:
			break;
	}
	pfree(name);
}

/*
 * There is nothing more to do on a partition, or it has failed.
 */
static void
end_task(SealTask *task, const ErrorData *edata)
{
	TimestampTz paused_at = 0;

	if (task->conn != NULL)
		logq_conn_close(task->conn);
	task->conn = NULL;
	task->over = true;
	if (edata != NULL)
	{
		const char *text = logq_worker_error_text(edata);

		paused_at = logq_now();
		if (logq_shmem_set_seal_paused(task->part->number, paused_at, text))
			ereport(LOG,
					(errcode(edata->sqlerrcode),
					 errmsg("could not drop or seal segments of partition \"%s\": %s",
							task->part->name, text),
					 edata->hint ? errhint("%s", edata->hint) : 0,
					 edata->context ? errcontext("%s", edata->context) : 0));
		return;
	}
	if (task->stuck)
		paused_at = logq_now();
	(void) logq_shmem_set_seal_paused(task->part->number, paused_at, NULL);
}

/*
 * The sealer.
 */
void
logq_sealer_main(Datum arg)
{
	MemoryContext step_cxt;
	ErrorData  *edata;
	ListCell   *lc;
	bool		busy = true;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	logq_worker_connect_database();
	if (!logq_register_worker(LOGQ_WORKER_SEALER, ""))
		proc_exit(0);
	logq_worker_session("logq sealer");

	sealer_cxt = AllocSetContextCreate(TopMemoryContext, "logq sealer",
									   ALLOCSET_DEFAULT_SIZES);
	step_cxt = AllocSetContextCreate(sealer_cxt, "logq sealer step",
									 ALLOCSET_DEFAULT_SIZES);
	edata = logq_worker_transaction(find_tasks, NULL, step_cxt);
	if (edata != NULL)
		ReThrowError(edata);

	while (busy)
	{
		busy = false;
		foreach(lc, tasks)
		{
			SealTask   *task = lfirst(lc);

			MemoryContextReset(step_cxt);
			CHECK_FOR_INTERRUPTS();
			if (ConfigReloadPending)
			{
				ConfigReloadPending = false;
				ProcessConfigFile(PGC_SIGHUP);
			}
			if (task->over)
				continue;
			edata = logq_worker_transaction(seal_step, task, step_cxt);
			if (edata != NULL || task->over)
				end_task(task, edata);
			else
				busy = true;
		}
	}
	proc_exit(0);
}
