# Statistics of queries: they move as queries run, also as they fail or are not
# complete; they are kept over a restart and not over a crash; what is wrong with
# their file is no reason not to start; and texts of slow queries are for those
# who may see them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProcess qw(kill_postmaster start_server);
use LogqTest;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $each = 900;
my $c = LogqTest->new(
	partitions => 3,
	coordinator_conf => ['logq.cache = off', 'restart_after_crash = on']);
my $node = $c->coordinator;
my $file = $node->data_dir . '/pg_stat/logq_queries.stat';

LogqFaults::load($c, small => $each);
$c->sql(<<'SQL');
SELECT count(*) FROM logq.seal();
SELECT logq.refresh_catalog();
CREATE ROLE other LOGIN;
CREATE ROLE monitor LOGIN IN ROLE pg_read_all_stats;
GRANT USAGE ON SCHEMA logq TO other, monitor;
SQL

my $count = 'SELECT count(id) FROM logq.logs WHERE message IS NOT NULL';

# Columns of logq.stat_queries
sub stats
{
	my (@columns) = @_;

	return $c->sql('SELECT ' . join(', ', @columns) . ' FROM logq.stat_queries');
}

# How far they move while this runs
sub moved
{
	my ($code, @columns) = @_;
	my @before = split /\|/, stats(@columns);

	$code->();
	my @after = split /\|/, stats(@columns);
	return join '|', map { $after[$_] - $before[$_] } 0 .. $#columns;
}

# ---------- queries are counted ----------

$c->sql('SELECT logq.reset_stats()');
is(stats('queries', 'errors', 'p50_ms', 'p99_ms', 'first_row_p50_ms', 'max_ms', 'segments_pruned_percent'), '0|0|||||',
	'nothing at first');
is($c->sql('SELECT count(*), sum(count), max(le_ms) FROM logq.query_histogram()'), '38|0|Infinity', 'nor in the histogram');
is(moved(sub { $c->sql("$count; SELECT 1; $count") }, qw(queries errors partial partitions_asked partitions_pruned)),
	'2|0|0|6|0', 'two queries of three partitions');
is(moved(sub { $c->sql('SELECT id FROM logq.logs') }, qw(queries rows)), '1|' . 3 * $each, 'its rows');
cmp_ok(moved(sub { $c->sql('SELECT id FROM logq.logs') }, 'bytes'), '>', 3 * $each * 8, 'and bytes');
is(moved(sub { $c->sql('SELECT a.id FROM logq.logs a JOIN logq.logs b USING (id) LIMIT 1') }, 'queries'), 1,
	'two scans are one query');
is(moved(sub { $c->sql("EXPLAIN $count") }, 'queries'), 0, 'EXPLAIN is none');
is(moved(sub { $c->sql('SELECT * FROM logq.stat_queries') }, 'queries'), 0, 'nor is a look at them');
is(moved(sub { $c->sql("SELECT id FROM logq.logs WHERE partition = 'p1'") },
		qw(partitions_asked partitions_pruned segments_asked segments_pruned pruned_by_partition pruned_by_time)),
	'1|2|3|6|6|0', 'pruned by partition');
is(moved(sub { $c->sql("SELECT id FROM logq.logs WHERE ts < '2024-06-01 01:00+00'") },
		qw(partitions_asked segments_asked segments_pruned pruned_by_partition pruned_by_time)),
	'3|3|6|0|6', 'by time');
is(moved(sub { $c->sql("SET logq.catalog_max_age = '1h'; SELECT id FROM logq.logs WHERE service = 'nowhere'") },
		qw(partitions_asked partitions_pruned segments_asked segments_pruned pruned_by_service)),
	'0|3|0|9|9', 'by service');
is(moved(sub { $c->sql('SELECT id FROM logq.logs WHERE id = 1 << 43') }, qw(segments_pruned pruned_by_partition_id)),
	'9|9', 'by the partition in an id');
is(moved(sub { $c->sql("SELECT id FROM logq.logs WHERE ts < '2024-01-01' AND ts > '2024-02-01'") },
		qw(segments_pruned pruned_by_contradiction)), '9|9', 'by a contradiction');
