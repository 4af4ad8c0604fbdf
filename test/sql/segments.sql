-- Which segments are asked, by what is known of their contents
SET timezone = 'UTC';
SET logq.catalog_max_age = '1d';
SET logq.bloom_attrs = 'user, ok';
-- eight hours on each of three partitions, sealed, and one open
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs, partition)
	SELECT timestamptz '2020-05-01' + h * interval '1 hour' + i * interval '1 minute',
		CASE WHEN i = 3 AND h IN (2, 5) THEN 'ERROR'
			WHEN i = 3 AND h = 6 AND p = 1 THEN 'FATAL'
			WHEN i <> 3 OR h <> 3 THEN 'INFO' END,
		CASE WHEN i % 2 = 0 THEN 'web' WHEN h <> 4 THEN 'only-p' || p END,
		format('request took %s ms in hour%s of %s', i, h, CASE WHEN h = 1 THEN 'stra' || U&'\00df' || 'e' ELSE 'Road' END),
		md5(format('%s-%s-%s', h, p, i)),
		jsonb_build_object('user', 'u' || h, 'ok', p = 2, 'n', i, 'deep', jsonb_build_object('user', 'u0')),
		'p' || p
	FROM generate_series(0, 8) h, generate_series(1, 3) p, generate_series(0, 19) i
	ORDER BY h, p, i;
SELECT count(*), sum(rows) FROM logq.seal(before => '2020-05-01 08:00');
SELECT logq.refresh_catalog() IS NOT NULL;

