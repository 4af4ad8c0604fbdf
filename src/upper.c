/*-------------------------------------------------------------------------
 *
 * upper.c
 *		Paths of queries that group the rows of a log table.
 *
 * A query with GROUP BY, aggregates or DISTINCT over one log table, all of
 * whose conditions can be sent, gets a path in which the partitions group:
 *
 *		LogqAggregate		values of aggregates from those below, HAVING
 *		  Aggregate			core's node: combines what comes from below
 *			LogqScan		groups of single segments, as partial results
 *
 * What is sent depends on what the query wants (LogqUpperMode):
 *
 * - Counts: all it wants follows from numbers of rows by bin of ts, level,
 *	 service and partition.  Then sealed segments can be answered from rollups.
 * - Partials: aggregates that can be computed in two steps (split.c), grouped
 *	 by expressions that can be sent, or that take ts in steps (steps.c).
 * - Rows: some aggregate needs all rows.  At least its arguments are computed
 *	 over there, and nothing else travels; an ordinary Aggregate node does the
 *	 rest.
 *
 * Whatever does not fit is left to core, over an ordinary scan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "plan.h"

#include "catalog/pg_aggregate.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/tlist.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/timestamp.h"

/* An expression of GROUP BY or DISTINCT */
typedef struct GroupKey
{
	Expr	   *expr;
	Index		sortgroupref;
} GroupKey;

/* What a query wants */
typedef struct Wanted
{
	PlannerInfo *root;
	RelOptInfo *rel;
	LogqRelInfo *info;
	List	   *clause;			/* SortGroupClauses */
	List	   *keys;			/* GroupKeys */
	List	   *aggs;			/* Aggrefs, of the target and of HAVING */
} Wanted;

static Plan *plan_upper_path(PlannerInfo *root, RelOptInfo *rel,
							 CustomPath *path, List *tlist, List *clauses,
							 List *custom_plans);
static Plan *plan_aggregate_path(PlannerInfo *root, RelOptInfo *rel,
								 CustomPath *path, List *tlist,
								 List *clauses, List *custom_plans);

static const CustomPathMethods upper_path_methods = {
	.CustomName = "LogqScan",
	.PlanCustomPath = plan_upper_path,
};

static const CustomPathMethods aggregate_path_methods = {
	.CustomName = "LogqAggregate",
	.PlanCustomPath = plan_aggregate_path,
};

/* ---------- what the query wants ---------- */

/*
 * Is this a scan of one log table, all of whose conditions are sent?
 */
static bool
is_plain_scan(PlannerInfo *root, RelOptInfo *rel)
{
	Query	   *parse = root->parse;
	ListCell   *lc;

	if (!logq_enable_aggregate_pushdown ||
		rel->reloptkind != RELOPT_BASEREL || !logq_is_log_rel(rel) ||
		rel->fdw_private == NULL || IS_DUMMY_REL(rel) ||
		!((LogqRelInfo *) rel->fdw_private)->all_remote ||
		!bms_is_empty(rel->lateral_relids) ||
		parse->groupingSets != NIL || parse->hasTargetSRFs ||
		parse->rowMarks != NIL)
		return false;
	/* a condition on no row is core's to check, ahead of the scan */
	foreach(lc, rel->baserestrictinfo)
		if (lfirst_node(RestrictInfo, lc)->pseudoconstant)
			return false;
	return true;
}

/*
 * Find the aggregates of an expression.  True: it has something else that is
 * not of the groups.
 */
static bool
collect_walker(Node *node, Wanted *wanted)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	foreach(lc, wanted->keys)
		if (equal(node, ((GroupKey *) lfirst(lc))->expr))
			return false;
	switch (nodeTag(node))
	{
		case T_Aggref:
			wanted->aggs = list_append_unique(wanted->aggs, node);
			return false;
		case T_Var:
		case T_PlaceHolderVar:
		case T_GroupingFunc:
			return true;
		default:
			return expression_tree_walker(node, collect_walker,
										  (void *) wanted);
	}
}

