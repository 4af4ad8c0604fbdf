# The cache's level in shared memory, by itself: values are whole whatever
# happens while they are read, memory is used up and none of it gets lost.
#
# test/data/hot_cache.c is a module with src/hotcache.c in it, which a server
# has loaded instead of logq.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $dir = PostgreSQL::Test::Utils::tempdir();
my $module = "$dir/hot_cache.so";
my $mb = 1024 * 1024;

{
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	my @include = map { '-I' . `$pg_config $_` =~ s/\n//r } '--includedir-server', '--includedir';

	is(system($ENV{CC} // 'cc', qw(-std=gnu99 -shared -fPIC -O2 -g -Wall -Wextra -Wno-unused-parameter),
			qw(-Wno-sign-compare -Wno-missing-field-initializers), "-I$top/src", @include, '-o', $module,
			"$top/test/data/hot_cache.c", "$top/src/sketch.c", '-lm'),
		0, 'the module compiles');
	chmod 0755, $dir;
}

my @functions = (
	'hot_put(bigint, int) RETURNS void', 'hot_get(bigint, int = 1000000000) RETURNS boolean',
	'hot_remove(bigint) RETURNS void', 'hot_clear() RETURNS bigint', 'hot_seen(bigint) RETURNS boolean',
	'hot_usage() RETURNS text', 'hot_pin(bigint) RETURNS boolean', 'hot_unpin() RETURNS void',
	'hot_counted(int) RETURNS bigint', 'hot_check() RETURNS text', 'hot_private() RETURNS void',
	'hot_run(bigint, int, int, int, float8, float8) RETURNS text');

my $node = LogqTest::start_server('hot', "shared_preload_libraries = '$module'",
	'hot_cache.size = 1MB', 'restart_after_crash = on', 'max_connections = 50');
$node->safe_psql('postgres', join ";\n",
	map { my ($name) = /^(\w+)/; "CREATE FUNCTION $_ LANGUAGE C STRICT AS '$module', '$name'" } @functions);

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub session { return LogqTest::Session->new($node, db => 'postgres'); }

# Nothing was left behind
sub in_order
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql('SELECT hot_check()'), 'ok', "$name: all is in order");
	return;
}

# entries, bytes, limit, bytes of values
sub usage { return split / /, sql('SELECT hot_usage()'); }

# Another size, and with it an empty cache
sub resize
{
	my ($size) = @_;

	$node->append_conf('postgresql.conf', "hot_cache.size = $size");
	$node->restart;
	return;
}

# ---------- one after the other ----------

is(sql('SELECT hot_get(1)'), 'f', 'nothing is there at first');
is(join(' ', usage()), "0 0 $mb 0", 'and nothing is used');

# ends of chunks: 512 bytes, 48 less in the first
my @lens = (24, 463, 464, 465, 975, 976, 977, 100_000, $mb / 8 - 1, $mb / 8);

foreach my $len (@lens)
{
	is(sql("SELECT hot_clear(); SELECT hot_put(1, $len); SELECT hot_get(1) || ' ' || hot_get(1, $len) || ' ' || hot_get(1, $len - 1) || ' ' || hot_get(2)"),
		($len == 24 ? '0' : '1') . "\n\ntrue true false false", "$len bytes come back");
	my $n = int(($len + 48 + 511) / 512);
	is(join(' ', usage()), '1 ' . $n * 512 . " $mb $len", "in $n chunks");
}
is(sql("SELECT hot_put(1, $mb / 8 + 1); SELECT hot_get(1) || ' ' || hot_counted(6) || ' ' || hot_counted(4)"),
	"\ntrue 1 0", 'one that is too large leaves what is there, and is counted');
in_order('single values');

is(sql(<<'SQL'), "102\n103\nt|t\nf|t\n101", 'keys of one bucket are kept apart');
SELECT hot_clear() \gset x
SELECT hot_put(-1, 100), hot_put(-2, 200), hot_put(0, 300) \gset x
SELECT 102 WHERE hot_get(-1) AND hot_get(-2) AND hot_get(0);
SELECT hot_remove(-2) \gset x
SELECT 103 WHERE hot_get(-1) AND NOT hot_get(-2) AND hot_get(0);
SELECT hot_put(-1, 1000) \gset x
SELECT hot_get(-1), hot_get(-1, 1000);
SELECT hot_get(-1, 999), hot_get(0);
SELECT hot_remove(-1), hot_remove(-1), hot_remove(-3) \gset x
SELECT hot_clear() + 100;
SQL
in_order('keys of one bucket');

is(sql('SELECT hot_seen(1), hot_seen(2), hot_seen(1), hot_seen(2)'), 'f|f|t|t', 'a key has been seen when it was there before');
is(sql('SELECT count(*) FILTER (WHERE hot_seen(n)) FROM generate_series(1, 2000) n'), 2,
	'another one has not');
cmp_ok(sql('SELECT count(*) FILTER (WHERE hot_seen(n)) FROM generate_series(1, 2000) n'), '>=', 1990,
	'some thousands are remembered');
