-- Which partitions and segments are asked
SET timezone = 'UTC';
-- count those who are asked, whatever is known of their segments
SET logq.strict_pruning = on;
INSERT INTO logq.logs (ts, service, message, partition)
	SELECT timestamptz '2023-01-01' + g * interval '1 hour', 'prune', g::text, 'p' || 1 + g % 3
	FROM generate_series(0, 29) g;
CREATE FUNCTION pg_temp.pruned(query text, OUT asked int, OUT by_name int, OUT by_id int,
	OUT contradiction int, OUT segments int, OUT rows int) LANGUAGE plpgsql AS $$
DECLARE plan json; scan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json, TIMING off) ' || query INTO plan;
	scan := plan -> 0 -> 'Plan';
	WHILE scan ->> 'Node Type' <> 'Custom Scan' LOOP
		scan := scan -> 'Plans' -> 0;
	END LOOP;
	asked := scan ->> 'Partitions Asked';
	by_name := scan ->> 'Partitions Pruned by Name';
	by_id := scan ->> 'Partitions Pruned by ID';
	contradiction := scan ->> 'Partitions Pruned by Contradiction';
	segments := scan ->> 'Segments Asked';
	rows := (scan ->> 'Actual Rows')::numeric;
END $$;
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts >= '2023-01-01' AND ts < '2023-01-02 06:00'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts >= '2023-01-01 03:00' AND ts < '2023-01-01 06:00'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts >= '2023-01-01 03:00' AND ts <= '2023-01-01 06:00'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts = '2023-01-01 05:00'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts IN ('2023-01-01 05:00', '2023-01-01 06:00')$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts BETWEEN timestamp '2023-01-01 05:00' AND date '2023-01-01'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts < '2023-01-01 05:00' AND ts > '2023-01-01 05:00'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE partition = 'p2' AND service = 'prune'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE partition IN ('p1', 'p3') AND ts BETWEEN '2023-01-01' AND '2023-01-02 05:00'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE partition LIKE 'q%'$$);
SELECT * FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE (partition = 'p1' OR level = 'nosuch') AND ts BETWEEN '2023-01-01' AND '2023-01-02 05:00'$$);
-- an id leads to one partition
SELECT asked, by_name, by_id, rows FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE id = (2::bigint << 44) + 1$$);
SELECT asked, by_name, by_id, rows FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE id = 5$$);
SELECT asked, by_name, by_id FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE id IN ((1::bigint << 44) + 1, (3::bigint << 44) + 1)$$);
SELECT asked, by_name, by_id FROM pg_temp.pruned($$SELECT count(*) FROM logq.logs WHERE id < 2::bigint << 44$$);
-- the same answers without
SET logq.enable_partition_pruning = off;
SET logq.enable_segment_pruning = off;
SELECT asked, by_name, by_id, contradiction, rows FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE partition = 'p2' AND service = 'prune'$$);
SELECT asked, by_name, by_id, contradiction, rows FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts < '2023-01-01 05:00' AND ts > '2023-01-01 05:00'$$);
SELECT asked, rows FROM pg_temp.pruned($$SELECT * FROM logq.logs WHERE ts >= '2023-01-01 03:00' AND ts < '2023-01-01 06:00'$$);
RESET logq.enable_partition_pruning;
RESET logq.enable_segment_pruning;

-- EXPLAIN alone neither connects nor fails when a partition cannot be reached
EXPLAIN (COSTS OFF) SELECT * FROM logq.logs WHERE partition = 'p2' AND ts = '2023-01-01 05:00';
CREATE FUNCTION pg_temp.explain_json(query text, options text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE format('EXPLAIN (%s, FORMAT json) %s', options, query) INTO plan;
	RETURN plan;
END $$;
SELECT jsonb_pretty((plan -> 0 -> 'Plan')::jsonb - 'Disabled') FROM pg_temp.explain_json($$SELECT * FROM logq.logs WHERE partition = 'nosuch'$$, 'COSTS OFF') plan;
PREPARE q(text) AS SELECT * FROM logq.logs WHERE partition = $1 AND ts = '2023-01-01 05:00';
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE q('p3');
SELECT jsonb_path_query_first(plan::jsonb, '$.**."Partitions Total"') FROM pg_temp.explain_json($$SELECT * FROM logq.logs WHERE ts = (SELECT max(n) FROM (VALUES (timestamptz '2023-01-01')) v(n))$$, 'COSTS OFF') plan;

-- with ANALYZE: rows, bytes and the first row of each partition
SELECT json_agg(k ORDER BY k) FROM (SELECT DISTINCT json_object_keys(s) k FROM (
	SELECT json_array_elements(plan -> 0 -> 'Plan' -> 'Streams') s
	FROM pg_temp.explain_json('SELECT * FROM logq.logs WHERE ts = ''2023-01-01 05:00''', 'ANALYZE') plan) x) y;
