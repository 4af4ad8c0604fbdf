/*-------------------------------------------------------------------------
 *
 * fdw.c
 *		Planning: paths over the log table.
 *
 * A log table gets Custom Scan paths from GetForeignPaths: one without an
 * order, one in the order of the query as far as that begins with ts (or ts
 * and id), and one for each set of other relations whose columns a join
 * clause compares ours with.  When the query ends in a LIMIT that our rows
 * reach unchanged, GetForeignUpperPaths adds a path whose scan knows how many
 * rows it needs; the Limit node stays above it, so that WITH TIES, OFFSET and
 * all the rest remain core's business.  Queries that group rows have paths of
 * upper.c as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "plan.h"

#include "access/table.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/typcache.h"

/* rows of a log nobody has asked yet */
#define LOGQ_DEFAULT_ROWS 1000000.0

PG_FUNCTION_INFO_V1(logq_fdw_handler);

static const CustomPathMethods path_methods = {
	.CustomName = "LogqScan",
	.PlanCustomPath = logq_plan_scan,
};

static void get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid relid);

/* ---------- sizes and costs ---------- */

/*
 * See plan.h.
 */
bool
logq_is_log_rel(const RelOptInfo *rel)
{
	return rel->fdwroutine != NULL &&
		rel->fdwroutine->GetForeignRelSize == get_rel_size;
}

/*
 * Estimate the rows of the table and of the scan.
 */
static void
get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	LogqRelInfo *info = palloc0(sizeof(LogqRelInfo));
	Relation	rel;
	ListCell   *lc;

	rel = table_open(relid, NoLock);
	logq_rel_map(rel, &info->map);
	table_close(rel, NoLock);

	info->ship.root = root;
	info->ship.rel = baserel;
	info->ship.map = &info->map;
	info->ship.same_locale = logq_all_same_locale();
	info->all_remote = true;
	foreach(lc, baserel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);

		if (!rinfo->pseudoconstant &&
			logq_sendable_clause(info, rinfo->clause) == NULL)
			info->all_remote = false;
	}

	baserel->fdw_private = info;
	logq_estimate_scan(&info->ship, baserel->baserestrictinfo,
					   baserel->tuples > 0 ? baserel->tuples :
					   LOGQ_DEFAULT_ROWS, &info->estimate);
	baserel->tuples = Max(info->estimate.total, 1);
	baserel->rows = clamp_row_est(info->estimate.rows);
	/* a message is longer than the 32 bytes assumed of any text */
	baserel->reltarget->width = Max(baserel->reltarget->width, 64);
}

/*
 * Cost of a scan.  Order costs nothing extra: the segments' indexes on
 * (ts, id) have it, and a merge that stands ready for a LIMIT always beats a
 * sort here.
 */
static void
cost_scan(Path *path, const LogqEstimate *est, double rows)
{
	path->rows = clamp_row_est(rows);
	path->startup_cost = LOGQ_STARTUP_COST;
	path->total_cost = LOGQ_STARTUP_COST +
		est->segments * LOGQ_SEGMENT_COST +
		est->scanned * cpu_operator_cost * 0.25 +
		path->rows * (LOGQ_TUPLE_COST + cpu_tuple_cost);
}

/*
 * Make a path of ours.
 */
static CustomPath *
make_path(PlannerInfo *root, RelOptInfo *rel, ParamPathInfo *param_info,
		  List *pathkeys, int order)
{
	LogqRelInfo *info = rel->fdw_private;
	CustomPath *path = makeNode(CustomPath);

	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = param_info;
	path->path.parallel_aware = false;
	path->path.parallel_safe = false;
	path->path.parallel_workers = 0;
	path->path.pathkeys = pathkeys;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_private = list_make2(makeInteger(order), makeInteger(0));
	path->methods = &path_methods;
	if (param_info == NULL)
		cost_scan(&path->path, &info->estimate, rel->rows);
	else
	{
		LogqEstimate est;

		logq_estimate_param_scan(&info->estimate, param_info->ppi_clauses,
								 &est);
		/* all paths of this parameterization are to have the same rows */
		param_info->ppi_rows = Min(clamp_row_est(est.rows), rel->rows);
		cost_scan(&path->path, &est, param_info->ppi_rows);
	}
	return path;
}

/* ---------- paths ---------- */

/*
 * Is this pathkey an order by the given column of ours?
 */
static bool
pathkey_is_column(PathKey *pathkey, RelOptInfo *rel, AttrNumber attno,
				  Oid opfamily)
{
	ListCell   *lc;

	if (attno == 0 || pathkey->pk_opfamily != opfamily)
		return false;
	foreach(lc, pathkey->pk_eclass->ec_members)
	{
		EquivalenceMember *member = lfirst(lc);
		Var		   *var = (Var *) member->em_expr;

		if (!member->em_is_child && IsA(var, Var) &&
			var->varno == rel->relid && var->varattno == attno)
			return true;
	}
	return false;
}

