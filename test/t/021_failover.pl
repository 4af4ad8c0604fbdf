# A server that dies or hangs while its rows are being read: another one of its
# partition goes on, and the answer is the same.  No row twice, none missing,
# the order kept.
#
# p1 has two replicas, p2 has one, p3 has none.

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

my $big = 30_000;
my $c = LogqTest->new(
	partitions => 3,
	replicas => { p1 => 2, p2 => 1 },
	conf => [ 'restart_after_crash = on', 'wal_retrieve_retry_interval = 100ms' ]);

LogqFaults::load($c, small => 900, big => $big);
$c->wait_for_catchup_all;

# One proxy a server
my %proxies = map {
	my $name = $_;
	$name => [ map { LogqProxy->new(node => $_) } $c->part($name), $c->replicas($name) ];
} $c->names;
my @all_proxies = map { @$_ } values %proxies;

sub route_through_proxies
{
	foreach my $name ($c->names)
	{
		my ($primary, @replicas) = @{ $proxies{$name} };

		$c->route($name, $primary, \@replicas);
	}
	return;
}

# All is well again
sub restore
{
	my ($s) = @_;

	$_->clear foreach @all_proxies;
	foreach my $proxy (@all_proxies)
	{
		LogqFaults::wait_for_breaker($c, $proxy, 'closed') or die 'a breaker stays open';
	}
	return;
}

my $s = $c->session;

route_through_proxies();
$s->query("SET logq.connect_timeout = '2s'");
$s->query("SET logq.partition_timeout = '2s'");
foreach my $name (LogqFaults::query_names())
{
	LogqFaults::same($s, LogqFaults::query($name), "$name: right while all is well");
}
is(LogqFaults::last_query($s)->{retried}, 0, 'and nothing was asked twice');

# ---------- cut at chosen places ----------

# A healthy query on the primaries opens connections, and leaves them idle
sub warm_up
{
	my ($q) = @_;

	$q = LogqFaults::query('few') if $q->{name} =~ /limit/;
	LogqFaults::ask_primaries($s, $q);
	return;
}

# Where a query's answer from a proxy's server can be cut: [name, bytes, must
# it be asked again?]
sub places_of
{
	my ($q, $proxy) = @_;

	warm_up($q);
	return LogqFaults::places($proxy, sub {
		$s->query("SET logq.read_from = 'primary'");
		$s->query(LogqFaults::on_table($q, 'logq.logs'));
		$s->query("RESET logq.read_from");
	});
}

# A query while the connection to a primary is cut.  True if it was.
sub cut_once
{
	my ($q, $proxy, $bytes, $how) = @_;
	my ($fired, $answer);

	# one that has not come to pass would meet another query
	$proxy->clear;
	warm_up($q);
	$fired = $proxy->status->{fired};
	return 0 if !eval { $proxy->cut($bytes, on => 'now', how => $how); 1 };
	$answer = $s->query(LogqFaults::on_table($q, 'logq.logs'));
	return ($proxy->status->{fired} > $fired, $answer);
}

# Replicas are slower, so that the primaries are read, and nobody else is asked
# before they fail.
sub slow_replicas
{
	foreach my $name ($c->names)
	{
		my ($primary, @replicas) = @{ $proxies{$name} };

		$_->delay(8) foreach @replicas;
	}
	return;
}

