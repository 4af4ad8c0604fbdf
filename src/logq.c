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
#include "miscadmin.h"
#include "utils/guc.h"

#include "admission.h"
#include "cache.h"
#include "ingest.h"
#include "maintain.h"
#include "query.h"
#include "querystat.h"

LOGQ_MODULE_MAGIC;

void		_PG_init(void);

int			logq_route_by = LOGQ_ROUTE_SERVICE;
int			logq_connect_timeout = 3000;
int			logq_max_concurrent_queries = 500;
int			logq_max_concurrent_queries_per_role = 0;
int			logq_max_connections_per_partition = 0;
int			logq_max_parallel_partitions = 32;
int			logq_partition_timeout = 5000;
int			logq_max_replica_lag = 10000;
int			logq_read_from = LOGQ_READ_ANY;
int			logq_hedge_min_delay = 10;
bool		logq_enable_hedging = true;
int			logq_hot_cache_size = 100;
bool		logq_partial_results = false;
int			logq_queue_timeout = 2000;
bool		logq_enable_filter_pushdown = true;
bool		logq_enable_ordered_merge = true;
bool		logq_enable_limit_pushdown = true;
bool		logq_enable_limit_shares = true;
bool		logq_enable_column_pruning = true;
bool		logq_enable_partition_pruning = true;
bool		logq_enable_segment_pruning = true;
bool		logq_enable_content_pruning = true;
bool		logq_enable_aggregate_pushdown = true;
bool		logq_use_rollups = true;
char	   *logq_worker_role = NULL;
bool		logq_strict_pruning = false;
int			logq_catalog_max_age = 1000;
int			logq_catalog_memory = 64 * 1024;
int			logq_seal_after = 600;
bool		logq_seal_trigrams = false;
char	   *logq_bloom_attrs = NULL;
char	   *logq_databases = NULL;
int			logq_ingest_batch_rows = 20000;
int			logq_ingest_batch_ms = 200;
int			logq_ingest_max_message = 1024;
int			logq_ingest_max_age = 365 * SECS_PER_DAY;
int			logq_ingest_max_future = SECS_PER_DAY;
int			logq_on_offset_loss = LOGQ_OFFSET_LOSS_ERROR;

static const struct config_enum_entry cache_options[] = {
	{"off", LOGQ_CACHE_OFF, false},
	{"on", LOGQ_CACHE_ON, false},
	{"refresh", LOGQ_CACHE_REFRESH, false},
	{"false", LOGQ_CACHE_OFF, true},
	{"true", LOGQ_CACHE_ON, true},
	{"no", LOGQ_CACHE_OFF, true},
	{"yes", LOGQ_CACHE_ON, true},
	{"0", LOGQ_CACHE_OFF, true},
	{"1", LOGQ_CACHE_ON, true},
	{NULL, 0, false}
};

static const struct config_enum_entry offset_loss_options[] = {
	{"error", LOGQ_OFFSET_LOSS_ERROR, false},
	{"skip", LOGQ_OFFSET_LOSS_SKIP, false},
	{NULL, 0, false}
};

