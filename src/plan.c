/*-------------------------------------------------------------------------
 *
 * plan.c
 *		What the plan tells the scan.
 *
 * Every clause is either sent, as pieces of SQL with places for values, or
 * checked here.  Whatever is constant for the scan becomes a member of
 * custom_exprs and is evaluated when the scan starts, never at plan time: a
 * generic plan may live for hours.  Nothing of the choice of partitions and
 * segments is in the plan either.
 *
 * The tuple of a scan below an aggregation is made of what is sent, and of
 * columns that stand there only for the quals which choose partitions and
 * segments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cache.h"
#include "plan.h"

#include "access/sysattr.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"

/* See plan.h. */
Expr *
logq_sendable_clause(LogqRelInfo *info, Expr *clause)
{
	Expr	   *rewritten;

	if (!logq_enable_filter_pushdown)
		return NULL;
	rewritten = logq_rewrite_clause(&info->ship, clause);
	return logq_is_shippable(&info->ship, rewritten) ? rewritten : NULL;
}

typedef struct RankedClause
{
	Expr	   *clause;
	int			rank;
	int			position;
} RankedClause;

/*
 * Order of sending: cheap clauses first, equal ones as they were written.
 */
static int
compare_ranked(const void *a, const void *b)
{
	const RankedClause *ra = a;
	const RankedClause *rb = b;

	if (ra->rank != rb->rank)
		return ra->rank - rb->rank;
	return ra->position - rb->position;
}

/*
 * Sort clauses by what they cost the partition.
 */
static List *
rank_clauses(LogqRelInfo *info, List *clauses)
{
	int			n = list_length(clauses);
	RankedClause *ranked = palloc((n + 1) * sizeof(RankedClause));
	List	   *result = NIL;
	int			i;

	for (i = 0; i < n; i++)
	{
		ranked[i].clause = list_nth(clauses, i);
		ranked[i].rank = logq_clause_rank(&info->ship, ranked[i].clause);
		ranked[i].position = i;
	}
	qsort(ranked, n, sizeof(RankedClause), compare_ranked);
	for (i = 0; i < n; i++)
		result = lappend(result, ranked[i].clause);
	return result;
}

/*
 * Does a clause of ours read the column partition and no other?  Then it is
 * the same for all rows of a partition, and decided before asking.
 */
bool
logq_is_partition_qual(LogqRelInfo *info, Expr *clause)
{
	Bitmapset  *attrs = NULL;
	AttrNumber	attno = info->map.attno[LOGQ_COL_PARTITION];

	if (attno == 0 || !logq_enable_partition_pruning ||
		contain_volatile_functions((Node *) clause) ||
		contain_subplans((Node *) clause))
		return false;
	pull_varattnos((Node *) clause, info->ship.rel->relid, &attrs);
	return bms_membership(attrs) == BMS_SINGLETON &&
		bms_singleton_member(attrs) ==
		attno - FirstLowInvalidHeapAttributeNumber;
}

/*
 * Columns that must travel: what the target and the local quals read, and
 * the merge's keys.
 *
 * The target list that PlanCustomPath is given may be empty, when a projection
 * is going to replace it; the relation's target then has what that reads.
 */
static List *
columns_needed(LogqRelInfo *info, CustomPath *path, List *tlist, List *local,
			   int order)
{
	Bitmapset  *attrs = NULL;
	List	   *result = NIL;
	bool		whole_row;
	int			col;

	pull_varattnos((Node *) tlist, info->ship.rel->relid, &attrs);
	pull_varattnos((Node *) path->path.pathtarget->exprs,
				   info->ship.rel->relid, &attrs);
	pull_varattnos((Node *) info->ship.rel->reltarget->exprs,
				   info->ship.rel->relid, &attrs);
	pull_varattnos((Node *) local, info->ship.rel->relid, &attrs);
	whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, attrs) ||
		!logq_enable_column_pruning;

	for (col = 0; col < LOGQ_NCOLUMNS; col++)
	{
		AttrNumber	attno = info->map.attno[col];

		if (col == LOGQ_COL_PARTITION)
			continue;
		if ((order != 0 && (col == LOGQ_COL_TS || col == LOGQ_COL_ID)) ||
			(attno != 0 &&
			 (whole_row ||
			  bms_is_member(attno - FirstLowInvalidHeapAttributeNumber,
							attrs))))
			result = lappend_int(result, col);
	}
	return result;
}

/*
 * Append to custom_exprs; its position as an Integer, -1 for nothing.
 */
static Node *
add_plan_expr(List **exprs, Expr *expr)
{
	if (expr == NULL)
		return (Node *) makeInteger(-1);
	*exprs = lappend(*exprs, expr);
	return (Node *) makeInteger(list_length(*exprs) - 1);
}

