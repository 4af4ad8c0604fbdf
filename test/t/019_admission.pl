# How many queries and connections there may be at once: who is over the limit
# waits, or is told so; whatever ends a query gives its place to the next.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $n_rows = 200;
my $c = LogqTest->new(
	partitions => 2,
	coordinator_conf => [
		'restart_after_crash = on', 'logq.max_concurrent_queries = 2',
		# the counting of connections shall not depend on when it looks
		"autovacuum = off"
	]);

# With and without a limit of connections
sub reconfigure
{
	my (%settings) = @_;

	$c->coordinator->safe_psql('logs', "ALTER SYSTEM SET $_ = '$settings{$_}'")
	  foreach keys %settings;
	$c->coordinator->reload;
	foreach my $name (keys %settings)
	{
		LogqTest::poll(sub {
			return $c->sql("SELECT setting = '$settings{$name}' FROM pg_settings WHERE name = '$name'") eq 't';
		}) or die "$name is not set";
	}
	# until the one that counts knows
	my $column = join ' AND ', 'true',
	  map { ($_ =~ /queries$/ ? 'query_limit' : 'connection_limit') . " = $settings{$_}" }
	  keys %settings;
	LogqTest::poll(sub { return $c->sql("SELECT $column FROM logq.stat_admission") eq 't'; })
	  or die 'the limit is not in effect';
	return;
}

sub stat_is
{
	my ($columns, $wanted, $name) = @_;
	my $is;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(LogqTest::poll(sub {
		$is = $c->sql("SELECT $columns FROM logq.stat_admission");
		return $is eq $wanted;
	}, 20), $name) or diag("wanted $columns = $wanted, got $is");
	return;
}

# A session in a transaction that has a cursor open
sub holder
{
	my (%opt) = @_;
	my $s = $c->session(%opt);

	$s->query('BEGIN');
	$s->query('DECLARE held CURSOR FOR SELECT service FROM logq.logs ORDER BY ts, id');
	is($s->query('FETCH 1 FROM held'), 's1', 'a cursor is open');
	return $s;
}

my $count = 'SELECT count(*) FROM logq.logs';
my $self_join = 'SELECT count(*) FROM logq.logs a JOIN logq.logs b USING (id)';

$c->sql("INSERT INTO logq.logs (ts, level, service, partition) SELECT '2024-06-01 00:00+00'::timestamptz + i * interval '10 s', 'INFO', 's' || i, 'p' || 1 + i % 2 FROM generate_series(1, $n_rows) i");
is($c->sql($count), $n_rows, 'all rows are there');
stat_is('query_limit, running, waiting, peak, admitted, waited, rejected, connection_limit, connections_reserved',
	'2|0|0|1|1|0|0|0|0', 'one query was counted');

# ---------- queries: the limit ----------

my $a = holder();
my $b = holder();
my $w = $c->session;

stat_is('running, waiting, peak', '2|0|2', 'both places are taken');
{
	my $start = time;
	my $answer = $w->query("SET logq.queue_timeout = '300ms'; $count");

	like($answer, qr/53300.*too many logq queries are running/, 'a third query is turned away');
	like($answer, qr/DETAIL: .*\b2 places.*\b[3-9]\d\d ms/, 'the detail says how many, and how long it waited');
	like($answer, qr/HINT: .*logq\.queue_timeout.*logq\.max_concurrent_queries/, 'the hint says what to do');
	cmp_ok(time - $start, '>', 0.29, 'after it has waited');
	stat_is('running, waiting, waited, rejected', '2|0|1|1', 'which is counted');
	is($c->sql('SELECT wait_ms BETWEEN 290 AND 100000 FROM logq.stat_admission'), 't', 'and the time, too');

	$start = time;
	like($w->query("SET logq.queue_timeout = 0; $count"), qr/53300/, 'without waiting');
	cmp_ok(time - $start, '<', 10, 'at once');
	stat_is('waited, rejected', '1|2', 'it has not waited');
}
like($w->query("EXPLAIN (COSTS off) $count"), qr/LogqScan/, 'EXPLAIN needs no place');
is($w->query('SELECT 1'), 1, 'nor does anything else');
is($a->query($count), $n_rows, 'who has a place may have more scans');
is($a->query($self_join), $n_rows, 'several in one query, too');
is($a->query("DECLARE other CURSOR FOR SELECT service FROM logq.logs ORDER BY ts DESC, id DESC; FETCH 1 FROM other; CLOSE other"),
	"s$n_rows", 'and other cursors');
