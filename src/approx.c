/*-------------------------------------------------------------------------
 *
 * approx.c
 *		logq.approx_count_distinct(): about how many values there are.
 *
 * Each value is hashed.  Some bits of the hash choose one of 4096 buckets, and
 * of the others, the rest, each bucket keeps the least.  A value that occurs
 * again changes nothing, and the states of two sets of values, bucket by
 * bucket the lesser of both, are the state of the union: that is what lets
 * partitions do their part of it by GROUP BY bucket and min(rest), and
 * approx.h has the SQL for that.
 *
 * The registers of HyperLogLog hold only the number of zeros that the least
 * rest begins with.  Here it is known exactly, and that makes the estimate
 * simple and a little better.  n different values spread over m buckets: the
 * numbers of a bucket are close to Poisson distributed, and so the least rest
 * of one (as a number from 0 to 1) to an exponential distribution of the rate
 * n/m, cut off at 1 when the bucket is empty.  The likeliest rate given m such
 * numbers, k of them not cut off, is k divided by their sum.  So n is taken
 * for m * k / sum.  It needs no correction for few values, as HyperLogLog does
 * (linear counting); its standard error rises from 0.71/sqrt(m) for few to
 * 1/sqrt(m) for many values, that is from 1.1 % to 1.6 %.
 *
 * The state is a hash table by the number of the bucket.  It grows with what
 * is in it, up to one slot for each bucket: a query may have many groups, most
 * of them small.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"

#include "approx.h"

#include <math.h>

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define REST_BITS (64 - LOGQ_DISTINCT_BUCKET_BITS)
#define REST_MAX ((INT64CONST(1) << (REST_BITS - 1)) - 1)
#define REST_MIN (-REST_MAX - 1)

/*
 * A slot has the rest, made unsigned, above the number of the bucket.  The
 * highest number of all means that it is free.
 */
#define SLOT_FREE PG_UINT64_MAX
#define SLOT_BUCKET(slot) ((uint32) (slot) & (LOGQ_DISTINCT_BUCKETS - 1))
#define SLOT_REST(slot) ((slot) >> LOGQ_DISTINCT_BUCKET_BITS)

#define FIRST_SIZE 16

typedef struct DistinctState
{
	uint32		size;			/* a power of 2 */
	uint32		used;
	uint64	   *slots;
} DistinctState;

PG_FUNCTION_INFO_V1(logq_distinct_bucket);
PG_FUNCTION_INFO_V1(logq_distinct_rest);
PG_FUNCTION_INFO_V1(logq_distinct_add);
PG_FUNCTION_INFO_V1(logq_distinct_add_int8);
PG_FUNCTION_INFO_V1(logq_distinct_merge);
PG_FUNCTION_INFO_V1(logq_distinct_combine);
PG_FUNCTION_INFO_V1(logq_distinct_serialize);
PG_FUNCTION_INFO_V1(logq_distinct_deserialize);
PG_FUNCTION_INFO_V1(logq_distinct_final);

/* ---------- the hash ---------- */

/*
 * The same as hashtextextended(value COLLATE "C", 0).
 */
static uint64
hash_value(const char *value, int len)
{
	return hash_bytes_extended((const unsigned char *) value, len, 0);
}

