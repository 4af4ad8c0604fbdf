/*-------------------------------------------------------------------------
 *
 * estimate.c
 *		How many rows conditions leave, by what the catalog knows.
 *
 * The range of time chooses segments, whose rows are known.  Conditions on
 * level, service and partition are then evaluated for each value that the
 * catalog lists, so that any combination of them is counted exactly, and
 * service and level together as they go together.  Equality with a trace_id,
 * or with a key of attrs that has filters, goes by the number of distinct
 * values and by a sample of sketches.  All other conditions are left to core,
 * which sees the catalog's numbers as statistics (colstats.c).
 *
 * Segments whose contents are not known are taken to be like the others of
 * their partition.
 *
 * Evaluating an expression may run anything, also something that brings our
 * copy of the catalog up to date.  So all of that is done first, and no
 * pointer into the copy is kept over it, nor in the estimate.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "estimate.h"

#include <math.h>

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"

/* columns of LogqDictClauses */
#define BY_LEVEL (1 << LOGQ_DICT_LEVEL)
#define BY_SERVICE (1 << LOGQ_DICT_SERVICE)
#define BY_PAIR (BY_LEVEL | BY_SERVICE)
/* sketches looked at for a condition, over all partitions */
#define SAMPLE_SEGMENTS 16
/* pairs of service and level that a condition is evaluated for */
#define MAX_PAIRS 20000
/* share of rows that pass, where nothing is known of levels and services */
#define UNKNOWN_SELECTIVITY 0.1
/* distinct values for each row, where few values are in all segments */
#define FEW_VALUES 0.02
/* share of segments that a filter does not exclude although it could */
#define FILTER_MISSES 0.02
/*
 * A pattern on message.  What core takes for a long one is next to nothing,
 * while people look for what is there.
 */
#define MIN_PATTERN_SELECTIVITY 0.001
#define MAX_PATTERN_SELECTIVITY 0.5

/* Evaluation of LogqDictClauses */
typedef struct DictState
{
	TupleTableSlot *slot;
	ExprContext *econtext;
} DictState;

/* By index to a partition's dictionaries: do conditions let it pass? */
typedef struct Passing
{
	bool	   *levels;
	bool	   *services;
} Passing;

/* ---------- levels and services ---------- */

/*
 * Get ready to evaluate LogqDictClauses.
 */
static void
dict_begin(DictState *state, List *dict)
{
	TupleDesc	desc = CreateTemplateTupleDesc(LOGQ_NDICT);
	ListCell   *lc;

	for (int i = 0; i < LOGQ_NDICT; i++)
		TupleDescInitEntry(desc, i + 1, NULL, TEXTOID, -1, 0);
	state->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(state->slot);
	state->econtext = CreateStandaloneExprContext();
	state->econtext->ecxt_scantuple = state->slot;
	foreach(lc, dict)
	{
		LogqDictClause *clause = lfirst(lc);

		clause->state = ExecInitExpr(clause->expr, NULL);
	}
}

static void
dict_end(DictState *state)
{
	FreeExprContext(state->econtext, true);
	ExecDropSingleTupleTableSlot(state->slot);
}

static void
dict_set(DictState *state, int column, const char *value)
{
	state->slot->tts_isnull[column] = value == NULL;
	if (value != NULL)
		state->slot->tts_values[column] = CStringGetTextDatum(value);
}

/* do all clauses let pass that are of these columns (partition apart)? */
static bool
dict_passes(DictState *state, List *dict, int columns)
{
	ListCell   *lc;

	foreach(lc, dict)
	{
		LogqDictClause *clause = lfirst(lc);
		bool		isnull;
		Datum		value;

		if ((clause->columns & ~(1 << LOGQ_DICT_PARTITION)) != columns)
			continue;
		ResetExprContext(state->econtext);
		value = ExecEvalExprSwitchContext(clause->state, state->econtext,
										  &isnull);
		if (isnull || !DatumGetBool(value))
			return false;
	}
	return true;
}

static bool
dict_has(List *dict, int columns)
{
	ListCell   *lc;

	foreach(lc, dict)
		if ((((LogqDictClause *) lfirst(lc))->columns &
			 ~(1 << LOGQ_DICT_PARTITION)) == columns)
			return true;
	return false;
}

