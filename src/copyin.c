/*-------------------------------------------------------------------------
 *
 * copyin.c
 *		The COPY by which rows get to a partition, segments and ids for them.
 *
 * Invariants:
 * - A buffer holds whole rows.  A COPY is ended only when its buffer is
 *   empty, and may be ended and begun again between any two rows.
 * - A connection carries one COPY.  Statements of one transaction can nest
 *   (triggers, functions, WITH), so each ends whatever COPY it finds on a
 *   connection that it needs; the other begins a new one when it goes on.
 * - Memory is bounded by MAX_PENDING and one row for each partition, plus
 *   SEND_CHUNK in libpq.
 *
 * Segments are made on a connection and in a transaction of their own, so
 * that other writers of the same segment do not wait for this transaction.
 * After a rollback an empty segment stays behind, which does no harm.  Only
 * if that cannot work, because this transaction itself holds the lock that is
 * needed, the segment is made inside it.  A COPY does not see a segment that
 * is made after its start, so it is begun anew.
 *
 * Failure cases: an error of any partition ends the statement; xact.c cleans
 * up.  A partition that fails in the middle of a COPY goes on reading and
 * tells why; we look for that as often as we send.  A segment can be dropped
 * between our look at the catalog and the row's arrival: an error with the
 * hint to repeat, as the next statement reads the catalog again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"
#include "health.h"
#include "write.h"

#include <poll.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* ids fetched at a time, when rows must know theirs */
#define MIN_ID_BLOCK 4
#define MAX_ID_BLOCK 8192
/*
 * How long to wait for the lock to make a segment, in ms, when it might be
 * this transaction that holds it.
 */
#define SEGMENT_LOCK_TIMEOUT 1000
/* the same inside of a transaction that has locks itself, on several servers */
#define SEGMENT_INSIDE_TIMEOUT 30000

#define COPY_SQL(id) \
	"COPY logq_store.log (ts, level, service, message, trace_id, attrs" id \
	") FROM STDIN (FORMAT binary)"

/* signature, flags, length of the header extension; and the end of a file */
static const char copy_header[19] = "PGCOPY\n\377\r\n\0";
static const char copy_trailer[2] = {'\377', '\377'};

/* streams of all statements under way that have a COPY */
static LogqWriteStream *open_copies = NULL;

/*
 * Partitions to which this transaction has written, and those of which it is
 * known to hold the catalog's lock.  In TopTransactionContext, which takes
 * them along.
 */
static List *written_parts = NIL;
static List *locked_parts = NIL;

static void finish_copy(LogqWriteStream *stream);

/* ---------- segments ---------- */

/*
 * The call that makes the segment for ts.  lock_timeout is in ms, 0 is none;
 * it holds for this call alone.
 */
static char *
make_segment_sql(TimestampTz ts, int lock_timeout)
{
	StringInfoData sql;
	int			nestlevel = logq_set_transmission_modes();

	initStringInfo(&sql);
	if (lock_timeout > 0)
		appendStringInfo(&sql, "SET LOCAL lock_timeout = '%dms'; ",
						 lock_timeout);
	appendStringInfoString(&sql, "SELECT logq_store.make_segment(");
	logq_append_literal(&sql, TimestampTzGetDatum(ts), false, TIMESTAMPTZOID,
						-1);
	appendStringInfoChar(&sql, ')');
	/* COMMIT may have to wait */
	if (lock_timeout > 0)
		appendStringInfoString(&sql, "; SET LOCAL lock_timeout TO DEFAULT");
	AtEOXact_GUC(true, nestlevel);
	return sql.data;
}

/*
 * Run it.  False: lock_timeout has passed.
 */
static bool
call_make_segment(LogqConn *conn, TimestampTz ts, int lock_timeout)
{
	char	   *sql = make_segment_sql(ts, lock_timeout);
	bool		made = true;

	if (lock_timeout > 0)
		made = logq_conn_exec_unless_locked(conn, sql);
	else
		PQclear(logq_conn_exec(conn, sql));
	pfree(sql);
	return made;
}

