-- Aggregates that put partial results together, and approximate ones
\set VERBOSITY terse
SET timezone = 'UTC';
SET search_path = '';
SELECT pg_catalog.setseed(0.5);
SET search_path = pg_catalog, pg_temp;

-- ---- counts and sums ----
SELECT logq.combine_count(n), logq.combine_sum(n) FROM (VALUES (1::bigint), (NULL), (41)) v(n);
SELECT logq.combine_count(n), logq.combine_sum(n) FROM (VALUES (NULL::bigint)) v(n);
SELECT logq.combine_count(n), logq.combine_sum(n) FROM (VALUES (1::bigint)) v(n) WHERE false;
SELECT logq.combine_count(n) FROM (VALUES (9223372036854775807), (1)) v(n);
SELECT logq.combine_sum(n) FROM (VALUES (-9223372036854775808), (-1)) v(n);
SELECT logq.combine_sum(n) FROM (VALUES (-9223372036854775808), (1)) v(n);
SELECT pg_typeof(logq.combine_count(1)), pg_typeof(logq.combine_sum(1));

-- ---- variance of float8 from {count, sum, sum of squared deviations} ----
CREATE TEMP TABLE f AS
	SELECT g, g % 7 AS part, CASE WHEN g % 11 = 0 THEN NULL ELSE 1e6 + g * g / 17.0 END::float8 AS x
	FROM generate_series(1, 5000) g;
CREATE TEMP VIEW f_parts AS
	SELECT part, ARRAY[count(x), coalesce(sum(x), 0), coalesce(var_pop(x) * count(x), 0)] AS state FROM f GROUP BY part;
SELECT abs(vp / logq.combine_var_pop(state) - 1) < 1e-12 AS var_pop,
	abs(vs / logq.combine_var_samp(state) - 1) < 1e-12 AS var_samp,
	abs(sp / logq.combine_stddev_pop(state) - 1) < 1e-12 AS stddev_pop,
	abs(ss / logq.combine_stddev_samp(state) - 1) < 1e-12 AS stddev_samp
FROM f_parts, (SELECT var_pop(x) vp, var_samp(x) vs, stddev_pop(x) sp, stddev_samp(x) ss FROM f) exact
GROUP BY vp, vs, sp, ss;
SELECT n, logq.combine_var_pop(state), logq.combine_var_samp(state),
	logq.combine_stddev_pop(state), logq.combine_stddev_samp(state)
FROM (VALUES (1, NULL::float8[]), (2, '{0,0,0}'), (3, '{1,5,0}'), (4, '{1,5,0}'), (4, '{1,7,0}'),
	(5, '{2,NaN,NaN}'), (5, '{1,7,0}')) v(n, state)
GROUP BY n ORDER BY n;
SELECT logq.combine_var_pop(state), logq.combine_stddev_samp(state) FROM f_parts WHERE false;

-- ---- variance of numbers from {count, sum, sum of squares}: as PostgreSQL's own ----
CREATE FUNCTION pg_temp.deviations(xs numeric[], OUT own text[], OUT ours text[]) LANGUAGE sql AS $$
	SELECT ARRAY[var_pop(x), var_samp(x), stddev_pop(x), stddev_samp(x)]::text[],
		ARRAY[logq.numeric_deviation(count(x), sum(x), sum(x * x), false, false),
			logq.numeric_deviation(count(x), sum(x), sum(x * x), true, false),
			logq.numeric_deviation(count(x), sum(x), sum(x * x), false, true),
			logq.numeric_deviation(count(x), sum(x), sum(x * x), true, true)]::text[]
	FROM unnest(xs) x
