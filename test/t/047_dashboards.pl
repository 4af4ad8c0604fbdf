# The dashboards of monitoring/grafana: each is what Grafana reads, and each query
# of a panel, a variable and an annotation gives the columns that it needs, and the
# values that a plain table does, as the role that docs/grafana.md makes.
#
# 041_health looks at what they show of faults.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use JSON::PP ();
use LogqDashboards;
use LogqGrafana;
use LogqRedis;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $boards = LogqDashboards::boards();

# ---------- by themselves ----------

is(join(' ', sort keys %$boards), 'logq-context logq-logs logq-operations', 'the dashboards');
foreach my $uid (sort keys %$boards)
{
	my @faults = LogqDashboards::faults($boards->{$uid});

	is(join("\n", @faults), '', "$uid: no faults");
}
# ... of which the check finds those that there might be
{
	my $text = JSON::PP->new->canonical->encode($boards->{'logq-logs'});
	my @bad = (
		[ 'a number twice', sub { $_[0]{panels}[1]{id} = 1 }, qr/its number is taken/ ],
		[ 'a panel over another one', sub { $_[0]{panels}[1]{gridPos}{x} = 17 }, qr/over panel 1 / ],
		[ 'a panel beyond the edge', sub { $_[0]{panels}[1]{gridPos}{w} = 7 }, qr/outside/ ],
		[ 'a type', sub { $_[0]{panels}[0]{type} = 'graph' }, qr/type graph/ ],
		[ 'an option', sub { delete $_[0]{panels}[0]{options}{legend} }, qr/no option legend/ ],
		[ 'a unit', sub { $_[0]{panels}[0]{fieldConfig}{defaults}{unit} = 'lines' }, qr/unit lines/ ],
		[ 'a data source', sub { $_[0]{panels}[0]{datasource}{uid} = 'x' }, qr/data source x/ ],
		[ 'a variable', sub { $_[0]{panels}[0]{targets}[0]{rawSql} .= '$nobody' }, qr/no variable nobody/ ],
		[ 'quotes', sub { $_[0]{panels}[0]{targets}[0]{rawSql} .= '${search}' }, qr/search is not quoted/ ],
		[ 'a number that is raw', sub { $_[0]{panels}[0]{targets}[0]{rawSql} .= '${lines:raw}' }, qr/lines is not quoted/ ],
		[ 'the builder', sub { $_[0]{panels}[0]{targets}[0]{rawQuery} = JSON::PP::false }, qr/not raw/ ],
		[ 'order of variables', sub { $_[0]{templating}{list} = [ reverse @{ $_[0]{templating}{list} } ] }, qr/comes before key/ ],
		[ 'a link', sub { $_[0]{links}[0]{url} = '/d/nowhere' }, qr/link to nowhere/ ]);

	foreach (@bad)
	{
		my ($what, $change, $message) = @$_;
		my $board = JSON::PP::decode_json($text);

		$change->($board);
		like(join("\n", LogqDashboards::faults($board)), $message, "found: $what");
	}
}

# Variables, as Grafana writes them
foreach (
	[ '$v', q{a'b}, q{a''b} ], [ '$v', [ 'a', q{b'c} ], q{'a','b''c'} ], [ '${v}', [], '' ], [ '[[v]]', 'x', 'x' ],
	[ '${v:sqlstring}', q{a'b}, q{'a''b'} ], [ '${v:sqlstring}', [ 'a', q{b'c} ], q{'a','b''c'} ], [ '${v:sqlstring}', '', q{''} ],
	[ '${v:sqlstring}', \q{'__all__'}, q{'__all__'} ], [ '$v', \'.*', '.*' ], [ '${v:csv}', [ 'a', 'b' ], 'a,b' ], [ '${v:raw}', q{a'b}, q{a'b} ],
	[ '${v:raw}', [ 'a', 'b' ], 'a,b' ], [ '[[v:pipe]]', [ 'a', 'b' ], 'a|b' ], [ '${v:singlequote}', q{a'b}, q{'a\\'b'} ],
	[ '${v:doublequote}', [ 'a"b', 'c' ], '"a\\"b","c"' ], [ '$v $vv ${w:raw}', '$v ${v:raw}', '$v ${v:raw} $vv ${w:raw}' ])
{
	my ($raw, $value, $wanted) = @$_;

	is(LogqGrafana::interpolate($raw, { v => $value }), $wanted, "variables: $raw is $wanted");
}

