/*-------------------------------------------------------------------------
 *
 * stream.c
 *		What one partition sends back for one scan, fragment after fragment.
 *
 * A stream is a state machine that never waits: logq_stream_advance goes as
 * far as it can, then hands out a row, says what to wait for, or that the end
 * has come.  The scan does all the waiting.
 *
 *		IDLE -> CONNECTING -> SENDING -> RESULTS <-> COPYING
 *								 ^					|
 *								 +------ HELD <-----+-----> DONE
 *
 * A lazy stream stops in IDLE and in HELD until the scan releases it: the
 * merge may come to its end without what it would ask for.
 *
 * A request is one simple query with several statements: the partition's
 * catalog version, then a binary COPY for each of a batch of segments, in one
 * REPEATABLE READ transaction.  Each segment is asked by its own name and
 * sorted on its own; segments do not overlap, so their rows in turn are in
 * order.  batch.c chooses the segments of each request.
 *
 * The version comes before any row.  When it is not the one the fragments
 * were chosen by, everything up to the end of the request is skipped, the
 * catalog is read, the fragments are chosen anew and asked.  Once the catalog
 * was true at some moment of this scan it is not checked again: what was
 * added later was committed after the scan had begun.
 *
 * A segment that was dropped between the choice and the request is noticed by
 * the error (42P01) of its COPY, which comes before any row of it: the
 * catalog is read again and the segments that are gone are left out.
 *
 * Not reading is the backpressure: a stream that is not advanced takes
 * nothing from its socket, and libpq's buffer is emptied before it is filled
 * again, so it never holds more than a message beyond one read.
 *
 * When the transaction has itself written to the partition, its rows are
 * visible only to the connection that wrote them, which other scans may want
 * as well.  Then the whole answer is at once put into a temporary file
 * (SPOOLED) and the connection is free again.
 *
 * Failure cases: a connection from the pool that turns out dead before
 * anything was answered is replaced once.  All else is an error that names
 * the partition; the scan's memory context callback then calls
 * logq_stream_abandon.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* how much of an outdated answer is read rather than hung up on */
#define MAX_SKIPPED_BYTES (256 * 1024)
/* what a finished scan lets arrive later: it fits a socket's buffer */
#define MAX_BYTES_LEFT (128 * 1024)
/* bytes of a row, as long as none has come */
#define ASSUMED_ROW_SIZE 512
/* catalog reads because of dropped segments, in one scan of one partition */
#define MAX_RELOADS 10

static void open_request(LogqStream *stream);

/*
 * Set up a stream for the life of a scan node.
 */
void
logq_stream_init(LogqStream *stream, LogqPartition *part, Oid userid)
{
	MemSet(stream, 0, sizeof(LogqStream));
	stream->part = part;
	stream->userid = userid;
	stream->state = LOGQ_STREAM_IDLE;
	stream->first_row_ms = -1;
}

/*
 * Begin a scan or a rescan.  Keeps the connection of the scan before if it
 * has come to its end.
 */
void
logq_stream_start(LogqStream *stream, MemoryContext cxt,
				  const LogqRequest *request, const char *where,
				  LogqStreamPlanner planner, void *planner_arg)
{
	logq_stream_finish(stream);

	stream->cxt = cxt;
	stream->request = request;
	stream->where = where;
	stream->planner = planner;
	stream->planner_arg = planner_arg;
	stream->state = LOGQ_STREAM_IDLE;
	stream->nfragments = 0;
	stream->fragments = NULL;
	stream->batch_start = stream->batch_end = stream->batch_done = 0;
	stream->batch_size = 0;
	stream->resume = false;
	stream->sql = NULL;
	stream->spool_buf = NULL;
	stream->spool_buf_size = 0;
	stream->confirmed = false;
	stream->stale = false;
	stream->reloads = 0;
	stream->retried = false;
	stream->has_row = false;
	stream->released = false;
	stream->scan_rows = 0;
	INSTR_TIME_SET_CURRENT(stream->started);
}

