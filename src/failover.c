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
 * Time.  A partition sends results when its buffer is full, or at the end of
 * the request; so silence would say nothing.  But a notice is sent at once,
 * with all that is before it.  Casting '' to tsquery gives one while the
 * statement is analyzed, at no cost, in all versions and without a right to
 * anything.  With it in the first COPY (and before segments that take long), the
 * time to the first result says how the server fares, not how much work the
 * query is, and deadlines and second requests can go by it.
 *
 * Invariants: "tried" holds those that failed since the last row or fragment.
 * Nothing here waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "connect.h"
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
/* one that is silent for so long is looked at twice */
#define SUSPICIOUS_MS 100
/*
 * One that was silent for less is not blamed: what deadlines a session likes
 * to have must not keep others from a server.
 */
#define MIN_BLAMED_MS 100

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
LogqFailure *
logq_make_failure(LogqStream *stream, int sqlstate, const char *reason)
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
	TimestampTz now = logq_now();

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
 * A request to a server has its turn: count it, and note when a second one
 * would be worth its while.
 */
static void
begin_attempt(LogqStream *stream, bool connecting)
{
	logq_health_asked(stream->servers, stream->server, false);
	stream->hedge_at = 0;
	if (logq_enable_hedging && stream->servers->n > 1)
		stream->hedge_at = stream->attempt_at +
			(TimestampTz) (1000 * logq_hedge_delay(stream->servers,
												   stream->server,
												   connecting));
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
	stream->attempt_at = logq_now();
	stream->sent_at = 0;
	stream->state = LOGQ_STREAM_CONNECTING;
	begin_attempt(stream, stream->fresh);
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
		logq_adopt_hedge(stream);
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
LogqFault
logq_connect_fault(const LogqConn *conn)
{
	if (logq_now() >= conn->connect_deadline)
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
	LogqFault	fault = logq_connect_fault(stream->conn);
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);
	LogqFailure *failure = palloc0(sizeof(LogqFailure));

	failure->sqlstate = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
	failure->detail = pchomp(reason);
	/* what follows are libpq's questions */
	failure->reason = pnstrdup(failure->detail,
							   strcspn(failure->detail, "\n"));
	failure->message = psprintf("could not connect to partition \"%s\"",
								stream->part->name);
	failure->hint = pstrdup(logq_connect_hint(failure->detail));
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
		begin_attempt(stream, false);
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
	TimestampTz now = logq_now();

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
 * A replica will not do: ask another server.  It is no failure of it.
 */
static void
pass_over(LogqStream *stream, LogqReplicaPosition position, const char *reason)
{
	int			server = stream->server;

	stream->failures[server] =
		logq_make_failure(stream, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						  reason);
	stream->tried |= 1U << server;
	if (position == LOGQ_POSITION_LACKING)
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
	LogqReplicaPosition position;

	position = logq_judge_replica(stream, stream->server, res,
								  &stream->promoted, &reason);
	/* another one that goes on must have as much */
	if (position == LOGQ_POSITION_FINE && !stream->promoted &&
		stream->seen.lsn == 0)
		stream->seen.lsn = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	if (position == LOGQ_POSITION_FINE)
		return true;
	pass_over(stream, position, reason);
	return false;
}

void
logq_stream_catalog_behind(LogqStream *stream)
{
	pass_over(stream, LOGQ_POSITION_LACKING,
			  "replica has an older catalog than is known");
}

/*
 * What is named as the primary is a standby: perhaps it was the primary before,
 * and has come back as what it is now.
 */
void
logq_stream_not_primary(LogqStream *stream)
{
	pass_over(stream, LOGQ_POSITION_FAR_BEHIND,
			  "it is a standby, and not the primary");
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

	logq_clock_look(clock, logq_now());
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
	TimestampTz now = logq_now();

	logq_stream_waits(stream, now);
	stream->wake_at = 0;

	if (!stream->answered)
	{
		if (stream->hedge_at != 0 && now >= stream->hedge_at)
			logq_start_hedge(stream);
		wake_by(stream, stream->hedge_at);
		if (stream->hedge.conn != NULL)
		{
			if (logq_advance_hedge(stream))
				return true;
			if (stream->hedge.conn != NULL &&
				stream->hedge.state == LOGQ_HEDGE_CONNECTING)
				wake_by(stream, stream->hedge.conn->connect_deadline);
		}
	}
	if (stream->state == LOGQ_STREAM_CONNECTING)
	{
		wake_by(stream, stream->conn->connect_deadline);
		return false;
	}

	/* it may have stopped in the middle of the answer, as others have found */
	if (stream->answered && stream->servers->n > 1)
	{
		TimestampTz look_at =
			TimestampTzPlusMilliseconds(Max(stream->progress_at,
											stream->waiting_since),
										SUSPICIOUS_MS);

		if (now >= look_at)
		{
			if (!logq_server_seems_well(stream->servers, stream->server) &&
				can_resume(stream) &&
				logq_choose_other(stream->servers, stream->server,
								  stream->tried) >= 0)
			{
				logq_stream_failed(stream,
								   logq_make_failure(stream,
													 ERRCODE_CONNECTION_FAILURE,
													 "has stopped sending, and does not answer others"),
								   LOGQ_FAULT_STALLED);
				return true;
			}
			look_at = TimestampTzPlusMilliseconds(now, SUSPICIOUS_MS);
		}
		wake_by(stream, look_at);
	}

	if (logq_partition_timeout > 0)
	{
		TimestampTz from = Max(stream->progress_at, stream->waiting_since);
		TimestampTz deadline =
			TimestampTzPlusMilliseconds(from, logq_partition_timeout);

		if (now >= deadline)
		{
			LogqFailure *failure;

			failure = logq_make_failure(stream, ERRCODE_CONNECTION_FAILURE,
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
