# Partial answers, for whoever has asked for them: what is missing is said each
# time, whatever way the rows are read; and nothing but servers that fail is
# ever left out.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProcess qw(freeze thaw kill_postmaster start_server);
use LogqProxy;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $each = 900;
my $third = $each / 3;
# what is cached would not be missing
my $c = LogqTest->new(
	partitions => 3,
	conf => ['restart_after_crash = on'],
	coordinator_conf => ['logq.cache = off']);

LogqFaults::load($c, small => $each);
$c->sql(<<'SQL');
SELECT count(*) FROM logq.seal();
SELECT logq.refresh_catalog();
CREATE TABLE service (name text, owner text);
INSERT INTO service SELECT 'service-' || i, 'owner ' || i FROM generate_series(0, 4) i;
CREATE FUNCTION count_rows() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM logq.logs';
CREATE FUNCTION loop_rows() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	r record;
	n bigint := 0;
BEGIN
	FOR r IN SELECT id FROM logq.logs ORDER BY ts, id LOOP
		n := n + 1;
	END LOOP;
	RETURN n;
END
$$;
SQL

my $proxy = LogqProxy->new(node => $c->part('p2'));
my $s = $c->session;
my $rest = "partition <> 'p2'";
# text, SQLSTATE, partition, and what it says of rows and time
my $warning = qr/^WARNING:\s+01000: partition "p2" is missing from the answer: \S/m;
my $detail = qr/^DETAIL: .*\b$each\b.*2024-06-01 00:00.*2024-06-01 0[23]:/m;

$c->route('p2', $proxy);
$s->query("SET timezone = 'UTC'");
# each query has to ask all partitions; 031_aggregate_limits.pl is about those that
# need not
$s->query('SET logq.use_rollups = off');
$s->query("SET logq.connect_timeout = '1s'");
$s->query("SET logq.partition_timeout = '1s'");

# Without the warnings, which come behind all rows
sub without_warnings
{
	my ($answer) = @_;

	$answer =~ s/^WARNING: .*//ms;
	chomp $answer;
	return $answer;
}

sub warnings_of { return (() = $_[0] =~ /^WARNING:/mg); }

# Queries, as in LogqFaults, with @W@ for a condition that local rows of the
# others meet
my $columns = 'ts, level, service, message, id, partition';
my %queries = (
	'in order' => "SELECT $columns FROM \@T\@ WHERE \@W\@ ORDER BY ts DESC, id DESC",
	'unordered, counted' => "SELECT count(*), sum(id) FROM \@T\@ WHERE \@W\@",
	'LIMIT' => "SELECT $columns FROM \@T\@ WHERE \@W\@ ORDER BY ts DESC, id DESC LIMIT 20",
	'LIMIT, ascending' => "SELECT $columns FROM \@T\@ WHERE \@W\@ ORDER BY ts, id LIMIT 20",
	'aggregate' => "SELECT service, level, count(*) FROM \@T\@ WHERE \@W\@ GROUP BY 1, 2 ORDER BY 1, 2",
	'join' => "SELECT s.owner, count(*) FROM \@T\@ l JOIN service s ON s.name = l.service WHERE \@W\@ GROUP BY 1 ORDER BY 1",
	'subquery' => "SELECT (SELECT count(*) FROM \@T\@ WHERE \@W\@), 1",
	'EXISTS' => "SELECT name FROM service s WHERE EXISTS (SELECT FROM \@T\@ l WHERE l.service = s.name AND \@W\@) ORDER BY 1",
	'CTE' => "WITH l AS MATERIALIZED (SELECT * FROM \@T\@ WHERE \@W\@) SELECT count(*), min(id) FROM l",
	'UNION' => "SELECT count(*) FROM (SELECT id FROM \@T\@ WHERE level = 'ERROR' AND \@W\@ UNION ALL SELECT id FROM \@T\@ WHERE level = 'WARN' AND \@W\@) u",
	'cursor' => "BEGIN;\nDECLARE c CURSOR FOR SELECT $columns FROM \@T\@ WHERE \@W\@ ORDER BY ts, id;\nFETCH 10 FROM c;\nFETCH ALL FROM c;\nCOMMIT",
	'prepared' => "PREPARE q AS SELECT $columns FROM \@T\@ WHERE level = \$1 AND \@W\@ ORDER BY ts, id;\nEXECUTE q('ERROR');\nDEALLOCATE q",
	'COPY' => "COPY (SELECT $columns FROM \@T\@ WHERE \@W\@ ORDER BY ts, id) TO STDOUT");

sub logq_of { return $_[0] =~ s/\@T\@/logq.logs/gr =~ s/\@W\@/true/gr; }
sub local_of { return $_[0] =~ s/\@T\@/local_logs/gr =~ s/\@W\@/$rest/gr; }

# ---------- off, as it is by default ----------

