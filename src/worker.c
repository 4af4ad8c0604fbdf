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

#include "health.h"
#include "ingest.h"
#include "maintain.h"

#include "access/xact.h"
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
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* bounds of the time between two polls of a partition */
#define MIN_POLL_MS 100
#define MAX_POLL_MS 1000
/* the same when it, or somebody, says that it has changed */
#define MIN_WAKE_MS 20
/* how long a partition may be silent while we wait for it */
#define ANSWER_MS 10000
/* when to connect again */
#define MIN_RETRY_MS 1000
#define MAX_RETRY_MS 30000
/* how often to look for segments to be made, dropped or sealed */
#define CHECK_MS 10000
#define MIN_CHECK_MS 1000
#define FAILED_CHECK_MS 60000
/* how often to copy what changes without a new version */
#define REFRESH_MS 60000
/* how often to look for the extension */
#define EXTENSION_MS 5000
/* how long sealing rests on a partition where it did not get far */
#define SEAL_PAUSE_MS 60000

/* how often to look whether servers are back that did not answer */
#define PROBE_MS 500
/* and at a connection that is being made for that */
#define PROBE_STEP_MS 20

#define VERSION_SQL \
	"SELECT version, " LOGQ_LSN_SQL ", " LOGQ_ROW_SECURITY_SQL \
	" FROM logq_store.catalog_version"

/* what logq_shmem_set_facts is told; the owner of a store may see no more */
#define NFACTS 4
#define FACTS_SQL \
	"r.format, " \
	"(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint, " \
	"(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity" \
	" WHERE usesysid IS NOT NULL AND datid IS NOT NULL AND leader_pid IS NULL), " \
	"pg_catalog.current_setting('max_connections') "

typedef enum WatchPhase
{
	WATCH_DOWN,					/* not connected */
	WATCH_CONNECTING,
	WATCH_IDLE,
	WATCH_ASKED
} WatchPhase;

/* A partition, as the loop sees it; in worker_cxt */
typedef struct Watch
{
	LogqPartition *part;
	bool		wanted;
	WatchPhase	phase;
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
} Watch;

static MemoryContext worker_cxt;	/* for the worker's life */
static MemoryContext round_cxt; /* for one turn of the loop */
static List *watches = NIL;
static WaitEventSet *wait_set = NULL;
static bool wait_set_valid = false;
static bool extension_there = false;
static bool options_changed = false;	/* of a server or user mapping */
static BackgroundWorkerHandle *sealer = NULL;
static TimestampTz sealer_at = 0;	/* not before */
static bool sealer_wanted = false;

/* ---------- trouble ---------- */

/*
 * Close the connection, to be opened again at the given time.
 */
static void
disconnect(Watch *w, TimestampTz retry_at)
{
	if (w->conn != NULL)
		logq_conn_close(w->conn);
	w->conn = NULL;
	w->phase = WATCH_DOWN;
	w->listening = false;
	w->ready = 0;
	w->retry_at = retry_at;
	wait_set_valid = false;
}

/*
 * A partition is in trouble.  One line in the log for each kind of it.
 */
static void
fail(Watch *w, const char *text)
{
	TimestampTz now = GetCurrentTimestamp();

	w->backoff = Min(Max(w->backoff * 2, MIN_RETRY_MS), MAX_RETRY_MS);
	w->failed_at = now;
	disconnect(w, TimestampTzPlusMilliseconds(now, w->backoff));
	logq_shmem_set_error(w->part->number, text);
	if (w->error == NULL || strcmp(w->error, text) != 0)
		ereport(LOG,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not confirm the catalog of partition \"%s\": %s",
						w->part->name, text)));
	if (w->error != NULL)
		pfree(w->error);
	w->error = MemoryContextStrdup(worker_cxt, text);
}

/*
 * The primary was reached, or not: that is of use for queries.  Not when they
 * go through a pooler.
 */
static bool
tells_of_primary(const Watch *w)
{
	return w->servers != NULL && !w->servers->servers[0].pooled;
}

static void
primary_failed(Watch *w, LogqFault fault, const char *text)
{
	if (tells_of_primary(w))
		logq_health_failed(w->servers, 0, fault, text);
}

/*
 * libpq lost the connection.
 */
static void
fail_lost(Watch *w)
{
	char	   *text = pchomp(PQerrorMessage(w->conn->pg));
	char	   *p;

	for (p = text; *p != '\0'; p++)
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	primary_failed(w, LOGQ_FAULT_REFUSED, text);
	fail(w, text[0] != '\0' ? text : "connection was lost");
}

