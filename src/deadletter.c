/*-------------------------------------------------------------------------
 *
 * deadletter.c
 *		Dead letters: the view, and another try.
 *
 * logq.retry_dead_letters() works on one partition after the other, in
 * transactions of the partition's own: what it has done stays, whatever
 * becomes of the local transaction.  A batch goes like this:
 *
 * 1. Some dead letters are read and parsed, without a lock on anything, and
 *    the segments that their rows need are made.
 * 2. deadwrite.c does the rest in one transaction on the partition.
 *
 * A message may have become good rows and bad records.  The bad ones then are
 * dead letters of their own, as they would be if the message came now; unless
 * they would take too much room.  A dead letter of a record is a message that
 * has this record alone, so all are treated alike.
 *
 * Memory is bounded by BATCH_BYTES, or by one message if that is larger, and
 * by what the parser needs for one.
 *
 * Failure cases: when the partition refuses data, the batch's dead letters
 * are tried one by one, and those that it refuses again are kept with what it
 * said.  Any other error ends the call, and the connection with it; batches
 * that were committed stay.  One whose COMMIT was under way was committed or
 * not: calling again finds out, as the dead letters are there or are not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "deadletter.h"

#include "catalog/pg_type.h"
#include "copy.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "seal.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(logq_dead_letter_list);
PG_FUNCTION_INFO_V1(logq_retry_dead_letters);

/* dead letters of a batch at most, and bytes, unless one is larger */
#define BATCH_LETTERS 500
#define BATCH_BYTES (8 * 1024 * 1024)
/* a row must leave room for its lengths, here and on the partition */
#define MAX_ROW_SIZE (MaxAllocSize - 64 * 1024)
/*
 * Bad records that a message is taken apart for, and bytes of them: each has a
 * copy of what it shares with the others
 */
#define MAX_SPLIT 100000
#define MAX_SPLIT_BYTES ((int64) 64 * 1024 * 1024)
/* bytes of a reason */
#define MAX_REASON 1000
/* how often a batch is tried while its segments are being dropped */
#define SEGMENT_ATTEMPTS 3

/* ms from 1970 to 2000 */
#define EPOCH_MS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)

/* ---------- both functions ---------- */

/*
 * A connection to a partition as the caller, who has to wait for it.
 */
static LogqConn *
acquire(LogqPartition *part)
{
	if (!OidIsValid(part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" of a partition does not exist",
						part->name),
				 errhint("Create it again, or run SELECT logq.remove_partition(%s, true).",
						 quote_literal_cstr(part->name))));
	return logq_conn_acquire_tested(part->serverid, GetUserId());
}

/*
 * Report bytes that are not what was asked for.
 */
static void
bad_data(LogqConn *conn)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("could not read the dead letters of partition \"%s\": a value is of another type",
					conn->name)));
}

/* ---------- logq.dead_letters ---------- */

/* columns of dead_letter_list but the first, and how they are asked for */
static const Oid list_types[] = {
	INT8OID, TIMESTAMPTZOID, TEXTOID, INT4OID, INT8OID, INT4OID,
	TIMESTAMPTZOID, BYTEAOID, BYTEAOID, TEXTOID, TIMESTAMPTZOID, TEXTOID
};

#define LIST_SQL \
	"COPY (SELECT id, received_at, topic, kafka_partition, kafka_offset, record, " \
	"ts, key, payload, reason, retried_at, cluster " \
	"FROM " LOGQ_DEAD_LETTER " ORDER BY id) TO STDOUT (FORMAT binary)"

typedef struct Listing
{
	ReturnSetInfo *rsinfo;
	LogqConn   *conn;
	NameData	name;
} Listing;

/*
 * Error context callback: say who may read them.
 */
static void
list_error_callback(void *arg)
{
	if (geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE)
		errhint("The user mapping's role needs SELECT on \"" LOGQ_DEAD_LETTER
				"\" on the partition, which belongs to the owner of its store.");
}

/*
 * Put a row of a partition into the answer.
 */
