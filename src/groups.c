/*-------------------------------------------------------------------------
 *
 * groups.c
 *		Puts filters of the coordinator's tables in groups, and takes them
 *		out again.
 *
 * When a partition has LOGQ_GROUP_SIZE filters of one field, and of about the
 * same size, that stand by themselves, the oldest of them become a group:
 * one row for each block of the largest, with the block that each filter has
 * for the same hashes (probe.c).  Of a filter that is smaller by 2^k each
 * block stands in 2^k rows in a row, so it can be had back exactly.
 *
 * Invariants: rows of a group never change, and each group gets a new number.
 * A segment that is sealed again or dropped leaves its slot behind; a group
 * with fewer live slots than dead ones is dissolved, one with none deleted.
 *
 * Everything here is part of the copy that copy.c makes, in its transaction.
 * One call does only so much, the next one goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copy.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "sketch.h"

/* bytes of groups that one call writes before it stops */
#define MAX_BYTES_PER_CALL (64 * 1024 * 1024)
/* groups whose filters are looked up at once */
#define MAX_GROUPS_PER_QUERY 128
/* rows of a group that are written at once */
#define ROWS_PER_INSERT 256
/* filters of a group differ in size by less than 2 to the power of this */
#define SIZE_CLASS_LOG2 3

/* Filters of one field and size that stand by themselves */
typedef struct Candidates
{
	char	   *field;
	int			size_class;
	int			count;
} Candidates;

/* One filter that becomes a member of a group */
typedef struct Member
{
	Datum		filter;			/* not detoasted */
	int			log2_blocks;
} Member;

/*
 * log2 of a number of blocks, which is a power of two.
 */
static int
log2_of_blocks(int64 blocks)
{
	int			log2_blocks = 0;

	while ((INT64CONST(1) << (log2_blocks + 1)) <= blocks)
		log2_blocks++;
	return log2_blocks;
}

/*
 * The same of a filter of this many bytes.
 */
static int
filter_log2(int32 bytes)
{
	return log2_of_blocks((bytes - LOGQ_BLOOM_HEADER) / LOGQ_BLOOM_BLOCK);
}

/*
 * Column of a row that SPI gave.
 */
static Datum
spi_value(uint64 row, int column)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, &isnull);
}

/* ---------- groups that lose members ---------- */

/*
 * These segments are about to change: note the groups they are in.
 */
