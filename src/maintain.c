/*-------------------------------------------------------------------------
 *
 * maintain.c
 *		Segments are made before they are needed, and dropped when retention
 *		is over.
 *
 * All state is on the partition, and each step there is one transaction, so
 * it does not matter who does this, how often, or where it was cut off.
 * Several coordinators may do it at once.
 *
 * Locks on the partition are waited for a second at most: whoever waits for a
 * lock on the log table makes all behind wait, too.  What did not come to
 * pass is tried again by the next round.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "maintain.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(logq_set_retention);

#define LOCK_TIMEOUT_SQL "SET LOCAL lock_timeout = '1s'; "

/*
 * Make the segments of now and of a time soon after, over an idle connection.
 */
void
logq_make_ahead(LogqPartition *part, LogqConn *conn)
{
	/* each in a transaction of its own, as writers do it */
	(void) logq_conn_exec_unless_locked(conn, LOCK_TIMEOUT_SQL
							  "SELECT logq_store.make_segment(pg_catalog.now())");
	(void) logq_conn_exec_unless_locked(conn, LOCK_TIMEOUT_SQL
							  "SELECT logq_store.make_segment(" LOGQ_AHEAD_SQL ") "
							  "FROM logq_store.store");
}

/*
 * Drop the segments that retention has passed, the oldest first, over an idle
 * connection.  -1: somebody holds a lock, and not all could be dropped.
 */
int
logq_apply_retention(LogqPartition *part, LogqConn *conn)
{
	PGresult   *res;
	char	  **names;
	int			nnames;
	int			ndropped = 0;
	int			i;

	res = logq_conn_exec(conn,
						 "SELECT s.name FROM logq_store.segment s, logq_store.store r "
						 "WHERE s.upper <= pg_catalog.now() - r.retention ORDER BY s.upper");
	nnames = PQntuples(res);
	names = palloc((nnames + 1) * sizeof(char *));
	for (i = 0; i < nnames; i++)
		names[i] = pstrdup(PQgetvalue(res, i, 0));
	PQclear(res);

	for (i = 0; i < nnames; i++)
	{
		char	   *sql = psprintf(LOCK_TIMEOUT_SQL
								   "SELECT logq_store.drop_segment(%s)",
								   quote_literal_cstr(names[i]));

		if (!logq_conn_exec_unless_locked(conn, sql))
			return -1;
		ndropped++;
	}
	return ndropped;
}

/* ---------- logq.set_retention ---------- */

/*
 * Error context callback: there is no way back for partitions that are done.
 */
static void
retention_error_callback(void *arg)
{
	const StringInfoData *done = arg;

	if (done->len > 0)
		errcontext("retention had been set on %s", done->data);
}

/*
 * Run one statement on a partition, in a transaction of its own there.
 */
static void
exec_on_partition(LogqPartition *part, const char *sql)
{
	LogqConn   *conn;

	if (!OidIsValid(part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", part->name),
				 errhint("Create it, or forget the partition with logq.remove_partition().")));
	conn = logq_conn_acquire_tested(part->serverid, GetUserId());
	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		PQclear(logq_conn_exec(conn, sql));
	}
	PG_CATCH();
	{
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
}

/*
 * logq.set_retention(retention, partition)
 *
 * Partitions are set one after the other and stay so when one fails: the
 * error says which.
 */
Datum
logq_set_retention(PG_FUNCTION_ARGS)
{
	const char *only = PG_ARGISNULL(1) ? NULL : NameStr(*PG_GETARG_NAME(1));
	StringInfoData sql;
	StringInfoData done;
	ErrorContextCallback errcallback;
	ListCell   *lc;
	bool		found = false;
	int			nestlevel;

	/* also on a standby: what is changed is elsewhere, so nobody else objects */
	PreventCommandIfReadOnly("logq.set_retention()");
	if (!PG_ARGISNULL(0))
	{
		Interval	zero = {0};
		Interval	most = {0};

		if (!DatumGetBool(DirectFunctionCall2(interval_gt,
											  PG_GETARG_DATUM(0),
											  IntervalPGetDatum(&zero))))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("retention must be more than zero"),
					 errhint("NULL keeps everything.")));
		/* it is subtracted from times, which do not go back for ever */
		most.month = 1000 * MONTHS_PER_YEAR;
		if (DatumGetBool(DirectFunctionCall2(interval_gt,
											 PG_GETARG_DATUM(0),
											 IntervalPGetDatum(&most))))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("retention must be at most 1000 years"),
					 errhint("NULL keeps everything.")));
	}

	initStringInfo(&sql);
	initStringInfo(&done);
	appendStringInfoString(&sql, "UPDATE logq_store.store SET retention = ");
	nestlevel = logq_set_transmission_modes();
	logq_append_literal(&sql, PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0),
						PG_ARGISNULL(0), INTERVALOID, -1);
	AtEOXact_GUC(true, nestlevel);

	errcallback.callback = retention_error_callback;
	errcallback.arg = &done;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;
	foreach(lc, logq_partitions())
	{
		LogqPartition *part = lfirst(lc);

		if (only != NULL && strcmp(part->name, only) != 0)
			continue;
		found = true;
		exec_on_partition(part, sql.data);
		appendStringInfo(&done, "%s\"%s\"", done.len > 0 ? ", " : "",
						 part->name);
	}
	error_context_stack = errcallback.previous;

	if (only != NULL && !found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not a partition", only),
				 errhint("See the view \"logq.partitions\" for those there are.")));
	PG_RETURN_VOID();
}
