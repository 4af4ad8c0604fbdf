/*-------------------------------------------------------------------------
 *
 * deadwrite.c
 *		Dead letters that have been looked at again: one transaction.
 *
 * On the partition where they are, it locks those that are still there as
 * they were read and that nobody else has locked; deletes those that have
 * become rows, and tells the others why they have not; writes the rows by
 * COPY into the log; and commits.  So rows appear and dead letters disappear
 * together, or not at all.  A row may lie on any partition, so nothing is
 * routed.
 *
 * Messages are parsed a second time when their rows are sent, or the records
 * that are left over, by the same settings: these are not limited, so they
 * need not fit into memory.
 *
 * Failure cases: what a partition refuses because of the data is rolled back
 * and told to the caller.  Other errors are thrown; the caller then closes the
 * connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "deadletter.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "seal.h"
#include "storage/latch.h"
#include "utils/builtins.h"

/* bytes that go to libpq at a time */
#define SEND_CHUNK (64 * 1024)
/* bytes of a statement that inserts left-over records, unless one is larger */
#define INSERT_CHUNK (1024 * 1024)

static const char copy_header[19] = "PGCOPY\n\377\r\n\0";
static const char copy_trailer[2] = {'\377', '\377'};

/* ---------- what the partition answers ---------- */

/*
 * Is this what a partition says of data that it does not take?
 */
bool
logq_retry_is_refusal(const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	/* data exception, integrity, a trigger's own, program limit */
	return state != NULL &&
		(strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0 ||
		 strncmp(state, "P0", 2) == 0 || strncmp(state, "54", 2) == 0);
}

/*
 * What a partition said, as a reason; it speaks this encoding to us.
 */
char *
logq_retry_refusal_text(const PGresult *res, int encoding)
{
	const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	char	   *text;

	if (primary == NULL)
		primary = "the partition refused it";
	text = detail ? psprintf("%s: %s", primary, detail) : pstrdup(primary);
	if (encoding != PG_UTF8)
		text = (char *) pg_do_encoding_conversion((unsigned char *) text,
												  strlen(text), encoding,
												  PG_UTF8);
	return logq_retry_reason(text);
}

/*
 * Look at a result of the transaction that writes.  False: the partition has
 * refused the data, and r->refusal says why.  Other errors are thrown.  Frees
 * the result.
 */
static bool
take_result(LogqRetry *r, PGresult *res, const char *sql)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (PQresultStatus(res) == PGRES_COMMAND_OK ||
		PQresultStatus(res) == PGRES_TUPLES_OK)
	{
		PQclear(res);
		return true;
	}
	if (!logq_retry_is_refusal(res))
		logq_report_remote_error(ERROR, r->conn, res, sql);
	/* check_violation of a table and no constraint: no partition of it */
	r->no_segment = strcmp(state, "23514") == 0 &&
		PQresultErrorField(res, PG_DIAG_TABLE_NAME) != NULL &&
		PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME) == NULL;
	r->refusal = logq_retry_refusal_text(res, PG_UTF8);
	PQclear(res);
	return false;
}

/*
 * Run statements that have no business to fail; returns the result with rows,
 * which is the caller's to free.
 */
PGresult *
logq_retry_run(LogqRetry *r, const char *sql)
{
	return logq_seal_expect(r->conn, logq_seal_run(r->conn, sql), sql);
}

/* ---------- writing ---------- */

/*
 * Append the ids of dead letters as an array; only those that are locked,
 * unless all is set, and those that go, unless kept is set.
 */
static void
append_ids(StringInfo sql, const LogqLetter *letters, int n, bool all,
		   bool kept)
{
	const char *separator = "";
	int			i;

	appendStringInfoString(sql, "'{");
	for (i = 0; i < n; i++)
	{
		if (!all && (!letters[i].locked ||
					 (letters[i].fate == LOGQ_FATE_KEEP) != kept))
			continue;
		appendStringInfo(sql, "%s" INT64_FORMAT, separator, letters[i].id);
		separator = ",";
	}
	appendStringInfoString(sql, "}'::int8[]");
}

/*
 * Begin a transaction and lock those of some dead letters that are still as
 * they were read.  Returns how many.
 */
