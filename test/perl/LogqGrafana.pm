# What Grafana's PostgreSQL data source sends: its macros as the data source
# expands them, and whole queries of panels, variables, annotations and of its
# editors.  docs/grafana.md explains them to users.
#
#   foreach my $q (LogqGrafana::queries(from => 1711843200, to => 1711846800))
#   {
#       $q->{name}       what it is for
#       $q->{macro}      the macro that it shows, if any
#       $q->{raw}        as one writes it in Grafana
#       $q->{sql}        as it arrives here
#       $q->{columns}    [[name, kind], ...]: time, number, string, json or boolean
#       $q->{format}     time_series, table, annotation, variable or meta
#       $q->{params}     values of $1, ...: over the extended protocol only
#       $q->{statements} several: over the simple protocol only
#       $q->{counts}     true when it is answered by counts of groups alone
#       $q->{ranged}     true when its time range leaves out segments
#   }
#
# Panels are sent over the simple protocol, as text; the queries of the newer
# schema API over the extended one.  Rows of a time series come in ascending
# order of time, or Grafana refuses them.

package LogqGrafana;

use strict;
use warnings;

use File::Basename qw(dirname);
use POSIX qw(floor strftime);

my $top = dirname(__FILE__) . '/../..';

# A block of a document, as it stands there
sub block
{
	my ($file, $heading, $begins) = @_;
	my $text = do { local (@ARGV, $/) = ("$top/$file"); <> };

	$text =~ /^##+ \Q$heading\E\n(.*?)(?=^##|\z)/ms or die "no \"$heading\" in $file";
	foreach my $block ($1 =~ /^```sql\n(.*?)^```/msg)
	{
		return $block if $block =~ $begins;
	}
	die "no such block of $heading in $file";
}

# SQL that makes the schema "local" with the rows of logq.logs in a plain table,
# the views for Grafana and these functions over it, for role grafana
sub local_schema
{
	my (@functions) = @_;
	my $list = join ', ', map { "'$_'" } @functions;
	my $names = join '|', 'logs', 'grafana_\w+', @functions;

	return <<"SQL";
CREATE SCHEMA local;
CREATE TABLE local.logs AS SELECT * FROM logq.logs;
ANALYZE local.logs;
DO \$\$
DECLARE
	statement text;
BEGIN
	FOREACH statement IN ARRAY ARRAY[
		'CREATE VIEW logq.grafana_logs AS ' || pg_get_viewdef('logq.grafana_logs'::regclass),
		'CREATE VIEW logq.grafana_annotations AS ' || pg_get_viewdef('logq.grafana_annotations'::regclass)]
		|| ARRAY(SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'logq'::regnamespace
			AND proname IN ($list) ORDER BY proname <> 'matching', oid)
	LOOP
		EXECUTE regexp_replace(statement, '\\mlogq\\.($names)\\M', 'local.\\1', 'g');
	END LOOP;
END \$\$;
CREATE VIEW local.grafana_missing AS SELECT * FROM local.grafana_logs WHERE false;
GRANT USAGE ON SCHEMA local TO grafana;
GRANT SELECT ON ALL TABLES IN SCHEMA local TO grafana;
SQL
}

# ---------- macros ----------

# A time in seconds, perhaps with a fraction of milliseconds, as Go's RFC3339Nano
# writes it.
sub rfc3339
{
	my ($t) = @_;
	my $ms = floor($t * 1000 + 0.5);
	my $text = strftime('%Y-%m-%dT%H:%M:%S', gmtime(floor($ms / 1000)));
	my $fraction = sprintf('%03d', $ms % 1000);

	$fraction =~ s/0+$//;
	return $text . ($fraction eq '' ? '' : ".$fraction") . 'Z';
}

# seconds of '5m', '1h', '500ms', '1d'
sub seconds
{
	my ($text) = @_;
	my %unit = (ms => 0.001, s => 1, m => 60, h => 3600, d => 86400, w => 7 * 86400,
		M => 30 * 86400, y => 365 * 86400);

	$text =~ /^(\d+(?:\.\d+)?)(ms|[smhdwMy])$/ or die "not an interval: $text";
	return $1 * $unit{$2};
}

# A number as Go's %v writes it: from a million on, and below a ten-thousandth,
# with an exponent
sub go_number
{
	my ($n) = @_;

	return sprintf('%.15g', $n) if $n < 1e6 && $n >= 1e-4;
	return sprintf('%.14e', $n) =~ s/0+e/e/r =~ s/\.e/e/r;
}

