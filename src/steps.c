/*-------------------------------------------------------------------------
 *
 * steps.c
 *		Expressions that take ts in steps, and the bins that are fine enough.
 *
 * date_trunc('day', ts) is the same for all rows of a local day, and
 * floor(extract(epoch from ts) / 300) for all rows of five minutes.  A query
 * that groups by such an expression need not send it (it depends on the time
 * zone of the session, or a partition is too old to know the function): the
 * partitions group by bins of ts in which it is constant, and it is computed
 * here, from the start of each bin.
 *
 * Planning finds the step functions that an expression is made of.  Their
 * arguments are constant for the scan, and get their values when it starts.
 * Then each segment has its bins, as they depend on the offsets that the time
 * zone has while it lasts: hours, where the offset is of whole hours and does
 * not change within one; minutes or seconds otherwise.
 *
 * Invariant: all expressions of the query are constant in each bin.  A bin of
 * one microsecond is always fine enough, and where nothing better is known it
 * is what there is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "plan.h"

#include "shippable.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/scansup.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

/* changes of a zone within a segment that are looked at */
#define MAX_ZONE_CHANGES 64
/*
 * As a double, the epoch tells microseconds apart up to the year 2200, also
 * once it was divided.  As numeric, a quotient has 16 digits or somewhat more,
 * which is enough up to the year 2600: then 253402300799.999999 / 300 is
 * rounded to a whole number, and floor() gives the next step.
 */
#define MAX_EXACT_EPOCH INT64CONST(7258118400)
/* us that a double tells apart, all of them */
#define MAX_EXACT_DOUBLE (INT64CONST(1) << 53)

/* What a walk is about */
typedef struct DependState
{
	const LogqShipContext *cxt;
	LogqDependence *dep;
} DependState;

/* ---------- planning ---------- */

static bool
is_ts(const LogqShipContext *cxt, Node *node)
{
	return logq_var_column(cxt, node) == LOGQ_COL_TS;
}

/* may this be an argument of a step function? */
static bool
is_argument(const LogqShipContext *cxt, Node *node)
{
	return logq_is_scan_constant(cxt, node);
}

/*
 * Note a step function.  Later ones that are the same are left out.
 */
static bool
found_step(DependState *state, LogqStepKind kind, Node *first, Node *second)
{
	List	   *step = list_make3(makeInteger(kind), first, second);

	state->dep->steps = true;
	if (!list_member(state->dep->found, step))
		state->dep->found = lappend(state->dep->found, step);
	return true;
}

/*
 * Is this ts as local time, by the session's zone or another?  *zone: NULL,
 * or the zone.
 */
static bool
is_local_time(const LogqShipContext *cxt, Node *node, Node **zone)
{
	FuncExpr   *f = (FuncExpr *) node;

	if (!IsA(node, FuncExpr))
		return false;
	*zone = NULL;
	if (f->funcid == F_TIMESTAMP_TIMESTAMPTZ)
		return is_ts(cxt, linitial(f->args));
	if (f->funcid == F_TIMEZONE_TEXT_TIMESTAMPTZ &&
		is_argument(cxt, linitial(f->args)) &&
		is_ts(cxt, lsecond(f->args)))
	{
		*zone = linitial(f->args);
		return true;
	}
	return false;
}

/*
 * extract(epoch from ts), as numeric or as double.
 */
static bool
is_epoch(const LogqShipContext *cxt, Node *node, bool *exact)
{
	FuncExpr   *f = (FuncExpr *) node;
	Const	   *field;
	char	   *name;
	int			value;

	if (!IsA(node, FuncExpr) ||
		(f->funcid != F_EXTRACT_TEXT_TIMESTAMPTZ &&
		 f->funcid != F_DATE_PART_TEXT_TIMESTAMPTZ) ||
		!is_ts(cxt, lsecond(f->args)))
		return false;
	field = (Const *) linitial(f->args);
	if (!IsA(field, Const) || field->constisnull)
		return false;
	name = TextDatumGetCString(field->constvalue);
	name = downcase_truncate_identifier(name, strlen(name), false);
	*exact = f->funcid == F_EXTRACT_TEXT_TIMESTAMPTZ;
	return DecodeSpecial(0, name, &value) == RESERV && value == DTK_EPOCH;
}

