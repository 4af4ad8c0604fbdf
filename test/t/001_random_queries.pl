# Random queries against logq.logs and against a plain table with the same
# rows: the answers must be the same, whatever is pushed down or pruned.
#
# Each query runs on the plain table; on logq.logs with everything on; with one
# optimisation, drawn at random, off; and with all of them off.
#
#	LOGQ_SEED		repeats a run (times and ids are those of the new run)
#	LOGQ_QUERIES	number of queries, 560
#	LOGQ_ROWS		number of rows, 3000
#	LOGQ_ONLY		runs only the queries of this number, or "from-to"

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use Encode qw(encode decode);
use LogqQueries;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{LOGQ_SEED} // int(time) % 1000000;
my $nqueries = $ENV{LOGQ_QUERIES} // 560;
my $nrows = $ENV{LOGQ_ROWS} // 3000;
my ($first, $last) = split /-/, $ENV{LOGQ_ONLY} // "1-$nqueries";
my $per_psql = 40;
my $max_reports = 10;
my $field = "\x1f";
my $record = "\x1e";
my @switches = map { "logq.enable_$_" } qw(filter_pushdown ordered_merge
  limit_pushdown limit_shares column_pruning partition_pruning segment_pruning);
my (%count, %failed, @errors);
my $reports = 0;
my $with_rows = 0;

$last //= $first;
diag("seed $seed: LOGQ_SEED=$seed LOGQ_QUERIES=$nqueries LOGQ_ROWS=$nrows repeats this run");
srand $seed;

# ---------- rows ----------

my $c = LogqTest->new(
	partitions => 3,
	# a crash must not take the queries after it along
	coordinator_conf => ["restart_after_crash = on"]);
my $now = time;
my $rows = LogqQueries::random_rows($nrows, $now);