/*
 * As much of the query's order as the merge gives: ts, or ts and id in the
 * same direction.  Neither is ever NULL, so it does not matter where NULLs
 * would go.
 */
static List *
useful_pathkeys(PlannerInfo *root, RelOptInfo *rel, int *order)
{
	LogqRelInfo *info = rel->fdw_private;
	PathKey    *first;
	List	   *result;
	Oid			ts_family;
	Oid			id_family;

	*order = 0;
	if (!logq_enable_ordered_merge || root->query_pathkeys == NIL)
		return NIL;
	ts_family = lookup_type_cache(logq_columns[LOGQ_COL_TS].type,
								  TYPECACHE_BTREE_OPFAMILY)->btree_opf;
	id_family = lookup_type_cache(logq_columns[LOGQ_COL_ID].type,
								  TYPECACHE_BTREE_OPFAMILY)->btree_opf;

	first = linitial_node(PathKey, root->query_pathkeys);
	if (!pathkey_is_column(first, rel, info->map.attno[LOGQ_COL_TS],
						   ts_family))
		return NIL;
	*order = logq_pathkey_is_desc(first) ? -1 : 1;
	result = list_make1(first);
	if (list_length(root->query_pathkeys) > 1)
	{
		PathKey    *second = lsecond_node(PathKey, root->query_pathkeys);

		if (pathkey_is_column(second, rel, info->map.attno[LOGQ_COL_ID],
							  id_family) &&
			logq_pathkey_is_desc(second) == logq_pathkey_is_desc(first))
			result = lappend(result, second);
	}
	return result;
}

/* Which equivalence members a look-up takes up, and has taken up before */
typedef struct MemberSearch
{
	Expr	   *current;
	List	   *done;
} MemberSearch;

/*
 * Callback of generate_implied_equalities_for_column: take any member of our
 * relation that was not taken before, and then only that one.
 */
static bool
ec_member_matches(PlannerInfo *root, RelOptInfo *rel,
				  EquivalenceClass *ec, EquivalenceMember *em, void *arg)
{
	MemberSearch *search = arg;

	if (search->current != NULL)
		return equal(em->em_expr, search->current);
	if (list_member(search->done, em->em_expr))
		return false;
	search->current = em->em_expr;
	return true;
}

/*
 * Paths for the inner side of a nested loop: the other side's values go with
 * the request.
 */
static void
add_parameterized_paths(PlannerInfo *root, RelOptInfo *rel)
{
	LogqRelInfo *info = rel->fdw_private;
	List	   *outer_sets = NIL;
	List	   *clauses = NIL;
	ListCell   *lc;

	/* join clauses as they stand */
	foreach(lc, rel->joininfo)
		clauses = lappend(clauses, lfirst(lc));

	/* and those that follow from equivalence classes */
	if (rel->has_eclass_joins)
	{
		MemberSearch search = {NULL, NIL};

		for (;;)
		{
			List	   *implied;

			search.current = NULL;
			implied = generate_implied_equalities_for_column(root, rel,
															 ec_member_matches,
															 &search,
															 rel->lateral_referencers);
			if (search.current == NULL)
				break;
			clauses = list_concat(clauses, implied);
			search.done = lappend(search.done, search.current);
		}
	}

	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		Relids		outer;
		ListCell   *other;
		bool		seen = false;

		if (!join_clause_is_movable_to(rinfo, rel) ||
			logq_sendable_clause(info, rinfo->clause) == NULL)
			continue;
		outer = bms_union(rinfo->clause_relids, rel->lateral_relids);
		outer = bms_del_member(outer, rel->relid);
		if (bms_is_empty(outer))
			continue;
		foreach(other, outer_sets)
			if (bms_equal(lfirst(other), outer))
				seen = true;
		if (!seen)
			outer_sets = lappend(outer_sets, outer);
	}

	foreach(lc, outer_sets)
	{
		ParamPathInfo *param_info = get_baserel_parampathinfo(root, rel,
															  lfirst(lc));

		add_path(rel, (Path *) make_path(root, rel, param_info, NIL, 0));
	}
}

/*
 * Is the LIMIT of this query one of our rows, with nothing in between?  Core
 * asks the smallest or greatest ts (min and max) by such a query, and does
 * not come to get_upper_paths with it.
 */