/* which of a list of values pass the conditions on their column */
static bool *
dict_passing(DictState *state, List *dict, int column, char **values, int n)
{
	bool	   *passing = palloc(n * sizeof(bool) + 1);

	memset(passing, true, n * sizeof(bool));
	for (int i = 0; i < n && dict_has(dict, 1 << column); i++)
	{
		dict_set(state, column, values[i]);
		passing[i] = dict_passes(state, dict, 1 << column);
	}
	return passing;
}

/*
 * For each level: by how much is it more common within a range than over all
 * time?  Without a matrix, how common it is.
 */
static double *
level_trend(const LogqRangeSum *sum)
{
	const LogqPartition *part = sum->part;
	const double *matrix = part->service_level_rows;
	double	   *trend = palloc0(part->nlevels * sizeof(double) + 1);
	double		all = 0;

	for (int s = 0; s < part->nservices && matrix != NULL; s++)
		for (int l = 0; l < part->nlevels; l++)
		{
			trend[l] += matrix[s * part->nlevels + l];
			all += matrix[s * part->nlevels + l];
		}
	for (int l = 0; l < part->nlevels; l++)
	{
		double		share = sum->levels[l] / sum->with_levels;

		if (matrix == NULL)
			trend[l] = share;
		else if (trend[l] > 0)
			trend[l] = share / (trend[l] / all);
	}
	return trend;
}

/*
 * Rows of a range that pass the conditions on level and service, out of
 * *known rows for which that can be told.
 */
static double
dict_rows(DictState *state, List *dict, const Passing *passing,
		  const LogqRangeSum *sum, double *known)
{
	LogqPartition *part = sum->part;
	bool		by_level = dict_has(dict, BY_LEVEL);
	bool		by_service = dict_has(dict, BY_SERVICE);
	bool		by_pair = dict_has(dict, BY_PAIR);
	const double *matrix = part->service_level_rows;
	double		rows = 0;
	double	   *trend;

	if (!by_pair && !(by_level && by_service))
	{
		bool	   *which = by_level ? passing->levels : passing->services;
		const double *counts = by_level ? sum->levels : sum->services;
		int			n = by_level ? part->nlevels : part->nservices;

		*known = by_level ? sum->with_levels : sum->with_services;
		for (int i = 0; i < n; i++)
			if (which[i])
				rows += counts[i];
		return rows;
	}

	*known = Min(sum->with_levels, sum->with_services);
	if (*known <= 0 ||
		(by_pair && (double) part->nlevels * part->nservices > MAX_PAIRS))
	{
		*known = 0;
		return 0;
	}

	trend = level_trend(sum);
	for (int s = 0; s < part->nservices; s++)
	{
		double		service_rows = sum->services[s];
		double		all = 1;
		double		passed = 0;

		if (service_rows <= 0 || !passing->services[s])
			continue;
		if (matrix != NULL)
		{
			all = 0;
			for (int l = 0; l < part->nlevels; l++)
				all += matrix[s * part->nlevels + l];
			if (all <= 0)
				continue;
		}
		if (by_pair)
			dict_set(state, LOGQ_DICT_SERVICE, part->services[s]);
		for (int l = 0; l < part->nlevels; l++)
		{
			if (!passing->levels[l])
				continue;
			if (by_pair)
			{
				dict_set(state, LOGQ_DICT_LEVEL, part->levels[l]);
				if (!dict_passes(state, dict, BY_PAIR))
					continue;
			}
			passed += (matrix != NULL ? matrix[s * part->nlevels + l] : 1) *
				trend[l];
		}
		rows += service_rows * Min(passed / all, 1);
	}
	return rows;
}

/*
 * Rows of a partition within the range that pass conditions on level, service
 * and partition; -1 when that cannot be told.  Segments whose contents are not
 * known are taken to be like the others.
 */
