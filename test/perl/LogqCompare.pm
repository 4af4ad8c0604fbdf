# Runs queries on a plain table and on logq.logs, and compares the answers.
#
#	my $cmp = LogqCompare->new(cluster => $c, queries => $g, seed => $seed);
#	$cmp->run(1, 100);			# queries 1 to 100
#	$cmp->run(101, 150, tables => { T => [...], N => [...] }, between => sub {});
#
# Each query runs on the plain table; on logq.logs with everything on; often once
# more, when what can be cached is; with one optimisation, drawn at random, off;
# and with all of them off.  One that groups runs without those for groups, too.
# Some are followed by a query that asks nearly the same: another window, limit
# or order.  Beside that EXPLAIN says what was left out, whether groups were made
# where rows are, and what came from the cache, which is counted.
#
# A query's statements go through one psql, many queries at a time; each is
# followed by a line, on standard output and on standard error, that says which
# it was and how it ended.

package LogqCompare;

use strict;
use warnings;

use Encode qw(encode decode);
use IPC::Run;
use JSON::PP ();
use LogqRows qw(pick chance);
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $per_psql = 40;
my $max_reports = 10;
my $field = "\x1f";
my $record = "\x1e";
my @switches = map { "logq.enable_$_" } qw(filter_pushdown ordered_merge
  limit_pushdown limit_shares column_pruning partition_pruning segment_pruning
  content_pruning);
# also off when all is
my $no_cache = 'logq.cache = off';
# those for groups, if there are any
my @group_switches = qw(logq.enable_aggregate_pushdown logq.use_rollups);
# what stands for a query's @T@, @N@ and @S@: plain, logq
my %tables = (
	T => [ 'local_logs', 'logq.logs' ],
	N => [ 'local', 'logq' ],
	S => [ 'local_search', 'logq.search' ]);

# Options: cluster (LogqTest), queries (LogqQueries), seed; first and last, to
# run only those; shape, to have only that one; features, to count: regular
# expressions that a query fits, by name.
sub new
{
	my ($class, %opt) = @_;
	my $names = join ', ', map { "'$_'" } @group_switches;

	return bless {
		%opt,
		group_switches => [ split /\n/, $opt{cluster}->sql(
			"SELECT name FROM pg_settings WHERE name IN ($names) ORDER BY name") ],
		count => {},
		seen => {},
		grouped => 0,
		groups_pushed => 0,
		sources => {},
		failed_alike => 0,
		failed => {},
		errors => [],
		reports => 0,
		with_rows => 0,
		scans => 0,
		left_out => 0,
		reasons => {},
		cached => {},
		cached_in => {}
	  },
	  $class;
}

sub for_table
{
	my ($self, $sql, $n) = @_;

	$sql =~ s/\@([TNS])\@/$self->{tables}{$1}[$n]/g;
	return $sql;
}

# SET and RESET of a member of a variant: what to turn off, or an assignment
sub setting
{
	my ($member) = @_;

	return $member =~ /^(\S+) = (.*)/ ? ("SET $1 = $2;\n", "RESET $1;\n") :
	  ("SET $member = off;\n", "RESET $member;\n");
}