void
logq_groups_note(LogqCopy *copy, Datum names)
{
	Oid			types[2] = {INT4OID, NAMEARRAYOID};
	Datum		values[2] = {Int32GetDatum(copy->number), names};
	MemoryContext old;
	uint64		i;

	logq_copy_run("SELECT DISTINCT f.grp, f.field FROM logq.catalog_segment s, "
				  "unnest(s.filter_groups, s.filter_fields) AS f(grp, field) "
				  "WHERE s.number = $1 AND s.name = ANY ($2) AND f.grp > 0",
				  2, types, values, NULL);
	old = MemoryContextSwitchTo(copy->cxt);
	for (i = 0; i < SPI_processed; i++)
	{
		int32		group = DatumGetInt32(spi_value(i, 1));
		LogqGroupRef *ref;
		ListCell   *lc;
		bool		known = false;

		foreach(lc, copy->shrunk)
			if (((LogqGroupRef *) lfirst(lc))->group == group)
				known = true;
		if (known)
			continue;
		ref = palloc(sizeof(LogqGroupRef));
		ref->group = group;
		ref->field = TextDatumGetCString(spi_value(i, 2));
		copy->shrunk = lappend(copy->shrunk, ref);
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Delete all rows of a group.
 */
static void
delete_group(LogqCopy *copy, const LogqGroupRef *ref)
{
	Oid			types[3] = {INT4OID, TEXTOID, INT4OID};
	Datum		values[3];

	values[0] = Int32GetDatum(copy->number);
	values[1] = CStringGetTextDatum(ref->field);
	values[2] = Int32GetDatum(ref->group);
	logq_copy_run("DELETE FROM logq.catalog_filter_group "
				  "WHERE number = $1 AND field = $2 AND \"group\" = $3",
				  3, types, values, NULL);
}

/*
 * Take the filter of one slot out of its group again.  The blocks of a filter
 * that is smaller than the group are every 2^k-th there.
 */
static void
extract_filter(LogqCopy *copy, const LogqGroupRef *ref, Datum segment,
			   Datum version, int slot, int64 nvalues, int log2_blocks,
			   int group_log2)
{
	Oid			types[7] = {INT4OID, NAMEOID, TEXTOID, INT8OID, INT4OID,
	INT4OID, INT4OID};
	Datum		values[7];
	Oid			store_types[5] = {INT4OID, NAMEOID, TEXTOID, INT8OID, BYTEAOID};
	size_t		size = logq_bloom_size(log2_blocks);
	bytea	   *filter = palloc(VARHDRSZ + size);
	bytea	   *body;
	bool		isnull;

	values[0] = Int32GetDatum(copy->number);
	values[1] = segment;
	values[2] = CStringGetTextDatum(ref->field);
	values[3] = version;
	values[4] = Int32GetDatum(ref->group);
	values[5] = Int32GetDatum(slot * LOGQ_BLOOM_BLOCK + 1);
	values[6] = Int32GetDatum(1 << (group_log2 - log2_blocks));
	logq_copy_run("SELECT string_agg(substr(data, $6, 32), ''::bytea ORDER BY block) "
				  "FROM logq.catalog_filter_group "
				  "WHERE number = $1 AND field = $3 AND \"group\" = $5 AND block % $7 = 0",
				  7, types, values, NULL);
	body = (bytea *) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[0],
												   SPI_tuptable->tupdesc, 1,
												   &isnull));
	body = isnull ? NULL : DatumGetByteaPP(PointerGetDatum(body));
	if (body == NULL ||
		VARSIZE_ANY_EXHDR(body) != size - LOGQ_BLOOM_HEADER)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("group %d of table \"logq.catalog_filter_group\" lacks rows",
						ref->group),
				 errhint("Delete the row of partition %d from \"logq.catalog\" and run SELECT logq.refresh_catalog().",
						 copy->number)));
	SET_VARSIZE(filter, VARHDRSZ + size);
	logq_bloom_init((uint8 *) VARDATA(filter), log2_blocks, nvalues);
	memcpy(VARDATA(filter) + LOGQ_BLOOM_HEADER, VARDATA_ANY(body),
		   size - LOGQ_BLOOM_HEADER);
	SPI_freetuptable(SPI_tuptable);
	values[4] = PointerGetDatum(filter);
	logq_copy_run("INSERT INTO logq.catalog_filter (number, segment, field, version, filter) "
				  "VALUES ($1, $2, $3, $4, $5) "
				  "ON CONFLICT (number, segment, field) DO UPDATE SET filter = $5",
				  5, store_types, values, NULL);
	pfree(filter);
}

/*
 * Let the filters of some segments stand by themselves, or in a group: the
 * slots are those in $4.
 */
static void
set_places(LogqCopy *copy, const char *field, int32 group, Datum names,
		   Datum slots)
{
	Oid			types[6] = {INT4OID, TEXTOID, INT4OID, NAMEARRAYOID,
	INT4ARRAYOID, INT8OID};
	Datum		values[6];

	values[0] = Int32GetDatum(copy->number);
	values[1] = CStringGetTextDatum(field);
	values[2] = Int32GetDatum(group);
	values[3] = names;
	values[4] = slots;
	values[5] = Int64GetDatum(logq_copy_changed(copy));
	logq_copy_run("UPDATE logq.catalog_segment s SET changed = $6, "
				  "filter_groups[array_position(s.filter_fields, $2)] = $3, "
				  "filter_slots[array_position(s.filter_fields, $2)] = u.slot "
				  "FROM unnest($4, $5) AS u(name, slot) "
				  "WHERE s.number = $1 AND s.name = u.name "
				  "AND array_position(s.filter_fields, $2) IS NOT NULL",
				  6, types, values, NULL);
}

/*
 * A group has lost members: see what is left of it.
 */
