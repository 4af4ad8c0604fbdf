/*-------------------------------------------------------------------------
 *
 * copy.c
 *		Keeps the coordinator's tables up to date.
 *
 * logq.catalog and the tables below it are a copy of what the partitions'
 * catalogs say.  A copy is made in the caller's local transaction: when the
 * partition's version is the one we have, nothing is written; else the names
 * and versions of all segments are compared, and what is new or different is
 * fetched with its filters.  That works whichever way the version has moved,
 * so a partition that was restored from a backup is nothing special.
 *
 * logq.catalog's row of the partition is locked first, so copies of one
 * partition take turns, and the partition is read after that, in one
 * transaction.  "changed" is raised for every change of the copy.  It follows
 * the clock: a partition that was removed and added again must not come to a
 * value that backends have seen with other rows.
 *
 * When the local transaction has committed, other backends are told by
 * logq_shmem_publish; when it is rolled back, nobody.
 *
 * Everything local runs as the owner of the tables, with nothing but
 * pg_catalog in the search path.
 *
 * Failure cases: any error rolls the local transaction back, and leaves the
 * connection in a transaction, so the caller closes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copy.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "contents.h"
#include "sketch.h"

/* segments fetched by one request */
#define SEGMENTS_PER_REQUEST 200
/* how often estimates of open segments are read, if nothing else changes */
#define ESTIMATES_MS (60 * 1000)

/* rows of a segment as the partition's planner sees it */
#define ESTIMATE_SQL "coalesce(c.reltuples, -1)::float8"
#define FROM_SEGMENT_SQL \
	" FROM " LOGQ_STORE_SCHEMA ".segment s " \
	"LEFT JOIN (pg_catalog.pg_class c " \
	"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace " \
	"AND n.nspname = '" LOGQ_STORE_SCHEMA "') ON c.relname = s.name "

/* what a partition sends of a segment: its columns in our table, in order */
static const struct
{
	int			anum;
	const char *sql;
	Oid			type;
}			segment_columns[] =
{
	{ANUM_SEGMENT_NAME, "s.name", NAMEOID},
	{ANUM_SEGMENT_LOWER, "s.lower", TIMESTAMPTZOID},
	{ANUM_SEGMENT_UPPER, "s.upper", TIMESTAMPTZOID},
	{ANUM_SEGMENT_STATE, "s.state", TEXTOID},
	{ANUM_SEGMENT_VERSION, "s.version", INT8OID},
	{ANUM_SEGMENT_ESTIMATED_ROWS, ESTIMATE_SQL, FLOAT8OID},
	{ANUM_SEGMENT_SEALED_AT, "s.sealed_at", TIMESTAMPTZOID},
	{ANUM_SEGMENT_ROWS, "s.rows", INT8OID},
	{ANUM_SEGMENT_BYTES, "s.bytes", INT8OID},
	{ANUM_SEGMENT_MIN_TS, "s.min_ts", TIMESTAMPTZOID},
	{ANUM_SEGMENT_MAX_TS, "s.max_ts", TIMESTAMPTZOID},
	{ANUM_SEGMENT_MIN_ID, "s.min_id", INT8OID},
	{ANUM_SEGMENT_MAX_ID, "s.max_id", INT8OID},
	{ANUM_SEGMENT_MIN_TRACE_ID, "s.min_trace_id", TEXTOID},
	{ANUM_SEGMENT_MAX_TRACE_ID, "s.max_trace_id", TEXTOID},
	{ANUM_SEGMENT_LEVELS, "s.levels", TEXTARRAYOID},
	{ANUM_SEGMENT_LEVEL_ROWS, "s.level_rows", INT8ARRAYOID},
	{ANUM_SEGMENT_SERVICES, "s.services", TEXTARRAYOID},
	{ANUM_SEGMENT_SERVICE_ROWS, "s.service_rows", INT8ARRAYOID},
	{ANUM_SEGMENT_SERVICE_LEVEL_ROWS, "s.service_level_rows", INT8ARRAYOID},
	{ANUM_SEGMENT_ODD_CASE, "s.odd_case", BOOLOID},
	{ANUM_SEGMENT_LEVEL_ROLLUP, "s.level_rollup", INT8OID},
	{ANUM_SEGMENT_SERVICE_ROLLUP, "s.service_rollup", INT8OID},
};

