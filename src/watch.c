/*-------------------------------------------------------------------------
 *
 * watch.c
 *		What the maintenance worker does for one partition: connect, ask, take
 *		in the answer, copy the catalog, have segments made.
 *
 * The loop is in worker.c, whose head says what this is good for.  It calls
 * logq_watch_advance() when the socket is ready, when a time that this
 * function has named has come, and at any other time: then there is nothing to
 * do.  Of the phases only copying and making segments make the loop wait.
 *
 * Invariants: a watch that is down has no connection, any other one has.  An
 * answer counts for the time when it was asked for, not when it came.
 * Whenever there is another socket, or none, sockets_changed is set.
 *
 * Failure cases: see the head of worker.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "watch.h"

#include "lib/stringinfo.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* when it, or somebody, says that it has changed: not sooner than */
#define MIN_WAKE_MS 20
/* how long a partition may be silent while we wait for it */
#define ANSWER_MS 10000
/* when to connect again */
#define MIN_RETRY_MS 1000
#define MAX_RETRY_MS 30000
/* how often to look for segments to be made, dropped or sealed */
#define CHECK_MS 10000
#define FAILED_CHECK_MS 60000
/* how often to copy what changes without a new version */
#define REFRESH_MS 60000

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

LogqMaintenance logq_maintenance;

/*
 * Call a function in a transaction of its own.  NULL, or the error, which is
 * gone with this turn of the loop.
 */
ErrorData *
logq_in_round(void (*function) (void *arg), void *arg)
{
	return logq_worker_transaction(function, arg, logq_maintenance.round_cxt);
}

/* ---------- trouble ---------- */

/*
 * Close the connection, to be opened again at the given time.
 */
void
logq_watch_disconnect(LogqWatch *w, TimestampTz retry_at)
{
	if (w->conn != NULL)
		logq_conn_close(w->conn);
	w->conn = NULL;
	w->phase = LOGQ_WATCH_DOWN;
	w->listening = false;
	w->ready = 0;
	w->retry_at = retry_at;
	logq_maintenance.sockets_changed = true;
}

/*
 * A partition is in trouble.  One line in the log for each kind of it.
 */
static void
fail(LogqWatch *w, const char *text)
{
	TimestampTz now = logq_now();

	w->backoff = Min(Max(w->backoff * 2, MIN_RETRY_MS), MAX_RETRY_MS);
	w->failed_at = now;
	logq_watch_disconnect(w, TimestampTzPlusMilliseconds(now, w->backoff));
	logq_shmem_set_error(w->part->number, text);
	if (w->error == NULL || strcmp(w->error, text) != 0)
		ereport(LOG,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not confirm the catalog of partition \"%s\": %s",
						w->part->name, text)));
	if (w->error != NULL)
		pfree(w->error);
	w->error = MemoryContextStrdup(logq_maintenance.cxt, text);
}

/*
 * The primary was reached, or not: that is of use for queries.  Not when they
 * go through a pooler.
 */
static bool
tells_of_primary(const LogqWatch *w)
{
	return w->servers != NULL && !w->servers->servers[0].pooled;
}

static void
primary_failed(LogqWatch *w, LogqFault fault, const char *text)
{
	if (tells_of_primary(w))
		logq_health_failed(w->servers, 0, fault, text);
}

/*
 * libpq lost the connection.
 */
static void
fail_lost(LogqWatch *w)
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
succeed(LogqWatch *w)
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

/*
 * Its partition is gone.
 */
