# Random aggregates, expressions to group by, and conditions of which counts in
# advance could know.
#
# A part of LogqQueries; LogqGroups.pm makes queries of them.  Whatever these
# give is the same in whatever order rows come:
#	- sums of floats are of multiples of 1/8, so they are exact;
#	- what is computed from such sums is rounded;
#	- of values that are equal and do not look it (1.0 and 1.00, jsonb, text of
#	  a nondeterministic collation) none is put out, or without what differs;
#	- lists are ordered by what is unique, or of what looks alike.

package LogqAggregates;

use strict;
use warnings;
use utf8;

use LogqRows qw(pick chance between some weighted quote timestamp);

# whose clocks changed in hours that have rows, or have odd offsets
our @zones = ('UTC', 'America/New_York', 'Europe/Berlin', 'Asia/Kolkata',
	'Asia/Kathmandu', 'Australia/Lord_Howe', 'Pacific/Apia',
	'America/St_Johns', 'Africa/Monrovia', 'Pacific/Chatham');

# What queries must have had, by what they look like with their settings
our %features = (
	'FILTER' => qr/ FILTER \(WHERE /,
	'HAVING' => qr/ HAVING /,
	'DISTINCT in an aggregate' => qr/\b(?:count|sum|avg|string_agg|array_agg)\(DISTINCT /,
	'ordered aggregates' => qr/ WITHIN GROUP | ORDER BY t\.ts, t\.id\)/,
	'variances' => qr/\b(?:var|stddev)_(?:pop|samp)\(/,
	'float8' => qr/::float8/,
	'grouping sets' => qr/ROLLUP|CUBE|GROUPING SETS/,
	'date_bin' => qr/date_bin\(/,
	'floor(epoch)' => qr/floor\(extract\(epoch from /,
	'date_trunc' => qr/date_trunc\('\w+', \w+\.ts\)/,
	'date_trunc with a zone' => qr/date_trunc\('\w+', \w+\.ts, '/,
	'date_trunc of a local time' => qr/date_trunc\('\w+', \w+\.ts AT TIME ZONE /,
	'extract' => qr/extract\((?!epoch)\w+ from \w+\.ts/,
	'to_char' => qr/to_char\(/,
	'top groups' => qr/GROUP BY .* ORDER BY \d+ (?:DESC|ASC).* LIMIT /,
	'WITH TIES' => qr/ WITH TIES/,
	'windows over groups' => qr/GROUP BY .* OVER \(|OVER \(.* GROUP BY /,
	'prepared' => qr/^PREPARE .*GROUP BY /m,
	'generic plans' => qr/force_generic_plan/,
	'DISTINCT' => qr/SELECT DISTINCT (?!ON)/,
	'types' => qr/pg_typeof\(|CREATE TEMP TABLE kept/,
	map { my $z = $_; ($z => qr/timezone = '$z'/) } @zones);

# ---------- settings ----------

# the time zone of a session, for SET
sub zone_setting
{
	return pick("TIME ZONE INTERVAL '+05:45' HOUR TO MINUTE",
		"timezone = '<+0545>-05:45'",
		"timezone = 'NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01'")
	  if chance(0.1);
	return "timezone = '" . pick(@zones) . "'";
}

# ---------- conditions ----------

# A moment at which a range may begin or end: of whole hours and minutes, a
# row's own, or just beside those
sub edge
{
	my ($self) = @_;
	my $hour = pick(@{ $self->{hours} });
	my $w = weighted(5, 4, 4, 3, 2);

	return timestamp($hour + 3600 * pick(0, 0, 0, 1, 1, 3), 0) if $w == 0;
	return timestamp($hour + 60 * between(0, 60), 0) if $w == 1;
	return pick(@{ $self->{times} }) if $w == 2;
	return chance(0.5)
	  ? timestamp($hour + 60 * between(0, 60), 1)
	  : timestamp($hour + 60 * between(0, 60) - 1, 999999)
	  if $w == 3;
	return timestamp($hour + between(0, 3599), between(0, 999999));
}

# two of them, the earlier one first
sub edges
{
	my ($self) = @_;
	my @e = ($self->edge, $self->edge);
	my ($x, $y) = map { /BC/ ? '' : $_ } @e;

	return $x le $y ? @e : reverse @e;
}

# an expression with such a moment as value; make gives it as text
sub bound
{
	my ($self, $make) = @_;
	my $w = weighted(10, 3, 1, 1);
	my $at;

	return $self->value('timestamptz', $make) if $w == 0;
	return $self->value('timestamp', $make) if $w == 2;
	$at = $make->();
	return quote($at) . "::timestamptz + interval '0'" if $w == 3;
	# as Grafana writes them
	$at =~ s/ /T/ && $at =~ s/(\.000000)?\+00$/Z/ unless $at =~ /BC/;
	return quote($at);
}

# a condition on the time alone
sub time_range
{
	my ($self, $a) = @_;
	my $t = "$a.ts";
	my @pairs = map { [ $self->edges ] } 1, 2;
	# the two sets of parameters have a pair each
	my ($lo, $hi) = map {
		my $side = $_;
		my $i = 0;

		sub { return $self->bound(sub { return $pairs[ $i++ % 2 ][$side]; }); }
	} 0, 1;
	my $hour = quote(timestamp(pick(@{ $self->{hours} }) - 3600 * pick(0, 0, 0, 1), 0));
	my $now = sub { $self->{now} = 1; return pick('now()', 'now()', 'current_timestamp'); };

	return (
		sub { "$t " . pick('>=', '>=', '>=', '>') . ' ' . $lo->() . " AND $t " .
			  pick('<', '<', '<', '<=') . ' ' . $hi->() },
		sub { "$t BETWEEN " . $lo->() . ' AND ' . $hi->() },
		sub { "$t " . pick('>=', '>') . ' ' . pick($lo, $hi)->() },
		sub { "$t " . pick('<', '<=') . ' ' . pick($lo, $hi)->() },
		sub { "$t >= $hour AND $t < $hour\::timestamptz + interval '" .
			  pick('1 hour', '1 hour', '3 hours', '1 day', '10 minutes', '1 minute',
				'1 second', '37.5 seconds', '59 minutes 59.999999 seconds', '1 month') . "'" },
		sub { "$t " . pick('>=', '>') . ' ' . $now->() . " - interval '" .
			  pick('1 hour', '90 minutes', '5 hours', '1 day', '25 hours', '3 days',
				'1 month', '10 seconds') . "'" },
		sub { "$t >= date_trunc('" . pick('minute', 'hour', 'day') . "', " . $now->() .
			  ") - interval '" . pick('0', '1 hour', '4 hours', '2 days') . "'" },
		# nothing is so
		sub { "$t >= " . $hi->() . " AND $t < " . $lo->() },
		sub { "$t < " . pick("'-infinity'", "'4000-01-01 BC'", "'1805-01-01' AND $t > '1804-01-01'",
				'NULL::timestamptz') },
		# one moment
		sub { my $at = quote(pick(@{ $self->{times} }));
			  pick("$t = $at", "$t >= $at AND $t <= $at", "$t BETWEEN $at AND $at",
				"$t > $at AND $t <= $at", "NOT ($t <> $at)") },
		sub { $lo->() . " <= $t AND " . $hi->() . " > $t" },
		sub { "NOT ($t < " . $lo->() . " OR $t >= " . $hi->() . ')' },
		sub { my @e = $self->edges;
			  "($t >= " . $lo->() . " AND $t < " . $hi->() . " OR $t BETWEEN '$e[0]' AND '$e[1]')" },
		sub { "$t >= " . $lo->() . " AND $t > " . $lo->() . " AND $t <= " . $hi->() },
		sub { "$t >= " . pick("'2024-03-10'::date", "date '2024-03-10' + 0", "'epoch'::date",
				"timestamp '2024-03-10 01:30'", "'2024-11-03 01:30'") . " AND $t < " . $hi->() },
		sub { "$t <> " . $lo->() },
		sub { $self->time_predicate($a) }
	)[ weighted(16, 5, 4, 3, 6, 4, 2, 1, 0.6, 2, 2, 1, 1, 1, 2, 0.5, 3) ]->();
}

# one on level or service alone, or on both
sub listed
{
	my ($self, $a) = @_;
	my $p = sub { return '(' . $self->listed_predicate($a) . ')'; };
	my $w = weighted(10, 2, 1, 1.5, 1.5);

	return $p->() if $w == 0;
	return '(' . $p->() . ' OR ' . $p->() . ')' if $w == 1;
	return 'NOT (' . $p->() . pick(' AND ', ' OR ') . $p->() . ')' if $w == 2;
	return "$a." . pick('level', 'service') . ' IS ' . pick('', 'NOT ') . 'NULL' if $w == 3;
	return "$a.level IN ('ERROR', 'FATAL', 'error')";
}

# WHERE with conditions on time, level, service and partition only
sub count_where
{
	my ($self, $a) = @_;
	my @parts;

	push @parts, $self->time_range($a) if chance(0.75);
	push @parts, $self->listed($a) if chance(0.4);
	push @parts, $self->listed($a) if chance(0.12);
	push @parts, '(' . $self->partition_predicate($a) . ')' if chance(0.1);
	return @parts ? 'WHERE ' . join ' AND ', @parts : '';
}

sub any_where
{
	my ($self, $a) = @_;

	return $self->count_where($a) if chance(0.6);
	return 'WHERE ' . $self->time_range($a) . ' AND ' . $self->predicate($a, pick(0, 0, 1))
	  if chance(0.5);
	return $self->where($a);
}

# ---------- what is grouped by ----------

my @units = ('milliseconds', 'second', 'minute', 'minute', 'hour', 'hour', 'hour',
	'day', 'day', 'week', 'month', 'quarter', 'year', 'decade', 'century');
my @strides = ('1 minute', '1 minute', '5 minutes', '7 minutes', '1 hour',
	'1 hour', '90 minutes', '1.5 seconds', '1 day', '25 hours', '7 days');
my @origins = ("'2000-01-01 00:00+00'::timestamptz", "'epoch'::timestamptz",
	"timestamptz '2001-02-03 04:05:06.789+00'", "'2024-03-10 00:00:30.5+00'",
	"timestamptz '2024-03-10'", "'2300-01-01'::timestamptz");

# A part of the time, by which events are counted
sub bucket
{
	my ($self, $a) = @_;
	my $t = "$a.ts";
	my $unit = pick(@units);
	my $zone = pick(@zones);
	my $field = pick('hour', 'hour', 'dow', 'minute', 'isoyear', 'day', 'month',
		'year', 'quarter', 'doy', 'isodow', 'week', 'second', 'milliseconds',
		'century', 'julian', 'timezone', 'timezone_hour', 'timezone_minute', 'epoch');
	my $n = pick(1, 7, 60, 60, 300, 300, 3600, 3600, 86400, 0.5, 1.5, 604800);
	my $stride = sub { return $self->value('interval', sub { pick(@strides) }); };
	my $origin = pick(@origins);

	return (
		sub { "date_trunc('$unit', $t)" },
		sub { "date_trunc('$unit', $t, '$zone')" },
		sub { "date_bin(" . $stride->() . ", $t, $origin)" },
		sub { "floor(extract(epoch from $t)/$n)*$n" },
		sub { my $p = $self->value('numeric', sub { pick(60, 300, 3600, 7, 0.5) });
			  "floor(extract(epoch from $t)/$p)*$p" },
		sub { "$t\::date" },
		sub { "extract($field from $t)" },
		sub { "to_char(date_trunc('$unit', $t), 'YYYY-MM-DD HH24:MI:SS.MS TZ BC')" },
		sub { "to_char($t, '" . pick('HH24:MI', 'IYYY-IW', 'Dy', 'YYYY-MM-DD"T"HH24', 'US', 'OF', 'J') . "')" },
		sub { "date_trunc('$unit', $t AT TIME ZONE '$zone')" },
		sub { "date_trunc('$unit', $t AT TIME ZONE '$zone') AT TIME ZONE '$zone'" },
		sub { "($t AT TIME ZONE '$zone')::date" },
		sub { "extract($field from $t AT TIME ZONE '$zone')" =~ s/\btimezone\w* from/hour from/r },
		sub { "date_part('" . pick('hour', 'dow', 'minute', 'epoch') . "', $t)" },
		# more than one step, or steps that are hard to see
		sub { "date_trunc('$unit', $t) " . pick('+', '-') . " interval '" . pick('30 minutes', '1 month', '1 day') . "'" },
		sub { "date_trunc('hour', $t) + date_part('minute', $t)::int / 15 * interval '15 minutes'" },
		sub { "date_trunc('day', date_trunc('hour', $t))" },
		sub { "CASE WHEN extract(hour from $t) < 12 THEN 'am' ELSE 'pm' END" },
		sub { "CASE WHEN extract(dow from $t) IN (0, 6) THEN date_trunc('day', $t) ELSE date_trunc('hour', $t) END" },
		sub { "extract(dow from $t)::text || '/' || extract(hour from $t)" },
		sub { "date_trunc('$unit', $t)::text" },
		sub { "to_timestamp(floor(extract(epoch from $t)/$n)*$n)" },
		sub { "(extract(epoch from $t)::bigint / 300) * 300" },
		sub { "floor((extract(epoch from $t) - 30)/60)*60 + 30" },
		sub { pick('trunc', 'ceil', 'round') . "(extract(epoch from $t)/$n)" },
		sub { "extract(epoch from date_trunc('$unit', $t))" },
		sub { "extract(epoch from $t) % 60" },
		sub { $self->{now} = 1; "date_bin(interval '1 hour', $t, now())" },
		sub { $self->{now} = 1; "extract(day from now() - $t)" },
		sub { $self->{now} = 1; "$t >= now() - interval '" . pick('1 hour', '1 day') . "'" },
		sub { "$t < " . quote($self->edge) },
		sub { "width_bucket($t, ARRAY['2010-01-01', '2024-03-10 06:30+00', '2024-03-10 08:00+00', '2024-11-03']::timestamptz[])" },
		sub { "date_trunc(CASE WHEN $a.level = 'ERROR' THEN 'hour' ELSE 'day' END, $t)" },
		sub { "date_trunc(lower('HOUR'), $t)" },
		sub { "date_trunc('$unit', $t\::timestamp)" },
		sub { "date_bin('15 minutes', $t\::timestamp, timestamp '2001-01-01 00:05')" },
		sub { "$t\::time" }, sub { "$t" },
		sub { "($t + interval '1 day')::date" },
		sub { "age(timestamptz '2024-03-11 00:00+00', date_trunc('day', $t, 'UTC'))::text" },
		sub { "f_immutable(date_trunc('hour', $t)::text)" },
		sub { "f_stable(to_char($t, 'YYYYMM'))" }
	)[ weighted(13, 9, 9, 10, 2, 4, 7, 3, 3, 7, 2, 2, 3, 2, 2, 1, 1, 1, 1, 2, 1, 2,
			1, 1, 1.5, 1, 0.5, 1, 0.5, 1, 0.5, 1, 1, 0.5, 1, 1, 0.5, 0.5, 1, 0.5,
			1, 0.5) ]->();
}

# what counts in advance have
sub count_key
{
	my ($self, $a) = @_;
	my $w = weighted(5, 5, 1.5, 12, 1);

	return "$a." . ('level', 'service', 'partition')[$w] if $w < 3;
	return $self->bucket($a) if $w == 3;
	return pick("lower($a.level)", "coalesce($a.service, 'none')", "$a.level IS NULL",
		"CASE WHEN $a.level IN ('ERROR', 'FATAL') THEN 'bad' ELSE 'good' END",
		"$a.level || '/' || $a.service", "left($a.service, 2)", "upper($a.partition)",
		"length($a.level)", "$a.level = 'ERROR'", "($a.level, $a.service)::text",
		"$a.partition = 'p1'", "nullif($a.level, '')", "concat($a.level, $a.partition)",
		"$a.level COLLATE \"C\"", "$a.level\::varchar(3)", "f_stable($a.service)",
		"f_immutable($a.level)", "array[$a.level, $a.service]");
}

# what partitions can group by
sub plain_key
{
	my ($self, $a) = @_;

	return $self->count_key($a) if chance(0.6);
	return pick("$a.attrs->>'" . pick('status', 'req', 'ok', 'nope') . "'", "$a.attrs->'user'->>'name'",
		$self->number_of_attrs($a, 'int'), "substr($a.service, 1, 3)", "$a.trace_id", "$a.id % 5",
		"$a.id >> 44", "jsonb_typeof($a.attrs)", "$a.attrs ? 'n'", "$a.attrs IS NULL", "length($a.message) / 100");
}

# anything to group by
sub group_key
{
	my ($self, $a) = @_;

	return $self->plain_key($a) if chance(0.6);
	return pick(
		sub { "$a.attrs->>'" . pick('n', '') . "'" }, sub { "$a.attrs#>>'{user,id}'" },
		sub { 'trim_scale(' . $self->number_of_attrs($a, 'numeric') . ')' },
		sub { $self->text_expr($a, 1) }, sub { $self->int_expr($a) },
		sub { '(' . $self->predicate($a, 0) . ')' },
		sub { "f_volatile($a.level)" }, sub { "left($a.message, 1)" },
		sub { "($a.attrs->>'n', $a.level)::text" })->();
}

# one that is the same for all rows
sub constant_key
{
	my ($self) = @_;
	my $zone = "current_setting('timezone')";

	$self->{now} = 1;
	return pick("'x'::text", 'NULL::int', '1 + 0', $zone, 'now()', 'true',
		"date_trunc('hour', now())", "(SELECT 'one'::text)",
		$self->value('text', sub { pick('a', 'b') }) . '::text');
}

# ---------- what is aggregated ----------

# the numbers that some rows have in attrs
sub number_of_attrs
{
	my ($self, $a, $type) = @_;
	my $n = "$a.attrs->>'n'";

	return "CASE WHEN jsonb_typeof($a.attrs->'n') = 'number' THEN ($n)::$type END"
	  if $type eq 'numeric' || $type eq 'float8';
	return "CASE WHEN $n ~ '^[0-9]{1,6}\$' THEN ($n)::$type END" if chance(0.8);
	return "CASE WHEN $a.attrs->>'status' ~ '^\\d{3}\$' THEN ($a.attrs->>'status')::$type END";
}

# whole and decimal numbers
sub number
{
	my ($self, $a) = @_;

	return pick(
		sub { "length($a.message)" }, sub { "length($a.message)" },
		sub { "$a.id" }, sub { "$a.id % 1000" }, sub { "($a.id % 100)::int2" },
		sub { $self->number_of_attrs($a, 'int') },
		sub { $self->number_of_attrs($a, 'bigint') },
		sub { $self->number_of_attrs($a, 'numeric') },
		sub { "extract(" . pick('epoch', 'hour', 'second', 'minute', 'isoyear') . " from $a.ts)" },
		sub { "length($a.level)" }, sub { "($a.id % 1000)::numeric / 8" },
		sub { "CASE WHEN $a.level = 'FATAL' THEN '" . pick('NaN', 'Infinity', '-1.50') .
			  "'::numeric ELSE length($a.service) END" },
		sub { $self->int_expr($a) })->();
}

# floats whose sums are exact
sub float
{
	my ($self, $a) = @_;

	return pick(
		sub { '(' . $self->number_of_attrs($a, 'float8') . ') * 0.125' },
		sub { "($a.id % 1000)::float8 / 8" }, sub { "(length($a.message) % 64)::float8 / 4" },
		sub { "date_part('minute', $a.ts)" }, sub { "($a.id % 100)::float8 - 50.5" },
		sub { "CASE WHEN $a.level = 'FATAL' THEN '" . pick('NaN', 'Infinity', '-Infinity') .
			  "'::float8 ELSE length($a.level)::float8 END" })->();
}

# what is computed from floats in any order
sub rounded { return "round((($_[0]) / 0.9973)::numeric, 6)"; }

sub filter
{
	my ($self, $a, $of) = @_;
	my $p = pick(
		sub { "$a.level = 'ERROR'" }, sub { $self->listed($a) }, sub { $self->listed($a) },
		sub { "$a.partition = 'p2'" },
		$of eq 'counts' && chance(0.8) ? () : (sub { $self->time_range($a) }, sub { "$a.attrs ? 'n'" }),
		$of eq 'any' ? sub { $self->predicate($a, 0) } : ())->();

	return " FILTER (WHERE $p)";
}

# One of which counts by time, level, service and partition tell all: the kind
# of its value, and the call with @F@ where FILTER goes
sub count_call
{
	my ($self, $a) = @_;
	my $c = "$a." . pick('level', 'service', 'partition');

	return ('number', 'count(*)@F@') if chance(0.6);
	return @{ (
		[ 'number', "count($c)\@F\@" ], [ 'number', "count($a.ts)\@F\@" ],
		[ 'number', 'count(1)@F@' ], [ 'number', 'sum(1)@F@' ],
		[ 'number', "count(DISTINCT $c)\@F\@" ], [ 'text', pick('min', 'max') . "($c)\@F\@" ],
		[ 'number', "sum(CASE WHEN $a.level = 'ERROR' THEN 1 ELSE 0 END)\@F\@" ],
		[ 'bool', "bool_or($a.level = 'FATAL')\@F\@" ], [ 'number', "sum(length($c))\@F\@" ],
		[ 'number', "count(nullif($a.level, 'INFO'))\@F\@" ],
		[ 'number', 'avg(1.50)@F@' ], [ 'number', 'count(NULL)@F@' ],
		[ 'number', "count($a.level = 'INFO' OR NULL)\@F\@" ],
		[ 'number', "avg(length($a.service))\@F\@" ],
		[ 'number', "stddev_pop(length($a.level))\@F\@" ]
	)[ weighted(4, 1, 1, 1, 2, 2, 2, 1, 1, 1, 0.5, 0.5, 1, 1, 0.5) ] };
}

# one that partitions compute in parts, if any are
sub plain_call
{
	my ($self, $a) = @_;
	my $c = "$a." . pick('level', 'service', 'message', 'trace_id', 'partition');
	my $n = pick("length($a.message)", "$a.id", "$a.id % 1000", "($a.id % 100)::int2",
		map { $self->number_of_attrs($a, $_) } 'int', 'bigint', 'numeric');
	my $f = pick('sum', 'avg', 'min', 'max');
	my $m = pick('min', 'max');

	return (
		sub { $self->count_call($a) },
		sub { ('number', 'count(' . pick($c, "$a.attrs->>'n'", "$a.attrs") . ')@F@') },
		# 1.0 and 1.00 are the same
		sub { ('number', $f =~ /min|max/ ? "trim_scale(($f($n)\@F\@)::numeric)" : "$f($n)\@F\@") },
		sub { ('number', pick('var_pop', 'var_samp', 'stddev_pop', 'stddev_samp', 'stddev') . "($n)\@F\@") },
		sub { ('float', "$f(" . $self->float($a) . ')@F@') },
		sub { ('text', "$m($c)\@F\@") },
		sub { ('time', "$m($a.ts)\@F\@") },
		sub { ('bool', pick('bool_and', 'bool_or', 'every') . "($a.level = 'ERROR')\@F\@") },
		sub { ('number', pick('bit_and', 'bit_or') . "(length($a.message))\@F\@") }
	)[ weighted(6, 3, 10, 4, 3, 3, 3, 1.5, 1.5) ]->();
}

# any that could be computed in parts
sub split_call
{
	my ($self, $a) = @_;
	my $c = "$a." . pick('level', 'service', 'message', 'trace_id', 'partition');
	my $f = pick('sum', 'avg', 'avg', 'min', 'max');
	my $v = pick('var_pop', 'var_samp', 'stddev_pop', 'stddev_samp', 'variance', 'stddev');
	my $m = pick('min', 'max');

	return (
		sub { $self->plain_call($a) },
		sub { ('number', 'count(' . pick($a, "($c)::varchar", 'random()', $self->number($a)) . ')@F@') },
		# 1.0 and 1.00 are the same
		sub { ('number', $f =~ /min|max/ ? "trim_scale(($f(" . $self->number($a) . ')@F@)::numeric)'
				: "$f(" . $self->number($a) . ')@F@') },
		sub { ('number', "$v(" . $self->number($a) . ')@F@') },
		sub { ('float', "$f(" . $self->float($a) . ')@F@') },
		sub { ('float', rounded("$v(" . $self->float($a) . ')@F@')) },
		sub { ('float', "$f((($a.id % 1000)::float4 / 8)::float4)\@F\@") },
		sub { ('text', "$m(" . $self->text_expr($a, 0) . ')@F@') },
		sub { (pick('date', 'any'), "$m(" . pick("$a.ts\::date", "date_trunc('day', $a.ts)::date") . ')@F@') },
		sub { ('any', "$m(" . pick("$a.ts\::time", "$a.ts AT TIME ZONE 'Asia/Kathmandu'",
				"$a.ts - date_trunc('day', $a.ts)", "$c COLLATE \"C\"", "$c\::char(6)", "array[$a.level, $a.service]",
				"('10.0.0.' || $a.id % 250)::inet", "($a.id % 99)::oid", "$c\::name",
				"'0/0'::pg_lsn + ($a.id % 99)", "($a.id % 99)::money") . ')@F@') },
		sub { ('any', pick('sum', 'avg') . "($a.ts - date_trunc('hour', $a.ts))\@F\@") },
		sub { ('bool', pick('bool_and', 'bool_or', 'every') . '(' . $self->predicate($a, 0) . ')@F@') },
		sub { ('number', pick('bit_and', 'bit_or', 'bit_xor') . '(' .
			  pick("length($a.message)", "$a.id", "($a.id % 128)::int2", $self->number_of_attrs($a, 'int')) . ')@F@') },
		sub { ('any', "bit_or((length($a.message) % 256)::bit(8))\@F\@") },
		sub { my ($y, $x) = ("($a.id % 100)::float8 / 8", "(length($a.message) % 64)::float8");
			  ('float', rounded(pick(qw(corr covar_pop covar_samp regr_avgx regr_avgy regr_count
				regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy)) . "($y, $x)\@F\@")) },
		sub { ('number', 'count(DISTINCT ' . pick($c, "$a.ts", "lower($a.level)", "$a.id % 10",
				"date_trunc('hour', $a.ts)", "($a.level, $a.service)", "$a.level COLLATE ci_or_default",
				$self->number_of_attrs($a, 'int'), "$a.attrs->>'req'") . ')@F@') },
		sub { ('number', pick('sum', 'avg') . '(DISTINCT ' .
			  pick("length($a.message)", "$a.id % 50", $self->number_of_attrs($a, 'bigint')) . ')@F@') }
	)[ weighted(12, 3, 7, 5, 4, 3, 1, 2, 1, 3, 1, 3, 2, 0.5, 2, 5, 2) ]->();
}

# and those that see all rows
sub whole_call
{
	my ($self, $a) = @_;
	my $by = pick("$a.ts, $a.id", "$a.ts, $a.id", "$a.ts DESC, $a.id", "$a.id DESC",
		"$a.level NULLS FIRST, $a.id");
	my $within = "WITHIN GROUP (ORDER BY";
	my $fraction = $self->value('float8', sub { pick(0.5, 0.9, 0.99, 0, 1, 0.25) });

	return pick(
		sub { ('text', "string_agg($a.level, " . $self->value('text', sub { pick(',', '; ', '') }) . " ORDER BY $by)\@F\@") },
		sub { ('text', "string_agg(DISTINCT $a.service, ',' ORDER BY $a.service)\@F\@") },
		sub { ('any', "array_agg($a.id ORDER BY $by)\@F\@") },
		sub { ('any', "array_agg(DISTINCT $a.level)\@F\@") },
		sub { ('any', "(array_agg($a.message ORDER BY $by)\@F\@)[1:2]") },
		sub { ('any', "jsonb_agg($a.level ORDER BY $by)\@F\@") },
		sub { ('any', "jsonb_object_agg($a.id, $a.level)\@F\@") },
		sub { ('any', "array_agg(" . $self->number_of_attrs($a, 'int') . " ORDER BY $by)\@F\@") },
		sub { ('float', "percentile_cont($fraction) $within length($a.message))\@F\@") },
		sub { ('float', "percentile_cont($fraction) $within " . $self->float($a) . ')@F@') },
		sub { ('float', "percentile_disc($fraction) $within " . $self->float($a) . pick(')', ')', ' DESC)', ' NULLS FIRST)') . '@F@') },
		sub { my $x = $self->float($a);
			  ('float', "percentile_cont($fraction) $within $x)\@F\@ - percentile_cont(0.25) $within $x)\@F\@") },
		sub { ('any', "percentile_cont(array[0.25, 0.5]) $within length($a.message))\@F\@") },
		sub { ('number', "percentile_disc($fraction) $within " . $self->number_of_attrs($a, 'int') . ')@F@') },
		sub { ('time', "percentile_disc($fraction) $within $a.ts)\@F\@") },
		sub { ('text', "mode() $within $a." . pick('level', 'service') . ')@F@') },
		sub { ('number', "mode() $within length($a.message))\@F\@") },
		sub { ('number', pick('rank', 'dense_rank') . "(30) $within length($a.message))\@F\@") },
		sub { ('text', "agg_longest($a." . pick('message', 'service') . ')@F@') },
		# looks like the one that everybody knows
		sub { ('text', "own.max($a." . pick('level', 'service') . ')@F@') })->();
}

# An item of a select list with an aggregate in it: of "counts", what these
# tell; "plain", what partitions can compute parts of; or "any".  keys:
# expressions of GROUP BY.
sub aggregate
{
	my ($self, $a, $of, @keys) = @_;
	my ($kind, $call) = $of eq 'counts' ? $self->count_call($a)
	  : $of eq 'plain' ? $self->plain_call($a)
	  : chance(0.15) ? $self->whole_call($a) : $self->split_call($a);
	my $filter = chance(0.2) ? $self->filter($a, $of) : '';
	my @ways = ("pg_typeof(\@)", "coalesce((\@)::text, 'none')", "(\@)::text || 'x'",
		"(\@) IS NULL", "to_jsonb(\@)", "(ROW(count(*), \@))::text",
		"CASE WHEN count(*) > 2 THEN \@ END");

	$call =~ s/\@F\@/$filter/g;
	return $call if chance(0.65);
	push @ways, 'round(@, 3)', '(@)::numeric / nullif(count(*), 0)', '@ + count(*)',
	  'coalesce(@, 0)', 'round(100 * @ / nullif(count(*), 0), 2)', 'greatest(@, 2)', '-(@)',
	  '(@) / 60.0', '(@)::numeric', "sum(length($a.level)) - (\@)", 'pg_typeof(@)',
	  '(@)::float8 / 8'
	  if $kind eq 'number';
	push @ways, '(@) * 8', '(@)::numeric + count(*)', '-(@)', 'pg_typeof(@)'
	  if $kind eq 'float';
	push @ways, 'lower(@)', 'length(@)', "left(\@, 3)" if $kind eq 'text';
	push @ways, "date_trunc('hour', \@)", 'extract(epoch from @)',
	  "(\@) AT TIME ZONE 'Asia/Kathmandu'", "to_char(\@, 'HH24:MI TZ')", "(\@) - min($a.ts)"
	  if $kind eq 'time';
	push @ways, 'NOT (@)', '(@)::int' if $kind eq 'bool';
	push @ways, '(' . pick(@keys) . ")::text || '/' || (\@)::text" if @keys;
	return pick(@ways) =~ s/\@/$call/r;
}

# ---------- expressions that may fail ----------

# An aggregate or a key that fails for some rows, which a query may see or not:
# (what, is it an aggregate?)
sub failing
{
	my ($self, $a) = @_;
	my $big = pick(100000, 1000000);

	return (pick("date_trunc('minutez', $a.ts)", "date_trunc('day', $a.ts, 'Nowhere/Land')",
		"date_bin('1 month', $a.ts, 'epoch')", "date_bin('0', $a.ts, 'epoch')",
		"floor(extract(epoch from $a.ts) / (length($a.level) - 4))", "($a.attrs->>'status')::int",
		"extract(epoch from $a.ts)::int", "$a.ts AT TIME ZONE ($a.level || '/x')",
		"$a.id * $big", "substr($a.level, 1, 4 - length($a.level))",
		"make_interval(secs => 0) / (length($a.service) - 3)"), 0)
	  if chance(0.35);
	return (pick("sum($a.id * $big)", "count($a.id * $big)", "max($a.id * $big)",
		"(sum($a.id * 100000))::bigint", "sum(length($a.message) * 100000)",
		"(sum(length($a.message)))::int2", '(count(*) * 1000)::int2', '(count(*) * 30000000)::int',
		"sum(($a.id % 1000)::float8 * 1e305)", "sum(1 / (length($a.level) - 4))",
		"avg(($a.attrs->>'n')::int)", "max(($a.attrs->>'status')::bigint)",
		"sum(($a.id % 5)::numeric / ($a.id % 3))", '1 / (count(*) - count(*))',
		"1 / count(*) FILTER (WHERE $a.level = 'ERROR')", "bool_or(1 / length($a.service) = 1)",
		"sum(($a.id % 100)::int2 * 1000::int2)", "min(($a.level || 'x')::int)",
		"(max($a.ts) + interval '300000 years')", "count(*) FILTER (WHERE 1 / length($a.level) = 0)",
		"avg(length($a.message) * 100000)", "stddev_pop(1 / (length($a.level) - 5))"), 1);
}

1;