/*
 * Free the message that is being decoded.
 */
static void
free_message(LogqStream *stream)
{
	if (stream->message != NULL)
	{
		PQfreemem(stream->message);
		stream->message = NULL;
	}
}

/*
 * Let go of the connection.
 */
static void
drop_connection(LogqStream *stream, bool keep)
{
	free_message(stream);
	if (stream->conn != NULL && !stream->borrowed)
	{
		if (keep)
			logq_conn_release(stream->conn);
		else
			logq_conn_close(stream->conn);
	}
	stream->conn = NULL;
	stream->borrowed = false;
	stream->generation++;
}

/*
 * Free what memory contexts do not.  Never throws: runs in a callback after
 * an error, and when the scan's context goes.
 */
void
logq_stream_abandon(LogqStream *stream)
{
	if (stream->conn != NULL)
		drop_connection(stream, stream->conn->state == LOGQ_CONN_IDLE);
	logq_decode_free(&stream->decoder);
	stream->state = LOGQ_STREAM_DONE;
}

/*
 * Is what is left of the answer known to be little: the rest of one segment,
 * by its row limit and the size of rows so far?
 */
static bool
little_is_left(const LogqStream *stream)
{
	int64		rows = stream->batch_limit - stream->fragment_rows;
	int64		size = stream->rows > 0 ? stream->bytes / stream->rows + 1 :
		ASSUMED_ROW_SIZE;

	return stream->load == NULL && !stream->stale &&
		stream->batch_limit >= 0 &&
		stream->batch_done + 1 >= stream->batch_end - stream->batch_start &&
		rows <= MAX_BYTES_LEFT / size;
}

/*
 * End a scan: the connection goes back to the pool if the rest of the answer
 * is here already, or will be soon because little is left of one segment.
 * Else it is closed, which ends the partition's work on it.
 */
void
logq_stream_finish(LogqStream *stream)
{
	free_message(stream);
	if (stream->conn != NULL)
	{
		bool		keep = stream->conn->state == LOGQ_CONN_IDLE;

		if (!keep && !stream->borrowed &&
			(stream->state == LOGQ_STREAM_COPYING ||
			 stream->state == LOGQ_STREAM_RESULTS))
		{
			stream->conn->in_copy = stream->state == LOGQ_STREAM_COPYING;
			keep = logq_conn_drain(stream->conn) ||
				(stream->conn->state == LOGQ_CONN_BUSY &&
				 little_is_left(stream));
		}
		drop_connection(stream, keep);
	}
	if (stream->load != NULL)
	{
		logq_catalog_load_abort(stream->load);
		stream->load = NULL;
	}
	if (stream->spool != NULL)
	{
		BufFileClose(stream->spool);
		stream->spool = NULL;
	}
	logq_decode_free(&stream->decoder);
	stream->has_row = false;
	stream->state = LOGQ_STREAM_DONE;
}

/*
 * Choose fragments from the catalog as it is known now.
 */
static void
plan_fragments(LogqStream *stream)
{
	stream->nfragments = 0;
	stream->batch_start = stream->batch_end = stream->batch_done = 0;
	stream->batch_size = 0;
	stream->resume = false;
	stream->poor = false;
	stream->planner(stream, stream->planner_arg);
}

/*
 * The catalog was read because a segment had gone: leave out of the fragments
 * not yet done those that are no longer there.  False: all are there, so the
 * error was about something else.
 */
static bool
forget_dropped_fragments(LogqStream *stream)
{
	int			from = stream->batch_start + stream->batch_done;
	int			to = from;
	int			i;

	for (i = from; i < stream->nfragments; i++)
	{
		const LogqSegment *seg = logq_segment_for(stream->part,
												  stream->fragments[i].lower);

		if (seg != NULL && strcmp(seg->name, stream->fragments[i].name) == 0)
			stream->fragments[to++] = stream->fragments[i];
	}
	if (to == stream->nfragments)
		return false;
	stream->nfragments = to;
	stream->batch_start = stream->batch_end = from;
	stream->batch_done = 0;
	stream->resume = false;
	return true;
}

