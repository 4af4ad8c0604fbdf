# INSERT and COPY: rows arrive where they belong, all of them or none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(
	partitions => 3,
	coordinator_conf => ['max_prepared_transactions = 4']);
my $tmp = $PostgreSQL::Test::Utils::tmp_check;

# Test: this many rows of a level are there, on the partitions themselves too
sub stored
{
	my ($level, $wanted, $name) = @_;
	my $n = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$n += $c->on($_, "SELECT count(*) FROM logq_store.log WHERE level = '$level'")
	  foreach $c->names;
	is($n . ' ' . $c->sql("SELECT count(*) FROM logq.logs WHERE level = '$level'"),
		"$wanted $wanted", $name);
	return;
}

sub write_file
{
	my ($name, $text) = @_;

	open my $f, '>', "$tmp/$name" or die $!;
	print $f $text;
	close $f or die $!;
	return "$tmp/$name";
}

# ---------- routes ----------

foreach my $route (qw(service trace_id round_robin))
{
	my $copy = write_file("copy.$route", join '', map {
		sprintf "2024-06-01 00:%02d:00+00\tcopy_%s\tservice-%d\ttrace-%d\n",
		  $_ % 60, $route, $_ % 23, $_ % 41 } 1 .. 1200);
	my $key = $route eq 'trace_id' ? 'trace_id' : 'service';

	is($c->sql("SET logq.route_by = $route; INSERT INTO logq.logs (ts, level, service, trace_id) SELECT timestamptz '2024-06-01 00:00+00' + i * interval '13 seconds', 'insert_$route', 'service-' || i % 23, 'trace-' || i % 41 FROM generate_series(1, 1200) i"),
		'', "route by $route: INSERT");
	is($c->sql("SET logq.route_by = $route;\n\\copy logq.logs (ts, level, service, trace_id) FROM '$copy'"),
		'', "route by $route: COPY");
	foreach my $level ("insert_$route", "copy_$route")
	{
		stored($level, 1200, "route by $route: all rows of $level are there");
		if ($route eq 'round_robin')
		{
			is($c->sql("SELECT max(n) - min(n) <= 1, count(*) FROM (SELECT partition, count(*) AS n FROM logq.logs WHERE level = '$level' GROUP BY 1) s"),
				't|3', "route by $route: evenly");
		}
		else
		{
			is($c->sql("SELECT max(n), count(DISTINCT p) > 1 FROM (SELECT $key, count(DISTINCT partition) AS n, min(partition) AS p FROM logq.logs WHERE level = '$level' GROUP BY 1) s"),
				'1|t', "route by $route: each $key on one partition");
		}
	}
	is($c->sql("SELECT count(DISTINCT partition) FROM logq.logs WHERE level LIKE '%\\_$route' AND $key = (SELECT min($key) FROM logq.logs)"),
		1, "route by $route: INSERT and COPY agree")
	  if $route ne 'round_robin';
}
is($c->sql("SELECT count(*) = count(DISTINCT id), bool_and(id >> 44 = (SELECT number FROM logq.partition p WHERE p.server = l.partition)) FROM logq.logs l"),
	't|t', 'ids are unique and carry the number of their partition');
is($c->sql("INSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 00:00+00', 'no key'); SET logq.route_by = trace_id; INSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 00:00+00', 'no key')"),
	'', 'rows without the key to route by');
stored('no key', 2, 'are stored, too');

# ---------- RETURNING, explicit partitions, defaults ----------

is($c->sql("INSERT INTO logq.logs (ts, level, service, message, attrs) SELECT '2024-06-01 00:00+00', 'returned', 's' || i, 'm' || i, jsonb_build_object('i', i) FROM generate_series(1, 50) i RETURNING service || message || (attrs->>'i')"),
	join("\n", map { "s${_}m$_$_" } 1 .. 50), 'RETURNING gives what was inserted');
is($c->sql(<<'SQL'), 't|t|100', 'RETURNING id and partition tells where it is');
CREATE TEMP TABLE r (id bigint, partition text, n int);
SET logq.route_by = round_robin;
WITH i AS (INSERT INTO logq.logs (ts, level, service)
	SELECT '2024-06-01 00:00+00', 'with id', 's' || i
	FROM generate_series(1, 100) i RETURNING id, partition, service)
