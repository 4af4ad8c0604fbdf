# A Kafka broker for a TAP test, and what tests do with topics.
#
#	my $k = LogqKafka->new;
#	$k->create_topic('logs', partitions => 3);
#	$k->produce('logs', [ '{"message":"hello"}', ... ], partition => 1);
#	my $load = $k->start_generate('logs', total => 100_000, rate => 20_000);
#	$k->kill9;
#	$k->start;					# the same ports, the same data
#	$load->finish;				# all rows have arrived, once
#
# All calls wait until what they do can be seen by others, and die when that
# does not come to pass.  Brokers are gone when the test ends, however it ends.

package LogqKafka;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(rmtree);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Scalar::Util qw(weaken);
use Test::More;

my $home = abs_path(dirname(__FILE__) . '/../kafka');
my @all;

# user and password that the listener of sasl_brokers() wants
our $sasl_user = 'logq';
our $sasl_password = 'kafka-secret';

# Options: name (of the folder), start (1; 0 leaves that to the test)
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {
		dir => abs_path($PostgreSQL::Test::Utils::tmp_check) . '/'
		  . ($opt{name} // 'kafka'),
		tool => "$home/logq_kafka_tool"
	  },
	  $class;

	# of an earlier run
	if (-e $self->{dir})
	{
		$self->broker('kill');
		rmtree($self->{dir});
	}
	if (!-x $self->{tool})
	{
		run_it([ 'make', '-s', '-C', "$home/../..", 'kafka-tool' ]);
	}
	push @all, $self;
	weaken($all[-1]);
	$self->start if $opt{start} // 1;
	return $self;
}

