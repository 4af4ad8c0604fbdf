/*-------------------------------------------------------------------------
 *
 * scan.c
 *		The executor node: begin, next row, rescan, end.
 *
 * At the first row of a run the parameters are evaluated: everything in the
 * clauses that is the same for the whole scan, now() among it, becomes a
 * value here, once, and goes to all partitions alike.  The same values choose
 * partitions and segments.  Then each partition left has a stream, and gather.c
 * brings their rows together.
 *
 * Memory: the current row, one message and libpq's buffer a stream.  Values
 * of a row live in row_cxt until the next one.
 *
 * Failure cases: any error leaves the node where it is; the reset callback
 * of scan_cxt closes connections that are not idle and the wait set, both at
 * the end and on abort.  Shutdown does nothing, as a cursor calls it after
 * every partial fetch and goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"
#include "scan.h"

#include <math.h>

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "query.h"

static void begin_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_scan(CustomScanState *node);
static void end_scan(CustomScanState *node);
static void rescan(CustomScanState *node);

static const CustomExecMethods scan_exec_methods = {
	.CustomName = "LogqScan",
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = exec_scan,
	.EndCustomScan = end_scan,
	.ReScanCustomScan = rescan,
	.ExplainCustomScan = logq_explain_scan,
};

const CustomScanMethods logq_scan_methods = {
	.CustomName = "LogqScan",
	.CreateCustomScanState = logq_create_scan_state,
};

/*
 * Make the state node of a plan node.
 */
