-- The store of format 3, the last one whose new segments do not take policies over,
-- as logq.store_sql() made it: what logq.upgrade_store() has to cope with.  Stays as
-- it is.
CREATE SCHEMA logq_store;
COMMENT ON SCHEMA logq_store IS 'log rows and their catalog, kept for logq coordinators';

CREATE TABLE logq_store.store (
	format				integer NOT NULL,
	number				integer NOT NULL,
	segment_interval	interval NOT NULL CHECK (segment_interval BETWEEN '1 minute' AND '31 days'),
	retention			interval CHECK (retention > '0'),
	only_row			boolean NOT NULL DEFAULT true UNIQUE CHECK (only_row)
);
INSERT INTO logq_store.store VALUES (3, @NUMBER@, @INTERVAL@);

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
