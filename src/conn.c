/*-------------------------------------------------------------------------
 *
 * conn.c
 *		Connections of this backend to partitions, and waiting for them.
 *
 * Connections are kept for the session in a list and handed out for the sole
 * use of one stream or one write transaction at a time, so that any number of
 * scans can be under way at once (a self-join has two per partition).  Each
 * leads to one of the servers of a partition: its primary, or a replica.  One
 * that is handed out is checked before: data or an end of file waiting on an
 * idle connection means that the server has gone or said goodbye.
 *
 * Nothing here calls a libpq function that blocks: connecting goes through
 * PQconnectPoll, sending through PQflush, and every wait is on the latch and
 * the socket together and honours interrupts.  How a connection begins, with
 * the look-up of names, is in connect.c; what is sent over it, in command.c.
 *
 * Ending a query early means closing its connection, unless what is left of
 * the answer is known to be small; then the connection is kept and the rest
 * thrown away before the next use.  On close the partition's backend fails at
 * its next send, or, while it computes, notices within
 * client_connection_check_interval.  libpq 15's PQcancel would block, without
 * a bound and without encryption.
 *
 * What is taken for such a server may be a pooler in transaction mode, a
 * PgBouncer, before it; logq_conn_setup_sql says what that takes.  All that
 * needs a session on the partition (LISTEN, advisory locks of a session,
 * indexes made concurrently: what workers and functions do) goes there
 * directly.
 *
 * Failure cases: a changed or dropped server or user mapping makes its
 * connections stale; they are closed when they are free.  logq_conn_release
 * and logq_conn_close never throw, as they run in cleanup callbacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "connect.h"

#include "admission.h"

#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "health.h"

/* idle connections kept per server and user */
#define MAX_IDLE_PER_MAPPING 8
/* how much of an unwanted answer is read to keep its connection, and how long
 * one may take to arrive */
#define MAX_DRAINED_BYTES (256 * 1024)
#define MAX_DRAIN_MS 1000

static LogqConn *connections = NULL;
static bool callbacks_registered = false;
static uint64 ninvalidations = 0;	/* of servers and user mappings */

/*
 * A server or user mapping has changed: what was made from it is stale.
 */
static void
connection_invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	LogqConn   *conn;

	ninvalidations++;
	for (conn = connections; conn != NULL; conn = conn->next)
	{
		if (hashvalue == 0 ||
			(cacheid == FOREIGNSERVEROID && conn->server_hash == hashvalue) ||
			(cacheid == USERMAPPINGOID && conn->mapping_hash == hashvalue))
			conn->stale = true;
	}
}

/*
 * Close a connection and forget it.  Never throws.
 */
void
logq_conn_close(LogqConn *conn)
{
	LogqConn  **link;

	for (link = &connections; *link != NULL; link = &(*link)->next)
	{
		if (*link == conn)
		{
			*link = conn->next;
			break;
		}
	}
	logq_connect_end_look_up(conn);
	if (conn->pg != NULL)
		PQfinish(conn->pg);
	if (conn->used_external_fd)
		ReleaseExternalFD();
	if (conn->counted)
		logq_uncount_connection(conn->serverid, conn->own_place);
	pfree(conn);
}

/*
 * Close one that is idle, so that there is room for another.  Never throws.
 */
bool
logq_conn_close_idle(Oid serverid)
{
	LogqConn   *conn;

	for (conn = connections; conn != NULL; conn = conn->next)
	{
		if (!conn->in_use && conn->serverid == serverid)
		{
			logq_conn_close(conn);
			return true;
		}
	}
	return false;
}

/*
 * Read what has arrived of an answer that nobody wants any more, without
 * waiting.  True: that was all and the connection is idle; false with state
 * LOGQ_CONN_BUSY: there is more to come.  Never throws.
 */
