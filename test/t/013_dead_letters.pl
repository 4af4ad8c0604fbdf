# Dead letters: what the view shows, and that each is taken again once.
#
#	LOGQ_RETRY_KILLS	how often a retry is killed, 8
#	LOGQ_SEED			of when and what is killed

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $c = LogqTest->new(partitions => 3);
my $stamp = $c->sql(q{SELECT to_char(now() - interval '10 minutes', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')});
my $nano = $c->sql(q{SELECT (extract(epoch FROM now() - interval '10 minutes')::bigint * 1000000000)::text});

# A dead letter on a partition; returns its id.  Columns that are not given are
# NULL, or do not matter; payload is UTF-8.
my $offset = 0;

sub letter
{
	my ($partition, %col) = @_;
	my $payload = defined $col{payload}
	  ? 'convert_to(' . LogqTest::lit($col{payload}) . ", 'UTF8')" : 'NULL';

	$offset++;
	return $c->on($partition,
		"INSERT INTO logq_store.dead_letter (cluster, topic, kafka_partition, kafka_offset, record, ts, key, headers, payload, reason) VALUES ('abc', "
		  . LogqTest::lit($col{topic} // 'web') . ", 2, $offset, "
		  . ($col{record} // 'NULL') . ", now(), "
		  . (defined $col{key} ? "convert_to('$col{key}', 'UTF8')" : 'NULL')
		  . ", NULL, $payload, "
		  . LogqTest::lit($col{reason} // 'because') . ') RETURNING id');
}

# A message of plain JSON; ts and service as wanted
sub json
{
	my ($message, %more) = @_;
	my $ts = $more{ts} // $stamp;
	my $service = $more{service} // 'any';

	return qq({"timestamp": "$ts", "level": "info", "service": "$service", "message": "$message"});
}

# OTLP with a record for each [time in ns, message]
sub otlp
{
	return '{"resourceLogs": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}, "scopeLogs": [{"logRecords": ['
	  . join(', ', map { qq{{"timeUnixNano": "$_->[0]", "severityNumber": 9, "body": {"stringValue": "$_->[1]"}}} } @_)
	  . ']}]}]}';
}

# The same without blanks outside of its objects, as the parser takes it apart
sub alone
{
	my ($message) = @_;

	$message =~ s/^\{"resourceLogs": \[\{"resource": /{"resourceLogs":[{"resource":/;
	$message =~ s/, "scopeLogs": \[\{"logRecords": \[/,"scopeLogs":[{"logRecords":[/;
	return $message;
}

# Messages in the log of a partition, as stored there
sub messages
{
	my ($partition, $like) = @_;

	return $c->on($partition, "SELECT coalesce(string_agg(message, ',' ORDER BY message), '') FROM logq_store.log WHERE message LIKE '$like'");
}

sub reason
{
	my ($partition, $id) = @_;

	return $c->on($partition, "SELECT reason FROM logq_store.dead_letter WHERE id = $id");
}

sub clear
{
	$c->on($_, 'DELETE FROM logq_store.dead_letter') foreach $c->names;
	return;
}

# ---------- the view ----------

is($c->sql('SELECT count(*) FROM logq.dead_letters'), 0, 'none to begin with');
is($c->sql('SELECT * FROM logq.retry_dead_letters()'),
	"p1|0|0|0\np2|0|0|0\np3|0|0|0", 'and none to be retried');

letter('p2', payload => "caf\x{c3}\x{a9}", key => 'k1', record => 3, reason => "na\x{c3}\x{af}ve");
letter('p1', topic => 'other');
letter('p2', payload => '', reason => 'empty');
is($c->sql("SELECT partition, id, topic, kafka_partition, kafka_offset, record, ts > now() - interval '1 hour', convert_from(key, 'UTF8'), convert_from(payload, 'UTF8'), reason, retried_at, cluster, received_at > now() - interval '1 hour' FROM logq.dead_letters"),
	"p1|1|other|2|2||t|||because||abc|t\n"
	  . "p2|1|web|2|1|3|t|k1|caf\x{c3}\x{a9}|na\x{c3}\x{af}ve||abc|t\n"
	  . "p2|2|web|2|3||t|||empty||abc|t",
	'columns of all partitions, in order');
is($c->sql("SELECT payload IS NULL, key IS NULL FROM logq.dead_letters ORDER BY kafka_offset"),
	"f|f\nt|t\nf|t", 'NULL is not empty');
is($c->sql("BEGIN; DECLARE d CURSOR FOR SELECT id FROM logq.dead_letters; FETCH 1 FROM d; COMMIT"),
	'1', 'through a cursor that is not read to its end');
clear();

# more than work_mem, and more than we would like to have in memory
$c->on('p3', q{INSERT INTO logq_store.dead_letter (cluster, topic, kafka_partition, kafka_offset, payload, reason)
	SELECT 'abc', 'web', 0, i, decode(repeat(md5(i::text), 32768), 'hex'), 'large' FROM generate_series(1, 200) i});
{
	my $s = $c->session;
	my $peak = 0;

	$s->send(q{SELECT count(*), sum(length(payload)) FROM logq.dead_letters});
	my $out;
	until (defined($out = $s->wait(0.1)))
	{
		open my $f, '<', "/proc/$s->{pid}/status" or next;
		while (my $line = <$f>)
		{
			$peak = $1 if $line =~ /^RssAnon:\s+(\d+) kB/ && $1 > $peak;
		}
	}
	is($out, '200|104857600', '100 MB of payload');
	cmp_ok($peak, '<', 40 * 1024, 'are not all in memory');
	$s->quit;
}
clear();

# ---------- another try ----------

my $bad = letter('p1', payload => 'no json', reason => 'old reason');
letter('p1', payload => json('good 1', service => 'front'));
letter('p1', payload => json("good 2 \x{c3}\x{a9} 'quoted' \\\\ back"));
letter('p3', payload => json('good 3'));
letter('p3', topic => 'other', payload => json('other 1'));
my $none = letter('p2', topic => 'other', reason => 'not kept');

is($c->sql("SELECT * FROM logq.retry_dead_letters('web')"),
	"p1|2|2|1\np2|0|0|0\np3|1|1|0", 'one topic');
is(messages('p1', 'good%'), "good 1,good 2 \x{c3}\x{a9} 'quoted' \\ back",
	'rows are on the same partition');
is(messages('p3', '%'), 'good 3', 'also there, and not of the other topic');
is($c->sql("SELECT level, service, ts = '$stamp' FROM logq.logs WHERE message = 'good 1'"),
	'INFO|front|t', 'a row as it should be');
isnt(reason('p1', $bad), 'old reason', 'what is still bad has another reason: '
	  . reason('p1', $bad));
is($c->on('p1', "SELECT retried_at > received_at, convert_from(payload, 'UTF8') FROM logq_store.dead_letter"),
	't|no json', 'and the time of the retry');
is($c->sql('SELECT * FROM logq.retry_dead_letters()'),
	"p1|0|0|1\np2|0|0|1\np3|1|1|0", 'all topics');
is($c->sql("SELECT count(*), count(DISTINCT message) FROM logq.logs"), '4|4',
	'nothing is there twice');
is(reason('p2', $none), 'not kept', 'without a payload there is nothing to do');
is($c->on('p2', 'SELECT retried_at IS NOT NULL FROM logq_store.dead_letter'),
	't', 'but to note that it was retried');
is($c->sql("BEGIN; SELECT taken FROM logq.retry_dead_letters('none'); ROLLBACK"),
	"0\n0\n0", 'a topic that there is not');

letter('p1', payload => json('not undone'));
is($c->sql("BEGIN; SELECT sum(taken) FROM logq.retry_dead_letters(); ROLLBACK"),
	1, 'in a transaction');
is(messages('p1', 'not undone'), 'not undone', 'that does not undo it');
clear();

# ---------- messages of several records ----------

my @three = ([ $nano, 'rec 0' ], [ $nano, 'rec 1' ], [ $nano, 'rec 2' ]);

letter('p1', payload => otlp([ $nano, 'rec 7' ]), record => 7);
is($c->sql('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|1|1|0',
	'a record of a message');
is(messages('p1', 'rec%'), 'rec 7', 'whichever it was');
letter('p2', payload => otlp(@three));
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p2'"),
	'p2|1|3|0', 'a whole message');
is(messages('p2', 'rec%'), 'rec 0,rec 1,rec 2', 'has all its records');
clear();

letter('p3', payload => otlp([ $nano, 'mix 0' ], [ '1000000000', 'mix 1' ],
		[ $nano, 'mix 2' ], [ '2000000000', 'mix 3' ]), key => 'mixed');
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p3'"),
	'p3|1|2|2', 'some records are good');
is(messages('p3', 'mix%'), 'mix 0,mix 2', 'they become rows');
is($c->on('p3', "SELECT string_agg(record::text, ',' ORDER BY id), string_agg(convert_from(payload, 'UTF8'), ' ' ORDER BY id), min(convert_from(key, 'UTF8')), bool_and(reason <> 'because' AND retried_at IS NOT NULL AND ts IS NOT NULL), min(kafka_offset) = $offset, min(topic) FROM logq_store.dead_letter"),
	'1,3|' . join(' ', map { alone(otlp($_)) } [ '1000000000', 'mix 1' ], [ '2000000000', 'mix 3' ])
	  . '|mixed|t|t|web', 'the others are dead letters of their own, each by itself');
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p3'"),
	'p3|0|0|2', 'which stay');
is(messages('p3', 'mix%'), 'mix 0,mix 2', 'and nothing comes twice');
clear();

# a record that is several by the settings of now stays the record that it was
letter('p3', payload => '[' . json('part 0') . ', 1, ' . json('part 1', ts => 'never') . ', "' . ('x' x 900_000) . '"]', record => 5);
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p3'"),
	'p3|1|1|3', 'an array');
is($c->on('p3', "SELECT string_agg(concat_ws(' ', record, left(convert_from(payload, 'UTF8'), 20), octet_length(payload)), ',' ORDER BY id) FROM logq_store.dead_letter"),
	'5 [1] 3,5 {"timestamp": "never 78,5 ["xxxxxxxxxxxxxxxxxx 900004',
	'what is left of it, more than a statement has');
clear();

# thousands of them
letter('p3', payload => '[' . json('one') . (',{"ts":"never"}' x 30_000) . ']');
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p3'"),
	'p3|1|1|30000', 'one good record among thousands');
is($c->on('p3', "SELECT count(DISTINCT record), sum(octet_length(payload)) FROM logq_store.dead_letter"),
	'30000|420000', 'the others take no more room than before');
clear();

my $all = letter('p3', payload => otlp([ '1000000000', 'x' ], [ '1000000000', 'y' ]));
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p3'"),
	'p3|0|0|1', 'no record is good: one dead letter');
like(reason('p3', $all), qr/^2 of 2 records/, 'which says so');
clear();

# ---------- settings of the topic, as they are now ----------

letter('p1', topic => 'plain', payload => 'just text', key => 'thing');
is($c->sql("SELECT taken FROM logq.retry_dead_letters() LIMIT 1"), 0,
	'not without its topic');
$c->sql(q{INSERT INTO logq.topic (name, brokers, format, options, paused) VALUES ('plain', '127.0.0.1:1', 'raw', '{"logq.service": "texts"}', true)});
is($c->sql("SELECT taken FROM logq.retry_dead_letters('plain') LIMIT 1"), 1,
	'the format of its topic');
is($c->sql("SELECT service FROM logq.logs WHERE message = 'just text'"),
	'texts', 'and its options');
clear();

# ---------- batches, large and many ----------

$c->on('p2', qq~INSERT INTO logq_store.dead_letter (cluster, topic, kafka_partition, kafka_offset, payload, reason)
	SELECT 'abc', 'web', 0, i, convert_to(CASE WHEN i % 10 = 0 THEN 'nothing' ELSE '{"timestamp": "$stamp", "message": "many ' || i || '"' || CASE WHEN i % 100 = 1 THEN ', "fill": "' || repeat('x', 900000) || '"' ELSE '' END || '}' END, 'UTF8'), 'old'
	FROM generate_series(1, 2000) i~);
is($c->sql("SELECT * FROM logq.retry_dead_letters() WHERE partition = 'p2'"),
	'p2|1800|1800|200', 'more than a batch');
is($c->sql("SELECT count(*), count(DISTINCT message), max(length(attrs->>'fill')) FROM logq.logs WHERE message LIKE 'many %'"),
	'1800|1800|900000', 'each once');
is($c->on('p2', "SELECT count(*) FROM logq_store.dead_letter WHERE convert_from(payload, 'UTF8') = 'nothing' AND reason <> 'old'"),
	200, 'the others have their reason');
clear();

# ---------- what the partition refuses ----------

$c->on('p1', <<'SQL');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.message = 'refuse' THEN
		RAISE data_exception USING MESSAGE = 'we do not want this', DETAIL = 'Not at all.';
	ELSIF NEW.message = 'break' THEN
		RAISE insufficient_privilege USING MESSAGE = 'broken';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON logq_store.log FOR EACH ROW EXECUTE FUNCTION public.refuse();
SQL
letter('p1', payload => json("around $_")) foreach 1 .. 3;
my $refused = letter('p1', payload => json('refuse'));
letter('p1', payload => json("around $_")) foreach 4 .. 5;
is($c->sql('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|5|5|1',
	'one that the partition refuses does not stop the others');
is(messages('p1', 'around%'), 'around 1,around 2,around 3,around 4,around 5',
	'which are there once');
is(reason('p1', $refused), 'we do not want this: Not at all.',
	'it is kept with what the partition said');
letter('p1', payload => json('break'));
$c->fails('SELECT * FROM logq.retry_dead_letters()', '42501', qr/"p1": broken.*HINT/s,
	'other errors are errors');
is($c->on('p1', 'SELECT count(*) FROM logq_store.dead_letter'), 2,
	'and nothing is lost');
$c->on('p1', 'DROP FUNCTION public.refuse CASCADE');
is($c->sql('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|2|2|0',
	'nor for ever');

# a policy that keeps them must not let rows come again and again
letter('p1', payload => json('kept'));
$c->on('p1', <<'SQL');
CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON logq_store.dead_letter FOR EACH ROW EXECUTE FUNCTION public.keep();
SQL
$c->fails('SELECT * FROM logq.retry_dead_letters()', '09000', qr/"p1" did not change/,
	'a trigger that keeps dead letters');
is(messages('p1', 'kept'), '', 'no row of what stays');
$c->on('p1', 'DROP FUNCTION public.keep CASCADE');
clear();

# ---------- segments ----------

my $late = $c->sql(q{SELECT to_char(now() - interval '50 hours', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')});
is($c->sql("INSERT INTO logq.logs (ts, level, message, partition) VALUES ('$late', 'DEBUG', 'early', 'p1')"),
	'', 'a row of two days ago');
is($c->sql("SELECT count(*) FROM logq.seal('p1', before => now() - interval '40 hours')"),
	1, 'its segment is sealed');
{
	my $s = $c->session;
	my $found = "SELECT string_agg(message, ',') FROM logq.logs WHERE level = 'INFO' AND ts BETWEEN timestamptz '$late' - interval '1 s' AND timestamptz '$late' + interval '1 s'";

	# the copy of the catalog says that there is no such level, and is trusted
	$s->query("SET logq.catalog_max_age = '10min'; SELECT logq.refresh_catalog()");
	is($s->query($found), '', 'nothing of this level is in it');
	like($s->query("EXPLAIN (ANALYZE, COSTS off, TIMING off) $found"),
		qr/Partitions: 0 of 3.*1 by level/s, 'by what the catalog says');
	letter('p1', payload => json('late', ts => $late));
	letter('p1', payload => json('later', ts =>
			$c->sql(q{SELECT to_char(now() - interval '90 hours', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')})));
	is($s->query("SELECT * FROM logq.retry_dead_letters() LIMIT 1"), 'p1|2|2|0',
		'rows for a sealed segment, and for one that there is not');
	is($s->query($found), 'late', 'are found, though the catalog knew otherwise');
	is($c->sql("SET logq.catalog_max_age = '10min'; $found"), 'late',
		'in other sessions, too');
	is($c->sql("SELECT string_agg(message, ',' ORDER BY message) FROM logq.logs WHERE level = 'INFO' AND ts < now() - interval '40 hours'"),
		'late,later', 'all of them');
	$s->quit;
}
is($c->on('p1', "SELECT state FROM logq_store.segment WHERE lower <= '$late' AND upper > '$late'"),
	'open', 'the segment is open again');

# this session knows of a segment that is dropped meanwhile
{
	my $s = $c->session;

	letter('p1', payload => json('dropped 1', ts => $late));
	is($s->query("SELECT taken FROM logq.retry_dead_letters() LIMIT 1"), 1, 'a segment is known');
	$c->on('p1', "SELECT logq_store.drop_segment(name) FROM logq_store.segment WHERE lower <= '$late' AND upper > '$late'");
	letter('p1', payload => json('dropped 2', ts => $late));
	is($s->query("SELECT taken FROM logq.retry_dead_letters() LIMIT 1"), 1, 'and made again when it was dropped');
	is(messages('p1', 'dropped%'), 'dropped 2', 'with the row');
	$s->quit;
}

# ---------- others at the same time ----------

{
	my $other = $c->session(node => $c->part('p1'));
	my $s = $c->session;
	my $id = letter('p1', payload => json('locked'));
	my $changed;
	my $future = $c->sql(q{SELECT to_char(now() - interval '200 hours', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')});

	letter('p1', payload => json('free'));
	$other->query("BEGIN; SELECT FROM logq_store.dead_letter WHERE id = $id FOR UPDATE");
	is($s->query('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|1|1|1',
		'one that somebody else has locked is left out');
	$other->query('COMMIT');
	is($s->query('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|1|1|0',
		'and taken the next time');

	# between reading and writing there is a segment to be made, which waits
	$changed = letter('p1', payload => json('before', ts => $future));
	$other->query('BEGIN; LOCK TABLE ONLY logq_store.log IN SHARE UPDATE EXCLUSIVE MODE');
	$s->send('SELECT * FROM logq.retry_dead_letters() LIMIT 1');
	ok($other->blocks('logq'), 'a retry waits to make a segment');
	$c->on('p1', "UPDATE logq_store.dead_letter SET payload = convert_to('" . json('after', ts => $future) . "', 'UTF8') WHERE id = $changed");
	$other->query('COMMIT');
	is($s->wait, 'p1|0|0|1', 'one that was changed meanwhile is left out');
	is($s->query('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|1|1|0',
		'and taken the next time');
	is(messages('p1', 'before') . messages('p1', 'after'), 'after', 'as it is then');

	# cancelled while the rows are on their way
	letter('p1', payload => json("cancelled $_")) foreach 1 .. 3;
	$other->query('BEGIN; LOCK TABLE ONLY logq_store.log IN SHARE MODE');
	$s->send('SELECT * FROM logq.retry_dead_letters() LIMIT 1');
	ok($other->blocks('logq'), 'a retry waits in COPY');
	$c->sql("SELECT pg_cancel_backend($s->{pid})");
	like($s->wait(10), qr/57014/, 'it can be cancelled');
	$other->query('COMMIT');
	$c->quiet('nothing goes on');
	is($c->on('p1', 'SELECT count(*) FROM logq_store.dead_letter') . messages('p1', 'cancelled%'),
		'3', 'and has done nothing');
	is($s->query('SELECT * FROM logq.retry_dead_letters() LIMIT 1'), 'p1|3|3|0',
		'the session goes on');
	$_->quit foreach $s, $other;
}

# ---------- who may ----------

$c->on('p1', 'CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA logq_store TO stranger');
$c->sql(<<'SQL');
CREATE ROLE visitor LOGIN;
GRANT USAGE ON SCHEMA logq TO visitor;
GRANT SELECT ON logq.dead_letters, logq.partition TO visitor;
CREATE USER MAPPING FOR visitor SERVER p1 OPTIONS (user 'stranger', password_required 'false');
SQL
$c->fails('SELECT * FROM logq.dead_letters', '42501', qr/dead_letter_list/,
	'not everybody may see them', user => 'visitor');
$c->fails('SELECT * FROM logq.retry_dead_letters()', '42501', qr/retry_dead_letters/,
	'or retry them', user => 'visitor');
$c->sql('GRANT EXECUTE ON FUNCTION logq.dead_letter_list(), logq.retry_dead_letters(text) TO visitor');
$c->fails('SELECT * FROM logq.dead_letters', '42501', qr/"p1": permission denied for table dead_letter.*HINT:.*SELECT/s,
	'the partition has a say', user => 'visitor');
$c->fails('SELECT * FROM logq.retry_dead_letters()', '42501', qr/"p1": permission denied for table dead_letter.*HINT:.*privileges/s,
	'in both', user => 'visitor');

# ---------- each once, whatever is killed ----------

{
	my $kills = $ENV{LOGQ_RETRY_KILLS} // 8;
	my $seed = $ENV{LOGQ_SEED} // time;
	my $victim = 'p2';
	my $watch = $c->session(node => $c->part($victim));
	my $killer = $c->session;
	my %died;

	note("seed $seed");
	srand($seed);
	foreach my $name ($c->names)
	{
		$c->on($name, qq~INSERT INTO logq_store.dead_letter (cluster, topic, kafka_partition, kafka_offset, payload, reason)
			SELECT 'abc', 'web', 0, i, convert_to('{"timestamp": "$stamp", "message": "once $name ' || i || '"}', 'UTF8'), 'old'
			FROM generate_series(1, 20000) i~);
	}
	foreach my $round (1 .. $kills)
	{
		my $left = $c->on($victim, 'SELECT count(*) FROM logq_store.dead_letter');
		# a share of what is left, so that there is some for every round
		my $enough = $left - 1 - int(rand() * $left / ($kills - $round + 2));
		my $how = rand() < 0.5 ? 'here' : 'there';
		my ($s, $out);

		last if $left == 0;
		$s = $c->session;
		$s->send('SELECT * FROM logq.retry_dead_letters()');
		LogqTest::poll(sub { $watch->query('SELECT count(*) FROM logq_store.dead_letter') <= $enough });
		usleep(int rand 5_000);
		if ($how eq 'here')
		{
			$killer->query("SELECT pg_terminate_backend($s->{pid})");
		}
		else
		{
			$watch->query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'logq'");
		}
		$out = $s->wait(60) // 'no answer';
		$died{$round} = 1 if $out !~ /^p1\|/;
		note("round $round: $how, after $enough of $left: " . ($out =~ s/\n.*//sr));
		fail("round $round: $out") if $out !~ /^p1\||57P01|08006|session ended/;
		$s->quit;
	}
	cmp_ok(scalar(keys %died), '>', 0, 'retries were killed before their end: '
		  . scalar(keys %died) . " of $kills");
	$_->quit foreach $watch, $killer;
	$c->quiet('nothing is left running');
	$c->sql('SELECT * FROM logq.retry_dead_letters()');
	foreach my $name ($c->names)
	{
		is($c->on($name, "SELECT count(*), count(DISTINCT message), (SELECT count(*) FROM logq_store.dead_letter) FROM logq_store.log WHERE message LIKE 'once %'"),
			'20000|20000|0', "$name: each once");
	}
}

# ---------- a partition that is not there ----------

letter('p1', payload => json('first'));
$c->part('p2')->stop('immediate');
$c->fails('SELECT * FROM logq.dead_letters', '08', qr/"p2"/, 'the view names it');
$c->fails('SELECT * FROM logq.retry_dead_letters()', '08', qr/"p2"/, 'so does a retry');
is(messages('p1', 'first'), 'first', 'which has done what it could before');
$c->part('p2')->start;
is($c->sql('SELECT count(*) FROM logq.dead_letters'), 0, 'it is back');

done_testing();
