/*-------------------------------------------------------------------------
 *
 * seal.c
 *		Sealing of a segment: its indexes, its one reading, its metadata.
 *
 * All over one connection to the partition, in transactions of its own (3 and
 * 4 are in sealdata.c):
 *
 * 0. A session's advisory lock for the segment: one sealer at a time.
 * 1. logq_store.begin_seal() attaches the trigger that notes writes and
 *    leaves a token in the segment's row.  It does not wait for writers.
 * 2. Indexes, CONCURRENTLY, and VACUUM, which makes all that follows cheaper.
 * 3. One COPY of the segment in a snapshot that is younger than the token,
 *    into a summary.
 * 4. Filters, rollups and metadata are written in one transaction, at the
 *    end of which the version is raised and the segment's row changed, if the
 *    token is still there.
 *
 * Why nothing is missed: begin_seal's lock is not to be had before the end of
 * every writer that began earlier, so the snapshot of 3 sees their rows.  Every
 * later writer fires the trigger, which takes the lock on the version before
 * it looks.  If that is before 4 does, 4 waits for it, finds the token gone
 * and starts over; if after, it finds the segment sealed and opens it again
 * in the writer's own transaction.  A writer with a snapshot older than the
 * token cannot take these locks on rows that have changed since, and fails to
 * serialize.
 *
 * Failure cases: an error is thrown, and the caller closes the connection;
 * the token stays behind, which does no harm, as does an index that was left
 * invalid, which the next sealing drops.  An index that cannot be built,
 * because a value is too long for it, is done without.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "seal.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "sketch.h"
#include "summary.h"

PG_FUNCTION_INFO_V1(logq_seal);

/* first key of the advisory locks: "logq" */
#define ADVISORY_CLASS 0x6c6f6771

/*
 * Nobody waits for a lock in order to begin, as writers would have to wait
 * behind: it is tried again so often, after so many ms each time.
 */
#define BEGIN_ATTEMPTS 10
#define BEGIN_PAUSE 200
/* how long to wait for older transactions while an index is built */
#define INDEX_LOCK_TIMEOUT "30s"
/* how often a sealing is begun when writes come between */
#define SEAL_ATTEMPTS 3
/* a statement that takes longer is stuck */
#define STATEMENT_TIMEOUT "2h"

/* ---------- statements ---------- */

/*
 * Run one or several statements.  Returns the error if there is one, else the
 * last result that has rows, else the last one; the caller looks and frees.
 */
PGresult *
logq_seal_run(LogqConn *conn, const char *sql)
{
	PGresult   *volatile chosen = NULL;
	PGresult   *res;

	logq_conn_send(conn, sql);
	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			if (PQresultStatus(res) == PGRES_COMMAND_OK && chosen != NULL)
				PQclear(res);
			else
			{
				PQclear(chosen);
				chosen = res;
			}
		}
	}
	PG_CATCH();
	{
		PQclear(chosen);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return chosen;
}

/*
 * Has it failed with this SQLSTATE?
 */
bool
logq_seal_failed_with(const PGresult *res, const char *sqlstate)
{
	const char *found;

	if (res == NULL || PQresultStatus(res) != PGRES_FATAL_ERROR)
		return false;
	found = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	return found != NULL && strcmp(found, sqlstate) == 0;
}

/*
 * Has it waited too long for somebody?
 */
bool
logq_seal_failed_waiting(const PGresult *res)
{
	return logq_seal_failed_with(res, LOGQ_LOCK_NOT_AVAILABLE) ||
		logq_seal_failed_with(res, LOGQ_DEADLOCK_DETECTED);
}

/*
 * Throw unless it went well.
 */
PGresult *
logq_seal_expect(LogqConn *conn, PGresult *res, const char *sql)
{
	if (res == NULL || (PQresultStatus(res) != PGRES_COMMAND_OK &&
						PQresultStatus(res) != PGRES_TUPLES_OK))
		logq_report_remote_error(ERROR, conn, res, sql);
	return res;
}

/*
 * A value of a result in our memory, or NULL.
 */
