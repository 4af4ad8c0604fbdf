# Random conditions that are much alike, one after the other, with the cache:
# who gets rows that another condition has brought must get the right ones.
#
# Conditions are made of two expressions, three values and four operators each
# time, so that many mean the same, and many more nearly so.  What they mean is
# told by a plain table.  What is known to be the same, test/pgtap/cache_words.sql
# asks.
#
#	LOGQ_SEED		repeats a run
#	LOGQ_QUERIES	number of conditions, 6000
#	LOGQ_ROUND		only this round of 300 conditions

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqRows qw(between chance pick);
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $per_round = 300;
my $seed = $ENV{LOGQ_SEED} // int(time) % 1000000;
my $nqueries = $ENV{LOGQ_QUERIES} // 6000;
my $rounds = int(($nqueries + $per_round - 1) / $per_round);

diag("seed $seed: LOGQ_SEED=$seed LOGQ_QUERIES=$nqueries repeats this run");

my $c = LogqTest->new(partitions => 2, coordinator_conf => ["logq.cache_min_cost = 0", "timezone = UTC"]);

# Each value of a column comes with each of the others
$c->sql(q{INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '2024-05-01 10:00' + r % 4 * interval '1 s', (ARRAY['A', 'B', 'C', 'a', NULL])[1 + (r * 7 + r / 5) % 5],
		(ARRAY['A', 'B', 'x', NULL])[1 + r / 3 % 4], (ARRAY['A', 'm1', 'm2', 'mm3'])[1 + r / 7 % 4], (ARRAY['A', 't1', NULL])[1 + r / 11 % 3],
		CASE r % 6 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN '{"k": "A", "n": 1}' WHEN 3 THEN '{"k": "B", "n": 2}'
			WHEN 4 THEN '{"k": "1", "n": 3}' ELSE '{"n": 4}' END::jsonb
	FROM generate_series(1, 400) r});
is($c->sql("SELECT count(*) FROM logq.seal(before => '2024-05-01 11:00')"), 2, 'a sealed segment at each partition');
$c->sql('SELECT logq.refresh_catalog(); CREATE TABLE plain AS SELECT * FROM logq.logs');
my @ids = split /\n/, $c->sql('(SELECT id FROM plain ORDER BY id LIMIT 3) UNION ALL (SELECT id FROM plain ORDER BY id DESC LIMIT 2)');

# ---------- conditions ----------

# expression, type, values; operators, where they are not those of an order
my @expressions = (
	[ 'level', 'text', [qw(A B C a)] ],
	[ 'service', 'text', [qw(A B x)] ],
	[ 'trace_id', 'text', [qw(A t1)] ],
	[ 'message', 'text', [qw(A m1 m2)] ],
	[ "(attrs ->> 'k')", 'text', [qw(A B 1 2)] ],
	[ "(attrs ->> 'n')::int", 'int', [ 1 .. 4 ] ],
	[ "(attrs ->> 'n')::bigint", 'bigint', [ 1 .. 3 ] ],
	[ "(attrs ->> 'n')::bigint", 'int', [ 1 .. 3 ] ],
	[ "(attrs ->> 'n')::numeric", 'numeric', [qw(1 2 2.0 3)] ],
	[ "(attrs ->> 'n')::float8", 'float8', [qw(1 2 NaN 0 -0)] ],
	[ "(attrs -> 'n')", 'jsonb', [qw(1 2 3)] ],
	[ 'length(message)', 'int', [ 1 .. 3 ] ],
	[ 'ts', 'timestamptz', [ (map { "2024-05-01 10:00:0$_+00" } 0 .. 3), 'infinity' ] ],
	[ 'id', 'bigint', \@ids ],
	[ 'partition', 'text', [qw(p1 p2)], '=', '<>' ],
	[ 'attrs', 'jsonb', [ '{}', '{"n": 1}', '{"k": "A"}' ], '@>', '<@' ],
	[ 'attrs', 'text', [qw(k n z)], '?' ],
	[ 'message', 'text', [qw(A m mm)], '^@' ],
	[ 'message', 'text', [ 'm%', 'M%', '%1' ], 'LIKE', 'ILIKE', 'NOT LIKE' ]);
my %commutator = ('=' => '=', '<>' => '<>', '<' => '>', '<=' => '>=', '>' => '<', '>=' => '<=', '@>' => '<@', '<@' => '@>');
my (@some, @operators, $params);

sub literal
{
	my ($type, $v) = @_;
	my $text = defined $v ? "'$v'::$type" : "NULL::$type";

	return $text unless $params && chance(0.4);
	push @$params, [ $type, $text ];
	return '$' . @$params;
}