/*
 * Its copy is confirmed.
 */
static void
succeed(Watch *w)
{
	w->backoff = 0;
	logq_shmem_set_error(w->part->number, NULL);
	if (w->error == NULL)
		return;
	ereport(LOG,
			(errmsg("catalog of partition \"%s\" is confirmed again",
					w->part->name)));
	pfree(w->error);
	w->error = NULL;
}

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

	foreach(lc, watches)
		((Watch *) lfirst(lc))->wanted = false;
	foreach(lc, parts)
	{
		LogqPartition *part = lfirst(lc);
		Watch	   *w = NULL;
		ListCell   *lc2;

		foreach(lc2, watches)
			if (((Watch *) lfirst(lc2))->part == part)
				w = lfirst(lc2);
		if (w == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(worker_cxt);

			w = palloc0(sizeof(Watch));
			w->part = part;
			watches = lappend(watches, w);
			MemoryContextSwitchTo(old);
		}
		w->wanted = true;

		/* the server may have been changed, or another one have the name */
		if (w->conn != NULL &&
			(w->conn->stale || w->serverid != part->serverid))
		{
			logq_shmem_doubt(part->number);
			disconnect(w, 0);
		}
	}
	foreach(lc, watches)
	{
		Watch	   *w = lfirst(lc);

		if (w->wanted)
			continue;
		disconnect(w, 0);
		watches = foreach_delete_current(watches, lc);
		if (w->error != NULL)
			pfree(w->error);
		if (w->work_error != NULL)
			pfree(w->work_error);
		if (w->refusal != NULL)
			pfree(w->refusal);
		if (w->servers != NULL)
			pfree(w->servers);
		pfree(w);
	}
	logq_shmem_forget_others(parts);
}

/*
 * Bring our list of partitions up to date.
 */
static void
look_for_partitions(void)
{
	ErrorData  *edata;
	ListCell   *lc;

	edata = logq_worker_transaction(sync_watches, NULL, round_cxt);
	if (options_changed)
	{
		options_changed = false;
		foreach(lc, watches)
			((Watch *) lfirst(lc))->retry_at = 0;
	}
	if (edata == NULL)
		return;
	/* the extension may be on its way out */
	if (!logq_worker_is_temporary(edata) &&
		edata->sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
		edata->sqlerrcode != ERRCODE_UNDEFINED_SCHEMA)
		ReThrowError(edata);
	extension_there = false;
}

/* ---------- one partition ---------- */

static void
connect_watch(void *arg)
{
	Watch	   *w = arg;
	MemoryContext old;

	w->serverid = w->part->serverid;
	if (w->servers != NULL)
		pfree(w->servers);
	old = MemoryContextSwitchTo(worker_cxt);
	w->servers = NULL;
	if (OidIsValid(w->serverid))
		w->servers = logq_servers(w->serverid);
	MemoryContextSwitchTo(old);
	w->conn = logq_worker_connect(w->part);
	w->conn->io_timeout = ANSWER_MS;
	w->phase = WATCH_CONNECTING;
	w->events = 0;
	(void) logq_conn_poll(w->conn, &w->events, NULL);
	wait_set_valid = false;
}

static void
advance_connecting(void *arg)
{
	Watch	   *w = arg;

	w->events = w->ready;
	if (logq_conn_poll(w->conn, &w->events, NULL))
	{
		w->phase = WATCH_IDLE;
		w->events = WL_SOCKET_READABLE;
		w->poll_at = 0;
		w->check_at = 0;
	}
	wait_set_valid = false;		/* there may be another socket now */
}

/*
 * Bring the tables up to date.
 */
static void
copy_watch(void *arg)
{
	Watch	   *w = arg;

	PushActiveSnapshot(GetTransactionSnapshot());
	(void) logq_copy_catalog(w->part, w->conn);
	PopActiveSnapshot();
}

static void
make_ahead_watch(void *arg)
{
	Watch	   *w = arg;

	logq_make_ahead(w->part, w->conn);
}

/*
 * Seconds since 1970.
 */