/*
 * Take up the keys of a list of SortGroupClauses.
 */
static void
take_keys(Wanted *wanted, List *clause)
{
	ListCell   *lc;

	wanted->clause = clause;
	foreach(lc, clause)
	{
		SortGroupClause *sgc = lfirst_node(SortGroupClause, lc);
		GroupKey   *key = palloc(sizeof(GroupKey));

		key->expr = (Expr *) get_sortgroupclause_expr(sgc,
													  wanted->root->processed_tlist);
		key->sortgroupref = sgc->tleSortGroupRef;
		wanted->keys = lappend(wanted->keys, key);
	}
}

/* ---------- modes ---------- */

static LogqUpper *
new_upper(Wanted *wanted, LogqUpperMode mode)
{
	LogqUpper  *upper = palloc0(sizeof(LogqUpper));

	upper->root = wanted->root;
	upper->rel = wanted->rel;
	upper->info = wanted->info;
	upper->mode = mode;
	upper->target = create_empty_pathtarget();
	return upper;
}

/*
 * See plan.h.  Somebody's own log table may have a column with a collation, or
 * a length, of its own.
 */
Expr *
logq_column_var(const LogqUpper *upper, LogqColumn column)
{
	AttrNumber	attno = upper->info->map.attno[column];
	Oid			type;
	int32		typmod;
	Oid			collation;

	get_atttypetypmodcoll(planner_rt_fetch(upper->rel->relid,
										   upper->root)->relid,
						  attno, &type, &typmod, &collation);
	return (Expr *) makeVar(upper->rel->relid, attno, type, typmod, collation,
							0);
}

/*
 * See plan.h.
 */
bool
logq_add_dependence(LogqUpper *upper, const LogqDependence *dep)
{
	if (dep->steps)
	{
		logq_add_target(upper, LOGQ_TARGET_BIN, true,
						logq_column_var(upper, LOGQ_COL_TS), NULL, NULL);
		upper->steps = list_union(upper->steps, dep->found);
	}
	for (int col = 0; col < LOGQ_NCOLUMNS; col++)
	{
		Expr	   *var;

		if (!dep->columns[col])
			continue;
		var = logq_column_var(upper, col);
		if (col == LOGQ_COL_PARTITION)
			logq_add_target(upper, LOGQ_TARGET_PARTITION, false, var, NULL,
							NULL);
		else if (upper->mode == LOGQ_UPPER_COUNTS &&
				 col != LOGQ_COL_LEVEL && col != LOGQ_COL_SERVICE)
			return false;
		else if (col == LOGQ_COL_ATTRS)
			/* equal values differ in what is taken from them: 1.0 and 1.00 */
			return false;
		else
			logq_add_target(upper, LOGQ_TARGET_SQL, true, var, var, NULL);
		upper->needs[col] = true;
	}
	return true;
}

/*
 * See plan.h.
 */
bool
logq_is_groupable(Node *expr)
{
	Oid			collation = exprCollation(expr);

	return !OidIsValid(collation) || collation == DEFAULT_COLLATION_OID ||
		collation == C_COLLATION_OID ||
		get_collation_isdeterministic(collation);
}

/*
 * Sort the conditions: which can be checked by level and service alone?
 */
