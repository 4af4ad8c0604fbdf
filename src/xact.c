/*-------------------------------------------------------------------------
 *
 * xact.c
 *		Remote write transactions: commit, abort, savepoints.
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
 * leave no entry.  Nothing on the abort paths throws, waits without a
 * deadline or processes interrupts, and so they poll(2) on their own: a
 * WaitEventSet can fail to be made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"
#include "health.h"
#include "identity.h"

#include <limits.h>
#include <poll.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* how long the end of a transaction waits for ROLLBACK, in ms */
#define ABORT_TIMEOUT 1000
/* the same for a savepoint; giving up costs the whole transaction */
#define SUBABORT_TIMEOUT 10000

#define BEGIN_SQL "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
/* a replica that this session reads from must have come so far; two columns,
 * to tell it from the version */
#define WRITTEN_SQL "; SELECT " LOGQ_LSN_SQL ", " LOGQ_XID_SQL

typedef enum CommitOutcome
{
	COMMIT_NOT_SENT,
	COMMIT_SENT,				/* no answer yet, so unknown */
	COMMIT_DONE,
	COMMIT_FAILED
} CommitOutcome;

typedef struct WriteXact
{
	Oid			serverid;
	Oid			userid;
	LogqConn   *conn;			/* NULL: lost */
	LogqPartition *part;		/* may be NULL */
	char		name[NAMEDATALEN];
	int			depth;			/* remote nest level, 0: not begun */
	int			lowest;			/* lowest nest level that holds writes */
	CommandId	first_cid;		/* of the commands that wrote */
	CommandId	last_cid;
	int			released;		/* nest level whose savepoint is gone while
								 * the local one has not yet committed */
	bool		changing;		/* see the head of the file */
	bool		copying;
	LogqPosition position;		/* after commit, where replicas matter; or 0 */
	int64		version;		/* of the catalog, at commit; 0: unknown */
	CommitOutcome outcome;
	PGresult   *res;			/* of the last command; freed on abort */
	struct WriteXact *next;
} WriteXact;

static WriteXact *write_xacts = NULL;
static bool callbacks_registered = false;

static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId mySubid,
							 SubTransactionId parentSubid, void *arg);

/*
 * What a user writes, and what another one writes who is the same user at the
 * partition: the caller of a view or a SECURITY DEFINER function, and its owner.
 * Then they share it, and see each other's rows.
 */
