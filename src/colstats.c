/*-------------------------------------------------------------------------
 *
 * colstats.c
 *		The catalog's numbers as column statistics, for core's estimators.
 *
 * Joins and GROUP BY are estimated by core, from pg_statistic.  It has nothing
 * of log tables; without it, any column has 200 different values.  A hook
 * gives core rows that look like those of pg_statistic instead: levels,
 * services and partitions with what each of them holds, the number of
 * trace_ids, and how rows are spread over time.
 *
 * They are about the part of the table within the range of time and the
 * partitions that the query's conditions leave.  So the relation's "tuples"
 * must be the rows of that part, too.  They are made when first asked for and
 * live as long as the planner's own structures.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "estimate.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/selfuncs.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* values with a count of their own; joining two such lists is quadratic */
#define MAX_COMMON_VALUES 100
/* bounds of a histogram, and pieces of a partition it is made of */
#define HISTOGRAM_BOUNDS 101
#define HISTOGRAM_PIECES 256
/* messages are rarely quite the same */
#define MESSAGE_DISTINCT (-0.1)

/* A value and its rows */
typedef struct ValueRows
{
	const char *value;			/* NULL is NULL */
	double		rows;
} ValueRows;

/* Rows of a stretch of time in one partition, spread evenly */
typedef struct Piece
{
	double		begin;
	double		end;
	double		rows;
} Piece;

static bool hook_is_set = false;
static get_relation_stats_hook_type previous_hook = NULL;
static GetForeignRelSize_function our_rel_size = NULL;

/* ---------- rows of pg_statistic ---------- */

/*
 * A row of pg_statistic with at most one slot; values and numbers may be NULL.
 */
static HeapTuple
make_stats(RangeTblEntry *rte, AttrNumber attno, double null_share,
		   int width, double distinct, int kind, Oid op, Oid collation,
		   ArrayType *numbers, ArrayType *values)
{
	Relation	rel = table_open(StatisticRelationId, AccessShareLock);
	Datum		datums[Natts_pg_statistic] = {0};
	bool		nulls[Natts_pg_statistic];
	HeapTuple	result;

	/* all up to the slots' arrays has a value, 0 in unused slots */
	for (int i = 0; i < Natts_pg_statistic; i++)
		nulls[i] = i >= Anum_pg_statistic_stanumbers1 - 1;
	datums[Anum_pg_statistic_starelid - 1] = ObjectIdGetDatum(rte->relid);
	datums[Anum_pg_statistic_staattnum - 1] = Int16GetDatum(attno);
	datums[Anum_pg_statistic_stainherit - 1] = BoolGetDatum(false);
	datums[Anum_pg_statistic_stanullfrac - 1] = Float4GetDatum(null_share);
	datums[Anum_pg_statistic_stawidth - 1] = Int32GetDatum(width);
	datums[Anum_pg_statistic_stadistinct - 1] = Float4GetDatum(distinct);
	datums[Anum_pg_statistic_stakind1 - 1] = Int16GetDatum(kind);
	datums[Anum_pg_statistic_staop1 - 1] = ObjectIdGetDatum(op);
	datums[Anum_pg_statistic_stacoll1 - 1] = ObjectIdGetDatum(collation);
	if (numbers != NULL)
	{
		datums[Anum_pg_statistic_stanumbers1 - 1] = PointerGetDatum(numbers);
		nulls[Anum_pg_statistic_stanumbers1 - 1] = false;
	}
	if (values != NULL)
	{
		datums[Anum_pg_statistic_stavalues1 - 1] = PointerGetDatum(values);
		nulls[Anum_pg_statistic_stavalues1 - 1] = false;
	}
	result = heap_form_tuple(RelationGetDescr(rel), datums, nulls);
	table_close(rel, AccessShareLock);
	return result;
}

/* ---------- columns with few values ---------- */

static int
compare_values(const void *a, const void *b)
{
	const char *va = ((const ValueRows *) a)->value;
	const char *vb = ((const ValueRows *) b)->value;

	if (va == NULL || vb == NULL)
		return (va == NULL) - (vb == NULL);
	return strcmp(va, vb);
}

