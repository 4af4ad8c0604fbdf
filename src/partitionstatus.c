/*-------------------------------------------------------------------------
 *
 * partitionstatus.c
 *		logq.partition_status(), which logq.partitions shows.
 *
 * All partitions are asked at once, as the current user, over connections of
 * the pool.
 *
 * Failure cases: one that cannot be asked, does not answer in time or answers
 * with an error has a row that says so.  Interrupts close the connections.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "health.h"

#include "commands/defrem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(logq_partition_status);

/* One partition being asked for its status */
typedef struct StatusProbe
{
	LogqPartition *part;
	LogqConn   *conn;
	uint32		events;
	TimestampTz answer_by;		/* 0: not asked yet, or it may take its time */
	char	   *host;
	char	   *failure;		/* why it has no answer */
	char	   *rows;
	char	   *segments;
	int			format;
	bool		done;
} StatusProbe;

/*
 * Is there a user mapping for us (or for everyone)?  GetUserMapping would
 * throw.
 */
static bool
has_user_mapping(Oid serverid)
{
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER,
								 ObjectIdGetDatum(GetUserId()),
								 ObjectIdGetDatum(serverid)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER,
							  ObjectIdGetDatum(InvalidOid),
							  ObjectIdGetDatum(serverid));
}

/*
 * Host (and port) of a server, for people.
 */
static char *
server_host(ForeignServer *server)
{
	char	   *host = NULL;
	char	   *port = NULL;
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, "host") == 0 ||
			(host == NULL && strcmp(def->defname, "hostaddr") == 0))
			host = defGetString(def);
		else if (strcmp(def->defname, "port") == 0)
			port = defGetString(def);
	}
	if (host == NULL)
		host = "localhost";
	return port ? psprintf("%s:%s", host, port) : host;
}

/*
 * Advance one probe without waiting.
 */
static void
advance_probe(StatusProbe *probe)
{
	PGconn	   *pg;
	PGresult   *res;

	if (probe->conn->state == LOGQ_CONN_CONNECTING)
	{
		uint32		events = probe->events;

		if (!logq_conn_poll(probe->conn, &events, &probe->failure))
		{
			probe->events = events;
			probe->done = probe->failure != NULL;
			return;
		}
	}
	pg = probe->conn->pg;
	if (probe->conn->state == LOGQ_CONN_IDLE)
	{
		if (!logq_conn_try_send(probe->conn, LOGQ_STATUS_SQL))
		{
			probe->failure = pchomp(PQerrorMessage(pg));
			probe->done = true;
			return;
		}
		if (logq_partition_timeout > 0)
			probe->answer_by =
				TimestampTzPlusMilliseconds(logq_now(),
											logq_partition_timeout);
	}
	probe->events = WL_SOCKET_READABLE;
	if (PQflush(pg) == 1)
		probe->events |= WL_SOCKET_WRITEABLE;
	(void) PQconsumeInput(pg);
	while (!PQisBusy(pg))
	{
		res = PQgetResult(pg);
		if (res == NULL)
		{
			if (PQstatus(pg) == CONNECTION_OK)
				probe->conn->state = LOGQ_CONN_IDLE;
			probe->done = true;
			return;
		}
		if (PQresultStatus(res) == PGRES_TUPLES_OK)
		{
			probe->rows = pstrdup(PQgetvalue(res, 0, 0));
			probe->segments = pstrdup(PQgetvalue(res, 0, 1));
			probe->format = atoi(PQgetvalue(res, 0, 2));
		}
		else if (PQresultStatus(res) != PGRES_COMMAND_OK)
		{
			probe->failure = logq_remote_failure(probe->conn, res,
												 NULL)->reason;
			continue;
		}
		PQclear(res);
	}
	if (probe->answer_by != 0 && logq_now() >= probe->answer_by)
	{
		/* not to be kept */
		probe->conn->state = LOGQ_CONN_BROKEN;
		probe->failure = psprintf("did not answer within %d ms",
								  logq_partition_timeout);
		probe->done = true;
	}
}

