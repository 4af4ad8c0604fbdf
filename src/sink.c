/*-------------------------------------------------------------------------
 *
 * sink.c
 *		Writes a batch's share to one partition.
 *
 * A share is one transaction, sent as one simple query:
 *
 *		BEGIN; SELECT move_offsets(...); COPY log; COPY dead_letter;
 *		SET CONSTRAINTS ALL IMMEDIATE; SELECT version; COMMIT
 *
 * of which a COPY is left out when there is nothing for it.  The offsets are
 * moved first: whoever has been overtaken by another consumer fails there, or
 * waits on the row lock and fails then.  All sinks are written at the same
 * time; nothing here waits but logq_sink_make_segments().
 *
 * Failure cases: after any failure the connection is closed, which ends the
 * transaction over there.  If it was lost while the COMMIT was under way,
 * nobody knows how that ended until the offsets are read again
 * (logq_sink_was_committed); the share is kept for that long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingestrun.h"

#include <poll.h>

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* bytes that go to libpq at a time */
#define SEND_CHUNK (64 * 1024)
/* how long a partition may take without anything happening */
#define ANSWER_MS 60000
/* how long a lock may be waited for, to make a segment */
#define SEGMENT_LOCK_SQL "SET LOCAL lock_timeout = '2s'; "

static const char copy_header[] = {
	'P', 'G', 'C', 'O', 'P', 'Y', '\n', '\377', '\r', '\n', '\0',
	0, 0, 0, 0,					/* flags */
	0, 0, 0, 0					/* length of an extension */
};
static const char copy_trailer[2] = {'\377', '\377'};

/*
 * Append an array of int8 as an array literal with its type.
 */
void
logq_append_int8_array(StringInfo buf, int n, const int64 *values)
{
	int			i;

	appendStringInfoString(buf, "'{");
	for (i = 0; i < n; i++)
		appendStringInfo(buf, "%s" INT64_FORMAT, i > 0 ? "," : "", values[i]);
	appendStringInfoString(buf, "}'::pg_catalog.int8[]");
}

/*
 * Close the connection.  The share is kept.
 */
void
logq_sink_close(LogqSink *sink)
{
	if (sink->conn != NULL)
		logq_conn_close(sink->conn);
	sink->conn = NULL;
	sink->phase = SINK_DOWN;
	sink->copying = NULL;
}

/*
 * The sink has failed; the first reason counts.  Takes what the partition said,
 * or what libpq says of the connection.
 */
static void
note_failure(LogqSink *sink, const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	char	   *p;

	if (sink->error != NULL)
		return;
	sink->failure = SINK_FAILED_LOST;
	if (state != NULL)
	{
		if (strcmp(state, "LQ001") == 0)
			sink->failure = SINK_FAILED_FENCED;
		/* check_violation without a constraint: no segment takes it */
		else if (strcmp(state, "23514") == 0 &&
				 PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME) == NULL)
			sink->failure = SINK_FAILED_SEGMENT;
		/* data exception, integrity, program limit, raised by a trigger */
		else if (strncmp(state, "22", 2) == 0 ||
				 strncmp(state, "23", 2) == 0 ||
				 strncmp(state, "54", 2) == 0 ||
				 strncmp(state, "P0", 2) == 0)
			sink->failure = SINK_FAILED_DATA;
	}
	if (text == NULL)
		text = pchomp(res != NULL ? PQresultErrorMessage(res) :
					  PQerrorMessage(sink->conn->pg));
	if (text[0] == '\0')
		text = "connection was lost";
	if (detail != NULL)
		text = psprintf("%s: %s", text, detail);
	sink->error = MemoryContextStrdup(sink->cxt,
									  psprintf("partition \"%s\": %s",
											   sink->part->name, text));
	for (p = sink->error; *p != '\0'; p++)
		if (*p == '\n' || *p == '\t')
			*p = ' ';
}

/* ---------- segments ---------- */

/*
 * Make the segments that are missing, each in a transaction of its own.
 */
