# The coordinator's copy of the partitions' catalogs: equal to them after every
# change, filters in groups and out again, and what a session makes of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $minutes = 150;
my $start = '2024-05-01 00:00+00';

my $c = LogqTest->new(
	partitions => 2,
	segment_interval => '1 minute',
	coordinator_conf => ['autovacuum = off']);

# ---------- comparing ----------

my $columns = <<'SQL';
name, lower, upper, state, version, sealed_at, rows, bytes, min_ts, max_ts,
min_id, max_id, min_trace_id, max_trace_id, levels, level_rows, services,
service_rows, service_level_rows, odd_case, level_rollup, service_rollup
SQL

# every filter and sketch of a sealed segment, wherever it is stored
my $copied_filters = <<'SQL';
SELECT s.name, f.field, f.n, CASE WHEN f.blocks > 0 THEN md5(CASE WHEN f.grp = 0 THEN substr(o.filter, 17) ELSE
		(SELECT string_agg(substr(g.data, f.slot * 32 + 1, 32), ''::bytea ORDER BY g.block)
		FROM logq.catalog_filter_group g
		WHERE g.number = s.number AND g.field = f.field AND g."group" = f.grp
			AND g.block % ((SELECT max(block) + 1 FROM logq.catalog_filter_group m
				WHERE m.number = s.number AND m.field = f.field AND m."group" = f.grp) / f.blocks) = 0) END) END,
	md5(o.sketch)
FROM logq.catalog_segment s JOIN logq.partition p USING (number),
	unnest(s.filter_fields, s.filter_values, s.filter_blocks, s.filter_groups, s.filter_slots)
		AS f(field, n, blocks, grp, slot)
	LEFT JOIN LATERAL (SELECT * FROM logq.catalog_filter o WHERE o.number = s.number
		AND o.segment = s.name AND o.field = f.field AND o.version = s.version) o ON true
WHERE p.server = '%s' AND s.state = 'sealed' ORDER BY 1, 2
SQL

# Test: the same lines; shows only others
sub same_lines
{
	my ($got, $wanted, $name) = @_;
	my (%got, %wanted);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	@got{ split /\n/, $got } = ();
	@wanted{ split /\n/, $wanted } = ();
	is(join("\n", grep { !exists $wanted{$_} } sort keys %got),
		join("\n", grep { !exists $got{$_} } sort keys %wanted), $name);
	return;
}