/*
 * Report a failed or unexpected result; the stream is over.
 */
static void
stream_error(LogqStream *stream, PGresult *res)
{
	logq_report_remote_error(ERROR, stream->conn, res, stream->sql);
}

/*
 * Read a version from a result; frees it.
 */
static int64
result_version(LogqStream *stream, PGresult *res)
{
	int64		version;

	if (PQntuples(res) != 1 || PQnfields(res) != 1 ||
		PQgetisnull(res, 0, 0))
	{
		PQclear(res);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("partition \"%s\" has no catalog version",
						stream->part->name)));
	}
	version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return version;
}

/*
 * Ask for everything at once over the transaction's own writing connection
 * and put it into a file.  Waits, as the connection must be free before
 * anything else happens.
 */
static void
spool_request(LogqStream *stream)
{
	LogqConn   *conn = stream->conn;
	PGresult   *volatile res = NULL;
	char	   *volatile message = NULL;
	StringInfoData sql;
	int			i;

	/* the list of segments as this transaction sees it */
	logq_catalog_load(stream->part, conn);
	plan_fragments(stream);
	stream->confirmed = true;
	stream->batch_end = stream->nfragments;
	stream->fragments_asked += stream->nfragments;
	logq_decode_start(&stream->decoder, stream->request->nfields);
	stream->spool = BufFileCreateTemp(false);
	stream->state = LOGQ_STREAM_SPOOLED;
	if (stream->nfragments == 0)
		return;

	initStringInfo(&sql);
	for (i = 0; i < stream->nfragments; i++)
	{
		appendStringInfoString(&sql, "COPY (");
		logq_fragment_sql(&sql, stream->request,
						  quote_identifier(stream->fragments[i].name),
						  stream->where, NULL, stream->request->bound);
		appendStringInfoString(&sql, ") TO STDOUT (FORMAT binary); ");
	}
	stream->sql = sql.data;
	logq_conn_send(conn, sql.data);
	stream->requests++;

	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			PGresult   *current = res;
			ExecStatusType status = PQresultStatus(current);
			int			len;

			if (status != PGRES_COMMAND_OK && status != PGRES_COPY_OUT)
			{
				res = NULL;
				stream_error(stream, current);
			}
			PQclear(current);
			res = NULL;
			while (status == PGRES_COPY_OUT)
			{
				char	   *piece;

				len = PQgetCopyData(conn->pg, &piece, 1);
				if (len < 0)
				{
					/* end of the fragment; an error comes as a result */
					len = -1;
					BufFileWrite(stream->spool, &len, sizeof(len));
					break;
				}
				if (len == 0)
				{
					(void) logq_conn_wait(conn, WL_SOCKET_READABLE, 0);
					if (PQconsumeInput(conn->pg) == 0)
						stream_error(stream, NULL);
					continue;
				}
				message = piece;
				BufFileWrite(stream->spool, &len, sizeof(len));
				BufFileWrite(stream->spool, piece, len);
				message = NULL;
				PQfreemem(piece);
			}
		}
	}
	PG_CATCH();
	{
		PQclear(res);
		PQfreemem(message);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (BufFileSeek(stream->spool, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind temporary file for partition \"%s\"",
						stream->part->name)));
}

/*
 * Get hold of a connection.
 */
static void
open_connection(LogqStream *stream, bool fresh)
{
	LogqConn   *conn;

	if (!OidIsValid(stream->part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" of partition %d does not exist",
						stream->part->name, stream->part->number),
				 errhint("Create the server again, or run SELECT logq.remove_partition(%s, true).",
						 quote_literal_cstr(stream->part->name))));

	conn = logq_xact_written_conn(stream->part->serverid, stream->userid);
	if (conn != NULL)
	{
		stream->conn = conn;
		stream->borrowed = true;
		stream->generation++;
		spool_request(stream);
		/* others may use it now; we are done with it */
		stream->conn = NULL;
		stream->borrowed = false;
		stream->generation++;
		return;
	}

	stream->conn = logq_conn_acquire(stream->part->serverid, stream->userid,
									 fresh);
	stream->generation++;
	stream->ready_events = 0;
	stream->state = LOGQ_STREAM_CONNECTING;
}

