# Edges of the cache in streams: first rows of a segment where more are needed,
# catalogs that move on while a cursor rests, a replica that is behind what the
# session knows, and who may be given what another role of the session has read.
#
# p1 has a replica, p2 has none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqRedis;
use LogqTest;
use Test::More;

my $c = LogqTest->new(
	partitions => 2,
	replicas => { p1 => 1 },
	conf => ['wal_retrieve_retry_interval = 100ms'],
	coordinator_conf => [ 'logq.cache_min_cost = 0', 'max_parallel_workers_per_gather = 0',
		# of a busy machine
		"logq.cache_timeout = '10s'" ]);
my $hours = 6;

$c->sql(<<"SQL");
INSERT INTO logq.logs (ts, level, service, message, partition)
SELECT '2024-05-01 00:00+00'::timestamptz + i * interval '1 minute', CASE i % 10 WHEN 0 THEN 'ERROR' ELSE 'INFO' END,
	'web', 'message ' || i, 'p' || 1 + i % 2
FROM generate_series(0, $hours * 60 - 1) i;
SQL
$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");

# rows as a plain table has them
sub copy_rows
{
	$c->sql('DROP TABLE IF EXISTS plain; SET logq.cache = off; CREATE TABLE plain AS SELECT * FROM logq.logs');
	return;
}

# Settings of a session that may go by its copy of the catalog, and reads from
# primaries unless told otherwise
my $settings = "SET logq.catalog_max_age = '1d'; SET logq.read_from = 'primary'; SET logq.use_rollups = off;"
  . ' SET enable_sort = off;';
my $warm_up = 'SELECT count(*) FROM (SELECT ts FROM logq.logs OFFSET 0) s';

sub new_session
{
	my $s = $c->session;

	$s->query($settings);
	$s->query('SELECT logq.refresh_catalog()');
	$s->query($warm_up);
	return $s;
}

sub same
{
	my ($s, $what, $name) = @_;
	my $sql = "SELECT count(*), md5(string_agg(s::text, ',')) FROM ($what) s";
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($s->query($sql =~ s/\@T\@/logq.logs/gr), $s->query($sql =~ s/\@T\@/plain/gr), $name);
}

sub clear
{
	$c->sql('SELECT logq.cache_clear()');
	return;
}

copy_rows();
$c->wait_for_catchup_all;

# ---------- the first rows of segments ----------

# Leave the first rows of each segment in the cache
sub leave_first_rows
{
	my ($s, $n) = @_;

	foreach my $hour (1 .. $hours)
	{
		$s->query(sprintf "SELECT length(string_agg(s::text, ',')) FROM (SELECT ts, id, message FROM logq.logs"
			  . " WHERE ts < '2024-05-01 %02d:00+00' ORDER BY ts DESC, id DESC LIMIT %d) s",
			$hour, $n);
	}
	return;
}

my $rows = 'SELECT ts, id, message FROM @T@ ORDER BY ts DESC, id DESC';
{
	my $s = new_session();

	clear();
	leave_first_rows($s, 4);
	same($s, "$rows LIMIT 4", 'as many rows as are in the cache');
	same($s, "$rows LIMIT $_", "LIMIT $_") foreach 10, 70, 200;
	clear();
	leave_first_rows($s, 4);
	same($s, $rows, 'all rows, in order');
	same($s, $rows, 'and again');
	$s->query("SELECT length(string_agg(s::text, ',')) FROM ($rows) s" =~ s/\@T\@/logq.logs/r);
	is($s->query('SELECT segments_asked, cached FROM logq.last_query()'), "0|@{[ 2 * $hours ]}",
		'whole segments have taken the place of their first rows');
	same($s, "$rows LIMIT $_", "of these, LIMIT $_") foreach 3, 70;
	$s->quit;
}

# ---------- a catalog that moves on while a cursor rests ----------

foreach my $first (0, 1)
{
	my $s = new_session();
	my $taken = 90;
	my (@got, $late);

	clear();
	# the newest hours are here as a whole, or all of the first rows
	leave_first_rows($s, 8);
	$s->query("SELECT length(string_agg(s::text, ',')) FROM (SELECT ts, id, message FROM logq.logs WHERE ts >= '2024-05-01 03:00+00' ORDER BY ts DESC, id DESC) s")
	  if $first == 0;
	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR $rows" =~ s/\@T\@/logq.logs/r);
	push @got, split /\n/, $s->query("FETCH $taken FROM c");
	is(scalar(@got), $taken, 'a cursor begins');
	$late = "late $first";
	$c->on($_, "INSERT INTO logq_store.log (ts, level, service, message) VALUES"
		  . " ('2024-05-01 01:30:00.5+00', 'INFO', 'web', '$late'), ('2024-05-01 05:30:00.5+00', 'INFO', 'web', '$late')")
	  foreach $c->names;
	push @got, split /\n/, $s->query('FETCH ALL FROM c');
	$s->query('COMMIT');
	# late rows may be there or not, all others are, in order
	my @without = grep { $_ !~ /late/ } @got;
	is(join("\n", @without), $c->sql("SELECT ts, id, message FROM plain WHERE message NOT LIKE 'late%' ORDER BY ts DESC, id DESC"),
		"a cursor's rows, with late ones written meanwhile, $first");
	is(join("\n", @got), join("\n", sort { $b cmp $a } @got), "are in order, $first");
	$s->quit;
	copy_rows();
	$s = new_session();
	same($s, $rows, "what was written late is not missed, $first");
	$s->quit;
	$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");
}
copy_rows();

# ---------- a replica that is behind what the session knows ----------

