-- logq.search is inlined: no Function Scan, the conditions at the partitions
SET timezone = 'UTC';
-- whatever is known of segments
SET logq.strict_pruning = on;
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
		CONTINUE WHEN line ~ 'Output:|Segments:';
		line := regexp_replace(line, '''20[2-9]\d-[^'']*''::timestamp with time zone', '(time)', 'g');
		RETURN NEXT regexp_replace(line, 'logq_store\.\S+', 'logq_store.<segment>');
	END LOOP;
END $$;
SELECT pg_temp.plan('SELECT * FROM logq.search()');
SELECT pg_temp.plan($$SELECT * FROM logq.search(level => 'ERROR', service => 'payment-service', start_time => now() - interval '1 hour', max_rows => 100)$$);
SELECT pg_temp.plan($$SELECT message FROM logq.search(contains => '50%_\', pattern => '^a', trace_id => 't', end_time => '2021-02-01', start_time => NULL, max_rows => NULL)$$);
SELECT pg_temp.plan($$SELECT count(*) FROM logq.search(level => 'ERROR')$$);

INSERT INTO logq.logs (ts, level, service, message, trace_id)
	SELECT timestamptz '2022-01-01' + g * interval '1 minute', (ARRAY['INFO', 'ERROR'])[1 + g % 2],
		'search-' || g % 3, 'row ' || g || CASE g % 10 WHEN 0 THEN ' took 50%_\ LONGER' ELSE '' END, 'trace' || g / 4
	FROM generate_series(0, 199) g;
-- start included, end excluded, newest first
SELECT ts, level, service, message FROM logq.search(start_time => '2022-01-01 00:10', end_time => '2022-01-01 00:13');
SELECT ts, message FROM logq.search('2022-01-01', '2022-01-02', level => 'ERROR', service => 'search-1', max_rows => 3);
SELECT message FROM logq.search('2022-01-01', '2022-01-02', contains => '50%_\ longer', max_rows => 2);
SELECT message FROM logq.search('2022-01-01', '2022-01-02', pattern => '^row 1[0-2]$');
SELECT message FROM logq.search('2022-01-01', '2022-01-02', trace_id => 'trace7');
SELECT count(*) FROM logq.search('2022-01-01', '2022-01-02', max_rows => NULL);
SELECT count(*) FROM logq.search('2022-01-01', '2022-01-02', max_rows => 0);
SELECT count(*) FROM logq.search('2022-01-01', '2022-01-01');
-- arguments that a function cannot be inlined with still give the answer
SELECT count(*) FROM logq.search((SELECT min(ts) FROM logq.logs WHERE service = 'search-1'), '2022-01-02', service => 'search-1');
-- joined, in views, functions and loops
CREATE TEMP TABLE watched (service text, owner text);
INSERT INTO watched VALUES ('search-1', 'ann'), ('search-2', 'bob');
SELECT owner, count(*) FROM logq.search('2022-01-01', '2022-01-02') s JOIN watched w USING (service) GROUP BY 1 ORDER BY 1;
SELECT w.owner, l.message FROM watched w, LATERAL (SELECT * FROM logq.search('2022-01-01', '2022-01-02', service => w.service, max_rows => 2)) l ORDER BY 1, l.ts;
BEGIN;
DECLARE c CURSOR FOR SELECT message FROM logq.search('2022-01-01', '2022-01-02');
FETCH 2 FROM c;
FETCH 2 FROM c;
COMMIT;