$$;
CREATE FUNCTION pg_temp.deviations(xs bigint[], OUT own text[], OUT ours text[]) LANGUAGE sql AS $$
	SELECT ARRAY[var_pop(x), var_samp(x), stddev_pop(x), stddev_samp(x)]::text[],
		ARRAY[logq.numeric_deviation(count(x), sum(x), sum(x::numeric * x), false, false),
			logq.numeric_deviation(count(x), sum(x), sum(x::numeric * x), true, false),
			logq.numeric_deviation(count(x), sum(x), sum(x::numeric * x), false, true),
			logq.numeric_deviation(count(x), sum(x), sum(x::numeric * x), true, true)]::text[]
	FROM unnest(xs) x
$$;
CREATE FUNCTION pg_temp.deviations(xs integer[], OUT own text[], OUT ours text[]) LANGUAGE sql AS $$
	SELECT ARRAY[var_pop(x), var_samp(x), stddev_pop(x), stddev_samp(x)]::text[],
		ARRAY[logq.numeric_deviation(count(x), sum(x), sum(x::bigint * x), false, false),
			logq.numeric_deviation(count(x), sum(x), sum(x::bigint * x), true, false),
			logq.numeric_deviation(count(x), sum(x), sum(x::bigint * x), false, true),
			logq.numeric_deviation(count(x), sum(x), sum(x::bigint * x), true, true)]::text[]
	FROM unnest(xs) x
$$;
SELECT xs, own, own IS NOT DISTINCT FROM ours AS same
FROM (VALUES ('{}'::numeric[]), ('{NULL}'), ('{7}'), ('{0.00,0.000}'), ('{1,2}'), ('{1.5,2.25,NULL,3}'),
	('{NaN}'), ('{NaN,1}'), ('{Infinity}'), ('{Infinity,-Infinity,1}'), ('{-Infinity,2}'),
	('{100000000000000000000.5,100000000000000000000.7}')) v(xs),
	pg_temp.deviations(xs);
SELECT own IS NOT DISTINCT FROM ours AS same
FROM (VALUES (ARRAY[1e-300, 1e300]), (ARRAY[1e-990, 2e-990, 7e-990]), (ARRAY[1e60000, 2e60000, 3]),
	(ARRAY[1e-600, 2e-600, 1])) v(xs), pg_temp.deviations(xs);
SELECT own, own IS NOT DISTINCT FROM ours AS same
FROM (VALUES ('{9223372036854775807,-9223372036854775808}'::bigint[]), ('{9223372036854775807,9223372036854775806}'),
	('{0}'), ('{5,5,5}')) v(xs), pg_temp.deviations(xs);
-- many at random: of like and of all magnitudes, with few and many digits
SELECT kind, count(*), count(*) FILTER (WHERE own IS DISTINCT FROM ours) AS different,
	count(DISTINCT own) > 1000 AS not_all_alike
FROM (
	SELECT kind, n, array_agg(CASE WHEN random() < 0.03 THEN NULL
		WHEN kind = 'magnitudes' THEN ((random() - 0.3) * 10 ^ (random() * 30 - 15)::int)::numeric * 10::numeric ^ (random() * 40 - 20)::int
		WHEN kind = 'scales' THEN round((random() * 10000)::numeric, (random() * 6)::int)
		ELSE round(1e9 + random()::numeric, 3) END + 0 * g) AS xs
	FROM unnest(ARRAY['magnitudes', 'scales', 'close']) kind, generate_series(1, 3000) n, generate_series(1, 15) g
	WHERE g <= 1 + n % 15 GROUP BY kind, n) s, pg_temp.deviations(xs)
GROUP BY kind ORDER BY kind;
SELECT count(*), count(*) FILTER (WHERE own IS DISTINCT FROM ours) AS different
FROM (
	SELECT n, array_agg(((random() - 0.5) * 10 ^ (random() * 18))::bigint + 0 * g) AS xs
	FROM generate_series(1, 3000) n, generate_series(1, 15) g
	WHERE g <= 1 + n % 15 GROUP BY n) s, pg_temp.deviations(xs);
