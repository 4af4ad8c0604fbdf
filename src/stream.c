/*-------------------------------------------------------------------------
 *
 * stream.c
 *		What one partition sends back for one scan, fragment after fragment.
 *
 * A stream is a state machine that never waits: logq_stream_advance goes as
 * far as it can, then hands out a row, says what to wait for, or that the end
 * has come.  The scan does all the waiting.
 *
 *		IDLE -> CONNECTING -> SENDING -> RESULTS <-> COPYING, REPLAYING, CACHED
 *					^			 ^					|
 *				 BACKOFF		 +------ HELD <-----+-----> DONE
 *
 * A lazy stream stops in IDLE and in HELD until the scan releases it: the
 * merge may come to its end without what it would ask for.  From anywhere else
 * a failure leads back to CONNECTING, with another server: see failover.c.
 *
 * Fragments that are in the cache are left out of the request, and handed out
 * when their turn comes.  A batch of nothing else goes from IDLE or HELD to
 * CACHED and back; both wait there, before asking, for what Redis may have.
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
 * added later was committed after the scan had begun.  Only for counts it must
 * be true at the moment in which the rows are read.
 *
 * A trusted stream has its fragments before it asks: our copy of the catalog
 * was true a moment ago, and the scan has a LIMIT, which may well be satisfied
 * before this partition's turn comes.  Should the version turn out to be
 * another one when it does come, rows may have been handed out already that
 * lie beyond a segment nobody knew of.  Of that segment only what follows the
 * last row is asked, as if the rest of the partition had not been asked at
 * all, so the order holds.
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
 * Failure cases: what may go better on another server, or over another
 * connection, goes through logq_stream_failed().  All else is an error that
 * names the partition; the scan's memory context callback then calls
 * logq_stream_abandon.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cacherun.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* how much of an outdated answer is read rather than hung up on */
#define MAX_SKIPPED_BYTES (256 * 1024)
/* what a finished scan lets arrive later: it fits a socket's buffer */
#define MAX_BYTES_LEFT (128 * 1024)
/* and in which segments it may still be looked for */
#define MAX_ROWS_SEARCHED 20000
/* bytes of a row, as long as none has come */
#define ASSUMED_ROW_SIZE 512
/* catalog reads because of dropped segments, in one scan of one partition */
#define MAX_RELOADS 10
/* and because it moved on, before counts take it as it was a moment ago */
#define MAX_LOADS 5

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
				  const LogqRequest *request, const char *select,
				  const char *where, bool trusted,
				  LogqStreamPlanner planner, void *planner_arg)
{
	logq_stream_finish(stream);

	stream->cxt = cxt;
	stream->request = request;
	stream->select = select;
	stream->where = where;
	stream->fields = MemoryContextAlloc(cxt, (request->nfields + 1) *
										sizeof(LogqField));
	stream->cells = NULL;
	stream->in_cells = false;
	stream->planner = planner;
	stream->planner_arg = planner_arg;
	stream->state = LOGQ_STREAM_IDLE;
	stream->nfragments = 0;
	stream->fragments = NULL;
	stream->batch_start = stream->batch_end = stream->batch_done = 0;
	stream->batch_size = 0;
	stream->resume = false;
	stream->in_fragment = false;
	stream->servers = NULL;
	stream->tried = stream->behind = 0;
	stream->nfailures = 0;
	stream->renewed = false;
	stream->answered = false;
	stream->waiting_since = 0;
	stream->hedge_at = 0;
	stream->hedge.sql = NULL;
	stream->behind_until = 0;
	stream->wake_at = 0;
	stream->seen.lsn = 0;
	stream->seen.xid = 0;
	stream->tracked = false;
	MemSet(&stream->had, 0, sizeof(LogqHad));	/* its array was the last run's */
	stream->missing = NULL;
	stream->sql = NULL;
	stream->spool_buf = NULL;
	stream->spool_buf_size = 0;
	stream->confirmed = false;
	stream->check_security = false;
	stream->stale = false;
	stream->reloads = 0;
	stream->loads = 0;
	stream->has_row = false;
	stream->has_key = false;
	stream->released = false;
	stream->scan_rows = 0;
	stream->cache = NULL;
	stream->cache_user = NULL;
	stream->planned = false;
	stream->local = true;
	stream->local_batch = false;
	stream->looked_up = 0;
	stream->cached_rows = NULL;
	MemSet(&stream->kept, 0, sizeof(LogqKept));
	stream->trusted = trusted && stream->part->loaded;
	if (stream->trusted)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		logq_plan_fragments(stream);
		MemoryContextSwitchTo(old);
	}
	INSTR_TIME_SET_CURRENT(stream->started);
}

