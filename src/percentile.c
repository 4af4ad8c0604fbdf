/*-------------------------------------------------------------------------
 *
 * percentile.c
 *		logq.approx_percentile(): a percentile to 1 % of its value.
 *
 * Values are counted in buckets, each within 1 % of its middle, as DDSketch
 * does (Masson, Rim, Lee: DDSketch, VLDB 2019).  The result is the middle of
 * the bucket that holds the value which percentile_disc() returns.  The
 * buckets do not depend on what they hold, so partial counts just add up: that
 * is what lets partitions do their part of it by GROUP BY bucket and count(*),
 * and approx.h has the SQL for that.
 *
 * DDSketch takes the logarithm of the value, and needs a case for negative
 * ones and one for zero.  asinh() has both in it, so that the value is used
 * once in the SQL, where it may be a costly expression.
 *
 * asinh() is the C library's, and another one may put a value that lies on the
 * border of two buckets into the other one.  That is within the error.
 *
 * The state is a hash table by the number of the bucket, which grows with the
 * number of buckets that are used: some hundred as a rule, 71,000 for values
 * of all magnitudes and both signs that a float8 can have.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"

#include "approx.h"

#include <math.h>

#include "common/int.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/memutils.h"

/* log2 of the slots that a state begins with */
#define FIRST_LOG2_SIZE 4

typedef struct Bucket
{
	int64		rows;			/* 0: free */
	int32		number;
} Bucket;

typedef struct PercentileState
{
	bool		has_fraction;	/* a row was seen */
	bool		null_fraction;
	double		fraction;
	int64		rows;
	uint32		log2_size;
	uint32		used;
	Bucket	   *buckets;
} PercentileState;

/* A state on its way between processes, followed by the buckets in use */
typedef struct SerialState
{
	bool		has_fraction;
	bool		null_fraction;
	uint32		used;
	double		fraction;
} SerialState;

PG_FUNCTION_INFO_V1(logq_percentile_bucket);
PG_FUNCTION_INFO_V1(logq_percentile_add);
PG_FUNCTION_INFO_V1(logq_percentile_merge);
PG_FUNCTION_INFO_V1(logq_percentile_combine);
PG_FUNCTION_INFO_V1(logq_percentile_serialize);
PG_FUNCTION_INFO_V1(logq_percentile_deserialize);
PG_FUNCTION_INFO_V1(logq_percentile_final);

/* ---------- buckets ---------- */

/*
 * The bucket of a value: step by step what LOGQ_PERCENTILE_BUCKET_SQL does.
 * NaN is greater than all numbers there.
 */
static int32
value_bucket(double value)
{
	if (isnan(value) || value > LOGQ_PERCENTILE_MAX)
		value = LOGQ_PERCENTILE_MAX;
	else if (value < -LOGQ_PERCENTILE_MAX)
		value = -LOGQ_PERCENTILE_MAX;
	return (int32) rint(asinh(value * LOGQ_PERCENTILE_SCALE) *
						LOGQ_PERCENTILE_DENSITY);
}

/*
 * The middle of a bucket.
 */
static double
bucket_value(int32 number)
{
	if (number >= LOGQ_PERCENTILE_LAST)
		return get_float8_infinity();
	if (number <= -LOGQ_PERCENTILE_LAST)
		return -get_float8_infinity();
	return sinh((double) number / LOGQ_PERCENTILE_DENSITY) /
		LOGQ_PERCENTILE_SCALE;
}

Datum
logq_percentile_bucket(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(value_bucket(PG_GETARG_FLOAT8(0)));
}

/* ---------- the state ---------- */

static uint32
state_size(const PercentileState *state)
{
	return UINT32_C(1) << state->log2_size;
}

/*
 * Make an empty state, with room for some buckets.
 */
static PercentileState *
make_state(MemoryContext cxt, uint32 nbuckets)
{
	PercentileState *state = MemoryContextAllocZero(cxt,
													sizeof(PercentileState));

	state->log2_size = FIRST_LOG2_SIZE;
	while (nbuckets > state_size(state) / 4 * 3)
		state->log2_size++;
	state->buckets = MemoryContextAllocZero(cxt, state_size(state) *
											sizeof(Bucket));
	return state;
}

