-- The shape of logq.health() and logq.stats(), and that they agree with the views
BEGIN;
SELECT plan(15);

SELECT is((SELECT string_agg(concat_ws(' ', proname, prosecdef, proconfig, pronargdefaults, has_function_privilege('public', oid, 'EXECUTE')), ', ' ORDER BY proname)
		FROM pg_proc WHERE pronamespace = 'logq'::regnamespace AND proname IN ('health', 'stats')),
	'health t {"search_path=pg_catalog, pg_temp"} 8 f, stats t {"search_path=pg_catalog, pg_temp"} 0 f',
	'they run as their owner, with a safe search_path, and not for everybody');
SELECT is(pg_get_function_result('logq.health'::regproc),
	'SETOF record', 'health() returns rows');
SELECT is((SELECT string_agg(key, ',' ORDER BY ord) FROM (SELECT * FROM logq.health() LIMIT 1) h, json_object_keys(row_to_json(h)) WITH ORDINALITY k(key, ord)),
	'check_name,subject,ok,detail,what_to_do', 'with these columns');
SELECT bag_eq($$SELECT subject COLLATE "default" FROM logq.health() WHERE check_name = 'partition'$$, 'SELECT server::text COLLATE "default" FROM logq.partition',
	'a row for each partition');
SELECT bag_eq($$SELECT subject COLLATE "default" FROM logq.health() WHERE check_name = 'sealing'$$, 'SELECT server::text COLLATE "default" FROM logq.partition',
	'and for its sealing');
SELECT bag_eq(format('SELECT subject COLLATE "default" FROM logq.health() WHERE check_name = %L', k), 'SELECT server::text COLLATE "default" FROM logq.partition',
	'and a row "' || k || '"') FROM unnest('{store,clock,server connections}'::text[]) k;
SELECT is_empty($$SELECT * FROM logq.stat_partitions WHERE (role = 'replica') AND (catalog_age_ms IS NOT NULL OR connections IS NOT NULL)$$,
	'what is of the partition is in the row of its primary');
SELECT bag_eq($$SELECT DISTINCT subject COLLATE "default" FROM logq.health() WHERE check_name = 'ingest'$$, 'SELECT name COLLATE "default" FROM logq.topic',
	'a row for each topic');
SELECT is_empty($$SELECT check_name, subject FROM logq.health() GROUP BY 1, 2 HAVING count(*) > 1$$, 'nothing is there twice');
SELECT is_empty($$SELECT * FROM logq.health() WHERE ok IS NULL OR detail IS NULL OR ok <> (what_to_do IS NULL)$$,
	'what is not ok says what to do');
-- a server that is gone
CREATE FUNCTION pg_temp.gone() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	said text;
BEGIN
	INSERT INTO logq.partition (number, server, same_locale) VALUES (524287, 'gone', true);
	SELECT concat_ws(' ', ok, detail, what_to_do) INTO said FROM logq.health() WHERE check_name = 'partition' AND subject = 'gone';
	DELETE FROM logq.partition WHERE number = 524287;
	RETURN said;
END $$;
SELECT is(pg_temp.gone(), 'f its server object does not exist Create the server, or forget the partition with logq.remove_partition().',
	'a partition without a server');
SELECT is((SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(logq.stats()) k),
	'admission,at,cache,catalogs,database,health,ingest,partitions,queries,version', 'members of stats()');
SELECT is(jsonb_array_length(logq.stats() -> 'partitions'), (SELECT count(*)::int FROM logq.stat_partitions),
	'with a row for each server');
SELECT * FROM finish();
ROLLBACK;
