# Random rows and random queries over a log table.
#
#	my $g = LogqQueries->new(rows => [...], now => time);	# as of LogqRows
#	$g->set_ids(...);			# once they are known
#	$g->trust(1);				# nothing will change: trust old copies of catalogs
#	$g->read_only(1);			# no queries that write
#	$g->beside_writers(1);		# @T@ is a view
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
#	may_fail	it fails everywhere with the same SQLSTATE, or nowhere
#	grouped		it has aggregates or groups
#	explain		the statement can be explained
#	scan		a statement whose EXPLAIN shows what its scans leave out, or undef
#
# Everything comes from Perl's generator, so a seed gives the same queries,
# except that rows have the time and the ids of the run.

package LogqQueries;

use strict;
use warnings;
use utf8;

use JSON::PP ();
use LogqAggregates;
use LogqConditions;
use LogqGroups;
use LogqPrunable;
use LogqRows qw(pick chance between some weighted quote timestamp hours
  @attr_keys);

our @ISA = qw(LogqConditions LogqPrunable LogqAggregates LogqGroups);

my @text_columns = qw(level service message trace_id);
my @columns = qw(ts level service message trace_id attrs id partition);

# ---------- the generator of queries ----------

sub new
{
	my ($class, %opt) = @_;
	my $self = bless { %opt, params => undef, now => 0 }, $class;
	my @rows = @{ $opt{rows} };
	my %values;

	$self->{ids} = [1];
	foreach my $i (0 .. $#text_columns)
	{
		my %seen = map { $_->[ $i + 1 ] // '' => 1 } @rows;

		# of many alike some will do
		$self->{pool}{ $text_columns[$i] } =
		  [ grep { length $_ < 200 && !/^L\d{2}/ } sort keys %seen ];
	}
	$self->{pool}{partition} = [ 'p1', 'p2', 'p3', 'p4', 'P1', '', 'p' ];
	$self->{times} = [ map { $_->[0] } @rows ];
	$self->{hours} = [ hours($opt{now}) ];
	foreach my $row (@rows)
	{
		my $o = defined $row->[5]
		  ? JSON::PP->new->allow_nonref->decode($row->[5]) : undef;

		next unless ref $o eq 'HASH';
		foreach my $key (@attr_keys)
		{
			my $v = $o->{$key};

			$values{$key}{ JSON::PP::is_bool($v) ? ($v ? 'true' : 'false') : $v } = 1
			  if defined $v && ref $v !~ /HASH|ARRAY/;
		}
	}
	$self->{attr_values}{$_} = [ sort keys %{ $values{$_} } ] foreach @attr_keys;
	return $self;
}

sub trust { $_[0]->{trust} = $_[1]; return; }

# Nothing can be written, or is not found at once
sub read_only { $_[0]->{read_only} = $_[1]; return; }

# Queries that fit a view, whose rows have no system columns, in shapes that
# read nothing else.
sub beside_writers
{
	my ($self, $on) = @_;

	$self->{in_view} = $self->{beside_writers} = $on;
	return;
}

# ids of the rows, once they are known
sub set_ids
{
	my ($self, @ids) = @_;

	$self->{ids} = \@ids;
	return;
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
			$self->{in_view} ? () : sub { "$a.tableoid = '\@T\@'::regclass" },
			sub { "1" },
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
		't.ts = d.since', 't.id = d.id', 't.trace_id = d.trace_id',
		"t.attrs->>'status' = d.status", "t.attrs->>'req' = d.req",
		't.message = d.message');
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

	{
		local $self->{in_view} = $self->{in_view} || $other ne '@T@';
		$sql .= $self->where('x');
	}

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
		'x.message LIKE d.pattern', "x.attrs @> jsonb_build_object('n', d.k)",
		'x.trace_id = d.trace_id', 'x.message ~ d.regex', 'x.message ILIKE d.pattern',
		'x.message = d.message', "x.attrs->>'status' = d.status", 'x.attrs @> d.js',
		"x.attrs->>'req' IN (d.req, d.status)", 'x.service >= d.service AND x.service < d.level',
		"x.ts = d.since AND x.id = d.id", "(x.trace_id = d.trace_id OR x.service = d.service)");
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
	local $self->{in_view} = 1;
	my $where = $self->where('t');

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
		# while it rests
		push @sql, $sql[0] =~ s/^DECLARE .*? FOR SELECT .*? FROM/SELECT t.level, count(*), max(t.ts) FROM/r
		  =~ s/ ORDER BY .*/ GROUP BY 1 ORDER BY 1/r
		  if chance(0.1);
	}
	push @sql, 'FETCH ALL FROM c1' if chance(0.4);
	push @sql, 'CLOSE c1' if chance(0.7);
	push @sql, 'FETCH 10 FROM c2' if chance(0.7);
	$self->{now} = 1;    # needs a transaction
	return (\@sql, 'list');
}

