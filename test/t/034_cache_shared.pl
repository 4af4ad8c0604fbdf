# Two coordinators with one Redis: what one has stored the other one reads, and
# each answers like a plain table with the same rows, whoever writes, seals and
# drops meanwhile: strict queries at once, others within logq.catalog_max_age.
#
# The second one calls partitions by other names: what the first one knows as
# "p1" is its "p2", and the other way round.
#
#	LOGQ_SEED		repeats a run
#	LOGQ_ROUNDS		number of rounds, 10

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqRedis;
use LogqRows qw(chance pick between);
use LogqTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{LOGQ_SEED} // int(time) % 1000000;
my $rounds = $ENV{LOGQ_ROUNDS} // 10;

diag("seed $seed: LOGQ_SEED=$seed LOGQ_ROUNDS=$rounds repeats this run");
srand $seed;

my $redis = LogqRedis->new;
my @conf = ('logq.cache_min_cost = 0', "logq.databases = 'logs'", "logq.seal_after = '30d'",
	# the machine may be busy
	"logq.cache_timeout = '5s'");
my $c = LogqTest->new(partitions => 3, coordinator_conf => \@conf);
my $second = LogqTest::start_coordinator('second', @conf, 'logq.hot_cache_size = 1');
my %node = (first => $c->coordinator, second => $second);
my @names = qw(first second);

$c->add_partition($_->[0], coordinator => $second, node => $c->part($_->[1]))
  foreach [ 'p1', 'p2' ], [ 'p2', 'p1' ], [ 'p3', 'p3' ];
$_->safe_psql('logs', $redis->server_sql . 'CREATE TABLE local_logs AS SELECT * FROM logq.logs') foreach values %node;

# ---------- rows ----------

my $hours = 8;
my $start = "'2024-06-01 00:00+00'::timestamptz";

# SQL that gives rows n of this level in random hours
sub rows
{
	my ($level, $n) = @_;
	my $r = int rand 1_000_000;

	return <<"SQL";
SELECT $start + (hashint4($r + i) & 1023) % $hours * interval '1 hour'
		+ (hashint4(7 * i + $r) & 65535) % 3600 * interval '1 second',
	(ARRAY['INFO', 'WARN', 'ERROR'])[1 + i % 3], (ARRAY['web', 'auth', 'payment', 'cron'])[1 + i % 4],
	'$level ' || i % 50 || ' of $r', md5(($r + i)::text), jsonb_build_object('n', i % 17, 'req', 'r' || i % 23)
FROM generate_series(1, $n) i
SQL
}

my $columns = '(ts, level, service, message, trace_id, attrs)';

# through one of the coordinators, or past them
sub write_rows
{
	my ($where, $n) = @_;
	my $select = rows('row', $n);

	$c->sql("SET logq.route_by = round_robin; INSERT INTO logq.logs $columns $select") if $where eq 'first';
	$second->safe_psql('logs', "SET logq.route_by = round_robin; INSERT INTO logq.logs $columns $select")
	  if $where eq 'second';
	$c->on($where, <<"SQL") if $where =~ /^p/;
CREATE TEMP TABLE t AS SELECT * FROM ($select) x$columns;
SELECT count(logq_store.make_segment(ts)) FROM t;
INSERT INTO logq_store.log $columns SELECT * FROM t;
SQL
	return;
}

sub seal_some
{
	my ($who, $share) = @_;

	# its copy of the catalogs may lack the newest segments yet
	$node{$who}->safe_psql('logs', 'SELECT logq.refresh_catalog()');
	foreach my $name ($c->names)
	{
		my @segments = grep { chance($share) } split /\n/,
		  $node{$who}->safe_psql('logs', "SELECT name FROM logq.segments WHERE partition = '$name' AND state = 'open'"
			  . " AND lower < '2024-07-01' ORDER BY lower");

		$node{$who}->safe_psql('logs', "SELECT logq.seal('$name', '$_')") foreach @segments;
	}
	return;
}

