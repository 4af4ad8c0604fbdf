/*-------------------------------------------------------------------------
 *
 * epoch.c
 *		Comparisons of seconds since 1970, as comparisons of times.
 *
 * Grafana and others ask for times by
 *
 *		extract(epoch from ts) BETWEEN 1523556000 AND 1523556300
 *		extract(epoch from ts) * 1000000000 >= 1523556000000000000
 *
 * extract() from a timestamptz is marked stable, so partitions cannot be
 * asked that, and it bounds nothing.  But the left side never falls when the
 * time rises.  So all times for which such a comparison holds follow each
 * other, from a first to a last one, and these are found by evaluating the
 * left side itself, with PostgreSQL's own functions, at some times: nothing
 * is said here about how it rounds, nor about infinity.  That goes for
 * date_part(), which returns a float8, as well as for extract().
 *
 * The ends are computed here when the value is a constant; else they are
 * calls of logq.epoch_bound() in the plan, evaluated when the scan starts.
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "plan.h"
#include "shippable.h"

#include <math.h>

#include "access/stratnum.h"
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* all times, in their order: these, and the finite ones in between */
#define TIME_FIRST PG_INT64_MIN
#define TIME_LAST PG_INT64_MAX
#define FINITE_FIRST MIN_TIMESTAMP
#define FINITE_LAST (END_TIMESTAMP - 1)

/*
 * Factors beyond these are not rewritten: they can overflow for some times,
 * which must not be found out here.
 */
#define FACTOR_MIN 1e-100
#define FACTOR_MAX 1e100

/* a strategy of compare_time() that is none of a btree */
#define NOT_EQUAL_STRATEGY InvalidStrategy

/* What the seconds of a time, times the factor, are compared with */
typedef struct EpochValue
{
	Oid			type;			/* NUMERICOID or FLOAT8OID */
	Datum		value;
	Datum		factor;
} EpochValue;

/* One side of a comparison: extract(epoch from time) * factor */
typedef struct EpochExpr
{
	Expr	   *time;
	Const	   *factor;			/* NULL: none */
} EpochExpr;

PG_FUNCTION_INFO_V1(logq_epoch_bound_numeric);
PG_FUNCTION_INFO_V1(logq_epoch_bound_float8);

/* ---------- the times for which a comparison holds ---------- */

/*
 * Compare the left side, at some time, with the value.
 */
static int
compare_at(const EpochValue *epoch, TimestampTz time)
{
	Datum		field = CStringGetTextDatum("epoch");
	Datum		at = TimestampTzGetDatum(time);

	if (epoch->type == FLOAT8OID)
	{
		Datum		left = DirectFunctionCall2(timestamptz_part, field, at);

		left = DirectFunctionCall2(float8mul, left, epoch->factor);
		return float8_cmp_internal(DatumGetFloat8(left),
								   DatumGetFloat8(epoch->value));
	}
	else
	{
		Datum		left = DirectFunctionCall2(extract_timestamptz, field, at);

		left = DirectFunctionCall2(numeric_mul, left, epoch->factor);
		return DatumGetInt32(DirectFunctionCall2(numeric_cmp, left,
												 epoch->value));
	}
}

/*
 * About where the left side comes to the value.
 */
static TimestampTz
guess_time(const EpochValue *epoch)
{
	double		value;
	double		factor;

	if (epoch->type == FLOAT8OID)
	{
		value = DatumGetFloat8(epoch->value);
		factor = DatumGetFloat8(epoch->factor);
	}
	else
	{
		value = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
												   epoch->value));
		factor = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
													epoch->factor));
	}
	value = value / factor * USECS_PER_SEC -
		(double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	if (isnan(value) || value >= (double) FINITE_LAST)
		return FINITE_LAST;
	if (value <= (double) FINITE_FIRST)
		return FINITE_FIRST;
	return (TimestampTz) rint(value);
}

/*
 * The first time at which the left side is not less than the value, or, with
 * above, is greater.  False if there is none: even infinity is less than NaN.
 */
