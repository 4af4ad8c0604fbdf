# Nothing waits longer than it may, whoever does not answer; what waits can be
# cancelled; and what was asked of partitions ends with whoever asked.  Writes
# that a partition refuses are lost nowhere.
#
# p1 has a replica, which stands for a partition that is read only.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProcess qw(freeze freeze_processes thaw thaw_all kill_postmaster start_server);
use LogqProxy;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $at_once = $LogqFaults::at_once;
my $c = LogqTest->new(
	partitions => 3,
	replicas => { p1 => 1 },
	conf => [ 'restart_after_crash = on' ],
	coordinator_conf => [ 'restart_after_crash = on' ]);

LogqFaults::load($c, small => 900, big => 30_000);
$c->wait_for_catchup_all;

my $proxy = LogqProxy->new(node => $c->part('p2'));
my $address = LogqFaults::address($proxy);
my $all = LogqFaults::query('desc');
my $others = "SELECT count(*) FROM logq.logs WHERE partition IN ('p1', 'p3')";
my $of_others = $c->sql("SELECT count(*) FROM local_logs WHERE partition IN ('p1', 'p3')");

$c->route('p2', $proxy);

# Queries are right again
sub wait_until_right
{
	my ($s, $name) = @_;
	my $sql = LogqFaults::on_table($all, 'logq.logs');
	my $right = LogqFaults::right($s, $all);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return LogqTest::poll_ok(sub { return $s->query($sql) eq $right; }, $name, 20);
}

sub settings
{
	my ($s, %settings) = @_;

	$s->query("SET logq.$_ = '$settings{$_}'") foreach sort keys %settings;
	return;
}

# ---------- who never answers ----------

# mode of the proxy => what the error says
my %modes = (
	full => qr/timeout|timed out|time/,
	blackhole => qr/timeout|timed out|time/,
	refuse => qr/refused/);

foreach my $mode (sort keys %modes)
{
	my $s = $c->session;
	my ($start, $answer);

	settings($s, connect_timeout => '1s', partition_timeout => '1s');
	LogqFaults::same($s, $all, "$mode: before");
	$proxy->$mode;
	$proxy->close_all;
	$start = time;
	$answer = $s->query(LogqFaults::on_table($all, 'logq.logs'));
	cmp_ok(time - $start, '<', 1 + $at_once, "$mode: an answer within the time");
	like($answer, qr/^ERROR:\s+08\w{3}: .*"p2"/m, "$mode: an error that names the partition");
	like($answer, $modes{$mode}, "$mode: and what it is");
	unlike($answer, qr/"p[13]"/, "$mode: and none of the others");
	$start = time;
	is($s->query($others), $of_others, "$mode: who does not ask it does not need it");
	cmp_ok(time - $start, '<', $at_once, "$mode: nor wait for it");

	# again and again: it is known by now, but never silent
	$start = time;
	foreach (1 .. 5)
	{
		like($s->query(LogqFaults::on_table($all, 'logq.logs')),
			qr/^ERROR:\s+08\w{3}: .*"p2"/m, "$mode: again");
	}
	cmp_ok(time - $start, '<', $mode eq 'refuse' ? $at_once : 5 + $at_once,
		"$mode: without waiting longer");
	$proxy->clear;
	wait_until_right($s, "$mode: it is back");
	LogqFaults::assert_clean($c, $mode, $s);
	$s->quit;
}

# one that hangs as a whole
{
	my $s = $c->session;
	my ($start, $answer);

	$c->route('p2');
	settings($s, connect_timeout => '1s', partition_timeout => '1s');
	LogqFaults::same($s, $all, 'SIGSTOP: before');
	freeze($c->part('p2'));
	$start = time;
	$answer = $s->query(LogqFaults::on_table($all, 'logq.logs'));
	cmp_ok(time - $start, '<', 2 + $at_once, 'SIGSTOP: an answer within the time');
	like($answer, qr/^ERROR:\s+08\w{3}: .*"p2"/m, 'SIGSTOP: an error that names the partition');
	is($s->query($others), $of_others, 'SIGSTOP: the others are there');
	thaw($c->part('p2'));
	wait_until_right($s, 'SIGSTOP: it goes on');
	LogqFaults::assert_clean($c, 'SIGSTOP', $s);
	$s->quit;
	$c->route('p2', $proxy);
}

# ---------- the first byte, and no progress ----------