static double
pass_dict(DictState *state, List *dict, const LogqRangeSum *sum)
{
	LogqPartition *part = sum->part;
	Passing		passing;
	double		known;
	double		rows;
	double		share;
	double		rest;

	if (!dict_has(dict, BY_LEVEL) &&
		!dict_has(dict, BY_SERVICE) &&
		!dict_has(dict, BY_PAIR))
		return sum->rows;
	dict_set(state, LOGQ_DICT_PARTITION, part->name);
	passing.levels = dict_passing(state, dict, LOGQ_DICT_LEVEL, part->levels,
								  part->nlevels);
	passing.services = dict_passing(state, dict, LOGQ_DICT_SERVICE,
									part->services, part->nservices);

	rows = dict_rows(state, dict, &passing, sum, &known);
	if (known >= sum->rows * 0.999)
		return rows;
	share = known > 0 ? rows / known : 0;
	rest = Max(sum->rows - known, 0);
	if (rest > known)
	{
		/* too little to judge the rest by */
		LogqRangeSum all;
		double		all_rows;

		logq_sum_range(part, PG_INT64_MIN, PG_INT64_MAX, true, &all);
		all_rows = dict_rows(state, dict, &passing, &all, &known);
		if (known <= 0)
			return -1;
		share = all_rows / known;
	}
	return rows + rest * share;
}

/* ---------- fields with many values ---------- */

/*
 * Distinct values in all partitions together.  A value may be in several of
 * them: rows of a trace come from several services, which are on different
 * partitions.  Suppose that rows fall on partitions at random.
 */
static double
distinct_in_all(const char *field, const LogqRangeSum *sums, int nsums,
				double not_null)
{
	double		total = 0;
	double		largest = 0;
	double		rows = 0;
	double		per_segment = 0;
	double		segments = 0;
	double		low;
	double		high;

	for (int i = 0; i < nsums; i++)
	{
		const LogqRangeSum *sum = &sums[i];
		int			f = logq_catalog_field(sum->part, field);

		if (f < 0 || sum->field_segments[f] <= 0)
			continue;
		total += sum->field_values[f];
		largest = Max(largest, sum->field_values[f]);
		rows += sum->field_rows[f] * not_null;
		segments += sum->field_segments[f];
		per_segment = Max(per_segment, sum->field_values[f] /
						  sum->field_segments[f]);
	}
	if (total <= 0 || rows <= 0)
		return 0;

	/*
	 * Few values, each with many rows of a segment, are probably the same in
	 * all segments.  A trace is over in the next one.
	 */
	if (strcmp(field, LOGQ_FIELD_TRACE_ID) != 0 && total < rows * FEW_VALUES)
		return Max(per_segment, 1);

	if (logq_route_by == LOGQ_ROUTE_TRACE_ID &&
		strcmp(field, LOGQ_FIELD_TRACE_ID) == 0)
		return total;
	low = largest;
	high = total;
	for (int step = 0; step < 20 && nsums > 1; step++)
	{
		double		d = (low + high) / 2;
		double		expected = 0;

		for (int i = 0; i < nsums; i++)
		{
			const LogqRangeSum *sum = &sums[i];
			int			f = logq_catalog_field(sum->part, field);

			if (f >= 0)
				expected += d * (1 - pow(1 - Min(sum->field_rows[f] *
												 not_null / rows, 1),
										 rows / d));
		}
		if (expected < total)
			low = d;
		else
			high = d;
	}
	return Max(Min(high, rows), 1);
}

/*
 * Share of all rows that have one of the values; -1 when nothing is known.
 * *spread is filled in any case.
 */