static void
take_conditions(LogqUpper *upper)
{
	const LogqShipContext *ship = &upper->info->ship;
	ListCell   *lc;

	upper->from_rollups = true;
	foreach(lc, upper->rel->baserestrictinfo)
	{
		Expr	   *clause = lfirst_node(RestrictInfo, lc)->clause;
		Expr	   *sendable = logq_sendable_clause(upper->info, clause);
		LogqDependence dep = {0};
		LogqPruneOp op;
		int			column;
		Node	   *value;
		bool		counted;

		if (logq_is_partition_qual(upper->info, clause))
			continue;
		if (IsA(sendable, OpExpr) &&
			logq_prune_bound(ship, sendable, &column, &op, &value) &&
			column == LOGQ_COL_TS && logq_is_scan_constant(ship, value))
			continue;
		counted = logq_find_dependence(ship, (Node *) sendable, &dep) &&
			!dep.steps;
		for (int col = 0; col < LOGQ_NCOLUMNS; col++)
			if (dep.columns[col] && col != LOGQ_COL_LEVEL &&
				col != LOGQ_COL_SERVICE)
				counted = false;
		if (!counted)
		{
			upper->from_rollups = false;
			continue;
		}
		upper->counted = lappend(upper->counted, sendable);
		upper->needs[LOGQ_COL_LEVEL] |= dep.columns[LOGQ_COL_LEVEL];
		upper->needs[LOGQ_COL_SERVICE] |= dep.columns[LOGQ_COL_SERVICE];
	}
	if (!upper->from_rollups)
		upper->counted = NIL;
}

/*
 * Add the aggregates' results to *combined.  False: one cannot be had.
 */
static bool
take_aggregates(LogqUpper *upper, List *aggs, List **combined)
{
	ListCell   *lc;

	*combined = NIL;
	foreach(lc, aggs)
	{
		Aggref	   *agg = lfirst_node(Aggref, lc);
		Expr	   *expr = upper->mode == LOGQ_UPPER_COUNTS ?
			logq_count_aggregate(upper, agg) :
			logq_split_aggregate(upper, agg);

		if (expr == NULL)
			return false;
		*combined = lappend(*combined, expr);
	}
	return true;
}

/*
 * Counts mode.  NULL: it does not fit.
 */
static LogqUpper *
try_counts(Wanted *wanted, List **combined)
{
	LogqUpper  *upper = new_upper(wanted, LOGQ_UPPER_COUNTS);
	ListCell   *lc;

	take_conditions(upper);
	foreach(lc, wanted->keys)
	{
		GroupKey   *key = lfirst(lc);
		LogqDependence dep = {0};

		if (!logq_find_dependence(&wanted->info->ship, (Node *) key->expr,
								  &dep) ||
			!logq_add_dependence(upper, &dep))
			return NULL;
		add_column_to_pathtarget(upper->target, key->expr, key->sortgroupref);
	}
	return take_aggregates(upper, wanted->aggs, combined) &&
		upper->targets != NIL ? upper : NULL;
}

/*
 * Partials mode.  NULL: it does not fit.
 */
static LogqUpper *
try_partials(Wanted *wanted, List **combined)
{
	LogqUpper  *upper = new_upper(wanted, LOGQ_UPPER_PARTIALS);
	const LogqShipContext *ship = &wanted->info->ship;
	ListCell   *lc;

	foreach(lc, wanted->keys)
	{
		GroupKey   *key = lfirst(lc);
		LogqDependence dep = {0};
		bool		known = logq_find_dependence(ship, (Node *) key->expr,
												 &dep);
		bool		by_row = false;

		for (int col = 0; col < LOGQ_NCOLUMNS; col++)
			by_row |= dep.columns[col] && col != LOGQ_COL_PARTITION;
		if (known && !by_row)
			(void) logq_add_dependence(upper, &dep);
		else if (logq_is_shippable(ship, key->expr) &&
				 logq_is_groupable((Node *) key->expr))
			logq_add_target(upper, LOGQ_TARGET_SQL, true, key->expr,
							key->expr, NULL);
		else if (!known || !logq_add_dependence(upper, &dep))
			return NULL;
		add_column_to_pathtarget(upper->target, key->expr, key->sortgroupref);
	}
	return take_aggregates(upper, wanted->aggs, combined) &&
		upper->targets != NIL ? upper : NULL;
}

/*
 * The best of both: counts, if rollups can have them, else partials.  NULL:
 * neither fits.
 */
static LogqUpper *
try_groups(Wanted *wanted, List **combined)
{
	List	   *combined_counts = NIL;
	LogqUpper  *counts = try_counts(wanted, &combined_counts);

	if (counts == NULL || !counts->from_rollups)
	{
		LogqUpper  *partials = try_partials(wanted, combined);

		if (partials != NULL)
			return partials;
	}
	*combined = combined_counts;
	return counts;
}