Node *
logq_create_scan_state(CustomScan *cscan)
{
	LogqScanState *state = palloc0(sizeof(LogqScanState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &scan_exec_methods;
	state->current = -1;
	return (Node *) state;
}

/*
 * The scan's memory goes, at its end or after an error: so must what is not
 * palloc'd.
 */
static void
release_scan(void *arg)
{
	LogqScanState *state = arg;
	int			i;

	logq_query_end(state, true);
	logq_cache_forget_run(state);
	for (i = 0; i < state->nstreams; i++)
		logq_stream_abandon(&state->streams[i]);
	state->nstreams = 0;
	if (state->wait_set != NULL)
	{
		FreeWaitEventSet(state->wait_set);
		state->wait_set = NULL;
	}
	if (state->admitted)
	{
		state->admitted = false;
		logq_leave_query();
	}
}

/*
 * State of one of the plan's expressions, NULL when the plan has none.
 */
static ExprState *
plan_expr(LogqScanState *state, CustomScan *plan, int item, bool qual)
{
	int			pos = intVal(list_nth(plan->custom_private, item));
	Expr	   *expr;

	if (pos < 0)
		return NULL;
	expr = list_nth(plan->custom_exprs, pos);
	if (qual)
		return ExecInitQual(make_ands_implicit(expr), &state->css.ss.ps);
	return ExecInitExpr(expr, &state->css.ss.ps);
}

/*
 * Read the plan.  Nothing is asked yet.
 */
static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
	LogqScanState *state = (LogqScanState *) node;
	CustomScan *plan = castNode(CustomScan, node->ss.ps.plan);
	List	   *private = plan->custom_private;
	MemoryContextCallback *callback;
	MemoryContext old;
	int			jit_flags = estate->es_jit_flags;
	ListCell   *lc;
	Oid			recv;
	int			i;

	state->scan_cxt = AllocSetContextCreate(estate->es_query_cxt,
											"logq scan",
											ALLOCSET_DEFAULT_SIZES);
	state->run_cxt = AllocSetContextCreate(estate->es_query_cxt,
										   "logq scan run",
										   ALLOCSET_DEFAULT_SIZES);
	state->row_cxt = AllocSetContextCreate(estate->es_query_cxt,
										   "logq scan row",
										   ALLOCSET_DEFAULT_SIZES);
	callback = MemoryContextAlloc(state->scan_cxt,
								  sizeof(MemoryContextCallback));
	callback->func = release_scan;
	callback->arg = state;
	MemoryContextRegisterResetCallback(state->scan_cxt, callback);

	logq_reserve_begin_scan(state);

	state->plan_user = (Oid) intVal(list_nth(private, LOGQ_PLAN_USER));
	state->userid = OidIsValid(state->plan_user) ? state->plan_user :
		GetUserId();
	foreach(lc, (List *) list_nth(private, LOGQ_PLAN_COLUMNS))
		state->columns[state->ncolumns++] = lfirst_int(lc);
	state->where = list_nth(private, LOGQ_PLAN_WHERE);
	state->order = intVal(list_nth(private, LOGQ_PLAN_ORDER));
	state->prune = list_nth(private, LOGQ_PLAN_PRUNE);
	state->nparams = intVal(list_nth(private, LOGQ_PLAN_NPARAMS));

	/* what is evaluated a few times in all is not worth compiling */
	estate->es_jit_flags = 0;
	old = MemoryContextSwitchTo(state->scan_cxt);
	if (list_nth(private, LOGQ_PLAN_UPPER) == NIL)
		logq_rel_map(node->ss.ss_currentRelation, &state->map);
	else
		logq_upper_prepare(state, list_nth(private, LOGQ_PLAN_UPPER), plan);
	MemoryContextSwitchTo(old);
	state->params = palloc0(sizeof(ExprState *) * (state->nparams + 1));
	state->param_types = palloc0(sizeof(Oid) * (state->nparams + 1));
	state->param_typmods = palloc0(sizeof(int32) * (state->nparams + 1));
	state->param_lens = palloc0(sizeof(int16) * (state->nparams + 1));
	state->param_byvals = palloc0(sizeof(bool) * (state->nparams + 1));
	state->param_values = palloc0(sizeof(Datum) * (state->nparams + 1));
	state->param_nulls = palloc0(sizeof(bool) * (state->nparams + 1));
	state->param_literals = palloc0(sizeof(char *) * (state->nparams + 1));
	for (i = 0; i < state->nparams; i++)
	{
		Expr	   *expr = list_nth(plan->custom_exprs, i);

		state->params[i] = ExecInitExpr(expr, &node->ss.ps);
		state->param_types[i] = exprType((Node *) expr);
		state->param_typmods[i] = exprTypmod((Node *) expr);
		get_typlenbyval(state->param_types[i], &state->param_lens[i],
						&state->param_byvals[i]);
	}
	state->recheck = plan_expr(state, plan, LOGQ_PLAN_RECHECK, true);
	state->partition_qual = plan_expr(state, plan, LOGQ_PLAN_PARTITION_QUAL,
									  true);
	state->limit = plan_expr(state, plan, LOGQ_PLAN_LIMIT, false);
	state->offset = plan_expr(state, plan, LOGQ_PLAN_OFFSET, false);

	getTypeBinaryInputInfo(logq_columns[LOGQ_COL_ATTRS].type, &recv,
						   &state->jsonb_ioparam);
	fmgr_info_cxt(recv, &state->jsonb_recv, state->scan_cxt);

	old = MemoryContextSwitchTo(state->scan_cxt);
	state->prune_root = logq_prune_prepare(state, plan);
	MemoryContextSwitchTo(old);
	estate->es_jit_flags = jit_flags;
}

/*
 * Can all parameters be evaluated without running the query?  EXPLAIN alone
 * must not run sub-selects, and has no values for parameters.
 */
static bool
needs_execution(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
	{
		ParamListInfo params = context;

		return ((Param *) node)->paramkind != PARAM_EXTERN || params == NULL;
	}
	return expression_tree_walker(node, needs_execution, context);
}

/*
 * Evaluate LIMIT's or OFFSET's count; false when there is none.
 */
static bool
eval_count(LogqScanState *state, ExprState *expr, int64 *count)
{
	bool		isnull;
	Datum		value;

	if (expr == NULL)
		return false;
	value = ExecEvalExpr(expr, state->css.ss.ps.ps_ExprContext, &isnull);
	if (isnull)
		return false;
	*count = DatumGetInt64(value);
	return true;
}

/*
 * Give every parameter its value, and the bounds and the row limit theirs.
 */
static void
evaluate_params(LogqScanState *state)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	MemoryContext old;
	ListCell   *lc;
	int64		count;
	int64		offset;
	int			nestlevel;
	int			i;

	ResetExprContext(econtext);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	for (i = 0; i < state->nparams; i++)
		state->param_values[i] = ExecEvalExpr(state->params[i], econtext,
											  &state->param_nulls[i]);

	/* they are read until the run ends, and so is what is made from them */
	MemoryContextSwitchTo(state->run_cxt);
	for (i = 0; i < state->nparams; i++)
		if (!state->param_nulls[i])
			state->param_values[i] = datumCopy(state->param_values[i],
											   state->param_byvals[i],
											   state->param_lens[i]);
	logq_bounds_init(&state->bounds);
	foreach(lc, state->prune)
	{
		List	   *step = lfirst(lc);
		LogqColumn	column = list_nth_int(step, LOGQ_PRUNE_COLUMN);
		LogqPruneOp op = list_nth_int(step, LOGQ_PRUNE_OP);
		int			param = list_nth_int(step, LOGQ_PRUNE_PARAM);

		logq_bounds_apply(&state->bounds, column, op,
						  state->param_values[param],
						  state->param_nulls[param],
						  state->param_types[param]);
	}
	if (!logq_prune_begin(state))
		state->bounds.nothing = true;

	MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	state->request.bound = -1;
	if (eval_count(state, state->limit, &count) && count >= 0)
	{
		/* what the Limit node above will skip it must still be given */
		if (eval_count(state, state->offset, &offset) && offset > 0)
			count = count <= PG_INT64_MAX - offset ? count + offset : -1;
		state->request.bound = count;
	}

	MemoryContextSwitchTo(state->run_cxt);
	nestlevel = logq_set_transmission_modes();
	for (i = 0; i < state->nparams; i++)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		logq_append_literal(&buf, state->param_values[i],
							state->param_nulls[i], state->param_types[i],
							state->param_typmods[i]);
		state->param_literals[i] = buf.data;
	}
	AtEOXact_GUC(true, nestlevel);
	MemoryContextSwitchTo(old);
	ResetExprContext(econtext);
	state->values_done = true;
}

