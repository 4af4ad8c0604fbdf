# Grafana's PostgreSQL data source: what it sends, in all the ways that it or
# another client may send it, gives what a plain table would, and is worked on
# by the partitions.
#
# LogqGrafana has the queries, test/data/query_client.c runs them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use IPC::Run;
use JSON::PP ();
use LogqGrafana;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $client = PostgreSQL::Test::Utils::tempdir() . '/query_client';
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';

# ---------- the client ----------

{
	my ($include, $lib) = map { `$pg_config $_` =~ s/\n//r } '--includedir', '--libdir';

	is(system($ENV{CC} // 'cc', qw(-std=gnu99 -O1 -Wall -Wextra), "-I$include", '-o', $client,
			"$top/test/data/query_client.c", "-L$lib", '-lpq', '-lm'),
		0, 'the client compiles');
}

# ---------- the cluster ----------

# Reached by two roles that need passwords
my $c = LogqTest->new(partitions => 3);
my $grafana = 'grafana';
my %type_name;

foreach my $name ($c->names)
{
	my $node = $c->part($name);

	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', "local all logq,reader scram-sha-256\nlocal all all trust\n");
	$node->reload;
}

# Eight hours around the one in which clocks change in Europe, each row at a time
# of its own; a minute has few services and levels, so that rollups pay
my $midnight = 1711843200;
$c->sql(<<'SQL');
SET logq.route_by = round_robin;
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '2024-03-30 20:00+00' + g * interval '1.200007 seconds',
		CASE WHEN g % 41 = 0 THEN NULL WHEN g % 97 = 0 THEN 'FATAL'
			ELSE (ARRAY['INFO', 'WARN', 'ERROR', 'INFO', 'DEBUG'])[1 + g / 30 % 5] END,
		(ARRAY['web', 'auth', 'web', 'it''s', NULL, 'Größe', 'web,shop'])[1 + g / 50 % 7],
		CASE WHEN g % 301 > 0 THEN (ARRAY['done in ', 'I can''t find "', 'C:\temp\', 'größer als ', '100% of '])[1 + g % 5] || g END,
		CASE WHEN g % 3 = 0 THEN md5((g / 360)::text) END,
		CASE g % 8
			WHEN 0 THEN NULL
			WHEN 1 THEN '["ms"]'
			WHEN 2 THEN jsonb_build_object('ms', 'none', 'status', 500)
			ELSE jsonb_build_object('ms', (g * 37 % 1000) * 0.25, 'status', (200 + g % 3)::text)
		END
	FROM generate_series(0, 23999) g;
SQL
# p3 has sealed the least; one segment gets a late row
$c->sql(<<'SQL');
SELECT count(*) FROM logq.seal('p1', before => '2024-03-31 02:00+00');
SELECT count(*) FROM logq.seal('p2', before => '2024-03-31 02:00+00');
SELECT count(*) FROM logq.seal('p3', before => '2024-03-31 00:00+00');
SQL
$c->on('p3', <<'SQL');
INSERT INTO logq_store.log (ts, level, service, message) VALUES ('2024-03-30 22:45:00.5+00', 'ERROR', 'late', 'late');
SQL
$c->sql('SELECT logq.refresh_catalog()');
is(join(' ', map { $c->on($_, "SELECT count(*) FILTER (WHERE state = 'sealed') || '/' || count(*) FROM logq_store.segment WHERE lower BETWEEN '2024-03-30 20:00+00' AND '2024-03-31 03:00+00'") } $c->names),
	'6/8 6/8 3/8', 'some segments are sealed, some are not');

# ---------- the role, as the documents say ----------

my $reader = LogqGrafana::block('README.md', 'Rights', qr/GRANT USAGE ON SCHEMA logq_store/);
foreach my $name ($c->names)
{
	$c->on($name, "CREATE ROLE reader LOGIN PASSWORD 'readonly';\n$reader");
}
my $role = LogqGrafana::block('docs/grafana.md', 'A role for Grafana', qr/CREATE ROLE grafana/);
my ($mapping) = $role =~ /^(CREATE USER MAPPING .*? SERVER )p1\b/m;
$c->sql($role);
$c->sql("$mapping$_ OPTIONS (user 'reader', password 'readonly')") foreach 'p2', 'p3';
$c->sql(LogqGrafana::block('docs/grafana.md', 'A role for Grafana', qr/GRANT SELECT ON logq\.stat_partitions/));
is($c->sql("SELECT string_agg(s, ', ' ORDER BY s) FROM pg_db_role_setting, unnest(setconfig) s WHERE setrole = 'grafana'::regrole"),
	'TimeZone=Europe/Berlin, default_transaction_read_only=on, logq.max_concurrent_queries_per_role=20, statement_timeout=30s',
	'settings of the role, as documented');
$c->sql('ALTER ROLE grafana RESET timezone');

# The same on plain tables: a schema with the rows, the views and the functions
# over them
$c->sql(LogqGrafana::local_schema(qw(matching search histogram field_names field_values facets)));
is($c->sql('SELECT count(*) FROM local.logs'), 24001, 'all rows are there');
%type_name = map { split /\|/, $_, 2 } split /\n/, $c->sql('SELECT oid, format_type(oid, NULL) FROM pg_type');

# ---------- queries ----------

sub escape
{
	my ($text) = @_;

	return '\\N' unless defined $text;
	return $text =~ s/\\/\\\\/gr =~ s/\n/\\n/gr =~ s/\t/\\t/gr;
}

# Run jobs [name, ways, SQL, parameters...] in one session; answers by name and
# way.  Options: user, set (a hash of settings).
sub run_client
{
	my ($jobs, %opt) = @_;
	my $set = $opt{set} // {};
	my $options = join ' ', map { "-c $_=$set->{$_}" } sort keys %$set;
	my ($in, $out, $err) = ('', '', '');
	my %answers;

	$in .= join("\t", map { escape($_) } @$_) . "\n" foreach @$jobs;
	# nothing but what the data source gives: no name of the application, no time zone
	local %ENV = %ENV;
	delete @ENV{qw(PGAPPNAME PGTZ PGDATESTYLE PGOPTIONS PGCLIENTENCODING)};
	IPC::Run::run([ $client, $c->coordinator->connstr('logs') . " user=" . ($opt{user} // $grafana)
			. ($options eq '' ? '' : " options='$options'") ],
		'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
	diag("the client says: $err") if $err ne '';
	foreach my $line (split /\n/, $out)
	{
		my $a = JSON::PP->new->utf8(0)->decode($line);

		$answers{ $a->{name} }{ $a->{way} } = $a;
		# as the job's first one
		my ($job) = grep { $_->[0] eq $a->{name} } @$jobs;
		$a->{rows} //= $answers{ $a->{name} }{ $job->[1] =~ s/,.*//r }{rows};
	}
	return \%answers;
}

# With values in places of literals: all times, and those that something is
# compared with
sub with_parameters
{
	my ($sql) = @_;
	my @params;
	my $new = '';

	while ($sql =~ /\G(.*?)('(?:[^']|'')*')/gcs)
	{
		my ($before, $literal) = ($1, $2);
		my $value = $literal =~ s/^'|'$//gr =~ s/''/'/gr;

		$new .= $before;
		if ($literal =~ /^'\d{4}-\d\d-\d\dT\S*Z'$/ || $new =~ /(?:[=<>]|LIKE|\bIN \([^()]*) ?$/)
		{
			push @params, $value;
			$new .= '$' . @params;
		}
		else
		{
			$new .= $literal;
		}
	}
	$sql =~ /\G(.*)\z/s;
	return ($new . $1, @params);
}

# Places of the columns that the rows are ordered by, of an ORDER BY at the end
sub order_of
{
	my ($q) = @_;
	my %place = map { $q->{columns}[$_][0] => $_ } 0 .. $#{ $q->{columns} };
	my ($by) = $q->{sql} =~ /\bORDER BY ((?:(?!ORDER BY).)*?)(?: LIMIT \d+)?$/s;

	return () if !defined $by || $by =~ /\) (?:l|sub_\d+)\b/;
	# an expression: that of the time
	return 0 if $by =~ /^floor\(/;
	return map {
		my $key = s/ (?:ASC|DESC)$//r =~ s/^"|"$//gr;

		$key =~ /^\d+$/ ? $key - 1 : $place{ { 'count(*)' => 'count', ts => 'time' }->{$key} // $key }
		  // die "order of $q->{name}: $key";
	} split /, */, $by;
}

sub list_text { return join "\n", map { join ' | ', map { $_ // 'NULL' } @$_ } @_; }

# What is wrong with rows, compared with those of the plain table; '' if nothing
sub wrong_rows
{
	my ($q, $wanted, $got) = @_;
	my @order = order_of($q);
	my @of_order = map { my $rows = $_; list_text(map { [ @$_[@order] ] } @$rows) } $got, $wanted;
	my @all = map { join "\n", sort(map { list_text($_) } @$_) } $got, $wanted;

	return "order:\n$of_order[0]\ninstead of:\n$of_order[1]" if $of_order[0] ne $of_order[1];
	return "rows:\n$all[0]\ninstead of:\n$all[1]" if $all[0] ne $all[1];
	return '';
}

# ... and with an answer
sub wrong
{
	my ($q, $local, $a) = @_;

	return 'no answer' unless defined $a;
	return "$a->{state}: $a->{message}" if $a->{state} ne $local->{state};
	return "columns: " . list_text(@{ $a->{columns} })
	  if list_text(@{ $a->{columns} }) ne list_text(@{ $local->{columns} });
	foreach my $rows ($a->{rows}, @{ $a->{again} })
	{
		my $wrong = wrong_rows($q, $local->{rows}, $rows);

		return $wrong if $wrong ne '';
	}
	return '';
}

# What Grafana would not like of an answer
sub refused
{
	my ($q, $a) = @_;
	my @columns = map { [ $_->[0], LogqGrafana::kind($type_name{ $_->[1] }) ] } @{ $a->{columns} };

	return "columns: " . list_text(@columns) if list_text(@columns) ne list_text(@{ $q->{columns} });
	if ($q->{format} eq 'time_series')
	{
		my ($time) = grep { $columns[$_][0] eq 'time' } 0 .. $#columns;
		my $before;

		return 'no column "time"' unless defined $time;
		foreach my $row (@{ $a->{rows} })
		{
			return "a row without a time" unless defined $row->[$time];
			# times have the same length, numbers are compared as such
			return "time $row->[$time] after $before"
			  if defined $before && ($columns[$time][1] eq 'number' ? $row->[$time] < $before : $row->[$time] lt $before);
			$before = $row->[$time];
		}
	}
	return '';
}

# Run all queries in these ways, and compare them with the plain table.
# Options: ways, parameters (ways with those), set (settings), range.
sub compare
{
	my ($what, %opt) = @_;
	my @queries = grep { $_->{format} ne 'meta' || $_->{sql} =~ /"grafana_logs"/ } LogqGrafana::queries(%{ $opt{range} });
	my (@jobs, @local);
	my ($rows, $local, $answers);

	foreach my $q (@queries)
	{
		my ($sql, @params) = with_parameters($q->{sql});
		my @ways = grep { !$q->{statements} || /^(?:simple|rows)$/ } @{ $opt{ways} };

		push @local, [ $q->{name}, 'simple', $q->{sql} =~ s/("?)\blogq\b\1\.("?(?:logs|grafana_\w+|search|histogram|field_names|field_values|facets)\b)/$1local$1.$2/gr ];
		push @jobs, [ $q->{name}, join(',', @ways), $q->{sql} ];
		push @jobs, [ "$q->{name}, after SET", 'simple', "SET logq.strict_pruning = off; $q->{sql}" ] if $opt{statements};
		push @jobs, [ "$q->{name}, with parameters", join(',', @{ $opt{parameters} }), $sql, @params ]
		  if $opt{parameters} && @params && !$q->{statements};
	}
	$local = run_client(\@local, set => $opt{set});
	$answers = run_client(\@jobs, set => $opt{set});
	foreach my $q (@queries)
	{
		my $l = $local->{ $q->{name} }{simple};
		my $n = $q->{statements} // 1;
		my @wrong;

		push @wrong, "plain table: $l->{state} $l->{message}" if $l->{state} ne '';
		push @wrong, 'Grafana: ' . refused($q, $answers->{ $q->{name} }{simple} // {});
		foreach my $job (grep { $_->[0] eq $q->{name} || $_->[0] =~ /^\Q$q->{name}\E, (after SET|with parameters)$/ } @jobs)
		{
			foreach my $way (split /,/, $job->[1])
			{
				my $a = $answers->{ $job->[0] }{$way};

				push @wrong, "$job->[0], $way: " . wrong($q, $l, $a);
				push @wrong, "$job->[0], $way: $a->{results} results"
				  if $a && $way eq 'simple' && $a->{results} != $n + ($job->[0] =~ /after SET$/ ? 1 : 0);
			}
		}
		@wrong = grep { !/: $/ } @wrong;
		$rows++ if @{ $l->{rows} };
		ok(!@wrong, "$what: $q->{name}") or diag("of: $q->{sql}\n" . substr(join("\n", @wrong), 0, 3000));
	}
	is($rows, scalar(@queries) - ($opt{empty} // 0), "$what: there are rows");
	return;
}

# ragged ends, to half a second
my %range = (from => $midnight - 6569.5, to => $midnight + 8415);

compare('UTC', range => \%range, statements => 1,
	ways => [qw(simple rows text binary prepared prepared_binary cursor cursor_binary)],
	parameters => [qw(text binary prepared prepared_binary)]);
compare('UTC, no rollups', range => \%range, ways => [qw(simple prepared_binary)],
	set => { 'logq.use_rollups' => 'off' });
compare('UTC, only rows', range => \%range, ways => ['simple'],
	set => { 'logq.enable_aggregate_pushdown' => 'off', 'logq.enable_ordered_merge' => 'off' });
# a generic plan from the beginning, and values that nobody has
compare('UTC, generic plans', ways => ['simple'], parameters => [qw(text prepared_binary)],
	range => { %range, interval => '10m', search_filter => '%',
		variables => { level => [ 'INFO', "'; --", '' ], service => [ '', 'web', 'Größe', 'web,shop', '"' ], search => '100\%' } },
	set => { plan_cache_mode => 'force_generic_plan' });
# days that are not those of UTC, across the change of clocks
$c->sql("ALTER ROLE grafana SET timezone = 'Europe/Berlin'");
compare('Berlin', ways => [qw(simple binary prepared)], parameters => ['binary'],
	range => { from => $midnight - 3600, to => $midnight + 7200, interval => '5m' });
$c->sql("ALTER ROLE grafana SET timezone = 'Asia/Kathmandu'");
compare('Kathmandu', ways => [qw(simple binary)], parameters => ['prepared'],
	range => { from => $midnight - 7000.123, to => $midnight + 6999.877, interval => '30d' });
$c->sql('ALTER ROLE grafana RESET timezone');

# ---------- where the work is done ----------

# EXPLAIN of a query that the session has run before, as a list of lines
sub explain_lines
{
	my ($s, $sql, $options) = @_;

	return map { s/^\s*(?:->\s*)?//r } split /\n/, $s->query("EXPLAIN ($options) $sql");
}

my $s = $c->session(user => $grafana);
my $between = "(ts >= '2024-03-30 22:10:30.5+00'::timestamp with time zone) AND (ts <= '2024-03-31 02:20:15+00'::timestamp with time zone)";
my $whole = q{'{"log_20240331_010000","log_20240331_000000","log_20240330_230000"}'::pg_catalog.name[]};
my $minutes = q{ AND minute >= '2024-03-30 23:00:00+00'::timestamp with time zone AND minute < '2024-03-31 02:00:00+00'::timestamp with time zone};
my $ragged = q{'{"log_20240330_220000"}'::pg_catalog.name[]) AND minute >= '2024-03-30 22:11:00+00'::timestamp with time zone AND minute < '2024-03-30 23:00:00+00'::timestamp with time zone};
my $bin = "pg_catalog.date_bin('%d seconds'::pg_catalog.interval, %s, '2024-03-31 02:00:00+00'::timestamp with time zone)";
my $newest = 'FROM logq_store.log_20240331_020000 WHERE';
my $any = 'FROM logq_store.<segment> WHERE';
my $epoch = 'SELECT extract(epoch FROM ts) AS epoch, level FROM logq.logs';

# Each macro: as one writes it; as it arrives, to the letter; and what the plan
# says, also to the letter but for the share of LIMIT that a partition is asked
# for first
my @shown = (
	['__time', 'SELECT $__time(ts), message FROM logq.logs WHERE $__timeFilter(ts) ORDER BY ts DESC LIMIT 50',
		q{SELECT ts AS "time", message FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' ORDER BY ts DESC LIMIT 50},
		'Segments: 15 of 24 (pruned: 9 by time)', 'Merge Order: ts DESC, id DESC', 'Row Limit: 50',
		"Remote SQL: SELECT ts, message, id $any $between ORDER BY ts DESC, id DESC LIMIT n"],
	['__timeEpoch', q{SELECT $__timeEpoch(ts), message FROM logq.logs WHERE $__timeFilter(ts) AND level = 'ERROR' ORDER BY ts LIMIT 50},
		q{SELECT extract(epoch from ts) as "time", message FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' AND level = 'ERROR' ORDER BY ts LIMIT 50},
		'Segments: 15 of 24 (pruned: 9 by time)', 'Merge Order: ts, id', 'Row Limit: 50',
		"Remote SQL: SELECT ts, message, id $any $between AND (level = 'ERROR'::text) ORDER BY ts, id LIMIT n"],
	['__timeFilter', 'SELECT count(*) FROM logq.grafana_logs WHERE $__timeFilter("time") AND level IN ($level)',
		q{SELECT count(*) FROM logq.grafana_logs WHERE "time" BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' AND level IN ('ERROR','WARN')},
		'Segments: 15 of 24 (pruned: 9 by time)', 'Counted: 7 by catalog, 2 by minutes and levels, 6 by rows',
		"Remote SQL: SELECT pg_catalog.count(*) $newest $between AND (level = ANY ('{ERROR,WARN}'::text[])) HAVING pg_catalog.count(*) > 0",
		"Rollup SQL: SELECT pg_catalog.sum(rows)::bigint FROM logq_store.rollup_level WHERE segment = ANY (" . ($ragged =~ s/ AND minute/ AND (level = ANY ('{ERROR,WARN}'::text[])) AND minute/r) . ' HAVING pg_catalog.count(*) > 0'],
	['__timeFrom', 'SELECT service, count(*) FROM logq.logs WHERE ts >= $__timeFrom() GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5',
		q{SELECT service, count(*) FROM logq.logs WHERE ts >= '2024-03-30T22:10:30.5Z' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5},
		'Segments: 18 of 24 (pruned: 6 by time)', 'Counted: 7 by catalog, 2 by minutes, services and levels, 9 by rows',
		"Remote SQL: SELECT service, pg_catalog.count(*) FROM logq_store.log_20240331_030000 WHERE (ts >= '2024-03-30 22:10:30.5+00'::timestamp with time zone) GROUP BY 1",
		"Rollup SQL: SELECT service, pg_catalog.sum(rows)::bigint FROM logq_store.rollup_service WHERE segment = ANY ($ragged GROUP BY 1"],
	['__timeTo', 'SELECT level, count(*) FROM logq.logs WHERE ts < $__timeTo() GROUP BY level',
		q{SELECT level, count(*) FROM logq.logs WHERE ts < '2024-03-31T02:20:15Z' GROUP BY level},
		'Segments: 21 of 24 (pruned: 3 by time)', 'Counted: 15 by catalog, 6 by rows',
		"Remote SQL: SELECT level, pg_catalog.count(*) $newest (ts < '2024-03-31 02:20:15+00'::timestamp with time zone) GROUP BY 1"],
	['__timeGroup', q{SELECT $__timeGroup(ts,'1m') AS time, level AS metric, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1},
		q{SELECT floor(extract(epoch from ts)/60)*60 AS time, level AS metric, count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' GROUP BY 1, 2 ORDER BY 1},
		'Custom Scan (LogqAggregate)', 'Segments: 15 of 24 (pruned: 9 by time)', 'Counted: 9 by minutes and levels, 6 by rows',
		'Remote SQL: SELECT ' . sprintf($bin, 60, 'ts') . ", level, pg_catalog.count(*) $newest $between GROUP BY 1, 2",
		"Rollup SQL: SELECT minute, level, rows FROM logq_store.rollup_level WHERE segment = ANY ($whole)$minutes"],
	['__timeGroup', q{SELECT $__timeGroup(ts,'1h'), count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
		q{SELECT floor(extract(epoch from ts)/3600)*3600 AS "time", count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' GROUP BY 1 ORDER BY 1},
		'Custom Scan (LogqAggregate)', 'Counted: 7 by catalog, 2 by minutes and levels, 6 by rows'],
	['__timeGroupAlias', q{SELECT $__timeGroupAlias(ts,$__interval,previous), service AS metric, count(*) FROM logq.logs WHERE $__timeFilter(ts) AND service IN ($service) GROUP BY 1, 2 ORDER BY 1},
		q{SELECT floor(extract(epoch from ts)/300)*300 AS "time", service AS metric, count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' AND service IN ('web','it''s') GROUP BY 1, 2 ORDER BY 1},
		'Custom Scan (LogqAggregate)', 'Counted: 9 by minutes, services and levels, 6 by rows',
		'Remote SQL: SELECT ' . sprintf($bin, 300, 'ts') . ", service, pg_catalog.count(*) $newest $between AND (service = ANY ('{web,it''s}'::text[])) GROUP BY 1, 2",
		'Rollup SQL: SELECT ' . (sprintf($bin, 300, 'minute') =~ s/2024-03-31 02/2024-03-30 23/r) . ", service, pg_catalog.sum(rows)::bigint FROM logq_store.rollup_service WHERE segment = ANY ($whole) AND (service = ANY ('{web,it''s}'::text[]))$minutes GROUP BY 1, 2"],
	# not from rollups: from rows, grouped over there
	['__timeGroupAlias', q{SELECT $__timeGroupAlias(ts,'10m',0), trace_id AS metric, count(*), max(ts) FROM logq.logs WHERE $__timeFilter(ts) AND message LIKE '%find%' GROUP BY 1, 2 ORDER BY 1},
		q{SELECT floor(extract(epoch from ts)/600)*600 AS "time", trace_id AS metric, count(*), max(ts) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' AND message LIKE '%find%' GROUP BY 1, 2 ORDER BY 1},
		'Custom Scan (LogqAggregate)', 'Segments: 15 of 24 (pruned: 9 by time)',
		'Remote SQL: SELECT ' . sprintf($bin, 600, 'ts') . ", trace_id, pg_catalog.count(*), pg_catalog.max(ts) $newest $between AND (message ~~ '%find%'::text) GROUP BY 1, 2"],
	['__unixEpochFilter', "SELECT level, count(*) FROM ($epoch) l WHERE \$__unixEpochFilter(epoch) GROUP BY 1",
		"SELECT level, count(*) FROM ($epoch) l WHERE epoch >= 1711836630 AND epoch <= 1711851615 GROUP BY 1",
		'Custom Scan (LogqAggregate)', 'Segments: 15 of 24 (pruned: 9 by time)', 'Counted: 7 by catalog, 2 by minutes and levels, 6 by rows',
		"Remote SQL: SELECT level, pg_catalog.count(*) $newest " . ($between =~ s/30\.5/30/r) . ' GROUP BY 1',
		"Rollup SQL: SELECT level, pg_catalog.sum(rows)::bigint FROM logq_store.rollup_level WHERE segment = ANY ($ragged GROUP BY 1"],
	['__unixEpochFrom', 'SELECT ts, message FROM logq.logs WHERE ts >= to_timestamp($__unixEpochFrom()) ORDER BY ts LIMIT 50',
		'SELECT ts, message FROM logq.logs WHERE ts >= to_timestamp(1711836630) ORDER BY ts LIMIT 50',
		'Segments: 18 of 24 (pruned: 6 by time)', 'Row Limit: 50',
		"Remote SQL: SELECT ts, message, id $any (ts >= '2024-03-30 22:10:30+00'::timestamp with time zone) ORDER BY ts, id LIMIT n"],
	['__unixEpochTo', 'SELECT count(*) FROM logq.logs WHERE ts < to_timestamp($__unixEpochTo())',
		'SELECT count(*) FROM logq.logs WHERE ts < to_timestamp(1711851615)',
		'Segments: 21 of 24 (pruned: 3 by time)', 'Counted: 15 by catalog, 6 by rows',
		"Remote SQL: SELECT pg_catalog.count(*) $newest (ts < '2024-03-31 02:20:15+00'::timestamp with time zone) HAVING pg_catalog.count(*) > 0"],
	['__unixEpochNanoFilter', 'SELECT count(*) FROM (SELECT extract(epoch FROM ts) * 1000000000 AS nanos FROM logq.logs) l WHERE $__unixEpochNanoFilter(nanos)',
		'SELECT count(*) FROM (SELECT extract(epoch FROM ts) * 1000000000 AS nanos FROM logq.logs) l WHERE nanos >= 1711836630500000000 AND nanos <= 1711851615000000000',
		'Custom Scan (LogqAggregate)', 'Segments: 15 of 24 (pruned: 9 by time)', 'Counted: 7 by catalog, 2 by minutes and levels, 6 by rows',
		"Remote SQL: SELECT pg_catalog.count(*) $newest $between HAVING pg_catalog.count(*) > 0"],
	['__unixEpochNanoFrom', 'SELECT count(*) FROM logq.logs WHERE ts >= to_timestamp($__unixEpochNanoFrom() / 1000000000.0)',
		'SELECT count(*) FROM logq.logs WHERE ts >= to_timestamp(1711836630500000000 / 1000000000.0)',
		'Segments: 18 of 24 (pruned: 6 by time)', 'Counted: 7 by catalog, 2 by minutes and levels, 9 by rows',
		"Remote SQL: SELECT pg_catalog.count(*) FROM logq_store.log_20240331_030000 WHERE (ts >= '2024-03-30 22:10:30.5+00'::timestamp with time zone) HAVING pg_catalog.count(*) > 0"],
	['__unixEpochNanoTo', 'SELECT DISTINCT service FROM logq.logs WHERE ts < to_timestamp($__unixEpochNanoTo() / 1000000000.0)',
		'SELECT DISTINCT service FROM logq.logs WHERE ts < to_timestamp(1711851615000000000 / 1000000000.0)',
		'Segments: 21 of 24 (pruned: 3 by time)', 'Counted: 15 by catalog, 6 by rows',
		"Remote SQL: SELECT service $newest (ts < '2024-03-31 02:20:15+00'::timestamp with time zone) GROUP BY 1"],
	['__unixEpochGroup', "SELECT \$__unixEpochGroup(epoch,'5m') AS time, count(*) FROM ($epoch WHERE \$__timeFilter(ts)) l GROUP BY 1 ORDER BY 1",
		"SELECT floor((epoch)/300)*300 AS time, count(*) FROM ($epoch WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z') l GROUP BY 1 ORDER BY 1",
		'Custom Scan (LogqAggregate)', 'Counted: 9 by minutes and levels, 6 by rows',
		'Remote SQL: SELECT ' . sprintf($bin, 300, 'ts') . ", pg_catalog.count(*) $newest $between GROUP BY 1",
		'Rollup SQL: SELECT ' . (sprintf($bin, 300, 'minute') =~ s/2024-03-31 02/2024-03-30 23/r) . ", pg_catalog.sum(rows)::bigint FROM logq_store.rollup_level WHERE segment = ANY ($whole)$minutes GROUP BY 1"],
	['__unixEpochGroupAlias', "SELECT \$__unixEpochGroupAlias(epoch,'1h',NULL), level AS metric, count(*) FROM ($epoch WHERE \$__timeFilter(ts)) l GROUP BY 1, 2 ORDER BY 1",
		"SELECT floor((epoch)/3600)*3600 AS \"time\", level AS metric, count(*) FROM ($epoch WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z') l GROUP BY 1, 2 ORDER BY 1",
		'Custom Scan (LogqAggregate)', 'Counted: 7 by catalog, 2 by minutes and levels, 6 by rows',
		'Remote SQL: SELECT ' . sprintf($bin, 3600, 'ts') . ", level, pg_catalog.count(*) $newest $between GROUP BY 1, 2"],
	['__interval', q{SELECT date_bin('$__interval', ts, 'epoch') AS time, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
		q{SELECT date_bin('5m', ts, 'epoch') AS time, count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' GROUP BY 1 ORDER BY 1},
		'Custom Scan (LogqAggregate)', 'Counted: 9 by minutes and levels, 6 by rows',
		'Remote SQL: SELECT ' . sprintf($bin, 300, 'ts') . ", pg_catalog.count(*) $newest $between GROUP BY 1"],
	['__interval_ms', q{SELECT date_bin('$__interval_ms milliseconds', ts, 'epoch') AS time, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
		q{SELECT date_bin('300000 milliseconds', ts, 'epoch') AS time, count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' GROUP BY 1 ORDER BY 1},
		'Custom Scan (LogqAggregate)', 'Counted: 9 by minutes and levels, 6 by rows',
		'Remote SQL: SELECT ' . sprintf($bin, 300, 'ts') . ", pg_catalog.count(*) $newest $between GROUP BY 1"],
);

push @shown, ['__interval_ms', 'SELECT floor(extract(epoch from ts)*1000/$__interval_ms)*$__interval_ms/1000 AS time, level, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1',
	q{SELECT floor(extract(epoch from ts)*1000/300000)*300000/1000 AS time, level, count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' GROUP BY 1, 2 ORDER BY 1},
	'Custom Scan (LogqAggregate)', 'Counted: 9 by minutes and levels, 6 by rows',
	'Remote SQL: SELECT ' . sprintf($bin, 300, 'ts') . ", level, pg_catalog.count(*) $newest $between GROUP BY 1, 2"];
# Go writes such numbers with an exponent
push @shown, ['__timeGroup', q{SELECT $__timeGroup(ts,'14d'), count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
	q{SELECT floor(extract(epoch from ts)/1.2096e+06)*1.2096e+06 AS "time", count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-30T22:10:30.5Z' AND '2024-03-31T02:20:15Z' GROUP BY 1 ORDER BY 1},
	'Counted: 7 by catalog, 2 by minutes and levels, 6 by rows'];

foreach (@shown)
{
	my ($macro, $raw, $sql, @wanted) = @$_;
	my $expanded = LogqGrafana::expand($raw, %range, interval => '5m',
		variables => { level => [ 'ERROR', 'WARN' ], service => [ 'web', q{it's} ] });
	my @lines;

	is($expanded, $sql, "\$$macro: as it arrives");
	$s->query($sql);
	@lines = map { s/(Remote SQL: .*) LIMIT \d+$/$1 LIMIT n/r } explain_lines($s, $sql, 'VERBOSE, COSTS OFF');
	foreach my $wanted (@wanted)
	{
		ok((grep { $_ eq $wanted } @lines), "\$$macro: " . ($wanted =~ s/^(\w+ SQL: .{30}).*/$1.../r))
		  or diag("of: $sql\nwanted: $wanted\n" . join("\n", @lines));
	}
	next unless grep { /^Counted:/ } @wanted;
	$s->query('SET logq.use_rollups = off');
	@lines = explain_lines($s, $sql, 'VERBOSE, COSTS OFF');
	ok((grep { /^Counted: (\d+) by rows$/ } @lines) && !(grep { /^Rollup SQL/ } @lines),
		"\$$macro: all by rows without rollups") or diag(join "\n", @lines);
	ok((grep { /^Remote SQL: SELECT .*(?:count\(\*\)|service) FROM .* WHERE / } @lines), "\$$macro: which are grouped over there, too")
	  or diag(join "\n", @lines);
	$s->query('RESET logq.use_rollups');
}
{
	my %seen = map { $_->[0] => 1 } @shown;

	is_deeply([ sort keys %seen ], [ sort(LogqGrafana::macros()) ], 'each macro was shown');
}

# Of the whole queries: time ranges leave out segments, and where counts of groups
# are all that is wanted, not even half as many rows travel as there are
my $in_range = $c->sql(sprintf 'SELECT count(*) FROM local.logs WHERE ts BETWEEN to_timestamp(%s) AND to_timestamp(%s)', @range{qw(from to)});
cmp_ok($in_range, '>', 12000, 'rows in the range');
foreach my $q (grep { $_->{ranged} || $_->{counts} } LogqGrafana::queries(%range))
{
	my $sql = $q->{sql} =~ s/^SET.*?; //r;
	my (@lines, @scans);

	$s->query($sql);
	@lines = explain_lines($s, $sql, 'ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF');
	if ($q->{ranged})
	{
		@scans = grep { /^Segments: / } @lines;
		ok(@scans && !(grep { !/by time/ } @scans), "$q->{name}: leaves out what is before and after")
		  or diag(join "\n", @lines);
	}
	if ($q->{counts})
	{
		my $rows = 0;

		$rows += $_ foreach map { /^Partition p\d: rows=(\d+)/ } @lines;
		ok((grep { /^Counted: / } @lines), "$q->{name}: counted") or diag(join "\n", @lines);
		cmp_ok($rows, '<', $in_range / 2, "$q->{name}: few rows travel") or diag(join "\n", @lines);
	}
}

# ---------- the document ----------

{
	my $text = slurp_file("$top/docs/grafana.md");
	my $n = 0;
	my @jobs;
	my ($answers, $local);

	# its table of macros
	while ($text =~ /^\| (`\$__.*?`) \| (`.*?`) \|/mg)
	{
		my ($macros, $sqls) = ($1, $2);
		my @raw = $macros =~ /`([^`]+)`/g;
		my ($sql) = $sqls =~ /^`([^`]*)`$/;
		my $of = sub { return LogqGrafana::expand($_[0], from => 1795930800, to => 1795931400); };

		next unless defined $sql;
		is($of->($raw[0]), $sql, "document: $raw[0]");
		$n++;
	}
	cmp_ok($n, '>=', 8, 'document: macros');

	# its queries, but those that tell of partitions that are missing
	$text =~ s/.*?^## Macros//ms;
	foreach my $sql ($text =~ /^```sql\n(.*?)^```/msg)
	{
		next if $sql =~ /__searchFilter/;
		push @jobs, [ 'document: ' . ($sql =~ s/\n.*//sr) . ' (' . (1 + @jobs) . ')', 'simple,text,binary',
			LogqGrafana::expand($sql, %range, variables => { level => [ 'ERROR', 'WARN' ], service => [ 'web', q{it's} ],
				search => q{can't}, line => $c->sql('SELECT max(id) FROM local.logs') }) ];
	}
	cmp_ok(scalar @jobs, '>=', 18, 'document: queries');
	$answers = run_client(\@jobs);
	$local = run_client([ map { [ $_->[0], 'simple', $_->[2] =~ s/\blogq\.(logs|grafana_\w+|search|histogram|field_values)\b/local.$1/gr ] }
		  grep { $_->[2] !~ /logq\.context/ } @jobs ]);
	foreach my $job (@jobs)
	{
		my ($name, undef, $sql) = @$job;

		foreach my $way (qw(simple text binary))
		{
			my $a = $answers->{$name}{$way};

			is($a->{state}, '', "$name, $way") or diag("of: $sql\n$a->{message}");
			cmp_ok(scalar @{ $a->{rows} }, '>', 0, "$name, $way: rows") or diag("of: $sql");
			next unless $local->{$name};
			is(join("\n", sort map { list_text($_) } @{ $a->{rows} }), join("\n", sort map { list_text($_) } @{ $local->{$name}{simple}{rows} }),
				"$name, $way: as from a plain table") or diag("of: $sql");
		}
	}
}

# ---------- what an editor looks for ----------

{
	my %answers;
	my @meta = grep { $_->{format} eq 'meta' && $_->{name} !~ /^values/ } LogqGrafana::queries(%range);

	# those of the newer schema API over the extended protocol, as a pool of connections
	# does: prepared, in binary
	%answers = %{ run_client([ map { [ $_->{name}, $_->{params} ? 'prepared_binary,text' : 'simple', $_->{sql}, @{ $_->{params} // [] } ] } @meta ]) };
	my $rows = sub {
		my ($name) = @_;
		my ($a) = @{ $answers{$name} }{ $answers{$name}{simple} ? 'simple' : 'prepared_binary' };

		return join ' ', map { join '|', map { $_ // '' } @$_ } @{ $a->{rows} };
	};

	foreach my $q (@meta)
	{
		foreach my $a (values %{ $answers{ $q->{name} } })
		{
			is($a->{state}, '', "editor: $q->{name}, $a->{way}") or diag($a->{message});
			is(refused($q, $a), '', "editor: $q->{name}, $a->{way}: its columns");
		}
	}
	like($rows->('version'), qr/^\d+$/, 'editor: the version');
	is($rows->('TimescaleDB'), '', 'editor: no TimescaleDB');
	like($rows->('names of schemas'), qr/\blogq\b/, 'editor: the schema');
	like(' ' . $rows->('tables') . ' ', qr/ logq\.$_ /, "editor: the table logq.$_")
	  foreach qw(logs grafana_logs grafana_annotations grafana_missing stat_partitions);
	like(' ' . $rows->('tables of one schema') . ' ', qr/ $_ /, "editor: the table $_ of the schema") foreach qw(logs grafana_logs);
	# no foreign tables here; nothing that may not be read either
	is($rows->('tables of a schema'), 'grafana_annotations grafana_logs grafana_missing slow_queries stat_admission stat_cache stat_partitions stat_queries',
		'schema API: the views');
	is($rows->('columns'), '"time"|timestamp with time zone message|text level|text id|text service|text trace_id|text '
		. 'partition|text attrs|jsonb', 'editor: columns, in the order of the Logs panel');
	is($rows->('columns of a table'), 'time|timestamp with time zone|timestamptz|| message|text|text|| level|text|text|| id|text|text|| '
		. 'service|text|text|| trace_id|text|text|| partition|text|text|| attrs|jsonb|jsonb||', 'schema API: columns');

	# with the schema in the search path, names go without it
	$c->sql('ALTER ROLE grafana SET search_path = logq, public');
	%answers = %{ run_client([ map { [ $_->{name}, 'simple', $_->{sql} ] } grep { $_->{name} eq 'tables' } @meta ]) };
	like(' ' . $rows->('tables') . ' ', qr/ grafana_logs /, 'editor: a table without its schema');
	$c->sql('ALTER ROLE grafana RESET search_path');
}

# Values of columns, at any time: known of the sealed segments, else each
# partition's different ones
foreach my $column (qw(level service partition))
{
	my ($sql) = "SELECT DISTINCT \"$column\" FROM \"logq\".\"grafana_logs\" WHERE \"$column\" IS NOT NULL ORDER BY \"$column\" LIMIT 100";
	my @lines;

	$s->query($sql);
	@lines = explain_lines($s, $sql, 'VERBOSE, COSTS OFF');
	ok((grep { $_ eq 'Counted: 15 by catalog, 9 by rows' } @lines), "values of $column: from the catalog")
	  or diag(join "\n", @lines);
}
foreach my $column (qw(message trace_id id))
{
	my $sql = "SELECT DISTINCT \"$column\" FROM \"logq\".\"grafana_logs\" WHERE \"$column\" IS NOT NULL ORDER BY \"$column\" LIMIT 100";
	my @lines = explain_lines($s, $sql, 'VERBOSE, COSTS OFF');

	ok((grep { /^Remote SQL: SELECT .* GROUP BY 1$/ } @lines), "values of $column: different ones")
	  or diag(join "\n", @lines);
}
{
	my $sql = 'SELECT DISTINCT "time" FROM "logq"."grafana_logs" WHERE "time" IS NOT NULL ORDER BY "time" LIMIT 100';
	my ($sum) = (0);

	$sum += $_ foreach map { /^Partition p\d: rows=(\d+)/ } explain_lines($s, $sql, 'ANALYZE, VERBOSE, COSTS OFF, TIMING OFF');
	cmp_ok($sum, '<', 24001, 'values of time: the first ones');
	note("of 24001 rows, $sum travel");
}
$s->quit;

# ---------- times at which numbers are no longer exact ----------

# The last microsecond of a group may be the next group's, by the rounding of numeric
# or double, where years have five digits or nearly so
{
	my $i = 0;
	my $groups = join ' UNION ALL ', map {
		$i++;
		"SELECT $i, x.* FROM (SELECT $_ AS time, count(*) FROM logq.logs WHERE ts > '2200-01-01' GROUP BY 1) x"
	} map {
		("floor(extract(epoch from ts)/$_)*$_", "floor(extract(epoch from ts)*1000/${_}000)*${_}000/1000",
			"floor(date_part('epoch', ts)/$_)*$_")
	} 2500, 300, 60;
	my $local = $groups =~ s/logq\.logs/local.logs/gr;

	$c->sql(<<'SQL');
SET logq.route_by = round_robin;
INSERT INTO logq.logs (ts, level, message)
	SELECT 'epoch'::timestamptz + make_interval(days => (y * 2500 / 86400)::int, secs => y * 2500 % 86400 + s), 'FAR', 'far'
	FROM unnest(ARRAY[101359999, 90000001, 10000000, 8000001, 2903999]::bigint[]) y,
		unnest(ARRAY[0, 59.999999, 60, 299.999999, 1200, 2499.999999]) s, generate_series(1, 40);
INSERT INTO local.logs SELECT * FROM logq.logs WHERE ts > '2200-01-01';
SQL
	# so that it is known how many there are
	$c->sql("SELECT count(*) FROM logq.seal('$_', before => 'infinity')") foreach $c->names;
	$c->sql('SELECT logq.refresh_catalog()');
	is($c->sql("SELECT count(*) FROM local.logs WHERE ts > '2200-01-01'"), 1200, 'far times: rows');
	cmp_ok($c->sql("SELECT count(*) FROM ($local) x"), '>', 60, 'far times: groups');
	is(() = $c->sql("EXPLAIN $groups") =~ /LogqAggregate/g, 9, 'far times: grouped over there');
	is($c->sql("(($groups) EXCEPT ALL ($local)) UNION ALL (($local) EXCEPT ALL ($groups))"), '', 'far times: the same ones');
}

# ---------- what goes wrong ----------

# lists of nothing, of one empty text, and quotes
{
	my $raw = 'SELECT count(*) FROM logq.grafana_logs WHERE level IN ($level)';
	my $of = sub { return LogqGrafana::expand($raw, %range, variables => { level => $_[0] }); };

	is($of->([ "a'b", 'c","d' ]), q{SELECT count(*) FROM logq.grafana_logs WHERE level IN ('a''b','c","d')}, 'quotes are doubled');
	$c->gives($of->([ "a'b", 'c","d', "'); DROP TABLE x; --" ]), 0, 'a list of values with quotes', user => $grafana);
	$c->gives($of->(['']), 0, 'a list of one empty text', user => $grafana);
	$c->fails($of->([]), qr/42601/, qr/syntax error/, 'a list of nothing is refused before anybody is asked', user => $grafana);
	$c->fails('SELECT $__unknown(ts) FROM logq.logs', qr/42601/, qr/syntax error/, 'so is what is no macro', user => $grafana);
}

# The role reads, and nothing else
$c->fails("INSERT INTO logq.logs (ts, message) VALUES (now(), 'x')", qr/25006|42501/, qr/read-only|permission/, 'no writing', user => $grafana);
$c->fails("SET default_transaction_read_only = off; INSERT INTO logq.logs (ts, message) VALUES (now(), 'x')",
	qr/42501/, qr/permission denied/, 'not with other settings either', user => $grafana);
$c->fails('SELECT * FROM logq.segments', qr/42501/, qr/permission denied/, 'no other tables', user => $grafana);

# A query that is cancelled, as Grafana does, or that runs out of time ends at the
# partitions, too
{
	my $sql = q{SELECT floor(extract(epoch from ts)/60)*60 AS "time", count(*) FROM logq.logs WHERE message ~ 'x' GROUP BY 1 ORDER BY 1};
	my $lock = $c->session(node => $c->part('p2'));
	my $answers;

	$c->sql("ALTER ROLE grafana SET logq.partition_timeout = '60s'");
	$lock->query('BEGIN; LOCK TABLE logq_store.log_20240331_010000 IN ACCESS EXCLUSIVE MODE');
	$answers = run_client([ [ 'cancelled', 'cancel', $sql ] ]);
	is($answers->{cancelled}{cancel}{state}, '57014', 'cancelled');
	$c->quiet('and so at the partitions');
	$c->sql("ALTER ROLE grafana SET statement_timeout = '300ms'");
	$answers = run_client([ [ 'late', 'simple', $sql ] ]);
	is($answers->{late}{simple}{state}, '57014', 'out of time');
	like($answers->{late}{simple}{message}, qr/statement timeout/, 'and it says so');
	$c->quiet('and so at the partitions');
	$c->sql('ALTER ROLE grafana RESET statement_timeout; ALTER ROLE grafana RESET logq.partition_timeout');
	$lock->query('ROLLBACK');
	$lock->quit;
	$answers = run_client([ [ 'again', 'simple', $sql ] ]);
	is($answers->{again}{simple}{state}, '', 'then it is answered');
}

# A partition that does not answer is an error, or a row that says so
{
	my ($block) = slurp_file("$top/docs/grafana.md") =~ /^```sql\n(SELECT \* FROM \(\n    SELECT \* FROM logq\.grafana_logs.*?)^```/ms;
	my $sql = LogqGrafana::expand($block, %range);
	my ($answers, $a, @missing);

	$c->part('p2')->stop('immediate');
	$answers = run_client([ [ 'missing', 'simple', $sql ] ]);
	like($answers->{missing}{simple}{state}, qr/^08/, 'without a partition: an error');
	like($answers->{missing}{simple}{message}, qr/"p2"/, 'which names it');
	$answers = run_client([ [ 'missing', 'simple', "SET logq.partial_results = on; $sql" ] ]);
	$a = $answers->{missing}{simple};
	is($a->{state}, '', 'without a partition: what there is') or diag($a->{message});
	@missing = grep { $_->[6] eq 'p2' } @{ $a->{rows} };
	is(scalar @missing, 1, 'and a row more');
	like($missing[0][1], qr/^partition "p2" has not answered/, 'that says what is missing');
	cmp_ok(scalar @{ $a->{rows} }, '>', 500, 'beside the rows');
	$c->part('p2')->start;
}

done_testing();
