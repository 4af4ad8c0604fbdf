# PgBouncers in transaction mode: one before each partition, through which all
# sessions share a few connections, and one before the coordinator.
#
#	LOGQ_CLIENTS	sessions at once in the last part, 1000

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use IPC::Run;
use LogqPgBouncer;
use LogqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'there is no pgbouncer' unless LogqPgBouncer::program();

my $pool_size = 4;
my $rows_each = 20_000;
# no ignore_startup_parameters: logq sends none that is unknown to PgBouncer
my $c = LogqTest->new(
	partitions => 3,
	pooled => { default_pool_size => $pool_size },
	# what the sessions on a partition are like when nobody says otherwise
	conf => [
		"statement_timeout = '60s'", "intervalstyle = 'sql_standard'",
		"bytea_output = 'escape'", "extra_float_digits = 0"
	]);

foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment(timestamptz '2024-06-01 00:00+00' + i * interval '1 hour')
FROM generate_series(0, 3) i;
INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '2024-06-01 00:00+00' + i * (interval '4 hours' / $rows_each),
		(ARRAY['INFO','INFO','INFO','WARN','ERROR'])[i % 5 + 1],
		'service-' || i % 11, 'request ' || i || ' took ' || i % 977 || ' ms',
		md5((i / 3)::text), jsonb_build_object('ms', i % 977)
	FROM generate_series(0, $rows_each - 1) i;
ANALYZE logq_store.log;
SQL
}
my $all = 3 * $rows_each;
my $count = 'SELECT count(*) FROM logq.logs';