void
logq_watch_free(LogqWatch *w)
{
	logq_watch_disconnect(w, 0);
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

/* ---------- one partition ---------- */

static void
connect_watch(void *arg)
{
	LogqWatch  *w = arg;
	MemoryContext old;

	w->serverid = w->part->serverid;
	if (w->servers != NULL)
		pfree(w->servers);
	old = MemoryContextSwitchTo(logq_maintenance.cxt);
	w->servers = NULL;
	if (OidIsValid(w->serverid))
		w->servers = logq_servers(w->serverid);
	MemoryContextSwitchTo(old);
	w->conn = logq_worker_connect(w->part);
	w->conn->io_timeout = ANSWER_MS;
	w->phase = LOGQ_WATCH_CONNECTING;
	w->events = 0;
	(void) logq_conn_poll(w->conn, &w->events, NULL);
	logq_maintenance.sockets_changed = true;
}

static void
advance_connecting(void *arg)
{
	LogqWatch  *w = arg;

	w->events = w->ready;
	if (logq_conn_poll(w->conn, &w->events, NULL))
	{
		w->phase = LOGQ_WATCH_IDLE;
		w->events = WL_SOCKET_READABLE;
		w->poll_at = 0;
		w->check_at = 0;
	}
	/* there may be another socket now */
	logq_maintenance.sockets_changed = true;
}

/*
 * Bring the tables up to date.
 */
static void
copy_watch(void *arg)
{
	LogqWatch  *w = arg;

	PushActiveSnapshot(GetTransactionSnapshot());
	(void) logq_copy_catalog(w->part, w->conn);
	PopActiveSnapshot();
}

static void
make_ahead_watch(void *arg)
{
	LogqWatch  *w = arg;

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
ask(LogqWatch *w, TimestampTz now)
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
		TimestampTz limit = GetCurrentTimestamp() -
			(TimestampTz) logq_seal_after * USECS_PER_SEC;

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
	w->asked_at = logq_now();
	w->answer_by =
		TimestampTzPlusMilliseconds(w->asked_at, answer_ms());
	if (!PQsendQuery(w->conn->pg, sql.data))
	{
		fail_lost(w);
		return;
	}
	w->conn->state = LOGQ_CONN_BUSY;
	w->phase = LOGQ_WATCH_ASKED;
	w->events = WL_SOCKET_READABLE;
	if (PQflush(w->conn->pg) == 1)
		w->events |= WL_SOCKET_WRITEABLE;
}

/*
 * Note why the answer cannot be used, for when it is complete.
 */
static void
refuse(LogqWatch *w, const char *why)
{
	if (w->refusal == NULL)
		w->refusal = MemoryContextStrdup(logq_maintenance.cxt, why);
}

/*
 * What it says of itself.  Its clock was read at some time between the request
 * and now.
 */
static void
take_facts(LogqWatch *w, const PGresult *res)
{
	TimestampTz now = logq_now();
	LogqPartitionFacts *facts = &w->facts;
	TimestampTz its_clock;

	facts->asked_at = w->asked_at;
	facts->format = atoi(PQgetvalue(res, 0, 2));
	its_clock = strtoll(PQgetvalue(res, 0, 3), NULL, 10) -
		unix_seconds(0) * USECS_PER_SEC;
	facts->clock_error = (now - w->asked_at) / 2;
	/* that one is of the clock on the wall, which may have been set since */
	facts->clock_offset = its_clock - (GetCurrentTimestamp() -
									   facts->clock_error);
	facts->connections = atoi(PQgetvalue(res, 0, 4));
	facts->max_connections = atoi(PQgetvalue(res, 0, 5));
}

/*
 * Take one result of what was asked.
 */
static void
take_result(LogqWatch *w, const PGresult *res)
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
collect(LogqWatch *w)
{
	PGconn	   *pg = w->conn->pg;
	PGnotify   *notify;
	PGresult   *res;

	if (PQconsumeInput(pg) == 0 || PQstatus(pg) != CONNECTION_OK)
	{
		fail_lost(w);
		return false;
	}
	if (w->phase == LOGQ_WATCH_ASKED && PQflush(pg) == 0)
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
	if (w->phase != LOGQ_WATCH_ASKED || PQisBusy(pg))
		return false;
	if (PQstatus(pg) != CONNECTION_OK)
	{
		fail_lost(w);
		return false;
	}
	w->conn->state = LOGQ_CONN_IDLE;
	w->phase = LOGQ_WATCH_IDLE;
	return true;
}

/*
 * Give all partitions so much more time.
 */
void
logq_watches_put_off(TimestampTz by)
{
	ListCell   *lc;

	foreach(lc, logq_maintenance.watches)
	{
		LogqWatch  *w = lfirst(lc);

		w->answer_by += by;
		if (w->phase == LOGQ_WATCH_CONNECTING)
			w->conn->connect_deadline += by;
	}
}

/*
 * Do something for a partition that the loop has to wait for.  Others did
 * not get a hearing meanwhile, so it does not count against them.
 */
static ErrorData *
stand_still(void (*function) (void *arg), LogqWatch *w, const char *what)
{
	TimestampTz start = logq_now();
	ErrorData  *edata;

	pgstat_report_activity(STATE_RUNNING,
						   psprintf("%s partition \"%s\"", what,
									w->part->name));
	edata = logq_in_round(function, w);
	pgstat_report_activity(STATE_IDLE, NULL);

	logq_watches_put_off(logq_now() - start);
	return edata;
}

/*
 * Copy the catalog of a partition that has just told us its version.
 */
static bool
copy(LogqWatch *w, TimestampTz now)
{
	LogqConfirmation c;
	ErrorData  *edata;

	edata = stand_still(copy_watch, w, "copying the catalog of");
	if (edata != NULL)
	{
		if (logq_worker_is_temporary(edata))
			logq_watch_disconnect(w,
								  TimestampTzPlusMilliseconds(now,
															  MIN_RETRY_MS));
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
												  LOGQ_MIN_CHECK_MS));
	return true;
}