# Run a command to its end; returns its output.  Its complaints are in the log
# of the test, too.
sub run_it
{
	my ($cmd, $in) = @_;
	my ($out, $err) = ('', '');

	# the stack, which croak shows, would have a test's whole input
	local $Carp::MaxArgLen = 60;
	IPC::Run::run($cmd, '<', \($in // ''), '>', \$out, '2>', \$err)
	  or croak("@{$cmd}[0 .. ($#$cmd < 4 ? $#$cmd : 4)]: $err");
	note($err) if $err ne '';
	chomp $out;
	return $out;
}

sub broker
{
	my ($self, $command, @args) = @_;

	return run_it([ "$home/broker", $command, $self->{dir}, @args ]);
}

sub start
{
	my ($self) = @_;

	$self->broker('start');
	$self->{brokers} = $self->broker('address');
	return;
}

sub stop
{
	my ($self) = @_;

	$self->broker('stop');
	return;
}

sub kill9
{
	my ($self) = @_;

	$self->broker('kill');
	return;
}

sub running
{
	my ($self) = @_;

	return IPC::Run::run([ "$home/broker", 'status', $self->{dir} ],
		'>', \my $out, '2>', \my $err) ? 1 : 0;
}

# HOST:PORT, what librdkafka calls bootstrap.servers
sub brokers
{
	my ($self) = @_;

	return $self->{brokers};
}

# ... that wants SASL/PLAIN over security.protocol = sasl_plaintext
sub sasl_brokers
{
	my ($self) = @_;

	return $self->broker('address', 'sasl');
}

sub tool
{
	my ($self, $command, $args, $in) = @_;

	return run_it([ $self->{tool}, $self->{brokers}, $command, @$args ], $in);
}

sub cluster_id
{
	my ($self) = @_;

	return $self->tool('cluster', []);
}

# ---- topics --------------------------------------------------------------

# Options: partitions (1), config (a hash of Kafka's settings)
sub create_topic
{
	my ($self, $name, %opt) = @_;
	my $config = $opt{config} // {};

	$self->tool('create', [ $name, $opt{partitions} // 1,
		map { "$_=$config->{$_}" } sort keys %$config ]);
	return;
}

# ... so that it has this many in all
sub add_partitions
{
	my ($self, $name, $total) = @_;

	$self->tool('grow', [ $name, $total ]);
	return;
}

sub delete_topic
{
	my ($self, $name) = @_;

	$self->tool('delete', [$name]);
	return;
}

# What comes before offset, or everything without one
sub delete_records
{
	my ($self, $name, $partition, $offset) = @_;

	$self->tool('delete-records', [ $name, $partition, $offset // 'end' ]);
	return;
}

# { partition => [ first offset, one after the last ] }
sub offsets
{
	my ($self, $name) = @_;
	my %r;

	foreach (split /\n/, $self->tool('offsets', [$name]))
	{
		my ($partition, $low, $high) = split / /;

		$r{$partition} = [ $low, $high ];
	}
	return \%r;
}

# ---- messages ------------------------------------------------------------

# Options that produce and generate share
sub common_arguments
{
	my ($opt) = @_;
	my $properties = $opt->{properties} // {};
	my @args;

	push @args, '--compression', $opt->{compression} if $opt->{compression};
	push @args, '--timeout', $opt->{timeout} if $opt->{timeout};
	push @args, map { ('-P', "$_=$properties->{$_}") } sort keys %$properties;
	return @args;
}

# 4 bytes of length, and the text; undef is no text
sub prefixed
{
	my ($text) = @_;

	return pack('N', 0xffffffff) unless defined $text;
	utf8::encode($text) if utf8::is_utf8($text);
	return pack('N/a*', $text);
}

# Each message is a text, undef (no value), or [ key, value ].  Options:
# partition, key, headers (a hash, or a list of [ name, value ]; a value may be
# undef), timestamp (ms), compression, transaction (commit, abort, open),
# properties (a hash, of librdkafka), timeout.  Returns how many there were.
sub produce
{
	my ($self, $topic, $messages, %opt) = @_;
	my $headers = $opt{headers} // [];
	my @args = ($topic, '--length-prefixed', '--keyed',
		common_arguments(\%opt));
	my $n;

	foreach (qw(partition timestamp transaction))
	{
		push @args, "--$_", $opt{$_} if defined $opt{$_};
	}
	$headers = [ map { [ $_, $headers->{$_} ] } sort keys %$headers ]
	  if ref $headers eq 'HASH';
	push @args, map {
		('--header', defined $_->[1] ? "$_->[0]=$_->[1]" : $_->[0])
	} @$headers;

	$n = $self->tool('produce', \@args, join '', map {
		ref $_ ? prefixed($_->[0]) . prefixed($_->[1])
		  : prefixed($opt{key}) . prefixed($_)
	} @$messages);
	croak "only $n messages were produced" if $n != @$messages;
	return $n;
}

# Options of generate: total, seconds, rate, format, first, number_field, seed,
# from, to, batch, stamp, key_service, and those of common_arguments.  See
# "logq_kafka_tool".
sub generate_arguments
{
	my ($self, $topic, %opt) = @_;
	my @args = ($self->{tool}, $self->{brokers}, 'generate', $topic,
		common_arguments(\%opt));

	foreach (qw(total seconds rate format first number_field seed from to batch))
	{
		push @args, '--' . tr/_/-/r, $opt{$_} if defined $opt{$_};
	}
	foreach (qw(stamp key_service))
	{
		push @args, '--' . tr/_/-/r if $opt{$_};
	}
	return @args;
}

# Returns how many rows there were
sub generate
{
	my ($self, $topic, %opt) = @_;

	return run_it([ $self->generate_arguments($topic, %opt) ]);
}

# The same in the background; returns a LogqKafka::Load
sub start_generate
{
	my ($self, $topic, %opt) = @_;

	return LogqKafka::Load->new($self->generate_arguments($topic, %opt));
}

# ---- the end -------------------------------------------------------------

# What a broker has written is of no more use, but for its log if a test failed
sub DESTROY
{
	my ($self) = @_;

	local ($?, $@);
	return if $self->{done}++ || !-e $self->{dir};
	eval { $self->broker('kill'); };
	if (Test::More->builder->is_passing)
	{
		rmtree($self->{dir});
	}
	return;
}

END
{
	my $status = $?;

	$_->DESTROY foreach grep { defined } @all;
	$? = $status;
}

# ---------------------------------------------------------------------
# A producer in the background.
#
#	$load->finish			waits until all is delivered; returns how many rows
#	$load->stop				the same, but no more rows are made
#	$load->running
# ---------------------------------------------------------------------

package LogqKafka::Load;

use strict;
use warnings;

use Carp;
use IPC::Run;

sub new
{
	my ($class, @cmd) = @_;
	my $self = bless { out => '', err => '' }, $class;

	$self->{run} = IPC::Run::start(\@cmd, '<', \undef,
		'>', \$self->{out}, '2>', \$self->{err});
	return $self;
}

sub running
{
	my ($self) = @_;

	return 0 if !defined $self->{run};
	eval { $self->{run}->pump_nb; };
	return $self->{run}->pumpable ? 1 : 0;
}

sub finish
{
	my ($self) = @_;
	my $run = delete $self->{run} // croak 'this load is over';

	$run->finish or croak("the producer failed: $self->{err}");
	chomp $self->{out};
	return $self->{out};
}

sub stop
{
	my ($self) = @_;

	$self->{run}->signal('TERM') if defined $self->{run};
	return $self->finish;
}

# a test that died does not wait
sub DESTROY
{
	my ($self) = @_;

	local ($?, $@);
	$self->{run}->kill_kill(grace => 0) if defined $self->{run};
	return;
}

1;
