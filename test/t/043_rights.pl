# Rights on the coordinator: what everybody may do, what the roles logq_reader,
# logq_writer and logq_admin may, and that no names of a caller's get in the
# way of logq's own statements.
#
# A new function or table of logq belongs in one of the lists here, or nobody but
# the owner may use it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(partitions => 2);
my $password = LogqTest::lit($LogqTest::password);
my $now = "'2026-03-01 12:00+00'";
my $range = "start_time => '2026-03-01', end_time => '2026-03-02'";

$c->sql(<<"SQL");
INSERT INTO logq.logs (ts, level, service, message, attrs, partition)
SELECT $now\::timestamptz - i * interval '1 minute', CASE i % 10 WHEN 0 THEN 'ERROR' ELSE 'INFO' END,
	'web', 'message ' || i, jsonb_build_object('status', i % 3), 'p' || 1 + i % 2
FROM generate_series(0, 99) i;
CREATE ROLE rita LOGIN IN ROLE logq_reader;
CREATE ROLE wim LOGIN IN ROLE logq_writer;
CREATE ROLE ann LOGIN IN ROLE logq_admin;
CREATE ROLE mona LOGIN IN ROLE pg_monitor;
CREATE ROLE nobody LOGIN;
SQL

# ---------- lists ----------

# All rights on objects of the extension and on what else lies in its schema,
# one line each: "kind name right".  Rights on columns are shown, too.
sub rights_of
{
	my ($role) = @_;
	my $grantee = $role eq 'PUBLIC' ? '0' : "'$role'::regrole";

	return sort split /\n/, $c->sql(<<"SQL");
WITH obj(kind, name, acl) AS (
	SELECT 'function', p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
		coalesce(p.proacl, acldefault('f', p.proowner))
	FROM pg_proc p WHERE p.pronamespace = 'logq'::regnamespace
	UNION ALL
	SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, c.relname,
		coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
	FROM pg_class c WHERE c.relnamespace = 'logq'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')
	UNION ALL
	SELECT 'column', c.relname || '.' || a.attname, a.attacl
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'logq'::regnamespace AND a.attacl IS NOT NULL
	UNION ALL
	SELECT 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner))
	FROM pg_namespace WHERE nspname = 'logq'
	UNION ALL
	SELECT 'wrapper', fdwname, coalesce(fdwacl, acldefault('F', fdwowner))
	FROM pg_foreign_data_wrapper WHERE fdwname LIKE 'logq%'
	UNION ALL
	SELECT 'server', srvname, coalesce(srvacl, acldefault('S', srvowner))
	FROM pg_foreign_server
)
SELECT kind || ' ' || regexp_replace(name, '\\(OUT .*\\)', '()') || ' ' || a.privilege_type
FROM obj, aclexplode(acl) a
WHERE a.grantee = $grantee
SQL
}

