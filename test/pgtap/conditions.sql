-- Conditions that protect others from being computed, constants that a time does
-- not fit, and deeply nested conditions: compared with a plain table.
BEGIN;
SELECT plan(92);

SET LOCAL timezone = 'UTC';
SET LOCAL jit = off;
SET LOCAL logq.catalog_max_age = '1d';
SET LOCAL logq.cache = off;

INSERT INTO logq.logs (ts, level, service, message)
	SELECT timestamptz '2027-05-01 10:00+00' + g * interval '47 seconds',
		CASE g % 3 WHEN 0 THEN 'INFO' WHEN 1 THEN 'WARN' ELSE 'ERROR' END, 'tap-' || g % 2, 'conditions ' || g
	FROM generate_series(0, 200) g;
CREATE TEMP TABLE copied AS SELECT * FROM logq.logs WHERE ts >= '2027-05-01' AND ts < '2027-05-02';
CREATE TEMP VIEW logs AS SELECT * FROM logq.logs WHERE ts >= '2027-05-01' AND ts < '2027-05-02';
CREATE TEMP TABLE dim (k bigint, name text);
INSERT INTO dim VALUES (5, 'five'), (6, 'six'), (7, NULL);
SELECT is((SELECT count(*) FROM copied), 201::bigint, 'all rows are there');

-- What a query says of the logs and of the copy; parameters are values as SQL
CREATE FUNCTION pg_temp.both(query text, types text DEFAULT NULL, params text DEFAULT NULL)
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	tab		text;
	answer	text[];
	one		text;
	mode	text;
BEGIN
	FOREACH mode IN ARRAY CASE WHEN types IS NULL THEN '{auto}'::text[] ELSE '{force_generic_plan,force_custom_plan}' END LOOP
		answer := NULL;
		PERFORM set_config('plan_cache_mode', mode, true);
		FOREACH tab IN ARRAY ARRAY['copied', 'logs'] LOOP
			BEGIN
				IF types IS NULL THEN
					EXECUTE replace(query, '@', tab) INTO one;
				ELSE
					EXECUTE format('PREPARE it(%s) AS %s', types, replace(query, '@', tab));
					EXECUTE format('EXECUTE it(%s)', params) INTO one;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				one := SQLSTATE || ' ' || SQLERRM;
			END;
			IF types IS NOT NULL THEN
				DEALLOCATE ALL;
			END IF;
			answer := answer || one;
		END LOOP;
		RETURN NEXT is(answer[2], answer[1], left(query, 200) || coalesce(', ' || params || ', ' || mode, ''));
	END LOOP;
END $$;

-- ---------- CASE and sub-selects ----------

SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE CASE WHEN level = 'nope' THEN id = (SELECT 1 / (k - k) FROM dim LIMIT 1) ELSE false END$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE CASE WHEN level = 'nope' THEN ts < (SELECT ts FROM copied) END$$);
SELECT pg_temp.both($$SELECT count(CASE WHEN level = 'nope' THEN id + (SELECT 1 / (k - k) FROM dim LIMIT 1) END) FROM @$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE coalesce(level, (SELECT name FROM dim)) = 'INFO'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE CASE WHEN level = 'INFO' THEN id > (SELECT min(k) FROM dim) ELSE false END$$);
SELECT pg_temp.both($$SELECT string_agg(k || ':' || (SELECT count(*) FROM @ t WHERE CASE WHEN t.level = 'nope' THEN t.id = 1 / (d.k - d.k) ELSE true END), ' ' ORDER BY k) FROM dim d$$);

-- ---------- arms that are known ahead of others ----------

SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = '' OR ts >= $1::timestamptz$$, 'text', $$''$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = '' OR ts >= $1::timestamptz$$, 'text', $$'2027-05-01 11:00+00'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = '' OR ts >= $1::timestamptz$$, 'text', $$NULL$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 0 OR id % 100 = 10 / $1$$, 'bigint', '0');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 0 OR id % 100 = 10 / $1$$, 'bigint', '2');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 !~ '^\d+$' OR id % 100 = $1::int$$, 'text', $$'abc'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 !~ '^\d+$' OR id % 100 = $1::int$$, 'text', $$'7'$$);
-- AND within OR, in both places, and one in the other
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE level = 'INFO' OR ($1 <> 0 AND id % 100 = 10 / $1)$$, 'bigint', '0');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE level = 'INFO' OR ($1 <> 0 AND id % 100 = 10 / $1)$$, 'bigint', '3');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE level = 'INFO' OR ($1 <> 0 AND id % 100 = 10 / $1)$$, 'bigint', 'NULL');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 0 OR (service = 'tap-1' AND ($2 = '' OR ts < $2::timestamptz) AND id % 100 > 10 / $1)$$, 'bigint, text', $$0, 'x'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 0 OR (service = 'tap-1' AND ($2 = '' OR ts < $2::timestamptz) AND id % 100 > 10 / $1)$$, 'bigint, text', $$2, ''$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 0 OR (service = 'tap-1' AND ($2 = '' OR ts < $2::timestamptz) AND id % 100 > 10 / $1)$$, 'bigint, text', $$2, '2027-05-01 11:30+00'$$);
-- arms that decide, one behind the other
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = '' OR $1::int > 3 OR id % 100 = $1::int$$, 'text', $$''$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = '' OR $1::int > 3 OR id % 100 = $1::int$$, 'text', $$'2'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE level = 'INFO' OR ($1 <> 0 AND 10 / $1 > 2 AND id % 100 = 10 / $1)$$, 'bigint', '0');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE level = 'INFO' OR ($1 <> 0 AND 10 / $1 > 2 AND id % 100 = 10 / $1)$$, 'bigint', '3');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 0 OR $1 = ANY (ARRAY[10 / $1, 3]) OR level = 'INFO'$$, 'bigint', '0');
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 ~ '^\d+$' AND $1::int > 3 AND level = 'INFO' OR level = 'WARN'$$, 'text', $$'abc'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 !~ '^\d+$' OR level = 'INFO' OR $1::int > 3$$, 'text', $$'abc'$$);
-- in places that are not those of a condition
SELECT pg_temp.both(replace($$SELECT count(*) FROM @ WHERE $$ || place, 'X', $$($1 = '' OR ts >= $1::timestamptz)$$), 'text', $$''$$)
	FROM unnest('{X IS TRUE,X IS NOT FALSE,X = (id > 0),"coalesce(X, false)","CASE WHEN X THEN level = ''INFO'' END"}'::text[]) place;
SELECT pg_temp.both(format($$SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT concat_ws(':', %s) FROM @ GROUP BY level) x(x)$$,
		replace(place, 'X', $$($1 = '' OR ts >= $1::timestamptz)$$)), 'text', value)
	FROM unnest('{"level, count(*) FILTER (WHERE X)","level, sum(CASE WHEN X THEN 1 ELSE 0 END)","level, bool_and(X)"}'::text[]) place,
		unnest(ARRAY[$$''$$, $$'2027-05-01 11:30+00'$$]) value;
SELECT pg_temp.both($$SELECT string_agg(x || ':' || n, ' ' ORDER BY x) FROM (SELECT ($1 = 0 OR id % 2 = 10 / $1), count(*) FROM @ GROUP BY 1) x(x, n)$$, 'bigint', '0');
-- it fails where nothing protects it
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE $1 = 1 OR id % 100 = 10 / $1$$, 'bigint', '0');
-- sub-selects and outer rows
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE (SELECT count(*) FROM dim) = 3 OR id = (SELECT k FROM dim)$$);
SELECT pg_temp.both($$SELECT string_agg(k || ':' || (SELECT count(*) FROM @ t WHERE d.name = 'five' OR t.id % 100 = 10 / (d.k - 5)), ' ' ORDER BY k) FROM dim d WHERE k < 7$$);
SELECT pg_temp.both($$SELECT string_agg(d.k || ':' || t.n, ' ' ORDER BY d.k) FROM dim d, LATERAL (SELECT count(*) AS n FROM @ t WHERE d.name IS NULL OR t.id % 10 = d.k % length(d.name)) t$$);

