# What EXPLAIN expects is near the truth, and joins are planned accordingly.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use Test::More;

my $rows = 40000;
my $gen = "$FindBin::Bin/../../bench/gen.sql";
my $c = LogqTest->new(
	partitions => 3,
	coordinator_conf => ["logq.bloom_attrs = 'region, status, user_id'"]);

# Six hours; a trace that goes on all the time; an hour with many errors
$c->sql(<<"SQL");
\\set rows $rows
\\set from '2025-03-01 00:00+00'
\\set to '2025-03-01 06:00+00'
\\set seed 0.25
\\i $gen
INSERT INTO logq.logs (ts, level, service, message, trace_id)
	SELECT timestamptz '2025-03-01 00:00+00' + i * interval '7.2 seconds', 'INFO', 'cart', 'again', 'for-ever'
	FROM generate_series(0, 2999) i;
INSERT INTO logq.logs (ts, level, service, message)
	SELECT timestamptz '2025-03-01 04:00+00' + i * interval '1.2 seconds', 'ERROR', 'billing', 'burst'
	FROM generate_series(0, 2999) i;
SQL
$c->sql("SELECT * FROM logq.seal(before => '2025-03-01 06:00+00')");
$c->sql('SELECT logq.refresh_catalog()');
is($c->sql("SELECT count(*) > 15 AND bool_and(exact) FROM logq.segments WHERE upper <= '2025-03-01 06:00+00'"),
	't', 'all segments are sealed');

# Rows that EXPLAIN expects of the first line that matches
sub expected
{
	my ($sql, $line) = @_;
	my $plan = $c->sql($sql);

	$line //= qr/./;
	foreach (split /\n/, $plan)
	{
		return $1 if $_ =~ $line && /rows=(\d+)/;
	}
	diag($plan);
	return 0;
}

# Test: within a factor of what is there
sub near
{
	my ($got, $truth, $name, $factor) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$factor //= 3;
	$_ = $_ < 1 ? 1 : $_ foreach $got, $truth;
	return ok($got <= $factor * $truth && $truth <= $factor * $got,
		"$name: $got expected, $truth there");
}

# ---------- scans ----------

my $hour = "ts >= '2025-03-01 02:00+00' AND ts < '2025-03-01 03:00+00'";
my $burst = "ts >= '2025-03-01 04:00+00' AND ts < '2025-03-01 05:00+00'";
my $trace = $c->sql("SELECT trace_id FROM logq.logs WHERE trace_id <> 'for-ever' AND $hour GROUP BY 1 HAVING count(*) = 6 ORDER BY 1 LIMIT 1");
my $traces = $c->sql("SELECT string_agg(quote_literal(trace_id), ', ') FROM (SELECT DISTINCT trace_id FROM logq.logs WHERE trace_id <> 'for-ever' AND $hour ORDER BY 1 LIMIT 8) s");
my $id = $c->sql("SELECT max(id) FROM logq.logs WHERE partition = 'p2' AND $hour");