# Test: exactly these, given with one name or several behind each other
sub has_rights
{
	my ($role, $wanted, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @is = rights_of($role);
	my %is = map { $_ => 1 } @is;
	my %wanted = map { $_ => 1 } @$wanted;
	my @more = grep { !$wanted{$_} } @is;
	my @less = grep { !$is{$_} } @$wanted;

	ok(!@more && !@less, $name)
	  or diag(join "\n", (map { "not in the list: $_" } @more), map { "missing: $_" } @less);
	return;
}

my $search = 'level text, service text, trace_id text, contains text, pattern text';
my $bounds = 'start_time timestamp with time zone, end_time timestamp with time zone';

has_rights('PUBLIC', [
	'table stat_cache SELECT',			# totals; the reason is for pg_read_all_stats
	'table stat_admission SELECT',		# nothing without the function behind it
	'table stat_queries SELECT', 'table slow_queries SELECT',	# texts are for their own roles
	map { "function $_ EXECUTE" }
	# read logq.logs as the caller
	"context(id bigint, before bigint, after bigint)",
	"facets($bounds, max_values bigint, keys text[], $search)",
	"field_names($bounds, $search)",
	"field_values(field text, $bounds, max_values bigint, $search)",
	"histogram(step interval, $bounds, by text, $search)",
	"matching($bounds, $search)",
	"search($bounds, $search, max_rows bigint)",
	"tail(after text, max_rows bigint, settle interval, last_rows bigint, $search)",
	# of the caller's session, and totals
	'last_query()', 'cache_status()', 'query_status()', 'query_histogram()', 'slow_query_status()',
	# compute from their arguments alone
	'approx_count_distinct(bigint)', 'approx_count_distinct(text)',
	'approx_count_distinct_merge(bucket integer, least_rest bigint)',
	'approx_percentile(value double precision, fraction double precision)',
	'approx_percentile_merge(bucket integer, rows bigint, fraction double precision)',
	'bucket_number(step interval, midnight timestamp with time zone, at timestamp with time zone)',
	'bucket_start(step interval, midnight timestamp with time zone, number bigint)',
	'combine_count(bigint)', 'combine_sum(bigint)',
	map({ "combine_$_(double precision[])" } qw(stddev_pop stddev_samp var_pop var_samp)),
	'distinct_add(internal, bigint)', 'distinct_add(internal, text)', 'distinct_bucket(text)',
	'distinct_combine(internal, internal)', 'distinct_deserialize(bytea, internal)',
	'distinct_final(internal)', 'distinct_merge(internal, bucket integer, least_rest bigint)',
	'distinct_rest(text)', 'distinct_serialize(internal)',
	'epoch_bound(value double precision, factor double precision, operator text, upper boolean)',
	'epoch_bound(value numeric, factor numeric, operator text, upper boolean)',
	'field_key(field text)', 'field_name(key text)',
	'numeric_deviation(n bigint, sum numeric, squares numeric, sample boolean, root boolean)',
	'percentile_add(internal, value double precision, fraction double precision)',
	'percentile_bucket(double precision)', 'percentile_combine(internal, internal)',
	'percentile_cont_merge(fraction double precision ORDER BY "values" double precision[])',
	'percentile_deserialize(bytea, internal)',
	'percentile_disc_merge(fraction double precision ORDER BY "values" double precision[])',
	'percentile_final(internal)',
	'percentile_merge(internal, bucket integer, rows bigint, fraction double precision)',
	'percentile_serialize(internal)', 'quantile_add(internal, double precision[])',
	'quantile_cont(internal, double precision)', 'quantile_disc(internal, double precision)',
	'require(condition boolean, message text, hint text)', 'step_unit(step interval)',
	'store_sql(number integer, segment_interval interval)', 'store_upgrade_sql(from_format integer)',
], 'what everybody may do');

has_rights('logq_reader', [
	'schema logq USAGE',
	map { "table $_ SELECT" } qw(logs grafana_logs grafana_annotations grafana_missing)
], 'what readers may do besides');
has_rights('logq_writer', [ 'schema logq USAGE', 'table logs INSERT' ], 'writers');

my @monitor = ('schema logq USAGE',
	map({ "table $_ SELECT" } qw(stat_admission stat_partitions stat_ingest stat_segments)),
	map({ "function $_ EXECUTE" } map({ "$_()" } qw(admission_status server_status ingest_status catalog_status catalog_places stats metrics)),
		'health(max_catalog_age interval, seal_slack interval, max_ingest_lag bigint, ingest_patience interval, max_dead_letters double precision, '
		. 'dead_letters_within interval, rejected_within interval, max_clock_offset interval, '
		. 'OUT check_name text, OUT subject text, OUT ok boolean, OUT detail text, OUT what_to_do text)'));

has_rights('pg_monitor', \@monitor, 'those who monitor');
has_rights('logq_admin', [
	@monitor, 'wrapper logq_fdw USAGE',
	map({ "table $_ SELECT" } qw(partition partitions segments topic dead_letters)),
	map { "function $_ EXECUTE" }
	'add_partition(server name, number integer, segment_interval interval)',
	'remove_partition(server name, force boolean)', 'partition_status()',
	'refresh_catalog(partition name)',
	'set_retention(retention interval, partition name)',
	'add_topic(name text, brokers text, format text, options jsonb)',
	map({ "$_\_topic(name text)" } qw(remove pause resume)),
	'dead_letter_list()', 'cache_clear()', 'cache_reset_stats()', 'reset_stats()', 'upgrade_store(server name)',
	grep { /^(seal|retry_dead_letters)\(/ } split /\n/, $c->sql(<<'SQL')
SELECT proname || '(' || pg_get_function_identity_arguments(oid) || ')'
FROM pg_proc WHERE pronamespace = 'logq'::regnamespace
SQL
], 'and admins');
has_rights('logq_worker', [], 'the one of workers has no rights at all');
is($c->sql("SELECT count(*) FROM pg_roles WHERE rolname IN ('logq_reader', 'logq_writer', 'logq_admin', 'logq_worker') AND (NOT rolcanlogin OR rolname = 'logq_worker') AND NOT rolsuper AND NOT rolcreaterole AND NOT rolcreatedb AND NOT rolreplication AND NOT rolbypassrls"),
	4, 'the roles have no attributes');
is($c->sql("SELECT count(*) FROM pg_auth_members WHERE member IN (SELECT oid FROM pg_roles WHERE rolname ~ '^logq_(reader|writer|admin|worker)\$')"),
	0, 'and are in no other role');

# the list itself can fail
$c->sql('CREATE FUNCTION logq.intruder() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$; GRANT SELECT (brokers) ON logq.topic TO PUBLIC');
is(join('; ', grep { /intruder|topic/ } rights_of('PUBLIC')),
	'column topic.brokers SELECT; function intruder() EXECUTE', 'a new function would be seen, and a column');
$c->sql('DROP FUNCTION logq.intruder(); REVOKE SELECT (brokers) ON logq.topic FROM PUBLIC');

# ---------- who brings a user mapping ----------

my $few = "SELECT count(*) FROM logq.logs WHERE level = 'ERROR'";

$c->fails($few, '42501', qr/permission denied for schema logq/, 'without a role nobody reads', user => 'nobody');
$c->fails($few, '42704', qr/user mapping not found/, 'a reader needs a mapping', user => 'rita');
$c->sql(join '', map { "CREATE USER MAPPING FOR logq_reader SERVER $_ OPTIONS (user 'logq', password $password);" } $c->names);
$c->fails($few, '42704', qr/user mapping not found/, 'that of a role is not its members\'', user => 'rita');
$c->gives("SET ROLE logq_reader; $few", 10, 'unless they become it', user => 'rita');
$c->sql(join '', map { "CREATE USER MAPPING FOR PUBLIC SERVER $_ OPTIONS (user 'logq', password $password);" } $c->names);
$c->gives($few, 10, 'one for PUBLIC is for all', user => 'rita');
$c->fails($few, '42501', qr/permission denied for schema logq/, 'who have the rights', user => 'nobody');

# ---------- what they can do ----------

foreach my $call ("search($range)", "histogram(interval '1 hour', '2026-03-01', '2026-03-02')",
	"facets($range)", "field_names($range)", "field_values('status', $range)",
	'context((SELECT min(id) FROM logq.logs))', "tail('2026-03-01')", "matching($range)", 'last_query()')
{
	my $sql = "SELECT count(*) > 0 FROM logq.$call";

	$c->gives($call eq 'last_query()' ? "$few; $sql" : $sql,
		$call eq 'last_query()' ? "10\nt" : 't', "a reader calls $call", user => 'rita');
}
$c->gives("SELECT count(*) FROM logq.$_", $_ eq 'grafana_missing' ? 0 : 100, "and reads $_", user => 'rita')
  foreach qw(logs grafana_logs grafana_annotations grafana_missing);
$c->fails("INSERT INTO logq.logs (ts) VALUES (now())", '42501', qr/permission denied/, 'but does not write', user => 'rita');

$c->gives("INSERT INTO logq.logs (ts, level) VALUES ($now, 'written'); SELECT 'ok'", 'ok', 'a writer writes',
	user => 'wim');
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/rows";

	append_to_file($file, "2026-03-01 12:00+00\twritten\n");
	$c->gives("\\copy logq.logs (ts, level) FROM '$file'\nSELECT 'ok'", 'ok', 'and copies', user => 'wim');
}
$c->fails($few, '42501', qr/permission denied/, 'but does not read', user => 'wim');
$c->fails("INSERT INTO logq.logs (ts) VALUES (now()) RETURNING id", '42501', qr/permission denied/,
	'not what it has written either', user => 'wim');
$c->gives("SELECT count(*) FROM logq.logs WHERE level = 'written'", 2, 'all of it is there', user => 'rita');

my @admin_calls = ("add_partition('p1')", "remove_partition('p1')", "seal()", "set_retention(NULL)",
	"refresh_catalog()", 'cache_clear()', 'cache_reset_stats()', "add_topic('t', 'h:1')", "remove_topic('t')",
	"pause_topic('t')", "resume_topic('t')", 'retry_dead_letters()', 'dead_letter_list()', 'partition_status()',
	'server_status()', 'catalog_status()', 'ingest_status()', 'admission_status()');

foreach my $user (qw(rita wim))
{
	$c->fails("SELECT * FROM logq.$_", '42501', qr/permission denied for function/, "$user may not call $_",
		user => $user)
	  foreach @admin_calls;
	$c->fails("SELECT * FROM logq.$_", '42501', qr/permission denied for/, "nor read $_", user => $user)
	  foreach qw(partition partitions segments topic topic_secret stat_partitions stat_ingest stat_admission stat_segments
	  dead_letters catalog catalog_segment catalog_filter catalog_filter_group partition_number);
}
$c->gives("SELECT count(*) > 0 FROM logq.$_", $_ eq 'stat_ingest' ? 'f' : 't', "who monitors reads $_", user => 'mona')
  foreach qw(stat_admission stat_partitions stat_ingest stat_segments stat_cache);
$c->fails("SELECT * FROM logq.$_", '42501', qr/permission denied/, "but not $_", user => 'mona')
  foreach qw(logs segments topic dead_letters);

$c->fails($few, '42501', qr/permission denied/, 'an admin does not read logs', user => 'ann');
$c->fails('SELECT * FROM logq.topic_secret', '42501', qr/permission denied/, 'nor passwords of topics', user => 'ann');
$c->fails("DELETE FROM logq.partition", '42501', qr/permission denied/, 'nor writes to tables', user => 'ann');
set_up('extra');
$c->gives(<<"SQL", "3\n3", 'adds a partition', user => 'ann');
CREATE SERVER p3 FOREIGN DATA WRAPPER logq_fdw OPTIONS (host '@{[ $c->part('p1')->host ]}',
	port '@{[ $c->part('p1')->port ]}', dbname 'extra');
CREATE USER MAPPING FOR PUBLIC SERVER p3 OPTIONS (user 'logq', password $password);
SELECT logq.add_partition('p3');
SELECT count(*) FROM logq.partitions WHERE state = 'up';
SQL
$c->gives("SELECT number FROM logq.partition WHERE server = 'p3'", 3, 'which others see');
$c->gives('SELECT count(*) > 0 FROM logq.seal()', 't', 'seals', user => 'ann');
$c->gives("SELECT logq.set_retention('1000 years')", '', 'sets a retention', user => 'ann');
$c->gives('SELECT logq.refresh_catalog() >= 0', 't', 'refreshes the catalog', user => 'ann');
$c->gives('SELECT count(*) > 0 FROM logq.segments', 't', 'sees the segments', user => 'ann');
$c->gives('SELECT logq.cache_clear() >= 0; SELECT logq.cache_reset_stats()', "t\n", 'clears the cache', user => 'ann');
$c->gives("SELECT logq.add_topic('t', '127.0.0.1:1') > 0; SELECT logq.pause_topic('t'); SELECT logq.resume_topic('t'); SELECT logq.remove_topic('t')",
	"t\n\n\n", 'adds a topic, stops it, goes on, removes it', user => 'ann');
$c->gives('SELECT count(*) FROM logq.retry_dead_letters()', 3, 'tries dead letters again', user => 'ann');
$c->gives('SELECT count(*) FROM logq.dead_letters', 0, 'and looks at them', user => 'ann');
$c->gives("SELECT logq.remove_partition('p3')", '', 'and removes the partition', user => 'ann');
$c->gives("SELECT count(*) FROM logq.partition WHERE server = 'p3'", 0, 'which is gone');
$c->fails("ALTER SERVER p1 OPTIONS (SET host '127.0.0.1')", '42501', qr/must be owner/,
	'but does not send others elsewhere', user => 'ann');
$c->fails("CREATE SERVER r FOREIGN DATA WRAPPER logq_redis OPTIONS (host 'h')", '42501', qr/permission denied/,
	'nor makes a cache', user => 'ann');

# A further database on a partition's server
sub set_up
{
	my ($db) = @_;

	LogqTest::set_up_partition_database($c->part('p1'), $db);
	return;
}

# ---------- names of the caller's ----------

# SECURITY DEFINER, and what is parsed when it runs, has a path of its own
my $unsafe = <<'SQL';
SELECT string_agg(p.oid::regprocedure::text, ', ')
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = '%s')
	AND (p.prosecdef OR l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL)
	AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