/*
 * The slot of a bucket, or a free one for it.  Numbers follow each other, so
 * they are spread by a multiplication.
 */
static inline Bucket *
find_bucket(PercentileState *state, int32 number)
{
	uint32		mask = state_size(state) - 1;
	uint32		i = (uint32) number * UINT32_C(0x9e3779b1) >>
		(32 - state->log2_size);

	while (state->buckets[i].rows != 0 && state->buckets[i].number != number)
		i = (i + 1) & mask;
	return &state->buckets[i];
}

/*
 * Double the number of slots.
 */
static void
grow(PercentileState *state)
{
	Bucket	   *old = state->buckets;
	uint32		old_size = state_size(state);

	state->buckets = MemoryContextAllocZero(GetMemoryChunkContext(old),
											2 * old_size * sizeof(Bucket));
	state->log2_size++;
	for (uint32 i = 0; i < old_size; i++)
	{
		if (old[i].rows != 0)
			*find_bucket(state, old[i].number) = old[i];
	}
	pfree(old);
}

/*
 * Count rows in a bucket.
 */
static void
add_rows(PercentileState *state, int32 number, int64 rows)
{
	Bucket	   *bucket;

	if (rows == 0)
		return;
	/* no bucket has more than all together */
	if (pg_add_s64_overflow(state->rows, rows, &state->rows))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint out of range")));
	bucket = find_bucket(state, number);
	if (bucket->rows == 0)
	{
		if (state->used >= state_size(state) / 4 * 3)
		{
			grow(state);
			bucket = find_bucket(state, number);
		}
		bucket->number = number;
		state->used++;
	}
	bucket->rows += rows;
}

/*
 * Note the fraction of a row, which is to be the same for all rows: an
 * aggregate has no other way to take a parameter but from its rows, if it is
 * not to sort them.
 */
static void
note_fraction(PercentileState *state, bool isnull, double fraction)
{
	if (!state->has_fraction)
	{
		if (!isnull && !(fraction >= 0.0 && fraction <= 1.0))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("percentile value %g is not between 0 and 1",
							fraction)));
		state->has_fraction = true;
		state->null_fraction = isnull;
		state->fraction = fraction;
	}
	else if (state->null_fraction != isnull ||
			 (!isnull && state->fraction != fraction))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the fraction of an approximate percentile must not differ between rows"),
				 errhint("Use GROUP BY, or several aggregates, for several fractions.")));
}

/*
 * The state that the first argument is, or NULL.
 */
static PercentileState *
get_state(FunctionCallInfo fcinfo, MemoryContext *cxt)
{
	if (!AggCheckCallContext(fcinfo, cxt))
		elog(ERROR, "aggregate function called in non-aggregate context");
	return PG_ARGISNULL(0) ? NULL : (PercentileState *) PG_GETARG_POINTER(0);
}

/*
 * The same for a row, whose fraction is an argument: the state is made if
 * need be.
 */
static PercentileState *
row_state(FunctionCallInfo fcinfo, int argno)
{
	MemoryContext cxt;
	PercentileState *state = get_state(fcinfo, &cxt);

	if (state == NULL)
		state = make_state(cxt, 0);
	if (PG_ARGISNULL(argno))
		note_fraction(state, true, 0.0);
	else
		note_fraction(state, false, PG_GETARG_FLOAT8(argno));
	return state;
}

/* ---------- the aggregates' functions ---------- */

/*
 * Count a value.
 */
Datum
logq_percentile_add(PG_FUNCTION_ARGS)
{
	PercentileState *state = row_state(fcinfo, 2);

	if (!PG_ARGISNULL(1))
		add_rows(state, value_bucket(PG_GETARG_FLOAT8(1)), 1);
	PG_RETURN_POINTER(state);
}

/*
 * Add what a partition has counted in one bucket.
 */
