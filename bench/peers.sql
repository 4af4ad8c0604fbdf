-- What logq is compared with, in the coordinator's database.  For psql, with
-- the variables "end" (seconds since 1970), "hours" and "local_hours".

\set ON_ERROR_STOP on
\ir fdw.sql

-- local_table: what this server can do with rows of its own.  All segments are
-- there, but only the newest "local_hours" of them are filled.
CREATE SCHEMA local_logs;
CREATE TABLE local_logs.log (LIKE pf.logs) PARTITION BY RANGE (ts);
SELECT format('CREATE TABLE local_logs.%I PARTITION OF local_logs.log FOR VALUES FROM (%L) TO (%L)',
		'log_' || to_char(lower AT TIME ZONE 'UTC', 'YYYYMMDD_HH24'), lower, lower + interval '1 hour')
FROM generate_series(1, :hours) AS i,
	LATERAL (SELECT to_timestamp(:end) - i * interval '1 hour') AS l(lower) \gexec
CREATE INDEX ON local_logs.log (ts, id);
CREATE INDEX ON local_logs.log USING hash (trace_id);
-- those of sealed segments
CREATE INDEX ON local_logs.log (service, level, ts, id);
CREATE INDEX ON local_logs.log (level, ts, id);
INSERT INTO local_logs.log
	SELECT * FROM pf.logs WHERE ts >= to_timestamp(:end - 3600 * :local_hours) ORDER BY ts;
VACUUM (ANALYZE) local_logs.log;