static double
field_selectivity(const LogqFieldCondition *cond, const LogqBounds *bounds,
				  const LogqRangeSum *sums, int nsums,
				  LogqFieldSpread *spread)
{
	LogqSample *samples = palloc(nsums * sizeof(LogqSample) + 1);
	int			per_partition = Max(SAMPLE_SEGMENTS / Max(nsums, 1), 1);
	double		rows = 0;
	double		covered = 0;
	double		values = 0;
	double		not_null = 0;
	double		sampled_rows = 0;
	double		sampled = 0;
	int			hits = 0;
	bool		complete = true;
	double		average;
	double		result = 0;

	for (int i = 0; i < nsums; i++)
	{
		const LogqRangeSum *sum = &sums[i];
		int			f = logq_catalog_field(sum->part, cond->field);

		rows += sum->rows;
		MemSet(&samples[i], 0, sizeof(LogqSample));
		if (f < 0 || sum->field_rows[f] <= 0)
		{
			complete &= sum->rows <= 0;
			continue;
		}
		covered += sum->field_rows[f];
		values += sum->field_values[f];
		if (i < SAMPLE_SEGMENTS)
			logq_sample_sketches(sum->part, cond->field, sum->first,
								 sum->last, per_partition, cond->hashes,
								 cond->nhashes, bounds->ts_low,
								 bounds->ts_high, &samples[i]);
		complete &= samples[i].complete &&
			sum->field_rows[f] >= sum->rows * 0.999;
		not_null += samples[i].not_null;
		sampled_rows += samples[i].sampled_rows;
		sampled += samples[i].sampled;
		hits = Max(hits, samples[i].hits);
	}
	spread->not_null = sampled_rows > 0 ? not_null / sampled_rows : 1;
	spread->not_null = Max(Min(spread->not_null, 1), 1e-6);
	spread->distinct = distinct_in_all(cond->field, sums, nsums,
									   spread->not_null);
	if (covered >= rows * 0.5 && values <= 0)
		return 0;				/* nobody has a value */
	if (covered <= 0 || spread->distinct <= 0)
		return -1;
	average = covered * spread->not_null / spread->distinct;
	if (cond->unknown || sampled == 0)
		return Min(cond->nvalues * average / covered, 1);

	for (int i = 0; i < nsums; i++)
	{
		const LogqSample *sample = &samples[i];
		const LogqRangeSum *sum = &sums[i];

		if (sample->sampled == 0)
			continue;
		/* once is chance: scale up what was found again */
		if (hits > 1 && !sample->complete && sample->sampled_rows > 0)
			result += sample->matches *
				sum->field_rows[logq_catalog_field(sum->part, cond->field)] /
				sample->sampled_rows;
		else
			result += sample->matches;
	}
	if (cond->nvalues > cond->nhashes && cond->nhashes > 0)
		result *= cond->nvalues / cond->nhashes;
	/*
	 * Elsewhere a value may have as many rows as others have; unless there are
	 * so few values that we would have met it.
	 */
	if (!complete &&
		(spread->distinct > sampled_rows * FEW_VALUES || sampled < 4))
		result = Max(result, cond->nvalues * average);
	return Min(result / covered, 1);
}

/* ---------- ids ---------- */

/*
 * Share of a partition's rows in the range of ids.  Walks over segments, as
 * such conditions are rare.
 */
static double
id_selectivity(const LogqRangeSum *sum, const LogqBounds *bounds)
{
	double		rows = 0;
	double		all = 0;
	int64		seen = -1;

	for (int i = sum->first; i < sum->last; i++)
	{
		const LogqSegment *seg = &sum->part->segments[i];
		double		seg_rows = logq_segment_rows(sum->part, seg);
		double		low = (double) bounds->id_low;
		double		high = (double) bounds->id_high;

		all += seg_rows;
		if (seg->sealed && seg->content != NULL)
		{
			double		width = (double) seg->content->max_id -
				(double) seg->content->min_id + 1;

			low = Max(low, (double) seg->content->min_id);
			high = Min(high, (double) seg->content->max_id);
			if (high >= low)
				rows += seg_rows * Min((high - low + 1) / width, 1);
			seen = Max(seen, seg->content->max_id);
		}
		else if (bounds->id_high > seen)
			rows += seg_rows;
	}
	return all > 0 ? rows / all : 1;
}

/* ---------- scans ---------- */

/*
 * An index of the segments leads to so many rows, and filters tell which
 * segments have any.
 */
static void
use_index(LogqEstimate *est, double found)
{
	double		contents = est->contents;

	est->scanned = Min(est->scanned, Max(found, est->rows));
	if (!logq_enable_content_pruning || !logq_enable_segment_pruning)
		return;
	contents = Min(contents, found + contents * FILTER_MISSES);
	est->segments -= est->contents - contents;
	est->contents = contents;
}

/* See estimate.h. */
int
logq_sum_partitions(const LogqEstimate *est, bool contents,
					LogqRangeSum **sums)
{
	List	   *all = logq_partitions();
	ListCell   *lc;
	int			n = 0;

	*sums = palloc0(list_length(all) * sizeof(LogqRangeSum) + 1);
	if (est->bounds.nothing)
		return 0;
	foreach(lc, all)
	{
		LogqPartition *part = lfirst(lc);

		if (!part->loaded ||
			!logq_bounds_allow_partition(&est->bounds, part->number) ||
			(est->numbers != NULL &&
			 !bms_is_member(part->number, est->numbers)))
			continue;
		logq_sum_range(part, est->bounds.ts_low, est->bounds.ts_high,
					   contents, &(*sums)[n++]);
	}
	list_free(all);
	return n;
}

