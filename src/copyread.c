/*-------------------------------------------------------------------------
 *
 * copyread.c
 *		What partitions say of their catalogs, as values of ours.
 *
 * Everything comes as binary COPY, a row at a time, so that memory goes by
 * the largest row and not by their number.  Nothing that is sent is trusted
 * to be of the form that was asked for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copy.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/*
 * Report bytes that are not what was asked for.
 */
void
logq_copy_bad_data(LogqConn *conn, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("could not read the catalog of partition \"%s\": %s",
					conn->name, why ? why : "the data ended within a row")));
}

/*
 * Rows of one binary COPY.
 */
static void
read_copy(LogqConn *conn, LogqDecoder *decoder, LogqCopyRow row, void *arg,
		  MemoryContext row_cxt, char *volatile *message)
{
	LogqField	fields[LOGQ_COPY_COLUMNS];
	LogqDecodeResult result;

	for (;;)
	{
		char	   *piece;
		int			len = PQgetCopyData(conn->pg, &piece, 1);

		if (len == -1 || len == -2)
			return;				/* the result says how it ended */
		if (len == 0)
		{
			(void) logq_conn_wait(conn, WL_SOCKET_READABLE, 0);
			if (PQconsumeInput(conn->pg) == 0)
				logq_report_remote_error(ERROR, conn, NULL, NULL);
			continue;
		}
		*message = piece;
		result = LOGQ_DECODE_ERROR;
		if (logq_decode_feed(decoder, piece, len))
		{
			while ((result = logq_decode_next(decoder,
											  fields)) == LOGQ_DECODE_ROW)
			{
				MemoryContext old = MemoryContextSwitchTo(row_cxt);

				row(arg, fields);
				MemoryContextSwitchTo(old);
				MemoryContextReset(row_cxt);
				CHECK_FOR_INTERRUPTS();
			}
		}
		if (result == LOGQ_DECODE_MORE && !logq_decode_feed(decoder, "", 0))
			result = LOGQ_DECODE_ERROR;
		if (result == LOGQ_DECODE_ERROR)
			logq_copy_bad_data(conn, decoder->error);
		*message = NULL;
		PQfreemem(piece);
	}
}

/*
 * Run SQL with any number of binary COPYs, whose rows go to where they are
 * wanted.  A result of one value is the catalog's version, and comes back.
 */
int64
logq_copy_ask(LogqConn *conn, const char *sql, int ncopies,
			  const LogqRemoteCopy *copies, void *arg)
{
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext,
												  "logq catalog row",
												  ALLOCSET_DEFAULT_SIZES);
	volatile int64 version = -1;
	PGresult   *volatile res = NULL;
	char	   *volatile message = NULL;
	LogqDecoder decoder;
	volatile int done = 0;

	MemSet(&decoder, 0, sizeof(decoder));
	logq_conn_send(conn, sql);
	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			switch (PQresultStatus(res))
			{
				case PGRES_COMMAND_OK:
					break;
				case PGRES_TUPLES_OK:
					if (PQntuples(res) == 1 && !PQgetisnull(res, 0, 0))
						version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
					break;
				case PGRES_COPY_OUT:
					if (done == ncopies)
						logq_copy_bad_data(conn, "more answers than questions");
					logq_decode_start(&decoder, copies[done].ncolumns);
					read_copy(conn, &decoder, copies[done].row, arg, row_cxt,
							  &message);
					if (PQstatus(conn->pg) == CONNECTION_OK)
						done++;
					break;
				default:
					{
						PGresult   *failed = res;

						res = NULL;
						logq_report_remote_error(ERROR, conn, failed, sql);
					}
			}
			PQclear(res);
			res = NULL;
		}
		if (done != ncopies || (ncopies > 0 && !decoder.ended))
			logq_copy_bad_data(conn, decoder.error);
		logq_decode_free(&decoder);
	}
	PG_CATCH();
	{
		PQclear(res);
		PQfreemem(message);
		logq_decode_free(&decoder);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextDelete(row_cxt);
	return version;
}

