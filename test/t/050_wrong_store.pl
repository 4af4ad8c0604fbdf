# Servers and replicas whose options lead to another partition's store: nothing
# is read there, and nothing written, and what answers otherwise still does.
#
# p1 has a replica.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqPgBouncer;
use LogqTest;
use Test::More;

my $c = LogqTest->new(
	partitions => 3,
	replicas => { p1 => 1 },
	coordinator_conf => [ "logq.databases = 'logs'", 'logq.hot_cache_size = 0' ]);
my ($p1, $p2, $p3) = map { $c->part($_) } 'p1' .. 'p3';
my $replica = $c->replica('p1');
my $pooler = LogqPgBouncer->new(name => 'pooler', node => $p2);
my $wrong = qr/the server has the store of partition number 2, not of number 1/;
my $counts = 'SELECT partition, count(*) FROM logq.logs WHERE length(message) > 0 GROUP BY 1 ORDER BY 1';
my $stored = sub { return join ' ', map { $c->on($_, 'SELECT count(*) FROM logq_store.log') } $c->names; };
my $s = $c->session;

$c->sql(<<'SQL');
INSERT INTO logq.logs (ts, level, service, message, partition)
	SELECT now(), 'INFO', 'store', 'row ' || i, 'p' || 1 + i % 3 FROM generate_series(0, 299) i;
SQL
$c->wait_for_catchup_all;
is($s->query($counts), "p1|100\np2|100\np3|100", 'all is well');

# ---------- the primary ----------

# sessions that are connected, and new ones; without a replica nobody is left
$c->route('p1', $p2, []);
foreach my $session ($s, $c->session)
{
	my $answer = $session->query($counts);

	like($answer, qr/ERROR:\s+08004: partition "p1": $wrong/, 'rows of another partition are not read');
	like($answer, qr/HINT:.*ALTER SERVER/, 'the hint says what to do');
	like($session->query("INSERT INTO logq.logs (ts, message, partition) VALUES (now(), 'x', 'p1')"),
		qr/ERROR:\s+08004: partition "p1": $wrong/, 'nor is anything written there');
	like($session->query("COPY logq.logs (ts, message, partition) FROM PROGRAM 'echo \"2024-01-01\tx\tp1\"'"),
		qr/ERROR:\s+08004: partition "p1": $wrong/, 'nor by COPY');
	is($session->query("SELECT count(*) FROM logq.logs WHERE partition <> 'p1' AND message LIKE 'row%'"), '200',
		'the others answer');
}
is($stored->(), '100 100 100', 'nothing was written');
like($c->sql("SELECT state, error FROM logq.partitions WHERE name = 'p1'"), qr/^down\|$wrong$/, 'logq.partitions says so');
LogqTest::poll_ok(sub {
	$c->coordinator->reload;
	return $c->sql("SELECT string_agg(concat_ws(' ', check_name, subject, detail), E'\n') FROM logq.health() WHERE NOT ok") =~
	  /\bp1\b.*$wrong/;
}, 'and logq.health()') or diag($c->sql('SELECT * FROM logq.health() WHERE NOT ok'));
$s->query('SET logq.partial_results = on');
like($s->query($counts), qr/\Ap2\|100\np3\|100\nWARNING: .*"p1".*$wrong/,
	'a partial answer lacks it');
$s->query('RESET logq.partial_results');

# a replica that is right goes on
$c->route('p1', $p3, [$replica]);
is($s->query($counts), "p1|100\np2|100\np3|100", 'the replica of a primary that is wrong is asked');
like($s->query("INSERT INTO logq.logs (ts, message, partition) VALUES (now(), 'x', 'p1')"),
	qr/ERROR:\s+08004: partition "p1": the server has the store of partition number 3, not of number 1/,
	'but not written to');

# ---------- a replica ----------

foreach my $other ($p2, $pooler)
{
	my $s2 = $c->session;

	$c->route('p1', $p1, [$other]);
	$c->sql("ALTER SERVER p1 OPTIONS (ADD replicas_pooled 'true')") if $other == $pooler;
	is($s2->query($counts), "p1|100\np2|100\np3|100", 'a wrong replica is not missed');
	$p1->stop('immediate');
	foreach my $session ($s2, $c->session)
	{
		my $answer = $session->query($counts);

		like($answer, qr/ERROR:\s+08006: no server of partition "p1" could answer/, 'nor asked while the primary is down');
		like($answer, qr/\Q@{[ LogqFaults::address($other) ]}\E: (?:$wrong|.*not asked)/, 'the error says why');
	}
	$p1->start;
	$s2->quit;
}

$c->sql('ALTER SERVER p1 OPTIONS (DROP replicas_pooled)');

# ---------- behind a pooler ----------

# it may lead elsewhere at any time: each transaction looks
$c->route('p1', $p1, [$replica]);
$c->sql("ALTER SERVER p2 OPTIONS (ADD pooler '" . $pooler->address . "')");
LogqTest::poll_ok(sub { return $s->query($counts) eq "p1|100\np2|100\np3|100"; }, 'all is well again');
$c->on('p2', 'UPDATE logq_store.store SET number = 9');
like($s->query($counts), qr/ERROR:\s+08004: partition "p2": the server has the store of partition number 9, not of number 2/,
	'the store behind a pooler is another one');
$c->on('p2', 'UPDATE logq_store.store SET number = 2');
LogqTest::poll_ok(sub { return $s->query($counts) eq "p1|100\np2|100\np3|100"; }, 'and the right one again');

# ---------- another number ----------

$c->sql("SELECT logq.remove_partition('p3', true)");
$c->on('p3', 'UPDATE logq_store.store SET number = 7');
is($c->sql("SELECT logq.add_partition('p3')"), '7', 'a partition has got another number');
is($s->query($counts), "p1|100\np2|100\np3|100", 'sessions know it by that');
is($stored->(), '100 100 100', 'nothing was written all the time');
$s->quit;

done_testing();
