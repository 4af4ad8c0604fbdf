/*-------------------------------------------------------------------------
 *
 * scan.h
 *		The executor node, and what the plan tells it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_SCAN_H
#define LOGQ_SCAN_H

#include "logq.h"

#include "lib/ilist.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "nodes/extensible.h"

#include "cacherun.h"
#include "merge.h"
#include "stream.h"

/*
 * Members of CustomScan.custom_private.  Positions of expressions are into
 * custom_exprs, which setrefs and the executor know how to handle; -1 where
 * there is none.
 */
enum LogqPlanItem
{
	LOGQ_PLAN_USER,				/* Integer: read as this user, 0: the caller */
	LOGQ_PLAN_COLUMNS,			/* IntList of LogqColumn, as selected */
	LOGQ_PLAN_WHERE,			/* List of clauses, each a List of pieces */
	LOGQ_PLAN_ORDER,			/* Integer: 1 ascending, -1 descending, 0 */
	LOGQ_PLAN_PRUNE,			/* List of IntLists, see LogqPruneItem */
	LOGQ_PLAN_PRUNE_NODES,		/* List of nodes, see LogqPruneKind */
	LOGQ_PLAN_PRUNE_SETS,		/* Integer: position of the first set's qual */
	LOGQ_PLAN_NPARAMS,			/* Integer: first so many of custom_exprs */
	LOGQ_PLAN_RECHECK,			/* Integer: position of the remote clauses */
	LOGQ_PLAN_PARTITION_QUAL,	/* Integer: position of quals on partition */
	LOGQ_PLAN_LIMIT,			/* Integer: position of LIMIT's count */
	LOGQ_PLAN_OFFSET,			/* Integer: position of OFFSET's count */
	LOGQ_PLAN_CANON,			/* List of nodes, see canon.c */
	LOGQ_PLAN_UPPER				/* List, see LogqUpperItem; NIL: a plain scan */
};

/*
 * What a scan does that stands for an aggregation, or below one.  Its tuple is
 * that of the plan's custom_scan_tlist.
 */
typedef enum LogqUpperMode
{
	LOGQ_UPPER_COUNTS,			/* rows, counted by level and the like */
	LOGQ_UPPER_PARTIALS,		/* groups of rows, with partial aggregates */
	LOGQ_UPPER_ROWS				/* rows, with expressions computed */
} LogqUpperMode;

/* Members of LOGQ_PLAN_UPPER */
enum LogqUpperItem
{
	LOGQ_UPPER_RELID,			/* Integer: the log table */
	LOGQ_UPPER_MODE,			/* Integer: LogqUpperMode */
	LOGQ_UPPER_TARGETS,			/* List of Lists, see LogqTargetItem */
	LOGQ_UPPER_STEPS,			/* List of IntLists, see LogqStepItem */
	LOGQ_UPPER_COUNTED,			/* List of clauses as in LOGQ_PLAN_WHERE */
	LOGQ_UPPER_COUNTED_QUAL,	/* Integer: position of these clauses */
	LOGQ_UPPER_FROM_ROLLUPS,	/* Integer: can rollups answer at all? */
	LOGQ_UPPER_NEEDS,			/* IntList of columns that they must have */
	LOGQ_UPPER_GATHERS			/* Integer: do values come in arrays? */
};

/* Members of an entry of LOGQ_UPPER_TARGETS, in the order of the tuple */
enum LogqTargetItem
{
	LOGQ_TARGET_ITEM_KIND,		/* Integer: LogqTargetKind */
	LOGQ_TARGET_ITEM_KEY,		/* Integer: is it grouped by? */
	LOGQ_TARGET_ITEM_COLUMN,	/* Integer: LogqColumn that it is, or -1 */
	LOGQ_TARGET_ITEM_PIECES		/* List of pieces, when it is sent */
};

typedef enum LogqTargetKind
{
	LOGQ_TARGET_BIN,			/* the bin of ts, see steps.c; comes first */
	LOGQ_TARGET_SQL,			/* an expression, as SQL */
	LOGQ_TARGET_COUNT,			/* rows, of counts mode */
	LOGQ_TARGET_PARTITION,		/* its name, which is known here */
	LOGQ_TARGET_QUAL			/* stands for a column in quals; always NULL */
} LogqTargetKind;

/* ---------- steps.c ---------- */

