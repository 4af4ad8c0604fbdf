# Cached rows are only for those whom the partition has let in by the name that
# they were read by: roles with different rights never get each other's, in
# neither level, whatever the order.
#
# On the partitions, "web_only" sees rows of service "web", by row-level security
# on the segments, "sees_all" all, and "sees_none" may not read segments.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqRedis;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(partitions => 2, coordinator_conf => ['logq.cache_min_cost = 0']);
my $redis = LogqRedis->new;
# a second coordinator has nothing but Redis
my $second = LogqTest::start_coordinator('second', 'logq.cache_min_cost = 0', 'logq.hot_cache_size = 0');
my @nodes = ($c->coordinator, $second);
my %password = (web_only => 'p4rt-91', sees_all => 'fu11-17', sees_none => 'n0ne-55');
my %secret = map { $_ => LogqTest::lit($password{$_}) } keys %password;

$c->add_partition($_, coordinator => $second) foreach $c->names;
$_->safe_psql('logs', $redis->server_sql . <<'SQL') foreach @nodes;
CREATE ROLE alice LOGIN;
CREATE ROLE bob LOGIN;
CREATE ROLE carol LOGIN;
CREATE ROLE dave LOGIN;
CREATE ROLE erin LOGIN;
GRANT USAGE ON SCHEMA logq TO PUBLIC;
GRANT SELECT ON logq.logs TO PUBLIC;
GRANT CREATE ON SCHEMA public TO alice, bob;
GRANT USAGE ON FOREIGN SERVER p1, p2 TO alice, bob;
SQL
$c->sql(<<'SQL');
INSERT INTO logq.logs (ts, level, service, message, attrs, partition)
SELECT '2024-05-01 00:30+00'::timestamptz + i % 5 % 3 * interval '1 hour' + i * interval '1 second',
	CASE i % 10 WHEN 0 THEN 'ERROR' ELSE 'INFO' END, CASE i % 3 WHEN 0 THEN 'web' ELSE 'secret' END,
	'message ' || i, jsonb_build_object('n', i), 'p' || 1 + i % 2
FROM generate_series(0, 599) i;
SQL
foreach my $name ($c->names)
{
	my $hba = $c->part($name)->data_dir . '/pg_hba.conf';
	my $lines = slurp_file($hba);

	$c->on($name, join '', map { "CREATE ROLE $_ LOGIN PASSWORD $secret{$_};\n" } keys %password);
	$c->on($name, <<'SQL');
GRANT USAGE ON SCHEMA logq_store TO web_only, sees_all, sees_none;
GRANT SELECT ON ALL TABLES IN SCHEMA logq_store TO web_only, sees_all, sees_none;
DO $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT name FROM logq_store.segment LOOP
		EXECUTE format('ALTER TABLE logq_store.%I ENABLE ROW LEVEL SECURITY', r.name);
		EXECUTE format('CREATE POLICY web ON logq_store.%I TO web_only USING (service = ''web'')', r.name);
		EXECUTE format('CREATE POLICY whole ON logq_store.%I TO sees_all USING (true)', r.name);
		EXECUTE format('REVOKE ALL ON logq_store.%I FROM sees_none', r.name);
	END LOOP;
END $$;
SQL
	open my $f, '>', $hba or die $!;
	print $f "local all web_only,sees_all,sees_none scram-sha-256\n$lines";
	close $f;
	$c->part($name)->reload;
}
$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");
is($c->on($_, "SELECT count(*) FROM logq_store.segment WHERE state <> 'sealed'"), 0, "all segments of $_ are sealed")
  foreach $c->names;

# sessions need not read the catalog first
$_->safe_psql('logs', 'SELECT logq.refresh_catalog()') foreach @nodes;

# a role's mappings, on all coordinators; NULL: it has none
sub mapping
{
	my ($role, $user) = @_;

	foreach my $node (@nodes)
	{
		$node->safe_psql('logs', join '', map {
			"DROP USER MAPPING IF EXISTS FOR $role SERVER $_;" .
			  (defined $user ? "CREATE USER MAPPING FOR $role SERVER $_ OPTIONS (user '$user', password $secret{$user});" : '')
		} $c->names);
	}
	return;
}

mapping('alice', 'web_only');
mapping('bob', 'sees_all');
mapping('carol', 'sees_none');
mapping('PUBLIC', 'web_only');