SQL
is($c->sql(sprintf $unsafe, 'logq'), '', 'functions here have a pinned search_path, or are parsed already');
is($c->on('p1', sprintf($unsafe, 'logq_store') =~ s/ AND p\.prosqlbody IS NULL//r), '',
	'and so have those on partitions');
is($c->sql(q{SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'logq'::regnamespace AND prosecdef}),
	'health metrics stats', 'these alone run as their owner here');
is($c->on('p1', q{SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'logq_store'::regnamespace AND prosecdef}),
	'make_segment reopen_now reopen_segment', 'and on a partition those three');
is($c->on('p1', q{SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE pronamespace = 'logq_store'::regnamespace AND a.grantee = 0}),
	'make_segment', 'of which everybody may call one');
is($c->on('p1', q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class, aclexplode(relacl) a WHERE relnamespace = 'logq_store'::regnamespace AND a.grantee = 0}),
	'catalog_version reopened store', 'and these tables are for everybody to read');
$c->on('p1', 'CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA logq_store TO stranger');
{
	my ($rc, $out, $err) = $c->part('p1')->psql('logs', "SELECT logq_store.make_segment('2040-01-01')",
		extra_params => [ '-U', 'stranger' ]);

	like($err, qr/permission denied to make a segment/, 'but it is for those who may insert');
}