foreach my $where (
	'true',
	# time
	$hour,
	"ts >= '2025-03-01 01:10+00' AND ts < '2025-03-01 01:20+00'",
	"ts BETWEEN '2025-03-01 00:30+00' AND '2025-03-01 04:45+00'",
	"ts < '2025-03-01 01:30+00'",
	"ts < '2025-02-28 00:00+00'",
	"ts < '2025-03-01 00:20+00' OR ts >= '2025-03-01 05:40+00' AND ts < '2025-03-01 07:00+00'",
	"ts > date '2025-03-01' + interval '5 hours'",
	# level
	"level = 'ERROR'",
	"level = 'FATAL'",
	"level = 'INFO'",
	"level IN ('WARN', 'ERROR')",
	"level <> 'INFO'",
	"lower(level) = 'warn'",
	"level = 'NOTICE'",
	"level IS NULL",
	"level = 'ERROR' AND $burst",
	"level = 'ERROR' AND $hour",
	# service
	"service = 'web'",
	"service = 'scheduler'",
	"service = 'nobody'",
	"service LIKE '%-service'",
	"service IN ('cart', 'checkout') AND $hour",
	# both
	"service = 'billing' AND level = 'ERROR'",
	"service = 'web' AND level = 'ERROR'",
	"service = 'billing' AND level = 'ERROR' AND $burst",
	"service = 'web' AND level = 'ERROR' AND $hour",
	"service = 'payment-service' AND level IN ('WARN', 'FATAL') AND $hour",
	"level = 'FATAL' OR service = 'gateway'",
	"NOT (level = 'INFO' OR level = 'DEBUG') AND service <> 'billing'",
	# partition
	"partition = 'p2'",
	"partition IN ('p1', 'p3') AND level = 'ERROR'",
	"partition = 'p9'",
	"(partition = 'p1' AND level = 'DEBUG') OR (partition = 'p2' AND level = 'FATAL')",
	# id
	"id = $id",
	"id IN ($id, $id - 1, $id - 2)",
	"id > $id - 300 AND id <= $id",
	# trace_id
	"trace_id = '$trace'",
	"trace_id = '$trace' AND $hour",
	"trace_id IN ($traces)",
	"trace_id = 'for-ever'",
	"trace_id = 'for-ever' AND $hour",
	"trace_id IS NULL",
	"trace_id IS NOT NULL AND service = 'web'",
	# attrs
	"attrs->>'region' = 'eu-west'",
	"attrs->>'region' IN ('eu-west', 'us-east') AND $hour",
	qq(attrs @> '{"region": "us-west"}'),
	qq(attrs @> '{"status": 500}'),
	"attrs->>'status' = '200'",
	"attrs->>'region' = 'antarctica'")
{
	near(expected("EXPLAIN SELECT * FROM logq.logs WHERE $where"),
		$c->sql("SELECT count(*) FROM logq.logs WHERE $where"), $where);
}
near(expected("EXPLAIN SELECT * FROM logq.logs WHERE trace_id = 'no such one'"),
	1, 'a trace_id that is not there', 10);
{
	my $like = "message ILIKE '%timeout after%'";

	near(expected("EXPLAIN SELECT * FROM logq.logs WHERE $like"),
		$c->sql("SELECT count(*) FROM logq.logs WHERE $like"), $like, 30);
}

# ---------- values that are not known, or are no literals ----------

sub generic
{
	my ($types, $where, $args) = @_;

	return expected("SET plan_cache_mode = force_generic_plan; PREPARE s ($types) AS SELECT * FROM logq.logs WHERE $where; EXPLAIN EXECUTE s ($args)");
}

near(generic('text', 'trace_id = $1', "'$trace'"), 6, 'any trace_id');
near(generic('text[]', 'trace_id = ANY ($1)', "'{a,b,c,d,e,f,g,h,i,j}'"), 60,
	'any ten of them');
near(generic('text', 'service = $1', "'web'"), $rows / 20, 'any service');
near(generic('bigint', 'id = $1', '1'), 1, 'any id');
near(expected("PREPARE s (text) AS SELECT * FROM logq.logs WHERE trace_id = \$1; EXPLAIN EXECUTE s ('for-ever')"),
	3000, 'a parameter with a value');
near(expected("EXPLAIN SELECT * FROM logq.search(level => 'ERROR', start_time => '2025-03-01 04:00+00', end_time => '2025-03-01 05:00+00', max_rows => NULL)"),
	3170, 'logq.search()');
near(expected("EXPLAIN SELECT * FROM logq.search(level => 'ERROR', start_time => NULL, service => 'billing', contains => NULL)"),
	1000, 'logq.search() with its LIMIT');

# ---------- groups ----------

foreach my $case (
	[ 'service', $rows ], [ 'level', $rows ], [ 'service, level', $rows ],
	[ 'partition', $rows ], [ 'trace_id', $rows ])
{
	my ($columns) = @$case;

	near(expected("EXPLAIN SELECT $columns, count(*) FROM logq.logs GROUP BY $columns"),
		$c->sql("SELECT count(*) FROM (SELECT 1 FROM logq.logs GROUP BY $columns) s"),
		"GROUP BY $columns");
}
near(expected("EXPLAIN SELECT trace_id, count(*) FROM logq.logs WHERE $hour GROUP BY 1"),
	$c->sql("SELECT count(DISTINCT trace_id) FROM logq.logs WHERE $hour"),
	'GROUP BY trace_id within an hour');
