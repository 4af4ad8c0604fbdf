# Names of hosts that are slow to look up, or fail, or change, hold up nobody
# but who needs them, and nobody for longer than connecting may take.
#
# The coordinator has a resolver that does what the file $names says, see
# test/data/slow_getaddrinfo.c.  Partitions are reached through proxies, which
# listen on 127.0.0.1 alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqProxy;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# "at once", on a machine that may have other things to do
my $at_once = 2;
my $rows_each = 1000;
my $all = 3 * $rows_each;
my $count = 'SELECT count(*) FROM logq.logs';

my $dir = PostgreSQL::Test::Utils::tempdir();
my $names = "$dir/names";
my $preload = "$dir/slow_getaddrinfo.so";

is(system($ENV{CC} // 'cc', '-shared', '-fPIC', '-O1', '-Wall', '-o', $preload,
		"$FindBin::Bin/../data/slow_getaddrinfo.c", '-ldl'),
	0, 'the resolver for tests compiles');
chmod 0755, $dir;

my %known;

sub set_names
{
	my (%change) = @_;

	%known = (%known, %change);
	open my $f, '>', "$names.new" or die $!;
	print $f "$_ $known{$_}\n" foreach sort keys %known;
	close $f or die $!;
	rename "$names.new", $names or die $!;
	return;
}

# A name of its own that hangs, for p2: what was silent once is not asked again
# for a while
my $hanging = 0;

sub hang_p2
{
	my $name = 'hang' . ++$hanging . '.test';

	set_names($name => 'hang');
	name_p2($name);
	return $name;
}

# How often has a name been looked up?
sub look_ups
{
	my ($name) = @_;

	return -e "$names.log"
	  ? scalar grep { $_ eq $name } split /\n/, slurp_file("$names.log")
	  : 0;
}

my $c = LogqTest->new(partitions => 3,
	coordinator_conf => [ 'restart_after_crash = on' ]);
my %proxy = map { $_ => LogqProxy->new(node => $c->part($_)) } $c->names;
my $program;

# Start a node with the resolver
sub restart
{
	my ($node) = @_;
	# after that of sanitizers
	local $ENV{LD_PRELOAD} = join ' ', $ENV{LOGQ_PRELOAD} // (), $preload;
	local $ENV{LOGQ_TEST_NAMES} = $names;

	$node->restart;
	return;
}

# The children of a process, zombies among them; or, without one, all programs
# that look up names for the servers of this test
sub programs
{
	my ($parent) = @_;
	my @found;

	foreach my $proc (glob '/proc/[0-9]*')
	{
		my $stat = eval { slurp_file("$proc/stat") } // next;

		$stat =~ /^(\d+) \((.*)\) (\S) (\d+)/s or next;
		my ($pid, $name, $state, $ppid) = ($1, $2, $3, $4);

		if (defined $parent)
		{
			push @found, "$pid $name $state" if $ppid == $parent;
		}
		elsif ((readlink("$proc/exe") // '') eq $program)
		{
			push @found, "$pid $name $state";
		}
	}
	return @found;
}

sub none_left
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub { return !programs(); }, "$what: no program is left", 10)
	  or diag(explain([ programs() ]));
	return;
}

# Send the coordinator to p2 by a name
sub name_p2
{
	my ($host, %opt) = @_;
	my $port = $opt{port} // $proxy{p2}->port;

	$c->sql("ALTER SERVER p2 OPTIONS (SET host "
		  . LogqTest::lit($host) . ", SET port '$port')");
	return;
}

