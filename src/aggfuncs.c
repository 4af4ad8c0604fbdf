/*-------------------------------------------------------------------------
 *
 * aggfuncs.c
 *		Results of aggregates from partial results of the partitions.
 *
 * Most of that is done by aggregates over PostgreSQL's own functions, see the
 * extension's script.  Here is what those leave over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(logq_numeric_deviation);

/* digits that the root is computed to, beyond those that are kept */
#define ROOT_GUARD_DIGITS 20

static Datum
multiply(Datum a, Datum b)
{
	return DirectFunctionCall2(numeric_mul, a, b);
}

static Datum
round_to(Datum value, int32 scale)
{
	return DirectFunctionCall2(numeric_round, value, Int32GetDatum(scale));
}

/*
 * The variance of n values, or its root, the standard deviation, from their
 * sum and the sum of their squares.
 *
 * Step by step what numeric_stddev_internal() does for var_pop() and the like,
 * so that value and scale are the same.  A standard deviation is the root of
 * the variance as it was rounded, and has the same scale.  sqrt() of a numeric
 * chooses its scale itself, but not below that of its argument: so it is made
 * to compute more digits than are kept.  That these are then rounded twice
 * makes no difference unless all the further ones are 4999... or 5000...
 */
Datum
logq_numeric_deviation(PG_FUNCTION_ARGS)
{
	int64		n = PG_GETARG_INT64(0);
	Datum		sum = PG_GETARG_DATUM(1);
	Datum		squares = PG_GETARG_DATUM(2);
	bool		sample = PG_GETARG_BOOL(3);
	bool		root = PG_GETARG_BOOL(4);
	Datum		count = NumericGetDatum(int64_to_numeric(n));
	Datum		zero = NumericGetDatum(int64_to_numeric(0));
	Datum		numerator;
	Datum		denominator;
	Datum		result;
	int32		scale;

	if (n <= (sample ? 1 : 0))
		PG_RETURN_NULL();

	/* an infinite value, or one that is none, leaves nothing to compute */
	if (numeric_is_nan(DatumGetNumeric(sum)) ||
		numeric_is_inf(DatumGetNumeric(sum)) ||
		numeric_is_nan(DatumGetNumeric(squares)) ||
		numeric_is_inf(DatumGetNumeric(squares)))
		PG_RETURN_DATUM(DirectFunctionCall3(numeric_in,
											CStringGetDatum("NaN"),
											ObjectIdGetDatum(InvalidOid),
											Int32GetDatum(-1)));

	numerator = DirectFunctionCall2(numeric_sub, multiply(count, squares),
									multiply(sum, sum));
	if (!DatumGetBool(DirectFunctionCall2(numeric_gt, numerator, zero)))
		PG_RETURN_DATUM(zero);
	denominator = multiply(count,
						   NumericGetDatum(int64_to_numeric(sample ? n - 1 :
															n)));
	result = DirectFunctionCall2(numeric_div, numerator, denominator);
	if (root)
	{
		scale = DatumGetInt32(DirectFunctionCall1(numeric_scale, result));
		result = round_to(result, scale + ROOT_GUARD_DIGITS);
		result = round_to(DirectFunctionCall1(numeric_sqrt, result), scale);
	}
	PG_RETURN_DATUM(result);
}