stat_is('running', 2, 'it has the same one place all the time');

# ---------- what gives a place back ----------

my %ends = (
	'COMMIT' => sub { $_[0]->query('COMMIT'); },
	'ROLLBACK' => sub { $_[0]->query('ROLLBACK'); },
	'CLOSE' => sub { $_[0]->query('CLOSE held'); },
	'an error' => sub { $_[0]->query('SELECT 1 / 0'); },
	'a rollback to a savepoint' => sub {
		$_[0]->query('COMMIT; BEGIN; SAVEPOINT one; DECLARE held CURSOR FOR SELECT * FROM logq.logs; FETCH 1 FROM held');
		$_[0]->query('ROLLBACK TO one');
	},
	'pg_terminate_backend' => sub { $c->sql("SELECT pg_terminate_backend($_[0]->{pid})"); },
	'the end of the session' => sub { $_[0]->quit; });

$b->query('COMMIT');
$b->quit;
foreach my $end (sort keys %ends)
{
	my $s = holder();

	stat_is('running', 2, "$end: both places are taken");
	$w->send("SET logq.queue_timeout = '60s'; $count");
	stat_is('running, waiting', '2|1', "$end: another query waits");
	$ends{$end}->($s);
	is($w->wait(20), $n_rows, "$end: the one who waits gets the place");
	stat_is('running, waiting', '1|0', "$end: and gives it back");
	$s->quit;
}

# the queue
$b = holder();
foreach my $end ('pg_cancel_backend', 'pg_terminate_backend')
{
	my $s = $c->session;

	$s->send("SET logq.queue_timeout = '60s'; $count");
	stat_is('waiting', 1, "$end: a query waits");
	$c->sql("SELECT $end($s->{pid})");
	like($s->wait(20), qr/57014|57P01|session ended/, "$end: ends it");
	stat_is('running, waiting', '2|0', "$end: it waits no more");
	$s->quit;
}
{
	my $s = $c->session;
	my $first = $c->session;

	$s->query("SET logq.queue_timeout = '60s'");
	$s->query("SET statement_timeout = '300ms'");
	like($s->query($count), qr/57014.*statement timeout/, 'statement_timeout ends it, too');
	stat_is('running, waiting', '2|0', 'it waits no more');
	LogqTest::poll(sub { return $s->query('RESET statement_timeout') eq ''; });

	# the order
	$first->query("SET logq.queue_timeout = '60s'; BEGIN");
	$first->query('DECLARE held CURSOR FOR SELECT service FROM logq.logs ORDER BY ts, id');
	$first->send('FETCH 1 FROM held');
	stat_is('waiting', 1, 'one waits');
	$s->send($count);
	stat_is('waiting', 2, 'two wait');
	$b->query('COMMIT');
	is($first->wait(20), 's1', 'who came first goes first');
	stat_is('running, waiting', '2|1', 'the other one waits on');

	# a limit that is raised
	reconfigure('logq.max_concurrent_queries' => 3);
	is($s->wait(20), $n_rows, 'one who waits hears that the limit was raised');
	reconfigure('logq.max_concurrent_queries' => 2);
	$first->query('COMMIT');
	$_->quit foreach $s, $first;
}
$a->query('COMMIT');
stat_is('running, waiting', '0|0', 'nobody has a place');
$_->quit foreach $a, $b;

