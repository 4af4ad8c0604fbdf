/*-------------------------------------------------------------------------
 *
 * xactend.c
 *		The end of remote write transactions, and of their savepoints.
 *
 * What holds at commit and what does not is said at the head of xact.c, as are
 * the invariants of an entry.  commit_write_xacts() runs before the local
 * transaction commits, and may throw; then what it had not sent is rolled
 * back.  All that belongs to an abort does not throw.
 *
 * Failure cases: a connection in any doubt is closed, with what it had not
 * committed.  Where the local transaction goes on (a savepoint), it has then
 * lost writes, and can only fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "health.h"
#include "writexact.h"

#include <limits.h>
#include <poll.h>

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

/* how long the end of a transaction waits for ROLLBACK, in ms */
#define ABORT_TIMEOUT 1000
/* the same for a savepoint; giving up costs the whole transaction */
#define SUBABORT_TIMEOUT 10000

/* a replica that this session reads from must have come so far; two columns,
 * to tell it from the version */
#define WRITTEN_SQL "; SELECT " LOGQ_LSN_SQL ", " LOGQ_XID_SQL

/* ---------- sockets, on paths that may not throw ---------- */

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
				TimestampDifferenceMilliseconds(logq_now(),
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

/* ---------- commit ---------- */

/*
 * Append "Label: p1, p2." for the partitions with an outcome.
 */
static void
append_outcome(StringInfo buf, const char *label, LogqCommitOutcome first,
			   LogqCommitOutcome second)
{
	LogqWriteXact *wx;
	int			n = 0;

	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
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
	LogqWriteXact *wx;
	StringInfoData buf;
	bool		lasting = false;

	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
		if (wx->outcome == LOGQ_COMMIT_DONE || wx->outcome == LOGQ_COMMIT_SENT)
			lasting = true;
	/* nothing is stored, as with any other error */
	if (!lasting)
		return;

	initStringInfo(&buf);
	append_outcome(&buf, "Committed on", LOGQ_COMMIT_DONE, LOGQ_COMMIT_DONE);
	append_outcome(&buf, "Rolled back on", LOGQ_COMMIT_FAILED,
				   LOGQ_COMMIT_NOT_SENT);
	append_outcome(&buf, "Unknown on", LOGQ_COMMIT_SENT, LOGQ_COMMIT_SENT);
	errdetail_internal("%s", buf.data);
	errhint("Rows on partitions that committed stay. See what is there before repeating the transaction.");
	pfree(buf.data);
}

/*
 * Errors when a remote transaction cannot be committed, as far as that can be
 * known without a round trip.
 */
static void
check_before_commit(LogqWriteXact *wx)
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
	logq_xact_reject_unusable(wx);
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
doubt_catalog(LogqWriteXact *wx)
{
	LogqConfirmation known;

	if (wx->part == NULL || wx->outcome == LOGQ_COMMIT_NOT_SENT ||
		wx->outcome == LOGQ_COMMIT_FAILED)
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
	LogqWriteXact *wx;
	LogqWriteXact *next;
	LogqWriteXact *failed = NULL;

	for (wx = logq_write_xacts; wx != NULL; wx = next)
	{
		next = wx->next;
		/* BEGIN was interrupted in a subtransaction that is over */
		if (wx->depth == 0)
			logq_xact_forget(wx);
		else
			check_before_commit(wx);
	}

	errcallback.callback = commit_error_callback;
	errcallback.arg = NULL;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;

	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
	{
		wx->changing = true;
		/* after a failure, as little as possible shall be stored */
		if (!logq_xact_send(wx,
							wx->part != NULL && wx->part->has_replicas ?
							LOGQ_COMMIT_SQL WRITTEN_SQL : LOGQ_COMMIT_SQL))
		{
			failed = wx;
			break;
		}
		wx->outcome = LOGQ_COMMIT_SENT;
	}
	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->outcome != LOGQ_COMMIT_SENT)
			continue;
		if (logq_xact_collect(wx) || wx->outcome == LOGQ_COMMIT_DONE)
		{
			/* a failed transaction answers ROLLBACK, and no error */
			if (wx->outcome != LOGQ_COMMIT_DONE)
				wx->outcome = LOGQ_COMMIT_FAILED;
			wx->changing = false;
			if (wx->outcome == LOGQ_COMMIT_DONE &&
				wx->part != NULL && wx->part->has_replicas)
			{
				if (wx->position.lsn == 0)
					wx->position.lsn = LOGQ_WRITTEN_UNKNOWN;
				logq_note_written(wx->serverid, &wx->position);
			}
		}
		else if (wx->conn->state == LOGQ_CONN_IDLE)
		{
			wx->outcome = LOGQ_COMMIT_FAILED;
			wx->changing = false;
		}
		/* else the connection was lost, and nobody knows */
		doubt_catalog(wx);
		if (wx->outcome != LOGQ_COMMIT_DONE && failed == NULL)
			failed = wx;
	}

	if (failed != NULL)
	{
		if (failed->outcome == LOGQ_COMMIT_SENT)
			ereport(ERROR,
					(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
					 errmsg("connection to partition \"%s\" was lost while it committed",
							failed->name)));
		if (failed->outcome == LOGQ_COMMIT_FAILED &&
			PQresultStatus(failed->res) == PGRES_COMMAND_OK)
			ereport(ERROR,
					(errcode(ERRCODE_TRANSACTION_ROLLBACK),
					 errmsg("partition \"%s\" rolled back instead of committing",
							failed->name)));
		logq_xact_report(failed, "COMMIT");
	}
	error_context_stack = errcallback.previous;

	while ((wx = logq_write_xacts) != NULL)
	{
		LogqConn   *conn = wx->conn;

		wx->conn = NULL;
		logq_xact_forget(wx);
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
	LogqWriteXact *wx;

	/* all at once ... */
	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
	{
		logq_xact_clear_result(wx);
		/* interrupted while the answer was awaited */
		if (wx->outcome == LOGQ_COMMIT_SENT)
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
			logq_xact_lose_connection(wx);
		else if (PQtransactionStatus(wx->conn->pg) != PQTRANS_IDLE &&
				 !logq_xact_send(wx, "ROLLBACK"))
			logq_xact_lose_connection(wx);
	}

	/* ... and within one deadline */
	deadline = TimestampTzPlusMilliseconds(logq_now(),
										   ABORT_TIMEOUT);
	while ((wx = logq_write_xacts) != NULL)
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
		logq_xact_forget(wx);
	}
}