/*
 * See stream.h.  The rest is as if everything had been asked.
 */
void
logq_stream_start_cells(LogqStream *stream)
{
	stream->state = LOGQ_STREAM_DONE;
	stream->confirmed = true;
}

/*
 * Free the message that is being decoded.
 */
void
logq_stream_free_message(LogqStream *stream)
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
void
logq_stream_drop_connection(LogqStream *stream, bool keep)
{
	logq_stream_free_message(stream);
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
	logq_stream_end_hedge(stream);
	if (stream->conn != NULL)
		logq_stream_drop_connection(stream,
									stream->conn->state == LOGQ_CONN_IDLE);
	logq_decode_free(&stream->decoder);
	stream->state = LOGQ_STREAM_DONE;
}

/*
 * Is what is left of the answer known to be little, by the row limits of its
 * segments and the size of rows so far?  And little work: a segment that comes
 * to its limit soon, or is small.
 */
static bool
little_is_left(const LogqStream *stream)
{
	int			first = stream->batch_start + stream->batch_done;
	int64		size = stream->rows > 0 ? stream->bytes / stream->rows + 1 :
		ASSUMED_ROW_SIZE;
	int64		rows = 0;

	if (stream->load != NULL || stream->stale || stream->batch_limit < 0)
		return false;
	for (int i = first; i < stream->batch_end; i++)
	{
		const LogqFragment *fragment = &stream->fragments[i];
		int64		limit = i == stream->batch_end - 1 ?
			stream->batch_limit : stream->request->bound;
		bool		small = fragment->size >= 0 &&
			fragment->size <= MAX_ROWS_SEARCHED;

		if (logq_fragment_is_cached(fragment))
			continue;
		if (i == first)
			limit -= stream->in_fragment ? stream->fragment_rows : 0;
		else if (!small && fragment->rows < limit)
			return false;
		rows += small ? Min(limit, (int64) fragment->size) : limit;
		if (rows > MAX_BYTES_LEFT / size)
			return false;
	}
	return true;
}

/*
 * End a scan: the connection goes back to the pool if the rest of the answer
 * is here already, or will be soon because little is left.
 * Else it is closed, which ends the partition's work on it.
 */
void
logq_stream_finish(LogqStream *stream)
{
	logq_stream_free_message(stream);
	logq_stream_end_hedge(stream);
	if (stream->conn != NULL)
	{
		bool		keep = stream->conn->state == LOGQ_CONN_IDLE;

		if (!keep && !stream->borrowed &&
			(stream->state == LOGQ_STREAM_COPYING ||
			 stream->state == LOGQ_STREAM_RESULTS ||
			 stream->state == LOGQ_STREAM_CACHED))
		{
			stream->conn->in_copy = stream->state == LOGQ_STREAM_COPYING;
			keep = logq_conn_drain(stream->conn) ||
				(stream->conn->state == LOGQ_CONN_BUSY &&
				 little_is_left(stream));
		}
		logq_stream_drop_connection(stream, keep);
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
	logq_replay_reset(stream);
	/* its memory is of the run that is over */
	stream->replay.data.data = NULL;
	stream->cached_rows = NULL;
	stream->cache = NULL;
	stream->cache_user = NULL;
	stream->cells = NULL;
	logq_had_reset(stream);
	logq_decode_free(&stream->decoder);
	/* these are of the run that is over */
	stream->servers = NULL;
	stream->missing = NULL;
	stream->has_row = false;
	stream->state = LOGQ_STREAM_DONE;
}

/*
 * Read a version from a result, and where the primary's WAL is if that was
 * asked for, too; frees it.
 */
static int64
result_version(LogqStream *stream, PGresult *res)
{
	int64		version;
	int			nfields = PQnfields(res) -
		(stream->check_security && stream->load == NULL);

	if (PQntuples(res) != 1 ||
		(nfields != LOGQ_VERSION_COLUMNS &&
		 nfields != LOGQ_VERSION_LSN_COLUMNS) ||
		PQgetisnull(res, 0, 0))
	{
		PQclear(res);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("partition \"%s\" has no catalog version",
						stream->part->name)));
	}
	version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	if (nfields == LOGQ_VERSION_LSN_COLUMNS && !PQgetisnull(res, 0, 1))
	{
		stream->seen.lsn = logq_parse_lsn(PQgetvalue(res, 0, 1));
		stream->seen.xid = strtoll(PQgetvalue(res, 0, 2), NULL, 10);
		logq_health_wal(stream->servers, stream->seen.lsn, stream->asked_at);
		logq_learn_written(stream->part->serverid, &stream->seen);
	}
	PQclear(res);
	return version;
}