SELECT count(*), count(*) FILTER (WHERE own IS DISTINCT FROM ours) AS different
FROM (
	SELECT n, array_agg(((random() - 0.5) * 10 ^ (random() * 9))::integer + 0 * g) AS xs
	FROM generate_series(1, 3000) n, generate_series(1, 15) g
	WHERE g <= 1 + n % 15 GROUP BY n) s, pg_temp.deviations(xs);
SELECT logq.numeric_deviation(NULL, 1, 1, false, false), logq.numeric_deviation(0, 1, 1, false, false),
	logq.numeric_deviation(1, 1, 1, true, false), logq.numeric_deviation(2, NULL, 1, true, false),
	logq.numeric_deviation(-1, 1, 1, false, true);

-- ---- approximate number of distinct values ----
-- what partitions compute, as LOGQ_DISTINCT_BUCKET_SQL and _REST_SQL have it
CREATE TEMP TABLE t AS
	SELECT CASE g % 4 WHEN 0 THEN md5(g::text) WHEN 1 THEN repeat(chr(200 + g % 3000), g % 50)
		WHEN 2 THEN g::text ELSE chr(128512 + g % 60) || repeat('x', g % 700) END AS v
	FROM generate_series(1, 4000) g
	UNION ALL VALUES (''), (' '), (E'\n\t'), ('NULL'), (NULL), (repeat('y', 100000));
SELECT count(*) AS rows,
	count(*) FILTER (WHERE logq.distinct_bucket(v) IS DISTINCT FROM
		((hashtextextended(v COLLATE "C", 0)) & 4095)::integer) AS bucket_differs,
	count(*) FILTER (WHERE logq.distinct_rest(v) IS DISTINCT FROM
		((hashtextextended(v COLLATE "C", 0)) >> 12)) AS rest_differs,
	count(DISTINCT logq.distinct_bucket(v)), min(logq.distinct_bucket(v)) >= 0 AND max(logq.distinct_bucket(v)) < 4096 AS in_range
FROM t;
-- a server that came to another hash would be found out, before it reads a row
SELECT CASE WHEN hashtextextended('logq'::text COLLATE "C", 0) = 0 THEN hashtextextended((v) COLLATE "C", 0)
	ELSE ('this server hashes text in another way than the coordinator'::text)::bigint END FROM t;
-- few are nearly always exact, many are within three standard errors
SELECT n, logq.approx_count_distinct('value ' || g % n)
FROM (VALUES (1), (2), (3), (10), (30)) v(n), generate_series(1, 100) g GROUP BY n ORDER BY n;
SELECT n, abs(logq.approx_count_distinct(g::text)::float8 / n - 1) < 0.048 AS text,
	abs(logq.approx_count_distinct(g)::float8 / n - 1) < 0.048 AS bigint,
	logq.approx_count_distinct(g::text) = logq.approx_count_distinct(g) AS same
FROM (VALUES (100), (1000), (4096), (20000), (200000)) v(n), generate_series(1, n) g GROUP BY n ORDER BY n;
-- over many sets of each size: mean error, and standard error in percent
SELECT n, abs(avg(e)) < 0.005 AS unbiased, round(100 * stddev_pop(e)::numeric) <= 2 AS as_exact_as_promised
FROM (SELECT n, s, logq.approx_count_distinct(s || '/' || g)::float8 / n - 1 AS e
	FROM (VALUES (20), (200), (2000), (6000)) v(n), generate_series(1, 60) s, generate_series(1, n) g GROUP BY n, s) r
