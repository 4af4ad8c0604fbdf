/*-------------------------------------------------------------------------
 *
 * failover.c
 *		A stream and the servers that could answer it.
 *
 * A request goes to one server of the partition.  When that cannot be reached,
 * hangs up, has a trouble of its own or is silent for too long, what is missing
 * is asked of another one: an ordered fragment behind its last row, an
 * unordered one without the rows that it has brought (rows.c).  Each server is
 * asked once until there is progress.  When all have failed, the query fails,
 * or, if that was asked for, goes on without the rest and says so.
 *
 * Replicas.  The primary's answer tells where its WAL was, and the coordinator
 * notes where it was at which time.  A request to a replica begins with the
 * question how far it has replayed, before its snapshot is taken.  It is passed
 * over when that is more than logq.max_replica_lag before what the primary had
 * when it was last heard of, when it lacks
 * what this session has written or this scan has seen of the primary, and when
 * its catalog is older than the one that is known.  A replica that lacks only
 * what is on its way is tried again for a moment, if there is no other server.
 * A scan that has begun on the primary therefore never misses a row when it
 * goes on elsewhere.
 *
 * Time.  A partition sends results when its buffer is full, or at the end of
 * the request; so silence would say nothing.  But a notice is sent at once,
 * with all that is before it.  Casting '' to tsquery gives one while the
 * statement is analyzed, at no cost, in all versions and without a right to
 * anything.  With it in the first COPY (and before segments that take long), the
 * time to the first result says how the server fares, not how much work the
 * query is, and deadlines and second requests can go by it.
 *
 * Second requests.  When the first result takes longer than nearly all have
 * taken so far, another server is asked the same, if the purse has room.
 * Whoever has a result first goes on, the other one's connection is closed.
 * Nothing of the first request has been used by then.
 *
 * Invariants: a hedge exists only while the request has no result.  "tried"
 * holds those that failed since the last row or fragment.  Nothing here waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "query.h"

/* failures of one stream in one run, whatever progress there is between */
#define MAX_FAILURES 100
/* a replica that is about to have what it lacks */
#define BEHIND_RETRY_MS 20
#define MAX_BEHIND_MS 1000
/*
 * One that was silent for less is not blamed: what deadlines a session likes
 * to have must not keep others from a server.
 */
#define MIN_BLAMED_MS 100
/* what a replica may have received of a record whose end was never sent */
#define MAX_RECORD_TAIL (256 * 1024)

/*
 * In a transaction of its own, as its snapshot must not be the rows'.
 */
const char *
logq_replica_sql(void)
{
	return "BEGIN READ ONLY; SELECT pg_catalog.pg_is_in_recovery(), "
		"(pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn)::bigint, "
		"(pg_catalog.pg_last_wal_receive_lsn() - '0/0'::pg_catalog.pg_lsn)::bigint, "
		"(extract(epoch FROM pg_catalog.clock_timestamp() -"
		" pg_catalog.pg_last_xact_replay_timestamp()) * 1000)::bigint, "
		"CASE WHEN pg_catalog.pg_is_in_recovery()"
		" THEN pg_catalog.pg_is_wal_replay_paused() OR"
		" pg_catalog.current_setting('recovery_min_apply_delay') <> '0' END, "
		"pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()); "
		"COMMIT; ";
}

/* ---------- failures ---------- */

/*
 * May another server, or another connection, do better?  Lost connections,
 * shutdowns, what a server lacks (memory, disk, places), damaged files, and
 * the conflicts of a standby with its replay.
 */
bool
logq_failure_may_pass(const LogqFailure *failure)
{
	int			category = ERRCODE_TO_CATEGORY(failure->sqlstate);

	return failure->lost || failure->fatal ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
		failure->sqlstate == ERRCODE_ADMIN_SHUTDOWN ||
		failure->sqlstate == ERRCODE_CRASH_SHUTDOWN ||
		failure->sqlstate == ERRCODE_CANNOT_CONNECT_NOW ||
		failure->sqlstate == ERRCODE_DATA_CORRUPTED ||
		failure->sqlstate == ERRCODE_INDEX_CORRUPTED;
}

/*
 * A failure that is not the partition's own words.
 */