bool
logq_conn_drain(LogqConn *conn)
{
	int64		drained = 0;
	int			fruitless = 0;

	while (fruitless < 2 && drained <= MAX_DRAINED_BYTES)
	{
		if (conn->in_copy)
		{
			char	   *buf;
			int			len = PQgetCopyData(conn->pg, &buf, 1);

			if (len != 0)
			{
				fruitless = 0;
				if (len > 0)
				{
					PQfreemem(buf);
					drained += len;
				}
				else
					conn->in_copy = false;
				continue;
			}
		}
		else if (!PQisBusy(conn->pg))
		{
			PGresult   *res = PQgetResult(conn->pg);

			if (res == NULL)
			{
				bool		good = PQstatus(conn->pg) == CONNECTION_OK;

				conn->state = good ? LOGQ_CONN_IDLE : LOGQ_CONN_BROKEN;
				return good;
			}
			if (PQresultStatus(res) == PGRES_COPY_OUT)
				conn->in_copy = true;
			/* settings that went ahead of what failed are undone with it */
			if (PQresultStatus(res) == PGRES_FATAL_ERROR)
				conn->configured = false;
			PQclear(res);
			fruitless = 0;
			continue;
		}
		fruitless++;
		if (PQconsumeInput(conn->pg) == 0)
		{
			conn->state = LOGQ_CONN_BROKEN;
			return false;
		}
	}
	/* so much data was not worth waiting for */
	if (drained > MAX_DRAINED_BYTES)
		conn->state = LOGQ_CONN_BROKEN;
	return false;
}

/*
 * Is a connection of the pool still good?  Reads what the server may have
 * sent meanwhile, twice: the first read may bring its goodbye, and only the
 * next one finds the end of file.
 */
static bool
idle_conn_usable(LogqConn *conn)
{
	if (PQstatus(conn->pg) != CONNECTION_OK)
		return false;
	if (PQconsumeInput(conn->pg) == 0 || PQconsumeInput(conn->pg) == 0 ||
		PQstatus(conn->pg) != CONNECTION_OK ||
		PQtransactionStatus(conn->pg) != PQTRANS_IDLE)
		return false;
	return true;
}

/*
 * Give a connection back.  Never throws.
 *
 * One that goes past a pooler is not kept: the pooler is there so that
 * thousands of sessions need few connections.
 */
void
logq_conn_release(LogqConn *conn)
{
	LogqConn   *other;
	int			nfree = 0;

	if (conn->own_place)
	{
		conn->own_place = false;
		logq_unreserve_connections(conn->serverid, 1);
	}
	conn->in_use = false;
	for (other = connections; other != NULL; other = other->next)
		if (!other->in_use && other->umid == conn->umid)
			nfree++;

	/* nobody goes on with what was read last */
	if (conn->in_snapshot && conn->state == LOGQ_CONN_IDLE)
	{
		conn->in_snapshot = false;
		(void) logq_conn_try_send(conn, "COMMIT");
	}

	if (conn->stale || conn->past_pooler || nfree > MAX_IDLE_PER_MAPPING ||
		PQstatus(conn->pg) != CONNECTION_OK ||
		!(conn->state == LOGQ_CONN_BUSY ||
		  (conn->state == LOGQ_CONN_IDLE &&
		   PQtransactionStatus(conn->pg) == PQTRANS_IDLE)) ||
		!logq_may_keep_connection(conn->serverid))
		logq_conn_close(conn);
	else
	{
		conn->reused = true;
		conn->free_since = logq_now();
	}
}

/* On which place a new connection is opened; see admission.h */
typedef enum Place
{
	PLACE_RESERVED,				/* one that was taken before */
	PLACE_FORCED,				/* there may always be one more */
	PLACE_SPARE					/* only if there is one left */
} Place;

/*
 * What tells connections to one server of a partition from those to another.
 */
static const char *
pool_key(const LogqServer *at)
{
	/* those to the primary serve everybody */
	return at != NULL && at->host != NULL ? at->address : "";
}

/*
 * Start a new connection.  On return it is in the list and in use, or an
 * error was thrown and nothing is left.  NULL: there is no place to spare.
 */