static int64
unix_seconds(TimestampTz ts)
{
	return ts / USECS_PER_SEC +
		(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
}

/*
 * How long the answer may take: no longer than that of a query.
 */
static int
answer_ms(void)
{
	return logq_partition_timeout > 0 ?
		Min(logq_partition_timeout, ANSWER_MS) : ANSWER_MS;
}

/*
 * Ask for the version, and from time to time whether there is work.  That
 * needs no more privileges than any reader has.
 */
static void
ask(Watch *w, TimestampTz now)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, logq_conn_setup_sql(w->conn));
	if (!w->listening)
	{
		const char *name = PQparameterStatus(w->conn->pg, "application_name");

		/* unless somebody has chosen another one */
		if (name != NULL && strcmp(name, "logq") == 0)
			appendStringInfoString(&sql, "SET application_name = 'logq maintenance'; ");
		appendStringInfoString(&sql, "LISTEN logq_catalog; ");
		w->listening = true;
	}
	appendStringInfoString(&sql, VERSION_SQL);
	w->checking = now >= w->check_at;
	if (w->checking)
	{
		TimestampTz limit = now - (TimestampTz) logq_seal_after * USECS_PER_SEC;

		/* one that was opened again rests for a while, too */
		appendStringInfo(&sql, "; SELECT "
						 "NOT EXISTS (SELECT FROM logq_store.segment"
						 " WHERE lower <= pg_catalog.now() AND upper > pg_catalog.now()) OR"
						 " NOT EXISTS (SELECT FROM logq_store.segment"
						 " WHERE lower <= " LOGQ_AHEAD_SQL " AND"
						 " upper > " LOGQ_AHEAD_SQL "), "
						 "EXISTS (SELECT FROM logq_store.segment"
						 " WHERE upper <= pg_catalog.now() - r.retention) OR"
						 " EXISTS (SELECT FROM logq_store.segment WHERE state = 'open' AND"
						 " greatest(upper, pg_catalog.to_timestamp(version / 1000000)) <="
						 " pg_catalog.to_timestamp(" INT64_FORMAT ")), "
						 FACTS_SQL
						 "FROM logq_store.store r",
						 unix_seconds(limit));
	}

	w->version = -1;
	w->facts.asked_at = 0;
	if (w->refusal != NULL)
		pfree(w->refusal);
	w->refusal = NULL;
	w->asked_at = GetCurrentTimestamp();
	w->answer_by =
		TimestampTzPlusMilliseconds(w->asked_at, answer_ms());
	if (!PQsendQuery(w->conn->pg, sql.data))
	{
		fail_lost(w);
		return;
	}
	w->conn->state = LOGQ_CONN_BUSY;
	w->phase = WATCH_ASKED;
	w->events = WL_SOCKET_READABLE;
	if (PQflush(w->conn->pg) == 1)
		w->events |= WL_SOCKET_WRITEABLE;
}

/*
 * Note why the answer cannot be used, for when it is complete.
 */
static void
refuse(Watch *w, const char *why)
{
	if (w->refusal == NULL)
		w->refusal = MemoryContextStrdup(worker_cxt, why);
}

/*
 * What it says of itself.  Its clock was read at some time between the request
 * and now.
 */
static void
take_facts(Watch *w, const PGresult *res)
{
	TimestampTz now = GetCurrentTimestamp();
	LogqPartitionFacts *facts = &w->facts;
	TimestampTz its_clock;

	facts->asked_at = w->asked_at;
	facts->format = atoi(PQgetvalue(res, 0, 2));
	its_clock = strtoll(PQgetvalue(res, 0, 3), NULL, 10) -
		unix_seconds(0) * USECS_PER_SEC;
	facts->clock_error = (now - w->asked_at) / 2;
	facts->clock_offset = its_clock - w->asked_at - facts->clock_error;
	facts->connections = atoi(PQgetvalue(res, 0, 4));
	facts->max_connections = atoi(PQgetvalue(res, 0, 5));
}

/*
 * Take one result of what was asked.
 */
static void
take_result(Watch *w, const PGresult *res)
{
	switch (PQresultStatus(res))
	{
		case PGRES_COMMAND_OK:
			break;
		case PGRES_TUPLES_OK:
			if (PQntuples(res) != 1 ||
				PQnfields(res) != (w->version < 0 ? 3 : 2 + NFACTS))
				refuse(w, "the log store is damaged");
			else if (w->version < 0)
			{
				w->version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
				w->row_security = PQgetvalue(res, 0, 2)[0] == 't';
				if (!PQgetisnull(res, 0, 1) && w->servers != NULL)
					logq_health_wal(w->servers,
									logq_parse_lsn(PQgetvalue(res, 0, 1)),
									w->asked_at);
			}
			else
			{
				w->need_segment = PQgetvalue(res, 0, 0)[0] == 't';
				w->need_sealer = PQgetvalue(res, 0, 1)[0] == 't';
				take_facts(w, res);
			}
			break;
		default:
			{
				const char *text =
				PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

				refuse(w, text ? text : pchomp(PQresultErrorMessage(res)));
			}
			break;
	}
}