/*
 * An expression that a node above is going to compute with: sent as a whole,
 * or else its columns.
 */
static void
add_row_expr(LogqUpper *upper, Expr *expr, Index sortgroupref)
{
	ListCell   *lc;

	if (logq_is_scan_constant(&upper->info->ship, (Node *) expr))
	{
		if (sortgroupref != 0)
			add_column_to_pathtarget(upper->target, expr, sortgroupref);
		return;
	}
	if (logq_is_shippable(&upper->info->ship, expr))
	{
		logq_add_target(upper, LOGQ_TARGET_SQL, false, expr, expr, NULL);
		if (sortgroupref != 0)
			add_column_to_pathtarget(upper->target, expr, sortgroupref);
		else
			add_new_column_to_pathtarget(upper->target, expr);
		return;
	}
	foreach(lc, pull_var_clause((Node *) expr, PVC_INCLUDE_PLACEHOLDERS))
	{
		logq_add_target(upper, LOGQ_TARGET_SQL, false, lfirst(lc), lfirst(lc),
						NULL);
		if (sortgroupref == 0)
			add_new_column_to_pathtarget(upper->target, lfirst(lc));
	}
	if (sortgroupref != 0)
		add_column_to_pathtarget(upper->target, expr, sortgroupref);
}

/*
 * Is this computed without any chance of an error: a column, or a field of
 * JSON in it?
 */
static bool
cannot_fail(Node *node)
{
	while (IsA(node, OpExpr))
	{
		OpExpr	   *op = (OpExpr *) node;

		switch (get_opcode(op->opno))
		{
			case F_JSONB_OBJECT_FIELD:
			case F_JSONB_OBJECT_FIELD_TEXT:
			case F_JSONB_EXTRACT_PATH:
			case F_JSONB_EXTRACT_PATH_TEXT:
				if (!IsA(lsecond(op->args), Const))
					return false;
				node = linitial(op->args);
				break;
			default:
				return false;
		}
	}
	return IsA(node, Var);
}

/*
 * Add the parts of an expression that may be computed for any row.
 */
static bool
add_safe_parts(Node *node, LogqUpper *upper)
{
	if (node == NULL)
		return false;
	if (IsA(node, PlaceHolderVar) || cannot_fail(node))
	{
		add_row_expr(upper, (Expr *) node, 0);
		return false;
	}
	return expression_tree_walker(node, add_safe_parts, (void *) upper);
}

/*
 * Rows mode.  NULL: nothing would be gained.
 */
static LogqUpper *
try_rows(Wanted *wanted)
{
	LogqUpper  *upper = new_upper(wanted, LOGQ_UPPER_ROWS);
	bool		computes = false;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, wanted->keys)
	{
		GroupKey   *key = lfirst(lc);

		if (contain_volatile_functions((Node *) key->expr))
			return NULL;
		add_row_expr(upper, key->expr, key->sortgroupref);
	}
	foreach(lc, wanted->aggs)
	{
		Aggref	   *agg = lfirst_node(Aggref, lc);

		if (agg->agglevelsup != 0 ||
			contain_volatile_functions((Node *) agg->args) ||
			contain_volatile_functions((Node *) agg->aggdirectargs))
			return NULL;
		foreach(lc2, agg->aggdirectargs)
			if (contain_var_clause(lfirst(lc2)))
				return NULL;
		/* what the filter keeps out is not computed, lest it fails */
		foreach(lc2, agg->args)
			if (agg->aggfilter == NULL)
				add_row_expr(upper, lfirst_node(TargetEntry, lc2)->expr, 0);
			else
				(void) add_safe_parts(lfirst(lc2), upper);
		if (agg->aggfilter != NULL)
			add_row_expr(upper, agg->aggfilter, 0);
	}
	foreach(lc, upper->targets)
	{
		const LogqTarget *target = lfirst(lc);

		/* system columns and whole rows are not sent */
		if (!logq_is_shippable(&wanted->info->ship, target->sql))
			return NULL;
		computes |= !IsA(target->expr, Var);
	}
	return computes ? upper : NULL;
}

