# Chance, and random log rows.
#
# Rows of one hour share a few levels, services, words, traces and values of
# attributes, so that most values are in few segments and some in one only.  In
# every third hour most rows lie in two minutes and have two levels and services,
# so that counts by all of these are worth being kept.  One hour has more levels
# than are listed.
# Messages have what makes words hard to find: letters beyond ASCII next to
# words, letters whose other case is in ASCII, punctuation, escapes.
#
# Everything comes from Perl's generator: a seed gives the same rows, except
# that some have the time of the run.

package LogqRows;

use strict;
use warnings;
use utf8;

use Exporter qw(import);
use POSIX qw(floor);

our @EXPORT_OK = qw(pick chance between some weighted quote timestamp hours
  late_hours random_rows @message_words @attr_keys $many_levels);

# ---------- chance ----------

sub pick { return $_[ int rand @_ ]; }
sub chance { return rand() < $_[0]; }
sub between { my ($lo, $hi) = @_; return $lo + int rand($hi - $lo + 1); }

# some of a list, in its order, at least one
sub some
{
	my @r = grep { chance(0.4) } @_;

	return @r ? @r : (pick(@_));
}

# an index by weight
sub weighted
{
	my $sum = 0;
	my $r;

	$sum += $_ foreach @_;
	$r = rand $sum;
	foreach my $i (0 .. $#_)
	{
		return $i if ($r -= $_[$i]) < 0;
	}
	return $#_;
}

# n of a list, in any order
sub n_of
{
	my ($n, @list) = @_;
	my @r;

	push @r, splice @list, int rand @list, 1 while @list && @r < $n;
	return @r;
}

sub quote
{
	my ($s) = @_;

	return 'NULL' unless defined $s;
	$s =~ s/'/''/g;
	return "'$s'";
}

# ---------- rows ----------

my @levels = ('DEBUG', 'INFO', 'INFO', 'INFO', 'WARN', 'ERROR', 'ERROR',
	'FATAL', 'error', 'Error', '', undef, 'İnfo', 'straße', 'ERROR ');
my @services = ('web', 'web', 'payment-service', 'auth', 'db%main', "it's",
	'Über-Dienst', '', undef, 'p1', 'ERROR', 'WEB', 'back\\slash', 'a_b',
	'ŝervo', "tab\there", 'p2');
our @message_words = ('timeout', 'after', '500', 'ms', 'user', 'GET',
	'/api/v1/items', 'connection', 'reset', 'by', 'peer', '100%', 'a_b',
	'C:\\temp\\x', "don't", '"quoted"', 'naïve', 'ΣΑΣ', '日本語', "\x{1F600}",
	"e\x{301}", '(x)', '[y]', '$1', '{}', 'a.b', '*', '+', 'ERROR', 'null',
	'\\N', '\\.', 'İ', 'ß',
	# letters beyond ASCII within and next to words
	'größe', 'Größe', 'café', 'CAFÉ', 'caf', 'gr', 'start—end', 'start', 'end',
	'—dash', "Kelvin", "\x{212A}elvin", 'kelvin', '5K', "5\x{212A}",
	'dıgıt', 'digit', 'DIGIT', 'İnfo', 'info', "mi\x{17F}sing", 'missing',
	'MISSING', "\x{FEFF}bom", "zero\x{200B}width", "nb\x{A0}sp", 'ωmega',
	# cases, punctuation, escapes, lengths
	'MixedCase', 'mixedcase', 'timeouts', 'Timeout', 'timeout:', 'id=4711,',
	'valid=4711,', 'x-y', 'x_y', 'x', 'foo_bar', 'foo-bar', 'foo.bar', '_lead',
	'trail_', 'tab\\there', "real\there", 'a,b;c', '<tag>', 'word' x 16,
	'word' x 20, 'e' x 65, 'mtimeM', 'q?', '^hat', 'usd$', 'pipe|pipe');
my @odd_messages = ('', undef, ' ', "\n", "two\nlines", "cr\rlf\r\n", '\\.',
	'\\N', 'NULL', "\x01\x02", '%', '_', '\\', "'", '""', 'trailing  ',
	'x' x 9000, 'ab' x 40000, "\x{1F600}" x 3000, 'null');
my @attrs = (undef, undef, 'null', 'true', '12', '-0.5', '1.5e10',
	'12345678901234567890.123456789', '"text"', '""', '[]', '{}', '[1, 2, 2]',
	'["a", "b"]', '[null, {"n": 1}]', '{"n": null}', '{"": 1, "\'": "\\\\"}',
	'{"a": {"b": {"c": [1, {"d": "deep"}]}}}', '"\u00e9\ud83d\ude00"',
	'{"k\"q": "it\'s"}', '{"n": 1.0}', '{"n": 1.00}', '{"n": "1"}',
	'["status"]', '[{"status": "500"}]', '{"status": ["500"]}',
	'{"status": {"status": "500"}}', '{"status": ""}', '{"req": true}');
our @attr_keys = qw(n status req user tags ok);

# A time as PostgreSQL reads it, from seconds and microseconds since 1970
sub timestamp
{
	my ($sec, $usec) = @_;
	my $days = floor($sec / 86400);
	my $rest = $sec - $days * 86400;
	# days to a date of the proleptic Gregorian calendar
	my $z = $days + 719468;
	my $era = floor($z / 146097);
	my $doe = $z - $era * 146097;
	my $yoe = int(($doe - int($doe / 1460) + int($doe / 36524) -
			  int($doe / 146096)) / 365);
	my $y = $yoe + $era * 400;
	my $doy = $doe - (365 * $yoe + int($yoe / 4) - int($yoe / 100));
	my $mp = int((5 * $doy + 2) / 153);
	my $d = $doy - int((153 * $mp + 2) / 5) + 1;
	my $m = $mp < 10 ? $mp + 3 : $mp - 9;
	my $bc = '';

	$y++ if $m <= 2;
	($y, $bc) = (1 - $y, ' BC') if $y <= 0;
	return sprintf('%04d-%02d-%02d %02d:%02d:%02d.%06d+00%s', $y, $m, $d,
		int($rest / 3600), int($rest / 60) % 60, $rest % 60, $usec, $bc);
}

# The hour with too many levels, and those whose rows share what is counted
our $many_levels = 1710028800 + 3600 * 16;
my %is_dense;

# Starts of the hours that rows lie in: a day on which clocks change in America,
# hours at which they do elsewhere, the last hours, and far away ones.
sub hours
{
	my ($now) = @_;
	my $hour = $now - $now % 3600;
	my @hours = (
		(map { 1710028800 + 3600 * $_ } 0, 1, 4, 5, 6, 7, 8, 12, 16, 20, 23),
		(map { 1730592000 + 3600 * $_ } 4, 5, 6),
		# Europe, Lord Howe, where it is by half an hour
		(map { 1711843200 + 3600 * $_ } 0, 1),
		(map { 1729987200 + 3600 * $_ } 0, 1),
		(map { 1712361600 + 3600 * $_ } 14, 15), 1728086400 + 3600 * 15,
		# midnight twice in St. John's, a day less in Apia, the end of offsets of
		# 44 minutes 30 seconds in Monrovia, a quarter of an hour less in Nepal
		1289088000 + 3600 * 2, (map { 1325203200 + 3600 * $_ } 9, 10),
		63590400, 504835200 + 3600 * 18,
		(map { $hour - 3600 * $_ } 0 .. 6, 24, 25, 48),
		0, -3600, 4107538800, 253402297200, -63517219200, -62167219200,
		-135596937600, $hour + 7 * 86400);

	%is_dense = map { $hours[$_] => 1 }
	  grep { $_ % 3 == 1 && $hours[$_] != $many_levels } 0 .. $#hours;
	return @hours;
}

# Hours of rows that come late: some of those, and some that nobody had
sub late_hours
{
	my ($now) = @_;
	my $hour = $now - $now % 3600;

	return (
		(map { 1710028800 + 3600 * $_ } 0, 4, 6, 12, 2, 3, 14),
		1730592000 + 3600 * 5, 1730592000 + 3600 * 8, 1729987200 + 3600, 0,
		$hour - 3600 * 3, $hour - 3600 * 25, $hour - 3600 * 30);
}

# What the rows of an hour have in common
my %themes;

sub theme
{
	my ($hour) = @_;
	my $i = keys %themes;
	my $dense = $is_dense{$hour};

	return $themes{$hour} //= {
		levels => $dense ? [ n_of(2, @levels) ]
		: $hour == $many_levels ? [ 'INFO', undef, map { "L$_" } 1 .. 999 ]
		: [ n_of(6, @levels), $i % 3 == 0 ? "RARE$i" : 'INFO' ],
		services => [ $dense ? n_of(1, @services) : n_of(6, @services), "only-$i" ],
		minutes => $dense ? [ between(0, 59), between(0, 59) ] : undef,
		words => [ n_of(24, @message_words), "zebra$i", "Straße$i" ],
		traces => [ map { sprintf '%08x%08x%08x%08x', map { int rand 2**32 } 1 .. 4 }
			  1 .. 6 ],
		n => between(0, 15),
		status => [ n_of(2, 200, 404, 500), "st-$i" ],
		req => [ map { "r$i-$_" } 1 .. 5 ]
	};
}

