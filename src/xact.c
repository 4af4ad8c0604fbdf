/*-------------------------------------------------------------------------
 *
 * xact.c
 *		Remote write transactions: how they begin, and who reads over them.
 *
 * The first write of a local transaction to a partition opens a transaction
 * there, on a connection that stays with the local transaction until its end.
 * Local subtransactions are savepoints: s2 is that of nest level 2, and so
 * on.  The remote transactions commit in the PRE_COMMIT callback of the local
 * one, all at the same time.
 *
 * There is no two-phase commit (it would need max_prepared_transactions on
 * every partition, and somebody to resolve what a crash leaves behind).  So
 * this is what holds and what does not:
 *
 * - An error or a crash before COMMIT is sent: nothing is stored anywhere.
 *   COMMIT is only sent when every partition's transaction is known to be in
 *   good order and no connection is known to be lost.
 * - COMMIT goes to all partitions before any answer is awaited.  Should one
 *   partition fail in this one round trip, the others may have committed.
 *   The error says which did, which did not, and of which it is unknown.
 *   Rows on those that did stay, whatever becomes of the local transaction.
 * - The same goes for a cancel or a shutdown that arrives while the answers
 *   are awaited: the error's detail says what was known by then.  There is no
 *   deadline on this wait, as giving up is what makes the outcome unknown;
 *   statement_timeout does not reach into COMMIT either.
 * - After that, the local COMMIT can still fail (a serialization failure, a
 *   crash).  Then the log rows are stored and the local changes are not.
 * - A transaction that wrote to one partition and nothing local is atomic;
 *   only its outcome can be unknown, when the connection is lost in COMMIT.
 *
 * Invariants: an entry's "changing" is set while its remote transaction state
 * is being changed, and found set only when that was interrupted; then
 * nothing but closing the connection is safe.  An entry without a connection
 * has lost writes of this transaction, which therefore can only fail; lost
 * writes that the local transaction has rolled back anyway do no harm and
 * leave no entry.  Nothing on the abort paths (xactend.c) throws, waits
 * without a deadline or processes interrupts, and so they poll(2) on their
 * own: a WaitEventSet can fail to be made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"
#include "health.h"
#include "identity.h"
#include "writexact.h"

#include <limits.h>

#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define BEGIN_SQL "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

LogqWriteXact *logq_write_xacts = NULL;
static bool callbacks_registered = false;

/*
 * What a user writes, and what another one writes who is the same user at the
 * partition: the caller of a view or a SECURITY DEFINER function, and its owner.
 * Then they share it, and see each other's rows.
 */
static LogqWriteXact *
find_write_xact(Oid serverid, Oid userid)
{
	LogqWriteXact *wx;

	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx->serverid == serverid && wx->userid == userid)
			return wx;
	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx->serverid == serverid && wx->depth > 0 && wx->conn != NULL &&
			PQstatus(wx->conn->pg) == CONNECTION_OK &&
			logq_same_identity(wx->conn, userid))
			return wx;
	return NULL;
}

/*
 * The command of the query that is running, or is being planned.
 */
static CommandId
reading_command(void)
{
	return ActiveSnapshotSet() ? GetActiveSnapshot()->curcid :
		GetCurrentCommandId(false);
}

/*
 * What somebody else has written, as another user of the partition, is seen
 * over that user's connection only.  An answer without it would be wrong.
 */
static void
reject_others_writes(Oid serverid, Oid userid, const LogqWriteXact *own)
{
	CommandId	now = reading_command();

	for (LogqWriteXact *wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx != own && wx->serverid == serverid &&
			wx->lowest != INT_MAX && wx->first_cid < now)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot read from partition \"%s\" as \"%s\" what the transaction has written to it as \"%s\"",
							wx->name, GetUserNameFromId(userid, false),
							GetUserNameFromId(wx->userid, false)),
					 errdetail("They are different users of the partition, and a transaction there belongs to one of them."),
					 errhint("Commit before the query, or let the user mappings of both lead to the same user.")));
}

