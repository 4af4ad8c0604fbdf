# logq.stat_partitions tells the truth of servers that fail, and logq.health() of
# what 041_health leaves out: formats, clocks, connections, doubts, retention,
# limits that were hit, room in shared memory.  The faults are real ones.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqProcess qw(start_server);
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(partitions => 2,
	coordinator_conf => [ "logq.databases = 'logs'", 'logq.seal_after = 0', 'max_worker_processes = 16' ]);
my $node = $c->coordinator;
my ($p1, $p2) = ($c->part('p1'), $c->part('p2'));
my $health = "logq.health(seal_slack => '1 s', rejected_within => '0 s')";
my $s = $c->session;

# Test: just this comes to be not well, and it says so.  The worker is made to look
# at once by reading its configuration again.
sub only
{
	my ($wanted, $detail, $what_to_do, $name, $code) = @_;
	my $compute = ref $detail eq 'CODE' ? $detail : undef;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code ? $code->() : $node->reload;
		$is = $s->query("SELECT concat_ws(' ', check_name, subject), detail, what_to_do FROM $health WHERE NOT ok");
		$detail = $compute->() if $compute;
		return $is =~ /^\Q$wanted\E\|[^|\n]*$detail[^|\n]*\|[^\n]*$what_to_do[^\n]*\z/;
	}, "$name: not well is $wanted, why, and what to do") or diag($s->query("SELECT * FROM $health"));
	return;
}

# Test: all comes to be well
sub well
{
	my ($name, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code ? $code->() : $node->reload;
		return $s->query("SELECT count(*) FROM $health WHERE NOT ok") eq '0';
	}, "$name: all is well") or diag($s->query("SELECT * FROM $health"));
	return;
}

# Test: this comes to be true of a partition's row of its primary
sub stat_becomes
{
	my ($partition, $condition, $name, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code->() if $code;
		return $s->query("SELECT $condition FROM logq.stat_partitions WHERE partition = '$partition' AND role = 'primary'") eq 't';
	}, $name) or diag($s->query('SELECT to_jsonb(s) FROM logq.stat_partitions s'));
	return;
}

my $recent = "now() - interval '5 minutes' AND now() + interval '5 seconds'";

