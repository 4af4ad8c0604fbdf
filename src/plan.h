/*-------------------------------------------------------------------------
 *
 * plan.h
 *		What the files that plan a query know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_PLAN_H
#define LOGQ_PLAN_H

#include "estimate.h"
#include "scan.h"

#include "nodes/pathnodes.h"

/* What planning knows of a log table; RelOptInfo.fdw_private */
typedef struct LogqRelInfo
{
	LogqEstimate estimate;		/* must be first */
	LogqRelMap	map;
	LogqShipContext ship;
	bool		all_remote;		/* no restriction is checked here */
} LogqRelInfo;

/* ---------- fdw.c ---------- */

/* cost of a round trip, of a segment asked, of moving and decoding a row */
#define LOGQ_STARTUP_COST 100.0
#define LOGQ_SEGMENT_COST 2.0
#define LOGQ_TUPLE_COST 0.05

/* Members of CustomPath.custom_private of a scan */
enum LogqPathItem
{
	LOGQ_PATH_ORDER,			/* Integer: 1, -1 or 0, as in LOGQ_PLAN_ORDER */
	LOGQ_PATH_BOUNDED			/* Integer: the LIMIT is the scan's, too */
};

/* is this a relation of ours, by its fdwroutine? */
extern bool logq_is_log_rel(const RelOptInfo *rel);

/* ---------- plan.c ---------- */

/* the clause in the form in which it may be sent, if it may be, else NULL */
extern Expr *logq_sendable_clause(LogqRelInfo *info, Expr *clause);
/* is it about the partition alone, so that it is decided before asking? */
extern bool logq_is_partition_qual(LogqRelInfo *info, Expr *clause);
/* the plan node of a scan's path */
extern Plan *logq_plan_scan(PlannerInfo *root, RelOptInfo *rel,
							CustomPath *path, List *tlist, List *clauses,
							List *custom_plans);

/* ---------- steps.c ---------- */

/* What an expression depends on that is computed here, from groups */
typedef struct LogqDependence
{
	bool		steps;			/* on ts, but through step functions only */
	bool		columns[LOGQ_NCOLUMNS];	/* on these as they are */
	List	   *found;			/* Lists, see LogqStepItem; expressions for
								 * parameters */
} LogqDependence;

/*
 * Look what expr depends on, adding to *dep.  False: on something that only
 * rows have, or it must not be computed fewer times than there are rows.
 */
extern bool logq_find_dependence(const LogqShipContext *cxt, Node *expr,
								 LogqDependence *dep);

extern double logq_nominal_unit(const char *unit);

/* ---------- groupest.c ---------- */

/* how many groups there may be by these keys, expressions */
extern double logq_estimate_groups(PlannerInfo *root, LogqRelInfo *info,
								   List *keys, double rows);

/* ---------- split.c ---------- */

/* What a scan for an aggregation gives to the nodes above */
typedef struct LogqTarget
{
	LogqTargetKind kind;
	bool		key;			/* rows are grouped by it */
	Expr	   *expr;			/* that it stands for in the plan */
	Expr	   *sql;			/* to be sent */
	const char *format;			/* around the SQL, %s; NULL: as it is */
} LogqTarget;

typedef struct LogqUpper
{
	PlannerInfo *root;
	RelOptInfo *rel;			/* the log table */
	LogqRelInfo *info;
	LogqUpperMode mode;
	List	   *targets;		/* LogqTargets, in the order of the scan's tuple */
	List	   *steps;			/* as LogqDependence.found */
	PathTarget *target;			/* of the scan's path */
	bool		sorted;			/* some aggregate needs its input in order */
	bool		gathers;		/* some partial result is an array of values */
	List	   *counted;		/* counts mode: clauses that rollups can check */
	bool		from_rollups;	/* ... and there are no others */
	bool		needs[LOGQ_NCOLUMNS];	/* level, service: of rollups */
} LogqUpper;

/* the plan node of the scan below an aggregation */
extern Plan *logq_plan_upper(LogqUpper *upper, CustomPath *path, List *tlist);
/* the target of an equal expression, added when it is new */
extern void logq_add_target(LogqUpper *upper, LogqTargetKind kind, bool key,
							Expr *expr, Expr *sql, const char *format);
/* the table's own column as a Var */
extern Expr *logq_column_var(const LogqUpper *upper, LogqColumn column);
/*
 * Targets for what an expression depends on.  False: there are no such groups,
 * in counts mode or, by attrs, in any.
 */
extern bool logq_add_dependence(LogqUpper *upper, const LogqDependence *dep);
/* can rows be grouped by it over there as here? */
extern bool logq_is_groupable(Node *expr);
/*
 * The expression that gives an aggregate's value, over what the targets of
 * the scan give; targets are added for it.  NULL: it cannot be had from
 * groups.
 */
extern Expr *logq_split_aggregate(LogqUpper *upper, Aggref *agg);
extern Expr *logq_count_aggregate(LogqUpper *upper, Aggref *agg);
/* a function or aggregate of the extension, InvalidOid when it is not there */
extern Oid	logq_function_oid(const char *name, int nargs, const Oid *types);

/* ---------- upper.c ---------- */

extern void logq_upper_paths(PlannerInfo *root, UpperRelationKind stage,
							 RelOptInfo *input_rel, RelOptInfo *output_rel,
							 void *extra);

#endif							/* LOGQ_PLAN_H */
