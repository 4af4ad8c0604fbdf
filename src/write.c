/*-------------------------------------------------------------------------
 *
 * write.c
 *		INSERT and COPY into a log table.
 *
 * A row is routed to a partition, encoded as a tuple of binary COPY and put
 * into that partition's buffer.  Buffers are sent as they fill, and at the
 * end of the statement all partitions finish at the same time.  Rows are
 * buffered here anyhow, so there is no ExecForeignBatchInsert: it would only
 * make the executor copy the rows once more before we see them.
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

#include "logq.h"

#include <poll.h>

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "foreign/fdwapi.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* bytes that go to libpq at a time; also when a buffer is worth sending */
#define SEND_CHUNK (64 * 1024)
/* bytes kept for a partition that reads slowly, before we wait for it */
#define MAX_PENDING (1024 * 1024)
/* a row must leave room for its lengths, here and on the partition */
#define MAX_ROW_SIZE (MaxAllocSize - SEND_CHUNK)
/* ids fetched at a time, when rows must know theirs */
#define MIN_ID_BLOCK 4
#define MAX_ID_BLOCK 8192
/* how much of a value an error shows */
#define MAX_SHOWN_VALUE 64
/* entries, and longest key, of the cache of routes */
#define ROUTE_CACHE_SIZE 64
#define ROUTE_CACHE_KEYLEN 52
/*
 * How long to wait for the lock to make a segment, in ms, when it might be
 * this transaction that holds it.
 */
#define SEGMENT_LOCK_TIMEOUT 1000

#define COPY_SQL(id) \
	"COPY logq_store.log (ts, level, service, message, trace_id, attrs" id \
	") FROM STDIN (FORMAT binary)"

/* signature, flags, length of the header extension; and the end of a file */
static const char copy_header[19] = "PGCOPY\n\377\r\n\0";
static const char copy_trailer[2] = {'\377', '\377'};

typedef enum CopyPhase
{
	COPY_CLOSED,
	COPY_ASKED,					/* command sent */
	COPY_OPEN,					/* takes data */
	COPY_ENDED					/* end sent, result to come */
} CopyPhase;

/* What one statement writes to one partition */
typedef struct WriteStream
{
	struct WriteState *state;
	LogqPartition *part;
	CopyPhase	phase;
	LogqConn   *conn;			/* unless COPY_CLOSED */
	PGresult   *failure;		/* first error of the COPY's results */
	bool		input_seen;		/* the partition said something */
	StringInfoData buf;
	int			sent;			/* bytes of buf that libpq has */
	int			send_at;		/* send when so many are pending */
	/* a segment that takes rows, and the version that is known from */
	TimestampTz lower;
	TimestampTz upper;
	int64		version;
	/* reserved ids */
	int64	   *ids;
	int			nids;
	int			next_id;
	int			id_block;
	double		rows;
	struct WriteStream *next;	/* in open_copies */
} WriteStream;

typedef struct RouteCacheEntry
{
	int16		stream;			/* -1: free */
	int16		keylen;
	char		key[ROUTE_CACHE_KEYLEN];
} RouteCacheEntry;

/* What one statement writes to one log table */
typedef struct WriteState
{
	MemoryContext cxt;
	MemoryContext row_cxt;		/* reset for each row */
	MemoryContextCallback callback;
	Relation	rel;
	LogqRelMap	map;
	Oid			userid;
	bool		need_slot;		/* the stored row is looked at */
	bool		need_id;		/* and its id */
	LogqRouteBy route_by;
	int			nstreams;
	WriteStream *streams;		/* by the partition's number */
	int32	   *numbers;		/* likewise */
	RouteCacheEntry *route_cache;
} WriteState;

/* members of fdw_private */
enum WritePrivate
{
	WRITE_PRIVATE_NEED_SLOT,
	WRITE_PRIVATE_NEED_ID
};

/* streams of all statements under way that have a COPY */
static WriteStream *open_copies = NULL;

/*
 * Partitions of which this transaction is known to hold the catalog's lock.
 * In TopTransactionContext, which takes it along.
 */