# A scan has begun with one list of segments, another scan of the session has
# read a newer one, and the replica still has the first.  What it gives must not
# be stored as what the newer one says.
{
	my $s = new_session();
	my $count = "SELECT count(*) FROM (SELECT message FROM logq.logs WHERE ts < '2024-05-01 01:00+00' OFFSET 0) s";

	$c->wait_for_catchup_all;
	clear();
	$s->query("SET logq.read_from = 'replica'; SET logq.max_replica_lag = '1h'");
	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR SELECT message FROM (SELECT ts, id, message FROM logq.logs WHERE partition = 'p1' ORDER BY ts DESC, id DESC LIMIT 100000) s");
	$s->query('FETCH 5 FROM c');
	$c->pause_replica('p1');
	$c->on('p1', "INSERT INTO logq_store.log (ts, level, service, message) VALUES ('2024-05-01 00:30:00.5+00', 'INFO', 'web', 'late')");
	$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");
	$s->query("SET logq.read_from = 'primary'; SET logq.cache = off");
	my $right = $s->query($count);
	$s->query("SET logq.read_from = 'replica'; SET logq.cache = on");
	$s->query('FETCH ALL FROM c');
	$s->query('COMMIT');
	$s->query("SET logq.read_from = 'primary'");
	is($s->query($count), $right, 'a replica that is behind leaves nothing wrong');
	$s->query("SELECT ts, id, message FROM logq.logs WHERE partition = 'p1' AND ts < '2024-05-01 01:00+00' ORDER BY ts DESC, id DESC");
	copy_rows();
	same($s, "SELECT ts, id, message FROM \@T\@ WHERE ts < '2024-05-01 01:00+00' ORDER BY ts DESC, id DESC", 'nor in order');
	same($s, $rows, 'nor of all');
	$c->resume_replica('p1');
	$s->quit;
}

# ---------- a cursor that rests ----------

# While Redis has not answered, the partition is asked for what must be, and its
# transaction goes on, as more may have to be read from it.  When all else has
# come from Redis, it is over, whatever time the reader takes.
{
	my $redis = LogqRedis->new;
	my $sql = "SELECT ts, message FROM \@T\@ WHERE message <> 'x'";
	my $count = "SELECT count(*), md5(string_agg(s::text, ',' ORDER BY s)) FROM ($sql OFFSET 0) s";
	my ($s, $right, $n);

	$c->sql("SELECT count(*) FROM logq.seal(before => '2024-06-01')");
	$c->sql("INSERT INTO logq.logs (ts, level, service, message, partition)"
		  . " SELECT '2024-05-03 12:00+00', 'INFO', 'web', 'open ' || i, 'p1' FROM generate_series(1, 10) i");
	copy_rows();
	$c->sql($redis->server_sql);
	clear();
	# memory and Redis have it, then only Redis
	$s = new_session();
	$right = $s->query($count =~ s/\@T\@/plain/r);
	is($s->query($count =~ s/\@T\@/logq.logs/r), $right, 'all rows, with Redis');
	ok(LogqTest::poll(sub { return scalar($redis->keys) >= $hours; }), 'are stored in Redis');
	$s->quit;
	$c->coordinator->restart;

	$s = new_session();
	$s->query('BEGIN');
	$s->query("DECLARE c CURSOR FOR $sql" =~ s/\@T\@/logq.logs/r);
	$redis->freeze;
	$s->send('FETCH 12 FROM c');
	LogqTest::poll_ok(sub { return grep { /idle in transaction/ } $c->remote_activity('p1'); },
		'the transaction of what was asked goes on while Redis is waited for');
	$redis->thaw;
	$n = scalar(split /\n/, $s->wait);
	is($n, 12, 'rows from Redis follow');
	$c->quiet('then it is over, though the cursor rests');
	$n += scalar(split /\n/, $s->query('FETCH ALL FROM c'));
	is($n, $c->sql('SELECT count(*) FROM plain'), 'all rows');
	$s->query('COMMIT');
	is($s->query($count =~ s/\@T\@/logq.logs/r), $right, 'and the same ones');
	$s->quit;
	$c->sql('DROP SERVER redis CASCADE');
}

# ---------- roles that share a mapping ----------

# Whoever is no superuser needs a password, whatever others of the session have
# read by the same mapping.
{
	my $sql = "SELECT count(*) FROM (SELECT message FROM logq.logs WHERE ts < '2024-05-02' OFFSET 0) s";

	$c->sql(join '', "CREATE ROLE low; GRANT USAGE ON SCHEMA logq TO low; GRANT SELECT ON logq.logs TO low;\n",
		map { "DROP USER MAPPING IF EXISTS FOR CURRENT_USER SERVER $_; DROP USER MAPPING IF EXISTS FOR PUBLIC SERVER $_;"
			  . " CREATE USER MAPPING FOR PUBLIC SERVER $_ OPTIONS (user 'postgres');" } $c->names);
	my $s = new_session();
	my $right = $s->query($sql);

	like($right, qr/^\d+$/, 'a superuser needs no password');
	is($s->query($sql), $right, 'nor the second time');
	is($s->query('SELECT segments_asked FROM logq.last_query()'), 0, 'and is given cached rows');
	$s->query('SET ROLE low');
	like($s->query($sql), qr/^ERROR:  2F003:/, 'another role of the session does need one');
	$s->query('RESET ROLE');
	is($s->query($sql), $right, 'the superuser still needs none');
	$s->query("SELECT count(*) FROM (SELECT level FROM logq.logs WHERE message LIKE '%e%' OFFSET 0) s");
	cmp_ok($s->query('SELECT segments_asked FROM logq.last_query()'), '>', 0, 'the superuser asks for something else');
	$s->query('SET ROLE low');
	like($s->query($sql), qr/^ERROR:  2F003:/, 'the other role still needs one, when the partitions were asked meanwhile');
	$s->quit;
}

done_testing();
