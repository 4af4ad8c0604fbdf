/*-------------------------------------------------------------------------
 *
 * estimate.h
 *		How many rows conditions leave, by what the catalog knows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_ESTIMATE_H
#define LOGQ_ESTIMATE_H

#include "catalog.h"
#include "scan.h"

struct FdwRoutine;

/* ---------- sums.c ---------- */

/* What segments of one partition hold within a range of time */
typedef struct LogqRangeSum
{
	LogqPartition *part;
	int			first;			/* segments [first, last) overlap it */
	int			last;
	double		rows;
	double		contents;		/* segments whose contents are known */
	/* rows of segments whose levels, or services, are listed; and of each */
	double		with_levels;
	double		with_services;
	const double *levels;
	const double *services;
	/* by field, of segments that know it: rows, distinct values, number */
	const double *field_rows;
	const double *field_values;
	const double *field_segments;
} LogqRangeSum;

/*
 * Sum up [low, high] (both included).  contents: not only rows.  The sums are
 * palloc'd; good until the partition's copy is brought up to date.
 */
extern void logq_sum_range(LogqPartition *part, int64 low, int64 high,
						   bool contents, LogqRangeSum *sum);
/* is anything known of what the partition's segments hold? */
extern bool logq_sums_have_contents(LogqPartition *part);
/* rows of a segment, a guess where nobody has counted them */
extern double logq_segment_rows(LogqPartition *part, const LogqSegment *seg);
/* which part of a segment's rows lies within [low, high] */
extern double logq_segment_fraction(const LogqSegment *seg, int64 low,
									int64 high);

/* What a sample of sketches says of a field, see logq_sample_sketches */
typedef struct LogqSample
{
	int			sampled;		/* segments looked at */
	int			hits;			/* of these, with any of the values */
	bool		complete;		/* all were looked at, and are exact */
	double		sampled_rows;	/* rows of those looked at */
	double		not_null;		/* of these, with a value */
	double		matches;		/* of these, with one of the values */
} LogqSample;

/*
 * Look at up to so many sketches of a field in segments [first, last), evenly
 * over them.  low and high are the range that was asked for.
 */
extern void logq_sample_sketches(LogqPartition *part, const char *field,
								 int first, int last, int max_segments,
								 const uint64 *hashes, int nhashes,
								 int64 low, int64 high, LogqSample *sample);

/* ---------- conditions.c ---------- */

/* Columns whose values the catalog lists, as in the slot of DictState */
typedef enum LogqDictColumn
{
	LOGQ_DICT_LEVEL,
	LOGQ_DICT_SERVICE,
	LOGQ_DICT_PARTITION,
	LOGQ_NDICT
} LogqDictColumn;

/* A condition on these columns only */
typedef struct LogqDictClause
{
	Expr	   *expr;
	int			columns;		/* bit i: LogqDictColumn i */
	RestrictInfo *rinfo;		/* what it was */
	ExprState  *state;
} LogqDictClause;

/* A column, or a key of attrs, = ANY (values) */
typedef struct LogqFieldCondition
{
	char	   *field;
	RestrictInfo *rinfo;
	double		nvalues;
	bool		unknown;		/* values are not known at plan time */
	int			nhashes;		/* else these, some of them when many */
	uint64	   *hashes;
} LogqFieldCondition;

typedef struct LogqConditions
{
	List	   *dict;			/* LogqDictClauses */
	List	   *fields;			/* LogqFieldConditions */
	List	   *patterns;		/* RestrictInfos: patterns on message */
	List	   *others;			/* RestrictInfos */
	double		ids;			/* id = ANY: so many values, -1: no such */
	bool		id_range;
} LogqConditions;

/*
 * Sort RestrictInfos; bounds are narrowed by those that are bounds.  May
 * evaluate any expression.
 */
extern void logq_take_conditions(const LogqShipContext *ship, List *clauses,
								 LogqBounds *bounds, LogqConditions *conds);
/*
 * Add what an equality says of a field to a condition.  Join clauses count:
 * the other side may be anything that has none of our columns.
 */
extern bool logq_take_equality(const LogqShipContext *ship, Node *clause,
							   LogqFieldCondition *cond);

/* ---------- estimate.c ---------- */

/* What is expected of the scan of a log table */
typedef struct LogqEstimate
{
	const LogqShipContext *ship;
	bool		known;			/* some partition's segments are known */
	LogqBounds	bounds;			/* as far as they are known at plan time */
	Bitmapset  *numbers;		/* partitions that conditions leave */
	double		total;			/* rows within the range of time */
	double		scanned;		/* rows that partitions look at */
	double		rows;			/* rows that come over */
	double		segments;		/* segments asked */
	double		contents;		/* of these, with known contents */
	HeapTuple	stats[LOGQ_NCOLUMNS];	/* made when core wants them */
	bool		stats_made[LOGQ_NCOLUMNS];
} LogqEstimate;

/* clauses: RestrictInfos of the relation; default_rows: of an unknown log */
extern void logq_estimate_scan(const LogqShipContext *ship, List *clauses,
							   double default_rows, LogqEstimate *est);
/* the same scan when join clauses too (RestrictInfos) are given values */
extern void logq_estimate_param_scan(const LogqEstimate *scan,
									 List *clauses, LogqEstimate *est);

/* Distinct values of a field, and the share of rows that have one */
typedef struct LogqFieldSpread
{
	double		distinct;		/* 0: not known */
	double		not_null;
} LogqFieldSpread;

/* sums of the partitions that the estimate is about, palloc'd; their number */
extern int	logq_sum_partitions(const LogqEstimate *est, bool contents,
								LogqRangeSum **sums);
/* within the estimate's range and partitions */
extern void logq_field_spread(const LogqEstimate *est, const char *field,
							  LogqFieldSpread *spread);

/* ---------- colstats.c ---------- */

/*
 * Let core's estimators see the catalog's numbers as the statistics of log
 * tables.  routine->GetForeignRelSize tells these tables from others; their
 * fdw_private begins with a LogqEstimate.
 */
extern void logq_colstats_init(const struct FdwRoutine *routine);

#endif							/* LOGQ_ESTIMATE_H */
