-- The role of prometheus-postgres-exporter on a coordinator:
--
--   psql -d logs -f role.sql
--
-- It can read statistics, PostgreSQL's and logq's, and the text of others'
-- statements (pg_stat_activity), but not logq.logs.  It has no password: from the
-- same machine it needs none ("peer"), for another one give it one with
-- \password prometheus.
CREATE ROLE prometheus LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 5
	IN ROLE pg_monitor;
ALTER ROLE prometheus SET statement_timeout = '10s';
ALTER ROLE prometheus SET default_transaction_read_only = on;
COMMENT ON ROLE prometheus IS 'exporter of metrics';