# Load rows into a local table, from which they did not come by way of logq,
# and into logq.logs: by COPY and by INSERT
sub load
{
	my ($from, $to) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/rows.$from";
	my $half = int(($from + $to) / 2);
	my $n = 0;

	open my $out, '>:encoding(UTF-8)', $file or die $!;
	foreach my $row (@{$rows}[ $from .. $to ])
	{
		print $out join("\t", $from + $n++, map {
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
	$c->sql(<<"SQL");
\\copy source FROM '$file'
SET logq.route_by = round_robin;
\\copy (SELECT ts, level, service, message, trace_id, attrs FROM source WHERE n BETWEEN $from AND $half) TO '$file.half'
\\copy logq.logs (ts, level, service, message, trace_id, attrs) FROM '$file.half'
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT ts, level, service, message, trace_id, attrs FROM source
	WHERE n > $half AND n <= $to;
TRUNCATE local_logs;
INSERT INTO local_logs SELECT * FROM logq.logs;
ANALYZE local_logs;
SQL
	return;
}

# Nothing lost, nothing changed, nothing twice, everything in its place
sub check_rows
{
	my ($name) = @_;
	my $columns = 'ts, level, service, message, trace_id, attrs::text';

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
SQL
}

$c->sql(<<"SQL" . views('logq', 'logq.logs') . views('local', 'local_logs'));
CREATE TABLE source (n int, ts timestamptz, level text, service text,
	message text, trace_id text, attrs jsonb);
CREATE TABLE local_logs AS SELECT * FROM logq.logs;
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
load(0, int($#$rows * 0.9));
check_rows('three partitions');
cmp_ok($c->on('p1', 'SELECT count(*) FROM logq_store.segment'), '>=', 25,
	'rows lie in many segments');
$c->sql(<<'SQL');
CREATE TABLE dim AS
SELECT row_number() OVER (ORDER BY ts, id)::int AS k, service, level,
	ts AS since, id, trace_id,
	CASE WHEN id % 2 = 0 THEN '%e%' ELSE 'time%' END AS pattern
FROM (SELECT * FROM local_logs WHERE id % 200 = 7 AND isfinite(ts)
	ORDER BY ts, id LIMIT 12) x;
INSERT INTO dim VALUES (13, NULL, NULL, '2024-03-10 06:00+00', NULL, NULL, NULL),
	(14, 'web', 'ERROR', '2024-03-10 04:00+00', 1, 'x', '%'),
	(15, 'web', 'INFO', now() - interval '2 hours', 2, '', 'no such row');
ANALYZE dim;
SQL

# ---------- running ----------

my $g = LogqQueries->new(rows => $rows, now => $now);

sub for_table
{
	my ($sql, $n) = @_;
	my ($t, $s) = $n eq 'logq' ? ('logq.logs', 'logq.search')
	  : ('local_logs', 'local_search');

	$sql =~ s/\@T\@/$t/g;
	$sql =~ s/\@N\@/$n/g;
	$sql =~ s/\@S\@/$s/g;
	return $sql;
}

# psql commands for a query.  Each statement is followed by a line, on standard
# output and on standard error, that says which it was and how it ended.
sub script
{
	my ($q) = @_;
	my $text = "\\echo \@\@Q $q->{number}\n";
	my $v = 0;

	$text .= "SET $_;\n" foreach @{ $q->{set} };
	$text .= "BEGIN;\n" if $q->{transaction};
	foreach my $variant (@{ $q->{variants} })
	{
		my $n = $v == 0 ? 'local' : 'logq';
		my $i = 0;

		$text .= "SAVEPOINT variant;\n" if $q->{transaction};
		$text .= "SET $_ = off;\n" foreach @$variant;
		foreach my $sql (@{ $q->{sql} })
		{
			$text .= for_table($sql, $n) .
			  ";\n\\echo \@\@E $q->{number} $v $i :ERROR :SQLSTATE\n"
			  . "\\warn \@\@E $q->{number} $v $i\n";
			$i++;
		}
		$text .= "EXPLAIN " . $q->{explain_options} .
		  for_table($q->{sql}[0], $n) .
		  ";\n\\echo \@\@X $q->{number} :ERROR\n\\warn \@\@X $q->{number}\n"
		  if $v == 1 && $q->{explain};
		$text .= "RESET $_;\n" foreach @$variant;
		$text .= "ROLLBACK TO SAVEPOINT variant;\n" if $q->{transaction};
		$v++;
	}
	$text .= "ROLLBACK;\n" if $q->{transaction};
	return $text . "RESET ALL;\nDEALLOCATE ALL;\n";
}

sub split_rows
{
	my ($text) = @_;

	$text =~ s/\n\z//;
	return split /$record/, $text, -1;
}

# What is different between two outputs of one statement, or undef
sub difference
{
	my ($compare, $local, $other) = @_;
	my (@a, @b);

	return $local->{error} && $other->{error} &&
	  $local->{state} eq $other->{state}
	  ? undef
	  : "SQLSTATE $other->{state} instead of $local->{state}: $other->{message}"
	  if $compare eq 'error';
	return undef if $local->{error} && $other->{error};
	return "the plain table fails: $local->{message}" if $local->{error};
	return "error: $other->{message}" if $other->{error};
	return undef if $local->{text} eq $other->{text};
	@a = split_rows($local->{text});
	@b = split_rows($other->{text});
	if ($compare =~ /^\d+$/)
	{
		foreach my $i (0 .. ($#a < $#b ? $#a : $#b))
		{
			my @ka = split /$field/, $a[$i], -1;
			my @kb = split /$field/, $b[$i], -1;

			return "the order is different from row $i on: $a[$i] against $b[$i]"
			  if join($field, @ka[ 0 .. $compare - 1 ]) ne
			  join($field, @kb[ 0 .. $compare - 1 ]);
		}
	}
	if ($compare ne 'list')
	{
		@a = sort @a;
		@b = sort @b;
		return undef if join($record, @a) eq join($record, @b);
	}
	{
		my (%seen, @missing, @more);

		$seen{$_}++ foreach @a;
		foreach (@b)
		{
			push @more, $_ if --$seen{$_} < 0;
		}
		foreach my $row (@a)
		{
			push @missing, $row if $seen{$row} > 0 && $seen{$row}--;
		}
		return sprintf(
			"%d rows instead of %d; missing %d, such as %s; too many %d, such as %s",
			scalar @b, scalar @a,
			scalar @missing, substr($missing[0] // '-', 0, 400),
			scalar @more, substr($more[0] // '-', 0, 400))
		  . (@missing || @more ? '' : '; only the order is different');
	}
}

sub report
{
	my ($q, $v, $what) = @_;
	my $variant = $v == 1 ? 'everything on'
	  : join ', ', map { "$_ = off" } @{ $q->{variants}[$v] };

	$failed{ $q->{shape} }++;
	return if ++$reports > $max_reports;
	$what =~ s/$field/ | /g;
	diag(encode('UTF-8', join "\n",
		"query $q->{number} ($q->{shape}) of seed $seed, $variant: $what",
		(map { "  SET $_;" } @{ $q->{set} }),
		(map { '  ' . for_table($_, 'logq') . ';' } @{ $q->{sql} }),
		$q->{transaction} ? '  (in one transaction)' : ()));
	return;
}

# Run queries in one session; returns how many of them were completed
sub run_batch
{
	my (@queries) = @_;
	my $base = "$PostgreSQL::Test::Utils::tmp_check/queries";
	my (%out, %explained, $current, $done);
	my ($out, $err);

	open my $f, '>:encoding(UTF-8)', "$base.sql" or die $!;
	print $f "\\set ON_ERROR_ROLLBACK on\n";
	print $f script($_) foreach @queries;
	print $f "\\echo \@\@Q end\n";
	close $f or die $!;
	{
		local $ENV{PGOPTIONS} = '-c statement_timeout=60s';
		local $ENV{PGCLIENTENCODING} = 'UTF8';
		my @psql = ($c->coordinator->installed_command('psql'), '-XAtq',
			'-F', $field, '-R', $record, '-P', 'null=<NULL>',
			'-d', $c->coordinator->connstr('logs'), '-f', "$base.sql");

		IPC::Run::run(\@psql, '>', "$base.out", '2>', "$base.err",
			IPC::Run::timeout(900));
	}
	$err = decode('UTF-8', slurp_file("$base.err"));
	{
		my $text = '';

		foreach my $line (split /^/, $err)
		{
			if ($line =~ /^\@\@E (\d+) (\d+) (\d+)$/)
			{
				my $key = "$1 $2 $3";

				$out{$key}{message} = $text =~ s/psql:\S+: //gr;
				$text = '';
			}
			elsif ($line =~ /^\@\@X (\d+)/)
			{
				$explained{$1}{message} = $text;
				$text = '';
			}
			else
			{
				$text .= $line;
			}
		}
	}
	{
		my $text = '';

		open my $in, '<:encoding(UTF-8)', "$base.out" or die $!;
		while (my $line = <$in>)
		{
			if ($line =~ /^\@\@E (\d+ \d+ \d+) (\w+) (\w+)$/)
			{
				$out{$1}{error} = $2 eq 'true';
				$out{$1}{state} = $3;
				$out{$1}{text} = $text;
				$text = '';
			}
			elsif ($line =~ /^\@\@X (\d+) (\w+)$/)
			{
				$explained{$1}{error} = $2 eq 'true';
				$text = '';
			}
			elsif ($line =~ /^\@\@Q (\w+)$/)
			{
				$current = $1;
				$text = '';
			}
			else
			{
				$text .= $line;
			}
		}
		close $in;
	}

	$done = 0;
	foreach my $q (@queries)
	{
		my $k = $q->{number};
		my $rows = 0;
		my $has_error = 0;

		if (defined $current && $current ne 'end' && $current == $k)
		{
			report($q, 1, "the session ended: " . substr($err, -600));
			# go on with the next one, once the server is back
			LogqTest::poll(sub { return $c->coordinator->psql('logs', 'SELECT 1') == 0; })
			  or BAIL_OUT('the coordinator is gone');
			return $done + 1;
		}
		$done++;
		$count{ $q->{shape} }++;
	  variant:
		foreach my $v (1 .. $#{ $q->{variants} })
		{
			foreach my $i (0 .. $#{ $q->{sql} })
			{
				my $local = $out{"$k 0 $i"};
				my $diff = difference($q->{compare}, $local, $out{"$k $v $i"});

				$rows = 1 if $local->{text} ne '' && !$local->{error};
				$has_error = $local->{message} if $local->{error};
				if (defined $diff)
				{
					report($q, $v, "statement $i: $diff");
					last variant;
				}
			}
		}
		report($q, 1, "EXPLAIN $q->{explain_options}: $explained{$k}{message}")
		  if $q->{explain} && $explained{$k}{error} && !$has_error;
		$with_rows++ if $rows;
		push @errors, "query $k ($q->{shape}): $has_error"
		  if $has_error && $q->{compare} ne 'error';
	}
	return $done;
}

sub run_queries
{
	my ($from, $to) = @_;
	my @queries;

	foreach my $n ($from .. $to)
	{
		# each query has a seed of its own, so that one can be repeated alone
		srand($seed * 100003 + $n);
		my $q = $g->query($ENV{LOGQ_SHAPE});

		$q->{number} = $n;
		$q->{transaction} = $q->{now} || LogqQueries::chance(0.3);
		$q->{explain} &&= LogqQueries::chance(0.15);
		$q->{explain_options} = LogqQueries::pick('(VERBOSE, COSTS OFF) ',
			'(ANALYZE, VERBOSE, TIMING OFF) ', '(FORMAT JSON) ',
			'(ANALYZE, BUFFERS, FORMAT YAML) ');
		$q->{explain} = 0 if $q->{sql}[0] =~ /^PREPARE/;
		$q->{variants} =
		  [ [], [], [ LogqQueries::pick(@switches) ], [@switches] ];
		push @queries, $q if $n >= $first && $n <= $last;
	}
	while (@queries)
	{
		my $n = @queries < $per_psql ? @queries : $per_psql;

		splice @queries, 0, run_batch(@queries[ 0 .. $n - 1 ]);
	}
	return;
}

sub take_ids
{
	# in an order that depends on the rows alone
	$g->set_ids(split /\n/, $c->sql('SELECT id FROM local_logs ORDER BY id'));
	return;
}

my $part = int($nqueries * 0.75);

take_ids();
run_queries(1, $part);

# A fourth partition that sorts and folds text in another way, and more rows
{
	my $node = $c->part('p3');

	LogqTest::set_up_partition_database($node, 'logs_c',
		"LOCALE 'C' ENCODING 'UTF8' TEMPLATE template0");
	$c->add_partition('p4', node => $node, db => 'logs_c');
	load(int($#$rows * 0.9) + 1, $#$rows);
	check_rows('four partitions');
	take_ids();
	run_queries($part + 1, $nqueries);
}
note(encode('UTF-8', "fails everywhere, as on the plain table: $_"))
  foreach @errors;

foreach my $shape (LogqQueries::shape_names())
{
	next unless $count{$shape};
	ok(!$failed{$shape}, sprintf('%d %s queries give the rows of a plain table',
			$count{$shape}, $shape =~ tr/_/ /r));
}
diag(($reports - $max_reports) . ' more differences are not shown')
  if $reports > $max_reports;
if ($first == 1 && $last == $nqueries)
{
	cmp_ok($with_rows, '>', $nqueries / 2,
		"the queries find something: $with_rows of $nqueries");
	cmp_ok(scalar @errors, '<', $nqueries / 20,
		'hardly any query fails: ' . @errors);
}
done_testing();