/*
 * A connection for what is done in a transaction of its own.  Ours is about
 * to write, and takes its places now, as sessions that begin would otherwise
 * have any number of these.
 *
 * The transaction may hold one of the few connections of the partition's
 * pooler by now.  If it waited there for a second one, and others likewise,
 * all of them would wait for each other; so this goes past the pooler.
 */
static LogqConn *
acquire_apart(LogqPartition *part, Oid userid)
{
	logq_check_writable(part->serverid, userid);
	logq_reserve_write(part->serverid, 1);
	return logq_conn_acquire_beside(part->serverid, userid);
}

/*
 * Make the segment for ts on a connection of its own and take over the
 * partition's catalog.  False: lock_timeout has passed.
 */
static bool
make_segment_apart(LogqPartition *part, Oid userid, TimestampTz ts,
				   int lock_timeout)
{
	LogqConn   *conn;
	volatile bool made = false;

	conn = acquire_apart(part, userid);
	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		conn->io_timeout = logq_partition_timeout;
		made = call_make_segment(conn, ts, lock_timeout);
		if (made)
		{
			logq_catalog_load(part, conn);
			/* no copy knows of it yet */
			logq_shmem_doubt(part->number);
		}
	}
	PG_CATCH();
	{
		/* what goes on there is to end */
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
	return made;
}

/*
 * Make the segment for ts on a partition, or find that somebody has, in a
 * transaction of its own.
 */
void
logq_make_segment(LogqPartition *part, Oid userid, TimestampTz ts)
{
	(void) make_segment_apart(part, userid, ts, 0);
}

/*
 * Load the catalog of a partition of which nothing is known yet.
 */
static void
load_catalog(LogqPartition *part, Oid userid)
{
	LogqConn   *conn;

	conn = acquire_apart(part, userid);
	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		conn->io_timeout = logq_partition_timeout;
		logq_catalog_load(part, conn);
	}
	PG_CATCH();
	{
		/* what goes on there is to end */
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
}

/*
 * Memory context callback: the transaction is over.
 */
static void
forget_parts(void *arg)
{
	written_parts = NIL;
	locked_parts = NIL;
}

/*
 * Add a partition to one of the two lists.
 */
static void
remember_part(List **list, LogqPartition *part)
{
	MemoryContext old;

	if (list_member_ptr(*list, part))
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	if (written_parts == NIL && locked_parts == NIL)
	{
		MemoryContextCallback *cb = palloc(sizeof(MemoryContextCallback));

		cb->func = forget_parts;
		cb->arg = NULL;
		MemoryContextRegisterResetCallback(TopTransactionContext, cb);
	}
	*list = lappend(*list, part);
	MemoryContextSwitchTo(old);
}

/*
 * Make the segment inside the remote write transaction.  The catalog that is
 * then loaded has what is not committed yet; xact.c throws it away when the
 * transaction aborts, and until the end nobody else can make a version, as
 * the lock is ours.
 *
 * Two that do so on two partitions may wait for each other, which neither
 * partition can see: so none waits for ever.
 */
static void
make_segment_inside(LogqWriteStream *stream, TimestampTz ts)
{
	LogqConn   *conn = logq_xact_begin_write(stream->part->serverid,
											 stream->state->userid);

	if (!call_make_segment(conn, ts, SEGMENT_INSIDE_TIMEOUT))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not make a segment on partition \"%s\" within %d s",
						stream->part->name, SEGMENT_INSIDE_TIMEOUT / 1000),
				 errdetail("Another transaction, or this one as another user, holds the partition's catalog."),
				 errhint("Repeat the transaction.")));
	logq_catalog_load(stream->part, conn);

	remember_part(&locked_parts, stream->part);
}

/*
 * The COPY, of this or another statement, that is under way on the connection
 * which this stream would write over, or NULL.
 */
static LogqWriteStream *
copy_in_the_way(const LogqWriteStream *stream)
{
	LogqWriteStream *other;

	for (other = open_copies; other != NULL; other = other->next)
		if (other->part == stream->part &&
			logq_xact_writes_over(stream->part->serverid,
								  stream->state->userid, other->conn))
			return other;
	return NULL;
}