# One macro, of a name and arguments, in a time range
sub macro
{
	my ($name, $range, @args) = @_;
	my ($from, $to) = @$range{qw(from to)};
	my $nano = sub { sprintf('%.0f000000', $_[0] * 1000) };

	if ($name eq '__timeGroup' || $name eq '__unixEpochGroup')
	{
		my $s = go_number(seconds($args[1] =~ s/^'+|'+$//gr));
		my $c = $name eq '__timeGroup' ? "extract(epoch from $args[0])" : "($args[0])";

		# the fill mode, should there be a third, is for Grafana
		return "floor($c/$s)*$s";
	}
	return macro($1, $range, @args) . ' AS "time"' if $name =~ /^(__timeGroup|__unixEpochGroup)Alias$/;
	return {
		__time => sub { "$args[0] AS \"time\"" },
		__timeEpoch => sub { "extract(epoch from $args[0]) as \"time\"" },
		__timeFilter => sub { "$args[0] BETWEEN '" . rfc3339($from) . "' AND '" . rfc3339($to) . "'" },
		__timeFrom => sub { "'" . rfc3339($from) . "'" },
		__timeTo => sub { "'" . rfc3339($to) . "'" },
		__unixEpochFilter => sub { "$args[0] >= " . floor($from) . " AND $args[0] <= " . floor($to) },
		__unixEpochNanoFilter => sub { "$args[0] >= " . $nano->($from) . " AND $args[0] <= " . $nano->($to) },
		__unixEpochFrom => sub { floor($from) },
		__unixEpochTo => sub { floor($to) },
		__unixEpochNanoFrom => sub { $nano->($from) },
		__unixEpochNanoTo => sub { $nano->($to) },
	}->{$name}->();
}

# The value of a variable as Grafana writes it.  Without a format it is the data
# source that does: a list of literals of several values, of a single one the value
# with quotes doubled.  A reference to a text is what "All" stands for, which is
# taken as it is.
sub format_value
{
	my ($v, $format) = @_;
	my @list = ref $v eq 'ARRAY' ? @$v : ($v);
	my $literals = sub { join ',', map { "'" . s/'/''/gr . "'" } @list };

	return $$v if ref $v eq 'SCALAR';
	return ref $v ? $literals->() : $v =~ s/'/''/gr if !defined $format;
	return $literals->() if $format eq 'sqlstring';
	return join ',', @list if $format eq 'raw' || $format eq 'csv';
	return join '|', @list if $format eq 'pipe';
	return join ' + ', @list if $format eq 'text';
	return join ',', map { "'" . s/'/\\'/gr . "'" } @list if $format eq 'singlequote';
	return join ',', map { '"' . s/"/\\"/gr . '"' } @list if $format eq 'doublequote';
	die "no such format: $format";
}

# $name, ${name}, ${name:format} and the old [[name]], each once, from left to
# right: what a value brings is not looked at again.
our $reference = qr/\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?:\.[^:}]+)?(?::([^}]+))?\}/;

sub interpolate
{
	my ($raw, $variables) = @_;

	return $raw =~ s{$reference}{
		my ($all, $name, $format) = ($&, $1 // $2 // $4, $3 // $5);
		exists $variables->{$name} ? format_value($variables->{$name}, $format) : $all }gexr;
}

# expand($raw, from => $t, to => $t, interval => '1m', variables => { level =>
# ['ERROR', 'WARN'], service => 'web' }): what the data source makes of a query.
sub expand
{
	my ($raw, %range) = @_;
	my $sql = interpolate($raw, $range{variables} // {});
	my $interval = $range{interval} // '1m';
	my $ms = 1000 * seconds($interval);
	$sql =~ s/\$__interval_ms/$ms/g;
	$sql =~ s/\$__interval/$interval/g;
	# with a comma behind it, it gets a name
	$sql =~ s/\$__timeGroup(\([^\)]*\)),/\$__timeGroupAlias$1,/g;
	$sql =~ s/\$([_a-zA-Z0-9]+)\(([^\)]*)\)/
		macro($1, \%range, map { s|^ +| |r =~ s|^ +||r =~ s| +$||r } split(m|,|, $2, -1))/gex;
	return $sql;
}

# ---------- queries ----------

