/* sql/logq--0.1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION logq" to load this file. \quit

-- ---------------------------------------------------------------------
-- Roles to grant.  They belong to the whole server and so to no extension: other
-- databases may use them, and DROP EXTENSION leaves them.  The rights that they
-- have here are at the end of this file.
-- ---------------------------------------------------------------------

DO $roles$
DECLARE
	role_name	name;
	attribute	text;
	there		record;
BEGIN
	FOREACH role_name IN ARRAY '{logq_reader,logq_writer,logq_admin,logq_worker}'::pg_catalog.name[] LOOP
		-- before 17, a background worker cannot be a role that may not log in
		attribute := CASE WHEN role_name OPERATOR(pg_catalog.=) 'logq_worker'
				AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4
					OPERATOR(pg_catalog.<) 170000
			THEN 'LOGIN' ELSE 'NOLOGIN' END;
		BEGIN
			SELECT rolcanlogin, rolsuper INTO there FROM pg_catalog.pg_roles
				WHERE rolname OPERATOR(pg_catalog.=) role_name;
			IF NOT FOUND THEN
				EXECUTE pg_catalog.format('CREATE ROLE %I %s', role_name, attribute);
			ELSIF role_name OPERATOR(pg_catalog.=) 'logq_worker' THEN
				IF there.rolsuper THEN
					RAISE WARNING USING
						MESSAGE = pg_catalog.format('role "%s" was there before, and is a superuser', role_name),
						HINT = 'Background workers of logq connect as it.  Alter it to NOSUPERUSER if it is not meant for something else.';
				END IF;
				IF NOT there.rolcanlogin AND attribute OPERATOR(pg_catalog.=) 'LOGIN' THEN
					RAISE WARNING USING
						MESSAGE = pg_catalog.format('role "%s" was there before, and cannot log in', role_name),
						HINT = 'Background workers of logq connect as it.  Alter it to LOGIN, without a password.';
				END IF;
			ELSIF there.rolcanlogin OR there.rolsuper THEN
				RAISE WARNING USING
					MESSAGE = pg_catalog.format('role "%s" was there before, and is more than a role to grant', role_name),
					HINT = 'It gets the rights that logq gives to this name.  Alter it to NOLOGIN NOSUPERUSER if it is not meant for something else.';
			END IF;
		EXCEPTION WHEN duplicate_object OR unique_violation THEN
			NULL;				-- another database was quicker
		END;
	END LOOP;
	-- all that it needs, and mostly everybody has it
	IF NOT pg_catalog.has_database_privilege('logq_worker', pg_catalog.current_database(), 'CONNECT') THEN
		EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO logq_worker', pg_catalog.current_database());
	END IF;
END
$roles$;

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

CREATE FUNCTION logq.redis_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'logq_redis_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION logq.redis_validator(text[], oid) IS
	'checks the options of the server that leads to Redis';
REVOKE ALL ON FUNCTION logq.redis_validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER logq_redis
	VALIDATOR logq.redis_validator;
COMMENT ON FOREIGN DATA WRAPPER logq_redis IS
	'cache of logq in Redis, at the server that logq.cache_server names';

CREATE SERVER logq FOREIGN DATA WRAPPER logq_fdw;
COMMENT ON SERVER logq IS 'all partitions of logq together';

-- ---------------------------------------------------------------------
-- Partitions
-- ---------------------------------------------------------------------

CREATE TABLE logq.partition (
	number		integer PRIMARY KEY CHECK (number BETWEEN 1 AND 524287),
	server		name NOT NULL UNIQUE,
	same_locale	boolean NOT NULL,
	added		timestamptz NOT NULL DEFAULT now(),
	locale		text
);
COMMENT ON TABLE logq.partition IS
	'partitions known to this coordinator; maintained by logq.add_partition() and logq.remove_partition()';
COMMENT ON COLUMN logq.partition.number IS
	'number of the partition, in the bits from 44 up of the ids of its rows; kept on the partition';
COMMENT ON COLUMN logq.partition.server IS 'name of the foreign server';
COMMENT ON COLUMN logq.partition.same_locale IS
	'whether the partition sorts and folds the case of text as this database does';
COMMENT ON COLUMN logq.partition.locale IS
	'of this database, when that was found out: a dump may be restored into one with another';
SELECT pg_catalog.pg_extension_config_dump('logq.partition', '');

-- also a restored dump makes sessions read it again
CREATE FUNCTION logq.partition_changed()
RETURNS trigger
AS 'MODULE_PATHNAME', 'logq_partition_changed'
LANGUAGE C;
COMMENT ON FUNCTION logq.partition_changed() IS 'tells all sessions that logq.partition has changed';
REVOKE ALL ON FUNCTION logq.partition_changed() FROM PUBLIC;
CREATE TRIGGER partition_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON logq.partition
	FOR EACH STATEMENT EXECUTE FUNCTION logq.partition_changed();
ALTER TABLE logq.partition ENABLE ALWAYS TRIGGER partition_changed;

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
	retention			interval CHECK (retention > '0'),
	only_row			boolean NOT NULL DEFAULT true UNIQUE CHECK (only_row)
);
INSERT INTO logq_store.store VALUES (4, @NUMBER@, @INTERVAL@);

-- Raised with every change of the table segment.  Microseconds since 1970, or
-- one more than before: a store that was restored from a backup never comes to
-- a version that it has had with other segments.
CREATE TABLE logq_store.catalog_version (
	version		bigint NOT NULL,
	only_row	boolean NOT NULL DEFAULT true UNIQUE CHECK (only_row)
) WITH (fillfactor = 10);
INSERT INTO logq_store.catalog_version VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

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

-- Metadata of segments.  All below "sealed_at" is true while "state" is
-- 'sealed', and of the past otherwise.
CREATE TABLE logq_store.segment (
	name			name PRIMARY KEY,
	lower			timestamptz NOT NULL UNIQUE,
	upper			timestamptz NOT NULL UNIQUE,
	state			text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'sealed')),
	version			bigint NOT NULL,	-- of the catalog, when this row was changed last
	sealing			bigint,				-- token of a sealing under way; a write takes it away
	sealed_at		timestamptz,
	rows			bigint,
	bytes			bigint,				-- of the table and its indexes
	min_ts			timestamptz,
	max_ts			timestamptz,
	min_id			bigint,
	max_id			bigint,
	min_trace_id	text COLLATE "C",
	max_trace_id	text COLLATE "C",
	levels			text[],				-- all there are, NULL among them; NULL: too many to list
	level_rows		bigint[],			-- rows of each
	services		text[],
	service_rows	bigint[],
	service_level_rows	bigint[],		-- service by service, of each level; NULL when one list is
	odd_case		boolean,			-- a message has letters whose lower case is ASCII and they are not
	level_rollup	bigint,				-- rows in logq_store.rollup_level; NULL: not kept
	service_rollup	bigint,				-- rows in logq_store.rollup_service; NULL: not kept
	CHECK (lower < upper)
);

-- Filters and sketches of sealed segments; docs/formats.md describes them.
-- field: trace_id, service, message (its words), attrs.KEY
CREATE TABLE logq_store.filter (
	segment			name NOT NULL REFERENCES logq_store.segment ON UPDATE CASCADE ON DELETE CASCADE,
	field			text COLLATE "C" NOT NULL,
	distinct_values	bigint NOT NULL,
	filter			bytea,				-- split-block bloom filter; NULL: would not pay
	sketch			bytea,				-- count-min sketch
	PRIMARY KEY (segment, field)
);
ALTER TABLE logq_store.filter ALTER filter SET STORAGE EXTERNAL, ALTER sketch SET STORAGE EXTERNAL;

-- Counts of sealed segments by minute.  Of a segment whose metadata says that one
-- is not kept, an earlier one may be left: it is of the past.
CREATE TABLE logq_store.rollup_level (
	segment		name NOT NULL REFERENCES logq_store.segment ON UPDATE CASCADE ON DELETE CASCADE,
	minute		timestamptz NOT NULL,
	level		text,
	rows		bigint NOT NULL
);
CREATE INDEX ON logq_store.rollup_level (segment, minute);
CREATE TABLE logq_store.rollup_service (
	segment		name NOT NULL REFERENCES logq_store.segment ON UPDATE CASCADE ON DELETE CASCADE,
	minute		timestamptz NOT NULL,
	service		text,
	level		text,
	rows		bigint NOT NULL
);
CREATE INDEX ON logq_store.rollup_service (segment, minute);

-- Raises the version, once a transaction has something to change in the table
-- segment.  Its row lock makes such transactions take turns: nobody shall wait
-- for another lock after this one.
CREATE FUNCTION logq_store.raise_version()
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $raise$
DECLARE
	ver		bigint;
BEGIN
	UPDATE logq_store.catalog_version
		SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
		RETURNING version INTO STRICT ver;
	PERFORM pg_notify('logq_catalog', ver::text);
	RETURN ver;
END
$raise$;
REVOKE ALL ON FUNCTION logq_store.raise_version() FROM PUBLIC;

-- Gives a segment the row-level security of the log table, and no other.  New
-- segments get it when they are made; after a change, run it for the others.
-- FORCE is not taken over: whoever seals must see all rows.
CREATE FUNCTION logq_store.copy_row_security(seg name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $security$
DECLARE
	policy	record;
	enabled	boolean;
BEGIN
	FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = format('logq_store.%I', seg)::regclass LOOP
		EXECUTE format('DROP POLICY %I ON logq_store.%I', policy.polname, seg);
	END LOOP;
	FOR policy IN
		SELECT polname AS name, CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END AS kind,
			CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
				WHEN 'd' THEN 'DELETE' ELSE 'ALL' END AS command,
			(SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
				FROM unnest(polroles) r) AS roles,
			' USING (' || pg_get_expr(polqual, polrelid) || ')' AS qual,
			' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')' AS checks
		FROM pg_policy WHERE polrelid = 'logq_store.log'::regclass
	LOOP
		EXECUTE format('CREATE POLICY %I ON logq_store.%I AS %s FOR %s TO %s', policy.name, seg,
			policy.kind, policy.command, policy.roles) || concat(policy.qual, policy.checks);
	END LOOP;
	SELECT relrowsecurity INTO enabled FROM pg_class WHERE oid = 'logq_store.log'::regclass;
	EXECUTE format('ALTER TABLE logq_store.%I %s ROW LEVEL SECURITY', seg,
		CASE WHEN enabled THEN 'ENABLE' ELSE 'DISABLE' END);
END
$security$;
REVOKE ALL ON FUNCTION logq_store.copy_row_security(name) FROM PUBLIC;

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
	acl		record;
BEGIN
	IF NOT has_table_privilege(session_user, 'logq_store.log', 'INSERT') THEN
		RAISE insufficient_privilege
			USING MESSAGE = 'permission denied to make a segment of logq_store.log';
	END IF;
	IF EXISTS (SELECT FROM logq_store.segment WHERE lower <= at AND upper > at) THEN
		RETURN;
	END IF;
	-- one maker at a time; the next one finds our segment.  This lock is the one
	-- that ATTACH needs, and must not be waited for with the version in hand.
	LOCK TABLE ONLY logq_store.log IN SHARE UPDATE EXCLUSIVE MODE;
	PERFORM FROM logq_store.catalog_version FOR UPDATE;
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
	-- and no more of it; a policy that does not fit must not stop the logs
	IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'logq_store.log'::regclass) THEN
		BEGIN
			PERFORM logq_store.copy_row_security(seg);
		EXCEPTION WHEN OTHERS THEN
			EXECUTE format('ALTER TABLE logq_store.%I ENABLE ROW LEVEL SECURITY', seg);
			RAISE WARNING 'policies of logq_store.log could not be given to segment "%": %', seg, SQLERRM
				USING HINT = 'Until they are, nobody but its owner sees its rows.';
		END;
	END IF;
	EXECUTE format('ALTER TABLE logq_store.log ATTACH PARTITION logq_store.%I FOR VALUES FROM (%L) TO (%L)', seg, lo, hi);
	INSERT INTO logq_store.segment (name, lower, upper, version) VALUES (seg, lo, hi, logq_store.raise_version());
END
$make$;

-- Segments that the current transaction has to open again when it commits.
-- Nobody else ever sees a row of this table.
CREATE TABLE logq_store.reopened (
	segment		name NOT NULL
);

-- Trigger on segments that have been, or are being, sealed: a write opens a
-- sealed segment again in its own transaction, and makes a sealing under way
-- start over.  Here it is only noted.  The lock that this takes is waited for
-- at the commit, when a writer to several partitions holds no other one.
CREATE FUNCTION logq_store.reopen_segment()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $reopen$
BEGIN
	-- READ COMMITTED: what this reads is not older than our lock on the table,
	-- which keeps a sealing from beginning.  Otherwise the snapshot may be
	-- older than that, and it is for the commit to find out.
	IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
		AND EXISTS (SELECT FROM logq_store.segment
			WHERE name = TG_TABLE_NAME AND state = 'open' AND sealing IS NULL) THEN
		RETURN NULL;
	END IF;
	IF NOT EXISTS (SELECT FROM logq_store.reopened WHERE segment = TG_TABLE_NAME) THEN
		INSERT INTO logq_store.reopened VALUES (TG_TABLE_NAME);
	END IF;
	RETURN NULL;
END
$reopen$;
REVOKE ALL ON FUNCTION logq_store.reopen_segment() FROM PUBLIC;

-- Opens a segment again, at the commit.  Readers see its new rows and the new
-- version together.
CREATE FUNCTION logq_store.reopen_now()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $now$
DECLARE
	seg		logq_store.segment;
	ver		bigint;
BEGIN
	DELETE FROM logq_store.reopened WHERE segment = NEW.segment;
	-- a snapshot that is older than a change of what is locked fails here
	PERFORM FROM logq_store.catalog_version FOR UPDATE;
	-- not FOR UPDATE: a sealing under way has a key-share lock, from foreign keys
	SELECT * INTO seg FROM logq_store.segment WHERE name = NEW.segment FOR NO KEY UPDATE;
	IF seg.state = 'sealed' THEN
		ver := logq_store.raise_version();
		UPDATE logq_store.segment SET state = 'open', sealing = NULL, version = ver
			WHERE name = NEW.segment;
	ELSIF seg.sealing IS NOT NULL THEN
		UPDATE logq_store.segment SET sealing = NULL WHERE name = NEW.segment;
	END IF;
	RETURN NULL;
END
$now$;
REVOKE ALL ON FUNCTION logq_store.reopen_now() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER logq_reopen_now AFTER INSERT ON logq_store.reopened
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION logq_store.reopen_now();
ALTER TABLE logq_store.reopened ENABLE ALWAYS TRIGGER logq_reopen_now;

-- Attaches the trigger and notes a token that any write takes away again, so
-- that the sealing which got it can tell.  No transaction that has written to
-- the segment may be left, and none shall wait because of us: fails at once
-- (55P03) while there is one.  NULL: the segment is not there, or is sealed.
CREATE FUNCTION logq_store.begin_seal(seg name)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $begin$
DECLARE
	token	bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
	found_it	boolean;
BEGIN
	IF NOT EXISTS (SELECT FROM logq_store.segment WHERE name = seg AND state = 'open') THEN
		RETURN NULL;
	END IF;
	EXECUTE format('LOCK TABLE logq_store.%I IN SHARE ROW EXCLUSIVE MODE NOWAIT', seg);
	IF NOT EXISTS (SELECT FROM pg_trigger
			WHERE tgrelid = format('logq_store.%I', seg)::regclass AND tgname = 'logq_reopen') THEN
		EXECUTE format('CREATE TRIGGER logq_reopen AFTER INSERT OR UPDATE OR DELETE ON logq_store.%I
			FOR EACH ROW EXECUTE FUNCTION logq_store.reopen_segment()', seg);
		EXECUTE format('CREATE TRIGGER logq_reopen_truncate AFTER TRUNCATE ON logq_store.%I
			FOR EACH STATEMENT EXECUTE FUNCTION logq_store.reopen_segment()', seg);
	END IF;
	-- replication must not go past them
	IF EXISTS (SELECT FROM pg_trigger
			WHERE tgrelid = format('logq_store.%I', seg)::regclass AND tgname LIKE 'logq\_reopen%' AND tgenabled <> 'A') THEN
		EXECUTE format('ALTER TABLE logq_store.%I ENABLE ALWAYS TRIGGER logq_reopen', seg);
		EXECUTE format('ALTER TABLE logq_store.%I ENABLE ALWAYS TRIGGER logq_reopen_truncate', seg);
	END IF;
	UPDATE logq_store.segment SET sealing = token WHERE name = seg AND state = 'open'
		RETURNING true INTO found_it;
	RETURN CASE WHEN found_it THEN token END;
END
$begin$;
REVOKE ALL ON FUNCTION logq_store.begin_seal(name) FROM PUBLIC;

-- Drops a segment with all that is known of it.  Locks the log table: set
-- lock_timeout.  False: it was not there.
CREATE FUNCTION logq_store.drop_segment(seg name)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $drop$
BEGIN
	IF NOT EXISTS (SELECT FROM logq_store.segment WHERE name = seg) THEN
		RETURN false;
	END IF;
	-- not of other segments: their readers may go on
	LOCK TABLE ONLY logq_store.log IN ACCESS EXCLUSIVE MODE;
	EXECUTE format('DROP TABLE IF EXISTS logq_store.%I', seg);
	PERFORM logq_store.raise_version();
	DELETE FROM logq_store.segment WHERE name = seg;
	RETURN true;
END
$drop$;
REVOKE ALL ON FUNCTION logq_store.drop_segment(name) FROM PUBLIC;

-- How far each Kafka partition has been taken in: this store has all rows that
-- are routed to it of all messages before next_offset.  Moved in the
-- transaction that writes the rows.  routing says by what and among which
-- stores they were routed, for whoever has to finish what is half done.
CREATE TABLE logq_store.kafka_offset (
	cluster			text COLLATE "C" NOT NULL,	-- Kafka's own id of it
	topic			text COLLATE "C" NOT NULL,
	kafka_partition	integer NOT NULL,
	next_offset		bigint NOT NULL,
	routing			text NOT NULL,
	moved_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (cluster, topic, kafka_partition)
) WITH (fillfactor = 25);

-- Messages, or records in them, that could not be made a row
CREATE TABLE logq_store.dead_letter (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	received_at		timestamptz NOT NULL DEFAULT now(),
	cluster			text NOT NULL,
	topic			text NOT NULL,
	kafka_partition	integer NOT NULL,
	kafka_offset	bigint NOT NULL,
	record			integer,			-- which one of the message it was, from 0: payload is that
									-- one alone, as a message; NULL: payload is the message
	ts				timestamptz,		-- of the message, by Kafka
	key				bytea,
	headers			bytea,
	payload			bytea,
	reason			text NOT NULL,
	retried_at		timestamptz
);

-- Moves offsets on, if they are where the caller thinks: one who has been
-- overtaken must not write.  To be called first in the transaction, as its row
-- locks make others wait; they fail then.
CREATE FUNCTION logq_store.move_offsets(on_cluster text, of_topic text, partitions integer[],
	expected bigint[], next bigint[], routed text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $move$
DECLARE
	moved	integer;
BEGIN
	UPDATE logq_store.kafka_offset o
		SET next_offset = m.next_offset, routing = routed, moved_at = clock_timestamp()
		FROM unnest(partitions, expected, next) AS m(kafka_partition, expected, next_offset)
		WHERE o.cluster = on_cluster AND o.topic = of_topic
			AND o.kafka_partition = m.kafka_partition AND o.next_offset = m.expected;
	GET DIAGNOSTICS moved = ROW_COUNT;
	IF moved <> cardinality(partitions) THEN
		RAISE EXCEPTION 'offsets of topic "%" are not where they are expected', of_topic
			USING ERRCODE = 'LQ001',
			DETAIL = 'Somebody else has moved them.';
	END IF;
END
$move$;
REVOKE ALL ON FUNCTION logq_store.move_offsets(text, text, integer[], bigint[], bigint[], text) FROM PUBLIC;

GRANT SELECT ON logq_store.store, logq_store.catalog_version, logq_store.reopened TO PUBLIC;
GRANT SELECT (name, lower, upper, state, version, rows) ON logq_store.segment TO PUBLIC;
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

-- One step to the next format of the store; format 2 had nothing of Kafka.
-- What comes out is what logq.store_sql() makes.
CREATE FUNCTION logq.store_upgrade_sql(from_format integer)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
SELECT CASE from_format WHEN 2 THEN $step$
-- How far each Kafka partition has been taken in: this store has all rows that
-- are routed to it of all messages before next_offset.  Moved in the
-- transaction that writes the rows.  routing says by what and among which
-- stores they were routed, for whoever has to finish what is half done.
CREATE TABLE logq_store.kafka_offset (
	cluster			text COLLATE "C" NOT NULL,	-- Kafka's own id of it
	topic			text COLLATE "C" NOT NULL,
	kafka_partition	integer NOT NULL,
	next_offset		bigint NOT NULL,
	routing			text NOT NULL,
	moved_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (cluster, topic, kafka_partition)
) WITH (fillfactor = 25);

-- Messages, or records in them, that could not be made a row
CREATE TABLE logq_store.dead_letter (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	received_at		timestamptz NOT NULL DEFAULT now(),
	cluster			text NOT NULL,
	topic			text NOT NULL,
	kafka_partition	integer NOT NULL,
	kafka_offset	bigint NOT NULL,
	record			integer,			-- which one of the message it was, from 0: payload is that
									-- one alone, as a message; NULL: payload is the message
	ts				timestamptz,		-- of the message, by Kafka
	key				bytea,
	headers			bytea,
	payload			bytea,
	reason			text NOT NULL,
	retried_at		timestamptz
);

-- Moves offsets on, if they are where the caller thinks: one who has been
-- overtaken must not write.  To be called first in the transaction, as its row
-- locks make others wait; they fail then.
CREATE FUNCTION logq_store.move_offsets(on_cluster text, of_topic text, partitions integer[],
	expected bigint[], next bigint[], routed text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $move$
DECLARE
	moved	integer;
BEGIN
	UPDATE logq_store.kafka_offset o
		SET next_offset = m.next_offset, routing = routed, moved_at = clock_timestamp()
		FROM unnest(partitions, expected, next) AS m(kafka_partition, expected, next_offset)
		WHERE o.cluster = on_cluster AND o.topic = of_topic
			AND o.kafka_partition = m.kafka_partition AND o.next_offset = m.expected;
	GET DIAGNOSTICS moved = ROW_COUNT;
	IF moved <> cardinality(partitions) THEN
		RAISE EXCEPTION 'offsets of topic "%" are not where they are expected', of_topic
			USING ERRCODE = 'LQ001',
			DETAIL = 'Somebody else has moved them.';
	END IF;
END
$move$;
REVOKE ALL ON FUNCTION logq_store.move_offsets(text, text, integer[], bigint[], bigint[], text) FROM PUBLIC;
UPDATE logq_store.store SET format = 3;
$step$
WHEN 3 THEN $step$
-- Gives a segment the row-level security of the log table, and no other.  New
-- segments get it when they are made; after a change, run it for the others.
-- FORCE is not taken over: whoever seals must see all rows.
CREATE FUNCTION logq_store.copy_row_security(seg name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $security$
DECLARE
	policy	record;
	enabled	boolean;
BEGIN
	FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = format('logq_store.%I', seg)::regclass LOOP
		EXECUTE format('DROP POLICY %I ON logq_store.%I', policy.polname, seg);
	END LOOP;
	FOR policy IN
		SELECT polname AS name, CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END AS kind,
			CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
				WHEN 'd' THEN 'DELETE' ELSE 'ALL' END AS command,
			(SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
				FROM unnest(polroles) r) AS roles,
			' USING (' || pg_get_expr(polqual, polrelid) || ')' AS qual,
			' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')' AS checks
		FROM pg_policy WHERE polrelid = 'logq_store.log'::regclass
	LOOP
		EXECUTE format('CREATE POLICY %I ON logq_store.%I AS %s FOR %s TO %s', policy.name, seg,
			policy.kind, policy.command, policy.roles) || concat(policy.qual, policy.checks);
	END LOOP;
	SELECT relrowsecurity INTO enabled FROM pg_class WHERE oid = 'logq_store.log'::regclass;
	EXECUTE format('ALTER TABLE logq_store.%I %s ROW LEVEL SECURITY', seg,
		CASE WHEN enabled THEN 'ENABLE' ELSE 'DISABLE' END);
END
$security$;
REVOKE ALL ON FUNCTION logq_store.copy_row_security(name) FROM PUBLIC;

-- Makes the segment that takes a row of the given time, unless it is there.
-- A table that is then attached: CREATE TABLE ... PARTITION OF would lock
-- out readers and writers of all segments.
CREATE OR REPLACE FUNCTION logq_store.make_segment(at timestamptz)
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
	acl		record;
BEGIN
	IF NOT has_table_privilege(session_user, 'logq_store.log', 'INSERT') THEN
		RAISE insufficient_privilege
			USING MESSAGE = 'permission denied to make a segment of logq_store.log';
	END IF;
	IF EXISTS (SELECT FROM logq_store.segment WHERE lower <= at AND upper > at) THEN
		RETURN;
	END IF;
	-- one maker at a time; the next one finds our segment.  This lock is the one
	-- that ATTACH needs, and must not be waited for with the version in hand.
	LOCK TABLE ONLY logq_store.log IN SHARE UPDATE EXCLUSIVE MODE;
	PERFORM FROM logq_store.catalog_version FOR UPDATE;
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
	-- and no more of it; a policy that does not fit must not stop the logs
	IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'logq_store.log'::regclass) THEN
		BEGIN
			PERFORM logq_store.copy_row_security(seg);
		EXCEPTION WHEN OTHERS THEN
			EXECUTE format('ALTER TABLE logq_store.%I ENABLE ROW LEVEL SECURITY', seg);
			RAISE WARNING 'policies of logq_store.log could not be given to segment "%": %', seg, SQLERRM
				USING HINT = 'Until they are, nobody but its owner sees its rows.';
		END;
	END IF;
	EXECUTE format('ALTER TABLE logq_store.log ATTACH PARTITION logq_store.%I FOR VALUES FROM (%L) TO (%L)', seg, lo, hi);
	INSERT INTO logq_store.segment (name, lower, upper, version) VALUES (seg, lo, hi, logq_store.raise_version());
END
$make$;
UPDATE logq_store.store SET format = 4;
$step$
END
$function$;
COMMENT ON FUNCTION logq.store_upgrade_sql(integer) IS
	'the SQL that logq.upgrade_store() runs on a partition whose store has this format, a step to a later one; NULL when there is none';

CREATE FUNCTION logq.upgrade_store(server name)
RETURNS integer
AS 'MODULE_PATHNAME', 'logq_upgrade_store'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.upgrade_store(name) IS
	'bring the store of a partition to the format of this version; returns the format that it had';
REVOKE ALL ON FUNCTION logq.upgrade_store(name) FROM PUBLIC;

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
-- The coordinator's copy of the partitions' catalogs.  It can be made anew
-- at any time, so pg_dump leaves it out.
-- ---------------------------------------------------------------------

CREATE TABLE logq.catalog (
	number		integer PRIMARY KEY REFERENCES logq.partition ON DELETE CASCADE,
	version		bigint NOT NULL,
	changed		bigint NOT NULL,
	deleted		bigint NOT NULL,
	segment_interval	interval,
	retention	interval,
	copied_at	timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE logq.catalog IS
	'what this coordinator knows of each partition''s catalog; kept by the maintenance worker and logq.refresh_catalog()';
COMMENT ON COLUMN logq.catalog.version IS 'version of the partition''s catalog that this is a copy of';
COMMENT ON COLUMN logq.catalog.changed IS 'raised with each change of this copy';
COMMENT ON COLUMN logq.catalog.deleted IS 'value of "changed" when a segment was last taken out of this copy';

-- columns as in logq_store.segment; the lists of filters go together
CREATE TABLE logq.catalog_segment (
	number			integer NOT NULL REFERENCES logq.catalog ON DELETE CASCADE,
	name			name NOT NULL,
	changed			bigint NOT NULL,
	lower			timestamptz NOT NULL,
	upper			timestamptz NOT NULL,
	state			text NOT NULL,
	version			bigint NOT NULL,
	estimated_rows	float8 NOT NULL,
	sealed_at		timestamptz,
	rows			bigint,
	bytes			bigint,
	min_ts			timestamptz,
	max_ts			timestamptz,
	min_id			bigint,
	max_id			bigint,
	min_trace_id	text COLLATE "C",
	max_trace_id	text COLLATE "C",
	levels			text[],
	level_rows		bigint[],
	services		text[],
	service_rows	bigint[],
	service_level_rows	bigint[],
	odd_case		boolean,
	level_rollup	bigint,
	service_rollup	bigint,
	filter_fields	text[],
	filter_values	bigint[],
	filter_blocks	integer[],
	filter_groups	integer[],
	filter_slots	integer[],
	PRIMARY KEY (number, name)
) WITH (toast_tuple_target = 8160);	-- read all at once by every new backend
CREATE INDEX catalog_segment_changed ON logq.catalog_segment (number, changed);
COMMENT ON TABLE logq.catalog_segment IS 'copy of the metadata of all segments; see the view logq.segments';
COMMENT ON COLUMN logq.catalog_segment.estimated_rows IS 'rows as the partition''s planner estimates them, -1 when it does not';
COMMENT ON COLUMN logq.catalog_segment.filter_blocks IS 'blocks of the filter of each field, 0 when there is none';
COMMENT ON COLUMN logq.catalog_segment.filter_groups IS 'group that holds the filter, 0 when it stands in logq.catalog_filter';
COMMENT ON COLUMN logq.catalog_segment.filter_slots IS 'place of the filter in its group, from 0';

CREATE TABLE logq.catalog_filter (
	number		integer NOT NULL REFERENCES logq.catalog ON DELETE CASCADE,
	segment		name NOT NULL,
	field		text COLLATE "C" NOT NULL,
	version		bigint NOT NULL,
	filter		bytea,
	sketch		bytea,
	PRIMARY KEY (number, segment, field)
);
ALTER TABLE logq.catalog_filter ALTER filter SET STORAGE EXTERNAL, ALTER sketch SET STORAGE EXTERNAL;
CREATE INDEX catalog_filter_own ON logq.catalog_filter (number) WHERE filter IS NOT NULL;
COMMENT ON TABLE logq.catalog_filter IS
	'filters of segments that are not in a group yet, and sketches of all; docs/formats.md describes both';

-- Block-major: a look-up reads one short row for 64 segments
CREATE TABLE logq.catalog_filter_group (
	number		integer NOT NULL REFERENCES logq.catalog ON DELETE CASCADE,
	field		text COLLATE "C" NOT NULL,
	"group"		integer NOT NULL,
	block		integer NOT NULL,
	data		bytea NOT NULL,
	PRIMARY KEY (number, field, "group", block)
);
ALTER TABLE logq.catalog_filter_group ALTER data SET STORAGE PLAIN;
COMMENT ON TABLE logq.catalog_filter_group IS
	'one block of the filters of 64 segments in each row';
CREATE SEQUENCE logq.catalog_group_number AS integer;
COMMENT ON SEQUENCE logq.catalog_group_number IS 'numbers of groups in logq.catalog_filter_group';

CREATE FUNCTION logq.refresh_catalog(partition name DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'logq_refresh_catalog'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION logq.refresh_catalog(name) IS
	'bring the copy of a partition''s catalog, or of all (NULL), up to date; returns how many segments have changed; an error if a partition does not answer';
REVOKE ALL ON FUNCTION logq.refresh_catalog(name) FROM PUBLIC;

CREATE FUNCTION logq.catalog_status(
	OUT number integer, OUT version bigint, OUT confirmed_at timestamptz, OUT error text,
	OUT failing_since timestamptz, OUT doubted_at timestamptz, OUT asked_at timestamptz,
	OUT store_format integer, OUT known_format integer,
	OUT clock_offset_ms float8, OUT clock_error_ms float8,
	OUT connections integer, OUT max_connections integer,
	OUT seal_error text, OUT ahead_error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_catalog_status'
LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION logq.catalog_status() IS
	'when the maintenance worker, or a query, last found the copy of each partition''s catalog to be true; why it could not, and since when; since when it is in doubt; and what the partition said of itself at asked_at: the format of its store (beside the one that we know), its clock less ours in ms, which may be wrong by clock_error_ms, and the connections of all clients to its server, of so many that there may be; and what went wrong when segments were last dropped and sealed, or made ahead';
REVOKE ALL ON FUNCTION logq.catalog_status() FROM PUBLIC;

CREATE FUNCTION logq.catalog_places(OUT taken integer, OUT places integer)
RETURNS record
AS 'MODULE_PATHNAME', 'logq_catalog_places'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.catalog_places() IS
	'how many partitions, of all databases, shared memory keeps the state of the catalog''s copy of, and of how many it can: beyond that, a catalog is never confirmed, and its partition asked by every query';
REVOKE ALL ON FUNCTION logq.catalog_places() FROM PUBLIC;

CREATE FUNCTION logq.admission_status(
	OUT query_limit integer, OUT running integer, OUT waiting integer, OUT peak integer,
	OUT admitted bigint, OUT waited bigint, OUT rejected bigint, OUT wait_ms float8,
	OUT connection_limit integer, OUT connections bigint, OUT connections_reserved bigint,
	OUT connections_waiting bigint, OUT connections_rejected bigint,
	OUT rejected_at timestamptz, OUT connections_rejected_at timestamptz)
RETURNS record
AS 'MODULE_PATHNAME', 'logq_admission_status'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.admission_status() IS 'see logq.stat_admission';
REVOKE ALL ON FUNCTION logq.admission_status() FROM PUBLIC;

CREATE VIEW logq.stat_admission AS
	SELECT query_limit, running, waiting, peak, admitted, waited, rejected, wait_ms,
		connection_limit, connections, connections_reserved, connections_waiting, connections_rejected,
		rejected_at, connections_rejected_at
	FROM logq.admission_status();
COMMENT ON VIEW logq.stat_admission IS
	'one row: queries of all sessions that run and that wait for others, connections to all partitions, and what was admitted, and turned away, since the coordinator was started';
GRANT SELECT ON logq.stat_admission TO PUBLIC;

-- ---------------------------------------------------------------------
-- Cache
-- ---------------------------------------------------------------------

-- For everybody, as pg_stat_database is: there are only totals.  The reason,
-- which may name a host, is for those with pg_read_all_stats.
CREATE FUNCTION logq.cache_status(
	OUT level text, OUT state text, OUT reason text, OUT since timestamptz,
	OUT entries bigint, OUT bytes bigint, OUT size_limit bigint,
	OUT hits bigint, OUT misses bigint, OUT expired bigint, OUT damaged bigint,
	OUT stores bigint, OUT too_cheap bigint, OUT too_large bigint, OUT evictions bigint,
	OUT dropped bigint, OUT errors bigint, OUT timeouts bigint,
	OUT bytes_read bigint, OUT bytes_written bigint, OUT saved_ms float8, OUT stats_reset timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_cache_status'
LANGUAGE C VOLATILE STRICT ROWS 2;
COMMENT ON FUNCTION logq.cache_status() IS 'see logq.stat_cache';

CREATE VIEW logq.stat_cache AS
	SELECT level, state, reason, since, entries, bytes, size_limit,
		hits, misses, hits::float8 / nullif(hits + misses, 0) AS hit_ratio, expired, damaged,
		stores, too_cheap, too_large, evictions, dropped, errors, timeouts,
		bytes_read, bytes_written, saved_ms, stats_reset
	FROM logq.cache_status();
COMMENT ON VIEW logq.stat_cache IS
	'one row for each level of the cache, memory and redis, none unless the library is in shared_preload_libraries: its state (why and since when, of redis), what memory holds, and what was found, stored and saved by the queries of all databases since stats_reset; NULL is what a level does not have';
GRANT SELECT ON logq.stat_cache TO PUBLIC;

CREATE FUNCTION logq.cache_reset_stats()
RETURNS void
AS 'MODULE_PATHNAME', 'logq_cache_reset_stats'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.cache_reset_stats() IS 'let the counters of logq.stat_cache begin at 0 again';
REVOKE ALL ON FUNCTION logq.cache_reset_stats() FROM PUBLIC;

-- ---------------------------------------------------------------------
-- Statistics of queries
-- ---------------------------------------------------------------------

-- For everybody, as pg_stat_database is: there are only totals
CREATE FUNCTION logq.query_status(
	OUT queries bigint, OUT errors bigint, OUT partial bigint, OUT rows bigint, OUT bytes bigint,
	OUT partitions_asked bigint, OUT partitions_pruned bigint,
	OUT segments_asked bigint, OUT segments_cached bigint, OUT segments_pruned bigint,
	OUT pruned_by_time bigint, OUT pruned_by_id bigint, OUT pruned_by_level bigint,
	OUT pruned_by_service bigint, OUT pruned_by_trace_id bigint, OUT pruned_by_attrs bigint,
	OUT pruned_by_words bigint, OUT pruned_by_several bigint, OUT pruned_by_partition bigint,
	OUT pruned_by_partition_id bigint, OUT pruned_by_contradiction bigint,
	OUT retried bigint, OUT hedged bigint,
	OUT queued_ms float8, OUT total_ms float8, OUT first_row_ms float8,
	OUT p50_ms float8, OUT p95_ms float8, OUT p99_ms float8, OUT max_ms float8,
	OUT first_row_p50_ms float8, OUT first_row_p95_ms float8, OUT first_row_p99_ms float8,
	OUT first_row_max_ms float8, OUT stats_reset timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_query_status'
LANGUAGE C VOLATILE STRICT ROWS 1;
COMMENT ON FUNCTION logq.query_status() IS 'see logq.stat_queries';

CREATE VIEW logq.stat_queries AS
	SELECT queries, errors, partial, p50_ms, p95_ms, p99_ms, max_ms,
		first_row_p50_ms, first_row_p95_ms, first_row_p99_ms, first_row_max_ms,
		total_ms, first_row_ms, queued_ms, rows, bytes, retried, hedged,
		partitions_asked, partitions_pruned,
		100.0::float8 * partitions_pruned / nullif(partitions_asked + partitions_pruned, 0)
			AS partitions_pruned_percent,
		segments_asked, segments_cached, segments_pruned,
		100.0::float8 * segments_pruned / nullif(segments_asked + segments_cached + segments_pruned, 0)
			AS segments_pruned_percent,
		pruned_by_time, pruned_by_id, pruned_by_level, pruned_by_service, pruned_by_trace_id,
		pruned_by_attrs, pruned_by_words, pruned_by_several, pruned_by_partition,
		pruned_by_partition_id, pruned_by_contradiction, stats_reset
	FROM logq.query_status();
COMMENT ON VIEW logq.stat_queries IS
	'one row about the queries of this database that have ended since stats_reset, none unless the library is in shared_preload_libraries: how many, how long they took (percentiles are estimates, from logq.query_histogram()), what they asked, and what they could leave out and why; kept over restarts';
GRANT SELECT ON logq.stat_queries TO PUBLIC;

CREATE FUNCTION logq.query_histogram(OUT le_ms float8, OUT count bigint, OUT first_row_count bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_query_histogram'
LANGUAGE C VOLATILE STRICT ROWS 38;
COMMENT ON FUNCTION logq.query_histogram() IS
	'how many queries of this database took up to le_ms, and how many had their first row in that time: two bounds to each power of two from 0.25 to 65536, and infinity';

-- The text is for the user whose query it was and those with pg_read_all_stats
CREATE FUNCTION logq.slow_query_status(
	OUT started_at timestamptz, OUT role name, OUT database name,
	OUT total_ms float8, OUT first_row_ms float8, OUT queued_ms float8,
	OUT failed boolean, OUT partial boolean,
	OUT partitions_asked integer, OUT partitions_pruned integer,
	OUT segments_asked bigint, OUT segments_cached bigint, OUT segments_pruned bigint,
	OUT rows bigint, OUT bytes bigint, OUT retried bigint, OUT hedged bigint, OUT query text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_slow_query_status'
LANGUAGE C VOLATILE STRICT ROWS 100;
COMMENT ON FUNCTION logq.slow_query_status() IS 'see logq.slow_queries';

CREATE VIEW logq.slow_queries AS
	SELECT started_at, role, database, total_ms, first_row_ms, queued_ms, failed, partial,
		partitions_asked, partitions_pruned, segments_asked, segments_cached, segments_pruned,
		rows, bytes, retried, hedged, query
	FROM logq.slow_query_status();
COMMENT ON VIEW logq.slow_queries IS
	'the last 100 queries of all databases that took at least logq.slow_query_ms, the last to end first, since the coordinator was started or logq.reset_stats(); the text, at most 1024 bytes of it, is for the user whose query it was and for members of pg_read_all_stats';
GRANT SELECT ON logq.slow_queries TO PUBLIC;

CREATE FUNCTION logq.reset_stats()
RETURNS void
AS 'MODULE_PATHNAME', 'logq_reset_stats'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.reset_stats() IS
	'let the counters of logq.stat_queries, of all databases, and of logq.stat_cache begin at 0 again, and forget logq.slow_queries';
REVOKE ALL ON FUNCTION logq.reset_stats() FROM PUBLIC;

CREATE VIEW logq.segments AS
	SELECT p.server AS partition, s.name, s.lower, s.upper, s.state, s.sealed_at,
		CASE WHEN s.state = 'sealed' THEN s.rows WHEN s.estimated_rows >= 0 THEN s.estimated_rows::bigint END AS rows,
		s.state = 'sealed' AS exact,
		s.bytes, s.min_ts, s.max_ts, s.min_id, s.max_id,
		s.levels, s.level_rows, s.services, s.service_rows,
		(SELECT jsonb_object_agg(f.field, jsonb_build_object('distinct', f.n, 'bytes', f.blocks * 32,
				'stored', CASE WHEN f.blocks = 0 THEN 'none' WHEN f.grp > 0 THEN 'group' ELSE 'own' END))
			FROM unnest(s.filter_fields, s.filter_values, s.filter_blocks, s.filter_groups)
				AS f(field, n, blocks, grp)) AS filters,
		s.version, st.confirmed_at, now() - st.confirmed_at AS confirmation_age
	FROM logq.catalog_segment s
		JOIN logq.partition p USING (number)
		LEFT JOIN logq.catalog_status() st USING (number);
COMMENT ON VIEW logq.segments IS
	'all segments as this coordinator knows them; what is known of the contents of a segment that is open is of the past';

CREATE VIEW logq.stat_segments AS
	SELECT p.server AS partition, count(s.name) FILTER (WHERE s.state = 'open') AS open_segments,
		count(s.name) FILTER (WHERE s.state = 'sealed') AS sealed_segments,
		-- the version of a segment says when it was made, or opened again
		count(s.name) FILTER (WHERE s.state = 'open' AND greatest(s.upper, to_timestamp(greatest(s.version, 0) / 1000000))
			<= clock_timestamp() - seal_after.value) AS sealing_due,
		-- a partition's nonsense must not be an error, and hide all others
		greatest(least(coalesce(sum(CASE WHEN s.state = 'sealed' THEN s.rows::numeric WHEN s.estimated_rows BETWEEN 0 AND 1e18 THEN s.estimated_rows::numeric END), 0), 9223372036854775807), 0)::bigint AS rows,
		greatest(least(coalesce(sum(s.bytes) FILTER (WHERE s.state = 'sealed'), 0), 9223372036854775807), 0)::bigint AS sealed_bytes,
		count(s.name) FILTER (WHERE s.state = 'sealed' AND (s.level_rollup IS NOT NULL OR s.service_rollup IS NOT NULL)) AS rolled_up_segments,
		greatest(least(coalesce(sum(coalesce(s.level_rollup, 0)::numeric + coalesce(s.service_rollup, 0)) FILTER (WHERE s.state = 'sealed'), 0), 9223372036854775807), 0)::bigint AS rollup_rows,
		st.confirmed_at
	FROM logq.partition p
		CROSS JOIN (SELECT max(setting::bigint) * interval '1 s' AS value
			FROM pg_settings WHERE name = 'logq.seal_after') seal_after
		LEFT JOIN logq.catalog_segment s USING (number)
		LEFT JOIN logq.catalog_status() st USING (number)
	GROUP BY p.number, st.confirmed_at;
COMMENT ON VIEW logq.stat_segments IS
	'one row for each partition, from the coordinator''s copy of its catalog: how many segments are open and sealed, how many that are open should be sealed by now, rows (those of open segments estimated), what sealed segments take, how many of these have rollups and of how many rows, and when the copy was last found true';

-- ---------------------------------------------------------------------
-- Servers and queries
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.server_status(
	OUT partition name, OUT server text, OUT role text, OUT breaker text,
	OUT since timestamptz, OUT reason text, OUT failures integer,
	OUT latency_ms float8, OUT p95_ms float8, OUT connect_p95_ms float8, OUT requests bigint, OUT errors bigint,
	OUT hedges bigint, OUT hedge_wins bigint, OUT lag_ms bigint, OUT checked_at timestamptz,
	OUT connections integer, OUT waiting integer,
	OUT state text, OUT answered_at timestamptz, OUT last_error text, OUT last_error_at timestamptz,
	OUT catalog_confirmed_at timestamptz, OUT catalog_age_ms float8,
	OUT catalog_failing_since timestamptz, OUT catalog_error text,
	OUT server_connections integer, OUT server_max_connections integer, OUT clock_offset_ms float8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_server_status'
LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION logq.server_status() IS 'see logq.stat_partitions';
REVOKE ALL ON FUNCTION logq.server_status() FROM PUBLIC;

CREATE VIEW logq.stat_partitions AS
	SELECT partition, server, role, state, breaker, since, reason, failures, latency_ms, p95_ms,
		connect_p95_ms, requests, errors, hedges, hedge_wins, lag_ms, checked_at, connections, waiting,
		answered_at, last_error, last_error_at,
		catalog_confirmed_at, catalog_age_ms, catalog_failing_since, catalog_error,
		server_connections, server_max_connections, clock_offset_ms
	FROM logq.server_status();
COMMENT ON VIEW logq.stat_partitions IS
	'the servers of all partitions, primaries and replicas, as the queries and workers of this coordinator have found them since its start: its state (up: it answered last; failing: it did not; down: its breaker is not closed; unknown: it was not asked yet), circuit breaker (closed: it is asked; open: it is not, for the reason given; half-open: somebody looks whether it is back), ms to the first result over an open connection (moving average, 95th percentile) and with connecting (95th percentile), how far a replica was behind when it was last asked, and its last error. In the primary''s row, of the partition as a whole: this coordinator''s open connections and the sessions that wait for one, how old the copy of its catalog is, and, when that cannot be confirmed, since when and why; and what its server said in the last seconds of all its connections, how many it takes, and its clock less ours';

CREATE FUNCTION logq.last_query(
	OUT started_at timestamptz, OUT complete boolean, OUT partitions integer,
	OUT partitions_asked integer, OUT partitions_pruned integer, OUT partitions_failed integer,
	OUT missing name[], OUT segments_asked bigint, OUT segments_pruned bigint,
	OUT retried bigint, OUT hedged bigint, OUT rows bigint, OUT bytes bigint,
	OUT first_row_ms float8, OUT total_ms float8, OUT queued_ms float8,
	OUT cached bigint, OUT cache_age_ms float8, OUT catalog_age_ms float8, OUT running boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_last_query'
LANGUAGE C VOLATILE STRICT ROWS 1;
COMMENT ON FUNCTION logq.last_query() IS
	'the last query of this session that read log tables, also one that still runs (a cursor) or has failed; no row before the first one. complete: nothing is missing from what was returned so far; retried: requests that were made again, at another server or over another connection; hedged: second requests beside a slow one; cached: segments answered from the cache; cache_age_ms: age of the oldest of these answers when the query began; times in ms, NULL where there is none';

-- ---------------------------------------------------------------------
-- Maintenance
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.seal(on_partition name DEFAULT NULL, only_segment name DEFAULT NULL,
	before timestamptz DEFAULT NULL,
	OUT partition name, OUT segment name, OUT rows bigint, OUT seconds float8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_seal'
LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION logq.seal(name, name, timestamptz) IS
	'seal the open segments that end no later than "before" (default: logq.seal_after ago), on one partition or all (NULL), or only the named one; one row for each that was sealed, with its rows and the seconds it took';
REVOKE ALL ON FUNCTION logq.seal(name, name, timestamptz) FROM PUBLIC;

CREATE FUNCTION logq.set_retention(retention interval, partition name DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'logq_set_retention'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION logq.set_retention(interval, name) IS
	'let the maintenance worker drop segments that ended longer than this ago, on one partition or all (NULL); a NULL interval keeps everything, which is the default';
REVOKE ALL ON FUNCTION logq.set_retention(interval, name) FROM PUBLIC;

-- ---------------------------------------------------------------------
-- Kafka
-- ---------------------------------------------------------------------

CREATE TABLE logq.topic (
	number		integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	name		text COLLATE "C" NOT NULL UNIQUE,
	brokers		text NOT NULL,
	format		text NOT NULL DEFAULT 'auto'
		CHECK (format IN ('auto', 'json', 'otlp', 'fluentbit', 'vector', 'raw')),
	options		jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(options) = 'object'),
	paused		boolean NOT NULL DEFAULT false,
	added		timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE logq.topic IS
	'Kafka topics that are taken in; maintained by logq.add_topic() and the like';
COMMENT ON COLUMN logq.topic.options IS
	'properties of librdkafka, and those of logq, which begin with "logq."; secret ones stand in logq.topic_secret';
SELECT pg_catalog.pg_extension_config_dump('logq.topic', '');
SELECT pg_catalog.pg_extension_config_dump('logq.topic_number_seq', '');

-- apart, so that what may be shown can be shown
CREATE TABLE logq.topic_secret (
	number		integer PRIMARY KEY REFERENCES logq.topic ON DELETE CASCADE,
	options		jsonb NOT NULL CHECK (jsonb_typeof(options) = 'object')
);
REVOKE ALL ON logq.topic_secret FROM PUBLIC;
COMMENT ON TABLE logq.topic_secret IS 'passwords and the like of topics; nothing shows them';
SELECT pg_catalog.pg_extension_config_dump('logq.topic_secret', '');

CREATE FUNCTION logq.topic_changed()
RETURNS trigger
AS 'MODULE_PATHNAME', 'logq_topic_changed'
LANGUAGE C;
COMMENT ON FUNCTION logq.topic_changed() IS 'tells workers that logq.topic has changed';
REVOKE ALL ON FUNCTION logq.topic_changed() FROM PUBLIC;
CREATE TRIGGER topic_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON logq.topic
	FOR EACH STATEMENT EXECUTE FUNCTION logq.topic_changed();
CREATE TRIGGER topic_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON logq.topic_secret
	FOR EACH STATEMENT EXECUTE FUNCTION logq.topic_changed();

CREATE FUNCTION logq.add_topic(name text, brokers text, format text DEFAULT 'auto',
	options jsonb DEFAULT '{}')
RETURNS integer
AS 'MODULE_PATHNAME', 'logq_add_topic'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION logq.add_topic(text, text, text, jsonb) IS
	'take in a Kafka topic, or change how it is taken in; brokers as host:port, separated by commas; format auto, json, otlp, fluentbit, vector or raw; options are properties of librdkafka, and logq.key, logq.service, logq.start; returns its number';
REVOKE ALL ON FUNCTION logq.add_topic(text, text, text, jsonb) FROM PUBLIC;

CREATE FUNCTION logq.remove_topic(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'logq_remove_topic'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.remove_topic(text) IS
	'take in a topic no longer; its rows stay, and where it has come to, should it be added again';
REVOKE ALL ON FUNCTION logq.remove_topic(text) FROM PUBLIC;

CREATE FUNCTION logq.pause_topic(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'logq_pause_topic'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.pause_topic(text) IS 'stop taking in a topic until logq.resume_topic()';
REVOKE ALL ON FUNCTION logq.pause_topic(text) FROM PUBLIC;

CREATE FUNCTION logq.resume_topic(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'logq_resume_topic'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.resume_topic(text) IS 'go on with a topic where logq.pause_topic() has stopped it';
REVOKE ALL ON FUNCTION logq.resume_topic(text) FROM PUBLIC;

CREATE FUNCTION logq.ingest_status(
	OUT topic text, OUT kafka_partition integer, OUT next_offset bigint, OUT lag bigint,
	OUT rows bigint, OUT rows_per_second float8, OUT bytes bigint, OUT dead_letters bigint,
	OUT last_error text, OUT last_error_at timestamptz, OUT last_commit timestamptz,
	OUT state text, OUT pid integer, OUT last_dead_letter timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_ingest_status'
LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION logq.ingest_status() IS 'what the ingest workers of this database do; see logq.stat_ingest';
REVOKE ALL ON FUNCTION logq.ingest_status() FROM PUBLIC;

CREATE VIEW logq.stat_ingest AS
	SELECT topic, kafka_partition, next_offset, lag, rows, rows_per_second, bytes, dead_letters,
		last_error, last_error_at, last_commit, state, pid, last_dead_letter
	FROM logq.ingest_status();
COMMENT ON VIEW logq.stat_ingest IS
	'Kafka topics and their partitions: the next offset that is missing on a partition of logq, how many messages are behind, and, since the coordinator was started, rows, bytes and dead letters';

CREATE FUNCTION logq.dead_letter_list(
	OUT partition name, OUT id bigint, OUT received_at timestamptz, OUT topic text,
	OUT kafka_partition integer, OUT kafka_offset bigint, OUT record integer,
	OUT ts timestamptz, OUT key bytea, OUT payload bytea, OUT reason text,
	OUT retried_at timestamptz, OUT cluster text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_dead_letter_list'
LANGUAGE C VOLATILE STRICT ROWS 100;
COMMENT ON FUNCTION logq.dead_letter_list() IS 'see logq.dead_letters';
REVOKE ALL ON FUNCTION logq.dead_letter_list() FROM PUBLIC;

CREATE VIEW logq.dead_letters AS
	SELECT partition, id, received_at, topic, kafka_partition, kafka_offset, record, ts, key,
		payload, reason, retried_at, cluster
	FROM logq.dead_letter_list();
COMMENT ON VIEW logq.dead_letters IS
	'messages from Kafka, or records in them, that could not be made a row, with the reason; from all partitions';

CREATE FUNCTION logq.retry_dead_letters(only_topic text DEFAULT NULL,
	OUT partition name, OUT taken bigint, OUT rows bigint, OUT left_over bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'logq_retry_dead_letters'
LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION logq.retry_dead_letters(text) IS
	'take dead letters, of one topic or all (NULL), again as they would be taken now; one row for each partition: how many became rows, how many rows, and how many are left';
REVOKE ALL ON FUNCTION logq.retry_dead_letters(text) FROM PUBLIC;

-- ---------------------------------------------------------------------
-- Is it well?  Both run as their owner, so that who watches needs a right to
-- nothing else; and as they name hosts and errors, they are for those alone
-- to whom they are granted.  Nothing here connects to anything or waits.
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.health(
	max_catalog_age interval DEFAULT NULL, seal_slack interval DEFAULT '15 minutes',
	max_ingest_lag bigint DEFAULT 100000, ingest_patience interval DEFAULT '1 minute',
	max_dead_letters float8 DEFAULT 0.01,
	dead_letters_within interval DEFAULT '1 day', rejected_within interval DEFAULT '5 minutes',
	max_clock_offset interval DEFAULT '5 seconds',
	OUT check_name text, OUT subject text, OUT ok boolean, OUT detail text, OUT what_to_do text)
RETURNS SETOF record
LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
WITH setting AS MATERIALIZED (
	SELECT max(setting::bigint) FILTER (WHERE name = 'logq.catalog_max_age') * interval '1 ms' AS catalog_max_age,
		max(setting::bigint) FILTER (WHERE name = 'logq.max_replica_lag') AS max_replica_lag,
		max(setting::bigint) FILTER (WHERE name = 'logq.seal_after') * interval '1 s' AS seal_after
	FROM pg_settings
	WHERE name IN ('logq.catalog_max_age', 'logq.max_replica_lag', 'logq.seal_after')
), worker AS MATERIALIZED (
	SELECT coalesce(bool_or(backend_type = 'logq maintenance'), false) AS maintains,
		coalesce(bool_or(backend_type = 'logq sealer'), false) AS seals
	FROM pg_stat_activity WHERE datname = current_database()
), worker_role AS MATERIALIZED (
	-- why workers cannot be it; in versions before 17, one must be able to log in
	SELECT n.name, CASE WHEN r.oid IS NULL THEN format('the role "%s" does not exist', n.name)
			WHEN NOT r.rolcanlogin AND current_setting('server_version_num')::int < 170000
				THEN format('the role "%s" cannot log in', n.name)
			WHEN NOT has_database_privilege(r.oid, current_database(), 'CONNECT')
				THEN format('the role "%s" may not connect to the database', n.name) END AS fault
	FROM (SELECT nullif(current_setting('logq.worker_role', true), '') AS name) n
		LEFT JOIN pg_roles r ON r.rolname = n.name
	WHERE n.name IS NOT NULL
), admission AS MATERIALIZED (
	SELECT *, rejected_at > clock_timestamp() - health.rejected_within AS rejects,
		connections_rejected_at > clock_timestamp() - health.rejected_within AS connections_reject
	FROM logq.stat_admission
), server AS MATERIALIZED (
	SELECT *, CASE WHEN breaker <> 'closed' THEN
		format('%s is left alone since %s: %s', server, date_trunc('second', since), reason) END AS broken
	FROM logq.stat_partitions
), catalog AS MATERIALIZED (
	SELECT p.number, p.server, s.server AS address, s.state, s.broken, s.connections AS ours,
		c.confirmed_at, c.error, c.doubted_at, c.store_format, c.known_format,
		c.clock_offset_ms, c.clock_error_ms, c.connections, c.max_connections, c.seal_error, c.ahead_error,
		round(extract(epoch FROM clock_timestamp() - c.asked_at)) AS asked_ago,
		coalesce(health.max_catalog_age, greatest(10 * t.catalog_max_age, '10 s')) AS max_age
	FROM setting t, logq.partition p
		LEFT JOIN server s ON s.partition = p.server AND s.role = 'primary'
		LEFT JOIN logq.catalog_status() c ON c.number = p.number
), behind AS (
	-- the version of a segment says when it was made, or opened again
	SELECT s.number, count(*) AS segments, min(s.upper) AS oldest
	FROM logq.catalog_segment s, setting
	WHERE s.state = 'open' AND greatest(s.upper, to_timestamp(greatest(s.version, 0) / 1000000))
		<= clock_timestamp() - setting.seal_after - health.seal_slack
	GROUP BY 1
), kept AS (
	SELECT k.number, k.retention, count(s.name) AS segments, min(s.upper) AS oldest
	FROM logq.catalog k LEFT JOIN logq.catalog_segment s
		-- 10,000 years are none that can be subtracted
		ON s.number = k.number AND s.upper <= CASE WHEN k.retention < '5000 years'
			THEN clock_timestamp() - k.retention - health.seal_slack END
	WHERE k.retention IS NOT NULL
	GROUP BY 1, 2
), topic AS (
	SELECT i.topic, min(i.state) AS state, min(i.last_error) AS error, sum(i.lag) AS lag,
		bool_or(i.lag > 0 AND i.last_commit < clock_timestamp() - health.ingest_patience) AS stuck,
		sum(i.rows) AS rows, sum(i.dead_letters) AS dead_letters,
		max(i.last_dead_letter) AS last_dead_letter
	FROM logq.stat_ingest i GROUP BY 1
), found(ord, check_name, subject, trouble, normal, what_to_do) AS (
	SELECT 1, 'library', NULL::text,
		CASE WHEN a.query_limit IS NULL THEN 'the library was not loaded when the server started' END,
		'loaded when the server started',
		'Add "logq" to shared_preload_libraries and restart the server.'
	FROM admission a
UNION ALL
	SELECT 2, 'maintenance', current_database()::text,
		CASE WHEN NOT w.maintains THEN concat_ws('; ',
			'no maintenance worker runs for this database: nothing is sealed, dropped or taken in', r.fault,
			format('logq.databases is "%s"', current_setting('logq.databases', true))) END,
		'the maintenance worker runs',
		CASE WHEN r.fault IS NOT NULL THEN format('Workers are the role in logq.worker_role. Create it (CREATE ROLE %I LOGIN), let it connect, or set that to another one.', r.name)
			ELSE 'Name the database in logq.databases and reload the configuration. If it is there, see the server''s log: max_worker_processes may be too low.' END
	FROM worker w LEFT JOIN worker_role r ON true
UNION ALL
	SELECT 3, 'partition', c.server::text,
		nullif(concat_ws('; ',
			CASE WHEN c.address IS NULL THEN 'its server object does not exist' END,
			-- both mostly have the same cause
			coalesce(c.broken, 'its catalog cannot be confirmed: ' || c.error),
			CASE WHEN w.maintains AND clock_timestamp() - c.confirmed_at > c.max_age
				THEN format('its catalog was last confirmed %s s ago',
					round(extract(epoch FROM clock_timestamp() - c.confirmed_at))) END,
			CASE WHEN w.maintains AND clock_timestamp() - c.doubted_at > c.max_age
				THEN format('its catalog has been in doubt for %s s',
					round(extract(epoch FROM clock_timestamp() - c.doubted_at))) END), ''),
		CASE WHEN c.confirmed_at IS NOT NULL THEN format('%s answers', c.address)
			ELSE format('nothing bad is known of %s', c.address) END,
		CASE WHEN c.address IS NULL THEN 'Create the server, or forget the partition with logq.remove_partition().'
			WHEN c.broken IS NULL AND c.error IS NULL
				THEN 'The maintenance worker does not come to it. See whether that is stopped, or waits for a lock (pg_stat_activity, here), and the server''s log.'
			WHEN c.state = 'up' THEN format('The server answers, but does not let logq read its catalog. See what the error says, and what rights the role in the user mapping of the owner of server "%s" has there.', c.server)
			ELSE format('See whether PostgreSQL runs at %s, can be reached, and lets the owner of server "%s" in by its user mapping.', c.address, c.server) END
	FROM worker w, catalog c
UNION ALL
	SELECT 4, 'store', c.server::text,
		CASE WHEN c.store_format <> c.known_format
			THEN format('its store has format %s, this version of logq knows %s', c.store_format, c.known_format) END,
		CASE WHEN c.store_format IS NULL THEN 'it was not asked yet' ELSE format('its store has format %s', c.store_format) END,
		CASE WHEN c.store_format < c.known_format
			THEN format('SELECT logq.upgrade_store(%L) brings it to the present one.', c.server)
			ELSE 'Another coordinator with a later version of logq has upgraded it. Install a version that knows this format, and run ALTER EXTENSION logq UPDATE.' END
	FROM catalog c
UNION ALL
	SELECT 5, 'clock', c.server::text,
		CASE WHEN abs(c.clock_offset_ms) - c.clock_error_ms > extract(epoch FROM health.max_clock_offset) * 1000
			THEN format('its clock was %s s %s this server''s when it was asked %s s ago', round(abs(c.clock_offset_ms)::numeric / 1000, 1),
				CASE WHEN c.clock_offset_ms > 0 THEN 'ahead of' ELSE 'behind' END, c.asked_ago) END,
		CASE WHEN c.clock_offset_ms IS NULL THEN 'it was not asked yet'
			ELSE format('its clock is right within %s ms', ceil(abs(c.clock_offset_ms) + c.clock_error_ms)) END,
		'Let NTP set the clocks of both. Segments are made and dropped by the partition''s clock, and sealed by this one''s; logq.search() without a time begins an hour ago by this one''s.'
	FROM catalog c
UNION ALL
	SELECT 6, 'server connections', c.server::text,
		CASE WHEN c.connections >= 0.9 * c.max_connections
			THEN format('%s connections were open to its server when it was asked %s s ago, %s of them ours; its max_connections is %s',
				c.connections, c.asked_ago, c.ours, c.max_connections) END,
		CASE WHEN c.connections IS NULL THEN 'it was not asked yet'
			ELSE format('%s of %s connections are taken', c.connections, c.max_connections) END,
		'On the partition, see in pg_stat_activity whose they are. Lower logq.max_connections_per_partition here, raise max_connections there, or put a pooler in front of it.'
	FROM catalog c
UNION ALL
	SELECT 7, 'replica', format('%s %s', s.partition, s.server),
		nullif(concat_ws('; ', s.broken,
			CASE WHEN s.lag_ms > t.max_replica_lag THEN format('it was %s ms behind when it was last asked, %s s ago; logq.max_replica_lag is %s ms',
				s.lag_ms, round(extract(epoch FROM clock_timestamp() - s.checked_at)), t.max_replica_lag) END), ''),
		CASE WHEN s.lag_ms IS NULL THEN 'it was not asked yet'
			ELSE format('it was %s ms behind when it was last asked', s.lag_ms) END,
		CASE WHEN s.broken IS NOT NULL THEN format('See whether the standby runs at %s and can be reached.', s.server)
			ELSE 'On the standby, see pg_stat_wal_receiver, pg_is_wal_replay_paused() and whether queries hold up replay (max_standby_streaming_delay). A query with logq.read_from = ''replica'' measures again.' END
	FROM setting t, server s WHERE s.role = 'replica'
UNION ALL
	SELECT 8, 'sealing', p.server::text,
		CASE WHEN b.segments > 0 THEN format('%s open segments should have been sealed, the oldest ended at %s; %s',
			b.segments, b.oldest, CASE WHEN p.seal_error IS NOT NULL THEN 'the last attempt failed: ' || p.seal_error
				WHEN w.seals THEN 'the sealer is at work' ELSE 'no sealer is at work' END) END,
		'no segment waits longer than it may',
		format('On the partition, look for transactions that are open for long (pg_stat_activity, pg_prepared_xacts). The role in the user mapping of the owner of its server must own the store. SELECT * FROM logq.seal(%L) tries at once.', p.server)
	FROM worker w, catalog p LEFT JOIN behind b USING (number)
UNION ALL
	SELECT 9, 'retention', p.server::text,
		CASE WHEN k.segments > 0 THEN format('%s segments should have been dropped, the oldest ended at %s; it keeps %s',
			k.segments, k.oldest, k.retention) || coalesce('; the last attempt failed: ' || p.seal_error, '') END,
		format('it keeps %s, and nothing older', k.retention),
		'On the partition, look for transactions that are open for long and hold locks on these segments (pg_locks, pg_stat_activity), and whether its disk fills up. The role in the user mapping of the owner of its server must own the store. See the server''s log here, too.'
	FROM catalog p JOIN kept k USING (number)
UNION ALL
	SELECT 10, 'segments', c.server::text, 'they could not be made ahead: ' || c.ahead_error,
		'they are made ahead', format('Writers make them meanwhile. The role in the user mapping of the owner of server "%s" must own the store; on the partition, see whether its disk is full.', c.server)
	FROM worker w, catalog c WHERE w.maintains
UNION ALL
	SELECT 11, 'ingest', i.topic,
		nullif(concat_ws('; ',
			CASE WHEN i.state IN ('failed', 'stopped', 'waiting') THEN 'its state is ' || i.state END,
			CASE WHEN i.state <> 'paused' THEN i.error END,
			CASE WHEN i.state <> 'paused' AND i.lag > health.max_ingest_lag THEN format('it is %s messages behind', i.lag) END,
			CASE WHEN i.state <> 'paused' AND i.stuck THEN format('messages wait, but none was written for %s', health.ingest_patience) END), ''),
		format('%s, %s messages behind', i.state, coalesce(i.lag, 0)),
		CASE i.state WHEN 'failed' THEN 'Remove the cause. It is tried again by itself, and at once when the topic is changed with logq.add_topic(). See docs/ingest.md.'
			WHEN 'stopped' THEN 'See the check "maintenance", and the server''s log.'
			WHEN 'waiting' THEN 'See whether the brokers and all partitions can be reached. It goes on by itself.'
			ELSE 'See whether all partitions can be written to as fast as messages arrive.' END
	FROM topic i
UNION ALL
	SELECT 12, 'dead letters', i.topic,
		CASE WHEN i.dead_letters > health.max_dead_letters * (i.rows + i.dead_letters)
				AND i.last_dead_letter > clock_timestamp() - health.dead_letters_within
			THEN format('%s of %s records could not become rows since the coordinator was started, the last one at %s', i.dead_letters, i.rows + i.dead_letters,
				date_trunc('second', i.last_dead_letter)) END,
		format('%s of %s records', i.dead_letters, i.rows + i.dead_letters),
		'SELECT reason, count(*) FROM logq.dead_letters GROUP BY 1 says why. Correct what sends them, or the format of the topic, and call logq.retry_dead_letters().'
	FROM topic i
UNION ALL
	SELECT 13, 'redis', NULL,
		CASE WHEN c.state NOT IN ('closed', 'not configured') THEN
			CASE c.state WHEN 'read-only' THEN 'it takes no values' ELSE 'it is left alone' END
			|| format(' since %s: %s', date_trunc('second', c.since), c.reason) END,
		CASE c.state WHEN 'closed' THEN 'nothing bad is known of it' ELSE c.state END,
		'See whether Redis runs, can be reached, and has memory left. Queries go on without it.'
	FROM logq.stat_cache c WHERE c.level = 'redis'
UNION ALL
	SELECT 14, 'queries', NULL,
		CASE WHEN a.waiting > 0 OR a.running >= a.query_limit AND a.query_limit > 0 OR a.rejects
			THEN format('%s queries run and %s wait, %s were turned away since the coordinator was started%s', a.running, a.waiting, a.rejected,
				', the last one at ' || date_trunc('second', a.rejected_at)) END,
		format('%s queries run, %s may', a.running, a.query_limit),
		'See who runs them in pg_stat_activity, and raise logq.max_concurrent_queries if the partitions can take more.'
	FROM admission a WHERE a.query_limit IS NOT NULL
UNION ALL
	SELECT 15, 'connections', NULL,
		CASE WHEN a.connections_waiting > 0 OR a.connections_reject
			THEN format('%s sessions wait for connections to partitions, %s queries got none since the coordinator was started%s', a.connections_waiting, a.connections_rejected,
				', the last one at ' || date_trunc('second', a.connections_rejected_at)) END,
		format('%s connections are open', a.connections),
		'SELECT partition, connections, waiting FROM logq.stat_partitions says where. Raise logq.max_connections_per_partition if the partitions can take more.'
	FROM admission a WHERE a.query_limit IS NOT NULL
UNION ALL
	SELECT 16, 'catalog memory', NULL,
		CASE WHEN m.taken >= 0.9 * m.places
			THEN format('the state of %s partitions, of all databases, is in shared memory, which has room for %s', m.taken, m.places) END,
		format('%s of %s places are taken', m.taken, m.places),
		'Partitions beyond that are asked by every query. Forget those that are gone with logq.remove_partition(); restart the server if they were in databases that have been dropped.'
	FROM logq.catalog_places() m WHERE m.places IS NOT NULL
)
SELECT f.check_name, f.subject, f.trouble IS NULL, coalesce(f.trouble, f.normal),
	CASE WHEN f.trouble IS NOT NULL THEN f.what_to_do END
FROM found f ORDER BY f.ord, f.subject
$$;
COMMENT ON FUNCTION logq.health(interval, interval, bigint, interval, float8, interval, interval, interval) IS
	'one row for each thing that can be wrong: whether it is well, what is known of it, and what to do if it is not. From what this coordinator knows; connects to nothing. Not well are: a catalog unconfirmed for max_catalog_age (NULL: 10 times logq.catalog_max_age, at least 10 s), a segment open for seal_slack beyond logq.seal_after, a topic more than max_ingest_lag messages behind or with none written for ingest_patience, more dead letters than this share of all records while the last one is no older than dead_letters_within, queries turned away in the time of rejected_within, a clock that is max_clock_offset off. Names hosts and shows errors: to be granted to those who watch';
REVOKE ALL ON FUNCTION logq.health(interval, interval, bigint, interval, float8, interval, interval, interval) FROM PUBLIC;

CREATE FUNCTION logq.stats()
RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT jsonb_build_object('at', clock_timestamp(), 'database', current_database(),
	'version', (SELECT extversion FROM pg_extension WHERE extname = 'logq'),
	'health', (SELECT coalesce(jsonb_agg(s), '[]') FROM logq.health() s),
	'partitions', (SELECT coalesce(jsonb_agg(s), '[]') FROM logq.stat_partitions s),
	'catalogs', (SELECT coalesce(jsonb_agg(s), '[]') FROM (
		SELECT p.server AS partition, c.version, c.confirmed_at, c.error,
			(SELECT count(*) FROM logq.catalog_segment g WHERE g.number = p.number AND g.state = 'open') AS open_segments,
			(SELECT count(*) FROM logq.catalog_segment g WHERE g.number = p.number AND g.state = 'sealed') AS sealed_segments
		FROM logq.partition p LEFT JOIN logq.catalog_status() c USING (number) ORDER BY p.number) s),
	'ingest', (SELECT coalesce(jsonb_agg(s), '[]') FROM logq.stat_ingest s),
	'cache', (SELECT coalesce(jsonb_agg(s), '[]') FROM logq.stat_cache s),
	'admission', (SELECT to_jsonb(s) FROM logq.stat_admission s),
	'queries', (SELECT to_jsonb(s) FROM logq.stat_queries s))
$$;
COMMENT ON FUNCTION logq.stats() IS
	'all statistics of this coordinator as one document; connects to nothing. Names hosts and shows errors: to be granted to those who watch';
REVOKE ALL ON FUNCTION logq.stats() FROM PUBLIC;

-- The text exposition format 0.0.4 of Prometheus.  monitoring/prometheus/queries.yaml
-- makes the same metrics of the same views; test/t/046_prometheus.pl compares
-- them.  As a backslash must be one whatever standard_conforming_strings is, it
-- is always written E'\\'.
CREATE FUNCTION logq.metrics()
RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
SET jit = off
AS $$
WITH metric(ord, name, type, help) AS (VALUES
	(1, 'logq_build_info', 'gauge', '1; the versions of the extension and of PostgreSQL are its labels.'),
	(2, 'logq_health', 'gauge', '1 if what logq.health() checks is well, 0 if not.'),
	(3, 'logq_queries_total', 'counter', 'Queries of this database that have read log tables and ended.'),
	(4, 'logq_query_errors_total', 'counter', 'Queries that failed.'),
	(5, 'logq_query_partial_total', 'counter', 'Queries that were answered without some partition (logq.partial_results).'),
	(6, 'logq_query_execution_time_seconds', 'histogram', 'How long queries took, from their start to their end.'),
	(7, 'logq_query_first_row_time_seconds', 'histogram', 'How long queries took to their first row, of those that had one.'),
	(8, 'logq_query_partitions_queried_total', 'counter', 'Partitions that queries asked, added up over all queries.'),
	(9, 'logq_query_partitions_pruned_total', 'counter', 'Partitions that queries could leave out, added up over all queries.'),
	(10, 'logq_query_segments_queried_total', 'counter', 'Segments that queries asked partitions for.'),
	(11, 'logq_query_segments_cached_total', 'counter', 'Segments that the cache answered for.'),
	(12, 'logq_query_segments_pruned_total', 'counter', 'Segments that queries could leave out, by what told so.'),
	(13, 'logq_query_rows_total', 'counter', 'Rows that partitions and the cache gave to queries.'),
	(14, 'logq_query_received_bytes_total', 'counter', 'Bytes that queries received from partitions.'),
	(15, 'logq_query_retries_total', 'counter', 'Requests that were made again, at another server or over another connection.'),
	(16, 'logq_query_hedges_total', 'counter', 'Second requests beside a slow one.'),
	(17, 'logq_query_queued_seconds_total', 'counter', 'How long queries waited to be admitted.'),
	(18, 'logq_query_stats_reset_timestamp_seconds', 'gauge', 'When the counters of queries last began at 0.'),
	(19, 'logq_admission_limit', 'gauge', 'How many queries of all databases may run at once (logq.max_concurrent_queries), 0 if any number.'),
	(20, 'logq_admission_running', 'gauge', 'Queries of all databases that run.'),
	(21, 'logq_admission_waiting', 'gauge', 'Queries that wait until others have ended.'),
	(22, 'logq_admission_admitted_total', 'counter', 'Queries that were admitted.'),
	(23, 'logq_admission_waited_total', 'counter', 'Queries that had to wait first.'),
	(24, 'logq_admission_rejected_total', 'counter', 'Queries that were turned away.'),
	(25, 'logq_admission_wait_seconds_total', 'counter', 'How long queries of all databases waited.'),
	(26, 'logq_connections_limit', 'gauge', 'How many connections there may be to a partition (logq.max_connections_per_partition), 0 if any number.'),
	(27, 'logq_connections_open', 'gauge', 'Connections to all partitions.'),
	(28, 'logq_connections_waiting', 'gauge', 'Sessions that wait for a connection.'),
	(29, 'logq_connections_rejected_total', 'counter', 'Queries that got no connection in time.'),
	(30, 'logq_partition_up', 'gauge', '1 if nothing bad is known of the partition, 0 if it is left alone or its catalog cannot be confirmed.'),
	(31, 'logq_partition_connections_open', 'gauge', 'Open connections to the servers of the partition.'),
	(32, 'logq_partition_connections_waiting', 'gauge', 'Sessions that wait for a connection to the partition.'),
	(33, 'logq_partition_open_segments', 'gauge', 'Segments of the partition that take rows.'),
	(34, 'logq_partition_sealed_segments', 'gauge', 'Segments of the partition that are finished: indexed and summarised.'),
	(35, 'logq_partition_sealing_due', 'gauge', 'Open segments that should be sealed by now.'),
	(36, 'logq_partition_rows', 'gauge', 'Rows of the partition, those of open segments estimated.'),
	(37, 'logq_partition_sealed_bytes', 'gauge', 'What the sealed segments take on the partition.'),
	(38, 'logq_partition_rolled_up_segments', 'gauge', 'Sealed segments that have rollups.'),
	(39, 'logq_partition_rollup_rows', 'gauge', 'Rows of the rollups of sealed segments.'),
	(40, 'logq_partition_catalog_confirmed_timestamp_seconds', 'gauge', 'When the copy of the catalog of the partition was last found true.'),
	(41, 'logq_server_breaker_state', 'gauge', '0 if the server is asked, 2 if it is left alone, 1 if somebody looks whether it is back.'),
	(42, 'logq_server_consecutive_failures', 'gauge', 'Failures of the server since it last answered.'),
	(43, 'logq_server_requests_total', 'counter', 'Requests to the server.'),
	(44, 'logq_server_errors_total', 'counter', 'Requests to the server that failed.'),
	(45, 'logq_server_hedges_total', 'counter', 'Second requests to the server, beside one to a slow server.'),
	(46, 'logq_server_hedge_wins_total', 'counter', 'Second requests to the server that were answered first.'),
	(47, 'logq_server_latency_mean_seconds', 'gauge', 'Moving average of the time to the first result, over an open connection.'),
	(48, 'logq_server_latency_p95_seconds', 'gauge', '95th percentile of the time to the first result, over an open connection.'),
	(49, 'logq_server_connect_p95_seconds', 'gauge', '95th percentile of the time to the first result, with connecting.'),
	(50, 'logq_server_lag_seconds', 'gauge', 'How far the replica was behind when it was last asked.'),
	(51, 'logq_server_lag_checked_timestamp_seconds', 'gauge', 'When the replica was last asked how far it is behind.'),
	(52, 'logq_topic_in_state', 'gauge', '1 for the state that the topic is in, 0 for the others.'),
	(53, 'logq_ingest_rows_total', 'counter', 'Rows that were taken in from Kafka.'),
	(54, 'logq_ingest_bytes_total', 'counter', 'Bytes of messages that were taken in.'),
	(55, 'logq_ingest_dead_letters_total', 'counter', 'Records that could not become rows.'),
	(56, 'logq_ingest_lag_messages', 'gauge', 'Messages that wait in Kafka.'),
	(57, 'logq_ingest_next_offset', 'gauge', 'The next offset that is missing on a partition of logq.'),
	(58, 'logq_ingest_last_commit_timestamp_seconds', 'gauge', 'When rows were last committed.'),
	(59, 'logq_cache_enabled', 'gauge', '1 if there is this level of the cache, 0 if it is off or not configured.'),
	(60, 'logq_cache_hits_total', 'counter', 'Values that were found.'),
	(61, 'logq_cache_misses_total', 'counter', 'Values that were not there.'),
	(62, 'logq_cache_expired_total', 'counter', 'Values that were too old.'),
	(63, 'logq_cache_damaged_total', 'counter', 'Values that were not what had been stored.'),
	(64, 'logq_cache_stores_total', 'counter', 'Values that were stored.'),
	(65, 'logq_cache_read_bytes_total', 'counter', 'Bytes that were read.'),
	(66, 'logq_cache_written_bytes_total', 'counter', 'Bytes that were written.'),
	(67, 'logq_cache_saved_seconds_total', 'counter', 'Time of partitions that was saved.'),
	(68, 'logq_cache_memory_entries', 'gauge', 'Entries in memory.'),
	(69, 'logq_cache_memory_bytes', 'gauge', 'Bytes that they take.'),
	(70, 'logq_cache_memory_limit_bytes', 'gauge', 'Bytes that they may take (logq.hot_cache_size).'),
	(71, 'logq_cache_memory_evictions_total', 'counter', 'Entries that made room for others.'),
	(72, 'logq_cache_redis_breaker_state', 'gauge', '0 if Redis is asked, 2 if it is left alone, 1 if it takes no values or somebody looks whether it is back.'),
	(73, 'logq_cache_redis_dropped_total', 'counter', 'Values that Redis did not take.'),
	(74, 'logq_cache_redis_errors_total', 'counter', 'Errors of Redis.'),
	(75, 'logq_cache_redis_timeouts_total', 'counter', 'Times that Redis did not answer in time.')
), query AS MATERIALIZED (
	SELECT * FROM logq.stat_queries
), bucket AS MATERIALIZED (
	SELECT h.le_ms, CASE WHEN h.le_ms = 'Infinity' THEN '+Inf' ELSE (h.le_ms / 1000)::text END AS le, h.count, h.first_row_count
	FROM logq.query_histogram() h
), server AS MATERIALIZED (
	SELECT * FROM logq.stat_partitions
), topic AS MATERIALIZED (
	SELECT * FROM logq.stat_ingest
), health AS MATERIALIZED (
	SELECT * FROM logq.health()
), sample(name, suffix, labels, value) AS (
	SELECT 'logq_build_info', '', ARRAY['version', e.extversion, 'server_version', current_setting('server_version')], 1::float8
	FROM pg_extension e WHERE e.extname = 'logq'
UNION ALL
	SELECT 'logq_health', '', ARRAY['check', h.check_name, 'object', coalesce(h.subject, '')], h.ok::int
	FROM health h
UNION ALL
	SELECT v.name, '', '{}', v.value
	FROM query q, LATERAL (VALUES
		('logq_queries_total', q.queries::float8), ('logq_query_errors_total', q.errors), ('logq_query_partial_total', q.partial),
		('logq_query_partitions_queried_total', q.partitions_asked), ('logq_query_partitions_pruned_total', q.partitions_pruned),
		('logq_query_segments_queried_total', q.segments_asked), ('logq_query_segments_cached_total', q.segments_cached),
		('logq_query_rows_total', q.rows), ('logq_query_received_bytes_total', q.bytes),
		('logq_query_retries_total', q.retried), ('logq_query_hedges_total', q.hedged),
		('logq_query_queued_seconds_total', q.queued_ms / 1000),
		('logq_query_stats_reset_timestamp_seconds', extract(epoch FROM q.stats_reset)::float8)) v(name, value)
UNION ALL
	SELECT 'logq_query_segments_pruned_total', '', ARRAY['reason', v.reason], v.value
	FROM query q, LATERAL (VALUES
		('time', q.pruned_by_time::float8), ('id', q.pruned_by_id), ('level', q.pruned_by_level), ('service', q.pruned_by_service),
		('trace_id', q.pruned_by_trace_id), ('attrs', q.pruned_by_attrs), ('words', q.pruned_by_words),
		('several', q.pruned_by_several), ('partition', q.pruned_by_partition), ('partition_id', q.pruned_by_partition_id),
		('contradiction', q.pruned_by_contradiction),
		('other', greatest(0, q.segments_pruned - q.pruned_by_time - q.pruned_by_id - q.pruned_by_level - q.pruned_by_service
			- q.pruned_by_trace_id - q.pruned_by_attrs - q.pruned_by_words - q.pruned_by_several
			- q.pruned_by_partition - q.pruned_by_partition_id - q.pruned_by_contradiction))) v(reason, value)
UNION ALL
	(SELECT v.name, '_bucket', ARRAY['le', b.le], v.value
	FROM bucket b, LATERAL (VALUES
		('logq_query_execution_time_seconds', b.count::float8), ('logq_query_first_row_time_seconds', b.first_row_count)) v(name, value)
	ORDER BY b.le_ms)
UNION ALL
	SELECT v.name, '_sum', '{}', v.value
	FROM query q, LATERAL (VALUES ('logq_query_execution_time_seconds', q.total_ms / 1000), ('logq_query_first_row_time_seconds', q.first_row_ms / 1000)) v(name, value)
UNION ALL
	SELECT v.name, '_count', '{}', v.value
	FROM bucket b, LATERAL (VALUES
		('logq_query_execution_time_seconds', b.count::float8), ('logq_query_first_row_time_seconds', b.first_row_count)) v(name, value)
	WHERE b.le = '+Inf'
UNION ALL
	SELECT v.name, '', '{}', v.value
	FROM logq.stat_admission a, LATERAL (VALUES
		('logq_admission_limit', a.query_limit::float8), ('logq_admission_running', a.running), ('logq_admission_waiting', a.waiting),
		('logq_admission_admitted_total', a.admitted), ('logq_admission_waited_total', a.waited),
		('logq_admission_rejected_total', a.rejected), ('logq_admission_wait_seconds_total', a.wait_ms / 1000),
		('logq_connections_limit', a.connection_limit), ('logq_connections_open', a.connections),
		('logq_connections_waiting', a.connections_waiting), ('logq_connections_rejected_total', a.connections_rejected)) v(name, value)
	WHERE a.query_limit IS NOT NULL
UNION ALL
	SELECT 'logq_partition_up', '', ARRAY['partition', h.subject], h.ok::int
	FROM health h WHERE h.check_name = 'partition'
UNION ALL
	SELECT v.name, '', ARRAY['partition', s.partition], v.value
	FROM server s, LATERAL (VALUES ('logq_partition_connections_open', s.connections::float8), ('logq_partition_connections_waiting', s.waiting)) v(name, value)
UNION ALL
	SELECT v.name, '', ARRAY['partition', s.partition], v.value
	FROM (SELECT * FROM logq.stat_segments ORDER BY partition) s, LATERAL (VALUES
		('logq_partition_open_segments', s.open_segments::float8), ('logq_partition_sealed_segments', s.sealed_segments),
		('logq_partition_sealing_due', s.sealing_due), ('logq_partition_rows', s.rows),
		('logq_partition_sealed_bytes', s.sealed_bytes), ('logq_partition_rolled_up_segments', s.rolled_up_segments),
		('logq_partition_rollup_rows', s.rollup_rows),
		('logq_partition_catalog_confirmed_timestamp_seconds', extract(epoch FROM s.confirmed_at))) v(name, value)
UNION ALL
	SELECT v.name, '', ARRAY['partition', s.partition, 'address', s.server, 'role', s.role], v.value
	FROM server s, LATERAL (VALUES
		('logq_server_breaker_state', (CASE s.breaker WHEN 'closed' THEN 0 WHEN 'half-open' THEN 1 ELSE 2 END)::float8),
		('logq_server_consecutive_failures', s.failures), ('logq_server_requests_total', s.requests), ('logq_server_errors_total', s.errors),
		('logq_server_hedges_total', s.hedges), ('logq_server_hedge_wins_total', s.hedge_wins),
		('logq_server_latency_mean_seconds', s.latency_ms / 1000), ('logq_server_latency_p95_seconds', s.p95_ms / 1000),
		('logq_server_connect_p95_seconds', s.connect_p95_ms / 1000),
		('logq_server_lag_seconds', s.lag_ms / 1000.0), ('logq_server_lag_checked_timestamp_seconds', extract(epoch FROM s.checked_at))) v(name, value)
UNION ALL
	SELECT 'logq_topic_in_state', '', ARRAY['topic', i.topic, 'state', st.state], (i.state = st.state)::int
	FROM (SELECT topic, min(state) AS state FROM topic GROUP BY topic) i,
		unnest(ARRAY['starting', 'running', 'paused', 'waiting', 'failed', 'stopped']) st(state)
UNION ALL
	SELECT v.name, '', ARRAY['topic', i.topic, 'kafka_partition', i.kafka_partition::text], v.value
	FROM topic i, LATERAL (VALUES
		('logq_ingest_rows_total', i.rows::float8), ('logq_ingest_bytes_total', i.bytes), ('logq_ingest_dead_letters_total', i.dead_letters),
		('logq_ingest_lag_messages', i.lag), ('logq_ingest_next_offset', i.next_offset),
		('logq_ingest_last_commit_timestamp_seconds', extract(epoch FROM i.last_commit))) v(name, value)
	WHERE i.kafka_partition IS NOT NULL
UNION ALL
	SELECT v.name, '', ARRAY['level', c.level], v.value
	FROM logq.stat_cache c, LATERAL (VALUES
		('logq_cache_enabled', (c.state NOT IN ('off', 'not configured'))::int::float8),
		('logq_cache_hits_total', c.hits), ('logq_cache_misses_total', c.misses), ('logq_cache_expired_total', c.expired),
		('logq_cache_damaged_total', c.damaged), ('logq_cache_stores_total', c.stores),
		('logq_cache_read_bytes_total', c.bytes_read), ('logq_cache_written_bytes_total', c.bytes_written),
		('logq_cache_saved_seconds_total', c.saved_ms / 1000)) v(name, value)
UNION ALL
	SELECT v.name, '', '{}', v.value
	FROM logq.stat_cache c, LATERAL (VALUES
		('logq_cache_memory_entries', c.entries::float8), ('logq_cache_memory_bytes', c.bytes),
		('logq_cache_memory_limit_bytes', c.size_limit), ('logq_cache_memory_evictions_total', c.evictions)) v(name, value)
	WHERE c.level = 'memory'
UNION ALL
	SELECT v.name, '', '{}', v.value
	FROM logq.stat_cache c, LATERAL (VALUES
		('logq_cache_redis_breaker_state', (CASE c.state WHEN 'closed' THEN 0 WHEN 'open' THEN 2 ELSE 1 END)::float8),
		('logq_cache_redis_dropped_total', c.dropped), ('logq_cache_redis_errors_total', c.errors), ('logq_cache_redis_timeouts_total', c.timeouts)) v(name, value)
	WHERE c.level = 'redis' AND c.state <> 'not configured'
), line AS (
	SELECT s.name, row_number() OVER () AS n, s.name || s.suffix
		|| CASE WHEN s.labels <> '{}' THEN
			(SELECT '{' || string_agg(s.labels[k] || '="' || replace(replace(replace(s.labels[k + 1],
				E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n') || '"', ',' ORDER BY k) || '}'
			FROM generate_series(1, cardinality(s.labels), 2) k) ELSE '' END
		|| ' ' || CASE s.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE s.value::text END AS text
	FROM sample s WHERE s.value IS NOT NULL
), family AS (
	SELECT m.ord, format(E'# HELP %s %s\n# TYPE %s %s\n', m.name, m.help, m.name, m.type)
		|| string_agg(l.text || E'\n', '' ORDER BY l.n) AS text
	FROM metric m JOIN line l USING (name) GROUP BY m.ord, m.name, m.type, m.help
)
SELECT coalesce(string_agg(f.text, '' ORDER BY f.ord), '') FROM family f
$$;
COMMENT ON FUNCTION logq.metrics() IS
	'the statistics of this coordinator in the text format of Prometheus; connects to nothing. Names hosts: to be granted to those who watch';
REVOKE ALL ON FUNCTION logq.metrics() FROM PUBLIC;

-- ---------------------------------------------------------------------
-- Aggregates: those that put partial results together, and approximate ones
-- ---------------------------------------------------------------------

CREATE AGGREGATE logq.combine_count(bigint) (
	SFUNC = pg_catalog.int8pl,
	STYPE = pg_catalog.int8,
	INITCOND = '0',
	COMBINEFUNC = pg_catalog.int8pl,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE logq.combine_count(bigint) IS
	'sum of partial counts: 0 when there are none';

CREATE AGGREGATE logq.combine_sum(bigint) (
	SFUNC = pg_catalog.int8pl,
	STYPE = pg_catalog.int8,
	COMBINEFUNC = pg_catalog.int8pl,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE logq.combine_sum(bigint) IS
	'sum of partial sums that is a bigint itself: NULL when there are none';

-- over the states {N, sum(x), sum((x - avg)^2)} of PostgreSQL's own
CREATE AGGREGATE logq.combine_var_pop(float8[]) (
	SFUNC = pg_catalog.float8_combine,
	STYPE = pg_catalog.float8[],
	INITCOND = '{0,0,0}',
	FINALFUNC = pg_catalog.float8_var_pop,
	COMBINEFUNC = pg_catalog.float8_combine,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.combine_var_samp(float8[]) (
	SFUNC = pg_catalog.float8_combine,
	STYPE = pg_catalog.float8[],
	INITCOND = '{0,0,0}',
	FINALFUNC = pg_catalog.float8_var_samp,
	COMBINEFUNC = pg_catalog.float8_combine,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.combine_stddev_pop(float8[]) (
	SFUNC = pg_catalog.float8_combine,
	STYPE = pg_catalog.float8[],
	INITCOND = '{0,0,0}',
	FINALFUNC = pg_catalog.float8_stddev_pop,
	COMBINEFUNC = pg_catalog.float8_combine,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.combine_stddev_samp(float8[]) (
	SFUNC = pg_catalog.float8_combine,
	STYPE = pg_catalog.float8[],
	INITCOND = '{0,0,0}',
	FINALFUNC = pg_catalog.float8_stddev_samp,
	COMBINEFUNC = pg_catalog.float8_combine,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE logq.combine_var_pop(float8[]) IS
	'var_pop of all rows from partial states {count, sum, sum of squared deviations from the mean}';
COMMENT ON AGGREGATE logq.combine_var_samp(float8[]) IS
	'var_samp of all rows from partial states {count, sum, sum of squared deviations from the mean}';
COMMENT ON AGGREGATE logq.combine_stddev_pop(float8[]) IS
	'stddev_pop of all rows from partial states {count, sum, sum of squared deviations from the mean}';
COMMENT ON AGGREGATE logq.combine_stddev_samp(float8[]) IS
	'stddev_samp of all rows from partial states {count, sum, sum of squared deviations from the mean}';

CREATE FUNCTION logq.numeric_deviation(n bigint, sum numeric, squares numeric, sample boolean, root boolean)
RETURNS numeric
AS 'MODULE_PATHNAME', 'logq_numeric_deviation'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION logq.numeric_deviation(bigint, numeric, numeric, boolean, boolean) IS
	'variance of n values from their sum and the sum of their squares, just as PostgreSQL''s own: of a sample or of the whole population, or its root, the standard deviation';

CREATE FUNCTION logq.distinct_bucket(text)
RETURNS integer
AS 'MODULE_PATHNAME', 'logq_distinct_bucket'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION logq.distinct_bucket(text) IS
	'in which of its 4096 buckets logq.approx_count_distinct() puts a value';
CREATE FUNCTION logq.distinct_rest(text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'logq_distinct_rest'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION logq.distinct_rest(text) IS
	'the bits of a value''s hash of which logq.approx_count_distinct() keeps the least in each bucket';

CREATE FUNCTION logq.distinct_add(internal, text)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_distinct_add'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.distinct_add(internal, bigint)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_distinct_add_int8'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.distinct_merge(internal, bucket integer, least_rest bigint)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_distinct_merge'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.distinct_combine(internal, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_distinct_combine'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.distinct_serialize(internal)
RETURNS bytea
AS 'MODULE_PATHNAME', 'logq_distinct_serialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION logq.distinct_deserialize(bytea, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_distinct_deserialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION logq.distinct_final(internal)
RETURNS bigint
AS 'MODULE_PATHNAME', 'logq_distinct_final'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION logq.distinct_add(internal, text) IS 'aggregate transition function';
COMMENT ON FUNCTION logq.distinct_add(internal, bigint) IS 'aggregate transition function';
COMMENT ON FUNCTION logq.distinct_merge(internal, integer, bigint) IS 'aggregate transition function';
COMMENT ON FUNCTION logq.distinct_combine(internal, internal) IS 'aggregate combine function';
COMMENT ON FUNCTION logq.distinct_serialize(internal) IS 'aggregate serial function';
COMMENT ON FUNCTION logq.distinct_deserialize(bytea, internal) IS 'aggregate deserial function';
COMMENT ON FUNCTION logq.distinct_final(internal) IS 'aggregate final function';

CREATE AGGREGATE logq.approx_count_distinct(text) (
	SFUNC = logq.distinct_add,
	STYPE = internal,
	SSPACE = 8192,
	FINALFUNC = logq.distinct_final,
	COMBINEFUNC = logq.distinct_combine,
	SERIALFUNC = logq.distinct_serialize,
	DESERIALFUNC = logq.distinct_deserialize,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.approx_count_distinct(bigint) (
	SFUNC = logq.distinct_add,
	STYPE = internal,
	SSPACE = 8192,
	FINALFUNC = logq.distinct_final,
	COMBINEFUNC = logq.distinct_combine,
	SERIALFUNC = logq.distinct_serialize,
	DESERIALFUNC = logq.distinct_deserialize,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.approx_count_distinct_merge(bucket integer, least_rest bigint) (
	SFUNC = logq.distinct_merge,
	STYPE = internal,
	SSPACE = 8192,
	FINALFUNC = logq.distinct_final,
	COMBINEFUNC = logq.distinct_combine,
	SERIALFUNC = logq.distinct_serialize,
	DESERIALFUNC = logq.distinct_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE logq.approx_count_distinct(text) IS
	'about how many different values there are, NULL not counted: standard error at most 1.6 %, so 19 of 20 results are within 3.2 % of the truth; never more than 32 kB of memory';
COMMENT ON AGGREGATE logq.approx_count_distinct(bigint) IS
	'about how many different values there are, NULL not counted: standard error at most 1.6 %, so 19 of 20 results are within 3.2 % of the truth; never more than 32 kB of memory';
COMMENT ON AGGREGATE logq.approx_count_distinct_merge(integer, bigint) IS
	'logq.approx_count_distinct() of all values from partial results: the least logq.distinct_rest() of each logq.distinct_bucket()';

CREATE FUNCTION logq.percentile_bucket(float8)
RETURNS integer
AS 'MODULE_PATHNAME', 'logq_percentile_bucket'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION logq.percentile_bucket(float8) IS
	'number of the bucket in which logq.approx_percentile() counts a value; rises with the value';

CREATE FUNCTION logq.percentile_add(internal, value float8, fraction float8)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_percentile_add'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.percentile_merge(internal, bucket integer, rows bigint, fraction float8)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_percentile_merge'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.percentile_combine(internal, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_percentile_combine'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.percentile_serialize(internal)
RETURNS bytea
AS 'MODULE_PATHNAME', 'logq_percentile_serialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION logq.percentile_deserialize(bytea, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_percentile_deserialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION logq.percentile_final(internal)
RETURNS float8
AS 'MODULE_PATHNAME', 'logq_percentile_final'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION logq.percentile_add(internal, float8, float8) IS 'aggregate transition function';
COMMENT ON FUNCTION logq.percentile_merge(internal, integer, bigint, float8) IS 'aggregate transition function';
COMMENT ON FUNCTION logq.percentile_combine(internal, internal) IS 'aggregate combine function';
COMMENT ON FUNCTION logq.percentile_serialize(internal) IS 'aggregate serial function';
COMMENT ON FUNCTION logq.percentile_deserialize(bytea, internal) IS 'aggregate deserial function';
COMMENT ON FUNCTION logq.percentile_final(internal) IS 'aggregate final function';

CREATE AGGREGATE logq.approx_percentile(value float8, fraction float8) (
	SFUNC = logq.percentile_add,
	STYPE = internal,
	SSPACE = 8192,
	FINALFUNC = logq.percentile_final,
	COMBINEFUNC = logq.percentile_combine,
	SERIALFUNC = logq.percentile_serialize,
	DESERIALFUNC = logq.percentile_deserialize,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.approx_percentile_merge(bucket integer, rows bigint, fraction float8) (
	SFUNC = logq.percentile_merge,
	STYPE = internal,
	SSPACE = 8192,
	FINALFUNC = logq.percentile_final,
	COMBINEFUNC = logq.percentile_combine,
	SERIALFUNC = logq.percentile_serialize,
	DESERIALFUNC = logq.percentile_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE logq.approx_percentile(float8, float8) IS
	'within 1 % of what percentile_disc(fraction) returns, NULL not counted; the same fraction for all rows; values nearer to 0 than 1e-9 may be off by 1e-11, those from 1e289 up count as infinite, and so does NaN';
COMMENT ON AGGREGATE logq.approx_percentile_merge(integer, bigint, float8) IS
	'logq.approx_percentile() of all values from partial results: how many rows have each logq.percentile_bucket()';

CREATE FUNCTION logq.quantile_add(internal, float8[])
RETURNS internal
AS 'MODULE_PATHNAME', 'logq_quantile_add'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.quantile_cont(internal, float8)
RETURNS float8
AS 'MODULE_PATHNAME', 'logq_quantile_cont'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION logq.quantile_disc(internal, float8)
RETURNS float8
AS 'MODULE_PATHNAME', 'logq_quantile_disc'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION logq.quantile_add(internal, float8[]) IS 'aggregate transition function';
COMMENT ON FUNCTION logq.quantile_cont(internal, float8) IS 'aggregate final function';
COMMENT ON FUNCTION logq.quantile_disc(internal, float8) IS 'aggregate final function';

CREATE AGGREGATE logq.percentile_cont_merge(fraction float8 ORDER BY "values" float8[]) (
	SFUNC = logq.quantile_add,
	STYPE = internal,
	FINALFUNC = logq.quantile_cont,
	FINALFUNC_MODIFY = SHAREABLE,
	PARALLEL = SAFE
);
CREATE AGGREGATE logq.percentile_disc_merge(fraction float8 ORDER BY "values" float8[]) (
	SFUNC = logq.quantile_add,
	STYPE = internal,
	FINALFUNC = logq.quantile_disc,
	FINALFUNC_MODIFY = SHAREABLE,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE logq.percentile_cont_merge(float8, float8[]) IS
	'percentile_cont(fraction) of the elements of all arrays, NULL not counted';
COMMENT ON AGGREGATE logq.percentile_disc_merge(float8, float8[]) IS
	'percentile_disc(fraction) of the elements of all arrays, NULL not counted';

-- ---------------------------------------------------------------------
-- What plans call
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.epoch_bound(value numeric, factor numeric, operator text, upper boolean)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'logq_epoch_bound_numeric'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION logq.epoch_bound(value float8, factor float8, operator text, upper boolean)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'logq_epoch_bound_float8'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION logq.epoch_bound(numeric, numeric, text, boolean) IS
	'first, or last (upper), of the times t for which "extract(epoch from t) * factor operator value" holds; first infinity and last -infinity if there is none';
COMMENT ON FUNCTION logq.epoch_bound(float8, float8, text, boolean) IS
	'first, or last (upper), of the times t for which "date_part(''epoch'', t) * factor operator value" holds; first infinity and last -infinity if there is none';

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

-- What the functions below have in common.  It is expanded in each of them.
CREATE FUNCTION logq.matching(
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time	timestamptz DEFAULT NULL,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL)
RETURNS SETOF logq.logs
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 1000
BEGIN ATOMIC
	SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
	FROM logq.logs l
	WHERE l.ts >= coalesce(matching.start_time, '-infinity'::timestamptz)
		AND l.ts < coalesce(matching.end_time, 'infinity'::timestamptz)
		AND (matching.level IS NULL OR l.level = matching.level)
		AND (matching.service IS NULL OR l.service = matching.service)
		AND (matching.trace_id IS NULL OR l.trace_id = matching.trace_id)
		AND (matching.contains IS NULL OR l.message ILIKE
			'%' || regexp_replace(matching.contains, '([\\%_])', '\\\1', 'g') || '%')
		AND (matching.pattern IS NULL OR l.message ~ matching.pattern);
END;
COMMENT ON FUNCTION logq.matching(timestamptz, timestamptz, text, text, text, text, text) IS
	'all log rows, in no order, of a time range: start_time included (default one hour ago, NULL is unbounded), end_time excluded (default unbounded); level, service, trace_id equal; message contains the given text in any case; message matches the regular expression';

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
	FROM logq.matching(search.start_time, search.end_time, search.level, search.service,
		search.trace_id, search.contains, search.pattern) l
	ORDER BY l.ts DESC, l.id DESC
	LIMIT search.max_rows;
END;
COMMENT ON FUNCTION logq.search(timestamptz, timestamptz, text, text, text, text, text, bigint) IS
	'log rows, newest first: start_time included (default one hour ago, NULL is unbounded), end_time excluded (default unbounded); level, service, trace_id equal; message contains the given text in any case; message matches the regular expression; at most max_rows rows (default 1000, NULL is all)';

-- ---------------------------------------------------------------------
-- Further functions over the log table.  The planner expands them, as it does
-- logq.search(): so each is a single SELECT, and what is grouped over
-- logq.matching() stands in a sub-select of its own, which is then a grouped
-- select over the log table alone.
--
-- Fields have names: those of the columns, and the keys of "attrs".  A key that
-- is called as a column, or begins with "attrs.", has "attrs." before it.
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.require(condition boolean, message text, hint text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'logq_require'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION logq.require(boolean, text, text) IS
	'true, or an error with this message (SQLSTATE 22023) when the condition is not true; for functions written in SQL';

CREATE FUNCTION logq.field_name(key text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN key IN ('ts', 'level', 'service', 'message', 'trace_id', 'attrs', 'id', 'partition')
		OR starts_with(key, 'attrs.') THEN 'attrs.' || key
	ELSE key
END;
COMMENT ON FUNCTION logq.field_name(text) IS 'name that logq''s functions have for a key of "attrs"';

CREATE FUNCTION logq.field_key(field text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN starts_with(field, 'attrs.') THEN substr(field, 7) ELSE field END;
COMMENT ON FUNCTION logq.field_key(text) IS
	'key of "attrs" that a name stands for, should it not be that of a column';

CREATE FUNCTION logq.step_unit(step interval)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN step <= interval '0' THEN NULL
	WHEN extract(day FROM step) = 0 AND extract(hour FROM step) = 0
		AND extract(minute FROM step) = 0 AND extract(second FROM step) = 0 THEN 'month'
	WHEN extract(year FROM step) = 0 AND extract(month FROM step) = 0
		AND extract(hour FROM step) = 0 AND extract(minute FROM step) = 0
		AND extract(second FROM step) = 0 THEN 'day'
	WHEN extract(year FROM step) = 0 AND extract(month FROM step) = 0
		AND extract(day FROM step) = 0 THEN 'time'
END;
COMMENT ON FUNCTION logq.step_unit(interval) IS
	'whether a step of logq.histogram() is of whole months, of whole days, or a time; NULL if it is none';

-- Months are numbered from January of the year 0, days from a Monday, times
-- from "midnight".
CREATE FUNCTION logq.bucket_number(step interval, midnight timestamptz, at timestamptz)
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE logq.step_unit(step)
	WHEN 'month' THEN floor(
		((extract(year FROM at) + CASE WHEN extract(year FROM at) < 0 THEN 1 ELSE 0 END) * 12
			+ extract(month FROM at) - 1)
		/ (extract(year FROM step) * 12 + extract(month FROM step)))
	WHEN 'day' THEN floor((at::date - date '2000-01-03') / extract(day FROM step))
	WHEN 'time' THEN div(extract(epoch FROM date_bin(step, at, midnight) - midnight), extract(epoch FROM step))
END::bigint;
COMMENT ON FUNCTION logq.bucket_number(interval, timestamptz, timestamptz) IS
	'number of the bucket of logq.histogram() that a time lies in';

CREATE FUNCTION logq.bucket_start(step interval, midnight timestamptz, number bigint)
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE logq.step_unit(step)
	WHEN 'month' THEN (timestamp '0001-01-01 00:00 BC' + number * step)::timestamptz
	WHEN 'day' THEN (timestamp '2000-01-03 00:00' + number * step)::timestamptz
	WHEN 'time' THEN midnight + number * step
END;
COMMENT ON FUNCTION logq.bucket_start(interval, timestamptz, bigint) IS
	'where a bucket of logq.histogram() begins';

CREATE FUNCTION logq.histogram(
	step		interval,
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time	timestamptz DEFAULT now(),
	by			text DEFAULT NULL,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL)
RETURNS TABLE (bucket timestamptz, value text, count bigint)
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 1000
BEGIN ATOMIC
	WITH counted AS (
		SELECT CASE logq.step_unit(histogram.step)
				WHEN 'month' THEN date_trunc('month', l.ts)
				WHEN 'day' THEN date_trunc('day', l.ts)
				WHEN 'time' THEN date_bin(histogram.step, l.ts, date_trunc('day', histogram.start_time))
			END AS bin,
			CASE histogram.by
				WHEN 'ts' THEN l.ts::text
				WHEN 'level' THEN l.level
				WHEN 'service' THEN l.service
				WHEN 'message' THEN l.message
				WHEN 'trace_id' THEN l.trace_id
				WHEN 'attrs' THEN l.attrs::text
				WHEN 'id' THEN l.id::text
				WHEN 'partition' THEN l.partition
				ELSE l.attrs ->> logq.field_key(histogram.by)
			END AS value,
			count(*) AS count
		FROM logq.matching(histogram.start_time, histogram.end_time, histogram.level, histogram.service,
			histogram.trace_id, histogram.contains, histogram.pattern) l
		GROUP BY 1, 2
	)
	-- each value once in each bucket, so that none is missing, and the counts
	SELECT logq.bucket_start(histogram.step, date_trunc('day', histogram.start_time), u.number),
		u.value, sum(u.count)::bigint
	FROM (
		SELECT logq.bucket_number(histogram.step, date_trunc('day', histogram.start_time), c.bin) AS number,
			c.value, c.count
		FROM counted c
		UNION ALL
		SELECT b.number, v.value, 0
		FROM generate_series(
				logq.bucket_number(histogram.step, date_trunc('day', histogram.start_time),
					histogram.start_time),
				logq.bucket_number(histogram.step, date_trunc('day', histogram.start_time),
					histogram.end_time - interval '1 microsecond')) AS b(number),
			-- an array, lest the planner expect a value for each group
			unnest(CASE WHEN histogram.by IS NULL THEN ARRAY[NULL::text]
				ELSE (SELECT array_agg(DISTINCT c.value) FROM counted c)
				END) AS v(value)
		WHERE histogram.start_time < histogram.end_time
			-- days that a zone has left out, when it crossed the date line
			AND logq.bucket_start(histogram.step, date_trunc('day', histogram.start_time), b.number)
				< logq.bucket_start(histogram.step, date_trunc('day', histogram.start_time), b.number + 1)
	) u
	WHERE CASE WHEN logq.require(logq.step_unit(histogram.step) IS NOT NULL,
				'step of a histogram must be greater than zero, and cannot mix months, days and hours',
				'Write 36 hours, for example, and not 1 day 12 hours: not all days have 24.')
			AND logq.require(isfinite(histogram.start_time) AND isfinite(histogram.end_time),
				'start_time and end_time of a histogram must be finite',
				'Give the times at which the first bucket begins and the last one ends.')
		-- what is NULL has failed above; but constants are evaluated before that
		THEN logq.require(coalesce(
				logq.bucket_number(histogram.step, date_trunc('day', histogram.start_time), histogram.end_time)
					- logq.bucket_number(histogram.step, date_trunc('day', histogram.start_time), histogram.start_time)
					<= 100000, true),
				'histogram has more than 100000 buckets',
				'Choose a longer step, or a shorter time range.')
		END
	GROUP BY u.number, u.value
	ORDER BY u.number, u.value;
END;
COMMENT ON FUNCTION logq.histogram(interval, timestamptz, timestamptz, text, text, text, text, text, text) IS
	'counts of log rows by time, empty buckets included: steps of whole months or days (weeks begin on Monday) follow the calendar of the session''s time zone, others are counted from midnight of the first day; start_time included (default one hour ago), end_time excluded (default now), the first bucket begins at or before start_time; by: level, service, another column or a key of attrs; of rows with this level, service and trace_id, whose message contains the given text in any case and matches the regular expression';

CREATE FUNCTION logq.field_names(
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time	timestamptz DEFAULT NULL,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL)
RETURNS TABLE (field text, count bigint)
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 100
BEGIN ATOMIC
	-- few rows have other keys than those before
	WITH counted AS (
		SELECT CASE WHEN jsonb_typeof(l.attrs) = 'object'
				THEN jsonb_path_query_array(l.attrs, '$.keyvalue().key') END AS keys,
			count(*) AS rows, count(l.level) AS level, count(l.service) AS service,
			count(l.message) AS message, count(l.trace_id) AS trace_id, count(l.attrs) AS attrs
		FROM logq.matching(field_names.start_time, field_names.end_time, field_names.level, field_names.service,
			field_names.trace_id, field_names.contains, field_names.pattern) l
		GROUP BY 1
	)
	SELECT f.field, sum(f.count)::bigint
	FROM (
		SELECT v.field, v.count
		FROM counted c, LATERAL (VALUES ('ts', c.rows), ('level', c.level), ('service', c.service),
			('message', c.message), ('trace_id', c.trace_id), ('attrs', c.attrs), ('id', c.rows),
			('partition', c.rows)) AS v(field, count)
		WHERE v.count > 0
		UNION ALL
		SELECT logq.field_name(k.key), c.rows
		FROM counted c, LATERAL jsonb_array_elements_text(c.keys) AS k(key)
	) f
	GROUP BY f.field
	ORDER BY 2 DESC, 1;
END;
COMMENT ON FUNCTION logq.field_names(timestamptz, timestamptz, text, text, text, text, text) IS
	'columns that are not NULL and keys of attrs, and how many rows have them, most frequent first: start_time included (default one hour ago, NULL is unbounded), end_time excluded (default unbounded); of rows with this level, service and trace_id, whose message contains the given text in any case and matches the regular expression';

CREATE FUNCTION logq.field_values(
	field		text,
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time	timestamptz DEFAULT NULL,
	max_values	bigint DEFAULT 100,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL)
RETURNS TABLE (value text, count bigint)
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 100
BEGIN ATOMIC
	SELECT c.value, c.count
	FROM (
		SELECT CASE field_values.field
				WHEN 'ts' THEN l.ts::text
				WHEN 'level' THEN l.level
				WHEN 'service' THEN l.service
				WHEN 'message' THEN l.message
				WHEN 'trace_id' THEN l.trace_id
				WHEN 'attrs' THEN l.attrs::text
				WHEN 'id' THEN l.id::text
				WHEN 'partition' THEN l.partition
				ELSE l.attrs ->> logq.field_key(field_values.field)
			END AS value,
			count(*) AS count
		FROM logq.matching(field_values.start_time, field_values.end_time, field_values.level, field_values.service,
			field_values.trace_id, field_values.contains, field_values.pattern) l
		GROUP BY 1
	) c
	WHERE c.value IS NOT NULL
	ORDER BY c.count DESC, c.value
	LIMIT field_values.max_values;
END;
COMMENT ON FUNCTION logq.field_values(text, timestamptz, timestamptz, bigint, text, text, text, text, text) IS
	'values of a field (a column, or a key of attrs) and how many rows have them, most frequent first: start_time included (default one hour ago, NULL is unbounded), end_time excluded (default unbounded); at most max_values (default 100, NULL is all); of rows with this level, service and trace_id, whose message contains the given text in any case and matches the regular expression';

CREATE FUNCTION logq.facets(
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time	timestamptz DEFAULT NULL,
	max_values	bigint DEFAULT 10,
	keys		text[] DEFAULT NULL,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL)
RETURNS TABLE (field text, value text, count bigint)
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 100
BEGIN ATOMIC
	WITH counted AS (
		SELECT l.service, l.level, count(*) AS count
		FROM logq.matching(facets.start_time, facets.end_time, facets.level, facets.service,
			facets.trace_id, facets.contains, facets.pattern) l
		GROUP BY 1, 2
	), key_set AS (
		SELECT CASE WHEN jsonb_typeof(l.attrs) = 'object'
				THEN jsonb_path_query_array(l.attrs, '$.keyvalue().key') END AS keys,
			count(*) AS count
		FROM logq.matching(facets.start_time, facets.end_time, facets.level, facets.service,
			facets.trace_id, facets.contains, facets.pattern) l
		GROUP BY 1
	), chosen AS (
		(SELECT k.key, row_number() OVER (ORDER BY sum(s.count) DESC, k.key) AS place
		FROM key_set s, LATERAL jsonb_array_elements_text(s.keys) AS k(key)
		WHERE facets.keys IS NULL
		GROUP BY k.key
		ORDER BY 2
		LIMIT 10)
		UNION ALL
		SELECT logq.field_key(k.name), min(k.place)
		FROM unnest(facets.keys) WITH ORDINALITY AS k(name, place)
		WHERE k.name IS NOT NULL
		GROUP BY 1
	)
	SELECT f.field, f.value, f.count
	FROM (
		(SELECT -1 AS place, 'service' AS field, c.service AS value, sum(c.count)::bigint AS count
		FROM counted c
		WHERE c.service IS NOT NULL
		GROUP BY c.service
		ORDER BY 4 DESC, 3
		LIMIT facets.max_values)
		UNION ALL
		(SELECT 0, 'level', c.level, sum(c.count)::bigint
		FROM counted c
		WHERE c.level IS NOT NULL
		GROUP BY c.level
		ORDER BY 4 DESC, 3
		LIMIT facets.max_values)
		UNION ALL
		SELECT c.place, logq.field_name(c.key), v.value, v.count
		FROM chosen c, LATERAL (
			SELECT k.value, k.count, count(*) OVER () AS different
			FROM (
				SELECT l.attrs ->> c.key AS value, count(*) AS count
				FROM logq.matching(facets.start_time, facets.end_time, facets.level, facets.service,
					facets.trace_id, facets.contains, facets.pattern) l
				WHERE l.attrs ->> c.key IS NOT NULL
				GROUP BY 1
			) k
			ORDER BY k.count DESC, k.value
			LIMIT facets.max_values
		) v
		-- of what nobody has asked for, not ids, durations and the like
		WHERE facets.keys IS NOT NULL OR v.different <= 1000
	) f
	ORDER BY f.place, f.count DESC, f.value;
END;
COMMENT ON FUNCTION logq.facets(timestamptz, timestamptz, bigint, text[], text, text, text, text, text) IS
	'most frequent values of service, level and keys of attrs, with how many rows have them: start_time included (default one hour ago, NULL is unbounded), end_time excluded (default unbounded); at most max_values of each (default 10, NULL is all); keys: which ones (default: the ten that most rows have, without those that have more than 1000 values); of rows with this level, service and trace_id, whose message contains the given text in any case and matches the regular expression';

CREATE FUNCTION logq.context(
	id			bigint,
	before		bigint DEFAULT 10,
	after		bigint DEFAULT 10)
RETURNS SETOF logq.logs
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 21
BEGIN ATOMIC
	WITH line AS (
		SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
		FROM logq.logs l
		WHERE l.id = context.id
		LIMIT 1
	)
	SELECT c.ts, c.level, c.service, c.message, c.trace_id, c.attrs, c.id, c.partition
	FROM (
		SELECT b.ts, b.level, b.service, b.message, b.trace_id, b.attrs, b.id, b.partition
		FROM line, LATERAL (
			SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
			FROM logq.logs l
			WHERE l.ts <= line.ts AND (l.ts, l.id) < (line.ts, line.id)
				AND (l.service = line.service OR (l.service IS NULL AND line.service IS NULL))
			ORDER BY l.ts DESC, l.id DESC
			LIMIT context.before
		) b
		UNION ALL
		SELECT line.ts, line.level, line.service, line.message, line.trace_id, line.attrs, line.id, line.partition
		FROM line
		UNION ALL
		SELECT a.ts, a.level, a.service, a.message, a.trace_id, a.attrs, a.id, a.partition
		FROM line, LATERAL (
			SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
			FROM logq.logs l
			WHERE l.ts >= line.ts AND (l.ts, l.id) > (line.ts, line.id)
				AND (l.service = line.service OR (l.service IS NULL AND line.service IS NULL))
			ORDER BY l.ts, l.id
			LIMIT context.after
		) a
	) c
	ORDER BY c.ts, c.id;
END;
COMMENT ON FUNCTION logq.context(bigint, bigint, bigint) IS
	'a log row and those of the same service around it, oldest first: so many rows before it and after it (default 10 each, NULL is all)';

CREATE FUNCTION logq.tail(
	after		text DEFAULT NULL,
	max_rows	bigint DEFAULT 1000,
	settle		interval DEFAULT '5 seconds',
	last_rows	bigint DEFAULT 10,
	level		text DEFAULT NULL,
	service		text DEFAULT NULL,
	trace_id	text DEFAULT NULL,
	contains	text DEFAULT NULL,
	pattern		text DEFAULT NULL)
RETURNS TABLE (ts timestamptz, level text, service text, message text, trace_id text, attrs jsonb,
	id bigint, partition text, cursor text)
LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 1000
BEGIN ATOMIC
	SELECT r.ts, r.level, r.service, r.message, r.trace_id, r.attrs, r.id, r.partition,
		(to_jsonb(r.ts AT TIME ZONE 'UTC') #>> '{}') || ' UTC/' || r.id
	FROM (
		SELECT n.ts, n.level, n.service, n.message, n.trace_id, n.attrs, n.id, n.partition
		FROM (
			SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
			FROM logq.matching(split_part(tail.after, '/', 1)::timestamptz,
				statement_timestamp() - tail.settle, tail.level, tail.service,
				tail.trace_id, tail.contains, tail.pattern) l
			WHERE (l.ts, l.id) > (split_part(tail.after, '/', 1)::timestamptz,
				coalesce(nullif(split_part(tail.after, '/', 2), '')::bigint, 0))
			ORDER BY l.ts, l.id
			LIMIT tail.max_rows
		) n
		WHERE tail.after <> ''
		UNION ALL
		SELECT o.ts, o.level, o.service, o.message, o.trace_id, o.attrs, o.id, o.partition
		FROM (
			SELECT l.ts, l.level, l.service, l.message, l.trace_id, l.attrs, l.id, l.partition
			FROM logq.matching(statement_timestamp() - interval '1 hour',
				statement_timestamp() - tail.settle, tail.level, tail.service,
				tail.trace_id, tail.contains, tail.pattern) l
			ORDER BY l.ts DESC, l.id DESC
			LIMIT tail.last_rows
		) o
		WHERE coalesce(tail.after, '') = ''
	) r
	ORDER BY r.ts, r.id;
END;
COMMENT ON FUNCTION logq.tail(text, bigint, interval, bigint, text, text, text, text, text) IS
	'log rows that are new since a cursor, oldest first, each with its cursor, which is where to go on: time and id, as "2026-03-01T12:00:00.5 UTC/35184372088833", or a time alone, which is included; NULL: the newest last_rows (default 10) of the last hour; at most max_rows (default 1000, NULL is all); rows whose time is less than settle ago (default 5 seconds, NULL: not even those of the future) are left for later, as older ones may still come; of rows with this level, service and trace_id, whose message contains the given text in any case and matches the regular expression';

-- ---------------------------------------------------------------------
-- Grafana
-- ---------------------------------------------------------------------

CREATE VIEW logq.grafana_logs WITH (security_invoker = true) AS
	SELECT l.ts AS "time", l.message, l.level, l.id::text AS id, l.service, l.trace_id, l.partition, l.attrs
	FROM logq.logs l;
COMMENT ON VIEW logq.grafana_logs IS
	'logq.logs for Grafana: columns as its Logs panel looks for them, and a view, as it does not list foreign tables everywhere; needs the rights that logq.logs does';

CREATE VIEW logq.grafana_annotations WITH (security_invoker = true) AS
	SELECT l.ts AS "time", NULL::timestamptz AS timeend, l.message AS text,
		concat_ws(',', translate(l.level, ',', ' '), translate(l.service, ',', ' ')) AS tags,
		l.level, l.service, l.trace_id, l.partition
	FROM logq.logs l;
COMMENT ON VIEW logq.grafana_annotations IS
	'logq.logs with the columns that make annotations in Grafana: time, timeend, text, and level and service as tags; needs the rights that logq.logs does';

CREATE VIEW logq.grafana_missing WITH (security_invoker = true) AS
	SELECT now() AS "time", format('partition "%s" has not answered: rows are missing here', m.name) AS message,
		'WARN'::text AS level, NULL::text AS id, NULL::text AS service, NULL::text AS trace_id,
		m.name::text AS partition, NULL::jsonb AS attrs
	FROM logq.last_query() q, LATERAL unnest(q.missing) AS m(name)
	WHERE NOT q.complete;
COMMENT ON VIEW logq.grafana_missing IS
	'a row, with the columns of logq.grafana_logs, for each partition that is missing from the answer to the query under way, or, when it reads no log table, the session''s last one; to be added to it by UNION ALL (logq.partial_results)';

-- ---------------------------------------------------------------------
-- The cache
-- ---------------------------------------------------------------------

CREATE FUNCTION logq.cache_clear() RETURNS bigint
AS 'MODULE_PATHNAME', 'logq_cache_clear' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION logq.cache_clear() IS
	'removes all that is cached in memory and in Redis, and returns how many values that were; fails when Redis cannot be reached, with the memory cleared';
REVOKE ALL ON FUNCTION logq.cache_clear() FROM PUBLIC;

-- ---------------------------------------------------------------------
-- Rights.  What is granted to PUBLIC by default and not revoked above computes
-- from its arguments, or reads as the caller.  test/t/043_rights.pl has the list
-- of it, and of what each role may do.  A view checks the rights on a function
-- against who reads the view, hence both.
-- ---------------------------------------------------------------------

GRANT USAGE ON SCHEMA logq TO logq_reader, logq_writer, logq_admin, pg_monitor;

GRANT SELECT ON logq.logs, logq.grafana_logs, logq.grafana_annotations, logq.grafana_missing
	TO logq_reader;

GRANT INSERT ON logq.logs TO logq_writer;

-- how things are, without a row of anybody's logs
GRANT SELECT ON logq.stat_admission, logq.stat_partitions, logq.stat_ingest, logq.stat_segments
	TO logq_admin, pg_monitor;
GRANT EXECUTE ON FUNCTION logq.admission_status(), logq.server_status(), logq.ingest_status(),
	logq.catalog_status(), logq.catalog_places(), logq.health(interval, interval, bigint, interval, float8, interval, interval, interval), logq.stats(),
	logq.metrics()
	TO logq_admin, pg_monitor;

GRANT USAGE ON FOREIGN DATA WRAPPER logq_fdw TO logq_admin;
GRANT SELECT ON logq.partition, logq.partitions, logq.segments, logq.topic, logq.dead_letters
	TO logq_admin;
GRANT EXECUTE ON FUNCTION
	logq.add_partition(name, integer, interval),
	logq.remove_partition(name, boolean),
	logq.partition_status(),
	logq.refresh_catalog(name),
	logq.seal(name, name, timestamptz),
	logq.set_retention(interval, name),
	logq.add_topic(text, text, text, jsonb),
	logq.remove_topic(text),
	logq.pause_topic(text),
	logq.resume_topic(text),
	logq.dead_letter_list(),
	logq.retry_dead_letters(text),
	logq.cache_clear(),
	logq.cache_reset_stats(),
	logq.reset_stats(),
	logq.upgrade_store(name)
	TO logq_admin;