/*
 * Which partitions pass the conditions on the column partition alone?  All
 * are members when there are none.
 */
static Bitmapset *
passing_partitions(DictState *state, List *dict)
{
	Bitmapset  *numbers = NULL;
	List	   *parts = logq_partitions();
	ListCell   *lc;

	foreach(lc, parts)
	{
		LogqPartition *part = lfirst(lc);

		dict_set(state, LOGQ_DICT_PARTITION, part->name);
		if (dict_passes(state, dict, 0))
			numbers = bms_add_member(numbers, part->number);
	}
	list_free(parts);
	return numbers;
}

static Selectivity
core_selectivity(const LogqShipContext *ship, List *rinfos)
{
	return clauselist_selectivity(ship->root, rinfos, 0, JOIN_INNER, NULL);
}

/*
 * All by core's means: nothing is known of any partition.
 */
static void
estimate_unknown(const LogqShipContext *ship, List *clauses,
				 double default_rows, LogqEstimate *est)
{
	List	   *rinfos = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
		if (!lfirst_node(RestrictInfo, lc)->pseudoconstant)
			rinfos = lappend(rinfos, lfirst(lc));
	est->total = est->scanned = default_rows;
	ship->rel->tuples = default_rows;
	est->rows = default_rows * core_selectivity(ship, rinfos);
	est->segments = 1;
}

/*
 * What core makes of conditions that are left to it.  It multiplies shares by
 * rel->tuples, which are the rows within the range of time.
 */
static double
left_to_core(LogqEstimate *est, const LogqConditions *conds, bool contents)
{
	const LogqShipContext *ship = est->ship;
	List	   *others = list_copy(conds->others);
	double		result;
	ListCell   *lc;

	if (!contents)
	{
		foreach(lc, conds->dict)
		{
			LogqDictClause *clause = lfirst(lc);

			if (clause->columns != 1 << LOGQ_DICT_PARTITION)
				others = lappend(others, clause->rinfo);
		}
		foreach(lc, conds->fields)
			others = list_append_unique_ptr(others,
											((LogqFieldCondition *)
											 lfirst(lc))->rinfo);
	}
	result = others == NIL ? 1 : core_selectivity(ship, others);
	foreach(lc, conds->patterns)
	{
		Selectivity s = clause_selectivity(ship->root, lfirst(lc), 0,
										   JOIN_INNER, NULL);

		s = Max(s, MIN_PATTERN_SELECTIVITY);
		result *= Min(s, MAX_PATTERN_SELECTIVITY);
	}
	return result;
}

/*
 * Rows that level, service, partition and id leave; and what of the table is
 * to be looked at for them.
 */
static double
count_rows(LogqEstimate *est, DictState *state, List *dict, bool id_range,
		   const LogqRangeSum *sums, int nsums)
{
	double		rows = 0;
	double		sure = 0;
	double		unsure = 0;		/* rows of partitions that tell nothing */

	for (int i = 0; i < nsums; i++)
	{
		const LogqRangeSum *sum = &sums[i];
		double		passed = pass_dict(state, dict, sum);
		double		ids = id_range ? id_selectivity(sum, &est->bounds) : 1;

		if (passed < 0)
			unsure += sum->rows * ids;
		else
		{
			sure += sum->rows * ids;
			rows += passed * ids;
		}
		if (passed != 0)
		{
			est->scanned += sum->rows * ids;
			est->segments += sum->last - sum->first;
			est->contents += sum->contents;
		}
	}
	if (unsure > 0)
		rows += unsure * (sure > 0 ? rows / sure : UNKNOWN_SELECTIVITY);
	return rows;
}