static int
lock_letters(LogqRetry *r, LogqLetter *letters, int n)
{
	StringInfoData sql;
	PGresult   *res;
	int			nlocked = 0;
	int			next = 0;
	int			i;

	initStringInfo(&sql);
	/* the parser's output is UTF-8, whatever our database has */
	appendStringInfoString(&sql,
						   "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
						   LOGQ_RETRY_LOCK_SQL
						   "SET LOCAL client_encoding TO 'UTF8'; "
						   "SELECT id, xmin FROM " LOGQ_DEAD_LETTER
						   " WHERE id = ANY (");
	append_ids(&sql, letters, n, true, true);
	appendStringInfoString(&sql, ") ORDER BY id FOR UPDATE SKIP LOCKED");
	res = logq_retry_run(r, sql.data);
	for (i = 0; i < n; i++)
		letters[i].locked = false;
	/* both are in the order of ids */
	for (i = 0; i < PQntuples(res); i++)
	{
		int64		id = strtoll(PQgetvalue(res, i, 0), NULL, 10);

		while (next < n && letters[next].id < id)
			next++;
		if (next < n && letters[next].id == id &&
			letters[next].xmin == strtoul(PQgetvalue(res, i, 1), NULL, 10))
		{
			letters[next].locked = true;
			nlocked++;
		}
	}
	PQclear(res);
	pfree(sql.data);
	return nlocked;
}

/*
 * The partition has done something else: rows of what stays would be written
 * again and again.
 */
static void
not_as_wanted(LogqRetry *r)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("partition \"%s\" did not change its dead letters as it was told to",
					r->conn->name),
			 errhint("See whether \"" LOGQ_DEAD_LETTER "\" has triggers, rules or policies there.")));
}

/* Records that become dead letters of their own: lists for one statement */
typedef struct Leftovers
{
	StringInfoData ids;			/* of the dead letters that they come from */
	StringInfoData indexes;
	StringInfoData reasons;
	StringInfoData payloads;
	int			n;
} Leftovers;

/*
 * Begin new lists.
 */
static void
reset_leftovers(Leftovers *left)
{
	resetStringInfo(&left->ids);
	resetStringInfo(&left->indexes);
	resetStringInfo(&left->reasons);
	resetStringInfo(&left->payloads);
	left->n = 0;
}

/*
 * Insert what is in the lists.  False: refused.
 */
static bool
insert_leftovers(LogqRetry *r, Leftovers *left)
{
	StringInfoData sql;
	PGresult   *res;
	bool		as_wanted;

	if (left->n == 0)
		return true;
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "INSERT INTO " LOGQ_DEAD_LETTER
					 " (received_at, cluster, topic, kafka_partition, kafka_offset, record, "
					 "ts, key, headers, payload, reason, retried_at) "
					 "SELECT d.received_at, d.cluster, d.topic, d.kafka_partition, d.kafka_offset, s.record, "
					 "d.ts, d.key, d.headers, decode(s.payload, 'hex'), s.reason, now() "
					 "FROM unnest('{%s}'::int8[], '{%s}'::int4[], ARRAY[%s]::text[], '{%s}'::text[]) "
					 "WITH ORDINALITY AS s (id, record, reason, payload, n) "
					 "JOIN " LOGQ_DEAD_LETTER " d ON d.id = s.id "
					 "ORDER BY s.n",
					 left->ids.data, left->indexes.data, left->reasons.data,
					 left->payloads.data);
	res = logq_seal_run(r->conn, sql.data);
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		return take_result(r, res, sql.data);
	as_wanted = strtol(PQcmdTuples(res), NULL, 10) == left->n;
	PQclear(res);
	pfree(sql.data);
	if (!as_wanted)
		not_as_wanted(r);
	reset_leftovers(left);
	return true;
}

/*
 * Append a record to the lists.
 */
static void
append_leftover(Leftovers *left, const LogqLetter *letter,
				const LogqBadRecord *bad, LogqText source)
{
	const char *separator = left->n > 0 ? "," : "";

	appendStringInfo(&left->ids, "%s" INT64_FORMAT, separator, letter->id);
	/* it still is the record that it was */
	appendStringInfo(&left->indexes, "%s%d", separator,
					 letter->record >= 0 ? letter->record : bad->index);
	appendStringInfo(&left->reasons, "%s%s", separator,
					 quote_literal_cstr(bad->reason));
	appendStringInfoString(&left->payloads, separator);
	enlargeStringInfo(&left->payloads, source.len * 2);
	left->payloads.len += hex_encode(source.data, source.len,
									 left->payloads.data + left->payloads.len);
	left->payloads.data[left->payloads.len] = '\0';
	left->n++;
}

