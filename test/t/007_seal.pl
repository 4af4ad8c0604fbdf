# Sealing: what it says of a segment is exact, and no write slips by.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

# sealings that began are counted in the partitions' logs
my $c = LogqTest->new(partitions => 3, conf => ["log_statement = 'all'"]);
my $p1 = $c->part('p1');
my $hour = 0;

# ---------- helpers ----------

# A segment of its own on a partition, with these rows; returns its name.
# %s in the SQL is the time of its beginning.
sub segment
{
	my ($sql, $part) = @_;
	my $from = sprintf "2025-%02d-%02d %02d:00+00", 1 + int($hour / 600),
	  1 + int($hour % 600 / 24), $hour % 24;

	$hour++;
	$part //= 'p1';
	$c->on($part, "SELECT logq_store.make_segment('$from')");
	$c->on($part, sprintf("SET timezone = 'UTC'; $sql", "'$from'::timestamptz")) if $sql;
	return $c->on($part, "SELECT name FROM logq_store.segment WHERE lower = '$from'");
}

# Some rows for segment()
sub rows
{
	my ($n) = @_;

	return "INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs) "
	  . "SELECT %s + i * interval '1 second', (ARRAY['INFO', 'WARN', 'ERROR', NULL])[1 + i %% 4], "
	  . "'service-' || i %% 7, 'Message number ' || i, md5((i / 3)::text), jsonb_build_object('status', i %% 5, 'user id', 'u' || i) "
	  . "FROM generate_series(1, $n) i";
}

sub late_row
{
	my ($segment, $level) = @_;

	$level //= 'LATE';
	return "INSERT INTO logq_store.log (ts, level, message) SELECT lower + interval '59 minutes', '$level', 'late' FROM logq_store.segment WHERE name = '$segment'";
}

sub seal_sql
{
	my ($segment, $part) = @_;

	return "SELECT partition, segment, rows FROM logq.seal('@{[ $part // 'p1' ]}', '$segment')";
}