static List *locked_parts = NIL;

static void finish_copy(WriteStream *stream);

/* ---------- routing ---------- */

/*
 * Highest random weight: each partition draws a number for the key and the
 * highest wins, so a new partition takes its share of the keys from all others
 * and moves no other key.  Returns an index into numbers; the lower number
 * wins a tie.
 *
 * The hash differs between byte orders.  Only the balance of the partitions
 * depends on it; no query relies on where a key lies.
 */
int
logq_route(const int32 *numbers, int n, const char *key, int keylen)
{
	int			best = 0;
	uint64		best_weight = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		uint64		weight = hash_bytes_extended((const unsigned char *) key,
												 keylen, (uint64) numbers[i]);

		if (i == 0 || weight > best_weight ||
			(weight == best_weight && numbers[i] < numbers[best]))
		{
			best = i;
			best_weight = weight;
		}
	}
	return best;
}

/*
 * The stream that takes a key.  Services are few, so that remembering their
 * routes saves a hash per row and partition.
 */
static WriteStream *
route_key(WriteState *state, const char *key, int keylen)
{
	RouteCacheEntry *entry = NULL;
	int			best;

	if (keylen <= ROUTE_CACHE_KEYLEN)
	{
		uint32		hash = hash_bytes((const unsigned char *) key, keylen);

		entry = &state->route_cache[hash % ROUTE_CACHE_SIZE];
		if (entry->stream >= 0 && entry->keylen == keylen &&
			memcmp(entry->key, key, keylen) == 0)
			return &state->streams[entry->stream];
	}
	best = logq_route(state->numbers, state->nstreams, key, keylen);
	if (entry != NULL && best <= PG_INT16_MAX)
	{
		entry->stream = best;
		entry->keylen = keylen;
		memcpy(entry->key, key, keylen);
	}
	return &state->streams[best];
}

/*
 * The stream of the partition that the row itself names.
 */
static WriteStream *
named_partition(WriteState *state, text *name)
{
	StringInfoData known;
	int			i;

	for (i = 0; i < state->nstreams; i++)
	{
		const char *candidate = state->streams[i].part->name;

		if (strlen(candidate) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(candidate, VARDATA_ANY(name), strlen(candidate)) == 0)
			return &state->streams[i];
	}

	initStringInfo(&known);
	for (i = 0; i < state->nstreams; i++)
		appendStringInfo(&known, "%s\"%s\"", i > 0 ? ", " : "",
						 state->streams[i].part->name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("partition \"%s\" does not exist",
					text_to_cstring(name)),
			 errdetail("The partitions are %s.", known.data),
			 errhint("Leave column \"partition\" out to have rows routed.")));
	return NULL;				/* keep compiler quiet */
}

/*
 * The stream that a row goes to.  values are by LogqColumn.
 */
static WriteStream *
route_row(WriteState *state, const Datum *values, const bool *nulls)
{
	static uint32 turn = 0;
	static bool turn_set = false;
	int			key;

	if (!nulls[LOGQ_COL_PARTITION])
		return named_partition(state,
							   DatumGetTextPP(values[LOGQ_COL_PARTITION]));

	if (state->route_by != LOGQ_ROUTE_ROUND_ROBIN)
	{
		key = state->route_by == LOGQ_ROUTE_SERVICE ?
			LOGQ_COL_SERVICE : LOGQ_COL_TRACE_ID;
		if (!nulls[key])
		{
			text	   *t = DatumGetTextPP(values[key]);

			return route_key(state, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
		}
		if (key == LOGQ_COL_SERVICE)
			return route_key(state, "", 0);
	}

	/* sessions that insert one row each shall not all begin with the first */
	if (!turn_set)
	{
		turn = (uint32) MyProcPid;
		turn_set = true;
	}
	return &state->streams[turn++ % state->nstreams];
}

/* ---------- segments ---------- */

/*
 * The call that makes the segment for ts.  lock_timeout is in ms, 0 is none;
 * it holds for this call, as several statements in one message are one
 * transaction.
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
	PGresult   *volatile failure = NULL;
	PGresult   *res;
	const char *sqlstate;

	logq_conn_send(conn, sql);
	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			/* an error is the last result */
			if (PQresultStatus(res) != PGRES_COMMAND_OK &&
				PQresultStatus(res) != PGRES_TUPLES_OK)
			{
				PQclear(failure);
				failure = res;
			}
			else
				PQclear(res);
		}
	}
	PG_CATCH();
	{
		PQclear(failure);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (failure != NULL)
	{
		sqlstate = PQresultErrorField(failure, PG_DIAG_SQLSTATE);
		/* lock_not_available */
		if (lock_timeout == 0 || sqlstate == NULL ||
			strcmp(sqlstate, "55P03") != 0)
			logq_report_remote_error(ERROR, conn, failure, sql);
		PQclear(failure);
		return false;
	}
	pfree(sql);
	return true;
}