# The tables and columns as the editor looks for them
my $in_search_path = <<'SQL' =~ s/\n$//r;

          quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          )
SQL
my $tables = <<"SQL" =~ s/\n$//r;
SELECT
    CASE WHEN $in_search_path
      THEN quote_ident(table_name)
      ELSE quote_ident(table_schema) || '.' || quote_ident(table_name)
    END AS "table"
    FROM information_schema.tables
    WHERE quote_ident(table_schema) NOT IN ('information_schema',
                             'pg_catalog',
                             '_timescaledb_cache',
                             '_timescaledb_catalog',
                             '_timescaledb_internal',
                             '_timescaledb_config',
                             'timescaledb_information',
                             'timescaledb_experimental')
    ORDER BY CASE WHEN $in_search_path THEN 0 ELSE 1 END, 1
SQL
my $schemas = <<'SQL' =~ s/\n$//r;
SELECT schema_name AS "name"
    FROM information_schema.schemata
    WHERE schema_name NOT IN ('information_schema',
                              'pg_catalog',
                              'pg_toast',
                              '_timescaledb_cache',
                              '_timescaledb_catalog',
                              '_timescaledb_internal',
                              '_timescaledb_config',
                              'timescaledb_information',
                              'timescaledb_experimental')
    ORDER BY schema_name
SQL
my $tables_of = <<'SQL' =~ s/\n$//r;
SELECT quote_ident(table_name) AS "table"
      FROM information_schema.tables
      WHERE quote_ident(table_schema) = 'logq'
      ORDER BY 1
SQL
sub columns_of
{
	my ($table) = @_;

	return <<"SQL" =~ s/\n$//r;
SELECT quote_ident(column_name) AS "column", data_type AS "type"
    FROM information_schema.columns
    WHERE
      CASE WHEN array_length(parse_ident('$table'),1) = 2
        THEN quote_ident(table_schema) = (parse_ident('$table'))[1]
          AND quote_ident(table_name) = (parse_ident('$table'))[2]
        ELSE quote_ident(table_name) = '$table'
          AND $in_search_path
      END
SQL
}

# what the newer schema API asks for the values of columns
sub column_values
{
	my ($schema, $table, @columns) = @_;
	my $i = 0;

	return join ' UNION ALL ', map {
		my $n = $i++;
		"SELECT '$_' AS col_name, \"$_\"::text AS val FROM (SELECT DISTINCT \"$_\" FROM \"$schema\".\"$table\""
		  . " WHERE \"$_\" IS NOT NULL ORDER BY \"$_\" LIMIT 100) sub_$n"
	} @columns;
}

my @log_columns = (['time', 'time'], ['message', 'string'], ['level', 'string'], ['id', 'string'],
	['service', 'string'], ['trace_id', 'string'], ['partition', 'string'], ['attrs', 'json']);
my $epoch = 'SELECT extract(epoch FROM ts) AS epoch, extract(epoch FROM ts) * 1000000000 AS nanos, level FROM logq.logs';
my $number = q{CASE WHEN jsonb_typeof(attrs->'ms') = 'number' THEN (attrs->>'ms')::float8 END};

