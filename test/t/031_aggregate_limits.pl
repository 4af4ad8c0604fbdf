# Aggregates within limits: partial answers, few connections, little memory,
# cancelling, errors that are caught, and what logq.last_query() says.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqFaults;
use LogqProcess qw(sockets_of);
use LogqProxy;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $each = 3000;
my $wide = 60_000;		# rows of the wide day on each partition, all of them different
my $limit_kb = 48 * 1024;
# what is cached would not be missing
my $c = LogqTest->new(partitions => 3, replicas => { p3 => 1 },
	coordinator_conf => ['logq.cache = off'],
	conf => [ 'autovacuum = off', 'wal_retrieve_retry_interval = 100ms' ]);

LogqFaults::load($c, small => $each);
$c->on($_, <<"SQL") foreach $c->names;
SELECT logq_store.make_segment(timestamptz '2024-10-01 00:00+00' + h * interval '1 hour')
FROM generate_series(0, 1) h;
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2024-10-01 00:00+00' + i * interval '2 hours' / $wide, 'INFO', 'wide', md5(i::text) || repeat(' words', 8)
	FROM generate_series(0, $wide - 1) i;
ANALYZE logq_store.log;
SQL
$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01 02:00+00')");
$c->wait_for_catchup_all;
$c->sql('SELECT logq.refresh_catalog()');

my $small = "ts >= '2024-06-01' AND ts < '2024-06-02'";
my $sealed = "ts >= '2024-06-01 00:00+00' AND ts < '2024-06-01 02:00+00'";
my $n_sealed = $c->sql("SELECT count(*) FROM local_logs WHERE $sealed");
# rows of each segment of p2
my @segments = split /\n/, $c->sql("SELECT count(*) FROM local_logs WHERE $small AND partition = 'p2' GROUP BY date_trunc('hour', ts)");
my $proxy = LogqProxy->new(node => $c->part('p2'));

$c->route('p2', $proxy);

sub session
{
	my $s = $c->session;

	$s->query("SET timezone = 'UTC'; SET logq.catalog_max_age = '1d'; SET logq.connect_timeout = '60s'; SET logq.partition_timeout = '60s'; SET logq.queue_timeout = '60s'");
	# the partitions have said what they have, and that there is no row-level security
	$s->query("SELECT count(*) FROM logq.logs WHERE message = 'x'");
	$s->query("SELECT count(*) FROM logq.logs WHERE $sealed");
	return $s;
}

my $s = session();

