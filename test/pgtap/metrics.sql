-- logq.metrics() and logq.stat_segments: format, escaping, what is unknown, rights
BEGIN;
SELECT plan(25);

SELECT is((SELECT concat_ws(' ', prosecdef, proconfig, has_function_privilege('public', oid, 'EXECUTE'), has_function_privilege('pg_monitor', oid, 'EXECUTE'),
		has_function_privilege('logq_admin', oid, 'EXECUTE'), has_function_privilege('logq_reader', oid, 'EXECUTE'))
	FROM pg_proc WHERE oid = 'logq.metrics()'::regprocedure),
	't {"search_path=pg_catalog, pg_temp",extra_float_digits=1,jit=off} f t t f', 'it runs as its owner, for those who monitor');
SELECT columns_are('logq', 'stat_segments', ARRAY['partition', 'open_segments', 'sealed_segments', 'sealing_due', 'rows',
	'sealed_bytes', 'rolled_up_segments', 'rollup_rows', 'confirmed_at']);
SELECT ok(NOT has_table_privilege('public', 'logq.stat_segments', 'SELECT') AND has_table_privilege('pg_monitor', 'logq.stat_segments', 'SELECT'),
	'the view is not for everybody');

-- every line of the text, with its number
CREATE FUNCTION pg_temp.lines() RETURNS TABLE (line text, n bigint) LANGUAGE sql AS
	$$ SELECT * FROM regexp_split_to_table(rtrim(logq.metrics(), E'\n'), E'\n') WITH ORDINALITY $$;

SELECT ok(right(logq.metrics(), 1) = E'\n', 'the last line ends');
SELECT is_empty($$SELECT line FROM pg_temp.lines() WHERE line !~ '^# HELP logq_[a-z0-9_]+ [^\\]+[.]$'
	AND line !~ '^# TYPE logq_[a-z0-9_]+ (counter|gauge|histogram)$'
	AND line !~ '^logq_[a-z0-9_]+({([a-z_]+="([^"\\]|\\["\\n])*",?)+})? (-?[0-9.]+(e[-+][0-9]+)?|[+]Inf)$'$$, 'each is one of a kind');
SELECT is_empty($$SELECT line FROM pg_temp.lines() WHERE line ~ 'NaN|_ms|Infinity'$$, 'what is unknown is left out');
SELECT is_empty($$SELECT split_part(line, ' ', 1) FROM pg_temp.lines() WHERE line !~ '^#' GROUP BY 1 HAVING count(*) > 1$$, 'no sample is there twice');
SELECT is_empty($$SELECT split_part(line, ' ', 3) FROM pg_temp.lines() WHERE line ~ '^# TYPE' GROUP BY 1 HAVING count(*) > 1$$, 'nor a name');
-- the samples of a name follow it
SELECT is_empty($$SELECT line FROM (SELECT line, max(CASE WHEN line ~ '^# TYPE' THEN n END) OVER (ORDER BY n) AS at FROM pg_temp.lines()) l
	JOIN (SELECT n, split_part(line, ' ', 3) AS name FROM pg_temp.lines() WHERE line ~ '^# TYPE') t ON t.n = l.at
	WHERE line !~ '^#' AND regexp_replace(regexp_replace(line, '[ {].*', ''), CASE WHEN name ~ '(execution|first_row)_time' THEN '_(bucket|sum|count)$' ELSE '^$' END, '') <> name$$,
	'samples stand behind their name');
SELECT is_empty($$SELECT line FROM pg_temp.lines() WHERE line ~ '^# TYPE' AND (line ~ ' counter$') <> (line ~ '_total counter$')$$, 'counters end in _total');

-- the histogram
SELECT count(*) >= 0 AS counted FROM logq.logs WHERE id = 1 \gset
SELECT is((SELECT count(*) FROM pg_temp.lines() WHERE line ~ '^logq_query_execution_time_seconds_bucket'), 38::bigint, 'a bucket for each bound');
SELECT bag_eq($$SELECT line FROM pg_temp.lines() WHERE line ~ '^logq_query_execution_time_seconds_bucket'$$,
	$$SELECT format('logq_query_execution_time_seconds_bucket{le="%s"} %s', CASE WHEN le_ms = 'Infinity' THEN '+Inf' ELSE (le_ms / 1000)::text END, count)
	FROM logq.query_histogram()$$, 'with the numbers of query_histogram(), in seconds');
SELECT is((SELECT array_agg(line ORDER BY n) FROM pg_temp.lines() WHERE line ~ '^logq_query_execution_time_seconds_(sum|count)'),
	(SELECT ARRAY['logq_query_execution_time_seconds_sum ' || total_ms / 1000, 'logq_query_execution_time_seconds_count ' || queries] FROM logq.stat_queries),
	'sum and count');