INSERT INTO r SELECT id, partition, substr(service, 2)::int FROM i;
SELECT bool_and(l.partition = r.partition), bool_and(l.service = 's' || r.n), count(*)
FROM r JOIN logq.logs l USING (id) WHERE l.level = 'with id'
SQL
is($c->sql("INSERT INTO logq.logs (ts, level, service) VALUES ('2024-06-01 00:00+00', 'row', 'a') RETURNING logs.*, tableoid::regclass") =~
	  /^2024-06-01 00:00:00\+00\|row\|a\|\|\|\|\d+\|p\d\|logq.logs$/ ? 1 : 0,
	1, 'RETURNING the whole row');
is($c->sql("INSERT INTO logq.logs (ts, level, partition, service) SELECT '2024-06-01 00:00+00', 'placed', 'p' || 1 + i % 3, 'same' FROM generate_series(1, 30) i; SELECT string_agg(partition || n, ' ' ORDER BY partition) FROM (SELECT partition, count(*) AS n FROM logq.logs WHERE level = 'placed' GROUP BY 1) s"),
	'p110 p210 p310', 'rows go where they say');
$c->fails("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:00+00', 'lost', 'p1'), ('2024-06-01 00:00+00', 'lost', 'p7')",
	'42704', qr/"p7"[\s\S]*"p1", "p2", "p3"/, 'a partition that there is not');
stored('lost', 0, 'stores nothing');
$c->fails("INSERT INTO logq.logs (ts, level, id) VALUES ('2024-06-01 00:00+00', 'lost', 5)",
	'428C9', qr/"id"/, 'an id cannot be given');
is($c->sql("INSERT INTO logq.logs (ts, level, id) VALUES ('2024-06-01 00:00+00', 'default', DEFAULT), ('2024-06-01 00:00+00', 'default', NULL)"),
	'', 'DEFAULT can');
stored('default', 2, 'and is stored');

# ---------- values ----------

