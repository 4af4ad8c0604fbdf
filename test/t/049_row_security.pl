# Row-level security on the log tables of partitions: counts follow it, too, though
# those of sealed segments are known without looking at a row.  So does what new
# segments are made with.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use Test::More;

my $c = LogqTest->new(partitions => 2, replicas => { p2 => 1 }, coordinator_conf => [
		'logq.cache_min_cost = 0', 'logq.cache = off', "logq.databases = 'logs'", "logq.seal_after = '30d'" ]);
my $secret = LogqTest::lit('p4rt-91');

sub rows
{
	my ($from, $n) = @_;

	$c->sql(<<"SQL");
INSERT INTO logq.logs (ts, level, service, message, partition)
SELECT '$from'::timestamptz + i % 4 * interval '1 hour' + i * interval '1 second',
	CASE i % 10 WHEN 0 THEN 'ERROR' ELSE 'INFO' END, CASE i % 3 WHEN 0 THEN 'web' ELSE 'secret' END,
	'message ' || i, 'p' || 1 + i % 2
FROM generate_series(0, $n - 1) i;
SQL
	return;
}

$c->sql(<<"SQL");
CREATE ROLE alice LOGIN;
GRANT USAGE ON SCHEMA logq TO alice;
GRANT SELECT ON logq.logs TO alice;
SQL
rows('2024-05-01 00:00+00', 600);
foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
CREATE ROLE web_only LOGIN PASSWORD $secret;
GRANT USAGE ON SCHEMA logq_store TO web_only;
GRANT SELECT ON ALL TABLES IN SCHEMA logq_store TO web_only;
SQL
	foreach my $node ($c->part($name), $c->replicas($name))
	{
		my $hba = $node->data_dir . '/pg_hba.conf';
		my $lines = PostgreSQL::Test::Utils::slurp_file($hba);

		open my $f, '>', $hba or die $!;
		print $f "local all web_only scram-sha-256\nhost all web_only 127.0.0.1/32 scram-sha-256\n$lines";
		close $f;
		$node->reload;
	}
	$c->sql("CREATE USER MAPPING FOR alice SERVER $name OPTIONS (user 'web_only', password $secret)");
}
$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");
is($c->on($_, "SELECT count(*) FROM logq_store.segment WHERE state <> 'sealed' AND lower < '2024-06-01'"), 0, "all segments of $_ are sealed")
  foreach $c->names;
$c->sql('SELECT logq.refresh_catalog()');

# What is counted in every way there is.  The condition is what alice shall see.
my $from = "'2024-05-01 00:20+00'";
my %query = (
	'all rows' => 'SELECT count(*) FROM logq.logs',
	'by level' => 'SELECT level, count(*) FROM logq.logs GROUP BY 1 ORDER BY 1',
	'by service' => 'SELECT service, count(*) FROM logq.logs GROUP BY 1 ORDER BY 1',
	'services' => 'SELECT DISTINCT service FROM logq.logs ORDER BY 1',
	'of a level' => "SELECT count(*) FROM logq.logs WHERE level = 'ERROR'",
	'of a service' => "SELECT count(*) FROM logq.logs WHERE service = 'secret'",
	'by hour' => "SELECT date_bin('1 hour', ts, '2024-01-01') AS t, count(*) FROM logq.logs GROUP BY 1 ORDER BY 1",
	'by minute' => "SELECT date_bin('1 minute', ts, '2024-01-01') AS t, level, count(*) FROM logq.logs WHERE ts >= $from GROUP BY 1, 2 ORDER BY 1, 2",
	'by minute and service' => "SELECT date_bin('5 minutes', ts, '2024-01-01') AS t, service, count(*) FROM logq.logs WHERE ts >= $from GROUP BY 1, 2 ORDER BY 1, 2");
my (%all, %web);

$c->sql('CREATE TABLE plain AS SELECT * FROM logq.logs');

sub take
{
	foreach my $what (sort keys %query)
	{
		$all{$what} = $c->sql($query{$what} =~ s/logq\.logs/plain/r);
		$web{$what} = $c->sql($query{$what} =~ s/logq\.logs/(SELECT * FROM plain WHERE service = 'web') AS web/r);
	}
	return;
}

take();
isnt($all{$_}, $web{$_}, "a difference: $_") foreach sort keys %query;

my $session = sub { return $c->session(user => 'alice'); };

# A session's answers that are not as they should be
sub wrong
{
	my ($s, $wanted, @set) = @_;

	$s->query($_) foreach @set;
	return join ', ', grep { $s->query($query{$_}) ne $wanted->{$_} } sort keys %query;
}