is($s->query('SHOW logq.partial_results'), 'off', 'partial answers are off by default');
is($s->query('SELECT count(*) FROM logq.logs'), 3 * $each, 'all rows are there');
$proxy->refuse;
$proxy->close_all;
foreach my $name (sort keys %queries)
{
	my $answer = $s->query(logq_of($queries{$name}));

	$s->query('ROLLBACK');
	like($answer, qr/^ERROR:\s+08\w{3}: .*"p2"/m, "off: $name: an error");
	unlike($answer, qr/WARNING/, "off: $name: and no warning");
}

# ---------- on ----------

$s->query('SET logq.partial_results = on');
foreach my $name (sort keys %queries)
{
	my $answer = $s->query(logq_of($queries{$name}));
	my $last = LogqFaults::last_query($s);

	is(without_warnings($answer), $s->query(local_of($queries{$name})),
		"$name: the rows of the others");
	like($answer, $warning, "$name: a warning") or diag(substr $answer, 0, 1000);
	like($answer, $detail, "$name: what may be missing") or diag($answer =~ /^(DETAIL.*)/m);
	like($answer, qr/^HINT: \s*\S/m, "$name: what to do");
	unlike($answer, qr/"p[13]" is missing/, "$name: none of the others is missing");
	ok(!$last->{complete}, "$name: last_query() says so");
	is_deeply($last->{missing}, ['p2'], "$name: and which one");
	cmp_ok($last->{partitions_failed}, '==', 1, "$name: and how many");
}
{
	my $answer = $s->query('SELECT count_rows(), loop_rows()');

	is(without_warnings($answer), 2 * $each . '|' . 2 * $each, 'functions: the rows of the others');
	cmp_ok(warnings_of($answer), '>=', 1, 'functions: a warning');
	ok(!LogqFaults::last_query($s)->{complete}, 'functions: last_query() says so');

	$answer = $s->query('CREATE TEMP TABLE kept AS SELECT * FROM logq.logs');
	like($answer, $warning, 'CREATE TABLE AS: a warning');
	is($s->query('SELECT count(*) FROM kept'), 2 * $each, 'CREATE TABLE AS: the rows of the others');

	$answer = $s->query("SELECT count(*) FROM logq.search(level => 'ERROR', start_time => '2024-06-01', end_time => '2024-06-02', max_rows => NULL)");
	like($answer, $warning, 'logq.search(): a warning');
	is(without_warnings($answer), 2 * $each / 100, 'logq.search(): the rows of the others');

	# the condition leaves some: how many rows may be missing, not how many there are
	$answer = $s->query("SELECT count(*) FROM logq.logs WHERE ts >= '2024-06-01 01:00+00' AND ts < '2024-06-01 02:00+00'");
	like($answer, qr/^DETAIL: .*\b$third\b.*2024-06-01 01:.*2024-06-01 0[12]:/m, 'a range: what may be missing of it');
	is(without_warnings($answer), $s->query("SELECT count(*) FROM local_logs WHERE ts >= '2024-06-01 01:00+00' AND ts < '2024-06-01 02:00+00' AND $rest"),
		'a range: the rows of the others');

	# who does not need it misses nothing
	$answer = $s->query("SELECT count(*) FROM logq.logs WHERE partition <> 'p2'");
	is($answer, 2 * $each, 'a query that does not ask it: no warning');
	ok(LogqFaults::last_query($s)->{complete}, 'and it is complete');

	# each query warns, also when the breaker is open
	foreach (1 .. 10)
	{
		$answer = $s->query('SELECT count(*) FROM logq.logs');
		ok($answer =~ $warning && without_warnings($answer) eq 2 * $each, 'again');
	}
	# once a query is enough, and by each scan of it is no less
	$answer = $s->query("SELECT count(*) FROM logq.logs a JOIN logq.logs b USING (id) WHERE a.level = 'ERROR' AND b.level = 'ERROR'");
	is(without_warnings($answer), 2 * $each / 100, 'a self-join: the rows of the others');
	cmp_ok(warnings_of($answer), '>=', 1, 'a self-join: a warning');

	# rescans: the inner side of a nested loop
	$answer = $s->query("SET enable_hashjoin = off;\nSET enable_mergejoin = off;\nSET enable_material = off;\nSELECT count(*) FROM (SELECT 1 FROM service s, LATERAL (SELECT id FROM logq.logs l WHERE l.service = s.name AND l.level = 'WARN' OFFSET 0) x) y;\nRESET enable_hashjoin;\nRESET enable_mergejoin;\nRESET enable_material");
	is(without_warnings($answer), 2 * $each / 100, 'rescans: the rows of the others');
	cmp_ok(warnings_of($answer), '>=', 1, 'rescans: a warning');
	ok(!LogqFaults::last_query($s)->{complete}, 'rescans: last_query() says so');

	# it is a matter of reading
	$answer = $s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'NEW', 'p2')");
	like($answer, qr/^ERROR:\s+08\w{3}: .*"p2"/m, 'INSERT is an error all the same');

	# and must not go unseen by a client that hides warnings
	$s->query('SET client_min_messages = error');
	is($s->query('SELECT count(*) FROM logq.logs'), 2 * $each, 'a client that hides warnings');
	ok(!LogqFaults::last_query($s)->{complete}, 'finds it in last_query()');
	$s->query('RESET client_min_messages');
}