/*
 * At the end of a transaction.
 */
void
logq_xact_callback(XactEvent event, void *arg)
{
	if (logq_write_xacts == NULL)
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
	LogqWriteXact *wx;
	LogqWriteXact *failed = NULL;
	char		sql[64];

	snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT s%d", level);
	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
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
		logq_xact_reject_unusable(wx);
		wx->changing = true;
		if (!logq_xact_send(wx, sql))
			logq_xact_report(wx, sql);
	}
	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->depth < level || !wx->changing)
			continue;
		if (!logq_xact_collect(wx) && failed == NULL)
			failed = wx;
	}
	if (failed != NULL)
		logq_xact_report(failed, sql);

	for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
	{
		if (wx->depth < level)
			continue;
		logq_xact_clear_result(wx);
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
rollback_to_savepoint(LogqWriteXact *wx, int level, TimestampTz deadline)
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
	return logq_xact_send(wx, sql) && drain(conn, deadline, &failed) &&
		!failed && PQtransactionStatus(conn->pg) == PQTRANS_INTRANS;
}

/*
 * Roll back what a subtransaction wrote.  Never throws.
 */
static void
abort_savepoints(int level)
{
	TimestampTz deadline = 0;
	LogqWriteXact *wx;
	LogqWriteXact *next;

	for (wx = logq_write_xacts; wx != NULL; wx = next)
	{
		next = wx->next;

		/* the commit of the subtransaction failed after its savepoint went */
		if (wx->released == level)
		{
			wx->released = 0;
			logq_xact_lose_connection(wx);
			continue;
		}
		if (wx->depth < level)
			continue;
		wx->depth = level - 1;
		logq_xact_clear_result(wx);
		if (wx->part != NULL)
			wx->part->loaded = false;
		if (deadline == 0)
			deadline = TimestampTzPlusMilliseconds(logq_now(),
												   SUBABORT_TIMEOUT);
		if (wx->conn != NULL && !rollback_to_savepoint(wx, level, deadline))
			logq_xact_lose_connection(wx);
		if (wx->lowest >= level)
		{
			/* all that was written is rolled back, one way or the other */
			wx->lowest = INT_MAX;
			wx->first_cid = InvalidCommandId;
			wx->last_cid = FirstCommandId;
			if (wx->conn == NULL)
				logq_xact_forget(wx);
		}
	}
}

/*
 * At the end of a subtransaction.
 */
void
logq_subxact_callback(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	LogqWriteXact *wx;

	if (logq_write_xacts == NULL)
		return;

	switch (event)
	{
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			release_savepoints(level);
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			for (wx = logq_write_xacts; wx != NULL; wx = wx->next)
				wx->released = 0;
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			abort_savepoints(level);
			break;
		case SUBXACT_EVENT_START_SUB:
			break;
	}
}
