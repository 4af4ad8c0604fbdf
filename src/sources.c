/*-------------------------------------------------------------------------
 *
 * sources.c
 *		Where the rows of each segment are counted.
 *
 * A query in counts mode wants numbers of rows by bin of ts, level, service.
 * Of a sealed segment these are known already:
 *
 * - by level and service for the whole segment, in our own catalog: if the
 *	 segment lies in one bin, and within the range of ts, nobody is asked;
 * - by minute and level, or by minute, service and level, in tables on the
 *	 partition: if bins are of whole minutes.  What of the range is no whole
 *	 minute, at its two ends, is counted from the segment's rows.
 *
 * All else is counted from rows.  Rollups are as true as what the catalog says
 * of contents: of a sealed segment, in the version that the partition confirms
 * in the same request, or, if it is not asked, has confirmed a moment ago.
 *
 * Cells of our catalog are added up for each partition, and put into a
 * tuplestore when they are many: what they say does not change when the
 * catalog does, and takes no more memory for more segments.
 *
 * These counts are of all rows.  Where a partition has row-level security,
 * they would tell users what they may not see, so rows are counted.  That it
 * has none was found a moment ago, or the partition says so with the version:
 * then it must be asked, even if there is nothing else to ask for.
 *
 * Invariant: each row within the range is counted by exactly one fragment or
 * cell.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "counts.h"
#include "estimate.h"

/* cells that are added up in memory */
#define MAX_CELLS 16384
/* segments whose rollups are read by one statement */
#define MAX_SEGMENTS_TOGETHER 128
/*
 * Rows that are grouped by one statement.  It says nothing until it is done,
 * and who is silent for logq.partition_timeout is taken for hung.
 */
#define MAX_ROWS_TOGETHER 2000000
/* the same, if all their values come in arrays, which have to fit in memory */
#define MAX_ROWS_GATHERED 100000
#define MAX_SLICES 1024

/* ---------- cells ---------- */

typedef struct CellKey
{
	int64		ts;
	const char *level;
	const char *service;
} CellKey;

typedef struct CellEntry
{
	CellKey		key;
	int64		rows;
	uint32		hash;
	char		status;
} CellEntry;

static inline uint32
hash_text(const char *text)
{
	return text == NULL ? 0 :
		hash_bytes((const unsigned char *) text, strlen(text));
}

static inline uint32
hash_cell(CellKey key)
{
	uint32		hash = murmurhash32((uint32) key.ts ^
									(uint32) ((uint64) key.ts >> 32));

	hash = hash_combine(hash, hash_text(key.level));
	return hash_combine(hash, hash_text(key.service));
}

static inline bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static inline bool
same_cell(CellKey a, CellKey b)
{
	return a.ts == b.ts && same_text(a.level, b.level) &&
		same_text(a.service, b.service);
}

#define SH_PREFIX cells
#define SH_ELEMENT_TYPE CellEntry
#define SH_KEY_TYPE CellKey
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_cell(key)
#define SH_EQUAL(tb, a, b) same_cell(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) a->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Choosing for one partition */
typedef struct Choosing
{
	LogqScanState *state;
	LogqPartition *part;
	LogqPruned *pruned;
	int			capacity;		/* of fragments */
	/* cells */
	MemoryContext cells_cxt;	/* table, and texts of its keys */
	cells_hash *cells;
	int64		ts;				/* of the segment at hand */
	LogqCounts *counts;
	/* rollups that are to be read together, by LogqSource */
	StringInfoData names[LOGQ_NSOURCES];
	int			nnames[LOGQ_NSOURCES];
	LogqFragment together[LOGQ_NSOURCES];
} Choosing;

/*
 * See scan.h.
 */
TupleDesc
logq_cell_desc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(LOGQ_CELL_NCOLUMNS);

	TupleDescInitEntry(desc, LOGQ_CELL_TS + 1, "ts", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, LOGQ_CELL_LEVEL + 1, "level", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, LOGQ_CELL_SERVICE + 1, "service", TEXTOID, -1,
					   0);
	TupleDescInitEntry(desc, LOGQ_CELL_ROWS + 1, "rows", INT8OID, -1, 0);
	return desc;
}