static char *
value_of(const PGresult *res, int row, int column)
{
	if (PQgetisnull(res, row, column))
		return NULL;
	return pstrdup(PQgetvalue(res, row, column));
}

/*
 * Run statements of which the result does not matter.
 */
static void
run_plain(LogqConn *conn, const char *sql)
{
	PQclear(logq_conn_exec(conn, sql));
}

/* ---------- phases 0 and 1 ---------- */

/*
 * Be the only one who seals this segment.  False: somebody else does.
 */
static bool
take_turn(LogqSealing *s)
{
	PGresult   *res;
	bool		got;

	/* this is also the first statement on a new connection, where a setting
	 * goes ahead of it; what must be alone in its message comes later */
	res = logq_conn_exec(s->conn,
						 psprintf("SET lock_timeout = '" INDEX_LOCK_TIMEOUT "'; "
								  "SET statement_timeout = '" STATEMENT_TIMEOUT "'; "
								  "SELECT pg_catalog.pg_try_advisory_lock(%d, pg_catalog.hashtext(%s))",
								  ADVISORY_CLASS, s->literal));
	got = PQntuples(res) == 1 && strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	PQclear(res);
	return got;
}

/*
 * Leave the connection as it was.
 */
static void
give_turn(LogqSealing *s, bool got)
{
	run_plain(s->conn, got ?
			  psprintf("SELECT pg_catalog.pg_advisory_unlock(%d, pg_catalog.hashtext(%s)); "
					   "RESET lock_timeout; RESET statement_timeout",
					   ADVISORY_CLASS, s->literal) :
			  "RESET lock_timeout; RESET statement_timeout");
}

/*
 * Let some time pass.
 */
