-- Equal questions in different words share what is cached, different ones do not
\set QUIET 1
SET timezone = 'UTC';
SET logq.catalog_max_age = '1d';
SET logq.cache_min_cost = 0;
SET plan_cache_mode = force_generic_plan;
-- an hour, sealed
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '2031-02-01' + i * interval '9 s', (ARRAY['A', 'B', 'C', 'a', NULL])[1 + i % 5],
		(ARRAY['x', 'y', NULL])[1 + i / 5 % 3], format('message %s', i % 7), 't' || i % 11,
		CASE WHEN i % 4 > 0 THEN jsonb_build_object('n', i % 9, 'k', 'v' || i % 3) END
	FROM generate_series(0, 399) i;
CREATE TEMP TABLE sealed AS SELECT * FROM logq.seal(before => '2031-02-01 01:00');
CREATE TEMP TABLE refreshed AS SELECT logq.refresh_catalog();

-- what a condition stands for
CREATE FUNCTION pg_temp.query(condition text) RETURNS text LANGUAGE sql AS
	$$SELECT 'SELECT count(message), sum(id) FROM logq.logs WHERE '
		|| CASE WHEN condition ~ '\mts\M' THEN '' ELSE 'ts >= ''2031-02-01'' AND ts < ''2031-02-01 01:00'' AND ' END || '(' || condition || ')'$$;
CREATE FUNCTION pg_temp.ask(query text, OUT answer text, OUT cached bool) LANGUAGE plpgsql AS $$
BEGIN
	IF query ~ '^EXECUTE ' THEN
		EXECUTE query INTO answer;
	ELSE
		EXECUTE format('SELECT q::text FROM (%s) q', query) INTO answer;
	END IF;
	SELECT q.cached > 0 INTO cached FROM logq.last_query() q;