is($c->sql("SELECT partitions_pruned_percent BETWEEN 1 AND 99, segments_pruned_percent BETWEEN 1 AND 99 FROM logq.stat_queries"),
	't|t', 'shares');

like(moved(sub {
		$c->sql(join '; ', 'SET logq.cache = on', 'SET logq.cache_min_cost = 0', ("SELECT id FROM logq.logs WHERE level = 'WARN'") x 4);
	}, 'segments_cached'), qr/^[1-9]/, 'segments that were cached');

# ---------- errors ----------

is(moved(sub { $c->fails('SELECT 1 / (id - id) FROM logq.logs', '22012', qr/division/, 'a query fails') },
		qw(queries errors)), '1|1', 'it is counted');
is(moved(sub { $c->sql('BEGIN; DECLARE x CURSOR FOR SELECT id FROM logq.logs; FETCH 10 FROM x; COMMIT') },
		qw(queries errors)), '1|0', 'a cursor that is not read to its end is no error');
{
	my $s = $c->session;

	is(moved(sub {
			$s->send('SELECT pg_sleep(60) FROM logq.logs');
			LogqTest::poll_ok(sub { $c->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid} AND wait_event = 'PgSleep'") },
				'a query runs');
			$c->sql("SELECT pg_cancel_backend($s->{pid})");
			like($s->wait, qr/57014/, 'and is cancelled');
		}, qw(queries errors)), '1|1', 'it is counted');
	is(moved(sub {
			$s->send('SELECT pg_sleep(60) FROM logq.logs');
			LogqTest::poll_ok(sub { $c->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid} AND wait_event = 'PgSleep'") },
				'another one runs');
			$c->sql("SELECT pg_terminate_backend($s->{pid})");
			$s->wait;
			LogqTest::poll_ok(sub { $c->sql("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $s->{pid}") eq 't' },
				'its session is ended');
		}, qw(queries errors)), '1|1', 'it is counted, too');
}

# ---------- partial answers ----------

$c->part('p2')->stop;
is(moved(sub { $c->fails($count, '08', qr/"p2"/, 'a partition is down') }, qw(queries errors partial)), '1|1|0', 'an error');
is(moved(sub { is($c->sql("SET logq.partial_results = on; $count"), 2 * $each, 'a partial answer') },
		qw(queries errors partial)), '1|0|1', 'is counted');
$c->part('p2')->start;
LogqTest::poll_ok(sub { $c->try($count)->{state} eq '' }, 'all partitions answer again');

# ---------- percentiles ----------

$c->sql('SELECT logq.reset_stats()');
$c->sql(join '; ', ($count) x 18, ('SELECT pg_sleep(0.1) FROM (SELECT FROM logq.logs LIMIT 1) x') x 2);
is(stats('queries'), 20, '18 quick queries, and two of at least 100 ms');
is(stats('p50_ms > 0', 'p50_ms <= p95_ms', 'p95_ms <= p99_ms', 'p99_ms <= max_ms', 'p95_ms BETWEEN 96 AND 100000', 'max_ms >= 100',
		'total_ms >= 200'), 't|t|t|t|t|t|t', 'percentiles');
is(stats('first_row_p50_ms > 0', 'first_row_p99_ms <= first_row_max_ms', 'first_row_ms <= total_ms'), 't|t|t', 'of the first row');
is($c->sql(<<'SQL'), 't|t|t', 'the histogram');
SELECT max(count) = 20, bool_and(count >= before), max(count) FILTER (WHERE le_ms < 96) <= 18
FROM (SELECT *, lag(count, 1, 0::bigint) OVER (ORDER BY le_ms) AS before FROM logq.query_histogram()) h
SQL
is($c->sql('SELECT min(le_ms), max(le_ms) FILTER (WHERE le_ms < \'Infinity\'), count(*) FROM logq.query_histogram()'),
	'0.25|65536|38', 'and its bounds');

# ---------- slow queries ----------

