-- What partitions group and count, what rollups answer, and what is left to be done here
SET timezone = 'UTC';
SET logq.catalog_max_age = '1d';
-- three hours on each of three partitions, sealed, and one open
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs, partition)
	SELECT timestamptz '2030-07-01' + h * interval '1 hour' + i * interval '2.900001 s',
		(ARRAY['INFO', 'Debug', 'debug', '5', NULL])[1 + i % 5], CASE WHEN i / 40 % 7 > 0 THEN 'svc-' || i / 40 % 7 END,
		format('request %s took a while', i), md5((i / 3)::text),
		jsonb_build_object('ms', i, 'num', CASE WHEN i % 3 = 0 THEN 'none' ELSE '1.' || repeat('0', i % 3) END),
		'p' || p
	FROM generate_series(0, 3) h, generate_series(1, 3) p, generate_series(0, 1199) i
	ORDER BY h, p, i;
SELECT count(*) >= 9 AS segments, sum(rows) >= 10800 AS rows FROM logq.seal(before => '2030-07-01 03:00');
SELECT logq.refresh_catalog() IS NOT NULL;
CREATE TEMP VIEW logs AS SELECT * FROM logq.logs WHERE ts >= '2030-07-01' AND ts < '2030-07-02';
CREATE TEMP TABLE plain AS SELECT * FROM logs;

CREATE FUNCTION pg_temp.plan(query text, lines text DEFAULT 'Custom Scan|Aggregate|Group Key|Filter|Remote SQL|Rollup SQL|Counted|Partitions')
	RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
		IF line ~ lines THEN
			RETURN NEXT regexp_replace(line, ' AND \(ts < ''2030-07-02 00:00:00\+00''::timestamp with time zone\)', '');
		END IF;
	END LOOP;
END $$;
-- is the answer that of a plain table, whatever is switched off?
CREATE FUNCTION pg_temp.run(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
	EXECUTE format('SELECT string_agg(q::text, E''\n'' ORDER BY q::text COLLATE "C") FROM (%s) q', query) INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
CREATE FUNCTION pg_temp.same(query text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE answers text[];
BEGIN
	answers := ARRAY[pg_temp.run(query)];
	SET LOCAL logq.use_rollups = off;
	answers := answers || pg_temp.run(query);
	SET LOCAL logq.enable_aggregate_pushdown = off;
	answers := answers || pg_temp.run(query);
	answers := answers || pg_temp.run(regexp_replace(query, '\mlogs\M', 'plain', 'g'));
	RESET logq.use_rollups;
	RESET logq.enable_aggregate_pushdown;
	RETURN (SELECT count(DISTINCT coalesce(a, 'nothing')) = 1 FROM unnest(answers) a);
END $$;

-- ---- counts: from the catalog, from rollups, from rows ----
SELECT pg_temp.plan('SELECT count(*) FROM logs');
SELECT pg_temp.plan('SELECT level, count(*), count(service) FROM logs GROUP BY 1');
SELECT pg_temp.plan($$SELECT date_trunc('hour', ts), service, count(*) FROM logs WHERE level <> 'INFO' GROUP BY 1, 2$$);
SELECT pg_temp.plan($$SELECT date_trunc('minute', ts), level, count(*) FROM logs GROUP BY 1, 2$$);
SELECT pg_temp.plan($$SELECT floor(extract(epoch FROM ts) / 300) * 300, service, count(*) FROM logs WHERE level = 'INFO' GROUP BY 1, 2$$);
SELECT pg_temp.plan($$SELECT date_bin('7 min', ts, '2001-01-01 00:00:30'), count(*) FROM logs GROUP BY 1$$);
-- numbers that an int32 holds, whatever the width
SELECT pg_temp.plan(format('SELECT date_bin(%L, ts, ''2001-01-01''), count(*) FROM logs GROUP BY 1', stride), 'Remote SQL')
FROM unnest('{7200.000001 s,1 day,36 hours,100000 days 1 us}'::text[]) stride;
-- whole minutes of a range, and its ends
SELECT pg_temp.plan($$SELECT level, count(*) FROM logq.logs WHERE ts >= '2030-07-01 00:10:30' AND ts <= '2030-07-01 00:20:00' GROUP BY 1$$);
SELECT pg_temp.plan($$SELECT level, count(*) FROM logq.logs WHERE ts >= '2030-07-01 00:10:00' AND ts < '2030-07-01 00:20:00' GROUP BY 1$$);
-- each value once
SELECT pg_temp.plan('SELECT DISTINCT service FROM logs');
SELECT pg_temp.plan('SELECT min(level), count(DISTINCT service) FROM logs');
-- the zone of the session: a bin of its half hours
SET timezone = 'Asia/Kolkata';
SELECT pg_temp.plan($$SELECT date_trunc('day', ts), count(*) FROM logq.logs WHERE ts >= '2030-07-01 00:00+00' AND ts < '2030-07-01 02:00+00' GROUP BY 1$$);
SET timezone = 'UTC';
-- rollups know no more than level and service; some bins are no whole minutes
SELECT pg_temp.plan($$SELECT level, count(*) FROM logs WHERE message LIKE '%7%' GROUP BY 1$$);
SELECT pg_temp.plan($$SELECT date_trunc('second', ts), count(*) FROM logs GROUP BY 1$$);
SET logq.use_rollups = off;
SELECT pg_temp.plan('SELECT level, count(*) FROM logs GROUP BY 1');
RESET logq.use_rollups;
SET logq.enable_aggregate_pushdown = off;
SELECT pg_temp.plan('SELECT level, count(*) FROM logs GROUP BY 1');
RESET logq.enable_aggregate_pushdown;

-- ---- partial results ----
SELECT pg_temp.plan($$SELECT level, avg(length(message)), max(ts) FROM logs GROUP BY 1 HAVING count(*) > 3$$);
SELECT pg_temp.plan($$SELECT sum(id) FILTER (WHERE attrs ? 'ms'), stddev((attrs ->> 'ms')::int) FROM logs$$);
SELECT pg_temp.plan($$SELECT attrs ->> 'num', count(DISTINCT trace_id), count(*) FROM logs GROUP BY 1$$);
SELECT pg_temp.plan($$SELECT date_trunc('hour', ts), max(message) FROM logs GROUP BY 1$$);
-- ---- rows: the arguments only ----
SELECT pg_temp.plan($$SELECT level, mode() WITHIN GROUP (ORDER BY (attrs ->> 'ms')::float8) FROM logs GROUP BY 1$$);
-- what the filter keeps out is not computed over there
SELECT pg_temp.plan($$SELECT mode() WITHIN GROUP (ORDER BY (attrs ->> 'num')::numeric) FILTER (WHERE attrs ->> 'num' <> 'none') FROM logs$$);
-- ---- percentiles: arrays of values ----
SELECT pg_temp.plan($$SELECT level, percentile_cont(0.5) WITHIN GROUP (ORDER BY (attrs ->> 'ms')::float8) FROM logs GROUP BY 1$$);
SELECT pg_temp.plan($$SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (attrs ->> 'num')::numeric) FILTER (WHERE attrs ->> 'num' <> 'none') FROM logs$$);
SELECT pg_temp.plan($$SELECT level, percentile_cont(0.5) WITHIN GROUP (ORDER BY (attrs ->> 'ms')::float8), percentile_disc(0.9) WITHIN GROUP (ORDER BY (attrs ->> 'ms')::float8), avg((attrs ->> 'ms')::float8) FROM logs GROUP BY 1$$);
-- not in another order, of other types, or several at once
SELECT pg_temp.plan($$SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (attrs ->> 'ms')::float8 DESC), percentile_disc(0.5) WITHIN GROUP (ORDER BY ts), percentile_cont('{0.1,0.5}'::float8[]) WITHIN GROUP (ORDER BY (attrs ->> 'ms')::float8) FROM logs$$);