static void
pause_ms(long ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(logq_now(), ms);

	while ((ms = TimestampDifferenceMilliseconds(logq_now(),
												 until)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT |
						 WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Attach the trigger and get a token.
 */
static LogqSealResult
begin_seal(LogqSealing *s)
{
	char	   *sql;
	int			i;

	/* a double holds microseconds well enough for what they are needed */
	sql = psprintf("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
				   "SELECT t.token, "
				   "((extract(epoch FROM s.lower) - 946684800) * 1000000)::bigint, "
				   "((extract(epoch FROM s.upper) - 946684800) * 1000000)::bigint "
				   "FROM logq_store.begin_seal(%s) t(token), logq_store.segment s "
				   "WHERE s.name = %s; COMMIT", s->literal, s->literal);
	for (i = 0; i < BEGIN_ATTEMPTS; i++)
	{
		PGresult   *res;

		if (i > 0)
			pause_ms(BEGIN_PAUSE);
		res = logq_seal_run(s->conn, sql);
		if (logq_seal_failed_waiting(res))
		{
			PQclear(res);
			run_plain(s->conn, "ROLLBACK");
			continue;
		}
		/* dropped after it had looked */
		if (logq_seal_failed_with(res, LOGQ_UNDEFINED_TABLE))
		{
			PQclear(res);
			run_plain(s->conn, "ROLLBACK");
			return LOGQ_SEAL_GONE;
		}
		logq_seal_expect(s->conn, res, sql);
		if (PQntuples(res) != 1 || PQgetisnull(res, 0, 0))
		{
			PQclear(res);
			return LOGQ_SEAL_GONE;
		}
		s->token = value_of(res, 0, 0);
		s->lower = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
		s->upper = strtoll(PQgetvalue(res, 0, 2), NULL, 10);
		PQclear(res);
		return LOGQ_SEAL_DONE;
	}
	return LOGQ_SEAL_BUSY;
}

/* ---------- phase 2 ---------- */

/*
 * Name of one of the segment's indexes.  One that would be too long has a
 * hash instead of the segment's end, so that no other segment has it.
 */
static char *
index_name(const char *segment, const char *suffix)
{
	int			len = strlen(segment);
	int			room = NAMEDATALEN - 1 - (int) strlen(suffix);

	if (len <= room)
		return psprintf("%s%s", segment, suffix);
	return psprintf("%.*s_%08x%s", pg_mbcliplen(segment, len, room - 9),
					segment, (uint32) logq_hash(segment, len), suffix);
}

/*
 * Schema of pg_trgm on the partition, or NULL when we cannot use it.
 */
static char *
trigram_schema(LogqSealing *s)
{
	PGresult   *res;
	char	   *schema = NULL;

	res = logq_conn_exec(s->conn,
						 "SELECT n.nspname FROM pg_catalog.pg_extension e "
						 "JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace "
						 "WHERE e.extname = 'pg_trgm' "
						 "AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')");
	if (PQntuples(res) == 1)
		schema = value_of(res, 0, 0);
	PQclear(res);
	return schema;
}

/*
 * Run a statement that builds or drops an index.  It waits for older
 * transactions; false: not any longer.
 */
static bool
run_index(LogqSealing *s, const char *sql, bool *too_long)
{
	PGresult   *res = logq_seal_run(s->conn, sql);

	if (logq_seal_failed_waiting(res) || logq_seal_failed_with(res, LOGQ_QUERY_CANCELED) ||
		logq_seal_failed_with(res, LOGQ_UNDEFINED_TABLE))
	{
		PQclear(res);
		return false;
	}
	*too_long = logq_seal_failed_with(res, LOGQ_PROGRAM_LIMIT_EXCEEDED);
	if (!*too_long)
		logq_seal_expect(s->conn, res, sql);
	PQclear(res);
	return true;
}

/*
 * Build an index unless it is there, and drop what an earlier attempt has left
 * of it.  False: somebody is in the way.
 */
static bool
build_index(LogqSealing *s, const char *suffix, const char *definition)
{
	char	   *name = index_name(s->segment, suffix);
	char	   *drop;
	char	   *state;
	PGresult   *res;
	bool		too_long = false;

	drop = psprintf("DROP INDEX CONCURRENTLY IF EXISTS " LOGQ_STORE_SCHEMA ".%s",
					quote_identifier(name));
	res = logq_conn_exec(s->conn,
						 psprintf("SELECT CASE WHEN i.indisvalid THEN 'valid' ELSE 'invalid' END "
								  "FROM pg_catalog.pg_index i "
								  "JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
								  "WHERE i.indrelid = pg_catalog.to_regclass(%s) AND c.relname = %s",
								  quote_literal_cstr(s->table),
								  quote_literal_cstr(name)));
	state = PQntuples(res) > 0 ? value_of(res, 0, 0) : NULL;
	PQclear(res);

	if (state != NULL && strcmp(state, "valid") == 0)
		return true;
	if (state != NULL && !run_index(s, drop, &too_long))
		return false;
	if (!run_index(s, psprintf("CREATE INDEX CONCURRENTLY IF NOT EXISTS %s ON %s %s",
							   quote_identifier(name), s->table, definition),
				   &too_long))
		return false;
	return !too_long || run_index(s, drop, &too_long);
}

/*
 * Build the indexes that a finished segment has.
 */
static LogqSealResult
build_indexes(LogqSealing *s)
{
	char	   *schema;

	if (!build_index(s, "_service_level_ts_id_idx",
					 "(service, level, ts, id)") ||
		!build_index(s, "_level_ts_id_idx", "(level, ts, id)"))
		return LOGQ_SEAL_BUSY;
	if (logq_seal_trigrams && (schema = trigram_schema(s)) != NULL &&
		!build_index(s, "_message_trgm_idx",
					 psprintf("USING gin (message %s.gin_trgm_ops)",
							  quote_identifier(schema))))
		return LOGQ_SEAL_BUSY;
	return LOGQ_SEAL_DONE;
}

/*
 * VACUUM the segment for the last time.  It has to be alone in its message.
 * Who lacks the right gets a warning from the partition and no error, as a
 * rule; and nothing depends on it.
 */
static void
vacuum(LogqSealing *s)
{
	char	   *sql = psprintf("VACUUM (FREEZE, ANALYZE, TRUNCATE false) %s",
							   s->table);
	PGresult   *res = logq_seal_run(s->conn, sql);

	if (!logq_seal_failed_waiting(res) && !logq_seal_failed_with(res, LOGQ_INSUFFICIENT_PRIVILEGE) &&
		!logq_seal_failed_with(res, LOGQ_UNDEFINED_TABLE))
		logq_seal_expect(s->conn, res, sql);
	PQclear(res);
}

/* ---------- all of it ---------- */

/*
 * Keys of logq.bloom_attrs, each once.
 */
static List *
filtered_attrs(void)
{
	List	   *given;
	List	   *keys = NIL;
	ListCell   *lc;

	if (!SplitGUCList(pstrdup(logq_bloom_attrs ? logq_bloom_attrs : ""), ',',
					  &given))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list syntax in parameter \"%s\"",
						"logq.bloom_attrs")));
	foreach(lc, given)
	{
		char	   *key = lfirst(lc);
		bool		known = false;
		ListCell   *other;

		foreach(other, keys)
			known = known || strcmp(lfirst(other), key) == 0;
		if (!known)
			keys = lappend(keys, key);
	}
	if (list_length(keys) > LOGQ_SUMMARY_MAX_ATTRS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("parameter \"%s\" has %d keys, more than %d",
						"logq.bloom_attrs", list_length(keys),
						LOGQ_SUMMARY_MAX_ATTRS)));
	return keys;
}