GROUP BY n ORDER BY n;
-- ids, as partitions give them: the high bits are few, the low ones follow each other
SELECT abs(logq.approx_count_distinct((p << 44) + g) / 90000.0 - 1) < 0.048 AS good
FROM generate_series(1::bigint, 3) p, generate_series(1, 30000) g;
SELECT logq.approx_count_distinct(NULL::text), logq.approx_count_distinct(NULL::bigint), logq.approx_count_distinct(v)
FROM t WHERE v IS NULL;
SELECT logq.approx_count_distinct(v), logq.approx_count_distinct(length(v)), pg_typeof(logq.approx_count_distinct(v)) FROM t WHERE false;
SELECT logq.approx_count_distinct(5), logq.approx_count_distinct(5::smallint), logq.approx_count_distinct('x'),
	logq.approx_count_distinct('x'::varchar), logq.approx_count_distinct(DISTINCT 'x'::text),
	logq.approx_count_distinct('x'::text) FILTER (WHERE false);
-- another type is to be cast by who knows which text form counts
SELECT logq.approx_count_distinct(1.5);
-- from partial results it is the same
CREATE TEMP TABLE t_parts AS
	SELECT part, logq.distinct_bucket(v) AS bucket, min(logq.distinct_rest(v)) AS least
	FROM (SELECT v, row_number() OVER () % 3 AS part FROM t) s GROUP BY 1, 2;
SELECT logq.approx_count_distinct_merge(bucket, least) = (SELECT logq.approx_count_distinct(v) FROM t) AS same,
	abs(logq.approx_count_distinct_merge(bucket, least) / (SELECT count(DISTINCT v) FROM t)::float8 - 1) < 0.048 AS good,
	count(*) > count(DISTINCT bucket) AS merged, bool_or(bucket IS NULL) AS with_null
FROM t_parts;
SELECT logq.approx_count_distinct_merge(bucket, least) FROM t_parts WHERE bucket IS NULL;
SELECT logq.approx_count_distinct_merge(bucket, least) FROM t_parts WHERE false;
SELECT logq.approx_count_distinct_merge(b, 0) FROM generate_series(0, 4095) b;
SELECT logq.approx_count_distinct_merge(4095, 2251799813685247), logq.approx_count_distinct_merge(0, -2251799813685248);
SELECT logq.approx_count_distinct_merge(4096, 0);
SELECT logq.approx_count_distinct_merge(-1, 0);
SELECT logq.approx_count_distinct_merge(0, 2251799813685248);
SELECT logq.approx_count_distinct_merge(0, -2251799813685249);

-- ---- approximate percentiles ----
-- what partitions compute, as LOGQ_PERCENTILE_BUCKET_SQL has it
CREATE TEMP TABLE x AS
	SELECT (random() - 0.5) * 10 ^ (random() * 600 - 300) AS x FROM generate_series(1, 5000)
	UNION ALL SELECT random() * 1000 FROM generate_series(1, 2000)
	UNION ALL SELECT (random() * 1000)::int FROM generate_series(1, 2000)
	UNION ALL SELECT unnest('{NaN,Infinity,-Infinity,0,-0,1,-1,1e-323,1.7e308,-1.7e308,1e290,1e289,NULL}'::float8[]);
SELECT count(*), count(*) FILTER (WHERE logq.percentile_bucket(x) IS DISTINCT FROM
	(asinh(float8smaller(float8larger((x), '-1e290'), '1e290') * '1e10'::float8) * '51'::float8)::integer) AS differs
FROM x;
SELECT v AS value, logq.percentile_bucket(v) FROM unnest('{-Infinity,-1e300,-1,-1e-12,0,1e-12,1e-9,1,2,1e289,1e290,Infinity,NaN}'::float8[]) v;
SELECT count(*) FILTER (WHERE b < before) AS falls FROM
	(SELECT b, lag(b) OVER (ORDER BY x) AS before FROM (SELECT x, logq.percentile_bucket(x) AS b FROM x WHERE x IS NOT NULL) s) s;