static void
shrink_group(LogqCopy *copy, const LogqGroupRef *ref)
{
	Oid			types[3] = {INT4OID, TEXTOID, INT4OID};
	Datum		values[3];
	SPITupleTable *live;
	Datum		names[LOGQ_GROUP_SIZE];
	Datum		zeros[LOGQ_GROUP_SIZE];
	uint64		nlive;
	uint64		i;
	int			group_log2;

	values[0] = Int32GetDatum(copy->number);
	values[1] = CStringGetTextDatum(ref->field);
	values[2] = Int32GetDatum(ref->group);
	logq_copy_run("SELECT s.name, s.version, f.slot, f.n, f.blocks "
				  "FROM logq.catalog_segment s, "
				  "unnest(s.filter_fields, s.filter_groups, s.filter_slots, s.filter_values, s.filter_blocks) "
				  "AS f(field, grp, slot, n, blocks) "
				  "WHERE s.number = $1 AND s.filter_groups @> ARRAY[$3] "
				  "AND f.grp = $3 AND f.field = $2 AND f.blocks > 0",
				  3, types, values, NULL);
	live = SPI_tuptable;
	nlive = SPI_processed;
	if (nlive * 2 >= LOGQ_GROUP_SIZE)
	{
		SPI_freetuptable(live);
		return;
	}
	if (nlive > 0)
	{
		logq_copy_run("SELECT max(block) + 1 FROM logq.catalog_filter_group "
					  "WHERE number = $1 AND field = $2 AND \"group\" = $3",
					  3, types, values, NULL);
		group_log2 = log2_of_blocks(DatumGetInt32(spi_value(0, 1)));
		SPI_freetuptable(SPI_tuptable);
		for (i = 0; i < nlive; i++)
		{
			TupleDesc	desc = live->tupdesc;
			HeapTuple	row = live->vals[i];
			bool		isnull;

			CHECK_FOR_INTERRUPTS();
			names[i] = SPI_getbinval(row, desc, 1, &isnull);
			zeros[i] = Int32GetDatum(0);
			extract_filter(copy, ref, names[i],
						   SPI_getbinval(row, desc, 2, &isnull),
						   DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull)),
						   DatumGetInt64(SPI_getbinval(row, desc, 4, &isnull)),
						   log2_of_blocks(DatumGetInt32(SPI_getbinval(row, desc, 5,
																	  &isnull))),
						   group_log2);
		}
		set_places(copy, ref->field, 0,
				   PointerGetDatum(construct_array(names, nlive, NAMEOID,
												   NAMEDATALEN, false,
												   TYPALIGN_CHAR)),
				   PointerGetDatum(construct_array(zeros, nlive, INT4OID, 4,
												   true, TYPALIGN_INT)));
	}
	SPI_freetuptable(live);
	delete_group(copy, ref);
}

/*
 * See to all groups that have lost members.
 */
void
logq_groups_shrink(LogqCopy *copy)
{
	ListCell   *lc;

	foreach(lc, copy->shrunk)
		shrink_group(copy, lfirst(lc));
	copy->shrunk = NIL;
}

/* ---------- new groups ---------- */

/*
 * Filters that stand by themselves, counted by field and size.  An index has
 * only these, so this is cheap once most are in groups.
 */
static List *
find_candidates(int32 number)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(number)};
	MemoryContext cxt = CurrentMemoryContext;
	List	   *list = NIL;
	ListCell   *lc;
	uint64		i;

	logq_copy_run("SELECT field, octet_length(filter), count(*) FROM logq.catalog_filter "
				  "WHERE number = $1 AND filter IS NOT NULL GROUP BY 1, 2",
				  1, types, values, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		char	   *field = TextDatumGetCString(spi_value(i, 1));
		int			size_class = filter_log2(DatumGetInt32(spi_value(i, 2))) /
			SIZE_CLASS_LOG2;
		Candidates *candidates = NULL;

		foreach(lc, list)
		{
			Candidates *other = lfirst(lc);

			if (other->size_class == size_class &&
				strcmp(other->field, field) == 0)
				candidates = other;
		}
		if (candidates == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(cxt);

			candidates = palloc(sizeof(Candidates));
			candidates->field = pstrdup(field);
			candidates->size_class = size_class;
			candidates->count = 0;
			list = lappend(list, candidates);
			MemoryContextSwitchTo(old);
		}
		candidates->count += DatumGetInt64(spi_value(i, 3));
	}
	SPI_freetuptable(SPI_tuptable);
	return list;
}

/*
 * Are there filters enough for a group?
 */
bool
logq_groups_wanted(int32 number)
{
	ListCell   *lc;

	foreach(lc, find_candidates(number))
		if (((Candidates *) lfirst(lc))->count >= LOGQ_GROUP_SIZE)
			return true;
	return false;
}

