/*-------------------------------------------------------------------------
 *
 * hedge.c
 *		Second requests, to another server of the partition.
 *
 * When the first result takes longer than nearly all have
 * taken so far, another server is asked the same, if the purse has room.
 * Whoever has a result first goes on, the other one's connection is closed.
 * Nothing of the first request has been used by then.
 *
 * Invariants: a hedge exists only while the request has no result.  Nothing
 * here waits.
 *
 * Failure cases: a second request that fails is forgotten, its server blamed,
 * and the first one goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cacherun.h"

#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/*
 * Go on with the second request as if it had been the only one.
 */
void
logq_adopt_hedge(LogqStream *stream)
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
void
logq_start_hedge(LogqStream *stream)
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
	hedge->started_at = logq_now();
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
	LogqFailure *failure = logq_make_failure(stream, ERRCODE_CONNECTION_FAILURE,
										pchomp(reason));

	logq_health_failed(stream->servers, hedge->server,
					   hedge->state == LOGQ_HEDGE_CONNECTING ?
					   logq_connect_fault(hedge->conn) : LOGQ_FAULT_REFUSED,
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
	TimestampTz now = logq_now();

	logq_health_overtaken(stream->servers, stream->server,
						  (now - stream->attempt_at) / 1000.0, false);
	logq_health_overtaken(stream->servers, hedge->server, 0, true);
	logq_stream_drop_connection(stream, false);
	logq_adopt_hedge(stream);
	logq_stream_answered(stream);
}

/*
 * Go on with the second request as far as possible.  True: it has taken over.
 */
bool
logq_advance_hedge(LogqStream *stream)
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
				/* the user mapping was changed just now */
				if (!logq_cache_is_user(stream, conn))
				{
					logq_stream_end_hedge(stream);
					return false;
				}
				{
					MemoryContext old = MemoryContextSwitchTo(stream->cxt);

					hedge->sql = logq_stream_sql(stream, hedge->server,
												 hedge->conn);
					MemoryContextSwitchTo(old);
				}
				hedge->sent_at = logq_now();
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
					LogqReplicaPosition position = logq_judge_replica(stream,
														 hedge->server, res,
														 &promoted, &reason);

					PQclear(res);
					if (position != LOGQ_POSITION_FINE)
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