# What is known of segments is no secret here, and would answer without rows
my $settings = "SET logq.use_rollups = off; SET logq.catalog_max_age = '1d'; SET logq.cache_timeout = '10s';";
# kinds of queries, with what "web_only" and what "sees_all" is given
my %query = (
	'rows' => [ "SELECT count(*), sum(length(message)) FROM (SELECT * FROM logq.logs WHERE level LIKE '%O%' OFFSET 0) s" ],
	'rows in order' => [ "SELECT count(*), min(id) > 0 FROM (SELECT id, ts FROM logq.logs ORDER BY ts, id OFFSET 0) s" ],
	'the newest rows' => [ "SELECT string_agg(service || ' ' || message, ',' ORDER BY ts DESC, id DESC) FROM"
		  . " (SELECT * FROM logq.logs ORDER BY ts DESC, id DESC LIMIT 5) s" ],
	'groups' => [ "SELECT string_agg(s::text, ',' ORDER BY k) FROM (SELECT attrs->>'n' < '5' AS k, count(*) AS n,"
		  . " sum(length(message)), max(service) FROM logq.logs GROUP BY 1) s" ]);

# what each remote user sees, without the cache
foreach my $q (values %query)
{
	my %answer;

	foreach my $role ('alice', 'bob')
	{
		my $r = $c->try("$settings SET logq.cache = off; $q->[0]", user => $role);

		is($r->{state}, '', 'a query without the cache');
		push @$q, $r->{out};
	}
}
isnt($query{$_}[1], $query{$_}[2], "$_: what the two see is different") foreach sort keys %query;
like($query{rows}[1], qr/^200\|/, 'one sees a part');
like($query{rows}[2], qr/^600\|/, 'the other one all');

my $from_cache = 0;

