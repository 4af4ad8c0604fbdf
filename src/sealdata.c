/*-------------------------------------------------------------------------
 *
 * sealdata.c
 *		The one reading of a segment that is being sealed, and what is
 *		written of it.
 *
 * These are the phases 3 and 4 of seal.c, whose head says why no write is
 * missed.  Rows come as one binary COPY and go into a summary one by one;
 * filters and rollups go back as binary COPYs of bounded pieces.
 *
 * Order of locks while writing: the table (so that nobody who drops it holds
 * the version while we wait for that), rows of filters and rollups, which
 * take a key-share lock on the segment's row, then the version, and with it
 * in hand nothing that anybody could hold who waits for the version.
 *
 * Failure cases: errors are thrown, and the summary, which is malloc'd, goes
 * first; the caller closes the connection, and with it the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "seal.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "decode.h"
#include "summary.h"

/* how long to wait for the tables and for the version, in one attempt */
#define WRITE_LOCK_TIMEOUT "5s"
/* bytes of a COPY that are handed to libpq at a time */
#define COPY_CHUNK (64 * 1024)

StaticAssertDecl(LOGQ_SUMMARY_MAX_LEVELS == LOGQ_MAX_LEVELS,
				 "the dictionary of levels must hold those of a segment");

/* A COPY to the partition */
typedef struct CopyIn
{
	LogqConn   *conn;
	const char *sql;
	StringInfoData buf;
} CopyIn;

/* ---------- phase 3 ---------- */

/*
 * The one reading of the segment.  It sees all rows, or fails: policies that
 * are forced on the owner would make filters that lack values.
 */
static char *
pass_sql(LogqSealing *s)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
						   "SET LOCAL row_security = off; "
						   "COPY (SELECT ts, level, service, message, trace_id, id");
	foreach(lc, s->attrs)
		appendStringInfo(&sql, ", attrs->>%s",
						 quote_literal_cstr(lfirst(lc)));
	appendStringInfo(&sql, " FROM ONLY %s) TO STDOUT (FORMAT binary); COMMIT",
					 s->table);
	return sql.data;
}

/*
 * Throw what is wrong with the rows.
 */