my $alice = $session->();
my $plan = $alice->query("EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) $query{'by level'}");

is(wrong($alice, \%all), '', 'without row-level security: all is counted');
like($plan, qr/catalog/i, 'by the catalog');

# ---------- policies on segments alone ----------

my $enable = <<'SQL';
DO $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT name FROM logq_store.segment LOOP
		EXECUTE format('CREATE POLICY web ON logq_store.%I TO web_only USING (service = ''web'')', r.name);
		EXECUTE format('ALTER TABLE logq_store.%I ENABLE ROW LEVEL SECURITY', r.name);
	END LOOP;
END $$;
SQL
my $disable = <<'SQL';
DO $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT name FROM logq_store.segment LOOP
		EXECUTE format('DROP POLICY IF EXISTS web ON logq_store.%I', r.name);
		EXECUTE format('ALTER TABLE logq_store.%I DISABLE ROW LEVEL SECURITY', r.name);
	END LOOP;
END $$;
SQL

# strict sessions know at once, even before anybody else has asked
$alice->query('SET logq.strict_pruning = on');
$c->on($_, $enable) foreach $c->names;
is(wrong($alice, \%web), '', 'policies: a strict session counts what it may see, at once');
is(wrong($session->(), \%web, 'SET logq.strict_pruning = on'), '', 'so does a new one');

# each query alone, as the first one that finds it
my @first;
foreach my $what (sort keys %query)
{
	my $s = $session->();

	$c->on($_, $disable) foreach $c->names;
	$s->query('SET logq.strict_pruning = on');
	push @first, "$what, off" if $s->query($query{$what}) ne $all{$what};
	$c->on($_, $enable) foreach $c->names;
	push @first, "$what, on" if $s->query($query{$what}) ne $web{$what};
	push @first, "$what, again" if $s->query($query{$what}) ne $web{$what};
	$s->quit;
}
is("@first", '', 'each query is right as the first one that meets a policy');

# others within logq.catalog_max_age
my $usual = $session->();
LogqTest::poll_ok(sub { return wrong($usual, \%web) eq ''; }, 'others know soon');
is(wrong($session->(), \%web), '', 'and new sessions');
is(wrong($session->(), \%web, 'SET logq.cache = on'), '', 'with the cache') for 1 .. 2;
is(wrong($session->(), \%web, 'SET logq.use_rollups = off'), '', 'without rollups');
is(wrong($session->(), \%web, "SET logq.catalog_max_age = 0"), '', 'if nothing is believed for any time');
$c->wait_for_catchup_all;
is(wrong($session->(), \%web, 'SET logq.read_from = replica'), '', 'from replicas');
is(wrong($c->session, \%all), '', 'who may see all counts all');

# rights on what nobody needs any more
$c->on($_, 'REVOKE SELECT ON logq_store.rollup_level, logq_store.rollup_service, logq_store.segment FROM web_only') foreach $c->names;
my @denied;
foreach my $what (sort keys %query)
{
	my $s = $session->();

	$s->query('SET logq.catalog_max_age = 0');
	push @denied, $what if $s->query($query{$what}) ne $web{$what};
	$s->quit;
}
is("@denied", '', 'without rights on rollups, even if it is news that they cannot be used');
$c->on($_, 'GRANT SELECT ON logq_store.rollup_level, logq_store.rollup_service TO web_only') foreach $c->names;

# one partition has it, the other one has not
$c->on('p2', $disable);
my %mixed = map { $_ => $c->sql($query{$_} =~ s/logq\.logs/(SELECT * FROM plain WHERE service = 'web' OR partition = 'p2') AS x/r) } keys %query;
LogqTest::poll_ok(sub { return wrong($usual, \%mixed) eq ''; }, 'one partition without');
is(wrong($alice, \%mixed), '', '... strict');

$c->on('p1', $disable);
LogqTest::poll_ok(sub { return wrong($usual, \%all) eq ''; }, 'disabled again: all');
LogqTest::poll_ok(sub {
	return $usual->query("EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) $query{'by level'}") =~ /catalog/i;
}, '... by the catalog');

# Nobody asks any more, and she would like to believe what was so once
my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logq maintenance'";