/*
 * Do the conditions on level and service hold for a cell?
 */
static bool
cell_passes(LogqScanState *state, const CellKey *key)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	const char *texts[2] = {key->level, key->service};
	AttrNumber	attnos[2] = {state->map.attno[LOGQ_COL_LEVEL],
	state->map.attno[LOGQ_COL_SERVICE]};
	MemoryContext old;
	bool		passes;

	if (state->upper->counted_qual == NULL)
		return true;
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	for (int i = 0; i < 2; i++)
		if (texts[i] != NULL && attnos[i] != 0)
		{
			slot->tts_values[attnos[i] - 1] = CStringGetTextDatum(texts[i]);
			slot->tts_isnull[attnos[i] - 1] = false;
		}
	MemoryContextSwitchTo(old);
	ExecStoreVirtualTuple(slot);
	econtext->ecxt_scantuple = slot;
	passes = ExecQual(state->upper->counted_qual, econtext);
	ExecClearTuple(slot);
	ResetExprContext(econtext);
	return passes;
}

/*
 * Put the cells that were added up into the tuplestore, those that the query
 * is about.
 */
static void
flush_cells(Choosing *choosing)
{
	LogqPruned *pruned = choosing->pruned;
	cells_iterator it;
	CellEntry  *entry;
	MemoryContext old;

	if (choosing->cells == NULL)
		return;
	if (pruned->cells == NULL)
	{
		old = MemoryContextSwitchTo(choosing->state->run_cxt);
		pruned->cells = tuplestore_begin_heap(false, false, work_mem);
		MemoryContextSwitchTo(old);
	}
	cells_start_iterate(choosing->cells, &it);
	while ((entry = cells_iterate(choosing->cells, &it)) != NULL)
	{
		Datum		values[LOGQ_CELL_NCOLUMNS] = {0};
		bool		nulls[LOGQ_CELL_NCOLUMNS] = {0};

		CHECK_FOR_INTERRUPTS();
		if (!cell_passes(choosing->state, &entry->key))
			continue;
		old = MemoryContextSwitchTo(choosing->cells_cxt);
		values[LOGQ_CELL_TS] = TimestampTzGetDatum(entry->key.ts);
		nulls[LOGQ_CELL_LEVEL] = entry->key.level == NULL;
		if (entry->key.level != NULL)
			values[LOGQ_CELL_LEVEL] = CStringGetTextDatum(entry->key.level);
		nulls[LOGQ_CELL_SERVICE] = entry->key.service == NULL;
		if (entry->key.service != NULL)
			values[LOGQ_CELL_SERVICE] =
				CStringGetTextDatum(entry->key.service);
		values[LOGQ_CELL_ROWS] = Int64GetDatum(entry->rows);
		MemoryContextSwitchTo(old);
		tuplestore_putvalues(pruned->cells,
							 choosing->state->upper->cell_desc,
							 values, nulls);
	}
	choosing->cells = NULL;
	MemoryContextReset(choosing->cells_cxt);
}

/*
 * Count a cell of the segment at hand.
 */
static void
add_cell(const char *level, const char *service, int64 rows, void *arg)
{
	Choosing   *choosing = arg;
	CellKey		key = {choosing->ts, level, service};
	CellEntry  *entry;
	bool		found;

	if (choosing->cells != NULL && choosing->cells->members >= MAX_CELLS)
		flush_cells(choosing);
	if (choosing->cells == NULL)
		choosing->cells = cells_create(choosing->cells_cxt, 64, NULL);
	entry = cells_insert(choosing->cells, key, &found);
	if (!found)
	{
		if (level != NULL)
			entry->key.level = MemoryContextStrdup(choosing->cells_cxt, level);
		if (service != NULL)
			entry->key.service = MemoryContextStrdup(choosing->cells_cxt,
													 service);
		entry->rows = 0;
	}
	entry->rows += rows;
}

/* ---------- fragments ---------- */