/*
 * A binary operator that calls this function, and has a constant on its right
 * side.
 */
static bool
is_operation(const LogqShipContext *cxt, Node *node, Oid function)
{
	OpExpr	   *op = (OpExpr *) node;

	return IsA(node, OpExpr) && list_length(op->args) == 2 &&
		get_opcode(op->opno) == function &&
		is_argument(cxt, lsecond(op->args));
}

/*
 * floor(extract(epoch from ts) / N): a step of N seconds.  As a numeric, it
 * may be floor(extract(epoch from ts) * M / N).
 */
static bool
find_epoch_step(DependState *state, FuncExpr *f)
{
	Node	   *arg = linitial(f->args);
	Node	   *n = NULL;
	Node	   *m = NULL;
	bool		exact;

	if (is_operation(state->cxt, arg, F_NUMERIC_DIV) ||
		is_operation(state->cxt, arg, F_FLOAT8DIV))
	{
		n = lsecond(((OpExpr *) arg)->args);
		arg = linitial(((OpExpr *) arg)->args);
		if (is_operation(state->cxt, arg, F_NUMERIC_MUL))
		{
			m = lsecond(((OpExpr *) arg)->args);
			arg = linitial(((OpExpr *) arg)->args);
		}
	}
	else
		n = (Node *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32),
							   Int32GetDatum(1), false, true);
	if (!is_epoch(state->cxt, arg, &exact))
		return false;
	return found_step(state, exact ? LOGQ_STEP_EPOCH : LOGQ_STEP_EPOCH_DOUBLE,
					  n, m);
}

/*
 * Is this function a step function of ts?
 */
static bool
find_step(DependState *state, FuncExpr *f)
{
	const LogqShipContext *cxt = state->cxt;
	Node	   *zone;

	switch (f->funcid)
	{
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
			return is_argument(cxt, linitial(f->args)) &&
				is_ts(cxt, lsecond(f->args)) &&
				found_step(state, LOGQ_STEP_UNIT, linitial(f->args), NULL);
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT:
			return is_argument(cxt, linitial(f->args)) &&
				is_ts(cxt, lsecond(f->args)) &&
				is_argument(cxt, lthird(f->args)) &&
				found_step(state, LOGQ_STEP_UNIT, linitial(f->args),
						   lthird(f->args));
		case F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ:
			return is_argument(cxt, linitial(f->args)) &&
				is_ts(cxt, lsecond(f->args)) &&
				is_argument(cxt, lthird(f->args)) &&
				found_step(state, LOGQ_STEP_BIN, linitial(f->args),
						   lthird(f->args));
		case F_EXTRACT_TEXT_TIMESTAMPTZ:
		case F_DATE_PART_TEXT_TIMESTAMPTZ:
			return is_argument(cxt, linitial(f->args)) &&
				is_ts(cxt, lsecond(f->args)) &&
				found_step(state, LOGQ_STEP_FIELD, linitial(f->args), NULL);
		case F_DATE_TIMESTAMPTZ:
			return is_ts(cxt, linitial(f->args)) &&
				found_step(state, LOGQ_STEP_DAY, NULL, NULL);
		case F_DATE_TRUNC_TEXT_TIMESTAMP:
			return is_argument(cxt, linitial(f->args)) &&
				is_local_time(cxt, lsecond(f->args), &zone) &&
				found_step(state, LOGQ_STEP_UNIT, linitial(f->args), zone);
		case F_EXTRACT_TEXT_TIMESTAMP:
		case F_DATE_PART_TEXT_TIMESTAMP:
			return is_argument(cxt, linitial(f->args)) &&
				is_local_time(cxt, lsecond(f->args), &zone) &&
				found_step(state, LOGQ_STEP_FIELD, linitial(f->args), zone);
		case F_DATE_TIMESTAMP:
			return is_local_time(cxt, linitial(f->args), &zone) &&
				found_step(state, LOGQ_STEP_DAY, NULL, zone);
		case F_FLOOR_NUMERIC:
		case F_FLOOR_FLOAT8:
			return find_epoch_step(state, f);
		default:
			return false;
	}
}

/*
 * True: this depends on something that cannot be had from groups.
 */
