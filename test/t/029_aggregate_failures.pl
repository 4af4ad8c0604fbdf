# Servers that are lost, or hang, while they send groups and counts: nothing of
# a segment is counted twice, and nothing is left out.
#
# p1 has a replica, p2 has none: there the same server is asked again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProcess qw(kill_postmaster start_server);
use LogqProxy;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $many = 150;		# segments of a few rows
my $many_days = "ts >= '2024-08-01' AND ts < '2024-08-08'";
my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 1 },
	# what is cached is not asked for, and cannot fail
	coordinator_conf => ['logq.cache = off'],
	conf => [ 'restart_after_crash = on', 'wal_retrieve_retry_interval = 100ms' ]);

# ---------- rows ----------

LogqFaults::load($c, small => 3000, big => 8000);
foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment(timestamptz '2024-08-01 00:00+00' + h * interval '1 hour')
FROM generate_series(0, $many - 1) h;
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2024-08-01 00:00+00' + i * interval '20 minutes',
		CASE i % 5 WHEN 0 THEN 'ERROR' ELSE 'INFO' END, 'service-' || i % 7, '$name ' || i
	FROM generate_series(0, $many * 3 - 1) i;
SELECT logq_store.make_segment('2024-09-01 00:00+00');
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2024-09-01 00:00+00' + i * interval '1 minute', 'INFO', 'large',
		'$name ' || i || repeat(' all the same words', 80000)
	FROM generate_series(0, 2) i;