/*
 * See scan.h.  Without values is for EXPLAIN.
 */
void
logq_scan_pieces(LogqScanState *state, StringInfo buf, List *pieces,
				 LogqPartition *part, bool values)
{
	ListCell   *piece;

	foreach(piece, pieces)
	{
		if (IsA(lfirst(piece), String))
			appendStringInfoString(buf, strVal(lfirst(piece)));
		else if (intVal(lfirst(piece)) == LOGQ_PIECE_PARTITION)
		{
			if (part != NULL)
				appendStringInfo(buf, "%s::pg_catalog.text",
								 quote_literal_cstr(part->name));
			else
				appendStringInfoString(buf, "$partition");
		}
		else if (values)
			appendStringInfoString(buf,
								   state->param_literals[intVal(lfirst(piece))]);
		else
			appendStringInfo(buf, "$%d", (int) intVal(lfirst(piece)) + 1);
	}
}

/*
 * The WHERE clause for a partition, or "".
 */
char *
logq_scan_where(LogqScanState *state, List *clauses, LogqPartition *part,
				bool values)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, clauses)
	{
		appendStringInfoString(&buf, buf.len == 0 ? " WHERE " : " AND ");
		logq_scan_pieces(state, &buf, lfirst(lc), part, values);
	}
	return buf.data;
}

/*
 * Could an unordered scan have to go on elsewhere?  Then ids must travel.
 */
static bool
needs_ids(void)
{
	ListCell   *lc;

	foreach(lc, logq_partitions())
		if (((LogqPartition *) lfirst(lc))->has_replicas)
			return true;
	return false;
}

/*
 * The select list for a partition.
 */
static const char *
select_list(LogqScanState *state, LogqPartition *part)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	if (state->upper != NULL)
		appendStringInfoString(&buf, logq_upper_select(state, part, true));
	for (i = 0; i < state->ncolumns; i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(logq_columns[state->columns[i]].name));
	/* ids that nobody asked for */
	if (state->request.id_field >= 0 &&
		state->request.id_field == state->request.nfields - 1 &&
		(state->upper != NULL || state->request.nfields > state->ncolumns))
		appendStringInfo(&buf, "%sid", buf.len > 0 ? ", " : "");
	return buf.data;
}

