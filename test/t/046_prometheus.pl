# Prometheus: logq.metrics(), the exporter's configuration, and the alerts, with
# the real exporter and the real Prometheus.
#
# p1 has a replica.  A third partition has a name in which everything must be
# escaped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use IPC::Run ();
use LogqFaults;
use LogqKafka;
use LogqProcess qw(freeze thaw start_server);
use LogqPrometheus;
use LogqRedis;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $folder = $LogqPrometheus::folder;
my $odd = qq(o"d\\d\nname\\n \xc3\xa9);
my $odd_sql = '"' . $odd =~ s/"/""/gr . '"';

# Test: a program ends well, and says nothing that matches
sub runs
{
	my ($command, $input, $bad, $name) = @_;
	my $out = '';
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = IPC::Run::run($command, '<', \$input, '>&', \$out, IPC::Run::timeout(60));

	ok($ok && (!defined $bad || $out !~ $bad), $name) or diag("@$command: $out");
	return;
}

# ---------- the files alone ----------

runs([ 'promtool', 'check', 'config', "$folder/prometheus.yml" ], '', undef, 'the configuration of Prometheus is valid');
runs([ 'promtool', 'check', 'rules', "$folder/alerts.yml" ], '', undef, 'so are the rules');
runs([ 'promtool', 'test', 'rules', "$folder/tests.yml" ], '', undef, 'they pass their unit tests');
{
	my $alerts = slurp_file("$folder/alerts.yml");
	my $tests = slurp_file("$folder/tests.yml");
	my $docs = slurp_file('docs/monitoring.md');
	my @names = $alerts =~ /alert: (\w+)/g;

	cmp_ok(scalar @names, '>', 15, 'there are alerts');
	is(join(' ', grep { $tests !~ /alertname="$_"/ } @names), '', 'each has a test in which it fires');
	is(join(' ', grep { $docs !~ /^### $_\n/m || $alerts !~ /runbook: 'docs\/monitoring.md#\L$_\E'/ } @names), '',
		'and a place in the documentation, to which it points');
	is(scalar(() = $alerts =~ /severity: (?:critical|warning)/g), scalar @names, 'and a severity');
	is(scalar(() = $alerts =~ /summary: '.+'/g), scalar @names, 'and a summary');
	is(scalar(() = $alerts =~ /description: >-\n/g), scalar @names, 'and says what to do');
}

# ---------- all is well ----------

my $kafka = LogqKafka->new(name => 'kafka');
my $redis = LogqRedis->new(name => 'redis');
my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 1 },
	conf => [ 'restart_after_crash = on', 'wal_retrieve_retry_interval = 100ms' ],
	coordinator_conf => [
		"logq.databases = 'logs'", 'logq.seal_after = 0', 'max_worker_processes = 16', 'logq.cache_min_cost = 0',
		# of a busy machine
		"logq.cache_timeout = '5s'" ]);
my $node = $c->coordinator;
my ($p1, $p2) = ($c->part('p1'), $c->part('p2'));

LogqTest::set_up_partition_database($p1, 'extra');
$c->sql(<<"SQL");
CREATE SERVER $odd_sql FOREIGN DATA WRAPPER logq_fdw OPTIONS (host @{[ LogqTest::lit($p1->host) ]}, port '@{[ $p1->port ]}', dbname 'extra');
CREATE USER MAPPING FOR CURRENT_USER SERVER $odd_sql OPTIONS (user 'logq', password @{[ LogqTest::lit($LogqTest::password) ]});
SELECT logq.add_partition(@{[ LogqTest::lit($odd) ]});
SQL
$c->sql($redis->server_sql);
$kafka->create_topic('web', partitions => 1);
$kafka->produce('web', [ map { qq({"message": "row $_", "service": "web"}) } 1 .. 20 ]);
$c->sql("SELECT logq.add_topic('web', '@{[ $kafka->brokers ]}', 'json')");
$c->sql("SET logq.route_by = 'round_robin'; INSERT INTO logq.logs (ts, level, service, message)
	SELECT now() - i * interval '1 min', 'INFO', 's', 'm' || i FROM generate_series(1, 600) i");
is($c->sql("SELECT count(*) FROM logq.logs WHERE service = 's'"), 600, 'there are rows');
LogqTest::poll_ok(sub { return $c->sql('SELECT sum(rows) FROM logq.stat_ingest') eq '20'; }, 'Kafka is taken in');
LogqTest::poll_ok(sub { return $c->sql('SELECT min(sealed_segments) > 0 AND sum(sealing_due) = 0 FROM logq.stat_segments') eq 't'; }, 'what is over is sealed');
# an hour that ends meanwhile is not to be sealed, which a partition that is down
# would be behind with
$c->setting('logq.seal_after', '30d');

# the role as it is made there
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('logs'), '-f', "$folder/role.sql" ], 'the role is made');
$c->gives("SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = 'prometheus'",
	'f', 'it is nothing special');