# many at once: each is answered, and never more than two run
{
	my @s = map { $c->session } 1 .. 8;
	my $max = 0;
	my $wrong = 0;

	$_->query("SET logq.queue_timeout = '60s'") foreach @s;
	$_->send(join ';', ($count) x 15) foreach @s;
	for my $i (1 .. 20)
	{
		my $running = $c->sql('SELECT running FROM logq.stat_admission');

		$max = $running if $running > $max;
	}
	foreach my $s (@s)
	{
		$wrong++ if ($s->wait(60) // '') ne join "\n", ($n_rows) x 15;
		$s->quit;
	}
	is($wrong, 0, 'eight sessions that share two places are all answered');
	cmp_ok($max, '<=', 2, 'two run at once');
	stat_is('running, waiting', '0|0', 'nobody has a place');
}

# ---------- queries: the limit of a role ----------

$c->sql(<<'SQL');
CREATE ROLE app LOGIN;
GRANT USAGE ON SCHEMA logq TO app;
GRANT SELECT ON logq.logs TO app;
ALTER ROLE app SET logq.max_concurrent_queries_per_role = 1;
SQL
foreach my $name ($c->names)
{
	$c->sql("CREATE USER MAPPING FOR app SERVER $name OPTIONS (user 'logq', password "
		  . LogqTest::lit($LogqTest::password) . ", password_required 'false')");
}
{
	my $app = holder(user => 'app');
	my $second = $c->session(user => 'app');
	my $answer = $second->query("SET logq.queue_timeout = '100ms'; $count");
	my $start;

	like($answer, qr/53300.*role "app"/, 'a role has its own limit');
	like($answer, qr/DETAIL: .*\b1 at a time/, 'the detail says which');
	like($answer, qr/HINT: .*logq\.max_concurrent_queries_per_role/, 'the hint names it');
	like($second->query('SET logq.max_concurrent_queries_per_role = 10'), qr/42501/,
		'the role cannot raise it');
	like($second->query('ALTER ROLE app SET logq.max_concurrent_queries_per_role = 10'), qr/42501/,
		'not for later sessions either');
	like($second->query('SELECT * FROM logq.stat_admission'), qr/42501/, 'nor may it see the statistics');

	$second->send("SET logq.queue_timeout = '60s'; $count");
	stat_is('running, waiting', '1|1', 'it waits');
	$start = time;
	is($c->sql($count), $n_rows, 'others do not wait behind it');
	cmp_ok(time - $start, '<', 30, 'at all');
	stat_is('running, waiting', '1|1', 'it waits on');
	$app->query('COMMIT');
	is($second->wait(20), $n_rows, 'until its own role has a place');
	$_->quit foreach $app, $second;

	$c->sql('GRANT EXECUTE ON FUNCTION logq.admission_status() TO app');
	$c->gives('SELECT running, waiting FROM logq.stat_admission', '0|0',
		'who may execute the function may read the view', user => 'app');
}

# ---------- connections ----------

# All that is counted, after a while
sub nothing_left
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	stat_is('running, waiting, connections, connections_reserved, connections_waiting',
		'0|0|0|0|0', $name);
	return;
}

# Several sessions do something a number of times; never are there more
# connections than the limit allows
sub at_once
{
	my ($n, $times, $sql, $wanted, $limit, $name) = @_;
	my @s = map { $c->session } 1 .. $n;
	my $all = join "\n", ($wanted) x ($wanted eq '' ? 0 : $times);
	my $max = 0;
	my @wrong;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$_->query("SET logq.queue_timeout = '60s'") foreach @s;
	$_->send(join ";\n", ($sql) x $times) foreach @s;
	for my $i (1 .. 30)
	{
		my $there = $c->sql('SELECT connections + connections_reserved FROM logq.stat_admission');

		$max = $there if $there > $max;
	}
	foreach my $s (@s)
	{
		my $answer = $s->wait(90) // 'no answer';

		push @wrong, $answer if $answer ne $all;
	}
	is(scalar(@wrong), 0, "$name: all are right") or diag($wrong[0]);
	cmp_ok($max, '<=', $limit * 2, "$name: there are no more connections than there may be");
	stat_is('running, connections_reserved, connections_waiting', '0|0|0', "$name: nothing is left reserved");
	return @s;
}

