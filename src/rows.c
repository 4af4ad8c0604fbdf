/*-------------------------------------------------------------------------
 *
 * rows.c
 *		Rows of a stream: from messages, or from a file.
 *
 * Usually the message at hand is decoded row by row.  When the transaction
 * has itself written to the partition, its rows are visible only to the
 * connection that wrote them, which other scans may want as well: then the
 * whole answer is put into a temporary file at once, and read from there.
 *
 * An unordered scan cannot go on elsewhere behind its last row.  So where there
 * is an elsewhere, the ids of the rows of the segment at hand are kept (on disk
 * when there are many).  Another server is asked for the segment in the
 * order of ids, and what has been had is left out.
 *
 * Failure cases: what is not the format that was asked for is an error that
 * names the partition.  The file is closed by the stream, or on abort by its
 * resource owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* ids of rows that are kept as they come; more of them are sorted on disk */
#define MIN_IDS_IN_MEMORY 1024
#define MAX_IDS_IN_MEMORY (128 * 1024)
#define HAD_MEMORY_KB 1024

/*
 * Report a failed or unexpected result; the stream is over.
 */
void
logq_stream_error(LogqStream *stream, PGresult *res)
{
	logq_report_remote_error(ERROR, stream->conn, res, stream->sql);
}

/*
 * Report bytes that are not what was asked for.
 */
void
logq_stream_decode_failed(LogqStream *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("could not read the rows of partition \"%s\": %s",
					stream->part->name,
					stream->decoder.error ? stream->decoder.error :
					"the data ended within a row")));
}

/* ---------- rows that an unordered fragment has brought ---------- */

/*
 * Forget them: the fragment has come to its end.
 */
void
logq_had_reset(LogqStream *stream)
{
	LogqHad    *had = &stream->had;

	if (had->sort != NULL)
		tuplesort_end(had->sort);
	had->sort = NULL;
	/* the array stays for the next one */
	had->nids = 0;
	had->sorted = had->more = had->any = false;
	had->count = 0;
}

/*
 * Hand the ids in memory over to a sort.
 */
static void
spill_had(LogqStream *stream)
{
	LogqHad    *had = &stream->had;

	if (had->sort == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(stream->cxt);

		had->sort = tuplesort_begin_datum(INT8OID, Int8LessOperator,
										  InvalidOid, false, HAD_MEMORY_KB,
										  NULL, TUPLESORT_RANDOMACCESS);
		MemoryContextSwitchTo(old);
	}
	for (int i = 0; i < had->nids; i++)
		tuplesort_putdatum(had->sort, Int64GetDatum(had->ids[i]), false);
	had->nids = 0;
}

/*
 * Make room for more of them.
 */
static void
grow_had(LogqStream *stream)
{
	LogqHad    *had = &stream->had;

	if (had->capacity == 0)
	{
		had->ids = MemoryContextAlloc(stream->cxt,
									  MIN_IDS_IN_MEMORY * sizeof(int64));
		had->capacity = MIN_IDS_IN_MEMORY;
	}
	else if (had->capacity < MAX_IDS_IN_MEMORY)
	{
		had->ids = repalloc(had->ids, 2 * had->capacity * sizeof(int64));
		had->capacity *= 2;
	}
	else
		spill_had(stream);
}

/*
 * The next one of them, by id.
 */
static void
next_had(LogqHad *had)
{
	Datum		value;
	bool		isnull;

	had->more = logq_tuplesort_getdatum(had->sort, &value, &isnull);
	if (had->more)
		had->next = DatumGetInt64(value);
}

/*
 * The fragment will be asked once more, in the order of ids: get ready to leave
 * out what it has brought so far.
 */
void
logq_had_sort(LogqStream *stream)
{
	LogqHad    *had = &stream->had;

	if (had->count == 0)
		return;
	if (had->sorted)
		tuplesort_rescan(had->sort);
	else
	{
		spill_had(stream);
		tuplesort_performsort(had->sort);
	}
	had->sorted = true;
	next_had(had);
}