/*
 * All of a batch has come, or was in the cache.
 */
static void
batch_ended(LogqStream *stream)
{
	logq_batch_ended(stream);
	if (stream->batch_end < stream->nfragments &&
		logq_batch_rows_needed(stream) != 0)
	{
		stream->released = false;
		stream->state = LOGQ_STREAM_HELD;
	}
	else
		stream->state = LOGQ_STREAM_DONE;
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
		if (stream->server == 0)
			logq_catalog_confirm(stream->part, stream->asked_at);
		/*
		 * Counts of some segments come with the catalog, those of others from
		 * rows.  One that has moved meanwhile from these to those would be
		 * missed: both shall be of one moment.
		 */
		stream->confirmed = dropped || !stream->request->grouped ||
			++stream->loads > MAX_LOADS;
		if (!dropped && stream->confirmed)
		{
			MemoryContext old = MemoryContextSwitchTo(stream->cxt);

			logq_plan_fragments(stream);
			MemoryContextSwitchTo(old);
		}
		else if (dropped && !logq_forget_dropped_fragments(stream))
		{
			if (stream->reloads > 1)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("partition \"%s\" lacks a segment that its catalog has",
								stream->part->name),
						 errhint("Compare logq_store.segment on the partition with the tables in schema logq_store.")));
			/* it was made again meanwhile, perhaps, for a late row */
			stream->batch_start += stream->batch_done;
			stream->batch_end = stream->batch_start;
			stream->batch_done = 0;
		}
		logq_stream_ask(stream);
		return;
	}
	if (stream->stale)
	{
		logq_stream_catalog_moved(stream);
		logq_stream_ask(stream);
		return;
	}
	batch_ended(stream);
}

/*
 * The partition has answered with an error.  What can be mended is: a segment
 * that has gone, an answer that was to be skipped anyway, a server's trouble
 * that others need not have.
 */
static void
request_failed(LogqStream *stream, PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	MemoryContext old;
	LogqFailure *failure;

	if (PQstatus(stream->conn->pg) == CONNECTION_OK &&
		stream->load == NULL && stream->reloads < MAX_RELOADS &&
		state != NULL &&
		(strcmp(state, "42P01") == 0 ||
		 (stream->stale && strcmp(state, "42501") == 0)) &&
		stream->batch_start + stream->batch_done < stream->batch_end)
	{
		PQclear(res);
		/* the failed transaction must be ended before the next request */
		logq_stream_drop_connection(stream, false);
		if (stream->stale)
			logq_stream_catalog_moved(stream);
		else
		{
			stream->reloads++;
			stream->load = logq_catalog_load_begin(stream->part);
		}
		logq_stream_open(stream);
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
				 errhint("See whether the server leads to the right database. If the store is lost, run SELECT logq.remove_partition(%s, true) and then SELECT logq.add_partition(%s), which makes an empty one.",
						 quote_literal_cstr(stream->part->name),
						 quote_literal_cstr(stream->part->name))));
	}

	old = MemoryContextSwitchTo(stream->cxt);
	failure = logq_remote_failure(stream->conn, res, stream->sql);
	MemoryContextSwitchTo(old);
	if (!logq_failure_may_pass(failure))
		logq_report_failure(ERROR, failure);
	logq_stream_failed(stream, failure, LOGQ_FAULT_REFUSED);
}

/*
 * The partition has said whether there is row-level security.  What counts
 * everybody's rows is then given up, and rows that this user may see are
 * counted instead.
 */
static void
check_security(LogqStream *stream, bool secured, bool replica)
{
	stream->check_security = false;
	if (secured || !replica)
		logq_note_row_security(stream->part, secured, stream->asked_at);
	if (!secured)
		return;
	stream->secured = true;
	stream->stale = true;
	stream->confirmed = stream->planned = false;
}

/*
 * The version of the catalog has come.  False: the stream has gone elsewhere.
 */
