-- Logs in Citus: hourly tables with the indexes of sealed segments, distributed
-- by what logq routes by, in as many shards as logq has partitions.  For psql,
-- with the variables "end" (seconds since 1970) and "hours".

\set ON_ERROR_STOP on
SET client_min_messages = 'warning';

SELECT count(*) AS nodes FROM pg_dist_node WHERE shouldhaveshards AND isactive \gset
SET citus.shard_count = :nodes;

CREATE SCHEMA citus_logs;
CREATE TABLE citus_logs.log (
	ts			timestamptz NOT NULL,
	level		text,
	service		text,
	message		text,
	trace_id	text,
	attrs		jsonb,
	id			bigint NOT NULL
) PARTITION BY RANGE (ts);
SELECT create_distributed_table('citus_logs.log', 'service');

SELECT format('CREATE TABLE citus_logs.%I PARTITION OF citus_logs.log FOR VALUES FROM (%L) TO (%L)',
		'log_' || to_char(lower AT TIME ZONE 'UTC', 'YYYYMMDD_HH24'), lower, lower + interval '1 hour')
FROM generate_series(1, :hours) AS i,
	LATERAL (SELECT to_timestamp(:end) - i * interval '1 hour') AS l(lower) \gexec
CREATE INDEX ON citus_logs.log (ts, id);
CREATE INDEX ON citus_logs.log USING hash (trace_id);
CREATE INDEX ON citus_logs.log (service, level, ts, id);
CREATE INDEX ON citus_logs.log (level, ts, id);