/*
 * An id has come.  False: its row has been handed out already.  Apart from what
 * is done for each row, which is to stay small.
 */
static pg_noinline bool
is_new(LogqStream *stream)
{
	const LogqField *field = &stream->fields[stream->request->id_field];
	LogqHad    *had = &stream->had;
	int64		id;

	if (field->len != 8)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("partition \"%s\" sent a row without a key",
						stream->part->name)));
	id = logq_decode_int64(field->data);
	if (had->sorted)
	{
		if (had->any && id <= had->last)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("partition \"%s\" sent rows out of order",
							stream->part->name)));
		had->any = true;
		had->last = id;
		while (had->more && had->next < id)
			next_had(had);
		return !had->more || had->next != id;
	}
	if (had->nids == had->capacity)
		grow_had(stream);
	had->ids[had->nids++] = id;
	had->count++;
	return true;
}

/* ---------- rows ---------- */

/*
 * A row was decoded: note its key.  False: it was handed out before.
 */
static inline bool
row_arrived(LogqStream *stream)
{
	const LogqRequest *request = stream->request;

	if (unlikely(stream->tracked) && !is_new(stream))
		return false;
	logq_stream_progressed(stream);

	if (stream->scan_rows++ == 0 && stream->first_row_ms < 0)
	{
		instr_time	now;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, stream->started);
		stream->first_row_ms = INSTR_TIME_GET_MILLISEC(now);
	}
	stream->rows++;
	stream->batch_rows++;
	stream->fragment_rows++;
	if (request->ordered)
	{
		const LogqField *ts = &stream->fields[request->ts_field];
		const LogqField *id = &stream->fields[request->id_field];
		int64		new_ts;
		int64		new_id;

		if (ts->len != 8 || id->len != 8)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("partition \"%s\" sent a row without a key",
							stream->part->name)));
		new_ts = logq_decode_int64(ts->data);
		new_id = logq_decode_int64(id->data);
		/* a merge of unordered streams would be silently wrong */
		if (stream->scan_rows > 1 &&
			(request->descending ?
			 new_ts > stream->ts ||
			 (new_ts == stream->ts && new_id > stream->id) :
			 new_ts < stream->ts ||
			 (new_ts == stream->ts && new_id < stream->id)))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("partition \"%s\" sent rows out of order",
							stream->part->name)));
		stream->ts = new_ts;
		stream->id = new_id;
		stream->has_key = true;
	}
	stream->has_row = true;
	return true;
}

/*
 * The message is about to go: let the decoder keep what it has of a row that
 * goes on in the next one.
 */
void
logq_stream_keep_cut_row(LogqDecoder *decoder)
{
	if (decoder->pos < decoder->len && !decoder->reading_carry &&
		!decoder->ended)
		(void) logq_decode_feed(decoder, "", 0);
}

/*
 * Decode from the message at hand.  True: a row is there.
 */
bool
logq_stream_decode_row(LogqStream *stream)
{
	for (;;)
	{
		switch (logq_decode_next(&stream->decoder, stream->fields))
		{
			case LOGQ_DECODE_ROW:
				if (row_arrived(stream))
					return true;
				break;
			case LOGQ_DECODE_ERROR:
				logq_stream_decode_failed(stream);
				return false;	/* not reached */
			case LOGQ_DECODE_MORE:
			case LOGQ_DECODE_END:
				return false;
		}
	}
}

/* ---------- the file ---------- */

/*
 * Ask for everything at once over the transaction's own writing connection
 * and put it into a file.  Waits, as the connection must be free before
 * anything else happens.
 */