/*
 * Make the segment for ts on a connection of its own and take over the
 * partition's catalog.  False: lock_timeout has passed.
 */
static bool
make_segment_apart(LogqPartition *part, Oid userid, TimestampTz ts,
				   int lock_timeout)
{
	LogqConn   *conn = logq_conn_acquire(part->serverid, userid, false);
	volatile bool made = false;

	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		made = call_make_segment(conn, ts, lock_timeout);
		if (made)
			logq_catalog_load(part, conn);
	}
	PG_FINALLY();
	{
		logq_conn_release(conn);
	}
	PG_END_TRY();
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
	LogqConn   *conn = logq_conn_acquire(part->serverid, userid, false);

	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		logq_catalog_load(part, conn);
	}
	PG_FINALLY();
	{
		logq_conn_release(conn);
	}
	PG_END_TRY();
}

/*
 * Memory context callback: the transaction is over, and its locks with it.
 */
static void
forget_locked_parts(void *arg)
{
	locked_parts = NIL;
}

/*
 * Make the segment inside the remote write transaction.  The catalog that is
 * then loaded has what is not committed yet; xact.c throws it away when the
 * transaction aborts, and until the end nobody else can make a version, as
 * the lock is ours.
 */
static void
make_segment_inside(WriteStream *stream, TimestampTz ts)
{
	LogqConn   *conn = logq_xact_begin_write(stream->part->serverid,
											 stream->state->userid);
	char	   *sql = make_segment_sql(ts, 0);

	PQclear(logq_conn_exec(conn, sql));
	logq_catalog_load(stream->part, conn);
	pfree(sql);

	if (!list_member_ptr(locked_parts, stream->part))
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		if (locked_parts == NIL)
		{
			MemoryContextCallback *cb = palloc(sizeof(MemoryContextCallback));

			cb->func = forget_locked_parts;
			cb->arg = NULL;
			MemoryContextRegisterResetCallback(TopTransactionContext, cb);
		}
		locked_parts = lappend(locked_parts, stream->part);
		MemoryContextSwitchTo(old);
	}
}

/*
 * End the COPY, of this or another statement, that is under way on the
 * connection which this stream would write over.
 */
static void
finish_copy_in_the_way(WriteStream *stream)
{
	WriteStream *other;

	for (other = open_copies; other != NULL; other = other->next)
	{
		if (other->part == stream->part &&
			other->state->userid == stream->state->userid)
		{
			finish_copy(other);
			return;
		}
	}
}

/*
 * See to it that the partition has a segment for ts, and that a COPY which
 * this stream has open began when that segment was there.
 */
static void
ensure_segment(WriteStream *stream, TimestampTz ts)
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
		 * When this transaction has written to the partition it may hold the
		 * lock on the catalog's version (late rows raise it), and would wait
		 * for itself without anybody noticing.
		 */
		if (logq_xact_written_conn(part->serverid, userid) == NULL)
			logq_make_segment(part, userid, ts);
		else if (list_member_ptr(locked_parts, part) ||
				 !make_segment_apart(part, userid, ts, SEGMENT_LOCK_TIMEOUT))
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
static void
unlink_copy(WriteStream *stream)
{
	WriteStream **link;

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
report_copy_failure(WriteStream *stream, LogqConn *conn)
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
collect_copy(WriteStream *stream)
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
	unlink_copy(stream);
	if (stream->failure != NULL)
		report_copy_failure(stream, conn);
}