-- within 1 % of percentile_disc
CREATE FUNCTION pg_temp.sample(kind text, u float8) RETURNS float8 IMMUTABLE LANGUAGE sql AS $$
	SELECT CASE kind WHEN 'uniform' THEN u WHEN 'log' THEN exp(u * 40 - 20) WHEN 'both signs' THEN (u - 0.5) * 1000
		WHEN 'exponential' THEN -ln(1 - u) * 100 WHEN 'many zeros' THEN CASE WHEN u < 0.3 THEN 0 ELSE u END
		WHEN 'integers' THEN round(u * 10) WHEN 'one value' THEN 42 WHEN 'magnitudes' THEN (u - 0.3) * 10 ^ (u * 288) END
$$;
SELECT kind, count(*), max(abs(approx - exact) / nullif(abs(exact), 0)) < 0.01 AS within_1_percent,
	bool_and(approx = 0) FILTER (WHERE exact = 0) AS zero_is_zero
FROM (SELECT kind, f, logq.approx_percentile(pg_temp.sample(kind, (g + 0.5) / 2000), f) AS approx,
		percentile_disc(f) WITHIN GROUP (ORDER BY pg_temp.sample(kind, (g + 0.5) / 2000)) AS exact
	FROM unnest('{uniform,log,both signs,exponential,many zeros,integers,one value,magnitudes}'::text[]) kind,
		unnest('{0,0.001,0.1,0.25,0.5,0.9,0.99,0.999,1}'::float8[]) f, generate_series(0, 1999) g
	GROUP BY kind, f) s
GROUP BY kind ORDER BY kind;
-- which row it is
SELECT f, round(logq.approx_percentile(v, f)), percentile_disc(f) WITHIN GROUP (ORDER BY v)
FROM unnest('{0,0.2,0.21,0.4,0.6,0.8,0.81,1}'::float8[]) f, unnest('{10,20,30,40,50}'::float8[]) v GROUP BY f ORDER BY f;
SELECT f, logq.approx_percentile(v, f) FROM unnest('{0,0.25,0.5,0.75,1}'::float8[]) f,
	unnest('{-Infinity,NULL,0,Infinity,NaN}'::float8[]) v GROUP BY f ORDER BY f;
-- closer to zero than 1e-9 the error is absolute
SELECT count(*), max(abs(approx - v)) < 1e-11 AS good
FROM (SELECT v, logq.approx_percentile(v, 0.5) AS approx FROM generate_series(-100, 100) g, LATERAL (VALUES (g * 1e-11)) s(v) GROUP BY v) s;
SELECT logq.approx_percentile(NULL, 0.5), logq.approx_percentile(1, NULL), logq.approx_percentile(1, 0.5) FILTER (WHERE false);
SELECT logq.approx_percentile(x, 0.5), logq.approx_percentile(x, 7) FROM x WHERE false;
SELECT logq.approx_percentile(1, -0.1);
SELECT logq.approx_percentile(1, 1.1);
SELECT logq.approx_percentile(NULL, 'NaN');
SELECT logq.approx_percentile(v, f) FROM (VALUES (1, 0.5), (2, 0.6)) s(v, f);
SELECT logq.approx_percentile(v, f) FROM (VALUES (1, 0.5), (2, NULL)) s(v, f);
SELECT f, round(logq.approx_percentile(v, f)) FROM (VALUES (1, 0.5), (2, 0.6)) s(v, f) GROUP BY f ORDER BY f;
-- from partial results it is the same
CREATE TEMP TABLE x_parts AS
	SELECT part, logq.percentile_bucket(x) AS bucket, count(*) AS rows
	FROM (SELECT x, row_number() OVER () % 3 AS part FROM x) s GROUP BY 1, 2;
SELECT count(*), count(*) FILTER (WHERE merged IS DISTINCT FROM whole) AS different FROM
	(SELECT f, logq.approx_percentile_merge(bucket, rows, f) AS merged,
		(SELECT logq.approx_percentile(x, f) FROM x) AS whole
	FROM x_parts, unnest('{0,0.1,0.5,0.9,1}'::float8[]) f GROUP BY f) s;