/*
 * Set up what is asked of every fragment.
 */
static void
build_request(LogqScanState *state)
{
	LogqRequest *request = &state->request;
	int			i;

	request->nfields = state->ncolumns;
	request->ts_field = request->id_field = -1;
	request->binned = request->grouped = request->by_index = false;
	request->tail = request->rollup_select = request->rollup_where = "";
	memset(request->rollup_fits, false, sizeof(request->rollup_fits));
	request->ordered = state->order != 0;
	request->descending = state->order < 0;
	request->lazy = request->ordered;
	request->clock = &state->clock;
	request->ts_low = state->bounds.ts_low;
	request->ts_high = state->bounds.ts_high;
	for (i = 0; i < state->ncolumns; i++)
	{
		if (state->columns[i] == LOGQ_COL_TS)
			request->ts_field = i;
		else if (state->columns[i] == LOGQ_COL_ID)
			request->id_field = i;
	}
	if (state->upper != NULL)
		logq_upper_request(state);
	if (state->order == 0 && request->id_field < 0 && !request->grouped &&
		needs_ids())
		request->id_field = request->nfields++;
}

/*
 * See scan.h.
 */
bool
logq_scan_value_passes(LogqScanState *state, ExprState *qual,
					   LogqColumn column, const char *value)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	AttrNumber	attno = state->map.attno[column];
	bool		passes;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	if (value != NULL)
	{
		MemoryContext old;

		old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
		slot->tts_values[attno - 1] = CStringGetTextDatum(value);
		slot->tts_isnull[attno - 1] = false;
		MemoryContextSwitchTo(old);
	}
	ExecStoreVirtualTuple(slot);
	econtext->ecxt_scantuple = slot;
	passes = ExecQual(qual, econtext);
	ExecClearTuple(slot);
	ResetExprContext(econtext);
	return passes;
}

/*
 * May this partition hold rows that pass the quals on its name?
 */
static bool
partition_passes(LogqScanState *state, LogqPartition *part)
{
	return state->partition_qual == NULL ||
		logq_scan_value_passes(state, state->partition_qual,
							   LOGQ_COL_PARTITION, part->name);
}

/*
 * How many of the rows that are needed each partition is asked for first: its
 * share and twice the spread that chance would give it.  0: all of them.
 *
 * The share goes by what the partitions hold; where that is not known, or
 * might be badly out of date, it is not far from an equal one.
 */
static void
set_limit_shares(LogqScanState *state)
{
	int64		bound = state->request.bound;
	bool		weighed = true;
	double		total = 0;
	int			asked = 0;
	int			i;

	for (i = 0; i < state->nstreams; i++)
	{
		state->streams[i].share = 0;
		if (state->fates[i] != LOGQ_FATE_ASKED)
			continue;
		asked++;
		if (state->pruned[i].weight < 0)
			weighed = false;
		else
			total += state->pruned[i].weight;
	}
	if (!logq_enable_limit_shares || state->order == 0 || bound < 0 ||
		asked < 2)
		return;

	for (i = 0; i < state->nstreams; i++)
	{
		double		share = (double) bound / asked;

		if (state->fates[i] != LOGQ_FATE_ASKED)
			continue;
		if (weighed && total > 0)
			share = Max(bound * (state->pruned[i].weight / total), share / 4);
		share += 2 * sqrt(share) + 8;
		if (share < bound)
			state->streams[i].share = (int64) share;
	}
}

/*
 * Decide whether the index-th partition is asked.
 *
 * Only this decision rests on our copy of the partition's catalog alone, so
 * only a copy that was found true a moment ago will do.  What the transaction
 * has itself written is in no copy.
 */
