# Random queries against logq.logs and against a plain table with the same
# rows: the answers must be the same, whatever is pushed down or pruned, in
# whatever state segments are, and whoever writes meanwhile.
#
#	LOGQ_SEED		repeats a run (times and ids are those of the new run)
#	LOGQ_QUERIES	number of queries, 600
#	LOGQ_ROWS		number of rows, 3000
#	LOGQ_ONLY		runs only the queries of this number, or "from-to"
#	LOGQ_SHAPE		makes all queries of this shape

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use Encode qw(encode);
use LogqAggregates;
use LogqCompare;
use LogqQueries;
use LogqRows qw(chance pick);
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{LOGQ_SEED} // int(time) % 1000000;
my $nqueries = $ENV{LOGQ_QUERIES} // 600;
my $nrows = $ENV{LOGQ_ROWS} // 3000;
my ($first, $last) = split /-/, $ENV{LOGQ_ONLY} // "1-$nqueries";
my $whole = $nqueries >= 300 && !defined $ENV{LOGQ_ONLY} && !defined $ENV{LOGQ_SHAPE};

$last //= $first;
diag("seed $seed: LOGQ_SEED=$seed LOGQ_QUERIES=$nqueries LOGQ_ROWS=$nrows repeats this run");
srand $seed;

# ---------- rows ----------

my $c = LogqTest->new(
	partitions => 3,
	replicas => 1,
	# a crash must not take the queries after it along
	coordinator_conf => ["restart_after_crash = on",
		# all of sealed segments is cached, in much or in little memory
		"logq.cache_min_cost = 0", "logq.hot_cache_size = " . ($seed % 2 ? 100 : 1)]);
my $now = time;
my @rows = LogqRows::random_rows($nrows * 0.75, 1, LogqRows::hours($now));
my $late = @rows;
my ($direct, $more);

push @rows, LogqRows::random_rows($nrows * 0.08, 0, LogqRows::late_hours($now));
$direct = @rows;
push @rows, LogqRows::random_rows($nrows * 0.02, 0, LogqRows::late_hours($now));
$more = @rows;
push @rows, LogqRows::random_rows($nrows * 0.15, 0, LogqRows::hours($now),
	LogqRows::late_hours($now));

# Rows [from, to) as a file of COPY, into the table "source"
sub copy_file
{
	my ($from, $to) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/rows.$from";
	my $n = $from;

	open my $out, '>:encoding(UTF-8)', $file or die $!;
	foreach my $row (@rows[ $from .. $to - 1 ])
	{
		print $out join("\t", $n++, map {
			my $v = $_;

			if (defined $v)
			{
				$v =~ s/\\/\\\\/g;
				$v =~ s/\n/\\n/g;
				$v =~ s/\r/\\r/g;
				$v =~ s/\t/\\t/g;
			}
			$v // '\\N';
		} @$row), "\n";
	}
	close $out or die $!;
	$c->sql("\\copy source FROM '$file'");
	return $file;
}

# ... and into logq.logs: by COPY and by INSERT
sub load
{
	my ($from, $to) = @_;
	my $file = copy_file($from, $to);
	my $half = int(($from + $to) / 2);

	$c->sql(<<"SQL");
SET logq.route_by = round_robin;
\\copy (SELECT ts, level, service, message, trace_id, attrs FROM source WHERE n BETWEEN $from AND $half) TO '$file.half'
\\copy logq.logs (ts, level, service, message, trace_id, attrs) FROM '$file.half'
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT ts, level, service, message, trace_id, attrs FROM source
	WHERE n > $half AND n < $to;
SQL
	return;
}

# ... or to a partition behind logq's back
sub load_directly
{
	my ($from, $to, $name) = @_;
	my $file = copy_file($from, $to);

	$c->on($name, <<"SQL");
CREATE TEMP TABLE t (n int, ts timestamptz, level text, service text,
	message text, trace_id text, attrs jsonb);
\\copy t FROM '$file'
SELECT count(logq_store.make_segment(ts)) FROM t;
INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs)
	SELECT ts, level, service, message, trace_id, attrs FROM t;
SQL
	return;
}

# The plain table gets what logq.logs has, all of it.  Nothing lost, nothing
# changed, nothing twice, everything in its place?
sub check_rows
{
	my ($name) = @_;
	my $columns = 'ts, level, service, message, trace_id, attrs::text';

	# a replica may have some a moment later
	$c->sql(<<'SQL');
SET logq.read_from = 'primary';
TRUNCATE local_logs;
INSERT INTO local_logs SELECT * FROM logq.logs;
ANALYZE local_logs;
SQL
	is($c->sql("SELECT count(*) FROM local_logs"),
		$c->sql("SELECT count(*) FROM source"), "$name: all rows are there");
	is($c->sql(<<"SQL"), '0|0', "$name: and they are what was loaded");
SELECT (SELECT count(*) FROM (SELECT $columns FROM source
			EXCEPT ALL SELECT $columns FROM local_logs) x),
	(SELECT count(*) FROM (SELECT $columns FROM local_logs
			EXCEPT ALL SELECT $columns FROM source) x)
SQL
	is($c->sql(<<'SQL'), 't|t|t', "$name: ids are unique and tell the partition");
SELECT count(*) = count(DISTINCT id),
	bool_and((id >> 44) = (SELECT p.number FROM logq.partition p
		WHERE p.server = l.partition)),
	count(DISTINCT partition) = (SELECT count(*) FROM logq.partition)
FROM local_logs l
SQL
	return;
}