# Whatever is called with anything of these fails.  Operators and functions of
# the types that logq's statements are about, found before those of pg_catalog.
$c->sql(<<'SQL');
CREATE SCHEMA evil;
CREATE FUNCTION evil.hit(what text) RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION 'hostile % was called by %', what, current_user; END $$;
DO $$
DECLARE
	o	record;
BEGIN
	-- all operators that give the same types the same result
	FOR o IN
		SELECT oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r,
			format_type(oprresult, NULL) AS res, row_number() OVER () AS n
		FROM pg_operator
		WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0 AND oprcode <> 0
			AND oprname IN ('=', '<>', '<', '<=', '>', '>=', '+', '-', '*', '/', '||', '->>', '->', '#>>', '~', '~~', '~~*')
			AND oprleft IN ('name'::regtype, 'text'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype,
				'timestamptz'::regtype, 'interval'::regtype, 'jsonb'::regtype, 'bool'::regtype, 'date'::regtype)
	LOOP
		EXECUTE format('CREATE FUNCTION evil.op%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS
			$f$BEGIN PERFORM evil.hit(%L); RETURN NULL; END$f$', o.n, o.l, o.r, o.res, o.oprname);
		EXECUTE format('CREATE OPERATOR evil.%s (FUNCTION = evil.op%s, LEFTARG = %s, RIGHTARG = %s)',
			o.oprname, o.n, o.l, o.r);
	END LOOP;
	-- functions by name, with the arguments that they have
	FOR o IN
		SELECT DISTINCT proname, pg_get_function_identity_arguments(oid) AS args, format_type(prorettype, NULL) AS res
		FROM pg_proc
		WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset AND provariadic = 0
			AND proname IN ('now', 'replace', 'quote_literal', 'lower', 'starts_with', 'substr', 'date_bin', 'div', 'floor',
				'extract', 'split_part', 'to_jsonb', 'date_trunc', 'statement_timestamp', 'jsonb_typeof', 'isfinite', 'strpos')
			AND 'internal'::regtype <> ALL (proargtypes::oid[])
	LOOP
		EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS
			$f$BEGIN PERFORM evil.hit(%L); RETURN NULL; END$f$', o.proname, o.args, o.res, o.proname);
	END LOOP;
	EXECUTE 'CREATE TABLE evil.logs (ts timestamptz); CREATE TABLE evil.partition (server name, number int)';
END $$;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
SQL
cmp_ok($c->sql("SELECT count(*) FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace"), '>', 100,
	'a schema with hostile operators');

my $hostile = 'SET search_path = evil, pg_catalog, public';

$c->fails("$hostile; SELECT $_", 'P0001', qr/hostile/, "$_ is hostile")
  foreach "name 'a' = name 'a'", "now()", "replace('a', 'b', 'c')", '1 + 1';
set_up('extra2');
$c->sql($c->server_sql('p4', node => $c->part('p1'), db => 'extra2'));

# results as text, so that nothing outside of logq's functions compares
my @calls = (
	"SELECT s FROM logq.search($range, level => 'ERROR', contains => 'message 1', pattern => 'sage 1') s",
	"SELECT s FROM logq.search($range, service => 'web', max_rows => 7) s",
	"SELECT h FROM logq.histogram(interval '1 hour', '2026-03-01', '2026-03-02', by => 'level') h",
	"SELECT h FROM logq.histogram(interval '1 month', '2026-03-01', '2026-03-02', by => 'status') h",
	"SELECT f FROM logq.facets($range, keys => '{status}') f",
	"SELECT f FROM logq.facets($range) f",
	"SELECT f FROM logq.field_names($range) f",
	"SELECT f FROM logq.field_values('status', $range) f",
	"SELECT t FROM logq.tail('2026-03-01 11:00', 5) t",
	'SELECT c FROM logq.context((SELECT min(id) FROM logq.logs), 3, 3) c',
	'SELECT p FROM logq.partition_status() p',
	'SELECT name, rows FROM logq.partitions',
	'SELECT partition, state, rows, levels FROM logq.segments ORDER BY lower, partition',
	'SELECT logq.store_sql(7)',
	'SELECT partition, sealed_segments, rows FROM logq.stat_segments ORDER BY partition',
	q{SELECT count(*) FROM regexp_split_to_table(logq.metrics(), E'\n') l WHERE pg_catalog.starts_with(l, '# TYPE logq_')},
	'SELECT logq.approx_count_distinct(message) FROM logq.logs',
	'SELECT level, count(*) FROM logq.logs GROUP BY level ORDER BY level',
);
foreach my $call (@calls)
{
	my $r = $c->try("$hostile; $call");

	is($r->{state} eq '' ? $r->{out} : $r->{err}, $c->sql($call), "not for: $call");
}
foreach my $call ("add_partition('p4')", 'refresh_catalog()', 'set_retention(NULL)', 'seal()',
	"add_topic('t', '127.0.0.1:1', 'json', '{\"logq.service\": \"a\"}')", "pause_topic('t')", "resume_topic('t')", "remove_topic('t')",
	'retry_dead_letters()', 'cache_clear()', "remove_partition('p4')")
{
	my $r = $c->try("$hostile; SELECT logq.$call");

	is($r->{state}, '', "nor does $call call them") or diag($r->{err});
}
is($c->try("$hostile; INSERT INTO logq.logs (ts, level, attrs) VALUES ($now, 'evil', '{\"a\": 1}')")->{state}, '',
	'nor does a write');
$c->gives("SELECT count(*) FROM logq.logs WHERE level = 'evil'", 1, 'which is there');

# an operator of the caller's is the caller's: it is not sent as another one
$c->fails("$hostile; SELECT message FROM logq.logs WHERE level = 'ERROR'", 'P0001', qr/hostile = was called/,
	'what the caller writes means what it says');

# and temporary tables
{
	my $s = $c->session;

	$s->query("CREATE TEMP TABLE logs (a int); CREATE TEMP TABLE partition (a int); CREATE TEMP TABLE partitions (a int); CREATE TEMP TABLE topic (a int); CREATE TEMP TABLE catalog (a int); CREATE TEMP TABLE catalog_segment (a int); SET search_path = pg_temp, logq, pg_catalog");
	is($s->query($_), $c->sql($_), "temporary tables: $_") foreach @calls;
	like($s->query("SELECT logq.add_partition('p4'); SELECT logq.refresh_catalog() >= 0; SELECT logq.remove_partition('p4')"),
		qr/^4\nt\n(\n|$)(?!.*ERROR)/, 'and with functions that write');
	$s->quit;
}

# ---------- names and values that are SQL ----------

foreach my $name (q{a'); DROP TABLE logq_store.segment; --}, q{"; DROP SCHEMA logq_store CASCADE; --}, q{\\'; SELECT 1; --}, q{$$;$1},
	q{%s%I%L})
{
	my $q = LogqTest::lit($name);
	my $when = "start_time => '2026-04-01', end_time => '2026-04-02'";

	$c->sql("INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs) VALUES ('2026-04-01 12:00+00', $q, $q, $q, $q, jsonb_build_object($q, $q, 'n', '1'))");
	$c->gives("SELECT level = $q AND service = $q AND message = $q AND trace_id = $q FROM logq.search($when, level => $q, service => $q, trace_id => $q, contains => $q)",
		't', "values: $name", user => 'rita');
	$c->gives("SELECT value = $q FROM logq.field_values($q, $when)", 't', 'the name of a field', user => 'rita');
	$c->gives("SELECT count(*) > 0 FROM logq.histogram('1 hour', '2026-04-01', '2026-04-02', by => $q) WHERE value = $q", 't',
		'... of groups', user => 'rita');
	$c->gives("SELECT count(*) FROM logq.facets($when, keys => ARRAY[$q]) WHERE field = $q AND value = $q", 1, '... of facets',
		user => 'rita');
	$c->gives("SELECT count(*) FROM logq.logs WHERE attrs ->> $q = $q AND ts > '2026-03-31'", 1, '... in a condition',
		user => 'rita');
	$c->fails("INSERT INTO logq.logs (ts, partition) VALUES (now(), $q)", '42704', qr/p1/, '... or of a partition');
	$c->fails("SELECT logq.seal($q)", '42704|42', qr/ERROR/, '... to be sealed');
}
is(join(' ', map { $c->on($_, "SELECT to_regclass('logq_store.segment')") } $c->names), 'logq_store.segment logq_store.segment',
	'all tables are still there');

# ---------- roles and the extension ----------

$c->sql('GRANT CREATE ON DATABASE postgres TO nobody');
$c->fails('CREATE EXTENSION logq', '42501', qr/permission denied to create extension "logq"[\s\S]*superuser/,
	'only a superuser makes the extension', user => 'nobody', db => 'postgres');
$c->gives('CREATE EXTENSION logq; SELECT count(*) FROM logq.partition', 0, 'in a second database, with the same roles',
	db => 'postgres');
$c->gives("SELECT has_table_privilege('rita', 'logq.logs', 'SELECT')", 't', 'the rights are there, too', db => 'postgres');
$c->fails('DROP ROLE logq_reader', '2BP01', qr/some objects depend on it/, 'a role in use cannot be dropped');
$c->sql(join '', map { "DROP USER MAPPING FOR logq_reader SERVER $_;" } $c->names);
{
	my $other = LogqTest::start_server('other', "shared_preload_libraries = 'logq'");
	my $r;

	$r = $c->try('CREATE EXTENSION logq; DROP EXTENSION logq', node => $other, db => 'postgres');
	is($r->{err}, '', 'the extension is made and dropped without a word');
	is($other->safe_psql('postgres', "SELECT count(*) FROM pg_roles WHERE rolname ~ '^logq_(reader|writer|admin|worker)\$'"), 4,
		'the roles stay, as does the schema');
	$other->safe_psql('postgres', 'DROP SCHEMA logq; DROP ROLE logq_reader; ALTER ROLE logq_writer LOGIN; ALTER ROLE logq_worker SUPERUSER');
	$r = $c->try('CREATE EXTENSION logq', node => $other, db => 'postgres');
	like($r->{err}, qr/WARNING: .*role "logq_writer" was there before[\s\S]*NOLOGIN/, 'one that can log in is pointed out');
	like($r->{err}, qr/WARNING: .*role "logq_worker" was there before, and is a superuser/, 'and a worker\'s that is a superuser');
	# what stands in the context differs by version
	unlike(join("\n", grep { /WARNING|ERROR/ } split /\n/, $r->{err}), qr/ERROR|logq_reader|logq_admin/, 'the others are fine');
	is($other->safe_psql('postgres', "SELECT has_table_privilege('logq_writer', 'logq.logs', 'INSERT') AND NOT has_table_privilege('logq_writer', 'logq.logs', 'SELECT')"),
		't', 'and has its rights');
	$other->stop;
}
done_testing();