static LogqPartitionFate
choose_fate(LogqScanState *state, int index, bool explain)
{
	LogqStream *stream = &state->streams[index];
	LogqPartition *part = stream->part;
	LogqPruned *pruned = &state->pruned[index];

	state->trusted[index] = false;
	stream->secured = false;
	pruned->valid = false;
	pruned->known = part->loaded ? part->nsegments : -1;
	pruned->nleft = 0;
	pruned->nexpected = 0;
	pruned->weight = -1;
	if (!partition_passes(state, part))
		return LOGQ_FATE_PRUNED_NAME;
	if (logq_enable_partition_pruning && state->bounds.nothing)
		return LOGQ_FATE_PRUNED_EMPTY;
	if (logq_enable_partition_pruning &&
		!logq_bounds_allow_partition(&state->bounds, part->number))
		return LOGQ_FATE_PRUNED_ID;

	/* what is known now; the stream finds out whether it is true */
	logq_catalog_update(part);
	logq_prune_segments(state, index);
	if (state->upper != NULL && pruned->valid)
		logq_choose_sources(state, index);
	if (!pruned->valid || !logq_catalog_confirmed(part) ||
		(!explain &&
		 logq_xact_written_conn(part->serverid, stream->userid) != NULL))
		return LOGQ_FATE_ASKED;
	if (logq_enable_segment_pruning && pruned->nleft == 0)
		return LOGQ_FATE_PRUNED_SEGMENTS;
	if (state->upper != NULL && pruned->nleft > 0 &&
		pruned->nfragments == 0 && !pruned->check_security)
		return LOGQ_FATE_CATALOG;
	state->trusted[index] = state->order != 0 && state->request.bound >= 0;
	return LOGQ_FATE_ASKED;
}

/*
 * Evaluate the parameters and decide which partitions are to be asked.  In
 * EXPLAIN without ANALYZE this fails, and false comes back, when there are
 * parameters that have no value before the query runs.
 */