/* What becomes of a scan's clauses */
typedef struct PlannedClauses
{
	List	   *recheck;		/* those that are sent, as they were */
	List	   *local;			/* those that are checked here */
	List	   *partition_quals;
	List	   *where;			/* as LOGQ_PLAN_WHERE */
	List	   *steps;			/* as LOGQ_PLAN_PRUNE */
	List	   *nodes;			/* as LOGQ_PLAN_PRUNE_NODES */
	List	   *sets;			/* quals that choose from sets */
	List	   *canon;			/* as LOGQ_PLAN_CANON */
} PlannedClauses;

/*
 * Decide about the clauses of a scan; parameters are added to *params.
 */
static void
plan_clauses(LogqRelInfo *info, List *clauses, List **params,
			 PlannedClauses *planned)
{
	List	   *remote = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Expr	   *clause = lfirst(lc);
		Expr	   *sendable = logq_sendable_clause(info, clause);

		if (logq_is_partition_qual(info, clause))
		{
			planned->partition_quals = lappend(planned->partition_quals,
											   clause);
			continue;
		}
		if (sendable != NULL)
		{
			remote = lappend(remote, sendable);
			planned->recheck = lappend(planned->recheck, clause);
		}
		else
			planned->local = lappend(planned->local, clause);
		logq_prune_clause(&info->ship,
						  sendable != NULL ? sendable :
						  logq_rewrite_clause(&info->ship, clause),
						  sendable != NULL, &planned->steps, &planned->nodes,
						  params, &planned->sets);
	}
	remote = rank_clauses(info, remote);
	foreach(lc, remote)
		planned->where = lappend(planned->where,
								 logq_deparse_expr(&info->ship, lfirst(lc),
												   params));
	planned->canon = logq_canon_clauses(&info->ship, remote, params);
}

/*
 * The conjunction of quals as a member of custom_exprs.
 */
static Node *
add_plan_quals(List **exprs, List *quals)
{
	return add_plan_expr(exprs, quals == NIL ? NULL :
						 make_ands_explicit(quals));
}

/*
 * custom_private, up to what is of upper scans only.  All parameters are known.
 */
static List *
make_private(PlannerInfo *root, RelOptInfo *rel, PlannedClauses *planned,
			 List *columns, int order, Expr *limit, Expr *offset,
			 List *recheck, List **exprs)
{
	int			nparams = list_length(*exprs);
	List	   *private;

	private = list_make5(makeInteger((int) logq_rel_check_as_user(root, rel)),
						 columns, planned->where, makeInteger(order),
						 planned->steps);
	private = lappend(private, planned->nodes);
	private = lappend(private, makeInteger(planned->sets == NIL ? -1 :
										   nparams));
	private = lappend(private, makeInteger(nparams));
	*exprs = list_concat(*exprs, planned->sets);
	private = lappend(private, add_plan_quals(exprs, recheck));
	private = lappend(private, add_plan_quals(exprs,
											  planned->partition_quals));
	private = lappend(private, add_plan_expr(exprs, limit));
	private = lappend(private, add_plan_expr(exprs, offset));
	return lappend(private, planned->canon);
}

/*
 * See plan.h.
 */
Plan *
logq_plan_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
			   List *tlist, List *clauses, List *custom_plans)
{
	LogqRelInfo *info = rel->fdw_private;
	CustomScan *scan = makeNode(CustomScan);
	int			order = intVal(list_nth(path->custom_private,
										LOGQ_PATH_ORDER));
	bool		bounded = intVal(list_nth(path->custom_private,
										  LOGQ_PATH_BOUNDED)) != 0;
	PlannedClauses planned = {0};
	List	   *exprs = NIL;
	List	   *private;

	plan_clauses(info, extract_actual_clauses(clauses, false), &exprs,
				 &planned);
	if (planned.local != NIL)
		bounded = false;
	private = make_private(root, rel, &planned,
						   columns_needed(info, path, tlist, planned.local,
										  order),
						   order,
						   bounded ? (Expr *) root->parse->limitCount : NULL,
						   bounded ? (Expr *) root->parse->limitOffset : NULL,
						   list_concat(planned.recheck,
									   planned.partition_quals),
						   &exprs);

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = planned.local;
	scan->scan.scanrelid = rel->relid;
	scan->flags = path->flags;
	scan->custom_exprs = exprs;
	scan->custom_private = lappend(private, NIL);
	scan->custom_scan_tlist = NIL;
	scan->methods = &logq_scan_methods;
	return &scan->scan.plan;
}

/* ---------- scans below an aggregation ---------- */

/*
 * An expression as pieces, perhaps with text around it: each %s of the format
 * stands for the expression.
 */
static List *
formatted_pieces(const LogqShipContext *ship, const LogqTarget *target,
				 List **params)
{
	List	   *inner = logq_deparse_expr(ship, target->sql, params);
	List	   *pieces = NIL;
	const char *at = target->format;

	if (at == NULL)
		return inner;
	for (;;)
	{
		const char *place = strstr(at, "%s");

		if (place == NULL)
			return lappend(pieces, makeString(pstrdup(at)));
		pieces = lappend(pieces, makeString(pnstrdup(at, place - at)));
		pieces = list_concat(pieces, list_copy(inner));
		at = place + strlen("%s");
	}
}