/* ---------- paths ---------- */

/*
 * The BIN comes first, then the other keys: GROUP BY counts them.  Where rows
 * are grouped by ts itself there are no bins: both go by the same name.
 */
static void
order_targets(LogqUpper *upper)
{
	List	   *ordered = NIL;
	bool		by_ts = false;
	ListCell   *lc;

	if (upper->steps != NIL)
	{
		Expr	   *ts = logq_column_var(upper, LOGQ_COL_TS);

		foreach(lc, upper->targets)
		{
			LogqTarget *target = lfirst(lc);

			by_ts |= target->kind == LOGQ_TARGET_SQL &&
				equal(target->expr, ts);
		}
	}
	for (int pass = 0; pass < 3; pass++)
		foreach(lc, upper->targets)
		{
			LogqTarget *target = lfirst(lc);

			if (by_ts && target->kind == LOGQ_TARGET_BIN)
				continue;
			if ((target->kind == LOGQ_TARGET_BIN ? 0 : target->key ? 1 : 2) ==
				pass)
				ordered = lappend(ordered, target);
		}
	upper->targets = ordered;
}

/*
 * How many groups there may be.
 */
static double
estimate_groups(const Wanted *wanted)
{
	List	   *exprs = NIL;
	ListCell   *lc;

	foreach(lc, wanted->keys)
		exprs = lappend(exprs, ((GroupKey *) lfirst(lc))->expr);
	return logq_estimate_groups(wanted->root, wanted->info, exprs,
								wanted->rel->rows);
}

/*
 * The path of the scan.  Groups of different segments are not combined over
 * there.
 */
static Path *
scan_path(Wanted *wanted, LogqUpper *upper, RelOptInfo *output_rel,
		  double ngroups)
{
	const LogqEstimate *est = &wanted->info->estimate;
	CustomPath *path = makeNode(CustomPath);
	double		rows = wanted->rel->rows;
	double		scanned = est->scanned;

	order_targets(upper);
	set_pathtarget_cost_width(wanted->root, upper->target);
	/* a bin lies in one segment of each partition, mostly */
	if (upper->mode != LOGQ_UPPER_ROWS)
		rows = Min(rows, ngroups * (upper->steps != NIL ?
									Max(list_length(logq_partitions()), 1) :
									Max(est->segments, 1)));
	/* rollups are short */
	if (upper->mode == LOGQ_UPPER_COUNTS && upper->from_rollups &&
		logq_use_rollups && est->segments > 0)
		scanned *= 1 - 0.9 * Min(est->contents / est->segments, 1.0);
	path->path.pathtype = T_CustomScan;
	path->path.parent = output_rel;
	path->path.pathtarget = upper->target;
	path->path.parallel_aware = false;
	path->path.parallel_safe = false;
	path->path.rows = clamp_row_est(rows);
	path->path.startup_cost = LOGQ_STARTUP_COST;
	/* less than the same rows would cost, whatever has been computed */
	path->path.total_cost = LOGQ_STARTUP_COST +
		est->segments * LOGQ_SEGMENT_COST +
		scanned * cpu_operator_cost * 0.25 +
		path->path.rows * (LOGQ_TUPLE_COST + cpu_tuple_cost) * 0.9;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_private = list_make1(upper);
	path->methods = &upper_path_methods;
	return (Path *) path;
}

/*
 * An Aggregate node over a path.  sort_keys: what it must be sorted by if it
 * is not hashed.
 */