/*
 * Make dead letters of the bad records of those that are split.  False:
 * refused.
 */
static bool
split_letters(LogqRetry *r, const LogqLetter *letters, int n)
{
	Leftovers	left;
	int			i;

	initStringInfo(&left.ids);
	initStringInfo(&left.indexes);
	initStringInfo(&left.reasons);
	initStringInfo(&left.payloads);
	left.n = 0;
	for (i = 0; i < n; i++)
	{
		const LogqLetter *letter = &letters[i];
		LogqRecord *records;
		int			nrecords;
		int			bad = 0;
		int			j;

		if (!letter->locked || letter->fate != LOGQ_FATE_SPLIT)
			continue;
		CHECK_FOR_INTERRUPTS();
		logq_retry_use_topic(r, letter->topic);
		nrecords = logq_parse(r->parser, &letter->message, &records);
		for (j = 0; j < nrecords && bad < letter->nbad; j++)
		{
			if (letter->bad[bad].index != records[j].index)
				continue;
			append_leftover(&left, letter, &letter->bad[bad],
							logq_record_source(r->parser, &records[j]));
			bad++;
			if (left.payloads.len + left.reasons.len >= INSERT_CHUNK &&
				!insert_leftovers(r, &left))
				return false;
		}
		if (bad < letter->nbad)
			elog(ERROR, "a record was bad, and is not there");
	}
	if (!insert_leftovers(r, &left))
		return false;
	pfree(left.ids.data);
	pfree(left.indexes.data);
	pfree(left.reasons.data);
	pfree(left.payloads.data);
	return true;
}

/*
 * Change the dead letters that are locked by what has been decided.  False:
 * refused.
 */
static bool
change_letters(LogqRetry *r, const LogqLetter *letters, int n)
{
	StringInfoData sql;
	const char *separator = "";
	PGresult   *res;
	int64		wanted[2] = {0, 0};	/* gone, kept */
	bool		as_wanted = true;
	int			i;

	if (!split_letters(r, letters, n))
		return false;
	for (i = 0; i < n; i++)
		if (letters[i].locked)
			wanted[letters[i].fate == LOGQ_FATE_KEEP ? 1 : 0]++;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "WITH gone AS (DELETE FROM " LOGQ_DEAD_LETTER
						   " WHERE id = ANY (");
	append_ids(&sql, letters, n, false, false);
	appendStringInfoString(&sql, ") RETURNING 1), "
						   "kept AS (UPDATE " LOGQ_DEAD_LETTER " d "
						   "SET retried_at = now(), reason = coalesce(k.reason, d.reason) "
						   "FROM unnest(");
	append_ids(&sql, letters, n, false, true);
	appendStringInfoString(&sql, ", ARRAY[");
	for (i = 0; i < n; i++)
	{
		if (!letters[i].locked || letters[i].fate != LOGQ_FATE_KEEP)
			continue;
		appendStringInfo(&sql, "%s%s", separator,
						 letters[i].reason == NULL ? "NULL" :
						 quote_literal_cstr(letters[i].reason));
		separator = ",";
	}
	appendStringInfoString(&sql,
						   "]::text[]) AS k (id, reason) WHERE d.id = k.id RETURNING 1) "
						   "SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM kept)");

	res = logq_seal_run(r->conn, sql.data);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		return take_result(r, res, sql.data);
	for (i = 0; i < lengthof(wanted); i++)
		as_wanted = as_wanted && PQntuples(res) == 1 &&
			strtoll(PQgetvalue(res, 0, i), NULL, 10) == wanted[i];
	PQclear(res);
	pfree(sql.data);
	if (!as_wanted)
		not_as_wanted(r);
	return true;
}

/*
 * Hand rows to libpq and wait until they are on their way.
 */
static void
send_rows(LogqRetry *r, StringInfo buf)
{
	int			sent = 0;

	while (sent < buf->len)
	{
		int			len = Min(buf->len - sent, SEND_CHUNK);

		if (PQputCopyData(r->conn->pg, buf->data + sent, len) != 1)
			logq_report_remote_error(ERROR, r->conn, NULL, NULL);
		logq_conn_flush(r->conn);
		sent += len;
	}
	resetStringInfo(buf);
	/* keep no memory of a giant row */
	if (buf->maxlen > 16 * SEND_CHUNK)
	{
		pfree(buf->data);
		initStringInfo(buf);
	}
}

