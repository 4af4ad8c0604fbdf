# What two sides do at the same time: coordinators that judge partitions by
# their copies, and writers, sealers and droppers that make these outdated.
# Each race is made to happen: there is no maintenance worker, so a copy is
# confirmed only when the test says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use Test::More;

my $hour = "timestamptz '2024-06-01 00:00+00' + interval '1 hour' *";
my $rows = 600;
my $before = "before => '2025-01-01'";
# where all is cached, a copy of any age would do
my $c = LogqTest->new(partitions => 3, coordinator_conf => ['logq.cache = off']);
my $second = LogqTest::start_coordinator('second', 'logq.cache = off');

$c->add_partition($_, coordinator => $second) foreach $c->names;

# Rows of one hour, straight to a partition.  Each hour of each partition has
# levels, services, traces, words and attributes of its own.
sub fill
{
	my ($name, $h, $n, $extra) = @_;

	$extra //= '';
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment($hour $h);
INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs)
	SELECT $hour $h + i * interval '1 hour' / $n, 'INFO', 'service-$h',
		'$name hour$h row' || i || ' $extra ' || repeat('some words ', 30),
		'trace-$name-$h-' || i % 10, jsonb_build_object('user', 'u$h-' || i % 5)
	FROM generate_series(0, $n - 1) i;
SQL
	return;
}

# p1 and p2 have the same hours, p3 others: 0 to 3, and 4 to 7
fill('p1', $_, $rows) foreach 0 .. 3;
fill('p2', $_, $rows) foreach 0 .. 3;
fill('p3', $_, $rows) foreach 4 .. 7;

# One more row, behind logq's back: what it says of itself is its mark
sub late_row
{
	my ($name, $h, $mark, $minutes) = @_;

	$minutes //= 30;
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment($hour $h);
INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs)
	VALUES ($hour $h + interval '$minutes minutes', '$mark', '$mark', 'a $mark row', '$mark', '{"user": "$mark"}');
SQL
	return;
}

# Everything sealed, and known to be by both coordinators
sub settle
{
	$c->sql("SET logq.bloom_attrs = 'user'; SELECT count(*) FROM logq.seal($before)");
	$_->safe_psql('logs', 'SELECT logq.refresh_catalog()') foreach $c->coordinator, $second;
	return;
}

# Segments that a condition leaves, as a session knows them
sub asked
{
	my ($s, $where) = @_;
	my $plan = $s->query("EXPLAIN (FORMAT JSON) SELECT * FROM logq.logs WHERE $where");

	return $plan =~ /"Segments Asked": (\d+)/ ? $1 : $plan;
}

# Ways to ask for the rows of a mark, each by another part of the contents
sub ways
{
	my ($mark) = @_;

	return ("level = '$mark'", "service = '$mark'", "trace_id = '$mark'",
		"message LIKE '% $mark %'", "attrs->>'user' = '$mark'");
}