# few places, to fill them
$p2->append_conf('postgresql.conf', 'max_connections = 30');
$p2->restart;
$c->sql("INSERT INTO logq.logs (ts, level, service, message, partition)
	SELECT now() - interval '3 hours' - i * interval '10 s', 'INFO', 's', 'm' || i, (ARRAY['p1', 'p2'])[1 + i % 2]
	FROM generate_series(1, 500) i");
$c->sealed_and_no_more;
well('at the beginning');
LogqTest::poll_ok(sub {
	return $s->query("SELECT bool_and(what_to_do IS NULL AND detail !~ 'not asked yet') FROM $health") eq 't';
}, 'and all have been asked');

# ---------- stat_partitions ----------

$c->gives('SELECT count(*) FROM logq.logs', '500', 'a query');
foreach my $p (qw(p1 p2))
{
	stat_becomes($p, "state = 'up' AND breaker = 'closed' AND answered_at BETWEEN $recent", "$p is up");
	stat_becomes($p, "catalog_age_ms BETWEEN -1000 AND 10000 AND catalog_confirmed_at BETWEEN $recent AND catalog_failing_since IS NULL AND catalog_error IS NULL",
		"$p: its catalog is fresh");
	stat_becomes($p, 'server_max_connections = ' . $c->on($p, 'SHOW max_connections'), "$p: how many connections it takes", sub { $node->reload; });
	stat_becomes($p, 'server_connections >= 1 AND abs(clock_offset_ms) < 5000', "$p: what it says of itself");
	LogqTest::poll_ok(sub {
		return $s->query("SELECT connections FROM logq.stat_partitions WHERE partition = '$p'")
		  eq $c->on($p, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'");
	}, "$p: our connections are those that the server sees");
}
{
	my $connections = sub { return $s->query("SELECT connections FROM logq.stat_partitions WHERE partition = 'p1'"); };
	my $before = $connections->();
	my $reader = $c->session;

	$reader->query('BEGIN; DECLARE c CURSOR FOR SELECT * FROM logq.logs; FETCH 1 FROM c');
	is($connections->(), $before + 1, 'one more with another session');
	$reader->quit;
	LogqTest::poll_ok(sub { return $connections->() eq $before; }, 'which it takes along');
}

$p2->stop('immediate');
stat_becomes('p2', "state = 'down' AND breaker <> 'closed' AND errors > 0 AND last_error <> '' AND last_error_at BETWEEN $recent",
	'a server that is gone is down', sub { $s->query('SELECT count(*) FROM logq.logs'); });
stat_becomes('p2', "catalog_error <> '' AND catalog_failing_since BETWEEN $recent", 'and its catalog fails since then');
{
	my $since = $s->query("SELECT catalog_failing_since FROM logq.stat_partitions WHERE partition = 'p2'");

	stat_becomes('p2', "catalog_age_ms > 2000 AND catalog_failing_since = '$since'", 'our copy gets older');
}
stat_becomes('p1', "state = 'up' AND catalog_age_ms < 10000", 'the other one does not mind');
start_server($p2);
stat_becomes('p2', "state = 'up' AND breaker = 'closed' AND catalog_failing_since IS NULL AND catalog_error IS NULL AND catalog_age_ms < 10000",
	'it is up again', sub { $s->query('SET logq.partial_results = on; SELECT count(*) FROM logq.logs'); });
stat_becomes('p2', "last_error <> '' AND last_error_at < answered_at", 'what was wrong can still be read');
well('it runs again');

# an error that has to do with a password does not show it
{
	my $right = $LogqTest::password;

	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p1 OPTIONS (SET password 'wRong-4711')");
	stat_becomes('p1', "catalog_error ~ 'authentication failed' AND last_error ~ 'authentication failed'", 'a wrong password is the last error');
	unlike($s->query('SELECT string_agg(s::text, \' \') FROM logq.stat_partitions s')
		  . $s->query("SELECT string_agg(h::text, ' ') FROM $health h"), qr/wRong-4711|\Q$right\E/, '... which shows no password');
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p1 OPTIONS (SET password @{[ LogqTest::lit($right) ]})");
	well('the password is right', sub { $s->query('SELECT count(*) FROM logq.logs'); });
}

# ---------- a catalog that may not be read ----------

$c->on('p1', 'REVOKE ALL ON logq_store.catalog_version FROM logq, PUBLIC');
only('partition p1', 'permission denied', 'does not let logq read its catalog', 'a right that is missing');
$c->on('p1', 'GRANT ALL ON logq_store.catalog_version TO logq; GRANT SELECT ON logq_store.catalog_version TO PUBLIC');
well('the right is there');

# ---------- a worker that hangs ----------

{
	my $pid = $c->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'logq maintenance'");
	my $look = sub {
		return $s->query("SELECT detail, what_to_do FROM logq.health(max_catalog_age => '1 s') WHERE check_name = 'partition' AND subject = 'p1' AND NOT ok");
	};

	kill 'STOP', $pid;
	LogqTest::poll_ok(sub { return $look->() =~ /its catalog was last confirmed \d+ s ago\|.*maintenance worker/; }, 'a worker that is stopped');
	# whoever writes to a sealed hour doubts
	$c->sql("INSERT INTO logq.logs (ts, message, partition) VALUES (now() - interval '3 hours', 'late', 'p1')");
	LogqTest::poll_ok(sub { return $look->() =~ /its catalog has been in doubt for \d+ s\|.*maintenance worker/; }, 'a doubt that nobody ends')
	  or diag($s->query("SELECT * FROM logq.health(max_catalog_age => '1 s') WHERE NOT ok") . $s->query('SELECT * FROM logq.catalog_status()'));
	kill 'CONT', $pid;
	well('it goes on');
}

# ---------- a role that may only read ----------

{
	my $write = "(SET user 'logq', SET password @{[ LogqTest::lit($LogqTest::password) ]})";

	$c->on('p1', "CREATE ROLE only_reads LOGIN PASSWORD 'reads-8'; GRANT USAGE ON SCHEMA logq_store TO only_reads; GRANT SELECT ON ALL TABLES IN SCHEMA logq_store TO only_reads");
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p1 OPTIONS (SET user 'only_reads', SET password 'reads-8')");
	$c->on('p1', 'SELECT logq_store.drop_segment(name) FROM logq_store.segment WHERE upper > now()');
	only('segments p1', 'they could not be made ahead: partition "p1": permission denied', 'must own the store', 'a role that may only read');
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p1 OPTIONS $write");
	well('it may write');
	LogqTest::poll_ok(sub { return $s->query("SELECT count(*) > 0 FROM logq.segments WHERE partition = 'p1' AND upper > now()") eq 't'; },
		'segments are made ahead');

	$c->sql("INSERT INTO logq.logs (ts, message, partition) VALUES (now() - interval '20 hours', 'old', 'p1')");
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p1 OPTIONS (SET user 'only_reads', SET password 'reads-8')");
	$c->setting('logq.seal_after', '0');
	# how many it are changes when an hour ends
	only('sealing p1', sub { return $c->due('p1') . ' open segments should have been sealed, .*the last attempt failed: partition "p1": permission denied'; }, 'must own the store',
		'it cannot seal either', sub { });
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p1 OPTIONS $write");
	well('it may write again');
	$c->setting('logq.seal_after', '30d');
}

# ---------- formats ----------

my $format = $c->on('p1', 'SELECT format FROM logq_store.store');

$c->on('p1', 'UPDATE logq_store.store SET format = format - 1');
only('store p1', "its store has format @{[ $format - 1 ]}, this version of logq knows $format", 'logq\.upgrade_store\(\'p1\'\)', 'an older format');
$c->on('p1', 'UPDATE logq_store.store SET format = format + 2');
only('store p1', "its store has format @{[ $format + 1 ]}, this version of logq knows $format", 'ALTER EXTENSION logq UPDATE', 'a newer format');
LogqTest::poll_ok(sub {
	return slurp_file($node->logfile) =~ /store of partition "p1" has format @{[ $format + 1 ]}, this version of logq knows $format/;
}, 'it is in the log, too');
$c->on('p1', 'UPDATE logq_store.store SET format = format - 1');
well('the format is ours');

# ---------- clocks ----------

foreach my $case ([ '+', 'ahead of' ], [ '-', 'behind' ])
{
	my ($sign, $word) = @$case;

	$c->on('p1', "ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO right_clock;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \$\$ SELECT pg_catalog.right_clock() $sign interval '1 minute' \$\$");
	only('clock p1', "its clock was (59|60)\\.\\d s $word this server's", 'NTP', "a clock that is $word ours");
	$c->on('p1', 'DROP FUNCTION pg_catalog.clock_timestamp(); ALTER FUNCTION pg_catalog.right_clock() RENAME TO clock_timestamp');
	well('the clock is right');
}

# ---------- connections of a server ----------

{
	my $limit = 27;
	my @sessions;

	# one of them counts: a psql of its own may be there still when the next one comes
	push @sessions, $c->session(node => $p2);
	while ($sessions[0]->query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") <= $limit)
	{
		push @sessions, $c->session(node => $p2);
	}
	only('server connections p2', '(27|28|29|30) connections were open .* \d+ of them ours; its max_connections is 30', 'pg_stat_activity',
		'somebody takes all connections');
	$_->quit foreach @sessions;
	well('they are free again');
}

# ---------- retention ----------

{
	my $reader = $c->session(node => $p2);
	my $look = sub { $node->reload; $c->sql("SELECT logq.refresh_catalog('p2')"); };

	$c->sql("INSERT INTO logq.logs (ts, message, partition) VALUES (now() - interval '60 hours', 'old', 'p2')");
	$reader->query("BEGIN; SELECT count(*) FROM logq_store.log");
	$c->sql("SELECT logq.set_retention('1 day', 'p2')");
	only('retention p2', '[12] segments should have been dropped, the oldest ended at', 'hold locks', 'a transaction holds a segment', $look);
	$reader->query('ROLLBACK');
	well('it is dropped', $look);
	is($s->query("SELECT detail FROM $health WHERE check_name = 'retention'"), 'it keeps 1 day, and nothing older', 'which the row says');
	$c->sql("SELECT logq.set_retention(NULL, 'p2')");
	LogqTest::poll_ok(sub { $look->(); return $s->query("SELECT count(*) FROM $health WHERE check_name = 'retention'") eq '0'; },
		'without retention there is no row');
	$reader->quit;
}

# ---------- limits that were hit ----------

foreach my $case ([ 'queries', 'max_concurrent_queries', '1 were turned away' ],
	[ 'connections', 'max_connections_per_partition', '1 queries got none' ])
{
	my ($check, $name, $detail) = @$case;
	my $cursor = $c->session;
	my $recently = sub { return $s->query("SELECT ok, detail FROM logq.health(rejected_within => '5 minutes') WHERE check_name = '$check'"); };

	unlike($recently->(), qr/the last one at/, "$check: nobody was turned away yet");
	$c->setting("logq.$name", 1);
	LogqTest::poll_ok(sub { return $c->sql("SHOW logq.$name") eq '1'; }, "$name is 1");
	$cursor->query('SELECT count(*) FROM logq.logs; BEGIN; DECLARE c CURSOR FOR SELECT * FROM logq.logs; FETCH 1 FROM c');
	LogqTest::poll_ok(sub { return $c->try('SET logq.queue_timeout = 0; SELECT count(*) FROM logq.logs')->{err} =~ /53300/; },
		'a query is turned away');
	$cursor->quit;
	$c->setting("logq.$name");
	like($recently->(), qr/^f\|.*\d+ (were turned away|queries got none) .*, the last one at/, 'which shows for a while');
	well('and no longer');
}

# ---------- room for the catalog's state ----------

is($s->query('SELECT taken, places FROM logq.catalog_places()'), '2|1024', 'two places are taken');
$c->sql("INSERT INTO logq.partition (number, server, same_locale) SELECT 1000 + i, 'gone' || i, true FROM generate_series(1, 1100) i");
LogqTest::poll_ok(sub {
	return $s->query("SELECT ok, detail FROM $health WHERE check_name = 'catalog memory'") =~ /^f\|the state of (9[2-9]\d|10[0-2]\d) partitions.*room for 1024/;
}, 'far too many partitions') or diag($s->query('SELECT * FROM logq.catalog_places()'));
$c->sql('DELETE FROM logq.partition WHERE number >= 1000');
well('they are gone');
is($s->query('SELECT taken FROM logq.catalog_places()'), 2, 'and have made room');
$s->quit;

done_testing();
