# A proxy between a coordinator and a partition, with which a test breaks the
# network where it likes.  It is a process of its own; a test tells it what to
# do while connections go through it.
#
#	my $p = LogqProxy->new(node => $c->part('p1'));
#	$c->sql("ALTER SERVER p1 OPTIONS (SET host '127.0.0.1', SET port '" . $p->port . "')");
#	$p->cut(1000);			# the next connection, after 1000 bytes
#	$p->stall(0, on => 'all');
#	$p->clear;				# as if nothing had ever been wrong
#
# Only what the server sends is counted: exactly so many bytes reach the client
# before something happens.  Requests to cancel are connections, too, but
# nothing is ever done to them unless new ones are kept out altogether.
# A client that asks for SSL first gets one byte, "N", which counts; as nobody
# can know yet what it will do, it gets that even where it is to get none.
#
# It listens on 127.0.0.1 (with unix => 1 also in a socket directory) and
# connects to loopback or a socket only.  It ends when the test does, however
# that comes: its standard input is then at its end.

package LogqProxy;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp;
use IO::Handle;
use IO::Select;
use JSON::PP;
use POSIX ();
use Socket;
use Time::HiRes qw(time usleep);

my $program = abs_path(dirname(__FILE__) . '/logq_proxy');
my $json = JSON::PP->new->canonical;