/*
 * Read what has come.  True: the answer to what was asked is there.
 */
static bool
collect(Watch *w)
{
	PGconn	   *pg = w->conn->pg;
	PGnotify   *notify;
	PGresult   *res;

	if (PQconsumeInput(pg) == 0 || PQstatus(pg) != CONNECTION_OK)
	{
		fail_lost(w);
		return false;
	}
	if (w->phase == WATCH_ASKED && PQflush(pg) == 0)
		w->events = WL_SOCKET_READABLE;
	while ((notify = PQnotifies(pg)) != NULL)
	{
		PQfreemem(notify);
		w->poll_at = TimestampTzPlusMilliseconds(w->asked_at, MIN_WAKE_MS);
	}
	while (!PQisBusy(pg))
	{
		res = PQgetResult(pg);
		if (res == NULL)
			break;
		take_result(w, res);
		PQclear(res);
	}
	if (w->phase != WATCH_ASKED || PQisBusy(pg))
		return false;
	if (PQstatus(pg) != CONNECTION_OK)
	{
		fail_lost(w);
		return false;
	}
	w->conn->state = LOGQ_CONN_IDLE;
	w->phase = WATCH_IDLE;
	return true;
}

/*
 * Give all partitions so much more time.
 */
static void
put_off_deadlines(TimestampTz by)
{
	ListCell   *lc;

	foreach(lc, watches)
	{
		Watch	   *w = lfirst(lc);

		w->answer_by += by;
		if (w->phase == WATCH_CONNECTING)
			w->conn->connect_deadline += by;
	}
}

/*
 * Do something for a partition that the loop has to wait for.  Others did
 * not get a hearing meanwhile, so it does not count against them.
 */
static ErrorData *
stand_still(void (*function) (void *arg), Watch *w, const char *what)
{
	TimestampTz start = GetCurrentTimestamp();
	ErrorData  *edata;

	pgstat_report_activity(STATE_RUNNING,
						   psprintf("%s partition \"%s\"", what,
									w->part->name));
	edata = logq_worker_transaction(function, w, round_cxt);
	pgstat_report_activity(STATE_IDLE, NULL);

	put_off_deadlines(GetCurrentTimestamp() - start);
	return edata;
}

/*
 * Copy the catalog of a partition that has just told us its version.
 */
static bool
copy(Watch *w, TimestampTz now)
{
	LogqConfirmation c;
	ErrorData  *edata;

	edata = stand_still(copy_watch, w, "copying the catalog of");
	if (edata != NULL)
	{
		if (logq_worker_is_temporary(edata))
			disconnect(w, TimestampTzPlusMilliseconds(now, MIN_RETRY_MS));
		else
			fail(w, logq_worker_error_text(edata));
		return false;
	}
	/* no room in shared memory: copying all the time would not help */
	w->refresh_at = logq_copy_unfinished(w->part) ? 0 :
		TimestampTzPlusMilliseconds(now, REFRESH_MS);
	if (!logq_shmem_get(w->part->number, &c))
		w->copy_at = TimestampTzPlusMilliseconds(now, MAX_RETRY_MS);
	/* whatever has changed, there may be work */
	w->check_at = Min(w->check_at,
					  TimestampTzPlusMilliseconds(w->checked_at,
												  MIN_CHECK_MS));
	return true;
}

/*
 * Making segments has failed.  That is no reason not to confirm the catalog:
 * the owner of the server may be one who only reads.
 */
static void
work_failed(Watch *w, const ErrorData *edata, TimestampTz now)
{
	char	   *text = logq_worker_error_text(edata);

	if (w->conn->state != LOGQ_CONN_IDLE ||
		PQtransactionStatus(w->conn->pg) != PQTRANS_IDLE)
	{
		fail(w, text);
		return;
	}
	if (w->work_error == NULL || strcmp(w->work_error, text) != 0)
		ereport(LOG,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not make segments ahead on partition \"%s\": %s",
						w->part->name, text),
				 errhint("The role in the user mapping of the owner of the server must own the store.")));
	if (w->work_error != NULL)
		pfree(w->work_error);
	w->work_error = MemoryContextStrdup(worker_cxt, text);
	logq_shmem_set_ahead_error(w->part->number, text);
	w->check_at = TimestampTzPlusMilliseconds(now, FAILED_CHECK_MS);
}