static void
bad_rows(LogqSealing *s, const char *why)
{
	ereport(ERROR,
			(errcode(strcmp(why, "out of memory") == 0 ?
					 ERRCODE_OUT_OF_MEMORY : ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("could not read segment \"%s\" of partition \"%s\": %s",
					s->segment, s->conn->name, why)));
}

/*
 * Take the rows of one piece of the COPY.
 */
static void
summarize_piece(LogqSealing *s, LogqSummary *sum, LogqDecoder *decoder,
				const char *piece, int len)
{
	LogqField	fields[LOGQ_SUMMARY_NCOLUMNS + LOGQ_SUMMARY_MAX_ATTRS];
	LogqDecodeResult result = LOGQ_DECODE_ERROR;

	if (logq_decode_feed(decoder, piece, len))
		while ((result = logq_decode_next(decoder,
										  fields)) == LOGQ_DECODE_ROW)
			if (!logq_summary_add(sum, fields))
				bad_rows(s, sum->error);
	/* the piece goes; keep what it has of a row that goes on in the next */
	if (result == LOGQ_DECODE_MORE && !logq_decode_feed(decoder, "", 0))
		result = LOGQ_DECODE_ERROR;
	if (result == LOGQ_DECODE_ERROR)
		bad_rows(s, decoder->error);
}

/*
 * Take all that a COPY sends.
 */
static void
summarize_copy(LogqSealing *s, LogqSummary *sum, LogqDecoder *decoder,
			   char *volatile *piece)
{
	PGconn	   *pg = s->conn->pg;

	for (;;)
	{
		char	   *buf;
		int			len = PQgetCopyData(pg, &buf, 1);

		if (len > 0)
		{
			*piece = buf;
			CHECK_FOR_INTERRUPTS();
			summarize_piece(s, sum, decoder, buf, len);
			*piece = NULL;
			PQfreemem(buf);
		}
		else if (len == 0)
		{
			(void) logq_conn_wait(s->conn, WL_SOCKET_READABLE, 0);
			if (PQconsumeInput(pg) == 0)
				logq_report_remote_error(ERROR, s->conn, NULL, NULL);
		}
		else
			break;				/* the result says how it ended */
	}
}

/*
 * Read the segment into a summary.  False: it is not there any more.
 */
static bool
summarize(LogqSealing *s, LogqSummary *sum)
{
	LogqDecoder decoder;
	PGresult   *volatile res = NULL;
	char	   *volatile piece = NULL;
	volatile bool gone = false;
	char	   *sql = pass_sql(s);

	MemSet(&decoder, 0, sizeof(decoder));
	logq_decode_start(&decoder,
					  LOGQ_SUMMARY_NCOLUMNS + list_length(s->attrs));
	PG_TRY();
	{
		logq_conn_send(s->conn, sql);
		while ((res = logq_conn_get_result(s->conn)) != NULL)
		{
			if (PQresultStatus(res) == PGRES_COPY_OUT)
				summarize_copy(s, sum, &decoder, &piece);
			else if (logq_seal_failed_with(res, LOGQ_UNDEFINED_TABLE))
				gone = true;
			else if (PQresultStatus(res) != PGRES_COMMAND_OK)
			{
				PGresult   *failed = res;

				res = NULL;
				logq_report_remote_error(ERROR, s->conn, failed, sql);
			}
			PQclear(res);
			res = NULL;
		}
		if (gone)
			PQclear(logq_conn_exec(s->conn, "ROLLBACK"));
		else
		{
			if (!decoder.ended)
				bad_rows(s, "it has no end");
			if (!logq_summary_finish(sum))
				bad_rows(s, sum->error);
		}
	}
	PG_FINALLY();
	{
		PQclear(res);
		PQfreemem(piece);
		logq_decode_free(&decoder);
	}
	PG_END_TRY();
	return !gone;
}

/* ---------- phase 4 ---------- */

/*
 * Hand what has been gathered to libpq, and wait until it is sent: libpq
 * queues without a limit.
 */
static void
copy_flush(CopyIn *copy)
{
	if (copy->buf.len > 0 &&
		PQputCopyData(copy->conn->pg, copy->buf.data, copy->buf.len) != 1)
		logq_report_remote_error(ERROR, copy->conn, NULL, copy->sql);
	resetStringInfo(&copy->buf);
	logq_conn_flush(copy->conn);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Add bytes.
 */
static void
copy_bytes(CopyIn *copy, const void *data, size_t len)
{
	const char *from = data;

	while (len > 0)
	{
		int			n = Min(len, COPY_CHUNK);

		appendBinaryStringInfo(&copy->buf, from, n);
		if (copy->buf.len >= COPY_CHUNK)
			copy_flush(copy);
		from += n;
		len -= n;
	}
}

static void
copy_int16(CopyIn *copy, int16 value)
{
	uint16		wire = pg_hton16((uint16) value);

	copy_bytes(copy, &wire, sizeof(wire));
}

static void
copy_int32(CopyIn *copy, int32 value)
{
	uint32		wire = pg_hton32((uint32) value);

	copy_bytes(copy, &wire, sizeof(wire));
}

/*
 * Add a field; NULL data is NULL.
 */
static void
copy_field(CopyIn *copy, const void *data, size_t len)
{
	copy_int32(copy, data ? (int32) len : -1);
	if (data != NULL)
		copy_bytes(copy, data, len);
}

static void
copy_int64_field(CopyIn *copy, int64 value)
{
	uint64		wire = pg_hton64((uint64) value);

	copy_field(copy, &wire, sizeof(wire));
}

static void
copy_text_field(CopyIn *copy, const char *text)
{
	copy_field(copy, text, text ? strlen(text) : 0);
}

/*
 * Begin a COPY.
 */
static void
copy_begin(CopyIn *copy, LogqConn *conn, const char *sql)
{
	PGresult   *res;

	copy->conn = conn;
	copy->sql = sql;
	initStringInfo(&copy->buf);
	logq_conn_send(conn, sql);
	res = logq_conn_get_result(conn);
	if (res == NULL || PQresultStatus(res) != PGRES_COPY_IN)
		logq_report_remote_error(ERROR, conn, res, sql);
	PQclear(res);
	copy_bytes(copy, "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19);
}

/*
 * End it.
 */
static void
copy_end(CopyIn *copy)
{
	PGresult   *res;
	int			rc;

	copy_int16(copy, -1);
	copy_flush(copy);
	while ((rc = PQputCopyEnd(copy->conn->pg, NULL)) == 0)
		(void) logq_conn_wait(copy->conn, WL_SOCKET_WRITEABLE, 0);
	if (rc < 0)
		logq_report_remote_error(ERROR, copy->conn, NULL, copy->sql);
	while ((res = logq_conn_get_result(copy->conn)) != NULL)
	{
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			logq_report_remote_error(ERROR, copy->conn, res, copy->sql);
		PQclear(res);
	}
	pfree(copy->buf.data);
}

/*
 * A row of logq_store.filter.
 */
static void
copy_filter(CopyIn *copy, LogqSealing *s, const char *field,
			const LogqDistinct *set)
{
	if (!set->used)
		return;
	copy_int16(copy, 5);
	copy_text_field(copy, s->segment);
	copy_text_field(copy, field);
	copy_int64_field(copy, (int64) set->nvalues);
	copy_field(copy, set->filter, set->filter_size);
	copy_field(copy, set->sketch, set->sketch_size);
}

/*
 * Send filters and sketches.
 */
static void
write_filters(LogqSealing *s, const LogqSummary *sum)
{
	CopyIn		copy;
	ListCell   *lc;

	copy_begin(&copy, s->conn,
			   "COPY " LOGQ_STORE_SCHEMA ".filter (segment, field, distinct_values, filter, sketch) "
			   "FROM STDIN (FORMAT binary)");
	copy_filter(&copy, s, LOGQ_FIELD_TRACE_ID, &sum->trace_id);
	copy_filter(&copy, s, LOGQ_FIELD_WORDS, &sum->words);
	copy_filter(&copy, s, LOGQ_FIELD_SERVICE, &sum->service);
	foreach(lc, s->attrs)
		copy_filter(&copy, s, psprintf(LOGQ_FIELD_ATTRS "%s",
									   (char *) lfirst(lc)),
					&sum->attrs[foreach_current_index(lc)]);
	copy_end(&copy);
}

/*
 * Put a rollup in the place of the one before.  One that is not kept leaves
 * that where it is: a query that began by an earlier version of the catalog may
 * still have to ask for it, and would take nothing for zero rows.
 */
static void
write_rollup(LogqSealing *s, const LogqSummary *sum, const LogqRollup *rollup,
			 bool with_service)
{
	CopyIn		copy;
	size_t		i;

	if (!rollup->kept)
		return;
	PQclear(logq_conn_exec(s->conn,
						   psprintf("DELETE FROM " LOGQ_STORE_SCHEMA ".%s WHERE segment = %s",
									with_service ? "rollup_service" : "rollup_level",
									s->literal)));
	if (rollup->n == 0)
		return;
	copy_begin(&copy, s->conn, with_service ?
			   "COPY " LOGQ_STORE_SCHEMA ".rollup_service (segment, minute, service, level, rows) "
			   "FROM STDIN (FORMAT binary)" :
			   "COPY " LOGQ_STORE_SCHEMA ".rollup_level (segment, minute, level, rows) "
			   "FROM STDIN (FORMAT binary)");
	for (i = 0; i < rollup->n; i++)
	{
		const LogqRollupEntry *entry = &rollup->entries[i];

		copy_int16(&copy, with_service ? 5 : 4);
		copy_text_field(&copy, s->segment);
		copy_int64_field(&copy, logq_rollup_minute(entry));
		if (with_service)
			copy_text_field(&copy,
							sum->services.texts[logq_rollup_service(entry)]);
		copy_text_field(&copy, sum->levels.texts[logq_rollup_level(entry)]);
		copy_int64_field(&copy, (int64) entry->rows);
	}
	copy_end(&copy);
}

/*
 * Assign the values of a dictionary, and the rows of each.
 */
static void
append_dict(StringInfo sql, const char *column, const char *rows_column,
			const LogqDict *dict)
{
	int			i;

	if (!dict->complete)
	{
		appendStringInfo(sql, ", %s = NULL, %s = NULL", column, rows_column);
		return;
	}
	appendStringInfo(sql, ", %s = ARRAY[", column);
	for (i = 0; i < dict->n; i++)
	{
		const char *text = dict->texts[dict->order[i]];

		appendStringInfo(sql, "%s%s", i > 0 ? ", " : "",
						 text ? quote_literal_cstr(text) : "NULL");
	}
	appendStringInfo(sql, "]::text[], %s = '{", rows_column);
	for (i = 0; i < dict->n; i++)
		appendStringInfo(sql, "%s" UINT64_FORMAT, i > 0 ? "," : "",
						 dict->rows[dict->order[i]]);
	appendStringInfoString(sql, "}'");
}

/*
 * Assign a number, or NULL.
 */
static void
append_number(StringInfo sql, const char *column, bool known, int64 value)
{
	if (known)
		appendStringInfo(sql, ", %s = " INT64_FORMAT, column, value);
	else
		appendStringInfo(sql, ", %s = NULL", column);
}

/*
 * Assign a time, or NULL.
 */
static void
append_time(StringInfo sql, const char *column, bool known, int64 value)
{
	appendStringInfo(sql, ", %s = ", column);
	logq_append_literal(sql, TimestampTzGetDatum(value), !known,
						TIMESTAMPTZOID, -1);
}

/*
 * The statements that put the metadata in force.  Should the token be gone,
 * the division ends the transaction, and COMMIT with it: all goes in one
 * message, as the version's lock must not wait for us.
 */
static char *
metadata_sql(LogqSealing *s, const LogqSummary *sum, const char *bytes)
{
	StringInfoData sql;
	bool		any = sum->rows > 0;
	int			nestlevel = logq_set_transmission_modes();
	int			i;
	int			j;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT " LOGQ_STORE_SCHEMA ".raise_version(); "
						   "WITH sealed AS (UPDATE " LOGQ_STORE_SCHEMA ".segment "
						   "SET state = 'sealed', sealing = NULL, "
						   "sealed_at = pg_catalog.clock_timestamp(), "
						   "version = (SELECT version FROM " LOGQ_STORE_SCHEMA ".catalog_version)");
	append_number(&sql, "rows", true, sum->rows);
	appendStringInfo(&sql, ", bytes = %s", bytes);
	append_time(&sql, "min_ts", any, sum->min_ts);
	append_time(&sql, "max_ts", any, sum->max_ts);
	append_number(&sql, "min_id", any, sum->min_id);
	append_number(&sql, "max_id", any, sum->max_id);
	appendStringInfo(&sql, ", min_trace_id = %s, max_trace_id = %s",
					 sum->min_trace_id ?
					 quote_literal_cstr(sum->min_trace_id) : "NULL",
					 sum->max_trace_id ?
					 quote_literal_cstr(sum->max_trace_id) : "NULL");
	append_dict(&sql, "levels", "level_rows", &sum->levels);
	append_dict(&sql, "services", "service_rows", &sum->services);
	if (sum->service_level_rows != NULL)
	{
		appendStringInfoString(&sql, ", service_level_rows = '{");
		for (i = 0; i < sum->services.n; i++)
			for (j = 0; j < sum->levels.n; j++)
				appendStringInfo(&sql, "%s" UINT64_FORMAT,
								 i + j > 0 ? "," : "",
								 logq_summary_cell(sum,
												   sum->services.order[i],
												   sum->levels.order[j]));
		appendStringInfoString(&sql, "}'");
	}
	else
		appendStringInfoString(&sql, ", service_level_rows = NULL");
	appendStringInfo(&sql, ", odd_case = %s", sum->odd_case ? "true" : "false");
	append_number(&sql, "level_rollup", sum->level_rollup.kept,
				  (int64) sum->level_rollup.n);
	append_number(&sql, "service_rollup", sum->service_rollup.kept,
				  (int64) sum->service_rollup.n);
	appendStringInfo(&sql, " WHERE name = %s AND state = 'open' AND sealing = %s RETURNING 1) "
					 "SELECT 1 / count(*) FROM sealed /* none: was written to */; COMMIT",
					 s->literal, s->token);
	AtEOXact_GUC(true, nestlevel);
	return sql.data;
}

/*
 * Write everything, in one transaction.
 */
static LogqSealResult
write_metadata(LogqSealing *s, const LogqSummary *sum)
{
	PGresult   *res;
	char	   *sql;
	char	   *bytes = NULL;
	bool		known;
	bool		intact = false;

	/*
	 * The segment first: who drops it waits for us before it has more.  Then
	 * what is written to, here rather than in a COPY, so that who keeps us
	 * waiting too long makes us try again.
	 */
	sql = psprintf("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
				   "SET LOCAL lock_timeout = '" WRITE_LOCK_TIMEOUT "'; "
				   "LOCK TABLE %s IN ACCESS SHARE MODE; "
				   "LOCK TABLE " LOGQ_STORE_SCHEMA ".filter, "
				   LOGQ_STORE_SCHEMA ".rollup_level, "
				   LOGQ_STORE_SCHEMA ".rollup_service IN ROW EXCLUSIVE MODE; "
				   "SELECT pg_catalog.pg_total_relation_size(%s::pg_catalog.regclass), "
				   "sealing IS NOT DISTINCT FROM %s FROM " LOGQ_STORE_SCHEMA ".segment "
				   "WHERE name = %s",
				   s->table, quote_literal_cstr(s->table), s->token,
				   s->literal);
	res = logq_seal_run(s->conn, sql);
	if (logq_seal_failed_waiting(res) || logq_seal_failed_with(res, LOGQ_UNDEFINED_TABLE))
	{
		bool		gone = logq_seal_failed_with(res, LOGQ_UNDEFINED_TABLE);

		PQclear(res);
		PQclear(logq_conn_exec(s->conn, "ROLLBACK"));
		return gone ? LOGQ_SEAL_GONE : LOGQ_SEAL_BUSY;
	}
	logq_seal_expect(s->conn, res, sql);
	known = PQntuples(res) == 1;
	if (known)
	{
		bytes = pstrdup(PQgetvalue(res, 0, 0));
		intact = strcmp(PQgetvalue(res, 0, 1), "t") == 0;
	}
	PQclear(res);
	if (!intact)
	{
		PQclear(logq_conn_exec(s->conn, "ROLLBACK"));
		return known ? LOGQ_SEAL_WRITTEN : LOGQ_SEAL_GONE;
	}

	sql = psprintf("DELETE FROM " LOGQ_STORE_SCHEMA ".filter WHERE segment = %s",
				   s->literal);
	PQclear(logq_conn_exec(s->conn, sql));
	write_filters(s, sum);
	write_rollup(s, sum, &sum->level_rollup, false);
	write_rollup(s, sum, &sum->service_rollup, true);

	sql = metadata_sql(s, sum, bytes);
	res = logq_seal_run(s->conn, sql);
	if (logq_seal_failed_waiting(res) || logq_seal_failed_with(res, LOGQ_DIVISION_BY_ZERO))
	{
		bool		written = logq_seal_failed_with(res, LOGQ_DIVISION_BY_ZERO);

		PQclear(res);
		PQclear(logq_conn_exec(s->conn, "ROLLBACK"));
		return written ? LOGQ_SEAL_WRITTEN : LOGQ_SEAL_BUSY;
	}
	PQclear(logq_seal_expect(s->conn, res, sql));
	return LOGQ_SEAL_DONE;
}

/*
 * Phases 3 and 4, with the summary, which is not ours to leak.
 */
LogqSealResult
logq_seal_data(LogqSealing *s, int64 *rows)
{
	LogqSummary *sum;
	volatile LogqSealResult result = LOGQ_SEAL_GONE;
	int			i;

	sum = logq_summary_create(list_length(s->attrs), s->lower, s->upper,
							  GetDatabaseEncoding() == PG_UTF8);
	if (sum == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	PG_TRY();
	{
		if (summarize(s, sum))
		{
			/* the summary stays true as long as the token is there */
			for (i = 0; i < LOGQ_SEAL_LOCK_ATTEMPTS; i++)
			{
				result = write_metadata(s, sum);
				if (result != LOGQ_SEAL_BUSY)
					break;
			}
			*rows = sum->rows;
		}
	}
	PG_FINALLY();
	{
		logq_summary_free(sum);
	}
	PG_END_TRY();
	return result;
}