static LogqFailure *
make_failure(LogqStream *stream, int sqlstate, const char *reason)
{
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);
	LogqFailure *failure = palloc0(sizeof(LogqFailure));

	failure->sqlstate = sqlstate;
	failure->reason = pstrdup(reason);
	failure->message = psprintf("partition \"%s\" %s", stream->part->name,
								reason);
	MemoryContextSwitchTo(old);
	return failure;
}

/*
 * What there is to say when all servers have failed.
 */
static LogqFailure *
final_failure(LogqStream *stream)
{
	LogqServers *servers = stream->servers;
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);
	LogqFailure *failure;
	StringInfoData detail;

	if (servers->n == 1 && stream->failures[0] != NULL)
	{
		MemoryContextSwitchTo(old);
		return stream->failures[0];
	}

	failure = palloc0(sizeof(LogqFailure));
	failure->sqlstate = ERRCODE_CONNECTION_FAILURE;
	failure->message = servers->n == 1 ?
		psprintf("partition \"%s\" is not available", stream->part->name) :
		psprintf("no server of partition \"%s\" could answer",
				 stream->part->name);
	initStringInfo(&detail);
	for (int i = 0; i < servers->n; i++)
	{
		const LogqFailure *one = stream->failures[i];
		const char *reason = one ? one->reason :
			logq_server_refusal(servers, i);

		appendStringInfo(&detail, "%s%s: %s", i > 0 ? "\n" : "",
						 servers->servers[i].address, reason);
		if (i == 0 || failure->reason == NULL)
			failure->reason = psprintf("%s: %s",
									   servers->servers[i].address, reason);
	}
	failure->detail = detail.data;
	failure->hint = "See the view \"logq.stat_partitions\" for the state of all servers.";
	MemoryContextSwitchTo(old);
	return failure;
}

/*
 * There is nobody left to ask: the query fails, or goes on without the rest.
 */
static void
give_up(LogqStream *stream, LogqFailure *failure)
{
	bool		known = stream->was_missing;

	stream->was_missing = true;
	if (!logq_partial_results)
		logq_report_failure(ERROR, failure);
	stream->missing = failure;
	if (stream->load != NULL)
	{
		logq_catalog_load_abort(stream->load);
		stream->load = NULL;
	}
	stream->state = LOGQ_STREAM_DONE;
	/* an inner side of a join may miss it thousands of times */
	if (!known)
		logq_query_warn_missing(stream);
}

/*
 * A replica lacks something, and it was nobody's fault: it may be asked again
 * in a moment.
 */
static bool
wait_for_replicas(LogqStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();

	if (stream->behind == 0)
		return false;
	if (stream->behind_until == 0)
		stream->behind_until = TimestampTzPlusMilliseconds(now,
														   MAX_BEHIND_MS);
	if (now >= stream->behind_until)
		return false;
	stream->tried &= ~stream->behind;
	stream->behind = 0;
	stream->retry_at = TimestampTzPlusMilliseconds(now, BEHIND_RETRY_MS);
	stream->state = LOGQ_STREAM_BACKOFF;
	return true;
}

/*
 * Take a connection to a server for the request that is prepared.
 */
static void
use_server(LogqStream *stream, int server, LogqAcquire how)
{
	stream->server = server;
	stream->answered = false;
	stream->promoted = false;
	stream->conn = logq_conn_acquire_server(stream->part->serverid,
											stream->userid,
											&stream->servers->servers[server],
											how);
	stream->generation++;
	stream->ready_events = 0;
	stream->fresh = stream->conn->state == LOGQ_CONN_CONNECTING;
	stream->attempt_at = GetCurrentTimestamp();
	stream->sent_at = 0;
	stream->state = LOGQ_STREAM_CONNECTING;
	stream->hedge_at = 0;
	logq_health_asked(stream->servers, server, false);
	if (logq_enable_hedging && stream->servers->n > 1)
		stream->hedge_at = stream->attempt_at +
			(TimestampTz) (1000 * logq_hedge_delay(stream->servers, server,
												   stream->fresh));
}

/*
 * See stream.h.
 */