static int
compare_rows(const void *a, const void *b)
{
	double		ra = ((const ValueRows *) a)->rows;
	double		rb = ((const ValueRows *) b)->rows;

	return ra > rb ? -1 : ra < rb ? 1 : 0;
}

/*
 * Statistics of a list of values, in which a value may come several times.
 */
static HeapTuple
value_stats(RangeTblEntry *rte, AttrNumber attno, ValueRows *values, int n)
{
	double		total = 0;
	double		nulls = 0;
	int			distinct = 0;
	int			common;
	double		width = 0;
	Datum	   *texts;
	Datum	   *shares;

	qsort(values, n, sizeof(ValueRows), compare_values);
	for (int i = 0; i < n; i++)
	{
		if (values[i].rows <= 0)
			continue;
		total += values[i].rows;
		if (values[i].value == NULL)
			nulls += values[i].rows;
		else if (distinct > 0 &&
				 strcmp(values[distinct - 1].value, values[i].value) == 0)
			values[distinct - 1].rows += values[i].rows;
		else
			values[distinct++] = values[i];
	}
	if (total <= 0)
		return NULL;
	if (distinct == 0)
		return make_stats(rte, attno, 1, 0, 0, 0, InvalidOid, InvalidOid,
						  NULL, NULL);

	qsort(values, distinct, sizeof(ValueRows), compare_rows);
	common = Min(distinct, MAX_COMMON_VALUES);
	texts = palloc(common * sizeof(Datum));
	shares = palloc(common * sizeof(Datum));
	for (int i = 0; i < common; i++)
	{
		texts[i] = CStringGetTextDatum(values[i].value);
		shares[i] = Float4GetDatum(values[i].rows / total);
		width += strlen(values[i].value) + 1;
	}
	return make_stats(rte, attno, nulls / total, width / common, distinct,
					  STATISTIC_KIND_MCV, TextEqualOperator,
					  DEFAULT_COLLATION_OID,
					  construct_array(shares, common, FLOAT4OID,
									  sizeof(float4), true, TYPALIGN_INT),
					  construct_array(texts, common, TEXTOID, -1, false,
									  TYPALIGN_INT));
}

/*
 * Statistics of level, service or partition.
 */
static HeapTuple
list_stats(RangeTblEntry *rte, AttrNumber attno, LogqColumn column,
		   const LogqRangeSum *sums, int nsums)
{
	ValueRows  *values;
	int			n = 0;

	for (int i = 0; i < nsums; i++)
		n += 1 + sums[i].part->nlevels + sums[i].part->nservices;
	values = palloc(n * sizeof(ValueRows) + 1);
	n = 0;
	for (int i = 0; i < nsums; i++)
	{
		const LogqRangeSum *sum = &sums[i];
		bool		level = column == LOGQ_COL_LEVEL;
		double		known = level ? sum->with_levels : sum->with_services;

		if (column == LOGQ_COL_PARTITION)
		{
			values[n].value = sum->part->name;
			values[n++].rows = sum->rows;
			continue;
		}
		/* what is not known is like the rest of the same partition */
		for (int j = 0; j < (level ? sum->part->nlevels :
							 sum->part->nservices); j++)
		{
			values[n].value = level ? sum->part->levels[j] :
				sum->part->services[j];
			values[n].rows = (level ? sum->levels[j] : sum->services[j]) *
				(known > 0 ? Max(sum->rows / known, 1) : 1);
			n++;
		}
	}
	return value_stats(rte, attno, values, n);
}

/* ---------- time ---------- */

/*
 * Cut the segments of a range into a bounded number of pieces.
 */
static int
make_pieces(const LogqRangeSum *sum, const LogqBounds *bounds, int max,
			Piece *pieces)
{
	int			step = (sum->last - sum->first + max - 1) / max;
	int			n = 0;

	for (int i = sum->first; i < sum->last; i += Max(step, 1))
	{
		int			end = Min(i + step, sum->last);
		Piece	   *piece = &pieces[n++];

		piece->begin = Max((double) sum->part->segments[i].lower,
						   (double) bounds->ts_low);
		piece->end = Min((double) sum->part->segments[end - 1].upper,
						 (double) bounds->ts_high);
		piece->rows = 0;
		for (int j = i; j < end; j++)
		{
			const LogqSegment *seg = &sum->part->segments[j];
			double		rows = logq_segment_rows(sum->part, seg);

			if (j == sum->first || j == sum->last - 1)
				rows *= logq_segment_fraction(seg, bounds->ts_low,
											  bounds->ts_high);
			piece->rows += rows;
		}
	}
	return n;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		da = *(const double *) a;
	double		db = *(const double *) b;

	return da < db ? -1 : da > db ? 1 : 0;
}