static LogqConn *
start_connection(ForeignServer *server, UserMapping *user,
				 const LogqServer *at, Place place)
{
	LogqConn   *conn;
	const char **keywords;
	const char **values;

	logq_connection_params(server, user, at, &keywords, &values);
	logq_check_conn_params(keywords, values, user);

	conn = MemoryContextAllocZero(TopMemoryContext, sizeof(LogqConn));
	conn->serverid = server->serverid;
	conn->userid = user->userid;
	conn->umid = user->umid;
	conn->pooled = at != NULL && at->pooled;
	conn->past_pooler = at == NULL &&
		logq_server_option(server, "pooler") != NULL;
	strlcpy(conn->name, server->servername, NAMEDATALEN);
	strlcpy(conn->address, pool_key(at), sizeof(conn->address));
	conn->server_hash =
		GetSysCacheHashValue1(FOREIGNSERVEROID,
							  ObjectIdGetDatum(server->serverid));
	conn->mapping_hash =
		GetSysCacheHashValue1(USERMAPPINGOID, ObjectIdGetDatum(user->umid));
	conn->in_use = true;
	conn->state = LOGQ_CONN_CONNECTING;

	/* idle ones that were of no use give way */
	while (place == PLACE_RESERVED && logq_connection_limit() > 0 &&
		   !logq_has_free_place(server->serverid) &&
		   logq_conn_close_idle(server->serverid))
		continue;
	conn->counted = logq_count_connection(server->serverid,
										  place == PLACE_RESERVED,
										  place == PLACE_FORCED);
	if (!conn->counted)
	{
		pfree(conn);
		return NULL;
	}
	conn->own_place = place != PLACE_RESERVED;
	conn->next = connections;
	connections = conn;

	if (!AcquireExternalFD())
	{
		logq_conn_close(conn);
		if (place == PLACE_SPARE)
			return NULL;
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to partition \"%s\"",
						server->servername),
				 errdetail("There are too many open files on the local server."),
				 errhint("Raise the server's max_files_per_process and/or \"ulimit -n\" limits.")));
	}
	conn->used_external_fd = true;

	conn->connect_deadline =
		TimestampTzPlusMilliseconds(logq_now(),
									logq_connect_timeout);

	PG_TRY();
	{
		logq_connect_begin(conn, keywords, values);
	}
	PG_CATCH();
	{
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return conn;
}

/*
 * Hand out a connection to one of a partition's servers as a user, idle or
 * still connecting.
 */
static LogqConn *
acquire(Oid serverid, Oid userid, const LogqServer *at, bool fresh,
		Place place)
{
	ForeignServer *server;
	UserMapping *user;
	LogqPartition *part;
	LogqConn   *conn;
	LogqConn   *next;
	int32		number;
	uint64		seen;

	if (!callbacks_registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID,
									  connection_invalidated, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID,
									  connection_invalidated, (Datum) 0);
		callbacks_registered = true;
	}

	/* this takes in invalidations */
	part = logq_partition_by_server(serverid);
	number = part != NULL ? part->number : 0;
	seen = ninvalidations;
	/* finds out about missing mappings */
	user = GetUserMapping(userid, serverid);

	for (conn = connections; conn != NULL; conn = next)
	{
		next = conn->next;
		if (conn->in_use)
			continue;
		if (conn->stale)
		{
			logq_conn_close(conn);
			continue;
		}
		if (fresh || conn->umid != user->umid || conn->userid != userid ||
			strcmp(conn->address, pool_key(at)) != 0)
			continue;
		if (conn->state == LOGQ_CONN_BUSY && !logq_conn_drain(conn) &&
			conn->state == LOGQ_CONN_BUSY &&
			!TimestampDifferenceExceeds(conn->free_since,
										logq_now(), MAX_DRAIN_MS))
			continue;			/* perhaps next time */
		if (conn->state != LOGQ_CONN_IDLE || !idle_conn_usable(conn))
		{
			logq_conn_close(conn);
			continue;
		}
		if (place != PLACE_RESERVED && conn->counted &&
			logq_connection_limit() > 0)
		{
			logq_force_reservation(serverid);
			conn->own_place = true;
		}
		conn->in_use = true;
		conn->io_timeout = 0;
		/* the partition was removed, and added again */
		if (conn->number != number)
			conn->configured = false;
		conn->number = number;
		return conn;
	}

	server = GetForeignServer(serverid);
	/* a mapping of PUBLIC has no user of its own; security goes by ours */
	user->userid = userid;
	conn = start_connection(server, user, at, place);
	if (conn == NULL)
		return NULL;
	conn->number = number;
	/* perhaps what was read of server and mapping is not true any more */
	if (ninvalidations != seen)
		conn->stale = true;
	return conn;
}

/*
 * One of the pool may have died without our knowing: exchange it, which costs
 * a round trip.  For those who may wait.
 */