static void
list_row(void *arg, const LogqField *fields)
{
	Listing    *listing = arg;
	Datum		values[lengthof(list_types) + 1];
	bool		nulls[lengthof(list_types) + 1];
	int			i;

	values[0] = NameGetDatum(&listing->name);
	nulls[0] = false;
	for (i = 0; i < lengthof(list_types); i++)
	{
		nulls[i + 1] = fields[i].len < 0;
		values[i + 1] = (Datum) 0;
		if (nulls[i + 1])
			continue;
		if (list_types[i] != INT4OID)
			values[i + 1] = logq_copy_datum(listing->conn, &fields[i],
											list_types[i]);
		else if (fields[i].len == 4)
			values[i + 1] = Int32GetDatum(logq_decode_int32(fields[i].data));
		else
			bad_data(listing->conn);
	}
	tuplestore_putvalues(listing->rsinfo->setResult, listing->rsinfo->setDesc,
						 values, nulls);
}

/*
 * logq.dead_letter_list().  A row is in memory at a time; the tuplestore goes
 * to disk.
 */
Datum
logq_dead_letter_list(PG_FUNCTION_ARGS)
{
	static const LogqRemoteCopy copy = {lengthof(list_types), list_row};
	ErrorContextCallback errcallback;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	errcallback.callback = list_error_callback;
	errcallback.arg = NULL;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;

	foreach(lc, logq_partitions())
	{
		LogqPartition *part = lfirst(lc);
		LogqConn   *conn = acquire(part);
		Listing		listing;

		listing.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
		listing.conn = conn;
		namestrcpy(&listing.name, part->name);
		PG_TRY();
		{
			logq_conn_wait_ready(conn);
			(void) logq_copy_ask(conn, LIST_SQL, 1, &copy, &listing);
		}
		PG_CATCH();
		{
			/* with it goes the rest of the answer */
			logq_conn_close(conn);
			PG_RE_THROW();
		}
		PG_END_TRY();
		logq_conn_release(conn);
	}
	error_context_stack = errcallback.previous;
	return (Datum) 0;
}

/* ---------- logq.retry_dead_letters: helpers ---------- */

/*
 * Error context callback: what to do about it.
 */
static void
retry_error_callback(void *arg)
{
	LogqRetry  *r = arg;

	if (r->local)
		return;
	if (geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE)
		errhint("The user mapping's role needs all privileges on \"" LOGQ_DEAD_LETTER
				"\" and INSERT on \"" LOGQ_STORE_SCHEMA
				".log\" on the partition, which belong to the owner of its store.");
	else if (r->committing)
		errhint("The dead letters of one batch were either all taken or are all still there. Call the function again.");
}

/*
 * A text as a reason: not too long, and UTF-8.
 */
char *
logq_retry_reason(const char *text)
{
	int			len = strnlen(text, MAX_REASON);

	return pnstrdup(text, pg_encoding_verifymbstr(PG_UTF8, text, len));
}

/* ---------- reading ---------- */

/*
 * A field of bytes in the current memory context.
 */
static LogqText
keep_bytes(const LogqField *field)
{
	LogqText	text = {NULL, 0};

	if (field->len >= 0)
	{
		char	   *data = palloc(field->len + 1);

		memcpy(data, field->data, field->len);
		data[field->len] = '\0';
		text.data = data;
		text.len = field->len;
	}
	return text;
}

/*
 * Take in a dead letter of the batch.
 */
static void
read_row(void *arg, const LogqField *fields)
{
	LogqRetry  *r = arg;
	LogqLetter *letter = &r->letters[r->nletters];
	MemoryContext old;

	if (r->nletters == BATCH_LETTERS ||
		fields[0].len != 8 || fields[1].len != 4 || fields[2].len < 0 ||
		(fields[3].len != 4 && fields[3].len != -1) ||
		(fields[4].len != 8 && fields[4].len != -1))
		bad_data(r->conn);

	old = MemoryContextSwitchTo(r->batch_cxt);
	letter->id = logq_decode_int64(fields[0].data);
	letter->xmin = (uint32) logq_decode_int32(fields[1].data);
	letter->topic = pnstrdup(fields[2].data, fields[2].len);
	letter->record = fields[3].len < 0 ? -1 :
		logq_decode_int32(fields[3].data);
	letter->message.timestamp = -1;
	if (fields[4].len > 0)
	{
		int64		ts = logq_decode_int64(fields[4].data);

		if (!TIMESTAMP_NOT_FINITE(ts))
			letter->message.timestamp = ts / 1000 + EPOCH_MS;
	}
	letter->message.key = keep_bytes(&fields[5]);
	letter->message.headers = keep_bytes(&fields[6]);
	letter->message.value = keep_bytes(&fields[7]);
	letter->bytes = (int64) letter->message.key.len +
		letter->message.headers.len + letter->message.value.len;
	MemoryContextSwitchTo(old);
	r->nletters++;
}

