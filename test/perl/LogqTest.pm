# A coordinator and its partitions for the TAP tests, each a server of its own.
#
#	my $c = LogqTest->new(partitions => 3);
#	$c->sql("SELECT count(*) FROM logq.logs");		# on the coordinator
#	$c->on('p1', "SELECT 1");						# on a partition
#	$c->fails("...", qr/^08/, qr/"p1"/, "name");	# SQLSTATE and message
#	my $s = $c->session;							# a psql that stays open
#
#	my $c = LogqTest->new(replicas => 1);			# each partition has a standby
#	$c->replica('p1')->stop;						# a node as any other
#	$c->wait_for_catchup_all;
#
#	my $c = LogqTest->new(pooled => {});			# each has a PgBouncer
#	$c->pooler('p1')->stop;
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

# A psql that cannot connect may have gone before it is written to, of which
# IPC::Run dies: whoever polls a server that is starting again would die with it.
# Nothing was done, so it is tried once more.
{
	my $psql = \&PostgreSQL::Test::Cluster::psql;
	my $tries = 50;

	no warnings 'redefine';
	*PostgreSQL::Test::Cluster::psql = sub {
		my $list = wantarray;
		my @r;

		for my $try (1 .. $tries)
		{
			return $list ? @r : $r[0] if eval {
				@r = $list ? $psql->(@_) : scalar $psql->(@_);
				1;
			};
			die $@ if $@ !~ /Broken pipe/ || $try == $tries;
			usleep(20_000);
		}
	};
}

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

	return start_node($name, {}, @conf);
}

# ... that was made with these options of init()
sub start_node
{
	my ($name, $init, @conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%$init, extra => [ '--locale=C.UTF-8', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', join("\n",
		"log_statement = none", "log_min_duration_statement = -1",
		"timezone = 'UTC'", "max_wal_size = 2GB", @conf));
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', <<'HBA');
local all logq scram-sha-256
local all all trust
HBA
	$node->append_conf('pg_hba.conf', "local replication all trust\n")
	  if $init->{allows_streaming};
	$node->start;
	return $node;
}