void
logq_xact_clear_result(LogqWriteXact *wx)
{
	PQclear(wx->res);
	wx->res = NULL;
}

/*
 * Close the connection; what it had not committed is gone.  Never throws.
 */
void
logq_xact_lose_connection(LogqWriteXact *wx)
{
	if (wx->conn != NULL)
		logq_conn_close(wx->conn);
	wx->conn = NULL;
	wx->copying = false;
	wx->changing = false;
}

/*
 * Remove an entry, closing its connection if it still has one.  Never throws.
 */
void
logq_xact_forget(LogqWriteXact *wx)
{
	LogqWriteXact **link;

	for (link = &logq_write_xacts; *link != NULL; link = &(*link)->next)
	{
		if (*link == wx)
		{
			*link = wx->next;
			break;
		}
	}
	logq_xact_clear_result(wx);
	logq_xact_lose_connection(wx);
	pfree(wx);
}

/*
 * Errors unless the remote transaction can take a command or a commit.
 */
void
logq_xact_reject_unusable(LogqWriteXact *wx)
{
	if (wx->conn == NULL || wx->changing ||
		wx->conn->state == LOGQ_CONN_BROKEN ||
		PQstatus(wx->conn->pg) != CONNECTION_OK)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to partition \"%s\" was lost during the transaction",
						wx->name),
				 errdetail("What the transaction had written to the partition is gone."),
				 errhint("Repeat the transaction.")));
	if (PQtransactionStatus(wx->conn->pg) == PQTRANS_INERROR)
		ereport(ERROR,
				(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				 errmsg("the transaction has failed on partition \"%s\"",
						wx->name),
				 errhint("Roll back, or roll back to a savepoint made before the first error.")));
}

/* ---------- commands that do not throw by themselves ---------- */

/*
 * Queue a command.  False: the connection is lost.
 */
bool
logq_xact_send(LogqWriteXact *wx, const char *sql)
{
	logq_xact_clear_result(wx);
	if (PQsendQuery(wx->conn->pg, sql) == 0)
		return false;
	wx->conn->state = LOGQ_CONN_BUSY;
	return PQflush(wx->conn->pg) >= 0;
}

/*
 * Wait for the end of what was sent and keep the first error, or else the
 * last result.  Only interrupts throw here; a lost connection is an error
 * result like others.  True: all went well.
 */
bool
logq_xact_collect(LogqWriteXact *wx)
{
	LogqConn   *conn = wx->conn;
	PGresult   *res;
	bool		ok = true;

	for (;;)
	{
		logq_conn_await_result(conn);
		res = PQgetResult(conn->pg);
		if (res == NULL)
			break;
		if (!ok)
		{
			PQclear(res);
			continue;
		}
		if (PQresultStatus(res) == PGRES_TUPLES_OK)
		{
			if (PQntuples(res) == 1 && PQnfields(res) == 1)
				wx->version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
			else if (PQntuples(res) == 1 && !PQgetisnull(res, 0, 0))
			{
				wx->position.lsn = logq_parse_lsn(PQgetvalue(res, 0, 0));
				wx->position.xid = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
			}
			PQclear(res);
			continue;
		}
		/* what comes after it cannot undo it */
		if (wx->outcome == LOGQ_COMMIT_SENT &&
			strcmp(PQcmdStatus(res), "COMMIT") == 0)
			wx->outcome = LOGQ_COMMIT_DONE;
		logq_xact_clear_result(wx);
		wx->res = res;
		ok = PQresultStatus(res) == PGRES_COMMAND_OK;
	}
	if (PQstatus(conn->pg) != CONNECTION_OK)
	{
		conn->state = LOGQ_CONN_BROKEN;
		return false;
	}
	conn->state = LOGQ_CONN_IDLE;
	return ok && wx->res != NULL;
}