/*
 * Begin a COPY; await_copy() has to follow.
 */
static void
ask_copy(WriteStream *stream)
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
	logq_conn_send(conn, stream->state->need_id ?
				   COPY_SQL(", id") : COPY_SQL(""));
}

/*
 * Hand bytes to libpq.  It queues without a limit of its own, so callers
 * look at PQflush() first.
 */
static void
put_copy_data(WriteStream *stream, const char *data, int len)
{
	if (PQputCopyData(stream->conn->pg, data, len) != 1)
		logq_report_remote_error(ERROR, stream->conn, NULL, COPY_SQL(""));
}

/*
 * Wait until the partition takes data.
 */
static void
await_copy(WriteStream *stream)
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

	pfd.fd = PQsocket(conn->pg);
	pfd.events = POLLIN;
	pfd.revents = 0;
	return pfd.fd >= 0 && poll(&pfd, 1, 0) > 0;
}

/*
 * Read what the partition said.  The loss of the connection is reported with
 * the reason that the server may have given.
 */
static void
consume_input(WriteStream *stream)
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
push(WriteStream *stream, int max_pending)
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
end_copy(WriteStream *stream)
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
finish_copy(WriteStream *stream)
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
static void
send_buffer(WriteStream *stream, int max_pending)
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
static void
finish_all(WriteState *state)
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
static void
reserve_ids(WriteStream *stream)
{
	LogqPartition *part = stream->part;
	Oid			userid = stream->state->userid;
	WriteStream *other;
	volatile bool apart = false;
	LogqConn   *conn;
	PGresult   *volatile res = NULL;
	char		sql[128];

	stream->id_block = stream->id_block == 0 ? MIN_ID_BLOCK :
		Min(stream->id_block * 2, MAX_ID_BLOCK);
	snprintf(sql, sizeof(sql),
			 "SELECT pg_catalog.nextval('logq_store.log_id_seq') FROM pg_catalog.generate_series(1, %d)",
			 stream->id_block);

	for (other = open_copies; other != NULL; other = other->next)
		if (other->part == part && other->state->userid == userid)
			apart = true;
	conn = apart ? logq_conn_acquire(part->serverid, userid, false) :
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
	PG_FINALLY();
	{
		PQclear(res);
		if (apart)
			logq_conn_release(conn);
	}
	PG_END_TRY();

	if (stream->nids == 0)
		elog(ERROR, "partition \"%s\" gave no ids", part->name);
}

/* ---------- rows ---------- */

/*
 * Show the row as core does for its own constraints, to whom may read it.
 */
static char *
describe_row(WriteState *state, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(state->rel);
	StringInfoData buf;
	int			i;
	bool		first = true;

	if (pg_class_aclcheck(RelationGetRelid(state->rel), GetUserId(),
						  ACL_SELECT) != ACLCHECK_OK)
		return NULL;

	initStringInfo(&buf);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid			output;
		bool		is_varlena;
		char	   *value;
		int			len;

		if (att->attisdropped)
			continue;
		if (!first)
			appendStringInfoString(&buf, ", ");
		first = false;
		if (slot->tts_isnull[i])
		{
			appendStringInfoString(&buf, "null");
			continue;
		}
		getTypeOutputInfo(att->atttypid, &output, &is_varlena);
		value = OidOutputFunctionCall(output, slot->tts_values[i]);
		len = strlen(value);
		if (len > MAX_SHOWN_VALUE)
		{
			len = pg_mbcliplen(value, len, MAX_SHOWN_VALUE);
			appendBinaryStringInfo(&buf, value, len);
			appendStringInfoString(&buf, "...");
		}
		else
			appendStringInfoString(&buf, value);
		pfree(value);
	}
	return buf.data;
}