# ---------- other errors are errors ----------

foreach my $case (
	[ "SELECT count(*) FROM logq.logs WHERE message ~ '('", '2201B' ],
	[ "SELECT count(*) FROM logq.logs WHERE length(message) / (id - id) = 1", '22012' ],
	[ "SELECT sum(1 / (id - id)) FROM logq.logs WHERE random() >= 0", '22012' ],
	[ "SELECT count(*) FROM logq.logs WHERE message::int = 1", '22P02' ])
{
	my ($sql, $state) = @$case;
	my $answer = $s->query($sql);

	like($answer, qr/^ERROR:\s+$state: /m, "$state is an error");
}
$proxy->clear;
LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; },
	'it is back: no warning', 20);
ok(LogqFaults::last_query($s)->{complete}, 'and complete');
foreach my $sql ("SELECT count(*) FROM logq.logs WHERE length(message) / (CASE partition WHEN 'p2' THEN id - id ELSE 1 END) = 1",
	"SELECT count(*) FROM logq.logs WHERE length(message) / (CASE WHEN message LIKE 'p2%' THEN 0 ELSE 1 END) = 1")
{
	like($s->query($sql), qr/^ERROR:\s+22012: /m, 'an error of one partition is one, too');
}
# a wrong password is no server that fails
$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p2 OPTIONS (SET password 'Wr0ngOne')");
{
	my $answer = $s->query('SELECT count(*) FROM logq.logs');

	ok($answer =~ /^ERROR:\s+\w{5}: .*"p2"/m
		  || ($answer =~ $warning && without_warnings($answer) eq 2 * $each),
		'a wrong password: an error, or a warning') or diag($answer);
}
$c->sql("ALTER USER MAPPING FOR CURRENT_USER SERVER p2 OPTIONS (SET password @{[ LogqTest::lit($LogqTest::password) ]})");
LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; }, 'the right one', 20);
# a table that is gone, though its segment is there
$c->on('p2', 'ALTER TABLE logq_store.log_20240601_010000 RENAME TO gone');
like($s->query('SELECT count(*) FROM logq.logs'), qr/^ERROR:\s+\w{5}: .*"p2"/m, 'a table that is gone is an error');
$c->on('p2', 'ALTER TABLE logq_store.gone RENAME TO log_20240601_010000');
LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; }, 'it is there again', 20);
LogqFaults::assert_clean($c, 'errors', $s);

# ---------- lost in the midst of it ----------