{
	my $s = $c->session;
	my $locker = $c->session(node => $c->part('p2'));
	my ($start, $answer);

	settings($s, partition_timeout => '1s', connect_timeout => '1s');
	LogqFaults::same($s, $all, 'first byte: before');
	$locker->query('BEGIN');
	$locker->query('LOCK TABLE logq_store.log_20240601_010000 IN ACCESS EXCLUSIVE MODE');
	$start = time;
	$answer = $s->query(LogqFaults::on_table($all, 'logq.logs'));
	cmp_ok(time - $start, '<', 2 + $at_once, 'first byte: an error within the time');
	cmp_ok(time - $start, '>', 0.9, 'first byte: not before');
	like($answer, qr/^ERROR:\s+\w{5}: .*"p2"/m, 'first byte: it names the partition');
	$c->quiet('first byte: nobody waits there any more');

	settings($s, partition_timeout => '0');
	$s->send(LogqFaults::on_table($all, 'logq.logs'));
	is($s->wait(1.6), undef, 'first byte: without a timeout it waits');
	$locker->query('ROLLBACK');
	is(LogqFaults::difference($all, LogqFaults::right($s, $all), $s->wait(20) // 'no answer'),
		'', 'first byte: and is right');
	$locker->quit;
	LogqFaults::assert_clean($c, 'first byte', $s);
	$s->quit;
}

foreach my $name (qw(desc unordered aggregate cursor))
{
	my $q = LogqFaults::query($name);
	my $s = $c->session;
	my ($start, $answer);

	settings($s, partition_timeout => '800ms', connect_timeout => '1s');
	LogqFaults::same($s, $q, "$name: before");
	$proxy->stall(20_000, on => 'each');
	$proxy->stall(20_000, on => 'all');
	$start = time;
	$answer = $s->query(LogqFaults::on_table($q, 'logq.logs'));
	# in order it asks once more
	cmp_ok(time - $start, '<', 4 * 0.8 + $at_once, "$name: no progress: an error within the time");
	cmp_ok(time - $start, '>', 0.7, "$name: no progress: not before");
	like($answer, qr/^ERROR:\s+\w{5}: .*"p2"/m, "$name: no progress: it names the partition");
	$s->query('ROLLBACK');
	is($s->query($others), $of_others, "$name: no progress: the others are there");
	$proxy->clear;
	$proxy->close_all;
	wait_until_right($s, "$name: no progress: it goes on");
	LogqFaults::assert_clean($c, "$name: no progress", $s);
	$s->quit;
}

# without a timeout it waits, and takes up where it was
{
	my $s = $c->session;

	settings($s, partition_timeout => '0');
	LogqFaults::same($s, $all, 'no timeout: before');
	$proxy->stall(20_000, on => 'all');
	$s->send(LogqFaults::on_table($all, 'logq.logs'));
	is($s->wait(1.6), undef, 'no timeout: it waits');
	$proxy->resume;
	is(LogqFaults::difference($all, LogqFaults::right($s, $all), $s->wait(20) // 'no answer'),
		'', 'no timeout: and is right');
	$proxy->clear;
	$s->quit;
}

# the time that the reader takes is not theirs
{
	my $s = $c->session;
	my $locker = $c->session;
	my $q = LogqFaults::query('big_desc');

	settings($s, partition_timeout => '1500ms', connect_timeout => '1500ms');
	$locker->query('SELECT pg_advisory_lock(4711)');
	$s->send(LogqFaults::on_table($q, 'logq.logs', 3000));
	is($s->wait(4), undef, 'a reader that takes its time');
	$locker->query('SELECT pg_advisory_unlock(4711)');
	is($s->wait(60), LogqFaults::right($s, $q), 'gets all');
	is(LogqFaults::last_query($s)->{retried}, 0, 'of which nothing was asked twice');

	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR SELECT ts, id FROM logq.logs ORDER BY ts DESC, id DESC");
	$s->query('FETCH 1 FROM c');
	# nothing goes on meanwhile
	LogqTest::poll(sub { return 0; }, 4);
	is(scalar(my @l = split /\n/, $s->query('FETCH 500 FROM c')), 500,
		'a cursor that waits for its client');
	$s->query('COMMIT');
	LogqFaults::assert_clean($c, 'slow readers', $s);
	$_->quit foreach $s, $locker;
}

# one that is slow, but never stops, may take as long as it likes
{
	my $s = $c->session;
	my $start;

	settings($s, partition_timeout => '1s', enable_hedging => 'off');
	LogqFaults::same($s, $all, 'slow: before');
	$proxy->delay(60, chunk => 4000);
	$start = time;
	LogqFaults::same($s, $all, 'slow: right');
	cmp_ok(time - $start, '>', 1.1, 'slow: longer than a partition may be silent');
	is(LogqFaults::last_query($s)->{retried}, 0, 'slow: asked once');
	$proxy->clear;
	$s->quit;
}

# ---------- who stands still ----------

# As a machine does that is moved to another host: the partition is not to
# blame, and has the rest of its time after that
my $new = sub { $proxy->close_all; $proxy->stall(0, on => 'each'); };
my $insert = "BEGIN; INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 01:30+00', 'STILL', 'p2'); ROLLBACK";

foreach my $case (
	[ 'the first byte', sub { $proxy->stall(0, on => 'all'); } ],
	[ 'connecting', $new ],
	[ 'connecting to write', $new, $insert ])
{
	my ($what, $break, $sql) = @$case;
	my $s = $c->session;
	my $start;

	settings($s, partition_timeout => '4s', connect_timeout => '4s');
	LogqFaults::same($s, $all, "standstill, $what: before");
	is($s->query($insert), '', "standstill, $what: writes");
	$break->();
	$start = time;
	$s->send($sql // LogqFaults::on_table($all, 'logq.logs'));
	LogqTest::poll_ok(sub {
			return $c->sql("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $s->{pid}") eq 't'; },
		"standstill, $what: it waits", 4);
	freeze_processes($s->{pid});
	LogqTest::poll(sub { return time > $start + 6; });
	thaw_all();
	# by now it has looked at the clock
	LogqTest::poll(sub { return time > $start + 6.2; });
	$proxy->clear;
	is($sql ? $s->wait(20) :
		LogqFaults::difference($all, LogqFaults::right($s, $all), $s->wait(20) // 'no answer'),
		'', "standstill, $what: goes on");
	is(LogqFaults::breaker($c, $proxy), 'closed', "standstill, $what: nobody is to blame");
	LogqFaults::assert_clean($c, "standstill, $what", $s);
	$s->quit;
}

# ---------- who has died unnoticed ----------

# As behind a firewall that forgets: it turns out when a connection is used again
foreach my $sql ($insert, "SELECT count(*) FROM logq.seal('p2', before => '2000-01-01')",
	"SELECT logq.set_retention(NULL, 'p2')")
{
	my $s = $c->session;
	my $answer = $s->query($sql);

	unlike($answer, qr/ERROR/, "died unnoticed: $sql");
	$proxy->cut(1, on => 'all');
	is($s->query($sql), $answer, 'the next one connects again');
	$s->quit;
}

# ---------- cancelling ----------

my $slow = "SELECT count(*) FROM logq.logs WHERE md5(repeat(message, 40000)) = 'x'";

# [name, what to do before, query, what is to be seen when it is under way]
my @waits = (
	[ 'connecting, backlog full', sub { $proxy->full; $proxy->close_all; } ],
	[ 'connecting, no answer', sub { $proxy->blackhole; $proxy->close_all; } ],
	[ 'the first byte', sub { $proxy->stall(0, on => 'all'); } ],
	[ 'no progress', sub { $proxy->stall(20_000, on => 'all'); } ]);

foreach my $wait (@waits)
{
	my ($what, $break) = @$wait;
	my $s = $c->session;
	my ($start, $answer);

	settings($s, partition_timeout => '60s', connect_timeout => '60s');
	wait_until_right($s, "cancel, $what: before");
	$break->();
	$s->send(LogqFaults::on_table($all, 'logq.logs'));
	LogqTest::poll(sub { return $c->sql("SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $s->{pid}") eq 't'; });
	# long enough for it to be there
	is($s->wait(0.7), undef, "cancel, $what: it waits");
	$start = time;
	$c->sql("SELECT pg_cancel_backend($s->{pid})");
	like($s->wait(20) // 'no answer', qr/57014|canceling statement due to user request/,
		"cancel, $what: ends");
	cmp_ok(time - $start, '<', $at_once, "cancel, $what: at once");
	is($s->query($others), $of_others, "cancel, $what: the others are there");
	$proxy->clear;
	$proxy->close_all;
	wait_until_right($s, "cancel, $what: the next query is right");
	LogqFaults::assert_clean($c, "cancel, $what", $s);
	$s->quit;
}

# ---------- what was asked ends with whoever asked ----------

# Computing, sending, waiting for a lock, writing
my @remote = (
	[ 'computing', $slow, sub { return grep { /active\|-\|.*COPY/ } $c->remote_activity; } ],
	[ 'sending', LogqFaults::on_table(LogqFaults::query('big_desc'), 'logq.logs', 4000),
		sub { return $c->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") > 0; } ],
	[ 'waiting for a lock', LogqFaults::on_table($all, 'logq.logs'),
		sub { return grep { /^p2: .*relation/ } $c->remote_activity('p2'); } ],
	[ 'writing', "INSERT INTO logq.logs (ts, level, service, message) SELECT '2024-06-01 01:30+00', 'LOST', 's' || i, md5(repeat('x', 20000)) FROM generate_series(1, 10000000) i",
		sub { return (() = grep { /(?i)copy/ } $c->remote_activity) >= 3; } ]);

my %ends = (
	'pg_cancel_backend' => sub { $c->sql("SELECT pg_cancel_backend($_[0]{pid})"); },
	'kill -9 of the backend' => sub { kill 'KILL', $_[0]{pid}; },
	'kill -9 of the coordinator' => sub { kill_postmaster($c->coordinator); });

$c->route('p2');
foreach my $remote (@remote)
{
	my ($what, $sql, $busy) = @$remote;

	foreach my $end (sort keys %ends)
	{
		my $s = $c->session;
		my $locker;
		my ($start, @left);

		$s->query("SET logq.partition_timeout = '0'");
		if ($what eq 'waiting for a lock')
		{
			$locker = $c->session(node => $c->part('p2'));
			$locker->query('BEGIN');
			$locker->query('LOCK TABLE logq_store.log_20240601_010000 IN ACCESS EXCLUSIVE MODE');
		}
		elsif ($what eq 'sending')
		{
			$locker = $c->session;
			$locker->query('SELECT pg_advisory_lock(4711)');
		}
		$s->send($sql);
		LogqTest::poll_ok(sub { $s->{run}->pump_nb; return $busy->(); },
			"$what: under way", 20);
		$start = time;
		$ends{$end}->($s);
		ok(LogqTest::poll(sub { @left = $c->remote_activity; return !@left; }, $at_once),
			"$what: $end: it ends there, too") or diag("still there: ", explain(\@left));
		if ($end ne 'pg_cancel_backend')
		{
			eval { $_->kill_client } foreach grep { $_ } $s, $what eq 'sending' ? $locker : ();
			start_server($c->coordinator) if $end =~ /coordinator/;
			LogqTest::poll(sub { return $c->coordinator->psql('logs', 'SELECT 1') == 0; })
			  or die 'the coordinator does not come back';
			$locker->quit if $locker && $what ne 'sending';
		}
		else
		{
			like($s->wait(20) // 'no answer', qr/57014|canceling statement/, "$what: $end");
			$_->quit foreach grep { $_ } $s, $locker;
		}
		is($c->sql("SELECT count(*) FROM logq.logs WHERE level = 'LOST'"), 0,
			"$what: $end: nothing was written") if $what eq 'writing';
		$s = $c->session;
		LogqFaults::assert_clean($c, "$what: $end", $s);
		$s->quit;
	}
}

# ---------- a timeout of the partition's own ----------

# it would end the backend, whatever it does
SKIP:
{
	skip 'transaction_timeout is of PostgreSQL 17', 3 if $c->part('p1')->pg_version < 17;

	my $lasts = sub {
		LogqTest::poll(sub {
				$c->on('p1', "SELECT max(clock_timestamp() - xact_start) > '2 seconds' FROM pg_stat_activity WHERE usename = 'logq'") eq 't';
			});
	};
	my $s;

	$c->on('p1', "ALTER ROLE logq SET transaction_timeout = '1s'");
	$s = $c->session;
	$s->query('BEGIN');
	$s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:00+00', 'SLOW', 'p1')");
	ok($lasts->(), 'a transaction takes longer than a partition wants');
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'SLOW'"), 1, 'it goes on');
	$s->query('ROLLBACK; BEGIN; DECLARE c CURSOR FOR SELECT id FROM logq.logs; MOVE 1 FROM c');
	$lasts->();
	is($s->query('MOVE ALL FROM c; COMMIT'), '', 'so does a query');
	$s->quit;
	$c->on('p1', 'ALTER ROLE logq RESET transaction_timeout');
}

# ---------- writes that are refused ----------

sub count_new
{
	return join ' ', map { $c->on($_, "SELECT count(*) FROM logq_store.log WHERE level = 'NEW'") } $c->names;
}

my $insert = "INSERT INTO logq.logs (ts, level, service, message, partition) SELECT timestamptz '2024-06-01 00:00+00' + i * interval '1 min', 'NEW', 'web', 'new ' || i, 'p' || i % 3 + 1 FROM generate_series(0, 89) i";
my $written = 0;

# Test: an INSERT that fails is stored nowhere; it works after the repair
sub refused
{
	my ($what, $state, $name, $break, $repair) = @_;
	my $s = $c->session;
	my $start;
	my $answer;

	settings($s, connect_timeout => '1s', partition_timeout => '2s');
	LogqFaults::same($s, $all, "$what: before");
	$break->();
	foreach my $sql ($insert, "BEGIN;\n$insert;\nCOMMIT",
		"BEGIN;\nINSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:00+00', 'NEW', 'p3');\n$insert;\nCOMMIT")
	{
		$start = time;
		$answer = $s->query($sql);
		$s->query('ROLLBACK');
		like($answer, qr/^ERROR:\s+(?:$state): .*"$name"/m, "$what: an error that names the partition");
		cmp_ok(time - $start, '<', 3 + $at_once, "$what: in time");
	}
	is($s->query($others), $of_others, "$what: the others are read")
	  if $name eq 'p2';
	$repair->();
	is(count_new(), join(' ', ($written) x 3), "$what: nothing is stored");
	LogqTest::poll(sub { return ($answer = $s->query($insert)) eq ''; }, 15);
	is($answer, '', "$what: after the repair it works");
	$written += 30;
	is(count_new(), join(' ', ($written) x 3), "$what: and all is stored once");
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'NEW'"), 3 * $written,
		"$what: and found");
	$c->quiet("$what: nothing is left there");
	$of_others += 60;
	# keep the rows that are compared
	$c->sql("SET logq.read_from = 'primary'; INSERT INTO local_logs SELECT ts, level, service, message, trace_id, attrs, id, partition FROM logq.logs WHERE level = 'NEW' AND id NOT IN (SELECT id FROM local_logs)");
	LogqFaults::forget_right();
	LogqFaults::same($s, $all, "$what: all is there");
	$s->quit;
	return;
}

# the coordinator is sent to a standby
refused('read only', '25006|0A000|08\w{3}', 'p1',
	sub { $c->route('p1', $c->replica('p1'), []); },
	sub { $c->route('p1'); });

# Nothing can be added to this file
SKIP:
{
	my $node = $c->part('p2');
	my $table = 'logq_store.log_20240601_030000';
	my $file;

	skip 'there is no /dev/full', 1 unless -c '/dev/full' && -w _;
	$insert =~ s/00:00\+00/03:00+00/;
	$c->on($_, "SELECT logq_store.make_segment('2024-06-01 03:00+00')") foreach $c->names;
	$file = $node->data_dir . '/' . $c->on('p2', "SELECT pg_relation_filepath('$table')");
	refused('disk full', '53100', 'p2',
		sub {
			$node->stop;
			rename $file, "$file.moved" or die "$file: $!";
			symlink '/dev/full', $file or die "$file: $!";
			$node->start;
		},
		sub {
			# it would be written
			$node->stop('immediate');
			unlink $file;
			rename "$file.moved", $file or die "$file: $!";
			$node->start;
		});
}

# one that comes and goes
foreach my $mode ('refuse', 'blackhole')
{
	$c->route('p2', $proxy);
	refused("$mode on write", '08\w{3}|57P\w\w', 'p2',
		sub { $proxy->$mode; $proxy->close_all; },
		sub { $proxy->clear; });
}
$c->route('p2');

# rows that are on their way when it hangs
{
	my $s = $c->session;
	my ($start, $answer);

	settings($s, connect_timeout => '1s', partition_timeout => '1s');
	$s->query('SELECT 1 FROM logq.logs LIMIT 1');
	$s->query('BEGIN');
	is($s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:00+00', 'LOST', 'p1'), ('2024-06-01 00:00+00', 'LOST', 'p2')"),
		'', 'rows are written');
	kill_postmaster($c->part('p2'));
	like($s->query('COMMIT'), qr/ERROR:\s+(?:08\w{3}|57P0\w): .*"p2"/, 'COMMIT fails when a partition was killed');
	start_server($c->part('p2'));
	wait_until_right($s, 'the session goes on');
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'LOST'"), 0,
		'nothing is stored on any of them');
	LogqFaults::assert_clean($c, 'killed before COMMIT', $s);
	$s->quit;
}
done_testing();