/*
 * Read a batch of dead letters behind after and up to last: as many as there
 * is room for, but one at least.  Their sizes are known without reading them.
 */
static void
read_batch(LogqRetry *r, int64 after, int64 last)
{
	static const LogqRemoteCopy copy = {8, read_row};
	StringInfoData sql;

	MemoryContextReset(r->batch_cxt);
	r->nletters = 0;
	r->letters = MemoryContextAllocZero(r->batch_cxt,
										BATCH_LETTERS * sizeof(LogqLetter));
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "COPY (SELECT d.id, d.xmin, d.topic, d.record, d.ts, d.key, d.headers, d.payload "
					 "FROM (SELECT id, size, sum(size) OVER (ORDER BY id) AS until "
					 "FROM (SELECT id, coalesce(octet_length(key), 0) "
					 "+ coalesce(octet_length(headers), 0) "
					 "+ coalesce(octet_length(payload), 0)::int8 AS size "
					 "FROM " LOGQ_DEAD_LETTER
					 " WHERE id > " INT64_FORMAT " AND id <= " INT64_FORMAT "%s "
					 "ORDER BY id LIMIT %d) c) s "
					 "JOIN " LOGQ_DEAD_LETTER " d ON d.id = s.id "
					 "WHERE s.until <= %d OR s.until = s.size "
					 "ORDER BY d.id) TO STDOUT (FORMAT binary)",
					 after, last, r->condition, BATCH_LETTERS, BATCH_BYTES);
	(void) logq_copy_ask(r->conn, sql.data, 1, &copy, r);
	pfree(sql.data);
}

/* ---------- judging ---------- */

/*
 * Set the parser to a topic, or to the defaults if that is no longer there.
 * Settings are those of the call's beginning: what was good stays good.
 */
void
logq_retry_use_topic(LogqRetry *r, const char *name)
{
	LogqTopicSettings *found = NULL;
	MemoryContext old;
	ListCell   *lc;

	if (r->topic != NULL && strcmp(r->topic->name, name) == 0)
		return;
	foreach(lc, r->topics)
	{
		LogqTopicSettings *t = lfirst(lc);

		if (strcmp(t->name, name) == 0)
			found = t;
	}

	old = MemoryContextSwitchTo(r->cxt);
	if (found == NULL)
	{
		LogqTopic  *topic;

		r->local = true;
		topic = logq_topic_load_by_name(name);
		if (topic == NULL)
		{
			topic = palloc0(sizeof(LogqTopic));
			topic->name = pstrdup(name);
			topic->format = LOGQ_FORMAT_AUTO;
		}
		found = palloc0(sizeof(LogqTopicSettings));
		found->name = pstrdup(name);
		/* may point to what is the topic's, which stays */
		logq_ingest_parser_settings(topic, &found->settings);
		r->topics = lappend(r->topics, found);
		r->local = false;
	}
	if (r->parser == NULL)
		r->parser = logq_parser_create(&found->settings);
	else
		logq_parser_set(r->parser, &found->settings);
	r->topic = found;
	MemoryContextSwitchTo(old);
}

/*
 * See to it that the partition has a segment for ts.  Returns NULL, or why it
 * does not take such a time.  Outside a transaction.
 */