-- ---- declined: core does it, over rows ----
CREATE TEMP TABLE t (level text);
SELECT pg_temp.plan('SELECT level, service, count(*) FROM logs GROUP BY ROLLUP (1, 2)', 'Custom Scan|Remote SQL');
SELECT pg_temp.plan('SELECT l.level, count(*) FROM logs l JOIN t USING (level) GROUP BY 1', 'Custom Scan|Remote SQL');
SELECT pg_temp.plan('SELECT generate_series(1, 2), count(*) FROM logs', 'Custom Scan|Remote SQL');
SELECT pg_temp.plan('SELECT count(*) FROM logs WHERE random() < 2', 'Custom Scan|Remote SQL');
SELECT pg_temp.plan('SELECT level, count(l) FROM logs l GROUP BY 1', 'Custom Scan|Remote SQL');

-- ---- answers ----
-- of nothing: aggregates of constants and of the partition see no row
SELECT pg_temp.same(q) FROM unnest(ARRAY[
	$$SELECT count(*), min(partition), count(DISTINCT 1) FROM logs WHERE level = 'nope'$$,
	$$SELECT count(*), string_agg(DISTINCT partition, ','), sum(DISTINCT 3) FROM logs WHERE message = 'nope'$$,
	$$SELECT bool_or(partition = 'p1'), min('x'::text), count(*) FROM logs WHERE level = 'nope' AND service = 'svc-1'$$,
	$$SELECT level, count(*) FROM logs WHERE message = 'nope' GROUP BY 1$$,
	$$SELECT 1 AS one, sum(id) FROM logs WHERE message = 'nope' GROUP BY 1$$]) q;
