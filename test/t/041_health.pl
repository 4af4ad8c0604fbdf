# logq.health(): what goes wrong makes its row not ok, and no other one, and when
# it is well again the row says so.  The faults are real ones.  The operations
# dashboard shows each of them.
#
# p1 has a replica.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use JSON::PP ();
use LogqDashboards;
use LogqFaults;
use LogqGrafana;
use LogqKafka;
use LogqProcess qw(freeze thaw start_server);
use LogqRedis;
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $kafka = LogqKafka->new(name => 'kafka');
my $redis = LogqRedis->new(name => 'redis');
my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 1 },
	conf => [ 'restart_after_crash = on', 'wal_retrieve_retry_interval = 100ms' ],
	coordinator_conf => [
		"logq.databases = 'logs'", 'logq.seal_after = 0', 'max_worker_processes = 16',
		'logq.hot_cache_size = 0', 'logq.cache_min_cost = 0',
		# of a busy machine
		"logq.cache_timeout = '5s'", "logq.max_replica_lag = '1s'" ]);
my $node = $c->coordinator;
my ($p1, $r1, $p2) = ($c->part('p1'), $c->replica('p1'), $c->part('p2'));
my $health = "logq.health(seal_slack => '1 s')";
my $s = $c->session;
my $dashboards = LogqDashboards->new(cluster => $c);

$c->sql(LogqGrafana::block('docs/grafana.md', 'A role for Grafana', qr/CREATE ROLE grafana_operations/));

# What is not well: "check subject, ..."
sub bad
{
	return $s->query("SELECT coalesce(string_agg(concat_ws(' ', check_name, subject), ', '), '') FROM $health WHERE NOT ok");
}

# Test: this panel comes to have a row with these values
sub shows
{
	my ($title, $values, $name, $code) = @_;
	my @rows;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code->() if $code;
		@rows = $dashboards->show('logq-operations', $title, variables => { seal_slack => '1 s' });
		return scalar grep {
			my $row = $_;
			!grep { ($row->{$_} // '') !~ /^(?:$values->{$_})$/ } keys %$values
		} @rows;
	}, "$name: the dashboard shows it, in \"$title\"") or diag(JSON::PP->new->canonical->pretty->encode(\@rows));
	return;
}

# Test: just this comes to be not well, and it says so.  Code is run before each
# look.
sub only
{
	my ($wanted, $detail, $what_to_do, $name, $code) = @_;
	my $compute = ref $detail eq 'CODE' ? $detail : undef;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code->() if $code;
		$is = $s->query("SELECT concat_ws(' ', check_name, subject), detail, what_to_do FROM $health WHERE NOT ok");
		$detail = $compute->() if $compute;
		return $is =~ /^\Q$wanted\E\|[^|\n]*$detail[^|\n]*\|[^\n]*$what_to_do[^\n]*\z/;
	}, "$name: not well is $wanted, why, and what to do") or diag($s->query("SELECT * FROM $health"));
	my ($check, $subject) = $wanted =~ /^(partition|replica|sealing|ingest|dead letters|redis|queries|maintenance) ?(.*)$/;
	my %column = (partition => 'partitions', replica => 'standbys', queries => 'others', maintenance => 'others');

	shows('Health', { state => 'not ok', check => $check, subject => quotemeta $subject, detail => ".*$detail.*", 'what to do' => ".*$what_to_do.*" }, $name, $code);
	shows('Not well', { 'all checks' => 1, $column{$check} // $check => 1 }, $name, $code);
	return;
}

# Test: all comes to be well
sub well
{
	my ($name, $code) = @_;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub {
		$code->() if $code;
		return ($is = bad()) eq '';
	}, "$name: all is well") or diag($s->query("SELECT * FROM $health"));
	return;
}

# ---------- all is well ----------