# Test: it is sealed, with so many rows
sub seals
{
	my ($segment, $rows, $name, %opt) = @_;
	my $part = $opt{part} // 'p1';
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$c->gives(($opt{set} // '') . seal_sql($segment, $part), "$part|$segment|$rows", $name);
	return;
}

sub state
{
	my ($segment, $part) = @_;

	return $c->on($part // 'p1', "SELECT state FROM logq_store.segment WHERE name = '$segment'");
}

sub version
{
	return $c->on('p1', 'SELECT version FROM logq_store.catalog_version');
}

# Test: all that is said of a sealed segment is what its rows say
sub exact
{
	my ($seg, $name, %opt) = @_;
	my $keys = $opt{keys} // [];
	my $part = $opt{part} // 'p1';
	my @checks = (
		[ 'state', "s.state = 'sealed' AND s.sealing IS NULL AND s.sealed_at <= clock_timestamp()" ],
		[ 'version', 's.version <= (SELECT version FROM logq_store.catalog_version)' ],
		[ 'rows', 's.rows = (SELECT count(*) FROM t)' ],
		[ 'bytes', "s.bytes BETWEEN 0.9 * pg_total_relation_size('logq_store.$seg') AND 1.1 * pg_total_relation_size('logq_store.$seg')" ],
		[ 'odd_case', 's.odd_case = ' . ($opt{odd_case} ? 'true' : 'false') ]);
	my $same = sub {
		my ($label, $said, $true) = @_;

		push @checks, [ $label, "NOT EXISTS ((($said) EXCEPT ALL ($true)) UNION ALL (($true) EXCEPT ALL ($said)))" ];
	};

	foreach my $f ('min', 'max')
	{
		push @checks, [ "${f}_$_", "s.${f}_$_ IS NOT DISTINCT FROM (SELECT $f($_" . ($_ eq 'trace_id' ? ' COLLATE "C"' : '') . ") FROM t)" ]
		  foreach qw(ts id trace_id);
	}
	if ($opt{many_levels})
	{
		push @checks, [ 'no levels', 's.levels IS NULL AND s.level_rows IS NULL AND s.level_rollup IS NULL' ];
	}
	else
	{
		$same->('levels', 'SELECT * FROM unnest(s.levels, s.level_rows)', 'SELECT level, count(*) FROM t GROUP BY 1');
		push @checks, [ 'level_rollup', "s.level_rollup = (SELECT count(*) FROM logq_store.rollup_level WHERE segment = '$seg')" ];
		$same->('rollup by level', "SELECT minute, level, rows FROM logq_store.rollup_level WHERE segment = '$seg'",
			"SELECT date_trunc('minute', ts), level, count(*) FROM t GROUP BY 1, 2");
	}
	if ($opt{many_services})
	{
		push @checks, [ 'no services', 's.services IS NULL AND s.service_rows IS NULL' ];
	}
	else
	{
		$same->('services', 'SELECT * FROM unnest(s.services, s.service_rows)', 'SELECT service, count(*) FROM t GROUP BY 1');
	}
	if ($opt{many_levels} || $opt{many_services})
	{
		push @checks, [ 'no service x level', 's.service_level_rows IS NULL' ];
	}
	else
	{
		push @checks, [ 'size of service x level', 'cardinality(s.service_level_rows) = cardinality(s.services) * cardinality(s.levels)' ];
		$same->('service x level', 'SELECT s.services[1 + (o - 1) / cardinality(s.levels)], s.levels[1 + (o - 1) % cardinality(s.levels)], r FROM unnest(s.service_level_rows) WITH ORDINALITY u(r, o) WHERE r > 0',
			'SELECT service, level, count(*) FROM t GROUP BY 1, 2');
	}
	# by service only if it is much shorter than the segment
	my $groups = "SELECT date_trunc('minute', ts), service, level, count(*) FROM t GROUP BY 1, 2, 3";
	my $kept = $opt{many_levels} || $opt{many_services} ? 'false' :
	  "((SELECT count(*) FROM ($groups) g) <= s.rows / 2)";

	push @checks, [ 'service_rollup', "s.service_rollup IS NOT DISTINCT FROM (SELECT count(*) FROM logq_store.rollup_service WHERE segment = '$seg' HAVING $kept)" ];
	$same->('rollup by service', "SELECT minute, service, level, rows FROM logq_store.rollup_service WHERE segment = '$seg'",
		"SELECT * FROM ($groups) g WHERE $kept");
	# filters: of these fields and no others, each with as many values as there are
	$same->('filters', "SELECT field, distinct_values FROM logq_store.filter WHERE segment = '$seg'",
		join(' UNION ALL ', "SELECT 'trace_id', count(DISTINCT trace_id) FROM t",
			"SELECT 'message', count(DISTINCT lower(w[1])) FROM t, regexp_matches(message, '[A-Za-z0-9_]+', 'g') w WHERE length(w[1]) BETWEEN 2 AND 64",
			($opt{many_services} ? "SELECT 'service', count(DISTINCT service) FROM t" : ()),
			map { "SELECT 'attrs.' || k, count(DISTINCT attrs->>k) FROM t, (SELECT " . LogqTest::lit($_) . "::text) x(k) GROUP BY k" } @$keys));
	push @checks, [ 'bytes of filters', "(SELECT bool_and((filter IS NULL) = (field = '@{[ $opt{no_filter} // '' ]}') AND (sketch IS NULL) = (field = 'message')) FROM logq_store.filter WHERE segment = '$seg')" ];

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($c->on($part, "SET timezone = 'UTC'; WITH t AS (SELECT * FROM logq_store.$seg), s AS (SELECT * FROM logq_store.segment WHERE name = '$seg') SELECT string_agg(label, ', ') FROM s, LATERAL (VALUES "
		  . join(', ', map { "('$_->[0]', $_->[1])" } @checks)
		  . ') v(label, good) WHERE good IS NOT TRUE'), '', $name);
	return;
}

# Wait until logq waits for a session
sub blocked_by
{
	my ($session) = @_;

	$session->blocks('logq') or die 'logq does not wait for the session';
	return;
}

# Wait until a session waits
sub blocked
{
	my ($session) = @_;

	$session->is_blocked or die 'the session does not wait for a lock';
	return;
}

# How often a sealing of the segment has begun on p1
sub beginnings
{
	my ($segment) = @_;
	my $n = () = slurp_file($p1->logfile) =~ /statement:[^\n]*begin_seal\('$segment'\)/g;

	return $n;
}

sub on_p1 { return $c->session(node => $p1); }

# ---------- an old snapshot, which keeps indexes from being built ----------

# begun now, looked at in the end: it takes half a minute
my $stuck = segment(rows(10), 'p3');
my $old = $c->session(node => $c->part('p3'));
my $stuck_sealer = $c->session;
$old->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM logq_store.log");
$stuck_sealer->send(seal_sql($stuck, 'p3'));

# and one who locks what a sealing writes to: a quarter of a minute
my $held = segment(rows(10), 'p2');
my $holder = $c->session(node => $c->part('p2'));
my $held_sealer = $c->session;
$holder->query('BEGIN; LOCK TABLE logq_store.rollup_service IN SHARE MODE');
$held_sealer->send(seal_sql($held, 'p2'));

# ---------- exact ----------

{
	my $keys = "SET logq.bloom_attrs = 'status, \"user id\", none, status'; ";
	my $few = segment(rows(1000));

	seals($few, 1000, 'a segment is sealed', set => $keys);
	exact($few, 'what is said of it is true', keys => [ 'status', 'user id', 'none' ]);

	my $empty = segment('');

	seals($empty, 0, 'an empty segment is sealed');
	exact($empty, 'what is said of it is true');
	is($c->on('p1', "SELECT levels, services, service_level_rows, min_ts, level_rollup FROM logq_store.segment WHERE name = '$empty'"),
		'{}|{}|{}||0', 'it has no levels and services');

	# texts that could break out of a statement or a COPY
	my @odd = ("it's", 'back\\slash', '"', "tab\tline\nend", '%_', '', ' ', '\\N', '\\.', 'NULL', '{a,b}', 'é日本', "\x01", "\$\$", "'); DROP SCHEMA logq_store; --");
	my $array = 'ARRAY[' . join(', ', (map { LogqTest::lit($_) } @odd), 'NULL') . ']::text[]';
	my $n = @odd + 1;
	my $sql = "INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs) SELECT %s + (i %% 3) * interval '1 minute', a[1 + i %% $n], a[1 + i / $n %% $n], a[1 + i %% $n], a[1 + i %% $n], jsonb_build_object('k', a[1 + i %% $n], coalesce(a[1 + i %% $n], 'x'), i) FROM generate_series(0, 3 * $n * $n - 1) i, (SELECT ";

	$array =~ s/%/%%/g;
	my $odd = segment($sql . "$array) v(a)");
	seals($odd, 3 * $n * $n, 'odd texts', set => "SET logq.bloom_attrs = 'k, \"it''s\", \"back\\slash\"'; ");
	exact($odd, 'are themselves in the metadata', keys => [ 'k', "it's", 'back\\slash' ]);

	my $letters = segment("INSERT INTO logq_store.log (ts, message) SELECT %s, chr(8490) || 'elvin'");
	seals($letters, 1, 'a letter whose lower case is ASCII');
	exact($letters, 'makes the segment one of odd case', odd_case => 1);

	# minutes and rollups, at the ends of the segment too
	my $dense = segment("INSERT INTO logq_store.log (ts, level, service) SELECT %1\$s + i * interval '0.9 seconds', 'L' || i %% 3, 's' || i %% 4 FROM generate_series(0, 3999) i; INSERT INTO logq_store.log (ts) VALUES (%1\$s), (%1\$s + interval '1 hour' - interval '1 microsecond'), (%1\$s + interval '59.999999 seconds')");
	seals($dense, 4003, 'many rows a minute');
	exact($dense, 'have rollups');

	# before 2000 the wire has negative numbers
	$c->on('p1', "SELECT logq_store.make_segment('1969-12-31 23:10+00'); INSERT INTO logq_store.log (ts, level, service) SELECT '1969-12-31 23:59:59.999999+00'::timestamptz - i * interval '7 seconds', 'old', 'old' FROM generate_series(0, 400) i");
	seals('log_19691231_230000', 401, 'a segment before 1970');
	exact('log_19691231_230000', 'is summarised as others are');
	is($c->on('p1', "SELECT bool_and(rows > 0) FROM logq_store.segment WHERE name = 'log_19691231_230000'"), 't', 'and has rows');

	my $many = segment("INSERT INTO logq_store.log (ts, level, service) SELECT %s + i * interval '1 second', CASE WHEN i %% 9 > 0 THEN 'L' || i %% 3 END, CASE WHEN i %% 10 > 0 THEN 's' || i END FROM generate_series(1, 3000) i");
	seals($many, 3000, 'too many services');
	exact($many, 'have a filter', many_services => 1);
	$many = segment("INSERT INTO logq_store.log (ts, level, service) SELECT %s + i * interval '1 second', 'L' || i %% 65, 's' || i %% 2 FROM generate_series(1, 3000) i");
	seals($many, 3000, 'too many levels');
	exact($many, 'are not listed', many_levels => 1);

	my $uuid = segment("INSERT INTO logq_store.log (ts, trace_id) SELECT t, lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '7abc8' || lpad(to_hex(i), 15, '0') FROM (SELECT %s + i * interval '1 second', i FROM generate_series(1, 3000) i) s(t, i)");
	seals($uuid, 3000, 'trace_ids that carry the time');
	exact($uuid, 'need no filter', no_filter => 'trace_id');

	# a later sealing does not leave anything of an earlier one
	$c->on('p1', "DELETE FROM logq_store.$few WHERE level = 'WARN'; " . late_row($few));
	seals($few, 751, 'sealed again');
	exact($few, 'with other rows and keys');
}

# ---------- indexes ----------

{
	my $valid = sub {
		return $c->on('p1', "SELECT string_agg(def, ', ' ORDER BY def) FROM pg_index, regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', '') def WHERE indrelid = 'logq_store.$_[0]'::regclass AND indisvalid");
	};
	my $all = 'btree (level, ts, id), btree (service, level, ts, id), btree (ts, id), hash (trace_id)';
	my $seg = segment(rows(100));

	# one that an earlier sealing has left
	$c->on('p1', "SET ROLE logq; CREATE INDEX ${seg}_level_ts_id_idx ON logq_store.$seg (ts)");
	$c->on('p1', "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'logq_store.${seg}_level_ts_id_idx'::regclass");
	seals($seg, 100, 'where an index was left invalid');
	is($valid->($seg), $all, 'it is built again');
	$c->on('p1', late_row($seg));
	seals($seg, 101, 'sealed again');
	is($valid->($seg), $all, 'there are as many indexes as before');

	# values that do not fit into an index
	$seg = segment("INSERT INTO logq_store.log (ts, level, service) SELECT %s, 'INFO', string_agg(md5(i::text), '') FROM generate_series(1, 1000) i");
	seals($seg, 1, 'a service of 32000 characters');
	is($valid->($seg), 'btree (level, ts, id), btree (ts, id), hash (trace_id)', 'is not indexed');
	is($c->on('p1', "SELECT count(*) FROM pg_index WHERE indrelid = 'logq_store.$seg'::regclass AND NOT indisvalid"), 0,
		'nothing invalid is left');

	my $trigrams = 'SET logq.seal_trigrams = on; ';

	$seg = segment(rows(10));
	seals($seg, 10, 'with trigrams, which the partition does not have', set => $trigrams);
	is($valid->($seg), $all, 'there are the other indexes');
	$c->on('p1', 'CREATE SCHEMA "Odd Schema"; CREATE EXTENSION pg_trgm SCHEMA "Odd Schema"');
	$seg = segment(rows(10));
	seals($seg, 10, 'with trigrams, which the role may not use', set => $trigrams);
	is($valid->($seg), $all, 'there are the other indexes');
	$c->on('p1', 'GRANT USAGE ON SCHEMA "Odd Schema" TO logq');
	$c->on('p1', late_row($seg));
	seals($seg, 11, 'with trigrams', set => $trigrams);
	like($valid->($seg), qr/gin \(message /, 'there is an index for them');

	# of a name that leaves no room for a suffix
	$seg = segment(rows(10));
	my $long = 'Log ' . 'x' x 59;
	$c->on('p1', "ALTER TABLE logq_store.$seg RENAME TO \"$long\"; UPDATE logq_store.segment SET name = '$long' WHERE name = '$seg'");
	seals($long, 10, 'a segment with a long name');
	is($c->on('p1', "SELECT count(*) FROM pg_index WHERE indrelid = 'logq_store.\"$long\"'::regclass AND indisvalid"), 4, 'has all indexes');
	$c->on('p1', late_row($long));
	is(state($long), 'open', 'and is opened by a write');
}

# ---------- writes after sealing ----------

{
	my $seg = segment(rows(50));
	my $next = segment(rows(5));
	my $lower = $c->on('p1', "SELECT lower FROM logq_store.segment WHERE name = '$seg'");
	my $s = on_p1();
	my $n = 50;

	seals($seg, 50, 'sealed');
	foreach my $write (
		[ 'INSERT into the log', late_row($seg), 1 ],
		[ 'INSERT into the segment', "INSERT INTO logq_store.$seg (ts) VALUES ('$lower')", 1 ],
		[ 'COPY', "COPY logq_store.log (ts) FROM STDIN;\n$lower\n\\.\n", 1 ],
		[ 'UPDATE', "UPDATE logq_store.log SET message = 'changed' WHERE ts = (SELECT min(ts) FROM logq_store.$seg)", 0 ],
		[ 'DELETE', "DELETE FROM logq_store.$seg WHERE ts = (SELECT max(ts) FROM logq_store.$seg)", -1 ],
		[ 'UPDATE that moves a row away', "UPDATE logq_store.log SET ts = ts + interval '1 hour' WHERE ts = (SELECT max(ts) FROM logq_store.$seg)", -1 ],
		[ 'UPDATE that moves a row in', "UPDATE logq_store.log SET ts = '$lower'::timestamptz + interval '1 second' WHERE ts = (SELECT max(ts) FROM logq_store.$next)", 1 ],
		[ 'a write of a replica', "SET session_replication_role = replica; INSERT INTO logq_store.log (ts) VALUES ('$lower'); RESET session_replication_role", 1 ],
		[ 'SERIALIZABLE', "SET default_transaction_isolation = serializable; INSERT INTO logq_store.log (ts) VALUES ('$lower'); RESET default_transaction_isolation", 1 ],
		[ 'one of the unprivileged', "GRANT USAGE ON SCHEMA logq_store TO pg_monitor; GRANT INSERT ON logq_store.log TO pg_monitor; GRANT USAGE ON SEQUENCE logq_store.log_id_seq TO pg_monitor; SET ROLE pg_monitor; INSERT INTO logq_store.log (ts) VALUES ('$lower'); RESET ROLE", 1 ],
		[ 'TRUNCATE', "TRUNCATE logq_store.$seg", undef ])
	{
		my ($name, $sql, $change) = @$write;
		my $before = version();

		$s->query('BEGIN');
		is($s->query($sql), '', "$name: rolled back") if $name !~ /SERIALIZABLE|COPY/;
		$s->query('ROLLBACK');
		is(state($seg) . ' ' . (version() eq $before ? 'same' : 'raised'), 'sealed same', "$name: still sealed");
		is($name eq 'COPY' ? $c->on('p1', $sql) : $s->query($sql), '', "$name: committed");
		is($c->on('p1', "SELECT s.state, s.version = v.version, v.version > $before FROM logq_store.segment s, logq_store.catalog_version v WHERE name = '$seg'"),
			'open|t|t', "$name: opens the segment again and raises the version");
		$n = defined $change ? $n + $change : 0;
		seals($seg, $n, "$name: sealed again");
	}
	exact($seg, 'and all is exact');

	# readers see the row and the version together
	my $r = on_p1();
	my $before = version();

	$r->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is($r->query("SELECT version FROM logq_store.catalog_version"), $before, 'a reader');
	$s->query(late_row($seg));
	is($r->query("SELECT count(*), (SELECT version FROM logq_store.catalog_version), (SELECT state FROM logq_store.segment WHERE name = '$seg') FROM logq_store.$seg"),
		"0|$before|sealed", 'sees neither a late row nor its version');
	$r->query('COMMIT');
	is($r->query("SELECT count(*), (SELECT version > $before FROM logq_store.catalog_version), (SELECT state FROM logq_store.segment WHERE name = '$seg') FROM logq_store.$seg"),
		'1|t|open', 'or both');

	# by way of the coordinator
	seals($seg, 1, 'sealed');
	$c->sql("INSERT INTO logq.logs (ts, level, partition) VALUES ('$lower', 'LATE', 'p1')");
	is(state($seg), 'open', 'a late row through logq.logs opens the segment again');
	is($c->sql("SELECT count(*) FROM logq.logs WHERE ts = '$lower' AND level = 'LATE'"), 1, 'and is found');
	$_->quit foreach $s, $r;
}

# ---------- writes during sealing ----------

my $sealer = $c->session;
my $lock = on_p1();
my $writer = on_p1();
# while filters are written: after the reading, for as long as it takes
$c->on('p1', "CREATE FUNCTION logq_store.pause() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END'; CREATE TRIGGER pause BEFORE INSERT ON logq_store.filter FOR EACH ROW EXECUTE FUNCTION logq_store.pause()");
my $hold_filters = 'BEGIN; SELECT pg_advisory_xact_lock(42)';
my $hold_version = 'BEGIN; SELECT version IS NULL FROM logq_store.catalog_version FOR UPDATE';

foreach my $case (
	[ 'INSERT', sub { late_row($_[0]) }, 1 ],
	[ 'DELETE', sub { "DELETE FROM logq_store.$_[0] WHERE ts = (SELECT min(ts) FROM logq_store.$_[0])" }, -1 ],
	[ 'UPDATE', sub { "UPDATE logq_store.$_[0] SET level = 'changed' WHERE ts = (SELECT min(ts) FROM logq_store.$_[0])" }, 0 ])
{
	my ($name, $sql, $change) = @$case;
	my $seg = segment(rows(20));

	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	is($c->on('p1', "SELECT state, sealing IS NOT NULL FROM logq_store.segment WHERE name = '$seg'"), 'open|t',
		"$name after the reading: it is being sealed");
	is($writer->query($sql->($seg)), '', "$name after the reading: is not held up");
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|" . (20 + $change), "$name after the reading: is known");
	is(beginnings($seg), 2, "$name after the reading: it was begun again");
	exact($seg, "$name after the reading: all is exact");
}

{
	# before the reading, between indexes: seen at the end, too
	my $seg = segment(rows(20));

	$lock->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT version IS NULL FROM logq_store.catalog_version");
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	is($writer->query(late_row($seg)), '', 'a write while an index is built');
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|21", 'is known');
	is(beginnings($seg), 2, 'because it was begun again');
	exact($seg, 'all is exact');

	# rolled back: no need to begin again
	$seg = segment(rows(20));
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	$writer->query('BEGIN; ' . late_row($seg) . '; ROLLBACK');
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|20", 'a write that is rolled back');
	is(beginnings($seg), 1, 'is of no matter');
	exact($seg, 'all is exact');

	# a writer who is not done when the metadata are to be written
	$seg = segment(rows(20));
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	$writer->query('BEGIN; ' . late_row($seg));
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|20", 'a writer who is not done does not hold up the sealing');
	is(state($seg), 'sealed', 'which comes before it');
	$writer->query('COMMIT');
	is(state($seg), 'open', 'its commit opens the segment again');
	seals($seg, 21, 'its row is known');
	exact($seg, 'all is exact');

	# a writer who comes when the metadata are written and not committed: this
	# one waits, and opens the segment again
	$seg = segment(rows(20));
	$lock->query($hold_version);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	$writer->send(late_row($seg));
	blocked($writer);
	$lock->query('COMMIT');
	is($writer->wait, '', 'a writer at the same time as the end');
	like($sealer->wait, qr/^p1\|$seg\|2[01]$/, 'is before or after it');
	# if after, the segment is open; if before, the sealing has counted its row
	is($c->on('p1', "SELECT state = 'open' OR rows = 21 FROM logq_store.segment WHERE name = '$seg'"), 't', 'and never missed');
	seals($seg, 21, 'sealed again') if state($seg) eq 'open';
	exact($seg, 'all is exact');

	# written to again and again
	my $lock2 = on_p1();
	my @locks = ($lock, $lock2);

	$seg = segment(rows(20));
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	foreach my $i (1 .. 3)
	{
		blocked_by($locks[0]);
		is($writer->query(late_row($seg)), '', "write $i");
		# queues behind the sealing, for its next attempt
		$locks[1]->send($hold_filters);
		blocked($locks[1]);
		$locks[0]->query('COMMIT');
		$locks[1]->wait;
		@locks = reverse @locks;
	}
	$locks[0]->query('COMMIT');
	like($sealer->wait, qr/^WARNING:.*"$seg".*"p1".*was not sealed\nDETAIL:.*again and again/, 'a segment that is written to again and again is left out');
	is(state($seg), 'open', 'and open');
	seals($seg, 23, 'it can be sealed later');
	exact($seg, 'and is exact');
	$lock2->quit;

	# two who seal
	$seg = segment(rows(20));
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	like($c->try(seal_sql($seg))->{err}, qr/WARNING:.*"$seg" of partition "p1" was not sealed/, 'a second one who seals is told so at once');
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|20", 'the first one goes on');
	is($c->sql(seal_sql($seg)), '', 'a sealed segment is not sealed again');
	is(beginnings($seg), 1, 'there was one sealing');
}

# ---------- old snapshots ----------

foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $old_writer = sub {
		my ($seg) = @_;

		$writer->query("BEGIN ISOLATION LEVEL $level; SELECT state FROM logq_store.segment WHERE name = '$seg'");
	};
	my $seg = segment(rows(20));

	# it has its indexes, so nobody waits for old snapshots
	seals($seg, 20, "$level: sealed");
	$c->on('p1', late_row($seg));

	$old_writer->($seg);
	seals($seg, 21, "$level: sealed after the snapshot of a transaction");
	$writer->query(late_row($seg));
	like($writer->query('COMMIT'), qr/40001/, "$level: which cannot write any more");
	is(state($seg), 'sealed', "$level: it is still sealed");
	exact($seg, "$level: and exact");

	$c->on('p1', late_row($seg));
	$old_writer->($seg);
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	$writer->query(late_row($seg));
	like($writer->query('COMMIT'), qr/40001/, "$level: a snapshot from before the sealing under way");

	# this one sees the token
	$old_writer->($seg);
	is($writer->query(late_row($seg)), '', "$level: one from after its beginning");
	is($writer->query('COMMIT'), '', "$level: commits");
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|23", "$level: makes it begin again");
	exact($seg, "$level: all is exact");

	# one that does not write into a segment which is sealed meanwhile
	my $other = segment('');

	$old_writer->($seg);
	$c->on('p1', late_row($seg));
	is($writer->query(late_row($other)), '', "$level: others write as before");
	$writer->query('COMMIT');
}

# ---------- locks ----------

{
	my $seg = segment(rows(20));
	my $other = segment(rows(10));
	my $second = on_p1();

	# a late writer holds nothing that a sealing of another segment needs
	seals($other, 10, 'a sealed segment');
	$writer->query('BEGIN; ' . late_row($other));
	seals($seg, 20, 'a sealing beside a late writer of another segment');
	is($writer->query(late_row($seg), 10), '', 'who then comes to this one');
	$writer->query('COMMIT');
	is(state($seg) . state($other), 'openopen', 'both are open');
	seals($seg, 21, 'and sealed again');
	exact($seg, 'and exact');

	# late writers of two segments, in both orders
	seals($other, 11, 'two sealed segments');
	$writer->query('BEGIN; ' . late_row($seg));
	is($second->query('BEGIN; ' . late_row($other), 10), '', 'late writers do not wait for each other');
	is($writer->query(late_row($other), 10), '', 'nor when they change places');
	is($second->query(late_row($seg), 10), '', 'both of them');
	$writer->query('COMMIT');
	$second->query('COMMIT');
	is(state($seg) . state($other), 'openopen', 'both are open');
	seals($seg, 23, 'and sealed again');

	# an earlier one is rolled back
	$writer->query('BEGIN; ' . late_row($seg));
	is($second->query(late_row($seg), 10), '', 'the second of two late writers is the first to commit');
	$writer->query('ROLLBACK');
	is(state($seg), 'open', 'the segment is open');
	seals($seg, 24, 'and its row counted');
	exact($seg, 'all is exact');

	# a savepoint takes back the opening as well
	$writer->query('BEGIN; SAVEPOINT a; ' . late_row($seg) . '; ROLLBACK TO a; COMMIT');
	is(state($seg), 'sealed', 'a late row that was rolled back to a savepoint leaves the segment sealed');

	# begun far above
	like($held_sealer->wait, qr/^WARNING:.*"$held" of partition "p2" was not sealed/, 'a sealing whose tables are locked gives up');
	is(state($held, 'p2'), 'open', 'and leaves the segment open');
	$holder->query('COMMIT');
	seals($held, 10, 'it can be sealed later', part => 'p2');
	exact($held, 'and is exact', part => 'p2');
	$_->quit foreach $holder, $held_sealer;

	# late rows on two partitions, from two sides: nobody could see a deadlock
	{
		my $far = segment(rows(10), 'p2');
		my @far = map { $c->session } 0, 1;
		my $late = sub {
			my ($name, $seg) = @_;
			my $lower = $c->on($name, "SELECT lower FROM logq_store.segment WHERE name = '$seg'");

			return "INSERT INTO logq.logs (ts, level, partition) VALUES ('$lower', 'LATE', '$name')";
		};

		$c->sql(seal_sql($far, 'p2'));
		$_->query('BEGIN') foreach @far;
		is($far[0]->query($late->('p1', $seg), 10), '', 'one writes to the first partition');
		is($far[1]->query($late->('p2', $far), 10), '', 'another one to the second');
		is($far[0]->query($late->('p2', $far), 10), '', 'the one to the second');
		is($far[1]->query($late->('p1', $seg), 10), '', 'the other one to the first');
		$_->query('COMMIT') foreach @far;
		is($c->on('p2', "SELECT count(*) FROM logq_store.$far"), 12, 'both commit');
		is(state($seg), 'open', 'and open the segment');
		$_->quit foreach @far;
		seals($seg, 26, 'which is sealed again');
	}

	# many at once, while both are sealed again and again
	my @sessions = map { $c->session } 1 .. 4;
	my @lower = map { $c->on('p1', "SELECT lower FROM logq_store.segment WHERE name = '$_'") } $seg, $other;

	seals($other, 13, 'two sealed segments');
	$sealer->send("SET client_min_messages = error; DO \$\$ BEGIN FOR i IN 1 .. 12 LOOP PERFORM FROM logq.seal('p1', '$seg'); PERFORM FROM logq.seal('p1', '$other'); END LOOP; END \$\$; RESET client_min_messages");
	foreach my $i (0 .. $#sessions)
	{
		$sessions[$i]->send(join ';', map {
			my $turn = $_;

			('BEGIN', (map { "INSERT INTO logq.logs (ts, level, partition) VALUES ('$lower[($i + $_) % 2]'::timestamptz + interval '$turn seconds', 'STORM', 'p1')" } 0, 1),
				$turn % 5 ? 'COMMIT' : 'ROLLBACK') } 1 .. 40);
	}
	is(join('', map { $_->wait(120) // 'no answer ' } @sessions), '', 'many late writers at once, and a sealer');
	is($sealer->wait(120), '', 'nothing fails');
	$_->quit foreach @sessions;
	$c->sql("SELECT * FROM logq.seal('p1')");
	is($c->on('p1', "SELECT string_agg(rows::text, ' ' ORDER BY lower) FROM logq_store.segment WHERE name IN ('$seg', '$other') AND state = 'sealed'"),
		26 + 4 * 32 . ' ' . (13 + 4 * 32), 'all rows are known');
	exact($seg, 'all is exact');
	exact($other, 'and here');

	# dropped while it is being sealed, before that has the version
	$seg = segment(rows(20));
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	$second->send("SELECT logq_store.drop_segment('$seg')");
	blocked($second);
	$lock->query('COMMIT');
	is($sealer->wait, "p1|$seg|20", 'no deadlock of sealing and dropping');
	is($second->wait, 't', 'it is dropped after that');
	is($c->on('p1', "SELECT count(*) FROM logq_store.filter WHERE segment = '$seg'"), 0, 'with all that was known');

	# a writer who does not end: the sealing does not wait, so nobody waits
	# behind it; whether the trigger is there already or not
	$seg = segment(rows(20));
	foreach my $again ('', ', once more')
	{
		my $before = beginnings($seg);

		$writer->query('BEGIN; ' . late_row($seg));
		$sealer->send(seal_sql($seg));
		LogqTest::poll(sub { beginnings($seg) > $before + 1 }) or die 'no sealing has begun';
		is($c->on('p1', "SELECT count(*) FROM pg_stat_activity WHERE $writer->{pid} = ANY (pg_blocking_pids(pid))"), 0, "nobody waits for the writer$again");
		is($second->query(late_row($seg), 30), '', "another writer goes on while a sealing would begin$again");
		like($sealer->wait, qr/^WARNING:.*"$seg" of partition "p1" was not sealed/, "the sealing gives up$again");
		$writer->query('COMMIT');
		seals($seg, $again ? 25 : 22, "later it is sealed$again");
		exact($seg, "and exact$again");
		$c->on('p1', late_row($seg));
	}

	# readers
	$seg = segment(rows(20));
	$second->query("BEGIN; SELECT count(*) FROM logq_store.$seg");
	seals($seg, 20, 'a reader who has not ended does not stop a sealing');
	is($second->query("SELECT count(*) FROM logq_store.$seg"), 20, 'nor does the sealing stop it');
	$second->query('COMMIT');
	$c->on('p1', late_row($seg));
	$lock->query($hold_filters);
	$sealer->send(seal_sql($seg));
	blocked_by($lock);
	is($second->query("SELECT count(*) FROM logq_store.$seg", 10), 21, 'one who comes while it is sealed reads');

	# cancelled: the partition is left as if nothing had been
	$c->sql("SELECT pg_cancel_backend($sealer->{pid})");
	like($sealer->wait, qr/57014/, 'a sealing is cancelled');
	$lock->query('COMMIT');
	LogqTest::poll_ok(sub { !$c->remote_activity('p1') }, 'nothing goes on', 20);
	seals($seg, 21, 'another one can be begun');
	exact($seg, 'and is exact');
	$second->quit;
}

# a sealing that is chosen to end a deadlock would just try again
unlike(slurp_file($p1->logfile), qr/deadlock detected/, 'there was no deadlock in all this');

# ---------- the function ----------

{
	my $a = segment(rows(3));
	my $upper = $c->on('p1', "SELECT upper FROM logq_store.segment WHERE name = '$a'");

	$c->on('p2', "SELECT logq_store.make_segment('$upper'::timestamptz - interval '1 hour')");
	$c->on('p1', "SELECT logq_store.make_segment(now())");
	$c->gives("SELECT count(*) FROM logq.seal('p1', before => '$upper'::timestamptz - interval '1 microsecond') WHERE segment = '$a'", 0,
		'a segment that ends after the time is left alone');
	$c->gives("SELECT partition, segment, rows, seconds >= 0 FROM logq.seal('p1', before => '$upper') WHERE segment = '$a'", "p1|$a|3|t",
		'one that ends at the time is sealed');
	$c->gives(seal_sql($a, 'p2'), "p2|$a|0", 'segments of the same name on another partition are others');
	$c->on('p1', late_row($a));
	$c->gives("SELECT partition, segment, rows FROM logq.seal(only_segment => '$a')", "p1|$a|4", 'one segment, wherever it is open');
	$c->on('p1', late_row($a));
	$c->gives("SELECT count(*) FROM logq.seal('p1') WHERE segment = '$a'", 1, 'by default all that are over');
	is($c->on('p1', "SELECT count(*) FILTER (WHERE upper > now() - interval '10 minutes'), count(*) FILTER (WHERE upper <= now() - interval '10 minutes') FROM logq_store.segment WHERE state = 'open'"),
		'1|0', 'and not the one of now');
	$c->fails("SELECT * FROM logq.seal('p9')", '42704', qr/"p9" is not a partition/, 'a partition that there is not');
	$c->fails("SELECT * FROM logq.seal('p1', 'log_x')", '42704', qr/"p1" has no segment "log_x"/, 'a segment that there is not');
	$c->fails("SELECT * FROM logq.seal(only_segment => 'log_x')", '42704', qr/no partition has a segment "log_x"/, 'nor on any partition');
	$c->on('p1', late_row($a));
	$c->fails("SET logq.bloom_attrs = 'a, \"b'; " . seal_sql($a), '22023', qr/"logq.bloom_attrs"/, 'a list that is none');
	$c->fails("SET logq.bloom_attrs = '" . join(', ', map { "k$_" } 1 .. 33) . "'; " . seal_sql($a), '53400', qr/33/, 'too many keys');
	seals($a, 6, 'the setting does no lasting harm');
	$c->sql('CREATE ROLE nobody LOGIN');
	$c->fails('SELECT * FROM logq.seal()', '42501', qr/permission denied/, 'not for everybody', user => 'nobody');
	is($c->on('p1', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');
}

# ---------- that old snapshot ----------

like($stuck_sealer->wait, qr/^WARNING:.*"$stuck" of partition "p3" was not sealed/, 'what cannot build its indexes is given up');
is($c->on('p3', "SELECT s.state, (SELECT count(*) FROM pg_index WHERE indrelid = 'logq_store.$stuck'::regclass AND NOT indisvalid) FROM logq_store.segment s WHERE s.name = '$stuck'"),
	'open|1', 'with an index half built');
$old->query('COMMIT');
seals($stuck, 10, 'when nothing is in the way it is sealed', part => 'p3');
exact($stuck, 'and exact', part => 'p3');
is($c->on('p3', "SELECT count(*) FILTER (WHERE indisvalid), count(*) FROM pg_index WHERE indrelid = 'logq_store.$stuck'::regclass"), '4|4', 'with all its indexes');
$_->quit foreach $stuck_sealer, $old, $sealer, $lock, $writer;

$c->part('p2')->stop;
$c->fails('SELECT * FROM logq.seal()', '08', qr/"p2"/, 'a partition that is down is named');
done_testing();