$c->coordinator->safe_psql('postgres', "ALTER SYSTEM SET logq.databases = ''");
$c->coordinator->reload;
LogqTest::poll_ok(sub { return $c->sql($workers) eq '0'; }, 'no worker');
$c->on($_, $enable) foreach $c->names;
my $believer = $session->();
$believer->query("SET logq.catalog_max_age = '1d'");
LogqTest::poll_ok(sub { return wrong($believer, \%web) eq ''; }, 'what users set does not make it old');
$believer->quit;
$c->on($_, $disable) foreach $c->names;
$c->coordinator->safe_psql('postgres', "ALTER SYSTEM RESET logq.databases");
$c->coordinator->reload;
LogqTest::poll_ok(sub { return $c->sql($workers) eq '1'; }, 'a worker again');
LogqTest::poll_ok(sub { return wrong($usual, \%all) eq ''; }, 'all again');

# ---------- on the log table, for new segments ----------

foreach my $name ($c->names)
{
	$c->on($name, <<'SQL');
CREATE POLICY web ON logq_store.log TO web_only USING (service = 'web');
CREATE POLICY "of hand, some" ON logq_store.log AS RESTRICTIVE FOR SELECT TO web_only, PUBLIC
	USING (message <> 'none' AND level IS NOT NULL);
ALTER TABLE logq_store.log ENABLE ROW LEVEL SECURITY;
SELECT logq_store.copy_row_security(name) FROM logq_store.segment;
SQL
}
LogqTest::poll_ok(sub { return wrong($usual, \%web) eq ''; }, 'from the log table to segments that are there');
rows('2024-05-02 00:00+00', 300);
$c->sql("TRUNCATE plain; INSERT INTO plain SELECT * FROM logq.logs");
take();
is(wrong($alice, \%web), '', 'new segments have it, too');
is($c->on('p1', <<'SQL'), '1', 'policies are as those of the log table');
SELECT count(DISTINCT p) FROM (
	SELECT array_agg((policyname, permissive, roles, cmd, qual, with_check) ORDER BY policyname)::text AS p
	FROM pg_policies WHERE schemaname = 'logq_store' GROUP BY tablename) s
SQL
is($c->on('p1', "SELECT count(*) FROM pg_policies WHERE schemaname = 'logq_store' AND tablename <> 'log'"),
	$c->on('p1', 'SELECT 2 * count(*) FROM logq_store.segment'), '... each on each segment');
$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");
is($c->on($_, "SELECT count(*) FROM logq_store.segment WHERE state <> 'sealed' AND lower < '2024-06-01'"), 0, "$_ seals them")
  foreach $c->names;
is(wrong($alice, \%web), '', 'sealed: what she may see');
is(wrong($c->session, \%all), '', '... and all for others');

# enabled without any policy: nobody but the owner sees anything
$c->on($_, <<'SQL') foreach $c->names;
DROP POLICY web ON logq_store.log; DROP POLICY "of hand, some" ON logq_store.log;
SELECT logq_store.copy_row_security(name) FROM logq_store.segment;
SQL
is($alice->query('SELECT count(*) FROM logq.logs'), 0, 'no policy: nothing');
is($alice->query('SELECT DISTINCT service FROM logq.logs'), '', '... not even names');

# a policy that cannot be taken over must not stop the logs
$c->on($_, "CREATE POLICY sub ON logq_store.log TO web_only USING (EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = log.service))")
  foreach $c->names;
rows('2024-05-03 00:00+00', 4);
is($c->sql("SELECT count(*) FROM logq.logs WHERE ts >= '2024-05-03'"), 4, 'a policy that does not fit: rows are written');
is($alice->query("SELECT count(*) FROM logq.logs WHERE ts >= '2024-05-03'"), 0, '... and hidden');
like(PostgreSQL::Test::Utils::slurp_file($c->part('p1')->logfile) . PostgreSQL::Test::Utils::slurp_file($c->part('p2')->logfile),
	qr/WARNING:  policies of logq_store.log could not be given to segment "log_20240503_00/, '... with a word in the log');

# forced on the owner, who then cannot tell what there is
$c->on('p1', "ALTER ROLE logq NOBYPASSRLS; ALTER TABLE logq_store.log_20240503_000000 FORCE ROW LEVEL SECURITY")
  if $c->on('p1', "SELECT to_regclass('logq_store.log_20240503_000000') IS NOT NULL") eq 't';
$c->fails("SELECT * FROM logq.seal('p1', 'log_20240503_000000')", '42501', qr/row-level security/,
	'a segment whose rows its owner does not see is not sealed');
$usual->quit;
$alice->quit;
$c->quiet('nothing is left on the partitions');
done_testing();
