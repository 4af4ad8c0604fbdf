-- What is sent to the partitions, and what is not
SET timezone = 'UTC';
-- whatever is known of segments
SET logq.strict_pruning = on;
CREATE FUNCTION pg_temp.remote_sql(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
		IF line ~ 'Remote SQL|Filter|Function Scan|Sort|Limit$' THEN
			-- times that depend on now()
			line := regexp_replace(line, '''20[2-9]\d-[^'']*''::timestamp with time zone',
				'(time)', 'g');
			RETURN NEXT regexp_replace(trim(line), 'logq_store\.\S+', 'logq_store.<segment>');
		END IF;
	END LOOP;
END $$;

-- only the columns that are needed
SELECT pg_temp.remote_sql('SELECT message FROM logq.logs');
SELECT pg_temp.remote_sql('SELECT count(*) FROM logq.logs');
SELECT pg_temp.remote_sql('SELECT l FROM logq.logs l');
SELECT pg_temp.remote_sql('SELECT partition FROM logq.logs WHERE level = ''ERROR''');
-- comparisons, lists, ranges, NULL tests
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE level IN ('ERROR', 'FATAL') AND service <> 'x'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE id BETWEEN 1 AND 5 OR trace_id IS NULL$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE level = ANY (ARRAY['a', NULL, 'b"''\']) AND NOT (service = 'x')$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE service IS DISTINCT FROM 'x'$$);
-- how to go on from a row
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE (ts, id) < ('2021-01-01 00:00', 5) ORDER BY ts DESC, id DESC LIMIT 3$$);
-- stable expressions are values
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE ts > now() - interval '1 hour'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE ts >= current_date$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE ts < localtimestamp + interval '1 day' AND ts > date_trunc('day', now())$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE service = current_setting('logq.route_by')$$);
-- text
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE message LIKE '%a\_b%' AND service NOT LIKE 'x%'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE message ILIKE '%a%' AND message ~ 'x+' AND message !~* 'y'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE length(message) > 10 AND lower(level) = 'error' AND starts_with(service, 'a')$$);
-- JSON
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE attrs ->> 'user' = 'x' AND attrs @> '{"a": [1]}' AND attrs ? 'k' AND attrs -> 'a' ->> 0 = '1'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE (attrs ->> 'n')::int > 5$$);
-- cheapest first
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE message ~ 'x' AND message LIKE '%y%' AND attrs ->> 'a' = '1' AND trace_id = 't' AND service = 's' AND level = 'l' AND ts > '2021-01-01'$$);
-- order and limit
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs ORDER BY ts DESC LIMIT 10');
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs ORDER BY ts, id LIMIT 10 OFFSET 5');
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs ORDER BY ts DESC, id LIMIT 10');
SELECT pg_temp.remote_sql('SELECT level FROM logq.logs LIMIT 3');
SELECT pg_temp.remote_sql('SELECT level FROM logq.logs ORDER BY level LIMIT 3');
SELECT pg_temp.remote_sql('SELECT count(*) FROM logq.logs LIMIT 1');
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs ORDER BY ts FETCH FIRST 3 ROWS WITH TIES');
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs WHERE random() < 2 ORDER BY ts LIMIT 3');
-- what stays here: volatile, stable over columns, own functions
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE random() < 0.5 AND level = 'x'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE ts::date = '2021-01-01'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE date_trunc('day', ts) = '2021-01-01'$$);
CREATE FUNCTION pg_temp.own(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE pg_temp.own(level) AND level = 'x'$$);
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE level IN (SELECT 'a' || g FROM generate_series(1, 2) g) AND service = 's'$$);
-- what other versions answer otherwise, by the arguments: some stay here, some are sent
CREATE FUNCTION pg_temp.is_sent(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE lines text[];
BEGIN
	lines := ARRAY(SELECT pg_temp.remote_sql('SELECT id FROM logq.logs WHERE ' || condition));
	-- one of the two, and as a whole
	ASSERT lines::text ~ 'Remote SQL' AND (lines::text ~ 'WHERE') <> (lines::text ~ 'Filter');
	RETURN lines::text ~ 'WHERE';
END $$;
SELECT condition, pg_temp.is_sent(condition) FROM unnest(ARRAY[
	$$width_bucket(id::float8, 0, 10, 5) = 1$$,
	$$width_bucket(id::numeric, 0, 10, 5) = 1$$,
	$$width_bucket(id::float8, '{0,5,10}') = 1$$,
	$$date_part('QUARTER', (attrs ->> 'd')::interval) = 1$$,
	$$date_part('qtr', ts - '2020-01-01') = 1$$,
	$$date_part('Week', ts - '2020-01-01') = 1$$,
	$$date_part('w', ts - '2020-01-01') = 1$$,
	$$date_part(level, ts - '2020-01-01') = 1$$,
	$$date_part(current_setting('logq.route_by'), ts - '2020-01-01') = 1$$,
	$$date_part('Hour', ts - '2020-01-01') = 1$$,
	$$date_part('epoch', ts - '2020-01-01') = 1$$,
	$$split_part(message, ' ', 2) = 'x'$$,
	$$split_part(message, ' ', -1) = 'x'$$,
	$$split_part(message, ' ', id::int) = 'x'$$,
	$$id::numeric(20, -2) = 100$$,
	$$id::numeric(2, 3) = 100$$,
	$$id::numeric(20, 2) = 100$$,
	$$id::numeric(3, 3) = 100$$,
	$$ARRAY[id::numeric]::numeric(5, -1)[] = '{10}'$$,
	$$ARRAY[id::numeric]::numeric(5, 1)[] = '{10}'$$,
	$$(attrs -> 'n')::int = 1$$,
	$$(attrs -> 'n')::smallint = 1$$,
	$$(attrs -> 'n')::bigint = 1$$,
	$$(attrs -> 'n')::numeric = 1$$,
	$$(attrs -> 'n')::real = 1$$,
	$$(attrs -> 'n')::float8 = 1$$,
	$$(attrs -> 'n')::bool$$,
	$$(ARRAY[attrs -> 'n'])::int[] = '{1}'$$,
	$$(attrs ->> 'n')::int = 1$$,
	$$(attrs -> 'n')::text = '1'$$,
	$$message ~ '(^|\W)timeout(\W|$)'$$,
	$$message ~* '(?:\D)timeout\D'$$,
	$$message ~ '(?i)(^|\W)timeout'$$,
	$$message ~ '***:(?i)(^|\W)timeout'$$,
	$$message ~ '(?n)(^|\W)timeout'$$,
	$$message ~ '(?im)\D'$$,
	$$message !~ '(?n)timeout \w\d\S'$$,
	$$message !~* '[^\W]'$$,
	$$message ~ '[]\D]'$$,
	$$message ~ '[[:alpha:]\S]'$$,
	$$message ~ '[[:alpha:]]\S[^]\d]\W'$$,
	$$message ~ '\[\W'$$,
	$$message ~ '[[:word:]]'$$,
	$$message ~ ANY ('{x,"\\W"}')$$,
	$$message ~ ANY ('{x,"[\\W]"}')$$,
	$$message ~ ALL (ARRAY['[[:word:]]', current_setting('logq.route_by')])$$,
	$$message SIMILAR TO '\W%'$$,
	$$substring(message from '[\W]') = 'x'$$,
	$$substring(message from '\W') = 'x'$$,
	$$regexp_replace(message, '\D', '', 'g') = 'x'$$,
	$$regexp_replace(message, '\D', '', 'gn') = 'x'$$,
	$$regexp_replace(message, '\d', '', 'gn') = 'x'$$,
	$$regexp_replace(message, '\D', '', level) = 'x'$$,
	$$regexp_match(message, '\W', 'p') = '{x}'$$,
	$$regexp_split_to_array(message, '\W', 'i') = '{x}'$$,
	$$regexp_split_to_array(message, '\W', 'w') = '{x}'$$
]) condition;
-- collations that contradict each other are an error for who needs one
CREATE FOREIGN TABLE pg_temp.two_collations (level text COLLATE "C", service text COLLATE "POSIX", message text, id bigint) SERVER logq;
SELECT pg_temp.remote_sql(replace($$SELECT id FROM logq.logs WHERE $$ || condition, 'logq.logs', 'pg_temp.two_collations')) FROM unnest(ARRAY[
	$$level = service$$,
	$$level < service$$,
	$$(level, id) < (service, 5)$$,
	$$greatest(level, service) IS NULL$$,
	$$level || service IS NULL$$,
	$$level = 'a' AND service = 'b' AND message = 'c'$$,
	$$level = message AND starts_with(service, message)$$
]) condition;
BEGIN;
INSERT INTO logq.logs (ts, level, service, message) VALUES ('2021-01-01', 'x', 'x', 'collations');
SELECT id FROM pg_temp.two_collations WHERE level = service AND message = 'collations';
ROLLBACK;
-- the parser gives none to the cut to a length
SELECT pg_temp.is_sent($$ARRAY[level]::varchar(3)[] = '{x}'::varchar(3)[]$$);
-- switched off
SET logq.enable_filter_pushdown = off;
SELECT pg_temp.remote_sql($$SELECT id FROM logq.logs WHERE level = 'x'$$);
RESET logq.enable_filter_pushdown;
SET logq.enable_ordered_merge = off;
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs ORDER BY ts LIMIT 3');
RESET logq.enable_ordered_merge;
SET logq.enable_limit_pushdown = off;
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs ORDER BY ts LIMIT 3');
RESET logq.enable_limit_pushdown;
SET logq.enable_column_pruning = off;
SELECT pg_temp.remote_sql('SELECT ts FROM logq.logs');
RESET logq.enable_column_pruning;
-- parameters of generic plans
SET plan_cache_mode = force_generic_plan;
PREPARE by_service(text, int) AS SELECT id FROM logq.logs WHERE service = $1 ORDER BY ts DESC LIMIT $2;
SELECT pg_temp.remote_sql($$EXECUTE by_service('it''s', 7)$$);
SET logq.enable_partition_pruning = off;
SELECT pg_temp.remote_sql('EXECUTE by_service(NULL, NULL)');
RESET logq.enable_partition_pruning;
RESET plan_cache_mode;
DEALLOCATE by_service;