#define NCOLUMNS ((int) lengthof(segment_columns))

/* types of all columns of logq.catalog_segment, by their numbers */
static Oid	segment_types[NATTS_SEGMENT] = {
	INT4OID, NAMEOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID,
	INT8OID, FLOAT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTARRAYOID,
	INT8ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, INT8ARRAYOID, BOOLOID, INT8OID,
	INT8OID, TEXTARRAYOID, INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID,
	INT4ARRAYOID
};

#define UPSERT_COLUMNS \
	"number, name, changed, lower, upper, state, version, estimated_rows, " \
	"sealed_at, rows, bytes, min_ts, max_ts, min_id, max_id, min_trace_id, " \
	"max_trace_id, levels, level_rows, services, service_rows, " \
	"service_level_rows, odd_case, level_rollup, service_rollup, " \
	"filter_fields, filter_values, filter_blocks, filter_groups, filter_slots"

#define UPSERT_SQL \
	"INSERT INTO logq.catalog_segment AS s (" UPSERT_COLUMNS ") VALUES " \
	"($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, " \
	"$16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, " \
	"$30) ON CONFLICT (number, name) DO UPDATE SET (" UPSERT_COLUMNS ") = " \
	"($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, " \
	"$16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, " \
	"$30)"

#define FILTER_COLUMNS 5
#define FILTER_SQL \
	"INSERT INTO logq.catalog_filter (number, segment, field, version, filter, sketch) " \
	"VALUES ($1, $2, $3, $4, $5, $6)"

/* A segment of our table, while it is compared with the partition's */
typedef struct LocalSegment
{
	NameData	name;			/* hash key */
	int64		version;
	bool		there;			/* the partition has it, too */
} LocalSegment;

/* One filter of a segment being fetched */
typedef struct FetchedFilter
{
	Datum		field;
	int64		nvalues;
	int32		blocks;
} FetchedFilter;

/* A segment being fetched */
typedef struct FetchedSegment
{
	Datum		values[NATTS_SEGMENT];
	char		nulls[NATTS_SEGMENT + 1];
	const char *name;
	bool		sealed;
	int64		version;
	List	   *filters;
} FetchedSegment;

StaticAssertDecl(NCOLUMNS <= LOGQ_COPY_COLUMNS, "too many columns");

/* What the callbacks for remote rows work on */
typedef struct CopyState
{
	LogqCopy	copy;
	LogqConn   *conn;
	MemoryContext chunk_cxt;	/* for the segments of one request */
	/* the partition's store */
	int64		remote_version;
	bool		has_interval;
	bool		has_retention;
	Interval	interval;
	Interval	retention;
	/* comparison */
	HTAB	   *local;
	int			nneeded;
	int			needed_size;
	NameData   *needed;
	/* open segments */
	TimestampTz copied_at;
	int			nopen;
	int			open_size;
	NameData   *open_names;
	float8	   *open_rows;
	/* one request's segments, by name */
	int			nfetched;
	int			next_filtered;	/* whose filters are coming */
	FetchedSegment *fetched;
	SPIPlanPtr	upsert;
	SPIPlanPtr	insert_filter;
} CopyState;

/* ---------- what the partition sends ---------- */

/*
 * An interval from its binary form.
 */
static bool
field_interval(CopyState *state, const LogqField *field, Interval *interval)
{
	MemSet(interval, 0, sizeof(Interval));
	if (field->len < 0)
		return false;
	if (field->len != 16)
		logq_copy_bad_data(state->conn, "a value of another type");
	interval->time = logq_decode_int64(field->data);
	interval->day = logq_decode_int32(field->data + 8);
	interval->month = logq_decode_int32(field->data + 12);
	return true;
}

/* row of logq_store.store */
static void
take_store(void *arg, const LogqField *fields)
{
	CopyState  *state = arg;
	state->has_interval = field_interval(state, &fields[0], &state->interval);
	state->has_retention = field_interval(state, &fields[1],
										  &state->retention);
}