/*
 * Errors unless the row can be stored at all.  Returns about its size.
 */
static Size
check_row(WriteState *state, const Datum *values, const bool *nulls,
		  TupleTableSlot *slot)
{
	const char *relname = RelationGetRelationName(state->rel);
	TimestampTz ts;
	Size		size = 0;
	int			col;

	if (nulls[LOGQ_COL_TS])
	{
		char	   *row = describe_row(state, slot);

		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
						logq_columns[LOGQ_COL_TS].name, relname),
				 row ? errdetail("Failing row contains (%s).", row) : 0));
	}
	ts = DatumGetTimestampTz(values[LOGQ_COL_TS]);
	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("column \"%s\" of relation \"%s\" cannot be infinite",
						logq_columns[LOGQ_COL_TS].name, relname),
				 errhint("Every row lies in a segment of time. Give the time of the event.")));
	if (!nulls[LOGQ_COL_ID])
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot insert a non-DEFAULT value into column \"%s\"",
						logq_columns[LOGQ_COL_ID].name),
				 errdetail("Ids are assigned by the partitions."),
				 errhint("Leave the column out, or use DEFAULT.")));

	for (col = LOGQ_COL_LEVEL; col <= LOGQ_COL_ATTRS; col++)
		if (!nulls[col])
			size += toast_raw_datum_size(values[col]);
	if (size > MAX_ROW_SIZE)
	{
		char	   *service = nulls[LOGQ_COL_SERVICE] ? NULL :
			TextDatumGetCString(values[LOGQ_COL_SERVICE]);

		if (service != NULL && strlen(service) > MAX_SHOWN_VALUE)
			service[pg_mbcliplen(service, strlen(service),
								 MAX_SHOWN_VALUE)] = '\0';
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row of %zu bytes is too large for relation \"%s\"",
						size, relname),
				 errdetail("The row is of service \"%s\" at %s. The limit is %zu bytes.",
						   service ? service : "", timestamptz_to_str(ts),
						   (Size) MAX_ROW_SIZE)));
	}
	return size;
}

/*
 * Append a field of text, which is in the encoding that we told the partition.
 */
static void
append_text(StringInfo buf, Datum value)
{
	text	   *t = DatumGetTextPP(value);
	int			len = VARSIZE_ANY_EXHDR(t);

	pq_sendint32(buf, len);
	appendBinaryStringInfo(buf, VARDATA_ANY(t), len);
}

/*
 * Append a field of jsonb: its external form is a version and the text.  The
 * length is known only when the text is there.
 */
static void
append_jsonb(StringInfo buf, Datum value)
{
	Jsonb	   *jb = DatumGetJsonbP(value);
	int			at = buf->len;
	uint32		len;

	pq_sendint32(buf, 0);
	pq_sendint8(buf, 1);
	(void) JsonbToCString(buf, &jb->root, VARSIZE(jb));
	len = pg_hton32((uint32) (buf->len - at - 4));
	memcpy(buf->data + at, &len, 4);
}

/*
 * Append a row as a tuple of binary COPY.
 */
static void
append_row(WriteStream *stream, const Datum *values, const bool *nulls,
		   int64 id)
{
	StringInfo	buf = &stream->buf;
	bool		with_id = stream->state->need_id;
	int			col;

	pq_sendint16(buf, with_id ? 7 : 6);
	pq_sendint32(buf, 8);
	pq_sendint64(buf, DatumGetTimestampTz(values[LOGQ_COL_TS]));
	for (col = LOGQ_COL_LEVEL; col <= LOGQ_COL_ATTRS; col++)
	{
		if (nulls[col])
			pq_sendint32(buf, (uint32) -1);
		else if (col == LOGQ_COL_ATTRS)
			append_jsonb(buf, values[col]);
		else
			append_text(buf, values[col]);
	}
	if (with_id)
	{
		pq_sendint32(buf, 8);
		pq_sendint64(buf, id);
	}
}

