# Counts from rollups and from the coordinator's catalog, and what makes these
# outdated meanwhile: late rows, sealing, dropping, other coordinators, the
# transaction's own writes, and damage.
#
# There is no maintenance worker, so a copy of a catalog is confirmed only when
# the test says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqProxy;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $hour = "timestamptz '2024-06-01 00:00+00' + interval '1 hour' *";
my $rows = 1200;
my $before = "before => '2025-01-01'";
# what is cached is not asked for, so a copy of any age would do for rows as well
my $c = LogqTest->new(partitions => 2, coordinator_conf => ['logq.cache = off']);
my $second = LogqTest::start_coordinator('second', 'logq.cache = off');

$c->add_partition($_, coordinator => $second) foreach $c->names;

# Rows of one hour, straight to a partition
sub fill
{
	my ($name, $h, $n) = @_;

	$c->on($name, <<"SQL");
SELECT logq_store.make_segment($hour $h);
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT $hour $h + i * interval '1 hour' / $n,
		CASE i % 20 WHEN 0 THEN 'ERROR' WHEN 1 THEN NULL ELSE 'INFO' END,
		CASE i % 50 WHEN 0 THEN NULL ELSE 'service-' || i % 3 END, '$name hour$h row' || i
	FROM generate_series(0, $n - 1) i;
SQL
	return;
}

foreach my $name ($c->names)
{
	fill($name, $_, $rows) foreach 0 .. 3;
}

# Everything sealed, and known to be by both coordinators
sub settle
{
	$c->sql("SELECT count(*) FROM logq.seal($before)");
	$_->safe_psql('logs', 'SELECT logq.refresh_catalog()') foreach $c->coordinator, $second;
	return;
}

# A session that knows all partitions and takes what it knows for true
sub trusting
{
	my (%opt) = @_;
	my $s = $c->session(%opt);

	$s->query("SET timezone = 'UTC'; SET logq.catalog_max_age = '1d'");
	$s->query("SELECT count(*) FROM logq.logs WHERE message = 'x'");
	return $s;
}

# ---------- ways to count ----------

my $all_time = "ts >= '2024-01-01' AND ts < '2025-01-01'";
my $ragged = "ts >= '2024-06-01 00:10:30+00' AND ts < '2024-06-01 02:20:15.5+00'";

# What the rows are counted by, and under which condition; and from where
my %by_catalog = (
	'all' => [ "'rows'", $all_time ],
	'level' => [ 'level', $all_time ],
	'service' => [ 'service', $all_time ],
	'both' => [ 'level, service', $all_time ],
	'level of one service' => [ 'level', "$all_time AND service = 'service-1'" ],
	'hour' => [ "date_trunc('hour', ts), level", $all_time ]);
my %by_partition = (
	'minute' => [ "date_trunc('minute', ts), level", $all_time ],
	'minute and service' => [ "date_trunc('minute', ts), service", $all_time ],
	'ragged' => [ 'level', $ragged ],
	'ragged service' => [ "date_bin('10 minutes', ts, '2001-01-01 00:00+00'), service", "$ragged AND level IS DISTINCT FROM 'ERROR'" ],
	'by rows' => [ "level, message LIKE '%row1%'", $all_time ]);
my %ways = (%by_catalog, %by_partition);