-- ---------- times that do not fit ----------

SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE ts < date '5874897-12-31'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE ts > date '4714-11-24 BC'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE ts <> date 'infinity' AND date '-infinity' < ts$$);
SET LOCAL timezone = 'America/New_York';
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE ts < timestamp '294276-12-31 23:59:59'$$);
SET LOCAL timezone = 'Asia/Tokyo';
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE ts > timestamp '4714-11-24 00:00:00 BC'$$);
SELECT pg_temp.both($$SELECT count(*) FROM @ WHERE ts >= timestamp '2027-05-01 20:00' AND ts < date '2027-05-02'$$);
SET LOCAL timezone = 'UTC';

-- ---------- deep ones ----------

CREATE FUNCTION pg_temp.nested(depth integer) RETURNS text LANGUAGE sql AS $$
	WITH RECURSIVE n(i, s) AS (
		SELECT 0, 'level = ''INFO'''
		UNION ALL
		SELECT i + 1, '(' || s || CASE WHEN i % 2 = 0 THEN ' AND ' ELSE ' OR ' END || 'id % ' || i + 2 || ' = 0)' FROM n WHERE i < depth)
	SELECT s FROM n WHERE i = depth
$$;
CREATE FUNCTION pg_temp.nested_case(depth integer) RETURNS text LANGUAGE sql AS $$
	WITH RECURSIVE n(i, s) AS (
		SELECT 0, 'level'
		UNION ALL
		SELECT i + 1, '(CASE ' || s || ' WHEN ''INFO'' THEN ''WARN'' WHEN ''WARN'' THEN ''ERROR'' ELSE ''INFO'' END)' FROM n WHERE i < depth)
	SELECT s FROM n WHERE i = depth
$$;
SET LOCAL statement_timeout = '30s';
SELECT pg_temp.both('SELECT count(*) FROM @ WHERE ' || pg_temp.nested(depth)) FROM unnest('{3,20,60}'::int[]) depth;
SELECT pg_temp.both('SELECT count(*) FROM @ WHERE ' || pg_temp.nested_case(depth) || ' = ''INFO''') FROM unnest('{1,2,3,16}'::int[]) depth;
RESET statement_timeout;

CREATE FUNCTION pg_temp.nested_guards(depth integer) RETURNS text LANGUAGE sql AS $$
	WITH RECURSIVE n(i, s) AS (
		SELECT 0, 'id % 100 = 10 / $1'
		UNION ALL
		SELECT i + 1, format('($1 = %s OR ($1 <> %s AND (%s OR id %% 100 = 10 / $1)))', i + 100, i + 1000, s) FROM n WHERE i < depth)
	SELECT s FROM n WHERE i = depth
$$;
SET LOCAL statement_timeout = '30s';
SELECT pg_temp.both('SELECT count(*) FROM @ WHERE ' || pg_temp.nested_guards(40), 'bigint', '7');
RESET statement_timeout;

-- the idiom is still sent
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS
	$$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF, ANALYZE, TIMING OFF) ' || query; END $$;
SET LOCAL plan_cache_mode = force_generic_plan;
PREPARE it(text) AS SELECT count(*) FROM logq.logs WHERE $1 = '' OR ts >= $1::timestamptz;
SELECT ok(NOT EXISTS (SELECT FROM pg_temp.plan_of('EXECUTE it(''2027-05-01 11:00+00'')') line WHERE line ~ 'Filter:')
	AND EXISTS (SELECT FROM pg_temp.plan_of('EXECUTE it(''2027-05-01 11:00+00'')') line WHERE line ~ 'Remote SQL: .* OR '),
	'a guarded condition is sent');

SELECT * FROM finish();
ROLLBACK;
