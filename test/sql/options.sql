-- Options of servers and user mappings, and what can be a partition
-- (the hint lists options of libpq, which differ by version)
\set VERBOSITY terse
DO $$
DECLARE hint text;
BEGIN
	CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (hots 'localhost');
EXCEPTION WHEN fdw_invalid_option_name THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', regexp_replace(hint, 'are: .*host, .*port, .*', 'are: ... host, ... port, ...');
END $$;
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (hots 'localhost');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (port 'none');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (replicas 'a:b:c');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (replicas_pooled 'perhaps');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (pooler 'db1');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (pooler 'db1:6432,db2:6432');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (pooler 'db1:65536');
CREATE SERVER bad FOREIGN DATA WRAPPER logq_fdw OPTIONS (password 'x');
CREATE SERVER opt_test FOREIGN DATA WRAPPER logq_fdw
	OPTIONS (host '127.0.0.1', port '1', dbname 'logs', replicas 'db1b:5432,db1c:5433');
CREATE USER MAPPING FOR CURRENT_USER SERVER opt_test OPTIONS (usr 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER opt_test OPTIONS (user 'x', host 'y');
CREATE USER MAPPING FOR CURRENT_USER SERVER opt_test OPTIONS (user 'x', pooler 'y:1');
ALTER SERVER opt_test OPTIONS (ADD pooler 'db1:6432', ADD replicas_pooled 'on');
ALTER SERVER opt_test OPTIONS (SET pooler '[::1]:6432', SET replicas_pooled 'false');
ALTER SERVER opt_test OPTIONS (DROP pooler, DROP replicas_pooled);
ALTER SERVER logq OPTIONS (ADD nosuch '1');
CREATE FOREIGN TABLE opt_table (ts timestamptz) SERVER logq OPTIONS (a 'b');
CREATE FOREIGN TABLE opt_table (ts timestamptz OPTIONS (a 'b')) SERVER logq;

-- no mapping, no answer, not ours, not one
\set VERBOSITY sqlstate
SELECT logq.add_partition('opt_test');
\set VERBOSITY terse
SELECT logq.add_partition('nosuch');
SELECT logq.add_partition('logq');
SELECT logq.add_partition(NULL);
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE SERVER opt_pg FOREIGN DATA WRAPPER postgres_fdw;
SELECT logq.add_partition('opt_pg');
SELECT logq.add_partition('p1');
SELECT logq.remove_partition('opt_test');
SELECT logq.add_partition('opt_test', 0);

\set VERBOSITY default
-- tables on the server logq are log tables, or parts of them
CREATE FOREIGN TABLE opt_table (ts timestamptz, level text, nosuch int) SERVER logq;
SELECT * FROM opt_table;
DROP FOREIGN TABLE opt_table;
CREATE FOREIGN TABLE opt_table (message text, ts timestamptz) SERVER logq;
SELECT count(message) FROM opt_table WHERE ts < '1900-01-01';
DROP FOREIGN TABLE opt_table;
CREATE FOREIGN TABLE opt_table (ts timestamptz) SERVER p1;
SELECT * FROM opt_table;
DROP FOREIGN TABLE opt_table;

-- settings
SHOW logq.route_by;
SET logq.route_by = 'nosuch';
SET logq.nosuch = 1;
\set VERBOSITY sqlstate
SET logq.connect_timeout = 0;
\set VERBOSITY default
SET logq.connect_timeout = '2s';
SHOW logq.connect_timeout;
RESET logq.connect_timeout;

-- those of admission; there may be others who use the cluster
SHOW logq.max_concurrent_queries;
SHOW logq.max_concurrent_queries_per_role;
SHOW logq.max_connections_per_partition;
SHOW logq.queue_timeout;
SET logq.max_concurrent_queries = 1;
SET logq.max_connections_per_partition = 1;
-- PostgreSQL 18 says units in the message
\set VERBOSITY sqlstate
SET logq.queue_timeout = '-1';
\set VERBOSITY default
SELECT query_limit, running <= peak AS running, waiting, rejected, peak <= admitted AS admitted,
	waited, wait_ms, connection_limit, connections >= 0 AS connections,
	connections_reserved >= 0 AS reserved, connections_waiting, connections_rejected
FROM logq.stat_admission;
CREATE ROLE opt_role;
GRANT USAGE ON SCHEMA logq TO opt_role;
SET ROLE opt_role;
SET logq.max_concurrent_queries_per_role = 1;
SET logq.queue_timeout = '1s';
SELECT * FROM logq.stat_admission;
RESET ROLE;
RESET logq.queue_timeout;
REVOKE USAGE ON SCHEMA logq FROM opt_role;
DROP ROLE opt_role;

-- the cache: totals are for everybody, and to begin anew is not
SHOW logq.hot_cache_size;
SET logq.hot_cache_size = 10;
CREATE ROLE opt_role;
GRANT USAGE ON SCHEMA logq TO opt_role;
SET ROLE opt_role;
SELECT level, reason, since IS NULL AS since, entries >= 0 AS entries, bytes >= entries * 512 AS bytes,
	pg_size_pretty(size_limit) AS size_limit, hits >= 0 AS hits, misses >= 0 AS misses, expired >= 0 AS expired,
	damaged, stores >= 0 AS stores, too_cheap >= 0 AS too_cheap, too_large >= 0 AS too_large,
	evictions, dropped, errors, timeouts, bytes_read >= 0 AS bytes_read, bytes_written >= 0 AS bytes_written,
	saved_ms >= 0 AS saved_ms, stats_reset <= now() AS stats_reset
FROM logq.stat_cache WHERE level = 'memory';
SELECT level, state IS NOT NULL AS state, entries IS NULL AS entries, evictions IS NULL AS evictions, errors IS NULL AS errors FROM logq.stat_cache ORDER BY level;
SELECT logq.cache_reset_stats();
RESET ROLE;
SELECT logq.cache_reset_stats();
SELECT level, hits, misses, hit_ratio, stats_reset > now() - interval '1 minute' AS anew FROM logq.stat_cache ORDER BY level;
REVOKE USAGE ON SCHEMA logq FROM opt_role;
DROP ROLE opt_role;

-- every function of the extension has a description
SELECT p.oid::regprocedure
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
	JOIN pg_extension e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'logq' AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY 1;

DROP SERVER opt_pg;
DROP SERVER opt_test;