/*
 * An array from its binary form: one dimension, of text or bigint.
 */
static Datum
array_datum(LogqConn *conn, const LogqField *field, Oid elemtype)
{
	const char *at = field->data;
	const char *end = field->data + field->len;
	Datum	   *elems;
	bool	   *nulls;
	int			dims[1];
	int			lbs[1] = {1};
	int			n;
	int			i;

	if (field->len < 12 || (Oid) logq_decode_int32(at + 8) != elemtype)
		logq_copy_bad_data(conn, "an array of another type");
	n = logq_decode_int32(at);
	at += 12;
	if (n == 0)
		return PointerGetDatum(construct_empty_array(elemtype));
	if (n != 1 || end - at < 8)
		logq_copy_bad_data(conn, "an array of another form");
	n = logq_decode_int32(at);
	at += 8;
	if (n < 0 || n > (end - at) / 4)
		logq_copy_bad_data(conn, "an array is too short");
	elems = palloc(Max(n, 1) * sizeof(Datum));
	nulls = palloc(Max(n, 1) * sizeof(bool));
	for (i = 0; i < n; i++)
	{
		int			len;

		if (end - at < 4)
			logq_copy_bad_data(conn, "an array is too short");
		len = logq_decode_int32(at);
		at += 4;
		nulls[i] = len < 0;
		elems[i] = (Datum) 0;
		if (len < 0)
			continue;
		if (len > end - at || (elemtype == INT8OID && len != 8))
			logq_copy_bad_data(conn, "an array has a bad element");
		if (elemtype == INT8OID)
			elems[i] = Int64GetDatum(logq_decode_int64(at));
		else
		{
			(void) pg_verify_mbstr(GetDatabaseEncoding(), at, len, false);
			elems[i] = PointerGetDatum(cstring_to_text_with_len(at, len));
		}
		at += len;
	}
	dims[0] = n;
	if (elemtype == INT8OID)
		return PointerGetDatum(construct_md_array(elems, nulls, 1, dims, lbs,
												  INT8OID, 8,
												  FLOAT8PASSBYVAL,
												  TYPALIGN_DOUBLE));
	return PointerGetDatum(construct_md_array(elems, nulls, 1, dims, lbs,
											  TEXTOID, -1, false,
											  TYPALIGN_INT));
}

/*
 * A field as a value of ours.
 */
Datum
logq_copy_datum(LogqConn *conn, const LogqField *field, Oid type)
{
	switch (type)
	{
		case INT8OID:
		case TIMESTAMPTZOID:
			if (field->len == 8)
				return Int64GetDatum(logq_decode_int64(field->data));
			break;
		case FLOAT8OID:
			if (field->len == 8)
			{
				union
				{
					int64		i;
					float8		f;
				}			value;

				value.i = logq_decode_int64(field->data);
				return Float8GetDatum(value.f);
			}
			break;
		case BOOLOID:
			if (field->len == 1)
				return BoolGetDatum(field->data[0] != 0);
			break;
		case NAMEOID:
			if (field->len < NAMEDATALEN)
			{
				Name		name = palloc0(sizeof(NameData));

				(void) pg_verify_mbstr(GetDatabaseEncoding(), field->data,
									   field->len, false);
				memcpy(NameStr(*name), field->data, field->len);
				return NameGetDatum(name);
			}
			break;
		case TEXTOID:
			(void) pg_verify_mbstr(GetDatabaseEncoding(), field->data,
								   field->len, false);
			/* fall through */
		case BYTEAOID:
			return PointerGetDatum(cstring_to_text_with_len(field->data,
															field->len));
		case TEXTARRAYOID:
			return array_datum(conn, field, TEXTOID);
		case INT8ARRAYOID:
			return array_datum(conn, field, INT8OID);
	}
	logq_copy_bad_data(conn, "a value of another type");
	return (Datum) 0;			/* not reached */
}