/* Functions that take ts in steps */
typedef enum LogqStepKind
{
	LOGQ_STEP_BIN,				/* date_bin(first, ts, second) */
	LOGQ_STEP_EPOCH,			/* floor(epoch * second / first), in numeric */
	LOGQ_STEP_EPOCH_DOUBLE,		/* floor(epoch / first) */
	LOGQ_STEP_UNIT,				/* date_trunc(first, ts, zone second) */
	LOGQ_STEP_FIELD,			/* extract(first from ts at zone second) */
	LOGQ_STEP_DAY				/* (ts at zone second)::date */
} LogqStepKind;

/* Members of an entry of LOGQ_UPPER_STEPS */
enum LogqStepItem
{
	LOGQ_STEP_KIND,
	LOGQ_STEP_FIRST,			/* parameter, -1: none */
	LOGQ_STEP_SECOND			/* parameter, -1: none, 1, the session's zone */
};

/* One of them, with its values */
typedef struct LogqStep
{
	LogqStepKind kind;
	int64		width;			/* us; 0: any two times may differ */
	int64		origin;
	pg_tz	   *zone;			/* NULL: unknown */
} LogqStep;

struct LogqScanState;
struct LogqUpperScan;

extern void logq_steps_begin(struct LogqScanState *state);
extern void logq_segment_bins(const struct LogqUpperScan *upper,
							  TimestampTz lower, TimestampTz upper_bound,
							  LogqBins *bins);

/* Members of one entry of LOGQ_PLAN_PRUNE: column op params[param] */
enum LogqPruneItem
{
	LOGQ_PRUNE_COLUMN,
	LOGQ_PRUNE_OP,
	LOGQ_PRUNE_PARAM
};

typedef enum LogqPruneOp
{
	LOGQ_PRUNE_LT,
	LOGQ_PRUNE_LE,
	LOGQ_PRUNE_EQ,
	LOGQ_PRUNE_GE,
	LOGQ_PRUNE_GT,
	LOGQ_PRUNE_EQ_ANY			/* = ANY (array) */
} LogqPruneOp;

/*
 * Conditions that choose segments, as nested Lists in the plan.  The first
 * member is an Integer of this kind; what follows is Integers, too, where
 * nothing else is said.  Nodes at the top are ANDed.
 */
typedef enum LogqPruneKind
{
	LOGQ_NODE_AND,				/* nodes */
	LOGQ_NODE_OR,				/* nodes */
	LOGQ_NODE_CONST,			/* param: the same for all rows */
	LOGQ_NODE_RANGE,			/* column op param: ts or id */
	LOGQ_NODE_SET,				/* column, number of the qual among the sets,
								 * IntList of params that are LIKE patterns */
	LOGQ_NODE_EQUAL,			/* column, is it = ANY, param, String: field of
								 * filters or "" */
	LOGQ_NODE_CONTAINS,			/* param: attrs @> */
	LOGQ_NODE_WORDS				/* LogqPatternKind, is it ANY, param */
} LogqPruneKind;

/* Why a segment is not asked */
typedef enum LogqPruneReason
{
	LOGQ_REASON_TIME,
	LOGQ_REASON_ID,
	LOGQ_REASON_LEVEL,
	LOGQ_REASON_SERVICE,
	LOGQ_REASON_TRACE_ID,
	LOGQ_REASON_ATTRS,
	LOGQ_REASON_WORDS,
	LOGQ_REASON_SEVERAL,		/* an OR over several of them */
	LOGQ_NREASONS
} LogqPruneReason;

/* ---------- prune.c ---------- */

/* What the predicates leave possible; bounds are included */
typedef struct LogqBounds
{
	bool		nothing;		/* no row can match */
	int64		ts_low;
	int64		ts_high;
	int64		id_low;
	int64		id_high;
	bool		any_number;		/* partitions of an id list do not matter */
	Bitmapset  *numbers;		/* else they are these */
} LogqBounds;

extern bool logq_prune_bound(const LogqShipContext *cxt, Expr *clause,
							 int *column, LogqPruneOp *operator,
							 Node **compared);
/* the prune step of a clause, as an IntList, or NIL */
extern List *logq_prune_step(const LogqShipContext *cxt, Expr *clause,
							 List **params);
extern void logq_bounds_init(LogqBounds *bounds);
/* the numbers of an array of integers, without NULLs, palloc'd; how many */
extern int	logq_bounds_list(Datum array, int64 **numbers);
extern void logq_bounds_apply(LogqBounds *bounds, LogqColumn column,
							  LogqPruneOp op, Datum value, bool isnull,
							  Oid type);
extern bool logq_bounds_allow_partition(const LogqBounds *bounds,
										int32 number);
/* segments [*first, *last) can hold rows within the bounds */
extern void logq_bounds_segments(const LogqBounds *bounds,
								 const LogqPartition *part, int *first,
								 int *last);