void
logq_sink_make_segments(LogqSink *sink)
{
	LogqShare  *share = sink->share;
	bool		made = false;
	int			i;

	/* others may have made them meanwhile */
	if (share->nmissing > 0)
		logq_catalog_load(sink->part, sink->conn);
	for (i = 0; i < share->nmissing; i++)
	{
		StringInfoData sql;
		int			nestlevel;

		CHECK_FOR_INTERRUPTS();
		if (logq_segment_for(sink->part, share->missing[i]) != NULL)
			continue;
		nestlevel = logq_set_transmission_modes();
		initStringInfo(&sql);
		appendStringInfoString(&sql, SEGMENT_LOCK_SQL
							   "SELECT " LOGQ_STORE_SCHEMA ".make_segment(");
		logq_append_literal(&sql, TimestampTzGetDatum(share->missing[i]),
							false, TIMESTAMPTZOID, -1);
		appendStringInfoChar(&sql, ')');
		AtEOXact_GUC(true, nestlevel);
		PQclear(logq_conn_exec(sink->conn, sql.data));
		pfree(sql.data);
		logq_catalog_load(sink->part, sink->conn);
		made = true;
	}
	share->nmissing = 0;
	sink->version = sink->part->version;
	/* no copy knows of them yet */
	if (made)
		logq_shmem_doubt(sink->part->number);
}

/* ---------- writing ---------- */

/*
 * Begin to write the sink's share.
 */
void
logq_sink_write(LogqRun *run, LogqSink *sink)
{
	LogqShare  *share = sink->share;
	int64	   *kparts = palloc(run->nkparts * sizeof(int64));
	int64	   *from = palloc(run->nkparts * sizeof(int64));
	int64	   *to = palloc(run->nkparts * sizeof(int64));
	StringInfoData sql;
	int			n = 0;
	int			i;
	ListCell   *lc;
	List	   *routings = NIL;

	for (i = 0; i < run->nkparts; i++)
		if (share->to[i] > sink->next[i])
			routings = list_append_unique_ptr(routings,
											  run->kparts[i].routing);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; ");
	foreach(lc, routings)
	{
		LogqRouting *routing = lfirst(lc);

		n = 0;
		for (i = 0; i < run->nkparts; i++)
		{
			if (share->to[i] <= sink->next[i] ||
				run->kparts[i].routing != routing)
				continue;
			kparts[n] = run->kparts[i].number;
			from[n] = sink->next[i];
			to[n] = share->to[i];
			n++;
		}
		appendStringInfo(&sql, "SELECT " LOGQ_STORE_SCHEMA ".move_offsets(%s, %s, ",
						 quote_literal_cstr(run->cluster),
						 quote_literal_cstr(run->topic->name));
		logq_append_int8_array(&sql, n, kparts);
		appendStringInfoString(&sql, "::pg_catalog.int4[], ");
		logq_append_int8_array(&sql, n, from);
		appendStringInfoString(&sql, ", ");
		logq_append_int8_array(&sql, n, to);
		appendStringInfo(&sql, ", %s); ", quote_literal_cstr(routing->text));
	}
	if (share->nrows > 0)
		appendStringInfoString(&sql, "COPY " LOGQ_STORE_SCHEMA ".log ("
							   LOGQ_INGEST_COLUMNS ") FROM STDIN (FORMAT binary); ");
	if (share->ndead > 0)
		appendStringInfoString(&sql, "COPY " LOGQ_STORE_SCHEMA ".dead_letter ("
							   LOGQ_DEAD_COLUMNS ") FROM STDIN (FORMAT binary); ");
	appendStringInfoString(&sql, LOGQ_COMMIT_SQL);

	if (sink->error != NULL)
		pfree(sink->error);
	sink->error = NULL;
	sink->copying = NULL;
	sink->ncopies = 0;
	sink->committed = false;
	sink->phase = SINK_WRITING;
	sink->give_up_at = TimestampTzPlusMilliseconds(logq_now(),
												   ANSWER_MS);
	if (!PQsendQuery(sink->conn->pg, sql.data))
		note_failure(sink, NULL);
	sink->conn->state = LOGQ_CONN_BUSY;
	sink->ready = 0;
	pfree(sql.data);
}

/*
 * The partition takes data: which, is told by what there is.
 */
static bool
begin_copy(LogqSink *sink)
{
	LogqShare  *share = sink->share;

	sink->ncopies++;
	sink->sent = 0;
	sink->copying = sink->ncopies == 1 && share->nrows > 0 ?
		&share->rows : &share->dead;
	return PQputCopyData(sink->conn->pg, copy_header,
						 sizeof(copy_header)) == 1;
}

/*
 * Send of the COPY under way what the connection takes.  1: all of it is on its
 * way; 0: wait; -1: failed.
 */
