# Random rows and random queries over a log table.
#
#	my $g = LogqQueries->new(rows => [...]);	# rows as of random_rows()
#	my $q = $g->query;
#
# A query is a hash:
#	shape		what kind it is, for the count
#	sql			its statements; @T@ is the table, @N@ "logq" or "local", @S@ the
#				search function
#	compare		'set': the order of rows means nothing; 'list': it is exact;
#				'error': it fails, everywhere with the same SQLSTATE;
#				a number n: the first n columns are in the same order, and the
#				rows are the same
#	set			settings for all runs of it
#	now			it looks at the clock, so all runs need one transaction
#	explain		the statement can be explained
#
# Everything comes from Perl's generator, so a seed gives the same queries,
# except that rows have the time and the ids of the run.

package LogqQueries;

use strict;
use warnings;
use utf8;

use POSIX qw(floor);

my @text_columns = qw(level service message trace_id);
my @columns = qw(ts level service message trace_id attrs id partition);

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
my @words = ('timeout', 'after', '500', 'ms', 'user', 'GET', '/api/v1/items',
	'connection', 'reset', 'by', 'peer', '100%', 'a_b', 'C:\\temp\\x', "don't",
	'"quoted"', 'naïve', 'ΣΑΣ', '日本語', "\x{1F600}", "e\x{301}", '(x)', '[y]',
	'$1', '{}', 'a.b', '*', '+', 'ERROR', 'null', '\\N', '\\.', 'İ', 'ß');
my @odd_messages = ('', undef, ' ', "\n", "two\nlines", "cr\rlf\r\n", '\\.',
	'\\N', 'NULL', "\x01\x02", '%', '_', '\\', "'", '""', 'trailing  ',
	'x' x 9000, 'ab' x 40000, "\x{1F600}" x 3000, 'null');
my @attrs = (undef, undef, 'null', 'true', '12', '-0.5', '1.5e10',
	'12345678901234567890.123456789', '"text"', '""', '[]', '{}', '[1, 2, 2]',
	'["a", "b"]', '[null, {"n": 1}]', '{"n": null}', '{"": 1, "\'": "\\\\"}',
	'{"a": {"b": {"c": [1, {"d": "deep"}]}}}', '"\u00e9\ud83d\ude00"',
	'{"k\"q": "it\'s"}', '{"n": 1.0}', '{"n": 1.00}');

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

# Starts of the hours that rows lie in: a day on which clocks change, the last
# hours, and far away ones.
sub hours
{
	my ($now) = @_;
	my $hour = $now - $now % 3600;

	return (
		(map { 1710028800 + 3600 * $_ } 0, 1, 4, 5, 6, 7, 8, 12, 16, 20, 23),
		(map { 1730592000 + 3600 * $_ } 4, 5, 6),
		(map { $hour - 3600 * $_ } 0 .. 6, 24, 25, 48),
		0, -3600, 4107538800, 253402297200, -63517219200, -62167219200,
		-135596937600, $hour + 7 * 86400);
}

sub random_attrs
{
	my @pairs;

	return pick(@attrs) if chance(0.3);
	push @pairs, '"n": ' . between(0, 20) if chance(0.7);
	push @pairs, '"status": "' . pick(200, 404, 500) . '"' if chance(0.5);
	push @pairs, '"user": {"id": ' . between(1, 9) . ', "name": "' .
	  pick('ann', 'bob', 'Zoë') . '"}'
	  if chance(0.5);
	push @pairs, '"tags": [' .
	  join(', ', map { "\"$_\"" } some('a', 'b', 'c')) . ']'
	  if chance(0.4);
	push @pairs, '"ok": ' . pick('true', 'false', 'null') if chance(0.3);
	return '{' . join(', ', @pairs) . '}';
}

# n rows of [ts, level, service, message, trace_id, attrs]
sub random_rows
{
	my ($n, $now) = @_;
	my @hours = hours($now);
	my @popular = map { timestamp(pick(@hours) + between(0, 3599), 0) } 1 .. 12;
	my @traces = map { sprintf '%08x%08x%08x%08x', map { int rand 2**32 } 1 .. 4 }
	  1 .. $n / 8 + 1;
	my @rows;

	while (@rows < $n)
	{
		my $hour = pick(@hours);
		# doubles do not tell microseconds apart that far away
		my $last = $hour > 4e9 || $hour < -4e9 ? 990000 : 999999;
		my $ts = (
			sub { timestamp($hour, 0) },
			sub { timestamp($hour + 3599, $last) },
			sub { timestamp($hour + between(0, 3599), pick(0, 1, $last)) },
			sub { timestamp($hour + between(0, 3599), between(0, 999999)) },
			sub { pick(@popular) }
		)[ weighted(2, 2, 3, 6, 5) ]->();

		push @rows, [
			$ts,
			pick(@levels),
			pick(@services),
			chance(0.06)
			? pick(@odd_messages)
			: join(' ', map { pick(@words) } 1 .. between(1, 8)),
			chance(0.15) ? pick(undef, '', 'x') : pick(@traces),
			random_attrs()
		];
	}
	# every hour has rows on its edges
	foreach my $hour (@hours)
	{
		my $last = $hour > 4e9 || $hour < -4e9 ? 990000 : 999999;

		push @rows, [ timestamp($hour, 0), 'INFO', 'edge', 'first', undef, undef ],
		  [ timestamp($hour + 3599, $last), 'INFO', 'edge', 'last', undef, undef ];
	}
	return \@rows;
}

# ---------- the generator of queries ----------

