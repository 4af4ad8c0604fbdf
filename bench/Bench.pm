# What the parts of the benchmark share: sessions that answer queries and tell
# how long it took, and results that are printed and written down.

package Bench;

use strict;
use warnings;

use Exporter 'import';
use IO::Handle;
use IPC::Open2;

our @EXPORT = qw(%failed add_result ask at between fail median number
  output_to print_row run_once stop take_turns wanted_cases);

# cases and systems that have failed, "CASE PEER" => why
our %failed;

my $psql = ($ENV{LOGQ_BINDIR} // '') . '/psql';

# ---- sessions ------------------------------------------------------------

# A system is a hash.  program: speaks the language of floor.c; otherwise it is
# a psql that goes to "connect" (the database "logs") after "settings".  psql
# writes to a pipe in blocks unless told otherwise.
sub start
{
	my $system = shift;
	my @command =
	  $system->{program}
	  ? ($system->{program})
	  : (
		'stdbuf', '-oL', $psql, '-X', '-q', '-A', '-t',
		'-d', $system->{connect} // 'logs');

	# errors come in between the output, to be found there
	my ($from, $to);
	my $pid =
	  open2($from, $to, 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command);
	$to->autoflush(1);
	@$system{qw(pid from to)} = ($pid, $from, $to);
	unless ($system->{program})
	{
		# the result itself is not looked at
		print $to "SET statement_timeout = '120s';\n",
		  map { "SET $_;\n" } @{ $system->{settings} // [] };
		print $to "\\o /dev/null\n\\timing on\n";
	}
	return;
}

sub stop
{
	my $system = shift;

	return unless $system->{pid};
	close $system->{to};
	close $system->{from};
	waitpid $system->{pid}, 0;
	delete @$system{qw(pid from to)};
	return;
}

# Run it once.  Returns the time in ms; dies with the error otherwise.
sub run_once
{
	my ($system, $query) = @_;
	my $error = '';

	start($system) unless $system->{pid};
	local $SIG{PIPE} = 'IGNORE';
	my $to = $system->{to};
	my $from = $system->{from};
	print $to $query, $system->{program} ? "\n" : ";\n";
	while (1)
	{
		my $line = <$from>;

		if (!defined $line)
		{
			stop($system);
			die $error || "the session has ended\n";
		}
		if ($line =~ /^(?:Time: )?([0-9.]+)(?: ms.*)?$/)
		{
			die $error if $error;
			return $1;
		}
		$error .= $line;
	}
}

# Let a psql write results to a file; what it has written to another one is
# there then
sub output_to
{
	my ($system, $file) = @_;

	start($system) unless $system->{pid};
	local $SIG{PIPE} = 'IGNORE';
	my $to = $system->{to};
	my $from = $system->{from};
	print $to "\\o '", $file =~ s/'/''/gr, "'\n\\echo ready\n";
	my $line = <$from> // "the session has ended\n";
	die $line unless $line eq "ready\n";
	return;
}

# What a query returns, from a psql of its own
sub ask
{
	my ($system, $query, @arguments) = @_;

	open(
		my $out, '-|', $psql, '-X', '-q', '-A', '-t', @arguments,
		'-v', 'ON_ERROR_STOP=1',
		'-d', $system->{connect} // 'logs',
		(map { ('-c', "SET $_") } @{ $system->{settings} // [] }),
		'-c', $query) or die "could not start psql: $!\n";
	local $/;
	my $answer = <$out>;
	close $out or die "the query has failed\n";
	return $answer;
}

# ---- queries -------------------------------------------------------------

sub at
{
	my $time = shift;
	my @t = gmtime $time;

	return sprintf "'%04d-%02d-%02d %02d:%02d:%02d+00'", $t[5] + 1900,
	  $t[4] + 1, @t[ 3, 2, 1, 0 ];
}

sub between
{
	my ($from, $to) = @_;

	return 'ts >= ' . at($from) . ' AND ts < ' . at($to);
}

# ---- results -------------------------------------------------------------

sub median
{
	my @sorted = sort { $a <=> $b } @_;

	return undef unless @sorted;
	return $sorted[ $#sorted / 2 ] if @sorted % 2;
	return ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub number
{
	my $n = shift;

	return '-' unless defined $n;
	return sprintf($n < 10 ? '%.2f' : $n < 100 ? '%.1f' : '%.0f', $n);
}

sub print_row
{
	printf "%-24s %10s  %-21s %10s %8s  %s\n", @_;
	return;
}

sub fail
{
	my ($case, $name, $error) = @_;

	# the first one says most
	return if $failed{"$case $name"};
	$failed{"$case $name"} = $error;
	$error =~ s/^/    /mg;
	print "  $case on $name FAILED:\n$error";
	return;
}

# Times by name: the systems take turns, so that whatever else this machine
# does hits all of them.  Each has a function that runs it once, given the
# number of the run.  Nothing that has failed is run again.
sub take_turns
{
	my ($case, $pace, $names, $run) = @_;
	my (%times, %spent);

	# caches, connections, catalogs
	for my $name (@$names)
	{
		for my $i (0 .. $pace->{warm} - 1)
		{
			next if $failed{"$case $name"};
			eval { $run->{$name}->($i); 1 } or fail($case, $name, $@);
		}
		$spent{$name} = 0;
		$times{$name} = [];
	}
	for my $i (1 .. $pace->{runs})
	{
		for my $name (@$names)
		{
			next if $failed{"$case $name"};
			next
			  if @{ $times{$name} } >= 3
			  and $spent{$name} > $pace->{seconds} * 1000;
			my $ms = eval { $run->{$name}->($i) };

			if (!defined $ms)
			{
				fail($case, $name, $@);
				next;
			}
			push @{ $times{$name} }, $ms;
			$spent{$name} += $ms;
		}
	}
	return \%times;
}

# Write a result down, as one line of JSON with the fields in the order given
sub add_result
{
	my ($file, @fields) = @_;
	my @texts;

	while (my ($name, $value) = splice @fields, 0, 2)
	{
		push @texts, "\"$name\": "
		  . (
			!defined $value ? 'null'
			: $value =~ /^-?[0-9]+$/ ? $value
			: $value =~ /^-?[0-9.]+(?:e[-+]?[0-9]+)?$/ ? sprintf('%.3f', $value)
			: "\"$value\"");
	}
	open(my $out, '>>', $file) or die "could not write $file: $!\n";
	print $out '{', join(', ', @texts), "}\n";
	close $out or die "could not write $file: $!\n";
	return;
}

# The names among $all that the caller asked for, all of them if none
sub wanted_cases
{
	my ($all, @only) = @_;
	my %only = map { $_ => 1 } @only;

	return grep { !@only || $only{$_} } @$all;
}

1;