# Options: partitions (3), conf and coordinator_conf (lists of lines),
# add (1; 0 leaves servers to the test), segment_interval, prefix (of the names
# of servers, when a test needs a second cluster), replicas (0; of each
# partition, or a hash by name), replica_conf (what these have beyond conf),
# pooled (none; sessions go to each partition through a PgBouncer with this
# conf, see LogqPgBouncer).
#
#	LOGQ_POOLED=1		gives every test such poolers
#	LOGQ_TEST_CONF=...	lines for every coordinator, with ";" between them
sub new
{
	my ($class, %opt) = @_;
	my $n = $opt{partitions} // 3;
	my $prefix = $opt{prefix} // '';
	my $pooled = $opt{pooled} //
	  ($ENV{LOGQ_POOLED} ? { default_pool_size => 20 } : undef);
	my $self = bless {
		names => [],
		parts => {},
		replicas => {},
		poolers => {},
		segment_interval => $opt{segment_interval}
	  },
	  $class;

	foreach my $i (1 .. $n)
	{
		my $name = "p$i";
		my $n_replicas = $opt{replicas} // 0;
		my @conf = @{ $opt{conf} // [] };
		my $node;

		$n_replicas = $n_replicas->{$name} // 0 if ref $n_replicas;
		$node = $n_replicas
		  ? start_node("$prefix$name", { allows_streaming => 1 },
			streaming_conf($n_replicas), @conf)
		  : start_server("$prefix$name", @conf);

		set_up_partition_database($node, 'logs');
		push @{ $self->{names} }, $name;
		$self->{parts}{$name} = $node;
		$self->{replicas}{$name} =
		  [ start_replicas($node, $n_replicas, @{ $opt{replica_conf} // [] }) ];
		if (defined $pooled)
		{
			require LogqPgBouncer;
			$self->{poolers}{$name} = LogqPgBouncer->new(
				node => $node, name => "$prefix$name.pooler", conf => $pooled);
		}
	}
	$self->{coordinator} = start_coordinator("${prefix}coordinator",
		@{ $opt{coordinator_conf} // [] });
	if ($opt{add} // 1)
	{
		$self->add_partition($_) foreach @{ $self->{names} };
	}
	return $self;
}

# What a server with replicas needs.  Cluster.pm makes those that stream very
# small otherwise.
sub streaming_conf
{
	my ($n) = @_;

	return (
		"max_connections = 100", "shared_buffers = 128MB",
		"max_wal_senders = " . ($n + 10), "max_replication_slots = " . ($n + 10)
	);
}

# Physical standbys of a server, p1r1, p1r2, ...  Slots keep what they need, so
# that one that was stopped for long catches up.
sub start_replicas
{
	my ($node, $n, @conf) = @_;
	my @replicas;

	return () if $n == 0;
	$node->backup('replica');
	foreach my $i (1 .. $n)
	{
		my $replica = PostgreSQL::Test::Cluster->new($node->name . "r$i");

		$node->safe_psql('postgres',
			"SELECT pg_create_physical_replication_slot('r$i', true)");
		$replica->init_from_backup($node, 'replica', has_streaming => 1);
		$replica->append_conf('postgresql.conf',
			join("\n", "primary_slot_name = 'r$i'", @conf));
		$replica->start;
		push @replicas, $replica;
	}
	return @replicas;
}

# A server with the extension, but without partitions
sub start_coordinator
{
	my ($name, @conf) = @_;
	my $node = start_server($name, "shared_preload_libraries = 'logq'",
		split(/\s*;\s*/, $ENV{LOGQ_TEST_CONF} // ''), @conf);

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

# SQL that makes a server object for a partition and a mapping for CURRENT_USER.
# Options: node or host and port (of a proxy, say), db, replicas (a list of
# addresses or of all that has host and port; those of the partition).  The
# partition's pooler goes with the partition.
sub server_sql
{
	my ($self, $name, %opt) = @_;
	my $node = $opt{node} // $self->{parts}{$name};
	my $db = $opt{db} // 'logs';
	my $host = $opt{host} // $node->host;
	my $port = $opt{port} // $node->port;
	my $replicas = addresses(@{ $opt{replicas} //
			($opt{node} ? [] : $self->{replicas}{$name}) // [] });

	my $pooler = $opt{node} || $opt{host} || $opt{port} ? undef
	  : $self->{poolers}{$name};

	$replicas = ', replicas ' . lit($replicas) if $replicas ne '';
	$replicas .= ', pooler ' . lit($pooler->address) if $pooler;
	return <<"SQL";
CREATE SERVER $name FOREIGN DATA WRAPPER logq_fdw
	OPTIONS (host @{[ lit($host) ]}, port '$port', dbname '$db'$replicas);
CREATE USER MAPPING FOR CURRENT_USER SERVER $name
	OPTIONS (user 'logq', password @{[ lit($password) ]});
SQL
}

# What the option "replicas" says for nodes, proxies and "host:port"
sub addresses
{
	return join ',', map { ref $_ ? $_->host . ':' . $_->port : $_ } @_;
}

# Send the coordinator elsewhere: a node or proxy instead of the partition and,
# in a list, of its replicas; without them back to where they are
sub route
{
	my ($self, $name, $to, $replicas) = @_;
	my $addresses =
	  addresses(@{ $replicas // $self->{replicas}{$name} // [] });
	my $old = $self->sql("SELECT true FROM pg_foreign_server WHERE srvname = '$name' AND srvoptions::text LIKE '%replicas=%'");
	my $change = $addresses eq '' ? ($old ? ', DROP replicas' : '')
	  : ', ' . ($old ? 'SET' : 'ADD') . ' replicas ' . lit($addresses);

	$to //= $self->part($name);
	return $self->sql("ALTER SERVER $name OPTIONS (SET host "
		  . lit($to->host) . ", SET port '" . $to->port . "'$change)");
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

# The replicas of a partition
sub replicas { return @{ $_[0]->{replicas}{ $_[1] } // [] }; }

# One of them, counted from 1
sub replica
{
	my ($self, $name, $i) = @_;

	$i //= 1;
	return ($self->replicas($name))[ $i - 1 ]
	  // croak "no replica $i of $name";
}

# The PgBouncer of a partition
sub pooler
{
	return $_[0]->{poolers}{ $_[1] } // croak "no pooler of $_[1]";
}

# Is it running, and still a standby?
sub is_standby
{
	my ($node) = @_;

	return $node->{_pid} && -e $node->data_dir . '/standby.signal';
}

# All standbys that run have replayed what their partitions have written.  Not
# for one that is paused.  What was written last may be half a record; a commit
# behind it completes that.
sub wait_for_catchup_all
{
	my ($self) = @_;

	foreach my $name ($self->names)
	{
		next unless grep { is_standby($_) } $self->replicas($name);
		$self->on($name, "SELECT pg_logical_emit_message(true, 'test', '')");
		$self->part($name)->wait_for_catchup($_)
		  foreach grep { is_standby($_) } $self->replicas($name);
	}
	return;
}

# Keep a replica where it is, until resume_replica()
sub pause_replica
{
	my ($self, $name, $i) = @_;
	my $replica = $self->replica($name, $i);

	$replica->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	poll(sub {
		return $replica->safe_psql('postgres',
			'SELECT pg_get_wal_replay_pause_state()') eq 'paused';
	}) or croak "replica of $name does not pause";
	return;
}

sub resume_replica
{
	my ($self, $name, $i) = @_;

	$self->replica($name, $i)
	  ->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	return;
}

# Make a partition of its own of a replica.  Its siblings go on following the
# old one.  It takes writes when this is over.
sub promote_replica
{
	my ($self, $name, $i) = @_;
	my $replica = $self->replica($name, $i);

	$replica->promote;
	poll(sub {
		return $replica->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 'f';
	}) or croak "replica of $name is not promoted";
	return $replica;
}

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

# Change a setting of the coordinator's server, or take the change back
sub setting
{
	my ($self, $name, $value) = @_;

	$self->{coordinator}->safe_psql('postgres', "ALTER SYSTEM " .
		(defined $value ? "SET $name = '$value'" : "RESET $name"));
	$self->{coordinator}->reload;
	return;
}

# Test: what is over is sealed.  From then on nothing is: with an hour that ends
# meanwhile, a partition that is down would be behind.
sub sealed_and_no_more
{
	my ($self) = @_;
	my $n = () = $self->names;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll_ok(sub {
		return $self->sql("SELECT count(DISTINCT partition) = $n AND bool_and(state = 'sealed') FROM logq.segments WHERE upper < now()") eq 't';
	}, 'what is over is sealed');
	$self->setting('logq.seal_after', '30d');
	return;
}

# How many segments of a partition are over and open
sub due
{
	my ($self, $name) = @_;

	return $self->on($name, "SELECT count(*) FROM logq_store.segment WHERE state = 'open' AND upper <= now()");
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

# What logq has under way on those of the partitions and their replicas that
# run, one line a backend: "p1: ..." or "p1r1: ..."
sub remote_activity
{
	my ($self, @names) = @_;
	my @lines;

	foreach my $name (@names ? @names : $self->names)
	{
		my @nodes = $self->part($name)->{_pid} ? [ $name, $self->part($name) ] : ();
		my $i = 0;

		foreach my $replica ($self->replicas($name))
		{
			$i++;
			push @nodes, [ "${name}r$i", $replica ] if $replica->{_pid};
		}
		foreach my $n (@nodes)
		{
			my $out = $n->[1]->safe_psql('logs', <<'SQL');
SELECT pid, state, coalesce(wait_event, '-'), left(query, 1000)
FROM pg_stat_activity WHERE usename = 'logq' AND state <> 'idle'
SQL
			push @lines, map { "$n->[0]: $_" } grep { $_ ne '' } split /\n/, $out;
		}
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
#	$s->blocks($user)		waits until somebody waits for a lock it has
#	$s->is_blocked			waits until it waits for a lock itself
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
		node => $node,
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
		last if $self->{timer}->is_expired;
		if (!eval { $self->{run}->pump; 1 } || !$self->{run}->pumpable)
		{
			$dead = 1;
			last;
		}
	}
	# when one runs out between two questions, the next is not sent
	my $late = $self->{timer}->is_expired;
	$self->{timer}->reset;
	return undef if $late;
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

# Wait until somebody (of a name) waits for this session.  Not for just any
# lock: who builds an index waits for all snapshots, that of the one who looks
# included.
sub blocks
{
	my ($self, $user) = @_;
	my $whose = $user ? "usename = '$user' AND" : '';

	return $self->until(sprintf(<<'SQL', $whose, $self->{pid}));
SELECT count(*) > 0 FROM pg_stat_activity
WHERE %s wait_event_type = 'Lock' AND %d = ANY (pg_blocking_pids(pid))
SQL
}

# Wait until this session waits for a lock
sub is_blocked
{
	my ($self) = @_;

	return $self->until(sprintf(<<'SQL', $self->{pid}));
SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %d
SQL
}

# Wait until a query says so to somebody else at the same server
sub until
{
	my ($self, $sql) = @_;

	return LogqTest::poll(sub {
			$self->{node}->safe_psql('postgres', $sql) eq 't'; });
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