/*
 * Put what the partition assigns into the slot, for RETURNING and the like.
 * The slot of a foreign table holds a heap tuple, so that a new one has to be
 * formed, in the slot's context, before the old one goes.
 */
static void
complete_slot(WriteStream *stream, TupleTableSlot *slot, int64 id)
{
	WriteState *state = stream->state;
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	AttrNumber	attno;
	MemoryContext old;
	HeapTuple	tuple;

	memcpy(values, slot->tts_values, desc->natts * sizeof(Datum));
	memcpy(nulls, slot->tts_isnull, desc->natts * sizeof(bool));
	if ((attno = state->map.attno[LOGQ_COL_PARTITION]) > 0)
	{
		values[attno - 1] = CStringGetTextDatum(stream->part->name);
		nulls[attno - 1] = false;
	}
	if (state->need_id && (attno = state->map.attno[LOGQ_COL_ID]) > 0)
	{
		values[attno - 1] = Int64GetDatum(id);
		nulls[attno - 1] = false;
	}

	old = MemoryContextSwitchTo(slot->tts_mcxt);
	tuple = heap_form_tuple(desc, values, nulls);
	tuple->t_tableOid = RelationGetRelid(state->rel);
	ExecForceStoreHeapTuple(tuple, slot, true);
	MemoryContextSwitchTo(old);
}

/*
 * Take one row.
 */
static TupleTableSlot *
exec_foreign_insert(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot,
					TupleTableSlot *planSlot)
{
	WriteState *state = rri->ri_FdwState;
	WriteStream *stream;
	Datum		values[LOGQ_NCOLUMNS];
	bool		nulls[LOGQ_NCOLUMNS];
	MemoryContext old;
	Size		size;
	int64		id = 0;
	int			col;

	MemoryContextReset(state->row_cxt);
	old = MemoryContextSwitchTo(state->row_cxt);

	slot_getallattrs(slot);
	for (col = 0; col < LOGQ_NCOLUMNS; col++)
	{
		AttrNumber	attno = state->map.attno[col];

		nulls[col] = attno == 0 || slot->tts_isnull[attno - 1];
		values[col] = nulls[col] ? (Datum) 0 : slot->tts_values[attno - 1];
	}
	size = check_row(state, values, nulls, slot);

	if (state->nstreams == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no partitions to store rows of relation \"%s\"",
						RelationGetRelationName(state->rel)),
				 errhint("Add one with SELECT logq.add_partition(...).")));

	stream = route_row(state, values, nulls);
	ensure_segment(stream, DatumGetTimestampTz(values[LOGQ_COL_TS]));
	if (state->need_id)
	{
		if (stream->next_id == stream->nids)
			reserve_ids(stream);
		id = stream->ids[stream->next_id++];
	}

	/* a giant row would not fit behind what waits */
	if (size > MAX_PENDING && stream->buf.len > 0)
		send_buffer(stream, 0);
	append_row(stream, values, nulls, id);
	stream->rows++;
	if (stream->buf.len >= stream->send_at)
		send_buffer(stream, MAX_PENDING);

	if (state->need_slot)
		complete_slot(stream, slot, id);
	MemoryContextSwitchTo(old);
	return slot;
}

/* ---------- begin and end ---------- */

/*
 * The statement's memory goes, after its end or an error.  Connections are
 * the business of xact.c.
 */
static void
state_freed(void *arg)
{
	WriteState *state = arg;
	int			i;

	for (i = 0; i < state->nstreams; i++)
	{
		unlink_copy(&state->streams[i]);
		PQclear(state->streams[i].failure);
		state->streams[i].failure = NULL;
	}
}

/*
 * Get ready for writing to a log table.
 */
