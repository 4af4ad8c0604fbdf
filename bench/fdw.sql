-- postgres_fdw as a peer, in the database of a coordinator.  For psql.

\set ON_ERROR_STOP on
-- the statements that \gexec runs carry passwords
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET client_min_messages = 'warning';

-- postgres_fdw: the partitions' own log tables below one parent, with the same
-- connection as logq has
CREATE EXTENSION postgres_fdw;
CREATE SCHEMA pf;
CREATE TABLE pf.logs (
	ts			timestamptz NOT NULL,
	level		text,
	service		text,
	message		text,
	trace_id	text,
	attrs		jsonb,
	id			bigint NOT NULL
);

SELECT format('CREATE SERVER %I FOREIGN DATA WRAPPER postgres_fdw OPTIONS (%s, async_capable %L, fetch_size %L)',
		'pf_' || srvname,
		(SELECT string_agg(format('%I %L', option_name, option_value), ', ')
			FROM pg_options_to_table(srvoptions)
			WHERE option_name IN ('host', 'port', 'dbname')),
		'true', '10000')
FROM logq.partition JOIN pg_foreign_server ON srvname = server ORDER BY number \gexec

SELECT format('CREATE USER MAPPING FOR CURRENT_USER SERVER %I OPTIONS (%s)',
		'pf_' || server,
		(SELECT string_agg(format('%I %L', option_name, option_value), ', ')
			FROM pg_options_to_table(umoptions)
			WHERE option_name IN ('user', 'password')))
FROM logq.partition JOIN pg_user_mappings ON srvname = server AND usename = current_user
ORDER BY number \gexec

SELECT format('CREATE FOREIGN TABLE pf.%I () INHERITS (pf.logs) SERVER %I OPTIONS (schema_name %L, table_name %L)',
		'log_' || server, 'pf_' || server, 'logq_store', 'log')
FROM logq.partition ORDER BY number \gexec

SELECT format('ANALYZE pf.%I', 'log_' || server) FROM logq.partition ORDER BY number \gexec
ANALYZE pf.logs;