/*
 * Take in what others have changed: a transaction begins with that.
 */
static void
look_again(void *arg)
{
	(void) logq_partitions();
}

/*
 * Does the connection lead elsewhere than the partition's server does by now?
 * Then its answers are of no worth.
 */
static bool
is_outdated(Watch *w)
{
	ErrorData  *edata = logq_worker_transaction(look_again, NULL, round_cxt);

	return edata != NULL || w->conn->stale ||
		w->serverid != w->part->serverid;
}

/*
 * Let all see what the partition says of itself.  A store of another format is
 * also worth a line in the log.
 */
static void
publish_facts(Watch *w)
{
	int			format = w->facts.format;

	if (w->facts.asked_at == 0)
		return;
	logq_shmem_set_facts(w->part->number, &w->facts);
	if (format != LOGQ_STORE_FORMAT && format != w->told_format)
		ereport(LOG,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("store of partition \"%s\" has format %d, this version of logq knows %d",
						w->part->name, format, LOGQ_STORE_FORMAT),
				 errhint("See logq.health().")));
	w->told_format = format;
}

/*
 * The partition has answered.
 */
static void
handle_answer(Watch *w)
{
	TimestampTz now = GetCurrentTimestamp();
	LogqConfirmation c;

	if (is_outdated(w))
	{
		logq_shmem_doubt(w->part->number);
		disconnect(w, TimestampTzPlusMilliseconds(now, MIN_WAKE_MS));
		return;
	}
	if (w->refusal != NULL)
	{
		fail(w, w->refusal);
		return;
	}
	if (w->checking)
	{
		publish_facts(w);
		w->checked_at = w->asked_at;
		w->check_at = TimestampTzPlusMilliseconds(w->asked_at, CHECK_MS);
	}

	logq_shmem_row_security(w->part->number, w->row_security, w->asked_at);
	if (logq_shmem_get(w->part->number, &c) && c.version == w->version)
	{
		logq_shmem_confirm(w->part->number, w->version, w->asked_at);
		if (now >= w->refresh_at && !copy(w, now))
			return;
	}
	else if (now >= w->copy_at && !copy(w, now))
		return;
	succeed(w);
	if (tells_of_primary(w))
		logq_health_answered(w->servers, 0, -1, -1);

	if (w->checking)
	{
		ErrorData  *edata = NULL;

		if (w->need_segment)
			edata = stand_still(make_ahead_watch, w, "making segments on");
		if (edata != NULL)
			work_failed(w, edata, now);
		else
		{
			if (w->work_error != NULL)
				pfree(w->work_error);
			w->work_error = NULL;
			/* perhaps of a worker before us */
			logq_shmem_set_ahead_error(w->part->number, NULL);
		}
	}
	/* one that runs does that, too */
	if (w->checking && w->need_sealer &&
		logq_find_worker(LOGQ_WORKER_SEALER, NULL) == 0 &&
		TimestampDifferenceExceeds(logq_shmem_seal_paused_at(w->part->number),
								   now, SEAL_PAUSE_MS))
		sealer_wanted = true;
}

/*
 * Do what can be done for a partition now.  Returns when to do the next thing,
 * should nothing happen before.
 */