bool
logq_scan_plan_partitions(LogqScanState *state, bool explain)
{
	CustomScan *plan = castNode(CustomScan, state->css.ss.ps.plan);
	MemoryContext old;
	int			i;

	if (explain &&
		needs_execution((Node *) plan->custom_exprs,
						state->css.ss.ps.state->es_param_list_info))
		return false;

	logq_forget_sources(state);
	logq_cache_forget_run(state);
	MemoryContextReset(state->run_cxt);
	old = MemoryContextSwitchTo(state->run_cxt);
	evaluate_params(state);
	if (state->upper != NULL)
		logq_steps_begin(state);
	build_request(state);

	if (state->streams == NULL)
	{
		List	   *parts = logq_partitions();
		int			n = list_length(parts);

		MemoryContextSwitchTo(state->scan_cxt);
		state->streams = palloc0((n + 1) * sizeof(LogqStream));
		state->fates = palloc0((n + 1) * sizeof(LogqPartitionFate));
		state->trusted = palloc0((n + 1) * sizeof(bool));
		state->pruned = palloc0((n + 1) * sizeof(LogqPruned));
		state->merge_entries = palloc0((n + 1) * sizeof(LogqMergeEntry));
		state->bounded = palloc0((n + 1) * sizeof(bool));
		state->live = palloc0((n + 1) * sizeof(bool));
		state->waiting = palloc0((n + 1) * sizeof(bool));
		state->wait_slots = palloc0((2 * n + 1) * sizeof(LogqWaitSlot));
		for (i = 0; i < n; i++)
		{
			logq_stream_init(&state->streams[i], list_nth(parts, i),
							 state->userid);
			if (state->upper != NULL)
				state->streams[i].cell_slot =
					MakeSingleTupleTableSlot(state->upper->cell_desc,
											 &TTSOpsMinimalTuple);
			state->wait_slots[i].pos = -1;
			state->wait_slots[n + i].pos = -1;
		}
		state->wait_slots[2 * n].pos = -1;
		state->nstreams = n;
		MemoryContextSwitchTo(state->run_cxt);
	}

	for (i = 0; i < state->nstreams; i++)
		state->fates[i] = choose_fate(state, i, explain);
	state->request.remaining = state->request.bound;
	state->request.handed_out = false;
	set_limit_shares(state);
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * Fill in the segments that a stream asks, in the order it asks them.
 */
static void
plan_stream(LogqStream *stream, void *arg)
{
	LogqScanState *state = arg;
	int			index = stream - state->streams;
	LogqPruned *pruned = &state->pruned[index];
	int			i;

	logq_prune_segments(state, index);
	if (state->upper != NULL)
	{
		logq_choose_sources(state, index);
		stream->nfragments = pruned->nfragments;
		stream->fragments = pruned->fragments;
		stream->cells = pruned->cells;
		stream->check_security = pruned->check_security;
		if (stream->cells != NULL)
			tuplestore_rescan(stream->cells);
		return;
	}
	stream->nfragments = pruned->nleft;
	stream->fragments = MemoryContextAllocHuge(stream->cxt,
											   (pruned->nleft + 1) *
											   sizeof(LogqFragment));
	memset(stream->fragments, 0, pruned->nleft * sizeof(LogqFragment));
	for (i = 0; i < pruned->nleft; i++)
	{
		/* newest first unless asked otherwise: that is where answers are */
		int			at = state->order > 0 ? i : pruned->nleft - 1 - i;
		const LogqSegment *seg = &stream->part->segments[pruned->left[at]];

		stream->fragments[i].lower = seg->lower;
		stream->fragments[i].upper = seg->upper;
		stream->fragments[i].rows = i < pruned->nexpected ?
			pruned->expected[i] : seg->rows;
		stream->fragments[i].size = seg->rows;
		stream->fragments[i].name = MemoryContextStrdup(stream->cxt,
														seg->name);
	}
}

/*
 * Begin a run.
 */
static void
start_run(LogqScanState *state)
{
	bool		late = false;
	MemoryContext old;
	int			i;

	if (!state->admitted)
	{
		state->queue_ms += logq_admit_query();
		state->admitted = true;
	}
	for (i = 0; i < state->nstreams; i++)
		logq_stream_finish(&state->streams[i]);

	(void) logq_scan_plan_partitions(state, false);
	state->queue_ms += logq_reserve_start_run(state);
	logq_query_begin(state, state->queue_ms);

	for (i = 0; i < state->nstreams; i++)
	{
		old = MemoryContextSwitchTo(state->run_cxt);
		state->waiting[i] = false;
		state->live[i] = false;
		if (state->fates[i] == LOGQ_FATE_ASKED ||
			state->fates[i] == LOGQ_FATE_CATALOG)
			logq_stream_start(&state->streams[i], state->run_cxt,
							  &state->request,
							  select_list(state, state->streams[i].part),
							  logq_scan_where(state, state->where,
											  state->streams[i].part, true),
							  state->trusted[i],
							  plan_stream, state);
		if (state->fates[i] == LOGQ_FATE_CATALOG)
		{
			plan_stream(&state->streams[i], state);
			/*
			 * While others were chosen for, or we were in a queue, the catalog
			 * may have come into doubt, or row-level security come up.
			 */
			if (state->pruned[i].valid && state->streams[i].nfragments == 0 &&
				!state->streams[i].check_security)
				logq_stream_start_cells(&state->streams[i]);
			else
			{
				state->fates[i] = LOGQ_FATE_ASKED;
				late = true;
			}
		}
		MemoryContextSwitchTo(old);
	}
	/* places for those that turn out to be asked */
	if (late)
		state->queue_ms += logq_reserve_start_run(state);
	old = MemoryContextSwitchTo(state->run_cxt);
	logq_cache_begin_run(state);
	MemoryContextSwitchTo(old);
	logq_merge_init(&state->merge, state->merge_entries, state->nstreams,
					state->order < 0);
	for (i = 0; i < state->nstreams; i++)
	{
		int64		ts;
		int64		id;

		if (state->order == 0 || state->fates[i] != LOGQ_FATE_ASKED)
			continue;
		logq_stream_bound(&state->streams[i], &ts, &id);
		logq_merge_push(&state->merge, ts, id, i);
		state->bounded[i] = true;
	}
	state->clock.seen_turn = state->clock.turn;
	state->clock.seen_at = logq_now();
	state->current = -1;
	state->opened = 0;
	state->active = 0;
	state->started = true;
	state->runs++;
}

/* ---------- rows ---------- */

/*
 * Fill the tuple of a scan of the table's own rows.
 */
static void
fill_row(LogqScanState *state, LogqStream *stream, TupleTableSlot *slot)
{
	for (int i = 0; i < state->ncolumns; i++)
	{
		const LogqColumnDef *def = &logq_columns[state->columns[i]];
		AttrNumber	attno = state->map.attno[state->columns[i]];
		const LogqField *field = &stream->fields[i];

		/* the merge's keys need not be columns of the table */
		if (attno == 0 || field->len < 0)
			continue;
		slot->tts_values[attno - 1] = logq_scan_datum(state, stream,
													  def->type, def->name,
													  field);
		slot->tts_isnull[attno - 1] = false;
	}
	if (state->map.attno[LOGQ_COL_PARTITION] != 0)
	{
		AttrNumber	attno = state->map.attno[LOGQ_COL_PARTITION];

		slot->tts_values[attno - 1] = CStringGetTextDatum(stream->part->name);
		slot->tts_isnull[attno - 1] = false;
	}
}

/*
 * Access method of ExecScan: the next row in the scan slot.
 */
static TupleTableSlot *
scan_next(ScanState *node)
{
	LogqScanState *state = (LogqScanState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	LogqStream *stream;
	MemoryContext old;
	int			index;

	if (!state->started)
		start_run(state);

	/* the row before goes, and with it what the slot points to */
	ExecClearTuple(slot);
	MemoryContextReset(state->row_cxt);

	index = logq_gather_next(state);
	if (index < 0)
		return slot;
	stream = &state->streams[index];
	state->clock.turn++;
	if (state->request.remaining > 0)
		state->request.remaining--;
	if (state->rows_out++ == 0)
		logq_query_first_row(state);

	old = MemoryContextSwitchTo(state->row_cxt);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	if (state->upper != NULL)
		logq_upper_fill(state, stream, slot);
	else
	{
		fill_row(state, stream, slot);
		slot->tts_tableOid = RelationGetRelid(node->ss_currentRelation);
	}
	MemoryContextSwitchTo(old);
	return ExecStoreVirtualTuple(slot);
}

/*
 * Recheck method of ExecScan: a row that another transaction's update made us
 * look at again (the row is of this table's, but a parameter may come from
 * the other) must pass what the partitions checked for us.
 */
static bool
scan_recheck(ScanState *node, TupleTableSlot *slot)
{
	LogqScanState *state = (LogqScanState *) node;
	ExprContext *econtext = node->ps.ps_ExprContext;

	/* such a scan is asked for its next row, see aggregate_recheck() */
	if (state->upper != NULL)
	{
		(void) scan_next(node);
		return true;
	}
	if (state->recheck == NULL)
		return true;
	econtext->ecxt_scantuple = slot;
	ResetExprContext(econtext);
	return ExecQual(state->recheck, econtext);
}

/*
 * Next row that passes the local quals, projected.
 */
static TupleTableSlot *
exec_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, (ExecScanAccessMtd) scan_next,
					(ExecScanRecheckMtd) scan_recheck);
}

/*
 * Start over, perhaps with other parameters.  Streams are ended when the run
 * really begins, as it may never do.
 */
static void
rescan(CustomScanState *node)
{
	LogqScanState *state = (LogqScanState *) node;

	ExecScanReScan(&node->ss);
	state->started = false;
}

/*
 * The end: connections go back to the pool if that costs no waiting.  Nothing
 * that EXPLAIN shows goes away here.
 */
static void
end_scan(CustomScanState *node)
{
	LogqScanState *state = (LogqScanState *) node;
	int			i;

	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	for (i = 0; i < state->nstreams; i++)
		logq_stream_finish(&state->streams[i]);
	logq_forget_sources(state);
	logq_cache_forget_run(state);
	logq_redis_flush();
	logq_query_end(state, false);
	if (state->scan_cxt != NULL)
		MemoryContextReset(state->scan_cxt);
}
