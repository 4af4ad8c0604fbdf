-- Comparisons of seconds since 1970 bound the time
SET timezone = 'UTC';
CREATE FUNCTION pg_temp.remote_sql(condition text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM logq.logs WHERE ' || condition LOOP
		IF line ~ 'Remote SQL|Filter' THEN
			line := regexp_replace(line, '''20[2-9]\d-[^'']*''::timestamp with time zone', '(time)', 'g');
			-- the side of a join's column differs between versions
			line := replace(line, '($1 = id)', '(id = $1)');
			RETURN NEXT regexp_replace(line, '^.*(WHERE|Filter:) ', '\1 ');
		END IF;
	END LOOP;
END $$;
-- as Grafana has it
SELECT pg_temp.remote_sql('extract(epoch from ts) >= 1523556000 AND extract(epoch from ts) <= 1523556300');
SELECT pg_temp.remote_sql('extract(epoch from ts) BETWEEN 1523556000 AND 1523556300');
SELECT pg_temp.remote_sql('extract(epoch from ts) * 1000000000 >= 1523556000000000001 AND extract(epoch from ts) * 1000000000 <= 1523556300000000001');
SELECT pg_temp.remote_sql('1000 * extract(epoch from ts) > 1523556000000.5');
SELECT pg_temp.remote_sql('id IN (SELECT id FROM (SELECT id, extract(epoch from ts) AS epoch FROM logq.logs) l WHERE epoch >= 1523556000 AND epoch <= 1523556300)');
-- all operators, both sides
SELECT op, t FROM unnest('{<,<=,=,<>,>=,>}'::text[]) op, pg_temp.remote_sql('extract(epoch from ts) ' || op || ' 1523556000') t;
SELECT op, t FROM unnest('{<,<=,=,<>,>=,>}'::text[]) op, pg_temp.remote_sql('1523556000.1234567 ' || op || ' extract(epoch from ts)') t;
-- beyond what a time can be
SELECT v, t FROM unnest('{1e30,-1e30,NaN,Infinity,-Infinity}'::text[]) v, pg_temp.remote_sql('extract(epoch from ts) < ''' || v || '''') t;
SELECT v, t FROM unnest('{1e30,-1e30,NaN,Infinity,-Infinity}'::text[]) v, pg_temp.remote_sql('extract(epoch from ts) >= ''' || v || '''') t;
-- date_part, a float8
SELECT op, t FROM unnest('{<,<=,=,<>,>=,>}'::text[]) op, pg_temp.remote_sql('date_part(''epoch'', ts) ' || op || ' 1523556000') t;
SELECT pg_temp.remote_sql('date_part(''epoch'', ts) * 1e9 <= 1523556000000000000');
-- several times are the same float8
SELECT pg_temp.remote_sql('date_part(''epoch'', ts) = 100000000000 OR date_part(''epoch'', ts) <> 100000000000');
-- values that are known when the scan starts
SELECT pg_temp.remote_sql('extract(epoch from ts) > extract(epoch from now()) - 3600');
SELECT pg_temp.remote_sql('extract(epoch from ts) >= extract(epoch from now()) - 3600');
SELECT pg_temp.remote_sql('NOT (level = ''x'' OR extract(epoch from ts) * 1000 < (SELECT 1523556000000))');
SET plan_cache_mode = force_generic_plan;
PREPARE from_to(bigint, numeric) AS SELECT id FROM logq.logs WHERE extract(epoch from ts) BETWEEN $1 AND $2;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE from_to(1523556000, 1523556300.5);
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE from_to(1523556000, NULL);
RESET plan_cache_mode;
-- what stays as it is
SELECT pg_temp.remote_sql('extract(epoch from ts) * -1 > 5');
SELECT pg_temp.remote_sql('extract(epoch from ts) * 0 < 5');
SELECT pg_temp.remote_sql('extract(epoch from ts) * id < 5');
SELECT pg_temp.remote_sql('extract(epoch from ts) * 1e101 < 5');
SELECT pg_temp.remote_sql('extract(epoch from ts) > id');
SELECT pg_temp.remote_sql('extract(minute from ts) > 5');
SELECT pg_temp.remote_sql('extract(epoch from ts AT TIME ZONE ''UTC'') > 5');
SELECT pg_temp.remote_sql('extract(epoch from ts) IN (5, 6)');

-- which segments are asked
SET logq.strict_pruning = on;
INSERT INTO logq.logs (ts, service, message)
	SELECT timestamptz '2023-05-01' + g * interval '10 minutes', 'epoch', g::text FROM generate_series(0, 287) g;
CREATE FUNCTION pg_temp.asked(condition text, OUT segments int, OUT pruned int, OUT rows int) LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json, TIMING off) SELECT * FROM logq.logs WHERE service = ''epoch'' AND ' || condition INTO plan;
	plan := plan -> 0 -> 'Plan';
	segments := plan ->> 'Segments Asked';
	rows := (plan ->> 'Actual Rows')::numeric;
END $$;
SELECT c, segments, rows FROM unnest(ARRAY[
	'extract(epoch from ts) >= 1682899200 AND extract(epoch from ts) < 1682910000',
	'extract(epoch from ts) * 1000000000 BETWEEN 1682899200000000000 AND 1682910000000000000',
	'extract(epoch from ts) = 1682910000',
	'extract(epoch from ts) BETWEEN (SELECT 1682899200) AND (SELECT 1682902800)',
	'date_part(''epoch'', ts) BETWEEN 1682899200 AND 1682902800',
	'extract(epoch from ts) > 1682910000 AND extract(epoch from ts) < 1682910000']) c, pg_temp.asked(c);
RESET logq.strict_pruning;

-- the same rows as from a local table
CREATE TEMP TABLE local AS SELECT * FROM logq.logs WHERE service = 'epoch';
CREATE FUNCTION pg_temp.same(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE result boolean;
BEGIN
	EXECUTE format('SELECT (SELECT array_agg(id ORDER BY id) FROM logq.logs WHERE service = ''epoch'' AND (%1$s)) '
		'IS NOT DISTINCT FROM (SELECT array_agg(id ORDER BY id) FROM local WHERE %1$s)', condition) INTO result;
	RETURN result;
END $$;
SELECT count(*), count(*) FILTER (WHERE NOT pg_temp.same(format(form, op, value))) AS different
FROM unnest(ARRAY['extract(epoch from ts) %s %s', 'NOT (extract(epoch from ts) * 1000 %s %s * 1000.0)', 'date_part(''epoch'', ts) %s %s']) form,
	unnest('{<,<=,=,<>,>=,>}'::text[]) op,
	unnest('{1682899200,1682899200.0000001,1682899199.9999999,1682985600,0,1e20,NULL::numeric,''NaN''}'::text[]) value;
DROP TABLE local;
-- logq.epoch_bound() on all sorts of times: the comparison holds from the first to the last one
CREATE TEMP TABLE times AS
	SELECT unnest('{infinity,-infinity,4714-11-24 00:00:00+00 BC,4714-11-24 00:00:00.000001+00 BC,294276-12-31 23:59:59.999999+00,294276-12-31 23:59:59.999998+00,1970-01-01 00:00:00+00,1969-12-31 23:59:59.999999+00,1970-01-01 00:00:00.000001+00,NULL}'::timestamptz[]) AS t
	UNION ALL SELECT to_timestamp(1523556000) + g * interval '1 microsecond' FROM generate_series(-3, 3) g
	UNION ALL SELECT timestamptz '2000-01-01 00:00:00.123457' + g * interval '317 years 1.000003 seconds' FROM generate_series(-10, 10) g;
SELECT op, count(*), count(*) FILTER (WHERE holds) > 100 AS some, count(*) FILTER (WHERE holds IS NULL) > 1000 AS nulls,
	count(*) FILTER (WHERE holds IS DISTINCT FROM
		t BETWEEN logq.epoch_bound(v, k, op, false) AND logq.epoch_bound(v, k, op, true)) AS different
FROM (SELECT v, k, t, op, CASE op WHEN '<' THEN e < v WHEN '<=' THEN e <= v WHEN '=' THEN e = v WHEN '>=' THEN e >= v ELSE e > v END AS holds
	FROM (SELECT v, k, t, extract(epoch from t) * k AS e
		FROM times, unnest(ARRAY[1, 1e9, 0.001, 7.3, 1e-20]) k,
			LATERAL (SELECT extract(epoch from u.t) * k + d AS v FROM times u, unnest(ARRAY[0, 1e-7, -1e-7, 1, -1e-30]) d
				UNION ALL SELECT unnest('{NaN,Infinity,-Infinity,1e30,-1e30,9224318016000,-210866803200.000001,0,NULL}'::numeric[])) vs) s,
		unnest('{<,<=,=,>=,>}'::text[]) op) s
GROUP BY op ORDER BY op;
SELECT op, count(*), count(*) FILTER (WHERE holds) > 100 AS some,
	count(*) FILTER (WHERE holds IS DISTINCT FROM
		t BETWEEN logq.epoch_bound(v, k, op, false) AND logq.epoch_bound(v, k, op, true)) AS different
FROM (SELECT v, k, t, op, CASE op WHEN '<' THEN e < v WHEN '<=' THEN e <= v WHEN '=' THEN e = v WHEN '>=' THEN e >= v ELSE e > v END AS holds
	FROM (SELECT v, k, t, date_part('epoch', t) * k AS e
		FROM times, unnest('{1,1e9,0.001,7.3,1e-20}'::float8[]) k,
			LATERAL (SELECT date_part('epoch', u.t) * k * (1 + d) AS v FROM times u, unnest('{0,2.3e-16,-2.3e-16,1e-15,1e-9}'::float8[]) d
				UNION ALL SELECT unnest('{NaN,Infinity,-Infinity,1e30,-1e30,9224318016000,-210866803200.000001,0,1e-310,NULL}'::float8[])) vs) s,
		unnest('{<,<=,=,>=,>}'::text[]) op) s
GROUP BY op ORDER BY op;
\set VERBOSITY terse
SELECT logq.epoch_bound(1, 0, '<', true);
SELECT logq.epoch_bound(1, 'NaN'::numeric, '<', true);
SELECT logq.epoch_bound(1, 'Infinity'::float8, '<', true);
SELECT logq.epoch_bound(1, 1, '<>', true);