# Options: node (of Cluster.pm), or host and port of the target; the host may be
# a socket directory.  unix (0) listens in one, too: see socket_dir().
sub new
{
	my ($class, %opt) = @_;
	my $host = $opt{host} // ($opt{node} ? $opt{node}->host : '127.0.0.1');
	my $port = $opt{port} // ($opt{node} ? $opt{node}->port : croak 'no port');
	my $self = bless { owner => $$ }, $class;
	my ($ours, $theirs);

	croak "not on this machine: $host"
	  unless $host =~ m{^(?:/|127\.\d+\.\d+\.\d+$|localhost$)};
	$host = '127.0.0.1' if $host eq 'localhost';
	$self->{dir} = File::Temp::tempdir('logqXXXXXX', TMPDIR => 1, CLEANUP => 1)
	  if $opt{unix};

	socketpair($ours, $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
	  or croak "socketpair: $!";
	$self->{pid} = fork() // croak "fork: $!";
	if ($self->{pid} == 0)
	{
		# all else that is open closes by itself
		POSIX::dup2(fileno($theirs), 0);
		POSIX::dup2(fileno($theirs), 1);
		exec { $^X } $^X, $program, $host, $port, $self->{dir} // ()
		  or POSIX::_exit(127);
	}
	close $theirs;
	$self->{control} = $ours;
	$self->{in} = '';
	$self->{port} = $self->command('port');
	return $self;
}

sub port { return $_[0]->{port}; }
sub host { return '127.0.0.1'; }
sub pid { return $_[0]->{pid}; }
sub socket_dir { return $_[0]->{dir}; }

# Tell it something, and return its answer
sub command
{
	my ($self, $name, %arg) = @_;
	my $line = $json->encode({ %arg, command => $name }) . "\n";
	my $end = time + 20;
	my $answer;

	croak 'the proxy has ended' unless $self->{control};
	local $SIG{PIPE} = 'IGNORE';
	$self->{control}->syswrite($line) // croak "the proxy does not listen: $!";
	while ($self->{in} !~ /\n/)
	{
		IO::Select->new($self->{control})->can_read($end - time)
		  or croak "the proxy does not answer: $name";
		sysread($self->{control}, $self->{in}, 1 << 20, length $self->{in})
		  or croak 'the proxy has died';
	}
	$self->{in} =~ s/^(.*)\n//;
	$answer = $json->decode($1);
	croak "$name: $answer->{error}" if defined $answer->{error};
	return $answer->{result};
}

# Once exactly so many bytes from the server have reached the client, end the
# connection on both sides.  Options: how ('rst' or 'fin'; 'rst'), and on, the
# connections that this is for:
#	'next'		the next one, from its first byte (the default)
#	'each'		all that come, until clear()
#	'now'		one of those that are open, the first to get so many more
#	'all'		all that are open, each when it has got so many more
#	number		that one, so many more
sub cut
{
	my ($self, $bytes, %opt) = @_;

	return $self->command('trigger', action => 'cut', bytes => $bytes + 0, %opt);
}

# ... let nothing through any more, until resume().  Option both (0): nothing of
# what the client sends either, not even that it is gone.
sub stall
{
	my ($self, $bytes, %opt) = @_;

	return $self->command('trigger', action => 'stall', bytes => $bytes + 0, %opt);
}

sub resume { return $_[0]->command('resume'); }

# Deliver what the server sends so many milliseconds later.  With chunk, that
# many bytes at a time with this pause before each: a slow connection.
sub delay
{
	my ($self, $ms, %opt) = @_;

	return $self->command('delay', ms => $ms + 0, %opt);
}

# What becomes of new connections: they are refused; accepted and never
# answered; not even accepted, as the backlog is full (the kernel drops what
# the client sends); passed on.  Those that are there go on.
sub refuse { return $_[0]->command('mode', mode => 'refuse'); }
sub blackhole { return $_[0]->command('mode', mode => 'blackhole'); }
sub full { return $_[0]->command('mode', mode => 'full'); }
sub pass { return $_[0]->command('mode', mode => 'pass'); }

# End all connections now; how is 'rst' or 'fin'
sub close_all
{
	my ($self, $how) = @_;

	return $self->command('close_all', how => $how // 'rst');
}

# Forget cuts, stalls and delays to come, resume, pass new connections.  Those
# that were cut or swallowed stay so.
sub clear { return $_[0]->command('clear'); }

# Count and note messages from here on, on all connections
sub mark { return $_[0]->command('mark'); }

# The last 200 connections, oldest first; a hash each: id, kind ('session',
# 'cancel', 'blackhole', 'unknown' as long as the client has said nothing),
# open, to_client, to_server (bytes), since_mark (bytes to the client), fired
# ('cut' or 'stall').  Without cancel requests unless all => 1.
sub connections
{
	my ($self, %opt) = @_;

	return grep { $opt{all} || $_->{kind} ne 'cancel' }
	  @{ $self->command('connections') };
}

# The messages that the client of a connection got since mark(), 20000 at most:
# [offset since mark(), type, length with type].  Nothing when it is encrypted.
sub messages
{
	my ($self, $id) = @_;

	return @{ $self->command('messages', id => $id + 0) };
}

# A hash: fired (triggers so far), accepted, open, mode
sub status { return $_[0]->command('status'); }

# Where to cut: for each COPY among messages() a hash of counts of bytes after
# which the client has just a part of the named thing, or nothing of it where
# that is called "before".  Those of rows only where there are some; the header
# of a binary COPY travels in the message of its first row.
sub places
{
	my (@messages) = @_;
	my @copies;
	my $copy;
	my @data;

	foreach my $m (@messages)
	{
		my ($offset, $type, $length) = @$m;

		if ($type eq 'H')
		{
			@data = ();
			$copy = {
				before_copy => $offset,
				response => $offset + 3
			};
			push @copies, $copy;
		}
		next unless $copy;
		push @data, $m if $type eq 'd';
		if ($type eq 'c')
		{
			my $middle = $data[$#data / 2];

			$copy->{before_done} = $offset;
			$copy->{done} = $offset + 2;
			$copy->{header} = $data[0][0] + 5 + 10 if @data;
			if (@data > 1)
			{
				$copy->{row} = $middle->[0] + int($middle->[2] * 3 / 4);
				$copy->{before_row} = $middle->[0];
				$copy->{trailer} = $data[-1][0] + 6;
				$copy->{before_trailer} = $data[-1][0];
			}
		}
		if ($type eq 'C' && exists $copy->{done})
		{
			$copy->{before_complete} = $offset;
			$copy->{complete} = $offset + 3;
			$copy->{after} = $offset + $length;
			$copy = undef;
		}
	}
	return @copies;
}

# End it; bounded.  Connections that go through it end, too.
sub stop
{
	my ($self) = @_;
	my $end = time + 5;

	return unless $self->{control};
	close delete $self->{control};
	return if $self->{owner} != $$;
	local $?;
	while (waitpid($self->{pid}, POSIX::WNOHANG()) == 0)
	{
		if (time > $end)
		{
			kill 'KILL', $self->{pid};
			waitpid($self->{pid}, 0);
			last;
		}
		usleep(2000);
	}
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($@, $!);

	$self->stop if $self->{owner} == $$;
	return;
}

1;