/*
 * Name and version of a segment: is it new, or different?
 */
static void
take_version(void *arg, const LogqField *fields)
{
	CopyState  *state = arg;
	LocalSegment *local;
	NameData	name;

	if (fields[0].len < 0 || fields[0].len >= NAMEDATALEN ||
		fields[1].len != 8)
		logq_copy_bad_data(state->conn, "a segment has no name or version");
	MemSet(&name, 0, sizeof(name));
	memcpy(NameStr(name), fields[0].data, fields[0].len);
	local = hash_search(state->local, &name, HASH_FIND, NULL);
	if (local != NULL)
	{
		local->there = true;
		if (local->version == logq_decode_int64(fields[1].data))
			return;
	}
	if (state->nneeded == state->needed_size)
	{
		state->needed_size *= 2;
		state->needed = repalloc_huge(state->needed,
									  (Size) state->needed_size *
									  sizeof(NameData));
	}
	state->needed[state->nneeded++] = name;
}

/*
 * How many rows an open segment is thought to have.
 */
static void
take_estimate(void *arg, const LogqField *fields)
{
	CopyState  *state = arg;
	NameData   *name;

	if (fields[0].len < 0 || fields[0].len >= NAMEDATALEN)
		logq_copy_bad_data(state->conn, "a segment has no name");
	if (state->nopen == state->open_size)
	{
		state->open_size *= 2;
		state->open_names = repalloc_huge(state->open_names,
										  (Size) state->open_size *
										  sizeof(NameData));
		state->open_rows = repalloc_huge(state->open_rows,
										 (Size) state->open_size *
										 sizeof(float8));
	}
	name = &state->open_names[state->nopen];
	MemSet(name, 0, sizeof(NameData));
	memcpy(NameStr(*name), fields[0].data, fields[0].len);
	state->open_rows[state->nopen++] =
		DatumGetFloat8(logq_copy_datum(state->conn, &fields[1], FLOAT8OID));
}

/*
 * A segment that we need.
 */
static void
take_segment(void *arg, const LogqField *fields)
{
	CopyState  *state = arg;
	FetchedSegment *seg;
	MemoryContext old;
	int			i;

	/* the partition sends none but those asked for */
	if (state->nfetched == SEGMENTS_PER_REQUEST)
		logq_copy_bad_data(state->conn, "too many segments");
	seg = &state->fetched[state->nfetched++];
	MemSet(seg, 0, sizeof(FetchedSegment));
	memset(seg->nulls, 'n', NATTS_SEGMENT);
	old = MemoryContextSwitchTo(state->chunk_cxt);
	for (i = 0; i < NCOLUMNS; i++)
	{
		int			anum = segment_columns[i].anum;

		if (fields[i].len < 0)
		{
			if (anum <= ANUM_SEGMENT_ESTIMATED_ROWS)
				logq_copy_bad_data(state->conn, "a segment lacks a value");
			continue;
		}
		seg->values[anum - 1] = logq_copy_datum(state->conn, &fields[i],
											segment_columns[i].type);
		seg->nulls[anum - 1] = ' ';
	}
	MemoryContextSwitchTo(old);
	seg->name = NameStr(*DatumGetName(seg->values[ANUM_SEGMENT_NAME - 1]));
	seg->version = DatumGetInt64(seg->values[ANUM_SEGMENT_VERSION - 1]);
	seg->sealed = strcmp(TextDatumGetCString(seg->values[ANUM_SEGMENT_STATE - 1]),
						 "sealed") == 0;
}

/*
 * A filter of one of the segments just fetched.  Both come by name.
 */