void
logq_stream_connect(LogqStream *stream)
{
	int			server;

	if (stream->servers == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(stream->cxt);

		stream->servers = logq_servers(stream->part->serverid);
		MemSet(stream->failures, 0, sizeof(stream->failures));
		stream->tracked = stream->servers->n > 1 &&
			!stream->request->ordered && stream->request->id_field >= 0;
		MemoryContextSwitchTo(old);
	}
	server = logq_choose_server(stream->servers, stream->userid,
								stream->tried);
	if (server >= 0)
		use_server(stream, server, LOGQ_ACQUIRE_POOLED);
	else if (!wait_for_replicas(stream))
		give_up(stream, final_failure(stream));
}

/*
 * Can what is missing be told from what has been had?
 */
static bool
can_resume(const LogqStream *stream)
{
	return stream->load != NULL || stream->stale ||
		stream->request->ordered || stream->tracked ||
		!stream->in_fragment || stream->fragment_rows == 0;
}

/*
 * Go on with the second request as if it had been the only one.
 */
static void
adopt_hedge(LogqStream *stream)
{
	LogqHedge  *hedge = &stream->hedge;

	stream->conn = hedge->conn;
	stream->generation++;
	stream->server = hedge->server;
	stream->promoted = false;
	stream->fresh = hedge->fresh;
	stream->attempt_at = hedge->started_at;
	stream->ready_events = 0;
	stream->hedge_at = 0;
	hedge->conn = NULL;
	hedge->generation++;
	if (hedge->state == LOGQ_HEDGE_CONNECTING)
	{
		stream->sent_at = 0;
		stream->state = LOGQ_STREAM_CONNECTING;
		return;
	}
	if (stream->sql != NULL)
		pfree(stream->sql);
	stream->sql = hedge->sql;
	hedge->sql = NULL;
	stream->sent_at = stream->asked_at = hedge->sent_at;
	stream->progress_at = Max(stream->progress_at, hedge->sent_at);
	stream->state = hedge->state == LOGQ_HEDGE_SENDING ?
		LOGQ_STREAM_SENDING : LOGQ_STREAM_RESULTS;
}

/*
 * The server that is being asked will not answer, or not any more: go
 * elsewhere.
 */
void
logq_stream_failed(LogqStream *stream, LogqFailure *failure, LogqFault fault)
{
	bool		resumable = can_resume(stream);
	bool		lost = failure->lost || failure->fatal;
	int			server = stream->server;

	logq_health_failed(stream->servers, server, fault, failure->reason);
	logq_stream_drop_connection(stream, false);
	stream->failures[server] = failure;
	stream->tried |= 1U << server;
	if (!resumable || ++stream->nfailures > MAX_FAILURES)
	{
		logq_stream_end_hedge(stream);
		give_up(stream, failure);
		return;
	}
	stream->retries++;
	if (stream->hedge.conn != NULL)
	{
		adopt_hedge(stream);
		return;
	}
	logq_stream_rewind(stream);
	if (!logq_stream_prepare(stream))
	{
		stream->state = LOGQ_STREAM_DONE;
		return;
	}

	/* a connection was lost, perhaps not the server: once more, if need be */
	if (lost && !stream->renewed && fault == LOGQ_FAULT_REFUSED &&
		logq_choose_other(stream->servers, server, stream->tried) < 0)
	{
		stream->renewed = true;
		use_server(stream, server, LOGQ_ACQUIRE_FRESH);
		return;
	}
	logq_stream_connect(stream);
}

/*
 * What is a server to be blamed for that was silent for so long?
 */
static LogqFault
silence_fault(int ms)
{
	return ms >= MIN_BLAMED_MS ? LOGQ_FAULT_SILENT : LOGQ_FAULT_STALLED;
}

/*
 * ... and one that did not let us in?  Not for a user's wrong password.
 */
static LogqFault
connect_fault(const LogqConn *conn)
{
	if (GetCurrentTimestamp() >= conn->connect_deadline)
		return silence_fault(logq_connect_timeout);
	return logq_conn_was_heard(conn) ? LOGQ_FAULT_STALLED :
		LOGQ_FAULT_REFUSED;
}

/*
 * Connecting has failed, for the reason that libpq or we have given.
 */
