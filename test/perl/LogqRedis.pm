# A Redis of a test.
#
#	my $r = LogqRedis->new(name => 'r1');
#	$c->sql($r->server_sql);			# CREATE SERVER redis ...
#	$r->command('SET', 'key', $bytes);	# as Redis answers: a scalar, a list
#	$r->keys;							# ours, all of them
#	$r->freeze; $r->thaw; $r->kill9; $r->start;
#
# Options: name; conf (a list of lines of redis.conf); password (of the default
# user); tls (a hash of files: cert, key, ca; then its port speaks nothing else).
#
# It keeps nothing on disk.  It has a port of its own on 127.0.0.1, and a socket
# in a folder of its own, over which the test speaks to it.  It is a process of
# the user who runs the test, and ends when the test does, however that comes.

package LogqRedis;

use strict;
use warnings;

use Carp;
use File::Temp;
use IO::Socket::UNIX;
use LogqProcess;
use LogqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();

my @running;

sub new
{
	my ($class, %opt) = @_;
	my $dir = File::Temp::tempdir('logqXXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $self = bless {
		name => $opt{name} // 'redis',
		dir => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		password => $opt{password},
		tls => $opt{tls},
		owner => $$
	  },
	  $class;
	my @conf = (
		'bind 127.0.0.1', "dir $dir", "unixsocket $dir/redis.sock",
		'unixsocketperm 700', 'save ""', 'appendonly no', 'daemonize no',
		@{ $opt{conf} // [] });

	if (my $tls = $self->{tls})
	{
		push @conf, 'port 0', "tls-port $self->{port}", "tls-cert-file $tls->{cert}",
		  "tls-key-file $tls->{key}", "tls-ca-cert-file $tls->{ca}",
		  'tls-auth-clients optional';
	}
	else
	{
		push @conf, "port $self->{port}";
	}
	push @conf, "requirepass $self->{password}" if defined $self->{password};
	$self->{log} = "$PostgreSQL::Test::Utils::tmp_check/log/$self->{name}.log";
	open my $f, '>', "$dir/redis.conf" or croak $!;
	print $f map { "$_\n" } @conf;
	close $f or croak $!;
	$self->start;
	return $self;
}

sub host { return '127.0.0.1'; }
sub port { return $_[0]->{port}; }
sub pid { return $_[0]->{pid}; }
sub dir { return $_[0]->{dir}; }
sub socket { return "$_[0]->{dir}/redis.sock"; }

# SQL that makes the server that leads here, and a mapping for everybody.
# Options: name; options (of the server, a hash, instead of host and port);
# mapping (a hash).
sub server_sql
{
	my ($self, %opt) = @_;
	my $name = $opt{name} // 'redis';
	my %server = %{ $opt{options} // { host => $self->host, port => $self->port } };
	my %mapping = %{ $opt{mapping}
		  // { defined $self->{password} ? (password => $self->{password}) : () } };
	my $list = sub {
		my (%h) = @_;

		return %h ? ' OPTIONS (' . join(', ', map { "$_ " . LogqTest::lit($h{$_}) } sort keys %h) . ')' : '';
	};

	return "CREATE SERVER $name FOREIGN DATA WRAPPER logq_redis" . $list->(%server) . ";\n"
	  . (%mapping ? "CREATE USER MAPPING FOR PUBLIC SERVER $name" . $list->(%mapping) . ";\n" : '');
}

# ---------- the process ----------

# Return once it answers; with "loading", once it takes connections.  Arguments
# are more lines of its configuration.
sub start
{
	my ($self, @conf) = @_;

	croak "$self->{name} runs" if $self->{pid};
	unlink $self->socket;
	$self->{pid} = fork() // croak "fork: $!";
	if ($self->{pid} == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $self->{log};
		open STDERR, '>&', \*STDOUT;
		# it ends with the test
		exec 'setpriv', '--pdeathsig', 'KILL', '--', 'redis-server',
		  "$self->{dir}/redis.conf", map { split / /, "--$_" } @conf
		  or POSIX::_exit(127);
	}
	push @running, $self;
	LogqTest::poll(sub { return eval { $self->command('PING'); 1 } || $@ =~ /LOADING/; }, 20)
	  or croak "$self->{name} does not start: see $self->{log}";
	return;
}

sub end
{
	my ($self, $signal) = @_;

	return unless $self->{pid};
	$self->thaw if $self->{frozen};
	kill $signal, $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{control};
	$self->{pid} = undef;
	@running = grep { $_ != $self } @running;
	return;
}

sub stop { $_[0]->end('TERM'); return; }
sub kill9 { $_[0]->end('KILL'); return; }

sub restart
{
	my ($self) = @_;

	$self->kill9;
	$self->start;
	return;
}

# It hangs, until thaw()
sub freeze
{
	my ($self) = @_;

	LogqProcess::freeze_processes($self->{pid});
	$self->{frozen} = 1;
	LogqTest::poll(sub { return (LogqProcess::process_state($self->{pid}))[0] eq 'T'; }, 10)
	  or croak "$self->{name} does not stop";
	return;
}

sub thaw
{
	my ($self) = @_;

	LogqProcess::go_on($self->{pid});
	$self->{frozen} = 0;
	return;
}

# ---------- speaking to it ----------

sub control
{
	my ($self) = @_;

	return $self->{control} if $self->{control};
	$self->{control} = IO::Socket::UNIX->new(Peer => $self->socket)
	  or die "no connection to $self->{name}: $!\n";
	binmode $self->{control};
	$self->command('AUTH', $self->{password}) if defined $self->{password};
	return $self->{control};
}

sub read_line
{
	my ($self) = @_;
	my $line = readline $self->control;

	if (!defined $line)
	{
		delete $self->{control};
		die "$self->{name} has gone\n";
	}
	$line =~ s/\r\n\z//;
	return $line;
}

sub read_answer
{
	my ($self) = @_;
	my $line = $self->read_line;
	my ($type, $rest) = $line =~ /^(.)(.*)$/s;
	my $data;

	die "$rest\n" if $type eq '-';
	return $rest if $type eq '+' || $type eq ':';
	return undef if $rest < 0;
	return [ map { $self->read_answer } 1 .. $rest ] if $type eq '*';
	read($self->control, $data, $rest + 2) == $rest + 2 or die "$self->{name} has gone\n";
	return substr $data, 0, $rest;
}

# Bytes in, bytes out.  Dies of an error.
sub command
{
	my ($self, @words) = @_;
	my $control = $self->control;

	local $SIG{PIPE} = 'IGNORE';
	if (!print $control join '', '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words
		or !$control->flush)
	{
		delete $self->{control};
		die "$self->{name} has gone\n";
	}
	return $self->read_answer;
}

# All keys that begin with this
sub keys
{
	my ($self, $prefix) = @_;

	$prefix //= 'logq:';
	return sort grep { index($_, $prefix) == 0 } @{ $self->command('KEYS', '*') };
}

# Connections of others
sub clients
{
	my ($self) = @_;
	my $id = $self->command('CLIENT', 'ID');

	return grep { !/^id=$id / } split /\n/, $self->command('CLIENT', 'LIST');
}

# How often a command was called, by anybody
sub calls
{
	my ($self, $command) = @_;

	return $self->command('INFO', 'commandstats') =~ /^cmdstat_\Q$command\E:calls=(\d+)/m ? $1 : 0;
}

END
{
	my $rc = $?;

	foreach my $r (@running)
	{
		$r->end('KILL') if $r->{owner} == $$;
	}
	$? = $rc;
}

1;