static WriteXact *
find_write_xact(Oid serverid, Oid userid)
{
	WriteXact  *wx;

	for (wx = write_xacts; wx != NULL; wx = wx->next)
		if (wx->serverid == serverid && wx->userid == userid)
			return wx;
	for (wx = write_xacts; wx != NULL; wx = wx->next)
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
reject_others_writes(Oid serverid, Oid userid, const WriteXact *own)
{
	CommandId	now = reading_command();

	for (WriteXact *wx = write_xacts; wx != NULL; wx = wx->next)
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

static void
clear_result(WriteXact *wx)
{
	PQclear(wx->res);
	wx->res = NULL;
}

/*
 * Close the connection; what it had not committed is gone.  Never throws.
 */
static void
lose_connection(WriteXact *wx)
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
static void
forget_write_xact(WriteXact *wx)
{
	WriteXact **link;

	for (link = &write_xacts; *link != NULL; link = &(*link)->next)
	{
		if (*link == wx)
		{
			*link = wx->next;
			break;
		}
	}
	clear_result(wx);
	lose_connection(wx);
	pfree(wx);
}

/*
 * Errors unless the remote transaction can take a command or a commit.
 */
static void
reject_unusable(WriteXact *wx)
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
static bool
send_command(WriteXact *wx, const char *sql)
{
	clear_result(wx);
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
static bool
collect_command(WriteXact *wx)
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
		if (wx->outcome == COMMIT_SENT &&
			strcmp(PQcmdStatus(res), "COMMIT") == 0)
			wx->outcome = COMMIT_DONE;
		clear_result(wx);
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
 * Report the result that collect_command() has kept as an error.
 */
static void
report_command(WriteXact *wx, const char *sql)
{
	PGresult   *res = wx->res;

	wx->res = NULL;
	logq_report_remote_error(ERROR, wx->conn, res, sql);
}

/*
 * Wait for the socket without throwing.  False: the deadline has passed, or
 * there is nothing to wait for.  A deadline of 0 asks without waiting.
 */
static bool
poll_socket(PGconn *pg, short events, TimestampTz deadline)
{
	struct pollfd pfd;

	pfd.fd = PQsocket(pg);
	pfd.events = events;
	if (pfd.fd < 0)
		return false;
	for (;;)
	{
		int			timeout = 0;
		int			rc;

		if (deadline != 0)
		{
			timeout = (int)
				TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
												deadline);
			if (timeout <= 0)
				return false;
		}
		pfd.revents = 0;
		rc = poll(&pfd, 1, timeout);
		if (rc > 0)
			return true;
		if (rc == 0 && deadline == 0)
			return false;
		if (rc < 0 && errno != EINTR)
			return false;
	}
}

/*
 * Take in everything up to the connection being idle, for the abort paths.
 * A COPY that only now turns out to have begun is ended.  False: in doubt.
 * *failed is set when an error was among the results.
 */
static bool
drain(LogqConn *conn, TimestampTz deadline, bool *failed)
{
	bool		ended_copy = false;

	*failed = false;
	for (;;)
	{
		PGresult   *res;
		ExecStatusType status;

		for (;;)
		{
			int			unsent = PQflush(conn->pg);

			if (unsent < 0)
				return false;
			if (unsent == 0 && !PQisBusy(conn->pg))
				break;
			if (!poll_socket(conn->pg, POLLIN | (unsent ? POLLOUT : 0),
							 deadline))
				return false;
			if (PQconsumeInput(conn->pg) == 0)
				return false;
		}
		res = PQgetResult(conn->pg);
		if (res == NULL)
			break;
		status = PQresultStatus(res);
		PQclear(res);
		if (status == PGRES_COPY_IN && !ended_copy)
		{
			ended_copy = true;
			if (PQputCopyEnd(conn->pg, "aborted") != 1)
				return false;
		}
		else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		{
			if (status != PGRES_FATAL_ERROR)
				return false;
			*failed = true;
		}
	}
	if (PQstatus(conn->pg) != CONNECTION_OK)
		return false;
	conn->state = LOGQ_CONN_IDLE;
	return true;
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
set_savepoints(WriteXact *wx)
{
	int			level = GetCurrentTransactionNestLevel();
	StringInfoData sql;

	if (wx->depth >= level)
		return;
	initStringInfo(&sql);
	append_savepoints(&sql, wx->depth);
	wx->changing = true;
	if (!send_command(wx, sql.data) || !collect_command(wx))
		report_command(wx, sql.data);
	clear_result(wx);
	wx->depth = level;
	wx->changing = false;
	pfree(sql.data);
}

/*
 * Open a remote transaction.  The entry is in the list before anything can
 * fail, so that no connection is ever left behind; one that fails here has
 * depth 0 and is simply replaced next time.
 */
static WriteXact *
start_write_xact(Oid serverid, Oid userid)
{
	WriteXact  *wx;
	LogqPartition *part = logq_partition_by_server(serverid);
	int			nwriters = 1;
	int			attempt;

	logq_check_writable(serverid, userid);
	for (wx = write_xacts; wx != NULL; wx = wx->next)
		if (wx->serverid == serverid)
			nwriters++;
	logq_reserve_write(serverid, nwriters);
	if (part != NULL && part->has_replicas)
		logq_expect_written(serverid);

	if (!callbacks_registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
		callbacks_registered = true;
	}

	wx = MemoryContextAllocZero(TopMemoryContext, sizeof(WriteXact));
	wx->serverid = serverid;
	wx->userid = userid;
	wx->part = part;
	wx->lowest = INT_MAX;
	wx->first_cid = InvalidCommandId;
	wx->last_cid = FirstCommandId;
	wx->changing = true;
	wx->next = write_xacts;
	write_xacts = wx;

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
		if (send_command(wx, psprintf("%s%s", logq_conn_setup_sql(wx->conn),
									  sql.data)) &&
			collect_command(wx))
			break;

		/* a pooled connection may have died since it was checked */
		if (attempt > 0 || !wx->conn->reused ||
			PQstatus(wx->conn->pg) == CONNECTION_OK)
			report_command(wx, sql.data);
		clear_result(wx);
		logq_conn_close(wx->conn);
		wx->conn = NULL;
	}
	clear_result(wx);
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
	WriteXact  *wx = find_write_xact(serverid, userid);

	if (wx != NULL && wx->depth == 0)
	{
		forget_write_xact(wx);
		/* somebody else may have begun one meanwhile that we share */
		wx = find_write_xact(serverid, userid);
	}
	if (wx == NULL)
		wx = start_write_xact(serverid, userid);
	else
	{
		reject_unusable(wx);
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
	WriteXact  *wx;
	CommandId	now = reading_command();

	if (!logq_xact_has_written(serverid))
		return NULL;
	wx = find_write_xact(serverid, userid);
	reject_others_writes(serverid, userid, wx);
	if (wx == NULL || wx->lowest == INT_MAX || wx->first_cid >= now)
		return NULL;
	reject_unusable(wx);
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
	const WriteXact *wx = find_write_xact(serverid, userid);

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

	for (const WriteXact *wx = write_xacts; wx != NULL; wx = wx->next)
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
	WriteXact  *wx;

	for (wx = write_xacts; wx != NULL; wx = wx->next)
		if (wx->conn == conn)
			wx->copying = copying;
}

/* ---------- commit ---------- */

/*
 * Append "Label: p1, p2." for the partitions with an outcome.
 */
static void
append_outcome(StringInfo buf, const char *label, CommitOutcome first,
			   CommitOutcome second)
{
	WriteXact  *wx;
	int			n = 0;

	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->outcome != first && wx->outcome != second)
			continue;
		if (n++ == 0)
			appendStringInfo(buf, "%s%s: ", buf->len > 0 ? " " : "", label);
		else
			appendStringInfoString(buf, ", ");
		appendStringInfo(buf, "\"%s\"", wx->name);
	}
	if (n > 0)
		appendStringInfoChar(buf, '.');
}

/*
 * Error context callback while COMMIT is under way.  It adds the outcome on
 * each partition to whatever error there is: a partition's, or a cancel.  It
 * replaces a detail from the partition, as it matters more.
 */
static void
commit_error_callback(void *arg)
{
	WriteXact  *wx;
	StringInfoData buf;
	bool		lasting = false;

	for (wx = write_xacts; wx != NULL; wx = wx->next)
		if (wx->outcome == COMMIT_DONE || wx->outcome == COMMIT_SENT)
			lasting = true;
	/* nothing is stored, as with any other error */
	if (!lasting)
		return;

	initStringInfo(&buf);
	append_outcome(&buf, "Committed on", COMMIT_DONE, COMMIT_DONE);
	append_outcome(&buf, "Rolled back on", COMMIT_FAILED, COMMIT_NOT_SENT);
	append_outcome(&buf, "Unknown on", COMMIT_SENT, COMMIT_SENT);
	errdetail_internal("%s", buf.data);
	errhint("Rows on partitions that committed stay. See what is there before repeating the transaction.");
	pfree(buf.data);
}

/*
 * Errors when a remote transaction cannot be committed, as far as that can be
 * known without a round trip.
 */
static void
check_before_commit(WriteXact *wx)
{
	/* a server that goes away says so, and that waits to be read */
	if (wx->conn != NULL && wx->conn->state == LOGQ_CONN_IDLE)
	{
		int			i;

		/* twice: the message, then the end of file */
		for (i = 0; i < 2 && poll_socket(wx->conn->pg, POLLIN, 0); i++)
			if (PQconsumeInput(wx->conn->pg) == 0)
				break;
	}
	reject_unusable(wx);
	if (wx->copying || wx->conn->state != LOGQ_CONN_IDLE)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot commit while a command is under way on partition \"%s\"",
						wx->name)));
}