# Test: in this session, or a new one of the role, all queries give what the remote
# user sees (1: a part, 2: all), twice
sub sees
{
	my ($who, $which, $name, $node) = @_;
	my @wrong;
	my $cached = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $s = ref $who ? $who : $c->session(user => $who, node => $node // $c->coordinator);

	$s->query($settings);
	foreach (1, 2)
	{
		foreach my $what (sort keys %query)
		{
			my $q = $query{$what};
			my $answer = $s->query($q->[0]);

			push @wrong, "$what: $answer" if $answer ne $q->[$which];
			$cached += $s->query('SELECT cached FROM logq.last_query()');
		}
	}
	$from_cache += $cached;
	ok(!@wrong && $cached > 0, $name) or diag(join("\n", @wrong), " $cached from the cache");
	$s->quit unless ref $who;
	return;
}

# Test: in this session all queries fail like that
sub refused
{
	my ($s, $error, $name) = @_;
	my @wrong;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$s->query($settings);
	foreach my $what (sort keys %query)
	{
		my $answer = $s->query($query{$what}[0]);

		push @wrong, "$what: $answer" if $answer !~ /^ERROR:  (?:$error):/ || $answer =~ /message \d|^\d+\|/m;
	}
	ok(!@wrong, $name) or diag(join "\n", @wrong);
	return;
}

sub clear
{
	$_->safe_psql('logs', 'SELECT logq.cache_clear()') foreach @nodes;
	$redis->command('FLUSHALL');
	return;
}

sub set_mapping
{
	my ($s, $options, $role) = @_;

	$role //= 'alice';
	return $s->query(join ';', map { "ALTER USER MAPPING FOR $role SERVER $_ OPTIONS ($options)" } $c->names);
}

# ---------- one after the other ----------

foreach my $node (@nodes)
{
	my $level = $node == $second ? 'Redis' : 'both levels';

	clear();
	sees('alice', 1, "$level: who sees a part, first", $node);
	sees('bob', 2, "$level: then who sees all", $node);
	sees('alice', 1, "$level: and again a part", $node);
	clear();
	sees('bob', 2, "$level: who sees all, first", $node);
	sees('alice', 1, "$level: then a part", $node);
	sees('dave', 1, "$level: by the mapping of PUBLIC", $node);
	sees('bob', 2, "$level: and again all", $node);
	my $s = $c->session(user => 'carol', node => $node);

	refused($s, '42501', "$level: who may not read what others have left");
	$s->quit;
}

# what one coordinator has stored, the other one takes, for the same user
{
	clear();
	sees('bob', 2, 'stored through one coordinator');
	my $s = $c->session(user => 'bob', node => $second);

	$s->query($settings);
	# it must be let in before
	is($s->query($query{rows}[0]), $query{rows}[2], 'all, on the other one');
	cmp_ok($s->query('SELECT cached FROM logq.last_query()'), '>', 0, 'is read from Redis');
	$s->quit;
	sees('alice', 1, 'but not by others', $second);
}

# ---------- roles within a session ----------

{
	my $s = $c->session;

	foreach my $turn (1, 2)
	{
		$s->query('SET ROLE bob');
		sees($s, 2, "SET ROLE to who sees all, $turn");
		$s->query('SET ROLE alice');
		sees($s, 1, "SET ROLE to who sees a part, $turn");
		$s->query('SET ROLE carol');
		refused($s, '42501', "SET ROLE to who may not read, $turn");
		$s->query('SET ROLE erin');
		sees($s, 1, "SET ROLE to one of PUBLIC, $turn");
		$s->query('RESET ROLE');
		is($s->query('SELECT count(*) FROM logq.logs WHERE message IS NOT NULL'), 600, "the superuser, $turn");
	}

	# one plan for all
	$s->query('SET plan_cache_mode = force_generic_plan');
	$s->query("PREPARE q(text) AS SELECT count(*), sum(length(message)) FROM logq.logs WHERE level LIKE \$1");
	foreach my $turn (1, 2)
	{
		foreach ([ 'alice', 1 ], [ 'bob', 2 ])
		{
			my ($role, $which) = @$_;

			$s->query("SET ROLE $role");
			is($s->query("EXECUTE q('%O%')"), $query{rows}[$which], "prepared, $role, $turn");
		}
	}
	$s->quit;
}

# ---------- functions and views of somebody else ----------

$_->safe_psql('logs', <<'SQL') foreach @nodes;
SET ROLE bob;
CREATE FUNCTION definer(OUT n bigint, OUT sum bigint) LANGUAGE plpgsql SECURITY DEFINER AS
	'BEGIN SELECT count(*), sum(length(message)) INTO n, sum FROM logq.logs WHERE level LIKE ''%O%''; END';
CREATE FUNCTION invoker(OUT n bigint, OUT sum bigint) LANGUAGE plpgsql AS
	'BEGIN SELECT count(*), sum(length(message)) INTO n, sum FROM logq.logs WHERE level LIKE ''%O%''; END';
CREATE VIEW owners AS SELECT * FROM logq.logs;
CREATE VIEW invokers WITH (security_invoker) AS SELECT * FROM logq.logs;
GRANT SELECT ON owners, invokers TO PUBLIC;
SQL
{
	my $aggregates = 'count(*), sum(length(message))';
	my %of = (
		'SELECT * FROM definer()' => 2,
		'SELECT * FROM invoker()' => 1,
		"SELECT $aggregates FROM owners WHERE level LIKE '%O%'" => 2,
		"SELECT $aggregates FROM invokers WHERE level LIKE '%O%'" => 1);

	foreach my $first (1, 2)
	{
		my $s = $c->session(user => 'alice');
		my @wrong;

		clear();
		$s->query($settings);
		foreach my $sql (sort { ($of{$a} <=> $of{$b}) * ($first == 1 ? 1 : -1) } sort keys %of)
		{
			foreach (1, 2)
			{
				my $answer = $s->query($sql);

				push @wrong, "$sql: $answer" if $answer ne $query{rows}[ $of{$sql} ];
			}
		}
		# both in one query
		push @wrong, 'both' if $s->query("SELECT (SELECT count(*) FROM owners WHERE message IS NOT NULL),"
			. ' (SELECT count(*) FROM invokers WHERE message IS NOT NULL)') ne '600|200';
		ok(!@wrong, 'functions and views read in their own name, or in that of the caller: ' .
			  ($first == 1 ? 'a part first' : 'all first'))
		  or diag(join "\n", @wrong);
		$s->quit;
	}
}

# ---------- mappings that change ----------

# Everything is cached, and was confirmed a moment ago: nobody need be asked.
foreach my $node (@nodes)
{
	my $level = $node == $second ? 'Redis' : 'both levels';

	clear();
	sees('bob', 2, "$level: what all see is cached", $node);
	sees('alice', 1, "$level: and a part", $node);
	my $s = $c->session(user => 'alice', node => $node);

	sees($s, 1, "$level: a session of who sees a part");
	set_mapping($s, "SET user 'sees_all'");
	refused($s, '08001|28P01', "$level: with another's name, and one's own password");
	set_mapping($s, "SET password 'guessed'");
	refused($s, '08001|28P01', "$level: with a wrong one");
	set_mapping($s, 'DROP password');
	refused($s, '2F003', "$level: without one");
	set_mapping($s, "ADD password $secret{web_only}, SET user 'web_only'");
	sees($s, 1, "$level: back to one's own");
	set_mapping($s, "SET password 'guessed'");
	refused($s, '08001|28P01', "$level: one's own name is not enough");
	set_mapping($s, "SET password $secret{sees_all}, SET user 'sees_all'");
	sees($s, 2, "$level: who knows the password sees all");
	set_mapping($s, "SET password $secret{web_only}, SET user 'web_only'");
	sees($s, 1, "$level: and a part again");

	# within a transaction that is rolled back
	$s->query('BEGIN');
	is($s->query($query{rows}[0]), $query{rows}[1], "$level: in a transaction");
	$s->query('SAVEPOINT s');
	set_mapping($s, "SET user 'sees_all'");
	like($s->query($query{rows}[0]), qr/^ERROR:  (08001|28P01)/, "$level: after a change in it");
	$s->query('ROLLBACK TO s');
	is($s->query($query{rows}[0]), $query{rows}[1], "$level: and once that was rolled back");
	$s->query('COMMIT');
	$s->quit;

	# a session that has never been let in
	$node->safe_psql('logs', join ';',
		map { "ALTER USER MAPPING FOR alice SERVER $_ OPTIONS (SET password 'wrong')" } $c->names);
	$s = $c->session(user => 'alice', node => $node);
	refused($s, '08001|28P01', "$level: a new session with a wrong password, its own rows cached");
	set_mapping($s, "SET user 'sees_all'");
	refused($s, '08001|28P01', "$level: or another's");
	$s->quit;
	mapping('alice', 'web_only');

	# a mapping that another session changes
	$s = $c->session(user => 'alice', node => $node);
	sees($s, 1, "$level: before an administrator changes the mapping");
	$node->safe_psql('logs', join ';',
		map { "ALTER USER MAPPING FOR alice SERVER $_ OPTIONS (SET user 'sees_all', SET password $secret{sees_all})" } $c->names);
	sees($s, 2, "$level: and after it");
	mapping('alice', 'web_only');
	sees($s, 1, "$level: and once it was made anew");
	$s->quit;

	# PUBLIC's, one's own, and PUBLIC's again
	$s = $c->session(user => 'dave', node => $node);
	sees($s, 1, "$level: by PUBLIC's mapping");
	mapping('dave', 'sees_all');
	sees($s, 2, "$level: by one's own");
	mapping('dave', undef);
	sees($s, 1, "$level: and by PUBLIC's");
	mapping('PUBLIC', 'sees_all');
	sees($s, 2, "$level: that was changed");
	mapping('PUBLIC', 'web_only');
	$s->quit;
}

# A cursor that rests while the mapping is changed: what was looked up in
# somebody's name is not for the next one, nor stored for the first one.
foreach my $turn (1, 2)
{
	my $s = $c->session(user => 'alice');
	my $rows = 'SELECT partition, service FROM logq.logs';
	my (%services, $answer);

	clear();
	# what others have cached
	$answer = $c->try("$settings $rows", user => 'bob')->{out} if $turn == 1;
	$s->query("$settings SET logq.max_parallel_partitions = 1");
	# "web_only" has been let in by p1, and p2 is not asked yet
	$s->query("ALTER USER MAPPING FOR alice SERVER p2 OPTIONS (SET user 'sees_all')");
	$s->query("BEGIN; DECLARE c CURSOR FOR $rows");
	like($s->query('FETCH 1 FROM c'), qr/^p1\|web$/, "a cursor begins, $turn");
	$s->query("ALTER USER MAPPING FOR alice SERVER p2 OPTIONS (SET user 'web_only')");
	$answer = $s->query('FETCH ALL FROM c');
	$services{$_}++ foreach split /\n/, $answer;
	is(join(',', sort grep { $_ !~ /^p[12]\|web$/ } keys %services), '', "and gives only what its user may see, $turn");
	$s->query('ROLLBACK');
	is(scalar(split /\n/, $c->try("$settings $rows", user => 'bob')->{out}), 600,
		"nor is anything missing for others, $turn");
	$s->quit;
	mapping('alice', 'web_only');
}

cmp_ok($from_cache, '>', 500, "$from_cache segments came from the cache");
cmp_ok($c->sql("SELECT hits FROM logq.stat_cache WHERE level = 'memory'"), '>', 100, 'from memory');
cmp_ok($second->safe_psql('logs', "SELECT hits FROM logq.stat_cache WHERE level = 'redis'"), '>', 100, 'from Redis');
$c->quiet('nothing is left on the partitions');
done_testing();
