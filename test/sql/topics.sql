-- Kafka topics: what may be said about them, and who sees what of it.  This
-- database has no maintenance worker, so nothing is ever read from a broker.
\set VERBOSITY default
SET timezone = 'UTC';

-- ---------------------------------------------------------------------
-- Add, change, pause, resume, remove
-- ---------------------------------------------------------------------
SELECT logq.add_topic('app', '127.0.0.1:1') AS number \gset
\set VERBOSITY terse
SELECT number = :number AS same, name, brokers, format, options, paused, added <= now() AS added FROM logq.topic;
SELECT * FROM logq.stat_ingest;
SELECT logq.pause_topic('app');
SELECT topic, kafka_partition, state FROM logq.stat_ingest;
-- settings are replaced as a whole, number and pause stay
SELECT logq.add_topic('app', ' 127.0.0.1:1 , broker-2.example.com:65535,[::1]:9092', format => 'json',
	options => '{"client.id": "logq", "queued.min.messages": 1000, "socket.keepalive.enable": true, "logq.key": "attrs.user id",
		"logq.service": "shop", "logq.start": "latest"}') = :number AS same;
SELECT number = :number AS same, name, brokers, format, options, paused FROM logq.topic;
SELECT logq.add_topic('app', '127.0.0.1:1', options => '{"logq.key": "trace_id"}') = :number AS same;
SELECT number = :number AS same, name, brokers, format, options, paused FROM logq.topic;
SELECT logq.resume_topic('app');
SELECT topic, state, rows, dead_letters, last_error, pid FROM logq.stat_ingest;
SELECT logq.resume_topic('app');
SELECT logq.add_topic('_A.b-9', 'localhost:9092', 'otlp') > :number AS later;
SELECT logq.add_topic(repeat('x', 249), 'localhost:9092', 'raw') > :number AS later;
SELECT left(name, 10) AS name, length(name), brokers, format FROM logq.topic ORDER BY number;
SELECT logq.remove_topic(name) FROM logq.topic WHERE name <> 'app';
SELECT topic FROM logq.stat_ingest;
\set VERBOSITY default
SELECT logq.remove_topic('nope');
\set VERBOSITY terse
SELECT logq.pause_topic('nope');
SELECT logq.resume_topic('nope');
SELECT logq.remove_topic(NULL) IS NULL AS nothing;
-- rolled back
BEGIN;
SELECT logq.remove_topic('app');
SELECT count(*) FROM logq.stat_ingest;
ROLLBACK;
SELECT count(*) FROM logq.stat_ingest;
-- the trigger is one
SELECT logq.topic_changed();

