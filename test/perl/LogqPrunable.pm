# Random conditions by which segments can be left out, and their look-alikes
# by which they must not be: values that few segments have, or none; patterns
# made from words of messages; trees of AND, OR and NOT.
#
# A part of LogqQueries.  All patterns are valid: a segment that is not asked
# would not complain of one that is not.

package LogqPrunable;

use strict;
use warnings;
use utf8;

use LogqRows qw(pick chance between some weighted quote timestamp
  @message_words @attr_keys);

# an array of texts as its type writes it
sub array_text
{
	return '{' . join(',', map {
		defined $_ ? '"' . s/([\\"])/\\$1/gr . '"' : 'NULL' } @_) . '}';
}

# "column = v" for a text column or expression of which make gives values
sub equality
{
	my ($self, $e, $make) = @_;
	my $v = sub { return $self->value('text', $make); };
	my @list = map { $v->() } 1 .. between(1, 3);
	my @nulls = chance(0.15) ? ('NULL') : ();

	return (
		sub { "$e = " . $v->() },
		sub { $v->() . " = $e" },
		sub { "$e IN (" . join(', ', @list, @nulls) . ')' },
		sub { "$e = ANY (ARRAY[" . join(', ', @list, @nulls) . ']::text[])' },
		sub { "$e = ANY (" . $self->value('text[]', sub {
				array_text(map { chance(0.06) ? undef : $make->() } 1 .. between(0, 5)) }) . ')' },
		sub { "$e IS NOT DISTINCT FROM " . $v->() },
		sub { "($e = " . $v->() . " OR $e IS NULL)" },
		sub { "$e\::varchar = " . $v->() },
		sub { "$e COLLATE \"C\" = " . $v->() },
		sub { "($e = " . $v->() . ') ' . pick('IS TRUE', 'IS NOT FALSE', 'IS NOT TRUE', 'IS UNKNOWN') },
		sub { "$e = (SELECT " . $v->() . ')' },
		# and what says less
		sub { "$e <> " . $v->() },
		sub { "$e NOT IN (" . join(', ', @list, @nulls) . ')' },
		sub { "$e <> ALL (ARRAY[" . join(', ', @list) . ']::text[])' },
		sub { "$e <> ANY (ARRAY[" . join(', ', @list) . ']::text[])' },
		sub { "$e = ALL (ARRAY[" . join(', ', @list, @nulls) . ']::text[])' },
		sub { "$e IS DISTINCT FROM " . $v->() },
		sub { "$e IS " . pick('', 'NOT ') . 'NULL' },
		sub { "$e = " . pick('NULL', 'ANY (NULL::text[])', "ANY ('{}'::text[])", "''") }
	)[ weighted(12, 3, 8, 4, 4, 2, 1, 1, 1, 2, 1, 2, 1, 1, 0.5, 0.5, 1, 1, 0.6) ]->();
}

# level or service alone: whatever one can say of it
sub listed_predicate
{
	my ($self, $a) = @_;
	my $column = pick(qw(level service service));
	my $c = "$a.$column";
	my $pool = $self->{pool}{$column};
	my $make = sub {
		return chance(0.8) ? pick(@$pool) : pick('nothing like it', 'RARE0',
			'only-3', uc pick(@$pool));
	};
	my $v = sub { return $self->value('text', $make); };

	return $self->equality($c, $make) if chance(0.5);
	return pick(
		sub { "$c >= " . $v->() . " AND $c < " . $v->() },
		sub { "$c " . pick('<', '<=', '>', '>=') . ' ' . $v->() },
		sub { "$c BETWEEN " . pick('', 'SYMMETRIC ') . $v->() . ' AND ' . $v->() },
		sub { "$c COLLATE \"C\" " . pick('<', '>=') . ' ' . $v->() },
		sub { "$c LIKE " . $self->like_pattern($column) },
		sub { "$c ILIKE " . $self->like_pattern($column) },
		sub { "$c ~ " . $self->value('text', sub { pick('^only', '^RARE\d', 'r$', '^.$', '^$', '-') }) },
		sub { "$c ~* " . $self->value('text', sub { pick('^ONLY-1', '^rare', 'İNFO', 'i') }) },
		sub { "lower($c) = " . $v->() },
		sub { "upper($c) IN (" . $v->() . ', ' . $v->() . ')' },
		sub { "length($c) " . pick('=', '>') . ' ' . between(0, 9) },
		sub { "coalesce($c, 'none') = " . $self->value('text', sub { pick('none', $make->()) }) },
		sub { "left($c, 4) = " . $self->value('text', sub { substr($make->(), 0, 4) }) },
		sub { "$c || '' = " . $v->() },
		sub { "starts_with($c, " . $self->value('text', sub { pick('only-1', 'RARE', 'w', '') }) . ')' },
		sub { "CASE $c WHEN " . $v->() . " THEN true ELSE " . pick('false', 'NULL') . ' END' },
		sub { "f_is_error($c)" },
		sub { "nullif($c, " . $v->() . ') IS NULL' },
		sub { "($a.level, $a.service) = (" . join(', ', map { my $p = $self->{pool}{$_};
				$self->value('text', sub { pick(@$p) }) } qw(level service)) . ')' },
		sub { "($a.level, $a.service) IN (" . join(', ', map { '(' . join(', ', map {
					quote(pick(@{ $self->{pool}{$_} })) } qw(level service)) . ')' } 1 .. 3) . ')' },
		sub { "$c = $a." . pick('level', 'service', 'partition') })->();
}

sub trace_predicate
{
	my ($self, $a) = @_;
	my $c = "$a.trace_id";
	my $pool = $self->{pool}{trace_id};
	my $make = sub {
		my $v = pick(@$pool);

		return $v if chance(0.75);
		return pick('', 'x', '0123', uc $v, substr($v, 0, 20),
			sprintf('%08x%024x', int rand 2**32, 0));
	};
	my $v = sub { return $self->value('text', $make); };

	return $self->equality($c, $make) if chance(0.75);
	return pick(
		sub { "$c " . pick('<', '<=', '>', '>=') . ' ' . $v->() },
		sub { "$c BETWEEN " . $v->() . ' AND ' . $v->() },
		sub { "$c LIKE '" . sprintf('%02x', between(0, 255)) . "%'" },
		sub { "$c IN (SELECT d.trace_id FROM dim d WHERE d.k < " . between(2, 12) . ')' },
		sub { "lower($c) = " . $v->() })->();
}

# bounds of ts and id within hours
sub bounds_predicate
{
	my ($self, $a) = @_;
	my $t = sub { return $self->value('timestamptz', sub { $self->some_time }); };
	my $id = sub { return $self->value('bigint', sub { pick(@{ $self->{ids} }) }); };
	my $near = sub {
		my $x = pick(@{ $self->{ids} });

		return "$a.id BETWEEN $x AND $x + " . between(0, 300);
	};
	my $hour = pick(@{ $self->{hours} });

	return pick(
		sub { "$a.ts = " . $t->() }, sub { "$a.ts IN (" . $t->() . ', ' . $t->() . ')' },
		sub { "$a.ts >= " . $t->() . " AND $a.ts < " . $t->() },
		sub { my $from = timestamp($hour + between(0, 3500), pick(0, 1, 999999));
			  "$a.ts >= '$from' AND $a.ts < '$from'::timestamptz + interval '" .
				pick('1 second', '2 minutes', '50 minutes') . "'" },
		sub { "$a.id = " . $id->() }, sub { "$a.id IN (" . $id->() . ', ' . $id->() . ')' },
		$near, $near,
		sub { "$a.id " . pick('<', '>=') . ' ' . $id->() },
		sub { "($a.ts, $a.id) " . pick('<', '>') . ' (' . $t->() . ', ' . $id->() . ')' })->();
}

my @json_objects = ('{}', '[]', 'null', '12', '"text"', '["a"]', '["status"]',
	'"status"', '{"n": 1.0}', '{"n": "1"}', '{"n": null}', '{"user": {}}',
	'{"tags": ["a"]}', '{"tags": "a"}', '{"ok": true}', '{"ok": null}',
	'{"a": {"b": {}}}', '[{"status": "500"}]', '{"status": ["500"]}',
	'{"status": []}', '{"status": 500}', '{"req": "nope"}',
	'{"status": "500", "req": true}', '{"": 1}');

sub key_value
{
	my ($self, $key) = @_;
	my $pool = $self->{attr_values}{$key} // [];

	return pick(@$pool) if @$pool && chance(0.8);
	return pick('nope', '', '1', '1.0', '500', 'true', 'null', '"500"');
}

sub json_object
{
	my ($self) = @_;
	my @pairs;

	return pick(@json_objects) if chance(0.3);
	foreach my $key (some(qw(status req n status req)))
	{
		my $v = $self->key_value($key);

		push @pairs, "\"$key\": " .
		  ($v =~ /^-?\d+(\.\d+)?$/ && chance($key eq 'n' ? 0.8 : 0.2) ? $v
			: '"' . $v =~ s/([\\"])/\\$1/gr . '"');
	}
	push @pairs, pick('"user": {"id": ' . between(1, 9) . '}', '"tags": ["b"]',
		'"user": {"name": "bob", "id": 3}', '"ok": false')
	  if chance(0.2);
	return '{' . join(', ', @pairs) . '}';
}

sub keyed_predicate
{
	my ($self, $a) = @_;
	my $j = "$a.attrs";
	my $key = pick('status', 'status', 'req', 'req', 'n', @attr_keys, 'nope');
	my $make = sub { return $self->key_value($key); };
	my $json = sub { return $self->value('jsonb', sub { $self->json_object }); };

	return $self->equality(chance(0.5) ? "($j->>'$key')" : "$j->>'$key'", $make)
	  if chance(0.5);
	return (
		sub { "$j @> " . $json->() },
		sub { $json->() . " <@ $j" },
		sub { "$j @> ANY (ARRAY[" . join(', ', map { quote($self->json_object) }
				1 .. between(1, 3)) . ']::jsonb[])' },
		sub { "$j @> jsonb_build_object('$key', " . $self->value('text', $make) . ')' },
		sub { "$j <@ " . $json->() },
		sub { "$j->'$key' " . pick('=', '@>') . " to_jsonb(" . $self->value('text', $make) . '::text)' },
		sub { "$j\['$key'] = to_jsonb(" . $self->value('text', $make) . '::text)' },
		sub { "$j #>> '{$key}' = " . $self->value('text', $make) },
		sub { "$j->>" . $self->value('text', sub { $key }) . ' = ' . $self->value('text', $make) },
		sub { "$j->>('$key' || '') = " . $self->value('text', $make) },
		sub { "$j->'user'->>'name' = " . $self->value('text', sub { pick(qw(ann bob Zoë nope)) }) },
		sub { "$j->'status'->>'status' = '500'" },
		sub { "$j->>0 = " . $self->value('text', sub { pick('a', 'status', '1') }) },
		sub { "$j ? '$key'" },
		sub { "$j->>'$key' LIKE " . quote(pick('r1%', '%0', 'st-_', '500')) },
		sub { "lower($j->>'$key') = " . $self->value('text', $make) },
		sub { "coalesce($j->>'$key', 'none') = 'none'" },
		sub { "NOT $j @> " . $json->() }
	)[ weighted(12, 2, 2, 3, 1, 2, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2) ]->();
}

# ---------- patterns ----------

# A piece of some message: (text, does it begin the message?, end it?)
sub message_piece
{
	my ($self) = @_;
	my $m = pick(@{ $self->{pool}{message} });
	my ($from, $to);

	$m = join pick(' ', ', ', ''), map { pick(@message_words) } 1 .. between(1, 3)
	  if chance(0.2);
	$m = substr($m, 0, 90);
	return ($m, 1, 1) if chance(0.1) || length $m < 2;
	if (chance(0.6))
	{
		# cut at words
		my @w = split /([^A-Za-z0-9_]+)/, $m;
		my $i = int rand @w;
		my $n = between(1, 5);

		# from what is between words to what is between words, as often as not
		($i, $n) = ($i | 1, $n | 1) if chance(0.5);
		$i -= 2 if $i > $#w;
		$i = 0 if $i < 0;

		$from = length join '', @w[ 0 .. $i - 1 ];
		$to = $from + length join '', grep { defined } @w[ $i .. $i + $n - 1 ];
		# a part of the words at the ends
		$from += between(0, 2) if chance(0.25);
		$to -= between(0, 2) if chance(0.25);
	}
	else
	{
		$from = int rand length $m;
		$to = $from + between(1, 14);
	}
	$to = length $m if $to > length $m;
	($from, $to) = (0, length $m) if $to <= $from;
	return (substr($m, $from, $to - $from), $from == 0, $to == length $m);
}

# another case here and there, and letters whose other case is in ASCII
sub twist_case
{
	my ($text) = @_;
	my $w = weighted(3, 1, 1, 1, 1);

	return uc $text if $w == 1;
	return lc $text if $w == 2;
	return join '', map { chance(0.3) ? uc : lc } split //, $text if $w == 3;
	$text =~ tr/kK/\x{212A}\x{212A}/ if $w == 4 && chance(0.5);
	$text =~ tr/iIsS/ıİ\x{17F}\x{17F}/ if $w == 4 && chance(0.5);
	return $text;
}

# A pattern of LIKE that fits a message, mostly; esc is the escape character
sub word_like
{
	my ($self, $fold, $esc) = @_;
	my ($text, $begins, $ends) = $self->message_piece;
	my @tokens;
	my $w;

	$text = twist_case($text) if chance($fold ? 0.5 : 0.08);
	@tokens = map { /[%_]/ || $_ eq $esc ? "$esc$_" : $_ } split //, $text;
	if (@tokens && chance(0.35))
	{
		my $i = int rand @tokens;
		my $kind = weighted(3, 2, 2, 1);

		$tokens[$i] = '_' if $kind == 0;
		$tokens[$i] = '%' if $kind == 1;
		$tokens[$i] = pick('%', '_%', '%%') . $tokens[$i] if $kind == 2;
		$tokens[$i] = $esc . $tokens[$i] if $kind == 3 && length $tokens[$i] == 1;
	}
	$text = join '', @tokens;
	$w = weighted(6, $begins ? 4 : 0.5, $ends ? 4 : 0.5, $begins && $ends ? 3 : 0.5);
	return ("%$text%", "$text%", "%$text", $text)[$w];
}

# one character of a regular expression, as such or as something wider
sub regex_token
{
	my ($c) = @_;
	my $plain = $c =~ /[[:punct:]]/ && ord $c < 128 && $c ne '_' ? "\\$c" : $c;
	my @ways = ($plain, '.', "$plain?", "$plain+", "$plain*", "$plain\{1,2}",
		"$plain\{1}", "(?:$plain|q)", "($plain)", "$plain+?", "$plain\{0,3}");

	push @ways, "[$c]", "[${c}z]", '\w', '[[:alnum:]]', '[^-]',
	  sprintf('\u%04x', ord $c), sprintf('[%s%s]', lc $c, uc $c)
	  if $c =~ /[A-Za-z0-9]/;
	push @ways, '\d', '[0-9]', '[[:digit:]]' if $c =~ /[0-9]/;
	push @ways, '\s', '\s+', '\W', '[[:space:]]', '[ ,]', '\W+' if $c =~ /[ \t]/;
	return pick(@ways);
}

# A regular expression that fits a message, mostly
sub word_regex
{
	my ($self, $fold) = @_;
	my ($text, $begins, $ends) = $self->message_piece;
	my ($raw, @tokens, $r, $other);

	$text =~ tr/\n\r//d;
	$text = twist_case($text) if chance($fold ? 0.5 : 0.08);
	$raw = $text;
	@tokens = map { /[[:punct:]]/ && ord $_ < 128 && $_ ne '_' ? "\\$_" : $_ }
	  split //, $text;
	foreach (1 .. pick(0, 0, 1, 1, 2))
	{
		my $i = int rand(@tokens || 1);

		$tokens[$i] = regex_token(substr($text, $i, 1)) if @tokens;
	}
	$r = join '', @tokens;
	return $r if $r eq '';
	$other = pick(@message_words);
	$other =~ s/([^\w\s])/ord $1 < 128 ? "\\$1" : $1/ge;
	return (
		sub { $r },
		sub { ($begins || chance(0.2) ? pick('^', '\A') : '') . $r .
			  ($ends || chance(0.2) ? pick('$', '\Z') : '') },
		sub { "\\m$r\\M" }, sub { "\\m$r" }, sub { "$r\\M" }, sub { "\\y$r\\y" },
		sub { pick('\Y', '\y') . $r }, sub { "[[:<:]]${r}[[:>:]]" },
		sub { "($r)" }, sub { "(?:$r)" . pick('?', '+', '*', '{1,3}', '{2}', '{0}') },
		sub { "$r|$other" }, sub { "($r|$other)" }, sub { "(?:$other|$r) " },
		sub { "\\m(?:$r|$other)\\M" }, sub { "^(?:$r| $other )" },
		sub { ".*$r" }, sub { "$r.*" . $other }, sub { " $r " }, sub { "\\s$r\\s" },
		sub { "^(?=.*$r)" }, sub { "(?!$r)" . pick('', '^', '.') }, sub { "(?<=$r)" . pick('', ' ') },
		sub { "(?<!$r)" . pick(' ', 'e') }, sub { pick('(?i)', '(?c)', '(?s)', '(?n)', '(?w)', '(?ix)') . $r },
		sub { "(?x) $r  # $other" }, sub { "(?q)$raw" }, sub { "***=$raw" },
		sub { "***:$r" },
		# not an advanced one: \m and the like are plain letters
		sub { $r =~ /[^ ~\w\x80-\x{ffff}]/ ? $r : '(?e)\m' . $r . '\M' },
		sub { "(\\m$r\\M).{0,9}\\1" }, sub { "[^$raw]" =~ s/[\\\]\[\^-]//gr =~ s/^/[^/r =~ s/$/x]/r },
		sub { "($r)|()" }, sub { "\\W$r\\W" }, sub { "(^|\\W)$r(\\W|\$)" },
		sub { "\\m\\m$r\\M\\M" }, sub { "(\\m)$r(\\M)" }, sub { "(?:\\m|x)$r" }
	)[ weighted(6, 8, 8, 3, 3, 4, 2, 3, 2, 2, 2, 2, 2, 3, 1, 1, 2, 4, 4, 2, 2, 1,
			1, 3, 1, 1, 1, 1, 3, 1, 1, 1, 2, 3, 1, 2, 1) ]->();
}

sub message_predicate
{
	my ($self, $a) = @_;
	my $m = "$a.message";
	my $like = sub { return $self->value('text', sub { $self->word_like(0, '\\') }); };
	my $ilike = sub { return $self->value('text', sub { $self->word_like(1, '\\') }); };
	my $regex = sub { return $self->value('text', sub { $self->word_regex(0) }); };
	my $iregex = sub { return $self->value('text', sub { $self->word_regex(1) }); };
	my $pool = $self->{pool}{message};
	my $whole = sub {
		my $v = pick(@$pool);

		return chance(0.75) ? $v : pick(uc $v, "$v ", substr($v, 0, 9), 'nothing like it');
	};

	return (
		sub { "$m LIKE " . $like->() },
		sub { "$m ILIKE " . $ilike->() },
		sub { "$m ~ " . $regex->() },
		sub { "$m ~* " . $iregex->() },
		sub { $self->equality($m, $whole) },
		sub { "$m NOT LIKE " . $like->() },
		sub { "$m NOT ILIKE " . $ilike->() },
		sub { "$m !~ " . $regex->() },
		sub { "$m !~* " . $iregex->() },
		sub { "$m LIKE " . quote($self->word_like(0, '!')) . " ESCAPE '!'" },
		sub { "$m LIKE " . quote($self->word_like(0, '%') =~ s/\\//gr) . " ESCAPE ''" },
		sub { "$m ILIKE '%' || " . $self->value('text', sub { twist_case(pick(@message_words))
				=~ s/([\\%_])/\\$1/gr }) . " || '%'" },
		sub { "$m " . pick('LIKE ANY', 'ILIKE ANY', 'LIKE ALL', 'NOT LIKE ALL') . ' (ARRAY[' .
			  join(', ', map { quote($self->word_like(0, '\\')) } 1 .. between(1, 3)) . '])' },
		sub { "$m " . pick('~ ANY', '~* ANY', '~ ALL', '!~ ALL') . ' (ARRAY[' .
			  join(', ', map { quote($self->word_regex(0)) } 1 .. between(1, 3)) . '])' },
		sub { "$m SIMILAR TO " . quote('%' . pick(' ', '(^| )', '') . pick(@message_words)
				=~ s/[^\w ]//gr . pick(' %', '%', '(s|x)?%')) },
		sub { "$m ~ (SELECT " . quote($self->word_regex(0)) . ')' },
		sub { "$m LIKE (SELECT d.pattern FROM dim d WHERE d.k = " . between(1, 15) . ')' },
		sub { "lower($m) LIKE " . $self->value('text', sub { lc $self->word_like(1, '\\') }) },
		sub { "strpos($m, " . $self->value('text', sub { pick(@message_words) }) . ') > 0' },
		sub { "starts_with($m, " . $self->value('text', sub { ($self->message_piece)[0] }) . ')' },
		sub { "$m COLLATE \"C\" " . pick('LIKE ' . $like->(), 'ILIKE ' . $ilike->(), '~* ' . $iregex->()) },
		sub { "coalesce($m, ' timeout ') LIKE " . $like->() },
		sub { "($m LIKE " . $like->() . ') ' . pick('IS TRUE', 'IS NOT TRUE', 'IS NOT FALSE', 'IS NULL') }
	)[ weighted(9, 9, 12, 7, 6, 1.5, 1, 1.5, 1, 2, 0.5, 2, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1) ]->();
}

# A condition by which segments can be left out, perhaps, or a tree of them
sub prunable
{
	my ($self, $a, $depth) = @_;
	my ($w, $p);

	if (($depth // 0) > 0 && chance(0.5))
	{
		my @parts = map { $self->prunable($a, $depth - 1) } 1 .. pick(2, 2, 2, 3);

		# what says nothing on one side of an OR
		push @parts, $self->predicate($a, 0) if chance(0.12);
		$p = '(' . join(pick(' AND ', ' OR '), @parts) . ')';
		$p = "NOT $p" if chance(0.1);
		return $p;
	}
	$w = weighted(6, 4, 4, 5, 8);
	$p = $w == 0 ? $self->listed_predicate($a)
	  : $w == 1 ? $self->trace_predicate($a)
	  : $w == 2 ? $self->bounds_predicate($a)
	  : $w == 3 ? $self->keyed_predicate($a)
	  : $self->message_predicate($a);
	$p = "($p)";
	$p = pick("NOT $p", "$p IS NOT TRUE", "$p IS FALSE", "NOT NOT $p", "$p IS TRUE",
		"coalesce($p, false)", "coalesce($p, true)", "$p = false")
	  if chance(0.08);
	return $p;
}

1;
