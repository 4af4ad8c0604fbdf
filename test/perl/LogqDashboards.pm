# The dashboards of monitoring/grafana: read, checked for what Grafana needs, and
# their queries run as it would.
#
#	my $d = LogqDashboards->new(cluster => $c);
#	$d->boards							the dashboards, by uid
#	LogqDashboards::faults($board)		what is wrong with one by itself
#	$d->queries($board, %range)			all its queries, see queries()
#	$d->run(\@queries)					adds their answers
#	LogqDashboards::refused($q)			what a panel of its type would not take
#	$d->show('logq-operations', 'Health')	rows of a panel, as hashes
#
# Each data source is a role, as docs/grafana.md makes it; query_client sends what
# LogqGrafana makes of the queries, over the simple protocol and with nothing set,
# as Grafana does.

package LogqDashboards;

use strict;
use warnings;

use File::Basename qw(dirname);
use IPC::Run;
use JSON::PP ();
use LogqGrafana;
use PostgreSQL::Test::Utils;

my $top = dirname(__FILE__) . '/../..';
my $folder = "$top/monitoring/grafana";

our %role = (logq => 'grafana', 'logq-operations' => 'grafana_operations');

# what a panel needs in "options": those that Grafana's schema does not let out
my %options = (
	barchart => [qw(barWidth fullHighlight groupWidth legend orientation showValue stacking tooltip xTickLabelMaxLength xTickLabelRotation)],
	bargauge => [qw(displayMode legend maxVizHeight minVizHeight minVizWidth namePlacement orientation reduceOptions showUnfilled sizing valueMode)],
	gauge => [qw(minVizHeight minVizWidth orientation reduceOptions showThresholdLabels showThresholdMarkers sizing)],
	logs => [qw(dedupStrategy enableLogDetails prettifyLogMessage showCommonLabels showLabels showLogContextToggle showTime sortOrder wrapLogMessage)],
	stat => [qw(colorMode graphMode justifyMode orientation percentChangeColorMode reduceOptions showPercentChange textMode wideLayout)],
	table => [qw(cellHeight footer frameIndex showHeader)],
	timeseries => [qw(legend tooltip)],
);

# those units of Grafana that are in use
my %unit = map { $_ => 1 } qw(short percent percentunit bytes Bps ms s ops rowsps dateTimeAsIso dateTimeFromNow);

# ---------- files ----------

sub boards
{
	my %boards;

	foreach my $file (sort glob "$folder/dashboards/*.json")
	{
		my $board = JSON::PP->new->utf8->decode(slurp_file($file));

		die "two dashboards of uid $board->{uid}" if $boards{ $board->{uid} };
		$boards{ $board->{uid} } = $board;
	}
	return \%boards;
}

# uids of the data sources that are provisioned
sub provisioned
{
	return map { slurp_file($_) =~ /^\s+uid: (\S+)$/mg } sort glob "$folder/provisioning/datasources/*.yaml";
}

