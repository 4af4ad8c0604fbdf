/*-------------------------------------------------------------------------
 *
 * counts.c
 *		Exact numbers of rows of sealed segments, by level and service.
 *
 * Sealing has counted them, so a query that wants no more than that needs no
 * partition.  Numbers by level, or by service, are in this backend's memory;
 * those by both are only in logq.catalog_segment, as is what did not fit into
 * logq.catalog_memory, or into the four bytes that a number has there.
 *
 * Invariants: what is given belongs to the version of the segment that the
 * caller's copy has, and adds up to the segment's rows; else nothing is given,
 * and the partition must be asked.  So a table that is older or newer than our
 * copy, or is damaged, costs time and nothing else.
 *
 * Failure cases: relation, index, snapshot and scan belong to the current
 * resource owner, and memory to the context in which the counting began: an
 * error leaves nothing.  Without the table (the extension is being dropped)
 * nothing is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "counts.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "contents.h"
#include "lookup.h"

/* up to here, a double holds any number of rows exactly */
#define MAX_EXACT_ROWS ((double) (INT64CONST(1) << 53))

struct LogqCounts
{
	MemoryContext cxt;			/* holds the scan */
	MemoryContext scratch;		/* for each segment */
	Snapshot	snapshot;		/* NULL: the table was not opened yet */
	LogqLookup	lookup;
	NameData	segment;		/* that is looked up */
};

/* Rows of a segment */
typedef struct Cells
{
	int			nlevels;
	char	  **levels;
	int			nservices;
	char	  **services;
	const int64 *rows;			/* service by service, of each level */
} Cells;

/* what was not asked for has one value for all rows */
static char *nothing[1] = {NULL};

/* See counts.h. */
LogqCounts *
logq_counts_begin(void)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext,
											  "logq counts",
											  ALLOCSET_SMALL_SIZES);
	LogqCounts *counts = MemoryContextAllocZero(cxt, sizeof(LogqCounts));

	counts->cxt = cxt;
	counts->scratch = AllocSetContextCreate(cxt, "logq counts of a segment",
											ALLOCSET_DEFAULT_SIZES);
	return counts;
}

/* See counts.h. */
void
logq_counts_end(LogqCounts *counts)
{
	logq_lookup_close(&counts->lookup);
	if (counts->snapshot != NULL)
		UnregisterSnapshot(counts->snapshot);
	MemoryContextDelete(counts->cxt);
}

/* ---------- from memory ---------- */

/*
 * Levels of a content, and their rows; false: not all of that is known.
 */
static bool
content_levels(const LogqPartition *part, const LogqContent *content,
			   Cells *cells)
{
	int			n = pg_popcount64(content->levels);
	uint64		levels = content->levels;
	int64	   *rows;

	if (!content->has_levels)
		return false;
	cells->nlevels = n;
	cells->levels = palloc(Max(n, 1) * sizeof(char *));
	cells->rows = rows = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
	{
		if (content->level_rows[i] == LOGQ_ROWS_UNKNOWN)
			return false;
		cells->levels[i] = part->levels[pg_rightmost_one_pos64(levels)];
		rows[i] = content->level_rows[i];
		levels &= levels - 1;
	}
	return true;
}

/*
 * Its services, likewise.
 */
static bool
content_services(const LogqPartition *part, const LogqContent *content,
				 Cells *cells)
{
	int			n = content->nservices;
	int64	   *rows;

	if (!content->has_services)
		return false;
	cells->nservices = n;
	cells->services = palloc(Max(n, 1) * sizeof(char *));
	cells->rows = rows = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
	{
		if (content->service_rows[i] == LOGQ_ROWS_UNKNOWN)
			return false;
		cells->services[i] = part->services[content->services[i]];
		rows[i] = content->service_rows[i];
	}
	return true;
}

/*
 * Rows by what is asked for; false: the content does not tell.
 */
static bool
content_cells(const LogqPartition *part, const LogqContent *content,
			  bool by_level, bool by_service, Cells *cells)
{
	cells->nlevels = cells->nservices = 1;
	cells->levels = cells->services = nothing;
	if (!by_service)
		return content_levels(part, content, cells);
	if (!by_level)
		return content_services(part, content, cells);

	/* with one service, or one level, rows of the others are those of pairs */
	if (!content->has_levels || !content->has_services)
		return false;
	if (content->nservices == 1)
	{
		cells->services = &part->services[content->services[0]];
		return content_levels(part, content, cells);
	}
	if (pg_popcount64(content->levels) == 1)
	{
		cells->levels = &part->levels[pg_rightmost_one_pos64(content->levels)];
		return content_services(part, content, cells);
	}
	return false;
}

/*
 * The content does not tell: can the table?  It has no list that the content
 * has not, unless levels are too many for the partition's dictionary.
 */
static bool
table_may_tell(const LogqPartition *part, const LogqContent *content,
			   bool by_level, bool by_service)
{
	if (content == NULL)
		return true;
	if (by_level && !content->has_levels && part->nlevels < LOGQ_MAX_LEVELS)
		return false;
	return !by_service || content->has_services;
}

/* ---------- from the table ---------- */

/*
 * The row of a segment; NULL: there is none.
 */