/* rows of all pieces ahead of a time */
static double
rows_before(const Piece *pieces, int n, double ts)
{
	double		rows = 0;

	for (int i = 0; i < n; i++)
	{
		const Piece *p = &pieces[i];

		if (ts >= p->end)
			rows += p->rows;
		else if (ts > p->begin)
			rows += p->rows * (ts - p->begin) / (p->end - p->begin);
	}
	return rows;
}

/*
 * Statistics of ts: a histogram of so many parts with as many rows each.
 *
 * Between the ends of pieces rows are spread evenly, so the number of rows
 * ahead of a time is known at the ends, and lies on a line in between.
 */
static HeapTuple
time_stats(RangeTblEntry *rte, AttrNumber attno, const LogqBounds *bounds,
		   const LogqRangeSum *sums, int nsums)
{
	Oid			op = lookup_type_cache(TIMESTAMPTZOID,
									   TYPECACHE_LT_OPR)->lt_opr;
	int			per_partition = Max(HISTOGRAM_PIECES / Max(nsums, 1), 1);
	Piece	   *pieces = palloc((Size) per_partition * nsums *
								sizeof(Piece) + 1);
	int			n = 0;
	int			nends = 0;
	int			nbounds = 0;
	double	   *ends;
	Datum		histogram[HISTOGRAM_BOUNDS];
	double		total = 0;
	double		before = 0;

	for (int i = 0; i < nsums; i++)
		n += make_pieces(&sums[i], bounds, per_partition, pieces + n);
	ends = palloc(2 * n * sizeof(double) + 1);
	for (int i = 0; i < n; i++)
	{
		total += pieces[i].rows;
		ends[nends++] = pieces[i].begin;
		ends[nends++] = pieces[i].end;
	}
	if (total <= 0)
		return make_stats(rte, attno, 0, sizeof(TimestampTz), -1, 0,
						  InvalidOid, InvalidOid, NULL, NULL);
	qsort(ends, nends, sizeof(double), compare_doubles);
	histogram[nbounds++] = TimestampTzGetDatum((TimestampTz) ends[0]);
	for (int i = 1; i < nends; i++)
	{
		double		rows;

		if (ends[i] <= ends[i - 1])
			continue;
		rows = rows_before(pieces, n, ends[i]);
		while (nbounds < HISTOGRAM_BOUNDS && rows > before)
		{
			double		wanted = total * nbounds / (HISTOGRAM_BOUNDS - 1);
			double		ts;

			if (wanted > rows * (1 + 1e-9))
				break;
			ts = ends[i - 1] + (ends[i] - ends[i - 1]) *
				Min((wanted - before) / (rows - before), 1);
			histogram[nbounds++] = TimestampTzGetDatum((TimestampTz) ts);
		}
		before = rows;
	}
	if (nbounds < 2)
		histogram[nbounds++] =
			TimestampTzGetDatum((TimestampTz) ends[nends - 1]);
	return make_stats(rte, attno, 0, sizeof(TimestampTz), -1,
					  STATISTIC_KIND_HISTOGRAM, op, InvalidOid, NULL,
					  construct_array(histogram, nbounds, TIMESTAMPTZOID,
									  sizeof(TimestampTz), FLOAT8PASSBYVAL,
									  TYPALIGN_DOUBLE));
}

/* ---------- the hook ---------- */

/*
 * Statistics of one column, NULL when nothing is known of it.
 */