/*
 * End it.
 */
static void
finish_copy_in_the_way(LogqWriteStream *stream)
{
	LogqWriteStream *other = copy_in_the_way(stream);

	if (other != NULL)
		finish_copy(other);
}

/*
 * See to it that the partition has a segment for ts, and that a COPY which
 * this stream has open began when that segment was there.
 */
void
logq_write_ensure_segment(LogqWriteStream *stream, TimestampTz ts)
{
	LogqPartition *part = stream->part;
	Oid			userid = stream->state->userid;
	const LogqSegment *seg;

	if (ts >= stream->lower && ts < stream->upper)
		return;

	if (!part->loaded)
		load_catalog(part, userid);
	seg = logq_segment_for(part, ts);
	if (seg == NULL)
	{
		finish_copy_in_the_way(stream);

		/*
		 * A transaction that has written to the partition may hold the lock
		 * on the catalog's version (late rows raise it), and would wait for
		 * itself without anybody noticing.
		 */
		if (!list_member_ptr(written_parts, part))
			logq_make_segment(part, userid, ts);
		else if (list_member_ptr(locked_parts, part) ||
				 !make_segment_apart(part, userid, ts,
									 SEGMENT_LOCK_TIMEOUT))
			make_segment_inside(stream, ts);

		seg = logq_segment_for(part, ts);
		if (seg == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("partition \"%s\" has no segment for time %s",
							part->name, timestamptz_to_str(ts)),
					 errhint("If segments are just being dropped, repeat the command.")));
	}
	else if (stream->phase != COPY_CLOSED && part->version != stream->version)
		finish_copy(stream);

	stream->lower = seg->lower;
	stream->upper = seg->upper;
	stream->version = part->version;
}

/* ---------- COPY ---------- */

/*
 * The stream has no COPY any more.
 */
void
logq_write_forget(LogqWriteStream *stream)
{
	LogqWriteStream **link;

	for (link = &open_copies; *link != NULL; link = &(*link)->next)
	{
		if (*link == stream)
		{
			*link = stream->next;
			break;
		}
	}
	stream->next = NULL;
	stream->conn = NULL;
	stream->phase = COPY_CLOSED;
}

/*
 * Error context callback: a row without a segment can be tried again.
 */
static void
segment_gone_callback(void *arg)
{
	errhint("The segment was dropped after this session had looked. Repeat the command.");
}

/*
 * Report why the partition has ended the COPY.
 */
static void
report_copy_failure(LogqWriteStream *stream, LogqConn *conn)
{
	PGresult   *res = stream->failure;
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	ErrorContextCallback errcallback;

	stream->failure = NULL;
	errcallback.previous = error_context_stack;
	/* check_violation without a constraint: no partition of the table */
	if (sqlstate != NULL && strcmp(sqlstate, "23514") == 0 &&
		PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME) == NULL)
	{
		stream->part->loaded = false;
		errcallback.callback = segment_gone_callback;
		errcallback.arg = NULL;
		error_context_stack = &errcallback;
	}
	logq_report_remote_error(ERROR, conn, res, COPY_SQL(""));
}

/*
 * Wait for the results of a COPY that has ended, one way or the other, and
 * report an error among them.
 */
static void
collect_copy(LogqWriteStream *stream)
{
	LogqConn   *conn = stream->conn;
	PGresult   *res;

	while ((res = logq_conn_get_result(conn)) != NULL)
	{
		if (stream->failure == NULL &&
			PQresultStatus(res) != PGRES_COMMAND_OK)
			stream->failure = res;
		else
			PQclear(res);
	}
	logq_xact_set_copying(conn, false);
	logq_write_forget(stream);
	if (stream->failure != NULL)
		report_copy_failure(stream, conn);
}

/*
 * Begin a COPY; await_copy() has to follow.
 */
static void
ask_copy(LogqWriteStream *stream)
{
	LogqConn   *conn;

	finish_copy_in_the_way(stream);
	conn = logq_xact_begin_write(stream->part->serverid,
								 stream->state->userid);
	stream->conn = conn;
	stream->phase = COPY_ASKED;
	stream->next = open_copies;
	open_copies = stream;
	logq_xact_set_copying(conn, true);
	remember_part(&written_parts, stream->part);
	logq_conn_send(conn, stream->state->need_id ?
				   COPY_SQL(", id") : COPY_SQL(""));
}

