-- settings and views of failures, and answers that lack a partition
\set VERBOSITY terse
SET timezone = 'UTC';
SELECT name, setting, unit, min_val, max_val, enumvals, context FROM pg_settings
WHERE name IN ('logq.read_from', 'logq.max_replica_lag', 'logq.partition_timeout',
	'logq.connect_timeout', 'logq.enable_hedging', 'logq.hedge_min_delay',
	'logq.partial_results') ORDER BY name;
SET logq.read_from = 'nobody';
-- PostgreSQL 18 says units in the message
\set VERBOSITY sqlstate
SET logq.partition_timeout = -1;
SET logq.hedge_min_delay = 0;
\set VERBOSITY terse

-- options
ALTER SERVER p1 OPTIONS (ADD replicas 'db1b');
ALTER SERVER p1 OPTIONS (ADD replicas 'db1b:5432,db1c:0');
DO $$
BEGIN
	EXECUTE format('ALTER SERVER p1 OPTIONS (ADD replicas %L)',
		(SELECT string_agg('db' || i || ':5432', ',') FROM generate_series(1, 16) i));
END
$$;

INSERT INTO logq.logs (ts, level, service, message, partition)
SELECT '2031-05-01 10:00+00'::timestamptz + i * interval '1 minute', 'INFO', 'failures',
	'row ' || i, 'p' || 1 + i % 3
FROM generate_series(1, 30) i;
SELECT count(*) FROM logq.logs WHERE service = 'failures' AND ts > '2031-05-01';
SELECT complete, running, partitions, partitions_asked, partitions_failed, missing, retried,
	hedged, rows, cached, first_row_ms IS NOT NULL AS first_row, total_ms >= first_row_ms AS total
FROM logq.last_query();
SELECT count(*) FROM logq.logs WHERE partition = 'p2' AND service = 'failures' AND ts > '2031-05-01';
SELECT complete, partitions, partitions_asked, partitions_pruned, rows FROM logq.last_query();
SELECT partition, role, breaker, requests > 0 AS asked FROM logq.stat_partitions
ORDER BY partition, role;

-- a partition that is not there
SELECT option_value AS port FROM pg_foreign_server, pg_options_to_table(srvoptions)
WHERE srvname = 'p2' AND option_name = 'port' \gset
ALTER SERVER p2 OPTIONS (SET port '1');
SELECT count(*) FROM logq.logs WHERE service = 'failures' AND ts > '2031-05-01';
SELECT complete, partitions_failed, missing FROM logq.last_query();
SET logq.partial_results = on;
SELECT count(*) FROM logq.logs WHERE service = 'failures' AND ts > '2031-05-01';
SELECT complete, partitions_failed, missing FROM logq.last_query();
SELECT message FROM logq.search(start_time => '2031-05-01', service => 'failures', max_rows => 3);
-- Grafana shows no warnings
SELECT message, level, partition FROM (SELECT * FROM logq.grafana_logs
	WHERE service = 'failures' AND "time" > '2031-05-01' ORDER BY "time" DESC LIMIT 2) l
	UNION ALL SELECT message, level, partition FROM logq.grafana_missing;
SELECT bucket, value, count FROM logq.histogram('10 minutes', '2031-05-01 10:00', '2031-05-01 10:20', service => 'failures')
	UNION ALL SELECT NULL, partition, 0 FROM logq.grafana_missing;
BEGIN;
DECLARE c CURSOR FOR SELECT message FROM logq.logs
	WHERE service = 'failures' AND ts > '2031-05-01' ORDER BY ts, id;
FETCH 2 FROM c;
SELECT complete, running, missing FROM logq.last_query();
FETCH 2 FROM c;
COMMIT;
SELECT complete, running, missing, rows FROM logq.last_query();
-- errors are errors
SELECT count(*) FROM logq.logs WHERE message ~ '(' AND ts > '2031-05-01';
INSERT INTO logq.logs (ts, partition) VALUES ('2031-05-01 10:00+00', 'p2');
SELECT name, state FROM logq.partitions WHERE name = 'p2';
SELECT partition, breaker, errors > 0 AS errors, reason LIKE '%refused%' AS refused
FROM logq.stat_partitions WHERE partition = 'p2';
RESET logq.partial_results;
ALTER SERVER p2 OPTIONS (SET port :'port');
SELECT count(*) FROM logq.logs WHERE service = 'failures' AND ts > '2031-05-01';
SELECT complete, partitions_failed, missing FROM logq.last_query();

-- who may look
CREATE ROLE failures_reader;
GRANT USAGE ON SCHEMA logq TO failures_reader;
SET ROLE failures_reader;
SELECT * FROM logq.server_status();
SELECT * FROM logq.stat_partitions;
RESET ROLE;
REVOKE USAGE ON SCHEMA logq FROM failures_reader;
DROP ROLE failures_reader;
\c
-- a new session has had no query
SELECT count(*) FROM logq.last_query();
