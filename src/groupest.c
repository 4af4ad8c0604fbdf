/*-------------------------------------------------------------------------
 *
 * groupest.c
 *		How many groups a query has, for the planner.
 *
 * Core would take each ts for a group of its own: of date_trunc('day', ts) it
 * knows no more than that it depends on ts.  We know how long a step is, and
 * from when to when there are rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "plan.h"

#include "catalog/pg_type.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/selfuncs.h"
#include "utils/timestamp.h"

/*
 * Width of a step in us, as far as it can be told, 0: not at all.  Fields come
 * back again, so they are as if steps were long.
 */
static double
nominal_step(const List *step)
{
	const Const *first = list_nth(step, LOGQ_STEP_FIRST);

	if (intVal(list_nth(step, LOGQ_STEP_KIND)) == LOGQ_STEP_DAY)
		return USECS_PER_DAY;
	if (first == NULL || !IsA(first, Const) || first->constisnull)
		return 0;
	switch (intVal(list_nth(step, LOGQ_STEP_KIND)))
	{
		case LOGQ_STEP_BIN:
			{
				const Interval *stride = DatumGetIntervalP(first->constvalue);

				return (double) stride->day * USECS_PER_DAY + stride->time;
			}
		case LOGQ_STEP_EPOCH:
		case LOGQ_STEP_EPOCH_DOUBLE:
			if (first->consttype == INT4OID)
				return (double) DatumGetInt32(first->constvalue) *
					USECS_PER_SEC;
			if (first->consttype == FLOAT8OID)
				return DatumGetFloat8(first->constvalue) * USECS_PER_SEC;
			if (first->consttype == NUMERICOID)
				return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
														  first->constvalue)) *
					USECS_PER_SEC;
			return 0;
		case LOGQ_STEP_UNIT:
			return logq_nominal_unit(TextDatumGetCString(first->constvalue));
		default:
			return USECS_PER_DAY;
	}
}

/*
 * The stretch of time that rows are expected in, in us.
 */
static double
expected_range(const LogqEstimate *est)
{
	double		low = est->bounds.ts_high;
	double		high = est->bounds.ts_low;
	ListCell   *lc;

	foreach(lc, logq_partitions())
	{
		const LogqPartition *part = lfirst(lc);

		if (!part->loaded || part->nsegments == 0)
			continue;
		low = Min(low, (double) part->segments[0].lower);
		high = Max(high, (double) part->segments[part->nsegments - 1].upper);
	}
	low = Max(low, (double) est->bounds.ts_low);
	high = Min(high, (double) est->bounds.ts_high);
	return Max(high - low, 1);
}

/*
 * See plan.h.
 */
double
logq_estimate_groups(PlannerInfo *root, LogqRelInfo *info, List *keys,
					 double rows)
{
	double		groups = 1;
	List	   *others = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, keys)
	{
		Node	   *key = lfirst(lc);
		LogqDependence dep = {0};
		double		shortest = 0;
		bool		by_row = false;

		if (!logq_find_dependence(&info->ship, key, &dep) || !dep.steps)
		{
			others = lappend(others, key);
			continue;
		}
		for (int col = 0; col < LOGQ_NCOLUMNS; col++)
			by_row |= dep.columns[col];
		if (by_row)
			others = lappend(others, key);
		foreach(lc2, dep.found)
		{
			double		step = nominal_step(lfirst(lc2));

			if (step > 0 && (shortest == 0 || step < shortest))
				shortest = step;
		}
		groups *= shortest > 0 ?
			expected_range(&info->estimate) / shortest + 1 :
			DEFAULT_NUM_DISTINCT;
	}
	if (others != NIL)
		groups *= estimate_num_groups(root, others, rows, NULL, NULL);
	return clamp_row_est(Min(groups, rows));
}