static bool
first_time(const EpochValue *epoch, bool above, TimestampTz *result)
{
	int			wanted = above ? 1 : 0;
	TimestampTz low;			/* is before it */
	TimestampTz high;			/* is not */
	int64		step;

	if (compare_at(epoch, TIME_FIRST) >= wanted)
	{
		*result = TIME_FIRST;
		return true;
	}
	*result = TIME_LAST;
	if (compare_at(epoch, TIME_LAST) < wanted)
		return false;
	if (compare_at(epoch, FINITE_LAST) < wanted)
		return true;
	if (compare_at(epoch, FINITE_FIRST) >= wanted)
	{
		*result = FINITE_FIRST;
		return true;
	}

	/* the guess is hardly ever wrong by more than a microsecond */
	low = FINITE_FIRST;
	high = FINITE_LAST;
	*result = guess_time(epoch);
	for (step = 1; step < PG_INT32_MAX; step *= 16)
	{
		TimestampTz next;

		if (compare_at(epoch, *result) < wanted)
		{
			low = *result;
			next = low > high - step ? high : low + step;
			if (compare_at(epoch, next) >= wanted)
			{
				high = next;
				break;
			}
		}
		else
		{
			high = *result;
			next = high < low + step ? low : high - step;
			if (compare_at(epoch, next) < wanted)
			{
				low = next;
				break;
			}
		}
		*result = next;
	}
	while (low < high - 1)
	{
		TimestampTz middle = low / 2 + high / 2 + (low % 2 + high % 2) / 2;

		if (compare_at(epoch, middle) < wanted)
			low = middle;
		else
			high = middle;
	}
	*result = high;
	return true;
}

/*
 * The last time that comes before the first one of first_time().  False if
 * there is none.
 */
static bool
last_time_before(const EpochValue *epoch, bool above, TimestampTz *result)
{
	TimestampTz first;

	if (!first_time(epoch, above, &first))
		*result = TIME_LAST;
	else if (first == TIME_FIRST)
		return false;
	else if (first == TIME_LAST)
		*result = FINITE_LAST;
	else if (first == FINITE_FIRST)
		*result = TIME_FIRST;
	else
		*result = first - 1;
	return true;
}

/*
 * The first and last time for which the comparison holds.  If there is none,
 * they are such that none lies between them.
 */
static void
epoch_range(const EpochValue *epoch, int strategy, TimestampTz *low,
			TimestampTz *high)
{
	bool		some = true;

	*low = TIME_FIRST;
	*high = TIME_LAST;
	switch (strategy)
	{
		case BTLessStrategyNumber:
			some = last_time_before(epoch, false, high);
			break;
		case BTLessEqualStrategyNumber:
			some = last_time_before(epoch, true, high);
			break;
		case BTEqualStrategyNumber:
			some = first_time(epoch, false, low) &&
				last_time_before(epoch, true, high) && *low <= *high;
			break;
		case BTGreaterEqualStrategyNumber:
			some = first_time(epoch, false, low);
			break;
		case BTGreaterStrategyNumber:
			some = first_time(epoch, true, low);
			break;
		default:
			elog(ERROR, "unexpected btree strategy: %d", strategy);
	}
	if (!some)
	{
		*low = TIME_LAST;
		*high = TIME_FIRST;
	}
}

/* operators by strategy, as logq.epoch_bound() takes them */
static const char *const operator_names[] = {
	[BTLessStrategyNumber] = "<",
	[BTLessEqualStrategyNumber] = "<=",
	[BTEqualStrategyNumber] = "=",
	[BTGreaterEqualStrategyNumber] = ">=",
	[BTGreaterStrategyNumber] = ">"
};

/*
 * logq.epoch_bound(value, factor, operator, upper): one end of the range.
 */
static Datum
epoch_bound(FunctionCallInfo fcinfo, Oid type, double factor)
{
	EpochValue	epoch = {type, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	bool		upper = PG_GETARG_BOOL(3);
	TimestampTz low;
	TimestampTz high;
	int			strategy;

	if (!(factor >= FACTOR_MIN && factor <= FACTOR_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("factor must be between %g and %g", FACTOR_MIN,
						FACTOR_MAX)));
	for (strategy = 1; strategy < lengthof(operator_names); strategy++)
	{
		if (strcmp(operator_names[strategy], name) == 0)
			break;
	}
	if (strategy >= lengthof(operator_names))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("operator \"%s\" does not compare by order", name)));
	epoch_range(&epoch, strategy, &low, &high);
	PG_RETURN_TIMESTAMPTZ(upper ? high : low);
}

Datum
logq_epoch_bound_numeric(PG_FUNCTION_ARGS)
{
	return epoch_bound(fcinfo, NUMERICOID,
					   DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
														  PG_GETARG_DATUM(1))));
}

Datum
logq_epoch_bound_float8(PG_FUNCTION_ARGS)
{
	return epoch_bound(fcinfo, FLOAT8OID, PG_GETARG_FLOAT8(1));
}

/* ---------- rewriting ---------- */

/*
 * Is this a constant by which seconds can be multiplied without another
 * order?
 */
