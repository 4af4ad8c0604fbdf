-- What a user of the log table relies on, in pgTAP's words
BEGIN;
SELECT plan(27);

SELECT has_schema('logq');
SELECT has_foreign_table('logq', 'logs', 'the log table is there');
SELECT columns_are('logq', 'logs', ARRAY['ts', 'level', 'service', 'message', 'trace_id', 'attrs', 'id', 'partition']);
SELECT col_type_is('logq', 'logs', 'ts', 'timestamp with time zone', 'ts is a timestamptz');
SELECT col_type_is('logq', 'logs', 'attrs', 'jsonb', 'attrs is jsonb');
SELECT col_type_is('logq', 'logs', 'id', 'bigint', 'id is a bigint');
SELECT has_view('logq', 'partitions', 'the view of partitions is there');
SELECT has_function('logq', 'search', ARRAY['timestamptz', 'timestamptz', 'text', 'text', 'text', 'text', 'text', 'bigint']);
SELECT volatility_is('logq', 'search', ARRAY['timestamp with time zone', 'timestamp with time zone', 'text', 'text', 'text', 'text', 'text', 'bigint'], 'stable');
SELECT has_function('logq', 'add_partition', ARRAY['name', 'integer', 'interval']);
SELECT has_function('logq', 'remove_partition', ARRAY['name', 'boolean']);
SELECT is((SELECT count(*) FROM logq.partitions WHERE state = 'up'), 3::bigint, 'three partitions answer');

INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '2024-03-01 00:00+00' + g * interval '1 second',
		(ARRAY['INFO', 'WARN', 'ERROR'])[1 + g % 3], 'tap-' || g % 5, 'message ' || g,
		'trace-' || g / 10, jsonb_build_object('n', g)
	FROM generate_series(0, 999) g;

SELECT is((SELECT count(*) FROM logq.search('2024-03-01 00:00+00', '2024-03-01 01:00+00', max_rows => NULL)),
	1000::bigint, 'this transaction sees its own rows');
SELECT results_eq(
	$$SELECT message FROM logq.search('2024-03-01 00:00+00', '2024-03-01 01:00+00', level => 'ERROR', max_rows => 3)$$,
	ARRAY['message 998', 'message 995', 'message 992'], 'newest first');
SELECT results_eq(
	$$SELECT message FROM logq.search('2024-03-01 00:00+00', '2024-03-01 01:00+00', service => 'tap-3', level => 'WARN', max_rows => 2)$$,
	ARRAY['message 988', 'message 973'], 'service and level');
SELECT set_eq(
	$$SELECT message FROM logq.search('2024-03-01 00:00+00', '2024-03-01 01:00+00', trace_id => 'trace-7')$$,
	$$SELECT 'message ' || g FROM generate_series(70, 79) g$$, 'a trace');
SELECT is((SELECT count(*) FROM logq.search('2024-03-01 00:00:10+00', '2024-03-01 00:00:20+00')), 10::bigint,
	'start included, end excluded');
SELECT is((SELECT count(*) FROM logq.search('2024-03-01 00:00+00', '2024-03-01 01:00+00', contains => 'MESSAGE 99')), 11::bigint,
	'contains, in any case');
SELECT is((SELECT count(*) FROM logq.search('2024-03-01 00:00+00', '2024-03-01 01:00+00', pattern => '9$')), 100::bigint,
	'a regular expression');
SELECT is((SELECT sum((attrs ->> 'n')::int) FROM logq.logs WHERE ts >= '2024-03-01 00:00+00' AND ts < '2024-03-01 01:00+00' AND attrs @> '{"n": 5}'),
	5::bigint, 'attributes');
SELECT is((SELECT count(DISTINCT id) FROM logq.logs WHERE ts >= '2024-03-01 00:00+00' AND ts < '2024-03-01 01:00+00'),
	1000::bigint, 'ids are unique');
-- text comes in our encoding, whatever the client's is
INSERT INTO logq.logs (ts, level, service, message, attrs)
	VALUES ('2024-03-01 02:00+00', 'INFO', 'tap-' || chr(252), chr(239), jsonb_build_object('k', 'na' || chr(239) || 've'));
SET LOCAL client_encoding = 'LATIN1';
SELECT is((SELECT length(attrs->>'k') || ' ' || ascii(message) FROM logq.logs WHERE service = 'tap-' || chr(252)),
	'5 239', 'rows while the client has another encoding');
SELECT is((SELECT length(max(attrs->>'k')) || ' ' || length(array_to_string(max(array[message, attrs->>'k']), '')) FROM logq.logs
		WHERE service = 'tap-' || chr(252) GROUP BY attrs->'k'),
	'5 6', 'and groups');
RESET client_encoding;
SELECT throws_ok('UPDATE logq.logs SET level = NULL', '0A000');
SELECT throws_ok('DELETE FROM logq.logs', '0A000');
SELECT throws_ok('INSERT INTO logq.logs (ts) VALUES (NULL)', '23502');
SELECT throws_ok($$SELECT logq.remove_partition(partition::name) FROM logq.logs WHERE service = 'tap-1' LIMIT 1$$, '55006');

SELECT * FROM finish();
ROLLBACK;