/*
 * Ask all partitions at once and wait for those that answer in time.
 */
static void
run_probes(StatusProbe *probes, int n)
{
	int			i;

	for (;;)
	{
		bool		pending = false;

		for (i = 0; i < n; i++)
		{
			TimestampTz deadline;

			if (probes[i].done)
				continue;
			advance_probe(&probes[i]);
			if (probes[i].done)
				continue;
			pending = true;
			/* one after the other is enough: all are under way */
			deadline = TimestampTzPlusMilliseconds(logq_now(), 10);
			if (!logq_conn_wait(probes[i].conn, probes[i].events, deadline) &&
				probes[i].conn->state == LOGQ_CONN_CONNECTING)
			{
				/* libpq must not be called without an event */
				uint32		events = 0;

				(void) logq_conn_poll(probes[i].conn, &events,
									  &probes[i].failure);
				probes[i].done = probes[i].failure != NULL;
				probes[i].events = 0;
			}
		}
		if (!pending)
			break;
	}
}

/*
 * logq.partition_status()
 */
Datum
logq_partition_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *parts = logq_partitions();
	int			n = list_length(parts);
	StatusProbe *probes = palloc0((n + 1) * sizeof(StatusProbe));
	int			i;

	InitMaterializedSRF(fcinfo, 0);

	PG_TRY();
	{
		for (i = 0; i < n; i++)
		{
			StatusProbe *probe = &probes[i];

			probe->part = list_nth(parts, i);
			probe->done = true;
			if (!OidIsValid(probe->part->serverid))
				probe->failure = "the server does not exist";
			else
			{
				probe->host = server_host(GetForeignServer(probe->part->serverid));
				if (!has_user_mapping(probe->part->serverid))
					probe->failure = "there is no user mapping for the current user";
				else
				{
					probe->conn = logq_conn_acquire(probe->part->serverid,
													GetUserId(), false);
					probe->done = false;
				}
			}
		}
		run_probes(probes, n);
	}
	PG_CATCH();
	{
		for (i = 0; i < n; i++)
			if (probes[i].conn != NULL)
				logq_conn_close(probes[i].conn);
		PG_RE_THROW();
	}
	PG_END_TRY();

	for (i = 0; i < n; i++)
		if (probes[i].conn != NULL)
			logq_conn_release(probes[i].conn);
	for (i = 0; i < n; i++)
	{
		StatusProbe *probe = &probes[i];
		Datum		values[7];
		bool		nulls[7];
		const char *state;

		if (probe->rows != NULL)
			state = "up";
		else if (!OidIsValid(probe->part->serverid))
			state = "no server";
		else
			state = "down";

		memset(nulls, true, sizeof(nulls));
		values[0] = CStringGetDatum(probe->part->name);
		values[2] = CStringGetTextDatum(state);
		values[5] = Int32GetDatum(probe->part->number);
		nulls[0] = nulls[2] = nulls[5] = false;
		if (probe->host != NULL)
		{
			values[1] = CStringGetTextDatum(probe->host);
			nulls[1] = false;
		}
		if (probe->rows != NULL)
		{
			values[3] = Int64GetDatum(strtoll(probe->rows, NULL, 10));
			values[4] = Int32GetDatum(atoi(probe->segments));
			nulls[3] = nulls[4] = false;
			if (probe->format != LOGQ_STORE_FORMAT)
				probe->failure =
					psprintf("its store has format %d, this version of logq knows %d%s",
							 probe->format, LOGQ_STORE_FORMAT,
							 probe->format < LOGQ_STORE_FORMAT ?
							 "; see logq.upgrade_store()" : "");
		}
		if (probe->failure != NULL)
		{
			values[6] = CStringGetTextDatum(probe->failure);
			nulls[6] = false;
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}