/*
 * Hand bytes to libpq.  It queues without a limit of its own, so callers
 * look at PQflush() first.
 */
static void
put_copy_data(LogqWriteStream *stream, const char *data, int len)
{
	if (PQputCopyData(stream->conn->pg, data, len) != 1)
		logq_report_remote_error(ERROR, stream->conn, NULL, COPY_SQL(""));
}

/*
 * Wait until the partition takes data.
 */
static void
await_copy(LogqWriteStream *stream)
{
	PGresult   *res;
	bool		ready;

	if (stream->phase != COPY_ASKED)
		return;
	res = logq_conn_get_result(stream->conn);
	ready = res != NULL && PQresultStatus(res) == PGRES_COPY_IN;
	if (!ready)
	{
		stream->failure = res;
		collect_copy(stream);
		elog(ERROR, "COPY of partition \"%s\" did not begin",
			 stream->part->name);
	}
	PQclear(res);
	stream->phase = COPY_OPEN;
	stream->input_seen = false;
	put_copy_data(stream, copy_header, sizeof(copy_header));
}

/*
 * Has the partition said something?  In COPY it has no reason to, other than
 * that it failed.  libpq does not tell before the COPY is ended.
 */
static bool
input_pending(LogqConn *conn)
{
	struct pollfd pfd;

	pfd.fd = logq_conn_socket(conn);
	pfd.events = POLLIN;
	pfd.revents = 0;
	return pfd.fd >= 0 && poll(&pfd, 1, 0) > 0;
}

/*
 * Read what the partition said.  The loss of the connection is reported with
 * the reason that the server may have given.
 */
static void
consume_input(LogqWriteStream *stream)
{
	stream->input_seen = true;
	if (PQconsumeInput(stream->conn->pg) == 0)
	{
		PGresult   *res = PQgetResult(stream->conn->pg);

		logq_report_remote_error(ERROR, stream->conn, res, COPY_SQL(""));
	}
}

/*
 * Send from the buffer without waiting, as long as more than max_pending
 * bytes are left also with waiting.
 */
static void
push(LogqWriteStream *stream, int max_pending)
{
	LogqConn   *conn = stream->conn;

	for (;;)
	{
		int			pending = stream->buf.len - stream->sent;
		int			unsent = PQflush(conn->pg);

		if (unsent < 0)
		{
			consume_input(stream);
			logq_report_remote_error(ERROR, conn, NULL, COPY_SQL(""));
		}
		if (unsent == 0)
		{
			int			len = Min(pending, SEND_CHUNK);

			if (pending == 0)
				break;
			CHECK_FOR_INTERRUPTS();
			put_copy_data(stream, stream->buf.data + stream->sent, len);
			stream->sent += len;
			if (!stream->input_seen && input_pending(conn))
				consume_input(stream);
			continue;
		}
		if (pending <= max_pending)
			break;
		(void) logq_conn_wait(conn, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE,
							  0);
		if (input_pending(conn))
			consume_input(stream);
	}

	/* keep what is left at the front, and no memory of a giant row */
	if (stream->sent > 0)
	{
		stream->buf.len -= stream->sent;
		memmove(stream->buf.data, stream->buf.data + stream->sent,
				stream->buf.len);
		stream->sent = 0;
	}
	if (stream->buf.maxlen > 4 * MAX_PENDING && stream->buf.len < MAX_PENDING)
	{
		stream->buf.maxlen = MAX_PENDING;
		stream->buf.data = repalloc(stream->buf.data, MAX_PENDING);
	}
	stream->send_at = stream->buf.len + SEND_CHUNK;
}

/*
 * Send all that is left, and the end.
 */
