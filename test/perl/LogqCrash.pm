# A load through Kafka during which everything is killed again and again.
#
#	my $crash = LogqCrash->new(rows => 60_000, kills => 7, seed => 1);
#	$crash->run;		# the load, with all that happens to it
#	$crash->check;		# tests: every number is there once
#	$crash->summary;	# what was done, and how long recovery took
#
# Each row has a number, in attrs->'n', from 1 without gaps; each message that
# has to become a dead letter has one in its text.  What happens, to whom, and
# about when, follows from the seed alone; in what state it meets the others
# does not.
#
# The plan is a list of incidents.  An incident is one stroke or several at
# once (a burst); afterwards what is down is started again, and everything that
# was in Kafka before has to arrive on all partitions, within a bounded time.
# Part of the load is made before, during and after each.  Strokes:
#
#	worker		the ingest worker is killed, so the coordinator restarts all
#	coordinator	its postmaster is killed
#	backend		any process of a partition is killed: crash recovery there
#	postmaster	that of a partition is killed
#	broker		Kafka is killed
#	reader		the process that runs librdkafka is killed
#	terminate	pg_terminate_backend() on a partition's ingest session
#	stop		a partition is stopped in mode "immediate"
#	freeze		the worker is stopped for a second, and goes on
#	stall		so is a partition's ingest session: it may commit long after
#				another worker has begun
#	reroute		logq.route_by is changed while batches are under way
#
# "kills" counts only the first five, all by SIGKILL.
#
# One partition is slow, so that whatever happens, the others have likely
# committed a batch that this one has not.  Another runs with synchronous_commit
# = off: after its crashes it has less than it had said.

package LogqCrash;

use strict;
use warnings;

use LogqKafka;
use LogqProcess qw(descendants is_alive postmaster_pid kill_postmaster
  start_server freeze_processes thaw_all);
use LogqTest;
use List::Util qw(max min sum0 shuffle);
use MIME::Base64 qw(decode_base64);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# Strokes that are kills of one of the four parties
my %counts = map { $_ => 1 } qw(worker coordinator backend postmaster broker);

# All of these come first, in any order: everything once, quickly
my @first_deck = (
	['coordinator'],
	[ 'backend', 'worker' ],
	['postmaster'],
	['broker'],
	[ 'terminate', 'reader' ],
	[ 'freeze', 'stop' ],
	[ 'stall', 'coordinator' ],
	[ 'reroute', 'worker' ]);

# These come again and again; 'burst' stands for any of those below
my @deck = (
	['worker'],
	['coordinator'],
	['backend'],
	['postmaster'],
	['broker'],
	['broker'],
	['burst'],
	['burst'],
	['burst'],
	['reader'],
	['terminate'],
	['stop'],
	['freeze'],
	[ 'stall', 'worker' ],
	[ 'reroute', 'worker' ]);

my @bursts = (
	[ 'backend', 'worker' ],
	[ 'worker', 'worker' ],
	[ 'worker', 'coordinator' ],
	[ 'postmaster', 'coordinator' ],
	[ 'broker', 'worker' ],
	[ 'backend', 'backend' ],
	[ 'backend', 'postmaster', 'worker' ],
	[ 'reader', 'backend' ],
	[ 'freeze', 'backend' ],
	[ 'freeze', 'postmaster' ],
	[ 'stall', 'coordinator' ],
	[ 'stall', 'reader' ],
	[ 'reroute', 'backend' ],
	[ 'reroute', 'coordinator' ],
	[ 'worker', 'postmaster', 'broker' ]);

my @routes = qw(service trace_id round_robin);
my @formats = qw(json json otlp otlp fluentbit vector mixed);
my $topic = 'crash';
# bad messages of each incident
my $bad_messages = 20;
# how long anything may take, in seconds
my $patience = 120;

# what we have started or stopped
my %children;

# ---------- the plan ----------

sub pick
{
	return $_[ int rand @_ ];
}