/*
 * A commit may have changed the partition's catalog: a late row opens its
 * segment again.  Whoever reads after us must not trust a copy from before.
 * Never throws.
 */
static void
doubt_catalog(WriteXact *wx)
{
	LogqConfirmation known;

	if (wx->part == NULL || wx->outcome == COMMIT_NOT_SENT ||
		wx->outcome == COMMIT_FAILED)
		return;
	if (wx->version == 0 || wx->version != wx->part->version)
		wx->part->confirmed_at = 0;
	if (wx->version == 0 ||
		!logq_shmem_get(wx->part->number, &known) ||
		known.version != wx->version)
		logq_shmem_doubt(wx->part->number);
}

/*
 * Commit all remote transactions.
 */
static void
commit_write_xacts(void)
{
	ErrorContextCallback errcallback;
	WriteXact  *wx;
	WriteXact  *next;
	WriteXact  *failed = NULL;

	for (wx = write_xacts; wx != NULL; wx = next)
	{
		next = wx->next;
		/* BEGIN was interrupted in a subtransaction that is over */
		if (wx->depth == 0)
			forget_write_xact(wx);
		else
			check_before_commit(wx);
	}

	errcallback.callback = commit_error_callback;
	errcallback.arg = NULL;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;

	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		wx->changing = true;
		/* after a failure, as little as possible shall be stored */
		if (!send_command(wx, wx->part != NULL && wx->part->has_replicas ?
						  LOGQ_COMMIT_SQL WRITTEN_SQL : LOGQ_COMMIT_SQL))
		{
			failed = wx;
			break;
		}
		wx->outcome = COMMIT_SENT;
	}
	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->outcome != COMMIT_SENT)
			continue;
		if (collect_command(wx) || wx->outcome == COMMIT_DONE)
		{
			/* a failed transaction answers ROLLBACK, and no error */
			if (wx->outcome != COMMIT_DONE)
				wx->outcome = COMMIT_FAILED;
			wx->changing = false;
			if (wx->outcome == COMMIT_DONE &&
				wx->part != NULL && wx->part->has_replicas)
			{
				if (wx->position.lsn == 0)
					wx->position.lsn = LOGQ_WRITTEN_UNKNOWN;
				logq_note_written(wx->serverid, &wx->position);
			}
		}
		else if (wx->conn->state == LOGQ_CONN_IDLE)
		{
			wx->outcome = COMMIT_FAILED;
			wx->changing = false;
		}
		/* else the connection was lost, and nobody knows */
		doubt_catalog(wx);
		if (wx->outcome != COMMIT_DONE && failed == NULL)
			failed = wx;
	}

	if (failed != NULL)
	{
		if (failed->outcome == COMMIT_SENT)
			ereport(ERROR,
					(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
					 errmsg("connection to partition \"%s\" was lost while it committed",
							failed->name)));
		if (failed->outcome == COMMIT_FAILED &&
			PQresultStatus(failed->res) == PGRES_COMMAND_OK)
			ereport(ERROR,
					(errcode(ERRCODE_TRANSACTION_ROLLBACK),
					 errmsg("partition \"%s\" rolled back instead of committing",
							failed->name)));
		report_command(failed, "COMMIT");
	}
	error_context_stack = errcallback.previous;

	while ((wx = write_xacts) != NULL)
	{
		LogqConn   *conn = wx->conn;

		wx->conn = NULL;
		forget_write_xact(wx);
		logq_conn_release(conn);
	}
}

