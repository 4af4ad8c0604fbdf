# Whatever a query is doing, cancelling it returns at once, leaves nothing
# running on any partition, and the session's next query is right.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use IO::Socket::INET;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $rows_each = 100_000;
# "at once", on a machine that may have other things to do; what is not cancelled
# takes longer, or for ever, as no other timeout ends it
my $at_once = 10;

my $c = LogqTest->new(partitions => 3,
	coordinator_conf => ['logq.partition_timeout = 0']);

foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment('2024-06-01 00:00+00');
SELECT logq_store.make_segment('2024-06-01 01:00+00');
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2024-06-01 00:00+00' + i * (interval '2 hours' / $rows_each),
		'INFO', 'web', repeat('some words ', 12)
	FROM generate_series(0, $rows_each - 1) i;
ANALYZE logq_store.log;
SQL
}
my $all = 3 * $rows_each;
my $check = 'SELECT count(*) FROM logq.logs';

is($c->sql($check), $all, 'all rows are there');

# ---------- what can be under way ----------

# Have all partitions a logq command, and does each match?
sub all_partitions
{
	my ($like) = @_;
	my @lines = $c->remote_activity;

	foreach my $name ($c->names)
	{
		return 0 unless grep { /^\Q$name\E: .*$like/ } @lines;
	}
	return 1;
}

my $locker;
my $listener;
my ($p2_host, $p2_port) = ($c->part('p2')->host, $c->part('p2')->port);

sub lock_p2
{
	my ($table) = @_;

	$locker = $c->session(node => $c->part('p2'));
	$locker->query("BEGIN");
	is($locker->query("LOCK TABLE $table IN ACCESS EXCLUSIVE MODE"), '',
		"$table is locked on p2");
	return;
}

sub unlock_p2
{
	$locker->query('ROLLBACK');
	$locker->quit;
	return;
}

# A query, how to see that it is in the middle of it, and what it needs
my @situations = (
	{
		name => 'streams that wait for a slow reader',
		sql => "SELECT max(md5(repeat(message, 4000))) FROM logq.logs WHERE random() >= 0",
		# whose rows are not needed yet need not have been asked
		busy => sub { return grep { /ClientWrite/ } $c->remote_activity; }
	},
	{
		name => 'ordered streams that wait for a slow reader',
		sql => "SELECT max(m) FROM (SELECT md5(repeat(message, 4000)) AS m FROM logq.logs WHERE random() >= 0 ORDER BY ts DESC, id DESC OFFSET 0) s",
		busy => sub { return all_partitions('ClientWrite'); }
	},
	{
		name => 'a condition that the partitions take long to evaluate',
		sql => "SELECT count(*) FROM logq.logs WHERE md5(repeat(message, 40000)) = 'x'",
		busy => sub { return all_partitions('active\|-\|.*COPY'); }
	},
	{
		name => 'a partition that waits for a lock',
		sql => "SELECT count(*) FROM logq.logs WHERE level = 'INFO'",
		before => sub { lock_p2('logq_store.log_20240601_000000'); },
		busy => sub { return grep { /^p2: .*relation/ } $c->remote_activity('p2'); },
		after => \&unlock_p2
	},
	{
		name => 'a connection that is not answered',
		sql => "SELECT count(*) FROM logq.logs WHERE level = 'INFO'",
		before => sub {
			# takes connections, in the kernel, and never says a word
			$listener = IO::Socket::INET->new(Listen => 64,
				LocalAddr => '127.0.0.1') or die $!;
			$c->sql("ALTER SERVER p2 OPTIONS (SET host '127.0.0.1', SET port '"
				  . $listener->sockport . "')");
		},
		set => "SET logq.connect_timeout = '60s'",
		busy => sub {
			# the wait is named differently from version to version
			return $c->sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%level = ''INFO''%' AND pid <> pg_backend_pid() AND wait_event IS NOT NULL");
		},
		after => sub {
			$c->sql("ALTER SERVER p2 OPTIONS (SET host '$p2_host', SET port '$p2_port')");
			close $listener;
		}
	},
	{
		name => 'rows that are being inserted',
		sql => "INSERT INTO logq.logs (ts, level, service, message) SELECT '2024-06-01 01:30+00', 'INFO', 's' || i, md5(repeat('x', 20000)) FROM generate_series(1, 10000000) i",
		busy => sub { return all_partitions('(?i)copy'); }
	},
	{
		name => 'rows that wait for a lock',
		sql => "INSERT INTO logq.logs (ts, level, service, partition) VALUES ('2024-06-01 01:30+00', 'INFO', 'web', 'p2')",
		before => sub { lock_p2('logq_store.log'); },
		busy => sub { return grep { /^p2: .*relation/ } $c->remote_activity('p2'); },
		after => \&unlock_p2
	});