SELECT logq.approx_percentile_merge(bucket, rows, 0.5) FROM x_parts WHERE bucket IS NULL;
SELECT logq.approx_percentile_merge(bucket, rows, 0.5) FROM x_parts WHERE false;
SELECT logq.approx_percentile_merge(bucket, rows, 2) FROM x_parts;
SELECT logq.approx_percentile_merge(b, n, 0.5) FROM (VALUES (1210, 1), (1300, 0), (NULL, 100), (1300, NULL)) v(b, n);
SELECT logq.approx_percentile_merge(35266, 1, 0.5);
SELECT logq.approx_percentile_merge(-35266, 1, 0.5);
SELECT logq.approx_percentile_merge(0, -1, 0.5);
SELECT logq.approx_percentile_merge(b, 9223372036854775807, 0.5) FROM generate_series(1, 2) b;
SELECT logq.approx_percentile_merge(b, 4611686018427387903, 0.75) = logq.approx_percentile_merge(2, 1, 0) FROM generate_series(1, 2) b;

-- ---- percentiles of arrays ----
CREATE TEMP TABLE x_arrays AS
	SELECT k, array_agg(x) AS xs FROM (SELECT x, n % 4 AS k, n % 29 AS part FROM
		(SELECT x, row_number() OVER () AS n FROM x) s) s GROUP BY k, part;
SELECT count(*), count(*) FILTER (WHERE (a.c, a.d) IS DISTINCT FROM (b.c, b.d)) AS different FROM
	(SELECT f, k, logq.percentile_cont_merge(f) WITHIN GROUP (ORDER BY xs) AS c,
		logq.percentile_disc_merge(f) WITHIN GROUP (ORDER BY xs) AS d
	FROM x_arrays, unnest('{0,0.001,0.1,0.5,0.9,0.95,1}'::float8[]) f GROUP BY f, k) a
	JOIN (SELECT f, k, percentile_cont(f) WITHIN GROUP (ORDER BY x) AS c,
		percentile_disc(f) WITHIN GROUP (ORDER BY x) AS d
	FROM x_arrays, unnest(xs) x, unnest('{0,0.001,0.1,0.5,0.9,0.95,1}'::float8[]) f GROUP BY f, k) b USING (f, k);
SELECT f, logq.percentile_cont_merge(f) WITHIN GROUP (ORDER BY xs) AS cont, logq.percentile_disc_merge(f) WITHIN GROUP (ORDER BY xs) AS disc
FROM (VALUES ('{3,NULL,1}'::float8[]), (NULL), ('{}'), ('{{2,5},{4,NULL}}')) v(xs),
	unnest('{0,0.2,0.3,0.75,1,NULL}'::float8[]) f GROUP BY f ORDER BY f;
SELECT logq.percentile_cont_merge(0.5) WITHIN GROUP (ORDER BY xs) FROM (VALUES ('{NULL}'::float8[])) v(xs);
SELECT logq.percentile_cont_merge(0.5) WITHIN GROUP (ORDER BY xs) FROM x_arrays WHERE false;
SELECT logq.percentile_cont_merge(1.1) WITHIN GROUP (ORDER BY xs) FROM x_arrays WHERE false;
SELECT logq.percentile_disc_merge('NaN') WITHIN GROUP (ORDER BY xs) FROM x_arrays;
SET work_mem = '64kB';
SELECT count(*), logq.percentile_cont_merge(0.5) WITHIN GROUP (ORDER BY xs) = 50000.5 AS cont,
	logq.percentile_cont_merge(0.25) WITHIN GROUP (ORDER BY xs) = 25000.75 AS again
FROM (SELECT array_agg(g::float8) AS xs FROM generate_series(1, 100000) g GROUP BY g % 10) s;
RESET work_mem;

-- ---- in parallel, by groups, as window functions ----
CREATE TABLE public.agg_parallel AS
	SELECT g % 13 AS k, (g * 7919 % 5003)::text AS v, g::bigint AS n, sqrt(g) AS x FROM generate_series(1, 40000) g;