$c->gives("SELECT logq.metrics() <> ''", 't', 'it may ask for metrics', user => 'prometheus');
$c->fails('SELECT * FROM logq.logs', '42501', qr/permission denied/, 'but not for logs', user => 'prometheus');
$c->sql('CREATE ROLE nobody LOGIN; GRANT USAGE ON SCHEMA logq TO nobody');
$c->fails('SELECT logq.metrics()', '42501', qr/permission denied/, 'not everybody may', user => 'nobody');

my $prometheus = LogqPrometheus->new(coordinator => $node);

sub metrics
{
	return $c->sql('SELECT logq.metrics()', @_) . "\n";
}

# Queries of all kinds, so that there is something to be seen
sub ask
{
	$c->sql("SET logq.read_from = 'replica'; SELECT count(*) FROM logq.logs WHERE partition = 'p1' AND message LIKE 'm1%'");
	$c->sql(join ';', ("SELECT count(*) FROM logq.search(service => 's')",
		"SELECT count(message) FROM logq.logs WHERE ts < now() - interval '3 hours'",
		"SELECT count(*) FROM logq.logs WHERE level = 'NONE'") x 5);
	return;
}

# names in the exporter's file
my %in_file;
{
	my $section;

	foreach (split /\n/, slurp_file("$folder/queries.yaml"))
	{
		$section = $1 if /^(\w+):/;
		$in_file{"${section}_$1"} = lc $2 if /^    - (\w+): \{usage: (?!LABEL)(\w+)/;
	}
}
my $help;
LogqTest::poll_ok(sub {
	ask();
	$help = LogqPrometheus::help(metrics());
	return keys %$help == keys %in_file;
}, 'all metrics can be seen at once')
  or diag('not there: ', join ' ', grep { !$help->{$_} } sort keys %in_file);
is_deeply({ map { $_ => $help->{$_}[0] } keys %$help }, \%in_file, 'their names and types are those of queries.yaml');

# promtool's lint
runs([ 'promtool', 'check', 'metrics' ], metrics(), qr/\S/, 'promtool has nothing to say about their format');
{
	# as what serves them without an exporter
	my $file = $prometheus->dir . '/logq.prom';
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'logs', PGUSER => 'prometheus');

	runs([ "$folder/logq-textfile", $file ], '', qr/\S/, 'the script for node_exporter');
	runs([ 'promtool', 'check', 'metrics' ], slurp_file($file), qr/\S/, 'writes the same');
	is_deeply([ sort keys %{ LogqPrometheus::samples(slurp_file($file)) } ],
		[ sort keys %{ LogqPrometheus::samples(metrics()) } ], 'all of it');
	is((stat $file)[2] & 07777, 0644, 'that others may read');
	$ENV{PGDATABASE} = 'nowhere';
	ok(!IPC::Run::run([ "$folder/logq-textfile", $file ], '2>', '/dev/null'), 'it fails when the coordinator does not answer');
	is(join(' ', glob("$file*")), $file, 'and leaves what is there, and nothing else');
}

# ---------- the exporter ----------