sub new
{
	my ($class, %opt) = @_;
	my $self = bless { %opt, params => undef, now => 0 }, $class;
	my @rows = @{ $opt{rows} };

	$self->{ids} = [1];
	foreach my $i (0 .. $#text_columns)
	{
		my %seen = map { $_->[ $i + 1 ] // '' => 1 } @rows;

		$self->{pool}{ $text_columns[$i] } =
		  [ grep { length $_ < 200 } sort keys %seen ];
	}
	$self->{pool}{partition} = [ 'p1', 'p2', 'p3', 'p4', 'P1', '', 'p' ];
	$self->{times} = [ map { $_->[0] } @rows ];
	$self->{hours} = [ hours($opt{now}) ];
	return $self;
}

# ids of the rows, once they are known
sub set_ids
{
	my ($self, @ids) = @_;

	$self->{ids} = \@ids;
	return;
}

# A value of a type: a literal, or a parameter while there can be some.  make
# gives another value of the same kind each time.
sub value
{
	my ($self, $type, $make) = @_;
	my $params = $self->{params};

	if (defined $params && chance(0.6))
	{
		push @$params,
		  [ $type, map { chance(0.06) ? undef : $make->() } 1 .. 2 ];
		return '$' . @$params;
	}
	return $self->literal($type, $make->());
}

sub literal
{
	my ($self, $type, $v) = @_;

	return $v if $type =~ /int|numeric|float/ && $v =~ /^-?\d+(\.\d+)?$/ && chance(0.7);
	return quote($v) if $type eq 'text' && chance(0.8);
	return quote($v) . "::$type";
}

sub text_value
{
	my ($self, $column) = @_;
	my $pool = $self->{pool}{$column} // $self->{pool}{service};

	return $self->value('text', sub {
		my $v = pick(@$pool);

		return $v if chance(0.75);
		return pick(uc $v, lc $v, "$v ", substr($v, 0, 2), "${v}x", '',
			'nothing like it', pick(@{ $self->{pool}{service} }));
	});
}

# a time as text
sub some_time
{
	my ($self) = @_;
	my $w = weighted(5, 4, 2, 1);

	return pick(@{ $self->{times} }) if $w == 0;
	if ($w == 1)
	{
		# on a bound, and a microsecond to its sides
		my $hour = pick(@{ $self->{hours} }) + pick(0, 3600);

		return timestamp($hour, 0) if chance(0.5);
		return chance(0.5) ? timestamp($hour, 1) : timestamp($hour - 1, 999999);
	}
	return pick('2024-03-10 05:30+00', '2024-03-10 03:00', '1970-01-01',
		'2024-11-03 01:30', '2024-03-10 12:00-05', '2024-02-29', '0001-01-01')
	  if $w == 2;
	return pick('infinity', '-infinity', '4713-11-24 00:00+00 BC',
		'epoch', '9999-12-31 23:59:59+00');
}

# an expression without columns to compare a timestamptz with
sub time_value
{
	my ($self) = @_;
	my $w = weighted(8, 2, 2, 4, 2, 1, 1, 1);

	return $self->value('timestamptz', sub { $self->some_time }) if $w == 0;
	return $self->value('timestamp', sub { $self->some_time }) if $w == 1;
	return $self->value('date', sub { substr(pick('2024-03-10', '2024-03-11',
		'1970-01-01', '9999-12-31', '2024-11-03'), 0, 10) }) if $w == 2;
	$self->{now} = 1;
	if ($w == 3)
	{
		my $interval = pick(map { "interval '$_'" } '1 hour', '90 minutes',
			'3 hours 12 minutes', '1 day', '1 day 2 hours', '1 month',
			'2 years 1 day', '-8 days', '0');

		$interval = $self->value('interval', sub { pick('1 hour', '2 days',
			'5 hours 1 second', '1 mon') }) if chance(0.2);
		return pick('now()', 'current_timestamp', 'transaction_timestamp()') .
		  " - $interval";
	}
	return pick('current_date', "current_date - 1", 'localtimestamp',
		"'today'::timestamptz", "'yesterday'::date", "'now'::timestamptz")
	  if $w == 4;
	return "date_trunc('" . pick('hour', 'day', 'month') . "', now())"
	  if $w == 5;
	return "date_trunc('day', now() - interval '1 day', 'America/New_York')"
	  if $w == 6;
	return "coalesce(" . $self->value('timestamptz', sub { $self->some_time }) .
	  ", now())";
}

sub id_value
{
	my ($self) = @_;

	return $self->value(pick('bigint', 'bigint', 'bigint', 'numeric'), sub {
		return pick(@{ $self->{ids} }) if chance(0.7);
		return pick(0, -1, 5, '9223372036854775807', '17592186044416',
			'35184372088832', '52776558133248', '52776558133249',
			'8796093022208', pick(@{ $self->{ids} }) + 1);
	});
}

# a pattern of LIKE that fits some row
sub like_pattern
{
	my ($self, $column) = @_;

	return $self->value('text', sub {
		my $v = pick(@{ $self->{pool}{$column} // $self->{pool}{message} });
		my ($from, $p);

		$v = substr($v, 0, 30);
		$from = int rand(length($v) + 1);
		$v = substr($v, $from, between(1, 8)) if chance(0.8);
		$v = uc $v if chance(0.1);
		$p = join '', map {
			chance(0.05) ? '_'
			  : $_ eq '\\' || (/[%_]/ && chance(0.7)) ? "\\$_"
			  : $_
		} split //, $v;
		return (sub { "%$p%" }, sub { "$p%" }, sub { "%$p" }, sub { $p },
			sub { "%" })[ weighted(5, 3, 2, 2, 0.3) ]->();
	});
}

my @regexes = ('^ERROR', 'timeout', '[0-9]+', '^[a-z]+$', 'a.b', 'user|peer',
	'(?i)error', '\\d{3}', '\\mms\\M', '^$', '.', 'ß', '[[:upper:]]{3}', '\\s$',
	'\\\\', '^(.).*\\1', 'x{3,5}', '[^ -~]', "n't", '"', '100%', '\\.', '/api',
	'^.{0,3}$', '(?n)^two$');

# ---------- expressions ----------

# expressions of type text over the columns of alias a
sub text_expr
{
	my ($self, $a, $depth) = @_;
	my $c = "$a." . pick(@text_columns);
	my $c2 = "$a." . pick(@text_columns);
	my @simple = (
		sub { $c }, sub { "lower($c)" }, sub { "upper($c)" },
		sub { "coalesce($c, " . $self->text_value('service') . ")" },
		sub { "$c || 'x'" }, sub { "'x' || $c" }, sub { "substr($c, 1, 3)" },
		sub { "left($c, 2)" }, sub { "right($c, " . $self->value('int',
			sub { between(-2, 4) }) . ")" },
		sub { "reverse($c)" }, sub { "md5($c)" }, sub { "replace($c, 'e', 'E')" },
		sub { "btrim($c)" }, sub { "nullif($c, " . $self->text_value('level') . ")" },
		sub { "split_part($c, ' ', " . pick(1, 2, -1) . ")" },
		sub { "concat($c, '-', $c2)" }, sub { "concat_ws('/', $c, $c2)" },
		sub { "format('%s/%s', $c, $c2)" }, sub { "$c || ' ' || $c2" },
		sub { "to_char($a.ts, 'YYYY-MM-DD HH24 TZ')" },
		sub { "date_trunc('day', $a.ts)::text" }, sub { "$a.ts::text" },
		sub { "regexp_replace($c, '[0-9]+', '#', 'g')" }, sub { "initcap($c)" },
		sub { "quote_literal($c)" }, sub { "$a.id::text" }, sub { "$a.partition" },
		sub { "greatest($c, $c2)" }, sub { "least($c, $a.partition)" },
		sub { "lpad(left($c, 20), 9, '*')" }, sub { "translate($c, 'aeiou', '12')" },
		sub { "$c\::varchar(4)" }, sub { "$c\::char(6)" },
		sub { "encode(convert_to(left($c, 40), 'UTF8'), 'hex')" },
		sub { "f_immutable($c)" }, sub { "f_stable($c)" }, sub { "f_volatile($c)" },
		sub { "$a.attrs->>" . pick(map { "'$_'" } 'n', 'status', 'user', '', 'tags') },
		sub { "$a.attrs#>>'{user,name}'" }, sub { "$a.attrs::text" },
		sub { "jsonb_typeof($a.attrs)" }, sub { "$a.partition || '/' || $c" },
		sub { "upper($a.partition)" }, sub { "($a.attrs->'user')->>'name'" },
		sub { "(array[$c, $c2])[1]" }, sub { "overlay($c placing 'Z' from 1 for 1)" });

	if (($depth // 0) > 0 && chance(0.15))
	{
		return "CASE WHEN " . $self->predicate($a, 0) . " THEN $c ELSE " .
		  pick("'other'", $c2, 'NULL') . " END"
		  if chance(0.6);
		return "CASE $c WHEN " . $self->text_value('level') .
		  " THEN 'one' WHEN " . $self->text_value('level') . " THEN $c2 END";
	}
	return chance(0.45) ? $c : pick(@simple)->();
}

sub int_expr
{
	my ($self, $a) = @_;
	my $c = "$a." . pick(@text_columns);

	return pick(
		sub { "length($c)" }, sub { "octet_length($c)" }, sub { "ascii($c)" },
		sub { "strpos($c, 'e')" }, sub { "position('o' in $c)" },
		sub { "extract(hour from $a.ts)::int" },
		sub { "extract(dow from $a.ts AT TIME ZONE 'Asia/Kolkata')::int" },
		sub { "($a.id >> 44)::int" }, sub { "($a.id % 17)::int" },
		sub { "CASE WHEN $a.attrs->>'n' ~ '^[0-9]{1,6}\$' THEN ($a.attrs->>'n')::int END" },
		sub { "CASE WHEN jsonb_typeof($a.attrs->'tags') = 'array' THEN jsonb_array_length($a.attrs->'tags') END" },
		sub { "coalesce(length($a.trace_id), -1)" },
		sub { "abs(hashtext(left($c, 5)) % 10)" },
		sub { "f_count_digits(left($c, 50))" },
		sub { "bit_length($a.partition)" })->();
}

my @comparisons = qw(= = = <> < <= > >=);

sub text_predicate
{
	my ($self, $a, $depth) = @_;
	my $column = pick(@text_columns, 'level', 'service');
	my $e = chance(0.6) ? "$a.$column" : '(' . $self->text_expr($a, $depth) . ')';
	my $v = sub { return $self->text_value($column); };
	my $list = sub {
		my @l = map { $v->() } 1 .. between(1, 4);

		push @l, 'NULL' if chance(0.1);
		return join ', ', @l;
	};
	my $like = sub { return $self->like_pattern($column); };
	my $short = chance(0.5) ? "$a.message" : $e;
	my $regex = sub { return $self->value('text', sub { pick(@regexes) }); };

	return (
		sub { "$e " . pick(@comparisons) . ' ' . $v->() },
		sub { $v->() . ' ' . pick(@comparisons) . " $e" },
		sub { "$e IN (" . $list->() . ")" },
		sub { "$e NOT IN (" . $list->() . ")" },
		sub { "$e = ANY (ARRAY[" . $list->() . "]::text[])" },
		sub { "$e <> ALL (ARRAY[" . $list->() . "]::text[])" },
		sub { "$e " . pick('<', '>=') . pick(' ANY', ' ALL') . " (ARRAY[" .
			  $list->() . "]::text[])" },
		sub { "$e BETWEEN " . $v->() . " AND " . $v->() },
		sub { "$e NOT BETWEEN SYMMETRIC " . $v->() . " AND " . $v->() },
		sub { "$e IS " . pick('', 'NOT ') . "NULL" },
		sub { "$e IS " . pick('', 'NOT ') . "DISTINCT FROM " . $v->() },
		sub { "$short " . pick('LIKE', 'LIKE', 'NOT LIKE', 'ILIKE', 'ILIKE',
			  'NOT ILIKE', '~~', '!~~*') . ' ' . $like->() },
		sub { "$short " . pick('~', '~', '~*', '!~', '!~*') . ' ' . $regex->() },
		sub { "$a.message LIKE '%' || $a.service || '%'" },
		sub { "$a.level " . pick(@comparisons) . " $a.service" },
		sub { "starts_with($e, " . $v->() . ")" },
		sub { "$e ^@ " . $v->() },
		sub { "$e COLLATE \"" . pick('C', 'POSIX', 'default') . '" ' .
			  pick(@comparisons) . ' ' . $v->() },
		sub { "$a.level COLLATE ci_or_default = 'error'" },
		sub { "$e\::varchar = " . $v->() },
		sub { "$a.level\::char(5) = 'INFO '" },
		sub { "$a.service\::name " . pick('=', '<') . " " . $v->() },
		sub { "to_jsonb($a.level) = '\"ERROR\"'" },
		sub { "$e SIMILAR TO '%(timeout|ERROR|e)%'" },
		sub { "to_tsvector('simple', left($a.message, 200)) @@ to_tsquery('simple', 'timeout | user')" },
		sub { "($a.level, $a.service) " . pick('=', '<', '>=', 'IS DISTINCT FROM') .
			  " (" . $v->() . ", " . $v->() . ")" },
		sub { "($a.level, $a.service) IN (('INFO', 'web'), ('ERROR', " . $v->() . "))" },
		sub { "$e LIKE " . pick("'a!_b' ESCAPE '!'", "'%\\%' ESCAPE ''") },
		sub { "$e = current_user" }, sub { "$a.service <> current_setting('TimeZone')" },
		sub { "f_is_error($a.level)" },
		sub { "$e = lower(" . $v->() . ")" },
		sub { "$e = (SELECT d.service FROM dim d WHERE d.k = " . between(1, 12) . ")" },
		sub { "$e = ANY (SELECT d.service FROM dim d WHERE d.k < 5)" },
		sub { "$e IN (SELECT d.service FROM dim d WHERE d.k > length($a.level))" },
		sub { "regexp_match($short, " . $regex->() . ") IS NOT NULL" },
	)[ weighted(14, 2, 6, 4, 4, 3, 2, 3, 1, 5, 3, 10, 8, 1, 2, 1, 1, 2, 1, 1,
			1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) ]->();
}

sub time_predicate
{
	my ($self, $a) = @_;
	my $t = "$a.ts";
	my $v = sub { return $self->time_value; };

	return (
		sub { "$t " . pick(@comparisons, '>', '>=', '<') . ' ' . $v->() },
		sub { $v->() . ' ' . pick('<', '<=', '>', '>=', '=') . " $t" },
		sub { "$t >= " . $v->() . " AND $t < " . $v->() },
		sub { "$t BETWEEN " . pick('', 'SYMMETRIC ') . $v->() . ' AND ' . $v->() },
		sub { "$t IN (" . join(', ', map { quote($self->some_time) . '::timestamptz' }
				1 .. between(1, 4)) . ")" },
		sub { "$t = ANY (ARRAY[" . join(', ', map { quote($self->some_time) }
				1 .. between(1, 4)) . "]::timestamptz[])" },
		sub { "date_trunc('" . pick('hour', 'day', 'month', 'year') . "', $t) " .
			  pick('=', '>', '<=') . ' ' . $v->() },
		sub { "$t\::date " . pick('=', '<>', '<') . " date '" .
			  pick('2024-03-10', '2024-03-09', '1970-01-01') . "'" },
		sub { "extract(hour from $t) " . pick('=', '>', 'IN') . ' (' .
			  between(0, 23) . ')' },
		sub { "$t AT TIME ZONE 'America/New_York' " . pick('<', '>=') .
			  " timestamp '2024-03-10 0" . between(1, 4) . ":30'" },
		sub { "date_bin('15 minutes', $t, timestamptz '2000-01-01 00:00+00') = " .
			  $v->() },
		sub { "$t + interval '1 hour' > " . $v->() },
		sub { "$t - interval '1 day' < " . $v->() },
		sub { "to_char($t, 'MI') = '" . pick('00', '59', '30') . "'" },
		sub { "$t <@ tstzrange(" . join(', ', sort map {
				quote('2024-03-10 ' . sprintf('%02d', $_) . ':00+00') }
				between(0, 11), between(12, 23)) . ")" },
		sub { "($t, $a.id) " . pick('<', '<=', '>', '>=', '=') . ' (' .
			  $self->value('timestamptz', sub { $self->some_time }) . ', ' .
			  $self->value('bigint', sub { pick(@{ $self->{ids} }) }) . ')' },
		sub { "$t IS " . pick('NOT ', '') . 'NULL' },
		sub { "$t IS NOT DISTINCT FROM " . quote($self->some_time) . '::timestamptz' },
		sub { "$t > NULL::timestamptz" },
		sub { "isfinite($t)" },
		sub { "$t\::time > '12:00'" },
		sub { "$t\::text LIKE '2024-03-10 0%'" },
		sub { "$t < (SELECT max(d.since) FROM dim d WHERE d.k <= " . between(1, 9) . ')' },
		sub { "$t > ALL (SELECT d.since FROM dim d WHERE d.k <= " . between(1, 3) . ')' },
		sub { "extract(epoch from $t) > " . pick(0, 1710050000, 1e9) },
		sub { "age(timestamptz '2024-03-11 00:00+00', $t) < interval '12 hours'" },
		sub { "$t >= f_hours_ago(" . between(1, 30) . ')' },
		sub { "$t > make_timestamptz(2024, 3, 10, " . between(0, 23) . ", 0, 0)" },
	)[ weighted(12, 3, 8, 4, 3, 2, 3, 2, 1, 2, 1, 1, 1, 1, 1, 4, 1, 1, 0.5, 1,
			1, 1, 1, 0.5, 1, 1, 2, 1) ]->();
}

sub attrs_predicate
{
	my ($self, $a) = @_;
	my $j = "$a.attrs";
	my $json = sub {
		return $self->value('jsonb', sub { pick('{}', '[]', 'null', '12',
			'{"n": ' . between(0, 20) . '}', '{"status": "500"}', '{"tags": ["a"]}',
			'["a"]', '{"user": {"id": ' . between(1, 9) . '}}', '{"n": 1.0}',
			'{"user": {}}', '"text"', '{"ok": true}') });
	};

	return pick(
		sub { "$j " . pick('@>', '@>', '<@', '=', '<>', '<') . ' ' . $json->() },
		sub { "$j->'" . pick('n', 'user', 'tags', 'nope') . "' " .
			  pick('=', '@>', '<>') . ' ' . $json->() },
		sub { "$j->>'status' " . pick(@comparisons) . ' ' .
			  $self->value('text', sub { pick(200, 404, 500, 'x') }) },
		sub { "$j->>" . $self->value('text', sub { pick('n', 'status', '') }) .
			  " IS " . pick('', 'NOT ') . 'NULL' },
		sub { "$j ? " . $self->value('text', sub { pick('n', 'user', 'a', '', "'") }) },
		sub { "$j " . pick('?|', '?&') . " ARRAY['n', 'status']" },
		sub { "$j #> '{user,id}' = '" . between(1, 9) . "'" },
		sub { "$j #>> '{user,name}' " . pick('=', 'LIKE') . " '" . pick('bob', 'Zoë', 'a%') . "'" },
		sub { "$j#>>ARRAY['user', 'id'] IN ('1', '2', '3')" },
		sub { "jsonb_typeof($j) " . pick('=', '<>') . " '" .
			  pick('object', 'array', 'null', 'number') . "'" },
		sub { "$j IS " . pick('', 'NOT ') . 'NULL' },
		sub { "$j @? '\$.tags[*] ? (@ == \"a\")'" },
		sub { "$j @@ '\$.n > " . between(0, 20) . "'" },
		sub { "jsonb_path_exists($j, '\$.user.id ? (@ > \$x)', '{\"x\": 4}')" },
		sub { "CASE jsonb_typeof($j) WHEN 'object' THEN $j - 'n' = '{}' END" }, sub { "$j || '{\"z\": 1}' @> '{\"z\": 1}'" },
		sub { "$j\['n'] = '" . between(0, 20) . "'" },
		sub { "$j\::text LIKE '%" . pick('bob', 'é', '1.5', '\\\\') . "%'" },
		sub { "CASE WHEN $j->>'n' ~ '^[0-9]{1,6}\$' THEN ($j->>'n')::int END " .
			  pick(@comparisons) . ' ' . $self->value('int', sub { between(0, 20) }) },
		sub { "jsonb_array_length(CASE jsonb_typeof($j) WHEN 'array' THEN $j ELSE '[]' END) = " .
			  between(0, 3) },
		sub { "$j->'user'->>'name' = 'bob'" }, sub { "$j->0 = '1'" },
		sub { "($j->>'ok')::text = 'true'" },
		sub { "$j->(SELECT 'n'::text) IS NOT NULL" })->();
}

sub id_predicate
{
	my ($self, $a) = @_;
	my $v = sub { return $self->id_value; };
	my $id = sub { return pick(@{ $self->{ids} }); };

	return (
		sub { "$a.id = " . $v->() },
		sub { "$a.id " . pick(@comparisons) . ' ' . $v->() },
		sub { "$a.id IN (" . join(', ', map { $v->() } 1 .. between(1, 5)) . ')' },
		sub { "$a.id BETWEEN " . $v->() . ' AND ' . $v->() },
		sub { "$a.id = ANY ('{" . join(',', map { $id->() } 1 .. between(0, 4)) .
			  "}'::bigint[])" },
		sub { "$a.id % 7 = " . between(0, 6) },
		sub { "$a.id >> 44 = " . between(0, 4) },
		sub { "$a.id\::text LIKE '%7'" },
		sub { "$a.id + 0 = " . $v->() },
		sub { "$a.id > " . pick('1.5', "35184372088832.5", "1e13::float8") },
		sub { "$a.id = " . between(1, 99) . pick('::int2', '::int4', '::numeric') },
		sub { "$a.id IS " . pick('NOT ', '') . 'NULL' },
		sub { "$a.id IN (SELECT x.id FROM local_logs x WHERE x.level = 'FATAL')" },
		sub { "$a.id = (SELECT min(x.id) FROM local_logs x WHERE x.service = 'web')" },
		sub { "$a.id <> ALL (ARRAY[" . join(', ', map { $id->() } 1 .. 3) . ']::bigint[])' },
		sub { "($a.id & 3) = 1" }, sub { "-$a.id < " . $v->() },
	)[ weighted(6, 6, 3, 3, 3, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) ]->();
}

sub partition_predicate
{
	my ($self, $a) = @_;
	my $p = "$a.partition";
	my $v = sub { return $self->text_value('partition'); };

	return pick(
		sub { "$p = " . $v->() }, sub { "$p = " . $v->() },
		sub { "$p " . pick(@comparisons) . ' ' . $v->() },
		sub { "$p IN (" . join(', ', map { $v->() } 1 .. between(1, 3)) . ')' },
		sub { "$p NOT IN (" . join(', ', map { $v->() } 1 .. between(1, 3)) . ')' },
		sub { "$p LIKE " . pick("'p%'", "'%2'", "'_1'", "'P1'", "'%'") },
		sub { "$p ILIKE 'P1'" }, sub { "$p || 'x' = 'p1x'" },
		sub { "$p IS " . pick('NOT ', '') . 'NULL' },
		sub { "$p = ANY (ARRAY[" . $v->() . ", " . $v->() . "]::text[])" },
		sub { "$p = $a.service" }, sub { "$p < $a.level" },
		sub { "$p ~ '[12]'" }, sub { "lower($p) = 'p2'" },
		sub { "CASE $p WHEN 'p1' THEN $a.level = 'ERROR' ELSE $a.level = 'INFO' END" },
		sub { "$p = 'p' || ($a.id >> 44)" },
		sub { "$p IN (SELECT 'p' || d.k FROM dim d WHERE d.k < 3)" },
		sub { "$p = (SELECT 'p' || " . between(1, 4) . ")" },
		sub { "$p IS DISTINCT FROM " . $v->() })->();
}

# a condition on the row of alias a
sub predicate
{
	my ($self, $a, $depth) = @_;
	my $w;

	if ($depth > 0 && chance(0.55))
	{
		my @parts = map { $self->predicate($a, $depth - 1) }
		  1 .. (chance(0.8) ? 2 : 3);
		my $p = '(' . join(pick(' AND ', ' AND ', ' OR '), @parts) . ')';

		$p = "NOT $p" if chance(0.12);
		$p = "$p IS " . pick('TRUE', 'NOT TRUE', 'NOT FALSE', 'UNKNOWN')
		  if chance(0.06);
		return $p;
	}
	$w = weighted(10, 7, 4, 4, 3, 2, 1.5);
	return $self->text_predicate($a, $depth) if $w == 0;
	return $self->time_predicate($a) if $w == 1;
	return $self->attrs_predicate($a) if $w == 2;
	return $self->id_predicate($a) if $w == 3;
	return $self->partition_predicate($a) if $w == 4;
	return $self->int_expr($a) . ' ' . pick(@comparisons) . ' ' .
	  $self->value('int', sub { between(-1, 30) })
	  if $w == 5;
	return pick(
		'true', 'false', 'NULL::boolean', 'random() >= 0', '1 = 1',
		'(SELECT true)', "$a.level = $a.level",
		"coalesce($a.level = 'ERROR', false)",
		"num_nulls($a.level, $a.service) = " . between(0, 2),
		'pg_backend_pid() > 0', "'a' = " . $self->text_value('level'),
		"'\@N\@' <> $a.level",
		# a view has no system columns and another row type
		$self->{in_view}
		? ()
		: ( "$a.tableoid = '\@T\@'::regclass",
			"$a.tableoid::regclass::text = '\@T\@'", "$a IS NOT NULL",
			"f_row_ok($a)"));
}

# WHERE with one to three conditions, the first one often on time
sub where
{
	my ($self, $a, $must) = @_;
	my @parts;

	return '' if !$must && chance(0.06);
	push @parts, $self->time_predicate($a) if chance(0.5);
	push @parts, $self->predicate($a, between(0, 2))
	  if !@parts || chance(0.8);
	push @parts, $self->predicate($a, 0) if chance(0.2);
	return 'WHERE ' . join ' AND ', @parts;
}

# a condition that few rows fulfil, for products
sub selective
{
	my ($self, $a) = @_;

	return pick(
		sub { "$a.level = 'FATAL'" }, sub { "$a.service = 'edge'" },
		sub { "$a.id % 37 = " . between(0, 36) },
		sub { "$a.id IN (" . join(', ', map { pick(@{ $self->{ids} }) } 1 .. 9) . ')' },
		sub { my $t = timestamp(pick(@{ $self->{hours} }), 0);
			  "$a.ts >= '$t' AND $a.ts < '$t'::timestamptz + interval '40 minutes'" },
		sub { "$a.trace_id LIKE '" . sprintf('%x', between(0, 15)) . "%'" },
		sub { "$a.partition = 'p" . between(1, 3) . "' AND $a.level = 'Error'" })->();
}

sub direction { return pick('', ' ASC', ' DESC', ' DESC'); }

# ORDER BY of the alias: (clause, keys as a list, is the order total?)
sub order
{
	my ($self, $a, $total) = @_;
	my $w = weighted(6, 4, 3, 2, 2, 1, 1);
	my $d = direction();
	my $id = sub { return "$a.id" . ($_[0] // $d); };
	my @keys;

	@keys = (["$a.ts", $d], ["$a.id", $d]) if $w == 0;
	@keys = (["$a.ts", $d]) if $w == 1;
	@keys = (["$a.ts", $d], ["$a.id", direction()]) if $w == 2;
	@keys = map { [ "$a.$_", direction() . pick('', ' NULLS FIRST', ' NULLS LAST') ] }
	  some('ts', 'level', 'service', 'trace_id')
	  if $w == 3;
	# equal values of jsonb can look different
	@keys = (["$a.ts", $d],
		["$a." . pick('level', 'message', $total ? 'attrs' : ()), direction()])
	  if $w == 4;
	@keys = (["$a.id", $d]) if $w == 5;
	@keys = ([ $self->text_expr($a), $d ]) if $w == 6;
	push @keys, [ "$a.id", direction() ]
	  if $total && !grep { $_->[0] eq "$a.id" } @keys;
	return (
		'ORDER BY ' . join(', ', map { join '', @$_ } @keys),
		[ map { $_->[0] } @keys ],
		scalar grep { $_->[0] eq "$a.id" } @keys);
}

sub limit
{
	my ($self) = @_;
	my $n = sub { return $self->value('bigint', sub { pick(0, 1, 2, 5, 10, 50,
		100, 700, 10000) }); };
	my $l = pick('LIMIT ' . $n->(), 'LIMIT ' . $n->(), 'LIMIT ' . pick(1, 10, 100),
		'LIMIT ' . pick('NULL', 'ALL', '2 + 3', '(SELECT 7)', '5.4'));

	$l = 'LIMIT ' . pick(3, 20, 100) . ' OFFSET ' . $self->value('bigint',
		sub { pick(0, 1, 10, 500) }) if chance(0.25);
	$l = 'OFFSET ' . between(0, 60) if chance(0.05);
	return $l;
}

# items of a select list
sub select_items
{
	my ($self, $a) = @_;

	return ("$a.*") if chance(0.2);
	return (map { "$a.$_" } some(@columns)) if chance(0.5);
	return map {
		pick(
			sub { "$a." . pick(@columns) }, sub { "$a." . pick(@columns) },
			sub { $self->text_expr($a, 1) }, sub { $self->int_expr($a) },
			sub { '(' . $self->predicate($a, 0) . ')' }, sub { "$a.attrs->'user'" },
			sub { "$a.tableoid = '\@T\@'::regclass" }, sub { "1" },
			sub { $self->value('text', sub { pick('a', 'b') }) . '::text' })->()
	} 1 .. between(1, 4);
}

# ---------- shapes of queries; each gives (sql, compare) ----------

sub shape_simple
{
	my ($self) = @_;
	my @items = $self->select_items('t');
	my $where = $self->where('t');
	my $w = weighted(4, 4, 6);
	my ($order, $keys, $total);

	return ("SELECT " . join(', ', @items) . " FROM \@T\@ t $where", 'set')
	  if $w == 0;
	($order, $keys, $total) = $self->order('t', $w == 2);
	return ("SELECT " . join(', ', @$keys, @items) . " FROM \@T\@ t $where $order",
		$total ? 'list' : scalar @$keys)
	  if $w == 1;
	return ("SELECT " . join(', ', @items) . " FROM \@T\@ t $where $order " .
		  $self->limit, 'list');
}

my @aggregates = ('count(*)', 'count(t.level)', 'min(t.ts)', 'max(t.ts)',
	'min(t.message)', 'max(t.trace_id)', 'count(DISTINCT t.service)',
	'sum(length(t.message))', 'avg(t.id)', 'max(t.id)', 'bool_or(t.level IS NULL)',
	"count(*) FILTER (WHERE t.level = 'ERROR')", 'min(t.partition)',
	"string_agg(t.level, ',' ORDER BY t.ts, t.id)", 'count(t)',
	'array_agg(t.id ORDER BY t.ts DESC, t.id DESC)', 'count(t.attrs)',
	'percentile_disc(0.5) WITHIN GROUP (ORDER BY t.ts)', 'max(t.ts) - min(t.ts)',
	'jsonb_agg(t.attrs ORDER BY t.id)', 'every(t.id > 0)',
	"array_agg(DISTINCT t.partition)");

sub shape_aggregate
{
	my ($self) = @_;
	my @aggs = some(@aggregates);
	my $where = $self->where('t');
	my @groups;
	my $sql;

	@aggs = @aggs[ 0 .. 3 ] if @aggs > 4;
	return ("SELECT " . join(', ', @aggs) . " FROM \@T\@ t $where", 'set')
	  if chance(0.35);
	@groups = map {
		pick('t.level', 't.service', 't.partition', "date_trunc('hour', t.ts)",
			'lower(t.level)', "t.attrs->>'status'", 't.ts::date', 't.ts',
			't.id >> 44', "date_bin('1 day', t.ts, '2000-01-01+00'::timestamptz)")
	} 1 .. between(1, 2);
	$sql = "SELECT " . join(', ', @groups, @aggs) . " FROM \@T\@ t $where GROUP BY ";
	if (chance(0.15))
	{
		$sql .= pick('ROLLUP', 'CUBE') . '(' . join(', ', @groups) . ')';
	}
	else
	{
		$sql .= join ', ', @groups;
	}
	$sql .= ' HAVING count(*) > ' . between(0, 4) if chance(0.2);
	return ("$sql ORDER BY " . join(', ', 1 .. @groups) . ' LIMIT ' . between(1, 20),
		'list')
	  if chance(0.2) && $sql !~ /ROLLUP|CUBE/;
	return ($sql, 'set');
}

sub shape_distinct
{
	my ($self) = @_;
	my $where = $self->where('t');
	my $on = pick('t.level', 't.service', 't.partition', 't.ts');

	return ("SELECT DISTINCT " . join(', ', map { "t.$_" } some(qw(level service
				partition trace_id ts))) . " FROM \@T\@ t $where", 'set')
	  if chance(0.5);
	return ("SELECT DISTINCT ON ($on) $on, t.ts, t.id FROM \@T\@ t $where ORDER BY $on, t.ts"
		  . direction() . ", t.id", 'set')
	  if $on ne 't.ts';
	return ("SELECT DISTINCT ON (t.ts) t.ts, t.id, t.level FROM \@T\@ t $where ORDER BY t.ts"
		  . pick('', ' DESC') . ", t.id", 'list');
}

sub shape_join_local
{
	my ($self) = @_;
	my $kind = pick('JOIN', 'JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN');
	my $on = pick('t.service = d.service', 't.service = d.service',
		'lower(t.service) = d.service', 't.level = d.level',
		't.ts = d.since', 't.id = d.id', 't.trace_id = d.trace_id');
	my $extra = chance(0.4) && $kind ne 'FULL JOIN'
	  ? ' AND ' . pick('t.ts >= d.since', 'd.k > length(t.level)',
		't.message LIKE d.pattern', $self->predicate('t', 0))
	  : '';
	my $where = $self->where('t', 1);
	my @from = ("dim d", "\@T\@ t");
	my $suffix = '';

	$where .= ' AND d.k < ' . between(2, 14) if chance(0.3);
	$suffix = ' FOR UPDATE OF d' if $kind eq 'JOIN' && chance(0.2);
	@from = reverse @from if chance(0.5);
	return ("SELECT t.ts, t.id, d.k, " . join(', ', $self->select_items('t')) .
		  " FROM $from[0] $kind $from[1] ON $on$extra $where" .
		  " ORDER BY t.ts" . direction() . ", t.id, d.k LIMIT " . between(1, 80),
		'list')
	  if chance(0.3) && $kind eq 'JOIN';
	return ("SELECT d.k, t.id, " . join(', ', $self->select_items('t')) .
		  " FROM $from[0] $kind $from[1] ON $on$extra $where$suffix", 'set');
}

sub shape_self_join
{
	my ($self) = @_;
	my $on = pick('a.trace_id = b.trace_id', 'a.ts = b.ts', 'a.ts = b.ts',
		'a.id = b.id', 'a.ts = b.ts AND a.id <= b.id',
		'a.service = b.service AND a.ts < b.ts');
	my $kind = pick('JOIN', 'JOIN', 'LEFT JOIN', 'FULL JOIN');
	my $where = 'WHERE ' . $self->selective('a') . ' AND ' .
	  ($kind eq 'JOIN' ? $self->selective('b') : 'true');

	$kind = 'JOIN' if $on =~ /[<]/ && $kind eq 'FULL JOIN';
	return ("SELECT a.ts, a.id, b.id, b.level FROM \@T\@ a $kind \@T\@ b ON $on $where" .
		  " ORDER BY a.ts" . direction() . ", a.id, b.id" .
		  (chance(0.5) ? ' LIMIT ' . between(1, 40) : ''), 'list')
	  if chance(0.5);
	return ("SELECT a.id, b.id, a.message, b.service FROM \@T\@ a $kind \@T\@ b ON $on $where",
		'set');
}

sub shape_subquery
{
	my ($self) = @_;
	my $inner = $self->where('x', 1);
	my $sel = 'WHERE ' . $self->selective('x');

	return pick(
		sub { ("SELECT t.id, t.level FROM \@T\@ t WHERE t.trace_id IN (SELECT x.trace_id FROM \@T\@ x $inner)", 'set') },
		sub { ("SELECT t.id FROM \@T\@ t WHERE t.id NOT IN (SELECT x.id FROM \@T\@ x $sel)", 'set') },
		sub { ("SELECT d.k FROM dim d WHERE EXISTS (SELECT FROM \@T\@ x $inner AND x.service = d.service)", 'set') },
		sub { ("SELECT d.k FROM dim d WHERE NOT EXISTS (SELECT FROM \@T\@ x $inner AND x.level = d.level AND x.ts > d.since)", 'set') },
		sub { ("SELECT t.id FROM \@T\@ t WHERE NOT EXISTS (SELECT FROM dim d WHERE d.service = t.service AND d.since < t.ts)", 'set') },
		sub { ("SELECT t.id FROM \@T\@ t WHERE t.ts = (SELECT max(x.ts) FROM \@T\@ x $inner)", 'set') },
		sub { ("SELECT t.id, t.ts FROM \@T\@ t WHERE t.ts > (SELECT min(x.ts) FROM \@T\@ x $sel) AND "
				. $self->predicate('t', 1), 'set') },
		sub { ("SELECT t.id FROM \@T\@ t WHERE (t.level, t.service) IN (SELECT d.level, d.service FROM dim d) AND "
				. $self->predicate('t', 0), 'set') },
		sub { ("SELECT s.level, s.n FROM (SELECT x.level, count(*) AS n FROM \@T\@ x $inner GROUP BY 1) s WHERE s.n > "
				. between(0, 9), 'set') },
		sub { ("SELECT s.id FROM (SELECT x.id, x.ts, x.level FROM \@T\@ x $inner ORDER BY x.ts DESC, x.id LIMIT "
				. between(1, 90) . ") s WHERE " . pick("s.level = 'INFO'", 's.id % 2 = 0', "s.ts < now()"), 'set') },
		sub { ("SELECT t.id FROM \@T\@ t WHERE t.id = ANY (ARRAY(SELECT x.id FROM \@T\@ x $sel))", 'set') },
		sub { ("SELECT d.k, d.level FROM dim d WHERE d.level NOT IN (SELECT x.level FROM \@T\@ x $inner AND x.level IS NOT NULL)", 'set') }
	)->();
}

sub shape_cte
{
	my ($self) = @_;
	my $m = pick('', 'MATERIALIZED ', 'NOT MATERIALIZED ');
	my $where = $self->where('t');

	return ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 4)"
		  . " SELECT r.n, (SELECT count(*) FROM \@T\@ t $where" .
		  ($where ? ' AND' : ' WHERE') . " t.id >> 44 = r.n) FROM r", 'set')
	  if chance(0.25);
	return ("WITH w AS $m(SELECT t.ts, t.id, t.level, t.service FROM \@T\@ t $where)"
		  . " SELECT a.level, count(*), min(b.ts) FROM w a JOIN w b ON a.id = b.id"
		  . " AND b.ts < '2200-01-01' GROUP BY 1", 'set')
	  if chance(0.4);
	return ("WITH w AS $m(SELECT t.ts, t.id, t.level, t.service FROM \@T\@ t $where)"
		  . " SELECT * FROM w WHERE " .
		  pick("level = 'ERROR'", "service IN ('web', 'auth')", "ts > now() - interval '5 hours'")
		  . " ORDER BY ts DESC, id LIMIT " . between(1, 60), 'list');
}

sub shape_setop
{
	my ($self) = @_;
	my $cols = sub { join ', ', map { "$_[0].$_" } qw(level service partition id) };
	my $op = pick('UNION', 'UNION ALL', 'UNION ALL', 'INTERSECT', 'EXCEPT',
		'EXCEPT ALL');
	my $other = pick('@T@', 'local_logs');
	my $sql = "SELECT " . $cols->('t') . " FROM \@T\@ t " . $self->where('t') .
	  " $op SELECT " . $cols->('x') . " FROM $other x ";

	$self->{in_view} = $other ne '@T@';
	$sql .= $self->where('x');
	$self->{in_view} = 0;

	return ("$sql ORDER BY id" . direction() . ', level, service LIMIT ' .
		  between(1, 50), 'list')
	  if chance(0.3);
	return ("(SELECT t.ts, t.id FROM \@T\@ t " . $self->where('t') .
		  " ORDER BY t.ts DESC, t.id DESC LIMIT 9) UNION ALL (SELECT x.ts, x.id FROM \@T\@ x " .
		  $self->where('x') . " ORDER BY x.ts, x.id LIMIT 9) ORDER BY 1, 2", 'list')
	  if chance(0.3);
	# both branches ordered: MergeAppend
	return ("SELECT ts, id FROM (SELECT t.ts, t.id FROM \@T\@ t " . $self->where('t') .
		  " UNION ALL SELECT x.ts, x.id FROM \@T\@ x " . $self->where('x') .
		  ") s ORDER BY ts" . pick('', ' DESC') . ', id LIMIT ' . between(1, 99), 'list')
	  if chance(0.3);
	return ($sql, 'set');
}

sub shape_target_subselect
{
	my ($self) = @_;
	my $where = $self->where('x', 1);

	return ("SELECT d.k, (SELECT count(*) FROM \@T\@ x $where AND x.service = d.service),"
		  . " (SELECT x.id FROM \@T\@ x WHERE x.level = d.level ORDER BY x.ts DESC, x.id DESC LIMIT 1)"
		  . " FROM dim d", 'set')
	  if chance(0.6);
	return ("SELECT t.id, (SELECT d.k FROM dim d WHERE d.service = t.service AND d.since <= t.ts ORDER BY d.k LIMIT 1),"
		  . " EXISTS (SELECT FROM dim d WHERE d.trace_id = t.trace_id) FROM \@T\@ t " .
		  $self->where('t', 1), 'set');
}

sub shape_lateral
{
	my ($self) = @_;
	my $on = pick('x.service = d.service', 'x.level = d.level AND x.ts > d.since',
		'x.ts >= d.since', "x.ts BETWEEN d.since - interval '1 hour' AND d.since",
		'x.id >= d.id', 'x.trace_id = d.trace_id', "x.partition = 'p' || d.k",
		'x.message LIKE d.pattern', "x.attrs @> jsonb_build_object('n', d.k)");
	my $extra = chance(0.4) ? ' AND ' . $self->predicate('x', 0) : '';

	return ("SELECT d.k, l.* FROM dim d LEFT JOIN LATERAL (SELECT x.ts, x.id, x.level"
		  . " FROM \@T\@ x WHERE $on$extra ORDER BY x.ts" .
		  pick('', ' DESC') . ', x.id LIMIT ' .
		  pick(1, 3, 20, 'd.k') . ") l ON " . pick('true', 'true', 'l.id % 2 = 1'),
		'set')
	  if chance(0.75);
	return ("SELECT d.k, l.n, l.m FROM dim d, LATERAL (SELECT count(*) AS n, max(x.ts) AS m"
		  . " FROM \@T\@ x WHERE $on$extra) l", 'set');
}

sub shape_window
{
	my ($self) = @_;
	my $where = $self->where('t');
	my $d = pick('', ' DESC');
	my $f = pick('row_number()', 'lag(t.ts)', 'rank()', 'count(*)',
		'first_value(t.message)', 'sum(length(t.level))', 'lead(t.level, 2)');
	my $over = "OVER (" .
	  pick('', '', 'PARTITION BY t.service ', 'PARTITION BY t.partition ') .
	  "ORDER BY t.ts$d, t.id$d)";

	return ("SELECT * FROM (SELECT t.id, t.service, $f $over AS f FROM \@T\@ t $where) s WHERE s.id % 3 = 0", 'set')
	  if chance(0.3);
	return ("SELECT t.id, t.level, $f $over FROM \@T\@ t $where" .
		  (chance(0.3) ? " ORDER BY t.ts$d, t.id$d LIMIT " . between(1, 40) : ''),
		'set');
}

sub shape_view
{
	my ($self) = @_;
	my $where;

	$self->{in_view} = 1;
	$where = $self->where('t');
	$self->{in_view} = 0;
	return pick(
		sub { ("SELECT t.* FROM v_errors_\@N\@ t $where", 'set') },
		sub { ("SELECT t.ts, t.id, t.message FROM v_barrier_\@N\@ t $where ORDER BY t.ts DESC, t.id LIMIT "
				. between(1, 60), 'list') },
		sub { ("SELECT v.* FROM v_newest_\@N\@ v WHERE v.level = 'INFO' ORDER BY v.ts, v.id", 'list') },
		sub { ("SELECT v.hour, v.n, d.k FROM v_hourly_\@N\@ v JOIN dim d ON v.level = d.level WHERE v.n > 1", 'set') }
	)->();
}

sub shape_whole_row
{
	my ($self) = @_;
	my $where = $self->where('t', 1);

	return pick(
		sub { ("SELECT t FROM \@T\@ t $where", 'set') },
		sub { ("SELECT (t).level, (t).id, row_to_json(t)::text FROM \@T\@ t $where", 'set') },
		sub { ("SELECT t.id, t IS NULL, t IS NOT NULL FROM \@T\@ t $where ORDER BY t.ts, t.id", 'list') },
		sub { ("SELECT d.k, t FROM dim d LEFT JOIN \@T\@ t ON t.service = d.service AND "
				. $self->predicate('t', 0), 'set') },
		sub { ("SELECT count(DISTINCT t), max(t.id) FROM \@T\@ t $where", 'set') },
		sub { ("SELECT t.tableoid::regclass::text = '\@T\@', t.tableoid = '\@T\@'::regclass, t FROM \@T\@ t $where"
				. " ORDER BY t.ts DESC, t.id DESC LIMIT 7", 'list') },
		sub { ("SELECT t.* FROM \@T\@ t $where AND t.* IS NOT NULL", 'set') },
		sub { ("SELECT a.id, a = b FROM \@T\@ a JOIN \@T\@ b ON a.id = b.id WHERE " .
				$self->selective('a'), 'set') })->();
}

sub shape_cursor
{
	my ($self) = @_;
	my $d = pick('', ' DESC');
	my $scroll = chance(0.3);
	my $declare = sub {
		my ($name) = @_;

		return "DECLARE $name " .
		  ($scroll ? 'SCROLL' : pick('', 'NO SCROLL')) .
		  " CURSOR FOR SELECT t.ts, t.id, t.message FROM \@T\@ t " . $self->where('t') .
		  " ORDER BY t.ts$d, t.id$d" . (chance(0.3) ? ' ' . $self->limit : '');
	};
	my @sql = ($declare->('c1'), $declare->('c2'));

	foreach (1 .. between(2, 9))
	{
		my $c = pick('c1', 'c1', 'c2');
		my @moves = ('FETCH ' . between(1, 70), 'FETCH ' . between(1, 5),
			'MOVE ' . between(1, 50));

		push @moves, 'FETCH 0', 'FETCH BACKWARD ' . between(1, 20), 'FETCH ABSOLUTE ' . between(0, 50),
		  'FETCH LAST', 'MOVE FIRST'
		  if $scroll;
		push @sql, pick(@moves) . " FROM $c";
	}
	push @sql, 'FETCH ALL FROM c1' if chance(0.4);
	push @sql, 'CLOSE c1' if chance(0.7);
	push @sql, 'FETCH 10 FROM c2' if chance(0.7);
	$self->{now} = 1;    # needs a transaction
	return (\@sql, 'list');
}

sub shape_search
{
	my ($self) = @_;
	my @args;
	my $f = '@S@';

	push @args, "start_time => " . pick('NULL', "'2024-03-10 05:00+00'",
		"now() - interval '5 hours'", "'0001-01-01 BC'", "'-infinity'")
	  if chance(0.9);
	push @args, "end_time => " . pick('NULL', "'2024-03-10 18:00+00'", 'now()',
		$self->value('timestamptz', sub { $self->some_time })) if chance(0.5);
	push @args, "level => " . $self->text_value('level') if chance(0.4);
	push @args, "service => " . $self->text_value('service') if chance(0.3);
	push @args, "trace_id => " . $self->text_value('trace_id') if chance(0.1);
	push @args, "contains => " . $self->value('text', sub { pick('timeout', '100%',
		'a_b', '\\', 'É', 'naï', '', 'TEMP\\X', "'") }) if chance(0.3);
	push @args, "pattern => " . $self->value('text', sub { pick(@regexes) })
	  if chance(0.2);
	push @args, "max_rows => " . pick('NULL', 1, 10, 100, $self->value('bigint',
		sub { pick(3, 30) })) if chance(0.7);
	$self->{now} = 1;
	return ("SELECT * FROM $f(" . join(', ', @args) . ")", 'list') if chance(0.6);
	return ("SELECT s.level, count(*) FROM $f(" . join(', ', @args) . ") s GROUP BY 1", 'set')
	  if chance(0.4);
	return ("SELECT d.k, s.id FROM dim d, $f(start_time => NULL, service => d.service, max_rows => "
		  . between(1, 9) . ") s", 'set')
	  if chance(0.5);
	return ("SELECT s.* FROM $f(" . join(', ', @args) . ") s JOIN dim d ON d.service = s.service", 'set');
}

sub shape_plpgsql
{
	my ($self) = @_;
	my ($level, $service) = map { quote(pick(@{ $self->{pool}{$_} })) } qw(level service);

	return ("SELECT f_loop_\@N\@($level, $service, " . quote($self->some_time) . ')', 'list')
	  if chance(0.5);
	return ("SELECT f_dynamic('\@T\@', $level, " . between(0, 9) . ')', 'list');
}

sub shape_modify
{
	my ($self) = @_;
	my $where = $self->where('x', 1);

	$self->{now} = 1;    # to be rolled back
	return ([ "UPDATE dim d SET level = 'seen' WHERE EXISTS (SELECT FROM \@T\@ x $where AND x.service = d.service) RETURNING d.k" ],
		'set')
	  if chance(0.3);
	return ([ "DELETE FROM dim d USING \@T\@ x $where AND x.level = d.level RETURNING d.k" ],
		'set')
	  if chance(0.3);
	return ([ "INSERT INTO dim (k, service) SELECT 1000 + count(*), x.service FROM \@T\@ x $where GROUP BY x.service RETURNING k, service" ],
		'set')
	  if chance(0.4);
	return ([ "CREATE TEMP TABLE taken AS SELECT x.ts, x.id, x.attrs FROM \@T\@ x $where",
			"SELECT * FROM taken", "DROP TABLE taken" ], 'set');
}

sub shape_copy
{
	my ($self) = @_;
	my ($order) = $self->order('t', 1);

	return ([ "COPY (SELECT " . join(', ', $self->select_items('t')) . " FROM \@T\@ t " .
			$self->where('t') . " $order) TO STDOUT" . pick('', ' (FORMAT csv, HEADER)') ],
		'list');
}

sub shape_merge_join
{
	my ($self) = @_;

	$self->{more_set} = [ 'enable_hashjoin = off', 'enable_nestloop = off' ];
	return ("SELECT a.id, b.id FROM \@T\@ a " . pick('JOIN', 'LEFT JOIN', 'FULL JOIN') .
		  " (SELECT * FROM \@T\@ x WHERE " . $self->selective('x') . ") b ON a.ts = b.ts" .
		  pick('', ' AND a.id = b.id') . pick('', ' ORDER BY a.ts, a.id, b.id'), 'set');
}

sub shape_series
{
	my ($self) = @_;
	my $hour = pick(@{ $self->{hours} });
	my $step = pick('10 minutes', '1 hour', '25 minutes');
	my $extra = chance(0.5) ? ' AND ' . $self->predicate('t', 0) : '';

	return ("SELECT g.h, (SELECT count(*) FROM \@T\@ t WHERE t.ts >= g.h AND t.ts < g.h + interval '$step'$extra)"
		  . " FROM generate_series('" . timestamp($hour - 3600, 0) . "'::timestamptz, '" .
		  timestamp($hour + 7200, 0) . "'::timestamptz, '$step') g(h)", 'set')
	  if chance(0.5);
	return ("SELECT g.h, t.id FROM generate_series('" . timestamp($hour - 3600, 0) .
		  "'::timestamptz, '" . timestamp($hour + 7200, 0) . "'::timestamptz, '$step') g(h)"
		  . " LEFT JOIN \@T\@ t ON t.ts >= g.h AND t.ts < g.h + interval '$step'$extra", 'set');
}

# One that fails on some row, wherever it is evaluated
sub shape_error
{
	my ($self) = @_;
	my $bad = pick(
		't.id / (length(t.message) - length(t.message)) = 1',
		't.level::int = 5', '(t.attrs)::int > 0',
		"to_char(t.ts, 'YYYY')::int / (t.id - t.id) > 0", 'repeat(t.level, -1)::int = 1',
		"('x' || t.service)::timestamptz < t.ts", "t.message ~ (left(t.level, 0) || '(')",
		"substr(t.level, 1, -1) = 'a'", 'f_fails(t.id)');
	my ($order) = $self->order('t', 1);

	return ("SELECT t.id FROM \@T\@ t WHERE $bad" . pick('', " $order"), 'error')
	  if chance(0.6);
	return ("SELECT count(*), max(CASE WHEN $bad THEN 1 END) FROM \@T\@ t", 'error')
	  if chance(0.5);
	return ("SELECT d.k FROM dim d WHERE EXISTS (SELECT FROM \@T\@ t WHERE t.service = d.service AND $bad)",
		'error');
}

my @shapes = (
	[ 30, 'simple' ], [ 10, 'aggregate' ], [ 4, 'distinct' ], [ 9, 'join_local' ],
	[ 5, 'self_join' ], [ 8, 'subquery' ], [ 4, 'cte' ], [ 6, 'setop' ],
	[ 4, 'target_subselect' ], [ 6, 'lateral' ], [ 5, 'window' ], [ 4, 'view' ],
	[ 4, 'whole_row' ], [ 6, 'cursor' ], [ 6, 'search' ], [ 2, 'plpgsql' ],
	[ 3, 'modify' ], [ 2, 'copy' ], [ 3, 'merge_join' ], [ 3, 'series' ],
	[ 2, 'error' ]);

sub shape_names { return map { $_->[1] } @shapes; }

my @planner_settings = map { "$_ = off" } qw(enable_hashjoin enable_mergejoin
  enable_nestloop enable_material enable_memoize enable_sort
  enable_incremental_sort enable_hashagg);

sub query
{
	my ($self, $only) = @_;
	my $shape = $only // $shapes[ weighted(map { $_->[0] } @shapes) ][1];
	my $prepared = $shape !~ /cursor|plpgsql|modify|copy|error/ && chance(0.3);
	my %q = (shape => $shape, set => []);
	my ($sql, $compare);

	$self->{now} = 0;
	$self->{more_set} = [];
	$self->{params} = $prepared ? [] : undef;
	($sql, $compare) = $self->can("shape_$shape")->($self);
	push @{ $q{set} }, "timezone = '" .
	  pick('UTC', 'America/New_York', 'Asia/Kolkata', 'Pacific/Chatham') . "'"
	  if chance(0.5);
	push @{ $q{set} }, "datestyle = '" . pick('SQL, DMY', 'German', 'Postgres, MDY') . "'"
	  if chance(0.1) && !$prepared;
	push @{ $q{set} }, "intervalstyle = 'iso_8601'" if chance(0.05);
	push @{ $q{set} }, pick(@planner_settings) foreach 1 .. pick(0, 0, 0, 1, 2);
	push @{ $q{set} }, 'logq.max_parallel_partitions = ' . pick(1, 2) if chance(0.15);
	push @{ $q{set} }, 'work_mem = 64' if chance(0.1);
	push @{ $q{set} }, 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0',
	  'min_parallel_table_scan_size = 0'
	  if chance(0.1);
	push @{ $q{set} }, @{ $self->{more_set} };
	if ($prepared && @{ $self->{params} })
	{
		my @params = @{ $self->{params} };

		push @{ $q{set} }, 'plan_cache_mode = ' .
		  pick('force_generic_plan', 'force_custom_plan', 'auto');
		# with both sets of values, so that one plan serves several
		$sql = [
			'PREPARE q(' . join(', ', map { $_->[0] } @params) . ") AS $sql",
			(map { my $i = $_;
				'EXECUTE q(' . join(', ', map { quote($_->[$i]) . "::$_->[0]" } @params) . ')'
			} 1, 2, 1),
			'DEALLOCATE q' ];
	}
	$q{explain} = !ref $sql;
	$q{sql} = ref $sql ? $sql : [$sql];
	$q{compare} = $compare;
	$q{now} = $self->{now};
	$self->{params} = undef;
	return \%q;
}

1;