sub counted_sql
{
	my ($way, $table) = @_;
	my ($keys, $where) = @{ $ways{$way} };

	return "SELECT count(*), $keys FROM $table WHERE $where GROUP BY " .
	  join ', ', 2 .. 2 + ($keys =~ s/\([^()]*\)//gr =~ tr/,//);
}

sub tally
{
	my %n;

	foreach my $line (map { split /\n/ } @_)
	{
		my ($n, $key) = $line =~ /^(\d+)\|(.*)$/ or return $line;

		$n{$key} += $n;
	}
	return join "\n", map { "$_: $n{$_}" } sort grep { $n{$_} } keys %n;
}

# What the partitions themselves say
my @witnesses = map { $c->session(node => $c->part($_)) } $c->names;

sub truth
{
	my ($way) = @_;

	return tally(map { $_->query(counted_sql($way, 'logq_store.log')) } @witnesses);
}

sub counted
{
	my ($s, $way) = @_;

	return tally($s->query(counted_sql($way, 'logq.logs')));
}

# Test: all of these ways are as they should be.  right: a hash of answers, that
# of the partitions by default
sub exact
{
	my ($s, $name, $of, $right) = @_;
	my @wrong;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $way (sort keys %{ $of // \%ways })
	{
		my $wanted = $right ? $right->{$way} : truth($way);
		my $got = counted($s, $way);
		my ($w) = grep { index("\n$got\n", "\n$_\n") < 0 } split /\n/, $wanted;
		my ($g) = grep { index("\n$wanted\n", "\n$_\n") < 0 } split /\n/, $got;

		push @wrong, "$way: wanted " . ($w // 'no more') . ', got ' . ($g // 'no more')
		  if $got ne $wanted;
	}
	return is(join("\n", @wrong), '', $name);
}

sub truths { return { map { $_ => truth($_) } keys %ways }; }

# By what EXPLAIN says that it counts
sub counted_by
{
	my ($s, $way) = @_;
	my $plan = $s->query('EXPLAIN (VERBOSE) ' . counted_sql($way, 'logq.logs'));

	return $plan =~ /Counted: (.*)/ ? $1 : 'not';
}

# One more row, behind logq's back
sub late_row
{
	my ($name, $h, $level) = @_;

	$c->on($name, "INSERT INTO logq_store.log (ts, level, service, message) VALUES ($hour $h + interval '30 minutes 10 seconds', '$level', 'service-1', 'late row1')");
	return;
}

settle();
{
	my $s = trusting();

	like(counted_by($s, $_), qr/^8 by catalog/, "$_: by the catalog alone") foreach sort keys %by_catalog;
	like(counted_by($s, 'minute'), qr/^8 by minutes and levels/, 'minute: by rollups');
	like(counted_by($s, 'minute and service'), qr/^8 by minutes, services and levels/, 'minute and service: by rollups');
	like(counted_by($s, $_), qr/^2 by catalog, .*4 by minutes/, "$_: by rollups, catalog and rows") foreach 'ragged';
	exact($s, 'all are right');
	$s->quit;
}

# ---------- late rows, and copies of any age ----------

foreach my $change (
	[ 'a late row', sub { late_row('p1', 2, 'LATE'); } ],
	[ 'a row that is deleted', sub { $c->on('p2', "DELETE FROM logq_store.log WHERE ts = $hour 1"); } ],
	[ 'a level that is changed', sub { $c->on('p1', "UPDATE logq_store.log SET level = 'FATAL' WHERE ts = $hour 0"); } ],
	[ 'a row that moves to another segment', sub { $c->on('p2', "UPDATE logq_store.log SET ts = ts - interval '1 hour' WHERE ts >= $hour 2 AND ts < $hour 2 + interval '3 seconds'"); } ],
	[ 'a segment that is emptied', sub { $c->on('p1', "TRUNCATE logq_store.log_20240601_030000"); } ],
	[ 'a segment that is dropped', sub { $c->on('p1', "SELECT logq_store.drop_segment('log_20240601_030000')"); } ],
	[ 'a segment that is made again', sub { fill('p1', 3, $rows / 2); } ],
	[ 'several at once', sub { late_row('p1', $_, 'LATE'), late_row('p2', $_, 'LATE') foreach 0 .. 3; } ])
{
	my ($what, $code) = @$change;
	my ($one, $two) = (trusting(), trusting(node => $second));
	my ($strict, $aging, $none) = map { trusting() } 1 .. 3;
	my $old = truths();

	$strict->query('SET logq.strict_pruning = on');
	$none->query('SET logq.catalog_max_age = 0');
	exact($_, "$what: right before") foreach $one, $two;
	$code->();
	# whoever asks nobody, and trusts a copy of any age
	exact($_, "$what: the catalog alone says what was", \%by_catalog, $old) foreach $one, $two;
	exact($strict, "$what: with logq.strict_pruning, right at once");
	exact($none, "$what: with logq.catalog_max_age = 0 as well");
	exact($two, "$what: right as soon as the partitions are asked", \%by_partition);
	exact($two, "$what: and then by the catalog", \%by_catalog);
	$aging->query("SET logq.catalog_max_age = '200ms'");
	LogqTest::poll(sub { return counted($aging, 'both') eq truth('both'); }, 10);
	exact($aging, "$what: right after logq.catalog_max_age");
	settle();
	exact($_, "$what: right when it is sealed") foreach $one, $two, $strict;
	$_->quit foreach $one, $two, $strict, $aging, $none;
}

# through logq: other sessions of this coordinator need not wait
{
	my ($one, $two) = (trusting(), trusting(node => $second));
	my $old = truths();

	$c->sql("INSERT INTO logq.logs (ts, level, service, message, partition) VALUES ($hour 1, 'LATE', 'service-2', 'late row1', 'p1')");
	exact($one, 'a late row through logq: right at once');
	exact($two, 'not for a second coordinator', \%by_catalog, $old);
	exact($two, 'unless it asks', \%by_partition);
	# sealed by the other one
	$two->query("SELECT count(*) FROM logq.seal($before)");
	exact($_, 'sealed by the second coordinator') foreach $one, $two;
	settle();
	is(counted_by($_, 'both'), '8 by catalog', 'and counted by the catalog again') foreach $one, $two;
	exact($_, 'which is right') foreach $one, $two;
	$_->quit foreach $one, $two;
}

# ---------- queries that take long ----------

# Each row of the cursor is a count of its own
{
	my $s = trusting();
	my $sql = "SELECT l.n FROM generate_series(1, 1000) g, LATERAL (SELECT count(*) AS n FROM logq.logs l WHERE $all_time AND (l.level <> 'x' || g OR l.level IS NULL)) l";
	my $n = $c->on('p1', 'SELECT count(*) FROM logq_store.log') + $c->on('p2', 'SELECT count(*) FROM logq_store.log');

	$s->query('SET logq.catalog_max_age = 0');
	$s->query("BEGIN; DECLARE c CURSOR FOR $sql");
	is($s->query('FETCH 1 FROM c'), $n, 'a cursor has begun');
	late_row('p1', 1, 'LATE');
	is($s->query('FETCH 1 FROM c'), ++$n, 'a segment is opened again');
	$c->sql("SELECT count(*) FROM logq.seal('p1', $before)");
	is($s->query('FETCH 1 FROM c'), $n, 'and sealed again');
	late_row('p2', 0, 'LATE');
	$c->sql("SELECT count(*) FROM logq.seal($before)");
	is($s->query('FETCH 2 FROM c'), ++$n . "\n$n", 'another one, opened and sealed');
	is($c->on('p1', "SET lock_timeout = '5s'; SELECT logq_store.drop_segment('log_20240601_030000')"), 't', 'one is dropped');
	is($s->query('FETCH 1 FROM c'), $n -= $rows / 2 + 1, 'and not counted any more');
	is($s->query("FETCH 900 FROM c") =~ s/^$n\n//mgr, $n, 'nor later');
	$s->query('COMMIT');
	$s->quit;
	fill('p1', 3, $rows);
	settle();
}

# The catalog is read in one request, and the rows in the next one: what happens
# in between must not be missed when it moves rows to where they were counted
# already.  Through a pooler nothing would come by our proxy.
if (!$ENV{LOGQ_POOLED})
{
	my $proxy = LogqProxy->new(node => $c->part('p1'));
	my $s = $c->session;
	my $sql = "SELECT count(*) FROM logq.logs WHERE $all_time AND partition = 'p1'";
	my ($total, $conn, @ends, $answer);

	$c->route('p1', $proxy);
	$s->query("SET logq.catalog_max_age = 0; SET logq.partition_timeout = '60s'");
	# hour 0 is open, the others are sealed
	late_row('p1', 0, 'LATE');
	$total = $c->on('p1', 'SELECT count(*) FROM logq_store.log');
	is($s->query($sql), $total, 'right by one way through a proxy');
	foreach my $try (1, 2)
	{
		my $moves = $try == 2;

		# the catalog moves, but in nothing that matters here
		$c->on('p1', "SELECT logq_store.make_segment($hour (100 + $try))");
		$proxy->mark;
		$proxy->stall($ends[1] + 6, on => 'now', both => 1) if $moves;
		$s->send($sql);
		if ($moves)
		{
			LogqTest::poll_ok(sub {
				$s->{run}->pump_nb;
				return grep { ($_->{fired} // '') eq 'stall' } $proxy->connections;
			}, 'a query has read the catalog, and nothing else');
			$c->on('p1', "UPDATE logq_store.log SET ts = ts + interval '1 hour' WHERE ts < $hour 1 AND ts >= $hour 0 + interval '10 minutes'");
			$proxy->resume;
		}
		$answer = $s->wait(60) // 'no answer';
		is($answer, $total, $moves ? 'rows that have moved meanwhile are counted once' : 'the catalog is read again');
		($conn) = grep { $_->{since_mark} > 0 } $proxy->connections;
		@ends = map { $_->[0] } grep { $_->[1] eq 'Z' } $proxy->messages($conn->{id});
	}
	cmp_ok(scalar @ends, '>=', 3, 'in ' . @ends . ' requests');
	$c->route('p1');
	$s->quit;
	settle();
}

# Others change things for some seconds while rows are counted by all ways.  rows:
# what the number of all rows may be.
sub race
{
	my ($what, $wanted, @changes) = @_;
	my @sealers = ($c->session, $c->session(node => $second));
	my @readers = (trusting(), trusting(node => $second), $c->session, trusting());
	my @changers;
	my @wrong;
	my %seen;
	my $end = time + 6;

	$readers[2]->query("SET timezone = 'UTC'; SET logq.catalog_max_age = '50ms'");
	$readers[3]->query('SET logq.strict_pruning = on');
	foreach my $change (@changes)
	{
		my ($name, $sql) = @$change;
		my $s = $c->session(node => $c->part($name));

		# who drops a segment and who builds an index on it wait for each other; it is
		# the sealer that looks for a deadlock, and gives way
		$s->query("SET lock_timeout = '30s'; SET deadlock_timeout = '1h'");
		$s->send($sql);
		push @changers, $s;
	}
	while (time < $end)
	{
		foreach my $sealer (@sealers)
		{
			next if $sealer->{busy} && !defined $sealer->wait(0.001);
			$sealer->send("SELECT count(*) FROM logq.seal($before); SELECT logq.refresh_catalog()");
			$sealer->{busy} = 1;
		}
		foreach my $i (0 .. $#readers)
		{
			foreach my $way (grep { $_ !~ /one service|ragged/ } sort keys %ways)
			{
				my $got = counted($readers[$i], $way);
				my $sum = 0;

				$sum += $_ foreach $got =~ /: (\d+)$/mg;
				$seen{$sum}++;
				push @wrong, "reader $i, $way: $sum: " . substr($got, 0, 300)
				  if !grep { $sum == $_ } @$wanted;
			}
		}
	}
	is(join("\n", @wrong), '', "$what: no row is counted twice, and none left out");
	note("$_ rows: $seen{$_} times") foreach sort keys %seen;
	foreach my $s (@changers, @sealers)
	{
		unlike($s->wait(60) // 'no end', qr/ERROR|no end/, "$what: whoever changes them has no trouble");
	}
	exact($readers[3], "$what: in the end they are as they are");
	$_->quit foreach @changers, @sealers, @readers;
	return;
}

# Rows that move between segments which are sealed meanwhile.  In every snapshot
# of a partition there are as many.
{
	my $total = truth('all') =~ s/.*: //r;
	my $move = <<'SQL';
DO $$
BEGIN
	FOR i IN 1 .. 1000000 LOOP
		EXIT WHEN clock_timestamp() > statement_timestamp() + interval '6 s';
		UPDATE logq_store.log SET ts = timestamptz '2024-06-01' + (i + 1) % 4 * interval '1 hour' + (ts - date_trunc('hour', ts)),
			level = 'moved-' || i % 3
			WHERE ts >= timestamptz '2024-06-01' + i % 4 * interval '1 hour' AND ts < timestamptz '2024-06-01' + i % 4 * interval '1 hour' + interval '10 s';
		COMMIT;
		PERFORM pg_sleep(0.05 + random() * 0.3);
	END LOOP;
END
$$
SQL

	race('rows move', [$total], [ 'p1', $move ], [ 'p2', $move ]);
}

# A segment that comes and goes, with all its rows
{
	my $total = truth('all') =~ s/.*: //r;
	my $extra = 40;

	race('a segment comes and goes', [ $total, $total + $extra ], [ 'p1', <<"SQL" ]);
DO \$\$
BEGIN
	FOR i IN 1 .. 1000000 LOOP
		EXIT WHEN clock_timestamp() > statement_timestamp() + interval '6 s';
		PERFORM logq_store.make_segment($hour 30);
		INSERT INTO logq_store.log (ts, level) SELECT $hour 30, 'EXTRA' FROM generate_series(1, $extra);
		COMMIT;
		PERFORM pg_sleep(0.1);
		PERFORM logq_store.drop_segment('log_20240602_060000');
		COMMIT;
		PERFORM pg_sleep(0.1);
	END LOOP;
END
\$\$
SQL
	settle();
}

# ---------- what the transaction itself has written ----------

foreach my $isolation ('READ COMMITTED', 'REPEATABLE READ')
{
	my ($s, $other) = (trusting(), trusting());
	my $old = truths();
	my %new = %$old;
	# in p2 nothing is written
	my $count = sub { return $s->query("SELECT count(*) FROM logq.logs WHERE $all_time AND level = '$_[0]'"); };

	$s->query("BEGIN ISOLATION LEVEL $isolation");
	exact($s, "$isolation: before", undef, $old);
	$s->query("INSERT INTO logq.logs (ts, level, service, message, partition) VALUES ($hour 1, 'MINE', 'mine', 'row1', 'p1'), ($hour 9, 'MINE', 'mine', 'row1', 'p1')");
	is($count->('MINE'), 2, "$isolation: rows in a sealed and in a new segment are counted");
	is($s->query("SELECT level, count(*) FROM logq.logs WHERE service = 'mine' GROUP BY 1"), 'MINE|2', "$isolation: by level");
	is($s->query("SELECT date_trunc('hour', ts) - '2024-06-01', count(*) FROM logq.logs WHERE level = 'MINE' GROUP BY 1 ORDER BY 1"),
		"01:00:00|1\n09:00:00|1", "$isolation: by hour");
	is($s->query("SELECT DISTINCT service FROM logq.logs WHERE service IN ('mine', 'service-1') ORDER BY 1"), "mine\nservice-1", "$isolation: DISTINCT");
	is(counted($s, 'all') =~ s/.*: //r, (truth('all') =~ s/.*: //r) + 2, "$isolation: count(*)");
	like(counted_by($s, 'both'), qr/4 by catalog, \d by rows/, "$isolation: the other partition by the catalog");
	$s->query("SAVEPOINT a");
	$s->query("INSERT INTO logq.logs (ts, level, service, partition) VALUES ($hour 2, 'MINE', 'mine', 'p1'), ($hour 2, 'MINE', 'mine', 'p2')");
	is($count->('MINE'), 4, "$isolation: after a savepoint");
	$s->query("ROLLBACK TO a");
	is($count->('MINE'), 2, "$isolation: rolled back to it");
	exact($other, "$isolation: nobody else sees it", undef, $old);
	late_row('p1', 0, 'MINE');
	is($count->('MINE'), 3, "$isolation: another's late row is there once it is committed");
	$s->query('COMMIT');
	is($s->query("SELECT level, service, count(*) FROM logq.logs WHERE $all_time AND level = 'MINE' GROUP BY 1, 2 ORDER BY 2"),
		"MINE|mine|2\nMINE|service-1|1", "$isolation: after the commit");
	exact($_, "$isolation: committed") foreach $s, $other;
	settle();
	exact($_, "$isolation: and sealed") foreach $s, $other;

	# rolled back altogether
	$old = truths();
	$s->query("BEGIN ISOLATION LEVEL $isolation");
	$s->query("INSERT INTO logq.logs (ts, level, service, partition) VALUES ($hour 1, 'GONE', 'gone', 'p1')");
	is($count->('GONE'), 1, "$isolation: a row that is to be rolled back");
	$s->query('ROLLBACK');
	exact($_, "$isolation: rolled back", undef, $old) foreach $s, $other;
	$c->on('p1', "DELETE FROM logq_store.log WHERE level = 'MINE'");
	$c->on('p1', "SELECT logq_store.drop_segment('log_20240601_090000')");
	settle();
	$_->quit foreach $s, $other;
}

# ---------- damage ----------

{
	my $s = trusting();
	my $seg = "segment = 'log_20240601_010000'";
	my $kept = 'CREATE TABLE kept AS SELECT * FROM logq.catalog_segment';
	my $restore = 'BEGIN; DELETE FROM logq.catalog_segment; INSERT INTO logq.catalog_segment SELECT * FROM kept; COMMIT';
	my @columns = split /,/, $c->sql("SELECT string_agg(attname, ',') FROM pg_attribute WHERE attrelid = 'logq.catalog_segment'::regclass AND attnum > 0");
	my ($name) = grep { /^(?:name|segment)$/ } @columns;

	$seg =~ s/^segment/$name/;
	is(counted_by($s, 'both'), '8 by catalog', 'level and service: by the catalog');
	$c->sql($kept);
	foreach my $damage (
		'service_level_rows[1] = service_level_rows[1] + 1',
		'service_level_rows[1] = -service_level_rows[1]',
		'service_level_rows[2] = NULL',
		"service_level_rows = service_level_rows || 0::bigint",
		'service_level_rows = NULL', "service_level_rows = '{}'",
		"services = services || 'x'::text", "levels = levels[2:]",
		"levels = '{}', services = '{}', service_level_rows = '{}'",
		"state = 'open'", 'version = version - 1', 'version = version + 1')
	{
		my $fresh;

		$c->sql("UPDATE logq.catalog_segment SET $damage WHERE $seg");
		exact($s, "$damage: right");
		$fresh = trusting();
		exact($fresh, "$damage: in a new session, too");
		$fresh->quit;
		$c->sql($restore);
	}
	foreach my $damage ('level_rows[1] = level_rows[1] + 1', 'service_rows[1] = 0',
		'rows = rows + 1', "level_rows = NULL, service_rows = NULL")
	{
		# the version is the same, so only who has not read it yet sees it
		my $fresh;

		next if $damage =~ /^rows/;
		$c->sql("UPDATE logq.catalog_segment SET $damage WHERE $seg");
		$fresh = trusting();
		exact($fresh, "$damage: right in a new session");
		$fresh->quit;
		$c->sql($restore);
	}
	$c->sql("DELETE FROM logq.catalog_segment WHERE $seg");
	exact($s, 'a segment that is not in the table');
	$c->sql($restore);
	exact($s, 'and is there again');
	$s->quit;
}

# ---------- rollups that are not kept ----------

{
	my $s = trusting();

	fill($_, 10, $rows), fill($_, 11, $rows), fill($_, 12, $rows) foreach $c->names;
	$c->on('p1', "UPDATE logq_store.log SET service = 's-' || id WHERE ts >= $hour 10 AND ts < $hour 11");
	$c->on('p1', "UPDATE logq_store.log SET level = 'l-' || id % 100 WHERE ts >= $hour 11 AND ts < $hour 12");
	$c->on('p2', "UPDATE logq_store.log SET service = 's-' || id, level = 'l-' || id % 100 WHERE ts >= $hour 10 AND ts < $hour 13");
	$c->on('p2', "INSERT INTO logq_store.log (ts, service, level) SELECT $hour 10, 'more-' || i, 'INFO' FROM generate_series(1, 1500) i");
	exact($s, 'many services and levels, open', \%by_partition);
	settle();
	is($c->on('p2', "SELECT count(*) FILTER (WHERE services IS NULL), count(*) FILTER (WHERE levels IS NULL), count(*) FILTER (WHERE service_rollup IS NULL), count(*) FILTER (WHERE level_rollup IS NULL) FROM logq_store.segment WHERE lower >= $hour 10"),
		'3|3|3|3', 'of some segments no list and no rollup is kept');
	exact($s, 'many services and levels, sealed');
	like(counted_by($s, 'both'), qr/^9 by catalog, \d+ by (?:rows|minutes.*rows)$/, 'by what there is');
	like(counted_by($s, 'all'), qr/^14 by catalog$/, 'all rows of a segment are known without');
	is($s->query("SELECT count(DISTINCT service), count(DISTINCT level) FROM logq.logs WHERE ts >= $hour 10"),
		$c->sql("SELECT count(DISTINCT service), count(DISTINCT level) FROM (SELECT service, level FROM logq.logs WHERE ts >= $hour 10 OFFSET 0) l"), 'DISTINCT');
	late_row('p2', 10, 'LATE');
	exact($s, 'and a late row', \%by_partition);
	settle();
	exact($s, 'which is sealed');
	$s->quit;
}
$_->quit foreach @witnesses;
done_testing();
