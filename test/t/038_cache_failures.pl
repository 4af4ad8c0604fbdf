# Failures while some of the segments that a query reads are in the cache and
# others are asked for: connections that are cut wherever they can be, catalogs
# that turn out to have moved on after cached rows were handed out, segments that
# go.
#
# p1 has a replica, p2 has none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProxy;
use LogqRows qw(chance pick);
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{LOGQ_SEED} // int(time) % 1000000;

diag("seed $seed: LOGQ_SEED=$seed repeats this run");
srand $seed;

my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 1 },
	coordinator_conf => ['logq.cache_min_cost = 0'],
	conf => ['wal_retrieve_retry_interval = 100ms']);

LogqFaults::load($c, small => 900);
is($c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-02')"), 6, 'all segments are sealed');
$c->sql('SELECT logq.refresh_catalog()');
$c->wait_for_catchup_all;

my ($p1, $p1r, $p2) = map { LogqProxy->new(node => $_) }
  $c->part('p1'), $c->replica('p1'), $c->part('p2');

$c->route('p1', $p1, [$p1r]);
$c->route('p2', $p2, []);

sub restore
{
	$_->clear, $_->delay(0) foreach $p1, $p1r, $p2;
	foreach my $proxy ($p1, $p1r, $p2)
	{
		LogqFaults::wait_for_breaker($c, $proxy, 'closed') or die 'a breaker stays open';
	}
	return;
}

# ---------- cut wherever there is something to cut ----------

my $all = "ts >= '2024-06-01' AND ts < '2024-06-02'";
my @hours = map { "ts >= '2024-06-01 0$_:00' AND ts < '2024-06-01 0" . ($_ + 1) . ":00'" } 0 .. 2;
my $groups = "SELECT service, count(*), sum(length(message)), max(trace_id) FROM \@T\@ WHERE $all GROUP BY 1 ORDER BY 1";
my %query = (
	(map { $_ => LogqFaults::query($_) } qw(desc asc unordered aggregate cursor unordered_cursor limit)),
	groups => LogqFaults::query('groups', $groups, 1),
	large_limit => LogqFaults::query('large limit', "SELECT ts, id, message FROM \@T\@ WHERE $all ORDER BY ts, id LIMIT 1500", 1));

# Of these hours what the query asks for is cached, all of it or the first rows
sub warm_up
{
	my ($s, $q, $hours, $beginnings) = @_;

	$s->query('SELECT logq.cache_clear()');
	foreach my $i (@$hours)
	{
		my $sql = LogqFaults::on_table($q, 'logq.logs') =~ s/\Q$all\E/$hours[$i]/gr;

			$sql =~ s/(ORDER BY ts( DESC)?, id( DESC)?)( LIMIT \d+)?/$1 LIMIT 200/ if $beginnings;
		$s->query($sql);
	}
	return;
}

my %cached;
my $cuts = 0;
my @wrong;

foreach my $name (sort keys %query)
{
	my $q = $query{$name};
	my $sql = LogqFaults::on_table($q, 'logq.logs');
	my $ordered = $sql =~ /ORDER BY ts/;
	# what is left of rows in no order, only the server can tell that gave them
	my $may_fail = !$ordered && $name ne 'groups';

	foreach my $hours ([0], [1], [ 0, 2 ])
	{
		# whoever needs all of a segment does not take its beginning
		my $beginnings = $ordered && @$hours == 1 && $hours->[0] == 1 && chance(0.5);
		my $what = "$name, " . ($beginnings ? 'beginnings of ' : '') . join(',', @$hours);

		foreach my $proxy ($p1, $p2)
		{
			my $s = $c->session;
			my $right = LogqFaults::right($s, $q);
			my @places;

			# the primary is asked first
			$s->query("SET logq.read_from = 'primary'") if $proxy == $p1;
			warm_up($s, $q, $hours, $beginnings);
			@places = LogqFaults::places($proxy, sub {
				my $difference = LogqFaults::difference($q, $right, $s->query($sql));

				push @wrong, "$what: $difference" if $difference ne '';
				$cached{$name} += LogqFaults::last_query($s)->{cached};
			});
			@places = @places[ sort { $a <=> $b } map { int rand @places } 1 .. 4 ] if @places > 4;
			foreach my $place (@places)
			{
				my ($at, $bytes) = @$place;
				my $difference;

				warm_up($s, $q, $hours, $beginnings);
				next unless eval { $proxy->cut($bytes, on => 'now', how => pick('fin', 'rst')); 1 };
				$difference = LogqFaults::difference($q, $right, $s->query($sql));
				push @wrong, "$what, cut at $at: $difference"
				  if $difference ne '' && !($proxy == $p2 && $may_fail && $difference =~ /^error:/);
				$cuts++ if $difference ne '' || LogqFaults::last_query($s)->{retried} > 0;
				$proxy->clear;
				# what was stored meanwhile is right
				$difference = LogqFaults::difference($q, $right, $s->query($sql));
				push @wrong, "$what, after a cut at $at: $difference" if $difference ne '';
			}
			$s->quit;
			restore();
		}
	}
	# with a small limit, hardly any segment comes to its end
	cmp_ok($cached{$name}, '>', 1, "$name: $cached{$name} segments were from the cache") if $name ne 'limit';
}
is(join("\n", @wrong[ 0 .. ($#wrong < 9 ? $#wrong : 9) ]), '', 'cut between segments that are cached and others');
cmp_ok($cuts, '>', 100, "$cuts times it was asked again");

# ---------- the rest of a beginning ----------

# From a segment whose first rows are cached, a query that goes on after a
# failure in the one before it needs all of it.
foreach ([ 'p1', $p1 ], [ 'p2', $p2 ])
{
	my ($name, $proxy) = @$_;
	# all rows are of this partition, so it comes to the end of its share of a limit
	my $q = LogqFaults::query('rest', "SELECT ts, id, message FROM \@T\@ WHERE $all AND left(message, 2) = '$name' ORDER BY ts, id", 1);
	my $sql = LogqFaults::on_table($q, 'logq.logs');
	my $s = $c->session;
	my @places;

	$s->query("SET logq.read_from = 'primary'");
	warm_up($s, $q, [1], 1);
	$s->query($sql =~ s/\Q$all\E/$hours[1]/r . ' LIMIT 100');
	cmp_ok(LogqFaults::last_query($s)->{cached}, '>', 0, "a beginning of $name is cached");
	@places = grep { $_->[0] =~ /^row/ } LogqFaults::places($proxy, sub { $s->query($sql); });
	warm_up($s, $q, [1], 1);
	$proxy->cut($places[0][1] + 4000, on => 'now', how => 'fin');
	LogqFaults::same($s, $q, 'after a failure in the segment before a beginning');
	cmp_ok(LogqFaults::last_query($s)->{retried}, '>', 0, 'it was asked again');
	$s->quit;
	restore();
}

# ---------- the catalog has moved on ----------

# With a LIMIT, rows of the first segments are handed out from the cache by a copy
# of the catalog that was true a moment ago, and nobody is asked.
{
	my $s = $c->session;
	my $writer = $c->session(node => $c->part('p2'));
	my $sql = "SELECT ts, id, message FROM \@T\@ WHERE $all ORDER BY ts, id";
	my ($limited, $local) = ("$sql LIMIT 100000" =~ s/\@T\@/logq.logs/r, $sql =~ s/\@T\@/local_logs/r);
	my ($first, $rest, @ts);
	# one that the cursor has passed, one in what is cached, one where it will be asked
	my $write = "INSERT INTO logq_store.log (ts, level, message) VALUES ('2024-06-01 00:00:01+00', 'INFO', 'late 0'),"
	  . " ('2024-06-01 01:30:00.5+00', 'INFO', 'late 1'), ('2024-06-01 02:30:00.5+00', 'INFO', 'late 2')";

	$s->query("SET logq.catalog_max_age = '1d'");
	warm_up($s, LogqFaults::query('x', $sql, 1), [ 0, 1 ], 0);
	$s->query("BEGIN; DECLARE c CURSOR FOR $limited");
	$first = $s->query('FETCH 100 FROM c');
	is(LogqFaults::last_query($s)->{partitions_asked}, 0, 'the first rows come without asking');
	$writer->query($write);
	$rest = $s->query('FETCH ALL FROM c');
	$s->query('COMMIT');
	@ts = map { (split /\|/)[0] } split /\n/, "$first\n$rest";
	is(join(',', grep { $ts[$_] lt $ts[ $_ - 1 ] } 1 .. $#ts), '', 'rows are in order');
	is(scalar(() = "$first\n$rest" =~ /late 2/g), 1, 'a row that was written meanwhile comes where it is asked for');
	unlike("$first\n$rest", qr/late 0/, 'not where the cursor has been');
	is(join("\n", grep { !/late/ } split /\n/, "$first\n$rest"), $s->query($local), 'all others come, once each');
	is(scalar(() = $s->query($sql =~ s/\@T\@/logq.logs/r) =~ /late \d/g), 3, 'the next query has it all');
	$c->on('p2', "DELETE FROM logq_store.log WHERE message LIKE 'late%'");
	is($s->query($limited), $s->query($local), 'and what was deleted is gone');
	$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-02'); SELECT logq.refresh_catalog()");
	is($s->query($limited), $s->query($local), 'also when it is sealed again');

	# Without one, whoever must be asked is asked before any row of it is used
	foreach my $order ('ORDER BY ts, id', 'ORDER BY ts DESC, id DESC', '')
	{
		my $q = LogqFaults::query('x', $sql =~ s/ORDER BY.*/$order/r, $order ne '');
		my $answer;

		LogqTest::poll(sub { return $s->query($limited) eq $s->query($local); }, 10);
		warm_up($s, $q, [ 0, 1 ], 0);
		$writer->query($write);
		$answer = $s->query(LogqFaults::on_table($q, 'logq.logs'));
		is(scalar(() = $answer =~ /late \d/g), 3, 'without a LIMIT the answer is exact, however old the copy: ' . ($order || 'no order'));
		$c->on('p2', "DELETE FROM logq_store.log WHERE message LIKE 'late%'");
		$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-02'); SELECT logq.refresh_catalog()");
	}
	$_->quit foreach $s, $writer;
}

# ---------- a segment goes ----------

# ... between the look at the catalog and its own turn, others beside it cached
foreach my $name ('unordered', 'asc', 'desc', 'groups', 'large_limit')
{
	my $q = $query{$name};
	my $s = $c->session;
	my $dropper = $c->session(node => $c->part('p2'));
	my $lower = { unordered => '00', asc => '01', desc => '01', groups => '00', large_limit => '02' }->{$name};
	my $at = '2024-06-0' . 1 . " $lower:00+00";
	my $segment = $c->on('p2', "SELECT name FROM logq_store.segment WHERE lower = '$at'");
	my $others = [ grep { $_ != $lower } 0 .. 2 ];
	my ($answer, $right);

	# another one for each turn
	warm_up($s, $q, $others, 0);
	$dropper->query("BEGIN; SELECT logq_store.drop_segment('$segment')");
	$s->send(LogqFaults::on_table($q, 'logq.logs'));
	ok($dropper->blocks('logq'), "$name: a segment is waited for");
	$dropper->query('COMMIT');
	$answer = $s->wait(60);
	$c->sql("DELETE FROM local_logs WHERE partition = 'p2' AND ts >= '$at' AND ts < '$at'::timestamptz + interval '1 hour'");
	LogqFaults::forget_right();
	$right = LogqFaults::right($s, $q);
	is(LogqFaults::difference($q, $right, $answer), '', "$name: it has gone");
	is(LogqFaults::difference($q, $right, $s->query(LogqFaults::on_table($q, 'logq.logs'))), '', "$name: and stays so");
	# back again
	$c->on('p2', <<"SQL");
SELECT logq_store.make_segment('$at');
INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '$at' + i * interval '10 seconds', 'INFO', 'service-' || i % 5, 'again $name ' || i || repeat('x', i), md5(i::text), '{}'
	FROM generate_series(1, 300) i
SQL
	LogqFaults::copy_rows($c);
	LogqFaults::forget_right();
	# without asking, that may be known a moment later
	ok(LogqTest::poll(sub {
			return LogqFaults::difference($q, LogqFaults::right($s, $q), $s->query(LogqFaults::on_table($q, 'logq.logs'))) eq '';
		}, 10), "$name: it has come back");
	$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-02'); SELECT logq.refresh_catalog()");
	LogqFaults::same($s, $q, "$name: and is sealed");
	LogqFaults::same($s, $q, "$name: and cached");
	$_->quit foreach $s, $dropper;
}
LogqFaults::assert_clean($c, 'at the end', $c->session);
done_testing();
