/*-------------------------------------------------------------------------
 *
 * prune.c
 *		Bounds of ts and id, and which partitions and segments they leave.
 *
 * The planner turns the clauses that bound ts or id into steps (column,
 * operator, parameter); when the scan starts, the parameters have values and
 * the steps are applied to a pair of ranges.  Timestamps and ids are 64-bit
 * integers, so every bound can be made an included one, and the look-up is a
 * binary search over the segments.  What else clauses say of segments is the
 * business of prunetree.c.
 *
 * A step may only ever take away what cannot match; a clause that is not
 * understood gives no step.  The clauses themselves are still sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/*
 * Is expr our relation's column ts or id?  If so, which, else -1.
 */
static int
bounded_column(const LogqShipContext *cxt, Node *expr)
{
	int			col = logq_var_column(cxt, expr);

	return (col == LOGQ_COL_TS || col == LOGQ_COL_ID) ? col : -1;
}

/*
 * Can values of this type be compared with the column by bounds?
 */
static bool
boundable_type(int col, Oid type)
{
	if (col == LOGQ_COL_TS)
		return type == TIMESTAMPTZOID;
	return type == INT8OID || type == INT4OID || type == INT2OID;
}

/*
 * Strategy of an operator in the default btree family of a column's type, or
 * 0.
 */
static int
btree_strategy(int col, Oid opno)
{
	TypeCacheEntry *type = lookup_type_cache(logq_columns[col].type,
											 TYPECACHE_BTREE_OPFAMILY);

	return get_op_opfamily_strategy(opno, type->btree_opf);
}

/*
 * Does a clause compare ts or id with something?  Whether that is constant
 * for the scan is not looked at.
 */
bool
logq_prune_bound(const LogqShipContext *cxt, Expr *clause, int *column,
				 LogqPruneOp *operator, Node **compared)
{
	LogqPruneOp op;
	int			col = -1;
	Node	   *value = NULL;

	/* (ts, ...) < (x, ...) bounds ts by x, which is included */
	if (IsA(clause, RowCompareExpr))
	{
		RowCompareExpr *row = (RowCompareExpr *) clause;

		col = bounded_column(cxt, linitial(row->largs));
		value = linitial(row->rargs);
		if (col < 0 || !boundable_type(col, exprType(value)))
			return false;
		switch (btree_strategy(col, linitial_oid(row->opnos)))
		{
			case BTLessStrategyNumber:
			case BTLessEqualStrategyNumber:
				op = LOGQ_PRUNE_LE;
				break;
			case BTGreaterEqualStrategyNumber:
			case BTGreaterStrategyNumber:
				op = LOGQ_PRUNE_GE;
				break;
			default:
				return false;
		}
	}
	else if (IsA(clause, OpExpr) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr	   *opexpr = (OpExpr *) clause;
		Node	   *left = linitial(opexpr->args);
		Node	   *right = lsecond(opexpr->args);
		Oid			opno = opexpr->opno;

		col = bounded_column(cxt, left);
		value = right;
		if (col < 0)
		{
			col = bounded_column(cxt, right);
			value = left;
			opno = get_commutator(opno);
		}
		if (col < 0 || !OidIsValid(opno) ||
			!boundable_type(col, exprType(value)))
			return false;
		switch (btree_strategy(col, opno))
		{
			case BTLessStrategyNumber:
				op = LOGQ_PRUNE_LT;
				break;
			case BTLessEqualStrategyNumber:
				op = LOGQ_PRUNE_LE;
				break;
			case BTEqualStrategyNumber:
				op = LOGQ_PRUNE_EQ;
				break;
			case BTGreaterEqualStrategyNumber:
				op = LOGQ_PRUNE_GE;
				break;
			case BTGreaterStrategyNumber:
				op = LOGQ_PRUNE_GT;
				break;
			default:
				return false;
		}
	}
	else if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *saop = (ScalarArrayOpExpr *) clause;

		col = bounded_column(cxt, linitial(saop->args));
		value = lsecond(saop->args);
		if (col < 0 || !saop->useOr ||
			!boundable_type(col, get_element_type(exprType(value))) ||
			btree_strategy(col, saop->opno) != BTEqualStrategyNumber)
			return false;
		op = LOGQ_PRUNE_EQ_ANY;
	}
	else
		return false;

	*column = col;
	*operator = op;
	*compared = value;
	return true;
}

/*
 * Turn a clause into a step, adding its constant side to the parameters.
 */
List *
logq_prune_step(const LogqShipContext *cxt, Expr *clause, List **params)
{
	LogqPruneOp op;
	int			col;
	Node	   *value;

	if (!logq_prune_bound(cxt, clause, &col, &op, &value) ||
		!logq_is_scan_constant(cxt, value))
		return NIL;
	return list_make3_int(col, op, logq_param_index(params, (Expr *) value));
}

/*
 * Everything is possible.
 */
