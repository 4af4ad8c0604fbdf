/*-------------------------------------------------------------------------
 *
 * command.c
 *		Statements over a connection to a partition, and what comes back.
 *
 * For those who may wait: writers, workers and functions.  Scans send and read
 * through their streams, and share what is said of errors.  Nothing here calls
 * a libpq function that blocks, and every wait honours interrupts.
 *
 * A remote error becomes a local one in one place, which keeps its SQLSTATE,
 * message, detail, hint and context, and names the partition.
 *
 * Failure cases: a lost connection is an error like others, and leaves the
 * connection broken.  A connection of the pool may have died without its end
 * having reached us, as behind a firewall that forgets: logq_conn_answers finds
 * out before anything is at stake.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "logq.h"

#include "mb/pg_wchar.h"
#include "storage/latch.h"

/* how much of a remote command an error's context shows */
#define MAX_SQL_IN_CONTEXT 1024

/* ---------- sending, and results ---------- */

/*
 * Send a simple query; what does not fit the socket now goes out with
 * logq_conn_flush or while waiting for the result.  False: the connection is
 * lost.
 */
bool
logq_conn_try_send(LogqConn *conn, const char *sql)
{
	const char *setup = logq_conn_setup_sql(conn);
	int			ok;

	if (setup[0] != '\0')
	{
		char	   *both = psprintf("%s%s", setup, sql);

		ok = PQsendQuery(conn->pg, both);
		pfree(both);
	}
	else
		ok = PQsendQuery(conn->pg, sql);
	conn->state = ok ? LOGQ_CONN_BUSY : LOGQ_CONN_BROKEN;
	return ok;
}

/*
 * The same, where a lost connection is an error.
 */
void
logq_conn_send(LogqConn *conn, const char *sql)
{
	if (!logq_conn_try_send(conn, sql))
		logq_report_remote_error(ERROR, conn, NULL, sql);
}

/*
 * Wait until all that was queued is sent, taking in what comes meanwhile:
 * a server that cannot send may not read either.
 */
void
logq_conn_flush(LogqConn *conn)
{
	for (;;)
	{
		int			rc = PQflush(conn->pg);

		if (rc == 0)
			return;
		if (rc < 0 || PQconsumeInput(conn->pg) == 0)
			logq_report_remote_error(ERROR, conn, NULL, NULL);
		(void) logq_conn_wait(conn, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE,
							  0);
	}
}

/*
 * Wait for the next result.  NULL: the command is over and the connection
 * idle.  A lost connection is reported as an error.
 */
PGresult *
logq_conn_get_result(LogqConn *conn)
{
	PGresult   *res;

	logq_conn_flush(conn);
	while (PQisBusy(conn->pg))
	{
		(void) logq_conn_wait(conn, WL_SOCKET_READABLE, 0);
		if (PQconsumeInput(conn->pg) == 0)
			logq_report_remote_error(ERROR, conn, NULL, NULL);
	}
	res = PQgetResult(conn->pg);
	if (res == NULL)
		conn->state = PQstatus(conn->pg) == CONNECTION_OK ?
			LOGQ_CONN_IDLE : LOGQ_CONN_BROKEN;
	return res;
}

/*
 * Wait until PQgetResult does not block: a result is there, or the connection
 * is lost, which does not throw here.
 */
void
logq_conn_await_result(LogqConn *conn)
{
	for (;;)
	{
		int			unsent = PQflush(conn->pg);

		if (unsent < 0 || (unsent == 0 && !PQisBusy(conn->pg)))
			return;
		(void) logq_conn_wait(conn, WL_SOCKET_READABLE |
							  (unsent ? WL_SOCKET_WRITEABLE : 0), 0);
		if (PQconsumeInput(conn->pg) == 0)
			return;
	}
}

/*
 * Does somebody answer on an idle connection?  Also false when the answer is
 * an error, as from another partition's store: who then connects hears it.
 */
bool
logq_conn_answers(LogqConn *conn)
{
	bool		good = logq_conn_try_send(conn, "");
	PGresult   *res;

	if (!good)
		return false;
	for (;;)
	{
		logq_conn_await_result(conn);
		res = PQgetResult(conn->pg);
		if (res == NULL)
			break;
		good = good && PQresultStatus(res) != PGRES_FATAL_ERROR;
		PQclear(res);
	}
	good = good && PQstatus(conn->pg) == CONNECTION_OK;
	conn->state = good ? LOGQ_CONN_IDLE : LOGQ_CONN_BROKEN;
	return good;
}

/*
 * Run one or several statements and return the last one's result, which the
 * caller frees.  An error in any of them is reported; the connection is idle
 * by then, though perhaps in a failed transaction.
 */