/* ---------- abort ---------- */

/*
 * End all remote transactions.  Never throws.
 */
static void
abort_write_xacts(void)
{
	TimestampTz deadline;
	WriteXact  *wx;

	/* all at once ... */
	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		clear_result(wx);
		/* interrupted while the answer was awaited */
		if (wx->outcome == COMMIT_SENT)
			doubt_catalog(wx);
		/* a catalog read over this connection may show what never was */
		if (wx->part != NULL)
			wx->part->loaded = false;
		if (wx->conn == NULL)
			continue;
		/* closing is the one safe way out of anything doubtful */
		if (wx->copying || wx->changing || wx->depth == 0 ||
			wx->conn->state != LOGQ_CONN_IDLE ||
			PQstatus(wx->conn->pg) != CONNECTION_OK)
			lose_connection(wx);
		else if (PQtransactionStatus(wx->conn->pg) != PQTRANS_IDLE &&
				 !send_command(wx, "ROLLBACK"))
			lose_connection(wx);
	}

	/* ... and within one deadline */
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   ABORT_TIMEOUT);
	while ((wx = write_xacts) != NULL)
	{
		LogqConn   *conn = wx->conn;
		bool		failed;

		if (conn != NULL && drain(conn, deadline, &failed) && !failed)
		{
			/* settings that were sent ahead of BEGIN are rolled back too */
			conn->configured = false;
			wx->conn = NULL;
			logq_conn_release(conn);
		}
		forget_write_xact(wx);
	}
}

/*
 * At the end of a transaction.
 */
static void
xact_callback(XactEvent event, void *arg)
{
	if (write_xacts == NULL)
		return;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			commit_write_xacts();
			break;
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has written to partitions of logq")));
			break;
		case XACT_EVENT_ABORT:
			abort_write_xacts();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			/* nothing is left, or this is a worker, which does not write */
			break;
	}
}

