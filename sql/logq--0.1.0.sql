/* sql/logq--0.1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION logq" to load this file. \quit

-- ---------------------------------------------------------------------
-- Foreign data wrapper, and the one server on which the log table lies.
-- Partitions are further servers of the same wrapper.
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.logq_fdw_handler()
RETURNS fdw_handler
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT;

CREATE FUNCTION logq.logq_fdw_validator(text[], oid)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT;

COMMENT ON FUNCTION logq.logq_fdw_handler() IS 'handler of foreign-data wrapper logq_fdw';
COMMENT ON FUNCTION logq.logq_fdw_validator(text[], oid) IS 'validator of foreign-data wrapper logq_fdw';
REVOKE ALL ON FUNCTION logq.logq_fdw_handler() FROM PUBLIC;
REVOKE ALL ON FUNCTION logq.logq_fdw_validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER logq_fdw
	HANDLER logq.logq_fdw_handler
	VALIDATOR logq.logq_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER logq_fdw IS
	'distributed log search; each server is a partition, the server "logq" is all of them';

CREATE SERVER logq FOREIGN DATA WRAPPER logq_fdw;
COMMENT ON SERVER logq IS 'all partitions of logq together';

-- ---------------------------------------------------------------------
-- Partitions
-- ---------------------------------------------------------------------

CREATE TABLE logq.partition (
	number		integer PRIMARY KEY CHECK (number BETWEEN 1 AND 524287),
	server		name NOT NULL UNIQUE,
	same_locale	boolean NOT NULL,
	added		timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE logq.partition IS
	'partitions known to this coordinator; maintained by logq.add_partition() and logq.remove_partition()';
COMMENT ON COLUMN logq.partition.number IS
	'number of the partition, in the bits from 44 up of the ids of its rows; kept on the partition';
COMMENT ON COLUMN logq.partition.server IS 'name of the foreign server';
COMMENT ON COLUMN logq.partition.same_locale IS
	'whether the partition sorts and folds the case of text as this database does';
SELECT pg_catalog.pg_extension_config_dump('logq.partition', '');

-- the highest number given so far: one that was removed may come back
CREATE SEQUENCE logq.partition_number AS integer MINVALUE 0 START 0 MAXVALUE 524287;
COMMENT ON SEQUENCE logq.partition_number IS
	'highest number that any partition known to this coordinator has had';
SELECT pg_catalog.pg_extension_config_dump('logq.partition_number', '');

CREATE FUNCTION logq.store_sql(number integer, segment_interval interval DEFAULT '1 hour')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
SELECT replace(replace(replace(replace($store$
CREATE SCHEMA logq_store;
COMMENT ON SCHEMA logq_store IS 'log rows and their catalog, kept for logq coordinators';

CREATE TABLE logq_store.store (
	format				integer NOT NULL,
	number				integer NOT NULL,
	segment_interval	interval NOT NULL CHECK (segment_interval BETWEEN '1 minute' AND '31 days'),
	only_row			boolean NOT NULL DEFAULT true UNIQUE CHECK (only_row)
);
INSERT INTO logq_store.store VALUES (1, @NUMBER@, @INTERVAL@);

CREATE TABLE logq_store.catalog_version (
	version		bigint NOT NULL,
	only_row	boolean NOT NULL DEFAULT true UNIQUE CHECK (only_row)
) WITH (fillfactor = 10);
INSERT INTO logq_store.catalog_version VALUES (1);

CREATE SEQUENCE logq_store.log_id_seq AS bigint
	MINVALUE @FIRST@ MAXVALUE @LAST@ CACHE 32 NO CYCLE;

CREATE TABLE logq_store.log (
	ts			timestamptz NOT NULL,
	level		text,
	service		text,
	message		text,
	trace_id	text,
	attrs		jsonb,
	id			bigint NOT NULL DEFAULT nextval('logq_store.log_id_seq')
) PARTITION BY RANGE (ts);
ALTER SEQUENCE logq_store.log_id_seq OWNED BY logq_store.log.id;

CREATE TABLE logq_store.segment (
	name		name PRIMARY KEY,
	lower		timestamptz NOT NULL UNIQUE,
	upper		timestamptz NOT NULL UNIQUE,
	state		text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'sealed')),
	version		bigint NOT NULL,
	CHECK (lower < upper)
);

-- Makes the segment that takes a row of the given time, unless it is there.
-- A table that is then attached: CREATE TABLE ... PARTITION OF would lock
-- out readers and writers of all segments.
CREATE FUNCTION logq_store.make_segment(at timestamptz)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $make$
DECLARE
	step	bigint;
	secs	bigint;
	lo		timestamptz;
	hi		timestamptz;
	seg		text;
	ver		bigint;
	acl		record;
BEGIN
	IF NOT has_table_privilege(session_user, 'logq_store.log', 'INSERT') THEN
		RAISE insufficient_privilege
			USING MESSAGE = 'permission denied to make a segment of logq_store.log';
	END IF;
	IF EXISTS (SELECT FROM logq_store.segment WHERE lower <= at AND upper > at) THEN
		RETURN;
	END IF;
	-- one maker at a time; the next one finds our segment
	SELECT version + 1 INTO ver FROM logq_store.catalog_version FOR UPDATE;
	IF EXISTS (SELECT FROM logq_store.segment WHERE lower <= at AND upper > at) THEN
		RETURN;
	END IF;
	-- in whole seconds, as floating point would round a last microsecond up
	SELECT extract(epoch FROM segment_interval) INTO step FROM logq_store.store;
	secs := extract(epoch FROM date_trunc('second', at));
	secs := secs - ((secs % step) + step) % step;
	lo := to_timestamp(secs);
	hi := to_timestamp(secs + step);
	-- the interval may have been another one before
	lo := greatest(lo, (SELECT max(upper) FROM logq_store.segment WHERE upper <= at));
	hi := least(hi, (SELECT min(lower) FROM logq_store.segment WHERE lower > at));
	seg := 'log_' || to_char(lo, 'YYYYMMDD_HH24MISS') ||
		CASE WHEN extract(year FROM lo) < 0 THEN '_bc' ELSE '' END;
	EXECUTE format('CREATE TABLE logq_store.%I (LIKE logq_store.log INCLUDING DEFAULTS INCLUDING STORAGE)', seg);
	EXECUTE format('CREATE INDEX ON logq_store.%I (ts, id)', seg);
	EXECUTE format('CREATE INDEX ON logq_store.%I USING hash (trace_id)', seg);
	-- segments are read by their own names: who may read the whole may read them
	FOR acl IN
		SELECT a.privilege_type AS privilege,
			CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS role
		FROM pg_class c, aclexplode(c.relacl) a
		WHERE c.oid = 'logq_store.log'::regclass AND a.grantee <> c.relowner
	LOOP
		EXECUTE format('GRANT %s ON logq_store.%I TO %s', acl.privilege, seg, acl.role);
	END LOOP;
	EXECUTE format('ALTER TABLE logq_store.log ATTACH PARTITION logq_store.%I FOR VALUES FROM (%L) TO (%L)', seg, lo, hi);
	INSERT INTO logq_store.segment (name, lower, upper, version) VALUES (seg, lo, hi, ver);
	UPDATE logq_store.catalog_version SET version = ver;
	PERFORM pg_notify('logq_catalog', ver::text);
END
$make$;
GRANT SELECT ON logq_store.store, logq_store.catalog_version, logq_store.segment TO PUBLIC;
$store$,
	'@NUMBER@', number::text),
	'@INTERVAL@', quote_literal(segment_interval::text) || '::interval'),
	'@FIRST@', ((number::bigint << 44) + 1)::text),
	'@LAST@', (((number + 1)::bigint << 44) - 1)::text)
$function$;
COMMENT ON FUNCTION logq.store_sql(integer, interval) IS
	'the SQL that logq.add_partition() runs on a new partition of this number, for review or to run by hand';

CREATE FUNCTION logq.add_partition(server name, number integer DEFAULT NULL,
	segment_interval interval DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'logq_add_partition'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION logq.add_partition(name, integer, interval) IS
	'make a server of logq_fdw a partition, creating schema logq_store on it when it is missing; returns its number';
REVOKE ALL ON FUNCTION logq.add_partition(name, integer, interval) FROM PUBLIC;

CREATE FUNCTION logq.remove_partition(server name, force boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'logq_remove_partition'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.remove_partition(name, boolean) IS
	'forget a partition; refuses while it holds rows unless forced; what it holds stays on its server';
REVOKE ALL ON FUNCTION logq.remove_partition(name, boolean) FROM PUBLIC;

CREATE FUNCTION logq.partition_status(
	OUT name name, OUT host text, OUT state text, OUT rows bigint,
	OUT segments integer, OUT number integer, OUT error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_partition_status'
LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION logq.partition_status() IS
	'asks all partitions at once what they hold; one that does not answer is reported as down, not as an error';
REVOKE ALL ON FUNCTION logq.partition_status() FROM PUBLIC;

CREATE VIEW logq.partitions AS
	SELECT name, host, state, rows, segments, number, error
	FROM logq.partition_status();
COMMENT ON VIEW logq.partitions IS
	'partitions, whether they answer, and how many rows and segments they hold';

-- ---------------------------------------------------------------------
-- The log table and the search function
-- ---------------------------------------------------------------------

CREATE FOREIGN TABLE logq.logs (
	ts			timestamptz NOT NULL,
	level		text,
	service		text,
	message		text,
	trace_id	text,
	attrs		jsonb,
	id			bigint,
	partition	text
) SERVER logq;
COMMENT ON FOREIGN TABLE logq.logs IS 'all log rows of all partitions, in the order (ts, id)';
COMMENT ON COLUMN logq.logs.ts IS 'time of the event';
COMMENT ON COLUMN logq.logs.level IS 'severity, such as ERROR';
COMMENT ON COLUMN logq.logs.service IS 'what wrote the row';
COMMENT ON COLUMN logq.logs.message IS 'the text of the row';
COMMENT ON COLUMN logq.logs.trace_id IS 'the request or trace that the row belongs to';
COMMENT ON COLUMN logq.logs.attrs IS 'all further fields';
COMMENT ON COLUMN logq.logs.id IS
	'unique over all partitions, assigned by the partition, whose number stands in the bits from 44 up';
COMMENT ON COLUMN logq.logs.partition IS 'name of the server that holds the row';

CREATE FUNCTION logq.search(
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time	timestamptz DEFAULT NULL,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL,
	max_rows	bigint DEFAULT 1000)
RETURNS SETOF logq.logs
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 1000
BEGIN ATOMIC
	SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
	FROM logq.logs l
	WHERE l.ts >= coalesce(search.start_time, '-infinity'::timestamptz)
		AND l.ts < coalesce(search.end_time, 'infinity'::timestamptz)
		AND (search.level IS NULL OR l.level = search.level)
		AND (search.service IS NULL OR l.service = search.service)
		AND (search.trace_id IS NULL OR l.trace_id = search.trace_id)
		AND (search.contains IS NULL OR l.message ILIKE
			'%' || regexp_replace(search.contains, '([\\%_])', '\\\1', 'g') || '%')
		AND (search.pattern IS NULL OR l.message ~ search.pattern)
	ORDER BY l.ts DESC, l.id DESC
	LIMIT search.max_rows;
END;
COMMENT ON FUNCTION logq.search(timestamptz, timestamptz, text, text, text, text, text, bigint) IS
	'log rows, newest first: start_time included (default one hour ago, NULL is unbounded), end_time excluded (default unbounded); level, service, trace_id equal; message contains the given text in any case; message matches the regular expression; at most max_rows rows (default 1000, NULL is all)';