static bool
is_usable_factor(Node *node)
{
	Const	   *con = (Const *) node;
	double		factor;

	if (!IsA(node, Const) || con->constisnull)
		return false;
	factor = con->consttype == FLOAT8OID ? DatumGetFloat8(con->constvalue) :
		DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
										   con->constvalue));
	return factor >= FACTOR_MIN && factor <= FACTOR_MAX;
}

/*
 * Is this extract(epoch from time), of the given type?
 */
static bool
match_extract(Node *node, Oid type, EpochExpr *match)
{
	FuncExpr   *f = (FuncExpr *) node;
	Const	   *field;

	if (!IsA(node, FuncExpr) ||
		f->funcid != (type == FLOAT8OID ? F_DATE_PART_TEXT_TIMESTAMPTZ :
					  F_EXTRACT_TEXT_TIMESTAMPTZ))
		return false;
	field = linitial(f->args);
	if (!IsA(field, Const) || field->constisnull ||
		pg_strcasecmp(TextDatumGetCString(field->constvalue), "epoch") != 0)
		return false;
	match->time = lsecond(f->args);
	match->factor = NULL;
	return true;
}

/*
 * The same, perhaps multiplied by a constant.
 */
static bool
match_epoch(Node *node, Oid type, EpochExpr *match)
{
	OpExpr	   *op = (OpExpr *) node;

	if (match_extract(node, type, match))
		return true;
	if (!IsA(node, OpExpr) ||
		get_opcode(op->opno) != (type == FLOAT8OID ? F_FLOAT8MUL :
								 F_NUMERIC_MUL))
		return false;
	for (int i = 0; i < 2; i++)
	{
		Node	   *factor = list_nth(op->args, 1 - i);

		if (match_extract(list_nth(op->args, i), type, match) &&
			is_usable_factor(factor))
		{
			match->factor = (Const *) factor;
			return true;
		}
	}
	return false;
}

/*
 * A comparison of the time with another one.
 */
static Expr *
compare_time(const EpochExpr *epoch, int strategy, Expr *with)
{
	Oid			opf = lookup_type_cache(TIMESTAMPTZOID,
										TYPECACHE_BTREE_OPFAMILY)->btree_opf;
	Oid			opno = get_opfamily_member(opf, TIMESTAMPTZOID,
										   TIMESTAMPTZOID,
										   strategy == NOT_EQUAL_STRATEGY ?
										   BTEqualStrategyNumber : strategy);
	Expr	   *result;

	if (strategy == NOT_EQUAL_STRATEGY)
		opno = get_negator(opno);
	result = make_opclause(opno, BOOLOID, false, copyObject(epoch->time),
						   with, InvalidOid, InvalidOid);
	set_opfuncid((OpExpr *) result);
	return result;
}

static Expr *
time_const(TimestampTz time)
{
	return (Expr *) makeConst(TIMESTAMPTZOID, -1, InvalidOid,
							  sizeof(TimestampTz), TimestampTzGetDatum(time),
							  false, FLOAT8PASSBYVAL);
}

/*
 * The clause, or its negation, for a value that is a constant: as few
 * comparisons as will do, so that whoever looks for bounds finds them.
 */
static Expr *
compare_constant(const EpochExpr *epoch, Const *value, Datum factor,
				 int strategy, bool negate)
{
	EpochValue	epoch_value = {value->consttype, value->constvalue, factor};
	TimestampTz low;
	TimestampTz high;

	epoch_range(&epoch_value, strategy, &low, &high);

	if (low > high)
	{
		/* for no time, or for all; NULL is neither */
		low = TIME_FIRST;
		high = TIME_LAST;
		negate = !negate;
	}
	if (low == TIME_FIRST && high == TIME_LAST)
		return compare_time(epoch, negate ? BTLessStrategyNumber :
							BTGreaterEqualStrategyNumber, time_const(low));
	if (low == high)
		return compare_time(epoch, negate ? NOT_EQUAL_STRATEGY :
							BTEqualStrategyNumber, time_const(low));
	if (low == TIME_FIRST)
		return compare_time(epoch, negate ? BTGreaterStrategyNumber :
							BTLessEqualStrategyNumber, time_const(high));
	if (high == TIME_LAST)
		return compare_time(epoch, negate ? BTLessStrategyNumber :
							BTGreaterEqualStrategyNumber, time_const(low));
	return makeBoolExpr(negate ? OR_EXPR : AND_EXPR,
						list_make2(compare_time(epoch, negate ?
												BTLessStrategyNumber :
												BTGreaterEqualStrategyNumber,
												time_const(low)),
								   compare_time(epoch, negate ?
												BTGreaterStrategyNumber :
												BTLessEqualStrategyNumber,
												time_const(high))), -1);
}