-- the numbers of EXPLAIN; those of segments of other tests do not matter
CREATE FUNCTION pg_temp.pruning(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		line := substring(line FROM '(?:Partitions|Segments): .*');
		IF line IS NOT NULL THEN
			line := regexp_replace(line, '^(Segments: \d+) of \d+', '\1 of all');
			line := regexp_replace(line, '(, )?\d+ by (time|partition)(?! \w)', '', 'g');
			line := replace(replace(line, '(pruned: , ', '(pruned: '), ' (pruned: )', '');
			RETURN NEXT line;
		END IF;
	END LOOP;
END $$;
-- what comes out with and without
CREATE FUNCTION pg_temp.answer(query text, OUT rows bigint, OUT same bool) LANGUAGE plpgsql AS $$
DECLARE pruned bigint[]; contents bigint[]; bounds bigint[]; every bigint[];
BEGIN
	query := format('SELECT array_agg(id ORDER BY id) FROM (%s) q', query);
	EXECUTE query INTO pruned;
	SET LOCAL logq.strict_pruning = on;
	EXECUTE query INTO contents;
	SET LOCAL logq.enable_content_pruning = off;
	EXECUTE query INTO bounds;
	SET LOCAL logq.enable_segment_pruning = off;
	SET LOCAL logq.enable_partition_pruning = off;
	SET LOCAL logq.enable_filter_pushdown = off;
	EXECUTE query INTO every;
	RESET logq.strict_pruning;
	RESET logq.enable_content_pruning;
	RESET logq.enable_segment_pruning;
	RESET logq.enable_partition_pruning;
	RESET logq.enable_filter_pushdown;
	rows := coalesce(cardinality(every), 0);
	same := pruned IS NOT DISTINCT FROM every AND contents IS NOT DISTINCT FROM every
		AND bounds IS NOT DISTINCT FROM every;
END $$;
CREATE FUNCTION pg_temp.show(condition text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE query text; a record;
BEGIN
	query := format($q$SELECT * FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00' AND (%s)$q$, condition);
	RETURN QUERY SELECT pg_temp.pruning(query);
	SELECT * INTO a FROM pg_temp.answer(query);
	RETURN NEXT format('%s rows%s', a.rows, CASE WHEN NOT a.same THEN ', BUT NOT THE SAME WITHOUT PRUNING' END);
END $$;

-- levels
SELECT pg_temp.show($$level = 'ERROR'$$);
SELECT pg_temp.show($$'FATAL' = level$$);
SELECT pg_temp.show($$level IN ('ERROR', 'FATAL')$$);
SELECT pg_temp.show($$level = ANY (ARRAY['FATAL', NULL, 'nosuch'])$$);
SELECT pg_temp.show($$level = 'nosuch'$$);
SELECT pg_temp.show($$level IS NULL$$);
SELECT pg_temp.show($$lower(level) = 'error'$$);
SELECT pg_temp.show($$level ~ '^F'$$);
SELECT pg_temp.show($$level LIKE 'ERR%' OR level ILIKE 'fat%'$$);
SELECT pg_temp.show($$level < 'G' COLLATE "C"$$);
SELECT pg_temp.show($$level = 'ERROR'::varchar$$);
SELECT pg_temp.show($$coalesce(level, 'none') = 'none'$$);
-- services
SELECT pg_temp.show($$service = 'only-p2'$$);
SELECT pg_temp.show($$service IN ('only-p1', 'only-p3')$$);
SELECT pg_temp.show($$service LIKE '%p3'$$);
SELECT pg_temp.show($$service IS NULL$$);
SELECT pg_temp.show($$service = 'only-p1' AND level = 'FATAL'$$);
-- trace_id: bounds and filters
SELECT pg_temp.show(format($$trace_id = %L$$, md5('4-2-7')));
SELECT pg_temp.show(format($$trace_id IN (%L, %L)$$, md5('4-2-7'), md5('1-3-1')));
SELECT pg_temp.show($$trace_id = 'zzz'$$);
SELECT pg_temp.show($$trace_id = ''$$);
SELECT pg_temp.show($$trace_id = ANY ('{}')$$);
-- attrs
SELECT pg_temp.show($$attrs ->> 'user' = 'u3'$$);
SELECT pg_temp.show($$attrs ->> 'user' IN ('u3', 'u4')$$);
SELECT pg_temp.show($$attrs ->> 'ok' = 'true'$$);
SELECT pg_temp.show($$attrs @> '{"user": "u3", "ok": true}'$$);
SELECT pg_temp.show($$'{"user": "u3"}' <@ attrs$$);
SELECT pg_temp.show($$attrs ->> 'n' = '7'$$);
SELECT pg_temp.show($$attrs @> '{"n": 7}'$$);
SELECT pg_temp.show($$attrs @> '{"deep": {"user": "u0"}}'$$);
SELECT pg_temp.show($$attrs -> 'deep' ->> 'user' = 'u0'$$);
SELECT pg_temp.show($$attrs @> '{}'$$);
-- words of message
SELECT pg_temp.show($$message LIKE '%in hour3 of%'$$);
SELECT pg_temp.show($$message LIKE '% took _ ms in hour3 of %'$$);
SELECT pg_temp.show($$message LIKE '%hour3%'$$);
SELECT pg_temp.show($$message ILIKE '%IN HOUR3 OF%'$$);
SELECT pg_temp.show($$message ~ '\mhour3\M'$$);
SELECT pg_temp.show($$message ~* 'in hour3 of'$$);
SELECT pg_temp.show($$message ~ 'in hour(3|4) of'$$);
SELECT pattern, array_agg(DISTINCT segments ORDER BY segments DESC) FROM unnest(ARRAY['(?i)in HOUR3 of', '(?x)in hour3 of', '***=in hour3 of', '***:(?i)in HOUR3 of',
	'(in hour3 of)?', '(in hour3 of)*', '(in hour3 of)+', '(in hour3 of){1}', '(in hour3 of){0,1}', 'in hour3 of|in hour4 of', 'in (?=hour3)', '(?!in hour3 of)', '[ ]hour3[ ]', '\yhour3\y', 'in hour3.?', 'in hour33* of', 'in ho[t-v]r3 of']) pattern,
	LATERAL pg_temp.show(format('message ~ %L', pattern)) segments WHERE segments NOT LIKE 'Partitions%' GROUP BY pattern ORDER BY pattern COLLATE "C";
SELECT pg_temp.show($$message = 'request took 5 ms in hour3 of Road'$$);
SELECT pg_temp.show($$message LIKE ANY ('{"%in hour3 of%", "%in hour4 of%"}')$$);
SELECT pg_temp.show($$message LIKE '%in hour3! of%' ESCAPE '!'$$);
SELECT * FROM pg_temp.pruning($$SELECT * FROM logq.search('2020-05-01', '2020-05-01 08:00', contains => ' HOUR5 ')$$);
SELECT * FROM pg_temp.pruning($$SELECT * FROM logq.search('2020-05-01', '2020-05-01 08:00', pattern => 'in hour5 of')$$);
-- exact bounds of ts, and of id
SELECT pg_temp.show($$ts > '2020-05-01 03:30' AND ts < '2020-05-01 04:00'$$);
SELECT pg_temp.show($$ts IN ('2020-05-01 02:05', '2020-05-01 06:50')$$);
SELECT pg_temp.show(format('id = %s', id)) FROM logq.logs WHERE trace_id = md5('4-2-7') AND ts BETWEEN '2020-05-01' AND '2020-05-02';
SELECT pg_temp.show(format('id IN (7, %s) OR id = 8', id)) FROM logq.logs WHERE trace_id = md5('4-2-7') AND ts BETWEEN '2020-05-01' AND '2020-05-02';
-- ORs
SELECT pg_temp.show($$level = 'FATAL' OR service = 'only-p2'$$);
SELECT pg_temp.show($$level = 'FATAL' OR (service = 'only-p2' AND ts < '2020-05-01 02:00')$$);
SELECT pg_temp.show($$ts < '2020-05-01 01:00' OR ts >= '2020-05-01 07:00'$$);
SELECT pg_temp.show($$level = 'FATAL' OR message LIKE '%in hour3 of%' OR attrs @> '{"user": "u5"}'$$);
SELECT pg_temp.show($$partition = 'p3' OR level = 'FATAL'$$);
SELECT pg_temp.show($$level = 'FATAL' OR length(message) > 1000$$);
SELECT pg_temp.show($$(level = 'FATAL' OR level = 'ERROR') AND (service = 'web' OR service = 'only-p1')$$);
-- negations: all are asked
SELECT DISTINCT segments FROM unnest(ARRAY[
	$$level <> 'INFO'$$, $$NOT (level = 'INFO')$$, $$level NOT IN ('INFO', 'ERROR')$$, $$level IS NOT NULL$$,
	$$level IS DISTINCT FROM 'INFO'$$, $$(level = 'INFO') IS NOT TRUE$$, $$(level = 'INFO') IS FALSE$$, $$level !~ 'I'$$, $$level NOT LIKE 'I%'$$,
	$$service <> ALL ('{web}')$$, $$NOT (service = 'web' OR service LIKE 'only%')$$,
	$$trace_id <> 'zzz'$$, $$NOT (trace_id = 'zzz')$$, $$attrs ->> 'user' <> 'u3'$$, $$NOT attrs @> '{"user": "u3"}'$$,
	$$message NOT LIKE '% hour3 %'$$, $$message !~ ' hour3 '$$, $$message NOT ILIKE '% hour3 %'$$, $$message !~* ' hour3 '$$,
	$$(message LIKE '% hour3 %') IS NOT TRUE$$, $$CASE WHEN level = 'FATAL' THEN false ELSE true END$$]) condition,
	LATERAL pg_temp.pruning(format($$SELECT * FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00' AND (%s)$$, condition)) segments;
-- nothing fails for values that no row asked for has
SELECT pg_temp.show($$ts < '2020-05-01 02:00' AND level LIKE 'FAT\'$$);
SELECT pg_temp.show($$CASE WHEN level IN ('1', '2') THEN level::int = 1 ELSE false END$$);

-- values that come later: prepared statements, sub-selects, joins
SET plan_cache_mode = force_generic_plan;
PREPARE q(text, text, text, text) AS SELECT count(*) FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00'
	AND ($1 IS NULL OR level = $1) AND ($2 IS NULL OR service = $2) AND ($3 IS NULL OR trace_id = $3)
	AND ($4 IS NULL OR message ILIKE '%' || $4 || '%');
SELECT pg_temp.pruning($$EXECUTE q('FATAL', NULL, NULL, NULL)$$);
EXECUTE q('FATAL', NULL, NULL, NULL);
SELECT pg_temp.pruning($$EXECUTE q(NULL, 'only-p2', NULL, NULL)$$);
EXECUTE q(NULL, 'only-p2', NULL, NULL);
SELECT pg_temp.pruning(format($$EXECUTE q(NULL, NULL, %L, NULL)$$, md5('4-2-7')));
SELECT format('EXECUTE q(NULL, NULL, %L, NULL)', md5('4-2-7')) \gexec
SELECT pg_temp.pruning($$EXECUTE q(NULL, NULL, NULL, ' hour3 ')$$);
EXECUTE q(NULL, NULL, NULL, ' hour3 ');
SELECT pg_temp.pruning($$EXECUTE q(NULL, NULL, NULL, NULL)$$);
EXECUTE q(NULL, NULL, NULL, NULL);
PREPARE r(text[], jsonb) AS SELECT count(*) FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00' AND level = ANY ($1) AND attrs @> $2;
SELECT pg_temp.pruning($$EXECUTE r('{FATAL,ERROR}', '{"user": "u5"}')$$);
EXECUTE r('{FATAL,ERROR}', '{"user": "u5"}');
SELECT pg_temp.pruning($$EXECUTE r(NULL, '{}')$$);
EXECUTE r(NULL, '{}');
RESET plan_cache_mode;
CREATE FUNCTION pg_temp.analyzed(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE plan json; key text;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json, TIMING off, COSTS off) ' || query INTO plan;
	FOREACH key IN ARRAY '{Actual Loops,Partitions Asked,Partitions Pruned by Segments,Segments Asked,Segments Pruned by Level,Segments Pruned by Service,Segments Pruned by Trace ID}'::text[] LOOP
		RETURN NEXT format('%s: %s', key, jsonb_path_query_first(plan::jsonb, format('$.** ? (@."Custom Plan Provider" == "LogqScan")."%s"', key)::jsonpath));
	END LOOP;
END $$;
SELECT pg_temp.analyzed($$SELECT * FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00' AND level = (SELECT max(l) FROM (VALUES ('FATAL'), ('ERROR')) v(l))$$);
SELECT pg_temp.analyzed($$SELECT l.* FROM (VALUES ('ERROR', 'web'), ('INFO', 'only-p1'), ('FATAL', 'only-p1')) v(l, s),
	LATERAL (SELECT * FROM logq.logs WHERE level = v.l AND service = v.s AND ts >= '2020-05-01' AND ts < '2020-05-01 08:00' OFFSET 0) l$$);
SELECT v.*, l.n FROM (VALUES ('ERROR', 'web'), ('INFO', 'only-p1'), ('FATAL', 'only-p1'), (NULL, 'web')) v(l, s),
	LATERAL (SELECT count(*) n FROM logq.logs WHERE level = v.l AND service = v.s AND ts >= '2020-05-01' AND ts < '2020-05-01 08:00') l;
SELECT v.t, l.n FROM (VALUES (md5('4-2-7')), (md5('4-2-77')), (NULL), (md5('0-3-0'))) v(t),
	LATERAL (SELECT count(*) n FROM logq.logs WHERE trace_id IN (v.t, 'x') AND ts >= '2020-05-01' AND ts < '2020-05-01 08:00') l;
SELECT v.t, l.n FROM generate_series(1, 4) v(t), LATERAL (SELECT count(*) n FROM logq.logs
	WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00' AND message LIKE '%in hour' || v.t || ' of%') l;
-- with an order and a LIMIT
SELECT pg_temp.analyzed($$SELECT * FROM logq.logs WHERE ts < '2020-05-01 08:00' AND level = 'ERROR' ORDER BY ts DESC LIMIT 4$$);
SELECT ts, level, partition FROM logq.logs WHERE ts < '2020-05-01 08:00' AND level = 'ERROR' ORDER BY ts DESC, id DESC LIMIT 4;
SELECT ts, level, partition FROM logq.logs WHERE ts >= '2020-05-01' AND level = 'FATAL' ORDER BY ts LIMIT 1;

-- what is known of its contents says nothing of a segment that is open
SELECT pg_temp.pruning($$SELECT * FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-02' AND level = 'nosuch'$$);
INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2020-05-01 02:30', 'nosuch', 'late', 'p2');
SELECT level, message FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-02' AND level = 'nosuch';
SELECT logq.refresh_catalog() > 0;
SELECT pg_temp.pruning($$SELECT * FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-01 08:00' AND level = 'nosuch'$$);
BEGIN;
INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2020-05-01 05:30', 'mine', 'uncommitted', 'p3');
SELECT level, message FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-02' AND level = 'mine';
ROLLBACK;
SELECT level, message FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-02' AND level = 'mine';
SELECT logq.refresh_catalog() IS NOT NULL;
-- nor when the transaction has read the list of segments before it wrote there
BEGIN;
INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2020-05-03 00:30', 'mine', 'a new segment', 'p3');
SELECT level, message FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-04' AND level = 'mine';
INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2020-05-01 05:30', 'mine', 'a sealed segment', 'p3');
SELECT level, message FROM logq.logs WHERE ts >= '2020-05-01' AND ts < '2020-05-04' AND level = 'mine';
ROLLBACK;

-- switches
SET logq.strict_pruning = on;
SELECT pg_temp.show($$level = 'FATAL'$$);
RESET logq.strict_pruning;
SET logq.enable_content_pruning = off;
SELECT pg_temp.show($$level = 'FATAL' AND ts < '2020-05-01 02:00'$$);
RESET logq.enable_content_pruning;
SET logq.enable_segment_pruning = off;
SELECT regexp_replace(pg_temp.pruning($$SELECT * FROM logq.logs WHERE level = 'FATAL' AND ts < '2020-05-01 02:00'$$), 'Segments: \d+', 'Segments: all');

-- a server's name is stored like any other, with nothing behind its end
SELECT count(*) FROM logq.partition, generate_series(length(server), 63) i WHERE server[i] <> ''::"char";