# The plain tables get what is there, and nothing is lost
sub take_local
{
	my ($name) = @_;
	my $rows = 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$rows += $c->on($_, 'SELECT count(*) FROM logq_store.log') foreach $c->names;
	foreach my $who (@names)
	{
		is($node{$who}->safe_psql('logs', <<'SQL'), $rows, "$name: the $who one has all rows");
SET logq.cache = off; SET logq.strict_pruning = on;
TRUNCATE local_logs; INSERT INTO local_logs SELECT * FROM logq.logs;
ANALYZE local_logs; SELECT count(*) FROM local_logs
SQL
	}
	is($c->sql('SELECT sum(hashtext((ts, level, service, message, trace_id, attrs::text, id)::text)) FROM local_logs'),
		$second->safe_psql('logs',
			'SELECT sum(hashtext((ts, level, service, message, trace_id, attrs::text, id)::text)) FROM local_logs'),
		"$name: and both have the same");
	return;
}

# ---------- queries ----------

sub some_time { return "($start + interval '" . between(-30, 60 * $hours + 30) . " minutes')"; }

sub condition
{
	my @list = (
		"t.level = '" . pick(qw(INFO WARN ERROR)) . "'", "t.service IN ('web', 'cron')", "t.service <> 'auth'",
		"t.message LIKE '% " . between(0, 99) . "%'", "t.attrs->>'n' = '" . between(0, 18) . "'", "t.partition <> 'p1'",
		"t.partition = '" . pick(qw(p1 p2 p3)) . "'", "t.partition || t.level > 'p2E'", "t.ts >= " . some_time(),
		"t.ts < " . some_time(), "t.ts BETWEEN " . some_time() . ' AND ' . some_time(), 'true');

	return join ' AND ', map { pick(@list) } 1 .. between(1, 2);
}

sub random_query
{
	my $where = 'WHERE ' . condition();
	my $d = pick('', ' DESC');
	my $order = "ORDER BY t.ts$d, t.id$d";
	my $limit = pick(1, 5, 40, 200);

	return pick(
		"SELECT t.* FROM \@T\@ t $where $order",
		"SELECT t.* FROM \@T\@ t $where $order LIMIT $limit",
		"SELECT t.partition, t.id, t.message FROM \@T\@ t $where $order LIMIT $limit",
		"SELECT t.partition || ':' || t.id AS x, t.attrs FROM \@T\@ t $where ORDER BY t.id",
		"SELECT t.partition, t.service, count(*), max(t.ts), sum(length(t.message)) FROM \@T\@ t $where GROUP BY 1, 2 ORDER BY 1, 2",
		"SELECT t.partition || t.level AS k, count(*), sum((t.attrs->>'n')::int) FROM \@T\@ t $where GROUP BY 1 ORDER BY 1",
		"SELECT t.level, count(*) FROM \@T\@ t $where GROUP BY 1 ORDER BY 1",
		"SELECT date_bin('10 minutes', t.ts, 'epoch') AS k, t.attrs->>'req' AS r, count(*), min(t.partition) FROM \@T\@ t $where GROUP BY 1, 2 ORDER BY 1, 2",
		"SELECT count(*), count(t.partition), max(t.partition), sum(t.id % 1000) FROM \@T\@ t $where");
}

my %session = map {
	my $who = $_;

	map { ("$who $_" => $c->session(node => $node{$who})) } 'strict', 'usual'
} @names;
my %cached;

$session{"$_ strict"}->query('SET logq.strict_pruning = on') foreach @names;

sub ask
{
	my ($session, $sql) = @_;
	my $answer = $session{$session}->query($sql =~ s/\@T\@/logq.logs/gr);

	$cached{$session} += $session{$session}->query('SELECT cached FROM logq.last_query()');
	return $answer;
}

sub local_answer
{
	my ($who, $sql) = @_;

	return $session{"$who strict"}->query($sql =~ s/\@T\@/local_logs/gr);
}

my @wrong;

# Both answer like the plain table: strict sessions at once, the others soon
sub compare
{
	my ($what, @sql) = @_;

	foreach my $sql (@sql)
	{
		foreach my $who (chance(0.5) ? @names : reverse @names)
		{
			my $wanted = local_answer($who, $sql);
			my $answer = ask("$who strict", $sql);

			push @wrong, "$what: $who, strict: $sql" if $answer ne $wanted;
			LogqTest::poll(sub { return ($answer = ask("$who usual", $sql)) eq $wanted; }, 10)
			  or push @wrong, "$what: $who: $sql";
		}
	}
	return;
}