/* See estimate.h. */
void
logq_estimate_scan(const LogqShipContext *ship, List *clauses,
				   double default_rows, LogqEstimate *est)
{
	List	   *all = logq_partitions();
	List	   *rest = NIL;
	LogqConditions conds;
	DictState	state;
	LogqRangeSum *sums;
	ListCell   *lc;
	int			nsums;
	bool		contents = false;
	double		found;			/* rows that an index leads to; -1: none */

	MemSet(est, 0, sizeof(LogqEstimate));
	est->ship = ship;
	logq_bounds_init(&est->bounds);
	foreach(lc, all)
	{
		LogqPartition *part = lfirst(lc);

		logq_catalog_update(part);
		est->known |= part->loaded;
	}
	if (!est->known)
	{
		estimate_unknown(ship, clauses, default_rows, est);
		return;
	}

	/* whatever evaluates expressions comes first */
	logq_take_conditions(ship, clauses, &est->bounds, &conds);
	if (conds.dict != NIL)
		dict_begin(&state, conds.dict);
	if (dict_has(conds.dict, 0))
	{
		est->numbers = passing_partitions(&state, conds.dict);
		if (est->numbers == NULL)
			est->bounds.nothing = true;
	}
	nsums = logq_sum_partitions(est, false, &sums);
	for (int i = 0; i < nsums; i++)
		est->total += sums[i].rows;
	ship->rel->tuples = Max(est->total, 1);
	foreach(lc, all)
		contents |= ((LogqPartition *) lfirst(lc))->loaded &&
			logq_sums_have_contents(lfirst(lc));
	list_free(all);
	est->rows = left_to_core(est, &conds, contents);

	/* from here on nothing runs that could change our copy of the catalog */
	contents &= conds.dict != NIL || conds.fields != NIL;
	nsums = logq_sum_partitions(est, contents, &sums);
	est->rows *= count_rows(est, &state, contents ? conds.dict : NIL,
							conds.id_range, sums, nsums);
	if (conds.ids >= 0)
		est->rows = Min(est->rows, conds.ids);
	found = conds.ids;
	foreach(lc, conds.fields)
	{
		LogqFieldCondition *cond = lfirst(lc);
		LogqFieldSpread spread;
		double		s;

		if (!contents)
			break;
		s = field_selectivity(cond, &est->bounds, sums, nsums, &spread);
		if (s < 0)
		{
			rest = list_append_unique_ptr(rest, cond->rinfo);
			continue;
		}
		est->rows *= s;
		found = found < 0 ? s * est->total : Min(found, s * est->total);
	}
	if (conds.dict != NIL)
		dict_end(&state);
	if (rest != NIL)
		est->rows *= core_selectivity(ship, rest);
	if (found >= 0)
		use_index(est, found);
}

/*
 * See estimate.h.
 *
 * What values the other side will have is not known, but that its rows are
 * about something that there is within the range of time.
 */
void
logq_estimate_param_scan(const LogqEstimate *scan, List *clauses,
						 LogqEstimate *est)
{
	const LogqShipContext *ship = scan->ship;
	double		rows = scan->rows;
	double		found = -1;
	List	   *others = NIL;
	ListCell   *lc;

	*est = *scan;
	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		LogqFieldCondition cond = {0};
		LogqFieldSpread spread = {0};
		List	   *params = NIL;
		List	   *step;

		if (scan->known &&
			logq_take_equality(ship, (Node *) rinfo->clause, &cond))
			logq_field_spread(scan, cond.field, &spread);
		if (spread.distinct > 0)
		{
			double		s = cond.nvalues * spread.not_null / spread.distinct;

			s = Min(s, 1);
			rows *= s;
			found = found < 0 ? s * scan->total : Min(found, s * scan->total);
			continue;
		}
		step = logq_prune_step(ship, rinfo->clause, &params);
		if (step != NIL &&
			list_nth_int(step, LOGQ_PRUNE_COLUMN) == LOGQ_COL_ID &&
			list_nth_int(step, LOGQ_PRUNE_OP) == LOGQ_PRUNE_EQ)
		{
			rows = Min(rows, 1);
			found = 1;
			continue;
		}
		others = lappend(others, rinfo);
	}
	if (others != NIL)
		rows *= clauselist_selectivity(ship->root, others, ship->rel->relid,
									   JOIN_INNER, NULL);
	est->rows = rows;
	if (found >= 0)
		use_index(est, found);
}

/* See estimate.h. */
void
logq_field_spread(const LogqEstimate *est, const char *field,
				  LogqFieldSpread *spread)
{
	LogqFieldCondition cond = {0};
	LogqRangeSum *sums;
	int			nsums = logq_sum_partitions(est, true, &sums);

	cond.field = unconstify(char *, field);
	cond.unknown = true;
	cond.nvalues = 1;
	spread->distinct = 0;
	spread->not_null = 1;
	(void) field_selectivity(&cond, &est->bounds, sums, nsums, spread);
}