Datum
logq_percentile_merge(PG_FUNCTION_ARGS)
{
	PercentileState *state = row_state(fcinfo, 3);

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2))
	{
		int32		number = PG_GETARG_INT32(1);
		int64		rows = PG_GETARG_INT64(2);

		if (number < -LOGQ_PERCENTILE_LAST || number > LOGQ_PERCENTILE_LAST ||
			rows < 0)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("bucket %d with %lld rows is not one of logq.approx_percentile()",
							number, (long long) rows)));
		add_rows(state, number, rows);
	}
	PG_RETURN_POINTER(state);
}

/*
 * Add one state to another.
 */
Datum
logq_percentile_combine(PG_FUNCTION_ARGS)
{
	MemoryContext cxt;
	PercentileState *state = get_state(fcinfo, &cxt);
	PercentileState *other;

	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	other = (PercentileState *) PG_GETARG_POINTER(1);
	if (state == NULL)
		state = make_state(cxt, other->used);
	if (other->has_fraction)
		note_fraction(state, other->null_fraction, other->fraction);
	for (uint32 i = 0; i < state_size(other); i++)
		add_rows(state, other->buckets[i].number, other->buckets[i].rows);
	PG_RETURN_POINTER(state);
}

/*
 * A state for another process.
 */
Datum
logq_percentile_serialize(PG_FUNCTION_ARGS)
{
	PercentileState *state = get_state(fcinfo, NULL);
	Size		len = VARHDRSZ + sizeof(SerialState) +
		state->used * sizeof(Bucket);
	bytea	   *result = palloc0(len);
	char	   *to = VARDATA(result);
	SerialState serial = {0};

	SET_VARSIZE(result, len);
	serial.has_fraction = state->has_fraction;
	serial.null_fraction = state->null_fraction;
	serial.used = state->used;
	serial.fraction = state->fraction;
	memcpy(to, &serial, sizeof(SerialState));
	to += sizeof(SerialState);
	for (uint32 i = 0; i < state_size(state); i++)
	{
		if (state->buckets[i].rows != 0)
		{
			memcpy(to, &state->buckets[i], sizeof(Bucket));
			to += sizeof(Bucket);
		}
	}
	PG_RETURN_BYTEA_P(result);
}

/*
 * Such a state back from another process.
 */
Datum
logq_percentile_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	const char *from = VARDATA_ANY(bytes);
	SerialState serial;
	PercentileState *state;

	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "aggregate function called in non-aggregate context");
	memcpy(&serial, from, sizeof(SerialState));
	from += sizeof(SerialState);
	state = make_state(CurrentMemoryContext, serial.used);
	if (serial.has_fraction)
		note_fraction(state, serial.null_fraction, serial.fraction);
	for (uint32 i = 0; i < serial.used; i++)
	{
		Bucket		bucket;

		memcpy(&bucket, from + i * sizeof(Bucket), sizeof(Bucket));
		add_rows(state, bucket.number, bucket.rows);
	}
	PG_RETURN_POINTER(state);
}

static int
compare_buckets(const void *a, const void *b)
{
	int32		x = ((const Bucket *) a)->number;
	int32		y = ((const Bucket *) b)->number;

	return (x > y) - (x < y);
}

/*
 * The result: from the bucket where the row is whose number percentile_disc()
 * would take.  NULL when there are no values, or the fraction is NULL.
 */
Datum
logq_percentile_final(PG_FUNCTION_ARGS)
{
	PercentileState *state = get_state(fcinfo, NULL);
	Bucket	   *sorted;
	uint32		n = 0;
	int64		wanted;
	int64		seen;

	if (state == NULL || state->rows == 0 || state->null_fraction)
		PG_RETURN_NULL();

	/* the state is not ours to change */
	sorted = palloc(state->used * sizeof(Bucket));
	for (uint32 i = 0; i < state_size(state); i++)
	{
		if (state->buckets[i].rows != 0)
			sorted[n++] = state->buckets[i];
	}
	qsort(sorted, n, sizeof(Bucket), compare_buckets);

	wanted = (int64) ceil(state->fraction * state->rows);
	seen = sorted[0].rows;
	for (uint32 i = 1; i < n; i++)
	{
		if (seen >= wanted)
		{
			n = i;
			break;
		}
		seen += sorted[i].rows;
	}
	PG_RETURN_FLOAT8(bucket_value(sorted[n - 1].number));
}
