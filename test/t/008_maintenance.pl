# The maintenance worker and the sealer: what they do by themselves, and that
# nothing which happens to partitions, workers or the extension stops them for
# longer than it lasts.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use LogqTest;

my $c = LogqTest->new(
	add => 0,
	coordinator_conf =>
	  [ 'logq.seal_after = 0', 'restart_after_crash = on', 'log_checkpoints = off' ]);
my $node = $c->coordinator;

# Does every named partition have a confirmation that is newer than this call?
sub confirmed
{
	my ($on, @names) = @_;
	my $list = join ',', map { "'$_'" } @names;
	my $since = $on->safe_psql('logs', 'SELECT clock_timestamp()');

	return LogqTest::poll(sub
	{
		my ($rc, $out) = $on->psql('logs', <<"SQL");
SELECT count(*) FROM logq.catalog_status() s JOIN logq.partition p USING (number)
WHERE p.server IN ($list) AND s.confirmed_at > '$since' AND s.error IS NULL
SQL
		return $rc == 0 && $out eq scalar(@names);
	});
}

sub status_error
{
	my ($name) = @_;

	return $c->sql("SELECT coalesce(s.error, '') FROM logq.catalog_status() s JOIN logq.partition p USING (number) WHERE p.server = '$name'");
}

sub set_databases
{
	my ($on, $list) = @_;

	$on->safe_psql('postgres', "ALTER SYSTEM SET logq.databases = $list");
	$on->reload;
	return;
}