srand 21;
slow_replicas();
$s->query('SET logq.enable_hedging = off');
foreach my $name (LogqFaults::query_names())
{
	my $q = LogqFaults::query($name);
	my $right = LogqFaults::right($s, $q);
	my $limit = $name =~ /limit/;

	foreach my $p ('p1', 'p2')
	{
		my $proxy = $proxies{$p}[0];
		my @places = places_of($q, $proxy);
		my ($cuts, $retried) = (0, 0);
		my @wrong;

		my ($copies) = @places ? $places[-1][0] =~ /(\d+)$/ : 0;
		my $middle = int(($copies + 1) / 2);

		# all of one COPY for one of the partitions, some for the other
		@places = grep { $p eq 'p1' ? $_->[0] =~ /COPY $middle$/ || rand() < 0.15 : rand() < 0.15 } @places;
		foreach my $place (@places)
		{
			my ($what, $bytes, $again) = @$place;
			my $how = rand() < 0.5 ? 'rst' : 'fin';
			my ($cut, $answer) = cut_once($q, $proxy, $bytes, $how);
			my $difference = defined $answer
			  ? LogqFaults::difference($q, $right, $answer) : 'no connection to cut';

			push @wrong, "$what ($how): $difference" if $difference ne '';
			next unless $cut;
			$cuts++;
			$retried++ if LogqFaults::last_query($s)->{retried} > 0;
			push @wrong, "$what ($how): last_query() knows of no retry"
			  if $again && !$limit && LogqFaults::last_query($s)->{retried} == 0;
			$proxy->clear;
		}
		is(join("\n", @wrong), '', "$name: cut at " . @places . " places of $p");
		# whoever has enough stops reading
		cmp_ok($cuts, '>=', $limit ? 0 : @places * 0.7, "$name: $cuts times it was, $retried asked again");
	}
	LogqFaults::assert_clean($c, "$name, after cuts", $s);
}
restore();

# at any place, with second requests
$s->query('RESET logq.enable_hedging');
$s->query("SET logq.hedge_min_delay = '1ms'");
{
	my @names = LogqFaults::query_names();
	my @wrong;

	foreach my $i (1 .. 40)
	{
		my $q = LogqFaults::query($names[ int rand @names ]);
		my $proxy = $proxies{ rand() < 0.5 ? 'p1' : 'p2' }[0];
		my ($cut, $answer) = cut_once($q, $proxy, int exp rand 11.5, 'rst');
		my $difference = defined $answer
		  ? LogqFaults::difference($q, LogqFaults::right($s, $q), $answer) : '';

		push @wrong, "$q->{name}: $difference" if $difference ne '';
		$proxy->clear;
	}
	is(join("\n", @wrong), '', 'cut anywhere, with second requests');
}
$s->query("RESET logq.hedge_min_delay");
restore();

# in the midst of connecting: the first bytes of a new connection
{
	my $q = LogqFaults::query('desc');
	my $right = LogqFaults::right($s, $q);
	my @wrong;

	foreach my $bytes (0, 1, 9, 100, 300)
	{
		my $s2 = $c->session;
		my $difference;

		$proxies{p1}[0]->cut($bytes);
		$difference = LogqFaults::difference($q, $right,
			$s2->query(LogqFaults::on_table($q, 'logq.logs')));
		push @wrong, "$bytes bytes: $difference" if $difference ne '';
		$s2->quit;
		$proxies{p1}[0]->clear;
		warm_up($q);
	}
	is(join("\n", @wrong), '', 'cut while connecting');
	restore();
}

# two in one scan, and all three
foreach my $name (qw(desc asc unordered aggregate limit_here cursor))
{
	my $q = LogqFaults::query($name);
	my $right = LogqFaults::right($s, $q);
	my @p = @{ $proxies{p1} };
	# one whose LIMIT is reached may be over before the second one begins
	my ($place) = sort { $b->[0] cmp $a->[0] }
	  grep { $_->[0] =~ /^row of COPY [12]$/ } places_of($q, $p[0]);
	my $cuts = 0;
	my @wrong;

	ok($place, "$name: there is a row to cut") or next;
	foreach my $try (1 .. 3)
	{
		my $s2 = $c->session;
		my $difference;
		# the handshake comes before, and the second begins somewhere in between
		my @bytes = map { 500 + int rand $place->[1] } 1 .. 2;

		warm_up($q);
		$p[0]->cut($bytes[0]);
		$p[1]->cut($bytes[1], on => 'each');
		$difference = LogqFaults::difference($q, $right,
			$s2->query(LogqFaults::on_table($q, 'logq.logs')));
		push @wrong, "@bytes bytes: $difference" if $difference ne '';
		$cuts++ if LogqFaults::last_query($s2)->{retried} >= 2;
		$s2->quit;
		restore();
	}
	is(join("\n", @wrong), '', "$name: two servers fail in one scan ($cuts times)");
}

