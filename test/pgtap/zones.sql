-- Groups of local time in zones whose clocks change at odd times, by odd
-- amounts, compared with a plain table of the same rows.  A bin may begin before
-- the segment, the change lie between the two.
BEGIN;
SELECT plan(42);

SET LOCAL timezone = 'UTC';
SET LOCAL jit = off;
-- few rows are worth being grouped where they are
SET LOCAL cpu_tuple_cost = 100;
SET LOCAL logq.catalog_max_age = '1d';

INSERT INTO logq.logs (ts, level, service, message)
	SELECT timestamptz '2027-03-13 22:00:00.5+00' + g * interval '47 seconds', 'INFO', 'tap-' || g % 2, 'zones ' || g
	FROM generate_series(0, 1100) g;
CREATE TEMP TABLE copied AS
	SELECT * FROM logq.logs WHERE ts >= '2027-03-13 22:00+00' AND ts < '2027-03-14 13:00+00';
SELECT is((SELECT count(*) FROM copied), 1101::bigint, 'all rows are there');

-- the clocks go from one offset to the other at this local time of March 14
CREATE TEMP TABLE zone AS
SELECT format('<a>%s<b>%s,M3.2.0/%s,M11.1.0/%s', standard, summer, at, at) AS name
FROM unnest('{3:30, -0:15, 0, 5:17}'::text[]) WITH ORDINALITY AS s(standard, n),
	unnest(CASE n WHEN 1 THEN '{2:30, 3}' WHEN 2 THEN '{-1:15, -0:35}' WHEN 3 THEN '{-1, -0:30}' ELSE '{4:17, 5}' END::text[]) AS summer,
	unnest('{0:01, 2, 3:30, 4:45:10}'::text[]) AS at;
INSERT INTO zone VALUES ('America/St_Johns'), ('America/New_York'), ('Australia/Lord_Howe'), ('Asia/Kathmandu'),
	('Europe/Berlin'), ('Africa/Monrovia'), ('Pacific/Chatham'), ('<x>-5:45');

CREATE FUNCTION pg_temp.compare(zone text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	one		text;
	wrong	text := '';
	n		bigint;
BEGIN
	PERFORM set_config('timezone', zone, true);
	FOREACH one IN ARRAY ARRAY['extract(hour FROM ts)', 'date_trunc(''hour'', ts)', 'ts::date',
		'extract(dow FROM ts) || ''/'' || extract(hour FROM ts)', 'extract(minute FROM ts)', 'date_trunc(''day'', ts)'] LOOP
		EXECUTE format('WITH here AS (SELECT %1$s AS t, service, count(*) FROM copied GROUP BY 1, 2),
			there AS (SELECT %1$s AS t, service, count(*) FROM logq.logs
				WHERE ts >= ''2027-03-13 22:00+00'' AND ts < ''2027-03-14 13:00+00'' GROUP BY 1, 2)
			SELECT count(*) FROM ((TABLE here EXCEPT TABLE there) UNION ALL (TABLE there EXCEPT TABLE here)) x', one)
			INTO n;
		wrong := wrong || CASE WHEN n > 0 THEN one || ': ' || n || ' groups; ' ELSE '' END;
	END LOOP;
	RETURN NEXT is(wrong, '', zone);
END $$;
SELECT pg_temp.compare(name) FROM zone ORDER BY name;

-- it was about groups that partitions make
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS
	$$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query; END $$;
SET LOCAL timezone = '<a>3:30<b>2:30,M3.2.0/0:01,M11.1.0/0:01';
SELECT ok(EXISTS (SELECT FROM pg_temp.plan_of($$SELECT extract(hour FROM ts), count(*) FROM logq.logs
	WHERE ts >= '2027-03-13 22:00+00' AND ts < '2027-03-14 13:00+00' GROUP BY 1$$) line
	WHERE line ~ 'LogqAggregate'), 'groups are made by the partitions');

SELECT * FROM finish();
ROLLBACK;