sub random_attrs
{
	my ($theme) = @_;
	my @pairs;
	my $n = $theme->{n} + between(0, 5);
	my $status = pick(@{ $theme->{status} });

	return pick(@attrs) if chance(0.3);
	push @pairs, '"n": ' . (chance(0.1) ? "\"$n\"" : $n) if chance(0.7);
	push @pairs, '"status": ' .
	  ($status =~ /^\d+$/ && chance(0.2) ? $status : "\"$status\"")
	  if chance(0.5);
	push @pairs, '"req": "' . pick(@{ $theme->{req} }) . '"' if chance(0.6);
	push @pairs, '"user": {"id": ' . between(1, 9) . ', "name": "' .
	  pick('ann', 'bob', 'Zoë') . '"}'
	  if chance(0.5);
	push @pairs, '"tags": [' .
	  join(', ', map { "\"$_\"" } some('a', 'b', 'c')) . ']'
	  if chance(0.4);
	push @pairs, '"ok": ' . pick('true', 'false', 'null') if chance(0.3);
	return '{' . join(', ', @pairs) . '}';
}

# n rows of [ts, level, service, message, trace_id, attrs] in the given hours;
# edges: and the first and last moment of each hour
sub random_rows
{
	my ($n, $edges, @hours) = @_;
	my @popular = map { my $h = pick(@hours);
		[ $h, timestamp($h + between(0, 3599), 0) ] } 1 .. 12;
	my @traces = map { sprintf '%08x%08x%08x%08x', map { int rand 2**32 } 1 .. 4 }
	  1 .. 20;
	my @choice = (@hours, (grep { $is_dense{$_} } @hours),
		map { ($_) x 8 } grep { $_ == $many_levels } @hours);
	my @rows;

	while (@rows < $n)
	{
		my $hour = pick(@choice);
		# doubles do not tell microseconds apart that far away
		my $last = $hour > 4e9 || $hour < -4e9 ? 990000 : 999999;
		my $kind = weighted(2, 2, 2, 5, 5, 1, 1);
		my $theme = theme($hour);
		my $ts;

		if (defined $theme->{minutes} && chance(0.9))
		{
			my $minute = $hour + 60 * pick(@{ $theme->{minutes} });

			$ts = timestamp($minute + pick(0, 59, between(0, 59)),
				pick(0, $last, between(0, 999999)));
		}
		elsif ($kind == 4)
		{
			($hour, $ts) = @{ pick(@popular) };
			$theme = theme($hour);
		}
		else
		{
			$ts = timestamp(
				$kind == 0 ? ($hour, 0)
				: $kind == 1 ? ($hour + 3599, $last)
				: $kind == 2 ? ($hour + between(0, 3599), pick(0, 1, $last))
				# a minute's first and last moment
				: $kind == 5 ? ($hour + 60 * between(0, 59), 0)
				: $kind == 6 ? ($hour + 60 * between(0, 59) + 59, $last)
				: ($hour + between(0, 3599), between(0, 999999)));
		}
		push @rows, [
			$ts,
			pick(@{ $theme->{levels} }),
			pick(@{ $theme->{services} }),
			chance(0.06)
			? pick(@odd_messages)
			: join(pick(' ', ' ', ' ', ' ', ', ', '', "\t", '—'),
				map { pick(@{ $theme->{words} }) } 1 .. between(1, 8)),
			chance(0.15) ? pick(undef, '', 'x')
			: pick(@{ $theme->{traces} }, @{ $theme->{traces} }, @traces),
			random_attrs($theme)
		];
	}
	foreach my $hour ($edges ? @hours : ())
	{
		my $last = $hour > 4e9 || $hour < -4e9 ? 990000 : 999999;

		push @rows, [ timestamp($hour, 0), 'INFO', 'edge', 'first', undef, undef ],
		  [ timestamp($hour + 3599, $last), 'INFO', 'edge', 'last', undef, undef ];
	}
	return @rows;
}

1;
