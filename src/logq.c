/*-------------------------------------------------------------------------
 *
 * logq.c
 *		Loading of the module, and its settings.
 *
 * Every setting has its row in the README's table.  Those called enable_...
 * switch an optimisation off; none of them may change an answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "logq.h"

#include <limits.h>

#include "fmgr.h"
#include "utils/guc.h"

#include "scan.h"

LOGQ_MODULE_MAGIC;

void		_PG_init(void);

int			logq_route_by = LOGQ_ROUTE_SERVICE;
int			logq_connect_timeout = 3000;
int			logq_max_parallel_partitions = 32;
bool		logq_enable_filter_pushdown = true;
bool		logq_enable_ordered_merge = true;
bool		logq_enable_limit_pushdown = true;
bool		logq_enable_limit_shares = true;
bool		logq_enable_column_pruning = true;
bool		logq_enable_partition_pruning = true;
bool		logq_enable_segment_pruning = true;

static const struct config_enum_entry route_by_options[] = {
	{"service", LOGQ_ROUTE_SERVICE, false},
	{"trace_id", LOGQ_ROUTE_TRACE_ID, false},
	{"round_robin", LOGQ_ROUTE_ROUND_ROBIN, false},
	{NULL, 0, false}
};

/*
 * A switch that every user may turn.
 */
static void
define_switch(const char *name, const char *description, bool *variable)
{
	DefineCustomBoolVariable(name, description, NULL, variable, true,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
}

/*
 * Define settings and register the scan node.
 */
void
_PG_init(void)
{
	DefineCustomIntVariable("logq.connect_timeout",
							"Sets the time allowed for connecting to a partition.",
							NULL, &logq_connect_timeout,
							3000, 1, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	define_switch("logq.enable_column_pruning",
				  "Lets only the columns travel that a query reads.",
				  &logq_enable_column_pruning);
	define_switch("logq.enable_filter_pushdown",
				  "Lets partitions evaluate conditions.",
				  &logq_enable_filter_pushdown);
	define_switch("logq.enable_limit_pushdown",
				  "Lets partitions stop at a query's LIMIT.",
				  &logq_enable_limit_pushdown);
	define_switch("logq.enable_limit_shares",
				  "Asks each partition for its share of a LIMIT first.",
				  &logq_enable_limit_shares);
	define_switch("logq.enable_ordered_merge",
				  "Lets partitions sort by time and merges their rows.",
				  &logq_enable_ordered_merge);
	define_switch("logq.enable_partition_pruning",
				  "Leaves out partitions that cannot hold an answer.",
				  &logq_enable_partition_pruning);
	define_switch("logq.enable_segment_pruning",
				  "Leaves out segments that cannot hold an answer.",
				  &logq_enable_segment_pruning);
	DefineCustomIntVariable("logq.max_parallel_partitions",
							"Sets how many partitions one scan waits for at a time.",
							NULL, &logq_max_parallel_partitions,
							32, 1, 1024, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("logq.route_by",
							 "Sets what decides which partition takes a new row.",
							 NULL, &logq_route_by,
							 LOGQ_ROUTE_SERVICE, route_by_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("logq");

	RegisterCustomScanMethods(&logq_scan_methods);
}