static void
end_copy(LogqWriteStream *stream)
{
	int			rc;

	if (stream->phase != COPY_OPEN)
		return;
	push(stream, 0);
	put_copy_data(stream, copy_trailer, sizeof(copy_trailer));
	while ((rc = PQputCopyEnd(stream->conn->pg, NULL)) == 0)
		(void) logq_conn_wait(stream->conn, WL_SOCKET_WRITEABLE, 0);
	if (rc < 0)
		logq_report_remote_error(ERROR, stream->conn, NULL, COPY_SQL(""));
	/* get it on its way; the rest goes while the result is awaited */
	stream->phase = COPY_ENDED;
	(void) PQflush(stream->conn->pg);
}

/*
 * End a COPY in whatever phase it is.
 */
static void
finish_copy(LogqWriteStream *stream)
{
	if (stream->phase == COPY_CLOSED)
		return;
	await_copy(stream);
	end_copy(stream);
	collect_copy(stream);
}

/*
 * Send the buffer of a stream, beginning a COPY if there is none.
 *
 * If the partition has said something, the COPY is ended to hear what.  When
 * it was only a notice, the next row begins another one.
 */
void
logq_write_send(LogqWriteStream *stream, int max_pending)
{
	MemoryContext old = MemoryContextSwitchTo(stream->state->cxt);

	/* an end that was interrupted, in a function that caught the error */
	if (stream->phase == COPY_ENDED)
		collect_copy(stream);
	if (stream->phase == COPY_CLOSED)
		ask_copy(stream);
	await_copy(stream);
	push(stream, max_pending);
	if (stream->input_seen)
		finish_copy(stream);
	MemoryContextSwitchTo(old);
}

/*
 * The statement has come to its end: finish all partitions, each step on all
 * of them before the next, so that they work at the same time.
 */
void
logq_write_finish(LogqWriteState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->cxt);
	int			i;

	for (i = 0; i < state->nstreams; i++)
		if (state->streams[i].phase == COPY_CLOSED &&
			state->streams[i].buf.len > 0)
			ask_copy(&state->streams[i]);
	for (i = 0; i < state->nstreams; i++)
	{
		await_copy(&state->streams[i]);
		end_copy(&state->streams[i]);
	}
	for (i = 0; i < state->nstreams; i++)
		if (state->streams[i].phase != COPY_CLOSED)
			collect_copy(&state->streams[i]);
	MemoryContextSwitchTo(old);
}

/* ---------- ids ---------- */

/*
 * Reserve a block of ids, over the write connection while it is free, so that
 * a single INSERT ... RETURNING needs no second one.
 */
void
logq_write_reserve_ids(LogqWriteStream *stream)
{
	LogqPartition *part = stream->part;
	Oid			userid = stream->state->userid;
	bool		apart = copy_in_the_way(stream) != NULL;
	LogqConn   *conn;
	PGresult   *volatile res = NULL;
	char		sql[128];

	stream->id_block = stream->id_block == 0 ? MIN_ID_BLOCK :
		Min(stream->id_block * 2, MAX_ID_BLOCK);
	snprintf(sql, sizeof(sql),
			 "SELECT pg_catalog.nextval('logq_store.log_id_seq') FROM pg_catalog.generate_series(1, %d)",
			 stream->id_block);

	/* past a pooler, for the same reason as in make_segment_apart */
	conn = apart ? logq_conn_acquire_tested(part->serverid, userid) :
		logq_xact_begin_write(part->serverid, userid);

	PG_TRY();
	{
		int			i;

		if (apart)
			logq_conn_wait_ready(conn);
		res = logq_conn_exec(conn, sql);
		stream->nids = PQntuples(res);
		stream->next_id = 0;
		if (stream->ids != NULL)
			pfree(stream->ids);
		stream->ids = MemoryContextAlloc(stream->state->cxt,
										 Max(stream->nids, 1) * sizeof(int64));
		for (i = 0; i < stream->nids; i++)
			stream->ids[i] = strtoll(PQgetvalue(res, i, 0), NULL, 10);
	}
	PG_CATCH();
	{
		PQclear(res);
		if (apart)
			logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	PQclear(res);
	if (apart)
		logq_conn_release(conn);

	if (stream->nids == 0)
		elog(ERROR, "partition \"%s\" gave no ids", part->name);
}
