# Partitions that die, come back, are misconfigured, or change behind logq's
# back: the answer is right, or an error that names the partition.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use Test::More;

my $rows_each = 40_000;
my $c = LogqTest->new(partitions => 3);

foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment(timestamptz '2024-06-01 00:00+00' + h * interval '1 hour')
FROM generate_series(0, 3) h;
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2024-06-01 00:00+00' + i * (interval '4 hours' / $rows_each),
		CASE i % 1000 WHEN 0 THEN 'ERROR' ELSE 'INFO' END, 'service-' || i % 5,
		'$name ' || i || repeat(' some words', 20)
	FROM generate_series(0, $rows_each - 1) i;
ANALYZE logq_store.log;
SQL
}
my $all = 3 * $rows_each;
my $check = 'SELECT count(*), sum(hashtext(message)) FROM logq.logs';
my $few = "SELECT count(*) FROM logq.logs WHERE level = 'ERROR'";
my $right = $c->sql($check);
my $few_right = $c->sql($few);

like($right, qr/^$all\|/, 'all rows are there');
is($few_right, 3 * $rows_each / 1000, 'and the errors among them');

sub terminate
{
	my ($name) = @_;

	$c->on($name, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'logq'");
	LogqTest::poll(sub {
		return $c->on($name, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'") == 0;
	}) or die "backends on $name do not end";
	return;
}

# ---------- backends and partitions that go away between queries ----------

{
	my $s = $c->session;

	is($s->query($check), $right, 'a session has asked all partitions');
	terminate('p2');
	is($s->query($check), $right, 'a terminated backend is replaced: all rows');
	terminate($_) foreach $c->names;
	is($s->query($few), $few_right, 'all are replaced: some rows');
	$c->part('p3')->restart;
	is($s->query($few), $few_right, 'a partition was restarted: some rows');
	$c->part('p3')->stop('immediate');
	$c->part('p3')->start;
	is($s->query($check), $right, 'a partition crashed and recovered: all rows');

	# in a transaction, whose snapshot is the coordinator's own matter
	$s->query('BEGIN');
	is($s->query($few), $few_right, 'within a transaction');
	terminate('p1');
	is($s->query($few), $few_right, 'a backend is replaced within a transaction');
	$s->query('COMMIT');

	# several connections each: both sides of a self-join
	is($s->query("SELECT count(*) FROM logq.logs a JOIN logq.logs b USING (id) WHERE a.level = 'ERROR' AND b.level = 'ERROR'"),
		$few_right, 'two scans at once');
	terminate($_) foreach $c->names;
	is($s->query("SELECT count(*) FROM logq.logs a JOIN logq.logs b USING (id) WHERE a.level = 'ERROR' AND b.level = 'ERROR'"),
		$few_right, 'all of several connections are replaced');
	$s->quit;
}

# ---------- during a query ----------

foreach my $order ('', ' ORDER BY ts, id')
{
	my $s = $c->session;
	my $answer;

	foreach my $kind ('backend terminated', 'server stopped')
	{
		my $what = "$kind during a query" . ($order ? ' in order' : '');

		$s->query('BEGIN');
		$s->query("DECLARE c CURSOR FOR SELECT message FROM logq.logs$order");
		is(scalar(my @l = split /\n/, $s->query('FETCH 1000 FROM c')), 1000,
			"$what: the query has begun");
		if ($kind =~ /backend/)
		{
			terminate('p2');
		}
		else
		{
			$c->part('p2')->stop('immediate');
		}
		$answer = $s->query("\\o /dev/null\nFETCH ALL FROM c;\n\\o\n\\echo :ROW_COUNT");
		# in order it goes on behind the last row; otherwise only what had not
		# begun there begins anew
		ok($kind =~ /backend/ && $order ? $answer eq $all - 1000
			: $answer =~ /ERROR:\s+(08...|57P0.): .*"p2"/
			  || ($kind =~ /backend/ && $answer eq $all - 1000),
			"$what: all rows, or an error that names the partition")
		  or diag($answer);
		$s->query('ROLLBACK');
		$c->part('p2')->start if $kind =~ /server/;
		is($s->query($check), $right, "$what: the next query is right");
		$c->quiet("$what: nothing is left running");
	}
	$s->quit;
}

# ---------- a partition that is down ----------

{
	my $s = $c->session;
	my $answer;

	is($s->query($few), $few_right, 'before a partition is stopped');
	$c->part('p2')->stop;
	$answer = $s->query($check);
	like($answer, qr/ERROR:\s+08...: .*"p2"/, 'a partition is down: an error that names it');
	unlike($answer, qr/"p[13]"/, 'and none of the others');
	$c->fails($check, '08', qr/"p2"/, 'in a fresh session, too');
	$c->fails("SELECT * FROM logq.logs ORDER BY ts DESC LIMIT 1", '08', qr/"p2"/,
		'with a LIMIT, too');
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition IN ('p1', 'p3')"),
		2 * $rows_each, 'who does not ask it does not need it');
	is($s->query('SELECT count(*) FROM logq.logs WHERE id < 35184372088832'), $rows_each, 'a range of ids does not need it');
	is($s->query("SELECT count(*) FROM logq.logs WHERE ts > 'infinity'"), 0,
		'nor does a query that has no segments to ask');
	is($s->query("SELECT name || ' ' || state || ' ' || coalesce(rows::text, '-') FROM logq.partitions ORDER BY 1"),
		"p1 up $rows_each\np2 down -\np3 up $rows_each",
		'logq.partitions shows which one is down');
	is($s->query("SELECT error <> '' FROM logq.partitions WHERE name = 'p2'"), 't',
		'and why');

	like($s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'lost', 'p2')"),
		qr/ERROR:\s+08...: .*"p2"/, 'INSERT fails, too');
	like($s->query("BEGIN; INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'lost', 'p1'), ('2024-06-01 00:30+00', 'lost', 'p2');\nCOMMIT"),
		qr/ERROR:\s+08...: .*"p2"/, 'and so does one to two partitions');
	$s->query('ROLLBACK');
	like($s->query("SELECT logq.remove_partition('p2')"),
		qr/ERROR:\s+08...: .*"p2"[\s\S]*HINT:.*remove_partition\('p2', true\)/,
		'it is not removed, as it cannot tell what it holds');

	$c->part('p2')->start;
	is($s->query($check), $right, 'it is back: the session goes on, nothing was stored');
	$s->quit;
}