# Process id of a worker on the coordinator, '' when there is none
sub worker
{
	my ($type, $db) = @_;
	my ($rc, $out) = $node->psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'logq $type' AND datname = '"
		  . ($db // 'logs') . "'");

	return $rc == 0 ? $out : '';
}

# Process id of the launcher, which no view shows; '' when there is none
sub launcher
{
	my $postmaster = (split /\n/, PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid'))[0];

	foreach my $dir (glob '/proc/[0-9]*')
	{
		my ($stat, $line) = map {
			my $text = '';
			if (open my $f, '<', "$dir/$_") { local $/; $text = <$f> // ''; close $f; }
			$text;
		} 'stat', 'cmdline';

		return $dir =~ s,.*/,,r
		  if $line =~ /logq launcher/ && $stat =~ /\) \w $postmaster /;
	}
	return '';
}

# How often something stands in the coordinator's log
sub logged
{
	my ($what) = @_;
	my @lines = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /$what/g;

	return scalar @lines;
}

sub states
{
	my ($name, $where) = @_;

	return $c->on($name,
		"SELECT coalesce(string_agg(state, ',' ORDER BY lower), '') FROM logq_store.segment WHERE "
		  . ($where // "upper <= now() - interval '1 day'"));
}

# ---------- without a worker ----------

foreach my $name ($c->names)
{
	my $r = $c->try($c->server_sql($name) . "SELECT logq.add_partition('$name')");

	like($r->{err}, qr/NOTICE: .* database "logs" has no maintenance worker[\s\S]*HINT: .*logq\.databases/,
		"adding $name tells of the worker") if $name eq 'p1';
}
is(worker('maintenance'), '', 'there is none');

# ---------- started by a change of the configuration ----------

set_databases($node, "logs, missing");
ok(confirmed($node, $c->names), 'all copies get confirmed');
is($c->sql("SELECT count(*) FROM logq.catalog"), 3, 'there are three');

LogqTest::poll_ok(sub
	{
		return 3 == grep {
			$c->on($_, <<'SQL') eq 't'
SELECT count(s.name) = 2
FROM logq_store.store r,
	LATERAL (VALUES (now()), (now() + least(r.segment_interval / 4, interval '15 minutes'))) t(at)
	LEFT JOIN logq_store.segment s ON s.lower <= t.at AND s.upper > t.at
SQL
		} $c->names;
	},
	'segments are made ahead');
LogqTest::poll_ok(
	sub
	{
		my $made = 0;

		$made += $c->on($_, 'SELECT count(*) FROM logq_store.segment') foreach $c->names;
		return $made >= 3 &&
			$c->sql("SELECT count(*) FROM logq.catalog_segment WHERE state = 'open'") eq $made;
	},
	'the copy has them');
# the sealer is there at the turn of an hour
LogqTest::poll_ok(
	sub { $c->on('p1', "SELECT string_agg(DISTINCT application_name, ',') FROM pg_stat_activity WHERE usename = 'logq'") eq 'logq maintenance' },
	'the connection has a name');

# ---------- sealing ----------

my $day = $c->sql("SELECT date_trunc('day', now()) - interval '2 days'");
$c->sql("INSERT INTO logq.logs (ts, level, service, message, partition) SELECT '$day'::timestamptz + i * interval '1 minute', 'INFO', 'web', 'row ' || i, 'p' || (i % 3 + 1) FROM generate_series(0, 359) i");
LogqTest::poll_ok(
	sub { return 3 == grep { states($_) eq 'sealed,sealed,sealed,sealed,sealed,sealed' } $c->names },
	'segments that are over get sealed');
LogqTest::poll_ok(sub { states('p1', 'upper > now()') =~ /^open(,open)?$/ }, 'others do not');
LogqTest::poll_ok(
	sub { $c->sql("SELECT count(*), sum(rows) FROM logq.catalog_segment WHERE state = 'sealed' AND upper < now() - interval '1 day'") eq '18|360' },
	'the copy knows their rows');
LogqTest::poll_ok(sub { worker('sealer') eq '' }, 'the sealer ends');

# ---------- a late write ----------

$c->sql("INSERT INTO logq.logs (ts, level, service, message, partition) VALUES ('$day'::timestamptz + interval '10 minutes', 'INFO', 'late', 'late', 'p2')");
is($c->sql("SELECT count(*) FROM logq.logs WHERE service = 'late'"), 1, 'a late row is found');
LogqTest::poll_ok(
	sub { $c->sql("SELECT state, rows FROM logq.catalog_segment s JOIN logq.partition p USING (number) WHERE p.server = 'p2' AND lower = '$day'") eq 'sealed|21' },
	'its segment is sealed again and copied');
$c->on('p3', "INSERT INTO logq_store.log (ts, service) VALUES ('$day'::timestamptz + interval '1 minute', 'behind')");
LogqTest::poll_ok(
	sub { $c->sql("SELECT state, rows FROM logq.catalog_segment s JOIN logq.partition p USING (number) WHERE p.server = 'p3' AND lower = '$day'") eq 'sealed|21' },
	'so is one that was written to behind our back');
is($c->sql("SELECT count(*) FROM logq.logs WHERE service = 'behind'"), 1, 'whose row is found');

# ---------- retention ----------

$c->fails("SELECT logq.set_retention('0')", '22023', qr/more than zero/, 'no retention of nothing');
$c->fails("SELECT logq.set_retention('-1 day')", '22023', qr/more than zero/, 'nor of less');
$c->fails("SELECT logq.set_retention('1001 years')", '22023', qr/at most 1000 years/, 'nor of what times do not reach');
$c->fails("SELECT logq.set_retention('1 day', 'nosuch')", '42704', qr/"nosuch" is not a partition/,
	'nor of an unknown partition');
is($c->on('p1', 'SELECT retention IS NULL FROM logq_store.store'), 't', 'which left all as it was');

# somebody reads a segment: it is dropped later, and nobody waits meanwhile
$c->sql("SELECT logq.set_retention('1 day', 'p1')");
LogqTest::poll_ok(sub { states('p1') eq '' }, 'retention drops segments');
LogqTest::poll_ok(
	sub { $c->sql("SELECT count(*) FROM logq.catalog_segment s JOIN logq.partition p USING (number) WHERE p.server = 'p1' AND upper < now() - interval '1 day'") eq '0' },
	'they go from the copy, too');
is($c->sql("SELECT partition, count(*) FROM logq.logs GROUP BY 1 ORDER BY 1"), "p2|121\np3|121",
	'and others stay');
{
	my $reader = $c->session(node => $c->part('p2'));

	$reader->query('BEGIN; SELECT count(*) FROM logq_store.log');
	$c->sql("SELECT logq.set_retention('1 day')");
	is($c->sql("SELECT string_agg(retention::text, ',') FROM logq.partition p JOIN logq.catalog USING (number) WHERE server = 'p1'"),
		'1 day', 'the copy has the retention');
	LogqTest::poll_ok(sub { states('p3') eq '' },
		'segments are dropped although another partition does not get at its own');
	is(states('p2'), 'sealed,sealed,sealed,sealed,sealed,sealed', 'there they stay');
	is($reader->query('COMMIT; SELECT 1'), 1, 'the reader is not disturbed');
	$reader->quit;
}
# it has noted the pause when it ends; before, there is none to take back
LogqTest::poll_ok(sub { worker('sealer') eq '' }, 'the sealer gives up for now');
$node->reload;
LogqTest::poll_ok(sub { states('p2') eq '' }, 'until nobody reads them and the pause is over');
$c->sql('SELECT logq.set_retention(NULL)');
is($c->on('p2', 'SELECT retention IS NULL FROM logq_store.store'), 't', 'no retention');

# ---------- a partition is down ----------

$c->part('p2')->stop('immediate');
LogqTest::poll_ok(sub { status_error('p2') ne '' }, 'a partition that is down is known to be');
ok(confirmed($node, 'p1', 'p3'), 'others are still confirmed');
foreach my $name ('p1', 'p3')
{
	$c->on($name, "SELECT logq_store.make_segment('2024-05-01 00:00+00'); INSERT INTO logq_store.log (ts) VALUES ('2024-05-01 00:00+00')");
}
LogqTest::poll_ok(
	sub { return 2 == grep { states($_, "lower = '2024-05-01 00:00+00'") eq 'sealed' } 'p1', 'p3' },
	'and sealed');
like(status_error('p2'), qr/./, 'it stays so');
$c->fails("SELECT logq.set_retention('99 days')", '08', qr/"p2"[\s\S]*retention had been set on "p1"/,
	'set_retention() says how far it came');
$c->sql("SELECT logq.set_retention(NULL, 'p1')");
$c->part('p2')->start;
ok(confirmed($node, $c->names), 'it is confirmed when it is up again');
is(status_error('p2'), '', 'without an error');
cmp_ok(logged(qr/could not confirm the catalog of partition "p2"/), '<=', 4,
	'the log has a line for each kind of trouble');
LogqTest::poll(sub { logged(qr/catalog of partition "p2" is confirmed again/) });
is(logged(qr/catalog of partition "p2" is confirmed again/), 1, 'and one for its end');

# ---------- a partition hangs ----------

{
	my $pid = $c->on('p3', "SELECT pid FROM pg_stat_activity WHERE application_name = 'logq maintenance'");

	kill 'STOP', $pid;
	ok(confirmed($node, 'p1', 'p2'), 'others are confirmed while one partition hangs');
	LogqTest::poll_ok(sub { logged(qr/"p3": no answer within/) > 0 }, 'which is given up');
	ok(confirmed($node, $c->names), 'and asked over a new connection');
	kill 'CONT', $pid;
}

# ---------- as whom ----------

{
	my $mapping = 'USER MAPPING FOR CURRENT_USER SERVER p1';
	my $options = "OPTIONS (user 'logq', password " . LogqTest::lit($LogqTest::password) . ")";

	$c->sql("ALTER $mapping OPTIONS (SET password 'wr0ng-pa55')");
	LogqTest::poll_ok(sub { status_error('p1') =~ /password authentication failed/ },
		'a wrong password is seen in the status');
	unlike(status_error('p1'), qr/wr0ng/, 'but not the password');
	$c->sql("DROP $mapping");
	LogqTest::poll_ok(
		sub { status_error('p1') =~ /no user mapping for "\w+", the owner of server "p1"/ },
		'so is a missing user mapping');
	ok(confirmed($node, 'p2', 'p3'), 'other partitions do not mind');

	# one who only reads
	$c->on('p1', <<"SQL");
CREATE ROLE reader LOGIN PASSWORD 'r';
GRANT USAGE ON SCHEMA logq_store TO reader;
GRANT SELECT ON ALL TABLES IN SCHEMA logq_store TO reader;
SQL
	$c->sql("CREATE $mapping OPTIONS (user 'reader', password 'r')");
	ok(confirmed($node, 'p1'), 'reading is enough to be confirmed');
	$c->on('p1', "SELECT logq_store.drop_segment(name) FROM logq_store.segment");
	LogqTest::poll_ok(
		sub { logged(qr/could not make segments ahead on partition "p1": .*permission denied/) > 0 },
		'that it is not enough for making segments stands in the log');
	ok(confirmed($node, 'p1'), 'and does no harm');
	$c->sql("DROP $mapping; CREATE $mapping $options");
	LogqTest::poll_ok(sub { states('p1', 'upper > now()') =~ /^open(,open)?$/ },
		'with another mapping the segments are made');
}

# ---------- workers end ----------

{
	my $old = worker('maintenance');

	$c->sql("SELECT pg_terminate_backend($old)");
	LogqTest::poll_ok(sub { my $new = worker('maintenance'); $new ne '' && $new ne $old },
		'a worker that was ended comes back');
	ok(confirmed($node, $c->names), 'and confirms');

	$old = worker('maintenance');
	$c->sql("SELECT pg_cancel_backend($old)");
	ok(confirmed($node, $c->names), 'one that was cancelled goes on');
	is(worker('maintenance'), $old, 'as the same');

	kill 'KILL', $old;
	LogqTest::poll_ok(sub { my $new = worker('maintenance'); $new ne '' && $new ne $old },
		'after a crash it comes back');
	ok(confirmed($node, $c->names), 'and confirms');

	# the launcher
	SKIP:
	{
		skip 'there is no /proc', 6 unless -e '/proc/self/stat';

		my $launcher = launcher();

		$old = worker('maintenance');
		like($launcher, qr/^\d+$/, 'there is a launcher');
		kill 'TERM', $launcher;
		LogqTest::poll_ok(sub { my $new = launcher(); $new ne '' && $new ne $launcher },
			'one that was ended comes back');
		is(worker('maintenance'), $old, 'its worker goes on');
		ok(confirmed($node, $c->names), 'to confirm');
		$c->sql("SELECT pg_terminate_backend($old)");
		LogqTest::poll_ok(sub { my $new = worker('maintenance'); $new ne '' && $new ne $old },
			'and is taken care of by the new one');
		ok(confirmed($node, $c->names), 'which is seen');
	}
}

# ---------- a restart ----------

{
	my $copied = "SELECT string_agg(number || ' ' || changed, ',' ORDER BY number) FROM logq.catalog";
	my $before = $c->sql($copied);
	my $start = time;

	$node->stop('fast');
	cmp_ok(time - $start, '<', 20, 'the coordinator stops in time');
	LogqTest::poll_ok(sub { $c->on('p1', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'") eq '0' },
		'leaving nothing behind');
	$node->start;
	ok(confirmed($node, $c->names), 'after a restart all is confirmed');
	is($c->sql($copied), $before, 'with the copy that was there');
}

# ---------- two coordinators ----------

{
	my $second = LogqTest::start_coordinator('second', 'logq.seal_after = 0');

	$c->add_partition($_, coordinator => $second) foreach $c->names;
	set_databases($second, 'logs');
	ok(confirmed($second, $c->names), 'a second coordinator confirms');
	ok(confirmed($node, $c->names), 'and the first');
	$second->safe_psql('logs', "INSERT INTO logq.logs (ts, service, partition) SELECT '2024-06-01 00:00+00'::timestamptz + i * interval '1 hour', 'two', 'p' || (i % 3 + 1) FROM generate_series(0, 11) i");
	foreach my $on ($node, $second)
	{
		LogqTest::poll_ok(
			sub { $on->safe_psql('logs', "SELECT count(*), sum(rows) FROM logq.catalog_segment WHERE state = 'sealed' AND lower BETWEEN '2024-06-01' AND '2024-06-02'") eq '12|12' },
			# who finds a segment busy leaves its partition alone for a minute
			'both have segments that one of them sealed', 180);
	}
	ok(confirmed($second, $c->names), 'the second confirms still');
	$second->stop('fast');
}

# ---------- partitions come and go ----------

$c->sql("SELECT logq.remove_partition('p3', true)");
LogqTest::poll_ok(sub { $c->sql('SELECT count(*) FROM logq.catalog_status()') eq '2' },
	'a partition that was removed is forgotten');
LogqTest::poll_ok(
	sub { $c->on('p3', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'logq maintenance'") eq '0' },
	'and let go');
$c->sql("SELECT logq.add_partition('p3')");
ok(confirmed($node, $c->names), 'and found again');

# ---------- the extension is dropped under the worker ----------

{
	my $pid = worker('maintenance');
	my $s = $c->session;

	# one that is not over yet must not hang, nor be a deadlock's victim
	$s->query('BEGIN');
	unlike($s->query('DROP EXTENSION logq CASCADE'), qr/ERROR/, 'the extension can be dropped');
	is($s->query('ROLLBACK; SELECT 1'), 1, 'or not');
	ok(confirmed($node, $c->names), 'which is all the same to the worker');
	unlike($s->query('DROP EXTENSION logq CASCADE'), qr/ERROR/, 'it is dropped');
	LogqTest::poll_ok(
		sub { $c->on('p3', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'logq maintenance'") eq '0' },
		'the worker lets partitions go');
	$s->query('CREATE EXTENSION logq');
	$s->quit;
	is($c->sql('SELECT count(*) FROM logq.catalog_status()'), 0, 'the new one knows of no partition');
	foreach my $name ($c->names)
	{
		my $r = $c->try($c->server_sql($name) . "SELECT logq.add_partition('$name')");

		unlike($r->{err}, qr/NOTICE|ERROR/, "adding $name does not tell of the worker");
	}
	ok(confirmed($node, $c->names), 'until they are added');
	is(worker('maintenance'), $pid, 'by the same worker');
	is($c->sql("SELECT count(*) FROM logq.logs WHERE service = 'two'"), 12, 'and the rows are there');
}

# ---------- databases come and go ----------

cmp_ok(logged(qr/database "missing" does not exist/), '<', 60,
	'a database that does not exist is looked for now and then');
$node->safe_psql('postgres', 'CREATE DATABASE missing');
LogqTest::poll_ok(sub { worker('maintenance', 'missing') ne '' }, 'and found when it is made');
$node->safe_psql('postgres', 'DROP DATABASE missing WITH (FORCE)');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = 'missing'"), 0,
	'it can be dropped');
ok(confirmed($node, $c->names), 'which does not concern the other');
set_databases($node, "''");
LogqTest::poll_ok(sub { worker('maintenance') eq '' }, 'a database that is no longer listed loses its worker');
like($c->sql('SELECT count(*) FROM logq.logs'), qr/^\d+$/, 'queries do without');
set_databases($node, 'logs');
ok(confirmed($node, $c->names), 'and gets one again');
$node->stop('fast');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|TRAP|\Q$LogqTest::password\E/,
	'nothing bad stands in the log');

done_testing();
