# Logs from Kafka while brokers, partitions, connections and coordinators fail:
# what is wrong is said, and every number is there once in the end.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use JSON::PP ();
use LogqKafka;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = LogqKafka->new(name => 'kafka');
my $brokers = $kafka->brokers;
my @conf = ("logq.databases = 'logs'", 'logq.ingest_batch_ms = 50');
my $c = LogqTest->new(coordinator_conf => [ @conf, 'max_worker_processes = 30' ]);
my $node = $c->coordinator;
my $s = $c->session;

# Options here and below: session, of another coordinator
sub ask
{
	my ($sql, %opt) = @_;

	return ($opt{session} // $s)->query($sql);
}

sub add_topic
{
	my ($topic, %opt) = @_;
	my $r = ask("SELECT logq.add_topic('$topic', '$brokers', 'json')", %opt);

	die $r if $r !~ /^\d+$/;
	return;
}

# What Kafka has, and how far logq is: "partition:offset ..."
sub ends
{
	my ($topic) = @_;
	my $offsets = $kafka->offsets($topic);

	return join ' ',
	  map { "$_:$offsets->{$_}[1]" } sort { $a <=> $b } keys %$offsets;
}

sub taken
{
	my ($topic, %opt) = @_;

	return ask("SELECT coalesce(string_agg(kafka_partition || ':' || next_offset, ' ' ORDER BY kafka_partition), '') FROM logq.stat_ingest WHERE topic = '$topic'", %opt);
}

sub status
{
	my ($topic, %opt) = @_;

	return ask("SELECT DISTINCT state, coalesce(last_error, '') FROM logq.stat_ingest WHERE topic = '$topic'", %opt);
}

# Wait until all of a topic has been taken in
sub caught_up
{
	my ($topic, %opt) = @_;
	my $ends = ends($topic);

	return LogqTest::poll(sub { return taken($topic, %opt) eq $ends; })
	  || (diag("topic $topic ends at $ends, taken: " . taken($topic, %opt) . '; '
		. status($topic, %opt)), 0);
}

# Test: a topic comes to this state, and this error
sub comes_to
{
	my ($topic, $state, $error, $name, %opt) = @_;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(LogqTest::poll(sub {
			$is = status($topic, %opt);
			return $is =~ /^$state\|(.*)/s && $1 =~ $error;
		}), $name)
	  || diag("it is: $is");
}

# Test: a topic is taken in, and there is nothing to complain of
sub is_well
{
	my ($topic, $name, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return comes_to($topic, 'running', qr/^$/, $name, %opt);
}

# Numbers in a field of attrs that are not there once as they should, as
# "number xtimes"; all of the cluster
sub wrong_numbers
{
	my ($field, $first, $last) = @_;

	return ask("SELECT n || ' x' || count(l.n) FROM generate_series($first, $last) n LEFT JOIN (SELECT (attrs->>'$field')::int AS n FROM logq.logs WHERE attrs ? '$field') l USING (n) GROUP BY n HAVING count(l.n) <> 1 ORDER BY n");
}

# Test: all of a topic has been taken in, and numbers are there once
sub numbers
{
	my ($topic, $first, $last, $name, %opt) = @_;
	my $n = $last - $first + 1;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	caught_up($topic, %opt);
	return is(ask("SELECT count(*), count(DISTINCT attrs->>'$topic'), min((attrs->>'$topic')::int), max((attrs->>'$topic')::int) FROM logq.logs WHERE attrs ? '$topic'"),
		"$n|$n|$first|$last", $name)
	  || diag('wrong: ' . substr(wrong_numbers($topic, $first, $last) =~ s/\n/, /gr, 0, 300));
}

# Test: rows go on coming, and nothing is there twice
sub goes_on
{
	my ($topic, $name, %opt) = @_;
	my $sum = "SELECT coalesce(sum(next_offset), 0) FROM logq.stat_ingest WHERE topic = '$topic' AND state = 'running'";
	my $from = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll(sub { return ($from = ask($sum, %opt)) > 0; });
	ok(LogqTest::poll(sub { return ask($sum, %opt) > $from + 500; }), "$name: it goes on")
	  or diag(status($topic, %opt));
	is(ask("SELECT count(*) - count(DISTINCT attrs->>'$topic') FROM logq.logs WHERE attrs ? '$topic'"),
		'0', "$name: nothing is there twice");
	return;
}

sub generate
{
	my ($topic, $first, $last) = @_;

	$kafka->generate($topic, first => $first, total => $last - $first + 1, number_field => $topic);
	return;
}

# Lines of a server's log that match
sub log_lines
{
	my ($server, $pattern) = @_;

	return grep { /$pattern/ } split /\n/, slurp_file($server->logfile);
}

# ---------- Kafka is down ----------

$kafka->create_topic('down', partitions => 3);
$kafka->create_topic($_, partitions => 2) foreach 'flow', 'anew', 'grow', 'refused', 'twice', 'zombie';
$kafka->create_topic($_, partitions => 1) foreach 'fence', 'lost', 'other';
$kafka->create_topic('compact', partitions => 1,
	config => { 'cleanup.policy' => 'compact', 'segment.ms' => 200,
		'min.cleanable.dirty.ratio' => '0.01', 'max.compaction.lag.ms' => 500 });
generate('down', 1, 1000);
$kafka->kill9;
add_topic('down');
comes_to('down', 'waiting', qr/broker/i, 'no broker at the start: it waits, and says for what');
$kafka->start;
numbers('down', 1, 1000, '... and takes in all, once there is one');
is_well('down', '... and says that all is well');

# offsets that are not there any more: meanwhile, as it takes its time
generate($_, 1, 200) foreach 'anew', 'lost';
add_topic($_) foreach 'anew', 'lost', 'flow';
caught_up($_) foreach 'anew', 'lost';
ask("SELECT logq.pause_topic('lost')");
comes_to('lost', 'paused', qr//, 'a topic is paused');
generate('lost', 201, 400);
$kafka->delete_records('lost', 0, 300);
ask("SELECT logq.resume_topic('lost')");
comes_to('lost', 'failed', qr/no longer has offsets 200 to 299 of partition 0 of topic "lost"/,
	'messages are gone from Kafka before they were taken in: it stops, and says so');
is(ask("SELECT count(*) FROM logq.logs WHERE attrs ? 'lost'"), '200', '... without going on');
$c->setting('logq.on_offset_loss', 'skip');
caught_up('lost');
is(wrong_numbers('lost', 1, 400), join("\n", map { "$_ x0" } 201 .. 300),
	'logq.on_offset_loss = skip: it goes on with what there is');
is(scalar(log_lines($node, qr/WARNING:.*no longer has offsets 200 to 299/)), 1,
	'... and warns in the log');
is_well('lost', '... and says that all is well');

$kafka->delete_topic('anew');
comes_to('anew', 'waiting', qr/does not exist|unknown/i, 'a topic is deleted: it waits');
$kafka->create_topic('anew', partitions => 2);
$kafka->produce('anew', [ map { qq({"message": "made anew", "anew": $_}) } 1001 .. 1020 ], partition => $_)
  foreach 0, 1;

# ---------- Kafka goes down while rows flow, and changes ----------

my $flow = $kafka->start_generate('flow', rate => 1500, number_field => 'flow');

goes_on('flow', 'rows flow');
$kafka->kill9;
comes_to('flow', 'waiting', qr/broker/i, 'the broker is killed: it waits, and says for what');
add_topic('unborn');
$kafka->start;
goes_on('flow', 'the broker is back');
is_well('flow', '... and all is well');

comes_to('unborn', 'waiting', qr/"unborn" does not exist/, 'a topic that does not exist: it waits');
$kafka->create_topic('unborn', partitions => 2);
generate('unborn', 1, 500);
numbers('unborn', 1, 500, '... and takes it in once it does');

add_topic('grow');
generate('grow', 1, 500);
numbers('grow', 1, 500, 'two partitions of Kafka');
$kafka->add_partitions('grow', 5);
# at once, before it can know of them; it will meanwhile
generate('grow', 501, 2000);

# ---------- partitions go down ----------

foreach my $mode ('fast', 'immediate')
{
	$c->part('p2')->stop($mode);
	comes_to('flow', 'waiting', qr/"p2"/, "a partition is stopped ($mode): it waits, and says for which");
	foreach my $name ('p1', 'p3')
	{
		is($c->on($name, "SELECT count(*) > 0, count(*) - count(DISTINCT attrs->>'flow') FROM logq_store.log WHERE attrs ? 'flow'"),
			't|0', "... $name has nothing twice");
	}
	$c->part('p2')->start;
	goes_on('flow', "the partition is started ($mode)");
	is_well('flow', '... and all is well');
}

{
	my $ended = 0;
	my $wanted = 12;

	# in the middle of whatever they do; those that write come first
	LogqTest::poll(sub {
		my $name = 'p' . (1 + int rand 3);

		$ended += $c->on($name, "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'logq ingest flow' AND (state <> 'idle' OR random() < 0.2) LIMIT 1) a) b");
		return $ended >= $wanted;
	});
	cmp_ok($ended, '>=', $wanted, "connections are ended $ended times");
	goes_on('flow', 'connections to partitions are ended');
	is_well('flow', '... and all is well');
}

{
	my $total = $flow->stop;

	cmp_ok($total, '>', 10_000, "$total rows have been made meanwhile");
	numbers('flow', 1, $total, '... and each is there once');
}

numbers('grow', 1, 2000, 'two partitions of Kafka became five: all once');
is(ask("SELECT count(*), bool_and(rows > 0) FROM logq.stat_ingest WHERE topic = 'grow'"), '5|t',
	'... with rows of each');

# ---------- a row that a partition refuses ----------

{
	my $service = ask("SELECT min(service) FROM logq.logs WHERE partition = 'p2' AND attrs ? 'flow'");
	my $other = ask("SELECT min(service) FROM logq.logs WHERE partition = 'p3' AND attrs ? 'flow'");
	my @bad = (1, 700, 701, 2222);
	my @letters = map {
		my $k = $_;
		map { "$k|@{[$_ - 1]}|partition \"p2\": not this one: refuse $_" } @bad
	} 0, 1;
	my @messages;

	$c->on('p2', <<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.message LIKE 'refuse %' THEN
		RAISE EXCEPTION 'not this one' USING DETAIL = NEW.message;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON logq_store.log FOR EACH ROW EXECUTE FUNCTION refuse();
SQL
	foreach my $i (1 .. 3000)
	{
		my $is_bad = grep { $_ == $i } @bad;

		push @messages, sprintf '{"message": "%s", "service": "%s", "refused": %d}',
		  $is_bad ? "refuse $i" : "take $i",
		  $is_bad || $i % 3 < 2 ? $service : $other, $i;
	}
	$kafka->produce('refused', \@messages, partition => $_) foreach 0, 1;
	add_topic('refused');
	ok(caught_up('refused'), 'some rows are refused by a partition: it goes on');
	is(ask("SELECT kafka_partition, kafka_offset, reason FROM logq.dead_letters WHERE topic = 'refused' AND partition = 'p2' ORDER BY 1, 2"),
		join("\n", @letters),
		'... they become dead letters, with what it said');
	is(ask("SELECT count(*), count(DISTINCT attrs->>'refused') FROM logq.logs WHERE attrs ? 'refused'"),
		'5992|2996', '... and all others are there, once of each partition of Kafka');
	is_well('refused', '... and all is well');
	generate('refused', 10_001, 30_000);
	ok(caught_up('refused'), '... and it is as fast as before');
	$c->on('p2', 'DROP TRIGGER refuse ON logq_store.log');
	is(ask("SELECT sum(taken) FROM logq.retry_dead_letters('refused')"), '8',
		'once the partition takes them they are taken again');
	is(ask("SELECT count(*), count(DISTINCT attrs->>'refused') FROM logq.logs WHERE attrs ? 'refused'"),
		'26000|23000', '... and then nothing is missing');
}

# ---------- somebody else moves offsets ----------

# Wait until all partitions have noted an offset of topic "fence"
sub noted
{
	my ($offset) = @_;

	return LogqTest::poll(sub {
		foreach my $name ($c->names)
		{
			return 0 if $c->on($name, "SELECT next_offset FROM logq_store.kafka_offset WHERE topic = 'fence'") ne $offset;
		}
		return 1;
	});
}

# number - 1 is the offset
generate('fence', 1, 1000);
add_topic('fence');
ok(noted(1000), 'all partitions note how far a topic is');
$c->on('p1', "UPDATE logq_store.kafka_offset SET next_offset = 1100 WHERE topic = 'fence'");
generate('fence', 1001, 2000);
ok(noted(2000), 'an offset is moved on behind our back: it goes on');
{
	my @wrong = split /\n/, wrong_numbers('fence', 1, 2000);

	cmp_ok(scalar(@wrong), '>', 0, '... what the partition is said to have is not written');
	is_deeply([ grep { !/^(\d+) x0$/ || $1 < 1001 || $1 > 1100 } @wrong ], [],
		'... and nothing else is missing, or there twice');
	cmp_ok(scalar(log_lines($node, qr/topic "fence".*partition "p1": offsets of topic "fence" are not where/)),
		'>=', 1, '... and the log tells of it');
}
ask("SELECT logq.remove_topic('fence')");
$c->on($_, "DELETE FROM logq_store.log WHERE attrs ? 'fence'") foreach $c->names;
add_topic('fence');
generate('fence', 2001, 3000);
ok(noted(3000), '... and on');
$c->on('p2', "UPDATE logq_store.kafka_offset SET next_offset = 2900 WHERE topic = 'fence'");
generate('fence', 3001, 4000);
ok(noted(4000), 'an offset is moved back behind our back: it goes on');
{
	my @wrong = split /\n/, wrong_numbers('fence', 2001, 4000);

	cmp_ok(scalar(@wrong), '>', 0, '... what the partition is said not to have is written');
	is_deeply([ grep { !/^(\d+) x2$/ || $1 < 2901 || $1 > 3000 } @wrong ], [],
		'... and nothing else is missing, or there twice');
}
is_well('fence', '... and all is well');

# ---------- two coordinators ----------

# room for one ingest worker
my $second = LogqTest::start_coordinator('second', @conf, 'max_worker_processes = 3',
	'max_logical_replication_workers = 0');
$c->add_partition($_, coordinator => $second) foreach $c->names;
my $other = $c->session(node => $second);

generate('twice', 1, 500);
add_topic('twice');
is_well('twice', 'one coordinator takes in a topic');
add_topic('twice', session => $other);
comes_to('twice', 'waiting', qr/somebody else takes in topic "twice"/, 'another one waits, and says why',
	session => $other);
generate('twice', 501, 1000);
numbers('twice', 1, 1000, '... and nothing is there twice');
is_well('twice', '... and the first one does not mind');
ask("SELECT logq.remove_topic('twice')");
generate('twice', 1001, 1500);
numbers('twice', 1, 1500, 'the second takes over from the first', session => $other);
ask("SELECT logq.remove_topic('twice')", session => $other);
LogqTest::poll(sub { return ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logq ingest'", session => $other) eq '0'; });

# A worker that knows nothing of what happens to its connections
{
	my $zombie;
	my $pid;

	add_topic('zombie');
	is_well('zombie', 'the first one takes in another topic');
	$zombie = $kafka->start_generate('zombie', rate => 2000, number_field => 'zombie');
	goes_on('zombie', 'rows flow');
	add_topic('zombie', session => $other);
	comes_to('zombie', 'waiting', qr/somebody else/, '... the second waits', session => $other);
	$pid = ask("SELECT max(pid) FROM logq.stat_ingest WHERE topic = 'zombie'");
	kill 'STOP', $pid or die;
	$c->on($_, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'logq ingest zombie'")
	  foreach $c->names;
	goes_on('zombie', 'the first sleeps: the second takes over', session => $other);
	kill 'CONT', $pid or die;
	comes_to('zombie', 'waiting', qr/somebody else/, 'the first wakes up, and says that somebody else is there');
	goes_on('zombie', '... the second does not mind', session => $other);
	numbers('zombie', 1, $zombie->stop, '... and every number is there once', session => $other);
	ask("SELECT logq.remove_topic('zombie')");
}

# the second has no room for another one
generate('other', 1, 100);
add_topic('other', session => $other);
comes_to('other', 'failed', qr/max_worker_processes/, 'no background worker is free: it is said', session => $other);
is_well('zombie', '... the topic that has one goes on', session => $other);
ask("SELECT logq.remove_topic('zombie')", session => $other);
numbers('other', 1, 100, '... until one is', session => $other);
is_well('other', '... and all is well', session => $other);
$other->quit;
$second->stop;

# ---------- offsets with gaps ----------

{
	my @keyed = map { "k" . ($_ % 5) } 1 .. 600;
	my $n = 0;
	my $size = sub {
		my $bytes = 0;

		$bytes += -s $_ // 0 foreach glob($kafka->{dir} . '/data/compact-0/*.log');
		return $bytes;
	};
	my $before;

	foreach my $round (1 .. 3)
	{
		$kafka->produce('compact', [ map { $n++; qq({"message": "c", "compact": $n}) } 1 .. 200 ],
			key => "k$_") foreach 1 .. 3;
	}
	$before = $size->();
	# what is written later ends the segments before
	ok(LogqTest::poll(sub {
			$kafka->produce('compact', [ map { $n++; qq({"message": "c", "compact": $n}) } 1 ], key => 'k0');
			return $size->() < $before / 2;
		}), 'a topic is compacted');
	$kafka->produce('compact', [qq({"message": "aborted", "compact": 0})], transaction => 'abort', key => 'k9');
	add_topic('compact');
	ok(caught_up('compact'), '... and taken in to its end');
	is(ask("SELECT sum(lag), max(next_offset) > $n FROM logq.stat_ingest WHERE topic = 'compact'"), '0|t',
		'... offsets are those of Kafka');
	is(ask("SELECT count(*) > 0, count(*) < $n / 2, count(*) - count(DISTINCT attrs->>'compact'), max((attrs->>'compact')::int), min((attrs->>'compact')::int) > 0 FROM logq.logs WHERE attrs ? 'compact'"),
		"t|t|0|$n|t", '... what is left of it comes once');
}

# ---------- the topic that was made anew ----------

ok(LogqTest::poll(sub {
		return ask("SELECT count(*), count(DISTINCT attrs->>'anew') FROM logq.logs WHERE message = 'made anew'") eq '40|20';
	}, 60), 'a topic was made anew: it is taken in from its beginning')
  or diag(status('anew'));
cmp_ok(scalar(log_lines($node, qr/WARNING:.*topic "anew" only/)), '>=', 1, '... and warns in the log');
is_well('anew', '... and all is well');
is(ask("SELECT count(*), count(DISTINCT attrs->>'anew') FROM logq.logs WHERE attrs ? 'anew' AND message <> 'made anew'"),
	'200|200', '... and what was there before still is, once');

$s->quit;
$kafka->stop;
done_testing();