SQL
}
LogqFaults::copy_rows($c);
# two of the three small segments, and the first of the many
is($c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01 02:00+00')"), 4, 'some segments are sealed');
is($c->sql("SELECT count(*) FROM unnest(ARRAY['p1', 'p2']) p, LATERAL logq.seal(p::name, 'log_20240801_000000', '2025-01-01')"), 2, 'and one of the many');
$c->wait_for_catchup_all;
$c->sql('SELECT logq.refresh_catalog()');

my ($p1, $p1r, $p2) = map { LogqProxy->new(node => $_) }
  $c->part('p1'), $c->replica('p1'), $c->part('p2');
my $s = $c->session;

$c->route('p1', $p1, [$p1r]);
$c->route('p2', $p2, []);
$s->query("SET timezone = 'Asia/Kolkata'");
$s->query("SET logq.connect_timeout = '2s'");
$s->query("SET logq.partition_timeout = '2s'");

# All is well again
sub restore
{
	$_->clear foreach $p1, $p1r, $p2;
	foreach my $proxy ($p1, $p1r, $p2)
	{
		LogqFaults::wait_for_breaker($c, $proxy, 'closed') or die 'a breaker stays open';
	}
	return;
}

# ---------- queries ----------

my $small = "ts >= '2024-06-01' AND ts < '2024-06-02'";
my $ragged = "ts >= '2024-06-01 00:10:30+00' AND ts < '2024-06-01 02:20:15+00'";

# What EXPLAIN must say of it, and the query
my %queries = (
	'rows' => [ qr/Remote SQL: SELECT .*GROUP BY/,
		"SELECT service, level, count(*), sum(length(message)), avg(id), min(ts), max(message) FROM \@T\@ WHERE $small GROUP BY 1, 2" ],
	'rows of many' => [ qr/Remote SQL: SELECT .*GROUP BY/,
		"SELECT level, count(*), min(id), max(message) FROM \@T\@ WHERE $many_days GROUP BY 1" ],
	'one group' => [ qr/Remote SQL: SELECT/,
		"SELECT count(*), count(DISTINCT service), sum(id), avg(length(message)) FROM \@T\@ WHERE $small" ],
	'rollup by level' => [ qr/Rollup SQL: .*rollup_level/,
		"SELECT date_trunc('minute', ts), level, count(*) FROM \@T\@ WHERE $small GROUP BY 1, 2" ],
	'rollup by service' => [ qr/Rollup SQL: .*rollup_service/,
		"SELECT date_bin('1 minute', ts, '2000-01-01'), service, count(*) FROM \@T\@ WHERE $small AND level <> 'WARN' GROUP BY 1, 2" ],
	'ragged ends' => [ qr/Rollup SQL: .*rollup_level/,
		"SELECT level, count(*) FROM \@T\@ WHERE $ragged GROUP BY 1" ],
	'counts of many' => [ qr/Counted: 2 by catalog, 298 by rows/,
		"SELECT level, service, count(*) FROM \@T\@ WHERE $many_days GROUP BY 1, 2" ],
	'distinct' => [ qr/Remote SQL: SELECT .*GROUP BY/,
		"SELECT DISTINCT service, length(message) FROM \@T\@ WHERE $small" ]);
my @names = sort keys %queries;

# As those of LogqFaults
sub query { return LogqFaults::query($_[0], $queries{ $_[0] }[1], 0); }

# Groups that are many, or large, in a digest; the second word of what it gives
# depends on no order
sub digest
{
	my ($sql) = @_;

	return LogqFaults::query('digest', "SELECT digest(\$q\$$sql\$q\$, false)", 1);
}
my %digests = (
	# of 1.4 MB from each segment
	'many groups' => "SELECT concat_ws('|', message, count(*), max(id)) AS row FROM \@T\@ WHERE ts >= '2024-07-01' AND ts < '2024-07-02' GROUP BY message",
	'large groups' => "SELECT concat_ws('|', md5(message), count(*)) AS row FROM \@T\@ WHERE ts >= '2024-09-01' GROUP BY message",
	'large values' => "SELECT concat_ws('|', service, md5(max(message)), md5(min(message)), count(*)) AS row FROM \@T\@ WHERE ts >= '2024-07-01' GROUP BY service");

foreach my $name (@names)
{
	my $plan = $s->query('EXPLAIN (VERBOSE) ' . LogqFaults::on_table(query($name), 'logq.logs'));

	like($plan, $queries{$name}[0], "$name: this is what it is about");
	LogqFaults::same($s, query($name), "$name: right while all is well");
	is(LogqFaults::last_query($s)->{retried}, 0, "$name: nothing is asked twice");
}
foreach my $name (sort keys %digests)
{
	like($s->query('EXPLAIN (VERBOSE) ' . $digests{$name} =~ s/\@T\@/logq.logs/gr), qr/Remote SQL: .*GROUP BY/, "$name: grouped by the partitions");
	LogqFaults::same($s, digest($digests{$name}), "$name: right while all is well");
}

# ---------- cut at chosen places ----------

# A query on the primaries opens connections, and leaves them idle
sub warm_up
{
	my ($s2) = @_;

	LogqFaults::ask_primaries($s2, LogqFaults::query('few'));
	return;
}

sub places_of
{
	my ($q, $proxy) = @_;

	warm_up($s);
	$s->query("SET logq.read_from = 'primary'");
	my @places = LogqFaults::places($proxy, sub { $s->query(LogqFaults::on_table($q, 'logq.logs')); });
	$s->query("RESET logq.read_from");
	return @places;
}

# A query while an open connection is cut, or stalled, after so many bytes: its
# answer, or undef when there was nothing to cut
sub disturbed
{
	my ($q, $proxy, $bytes, %opt) = @_;
	my $fault = $opt{fault} // 'cut';

	warm_up($s);
	return undef if !eval { $proxy->$fault($bytes, on => 'now', %{ $opt{options} // {} }); 1 };
	return $s->query(LogqFaults::on_table($q, 'logq.logs'));
}

srand 29;
# so that primaries are read, and nobody else is asked before they fail
$p1r->delay(8);
$s->query('SET logq.enable_hedging = off');
foreach my $name (@names)
{
	my $q = query($name);
	my $right = LogqFaults::right($s, $q);

	foreach my $proxy ($p1, $p2)
	{
		my $what = "$name: " . ($proxy == $p1 ? 'p1' : 'p2');
		my @all = places_of($q, $proxy);
		my ($copies) = @all ? $all[-1][0] =~ /(\d+)$/ : 0;
		# the first and the last one, and some of those between
		my @places = grep { $_->[0] =~ /COPY (?:1|$copies)$/ || rand() < 12 / @all } @all;
		my ($cuts, $again) = (0, 0);
		my @wrong;

		cmp_ok($copies, '>', 128, "$what: more than one request") if $name =~ /many/;
		foreach my $place (@places)
		{
			my ($where, $bytes, $must) = @$place;
			my $how = rand() < 0.5 ? 'rst' : 'fin';
			my $fired = $proxy->status->{fired};
			my $answer = disturbed($q, $proxy, $bytes, options => { how => $how });
			my $difference = defined $answer ? LogqFaults::difference($q, $right, $answer) : 'no connection to cut';
			my $retried = LogqFaults::last_query($s)->{retried};

			push @wrong, "$where ($how): $difference" if $difference ne '';
			if ($proxy->status->{fired} > $fired)
			{
				$cuts++;
				$again++ if $retried > 0;
				push @wrong, "$where ($how): last_query() knows of no retry"
				  if $must && $retried == 0;
			}
			$proxy->clear;
		}
		is(join("\n", @wrong), '', "$what: cut at " . @places . " places");
		cmp_ok($cuts, '>=', @places * 0.7, "$what: $cuts times it was, $again asked again");
	}
	$p1r->delay(8);
	LogqFaults::assert_clean($c, "$name, after cuts", $s);
}

# groups that went to a file
foreach my $name (sort keys %digests)
{
	my $q = digest($digests{$name});
	my $right = LogqFaults::right($s, $q);

	foreach my $proxy ($p1, $p2)
	{
		my $what = "$name: " . ($proxy == $p1 ? 'p1' : 'p2');
		my @places = grep { $_->[0] =~ /row|trailer|done|complete/ } places_of($q, $proxy);
		my @wrong;
		my $again = 0;

		@places = grep { rand() < 8 / @places } @places;
		foreach my $place (@places)
		{
			my $answer = disturbed($q, $proxy, $place->[1]) // 'no connection to cut';
			my $difference = LogqFaults::difference($q, $right, $answer);

			push @wrong, "$place->[0]: $difference" if $difference ne '';
			$again++ if LogqFaults::last_query($s)->{retried} > 0;
			$proxy->clear;
		}
		is(join("\n", @wrong), '', "$what: cut at " . @places . " places");
		cmp_ok($again, '>', 0, "$what: $again times it was asked again");
		$p1r->delay(8);
	}
}
restore();
LogqFaults::assert_clean($c, 'large groups', $s);

# ---------- at any place, with second requests ----------

$s->query('RESET logq.enable_hedging');
$s->query("SET logq.hedge_min_delay = '1ms'");
{
	my @wrong;

	foreach my $i (1 .. 40)
	{
		my $q = query($names[ int rand @names ]);
		my $proxy = rand() < 0.5 ? $p1 : $p2;
		my $answer = disturbed($q, $proxy, int exp rand 10);
		my $difference = defined $answer
		  ? LogqFaults::difference($q, LogqFaults::right($s, $q), $answer) : '';

		push @wrong, "$q->{name}: $difference" if $difference ne '';
		$proxy->clear;
	}
	is(join("\n", @wrong), '', 'cut anywhere, with second requests');
}
$s->query("RESET logq.hedge_min_delay");
restore();

# ---------- two failures in one scan ----------

$s->query('SET logq.enable_hedging = off');
foreach my $name ('rows', 'rows of many', 'ragged ends')
{
	my $q = query($name);
	my $right = LogqFaults::right($s, $q);
	my @wrong;

	foreach my $proxy ($p1, $p2)
	{
		my %at = map { $_->[0] => $_->[1] } places_of($q, $proxy);

		# in the first one, then in another: there was progress in between.  A
		# second connection has some bytes of its own before all.
		foreach my $bytes (map { 700 + int rand $at{'header of COPY 2'} } 1 .. 4)
		{
			my ($answer, $difference);

			warm_up($s);
			$proxy->cut($at{'header of COPY 2'}, on => 'now');
			($proxy == $p1 ? $p1r : $p2)->cut($bytes, on => 'next');
			$answer = $s->query(LogqFaults::on_table($q, 'logq.logs'));
			$difference = LogqFaults::difference($q, $right, $answer);
			# nothing has come between the two: there is nobody left to ask
			$difference = ''
			  if $proxy == $p2 && $answer =~ /^ERROR:\s+08\w{3}: .*"p2"/ && $answer !~ /^\S+\|/m;
			push @wrong, "$bytes bytes: $difference" if $difference ne '';
			restore();
		}
	}
	is(join("\n", @wrong), '', "$name: two servers fail in one scan");
}

# what has come counts as progress, even without another server
{
	my $q = query('rows of many');
	my %at = map { $_->[0] => $_->[1] } places_of($q, $p2);

	warm_up($s);
	$p2->cut($at{'row of COPY 20'}, on => 'now');
	$p2->cut($at{'row of COPY 40'}, on => 'next');
	is(LogqFaults::difference($q, LogqFaults::right($s, $q), $s->query(LogqFaults::on_table($q, 'logq.logs'))),
		'', 'a single server, lost twice with groups in between');
	cmp_ok(LogqFaults::last_query($s)->{retried}, '>=', 2, 'twice');
	restore();
}

# all servers of a partition
{
	my $q = query('rollup by level');
	my $answer;

	warm_up($s);
	$p1->cut(300, on => 'now');
	$p1r->close_all;
	$_->refuse foreach $p1, $p1r;
	$answer = $s->query(LogqFaults::on_table($q, 'logq.logs'));
	like($answer, qr/ERROR:\s+08\w{3}: .*"p1"/, 'all of its servers fail: an error that names the partition');
	unlike($answer, qr{^\d{4}-}m, 'and no group');
	restore();
	LogqFaults::assert_clean($c, 'all have failed', $s);
}

# ---------- stalled in the midst of it ----------

foreach my $name ('rows', 'rollup by service', 'ragged ends', 'rows of many')
{
	my $q = query($name);
	my $right = LogqFaults::right($s, $q);
	my @places = places_of($q, $p1);
	my ($place) = grep { $_->[0] =~ /^row of COPY 2$/ } @places;
	my $start;

	$place //= (grep { $_->[0] =~ /^row/ } @places)[-1];
	warm_up($s);
	$p1->stall($place->[1], on => 'now', both => 1);
	$s->query("SET logq.partition_timeout = '700ms'");
	$start = time;
	is(LogqFaults::difference($q, $right, $s->query(LogqFaults::on_table($q, 'logq.logs'))), '',
		"$name: right, although a server hangs");
	cmp_ok(time - $start, '<', 0.7 + $LogqFaults::at_once, "$name: once its time is over");
	cmp_ok(LogqFaults::last_query($s)->{retried}, '>', 0, "$name: another one was asked");
	$s->query("SET logq.partition_timeout = '2s'");
	restore();

	# the only one
	warm_up($s);
	$p2->stall($place->[1], on => 'now', both => 1);
	$s->query("SET logq.partition_timeout = '700ms'");
	$start = time;
	like($s->query(LogqFaults::on_table($q, 'logq.logs')), qr/^ERROR:\s+08\w{3}: .*"p2"/,
		"$name: an error when there is no other");
	cmp_ok(time - $start, '<', 0.7 + $LogqFaults::at_once, "$name: in time");
	$s->query("SET logq.partition_timeout = '2s'");
	restore();
}
LogqFaults::assert_clean($c, 'servers that hang', $s);

# ---------- sealed again, in between ----------

# The rest is asked once more, when a segment has so many services that their
# rollup is not kept any more.  Those of the rows that there were from the
# beginning are counted all the same.
{
	my $q = query('rollup by service');
	my $late = "ts >= '2024-06-01' AND service NOT LIKE 'late-%' AND ts";
	my $without = LogqFaults::query('without', $q->{sql} =~ s/ts(?= >=)/$late/r, 0);
	my $right = LogqFaults::right($s, $q);
	my $sealer = $c->session;
	my $proxy = $p2;
	my ($answer, @lines);
	my ($place) = grep { $_->[0] eq 'row of COPY 1' } places_of($q, $proxy);

	is($c->on('p2', "SELECT string_agg(name || ' ' || (service_rollup > 0), ', ' ORDER BY 1) FROM logq_store.segment WHERE lower >= '2024-06-01' AND upper <= '2024-06-01 02:00+00'"),
		'log_20240601_000000 true, log_20240601_010000 true', 'rollups by service are kept');
	warm_up($s);
	$proxy->stall($place->[1], on => 'now');
	$s->query("SET logq.partition_timeout = '60s'");
	$s->send(LogqFaults::on_table($q, 'logq.logs'));
	LogqTest::poll_ok(sub {
		$s->{run}->pump_nb;
		return grep { ($_->{fired} // '') eq 'stall' && $_->{open} } $proxy->connections;
	}, 'a query is under way');
	$c->on('p2', "INSERT INTO logq_store.log (ts, level, service, message) SELECT '2024-06-01 00:30:01+00', 'INFO', 'late-' || i, 'late' FROM generate_series(1, 1500) i");
	is($sealer->query("SELECT rows FROM logq.seal('p2', 'log_20240601_000000', '2025-01-01')"), 2502, 'a segment is sealed again meanwhile');
	is($c->on('p2', "SELECT service_rollup IS NULL FROM logq_store.segment WHERE name = 'log_20240601_000000'"), 't',
		'and has no rollup by service any more');
	$proxy->close_all;
	$answer = $s->wait(60) // 'no answer';
	cmp_ok(LogqFaults::last_query($s)->{retried}, '>', 0, 'it is asked again');
	@lines = grep { !/\|late-/ } split /\n/, $answer;
	is(LogqFaults::difference($q, $right, join "\n", @lines), '', 'no row is left out');
	$proxy->clear;
	LogqFaults::forget_right();
	LogqFaults::copy_rows($c);
	LogqFaults::same($s, query($_), "$_: afterwards") foreach @names;
	$s->query("SET logq.partition_timeout = '2s'");
	$sealer->quit;
	restore();
}
$s->quit;
done_testing();