# ---------- a write that loses its connection ----------

{
	my $s = $c->session;
	my $insert = "INSERT INTO logq.logs (ts, level, partition) SELECT '2024-06-01 00:30+00', 'lost', 'p' || i FROM generate_series(1, 3) i";

	$s->query('BEGIN');
	is($s->query($insert), '', 'rows are written');
	terminate('p3');
	like($s->query($few), qr/ERROR:\s+(08...|57P01): .*"p3"/,
		'reading what was written fails once it is lost');
	$s->query('ROLLBACK');
	is($s->query($check), $right, 'nothing is stored');

	$s->query('BEGIN');
	$s->query($insert);
	terminate('p3');
	like($s->query('COMMIT'), qr/ERROR:\s+(08...|57P01): .*"p3"/,
		'COMMIT fails when a partition has lost its part');
	is($s->query($check), $right, 'and nothing is stored on any of them');

	# lost while in a savepoint that is rolled back: no harm is done
	$s->query('BEGIN');
	$s->query('SAVEPOINT one');
	$s->query($insert);
	terminate('p3');
	$s->query('ROLLBACK TO one');
	like($s->query("$insert;\nCOMMIT"), qr/^$|ERROR:\s+(08...|25P02)/,
		'after the rollback of the savepoint it works, or says no');
	$s->query('ROLLBACK');
	my $n = $c->sql("SELECT count(*) FROM logq.logs WHERE level = 'lost'");
	ok($n == 0 || $n == 3, "all rows or none: $n");
	$c->on($_, "DELETE FROM logq_store.log WHERE level = 'lost'") foreach $c->names;
	is($c->sql($check), $right, 'as before');
	$s->quit;
}

# ---------- slow readers and slow connections ----------