static LogqConn *
exchange_if_dead(LogqConn *pooled, Oid serverid, Oid userid, Place place)
{
	LogqConn   *volatile conn = pooled;
	bool		answers;

	if (!conn->reused)
		return conn;
	conn->io_timeout = logq_partition_timeout;
	PG_TRY();
	{
		answers = logq_conn_answers(conn);
	}
	PG_CATCH();
	{
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	conn->io_timeout = 0;
	if (answers)
		return conn;
	logq_conn_close(conn);
	return acquire(serverid, userid, NULL, true, place);
}

/*
 * To where the partition's own options lead; for those that no limit is for.
 */
LogqConn *
logq_conn_acquire(Oid serverid, Oid userid, bool fresh)
{
	return acquire(serverid, userid, NULL, fresh, PLACE_FORCED);
}

LogqConn *
logq_conn_acquire_tested(Oid serverid, Oid userid)
{
	return exchange_if_dead(logq_conn_acquire(serverid, userid, false),
							serverid, userid, PLACE_FORCED);
}

LogqConn *
logq_conn_acquire_reserved(Oid serverid, Oid userid, bool fresh)
{
	LogqServers *servers = logq_servers(serverid);
	const LogqServer *primary = &servers->servers[0];
	LogqConn   *conn = acquire(serverid, userid,
							   primary->pooled ? primary : NULL, fresh,
							   PLACE_RESERVED);

	pfree(servers);
	return conn;
}

LogqConn *
logq_conn_acquire_beside(Oid serverid, Oid userid)
{
	const LogqConn *conn;
	Place		place;
	int			used = 0;

	/* some are on a place of their own, but then it is among our places */
	for (conn = connections; conn != NULL; conn = conn->next)
		if (conn->in_use && conn->serverid == serverid)
			used++;
	place = used < logq_own_places(serverid) ? PLACE_RESERVED : PLACE_FORCED;
	return exchange_if_dead(acquire(serverid, userid, NULL, false, place),
							serverid, userid, place);
}

/*
 * To one of the servers that can answer.
 */
LogqConn *
logq_conn_acquire_server(Oid serverid, Oid userid, const LogqServer *at,
						 LogqAcquire how)
{
	switch (how)
	{
		case LOGQ_ACQUIRE_EXTRA:
			return acquire(serverid, userid, at, false, PLACE_SPARE);
		case LOGQ_ACQUIRE_PROBE:
			return acquire(serverid, userid, at, true, PLACE_FORCED);
		case LOGQ_ACQUIRE_FRESH:
			return acquire(serverid, userid, at, true, PLACE_RESERVED);
		case LOGQ_ACQUIRE_POOLED:
			break;
	}
	return acquire(serverid, userid, at, false, PLACE_RESERVED);
}

/*
 * Report, or store, that connecting failed.
 */
static void
connect_failed(LogqConn *conn, char **failure, const char *why)
{
	char	   *reason = logq_connect_reason(conn, why);

	conn->state = LOGQ_CONN_BROKEN;
	logq_connect_doubt(conn);
	if (failure != NULL)
	{
		*failure = reason;
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to partition \"%s\"", conn->name),
			 errdetail_internal("%s", reason),
			 errhint("%s", logq_connect_hint(reason))));
}

/*
 * Advance a connecting connection as far as possible without waiting.
 * *events is what the socket was found ready for, 0 when it was not.
 */
bool
logq_conn_poll(LogqConn *conn, uint32 *events, char **failure)
{
	UserMapping user;
	char	   *why;

	if (conn->state != LOGQ_CONN_CONNECTING)
		return true;

	if (conn->start != NULL && !logq_connect_look_up(conn, events, &why))
	{
		if (why != NULL)
			connect_failed(conn, failure, why);
		return false;
	}
	if (PQstatus(conn->pg) == CONNECTION_BAD)
	{
		connect_failed(conn, failure, PQerrorMessage(conn->pg));
		return false;
	}

	/* at the first call libpq wants its socket to be writable, nothing else */
	if (*events != 0)
		conn->poll = PQconnectPoll(conn->pg);

	switch (conn->poll)
	{
		case PGRES_POLLING_OK:
			break;
		case PGRES_POLLING_READING:
			*events = WL_SOCKET_READABLE;
			break;
		case PGRES_POLLING_WRITING:
			*events = WL_SOCKET_WRITEABLE;
			break;
		default:
			connect_failed(conn, failure, PQerrorMessage(conn->pg));
			return false;
	}
	if (conn->poll != PGRES_POLLING_OK)
	{
		if (logq_now() >= conn->connect_deadline)
			connect_failed(conn, failure,
						   psprintf("timeout expired after %d ms",
									logq_connect_timeout));
		return false;
	}

	MemSet(&user, 0, sizeof(user));
	user.userid = conn->userid;
	user.serverid = conn->serverid;
	user.umid = conn->umid;
	logq_check_conn_security(conn->pg, &user, conn->name);
	if (PQsetnonblocking(conn->pg, 1) != 0)
	{
		connect_failed(conn, failure, PQerrorMessage(conn->pg));
		return false;
	}
	conn->state = LOGQ_CONN_IDLE;
	return true;
}

