# Edges of failover: a connection that is lost between a segment and the end of
# its request, readers that take their time, a server that is merely slow, and
# servers whose owner is no superuser.
#
# p1 has a replica, p2 has none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProxy;
use LogqTest;
use Test::More;

my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 1 },
	conf => ['wal_retrieve_retry_interval = 100ms']);

LogqFaults::load($c, small => 900);
$c->wait_for_catchup_all;

my ($p1, $p1r, $p2) = map { LogqProxy->new(node => $_) }
  $c->part('p1'), $c->replica('p1'), $c->part('p2');

$c->route('p1', $p1, [$p1r]);
$c->route('p2', $p2, []);

my $s = $c->session;

sub restore
{
	$_->clear, $_->delay(0) foreach $p1, $p1r, $p2;
	foreach my $proxy ($p1, $p1r, $p2)
	{
		LogqFaults::wait_for_breaker($c, $proxy, 'closed') or die 'a breaker stays open';
	}
	return;
}

# ---------- a share of a LIMIT has come, the end of its request has not -----

# All rows are p1's, so it is asked again behind its share
{
	my $q = LogqFaults::query('share', <<'SQL', 1);
SELECT ts, id, message FROM @T@
WHERE ts >= '2024-06-01' AND ts < '2024-06-02' AND message LIKE 'p1 %'
ORDER BY ts DESC, id DESC LIMIT 400
SQL
	my $sql = LogqFaults::on_table($q, 'logq.logs');
	my $right = LogqFaults::right($s, $q);
	my $warm_up = LogqFaults::on_table(LogqFaults::query('few'), 'logq.logs');
	my ($conn, @offsets, @wrong);
	my $cuts = 0;

	$s->query("SET logq.read_from = 'primary'");
	$s->query($warm_up);
	$p1->mark;
	LogqFaults::same($s, $q, 'shares of a LIMIT');
	($conn) = grep { $_->{since_mark} > 0 } $p1->connections;
	@offsets = map { $_->[0] } grep { $_->[1] =~ /[CZ]/ } $p1->messages($conn->{id});
	cmp_ok(scalar(grep { $_->[1] eq 'Z' } $p1->messages($conn->{id})), '>=', 2,
		'p1 is asked more than once');
	foreach my $bytes (@offsets)
	{
		my $difference;

		$s->query($warm_up);
		next unless eval { $p1->cut($bytes, on => 'now', how => 'fin'); 1 };
		$difference = LogqFaults::difference($q, $right, $s->query($sql));
		push @wrong, "$bytes: $difference" if $difference ne '';
		$cuts++ if LogqFaults::last_query($s)->{retried} > 0;
		$p1->clear;
	}
	is(join("\n", @wrong), '', 'cut before the end of segments and requests');
	cmp_ok($cuts, '>', 0, "$cuts times it was asked again");
	$s->query('RESET logq.read_from');
	restore();
}

# ---------- a connection is lost more than once ----------

# p2 has no other server
{
	my $q = LogqFaults::query('desc');
	my $right = LogqFaults::right($s, $q);
	my $s2 = $c->session;

	$s2->query(LogqFaults::on_table($q, 'logq.logs'));
	$p2->cut(20_000, on => 'now');
	$p2->cut(30_000, on => 'next');
	is(LogqFaults::difference($q, $right,
			$s2->query(LogqFaults::on_table($q, 'logq.logs'))), '',
		'a single server, lost twice with rows in between');
	cmp_ok(LogqFaults::last_query($s2)->{retried}, '>=', 2, 'twice');
	$s2->quit;
	restore();
}

# ---------- readers that take their time ----------

# What is not taken is not waited for, and no fault of the server
{
	my $s2 = $c->session;
	my $before = LogqFaults::servers($c)->{ LogqFaults::address($p2) }{errors};
	my $rows;

	$s2->query("SET logq.partition_timeout = '1500ms'");
	$s2->query(LogqFaults::on_table(LogqFaults::query('few'), 'logq.logs'));
	$p2->delay(3000);
	$s2->query(<<'SQL');
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM logq.logs WHERE ts >= '2024-06-01' AND ts < '2024-06-02';
SQL
	like($s2->query('FETCH 1 FROM c'), qr/^\d+$/, 'a row of a partition that is fast');
	$s2->query('SELECT pg_sleep(2.5)');
	$rows = () = $s2->query('FETCH ALL FROM c') =~ /^\d+$/mg;
	is($rows, 1799, 'a reader was idle for longer than the deadline, and gets all rows');
	$s2->query('COMMIT');
	is(LogqFaults::servers($c)->{ LogqFaults::address($p2) }{errors}, $before,
		'and nobody is to blame');
	restore();

	# answers wait for their reader
	$s2->query('RESET logq.partition_timeout');
	$p2->delay(200);
	$s2->query('BEGIN');
	$s2->query("DECLARE c CURSOR FOR SELECT id FROM logq.logs WHERE ts >= '2024-06-01' AND ts < '2024-06-02'");
	$s2->query('FETCH 1 FROM c');
	$s2->query('SELECT pg_sleep(3)');
	$s2->query('FETCH ALL FROM c; COMMIT');
	cmp_ok(LogqFaults::servers($c)->{ LogqFaults::address($p2) }{latency_ms}, '<', 250,
		'a slow reader does not make a server look slow');
	$s2->quit;
	restore();
}