static bool
depend_walker(Node *node, DependState *state)
{
	int			column;

	if (node == NULL)
		return false;
	if (logq_is_of_query(node))
		return true;
	switch (nodeTag(node))
	{
		case T_Var:
			column = logq_var_column(state->cxt, node);
			if (column < 0 || column == LOGQ_COL_TS)
				return true;
			state->dep->columns[column] = true;
			return false;
		case T_FuncExpr:
			if (find_step(state, (FuncExpr *) node))
				return false;
			break;
		default:
			break;
	}
	return expression_tree_walker(node, depend_walker, (void *) state);
}

/*
 * See plan.h.
 */
bool
logq_find_dependence(const LogqShipContext *cxt, Node *expr,
					 LogqDependence *dep)
{
	DependState state = {cxt, dep};

	return !contain_volatile_functions(expr) &&
		!expression_returns_set(expr) &&
		!depend_walker(expr, &state);
}

/*
 * How long a unit of date_trunc is, about, in us; 0: there is no such unit.
 */
double
logq_nominal_unit(const char *unit)
{
	char	   *name = downcase_truncate_identifier(unit, strlen(unit), false);
	int			value;

	if (DecodeUnits(0, name, &value) != UNITS)
		return 0;
	switch (value)
	{
		case DTK_MICROSEC:
			return 1;
		case DTK_MILLISEC:
			return 1000;
		case DTK_SECOND:
			return USECS_PER_SEC;
		case DTK_MINUTE:
			return USECS_PER_MINUTE;
		case DTK_HOUR:
			return USECS_PER_HOUR;
		case DTK_DAY:
			return USECS_PER_DAY;
		case DTK_WEEK:
			return 7.0 * USECS_PER_DAY;
		default:
			return 30.0 * USECS_PER_DAY;
	}
}

/* ---------- when the scan starts ---------- */

/*
 * Greatest common divisor.
 */
static int64
gcd(int64 a, int64 b)
{
	while (b != 0)
	{
		int64		rest = a % b;

		a = b;
		b = rest;
	}
	return a < 0 ? -a : a;
}

/*
 * Make the bins fine enough for those of another kind, too: [origin + k *
 * width, origin + (k + 1) * width).
 */
static void
refine(LogqBins *bins, int64 width, int64 origin)
{
	int64		apart;

	if (bins->width == 0)
	{
		bins->width = width;
		bins->origin = origin % width;
		return;
	}
	bins->width = gcd(bins->width, width);
	apart = (bins->origin - origin % width) % bins->width;
	bins->width = gcd(bins->width, apart);
	bins->origin %= bins->width;
}

/*
 * A parameter's value as text in lower case, NULL when it is NULL.
 */
static char *
param_name(LogqScanState *state, int param)
{
	char	   *name;

	if (param < 0 || state->param_nulls[param])
		return NULL;
	name = TextDatumGetCString(state->param_values[param]);
	return downcase_truncate_identifier(name, strlen(name), false);
}

/*
 * Steps of extract by its field, in us; 0: it is not known.
 */
static int64
field_width(char *field)
{
	int			value;
	int			type = DecodeUnits(0, field, &value);

	if (type == UNKNOWN_FIELD)
		type = DecodeSpecial(0, field, &value);
	if (type == UNITS)
	{
		switch (value)
		{
			case DTK_MINUTE:
				return USECS_PER_MINUTE;
			case DTK_HOUR:
			case DTK_DAY:
			case DTK_WEEK:
			case DTK_MONTH:
			case DTK_QUARTER:
			case DTK_YEAR:
			case DTK_DECADE:
			case DTK_CENTURY:
			case DTK_MILLENNIUM:
			case DTK_ISOYEAR:
			case DTK_DOW:
			case DTK_ISODOW:
			case DTK_DOY:
				return USECS_PER_HOUR;
			default:
				return 0;
		}
	}
	return 0;
}

/*
 * A numeric that is a whole number greater than 0 and less than a limit.
 */
static bool
whole_number(Datum value, int64 limit, int64 *number)
{
	if (!DatumGetBool(DirectFunctionCall2(numeric_lt,
										  NumericGetDatum(int64_to_numeric(0)),
										  value)) ||
		!DatumGetBool(DirectFunctionCall2(numeric_lt, value,
										  NumericGetDatum(int64_to_numeric(limit)))))
		return false;
	*number = DatumGetInt64(DirectFunctionCall1(numeric_int8, value));
	return DatumGetBool(DirectFunctionCall2(numeric_eq, value,
											NumericGetDatum(int64_to_numeric(*number))));
}