static int
feed_copy(LogqSink *sink)
{
	PGconn	   *pg = sink->conn->pg;
	int			rc;

	while (sink->sent < sink->copying->len)
	{
		int			len = Min(sink->copying->len - sink->sent, SEND_CHUNK);

		rc = PQflush(pg);
		if (rc != 0)
			return rc < 0 ? -1 : 0;
		if (PQputCopyData(pg, sink->copying->data + sink->sent, len) != 1)
			return -1;
		sink->sent += len;
	}
	rc = PQflush(pg);
	if (rc != 0)
		return rc < 0 ? -1 : 0;
	if (PQputCopyData(pg, copy_trailer, sizeof(copy_trailer)) != 1)
		return -1;
	rc = PQputCopyEnd(pg, NULL);
	if (rc < 0)
		return -1;
	/* what was flushed a moment ago leaves room for so little */
	if (rc == 0)
		return -1;
	sink->copying = NULL;
	return 1;
}

/*
 * Take one result.
 */
static void
take_result(LogqSink *sink, const PGresult *res)
{
	switch (PQresultStatus(res))
	{
		case PGRES_COPY_IN:
			if (!begin_copy(sink))
				note_failure(sink, NULL);
			break;
		case PGRES_TUPLES_OK:
			/* the last one is the version, all others are void */
			if (strcmp(PQfname(res, 0), "version") == 0 &&
				PQntuples(res) == 1)
			{
				int64		version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);

				if (version != sink->version)
					logq_shmem_doubt(sink->part->number);
				sink->version = version;
			}
			break;
		case PGRES_COMMAND_OK:
			if (strcmp(PQcmdStatus(unconstify(PGresult *, res)), "COMMIT") == 0)
				sink->committed = true;
			break;
		default:
			note_failure(sink, res);
			break;
	}
}

/*
 * The answer is complete.
 */
static bool
finish(LogqSink *sink)
{
	if (!sink->committed || sink->error != NULL ||
		PQstatus(sink->conn->pg) != CONNECTION_OK)
	{
		note_failure(sink, NULL);
		return false;
	}
	sink->conn->state = LOGQ_CONN_IDLE;
	sink->phase = SINK_IDLE;
	sink->events = WL_SOCKET_READABLE;
	return true;
}

/*
 * Has anything happened on the socket that we have not looked at?  Others may
 * have kept us from it.
 */
static bool
is_ready(LogqSink *sink)
{
	struct pollfd pfd;

	pfd.fd = logq_conn_socket(sink->conn);
	pfd.events = POLLIN |
		((sink->events & WL_SOCKET_WRITEABLE) != 0 ? POLLOUT : 0);
	pfd.revents = 0;
	return pfd.fd >= 0 && poll(&pfd, 1, 0) > 0;
}

/*
 * Go on as far as possible without waiting.  False: the sink has failed.
 */
bool
logq_sink_advance(LogqSink *sink)
{
	PGconn	   *pg;
	int			rc;

	if (sink->error != NULL)
		return false;
	pg = sink->conn->pg;
	if (sink->ready != 0)
		sink->give_up_at = TimestampTzPlusMilliseconds(logq_now(),
													   ANSWER_MS);
	/* also when idle: the server says goodbye, or is gone */
	if ((sink->ready & WL_SOCKET_READABLE) != 0 &&
		(PQconsumeInput(pg) == 0 || PQstatus(pg) != CONNECTION_OK))
	{
		note_failure(sink, NULL);
		return false;
	}
	sink->ready = 0;

	while (sink->phase == SINK_WRITING)
	{
		PGresult   *res;

		if (sink->copying != NULL)
		{
			rc = feed_copy(sink);
			if (rc < 0)
			{
				/* the server may have said why */
				res = PQgetResult(pg);
				note_failure(sink, res);
				PQclear(res);
				return false;
			}
			if (rc == 0)
			{
				sink->events = WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE;
				break;
			}
		}
		rc = PQflush(pg);
		if (rc < 0)
		{
			note_failure(sink, NULL);
			return false;
		}
		sink->events = WL_SOCKET_READABLE | (rc > 0 ? WL_SOCKET_WRITEABLE : 0);
		if (PQisBusy(pg))
			break;
		res = PQgetResult(pg);
		if (res == NULL)
			return finish(sink);
		take_result(sink, res);
		PQclear(res);
	}
	if (sink->phase == SINK_WRITING &&
		logq_now() >= sink->give_up_at && !is_ready(sink))
	{
		sink->failure = SINK_FAILED_LOST;
		sink->error = MemoryContextStrdup(sink->cxt,
										  psprintf("partition \"%s\" did not answer within %d ms",
												   sink->part->name,
												   ANSWER_MS));
		return false;
	}
	return true;
}
