# Many clients, whose answers are known, while servers and the network between
# them fail at random.
#
#	my $chaos = LogqChaos->new(faults => 30, clients => 16, seed => 1);
#	$chaos->run;
#	$chaos->check;		# tests
#	$chaos->summary;	# what was done, and what came of it
#
# Three partitions, each with a replica, each server behind a proxy.  Clients
# are processes of their own, each with a session.  Most read rows that do not
# change; what is right was taken from a local table beforehand.  An answer is
#
#	right		the same rows, in the same order if there is one
#	error		of a kind that servers which fail give reason for
#	partial		some of the right rows, a warning, and logq.last_query() says so;
#				only for those who have asked for partial answers
#	wrong		anything else, or none within a minute
#
# Some write, small batches of rows; what was acknowledged must be found at
# once by whoever wrote it, and be there once in the end.
#
# What fails, and when, follows from the seed; in what state it meets the others
# does not.  Faults overlap, but a server has one at a time.  Afterwards all is
# repaired, and everything must be as it was.

package LogqChaos;

use strict;
use warnings;

use JSON::PP ();
use List::Util qw(max min sum0 shuffle);
use LogqFaults;
use LogqProcess qw(descendants is_alive postmaster_pid kill_postmaster
  start_server freeze thaw thaw_all sockets_of);
use LogqProxy;
use LogqTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# an answer may take so long, in seconds; and coming back after all
my $patience = 60;
my $writers = 2;
my $rows_per_batch = 4;

# What servers that fail give reason for: connections, shutdowns, resources,
# their disks, conflicts with recovery, a replica that is behind
my $good_states = qr/^(?:08\w{3}|57P0[1-5]|53\w{3}|58\w{3}|40001|40P01|55000)$/;

# kind => [weight, of whom (server, standby, proxy, coordinator)]
my %kinds = (
	backend => [ 8, 'server' ],
	terminate => [ 8, 'server' ],
	stop => [ 8, 'server' ],
	postmaster => [ 5, 'server' ],
	freeze => [ 12, 'server' ],
	pause => [ 6, 'standby' ],
	cut => [ 14, 'proxy' ],
	cut_each => [ 6, 'proxy' ],
	stall => [ 10, 'proxy' ],
	stall_each => [ 5, 'proxy' ],
	delay => [ 10, 'proxy' ],
	slow => [ 5, 'proxy' ],
	refuse => [ 5, 'proxy' ],
	blackhole => [ 5, 'proxy' ],
	full => [ 4, 'proxy' ],
	close => [ 6, 'proxy' ],
	client => [ 2, 'coordinator' ],
	restart => [ 1, 'coordinator' ],
	# another place for a replica, and back: connections become stale
	reroute => [ 3, 'partition' ]);

my $json = JSON::PP->new->canonical;

# processes of clients that run
my %clients;
my $owner = $$;

# ---------- the plan ----------

# Options: faults, clients (16), seed, gap (0.8; seconds between two at most)
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {
		faults => $opt{faults},
		clients => $opt{clients} // 16,
		seed => $opt{seed},
		gap => $opt{gap} // 0.8,
		counts => {},
		active => {},
		pids => {},
		problems => []
	  },
	  $class;

	srand $self->{seed};
	$self->make_plan;
	return $self;
}

# Each kind once, in any order, then by weight
sub make_plan
{
	my ($self) = @_;
	my @deck = map { ($_) x $kinds{$_}[0] } sort keys %kinds;
	my @next = shuffle sort keys %kinds;

	foreach (1 .. $self->{faults})
	{
		my $kind = @next ? shift @next : $deck[ int rand @deck ];

		push @{ $self->{plan} }, {
			kind => $kind,
			whom => rand,
			which => rand,
			# seconds; now and then long enough for all time-outs
			lasts => 0.1 + rand(1.2) + (rand() < 0.2 ? rand 4 : 0),
			bytes => int exp(rand 11.5),
			ms => rand() < 0.7 ? rand 60 : rand 600,
			both => rand() < 0.5 ? 1 : 0,
			how => rand() < 0.5 ? 'rst' : 'fin',
			on => rand() < 0.5 ? 'all' : 'now',
			gap => rand $self->{gap}
		};
	}
	return;
}