# Columns of last_query()
sub last_of
{
	my ($s2, @columns) = @_;
	my $last = LogqFaults::last_query($s2);

	return join ' ', map { $last->{$_} // 'none' } @columns;
}

# ---------- what last_query() says ----------

my @numbers = qw(partitions partitions_asked partitions_failed segments_asked retried);

is($s->query("SELECT count(*) FROM logq.logs WHERE $sealed"), $n_sealed, 'counted by the catalog');
is(last_of($s, @numbers, 'bytes'), '3 0 0 0 0 0', 'nobody is asked');
ok(LogqFaults::last_query($s)->{complete}, 'and it is complete');
$s->query("SELECT date_trunc('minute', ts), count(*) FROM logq.logs WHERE $sealed GROUP BY 1");
is(last_of($s, qw(partitions partitions_asked partitions_failed retried rows)), '3 3 0 0 360', 'by rollups: 120 minutes of each');
$s->query("SELECT level, count(*) FROM logq.logs WHERE $small GROUP BY 1");
is(last_of($s, @numbers), '3 3 0 3 0', 'the open segments are asked');
cmp_ok(LogqFaults::last_query($s)->{rows}, '<', 30, 'and few rows come');

# ---------- partial answers ----------

my $rest = "partition <> 'p2'";
my $warning = qr/^WARNING:\s+01000: partition "p2" is missing from the answer: \S/m;
my %queries = (
	'count' => "SELECT count(*) FROM \@T\@ WHERE $small AND \@W\@",
	'level' => "SELECT level, count(*) FROM \@T\@ WHERE $small AND \@W\@ GROUP BY 1 ORDER BY 1",
	'level and service' => "SELECT level, service, count(*) FROM \@T\@ WHERE $small AND \@W\@ GROUP BY 1, 2 ORDER BY 1, 2",
	'minutes' => "SELECT date_trunc('minute', ts), count(*) FROM \@T\@ WHERE $small AND \@W\@ GROUP BY 1 ORDER BY 1",
	'partials' => "SELECT service, sum(length(message)), min(id) FROM \@T\@ WHERE $small AND \@W\@ GROUP BY 1 ORDER BY 1",
	'distinct' => "SELECT DISTINCT service, level FROM \@T\@ WHERE $small AND \@W\@ ORDER BY 1, 2",
	'two' => "SELECT (SELECT count(*) FROM \@T\@ WHERE $small AND \@W\@), (SELECT max(ts) FROM \@T\@ WHERE $small AND \@W\@)");

sub logq_of { return $_[0] =~ s/\@T\@/logq.logs/gr =~ s/\@W\@/true/gr; }
sub local_of { return $_[0] =~ s/\@T\@/local_logs/gr =~ s/\@W\@/$rest/gr; }

sub without_warnings
{
	my ($answer) = @_;

	$answer =~ s/^WARNING: .*//ms;
	chomp $answer;
	return $answer;
}

$proxy->refuse;
$proxy->close_all;
foreach my $name (sort keys %queries)
{
	my $answer = $s->query(logq_of($queries{$name}));

	like($answer, qr/^ERROR:\s+08\w{3}: .*"p2"/m, "off: $name: an error");
}
$s->query('SET logq.partial_results = on');
foreach my $name (sort keys %queries)
{
	my $answer = $s->query(logq_of($queries{$name}));

	# nothing of what the catalog knows of the one that is missing
	is(without_warnings($answer), $s->query(local_of($queries{$name})), "$name: the groups of the others");
	like($answer, $warning, "$name: a warning");
	ok(!LogqFaults::last_query($s)->{complete}, "$name: last_query() says so");
	is_deeply(LogqFaults::last_query($s)->{missing}, ['p2'], "$name: and which one");
}
is($s->query("SELECT count(*) FROM logq.logs WHERE $sealed"), $n_sealed, 'who need not ask it misses nothing');
ok(LogqFaults::last_query($s)->{complete}, 'and is complete');
is(without_warnings($s->query("SET logq.strict_pruning = on;\nSELECT count(*) FROM logq.logs WHERE $sealed")),
	$n_sealed / 3 * 2, 'unless it has to ask');
$s->query('RESET logq.strict_pruning');
$proxy->clear;
LogqTest::poll_ok(sub { return $s->query(logq_of($queries{count})) eq 3 * $each; }, 'it is back', 20);

# Sums of some of these
sub sums
{
	my @sums = (0);

	foreach my $n (@_)
	{
		@sums = map { ($_, $_ + $n) } @sums;
	}
	return @sums;
}

# lost in the midst of it: what has come as a whole is there, and no more
$s->query("SET logq.connect_timeout = '1s'; SET logq.partition_timeout = '1s'");
foreach my $fault ('cut', 'stall')
{
	my $query = "SELECT level, service, count(*), min(message) FROM logq.logs WHERE $small GROUP BY 1, 2";
	my @places;

	# over a connection that is there
	LogqTest::poll(sub { return $s->query(logq_of($queries{count})) eq 3 * $each; }, 20);
	@places = LogqFaults::places($proxy, sub { $s->query($query); });
	foreach my $place (grep { $_->[0] =~ /^(?:row|done) of COPY [123]$/ } @places)
	{
		my ($answer, $all);

		LogqTest::poll(sub { return $s->query(logq_of($queries{count})) eq 3 * $each; }, 20);
		$proxy->$fault($place->[1], on => 'all');
		$proxy->$fault(0, on => 'each');
		$answer = $s->query($query);
		$all = 0;
		$all += $_ foreach $answer =~ /^[A-Z]+\|service-\d\|(\d+)\|/mg;
		if ($place->[0] eq 'done of COPY 3' && $answer !~ $warning)
		{
			is($all, 3 * $each, "$fault, $place->[0]: complete");
		}
		else
		{
			like($answer, $warning, "$fault, $place->[0]: a warning");
			ok((grep { $all - 2 * $each == $_ } sums(@segments)), "$fault, $place->[0]: whole segments (" . ($all - 2 * $each) . " rows of p2)");
			cmp_ok($all, '<', 3 * $each, "$fault, $place->[0]: but not all");
		}
		$proxy->clear;
		$proxy->close_all;
	}
}
LogqTest::poll_ok(sub { return $s->query(logq_of($queries{count})) eq 3 * $each; }, 'it is back', 20);
$s->query("SET logq.connect_timeout = '60s'; SET logq.partition_timeout = '60s'");
$s->query('SET logq.partial_results = off');
LogqFaults::assert_clean($c, 'partial answers', $s);

# ---------- few connections, few partitions at once, replicas ----------

sub limit_connections
{
	my ($n) = @_;

	$c->sql("ALTER SYSTEM SET logq.max_connections_per_partition = $n");
	$c->coordinator->reload;
	LogqTest::poll(sub { return $c->sql('SELECT connection_limit FROM logq.stat_admission') == $n; })
	  or die 'the limit is not in effect';
	return;
}

my $several = <<"SQL";
SELECT (SELECT count(*) FROM logq.logs WHERE $small),
	(SELECT sum(length(message)) FROM logq.logs WHERE $small),
	(SELECT count(DISTINCT service) FROM logq.logs WHERE $small),
	l.level, l.n, s.n
FROM (SELECT level, count(*) AS n FROM logq.logs WHERE $small GROUP BY 1) l,
	(SELECT service, count(*) AS n, max(id) FROM logq.logs WHERE $small GROUP BY 1) s
ORDER BY 4, 5, 6, s.service
SQL
my $right = $s->query($several =~ s/logq\.logs/local_logs/gr);

foreach my $setting ('logq.max_parallel_partitions = 1', "logq.read_from = 'replica'",
	'logq.enable_hedging = off', "work_mem = '64kB'", 'enable_hashagg = off')
{
	my $s2 = session();

	$s2->query("SET $setting");
	is($s2->query($several), $right, "several sub-selects, SET $setting");
	is($s2->query(logq_of($queries{$_})), $s2->query($queries{$_} =~ s/\@T\@/local_logs/gr =~ s/\@W\@/true/gr), "$_, SET $setting")
	  foreach sort keys %queries;
	$s2->quit;
}
{
	my @sessions;

	$s->quit;
	limit_connections(1);
	@sessions = map { session() } 1 .. 3;
	like($sessions[0]->query($several), qr/^ERROR:\s+53300: .*too many connections/, 'more scans than there may be connections');
	foreach my $name (grep { $_ ne 'two' } sort keys %queries)
	{
		my $wanted = $sessions[0]->query($queries{$name} =~ s/\@T\@/local_logs/gr =~ s/\@W\@/true/gr);

		$_->send(logq_of($queries{$name})) foreach @sessions;
		is($_->wait(60) // 'no end', $wanted, "$name: one connection for all") foreach @sessions;
	}
	limit_connections(5);
	$_->send($several) foreach @sessions;
	is($_->wait(60) // 'no end', $right, 'several sub-selects of several sessions over five connections') foreach @sessions;
	$_->quit foreach @sessions;
	limit_connections(0);
	$s = session();
}

# ---------- cancelled ----------

{
	my $locker = $c->session(node => $c->part('p1'));

	foreach my $case (
		[ 'partitions that compute', "SELECT service, max(md5(repeat(message, 20000))) FROM logq.logs GROUP BY 1",
			sub { return (grep { /active/ } $c->remote_activity) >= 3; } ],
		[ 'groups that wait for a slow reader', "SELECT max(md5(repeat(m, 3000))) FROM (SELECT message AS m, count(*) FROM logq.logs WHERE ts >= '2024-10-01' GROUP BY 1) x",
			sub { return $c->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $s->{pid} AND state = 'active'") == 1; } ],
		[ 'a rollup that is locked', "SELECT date_trunc('minute', ts), count(*) FROM logq.logs WHERE $sealed GROUP BY 1",
			sub { return grep { /^p1: .*\|relation/ } $c->remote_activity('p1'); },
			'BEGIN; LOCK TABLE logq_store.rollup_level' ])
	{
		my ($name, $sql, $busy, $lock) = @$case;

		foreach my $way ("SELECT pg_cancel_backend($s->{pid})", 'timeout')
		{
			my ($start, $answer);

			$locker->query($lock) if $lock;
			$s->query("SET logq.partition_timeout = '60s'");
			$s->query("SET statement_timeout = '600ms'") if $way eq 'timeout';
			$s->send($sql);
			if ($way ne 'timeout')
			{
				LogqTest::poll_ok(sub { $s->{run}->pump_nb; return $busy->(); }, "$name: it is under way");
				$c->sql($way);
			}
			$start = time;
			like($s->wait(30) // 'no end', qr/57014/, "$name: cancelled");
			cmp_ok(time - $start, '<', 0.6 + $LogqFaults::at_once, "$name: at once");
			$c->quiet("$name: nothing is left running");
			$locker->query('ROLLBACK');
			$s->query('RESET statement_timeout');
			is($s->query(logq_of($queries{count})), 3 * $each, "$name: the next query is right");
		}
	}
	$locker->quit;
}

# ---------- memory, files and sockets ----------

# Anonymous memory of a backend, in kB
sub memory
{
	my ($pid) = @_;

	open my $f, '<', "/proc/$pid/status" or return 0;
	while (my $line = <$f>)
	{
		return $1 if $line =~ /^RssAnon:\s+(\d+) kB/;
	}
	return 0;
}

sub files_of
{
	my ($pid) = @_;

	return scalar grep { (readlink($_) // '') =~ m{/base/|pgsql_tmp} } glob "/proc/$pid/fd/*";
}

sub temporary_files
{
	return $c->sql("SELECT count(*) FROM pg_ls_tmpdir()");
}

# How much a backend grows during a statement at most, and its answer
sub growth
{
	my ($s2, $sql) = @_;
	my $start = memory($s2->{pid});
	my $peak = $start;
	my $answer;

	$s2->send($sql);
	LogqTest::poll(sub {
		my $now = memory($s2->{pid});

		$peak = $now if $now > $peak;
		return defined($answer = $s2->wait(0.02));
	}, 120);
	return ($peak - $start, $answer // 'no end');
}

SKIP:
{
	skip 'needs /proc', 1 unless memory($$);

	my $all = 3 * $wide;
	my $s2 = session();
	my ($grown, $answer);

	$s2->query("SET work_mem = '1MB'; SET logq.partition_timeout = '60s'");
	$s2->query($_) foreach map { logq_of($queries{$_}) } sort keys %queries;
	foreach my $sql (
		"SELECT count(*), sum(n) FROM (SELECT id, count(*) AS n, max(message) FROM logq.logs WHERE ts >= '2024-10-01' GROUP BY id) x",
		"SELECT count(*), sum(n) FROM (SELECT message, id, count(*) AS n FROM logq.logs WHERE ts >= '2024-10-01' GROUP BY 1, 2) x")
	{
		($grown, $answer) = growth($s2, $sql);
		is($answer, "$all|$all", 'a group for each row');
		cmp_ok($grown, '<', $limit_kb, "the backend grew by $grown kB at most");
	}

	# sub-selects that are asked again and again; after some of them it is as
	# large as it gets
	foreach my $case (
		[ 'by the catalog', "SELECT count(*) AS n FROM logq.logs l WHERE $sealed AND (l.level <> 'x' || g OR l.level IS NULL)", $n_sealed, 5000 ],
		[ 'by the catalog and both', "SELECT sum(n) AS n FROM (SELECT l.level, l.service, count(*) AS n FROM logq.logs l WHERE $sealed AND l.level <> 'x' || g GROUP BY 1, 2) k", $n_sealed, 5000 ],
		[ 'by rollups', "SELECT sum(n) AS n FROM (SELECT date_trunc('minute', l.ts), count(*) AS n FROM logq.logs l WHERE $sealed AND l.level <> 'x' || g GROUP BY 1) k", $n_sealed, 1000 ],
		[ 'by rows', "SELECT sum(n) AS n FROM (SELECT l.service, count(*) AS n, min(l.id) FROM logq.logs l WHERE $small AND l.level <> 'x' || g GROUP BY 1) k", 3 * $each, 300 ])
	{
		my ($name, $sub, $wanted, $times) = @$case;
		my $sql = sub { return "SELECT count(*), min(l.n), max(l.n) FROM generate_series(1, $_[0]) g, LATERAL ($sub) l"; };

		is($s2->query($sql->(50), 120), "50|$wanted|$wanted", "$name: some times");
		($grown, $answer) = growth($s2, $sql->($times));
		is($answer, "$times|$wanted|$wanted", "$name: $times times");
		cmp_ok($grown, '<', 4096, "$name: the backend grew by $grown kB");
	}

	# errors in the midst of it, caught
	my ($files, $sockets, $connections) = (files_of($s2->{pid}), sockets_of($s2->{pid}), LogqFaults::connections_on($c->part('p1')));

	$s2->query(<<'SQL');
CREATE FUNCTION caught(query text, times int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	n int := 0;
	state text;
	c refcursor;
	r record;
BEGIN
	FOR i IN 1 .. times LOOP
		BEGIN
			OPEN c FOR EXECUTE query;
			FOR k IN 1 .. 1 + i % 3 LOOP
				FETCH c INTO r;
			END LOOP;
			PERFORM 1 / (n - n);
		EXCEPTION WHEN OTHERS THEN
			n := n + 1;
			state := sqlstate;
		END;
	END LOOP;
	RETURN n || ' ' || state;
END
$$;
SQL
	foreach my $case (
		[ 'here', "SELECT message, id, count(*) FROM logq.logs WHERE ts >= '2024-10-01' GROUP BY 1, 2", '22012', 6 ],
		[ 'here, by the catalog', "SELECT level, service, count(*) FROM logq.logs WHERE $sealed GROUP BY 1, 2", '22012', 200 ],
		[ 'at the partitions', "SELECT service, sum(1 / (length(message) - 38 - length(message) + 38)) FROM logq.logs WHERE ts >= '2024-10-01' GROUP BY 1", '22012', 100 ],
		[ 'in a group', "SELECT service, count(*), 1 / (count(*) - count(*)) FROM logq.logs WHERE $small GROUP BY 1", '22012', 100 ])
	{
		my ($name, $sql, $state, $times) = @$case;

		$s2->query("SELECT caught(" . LogqTest::lit($sql) . ", 2)", 120);
		($grown, $answer) = growth($s2, "SELECT caught(" . LogqTest::lit($sql) . ", $times)");
		is($answer, "$times $state", "errors $name are caught");
		cmp_ok($grown, '<', $limit_kb / 2, "errors $name: the backend grew by $grown kB");
		cmp_ok(files_of($s2->{pid}), '<=', $files + 10, "errors $name: no file stays open");
		cmp_ok(sockets_of($s2->{pid}), '<=', $sockets + 4, "errors $name: nor a connection");
		is(temporary_files(), 0, "errors $name: and no temporary file is left");
		is($s2->query(logq_of($queries{count})), 3 * $each, "errors $name: the next query is right");
	}
	LogqTest::poll_ok(sub { return LogqFaults::connections_on($c->part('p1')) <= $connections + 1; }, 'no connection is left at the partitions');

	# a cursor that is closed in the midst of it
	$s2->query("BEGIN; DECLARE c CURSOR FOR SELECT message, id, count(*) FROM logq.logs WHERE ts >= '2024-10-01' GROUP BY 1, 2");
	is(scalar(my @l = split /\n/, $s2->query('FETCH 10 FROM c')), 10, 'a cursor over groups');
	cmp_ok(memory($s2->{pid}), '<', 3 * $limit_kb, 'the backend is small');
	$s2->query('CLOSE c; COMMIT');
	is(temporary_files(), 0, 'its files are gone when it is closed');
	$s2->quit;
}

# ---------- segments that are said to be large ----------

{
	my $of = "FROM logq.logs WHERE ts >= '2024-10-01' AND ts < '2024-10-03'";
	my $median = 'percentile_cont(0.5) WITHIN GROUP (ORDER BY length(message))';
	my $asked = sub {
		my ($sql) = @_;
		my $rows = $s->query($sql);

		return "$rows in " . last_of($s, 'segments_asked');
	};

	is($asked->("SELECT count(*) $of"), 3 * $wide . ' in 6', 'each segment is asked as a whole');
	$c->on($_, <<'SQL') foreach $c->names;
UPDATE pg_class SET reltuples = 11e6 WHERE relname ~ '^log_20241001_0[01]0000$';
SELECT logq_store.raise_version();
SQL
	$c->sql('SELECT logq.refresh_catalog()');
	is($asked->("SELECT count(*) $of"), 3 * $wide . ' in 36', '... in slices of two million rows');
	is($asked->("SELECT count(*) $of AND ts >= '2024-10-01 00:20:00.5'"), 3 * int($wide * (1 - 1200.5 / 7200)) . ' in 36',
		'and within a range');
	is($asked->("SELECT $median $of"), '80 in 666', 'smaller ones where values come in arrays');
	is($asked->("SELECT count(*) || ' ' || max(length(message)) FROM (SELECT message $of AND level = 'INFO') x"),
		3 * $wide . ' 80 in 36', 'others too');
}
$c->quiet('nothing is left running');
$s->quit;
done_testing();