static void
take_filter(void *arg, const LogqField *fields)
{
	CopyState  *state = arg;
	FetchedSegment *seg = NULL;
	FetchedFilter *fetched;
	MemoryContext old;
	const LogqField *filter = &fields[3];
	const LogqField *sketch = &fields[4];
	Oid			types[6] = {INT4OID, NAMEOID, TEXTOID, INT8OID, BYTEAOID, BYTEAOID};
	Datum		values[6];
	char		nulls[7] = "      ";

	if (fields[0].len < 0 || fields[1].len < 0 || fields[2].len != 8)
		logq_copy_bad_data(state->conn, "a filter lacks a value");
	while (state->next_filtered < state->nfetched)
	{
		seg = &state->fetched[state->next_filtered];
		if (strlen(seg->name) == fields[0].len &&
			memcmp(seg->name, fields[0].data, fields[0].len) == 0)
			break;
		state->next_filtered++;
	}
	if (state->next_filtered == state->nfetched || !seg->sealed)
		logq_copy_bad_data(state->conn, "a filter of another segment");

	old = MemoryContextSwitchTo(state->chunk_cxt);
	fetched = palloc0(sizeof(FetchedFilter));
	fetched->field = logq_copy_datum(state->conn, &fields[1], TEXTOID);
	fetched->nvalues = logq_decode_int64(fields[2].data);
	seg->filters = lappend(seg->filters, fetched);
	MemoryContextSwitchTo(old);

	/* of a later version, perhaps: do without */
	if (filter->len >= 0 &&
		logq_bloom_valid((const uint8 *) filter->data, filter->len))
		fetched->blocks =
			1 << logq_bloom_get_log2_blocks((const uint8 *) filter->data);
	values[0] = Int32GetDatum(state->copy.number);
	values[1] = CStringGetDatum(seg->name);
	values[2] = fetched->field;
	values[3] = Int64GetDatum(seg->version);
	if (fetched->blocks > 0)
		values[4] = logq_copy_datum(state->conn, filter, BYTEAOID);
	else
		nulls[4] = 'n';
	if (sketch->len >= 0 &&
		logq_sketch_valid((const uint8 *) sketch->data, sketch->len))
		values[5] = logq_copy_datum(state->conn, sketch, BYTEAOID);
	else
		nulls[5] = 'n';
	if (nulls[4] == 'n' && nulls[5] == 'n')
		return;
	if (state->insert_filter == NULL)
		state->insert_filter = SPI_prepare(FILTER_SQL, 6, types);
	if (state->insert_filter == NULL ||
		SPI_execute_plan(state->insert_filter, values, nulls, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", FILTER_SQL);
}

/* ---------- writing our tables ---------- */

/*
 * Run SQL that gives no rows, or of which SPI_tuptable is wanted.
 */
void
logq_copy_run(const char *sql, int nargs, Oid *types, Datum *values,
			  const char *nulls)
{
	if (SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
}

/*
 * Value of "changed" for what we change.
 */
int64
logq_copy_changed(LogqCopy *copy)
{
	if (copy->next_changed == 0)
		copy->next_changed = Max(copy->changed + 1, GetCurrentTimestamp());
	return copy->next_changed;
}

/*
 * An array of names, from..to.
 */
static Datum
name_array(const NameData *names, int n)
{
	Datum	   *elems = palloc(Max(n, 1) * sizeof(Datum));
	int			i;

	for (i = 0; i < n; i++)
		elems[i] = NameGetDatum(&names[i]);
	return PointerGetDatum(construct_array(elems, n, NAMEOID, NAMEDATALEN,
										   false, TYPALIGN_CHAR));
}

/*
 * Read our row of logq.catalog.
 */
static void
read_local(CopyState *state, bool lock)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(state->copy.number)};
	LogqCopy   *copy = &state->copy;
	TupleDesc	desc;
	HeapTuple	row;
	bool		isnull;

	if (lock)
		logq_copy_run("INSERT INTO logq.catalog (number, version, changed, deleted) "
					  "VALUES ($1, 0, 0, 0) ON CONFLICT (number) DO NOTHING",
					  1, types, values, NULL);
	logq_copy_run(lock ?
				  "SELECT version, changed, deleted, copied_at FROM logq.catalog WHERE number = $1 FOR UPDATE" :
				  "SELECT version, changed, deleted, copied_at FROM logq.catalog WHERE number = $1",
				  1, types, values, NULL);
	copy->found = SPI_processed == 1;
	if (copy->found)
	{
		desc = SPI_tuptable->tupdesc;
		row = SPI_tuptable->vals[0];
		copy->version = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		copy->changed = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		copy->deleted = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
		state->copied_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 4,
															 &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	if (lock && !copy->found)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition \"%s\" was removed meanwhile",
						copy->name)));
}