static int64
minute_before(int64 ts)
{
	int64		rest = ts % USECS_PER_MINUTE;

	return ts - (rest < 0 ? rest + USECS_PER_MINUTE : rest);
}

static int64
minute_after(int64 ts)
{
	int64		before = minute_before(ts);

	return before == ts ? ts : before + USECS_PER_MINUTE;
}

/*
 * A new fragment of a segment.
 */
static LogqFragment *
add_fragment(Choosing *choosing, const LogqSegment *seg,
			 const LogqBins *bins)
{
	LogqPruned *pruned = choosing->pruned;
	LogqFragment *fragment;

	if (pruned->nfragments == choosing->capacity)
	{
		choosing->capacity = Max(choosing->capacity * 2, 16);
		if (pruned->fragments == NULL)
			pruned->fragments = MemoryContextAllocHuge(choosing->state->run_cxt,
													   choosing->capacity *
													   sizeof(LogqFragment));
		else
			pruned->fragments = repalloc_huge(pruned->fragments,
											  choosing->capacity *
											  sizeof(LogqFragment));
	}
	fragment = &pruned->fragments[pruned->nfragments++];
	memset(fragment, 0, sizeof(LogqFragment));
	fragment->source = LOGQ_SOURCE_ROWS;
	fragment->rows = -1;
	fragment->size = seg->rows;
	fragment->lower = seg->lower;
	fragment->upper = seg->upper;
	fragment->bins = *bins;
	fragment->name = MemoryContextStrdup(choosing->state->run_cxt, seg->name);
	return fragment;
}

/*
 * Rows of a segment within [from, to).
 */
static void
add_slice(Choosing *choosing, const LogqSegment *seg, const LogqBins *bins,
		  TimestampTz from, TimestampTz to)
{
	LogqFragment *fragment = add_fragment(choosing, seg, bins);

	fragment->sliced = true;
	fragment->from = from;
	fragment->to = to;
	fragment->size *= Min(1.0, (double) (to - from) /
						  (double) (seg->upper - seg->lower));
}

/*
 * All rows of a segment.  A large one is asked for in slices of time.
 */
static void
add_rows(Choosing *choosing, const LogqSegment *seg, const LogqBins *bins)
{
	double		most = choosing->state->upper->gathers ? MAX_ROWS_GATHERED :
		MAX_ROWS_TOGETHER;
	double		rows = logq_segment_rows(choosing->part, seg);
	int			n = rows > most ? (int) Min(rows / most + 1, MAX_SLICES) : 1;
	int64		width = (seg->upper - seg->lower) / n;

	choosing->pruned->segments[LOGQ_SOURCE_ROWS]++;
	if (n == 1 || width == 0 ||
		choosing->state->upper->mode == LOGQ_UPPER_ROWS)
	{
		(void) add_fragment(choosing, seg, bins);
		return;
	}
	for (int i = n - 1; i >= 0; i--)
		add_slice(choosing, seg, bins, seg->lower + i * width,
				  i == n - 1 ? seg->upper : seg->lower + (i + 1) * width);
}

/*
 * The rollups that were gathered become a fragment.  NULL: there are none.
 */
static LogqFragment *
end_together(Choosing *choosing, LogqSource source)
{
	LogqFragment *together = &choosing->together[source];
	LogqSegment seg = {0};
	LogqFragment *fragment;

	if (choosing->nnames[source] == 0)
		return NULL;
	seg.name = psprintf("%s::pg_catalog.name[]",
						quote_literal_cstr(psprintf("{%s}",
													choosing->names[source].data)));
	fragment = add_fragment(choosing, &seg, &together->bins);
	fragment->source = source;
	fragment->lower = together->lower;
	fragment->upper = together->upper;
	fragment->size = together->size;
	/* true of all of their minutes, and checked sooner than many names */
	fragment->sliced = true;
	fragment->from = minute_before(fragment->lower);
	fragment->to = minute_after(fragment->upper);
	if (fragment->bins.width > 1)
		fragment->bins.origin = logq_bin_start(&fragment->bins,
											   fragment->lower);
	choosing->nnames[source] = 0;
	resetStringInfo(&choosing->names[source]);
	return fragment;
}

