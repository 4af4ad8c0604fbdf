# Random values, expressions and conditions over the columns of a log table.
#
# A part of LogqQueries; LogqPrunable.pm has those by which segments can be left
# out.

package LogqConditions;

use strict;
use warnings;
use utf8;

use LogqRows qw(pick chance between weighted quote timestamp);

my @text_columns = qw(level service message trace_id);

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

our @regexes = ('^ERROR', 'timeout', '[0-9]+', '^[a-z]+$', 'a.b', 'user|peer',
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
	$w = weighted(10, 7, 4, 4, 3, 2, 1.5, 10);
	return $self->prunable($a, 0) if $w == 7;
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
	# mostly what leaves segments out, and not too much beside it
	if (chance(0.55))
	{
		push @parts, $self->prunable($a, pick(0, 0, 1, 2));
		push @parts, $self->predicate($a, 0) if chance(0.15);
		return 'WHERE ' . join ' AND ', @parts;
	}
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

1;