/* ---------- prunetree.c ---------- */

/*
 * Add what a clause says of segments to the steps, the nodes, the parameters
 * and the quals that choose from sets.  sent: partitions evaluate it.
 */
extern void logq_prune_clause(const LogqShipContext *cxt, Expr *clause,
							  bool sent, List **steps, List **nodes,
							  List **params, List **sets);

/* ---------- prunerun.c ---------- */

typedef struct LogqPruneNode LogqPruneNode;
struct LogqScanState;

/* prepare what the plan says; call with scan_cxt current */
extern LogqPruneNode *logq_prune_prepare(struct LogqScanState *state,
										 CustomScan *plan);
/*
 * Take up the parameters' values; call with run_cxt current.  False: nothing
 * can match.
 */
extern bool logq_prune_begin(struct LogqScanState *state);

/* ---------- segments.c ---------- */

/* Segments of a partition that are left, as long as its catalog stays so */
typedef struct LogqPruned
{
	bool		valid;
	int64		version;
	int64		changed;
	uint64		puts;
	int			known;			/* segments there are, -1: nobody knows */
	int			nleft;
	int		   *left;			/* indexes, ascending */
	int			removed[LOGQ_NREASONS];
	int			nexpected;		/* of an ordered scan with a LIMIT, the first */
	double	   *expected;		/* segments in its order: rows that match, -1 */
	double		weight;			/* their sum, -1: unknown */
	/* of a scan below an aggregation, see sources.c */
	bool		sources_valid;
	bool		only_rows;		/* rollups were not to be used */
	bool		check_security; /* wrong if there is row-level security */
	int			nfragments;
	LogqFragment *fragments;
	int			segments[LOGQ_NSOURCES];	/* answered from there */
	struct Tuplestorestate *cells;	/* from our catalog, NULL: none */
} LogqPruned;

/* choose segments of the index-th stream's partition */
extern void logq_prune_segments(struct LogqScanState *state, int index);

/* ---------- sources.c ---------- */

/*
 * Choose where the rows of a partition's segments are counted, and make the
 * fragments that are to be asked, in memory of the run.
 */
extern void logq_choose_sources(struct LogqScanState *state, int index);
/* free what is not palloc'd */
extern void logq_forget_sources(struct LogqScanState *state);
/* cells are four columns */
enum
{
	LOGQ_CELL_TS,
	LOGQ_CELL_LEVEL,
	LOGQ_CELL_SERVICE,
	LOGQ_CELL_ROWS,
	LOGQ_CELL_NCOLUMNS
};
extern TupleDesc logq_cell_desc(void);

/* ---------- target.c ---------- */

/* A member of the tuple of a scan below an aggregation */
typedef struct LogqScanTarget
{
	LogqTargetKind kind;
	bool		key;
	int			column;			/* LogqColumn, -1 */
	List	   *pieces;
	Oid			type;
	FmgrInfo	recv;			/* when there is no quicker way */
	Oid			ioparam;
} LogqScanTarget;

/* a scan's part in an aggregation */
typedef struct LogqUpperScan
{
	LogqUpperMode mode;
	Oid			relid;
	int			ntargets;
	LogqScanTarget *targets;
	bool		has_bin;
	int			nkeys;			/* sent, the bin included */
	int			nvalues;		/* sent, that are no keys */
	bool		gathers;		/* values of a group come in an array */
	/* steps.c */
	List	   *plan_steps;
	int			nsteps;
	LogqStep   *steps;
	/* rollups */
	bool		from_rollups;
	bool		need_level;
	bool		need_service;
	List	   *counted;
	ExprState  *counted_qual;
	TupleDesc	cell_desc;
} LogqUpperScan;

extern void logq_upper_prepare(struct LogqScanState *state, List *plan,
							   CustomScan *cscan);
/* set up what is asked of every fragment, but for its own */
extern void logq_upper_request(struct LogqScanState *state);
/* the select list for a partition, without the bin */
extern const char *logq_upper_select(struct LogqScanState *state,
									 LogqPartition *part, bool values);
/* a value in its binary form; what: what it is of, for errors */
extern Datum logq_receive(FmgrInfo *recv, Oid ioparam, LogqStream *stream,
						  const char *what, const LogqField *field);
extern Datum logq_scan_datum(struct LogqScanState *state, LogqStream *stream,
							 Oid type, const char *what,
							 const LogqField *field);
/* fill the scan's tuple from the stream's row */
extern void logq_upper_fill(struct LogqScanState *state, LogqStream *stream,
							TupleTableSlot *slot);

/* ---------- scan.c ---------- */