# name, macro, format, query, columns, and what else there is to say of it
my @list = (
	# $__time, $__timeFilter
	['raw rows', '__time', 'table',
		'SELECT $__time(ts), message, level FROM logq.logs WHERE $__timeFilter(ts) ORDER BY ts DESC LIMIT 100',
		[['time', 'time'], ['message', 'string'], ['level', 'string']], ranged => 1],
	['raw values as a series', '__time', 'time_series',
		"SELECT \$__time(ts), $number AS ms FROM logq.logs WHERE \$__timeFilter(ts) ORDER BY ts",
		[['time', 'time'], ['ms', 'number']], ranged => 1],
	['logs panel', '__timeFilter', 'table',
		'SELECT * FROM logq.grafana_logs WHERE $__timeFilter(time) ORDER BY time DESC LIMIT 1000',
		\@log_columns, ranged => 1],
	['logs panel, quoted', '__timeFilter', 'table',
		q{SELECT "time", message, level, id FROM logq.grafana_logs WHERE $__timeFilter("time") AND level = 'ERROR' ORDER BY "time" DESC, id DESC LIMIT 100},
		[@log_columns[0 .. 3]], ranged => 1],
	['logs panel, with what is missing', '__timeFilter', 'table',
		'SELECT * FROM (SELECT * FROM logq.grafana_logs WHERE $__timeFilter(time) ORDER BY time DESC LIMIT 100) l UNION ALL SELECT * FROM logq.grafana_missing',
		\@log_columns, ranged => 1],
	['logs panel, simple variable', '__timeFilter', 'table',
		q{SELECT * FROM logq.grafana_logs WHERE $__timeFilter(time) AND message ILIKE '%$search%' ORDER BY time DESC LIMIT 100},
		\@log_columns, ranged => 1],
	['logs panel, variables of several values', '__timeFilter', 'table',
		'SELECT * FROM logq.grafana_logs WHERE $__timeFilter(time) AND level IN ($level) AND service IN ($service) ORDER BY time DESC LIMIT 100',
		\@log_columns, ranged => 1],
	['count', '__timeFilter', 'table',
		'SELECT count(*) FROM logq.logs WHERE $__timeFilter(ts)', [['count', 'number']], ranged => 1, counts => 1],
	['count over the view', '__timeFilter', 'table',
		q{SELECT count(*) AS errors FROM logq.grafana_logs WHERE $__timeFilter(time) AND level = 'ERROR'},
		[['errors', 'number']], ranged => 1, counts => 1],
	# $__timeEpoch
	['raw rows, seconds', '__timeEpoch', 'table',
		'SELECT $__timeEpoch(ts), message FROM logq.logs WHERE $__timeFilter(ts) ORDER BY ts LIMIT 100',
		[['time', 'number'], ['message', 'string']], ranged => 1],
	# $__timeFrom, $__timeTo
	['top services', '__timeFrom', 'table',
		'SELECT service, count(*) FROM logq.logs WHERE ts >= $__timeFrom() AND ts < $__timeTo() GROUP BY service ORDER BY count(*) DESC LIMIT 10',
		[['service', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['top services over the view', '__timeTo', 'table',
		'SELECT service, level, count(*) FROM logq.grafana_logs WHERE time > $__timeFrom()::timestamptz AND time <= $__timeTo()::timestamptz GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2',
		[['service', 'string'], ['level', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['search', '__timeFrom', 'table',
		q{SELECT ts AS "time", message, level, id::text AS id FROM logq.search($__timeFrom(), $__timeTo(), level => 'ERROR', max_rows => 500)},
		[@log_columns[0 .. 3]], ranged => 1],
	# $__timeGroup and its like
	['by level', '__timeGroup', 'time_series',
		q{SELECT $__timeGroup(ts,'1m') AS time, level AS metric, count(*) AS count FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1},
		[['time', 'number'], ['metric', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['over the view', '__timeGroup', 'time_series',
		q{SELECT $__timeGroup("time",$__interval), count(*) FROM logq.grafana_logs WHERE $__timeFilter("time") GROUP BY 1 ORDER BY 1},
		[['time', 'number'], ['count', 'number']], ranged => 1, counts => 1],
	['repeated', '__timeGroup', 'time_series',
		q{SELECT $__timeGroup(ts,'5m') AS "time", count(*) AS rows FROM logq.logs WHERE $__timeFilter(ts) GROUP BY $__timeGroup(ts,'5m') ORDER BY $__timeGroup(ts,'5m')},
		[['time', 'number'], ['rows', 'number']], ranged => 1, counts => 1],
	['filled with 0', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,'5m',0), service AS metric, count(*) AS count FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1},
		[['time', 'number'], ['metric', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['filled with NULL', '__timeGroupAlias', 'time_series',
		"SELECT \$__timeGroupAlias(ts,\$__interval,NULL), avg($number) AS ms, max($number) AS longest FROM logq.logs WHERE \$__timeFilter(ts) GROUP BY 1 ORDER BY 1",
		[['time', 'number'], ['ms', 'number'], ['longest', 'number']], ranged => 1],
	['filled with what was before', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,'1h',previous), count(*) FILTER (WHERE level = 'ERROR') AS errors, count(*) AS all FROM logq.logs WHERE $__timeFilter(ts) AND service IN ($service) GROUP BY 1 ORDER BY 1},
		[['time', 'number'], ['errors', 'number'], ['all', 'number']], ranged => 1, counts => 1],
	['by a key of attrs', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,'10m'), attrs->>'status' AS metric, count(*) AS count FROM logq.logs WHERE $__timeFilter(ts) AND attrs->>'status' IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2},
		[['time', 'number'], ['metric', 'string'], ['count', 'number']], ranged => 1],
	['less than a second', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,'500ms'), count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
		[['time', 'number'], ['count', 'number']], ranged => 1],
	['days', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,'1d'), level, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1},
		[['time', 'number'], ['level', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['a month', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,'30d'), count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
		[['time', 'number'], ['count', 'number']], ranged => 1, counts => 1],
	['share of errors', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(ts,$__interval), 100.0 * count(*) FILTER (WHERE level = 'ERROR') / count(*) AS percent FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 HAVING count(*) > 1 ORDER BY 1},
		[['time', 'number'], ['percent', 'number']], ranged => 1, counts => 1],
	['percentile', '__timeGroupAlias', 'time_series',
		"SELECT \$__timeGroupAlias(ts,\$__interval), percentile_cont(0.95) WITHIN GROUP (ORDER BY $number) AS p95 FROM logq.logs WHERE \$__timeFilter(ts) GROUP BY 1 ORDER BY 1",
		[['time', 'number'], ['p95', 'number']], ranged => 1],
	['variables of several values', '__timeGroupAlias', 'time_series',
		q{SELECT $__timeGroupAlias(time,$__interval), level AS metric, count(*) AS count FROM logq.grafana_logs WHERE $__timeFilter(time) AND level IN ($level) AND service IN ($service) GROUP BY 1, 2 ORDER BY 1},
		[['time', 'number'], ['metric', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	# $__unixEpoch...: there is no column of seconds, so it is made in a sub-select
	['seconds', '__unixEpochFilter', 'table',
		"SELECT level, count(*) FROM ($epoch) l WHERE \$__unixEpochFilter(epoch) GROUP BY 1 ORDER BY 1",
		[['level', 'string'], ['count', 'number']]],
	['nanoseconds', '__unixEpochNanoFilter', 'table',
		"SELECT level, count(*) FROM ($epoch) l WHERE \$__unixEpochNanoFilter(nanos) GROUP BY 1 ORDER BY 1",
		[['level', 'string'], ['count', 'number']]],
	['from seconds to seconds', '__unixEpochFrom', 'table',
		'SELECT level, count(*) FROM logq.logs WHERE ts >= to_timestamp($__unixEpochFrom()) AND ts < to_timestamp($__unixEpochTo()) GROUP BY 1 ORDER BY 1',
		[['level', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['to seconds', '__unixEpochTo', 'table',
		'SELECT count(*) FROM logq.grafana_logs WHERE time <= to_timestamp($__unixEpochTo())',
		[['count', 'number']], ranged => 1, counts => 1],
	['from nanoseconds to nanoseconds', '__unixEpochNanoFrom', 'table',
		'SELECT level, count(*) FROM logq.logs WHERE ts >= to_timestamp($__unixEpochNanoFrom() / 1000000000.0) AND ts < to_timestamp($__unixEpochNanoTo() / 1000000000.0) GROUP BY 1 ORDER BY 1',
		[['level', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['to nanoseconds', '__unixEpochNanoTo', 'table',
		'SELECT count(*) FROM logq.logs WHERE ts < to_timestamp($__unixEpochNanoTo() / 1000000000.0)',
		[['count', 'number']], ranged => 1, counts => 1],
	['groups of seconds', '__unixEpochGroup', 'time_series',
		"SELECT \$__unixEpochGroup(epoch,'5m') AS time, count(*) FROM ($epoch WHERE \$__timeFilter(ts)) l WHERE \$__unixEpochFilter(epoch) GROUP BY 1 ORDER BY 1",
		[['time', 'number'], ['count', 'number']], ranged => 1],
	['groups of seconds, named', '__unixEpochGroupAlias', 'time_series',
		"SELECT \$__unixEpochGroupAlias(epoch,\$__interval,0), level AS metric, count(*) AS count FROM ($epoch WHERE \$__timeFilter(ts)) l GROUP BY 1, 2 ORDER BY 1",
		[['time', 'number'], ['metric', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	# $__interval, $__interval_ms
	['bins', '__interval', 'time_series',
		q{SELECT date_bin('$__interval', ts, $__timeFrom()) AS time, level, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1},
		[['time', 'time'], ['level', 'string'], ['count', 'number']], ranged => 1],
	['milliseconds', '__interval_ms', 'time_series',
		'SELECT floor(extract(epoch from ts)*1000/$__interval_ms)*$__interval_ms/1000 AS time, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1',
		[['time', 'number'], ['count', 'number']], ranged => 1, counts => 1],
	['histogram', '__interval', 'time_series',
		q{SELECT bucket AS time, coalesce(value, 'none') AS metric, count FROM logq.histogram('$__interval', $__timeFrom(), $__timeTo(), by => 'level') ORDER BY 1},
		[['time', 'time'], ['metric', 'string'], ['count', 'number']], ranged => 1, counts => 1],
	['hours in a time zone', undef, 'time_series',
		q{SELECT date_trunc('hour', ts, 'Europe/Berlin') AS time, count(*) FROM logq.logs WHERE $__timeFilter(ts) GROUP BY 1 ORDER BY 1},
		[['time', 'time'], ['count', 'number']], ranged => 1, counts => 1],
	# variables
	['services, at any time', undef, 'variable', 'SELECT DISTINCT service FROM logq.logs WHERE service IS NOT NULL ORDER BY 1',
		[['service', 'string']], counts => 1],
	['levels, at any time', undef, 'variable', 'SELECT DISTINCT level FROM logq.grafana_logs', [['level', 'string']], counts => 1],
	['services of the time range', '__timeFilter', 'variable',
		'SELECT DISTINCT service FROM logq.grafana_logs WHERE $__timeFilter(time) ORDER BY service', [['service', 'string']],
		ranged => 1, counts => 1],
	['services of which somebody types the beginning', '__searchFilter', 'variable',
		q{SELECT DISTINCT service FROM logq.logs WHERE service LIKE '$__searchFilter' ORDER BY 1}, [['service', 'string']]],
	['values with their counts', '__timeFrom', 'variable',
		q{SELECT value AS __value, value || ' (' || count || ')' AS __text FROM logq.field_values('service', $__timeFrom(), $__timeTo())},
		[['__value', 'string'], ['__text', 'string']], ranged => 1, counts => 1],
	['names of fields', '__timeFrom', 'variable', 'SELECT field FROM logq.field_names($__timeFrom(), $__timeTo())',
		[['field', 'string']], ranged => 1],
	['facets', '__timeFrom', 'table', q{SELECT * FROM logq.facets($__timeFrom(), $__timeTo(), keys => '{status}')},
		[['field', 'string'], ['value', 'string'], ['count', 'number']], ranged => 1],
	# annotations
	['annotations', '__timeFilter', 'annotation',
		q{SELECT time, timeend, text, tags FROM logq.grafana_annotations WHERE $__timeFilter(time) AND level = 'ERROR' ORDER BY time DESC LIMIT 100},
		[['time', 'time'], ['timeend', 'time'], ['text', 'string'], ['tags', 'string']], ranged => 1],
	['annotations of seconds', '__timeEpoch', 'annotation',
		q{SELECT $__timeEpoch(ts), message AS text, concat_ws(',', level, service) AS tags FROM logq.logs WHERE $__timeFilter(ts) AND level IN ('ERROR', 'FATAL') ORDER BY ts LIMIT 100},
		[['time', 'number'], ['text', 'string'], ['tags', 'string']], ranged => 1],
	['annotations with an end', '__timeFilter', 'annotation',
		q{SELECT min(ts) AS time, max(ts) AS timeend, 'trace ' || trace_id AS text, trace_id AS tags FROM logq.logs WHERE $__timeFilter(ts) AND level = 'ERROR' GROUP BY trace_id ORDER BY 1 LIMIT 20},
		[['time', 'time'], ['timeend', 'time'], ['text', 'string'], ['tags', 'string']], ranged => 1],
	# the builder
	['builder, a table', undef, 'table', q{SELECT message, level, "time" FROM logq.grafana_logs WHERE level = 'ERROR' ORDER BY "time" DESC LIMIT 50},
		[['message', 'string'], ['level', 'string'], ['time', 'time']]],
	['builder, an aggregate', undef, 'table', 'SELECT COUNT(message), level FROM logq.grafana_logs GROUP BY level LIMIT 50',
		[['count', 'number'], ['level', 'string']]],
	['builder, several', undef, 'table',
		q{SELECT MAX("time"), MIN("time"), service FROM logq.grafana_logs WHERE (level = 'ERROR' OR level = 'WARN') GROUP BY service ORDER BY service ASC LIMIT 50},
		[['max', 'time'], ['min', 'time'], ['service', 'string']]],
	['builder, numbers', undef, 'table',
		'SELECT AVG(id), COUNT(id), MAX(id), MIN(id), SUM(id), level FROM logq.logs GROUP BY level ORDER BY level ASC LIMIT 50',
		[(map { [$_, 'number'] } qw(avg count max min sum)), ['level', 'string']]],
	# several statements
	['a setting ahead', '__timeFilter', 'table',
		'SET logq.partial_results = off; SELECT count(*) FROM logq.logs WHERE $__timeFilter(ts)',
		[['count', 'number']], ranged => 1, counts => 1, statements => 2],
	# the editors
	['version', undef, 'meta', q{SELECT current_setting('server_version_num')::int/100 as version}, [['version', 'number']]],
	['TimescaleDB', undef, 'meta', q{SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'}, [['extversion', 'string']]],
	['schemas', undef, 'meta', $schemas, [['name', 'string']]],
	['tables', undef, 'meta', $tables, [['table', 'string']]],
	['tables of one schema', undef, 'meta', $tables_of, [['table', 'string']]],
	['columns', undef, 'meta', columns_of('logq.grafana_logs'), [['column', 'string'], ['type', 'string']]],
	['names of schemas', undef, 'meta',
		"SELECT schema_name FROM information_schema.schemata\n\t\t WHERE schema_name NOT LIKE 'pg_%' AND schema_name != 'information_schema'\n\t\t ORDER BY schema_name",
		[['schema_name', 'string']], params => []],
	['tables of a schema', undef, 'meta',
		"SELECT table_name FROM information_schema.tables\n\t\t WHERE table_schema = \$1 AND table_type IN ('BASE TABLE', 'VIEW')\n\t\t ORDER BY table_name",
		[['table_name', 'string']], params => ['logq']],
	['columns of a table', undef, 'meta',
		"SELECT column_name, data_type, udt_name, numeric_precision, numeric_scale\n\t\t FROM information_schema.columns\n\t\t WHERE table_schema = \$1 AND table_name = \$2\n\t\t ORDER BY ordinal_position",
		[['column_name', 'string'], ['data_type', 'string'], ['udt_name', 'string'], ['numeric_precision', 'number'],
			['numeric_scale', 'number']], params => ['logq', 'grafana_logs']],
	['values of columns', undef, 'meta', column_values('logq', 'grafana_logs', 'level', 'service', 'partition'),
		[['col_name', 'string'], ['val', 'string']], params => [], counts => 1],
	['values of all columns', undef, 'meta', column_values('logq', 'grafana_logs', map { $_->[0] } @log_columns),
		[['col_name', 'string'], ['val', 'string']], params => []],
);

# queries(from => $seconds, to => $seconds, [interval => '1m'], [variables =>
# {...}]): all of them, for a time range
sub queries
{
	my %range = (interval => '1m',
		variables => { level => ['ERROR', 'WARN'], service => ['web', q{it's}], search => q{can't} }, @_);
	my @queries;

	foreach my $entry (@list)
	{
		my ($name, $macro, $format, $raw, $columns, %more) = @$entry;

		# what somebody types into a variable's list, and a wildcard
		my $sql = expand($raw =~ s/\$__searchFilter/$range{search_filter} \/\/ 'we%'/er, %range);
		push @queries, {
			name => $name, macro => $macro, format => $format, columns => $columns, raw => $raw,
			sql => $format eq 'meta' ? $raw : $sql, %more
		};
	}
	return @queries;
}

# the names of all macros: each has a query
sub macros
{
	return qw(__time __timeEpoch __timeFilter __timeFrom __timeTo __timeGroup __timeGroupAlias
	  __unixEpochFilter __unixEpochFrom __unixEpochTo __unixEpochNanoFilter __unixEpochNanoFrom
	  __unixEpochNanoTo __unixEpochGroup __unixEpochGroupAlias __interval __interval_ms);
}

# kind($type): what Grafana makes of a type of PostgreSQL
sub kind
{
	my ($type) = @_;

	return 'time' if $type =~ /^(timestamp|date)/;
	return 'number' if $type =~ /^(smallint|integer|bigint|real|double precision|numeric|information_schema\.cardinal_number)/;
	return 'boolean' if $type eq 'boolean';
	return 'json' if $type =~ /^jsonb?$/;
	return 'string';
}

1;