/*
 * A call of logq.epoch_bound().
 */
static Expr *
bound_call(Oid funcid, Expr *value, Const *factor, int strategy, bool upper)
{
	Const	   *name = makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
								 CStringGetTextDatum(operator_names[strategy]),
								 false, false);

	return (Expr *) makeFuncExpr(funcid, TIMESTAMPTZOID,
								 list_make4(copyObject(value), factor, name,
											makeBoolConst(upper, false)),
								 InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

/*
 * The clause, or its negation, for a value that is known later.  What is less
 * than or equal to it begins with minus infinity in any case.  Of the other
 * ranges both ends have to be looked at: there may be nothing in between.
 */
static Expr *
compare_later(const EpochExpr *epoch, Oid funcid, Expr *value, Const *factor,
			  int strategy, bool negate)
{
	if (strategy == BTGreaterStrategyNumber)
	{
		strategy = BTLessEqualStrategyNumber;
		negate = !negate;
	}
	if (strategy == BTLessEqualStrategyNumber)
		return compare_time(epoch, negate ? BTGreaterStrategyNumber :
							BTLessEqualStrategyNumber,
							bound_call(funcid, value, factor, strategy, true));
	return makeBoolExpr(negate ? OR_EXPR : AND_EXPR,
						list_make2(compare_time(epoch, negate ?
												BTLessStrategyNumber :
												BTGreaterEqualStrategyNumber,
												bound_call(funcid, value,
														   factor, strategy,
														   false)),
								   compare_time(epoch, negate ?
												BTGreaterStrategyNumber :
												BTLessEqualStrategyNumber,
												bound_call(funcid, value,
														   factor, strategy,
														   true))), -1);
}

/*
 * Which order do an operator's results follow?  0 if it is none of a type's
 * comparisons; <> is = with *negate.
 */
static int
operator_strategy(Oid opno, Oid type, bool *negate)
{
	Oid			opf = lookup_type_cache(type,
										TYPECACHE_BTREE_OPFAMILY)->btree_opf;
	int			strategy;

	*negate = false;
	if (opno >= FirstGenbkiObjectId)
		return 0;
	strategy = get_op_opfamily_strategy(opno, opf);
	if (strategy != 0)
		return strategy;
	opno = get_negator(opno);
	if (OidIsValid(opno) &&
		get_op_opfamily_strategy(opno, opf) == BTEqualStrategyNumber)
	{
		*negate = true;
		return BTEqualStrategyNumber;
	}
	return 0;
}

/*
 * Rewrite the comparison left op right.  NULL if it is none of ours.
 */
Expr *
logq_rewrite_epoch(const LogqShipContext *cxt, OpExpr *op)
{
	Oid			type = exprType(linitial(op->args));
	Oid			opno = op->opno;
	EpochExpr	epoch;
	Node	   *value;
	Const	   *factor;
	int			strategy;
	bool		negate;

	if ((type != NUMERICOID && type != FLOAT8OID) ||
		exprType(lsecond(op->args)) != type)
		return NULL;
	if (match_epoch(linitial(op->args), type, &epoch))
		value = lsecond(op->args);
	else if (match_epoch(lsecond(op->args), type, &epoch))
	{
		value = linitial(op->args);
		opno = get_commutator(opno);
	}
	else
		return NULL;

	strategy = operator_strategy(opno, type, &negate);
	if (strategy == 0 || !logq_is_scan_constant(cxt, value) ||
		logq_is_scan_constant(cxt, (Node *) epoch.time) ||
		contain_volatile_functions((Node *) epoch.time))
		return NULL;

	factor = epoch.factor;
	if (factor == NULL)
		factor = type == FLOAT8OID ?
			makeConst(FLOAT8OID, -1, InvalidOid, sizeof(float8),
					  Float8GetDatum(1.0), false, FLOAT8PASSBYVAL) :
			makeConst(NUMERICOID, -1, InvalidOid, -1,
					  DirectFunctionCall1(int8_numeric, Int64GetDatum(1)),
					  false, false);
	if (IsA(value, Const))
	{
		if (((Const *) value)->constisnull)
			return NULL;
		return compare_constant(&epoch, (Const *) value, factor->constvalue,
								strategy, negate);
	}
	else
	{
		Oid			argtypes[] = {type, type, TEXTOID, BOOLOID};
		Oid			funcid = logq_function_oid("epoch_bound",
											   lengthof(argtypes), argtypes);

		if (!OidIsValid(funcid))
			return NULL;
		return compare_later(&epoch, funcid, (Expr *) value, factor, strategy,
							 negate);
	}
}