typedef enum LogqPartitionFate
{
	LOGQ_FATE_ASKED,
	LOGQ_FATE_PRUNED_NAME,		/* by a qual on partition */
	LOGQ_FATE_PRUNED_ID,
	LOGQ_FATE_PRUNED_EMPTY,		/* no row can match at all */
	LOGQ_FATE_PRUNED_SEGMENTS,	/* none of its segments is left */
	LOGQ_FATE_CATALOG,			/* our catalog has the answer */
	LOGQ_NFATES
} LogqPartitionFate;

/* A stream's place in the wait set */
typedef struct LogqWaitSlot
{
	int			pos;			/* -1: not in the set */
	unsigned	generation;
	uint32		events;
	bool		peer_closed;	/* found out while nobody was reading */
} LogqWaitSlot;

typedef struct LogqScanState
{
	CustomScanState css;		/* must be first */

	/* from the plan */
	Oid			plan_user;
	Oid			userid;			/* effective, at execution */
	LogqRelMap	map;			/* of an upper scan: where quals find columns */
	LogqUpperScan *upper;		/* NULL: a scan of the table's own rows */
	int			ncolumns;
	LogqColumn	columns[LOGQ_NCOLUMNS];
	List	   *where;
	int			order;
	List	   *prune;
	LogqPruneNode *prune_root;
	int			nparams;
	ExprState **params;
	Oid		   *param_types;
	int32	   *param_typmods;
	int16	   *param_lens;
	bool	   *param_byvals;
	ExprState  *recheck;
	ExprState  *partition_qual;
	ExprState  *limit;
	ExprState  *offset;

	/* values of this run */
	bool		values_done;
	Datum	   *param_values;
	bool	   *param_nulls;
	char	  **param_literals;
	LogqBounds	bounds;
	LogqRequest request;
	LogqClock	clock;
	LogqCacheRun cache;

	/* partitions, chosen anew with each run */
	bool		started;
	int			nstreams;
	LogqStream *streams;
	LogqPartitionFate *fates;
	LogqPruned *pruned;			/* by stream */
	bool	   *trusted;		/* by stream: segments chosen before asking */

	/* the merge, or the round over unordered streams */
	LogqMerge	merge;
	LogqMergeEntry *merge_entries;
	bool	   *bounded;		/* by stream: its entry is but a bound */
	int			current;		/* stream that gave the last row, -1 */
	int			opened;			/* unordered: streams opened so far */
	int			active;			/* unordered: of these, not at their end */
	bool	   *live;			/* unordered: by stream, is it one of these? */

	/* waiting */
	WaitEventSet *wait_set;
	bool	   *waiting;		/* by stream */
	LogqWaitSlot *wait_slots;	/* by stream, then those of second requests,
								 * then Redis */

	MemoryContext scan_cxt;		/* the life of the node */
	MemoryContext run_cxt;		/* one run: reset at each rescan */
	MemoryContext row_cxt;		/* values of the current row */
	FmgrInfo	jsonb_recv;
	Oid			jsonb_ioparam;
	int64		runs;

	struct LogqQuery *query;	/* that this is part of, NULL: not begun */
	dlist_node	query_node;
	int64		rows_out;
	/* see admission.h */
	bool		admitted;		/* has a place among the queries */
	double		queue_ms;		/* time waited for places */
	struct LogqQueryPlaces *query_places;	/* for connections; may be NULL */
} LogqScanState;

typedef struct LogqQuery LogqQuery;

extern const CustomScanMethods logq_scan_methods;
extern Node *logq_create_scan_state(CustomScan *cscan);
/* evaluate parameters and choose partitions, without asking any */
extern bool logq_scan_plan_partitions(LogqScanState *state, bool explain);
/*
 * Does a row with this value in one column, and NULL in all others, pass?
 * value may be NULL.
 */
extern bool logq_scan_value_passes(LogqScanState *state, ExprState *qual,
								   LogqColumn column, const char *value);
/* append pieces of SQL; values: else places are shown as $1, $2 */
extern void logq_scan_pieces(LogqScanState *state, StringInfo buf,
							 List *pieces, LogqPartition *part, bool values);
extern char *logq_scan_where(LogqScanState *state, List *clauses,
							 LogqPartition *part, bool values);

/* ---------- aggregate.c ---------- */

extern const CustomScanMethods logq_aggregate_methods;

/* ---------- gather.c ---------- */

extern int	logq_gather_next(LogqScanState *state);

/* ---------- explain.c ---------- */

extern void logq_explain_scan(CustomScanState *node, List *ancestors,
							  ExplainState *es);

#endif							/* LOGQ_SCAN_H */