/*
 * Send the next request over an idle connection: the catalog when it is not
 * known or known to be outdated, else a batch of fragments.
 */
static void
open_request(LogqStream *stream)
{
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);
	char	   *sql;

	stream->stale = false;
	stream->skipped_bytes = 0;

	if (stream->load != NULL ||
		(!stream->confirmed && !stream->part->loaded))
	{
		if (stream->load == NULL)
			stream->load = logq_catalog_load_begin(stream->part);
		sql = psprintf("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; %s; COMMIT",
					   logq_catalog_sql());
	}
	else
	{
		if (!stream->confirmed && stream->reloads == 0)
			plan_fragments(stream);
		if (stream->confirmed && stream->batch_end >= stream->nfragments)
		{
			stream->state = LOGQ_STREAM_DONE;
			MemoryContextSwitchTo(old);
			return;
		}
		sql = logq_batch_request(stream);
	}
	if (stream->sql != NULL)
		pfree(stream->sql);
	stream->sql = sql;
	logq_conn_send(stream->conn, sql);
	stream->requests++;
	stream->state = LOGQ_STREAM_SENDING;
	MemoryContextSwitchTo(old);
}

/*
 * A request has come to its end and the connection is idle.
 */
static void
request_ended(LogqStream *stream)
{
	if (stream->load != NULL)
	{
		LogqCatalogLoad *load = stream->load;
		bool		dropped = stream->reloads > 0;

		stream->load = NULL;
		logq_catalog_load_end(load, stream->new_version);
		stream->confirmed = true;
		if (!dropped)
		{
			MemoryContext old = MemoryContextSwitchTo(stream->cxt);

			plan_fragments(stream);
			MemoryContextSwitchTo(old);
		}
		else if (!forget_dropped_fragments(stream))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("partition \"%s\" lacks a segment that its catalog has",
							stream->part->name),
					 errhint("Compare logq_store.segment on the partition with the tables in schema logq_store.")));
		open_request(stream);
		return;
	}
	if (stream->stale)
	{
		stream->part->loaded = false;
		open_request(stream);
		return;
	}
	logq_batch_ended(stream);
	if (stream->batch_end < stream->nfragments && logq_batch_rows_needed(stream) != 0)
	{
		stream->released = false;
		stream->state = LOGQ_STREAM_HELD;
		return;
	}
	stream->state = LOGQ_STREAM_DONE;
}

/*
 * The partition has answered with an error.  What can be mended is: a segment
 * that has gone, an answer that was to be skipped anyway.
 */
static void
request_failed(LogqStream *stream, PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (PQstatus(stream->conn->pg) == CONNECTION_OK &&
		stream->load == NULL && stream->reloads < MAX_RELOADS &&
		state != NULL && strcmp(state, "42P01") == 0 &&
		stream->batch_start + stream->batch_done < stream->batch_end)
	{
		PQclear(res);
		/* the failed transaction must be ended before the next request */
		drop_connection(stream, false);
		if (stream->stale)
			stream->part->loaded = false;
		else
		{
			stream->reloads++;
			stream->load = logq_catalog_load_begin(stream->part);
		}
		open_connection(stream, false);
		return;
	}

	if (state != NULL && stream->load != NULL &&
		(strcmp(state, "42P01") == 0 || strcmp(state, "3F000") == 0))
	{
		char	   *message = pstrdup(PQresultErrorField(res,
														 PG_DIAG_MESSAGE_PRIMARY));

		PQclear(res);
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("partition \"%s\" has no log store: %s",
						stream->part->name, message),
				 errhint("Run SELECT logq.add_partition(%s) to create it.",
						 quote_literal_cstr(stream->part->name))));
	}
	stream_error(stream, res);
}