void
logq_stream_connect_failed(LogqStream *stream, const char *reason)
{
	LogqFault	fault = connect_fault(stream->conn);
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);
	LogqFailure *failure = palloc0(sizeof(LogqFailure));

	failure->sqlstate = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
	failure->detail = pchomp(reason);
	/* what follows are libpq's questions */
	failure->reason = pnstrdup(failure->detail,
							   strcspn(failure->detail, "\n"));
	failure->message = psprintf("could not connect to partition \"%s\"",
								stream->part->name);
	failure->hint = "See the view \"logq.partitions\" for the state of all partitions.";
	MemoryContextSwitchTo(old);
	logq_stream_failed(stream, failure, fault);
}

/*
 * The connection is lost.  One from the pool that turns out dead before it has
 * answered anything says little of its server: take a new one.
 */
void
logq_stream_lost(LogqStream *stream, PGresult *res)
{
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);
	LogqFailure *failure = logq_remote_failure(stream->conn, res,
											   stream->sql);

	MemoryContextSwitchTo(old);
	failure->lost = true;
	if (!stream->fresh && !stream->answered && stream->hedge.conn == NULL &&
		!stream->renewed)
	{
		stream->renewed = true;
		stream->retries++;
		logq_stream_drop_connection(stream, false);
		logq_stream_rewind(stream);
		if (logq_stream_prepare(stream))
			use_server(stream, stream->server, LOGQ_ACQUIRE_FRESH);
		else
			stream->state = LOGQ_STREAM_DONE;
		return;
	}
	logq_stream_failed(stream, failure, LOGQ_FAULT_REFUSED);
}

/* ---------- answers ---------- */

/*
 * The request goes out.
 */
void
logq_stream_sent(LogqStream *stream)
{
	TimestampTz now = stream->asked_at;

	/* one more over a connection that has served this stream before */
	if (stream->answered)
	{
		stream->answered = false;
		stream->attempt_at = now;
		logq_health_asked(stream->servers, stream->server, false);
		stream->hedge_at = 0;
		if (logq_enable_hedging && stream->servers->n > 1)
			stream->hedge_at = now +
				(TimestampTz) (1000 * logq_hedge_delay(stream->servers,
													   stream->server,
													   false));
	}
	stream->sent_at = now;
	stream->progress_at = now;
}

/*
 * The first result of a request has come: nobody else is needed.
 */
void
logq_stream_answered(LogqStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();

	stream->answered = true;
	stream->hedge_at = 0;
	stream->progress_at = now;
	/* the first answer of a new session takes longer: it has no caches yet */
	if (stream->fresh)
		logq_health_answered(stream->servers, stream->server, -1,
							 (now - stream->attempt_at) / 1000.0);
	else
		logq_health_answered(stream->servers, stream->server,
							 (now - stream->sent_at) / 1000.0, -1);
	logq_stream_end_hedge(stream);
}

/*
 * A number of a result, or -1.
 */
static int64
result_number(const PGresult *res, int column)
{
	return PQgetisnull(res, 0, column) ? -1 :
		strtoll(PQgetvalue(res, 0, column), NULL, 10);
}

/* What a replica's position means for us */
typedef enum Position
{
	POSITION_FINE,
	POSITION_LACKING,			/* it may have it in a moment */
	POSITION_FAR_BEHIND
} Position;

/*
 * How much WAL is missing to a position: 0 when all transactions are there.
 */
static int64
lacking(const LogqPosition *needed, XLogRecPtr replayed, int64 xmin)
{
	if (replayed >= needed->lsn || (needed->xid > 0 && xmin >= needed->xid))
		return 0;
	return (int64) (needed->lsn - replayed);
}

/*
 * Judge a replica.  *reason: what it lacks.
 *
 * The age of the last transaction that it has replayed says little by itself:
 * there may have been none since.  It counts when there is WAL to be replayed.
 * A primary that dies leaves the beginning of a record at the end of that,
 * which nobody will ever replay; and who has received much at once may be done
 * with it in a moment.
 */
