/*-------------------------------------------------------------------------
 *
 * split.c
 *		Aggregates in two: what partitions compute, and how that is combined.
 *
 * Each partition, and each of its segments, gives partial results for its own
 * groups.  Here ordinary aggregates are computed over these, and an expression
 * over them is the result: avg(x) comes from sum(sum(x)) and the sum of
 * count(x).  The partial results are values of plain SQL, never transition
 * states, so any version will do at the partitions.
 *
 * Types and display scales come out as without splitting, and so do all
 * values but those of floating point, which depend on the order of additions
 * with any plan.
 *
 * In counts mode there is one partial result only, the number of rows, and
 * the groups are of what rollups are kept by.  What only needs to see each
 * value once (min, DISTINCT) is computed from the groups as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "plan.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_oper.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "approx.h"

typedef enum SplitKind
{
	SPLIT_COUNT,
	SPLIT_SAME,					/* by the same function */
	SPLIT_ONCE,					/* ... which may see a value any number of
								 * times */
	SPLIT_SUM_INT,				/* sums are bigint */
	SPLIT_SUM_BIGINT,			/* sums are numeric */
	SPLIT_AVG_INT,
	SPLIT_AVG_NUMERIC,
	SPLIT_AVG_FLOAT,
	SPLIT_VAR_NUMERIC,
	SPLIT_VAR_FLOAT
} SplitKind;

typedef struct SplitRule
{
	Oid			function;
	SplitKind	kind;
	Oid			sum;			/* of the partial sum, or of sums */
	bool		sample;			/* of variances */
	bool		root;
} SplitRule;

#define VAR_RULES(name, type, kind, sample, root) \
	{F_##name##_##type, kind, InvalidOid, sample, root}
#define VAR_RULES_OF(type, kind) \
	VAR_RULES(VAR_POP, type, kind, false, false), \
	VAR_RULES(VAR_SAMP, type, kind, true, false), \
	VAR_RULES(VARIANCE, type, kind, true, false), \
	VAR_RULES(STDDEV_POP, type, kind, false, true), \
	VAR_RULES(STDDEV_SAMP, type, kind, true, true), \
	VAR_RULES(STDDEV, type, kind, true, true)
#define MIN_MAX_RULES(type) \
	{F_MIN_##type, SPLIT_ONCE}, {F_MAX_##type, SPLIT_ONCE}

static const SplitRule rules[] = {
	{F_COUNT_, SPLIT_COUNT},
	{F_COUNT_ANY, SPLIT_COUNT},
	{F_SUM_INT2, SPLIT_SUM_INT},
	{F_SUM_INT4, SPLIT_SUM_INT},
	{F_SUM_INT8, SPLIT_SUM_BIGINT, F_SUM_NUMERIC},
	{F_SUM_NUMERIC, SPLIT_SAME},
	{F_SUM_FLOAT4, SPLIT_SAME},
	{F_SUM_FLOAT8, SPLIT_SAME},
	{F_AVG_INT2, SPLIT_AVG_INT, F_SUM_INT2},
	{F_AVG_INT4, SPLIT_AVG_INT, F_SUM_INT4},
	{F_AVG_INT8, SPLIT_AVG_NUMERIC, F_SUM_INT8},
	{F_AVG_NUMERIC, SPLIT_AVG_NUMERIC, F_SUM_NUMERIC},
	{F_AVG_FLOAT4, SPLIT_AVG_FLOAT},
	{F_AVG_FLOAT8, SPLIT_AVG_FLOAT},
	{F_BOOL_AND, SPLIT_ONCE},
	{F_BOOL_OR, SPLIT_ONCE},
	{F_EVERY, SPLIT_ONCE},
	{F_BIT_AND_INT2, SPLIT_ONCE},
	{F_BIT_AND_INT4, SPLIT_ONCE},
	{F_BIT_AND_INT8, SPLIT_ONCE},
	{F_BIT_OR_INT2, SPLIT_ONCE},
	{F_BIT_OR_INT4, SPLIT_ONCE},
	{F_BIT_OR_INT8, SPLIT_ONCE},
	MIN_MAX_RULES(INT2),
	MIN_MAX_RULES(INT4),
	MIN_MAX_RULES(INT8),
	MIN_MAX_RULES(FLOAT4),
	MIN_MAX_RULES(FLOAT8),
	MIN_MAX_RULES(NUMERIC),
	MIN_MAX_RULES(DATE),
	MIN_MAX_RULES(TIME),
	MIN_MAX_RULES(TIMESTAMP),
	MIN_MAX_RULES(TIMESTAMPTZ),
	MIN_MAX_RULES(TEXT),
	MIN_MAX_RULES(INET),
	VAR_RULES_OF(INT2, SPLIT_VAR_NUMERIC),
	VAR_RULES_OF(INT4, SPLIT_VAR_NUMERIC),
	VAR_RULES_OF(INT8, SPLIT_VAR_NUMERIC),
	VAR_RULES_OF(NUMERIC, SPLIT_VAR_NUMERIC),
	VAR_RULES_OF(FLOAT4, SPLIT_VAR_FLOAT),
	VAR_RULES_OF(FLOAT8, SPLIT_VAR_FLOAT),
};

static const SplitRule *
find_rule(Oid function)
{
	for (int i = 0; i < lengthof(rules); i++)
		if (rules[i].function == function)
			return &rules[i];
	return NULL;
}

/* ---------- nodes ---------- */

/*
 * See plan.h.  Who reads logs through a view need not have a right to the
 * schema, so it is not asked for.
 */
Oid
logq_function_oid(const char *name, int nargs, const Oid *types)
{
	Oid			schema = get_namespace_oid("logq", true);

	if (!OidIsValid(schema))
		return InvalidOid;
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(types, nargs)),
						   ObjectIdGetDatum(schema));
}