/*
 * Report the result that logq_xact_collect() has kept as an error.
 */
void
logq_xact_report(LogqWriteXact *wx, const char *sql)
{
	PGresult   *res = wx->res;

	wx->res = NULL;
	logq_report_remote_error(ERROR, wx->conn, res, sql);
}

/* ---------- beginning ---------- */

/*
 * Append the savepoints that are missing above nest level "from".
 */
static void
append_savepoints(StringInfo sql, int from)
{
	int			level;

	for (level = from + 1; level <= GetCurrentTransactionNestLevel(); level++)
		appendStringInfo(sql, "%sSAVEPOINT s%d", sql->len > 0 ? "; " : "",
						 level);
}

/*
 * Bring the remote transaction to the current nest level, in one round trip.
 */
static void
set_savepoints(LogqWriteXact *wx)
{
	int			level = GetCurrentTransactionNestLevel();
	StringInfoData sql;

	if (wx->depth >= level)
		return;
	initStringInfo(&sql);
	append_savepoints(&sql, wx->depth);
	wx->changing = true;
	if (!logq_xact_send(wx, sql.data) || !logq_xact_collect(wx))
		logq_xact_report(wx, sql.data);
	logq_xact_clear_result(wx);
	wx->depth = level;
	wx->changing = false;
	pfree(sql.data);
}

/*
 * Open a remote transaction.  The entry is in the list before anything can
 * fail, so that no connection is ever left behind; one that fails here has
 * depth 0 and is simply replaced next time.
 */
static LogqWriteXact *
start_write_xact(Oid serverid, Oid userid)
{
	LogqWriteXact *wx;
	LogqPartition *part = logq_partition_by_server(serverid);
	int			nwriters = 1;
	int			attempt;

	logq_check_writable(serverid, userid);
	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx->serverid == serverid)
			nwriters++;
	logq_reserve_write(serverid, nwriters);
	if (part != NULL && part->has_replicas)
		logq_expect_written(serverid);

	if (!callbacks_registered)
	{
		RegisterXactCallback(logq_xact_callback, NULL);
		RegisterSubXactCallback(logq_subxact_callback, NULL);
		callbacks_registered = true;
	}

	wx = MemoryContextAllocZero(TopMemoryContext, sizeof(LogqWriteXact));
	wx->serverid = serverid;
	wx->userid = userid;
	wx->part = part;
	wx->lowest = INT_MAX;
	wx->first_cid = InvalidCommandId;
	wx->last_cid = FirstCommandId;
	wx->changing = true;
	wx->next = logq_write_xacts;
	logq_write_xacts = wx;

	for (attempt = 0;; attempt++)
	{
		StringInfoData sql;

		wx->conn = logq_conn_acquire_reserved(serverid, userid, attempt > 0);
		strlcpy(wx->name, wx->conn->name, NAMEDATALEN);
		logq_conn_wait_ready(wx->conn);
		/* nothing is at stake yet: one that hangs is given up */
		wx->conn->io_timeout = logq_partition_timeout;

		initStringInfo(&sql);
		appendStringInfoString(&sql, BEGIN_SQL);
		append_savepoints(&sql, 1);
		/* SET ahead of BEGIN lands in the same transaction; see release */
		if (logq_xact_send(wx, psprintf("%s%s",
										logq_conn_setup_sql(wx->conn),
										sql.data)) &&
			logq_xact_collect(wx))
			break;

		/* a pooled connection may have died since it was checked */
		if (attempt > 0 || !wx->conn->reused ||
			PQstatus(wx->conn->pg) == CONNECTION_OK)
			logq_xact_report(wx, sql.data);
		logq_xact_clear_result(wx);
		logq_conn_close(wx->conn);
		wx->conn = NULL;
	}
	logq_xact_clear_result(wx);
	wx->conn->io_timeout = 0;
	wx->depth = GetCurrentTransactionNestLevel();
	wx->changing = false;
	return wx;
}