# ---------- ways to end it; each returns what the session says ----------

my %ways = (
	'pg_cancel_backend' => sub {
		my ($s) = @_;

		$c->sql("SELECT pg_cancel_backend($s->{pid})");
		return $s->wait(20);
	},
	'pg_terminate_backend' => sub {
		my ($s) = @_;

		$c->sql("SELECT pg_terminate_backend($s->{pid})");
		return $s->wait(20);
	},
	'the end of the client' => sub {
		my ($s) = @_;

		$s->kill_client;
		return LogqTest::poll(sub {
			return !$c->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid}");
		}, 20) ? 'gone' : undef;
	});
my %says = (
	'pg_cancel_backend' => qr/57014|canceling statement due to user request/,
	'pg_terminate_backend' => qr/57P01|session ended/,
	'the end of the client' => qr/gone/);

foreach my $situation (@situations)
{
	foreach my $way (sort keys %ways)
	{
		my $what = "$situation->{name}: $way";
		# so that a backend in a wait finds out that its client has gone
		my $s = $c->session(
			env => { PGOPTIONS => '-c client_connection_check_interval=200ms' });
		my ($start, $answer);

		$s->query($situation->{set}) if $situation->{set};
		$s->query('SELECT 1 FROM logq.logs LIMIT 1');
		$situation->{before}->() if $situation->{before};
		$s->send($situation->{sql});
		if (!LogqTest::poll_ok(sub {
				$s->{run}->pump_nb;
				return $situation->{busy}->(); },
			"$what: it is under way", 20))
		{
			diag(explain([ $c->remote_activity ]), "session: ", $s->wait(0.1) // 'nothing');
		}

		$start = time;
		$answer = $ways{$way}->($s);
		like($answer // 'no answer', $says{$way}, "$what: ends it");
		cmp_ok(time - $start, '<', $at_once, "$what: at once");
		if ($situation->{after} && $situation->{name} =~ /lock/)
		{
			# while the lock is still there
			$c->quiet("$what: leaves nothing behind");
		}
		$situation->{after}->() if $situation->{after};
		$c->quiet("$what: leaves nothing running");
		if ($way eq 'pg_cancel_backend')
		{
			is($s->query($check), $all, "$what: the next query is right");
			$s->quit;
		}
		else
		{
			is($c->sql($check), $all, "$what: another session's query is right");
		}
	}
}

# ---------- timeouts ----------

foreach my $situation (@situations)
{
	my $what = "$situation->{name}: statement_timeout";
	my $s = $c->session;
	my ($start, $elapsed);

	$s->query($situation->{set}) if $situation->{set};
	$s->query('SELECT 1 FROM logq.logs LIMIT 1');
	$situation->{before}->() if $situation->{before};
	$s->query("SET statement_timeout = '700ms'");
	$start = time;
	like($s->query($situation->{sql}), qr/57014.*statement timeout/, "$what: ends it");
	$elapsed = time - $start;
	cmp_ok($elapsed, '<', 0.7 + $at_once, "$what: at once");
	cmp_ok($elapsed, '>', 0.6, "$what: not before");
	$situation->{after}->() if $situation->{after};
	$c->quiet("$what: leaves nothing running");
	$s->query('RESET statement_timeout');
	is($s->query($check), $all, "$what: the next query is right");
	$s->quit;
}

# the same connection that is not answered, to the end of its own timeout
{
	my ($situation) = grep { $_->{name} =~ /not answered/ } @situations;
	my $start;

	$situation->{before}->();
	$start = time;
	# the others have as little time
	$c->fails("SET logq.connect_timeout = '500ms'; $check WHERE partition = 'p2'", '08001',
		qr/could not connect to partition "p2"[\s\S]*timeout/,
		'logq.connect_timeout: names the partition');
	cmp_ok(time - $start, '<', 0.5 + $at_once, 'logq.connect_timeout: at once');
	$situation->{after}->();
	$c->quiet('logq.connect_timeout: leaves nothing running');
}

# ---------- ends that are no errors ----------

{
	my $s = $c->session;

	is($s->query('SELECT count(*) FROM (SELECT * FROM logq.logs ORDER BY ts DESC, id DESC LIMIT 5) s'),
		5, 'a LIMIT is satisfied');
	$c->quiet('and nothing goes on');
	is($s->query('SELECT count(*) FROM (SELECT * FROM logq.logs WHERE random() >= 0 LIMIT 5) s'),
		5, 'a LIMIT that the partitions do not know of is satisfied');
	$c->quiet('and nothing goes on');

	$s->query('BEGIN');
	$s->query('DECLARE c1 CURSOR FOR SELECT * FROM logq.logs ORDER BY ts, id');
	$s->query('DECLARE c2 CURSOR FOR SELECT ts FROM logq.logs');
	is(scalar(my @l = split /\n/, $s->query('FETCH 10 FROM c1; FETCH 5 FROM c2')), 15,
		'two cursors are read in part');
	$s->query('CLOSE c1');
	is(scalar(@l = split /\n/, $s->query('FETCH 10 FROM c2')), 10,
		'when one is closed, the other goes on');
	$s->query('COMMIT');
	$c->quiet('the end of the transaction ends the other');

	# an error in the middle, of the local side
	$s->query('BEGIN');
	$s->query('SAVEPOINT one');
	like($s->query("SELECT sum(1 / (id - id)) FROM logq.logs WHERE random() >= 0"),
		qr/22012/, 'a local error in the middle of a scan');
	$s->query('ROLLBACK TO one');
	$c->quiet('leaves nothing running, within the transaction');
	is($s->query($check), $all, 'and the next query is right');
	$s->query('COMMIT');

	# an error of the partitions
	like($s->query("SELECT count(*) FROM logq.logs WHERE length(message) / (id - id) = 1"),
		qr/22012/, 'an error of a partition');
	$c->quiet('leaves nothing running');
	is($s->query($check), $all, 'and the next query is right');
	$s->quit;
}

# many times in a row, at any moment: a session survives it
{
	my $s = $c->session;
	my $wrong = '';
	my $cancelled = 0;

	srand 3;
	foreach my $i (1 .. 40)
	{
		my $ms = 1 + int rand 120;
		my $answer = $s->query("SET statement_timeout = '${ms}ms'; "
			  . ($i % 2 ? $check . " WHERE random() >= 0"
				: "SELECT count(*) FROM (SELECT * FROM logq.logs ORDER BY ts, id OFFSET 0) s"));

		$cancelled++ if $answer =~ /57014/;
		$wrong = $answer if $answer !~ /57014/ && $answer ne $all;
	}
	is($wrong, '', "40 queries, of which $cancelled are cancelled, are right or fail");
	# which takes time, too
	LogqTest::poll(sub { return $s->query('RESET statement_timeout') eq ''; });
	is($s->query($check), $all, 'the session has survived them');
	$c->quiet('and nothing is left running');
	cmp_ok($c->on('p1', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'"),
		'<', 10, 'nor are there many connections');
	$s->quit;
}
done_testing();