/*
 * A call of a function of arguments without a collation.
 */
static Expr *
make_call(Oid function, Oid type, Expr *first, Expr *second)
{
	List	   *args = second == NULL ? list_make1(first) :
		list_make2(first, second);

	return (Expr *) makeFuncExpr(function, type, args, InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

/*
 * x as another type of number; it is one already, or there is a cast.
 */
static Expr *
make_number(Expr *expr, Oid type)
{
	Oid			from = exprType((Node *) expr);
	Oid			function = InvalidOid;

	if (from == type)
		return expr;
	if (type == INT8OID)
		function = from == INT2OID ? F_INT8_INT2 : F_INT8_INT4;
	else if (type == NUMERICOID)
		function = from == INT2OID ? F_NUMERIC_INT2 :
			from == INT4OID ? F_NUMERIC_INT4 : F_NUMERIC_INT8;
	else
		function = from == FLOAT4OID ? F_FLOAT8_FLOAT4 : F_FLOAT8_INT8;
	return (Expr *) makeFuncExpr(function, type, list_make1(expr), InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CAST);
}

/*
 * An aggregate over expressions.  Numbers of aggregates are given when all are
 * known.
 */
static Aggref *
make_aggregate(Oid function, Oid type, List *args, Oid collation,
			   Expr *filter)
{
	Aggref	   *agg = makeNode(Aggref);
	HeapTuple	tup = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	ListCell   *lc;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for aggregate %u", function);
	agg->aggfnoid = function;
	agg->aggtype = type;
	agg->aggcollid = type_is_collatable(type) ? collation : InvalidOid;
	agg->inputcollid = collation;
	agg->aggtranstype = ((Form_pg_aggregate) GETSTRUCT(tup))->aggtranstype;
	ReleaseSysCache(tup);
	foreach(lc, args)
	{
		Expr	   *arg = lfirst(lc);

		agg->aggargtypes = lappend_oid(agg->aggargtypes,
									   exprType((Node *) arg));
		agg->args = lappend(agg->args,
							makeTargetEntry(arg, list_length(agg->args) + 1,
											NULL, false));
	}
	agg->aggstar = args == NIL;
	agg->aggfilter = filter;
	agg->aggkind = AGGKIND_NORMAL;
	agg->aggsplit = AGGSPLIT_SIMPLE;
	agg->aggno = agg->aggtransno = -1;
	agg->location = -1;
	return agg;
}

/*
 * An aggregate as it is to be computed by a node of ours: its input will not
 * be in its order.
 */
static Aggref *
copy_aggregate(const Aggref *agg)
{
	Aggref	   *copy = copyObject(unconstify(Aggref *, agg));

	logq_set_unsorted(copy);
	copy->aggno = copy->aggtransno = -1;
	return copy;
}

/*
 * Which of the expression's columns must the nodes above the scan see?
 */
static void
need_vars(LogqUpper *upper, Node *expr)
{
	ListCell   *lc;

	foreach(lc, pull_var_clause(expr, 0))
		add_new_column_to_pathtarget(upper->target, lfirst(lc));
}

/*
 * See plan.h.
 */
void
logq_add_target(LogqUpper *upper, LogqTargetKind kind, bool key, Expr *expr,
				Expr *sql, const char *format)
{
	LogqTarget *target;
	ListCell   *lc;

	foreach(lc, upper->targets)
	{
		target = lfirst(lc);
		if (target->kind == kind && equal(target->expr, expr))
		{
			target->key |= key;
			return;
		}
	}
	target = palloc0(sizeof(LogqTarget));
	target->kind = kind;
	target->key = key;
	target->expr = expr;
	target->sql = sql;
	target->format = format;
	upper->targets = lappend(upper->targets, target);
}

/* ---------- partial results ---------- */

/*
 * A partial result that the partitions compute as "sql", and that stands in
 * the plan as "agg".
 */
static Expr *
add_partial(LogqUpper *upper, Aggref *agg, Expr *sql)
{
	agg->aggsplit = AGGSPLIT_INITIAL_SERIAL;
	logq_add_target(upper, LOGQ_TARGET_SQL, false, (Expr *) agg, sql, NULL);
	add_new_column_to_pathtarget(upper->target, (Expr *) agg);
	return (Expr *) agg;
}

/*
 * A partial aggregate.
 */
static Expr *
partial(LogqUpper *upper, Oid function, Oid type, List *args, Oid collation,
		Expr *filter)
{
	Aggref	   *agg = make_aggregate(function, type, args, collation, filter);

	return add_partial(upper, agg, (Expr *) copyObject(agg));
}

/*
 * An aggregate of the extension over a partial result.
 */
static Expr *
combine(const char *name, Oid type, Expr *over, Expr *filter)
{
	Oid			argtype = exprType((Node *) over);
	Oid			function = logq_function_oid(name, 1, &argtype);

	if (!OidIsValid(function))
		return NULL;
	return (Expr *) make_aggregate(function, type, list_make1(over),
								   InvalidOid, filter);
}

/*
 * The number of rows that have a value.
 */
static Expr *
combined_count(LogqUpper *upper, List *args, Oid collation, Expr *filter)
{
	return combine("combine_count", INT8OID,
				   partial(upper, args == NIL ? F_COUNT_ : F_COUNT_ANY,
						   INT8OID, args, collation, filter), NULL);
}

/*
 * {N, Sx, Sxx} of double precision, as float8_combine() takes them.
 */
static Expr *
split_float_variance(LogqUpper *upper, Aggref *agg, const SplitRule *rule,
					 Expr *arg)
{
	static const char *const names[2][2] = {
		{"combine_var_pop", "combine_stddev_pop"},
		{"combine_var_samp", "combine_stddev_samp"}
	};
	List	   *args = list_make1(make_number(arg, FLOAT8OID));
	Expr	   *filter = agg->aggfilter;
	Expr	   *zero = (Expr *) makeConst(FLOAT8OID, -1, InvalidOid,
										  sizeof(float8), Float8GetDatum(0),
										  false, FLOAT8PASSBYVAL);
	Expr	   *count = make_number((Expr *)
									make_aggregate(F_COUNT_ANY, INT8OID, args,
												   InvalidOid, filter),
									FLOAT8OID);
	CoalesceExpr *sum = makeNode(CoalesceExpr);
	CoalesceExpr *squares = makeNode(CoalesceExpr);
	ArrayExpr  *array = makeNode(ArrayExpr);
	Aggref	   *identity = copy_aggregate(agg);

	sum->coalescetype = squares->coalescetype = FLOAT8OID;
	sum->location = squares->location = -1;
	sum->args = list_make2(make_aggregate(F_SUM_FLOAT8, FLOAT8OID, args,
										  InvalidOid, filter), zero);
	squares->args = list_make2(make_call(F_FLOAT8MUL, FLOAT8OID, (Expr *)
										 make_aggregate(F_VAR_POP_FLOAT8,
														FLOAT8OID, args,
														InvalidOid, filter),
										 count), zero);
	array->array_typeid = FLOAT8ARRAYOID;
	array->element_typeid = FLOAT8OID;
	array->elements = list_make3(count, sum, squares);
	array->location = -1;

	/* as core's own partial aggregate, which it is */
	identity->aggtype = FLOAT8ARRAYOID;
	return combine(names[rule->sample][rule->root], FLOAT8OID,
				   add_partial(upper, identity, (Expr *) array), NULL);
}

/*
 * Variances of numbers that are computed with exactly, from sums of x and x².
 */
static Expr *
split_numeric_variance(LogqUpper *upper, Aggref *agg, const SplitRule *rule,
					   Expr *arg)
{
	static const Oid types[] = {INT8OID, NUMERICOID, NUMERICOID, BOOLOID,
	BOOLOID};
	Oid			function = logq_function_oid("numeric_deviation",
											 lengthof(types), types);
	Oid			type = exprType((Node *) arg);
	bool		small = type == INT2OID || type == INT4OID;
	Expr	   *x = small ? make_number(arg, INT8OID) :
		make_number(arg, NUMERICOID);
	Expr	   *count;
	Expr	   *sum;
	Expr	   *squares;

	if (!OidIsValid(function))
		return NULL;
	count = combined_count(upper, list_make1(arg), InvalidOid,
						   agg->aggfilter);
	if (count == NULL)
		return NULL;
	/* the square of an integer is a bigint, which is much quicker */
	squares = make_call(small ? F_INT8MUL : F_NUMERIC_MUL,
						small ? INT8OID : NUMERICOID, x, x);
	sum = partial(upper, small ? F_SUM_INT8 : F_SUM_NUMERIC, NUMERICOID,
				  list_make1(x), InvalidOid, agg->aggfilter);
	squares = partial(upper, small ? F_SUM_INT8 : F_SUM_NUMERIC, NUMERICOID,
					  list_make1(squares), InvalidOid, agg->aggfilter);
	sum = (Expr *) make_aggregate(F_SUM_NUMERIC, NUMERICOID, list_make1(sum),
								  InvalidOid, NULL);
	squares = (Expr *) make_aggregate(F_SUM_NUMERIC, NUMERICOID,
									  list_make1(squares), InvalidOid, NULL);
	return (Expr *) makeFuncExpr(function, NUMERICOID,
								 list_make5(count, sum, squares,
											makeBoolConst(rule->sample, false),
											makeBoolConst(rule->root, false)),
								 InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

/* ---------- approximate aggregates ---------- */

/*
 * The argument, but NULL where the filter does not hold.
 */
static Expr *
filtered(Expr *arg, Expr *filter)
{
	CaseExpr   *c;
	CaseWhen   *when;
	Oid			type = exprType((Node *) arg);

	if (filter == NULL)
		return arg;
	when = makeNode(CaseWhen);
	when->expr = filter;
	when->result = arg;
	when->location = -1;
	c = makeNode(CaseExpr);
	c->casetype = type;
	c->casecollid = exprCollation((Node *) arg);
	c->args = list_make1(when);
	c->defresult = (Expr *) makeNullConst(type, -1, c->casecollid);
	c->location = -1;
	return (Expr *) c;
}

/*
 * Is this logq.approx_count_distinct(), which may see a value any number of
 * times?
 */
static bool
is_approx_count_distinct(Oid function)
{
	static const Oid types[] = {TEXTOID, INT8OID};

	return function >= FirstNormalObjectId &&
		(function == logq_function_oid("approx_count_distinct", 1,
									   &types[0]) ||
		 function == logq_function_oid("approx_count_distinct", 1,
									   &types[1]));
}

/*
 * A function of the extension over one argument.
 */
static Expr *
make_own_call(const char *name, Oid type, Expr *arg)
{
	Oid			argtype = exprType((Node *) arg);
	Oid			function = logq_function_oid(name, 1, &argtype);

	if (!OidIsValid(function))
		return NULL;
	return (Expr *) makeFuncExpr(function, type, list_make1(arg), InvalidOid,
								 exprCollation((Node *) arg),
								 COERCE_EXPLICIT_CALL);
}

/*
 * Groups by the bucket of the values' hashes, of which the least is kept.
 */
static Expr *
split_approx_count(LogqUpper *upper, Aggref *agg)
{
	static const Oid types[] = {INT4OID, INT8OID};
	Oid			merge = logq_function_oid("approx_count_distinct_merge", 2,
										  types);
	Expr	   *arg = linitial_node(TargetEntry, agg->args)->expr;
	Expr	   *bucket;
	Expr	   *rest;
	Aggref	   *least;

	if (exprType((Node *) arg) != TEXTOID)
	{
		CoerceViaIO *cast = makeNode(CoerceViaIO);

		cast->arg = arg;
		cast->resulttype = TEXTOID;
		cast->resultcollid = DEFAULT_COLLATION_OID;
		cast->coerceformat = COERCE_EXPLICIT_CAST;
		cast->location = -1;
		arg = (Expr *) cast;
	}
	arg = filtered(arg, agg->aggfilter);
	bucket = make_own_call("distinct_bucket", INT4OID, arg);
	rest = make_own_call("distinct_rest", INT8OID, arg);
	if (!OidIsValid(merge) || bucket == NULL || rest == NULL ||
		!logq_is_shippable(&upper->info->ship, arg))
		return NULL;
	logq_add_target(upper, LOGQ_TARGET_SQL, true, bucket, arg,
					LOGQ_DISTINCT_BUCKET_SQL);
	add_new_column_to_pathtarget(upper->target, bucket);
	least = make_aggregate(F_MIN_INT8, INT8OID, list_make1(rest), InvalidOid,
						   NULL);
	least->aggsplit = AGGSPLIT_INITIAL_SERIAL;
	logq_add_target(upper, LOGQ_TARGET_SQL, false, (Expr *) least, arg,
					"min(" LOGQ_DISTINCT_REST_SQL ")");
	add_new_column_to_pathtarget(upper->target, (Expr *) least);
	return (Expr *) make_aggregate(merge, agg->aggtype,
								   list_make2(bucket, least), InvalidOid,
								   NULL);
}

/*
 * Groups by the bucket of the values, which are counted.
 */
static Expr *
split_approx_percentile(LogqUpper *upper, Aggref *agg)
{
	static const Oid types[] = {INT4OID, INT8OID, FLOAT8OID};
	Oid			merge = logq_function_oid("approx_percentile_merge", 3,
										  types);
	Expr	   *arg = linitial_node(TargetEntry, agg->args)->expr;
	Expr	   *fraction = lsecond_node(TargetEntry, agg->args)->expr;
	Expr	   *bucket;
	Expr	   *count;

	/* rows that do not pass must not be counted, as their NULLs would be */
	if (agg->aggfilter != NULL ||
		!logq_is_scan_constant(&upper->info->ship, (Node *) fraction) ||
		!logq_is_shippable(&upper->info->ship, arg))
		return NULL;
	bucket = make_own_call("percentile_bucket", INT4OID, arg);
	if (!OidIsValid(merge) || bucket == NULL)
		return NULL;
	logq_add_target(upper, LOGQ_TARGET_SQL, true, bucket, arg,
					LOGQ_PERCENTILE_BUCKET_SQL);
	add_new_column_to_pathtarget(upper->target, bucket);
	count = partial(upper, F_COUNT_, INT8OID, NIL, InvalidOid, NULL);
	return (Expr *) make_aggregate(merge, agg->aggtype,
								   list_make3(bucket, count, fraction),
								   InvalidOid, NULL);
}

/*
 * One of these; NULL: it is another aggregate, or cannot be split.
 */
static Expr *
split_approximate(LogqUpper *upper, Aggref *agg)
{
	static const Oid types[] = {FLOAT8OID, FLOAT8OID};

	if (agg->aggfnoid < FirstNormalObjectId || agg->aggorder != NIL)
		return NULL;
	if (is_approx_count_distinct(agg->aggfnoid))
		return split_approx_count(upper, agg);
	if (agg->aggfnoid == logq_function_oid("approx_percentile", 2, types))
		return split_approx_percentile(upper, agg);
	return NULL;
}

/* ---------- exact aggregates ---------- */

/*
 * DISTINCT: the partitions group by the arguments, too, and the aggregate is
 * computed here from the groups.  What the filter keeps out must not be
 * computed over there either, as it may fail.
 */
static Expr *
split_distinct(LogqUpper *upper, Aggref *agg)
{
	Aggref	   *copy = copy_aggregate(agg);
	List	   *keys = NIL;
	ListCell   *lc;

	foreach(lc, copy->args)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!IsA(tle->expr, Var) &&
			!logq_is_scan_constant(&upper->info->ship, (Node *) tle->expr))
			tle->expr = filtered(tle->expr, agg->aggfilter);
		keys = lappend(keys, tle->expr);
	}
	if (agg->aggfilter != NULL)
		keys = lappend(keys, agg->aggfilter);
	foreach(lc, keys)
	{
		Expr	   *key = lfirst(lc);

		if (logq_is_scan_constant(&upper->info->ship, (Node *) key))
			continue;
		if (!logq_is_shippable(&upper->info->ship, key) ||
			!logq_is_groupable((Node *) key))
			return NULL;
		logq_add_target(upper, LOGQ_TARGET_SQL, true, key, key, NULL);
		add_new_column_to_pathtarget(upper->target, key);
	}
	upper->sorted = true;
	return (Expr *) copy;
}

/*
 * percentile_cont(), percentile_disc() of double precision: the partitions
 * gather the values of each group in an array, which takes less of everything
 * than rows that have to be sorted by group here.
 */
static Expr *
split_percentile(LogqUpper *upper, Aggref *agg)
{
	static const Oid types[] = {FLOAT8OID, FLOAT8ARRAYOID};
	const LogqShipContext *ship = &upper->info->ship;
	bool		cont = agg->aggfnoid == F_PERCENTILE_CONT_FLOAT8_FLOAT8;
	Oid			function;
	Expr	   *fraction;
	Expr	   *value;
	Expr	   *gathered;
	Aggref	   *merge;
	SortGroupClause *order;

	if ((!cont && agg->aggfnoid != F_PERCENTILE_DISC_FLOAT8_ANYELEMENT) ||
		agg->aggtype != FLOAT8OID ||
		linitial_node(SortGroupClause, agg->aggorder)->sortop !=
		Float8LessOperator)
		return NULL;
	fraction = linitial(agg->aggdirectargs);
	value = linitial_node(TargetEntry, agg->args)->expr;
	function = logq_function_oid(cont ? "percentile_cont_merge" :
								 "percentile_disc_merge",
								 lengthof(types), types);
	if (!OidIsValid(function) ||
		!logq_is_scan_constant(ship, (Node *) fraction) ||
		!logq_is_shippable(ship, value) ||
		(agg->aggfilter != NULL && !logq_is_shippable(ship, agg->aggfilter)))
		return NULL;
	gathered = partial(upper, F_ARRAY_AGG_ANYNONARRAY, FLOAT8ARRAYOID,
					   list_make1(value), InvalidOid, agg->aggfilter);
	merge = make_aggregate(function, FLOAT8OID, list_make1(gathered),
						   InvalidOid, NULL);
	merge->aggkind = AGGKIND_ORDERED_SET;
	merge->aggdirectargs = list_make1(fraction);
	merge->aggargtypes = list_make2_oid(FLOAT8OID, FLOAT8ARRAYOID);
	/* arrays come in any order; EXPLAIN wants to see one */
	order = makeNode(SortGroupClause);
	order->tleSortGroupRef = 1;
	linitial_node(TargetEntry, merge->args)->ressortgroupref = 1;
	get_sort_group_operators(FLOAT8ARRAYOID, true, true, false,
							 &order->sortop, &order->eqop, NULL,
							 &order->hashable);
	merge->aggorder = list_make1(order);
	upper->sorted = true;
	upper->gathers = true;
	return (Expr *) merge;
}

/*
 * See plan.h.
 */
Expr *
logq_split_aggregate(LogqUpper *upper, Aggref *agg)
{
	const SplitRule *rule = find_rule(agg->aggfnoid);
	Oid			collation = agg->inputcollid;
	Expr	   *filter = agg->aggfilter;
	List	   *args = NIL;
	Expr	   *arg;
	Expr	   *sum;
	Expr	   *count;

	if (agg->agglevelsup != 0)
		return NULL;
	if (agg->aggkind == AGGKIND_ORDERED_SET)
		return split_percentile(upper, agg);
	if (agg->aggkind != AGGKIND_NORMAL)
		return NULL;
	if (agg->aggdistinct != NIL)
		return split_distinct(upper, agg);
	if (rule == NULL)
		return split_approximate(upper, agg);
	if (agg->aggorder != NIL ||
		!logq_is_aggregate_shippable(&upper->info->ship, agg))
		return NULL;
	if (agg->args != NIL)
		args = list_make1(linitial_node(TargetEntry, agg->args)->expr);
	arg = args == NIL ? NULL : linitial(args);

	switch (rule->kind)
	{
		case SPLIT_COUNT:
			return combined_count(upper, args, collation, filter);
		case SPLIT_SAME:
		case SPLIT_ONCE:
			sum = partial(upper, agg->aggfnoid, agg->aggtype, args,
						  collation, filter);
			return (Expr *) make_aggregate(agg->aggfnoid, agg->aggtype,
										   list_make1(sum), collation, NULL);
		case SPLIT_SUM_INT:
			return combine("combine_sum", INT8OID,
						   partial(upper, agg->aggfnoid, INT8OID, args,
								   InvalidOid, filter), NULL);
		case SPLIT_SUM_BIGINT:
			sum = partial(upper, agg->aggfnoid, NUMERICOID, args, InvalidOid,
						  filter);
			return (Expr *) make_aggregate(rule->sum, NUMERICOID,
										   list_make1(sum), InvalidOid, NULL);
		case SPLIT_AVG_INT:
		case SPLIT_AVG_NUMERIC:
			count = combined_count(upper, args, InvalidOid, filter);
			if (count == NULL)
				return NULL;
			sum = partial(upper, rule->sum,
						  rule->kind == SPLIT_AVG_INT ? INT8OID : NUMERICOID,
						  args, InvalidOid, filter);
			sum = (Expr *) make_aggregate(rule->kind == SPLIT_AVG_INT ?
										  F_SUM_INT8 : F_SUM_NUMERIC,
										  NUMERICOID, list_make1(sum),
										  InvalidOid, NULL);
			return make_call(F_NUMERIC_DIV, NUMERICOID, sum,
							 make_number(count, NUMERICOID));
		case SPLIT_AVG_FLOAT:
			count = combined_count(upper, args, InvalidOid, filter);
			if (count == NULL)
				return NULL;
			sum = partial(upper, F_SUM_FLOAT8, FLOAT8OID,
						  list_make1(make_number(arg, FLOAT8OID)),
						  InvalidOid, filter);
			sum = (Expr *) make_aggregate(F_SUM_FLOAT8, FLOAT8OID,
										  list_make1(sum), InvalidOid, NULL);
			return make_call(F_FLOAT8DIV, FLOAT8OID, sum,
							 make_number(count, FLOAT8OID));
		case SPLIT_VAR_NUMERIC:
			return split_numeric_variance(upper, agg, rule, arg);
		case SPLIT_VAR_FLOAT:
			return split_float_variance(upper, agg, rule, arg);
	}
	return NULL;
}

/* ---------- counts ---------- */

/*
 * Is this ts or id, which are never NULL?
 */
static bool
is_never_null(LogqUpper *upper, Node *node)
{
	int			column = logq_var_column(&upper->info->ship, node);

	return column == LOGQ_COL_TS || column == LOGQ_COL_ID ||
		column == LOGQ_COL_PARTITION;
}

/*
 * Note what an expression needs to be computed from groups.
 */
static bool
count_needs(LogqUpper *upper, Node *expr)
{
	LogqDependence dep = {0};

	if (!logq_find_dependence(&upper->info->ship, expr, &dep))
		return false;
	if (!logq_add_dependence(upper, &dep))
		return false;
	need_vars(upper, expr);
	return true;
}

/*
 * See plan.h.
 */
Expr *
logq_count_aggregate(LogqUpper *upper, Aggref *agg)
{
	const SplitRule *rule = find_rule(agg->aggfnoid);
	Expr	   *filter = agg->aggfilter;
	Aggref	   *count;
	ListCell   *lc;

	if (agg->aggkind != AGGKIND_NORMAL || agg->agglevelsup != 0 ||
		(filter != NULL && !count_needs(upper, (Node *) filter)))
		return NULL;

	if (agg->aggdistinct != NIL ||
		(rule != NULL && rule->kind == SPLIT_ONCE && agg->aggorder == NIL) ||
		is_approx_count_distinct(agg->aggfnoid))
	{
		foreach(lc, agg->args)
			if (!count_needs(upper, (Node *)
							 lfirst_node(TargetEntry, lc)->expr))
				return NULL;
		if (agg->aggdistinct != NIL)
			upper->sorted = true;
		return (Expr *) copy_aggregate(agg);
	}
	if (rule == NULL || rule->kind != SPLIT_COUNT || agg->aggorder != NIL)
		return NULL;

	if (agg->args != NIL)
	{
		Expr	   *arg = linitial_node(TargetEntry, agg->args)->expr;

		if (!is_never_null(upper, (Node *) arg))
		{
			NullTest   *test = makeNode(NullTest);

			if (!count_needs(upper, (Node *) arg))
				return NULL;
			test->arg = arg;
			test->nulltesttype = IS_NOT_NULL;
			test->argisrow = false;
			test->location = -1;
			filter = filter == NULL ? (Expr *) test :
				make_andclause(list_make2(filter, test));
		}
	}
	count = make_aggregate(F_COUNT_, INT8OID, NIL, InvalidOid, NULL);
	count->aggsplit = AGGSPLIT_INITIAL_SERIAL;
	logq_add_target(upper, LOGQ_TARGET_COUNT, false, (Expr *) count, NULL,
					NULL);
	add_new_column_to_pathtarget(upper->target, (Expr *) count);
	return combine("combine_count", INT8OID, (Expr *) count, filter);
}
