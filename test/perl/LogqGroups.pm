# Queries with aggregates and groups: as dashboards send them, and as whoever
# plans them would rather not see them.
#
# A part of LogqQueries; what they are made of is in LogqAggregates.pm.

package LogqGroups;

use strict;
use warnings;
use utf8;

use LogqRows qw(pick chance between some weighted quote timestamp);

# shapes and how often they are wanted
our @shapes = (
	[ 19, 'counts' ], [ 14, 'groups' ], [ 5, 'totals' ], [ 5, 'distinct_values' ],
	[ 3, 'grouping_sets' ], [ 10, 'groups_inside' ], [ 3, 'groups_lateral' ],
	[ 2, 'group_statements' ], [ 3, 'prepared_groups' ], [ 2, 'group_cursor' ],
	[ 2, 'group_function' ], [ 5, 'grafana' ], [ 4, 'overflow' ]);

# those that read nothing but @T@, dim and local_logs
our @readers = qw(counts groups totals distinct_values grouping_sets
  groups_inside groups_lateral group_statements prepared_groups group_cursor
  grafana overflow);

# ---------- parts ----------

# "SELECT c1, c2 FROM @T@ a WHERE ... GROUP BY" and what follows, without an
# order: (sql, number of keys, number of columns).  Options: of, "counts" for
# what these tell, "plain" for what partitions compute, or "any"; keys,
# expressions; where; aggs, how many.
sub grouped
{
	my ($self, $a, %opt) = @_;
	my $of = $opt{of} // any_kind();
	my @keys = @{ $opt{keys} // [ $self->group_keys($a, $of) ] };
	my $where = $opt{where} // ($of eq 'counts' ? $self->count_where($a) : $self->any_where($a));
	my @aggs = map { $self->aggregate($a, $of, @keys) }
	  1 .. $opt{aggs} // pick(1, 1, 2, 2, 3, 5);
	my $n = 0;
	my $sql = 'SELECT ' . join(', ', map { "$_ AS c" . ++$n } @keys, @aggs) .
	  " FROM \@T\@ $a $where";

	$sql .= ' GROUP BY ' . $self->group_list(@keys) if @keys;
	$sql .= ' GROUP BY ()' if !@keys && chance(0.15);
	$sql .= ' HAVING ' . $self->having($a, $of, @keys) if chance(0.17);
	return ($sql, scalar @keys, $n);
}

sub any_kind { return (qw(counts plain any))[ weighted(3, 3, 4) ]; }

sub key_of
{
	my ($self, $a, $of) = @_;

	return $of eq 'counts' ? $self->count_key($a)
	  : $of eq 'plain' ? $self->plain_key($a) : $self->group_key($a);
}

sub group_keys
{
	my ($self, $a, $of) = @_;
	my @keys = map { $self->key_of($a, $of) } 1 .. pick(1, 1, 1, 2, 2, 3);

	push @keys, $self->constant_key if chance(0.04);
	return @keys;
}

# the keys, which come first in the select list, as GROUP BY names them
sub group_list
{
	my ($self, @keys) = @_;
	my @list = map { chance(0.5) ? $_ + 1 : $keys[$_] } 0 .. $#keys;

	push @list, pick(@keys) if chance(0.04);
	@list = reverse @list if chance(0.1);
	return join ', ', @list;
}

sub having
{
	my ($self, $a, $of, @keys) = @_;
	my $key = @keys ? pick(@keys) : "'none'";

	return pick("count(*) > " . $self->value('int', sub { between(0, 9) }),
		"count(*) BETWEEN 2 AND 30", "max($a.level) > 'ERROR'", "count(DISTINCT $a.service) > 1",
		"count(*) FILTER (WHERE $a.level = 'ERROR') >= 1", "bool_or($a.level = 'INFO')",
		"($key) IS NOT NULL", "($key)::text > '2024'", "count(*) * 2 > count($a.level) + 3",
		'true', 'count(*) > 3 OR ' . "($key) IS NULL", 'count(*) > 1 AND ' . "($key)::text < 'X'")
	  if $of eq 'counts' || $of eq 'plain' && chance(0.6);
	return pick("max($a.ts) > " . $self->bound(sub { $self->edge }),
		"avg(length($a.message)) > " . between(10, 60), "min($a.id) % 2 = 0",
		"count(*) > (SELECT count(*) / 2 FROM dim)", 'false', "sum($a.id) IS NOT NULL",
		"stddev(length($a.message)) < 50", "count($a.attrs) < count(*)",
		"mode() WITHIN GROUP (ORDER BY $a.level) = 'INFO'",
		"($key)::text IN (SELECT d.level FROM dim d)", "random() >= 0",
		"count(*) > " . between(0, 4) . ' AND ' . "max(length($a.message)) > 9");
}

# ORDER BY and LIMIT for so many keys and columns: (clause, how to compare)
sub group_order
{
	my ($self, $nkeys, $ncols) = @_;
	my @keys = map { $_ . LogqQueries::direction() . pick('', '', ' NULLS FIRST', ' NULLS LAST') }
	  1 .. $nkeys;
	my $agg = $nkeys + 1 + int rand($ncols - $nkeys);
	my $limit = ' LIMIT ' . $self->value('bigint', sub { pick(1, 2, 3, 5, 10, 50, 1000) });
	my $w = weighted(8, 3, 2, 3, 4, 1.7, 1);

	return ('', 'set') if $w == 0 || !$nkeys || $ncols == $nkeys;
	$limit .= ' OFFSET ' . between(0, 5) if chance(0.15);
	@keys = reverse @keys if chance(0.1);
	return ('ORDER BY ' . join(', ', @keys), 'list') if $w == 1;
	return ('ORDER BY ' . join(', ', @keys) . $limit, 'list') if $w == 2;
	# the top ones
	return ("ORDER BY $agg DESC" . pick('', ' NULLS LAST') . ', ' . join(', ', @keys) .
		  $limit, 'list')
	  if $w <= 4;
	return ("ORDER BY $agg " . pick('ASC', 'DESC') . ' FETCH FIRST ' . between(1, 9) .
		  ' ROWS WITH TIES', 'set')
	  if $w == 5;
	return ('ORDER BY ' . join(', ', @keys) . " OFFSET " . between(0, 9), 'list');
}

sub ordered
{
	my ($self, $sql, $nkeys, $ncols) = @_;
	my ($order, $compare) = $self->group_order($nkeys, $ncols);

	return ($order eq '' ? $sql : "$sql $order", $compare);
}

# ---------- shapes of queries; each gives (sql, compare) ----------

# what counts by time, level, service and partition tell
sub shape_counts
{
	my ($self) = @_;
	my @opt = chance(0.15) ? (keys => []) : ();

	# by all that there are counts of, over much
	@opt = (keys => [ 't.service', pick("date_trunc('minute', t.ts)",
				"date_bin('5 minutes', t.ts, 'epoch')", "floor(extract(epoch from t.ts)/300)*300",
				"date_trunc('hour', t.ts, 'Asia/Kathmandu')"), pick([], ['t.level'])->@* ],
		where => 'WHERE ' . pick('true', "t.level <> 'WARN'", "t.ts >= '2010-01-01'", $self->listed('t')))
	  if chance(0.15);
	return $self->ordered($self->grouped('t', of => 'counts', @opt));
}

sub shape_groups
{
	my ($self) = @_;

	return $self->ordered($self->grouped('t', of => chance(0.6) ? 'plain' : 'any'));
}

sub shape_prepared_groups
{
	my ($self) = @_;

	return chance(0.5) ? $self->shape_counts : $self->shape_groups;
}

sub shape_totals
{
	my ($self) = @_;

	return ('SELECT ' . pick("'x'", '1', 'count(*)', '(SELECT count(*) FROM dim)') .
		  ' AS c1 FROM @T@ t ' . $self->count_where('t') . ' HAVING ' .
		  $self->having('t', any_kind()), 'set')
	  if chance(0.12);
	return (($self->grouped('t', keys => []))[0], 'set');
}

sub shape_distinct_values
{
	my ($self) = @_;
	my $w = weighted(5, 2, 2, 4, 2, 2, 1);
	my $column = pick(qw(level service service partition));
	my $where = $self->count_where('t');
	my $n = pick(1, 3, 20, 100);
	my @keys;

	# as discovery and variables of dashboards ask
	return ("SELECT DISTINCT t.$column AS c1 FROM \@T\@ t $where" .
		  (chance(0.4) ? " ORDER BY 1 LIMIT $n" : ''), 'set')
	  if $w == 0;
	return ("SELECT DISTINCT $column AS c1 FROM \@T\@ WHERE $column IS NOT NULL ORDER BY $column LIMIT $n", 'list')
	  if $w == 1;
	return ("SELECT DISTINCT t.level AS c1, t.service AS c2" . pick('', ', t.partition AS c3') .
		  " FROM \@T\@ t $where" . pick('', ' ORDER BY 2 DESC, 1'), 'set')
	  if $w == 2;
	@keys = map { $self->group_key('t') } 1 .. pick(1, 1, 2);
	if ($w == 3)
	{
		my $i = 0;

		return ('SELECT DISTINCT ' . join(', ', map { "$_ AS c" . ++$i } @keys) .
			  ' FROM @T@ t ' . $self->any_where('t') .
			  (chance(0.3) ? ' ORDER BY ' . join(', ', 1 .. $i) . " LIMIT $n" : ''), 'set');
	}
	# of what is counted, too
	return ((($self->grouped('t', of => 'counts'))[0] =~ s/^SELECT /SELECT DISTINCT /r), 'set')
	  if $w == 4;
	return ("SELECT count(*) AS c1, count(s.c1) AS c2 FROM (SELECT DISTINCT $keys[0] AS c1 FROM \@T\@ t " .
		  $self->any_where('t') . ') s', 'set')
	  if $w == 5;
	return ("SELECT DISTINCT ON (c1) c1, c2 FROM (SELECT t.$column AS c1, count(*) AS c2 FROM \@T\@ t" .
		  " $where GROUP BY 1, t.level) s ORDER BY c1, c2 DESC", 'list');
}

sub shape_grouping_sets
{
	my ($self) = @_;
	my $of = any_kind();
	my @keys = map { $self->key_of('t', $of) } 1 .. pick(2, 2, 3);
	my @aggs = map { $self->aggregate('t', $of, @keys) } 1 .. pick(1, 2);
	my $where = $of eq 'counts' ? $self->count_where('t') : $self->any_where('t');
	my $all = join ', ', @keys;
	my $n = 0;

	return ('SELECT ' . join(', ', map { "$_ AS c" . ++$n } @keys, "GROUPING($all)", @aggs) .
		  " FROM \@T\@ t $where GROUP BY " .
		  pick("ROLLUP($all)", "CUBE($all)", "GROUPING SETS (($all), ($keys[1]), ())",
			'GROUPING SETS (' . join(', ', map { "($_)" } @keys) . ')', "$keys[0], ROLLUP(" . join(', ', @keys[ 1 .. $#keys ]) . ')',
			"GROUPING SETS (($all), (), ())", "DISTINCT ROLLUP($all), CUBE($keys[0])",
			"GROUPING SETS (ROLLUP($all), ($keys[0]))") .
		  (chance(0.2) ? ' HAVING ' . pick('count(*) > 2', "GROUPING($keys[0]) = 0",
			"GROUPING($keys[0]) = 1 OR count(*) > 5") : ''), 'set');
}

# grouped selects within others
sub shape_groups_inside
{
	my ($self) = @_;
	my $of = any_kind();
	my $sub = sub { my ($a, @opt) = @_; return ($self->grouped($a, of => $of, @opt))[0]; };
	my $by = sub { my ($a, $key) = @_; return $sub->($a, keys => [$key]); };
	my $where = $self->count_where('t');
	my $and = $where eq '' ? 'WHERE' : "$where AND";
	my $column = pick('level', 'service');
	my $bucket = $self->bucket('t');
	my @list;

	return ("SELECT t.$column AS c1, $bucket AS c2, count(*) AS c3, " .
		  pick("sum(count(*)) OVER (ORDER BY $bucket, t.$column)", 'rank() OVER (ORDER BY count(*) DESC)',
			"lag(count(*)) OVER (PARTITION BY t.$column ORDER BY $bucket)", 'count(*) * 100.0 / sum(count(*)) OVER ()',
			"row_number() OVER (ORDER BY count(*), $bucket, t.$column)",
			'count(*) OVER ()', "first_value(t.$column) OVER (PARTITION BY $bucket ORDER BY count(*), t.$column)") .
		  " AS c4 FROM \@T\@ t $where GROUP BY 1, 2", 'set')
	  if chance(0.25);
	@list = (
		sub { ("SELECT s.*, d.k FROM (" . $by->('t', "t.$column") . ") s " . pick('JOIN', 'LEFT JOIN', 'RIGHT JOIN') .
			  " dim d ON s.c1 = d.$column", 'set') },
		sub { ("SELECT a.*, b.c2 AS other FROM (" . $by->('t', "t.$column") . ") a " . pick('JOIN', 'FULL JOIN') .
			  " (" . $by->('x', "x.$column") . ") b ON a.c1 = b.c1", 'set') },
		sub { ('WITH w AS ' . pick('', 'MATERIALIZED ', 'NOT MATERIALIZED ') . '(' . $by->('t', "t.$column") .
			  ') SELECT w.* FROM w WHERE ' . pick("w.c1 = 'ERROR'", "w.c1 IN ('web', 'INFO')", 'w.c1 IS NULL',
				'w.c2 IS NOT NULL', "w.c1 < 'b' AND w.c2::text <> '1'"), 'set') },
		sub { ("WITH w AS (SELECT $bucket AS c1, t.level AS c2, count(*) AS n FROM \@T\@ t $where GROUP BY 1, 2)"
			  . ' SELECT a.c1, a.n, b.n FROM w a JOIN w b ON a.c1 = b.c1 AND a.c2 < b.c2', 'set') },
		sub { ("SELECT s.* FROM (SELECT $bucket AS c1, t.level AS c2, count(*) AS n FROM \@T\@ t $where GROUP BY 1, 2) s WHERE " .
			  pick("s.c2 = 'ERROR'", 's.n > 2', "s.c2 IN ('INFO', 'WARN') AND s.n > 1", 's.c1 IS NOT NULL'), 'set') },
		sub { ('(' . $sub->('t', keys => [ "t.$column" ], aggs => 1) . ') UNION' . pick(' ALL', '') . " (SELECT x.$column, " .
			  "NULL FROM \@T\@ x " . $self->count_where('x') . ' GROUP BY 1)', 'set') },
		sub { ("SELECT c1, sum(n), count(*) FROM (SELECT t.$column AS c1, count(*) AS n FROM \@T\@ t $where GROUP BY 1"
			  . " UNION ALL SELECT x.$column, count(*) FROM \@T\@ x " . $self->any_where('x') . ' GROUP BY 1) s GROUP BY 1', 'set') },
		sub { ("SELECT t.id FROM \@T\@ t WHERE " . $self->selective('t') . " AND t.$column IN (SELECT x.$column FROM \@T\@ x " .
			  $self->count_where('x') . " GROUP BY 1 HAVING count(*) > " . between(1, 60) . ')', 'set') },
		sub { ("SELECT d.k FROM dim d WHERE " . pick('', 'NOT ') . "EXISTS (SELECT FROM \@T\@ t $and t.$column = d.$column" .
			  ' GROUP BY t.partition HAVING count(*) > ' . between(0, 20) . ')', 'set') },
		sub { ("SELECT d.k FROM dim d WHERE d.k < ALL (SELECT count(*) FROM \@T\@ t $where GROUP BY t.$column)", 'set') },
		sub { ("SELECT (SELECT count(*) FROM \@T\@ t $where) AS a, (SELECT max(t.ts) FROM \@T\@ t " . $self->count_where('t') . ') AS b'
			  . pick('', ", (SELECT count(*) FROM \@T\@ x WHERE x.level = 'ERROR') AS c"), 'set') },
		sub { ("SELECT s.c1, (SELECT count(*) FROM \@T\@ x WHERE x.$column = s.c1 AND x.ts >= s.c2) AS n FROM (SELECT t.$column AS c1,"
			  . " min(t.ts) AS c2 FROM \@T\@ t $where GROUP BY 1) s", 'set') },
		sub { ("SELECT g.h, coalesce(s.n, 0) FROM generate_series(date_trunc('hour', '2024-03-10 00:00+00'::timestamptz),"
			  . " '2024-03-11 00:00+00', '1 hour') g(h) LEFT JOIN (SELECT date_bin('1 hour', t.ts, '2001-01-01 00:00+00') AS c1,"
			  . " count(*) AS n FROM \@T\@ t $where GROUP BY 1) s ON s.c1 = g.h", 'set') },
		sub { ("SELECT d.k, count(*), count(t.id), max(t.ts) FROM dim d " . pick('JOIN', 'LEFT JOIN') .
			  " \@T\@ t ON t.$column = d.$column" . pick('', ' AND t.ts >= d.since') .
			  ($where eq '' ? '' : " $where") . ' GROUP BY d.k', 'set') },
		sub { ("SELECT max(s.c2::text), count(*), count(s.c2) FROM (" . $sub->('t', keys => [ "t.$column" ], aggs => 1) .
			  ') s(c1, c2)', 'set') },
		sub { ("SELECT max(s.n), round(avg(s.n), 3), sum(s.n) FROM (SELECT $bucket, count(*) AS n FROM \@T\@ t $where GROUP BY 1) s", 'set') },
		sub { ("SELECT s.$column, count(*) FROM (SELECT * FROM \@T\@ t $where ORDER BY t.ts DESC, t.id DESC LIMIT " .
			  between(1, 200) . ') s GROUP BY 1', 'set') },
		sub { ("SELECT count(*) FROM (SELECT 1 FROM \@T\@ t $where LIMIT " . between(1, 500) . ') s', 'set') },
		sub { ("SELECT s.level, count(*) FROM (SELECT t.level FROM \@T\@ t $where UNION ALL SELECT x.level FROM local_logs x"
			  . " WHERE x.service = 'web' AND x.level <> 'NOISE') s GROUP BY 1", 'set') },
		sub { ("SELECT s.c1, count(*), sum(s.id % 10) FROM (SELECT $bucket AS c1, t.id, t.level FROM \@T\@ t $where) s WHERE "
			  . "s.level <> 'DEBUG' GROUP BY 1", 'set') },
		sub { ("SELECT DISTINCT count(*) AS c1 FROM \@T\@ t $where GROUP BY t.$column, t.level", 'set') });

	push @list, (
		sub { ("SELECT v.service AS c1, count(*) AS c2, min(v.ts) AS c3 FROM v_errors_\@N\@ v " . $self->count_where('v') . ' GROUP BY 1', 'set') },
		sub { ("SELECT count(*) FROM v_errors_\@N\@ v " . $self->count_where('v'), 'set') },
		sub { ("SELECT v.level, count(*), sum(length(v.message)) FROM v_barrier_\@N\@ v " . $self->any_where('v') . ' GROUP BY 1', 'set') },
		sub { ("SELECT v.level, count(*) FROM v_newest_\@N\@ v " . $self->count_where('v') . ' GROUP BY 1', 'set') },
		sub { ("SELECT v.* FROM v_hourly_\@N\@ v WHERE " . pick("v.level = 'ERROR'", 'v.n > 5', "v.hour >= '2024-03-10 05:00+00'",
				"v.hour < now() - interval '1 day' AND v.level IN ('INFO', 'WARN')"), 'set') },
		sub { ("SELECT v.level, sum(v.n), max(v.hour) FROM v_hourly_\@N\@ v GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3", 'list') })
	  unless $self->{in_view};
	return pick(@list)->();
}

# grouped selects as parts of other statements
sub shape_group_statements
{
	my ($self) = @_;
	my ($sql, $nkeys) = $self->grouped('t');
	my $order = $nkeys ? 'ORDER BY ' . join(', ', 1 .. $nkeys) : '';
	my $column = pick('level', 'service');
	my $where = $self->count_where('t');

	$self->{now} = 1;	# to be rolled back
	return pick(
		sub { ([ "CREATE TEMP TABLE taken AS $sql", 'SELECT * FROM taken', 'DROP TABLE taken' ], 'set') },
		sub { ([ "COPY ($sql $order) TO STDOUT" . pick('', ' (FORMAT csv, HEADER)') ], 'list') },
		sub { ([ "INSERT INTO dim (k, service) SELECT 1000 + count(*), t.$column FROM \@T\@ t $where GROUP BY 2"
				. ' RETURNING k, service' ], 'set') },
		sub { ([ "UPDATE dim d SET k = s.n FROM (SELECT t.$column AS c1, count(*) AS n FROM \@T\@ t $where GROUP BY 1) s"
				. " WHERE s.c1 = d.$column RETURNING d.k, d.$column" ], 'set') },
		sub { ([ "DELETE FROM dim d WHERE d.k < (SELECT count(*) FROM \@T\@ t $where) RETURNING d.k" ], 'set') })->();
}

# grouped selects that depend on a row of another table
sub shape_groups_lateral
{
	my ($self) = @_;
	my $where = $self->count_where('x');
	my $and = $where eq '' ? 'WHERE' : "$where AND";
	my $on = pick('x.service = d.service', 'x.level = d.level', 'x.service IS NOT DISTINCT FROM d.service',
		'x.level = d.level AND x.ts >= d.since', "x.ts >= d.since AND x.ts < d.since + interval '1 hour'",
		"x.partition = 'p' || d.k", 'x.level = d.level OR x.service = d.service', 'x.ts <= d.since');
	my $key = pick("date_bin(make_interval(mins => d.k), x.ts, d.since)", 'floor(extract(epoch from x.ts)/(60 * d.k))*60*d.k',
		"date_bin('1 hour', x.ts, d.since)", "coalesce(x.level, d.level)", "x.level = d.level", 'x.level || d.k', 'x.service',
		"date_trunc(CASE WHEN d.k % 2 = 0 THEN 'hour' ELSE 'day' END, x.ts)", 'd.k', $self->bucket('x'));
	my $agg = pick('count(*)', 'count(*)', 'sum(length(x.message) + d.k)', 'max(x.ts - d.since)',
		'count(*) FILTER (WHERE x.level = d.level)', 'count(*) + d.k', 'string_agg(x.level, d.level ORDER BY x.ts, x.id)',
		"percentile_disc(1.0 / d.k) WITHIN GROUP (ORDER BY length(x.message))", $self->aggregate('x', any_kind()));
	my $having = chance(0.2) ? pick(' HAVING count(*) > d.k', " HAVING max(x.level) > d.level") : '';

	return ("SELECT d.k, s.c1, s.c2 FROM dim d, LATERAL (SELECT $key AS c1, $agg AS c2 FROM \@T\@ x $and ($on) GROUP BY 1$having) s", 'set')
	  if chance(0.5);
	return ("SELECT d.k, s.* FROM dim d LEFT JOIN LATERAL (SELECT $agg AS c1, count(x.level) AS c2 FROM \@T\@ x $and ($on)$having) s ON true", 'set')
	  if chance(0.5);
	return ("SELECT d.k, (SELECT $agg FROM \@T\@ x $and ($on)$having) AS c2 FROM dim d", 'set')
	  if chance(0.6);
	# an aggregate of the outer query
	return ("SELECT d.k, (SELECT count(d.k) FROM \@T\@ x $and x.service = d.service LIMIT 1) FROM dim d GROUP BY d.k, d.service", 'set')
	  if chance(0.2);
	return ("SELECT d.k, s.c1, s.c2 FROM dim d, LATERAL (SELECT x.service AS c1, $agg AS c2 FROM \@T\@ x $and ($on)"
		  . " GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 2) s", 'set');
}

sub shape_group_cursor
{
	my ($self) = @_;
	my ($sql, $nkeys) = $self->grouped('t', keys => [
		map { $self->group_key('t') } 1 .. pick(1, 2) ]);
	my @sql = ('DECLARE c1 ' . pick('', 'SCROLL ', 'NO SCROLL ') . "CURSOR FOR $sql ORDER BY " .
		join(', ', map { $_ . LogqQueries::direction() } 1 .. $nkeys));

	push @sql, pick('FETCH', 'FETCH', 'MOVE') . ' ' . between(1, 9) . ' FROM c1'
	  foreach 1 .. between(1, 5);
	push @sql, 'FETCH BACKWARD 3 FROM c1', 'FETCH LAST FROM c1' if $sql[0] =~ /^DECLARE c1 SCROLL/;
	push @sql, 'FETCH ALL FROM c1' if chance(0.4);
	push @sql, 'CLOSE c1' if chance(0.7);
	$self->{now} = 1;	# needs a transaction
	return (\@sql, 'list');
}

# functions, several times, so that their plans become generic ones
sub shape_group_function
{
	my ($self) = @_;
	my $f = pick('f_groups', 'f_groups', 'f_total', 'f_histogram', 'f_dynamic_groups');
	my $level = sub { return quote(pick(@{ $self->{pool}{level} }, undef)); };
	my $time = sub { return quote($self->edge) . '::timestamptz'; };
	my $step = sub { return "interval '" . pick('1 minute', '7 minutes', '1 hour', '1 day') . "'"; };
	my @calls = map {
		$f eq 'f_groups' ? "SELECT f_groups_\@N\@(" . join(', ', $step->(), $time->(), $level->()) . ')'
		: $f eq 'f_total' ? "SELECT f_total_\@N\@(" . $level->() . ', ' . quote(pick(@{ $self->{pool}{service} }, undef)) . ')'
		: $f eq 'f_histogram' ? 'SELECT h.* FROM f_histogram_@N@(' . join(', ', $step->(), $time->(), $time->()) . ') h' .
		  pick('', " WHERE h.level = 'ERROR'", ' WHERE h.n > 3') . ' ORDER BY 1, 2'
		: "SELECT f_dynamic_groups('\@T\@', " . quote(pick('level', 'service', "date_trunc('hour', ts)", 'ts::date')) . ', ' . $time->() . ')'
	} 1 .. 7;

	return ("SELECT d.k, f_total_\@N\@(d.level, d.service) FROM dim d", 'set')
	  if $f eq 'f_total' && chance(0.4);
	return (\@calls, 'list');
}

# What Grafana's macros become, word for word, and what its builder writes
sub shape_grafana
{
	my ($self) = @_;
	my ($from, $to) = map { /BC/ ? '2024-03-10T00:00:00Z' : s/ /T/r =~ s/(\.000000)?\+00$/Z/r } $self->edges;
	my $hour = pick(@{ $self->{hours} });
	my ($from_epoch, $to_epoch) = ($hour, $hour + pick(300, 3600, 21600));
	my $n = pick(1, 10, 60, 300, 300, 600, 3600, 86400);
	my $metric = pick('level', 'service');
	my $time_filter = "ts BETWEEN '$from' AND '$to'";
	my $group = "floor(extract(epoch from ts)/$n)*$n";
	my $in = "level IN ('ERROR','FATAL','INFO')";
	my $value = "CASE WHEN jsonb_typeof(attrs->'n') = 'number' THEN (attrs->>'n')::numeric END";
	my $epochs = "(SELECT extract(epoch from ts) AS e, extract(epoch from ts) * 1000000000 AS ns, level, service, id FROM \@T\@) s";

	return pick(
		# $__time, $__timeEpoch, $__timeFilter, $__timeFrom, $__timeTo
		sub { ("SELECT ts AS \"time\", message, level, id FROM \@T\@ WHERE $time_filter ORDER BY ts DESC, id DESC LIMIT 100", 'list') },
		sub { ("SELECT extract(epoch from ts) as \"time\", level FROM \@T\@ WHERE $time_filter", 'set') },
		sub { ("SELECT ts AS \"time\", id FROM \@T\@ WHERE ts > '$from' AND ts <= '$to' ORDER BY 1, 2", 'list') },
		# $__timeGroup, $__timeGroupAlias
		sub { ("SELECT $group AS \"time\", $metric AS metric, count(*) AS value FROM \@T\@ WHERE $time_filter GROUP BY 1, 2 ORDER BY 1, 2", 'list') },
		sub { ("SELECT $group AS \"time\", count(*) AS \"errors\" FROM \@T\@ WHERE $time_filter AND level = 'ERROR' GROUP BY 1 ORDER BY 1", 'list') },
		sub { ("SELECT $group AS \"time\", count(*) FROM \@T\@ WHERE $time_filter GROUP BY time ORDER BY time", 'list') },
		sub { ("SELECT $group AS \"time\", $metric AS metric, count(*) FROM \@T\@ WHERE $time_filter AND $in GROUP BY $group, $metric ORDER BY $group, $metric", 'list') },
		sub { ("SELECT $group AS \"time\", " . pick("avg($value)", "max(length(message))", "percentile_disc(0.95) WITHIN GROUP (ORDER BY length(message))") .
			  " AS value FROM \@T\@ WHERE $time_filter AND service IN ('web') GROUP BY 1 ORDER BY 1", 'list') },
		sub { ("SELECT date_trunc('minute', ts) AS \"time\", count(*) FROM \@T\@ WHERE ts >= '$from' AND ts < '$to' GROUP BY 1 ORDER BY 1", 'list') },
		# $__unixEpochFilter, $__unixEpochNanoFilter, $__unixEpochGroup
		sub { ("SELECT e AS \"time\", level, id FROM $epochs WHERE e >= $from_epoch AND e <= $to_epoch ORDER BY 1, 3", 'list') },
		sub { ("SELECT floor((e)/$n)*$n AS \"time\", $metric AS metric, count(*) FROM $epochs WHERE e >= $from_epoch AND e <= $to_epoch GROUP BY 1, 2 ORDER BY 1, 2", 'list') },
		sub { ("SELECT floor((ns)/$n)*$n, count(*) FROM $epochs WHERE ns >= ${from_epoch}000000000 AND ns <= ${to_epoch}000000000 GROUP BY 1 ORDER BY 1", 'list') },
		# the builder, variables, discovery, annotations
		sub { ("SELECT COUNT(*) AS \"count\", $metric FROM \@T\@ WHERE ($time_filter) GROUP BY $metric ORDER BY $metric ASC LIMIT 50", 'list') },
		sub { ("SELECT " . pick('AVG', 'MIN', 'MAX', 'SUM', 'COUNT') . "(id), $metric FROM \@T\@ GROUP BY $metric ORDER BY $metric LIMIT 50", 'list') },
		sub { ("SELECT DISTINCT $metric FROM \@T\@ WHERE $metric IS NOT NULL ORDER BY $metric LIMIT 100", 'list') },
		sub { ("SELECT DISTINCT $metric AS __text, $metric AS __value FROM \@T\@ WHERE $time_filter AND $metric LIKE '%'", 'set') },
		sub { ("SELECT ts AS time, message AS text, level AS tags FROM \@T\@ WHERE $time_filter AND level IN ('FATAL') ORDER BY ts", 1) },
		sub { ("SELECT $group AS time, max(ts) AS timeend, count(*)::text AS text, string_agg(DISTINCT service, ',' ORDER BY service) AS tags FROM \@T\@ WHERE $time_filter GROUP BY 1 ORDER BY 1", 'list') }
	)->();
}

# One that fails if it sees a certain row, and overflows that only the sum of
# all parts has: it does so everywhere, in the same way, or nowhere
sub shape_overflow
{
	my ($self) = @_;
	my ($bad, $is_aggregate) = $self->failing('t');
	my $where = $self->any_where('t');
	my @keys = map { $self->count_key('t') } 1 .. pick(0, 1, 1, 2);
	my $n = 0;

	$self->{may_fail} = 1;
	push @keys, $bad unless $is_aggregate;
	return ('SELECT ' . join(', ', map { "$_ AS c" . ++$n } @keys, pick('count(*)', "max(t.level)"),
			$is_aggregate ? $bad : ()) . " FROM \@T\@ t $where" .
		  (@keys ? ' GROUP BY ' . join(', ', 1 .. @keys) : ''), 'set');
}

1;