sub array
{
	my ($type, @values) = @_;
	my $form = between(0, 2);
	my $text;

	return "ARRAY[" . join(', ', map { literal($type, $_) } @values) . "]::${type}[]" if $form == 0;
	$text = "'{" . join(',', map { defined $_ ? '"' . s/"/\\"/gr . '"' : 'NULL' } @values) . "}'::${type}[]";
	return $text unless $params && $form == 1;
	push @$params, [ "${type}[]", $text ];
	return '$' . @$params;
}

sub comparison
{
	my ($expr, $type, $values, @own) = @{ pick(@some) };
	my $op = @own ? pick(@own) : pick(@operators);
	my $value = sub { return chance(0.08) ? undef : pick(@$values); };
	my $collate = $type eq 'text' && !@own && chance(0.15) ? ' COLLATE "C"' : '';
	my $r = rand;

	if (!@own && $r < 0.04)
	{
		my @sides = ($expr, literal($type, $value->()));

		@sides = reverse @sides if chance(0.5);
		return join(pick(' IS DISTINCT FROM ', ' IS NOT DISTINCT FROM '), @sides);
	}
	if (!@own && $r < 0.1)
	{
		return "$expr BETWEEN " . literal($type, $value->()) . ' AND ' . literal($type, $value->());
	}
	if ($r < 0.4)
	{
		my @values = map { $value->() } 1 .. between(0, 3);

		return "$expr$collate " . pick('IN', 'NOT IN') . ' (' . join(', ', map { literal($type, $_) } @values) . ')'
		  if @values && !@own && chance(0.3);
		return "$expr$collate $op " . pick('ANY', 'ALL') . ' (' . (chance(0.04) ? "NULL::${type}[]" : array($type, @values)) . ')';
	}
	return literal($type, $value->()) . " $commutator{$op} $expr$collate" if exists $commutator{$op} && chance(0.4);
	return "$expr$collate $op " . literal($type, $value->());
}

sub condition
{
	my ($depth) = @_;
	my $r = rand;

	return literal('bool', pick('t', 'f', undef)) if $r < 0.02;
	return comparison() if $depth == 0 || $r < 0.4;
	return 'NOT (' . condition($depth - 1) . ')' if $r < 0.5;
	return '((' . condition($depth - 1) . ') IS ' . pick('TRUE', 'NOT TRUE', 'UNKNOWN', 'NOT FALSE') . ')' if $r < 0.53;
	return '(' . join(pick(' AND ', ' OR '), map { condition($depth - 1) } 1 .. between(2, 3)) . ')';
}

# What asks a table for the rows that pass
sub query
{
	my ($table, $where) = @_;
	my $sql = "SELECT string_agg(id::text, ',' ORDER BY id) FROM $table WHERE $where";

	return "$sql;\n" unless $params && @$params;
	return 'PREPARE q(' . join(', ', map { $_->[0] } @$params) . ") AS $sql;\n"
	  . 'EXECUTE q(' . join(', ', map { $_->[1] } @$params) . ");\nDEALLOCATE q;\n";
}

# ---------- asking ----------

my ($asked, $cached, $wrong) = (0, 0, 0);

foreach my $round (1 .. $rounds)
{
	my $script = "SET plan_cache_mode = force_generic_plan;\n";
	my (@texts, $out);

	srand($seed * 1000 + $round);
	next if defined $ENV{LOGQ_ROUND} && $ENV{LOGQ_ROUND} != $round;
	@some = map {
		my ($expr, $type, $values, @own) = @{ pick(@expressions) };

		[ $expr, $type, [ map { pick(@$values) } 1 .. 3 ], @own ];
	} 1 .. 2;
	@operators = map { pick('=', '<>', '<', '<=', '>', '>=') } 1 .. 4;
	foreach my $i (0 .. $per_round - 1)
	{
		my $where;

		$params = chance(0.5) ? [] : undef;
		$where = join(' AND ', map { condition(chance(0.4) ? 2 : 1) } 1 .. between(1, 2));
		push @texts, query('logq.logs', $where);
		$script .= "\\echo \@$i\n$texts[-1]SELECT 'cached', segments_asked, cached FROM logq.last_query();\n"
		  . query('plain', $where);
	}
	$script .= "SELECT logq.cache_clear();\n";
	$out = $c->coordinator->safe_psql('logs', $script);
	foreach my $part (split /^@/m, $out)
	{
		my ($i, $got, $uses, $expected) = split /\n/, $part;
		my (undef, $nasked, $ncached);

		next unless $part =~ /^\d+\n/;
		(undef, $nasked, $ncached) = split /\|/, $uses;
		$asked += $nasked;
		$cached += $ncached;
		next if $got eq ($expected // '');
		$wrong++;
		diag("round $round: $texts[$i]gave $got\ninstead of $expected\n($uses)") if $wrong <= 3;
	}
}

is($wrong, 0, "answers to $nqueries conditions");
cmp_ok($asked, '>', 0, "segments asked: $asked");
cmp_ok($cached, '>', $asked / 4, "segments that others had asked: $cached") unless defined $ENV{LOGQ_ROUND};
done_testing();