is($c->sql('SELECT count(*) FROM logq.slow_queries'), 0, 'none was slow');
{
	my $s = $c->session;
	my $last = 'SELECT query FROM logq.slow_queries LIMIT 1';

	$s->query('SET logq.slow_query_ms = 0');
	$s->query("$count /* a comment */");
	is($s->query('SELECT role, database, total_ms >= first_row_ms, failed, partial, partitions_asked, partitions_pruned, '
			  . 'segments_asked, segments_cached, segments_pruned, bytes > 0, query FROM logq.slow_queries'),
		join('|', $c->sql('SELECT current_user'), 'logs', 't', 'f', 'f', 3, 0, 9, 0, 0, 't', "$count /* a comment */"),
		'one that was');
	$s->query("SELECT 'p4ssword' AS other \\; \n\t$count \\; SELECT 2");
	is($s->query($last), $count, 'only the statement itself, not others of its message');
	$s->query("PREPARE p AS $count");
	$s->query('EXECUTE p');
	like($s->query($last), qr/\Q$count\E$/, 'a prepared one');
	$s->query('SELECT count(id), \'' . "\x{c3}\x{a4}" x 2000 . '\' FROM logq.logs');
	is($s->query('SELECT octet_length(query), length(query), right(query, 1) FROM logq.slow_queries LIMIT 1'),
		"1023|521|\x{c3}\x{a4}", 'a long one is cut between characters');
	$s->query("SELECT count(*) FROM logq.search(start_time => '-infinity', max_rows => NULL)");
	like($s->query($last), qr/logq\.search/, 'of a function that is inlined, the query');
	$s->query("DO \$\$ BEGIN PERFORM id FROM logq.logs WHERE level = 'ERROR'; END \$\$");
	like($s->query($last), qr/^SELECT id FROM logq\.logs WHERE level = 'ERROR'$/, 'of a block, the query in it');
	$s->query('SELECT 1 / (id - id) AS fails FROM logq.logs');
	like($s->query('SELECT failed, query FROM logq.slow_queries LIMIT 1'), qr/^t\|SELECT 1 .* fails/, 'one that failed');

	# rights
	$c->gives('SELECT DISTINCT role IS NULL, query FROM logq.slow_queries', 'f|<insufficient privilege>', 'another role sees no text',
		user => 'other');
	$c->gives('SELECT count(*) > 4 FROM logq.slow_queries WHERE query LIKE \'%logq.logs%\'', 't', 'who may read all statistics does',
		user => 'monitor');
	$c->fails('SET logq.slow_query_ms = -1', '42501', qr/slow_query_ms/, 'who could set it could hide', user => 'other');
	$c->fails('SELECT logq.reset_stats()', '42501', qr/reset_stats/, 'not everybody may reset', user => 'other');
	$c->gives('SELECT queries > 0 FROM logq.stat_queries', 't', 'totals are for all', user => 'other');

	# the ring
	$s->query(join ";\n", map { "SELECT count(id) AS n$_ FROM logq.logs WHERE id = 1" } 1 .. 105);
	is($s->query('SELECT count(*), max(query) FILTER (WHERE query LIKE \'%n105%\') IS NOT NULL, '
			  . 'count(*) FILTER (WHERE query ~ \'AS n[1-5] \') FROM logq.slow_queries'), '100|t|0', 'the last 100 are kept');
	like($s->query($last), qr/AS n105 /, 'the last one comes first');
	is($c->sql("SET logq.slow_query_ms = -1; $count; SELECT query LIKE '%AS n105%' FROM logq.slow_queries LIMIT 1"),
		3 * $each . "\nt", 'or none');

	# another database
	$node->safe_psql('postgres', 'CREATE EXTENSION logq');
	is($node->safe_psql('postgres', 'SELECT queries FROM logq.stat_queries'), 0, 'another database has numbers of its own');
	is($node->safe_psql('postgres', 'SELECT DISTINCT database FROM logq.slow_queries'), 'logs', 'slow queries are those of all');
}

# ---------- many at once ----------

{
	my @sessions = map { $c->session } 1 .. 6;
	my @columns = ('queries', 'errors', 'rows');
	my $each_s = 100;

	is(moved(sub {
			$_->send("SET logq.slow_query_ms = 0;\n" . join(";\n", ('SELECT id FROM logq.logs WHERE id = 1 LIMIT 1') x $each_s))
			  foreach @sessions;
			is($_->wait, '', 'one of many sessions') foreach @sessions;
		}, @columns), 6 * $each_s . '|0|0', 'no query is lost');
	is($c->sql('SELECT count(*) FROM logq.slow_queries WHERE query IS NOT NULL'), 100, 'nor torn among the slow ones');
}