static TimestampTz
advance(Watch *w, int interval)
{
	TimestampTz now = GetCurrentTimestamp();
	ErrorData  *edata;

	if (w->phase == WATCH_DOWN)
	{
		/* somebody got through to it: do not wait for long */
		if (logq_shmem_doubted_since(w->part->number, w->failed_at))
			w->retry_at = Min(w->retry_at,
							  TimestampTzPlusMilliseconds(w->failed_at,
														  MIN_RETRY_MS));
		if (now < w->retry_at)
			return w->retry_at;
		edata = logq_worker_transaction(connect_watch, w, round_cxt);
		if (edata != NULL)
			fail(w, logq_worker_error_text(edata));
	}
	if (w->phase == WATCH_CONNECTING &&
		(w->ready != 0 || now >= w->conn->connect_deadline))
	{
		bool		expired = now >= w->conn->connect_deadline;

		edata = logq_worker_transaction(advance_connecting, w, round_cxt);
		if (edata != NULL)
		{
			primary_failed(w, expired ? LOGQ_FAULT_SILENT :
						   logq_conn_was_heard(w->conn) ?
						   LOGQ_FAULT_STALLED : LOGQ_FAULT_REFUSED,
						   logq_worker_error_text(edata));
			fail(w, logq_worker_error_text(edata));
		}
		w->ready = 0;
	}
	if ((w->phase == WATCH_IDLE || w->phase == WATCH_ASKED) && w->ready != 0)
	{
		w->ready = 0;
		if (collect(w))
		{
			w->poll_at = Max(w->poll_at,
							 TimestampTzPlusMilliseconds(w->asked_at,
														 MIN_WAKE_MS));
			handle_answer(w);
		}
	}
	if (w->phase == WATCH_IDLE)
	{
		if (logq_shmem_doubted_since(w->part->number, w->asked_at))
			w->poll_at = Min(w->poll_at,
							 TimestampTzPlusMilliseconds(w->asked_at,
														 MIN_WAKE_MS));
		/* those that are nearly due go along, and the loop wakes up less */
		now = GetCurrentTimestamp();
		if (TimestampTzPlusMilliseconds(now, interval / 10) >= w->poll_at)
		{
			w->poll_at = TimestampTzPlusMilliseconds(now, interval);
			ask(w, now);
		}
	}
	else if (w->phase == WATCH_ASKED && now >= w->answer_by)
	{
		char	   *text = psprintf("no answer within %d ms", answer_ms());

		primary_failed(w, LOGQ_FAULT_SILENT, text);
		fail(w, text);
	}

	switch (w->phase)
	{
		case WATCH_DOWN:
			return w->retry_at;
		case WATCH_CONNECTING:
			return w->conn->connect_deadline;
		case WATCH_IDLE:
			return w->poll_at;
		case WATCH_ASKED:
			break;
	}
	return w->answer_by;
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
	ErrorData  *edata = logq_worker_transaction(function, NULL, round_cxt);

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

	sealer_wanted = false;		/* until the next look at the partitions */
	sealer = logq_start_worker(LOGQ_WORKER_SEALER, MyBgworkerEntry->bgw_extra,
							   (Datum) 0);
	sealer_at = TimestampTzPlusMilliseconds(now, sealer != NULL ?
											MIN_CHECK_MS : SEAL_PAUSE_MS);
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
	int			n = list_length(watches) + 2;
	int			i;

	if (!wait_set_valid)
	{
		if (wait_set != NULL)
			FreeWaitEventSet(wait_set);
		wait_set = logq_create_wait_event_set(n);
		AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch,
						  NULL);
		AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
						  NULL, NULL);
		foreach(lc, watches)
		{
			Watch	   *w = lfirst(lc);

			if (w->conn != NULL)
				w->position = AddWaitEventToSet(wait_set, w->events,
												logq_conn_socket(w->conn), NULL,
												w);
		}
		wait_set_valid = true;
	}
	else
	{
		foreach(lc, watches)
		{
			Watch	   *w = lfirst(lc);

			if (w->conn != NULL)
				ModifyWaitEvent(wait_set, w->position, w->events, NULL);
		}
	}

	before = GetCurrentTimestamp();
	timeout = TimestampDifferenceMilliseconds(before, until);
	occurred = palloc(n * sizeof(WaitEvent));
	n = WaitEventSetWait(wait_set, timeout, occurred, n, PG_WAIT_EXTENSION);
	put_off_deadlines(logq_time_stopped(before, timeout));
	for (i = 0; i < n; i++)
	{
		if (occurred[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (occurred[i].user_data != NULL)
			((Watch *) occurred[i].user_data)->ready |=
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
	foreach(lc, watches)
	{
		Watch	   *w = lfirst(lc);

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

	worker_cxt = AllocSetContextCreate(TopMemoryContext, "logq maintenance",
									   ALLOCSET_DEFAULT_SIZES);
	round_cxt = AllocSetContextCreate(worker_cxt, "logq maintenance round",
									  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		int			interval = MAX_POLL_MS;
		TimestampTz now;
		TimestampTz next;
		ListCell   *lc;

		MemoryContextSwitchTo(round_cxt);
		MemoryContextReset(round_cxt);
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

		now = GetCurrentTimestamp();
		if (TimestampTzPlusMilliseconds(now, interval / 10) >= sync_at)
		{
			look_for_partitions();
			sync_at = TimestampTzPlusMilliseconds(now, !extension_there ?
												  EXTENSION_MS :
												  watches == NIL ?
												  MAX_POLL_MS : interval);
		}
		next = Min(sync_at, logq_topics_look_after(extension_there));
		foreach(lc, watches)
			next = Min(next, advance(lfirst(lc), interval));
		if (sealer_wanted)
			start_sealer(GetCurrentTimestamp());
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