static uint64
hash_text(text *value)
{
	return hash_value(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

Datum
logq_distinct_bucket(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(SLOT_BUCKET(hash_text(PG_GETARG_TEXT_PP(0))));
}

/*
 * The hash without the bits of the bucket, as >> on a bigint gives it.
 */
Datum
logq_distinct_rest(PG_FUNCTION_ARGS)
{
	uint64		hash = hash_text(PG_GETARG_TEXT_PP(0));

	PG_RETURN_INT64((int64) SLOT_REST(hash ^ (UINT64CONST(1) << 63)) +
					REST_MIN);
}

/* ---------- the state ---------- */

/*
 * Make an empty state, with room for some buckets.
 */
static DistinctState *
make_state(MemoryContext cxt, uint32 nbuckets)
{
	DistinctState *state = MemoryContextAlloc(cxt, sizeof(DistinctState));

	state->size = FIRST_SIZE;
	while (state->size < LOGQ_DISTINCT_BUCKETS &&
		   nbuckets > state->size / 4 * 3)
		state->size *= 2;
	state->used = 0;
	state->slots = MemoryContextAlloc(cxt, state->size * sizeof(uint64));
	memset(state->slots, 0xff, state->size * sizeof(uint64));
	return state;
}

/*
 * The slot of a bucket, or a free one for it.
 */
static inline uint64 *
find_slot(DistinctState *state, uint32 bucket)
{
	uint32		mask = state->size - 1;
	uint32		i = bucket & mask;

	/* with a slot for each bucket, the first one is always it */
	while (state->slots[i] != SLOT_FREE &&
		   SLOT_BUCKET(state->slots[i]) != bucket)
		i = (i + 1) & mask;
	return &state->slots[i];
}

/*
 * Double the number of slots.
 */
static void
grow(DistinctState *state)
{
	uint64	   *old = state->slots;
	uint32		old_size = state->size;

	state->slots = MemoryContextAlloc(GetMemoryChunkContext(old),
									  2 * old_size * sizeof(uint64));
	state->size = 2 * old_size;
	memset(state->slots, 0xff, state->size * sizeof(uint64));
	for (uint32 i = 0; i < old_size; i++)
	{
		if (old[i] != SLOT_FREE)
			*find_slot(state, SLOT_BUCKET(old[i])) = old[i];
	}
	pfree(old);
}

/*
 * Add what a slot holds.
 */
static inline void
add_value(DistinctState *state, uint64 value)
{
	uint64	   *slot = find_slot(state, SLOT_BUCKET(value));

	if (*slot != SLOT_FREE)
		*slot = Min(*slot, value);
	else if (state->size < LOGQ_DISTINCT_BUCKETS &&
			 state->used >= state->size / 4 * 3)
	{
		grow(state);
		add_value(state, value);
	}
	else
	{
		/* the one value that means something else loses its lowest bit */
		*slot = value == SLOT_FREE ?
			value - LOGQ_DISTINCT_BUCKETS : value;
		state->used++;
	}
}

/*
 * The state that the first argument is.  A new one if there is none and make
 * is set.
 */
static DistinctState *
get_state(FunctionCallInfo fcinfo, bool make)
{
	MemoryContext cxt;

	if (!AggCheckCallContext(fcinfo, &cxt))
		elog(ERROR, "aggregate function called in non-aggregate context");
	if (!PG_ARGISNULL(0))
		return (DistinctState *) PG_GETARG_POINTER(0);
	return make ? make_state(cxt, 0) : NULL;
}

/* what a transition function returns */
static Datum
return_state(FunctionCallInfo fcinfo, DistinctState *state)
{
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/* ---------- the aggregates' functions ---------- */

/*
 * Add a text.
 */
Datum
logq_distinct_add(PG_FUNCTION_ARGS)
{
	DistinctState *state = get_state(fcinfo, !PG_ARGISNULL(1));

	/* a hash has the order of its rest when its top bit is turned over */
	if (!PG_ARGISNULL(1))
	{
		text	   *value = PG_GETARG_TEXT_PP(1);

		add_value(state, hash_text(value) ^ (UINT64CONST(1) << 63));
		PG_FREE_IF_COPY(value, 1);
	}
	return return_state(fcinfo, state);
}

/*
 * Add a bigint, which is hashed as text: a partition could hash it as it is,
 * but comes to 32 bits only.
 */
Datum
logq_distinct_add_int8(PG_FUNCTION_ARGS)
{
	DistinctState *state = get_state(fcinfo, !PG_ARGISNULL(1));

	if (!PG_ARGISNULL(1))
	{
		char		value[MAXINT8LEN + 1];
		int			len = pg_lltoa(PG_GETARG_INT64(1), value);

		add_value(state, hash_value(value, len) ^ (UINT64CONST(1) << 63));
	}
	return return_state(fcinfo, state);
}

/*
 * Add what a partition has found in one bucket.
 */
Datum
logq_distinct_merge(PG_FUNCTION_ARGS)
{
	bool		known = !PG_ARGISNULL(1) && !PG_ARGISNULL(2);
	DistinctState *state = get_state(fcinfo, known);

	if (known)
	{
		int32		bucket = PG_GETARG_INT32(1);
		int64		rest = PG_GETARG_INT64(2);

		if (bucket < 0 || bucket >= LOGQ_DISTINCT_BUCKETS ||
			rest < REST_MIN || rest > REST_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("bucket %d with rest %lld is not one of logq.approx_count_distinct()",
							bucket, (long long) rest)));
		add_value(state, (uint64) (rest - REST_MIN) <<
				  LOGQ_DISTINCT_BUCKET_BITS | (uint32) bucket);
	}
	return return_state(fcinfo, state);
}

/*
 * Add one state to another.
 */
Datum
logq_distinct_combine(PG_FUNCTION_ARGS)
{
	DistinctState *state = get_state(fcinfo, !PG_ARGISNULL(1));

	if (!PG_ARGISNULL(1))
	{
		DistinctState *other = (DistinctState *) PG_GETARG_POINTER(1);

		for (uint32 i = 0; i < other->size; i++)
		{
			if (other->slots[i] != SLOT_FREE)
				add_value(state, other->slots[i]);
		}
	}
	return return_state(fcinfo, state);
}

/*
 * A state for another process: the slots that are used, as they are.
 */
Datum
logq_distinct_serialize(PG_FUNCTION_ARGS)
{
	DistinctState *state = get_state(fcinfo, false);
	bytea	   *result = palloc(VARHDRSZ + state->used * sizeof(uint64));
	char	   *to = VARDATA(result);

	SET_VARSIZE(result, VARHDRSZ + state->used * sizeof(uint64));
	for (uint32 i = 0; i < state->size; i++)
	{
		if (state->slots[i] != SLOT_FREE)
		{
			memcpy(to, &state->slots[i], sizeof(uint64));
			to += sizeof(uint64);
		}
	}
	PG_RETURN_BYTEA_P(result);
}

/*
 * Such a state back from another process.
 */
Datum
logq_distinct_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *serial = PG_GETARG_BYTEA_PP(0);
	const char *from = VARDATA_ANY(serial);
	uint32		used = VARSIZE_ANY_EXHDR(serial) / sizeof(uint64);
	DistinctState *state;

	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "aggregate function called in non-aggregate context");
	state = make_state(CurrentMemoryContext, used);
	for (uint32 i = 0; i < used; i++)
	{
		uint64		value;

		memcpy(&value, from + i * sizeof(uint64), sizeof(uint64));
		add_value(state, value);
	}
	PG_RETURN_POINTER(state);
}

/*
 * The estimate, see the head of this file.
 */
Datum
logq_distinct_final(PG_FUNCTION_ARGS)
{
	DistinctState *state = get_state(fcinfo, false);
	double		sum;

	if (state == NULL || state->used == 0)
		PG_RETURN_INT64(0);

	sum = LOGQ_DISTINCT_BUCKETS - state->used;
	for (uint32 i = 0; i < state->size; i++)
	{
		if (state->slots[i] != SLOT_FREE)
			sum += ldexp((double) SLOT_REST(state->slots[i]) + 0.5,
						 -REST_BITS);
	}
	PG_RETURN_INT64((int64) rint((double) LOGQ_DISTINCT_BUCKETS *
								 state->used / sum));
}