# More databases than there is room for: that of the query longest ago goes,
# and a session that knew its place looks for another one
{
	my $s = $c->session;
	my $n = 'SELECT queries FROM logq.stat_queries';

	cmp_ok($s->query($n), '>', 600, 'a session knows the place of its database');
	$node->safe_psql('postgres', "CREATE DATABASE d1; CREATE DATABASE d2");
	$node->safe_psql($_, "CREATE EXTENSION logq; $n") foreach qw(d1 d2);
	$node->safe_psql('postgres', 'DROP DATABASE d1');
	$node->safe_psql('postgres', "CREATE DATABASE x$_ TEMPLATE d2") foreach 1 .. 60;
	$node->safe_psql("x$_", $n) foreach 1 .. 60;
	cmp_ok($s->query($n), '>', 600, 'there is room for 64 databases');
	# postgres, logs, d1, d2: these are as old as their entries
	$node->safe_psql('postgres', "CREATE DATABASE x$_ TEMPLATE d2") foreach 61 .. 64;
	$node->safe_psql("x$_", $n) foreach 61 .. 64;
	is($s->query("$count;\n$n"), 3 * $each . "\n1", 'not for more');
	$c->sql($count) foreach 1 .. 3;
}

# ---------- restarts ----------

my $all = 'SELECT to_json(q)::text FROM logq.stat_queries q';
my $had = $c->sql($all);

$node->restart;
is($c->sql($all), $had, 'a restart keeps the numbers');
ok(!-e $file, 'and leaves no file');
$node->stop;
ok(-s $file, 'the file is there while the server is down');
ok(!-e "$file.tmp", 'and no other');

# damaged in all ways: cut, longer, another byte, another version, empty
my $good = slurp_file($file);
my %damage = (
	cut => substr($good, 0, -1),
	longer => "${good}x",
	'another byte' => substr($good, 0, 200) . chr(ord(substr($good, 200, 1)) ^ 1) . substr($good, 201),
	'another version' => substr($good, 0, 4) . chr(99) . substr($good, 5),
	'another file' => 'x' x 1000,
	empty => '');
foreach my $name (sort keys %damage)
{
	my $log = -s $node->logfile;

	open my $f, '>:raw', $file or die "$file: $!";
	print $f $damage{$name};
	close $f;
	$node->start;
	is(stats('queries'), 0, "$name: all begin at zero");
	is(scalar(() = slurp_file($node->logfile, $log) =~ /LOG: .*ignoring invalid data in file "pg_stat\/logq_queries\.stat"/g), 1,
		'with one line in the log');
	$node->stop;
}
{
	my $log = -s $node->logfile;

	unlink $file;
	$node->start;
	is(stats('queries'), 0, 'no file: all begin at zero');
	unlike(slurp_file($node->logfile, $log), qr/logq_queries/, 'and nothing is said');
	$c->sql($count);
	$log = -s $node->logfile;
	kill_postmaster($node);
	start_server($node);
	is(stats('queries'), 0, 'after a crash of the server, too');
	unlike(slurp_file($node->logfile, $log), qr/logq_queries/, 'and nothing is said');
}

# a crash of a session
{
	my $s = $c->session;

	$s->query($count);
	kill 'KILL', $s->{pid};
	ok(LogqTest::poll(sub { my $r = $c->try('SELECT queries FROM logq.stat_queries'); return $r->{state} eq '' && $r->{out} eq '0'; }),
		'after a crash of a session, too');
	$c->sql($count);
	is(stats('queries'), 1, 'and counting goes on');
}
$node->restart;
is(stats('queries'), 1, 'and is kept');

# ---------- without shared memory ----------

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$c->gives("$count; SELECT count(*) FROM logq.stat_queries; SELECT count(*) FROM logq.query_histogram(); "
	  . 'SELECT count(*) FROM logq.slow_queries; SELECT logq.reset_stats()', 3 * $each . "\n0\n0\n0\n", 'without it there are no rows');

$node->stop;
done_testing();
