# The coordinator's clock is set while it works, back above all: by as much as a
# deadline, an age or a pause could be wrong after it.  The clock is that of
# test/data/set_clock.c.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqKafka;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $clock = "$dir/clock";
my $preload = "$dir/set_clock.so";
my $hour = 3600;

is(system($ENV{CC} // 'cc', '-shared', '-fPIC', '-O1', '-Wall', '-o', $preload,
		"$FindBin::Bin/../data/set_clock.c"), 0, 'the clock for tests compiles');
chmod 0755, $dir;

# In place: all processes have it mapped
sub set_clock
{
	my ($ahead) = @_;

	open my $f, -e $clock ? '+<' : '>', $clock or die "$clock: $!";
	binmode $f;
	syswrite($f, pack('l!', $ahead)) == length pack('l!', 0) or die "$clock: $!";
	close $f;
	return;
}

set_clock($hour);

my $kafka = LogqKafka->new(name => 'kafka');
my $c = LogqTest->new(partitions => 2, replicas => { p2 => 1 },
	coordinator_conf => [
		"logq.databases = 'logs'", 'max_worker_processes = 30',
		"logq.ingest_batch_ms = '3s'", "logq.read_from = 'primary'"
	]);
{
	# after that of sanitizers
	local $ENV{LD_PRELOAD} = join ' ', $ENV{LOGQ_PRELOAD} // (), $preload;
	local $ENV{LOGQ_TEST_CLOCK} = $clock;

	$c->coordinator->restart;
}

my $count = "SELECT count(*) FROM logq.logs";
my $rows = 0;

sub insert
{
	my ($name, $text) = @_;

	$c->on($name, "INSERT INTO logq_store.log (ts, level, service, message) VALUES (now(), 'INFO', 'api', '$text')");
	$rows++;
	return;
}

# By how much the coordinator's clock is ahead of ours
sub ahead
{
	return $c->sql('SELECT extract(epoch FROM clock_timestamp())') - time;
}

# Both catalogs are confirmed, just now, and people see the right time for it
sub confirmed
{
	my ($what) = @_;

	LogqTest::poll_ok(sub {
			return $c->sql(q{SELECT count(*) FROM logq.catalog_status()
				WHERE clock_timestamp() - confirmed_at BETWEEN '-1 second' AND '5 seconds'
				AND clock_timestamp() - asked_at BETWEEN '-1 second' AND '20 seconds'}) eq '2';
		}, "$what: catalogs are confirmed");
	LogqTest::poll_ok(sub {
			return $c->sql(q{SELECT count(*) FROM logq.stat_partitions
				WHERE catalog_age_ms BETWEEN 0 AND 5000 AND now() - catalog_confirmed_at < '5 seconds'}) eq '2';
		}, "$what: as all can see");
	return;
}

# What somebody else writes is found, within the time that a copy is trusted
sub found
{
	my ($what) = @_;

	insert('p1', $what);
	LogqTest::poll_ok(sub { return $c->sql($count) eq $rows }, "$what: new rows are found");
	is($c->sql("SET logq.strict_pruning = on; $count"), $rows, "$what: these are all");
	return;
}

# Kafka's messages arrive, although no batch is full
sub taken_in
{
	my ($what) = @_;

	$kafka->produce('logs', [ qq({"message": "kafka, $what"}) ]);
	$rows++;
	LogqTest::poll_ok(sub { return $c->sql("SELECT count(*) FROM logq.logs WHERE message = 'kafka, $what'") eq '1' },
		"$what: messages are taken in");
	return;
}

$c->on($_, 'SELECT logq_store.make_segment(now())') foreach $c->names;
$kafka->create_topic('logs', partitions => 1);
$c->sql("SELECT logq.add_topic('logs', '" . $kafka->brokers . "')");
cmp_ok(ahead(), '>', $hour - 60, 'the clock is ahead');
confirmed('ahead');
found('ahead');
taken_in('ahead');

# one that is behind, known to be so a moment before
$c->wait_for_catchup_all;
my $s = $c->session;
my $replica = "SET logq.read_from = 'replica'; SET logq.max_replica_lag = '1s'; SET logq.cache = off";

$s->query($replica);
LogqTest::poll_ok(sub { return $s->query($count) eq $rows }, 'a replica that is up to date is read');
$c->pause_replica('p2');
insert('p2', 'not on the replica');
LogqTest::poll_ok(sub { return $s->query($count) =~ /behind/ }, 'one that is behind is not');

# a batch that is not full waits meanwhile
$kafka->produce('logs', [ '{"message": "meanwhile"}' ]);
$rows++;
set_clock(0);
cmp_ok(abs(ahead()), '<', 60, 'the clock is set back by an hour');
$c->resume_replica('p2');
LogqTest::poll_ok(sub { return $c->sql("SELECT count(*) FROM logq.logs WHERE message = 'meanwhile'") eq '1' },
	'set back: a message that waited is taken in');
$c->wait_for_catchup_all;
LogqTest::poll_ok(sub { return $s->query($count) eq $rows }, 'set back: the replica is read again');
$c->pause_replica('p2');
insert('p2', 'not on the replica, either');
LogqTest::poll_ok(sub { return $s->query($count) =~ /behind/ }, 'set back: one that is behind is not');
$c->resume_replica('p2');
confirmed('set back');
found('set back');
taken_in('set back');
LogqTest::poll_ok(sub { return $c->sql("SELECT count(*) FROM logq.health() WHERE check_name = 'clock' AND ok") eq '2' },
	'set back: partitions have the same time');
is($c->sql("SELECT count(*) FROM logq.stat_partitions WHERE since > now() + interval '1 minute' OR answered_at > now() + interval '1 minute'"),
	0, 'set back: nothing is shown to be of the future');

set_clock(72 * $hour);
cmp_ok(ahead(), '>', 71 * $hour, 'the clock is put forward by three days');
confirmed('put forward');
found('put forward');
taken_in('put forward');
# whose time is that of the clock now
$kafka->produce('logs', [ sprintf '{"message": "of its time", "ts": "%s"}', $c->sql('SELECT now()') ]);
$rows++;
LogqTest::poll_ok(sub { return $c->sql("SELECT count(*) FROM logq.logs WHERE message = 'of its time'") eq '1' },
	'put forward: a message of that time is taken in');
is($c->sql($count), $rows, 'no row is missing, or comes twice');

$s->quit;
$c->coordinator->stop;
$kafka->stop;
done_testing();
