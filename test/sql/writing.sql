-- INSERT and COPY into logq.logs
SET timezone = 'UTC';
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs) VALUES
	('2021-01-01 00:00:00+00', 'INFO', 'web', 'first', 't1', '{"a": 1}'),
	('2021-01-01 00:00:01+00', 'ERROR', 'db', 'second', NULL, NULL),
	('2021-01-01 00:59:59.999999+00', NULL, NULL, NULL, NULL, '[]'),
	('2021-01-01 01:00:00+00', '', '', '', '', '"x"');
COPY logq.logs (ts, level, message) FROM STDIN;
2021-01-01 02:00:00+00	WARN	tab\there \\ and 'quote'
2021-01-01 03:00:00+00	WARN	\N
\.
SELECT ts, level, service, message, trace_id, attrs FROM logq.logs
WHERE ts >= '2021-01-01' AND ts < '2021-01-02' ORDER BY ts, id;

-- ids are unique, and carry the partition's number
SELECT count(DISTINCT l.id) AS ids, bool_and(l.id >> 44 = p.number) AS numbered
FROM logq.logs l JOIN logq.partition p ON p.server = l.partition
WHERE ts >= '2021-01-01' AND ts < '2021-01-02';

-- one service, one partition; and a partition by name
SELECT count(DISTINCT partition) FROM logq.logs WHERE ts < '2021-01-02' AND ts >= '2021-01-01' AND service = 'web';
INSERT INTO logq.logs (ts, service, message, partition)
	SELECT '2021-01-02', 's', p, p FROM unnest(ARRAY['p3', 'p1', 'p2']) p
	RETURNING message, partition, id IS NOT NULL AS has_id;
SELECT message, partition FROM logq.logs WHERE ts = '2021-01-02' ORDER BY message;
INSERT INTO logq.logs (ts, partition) VALUES ('2021-01-02', 'nosuch');

-- by trace id, and in turn
SET logq.route_by = 'round_robin';
INSERT INTO logq.logs (ts, service) SELECT '2021-01-03', 'same' FROM generate_series(1, 9);
SELECT partition, count(*) FROM logq.logs WHERE ts = '2021-01-03' GROUP BY 1 ORDER BY 1;
SET logq.route_by = 'trace_id';
INSERT INTO logq.logs (ts, service, trace_id)
	SELECT '2021-01-04', 'same', 't' || g % 50 FROM generate_series(1, 500) g;
SELECT count(*) FROM (SELECT trace_id FROM logq.logs WHERE ts = '2021-01-04'
	GROUP BY 1 HAVING count(DISTINCT partition) > 1) s;
SELECT count(DISTINCT partition) FROM logq.logs WHERE ts = '2021-01-04';
RESET logq.route_by;

-- what cannot be written
INSERT INTO logq.logs (ts, message) VALUES (NULL, 'no time');
INSERT INTO logq.logs (ts) VALUES ('infinity');
INSERT INTO logq.logs (ts) VALUES ('-infinity');
INSERT INTO logq.logs (ts, id) VALUES ('2021-01-05', 1);
INSERT INTO logq.logs (ts, attrs) VALUES ('2021-01-05', '{bad');
INSERT INTO logq.logs (ts, message) VALUES ('2021-01-05', 'good'), (NULL, 'bad');
COPY logq.logs (ts, level) FROM STDIN;
2021-01-05 00:00:00+00	GOOD
not a time	BAD
\.
SELECT count(*) FROM logq.logs WHERE ts = '2021-01-05';
UPDATE logq.logs SET level = 'x';
DELETE FROM logq.logs;
TRUNCATE logq.logs;
INSERT INTO logq.logs (ts) VALUES ('2021-01-05') ON CONFLICT DO NOTHING;
COPY logq.logs TO STDOUT;

-- transactions and savepoints
BEGIN;
INSERT INTO logq.logs (ts, message) VALUES ('2021-01-06', 'one');
SAVEPOINT s;
INSERT INTO logq.logs (ts, message) VALUES ('2021-01-06', 'two');
SELECT message FROM logq.logs WHERE ts = '2021-01-06' ORDER BY message;
ROLLBACK TO s;
INSERT INTO logq.logs (ts, message) VALUES ('2021-01-06', 'three');
SELECT message FROM logq.logs WHERE ts = '2021-01-06' ORDER BY message;
SELECT 1/0;
ROLLBACK TO s;
SELECT message FROM logq.logs WHERE ts = '2021-01-06' ORDER BY message;
COMMIT;
SELECT message FROM logq.logs WHERE ts = '2021-01-06' ORDER BY message;
BEGIN;
INSERT INTO logq.logs (ts, message) VALUES ('2021-01-06', 'never');
ROLLBACK;
SELECT count(*) FROM logq.logs WHERE ts = '2021-01-06';
BEGIN;
INSERT INTO logq.logs (ts, message) VALUES ('2021-01-06', 'never');
PREPARE TRANSACTION 'logq';

-- an insert that reads what it writes to
INSERT INTO logq.logs (ts, message)
	SELECT ts + interval '1 day', message FROM logq.logs WHERE ts = '2021-01-06';
SELECT ts, message FROM logq.logs WHERE ts BETWEEN '2021-01-06' AND '2021-01-08' ORDER BY ts, id;