static HeapTuple
make_column_stats(const LogqEstimate *est, RangeTblEntry *rte,
				  AttrNumber attno, LogqColumn column)
{
	LogqRangeSum *sums;
	LogqFieldSpread spread;
	int			n;

	switch (column)
	{
		case LOGQ_COL_ID:
			return make_stats(rte, attno, 0, sizeof(int64), -1, 0, InvalidOid,
							  InvalidOid, NULL, NULL);
		case LOGQ_COL_MESSAGE:
			return make_stats(rte, attno, 0, 64, MESSAGE_DISTINCT, 0,
							  InvalidOid, InvalidOid, NULL, NULL);
		case LOGQ_COL_TRACE_ID:
			logq_field_spread(est, LOGQ_FIELD_TRACE_ID, &spread);
			if (spread.distinct <= 0)
				return NULL;
			return make_stats(rte, attno, 1 - spread.not_null, 33,
							  spread.distinct, 0, InvalidOid, InvalidOid,
							  NULL, NULL);
		case LOGQ_COL_TS:
		case LOGQ_COL_LEVEL:
		case LOGQ_COL_SERVICE:
		case LOGQ_COL_PARTITION:
			n = logq_sum_partitions(est, column != LOGQ_COL_TS, &sums);
			if (column == LOGQ_COL_TS)
				return time_stats(rte, attno, &est->bounds, sums, n);
			return list_stats(rte, attno, column, sums, n);
		default:
			return NULL;
	}
}

static void
free_nothing(HeapTuple tuple)
{
	/* belongs to the estimate */
}

/*
 * May the user see all rows of the column?  As core does it for tables.
 */
static bool
may_see_all(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte,
			AttrNumber attno)
{
	Oid			userid = logq_rel_check_as_user(root, rel);

	if (!OidIsValid(userid))
		userid = GetUserId();
	if (rte->securityQuals != NIL)
		return false;
	if (root->append_rel_array != NULL)
	{
		AppendRelInfo *up = root->append_rel_array[rel->relid];

		/* conditions may stand at a table that this one is a part of */
		while (up != NULL)
		{
			if (root->simple_rte_array[up->parent_relid]->securityQuals != NIL)
				return false;
			up = root->append_rel_array[up->parent_relid];
		}
	}
	return pg_class_aclcheck(rte->relid, userid, ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck(rte->relid, attno, userid,
							  ACL_SELECT) == ACLCHECK_OK;
}

/*
 * The log table's RelOptInfo that a range table entry belongs to, once it has
 * an estimate, or NULL.
 */
static RelOptInfo *
log_rel(PlannerInfo *root, RangeTblEntry *rte)
{
	if (rte->rtekind != RTE_RELATION ||
		rte->relkind != RELKIND_FOREIGN_TABLE)
		return NULL;
	for (int i = 1; i < root->simple_rel_array_size; i++)
	{
		RelOptInfo *rel = root->simple_rel_array[i];

		if (root->simple_rte_array[i] == rte)
			return rel != NULL && rel->fdwroutine != NULL &&
				rel->fdwroutine->GetForeignRelSize == our_rel_size &&
				rel->fdw_private != NULL ? rel : NULL;
	}
	return NULL;
}

/*
 * get_relation_stats_hook
 */
static bool
relation_stats(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attnum,
			   VariableStatData *vardata)
{
	RelOptInfo *rel = log_rel(root, rte);
	LogqEstimate *est;
	int			column;

	if (rel == NULL)
		return previous_hook != NULL &&
			previous_hook(root, rte, attnum, vardata);
	est = rel->fdw_private;
	if (!est->known || attnum <= 0 || attnum > est->ship->map->natts)
		return false;
	column = est->ship->map->column[attnum];
	if (column < 0)
		return false;
	if (!est->stats_made[column])
	{
		MemoryContext old =
			MemoryContextSwitchTo(GetMemoryChunkContext(est));

		est->stats[column] = make_column_stats(est, rte, attnum, column);
		est->stats_made[column] = true;
		MemoryContextSwitchTo(old);
	}
	if (est->stats[column] == NULL)
		return false;
	vardata->statsTuple = est->stats[column];
	vardata->freefunc = free_nothing;
	vardata->acl_ok = may_see_all(root, rel, rte, attnum);
	return true;
}

/* See estimate.h. */
void
logq_colstats_init(const FdwRoutine *routine)
{
	our_rel_size = routine->GetForeignRelSize;
	if (hook_is_set)
		return;
	previous_hook = get_relation_stats_hook;
	get_relation_stats_hook = relation_stats;
	hook_is_set = true;
}