# Do others have the same numbers?  Nobody asks anything meanwhile, yet the worker
# goes on, so it must be found twice between two equal looks.  Of times, it must
# only be known.
sub differences
{
	my ($get) = @_;
	my ($before, $there, $after) = (LogqPrometheus::samples(metrics()), $get->(), LogqPrometheus::samples(metrics()));
	my @bad;

	foreach my $key (sort keys %{ { %$before, %$there } })
	{
		if (!exists $before->{$key} || !exists $there->{$key})
		{
			push @bad, "$key is only " . (exists $before->{$key} ? 'here' : 'there');
		}
		elsif ($key =~ /^logq_partition_catalog_confirmed/)
		{
			push @bad, "$key: $there->{$key}" if abs($there->{$key} - time) > 60;
		}
		elsif ($there->{$key} != $before->{$key} || $before->{$key} != ($after->{$key} // 'NaN'))
		{
			push @bad, "$key: $before->{$key}, there $there->{$key}";
		}
	}
	return @bad;
}

my @bad;
LogqTest::poll_ok(sub { return !(@bad = differences(sub { LogqPrometheus::samples($prometheus->scrape) })); },
	'the exporter has the same samples, with the same values') or diag(join "\n", @bad);
is_deeply(LogqPrometheus::help($prometheus->scrape), $help, 'and the same types and descriptions');
unlike($prometheus->scrape, qr/^logq_.* NaN$/m, 'and nothing that is unknown');
like($prometheus->scrape, qr/^pg_exporter_last_scrape_error 0$/m, 'without errors');
like($prometheus->scrape, qr/^logq_partition_up\{partition="o\\"d\\\\d\\nname\\\\n \xc3\xa9",server=/m, 'names are escaped');

# ---------- Prometheus ----------

LogqTest::poll_ok(sub { return !(@bad = differences(sub { $prometheus->all_samples })); },
	'Prometheus has them, too') or diag(join "\n", @bad);
foreach my $name (sort keys %in_file)
{
	my $n = $in_file{$name} eq 'histogram' ? "${name}_bucket" : $name;

	# a scrape that takes too long leaves none until the next
	LogqTest::poll_ok(sub { return scalar($prometheus->query($n)); }, "Prometheus has $n");
}
{
	my ($queries, $count, $p99);

	LogqTest::poll(sub {
		($queries) = $prometheus->query('logq_queries_total');
		($count) = $prometheus->query('logq_query_execution_time_seconds_count');
		($p99) = $prometheus->query('histogram_quantile(0.99, logq_query_execution_time_seconds_bucket)');
		return $queries && $count && $p99;
	});
	is($count->{value}, $queries->{value}, 'the histogram counts queries');
	# within the width of a bucket
	cmp_ok(abs(log($p99->{value} * 1000 / $c->sql('SELECT p99_ms FROM logq.stat_queries'))), '<', log(1.51),
		'its percentiles are those of stat_queries');
	my ($help) = @{ $prometheus->api('metadata', metric => 'logq_query_execution_time_seconds')->{logq_query_execution_time_seconds} };
	is($help->{type}, 'histogram', 'Prometheus knows it as one');
}
LogqTest::poll_ok(sub { return !($prometheus->alerts); }, 'nothing is wrong') or diag(join "\n", $prometheus->alerts);
{
	my $data = $prometheus->api('rules');
	my @rules = map { @{ $_->{rules} } } @{ $data->{groups} };

	LogqTest::poll_ok(sub {
		@rules = map { @{ $_->{rules} } } @{ $prometheus->api('rules')->{groups} };
		return !grep { $_->{health} ne 'ok' } @rules;
	}, 'all rules can be evaluated') or diag(explain([ grep { $_->{health} ne 'ok' } @rules ]));
	cmp_ok(scalar @rules, '>', 15, 'and are there');
}

# ---------- faults ----------

# Test: just these alerts come to fire
sub fires
{
	my ($wanted, $name, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code->() if $code;
		return join(', ', $prometheus->alerts) =~ /^$wanted$/;
	}, "$name: $wanted") or diag(join "\n", $prometheus->alerts);
	return;
}

# how long the text takes
sub quick
{
	my ($name) = @_;
	my $begin = time;
	my $text = metrics();
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	cmp_ok(time - $begin, '<', 2, "$name: nobody waits for it");
	like($text, qr/^logq_partition_up\{partition="p2"\} 0$/m, 'it is down');
	like($text, qr/^logq_partition_up\{partition="p1"\} 1$/m, 'others are not');
	return;
}

# Kafka's messages go to it, too
my $down = '(LogqBreakerOpen [^,]*partition=p2[^,]*, )?(LogqIngest\w+ [^,]*, )?LogqPartitionDown partition=p2';

$p2->stop('immediate');
fires($down, 'a partition is dead');
quick('it is dead');
start_server($p2);
fires('', 'it runs again');
freeze($p2);
fires($down, 'one hangs');
quick('it hangs');
thaw($p2);
fires('', 'it goes on');

$kafka->produce('web', [ ('no { json') x 3 ]);
fires('LogqDeadLetters topic=web', 'junk comes in');

{
	my $n = 0;

	$redis->kill9;
	fires('LogqDeadLetters topic=web, LogqRedisBreakerOpen', 'Redis is gone',
		sub { $n++; $c->sql("SELECT count(message) FROM logq.logs WHERE ts < now() - interval '2 hours' AND message <> '$n'"); });
}

$node->stop('immediate');
fires('LogqCoordinatorDown(, LogqDeadLetters topic=web)?', 'the coordinator is down');
$prometheus->exporter->stop;
fires('(LogqDeadLetters topic=web, )?LogqExporterDown', 'the exporter is down');
$prometheus->exporter->start;
$node->start;
fires('(LogqDeadLetters topic=web)?(, LogqRedisBreakerOpen)?', 'both are back');

# ---------- without the library ----------

$prometheus->server->stop;
$prometheus->exporter->stop;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
like(metrics(), qr/^logq_health\{check="library",object=""\} 0$/m, 'it is not preloaded: there are metrics all the same');
unlike(metrics(), qr/^logq_(quer|admission|cache)|NaN/m, 'but none of what nobody counts');
runs([ 'promtool', 'check', 'metrics' ], metrics(), qr/\S/, 'they are well-formed');

done_testing();