static void
begin_write(EState *estate, ResultRelInfo *rri, bool need_slot, bool need_id)
{
	MemoryContext cxt = AllocSetContextCreate(estate->es_query_cxt,
											  "logq write",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	WriteState *state = palloc0(sizeof(WriteState));
	List	   *parts;
	ListCell   *lc;
	int			i;

	state->cxt = cxt;
	state->row_cxt = AllocSetContextCreate(cxt, "logq row",
										   ALLOCSET_DEFAULT_SIZES);
	state->rel = rri->ri_RelationDesc;
	logq_rel_map(state->rel, &state->map);
	state->userid = logq_result_rel_user(rri, estate);
	state->need_slot = need_slot;
	state->need_id = need_id;
	state->route_by = logq_route_by;

	parts = logq_partitions();
	state->streams = palloc0(Max(list_length(parts), 1) *
							 sizeof(WriteStream));
	state->numbers = palloc(Max(list_length(parts), 1) * sizeof(int32));
	foreach(lc, parts)
	{
		LogqPartition *part = lfirst(lc);
		WriteStream *stream = &state->streams[state->nstreams];

		/* a partition without its server cannot take rows */
		if (!OidIsValid(part->serverid))
			continue;
		stream->state = state;
		stream->part = part;
		stream->lower = DT_NOEND;
		stream->upper = DT_NOBEGIN;
		stream->send_at = SEND_CHUNK;
		initStringInfo(&stream->buf);
		state->numbers[state->nstreams++] = part->number;
	}
	state->route_cache = palloc(ROUTE_CACHE_SIZE * sizeof(RouteCacheEntry));
	for (i = 0; i < ROUTE_CACHE_SIZE; i++)
		state->route_cache[i].stream = -1;

	state->callback.func = state_freed;
	state->callback.arg = state;
	MemoryContextRegisterResetCallback(cxt, &state->callback);
	MemoryContextSwitchTo(old);
	rri->ri_FdwState = state;
}

/*
 * Send the rest.  Only called when the statement has succeeded so far.
 */
static void
end_write(EState *estate, ResultRelInfo *rri)
{
	WriteState *state = rri->ri_FdwState;

	if (state == NULL)
		return;
	rri->ri_FdwState = NULL;
	finish_all(state);
	MemoryContextDelete(state->cxt);
}

/*
 * AFTER ROW triggers are queued with the whole row.
 */
static bool
has_after_triggers(ResultRelInfo *rri)
{
	return rri->ri_TrigDesc != NULL && rri->ri_TrigDesc->trig_insert_after_row;
}

/*
 * Refuse what cannot be done, and find out whether anybody wants to see ids.
 */
static List *
plan_foreign_modify(PlannerInfo *root, ModifyTable *plan,
					Index resultRelation, int subplan_index)
{
	RangeTblEntry *rte = planner_rt_fetch(resultRelation, root);
	const char *relname = get_rel_name(rte->relid);
	Bitmapset  *attrs = NULL;
	bool		need_slot = false;
	bool		need_id = false;

	switch (plan->operation)
	{
		case CMD_INSERT:
			break;
		case CMD_UPDATE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot update foreign table \"%s\"", relname),
					 errhint("Logs are append-only.")));
			break;
		case CMD_DELETE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot delete from foreign table \"%s\"",
							relname),
					 errhint("Logs are append-only. Old rows leave with their segment.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot merge into foreign table \"%s\"",
							relname),
					 errhint("Logs are append-only. Use INSERT.")));
	}
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT is not supported for foreign table \"%s\"",
						relname),
				 errhint("Log rows have no key that could conflict. Leave the clause out.")));

	if (plan->returningLists != NIL)
		pull_varattnos((Node *) list_nth(plan->returningLists, subplan_index),
					   resultRelation, &attrs);
	if (plan->withCheckOptionLists != NIL)
		pull_varattnos((Node *) list_nth(plan->withCheckOptionLists,
										 subplan_index),
					   resultRelation, &attrs);
	if (attrs != NULL)
	{
		int			i = -1;

		while ((i = bms_next_member(attrs, i)) >= 0)
		{
			AttrNumber	attno = i + FirstLowInvalidHeapAttributeNumber;
			char	   *attname;

			if (attno < 0)
				continue;		/* tableoid is core's business */
			if (attno == InvalidAttrNumber)
			{
				need_slot = need_id = true; /* the whole row */
				continue;
			}
			attname = get_attname(rte->relid, attno, false);
			if (strcmp(attname, logq_columns[LOGQ_COL_ID].name) == 0)
				need_slot = need_id = true;
			else if (strcmp(attname,
							logq_columns[LOGQ_COL_PARTITION].name) == 0)
				need_slot = true;
		}
	}
	return list_make2(makeBoolean(need_slot), makeBoolean(need_id));
}