static char *
ensure_segment(LogqRetry *r, TimestampTz ts)
{
	LogqPartition *part = r->part;
	const LogqSegment *seg;

	if (ts >= r->lower && ts < r->upper)
		return NULL;
	if (!part->loaded)
		logq_catalog_load(part, r->conn);
	seg = logq_segment_for(part, ts);
	if (seg == NULL)
	{
		StringInfoData sql;
		PGresult   *res;
		int			nestlevel = logq_set_transmission_modes();

		initStringInfo(&sql);
		appendStringInfoString(&sql, LOGQ_RETRY_LOCK_SQL
							   "SELECT " LOGQ_STORE_SCHEMA ".make_segment(");
		logq_append_literal(&sql, TimestampTzGetDatum(ts), false,
							TIMESTAMPTZOID, -1);
		appendStringInfoChar(&sql, ')');
		AtEOXact_GUC(true, nestlevel);
		res = logq_seal_run(r->conn, sql.data);
		if (logq_retry_is_refusal(res))
		{
			char	   *why = logq_retry_refusal_text(res,
														GetDatabaseEncoding());

			PQclear(res);
			return why;
		}
		PQclear(logq_seal_expect(r->conn, res, sql.data));
		pfree(sql.data);
		/* no copy knows of it yet */
		logq_shmem_doubt(part->number);
		logq_catalog_load(part, r->conn);
		seg = logq_segment_for(part, ts);
	}
	if (seg == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" has no segment for time %s",
						part->name, timestamptz_to_str(ts)),
				 errhint("If segments are just being dropped, repeat the command.")));
	r->lower = seg->lower;
	r->upper = seg->upper;
	return NULL;
}

/*
 * Why a record cannot become a row; NULL: it can.
 */
static const char *
what_is_wrong(LogqRetry *r, const LogqRecord *record)
{
	Size		size;

	if (record->error != NULL)
		return logq_retry_reason(record->error);
	size = (Size) record->level.len + record->service.len +
		record->message.len + record->trace_id.len + record->attrs.len;
	if (size > MAX_ROW_SIZE)
		return psprintf("row of %zu bytes is too large", size);
	return ensure_segment(r, record->ts);
}

/*
 * Decide what becomes of a dead letter.
 */
static void
judge(LogqRetry *r, LogqLetter *letter)
{
	LogqRecord *records;
	int64		bytes = 0;
	int			size = 0;
	int			nrecords;
	int			i;

	letter->fate = LOGQ_FATE_KEEP;
	letter->reason = letter->refused;
	letter->nbad = 0;
	if (letter->bad != NULL)
		pfree(letter->bad);
	letter->bad = NULL;
	/* a message without a value is no dead letter: this one was not kept */
	if (letter->refused != NULL || letter->message.value.data == NULL)
		return;

	logq_retry_use_topic(r, letter->topic);
	nrecords = logq_parse(r->parser, &letter->message, &records);
	for (i = 0; i < nrecords; i++)
	{
		const char *why = what_is_wrong(r, &records[i]);

		if (why == NULL)
			continue;
		if (letter->nbad == size && size < MAX_SPLIT)
		{
			size = Min(Max(size * 4, 8), MAX_SPLIT);
			letter->bad = letter->bad == NULL ?
				palloc(size * sizeof(LogqBadRecord)) :
				repalloc(letter->bad, size * sizeof(LogqBadRecord));
		}
		if (letter->nbad < size)
		{
			LogqBadRecord *bad = &letter->bad[letter->nbad];

			bad->index = records[i].index;
			bad->reason = unconstify(char *, why);
			/* thousands of them may say the same */
			if (letter->nbad > 0 && strcmp(bad[-1].reason, why) == 0)
			{
				bad->reason = bad[-1].reason;
				pfree(unconstify(char *, why));
			}
			/* key and headers are copied with each of them */
			bytes += (int64) logq_record_source(r->parser, &records[i]).len +
				letter->message.key.len + letter->message.headers.len;
		}
		letter->nbad++;
	}

	if (letter->nbad == 0)
		letter->fate = LOGQ_FATE_TAKE;
	else if (nrecords == 1)
		letter->reason = letter->bad[0].reason;
	else if (letter->nbad < nrecords && letter->nbad <= MAX_SPLIT &&
			 bytes <= MAX_SPLIT_BYTES)
		letter->fate = LOGQ_FATE_SPLIT;
	else
		letter->reason = psprintf("%d of %d records are bad, record %d: %s",
								  letter->nbad, nrecords, letter->bad[0].index,
								  letter->bad[0].reason);
}

/* ---------- a batch ---------- */

/*
 * Take some dead letters of the batch again: all of them, or, if that is
 * refused, one by one.
 */