$c->sql($redis->server_sql);
$kafka->create_topic('web', partitions => 1);
$kafka->produce('web', [ map { qq({"message": "row $_", "service": "web"}) } 1 .. 20 ]);
$c->sql("SELECT logq.add_topic('web', '@{[ $kafka->brokers ]}')");
$c->sql("INSERT INTO logq.logs (ts, level, service, message, partition)
	SELECT now() - interval '3 hours' - i * interval '10 s', 'INFO', 's', 'm' || i, (ARRAY['p1', 'p2'])[1 + i % 2]
	FROM generate_series(1, 500) i");
LogqTest::poll_ok(sub { return $s->query('SELECT sum(rows) FROM logq.stat_ingest') eq '20'; }, 'Kafka is taken in');
$c->sealed_and_no_more;
well('at the beginning');
is($s->query("SELECT string_agg(concat_ws(' ', check_name, replace(subject, '@{[ LogqFaults::address($r1) ]}', 'r1')), ', ') FROM logq.health()"),
	'library, maintenance logs, ' . join(', ', map { ("$_ p1", "$_ p2") } 'partition', 'store', 'clock', 'server connections')
	  . ', replica p1 r1, sealing p1, sealing p2, segments p1, segments p2, ingest web, dead letters web, redis, queries, connections, catalog memory',
	'a row for each thing');
is($s->query("SELECT bool_and(detail <> '' AND what_to_do IS NULL) FROM logq.health()"), 't', 'there is nothing to do');

# ---------- ingest ----------

$kafka->create_topic('junk', partitions => 1);
$kafka->produce('junk', [ ('no { json') x 3 ]);
$c->sql("SELECT logq.add_topic('junk', '@{[ $kafka->brokers ]}', 'json')");
only('dead letters junk', '3 of 3 records', 'logq.dead_letters', 'dead letters');
shows('Topics', { topic => 'junk', 'dead letters' => 3 }, 'dead letters');
is($s->query("SELECT count(*) FROM logq.health(seal_slack => '1 s', max_dead_letters => 1) WHERE NOT ok"), '0',
	'how many are too many is up to the caller');
is($s->query("SELECT count(*) FROM logq.health(seal_slack => '1 s', dead_letters_within => '0 s') WHERE NOT ok"), '0',
	'and for how long they count');
is($s->query("SELECT last_dead_letter BETWEEN now() - interval '5 minutes' AND now() FROM logq.stat_ingest WHERE topic = 'junk'"), 't',
	'stat_ingest has the time of the last one');
$c->sql("SELECT logq.remove_topic('junk')");
well('that topic is gone');

$kafka->kill9;
only('ingest web', 'its state is waiting', 'brokers', 'no broker');
shows('Topics', { topic => 'web', state => 'waiting' }, 'no broker');
$kafka->start;
well('the broker is back');
$c->sql("SELECT logq.pause_topic('web')");
LogqTest::poll_ok(sub { return $s->query('SELECT DISTINCT state FROM logq.stat_ingest') eq 'paused'; }, 'a topic is paused');
is(bad(), '', 'which is no fault');

# ---------- a partition ----------

$p2->stop('immediate');
only('partition p2', 'its catalog cannot be confirmed', 'PostgreSQL runs', 'a dead partition');
# a query finds the breaker, too
only('partition p2', 'is left alone since', 'PostgreSQL runs', 'a query has met it',
	sub { $s->query('SELECT count(*) FROM logq.logs'); });
shows('Servers', { partition => 'p2', role => 'primary', breaker => 'open', reason => '.+' }, 'a dead partition',
	sub { $s->query('SELECT count(*) FROM logq.logs'); });
shows('Catalogs and sealing', { partition => 'p2', error => '.+' }, 'a dead partition');
start_server($p2);
well('it runs again');

freeze($p2);
only('partition p2', 'its catalog', 'PostgreSQL runs', 'one that hangs');
{
	my $begin = time;

	$s->query("SELECT * FROM $health; SELECT logq.stats()");
	cmp_ok(time - $begin, '<', 2, 'nobody waits for it');
}
thaw($p2);
well('it goes on');

# ---------- a replica ----------

{
	my $reader = $c->session;
	my $ask = sub { $reader->query('SELECT count(*) FROM logq.logs'); };
	my $row = 'replica p1 ' . LogqFaults::address($r1);

	$reader->query("SET logq.read_from = 'replica'");
	$reader->query("SET logq.partial_results = on");
	$c->pause_replica('p1');
	$c->on('p1', "INSERT INTO logq_store.log (ts, message) VALUES (now(), 'late')");
	only($row, 'ms behind', 'pg_is_wal_replay_paused', 'a standby that lags', $ask);
	shows('Standbys: how far behind', { standby => 'p1 .*', lag => '[0-9]{4,}' }, 'a standby that lags', $ask);
	shows('Servers', { partition => 'p1', role => 'replica', lag => '[0-9]{4,}' }, 'a standby that lags', $ask);
	$c->resume_replica('p1');
	well('it has caught up', $ask);

	$r1->stop('immediate');
	only($row, 'is left alone since', 'standby runs', 'a dead standby', $ask);
	shows('Servers', { partition => 'p1', role => 'replica', breaker => 'open' }, 'a dead standby', $ask);
	$r1->start;
	well('it runs again', $ask);
	$reader->quit;
}

# ---------- Redis ----------

{
	my $ask = sub { $c->sql("SELECT count(message) FROM logq.logs WHERE ts < now() - interval '2 hours'"); };

	$ask->();
	$redis->kill9;
	only('redis', 'is left alone since', 'Redis runs', 'no Redis', $ask);
	shows('Cache', { level => 'redis', state => 'open', reason => '.+' }, 'no Redis', $ask);
	$redis->start;
	well('Redis is back', $ask);
}

# ---------- sealing ----------

{
	my $writer = $c->session(node => $p2);

	$c->sql("INSERT INTO logq.logs (ts, message, partition) VALUES (now() - interval '30 hours', 'old', 'p2')");
	$writer->query('BEGIN');
	$writer->query("INSERT INTO logq_store.log (ts, message) VALUES (now() - interval '30 hours', 'open')");
	$c->setting('logq.seal_after', '0');
	# how many it are changes when an hour ends
	only('sealing p2', sub { return $c->due('p2') . ' open segments should have been sealed'; }, 'transactions that are open', 'a transaction keeps a segment open');
	shows('Catalogs and sealing', { partition => 'p2', sealing => 'not ok', open => '[1-9].*' }, 'a transaction keeps a segment open');
	is($s->query("SELECT count(*) FROM logq.health() WHERE NOT ok"), '0', 'it is not long yet');
	$writer->query('ROLLBACK');
	# as it says, unless the sealer was first
	well('it is sealed', sub { $s->query("SELECT * FROM logq.seal('p2')"); });
	$c->setting('logq.seal_after', '30d');
	$writer->quit;
}

# ---------- limits ----------

{
	my $cursor = $c->session;

	$c->setting('logq.max_concurrent_queries', 1);
	$cursor->query('BEGIN; DECLARE c CURSOR FOR SELECT * FROM logq.logs; FETCH 1 FROM c');
	only('queries', '1 queries run', 'max_concurrent_queries', 'all places are taken');
	$cursor->query('ROLLBACK');
	$c->setting('logq.max_concurrent_queries');
	well('places are free');
	$cursor->quit;
}

# ---------- who may look ----------

$c->sql('CREATE ROLE watcher LOGIN; GRANT USAGE ON SCHEMA logq TO watcher');
foreach my $call ('* FROM logq.health()', 'logq.stats()')
{
	$c->fails("SELECT $call", '42501', qr/permission denied for function/, "not everybody may SELECT $call", user => 'watcher');
}
$c->sql('GRANT EXECUTE ON FUNCTION logq.health, logq.stats TO watcher');
$c->gives('SELECT count(*) > 10, bool_and(ok) FROM logq.health()', 't|t', 'the right to health() is enough', user => 'watcher');
{
	my $r = $c->try('SELECT logq.stats()', user => 'watcher');
	my $stats = eval { JSON::PP::decode_json($r->{out}) } // {};

	is(join(' ', sort keys %$stats), 'admission at cache catalogs database health ingest partitions queries version',
		'and that to stats()') or diag($r->{err});
	is(scalar @{ $stats->{partitions} // [] }, 3, 'all servers are in it');
	is(join(' ', map { "$_->{partition} " . (defined $_->{confirmed_at} || defined $_->{version} ? 1 : 0) } @{ $stats->{catalogs} // [] }),
		'p1 1 p2 1', 'and all catalogs');
}
$c->gives(<<'SQL', 't', 'objects of others are not taken for ours', user => 'watcher');
CREATE TEMP TABLE pg_settings AS SELECT 1 AS name;
CREATE TEMP VIEW pg_stat_activity AS SELECT 1 AS datname;
SET search_path = pg_temp, pg_catalog;
SELECT bool_and(ok) FROM logq.health();
SQL

# ---------- the worker, and the library ----------

$c->sql("SELECT logq.remove_topic('web')");
$c->setting('logq.databases', '');
only('maintenance logs', 'no maintenance worker', 'logq.databases', 'no worker');
$c->setting('logq.databases');
well('the worker is back');
$s->quit;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$c->gives("SELECT string_agg(check_name, ' ') FROM logq.health() WHERE NOT ok", 'library maintenance',
	'a library that is not preloaded is seen, too');

done_testing();