# All panels but rows, those within rows too
sub panels
{
	my ($board) = @_;

	return grep { $_->{type} ne 'row' } map { ($_, @{ $_->{panels} // [] }) } @{ $board->{panels} };
}

# Names of variables in a text, but those of Grafana itself
sub used
{
	my ($text) = @_;
	my @names;

	while ($text =~ /$LogqGrafana::reference/g)
	{
		push @names, $1 // $2 // $4;
	}
	return grep { !/^__/ } @names;
}

# Each text in a structure
sub texts
{
	my ($x) = @_;

	return map { texts($_) } @$x if ref $x eq 'ARRAY';
	return map { texts($_) } @$x{ sort keys %$x } if ref $x eq 'HASH';
	return defined $x && !ref $x ? $x : ();
}

# What is wrong with a dashboard by itself
sub faults
{
	my ($board) = @_;
	my %source = map { $_ => 1 } provisioned(), '-- Dashboard --', '-- Grafana --';
	my %variable = map { $_->{name} => $_ } @{ $board->{templating}{list} };
	my (@faults, %id, @area, %by_id, %place);
	my $n = 0;

	push @faults, map { "no $_" } grep { !defined $board->{$_} } qw(uid title schemaVersion time panels templating annotations timezone refresh tags);
	push @faults, 'uid' if ($board->{uid} // '') !~ /^[a-zA-Z0-9_-]{1,40}$/;
	push @faults, 'schemaVersion' if $board->{schemaVersion} < 36 || $board->{schemaVersion} > 42;
	push @faults, 'an "id", which is of one Grafana alone' if exists $board->{id};

	foreach my $panel (map { ($_, @{ $_->{panels} // [] }) } @{ $board->{panels} })
	{
		my $what = "panel $panel->{id} \"" . ($panel->{title} // '') . '"';
		my ($x, $y, $w, $h) = @{ $panel->{gridPos} // {} }{qw(x y w h)};

		push @faults, "$what: its number is taken" if $id{ $panel->{id} }++;
		push @faults, "$what: no title" if ($panel->{title} // '') eq '';
		$by_id{ $panel->{id} } = $panel;
		if (grep { !defined || $_ !~ /^\d+$/ } $x, $y, $w, $h)
		{
			push @faults, "$what: no place";
			next;
		}
		push @faults, "$what: outside of the grid" if $x + $w > 24 || $w < 1 || $h < 1;
		push @faults, map { "$what: over $_->[0]" }
		  grep { $x < $_->[1] + $_->[3] && $_->[1] < $x + $w && $y < $_->[2] + $_->[4] && $_->[2] < $y + $h } @area;
		push @area, [ $what, $x, $y, $w, $h ];
		next if $panel->{type} eq 'row';

		push @faults, "$what: type $panel->{type}" unless $options{ $panel->{type} };
		push @faults, map { "$what: no option $_" } grep { !exists $panel->{options}{$_} } @{ $options{ $panel->{type} } // [] };
		push @faults, "$what: no targets" unless @{ $panel->{targets} // [] };
		foreach my $config ($panel->{fieldConfig}{defaults}, map { { map { $_->{id} => $_->{value} } @{ $_->{properties} } } } @{ $panel->{fieldConfig}{overrides} })
		{
			push @faults, "$what: unit $config->{unit}" if defined $config->{unit} && !$unit{ $config->{unit} };
			next unless my $t = $config->{thresholds};
			push @faults, "$what: the first threshold is not the base" if defined $t->{steps}[0]{value};
			push @faults, "$what: thresholds are not in order"
			  if grep { $_ > 1 && $t->{steps}[ $_ - 1 ]{value} >= $t->{steps}[$_]{value} } 1 .. $#{ $t->{steps} };
		}
		my %ref;
		foreach my $target (@{ $panel->{targets} })
		{
			push @faults, "$what: two targets $target->{refId}" if $ref{ $target->{refId} }++;
			push @faults, "$what: its data source is not that of its target"
			  if $target->{datasource}{uid} ne $panel->{datasource}{uid};
		}
	}
	foreach my $target (map { @{ $_->{targets} // [] } } panels($board))
	{
		push @faults, "a panel $target->{panelId} is not there" if defined $target->{panelId} && !$by_id{ $target->{panelId} };
	}
	foreach my $target (map({ @{ $_->{targets} // [] } } panels($board)), map { $_->{target} // () } @{ $board->{annotations}{list} })
	{
		my $type = $target->{datasource}{type};

		if ($type eq 'grafana-postgresql-datasource')
		{
			push @faults, "SQL is not raw: $target->{refId}" unless $target->{rawQuery} && $target->{editorMode} eq 'code' && $target->{rawSql};
			push @faults, "format $target->{format}" unless $target->{format} =~ /^(?:table|time_series)$/;
		}
		elsif ($type eq 'prometheus')
		{
			push @faults, "no expression: $target->{refId}" unless $target->{expr};
		}
		elsif (!defined $target->{panelId})
		{
			push @faults, "type of data source $type";
		}
	}
	foreach my $x ($board, @{ $board->{panels} }, panels($board), @{ $board->{annotations}{list} }, @{ $board->{templating}{list} },
		map { @{ $_->{targets} // [] } } panels($board))
	{
		push @faults, "data source $x->{datasource}{uid}" if $x->{datasource} && !$source{ $x->{datasource}{uid} };
	}
	push @faults, map { "no variable $_" } grep { !$variable{$_} } map { used($_) } texts([ @$board{qw(panels annotations templating)} ]);

	# Grafana finds the order in which they depend on each other; a loop it does not
	foreach my $v (@{ $board->{templating}{list} })
	{
		my $what = "variable $v->{name}";

		$place{ $v->{name} } = $n++;
		push @faults, "$what: type $v->{type}" unless $v->{type} =~ /^(?:query|textbox|custom)$/;
		push @faults, "$what: no value" unless defined $v->{current}{value};
		push @faults, map { "$what: comes before $_" } grep { !defined $place{$_} || $_ eq $v->{name} } used($v->{query});
		push @faults, "$what: refreshed never, or when the range changes though it does not use that"
		  if $v->{type} eq 'query' && $v->{refresh} != ($v->{query} =~ /\$__time/ ? 2 : 1);
		push @faults, "$what: is not among its values"
		  if $v->{type} eq 'custom' && !grep { $_ eq $v->{current}{value} } split /,/, $v->{query};
		push @faults, "$what: All is not a literal"
		  if $v->{includeAll} && ($v->{allValue} // '') ne q{'__all__'};
	}
	# several values, or any text, need quotes of their own
	foreach my $text (texts([ @$board{qw(panels annotations templating)} ]))
	{
		while ($text =~ /$LogqGrafana::reference/g)
		{
			my ($name, $format) = ($1 // $2 // $4, $3 // $5 // '');

			next if $name =~ /^__/ || !$variable{$name};
			push @faults, "\$$name is not quoted" unless $format eq 'sqlstring';
		}
	}
	# links lead to dashboards and variables that there are
	my $boards = boards();
	foreach my $url (grep { m|^/d/| } texts([ @$board{qw(panels links)} ]))
	{
		my ($uid, $query) = $url =~ m|^/d/([^?]+)(?:\?(.*))?$|;
		my $to = $boards->{$uid};

		push @faults, "a link to $uid" unless $to;
		foreach my $name (($query // '') =~ /\bvar-(\w+)=/g)
		{
			push @faults, "a link to \$$name of $uid" unless grep { $_->{name} eq $name } @{ $to->{templating}{list} };
		}
	}
	return @faults;
}

# ---------- queries ----------

# Options: cluster (a LogqTest); without it, nothing can be run
sub new
{
	my ($class, %opt) = @_;
	my $self = bless { cluster => $opt{cluster}, client => PostgreSQL::Test::Utils::tempdir() . '/query_client' }, $class;
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	my ($include, $lib) = map { `$pg_config $_` =~ s/\n//r } '--includedir', '--libdir';

	system($ENV{CC} // 'cc', qw(-std=gnu99 -O1 -Wall -Wextra), "-I$include", '-o', $self->{client},
		"$top/test/data/query_client.c", "-L$lib", '-lpq', '-lm') == 0 or die 'the client does not compile';
	$self->{types} = { map { split /\|/, $_, 2 } split /\n/, $opt{cluster}->sql('SELECT oid, format_type(oid, NULL) FROM pg_type') };
	return $self;
}

# Values that variables have when a dashboard is opened, and those given
sub values_of
{
	my ($board, %given) = @_;

	my %values;

	foreach my $variable (@{ $board->{templating}{list} })
	{
		my $v = $variable->{current}{value};

		$values{ $variable->{name} } = ref $v && @$v == 1 && $v->[0] eq '$__all' ? \$variable->{allValue} : $v;
	}
	return { %values, %given };
}

# queries($board, from => , to => , interval => , variables => {...}): of panels,
# annotations and variables, each as a hash: board, title, type (of the panel,
# "annotation" or "variable"), panel, uid (of the data source), format, raw, sql.
# Those of Prometheus have "expr" in place of the last three.
sub queries
{
	my ($board, %range) = @_;
	my $variables = values_of($board, %{ $range{variables} // {} });
	my @queries;
	my $add = sub {
		my ($title, $type, $uid, $raw, %more) = @_;

		push @queries, { board => $board->{uid}, title => $title, type => $type, uid => $uid, raw => $raw,
			sql => LogqGrafana::expand($raw, %range, variables => $variables), %more };
	};

	foreach my $panel (panels($board))
	{
		foreach my $target (@{ $panel->{targets} })
		{
			if (defined $target->{expr})
			{
				push @queries, { board => $board->{uid}, title => $panel->{title}, type => $panel->{type}, panel => $panel,
					uid => $target->{datasource}{uid}, expr => $target->{expr} };
			}
			elsif (defined $target->{rawSql})
			{
				$add->($panel->{title}, $panel->{type}, $target->{datasource}{uid}, $target->{rawSql}, panel => $panel, format => $target->{format});
			}
		}
	}
	$add->($_->{name}, 'annotation', $_->{datasource}{uid}, $_->{target}{rawSql}, format => 'table')
	  foreach grep { $_->{target} } @{ $board->{annotations}{list} };
	$add->($_->{name}, 'variable', $_->{datasource}{uid}, $_->{query}, format => 'table')
	  foreach grep { $_->{type} eq 'query' } @{ $board->{templating}{list} };
	return @queries;
}

# Run SQL queries, each as the role of its data source (or option user), and add
# what came: state (SQLSTATE), message, columns ([name, kind], ...), rows.
# Options: of($sql) changes each one before.
sub run
{
	my ($self, $queries, %opt) = @_;
	my %of_user;
	my $n = 0;

	push @{ $of_user{ $opt{user} // $role{ $_->{uid} } } }, $_ foreach grep { defined $_->{sql} } @$queries;
	foreach my $user (sort keys %of_user)
	{
		my %job;
		my ($in, $out, $err) = ('', '', '');

		foreach my $q (@{ $of_user{$user} })
		{
			my $sql = $opt{of} ? $opt{of}->($q->{sql}) : $q->{sql};

			$job{ ++$n } = $q;
			$in .= join("\t", $n, 'simple', $sql =~ s/\\/\\\\/gr =~ s/\n/\\n/gr =~ s/\t/\\t/gr) . "\n";
		}
		local %ENV = %ENV;
		delete @ENV{qw(PGAPPNAME PGTZ PGDATESTYLE PGOPTIONS PGCLIENTENCODING)};
		IPC::Run::run([ $self->{client}, $self->{cluster}->coordinator->connstr('logs') . " user=$user" ],
			'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
		foreach my $line (split /\n/, $out)
		{
			my $a = JSON::PP->new->utf8(0)->decode($line);
			my $q = $job{ $a->{name} };

			@$q{qw(state message rows)} = @$a{qw(state message rows)};
			$q->{columns} = [ map { [ $_->[0], LogqGrafana::kind($self->{types}{ $_->[1] }) ] } @{ $a->{columns} // [] } ];
			delete $job{ $a->{name} };
		}
		# warnings it prints, too
		die "queries without an answer: $err" if %job;
	}
	return @$queries;
}

# Rows of a panel as hashes by column.  Options: variables.  Dies when Grafana
# would show an error.
sub show
{
	my ($self, $uid, $title, %opt) = @_;
	my $board = boards()->{$uid};
	my ($q) = grep { $_->{title} eq $title && defined $_->{sql} }
	  queries($board, from => time - 3600, to => time, variables => $opt{variables} // {}, interval => '1m');
	my $refused;

	die "no panel \"$title\" in $uid" unless $q;
	$self->run([$q]);
	$refused = refused($q);
	die "$title: $refused" if $refused ne '';
	return map { my $row = $_; +{ map { $q->{columns}[$_][0] => $row->[$_] } 0 .. $#$row } } @{ $q->{rows} };
}

# ---------- what panels take ----------

# What a panel of its type would not take of an answer; '' if nothing
sub refused
{
	my ($q) = @_;
	my @columns = @{ $q->{columns} // [] };
	my %kind = map { $_->[0] => $_->[1] } @columns;
	my %n;

	return "$q->{state} $q->{message}" if $q->{state} ne '';
	$n{ $_->[1] }++ foreach @columns;
	return 'no columns' unless @columns;
	return 'two columns of a name' if keys %kind != @columns;
	if ($q->{format} eq 'time_series' || $q->{type} eq 'timeseries')
	{
		my ($time) = grep { $columns[$_][0] eq 'time' } 0 .. $#columns;
		my $before;

		return 'no time' unless defined $time && $columns[$time][1] =~ /^(?:time|number)$/;
		return 'no numbers' unless ($n{number} // 0) > ($columns[$time][1] eq 'number' ? 1 : 0);
		return 'more than one text' if ($n{string} // 0) > 1;
		return 'a text that is not "metric"' if $n{string} && !defined $kind{metric};
		foreach my $row (@{ $q->{rows} })
		{
			return 'a row without a time, or a name' if grep { !defined $row->[$_] && $columns[$_][1] ne 'number' || $_ == $time && !defined $row->[$_] } 0 .. $#columns;
			return "time $row->[$time] after $before"
			  if defined $before && ($columns[$time][1] eq 'number' ? $row->[$time] < $before : $row->[$time] lt $before);
			$before = $row->[$time];
		}
	}
	elsif ($q->{type} eq 'logs')
	{
		my ($time) = grep { $_->[1] eq 'time' } @columns;
		my ($body) = grep { $_->[1] eq 'string' } @columns;

		return 'no time' unless $time && $time->[0] eq 'time';
		return 'the line is not the first text' unless $body && $body->[0] eq 'message';
		return 'no level' unless ($kind{level} // '') eq 'string';
		return 'no id as text' unless ($kind{id} // '') eq 'string';
	}
	elsif ($q->{type} =~ /^(?:stat|gauge)$/)
	{
		return 'not numbers alone' if ($n{number} // 0) != @columns;
		return @{ $q->{rows} } . ' rows' if @{ $q->{rows} } != 1;
	}
	elsif ($q->{type} eq 'bargauge')
	{
		return 'not a name and a number' if @columns != 2 || $columns[0][1] ne 'string' || $columns[1][1] ne 'number';
	}
	elsif ($q->{type} eq 'barchart')
	{
		my $x = $q->{panel}{options}{xField};

		return 'no names of bars' if ($kind{$x} // '') ne 'string';
		return 'not numbers' if ($n{number} // 0) != @columns - 1;
	}
	elsif ($q->{type} eq 'annotation')
	{
		return 'no time' if ($kind{time} // '') !~ /^(?:time|number)$/;
		return 'no text, or tags' if grep { ($kind{$_} // '') ne 'string' } qw(text tags);
	}
	elsif ($q->{type} eq 'variable')
	{
		return 'not a text' if ($n{string} // 0) != @columns;
		return 'neither one column nor value and text' unless @columns == 1 || defined $kind{__value} && defined $kind{__text};
		return 'an empty value' if grep { !defined $_->[0] } @{ $q->{rows} };
	}
	# what a panel says of columns is of some that there are
	foreach my $o (map { @{ $_->{fieldConfig}{overrides} } } $q->{panel} // ())
	{
		next unless $o->{matcher}{id} eq 'byName';
		return "no column \"$o->{matcher}{options}\"" unless defined $kind{ $o->{matcher}{options} };
		foreach my $p (@{ $o->{properties} })
		{
			return "\"$o->{matcher}{options}\" is no number"
			  if ($p->{id} eq 'thresholds' || $p->{id} eq 'unit' && $p->{value} !~ /^dateTime/) && $kind{ $o->{matcher}{options} } ne 'number';
			return "\"$o->{matcher}{options}\" is no time"
			  if $p->{id} eq 'unit' && $p->{value} =~ /^dateTime/ && $kind{ $o->{matcher}{options} } ne 'time';
		}
	}
	return '';
}

1;
