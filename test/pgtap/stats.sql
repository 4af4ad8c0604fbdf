-- Statistics of queries: what the views have, and who may see and reset them
BEGIN;
SELECT plan(23);

SELECT columns_are('logq', 'stat_queries', ARRAY['queries', 'errors', 'partial', 'p50_ms', 'p95_ms', 'p99_ms', 'max_ms',
	'first_row_p50_ms', 'first_row_p95_ms', 'first_row_p99_ms', 'first_row_max_ms', 'total_ms', 'first_row_ms', 'queued_ms',
	'rows', 'bytes', 'retried', 'hedged', 'partitions_asked', 'partitions_pruned', 'partitions_pruned_percent',
	'segments_asked', 'segments_cached', 'segments_pruned', 'segments_pruned_percent', 'pruned_by_time', 'pruned_by_id',
	'pruned_by_level', 'pruned_by_service', 'pruned_by_trace_id', 'pruned_by_attrs', 'pruned_by_words', 'pruned_by_several',
	'pruned_by_partition', 'pruned_by_partition_id', 'pruned_by_contradiction', 'stats_reset']);
SELECT columns_are('logq', 'slow_queries', ARRAY['started_at', 'role', 'database', 'total_ms', 'first_row_ms', 'queued_ms',
	'failed', 'partial', 'partitions_asked', 'partitions_pruned', 'segments_asked', 'segments_cached', 'segments_pruned',
	'rows', 'bytes', 'retried', 'hedged', 'query']);
SELECT col_type_is('logq', 'stat_queries', 'queries', 'bigint', 'counters are bigint');
SELECT col_type_is('logq', 'stat_queries', 'p95_ms', 'double precision', 'times are float8');
SELECT col_type_is('logq', 'stat_queries', 'stats_reset', 'timestamp with time zone', 'stats_reset is a timestamptz');
SELECT has_function('logq', 'query_histogram', ARRAY[]::text[]);
SELECT has_function('logq', 'reset_stats', ARRAY[]::text[]);
SELECT is((SELECT count(*) FROM logq.stat_queries), 1::bigint, 'one row');
SELECT is((SELECT count(*) FROM logq.query_histogram()), 38::bigint, 'a row for each bucket');
SELECT results_eq('SELECT le_ms FROM logq.query_histogram() LIMIT 5', ARRAY[0.25, 0.375, 0.5, 0.75, 1]::float8[],
	'the first bounds');

SELECT is(current_setting('logq.slow_query_ms'), '1s', 'slow is a second');
SELECT is((SELECT context FROM pg_settings WHERE name = 'logq.slow_query_ms'), 'superuser', 'which not everybody may change');
SELECT throws_ok('SET logq.slow_query_ms = -2', '22023', NULL, 'less than -1 is nothing');

SELECT lives_ok('SELECT logq.reset_stats()', 'they begin again');
SELECT ok((SELECT stats_reset >= now() FROM logq.stat_queries), 'from now on');
SELECT ok((SELECT bool_and(stats_reset >= now()) FROM logq.stat_cache), 'those of the cache, too');

-- pgTAP's own functions are called by a role that may
CREATE ROLE stats_role;
GRANT USAGE ON SCHEMA logq TO stats_role;
SELECT ok(has_table_privilege('stats_role', 'logq.stat_queries', 'SELECT'), 'totals are for everybody');
SELECT ok(has_table_privilege('stats_role', 'logq.slow_queries', 'SELECT'), 'and so are slow queries');
SELECT ok(has_function_privilege('stats_role', 'logq.query_histogram()', 'EXECUTE'), 'and the histogram');
SELECT ok(NOT has_function_privilege('stats_role', 'logq.reset_stats()', 'EXECUTE'), 'but not to begin again');
SELECT ok(NOT has_table_privilege('stats_role', 'logq.stat_queries', 'UPDATE'), 'nothing else');

SET LOCAL logq.slow_query_ms = 0;
SELECT count(*) >= 0 AS counted FROM logq.logs WHERE id = 1 \gset
SELECT is((SELECT query FROM logq.slow_queries WHERE database = current_database() LIMIT 1),
	'SELECT count(*) >= 0 AS counted FROM logq.logs WHERE id = 1', 'the text is there for who may see it');
CREATE FUNCTION pg_temp.seen() RETURNS text LANGUAGE sql AS 'SELECT query FROM logq.slow_queries WHERE database = current_database() LIMIT 1';
ALTER FUNCTION pg_temp.seen() SECURITY DEFINER;
ALTER FUNCTION pg_temp.seen() OWNER TO stats_role;
SELECT is(pg_temp.seen(), '<insufficient privilege>', 'and not for others');

SELECT * FROM finish();
ROLLBACK;