# Nor does another partition that is slow to connect
{
	my $s2 = $c->session;

	$s2->query("SET logq.connect_timeout = '2s'; SET logq.partial_results = on");
	foreach (1 .. 20)
	{
		$s2->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND level = 'none'");
	}
	$s2->query('SET logq.enable_hedging = off');
	$p2->blackhole;
	like($s2->query("SELECT count(*) FROM logq.logs WHERE level = 'none'"),
		qr/"p2" is missing/, 'p2 does not let anybody in');
	cmp_ok(LogqFaults::servers($c)->{ LogqFaults::address($p1) }{latency_ms}, '<', 100,
		'which does not make p1 look slow');
	$s2->quit;
	restore();
}

# ---------- a server that is merely slow ----------

{
	my $s2 = $c->session;
	my ($n, $server);

	$p1->delay(400);
	LogqTest::poll(sub {
		$s2->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND level = 'none'");
		$server = LogqFaults::servers($c)->{ LogqFaults::address($p1) };
		return $server->{breaker} ne 'closed';
	}, 20);
	like($server->{reason}, qr/faster/, 'a slow primary is not asked any more');
	$p1r->refuse;
	$p1r->close_all;
	like($s2->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND ts < '2024-06-02'"),
		qr/^900$/m, 'unless there is no other');
	is($s2->query("INSERT INTO logq.logs (ts, level, service, message, partition) VALUES ('2024-06-01', 'INFO', 'w', 'written', 'p1')")
			// '', '', 'and is written to');
	$s2->quit;
	restore();
}

# ---------- one session's hurry ----------

{
	my $s2 = $c->session;

	$p2->delay(50);
	$s2->query("SET logq.partition_timeout = '20ms'");
	like($s2->query("SELECT count(*) FROM logq.logs WHERE partition = 'p2' AND level = 'none'"),
		qr/did not answer within 20 ms/, 'a session has no time to wait');
	is(LogqFaults::breaker($c, $p2), 'closed', 'others have');
	$s2->quit;
	restore();
}

# ---------- one user's password ----------

{
	my $s2;

	$c->sql(<<'SQL');
CREATE ROLE forgetful LOGIN;
CREATE USER MAPPING FOR forgetful SERVER p1 OPTIONS (user 'logq', password 'wrong');
GRANT USAGE ON FOREIGN SERVER p1 TO forgetful;
GRANT USAGE ON SCHEMA logq TO forgetful;
GRANT SELECT ON logq.logs TO forgetful;
SQL
	$s2 = $c->session(user => 'forgetful');
	like($s2->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1'"),
		qr/password authentication failed/, 'a user has a wrong password') foreach 1 .. 4;
	is(LogqFaults::breaker($c, $_), 'closed', 'others have a right one') foreach $p1, $p1r;
	$s2->quit;
}

# ---------- a worker, and an owner that is no superuser ----------

{
	my $pid = $c->sql('SELECT pid FROM pg_stat_activity WHERE backend_type = \'checkpointer\'');
	my $password = $LogqTest::password;

	$c->sql("CREATE ROLE app; GRANT USAGE ON FOREIGN DATA WRAPPER logq_fdw TO app");
	$c->sql("CREATE USER MAPPING FOR app SERVER p1 OPTIONS (user 'logq', password " . LogqTest::lit($password) . ")");
	$c->sql('ALTER SERVER p1 OWNER TO app');
	$c->sql("ALTER SYSTEM SET logq.databases = 'logs'");
	$c->sql('SELECT pg_reload_conf()');
	LogqTest::poll_ok(sub { $c->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logq maintenance'") == 1 },
		'there is a worker');
	foreach my $try (1 .. 3)
	{
		my $s2 = $c->session;

		$p1r->refuse;
		$p1r->close_all;
		$s2->query("SET logq.read_from = 'replica'");
		$s2->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND level = 'none'")
		  foreach 1 .. 4;
		ok(LogqFaults::wait_for_breaker($c, $p1r, 'open', 5), 'a replica is gone');
		$p1r->pass;
		ok(LogqTest::poll(sub { LogqFaults::breaker($c, $p1r) eq 'closed' }, 20),
			'the worker finds that it is back');
		$s2->quit;
	}
	is($c->sql('SELECT pid FROM pg_stat_activity WHERE backend_type = \'checkpointer\''),
		$pid, 'and nothing has crashed');
}

done_testing();