# ---------- provisioning ----------

{
	my %file = map { $_ => slurp_file("$top/monitoring/grafana/provisioning/$_") } 'datasources/logq.yaml', 'dashboards/logq.yaml';
	my $sources = $file{'datasources/logq.yaml'};
	my $types = { map { reverse split /\n/, s/ +(?:type|uid): //gr } $sources =~ /(    type: \S+\n    uid: \S+)\n/g };

	unlike($file{$_}, qr/\t/, "$_: no tabs") foreach sort keys %file;
	like($file{$_}, qr/\A(?:#.*\n)+\napiVersion: 1\n/, "$_: its version") foreach sort keys %file;
	is(join(' ', sort(LogqDashboards::provisioned())), 'logq logq-operations logq-prometheus', 'three data sources');
	is($types->{$_->{uid}}, $_->{type}, "$_->{uid} is of the type that dashboards say")
	  foreach grep { $_->{uid} =~ /^logq/ } map { $_->{datasource} // () } map { LogqDashboards::panels($_) } values %$boards;
	is(scalar(() = $sources =~ /^ +password: \$__file\{[^}]+\}$/mg), 2, 'passwords come from files');
	is(scalar(() = $sources =~ /password:/g), 2, 'and there are no others');
	is(scalar(() = $sources =~ /^      timescaledb: false$/mg), 2, 'groups stay as they are');
	is(scalar(() = $sources =~ /^      (?:maxOpenConns|maxIdleConns|connMaxLifetime): \d+$/mg), 6, 'pools have bounds');
	is(scalar(() = $sources =~ /^      sslmode: \S+$/mg), 2, 'there is an sslmode');
}

# ---------- a cluster ----------

my $redis = LogqRedis->new(name => 'redis');
my $c = LogqTest->new(partitions => 2, replicas => { p1 => 1 },
	coordinator_conf => [ 'logq.slow_query_ms = 1', 'logq.cache_min_cost = 0',
		# of a busy machine
		"logq.cache_timeout = '5s'" ]);
$c->sql($redis->server_sql);
foreach my $node (map { ($c->part($_), $c->replicas($_)) } $c->names)
{
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', "local all logq,reader scram-sha-256\nlocal all all trust\nlocal replication all trust\n");
	$node->reload;
}

# Six hours, of which the last ones are not sealed
my $begin = 1711843200;
$c->sql(<<'SQL');
SET logq.route_by = round_robin;
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT to_timestamp(1711843200) + g * interval '1.800007 seconds',
		CASE WHEN g % 41 = 0 THEN NULL WHEN g % 97 = 0 THEN 'FATAL'
			ELSE (ARRAY['INFO', 'WARN', 'ERROR', 'INFO', 'DEBUG'])[1 + g / 30 % 5] END,
		(ARRAY['web', 'auth', 'web', 'it''s', NULL, 'Größe', 'web,shop'])[1 + g / 50 % 7],
		CASE WHEN g % 301 > 0 THEN (ARRAY['done in ', 'I can''t find "', 'C:\temp\', 'größer als ', '100% of '])[1 + g % 5] || g END,
		CASE WHEN g % 3 = 0 THEN md5((g / 360)::text) END,
		CASE g % 8 WHEN 0 THEN NULL WHEN 1 THEN '["ms"]'
			ELSE jsonb_build_object('status', (200 + g % 3)::text, 'it''s', 'a ''value''') END
	FROM generate_series(0, 11999) g;
SELECT count(*) FROM logq.seal(before => '2024-03-31 03:00+00');
SELECT logq.refresh_catalog();
SQL

my $reader = LogqGrafana::block('README.md', 'Rights', qr/GRANT USAGE ON SCHEMA logq_store/);
$c->on($_, "CREATE ROLE reader LOGIN PASSWORD 'readonly';\n$reader") foreach $c->names;
{
	my $role = LogqGrafana::block('docs/grafana.md', 'A role for Grafana', qr/CREATE ROLE grafana /);

	$c->sql($role);
	$c->sql(($role =~ /^(CREATE USER MAPPING .*? SERVER )p1\b/m)[0] . "p2 OPTIONS (user 'reader', password 'readonly')");
	$c->sql(LogqGrafana::block('docs/grafana.md', 'A role for Grafana', qr/CREATE ROLE grafana_operations/));
	$c->sql('ALTER ROLE grafana RESET timezone');
}

# The same on plain tables
$c->sql(LogqGrafana::local_schema(qw(matching field_values context)));
is($c->sql('SELECT count(*) FROM local.logs'), 12000, 'all rows are there');

my $d = LogqDashboards->new(cluster => $c);

sub text { return join "\n", map { join ' | ', map { $_ // 'NULL' } @$_ } @_; }

# numbers with a fraction come with all their digits from the client
sub short { return $_[0] =~ s/\b(\d+\.\d+(?:e-?\d+)?)/sprintf '%.10g', $1/ger; }

# ---------- logs, as a plain table has them ----------

my $line = $c->sql(q{SELECT id FROM local.logs WHERE service = 'it''s' ORDER BY ts OFFSET 500 LIMIT 1});
my $trace = $c->sql('SELECT trace_id FROM local.logs WHERE trace_id IS NOT NULL ORDER BY ts OFFSET 700 LIMIT 1');
my %range = (
	'ten minutes' => { from => $begin + 3600.5, to => $begin + 4200, interval => '1m' },
	'four hours' => { from => $begin + 3000.25, to => $begin + 3000 + 4 * 3600, interval => '1m' },
	'a week' => { from => $begin - 86400 * 3, to => $begin + 86400 * 4, interval => '10m' },
	'before all' => { from => $begin - 7200, to => $begin - 3600, interval => '5m' });
# name, range, values, whether each query has rows
my @settings = (
	(map { [ "all, $_", $_, {}, $_ ne 'before all' ] } sort keys %range),
	[ 'levels and services', 'four hours', { level => [ 'ERROR', 'WARN', 'FATAL' ], service => [ 'web', q{it's}, 'web,shop' ] }, 1 ],
	[ 'one of each', 'four hours', { level => ['FATAL'], service => ['Größe'], partition => ['p2'] }, 1 ],
	[ 'both partitions', 'ten minutes', { partition => [ 'p1', 'p2' ] }, 1 ],
	[ 'a text with wildcards', 'four hours', { search => '100% OF' }, 1 ],
	[ 'a text with a backslash', 'four hours', { search => 'c:\\temp\\' }, 1 ],
	[ 'a text with quotes', 'four hours', { search => q{can't find "} }, 1 ],
	[ 'a text that has nothing to say', 'four hours', { search => '%' x 3 }, 0 ],
	[ 'a regular expression', 'a week', { regex => q{^(done in|größer als) [0-9]+5$} }, 1 ],
	[ 'one trace', 'a week', { trace_id => $trace }, 0 ],
	[ 'an attribute', 'four hours', { key => 'status' }, 1 ],
	[ 'values of one', 'four hours', { key => 'status', value => [ '200', '202' ] }, 1 ],
	[ 'those with quotes', 'four hours', { key => q{it's}, value => [q{a 'value'}] }, 1 ],
	[ 'all at once', 'a week', { level => [ 'ERROR', 'INFO' ], service => [ 'web', 'auth' ], partition => ['p1'], search => 'IN', regex => '[0-9]', key => 'status', value => ['201'] }, 1 ],
	[ 'who tries to break out', 'four hours', { map { $_ => q{'); DROP TABLE local.logs; --} } qw(search regex trace_id key) }, 0 ],
	[ 'names of variables', 'four hours', { search => '$level ${service:raw} [[key]] $__timeFrom' }, 0 ],
	[ 'and in lists', 'four hours', { map { $_ => [ q{') OR true OR level IN ('}, q{\\'} ] } qw(level service partition value) }, 0 ]);

foreach (@settings)
{
	my ($name, $range, $variables, $full) = @$_;
	my @queries = LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{$range} }, variables => $variables);
	my @local = map { { %$_ } } @queries;

	$d->run(\@queries);
	$d->run(\@local, of => sub { return $_[0] =~ s/\blogq\.(logs|grafana_\w+|field_values)\b/local.$1/gr; });
	foreach my $i (0 .. $#queries)
	{
		my ($q, $l) = ($queries[$i], $local[$i]);
		my $what = "$name: $q->{type} $q->{title}";
		my $sorted = sub { return join "\n", sort(map { text($_) } @{ $_[0]{rows} // [] }); };

		# the break-out is no regular expression
		if ($variables->{regex} && $variables->{regex} =~ /DROP/ && $q->{sql} =~ /message ~/)
		{
			is($q->{state}, '2201B', "$what: not a regular expression");
			next;
		}
		is(LogqDashboards::refused($q), '', "$what: what it needs") or diag("of: $q->{sql}");
		is($sorted->($q), $sorted->($l), "$what: as a plain table has it") or diag("of: $q->{sql}");
		next unless $full;
		next if $q->{title} =~ /^(?:Values of the attribute|value)$/ && !$variables->{key};
		next if $q->{title} =~ /^Errors/ && ($variables->{search} // '') eq 'IN';
		cmp_ok(scalar @{ $q->{rows} }, '>', 0, "$what: rows") or diag("of: $q->{sql}");
	}
	# newest first, no more than asked for
	my ($lines) = grep { $_->{type} eq 'logs' } @queries;
	my @times = map { $_->[0] } @{ $lines->{rows} // [] };

	is(text(\@times), text([ sort { $b cmp $a } @times ]), "$name: newest first");
	cmp_ok(scalar @times, '<=', 500, "$name: no more lines than asked for");
	next unless $full;
	# what is counted is what there is
	my ($volume) = grep { $_->{title} eq 'Lines by level' } @queries;
	my ($sum, $by_level) = ($queries[1], 0);

	$by_level += $_->[2] foreach @{ $volume->{rows} };
	is($by_level, $sum->{rows}[0][0], "$name: as many lines by level as in the range");
}
is($c->sql('SELECT count(*) FROM local.logs'), 12000, 'nobody has broken out');

# how many lines
{
	my ($q) = grep { $_->{type} eq 'logs' }
	  LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{'a week'} }, variables => { lines => '100' });

	$d->run([$q]);
	is(scalar @{ $q->{rows} }, 100, 'as many lines as asked for');
}

# All is no condition: what has no level or service is counted, and from rollups
{
	my $s = $c->session(user => 'grafana');

	foreach my $q (grep { $_->{type} ne 'variable' } LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{'ten minutes'} }))
	{
		my $plan = $s->query("EXPLAIN (VERBOSE, COSTS OFF) $q->{sql}");

		# nothing is asked for values of an attribute, when there is none
		like($plan, $q->{title} eq 'Values of the attribute' ? qr/One-Time Filter: false/ : qr/pruned: [^\n]*by time/,
			"$q->{title}: leaves out what is before and after") or diag($plan);
		like($plan, qr/Counted: [1-9]\d* by minutes/, "$q->{title}: counted") if $q->{title} =~ /^(?:Lines by|Services|In this range|Errors by)/;
		unlike($plan, qr/__all__|Filter: .*ILIKE/, "$q->{title}: no conditions that are none");
	}
	foreach my $q (grep { $_->{type} eq 'variable' && $_->{title} ne 'value' } LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{'ten minutes'} }))
	{
		like($s->query("EXPLAIN (VERBOSE, COSTS OFF) $q->{sql}"), qr/Counted: [1-9]\d* by catalog/, "$q->{title}: from the catalog");
	}
	$s->quit;
}

# Values of variables can be chosen
{
	my %values = map { $_->{title} => [ map { $_->[0] } @{ $_->{rows} } ] }
	  $d->run([ grep { $_->{type} eq 'variable' } LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{'four hours'} }, variables => { key => 'status' }) ]);

	is(join(' ', @{ $values{level} }), 'DEBUG ERROR FATAL INFO WARN', 'levels');
	is(join('; ', sort @{ $values{service} }), join('; ', sort 'Größe', 'auth', q{it's}, 'web', 'web,shop'), 'services');
	is(join(' ', @{ $values{partition} }), 'p1 p2', 'partitions');
	is(join(' ', sort @{ $values{value} }), '200 201 202', 'values of an attribute');
}

# A partition is missing: an error, unless partial answers are wanted, which say so
{
	my ($q) = grep { $_->{type} eq 'logs' } LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{'four hours'} });

	$c->part('p2')->stop('immediate');
	$d->run([$q]);
	like($q->{state}, qr/^08/, 'a partition that is down: an error');
	$c->sql('ALTER ROLE grafana SET logq.partial_results = on');
	$d->run([$q]);
	is(LogqDashboards::refused($q), '', 'or what there is');
	is(scalar(grep { ($_->[1] // '') =~ /^partition "p2" has not answered/ } @{ $q->{rows} }), 1, 'and a line that says so');
	$c->sql('ALTER ROLE grafana RESET logq.partial_results');
	$c->part('p2')->start;
	LogqTest::poll_ok(sub { return $c->try('SELECT count(*) FROM logq.logs')->{state} eq ''; }, 'it is back');
}

# ---------- context ----------

foreach my $n ([ '20', '20' ], [ '10', '50' ])
{
	my @queries = LogqDashboards::queries($boards->{'logq-context'}, %{ $range{'ten minutes'} },
		variables => { line => $line, before => $n->[0], after => $n->[1] });
	my @local = map { { %$_ } } @queries;

	$d->run(\@queries);
	$d->run(\@local, of => sub { return $_[0] =~ s/\blogq\.(logs|context)\b/local.$1/gr; });
	foreach my $i (0 .. $#queries)
	{
		is(LogqDashboards::refused($queries[$i]), '', "context, $queries[$i]{title}: what it needs");
		is(text(@{ $queries[$i]{rows} }), text(@{ $local[$i]{rows} }), "context, $queries[$i]{title}: as a plain table has it");
	}
	is(scalar @{ $queries[0]{rows} }, 1, 'context: the line');
	is(scalar @{ $queries[1]{rows} }, 1 + $n->[0] + $n->[1], 'context: and those around it');
	is($queries[1]{rows}[ $n->[0] ][3], $line, 'context: it is where it should be');
}
{
	my @queries = $d->run([ LogqDashboards::queries($boards->{'logq-context'}, %{ $range{'ten minutes'} }) ]);

	is(join(' ', map { LogqDashboards::refused($_) . @{ $_->{rows} } } @queries), '0 0', 'context of nothing: nothing');
}

# ---------- operations ----------

# queries that leave something in every number
$c->sql("SELECT count(message) FROM logq.logs WHERE ts < '2024-03-31 02:00+00'") foreach 1 .. 3;
$c->sql("SELECT count(*) FROM logq.logs WHERE ts BETWEEN '2024-03-31 01:00+00' AND '2024-03-31 01:10+00' AND message LIKE 'done%'");
$c->sql("SET logq.read_from = 'replica'; SELECT count(*) FROM logq.logs WHERE message LIKE 'd%'");
$c->try("SELECT 1 / (length(message) - length(message)) FROM logq.logs");
LogqTest::poll_ok(sub { return $c->sql("SELECT count(*) FROM logq.stat_partitions WHERE role = 'replica' AND lag_ms IS NOT NULL") > 0; },
	'the lag of the replica is known');

{
	my @queries = $d->run([ grep { defined $_->{sql} } LogqDashboards::queries($boards->{'logq-operations'}, %{ $range{'ten minutes'} }) ]);
	my %rows = map { $_->{title} => $_ } @queries;
	my $is = sub {
		my ($title, $sql) = @_;

		is(short(text(@{ $rows{$title}{rows} })), short($c->sql($sql) =~ s/\|/ | /gr), "$title: as the statistics have it");
	};

	foreach my $q (@queries)
	{
		is(LogqDashboards::refused($q), '', "$q->{type} $q->{title}: what it needs") or diag("of: $q->{sql}");
		cmp_ok(scalar @{ $q->{rows} // [] }, '>', 0, "$q->{title}: rows") unless $q->{title} eq 'Topics';
	}
	$is->('Not well', q{SELECT count(*) FILTER (WHERE NOT ok), count(*) FILTER (WHERE NOT ok AND check_name = 'partition'), 0, 0, 0, 0, 0,
		count(*) FILTER (WHERE NOT ok AND check_name NOT IN ('partition', 'replica', 'sealing', 'ingest', 'dead letters', 'redis')) FROM logq.health()});
	is(join(' ', sort map { "$_->[1]:$_->[0]" } @{ $rows{Health}{rows} }),
		join(' ', split /\n/, $c->sql(q{SELECT (check_name || ':' || CASE WHEN ok THEN 'ok' ELSE 'not ok' END) COLLATE "C" FROM logq.health() ORDER BY 1})),
		'Health: each check');
	$is->('Queries', q{SELECT queries, errors, partial, errors::float8 / queries FROM logq.stat_queries});
	cmp_ok($rows{Queries}{rows}[0][$_], '>', 0, "Queries: $_") foreach 0, 1;
	$is->('First row', 'SELECT first_row_p50_ms, first_row_p95_ms, first_row_p99_ms, first_row_max_ms FROM logq.stat_queries');
	$is->('Pruning', 'SELECT segments_pruned_percent, partitions_pruned_percent FROM logq.stat_queries');
	cmp_ok($rows{Pruning}{rows}[0][0], '>', 0, 'Pruning: something was left out');
	is(eval { my $n = 0; $n += $_->[1] foreach @{ $rows{'Segments pruned by'}{rows} }; $n },
		$c->sql('SELECT segments_pruned + segments_cached + segments_asked FROM logq.stat_queries'), 'Segments pruned by: all segments');
	my ($bars) = grep { $_->{type} eq 'barchart' } @queries;
	my ($n, $first) = (0, 0);

	($n, $first) = ($n + $_->[1], $first + $_->[2]) foreach @{ $bars->{rows} };
	is("$n $first", $c->sql("SELECT count || ' ' || first_row_count FROM logq.query_histogram() WHERE le_ms = 'infinity'"), 'the bars are all queries');
	is(scalar(grep { $_->[1] < 0 || $_->[2] < 0 } @{ $bars->{rows} }), 0, 'and none is negative');
	is($bars->{rows}[-1][0], 'more', 'the last one is of those that took longest');
	is(join(' ', map { "$_->[0] $_->[2] $_->[3] $_->[4]" } @{ $rows{Servers}{rows} }), 'p1 primary up closed p1 replica up closed p2 primary up closed', 'Servers: all of them');
	is(join(' ', map { "@$_[0, 1, 2, 3]" } @{ $rows{'Catalogs and sealing'}{rows} }),
		join(' ', map { s/\|/ /gr } split /\n/, $c->sql(q{SELECT partition, 'ok', count(*) FILTER (WHERE state = 'open'), count(*) FILTER (WHERE state = 'sealed')
			FROM logq.segments GROUP BY 1 ORDER BY 1})), 'Catalogs and sealing: segments');
	$is->('Saved by the cache', 'SELECT sum(hits)::float8 / nullif(sum(hits + misses), 0), sum(saved_ms) FROM logq.stat_cache');
	is(join(' ', map { "$_->[0] $_->[1]" } @{ $rows{Cache}{rows} }), 'memory on redis closed', 'Cache: both levels');
	cmp_ok(scalar(grep { defined $_->[-1] && $_->[-1] =~ /count\(message\)/ } @{ $rows{'Slow queries'}{rows} }), '>', 0, 'Slow queries: with their text');
}

# thresholds of health() are variables
{
	my ($q) = grep { $_->{title} eq 'Health' } LogqDashboards::queries($boards->{'logq-operations'}, %{ $range{'ten minutes'} }, variables => { seal_slack => 'x' });

	$d->run([$q]);
	is($q->{state}, '22007', 'seal_slack is handed on');
}

# Neither role has the other's rights
{
	my @of_logs = $d->run([ grep { $_->{type} ne 'variable' } LogqDashboards::queries($boards->{'logq-logs'}, %{ $range{'ten minutes'} }) ], user => 'grafana_operations');
	my @of_servers = $d->run([ grep { $_->{title} =~ /^(?:Health|Servers|Topics|Catalogs and sealing)$/ && defined $_->{sql} }
		LogqDashboards::queries($boards->{'logq-operations'}, %{ $range{'ten minutes'} }) ], user => 'grafana');

	is($_->{state}, '42501', "$_->{title}: not for who looks after the servers") foreach @of_logs;
	is($_->{state}, '42501', "$_->{title}: not for who reads logs") foreach @of_servers;
	is(scalar @of_servers, 4, 'the latter are four');
	$c->fails('SELECT logq.reset_stats()', '42501', qr/permission denied/, 'and neither changes anything', user => 'grafana_operations');
}

# ---------- Prometheus ----------

{
	my @queries = grep { defined $_->{expr} } LogqDashboards::queries($boards->{'logq-operations'}, %{ $range{'ten minutes'} });
	my $has = $c->sql("SELECT to_regproc('logq.metrics') IS NOT NULL") eq 't';
	my $source = $has ? $c->sql("SELECT prosrc FROM pg_proc WHERE oid = to_regproc('logq.metrics')") : '';
	my %metric = map { $_ => 1 } map { /\b(logq_[a-z0-9_]+)\b/g } map { $_->{expr} } @queries;

	cmp_ok(scalar @queries, '>', 15, 'there are expressions for Prometheus');
	foreach my $name (sort keys %metric)
	{
		SKIP:
		{
			skip 'no logq.metrics()', 1 unless $has;
			my $family = $name =~ s/_(?:bucket|sum|count)$//r;

			like($source, qr/'(?:\Q$name\E|\Q$family\E)'/, "metric $name: there is one");
		}
	}
	SKIP:
	{
		my $file = PostgreSQL::Test::Utils::tempdir() . '/rules.yml';
		my ($i, $out) = (0);

		skip 'no promtool', 1 if system('command -v promtool >/dev/null') != 0;
		PostgreSQL::Test::Utils::append_to_file($file, join "\n", 'groups:', '- name: panels', '  rules:',
			map { $i++; ("  - record: panel:$i", '    expr: ' . ($_->{expr} =~ s/\$__rate_interval/5m/gr)) } @queries);
		$out = `promtool check rules $file 2>&1`;
		like($out, qr/SUCCESS: $i rules found/, 'promtool reads them') or diag($out);
	}
}

done_testing();