static bool
take_version(LogqStream *stream, PGresult *res)
{
	bool		replica = stream->servers->servers[stream->server].replica;
	int64		known = stream->load != NULL ? stream->part->version :
		stream->plan_version;
	bool		secured = false;

	if (!replica && PQntuples(res) == 1 &&
		PQnfields(res) >= LOGQ_VERSION_LSN_COLUMNS && PQgetisnull(res, 0, 1))
	{
		PQclear(res);
		logq_stream_not_primary(stream);
		return false;
	}
	if (stream->check_security && stream->load == NULL &&
		PQntuples(res) == 1)
		secured = PQgetvalue(res, 0, PQnfields(res) - 1)[0] == 't';
	stream->new_version = result_version(stream, res);
	stream->kept.current = stream->new_version == stream->plan_version;
	/* one that is no replica any more has what there is */
	if (replica && !stream->promoted && stream->new_version < known)
	{
		logq_stream_catalog_behind(stream);
		return false;
	}
	if (stream->load != NULL)
		return true;
	if (stream->check_security)
		check_security(stream, secured, replica);
	if (stream->stale || stream->confirmed)
		return true;
	if (stream->new_version == stream->plan_version)
	{
		stream->confirmed = true;
		if (!replica && stream->new_version == stream->part->version)
			logq_catalog_confirm(stream->part, stream->asked_at);
	}
	else
		stream->stale = true;
	return true;
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
			logq_stream_lost(stream, NULL);
			return true;
		}
		stream->conn->state = LOGQ_CONN_IDLE;
		stream->conn->in_snapshot =
			PQtransactionStatus(pg) == PQTRANS_INTRANS;
		request_ended(stream);
		return true;
	}

	if (!stream->answered && PQresultStatus(res) != PGRES_FATAL_ERROR)
		logq_stream_answered(stream);
	switch (PQresultStatus(res))
	{
		case PGRES_COMMAND_OK:
			if (strncmp(PQcmdStatus(res), "COPY", 4) == 0 &&
				stream->load == NULL)
			{
				PQclear(res);
				/* what is skipped was not done: our bound must not move */
				if (!stream->stale)
				{
					/* a clean end has had its trailer */
					if (!stream->request->grouped && !stream->decoder.ended)
						logq_stream_decode_failed(stream);
					logq_cache_end_fragment(stream);
					stream->batch_done++;
					stream->in_fragment = false;
					logq_stream_progressed(stream);
					logq_had_reset(stream);
					if (stream->request->grouped)
						stream->state = LOGQ_STREAM_REPLAYING;
				}
			}
			else
				PQclear(res);
			break;
		case PGRES_TUPLES_OK:
			if (PQnfields(res) == LOGQ_REPLICA_COLUMNS)
				(void) logq_stream_check_replica(stream, res);
			else
				(void) take_version(stream, res);
			break;
		case PGRES_COPY_OUT:
			PQclear(res);
			logq_decode_start(&stream->decoder, stream->request->nfields);
			stream->fragment_rows = 0;
			stream->in_fragment = stream->load == NULL && !stream->stale;
			logq_cache_begin_fragment(stream);
			stream->state = LOGQ_STREAM_COPYING;
			break;
		default:
			if (PQstatus(pg) != CONNECTION_OK)
				logq_stream_lost(stream, res);
			else
				request_failed(stream, res);
			break;
	}
	return true;
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
		logq_stream_free_message(stream);
	}
	else if (stream->stale)
	{
		logq_stream_free_message(stream);
		stream->skipped_bytes += len;
		if (stream->skipped_bytes > MAX_SKIPPED_BYTES)
		{
			logq_stream_drop_connection(stream, false);
			logq_stream_catalog_moved(stream);
			logq_stream_open(stream);
		}
	}
	else
	{
		if (stream->kept.keeping)
			logq_cache_keep(stream, message, len);
		if (stream->request->grouped)
		{
			logq_replay_add(stream, message, len);
			logq_stream_free_message(stream);
		}
		else if (!logq_decode_feed(&stream->decoder, message, len))
			logq_stream_decode_failed(stream);
	}
	return true;
}

/*
 * The next of the cells, which come when all else is done: then they are of a
 * catalog that was true.
 */
static bool
take_cell(LogqStream *stream)
{
	stream->in_cells = false;
	if (stream->cells == NULL || stream->missing != NULL)
		return false;
	stream->in_cells = tuplestore_gettupleslot(stream->cells, true, false,
											   stream->cell_slot);
	if (!stream->in_cells)
	{
		stream->cells = NULL;
		return false;
	}
	slot_getallattrs(stream->cell_slot);
	stream->scan_rows++;
	stream->has_row = true;
	return true;
}

/*
 * Go on until there is a row, the end, or something to wait for.  The row
 * before this one is gone.
 */