/*
 * What our table has of the partition's segments.
 */
static void
read_local_segments(CopyState *state)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(state->copy.number)};
	HASHCTL		ctl;
	uint64		i;

	ctl.keysize = sizeof(NameData);
	ctl.entrysize = sizeof(LocalSegment);
	ctl.hcxt = CurrentMemoryContext;
	state->local = hash_create("logq segments", 256, &ctl,
							   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	logq_copy_run("SELECT name, version FROM logq.catalog_segment WHERE number = $1",
				  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		LocalSegment *local;
		bool		isnull;

		local = hash_search(state->local,
							NameStr(*DatumGetName(SPI_getbinval(row, desc, 1,
																&isnull))),
							HASH_ENTER, NULL);
		local->version = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		local->there = false;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Write a segment that was fetched.
 */
static void
write_segment(CopyState *state, FetchedSegment *seg)
{
	int			n = list_length(seg->filters);
	Datum	   *fields = palloc(Max(n, 1) * sizeof(Datum));
	Datum	   *nvalues = palloc(Max(n, 1) * sizeof(Datum));
	Datum	   *blocks = palloc(Max(n, 1) * sizeof(Datum));
	Datum	   *zeros = palloc0(Max(n, 1) * sizeof(Datum));
	ListCell   *lc;
	int			i = 0;

	seg->values[ANUM_SEGMENT_NUMBER - 1] = Int32GetDatum(state->copy.number);
	seg->values[ANUM_SEGMENT_CHANGED - 1] =
		Int64GetDatum(logq_copy_changed(&state->copy));
	seg->nulls[ANUM_SEGMENT_NUMBER - 1] = ' ';
	seg->nulls[ANUM_SEGMENT_CHANGED - 1] = ' ';
	if (n > 0)
	{
		foreach(lc, seg->filters)
		{
			FetchedFilter *filter = lfirst(lc);

			fields[i] = filter->field;
			nvalues[i] = Int64GetDatum(filter->nvalues);
			blocks[i] = Int32GetDatum(filter->blocks);
			i++;
		}
		seg->values[ANUM_SEGMENT_FILTER_FIELDS - 1] =
			PointerGetDatum(construct_array(fields, n, TEXTOID, -1, false,
											TYPALIGN_INT));
		seg->values[ANUM_SEGMENT_FILTER_VALUES - 1] =
			PointerGetDatum(construct_array(nvalues, n, INT8OID, 8,
											FLOAT8PASSBYVAL,
											TYPALIGN_DOUBLE));
		seg->values[ANUM_SEGMENT_FILTER_BLOCKS - 1] =
			PointerGetDatum(construct_array(blocks, n, INT4OID, 4, true,
											TYPALIGN_INT));
		seg->values[ANUM_SEGMENT_FILTER_GROUPS - 1] =
			seg->values[ANUM_SEGMENT_FILTER_SLOTS - 1] =
			PointerGetDatum(construct_array(zeros, n, INT4OID, 4, true,
											TYPALIGN_INT));
		for (i = ANUM_SEGMENT_FILTER_FIELDS; i <= ANUM_SEGMENT_FILTER_SLOTS; i++)
			seg->nulls[i - 1] = ' ';
	}
	if (state->upsert == NULL)
		state->upsert = SPI_prepare(UPSERT_SQL, NATTS_SEGMENT,
									segment_types);
	if (state->upsert == NULL ||
		SPI_execute_plan(state->upsert, seg->values, seg->nulls, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", UPSERT_SQL);
}

/*
 * Fetch some of the segments that are needed, and put them in our tables.
 */
static void
fetch_segments(CopyState *state, const NameData *names, int n)
{
	static const LogqRemoteCopy copies[2] = {
		{NCOLUMNS, take_segment}, {FILTER_COLUMNS, take_filter}
	};
	MemoryContext old = MemoryContextSwitchTo(state->chunk_cxt);
	Oid			types[2] = {INT4OID, NAMEARRAYOID};
	Datum		values[2];
	StringInfoData list;
	StringInfoData sql;
	int			i;

	values[0] = Int32GetDatum(state->copy.number);
	values[1] = name_array(names, n);
	logq_groups_note(&state->copy, values[1]);
	logq_copy_run("DELETE FROM logq.catalog_filter WHERE number = $1 AND segment = ANY ($2)",
				  2, types, values, NULL);

	initStringInfo(&list);
	for (i = 0; i < n; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "",
						 quote_literal_cstr(NameStr(names[i])));
	initStringInfo(&sql);
	appendStringInfoString(&sql, "COPY (SELECT ");
	for (i = 0; i < NCOLUMNS; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "",
						 segment_columns[i].sql);
	appendStringInfo(&sql, FROM_SEGMENT_SQL
					 "WHERE s.name IN (%s) ORDER BY s.name) "
					 "TO STDOUT (FORMAT binary); "
					 "COPY (SELECT f.segment, f.field, f.distinct_values, f.filter, f.sketch "
					 "FROM " LOGQ_STORE_SCHEMA ".filter f "
					 "JOIN " LOGQ_STORE_SCHEMA ".segment s ON s.name = f.segment "
					 "WHERE f.segment IN (%s) AND s.state = 'sealed' "
					 "ORDER BY f.segment, f.field) TO STDOUT (FORMAT binary)",
					 list.data, list.data);

	state->nfetched = state->next_filtered = 0;
	state->fetched = palloc(SEGMENTS_PER_REQUEST * sizeof(FetchedSegment));
	(void) logq_copy_ask(state->conn, sql.data, 2, copies, state);
	if (state->nfetched != n)
		logq_copy_bad_data(state->conn, "a segment has gone within a transaction");
	for (i = 0; i < n; i++)
		write_segment(state, &state->fetched[i]);
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->chunk_cxt);
}

/*
 * Forget segments that the partition does not have any more.  Returns how
 * many.
 */
static int
delete_segments(CopyState *state)
{
	HASH_SEQ_STATUS status;
	LocalSegment *local;
	NameData   *names;
	int			n = 0;
	Oid			types[2] = {INT4OID, NAMEARRAYOID};
	Datum		values[2];

	names = palloc_extended((hash_get_num_entries(state->local) + 1) *
							sizeof(NameData), MCXT_ALLOC_HUGE);
	hash_seq_init(&status, state->local);
	while ((local = hash_seq_search(&status)) != NULL)
		if (!local->there)
			names[n++] = local->name;
	if (n == 0)
		return 0;
	values[0] = Int32GetDatum(state->copy.number);
	values[1] = name_array(names, n);
	logq_groups_note(&state->copy, values[1]);
	logq_copy_run("DELETE FROM logq.catalog_filter WHERE number = $1 AND segment = ANY ($2)",
				  2, types, values, NULL);
	logq_copy_run("DELETE FROM logq.catalog_segment WHERE number = $1 AND name = ANY ($2)",
				  2, types, values, NULL);
	state->copy.deleted = logq_copy_changed(&state->copy);
	return n;
}

/*
 * Bring estimates of open segments up to date, where they are far off.
 */
static void
refresh_estimates(CopyState *state)
{
	static const LogqRemoteCopy copies[1] = {{2, take_estimate}};
	Oid			types[3] = {INT4OID, NAMEARRAYOID, FLOAT8ARRAYOID};
	Datum		values[3];
	Datum	   *estimates;
	int			i;

	state->open_size = 16;
	state->open_names = palloc(state->open_size * sizeof(NameData));
	state->open_rows = palloc(state->open_size * sizeof(float8));
	(void) logq_copy_ask(state->conn,
						 "COPY (SELECT s.name, " ESTIMATE_SQL FROM_SEGMENT_SQL
						 "WHERE s.state = 'open') TO STDOUT (FORMAT binary)",
						 1, copies, state);
	if (state->nopen == 0)
		return;
	estimates = palloc(state->nopen * sizeof(Datum));
	for (i = 0; i < state->nopen; i++)
		estimates[i] = Float8GetDatum(state->open_rows[i]);
	values[0] = Int32GetDatum(state->copy.number);
	values[1] = name_array(state->open_names, state->nopen);
	values[2] = PointerGetDatum(construct_array(estimates,
												state->nopen, FLOAT8OID, 8,
												FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	logq_copy_run("SELECT FROM logq.catalog_segment s, unnest($2, $3) AS u(name, rows) "
				  "WHERE s.number = $1 AND s.name = u.name AND s.state = 'open' "
				  "AND abs(s.estimated_rows - u.rows) > 0.1 * abs(u.rows) LIMIT 1",
				  3, types, values, NULL);
	if (SPI_processed == 0)
		return;
	(void) logq_copy_changed(&state->copy);
	logq_copy_run(psprintf("UPDATE logq.catalog_segment s "
						   "SET estimated_rows = u.rows, changed = " INT64_FORMAT
						   " FROM unnest($2, $3) AS u(name, rows) "
						   "WHERE s.number = $1 AND s.name = u.name AND s.state = 'open' "
						   "AND abs(s.estimated_rows - u.rows) > 0.1 * abs(u.rows)",
						   logq_copy_changed(&state->copy)),
				  3, types, values, NULL);
}

/*
 * Write our row of logq.catalog.
 */
static void
write_local(CopyState *state)
{
	LogqCopy   *copy = &state->copy;
	Oid			types[6] = {INT4OID, INT8OID, INT8OID, INT8OID, INTERVALOID,
	INTERVALOID};
	Datum		values[6];
	char		nulls[7] = "      ";

	if (copy->next_changed != 0)
		copy->changed = copy->next_changed;
	values[0] = Int32GetDatum(copy->number);
	values[1] = Int64GetDatum(copy->version);
	values[2] = Int64GetDatum(copy->changed);
	values[3] = Int64GetDatum(copy->deleted);
	values[4] = IntervalPGetDatum(&state->interval);
	values[5] = IntervalPGetDatum(&state->retention);
	nulls[4] = state->has_interval ? ' ' : 'n';
	nulls[5] = state->has_retention ? ' ' : 'n';
	logq_copy_run("UPDATE logq.catalog SET version = $2, changed = $3, deleted = $4, "
				  "segment_interval = $5, retention = $6, "
				  "copied_at = pg_catalog.clock_timestamp() WHERE number = $1",
				  6, types, values, nulls);
}

#define STORE_SQL \
	"SELECT version FROM " LOGQ_STORE_SCHEMA ".catalog_version; " \
	"COPY (SELECT segment_interval, retention FROM " LOGQ_STORE_SCHEMA ".store) " \
	"TO STDOUT (FORMAT binary)"

/*
 * Read the partition's version and store.
 */
static void
read_store(CopyState *state, const char *sql)
{
	static const LogqRemoteCopy copies[1] = {{2, take_store}};

	state->remote_version = logq_copy_ask(state->conn, sql, 1, copies, state);
	if (state->remote_version < 0)
		logq_copy_bad_data(state->conn, "it has no version");
}

/*
 * Does our row of logq.catalog have the store's settings?
 */
static bool
same_store(CopyState *state)
{
	Oid			types[3] = {INT4OID, INTERVALOID, INTERVALOID};
	Datum		values[3];
	char		nulls[4] = "   ";
	bool		same;

	values[0] = Int32GetDatum(state->copy.number);
	values[1] = IntervalPGetDatum(&state->interval);
	values[2] = IntervalPGetDatum(&state->retention);
	nulls[1] = state->has_interval ? ' ' : 'n';
	nulls[2] = state->has_retention ? ' ' : 'n';
	logq_copy_run("SELECT FROM logq.catalog WHERE number = $1 "
				  "AND segment_interval IS NOT DISTINCT FROM $2 "
				  "AND retention IS NOT DISTINCT FROM $3",
				  3, types, values, nulls);
	same = SPI_processed == 1;
	SPI_freetuptable(SPI_tuptable);
	return same;
}

/*
 * Make the copy.  Runs within SPI, as the owner of the tables.  Returns how
 * many segments have changed.
 */
static int
copy_catalog(CopyState *state, LogqPartition *part)
{
	static const LogqRemoteCopy copies[1] = {{2, take_version}};
	LogqCopy   *copy = &state->copy;
	TimestampTz asked_at = logq_now();
	TimestampTz now = GetCurrentTimestamp();
	int			ndeleted;
	int			i;

	/* most of the time nothing has changed, and nothing is locked */
	read_local(state, false);
	read_store(state, STORE_SQL);
	if (copy->found && copy->version == state->remote_version &&
		(XactReadOnly ||
		 (same_store(state) && !logq_groups_wanted(copy->number) &&
		  state->copied_at <= now &&
		  !TimestampDifferenceExceeds(state->copied_at, now, ESTIMATES_MS))))
	{
		part->groups_left = false;
		logq_copy_publish(part, copy->version, copy->changed, asked_at);
		return 0;
	}

	read_local(state, true);
	asked_at = logq_now();
	read_store(state, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
			   STORE_SQL);
	ndeleted = 0;
	if (copy->version != state->remote_version)
	{
		read_local_segments(state);
		state->needed_size = 64;
		state->needed = palloc(state->needed_size * sizeof(NameData));
		(void) logq_copy_ask(state->conn, "COPY (SELECT name, version FROM "
							 LOGQ_STORE_SCHEMA ".segment) TO STDOUT (FORMAT binary)",
							 1, copies, state);
		/* first what is gone: another may have its bounds */
		ndeleted = delete_segments(state);
		for (i = 0; i < state->nneeded; i += SEGMENTS_PER_REQUEST)
			fetch_segments(state, state->needed + i,
						   Min(SEGMENTS_PER_REQUEST, state->nneeded - i));
		/* a new version is a change by itself */
		(void) logq_copy_changed(copy);
		copy->version = state->remote_version;
		/* the first copy: whatever anybody has seen before is gone */
		if (copy->deleted == 0)
			copy->deleted = logq_copy_changed(copy);
	}
	refresh_estimates(state);
	(void) logq_copy_ask(state->conn, "COMMIT", 0, NULL, NULL);
	logq_groups_shrink(copy);
	part->groups_left = logq_groups_build(copy);
	write_local(state);
	logq_copy_publish(part, copy->version, copy->changed, asked_at);
	return state->nneeded + ndeleted;
}

/*
 * Owner of the tables.
 */
static Oid
tables_owner(void)
{
	Oid			relid = logq_relation_oid("catalog");
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"logq.catalog\" does not exist"),
				 errhint("Run CREATE EXTENSION logq in this database.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Bring the tables up to date with a partition.
 */
int
logq_copy_catalog(LogqPartition *part, LogqConn *conn)
{
	Oid			owner = tables_owner();
	Oid			save_user;
	int			save_context;
	int			save_nestlevel;
	bool		pushed = false;
	volatile int nchanged = 0;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(owner, save_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	/* an error's rollback undoes this */
	save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	PG_TRY();
	{
		CopyState	state;

		if (!ActiveSnapshotSet())
		{
			PushActiveSnapshot(GetTransactionSnapshot());
			pushed = true;
		}
		SPI_connect();
		MemSet(&state, 0, sizeof(state));
		state.copy.number = part->number;
		state.copy.name = part->name;
		state.copy.cxt = CurrentMemoryContext;
		state.conn = conn;
		state.chunk_cxt = AllocSetContextCreate(CurrentMemoryContext,
												"logq catalog segments",
												ALLOCSET_DEFAULT_SIZES);
		nchanged = copy_catalog(&state, part);
		SPI_finish();
		if (pushed)
			PopActiveSnapshot();
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(save_user, save_context);
	}
	PG_END_TRY();
	AtEOXact_GUC(false, save_nestlevel);
	return nchanged;
}

/*
 * Are there filters left that can be put in groups?
 */
bool
logq_copy_unfinished(const LogqPartition *part)
{
	return part->groups_left;
}