static Position
judge_replica(LogqStream *stream, int server, const PGresult *res,
			  bool *promoted, char **reason)
{
	LogqPosition written = logq_written_position(stream->part->serverid);
	Position	position = POSITION_FINE;
	XLogRecPtr	replayed;
	int64		unreplayed;
	int64		lag;
	int64		lacks;
	int64		xmin;
	bool		paused;			/* or meant to be late */

	*promoted = false;
	if (PQntuples(res) != 1)
	{
		*reason = "it does not say how far it has replayed";
		return POSITION_FAR_BEHIND;
	}
	if (PQgetvalue(res, 0, 0)[0] != 't')
	{
		/* it has become the partition, unless that is still there */
		*promoted = true;
		if ((stream->tried & 1) != 0 ||
			!logq_primary_seems_well(stream->servers))
			return POSITION_FINE;
		*reason = "it is not a replica any more";
		return POSITION_FAR_BEHIND;
	}

	replayed = (XLogRecPtr) Max(result_number(res, 1), 0);
	xmin = result_number(res, 5);
	lacks = Max(lacking(&stream->seen, replayed, xmin),
				lacking(&written, replayed, xmin));
	unreplayed = result_number(res, 2) - (int64) replayed;
	paused = PQgetvalue(res, 0, 4)[0] == 't';
	lag = logq_health_wal_lag(stream->servers,
							  !paused && unreplayed > 0 &&
							  unreplayed <= MAX_RECORD_TAIL ?
							  replayed + unreplayed : replayed);
	if (lag > logq_max_replica_lag)
		position = POSITION_FAR_BEHIND;
	if (unreplayed > (paused ? 0 : MAX_RECORD_TAIL))
	{
		lag = Max(lag, result_number(res, 3));
		if (lag > logq_max_replica_lag && position == POSITION_FINE)
			position = paused ? POSITION_FAR_BEHIND : POSITION_LACKING;
	}
	/* what may be over in a moment is not to be remembered */
	if (position != POSITION_LACKING)
		logq_health_set_lag(stream->servers, server, lag);
	if (position != POSITION_FINE)
	{
		*reason = psprintf("replica is " INT64_FORMAT " ms behind, more than \"logq.max_replica_lag\"",
						   lag);
		return position;
	}
	if (lacks > 0)
	{
		*reason = written.lsn == LOGQ_WRITTEN_UNKNOWN ?
			pstrdup("replica may lack what this session has written") :
			psprintf("replica lacks what this session has read or written (" INT64_FORMAT " bytes of WAL)",
					 lacks);
		return POSITION_LACKING;
	}
	return POSITION_FINE;
}

/*
 * A replica will not do: ask another server.  It is no failure of it.
 */
static void
pass_over(LogqStream *stream, Position position, const char *reason)
{
	int			server = stream->server;

	stream->failures[server] =
		make_failure(stream, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					 reason);
	stream->tried |= 1U << server;
	if (position == POSITION_LACKING)
		stream->behind |= 1U << server;
	logq_stream_drop_connection(stream, false);
	logq_stream_rewind(stream);
	if (logq_stream_prepare(stream))
		logq_stream_connect(stream);
	else
		stream->state = LOGQ_STREAM_DONE;
}

bool
logq_stream_check_replica(LogqStream *stream, PGresult *res)
{
	char	   *reason = NULL;
	Position	position = judge_replica(stream, stream->server, res,
										 &stream->promoted, &reason);

	PQclear(res);
	if (position == POSITION_FINE)
		return true;
	pass_over(stream, position, reason);
	return false;
}

void
logq_stream_catalog_behind(LogqStream *stream)
{
	pass_over(stream, POSITION_LACKING,
			  "replica has an older catalog than is known");
}

/* ---------- second requests ---------- */

/*
 * Forget the second request.  Never throws.
 */
void
logq_stream_end_hedge(LogqStream *stream)
{
	LogqHedge  *hedge = &stream->hedge;

	if (hedge->conn == NULL)
		return;
	if (hedge->conn->state == LOGQ_CONN_IDLE)
		logq_conn_release(hedge->conn);
	else
		logq_conn_close(hedge->conn);
	hedge->conn = NULL;
	hedge->generation++;
}

/*
 * Ask another server, too.
 */
static void
start_hedge(LogqStream *stream)
{
	LogqHedge  *hedge = &stream->hedge;
	int			server;

	stream->hedge_at = 0;
	server = logq_choose_other(stream->servers, stream->server,
							   stream->tried);
	if (server < 0 || !logq_health_spend_hedge(stream->servers))
		return;
	hedge->conn = logq_conn_acquire_server(stream->part->serverid,
										   stream->userid,
										   &stream->servers->servers[server],
										   LOGQ_ACQUIRE_EXTRA);
	if (hedge->conn == NULL)
		return;
	hedge->generation++;
	hedge->server = server;
	hedge->state = LOGQ_HEDGE_CONNECTING;
	hedge->fresh = hedge->conn->state == LOGQ_CONN_CONNECTING;
	hedge->started_at = GetCurrentTimestamp();
	hedge->wait_events = hedge->ready_events = 0;
	if (hedge->sql != NULL)
		pfree(hedge->sql);
	hedge->sql = NULL;
	logq_health_asked(stream->servers, server, true);
	stream->hedges++;
}