END $$;
-- is the second one answered by what the first one has brought, and as if there were no cache?
CREATE FUNCTION pg_temp.shared(first text, second text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE a record; b record; again record; off record;
BEGIN
	PERFORM logq.cache_clear();
	a := pg_temp.ask(first);
	b := pg_temp.ask(second);
	again := pg_temp.ask(second);
	SET LOCAL logq.cache = off;
	off := pg_temp.ask(second);
	RESET logq.cache;
	IF a.cached THEN
		RETURN 'the first one was not asked';
	ELSIF off.cached OR b.answer IS DISTINCT FROM off.answer OR again.answer IS DISTINCT FROM off.answer THEN
		RETURN format('wrong: %s, %s, %s', b.answer, again.answer, off.answer);
	ELSIF NOT again.cached THEN
		RETURN 'is not cached';
	END IF;
	RETURN CASE WHEN b.cached THEN 'shared' ELSE 'asked' END;
END $$;
CREATE FUNCTION pg_temp.same(first text, second text) RETURNS text LANGUAGE sql AS
	$$SELECT is(pg_temp.shared(pg_temp.query(first), pg_temp.query(second)), 'shared', format('%s is %s', first, second))$$;
CREATE FUNCTION pg_temp.other(first text, second text) RETURNS text LANGUAGE sql AS
	$$SELECT is(pg_temp.shared(pg_temp.query(first), pg_temp.query(second)), 'asked', format('%s is not %s', first, second))$$;

SELECT plan(104);

-- ---- in other words ----
SELECT pg_temp.same($$level = 'A' AND service = 'x'$$, $$service = 'x' AND level = 'A'$$);
SELECT pg_temp.same($$level = 'A' AND (service = 'x' OR message LIKE '%1')$$, $$('x' = service OR message LIKE '%1') AND 'A' = level$$);
SELECT pg_temp.same($$level = 'A' AND level = 'A'$$, $$level = 'A'$$);
SELECT pg_temp.same($$(level = 'A' OR service = 'x') AND (service = 'x' OR level = 'A')$$, $$level = 'A' OR service = 'x'$$);
SELECT pg_temp.same($$(level = 'A' OR service = 'x') OR message LIKE '%1'$$, $$level = 'A' OR (service = 'x' OR message LIKE '%1')$$);
SELECT pg_temp.same($$NOT (attrs ? 'n' OR level = 'A')$$, $$level <> 'A' AND NOT attrs ? 'n'$$);
-- lists
SELECT pg_temp.same($$level IN ('A', 'B')$$, $$level IN ('B', 'A', 'A')$$);
SELECT pg_temp.same($$level IN ('A', 'B')$$, $$level = 'B' OR level = 'A'$$);
SELECT pg_temp.same($$level IN ('A', 'B')$$, $$level = ANY ('{B,A}')$$);
SELECT pg_temp.same($$level IN ('A', 'B')$$, $$'A' = level OR level = ANY ('{B,NULL}')$$);
SELECT pg_temp.same($$level IN ('A', 'B')$$, $$level IN ('A', 'B', NULL)$$);
SELECT pg_temp.same($$level = 'A'$$, $$level IN ('A', 'A')$$);
SELECT pg_temp.same($$level = 'A'$$, $$level = ALL ('{A}')$$);
SELECT pg_temp.same($$level = 'A'$$, $$level = ANY ('{NULL,A}')$$);
SELECT pg_temp.same($$level = 'A' OR service IN ('x', 'y')$$, $$service = 'y' OR level = 'A' OR service = 'x'$$);
SELECT pg_temp.same($$level NOT IN ('A', 'B')$$, $$level <> 'B' AND level <> 'A'$$);
SELECT pg_temp.same($$level NOT IN ('A', 'B')$$, $$NOT (level = 'A' OR 'B' = level)$$);
SELECT pg_temp.same($$message LIKE '%1' OR message LIKE '%2'$$, $$message LIKE ANY ('{%2,%1}')$$);
SELECT pg_temp.same($$(attrs ->> 'n')::int IN (1, 2, 3)$$, $$(attrs ->> 'n')::int IN (3, 1, 2, 2)$$);
SELECT pg_temp.same($$(attrs ->> 'n')::numeric IN (1, 2.5)$$, $$(attrs ->> 'n')::numeric = 2.5 OR 1 = (attrs ->> 'n')::numeric$$);
SELECT pg_temp.same($$attrs @> '{"n": 1}' AND attrs @> '{"k": "v1"}'$$, $$attrs @> '{"k":"v1"}' AND attrs @> '{"n":1}'$$);
SELECT pg_temp.same($$attrs @> '{"n": 1, "k": "v1"}'$$, $$attrs @> '{"k": "v1", "n": 1}'$$);
-- bounds
SELECT pg_temp.same($$(attrs ->> 'n')::int BETWEEN 2 AND 5$$, $$5 >= (attrs ->> 'n')::int AND (attrs ->> 'n')::int >= 2$$);
SELECT pg_temp.same($$(attrs ->> 'n')::int > 5$$, $$(attrs ->> 'n')::int > 3 AND (attrs ->> 'n')::int > 5 AND (attrs ->> 'n')::int >= 5$$);
SELECT pg_temp.same($$(attrs ->> 'n')::int <= 3$$, $$(attrs ->> 'n')::int < 4 AND (attrs ->> 'n')::int <= 3$$);
SELECT pg_temp.same($$(attrs ->> 'n')::int <= 3$$, $$(attrs ->> 'n')::int <= ALL ('{7,3,4}')$$);
SELECT pg_temp.same($$(attrs ->> 'n')::int > 3$$, $$(attrs ->> 'n')::int > 5 OR (attrs ->> 'n')::int > 3$$);
SELECT pg_temp.same($$(attrs ->> 'n')::float8 > 3$$, $$(attrs ->> 'n')::float8 > ANY ('{5,3,NaN}')$$);
SELECT pg_temp.same($$level > 'B' COLLATE "C"$$, $$level > 'A' COLLATE "C" AND level > 'B' COLLATE "C" AND level >= 'B' COLLATE "C"$$);
-- times and ids
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00'$$, $$ts BETWEEN '2031-02-01' AND '2031-02-01 00:59:59.999999'$$);
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00'$$, $$ts > '2031-01-31 23:59:59.999999' AND ts < '2031-02-01 01:00'$$);
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00'$$, $$ts > '2031-01-31' AND ts < '2031-02-01 01:00' AND ts < '2031-02-02' AND ts > '-infinity'$$);
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 00:30'$$, $$'2031-02-01 00:30' > ts AND ts >= '2031-01-31 12:00'$$);
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00' AND ts <= '2031-02-01 00:30'$$, $$ts BETWEEN '2031-01-31' AND '2031-02-01 00:30'$$);
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00'$$, $$ts >= date '2031-02-01' AND ts < timestamp '2031-02-01 01:00'$$);
SELECT pg_temp.same($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00' AND (ts < '2031-02-01 00:10' OR ts > '2031-02-01 00:20')$$,
	$$ts < '2031-02-01 01:00' AND ts >= '2031-01-31' AND ('2031-02-01 00:20' < ts OR ts < '2031-02-01 00:05' OR ts < '2031-02-01 00:10')$$);
SELECT pg_temp.same($$id > 0$$, $$id >= 7 AND 3 < id$$);
SELECT pg_temp.same($$level = 'A'$$, $$level = 'A' AND id > 0$$);
-- what is the same for all rows
SELECT pg_temp.same($$level = 'A'$$, $$level = 'A' AND (now() > '2020-01-01' OR service = 'x')$$);
SELECT pg_temp.same($$level = 'A'$$, $$level = 'A' OR (now() < '2020-01-01' AND service = 'x')$$);
SELECT pg_temp.same($$'A' IS DISTINCT FROM level$$, $$level IS DISTINCT FROM 'A'$$);

-- parameters, of plans that know no values
SELECT pg_temp.query($$($1 IS NULL OR level = $1) AND (service = ANY ($2) OR $2 IS NULL) AND (attrs ->> 'n')::int > $3$$) AS query \gset
PREPARE conditions(text, text[], int) AS :query;
SELECT is(pg_temp.shared($$EXECUTE conditions('A', '{x,y}', 3)$$, pg_temp.query(
	$$service IN ('y', 'x') AND level = 'A' AND (attrs ->> 'n')::int > 3$$)), 'shared', 'parameters and constants');
SELECT is(pg_temp.shared(pg_temp.query($$(attrs ->> 'n')::int > 3$$), 'EXECUTE conditions(NULL, NULL, 3)'), 'shared', 'a parameter that asks for nothing');
SELECT is(pg_temp.shared('EXECUTE conditions(NULL, NULL, 3)', 'EXECUTE conditions(NULL, NULL, 4)'), 'asked', 'another parameter');
SELECT is(pg_temp.shared($$EXECUTE conditions('A', '{x,y}', 3)$$, $$EXECUTE conditions('A', '{y,x,x,NULL}', 3)$$), 'shared', 'another order');
SELECT is(pg_temp.shared($$EXECUTE conditions('A', '{x,y}', 3)$$, $$EXECUTE conditions('A', '{x}', 3)$$), 'asked', 'one less');
SELECT pg_temp.query($$attrs ->> $1 = $2 AND ts >= $3 - interval '1 day' AND ts < $3 + interval '1 hour'$$) AS query \gset
PREPARE attr(text, text, timestamptz) AS :query;
SELECT is(pg_temp.shared($$EXECUTE attr('k', 'v1', '2031-02-01')$$, pg_temp.query(
	$$ts >= '2031-02-01' AND ts < '2031-02-01 01:00' AND 'v1' = attrs ->> 'k'$$)), 'shared', 'parameters in expressions');
PREPARE search(text, text) AS SELECT count(message), max(id) FROM logq.search('2031-02-01', '2031-02-01 01:00', level => $1, service => $2);
SELECT is(pg_temp.shared($$EXECUTE search('A', 'x')$$,
	$$SELECT count(message), max(id) FROM logq.search('2031-02-01', '2031-02-01 01:00', service => 'x', level => 'A')$$), 'shared', 'search()');
SELECT is(pg_temp.shared($$EXECUTE search('A', NULL)$$,
	$$SELECT count(message), max(id) FROM logq.search('2031-02-01', '2031-02-01 01:00', level => 'A')$$), 'shared', 'search() with a NULL');

-- inner sides of nested loops: the values of each run
SELECT is(pg_temp.shared(pg_temp.query($$level = 'A'$$), $$SELECT sum(n), sum(s) FROM (VALUES ('A'), ('B'), ('A')) v(l),
	LATERAL (SELECT count(message) AS n, sum(id) AS s FROM logq.logs WHERE v.l = level AND ts >= '2031-02-01' AND ts < '2031-02-01 01:00') q$$),
	'shared', 'a nested loop');

-- ---- other questions ----
SELECT pg_temp.other($$level = 'A'$$, $$level = 'a'$$);
SELECT pg_temp.other($$level = 'A'$$, $$level <> 'A'$$);
SELECT pg_temp.other($$level = 'A'$$, $$level = 'A' OR level IS NULL$$);
SELECT pg_temp.other($$level = 'A'$$, $$level IS NOT DISTINCT FROM 'A' OR service IS NULL$$);
SELECT pg_temp.other($$level = 'A'$$, $$(level = 'A') IS NOT FALSE$$);
SELECT pg_temp.other($$(level = 'A') IS TRUE$$, $$(level = 'A') IS NOT FALSE$$);
SELECT pg_temp.other($$level <> 'A'$$, $$level IS DISTINCT FROM 'A'$$);
SELECT pg_temp.other($$level IS NULL$$, $$level IS NOT NULL$$);
SELECT pg_temp.other($$level = 'A' AND service = 'x'$$, $$level = 'A' OR service = 'x'$$);
SELECT pg_temp.other($$level = 'A' OR (service = 'x' AND message LIKE '%1')$$, $$(level = 'A' OR service = 'x') AND message LIKE '%1'$$);
SELECT pg_temp.other($$level IN ('A', 'B')$$, $$level IN ('A', 'B', 'C')$$);
SELECT pg_temp.other($$level IN ('A', 'B')$$, $$level NOT IN ('A', 'B')$$);
SELECT pg_temp.other($$level <> ANY ('{A,B}')$$, $$level <> ALL ('{A,B}')$$);
SELECT pg_temp.other($$level <> 'A' OR level <> 'B'$$, $$level <> 'A' AND level <> 'B'$$);
SELECT pg_temp.other($$level = 'A' OR service = 'x'$$, $$level = 'x' OR service = 'A' OR level = 'A'$$);
SELECT pg_temp.other($$message LIKE 'M%1'$$, $$message ILIKE 'M%1'$$);
SELECT pg_temp.other($$message LIKE '%1'$$, $$message NOT LIKE '%1'$$);
SELECT pg_temp.other($$message ~ 'E 1'$$, $$message ~* 'E 1'$$);
SELECT pg_temp.other($$message LIKE ANY ('{%1,%2}')$$, $$message LIKE ALL ('{%1,%2}')$$);
SELECT pg_temp.other($$message LIKE '_%1'$$, $$message LIKE '\_%1'$$);
-- lists that look alike
SELECT pg_temp.other($$message NOT LIKE ALL ('{%1,%2}')$$, $$message NOT LIKE ALL ('{"%1,%2"}')$$);
SELECT pg_temp.other($$message NOT LIKE ALL ('{%1,%2}')$$, $$message NOT LIKE ALL ('{"%12:%2"}')$$);
SELECT pg_temp.other($$message NOT LIKE ''' OR 1 = 1'$$, $$message NOT LIKE ' OR 1 = 1'$$);
SELECT pg_temp.other($$trace_id > 't1' COLLATE "C" AND message > 'm' COLLATE "C"$$, $$message > 't1' COLLATE "C" OR trace_id > 'm' COLLATE "C"$$);
-- NULL, where it is not the same as false
SELECT pg_temp.other($$NOT (attrs @> ANY ('{"{\"n\": 1}"}'::jsonb[]))$$, $$NOT (attrs @> ANY ('{"{\"n\": 1}", NULL}'::jsonb[]))$$);
SELECT pg_temp.other($$(level = 'A' OR service = 'x') IS NOT FALSE$$, $$(level = 'A' OR service = ANY ('{x,NULL}')) IS NOT FALSE$$);
-- bounds
SELECT pg_temp.other($$(attrs ->> 'n')::int < 5$$, $$(attrs ->> 'n')::int <= 5$$);
SELECT pg_temp.other($$(attrs ->> 'n')::int < 5$$, $$(attrs ->> 'n')::int > 5$$);
SELECT pg_temp.other($$(attrs ->> 'n')::int < 5$$, $$5 < (attrs ->> 'n')::int$$);
SELECT pg_temp.other($$(attrs ->> 'n')::int > 3 AND (attrs ->> 'n')::int < 5$$, $$(attrs ->> 'n')::int > 3 OR (attrs ->> 'n')::int < 5$$);
SELECT pg_temp.other($$(attrs ->> 'n')::int > ALL ('{3,5}')$$, $$(attrs ->> 'n')::int > ANY ('{3,5}')$$);
SELECT pg_temp.other($$(attrs ->> 'n')::int > 3 AND (attrs ->> 'n')::int >= 3$$, $$(attrs ->> 'n')::int > 3 OR (attrs ->> 'n')::int >= 3$$);
SELECT pg_temp.other($$ts >= '2031-02-01' AND ts < '2031-02-01 00:30'$$, $$ts >= '2031-02-01' AND ts <= '2031-02-01 00:30'$$);
SELECT pg_temp.other($$ts >= '2031-02-01' AND ts < '2031-02-01 00:30'$$, $$ts >= '2031-02-01' AND ts < '2031-02-01 00:29'$$);
SELECT pg_temp.other($$ts > '2031-02-01 00:30' AND ts < '2031-02-01 01:00'$$, $$ts >= '2031-02-01 00:30' AND ts < '2031-02-01 01:00'$$);
SELECT pg_temp.other($$ts >= '2031-02-01' AND ts < '2031-02-01 01:00' AND (ts < '2031-02-01 00:10' OR level = 'A')$$,
	$$ts >= '2031-02-01' AND ts < '2031-02-01 01:00' AND (ts <= '2031-02-01 00:10' OR level = 'A')$$);
SELECT format('id > %s', min(id)) AS beyond, format('id >= %s', min(id)) AS since
	FROM logq.logs WHERE ts >= '2031-02-01' AND ts < '2031-02-01 01:00' AND partition = 'p1' \gset
SELECT pg_temp.other(:'since' || $$ AND partition = 'p1'$$, :'beyond' || $$ AND partition = 'p1'$$);
-- types
SELECT pg_temp.other($$(attrs ->> 'n')::int = 5$$, $$(attrs ->> 'n')::bigint = 5$$);
SELECT pg_temp.other($$(attrs ->> 'n')::int = 5$$, $$(attrs ->> 'n')::int = bigint '5'$$);
SELECT pg_temp.other($$(attrs ->> 'n')::numeric > 5$$, $$(attrs ->> 'n')::float8 > 5$$);
SELECT pg_temp.other($$attrs ->> 'n' = '5'$$, $$attrs -> 'n' = '5'$$);
SELECT pg_temp.other($$level::varchar(1) = 'A'$$, $$level::varchar(2) = 'A'$$);
-- collations
SELECT pg_temp.other($$level < 'a'$$, $$level < 'a' COLLATE "C"$$);
SELECT pg_temp.other($$lower(level) = 'a'$$, $$lower(level COLLATE "C") = 'a'$$);
-- attributes
SELECT pg_temp.other($$attrs ->> 'n' = '1'$$, $$attrs ->> 'k' = '1' OR attrs ->> 'k' = 'v1'$$);
SELECT pg_temp.other($$attrs ? 'n'$$, $$attrs ? 'k'$$);
SELECT pg_temp.other($$attrs ?| '{n,k}'$$, $$attrs ?& '{n,k}'$$);
SELECT pg_temp.other($$attrs @> '{"n": 1}'$$, $$attrs <@ '{"n": 1}'$$);
SELECT pg_temp.other($$attrs @> '{"n": 1}'$$, $$attrs @> '{"n": 2}'$$);
SELECT pg_temp.other($$attrs @? '$.n ? (@ > 3)'$$, $$attrs @? '$.n ? (@ >= 3)'$$);
SELECT pg_temp.other($$attrs @? '$.n'$$, $$attrs @@ '$.n == 3'$$);
SELECT pg_temp.other($$attrs #>> '{n}' = '1'$$, $$attrs #>> '{k}' = 'v1'$$);
-- partitions have the same rows here only if they are the same partition
SELECT pg_temp.other($$(partition = 'p1' OR level = 'A')$$, $$(partition = 'p2' OR level = 'A')$$);
SELECT pg_temp.same($$(partition = 'p1' OR level = 'A')$$, $$(level = 'A' OR 'p1' = partition)$$);

SELECT * FROM finish();