/*
 * Send the good records of a dead letter.  Returns how many.
 */
static int64
send_letter(LogqRetry *r, const LogqLetter *letter, StringInfo buf)
{
	LogqRecord *records;
	int64		rows = 0;
	int			nrecords;
	int			bad = 0;
	int			i;

	logq_retry_use_topic(r, letter->topic);
	nrecords = logq_parse(r->parser, &letter->message, &records);
	for (i = 0; i < nrecords; i++)
	{
		if (bad < letter->nbad &&
			letter->bad[bad].index == records[i].index)
		{
			bad++;
			continue;
		}
		if (records[i].error != NULL)
			elog(ERROR, "a record was good, and is not: %s",
				 records[i].error);
		logq_ingest_append(buf, &records[i]);
		rows++;
		if (buf->len >= SEND_CHUNK)
			send_rows(r, buf);
	}
	return rows;
}

/*
 * COPY the rows of dead letters that are locked.  False: refused.
 */
static bool
copy_letters(LogqRetry *r, const LogqLetter *letters, int n, int64 *rows)
{
	static const char *sql = "COPY " LOGQ_STORE_SCHEMA ".log ("
		LOGQ_INGEST_COLUMNS ") FROM STDIN (FORMAT binary)";
	StringInfoData buf;
	PGresult   *res;
	bool		good = true;
	int			rc;
	int			i;

	logq_conn_send(r->conn, sql);
	res = logq_conn_get_result(r->conn);
	if (PQresultStatus(res) != PGRES_COPY_IN)
		logq_report_remote_error(ERROR, r->conn, res, sql);
	PQclear(res);

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, copy_header, sizeof(copy_header));
	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (letters[i].locked && letters[i].fate != LOGQ_FATE_KEEP)
			*rows += send_letter(r, &letters[i], &buf);
	}
	appendBinaryStringInfo(&buf, copy_trailer, sizeof(copy_trailer));
	send_rows(r, &buf);
	pfree(buf.data);
	while ((rc = PQputCopyEnd(r->conn->pg, NULL)) == 0)
		(void) logq_conn_wait(r->conn, WL_SOCKET_WRITEABLE, 0);
	if (rc < 0)
		logq_report_remote_error(ERROR, r->conn, NULL, sql);
	while ((res = logq_conn_get_result(r->conn)) != NULL)
		good = take_result(r, res, sql) && good;
	return good;
}

/*
 * Late rows may have opened sealed segments again: copies of the catalog that
 * do not know are not to be trusted.  version 0 is unknown.
 */
void
logq_retry_doubt(LogqRetry *r, int64 version)
{
	LogqConfirmation known;

	if (version == 0 || version != r->part->version)
		r->part->confirmed_at = 0;
	if (version == 0 || !logq_shmem_get(r->part->number, &known) ||
		known.version != version)
		logq_shmem_doubt(r->part->number);
}

/*
 * Commit what was done to the partition.
 */
static void
commit(LogqRetry *r)
{
	PGresult   *res;
	int64		version = 0;

	r->committing = true;
	res = logq_retry_run(r, LOGQ_COMMIT_SQL);
	if (PQntuples(res) == 1)
		version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	r->committing = false;
	logq_retry_doubt(r, version);
}

/*
 * Do in one transaction what has been decided of some dead letters.  False:
 * the partition has refused the data; nothing was done.
 */
bool
logq_retry_write(LogqRetry *r, LogqLetter *letters, int n)
{
	int64		rows = 0;
	int64		taken = 0;
	int			i;

	r->refusal = NULL;
	r->no_segment = false;
	if (lock_letters(r, letters, n) == 0)
	{
		PQclear(logq_retry_run(r, "ROLLBACK"));
		return true;
	}
	for (i = 0; i < n; i++)
		if (letters[i].locked && letters[i].fate != LOGQ_FATE_KEEP)
			taken++;
	if (!change_letters(r, letters, n) ||
		(taken > 0 && !copy_letters(r, letters, n, &rows)))
	{
		PQclear(logq_retry_run(r, "ROLLBACK"));
		return false;
	}
	commit(r);
	r->taken += taken;
	r->rows += rows;
	return true;
}