static Path *
aggregate_path(Wanted *wanted, RelOptInfo *output_rel, Path *path,
			   PathTarget *target, List *having, bool sorted,
			   List *sort_keys, double ngroups)
{
	PlannerInfo *root = wanted->root;
	AggClauseCosts costs = {0};
	AggStrategy strategy = AGG_PLAIN;

	costs.transCost.per_tuple = cpu_operator_cost * list_length(wanted->aggs);
	if (wanted->clause != NIL)
		strategy = sorted || !grouping_is_hashable(wanted->clause) ?
			AGG_SORTED : AGG_HASHED;
	if (strategy != AGG_HASHED && sort_keys != NIL)
		path = (Path *) create_sort_path(root, output_rel, path, sort_keys,
										 -1.0);
	return (Path *) create_agg_path(root, output_rel, path, target, strategy,
									AGGSPLIT_SIMPLE, wanted->clause, having,
									&costs, ngroups);
}

/* Numbers of aggregates */
typedef struct Numbering
{
	int			naggs;
	int			ntrans;
	List	   *seen;			/* Aggrefs */
} Numbering;

/*
 * Do both come from the same state?  Several percentiles of the same values
 * do, as in any query.
 */
static bool
share_state(const Aggref *a, const Aggref *b)
{
	return a->aggfnoid == b->aggfnoid &&
		a->aggkind == AGGKIND_ORDERED_SET &&
		equal(a->args, b->args) && equal(a->aggfilter, b->aggfilter);
}

/*
 * Give numbers to the aggregates of an expression: an Aggregate node expects
 * those from 0 on.
 */
static bool
number_walker(Node *node, Numbering *numbers)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref))
	{
		Aggref	   *agg = (Aggref *) node;

		ListCell   *lc;

		/* one that is below is the scan's */
		if (agg->aggsplit != AGGSPLIT_SIMPLE)
			return false;
		agg->aggno = numbers->naggs++;
		agg->aggtransno = -1;
		foreach(lc, numbers->seen)
			if (share_state(agg, lfirst(lc)))
				agg->aggtransno = lfirst_node(Aggref, lc)->aggtransno;
		if (agg->aggtransno < 0)
			agg->aggtransno = numbers->ntrans++;
		numbers->seen = lappend(numbers->seen, agg);
		return false;
	}
	return expression_tree_walker(node, number_walker, (void *) numbers);
}

/*
 * The whole: scan, Aggregate node, and ours above it.
 */
static void
add_combining_path(Wanted *wanted, LogqUpper *upper, List *combined,
				   List *having, RelOptInfo *output_rel)
{
	PlannerInfo *root = wanted->root;
	double		ngroups = estimate_groups(wanted);
	PathTarget *target = create_empty_pathtarget();
	CustomPath *path = makeNode(CustomPath);
	List	   *exprs = NIL;
	Path	   *child;
	ListCell   *lc;
	Numbering	numbers = {0};

	foreach(lc, wanted->keys)
	{
		GroupKey   *key = lfirst(lc);

		add_column_to_pathtarget(target, key->expr, key->sortgroupref);
		exprs = lappend(exprs, key->expr);
	}
	foreach(lc, combined)
	{
		(void) number_walker(lfirst(lc), &numbers);
		add_column_to_pathtarget(target, lfirst(lc), 0);
	}
	exprs = list_concat(exprs, wanted->aggs);
	set_pathtarget_cost_width(root, target);

	child = scan_path(wanted, upper, output_rel, ngroups);
	child = aggregate_path(wanted, output_rel, child, target, NIL,
						   upper->sorted,
						   make_pathkeys_for_sortclauses(root, wanted->clause,
														 root->processed_tlist),
						   ngroups);

	path->path.pathtype = T_CustomScan;
	path->path.parent = output_rel;
	path->path.pathtarget = output_rel->reltarget;
	path->path.parallel_aware = false;
	path->path.parallel_safe = false;
	path->path.rows = child->rows;
	path->path.startup_cost = child->startup_cost;
	path->path.total_cost = child->total_cost +
		cpu_operator_cost * list_length(having) * child->rows;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_paths = list_make1(child);
	path->custom_private = list_make2(having, exprs);
	path->methods = &aggregate_path_methods;
	add_path(output_rel, (Path *) path);
}