# ---------- servers ----------

sub start
{
	my ($self) = @_;
	my $begin = time;
	my $c = LogqTest->new(
		partitions => 3,
		replicas => 1,
		conf => [
			'restart_after_crash = on', 'wal_retrieve_retry_interval = 100ms',
			'log_checkpoints = off'
		],
		coordinator_conf => [
			'restart_after_crash = on', 'log_checkpoints = off',
			"logq.databases = 'logs'", "logq.connect_timeout = '1s'",
			"logq.partition_timeout = '2s'"
		]);

	LogqFaults::load($c, small => 600, big => 5000);
	$c->wait_for_catchup_all;
	$self->{cluster} = $c;
	foreach my $name ($c->names)
	{
		my @nodes = ($c->part($name), $c->replica($name));
		my @proxies = map { LogqProxy->new(node => $_) } @nodes;

		$self->{nodes}{ $_->name } = $_ foreach @nodes;
		$self->{proxies}{ $nodes[$_]->name } = $proxies[$_] foreach 0, 1;
		$c->route($name, $proxies[0], [ $proxies[1] ]);
	}
	$self->{servers} = [ sort keys %{ $self->{nodes} } ];
	$self->{dir} = "$PostgreSQL::Test::Utils::tmp_check/chaos";
	mkdir $self->{dir} or die "$self->{dir}: $!";
	diag(sprintf 'servers were started in %.1f s', time - $begin);
	return;
}

# What SQL gives, or undef while the server is not there
sub ask
{
	my ($node, $sql) = @_;
	my ($out, $err) = ('', '');
	my $timed_out;
	my $rc = eval {
		$node->psql('logs', $sql, stdout => \$out, stderr => \$err,
			timeout => 10, timed_out => \$timed_out);
	};

	return defined $rc && $rc == 0 && !$timed_out ? $out : undef;
}

# ---------- clients ----------

my @reads = ((qw(few limit limit_here desc asc unordered aggregate count cursor
  unordered_cursor join)) x 2, qw(big_desc big_asc big_unordered));
# of which a part of the rows can be told from wrong ones
my %listed = map { $_ => 1 } qw(few limit desc asc unordered cursor
  unordered_cursor limit_here);

# Is it what a partition less could give?  What is wrong with it, or ''.
sub not_a_part
{
	my ($q, $right, @rows) = @_;
	my ($at, $last) = ({}, -1);
	my @right = split /\n/, $right;

	if ($q->{name} eq 'count')
	{
		return @rows == 1 && $rows[0] =~ /^\d+$/ && $rows[0] <= $right ? ''
		  : "count @rows of $right";
	}
	return '' unless $listed{ $q->{name} };
	# whoever misses rows has others in reach of the limit
	@right = split /\n/, $q->{superset} if defined $q->{superset};
	$at->{ $right[$_] } = $_ foreach 0 .. $#right;
	foreach my $row (@rows)
	{
		my $i = delete $at->{$row} // return "a row twice, or none of the right ones: $row";

		return "not in order: $row" if $q->{ordered} && $i < $last;
		$last = $i;
	}
	return '';
}