/*
 * Parameters of the step functions.
 */
static List *
plan_steps(List *steps, List **params)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, steps)
	{
		List	   *step = lfirst(lc);
		Expr	   *first = list_nth(step, LOGQ_STEP_FIRST);
		Expr	   *second = list_nth(step, LOGQ_STEP_SECOND);

		result = lappend(result,
						 list_make3_int(intVal(list_nth(step, LOGQ_STEP_KIND)),
										first == NULL ? -1 :
										logq_param_index(params, first),
										second == NULL ? -1 :
										logq_param_index(params, second)));
	}
	return result;
}

/*
 * Let a column stand in the tuple, if it is not there already, for quals.
 */
static void
add_qual_target(LogqUpper *upper, LogqColumn column)
{
	ListCell   *lc;

	if (upper->info->map.attno[column] == 0)
		return;
	foreach(lc, upper->targets)
		if (logq_var_column(&upper->info->ship, (Node *)
							((LogqTarget *) lfirst(lc))->expr) == (int) column)
			return;
	logq_add_target(upper, LOGQ_TARGET_QUAL, false,
					logq_column_var(upper, column), NULL, NULL);
}

/*
 * Quals that choose partitions, segments and cells see columns only, in a tuple
 * in which all else is NULL.  Each column gets a cast that does nothing, so
 * that setrefs.c finds no larger part of them among what is sent: with
 * GROUP BY lower(level), lower(level) = 'x' would be about that.
 */
static Node *
hide_columns(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		return (Node *) makeRelabelType((Expr *) var, var->vartype,
										var->vartypmod, var->varcollid,
										COERCE_IMPLICIT_CAST);
	}
	return expression_tree_mutator(node, hide_columns, context);
}

/*
 * See plan.h.
 */
Plan *
logq_plan_upper(LogqUpper *upper, CustomPath *path, List *tlist)
{
	LogqRelInfo *info = upper->info;
	PlannerInfo *root = upper->root;
	CustomScan *scan = makeNode(CustomScan);
	PlannedClauses planned = {0};
	List	   *exprs = NIL;
	List	   *targets = NIL;
	List	   *counted = NIL;
	List	   *needs = NIL;
	List	   *steps;
	List	   *private;
	List	   *item;
	ListCell   *lc;

	plan_clauses(info, extract_actual_clauses(upper->rel->baserestrictinfo,
											  false), &exprs, &planned);
	foreach(lc, rank_clauses(info, upper->counted))
		counted = lappend(counted, logq_deparse_expr(&info->ship, lfirst(lc),
													 &exprs));
	planned.sets = (List *) hide_columns((Node *) planned.sets, NULL);
	planned.partition_quals = (List *)
		hide_columns((Node *) planned.partition_quals, NULL);
	steps = plan_steps(upper->steps, &exprs);
	add_qual_target(upper, LOGQ_COL_LEVEL);
	add_qual_target(upper, LOGQ_COL_SERVICE);
	add_qual_target(upper, LOGQ_COL_PARTITION);
	foreach(lc, upper->targets)
	{
		LogqTarget *target = lfirst(lc);

		targets = lappend(targets,
						  list_make4(makeInteger(target->kind),
									 makeInteger(target->key),
									 makeInteger(logq_var_column(&info->ship,
												 (Node *) target->expr)),
									 target->kind != LOGQ_TARGET_SQL ? NIL :
									 formatted_pieces(&info->ship, target,
													  &exprs)));
		scan->custom_scan_tlist =
			lappend(scan->custom_scan_tlist,
					makeTargetEntry(target->expr,
									list_length(scan->custom_scan_tlist) + 1,
									NULL, false));
	}
	for (int col = 0; col < LOGQ_NCOLUMNS; col++)
		if (upper->needs[col] && col != LOGQ_COL_PARTITION)
			needs = lappend_int(needs, col);

	private = make_private(root, upper->rel, &planned, NIL, 0, NULL, NULL,
						   NIL, &exprs);
	item = list_make5(makeInteger((int) planner_rt_fetch(upper->rel->relid,
														 root)->relid),
					  makeInteger(upper->mode), targets, steps, counted);
	item = lappend(item,
				   add_plan_quals(&exprs, (List *)
								  hide_columns((Node *) upper->counted,
											   NULL)));
	item = lappend(item, makeInteger(upper->from_rollups));
	item = lappend(item, needs);
	item = lappend(item, makeInteger(upper->gathers));

	scan->scan.plan.targetlist = tlist;
	scan->scan.scanrelid = 0;
	scan->flags = path->flags;
	scan->custom_exprs = exprs;
	scan->custom_private = lappend(private, item);
	scan->methods = &logq_scan_methods;
	return &scan->scan.plan;
}