sub fds
{
	my ($pid) = @_;

	# those of tables come and go as PostgreSQL likes
	return scalar grep { (readlink // '') !~ m{/(?:base/\d+|global|pg_\w+)/} } glob "/proc/$pid/fd/*";
}

foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
SELECT logq_store.make_segment('2024-06-01 00:00+00');
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2024-06-01 00:00+00' + i * interval '1 second', 'INFO',
		'web', 'message ' || i
	FROM generate_series(0, $rows_each - 1) i;
SQL
}
is($c->sql($count), $all, 'all rows are there');

set_names(
	'good.test' => '127.0.0.1',
	'several.test' => '127.0.0.3 127.0.0.3 ::1 127.0.0.1',
	'hang.test' => 'hang');
restart($c->coordinator);
# where an installation is found from that has been moved, as ours has
$program = $c->sql("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")
  . '/logq_resolve';
ok(-x $program, "the program is installed");
$c->route($_, $proxy{$_}) foreach $c->names;
is($c->sql($count), $all, 'by address: all rows');
is(-e "$names.log" ? 1 : 0, 0, 'an address is not looked up');

# ---------- names that are found ----------

{
	my $s = $c->session;

	name_p2('good.test');
	is($s->query($count), $all, 'by name: all rows');
	is(look_ups('good.test'), 1, 'by name: it is looked up once');
	is($c->sql($count), $all, 'by name: all rows in another session');
	$c->gives("SELECT state || ' ' || host FROM logq.partitions WHERE name = 'p2'",
		'up good.test:' . $proxy{p2}->port, 'by name: logq.partitions shows the name');
	$s->query("INSERT INTO logq.logs (ts, level, partition) VALUES ('2024-06-01 00:30+00', 'new', 'p2')");
	is($s->query("$count WHERE level = 'new'"), 1, 'by name: rows can be written');
	$c->on('p2', "DELETE FROM logq_store.log WHERE level = 'new'");
	is(look_ups('good.test'), 1, 'by name: sessions share what was found');

	name_p2('several.test');
	is($s->query($count), $all, 'a name with several addresses, of which the last one works');
	name_p2('none.test,good.test');
	is($s->query($count), $all, 'a list of names, of which one does not exist');
	name_p2('127.0.0.3,good.test', port => $proxy{p1}->port . ',' . $proxy{p2}->port);
	is($s->query($count), $all, 'a list of an address and a name, each with its port');
	name_p2($c->part('p2')->host . ',good.test',
		port => $c->part('p2')->port . ',' . $proxy{p2}->port);
	is($s->query($count), $all, 'a list of a socket directory and a name');
	name_p2('good.test,several.test', port => '1,2,3');
	like($s->query($count), qr/ERROR:\s+08001: .*"p2"[\s\S]*could not match 3 port numbers to 2 hosts/,
		'a list with too many ports');
	name_p2('localhost');
	is($s->query($count), $all, 'a name that the system knows');

	my $n = look_ups('hang.test');
	$c->sql("ALTER SERVER p2 OPTIONS (SET host 'hang.test', SET port '"
		  . $proxy{p2}->port . "', ADD hostaddr '127.0.0.1')");
	is($s->query($count), $all, 'a name with its address');
	is(look_ups('hang.test'), $n, 'which is not looked up');
	$c->sql("ALTER SERVER p2 OPTIONS (DROP hostaddr)");
	$s->quit;
	none_left('names that are found');
}

# ---------- names that do not exist ----------

{
	name_p2('bad.test');
	$c->fails($count, '08001',
		qr/could not connect to partition "p2"\n.*could not look up host "bad.test": Name or service not known/,
		'a name that does not exist');
	like($c->sql("SELECT state || ': ' || error FROM logq.partitions WHERE name = 'p2'"),
		qr/^down: could not look up host "bad.test": Name or service/,
		'logq.partitions says so');
	name_p2('bad.test,worse.test');
	$c->fails($count, '08001', qr/"bad.test": Name .*; could not look up host "worse.test"/,
		'a list of two that do not');
	name_p2('x' x 300);
	$c->fails($count, '08001', qr/too long/, 'a name that is too long');
	name_p2("bad .test\nA 0 127.0.0.1");
	$c->fails($count, '08001', qr/could not look up host/, 'a name that is none');

	name_p2('bad.test');
	set_names('bad.test' => '127.0.0.1');
	is($c->sql($count), $all, 'as soon as it exists, it is found');
	none_left('names that do not exist');
}

# ---------- the resolver hangs ----------

{
	my $s = $c->session;
	my $other = $c->session;
	my ($start, $elapsed, $answer, $name);

	$name = hang_p2();
	$s->query("SET logq.connect_timeout = '1500ms'");
	$start = time;
	$answer = $s->query($count);
	$elapsed = time - $start;
	like($answer, qr/ERROR:\s+08001: could not connect to partition "p2"[\s\S]*could not look up host "$name": timeout expired after 1500 ms/,
		'the resolver hangs: an error that says so');
	cmp_ok($elapsed, '>=', 1.4, 'the resolver hangs: not before the time');
	cmp_ok($elapsed, '<', 1.5 + $at_once, 'the resolver hangs: when the time is over');
	is_deeply([ programs($s->{pid}) ], [], 'the resolver hangs: no child is left');

	$start = time;
	is($s->query("$count WHERE partition <> 'p2'"), 2 * $rows_each,
		'the resolver hangs: who does not need it is answered');
	cmp_ok(time - $start, '<', $at_once, 'the resolver hangs: and at once');

	hang_p2();
	$start = time;
	like($s->query("INSERT INTO logq.logs (ts, partition) VALUES ('2024-06-01 00:30+00', 'p2')"),
		qr/ERROR:\s+08001: .*"p2"[\s\S]*timeout expired/, 'the resolver hangs: INSERT fails, too');
	cmp_ok(time - $start, '<', 1.5 + $at_once, 'the resolver hangs: in time');

	# one name of a list does not keep the others
	name_p2('hang.test,good.test');
	$start = time;
	is($s->query($count), $all, 'the resolver hangs at one of two names: the other is taken');
	cmp_ok(time - $start, '<', 1.5 + $at_once, 'the resolver hangs at one of two names: in time');
	hang_p2();

	$s->query("SET logq.connect_timeout = '60s'");
	foreach my $way ('pg_cancel_backend', 'statement_timeout', 'INSERT', 'pg_terminate_backend')
	{
		my $what = "the resolver hangs, $way";

		$s->query("SET statement_timeout = '2s'") if $way eq 'statement_timeout';
		$start = time;
		$s->send($way eq 'INSERT'
			? "INSERT INTO logq.logs (ts, partition) VALUES ('2024-06-01 00:30+00', 'p2')"
			: $count);
		LogqTest::poll_ok(sub {
			$s->{run}->pump_nb;
			return scalar grep { /logq_resolve/ } programs($s->{pid});
		}, "$what: it is under way", 10);
		is($other->query("$count WHERE partition <> 'p2'"), 2 * $rows_each,
			"$what: others are answered");
		if ($way ne 'statement_timeout')
		{
			my $function = $way eq 'INSERT' ? 'pg_cancel_backend' : $way;

			$start = time;
			$other->query("SELECT $function($s->{pid})");
		}
		like($s->wait(20) // 'no answer',
			$way eq 'pg_terminate_backend' ? qr/57P01|session ended/ : qr/57014/,
			"$what: ends it");
		cmp_ok(time - $start, '<', ($way eq 'statement_timeout' ? 2 : 0) + $at_once, "$what: at once");
		is_deeply([ programs($s->{pid}) ], [], "$what: no child is left");
		$s->query('RESET statement_timeout') if $way eq 'statement_timeout';
	}
	none_left('the resolver hangs');
	$other->quit;
}

# ---------- what was found before is of use ----------

{
	my ($n, $start);

	name_p2('good.test');
	is($c->sql($count), $all, 'known: it was looked up before');
	$n = look_ups('good.test');
	set_names('good.test' => 'hang');
	$start = time;
	is($c->sql($count), $all, 'known: the resolver hangs, and is not asked');
	is(look_ups('good.test'), $n, 'known: really not');

	# a connection that fails makes it doubtful
	$proxy{p2}->refuse;
	$c->fails($count, '08', qr/"p2"/, 'known: the partition does not answer');
	$proxy{p2}->pass;
	ok(LogqTest::poll(sub {
		$start = time;
		return $c->sql($count) ne $all || look_ups('good.test') > $n;
	}, 10), 'known: it is soon looked up again');
	is($c->sql($count), $all, 'known: the resolver hangs, and all rows are there');
	cmp_ok(time - $start, '<', 1 + $at_once, 'known: nobody waits for long');
	is(look_ups('good.test'), $n + 1, 'known: one session looks it up for all');

	set_names('good.test' => '');
	$proxy{p2}->refuse;
	$c->fails($count, '08', qr/"p2"/, 'known: the partition does not answer once more');
	$proxy{p2}->pass;
	ok(LogqTest::poll(sub {
		return $c->sql($count) ne $all || look_ups('good.test') > $n + 1;
	}, 20), 'known: it is looked up again later');
	is($c->sql($count), $all, 'known: the look-up fails, and all rows are there');
	set_names('good.test' => '127.0.0.1');

	set_names('moved.test' => '127.0.0.3');
	name_p2('moved.test');
	$c->fails($count, '08', qr/"p2"[\s\S]*127\.0\.0\.3/, 'moved: the old address');
	set_names('moved.test' => '127.0.0.1');
	LogqTest::poll_ok(sub { return $c->try($count)->{out} eq $all; },
		'moved: the new one is soon found', 20);
	none_left('known');
}

# ---------- nothing leaks ----------

{
	my $s = $c->session;
	# of the other partitions, connections are kept, more or fewer
	my $of_p2 = "$count WHERE partition = 'p2'";
	my ($before, $failures);

	name_p2('gone.test');
	$s->query($of_p2);
	$before = fds($s->{pid});
	$failures = grep { $s->query($of_p2) =~ /ERROR:\s+08001/ } 1 .. 50;
	is($failures, 50, 'fifty failures');
	is(fds($s->{pid}), $before, 'no file descriptor is left of them');

	hang_p2();
	$s->query("SET logq.connect_timeout = '20ms'");
	$failures = grep { $s->query($of_p2) =~ /ERROR:\s+08001.*\n[\s\S]*timeout/ } 1 .. 50;
	is($failures, 50, 'fifty timeouts');
	is(fds($s->{pid}), $before, 'no file descriptor is left of these');
	is_deeply([ programs($s->{pid}) ], [], 'no child either');
	name_p2('good.test');
	$s->query('RESET logq.connect_timeout');
	is($s->query($count), $all, 'the session goes on');
	$s->quit;
}

# ---------- many sessions ----------

{
	my @sessions = map { $c->session } 1 .. 12;

	set_names('crowd.test' => '127.0.0.1');
	name_p2('crowd.test');
	$_->send($count) foreach @sessions;
	is(join(' ', map { $_->wait } @sessions), join(' ', ($all) x @sessions),
		'many sessions at once: all rows for each');
	$_->quit foreach @sessions;

	# more names than are kept
	my $s = $c->session;
	my $wrong = 0;

	set_names(map { ("many$_.test" => '127.0.0.1') } 1 .. 300);
	foreach my $i (1 .. 10)
	{
		my @list = map { 'many' . ($i * 30 - 30 + $_) . '.test' } 1 .. 30;

		name_p2(join(',', @list));
		$wrong++ if $s->query($count) ne $all;
	}
	is($wrong, 0, 'more names than are kept');
	# none of which is known
	name_p2(join(',', map { "more$_.test" } 1 .. 33));
	like($s->query($count), qr/ERROR:\s+54000/, 'a list that is too long');
	none_left('many names');
	$s->quit;
}

# ---------- without shared memory ----------

{
	my $node = LogqTest::start_server('alone');
	my ($s, $n);

	$node->safe_psql('postgres', 'CREATE DATABASE logs');
	$node->safe_psql('logs', 'CREATE EXTENSION logq');
	restart($node);
	$c->add_partition($_, coordinator => $node, host => '127.0.0.1',
		port => $proxy{$_}->port) foreach $c->names;
	$node->safe_psql('logs', "ALTER SERVER p2 OPTIONS (SET host 'good.test')");
	$s = $c->session(node => $node);
	$n = look_ups('good.test');
	is($s->query($count), $all, 'not preloaded: all rows');
	is(look_ups('good.test'), $n + 1, 'not preloaded: each session looks it up');
	$proxy{p2}->close_all;
	is($s->query($count), $all, 'not preloaded: all rows over a new connection');
	is(look_ups('good.test'), $n + 1, 'not preloaded: and once');
	$s->query("SET logq.connect_timeout = '500ms'");
	$node->safe_psql('logs', "ALTER SERVER p2 OPTIONS (SET host 'hang.test')");
	like($s->query($count), qr/"hang.test": timeout expired/, 'not preloaded: a timeout');
	$s->quit;
	$node->stop;
}

# ---------- a backend that cannot clear up ----------

{
	my $s = $c->session;

	hang_p2();
	$s->query("SET logq.connect_timeout = '1s'");
	$s->send($count);
	LogqTest::poll_ok(sub { $s->{run}->pump_nb; return scalar programs($s->{pid}); },
		'killed: a look-up is under way', 10);
	kill 'KILL', $s->{pid};
	like($s->wait(20), qr/session ended/, 'killed: the session is gone');
	none_left('killed');

	LogqTest::poll(sub { return $c->coordinator->psql('logs', 'SELECT 1') == 0; })
	  or BAIL_OUT('the coordinator does not come back');
	name_p2('good.test');
	is($c->sql($count), $all, 'killed: after the restart all rows are there');
}

done_testing();