# What an answer is worth: kind, and what is wrong
sub judge
{
	my ($q, $right, $answer, $partial) = @_;
	my ($rows, $complete, $rest);
	my ($state, $warned, $why);

	return ('wrong', 'no answer within the time') unless defined $answer;
	return ('error', 'lost') if $answer =~ /session ended$|server closed the connection/m;
	if ($answer =~ /(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}):/)
	{
		$state = $1;
		return $state =~ $good_states ? ('error', $state)
		  : ('wrong', "an error of another kind: " . substr $answer, -1500);
	}
	($rows, $complete, $rest) = $answer =~ /\A(.*?)\n?^\@\@([tf])$(.*)\z/ms
	  or return ('wrong', 'not understood: ' . substr $answer, 0, 1500);
	$warned = $rest =~ /WARNING:\s+01000: partition "p\d" is missing/;
	if ($complete eq 't')
	{
		return ('wrong', "complete, with a warning: $rest") if $warned;
		$why = LogqFaults::difference($q, $right, $rows);
		return $why eq '' ? ('right', '') : ('wrong', $why);
	}
	return ('wrong', 'not complete, though nobody wanted that') unless $partial;
	return ('wrong', 'not complete, without a warning') unless $warned;
	$why = not_a_part($q, $right, split /\n/, $rows);
	return $why eq '' ? ('partial', '') : ('wrong', "partial: $why");
}

sub connect_client
{
	my ($self) = @_;
	my $s;

	# however long it takes the coordinator to be back
	LogqTest::poll(sub {
		$s = eval { $self->{cluster}->session };
		return $s || ($$ != $owner && getppid() != $owner);
	}, $patience) && $s
	  or die "no session: $@";
	return $s;
}

# A client: reads, or reads and writes, until it is told to stop.  It notes what
# it got in a file.
sub client
{
	my ($self, $number, $right) = @_;
	my $writes = $number <= $writers;
	my $c = $self->{cluster};
	my %n = (right => 0, error => 0, partial => 0, wrong => 0, lost => 0,
		slowest => 0, states => {}, written => 0);
	my $batch = 0;
	my $s;

	srand $self->{seed} * 1000 + $number;
	open my $file, '>', "$self->{dir}/client.$number" or die $!;
	$file->autoflush(1);
	until (-e "$self->{dir}/stop" || getppid() != $owner)
	{
		my $partial = rand() < 0.4;
		my $from = rand() < 0.7 ? 'any' : rand() < 0.5 ? 'primary' : 'replica';
		my $hedging = rand() < 0.8 ? 'on' : 'off';
		my ($q, $wanted, $text, $answer, $kind, $why, $begin, $took);

		$s //= $self->connect_client;
		$text = "SET logq.partial_results = "
		  . ($partial ? 'on' : 'off') . ";\nSET logq.read_from = '$from';\n"
		  . "SET logq.enable_hedging = $hedging";
		$answer = $s->query($text, $patience);
		if ($answer ne '')
		{
			# the coordinator is gone
			$n{lost}++;
			if ($answer !~ /session ended$|server closed the connection/m)
			{
				$n{wrong}++;
				print $file 'W ', $json->encode([ $text, $answer ]), "\n";
			}
			eval { $s->kill_client; };
			$s = undef;
			next;
		}
		if ($writes && rand() < 0.5)
		{
			my $tag = "w$number-" . ++$batch;
			my $hour = int $batch / 20;

			$answer = $s->query("INSERT INTO logq.logs (ts, level, service, message) SELECT timestamptz '2024-09-01 00:00+00' + interval '$hour hours' + i * interval '1 s', 'W', '$tag', 'row ' || i FROM generate_series(1, $rows_per_batch) i", $patience);
			if (defined $answer && $answer eq '')
			{
				$n{written}++;
				print $file "A $tag\n";
				$q = { name => 'own writes', ordered => 1,
					sql => "SELECT message FROM logq.logs WHERE ts >= '2024-09-01' AND service = '$tag' ORDER BY ts, id" };
				$wanted = join "\n", map { "row $_" } 1 .. $rows_per_batch;
			}
			else
			{
				print $file "F $tag\n";
				($kind, $why) = defined $answer
				  ? judge({}, '', $answer, 0) : ('wrong', 'INSERT does not end');
				if ($kind ne 'error')
				{
					$n{wrong}++;
					print $file 'W ', $json->encode([ 'INSERT', $why ]), "\n";
				}
				else
				{
					$n{error}++;
					$n{states}{$why}++;
				}
				if ($answer =~ /session ended|server closed/ || $kind eq 'wrong')
				{
					eval { $s->kill_client; };
					$s = undef;
				}
				next;
			}
		}
		else
		{
			my $name = $reads[ int rand @reads ];

			$q = $right->{$name}{query};
			$wanted = $right->{$name}{answer};
		}
		$begin = time;
		$s->send(LogqFaults::on_table($q, 'logq.logs')
			  . ";\nSELECT '\@\@' || left(complete::text, 1) FROM logq.last_query()");
		$answer = $s->wait($patience);
		$took = time - $begin;
		($kind, $why) = judge($q, $wanted, $answer, $partial);
		$n{$kind}++;
		$n{slowest} = $took if $took > $n{slowest};
		$n{states}{$why}++ if $kind eq 'error';
		print $file 'W ', $json->encode([ "$q->{name} (partial_results $partial, read_from $from, hedging $hedging), $took s", $why ]), "\n"
		  if $kind eq 'wrong';
		if (!defined $answer || $answer =~ /session ended$|server closed/m)
		{
			# a backend that does not answer shall not be stuck for ever
			$c->coordinator->psql('logs', "SELECT pg_cancel_backend($s->{pid})")
			  if !defined $answer;
			eval { $s->kill_client; };
			$s = undef;
			next;
		}
		$s->query('ROLLBACK') if $kind ne 'right' && $q->{sql} =~ /^BEGIN/;
		usleep(int rand 60_000);
	}
	$s->quit if $s;
	print $file 'S ', $json->encode(\%n), "\n";
	close $file;
	return;
}