# psql commands for a query
sub script
{
	my ($self, $q) = @_;
	my $text = "\\echo \@\@Q $q->{number}\n";
	my $v = 0;
	my $last = "coalesce(max(extract(epoch from started_at)::text), '') AS last FROM logq.last_query() \\gset";
	my $explain = sub {
		my ($what, $options, $sql) = @_;

		return "EXPLAIN $options " . $self->for_table($sql, 1) .
		  ";\n\\echo \@\@$what $q->{number} :ERROR\n\\warn \@\@$what $q->{number}\n";
	};

	$text .= "SET $_;\n" foreach @{ $q->{set} };
	$text .= "BEGIN;\n" if $q->{transaction};
	foreach my $variant (@{ $q->{variants} })
	{
		my $scan = $v == 1 ? $q->{scan} : undef;
		my $i = 0;

		$text .= "SAVEPOINT variant;\n" if $q->{transaction};
		# EXPLAIN has run it, too
		$text .= "SELECT $last\n" if $v > 0;
		$text .= (setting($_))[0] foreach @$variant;
		$text .= $explain->('J', $q->{scan_options}, $scan)
		  if defined $scan && !grep { $_ eq $scan } @{ $q->{sql} };
		foreach my $sql (@{ $q->{sql} })
		{
			$text .= $self->for_table($sql, $v > 0 ? 1 : 0) .
			  ";\n\\echo \@\@E $q->{number} $v $i :ERROR :SQLSTATE\n"
			  . "\\warn \@\@E $q->{number} $v $i\n";
			# not every statement comes to asking for anything
			$text .= "SELECT coalesce(max(cached) FILTER (WHERE extract(epoch from started_at)::text <> :'last'), 0) AS cached,"
			  . " $last\n"
			  . "\\echo \@\@C $q->{number} $v :cached\n"
			  if $v > 0 && $sql =~ /\@[TNS]\@|EXECUTE|FETCH/;
			$i++;
			if (defined $scan && $sql eq $scan)
			{
				$text .= $explain->('J', $q->{scan_options}, $scan);
				$scan = undef;
			}
		}
		$text .= $explain->('X', $q->{explain_options}, $q->{sql}[0])
		  if $v == 1 && $q->{explain};
		$text .= (setting($_))[1] foreach @$variant;
		$text .= "ROLLBACK TO SAVEPOINT variant;\n" if $q->{transaction};
		$v++;
	}
	$text .= "ROLLBACK;\n" if $q->{transaction};
	return $text . "RESET ALL;\nDEALLOCATE ALL;\n";
}

sub split_rows
{
	my ($text) = @_;

	$text =~ s/\n\z//;
	return split /$record/, $text, -1;
}