/*
 * Add a name to an array literal.
 */
static void
append_array_name(StringInfo buf, const char *name)
{
	if (buf->len > 0)
		appendStringInfoChar(buf, ',');
	appendStringInfoChar(buf, '"');
	for (const char *p = name; *p != '\0'; p++)
	{
		if (*p == '"' || *p == '\\')
			appendStringInfoChar(buf, '\\');
		appendStringInfoChar(buf, *p);
	}
	appendStringInfoChar(buf, '"');
}

/*
 * Read a segment's rollup, as a whole or minutes [from, to) of it.
 */
static void
add_rollup(Choosing *choosing, const LogqSegment *seg, const LogqBins *bins,
		   LogqSource source, bool whole, TimestampTz from, TimestampTz to)
{
	LogqFragment *together = &choosing->together[source];
	double		size = source == LOGQ_SOURCE_LEVELS ?
		seg->content->level_rollup : seg->content->service_rollup;

	/* whatever does not go with those gathered so far is on its own */
	if (choosing->nnames[source] > 0 &&
		(!whole || choosing->nnames[source] >= MAX_SEGMENTS_TOGETHER ||
		 bins->width != together->bins.width ||
		 (bins->origin - together->bins.origin) % bins->width != 0))
		(void) end_together(choosing, source);
	if (choosing->nnames[source] == 0)
	{
		together->bins = *bins;
		together->lower = seg->lower;
		together->upper = seg->upper;
		together->size = 0;
	}
	together->lower = Min(together->lower, seg->lower);
	together->upper = Max(together->upper, seg->upper);
	together->size += size;
	append_array_name(&choosing->names[source], seg->name);
	choosing->nnames[source]++;
	if (!whole)
	{
		LogqFragment *fragment = end_together(choosing, source);

		fragment->sliced = true;
		fragment->from = from;
		fragment->to = to;
	}
}

/* ---------- segments ---------- */

static bool
whole_minutes(const LogqBins *bins)
{
	return bins->width % USECS_PER_MINUTE == 0 &&
		bins->origin % USECS_PER_MINUTE == 0;
}

/*
 * The rollup on the partition that has what the query needs, or
 * LOGQ_SOURCE_ROWS.
 */
static LogqSource
partition_source(const LogqUpperScan *upper, const LogqSegment *seg)
{
	if (!upper->need_service && seg->content->level_rollup >= 0)
		return LOGQ_SOURCE_LEVELS;
	if (seg->content->service_rollup >= 0)
		return LOGQ_SOURCE_SERVICES;
	return LOGQ_SOURCE_ROWS;
}

/*
 * Choose for one segment.
 */
static void
choose_segment(Choosing *choosing, const LogqSegment *seg)
{
	LogqScanState *state = choosing->state;
	const LogqUpperScan *upper = state->upper;
	int		   *segments = choosing->pruned->segments;
	const LogqContent *content = seg->sealed ? seg->content : NULL;
	int64		first = content != NULL ? content->min_ts : seg->lower;
	int64		last = content != NULL ? content->max_ts : seg->upper - 1;
	bool		within = state->bounds.ts_low <= first &&
		state->bounds.ts_high >= last;
	LogqBins	bins = {1, 0};
	LogqSource	source;
	int64		from;
	int64		to;

	if (upper->has_bin)
		logq_segment_bins(upper, seg->lower, seg->upper, &bins);
	if (!seg->sealed || choosing->pruned->only_rows)
	{
		add_rows(choosing, seg, &bins);
		return;
	}

	choosing->ts = upper->has_bin ? first : 0;
	if (within &&
		(!upper->has_bin ||
		 logq_bin_start(&bins, first) == logq_bin_start(&bins, last)) &&
		logq_segment_counts(choosing->counts, choosing->part, seg,
							upper->need_level, upper->need_service, add_cell,
							choosing))
	{
		segments[LOGQ_SOURCE_CATALOG]++;
		return;
	}

	/* whole minutes, and what is left at the ends of the range */
	first = Max(first, state->bounds.ts_low);
	last = Min(last, state->bounds.ts_high);
	from = first == state->bounds.ts_low ? minute_after(first) :
		minute_before(first);
	to = last == state->bounds.ts_high ? minute_before(last + 1) :
		minute_after(last + 1);
	source = content != NULL && (!upper->has_bin || whole_minutes(&bins)) ?
		partition_source(upper, seg) : LOGQ_SOURCE_ROWS;
	if (source == LOGQ_SOURCE_ROWS || (!within && from >= to))
	{
		add_rows(choosing, seg, &bins);
		return;
	}
	segments[source]++;
	add_rollup(choosing, seg, &bins, source, within, from, to);
	if (within)
		return;
	if (first < from)
		add_slice(choosing, seg, &bins, seg->lower, from);
	if (last >= to)
		add_slice(choosing, seg, &bins, to, seg->upper);
}