# Fork all of them
sub start_clients
{
	my ($self) = @_;
	my $s = $self->{cluster}->session;
	my %right;

	foreach my $name (@reads)
	{
		my $q = LogqFaults::query($name);

		next if $right{$name};
		if ($name =~ /limit/)
		{
			$q->{superset} = $s->query(LogqFaults::on_table({
				%$q, sql => $q->{sql} =~ s/ LIMIT \d+//r }, 'local_logs'));
		}
		$right{$name} = { query => $q, answer => LogqFaults::right($s, $q) };
		LogqFaults::same($s, $q, "$name: right in the beginning");
	}
	$s->quit;
	foreach my $number (1 .. $self->{clients})
	{
		my $pid = fork // die "fork: $!";

		if ($pid == 0)
		{
			# none of our ends; and none of what it may die of is ours
			$SIG{$_} = 'DEFAULT' foreach qw(INT TERM);
			eval { $self->client($number, \%right); 1 } or do {
				if (open my $f, '>>', "$self->{dir}/client.$number")
				{
					print $f 'D ', $json->encode(["$@"]), "\n";
					close $f;
				}
			};
			POSIX::_exit(0);
		}
		$self->{pids}{$pid} = $number;
		$clients{$pid} = 1;
	}
	return;
}

# Tell them to stop, and wait for it
sub stop_clients
{
	my ($self) = @_;

	open my $f, '>', "$self->{dir}/stop" or die $!;
	close $f;
	LogqTest::poll(sub {
		foreach my $pid (keys %{ $self->{pids} })
		{
			next if waitpid($pid, POSIX::WNOHANG()) == 0;
			delete $self->{pids}{$pid};
			delete $clients{$pid};
		}
		return !%{ $self->{pids} };
	}, 2 * $patience);
	return;
}

# ---------- faults ----------

sub pick_of
{
	my ($part, @list) = @_;

	return $list[ int $part * @list ];
}

# Make it happen.  Returns who has it, and how to repair it; nothing if there is
# nobody left for it.
sub strike
{
	my ($self, $fault) = @_;
	my $c = $self->{cluster};
	my ($kind, $whom) = ($fault->{kind}, $kinds{ $fault->{kind} }[1]);
	my ($name, $node, $proxy);

	if ($whom eq 'coordinator')
	{
		return if $self->{active}{coordinator};
		$node = $c->coordinator;
		if ($kind eq 'client')
		{
			my @pids = split /\n/, ask($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' AND query LIKE '%logq.logs%' AND pid <> pg_backend_pid()") // '';

			kill 'KILL', pick_of($fault->{which}, @pids) if @pids;
		}
		else
		{
			$node->stop('immediate');
			start_server($node);
		}
		return ('coordinator', sub { });
	}
	if ($whom eq 'partition')
	{
		$name = pick_of($fault->{whom}, $c->names);
		ask($c->coordinator, "ALTER SERVER $name OPTIONS (SET replicas '127.0.0.1:1')");
		return ("route of $name", sub {
			LogqTest::poll(sub {
				return defined ask($c->coordinator, "ALTER SERVER $name OPTIONS (SET replicas '"
					. LogqFaults::address($self->{proxies}{"${name}r1"}) . "')");
			}, $patience) or die 'the coordinator is not there';
		});
	}
	($name) = pick_of($fault->{whom}, grep {
		!$self->{active}{$_} && ($whom ne 'standby' || /r1/) } @{ $self->{servers} });
	return unless defined $name;
	$node = $self->{nodes}{$name};
	$proxy = $self->{proxies}{$name};
	if ($kind eq 'backend')
	{
		my @pids = split /\n/, ask($node, "SELECT pid FROM pg_stat_activity WHERE usename = 'logq'") // '';

		kill 'KILL', pick_of($fault->{which}, @pids) if @pids;
		return ($name, sub { });
	}
	if ($kind eq 'terminate')
	{
		ask($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'logq'");
		return ($name, sub { });
	}
	if ($kind eq 'stop')
	{
		$node->stop('immediate');
		return ($name, sub { start_server($node) });
	}
	if ($kind eq 'postmaster')
	{
		kill_postmaster($node);
		return ($name, sub { start_server($node) });
	}
	if ($kind eq 'freeze')
	{
		freeze($node);
		return ($name, sub { thaw($node) });
	}
	if ($kind eq 'pause')
	{
		ask($node, 'SELECT pg_wal_replay_pause()');
		return ($name, sub { ask($node, 'SELECT pg_wal_replay_resume()') });
	}
	if ($kind =~ /^(cut|stall)(_each)?$/)
	{
		my ($action, $each) = ($1, $2);

		# there may be no connection
		eval { $proxy->$action($fault->{bytes}, on => $each ? 'each' : $fault->{on},
			$action eq 'cut' ? (how => $fault->{how}) : (both => $fault->{both})); };
	}
	elsif ($kind eq 'delay')
	{
		$proxy->delay($fault->{ms});
	}
	elsif ($kind eq 'slow')
	{
		$proxy->delay($fault->{ms} / 20, chunk => 500 + int(4000 * $fault->{which}));
	}
	elsif ($kind eq 'close')
	{
		$proxy->close_all($fault->{how});
	}
	else
	{
		$proxy->$kind;
		$proxy->close_all($fault->{how}) if $fault->{both};
	}
	return ($name, sub { $proxy->clear });
}

# Repair what has lasted long enough, or all
sub repair
{
	my ($self, $all) = @_;

	foreach my $name (sort keys %{ $self->{active} })
	{
		my $active = $self->{active}{$name};

		next unless $all || $active->{until} <= time;
		$active->{repair}->();
		delete $self->{active}{$name};
	}
	return;
}

# A server that gave up, as its recovery was killed, say, is started again
sub revive
{
	my ($self) = @_;
	my %all = (%{ $self->{nodes} }, coordinator => $self->{cluster}->coordinator);

	foreach my $name (sort keys %all)
	{
		my $node = $all{$name};
		my $pid;

		next if $self->{active}{$name};
		$pid = eval { postmaster_pid($node) };
		next if defined $pid && is_alive($pid);
		$node->kill9;
		start_server($node);
		$self->{revived}{$name}++;
	}
	return;
}

sub run
{
	my ($self) = @_;
	my $c;
	my $error;

	$self->{begin} = time;
	diag("seed $self->{seed}: $self->{faults} faults, $self->{clients} clients");
	$self->start;
	$c = $self->{cluster};
	# the worker has its connections
	LogqTest::poll(sub {
		return !grep { LogqFaults::connections_on($_) < 1 } map { $c->part($_) } $c->names;
	}, 20);
	$self->start_clients;
	$self->{faults_begin} = time;
	foreach my $i (0 .. $#{ $self->{plan} })
	{
		my $fault = $self->{plan}[$i];
		my ($whom, $repair);
		my $ok = eval {
			LogqTest::poll(sub { $self->repair; return keys(%{ $self->{active} }) < 4; }, $patience);
			$self->revive;
			($whom, $repair) = $self->strike($fault);
			1;
		};

		if (!$ok)
		{
			$error = "fault $i, $fault->{kind}: $@";
			last;
		}
		next unless defined $whom;
		$self->{counts}{ $fault->{kind} }++;
		$self->{active}{$whom} = { until => time + $fault->{lasts}, repair => $repair };
		note(sprintf '%6.1f s: %s of %s for %.1f s', time - $self->{faults_begin},
			$fault->{kind}, $whom, $fault->{lasts});
		LogqTest::poll(sub { $self->repair; return 0; }, $fault->{gap});
	}
	$self->{faults_end} = time;
	eval { $self->repair(1); 1 } or $error //= $@;
	thaw_all();
	$_->clear foreach values %{ $self->{proxies} };
	eval { $self->revive; 1 } or $error //= $@;
	# they get something right at the end, too
	LogqTest::poll(sub { return 0; }, 2);
	$self->stop_clients;
	die $error if defined $error;
	return;
}

# ---------- what has become of it ----------

# Take up what clients have noted
sub collect
{
	my ($self) = @_;
	my $sum = $self->{sum} = { map { $_ => 0 } qw(right error partial wrong lost slowest written) };

	foreach my $number (1 .. $self->{clients})
	{
		my $ended = 0;

		foreach my $line (split /\n/, -e "$self->{dir}/client.$number"
			? slurp_file("$self->{dir}/client.$number") : '')
		{
			my ($what, $rest) = $line =~ /^(\w) (.*)/;

			if ($what eq 'A' || $what eq 'F')
			{
				$self->{batches}{$rest} = $what;
			}
			elsif ($what eq 'W')
			{
				my ($query, $why) = @{ $json->decode($rest) };

				push @{ $self->{problems} }, "client $number: $query: $why";
			}
			elsif ($what eq 'D')
			{
				push @{ $self->{problems} }, "client $number has died: " . $json->decode($rest)->[0];
			}
			else
			{
				my $n = $json->decode($rest);

				$ended = 1;
				$sum->{$_} += $n->{$_} foreach qw(right error partial wrong lost written);
				$sum->{slowest} = max($sum->{slowest}, $n->{slowest});
				$sum->{states}{$_} += $n->{states}{$_} foreach keys %{ $n->{states} };
			}
		}
		push @{ $self->{problems} }, "client $number has not ended" unless $ended;
	}
	return;
}

# Batches that were written: all rows once, if it was said so; else no row twice
sub check_written
{
	my ($self) = @_;
	my $c = $self->{cluster};
	my (%rows, @wrong);

	foreach my $name ($c->names)
	{
		foreach my $line (split /\n/, $c->on($name, "SELECT service || ' ' || message FROM logq_store.log WHERE ts >= '2024-09-01'"))
		{
			$rows{ (split / /, $line)[0] }{$line}++;
		}
	}
	foreach my $tag (sort keys %{ $self->{batches} })
	{
		my $n = keys %{ $rows{$tag} // {} };
		my @twice = grep { $rows{$tag}{$_} > 1 } keys %{ $rows{$tag} // {} };

		push @wrong, "$tag has $n rows of $rows_per_batch"
		  if $self->{batches}{$tag} eq 'A' && $n != $rows_per_batch;
		push @wrong, "twice: $_" foreach @twice;
	}
	return is(join("\n", @wrong), '', 'what was acknowledged is there once');
}

sub check
{
	my ($self) = @_;
	my $c = $self->{cluster};
	my @problems;
	my ($s, $good, @left);

	$self->collect;
	@problems = @{ $self->{problems} };
	$good = is(scalar(@problems), 0, 'no wrong answers');
	diag(substr $_, 0, 3000) foreach @problems[ 0 .. min(9, $#problems) ];
	$good &= cmp_ok(sum0(values %{ $self->{counts} }), '>=', $self->{faults} * 0.9, 'faults');
	$good &= cmp_ok($self->{sum}{right}, '>', 100, 'right answers');
	$good &= is(join(' ', map { $self->{pids}{$_} } keys %{ $self->{pids} }), '', 'all clients have ended');

	# all is as it was
	$s = $self->connect_client;
	foreach my $proxy (map { $self->{proxies}{$_} } @{ $self->{servers} })
	{
		$good &= ok(LogqFaults::wait_for_breaker($c, $proxy, 'closed', 30), 'a breaker has closed');
	}
	$c->wait_for_catchup_all;
	foreach my $name (@reads[ 0 .. 10 ], 'big_desc')
	{
		$good &= LogqFaults::same($s, LogqFaults::query($name), "afterwards: $name");
	}
	$good &= LogqFaults::assert_clean($c, 'afterwards', $s);
	$s->quit;
	$good &= $self->check_written;
	# the worker's, of which each server has one or two
	foreach my $name (@{ $self->{servers} })
	{
		my $n;

		$good &= ok(LogqTest::poll(sub {
			$n = LogqFaults::connections_on($self->{nodes}{$name});
			return $n <= 3;
		}, 10), "connections to $name are closed") or diag("there are $n");
	}
	$good &= is(join("\n", $self->crashes), '', 'no process crashed by itself');
	diag("seed $self->{seed}") unless $good;
	return $good;
}

# Nothing but our own signals ended a process
sub crashes
{
	my ($self) = @_;
	my @found;

	foreach my $node ($self->{cluster}->coordinator, values %{ $self->{nodes} })
	{
		foreach my $line (split /\n/, slurp_file($node->logfile))
		{
			push @found, $node->name . ": $line"
			  if $line =~ /PANIC:|TRAP:|terminated by signal (?!9\b)/;
		}
	}
	return @found;
}

sub summary
{
	my ($self) = @_;
	my $sum = $self->{sum};
	my $states = $sum->{states} // {};

	return (
		sprintf('seed %s: %d faults in %.0f s, %.0f s in all', $self->{seed},
			sum0(values %{ $self->{counts} }), $self->{faults_end} - $self->{faults_begin},
			time - $self->{begin}),
		'faults: ' . join(', ', map { "$_ $self->{counts}{$_}" } sort keys %{ $self->{counts} }),
		"answers: $sum->{right} right, $sum->{error} errors, $sum->{partial} partial, $sum->{wrong} wrong; $sum->{written} batches written, $sum->{lost} sessions found lost",
		'errors: ' . join(', ', map { "$_ $states->{$_}" } sort keys %$states),
		sprintf('the slowest answer took %.1f s', $sum->{slowest}),
		$self->{revived} ? 'started again: ' . join(', ', map { "$_ $self->{revived}{$_}" } sort keys %{ $self->{revived} }) : ());
}

END
{
	# whoever dies leaves no clients behind
	my $status = $?;

	kill 'KILL', keys %clients if %clients && $$ == $owner;
	$? = $status;
}

1;
