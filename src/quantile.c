/*-------------------------------------------------------------------------
 *
 * quantile.c
 *		percentile_cont() and percentile_disc() of arrays of values.
 *
 * Partitions gather the values of each group and segment in an array.  Here
 * these are put together, group by group.  As long as they fit into work_mem,
 * one or two of them are selected, which takes a fraction of the time of
 * sorting them all.  Beyond that they go to a tuplesort, which goes to disk, as
 * with core's aggregates.  The result is theirs, to the last bit.
 *
 * Several percentiles of the same values share a state, and are looked up one
 * after the other.
 *
 * In memory, a value is a number without sign that compares as the value does:
 * NaN is the greatest, and there is one NaN only.  (Zero with a minus comes
 * before the other one.  For core they are equal, and come in any order.)
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
#include "common/pg_prng.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

PG_FUNCTION_INFO_V1(logq_quantile_add);
PG_FUNCTION_INFO_V1(logq_quantile_cont);
PG_FUNCTION_INFO_V1(logq_quantile_disc);

/* values for which there is room in the beginning */
#define FIRST_ROOM 64
/* that few are sorted rather than split further */
#define FEW 16

#define SIGN UINT64CONST(0x8000000000000000)

typedef struct QuantileState
{
	MemoryContext cxt;
	int64		count;
	/* as long as they fit */
	uint64	   *keys;
	int64		room;
	/* then */
	Tuplesortstate *sort;
	bool		sorted;
} QuantileState;

/* ---------- values in memory ---------- */

static inline uint64
key_of(double value)
{
	union
	{
		double		value;
		uint64		bits;
	}			u;

	u.value = unlikely(isnan(value)) ? get_float8_nan() : value;
	return u.bits & SIGN ? ~u.bits : u.bits | SIGN;
}

static inline double
value_of(uint64 key)
{
	union
	{
		double		value;
		uint64		bits;
	}			u;

	u.bits = key & SIGN ? key & ~SIGN : ~key;
	return u.value;
}

static void
sort_few(uint64 *keys, int64 n)
{
	for (int64 i = 1; i < n; i++)
	{
		uint64		key = keys[i];
		int64		j = i;

		for (; j > 0 && keys[j - 1] > key; j--)
			keys[j] = keys[j - 1];
		keys[j] = key;
	}
}

/*
 * The middle one of three, drawn by lot: there is no order of values that would
 * make this slow more than by chance.
 */
static uint64
choose_pivot(const uint64 *keys, int64 n)
{
	uint64		a = keys[pg_prng_uint64_range(&pg_global_prng_state, 0, n - 1)];
	uint64		b = keys[pg_prng_uint64_range(&pg_global_prng_state, 0, n - 1)];
	uint64		c = keys[pg_prng_uint64_range(&pg_global_prng_state, 0, n - 1)];

	return Max(Min(a, b), Min(Max(a, b), c));
}

/*
 * Bring the k-th smallest key (from 0) to its place, smaller ones before it,
 * greater ones behind it.  Keys are split into smaller, equal and greater ones,
 * as many values come again and again in logs.
 */
static void
select_key(uint64 *keys, int64 n, int64 k)
{
	while (n > FEW)
	{
		uint64		pivot = choose_pivot(keys, n);
		int64		less = 0;
		int64		greater = n;

		CHECK_FOR_INTERRUPTS();
		for (int64 i = 0; i < greater;)
		{
			uint64		key = keys[i];

			if (key < pivot)
			{
				keys[i++] = keys[less];
				keys[less++] = key;
			}
			else if (key > pivot)
			{
				keys[i] = keys[--greater];
				keys[greater] = key;
			}
			else
				i++;
		}
		if (k < less)
			n = less;
		else if (k >= greater)
		{
			keys += greater;
			n -= greater;
			k -= greater;
		}
		else
			return;
	}
	sort_few(keys, n);
}

/* ---------- the state ---------- */

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
	QuantileState *state = MemoryContextAllocZero(cxt, sizeof(QuantileState));

	state->cxt = cxt;
	state->room = FIRST_ROOM;
	state->keys = MemoryContextAlloc(cxt, state->room * sizeof(uint64));
	AggRegisterCallback(fcinfo, end_sort, PointerGetDatum(state));
	return state;
}

/*
 * There are more values than memory is allowed for: hand them to a sort.
 */
static void
begin_sort(QuantileState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->cxt);

	state->sort = tuplesort_begin_datum(FLOAT8OID, Float8LessOperator,
										InvalidOid, false, work_mem, NULL,
										TUPLESORT_RANDOMACCESS);
	MemoryContextSwitchTo(old);
	for (int64 i = 0; i < state->count; i++)
		tuplesort_putdatum(state->sort,
						   Float8GetDatum(value_of(state->keys[i])), false);
	pfree(state->keys);
	state->keys = NULL;
}

/*
 * Make room for more values in memory, or in a sort if that is too much.
 */
static void
make_room(QuantileState *state, int64 n)
{
	int64		needed = state->count + n;
	int64		most = work_mem * INT64CONST(1024) / sizeof(uint64);

	if (state->sort != NULL || needed <= state->room)
		return;
	if (needed > most)
	{
		begin_sort(state);
		return;
	}
	state->room = Min(Max(needed, 2 * state->room), most);
	state->keys = repalloc_huge(state->keys, state->room * sizeof(uint64));
}

static inline void
add_value(QuantileState *state, double value)
{
	if (state->sort != NULL)
		tuplesort_putdatum(state->sort, Float8GetDatum(value), false);
	else
		state->keys[state->count] = key_of(value);
	state->count++;
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
	n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	make_room(state, n);
	if (!ARR_HASNULL(array))
	{
		const float8 *elements = (const float8 *) ARR_DATA_PTR(array);

		for (int i = 0; i < n; i++)
			add_value(state, elements[i]);
		PG_RETURN_POINTER(state);
	}
	deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			add_value(state, DatumGetFloat8(values[i]));
	}
	PG_RETURN_POINTER(state);
}

/* ---------- the results ---------- */

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
	if ((*state)->sort == NULL)
		return true;
	if ((*state)->sorted)
		tuplesort_rescan((*state)->sort);
	else
		tuplesort_performsort((*state)->sort);
	(*state)->sorted = true;
	return true;
}

/*
 * The next value of a sort, after some others.
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
 * The value after so many smaller ones; next, if wanted: the one after it.
 */
static double
value_at(QuantileState *state, int64 at, double *next)
{
	double		value;
	uint64		key;

	if (state->sort != NULL)
	{
		value = value_after(state, at);
		if (next != NULL)
			*next = value_after(state, 0);
		return value;
	}
	select_key(state->keys, state->count, at);
	if (next != NULL)
	{
		key = state->keys[at + 1];
		for (int64 i = at + 2; i < state->count; i++)
			key = Min(key, state->keys[i]);
		*next = value_of(key);
	}
	return value_of(state->keys[at]);
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
	if ((int64) ceil(at) == first)
		PG_RETURN_FLOAT8(value_at(state, first, NULL));
	low = value_at(state, first, &high);
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
	PG_RETURN_FLOAT8(value_at(state, Max(at, 0), NULL));
}