void
logq_bounds_init(LogqBounds *bounds)
{
	bounds->nothing = false;
	bounds->ts_low = bounds->id_low = PG_INT64_MIN;
	bounds->ts_high = bounds->id_high = PG_INT64_MAX;
	bounds->any_number = true;
	bounds->numbers = NULL;
}

/*
 * An integer of any width as int64.
 */
static int64
bound_value(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

/*
 * Narrow a range to [low, high].
 */
static void
narrow(LogqBounds *bounds, LogqColumn column, int64 low, int64 high)
{
	int64	   *cur_low = column == LOGQ_COL_TS ? &bounds->ts_low :
		&bounds->id_low;
	int64	   *cur_high = column == LOGQ_COL_TS ? &bounds->ts_high :
		&bounds->id_high;

	*cur_low = Max(*cur_low, low);
	*cur_high = Min(*cur_high, high);
	if (*cur_low > *cur_high)
		bounds->nothing = true;
}

/*
 * The numbers of an array, without its NULLs, which equal nothing.
 */
int
logq_bounds_list(Datum value, int64 **numbers)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Oid			elemtype = ARR_ELEMTYPE(array);
	int16		elemlen;
	bool		elembyval;
	char		elemalign;
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;
	int			n = 0;

	get_typlenbyvalalign(elemtype, &elemlen, &elembyval, &elemalign);
	deconstruct_array(array, elemtype, elemlen, elembyval, elemalign,
					  &elems, &nulls, &nelems);
	*numbers = palloc((nelems + 1) * sizeof(int64));
	for (int i = 0; i < nelems; i++)
		if (!nulls[i])
			(*numbers)[n++] = bound_value(elems[i], elemtype);
	return n;
}

/*
 * Narrow by a list of values: to its smallest and largest, and for ids to the
 * partitions that their numbers name.
 */
static void
narrow_to_list(LogqBounds *bounds, LogqColumn column, Datum value)
{
	int64	   *values;
	int			n = logq_bounds_list(value, &values);
	int64		low = PG_INT64_MAX;
	int64		high = PG_INT64_MIN;
	Bitmapset  *numbers = NULL;

	if (n == 0)
	{
		bounds->nothing = true;
		return;
	}
	for (int i = 0; i < n; i++)
	{
		low = Min(low, values[i]);
		high = Max(high, values[i]);
		if (column == LOGQ_COL_ID && values[i] >= 0)
			numbers = bms_add_member(numbers,
									 (int) (values[i] >> LOGQ_ID_PARTITION_SHIFT));
	}
	narrow(bounds, column, low, high);
	if (column == LOGQ_COL_ID)
	{
		if (bounds->any_number)
			bounds->numbers = numbers;
		else
			bounds->numbers = bms_int_members(bounds->numbers, numbers);
		bounds->any_number = false;
	}
}

/*
 * Apply one step.  All operators are strict: compared with NULL nothing
 * matches.
 */
void
logq_bounds_apply(LogqBounds *bounds, LogqColumn column, LogqPruneOp op,
				  Datum value, bool isnull, Oid type)
{
	int64		v;

	if (isnull)
	{
		bounds->nothing = true;
		return;
	}
	if (op == LOGQ_PRUNE_EQ_ANY)
	{
		narrow_to_list(bounds, column, value);
		return;
	}

	v = bound_value(value, type);
	switch (op)
	{
		case LOGQ_PRUNE_LT:
			if (v == PG_INT64_MIN)
				bounds->nothing = true;
			else
				narrow(bounds, column, PG_INT64_MIN, v - 1);
			break;
		case LOGQ_PRUNE_LE:
			narrow(bounds, column, PG_INT64_MIN, v);
			break;
		case LOGQ_PRUNE_EQ:
			narrow(bounds, column, v, v);
			break;
		case LOGQ_PRUNE_GE:
			narrow(bounds, column, v, PG_INT64_MAX);
			break;
		case LOGQ_PRUNE_GT:
			if (v == PG_INT64_MAX)
				bounds->nothing = true;
			else
				narrow(bounds, column, v + 1, PG_INT64_MAX);
			break;
		case LOGQ_PRUNE_EQ_ANY:
			break;
	}
}

/*
 * Can the partition with this number hold an id within the bounds?
 */
bool
logq_bounds_allow_partition(const LogqBounds *bounds, int32 number)
{
	int64		first = (int64) number << LOGQ_ID_PARTITION_SHIFT;
	int64		last = first + ((INT64CONST(1) << LOGQ_ID_PARTITION_SHIFT) - 1);

	if (bounds->id_high < first || bounds->id_low > last)
		return false;
	return bounds->any_number || bms_is_member(number, bounds->numbers);
}

/*
 * The segments that can hold rows within the bounds.
 */
void
logq_bounds_segments(const LogqBounds *bounds, const LogqPartition *part,
					 int *first, int *last)
{
	int			i;

	*first = logq_segment_search(part, bounds->ts_low);
	/* the first that begins after the upper bound */
	i = logq_segment_search(part, bounds->ts_high);
	if (i < part->nsegments && part->segments[i].lower <= bounds->ts_high)
		i++;
	*last = Max(i, *first);
}