near(expected("EXPLAIN SELECT DISTINCT service FROM logq.logs WHERE partition = 'p1'"),
	$c->sql("SELECT count(DISTINCT service) FROM logq.logs WHERE partition = 'p1'"),
	'DISTINCT service on one partition');

# ---------- joins ----------

$c->sql(<<"SQL");
CREATE TABLE few AS SELECT trace_id, row_number() OVER () AS n
	FROM (SELECT DISTINCT trace_id FROM logq.logs WHERE trace_id <> 'for-ever' AND $hour LIMIT 5) s;
CREATE TABLE many AS SELECT trace_id, row_number() OVER () AS n
	FROM (SELECT DISTINCT trace_id FROM logq.logs WHERE trace_id <> 'for-ever') s;
CREATE TABLE team (service text, team text);
INSERT INTO team SELECT DISTINCT service, 'team ' || length(service) FROM logq.logs;
ANALYZE few, many, team;
SQL
foreach my $case (
	[ 'few', 'trace_id', 1 ], [ 'many', 'trace_id', 0 ],
	[ 'team', 'service', 0 ])
{
	my ($table, $column, $loop) = @$case;
	my $sql = "FROM $table t JOIN logq.logs l USING ($column)";
	my $plan = $c->sql("EXPLAIN SELECT * $sql");

	if ($loop)
	{
		like($plan, qr/^Nested Loop.*\n\s*->\s+Seq Scan on $table t\b.*\n\s*->\s+Custom Scan \(LogqScan\) on logs l /,
			"$table: the scan is asked again for each row");
	}
	else
	{
		like($plan, qr/^(?:Hash|Merge) Join/, "$table: the scan runs once");
	}
	near(expected("EXPLAIN SELECT * $sql"), $c->sql("SELECT count(*) $sql"),
		"rows of the join with $table");
}
near(expected('EXPLAIN SELECT * FROM few t JOIN logq.logs l USING (trace_id)',
		qr/LogqScan/), 6, 'the inner scan brings one trace');
{
	my $sql = "FROM few t JOIN logq.logs l USING (trace_id) WHERE ts > '2025-03-01 01:45+00' AND l.level <> 'DEBUG'";

	like($c->sql("EXPLAIN SELECT * $sql"), qr/^Nested Loop/,
		'with a range of time, too');
	near(expected("EXPLAIN SELECT * $sql"), $c->sql("SELECT count(*) $sql"),
		'rows of the join within a range of time');
}
{
	my $sql = "FROM few t, LATERAL (SELECT * FROM logq.logs l WHERE l.trace_id = t.trace_id ORDER BY ts DESC LIMIT 3) s";

	near(expected("EXPLAIN SELECT * $sql"), $c->sql("SELECT count(*) $sql"),
		'LATERAL with a LIMIT');
}
{
	my $sql = "FROM logq.logs a JOIN logq.logs b USING (trace_id) WHERE a.level = 'FATAL' AND a.trace_id <> 'for-ever'";

	near(expected("EXPLAIN SELECT * $sql"), $c->sql("SELECT count(*) $sql"),
		'the table with itself');
}
{
	my $sql = "FROM few t JOIN logq.logs l ON l.id = t.n";

	near(expected("EXPLAIN SELECT * $sql", qr/LogqScan/), 1, 'a join by id');
}

# a user who may not read the table learns nothing by planning
$c->sql('CREATE ROLE reader; GRANT USAGE ON SCHEMA logq TO reader; CREATE VIEW errors WITH (security_barrier) AS SELECT * FROM logq.logs WHERE level = \'ERROR\'; GRANT SELECT ON errors TO reader;');
near(expected("SET ROLE reader; EXPLAIN SELECT * FROM errors WHERE service = 'billing'"),
	$c->sql("SELECT count(*) FROM errors WHERE service = 'billing'"),
	'through a view');

# ---------- written to again ----------

$c->sql("INSERT INTO logq.logs (ts, level, service, message) VALUES ('2025-03-01 02:30+00', 'INFO', 'cart', 'late')");
$c->sql('SELECT logq.refresh_catalog()');
near(expected("EXPLAIN SELECT * FROM logq.logs WHERE level = 'ERROR' AND $hour"),
	$c->sql("SELECT count(*) FROM logq.logs WHERE level = 'ERROR' AND $hour"),
	'an open segment is taken to be like the others');

done_testing();