$w->quit;
nothing_left('without sessions there are no connections');
reconfigure('logq.max_concurrent_queries' => 500);
foreach my $limit (2, 4)
{
	my @idle;
	my $what = "limit $limit";

	reconfigure('logq.max_connections_per_partition' => $limit);
	push @idle, at_once(5, 10, $self_join, $n_rows, $limit, "$what: self-joins");
	# some of these sessions have kept connections, and do nothing
	push @idle, at_once(2, 5, $self_join, $n_rows, $limit, "$what: self-joins beside idle sessions");
	push @idle, at_once(4, 10, $count, $n_rows, $limit, "$what: single scans");
	push @idle, at_once(4, 8, "INSERT INTO logq.logs (ts, level, service) VALUES ('2024-06-01 02:00+00', 'NEW', 'x' || random())",
		'', $limit, "$what: INSERTs");
	is($c->sql("SELECT count(*) FROM logq.logs WHERE level = 'NEW'"), 32, "$what: all rows are there");
	push @idle, at_once(1, 1, $self_join, $n_rows + 32, $limit, "$what: another self-join beside all these");

	# an idle session may not keep more than the rest can do without
	$c->sql("SET logq.queue_timeout = 0; $self_join");
	cmp_ok($c->sql('SELECT connections FROM logq.stat_admission'), '<=', $limit,
		"$what: idle sessions have no more than half of all");
	foreach my $name ($c->names)
	{
		LogqTest::poll_ok(sub {
			return $c->on($name, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'") <= $limit / 2;
		}, "$what: $name agrees", 10);
	}
	$_->quit foreach @idle;
	nothing_left("$what: sessions that end leave nothing");
	foreach my $name ($c->names)
	{
		$c->on($name, "DELETE FROM logq_store.log WHERE level = 'NEW'");
	}
}

reconfigure('logq.max_connections_per_partition' => 2);
{
	my $s = holder();
	my $other = holder();
	my $third = $c->session;
	my ($start, $answer, @answers);

	$third->query("SET logq.queue_timeout = '200ms'");
	$answer = $third->query($count);
	like($answer, qr/53300.*too many connections to partition "p[12]"/, 'no connection is left for a third session');
	like($answer, qr/DETAIL: .*\b1 .*\b2 .* ms/, 'the detail says how many there may be');
	like($answer, qr/HINT: .*logq\.max_connections_per_partition/, 'the hint says what to raise');
	stat_is('connections, connections_reserved, connections_rejected', '4|0|1', 'that is counted');
	is($third->query("SELECT count(*) FROM logq.logs WHERE id = -5"), 0, 'a query that asks no partition needs none');

	# both hold some and want more
	$_->query("SET logq.queue_timeout = '700ms'") foreach $s, $other;
	$start = time;
	$_->send($count) foreach $s, $other;
	@answers = map { $_->wait(20) // 'no answer' } $s, $other;
	cmp_ok(time - $start, '<', 15, 'two that hold some and want more do not wait for ever');
	is(scalar(grep { !/^$n_rows$|53300/ } @answers), 0, 'each fails, or is right');
	cmp_ok(scalar(grep { /53300.*[\s\S]*holds others/ } @answers), '>=', 1, 'one gives way');
	$_->query('ROLLBACK') foreach $s, $other;
	stat_is('connections_reserved, connections_waiting', '0|0', 'and nothing is left');

	# one who waits, and others who give back
	$s->query('BEGIN; DECLARE held CURSOR FOR SELECT service FROM logq.logs ORDER BY ts, id; FETCH 1 FROM held');
	$third->send("SET logq.queue_timeout = '60s'; $self_join");
	stat_is('connections_waiting', 1, 'a self-join waits for two at once');
	$other->send("SET logq.queue_timeout = '60s'; $count");
	stat_is('connections_waiting', 2, 'a newcomer who could go does not come before it');
	$s->query('COMMIT');
	is($third->wait(20), $n_rows, 'the self-join is answered');
	is($other->wait(20), $n_rows, 'and then the other');

	# ends of those who wait
	$s->query('BEGIN; DECLARE held CURSOR FOR SELECT service FROM logq.logs ORDER BY ts, id; FETCH 1 FROM held');
	$third->send($self_join);
	stat_is('connections_waiting', 1, 'one waits again');
	$c->sql("SELECT pg_cancel_backend($third->{pid})");
	like($third->wait(20), qr/57014/, 'it is cancelled');
	stat_is('connections_waiting', 0, 'and waits no more');
	$third->send($self_join);
	stat_is('connections_waiting', 1, 'one waits again');
	$c->sql("SELECT pg_terminate_backend($third->{pid})");
	stat_is('connections_waiting', 0, 'its backend ends, and it waits no more');
	$third->quit;
	$other->send($self_join);
	stat_is('connections_waiting', 1, 'one waits again');
	reconfigure('logq.max_connections_per_partition' => 3);
	is($other->wait(20), $n_rows, 'one who waits hears that the limit was raised');
	reconfigure('logq.max_connections_per_partition' => 2);
	$s->query('COMMIT');

	# more than there can be
	$start = time;
	$other->query("SET logq.queue_timeout = '60s'");
	$answer = $other->query("$self_join JOIN logq.logs c USING (id)");
	like($answer, qr/53300.*needed at once/, 'a query that needs more than there may be is refused');
	like($answer, qr/DETAIL: .*\b3 .*\b2 /, 'the detail says how many');
	cmp_ok(time - $start, '<', 10, 'at once');
	is($other->query($count), $n_rows, 'the next query is right');

	# not as many partitions are asked in each run of a scan
	is($other->query("SELECT sum((SELECT count(*) FROM logq.logs WHERE partition = p)) FROM unnest(ARRAY['p1', 'p2', 'p1']) p"),
		$n_rows * 1.5, 'runs that ask one partition each');
	stat_is('connections_reserved, connections_waiting', '0|0', 'nothing is left');

	# as another user: what the pool has is of no use
	$c->sql('CREATE ROLE owner_of_view; GRANT USAGE ON SCHEMA logq TO owner_of_view; GRANT SELECT ON logq.logs TO owner_of_view; CREATE VIEW a_view AS SELECT * FROM logq.logs; ALTER VIEW a_view OWNER TO owner_of_view');
	$c->sql("CREATE USER MAPPING FOR owner_of_view SERVER $_ OPTIONS (user 'logq', password "
		  . LogqTest::lit($LogqTest::password) . ", password_required 'false')")
	  foreach $c->names;
	is($other->query("$count; SELECT count(*) FROM a_view; $count; SELECT count(*) FROM a_view"),
		join("\n", ($n_rows) x 4), 'queries as two users in turn');
	stat_is('connections <= 4', 't', 'are within the limit');
	$_->quit foreach $s, $other;
}
nothing_left('sessions that end leave nothing');

# interrupted at any moment, waiting or not, nobody keeps anything
reconfigure('logq.max_connections_per_partition' => 3, 'logq.max_concurrent_queries' => 4);
{
	my @s = map { $c->session } 1 .. 8;
	my ($cancelled, $wrong) = (0, '');

	srand 19;
	foreach my $s (@s)
	{
		$s->query("SET logq.queue_timeout = '60s'");
		$s->send(join ";\n", map {
			'SET statement_timeout = ' . (1 + int rand 40) . ";\n"
			  . ($count, $self_join, "BEGIN\\;\nINSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 02:00+00', 'NEW');\nROLLBACK",
				# in one message with BEGIN: it may be cancelled, too
				"BEGIN\\;\nDECLARE held CURSOR FOR SELECT service FROM logq.logs ORDER BY ts, id\\;\nMOVE 1 FROM held;\n$count;\nCOMMIT")[rand 4];
		} 1 .. 30);
	}
	foreach my $s (@s)
	{
		foreach my $line (split /\n/, $s->wait(90) // 'no answer')
		{
			if ($line =~ /57014|statement timeout/) { $cancelled++; }
			elsif ($line !~ /^$n_rows$|25P02|^LOCATION|^WARNING:  25P01/) { $wrong = $line; }
		}
	}
	is($wrong, '', "240 transactions, in which $cancelled statements are cancelled, are right or fail");
	stat_is('running, waiting, connections_reserved, connections_waiting', '0|0|0|0', 'nothing is left');
	foreach my $s (@s)
	{
		# which takes time, too
		LogqTest::poll(sub { return $s->query('RESET statement_timeout') eq ''; });
		is($s->query($self_join), $n_rows, 'the next query is right');
	}
	stat_is('connections <= 6', 't', 'the sessions have few connections');
	$_->quit foreach @s;
}
nothing_left('and none when they have ended');
reconfigure('logq.max_concurrent_queries' => 500);

# a transaction reads what it has written over the connection it has
reconfigure('logq.max_connections_per_partition' => 1);
{
	my $s = $c->session;

	$s->query("SET logq.queue_timeout = '500ms'; BEGIN");
	is($s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 02:00+00', 'NEW', 'p1'), ('2024-06-01 02:00+00', 'NEW', 'p2')"),
		'', 'limit 1: a transaction writes to all partitions');
	is($s->query("SELECT count(*) FROM logq.logs WHERE level = 'NEW'"), 2, 'limit 1: and reads from them');
	like($c->try("SET logq.queue_timeout = '100ms'; $count")->{state}, qr/53300/, 'limit 1: meanwhile nobody else can');
	$s->query('ROLLBACK');
	is($c->sql($count), $n_rows, 'limit 1: then others can');
	is($s->query("SAVEPOINT x; INSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 02:00+00', 'NEW')") =~ /25P01/ ? 1 : 0,
		1, 'limit 1: a savepoint needs a transaction');
	$s->query("BEGIN; SAVEPOINT one; INSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 02:00+00', 'NEW'); ROLLBACK TO one; INSERT INTO logq.logs (ts, level) VALUES ('2024-06-01 02:00+00', 'OLD'); COMMIT");
	is($s->query("SELECT count(*) FILTER (WHERE level = 'NEW'), count(*) FILTER (WHERE level = 'OLD') FROM logq.logs"),
		'1|1', 'limit 1: savepoints');
	like($s->query("INSERT INTO logq.logs (ts, level, service) SELECT ts, 'COPY', service FROM logq.logs"),
		qr/53300.*needed at once/, 'limit 1: what reads and writes in one statement needs two');
	$s->quit;
}
nothing_left('limit 1: nothing is left');

# ---------- the end of a backend that cannot clean up ----------

reconfigure('logq.max_connections_per_partition' => 2, 'logq.max_concurrent_queries' => 2);
{
	my $s = holder();
	my $other = holder();
	my $third = $c->session;

	$third->send("SET logq.queue_timeout = '60s'; $count");
	stat_is('running, waiting, connections', '2|1|4', 'two queries run and one waits');
	kill 'KILL', $s->{pid};
	like($third->wait(20) // 'no answer', qr/session ended|57P0/, 'all sessions end');
	LogqTest::poll_ok(sub { return $c->try('SELECT 1')->{out} eq '1'; }, 'after a crash the server is back');
	nothing_left('and nothing is counted');
	is($c->sql($self_join), $c->sql($count), 'queries are right');
	$_->quit foreach $s, $other, $third;
	nothing_left('and leave nothing');
	stat_is('query_limit, connection_limit', '2|2', 'the limits are those of the configuration');
}

done_testing();