# Test: the copy of a partition's catalog is equal to it
sub is_copy
{
	my ($part, $name, $node) = @_;
	my $ask = sub { return ($node // $c->coordinator)->safe_psql('logs', $_[0]); };
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	same_lines($ask->("SELECT $columns FROM logq.catalog_segment JOIN logq.partition USING (number) WHERE server = '$part' ORDER BY name"),
		$c->on($part, "SELECT $columns FROM logq_store.segment ORDER BY name"),
		"$name: segments of $part");
	same_lines($ask->(sprintf $copied_filters, $part),
		$c->on($part, "SELECT segment, field, distinct_values, md5(substr(filter, 17)), md5(sketch) FROM logq_store.filter JOIN logq_store.segment ON segment = name WHERE state = 'sealed' ORDER BY 1, 2"),
		"$name: filters of $part");
	is($ask->("SELECT version, segment_interval, retention FROM logq.catalog JOIN logq.partition USING (number) WHERE server = '$part'"),
		$c->on($part, 'SELECT version, segment_interval, retention FROM logq_store.catalog_version, logq_store.store'),
		"$name: version and settings of $part");
	# nothing is left over
	is($ask->(<<'SQL'), '0|0', "$name: no filters of segments that are not there");
SELECT (SELECT count(*) FROM logq.catalog_filter f WHERE NOT EXISTS (
		SELECT FROM logq.catalog_segment s WHERE s.number = f.number AND s.name = f.segment AND s.version = f.version AND f.field = ANY (s.filter_fields))),
	(SELECT count(*) FROM (SELECT DISTINCT number, field, "group" FROM logq.catalog_filter_group) g WHERE NOT EXISTS (
		SELECT FROM logq.catalog_segment s WHERE s.number = g.number AND g."group" = ANY (s.filter_groups)))
SQL
	return;
}

sub groups
{
	my ($field) = @_;

	return $c->sql(<<"SQL");
SELECT count(DISTINCT grp) FILTER (WHERE grp > 0), count(*) FILTER (WHERE grp = 0)
FROM logq.catalog_segment JOIN logq.partition USING (number), unnest(filter_fields, filter_groups) AS f(field, grp)
WHERE server = 'p1' AND field = '$field' AND state = 'sealed'
SQL
}

# Test: queries answer the same with and without the copy, in a session that
# knows an older one, too
my $old = $c->session;
my @conditions = (
	(map { "trace_id = 'trace-$_'" } 3, 17, 100, 440, 449),
	"trace_id IN ('trace-5', 'trace-333', 'none')",
	"trace_id = 'none'",
	"service = 'web-3'", "service = 'none'", "level = 'ERROR'",
	"level = 'FATAL'", "message ILIKE '%number 77 of%'",
	"ts >= '2024-05-01 00:30+00' AND ts < '2024-05-01 00:40+00' AND trace_id = 'trace-100'");

sub same_answers
{
	my ($name) = @_;
	my @wrong;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $where (@conditions)
	{
		my $sql = "SELECT count(*), sum(id) FROM logq.logs WHERE $where";
		my $plain = $c->sql("SET logq.enable_content_pruning = off; $sql");

		foreach my $s ($old, undef)
		{
			# twice: the second time the copy is confirmed
			foreach (1, 2)
			{
				my $got = $s ? $s->query($sql) : $c->sql($sql);

				push @wrong, "$where: $got, not $plain" if $got ne $plain;
			}
		}
	}
	is("@wrong", '', "$name: same answers with and without the catalog");
	return;
}

# "Segments:" line of a query's plan, run once before to have it confirmed
sub segments_asked
{
	my ($session, $where) = @_;

	$session->query("SELECT count(*) FROM logq.logs WHERE $where");
	my $plan = $session->query("EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM logq.logs WHERE $where");

	return $plan =~ /Segments: (\d+) of \d+/ ? $1 : $plan;
}

# ---------- open segments ----------

$c->sql(<<"SQL");
INSERT INTO logq.logs (ts, level, service, trace_id, message, partition)
SELECT timestamptz '$start' + m * interval '1 minute' + i * interval '1 second',
	(ARRAY['INFO', 'INFO', 'WARN', 'ERROR'])[1 + (m + i) % 4], 'web-' || m % 7,
	'trace-' || m * 3 + i % 3, 'message number ' || i || ' of ' || m, 'p' || 1 + i % 2
FROM generate_series(0, $minutes - 1) m, generate_series(0, 11) i
SQL
is($c->sql('SELECT logq.refresh_catalog()'), 2 * $minutes, 'the first copy');
is_copy($_, 'open segments') foreach $c->names;
is($c->sql('SELECT logq.refresh_catalog()'), 0, 'nothing has changed since');
my $changed = $c->sql('SELECT changed FROM logq.catalog ORDER BY number');
is($c->sql("SELECT logq.refresh_catalog('p1'); SELECT changed FROM logq.catalog ORDER BY number"),
	"0\n$changed", 'and nothing was written');
same_answers('open segments');

# ---------- sealed ones, in groups ----------

is($c->sql("SELECT count(*) FROM logq.seal('p1', before => '2024-05-01 03:00+00')"),
	$minutes, 'all segments of p1 are sealed');
is($c->sql("SELECT logq.refresh_catalog('p1')"), $minutes, 'and copied');
is_copy('p1', 'sealed segments');
is(groups('trace_id'), '2|' . ($minutes - 128), 'filters stand in groups');
same_answers('sealed segments');
is(segments_asked($old, "trace_id = 'none' AND partition = 'p1'"), 0,
	'filters leave out all segments');
is(segments_asked($old, "trace_id = 'trace-100' AND partition = 'p1'"), 1,
	'or all but one');
is($c->sql("SELECT logq.refresh_catalog('p1')"), 0, 'no more groups to be built');

# ---------- one change at a time ----------

my $late = "INSERT INTO logq.logs (ts, trace_id, service, partition) VALUES ('2024-05-01 00:10:30+00', '%s', 'late', 'p1')";

$old->query(sprintf $late, 'trace-late');
is($old->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-late'"),
	1, 'a late row is found before the copy knows of it');
is($c->sql('SELECT logq.refresh_catalog()'), 1, 'one segment has changed');
is_copy('p1', 'a late row');
same_answers('a late row');
is($c->sql("SELECT count(*) FROM logq.seal('p1', before => '2024-05-01 03:00+00')"),
	1, 'its segment is sealed again');
is($c->sql('SELECT logq.refresh_catalog()'), 1, 'and copied');
is_copy('p1', 'sealed again');
is(groups('trace_id'), '2|' . ($minutes - 127), 'its filter stands by itself');
push @conditions, "trace_id = 'trace-late'", "service = 'late'";
same_answers('sealed again');

$c->sql("INSERT INTO logq.logs (ts, trace_id, partition) VALUES ('2024-06-01 00:00+00', 'trace-new', 'p2')");
is($c->sql('SELECT logq.refresh_catalog()'), 1, 'a new segment');
is_copy('p2', 'a new segment');

$c->on('p1', 'SET ROLE logq; UPDATE logq_store.store SET retention = interval \'1000 days 2 hours\'');
is($c->sql('SELECT logq.refresh_catalog()'), 0, 'settings of the store');
is_copy('p1', 'settings of the store');

# ---------- transactions ----------

$c->on('p1', "SELECT logq_store.drop_segment('log_20240501_000000')");
{
	my $s = $c->session;

	$s->query('BEGIN');
	is($s->query('SELECT logq.refresh_catalog()'), 1, 'a dropped segment');
	is($s->query("EXPLAIN SELECT * FROM logq.logs") =~ /Segments: \d+ of (\d+)/ ? $1 : '',
		2 * $minutes, 'is gone within the transaction');
	$s->query('ROLLBACK');
	is($c->sql('SELECT count(*) FROM logq.catalog_segment WHERE number = 1'), $minutes,
		'and there again after a rollback');
	is(segments_asked($s, "trace_id = 'none' AND partition = 'p1'"), 0,
		'and nothing is wrong in the session');
	$s->query('BEGIN; SAVEPOINT one');
	is($s->query('SELECT logq.refresh_catalog()'), 1, 'within a savepoint');
	$s->query('ROLLBACK TO one');
	is($s->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-0' AND partition = 'p1'"), 0,
		'rolled back');

	# copies of one partition take turns
	is($s->query("SELECT logq.refresh_catalog('p1')"), 1, 'once more');
	my $t = $c->session;
	$t->send("SELECT logq.refresh_catalog('p1')");
	ok($t->is_blocked, 'another one waits');
	$s->query('COMMIT');
	is($t->wait, 0, 'and finds nothing to do');
	$t->quit;
	$s->quit;
}
is_copy('p1', 'a dropped segment');
same_answers('a dropped segment');

# ---------- groups that lose members ----------

my $drop = sub {
	my ($from, $to) = @_;

	$c->on('p1', join ';', map {
		sprintf "SELECT logq_store.drop_segment('log_20240501_%02d%02d00')", $_ / 60, $_ % 60
	} $from .. $to);
};

$drop->(1, 31);
is($c->sql('SELECT logq.refresh_catalog()'), 31, 'half of a group is dropped');
is_copy('p1', 'half a group');
is(groups('trace_id'), '2|' . ($minutes - 128), 'it stays');
$drop->(32, 35);
is($c->sql('SELECT logq.refresh_catalog()'), 4, 'some more');
is_copy('p1', 'a group dissolved');
is(groups('trace_id'), '1|' . ($minutes - 36 - 64), 'the rest of it stands by itself');
same_answers('a group dissolved');
$drop->(36, 120);
is($c->sql('SELECT logq.refresh_catalog()'), 85, 'nearly all');
is_copy('p1', 'few are left');
is(groups('trace_id'), '0|' . ($minutes - 121), 'there is no group any more');
same_answers('few are left');

# filters of many sizes: in a group they lie side by side; real ones would need
# millions of values
my $fill = <<'SQL';
SET ROLE logq;
SELECT format('CREATE TABLE logq_store.%%I PARTITION OF logq_store.log FOR VALUES FROM (%%L) TO (%%L)', 'made_' || i, l, l + interval '1 minute')
FROM generate_series(%d, %d) i, LATERAL (SELECT timestamptz '2025-01-01' + i * interval '1 minute') x(l) \gexec
WITH v AS (SELECT logq_store.raise_version() AS v),
s AS (INSERT INTO logq_store.segment (name, lower, upper, state, version, sealed_at, rows,
		min_ts, max_ts, min_id, max_id, levels, level_rows, odd_case)
	SELECT 'made_' || i, l, l + interval '1 minute', 'sealed', v, now(), 10,
		l, l, 1::int8 << 44, 2::int8 << 44, '{INFO,NULL}', '{7,3}', false
	FROM v, generate_series(%d, %d) i, LATERAL (SELECT timestamptz '2025-01-01' + i * interval '1 minute') x(l))
SELECT '' FROM v;
INSERT INTO logq_store.filter
SELECT 'made_' || i, f.field, 100, decode('01' || lpad(to_hex(l), 2, '0') || '000000000000' || '6400000000000000', 'hex') ||
	(SELECT string_agg(decode(md5(i || f.field || k), 'hex'), '') FROM generate_series(1, 2 << l) k),
	CASE WHEN i %% 2 = 0 THEN decode('010404' || repeat('00', 5 + 8 + 4 * 4 * 16), 'hex') END
FROM generate_series(%d, %d) i, LATERAL (SELECT i %% %d) x(l), (VALUES ('trace_id'), ('attrs.user')) f(field)
SQL

$c->on('p1', sprintf $fill, (1, 200) x 3, 3);
is($c->sql("SELECT logq.refresh_catalog('p1')"), 200, '200 segments with filters of up to 4 blocks');
is_copy('p1', 'filters of several sizes');
is(groups('attrs.user'), '3|8', 'make groups');
$c->on('p1', "SELECT logq_store.drop_segment('made_' || i) FROM generate_series(1, 63) i WHERE i % 5 > 0");
is($c->sql("SELECT logq.refresh_catalog('p1')"), 51, 'of which one is dissolved');
is(groups('attrs.user'), '2|21', 'so it is');
is_copy('p1', 'filters of several sizes, out of their group');
$c->on('p1', sprintf $fill, (1001, 1200) x 3, 10);
$c->sql("SELECT logq.refresh_catalog('p1')");
is_copy('p1', 'filters of ten sizes');
is($c->sql("SELECT logq.refresh_catalog('p1')"), 0, 'all groups are built');
same_answers('filters of many sizes');
is($c->sql(q{SELECT bool_and(n = 64 AND b & (b - 1) = 0) FROM (SELECT max(block) + 1 AS b, min(length(data)) / 32 AS n FROM logq.catalog_filter_group GROUP BY number, field, "group") g}),
	't', 'all groups are complete');

# filters that nobody can read
$c->on('p1', <<'SQL');
SELECT logq_store.raise_version() AS v \gset
UPDATE logq_store.segment SET version = :v WHERE name IN ('made_1001', 'made_1002', 'made_1003');
UPDATE logq_store.filter SET filter = CASE segment WHEN 'made_1001' THEN '\x09'::bytea || substr(filter, 2) WHEN 'made_1002' THEN substr(filter, 1, 40) ELSE '' END,
	sketch = '\x0102' WHERE segment IN ('made_1001', 'made_1002', 'made_1003');
SQL
is($c->sql("SELECT logq.refresh_catalog('p1'); SELECT name, filter_blocks FROM logq.catalog_segment WHERE name IN ('made_1001', 'made_1002', 'made_1003') ORDER BY 1"),
	"3\nmade_1001|{0,0}\nmade_1002|{0,0}\nmade_1003|{0,0}", 'filters that cannot be read are left out');
same_answers('filters that cannot be read');
$c->on('p1', "SELECT logq_store.drop_segment('made_' || i) FROM generate_series(1001, 1003) i");

# ---------- memory ----------

{
	my $s = $c->session;
	my $used = sub {
		return $s->query("SELECT sum(used_bytes) FROM pg_backend_memory_contexts WHERE name = 'logq contents'");
	};
	my $asked = "trace_id = 'none' AND partition = 'p1'";
	my $least = segments_asked($s, $asked);
	my $full = $used->();

	cmp_ok($full, '>', 64 * 1024, 'contents take memory');
	$s->query("SET logq.catalog_memory = '64kB'");
	my $few = segments_asked($s, $asked);
	cmp_ok($few, '>', $least + 10, 'with little memory more segments are asked');
	cmp_ok($used->(), '<', 64 * 1024, 'and it is not exceeded');
	my $t = $c->session;
	$t->query("SET logq.catalog_memory = '64kB'");
	cmp_ok(abs(segments_asked($t, $asked) - $few), '<', 20, 'about as many as in a session that never had more');
	is($t->query("SELECT sum(used_bytes) < 64 * 1024 FROM pg_backend_memory_contexts WHERE name = 'logq contents'"),
		't', 'nor is it in a new session');
	is($t->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-late'"), 0, 'answers are the same');
	$s->query('RESET logq.catalog_memory');
	is(segments_asked($s, $asked), $least, 'with more memory they are known again');
	cmp_ok(abs($used->() - $full), '<', 8192, 'in as much as before');

	# a session that sees many changes keeps its size
	$c->on('p1', 'CREATE FUNCTION public.touch(text) RETURNS void LANGUAGE plpgsql AS $$ DECLARE v int8; BEGIN v := logq_store.raise_version(); UPDATE logq_store.segment SET version = v WHERE name LIKE $1; END $$');
	foreach my $i (1 .. 40)
	{
		$c->on('p1', "SELECT touch('made_%')");
		$c->sql("SELECT logq.refresh_catalog('p1')");
		$s->query("EXPLAIN SELECT * FROM logq.logs");
	}
	cmp_ok($s->query("SELECT sum(used_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'logq%'"),
		'<', 4 * 1024 * 1024, 'changes leave nothing behind');
	is(segments_asked($s, $asked), $least, 'and all is known');
	$t->quit;
	$s->quit;
}
is_copy('p1', 'many changes');

# ---------- a partition restored from a backup ----------

$c->on('p1', <<'SQL');
CREATE SCHEMA backup;
CREATE TABLE backup.version AS SELECT * FROM logq_store.catalog_version;
CREATE TABLE backup.segment AS SELECT * FROM logq_store.segment;
CREATE TABLE backup.filter AS SELECT * FROM logq_store.filter;
SQL
$c->on('p1', "SELECT touch('made_10%'); DELETE FROM logq_store.segment WHERE name = 'made_1100'");
$c->sql(sprintf $late =~ s/00:10/02:10/r, 'trace-later');
cmp_ok($c->sql('SELECT logq.refresh_catalog()'), '>', 90, 'before the restore');
$old->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-later'");
$c->on('p1', <<'SQL');
BEGIN;
DELETE FROM logq_store.log WHERE trace_id = 'trace-later';
DELETE FROM logq_store.segment;
INSERT INTO logq_store.segment SELECT * FROM backup.segment;
INSERT INTO logq_store.filter SELECT * FROM backup.filter;
UPDATE logq_store.catalog_version SET version = (SELECT version FROM backup.version);
COMMIT;
SQL
push @conditions, "trace_id = 'trace-later'";
same_answers('restored from a backup, before the copy knows');
cmp_ok($c->sql('SELECT logq.refresh_catalog()'), '>', 90, 'the copy goes back as well');
is_copy('p1', 'restored');
same_answers('restored');

# ---------- a server that leads elsewhere ----------

{
	my $s = $c->session;
	my $p2 = $c->part('p2');

	$s->query("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-140'");
	my $here = $s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1'");
	# a copy of p1's store, say
	$c->on('p2', 'UPDATE logq_store.store SET number = 1');
	$s->query("ALTER SERVER p1 OPTIONS (SET port '" . $p2->port . "')");
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND trace_id = 'trace-10'"),
		$c->on('p2', "SELECT count(*) FROM logq_store.log WHERE trace_id = 'trace-10'"),
		'rows of another database, of which the copy does not know');
	$c->on('p2', 'UPDATE logq_store.store SET number = 2');
	$s->query("ALTER SERVER p1 OPTIONS (SET port '" . $c->part('p1')->port . "')");
	is($s->query("SELECT count(*) FROM logq.logs WHERE partition = 'p1'"), $here, 'and back');
	$s->quit;
}

# ---------- a partition that comes during a parallel query ----------

# which has only its own snapshot to see it by
{
	my $s = $c->session;
	my $lock = $c->session;

	LogqTest::set_up_partition_database($c->part('p2'), 'third');
	$s->query(<<'SQL');
CREATE TABLE big AS SELECT i FROM generate_series(1, 100000) i;
ANALYZE big;
CREATE FUNCTION slow() RETURNS int LANGUAGE plpgsql PARALLEL RESTRICTED AS
	$$ BEGIN PERFORM pg_advisory_lock(9), pg_advisory_unlock(9), count(*) FROM pg_class; RETURN 0; END $$;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SQL
	my $query = 'WITH x AS MATERIALIZED (SELECT n, slow() AS s FROM (SELECT count(*) n FROM big) b) SELECT x.n, l.id > 0 FROM x, LATERAL (SELECT id FROM logq.logs WHERE length(partition) > x.s LIMIT 1) l';
	like($s->query("EXPLAIN (COSTS OFF) $query"), qr/Gather(?s:.*)LogqScan/, 'a parallel query');
	$lock->query('SELECT pg_advisory_lock(9)');
	$s->send($query);
	LogqTest::poll_ok(sub {
		$s->{run}->pump_nb;
		return $c->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
	}, 'it is under way');
	$c->add_partition('p3', node => $c->part('p2'), db => 'third');
	$c->sql("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'THIRD', 'p3')");
	$lock->query('SELECT pg_advisory_unlock(9)');
	is($s->wait(30), '100000|t', 'and ends');
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'THIRD'"), 1, 'the session knows of the partition afterwards');
	$c->sql("SELECT logq.remove_partition('p3', true)");
	$_->quit foreach $s, $lock;
}

# ---------- the view ----------

is($c->sql("SELECT partition, state, exact, rows = 10, levels, level_rows, services, filters->'trace_id'->>'distinct', filters->'trace_id'->>'bytes', filters->'trace_id'->>'stored', version > 0 FROM logq.segments WHERE name = 'made_1010'"),
	'p1|sealed|t|t|{INFO,NULL}|{7,3}||100|32|group|t', 'a sealed segment in the view');
is($c->sql("SELECT partition, state, exact, filters FROM logq.segments WHERE lower = '2024-06-01 00:00+00'"),
	'p2|open|f|', 'an open one');
is($c->sql('SELECT count(*) FROM logq.segments'),
	$c->on('p1', 'SELECT count(*) FROM logq_store.segment') +
	  $c->on('p2', 'SELECT count(*) FROM logq_store.segment'), 'and all others');

# ---------- who may do what ----------

$c->sql("CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA logq TO reader; GRANT SELECT ON logq.logs TO reader; CREATE USER MAPPING FOR reader SERVER p1 OPTIONS (user 'logq', password " . LogqTest::lit($LogqTest::password) . "); CREATE USER MAPPING FOR reader SERVER p2 OPTIONS (user 'logq', password " . LogqTest::lit($LogqTest::password) . ")");
$c->fails('SELECT logq.refresh_catalog()', '42501', qr/refresh_catalog/, 'not everybody may refresh', user => 'reader');
is($c->try("EXPLAIN (COSTS off) SELECT * FROM logq.logs WHERE partition = 'p1'", user => 'reader')->{out} =~ /Segments: \d+ of (\d+)/ ? $1 : '',
	$c->sql('SELECT count(*) FROM logq.segments'), 'but the copy is for all who may search');
$c->sql('GRANT EXECUTE ON FUNCTION logq.refresh_catalog(name) TO reader');
is($c->sql(<<'SQL'), '', 'operators of others');
CREATE SCHEMA trap;
CREATE FUNCTION trap.equal(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped as %', current_user; END $$;
CREATE OPERATOR trap.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = trap.equal);
GRANT USAGE ON SCHEMA trap TO reader;
SQL
$c->on('p1', "SELECT touch('made_1010')");
$c->gives("SET search_path = trap, pg_catalog; SELECT logq.refresh_catalog(); SELECT current_user, current_setting('search_path')",
	"1\nreader|trap, pg_catalog", 'a reader refreshes as the owner of the tables', user => 'reader');
is_copy('p1', 'as a reader');
$c->fails("SELECT logq.refresh_catalog('p7')", '42704', qr/"p7" is not a partition/, 'a partition that there is not');
$c->gives('BEGIN READ ONLY; SELECT logq.refresh_catalog()', 0, 'when nothing has changed nothing is written');

# ---------- two coordinators ----------

{
	my $second = LogqTest::start_coordinator('second');

	foreach my $name ($c->names)
	{
		$c->add_partition($name, coordinator => $second);
	}
	is($second->safe_psql('logs', 'SELECT logq.refresh_catalog()'),
		$c->sql('SELECT count(*) FROM logq.segments'), 'another coordinator');
	is_copy($_, 'another coordinator', $second) foreach $c->names;
	$second->safe_psql('logs', "INSERT INTO logq.logs (ts, trace_id, partition) VALUES ('2024-05-01 02:20:30+00', 'trace-second', 'p1')");
	is($c->sql("SELECT count(*) FROM logq.logs WHERE trace_id = 'trace-second'"), 1,
		'what one writes the other finds');
	is($_->safe_psql('logs', 'SELECT logq.refresh_catalog()'), 1, 'both learn of it')
	  foreach $second, $c->coordinator;
	is_copy('p1', 'both', $second);
	$second->stop;
}

# ---------- warm start, a partition that is down ----------

$old->quit;
$c->coordinator->restart;
$c->part('p2')->stop;
my $plan = $c->sql("EXPLAIN SELECT * FROM logq.logs WHERE ts < '2024-05-02'");
like($plan, qr/Segments: \d+ of [1-9]/, 'after a restart segments are known without asking');
$c->fails('SELECT logq.refresh_catalog()', '08', qr/"p2"/, 'a partition that is down is named');
is($c->sql("SELECT logq.refresh_catalog('p1')"), 0, 'the other one can be refreshed');
$c->part('p2')->start;
is($c->sql('SELECT logq.refresh_catalog()'), 0, 'and both again');

# ---------- removing ----------

$c->sql("SELECT logq.remove_partition('p1', true)");
is($c->sql(join ' UNION ALL ', map { "SELECT count(*) FROM logq.$_ WHERE number = 1" } qw(catalog catalog_segment catalog_filter catalog_filter_group)),
	"0\n0\n0\n0", 'a partition that is removed leaves nothing behind');
is($c->sql('SELECT count(*) FROM logq.segments'), $c->on('p2', 'SELECT count(*) FROM logq_store.segment'), 'the view has the others');
{
	my $s = $c->session;

	$s->query("SELECT logq.add_partition('p1')");
	cmp_ok($s->query('SELECT logq.refresh_catalog()'), '>', 100, 'it can come back');
	is_copy('p1', 'come back');
	$s->query('BEGIN; DROP EXTENSION logq CASCADE');
	like($s->query('SELECT count(*) FROM logq.logs'), qr/42P01|3F000/, 'the extension is dropped');
	$s->query('ROLLBACK');
	cmp_ok($s->query('SELECT count(*) FROM logq.logs'), '>', 100, 'or not');
	$s->query('DROP EXTENSION logq CASCADE; CREATE EXTENSION logq');
	is($s->query('SELECT logq.refresh_catalog(), (SELECT count(*) FROM logq.logs)'), '0|0', 'and made anew');
	$s->quit;
}

done_testing();