/*
 * A connection of the pool was dead after all, or says goodbye: take a new
 * one, once.
 */
static bool
retry_lost_connection(LogqStream *stream, const PGresult *res)
{
	const char *severity =
		PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (stream->retried || stream->scan_rows > 0 || !stream->conn->reused ||
		(PQstatus(stream->conn->pg) == CONNECTION_OK &&
		 (severity == NULL || strcmp(severity, "FATAL") != 0)))
		return false;
	stream->retried = true;
	if (stream->load != NULL)
	{
		logq_catalog_load_abort(stream->load);
		stream->load = NULL;
	}
	/* no row was handed out: begin again */
	stream->confirmed = false;
	stream->reloads = 0;
	drop_connection(stream, false);
	open_connection(stream, true);
	return true;
}

/*
 * Report bytes that are not what was asked for.
 */
static void
decode_failed(LogqStream *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("could not read the rows of partition \"%s\": %s",
					stream->part->name,
					stream->decoder.error ? stream->decoder.error :
					"the data ended within a row")));
}

/*
 * Take a result that is ready.  False: more input is needed.
 */
static bool
take_result(LogqStream *stream)
{
	PGconn	   *pg = stream->conn->pg;
	PGresult   *res;

	if (PQisBusy(pg))
		return false;
	res = PQgetResult(pg);
	if (res == NULL)
	{
		if (PQstatus(pg) != CONNECTION_OK)
		{
			if (!retry_lost_connection(stream, NULL))
				stream_error(stream, NULL);
			return true;
		}
		stream->conn->state = LOGQ_CONN_IDLE;
		request_ended(stream);
		return true;
	}

	switch (PQresultStatus(res))
	{
		case PGRES_COMMAND_OK:
			if (strncmp(PQcmdStatus(res), "COPY", 4) == 0 &&
				stream->load == NULL)
			{
				stream->batch_done++;
				PQclear(res);
				/* a clean end has had its trailer */
				if (!stream->stale && !stream->decoder.ended)
					decode_failed(stream);
			}
			else
				PQclear(res);
			break;
		case PGRES_TUPLES_OK:
			stream->new_version = result_version(stream, res);
			if (stream->load == NULL)
			{
				if (stream->new_version == stream->part->version)
					stream->confirmed = true;
				else
					stream->stale = true;
			}
			break;
		case PGRES_COPY_OUT:
			PQclear(res);
			logq_decode_start(&stream->decoder, stream->request->nfields);
			stream->fragment_rows = 0;
			stream->state = LOGQ_STREAM_COPYING;
			break;
		default:
			if (retry_lost_connection(stream, res))
				PQclear(res);
			else
				request_failed(stream, res);
			break;
	}
	return true;
}

/*
 * A row was decoded: note its key.
 */
static void
row_arrived(LogqStream *stream)
{
	const LogqRequest *request = stream->request;

	if (stream->scan_rows++ == 0 && stream->first_row_ms < 0)
	{
		instr_time	now;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, stream->started);
		stream->first_row_ms = INSTR_TIME_GET_MILLISEC(now);
	}
	stream->rows++;
	stream->batch_rows++;
	stream->fragment_rows++;
	if (request->ordered)
	{
		const LogqField *ts = &stream->fields[request->ts_field];
		const LogqField *id = &stream->fields[request->id_field];
		int64		new_ts;
		int64		new_id;

		if (ts->len != 8 || id->len != 8)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("partition \"%s\" sent a row without a key",
							stream->part->name)));
		new_ts = logq_decode_int64(ts->data);
		new_id = logq_decode_int64(id->data);
		/* a merge of unordered streams would be silently wrong */
		if (stream->scan_rows > 1 &&
			(request->descending ?
			 new_ts > stream->ts ||
			 (new_ts == stream->ts && new_id > stream->id) :
			 new_ts < stream->ts ||
			 (new_ts == stream->ts && new_id < stream->id)))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("partition \"%s\" sent rows out of order",
							stream->part->name)));
		stream->ts = new_ts;
		stream->id = new_id;
	}
	stream->has_row = true;
}