static HeapTuple
segment_row(LogqCounts *counts, const LogqPartition *part,
			const LogqSegment *seg)
{
	LogqLookup *lookup = &counts->lookup;
	MemoryContext old;
	HeapTuple	tuple = NULL;

	/* the scan, and what it allocates on its way, is to last */
	old = MemoryContextSwitchTo(counts->cxt);
	if (counts->snapshot == NULL)
	{
		counts->snapshot = logq_latest_snapshot();
		if (logq_lookup_open(lookup, "catalog_segment",
							 "catalog_segment_pkey", counts->snapshot))
		{
			logq_lookup_key(lookup, F_INT4EQ, 0);
			logq_lookup_key(lookup, F_NAMEEQ, NameGetDatum(&counts->segment));
		}
	}
	if (lookup->rel != NULL)
	{
		namestrcpy(&counts->segment, seg->name);
		lookup->keys[ANUM_SEGMENT_NUMBER - 1].sk_argument =
			Int32GetDatum(part->number);
		tuple = logq_lookup_row(lookup, false);
	}
	MemoryContextSwitchTo(old);
	return tuple;
}

/*
 * The values of a list; false: there is none.
 */
static bool
row_names(const Datum *values, const bool *isnull, int anum, char ***names,
		  int *n)
{
	Datum	   *texts;
	bool	   *nulls;

	if (!logq_text_array(values[anum - 1], isnull[anum - 1], &texts, &nulls,
						 n))
		return false;
	*names = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
		(*names)[i] = nulls[i] ? NULL : TextDatumGetCString(texts[i]);
	return true;
}

/*
 * Rows by what is asked for, from the segment's row; false: it is of another
 * version, or does not tell.  Leaves garbage in the current context.
 */
static bool
table_cells(LogqCounts *counts, const LogqPartition *part,
			const LogqSegment *seg, bool by_level, bool by_service,
			Cells *cells)
{
	Datum		values[NATTS_SEGMENT];
	bool		isnull[NATTS_SEGMENT];
	HeapTuple	tuple = segment_row(counts, part, seg);
	text	   *state;
	int			rows;

	if (!HeapTupleIsValid(tuple))
		return false;
	heap_deform_tuple(tuple, RelationGetDescr(counts->lookup.rel), values,
					  isnull);
	state = DatumGetTextPP(values[ANUM_SEGMENT_STATE - 1]);
	if (VARSIZE_ANY_EXHDR(state) != 6 ||
		memcmp(VARDATA_ANY(state), "sealed", 6) != 0 ||
		DatumGetInt64(values[ANUM_SEGMENT_VERSION - 1]) != seg->version)
		return false;

	cells->nlevels = cells->nservices = 1;
	cells->levels = cells->services = nothing;
	if ((by_level && !row_names(values, isnull, ANUM_SEGMENT_LEVELS,
								&cells->levels, &cells->nlevels)) ||
		(by_service && !row_names(values, isnull, ANUM_SEGMENT_SERVICES,
								  &cells->services, &cells->nservices)))
		return false;
	rows = !by_service ? ANUM_SEGMENT_LEVEL_ROWS :
		!by_level ? ANUM_SEGMENT_SERVICE_ROWS :
		ANUM_SEGMENT_SERVICE_LEVEL_ROWS;
	cells->rows = logq_number_array(values[rows - 1], isnull[rows - 1],
									INT8OID,
									cells->nservices * cells->nlevels);
	return cells->rows != NULL;
}

/* ---------- segments ---------- */

/*
 * Do the cells add up to so many rows?  Negative numbers never do.
 */
static bool
adds_up(const Cells *cells, int64 total)
{
	int			n = cells->nservices * cells->nlevels;

	for (int i = 0; i < n; i++)
	{
		if (cells->rows[i] < 0 || cells->rows[i] > total)
			return false;
		total -= cells->rows[i];
	}
	return total == 0;
}

/* See counts.h. */
bool
logq_segment_counts(LogqCounts *counts, const LogqPartition *part,
					const LogqSegment *seg, bool by_level, bool by_service,
					LogqCountCallback callback, void *arg)
{
	const LogqContent *content = seg->content;
	MemoryContext old;
	Cells		cells;
	int64		total;
	bool		known;

	CHECK_FOR_INTERRUPTS();
	if (!seg->sealed || seg->rows < 0 || seg->rows > MAX_EXACT_ROWS)
		return false;
	total = (int64) seg->rows;
	if (total == 0)
		return true;
	if (!by_level && !by_service)
	{
		callback(NULL, NULL, total, arg);
		return true;
	}

	MemoryContextReset(counts->scratch);
	old = MemoryContextSwitchTo(counts->scratch);
	known = content != NULL &&
		content_cells(part, content, by_level, by_service, &cells);
	if (!known && table_may_tell(part, content, by_level, by_service))
		known = table_cells(counts, part, seg, by_level, by_service, &cells);
	known = known && adds_up(&cells, total);
	MemoryContextSwitchTo(old);
	if (!known)
		return false;

	for (int s = 0; s < cells.nservices; s++)
		for (int l = 0; l < cells.nlevels; l++)
		{
			int64		rows = cells.rows[s * cells.nlevels + l];

			if (rows > 0)
				callback(cells.levels[l], cells.services[s], rows, arg);
		}
	return true;
}