# The counts by all ways, one after the other.  Marks are one word each.
sub counts
{
	my ($s, $mark, $and) = @_;

	return join ' ', map {
		$s->query("SELECT count(*) FROM logq.logs WHERE $_" . ($and // '')) } ways($mark);
}

my $none = '0 0 0 0 0';
my $all = '1 1 1 1 1';

# A session that knows all partitions and takes what it knows for true
sub trusting
{
	my (%opt) = @_;
	my $s = $c->session(%opt);

	$s->query("SET logq.catalog_max_age = '1d'");
	$s->query('SELECT count(*) FROM logq.logs');
	return $s;
}

settle();
is($c->on($_, "SELECT string_agg(DISTINCT state, ',') FROM logq_store.segment"), 'sealed',
	"the segments of $_ are sealed") foreach $c->names;

# ---------- a row that is late, and a copy that was confirmed before ----------

{
	my $s = trusting();

	is(asked($s, "level = 'late1'"), 0, 'no segment can have what nobody has written');
	is(counts($s, 'late1'), $none, 'and no row is found');
	late_row('p1', 2, 'late1');
	is(counts($s, 'late1'), $none,
		'a late row is missed by who trusts a copy of any age and asks nobody');
	is($s->query("SET logq.strict_pruning = on;\n" .
		  "SELECT count(*) FROM logq.logs WHERE trace_id = 'late1'"), 1,
		'but not with logq.strict_pruning');
	is(counts($s, 'late1'), $all, 'by any way');
	$s->query('RESET logq.strict_pruning');
	is(counts($s, 'late1'), $all, 'having found out once, the session does not trust that copy any more');
	$s->quit;
	$s = trusting();
	is(counts($s, 'late1'), $all, 'nor does any other session');
	$s->quit;

	settle();
	$s = trusting();
	is(counts($s, 'late1'), $all, 'sealed and refreshed, the row is found');
	is(asked($s, "trace_id = 'late1'"), 1, 'in the one segment that has it');

	# the partition is asked for something else
	my $i = 2;

	foreach my $way (0 .. 4)
	{
		my $mark = "late$i";
		my $where = (ways($mark))[$way];

		$i++;
		is(asked($s, $where), 0, "not there yet: $where");
		late_row('p2', 1, $mark);
		is($s->query("SELECT count(*) FROM logq.logs WHERE $where OR trace_id = 'trace-p2-3-1'"),
			1 + $rows / 10, 'when the partition is asked for anything, a late row is found');
		settle();
	}
	late_row('p2', 1, 'late7');
	is($s->query("SELECT count(*) FROM logq.logs WHERE trace_id IN ('late7', 'trace-p1-3-1')"),
		$rows / 10, 'asking another partition is of no use');
	is($s->query("SET logq.enable_content_pruning = off;\n"
			. "SELECT count(*) FROM logq.logs WHERE trace_id = 'late7'"),
		1, 'without pruning by contents it is found');
	$s->quit;

	settle();
	$s = trusting();
	$c->on('p1', "DELETE FROM logq_store.log WHERE trace_id = 'late1'");
	is(counts($s, 'late1'), '1 1 0 0 0',
		'a row that was deleted is counted by who trusts a copy of any age, until the partition is asked');
	is(counts($s, 'late1'), $none, 'then it is not found');
	settle();
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'moved'"), 0, 'not there yet');
	$c->on('p1', "UPDATE logq_store.log SET trace_id = 'moved', level = 'moved' WHERE ts = $hour 1");
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'moved' AND ts >= $hour 1 AND service = 'service-1'"), 0,
		'an update is missed by who trusts a copy of any age');
	$s->query("SET logq.catalog_max_age = '200ms'");
	ok(LogqTest::poll(sub { return $s->query("SELECT count(*) FROM logq.logs WHERE level = 'moved'") == 1; }, 10),
		'and found when that is older than logq.catalog_max_age');
	$s->query('SET logq.catalog_max_age = 0');
	late_row('p3', 5, 'late8');
	is(counts($s, 'late8'), $all, 'with 0 nothing is missed');
	$s->quit;
}

# ---------- a segment that only one coordinator knows ----------

{
	settle();
	my $one = trusting();
	my $two = trusting(node => $second);
	my $strict = $c->session(node => $second);
	my $aging = $c->session(node => $second);
	my $wide = trusting(node => $second);

	$strict->query('SET logq.strict_pruning = on');
	$aging->query("SET logq.catalog_max_age = '300ms'");
	is($_->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 20"), 0,
		'nothing is there yet') foreach $one, $two, $strict, $aging, $wide;
	# through the first coordinator, which need not be told
	$c->sql("INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs, partition) VALUES ($hour 20, 'new1', 'new1', 'a new1 row', 'new1', '{\"user\": \"new1\"}', 'p1')");
	is($one->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 20"), 1,
		'a row in a new segment is found by other sessions of the coordinator that wrote it');
	is(counts($one, 'new1'), $all, 'by its contents, too');
	is($two->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 20"), 0,
		'not by a second coordinator that trusts its copy');
	is($strict->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 20"), 1,
		'but with logq.strict_pruning');
	settle();

	is($aging->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 21"), 0, 'nothing is there');
	$c->sql("INSERT INTO logq.logs (ts, level, trace_id, partition) VALUES ($hour 21, 'new2', 'new2', 'p2')");
	ok(LogqTest::poll(sub { return $aging->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 21") == 1; }, 10),
		'or after logq.catalog_max_age');
	settle();
	$c->sql("INSERT INTO logq.logs (ts, level, trace_id, partition) VALUES ($hour 22, 'new3', 'new3', 'p3')");
	is($wide->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 7 AND (level = 'new3' OR trace_id = 'trace-p3-7-1')"),
		1 + $rows / 10, 'or when its partition is asked for anything else');
	is($wide->query("SELECT count(*) FROM logq.logs WHERE ts >= $hour 22"), 1,
		'and then for itself');

	# a late row, written through the first coordinator
	settle();
	$c->sql("INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs, partition) VALUES ($hour 3, 'new4', 'new4', 'a new4 row', 'new4', '{\"user\": \"new4\"}', 'p1')");
	is(counts($one, 'new4'), $all, 'a late row is found by other sessions of the coordinator that wrote it');
	is(counts($two, 'new4'), $none, 'not by a second one that trusts its copy');
	is(counts($strict, 'new4'), $all, 'but with logq.strict_pruning');
	$_->quit foreach $one, $two, $strict, $aging, $wide;
}

# ---------- sealing and dropping under a query ----------

# Output of a cursor as a list; dies of an error
sub lines
{
	my ($out) = @_;

	die $out if $out =~ /ERROR/;
	return split /\n/, $out;
}

# Test: keys "ts id" are in order, without duplicates
sub in_order
{
	my ($keys, $name) = @_;
	my $wrong = 0;
	my $last = '';
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $key (@$keys)
	{
		my ($ts, $id) = split /\|/, $key;
		my $k = sprintf('%s|%020d', $ts, $id);

		$wrong++ if $k le $last;
		$last = $k;
	}
	return is($wrong, 0, $name);
}

my $keys = "SELECT to_char(ts, 'YYYYMMDDHH24MISS.US'), id, message FROM logq.logs";

foreach my $order (' ORDER BY ts, id', '')
{
	my $what = $order ? 'an ordered query' : 'a query';
	my $s = $c->session;
	my $sealer = $c->session;
	my $checker = $c->session;
	my $all_rows = $c->sql("SELECT count(*) FROM logq.logs");
	my (@got, $waits);

	late_row($_, 1, 'open-again') foreach 'p1', 'p2';
	late_row('p3', 5, 'open-again');
	$all_rows += 3;
	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR $keys$order");
	@got = lines($s->query('FETCH 50 FROM c'));
	is(scalar @got, 50, "$what has begun");
	$sealer->send("SELECT count(*) FROM logq.seal($before)");
	# building an index waits for the snapshots that the query has
	$waits = LogqTest::poll(sub {
		return 1 if $c->on('p1', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq' AND wait_event_type = 'Lock'") > 0;
		return $c->on('p1', "SELECT count(*) FROM logq_store.segment WHERE state = 'open'") == 0;
	}, 20);
	ok($waits, "$what: sealing is under way, or done");
	push @got, lines($s->query('FETCH ALL FROM c'));
	is(scalar @got, $all_rows, "$what under which segments are sealed gets all rows");
	in_order(\@got, "$what gets them in order") if $order;
	is(scalar keys %{ { map { (split /\|/)[1] => 1 } @got } }, $all_rows, "$what gets each once");
	$s->query('COMMIT');
	cmp_ok($sealer->wait(60) // -1, '>=', 1, "$what: sealing comes to its end");
	LogqTest::poll(sub {
		$sealer->query("SELECT count(*) FROM logq.seal($before)");
		return !grep { $c->on($_, "SELECT count(*) FROM logq_store.segment WHERE state = 'open'") > 0 } $c->names;
	}, 30);
	is($c->on($_, "SELECT count(*) FROM logq_store.segment WHERE state = 'open'"), 0,
		"$what: afterwards all is sealed on $_") foreach $c->names;
	is($checker->query("SELECT count(*) FROM logq.logs"), $all_rows, "$what: and nothing is lost");
	$_->quit foreach $s, $sealer, $checker;
}

{
	my $s = $c->session;
	my $dropper = $c->session(node => $c->part('p1'));
	my ($answer, @got);
	my $total = $c->sql("SELECT count(*) FROM logq.logs WHERE partition = 'p1'");
	my $gone = $c->on('p1', "SELECT count(*) FROM logq_store.log_20240601_030000");

	# the query has rows of p1 under way: more than any buffer takes
	fill('p1', 40, 20_000, 'x' x 200);
	$total += 20_000;
	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR $keys WHERE partition = 'p1' ORDER BY ts DESC, id DESC");
	@got = lines($s->query('FETCH 50 FROM c'));
	$answer = $dropper->query("SET lock_timeout = '200ms'; SELECT logq_store.drop_segment('log_20240602_160000')");
	like($answer, qr/ERROR:\s+55P03/, 'a segment that is being read is not dropped');
	push @got, lines($s->query("FETCH ALL FROM c"));
	is(scalar @got, $total, 'the query is not disturbed');
	$s->query('COMMIT');
	# an autovacuum gives way only after a second
	is($dropper->query("RESET lock_timeout; SELECT logq_store.drop_segment('log_20240602_160000')"), 't', 'afterwards it is');
	$dropper->query("SET lock_timeout = '200ms'");
	$total -= 20_000;

	# a query that comes to a segment after it was dropped: it needs several
	# requests, as it has a limit
	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR $keys WHERE partition = 'p1' ORDER BY ts, id LIMIT 100000");
	@got = lines($s->query('FETCH 5 FROM c'));
	$answer = $dropper->query("SELECT logq_store.drop_segment('log_20240601_030000')");
	if ($answer eq 't')
	{
		push @got, lines($s->query('FETCH ALL FROM c'));
		ok(@got == $total - $gone || @got == $total,
			'a segment that was dropped before its turn is left out');
		in_order(\@got, 'and the others are in order');
	}
	else
	{
		# its lock was taken by the first request
		like($answer, qr/ERROR:\s+55P03/, 'a segment that was asked is not dropped');
		push @got, lines($s->query('FETCH ALL FROM c'));
		is(scalar @got, $total, 'and the query is not disturbed');
	}
	$s->query('COMMIT');
	$dropper->query("RESET lock_timeout; SELECT logq_store.drop_segment('log_20240601_030000')");
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1'"), $total - $gone,
		'the next query does without it');
	fill('p1', 3, $rows);
	$_->quit foreach $s, $dropper;
}

# chosen by a copy that is trusted, but dropped since
{
	settle();
	my $s = trusting();
	my $n = $s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p2'");
	my $gone = $c->on('p2', 'SELECT count(*) FROM logq_store.log_20240601_020000');

	is(asked($s, "trace_id = 'trace-p2-2-3'"), 1, 'one segment can have this trace');
	$c->on('p2', "SELECT logq_store.drop_segment('log_20240601_020000')");
	is($s->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-p2-2-3'"), 0,
		'it was dropped meanwhile: no rows');
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p2'"), $n - $gone, 'the others are there');
	fill('p2', 2, $rows);
	$s->query('SET logq.strict_pruning = on');
	is($s->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-p2-2-3'"), $rows / 10,
		'made again with other rows, these are found');
	$s->quit;
}

# ---------- two coordinators seal the same segments ----------

{
	settle();
	my $one = $c->session;
	my $two = $c->session(node => $second);
	my $holder = $c->session(node => $c->part('p1'));
	my (@answers, @names);

	late_row('p1', $_, 'both') foreach 0 .. 3;
	# neither gets further than its beginning
	$holder->query('BEGIN; LOCK TABLE logq_store.segment IN SHARE MODE');
	$_->send("SELECT partition, segment, rows FROM logq.seal('p1', $before)") foreach $one, $two;
	ok($holder->blocks('logq'), 'two coordinators have begun to seal the same segments');
	$holder->query('COMMIT');
	@answers = map { $_->wait(60) // 'no end' } $one, $two;
	unlike($_, qr/ERROR|no end/, 'neither complains') foreach @answers;
	@names = sort map { /^(p1\|\w+)\|/ ? $1 : () } map { split /\n/ } @answers;
	is_deeply(\@names, [ map { "p1|log_20240601_0${_}0000" } 0 .. 3 ],
		'each segment was sealed by one of them')
	  or diag(explain(\@answers));
	is($c->on('p1', <<'SQL'), '4|4|4', 'and its metadata is right');
SELECT count(*), count(*) FILTER (WHERE s.rows = l.n AND s.min_ts = l.min_ts AND s.max_ts = l.max_ts
		AND s.min_id = l.min_id AND s.max_id = l.max_id AND s.levels @> l.levels AND l.levels @> s.levels),
	count(*) FILTER (WHERE (SELECT count(*) FROM logq_store.filter f WHERE f.segment = s.name AND f.field = 'trace_id') = 1
		AND (SELECT sum(r.rows) FROM logq_store.rollup_level r WHERE r.segment = s.name) = l.n)
FROM logq_store.segment s
	JOIN (SELECT tableoid::regclass::name AS name, count(*) AS n, min(ts) AS min_ts, max(ts) AS max_ts,
			min(id) AS min_id, max(id) AS max_id, array_agg(DISTINCT level) AS levels
		FROM logq_store.log GROUP BY 1) l ON 'logq_store.' || s.name = l.name
WHERE s.state = 'sealed' AND s.lower < '2024-06-01 04:00+00'
SQL
	$_->quit foreach $one, $two, $holder;
}

# ---------- partitions whose turn comes late ----------

{
	settle();
	my $limited = trusting();
	my $unlimited = trusting();
	my $query = "SELECT to_char(ts, 'YYYYMMDDHH24MISS.US'), id, level FROM logq.logs";
	# p1 and p2 have hours 0 to 3, p3 has 4 to 7
	my $range = "WHERE ts < $hour 10";
	my @known = split /\n/, $c->sql("SELECT id FROM logq.logs $range");
	my (@got, @ids, %id);

	foreach my $d ('', ' DESC')
	{
		my $far = $d ? 1 : 6;
		my $late = $d ? 'p1' : 'p3';
		my @rows;

		settle();
		@known = split /\n/, $c->sql("SELECT id FROM logq.logs $range");
		foreach my $s ($limited, $unlimited)
		{
			my $limit = $s == $limited ? ' LIMIT ' . (@known + 100) : '';

			$s->query('BEGIN');
			$s->query("DECLARE c CURSOR FOR $query $range ORDER BY ts$d, id$d$limit");
			@rows = lines($s->query('FETCH 100 FROM c'));
			$s->{got} = [@rows];
		}
		is($limited->{got}[-1], $unlimited->{got}[-1], "both have got the same: order$d");
		# to the partition whose turn has not come: before the rows that were
		# handed out, and after them
		late_row($late, $d ? 9 : 0, "early$d", 0);
		late_row($late, $far, "far$d");
		late_row($late, $far + 0.5, "farther$d", 3);
		foreach my $s ($limited, $unlimited)
		{
			my $what = ($s == $limited ? 'with a LIMIT' : 'without a LIMIT') . ", order$d";
			my %seen;

			push @{ $s->{got} }, lines($s->query('FETCH ALL FROM c'));
			$s->query('COMMIT');
			in_order($d ? [ reverse @{ $s->{got} } ] : $s->{got}, "$what: in order, nothing twice");
			$seen{ (split /\|/)[1] }++ foreach @{ $s->{got} };
			is(scalar(grep { !$seen{$_} } @known), 0, "$what: all that was there is there");
		}
		is($limited->query("SELECT count(*) FROM logq.logs WHERE level IN ('early$d', 'far$d', 'farther$d')"), 3,
			'the next query finds all');
		$c->on($late, "DELETE FROM logq_store.log WHERE level IN ('early$d', 'far$d', 'farther$d')");
	}

	# outdated before the query begins
	settle();
	is($_->query("SELECT count(*) FROM logq.logs WHERE level = 'later'"), 0, 'a copy is trusted')
	  foreach $limited, $unlimited;
	late_row('p3', 5, 'later', 59);
	late_row('p3', 0, 'later', 10);
	@known = split /\n/, $c->on('p1', "SELECT id FROM logq_store.log $range");
	push @known, split /\n/, $c->on($_, "SELECT id FROM logq_store.log $range") foreach 'p2', 'p3';
	@got = lines($unlimited->query("$query $range ORDER BY ts, id"));
	is(scalar @got, scalar @known, 'without a LIMIT the answer is exact, however old the copy');
	in_order(\@got, 'and in order');
	$c->on('p3', "SELECT logq_store.drop_segment('log_20240601_000000')");
	settle();
	is($limited->query("SELECT count(*) FROM logq.logs WHERE level = 'latest'"), 0, 'a copy is trusted');
	late_row('p3', 0, 'latest', 1);
	@got = lines($limited->query("$query $range ORDER BY ts, id LIMIT 50"));
	is(scalar(grep { /latest/ } @got), 0, 'with one, a partition whose turn does not come is not asked');
	$limited->query('SET logq.strict_pruning = on');
	@got = lines($limited->query("$query $range ORDER BY ts, id LIMIT 50"));
	is(scalar(grep { /latest/ } @got), 1, 'unless logq.strict_pruning is on');
	in_order(\@got, 'and in order');
	$_->quit foreach $limited, $unlimited;
}

# ---------- a transaction's own late rows ----------

{
	settle();
	my $s = trusting();
	my $other = trusting();
	my $state = "SELECT state || ' ' || version FROM logq_store.segment WHERE name = 'log_20240601_020000'";
	my $was = $c->on('p1', $state);
	my $insert = sub {
		my ($mark) = @_;

		return "INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs, partition) VALUES ($hour 2, '$mark', '$mark', 'a $mark row', '$mark', '{\"user\": \"$mark\"}', 'p1')";
	};

	is(counts($s, 'own1'), $none, 'before');
	$s->query('BEGIN');
	is($s->query($insert->('own1')), '', 'a late row in a transaction');
	is(counts($s, 'own1'), $all, 'which sees it');
	is($s->query("SELECT level FROM logq.logs WHERE ts >= $hour 2 AND ts < $hour 3 AND trace_id = 'own1' ORDER BY ts, id LIMIT 1"),
		'own1', 'in order and with a LIMIT, too');
	is(counts($other, 'own1'), $none, 'others do not');
	$s->query('ROLLBACK');
	is(counts($s, 'own1'), $none, 'after its rollback nobody does');
	is(counts($other, 'own1'), $none, 'no, nobody');
	is($c->on('p1', $state), $was, 'and the segment is as it was');
	is($c->sql("SELECT count(*) FROM logq.logs WHERE ts >= $hour 2 AND ts < $hour 3 AND partition = 'p1'"),
		$c->on('p1', "SELECT count(*) FROM logq_store.log_20240601_020000"), 'with all its rows');
	$c->sql('SELECT logq.refresh_catalog()');
	is(asked($s, "trace_id = 'own1'"), 0, 'and is left out again');

	$s->query("BEGIN; SAVEPOINT one");
	$s->query($insert->('own2'));
	is(counts($s, 'own2'), $all, 'in a savepoint');
	$s->query('ROLLBACK TO one');
	is(counts($s, 'own2'), $none, 'not after its rollback');
	$s->query($insert->('own3'));
	is(counts($s, 'own3'), $all, 'then another');
	$s->query('COMMIT');
	is(counts($_, 'own2'), $none, 'what was rolled back is not there') foreach $s, $other;
	is(counts($_, 'own3'), $all, 'what was committed is') foreach $s, $other;
	$s->quit;
	$other->quit;
}

# ---------- a partition that was restored from a backup ----------

{
	settle();
	my $dump = "$PostgreSQL::Test::Utils::tmp_check/p1.sql";
	my $node = $c->part('p1');
	my $psql = sub {
		my ($file) = @_;

		return system($node->installed_command('psql'), '-Xqo', '/dev/null', '-v', 'ON_ERROR_STOP=1',
			'-d', $node->connstr('logs'), '-f', $file);
	};
	my $segments = "name, lower, upper, state, version";
	my ($s, $here, $there);

	late_row('p1', 0, 'kept');
	settle();
	is(system($node->installed_command('pg_dump'), '-n', 'logq_store', '-f', $dump,
			'-d', $node->connstr('logs')), 0, 'a backup of a partition');
	late_row('p1', 1, 'lost');
	late_row('p1', 30, 'lost');
	settle();
	$s = trusting();
	is(join(' ', counts($s, 'kept'), counts($s, 'lost')), "$all 2 2 2 2 2", 'all rows are there');
	is(asked($s, "trace_id = 'lost'"), 2, 'in the segments that have them');
	$node->safe_psql('logs', 'DROP SCHEMA logq_store CASCADE');
	is($psql->($dump), 0, 'it is restored');
	is(join(' ', counts($s, 'kept'), counts($s, 'lost')), "$all $none",
		'what it has, and only that, is found');
	$c->sql('SELECT logq.refresh_catalog()');
	$here = $c->sql("SELECT $segments FROM logq.segments WHERE partition = 'p1' ORDER BY lower");
	$there = $c->on('p1', "SELECT $segments FROM logq_store.segment ORDER BY lower");
	is($here, $there, "the coordinator's copy goes back with it");
	late_row('p1', 1, 'lost');
	$s->query('SET logq.strict_pruning = on');
	is(counts($s, 'lost'), $all, 'and forth');
	$s->quit;

	# an older version with other contents, where nobody is asked otherwise
	settle();
	$s = trusting();
	is(counts($s, 'older'), $none, 'not there yet');
	late_row('p1', 2, 'older');
	$c->on('p1', 'UPDATE logq_store.catalog_version SET version = 5');
	is($s->query("SELECT count(*) FROM logq.logs WHERE trace_id IN ('older', 'trace-p1-1-1')"), 1 + $rows / 10,
		'a version that goes back is noticed');
	is(counts($s, 'older'), $all, 'and not forgotten');
	$c->sql('SELECT logq.refresh_catalog()');
	is($c->sql("SELECT version FROM logq.catalog JOIN logq.partition USING (number) WHERE server = 'p1'"), 5,
		'the copy has it');
	settle();
	is(asked($s, "trace_id = 'older'"), 1, 'it goes on from there');
	is(counts($s, 'older'), $all, 'and all is well');
	$s->quit;
}

# ---------- a partition that has to step forward ----------

# Segments of different lengths: p1 and p2 are asked together, as p1's day
# reaches over p2's hours.  p2 turns out to have rows in an hour that had none,
# which come before those that it was expected to begin with.
{
	my $day = "timestamptz '2024-08-01 00:00+00'";
	my $rounds = 2;
	my $row = sub { "INSERT INTO logq_store.log (ts, service) VALUES ($day + interval '$_[1]', 'r$_[0]')" };

	$c->on('p1', "UPDATE logq_store.store SET segment_interval = '1 day'; SELECT logq_store.make_segment($day)");
	$c->on('p2', "SELECT logq_store.make_segment($day + i * interval '1 hour') FROM generate_series(9, 11) i");
	foreach my $i (1 .. $rounds)
	{
		$c->on('p1', join ';', map { $row->($i, $_) } '12:00', '10:00');
		$c->on('p2', $row->($i, '9:30'));
	}
	$c->on('p2', $row->(0, '11:30'));
	foreach my $i (1 .. $rounds)
	{
		settle();
		my $s = trusting();
		my $query = "SELECT to_char(ts, 'YYYYMMDDHH24MISS.US'), id FROM logq.logs WHERE service = 'r$i' ORDER BY ts DESC, id DESC LIMIT 100";

		$c->on('p2', join ';', map { $row->($i, $_) } '11:50', '11:40');

		# they may be locked for as long as it takes
		$s->query("SET logq.partition_timeout = '60s'");
		# p1 answers when p2 has found out, and is still about to answer
		my @locks = map { $c->session(node => $c->part($_)) } 'p1', 'p2';

		$locks[0]->query('BEGIN; LOCK TABLE logq_store.log_20240801_000000');
		$locks[1]->query('BEGIN; LOCK TABLE logq_store.log_20240801_110000');
		$s->send($query);
		$_->blocks('logq') or die "nobody waits on $_->{node}{_name}" foreach @locks;
		$locks[0]->query('COMMIT');
		LogqTest::poll(sub { !$c->remote_activity('p1') }) or die 'p1 has not answered';
		$locks[1]->query('COMMIT');

		my @got = lines($s->wait);

		is(scalar @got, 5, "rows of an hour that was not expected, round $i: all are there");
		in_order([ reverse @got ], 'in order');
		$_->quit foreach @locks, $s;
	}
	$c->on('p1', "UPDATE logq_store.store SET segment_interval = '1 hour'");
}

is($c->sql($_), $second->safe_psql('logs', $_), 'both coordinators have the same rows')
  foreach "SELECT count(*), sum(hashtext(l::text)) FROM logq.logs l";
$c->quiet('nothing is left running');
done_testing();