/*
 * Must the partition say that there is no row-level security, as something
 * comes from counts that were made when segments were sealed?
 */
static bool
must_check(LogqRowSecurity security, const LogqPruned *pruned)
{
	return security == LOGQ_ROW_SECURITY_UNKNOWN &&
		(pruned->segments[LOGQ_SOURCE_CATALOG] > 0 ||
		 pruned->segments[LOGQ_SOURCE_LEVELS] > 0 ||
		 pruned->segments[LOGQ_SOURCE_SERVICES] > 0);
}

/*
 * See scan.h.
 */
void
logq_choose_sources(LogqScanState *state, int index)
{
	LogqPartition *part = state->streams[index].part;
	LogqPruned *pruned = &state->pruned[index];
	const LogqUpperScan *upper = state->upper;
	bool		only_rows = upper->mode != LOGQ_UPPER_COUNTS ||
		!upper->from_rollups || !logq_use_rollups || state->bounds.nothing ||
		logq_xact_has_written(part->serverid);
	LogqRowSecurity security = only_rows ? LOGQ_ROW_SECURITY_OFF :
		state->streams[index].secured ? LOGQ_ROW_SECURITY_ON :
		logq_row_security(part);
	Choosing	choosing = {state, part, pruned};
	MemoryContext scratch;
	MemoryContext old;

	if (security == LOGQ_ROW_SECURITY_ON)
		only_rows = true;
	if (pruned->sources_valid && pruned->only_rows == only_rows)
	{
		pruned->check_security = must_check(security, pruned);
		return;
	}
	if (pruned->cells != NULL)
		tuplestore_end(pruned->cells);
	pruned->cells = NULL;
	pruned->nfragments = 0;
	pruned->fragments = NULL;
	pruned->only_rows = only_rows;
	memset(pruned->segments, 0, sizeof(pruned->segments));

	scratch = AllocSetContextCreate(state->run_cxt, "logq sources",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(scratch);
	choosing.cells_cxt = AllocSetContextCreate(scratch, "logq cells",
											   ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&choosing.names[LOGQ_SOURCE_LEVELS]);
	initStringInfo(&choosing.names[LOGQ_SOURCE_SERVICES]);
	if (!only_rows)
		choosing.counts = logq_counts_begin();
	/* newest first: that is where waiting would hurt */
	for (int i = pruned->nleft - 1; i >= 0; i--)
		choose_segment(&choosing, &part->segments[pruned->left[i]]);
	(void) end_together(&choosing, LOGQ_SOURCE_LEVELS);
	(void) end_together(&choosing, LOGQ_SOURCE_SERVICES);
	flush_cells(&choosing);
	if (choosing.counts != NULL)
		logq_counts_end(choosing.counts);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	pruned->check_security = must_check(security, pruned);
	pruned->sources_valid = true;
}

/*
 * See scan.h.
 */
void
logq_forget_sources(LogqScanState *state)
{
	if (state->upper == NULL)
		return;
	for (int i = 0; i < state->nstreams; i++)
	{
		LogqPruned *pruned = &state->pruned[i];

		if (pruned->cells != NULL)
			tuplestore_end(pruned->cells);
		pruned->cells = NULL;
		pruned->sources_valid = false;
	}
}