# What is different between two outputs of one statement, or undef.  compare
# and may_fail as the query says.
sub difference
{
	my ($compare, $local, $other, $may_fail) = @_;
	my (@a, @b);

	return "no answer" unless defined $local->{state} && defined $other->{state};
	return $local->{error} && $other->{error} &&
	  $local->{state} eq $other->{state}
	  ? undef
	  : "SQLSTATE $other->{state} instead of $local->{state}: $other->{message}"
	  if $compare eq 'error';
	return $may_fail && $local->{state} ne $other->{state}
	  ? "SQLSTATE $other->{state} instead of $local->{state}: $other->{message}"
	  : undef
	  if $local->{error} && $other->{error};
	return "the plain table fails: $local->{message}" if $local->{error};
	return "error: $other->{message}" if $other->{error};
	return undef if $local->{text} eq $other->{text};
	@a = split_rows($local->{text});
	@b = split_rows($other->{text});
	if ($compare =~ /^\d+$/)
	{
		foreach my $i (0 .. ($#a < $#b ? $#a : $#b))
		{
			my @ka = split /$field/, $a[$i], -1;
			my @kb = split /$field/, $b[$i], -1;

			return "the order is different from row $i on: $a[$i] against $b[$i]"
			  if join($field, @ka[ 0 .. $compare - 1 ]) ne
			  join($field, @kb[ 0 .. $compare - 1 ]);
		}
	}
	if ($compare ne 'list')
	{
		@a = sort @a;
		@b = sort @b;
		return undef if join($record, @a) eq join($record, @b);
	}
	{
		my (%seen, @missing, @more);

		$seen{$_}++ foreach @a;
		foreach (@b)
		{
			push @more, $_ if --$seen{$_} < 0;
		}
		foreach my $row (@a)
		{
			push @missing, $row if $seen{$row} > 0 && $seen{$row}--;
		}
		return sprintf(
			"%d rows instead of %d; missing %d, such as %s; too many %d, such as %s",
			scalar @b, scalar @a,
			scalar @missing, substr($missing[0] // '-', 0, 400),
			scalar @more, substr($more[0] // '-', 0, 400))
		  . (@missing || @more ? '' : '; only the order is different');
	}
}

sub report
{
	my ($self, $q, $v, $what) = @_;
	my $variant = $v == 1 ? 'everything on'
	  : join ', ', map { /=/ ? $_ : "$_ = off" } @{ $q->{variants}[$v] };

	$variant = 'once more' if $variant eq '';

	$self->{failed}{ $q->{shape} }++;
	return if ++$self->{reports} > $max_reports;
	$what =~ s/$field/ | /g;
	diag(encode('UTF-8', join "\n",
		($q->{number} > 1_000_000 ? 'one near query ' . ($q->{number} - 1_000_000)
			: "query $q->{number}") . " ($q->{shape}) of seed $self->{seed}, $variant: $what",
		(map { "  SET $_;" } @{ $q->{set} }),
		(map { '  ' . $self->for_table($_, 1) . ';' } @{ $q->{sql} }),
		$q->{transaction} ? '  (in one transaction)' : ()));
	return;
}

# Count what the scans of a plan, as EXPLAIN (FORMAT JSON), have left out, and
# what was done about groups
sub count_pruning
{
	my ($self, $q, $text) = @_;
	my $json = eval { JSON::PP->new->utf8(0)->decode($text) };
	my @nodes = ($json // ());
	my ($scans, $left_out, $pushed) = (0, 0, 0);
	my (%reasons, %sources);

	while (defined(my $node = shift @nodes))
	{
		push @nodes, grep { ref =~ /HASH|ARRAY/ }
		  ref $node eq 'HASH' ? values %$node : @$node;
		next unless ref $node eq 'HASH';
		# that of SELECT DISTINCT stands alone
		$pushed++
		  if ($node->{'Custom Plan Provider'} // '') eq 'LogqAggregate' ||
		  defined $node->{'Segments Counted by Rows'};
		foreach (keys %$node)
		{
			$sources{lc $1} = 1 if /^Segments Counted by (.*)/ && $node->{$_} > 0;
		}
		next unless defined $node->{'Segments Known'};
		$self->count_cached_scan($node);
		$scans++;
		$left_out++ if $node->{'Segments Asked'} < $node->{'Segments Known'};
		foreach (keys %$node)
		{
			$reasons{ lc $1 } = 1
			  if /^Segments Pruned (?:by|with) (.*)/ && $node->{$_} > 0;
		}
	}
	$self->{scans}++ if $scans;
	$self->{left_out}++ if $left_out;
	$self->{reasons}{$_}++ foreach keys %reasons;
	$self->{grouped}++ if $q->{grouped};
	$self->{groups_pushed}++ if $pushed;
	$self->{sources}{$_}++ foreach keys %sources;
	return;
}

# Count how many queries had segments from the cache, in each phase.  Nothing may
# when it is off.
sub count_cached
{
	my ($self, $q, $cached) = @_;
	my $phase = $self->{cached}{ $self->{phase} } //= [ 0, 0 ];
	my $any = 0;

	foreach my $v (1 .. $#{ $q->{variants} })
	{
		my $n = $cached->[$v] // 0;

		$any ||= $n;
		$self->report($q, $v, "$n segments are from the cache")
		  if $n > 0 && grep { /^logq\.cache = (off|refresh)/ } @{ $q->{variants}[$v] };
	}
	$phase->[0]++ if $any;
	$phase->[1]++;
	return;
}

# Count what kind of scan took something from the cache, as EXPLAIN (ANALYZE,
# VERBOSE, FORMAT JSON) says
sub count_cached_scan
{
	my ($self, $node) = @_;
	my $kind;

	return unless ($node->{'Segments from Memory'} // 0) +
	  ($node->{'Segments from Redis'} // 0) > 0;
	$kind = defined $node->{'Segments Counted by Rows'} ? 'counts'
	  : defined $node->{'Merge Order'}
	  ? (defined $node->{'Row Limit'} ? 'rows in order up to a limit' : 'rows in order')
	  : ($node->{'Remote SQL'} // '') =~ /GROUP BY/ ? 'groups'
	  : defined $node->{Relation} ? 'expressions of rows'
	  : 'rows';
	$self->{cached_in}{$kind}++;
	return;
}

# Run psql with a script; its output and errors by statement
sub run_psql
{
	my ($self, @queries) = @_;
	my $node = $self->{cluster}->coordinator;
	my $base = "$PostgreSQL::Test::Utils::tmp_check/queries";
	my %r = (out => {}, explained => {}, current => undef);

	open my $f, '>:encoding(UTF-8)', "$base.sql" or die $!;
	print $f "\\set ON_ERROR_ROLLBACK on\n\\set last ''\n";
	print $f $self->script($_) foreach @queries;
	print $f "\\echo \@\@Q end\n";
	close $f or die $!;
	{
		local $ENV{PGOPTIONS} = '-c statement_timeout=60s';
		local $ENV{PGCLIENTENCODING} = 'UTF8';
		my @psql = ($node->installed_command('psql'), '-XAtq',
			'-F', $field, '-R', $record, '-P', 'null=<NULL>',
			'-d', $node->connstr('logs'), '-f', "$base.sql");

		IPC::Run::run(\@psql, '>', "$base.out", '2>', "$base.err",
			IPC::Run::timeout(900));
	}
	$r{err} = decode('UTF-8', slurp_file("$base.err"));
	foreach my $stream ('err', 'out')
	{
		my $text = '';

		open my $in, '<:encoding(UTF-8)', "$base.$stream" or die $!;
		while (my $line = <$in>)
		{
			if ($line =~ /^\@\@E (\d+ \d+ \d+)(?: (\w+) (\w+))?$/)
			{
				my $o = $r{out}{$1} //= {};

				if ($stream eq 'err')
				{
					$o->{message} = $text =~ s/psql:\S+: //gr;
				}
				else
				{
					$o->{error} = $2 eq 'true';
					$o->{state} = $3;
					$o->{text} = $text;
				}
			}
			elsif ($line =~ /^\@\@([XJ]) (\d+)(?: (\w+))?$/)
			{
				my $o = $r{explained}{$2}{$1} //= {};

				$o->{ $stream eq 'err' ? 'message' : 'text' } = $text;
				$o->{error} = $3 eq 'true' if defined $3;
			}
			elsif ($line =~ /^\@\@C (\d+) (\d+) (\d+)$/)
			{
				$r{cached}{$1}[$2] += $3;
				next;
			}
			elsif ($line =~ /^\@\@Q (\w+)$/)
			{
				$r{current} = $1;
			}
			else
			{
				$text .= $line;
				next;
			}
			$text = '';
		}
		close $in;
	}
	return \%r;
}

# Run queries in one session; returns how many of them were completed
sub run_batch
{
	my ($self, @queries) = @_;
	my $r = $self->run_psql(@queries);
	my $done = 0;

	foreach my $q (@queries)
	{
		my $k = $q->{number};
		my $rows = 0;
		my $has_error = 0;

		if (defined $r->{current} && $r->{current} ne 'end' && $r->{current} == $k)
		{
			$self->report($q, 1, "the session ended: " . substr($r->{err}, -600));
			# go on with the next one, once the server is back
			LogqTest::poll(sub {
				return $self->{cluster}->coordinator->psql('logs', 'SELECT 1') == 0;
			}) or BAIL_OUT('the coordinator is gone');
			return $done + 1;
		}
		$done++;
		$self->{count}{ $q->{shape} }++;
	  variant:
		foreach my $v (1 .. $#{ $q->{variants} })
		{
			foreach my $i (0 .. $#{ $q->{sql} })
			{
				my $local = $r->{out}{"$k 0 $i"};
				my $diff = difference($q->{compare}, $local, $r->{out}{"$k $v $i"},
					$q->{may_fail});

				$rows = 1 if !$local->{error} && $local->{text} ne '';
				$has_error ||= $local->{message} if $local->{error};
				if (defined $diff)
				{
					$self->report($q, $v, "statement $i: $diff");
					last variant;
				}
			}
		}
		$self->count_cached($q, $r->{cached}{$k} // []);
		foreach my $what ('X', 'J')
		{
			my $x = $r->{explained}{$k}{$what} // next;

			$self->report($q, 1, "EXPLAIN: $x->{message}")
			  if $x->{error} && !$has_error;
			$self->count_pruning($q, $x->{text}) if $what eq 'J' && !$x->{error};
		}
		$self->{with_rows}++ if $rows;
		push @{ $self->{errors} }, "query $k ($q->{shape}): $has_error"
		  if $has_error && $q->{compare} ne 'error' && !$q->{may_fail};
		$self->{failed_alike}++ if $has_error && $q->{may_fail};
		if ($rows)
		{
			my $text = join "\n", @{ $q->{sql} }, @{ $q->{set} };

			$self->{seen}{$_}++
			  foreach grep { $text =~ $self->{features}{$_} } keys %{ $self->{features} // {} };
		}
	}
	return $done;
}

# A query that asks nearly the same as another one, so that some of what was
# cached for that can be used, and some cannot
sub near
{
	my ($q) = @_;
	my %near = (%$q, number => $q->{number} + 1_000_000, explain => 0, scan => undef);
	my @sql = @{ $q->{sql} };
	my $minutes = pick(0, 1, 1, 5, 30);
	my $limit = chance(0.7);
	my $turn = chance(0.2);
	my %limits;

	foreach (@sql)
	{
		s/(\d{4}-\d\d-\d\d \d\d):(\d\d)/sprintf '%s:%02d', $1, ($2 + $minutes) % 60/eg;
		s/\bLIMIT (\d+)/'LIMIT ' . ($limits{$1} \/\/= pick(1, 2, 6, 25, 150, 1000))/eg if $limit;
		s/\b(DESC|ASC)\b/$1 eq 'ASC' ? 'DESC' : 'ASC'/eg if $turn;
	}
	return undef if join(';', @sql) eq join(';', @{ $q->{sql} });
	$near{sql} = \@sql;
	$near{variants} = [ [], [], chance(0.3) ? [] : () ];
	return \%near;
}

# Run the queries of these numbers.  Options: tables, for @T@ and so on;
# between, to be called after each batch; per_psql, queries in one batch; phase,
# a name to count what is cached by.
sub run
{
	my ($self, $from, $to, %opt) = @_;
	my @groups = @{ $self->{group_switches} };
	my @queries;

	$self->{phase} = $opt{phase} // 'all';
	$self->{tables} = { %tables, %{ $opt{tables} // {} } };
	foreach my $n ($from .. $to)
	{
		my $q;

		# each query has a seed of its own, so that one can be repeated alone
		srand($self->{seed} * 100003 + $n);
		$q = $self->{queries}->query($self->{shape});
		$q->{number} = $n;
		$q->{transaction} = $q->{now} || chance(0.3);
		$q->{explain} &&= chance(0.15);
		$q->{explain_options} = pick('(VERBOSE, COSTS OFF)',
			'(ANALYZE, VERBOSE, TIMING OFF)', '(FORMAT JSON)',
			'(ANALYZE, BUFFERS, FORMAT YAML)');
		$q->{scan_options} = pick('(FORMAT JSON)',
			'(ANALYZE, VERBOSE, TIMING OFF, FORMAT JSON)');
		$q->{explain} = 0 if $q->{sql}[0] =~ /^PREPARE/;
		# values too large for it are left out, so that some of a query's are cached
		push @{ $q->{set} }, 'logq.cache_max_value = 1' if chance(0.1);
		$q->{variants} = [ [], [], chance(0.5) ? [] : (),
			$q->{grouped} ? map { [$_] } @groups : (),
			[ chance(0.3) ? 'logq.enable_content_pruning' : chance(0.2) ? 'logq.cache = refresh'
				: pick(@switches, @groups) ],
			[ @switches, @groups, $no_cache ] ];
		# not too many
		splice @{ $q->{variants} }, -2, 1 if $q->{grouped} && @groups && chance(0.6);
		next if $n < ($self->{first} // $from) || $n > ($self->{last} // $to);
		push @queries, $q;
		push @queries, grep { defined } near($q)
		  if $q->{compare} ne 'error' && !$q->{may_fail} && chance(0.25);
	}
	while (@queries)
	{
		my $n = $opt{per_psql} // $per_psql;

		$n = @queries if @queries < $n;
		splice @queries, 0, $self->run_batch(@queries[ 0 .. $n - 1 ]);
		$opt{between}->() if defined $opt{between};
	}
	return;
}

# Say what was not shown
sub summarize
{
	my ($self) = @_;

	diag(($self->{reports} - $max_reports) . ' more differences are not shown')
	  if $self->{reports} > $max_reports;
	note("queries that left segments out, by reason: " . join ', ',
		map { "$_ $self->{reasons}{$_}" } sort keys %{ $self->{reasons} });
	note("queries that had: " . join ', ',
		map { "$_ " . ($self->{seen}{$_} // 0) } sort keys %{ $self->{features} // {} });
	note("queries with segments from the cache: " . join ', ',
		map { "$self->{cached}{$_}[0] of $self->{cached}{$_}[1] $_" } sort keys %{ $self->{cached} });
	note("scans that took something from the cache: " . join ', ',
		map { "$self->{cached_in}{$_} $_" } sort keys %{ $self->{cached_in} });
	note("$self->{groups_pushed} of $self->{grouped} queries with groups leave them to the partitions; segments are counted by " .
		  join ', ', map { "$_ $self->{sources}{$_}" } sort keys %{ $self->{sources} });
	return;
}

1;