ANALYZE public.agg_parallel;
CREATE FUNCTION pg_temp.all_of_them() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT concat_ws(' ', 'all', logq.combine_count(n), logq.combine_sum(n), logq.approx_count_distinct(v),
		logq.approx_count_distinct(n), logq.approx_percentile(x, 0.9), round(logq.combine_var_pop(ARRAY[1, x, 0])::numeric, 6),
		logq.approx_count_distinct_merge(logq.distinct_bucket(v), logq.distinct_rest(v)),
		logq.approx_percentile_merge(logq.percentile_bucket(x), n, 0.1)) FROM public.agg_parallel;
	RETURN QUERY SELECT concat_ws(' ', k, logq.combine_count(n), logq.approx_count_distinct(v), logq.approx_percentile(x, 0.9))
		FROM public.agg_parallel GROUP BY k ORDER BY k;
END $$;
SET max_parallel_workers_per_gather = 0;
CREATE TEMP TABLE serial AS SELECT r, row_number() OVER () AS n FROM pg_temp.all_of_them() r;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT logq.combine_count(n), logq.combine_sum(n), logq.approx_count_distinct(v),
	logq.approx_percentile(x, 0.9), logq.combine_stddev_pop(ARRAY[1, x, 0]),
	logq.approx_count_distinct_merge(logq.distinct_bucket(v), logq.distinct_rest(v)),
	logq.approx_percentile_merge(logq.percentile_bucket(x), n, 0.1) FROM public.agg_parallel;
SELECT count(*), count(*) FILTER (WHERE p.r IS DISTINCT FROM s.r) AS different
FROM (SELECT r, row_number() OVER () AS n FROM pg_temp.all_of_them() r) p FULL JOIN serial s USING (n);
RESET max_parallel_workers_per_gather;
SELECT count(*), sum(n), min(d), max(d), min(p), max(p) FROM
	(SELECT logq.combine_count(1) AS n, logq.approx_count_distinct(v) AS d, round(logq.approx_percentile(n, 1)) AS p
	FROM public.agg_parallel GROUP BY n) s;
SELECT v, logq.approx_count_distinct(v) OVER w, round(logq.approx_percentile(v, 0.5) OVER w)
FROM unnest('{1,1,2,3,3,100}'::bigint[]) v WINDOW w AS (ORDER BY v);
DROP TABLE public.agg_parallel;

-- ---- anybody may, and nobody can call their inner functions ----
CREATE ROLE logq_agg_nobody;
SET ROLE logq_agg_nobody;
SELECT has_function_privilege(p.oid, 'EXECUTE') AS may, count(*) FROM pg_proc p
WHERE pronamespace = 'logq'::regnamespace AND (prokind = 'a' OR proname ~ '^(combine|distinct|percentile|numeric)_') GROUP BY 1;
RESET ROLE;
DROP ROLE logq_agg_nobody;
-- what takes "internal" cannot be called; how that is said depends on the release
DO $$
DECLARE
	call text;
BEGIN
	FOREACH call IN ARRAY ARRAY['distinct_final(NULL)', 'percentile_final(NULL)', $c$distinct_deserialize('\x00', NULL)$c$,
		$c$percentile_deserialize('\x00', NULL)$c$, $c$distinct_serialize('x')$c$] LOOP
		BEGIN
			EXECUTE 'SELECT logq.' || call;
			RAISE EXCEPTION '% was called', call;
		EXCEPTION WHEN undefined_function OR feature_not_supported THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT p.oid::regprocedure, provolatile, proparallel FROM pg_proc p
WHERE pronamespace = 'logq'::regnamespace AND (prokind = 'a' OR proname ~ '^(combine|distinct|percentile|numeric)_')
	AND (provolatile <> 'i' OR proparallel <> 's' OR obj_description(p.oid, 'pg_proc') IS NULL);