/*
 * Seconds in a step of the epoch, as us; 0: it is not a whole number of them.
 */
static int64
epoch_width(Datum value, Oid type)
{
	Datum		us;
	int64		width;

	switch (type)
	{
		case INT2OID:
			width = DatumGetInt16(value);
			return width > 0 ? width * USECS_PER_SEC : 0;
		case INT4OID:
			width = DatumGetInt32(value);
			return width > 0 ? width * USECS_PER_SEC : 0;
		case FLOAT8OID:
			{
				double		us_double = DatumGetFloat8(value) * USECS_PER_SEC;

				if (!(us_double >= 1 && us_double < 1e15))
					return 0;
				width = (int64) us_double;
				return width == us_double && width % USECS_PER_SEC == 0 ?
					width : 0;
			}
		case NUMERICOID:
			break;
		default:
			return 0;
	}
	us = DirectFunctionCall2(numeric_mul, value,
							 NumericGetDatum(int64_to_numeric(USECS_PER_SEC)));
	return whole_number(us, INT64CONST(1000000000000000), &width) ? width : 0;
}

/*
 * The same of floor(epoch * multiplier / value), both numeric.
 */
static int64
scaled_epoch_width(Datum value, Datum multiplier)
{
	Datum		us;
	int64		width;
	int64		m;

	us = DirectFunctionCall2(numeric_mul, value,
							 NumericGetDatum(int64_to_numeric(USECS_PER_SEC)));
	return whole_number(multiplier, INT64CONST(1000000000), &m) &&
		whole_number(us, INT64CONST(1000000000000000000), &width) &&
		width % m == 0 && width / m < INT64CONST(1000000000000000) ?
		width / m : 0;
}

/*
 * The zone of a step: the session's, or the one that its parameter names.
 * NULL: we had better not say.  Abbreviations are looked up in other places
 * than zones are; only names that cannot be one are taken.
 */
static pg_tz *
step_zone(LogqScanState *state, int param)
{
	char	   *name;

	if (param < 0)
		return session_timezone;
	if (state->param_nulls[param])
		return NULL;
	name = TextDatumGetCString(state->param_values[param]);
	if (strlen(name) > TZ_STRLEN_MAX ||
		(strchr(name, '/') == NULL && pg_strcasecmp(name, "UTC") != 0))
		return NULL;
	return pg_tzset(name);
}

/*
 * Take up the values that the steps' arguments have in this run.  An argument
 * for which the function will fail, or give NULL, gives no step: the bins are
 * as fine as can be then, and the function is left to speak for itself.
 */