/*
 * Phases 1 to 4, from the start when a write came between.
 */
static LogqSealResult
seal_in_turn(LogqSealing *s, int64 *rows)
{
	LogqSealResult result = LOGQ_SEAL_GONE;
	int			i;

	for (i = 0; i < SEAL_ATTEMPTS; i++)
	{
		result = begin_seal(s);
		if (result == LOGQ_SEAL_DONE)
			result = build_indexes(s);
		if (result != LOGQ_SEAL_DONE)
			break;
		vacuum(s);
		result = logq_seal_data(s, rows);
		if (result != LOGQ_SEAL_WRITTEN)
			break;
	}
	return result;
}

/*
 * Seal one segment.
 */
LogqSealResult
logq_seal_segment(LogqPartition *part, LogqConn *conn, const char *segment,
				  int64 *rows)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext,
											  "logq seal",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	LogqSealResult result = LOGQ_SEAL_BUSY;
	LogqSealing		s;
	bool		got;

	MemSet(&s, 0, sizeof(s));
	s.conn = conn;
	s.segment = segment;
	s.table = psprintf(LOGQ_STORE_SCHEMA ".%s", quote_identifier(segment));
	s.literal = quote_literal_cstr(segment);
	s.attrs = filtered_attrs();

	got = take_turn(&s);
	if (got)
		result = seal_in_turn(&s, rows);
	give_turn(&s, got);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	return result;
}

/*
 * Names of the open segments whose time is over, oldest first.
 */
List *
logq_segments_to_seal(LogqPartition *part, LogqConn *conn,
					  const TimestampTz *before)
{
	List	   *names = NIL;
	StringInfoData sql;
	PGresult   *res;
	TimestampTz limit;
	int			nestlevel;
	int			i;

	limit = before ? *before :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									-(int64) logq_seal_after * 1000);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT name FROM " LOGQ_STORE_SCHEMA ".segment "
						   "WHERE state = 'open' AND upper <= ");
	nestlevel = logq_set_transmission_modes();
	logq_append_literal(&sql, TimestampTzGetDatum(limit), false,
						TIMESTAMPTZOID, -1);
	AtEOXact_GUC(true, nestlevel);
	appendStringInfoString(&sql, " ORDER BY upper");
	res = logq_conn_exec(conn, sql.data);
	for (i = 0; i < PQntuples(res); i++)
		names = lappend(names, value_of(res, i, 0));
	PQclear(res);
	pfree(sql.data);
	return names;
}

/* ---------- logq.seal() ---------- */

/*
 * State of a segment, or NULL when it is not there.
 */
static char *
segment_state(LogqConn *conn, const char *segment)
{
	PGresult   *res;
	char	   *state = NULL;

	res = logq_conn_exec(conn,
						 psprintf("SELECT state FROM " LOGQ_STORE_SCHEMA ".segment WHERE name = %s",
								  quote_literal_cstr(segment)));
	if (PQntuples(res) == 1)
		state = value_of(res, 0, 0);
	PQclear(res);
	return state;
}