cmp_ok(sql('SELECT count(*) FILTER (WHERE hot_seen(n)) FROM generate_series(100000, 1000000) n'), '<', 20,
	'so many are not');
is(sql('SELECT hot_seen(1)'), 'f', 'and are forgotten');
is(sql('SELECT hot_clear() * 0; SELECT hot_seen(1)'), "0\nf", 'by clearing, too');

# ---------- who makes room ----------

# ten that are asked for again and again, and many that are not
is(sql(<<'SQL'), 10, 'what is read stays while others come and go');
SELECT hot_put(n, 10000) FROM generate_series(1, 10) n \g /dev/null
SELECT bool_and(hot_get(n % 10 + 1)), count(hot_put(n, 10000)) FROM generate_series(11, 2000) n \g /dev/null
SELECT count(*) FILTER (WHERE hot_get(n)) FROM generate_series(1, 10) n;
SQL
is(sql('SELECT count(*) FILTER (WHERE hot_get(n)) FROM generate_series(1990, 2000) n'), 11, 'and so does what came last');
is(sql('SELECT count(*) FILTER (WHERE hot_get(n)) FROM generate_series(11, 1800) n'), 0, 'what came before that is gone');
cmp_ok((usage())[1], '>', 0.97 * $mb, 'memory is used up');
in_order('eviction');

# small ones make room for one that needs many of them
is(sql(<<"SQL"), "0\n0\n2048\nt\n257\n1791", 'a large value takes the room of as many small ones as it needs');
SELECT hot_clear() * 0;
SELECT count(hot_put(n, 24)) FROM generate_series(1, 2048) n \\g /dev/null
SELECT hot_counted(7);
SELECT count(*) FROM generate_series(1, 2048) n WHERE hot_get(n);
SELECT hot_put(0, $mb / 8) \\gset x
SELECT hot_get(0);
SELECT hot_counted(7);
SELECT count(*) FROM generate_series(1, 2048) n WHERE hot_get(n);
SQL
in_order('many small ones');

# 64 bytes to 16 kB, as many of each power of two as of another
{
	my ($entries, $bytes, $limit, $values);

	sql('SELECT hot_run(1, 20000, 1000000, 16384, 1, 0)');
	($entries, $bytes, $limit, $values) = usage();
	cmp_ok($values, '>', 0.85 * $limit, 'of a full cache most is values')
	  or diag("$entries entries, $bytes used of $limit, $values of values");
	in_order('mixed sizes');
}

# ---------- in the midst of a read ----------

my ($reader, $other) = (session(), session());

foreach my $how (
	[ 'removed', 'hot_remove(1)' ],
	[ 'replaced', 'hot_put(1, 700)' ],
	[ 'cleared', 'hot_clear()' ])
{
	my ($what, $call) = @$how;

	sql('SELECT hot_clear()');
	is($reader->query('SELECT hot_put(1, 100000)'), '', "$what: it is there");
	is($reader->query('SELECT hot_pin(1)'), 't', 'somebody reads it');
	$other->query("SELECT $call");
	is($other->query('SELECT hot_get(1)'), $what eq 'replaced' ? 't' : 'f', "others see that it was $what");
	cmp_ok((usage())[1], '>', 100_000, 'its memory is still in use');
	$other->query("SELECT count(hot_put(n, 5000)) FROM generate_series(2, 2000) n");
	is($reader->query('SELECT hot_unpin()'), '', 'who reads it reads it all');
	in_order($what);
	is(sql('SELECT hot_clear() > 0; SELECT hot_usage()'), "t\n0 0 $mb 0", 'and then it is free');
}

is($reader->query('SELECT hot_put(1, 100000), hot_put(2, 100000)'), '|', 'one of two');
is($reader->query('SELECT hot_pin(1)'), 't', 'is read');
$other->query("SELECT count(hot_put(n, 5000)) FROM generate_series(3, 5000) n");
is($other->query('SELECT hot_get(1), hot_get(2)'), 't|f', 'and stays when the others make room');
is($reader->query('SELECT hot_unpin()'), '', 'who reads it reads it all');
in_order('evicted');

# two readers of one that is gone
$_->query('SELECT hot_put(1, 100000)') foreach $other;
is($_->query('SELECT hot_pin(1)'), 't', 'two read it') foreach $reader, $other;
sql('SELECT hot_clear()');
is($_->query('SELECT hot_unpin()'), '', 'both have read it') foreach $reader, $other;
in_order('two readers');

