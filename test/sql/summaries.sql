-- Functions over the log table: what they answer, and how it is asked for
SET timezone = 'UTC';
SET logq.route_by = 'trace_id';
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '2023-03-25 22:00' + g * interval '5 minutes',
		(ARRAY['INFO', 'INFO', 'ERROR', NULL])[1 + g % 4], (ARRAY['fun-web', 'fun-db', NULL])[1 + g % 3],
		'row ' || g, 'fun-' || g, CASE g % 5 WHEN 0 THEN NULL WHEN 1 THEN '[1]'
			ELSE jsonb_build_object('status', 200 + g % 2, 'level', g % 2) END
	FROM generate_series(0, 99) g;

-- ---- answers ----
SELECT * FROM logq.histogram('2 hours', '2023-03-25 22:30', '2023-03-26 04:10');
SELECT * FROM logq.histogram('3 hours', '2023-03-25 22:30', '2023-03-26 04:10', by => 'level');
SET timezone = 'Europe/Berlin';
SELECT *, lead(bucket) OVER (ORDER BY bucket) - bucket AS length FROM logq.histogram('1 day', '2023-03-25 22:30+00', '2023-03-28 00:00+02');
SELECT * FROM logq.histogram('1 month', '2023-02-25', '2023-04-01', service => 'fun-web', level => 'ERROR');
SET timezone = 'UTC';
SELECT * FROM logq.histogram('1 hour 1 day');
SELECT * FROM logq.histogram('1 second', now() - interval '1 month');
SELECT * FROM logq.histogram('1 hour', NULL);
SELECT * FROM logq.field_names('2023-03-25', '2023-03-27');
SELECT * FROM logq.field_values('service', '2023-03-25', '2023-03-27');
SELECT * FROM logq.field_values('attrs.level', '2023-03-25', '2023-03-27');
SELECT * FROM logq.facets('2023-03-25', '2023-03-27', pattern => '[5-9]$');
SELECT * FROM logq.facets('2023-03-25', '2023-03-27', 1, ARRAY['status'], level => 'INFO');
SELECT ts, level, service, message FROM logq.context((SELECT id FROM logq.logs WHERE trace_id = 'fun-50'), 2, 2);
SELECT ts, service, message, regexp_replace(cursor, '\d+$', '(id)') AS cursor FROM logq.tail('2023-03-26T04:00:00 UTC', 3, service => 'fun-db');
SELECT t.message FROM logq.tail('2023-03-26T04:00:00 UTC', 1, service => 'fun-db') f, LATERAL logq.tail(f.cursor, 2, service => 'fun-db') t;
SELECT * FROM logq.tail('now and then');