# The same with growing limits, so that what is cached is but the beginning
sub shape_growing
{
	my ($self) = @_;
	my $d = pick('', ' DESC');
	my $sql = 'SELECT t.ts, t.id, ' . join(', ', $self->select_items('t')) . ' FROM @T@ t ' .
	  $self->where('t', 0) . " ORDER BY t.ts$d, t.id$d";
	my $limit = 0;

	return ([ (map { $limit += pick(1, 1, 2, 7, 20, 60, 300); "$sql LIMIT $limit" .
				(chance(0.2) ? ' OFFSET ' . between(0, 9) : '') } 1 .. between(2, 4)),
			chance(0.4) ? $sql : () ], 'list');
}

# With a limit any rows will do, if there are so many of them, and none twice
sub shape_any_rows
{
	my ($self) = @_;
	local $self->{in_view} = 1;
	my $where = $self->where('t', 1);
	my $limit = pick(1, 3, 20, 100, 1000);

	return ("SELECT count(*), count(DISTINCT s.id), bool_and(s.id IN (SELECT t.id FROM local_logs t $where))"
		  . " FROM (SELECT t.id FROM \@T\@ t $where LIMIT $limit) s", 'set');
}

# A row that is written while a cursor rests is not the cursor's
sub shape_cursor_write
{
	my ($self) = @_;
	my $d = pick('', ' DESC', ' DESC');
	my $where = $self->where('t', 1);
	my $order = chance(0.7) ? "ORDER BY t.ts$d, t.id$d" . (chance(0.3) ? ' LIMIT 1000' : '') : '';
	my $at = quote(pick(@{ $self->{times} }));
	my $count = "SELECT count(*), max(t.message) FROM \@T\@ t WHERE t.ts >= $at AND t.ts < ${at}::timestamptz + interval '1 hour'";

	$self->{now} = 1;	# to be rolled back
	return ([ "DECLARE c1 CURSOR FOR SELECT t.ts, t.id, t.message FROM \@T\@ t $where $order",
			$order eq '' ? 'FETCH 0 FROM c1' : 'FETCH ' . between(1, 30) . ' FROM c1',
			"INSERT INTO \@T\@ (ts, level, service, message) VALUES ($at, 'INFO', 'web', 'written meanwhile')",
			chance(0.5) ? $count : (),
			$order eq '' ? () : 'FETCH ' . between(1, 30) . ' FROM c1',
			$order eq '' ? 'CLOSE c1' : 'FETCH ALL FROM c1' ], 'list');
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
	push @args, "pattern => " . $self->value('text', sub { pick(@LogqConditions::regexes) })
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
	# each row that fails does so alike: attrs made an array, for one
	my $bad = pick(
		't.id / (length(t.message) - length(t.message)) = 1',
		't.level::int = 5', "(t.attrs || '[]')::int > 0",
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
	[ 4, 'whole_row' ], [ 6, 'cursor' ], [ 5, 'growing' ], [ 3, 'any_rows' ], [ 3, 'cursor_write' ], [ 6, 'search' ], [ 2, 'plpgsql' ],
	[ 3, 'modify' ], [ 2, 'copy' ], [ 3, 'merge_join' ], [ 3, 'series' ],
	[ 2, 'error' ], @LogqGroups::shapes);
my %grouped = map { $_->[1] => 1 } @LogqGroups::shapes;

sub shape_names { return map { $_->[1] } @shapes; }

# those that read nothing but @T@, dim and local_logs
my %reads_table = map { $_ => 1 } qw(simple aggregate distinct join_local
  self_join subquery cte setop target_subselect lateral window cursor growing copy
  merge_join series), @LogqGroups::readers;

my @planner_settings = map { "$_ = off" } qw(enable_hashjoin enable_mergejoin
  enable_nestloop enable_material enable_memoize enable_sort
  enable_incremental_sort enable_hashagg);

sub query
{
	my ($self, $only) = @_;
	my @choice = grep {
		(!$self->{beside_writers} || $reads_table{ $_->[1] }) &&
		  (!$self->{read_only} || $_->[1] ne 'cursor_write')
	} @shapes;
	my $shape = defined $only && (!$self->{beside_writers} || $reads_table{$only})
	  ? $only : $choice[ weighted(map { $_->[0] } @choice) ][1];
	my $prepared = $shape !~ /cursor|growing|plpgsql|modify|copy|error|function|statements/
	  && chance($shape eq 'prepared_groups' ? 1 : 0.3);
	my %q = (shape => $shape, set => [], grouped => $grouped{$shape});
	my ($sql, $compare);

	$self->{now} = $self->{may_fail} = 0;
	$self->{more_set} = [];
	$self->{params} = $prepared ? [] : undef;
	($sql, $compare) = $self->can("shape_$shape")->($self);
	push @{ $q{set} }, LogqAggregates::zone_setting()
	  if chance($grouped{$shape} ? 0.8 : 0.5);
	push @{ $q{set} }, "datestyle = '" . pick('SQL, DMY', 'German', 'Postgres, MDY') . "'"
	  if chance(0.1) && !$prepared;
	push @{ $q{set} }, "intervalstyle = 'iso_8601'" if chance(0.05);
	push @{ $q{set} }, pick(@planner_settings) foreach 1 .. pick(0, 0, 0, 1, 2);
	push @{ $q{set} }, 'logq.max_parallel_partitions = ' . pick(1, 2) if chance(0.15);
	push @{ $q{set} }, 'work_mem = 64' if chance($grouped{$shape} ? 0.2 : 0.1);
	push @{ $q{set} }, 'extra_float_digits = 0' if chance(0.04);
	# whatever becomes fewer rows is to be pushed down, for the table is small
	push @{ $q{set} }, 'cpu_tuple_cost = 100', 'jit = off' if $grouped{$shape} && chance(0.7);
	push @{ $q{set} }, 'logq.catalog_memory = 64' if chance(0.1);
	push @{ $q{set} }, pick('logq.strict_pruning = on', 'logq.catalog_max_age = 0',
		'logq.catalog_max_age = 1')
	  if chance(0.1);
	push @{ $q{set} }, "logq.catalog_max_age = '1d'" if $self->{trust} && chance(0.7);
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
			} 1, 2, 1, $shape eq 'prepared_groups' ? (1, 1, 2, 1) : ()),
			'DEALLOCATE q' ];
	}
	$q{explain} = !ref $sql;
	$q{scan} = !ref $sql ? $sql : $prepared ? $sql->[1] : undef
	  if $shape !~ /^(search|error)/;
	# the query of the first cursor
	$q{scan} = $sql->[0] =~ s/^DECLARE .*? FOR //r if $shape =~ /cursor$/;
	# the types that the executor says its columns have
	if ($shape =~ /^(counts|groups|totals|distinct_values|grouping_sets)$/ && !ref $sql
		&& chance(0.12))
	{
		$sql = [ "CREATE TEMP TABLE kept AS $sql",
			"SELECT attname, format_type(atttypid, atttypmod), attcollation::regcollation"
			  . " FROM pg_attribute WHERE attrelid = 'kept'::regclass AND attnum > 0",
			'SELECT * FROM kept', 'DROP TABLE kept' ];
		$self->{now} = 1;
	}
	$q{sql} = ref $sql ? $sql : [$sql];
	$q{may_fail} = $self->{may_fail};
	$q{compare} = $compare;
	$q{now} = $self->{now};
	$self->{params} = undef;
	return \%q;
}

1;