static LogqStreamResult
advance(LogqStream *stream)
{
	bool		consumed = false;
	bool		moved = false;	/* something has come */

	if (stream->ready_events & WL_SOCKET_READABLE)
		stream->progress_at = logq_now();
	stream->has_row = false;
	for (;;)
	{
		switch (stream->state)
		{
			case LOGQ_STREAM_IDLE:
				if (stream->request->lazy && !stream->released)
					return LOGQ_STREAM_PAUSED;
				if (logq_cache_must_wait(stream))
					return LOGQ_STREAM_WAIT;
				logq_stream_open(stream);
				break;

			case LOGQ_STREAM_HELD:
				if (stream->request->lazy && !stream->released)
					return LOGQ_STREAM_PAUSED;
				if (logq_cache_must_wait(stream))
				{
					stream->wait_events = 0;	/* for Redis */
					return LOGQ_STREAM_WAIT;
				}
				logq_stream_ask(stream);
				break;

			case LOGQ_STREAM_BACKOFF:
				{
					TimestampTz now = logq_now();

					if (now < stream->retry_at)
					{
						logq_stream_waits(stream, now);
						stream->wake_at = stream->retry_at;
						return LOGQ_STREAM_WAIT;
					}
					logq_stream_connect(stream);
					break;
				}

			case LOGQ_STREAM_CONNECTING:
				{
					uint32		events = stream->ready_events;
					char	   *failure = NULL;

					stream->ready_events = 0;
					if (logq_conn_poll(stream->conn, &events, &failure))
						logq_stream_send(stream);
					else if (failure != NULL)
						logq_stream_connect_failed(stream, failure);
					else
					{
						stream->wait_events = events;
						if (!logq_stream_before_wait(stream))
							return LOGQ_STREAM_WAIT;
					}
					consumed = false;
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
						logq_stream_lost(stream, NULL);
						break;
					}
					stream->wait_events = WL_SOCKET_READABLE |
						WL_SOCKET_WRITEABLE;
					if (!logq_stream_before_wait(stream))
						return LOGQ_STREAM_WAIT;
					break;
				}

			case LOGQ_STREAM_RESULTS:
				if (logq_cache_is_next(stream))
				{
					stream->state = LOGQ_STREAM_CACHED;
					break;
				}
				if (take_result(stream))
				{
					moved = true;
					break;
				}
				goto need_input;

			case LOGQ_STREAM_COPYING:
				if (stream->message != NULL)
				{
					if (logq_stream_decode_row(stream))
						return LOGQ_STREAM_ROW;
					logq_stream_keep_cut_row(&stream->decoder);
					logq_stream_free_message(stream);
				}
				if (take_message(stream))
				{
					moved = true;
					break;
				}
				goto need_input;

			case LOGQ_STREAM_REPLAYING:
				if (logq_replay_row(stream))
					return LOGQ_STREAM_ROW;
				stream->state = LOGQ_STREAM_RESULTS;
				break;

			case LOGQ_STREAM_CACHED:
				if (logq_cache_row(stream))
					return LOGQ_STREAM_ROW;
				if (stream->conn != NULL &&
					stream->conn->state == LOGQ_CONN_BUSY)
					stream->state = LOGQ_STREAM_RESULTS;
				else if (stream->batch_start + stream->batch_done ==
						 stream->batch_end)
					batch_ended(stream);
				break;

			case LOGQ_STREAM_SPOOLED:
				return logq_spool_advance(stream);

			case LOGQ_STREAM_DONE:
				if (stream->conn != NULL)
					logq_stream_drop_connection(stream, true);
				return take_cell(stream) ? LOGQ_STREAM_ROW : LOGQ_STREAM_END;
		}
		continue;

need_input:
		/* read once, then look again; twice would let libpq's buffer grow */
		if (consumed)
		{
			stream->wait_events = WL_SOCKET_READABLE;
			if (moved)
				stream->progress_at = logq_now();
			moved = false;
			if (!logq_stream_before_wait(stream))
				return LOGQ_STREAM_WAIT;
			consumed = false;
			continue;
		}
		if (PQconsumeInput(stream->conn->pg) == 0)
			logq_stream_lost(stream, NULL);
		consumed = true;
	}
}

/*
 * The same, with an eye on the time that somebody waits.
 */
LogqStreamResult
logq_stream_advance(LogqStream *stream)
{
	const LogqClock *clock = stream->request->clock;
	LogqStreamResult result;

	if (stream->waiting_since != 0 &&
		(clock->turn != clock->seen_turn || clock->idle != stream->idle))
		logq_stream_skip_idle(stream);
	result = advance(stream);
	stream->ready_events = 0;
	if (result != LOGQ_STREAM_WAIT)
		stream->waiting_since = 0;
	return result;
}
