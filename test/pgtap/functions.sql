-- The functions over the log table, compared with a plain table of the same rows
BEGIN;
SELECT plan(168);

-- ---- rows ---------------------------------------------------------------

SET LOCAL timezone = 'UTC';
-- around changes of clocks, a day that Samoa has not had, and ends of months.
-- The segments stay, so there are not many.
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT base + g * interval '2 minutes 33.000007 seconds',
		(ARRAY['INFO', 'WARN', 'ERROR', NULL])[1 + g % 4],
		(ARRAY['tap-a', 'tap-b', NULL, ''])[1 + g % 4 * (g % 3) % 4],
		CASE WHEN g % 11 > 0 THEN (ARRAY['plain ', E'tab\tand\nline ', '50%_\ ', 'Größe 😀 ', '''"$1 '])[1 + g % 5] || g END,
		CASE WHEN g % 3 = 0 THEN 'tap-trace-' || g / 10 END,
		CASE g % 9
			WHEN 0 THEN NULL
			WHEN 1 THEN '["level", {"status": 1}]'
			WHEN 2 THEN '"status"'
			WHEN 3 THEN 'null'
			WHEN 4 THEN '{}'
			WHEN 5 THEN jsonb_build_object('status', 200 + g % 3, 'level', 'inner', 'attrs.x', g % 2, '', 'nothing')
			ELSE jsonb_build_object('status', (200 + g % 3)::text, 'user', g, 'a b"c', jsonb_build_array(g % 2),
				'gone', NULL, 'deep', jsonb_build_object('status', 1))
		END
	FROM unnest('{2024-03-30 20:00+00, 2024-10-26 20:00+00, 2024-11-03 00:00+00, 2011-12-30 04:00+00}'::timestamptz[]) base,
		generate_series(0, 299) g;
-- several rows of the same time, of all kinds
INSERT INTO logq.logs (ts, level, service, message)
	SELECT timestamptz '2024-10-27 01:00+00', 'INFO', 'tap-same', 'same ' || g FROM generate_series(1, 20) g;
-- and those of other tests
CREATE TEMP TABLE copied AS SELECT * FROM logq.logs WHERE ts >= '2011-12-29' AND ts < '2024-12-01';
SELECT is((SELECT count(*) FROM copied WHERE ts < '2012-01-10' OR ts >= '2024-03-30' AND ts < '2024-04-10'
	OR ts >= '2024-10-26' AND ts < '2024-11-10'), 1220::bigint, 'all rows are there');

-- ---- what they are ---------------------------------------------------------

SELECT is(
	(SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc p
		WHERE pronamespace = 'logq'::regnamespace AND proname IN
			('matching', 'search', 'histogram', 'facets', 'field_names', 'field_values', 'context', 'tail')
			AND provolatile = 's' AND proparallel = 'r' AND NOT proisstrict AND NOT prosecdef
			AND proconfig IS NULL AND prosqlbody IS NOT NULL AND obj_description(p.oid) IS NOT NULL),
	'context facets field_names field_values histogram matching search tail',
	'all can be expanded, and are described');
-- expanded: no Function Scan of ours is left
CREATE FUNCTION pg_temp.expanded(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text; found_one text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) SELECT * FROM ' || query LOOP
		IF line ~ 'Function Scan on (matching|search|histogram|facets|field_|context|tail)' THEN
			found_one := line;
		END IF;
	END LOOP;
	RETURN NEXT is(found_one, NULL, query || ' is expanded');
END $$;
SELECT pg_temp.expanded(q) FROM unnest(ARRAY[
	'logq.matching()', 'logq.search()', $$logq.histogram('1 hour')$$, $$logq.histogram('1 day', now() - interval '1 month', by => 'user')$$,
	'logq.facets()', $$logq.facets(keys => '{status}')$$, 'logq.field_names()', $$logq.field_values('status')$$,
	'logq.context(1)', 'logq.tail()', $$logq.tail(current_setting('tail.cursor', true))$$]) q;

-- ---- matching --------------------------------------------------------------

SELECT set_eq($$SELECT id FROM logq.matching('2024-03-30', '2024-04-10')$$,
	$$SELECT id FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10'$$, 'matching: more than a thousand rows if need be');
SELECT set_eq($$SELECT id FROM logq.matching('2024-03-30', '2024-04-10', level => 'WARN', service => '', contains => '50%_\', pattern => '\d\d$')$$,
	$$SELECT id FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND level = 'WARN' AND service = ''
		AND strpos(message, '50%_\') > 0 AND message ~ '\d\d$'$$, 'and all conditions');

-- ---- histogram ---------------------------------------------------------------

-- The same, said in another way: each local date, month or bin has its bucket,
-- and each row is counted where its own is.
CREATE FUNCTION pg_temp.key(unit text, n integer, ts timestamptz, from_time timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT CASE unit
		WHEN 'month' THEN extract(year FROM ts) || ' ' || div(extract(month FROM ts) - 1, n)
		WHEN 'day' THEN (ts::date - ((ts::date - date '2000-01-03') % n + n) % n)::text
		ELSE (date_trunc('day', from_time) + floor(extract(epoch FROM ts - date_trunc('day', from_time)) / n) * n * interval '1 second')::text
	END
$$;
CREATE FUNCTION pg_temp.buckets(unit text, n integer, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (key text, bucket timestamptz) LANGUAGE sql AS $$
	WITH day AS (
		SELECT from_time::date + i AS d FROM generate_series(0, (to_time - interval '1 microsecond')::date - from_time::date) i
		WHERE from_time < to_time AND unit <> 'time'
	)
	SELECT DISTINCT min(key), b::timestamptz FROM (
		SELECT pg_temp.key(unit, n, d::timestamptz, from_time) AS key,
			CASE unit WHEN 'day' THEN (d - ((d - date '2000-01-03') % n + n) % n)::timestamp
				ELSE make_date(extract(year FROM d)::int, 1, 1) + ((extract(month FROM d)::int - 1) / n * n) * interval '1 month' END AS b
		FROM day WHERE (d::timestamptz)::date = d
	) s GROUP BY b
	UNION ALL
	SELECT pg_temp.key('time', n, b, from_time), b
	FROM generate_series(pg_temp.key('time', n, from_time, from_time)::timestamptz, to_time - interval '1 microsecond', n * interval '1 second') b
	WHERE unit = 'time' AND from_time < to_time
$$;
CREATE FUNCTION pg_temp.compare(zone text, unit text, n integer, from_time text, to_time text, by text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	field	text := CASE WHEN by IN ('level', 'service', 'partition') THEN by
		WHEN by IS NULL THEN 'NULL' ELSE format('attrs ->> %L', by) END;
	step	interval := n * CASE unit WHEN 'month' THEN interval '1 month' WHEN 'day' THEN interval '1 day' ELSE interval '1 second' END;
BEGIN
	PERFORM set_config('timezone', zone, true);
	RETURN NEXT results_eq(
		format('SELECT * FROM logq.histogram(%L, %L::timestamptz, %L::timestamptz, by => %L)', step, from_time, to_time, by),
		format('SELECT b.bucket, v.value, count(c.ts)
			FROM pg_temp.buckets(%1$L, %2$L, %3$L::timestamptz, %4$L::timestamptz) b
				CROSS JOIN (SELECT DISTINCT (%5$s)::text AS value FROM copied WHERE ts >= %3$L AND ts < %4$L
					UNION SELECT NULL WHERE %6$L IS NULL) v
				LEFT JOIN copied c ON pg_temp.key(%1$L, %2$L, c.ts, %3$L) = b.key AND c.ts >= %3$L AND c.ts < %4$L
					AND (%5$s)::text IS NOT DISTINCT FROM v.value
			GROUP BY 1, 2 ORDER BY 1, 2', unit, n, from_time, to_time, field, by),
		format('histogram: %s, %s from %s to %s by %s', zone, step, from_time, to_time, by));
END $$;
SELECT pg_temp.compare(zone, unit, n, from_time, to_time, by)
FROM (VALUES
	('UTC', 'time', 3600, '2024-03-30 20:17:03+00', '2024-04-01 00:00+00', NULL),
	('UTC', 'time', 7 * 60, '2024-03-30 20:17:03+00', '2024-03-30 23:00+00', 'level'),
	('UTC', 'day', 1, '2024-03-30 00:00+00', '2024-04-03 00:00+00', 'service'),
	('UTC', 'month', 1, '2024-03-30 00:00+00', '2024-11-03 00:00+00', 'level'),
	('UTC', 'month', 12, '2011-12-29 00:00+00', '2024-11-03 00:00+00', NULL),
	('Europe/Berlin', 'day', 1, '2024-03-30 12:00+00', '2024-04-02 15:30+00', 'level'),
	('Europe/Berlin', 'day', 1, '2024-10-26 12:00+00', '2024-10-29 22:59:59.999999+00', 'status'),
	('Europe/Berlin', 'time', 6 * 3600, '2024-10-26 12:00+00', '2024-10-28 15:30+00', NULL),
	('Europe/Berlin', 'time', 86400, '2024-10-26 12:00+00', '2024-10-28 15:30+00', 'partition'),
	('Europe/Berlin', 'time', 90, '2024-10-27 00:30+00', '2024-10-27 01:30+00', NULL),
	('Europe/Berlin', 'day', 7, '2024-10-20 12:00+00', '2024-11-11 15:30+00', 'service'),
	('Europe/Berlin', 'day', 2, '2024-10-20 12:00+00', '2024-11-11 15:30+00', NULL),
	('Europe/Berlin', 'month', 3, '2024-02-20 12:00+00', '2024-11-11 15:30+00', 'level'),
	('America/New_York', 'day', 1, '2024-11-02 12:00+00', '2024-11-05 05:00+00', 'level'),
	('America/New_York', 'month', 1, '2024-10-26 00:00+00', '2024-11-05 05:00+00', NULL),
	('America/Havana', 'day', 1, '2024-11-02 12:00+00', '2024-11-05 05:00+00', 'level'),
	('America/Havana', 'time', 1800, '2024-11-03 04:30+00', '2024-11-03 12:00+00', NULL),
	('Asia/Beirut', 'day', 1, '2024-03-30 12:00+00', '2024-04-02 12:00+00', 'level'),
	('Asia/Kathmandu', 'time', 3600, '2024-03-30 19:00+00', '2024-03-31 12:00+00', NULL),
	('Australia/Lord_Howe', 'day', 1, '2024-03-30 12:00+00', '2024-04-08 12:00+00', NULL),
	('Australia/Lord_Howe', 'time', 7200, '2024-10-26 12:00+00', '2024-10-28 12:00+00', 'user'),
	('Pacific/Apia', 'day', 1, '2011-12-29 00:00+00', '2012-01-02 12:00+00', 'level'),
	('Pacific/Apia', 'day', 3, '2011-12-25 00:00+00', '2012-01-02 12:00+00', NULL),
	('Pacific/Apia', 'time', 43200, '2011-12-29 00:00+00', '2012-01-02 12:00+00', NULL),
	('UTC', 'day', 1, '2024-03-30 00:00+00', '2024-03-30 00:00+00', NULL),
	('UTC', 'day', 1, '2024-03-30 12:00+00', '2024-03-29 00:00+00', NULL),
	('UTC', 'time', 60, '2024-03-30 20:00+00', '2024-03-30 20:00:00.000001+00', NULL),
	('UTC', 'day', 1, '2020-03-30 00:00+00', '2020-04-02 00:00+00', NULL),
	('UTC', 'day', 1, '2020-03-30 00:00+00', '2020-04-02 00:00+00', 'level')
) AS t(zone, unit, n, from_time, to_time, by);
SET LOCAL timezone = 'UTC';
SELECT results_eq(
	$$SELECT bucket, count FROM logq.histogram('1 hour', '2024-10-27 00:30+00', '2024-10-27 03:00+00', service => 'tap-same')$$,
	$$VALUES (timestamptz '2024-10-27 00:00+00', 0::bigint), ('2024-10-27 01:00+00', 20), ('2024-10-27 02:00+00', 0)$$,
	'histogram: the first bucket has the start, the end is excluded');
SELECT results_eq(
	$$SELECT value, sum(count)::bigint FROM logq.histogram('1 week', '2024-03-30', '2024-04-10', by => '$$ || by || $$', level => 'INFO',
		contains => 'PLAIN', pattern => '0$') GROUP BY value ORDER BY value$$,
	$$SELECT $$ || field || $$, count(*) FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND level = 'INFO'
		AND message LIKE '%plain%' AND message ~ '0$' GROUP BY 1 ORDER BY 1$$,
	'histogram by ' || by || ' with conditions')
FROM (VALUES ('level', 'level'), ('trace_id', 'trace_id'), ('message', 'message'), ('id', 'id::text'), ('ts', 'ts::text'),
	('attrs', 'attrs::text'), ('attrs.level', $$attrs ->> 'level'$$), ('attrs.attrs.x', $$attrs ->> 'attrs.x'$$),
	('status', $$attrs ->> 'status'$$), ('', $$attrs ->> ''$$), ('a b"c', $$attrs ->> 'a b"c'$$)) AS f(by, field);
SELECT results_eq(
	$$SELECT count(*), sum(count)::bigint FROM logq.histogram('1 day', '2024-03-30', '2024-04-10', trace_id => 'tap-trace-7')$$,
	$$SELECT 11::bigint, count(*) FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND trace_id = 'tap-trace-7'$$,
	'histogram of a trace');
SELECT is((SELECT count(*) FROM logq.histogram('10 minutes')), 7::bigint, 'histogram: the last hour, without more');
SELECT throws_ok(format('SELECT * FROM logq.histogram(%L)', step), '22023',
		'step of a histogram must be greater than zero, and cannot mix months, days and hours',
		'histogram: a step of ' || coalesce(step, 'NULL'))
	FROM unnest(ARRAY['0', '-1 hour', '-1 day', '1 day 1 hour', '1 month 1 day', '1 month -1 second', '-1 month 40 days', NULL]) step;
SELECT throws_ok(format('SELECT * FROM logq.histogram(%s)', a), '22023', 'start_time and end_time of a histogram must be finite',
		'histogram: ' || a)
	FROM unnest(ARRAY['''1 hour'', NULL', '''1 day'', now(), NULL', '''1 day'', ''-infinity''', '''1 h'', now(), ''infinity''', '''1 month'', NULL, NULL']) a;
SELECT throws_ok($$SELECT * FROM logq.histogram('1 second', now() - interval '2 days')$$, '22023',
	'histogram has more than 100000 buckets', 'histogram: too many buckets');
SELECT throws_ok($$SELECT * FROM logq.histogram('1 microsecond', '0001-01-01', '9999-01-01')$$, '22023',
	'histogram has more than 100000 buckets', 'histogram: far too many');
SELECT is((SELECT count(*) FROM logq.histogram('1 second', '2024-03-30', timestamptz '2024-03-30' + interval '100000 seconds')),
	100000::bigint, 'histogram: as many as there may be');
-- arguments that are known only at run time
PREPARE histogram(interval, timestamptz, timestamptz, text) AS SELECT * FROM logq.histogram($1, $2, $3, $4);
SET LOCAL plan_cache_mode = force_generic_plan;
SELECT results_eq(format('EXECUTE histogram(%L, %L, %L, %L)', step, '2024-03-30 05:00', '2024-04-02', by),
		format('SELECT * FROM logq.histogram(%L, %L, %L, %L)', step, '2024-03-30 05:00', '2024-04-02', by),
		format('a generic plan: %s by %s', step, by))
	FROM unnest(ARRAY['1 month', '1 day', '2 hours']) step, unnest(ARRAY[NULL, 'level', 'partition', 'status']) by;
SELECT throws_ok(format('EXECUTE histogram(%L, %L, %L, NULL)', a, b, 'now'), '22023', NULL, 'a generic plan: ' || coalesce(a, 'NULL') || ', ' || b)
	FROM (VALUES (NULL, 'now'), ('-1 day', 'now'), ('1 day 1 hour', 'now'), ('1 day', '-infinity'), ('1 second', '2000-01-01')) AS t(a, b);
RESET plan_cache_mode;

-- ---- names and values of fields ------------------------------------------------

SELECT results_eq(
	$$SELECT * FROM logq.field_names('2024-03-30', '2024-04-10')$$,
	$$SELECT field, count(*) FROM (
		SELECT unnest(ARRAY['ts', 'id', 'partition', CASE WHEN level IS NOT NULL THEN 'level' END,
			CASE WHEN service IS NOT NULL THEN 'service' END, CASE WHEN message IS NOT NULL THEN 'message' END,
			CASE WHEN trace_id IS NOT NULL THEN 'trace_id' END, CASE WHEN attrs IS NOT NULL THEN 'attrs' END]) AS field
		FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10'
		UNION ALL
		SELECT CASE WHEN key IN ('level', 'attrs.x') THEN 'attrs.' ELSE '' END || key
		FROM (SELECT attrs FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND jsonb_typeof(attrs) = 'object' OFFSET 0) o,
			jsonb_object_keys(attrs) key) f
	WHERE field IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1$$, 'field_names: columns and keys, whatever attrs is');
SELECT is((SELECT count FROM logq.field_names('2024-03-30', '2024-04-10', level => 'ERROR') WHERE field = 'attrs.level'),
	(SELECT count(*) FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND level = 'ERROR' AND attrs ? 'level' AND jsonb_typeof(attrs) = 'object'),
	'field_names with a condition');
SELECT is_empty($$SELECT * FROM logq.field_names('2020-01-01', '2020-01-02')$$, 'field_names: no rows, no fields');
-- every name that it gives is one that the others take
SELECT results_eq(
	format('SELECT * FROM logq.field_values(%L, %L, %L, max_values => NULL)', f.field, '2024-03-30', '2024-04-10'),
	format('SELECT value, count(*) FROM (SELECT (%s)::text AS value FROM copied WHERE ts >= %L AND ts < %L) c
		WHERE value IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1',
		CASE WHEN f.field IN ('ts', 'level', 'service', 'message', 'trace_id', 'attrs', 'id', 'partition') THEN f.field
			ELSE format('attrs ->> %L', regexp_replace(f.field, '^attrs\.', '')) END, '2024-03-30', '2024-04-10'),
	'field_values of ' || f.field)
FROM logq.field_names('2024-03-30', '2024-04-10') f ORDER BY f.field;
SELECT results_eq($$SELECT * FROM logq.field_values('user', '2024-03-30', '2024-04-10', 3, level => 'INFO')$$,
	$$SELECT attrs ->> 'user', count(*) FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND level = 'INFO'
		AND attrs ->> 'user' IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3$$, 'field_values: the first ones, with a condition');
SELECT is_empty($$SELECT * FROM logq.field_values(NULL, '2024-03-30', '2024-04-10')$$, 'field_values of NULL');
SELECT is_empty($$SELECT * FROM logq.field_values('nowhere', '2024-03-30', '2024-04-10')$$, 'field_values of what no row has');
SELECT is_empty($$SELECT * FROM logq.field_values('level', '2024-03-30', '2024-04-10', 0)$$, 'field_values: none, if none are wanted');
SELECT throws_ok($$SELECT * FROM logq.field_values('level', max_values => -1)$$, '2201W', NULL, 'field_values: less than none');

-- ---- facets ------------------------------------------------------------------

CREATE FUNCTION pg_temp.facet(field text, expr text, n integer) RETURNS text LANGUAGE sql AS $$
	SELECT format('(SELECT %L, %s, count(*) FROM copied WHERE ts >= ''2024-03-30'' AND ts < ''2024-04-10'' AND %2$s IS NOT NULL
		GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT %s)', field, expr, n)
$$;
SELECT results_eq($$SELECT * FROM logq.facets('2024-03-30', '2024-04-10', 2, '{status,NULL,attrs.level,user,status,nowhere}')$$,
	concat_ws(' UNION ALL ', pg_temp.facet('service', 'service', 2), pg_temp.facet('level', 'level', 2),
		pg_temp.facet('status', $$(attrs ->> 'status')$$, 2), pg_temp.facet('attrs.level', $$(attrs ->> 'level')$$, 2),
		pg_temp.facet('user', $$(attrs ->> 'user')$$, 2)), 'facets of given keys');
SELECT results_eq($$SELECT * FROM logq.facets('2024-03-30', '2024-04-10')$$,
	concat_ws(' UNION ALL ', pg_temp.facet('service', 'service', 10), pg_temp.facet('level', 'level', 10),
		pg_temp.facet('status', $$(attrs ->> 'status')$$, 10), pg_temp.facet('a b"c', $$(attrs ->> 'a b"c')$$, 10),
		pg_temp.facet('deep', $$(attrs ->> 'deep')$$, 10),
		pg_temp.facet('user', $$(attrs ->> 'user')$$, 10),
		pg_temp.facet('', $$(attrs ->> '')$$, 10), pg_temp.facet('attrs.attrs.x', $$(attrs ->> 'attrs.x')$$, 10),
		pg_temp.facet('attrs.level', $$(attrs ->> 'level')$$, 10)), 'facets of the keys that most rows have');
SELECT results_eq($$SELECT field, count(*) FROM logq.facets('2024-03-30', '2024-04-10', NULL, '{}') GROUP BY 1 ORDER BY 1$$,
	$$VALUES ('level', 3::bigint), ('service', 3)$$, 'facets: no keys, all values');
SELECT results_eq($$SELECT value, count FROM logq.facets('2024-03-30', '2024-04-10', 5, '{status}', level => 'ERROR', pattern => '1') WHERE field = 'status'$$,
	$$SELECT attrs ->> 'status', count(*) FROM copied WHERE ts >= '2024-03-30' AND ts < '2024-04-10' AND level = 'ERROR' AND message ~ '1'
		AND attrs ->> 'status' IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1$$, 'facets with conditions');
SELECT throws_ok('SELECT * FROM logq.facets(max_values => -1)', '2201W', NULL, 'facets: less than none');
-- what has a value of its own in each row is no facet, unless somebody asks for it
INSERT INTO logq.logs (ts, service, attrs)
	SELECT timestamptz '2020-06-01' + g * interval '1 second', 'tap-many', jsonb_build_object('request', g, 'half', least(g, 1000))
	FROM generate_series(1, 1001) g;
SELECT set_eq($$SELECT DISTINCT field FROM logq.facets('2020-06-01', '2020-06-02')$$, ARRAY['service', 'half'],
	'facets: not of more than a thousand values');
SELECT is((SELECT count(*) FROM logq.facets('2020-06-01', '2020-06-02', NULL, '{request}') WHERE field = 'request'), 1001::bigint,
	'facets: unless they are given');

-- ---- context -----------------------------------------------------------------

CREATE FUNCTION pg_temp.around(line bigint, before bigint, after bigint) RETURNS SETOF copied LANGUAGE sql AS $$
	SELECT * FROM (
		(SELECT c.* FROM copied c JOIN copied o ON o.id = line AND (c.ts, c.id) < (o.ts, o.id)
			AND c.service IS NOT DISTINCT FROM o.service ORDER BY c.ts DESC, c.id DESC LIMIT before)
		UNION ALL SELECT * FROM copied WHERE id = line
		UNION ALL (SELECT c.* FROM copied c JOIN copied o ON o.id = line AND (c.ts, c.id) > (o.ts, o.id)
			AND c.service IS NOT DISTINCT FROM o.service ORDER BY c.ts, c.id LIMIT after)) x ORDER BY ts, id
$$;
SELECT results_eq(format('SELECT * FROM logq.context(%s, %s, %s)', id, n, m), format('SELECT * FROM pg_temp.around(%s, %s, %s)', id, n, m),
	format('context: %s before and %s after a row of %s', n, m, service))
FROM (SELECT DISTINCT ON (service) * FROM copied WHERE ts > '2024-10-27' AND (message IS NULL OR message LIKE '%7' OR service = 'tap-same')
		ORDER BY service, ts, id DESC) s,
	(VALUES (10, 10), (0, 3), (25, 0)) AS n(n, m);
SELECT is((SELECT array_agg(message ORDER BY ts, id) FROM logq.context((SELECT id FROM copied WHERE message = 'same 10'), NULL, NULL)
		WHERE ts > '2024-01-01'),
	(SELECT array_agg(message ORDER BY id) FROM copied WHERE service = 'tap-same'), 'context: all of a service');
SELECT is_empty('SELECT * FROM logq.context(NULL)', 'context of no row');
SELECT is_empty('SELECT * FROM logq.context(17592186044416 * 300000 + 5)', 'context of a row of no partition');
SELECT throws_ok(format('SELECT * FROM logq.context(%s, -1)', (SELECT max(id) FROM copied)), '2201W', NULL, 'context: less than none');

-- ---- tail --------------------------------------------------------------------

-- follows from a cursor, a few rows at a time, as far as a time
CREATE FUNCTION pg_temp.follow(start text, until timestamptz, n bigint, only_service text) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
	seen	bigint[] := '{}';
	place	text := start;
	r		record;
	got		bigint;
BEGIN
	LOOP
		got := 0;
		FOR r IN SELECT * FROM logq.tail(place, n, service => only_service) LOOP
			IF r.ts >= until THEN
				RETURN seen;
			END IF;
			seen := seen || r.id;
			place := r.cursor;
			got := got + 1;
		END LOOP;
		IF got = 0 THEN
			RETURN seen;
		END IF;
	END LOOP;
END $$;
SELECT is(pg_temp.follow('2024-10-26T20:00:00 UTC', '2024-10-28', n, NULL),
	(SELECT array_agg(id ORDER BY ts, id) FROM copied WHERE ts >= '2024-10-26 20:00' AND ts < '2024-10-28'),
	format('tail: no row twice and none missing, %s at a time', n)) FROM unnest(ARRAY[2, 7, 1000]) n;
SELECT is(pg_temp.follow('2024-10-27T01:00:00 UTC/0', '2024-10-28', 3, 'tap-same'),
	(SELECT array_agg(id ORDER BY ts, id) FROM copied WHERE service = 'tap-same'), 'tail: rows of the same time');
SELECT is((SELECT array_agg(id ORDER BY ts, id) FROM logq.tail(
		(SELECT cursor FROM logq.tail('2024-10-27T01:00:00 UTC', 5, service => 'tap-same') ORDER BY ts DESC, id DESC LIMIT 1), NULL, service => 'tap-same')),
	(SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM copied WHERE service = 'tap-same' ORDER BY id OFFSET 5) x),
	'tail: after a cursor');
SET LOCAL timezone = 'Asia/Kathmandu';
SET LOCAL datestyle = 'SQL, DMY';
SELECT results_eq($$SELECT cursor FROM logq.tail('2024-03-30T20:00:00 UTC', 2)$$,
	$$SELECT c || id FROM (VALUES ('2024-03-30T20:00:00 UTC/', timestamptz '2024-03-30 20:00+00'),
		('2024-03-30T20:02:33.000007 UTC/', '2024-03-30 20:02:33.000007+00')) AS v(c, ts) JOIN copied USING (ts) ORDER BY ts$$,
	'tail: cursors do not depend on settings');
SET LOCAL timezone = 'UTC';
RESET datestyle;
INSERT INTO logq.logs (ts, level, service, message)
	SELECT clock_timestamp() - interval '20 minutes' + g * interval '1 second', 'INFO', 'tap-tail', 'old ' || g FROM generate_series(1, 30) g;
INSERT INTO logq.logs (ts, level, service, message)
	VALUES (clock_timestamp() - interval '2 hours', 'INFO', 'tap-tail', 'too old'),
		(clock_timestamp() - interval '100 milliseconds', 'INFO', 'tap-tail', 'new'), (clock_timestamp() + interval '1 hour', 'INFO', 'tap-tail', 'future');
SELECT is((SELECT string_agg(message, ',' ORDER BY ts, id) FROM logq.tail(service => 'tap-tail', settle => '1 minute')),
	'old 21,old 22,old 23,old 24,old 25,old 26,old 27,old 28,old 29,old 30', 'tail: the last rows, without a cursor');
SELECT is((SELECT string_agg(message, ',' ORDER BY ts, id) FROM logq.tail('', service => 'tap-tail', last_rows => 2, settle => '1 minute')),
	'old 29,old 30', 'tail: as many as are wanted, an empty cursor is none');
SELECT is((SELECT string_agg(message, ',' ORDER BY ts, id) FROM logq.tail(service => 'tap-tail', last_rows => 2, settle => '0')),
	'old 30,new', 'tail: rows that have not settled');
SELECT is((SELECT string_agg(message, ',' ORDER BY ts, id) FROM logq.tail(service => 'tap-tail', last_rows => 2, settle => NULL)),
	'new,future', 'tail: and even those of the future');
SELECT is((SELECT count(*) FROM logq.tail(service => 'tap-tail', last_rows => NULL, settle => '1 minute')), 30::bigint,
	'tail: all of the last hour');
SELECT is((SELECT string_agg(message, ',' ORDER BY ts, id) FROM logq.tail(to_jsonb(now() - interval '3 hours') #>> '{}', 1, service => 'tap-tail')),
	'too old', 'tail: from a time');
SELECT throws_ok($$SELECT * FROM logq.tail('yesterday evening')$$, '22007', NULL, 'tail: what is no cursor');
SELECT throws_ok($$SELECT * FROM logq.tail('2024-03-30/x')$$, '22P02', NULL, 'tail: nor this');
-- as psql's \watch does
SELECT is((SELECT string_agg(left(set_config('tail.cursor', cursor, false), 0) || message, ',')
		FROM logq.tail(current_setting('tail.cursor', true), service => 'tap-tail', settle => '1 minute', last_rows => 2)),
	'old 29,old 30', 'tail: a setting keeps the cursor');
SELECT is_empty($$SELECT message FROM logq.tail(current_setting('tail.cursor'), service => 'tap-tail', settle => '1 minute')$$,
	'tail: and is where the next one goes on');

-- ---- Grafana -------------------------------------------------------------------

SELECT columns_are('logq', 'grafana_logs', ARRAY['time', 'message', 'level', 'id', 'service', 'trace_id', 'partition', 'attrs']);
SELECT results_eq(
	$$SELECT (attname || ' ' || atttypid::regtype) COLLATE "default" FROM pg_attribute WHERE attrelid = 'logq.grafana_logs'::regclass AND attnum > 0 ORDER BY attnum LIMIT 4$$,
	ARRAY['time timestamp with time zone', 'message text', 'level text', 'id text'], 'the first time is the row''s, the first text the message');
SELECT results_eq($$SELECT * FROM logq.grafana_logs WHERE "time" BETWEEN '2024-10-26T00:00:00Z' AND '2024-10-27T01:00:00Z' ORDER BY "time", id$$,
	$$SELECT ts, message, level, id::text, service, trace_id, partition, attrs FROM copied
		WHERE ts BETWEEN '2024-10-26 00:00+00' AND '2024-10-27 01:00+00' ORDER BY ts, id::text$$, 'grafana_logs');
SELECT results_eq($$SELECT time, timeend, text, tags FROM logq.grafana_annotations WHERE level = 'ERROR' AND service = 'tap-b'
		AND "time" BETWEEN '2024-10-26T00:00:00Z' AND '2024-10-27T01:00:00Z' ORDER BY 1$$,
	$$SELECT ts, NULL::timestamptz, message, 'ERROR,tap-b' FROM copied WHERE level = 'ERROR' AND service = 'tap-b'
		AND ts BETWEEN '2024-10-26 00:00+00' AND '2024-10-27 01:00+00' ORDER BY ts$$, 'grafana_annotations');
SELECT is_empty('SELECT * FROM logq.grafana_missing', 'grafana_missing: nothing is');
SELECT set_eq('SELECT attname, atttypid FROM pg_attribute WHERE attrelid = ''logq.grafana_missing''::regclass AND attnum > 0',
	'SELECT attname, atttypid FROM pg_attribute WHERE attrelid = ''logq.grafana_logs''::regclass AND attnum > 0', 'it has the columns of the other');

-- ---- rights --------------------------------------------------------------------

CREATE ROLE tap_reader;
GRANT USAGE ON SCHEMA logq TO tap_reader;
DO $$
DECLARE m record;
BEGIN
	FOR m IN SELECT srvname, (SELECT string_agg(format('%s %L', option_name, option_value), ', ') FROM pg_options_to_table(umoptions)) AS options
		FROM pg_user_mappings WHERE usename = current_user AND srvname IN (SELECT server FROM logq.partition)
	LOOP
		EXECUTE format('CREATE USER MAPPING FOR tap_reader SERVER %I OPTIONS (%s)', m.srvname, m.options);
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.as_reader(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	SET LOCAL ROLE tap_reader;
	BEGIN
		EXECUTE format('SELECT count(*) FROM %s', query);
		result := 'works';
	EXCEPTION WHEN insufficient_privilege THEN
		result := 'denied';
	END;
	RESET ROLE;
	RETURN result;
END $$;
CREATE TEMP TABLE everything AS SELECT unnest(ARRAY['logq.matching()', 'logq.search()', $$logq.histogram('1 minute')$$,
	$$logq.histogram('1 day', '2024-01-01', '2024-02-01', 'user')$$, 'logq.facets()', $$logq.facets(keys => '{a}')$$, 'logq.field_names()',
	$$logq.field_values('level')$$, 'logq.context(17592186044417)', 'logq.tail()', $$logq.tail('2024-01-01')$$]) AS query;
SELECT is((SELECT string_agg(DISTINCT pg_temp.as_reader(query), ',') FROM everything), 'denied', 'without a right to the table');
GRANT SELECT ON logq.logs TO tap_reader;
SELECT is((SELECT string_agg(DISTINCT pg_temp.as_reader(query), ',') FROM everything), 'works', 'SELECT on the table is enough');
SELECT is(pg_temp.as_reader('logq.grafana_logs'), 'denied', 'the views need a right of their own');
GRANT SELECT ON logq.grafana_logs, logq.grafana_annotations, logq.grafana_missing TO tap_reader;
SELECT is(pg_temp.as_reader($$(SELECT 1 FROM logq.grafana_logs UNION ALL SELECT 1 FROM logq.grafana_annotations
	UNION ALL SELECT 1 FROM logq.grafana_missing) x$$), 'works', 'and then read as who asks');
REVOKE SELECT ON logq.logs FROM tap_reader;
SELECT is(pg_temp.as_reader('logq.grafana_logs'), 'denied', 'who may not read the table may not read it through them');

SELECT * FROM finish();
ROLLBACK;