static bool
limit_is_ours(PlannerInfo *root, RelOptInfo *rel, List *pathkeys)
{
	LogqRelInfo *info = rel->fdw_private;
	Query	   *parse = root->parse;

	return logq_enable_limit_pushdown && info->all_remote &&
		root->limit_tuples > 0 && parse->limitCount != NULL &&
		IsA(parse->limitCount, Const) &&
		(parse->limitOffset == NULL || IsA(parse->limitOffset, Const)) &&
		parse->limitOption == LIMIT_OPTION_COUNT &&
		parse->commandType == CMD_SELECT && !parse->hasAggs &&
		parse->groupClause == NIL && parse->groupingSets == NIL &&
		parse->distinctClause == NIL && !parse->hasWindowFuncs &&
		!parse->hasTargetSRFs && parse->havingQual == NULL &&
		parse->rowMarks == NIL && parse->setOperations == NULL &&
		bms_equal(root->all_baserels, rel->relids) &&
		bms_is_empty(rel->lateral_relids) &&
		pathkeys_contained_in(root->query_pathkeys, pathkeys);
}

/*
 * Add all paths of a log table.
 */
static void
get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	ParamPathInfo *param_info = NULL;
	List	   *pathkeys;
	int			order;

	/* a LATERAL reference within makes even the plainest path depend */
	if (!bms_is_empty(baserel->lateral_relids))
		param_info = get_baserel_parampathinfo(root, baserel,
											   baserel->lateral_relids);
	add_path(baserel, (Path *) make_path(root, baserel, param_info, NIL, 0));

	pathkeys = useful_pathkeys(root, baserel, &order);
	if (pathkeys != NIL)
	{
		CustomPath *path = make_path(root, baserel, param_info, pathkeys,
									 order);

		if (limit_is_ours(root, baserel, pathkeys))
			path->custom_private = list_make2(makeInteger(order),
											  makeInteger(1));
		add_path(baserel, (Path *) path);
	}
	add_parameterized_paths(root, baserel);
}

/*
 * Tell the scan how many rows a LIMIT will take of it.
 */
static void
get_upper_paths(PlannerInfo *root, UpperRelationKind stage,
				RelOptInfo *input_rel, RelOptInfo *output_rel, void *extra)
{
	Query	   *parse = root->parse;
	FinalPathExtraData *final = extra;
	List	   *paths = NIL;
	ListCell   *lc;

	if (stage == UPPERREL_GROUP_AGG || stage == UPPERREL_DISTINCT)
		logq_upper_paths(root, stage, input_rel, output_rel, extra);
	if (stage != UPPERREL_FINAL || !logq_enable_limit_pushdown ||
		!final->limit_needed || parse->commandType != CMD_SELECT ||
		parse->limitOption != LIMIT_OPTION_COUNT ||
		parse->limitCount == NULL || parse->hasTargetSRFs ||
		parse->rowMarks != NIL ||
		contain_volatile_functions(parse->limitCount) ||
		contain_volatile_functions(parse->limitOffset))
		return;

	foreach(lc, input_rel->pathlist)
	{
		Path	   *path = lfirst(lc);
		ProjectionPath *projection = NULL;
		CustomPath *scan;

		if (IsA(path, ProjectionPath))
		{
			projection = (ProjectionPath *) path;
			path = projection->subpath;
		}
		scan = (CustomPath *) path;
		if (!IsA(scan, CustomPath) || scan->methods != &path_methods ||
			!((LogqRelInfo *) path->parent->fdw_private)->all_remote ||
			!pathkeys_contained_in(root->sort_pathkeys, path->pathkeys))
			continue;
		/* with parameters there are clauses that we have not looked at */
		if (path->param_info != NULL &&
			path->param_info->ppi_clauses != NIL)
			continue;

		scan = palloc(sizeof(CustomPath));
		memcpy(scan, path, sizeof(CustomPath));
		scan->custom_private = list_make2(linitial(scan->custom_private),
										  makeInteger(1));
		if (root->limit_tuples >= 0 && root->limit_tuples < path->rows)
		{
			scan->path.rows = clamp_row_est(root->limit_tuples);
			scan->path.total_cost = path->startup_cost +
				(path->total_cost - path->startup_cost) *
				(root->limit_tuples / path->rows);
		}
		/* better than the same scan that does not know when to stop */
		scan->path.startup_cost *= 0.5;
		path = (Path *) scan;
		if (projection != NULL)
		{
			ProjectionPath *copy = palloc(sizeof(ProjectionPath));

			memcpy(copy, projection, sizeof(ProjectionPath));
			copy->subpath = path;
			copy->path.rows = path->rows;
			copy->path.startup_cost = path->startup_cost;
			copy->path.total_cost = path->total_cost;
			path = (Path *) copy;
		}
		paths = lappend(paths, path);
	}

	foreach(lc, paths)
		add_path(output_rel, (Path *)
				 create_limit_path(root, output_rel, lfirst(lc),
								   parse->limitOffset, parse->limitCount,
								   parse->limitOption, final->offset_est,
								   final->count_est));
}

/* ---------- handler ---------- */

/*
 * The wrapper's routines.  There are none for ForeignScan: every path is a
 * Custom Scan.
 */
Datum
logq_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignUpperPaths = get_upper_paths;
	logq_write_init(routine);
	logq_colstats_init(routine);
	PG_RETURN_POINTER(routine);
}