/*
 * The second request has come to nothing.
 */
static void
hedge_failed(LogqStream *stream, const char *reason)
{
	LogqHedge  *hedge = &stream->hedge;
	LogqFailure *failure = make_failure(stream, ERRCODE_CONNECTION_FAILURE,
										pchomp(reason));

	logq_health_failed(stream->servers, hedge->server,
					   hedge->state == LOGQ_HEDGE_CONNECTING ?
					   connect_fault(hedge->conn) : LOGQ_FAULT_REFUSED,
					   failure->reason);
	stream->failures[hedge->server] = failure;
	stream->tried |= 1U << hedge->server;
	logq_stream_end_hedge(stream);
}

/*
 * It was first: the one that was asked first is left.
 */
static void
hedge_won(LogqStream *stream)
{
	LogqHedge  *hedge = &stream->hedge;
	TimestampTz now = GetCurrentTimestamp();

	logq_health_overtaken(stream->servers, stream->server,
						  (now - stream->attempt_at) / 1000.0, false);
	logq_health_overtaken(stream->servers, hedge->server, 0, true);
	logq_stream_drop_connection(stream, false);
	adopt_hedge(stream);
	logq_stream_answered(stream);
}

/*
 * Go on with the second request as far as possible.  True: it has taken over.
 */
static bool
advance_hedge(LogqStream *stream)
{
	LogqHedge  *hedge = &stream->hedge;
	uint32		events = hedge->ready_events;
	bool		consumed = false;

	hedge->ready_events = 0;
	for (;;)
	{
		LogqConn   *conn = hedge->conn;
		char	   *failure = NULL;
		PGresult   *res;

		switch (hedge->state)
		{
			case LOGQ_HEDGE_CONNECTING:
				if (!logq_conn_poll(conn, &events, &failure))
				{
					if (failure != NULL)
						hedge_failed(stream, failure);
					else
						hedge->wait_events = events;
					return false;
				}
				{
					MemoryContext old = MemoryContextSwitchTo(stream->cxt);

					hedge->sql = logq_stream_sql(stream, hedge->server,
												 hedge->conn);
					MemoryContextSwitchTo(old);
				}
				hedge->sent_at = GetCurrentTimestamp();
				PQsetErrorVerbosity(conn->pg, PQERRORS_TERSE);
				if (!logq_conn_try_send(conn, hedge->sql))
				{
					hedge_failed(stream, PQerrorMessage(conn->pg));
					return false;
				}
				hedge->state = LOGQ_HEDGE_SENDING;
				break;

			case LOGQ_HEDGE_SENDING:
				{
					int			rc = PQflush(conn->pg);

					if (rc < 0 || (rc > 0 && PQconsumeInput(conn->pg) == 0))
					{
						hedge_failed(stream, PQerrorMessage(conn->pg));
						return false;
					}
					if (rc > 0)
					{
						hedge->wait_events = WL_SOCKET_READABLE |
							WL_SOCKET_WRITEABLE;
						return false;
					}
					hedge->state = LOGQ_HEDGE_WAITING;
					break;
				}

			case LOGQ_HEDGE_WAITING:
				if (PQisBusy(conn->pg))
				{
					hedge->wait_events = WL_SOCKET_READABLE;
					if (consumed)
						return false;
					if (PQconsumeInput(conn->pg) == 0)
					{
						hedge_failed(stream, PQerrorMessage(conn->pg));
						return false;
					}
					consumed = true;
					break;
				}
				res = PQgetResult(conn->pg);
				if (res == NULL || PQresultStatus(res) == PGRES_FATAL_ERROR)
				{
					char	   *reason = pstrdup(res ?
												 PQresultErrorMessage(res) :
												 PQerrorMessage(conn->pg));

					PQclear(res);
					hedge_failed(stream, reason);
					return false;
				}
				if (PQresultStatus(res) == PGRES_TUPLES_OK)
				{
					char	   *reason = NULL;
					bool		promoted;
					Position	position = judge_replica(stream,
														 hedge->server, res,
														 &promoted, &reason);

					PQclear(res);
					if (position != POSITION_FINE)
					{
						/* neither won nor failed */
						logq_stream_end_hedge(stream);
						return false;
					}
					hedge_won(stream);
					stream->promoted = promoted;
					return true;
				}
				PQclear(res);
				/* the first results of a replica do not say how far it is */
				if (!stream->servers->servers[hedge->server].replica)
				{
					hedge_won(stream);
					return true;
				}
				break;
		}
	}
}