static const struct config_enum_entry read_from_options[] = {
	{"any", LOGQ_READ_ANY, false},
	{"primary", LOGQ_READ_PRIMARY, false},
	{"replica", LOGQ_READ_REPLICA, false},
	{NULL, 0, false}
};

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
	logq_clock_init();
	DefineCustomStringVariable("logq.bloom_attrs",
							   "Sets the keys of attrs whose values sealed segments have filters of.",
							   "A list of keys, separated by commas; a key that has other characters than letters, digits and underscores is quoted as an identifier.",
							   &logq_bloom_attrs, "", PGC_SUSET,
							   GUC_LIST_INPUT, NULL, NULL, NULL);
	DefineCustomEnumVariable("logq.cache",
							 "Sets whether results of sealed segments are taken from the cache.",
							 "\"refresh\" takes none from it, and puts those in their place that are worth it.",
							 &logq_cache, LOGQ_CACHE_ON, cache_options,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomIntVariable("logq.cache_max_value",
							"Sets how large the result of a segment may be to be cached.",
							"Before it is compressed.",
							&logq_cache_max_value,
							1024, 1, 16 * 1024, PGC_SUSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomRealVariable("logq.cache_min_cost",
							 "Sets how long the result of a segment must have taken to be cached.",
							 "And a millisecond more for each 256 kB of it. 0 caches all.",
							 &logq_cache_min_cost,
							 1.0, 0.0, 100000.0, PGC_USERSET, GUC_UNIT_MS,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("logq.cache_server",
							   "Sets the foreign server that leads to the cache in Redis.",
							   "One of the foreign-data wrapper \"logq_redis\".  Without such a server there is no Redis.",
							   &logq_cache_server, "redis", PGC_SUSET, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("logq.cache_timeout",
							"Sets how long a query may wait for the cache in Redis.",
							NULL, &logq_cache_timeout,
							20, 1, 10000, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.cache_ttl",
							"Sets how long a fragment may stay in the cache.",
							NULL, &logq_cache_ttl,
							SECS_PER_HOUR, 1, 30 * SECS_PER_DAY,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.catalog_max_age",
							"Sets how long ago the copy of a partition's catalog must have been found true, for the partition not to be asked.",
							NULL, &logq_catalog_max_age,
							1000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.catalog_memory",
							"Sets how much memory a session may use for what it knows of the contents of segments.",
							NULL, &logq_catalog_memory,
							64 * 1024, 64, MAX_KILOBYTES, PGC_USERSET,
							GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomStringVariable("logq.databases",
							   "Sets the databases that have a maintenance worker.",
							   "A list of names, separated by commas.  The library must be in shared_preload_libraries.",
							   &logq_databases, "", PGC_SIGHUP,
							   GUC_LIST_INPUT, NULL, NULL, NULL);
	DefineCustomIntVariable("logq.connect_timeout",
							"Sets the time allowed for connecting to a partition.",
							NULL, &logq_connect_timeout,
							3000, 1, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	define_switch("logq.enable_aggregate_pushdown",
				  "Lets partitions group rows and compute aggregates.",
				  &logq_enable_aggregate_pushdown);
	define_switch("logq.enable_column_pruning",
				  "Lets only the columns travel that a query reads.",
				  &logq_enable_column_pruning);
	define_switch("logq.enable_content_pruning",
				  "Leaves out sealed segments by what they are known to hold.",
				  &logq_enable_content_pruning);
	define_switch("logq.enable_filter_pushdown",
				  "Lets partitions evaluate conditions.",
				  &logq_enable_filter_pushdown);
	define_switch("logq.enable_hedging",
				  "Lets a second server of a partition be asked when the first takes longer than usual.",
				  &logq_enable_hedging);
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
	DefineCustomIntVariable("logq.hedge_min_delay",
							"Sets how long a partition's server is waited for at least before a second one is asked.",
							NULL, &logq_hedge_min_delay,
							10, 1, 60000, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	/*
	 * Without shared memory it decides nothing, and the server would not take
	 * it as what it is; but the configuration may have it.
	 */
	DefineCustomIntVariable("logq.hot_cache_size",
							"Sets how much shared memory keeps results of sealed segments.",
							"0 means none.  The library must be in shared_preload_libraries.",
							&logq_hot_cache_size,
							100, 0, 65536,
							process_shared_preload_libraries_in_progress ?
							PGC_POSTMASTER : PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.ingest_batch_ms",
							"Sets how long rows from Kafka may wait for others to be written with.",
							NULL, &logq_ingest_batch_ms,
							200, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.ingest_batch_rows",
							"Sets how many rows from Kafka are written in one transaction at most.",
							"A message with more rows than this is written as a whole.",
							&logq_ingest_batch_rows,
							20000, 1, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.ingest_max_age",
							"Sets how old a row from Kafka may be; older ones become dead letters.",
							NULL, &logq_ingest_max_age,
							365 * SECS_PER_DAY, SECS_PER_MINUTE, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.ingest_max_future",
							"Sets how far ahead of the clock the time of a row from Kafka may be; what is further becomes a dead letter.",
							NULL, &logq_ingest_max_future,
							SECS_PER_DAY, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.ingest_max_message",
							"Sets how large a message from Kafka may be; larger ones become dead letters.",
							NULL, &logq_ingest_max_message,
							1024, 1, 256 * 1024, PGC_SIGHUP, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.max_concurrent_queries",
							"Sets how many queries of all sessions may run at once.",
							"Others wait for logq.queue_timeout.",
							&logq_max_concurrent_queries,
							500, 1, INT_MAX, PGC_SIGHUP, 0,
							NULL, logq_assign_query_limit, NULL);
	DefineCustomIntVariable("logq.max_concurrent_queries_per_role",
							"Sets how many queries of the current role may run at once.",
							"Meant for ALTER ROLE.  0 means that there is no limit.",
							&logq_max_concurrent_queries_per_role,
							0, 0, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.max_connections_per_partition",
							"Sets how many connections all sessions may have to one partition.",
							"0 means that there is no limit.",
							&logq_max_connections_per_partition,
							0, 0, INT_MAX / 4, PGC_SIGHUP, 0,
							NULL, logq_assign_connection_limit, NULL);
	DefineCustomIntVariable("logq.max_parallel_partitions",
							"Sets how many partitions one scan waits for at a time.",
							NULL, &logq_max_parallel_partitions,
							32, 1, 1024, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("logq.max_replica_lag",
							"Sets how far behind a replica may be that is read from.",
							NULL, &logq_max_replica_lag,
							10000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("logq.on_offset_loss",
							 "Sets what is done when Kafka no longer has the messages that are next.",
							 NULL, &logq_on_offset_loss,
							 LOGQ_OFFSET_LOSS_ERROR, offset_loss_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("logq.partial_results",
							 "Leaves out partitions that do not answer, with a warning, instead of failing.",
							 NULL, &logq_partial_results, false,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomIntVariable("logq.partition_timeout",
							"Sets how long a partition may be silent while a query waits for it.",
							"Zero: as long as it likes.",
							&logq_partition_timeout,
							5000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("logq.read_from",
							 "Sets which servers of a partition answer queries.",
							 NULL, &logq_read_from,
							 LOGQ_READ_ANY, read_from_options,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomIntVariable("logq.queue_timeout",
							"Sets how long a query waits when as many as may run are running.",
							"It also waits as long for connections.  0 means not to wait.",
							&logq_queue_timeout,
							2000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("logq.route_by",
							 "Sets what decides which partition takes a new row.",
							 NULL, &logq_route_by,
							 LOGQ_ROUTE_SERVICE, route_by_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("logq.seal_after",
							"Sets how long after its end a segment is sealed.",
							NULL, &logq_seal_after,
							600, 0, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("logq.seal_trigrams",
							 "Gives sealed segments a trigram index on message.",
							 "Only on partitions that have the extension \"pg_trgm\".",
							 &logq_seal_trigrams, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	/*
	 * Who could set it could keep queries out of logq.slow_queries, or fill
	 * that with others.
	 */
	DefineCustomIntVariable("logq.slow_query_ms",
							"Sets how long a query must take to be listed in logq.slow_queries.",
							"-1 lists none, 0 lists all.",
							&logq_slow_query_ms,
							1000, -1, INT_MAX, PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("logq.strict_pruning",
							 "Asks every partition whether its catalog has changed.",
							 NULL, &logq_strict_pruning, false,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	define_switch("logq.use_rollups",
				  "Takes counts of sealed segments from rollups instead of rows.",
				  &logq_use_rollups);
	DefineCustomStringVariable("logq.worker_role",
							   "Sets the role that background workers are on this server.",
							   "It needs no rights but CONNECT.  Empty is the bootstrap superuser.",
							   &logq_worker_role, "logq_worker", PGC_SIGHUP,
							   0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("logq");

	logq_shmem_init();
	logq_worker_init();
	RegisterCustomScanMethods(&logq_scan_methods);
	RegisterCustomScanMethods(&logq_aggregate_methods);
}