/*
 * GROUP BY and aggregates.
 */
static void
add_group_paths(PlannerInfo *root, RelOptInfo *input_rel,
				RelOptInfo *output_rel, GroupPathExtraData *extra)
{
	Wanted		wanted = {root, input_rel, input_rel->fdw_private};
	List	   *having = (List *) extra->havingQual;
	List	   *combined;
	LogqUpper  *upper;
	ListCell   *lc;

	take_keys(&wanted, root->parse->groupClause);
	foreach(lc, output_rel->reltarget->exprs)
		if (collect_walker(lfirst(lc), &wanted))
			return;
	if (collect_walker((Node *) having, &wanted))
		return;

	upper = try_groups(&wanted, &combined);
	if (upper != NULL)
	{
		add_combining_path(&wanted, upper, combined, having, output_rel);
		return;
	}

	upper = try_rows(&wanted);
	if (upper != NULL)
	{
		double		ngroups = estimate_groups(&wanted);

		add_path(output_rel,
				 aggregate_path(&wanted, output_rel,
								scan_path(&wanted, upper, output_rel, ngroups),
								output_rel->reltarget, having,
								root->numOrderedAggs > 0,
								root->group_pathkeys, ngroups));
	}
}

/*
 * SELECT DISTINCT without GROUP BY.
 */
static void
add_distinct_paths(PlannerInfo *root, RelOptInfo *input_rel,
				   RelOptInfo *output_rel)
{
	Wanted		wanted = {root, input_rel, input_rel->fdw_private};
	PathTarget *target = root->upper_targets[UPPERREL_DISTINCT];
	List	   *combined;
	LogqUpper  *upper;
	double		ngroups;
	ListCell   *lc;

	if (root->parse->hasDistinctOn || root->parse->hasWindowFuncs ||
		root->parse->groupClause != NIL || root->parse->hasAggs ||
		root->parse->havingQual != NULL || target == NULL)
		return;
	take_keys(&wanted, root->parse->distinctClause);
	foreach(lc, target->exprs)
		if (collect_walker(lfirst(lc), &wanted))
			return;

	upper = try_groups(&wanted, &combined);
	if (upper == NULL)
		return;
	ngroups = estimate_groups(&wanted);
	add_path(output_rel,
			 aggregate_path(&wanted, output_rel,
							scan_path(&wanted, upper, output_rel, ngroups),
							target, NIL, false,
							make_pathkeys_for_sortclauses(root, wanted.clause,
														  root->processed_tlist),
							ngroups));
}

/*
 * See plan.h.
 */
void
logq_upper_paths(PlannerInfo *root, UpperRelationKind stage,
				 RelOptInfo *input_rel, RelOptInfo *output_rel, void *extra)
{
	if (!is_plain_scan(root, input_rel))
		return;
	if (stage == UPPERREL_GROUP_AGG)
		add_group_paths(root, input_rel, output_rel, extra);
	else if (stage == UPPERREL_DISTINCT)
		add_distinct_paths(root, input_rel, output_rel);
}

/* ---------- plans ---------- */

static Plan *
plan_upper_path(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				List *tlist, List *clauses, List *custom_plans)
{
	return logq_plan_upper(linitial(path->custom_private), path, tlist);
}

/*
 * The node above the Aggregate node.  Its tuple is that one's, by the names
 * that nodes further up have for it.
 */
static Plan *
plan_aggregate_path(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
					List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	List	   *having = linitial(path->custom_private);
	ListCell   *lc;

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = having;
	scan->scan.scanrelid = 0;
	scan->flags = path->flags;
	scan->custom_plans = custom_plans;
	foreach(lc, (List *) lsecond(path->custom_private))
		scan->custom_scan_tlist =
			lappend(scan->custom_scan_tlist,
					makeTargetEntry(lfirst(lc),
									list_length(scan->custom_scan_tlist) + 1,
									NULL, false));
	scan->methods = &logq_aggregate_methods;
	return &scan->scan.plan;
}
