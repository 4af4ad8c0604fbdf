# Processes of servers: who they are, killing and stopping them.
#
#	kill_postmaster($node);		# SIGKILL; all its processes are gone after it
#	start_server($node);
#	freeze($node);				# SIGSTOP for the whole server: it hangs
#	thaw($node);
#
# Whatever is frozen goes on when the test ends, however that comes: a process
# of its own sees to that, as nobody could stop such a server otherwise.

package LogqProcess;

use strict;
use warnings;

use Exporter qw(import);
use LogqTest;
use PostgreSQL::Test::Utils qw(slurp_file);
use Time::HiRes qw(time);

our @EXPORT_OK = qw(descendants process_state is_alive wait_for_end
  postmaster_pid kill_postmaster start_server freeze thaw freeze_processes
  thaw_all sockets_of);

# how long anything may take, in seconds
our $patience = 120;

# pid => 1 of those that are stopped; and who lets them go on after us
my %frozen;
my $guard;
my $owner = $$;

# ---------- looking ----------

# Children of a process that are alive, and theirs
sub descendants
{
	my ($pid) = @_;
	my %children_of;
	my @found;
	my @todo = ($pid);

	foreach my $dir (glob '/proc/[0-9]*')
	{
		my ($state, $parent) = process_state($dir =~ s,.*/,,r) or next;

		push @{ $children_of{$parent} }, $dir =~ s,.*/,,r if $state ne 'Z';
	}
	while (@todo)
	{
		my @more = @{ $children_of{ shift @todo } // [] };

		push @found, @more;
		push @todo, @more;
	}
	return @found;
}

# State and parent of a process; nothing when there is none
sub process_state
{
	my ($pid) = @_;
	my $line;

	open my $file, '<', "/proc/$pid/stat" or return;
	$line = <$file>;
	close $file;
	return defined $line && $line =~ /.*\) (\S) (\d+)/s ? ($1, $2) : ();
}

sub is_alive
{
	my ($pid) = @_;
	my ($state) = process_state($pid);

	return defined $state && $state ne 'Z' && $state ne 'X';
}

# Wait until processes have ended
sub wait_for_end
{
	my ($what, @pids) = @_;

	LogqTest::poll(sub { return !grep { is_alive($_) } @pids; }, $patience)
	  or die "processes of $what do not end: @pids";
	return;
}

sub postmaster_pid
{
	my ($node) = @_;

	return (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
}

# How many sockets a process has open.  Other files come and go as PostgreSQL
# likes.
sub sockets_of
{
	my ($pid) = @_;

	return scalar grep { (readlink // '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
}

# ---------- killing ----------

# SIGKILL for a postmaster.  Its processes notice; the next one needs their
# shared memory to be gone.
sub kill_postmaster
{
	my ($node) = @_;
	my $pid = postmaster_pid($node);
	my @pids = descendants($pid);

	$node->kill9;
	wait_for_end($node->name, $pid, @pids);
	# one that nobody has waited for still has its process id
	unlink $node->data_dir . '/postmaster.pid' if process_state($pid);
	return;
}

sub start_server
{
	my ($node) = @_;

	LogqTest::poll(sub { return $node->start(fail_ok => 1); }, $patience)
	  or die 'server ' . $node->name . ' does not start';
	return;
}

# ---------- stopping ----------

# Tell the guard, which reads one line after another: "+pid" and "-pid"
sub tell_guard
{
	my (@lines) = @_;

	if (!$guard)
	{
		my $program = <<'PERL';
my %p;
$SIG{$_} = 'IGNORE' foreach qw(INT TERM HUP PIPE);
while (<STDIN>)
{
	/^\+(\d+)/ and $p{$1} = 1;
	/^-(\d+)/ and delete $p{$1};
}
kill 'CONT', keys %p if %p;
PERL

		open $guard, '|-', $^X, '-e', $program or die "guard: $!";
		$guard->autoflush(1);
	}
	print $guard map { "$_\n" } @lines;
	return;
}

# SIGSTOP for some processes
sub freeze_processes
{
	my (@pids) = @_;

	return 0 unless @pids;
	tell_guard(map { "+$_" } @pids);
	$frozen{$_} = 1 foreach @pids;
	return kill 'STOP', @pids;
}

# ... for a server.  Its postmaster comes first, so that it starts no others.
sub freeze
{
	my ($node) = @_;
	my $pid = postmaster_pid($node);

	freeze_processes($pid);
	LogqTest::poll(sub { return (process_state($pid))[0] eq 'T'; }, 10);
	freeze_processes(descendants($pid));
	return;
}

sub go_on
{
	my (@pids) = @_;

	return unless @pids;
	kill 'CONT', @pids;
	delete $frozen{$_} foreach @pids;
	tell_guard(map { "-$_" } @pids);
	return;
}

sub thaw
{
	my ($node) = @_;
	my $pid = postmaster_pid($node);

	go_on(grep { $frozen{$_} } $pid, descendants($pid));
	return;
}

sub thaw_all
{
	go_on(keys %frozen);
	return;
}

END
{
	# Cluster.pm is going to stop the servers
	my $status = $?;

	kill 'CONT', keys %frozen if %frozen && $$ == $owner;
	$? = $status;
}

1;