static void
retry_letters(LogqRetry *r, LogqLetter *letters, int n)
{
	int			attempt;
	int			i;

	for (attempt = 0; attempt < SEGMENT_ATTEMPTS; attempt++)
	{
		for (i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			judge(r, &letters[i]);
		}
		if (logq_retry_write(r, letters, n))
			return;
		if (!r->no_segment)
			break;
		/* retention was faster; or what we know of segments is old */
		r->part->loaded = false;
		r->lower = r->upper = 0;
	}
	if (r->no_segment)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" drops segments that dead letters need",
						r->part->name),
				 errhint("See whether the messages are older than the retention of logs.")));

	if (n > 1)
	{
		for (i = 0; i < n; i++)
			retry_letters(r, &letters[i], 1);
		return;
	}
	letters->refused = r->refusal;
	judge(r, letters);
	if (!logq_retry_write(r, letters, 1))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("partition \"%s\" does not let its dead letters be changed: %s",
						r->part->name, r->refusal)));
}

/* ---------- logq.retry_dead_letters() ---------- */

/*
 * Take the dead letters of a partition again, those that are there now.
 * Returns how many are left at the end.
 */
static int64
retry_over_connection(LogqRetry *r)
{
	PGresult   *res;
	int64		after = 0;
	int64		last = 0;
	int64		left_over;
	bool		any;

	logq_conn_wait_ready(r->conn);
	res = logq_retry_run(r, psprintf("SELECT min(id) - 1, max(id) FROM " LOGQ_DEAD_LETTER
						  " WHERE true%s", r->condition));
	any = PQntuples(res) == 1 && !PQgetisnull(res, 0, 0);
	if (any)
	{
		after = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
		last = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	}
	PQclear(res);

	while (any && after < last)
	{
		CHECK_FOR_INTERRUPTS();
		read_batch(r, after, last);
		if (r->nletters == 0)
			break;
		after = r->letters[r->nletters - 1].id;
		retry_letters(r, r->letters, r->nletters);
	}

	res = logq_retry_run(r, psprintf("SELECT count(*) FROM " LOGQ_DEAD_LETTER
						  " WHERE true%s", r->condition));
	left_over = PQntuples(res) == 1 ?
		strtoll(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	PQclear(res);
	return left_over;
}

/*
 * One partition's row of the answer.
 */
static void
retry_partition(LogqRetry *r, LogqPartition *part, ReturnSetInfo *rsinfo)
{
	MemoryContext old = MemoryContextSwitchTo(r->batch_cxt);
	volatile int64 left_over = 0;
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};
	NameData	name;

	r->part = part;
	r->lower = r->upper = 0;
	r->taken = r->rows = 0;
	r->local = true;
	r->conn = acquire(part);
	r->local = false;
	PG_TRY();
	{
		left_over = retry_over_connection(r);
	}
	PG_CATCH();
	{
		/* with it go its locks and what it has not committed */
		logq_conn_close(r->conn);
		if (r->committing)
			logq_retry_doubt(r, 0);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(r->conn);
	MemoryContextSwitchTo(old);
	MemoryContextReset(r->batch_cxt);

	namestrcpy(&name, part->name);
	values[0] = NameGetDatum(&name);
	values[1] = Int64GetDatum(r->taken);
	values[2] = Int64GetDatum(r->rows);
	values[3] = Int64GetDatum(left_over);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * logq.retry_dead_letters(only_topic)
 */
Datum
logq_retry_dead_letters(PG_FUNCTION_ARGS)
{
	ErrorContextCallback errcallback;
	MemoryContext old;
	LogqRetry	r;
	ListCell   *lc;

	/* also on a standby: what is changed is elsewhere, so nobody else objects */
	PreventCommandIfReadOnly("logq.retry_dead_letters()");
	InitMaterializedSRF(fcinfo, 0);
	MemSet(&r, 0, sizeof(r));
	r.cxt = AllocSetContextCreate(CurrentMemoryContext, "logq dead letters",
								  ALLOCSET_DEFAULT_SIZES);
	r.batch_cxt = AllocSetContextCreate(r.cxt, "logq dead letter batch",
										ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(r.cxt);
	r.condition = PG_ARGISNULL(0) ? "" :
		psprintf(" AND topic = %s",
				 quote_literal_cstr(text_to_cstring(PG_GETARG_TEXT_PP(0))));

	errcallback.callback = retry_error_callback;
	errcallback.arg = &r;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;
	foreach(lc, logq_partitions())
		retry_partition(&r, lfirst(lc),
						(ReturnSetInfo *) fcinfo->resultinfo);
	error_context_stack = errcallback.previous;

	MemoryContextSwitchTo(old);
	MemoryContextDelete(r.cxt);
	return (Datum) 0;
}