# How many backends of logq on a partition belong to its pooler, and the pids of
# others.  One that comes or goes meanwhile may be taken for one of these.
sub backends
{
	my ($name) = @_;
	my @before = $c->pooler($name)->servers('logq');
	my @pids = split /\n/,
	  $c->on($name, "SELECT pid FROM pg_stat_activity WHERE usename = 'logq'");
	my @after = $c->pooler($name)->servers('logq');
	my %looks;

	$looks{ $_->{remote_pid} }++ foreach @before, @after;
	# one that takes the place of another comes when that has gone
	return (scalar(grep { ($looks{$_} // 0) == 2 } @pids), grep { !$looks{$_} } @pids);
}

# Test: all that there is of logq on the partitions goes through poolers, and
# there is not too much of it
sub all_pooled
{
	my ($name) = @_;
	my @n;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# those that go past the poolers end soon
	ok(LogqTest::poll(sub {
		@n = map { [ backends($_) ] } $c->names;
		return !grep { @$_ > 1 || $_->[0] > $pool_size } @n;
	}, 10), $name)
	  or diag('pooled and others: ', explain(\@n));
	return;
}

# ---------- reads and writes ----------

{
	my $s = $c->session;

	is($s->query($count), $all, 'all rows are read');
	is($s->query("SELECT string_agg(message, ',') FROM (SELECT message FROM logq.logs WHERE level = 'ERROR' ORDER BY ts DESC, id DESC LIMIT 2) s"),
		'request 19999 took 459 ms,request 19999 took 459 ms', 'the newest ones');
	is($s->query("$count a JOIN logq.logs b USING (id)"), $all, 'a table with itself');
	is($s->query("$count WHERE attrs->>'ms' = '7' AND message ~ '\\mtook\\s7\\M'"),
		$s->query("$count WHERE (attrs->>'ms')::int = 7"), 'by attribute and pattern');
	is($s->query("$count WHERE ts - interval '1 day' < '2024-05-31 01:00+00' AND ts::text < '2024-06-01 01:00'"),
		$all / 4, 'by expressions that depend on settings');
	is($s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'one', 'p2') RETURNING partition"),
		'p2', 'a row is written');
	is($s->query("$count WHERE level = 'one'"), 1, 'and read');
	$s->quit;
	all_pooled('no session has a connection of its own');
}

{
	my $s = $c->session;
	my $level = sub { return $s->query("SELECT count(*) FROM logq.logs WHERE level = '$_[0]'"); };

	$s->query('BEGIN');
	$s->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 01:30+00', 'outer', 's' || i FROM generate_series(1, 100) i");
	is($level->('outer'), 100, 'a transaction reads what it has written');
	$s->query('SAVEPOINT a');
	$s->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 01:30+00', 'inner', 's' || i FROM generate_series(1, 100) i");
	is($level->('inner'), 100, 'behind a savepoint, too');
	$s->query('ROLLBACK TO a');
	is($level->('inner'), 0, 'until that is rolled back');
	$s->query('SAVEPOINT b');
	$s->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 01:30+00', 'inner2', 's' || i FROM generate_series(1, 100) i");
	$s->query('RELEASE b');
	is($c->sql("$count WHERE level IN ('outer', 'inner2')"), 0, 'nobody else sees any of it');
	$s->query('COMMIT');
	is($level->('outer') . ' ' . $level->('inner') . ' ' . $level->('inner2'),
		'100 0 100', 'once committed, what is left is there');

	$s->query('BEGIN');
	$s->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 01:30+00', 'gone', 's' || i FROM generate_series(1, 100) i");
	$s->query('ROLLBACK');
	is($level->('gone'), 0, 'or not, when it was rolled back');

	# ids come over another connection while a COPY is under way
	is($s->query("WITH i AS (INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 02:30+00', 'many', 's' || i FROM generate_series(1, 500) i RETURNING id) SELECT count(DISTINCT id) FROM i"),
		500, 'INSERT of many rows RETURNING their ids');
	is($s->query("INSERT INTO logq.logs (ts, level, service) SELECT timestamptz '2024-07-01 00:30+00' + i * interval '1 hour', 'new', 's' || i FROM generate_series(1, 20) i"),
		'', 'rows into new segments');
	is($level->('new'), 20, 'they are there');

	$s->query('BEGIN');
	$s->query("DECLARE c1 CURSOR FOR SELECT id FROM logq.logs WHERE level = 'INFO' ORDER BY ts, id");
	$s->query("DECLARE c2 CURSOR FOR SELECT id FROM logq.logs WHERE level = 'INFO'");
	is(scalar(my @l = split /\n/, $s->query('FETCH 100 FROM c1; FETCH 50 FROM c2; FETCH 100 FROM c1')),
		250, 'two cursors are read in turn');
	$s->query('COMMIT');
	$c->quiet('and the end of the transaction ends them');
	$s->quit;

	my $file = "$PostgreSQL::Test::Utils::tmp_check/copied";

	$c->sql("\\copy (SELECT ts, level, service, message FROM logq.logs WHERE level = 'WARN') TO '$file'");
	$c->sql("\\copy logq.logs (ts, level, service, message) FROM '$file'");
	is($c->sql("$count WHERE level = 'WARN'"), 2 * $all / 5, 'COPY, out and in');
	all_pooled('what went past the poolers is closed again');
}

# ---------- a pool of one ----------

# A transaction that holds the one connection needs another.  All clients of
# the pooler use the same one after the other.
{
	my $one = LogqPgBouncer->new(name => 'one', node => $c->part('p1'),
		conf => { default_pool_size => 1 });
	my $s = $c->session;
	my $plain = sub {
		my ($options, $sql) = @_;
		local %ENV = (%ENV, PGPASSWORD => $LogqTest::password,
			PGTZ => $options->{tz} // 'UTC');
		my ($out, $err) = ('', '');

		IPC::Run::run([ $c->coordinator->installed_command('psql'), '-XAtq',
			'-U', 'logq', '-d', $one->connstr, '-f', '-' ],
			'<', \$sql, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
		chomp $out;
		return $out . $err;
	};
	my $show = join ' ', map { "SHOW $_;" } qw(TimeZone search_path intervalstyle
		bytea_output extra_float_digits statement_timeout
		client_connection_check_interval transaction_isolation
		transaction_read_only);
	my $normal = join "\n", 'Asia/Tokyo', '"$user", public', 'sql_standard',
	  'escape', 0, '1min', 0, 'read committed', 'off';
	my $pid = 'SELECT pg_backend_pid()';
	my $first;

	$c->sql("ALTER SERVER p1 OPTIONS (SET pooler '" . $one->address . "')");
	is($s->query("$count WHERE partition = 'p1' AND ts < '2024-06-01 01:00+00'"),
		$c->on('p1', "SELECT count(*) FROM logq_store.log WHERE ts < '2024-06-01 01:00+00'"),
		'one connection is enough');
	$first = $plain->({}, $pid);
	is($plain->({ tz => 'Asia/Tokyo' }, $show), $normal,
		'settings of logq do not outlive its reading');
	$s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'pool1', 'p1')");
	is($plain->({ tz => 'Asia/Tokyo' }, $show), $normal, 'nor its writing');
	$s->query('BEGIN');
	$s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'pool1', 'p1')");
	$s->query('SAVEPOINT a');
	$s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'pool1', 'p1')");
	$s->query('ROLLBACK TO a');
	$s->query('ROLLBACK');
	is($plain->({ tz => 'Asia/Tokyo' }, $show), $normal, 'nor a ROLLBACK');
	is($plain->({}, $pid), $first, 'all that on one connection');

	is($s->query("WITH i AS (INSERT INTO logq.logs (ts, level, partition) SELECT '2024-06-01 02:30+00', 'pool1', 'p1' FROM generate_series(1, 500) i RETURNING id) SELECT count(DISTINCT id) FROM i"),
		500, 'ids for many rows do not wait for it');
	is($s->query("INSERT INTO logq.logs (ts, level, partition) SELECT timestamptz '2024-08-01 00:30+00' + i * interval '1 hour', 'pool1', 'p1' FROM generate_series(1, 5) i"),
		'', 'nor do new segments');
	is($s->query("$count WHERE level = 'pool1'"), 506, 'all those rows are there');

	# what somebody leaves behind there
	$plain->({}, <<'SQL');
SET search_path = nosuch;
SET datestyle = 'German';
SET timezone = 'Asia/Tokyo';
SET intervalstyle = 'iso_8601';
SET extra_float_digits = -15;
SET standard_conforming_strings = off;
SET transform_null_equals = on;
SET lock_timeout = '1ms';
SET default_transaction_read_only = on;
SET default_transaction_isolation = serializable;
SET statement_timeout = '300ms';
SQL
	is($plain->({}, 'SHOW search_path; SHOW statement_timeout'), "nosuch\n300ms",
		'a client leaves settings on the connection');
	$s->query("SET logq.partition_timeout = '60s'");
	is($s->query("SELECT count(*), min(ts) FROM logq.logs WHERE partition = 'p1' AND ts < '2024-06-01 01:00+00' AND message ~ '^request\\s\\d+\\s' AND message <> 'a\\b''c' AND ts::text LIKE '2024-06-01 00:%' AND trace_id IS NOT NULL AND md5(repeat(message, 4000)) <> 'longer than the timeout'"),
		$rows_each / 4 . '|2024-06-01 00:00:00+00', 'logq reads as ever');
	is($s->query("INSERT INTO logq.logs (ts, level, message, partition) VALUES ('2024-06-01 00:30+00', 'pool2', 'a\\b', 'p1')"),
		'', 'and writes');
	is($s->query("SELECT ts, message FROM logq.logs WHERE level = 'pool2'"),
		'2024-06-01 00:30:00+00|a\b', 'what it should');
	is($plain->({}, 'SHOW search_path; SHOW statement_timeout; ' . $pid),
		"nosuch\n300ms\n$first", 'and leaves them as they are');
	$s->quit;
	$c->sql("ALTER SERVER p1 OPTIONS (SET pooler '" . $c->pooler('p1')->address . "')");
	$one->stop;
}

# ---------- ends that come early ----------

{
	my $s = $c->session;
	my $other = $c->session;

	foreach my $sql (
		"$count WHERE md5(repeat(message, 40000)) = 'x'",
		# the partitions wait for the reader, or the poolers do
		'SELECT max(md5(repeat(message, 10000))) FROM logq.logs WHERE random() >= 0',
		"INSERT INTO logq.logs (ts, level, service, message) SELECT '2024-06-01 01:30+00', 'cancelled', 's' || i, md5(repeat('x', 20000)) FROM generate_series(1, 10000000) i")
	{
		my $start;

		$s->send($sql);
		LogqTest::poll(sub {
			return $c->remote_activity || $other->query(
				"SELECT clock_timestamp() - query_start > '1 second' FROM pg_stat_activity WHERE pid = $s->{pid} AND state = 'active'") eq 't';
		}) or diag('it does not begin');
		$start = time;
		$other->query("SELECT pg_cancel_backend($s->{pid})");
		like($s->wait(60), qr/57014/, 'a query is cancelled');
		cmp_ok(time - $start, '<', 3, 'at once');
		$c->quiet('and nothing is left running');
		is($s->query("$count WHERE level = 'one'"), 1, 'the next query is right');
	}
	is($s->query("$count WHERE level = 'cancelled'"), 0, 'nothing was stored');
	all_pooled('and no connection is left');
	$s->quit;

	# the end of a session in the middle of a transaction
	$s = $c->session;
	$s->query('BEGIN');
	$s->query("INSERT INTO logq.logs (ts, level, service) SELECT '2024-06-01 01:30+00', 'killed', 's' || i FROM generate_series(1, 100) i");
	$other->query("SELECT pg_terminate_backend($s->{pid})");
	$c->quiet('a session ends in a transaction: that ends');
	is($other->query("$count WHERE level = 'killed'"), 0, 'with nothing stored');
	$other->quit;
	$s->quit;
}

# ---------- a replica behind a pooler ----------

{
	my $r = LogqTest->new(partitions => 1, replicas => 1, prefix => 'r',
		pooled => {}, conf => ["intervalstyle = 'sql_standard'", "timezone = 'Asia/Tokyo'"]);
	my $pooler = LogqPgBouncer->new(name => 'replica', node => $r->replica('p1'),
		conf => { default_pool_size => 1 });
	my $s = $r->session;
	my $sql = "SELECT count(*) FROM logq.logs WHERE ts - interval '1 day' < '2024-05-31 01:00+00' AND ts::text < '2024-06-01 01:00'";

	$r->sql("INSERT INTO logq.logs (ts, level) SELECT timestamptz '2024-06-01 00:00+00' + i * interval '1 minute', 'INFO' FROM generate_series(0, 119) i");
	$r->wait_for_catchup_all;
	$r->sql("ALTER SERVER p1 OPTIONS (SET replicas '" . $pooler->address . "', ADD replicas_pooled 'true')");
	$s->query('SET logq.read_from = replica');
	is($s->query($sql), 60, 'a replica is read through its pooler');
	is(join(' ', map { scalar($_->servers('logq')) } $pooler, $r->pooler('p1')), '1 1',
		'which it is, over one connection');
	$r->pooler('p1')->stop;
	$s->query('SET logq.read_from = any');
	is($s->query($sql), 60, 'and when the pooler of the primary has gone');
	$s->quit;
}

# ---------- poolers that go away, and partitions ----------

{
	my $s = $c->session;
	my $n = $s->query($count);
	my $pooler = $c->pooler('p2');
	my $row = "INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'away', 'p2')";

	$pooler->kill9;
	like($s->query($count), qr/ERROR:\s+08...: .*partition "p2"/, 'the pooler is gone: the error names the partition');
	like($s->query($row), qr/ERROR:\s+08...: .*partition "p2"/, 'of a write as well');
	is($s->query("SELECT name, state FROM logq.partitions WHERE name = 'p2'"), 'p2|up',
		'the partition itself is there, and functions go to it directly');
	is($s->query("$count WHERE partition = 'p1'"), $c->on('p1', 'SELECT count(*) FROM logq_store.log'),
		'others are not in need of it');
	$pooler->start;
	is($s->query($count), $n, 'once it is back, the next query is right');
	is($s->query($row), '', 'and writes');
	$pooler->stop;
	$pooler->start;
	is($s->query($count), $n + 1, 'a restart between two queries is not noticed');
	$pooler->stop;
	$pooler->start;
	is($s->query($row), '', 'nor by a write');

	$s->query('BEGIN');
	$s->query($row);
	$pooler->kill9;
	$pooler->start;
	like($s->query('COMMIT'), qr/ERROR:\s+08...: .*"p2"/, 'it goes in a transaction: that fails');
	is($s->query("$count WHERE level = 'away'"), 2, 'and nothing is stored');

	$s->send("$count WHERE md5(repeat(message, 20000)) = 'x'");
	LogqTest::poll(sub { return scalar $c->remote_activity('p2'); });
	$pooler->stop;
	like($s->wait(60), qr/ERROR:\s+08...: .*"p2"/, 'it goes in a query: that fails');
	$pooler->start;
	$c->quiet('and nothing goes on');
	is($s->query($count), $n + 2, 'the next query is right');

	$c->part('p2')->stop('immediate');
	like($s->query($count), qr/ERROR:\s+(?:08...|57P01): .*partition "p2"/, 'the partition behind it is gone');
	like($s->query($count), qr/ERROR:\s+08...: .*partition "p2"/, 'and still is');
	$c->part('p2')->start;
	LogqTest::poll_ok(sub { return $s->query($count) eq $n + 2; }, 'and back');
	all_pooled('no connection is left of all that');
	$s->quit;
}

# ---------- thousands of sessions ----------

# files that a process may have open
my $files = `ulimit -Hn`;
my $wanted = $ENV{LOGQ_CLIENTS} // 1000;
my $clients = $files =~ /^(\d+)/ && $1 < $wanted + 100 ? $1 - 100 : $wanted;
my $each = 4;
my $front = LogqPgBouncer->new(
	name => 'front',
	node => $c->coordinator,
	auth_type => 'trust',
	users => { getpwuid($<) . '' => '' },
	# here the last of a thousand waits for all others
	conf => { max_client_conn => $clients + 100, default_pool_size => 20,
		query_wait_timeout => 300 });

sub write_file
{
	my ($name, $text) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name";

	open my $f, '>', $file or die $!;
	print $f $text;
	close $f or die $!;
	return $file;
}

# kB, by the name that they have in /proc/PID/status
sub memory
{
	my ($pid, $what) = @_;

	open my $f, '<', "/proc/$pid/status" or return 0;
	while (my $line = <$f>)
	{
		return $1 if $line =~ /^$what:\s+(\d+) kB/;
	}
	return 0;
}

sub max
{
	my ($max, @more) = @_;

	foreach (@more)
	{
		$max = $_ if $_ > $max;
	}
	return $max;
}

{
	my $newest = write_file('newest.pgbench', "SELECT * FROM logq.logs WHERE level = 'ERROR' AND ts < '2024-06-01 04:00+00' ORDER BY ts DESC, id DESC LIMIT 100;\n");
	my $service = write_file('service.pgbench', <<'SQL');
\set n random(0, 10)
SELECT * FROM logq.search(service => 'service-' || :n, start_time => '2024-06-01 01:00+00', end_time => '2024-06-01 03:00+00', max_rows => 50);
SQL
	my @pgbench = ('sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$@"', 'sh',
		$c->coordinator->installed_command('pgbench'), '-n', '-M', 'simple',
		'-c', $clients, '-j', 2, '-t', $each, '-f', $newest, '-f', $service,
		'-h', $front->socket_dir, '-p', $front->port, 'logs');
	my $admission = $c->sql("SELECT to_regclass('logq.stat_admission') IS NOT NULL") eq 't';
	my $admitted = $admission ? $c->sql('SELECT admitted FROM logq.stat_admission') : 0;
	my $watch = $c->session;
	my ($out, $err, $start) = ('', '', time);
	my %most = map { $_ => 0 } qw(clients sessions anon high pooled past running pooler);
	my %past = map { $_ => {} } $c->names;
	my $run;

	diag("only $clients clients: ulimit -n is $files") if $clients < $wanted;
	{
		local $ENV{PGAPPNAME} = 'pgbench';

		$run = IPC::Run::start(\@pgbench, '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout(400));
	}
	my $look = sub {
		my ($pool) = grep { $_->{database} eq 'logs' } $front->show('POOLS');

		$most{clients} = max($most{clients}, $pool->{cl_active} + $pool->{cl_waiting}) if $pool;
	};
	while ($run->pumpable)
	{
		my @pids = split /\n/, $watch->query("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'");

		$look->();
		eval { $run->pump_nb; 1 } or last;
		$most{sessions} = max($most{sessions}, scalar @pids);
		$most{anon} = max($most{anon}, map { memory($_, 'RssAnon') } @pids);
		$most{high} = max($most{high}, map { memory($_, 'VmHWM') } @pids);
		$most{running} = max($most{running}, $watch->query('SELECT running FROM logq.stat_admission')) if $admission;
		foreach my $name ($c->names)
		{
			my ($pooled, @past) = backends($name);

			# they are all there for a short time only
			$look->();
			$most{pooled} = max($most{pooled}, $pooled);
			# those that were so before
			$most{past} = max($most{past}, scalar grep { $past{$name}{$_} } @past);
			$past{$name} = { map { $_ => 1 } @past };
		}
		# looking is work for this machine, too
		usleep(300_000);
	}
	eval { $run->finish; };
	$most{pooler} = max(0, map { memory($_->pid, 'VmHWM') } $front, map { $c->pooler($_) } $c->names);
	note(sprintf("%.1f s; at most: %s", time - $start,
		join ', ', map { "$_ $most{$_}" } sort keys %most));
	note($out);
	my $total = $clients * $each;
	like($out, qr{actually processed: $total/$total\b}, "$clients sessions: all $total queries are answered")
	  or diag($err);
	unlike($err, qr/error|FATAL/i, 'none with an error');
	cmp_ok($most{clients}, '>=', $clients, 'all sessions are connected at once');
	cmp_ok($most{sessions}, '<=', 20, 'they share a few backends of the coordinator');
	cmp_ok($most{pooled}, '<=', $pool_size, 'and those share fewer of each partition');
	is($most{past}, 0, 'none goes past the poolers');
	cmp_ok($most{anon}, '<', 32 * 1024, "no backend of the coordinator needs much memory of its own");
	# with what it has touched of shared_buffers
	cmp_ok($most{high}, '<', (32 + 128 + 32) * 1024, 'at any moment');
	cmp_ok($most{pooler}, '<', 128 * 1024, 'nor does a pooler');
  SKIP:
	{
		skip 'there is no logq.stat_admission', 3 unless $admission;
		cmp_ok($watch->query('SELECT admitted FROM logq.stat_admission') - $admitted,
			'>=', $total, 'the statistics have counted all of them');
		cmp_ok($most{running}, '>', 0, 'and show those that run');
		is($watch->query('SELECT running FROM logq.stat_admission'), 0,
			'of which there are none any more');
	}
	$watch->quit;
	$c->quiet('nothing is left running');
}
done_testing();