void
logq_spool_request(LogqStream *stream)
{
	LogqConn   *conn = stream->conn;
	PGresult   *volatile res = NULL;
	char	   *volatile message = NULL;
	StringInfoData sql;
	int			i;

	/* the list of segments as this transaction sees it, and their rows */
	stream->cache = NULL;
	logq_catalog_load(stream->part, conn);
	logq_plan_fragments(stream);
	stream->confirmed = true;
	stream->batch_end = stream->nfragments;
	stream->fragments_asked += stream->nfragments;
	logq_decode_start(&stream->decoder, stream->request->nfields);
	stream->spool = BufFileCreateTemp(false);
	stream->state = LOGQ_STREAM_SPOOLED;
	if (stream->nfragments == 0)
		return;

	initStringInfo(&sql);
	for (i = 0; i < stream->nfragments; i++)
	{
		appendStringInfoString(&sql, "COPY (");
		logq_fragment_sql(&sql, stream->request, &stream->fragments[i],
						  stream->select, stream->where, NULL, false,
						  stream->request->bound,
						  PQserverVersion(conn->pg));
		appendStringInfoString(&sql, ") TO STDOUT (FORMAT binary); ");
	}
	stream->sql = sql.data;
	logq_conn_send(conn, sql.data);
	stream->requests++;

	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			PGresult   *current = res;
			ExecStatusType status = PQresultStatus(current);
			int			len;

			if (status != PGRES_COMMAND_OK && status != PGRES_COPY_OUT)
			{
				res = NULL;
				logq_stream_error(stream, current);
			}
			PQclear(current);
			res = NULL;
			while (status == PGRES_COPY_OUT)
			{
				char	   *piece;

				len = PQgetCopyData(conn->pg, &piece, 1);
				if (len < 0)
				{
					/* end of the fragment; an error comes as a result */
					len = -1;
					BufFileWrite(stream->spool, &len, sizeof(len));
					break;
				}
				if (len == 0)
				{
					(void) logq_conn_wait(conn, WL_SOCKET_READABLE, 0);
					if (PQconsumeInput(conn->pg) == 0)
						logq_stream_error(stream, NULL);
					continue;
				}
				message = piece;
				BufFileWrite(stream->spool, &len, sizeof(len));
				BufFileWrite(stream->spool, piece, len);
				message = NULL;
				PQfreemem(piece);
			}
		}
	}
	PG_CATCH();
	{
		PQclear(res);
		PQfreemem(message);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (BufFileSeek(stream->spool, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind temporary file for partition \"%s\"",
						stream->part->name)));
}

/*
 * The next row from the file.
 */
LogqStreamResult
logq_spool_advance(LogqStream *stream)
{
	for (;;)
	{
		int			len;

		if (stream->spool_buf != NULL && logq_stream_decode_row(stream))
			return LOGQ_STREAM_ROW;
		logq_stream_keep_cut_row(&stream->decoder);
		if (stream->batch_done == stream->nfragments)
			break;
		if (BufFileRead(stream->spool, &len, sizeof(len)) != sizeof(len))
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read temporary file for partition \"%s\"",
							stream->part->name)));
		if (len < 0)
		{
			if (!stream->decoder.ended)
				logq_stream_decode_failed(stream);
			stream->batch_done++;
			logq_decode_start(&stream->decoder, stream->request->nfields);
			continue;
		}
		if (len > stream->spool_buf_size)
		{
			if (stream->spool_buf != NULL)
				pfree(stream->spool_buf);
			stream->spool_buf_size = Max(len, 8192);
			stream->spool_buf = MemoryContextAllocHuge(stream->cxt,
													   stream->spool_buf_size);
		}
		if (BufFileRead(stream->spool, stream->spool_buf, len) != len)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read temporary file for partition \"%s\"",
							stream->part->name)));
		stream->bytes += len;
		if (!logq_decode_feed(&stream->decoder, stream->spool_buf, len))
			logq_stream_decode_failed(stream);
	}
	BufFileClose(stream->spool);
	stream->spool = NULL;
	stream->state = LOGQ_STREAM_DONE;
	return LOGQ_STREAM_END;
}