# ---------- rounds ----------

write_rows('first', 2000);
write_rows('second', 1000);
write_rows('p1', 500);
seal_some('first', 1);
is($c->on($_, "SELECT count(*) FROM logq_store.segment WHERE state = 'open' AND lower < '2024-07-01'"), 0, "all of $_ is sealed")
  foreach $c->names;
take_local('in the beginning');

# the same questions again and again, and some of their own
my @standing = map { random_query() } 1 .. 25;

compare('cold', @standing);
{
	my %before = %cached;

	compare('warm', @standing);
	cmp_ok($cached{$_}, '>', $before{$_} // 0, "hits: $_") foreach sort keys %session;

	# What only one of them has asked.  A session that has met a new version of a
	# catalog does not look in Redis until its coordinator has a copy: go on for a
	# while, if need be.
	foreach ([ 'first', 'second' ], [ 'second', 'first' ])
	{
		my ($asker, $other) = @$_;
		my $hits = sub { return $node{$other}->safe_psql('logs', "SELECT hits FROM logq.stat_cache WHERE level = 'redis'"); };
		my $found = 0;
		my $end = time + 60;

		while ($found <= 20 && time < $end)
		{
			my @new = grep { /GROUP BY|LIMIT/ } map { random_query() } 1 .. 30;
			my $had;

			ask("$asker strict", $_) foreach @new;
			$had = $hits->();
			push @wrong, map { "shared: $_" } grep { ask("$other strict", $_) ne local_answer($other, $_) } @new;
			$found += $hits->() - $had;
		}
		cmp_ok($found, '>', 20, "the $other one reads from Redis what the $asker one has stored");
	}
}
ok(!@wrong, 'all answers are right so far') or diag(join "\n", @wrong);
Test::More->builder->is_passing
  or diag(map { $_->name . ": " . $_->safe_psql('logs', 'SELECT * FROM logq.stat_cache') . "\n" } values %node);

foreach my $round (1 .. $rounds)
{
	my @what;

	foreach (1 .. between(1, 3))
	{
		my $w = pick(qw(first second past past seal seal drop flush));

		if ($w eq 'first' || $w eq 'second') { write_rows($w, between(1, 60)); }
		elsif ($w eq 'past') { write_rows(pick($c->names), between(1, 20)); }
		elsif ($w eq 'seal') { seal_some(pick(@names), 0.6); }
		elsif ($w eq 'flush') { chance(0.5) ? $redis->command('FLUSHALL') : $redis->restart; }
		elsif ($w eq 'drop')
		{
			my $name = pick($c->names);
			my @segments = split /\n/, $c->on($name, "SELECT name FROM logq_store.segment WHERE lower < '2024-07-01' ORDER BY lower");

			$c->on($name, "SELECT logq_store.drop_segment('" . pick(@segments) . "')") if @segments > 4;
		}
		push @what, $w;
	}
	# strict ones must know at once, before anybody else has looked
	take_local(join ', ', @what) if chance(0.3);
	{
		my $asked = "SELECT count(*), sum(hashtext(t.message)) FROM \@T\@ t WHERE t.message <> ''";
		my $rows = 0;

		$rows += $c->on($_, "SELECT count(*) FROM logq_store.log WHERE message <> ''") foreach $c->names;
		foreach my $who (@names)
		{
			my ($n) = split /\|/, ask("$who strict", $asked);

			push @wrong, "@what: $who, strict: $n rows of $rows" if $n != $rows;
		}
	}
	take_local(join ', ', @what);
	compare("round $round: @what", (map { pick(@standing) } 1 .. 8), map { random_query() } 1 .. 3);
}
ok(!@wrong, "each answer of $rounds rounds is right") or diag(join "\n", @wrong[ 0 .. ($#wrong < 9 ? $#wrong : 9) ]);

# ---------- beside writers ----------

@wrong = ();
{
	my $noise = sub {
		my ($table, $before) = @_;

		return <<"SQL";
DO \$\$
DECLARE
	at timestamptz;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN EXISTS (SELECT FROM enough);
		at := $start + i % $hours * interval '1 hour' + i % 3000 * interval '1 second';
		$before
		INSERT INTO $table $columns VALUES (at, 'NOISE', 'noise', 'noise ' || i, md5(i::text), '{"n": "noise"}');
		COMMIT;
	END LOOP;
END \$\$
SQL
	};
	my %writer = (first => $c->session, second => $c->session(node => $second), p2 => $c->session(node => $c->part('p2')));
	my %sealer = map { $_ => $c->session(node => $node{$_}) } @names;
	my $seal = "SELECT count(*) >= 0 FROM logq.seal(before => '2024-07-01')";
	my $own = 0;
	my $end = time + 15;
	my $n = 0;

	take_local('before writers');
	$_->query('CREATE TABLE enough (yes boolean)') foreach values %writer;
	$_->safe_psql('logs', 'CREATE VIEW quiet AS SELECT * FROM logq.logs WHERE level <> \'NOISE\'') foreach values %node;
	$writer{$_}->send($noise->('logq.logs', '')) foreach @names;
	$writer{p2}->send($noise->('logq_store.log', 'PERFORM logq_store.make_segment(at);'));
	$sealer{$_}->send($seal) foreach @names;
	while (time < $end || $n < 10)
	{
		my $sql = chance(0.7) ? pick(@standing) : random_query();
		my $mark = 'own' . ++$own;
		my $where = pick('first', 'second', 'past');
		my $at = "$start + interval '" . between(0, 60 * $hours - 1) . " minutes'";
		my $find = "SELECT count(*) FROM logq.logs WHERE service = '$mark'";
		my @found;

		$n++;
		foreach my $who (@names)
		{
			my $wanted = local_answer($who, $sql);

			foreach my $how ('strict', 'usual')
			{
				my $answer = $session{"$who $how"}->query($sql =~ s/\@T\@/quiet/gr);

				push @wrong, "$who, $how: $sql: " . substr($answer, 0, 3000) . " WANTED " . substr($wanted, 0, 3000) if $answer ne $wanted;
			}
			if (defined(my $answer = $sealer{$who}->wait(0.01)))
			{
				push @wrong, "seal: $answer" if $answer !~ /^t\b/m;
				$sealer{$who}->send($seal);
			}
		}
		# none is cached, then there is one
		push @found, grep { $_ ne '0' } map { $session{$_}->query($find) } sort keys %session;
		$node{$where}->safe_psql('logs', "INSERT INTO logq.logs $columns VALUES ($at, 'NOISE', '$mark', '', '', '{}')")
		  if $where ne 'past';
		$c->on('p3', "SELECT logq_store.make_segment($at); INSERT INTO logq_store.log $columns VALUES ($at, 'NOISE', '$mark', '', '', '{}')")
		  if $where eq 'past';
		push @found, grep { $_ ne '1' } map { $session{"$_ strict"}->query($find) } @names;
		push @found, "$where, not at once" if $where ne 'past' && $session{"$where usual"}->query($find) ne '1';
		foreach my $who (@names)
		{
			LogqTest::poll(sub { return $session{"$who usual"}->query($find) eq '1'; }, 10) or push @found, "$who, usual";
		}
		push @wrong, "$mark, $where: @found" if @found;
	}
	$_->safe_psql('logs', 'INSERT INTO enough VALUES (true)') foreach values %node, $c->part('p2');
	foreach (sort keys %writer)
	{
		my $answer = $writer{$_}->wait(60) // 'no end';

		push @wrong, "writer $_: $answer" if $answer ne '';
	}
	$sealer{$_}->wait(120) foreach @names;
	ok(!@wrong, "$n answers beside writers are right, and each of $own rows is found as soon as it should be")
	  or diag(join "\n", @wrong[ 0 .. ($#wrong < 9 ? $#wrong : 9) ]);
	$_->quit foreach values %writer, values %sealer;
}
cmp_ok($cached{$_}, '>', 500, "$cached{$_} segments from the cache: $_") foreach sort keys %session;
is($_->safe_psql('logs', "SELECT sum(damaged) FROM logq.stat_cache"), 0, 'nothing was damaged') foreach values %node;
$_->quit foreach values %session;
$c->quiet('nothing is left on the partitions');
done_testing();