/*
 * The message is about to go: let the decoder keep what it has of a row that
 * goes on in the next one.
 */
static void
keep_cut_row(LogqDecoder *decoder)
{
	if (decoder->pos < decoder->len && !decoder->reading_carry &&
		!decoder->ended)
		(void) logq_decode_feed(decoder, "", 0);
}

/*
 * Decode from the message at hand.  True: a row is there.
 */
static bool
decode_row(LogqStream *stream)
{
	switch (logq_decode_next(&stream->decoder, stream->fields))
	{
		case LOGQ_DECODE_ROW:
			row_arrived(stream);
			return true;
		case LOGQ_DECODE_ERROR:
			decode_failed(stream);
			break;
		case LOGQ_DECODE_MORE:
		case LOGQ_DECODE_END:
			break;
	}
	return false;
}

/*
 * Take the next message of a COPY.  Returns true when the state of things has
 * changed, false when more input is needed.
 */
static bool
take_message(LogqStream *stream)
{
	char	   *message;
	int			len;

	len = PQgetCopyData(stream->conn->pg, &message, 1);
	if (len == 0)
		return false;
	if (len < 0)
	{
		/* the end, or an error: the result says */
		stream->state = LOGQ_STREAM_RESULTS;
		return true;
	}

	stream->bytes += len;
	stream->message = message;
	if (stream->load != NULL)
	{
		logq_catalog_load_row(stream->load, message, len);
		free_message(stream);
	}
	else if (stream->stale)
	{
		free_message(stream);
		stream->skipped_bytes += len;
		if (stream->skipped_bytes > MAX_SKIPPED_BYTES)
		{
			drop_connection(stream, false);
			stream->part->loaded = false;
			open_connection(stream, false);
		}
	}
	else if (!logq_decode_feed(&stream->decoder, message, len))
		decode_failed(stream);
	return true;
}

/*
 * The next row from the file.
 */
static LogqStreamResult
advance_spooled(LogqStream *stream)
{
	for (;;)
	{
		int			len;

		if (stream->spool_buf != NULL && decode_row(stream))
			return LOGQ_STREAM_ROW;
		keep_cut_row(&stream->decoder);
		if (stream->batch_done == stream->nfragments)
			break;
		if (BufFileRead(stream->spool, &len, sizeof(len)) != sizeof(len))
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read temporary file for partition \"%s\"",
							stream->part->name)));
		if (len < 0)
		{
			if (!stream->decoder.ended)
				decode_failed(stream);
			stream->batch_done++;
			logq_decode_start(&stream->decoder, stream->request->nfields);
			continue;
		}
		if (len > stream->spool_buf_size)
		{
			if (stream->spool_buf != NULL)
				pfree(stream->spool_buf);
			stream->spool_buf_size = Max(len, 8192);
			stream->spool_buf = MemoryContextAllocHuge(stream->cxt,
													   stream->spool_buf_size);
		}
		if (BufFileRead(stream->spool, stream->spool_buf, len) != len)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read temporary file for partition \"%s\"",
							stream->part->name)));
		stream->bytes += len;
		if (!logq_decode_feed(&stream->decoder, stream->spool_buf, len))
			decode_failed(stream);
	}
	BufFileClose(stream->spool);
	stream->spool = NULL;
	stream->state = LOGQ_STREAM_DONE;
	return LOGQ_STREAM_END;
}

/*
 * The fragment that the next row can come from, or nfragments.
 */
static int
next_fragment(const LogqStream *stream)
{
	if (stream->state == LOGQ_STREAM_HELD)
		return stream->batch_end;
	return Min(stream->batch_start + stream->batch_done, stream->nfragments);
}

/*
 * Until the catalog is confirmed nothing is known; from then on the bounds of
 * the segments, which never change, and the row handed out last.
 */