{
	my %mid = (
		'in order' => "SELECT id FROM logq.logs WHERE random() >= 0 ORDER BY ts DESC, id DESC",
		'ascending' => "SELECT id FROM logq.logs WHERE random() >= 0 ORDER BY ts, id",
		'unordered' => "SELECT id FROM logq.logs WHERE random() >= 0",
		'cursor' => "BEGIN;\nDECLARE c CURSOR FOR SELECT id FROM logq.logs ORDER BY ts, id;\nFETCH 10 FROM c;\nFETCH ALL FROM c;\nCOMMIT");
	my %of = map { /^(\d+)\|(.*)/ } split /\n/, $s->query('SELECT id, partition FROM local_logs');
	my @order = split /\n/, $s->query('SELECT id FROM local_logs ORDER BY ts, id');

	foreach my $name (sort keys %mid)
	{
		foreach my $fault ('cut', 'stall')
		{
			my $what = "$name, $fault in the midst of it";
			my ($answer, @ids, %n, @twice, $last, @wanted, %there);

			$s->query('SELECT count(*) FROM logq.logs');
			# after the versions and some of the rows, again and again
			$proxy->$fault(12_000, on => 'all');
			$proxy->$fault(0, on => 'each');
			$answer = $s->query($mid{$name});
			$last = LogqFaults::last_query($s);
			@ids = split /\n/, without_warnings($answer);
			@twice = grep { $n{$_}++ } @ids;
			like($answer, $warning, "$what: a warning") or diag(substr $answer, 0, 1000);
			ok(!$last->{complete}, "$what: last_query() says so");
			is(scalar(@twice), 0, "$what: no row twice");
			is(scalar(grep { !$of{$_} } @ids), 0, "$what: nor one that is none");
			is(scalar(grep { $of{$_} ne 'p2' } @ids), 2 * $each, "$what: all of the others");
			cmp_ok(scalar(@ids), '<', 3 * $each, "$what: some are missing (" . (@ids - 2 * $each) . " of $each are there)");
			%there = map { $_ => 1 } @ids;
			@wanted = grep { $there{$_} } $name eq 'in order' ? reverse @order : @order;
			is("@ids", "@wanted", "$what: in order") if $name ne 'unordered';
			$proxy->clear;
			$proxy->close_all;
			LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; },
				"$what: it is back", 20);
		}
	}

	# between two FETCHes
	$s->query('BEGIN');
	$s->query('DECLARE c CURSOR FOR SELECT id FROM logq.logs ORDER BY ts, id');
	is(scalar(my @l = split /\n/, $s->query('FETCH 10 FROM c')), 10, 'a cursor has begun');
	$proxy->cut(0, on => 'all');
	$proxy->refuse;
	my $answer = $s->query('FETCH ALL FROM c');
	like($answer, $warning, 'a partition is lost between two FETCHes: a warning')
	  if !LogqFaults::last_query($s)->{complete};
	ok(LogqFaults::last_query($s)->{complete} == ((() = without_warnings($answer) =~ /^\d+$/mg) == 3 * $each - 10),
		'a partition is lost between two FETCHes: what last_query() says is true');
	$s->query('COMMIT');
	$proxy->clear;

	$s->query('SET logq.partial_results = off');
	$s->query('SELECT count(*) FROM logq.logs');
	LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; }, 'it is back', 20);
	$proxy->cut(12_000, on => 'all');
	$proxy->cut(0, on => 'each');
	like($s->query($mid{'in order'}), qr/^ERROR:\s+08\w{3}: .*"p2"/m, 'off: an error in the midst of it');
	$proxy->clear;
	$s->query('SET logq.partial_results = on');
	LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; }, 'it is back', 20);
	LogqFaults::assert_clean($c, 'in the midst of it', $s);
}

# one that hangs
freeze($c->part('p2'));
{
	my $start = time;
	my $answer = $s->query('SELECT count(*) FROM logq.logs');

	like($answer, $warning, 'SIGSTOP: a warning');
	is(without_warnings($answer), 2 * $each, 'SIGSTOP: the rows of the others');
	cmp_ok(time - $start, '<', 2 + $LogqFaults::at_once, 'SIGSTOP: in time');
	$start = time;
	$s->query('SELECT count(*) FROM logq.logs') for 1 .. 5;
	cmp_ok(time - $start, '<', $LogqFaults::at_once, 'SIGSTOP: later ones do not wait');
}
thaw($c->part('p2'));
LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; }, 'it goes on', 20);
LogqFaults::assert_clean($c, 'SIGSTOP', $s);

# ---------- all of them ----------

$c->part($_)->stop('immediate') foreach $c->names;
{
	my $answer = $s->query('SELECT count(*) FROM logq.logs');
	my $last;

	# an answer without anything is none; if it is given, it is flagged
	if ($answer =~ /^ERROR/m)
	{
		like($answer, qr/^ERROR:\s+08\w{3}: .*"p[123]"/m, 'all are down: an error');
	}
	else
	{
		is(without_warnings($answer), 0, 'all are down: nothing');
		is(warnings_of($answer), 3, 'and three warnings');
		$last = LogqFaults::last_query($s);
		is_deeply([ sort @{ $last->{missing} } ], [ 'p1', 'p2', 'p3' ], 'all are missing');
		ok(!$last->{complete}, 'and it is not complete');
	}
}
start_server($c->part($_)) foreach $c->names;
LogqTest::poll_ok(sub { return $s->query('SELECT count(*) FROM logq.logs') eq 3 * $each; }, 'all are back', 20);
LogqFaults::assert_clean($c, 'all are down', $s);

# ---------- last_query() ----------

{
	my $last;

	$s->query("SELECT count(*) FROM logq.logs WHERE random() >= 0 AND ts >= '2024-06-01 01:00+00' AND ts < '2024-06-01 02:00+00'");
	$last = LogqFaults::last_query($s);
	is(join(' ', map { $last->{$_} // 'none' } qw(partitions partitions_asked partitions_failed segments_asked retried rows)),
		"3 3 0 3 0 $each", 'last_query() of a query that is complete');
	ok($last->{complete}, 'it is');
	ok(!@{ $last->{missing} // [] }, 'nothing is missing');
	cmp_ok($last->{total_ms}, '>=', $last->{first_row_ms}, 'how long it took');
	cmp_ok($last->{bytes}, '>', 0, 'how many bytes');
	is($c->session->query('SELECT count(*) FROM logq.last_query() q WHERE q.started_at IS NOT NULL'), 0,
		'a session without a query has none');
}
$s->quit;
done_testing();