SELECT ok(EXISTS (SELECT FROM pg_temp.lines() WHERE line ~ '^logq_query_execution_time_seconds_bucket{le="0.0015"} '), 'numbers are in full');
SELECT is((SELECT sum(split_part(line, ' ', 2)::numeric) FROM pg_temp.lines() WHERE line ~ '^logq_query_segments_pruned_total{'),
	(SELECT segments_pruned::numeric FROM logq.stat_queries), 'reasons add up to what was pruned');

-- names
CREATE FUNCTION pg_temp.odd(OUT health text, OUT up text, OUT rows text, OUT topic text) LANGUAGE plpgsql AS $$
DECLARE
	name text := E'a"b\\c\nd\\n\\"e';
	escaped text := E'a\\"b\\\\c\\nd\\\\n\\\\\\"e';
BEGIN
	INSERT INTO logq.partition (number, server, same_locale) VALUES (524287, name, true);
	INSERT INTO logq.topic (name, brokers) VALUES (name, '127.0.0.1:1');
	SELECT max(replace(line, escaped, '*')) FILTER (WHERE line LIKE 'logq_health{check="partition",object="a%'),
		max(replace(line, escaped, '*')) FILTER (WHERE line LIKE 'logq_partition_up{partition="a%'),
		max(replace(line, escaped, '*')) FILTER (WHERE line LIKE 'logq_partition_rows{partition="a%'),
		max(replace(line, escaped, '*')) FILTER (WHERE line LIKE 'logq_topic_in_state{topic="a%' AND line LIKE '%1')
	INTO health, up, rows, topic FROM pg_temp.lines();
	DELETE FROM logq.topic WHERE topic.name = 'a"b\c' || E'\nd\\n\\"e';
	DELETE FROM logq.partition WHERE number = 524287;
END $$;
SELECT is((SELECT o::text FROM pg_temp.odd() o),
	(SELECT r::text FROM (VALUES ('logq_health{check="partition",object="*"} 0', 'logq_partition_up{partition="*"} 0',
		'logq_partition_rows{partition="*"} 0', 'logq_topic_in_state{topic="*",state="stopped"} 1')) r),
	'quotes, backslashes and new lines in names; a partition without server or catalog');
SET LOCAL standard_conforming_strings = off;
SET LOCAL escape_string_warning = off;
SET LOCAL extra_float_digits = -15;
SELECT is((SELECT o.up FROM pg_temp.odd() o), 'logq_partition_up{partition="*"} 0', 'whatever the settings of the session');
SELECT ok(EXISTS (SELECT FROM pg_temp.lines() WHERE line ~ '^logq_query_first_row_time_seconds_bucket{le="0.000375"} '), 'for numbers, too');
RESET standard_conforming_strings;
RESET extra_float_digits;

-- they agree with the views
SELECT bag_eq($$SELECT line FROM pg_temp.lines() WHERE line ~ '^logq_health{'$$,
	$$SELECT format('logq_health{check="%s",object="%s"} %s', check_name, subject, ok::int) FROM logq.health()$$, 'health');
SELECT is((SELECT sum(split_part(line, '} ', 2)::int) FROM pg_temp.lines() WHERE line ~ '^logq_partition_(open|sealed)_segments{'),
	(SELECT count(*) FROM logq.segments), 'segments');
SELECT bag_eq($$SELECT partition::text COLLATE "default", open_segments, sealed_segments, rows FROM logq.stat_segments$$,
	$$SELECT p.server::text COLLATE "default", count(name) FILTER (WHERE state = 'open') AS open, count(name) FILTER (WHERE state = 'sealed') AS sealed, coalesce(sum(rows), 0)::bigint AS rows
	FROM logq.partition p LEFT JOIN logq.segments s ON s.partition = p.server GROUP BY p.server$$, 'stat_segments adds up logq.segments');
SELECT is((SELECT count(*) FROM pg_temp.lines() WHERE line ~ '^logq_server_breaker_state{partition="[^"]+",address="[^"]+:[0-9]+",role="(primary|replica)"} 0$'),
	(SELECT count(*) FROM logq.stat_partitions), 'a row for each server');
SELECT is((SELECT count(*) FROM pg_temp.lines() WHERE line ~ '^logq_cache_hits_total{level="(memory|redis)"} '), 2::bigint, 'both levels of the cache');
SELECT is((SELECT count(*) FROM pg_temp.lines() WHERE line ~ '^logq_cache_redis'), 0::bigint, 'nothing of a Redis that there is not');
SELECT is((SELECT array_agg(line) FROM pg_temp.lines() WHERE line ~ '^logq_build_info'),
	(SELECT ARRAY[format('logq_build_info{version="%s",server_version="%s"} 1', extversion, current_setting('server_version'))] FROM pg_extension WHERE extname = 'logq'),
	'versions');

SELECT * FROM finish();
ROLLBACK;