{
	# one partition is ready at once; the reader takes longer than any other
	# may take to connect
	my $s = $c->session;

	$s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND level = 'x'");
	$s->query("SET logq.connect_timeout = '1s'");
	is($s->query("SELECT count(md5(repeat(message, 500))) FROM logq.logs WHERE random() >= 0 AND ts < '2024-06-01 01:00+00'"),
		$all / 4, 'a reader that is slower than connecting may be');
	$s->quit;

	# fewer places than the scans want
	$c->on('p2', 'ALTER ROLE logq CONNECTION LIMIT 1');
	terminate('p2');
	$c->fails(<<'SQL', '08|53300', qr/"p2"[\s\S]*too many connections/,
BEGIN;
DECLARE a CURSOR FOR SELECT * FROM logq.logs ORDER BY ts, id;
DECLARE b CURSOR FOR SELECT * FROM logq.logs ORDER BY ts, id;
\o /dev/null
FETCH 1 FROM a;
FETCH 1 FROM b;
SQL
		'no connection is left on a partition');
	# the backend of the one before may still be ending
	LogqTest::poll(sub { return $c->on('p2', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'") eq '0'; });
	is($c->sql($few), $few_right, 'one scan has one');
	$c->on('p2', 'ALTER ROLE logq CONNECTION LIMIT -1');
}

# ---------- options that are wrong ----------

{
	my $s = $c->session;
	my $password = LogqTest::lit($LogqTest::password);

	is($s->query($few), $few_right, 'before the password is wrong');
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p2 OPTIONS (SET password 'Wr0ngOne')");
	my $answer = $s->query($few);
	like($answer, qr/ERROR:\s+(08001|28P01): .*"p2"[\s\S]*password authentication failed/,
		'a wrong password is noticed, although a connection was open');
	unlike($answer, qr/Wr0ngOne/, 'and not shown');
	$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p2 OPTIONS (SET password $password)");
	is($s->query($few), $few_right, 'the session goes on with the right one');

	$c->sql("DROP USER MAPPING FOR CURRENT_USER SERVER p2");
	like($s->query($few), qr/ERROR:\s+42704: user mapping not found/, 'no user mapping');
	$c->sql("CREATE USER MAPPING FOR PUBLIC SERVER p2 OPTIONS (user 'logq', password $password)");
	is($s->query($few), $few_right, 'one for PUBLIC will do');

	$c->sql("ALTER SERVER p2 OPTIONS (SET dbname 'nowhere')");
	like($s->query($few), qr/ERROR:\s+(08001|3D000): .*"p2"[\s\S]*nowhere/, 'no such database');
	$c->sql("ALTER SERVER p2 OPTIONS (SET dbname 'postgres')");
	like($s->query($few), qr/ERROR:\s+\w+: .*"p2" has no log store/,
		'a database without a store');
	$c->sql("ALTER SERVER p2 OPTIONS (SET dbname 'logs')");
	is($s->query($few), $few_right, 'all is right again');
	$s->quit;
}

# ---------- partitions that leave and come ----------

{
	my $s = $c->session;
	my $rows = 'SELECT md5(string_agg(id::text || message, \'\' ORDER BY id)) FROM logq.logs';
	my $before = $s->query($rows);
	my $number = $c->sql("SELECT number FROM logq.partition WHERE server = 'p2'");

	$c->fails("SELECT logq.remove_partition('p2')", '55006',
		qr/partition "p2" holds $rows_each rows[\s\S]*HINT:/,
		'a partition with rows is not removed');
	$c->fails("SELECT logq.remove_partition('p9')", '42704', qr/"p9"/,
		'nor is one that is none');
	$c->fails("SELECT logq.add_partition('p2')", '42710', qr/"p2"/,
		'one that is there is not added');
	$c->sql("SELECT logq.remove_partition('p2', true)");
	is($s->query('SELECT count(*), count(*) FILTER (WHERE partition = \'p2\') FROM logq.logs'),
		2 * $rows_each . '|0', 'when forced, it is: its rows are out of sight');
	is($s->query($few), 2 * $rows_each / 1000, 'another query does not see them either');
	is($c->sql("SELECT logq.add_partition('p2')"), $number,
		'added again, it has the number it had');
	is($s->query($rows), $before, 'and the rows it had');
	is($c->sql("BEGIN; SELECT logq.remove_partition('p2', true); ROLLBACK; $few"),
		"\n$few_right", 'a removal can be rolled back');

	$c->sql('DROP SERVER p2 CASCADE');
	$c->fails($few, '42704', qr/"p2"[\s\S]*does not exist/, 'the server of a partition was dropped');
	like($s->query($few), qr/ERROR:\s+42704: .*"p2"/, 'a session that knew it says the same');
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1'"), $rows_each,
		'who does not ask it does not need it');
	$c->gives("SELECT state FROM logq.partitions WHERE name = 'p2'", 'no server',
		'logq.partitions shows it');
	$c->sql($c->server_sql('p2'));
	is($s->query($rows), $before, 'the server is created again: all rows are there');

	# under another name
	$c->sql("SELECT logq.remove_partition('p2', true)");
	$c->sql('DROP SERVER p2 CASCADE');
	$c->sql($c->server_sql('other', node => $c->part('p2')));
	is($c->sql("SELECT logq.add_partition('other')"), $number,
		'the same partition under another name');
	is($s->query($rows), $before, 'has the same rows');
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition = 'other'"), $rows_each,
		'with the new name');
	$c->sql($c->server_sql('twice', node => $c->part('p1')));
	$c->fails("SELECT logq.add_partition('twice')", '42710',
		qr/"twice" has number \d+, and so has "p1"/, 'one partition cannot be two');
	$c->sql("SELECT logq.remove_partition('other', true)");
	$c->sql('DROP SERVER twice CASCADE; DROP SERVER other CASCADE');
	$c->sql($c->server_sql('p2') . "SELECT logq.add_partition('p2')");
	is($s->query($rows), $before, 'and back again');
	$s->quit;
}

# ---------- changes behind logq's back ----------

{
	my $s = $c->session;
	my $count = 'SELECT count(*) FROM logq.logs';
	my $n = $all;

	# a partition need not be asked about what changed a moment ago otherwise
	$s->query('SET logq.strict_pruning = on');
	is($s->query($count), $n, 'a session knows all segments');

	# rows into a segment that is known
	$c->on('p1', "INSERT INTO logq_store.log (ts, level) VALUES ('2024-06-01 00:10+00', 'new')");
	is($s->query("$count WHERE level = 'new'"), 1, 'a row that psql inserted is found');
	is($s->query($count), ++$n, 'and counted');

	# a segment that is new
	$c->on('p1', "SELECT logq_store.make_segment('2024-07-01 12:00+00'); INSERT INTO logq_store.log (ts, level) VALUES ('2024-07-01 12:10+00', 'newer')");
	is($s->query("$count WHERE ts >= '2024-07-01 12:00+00'"), 1,
		'a segment that psql made is found at once');
	is($s->query("SELECT level FROM logq.logs ORDER BY ts DESC LIMIT 1"), 'newer',
		'and holds the newest row');
	is($s->query($count), ++$n, 'which is counted');

	# dropped as it should be
	$c->on('p1', <<'SQL');
BEGIN;
ALTER TABLE logq_store.log DETACH PARTITION logq_store.log_20240701_120000;
DROP TABLE logq_store.log_20240701_120000;
DELETE FROM logq_store.segment WHERE name = 'log_20240701_120000';
UPDATE logq_store.catalog_version SET version = version + 1;
COMMIT;
SQL
	is($s->query($count), --$n, 'a segment that psql dropped is not missed');

	# dropped, and the version stays: it is noticed all the same
	$n -= $c->on('p2', 'SELECT count(*) FROM logq_store.log_20240601_010000');
	$c->on('p2', <<'SQL');
BEGIN;
ALTER TABLE logq_store.log DETACH PARTITION logq_store.log_20240601_010000;
DROP TABLE logq_store.log_20240601_010000;
DELETE FROM logq_store.segment WHERE name = 'log_20240601_010000';
COMMIT;
SQL
	is($s->query($count), $n, 'nor one dropped without a new version');
	is($s->query("SELECT count(*) FROM (SELECT * FROM logq.logs ORDER BY ts, id) s"), $n,
		'in order, too');

	# made again under the same name
	$c->on('p2', "SELECT logq_store.make_segment('2024-06-01 01:00+00'); INSERT INTO logq_store.log (ts, level) VALUES ('2024-06-01 01:10+00', 'back')");
	is($s->query($count), ++$n, 'it comes back with another row');

	# a segment without its table
	$c->on('p3', 'DROP TABLE logq_store.log_20240601_020000');
	like($s->query($count), qr/ERROR:\s+\w+: .*"p3"/,
		'a table that was dropped alone is an error that names the partition');
	$c->on('p3', "DELETE FROM logq_store.segment WHERE name = 'log_20240601_020000'; UPDATE logq_store.catalog_version SET version = version + 1");
	$n = 0;
	$n += $c->on($_, 'SELECT count(*) FROM logq_store.log') foreach $c->names;
	is($s->query($count), $n, 'until its row goes, too');

	# deleted rows
	$c->on('p3', "DELETE FROM logq_store.log WHERE ts < '2024-06-01 00:30+00'");
	$n = 0;
	$n += $c->on($_, 'SELECT count(*) FROM logq_store.log') foreach $c->names;
	is($s->query($count), $n, 'deleted rows are gone');
	$s->quit;
}

# ---------- coordinators hold nothing of their own ----------

{
	my $second = LogqTest::start_coordinator('second');
	my $rows = "SELECT md5(string_agg(id::text || partition || coalesce(message, ''), '' ORDER BY id)) FROM logq.logs";
	my ($one, $two, $numbers);

	foreach my $name (reverse $c->names)
	{
		$c->add_partition($name, coordinator => $second);
	}
	$numbers = "SELECT string_agg(server || number, ',' ORDER BY server) FROM logq.partition";
	is($second->safe_psql('logs', $numbers), $c->sql($numbers),
		'a second coordinator learns the same numbers');
	is($second->safe_psql('logs', $rows), $c->sql($rows), 'and sees the same rows');

	$one = $c->session;
	$two = $c->session(node => $second);
	$one->query('SELECT count(*) FROM logq.logs');
	$two->query('SELECT count(*) FROM logq.logs');
	$two->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-08-01 00:00+00'::timestamptz + i * interval '1 minute', 'second', 's' || i FROM generate_series(0, 599) i");
	is($one->query("SELECT count(*), count(DISTINCT id) FROM logq.logs WHERE level = 'second'"),
		'600|600', 'rows, in new segments, of one are seen by the other at once');
	$one->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-08-01 00:00+00'::timestamptz + i * interval '2 minutes', 'first', 's' || i FROM generate_series(0, 599) i");
	is($two->query("SELECT count(*), count(DISTINCT id) FROM logq.logs WHERE level IN ('first', 'second')"),
		'1200|1200', 'and the other way round');

	# a crash of the coordinator loses nothing
	$one->query('BEGIN');
	$one->query("INSERT INTO logq.logs (ts, level, service) VALUES ('2024-08-01 00:00+00', 'unfinished', 's')");
	$c->coordinator->stop('immediate');
	$c->coordinator->start;
	is($c->sql("SELECT count(*) FROM logq.logs WHERE level IN ('first', 'second')"), 1200,
		'after a crash of the coordinator all rows are there');
	is($c->sql("SELECT count(*) FROM logq.logs WHERE level = 'unfinished'"), 0,
		'but those of its unfinished transaction');
	$c->quiet('which is not left open on the partitions');
	$two->quit;
}

# ---------- no store ----------

$c->on('p3', 'DROP SCHEMA logq_store CASCADE');
$c->fails("SELECT logq.remove_partition('p3')", '42P01', qr/"p3"[\s\S]*HINT:.*remove_partition\('p3', true\)/,
	'what it holds cannot be told any more');
$c->fails($few, '\w{5}', qr/"p3" has no log store[\s\S]*HINT:.*remove_partition\('p3', true\)/, 'the store was dropped');
is($c->sql("SELECT logq.remove_partition('p3', true); SELECT logq.add_partition('p3') > 0"),
	"\nt", 'the partition can be set up anew');
is($c->sql("SELECT count(*) FROM logq.logs WHERE partition = 'p3'"), 0, 'and is empty');
$c->sql("INSERT INTO logq.logs (ts, partition) VALUES ('2024-06-01 00:00+00', 'p3')");
is($c->sql("SELECT count(*) FROM logq.logs WHERE partition = 'p3'"), 1, 'and takes rows');
done_testing();