-- ---------------------------------------------------------------------
-- What is refused
-- ---------------------------------------------------------------------
\set VERBOSITY default
SELECT logq.add_topic(NULL, '127.0.0.1:1');
SELECT logq.add_topic('t', NULL);
SELECT logq.add_topic('t', '127.0.0.1:1', NULL);
SELECT logq.add_topic('t', '127.0.0.1:1', options => NULL);
-- names
SELECT logq.add_topic('', '127.0.0.1:1');
SELECT logq.add_topic('..', '127.0.0.1:1');
SELECT logq.add_topic('a b', '127.0.0.1:1');
SELECT logq.add_topic('a/b', '127.0.0.1:1');
SELECT logq.add_topic(repeat('x', 250), '127.0.0.1:1');
-- brokers, and what is wrong with one of them
CREATE FUNCTION pg_temp.problem(brokers text, options jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE what text; details text; advice text;
BEGIN
	PERFORM logq.add_topic('refused', brokers, options => options);
	PERFORM logq.remove_topic('refused');
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS what = MESSAGE_TEXT, details = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', what, nullif(details, ''), nullif(advice, ''));
END $$;
SELECT logq.add_topic('t', 'localhost');
SELECT b AS brokers, split_part(pg_temp.problem(b), ' | Write', 1) AS problem FROM unnest(ARRAY[
	'', 'a:1,', 'a:1,,b:1', ':9092', 'a', 'a:', 'a:x', 'a:0', 'a:65536', 'a:99999999999', 'a:9092 b:9092', 'a b:1', 'a@b:1',
	'PLAINTEXT://a:9092', '::1:9092', '[::1]', '[::1', '[::1]9092', '[a]:9092', '[fe80::1%eth0]:9092', '[::1]:9092', 'a:1 , b:2'])
	WITH ORDINALITY AS u(b, i) ORDER BY i;
-- formats
SELECT logq.add_topic('t', '127.0.0.1:1', 'xml');
SELECT logq.add_topic('t', '127.0.0.1:1', 'JSON');
-- options
SELECT o AS options, pg_temp.problem('127.0.0.1:1', o::jsonb) AS problem FROM unnest(ARRAY[
	'[]', '"x"', '{"": "x"}', '{"client.id": null}', '{"client.id": ["x"]}', '{"client.id": {"x": 1}}',
	'{"logq.keys": "x"}', '{"logq.": "x"}', '{"logq.key": "level"}', '{"logq.key": "attrs."}', '{"logq.key": 1}',
	'{"logq.service": ""}', '{"logq.service": true}', '{"logq.start": "beginning"}'])
	WITH ORDINALITY AS u(o, i) ORDER BY i;
-- properties that are not for users
SELECT p AS property, pg_temp.problem('127.0.0.1:1', jsonb_build_object(p, 'x')) AS problem FROM unnest(ARRAY[
	'bootstrap.servers', 'metadata.broker.list', 'group.id', 'group.instance.id', 'enable.auto.commit', 'auto.commit.enable',
	'enable.auto.offset.store', 'offset.store.method', 'offset.store.path', 'auto.offset.reset', 'isolation.level',
	'enable.partition.eof', 'log.queue', 'enabled_events', 'allow.auto.create.topics', 'transactional.id', 'log_cb',
	'rebalance_cb', 'opaque', 'default_topic_conf', 'interceptors', 'plugin.library.paths', 'ssl.engine.location',
	'ssl.engine.id', 'ssl.providers', 'sasl.kerberos.kinit.cmd'])
	WITH ORDINALITY AS u(p, i) ORDER BY i;
-- these get into a command
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.kerberos.principal": "a; touch /tmp/x"}');
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.kerberos.keytab": "$(touch /tmp/x)"}');
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.kerberos.principal": "-x"}');
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.kerberos.principal": "logq/host.example.com@EXAMPLE.COM"}');
SELECT count(*) FROM logq.topic;

-- librdkafka knows what there is, and what it may be set to
\set VERBOSITY terse
SELECT logq.add_topic('t', '127.0.0.1:1', options => '{"sasl.pasword": "geheim1"}');
SELECT logq.add_topic('t', '127.0.0.1:1', options => '{"security.protocol": "carrier-pigeon"}');
SELECT logq.add_topic('t', '127.0.0.1:1', options => '{"queued.min.messages": "many"}');
SELECT pg_temp.problem('127.0.0.1:1', '{"security.protocol": "carrier-pigeon"}') ~ 'carrier-pigeon' AS says_what;
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.pasword": "geheim1"}') ~ 'sasl\.pasword' AS says_which;

-- ---------------------------------------------------------------------
-- Secrets
-- ---------------------------------------------------------------------
SELECT logq.add_topic('secret', '127.0.0.1:1', options => '{"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN",
	"sasl.username": "logq", "sasl.password": "geheim2", "log_level": 6}') AS number \gset
SELECT options FROM logq.topic WHERE name = 'secret';
SELECT options FROM logq.topic_secret WHERE number = :number;
SELECT count(*) FROM logq.stat_ingest s WHERE s::text ~ 'geheim';
SELECT count(*) FROM logq.topic t WHERE t::text ~ 'geheim';
-- taken away when it is not given again
SELECT logq.add_topic('secret', '127.0.0.1:1') = :number AS same;
SELECT count(*) FROM logq.topic_secret WHERE number = :number;
SELECT logq.add_topic('secret', '127.0.0.1:1', options => '{"ssl.key.password": "geheim3", "ssl.keystore.password": "geheim4"}') = :number AS same;
SELECT logq.add_topic('secret', '127.0.0.1:1', options => '{"ssl.key.password": "geheim5"}') = :number AS same;
SELECT t.options, s.options AS secret FROM logq.topic t JOIN logq.topic_secret s USING (number) WHERE name = 'secret';
-- not in errors
SELECT bool_or(pg_temp.problem('127.0.0.1:1', o) ~* 'geh|eim') AS shown, bool_and(pg_temp.problem('127.0.0.1:1', o) <> 'none') AS refused
	FROM unnest(ARRAY[
	'{"security.protocol": "ssl", "ssl.key.pem": "geheim9"}',
	'{"sasl.password": ["geheim10"]}',
	'{"sasl.password": null}',
	'{"sasl.jaas.config": "geheim11"}',
	'{"my.secret": "geheim12"}',
	'{"my.key": "geheim13"}',
	'{"my.pem": "geheim14"}',
	'{"my.passphrase": "geheim15"}'
	]::jsonb[]) AS u(o);
SELECT logq.remove_topic('secret');
SELECT count(*) FROM logq.topic_secret;

-- ---------------------------------------------------------------------
-- Privileges: those on the functions are all that is needed
-- ---------------------------------------------------------------------
CREATE ROLE regress_logq_topics;
GRANT USAGE ON SCHEMA logq TO regress_logq_topics;
GRANT SELECT ON logq.stat_ingest TO regress_logq_topics;
SET ROLE regress_logq_topics;
SELECT logq.add_topic('t', '127.0.0.1:1');
SELECT logq.remove_topic('app');
SELECT logq.pause_topic('app');
SELECT logq.resume_topic('app');
SELECT count(*) FROM logq.stat_ingest;
SELECT count(*) FROM logq.topic;
SELECT count(*) FROM logq.topic_secret;
RESET ROLE;
GRANT EXECUTE ON FUNCTION logq.add_topic, logq.remove_topic, logq.pause_topic, logq.resume_topic, logq.ingest_status
	TO regress_logq_topics;
-- whatever the caller's names stand for
CREATE SCHEMA regress_logq_topics AUTHORIZATION regress_logq_topics;
SET ROLE regress_logq_topics;
CREATE FUNCTION regress_logq_topics.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS
	$$ BEGIN RAISE WARNING 'called as %', current_user; RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
CREATE OPERATOR regress_logq_topics.= (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_logq_topics.eq);
SET search_path = regress_logq_topics, pg_catalog;
SELECT logq.add_topic('t', '127.0.0.1:1', options => '{"sasl.password": "geheim"}') > 0 AS added;
SELECT current_user, current_setting('search_path') AS path;
RESET search_path;
SELECT logq.pause_topic('t');
SELECT topic, state FROM logq.stat_ingest ORDER BY topic;
SELECT logq.resume_topic('t');
SELECT count(*) FROM logq.topic_secret;
-- files of the server are not for everybody
SELECT pg_temp.problem('127.0.0.1:1', '{"ssl.ca.location": "/nowhere/ca.pem"}');
SELECT pg_temp.problem('127.0.0.1:1', '{"ssl.keystore.location": "/nowhere/ca.p12"}');
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.kerberos.keytab": "/nowhere/keytab"}');
SELECT current_user;
RESET ROLE;
GRANT pg_read_server_files TO regress_logq_topics;
SET ROLE regress_logq_topics;
SELECT pg_temp.problem('127.0.0.1:1', '{"sasl.kerberos.keytab": "/nowhere/keytab"}');
SELECT logq.remove_topic('t');
RESET ROLE;
SELECT name FROM logq.topic;
DROP SCHEMA regress_logq_topics CASCADE;
DROP OWNED BY regress_logq_topics;
DROP ROLE regress_logq_topics;

-- ---------------------------------------------------------------------
-- Dumps
-- ---------------------------------------------------------------------
SELECT c.oid::regclass AS "table" FROM pg_extension e, unnest(e.extconfig) AS c(oid)
	WHERE e.extname = 'logq' AND c.oid::regclass::text ~ '^logq\.topic' ORDER BY 1;
SELECT logq.remove_topic('app');