-- ---- plans: expanded, and read no further than the answer goes ----
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
		IF line ~ 'Custom Scan|Limit|Merge Order|Remote SQL|Function Scan|One-Time Filter' THEN
			line := regexp_replace(trim(line), '''20[2-9]\d-[^'']*''::timestamp with time zone', '(time)', 'g');
			RETURN NEXT regexp_replace(line, 'logq_store\.\S+', 'logq_store.<segment>');
		END IF;
	END LOOP;
END $$;
SELECT pg_temp.plan('SELECT * FROM logq.context(20000000000005)');
SELECT pg_temp.plan('SELECT * FROM logq.context(20000000000005, 0, NULL)');
SELECT pg_temp.plan($$SELECT * FROM logq.tail('2023-03-26T06:00:00 UTC/20000000000005', level => 'ERROR')$$);
SELECT pg_temp.plan('SELECT * FROM logq.tail()');
-- what is stable is a value, and only one half is read
SELECT set_config('fun.cursor', '2023-03-26T06:00:00 UTC', false);
SELECT pg_temp.plan($$SELECT * FROM logq.tail(current_setting('fun.cursor', true), 5, NULL)$$);
SELECT count(*) FROM logq.tail(current_setting('fun.cursor', true), 5, NULL);
SELECT complete, rows FROM logq.last_query();
SELECT count(*) FROM logq.context((SELECT id FROM logq.logs WHERE trace_id = 'fun-50'), 4, 4);
SELECT count(*) FROM logq.context((SELECT max(id) FROM logq.logs WHERE service IS NULL AND ts >= '2023-03-25' AND ts < '2023-03-27'), NULL, NULL)
	WHERE ts >= '2023-03-25' AND ts < '2023-03-27';
SELECT id AS line FROM logq.logs WHERE trace_id = 'fun-50' \gset
SELECT count(*) FROM logq.context(:line, 4, 4);
SELECT complete, rows FROM logq.last_query();
-- the views are expanded, too
SELECT pg_temp.plan($$SELECT * FROM logq.grafana_logs WHERE "time" BETWEEN '2023-03-25T22:00:00Z' AND '2023-03-25T22:05:00Z' AND level = 'INFO' ORDER BY "time" DESC LIMIT 5$$);
SELECT pg_temp.plan($$SELECT time, text, tags FROM logq.grafana_annotations WHERE "time" BETWEEN '2023-03-25T22:00:00Z' AND '2023-03-25T22:05:00Z' AND service = 'web'$$);
SELECT time, timeend, text, tags FROM logq.grafana_annotations WHERE "time" BETWEEN '2023-03-26T01:00:00Z' AND '2023-03-26T01:25:00Z' ORDER BY time;
SELECT "time", message, level, service FROM logq.grafana_logs WHERE "time" BETWEEN '2023-03-26T01:00:00Z' AND '2023-03-26T01:10:00Z'
	UNION ALL SELECT "time", message, level, service FROM logq.grafana_missing;

-- ---- a role that may read logq.logs, and nothing else ----
CREATE ROLE fun_reader;
GRANT USAGE ON SCHEMA logq TO fun_reader;
GRANT SELECT ON logq.logs TO fun_reader;
-- with the mappings of the one who runs this
DO $$
DECLARE m record;
BEGIN
	FOR m IN SELECT srvname, (SELECT string_agg(format('%s %L', option_name, option_value), ', ') FROM pg_options_to_table(umoptions)) AS options
		FROM pg_user_mappings WHERE usename = current_user AND srvname IN (SELECT server FROM logq.partition)
	LOOP
		EXECUTE format('CREATE USER MAPPING FOR fun_reader SERVER %I OPTIONS (%s)', m.srvname, m.options);
	END LOOP;
END $$;
SET ROLE fun_reader;
SELECT sum(count) FROM logq.histogram('1 day', '2023-03-25', '2023-03-27', 'status');
SELECT count(*) FROM logq.field_names('2023-03-25', '2023-03-27');
SELECT count(*) FROM logq.facets('2023-03-25', '2023-03-27');
SELECT count(*) FROM logq.field_values('level', '2023-03-25', '2023-03-27');
SELECT count(*) FROM logq.context(:line);
SELECT count(*) FROM logq.tail('2023-03-26T04:00:00 UTC', 3);
SELECT count(*) FROM logq.grafana_logs;
RESET ROLE;
GRANT SELECT ON logq.grafana_logs, logq.grafana_missing TO fun_reader;
SET ROLE fun_reader;
SELECT count(*) FROM logq.grafana_logs WHERE "time" BETWEEN '2023-03-26T01:00:00Z' AND '2023-03-26T01:10:00Z';
SELECT count(*) FROM logq.grafana_missing;
RESET ROLE;
REVOKE SELECT ON logq.logs FROM fun_reader;
SET ROLE fun_reader;
SELECT count(*) FROM logq.grafana_logs WHERE "time" BETWEEN '2023-03-26T01:00:00Z' AND '2023-03-26T01:10:00Z';
RESET ROLE;
DROP USER MAPPING FOR fun_reader SERVER p1;
DROP USER MAPPING FOR fun_reader SERVER p2;
DROP USER MAPPING FOR fun_reader SERVER p3;
DROP OWNED BY fun_reader;
DROP ROLE fun_reader;