# all servers of a partition fail in the midst of it
{
	my $s2 = $c->session;

	# without a connection to a replica, which would be left
	$s2->query("SET logq.read_from = 'primary'");
	LogqFaults::same($s2, LogqFaults::query('desc'), 'before all fail');
	$s2->query('RESET logq.read_from');
	$proxies{p1}[0]->cut(10_000, on => 'now');
	$_->refuse foreach @{ $proxies{p1} };
	my $answer = $s2->query(LogqFaults::on_table(LogqFaults::query('desc'), 'logq.logs'));
	like($answer, qr/ERROR:\s+08\w{3}: .*"p1"/, 'all of its servers fail: an error that names the partition');
	like($answer, qr/DETAIL:(?s:.*)\Q@{[ LogqFaults::address($_) ]}\E/, 'and the server')
	  foreach @{ $proxies{p1} };
	restore();
	LogqFaults::assert_clean($c, 'all have failed', $s2);
	$s2->quit;
}

# ---------- stalled in the midst of it ----------

$s->query("SET logq.partition_timeout = '700ms'");
$s->query('SET logq.enable_hedging = off');
foreach my $name (qw(desc unordered aggregate cursor))
{
	my $q = LogqFaults::query($name);
	my $right = LogqFaults::right($s, $q);
	my ($place) = grep { $_->[0] eq 'row of COPY 2' } places_of($q, $proxies{p1}[0]);
	my ($start, $answer);

	warm_up($q);
	$proxies{p1}[0]->stall($place->[1], on => 'now', both => 1);
	$start = time;
	$answer = $s->query(LogqFaults::on_table($q, 'logq.logs'));
	is(LogqFaults::difference($q, $right, $answer), '', "$name: right, although a server hangs");
	cmp_ok(time - $start, '<', 0.7 + $LogqFaults::at_once, "$name: once its time is over");
	cmp_ok(LogqFaults::last_query($s)->{retried}, '>', 0, "$name: another one was asked");
	restore();
}
$s->query('RESET logq.enable_hedging');
LogqFaults::assert_clean($c, 'servers that hang', $s);

# ---------- a partition without replicas ----------

{
	my $proxy = $proxies{p3}[0];

	foreach my $name (qw(desc asc cursor limit_here))
	{
		my $q = LogqFaults::query($name);
		# one whose LIMIT is reached may be over before the second one begins
		my ($place) = sort { $b->[0] cmp $a->[0] }
		  grep { $_->[0] =~ /^row of COPY [12]$/ } places_of($q, $proxy);
		my ($cut, $answer) = cut_once($q, $proxy, $place->[1]);

		ok(($cut || $name eq 'limit_here') && LogqFaults::difference($q, LogqFaults::right($s, $q), $answer) eq '',
			"$name: without replicas the same server is asked again")
		  or diag($answer);
	}
	foreach my $name (qw(unordered aggregate))
	{
		my $q = LogqFaults::query($name);
		my ($place) = grep { $_->[0] eq 'row of COPY 2' } places_of($q, $proxy);
		my ($cut, $answer) = cut_once($q, $proxy, $place->[1]);

		like($answer, qr/ERROR:\s+(?:08|57P)\w+: .*"p3"/,
			"$name: without an order, an error that names the partition");
	}
	restore();
	LogqFaults::assert_clean($c, 'without replicas', $s);
}

# ---------- servers that are killed ----------

$c->route($_) foreach $c->names;
$s->query("SET logq.partition_timeout = '1s'");

my $locker = $c->session;
my @big = qw(big_desc big_asc big_unordered);