# All memory in the hands of readers: nothing is kept, and nothing waits
{
	my @readers = map { session() } 1 .. 10;
	my $n = 0;

	sql('SELECT hot_clear()');
	foreach my $r (@readers)
	{
		$n++;
		$r->query("SELECT hot_put($n, $mb / 8 - 1000)");
		$r->query("SELECT hot_pin($n)");
	}
	my $held = grep { $_->query('SELECT hot_unpin()') !~ /no pin/ } @readers[ 7 .. 9 ];
	is($held, 1, 'as many as there is room for are read, the others were not kept');
	is($other->query("SELECT hot_put(100, $mb / 8 - 1000); SELECT hot_get(100)"), "\nt",
		'one place is to be had again');
	is($readers[9]->query('SELECT hot_pin(100)'), 't', 'and is taken');
	is($other->query("SELECT hot_put(101, $mb / 8 - 1000); SELECT hot_get(101)"), "\nf", 'then none is');
	sql('SELECT hot_clear()');
	is($other->query("SELECT hot_put(101, $mb / 8 - 1000); SELECT hot_get(101)"), "\nf",
		'nor when all are gone, but are still read');
	$_->query('SELECT hot_unpin()') foreach @readers;
	is($other->query("SELECT hot_put(101, $mb / 8 - 1000); SELECT hot_get(101)"), "\nt", 'until they have been');
	in_order('nothing to be had');
}

# ---------- all at once ----------

# Sessions that read and write as fast as they can; each read looks at each
# byte.  Few keys and little memory: what is read is replaced and thrown out.
sub all_at_once
{
	my ($name, $n, @args) = @_;
	my @sessions = map { session() } 1 .. $n;
	my $seed = int rand 1_000_000_000;
	my ($hits, $wrong) = (0, 0);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	note "seed $seed";
	$sessions[$_]->send('SELECT hot_run(' . join(', ', $seed + $_, @args) . ')') foreach 0 .. $n - 1;
	# some are cancelled, and some go on
	for my $i (1 .. 3)
	{
		sql('SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE $$SELECT hot_run%$$ ORDER BY random() LIMIT 1');
		sql('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE $$SELECT hot_run%$$ ORDER BY random() LIMIT 1')
		  if $i == 3;
	}
	foreach my $s (@sessions)
	{
		my $out = $s->wait(120) // 'it hangs';

		if ($out =~ /^(\d+) \d+ [\d.]+$/) { $hits += $1; }
		elsif ($out !~ /canceling statement due to user request|terminating connection|closed/)
		{
			$wrong++;
			diag($out);
		}
	}
	is($wrong, 0, "$name: all values are right");
	cmp_ok($hits, '>', 1000, 'there were some');
	in_order($name);
	return;
}

all_at_once('few keys', 8, 100_000, 20, 60_000, 0.3, 0.1);
all_at_once('small values', 8, 200_000, 20_000, 1000, 0.3, 0.05);
all_at_once('large values', 8, 20_000, 60, 131_072, 0.4, 0.02);

# ---------- a crash ----------

$reader->query('SELECT hot_put(1, 100), hot_pin(1)');
{
	my $pid = $reader->query('SELECT pg_backend_pid()');

	kill 'KILL', $pid;
	ok(LogqTest::poll(sub {
		my ($out, $err) = ('', '');
		return $node->psql('postgres', 'SELECT hot_usage()', stdout => \$out, stderr => \$err) == 0
		  && $out eq "0 0 $mb 0";
	}), 'after a crash it is empty');
	in_order('crash');
}

# ---------- other sizes ----------

resize('0');
is(sql("SELECT hot_put(1, 100), hot_get(1), hot_clear(), hot_remove(1), hot_usage()"), '|f|0||0 0 0 0',
	'a size of 0: nothing is kept');
is(sql('SELECT hot_seen(1), hot_seen(1)'), 'f|t', 'what was seen is known all the same');

resize('20MB');
sql('SELECT hot_run(1, 20000, 1000000, 1048576, 1, 0)');
{
	my ($entries, $bytes, $limit, $values) = usage();

	is($limit, 20 * $mb, '20 MB');
	note "$entries entries, $bytes used of $limit, $values of values";
	cmp_ok($values, '>', 0.9 * $limit, 'of a full cache most is values, with 64 bytes to 1 MB');
}
in_order('20 MB');

# without shared memory
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
is(sql("SELECT hot_put(1, 100), hot_get(1), hot_clear(), hot_remove(1), hot_usage()"), '|f|0||0 0 0 0',
	'without shared memory nothing is kept');
is(sql('SELECT hot_seen(1), hot_seen(1)'), 'f|t', 'a session knows what it has seen');

# ---------- with the rest of logq ----------

# The view, and the setting, which is only to be had before the server starts
sub stat_cache
{
	return sql("SELECT state, entries, bytes, size_limit FROM logq.stat_cache WHERE level = 'memory'");
}

$node->append_conf('postgresql.conf', 'logq.hot_cache_size = 3MB');
$node->restart;
{
	my ($out, $err) = ('', '');

	$node->psql('postgres', 'CREATE EXTENSION logq; SELECT count(*) FROM logq.stat_cache; SELECT logq.cache_reset_stats()',
		stdout => \$out, stderr => \$err);
	is("$out$err", "0\n", 'without shared memory the view has no rows, and nobody minds the setting');
}
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'logq'");
$node->restart;
is(stat_cache(), 'on|0|0|' . 3 * $mb, 'with it there is a cache of that size');
$node->append_conf('postgresql.conf', 'logq.hot_cache_size = 0');
$node->restart;
is(stat_cache(), 'off|0|0|0', 'or none');

$node->stop;
done_testing();
