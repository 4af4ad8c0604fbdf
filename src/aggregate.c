/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *		The node above an Aggregate node that combines partial results.
 *
 * The Aggregate node below computes other aggregates than the query has.  What
 * it gives stands for the query's own, column by column: nodes further up, and
 * HAVING, look for these by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "executor/executor.h"

static Node *create_aggregate_state(CustomScan *cscan);
static void begin_aggregate(CustomScanState *node, EState *estate,
							int eflags);
static TupleTableSlot *exec_aggregate(CustomScanState *node);
static void end_aggregate(CustomScanState *node);
static void rescan_aggregate(CustomScanState *node);

static const CustomExecMethods aggregate_exec_methods = {
	.CustomName = "LogqAggregate",
	.BeginCustomScan = begin_aggregate,
	.ExecCustomScan = exec_aggregate,
	.EndCustomScan = end_aggregate,
	.ReScanCustomScan = rescan_aggregate,
};

const CustomScanMethods logq_aggregate_methods = {
	.CustomName = "LogqAggregate",
	.CreateCustomScanState = create_aggregate_state,
};

static Node *
create_aggregate_state(CustomScan *cscan)
{
	CustomScanState *state = makeNode(CustomScanState);

	state->methods = &aggregate_exec_methods;
	return (Node *) state;
}

static void
begin_aggregate(CustomScanState *node, EState *estate, int eflags)
{
	CustomScan *plan = castNode(CustomScan, node->ss.ps.plan);

	node->custom_ps = list_make1(ExecInitNode(linitial(plan->custom_plans),
											  estate, eflags));
}

/*
 * Access method of ExecScan: the tuple from below under other names.
 */
static TupleTableSlot *
aggregate_next(ScanState *node)
{
	PlanState  *below = linitial(((CustomScanState *) node)->custom_ps);
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	TupleTableSlot *from = ExecProcNode(below);
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	if (TupIsNull(from))
		return slot;
	slot_getallattrs(from);
	memcpy(slot->tts_values, from->tts_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, from->tts_isnull, natts * sizeof(bool));
	return ExecStoreVirtualTuple(slot);
}

/*
 * Recheck method of ExecScan.  When another row is looked at again because of
 * somebody's update, a sub-select of its query runs anew, and a scan of no
 * table of its own is asked for the next row in this way.
 */
static bool
aggregate_recheck(ScanState *node, TupleTableSlot *slot)
{
	(void) aggregate_next(node);
	return true;
}

static TupleTableSlot *
exec_aggregate(CustomScanState *node)
{
	return ExecScan(&node->ss, (ExecScanAccessMtd) aggregate_next,
					(ExecScanRecheckMtd) aggregate_recheck);
}

static void
end_aggregate(CustomScanState *node)
{
	ExecEndNode(linitial(node->custom_ps));
}

static void
rescan_aggregate(CustomScanState *node)
{
	PlanState  *below = linitial(node->custom_ps);

	ExecScanReScan(&node->ss);
	if (node->ss.ps.chgParam != NULL)
		UpdateChangedParamSet(below, node->ss.ps.chgParam);
	/* else it is rescanned when it is asked next */
	if (below->chgParam == NULL)
		ExecReScan(below);
}