void
logq_stream_bound(const LogqStream *stream, int64 *ts, int64 *id)
{
	const LogqRequest *request = stream->request;
	int			next = next_fragment(stream);
	bool		desc = request->descending;

	*id = desc ? PG_INT64_MAX : PG_INT64_MIN;
	if (!stream->confirmed)
	{
		*ts = desc ? PG_INT64_MAX : PG_INT64_MIN;
		return;
	}
	if (next >= stream->nfragments)
	{
		/* only the end is to come */
		*ts = desc ? PG_INT64_MIN : PG_INT64_MAX;
		return;
	}
	*ts = desc ? Min(stream->fragments[next].upper - 1, request->ts_high) :
		Max(stream->fragments[next].lower, request->ts_low);
	if (stream->scan_rows > 0 &&
		(desc ? stream->ts <= *ts : stream->ts >= *ts))
	{
		*ts = stream->ts;
		*id = stream->id;
	}
}

/*
 * How far the next segment reaches in the merge's order.
 */
int64
logq_stream_horizon(const LogqStream *stream)
{
	int			next = next_fragment(stream);

	if (!stream->confirmed || next >= stream->nfragments)
		return stream->request->descending ? PG_INT64_MAX : PG_INT64_MIN;
	return stream->request->descending ? stream->fragments[next].lower :
		stream->fragments[next].upper - 1;
}

/*
 * Go on until there is a row, the end, or something to wait for.  The row
 * before this one is gone.
 */
LogqStreamResult
logq_stream_advance(LogqStream *stream)
{
	bool		consumed = false;

	stream->has_row = false;
	for (;;)
	{
		switch (stream->state)
		{
			case LOGQ_STREAM_IDLE:
				if (stream->request->lazy && !stream->released)
					return LOGQ_STREAM_PAUSED;
				open_connection(stream, false);
				break;

			case LOGQ_STREAM_HELD:
				if (stream->request->lazy && !stream->released)
					return LOGQ_STREAM_PAUSED;
				open_request(stream);
				break;

			case LOGQ_STREAM_CONNECTING:
				{
					uint32		events = stream->ready_events;

					if (!logq_conn_poll(stream->conn, &events, NULL))
					{
						stream->ready_events = 0;
						stream->wait_events = events;
						return LOGQ_STREAM_WAIT;
					}
					open_request(stream);
					break;
				}

			case LOGQ_STREAM_SENDING:
				{
					int			rc = PQflush(stream->conn->pg);

					if (rc == 0)
					{
						stream->state = LOGQ_STREAM_RESULTS;
						break;
					}
					if (rc < 0 || PQconsumeInput(stream->conn->pg) == 0)
					{
						if (!retry_lost_connection(stream, NULL))
							stream_error(stream, NULL);
						break;
					}
					stream->wait_events = WL_SOCKET_READABLE |
						WL_SOCKET_WRITEABLE;
					return LOGQ_STREAM_WAIT;
				}

			case LOGQ_STREAM_RESULTS:
				if (take_result(stream))
					break;
				goto need_input;

			case LOGQ_STREAM_COPYING:
				if (stream->message != NULL)
				{
					if (decode_row(stream))
						return LOGQ_STREAM_ROW;
					keep_cut_row(&stream->decoder);
					free_message(stream);
				}
				if (take_message(stream))
					break;
				goto need_input;

			case LOGQ_STREAM_SPOOLED:
				return advance_spooled(stream);

			case LOGQ_STREAM_DONE:
				if (stream->conn != NULL)
					drop_connection(stream, true);
				return LOGQ_STREAM_END;
		}
		continue;

need_input:
		/* read once, then look again; twice would let libpq's buffer grow */
		if (consumed)
		{
			stream->wait_events = WL_SOCKET_READABLE;
			return LOGQ_STREAM_WAIT;
		}
		if (PQconsumeInput(stream->conn->pg) == 0)
		{
			if (!retry_lost_connection(stream, NULL))
				stream_error(stream, NULL);
		}
		consumed = true;
	}
}