/*
 * INSERT begins.  EXPLAIN alone needs nothing.
 */
static void
begin_foreign_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
					 List *fdw_private, int subplan_index, int eflags)
{
	bool		triggers = has_after_triggers(rri);

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	begin_write(mtstate->ps.state, rri,
				triggers ||
				boolVal(list_nth(fdw_private, WRITE_PRIVATE_NEED_SLOT)),
				triggers ||
				boolVal(list_nth(fdw_private, WRITE_PRIVATE_NEED_ID)));
}

/*
 * COPY FROM begins, or rows are routed here as to a partition of a local
 * table.  Then there is no plan of ours that says which columns are wanted.
 */
static void
begin_foreign_insert(ModifyTableState *mtstate, ResultRelInfo *rri)
{
	ModifyTable *plan = (ModifyTable *) mtstate->ps.plan;
	bool		need;

	if (rri->ri_FdwState != NULL)
		return;
	if (plan != NULL && plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT is not supported for foreign table \"%s\"",
						RelationGetRelationName(rri->ri_RelationDesc)),
				 errhint("Log rows have no key that could conflict. Leave the clause out.")));

	need = has_after_triggers(rri) || rri->ri_WithCheckOptions != NIL ||
		(plan != NULL && plan->returningLists != NIL);
	begin_write(mtstate->ps.state, rri, need, need);
}

/*
 * Only INSERT.
 */
static int
is_foreign_rel_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

/*
 * TRUNCATE is refused with more reason than core would give.
 */
static void
exec_foreign_truncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot truncate foreign table \"%s\"",
					RelationGetRelationName((Relation) linitial(rels))),
			 errhint("Logs are append-only. Old rows leave with their segment.")));
}

/*
 * How rows are routed and, when they have been, to how many partitions.
 */
static void
explain_foreign_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
					   List *fdw_private, int subplan_index,
					   ExplainState *es)
{
	static const char *const route_names[] = {
		[LOGQ_ROUTE_SERVICE] = "service",
		[LOGQ_ROUTE_TRACE_ID] = "trace_id",
		[LOGQ_ROUTE_ROUND_ROBIN] = "round robin"
	};
	WriteState *state = rri->ri_FdwState;
	ListCell   *lc;
	int			n = 0;

	foreach(lc, logq_partitions())
		if (OidIsValid(((LogqPartition *) lfirst(lc))->serverid))
			n++;
	ExplainPropertyText("Route By", route_names[logq_route_by], es);
	ExplainPropertyInteger("Partitions", NULL, n, es);
	if (es->analyze && state != NULL)
	{
		int			i;

		n = 0;
		for (i = 0; i < state->nstreams; i++)
			if (state->streams[i].rows > 0)
				n++;
		ExplainPropertyInteger("Partitions Written", NULL, n, es);
	}
}

/*
 * Install the callbacks.
 */
void
logq_write_init(FdwRoutine *routine)
{
	routine->PlanForeignModify = plan_foreign_modify;
	routine->BeginForeignModify = begin_foreign_modify;
	routine->ExecForeignInsert = exec_foreign_insert;
	routine->EndForeignModify = end_write;
	routine->BeginForeignInsert = begin_foreign_insert;
	routine->EndForeignInsert = end_write;
	routine->IsForeignRelUpdatable = is_foreign_rel_updatable;
	routine->ExplainForeignModify = explain_foreign_modify;
	routine->ExecForeignTruncate = exec_foreign_truncate;
}
