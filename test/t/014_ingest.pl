# Logs from a real Kafka: what is taken in, how it looks as rows, and that it is
# taken in once, whatever is changed about the topic, the settings and the
# partitions while rows flow.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use Digest::MD5 ();
use JSON::PP ();
use LogqKafka;
use LogqTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = LogqKafka->new(name => 'kafka');
my $brokers = $kafka->brokers;
# p4 is added later
my $c = LogqTest->new(
	partitions => 4,
	add => 0,
	coordinator_conf => [
		"logq.databases = 'logs'", 'max_worker_processes = 30',
		'logq.ingest_batch_ms = 50', 'logq.ingest_max_message = 64kB',
		'restart_after_crash = on'
	]);
my $node = $c->coordinator;
my @first = ('p1', 'p2', 'p3');

$c->add_partition($_) foreach @first;

# one session for all that is looked at again and again; none of what is done
# here may end it
my $s = $c->session;
my $session_pid = $s->{pid};
my $now = int(time);
my $base = $now - 7200;

sub iso
{
	my ($t) = @_;

	return strftime('%Y-%m-%dT%H:%M:%SZ', gmtime $t);
}

sub add_topic
{
	my ($topic, $format, $options) = @_;

	return $c->sql(sprintf 'SELECT logq.add_topic(%s, %s, %s, %s)',
		map { LogqTest::lit($_) } $topic, $brokers, $format // 'auto',
		JSON::PP->new->canonical->encode($options // {}));
}

# What Kafka has, and below how far logq is: "partition:offset ..."
sub ends
{
	my ($topic) = @_;

	my $offsets = $kafka->offsets($topic);

	return join ' ',
	  map { "$_:$offsets->{$_}[1]" } sort { $a <=> $b } keys %$offsets;
}

sub taken
{
	my ($topic) = @_;

	return $s->query("SELECT coalesce(string_agg(kafka_partition || ':' || next_offset, ' ' ORDER BY kafka_partition), '') FROM logq.stat_ingest WHERE topic = '$topic'");
}

# Wait until all of a topic has been taken in
sub caught_up
{
	my ($topic, $seconds) = @_;
	my $ends = ends($topic);

	return LogqTest::poll(sub { return taken($topic) eq $ends; }, $seconds)
	  || (diag("topic $topic ends at $ends, taken: " . taken($topic) . ', state '
		. $s->query("SELECT DISTINCT state, pid, last_error FROM logq.stat_ingest WHERE topic = '$topic'")),
		0);
}

sub state_is
{
	my ($topic, $state, $name) = @_;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(LogqTest::poll(sub {
			$is = $s->query("SELECT DISTINCT state, coalesce(last_error, '') FROM logq.stat_ingest WHERE topic = '$topic'");
			return $is =~ /^$state\|/;
		}), $name)
	  or diag("it is: $is");
	return;
}

# Test: all numbers in a field of attrs are there once, after the topic has been
# taken in
sub numbers
{
	my ($topic, $field, $first, $last, $name) = @_;
	my $n = $last - $first + 1;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	caught_up($topic);
	return is($s->query("SELECT count(*), count(DISTINCT attrs->>'$field'), min((attrs->>'$field')::bigint), max((attrs->>'$field')::bigint) FROM logq.logs WHERE attrs ? '$field'"),
		"$n|$n|$first|$last", $name);
}

# [pid, parent, name] of all processes below one
sub processes
{
	my ($root) = @_;
	my (%children, @found, @todo);

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		my $line = eval { slurp_file($file) } // next;

		push @{ $children{$3} }, [ $1, $3, $2 ] if $line =~ /^(\d+) \((.*)\) \S (\d+)/s;
	}
	@todo = ($root);
	while (defined(my $pid = shift @todo))
	{
		push @found, @{ $children{$pid} // [] };
		push @todo, map { $_->[0] } @{ $children{$pid} // [] };
	}
	return @found;
}

sub postmaster
{
	my ($server) = @_;

	return (split /\n/, slurp_file($server->data_dir . '/postmaster.pid'))[0];
}

# ---------- formats and columns ----------

my @formats = ('json', 'otlp', 'fluentbit', 'vector');

foreach my $format (@formats, 'mixed')
{
	$kafka->create_topic("of_$format", partitions => 3);
	# the same rows each time, but for the name of the number
	$kafka->generate("of_$format", format => $format, total => 400, seed => 5,
		from => $base - 3600, to => $base, number_field => $format);
}
$c->gives("SELECT logq.add_topic('of_json', '$brokers')", '1', 'a topic is added');
add_topic("of_$_", $_) foreach 'otlp', 'fluentbit', 'vector';
add_topic('of_mixed', 'auto');
numbers("of_$_", $_, 1, 400, "format $_: all rows once") foreach @formats, 'mixed';

my $columns = "round(extract(epoch FROM ts), 3), level, service, message, trace_id, attrs->>'status', attrs->>'region'";

foreach my $format (@formats[ 1 .. 3 ], 'mixed')
{
	is($s->query("SELECT md5(string_agg(row($columns)::text, E'\\n' ORDER BY (attrs->>'$format')::int)) FROM logq.logs WHERE attrs ? '$format'"),
		$s->query("SELECT md5(string_agg(row($columns)::text, E'\\n' ORDER BY (attrs->>'json')::int)) FROM logq.logs WHERE attrs ? 'json'"),
		"format $format: rows are those of format json")
	  or diag($s->query("SELECT $columns FROM logq.logs WHERE attrs ? 'json' ORDER BY (attrs->>'json')::int LIMIT 2; SELECT $columns, attrs FROM logq.logs WHERE attrs ? '$format' ORDER BY (attrs->>'$format')::int LIMIT 2"));
}
is($s->query("SELECT count(*) FROM logq.logs WHERE attrs ? 'json' AND (ts < to_timestamp($base - 3600) OR ts > to_timestamp($base) OR level NOT IN ('DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL') OR service IS NULL OR message IS NULL)"),
	'0', 'and have their times, levels, services and messages');

# one of each, by hand
$kafka->create_topic('by_hand', partitions => 1);
add_topic('by_hand');
$kafka->produce('by_hand', [
	'{"ts": ' . ($base * 1000 + 5) . ', "lvl": "warning", "app": "h", "msg": "a\u00e4\n", "traceId": "t1", "x": {"y": [1, null]}}',
	'{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"h"}}]},"scopeLogs":[{"logRecords":['
	  . join(',', map { qq({"timeUnixNano":"$base${_}00000000","severityNumber":17,"body":{"stringValue":"b$_"},"traceId":"0af7651916cd43dd8448eb211c80319c"}) } 1, 2)
	  . ']}]}]}' ]);
ok(caught_up('by_hand'), 'topic written by hand: taken in');
is($s->query("SELECT (extract(epoch FROM ts) * 1000)::bigint - ${base}000, level, message, trace_id, attrs->'x' FROM logq.logs WHERE service = 'h' ORDER BY ts"),
	join("\n", "5|WARN|a\x{c3}\x{a4}\n|t1|{\"y\": [1, null]}",
		map { "${_}00|ERROR|b$_|0af7651916cd43dd8448eb211c80319c|" } 1, 2),
	'topic written by hand: the columns');

# ---------- where rows go ----------

$c->sql("INSERT INTO logq.logs (ts, service, message) SELECT now(), service, 'inserted' FROM (SELECT DISTINCT service FROM logq.logs WHERE attrs ? 'json') s");
is($s->query("SELECT count(*) > 15, count(*) FILTER (WHERE partitions > 1), count(DISTINCT p) FROM (SELECT count(DISTINCT partition) AS partitions, min(partition) AS p FROM logq.logs WHERE service <> 'h' GROUP BY service) s"),
	't|0|3', 'rows from Kafka and INSERT go to the same partition, and all have some');

# ---------- partitions of Kafka, codecs ----------

my %codecs = (1 => 'gzip', 2 => 'zstd', 3 => 'snappy', 8 => 'lz4');

foreach my $n (sort keys %codecs)
{
	$kafka->create_topic("parts$n", partitions => $n);
	add_topic("parts$n");
	$kafka->generate("parts$n", total => 8000, compression => $codecs{$n},
		number_field => "parts$n", first => 100);
}
numbers("parts$_", "parts$_", 100, 8099, "$_ partitions of Kafka, $codecs{$_}: all once")
  foreach sort keys %codecs;
# a broker that stands still for too long has no leader for a moment
LogqTest::poll(sub { return $s->query("SELECT bool_and(state = 'running' AND last_error IS NULL) FROM logq.stat_ingest WHERE topic LIKE 'parts%'") eq 't'; });
is($s->query("SELECT topic, count(*), sum(rows), sum(bytes) > 800000, bool_and(rows > 0), sum(dead_letters), sum(lag), bool_and(state = 'running' AND last_error IS NULL AND last_commit > now() - interval '1 minute' AND rows_per_second > 0) FROM logq.stat_ingest WHERE topic LIKE 'parts%' GROUP BY topic ORDER BY topic"),
	join("\n", map { "parts$_|$_|8000|t|t|0|0|t" } 1, 2, 3, 8),
	'logq.stat_ingest tells of them');
# as it was at the last commit, from when on it fades
is($s->query("SELECT round((rows_per_second * exp(extract(epoch FROM now() - last_commit)::float8 / 10))::numeric, -1) BETWEEN 100 AND 800 FROM logq.stat_ingest WHERE topic = 'parts1'"),
	't', 'and rows per second are of the last seconds');
$c->sql("SELECT logq.remove_topic('of_' || f) FROM unnest('{json,otlp,fluentbit,vector,mixed}'::text[]) f; SELECT logq.remove_topic('parts' || n) FROM unnest('{1,2,3,8}'::int[]) n");
ok(LogqTest::poll(sub {
		return $s->query("SELECT count(*) FROM logq.stat_ingest") eq '1'
		  && $s->query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logq ingest'") eq '1';
	}), 'removed topics have no workers and are not shown');

# ---------- transactions, tombstones ----------

$kafka->create_topic('tx', partitions => 2);
add_topic('tx');
{
	my $n = 0;

	foreach my $end ('commit', 'abort', 'commit', 'abort')
	{
		$kafka->produce('tx', [ map { my $i = $n++; qq({"message": "$end", "tx": $i}) } 1 .. 50 ],
			transaction => $end, partition => $_)
		  foreach 0, 1;
	}
	$kafka->produce('tx', [ [ 'gone', undef ] ], partition => 0);
	$kafka->produce('tx', ['{"message": "aborted", "tx": -1}'], transaction => 'abort', partition => $_)
	  foreach 0, 1;
}
ok(caught_up('tx'), 'transactions: all offsets are passed, though the log ends with what is no message');
is($s->query("SELECT message, count(*), count(DISTINCT attrs->>'tx') FROM logq.logs WHERE attrs ? 'tx' GROUP BY message"),
	'commit|200|200', 'transactions: what was committed comes once, what was aborted never');
is($s->query("SELECT sum(lag), sum(rows), sum(dead_letters) FROM logq.stat_ingest WHERE topic = 'tx'"),
	'0|200|0', 'transactions: no lag is left; a message without a value is passed over');

# ---------- keys and headers ----------

$kafka->create_topic('extras', partitions => 1);
add_topic('extras', 'json', { 'logq.key' => 'attrs.tenant', 'logq.service' => 'deflt' });
$kafka->produce('extras', [ '{"message": "e1"}', '{"message": "e2", "service": "own", "level": "debug"}' ],
	key => 'k1', headers => { level => 'fatal', trace_id => 'tr1', other => 'x' });
$kafka->produce('extras', ['{"message": "e3"}'], headers => { service => 'hdr' });
caught_up('extras');
is($s->query("SELECT message, service, level, trace_id, attrs->>'tenant' FROM logq.logs WHERE message LIKE 'e_' ORDER BY message"),
	"e1|deflt|FATAL|tr1|k1\ne2|own|DEBUG|tr1|k1\ne3|hdr|||", 'key, headers and options fill what is missing');
is($s->query("SELECT max(ts) > now() - interval '1 minute', max(ts) <= now() FROM logq.logs WHERE message LIKE 'e_'"),
	't|t', "a row without a time has that of Kafka");
add_topic('extras', 'raw', { 'logq.key' => 'service' });
$kafka->produce('extras', ['{"message": "e4"}'], key => 'k2');
caught_up('extras');
is($s->query(q(SELECT message, service FROM logq.logs WHERE message LIKE '%"e4"%')),
	'{"message": "e4"}|k2', 'a changed format, and changed options, are followed');

# ---------- logq.start ----------

$kafka->create_topic('late_start', partitions => 2);
$kafka->generate('late_start', total => 500, number_field => 'late_start');
add_topic('late_start', 'auto', { 'logq.start' => 'latest' });
state_is('late_start', 'running', 'logq.start = latest: it runs');
$kafka->generate('late_start', total => 300, first => 501, number_field => 'late_start');
numbers('late_start', 'late_start', 501, 800, 'logq.start = latest: what comes from then on');

# ---------- dead letters ----------

my $long = 'y' x 70_000;
my @bad = (
	[ '{"message": "d0", ', 'broken' ],
	[ "{\"message\": \"d1 \xff\xfe\"}", 'UTF-8' ],
	[ "{\"message\": \"d2 \0\"}", 'NUL' ],
	[ '{"message": "d3 \u0000"}', 'NUL' ],
	[ qq({"message": "d4 $long"}), 'large' ],
	[ '{"message": "d5", "ts": "1999-12-31T23:59:59Z", "service": "d"}', 'past' ],
	[ '{"message": "d6", "ts": "' . iso($now + 10 * 86400) . '", "service": "d"}', 'future' ],
	[ '{"message": "d7", "ts": "yesterday"}', 'time' ]);

$kafka->create_topic('dead', partitions => 2);
add_topic('dead', 'json');
$kafka->produce('dead', ['{"message": "dead or alive"}'], partition => 1);
$kafka->produce('dead', [ map { $_->[0] } @bad ], partition => 1, key => 'dk');
$kafka->produce('dead', ['{"message": "dead or alive"}'], partition => 1);
caught_up('dead');
is($s->query("SELECT count(*) FROM logq.logs WHERE message = 'dead or alive'"),
	'2', 'dead letters: what is good between them comes');
is($s->query("SELECT count(*) FROM logq.logs WHERE message LIKE 'd_ %' OR message LIKE 'd_'"), '0',
	'dead letters: they are not among the rows');
is($s->query("SELECT kafka_offset, topic, kafka_partition, convert_from(key, 'UTF8'), md5(payload), ts > now() - interval '1 minute' FROM logq.dead_letters ORDER BY kafka_offset"),
	join("\n", map { ($_ + 1) . '|dead|1|dk|' . Digest::MD5::md5_hex($bad[$_][0]) . '|t' } 0 .. $#bad),
	'dead letters: each of them, with where it was, intact');
foreach my $i (0 .. $#bad)
{
	my %reason = (
		broken => qr/JSON|object|unexpected|end/i, 'UTF-8' => qr/UTF-?8/i,
		NUL => qr/NUL|\\u0000/i, large => qr/70\d\d\d|large|long/,
		past => qr/past/, future => qr/future/, time => qr/"yesterday"/);

	like($s->query('SELECT reason FROM logq.dead_letters WHERE kafka_offset = ' . ($i + 1)),
		$reason{ $bad[$i][1] }, "dead letters: the reason of $bad[$i][1]");
}
is($s->query("SELECT sum(dead_letters), sum(rows) FROM logq.stat_ingest WHERE topic = 'dead'"),
	'8|2', 'dead letters: they are counted');
# of a message with several records, the one that is bad
$kafka->create_topic('dead_records', partitions => 1);
add_topic('dead_records');
$kafka->produce('dead_records', [
	'[' . join(',', map { qq({"message": "r$_", "service": "s$_", "ts": ) . ($_ == 3 ? 946684799 : $now) . '}' } 0 .. 5) . ']',
	'{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"o"}}]},"scopeLogs":[{"logRecords":['
	  . join(',', map { '{"timeUnixNano":"' . ($_ == 4 ? 946684799 : $now) . qq(000000000","body":{"stringValue":"o$_"}}) } 0 .. 5)
	  . ']}]}]}' ]);
caught_up('dead_records');
is($s->query("SELECT count(*), count(DISTINCT message) FROM logq.logs WHERE message ~ '^[or][0-5]\$'"),
	'10|10', 'dead letters of records: their neighbours come');
is($s->query("SELECT record, length(payload) < 200 FROM logq.dead_letters WHERE topic = 'dead_records' ORDER BY kafka_offset"),
	"3|t\n4|t", 'dead letters of records: each on its own');

$c->setting('logq.ingest_max_message', '1MB');
$c->setting('logq.ingest_max_age', '20000d');
LogqTest::poll(sub { return $s->query('SHOW logq.ingest_max_age') eq '20000d'; });
is($s->query("SELECT sum(taken), sum(rows), sum(left_over) FROM logq.retry_dead_letters('dead')"),
	'2|2|6', 'dead letters: two are taken once settings let them');
is($s->query("SELECT sum(taken), sum(rows), sum(left_over) FROM logq.retry_dead_letters('dead_records')"),
	'2|2|0', 'dead letters of records: they are taken, too');
is($s->query("SELECT message, service, extract(year FROM ts) FROM logq.logs WHERE message IN ('r3', 'o4') ORDER BY 1"),
	"o4|o|1999\nr3|s3|1999", 'dead letters of records: as rows, nothing else with them');
is($s->query("SELECT sum(taken), sum(rows), sum(left_over) FROM logq.retry_dead_letters()"),
	'0|0|6', 'dead letters: ... once');
is($s->query("SELECT left(message, 2), length(message) FROM logq.logs WHERE message LIKE 'd4 %' OR message = 'd5' ORDER BY 1"),
	"d4|70003\nd5|2", 'dead letters: ... as rows');
$c->setting('logq.ingest_max_message', undef);

# ---------- secrets ----------

my @secrets = ('wrong-hunter-991', $LogqKafka::sasl_password);

# Where one of them can be seen
sub shows_secret
{
	my @where;

	foreach my $secret (@secrets)
	{
		# in this session's own query it stands the other way round
		my $like = "'%' || reverse('" . reverse($secret) . "') || '%'";

		push @where, grep {
			$s->query("SELECT count(*) FROM $_ x WHERE x::text LIKE $like") ne '0'
		} 'pg_stat_activity', 'logq.stat_ingest', 'logq.topic';
		foreach my $file ($node->logfile, (map { $c->part($_)->logfile } @first),
			map { ("/proc/$_->[0]/cmdline", "/proc/$_->[0]/environ") }
			processes(postmaster($node)))
		{
			my $text = eval { slurp_file($file) } // next;

			push @where, $file if index($text, $secret) >= 0;
		}
	}
	return join ' ', @where;
}

$kafka->create_topic('secret', partitions => 1);
$kafka->produce('secret', ['{"message": "not so secret"}']);
$brokers = $kafka->sasl_brokers;
foreach my $secret (@secrets)
{
	my $wrong = $secret eq $secrets[0];

	add_topic('secret', 'auto', {
			'security.protocol' => 'sasl_plaintext', 'sasl.mechanism' => 'PLAIN',
			'sasl.username' => $LogqKafka::sasl_user, 'sasl.password' => $secret });
	if ($wrong)
	{
		state_is('secret', 'waiting', 'with a wrong password a topic waits');
		ok(LogqTest::poll(sub { return $s->query("SELECT max(last_error) FROM logq.stat_ingest WHERE topic = 'secret'") =~ /authent/i; }),
			'... and says why')
		  or diag($s->query("SELECT last_error FROM logq.stat_ingest WHERE topic = 'secret'"));
	}
	else
	{
		caught_up('secret');
		is($s->query("SELECT count(*) FROM logq.logs WHERE message = 'not so secret'"),
			'1', 'with the right one it is taken in');
		state_is('secret', 'running', '... and runs');
	}
	is(shows_secret(), '', '... and the password is not to be seen');
}
$brokers = $kafka->brokers;
$c->fails("SELECT logq.add_topic('secret', '$brokers', 'auto', '{\"no.such.property\": \"x\", \"sasl.password\": \"$secrets[0]\"}')",
	'22023', qr/no\.such\.property/, 'a property that there is not is an error');

# ---------- isolation ----------

sub worker_pid
{
	my ($topic) = @_;

	return $s->query("SELECT max(pid) FROM logq.stat_ingest WHERE topic = '$topic'");
}

# Process id of a topic's reader, '' when there is none
sub reader_pid
{
	my ($topic) = @_;
	my $worker = worker_pid($topic);

	return join ' ', map { $_->[0] }
	  grep { $_->[1] eq $worker && $_->[2] eq 'logq_kafka' } processes(postmaster($node));
}

{
	my @with;
	my ($servers, $readers) = (0, 0);

	# settings that were changed have started the readers anew
	LogqTest::poll(sub { return $s->query("SELECT bool_and(state = 'running') FROM logq.stat_ingest") eq 't'; });
	foreach my $p (map { processes(postmaster($_)) } $node, map { $c->part($_) } @first)
	{
		my $maps = eval { slurp_file("/proc/$p->[0]/maps") } // next;

		$p->[2] eq 'logq_kafka' ? $readers++ : $servers++;
		push @with, "$p->[0] $p->[2]"
		  if ($maps =~ /librdkafka/) != ($p->[2] eq 'logq_kafka');
	}
	is_deeply(\@with, [], 'librdkafka is in the readers, and in no process of a server');
	cmp_ok($servers, '>', 20, '... of which there are many');
	is($readers, $s->query("SELECT count(DISTINCT pid) FROM logq.stat_ingest"),
		'... and one reader for each topic');
}
$c->sql("SELECT logq.remove_topic(topic) FROM (SELECT DISTINCT topic FROM logq.stat_ingest) t");

# ---------- while rows flow ----------

$kafka->create_topic('flow', partitions => 4);
add_topic('flow');
my $flow = $kafka->start_generate('flow', rate => 2000, number_field => 'flow');

# Test: it goes on, and nothing is there twice; what is left for a partition
# that was removed counts, too
sub goes_on
{
	my ($name) = @_;
	my $sum = "SELECT coalesce(sum(next_offset), 0) FROM logq.stat_ingest WHERE topic = 'flow' AND state = 'running'";
	my $from = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll(sub { return ($from = $s->query($sum)) > 0; });
	ok(LogqTest::poll(sub { return $s->query($sum) > $from + 1000; }), "$name: it goes on")
	  or diag($s->query("SELECT * FROM logq.stat_ingest WHERE topic = 'flow'"));
	is($s->query("SELECT count(*) - count(DISTINCT attrs->>'flow') FROM logq.logs WHERE attrs ? 'flow'"),
		'0', "$name: nothing is there twice");
	return;
}

goes_on('rows flow');

$c->sql("SELECT logq.pause_topic('flow')");
state_is('flow', 'paused', 'a topic is paused');
{
	my $at = taken('flow');
	my $rows = $s->query("SELECT count(*) FROM logq.logs WHERE attrs ? 'flow'");
	my $high = sub {
		my $n = 0;
		$n += $_ foreach ends('flow') =~ m{:(\d+)}g;
		return $n;
	};
	my $from = $high->();

	is(worker_pid('flow'), '', '... and has no worker');
	ok(LogqTest::poll(sub { return $high->() > $from + 1000; }), '... while messages come');
	is(taken('flow') . ' ' . $s->query("SELECT count(*) FROM logq.logs WHERE attrs ? 'flow'"),
		"$at $rows", '... that are not taken in');
}
$c->sql("SELECT logq.resume_topic('flow')");
goes_on('a topic is resumed');

$c->sql("SELECT logq.remove_topic('flow')");
ok(LogqTest::poll(sub { return $s->query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logq ingest'") eq '0'; }),
	'a topic is removed: its worker ends');
add_topic('flow', 'json');
goes_on('a topic is added again');

$c->setting('logq.route_by', 'round_robin');
goes_on('routed by turns');
$c->setting('logq.route_by', 'trace_id');
goes_on('routed by trace_id');
$c->setting('logq.route_by', undef);
goes_on('routed by service again');
like($s->query("SELECT string_agg(DISTINCT partition, ' ' ORDER BY partition) FROM logq.logs WHERE attrs ? 'flow' AND service = 'web'"),
	qr/p1 p2 p3/, 'rows of one service have come to all partitions meanwhile');

$c->add_partition('p4');
goes_on('a partition is added');
ok(LogqTest::poll(sub { return $s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p4' AND attrs ? 'flow'") > 100; }),
	'... and gets rows');
$c->fails("SELECT logq.remove_partition('p4')", '55', qr/p4/, 'it is not removed while it has rows');
$c->sql("SELECT logq.remove_partition('p4', force => true)");
goes_on('it is removed with force');
is($s->query("SELECT DISTINCT partition FROM logq.logs WHERE attrs ? 'flow' ORDER BY 1"),
	"p1\np2\np3", '... and is not asked');

foreach my $signal ('SEGV', 'KILL')
{
	my $worker = worker_pid('flow');
	my $reader;
	my $error;

	LogqTest::poll(sub { return ($reader = reader_pid('flow')) =~ /^\d+$/; });
	like($reader, qr/^\d+$/, "there is one reader to be sent SIG$signal");
	kill $signal, $reader;
	ok(LogqTest::poll(sub {
			return ($error = $s->query("SELECT max(last_error) FROM logq.stat_ingest WHERE topic = 'flow' AND state = 'waiting'")) ne '';
		}, 5), "reader ended by SIG$signal: it is said")
	  and note($error);
	goes_on("reader ended by SIG$signal");
	isnt(reader_pid('flow'), $reader, '... with another reader');
	is($s->query("SELECT max(last_error) FROM logq.stat_ingest WHERE topic = 'flow'"),
		'', '... and the error is over');
}
is($s->query('SELECT pg_backend_pid()'), $session_pid,
	'a session of the coordinator has seen all of this');

$s->quit;
$node->restart;
$s = $c->session;
goes_on('the coordinator is restarted');
$node->stop('immediate');
$node->start;
$s = $c->session;
goes_on('the coordinator is stopped at once, and started');

{
	my $total = $flow->stop;
	my %seen;
	my @wrong;

	cmp_ok($total, '>', 10_000, "$total rows have been made");
	ok(caught_up('flow'), 'they are all taken in');
	foreach my $name ($c->names)
	{
		$seen{$_}++ foreach split /\n/,
		  $c->on($name, "SELECT attrs->>'flow' FROM logq_store.log WHERE attrs ? 'flow'");
	}
	@wrong = grep { ($seen{$_} // 0) != 1 } 1 .. $total;
	is(scalar(@wrong), 0, 'every number is there once, that of the partition removed included')
	  or diag('such as: ' . join ', ', map { "$_ (" . ($seen{$_} // 0) . ')' } grep { defined } @wrong[ 0 .. 9 ]);
	is(scalar(keys %seen), $total, '... and no other');
	is($s->query("SELECT sum(lag) FROM logq.stat_ingest WHERE topic = 'flow'"), '0', '... no lag is left');
}
$c->sql("SELECT logq.remove_topic('flow')");

# ---------- what a message is made of changes while they flow ----------

# A row goes where its service says, and that comes from an option here
$kafka->create_topic('moving', partitions => 2);
$kafka->produce('moving', [ map { qq({"message": "m", "moving": $_}) } 1 .. 40_000 ]);
$c->setting('logq.ingest_batch_rows', 50);
add_topic('moving', 'json', { 'logq.service' => 'm0' });
{
	my $sum = "SELECT coalesce(sum(next_offset), 0) FROM logq.stat_ingest WHERE topic = 'moving'";
	my $changes = 0;

	foreach my $i (1 .. 8)
	{
		my $from = $s->query($sum);

		LogqTest::poll(sub { return $s->query($sum) > $from; }, 10) or last;
		last if $s->query($sum) >= 40_000;
		add_topic('moving', 'json', { 'logq.service' => "m$i" });
		$changes++;
	}
	cmp_ok($changes, '>', 1, "the service changes $changes times on the way");
}
numbers('moving', 'moving', 1, 40_000, 'rows that change their way: all once');
cmp_ok($s->query("SELECT count(DISTINCT service) FROM logq.logs WHERE attrs ? 'moving'"), '>', 1,
	'... under several services');
$c->setting('logq.ingest_batch_rows', undef);
$c->sql("SELECT logq.remove_topic('moving')");

# ---------- late rows ----------

$kafka->create_topic('tardy', partitions => 1);
add_topic('tardy', 'json');
{
	my $hour = int(($now - 3 * 86400) / 3600) * 3600;
	my $at = iso($hour + 60);
	my $segment = "lower <= '$at' AND upper > '$at'";
	my $next = "SELECT sum(next_offset) FROM logq.stat_ingest WHERE topic = 'tardy'";
	my $from;

	$kafka->produce('tardy', [ map { my $n = $_; map { qq({"ts": "$at", "level": "info", "service": "$_", "message": "tardy $n"}) } 'a' .. 'h' } 1 .. 20 ]);
	caught_up('tardy');
	is($s->query("SELECT count(*) FROM logq.logs WHERE message LIKE 'tardy %'"), '160', 'rows of the past come');
	# the sealer may be at it, too
	ok(LogqTest::poll(sub {
			$s->query('SELECT * FROM logq.seal()');
			return $s->query("SELECT string_agg(DISTINCT state, ' ') FROM logq.segments WHERE $segment") eq 'sealed';
		}), 'their segments are sealed');
	is($s->query("SELECT count(*) FROM logq.logs WHERE ts = '$at' AND level = 'FATAL'"), '0',
		'nothing is FATAL there');
	$from = $s->query($next);
	$kafka->produce('tardy', [ map { qq({"ts": "$at", "level": "fatal", "service": "$_", "message": "later"}) } 'a' .. 'h' ]);
	LogqTest::poll(sub { return $s->query($next) == $from + 8; });
	is($s->query("SELECT count(*) FROM logq.logs WHERE ts = '$at' AND level = 'FATAL'"), '8',
		'late rows are found as soon as they are said to be there');
	ok(LogqTest::poll(sub { return $s->query("SELECT bool_and(state = 'open' OR 'FATAL' = ANY (levels)) FROM logq.segments WHERE $segment") eq 't'; }),
		'... and their segments are open, or were sealed with them');
}

$s->quit;
$kafka->stop;
done_testing();