/*
 * The check, and settings that a partition may not know and that therefore
 * cannot go with the startup packet.  The caller puts them ahead of its first
 * request, so they cost no round trip.
 *
 * A pooler hands every transaction to another backend, of which it is not
 * known what settings it has, and what is left there is found by others.  So
 * every transaction brings all settings, and takes them with it: SET LOCAL
 * ahead of BEGIN, in one simple query, lands in the same transaction, without
 * a snapshot, so BEGIN may still choose the isolation level.  Without BEGIN
 * the simple query is the transaction.
 */
const char *
logq_conn_setup_sql(LogqConn *conn)
{
	static StringInfoData setup;

	/* a transaction that has begun would end with the check's */
	if (PQtransactionStatus(conn->pg) != PQTRANS_IDLE ||
		(conn->configured && !conn->pooled))
		return "";
	if (setup.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&setup);
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(&setup);
	if (conn->number > 0)
	{
		/* ends the clock of a timeout that was left there */
		if (conn->pooled)
			appendStringInfoString(&setup, "SET LOCAL statement_timeout = '0'; ");
		logq_append_store_check(&setup, conn->number);
	}
	if (conn->pooled)
		appendStringInfoString(&setup, logq_conn_transaction_sql(conn));
	else
	{
		if (PQserverVersion(conn->pg) >= LOGQ_HAS_PEER_CHECK)
			appendStringInfoString(&setup,
								   "SET client_connection_check_interval = '"
								   LOGQ_PEER_CHECK_INTERVAL "'; ");
		if (PQserverVersion(conn->pg) >= LOGQ_HAS_TRANSACTION_TIMEOUT)
			appendStringInfoString(&setup, "SET transaction_timeout = '0'; ");
	}
	conn->configured = true;
	return setup.data;
}

/* See logq.h. */
const char *
logq_conn_transaction_sql(const LogqConn *conn)
{
	return conn->pooled ?
		logq_transaction_settings(PQserverVersion(conn->pg)) : "";
}

/*
 * Wait for the socket or the deadline.  False: the deadline has passed.
 * Without a deadline, a partition that is silent for io_timeout is an error.
 */
bool
logq_conn_wait(LogqConn *conn, uint32 events, TimestampTz deadline)
{
	bool		impatient = deadline == 0 && conn->io_timeout > 0;

	if (impatient)
		deadline = TimestampTzPlusMilliseconds(logq_now(),
											   conn->io_timeout);
	for (;;)
	{
		long		timeout = -1;
		int			flags = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (int) events;
		TimestampTz before = 0;
		TimestampTz stopped;
		int			rc;

		CHECK_FOR_INTERRUPTS();
		if (deadline != 0)
		{
			before = logq_now();
			timeout = TimestampDifferenceMilliseconds(before, deadline);
			if (timeout <= 0 && impatient)
			{
				conn->state = LOGQ_CONN_BROKEN;
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("partition \"%s\" did not answer within %d ms",
								conn->name, conn->io_timeout)));
			}
			if (timeout <= 0)
				return false;
			timeout = Min(timeout, LOGQ_MAX_WAIT_MS);
			flags |= WL_TIMEOUT;
		}
		rc = WaitLatchOrSocket(MyLatch, flags, logq_conn_socket(conn), timeout,
							   PG_WAIT_EXTENSION);
		stopped = logq_time_stopped(before, timeout);
		if (deadline != 0)
			deadline += stopped;
		conn->connect_deadline += stopped;
		if (rc & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (rc & WL_SOCKET_MASK)
			return true;
	}
}

bool
logq_conn_was_heard(const LogqConn *conn)
{
	return conn->pg != NULL && PQconnectionUsedPassword(conn->pg);
}

/*
 * Wait until a connection can take a request.
 */
void
logq_conn_wait_ready(LogqConn *conn)
{
	uint32		events = 0;

	while (!logq_conn_poll(conn, &events, NULL))
	{
		/* without an event of the socket, libpq must not be called */
		if (!logq_conn_wait(conn, events, conn->connect_deadline))
			events = 0;
	}
}