# ---------- the life of segments ----------

# SQL on a partition
sub on
{
	my ($name, $sql) = @_;

	return $name eq 'p4' ? $c->part('p3')->safe_psql('logs_c', $sql)
	  : $c->on($name, $sql);
}

# Seal some of the open segments of partitions, and the one of p1 that has too
# many levels, with filters for two keys of attrs: lists of partition, share,
# keys, condition
sub seal
{
	my (@jobs) = @_;
	my $many = LogqRows::timestamp($LogqRows::many_levels, 0);
	my @sessions;

	foreach my $job (@jobs)
	{
		my ($name, $share, $keys, $condition) = @$job;
		my @segments = map { s/\|.*//r }
		  grep { chance($share) || /p1\|t$/ } split /\n/, on($name, <<"SQL");
SELECT name || '|$name', lower = '$many' FROM logq_store.segment
WHERE state = 'open' AND ($condition) ORDER BY lower
SQL
		my $s = $c->session;

		$s->query("SET logq.bloom_attrs = '$keys'");
		$s->send("SELECT count(s.segment) FROM unnest('{" . join(',', @segments) .
			  "}'::name[]) AS x(name), logq.seal('$name', x.name) s");
		push @sessions, [ $s, scalar @segments, "segments of $name are sealed" ];
	}
	foreach (@sessions)
	{
		my ($s, $wanted, $what) = @$_;

		is($s->wait(300) // 'no end', $wanted, $what);
		$s->quit;
	}
	return;
}

# How many segments of all partitions are open, sealed, and open again
sub states
{
	my %sum = (open => 0, sealed => 0, reopened => 0);

	foreach my $name (split /\n/, $c->sql('SELECT server FROM logq.partition'))
	{
		my @n = split /\|/, on($name, <<'SQL');
SELECT count(*) FILTER (WHERE state = 'open' AND sealed_at IS NULL),
	count(*) FILTER (WHERE state = 'sealed'),
	count(*) FILTER (WHERE state = 'open' AND sealed_at IS NOT NULL)
FROM logq_store.segment
SQL
		$sum{$_} += shift @n foreach qw(open sealed reopened);
	}
	return \%sum;
}

# Of how many sealed segments it is known how many rows have which level and
# service in each minute, of how many it is not, and which have too many levels
sub counted
{
	my @sum = (0, 0, 0);

	foreach my $name (split /\n/, $c->sql('SELECT server FROM logq.partition'))
	{
		my @n = split /\|/, on($name, <<'SQL');
SELECT count(service_rollup), count(level_rollup) FILTER (WHERE service_rollup IS NULL),
	count(*) FILTER (WHERE level_rollup IS NULL)
FROM logq_store.segment WHERE state = 'sealed'
SQL
		$sum[$_] += $n[$_] foreach 0 .. 2;
	}
	return @sum;
}

# Drop a segment that is open and one that is sealed; with their rows
sub drop_segments
{
	my ($name) = @_;

	foreach my $state ('open', 'sealed')
	{
		my @segments = split /\n/, on($name,
			"SELECT name, lower, upper FROM logq_store.segment WHERE state = '$state' ORDER BY lower");
		my ($segment, $lower, $upper) = split /\|/, pick(@segments);

		on($name, "SELECT logq_store.drop_segment('$segment')");
		$c->sql("DELETE FROM local_logs WHERE partition = '$name' AND ts >= '$lower' AND ts < '$upper'");
	}
	# what was loaded, from now on
	$c->sql('TRUNCATE source; INSERT INTO source SELECT -1, ts, level, service, message, trace_id, attrs FROM local_logs');
	return;
}

# Until nothing that was found true before the changes behind logq's back is
# taken for true
sub outlast_confirmations
{
	LogqTest::poll(sub {
		return $c->sql(<<'SQL') eq 't';
SELECT coalesce(bool_and(coalesce(confirmed_at < now() - interval '1 second', true)), true)
FROM logq.catalog_status()
SQL
	}) or BAIL_OUT('confirmations do not grow old');
	return;
}

# ---------- tables, functions and views for the queries ----------

my $has_icu = $c->sql(
	"SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu'");
my $ci = $has_icu
  ? "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
  : 'FROM "C"';

sub views
{
	my ($n, $t) = @_;

	return <<"SQL";
CREATE VIEW v_errors_$n AS SELECT * FROM $t WHERE level = 'ERROR';
CREATE VIEW v_barrier_$n WITH (security_barrier) AS
	SELECT * FROM $t WHERE service IN ('web', 'auth') AND level <> 'INFO';
CREATE VIEW v_newest_$n AS SELECT * FROM $t ORDER BY ts DESC, id DESC LIMIT 200;
CREATE VIEW v_hourly_$n AS
	SELECT date_trunc('hour', ts) AS hour, level, count(*) AS n
	FROM $t GROUP BY 1, 2;
CREATE FUNCTION f_loop_$n(lvl text, svc text, since timestamptz) RETURNS text
LANGUAGE plpgsql AS \$\$
DECLARE
	r record;
	n int := 0;
	result text := '';
BEGIN
	FOR r IN SELECT l.id, l.message FROM $t l WHERE l.ts >= since
		AND (lvl IS NULL OR l.level = lvl) AND l.service IS DISTINCT FROM svc
		ORDER BY l.ts, l.id
	LOOP
		n := n + 1;
		result := result || r.id || ' ';
		EXIT WHEN n >= 73;
	END LOOP;
	RETURN result || (SELECT count(*) FROM $t l WHERE l.level = lvl);
END \$\$;
CREATE FUNCTION f_groups_$n(step interval, since timestamptz, lvl text)
RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	r record;
	result text := '';
BEGIN
	FOR r IN SELECT date_bin(step, l.ts, '2001-01-01 00:00+00') AS bin,
			l.service, count(*) AS n, sum(length(l.message)) AS sum,
			avg(length(l.level)) AS avg
		FROM $t l WHERE l.ts >= since AND (lvl IS NULL OR l.level = lvl)
		GROUP BY 1, 2 ORDER BY 1, 2
	LOOP
		result := result || r::text || pg_typeof(r.bin) || pg_typeof(r.n)
			|| pg_typeof(r.sum) || pg_typeof(r.avg) || ' ';
		EXIT WHEN length(result) > 4000;
	END LOOP;
	RETURN result || (SELECT count(*) FROM $t l WHERE l.level = lvl AND l.ts < since);
END \$\$;
CREATE FUNCTION f_total_$n(lvl text, svc text) RETURNS bigint
LANGUAGE sql STABLE AS
	'SELECT count(*) FROM $t l WHERE l.level = lvl AND l.service IS NOT DISTINCT FROM svc';
CREATE FUNCTION f_histogram_$n(step interval, since timestamptz, until timestamptz)
RETURNS TABLE (bin timestamptz, level text, n bigint) LANGUAGE sql STABLE AS
	'SELECT date_bin(step, l.ts, ''epoch''), l.level, count(*) FROM $t l
	WHERE l.ts >= since AND l.ts < until GROUP BY 1, 2';
SQL
}

$c->sql(<<"SQL" . views('logq', 'logq.logs') . views('local', 'local_logs'));
CREATE TABLE source (n int, ts timestamptz, level text, service text,
	message text, trace_id text, attrs jsonb);
CREATE TABLE local_logs AS SELECT * FROM logq.logs;
CREATE VIEW quiet_logq AS
	SELECT * FROM logq.logs WHERE level <> 'NOISE' OR level IS NULL;
CREATE VIEW quiet_local AS
	SELECT * FROM local_logs WHERE level <> 'NOISE' OR level IS NULL;
CREATE COLLATION ci_or_default $ci;
CREATE FUNCTION f_immutable(text) RETURNS text LANGUAGE sql IMMUTABLE
	AS 'SELECT substr(\$1, 2)';
CREATE FUNCTION f_stable(text) RETURNS text LANGUAGE plpgsql STABLE
	AS 'BEGIN RETURN substr(\$1, 1, 4); END';
CREATE FUNCTION f_volatile(text) RETURNS text LANGUAGE plpgsql VOLATILE
	AS 'BEGIN RETURN lower(\$1); END';
CREATE FUNCTION f_is_error(text) RETURNS boolean LANGUAGE sql IMMUTABLE
	AS 'SELECT \$1 IN (''ERROR'', ''FATAL'')';
CREATE FUNCTION f_fails(bigint) RETURNS boolean LANGUAGE plpgsql STABLE
	AS 'BEGIN RETURN \$1 / 0 = 1; END';
CREATE FUNCTION f_count_digits(text) RETURNS int LANGUAGE sql IMMUTABLE
	AS 'SELECT length(regexp_replace(\$1, ''[^0-9]'', '''', ''g''))';
CREATE FUNCTION f_hours_ago(int) RETURNS timestamptz LANGUAGE sql STABLE
	AS 'SELECT now() - make_interval(hours => \$1)';
CREATE FUNCTION f_row_ok(r anyelement) RETURNS boolean LANGUAGE plpgsql
	AS 'BEGIN RETURN length(r.level) > 3; END';
CREATE FUNCTION f_dynamic(t text, lvl text, n int) RETURNS text
LANGUAGE plpgsql AS \$\$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT string_agg(id::text, '' '' ORDER BY ts, id) FROM ' || t
		|| ' WHERE level IS NOT DISTINCT FROM \$1 AND id % 10 = \$2'
		INTO result USING lvl, n;
	RETURN result;
END \$\$;
CREATE FUNCTION f_dynamic_groups(t text, key text, since timestamptz)
RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	result text;
BEGIN
	EXECUTE format('SELECT string_agg(s::text, '' '' ORDER BY s.k, s.n) FROM '
			'(SELECT %s AS k, count(*) AS n, max(ts) AS last FROM %s '
			'WHERE ts >= \$1 GROUP BY 1) s', key, t)
		INTO result USING since;
	RETURN result;
END \$\$;
CREATE FUNCTION longer(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE
	AS 'SELECT CASE WHEN \$1 IS NULL OR (length(\$2), \$2) > (length(\$1), \$1) THEN \$2 ELSE \$1 END';
CREATE AGGREGATE agg_longest(text) (SFUNC = longer, STYPE = text,
	COMBINEFUNC = longer, PARALLEL = SAFE);
CREATE SCHEMA own;
CREATE AGGREGATE own.max(text) (SFUNC = text_smaller, STYPE = text,
	COMBINEFUNC = text_smaller, PARALLEL = SAFE);
CREATE FUNCTION local_search(
	start_time	timestamptz DEFAULT now() - interval '1 hour',
	end_time timestamptz DEFAULT NULL, level text DEFAULT NULL,
	service text DEFAULT NULL, trace_id text DEFAULT NULL,
	contains text DEFAULT NULL, pattern text DEFAULT NULL,
	max_rows bigint DEFAULT 1000)
RETURNS SETOF local_logs LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT l.* FROM local_logs l
	WHERE (local_search.start_time IS NULL OR l.ts >= local_search.start_time)
		AND (local_search.end_time IS NULL OR l.ts < local_search.end_time)
		AND (local_search.level IS NULL OR l.level = local_search.level)
		AND (local_search.service IS NULL OR l.service = local_search.service)
		AND (local_search.trace_id IS NULL
			OR l.trace_id = local_search.trace_id)
		AND (local_search.contains IS NULL
			OR strpos(lower(l.message), lower(local_search.contains)) > 0)
		AND (local_search.pattern IS NULL OR l.message ~ local_search.pattern)
	ORDER BY l.ts DESC, l.id DESC
	LIMIT local_search.max_rows;
END;
SQL
load(0, $late);
check_rows('three partitions');
cmp_ok($c->on('p1', 'SELECT count(*) FROM logq_store.segment'), '>=', 25,
	'rows lie in many segments');
$c->sql(<<'SQL');
CREATE TABLE dim AS
SELECT row_number() OVER (ORDER BY ts, id)::int AS k, service, level,
	ts AS since, id, trace_id,
	CASE WHEN id % 2 = 0 THEN '%e%' ELSE 'time%' END AS pattern,
	CASE WHEN split_part(message, ' ', 1) ~ '^\w{1,40}$'
		THEN '\m' || split_part(message, ' ', 1) || '\M' ELSE 'timeout' END AS regex,
	attrs->>'status' AS status, attrs->>'req' AS req, message,
	CASE jsonb_typeof(attrs) WHEN 'object' THEN attrs - 'tags' - 'user' - 'ok' ELSE attrs END AS js
FROM (SELECT * FROM local_logs WHERE id % 200 = 7 AND isfinite(ts)
	ORDER BY ts, id LIMIT 12) x;
INSERT INTO dim VALUES (13, NULL, NULL, '2024-03-10 06:00+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	(14, 'web', 'ERROR', '2024-03-10 04:00+00', 1, 'x', '% user %', '\mtimeout\M', '500', 'r1-1', 'first', '{"n": 3}'),
	(15, 'web', 'INFO', now() - interval '2 hours', 2, '', 'no such row', '\myes\M', 'st-1', '', '', '{"status": "404"}');
ANALYZE dim;
SQL

# ---------- queries ----------

my $g = LogqQueries->new(rows => \@rows, now => $now);
my $cmp = LogqCompare->new(cluster => $c, queries => $g, seed => $seed,
	first => $first, last => $last, shape => $ENV{LOGQ_SHAPE},
	features => \%LogqAggregates::features);
my $done = 0;
my %pushed;

# the next queries, up to this share of all
sub run_queries
{
	my ($share, $what, %opt) = @_;
	my $to = int($nqueries * $share);
	my $reports = $cmp->{reports};
	my ($grouped, $pushed) = @$cmp{qw(grouped groups_pushed)};

	# in an order that depends on the rows alone
	$g->set_ids(split /\n/, $c->sql('SELECT id FROM local_logs ORDER BY id'));
	$cmp->run($done + 1, $to, phase => $what, %opt);
	$done = $to;
	diag("above: $what") if $cmp->{reports} > $reports;
	$pushed{$what} = [ $cmp->{groups_pushed} - $pushed, $cmp->{grouped} - $grouped ];
	return;
}

run_queries(0.06, 'all segments are open');

seal(map { [ $_, 0.6, $_ eq 'p3' ? 'req, n' : 'status, req', 'true' ] } $c->names);
cmp_ok(states()->{$_}, '>', 15, "many segments are $_") foreach 'open', 'sealed';
{
	my ($with, $without, $many) = counted();

	cmp_ok($with, '>', 5, "$with segments have counts by minute, level and service");
	cmp_ok($without, '>', 5, "$without others by minute and level only");
	ok($many || $nrows < 3000, "$many have neither");
}
run_queries(0.14, 'segments are sealed, and the coordinator has not been told');

$c->sql('SELECT logq.refresh_catalog()');
$g->trust(1);
run_queries(0.37, 'what is sealed is known');

# other servers, the same answers
$c->wait_for_catchup_all;
$g->read_only(1);
$c->sql("ALTER DATABASE logs SET logq.read_from = 'replica'");
run_queries(0.41, 'replicas are read');
is($c->sql("SELECT count(*) FROM logq.stat_partitions WHERE role = 'replica' AND requests > 0"), 3,
	'all replicas were asked')
  if $whole;
$c->sql("ALTER DATABASE logs RESET logq.read_from");
$c->part('p2')->stop('immediate');
run_queries(0.45, 'a primary is down');
$c->part('p2')->start;
$g->read_only(0);
$g->trust(0);

# Each word of the messages, as it is and in other cases, as a whole word and
# as less
{
	my %forms = (
		q(LIKE '% ' || p.pattern || ' %') => 'LIKE, between spaces',
		q(LIKE p.pattern || '%') => 'LIKE, at the start',
		q(ILIKE '% ' || p.pattern || ' %') => 'ILIKE, between spaces',
		q(ILIKE '%' || p.pattern) => 'ILIKE, at the end',
		q(~ ('\m' || p.regex || '\M')) => '~, as a word',
		q(~* ('\m' || p.regex || '\M')) => '~*, as a word',
		q(~* ('(^|\W)' || p.regex || '(\W|$)')) => '~*, between others',
		q(= p.word) => '=');

	foreach my $form (sort keys %forms)
	{
		my $words = join ', ', map { LogqRows::quote($_) } @LogqRows::message_words;
		my $sql = <<'SQL';
SET logq.catalog_max_age = '1d';
WITH p AS (
	SELECT DISTINCT word, regexp_replace(word, '([\\%_])', '\\\1', 'g') AS pattern,
		regexp_replace(word, '([^\w\s])', '\\\1', 'g') AS regex
	FROM unnest(ARRAY[@WORDS@]) u(w), LATERAL (VALUES (w), (lower(w))) v(word))
SELECT * FROM (
	SELECT p.word,
		(SELECT array[count(*), sum(l.id)] FROM logq.logs l WHERE l.message @FORM@) AS logq,
		(SELECT array[count(*), sum(l.id)] FROM local_logs l WHERE l.message @FORM@) AS plain
	FROM p) x
WHERE logq IS DISTINCT FROM plain
SQL
		$sql =~ s/\@FORM\@/$form/g;
		$sql =~ s/\@WORDS\@/$words/;
		is($c->sql(encode('UTF-8', $sql)), '', "words are found by $forms{$form}");
	}
}

# late rows, through logq and past it, also in segments that are new; segments
# that go; known of one partition only
load($late, $direct);
load_directly($direct, $more, 'p2');
check_rows('late rows');
drop_segments($_) foreach $c->names;
# about 16; each segment was sealed by chance
cmp_ok(states()->{reopened}, '>', 4, 'many segments are open again');
$c->sql("SELECT logq.refresh_catalog('p1')");
outlast_confirmations();
run_queries(0.6, 'segments were written to late, and dropped');

# a fourth partition that sorts and folds text in another way, and more rows;
# some is sealed again
LogqTest::set_up_partition_database($c->part('p3'), 'logs_c',
	"LOCALE 'C' ENCODING 'UTF8' TEMPLATE template0");
$c->add_partition('p4', node => $c->part('p3'), db => 'logs_c');
load($more, scalar @rows);
check_rows('four partitions');
seal([ 'p1', 0.5, 'status, n', 'true' ],
	[ 'p2', 0.6, 'n, req', 'sealed_at IS NOT NULL' ],
	[ 'p4', 0.5, 'status, req', 'true' ]);
$c->sql('SELECT logq.refresh_catalog()');

# Values of fields, where some segments have filters of them and others have not
{
	my %forms = (
		"t.trace_id" => "l.trace_id = v.v",
		"t.attrs->>'status'" => "l.attrs->>'status' = v.v",
		"t.attrs->>'req'" => "l.attrs->>'req' = v.v",
		"t.attrs->>'n'" => "l.attrs->>'n' = v.v",
		"t.attrs->'req'" => "l.attrs @> jsonb_build_object('req', v.v)",
		"t.service" => "l.service = v.v",
		"t.level" => "l.level = v.v");

	foreach my $field (sort keys %forms)
	{
		is($c->sql(<<"SQL"), '', "rows are found by $forms{$field}");
SET logq.catalog_max_age = '1d';
WITH v AS (SELECT DISTINCT $field AS v FROM local_logs t ORDER BY 1 LIMIT 90)
SELECT * FROM (
	SELECT v.v,
		(SELECT array[count(*), sum(l.id)] FROM logq.logs l WHERE $forms{$field}) AS logq,
		(SELECT array[count(*), sum(l.id)] FROM local_logs l WHERE $forms{$field}) AS plain
	FROM v) x
WHERE logq IS DISTINCT FROM plain
SQL
	}
}
$g->trust(1);
run_queries(0.88, 'four partitions, some segments were sealed again');
$g->trust(0);

# ---------- beside writers and sealers ----------

my $second = LogqTest::start_coordinator('second', "logq.databases = 'logs'",
	"logq.seal_after = '1s'", 'logq.cache_min_cost = 0', 'logq.hot_cache_size = 1');

foreach my $name ('p1' .. 'p4')
{
	$c->add_partition($name, coordinator => $second,
		$name eq 'p4' ? (node => $c->part('p3'), db => 'logs_c') : ());
}
LogqTest::poll_ok(sub {
	return $second->safe_psql('logs', 'SELECT count(confirmed_at) FROM logq.catalog_status()') == 4;
}, "a second coordinator's worker has seen all partitions");

my @hours = map { LogqRows::timestamp($_, 0) } LogqRows::late_hours($now),
  map { 1710028800 + 3600 * $_ } -30, -29, -28, 9, 10, 11;
my $hours = "'{" . join(',', map { "\"$_\"" } @hours) . "}'::timestamptz[]";
my $nhours = @hours;

# Rows that the queries do not see, in transactions of their own, until told
# that it is enough
sub noise
{
	my ($n, $before, $table) = @_;

	return <<"SQL";
DO \$\$
DECLARE
	at timestamptz;
BEGIN
	FOR i IN 1 .. $n LOOP
		EXIT WHEN EXISTS (SELECT FROM enough);
		at := ($hours)[1 + i % $nhours] + i * interval '1 second';
		$before
		INSERT INTO $table (ts, level, service, message, trace_id, attrs)
		VALUES (at, 'NOISE', 'noise-' || i % 7, 'noise timeout ' || i, md5(i::text), '{"status": "noise"}');
		COMMIT;
	END LOOP;
END
\$\$
SQL
}

my @own_wrong;
my $own = 0;
my %session = (
	writer => $c->session,
	strict => $c->session,
	trusting => $c->session,
	second_strict => $c->session(node => $second),
	second => $c->session(node => $second));

$session{$_}->query('SET logq.strict_pruning = on') foreach qw(strict second_strict);
$session{trusting}->query("SET logq.catalog_max_age = '1d'");
# a replica may have a row a moment later
$session{$_}->query("SET logq.read_from = 'primary'") foreach qw(strict second_strict trusting);

# Every row is found once it is committed: through the same coordinator at
# once, whoever asks; anywhere at once by strict queries; else soon.
sub check_own_rows
{
	foreach my $through_logq (1, 0)
	{
		my $mark = 'own' . ++$own;
		my $at = pick(@hours);
		my $row = "('$at'::timestamptz + interval '30 minutes', 'NOISE', '$mark', 'a row $mark here', '$mark', '{\"status\": \"$mark\"}')";
		my $columns = '(ts, level, service, message, trace_id, attrs)';
		my $sql = 'SELECT count(*) FROM logq.logs WHERE ' . pick("service = '$mark'",
			"trace_id = '$mark'", "message LIKE '% $mark %'", "message ~* '\\m$mark\\M'",
			"attrs->>'status' = '$mark'", "attrs @> '{\"status\": \"$mark\"}'");
		my @at_once = qw(strict second_strict);
		my $answer;

		# that there is none is cached
		foreach my $who (qw(strict second_strict trusting second))
		{
			$answer = $session{$who}->query($sql);
			push @own_wrong, "$who, before: $answer of: $sql" if $answer ne '0';
		}
		if ($through_logq)
		{
			$answer = $session{writer}->query("INSERT INTO logq.logs $columns VALUES $row");
			push @at_once, 'trusting';
		}
		else
		{
			$c->on(pick($c->names), "SELECT logq_store.make_segment('$at'); INSERT INTO logq_store.log $columns VALUES $row");
			$answer = '';
		}
		push @own_wrong, "not written: $answer" if $answer ne '';
		foreach my $who (@at_once)
		{
			$answer = $session{$who}->query($sql);
			push @own_wrong, "$who: $answer of: $sql" if $answer ne '1';
		}
		LogqTest::poll(sub { return ($answer = $session{second}->query($sql)) eq '1'; }, 15)
		  or push @own_wrong, "second: $answer of: $sql";
	}
	return;
}

{
	my %background = (
		through => $c->session,
		past => $c->session(node => $c->part('p2')),
		past_too => $c->session(node => $c->part('p3'), db => 'logs_c'),
		seal => $c->session);
	my $seal = "SELECT count(*) > 0 FROM logq.seal(before => '2200-01-01'); SELECT logq.refresh_catalog() >= 0";
	my @answers;
	my $sealed = 0;
	my $written = 0;

	$background{$_}->query('CREATE TABLE enough (yes boolean)') foreach qw(through past past_too);
	$background{through}->send(noise(1500, '', 'logq.logs'));
	$background{$_}->send(noise(1500, 'PERFORM logq_store.make_segment(at);', 'logq_store.log'))
	  foreach qw(past past_too);
	$background{seal}->send($seal);
	$g->beside_writers(1);
	run_queries(1, 'beside writers',
		tables => { T => [ 'quiet_local', 'quiet_logq' ] },
		per_psql => 15,
		between => sub {
			my $answer = $background{seal}->wait(0.01);

			check_own_rows();
			return unless defined $answer;
			# a segment that is written to again and again is not sealed
			$answer =~ s/^(WARNING|DETAIL|HINT|LOCATION): .*\n?//mg;
			chomp $answer;
			push @answers, "seal: $answer" if $answer !~ /^[tf]\nt$/;
			$sealed++ if $answer =~ /^t/;
			$background{seal}->send($seal);
		});
	$c->sql('INSERT INTO enough VALUES (true)');
	$c->on('p2', 'INSERT INTO enough VALUES (true)');
	on('p4', 'INSERT INTO enough VALUES (true)');
	foreach my $name (qw(through past past_too))
	{
		my $answer = $background{$name}->wait(60) // 'no end';

		push @answers, "$name: $answer" if $answer ne '';
	}
	push @answers, grep { !/^[tf]\nt\b/ } $background{seal}->wait(60) // 'sealing has no end';
	is_deeply(\@answers, [], 'writers and sealers have nothing to complain of');
	ok($sealed || !$whole, 'segments were sealed meanwhile');
	ok(!@own_wrong, "each of $own rows is found as soon as it should be")
	  or diag(join "\n", @own_wrong[ 0 .. ($#own_wrong < 9 ? $#own_wrong : 9) ]);
	$written += on($_, "SELECT count(*) FROM logq_store.log WHERE level = 'NOISE'") foreach 'p1' .. 'p4';
	cmp_ok($written, '>', 100, 'much was written meanwhile');
	is($session{$_}->query("SELECT count(*) FROM logq.logs WHERE level = 'NOISE'"), $written,
		"all of it is found: $_") foreach 'strict', 'second_strict';
	is($c->sql('SELECT count(*), sum(hashtext(l::text)) FROM quiet_logq l'),
		$c->sql('SELECT count(*), sum(hashtext(l::text)) FROM quiet_local l'),
		'and nothing else has changed');
	$_->quit foreach values %background, values %session;
}

# what chance has left out comes in the end
$cmp->{last} = 3 * $nqueries if $whole;
while ($done < $cmp->{last}
	&& (!$whole || grep { !$cmp->{seen}{$_} } keys %LogqAggregates::features))
{
	$cmp->run($done + 1, $done + 40, phase => 'beside writers',
		tables => { T => [ 'quiet_local', 'quiet_logq' ] });
	$done += 40;
}

# ---------- what is cached ----------

# All kinds of scans of what is sealed, cold and warm: rows in no order, in order,
# the beginning of a segment, groups, and expressions of rows
{
	my $s = $c->session;
	my ($from, $to) = map { LogqRows::timestamp($_, 0) } 1710028800, 1710028800 + 86400;
	# of one partition, so that a share of a limit comes to its end
	my $where = "t.ts >= '$from' AND t.ts < '$to' AND left(t.message, 3) || t.id <> 'no'";
	my $one = "$where AND (t.partition = 'p1' OR t.id < 0)";
	my $query = sub {
		my ($sql) = @_;
		my $answer = $s->query($sql =~ s/\@T\@/quiet_logq/r);

		return ($answer, $s->query('SELECT cached FROM logq.last_query()'));
	};

	$s->query("SET logq.catalog_max_age = '1d'; SET cpu_tuple_cost = 100; SET jit = off");
	foreach (
		[ 'rows', "SELECT t.id, t.message FROM \@T\@ t WHERE $where" ],
		[ 'rows in order', "SELECT t.ts, t.id, t.message FROM \@T\@ t WHERE $where ORDER BY t.ts, t.id" ],
		# the last segments may all be open
		[ 'rows in order up to a low limit', "SELECT t.ts, t.id FROM \@T\@ t WHERE $one ORDER BY t.ts DESC, t.id DESC LIMIT 40", 1 ],
		[ 'rows in order up to a limit', "SELECT t.ts, t.id FROM \@T\@ t WHERE $one ORDER BY t.ts DESC, t.id DESC LIMIT 1000" ],
		[ 'groups', "SELECT t.level, count(*), sum(length(t.message)) FROM \@T\@ t WHERE $where GROUP BY 1" ],
		[ 'expressions of rows', "SELECT count(DISTINCT length(t.message)), count(DISTINCT t.service) FROM \@T\@ t WHERE $where" ])
	{
		my ($kind, $sql, $may_have_none) = @$_;
		# an answer's last newlines are not to be told from those of a message
		my $lines = sub { return join "\n", sort grep { $_ ne '' } split /\n/, $_[0]; };
		my $wanted = $lines->($s->query($sql =~ s/\@T\@/quiet_local/r));
		my ($n, @answers);

		foreach (1, 2)
		{
			my $answer;

			($answer, $n) = $query->($sql);
			push @answers, $lines->($answer);
		}
		is_deeply(\@answers, [ $wanted, $wanted ], "$kind, cold and warm");
		cmp_ok($n, '>', 0, "$kind: $n segments are from the cache") unless $may_have_none;
	}
	$s->quit;
}
foreach my $phase (sort keys %{ $cmp->{cached} })
{
	my ($n, $of) = @{ $cmp->{cached}{$phase} };

	if ($phase eq 'all segments are open')
	{
		is($n, 0, 'nothing is from the cache while all segments are open');
	}
	elsif ($whole)
	{
		cmp_ok($n, '>', $of * 0.3, "$n of $of queries have something from the cache: $phase");
	}
}
if ($whole)
{
	cmp_ok($cmp->{cached_in}{$_} // 0, '>', 0, sprintf('%d scans had something from the cache: %s', $cmp->{cached_in}{$_} // 0, $_))
	  foreach 'rows', 'rows in order', 'rows in order up to a limit', 'groups', 'counts', 'expressions of rows';
	is($c->sql("SELECT damaged FROM logq.stat_cache WHERE level = 'memory'"), 0, 'no value was damaged');
	cmp_ok($c->sql("SELECT evictions FROM logq.stat_cache WHERE level = 'memory'"), $seed % 2 ? '==' : '>', 0,
		'values made room for others') if $nqueries >= 600;
}

# ---------- results ----------

note(encode('UTF-8', "fails everywhere, as on the plain table: $_"))
  foreach @{ $cmp->{errors} };
foreach my $shape (LogqQueries::shape_names())
{
	next unless $cmp->{count}{$shape};
	ok(!$cmp->{failed}{$shape}, sprintf('%d %s queries give the rows of a plain table',
			$cmp->{count}{$shape}, $shape =~ tr/_/ /r));
}
$cmp->summarize;
if ($whole)
{
	my $failing = @{ $cmp->{errors} };
	my %reasons = %{ $cmp->{reasons} };

	cmp_ok($cmp->{with_rows}, '>', $nqueries / 2,
		"the queries find something: $cmp->{with_rows} of $nqueries");
	cmp_ok($failing, '<', $nqueries / 20, "hardly any query fails: $failing");
	# the test shall not succeed because nothing is left out
	cmp_ok($cmp->{left_out}, '>', $cmp->{scans} * 0.4,
		"segments are left out in $cmp->{left_out} of $cmp->{scans} queries");
	cmp_ok($reasons{$_} // 0, '>', 0, sprintf("%d times by %s", $reasons{$_} // 0, $_))
	  foreach "time", "id", "level", "service", "trace id", "attrs", "words", "partition";
	cmp_ok($cmp->{seen}{$_} // 0, '>', 0, sprintf("%d queries with rows had: %s", $cmp->{seen}{$_} // 0, $_))
	  foreach sort keys %LogqAggregates::features;
	cmp_ok($cmp->{failed_alike}, '>', 0, "$cmp->{failed_alike} aggregates fail as on the plain table");
	# with push-down, once there is one: whatever the state of segments
	if (@{ $cmp->{group_switches} })
	{
		foreach (sort keys %pushed)
		{
			my ($n, $of) = @{ $pushed{$_} };

			# of a few, by chance none may be
			cmp_ok($n, '>', $of < 15 ? -1 : $of * 0.2,
				"partitions make groups for $n of $of queries: $_");
		}
		# about half of them; few rows may well be cheaper as they are
		cmp_ok($cmp->{groups_pushed}, '>', $cmp->{grouped} * 0.35,
			"and for $cmp->{groups_pushed} of $cmp->{grouped} in all");
		cmp_ok($cmp->{sources}{$_} // 0, '>', 0, sprintf("segments are counted in %d queries by %s",
			$cmp->{sources}{$_} // 0, $_))
		  foreach 'rows', 'minutes and levels', 'minutes, services and levels', 'catalog';
	}
}
done_testing();