/*
 * The connection for writing to a partition in this transaction, idle and at
 * the right savepoint.
 */
LogqConn *
logq_xact_begin_write(Oid serverid, Oid userid)
{
	LogqWriteXact *wx = find_write_xact(serverid, userid);

	if (wx != NULL && wx->depth == 0)
	{
		logq_xact_forget(wx);
		/* somebody else may have begun one meanwhile that we share */
		wx = find_write_xact(serverid, userid);
	}
	if (wx == NULL)
		wx = start_write_xact(serverid, userid);
	else
	{
		logq_xact_reject_unusable(wx);
		if (wx->copying || wx->conn->state != LOGQ_CONN_IDLE)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot write to partition \"%s\" while a query of the same transaction reads from it",
							wx->name),
					 errdetail("A transaction that has written to a partition reads from it over the same connection."),
					 errhint("Let the query end first, or close its cursor.")));
		set_savepoints(wx);
	}
	wx->lowest = Min(wx->lowest, GetCurrentTransactionNestLevel());
	wx->first_cid = Min(wx->first_cid, GetCurrentCommandId(false));
	wx->last_cid = Max(wx->last_cid, GetCurrentCommandId(false));
	return wx->conn;
}

/*
 * The connection over which a reader sees what this transaction has written,
 * or NULL when it shall see nothing of it, or when another reader has it.
 *
 * A query sees the writes of commands before its own, like everywhere in
 * PostgreSQL; in INSERT ... SELECT FROM the same table above all it must not
 * see its own rows.  The connection shows all of them or none, so a query
 * that shall see some and not others is refused.  That takes a statement
 * that reads and writes a log table, after others of its transaction have
 * written, and has so many rows that it sends the first before it has read
 * the last.
 *
 * Lost or failed writes are an error, not NULL: another connection would
 * show the partition without them.
 */
LogqConn *
logq_xact_written_conn(Oid serverid, Oid userid)
{
	LogqWriteXact *wx;
	CommandId	now = reading_command();

	if (!logq_xact_has_written(serverid))
		return NULL;
	wx = find_write_xact(serverid, userid);
	reject_others_writes(serverid, userid, wx);
	if (wx == NULL || wx->lowest == INT_MAX || wx->first_cid >= now)
		return NULL;
	logq_xact_reject_unusable(wx);
	if (wx->last_cid >= now || wx->copying)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot read from partition \"%s\" while a statement of the same transaction writes to it",
						wx->name),
				 errdetail("The query would see either all rows that the transaction has written, or none."),
				 errhint("Commit before a statement that both reads and writes, or collect its rows in a temporary table first. Fetch from a cursor before writing again.")));
	if (wx->conn->state != LOGQ_CONN_IDLE)
		return NULL;
	set_savepoints(wx);
	return wx->conn;
}

/*
 * Does this user write over that connection?
 */
bool
logq_xact_writes_over(Oid serverid, Oid userid, const LogqConn *conn)
{
	const LogqWriteXact *wx = find_write_xact(serverid, userid);

	return wx != NULL && wx->conn == conn;
}

/*
 * Will the current query read over such a connection, if anything?  Never
 * throws, and asks nobody.  Written by somebody else is written, too: the
 * query fails then, or it shares that.
 */
bool
logq_xact_has_written(Oid serverid)
{
	CommandId	now = reading_command();

	for (const LogqWriteXact *wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx->serverid == serverid && wx->lowest != INT_MAX &&
			wx->first_cid < now)
			return true;
	return false;
}

/*
 * A COPY FROM STDIN begins or is over on a connection.  Set before the
 * command is sent, reset when its last result has come.
 */
void
logq_xact_set_copying(LogqConn *conn, bool copying)
{
	LogqWriteXact *wx;

	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx->conn == conn)
			wx->copying = copying;
}