/*
 * Making segments has failed.  That is no reason not to confirm the catalog:
 * the owner of the server may be one who only reads.
 */
static void
work_failed(LogqWatch *w, const ErrorData *edata, TimestampTz now)
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
	w->work_error = MemoryContextStrdup(logq_maintenance.cxt, text);
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
is_outdated(LogqWatch *w)
{
	ErrorData  *edata = logq_in_round(look_again, NULL);

	return edata != NULL || w->conn->stale ||
		w->serverid != w->part->serverid;
}

/*
 * Let all see what the partition says of itself.  A store of another format is
 * also worth a line in the log.
 */
static void
publish_facts(LogqWatch *w)
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
handle_answer(LogqWatch *w)
{
	TimestampTz now = logq_now();
	LogqConfirmation c;

	if (is_outdated(w))
	{
		logq_shmem_doubt(w->part->number);
		logq_watch_disconnect(w,
							  TimestampTzPlusMilliseconds(now, MIN_WAKE_MS));
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
								   now, LOGQ_SEAL_PAUSE_MS))
		logq_maintenance.sealer_wanted = true;
}

/*
 * Do what can be done for a partition now.  Returns when to do the next thing,
 * should nothing happen before.
 */
TimestampTz
logq_watch_advance(LogqWatch *w, int interval)
{
	TimestampTz now = logq_now();
	ErrorData  *edata;

	if (w->phase == LOGQ_WATCH_DOWN)
	{
		/* somebody got through to it: do not wait for long */
		if (logq_shmem_doubted_since(w->part->number, w->failed_at))
			w->retry_at = Min(w->retry_at,
							  TimestampTzPlusMilliseconds(w->failed_at,
														  MIN_RETRY_MS));
		if (now < w->retry_at)
			return w->retry_at;
		edata = logq_in_round(connect_watch, w);
		if (edata != NULL)
			fail(w, logq_worker_error_text(edata));
	}
	if (w->phase == LOGQ_WATCH_CONNECTING &&
		(w->ready != 0 || now >= w->conn->connect_deadline))
	{
		bool		expired = now >= w->conn->connect_deadline;

		edata = logq_in_round(advance_connecting, w);
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
	if ((w->phase == LOGQ_WATCH_IDLE || w->phase == LOGQ_WATCH_ASKED) &&
		w->ready != 0)
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
	if (w->phase == LOGQ_WATCH_IDLE)
	{
		if (logq_shmem_doubted_since(w->part->number, w->asked_at))
			w->poll_at = Min(w->poll_at,
							 TimestampTzPlusMilliseconds(w->asked_at,
														 MIN_WAKE_MS));
		/* those that are nearly due go along, and the loop wakes up less */
		now = logq_now();
		if (TimestampTzPlusMilliseconds(now, interval / 10) >= w->poll_at)
		{
			w->poll_at = TimestampTzPlusMilliseconds(now, interval);
			ask(w, now);
		}
	}
	else if (w->phase == LOGQ_WATCH_ASKED && now >= w->answer_by)
	{
		char	   *text = psprintf("no answer within %d ms", answer_ms());

		primary_failed(w, LOGQ_FAULT_SILENT, text);
		fail(w, text);
	}

	switch (w->phase)
	{
		case LOGQ_WATCH_DOWN:
			return w->retry_at;
		case LOGQ_WATCH_CONNECTING:
			return w->conn->connect_deadline;
		case LOGQ_WATCH_IDLE:
			return w->poll_at;
		case LOGQ_WATCH_ASKED:
			break;
	}
	return w->answer_by;
}