# A query on the big day, during which something happens after some thousand
# rows
sub interrupted
{
	my ($q, $code, $after) = @_;
	my $read_from = $s->query('SHOW logq.read_from');
	my $answer;

	# those are read that something happens to, and nobody else
	LogqFaults::ask_primaries($s, LogqFaults::query('few'));
	$s->query("SET logq.read_from = '$read_from'; SET logq.enable_hedging = off");
	$locker->query('SELECT pg_advisory_lock(4711)');
	$s->send(LogqFaults::on_table($q, 'logq.logs', $after // 4000));
	LogqTest::poll(sub {
		$s->{run}->pump_nb;
		return $c->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") > 0;
	}) or die 'the query does not get to where it waits';
	$code->();
	$locker->query('SELECT pg_advisory_unlock(4711)');
	$answer = $s->wait(60) // 'no answer';
	# last_query() is still of that query
	$s->query('RESET logq.enable_hedging');
	return $answer;
}

my %faults = (
	'a backend is terminated' => [
		sub { $c->on('p1', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'logq'"); },
		sub { } ],
	'a backend is killed' => [
		sub {
			my $pid = $c->on('p1', "SELECT pid FROM pg_stat_activity WHERE usename = 'logq' AND state = 'active' LIMIT 1");

			kill 'KILL', $pid if $pid;
		},
		sub {
			LogqTest::poll(sub { return $c->part('p1')->psql('logs', 'SELECT 1') == 0; })
			  or die 'p1 does not recover';
		} ],
	'the primary is killed' => [
		sub { kill_postmaster($c->part('p1')); },
		sub { start_server($c->part('p1')); } ],
	'the primary is stopped' => [
		sub { $c->part('p1')->stop('immediate'); },
		sub { start_server($c->part('p1')); } ],
	'the primary hangs' => [
		sub { freeze($c->part('p1')); },
		sub { thaw($c->part('p1')); } ],
	'two primaries are killed' => [
		sub { kill_postmaster($c->part($_)) foreach 'p1', 'p2'; },
		sub { start_server($c->part($_)) foreach 'p1', 'p2'; } ],
	'the primary is killed, and a replica hangs' => [
		sub { kill_postmaster($c->part('p1')); freeze($c->replica('p1', 1)); },
		sub { thaw($c->replica('p1', 1)); start_server($c->part('p1')); } ]);

my $n = 0;

foreach my $what (sort keys %faults)
{
	my ($break, $repair) = @{ $faults{$what} };

	# all kinds of scans for what is most likely, one for the others
	foreach my $name ($what =~ /^the primary (?:is killed|hangs)$/ ? @big : $big[ $n++ % 3 ])
	{
		my $q = LogqFaults::query($name);
		my $right = $s->{right}{$name} //=
		  $s->query(LogqFaults::on_table($q, 'local_logs'));
		my $start = time;
		my $answer = interrupted($q, $break);

		is($answer, $right, "$what: $name");
		cmp_ok(LogqFaults::last_query($s)->{retried}, '>', 0, "$what: $name: asked again")
		  if $what !~ /backend is killed/;
		# those after it
		$start = time;
		LogqFaults::same($s, LogqFaults::query('limit'), "$what: the next query")
		  for 1 .. 5;
		cmp_ok(time - $start, '<', 2 + $LogqFaults::at_once, "$what: and four more have taken no long time");
		$repair->();
		foreach my $node ($c->part('p1'), $c->replicas('p1'), $c->part('p2'))
		{
			LogqFaults::wait_for_breaker($c, $node, 'closed')
			  or die "$what: the breaker of " . $node->name . ' stays open';
		}
	}
	$c->wait_for_catchup_all;
	LogqFaults::assert_clean($c, $what, $s);
}

# a replica in the midst of it
{
	my $q = LogqFaults::query('big_desc');
	my $answer;

	# p3 has none, and is read all the same
	$s->query("SET logq.read_from = 'replica'");
	$answer = interrupted($q, sub { kill_postmaster($c->replica('p1', 1)); });
	is($answer, $s->query(LogqFaults::on_table($q, 'local_logs')), 'a replica is killed');
	start_server($c->replica('p1', 1));
	$s->query('RESET logq.read_from');
	LogqFaults::wait_for_breaker($c, $c->replica('p1', 1), 'closed');
	LogqFaults::assert_clean($c, 'a replica is killed', $s);
}

# what is no failure of a server is no reason to ask another one
{
	my $answer = $s->query("SELECT count(*) FROM logq.logs WHERE length(message) / (id - id) = 1");

	like($answer, qr/ERROR:\s+22012: /, 'an error is an error');
	is(LogqFaults::last_query($s)->{retried}, 0, 'and not tried again');
	is(join(' ', map { $_->{breaker} } values %{ LogqFaults::servers($c, 'p1') }),
		'closed closed closed closed', 'no breaker opens');
}

$_->quit foreach $s, $locker;
done_testing();