/*
 * Seal a segment and put a row of the answer.
 */
static void
seal_for_answer(ReturnSetInfo *rsinfo, LogqPartition *part, LogqConn *conn,
				const char *segment)
{
	int64		rows = 0;
	instr_time	start;
	instr_time	duration;
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};
	NameData	part_name;
	NameData	segment_name;

	INSTR_TIME_SET_CURRENT(start);
	switch (logq_seal_segment(part, conn, segment, &rows))
	{
		case LOGQ_SEAL_DONE:
			break;
		case LOGQ_SEAL_GONE:
			return;
		case LOGQ_SEAL_BUSY:
			ereport(WARNING,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("segment \"%s\" of partition \"%s\" was not sealed",
							segment, part->name),
					 errdetail("It is being sealed by somebody else, or held up by a transaction."),
					 errhint("Try again later.")));
			return;
		case LOGQ_SEAL_WRITTEN:
			ereport(WARNING,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("segment \"%s\" of partition \"%s\" was not sealed",
							segment, part->name),
					 errdetail("Rows were written to it again and again meanwhile."),
					 errhint("Try again later.")));
			return;
	}
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);

	namestrcpy(&part_name, part->name);
	namestrcpy(&segment_name, segment);
	values[0] = NameGetDatum(&part_name);
	values[1] = NameGetDatum(&segment_name);
	values[2] = Int64GetDatum(rows);
	values[3] = Float8GetDatum(INSTR_TIME_GET_DOUBLE(duration));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * Seal what there is to seal on a partition.  Returns whether it has the
 * segment that was asked for.
 */
static bool
seal_partition(ReturnSetInfo *rsinfo, LogqPartition *part,
			   const char *segment, const TimestampTz *before)
{
	LogqConn   *conn;
	volatile bool found = false;

	if (!OidIsValid(part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" of a partition does not exist",
						part->name),
				 errhint("Create it again, or run SELECT logq.remove_partition(%s, true).",
						 quote_literal_cstr(part->name))));
	conn = logq_conn_acquire_tested(part->serverid, GetUserId());
	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		if (segment != NULL)
		{
			char	   *state = segment_state(conn, segment);

			found = state != NULL;
			if (found && strcmp(state, "open") == 0)
				seal_for_answer(rsinfo, part, conn, segment);
		}
		else
		{
			List	   *names = logq_segments_to_seal(part, conn, before);
			ListCell   *lc;

			foreach(lc, names)
				seal_for_answer(rsinfo, part, conn, lfirst(lc));
			list_free_deep(names);
		}
	}
	PG_CATCH();
	{
		/* with it go its locks and whatever it was doing */
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
	return found;
}

/*
 * logq.seal(on_partition, only_segment, before)
 */
Datum
logq_seal(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *partition = NULL;
	const char *segment = NULL;
	TimestampTz before = 0;
	bool		known = false;
	bool		found = false;
	ListCell   *lc;

	/* also on a standby: what is changed is elsewhere, so nobody else objects */
	PreventCommandIfReadOnly("logq.seal()");
	if (!PG_ARGISNULL(0))
		partition = NameStr(*PG_GETARG_NAME(0));
	if (!PG_ARGISNULL(1))
		segment = NameStr(*PG_GETARG_NAME(1));
	if (!PG_ARGISNULL(2))
		before = PG_GETARG_TIMESTAMPTZ(2);

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, logq_partitions())
	{
		LogqPartition *part = lfirst(lc);

		if (partition != NULL && strcmp(part->name, partition) != 0)
			continue;
		known = true;
		if (seal_partition(rsinfo, part, segment,
						   PG_ARGISNULL(2) ? NULL : &before))
			found = true;
	}
	if (partition != NULL && !known)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not a partition", partition),
				 errhint("See the view \"logq.partitions\" for those there are.")));
	if (segment != NULL && !found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 partition ?
				 errmsg("partition \"%s\" has no segment \"%s\"", partition,
						segment) :
				 errmsg("no partition has a segment \"%s\"", segment),
				 errhint("See the view \"logq.segments\" for those there are.")));
	return (Datum) 0;
}
