# A PgBouncer in transaction mode before a server of a test.
#
#	my $b = LogqPgBouncer->new(node => $c->part('p1'), name => 'b1');
#	$c->sql("ALTER SERVER p1 OPTIONS (ADD pooler '" . $b->address . "')");
#	my ($pool) = $b->show('POOLS');			# rows as hashes
#	$b->kill9; $b->start;
#
# Options: name; node; users (a hash of passwords; the role "logq" with that of
# LogqTest); auth_type (scram-sha-256); conf (a hash that overrides what is in
# the section [pgbouncer]; undef leaves a setting out).
#
# It is a process of the user who runs the test, with a port of its own on
# 127.0.0.1 and a socket in a folder of its own.  It ends when the test does,
# however that comes.

package LogqPgBouncer;

use strict;
use warnings;

use Carp;
use File::Temp;
use LogqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();

my @running;

# Debian has it where only root looks
sub program
{
	foreach my $dir (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin')
	{
		return "$dir/pgbouncer" if -x "$dir/pgbouncer";
	}
	return undef;
}

sub new
{
	my ($class, %opt) = @_;
	my $node = $opt{node} // croak 'no node';
	my $dir = File::Temp::tempdir('logqXXXXXX', TMPDIR => 1, CLEANUP => 1);
	my %users = %{ $opt{users} // { logq => $LogqTest::password } };
	my $self = bless {
		name => $opt{name} // 'pgbouncer',
		node => $node,
		dir => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		owner => $$
	  },
	  $class;
	my %conf = (
		listen_addr => '127.0.0.1',
		listen_port => $self->{port},
		unix_socket_dir => $dir,
		auth_type => $opt{auth_type} // 'scram-sha-256',
		auth_file => "$dir/users",
		pool_mode => 'transaction',
		max_client_conn => 200,
		default_pool_size => 5,
		server_tls_sslmode => 'disable',
		# clients of a server that is down are told so in between
		server_login_retry => 1,
		query_wait_timeout => 10,
		log_connections => 0,
		log_disconnections => 0,
		stats_period => 600,
		%{ $opt{conf} // {} });

	$self->{log} = "$PostgreSQL::Test::Utils::tmp_check/log/$self->{name}.log";
	$self->write_file('users', join '',
		map { sprintf "\"%s\" \"%s\"\n", map { s/"/""/gr } $_, $users{$_} }
		  sort keys %users);
	$self->write_file('ini',
		"[databases]\n* = host=" . $node->host . " port=" . $node->port . "\n\n"
		  . "[pgbouncer]\n"
		  . join('', map { "$_ = $conf{$_}\n" }
			grep { defined $conf{$_} } sort keys %conf));
	$self->start;
	return $self;
}

sub write_file
{
	my ($self, $name, $text) = @_;

	open my $f, '>', "$self->{dir}/$name" or croak $!;
	print $f $text;
	close $f or croak $!;
	return;
}

sub host { return '127.0.0.1'; }
sub port { return $_[0]->{port}; }
sub pid { return $_[0]->{pid}; }
sub socket_dir { return $_[0]->{dir}; }
sub address { return $_[0]->host . ':' . $_[0]->port; }

sub connstr
{
	my ($self, $db) = @_;

	return "host=$self->{dir} port=$self->{port} dbname=" . ($db // 'logs');
}

# Return once it listens
sub start
{
	my ($self) = @_;

	croak "$self->{name} runs" if $self->{pid};
	$self->{pid} = fork() // croak "fork: $!";
	if ($self->{pid} == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $self->{log};
		open STDERR, '>&', \*STDOUT;
		# as many clients as we may have; and it ends with the test
		exec 'sh', '-c',
		  'ulimit -n "$(ulimit -Hn)"; exec setpriv --pdeathsig TERM -- "$0" -q "$1"',
		  program(), "$self->{dir}/ini"
		  or POSIX::_exit(127);
	}
	push @running, $self;
	LogqTest::poll(sub {
		return -S "$self->{dir}/.s.PGSQL.$self->{port}"
		  && eval { $self->show('VERSION'); 1 };
	}, 20) or croak "$self->{name} does not start: see $self->{log}";
	return;
}

sub end
{
	my ($self, $signal) = @_;

	return unless $self->{pid};
	kill $signal, $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = undef;
	@running = grep { $_ != $self } @running;
	return;
}

# At once, whatever its clients are doing
sub stop { $_[0]->end('TERM'); return; }

# Without a goodbye to anybody.  The socket stays, as after a crash.
sub kill9 { $_[0]->end('KILL'); unlink glob "$_[0]->{dir}/.s.PGSQL.*"; return; }

# Rows of a SHOW command of its console, to which this user of its own needs no
# password over the socket
sub show
{
	my ($self, $what) = @_;
	my ($out, $err);
	my @psql = ($self->{node}->installed_command('psql'), '-XAt', '-F', "\t",
		'-P', 'tuples_only=off', '-P', 'footer=off', '-U', 'pgbouncer',
		'-d', $self->connstr('pgbouncer'), '-c', "SHOW $what");

	IPC::Run::run(\@psql, '>', \$out, '2>', \$err, IPC::Run::timeout(30))
	  or croak "$self->{name}: $err";
	my ($head, @rows) = split /\n/, $out;
	my @names = split /\t/, $head;

	return map {
		my @values = split /\t/, $_, -1;
		+{ map { $names[$_] => $values[$_] } 0 .. $#names };
	} @rows;
}

# Connections to the server that are open, of a user or all
sub servers
{
	my ($self, $user) = @_;

	return grep { !defined $user || $_->{user} eq $user } $self->show('SERVERS');
}

END
{
	my $rc = $?;

	foreach my $b (@running)
	{
		$b->end('TERM') if $b->{owner} == $$;
	}
	$? = $rc;
}

1;