# Options: rows, kills, seed, kafka_partitions (5), seconds (2; between two
# incidents at most, unless something is waited for).
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {
		rows => $opt{rows},
		kills => $opt{kills},
		seed => $opt{seed},
		kafka_partitions => $opt{kafka_partitions} // 5,
		part_seconds => $opt{seconds} // 2,
		next_number => 1,
		extra => 0,
		messages => 0,
		bad => 0,
		dead => {},
		counts => {},
		took => {},
		down => {},
		interrupted => 0,
		half_done => 0,
		generators => []
	  },
	  $class;

	srand $self->{seed};
	$self->make_plan;
	return $self;
}

# All that is random is thrown here, so that nothing which happens later can
# change it.
sub make_plan
{
	my ($self) = @_;
	my $kills = 0;
	my @plan;
	my @next = shuffle @first_deck;
	my @next_bursts;

	while (@next > 0 || $kills < $self->{kills})
	{
		my @strokes;

		@next = shuffle @deck unless @next;
		@strokes = @{ shift @next };
		if ($strokes[0] eq 'burst')
		{
			@next_bursts = shuffle @bursts unless @next_bursts;
			@strokes = @{ shift @next_bursts };
		}
		push @plan, { strokes => [ $self->plan_strokes(@strokes) ] };
		$kills += grep { $counts{$_} } @strokes;
		last if $kills >= $self->{kills} && @plan >= @first_deck;
	}

	# Batches go off at once, so that there is always one under way.
	my $each = int($self->{rows} / @plan);
	my $first = 1;

	$self->{batch_rows} = pick(300, 1000, 3000);
	$self->{batch_ms} = pick(1, 3);
	foreach my $i (0 .. $#plan)
	{
		my $rows = $i < $#plan ? $each : $self->{rows} - $first + 1;
		my $before = int($rows * (0.6 + rand 0.3));

		foreach my $when (qw(before during))
		{
			my $total = $when eq 'before' ? $before : $rows - $before;

			$plan[$i]{$when} = $self->plan_part($first, $total);
			$first += $total;
		}
		# how much of the first may have arrived
		$plan[$i]{fraction} = 0.05 + rand 0.6;
	}
	$self->{plan} = \@plan;
	return;
}

# A part of the load
sub plan_part
{
	my ($self, $first, $total) = @_;
	my $format = pick(@formats);

	return {
		first => $first,
		total => $total,
		format => $format,
		seed => int rand 1000,
		batch => $format eq 'otlp' ? 2 + int rand 30 : 1,
		# as fast as can be, or evenly
		fast => rand() < 0.3,
		# some are old, and need segments
		hours => rand() < 0.25 ? 1 + int rand 8 : 0
	};
}

# Those of one incident hit different partitions, as one that is down cannot be
# killed; but recovery can.
sub plan_strokes
{
	my ($self, @kinds) = @_;
	my @names = shuffle qw(p1 p2 p3);
	my $again = "@kinds" eq 'backend backend' && rand() < 0.5;

	return map
	{
		+{
			kind => $kinds[$_],
			part => $names[ $again ? 0 : $_ % 3 ],
			which => rand,
			route => pick(@routes)
		};
	} 0 .. $#kinds;
}

# ---------- servers ----------

# What SQL gives, or undef while the server is not there
sub ask
{
	my ($node, $sql) = @_;
	my ($out, $err) = ('', '');
	my $timed_out;
	# it dies when psql ends before it has read its input
	my $rc = eval
	{
		$node->psql('logs', $sql, stdout => \$out, stderr => \$err,
			timeout => 60, timed_out => \$timed_out);
	};

	return defined $rc && $rc == 0 && !$timed_out ? $out : undef;
}

# Start the cluster, the broker, and the topic
sub start
{
	my ($self) = @_;
	my $begin = time;
	my $starter;

	$self->{kafka} = LogqKafka->new(start => 0);
	# it takes as long as all others
	$starter = fork // die "fork: $!";
	if ($starter == 0)
	{
		eval { $self->{kafka}->start; };
		POSIX::_exit($@ ? 1 : 0);
	}
	$self->{cluster} = LogqTest->new(
		partitions => 3,
		conf => [ 'restart_after_crash = on', 'log_checkpoints = off' ],
		coordinator_conf => [
			'restart_after_crash = on', 'log_checkpoints = off',
			"logq.databases = 'logs'", 'logq.seal_after = 5',
			"logq.ingest_batch_rows = $self->{batch_rows}",
			"logq.ingest_batch_ms = $self->{batch_ms}"
		]);
	$self->{names} = [ $self->{cluster}->names ];
	$self->{cluster}->on('p2', <<'SQL');
CREATE FUNCTION public.be_slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_catalog.pg_sleep(0.02 * pg_catalog.random());
	RETURN NULL;
END
$$;
CREATE TRIGGER be_slow AFTER UPDATE ON logq_store.kafka_offset
	FOR EACH STATEMENT EXECUTE FUNCTION public.be_slow();
SQL
	$self->{cluster}->on('p3', 'ALTER DATABASE logs SET synchronous_commit = off');
	waitpid $starter, 0;
	$self->{kafka}->start;
	$self->{kafka}->create_topic($topic,
		partitions => $self->{kafka_partitions});
	$self->{cluster}->sql("SELECT logq.add_topic('$topic', '"
		  . $self->{kafka}->brokers . "')");
	diag(sprintf 'servers were started in %.1f s', time - $begin);
	return;
}

# The ingest worker's pid; dies when there is none for too long.  Not this one
sub worker_pid
{
	my ($self, $not) = @_;
	my $pid;

	LogqTest::poll(sub
	{
		$pid = ask($self->{cluster}->coordinator,
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'logq ingest'");
		return defined $pid && $pid =~ /^\d+$/ && $pid != ($not // 0);
	}, $patience) or die 'there is no ingest worker';
	return $pid;
}

# Kafka's next offsets by partition of the topic
sub kafka_ends
{
	my ($self) = @_;
	my $offsets = $self->{kafka}->offsets($topic);

	return { map { $_ => $offsets->{$_}[1] } keys %$offsets };
}

# What a partition has: Kafka partition => next offset; undef when it is down
sub offsets_of
{
	my ($self, $name) = @_;
	my $out = ask($self->{cluster}->part($name),
		"SELECT string_agg(kafka_partition || ' ' || next_offset, ' ') FROM logq_store.kafka_offset WHERE topic = '$topic'");

	return undef unless defined $out;
	return { split / /, $out };
}

# Are partitions at different offsets?
sub is_half_done
{
	my ($self) = @_;
	my %states;

	foreach my $name (@{ $self->{names} })
	{
		my $has = $self->offsets_of($name) // next;

		$states{ join ' ', map { $has->{$_} } sort keys %$has } = 1;
	}
	return keys %states > 1;
}

# Have all partitions all that lies before these offsets?
sub have_reached
{
	my ($self, $ends) = @_;

	foreach my $name (@{ $self->{names} })
	{
		my $has = $self->offsets_of($name) // return 0;

		return 0 if grep { ($has->{$_} // 0) < $ends->{$_} } keys %$ends;
	}
	return 1;
}

# ---------- the load ----------

# Make a part of it.  It goes on for so many seconds at most, by itself.
sub start_part
{
	my ($self, $part) = @_;
	my $now = time;
	my %opt = (
		total => $part->{total},
		first => $part->{first},
		format => $part->{format},
		seed => $part->{seed},
		batch => $part->{batch},
		timeout => 900);

	return if $part->{total} == 0 || $part->{started}++;
	$opt{rate} = int($part->{total} / $self->{part_seconds}) + 1 unless $part->{fast};
	if ($part->{hours})
	{
		$opt{from} = int($now - 3600 * $part->{hours});
		$opt{to} = int $now;
	}
	push @{ $self->{generators} }, $self->{kafka}->start_generate($topic, %opt);
	$self->{messages} += int(($part->{total} + $part->{batch} - 1) / $part->{batch});
	return;
}

# Numbers of rows that come with bad messages follow those of the load
sub extra_number
{
	my ($self) = @_;

	return $self->{rows} + ++$self->{extra};
}

# Messages that are not understood, one way or another
sub bad_message
{
	my ($self) = @_;
	my $number = ++$self->{bad};
	my $text = "bad-$number-";
	my $kind = $number % 6;
	my ($before, $after);
	my $now = time;

	$self->{dead}{$number} = 1;
	return qq({"message":"$text \xff\xfe","service":"web","level":"info"}) if $kind == 0;
	return qq({"message":"$text","service":"web) if $kind == 1;
	return qq({"message":"$text \\u0000","service":"web","level":"info"}) if $kind == 2;
	return qq({"timestamp":"1971-01-01T00:00:00Z","message":"$text","service":"billing"}) if $kind == 3;
	return qq({"timestamp":"never","message":"$text","service":"scheduler"}) if $kind == 4;

	# one record among good ones
	($before, $after) = ($self->extra_number, $self->extra_number);
	return '{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"otlp-'
	  . ($number % 5) . '"}}]},"scopeLogs":[{"scope":{},"logRecords":['
	  . join(',', map {
			sprintf '{"timeUnixNano":"%d000000000","severityNumber":9,"body":{"stringValue":"%s"},"attributes":[{"key":"n","value":{"intValue":"%d"}}]}',
			@$_
		} [ $now, 'before', $before ], [ $now + 86400 * 400, $text, $number ],
		[ $now, 'after', $after ])
	  . ']}]}]}';
}

# A producer for them that stays, so that they too are on their way when
# something happens
sub start_bad
{
	my ($self) = @_;
	my $kafka = $self->{kafka};
	my $pid = open my $pipe, '|-', $kafka->{tool}, $kafka->brokers, 'produce',
	  $topic, '--timeout', 900
	  or die "producer: $!";

	$children{$pid} = 1;
	$pipe->autoflush(1);
	$self->{bad_producer} = $pipe;
	$self->{bad_pid} = $pid;
	return;
}

sub send_bad
{
	my ($self) = @_;

	print { $self->{bad_producer} } map { $self->bad_message . "\n" } 1 .. $bad_messages;
	$self->{messages} += $bad_messages;
	return;
}

sub finish_bad
{
	my ($self) = @_;

	close $self->{bad_producer} or die "a producer has failed: $?";
	delete $children{ $self->{bad_pid} };
	return;
}

# ---------- strokes ----------

sub strike
{
	my ($self, $stroke) = @_;
	my $down = $self->{down};
	my $kind = $stroke->{kind};
	my $name = $stroke->{part};
	my $coordinator = $self->{cluster}->coordinator;
	my $node = $self->{cluster}->part($name);
	my $what = $kind;

	if ($kind eq 'worker')
	{
		# the second one of a burst is that which came after the first
		my $pid = $self->{worker};

		if (!defined $pid || !kill 'KILL', $pid)
		{
			$pid = $self->worker_pid($self->{killed_worker});
			kill 'KILL', $pid or die "there is no worker $pid";
		}
		$self->{killed_worker} = $pid;
		$self->{worker} = undef;
	}
	elsif ($kind eq 'coordinator')
	{
		kill_postmaster($coordinator);
		$down->{coordinator} = 1;
	}
	elsif ($kind eq 'broker')
	{
		$self->{kafka}->kill9;
		$down->{broker} = 1;
	}
	elsif ($kind eq 'reader')
	{
		my @pids;

		LogqTest::poll(sub
		{
			@pids = descendants($self->worker_pid);
			return scalar @pids;
		}, $patience) or die 'there is no reader';
		kill 'KILL', $pids[0];
	}
	elsif ($kind eq 'freeze')
	{
		my $pid = $self->worker_pid;

		freeze_processes($pid);
		$self->{frozen} = 1;
	}
	elsif ($kind eq 'reroute')
	{
		$coordinator->safe_psql('postgres', "ALTER SYSTEM SET logq.route_by = '$stroke->{route}'");
		$coordinator->reload;
		$what .= " $stroke->{route}";
	}
	elsif ($kind eq 'backend')
	{
		my ($session) = $self->ingest_sessions($name);

		LogqTest::poll(sub
		{
			my @pids = descendants(postmaster_pid($node));

			# it is the one with most to lose
			push @pids, ($session) x @pids if defined $session;
			@pids = sort { $a <=> $b } @pids;
			return @pids && kill 'KILL', $pids[ int($stroke->{which} * @pids) ];
		}, $patience) or die "$name has no processes";
		$what .= " of $name";
	}
	elsif ($kind eq 'postmaster')
	{
		kill_postmaster($node);
		$down->{$name} = 1;
		$what .= " of $name";
	}
	elsif ($kind eq 'stop')
	{
		$node->stop('immediate');
		$down->{$name} = 1;
		$what .= " of $name";
	}
	elsif ($kind eq 'terminate')
	{
		ask($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'logq ingest%'");
		$what .= " on $name";
	}
	elsif ($kind eq 'stall')
	{
		freeze_processes($self->ingest_sessions($name));
		$self->{frozen} = 1;
		# the others go on without it
		LogqTest::poll(sub { return $self->is_half_done; }, 1);
		$what .= " on $name";
	}
	else
	{
		die "stroke \"$kind\" is not known";
	}
	$self->{counts}{$kind}++;
	return $what;
}

# Processes of a partition that take rows in; while one is busy, if possible
sub ingest_sessions
{
	my ($self, $name) = @_;
	my $node = $self->{cluster}->part($name);
	my $busy;
	my $out;

	LogqTest::poll(sub
	{
		$out = ask($node, "SELECT pid, state FROM pg_stat_activity WHERE application_name LIKE 'logq ingest%' AND backend_type = 'client backend'");
		return !defined $out || $out =~ /active/;
	}, 0.5);
	return ($out // '') =~ /^(\d+)\|/mg;
}

# Start partitions that are down
sub restore_partitions
{
	my ($self) = @_;

	thaw_all();
	foreach my $name (@{ $self->{names} })
	{
		my $node = $self->{cluster}->part($name);

		if (!delete $self->{down}{$name})
		{
			next if LogqTest::poll(sub
			{
				my $pid = eval { postmaster_pid($node) };

				return 'ended' unless defined $pid && is_alive($pid);
				return defined ask($node, 'SELECT 1') && 'runs';
			}, $patience) ne 'ended';
			# a postmaster gives up when its recovery is killed; let the node know
			$node->kill9;
		}
		start_server($node);
	}
	return;
}

# Start what else is down
sub restore_others
{
	my ($self) = @_;

	$self->{kafka}->start if delete $self->{down}{broker};
	start_server($self->{cluster}->coordinator) if delete $self->{down}{coordinator};
	return;
}

# ---------- the run ----------

sub incident
{
	my ($self, $i) = @_;
	my $incident = $self->{plan}[$i];
	my $part = $incident->{before};
	my @kinds = map { $_->{kind} } @{ $incident->{strokes} };
	my $some = $self->{names}[ $i % 3 ];
	my $before = sum0(values %{ $self->offsets_of($some) // {} });
	my $wanted = $incident->{fraction} * $part->{total} / $part->{batch};
	my @done;
	my ($ends, $begin, $restored, $took);
	my $half_done = '';

	# looked up now, to be killed in the midst of it
	$self->{worker} = $self->worker_pid;
	$self->send_bad;
	$self->start_part($part);
	LogqTest::poll(sub
	{
		return sum0(values %{ $self->offsets_of($some) // {} }) >= $before + $wanted;
	}, $self->{part_seconds});

	$ends = $self->kafka_ends if grep { $_ eq 'broker' } @kinds;
	$begin = time;
	push @done, $self->strike($_) foreach @{ $incident->{strokes} };
	$ends //= $self->kafka_ends;
	$self->start_part($incident->{during});
	if (delete $self->{frozen})
	{
		# for a second: nothing can be waited for, as nothing is to happen
		LogqTest::poll(sub { return 0; }, 1);
	}
	$self->restore_partitions;
	if (grep { $_ eq 'worker' || $_ eq 'coordinator' } @kinds)
	{
		$self->{interrupted}++;
		if ($self->is_half_done)
		{
			$self->{half_done}++;
			$half_done = ', apart';
		}
	}
	$self->restore_others;
	$restored = time;
	LogqTest::poll(sub { return $self->have_reached($ends); }, $patience)
	  or die "$patience s after " . join(', ', @done)
	  . ' not everything has arrived that was there before: '
	  . $self->state_of_things($ends);
	$took = time - $begin;
	push @{ $self->{took}{ @done > 1 ? 'burst' : $incident->{strokes}[0]{kind} } },
	  $took;
	push @{ $self->{took}{all} }, $took;
	diag(sprintf '%3d  %-50s  started after %.1f s, all there after %.1f s%s', $i + 1,
		join(', ', @done), $restored - $begin, $took, $half_done);
	return;
}

# For somebody who looks for the reason
sub state_of_things
{
	my ($self, $ends) = @_;
	my $text = "\n";

	foreach my $name (@{ $self->{names} })
	{
		my $has = $self->offsets_of($name);

		$text .= "$name: "
		  . ($has ? join(', ', map { "$_: $has->{$_} of $ends->{$_}" } sort keys %$ends)
			: 'does not answer')
		  . "\n";
	}
	$text .= ask($self->{cluster}->coordinator,
		'SELECT topic, kafka_partition, next_offset, lag, state, pid, last_error FROM logq.stat_ingest ORDER BY 2')
	  // 'the coordinator does not answer';
	return $text;
}

# The load, and all that happens to it
sub run
{
	my ($self) = @_;
	my $plan = $self->{plan};
	my $error;

	$self->{begin} = time;
	diag("seed $self->{seed}: $self->{rows} rows, "
		  . scalar(@$plan) . " incidents, logq.ingest_batch_rows = $self->{batch_rows}");
	$self->start;
	$self->start_bad;
	eval { $self->incident($_) foreach 0 .. $#$plan; 1 } or $error = $@;

	# whatever has happened, the load is to be complete
	$self->restore_partitions;
	$self->restore_others;
	$self->start_part($_) foreach map { ($_->{before}, $_->{during}) } @$plan;
	$_->finish foreach @{ $self->{generators} };
	$self->finish_bad;
	die $error if defined $error;
	return;
}

# ---------- what has become of it ----------

# Is everything taken in?  Within a bounded time
sub check_lag
{
	my ($self) = @_;
	my $ends = $self->kafka_ends;

	is(sum0(values %$ends), $self->{messages},
		'Kafka has each message once');
	ok(LogqTest::poll(sub { return $self->have_reached($ends); }, $patience),
		'all partitions have come to the end of the topic')
	  or diag($self->state_of_things($ends));
	ok(LogqTest::poll(sub
		{
			return (ask($self->{cluster}->coordinator,
				"SELECT count(*) || ' ' || max(lag) || ' ' || min(state) || ' ' || max(state) FROM logq.stat_ingest") // '')
			  eq "$self->{kafka_partitions} 0 running running";
		}, $patience),
		'lag is 0')
	  or diag($self->state_of_things($ends));
	return;
}

# Numbers that are missing, doubled or made up; partitions by number.  wanted
# is the highest number; get gives one line "number partition" after another.
sub compare
{
	my ($self, $what, $wanted, $seen) = @_;
	my @missing;
	my @wrong;

	foreach my $n (1 .. $wanted)
	{
		push @missing, $n unless $seen->{where}[$n];
	}
	foreach my $n (sort { $a <=> $b } keys %{ $seen->{again} })
	{
		push @wrong, "$n on " . join(' and ',
			$seen->{where}[$n], @{ $seen->{again}{$n} });
	}
	push @wrong, map { "$_ was never sent" } @{ $seen->{strange} };
	return 1
	  if ok(!@missing && !@wrong, "$what: each of $wanted once, looked up on the partitions");
	diag(scalar(@missing) . ' are missing' . (@missing ? ': ' . ranges(@missing) : ''));
	diag(scalar(@wrong) . ' are doubled or strange' . (@wrong ? ': ' . few(@wrong) : ''));
	$self->{wrong} = [ @missing, keys %{ $seen->{again} } ] if $what eq 'rows';
	return 0;
}

sub few
{
	return join(', ', @_ > 200 ? (@_[ 0 .. 199 ], '...') : @_);
}

# 1-5, 7
sub ranges
{
	my @ranges;

	foreach my $n (@_)
	{
		if (@ranges && $ranges[-1][1] == $n - 1)
		{
			$ranges[-1][1] = $n;
		}
		else
		{
			push @ranges, [ $n, $n ];
		}
	}
	return few(map { $_->[0] == $_->[1] ? $_->[0] : "$_->[0]-$_->[1]" } @ranges);
}

# Note where a number was found
sub saw
{
	my ($seen, $n, $where, $wanted) = @_;

	if ($n !~ /^\d+$/ || $n < 1 || $n > $wanted)
	{
		push @{ $seen->{strange} }, "\"$n\" on $where";
	}
	elsif ($seen->{where}[$n])
	{
		push @{ $seen->{again}{$n} }, $where;
	}
	else
	{
		$seen->{where}[$n] = $where;
	}
	return;
}

# Lines of an answer of a partition, one by one, as there may be millions
sub each_line
{
	my ($self, $name, $sql, $code) = @_;
	my $node = $self->{cluster}->part($name);

	open my $pipe, '-|', $node->installed_command('psql'), '-XAtq', '-d',
	  $node->connstr('logs'), '-c', "COPY ($sql) TO STDOUT"
	  or die "psql: $!";
	while (my $line = <$pipe>)
	{
		chomp $line;
		$code->($line);
	}
	close $pipe or die "psql on $name failed: $?";
	return;
}

sub check
{
	my ($self) = @_;
	my $cluster = $self->{cluster};
	my $wanted = $self->{rows} + $self->{extra};
	my $rows = { where => [], again => {}, strange => [] };
	my $dead = { where => [], again => {}, strange => [] };
	my %rows_of;
	my $good = 1;

	cmp_ok($self->kills, '>=', $self->{kills}, 'kills');
	$self->check_lag;
	foreach my $name (@{ $self->{names} })
	{
		$self->each_line($name, "SELECT attrs ->> 'n' FROM logq_store.log",
			sub { saw($rows, $_[0], $name, $wanted); $rows_of{$name}++; });
		$self->each_line($name,
			"SELECT translate(encode(payload, 'base64'), E'\\n', ''), kafka_partition, kafka_offset, coalesce(record, -1) FROM logq_store.dead_letter",
			sub
			{
				my ($payload, $kpart, $offset, $record) = split /\t/, $_[0];
				my ($n) = decode_base64($payload) =~ /bad-(\d+)-/;

				saw($dead, $n // 'no number', "$name (partition $kpart, offset $offset, record $record of Kafka)",
					$self->{bad});
			});
	}
	$good &= $self->compare('rows', $wanted, $rows);
	$good &= $self->compare('dead letters', $self->{bad}, $dead);
	$good &= is(join(', ', map { $_ . ($rows_of{$_} ? '' : ' has no rows') } @{ $self->{names} }),
		'p1, p2, p3', 'all partitions have got rows');
	$good &= is($cluster->sql(<<'SQL'),
SELECT count(*), count(DISTINCT n), min(n), max(n)
FROM (SELECT (attrs ->> 'n')::bigint AS n FROM logq.logs) l
SQL
		"$wanted|$wanted|1|$wanted", 'rows, numbers, lowest and highest in logq.logs');
	$good &= is($cluster->sql("SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset, record)) FROM logq.dead_letters WHERE topic = '$topic'"),
		"$self->{bad}|$self->{bad}", 'logq.dead_letters');
	$good &= $self->check_logs;
	$good &= $self->check_processes;
	$self->find_messages(sort { $a <=> $b } @{ $self->{wrong} }) if $self->{wrong};
	diag("seed $self->{seed}") unless $good;
	return $good;
}

# Nothing but our own signals ended a process
sub check_logs
{
	my ($self) = @_;
	my @found;

	foreach my $node ($self->{cluster}->coordinator,
		map { $self->{cluster}->part($_) } @{ $self->{names} })
	{
		foreach my $line (split /\n/, slurp_file($node->logfile))
		{
			push @found, $node->name . ": $line"
			  if $line =~ /PANIC:|TRAP:|terminated by signal (?!9\b)/;
		}
	}
	return is(join("\n", @found), '', 'no process crashed by itself');
}

# There is one reader, and it ends with its worker
sub check_processes
{
	my ($self) = @_;
	my ($lib) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--pkglibdir' ]);
	# others may run beside us: only those whose worker is our coordinator's
	my $left = sub
	{
		my $postmaster = $self->{cluster}->coordinator->{_pid};
		my $n = 0;

		foreach my $exe (glob '/proc/[0-9]*/exe')
		{
			my ($pid) = $exe =~ /(\d+)/;
			my $worker;

			next if (readlink($exe) // '') ne "$lib/logq_kafka";
			$worker = (LogqProcess::process_state($pid))[1] // next;
			# one without its worker is nobody's, and should not be there
			$n++ if $worker == 1
			  || ((LogqProcess::process_state($worker))[1] // 0) == $postmaster;
		}
		return $n;
	};
	my $good = ok(LogqTest::poll(sub { return $left->() == 1; }, 10), 'there is one reader');

	$self->{cluster}->sql("SELECT logq.pause_topic('$topic')");
	$good &= ok(LogqTest::poll(sub { return $left->() == 0; }, 30), 'and none when the topic is paused');
	return $good;
}

# Say where messages with these numbers lie in Kafka, by its own files;
# of the first of them
sub find_messages
{
	my ($self, @numbers) = @_;
	my %wanted = map { $_ => 1 } @numbers[ 0 .. min(49, $#numbers) ];

	foreach my $file (glob $self->{kafka}{dir} . "/data/$topic-*/*.log")
	{
		my ($kpart) = $file =~ m,-(\d+)/[^/]*$,;
		my ($head, $batch);

		open my $log, '<:raw', $file or next;
		while (read($log, $head, 12) == 12)
		{
			my ($first, $length) = unpack 'q> l>', $head;

			read($log, $batch, $length) == $length or last;
			foreach my $record (records($batch))
			{
				my ($delta, $value) = @$record;

				while ($value =~ /"n"(?::|,"value":\{"intValue":")(\d+)/g)
				{
					diag("number $1 is in Kafka at partition $kpart, offset "
						  . ($first + $delta)) if $wanted{$1};
				}
			}
		}
		close $log;
	}
	return;
}

# Offset delta and value of the records of a batch, which is not compressed,
# from behind its length
sub records
{
	my ($batch) = @_;
	my $n = unpack 'l>', substr $batch, 45, 4;
	my $at = 49;
	my @records;
	my $varint = sub
	{
		my ($value, $shift) = (0, 0);

		for (;;)
		{
			my $byte = ord substr $batch, $at++, 1;

			$value |= ($byte & 127) << $shift;
			last if $byte < 128;
			$shift += 7;
		}
		return $value & 1 ? -(($value + 1) >> 1) : $value >> 1;
	};

	# a control batch, or a compressed one
	return () if unpack('s>', substr $batch, 9, 2) & 0x27;
	foreach (1 .. $n)
	{
		my $length = $varint->();
		my $end = $at + $length;
		my ($delta, $len);

		$at++;
		$varint->();
		$delta = $varint->();
		$len = $varint->();
		$at += max($len, 0);
		$len = $varint->();
		push @records, [ $delta, $len < 0 ? '' : substr $batch, $at, $len ];
		$at = $end;
	}
	return @records;
}

# How many kills there were
sub kills
{
	my ($self) = @_;

	return sum0(map { $self->{counts}{$_} // 0 } keys %counts);
}

sub median
{
	my @v = sort { $a <=> $b } @_;

	return @v % 2 ? $v[ $#v / 2 ] : ($v[ @v / 2 - 1 ] + $v[ @v / 2 ]) / 2;
}

sub summary
{
	my ($self) = @_;
	my $c = $self->{counts};
	my @lines;

	push @lines, sprintf "seed %s: %d rows, %d bad messages, %d kills, %.0f s in all",
	  $self->{seed}, $self->{rows} + $self->{extra}, $self->{bad},
	  $self->kills, time - $self->{begin};
	push @lines, 'kills: ' . join(', ', map { "$_ " . ($c->{$_} // 0) } sort keys %counts);
	push @lines, 'besides: ' . join(', ', map { "$_ $c->{$_}" } grep { !$counts{$_} } sort keys %$c);
	push @lines, "of $self->{interrupted} times that the worker ended, partitions were apart after $self->{half_done}";
	foreach my $kind (sort keys %{ $self->{took} })
	{
		my @took = @{ $self->{took}{$kind} };

		push @lines, sprintf 'until all had arrived, after %-12s median %5.1f s, max %5.1f s', "$kind:", median(@took), max(@took);
	}
	return @lines;
}

END
{
	# whoever dies may have left somebody waiting
	my $status = $?;

	kill 'KILL', keys %children if %children;
	$? = $status;
}

1;