{
	my $s = $c->session;
	my @texts = ("it's", 'back\\slash', '"', "tab\tline\nend", '%_', '', ' ', '\\N', '\\.', 'é日本', "\x01");

	foreach my $i (0 .. $#texts)
	{
		my $t = LogqTest::lit($texts[$i]);

		is($s->query("INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs) VALUES ('2024-06-01 01:00+00', 'text$i', $t, $t, $t, jsonb_build_object($t, $t)); SELECT count(*) FROM logq.logs WHERE level = 'text$i' AND service = $t AND message = $t AND trace_id = $t AND attrs = jsonb_build_object($t, $t)"),
			1, "text comes back: $i");
	}
	is($s->query("INSERT INTO logq.logs (ts, level, message) VALUES ('2024-06-01 01:00+00', 'long', repeat('0123456789', 1000000)); SELECT length(message), md5(message) = md5(repeat('0123456789', 1000000)) FROM logq.logs WHERE level = 'long'"),
		'10000000|t', 'a message of ten million characters comes back');
	is($s->query("INSERT INTO logq.logs (ts, level, message) SELECT '2024-06-01 01:00+00', 'longs', repeat(i::text, 100000) FROM generate_series(1, 100) i; SELECT count(*), sum(length(message)) FROM logq.logs WHERE level = 'longs'"),
		'100|' . 100000 * (9 + 180 + 3), 'and many long ones');
	$s->quit;
}
foreach my $ts ('9999-12-31 23:59:59.999999+00', '9999-12-31 23:00:00+00',
	'2300-01-01 00:59:59.999999+00', '0044-03-15 12:59:59.999999+00 BC',
	'0001-12-31 23:59:59.999999+00 BC', '1969-12-31 23:59:59.999999+00',
	'1970-01-01 00:00:00+00', '4714-11-24 00:00:00+00 BC',
	'4713-01-01 00:00:00+00 BC', '294276-12-31 22:59:59.999999+00')
{
	$c->gives("INSERT INTO logq.logs (ts, level) VALUES ('$ts', 'far'); SELECT count(*) FROM logq.logs WHERE ts = '$ts'; SELECT count(*) FROM logq.logs WHERE ts >= '$ts' AND ts <= '$ts' AND level = 'far'",
		"1\n1", "a row of $ts is stored and found");
}
# the last hour that there is has no end
{
	my $r = $c->try("INSERT INTO logq.logs (ts, level) VALUES ('294276-12-31 23:59:59.999999+00', 'last')");

	like($r->{state}, qr/^(22008|)$/, 'the last microsecond is stored, or refused')
	  or diag($r->{err});
}
foreach my $zone ('Asia/Kolkata', 'America/New_York', 'Pacific/Chatham')
{
	$c->gives("SET timezone = '$zone'; INSERT INTO logq.logs (ts, level) VALUES ('2024-03-10 01:59:59.999999', 'zone'), ('2024-03-10 03:00', 'zone'); SELECT count(*) FROM logq.logs WHERE ts IN ('2024-03-10 01:59:59.999999', '2024-03-10 03:00')",
		2, "times of $zone");
}
is($c->on('p1', "SELECT count(*) FROM logq_store.segment a JOIN logq_store.segment b ON a.lower < b.upper AND b.lower < a.upper AND a.name <> b.name"),
	0, 'no segments overlap');
is($c->on('p1', "SELECT count(*) FROM logq_store.segment WHERE upper - lower > interval '1 hour'"),
	0, 'none is longer than an hour');

# ---------- rows that are refused ----------

$c->fails("INSERT INTO logq.logs (ts, level) VALUES (NULL, 'lost')", '23502', qr/"ts"/, 'no time');
$c->fails("INSERT INTO logq.logs (level) VALUES ('lost')", '23502', qr/"ts"/, 'no time at all');
$c->fails("INSERT INTO logq.logs (ts, level) VALUES ('$_', 'lost')", '22008', qr/"ts"/, "time $_")
  foreach 'infinity', '-infinity';
$c->fails("INSERT INTO logq.logs (ts, level, attrs) VALUES (now(), 'lost', '{bad')", '22P02', qr/json/, 'bad JSON');
$c->fails("INSERT INTO logq.logs (ts, level) VALUES (now(), 'lost'), (now(), 'lost'), (NULL, 'lost')",
	'23502', qr/"ts"/, 'the last one of several');
stored('lost', 0, 'nothing of all this is stored');

foreach my $case (
	[ '{bad', '22P02', 'bad JSON' ], [ "\\N\textra", '22P04', 'a column too many' ])
{
	my $file = write_file('copy.bad', join('', map { "2024-06-01 0" . $_ % 5 . ":00+00\tlost\ts$_\t{}\n" } 1 .. 20000)
		  . "2024-06-01 00:00+00\tlost\ts\t$case->[0]\n");

	$c->fails("SET logq.route_by = round_robin;\n\\copy logq.logs (ts, level, service, attrs) FROM '$file'",
		$case->[1], qr/line 20001/, "COPY: $case->[2] in its last line");
	stored('lost', 0, 'nothing of it is stored');
}
$c->quiet('and no transaction is left open');

# ---------- one partition that refuses ----------

$c->on('p2', "ALTER TABLE logq_store.log ADD CONSTRAINT not_here CHECK (message <> 'unwelcome')");
$c->fails("SET logq.route_by = round_robin; INSERT INTO logq.logs (ts, level, message) SELECT '2024-06-01 00:00+00', 'lost', CASE WHEN i > 290 THEN 'unwelcome' ELSE 'fine' END FROM generate_series(1, 300) i",
	'23514', qr/"p2"[\s\S]*"not_here"/, 'one partition refuses rows of an INSERT');
stored('lost', 0, 'nothing is stored anywhere');
{
	my $file = write_file('copy.unwelcome', join '', map { "2024-06-01 00:00+00\tlost\tservice $_\t" . ($_ > 149990 ? 'unwelcome' : 'fine') . "\n" } 1 .. 150000);

	$c->fails("SET logq.route_by = round_robin;\n\\copy logq.logs (ts, level, service, message) FROM '$file'",
		'23514', qr/"p2"[\s\S]*"not_here"/, 'and at the end of a long COPY');
	stored('lost', 0, 'nothing is stored anywhere');
}
{
	my $s = $c->session;

	$s->query("SET logq.route_by = round_robin; BEGIN");
	$s->query("INSERT INTO logq.logs (ts, level) SELECT '2024-06-01 00:00+00', 'kept' FROM generate_series(1, 9)");
	$s->query('SAVEPOINT one');
	like($s->query("INSERT INTO logq.logs (ts, level, message) SELECT '2024-06-01 00:00+00', 'lost', 'unwelcome' FROM generate_series(1, 9)"),
		qr/23514.*"p2"/, 'refused within a savepoint');
	like($s->query("SELECT count(*) FROM logq.logs"), qr/25P02/, 'the transaction has failed');
	$s->query('ROLLBACK TO one');
	is($s->query("SELECT count(*) FROM logq.logs WHERE level IN ('kept', 'lost')"), 9,
		'after the rollback of the savepoint, earlier rows are there');
	$s->query("INSERT INTO logq.logs (ts, level) SELECT '2024-06-01 00:00+00', 'kept' FROM generate_series(1, 9)");
	is($s->query('COMMIT'), '', 'and it can commit');
	stored('kept', 18, 'with what was not rolled back');
	stored('lost', 0, 'and nothing else');

	# a refusal that comes as late as can be
	$c->on('p2', <<'SQL');
ALTER TABLE logq_store.log DROP CONSTRAINT not_here;
CREATE FUNCTION logq_store.refuse() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RAISE ''too late'' USING ERRCODE = ''23514''; END';
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON logq_store.log_20240601_000000
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.message = 'unwelcome')
	EXECUTE FUNCTION logq_store.refuse();
SQL
	$s->query('BEGIN');
	is($s->query("INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2024-06-01 00:00+00', 'late', 'unwelcome', 'p2')"),
		'', 'a deferred trigger does not refuse yet');
	like($s->query('COMMIT'), qr/ERROR:\s+23514: .*"p2".*too late/, 'COMMIT tells which partition refused');
	stored('late', 0, 'nothing is stored');
	$c->on('p2', 'DROP TRIGGER late ON logq_store.log_20240601_000000');
	$s->quit;
}