PGresult *
logq_conn_exec(LogqConn *conn, const char *sql)
{
	PGresult   *volatile last = NULL;
	PGresult   *res;

	logq_conn_send(conn, sql);
	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			/* an error is the last result; a COPY has no business here */
			PQclear(last);
			last = res;
			if (PQresultStatus(res) == PGRES_COPY_IN ||
				PQresultStatus(res) == PGRES_COPY_OUT ||
				PQresultStatus(res) == PGRES_COPY_BOTH)
				break;
		}
	}
	PG_CATCH();
	{
		PQclear(last);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (last == NULL ||
		(PQresultStatus(last) != PGRES_COMMAND_OK &&
		 PQresultStatus(last) != PGRES_TUPLES_OK))
		logq_report_remote_error(ERROR, conn, last, sql);
	return last;
}

/*
 * Run statements that take locks.  False: somebody else has the lock; nothing
 * was done.
 */
bool
logq_conn_exec_unless_locked(LogqConn *conn, const char *sql)
{
	PGresult   *volatile failure = NULL;
	PGresult   *res;
	const char *sqlstate;

	logq_conn_send(conn, sql);
	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
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

	if (failure == NULL)
		return true;
	sqlstate = PQresultErrorField(failure, PG_DIAG_SQLSTATE);
	/* lock_not_available, deadlock_detected */
	if (sqlstate == NULL || (strcmp(sqlstate, "55P03") != 0 &&
							 strcmp(sqlstate, "40P01") != 0))
		logq_report_remote_error(ERROR, conn, failure, sql);
	PQclear(failure);
	/* settings that went ahead of it are undone as well */
	conn->configured = false;
	return false;
}

/* ---------- errors ---------- */

/*
 * A field of a remote error in our memory, or NULL.
 */
static char *
error_field(const PGresult *res, int code)
{
	const char *value = PQresultErrorField(res, code);

	return value ? pstrdup(value) : NULL;
}

/*
 * What a remote error, or the loss of a connection, says, in our memory.  Frees
 * res.
 */
LogqFailure *
logq_remote_failure(LogqConn *conn, PGresult *res, const char *sql)
{
	LogqFailure *failure = palloc0(sizeof(LogqFailure));
	char	   *state = error_field(res, PG_DIAG_SQLSTATE);
	char	   *primary = error_field(res, PG_DIAG_MESSAGE_PRIMARY);
	char	   *severity = error_field(res, PG_DIAG_SEVERITY_NONLOCALIZED);

	/* a PgBouncer has only the other one, and no language */
	if (severity == NULL)
		severity = error_field(res, PG_DIAG_SEVERITY);
	failure->detail = error_field(res, PG_DIAG_MESSAGE_DETAIL);
	failure->hint = error_field(res, PG_DIAG_MESSAGE_HINT);
	failure->context = error_field(res, PG_DIAG_CONTEXT);
	failure->lost = PQstatus(conn->pg) != CONNECTION_OK;
	/* settings that went ahead of what failed are undone with it */
	conn->configured = false;
	failure->fatal = severity != NULL && strcmp(severity, "FATAL") == 0;
	failure->sqlstate = ERRCODE_CONNECTION_FAILURE;

	PQclear(res);

	if (state != NULL && strcmp(state, LOGQ_WRONG_STORE_STATE) == 0)
		failure->hint = "Correct host, port, dbname, replicas or pooler of the partition's server (ALTER SERVER), or have the right server answer there.";
	if (state != NULL && strlen(state) == 5)
		failure->sqlstate = MAKE_SQLSTATE(state[0], state[1], state[2],
										  state[3], state[4]);
	/* libpq has no fields for errors of its own, only a text */
	if (primary == NULL)
	{
		primary = pchomp(PQerrorMessage(conn->pg));
		if (primary[0] == '\0')
			primary = "no message came with the error";
	}
	failure->reason = primary;
	failure->message = failure->lost ?
		psprintf("connection to partition \"%s\" was lost: %s",
				 conn->name, primary) :
		psprintf("partition \"%s\": %s", conn->name, primary);
	if (sql != NULL && strlen(sql) > MAX_SQL_IN_CONTEXT)
	{
		int			len = pg_mbcliplen(sql, MAX_SQL_IN_CONTEXT + 4,
									   MAX_SQL_IN_CONTEXT);

		failure->sql = psprintf("%.*s...", len, sql);
	}
	else if (sql != NULL)
		failure->sql = pstrdup(sql);
	if (failure->lost)
		conn->state = LOGQ_CONN_BROKEN;
	return failure;
}

/*
 * Report a failure.
 */
void
logq_report_failure(int elevel, const LogqFailure *failure)
{
	ereport(elevel,
			(errcode(failure->sqlstate),
			 errmsg_internal("%s", failure->message),
			 failure->detail ? errdetail_internal("%s", failure->detail) : 0,
			 failure->hint ? errhint("%s", failure->hint) : 0,
			 failure->context ? errcontext("%s", failure->context) : 0,
			 failure->sql ?
			 errcontext("remote SQL command: %s", failure->sql) : 0));
}

/*
 * Turn a remote error, or the loss of a connection, into a local one.  Frees
 * res, before it throws.
 */
void
logq_report_remote_error(int elevel, LogqConn *conn, PGresult *res,
						 const char *sql)
{
	logq_report_failure(elevel, logq_remote_failure(conn, res, sql));
}