/* ---------- subtransactions ---------- */

/*
 * Release the savepoints of a subtransaction that is about to commit.
 *
 * When one partition fails, none is taken to be released: those that were
 * would keep rows of a subtransaction that now aborts, so abort_savepoints()
 * must find all of them in doubt.
 */
static void
release_savepoints(int level)
{
	WriteXact  *wx;
	WriteXact  *failed = NULL;
	char		sql[64];

	snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT s%d", level);
	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->depth < level)
			continue;
		/*
		 * A cursor reads over the connection.  The savepoint may as well
		 * stay: a later one of the same name hides it, and rolling back to
		 * an outer one removes it.
		 */
		if (wx->conn != NULL && !wx->changing && !wx->copying &&
			wx->conn->state == LOGQ_CONN_BUSY)
			continue;
		reject_unusable(wx);
		wx->changing = true;
		if (!send_command(wx, sql))
			report_command(wx, sql);
	}
	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->depth < level || !wx->changing)
			continue;
		if (!collect_command(wx) && failed == NULL)
			failed = wx;
	}
	if (failed != NULL)
		report_command(failed, sql);

	for (wx = write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->depth < level)
			continue;
		clear_result(wx);
		if (wx->changing)
			wx->released = level;
		wx->changing = false;
		wx->depth = level - 1;
		if (wx->lowest != INT_MAX)
			wx->lowest = Min(wx->lowest, level - 1);
	}
}

/*
 * Roll a connection back to a savepoint.  False: in doubt.
 */
static bool
rollback_to_savepoint(WriteXact *wx, int level, TimestampTz deadline)
{
	LogqConn   *conn = wx->conn;
	char		sql[80];
	bool		failed;

	if (wx->changing || PQstatus(conn->pg) != CONNECTION_OK)
		return false;
	if (wx->copying)
	{
		/*
		 * Not in COPY any more, or not yet, when this fails: then the answer
		 * is under way.
		 */
		(void) PQputCopyEnd(conn->pg, "aborted");
		if (!drain(conn, deadline, &failed))
			return false;
		wx->copying = false;
	}
	/* a query over it has failed, and nobody has read the end of its answer */
	if (conn->state == LOGQ_CONN_BUSY && !drain(conn, deadline, &failed))
		return false;
	if (conn->state != LOGQ_CONN_IDLE)
		return false;

	snprintf(sql, sizeof(sql),
			 "ROLLBACK TO SAVEPOINT s%d; RELEASE SAVEPOINT s%d", level, level);
	return send_command(wx, sql) && drain(conn, deadline, &failed) &&
		!failed && PQtransactionStatus(conn->pg) == PQTRANS_INTRANS;
}

/*
 * Roll back what a subtransaction wrote.  Never throws.
 */
static void
abort_savepoints(int level)
{
	TimestampTz deadline = 0;
	WriteXact  *wx;
	WriteXact  *next;

	for (wx = write_xacts; wx != NULL; wx = next)
	{
		next = wx->next;

		/* the commit of the subtransaction failed after its savepoint went */
		if (wx->released == level)
		{
			wx->released = 0;
			lose_connection(wx);
			continue;
		}
		if (wx->depth < level)
			continue;
		wx->depth = level - 1;
		clear_result(wx);
		if (wx->part != NULL)
			wx->part->loaded = false;
		if (deadline == 0)
			deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   SUBABORT_TIMEOUT);
		if (wx->conn != NULL && !rollback_to_savepoint(wx, level, deadline))
			lose_connection(wx);
		if (wx->lowest >= level)
		{
			/* all that was written is rolled back, one way or the other */
			wx->lowest = INT_MAX;
			wx->first_cid = InvalidCommandId;
			wx->last_cid = FirstCommandId;
			if (wx->conn == NULL)
				forget_write_xact(wx);
		}
	}
}

/*
 * At the end of a subtransaction.
 */
static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	WriteXact  *wx;

	if (write_xacts == NULL)
		return;

	switch (event)
	{
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			release_savepoints(level);
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			for (wx = write_xacts; wx != NULL; wx = wx->next)
				wx->released = 0;
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			abort_savepoints(level);
			break;
		case SUBXACT_EVENT_START_SUB:
			break;
	}
}