/*
 * Write the rows of a group.  Filters are read by slices, as they may be
 * large.
 */
static void
write_group(LogqCopy *copy, const char *field, int32 group,
			const Member *members, int log2_blocks, SPIPlanPtr insert)
{
	int			nblocks = 1 << log2_blocks;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext,
											  "logq group",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	int			first;
	int			i;
	int			slot;

	for (first = 0; first < nblocks; first += ROWS_PER_INSERT)
	{
		int			n = Min(ROWS_PER_INSERT, nblocks - first);
		Size		size = VARHDRSZ + LOGQ_GROUP_SIZE * LOGQ_BLOOM_BLOCK;
		Datum		blocks[ROWS_PER_INSERT];
		Datum		rows[ROWS_PER_INSERT];
		Datum		values[5];

		CHECK_FOR_INTERRUPTS();
		for (i = 0; i < n; i++)
		{
			blocks[i] = Int32GetDatum(first + i);
			rows[i] = PointerGetDatum(palloc(size));
			SET_VARSIZE(DatumGetPointer(rows[i]), size);
		}
		for (slot = 0; slot < LOGQ_GROUP_SIZE; slot++)
		{
			int			shift = log2_blocks - members[slot].log2_blocks;
			int			from = first >> shift;
			int			to = (first + n - 1) >> shift;
			bytea	   *slice;

			slice = DatumGetByteaPSlice(members[slot].filter,
										LOGQ_BLOOM_HEADER +
										from * LOGQ_BLOOM_BLOCK,
										(to - from + 1) * LOGQ_BLOOM_BLOCK);
			if (VARSIZE_ANY_EXHDR(slice) != (to - from + 1) * LOGQ_BLOOM_BLOCK)
				elog(ERROR, "a filter is too short");
			for (i = 0; i < n; i++)
				memcpy(VARDATA(DatumGetPointer(rows[i])) +
					   slot * LOGQ_BLOOM_BLOCK,
					   VARDATA_ANY(slice) +
					   (((first + i) >> shift) - from) * LOGQ_BLOOM_BLOCK,
					   LOGQ_BLOOM_BLOCK);
			pfree(slice);
		}
		values[0] = Int32GetDatum(copy->number);
		values[1] = CStringGetTextDatum(field);
		values[2] = Int32GetDatum(group);
		values[3] = PointerGetDatum(construct_array(blocks, n, INT4OID, 4,
													true, TYPALIGN_INT));
		values[4] = PointerGetDatum(construct_array(rows, n, BYTEAOID, -1,
													false, TYPALIGN_INT));
		if (SPI_execute_plan(insert, values, NULL, false, 0) < 0)
			elog(ERROR, "could not write a group of filters");
		MemoryContextReset(cxt);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

/*
 * Build a group of filters that SPI gave, from this row on.  Returns how many
 * bytes that were.
 */
static int64
build_group(LogqCopy *copy, const char *field, SPITupleTable *rows,
			uint64 first, SPIPlanPtr insert)
{
	Oid			types[3] = {INT4OID, TEXTOID, NAMEARRAYOID};
	Datum		values[3];
	Member		members[LOGQ_GROUP_SIZE];
	Datum		names[LOGQ_GROUP_SIZE];
	Datum		slots[LOGQ_GROUP_SIZE];
	int			log2_blocks = 0;
	int32		group;
	int			i;

	for (i = 0; i < LOGQ_GROUP_SIZE; i++)
	{
		HeapTuple	row = rows->vals[first + i];
		bool		isnull;

		names[i] = SPI_getbinval(row, rows->tupdesc, 1, &isnull);
		slots[i] = Int32GetDatum(i);
		members[i].log2_blocks =
			filter_log2(DatumGetInt32(SPI_getbinval(row, rows->tupdesc, 2,
													&isnull)));
		members[i].filter = SPI_getbinval(row, rows->tupdesc, 3, &isnull);
		log2_blocks = Max(log2_blocks, members[i].log2_blocks);
	}
	logq_copy_run("SELECT pg_catalog.nextval('logq.catalog_group_number')::int4",
				  0, NULL, NULL, NULL);
	group = DatumGetInt32(spi_value(0, 1));
	SPI_freetuptable(SPI_tuptable);

	write_group(copy, field, group, members, log2_blocks, insert);

	values[0] = Int32GetDatum(copy->number);
	values[1] = CStringGetTextDatum(field);
	values[2] = PointerGetDatum(construct_array(names, LOGQ_GROUP_SIZE,
												NAMEOID, NAMEDATALEN, false,
												TYPALIGN_CHAR));
	set_places(copy, field, group, values[2],
			   PointerGetDatum(construct_array(slots, LOGQ_GROUP_SIZE,
											   INT4OID, 4, true,
											   TYPALIGN_INT)));
	logq_copy_run("DELETE FROM logq.catalog_filter WHERE number = $1 AND field = $2 "
				  "AND segment = ANY ($3) AND sketch IS NULL",
				  3, types, values, NULL);
	logq_copy_run("UPDATE logq.catalog_filter SET filter = NULL "
				  "WHERE number = $1 AND field = $2 AND segment = ANY ($3)",
				  3, types, values, NULL);
	return (int64) LOGQ_GROUP_SIZE * LOGQ_BLOOM_BLOCK << log2_blocks;
}

/*
 * Build groups of the oldest candidates, as many as may be.  Returns how many
 * bytes that were, 0 when there are not enough after all.
 */
static int64
build_groups(LogqCopy *copy, const Candidates *candidates, int64 max_bytes,
			 SPIPlanPtr insert)
{
	Oid			types[5] = {INT4OID, TEXTOID, INT8OID, INT8OID, INT8OID};
	Datum		values[5];
	int			low = candidates->size_class * SIZE_CLASS_LOG2;
	SPITupleTable *rows;
	uint64		nrows;
	uint64		first;
	int64		bytes = 0;

	values[0] = Int32GetDatum(copy->number);
	values[1] = CStringGetTextDatum(candidates->field);
	values[2] = Int64GetDatum(logq_bloom_size(low));
	values[3] = Int64GetDatum(logq_bloom_size(low + SIZE_CLASS_LOG2 - 1));
	values[4] = Int64GetDatum(Min(candidates->count / LOGQ_GROUP_SIZE,
								  MAX_GROUPS_PER_QUERY) * LOGQ_GROUP_SIZE);
	logq_copy_run("SELECT f.segment, octet_length(f.filter), f.filter "
				  "FROM logq.catalog_filter f JOIN logq.catalog_segment s "
				  "ON s.number = f.number AND s.name = f.segment "
				  "WHERE f.number = $1 AND f.field = $2 AND f.filter IS NOT NULL "
				  "AND octet_length(f.filter) BETWEEN $3 AND $4 "
				  "AND s.state = 'sealed' AND s.version = f.version "
				  "ORDER BY s.lower LIMIT $5",
				  5, types, values, NULL);
	rows = SPI_tuptable;
	nrows = SPI_processed;
	for (first = 0; first + LOGQ_GROUP_SIZE <= nrows && bytes < max_bytes;
		 first += LOGQ_GROUP_SIZE)
		bytes += build_group(copy, candidates->field, rows, first, insert);
	SPI_freetuptable(rows);
	return bytes;
}

/*
 * Build groups, as long as that is not too much for one transaction.
 */
bool
logq_groups_build(LogqCopy *copy)
{
	Oid			types[5] = {INT4OID, TEXTOID, INT4OID, INT4ARRAYOID,
	BYTEAARRAYOID};
	SPIPlanPtr	insert = NULL;
	int64		written = 0;
	ListCell   *lc;

	foreach(lc, find_candidates(copy->number))
	{
		Candidates *candidates = lfirst(lc);
		int64		bytes;

		if (candidates->count < LOGQ_GROUP_SIZE)
			continue;
		if (written >= MAX_BYTES_PER_CALL)
			return true;
		if (insert == NULL)
			insert = SPI_prepare("INSERT INTO logq.catalog_filter_group (number, field, \"group\", block, data) "
								 "SELECT $1, $2, $3, u.block, u.data "
								 "FROM unnest($4, $5) AS u(block, data)",
								 5, types);
		if (insert == NULL)
			elog(ERROR, "could not prepare the writing of groups");
		bytes = build_groups(copy, candidates, MAX_BYTES_PER_CALL - written,
							 insert);
		written += bytes;
	}
	/* one that was cut short shows as candidates of the next call */
	return written > 0 && logq_groups_wanted(copy->number);
}