# ---------- transactions ----------

{
	my $s = $c->session;
	my $insert = sub {
		my ($level, $n) = @_;

		return $s->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 00:00+00', '$level', 's' || i FROM generate_series(1, @{[ $n // 30 ]}) i");
	};
	my $see = sub { return $s->query("SELECT count(*) FROM logq.logs WHERE level = '$_[0]'"); };

	$s->query('SET logq.route_by = round_robin; BEGIN');
	$insert->('rolled');
	is($see->('rolled'), 30, 'a transaction sees its own rows');
	is($c->sql("SELECT count(*) FROM logq.logs WHERE level = 'rolled'"), 0,
		'nobody else does');
	is($s->query("SELECT count(*) FROM logq.logs a JOIN logq.logs b USING (id) WHERE a.level = 'rolled' AND b.level = 'rolled'"),
		30, 'twice in one query');
	is($s->query("SELECT count(*) FROM (SELECT * FROM logq.logs WHERE level = 'rolled' ORDER BY ts DESC, id DESC LIMIT 7) s"),
		7, 'in order, with a LIMIT');
	is($s->query("SELECT count(DISTINCT id), max(service) FROM logq.logs WHERE level = 'rolled' AND ts BETWEEN '2024-06-01 00:00+00' AND '2024-06-01 00:01+00' GROUP BY level"),
		'30|s9', 'with conditions');
	$s->query('ROLLBACK');
	stored('rolled', 0, 'a rollback leaves nothing');

	# a new segment, of which the rows are rolled back
	$s->query("BEGIN; INSERT INTO logq.logs (ts, level) VALUES ('2031-01-01 00:00+00', 'rolled')");
	is($see->('rolled'), 1, 'a row in a new segment is seen');
	$s->query('ROLLBACK');
	stored('rolled', 0, 'and rolled back');

	$s->query('BEGIN');
	$insert->('a');
	$s->query('SAVEPOINT one');
	$insert->('b');
	$s->query('SAVEPOINT two');
	$insert->('c');
	is($see->('c'), 30, 'within savepoints');
	$s->query('ROLLBACK TO two');
	is($see->('c'), 0, 'the inner one is rolled back');
	is($see->('b'), 30, 'the outer one is not');
	$insert->('d');
	$s->query('RELEASE two');
	$s->query('SAVEPOINT three');
	$insert->('e');
	$s->query('RELEASE three');
	$s->query('ROLLBACK TO one');
	is(join(' ', map { $see->($_) } qw(a b c d e)), '30 0 0 0 0',
		'the outer one takes with it what was released into it');
	$insert->('f');
	$s->query('COMMIT');
	stored($_->[0], $_->[1], "after COMMIT: $_->[0]")
	  foreach [ 'a', 30 ], [ 'b', 0 ], [ 'd', 0 ], [ 'e', 0 ], [ 'f', 30 ];

	# blocks of PL/pgSQL are subtransactions
	is($s->query(<<'SQL'), '', 'exceptions caught in PL/pgSQL');
DO $$
BEGIN
	FOR i IN 1 .. 40 LOOP
		BEGIN
			INSERT INTO logq.logs (ts, level, service) VALUES ('2024-06-01 00:00+00', 'block', 's' || i);
			IF i % 4 = 0 THEN
				RAISE EXCEPTION 'no';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$
SQL
	stored('block', 30, 'only the blocks that ended well have stored their rows');

	# statements in one transaction that write and read in turn
	$s->query('BEGIN');
	foreach my $i (1 .. 10)
	{
		$insert->('turn', 5);
		is($see->('turn'), 5 * $i, "written and read in turn: $i") if $i % 5 == 0;
	}
	is($s->query("INSERT INTO logq.logs (ts, level, service) SELECT ts, level, service FROM logq.logs WHERE level = 'turn'"),
		'', 'rows are copied from the table into itself');
	is($see->('turn'), 100, 'once');
	$s->query('COMMIT');
	stored('turn', 100, 'and committed');
	is($s->query("INSERT INTO logq.logs (ts, level, service) SELECT ts, 'turned', service FROM logq.logs WHERE level = 'turn'"),
		'', 'the same in a statement of its own');
	stored('turned', 100, 'is right, too');

	# a cursor does not see what comes after it, or says that it cannot
	foreach my $order ('', ' ORDER BY ts, id')
	{
		my $level = 'cursor' . ($order ? ' in order' : '');
		my $answer;

		$s->query('BEGIN');
		$insert->($level, 20);
		$s->query("DECLARE c CURSOR FOR SELECT service FROM logq.logs WHERE level = '$level'$order");
		is(scalar(my @l = split /\n/, $s->query('FETCH 5 FROM c')), 5, "$level: on own rows");
		is($insert->($level, 20), '', "$level: rows are written while it is open");
		$s->query('SAVEPOINT one');
		$answer = $s->query('FETCH ALL FROM c');
		@l = split /\n/, $answer;
		ok(@l == 15 || $answer =~ /ERROR:  (55006|0A000)/, "$level: which it does not see")
		  or diag($answer);
		$s->query('ROLLBACK TO one');
		is($see->($level), 40, "$level: but others do");
		$s->query('COMMIT');
		stored($level, 40, "$level: all are stored");
	}

	# local and remote rows together
	$s->query('CREATE TABLE local (n int PRIMARY KEY)');
	like($s->query("BEGIN; INSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 00:00+00', 'lost'); INSERT INTO local VALUES (1), (1);\nCOMMIT"),
		qr/23505/, 'an error of a local table');
	stored('lost', 0, 'takes the log rows along');
	like($s->query("BEGIN; INSERT INTO local VALUES (2); INSERT INTO logq.logs (ts, level) VALUES (NULL, 'lost');\nCOMMIT"),
		qr/23502/, 'an error of a log row');
	is($s->query('SELECT count(*) FROM local'), 0, 'takes local rows along');

	# triggers and views
	is($s->query(<<'SQL'), '', 'a trigger on the log table');
CREATE TABLE seen (id bigint, partition text, message text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO seen VALUES (NEW.id, NEW.partition, NEW.message); RETURN NEW; END';
CREATE TRIGGER see AFTER INSERT ON logq.logs FOR EACH ROW EXECUTE FUNCTION see();
INSERT INTO logq.logs (ts, level, message) SELECT '2024-06-01 00:00+00', 'trigger', 'm' || i FROM generate_series(1, 20) i;
DROP TRIGGER see ON logq.logs;
SQL
	is($s->query("SELECT count(*) FROM seen JOIN logq.logs l USING (id, partition, message) WHERE l.level = 'trigger'"),
		20, 'sees the rows as they are stored');
	$s->query("CREATE VIEW errors AS SELECT * FROM logq.logs WHERE level = 'viewed' WITH CHECK OPTION");
	is($s->query("INSERT INTO errors (ts, level) VALUES ('2024-06-01 00:00+00', 'viewed')"), '', 'through a view');
	like($s->query("INSERT INTO errors (ts, level) VALUES ('2024-06-01 00:00+00', 'other')"), qr/44000/,
		'which checks');
	stored('viewed', 1, 'what it lets in is stored');
	stored('other', 0, 'what it does not is not');

	# two-phase commit
	$s->query('BEGIN');
	$insert->('prepared');
	like($s->query("PREPARE TRANSACTION 'one'"), qr/0A000/, 'PREPARE TRANSACTION is refused');
	$s->query('ROLLBACK');
	stored('prepared', 0, 'and leaves nothing');
	$s->query('BEGIN');
	$see->('a');
	is($s->query("PREPARE TRANSACTION 'two'; ROLLBACK PREPARED 'two'"), '',
		'one that has only read can be prepared');
	$s->quit;
}

# ---------- what logs do not have ----------

{
	my $n = $c->sql('SELECT count(*) FROM logq.logs');

	foreach my $sql ("UPDATE logq.logs SET level = 'x'", 'DELETE FROM logq.logs',
		'TRUNCATE logq.logs',
		"INSERT INTO logq.logs (ts) VALUES (now()) ON CONFLICT DO NOTHING",
		"INSERT INTO logq.logs (ts) VALUES (now()) ON CONFLICT (id) DO UPDATE SET level = 'x'",
		"UPDATE logq.logs SET level = 'x' WHERE id = 1 RETURNING id",
		"MERGE INTO logq.logs l USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT (ts) VALUES (now())")
	{
		$c->fails($sql, '0A000|42P10|55000|42809', qr/ERROR/, "refused: $sql");
	}
	is($c->sql('SELECT count(*) FROM logq.logs'), $n, 'nothing has changed');
	$c->fails($_, '0A000', qr/HINT:.*append-only/, "with a hint: $_")
	  foreach "UPDATE logq.logs SET level = 'x'", 'DELETE FROM logq.logs', 'TRUNCATE logq.logs';
}

# ---------- many at once ----------

{
	my @sessions = map { $c->session } 1 .. 6;
	my $segments = sub {
		return join ' ', map {
			$c->on($_, "SELECT count(*) || '/' || count(DISTINCT lower) FROM logq_store.segment WHERE lower BETWEEN '2032-01-01' AND '2032-01-01 23:00'")
		} $c->names;
	};

	# all of them need the same new segments at the same time, and keep their
	# transactions open
	$_->query('BEGIN') foreach @sessions;
	$_->send("INSERT INTO logq.logs (ts, level, service, partition) SELECT timestamptz '2032-01-01 00:00+00' + i * interval '1 hour', 'race', 's' || j, 'p' || 1 + j % 3 FROM generate_series(0, 11) i, generate_series(1, 6) j")
	  foreach @sessions;
	is(join('', map { $_->wait(60) // 'no answer ' } @sessions), '',
		'six sessions make the same segments at once');
	is(join('', map { $_->query('COMMIT') } @sessions), '', 'and commit');
	stored('race', 6 * 72, 'all rows are there');
	is($segments->(), '12/12 12/12 12/12', 'each segment is there once');

	# again, in the other order of time by half of them, each hour in turn
	foreach my $i (0 .. $#sessions)
	{
		my $order = $i % 2 ? 'DESC' : '';

		$sessions[$i]->query('BEGIN');
		$sessions[$i]->send("INSERT INTO logq.logs (ts, level, service) SELECT timestamptz '2033-01-01 00:00+00' + i * interval '1 hour', 'race 2', 's' || i FROM generate_series(0, 11) i ORDER BY i $order");
	}
	is(join('', map { $_->wait(60) // 'no answer ' } @sessions), '',
		'and in different orders');
	is(join('', map { $_->query('COMMIT') } @sessions), '', 'and commit');
	stored('race 2', 72, 'all rows are there');

	# COPY, too
	my $file = write_file('copy.race', join '', map {
		sprintf "2034-01-01 %02d:%02d:00+00\trace 3\ts%d\n", $_ % 24, $_ % 60, $_ } 1 .. 3000);

	$_->send("\\copy logq.logs (ts, level, service) FROM '$file'\n") foreach @sessions;
	is(join('', map { $_->wait(60) // 'no answer ' } @sessions), '', 'and by COPY');
	stored('race 3', 18000, 'all rows are there');
	$_->quit foreach @sessions;
}
is($c->sql('SELECT count(*) = count(DISTINCT id) FROM logq.logs'), 't', 'all ids are unique');
$c->quiet('no transaction is left open');

# ---------- a query on own rows that fails ----------

{
	my $s = $c->session;

	$s->query('BEGIN');
	is($s->query("INSERT INTO logq.logs (ts, level, message) VALUES (now(), 'failing', 'abc')"), '', 'a row is written');
	$s->query('SAVEPOINT s');
	like($s->query("SELECT count(*) FROM logq.logs WHERE level = 'failing' AND 1 / (length(message) - 3) > 0"),
		qr/22012/, 'a query fails at the partition');
	$s->query('ROLLBACK TO s');
	is($s->query("SELECT message FROM logq.logs WHERE level = 'failing'"), 'abc', 'the savepoint is what is lost');
	is($s->query('COMMIT'), '', 'and the transaction commits');
	stored('failing', 1, 'its row is there');
	$s->quit;
}

# ---------- in somebody else's name ----------

# The owner of a view or a function may be another user here, and the same one
# or another one at the partitions.
{
	my $password = LogqTest::lit($LogqTest::password);
	my $s;

	$c->on($_, <<"SQL") foreach $c->names;
CREATE ROLE stranger LOGIN;
GRANT USAGE ON SCHEMA logq_store TO stranger;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA logq_store TO stranger;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA logq_store TO stranger;
SQL
	$c->sql(<<"SQL" . join '', map { <<"MAPPINGS" } $c->names);
CREATE ROLE owner1 IN ROLE logq_writer, logq_reader;
CREATE ROLE bob IN ROLE logq_writer, logq_reader;
CREATE ROLE carol IN ROLE logq_writer, logq_reader;
CREATE ROLE dave IN ROLE logq_reader;
GRANT CREATE ON SCHEMA public TO owner1;
SET ROLE owner1;
CREATE VIEW owners AS SELECT ts, level, service, message FROM logq.logs;
CREATE FUNCTION note(text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
	AS \$\$INSERT INTO logq.logs (ts, level, message) VALUES (now(), 'note', \$1)\$\$;
GRANT SELECT, INSERT ON owners TO bob, carol, dave;
RESET ROLE;
SQL
CREATE USER MAPPING FOR owner1 SERVER $_ OPTIONS (user 'logq', password $password);
CREATE USER MAPPING FOR bob SERVER $_ OPTIONS (user 'logq', password $password);
CREATE USER MAPPING FOR carol SERVER $_ OPTIONS (user 'stranger', password_required 'false');
CREATE USER MAPPING FOR dave SERVER $_ OPTIONS (user 'logq', password 'wrong');
MAPPINGS

	my $mine = "SELECT string_agg(message, ' ' ORDER BY message) FROM logq.logs WHERE level = 'note'";
	my $theirs = $mine =~ s/logq\.logs/owners/r;

	# each way, in a session that has not been at the partitions before
	foreach my $way ([ "SELECT note('a')", $mine, 'function, read directly' ],
		[ "INSERT INTO owners VALUES (now(), 'note', 's', 'a')", $mine, 'view, read directly' ],
		[ "INSERT INTO logq.logs (ts, level, message) VALUES (now(), 'note', 'a')", $theirs, 'direct, read through the view' ])
	{
		my ($write, $read, $name) = @$way;

		$s = $c->session;
		$s->query('SET ROLE bob');
		$s->query('BEGIN');
		is($s->query($write), '', "$name: written");
		is($s->query($read), 'a', "$name: the transaction reads it");
		is($s->query("INSERT INTO logq.logs (ts, level, message) VALUES (now(), 'note', 'b'); SELECT note('c'); $mine"), "\na b c",
			"$name: and what both have written");
		is($s->query($theirs), 'a b c', "$name: whoever asks");
		is($s->query("SAVEPOINT s; SELECT note('d'); ROLLBACK TO s; $mine"), "\na b c", "$name: and savepoints are both's");
		is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'note'"), '3', "$name: counted, too");
		$s->query('ROLLBACK');
		is($s->query($mine), '', "$name: rolled back together");
		$s->quit;
	}

	# one inside of the other, with more rows than are sent at once
	$c->sql(<<'SQL');
CREATE FUNCTION noted(i int) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
	IF i % 1000 = 0 THEN
		INSERT INTO logq.logs (ts, level, message, partition) VALUES (now(), 'nested', 'noted', 'p1');
	END IF;
	RETURN '';
END $$;
ALTER FUNCTION noted OWNER TO owner1;
CREATE VIEW owners_parts AS SELECT ts, level, message, partition FROM logq.logs;
ALTER VIEW owners_parts OWNER TO owner1;
GRANT INSERT ON owners_parts TO bob;
SQL
	$s = $c->session;
	$s->query('SET ROLE bob');
	is($s->query("INSERT INTO logq.logs (ts, level, message, partition) SELECT now(), 'nested', repeat('x', 100) || noted(i), 'p1' FROM generate_series(1, 5000) i"),
		'', 'a function of another owner writes while a statement does');
	is($s->query(<<'SQL'), '', 'and two statements in one');
WITH a AS (INSERT INTO owners_parts SELECT now(), 'nested', repeat('x', 100), 'p1' FROM generate_series(1, 3000))
INSERT INTO logq.logs (ts, level, message, partition) SELECT now(), 'nested', repeat('x', 100), 'p1' FROM generate_series(1, 3000)
SQL
	stored('nested', 11005, 'all of it is there');
	$s->quit;

	# another user of the partition cannot see it
	$s = $c->session;
	$s->query('SET ROLE carol');
	$s->query('BEGIN');
	is($s->query("SELECT note('a')"), '', 'written as another user of the partition');
	like($s->query($mine), qr/ERROR:\s+0A000: cannot read from partition "p\d" as "carol" what the transaction has written to it as "owner1"/,
		'it cannot be read, and is not missed in silence');
	$s->query('ROLLBACK');
	like($s->query("BEGIN; INSERT INTO logq.logs (ts, level, message) VALUES (now(), 'note', 'b'); $theirs"),
		qr/ERROR:\s+0A000: .* as "owner1" what .* as "carol"/, 'nor the other way round');
	$s->query('ROLLBACK');
	is($s->query("BEGIN; SELECT note('a'); INSERT INTO logq.logs (ts, level, message) VALUES (now(), 'note', 'b'); COMMIT"), '',
		'but both may write');
	is($s->query($mine), 'a b', 'and all is there after COMMIT');
	$s->quit;

	# nobody gets at rows by naming a user
	$s = $c->session;
	$s->query('SET ROLE dave');
	like($s->query("BEGIN; SELECT note('c'); $mine"), qr/ERROR:\s+08001:.*\n?(?s:.*)password authentication failed/,
		'a mapping that names the same user must let one in');
	$s->query('ROLLBACK');
	$s->quit;
	is($c->sql($mine), 'a b', 'nothing else is there');
}

# ---------- segments that somebody keeps from being made ----------

{
	my $holder = $c->session(node => $c->part('p1'));
	my $hold = 'BEGIN; LOCK TABLE ONLY logq_store.log IN SHARE UPDATE EXCLUSIVE MODE';
	my $s = $c->session;
	my $insert = sub { "INSERT INTO logq.logs (ts, level, partition) VALUES ('$_[0]', 'HELD', 'p1')" };
	my $writes;

	# who holds it may take as long as it wants
	$s->query("SET logq.partition_timeout = '60s'");
	$holder->query($hold);
	$s->send($insert->('2021-03-01 00:00+00'));
	ok($holder->blocks('logq'), 'a segment cannot be made');
	$c->sql("SELECT pg_cancel_backend($s->{pid})");
	like($s->wait, qr/57014/, 'who waits for it can be cancelled');
	# the session is still there
	LogqTest::poll_ok(sub { !$c->remote_activity('p1') }, 'and nothing goes on at the partition');
	$holder->query('COMMIT');
	is($c->on('p1', "SELECT count(*) FROM logq_store.segment WHERE lower = '2021-03-01 00:00+00'"), 0, 'nothing was made');

	# first over a connection of its own, a new one, then where the transaction
	# writes
	$c->on('p1', 'SELECT logq_store.make_segment(now())');
	$c->sql('SELECT logq.refresh_catalog()');
	$s->quit;
	$s = $c->session;
	LogqTest::poll_ok(sub { $c->on('p1', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'") eq '0' },
		'no connection is left');
	$s->query('BEGIN; ' . $insert->('now'));
	$writes = $c->on('p1', "SELECT pid FROM pg_stat_activity WHERE usename = 'logq' AND state = 'idle in transaction'");
	$holder->query($hold);
	$s->send($insert->('2021-03-02 00:00+00'));
	ok($holder->until("SELECT $holder->{pid} = ANY (pg_blocking_pids($writes))"), 'a transaction waits for a segment');
	$holder->query('COMMIT');
	is($s->wait, '', 'until it is made');
	is($s->query('ROLLBACK'), '', 'and rolled back');
	# settings that were sent ahead of what failed
	$s->query("BEGIN; DECLARE a CURSOR FOR SELECT id FROM logq.logs WHERE partition = 'p1'; DECLARE b CURSOR FOR SELECT id FROM logq.logs WHERE partition = 'p1'; FETCH a; FETCH b");
	is($c->on('p1', "SELECT string_agg(substring(query FROM 'SET client_connection_check_interval'), ', ') FROM pg_stat_activity WHERE usename = 'logq'"),
		join(', ', ('SET client_connection_check_interval') x 2), 'both connections get their settings again');
	$_->quit foreach $s, $holder;
}

# ---------- no partitions ----------

$c->sql("SELECT logq.remove_partition('$_', true)") foreach $c->names;
$c->fails('INSERT INTO logq.logs (ts) VALUES (now())', '55000', qr/no partitions[\s\S]*add_partition/,
	'no partition to write to');
is($c->sql('SELECT count(*) FROM logq.logs'), 0, 'and none to read from');
done_testing();
