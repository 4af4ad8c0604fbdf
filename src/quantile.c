/*-------------------------------------------------------------------------
 *
 * quantile.c
 *		percentile_cont() and percentile_disc() of arrays of values.
 *
 * Partitions gather the values of each group and segment in an array.  Here
 * these are sorted, group by group, in a tuplesort, which goes to disk beyond
 * work_mem, as with core's aggregates.  So is the result, to the last bit.
 *
 * Several percentiles of the same values share a state, and are looked up one
 * after the other.
 *
 * Failure cases: the tuplesort ends with the group, by callback, or on abort
 * with its resource owner and memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplesort.h"

PG_FUNCTION_INFO_V1(logq_quantile_add);
PG_FUNCTION_INFO_V1(logq_quantile_cont);
PG_FUNCTION_INFO_V1(logq_quantile_disc);

typedef struct QuantileState
{
	Tuplesortstate *sort;
	int64		count;
	bool		sorted;
} QuantileState;

/*
 * The group is done with.
 */
static void
end_sort(Datum arg)
{
	QuantileState *state = (QuantileState *) DatumGetPointer(arg);

	if (state->sort != NULL)
		tuplesort_end(state->sort);
	state->sort = NULL;
}

/*
 * A state for the first values of a group.
 */
static QuantileState *
make_state(FunctionCallInfo fcinfo, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	QuantileState *state = palloc0(sizeof(QuantileState));

	state->sort = tuplesort_begin_datum(FLOAT8OID, Float8LessOperator,
										InvalidOid, false, work_mem, NULL,
										TUPLESORT_RANDOMACCESS);
	AggRegisterCallback(fcinfo, end_sort, PointerGetDatum(state));
	MemoryContextSwitchTo(old);
	return state;
}

/*
 * Take the elements of an array.  NULL is not counted.
 */
Datum
logq_quantile_add(PG_FUNCTION_ARGS)
{
	MemoryContext cxt;
	QuantileState *state;
	ArrayType  *array;
	Datum	   *values;
	bool	   *nulls;
	int			n;

	if (!AggCheckCallContext(fcinfo, &cxt))
		elog(ERROR, "aggregate function called in non-aggregate context");
	state = PG_ARGISNULL(0) ? NULL : (QuantileState *) PG_GETARG_POINTER(0);
	if (state == NULL)
		state = make_state(fcinfo, cxt);
	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(state);
	array = PG_GETARG_ARRAYTYPE_P(1);
	deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			continue;
		tuplesort_putdatum(state->sort, values[i], false);
		state->count++;
	}
	PG_RETURN_POINTER(state);
}

/*
 * What the final functions begin with, as core's do.  False: the result is
 * NULL.
 */
static bool
begin_final(FunctionCallInfo fcinfo, QuantileState **state, double *fraction)
{
	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "aggregate function called in non-aggregate context");
	if (PG_ARGISNULL(1))
		return false;
	*fraction = PG_GETARG_FLOAT8(1);
	if (!(*fraction >= 0.0 && *fraction <= 1.0))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("percentile value %g is not between 0 and 1",
						*fraction)));
	if (PG_ARGISNULL(0))
		return false;
	*state = (QuantileState *) PG_GETARG_POINTER(0);
	if ((*state)->count == 0)
		return false;
	if ((*state)->sorted)
		tuplesort_rescan((*state)->sort);
	else
		tuplesort_performsort((*state)->sort);
	(*state)->sorted = true;
	return true;
}

/*
 * The value after so many others.
 */
static double
value_after(QuantileState *state, int64 skip)
{
	Datum		value;
	bool		isnull;

	if (!tuplesort_skiptuples(state->sort, skip, true) ||
		!logq_tuplesort_getdatum(state->sort, &value, &isnull) || isnull)
		elog(ERROR, "missing value in a percentile");
	return DatumGetFloat8(value);
}

/*
 * As percentile_cont(), computed in the same way.
 */
Datum
logq_quantile_cont(PG_FUNCTION_ARGS)
{
	QuantileState *state;
	double		fraction;
	double		at;
	int64		first;
	double		low;
	double		high;

	if (!begin_final(fcinfo, &state, &fraction))
		PG_RETURN_NULL();
	at = fraction * (state->count - 1);
	first = (int64) floor(at);
	low = value_after(state, first);
	if ((int64) ceil(at) == first)
		PG_RETURN_FLOAT8(low);
	high = value_after(state, 0);
	PG_RETURN_FLOAT8(low + (at - first) * (high - low));
}

/*
 * As percentile_disc().
 */
Datum
logq_quantile_disc(PG_FUNCTION_ARGS)
{
	QuantileState *state;
	double		fraction;
	int64		at;

	if (!begin_final(fcinfo, &state, &fraction))
		PG_RETURN_NULL();
	at = (int64) ceil(fraction * state->count) - 1;
	PG_RETURN_FLOAT8(value_after(state, Max(at, 0)));
}