-- a condition on what is grouped by
SELECT pg_temp.same(q) FROM unnest(ARRAY[
	$$SELECT lower(level), sum(length(message)) FROM logs WHERE lower(level) = 'debug' GROUP BY 1$$,
	$$SELECT coalesce(level, '-'), avg(length(message)) FROM logs WHERE coalesce(level, '-') = '-' AND substr(service, 5) = '3' GROUP BY 1, substr(service, 5)$$,
	$$SELECT partition || level, max(message) FROM logs WHERE partition || 'x' = 'p1x' AND partition || level = 'p1INFO' GROUP BY 1$$,
	$$SELECT level = 'INFO' AS i, array_agg(id ORDER BY id) FROM logs WHERE (level = 'INFO') IS NOT FALSE GROUP BY 1$$]) q;
-- casts that only the filter makes safe
SELECT pg_temp.same(q) FROM unnest(ARRAY[
	$$SELECT count(DISTINCT (attrs ->> 'num')::numeric) FILTER (WHERE attrs ->> 'num' <> 'none') FROM logs$$,
	$$SELECT sum(DISTINCT level::int) FILTER (WHERE level = '5'), max(message) FROM logs$$,
	$$SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (attrs ->> 'num')::numeric) FILTER (WHERE attrs ->> 'num' <> 'none') FROM logs$$,
	$$SELECT array_agg((attrs ->> 'num')::numeric > 0 ORDER BY level::int, id) FILTER (WHERE level = '5' AND attrs ->> 'num' <> 'none') FROM logs$$,
	$$SELECT sum((attrs ->> 'num')::numeric) FROM logs$$]) q;
-- errors of what is computed here
SELECT pg_temp.same(q), pg_temp.run(q) FROM unnest(ARRAY[
	$$SELECT date_trunc('fortnight', ts), count(*) FROM logs GROUP BY 1$$,
	$$SELECT date_bin('1 month', ts, '2001-01-01'), count(*) FROM logs GROUP BY 1$$,
	$$SELECT date_bin('-1 hour', ts, '2001-01-01'), count(*) FROM logs GROUP BY 1$$,
	$$SELECT extract(fortnight FROM ts), count(*) FROM logs GROUP BY 1$$,
	$$SELECT date_trunc('day', ts, 'No/Where'), count(*) FROM logs GROUP BY 1$$]) q;
-- sub-selects that depend on groups, and groups that depend on the query around
SELECT pg_temp.same(q) FROM unnest(ARRAY[
	$$SELECT level, (SELECT count(*) FROM logs i WHERE i.level = o.level AND i.service = 'svc-1') FROM logs o GROUP BY 1$$,
	$$SELECT level, (SELECT sum(length(o.message)) + count(*) FROM (VALUES (1), (2)) v(x)) FROM logs o GROUP BY 1$$,
	$$SELECT v, x.* FROM (VALUES (1), (3), (7)) t(v), LATERAL (SELECT date_bin(make_interval(mins => v), ts, '2001-01-01'), count(*) FROM logs GROUP BY 1) x$$,
	$$SELECT v, x.* FROM (VALUES ('INFO'), (NULL), ('debug')) t(v), LATERAL (SELECT level || v, count(*), max(ts) FROM logs WHERE level = v GROUP BY 1) x$$]) q;
-- far away, quotients are rounded to the next step
INSERT INTO logq.logs (ts, message) VALUES ('9999-12-31 23:59:59.999999', 'rounded up');
SELECT logq.refresh_catalog() IS NOT NULL;
SELECT floor(extract(epoch FROM ts) / 300) * 300, count(*) FROM logq.logs WHERE ts >= '9999-12-31' GROUP BY 1;
-- somebody's own log table, with a length and a collation of its own
CREATE FOREIGN TABLE pg_temp.own (service text COLLATE "C", ts timestamptz(0), partition text) SERVER logq;
SELECT count(*), sum(n) FROM (SELECT date_trunc('minute', ts), count(DISTINCT ts) AS n FROM own
	WHERE ts >= '2030-07-01' AND ts < '2030-07-02' GROUP BY 1) x;
SELECT service, count(*), min(service) FROM own WHERE ts >= '2030-07-01' AND ts < '2030-07-02' AND service > 'svc-4' GROUP BY 1 ORDER BY 1;
-- through a view no right to the schema is needed
CREATE ROLE logq_viewer;
CREATE SCHEMA logq_views;
CREATE VIEW logq_views.v AS SELECT * FROM logq.logs WHERE ts >= '2030-07-01' AND ts < '2030-07-02';
GRANT USAGE ON SCHEMA logq_views TO logq_viewer;
GRANT SELECT ON logq_views.v TO logq_viewer;
SET ROLE logq_viewer;
SELECT level, count(*), avg((attrs ->> 'ms')::int), variance((attrs ->> 'ms')::int) FROM logq_views.v
	WHERE extract(epoch FROM ts) >= current_setting('server_version_num')::int * 0 GROUP BY 1 ORDER BY 1;
RESET ROLE;
DROP SCHEMA logq_views CASCADE;
DROP ROLE logq_viewer;
