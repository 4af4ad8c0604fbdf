# A coordinator and its partitions for the TAP tests, each a server of its own.
#
#	my $c = LogqTest->new(partitions => 3);
#	$c->sql("SELECT count(*) FROM logq.logs");		# on the coordinator
#	$c->on('p1', "SELECT 1");						# on a partition
#	$c->fails("...", qr/^08/, qr/"p1"/, "name");	# SQLSTATE and message
#	my $s = $c->session;							# a psql that stays open
#
# Partitions are reached as role "logq", which needs a password and is no
# superuser there.  Everybody else is trusted: tests look behind logq's back as
# the superuser.  Nothing here sleeps for a fixed time to have something done:
# poll() and poll_ok() look again until it is.

package LogqTest;

use strict;
use warnings;

use Carp;
use File::Spec;

# Where Cluster.pm reserves ports; its default is inside the installation
BEGIN
{
	$ENV{PG_TEST_PORT_DIR} //= File::Spec->tmpdir . '/logq-ports';
}

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our $password = q{pass%word's-72c1};
our $poll_seconds = 60;

# An SQL literal
sub lit
{
	my ($text) = @_;

	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return $text =~ /\\/ ? " E'" . ($text =~ s/\\/\\\\/gr) . "'" : "'$text'";
}

# A server with database "logs" owned by role "logq"
sub start_server
{
	my ($name, @conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C.UTF-8', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', join("\n",
		"log_statement = none", "log_min_duration_statement = -1",
		"timezone = 'UTC'", "max_wal_size = 2GB", @conf));
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', <<'HBA');
local all logq scram-sha-256
local all all trust
HBA
	$node->start;
	return $node;
}

# Options: partitions (3), conf and coordinator_conf (lists of lines),
# add (1; 0 leaves servers to the test), segment_interval, prefix (of the names
# of servers, when a test needs a second cluster).
sub new
{
	my ($class, %opt) = @_;
	my $n = $opt{partitions} // 3;
	my $prefix = $opt{prefix} // '';
	my $self = bless {
		names => [],
		parts => {},
		segment_interval => $opt{segment_interval}
	  },
	  $class;

	foreach my $i (1 .. $n)
	{
		my $name = "p$i";
		my $node = start_server("$prefix$name", @{ $opt{conf} // [] });

		set_up_partition_database($node, 'logs');
		push @{ $self->{names} }, $name;
		$self->{parts}{$name} = $node;
	}
	$self->{coordinator} = start_coordinator("${prefix}coordinator",
		@{ $opt{coordinator_conf} // [] });
	if ($opt{add} // 1)
	{
		$self->add_partition($_) foreach @{ $self->{names} };
	}
	return $self;
}

# A server with the extension, but without partitions
sub start_coordinator
{
	my ($name, @conf) = @_;
	my $node = start_server($name, "shared_preload_libraries = 'logq'", @conf);

	$node->safe_psql('postgres', 'CREATE DATABASE logs');
	$node->safe_psql('logs', 'CREATE EXTENSION logq');
	return $node;
}

# A further database that can be a partition; options as of CREATE DATABASE
sub set_up_partition_database
{
	my ($node, $db, $options) = @_;

	$node->safe_psql('postgres', <<"SQL");
DO \$\$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'logq') THEN
		CREATE ROLE logq LOGIN PASSWORD @{[ lit($password) ]};
	END IF;
END
\$\$;
SQL
	$node->safe_psql('postgres',
		"CREATE DATABASE $db OWNER logq " . ($options // ''));
	return;
}

# SQL that makes a server object for a partition and a mapping for CURRENT_USER
sub server_sql
{
	my ($self, $name, %opt) = @_;
	my $node = $opt{node} // $self->{parts}{$name};
	my $db = $opt{db} // 'logs';
	my $host = $node->host;
	my $port = $node->port;

	return <<"SQL";
CREATE SERVER $name FOREIGN DATA WRAPPER logq_fdw
	OPTIONS (host @{[ lit($host) ]}, port '$port', dbname '$db');
CREATE USER MAPPING FOR CURRENT_USER SERVER $name
	OPTIONS (user 'logq', password @{[ lit($password) ]});
SQL
}

sub add_partition
{
	my ($self, $name, %opt) = @_;
	my $interval = $self->{segment_interval};
	my $coordinator = $opt{coordinator} // $self->{coordinator};

	return $coordinator->safe_psql('logs',
		$self->server_sql($name, %opt) . "SELECT logq.add_partition('$name'" .
		  (defined $interval ? ", segment_interval => '$interval'" : '') . ")");
}

sub coordinator { return $_[0]->{coordinator}; }
sub part { return $_[0]->{parts}{ $_[1] } // croak "no partition $_[1]"; }
sub names { return @{ $_[0]->{names} }; }

# Run SQL on the coordinator; dies on error
sub sql
{
	my ($self, $sql, %opt) = @_;

	return $self->{coordinator}->safe_psql('logs', $sql, %opt);
}

# ... on a partition, as superuser
sub on
{
	my ($self, $name, $sql, %opt) = @_;

	return $self->part($name)->safe_psql('logs', $sql, %opt);
}

# Run SQL that may fail, on the coordinator.  Returns a hash: out, err, state
# (SQLSTATE of the first error, '' for none), message (its primary message).
# Options: user, db, node, env (of libpq; a hash).
sub try
{
	my ($self, $sql, %opt) = @_;
	my $node = $opt{node} // $self->{coordinator};
	my ($out, $err) = ('', '');
	my @extra = ('-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=always');
	my %r;

	push @extra, '-U', $opt{user} if defined $opt{user};
	local %ENV = (%ENV, %{ $opt{env} // {} });
	$node->psql($opt{db} // 'logs', $sql,
		stdout => \$out, stderr => \$err,
		on_error_stop => $opt{on_error_stop} // 1,
		extra_params => \@extra, timeout => 180);
	$r{out} = $out;
	$r{err} = $err;
	if ($err =~ /(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}):\s+(.*)/)
	{
		$r{state} = $1;
		$r{message} = $2;
	}
	else
	{
		# psql itself has something to complain of
		$r{state} = $err =~ /error:|server closed/ ? 'psql' : '';
		$r{message} = '';
	}
	return \%r;
}

# Test: SQL fails with this SQLSTATE and all that it says matches
sub fails
{
	my ($self, $sql, $state, $message, $name, %opt) = @_;
	my $r = $self->try($sql, %opt);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(1, $name)
	  if $r->{state} =~ /^(?:$state)/ && $r->{err} =~ $message;
	ok(0, $name);
	diag("of: $sql");
	diag("wanted SQLSTATE $state and $message, got "
		  . ($r->{state} eq '' ? "no error: $r->{out}" : $r->{err}));
	return 0;
}

# Test: SQL gives this output
sub gives
{
	my ($self, $sql, $wanted, $name, %opt) = @_;
	my $r = $self->try($sql, %opt);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($r->{state} eq '' ? $r->{out} : $r->{err}, $wanted, $name)
	  or diag("of: $sql");
	return;
}

# Look until the code returns something true, or the time is over
sub poll
{
	my ($code, $seconds) = @_;
	my $end = time + ($seconds // $poll_seconds);

	for (;;)
	{
		my $r = $code->();

		return $r if $r;
		return $r if time >= $end;
		usleep(20_000);
	}
}

sub poll_ok
{
	my ($code, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(poll($code, $seconds), $name);
}

# What logq has under way on the partitions, one line a backend
sub remote_activity
{
	my ($self, @names) = @_;
	my @lines;

	foreach my $name (@names ? @names : $self->names)
	{
		my $out = $self->on($name, <<'SQL');
SELECT pid, state, coalesce(wait_event, '-'), left(query, 200)
FROM pg_stat_activity WHERE usename = 'logq' AND state <> 'idle'
SQL
		push @lines, map { "$name: $_" } grep { $_ ne '' } split /\n/, $out;
	}
	return @lines;
}

# Test: nothing is left running on any partition, within some seconds
sub quiet
{
	my ($self, $name, $seconds) = @_;
	my @left;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(poll(sub { @left = $self->remote_activity; return !@left; },
			$seconds // 5), $name)
	  or diag("still there: ", explain(\@left));
	return;
}

# Number of rows on each partition, looked up there: "p1 3, p2 5"
sub rows_by_partition
{
	my ($self) = @_;

	return join ', ',
	  map { "$_ " . $self->on($_, 'SELECT count(*) FROM logq_store.log') }
	  $self->names;
}

sub session
{
	my ($self, %opt) = @_;

	return LogqTest::Session->new($opt{node} // $self->{coordinator}, %opt);
}

# ---------------------------------------------------------------------
# A psql that stays open.
#
#	$s->query($sql)			output, errors included
#	$s->send($sql)			does not wait; then
#	$s->wait($seconds)		output, or undef when it takes longer
# ---------------------------------------------------------------------

package LogqTest::Session;

use strict;
use warnings;

use IPC::Run;
use Time::HiRes qw(time);

my $marker = 'logq-session-marker';

sub new
{
	my ($class, $node, %opt) = @_;
	my $self = bless {
		in => '',
		out => '',
		err => '',
		n => 0
	  },
	  $class;
	my @psql = ($node->installed_command('psql'),
		'-XAtq', '-f', '-', '-v', 'VERBOSITY=verbose', '-d',
		$node->connstr($opt{db} // 'logs'));

	push @psql, '-U', $opt{user} if defined $opt{user};
	local %ENV = (%ENV, %{ $opt{env} // {} });
	$self->{timer} = IPC::Run::timer(60);
	$self->{run} = IPC::Run::start(\@psql, '<', \$self->{in},
		'>', \$self->{out}, '2>', \$self->{err}, $self->{timer});
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	die "no session: $self->{pid}" if $self->{pid} !~ /^\d+$/;
	return $self;
}

sub send
{
	my ($self, $sql) = @_;

	$self->{n}++;
	$self->{out} = $self->{err} = '';
	$self->{in} .=
	  "$sql\n;\n\\echo $marker $self->{n}\n\\warn $marker $self->{n}\n";
	eval { $self->{run}->pump_nb; };
	return;
}

# Output of what was sent, then errors; undef when it is not over in time.  A
# session that has ended says so.
sub wait
{
	my ($self, $seconds) = @_;
	my $end = qr/^$marker $self->{n}\n/m;
	my $dead = 0;
	my ($out, $err);

	$self->{timer}->start($seconds // 120);
	until ($self->{out} =~ $end && $self->{err} =~ $end)
	{
		return undef if $self->{timer}->is_expired;
		if (!eval { $self->{run}->pump; 1 } || !$self->{run}->pumpable)
		{
			$dead = 1;
			last;
		}
	}
	($out, $err) = ($self->{out}, $self->{err});
	s/$end.*//s foreach $out, $err;
	$out .= $err;
	$out .= "session ended\n" if $dead;
	$out =~ s/^psql:<stdin>:\d+: //mg;
	chomp $out;
	return $out;
}

sub query
{
	my ($self, $sql, $seconds) = @_;

	$self->send($sql);
	return $self->wait($seconds)
	  // die "no answer within the time: $sql";
}

# Process id of psql itself
sub client_pid
{
	my ($self) = @_;

	return $self->{run}->{KIDS}[0]{PID};
}

sub kill_client
{
	my ($self) = @_;

	$self->{run}->kill_kill(grace => 0);
	return;
}

sub quit
{
	my ($self) = @_;

	$self->{in} .= "\\q\n";
	eval { $self->{run}->finish; };
	return;
}

1;