/* ---------- time ---------- */

/*
 * Set the time by which the waiting is to end.
 */
static void
wake_by(LogqStream *stream, TimestampTz at)
{
	if (at != 0 && (stream->wake_at == 0 || at < stream->wake_at))
		stream->wake_at = at;
}

void
logq_clock_look(LogqClock *clock, TimestampTz now)
{
	if (clock->turn != clock->seen_turn)
	{
		clock->idle += Max(now - clock->seen_at, 0);
		clock->seen_turn = clock->turn;
	}
	clock->seen_at = now;
}

void
logq_stream_waits(LogqStream *stream, TimestampTz now)
{
	LogqClock  *clock = stream->request->clock;

	logq_clock_look(clock, now);
	if (stream->waiting_since == 0)
	{
		stream->waiting_since = now;
		stream->idle = clock->idle;
	}
}

static void
put_off(TimestampTz *at, TimestampTz by)
{
	if (*at != 0)
		*at += by;
}

void
logq_stream_skip_idle(LogqStream *stream)
{
	LogqClock  *clock = stream->request->clock;
	LogqHedge  *hedge = &stream->hedge;
	TimestampTz by;

	logq_clock_look(clock, GetCurrentTimestamp());
	by = clock->idle - stream->idle;
	stream->idle = clock->idle;
	put_off(&stream->waiting_since, by);
	put_off(&stream->progress_at, by);
	put_off(&stream->attempt_at, by);
	put_off(&stream->sent_at, by);
	put_off(&stream->hedge_at, by);
	put_off(&stream->behind_until, by);
	if (stream->state == LOGQ_STREAM_CONNECTING)
		put_off(&stream->conn->connect_deadline, by);
	if (hedge->conn == NULL)
		return;
	put_off(&hedge->started_at, by);
	put_off(&hedge->sent_at, by);
	if (hedge->state == LOGQ_HEDGE_CONNECTING)
		put_off(&hedge->conn->connect_deadline, by);
}

bool
logq_stream_before_wait(LogqStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();

	logq_stream_waits(stream, now);
	stream->wake_at = 0;

	if (!stream->answered)
	{
		if (stream->hedge_at != 0 && now >= stream->hedge_at)
			start_hedge(stream);
		wake_by(stream, stream->hedge_at);
		if (stream->hedge.conn != NULL)
		{
			if (advance_hedge(stream))
				return true;
			if (stream->hedge.conn != NULL &&
				stream->hedge.state == LOGQ_HEDGE_CONNECTING)
				wake_by(stream, stream->hedge.conn->connect_deadline);
		}
	}
	if (stream->state == LOGQ_STREAM_CONNECTING)
		wake_by(stream, stream->conn->connect_deadline);
	else if (logq_partition_timeout > 0)
	{
		TimestampTz from = Max(stream->progress_at, stream->waiting_since);
		TimestampTz deadline =
			TimestampTzPlusMilliseconds(from, logq_partition_timeout);

		if (now >= deadline)
		{
			LogqFailure *failure;

			failure = make_failure(stream, ERRCODE_CONNECTION_FAILURE,
								   psprintf(stream->answered ?
											"has sent nothing for %d ms" :
											"did not answer within %d ms",
											logq_partition_timeout));
			failure->hint = "Narrow the search, or raise \"logq.partition_timeout\".";
			logq_stream_failed(stream, failure,
							   stream->answered ? LOGQ_FAULT_STALLED :
							   silence_fault(logq_partition_timeout));
			return true;
		}
		wake_by(stream, deadline);
	}
	return false;
}