void
logq_steps_begin(LogqScanState *state)
{
	LogqUpperScan *upper = state->upper;
	int			n = 0;
	ListCell   *lc;

	upper->nsteps = list_length(upper->plan_steps);
	upper->steps = palloc((upper->nsteps + 1) * sizeof(LogqStep));
	foreach(lc, upper->plan_steps)
	{
		List	   *item = lfirst(lc);
		LogqStep   *step = &upper->steps[n++];
		int			first = list_nth_int(item, LOGQ_STEP_FIRST);
		int			second = list_nth_int(item, LOGQ_STEP_SECOND);
		char	   *name;

		step->kind = list_nth_int(item, LOGQ_STEP_KIND);
		step->width = 0;
		step->origin = 0;
		step->zone = NULL;
		switch (step->kind)
		{
			case LOGQ_STEP_BIN:
				if (!state->param_nulls[first] && !state->param_nulls[second])
				{
					Interval   *stride =
						DatumGetIntervalP(state->param_values[first]);
					TimestampTz origin =
						DatumGetTimestampTz(state->param_values[second]);

					if (stride->month == 0 && !TIMESTAMP_NOT_FINITE(origin) &&
						!pg_mul_s64_overflow((int64) stride->day,
											 USECS_PER_DAY, &step->width) &&
						!pg_add_s64_overflow(step->width, stride->time,
											 &step->width) &&
						step->width > 0)
						step->origin = origin % step->width;
					else
						step->width = 0;
				}
				break;
			case LOGQ_STEP_EPOCH:
			case LOGQ_STEP_EPOCH_DOUBLE:
				if (!state->param_nulls[first] && second < 0)
					step->width = epoch_width(state->param_values[first],
											  state->param_types[first]);
				else if (!state->param_nulls[first] &&
						 !state->param_nulls[second])
					step->width = scaled_epoch_width(state->param_values[first],
													 state->param_values[second]);
				if (step->width > 0)
					step->origin = -(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
						USECS_PER_DAY % step->width;
				break;
			case LOGQ_STEP_UNIT:
			case LOGQ_STEP_FIELD:
			case LOGQ_STEP_DAY:
				name = param_name(state, first);
				if (step->kind == LOGQ_STEP_DAY)
					step->width = USECS_PER_HOUR;
				else if (name != NULL)
					step->width = step->kind == LOGQ_STEP_UNIT ?
						(int64) Min(logq_nominal_unit(name), USECS_PER_HOUR) :
						field_width(name);
				step->zone = step_zone(state, second);
				/* whatever the zone is, its offsets are of whole seconds */
				if (step->zone == NULL && step->width > 0)
					step->width = Min(step->width, USECS_PER_SEC);
				break;
		}
	}
}

/*
 * The start of a time's step of local time: shift is the offset, up to a step.
 */
static pg_time_t
bin_start(pg_time_t at, int seconds, int shift)
{
	pg_time_t	rest = (at + shift) % seconds;

	return at - rest - (rest < 0 ? seconds : 0);
}

/*
 * Are offsets of the zone in [lower, upper), and the times when they change,
 * the same in steps of so many seconds?  *shift: the offset, up to a step.
 */
static bool
zone_fits(pg_tz *zone, pg_time_t lower, pg_time_t upper, int seconds,
		  int *shift)
{
	pg_time_t	at = lower;
	int			changes = 0;
	long		before;
	long		after;
	int			before_dst;
	int			after_dst;
	pg_time_t	boundary;
	bool		known = false;

	for (;;)
	{
		int			found = pg_next_dst_boundary(&at, &before, &before_dst,
												 &boundary, &after,
												 &after_dst, zone);
		int			rest;

		if (found < 0 || ++changes > MAX_ZONE_CHANGES)
			return false;
		rest = (int) ((before % seconds + seconds) % seconds);
		if (known && rest != *shift)
			return false;
		*shift = rest;
		known = true;
		/* the next change lies behind the segment, or there is none */
		if (found == 0 || boundary >= upper)
			return true;
		if (bin_start(boundary, seconds, *shift) != boundary)
			return false;
		at = boundary;
	}
}

/*
 * Bins of a segment [lower, upper) for steps of local time.  The first of them
 * may begin before the segment, and stands for its rows by its start: the zone
 * must not change between the two either.
 */
static void
refine_zone(LogqBins *bins, const LogqStep *step, TimestampTz lower,
			TimestampTz upper)
{
	static const int widths[] = {SECS_PER_HOUR, SECS_PER_MINUTE, 1};
	pg_time_t	from = timestamptz_to_time_t(lower);
	pg_time_t	to = timestamptz_to_time_t(upper - 1) + 1;

	/* it has rounded towards 2000 */
	if (time_t_to_timestamptz(from) > lower)
		from--;
	if (step->zone == NULL || step->width < USECS_PER_SEC)
	{
		refine(bins, step->width, 0);
		return;
	}
	for (int i = 0; i < lengthof(widths); i++)
	{
		int			shift = 0;

		if (step->width >= widths[i] * USECS_PER_SEC &&
			zone_fits(step->zone, from, to, widths[i], &shift) &&
			zone_fits(step->zone, bin_start(from, widths[i], shift), to,
					  widths[i], &shift))
		{
			refine(bins, widths[i] * USECS_PER_SEC, -shift * USECS_PER_SEC);
			return;
		}
	}
	refine(bins, USECS_PER_SEC, 0);
}

/*
 * The bins of a segment [lower, upper), the origin not after its lower bound.
 */
void
logq_segment_bins(const LogqUpperScan *upper, TimestampTz lower,
				  TimestampTz upper_bound, LogqBins *bins)
{
	int64		limit = (MAX_EXACT_EPOCH - SECS_PER_DAY *
						 (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) *
		USECS_PER_SEC;

	bins->width = bins->origin = 0;
	for (int i = 0; i < upper->nsteps; i++)
	{
		const LogqStep *step = &upper->steps[i];

		if (step->width == 0 ||
			((step->kind == LOGQ_STEP_EPOCH ||
			  step->kind == LOGQ_STEP_EPOCH_DOUBLE) &&
			 (lower < -limit || upper_bound > limit)))
		{
			bins->width = 1;
			break;
		}
		if (step->kind == LOGQ_STEP_UNIT || step->kind == LOGQ_STEP_FIELD ||
			step->kind == LOGQ_STEP_DAY)
			refine_zone(bins, step, lower, upper_bound);
		else
			refine(bins, step->width, step->origin);
	}
	if (bins->width == 0)
		bins->width = 1;
	bins->origin = logq_bin_start(bins, lower);
}

/*
 * The start of the bin that a time is in; not before the beginning of time.
 */
int64
logq_bin_start(const LogqBins *bins, int64 ts)
{
	int64		origin = bins->origin % bins->width;
	int64		rest;

	if (bins->width == 1)
		return ts;
	rest = (ts % bins->width - origin) % bins->width;
	if (rest < 0)
		rest += bins->width;
	return ts >= MIN_TIMESTAMP + rest ? ts - rest : ts;
}

/*
 * Append the width of bins.  14 takes no number beyond an int32, and no other
 * unit of all the widths there are.
 */
static void
append_width(StringInfo buf, int64 width)
{
	int64		days = width / USECS_PER_DAY;
	int64		us = width % USECS_PER_DAY;

	appendStringInfoChar(buf, '\'');
	if (days > 0)
		appendStringInfo(buf, INT64_FORMAT " days", days);
	if (us > 0)
	{
		appendStringInfo(buf, "%s%d", days > 0 ? " " : "",
						 (int) (us / USECS_PER_SEC));
		if (us % USECS_PER_SEC > 0)
			appendStringInfo(buf, ".%06d", (int) (us % USECS_PER_SEC));
		appendStringInfoString(buf, " seconds");
	}
	appendStringInfoString(buf, "'::pg_catalog.interval");
}

/*
 * Are whole seconds right when they are computed in double?  The last
 * microsecond before a bin must neither be lost when a time becomes seconds
 * since 1970, nor when these are divided: no more than about 70 years after
 * the origin it cannot.
 */
static bool
double_is_exact(const LogqBins *bins, TimestampTz upper)
{
	int64		epoch = -(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
		USECS_PER_DAY;

	return bins->width % USECS_PER_SEC == 0 &&
		bins->origin % USECS_PER_SEC == 0 &&
		bins->origin >= epoch - MAX_EXACT_DOUBLE &&
		upper <= epoch + MAX_EXACT_DOUBLE &&
		upper - bins->origin <= MAX_EXACT_DOUBLE / 4;
}

/*
 * SQL of the bin of a column, for a server of this version; all times are
 * before upper, and not before the origin.  What has no date_bin() computes in
 * seconds; where that would not be exact each time is a bin of its own.
 */
void
logq_append_bin(StringInfo buf, const LogqBins *bins, TimestampTz upper,
				const char *column, int server_version)
{
	if (bins->width > 1 && server_version >= 140000)
	{
		appendStringInfoString(buf, "pg_catalog.date_bin(");
		append_width(buf, bins->width);
		appendStringInfo(buf, ", %s, ", column);
		logq_append_time(buf, bins->origin);
		appendStringInfoString(buf, ")");
	}
	else if (bins->width > 1 && double_is_exact(bins, upper))
	{
		int64		seconds = bins->width / USECS_PER_SEC;
		int64		origin = timestamptz_to_time_t(bins->origin);

		appendStringInfo(buf, "pg_catalog.to_timestamp(pg_catalog.floor((pg_catalog.date_part('epoch', %s)"
						 " - (" INT64_FORMAT ")) / " INT64_FORMAT ") * " INT64_FORMAT " + (" INT64_FORMAT "))",
						 column, origin, seconds, seconds, origin);
	}
	else
		appendStringInfoString(buf, column);
}
