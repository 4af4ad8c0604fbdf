# Which of a partition's servers is read: by what the user wants, by health, by
# lag, by how quick it is.  Hedged requests and their budget; circuit breakers
# from closed to open and back.
#
# p1 has two replicas, p2 has one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProcess qw(freeze thaw kill_postmaster start_server);
use LogqProxy;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $at_once = $LogqFaults::at_once;
my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 2, p2 => 1 },
	conf => [ 'restart_after_crash = on', 'wal_retrieve_retry_interval = 100ms' ]);

LogqFaults::load($c, small => 600);
$c->wait_for_catchup_all;

my ($p1, $r1, $r2) = ($c->part('p1'), $c->replicas('p1'));
my ($p2, $r3) = ($c->part('p2'), $c->replicas('p2'));
my $all = LogqFaults::query('desc');
my $count = 'SELECT count(*) FROM logq.logs';
my $rows = $c->sql('SELECT count(*) FROM local_logs');
my $s = $c->session;

# Requests by server so far, those of some nodes or proxies
sub requests
{
	my (@nodes) = @_;
	my $servers = LogqFaults::servers($c);

	return map { $servers->{ LogqFaults::address($_) }{requests} // 0 } @nodes;
}

# How many requests more these got by some code
sub asked
{
	my ($code, @nodes) = @_;
	my @before = requests(@nodes);
	my @after;

	$code->();
	@after = requests(@nodes);
	return map { $after[$_] - $before[$_] } 0 .. $#nodes;
}

# ---------- what the user wants ----------

{
	my @n;
	my $servers;

	LogqFaults::same($s, $all, 'right');
	$servers = LogqFaults::servers($c);
	is(join(', ', sort map { "$_->{partition} $_->{role}" } values %$servers),
		'p1 primary, p1 replica, p1 replica, p2 primary, p2 replica',
		'logq.stat_partitions shows all servers');
	is(join(' ', map { $_->{breaker} } values %$servers), 'closed closed closed closed closed',
		'all breakers are closed');

	@n = asked(sub { LogqFaults::same($s, $all, 'any') for 1 .. 10 }, $p1, $r1, $r2, $p2, $r3);
	ok($n[0] >= 10 && $n[3] >= 10, "any: the primaries are read (@n)");
	$s->query("SET logq.read_from = 'primary'");
	@n = asked(sub { LogqFaults::same($s, $all, 'primary') for 1 .. 10 }, $p1, $r1, $r2, $p2, $r3);
	ok($n[0] >= 10 && $n[3] >= 10 && $n[1] + $n[2] + $n[4] == 0, "primary: only these (@n)");
	$s->query("SET logq.read_from = 'replica'");
	@n = asked(sub { LogqFaults::same($s, $all, 'replica') for 1 .. 10 }, $p1, $r1, $r2, $p2, $r3);
	ok($n[0] + $n[3] == 0 && $n[1] + $n[2] >= 10 && $n[4] >= 10, "replica: never the primaries (@n)");

	$s->query("SET logq.read_from = 'primary'");
	$p1->stop('immediate');
	like($s->query($count), qr/^ERROR:\s+(?:08\w{3}|57P\w\w): .*"p1"/m, 'primary: an error when it is down');
	$s->query("SET logq.read_from = 'replica'");
	LogqFaults::same($s, $all, 'replica: the primary is not missed');
	$s->query("SET logq.read_from = 'any'");
	LogqFaults::same($s, $all, 'any: nor here');
	cmp_ok(LogqFaults::last_query($s)->{complete}, '==', 1, 'it is complete');
	start_server($p1);
	ok(LogqFaults::wait_for_breaker($c, $p1, 'closed'), 'it is back');

	$r3->stop;
	$s->query("SET logq.read_from = 'replica'");
	like($s->query($count), qr/^ERROR:\s+(?:08\w{3}|57P\w\w): .*"p2"/m, 'replica: an error when it is down');
	$s->query("SET logq.read_from = 'any'");
	LogqFaults::same($s, $all, 'any: it is not missed');
	$r3->start;
	ok(LogqFaults::wait_for_breaker($c, $r3, 'closed'), 'it is back');

	$r1->stop;
	$s->query("SET logq.read_from = 'replica'");
	LogqFaults::same($s, $all, 'replica: one of two');
	$r1->start;
	ok(LogqFaults::wait_for_breaker($c, $r1, 'closed'), 'it is back');
	$s->query('RESET logq.read_from');
	like($s->query("SET logq.read_from = 'nobody'"), qr/ERROR:\s+22023/, 'no such setting');
	LogqFaults::assert_clean($c, 'servers that were down', $s);
}

# ---------- lag ----------

{
	my $s2 = $c->session;
	my $answer;

	# what this coordinator has written is not missed
	$c->wait_for_catchup_all;
	$c->pause_replica('p2');
	$s2->query('SELECT 1 FROM logq.logs LIMIT 1');
	is($s2->query("INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2024-06-01 00:30+00', 'LAG', 'one', 'p2')"),
		'', 'a row is written that the replica does not get');
	$rows++;
	is($s2->query($count), $rows, 'any: it is there');
	$s2->query("SET logq.read_from = 'replica'");
	$answer = $s2->query($count);
	like($answer, qr/^ERROR:\s+\w{5}: .*"p2"/m, 'replica: who wrote it gets an error rather than no row');
	like($answer, qr/replica lacks what this session has read or written/, 'which says why');
	$c->resume_replica('p2');
	LogqTest::poll_ok(sub { return $s2->query($count) eq $rows; }, 'replica: it is there once it has caught up', 20);

	# within a transaction, too
	$s2->query('RESET logq.read_from');
	$c->pause_replica('p2');
	$s2->query('BEGIN');
	$s2->query("INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2024-06-01 00:30+00', 'LAG', 'two', 'p2')");
	$rows++;
	is($s2->query($count), $rows, 'any: what the transaction has written is there');
	$s2->query("SET LOCAL logq.read_from = 'replica'");
	$answer = $s2->query($count);
	ok($answer eq $rows || $answer =~ /^ERROR:\s+\w{5}: .*"p2"/m, 'replica: it is, or it is an error')
	  or diag($answer);
	$s2->query('ROLLBACK');
	$rows--;

	# a new segment: the catalog that the replica has is an older one
	is($s2->query("INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2024-06-05 00:30+00', 'LAG', 'three', 'p2')"),
		'', 'a segment is made that the replica does not get');
	$rows++;
	is($c->sql($count), $rows, 'any: the row is there, in another session');
	is($c->sql("SELECT level FROM logq.logs ORDER BY ts DESC LIMIT 1"), 'LAG', 'any: in order, too');
	$answer = $s2->query("SET logq.read_from = 'replica';\n$count");
	like($answer, qr/^ERROR:\s+\w{5}: .*"p2"/m, 'replica: an error, as its catalog is older');
	# the primary goes, and the replica may not stand in for it
	$s2->query('RESET logq.read_from');
	$p2->stop('immediate');
	foreach my $sql ($count, "SELECT level FROM logq.logs ORDER BY ts DESC LIMIT 1")
	{
		$answer = $s2->query($sql);
		like($answer, qr/^ERROR:\s+\w{5}: .*"p2"/m, 'any: an error when the primary is down');
		like($answer, qr/\Q@{[ LogqFaults::address($_) ]}\E/, 'which says what is wrong with ' . $_->name)
		  foreach $p2, $r3;
	}
	start_server($p2);
	is(LogqTest::poll(sub { return ($answer = $s2->query($count)) eq $rows; }, 20), 1, 'until it is back');
	$c->resume_replica('p2');
	$c->wait_for_catchup_all;

	# written behind logq's back: it may be missed for so long
	$s2->query("SET logq.read_from = 'replica'");
	is($s2->query($count), $rows, 'replica: nothing is missed');
	$c->pause_replica('p2');
	$c->on('p2', "INSERT INTO logq_store.log (ts, level, message) VALUES ('2024-06-01 00:40+00', 'LAG', 'four')");
	$s2->query("SET logq.max_replica_lag = '1s'");
	LogqTest::poll_ok(sub { return ($answer = $s2->query($count)) =~ /^ERROR/m; },
		'replica: one that is behind is not read', 20);
	like($answer, qr/"p2"/, 'the error names the partition');
	like($answer, qr/(?:\d+ ?(?:ms|s|milliseconds|seconds)|\d+:\d\d).*behind|behind.*\d/s, 'and says how far behind');
	LogqTest::poll_ok(sub { return (LogqFaults::servers($c)->{ LogqFaults::address($r3) }{lag_ms} // 0) >= 1000; },
		'logq.stat_partitions shows it', 10);
	$s2->query("SET logq.max_replica_lag = '1h'");
	is($s2->query($count), $rows, 'replica: who does not mind reads it');
	$s2->query("SET logq.max_replica_lag = '1s'");
	$s2->query('RESET logq.read_from');
	is($s2->query($count), ++$rows, 'any: the primary is read');
	# one of two lags
	$c->pause_replica('p1', 1);
	$c->on('p1', "INSERT INTO logq_store.log (ts, level, message) VALUES ('2024-06-01 00:40+00', 'LAG', 'five')");
	$rows++;
	$c->resume_replica('p2');
	$c->part('p1')->wait_for_catchup($r2);
	$c->part('p2')->wait_for_catchup($r3);
	$s2->query("SET logq.read_from = 'replica'");
	LogqTest::poll_ok(sub { return ($answer = $s2->query($count)) eq $rows; },
		'replica: the other one is read', 20);
	is(join(' ', map { $s2->query($count) } 1 .. 10), join(' ', ($rows) x 10), 'from then on always');
	$c->resume_replica('p1', 1);
	$c->wait_for_catchup_all;
	LogqFaults::assert_clean($c, 'lag', $s, $s2);
	$s2->quit;
}
LogqFaults::copy_rows($c);
LogqFaults::forget_right();

# ---------- proxies before all ----------

my %proxy = map { $_->name => LogqProxy->new(node => $_) } $p1, $r1, $r2, $p2, $r3;
my @of_p1 = @proxy{ map { $_->name } $p1, $r1, $r2 };
my ($q1, $q2, $q3) = @of_p1;

$c->route('p1', $q1, [ $q2, $q3 ]);
$c->route('p2', $proxy{ $p2->name }, [ $proxy{ $r3->name } ]);

# Milliseconds of a query, which must be right
sub time_of
{
	my ($session, $q) = @_;
	my $sql = LogqFaults::on_table($q, 'logq.logs');
	my $right = LogqFaults::right($session, $q);
	my $start = time;
	my $answer = $session->query($sql);
	my $ms = 1000 * (time - $start);

	die "$q->{name}: " . LogqFaults::difference($q, $right, $answer) if $answer ne $right;
	return $ms;
}

sub median { return (sort { $a <=> $b } @_)[ $#_ / 2 ]; }

# ---------- hedging ----------

my $limit = LogqFaults::query('limit');

{
	my ($servers, $before, @ms, $healthy, $quick, $last);

	$s->query("SET logq.partition_timeout = '10s'");
	$s->query("SET logq.hedge_min_delay = '20ms'");
	@ms = map { time_of($s, $limit) } 1 .. 100;
	$healthy = median(@ms);
	$servers = LogqFaults::servers($c, 'p1');
	ok($servers->{primary}{p95_ms} > 0 && $servers->{primary}{latency_ms} > 0,
		"latency and p95 are known ($servers->{primary}{latency_ms}, $servers->{primary}{p95_ms} ms)");

	$before = $servers->{primary};
	$q1->delay(700);
	@ms = ();
	foreach (1 .. 5)
	{
		push @ms, time_of($s, $limit);
		$last //= LogqFaults::last_query($s);
	}
	cmp_ok($last->{hedged}, '>', 0, 'a second server is asked when the first is slow');
	cmp_ok(median(@ms), '<', 500, sprintf 'which is quicker: %.0f ms, healthy %.0f ms', median(@ms), $healthy);
	$servers = LogqFaults::servers($c, 'p1');
	my ($hedges, $wins) = (0, 0);
	foreach my $server (grep { ref } @{$servers}{ grep { $_ ne 'primary' } keys %$servers })
	{
		$hedges += $server->{hedges};
		$wins += $server->{hedge_wins};
	}
	cmp_ok($hedges, '>', 0, "logq.stat_partitions counts hedges ($hedges)");
	cmp_ok($wins, '>', 0, "and those that were first ($wins)");

	# without
	$q1->clear;
	LogqFaults::wait_for_breaker($c, $q1, 'closed');
	LogqTest::poll(sub { time_of($s, $limit); return (LogqFaults::servers($c, 'p1')->{primary}{p95_ms}) < 100; }, 20);
	$s->query('SET logq.enable_hedging = off');
	$s->query("SET logq.read_from = 'primary'");
	$q1->delay(300);
	cmp_ok(time_of($s, $limit), '>=', 290, 'logq.enable_hedging = off: it is waited for');
	is(LogqFaults::last_query($s)->{hedged}, 0, 'and no other asked');
	$q1->clear;
	$s->query('RESET logq.read_from');
	$s->query('RESET logq.enable_hedging');
	LogqFaults::assert_clean($c, 'hedging', $s);
}

# Hedges of a partition so far, and its requests
sub hedges
{
	my ($partition) = @_;
	my $servers = LogqFaults::servers($c, $partition);
	my ($hedges, $requests) = (0, 0);

	delete $servers->{primary};
	foreach my $server (values %$servers)
	{
		$hedges += $server->{hedges};
		$requests += $server->{requests};
	}
	return ($hedges, $requests);
}

# all are slow: it is no use to ask more of them
{
	my ($hedges, $requests, $more, $asked);

	$s->query("SET logq.hedge_min_delay = '1ms'");
	time_of($s, $limit) for 1 .. 50;
	($hedges, $requests) = hedges('p1');
	foreach my $i (1 .. 300)
	{
		# for ever slower, so that no p95 keeps up
		$_->delay(2 + $i / 10) foreach @of_p1;
		time_of($s, $limit);
	}
	($more, $asked) = map { $_ } hedges('p1');
	$more -= $hedges;
	$asked -= $requests;
	cmp_ok($more, '<=', 0.05 * $asked + 10, "the budget: $more hedges of $asked requests");
	cmp_ok($more, '>', 0, 'which are some');
	$_->clear foreach @of_p1;
	LogqFaults::assert_clean($c, 'all are slow', $s);
}

# Rows of two servers are never mixed.  The replicas of p1 stay as they are,
# where messages end in A; its primary has B.
{
	my $mixed = 'SELECT string_agg(DISTINCT right(message, 1), \'\'), count(*), count(DISTINCT id) FROM logq.logs WHERE level = \'AB\'';
	my $order = 'SELECT right(message, 1) AS m FROM logq.logs WHERE level = \'AB\' ORDER BY ts DESC, id DESC';
	my (%seen, @bad);

	$c->on('p1', <<'SQL');
INSERT INTO logq_store.log (ts, level, message)
	SELECT timestamptz '2024-06-01 00:00+00' + i * interval '20 s', 'AB', repeat('m', 500) || 'A'
	FROM generate_series(1, 500) i;
SQL
	$c->wait_for_catchup_all;
	$c->pause_replica('p1', $_) foreach 1, 2;
	$c->on('p1', "UPDATE logq_store.log SET message = repeat('m', 500) || 'B' WHERE level = 'AB'");
	$s->query("SET logq.max_replica_lag = '1h'");
	srand 23;
	foreach my $i (1 .. 120)
	{
		my $session = $i % 4 ? $s : $c->session;
		my ($answer, $hedged);

		# now and then, on either side of when the second one is asked
		if ($i % 6 == 0)
		{
			$q1->delay(2 + rand 25, chunk => 10_000 + int rand 100_000);
		}
		else
		{
			$q1->clear;
		}
		if ($session != $s)
		{
			$session->query("SET logq.max_replica_lag = '1h'");
			$session->query("SET logq.hedge_min_delay = '1ms'");
		}
		if ($i % 2)
		{
			$answer = $session->query($mixed);
			push @bad, $answer if $answer !~ /^[AB]\|500\|500$/;
		}
		else
		{
			$answer = join '', split /\n/, $session->query("SELECT string_agg(m, '') FROM ($order OFFSET 0) s");
			push @bad, $answer if $answer !~ /^(?:A{500}|B{500})$/;
		}
		$seen{ substr $answer, 0, 1 }++;
		$hedged = LogqFaults::last_query($session)->{hedged};
		$seen{hedged}++ if $hedged;
		$session->quit if $session != $s;
	}
	is(join("\n", @bad), '', 'rows of two servers are not mixed ('
		  . join(', ', map { "$_ $seen{$_}" } sort keys %seen) . ')');
	$q1->clear;
	$c->resume_replica('p1', $_) foreach 1, 2;
	$c->on('p1', "DELETE FROM logq_store.log WHERE level = 'AB'");
	$c->wait_for_catchup_all;
	$s->query('RESET logq.max_replica_lag');
	$s->query('RESET logq.hedge_min_delay');
	LogqFaults::assert_clean($c, 'mixed', $s);
}

# A scan that has read some of the primary does not go on at a replica that is
# behind it
{
	my $s2 = $c->session;
	my $answer;

	$c->pause_replica('p1', $_) foreach 1, 2;
	$c->on('p1', "UPDATE logq_store.log SET service = 'changed' WHERE level = 'ERROR'");
	$s2->query("SET logq.max_replica_lag = '1h'");
	$s2->query("SET logq.read_from = 'primary'");
	# what has made the primary slow above is over: else replicas come first
	$s2->query("SELECT ts FROM logq.logs WHERE partition = 'p1' ORDER BY ts DESC LIMIT 1") foreach 1 .. 40;
	$s2->query(LogqFaults::on_table($all, 'logq.logs'));
	$s2->query("RESET logq.read_from");
	$q1->cut(30_000, on => 'now');
	$answer = $s2->query(LogqFaults::on_table($all, 'logq.logs'));
	LogqFaults::copy_rows($c);
	LogqFaults::forget_right();
	ok(LogqFaults::difference($all, LogqFaults::right($s2, $all), $answer) eq ''
		  || $answer =~ /^ERROR:\s+\w{5}: .*"p1"/m,
		'a scan does not go on in the past') or diag(substr $answer, 0, 1000);
	$q1->clear;
	$c->resume_replica('p1', $_) foreach 1, 2;
	$c->wait_for_catchup_all;
	LogqFaults::assert_clean($c, 'not in the past', $s, $s2);
	$s2->quit;
}

# ---------- breakers ----------

{
	my @sessions = map { $c->session } 1 .. 6;
	my ($row, $start, @n, $accepted, $most);

	$_->query("SET logq.connect_timeout = '1s'") foreach $s, @sessions;
	LogqFaults::same($_, $all, 'before') foreach @sessions;
	ok(LogqFaults::wait_for_breaker($c, $q1, 'closed'), 'closed');

	# else replicas would be asked anyway
	LogqFaults::ask_primaries($s, $all);
	$q1->refuse;
	$q1->close_all;
	LogqFaults::same($_, $all, 'refused: others are asked') foreach @sessions;
	ok(LogqFaults::wait_for_breaker($c, $q1, 'open|half-open', 5), 'open');
	$row = LogqFaults::servers($c)->{ LogqFaults::address($q1) };
	ok(($row->{reason} // '') ne '', 'a reason is given: ' . ($row->{reason} // '-'));
	ok(defined $row->{since}, 'and since when');
	cmp_ok($row->{failures}, '>=', 1, 'and how many failures');

	# one that swallows connections would take a second each time
	$q1->full;
	$start = time;
	time_of($_, $limit) foreach (@sessions) x 5;
	cmp_ok(time - $start, '<', 1 + $at_once, 'a dead server costs later queries nothing');
	is(LogqFaults::last_query($sessions[0])->{retried}, 0, 'as it is not asked');

	# a probe takes as long as it may; only one is under way however many query
	$q1->blackhole;
	$accepted = $q1->status->{accepted};
	$start = time;
	$most = 0;
	LogqTest::poll(sub {
		my @open;

		time_of($_, $limit) foreach @sessions;
		@open = grep { $_->{open} && $_->{kind} eq 'blackhole' } $q1->connections;
		$most = @open if @open > $most;
		$row = LogqFaults::breaker($c, $q1);
		push @n, $row if !@n || $n[-1] ne $row;
		return grep { $_ eq 'half-open' } @n;
	}, 15);
	ok((grep { $_ eq 'half-open' } @n), 'half-open while it is probed (' . join(', ', @n) . ')');
	LogqTest::poll(sub {
		my @open = grep { $_->{open} && $_->{kind} eq 'blackhole' } $q1->connections;

		time_of($_, $limit) foreach @sessions;
		$most = @open if @open > $most;
		return $q1->status->{accepted} - $accepted >= 2;
	}, 5);
	cmp_ok($most, '<=', 1, 'by one only');
	cmp_ok($q1->status->{accepted} - $accepted, '<=', 2 + 2 * (time - $start), 'and not often');

	$q1->clear;
	LogqTest::poll_ok(sub { time_of($sessions[0], $limit); return LogqFaults::breaker($c, $q1) eq 'closed'; },
		'closed again, once it answers', 15);
	LogqTest::poll_ok(sub {
		return (asked(sub { time_of($_, $limit) foreach @sessions }, $q1))[0] > 0;
	}, 'and is read', 15);
	LogqFaults::assert_clean($c, 'breakers', $s, @sessions);

	# a time-out opens it at once, and nobody waits after the first one
	$sessions[0]->query('SET logq.enable_hedging = off');
	$q1->blackhole;
	$q1->close_all;
	time_of($sessions[0], $limit);
	ok(LogqFaults::wait_for_breaker($c, $q1, 'open|half-open', 5), 'open after one time-out');
	$start = time;
	time_of($_, $limit) foreach @sessions;
	cmp_ok(time - $start, '<', $at_once, 'nobody else waits for it');
	$q1->clear;
	LogqTest::poll_ok(sub { time_of($sessions[0], $limit); return LogqFaults::breaker($c, $q1) eq 'closed'; },
		'closed again', 20);

	# all of a partition's are open: one that refuses quickly is tried all the same
	$_->refuse foreach @of_p1;
	$_->close_all foreach @of_p1;
	like($sessions[0]->query($count), qr/^ERROR:\s+08\w{3}: .*"p1"/m, 'all are down') for 1 .. 5;
	$_->clear foreach @of_p1;
	$start = time;
	LogqTest::poll_ok(sub { return $sessions[0]->query($count) =~ /^\d+$/; },
		'the first query after they are back finds them', 10);
	cmp_ok(time - $start, '<', $at_once, 'at once');
	LogqFaults::wait_for_breaker($c, $_, 'closed') foreach @of_p1;

	# those of p2 had nothing to do with it
	is(join(' ', map { $_->{breaker} } values %{ LogqFaults::servers($c, 'p2') }),
		'closed closed closed', 'p2 was always closed');
	LogqFaults::assert_clean($c, 'all down', $s, @sessions);
	$_->quit foreach @sessions;
}

# three that lose in a row open it, too: a server that has become slow
{
	my $n = 0;

	LogqTest::poll(sub { time_of($s, $limit); return (LogqFaults::servers($c, 'p1')->{primary}{p95_ms} // 0) < 50; }, 20);
	time_of($s, $limit) for 1 .. 100;
	$q1->delay(2000);
	LogqTest::poll(sub { $n++; return time_of($s, $limit) < 500 && LogqFaults::breaker($c, $q1) eq 'open' || $n >= 10; }, 20);
	cmp_ok(median(map { time_of($s, $limit) } 1 .. 20), '<', 300, "a server that has become slow is left after $n queries");
	$q1->clear;
	LogqTest::poll_ok(sub { time_of($s, $limit); return LogqFaults::breaker($c, $q1) eq 'closed'; }, 'until it is quick again', 30);
	LogqFaults::assert_clean($c, 'slow', $s);
}

# ---------- with a worker ----------

{
	$c->sql("ALTER SYSTEM SET logq.databases = 'logs'");
	$c->coordinator->reload;
	LogqTest::poll_ok(sub {
		return $c->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logq maintenance'") == 1;
	}, 'there is a worker');

	# it notices by itself that a primary is down, and that any server is back
	$q2->refuse;
	$q2->close_all;
	$proxy{ $p2->name }->full;
	$proxy{ $p2->name }->close_all;
	ok(LogqFaults::wait_for_breaker($c, $proxy{ $p2->name }, 'open|half-open', 30), 'it finds out who does not answer');
	is(time_of($s, $limit) < 1000 * $at_once, 1, 'so that queries do not wait');
	# whoever is quicker is asked: the other one is not
	$q3->delay(30);
	$s->query("SET logq.read_from = 'replica'");
	LogqTest::poll(sub { time_of($s, $limit); return LogqFaults::breaker($c, $q2) ne 'closed'; }, 60);
	isnt(LogqFaults::breaker($c, $q2), 'closed', 'a replica is down');
	$s->query('RESET logq.read_from');
	$q3->clear;
	$q2->clear;
	$proxy{ $p2->name }->clear;
	# nobody asks anything
	foreach my $node ($q2, $proxy{ $p2->name })
	{
		LogqTest::poll_ok(sub { return LogqFaults::breaker($c, $node) eq 'closed'; },
			'it finds out who is back', 30);
	}
	LogqFaults::assert_clean($c, 'worker', $s);
}

# ---------- promotion ----------

{
	my $s2 = $c->session;

	$c->route($_) foreach $c->names;
	LogqFaults::same($s2, $all, 'before');
	$c->wait_for_catchup_all;
	kill_postmaster($p2);
	LogqFaults::same($s2, $all, 'the primary is killed: a standby is read');
	$c->promote_replica('p2', 1);
	LogqFaults::same($s2, $all, 'that is promoted');
	LogqFaults::same($c->session, $all, 'by others, too');
	# what it takes now belongs to the answer
	$r3->safe_psql('logs', "INSERT INTO logq_store.log (ts, level, message) VALUES ('2024-06-01 00:40+00', 'PROMOTED', 'x')");
	is($s2->query("SELECT count(*) FROM logq.logs WHERE level = 'PROMOTED'"), 1, 'and takes rows');
	like($s2->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:40+00', 'PROMOTED', 'p2')"),
		qr/^ERROR:\s+08\w{3}: .*"p2"/m, 'not those of logq, which writes to the primary');
	$c->route('p2', $r3, []);
	is($s2->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:40+00', 'PROMOTED', 'p2')"),
		'', 'until it is said that it is the primary');
	is($s2->query("SELECT count(*) FROM logq.logs WHERE level = 'PROMOTED'"), 2, 'both rows are there');
	$s2->query("SET logq.read_from = 'primary'");
	is($s2->query("SELECT count(*) FROM logq.logs WHERE level = 'PROMOTED'"), 2, 'on the primary');
	LogqFaults::assert_clean($c, 'promotion', $s);
	$s2->quit;
}
$s->quit;
done_testing();
