# The cache in Redis: how it is reached, and whatever may happen to it, no query
# fails, waits for long, or says anything else than without a cache.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqRedis;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $hours = 4;
my $each = 400;			# rows of an hour, on each partition
# as long as a busy machine may take over an answer; and how long a query may
# take beyond that
my $timeout = 2;
my $slack = 5;

my $c = LogqTest->new(partitions => 2, coordinator_conf => [
	'logq.hot_cache_size = 0', 'logq.cache_min_cost = 0',
	"logq.cache_timeout = '${timeout}s'" ]);
my $redis = LogqRedis->new(name => 'redis');

$c->on($_, <<"SQL") foreach $c->names;
SET timezone = 'UTC';
SELECT logq_store.make_segment(timestamptz '2025-03-01 00:00+00' + h * interval '1 hour')
FROM generate_series(0, $hours) h;
INSERT INTO logq_store.log (ts, level, service, message, attrs)
	SELECT timestamptz '2025-03-01 00:00+00' + i * interval '1 hour' / $each,
		(ARRAY['INFO', 'WARN', 'ERROR'])[1 + i % 3], 's' || i % 5, 'message ' || md5(i::text),
		jsonb_build_object('user', 'u' || i % 11)
	FROM generate_series(0, $hours * $each - 1) i;
-- the smallest of all segments
INSERT INTO logq_store.log (ts, level, service, message)
	SELECT timestamptz '2025-03-01 00:00+00' + interval '$hours hours', 'INFO', 'small', 'only one'
	WHERE '$_' = 'p1';
ANALYZE logq_store.log;
SQL
$c->sql("SELECT count(*) FROM logq.seal(before => '2025-03-02')");
$c->sql('SELECT logq.refresh_catalog()');

my $range = "ts >= '2025-03-01' AND ts < '2025-03-01 0$hours:00+00'";
my $small = "SELECT message FROM logq.logs WHERE ts >= '2025-03-01 0$hours:00+00' AND ts < '2025-03-02' AND service = 'small'";
my %queries = (
	rows => "SELECT md5(string_agg(ts || message, ',' ORDER BY ts, id)) FROM logq.logs WHERE $range AND level = 'ERROR'",
	groups => "SELECT string_agg(u || n, ',' ORDER BY u) FROM (SELECT attrs->>'user' AS u, count(*) AS n FROM logq.logs WHERE $range GROUP BY 1) g",
	newest => "SELECT string_agg(message, ',') FROM (SELECT message FROM logq.logs WHERE $range AND service = 's1' ORDER BY ts DESC, id DESC LIMIT 50) n",
	text => "SELECT count(*) FROM logq.logs WHERE $range AND message LIKE '%7a%'",
	small => $small
);
my $all = 2 * $hours;	# segments of most of them

# ---------- helpers ----------

sub session
{
	my $s = $c->session;

	$s->query("SET timezone = 'UTC'");
	return $s;
}

my $plain = session();

$plain->query('SET logq.cache = off');
my %answers = map { $_ => $plain->query($queries{$_}) } keys %queries;

is($answers{small}, 'only one', 'there is an answer to compare with');
is($plain->query('SELECT cached FROM logq.last_query()'), 0, 'and no cache has been asked');
is($c->sql("SELECT state FROM logq.stat_cache WHERE level = 'redis'"), 'not configured', 'nor is there any');

# How many fragments the last query had from the cache
sub cached
{
	my ($s) = @_;

	return $s->query('SELECT cached FROM logq.last_query()');
}

# Test: a session gets the answers that it would get without a cache, each
# within the time.  Returns how many fragments came from the cache.
sub same
{
	my ($s, $name, @which) = @_;
	my $n = 0;
	my @wrong;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $q (@which ? @which : sort keys %queries)
	{
		my $begin = time;
		my $got = $s->query($queries{$q});
		my $took = time - $begin;

		push @wrong, "$q: got $got, wanted $answers{$q}" if $got ne $answers{$q};
		push @wrong, "$q: took $took s" if $took > $timeout + $slack;
		$n += cached($s);
	}
	is(join("\n", @wrong), '', $name);
	return $n;
}

# Lines of the log since the last call: what became of Redis
my $log_offset = 0;

sub log_lines
{
	my $text = slurp_file($c->coordinator->logfile, $log_offset);

	$log_offset += length $text;
	return map { /LOG:  (?:\w{5}: )?Redis at "[^"]+" (.*)/ ? $1 : () } split /\n/, $text;
}

# Test: there were just these
sub logged
{
	my ($name, @wanted) = @_;
	my @lines = log_lines();
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	if (@lines != @wanted || grep { $lines[$_] !~ $wanted[$_] } 0 .. $#wanted)
	{
		ok(0, $name);
		diag("got: ", explain(\@lines));
	}
	else
	{
		ok(1, $name);
	}
	return;
}

my $opened = qr/^is not asked any more until it answers: /;
my $closed = qr/^answers again$/;
my $refused = qr/^is not written to any more until it takes values: /;
my $taken = qr/^takes values again$/;

sub stat_cache
{
	my ($column) = @_;

	return $c->sql("SELECT $column FROM logq.stat_cache WHERE level = 'redis'");
}

# Test: since this time, a counter has gone on by one, and one a second
sub tried
{
	my ($since, $column, $before, $name) = @_;
	my $n = stat_cache($column) - $before;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok($n >= 1 && $n <= 1 + time - $since, $name) or diag("$column: $n");
	return;
}

# Ask until Redis is back in use
sub wait_for_redis
{
	my ($s) = @_;

	return LogqTest::poll(sub { $s->query($small); return stat_cache('state') eq 'closed'; });
}

# Make the server that leads to Redis, anew
sub lead_to
{
	my ($r, %opt) = @_;

	$c->sql('DROP SERVER IF EXISTS redis CASCADE; ' . $r->server_sql(%opt));
	return;
}

# Everything is in Redis, and used by a new session
sub warm
{
	my ($s) = @_;

	$s->query($queries{$_}) foreach sort keys %queries;
	LogqTest::poll(sub { $s->query($queries{rows}); return cached($s) == $all; }, 20);
	return;
}

log_lines();

# ---------- the way there, and what comes back ----------

my $s = session();

is(same($s, 'without a server'), 0, 'nothing is cached without a server');
lead_to($redis);
is(same($s, 'a server appears'), 0, 'at first nothing is there');
is(stat_cache('state'), 'closed', 'all is well');
LogqTest::poll_ok(sub { return $redis->keys >= 3 * $all + 1; }, 'values are stored');
cmp_ok(same($s, 'they are read back'), '>=', 3 * $all + 1, 'and answer most');
is($s->query("SELECT cache_age_ms > 0 FROM logq.last_query()"), 't', 'they have an age');
is(stat_cache('hits > 0 AND stores > 0 AND bytes_read > 0 AND bytes_written > 0 AND saved_ms > 0'), 't',
	'all of this is counted');
is(scalar(grep { $redis->command('TTL', $_) > 3500 } $redis->keys), scalar($redis->keys), 'they live for logq.cache_ttl');
is(scalar(grep { !/^logq:[0-9a-f]{40}$/ } @{ $redis->command('KEYS', '*') }), 0, 'there is nothing else');
$s->query("SET logq.cache_ttl = '5s'");
{
	my $mgets = $redis->calls('mget');

	$s->query($queries{rows});
	is($redis->calls('mget') - $mgets, 1, 'a query asks once');
}
$s->query('RESET logq.cache_ttl');
{
	# a session of one query loses nothing as it ends
	my $n = $c->sql('SELECT logq.cache_clear()');

	cmp_ok($n, '>=', 3 * $all + 1, 'what is cached can be removed');
	is(scalar($redis->keys), 0, 'all of it');
	$c->sql($queries{groups});
	is(scalar($redis->keys), $all, 'what one short session has stored is there when it has ended');
	$redis->command('SET', 'others', 'value');
	$redis->command('SET', 'logq:short', 'value');
	is($c->sql('SELECT logq.cache_clear()'), $all, 'removing it again');
	is($redis->command('GET', 'others') . $redis->command('GET', 'logq:short'), 'valuevalue', 'what is not ours stays');
	$redis->command('FLUSHALL');
	is($c->sql('SELECT logq.cache_clear()'), 0, 'there is nothing to remove');
}
# the backend of a psql that has ended ends a moment later
LogqTest::poll(sub { return $redis->clients <= 1; });
is(scalar($redis->clients), 1, 'a session has one connection, and closes it');
logged('nothing of this is worth a line in the log');

$c->sql('CREATE ROLE alice LOGIN; GRANT USAGE ON SCHEMA logq TO alice');
$c->fails('SELECT logq.cache_clear()', '42501', qr/cache_clear/, 'not everybody can clear the cache', user => 'alice');
$c->fails("CREATE SERVER mine FOREIGN DATA WRAPPER logq_redis", '42501', qr/logq_redis/, 'or say where it is', user => 'alice');
$c->fails("SET logq.cache_server = 'other'", '42501', qr/cache_server/, 'or which it is', user => 'alice');

# ---------- options ----------

sub bad_server
{
	my ($options, $state, $message, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return $c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_redis OPTIONS ($options)", $state, $message, $name);
}

bad_server("hst 'x'", 'HV00D', qr/"hst"[\s\S]*"host"[\s\S]*db, host, port, prefix, socket/, 'a wrong option, with a hint');
bad_server("password 'geheim'", 'HV00D', qr/^(?!.*geheim.*invalid value)[\s\S]*invalid option "password"/, 'a server has no password');
bad_server("port '0'", 'HV024', qr/"port"/, 'a wrong port');
bad_server("db '-1'", 'HV024', qr/"db"/, 'a wrong database');
bad_server("host 'a,b'", 'HV024', qr/"host"/, 'a list of hosts');
bad_server("host ''", 'HV024', qr/"host"/, 'no host');
bad_server("socket 'here'", 'HV024', qr/"socket"/, 'a socket that is nowhere');
bad_server("socket '/" . 'x' x 200 . "'", 'HV024', qr/"socket"/, 'a socket that is too long');
bad_server("socket '/x', port '1'", 'HV024', qr/excludes/, 'a socket and a port');
bad_server("sslcert '/x'", 'HV024', qr/"sslkey"/, 'a certificate without a key');
bad_server("tls 'maybe'", 'HV024', qr/"tls"/, 'tls is on or off');
bad_server("prefix '" . 'x' x 200 . "'", 'HV024', qr/"prefix"/, 'a long prefix');
$c->fails("CREATE USER MAPPING FOR alice SERVER redis OPTIONS (host 'x')", 'HV00D', qr/password, user/, 'a wrong option of a mapping');
$c->sql('GRANT USAGE ON FOREIGN DATA WRAPPER logq_redis TO alice');
$c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_redis OPTIONS ($_ '/etc/hostname')", '42501', qr/superuser/,
	"$_ is for superusers", user => 'alice')
  foreach qw(sslcert sslkey sslrootcert);
$c->sql('REVOKE USAGE ON FOREIGN DATA WRAPPER logq_redis FROM alice');

# a server of another kind that has the name
$c->sql("DROP SERVER redis CASCADE; CREATE SERVER redis FOREIGN DATA WRAPPER logq_fdw OPTIONS (host '127.0.0.1', port '" . $redis->port . "')");
is(same($s, 'a partition called "redis"'), 0, 'is no cache');
like(stat_cache('state || reason'), qr/^open.*"logq_redis"/, 'and the reason can be seen');
logged('and in the log, once', qr/$opened.*"logq_redis"/);
$c->fails('SELECT logq.cache_clear()', '08006', qr/"logq_redis"/, 'nor can it be cleared');

# ---------- user, password, database, prefix, socket, name ----------

my $guarded = LogqRedis->new(name => 'guarded', password => q{s3same öffne'},
	conf => [ 'user lim on >l1mited ~logq:* -@all +mget +set', 'user nobody on nopass ~* +@all' ]);

# Test: it works like this
sub works
{
	my ($name, $r, %opt) = @_;
	my $db = $opt{db} // 0;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$r->command('FLUSHALL');
	lead_to($r, %opt);
	warm($s);
	cmp_ok(same($s, "$name: same answers"), '>=', 3 * $all + 1, $name);
	$r->command('SELECT', $db);
	cmp_ok(scalar($r->keys($opt{options}{prefix})), '>=', 3 * $all + 1, "$name: the keys are there");
	$r->command('SELECT', 0);
	logged("$name: no line");
	return;
}

# Test: it does not, and that is the reason
sub works_not
{
	my ($name, $reason, $r, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	lead_to($r, %opt);
	is(same($s, "$name: same answers"), 0, "$name: nothing is cached");
	# a probe that was under way when the last query ended ends with another one
	LogqTest::poll(sub { return stat_cache('state') ne 'half-open' || !defined $s->query($small); });
	is(stat_cache('state'), 'open', "$name: it is left alone");
	like(stat_cache('reason'), $reason, "$name: the reason");
	logged("$name: one line", qr/$opened.*$reason/);
	return;
}

my %at = (host => $guarded->host, port => $guarded->port);

works('password', $guarded);
works('socket and database', $guarded, db => 5, options => { socket => $guarded->socket, db => 5 });
works('prefix', $guarded, options => { %at, prefix => 'p*[a]?\\' });
is($c->sql('SELECT logq.cache_clear()') >= 3 * $all + 1 ? 0 : 1, 0, 'a prefix is no pattern');
works('user with few rights', $guarded, mapping => { user => 'lim', password => 'l1mited' });
$c->fails('SELECT logq.cache_clear()', '08006', qr/NOPERM[\s\S]*HINT/, 'who cannot clear it');
logged('that was asked for, and the log is not told');
works('user without a password', $guarded, mapping => { user => 'nobody' });
works('name of a host', $guarded, options => { %at, host => 'localhost' });
{
	my ($user) = $c->sql('SELECT current_user');

	$guarded->command('FLUSHALL');
	lead_to($guarded, mapping => { password => 'wr0ng' });
	$c->sql("CREATE USER MAPPING FOR \"$user\" SERVER redis OPTIONS (password " . LogqTest::lit($guarded->{password}) . ')');
	warm($s);
	cmp_ok(same($s, 'a mapping of the owner: same answers'), '>=', 3 * $all, 'a mapping of the owner comes before that of PUBLIC');
	log_lines();
}
works_not('wrong password', qr/does not take user and password: WRONGPASS /, $guarded, mapping => { password => 'wr0ng-99' });
works_not('wrong user', qr/does not take user and password: WRONGPASS /, $guarded, mapping => { user => 'n0body', password => 'wr0ng-99' });
works_not('no password', qr/NOAUTH/, $guarded, mapping => {});
works_not('a password that nobody wants', qr/does not take user and password/, $redis, mapping => { password => 'wr0ng-99' });
works_not('no such database', qr/does not open database 4711/, $guarded, options => { %at, db => 4711 });
works_not('other keys than allowed', qr/NOPERM/, $guarded, options => { %at, prefix => 'x:' },
	mapping => { user => 'lim', password => 'l1mited' });
works_not('nobody listens', qr/could not connect: Connection refused/, $redis,
	options => { host => '127.0.0.1', port => PostgreSQL::Test::Cluster::get_free_port() });
works_not('no such socket', qr/could not connect: No such file/, $redis, options => { socket => '/nowhere/redis.sock' });
works_not('no such name', qr/could not look up host "no\.such\.name\.invalid"|no address for its name/, $redis,
	options => { host => 'no.such.name.invalid' });
works_not('another kind of server', qr/answers make no sense|connection lost|no answer/, $redis,
	options => { socket => $c->part('p1')->host . '/.s.PGSQL.' . $c->part('p1')->port });
$guarded->command('CONFIG', 'SET', 'maxclients', 1);
works_not('no more clients', qr/max number of clients|connection lost/, $guarded, options => { %at, db => 1 });
$guarded->command('CONFIG', 'SET', 'maxclients', 100);
{
	# what the mapping says changes under a session
	lead_to($guarded, mapping => { password => 'wr0ng-99' });
	$s->query($small);
	$c->sql('ALTER USER MAPPING FOR PUBLIC SERVER redis OPTIONS (SET password ' . LogqTest::lit($guarded->{password}) . ')');
	warm($s);
	cmp_ok(same($s, 'password corrected: same answers'), '>=', 3 * $all + 1, 'a corrected password is used at once');
	like(join('|', log_lines()), qr/^$opened[^|]*WRONGPASS[^|]*$/, 'one line of the wrong one');
	is(stat_cache('state'), 'closed', 'and what is configured now has done nothing wrong');
}
unlike(slurp_file($c->coordinator->logfile) =~ s/^.*STATEMENT:.*$//mgr, qr/wr0ng-99|l1mited|s3same/, 'no password is in the log');
unlike($c->sql('SELECT string_agg(to_json(s)::text, E\'\n\') FROM logq.stat_cache s'), qr/wr0ng-99|l1mited|s3same/, 'or in the view');
$guarded->stop;

# ---------- TLS ----------

my $tls_dir = "$PostgreSQL::Test::Utils::tmp_check/tls";

sub make_certificate
{
	my ($name, $for) = @_;
	my $run = sub { IPC::Run::run([ 'openssl', @_ ], '>', '/dev/null', '2>', '/dev/null') or die "openssl @_"; };

	if (!-e "$tls_dir/ca.crt")
	{
		mkdir $tls_dir or die $!;
		$run->(qw(req -new -x509 -nodes -days 30 -subj /CN=ca -newkey rsa:2048),
			'-keyout', "$tls_dir/ca.key", '-out', "$tls_dir/ca.crt");
	}
	open my $f, '>', "$tls_dir/ext" or die $!;
	print $f "subjectAltName=$for\n";
	close $f;
	$run->(qw(req -new -nodes -newkey rsa:2048), '-subj', "/CN=$name", '-keyout', "$tls_dir/$name.key", '-out', "$tls_dir/$name.csr");
	$run->(qw(x509 -req -days 30 -CAcreateserial), '-in', "$tls_dir/$name.csr", '-CA', "$tls_dir/ca.crt",
		'-CAkey', "$tls_dir/ca.key", '-extfile', "$tls_dir/ext", '-out', "$tls_dir/$name.crt");
	return;
}

SKIP:
{
	my $r = $c->try("CREATE SERVER tls FOREIGN DATA WRAPPER logq_redis OPTIONS (tls 'on'); DROP SERVER tls");

	if ($r->{state} ne '')
	{
		is($r->{state}, '0A000', 'without TLS in hiredis, it cannot be configured');
		like($r->{err}, qr/TLS to Redis is not supported[\s\S]*HINT:.*hiredis/, 'and that says what to do');
		skip 'hiredis has no TLS', 1;
	}
	make_certificate('server', 'IP:127.0.0.1,DNS:redis.test');
	make_certificate('client', 'DNS:client.test');

	my $safe = LogqRedis->new(name => 'safe', password => 'pw', conf => [],
		tls => { cert => "$tls_dir/server.crt", key => "$tls_dir/server.key", ca => "$tls_dir/ca.crt" });
	my %tls = (host => $safe->host, port => $safe->port, tls => 'on', sslrootcert => "$tls_dir/ca.crt");

	works('TLS', $safe, options => {%tls});
	works('TLS with a name', $safe, options => { %tls, tls_server_name => 'redis.test' });
	works_not('another name', qr/hostname mismatch/i, $safe, options => { %tls, tls_server_name => 'other.test' });
	works_not('another authority', qr/self.signed|verify/, $safe, options => { %tls, sslrootcert => "$tls_dir/client.crt" });
	works_not('no such file', qr/could not load root certificates: No such file/, $safe, options => { %tls, sslrootcert => '/nowhere' });
	works_not('no TLS to a server that wants it', qr/connection lost|make no sense/, $safe,
		options => { host => $safe->host, port => $safe->port });
	$safe->command('CONFIG', 'SET', 'tls-auth-clients', 'yes');
	works_not('no certificate of ours', qr/certificate required|connection lost/, $safe, options => {%tls});
	works('a certificate of ours', $safe, options => { %tls, sslcert => "$tls_dir/client.crt", sslkey => "$tls_dir/client.key" });
	$safe->stop;
}

# ---------- values that are not what they should be ----------

$redis->command('FLUSHALL');
lead_to($redis);
$s->quit;
$s = session();
same($s, 'the small fragment is stored', 'small');
LogqTest::poll_ok(sub { return $redis->keys == 1; }, 'one value');
{
	my ($key) = $redis->keys;
	my $value = $redis->command('GET', $key);
	my ($other_key, $other);
	my @bad;

	is(same($s, 'the value is good', 'small'), 1, 'and used');

	# Note what the small query says with this value in Redis
	my $try = sub {
		my ($what, $bytes) = @_;
		my $got;

		$redis->command('SET', $key, $bytes);
		$got = $s->query("$small; SELECT cached FROM logq.last_query()");
		push @bad, "$what: $got" if $got ne "only one\n0";
	};

	foreach my $bit (0 .. 8 * length($value) - 1)
	{
		my $flipped = $value;

		vec($flipped, $bit, 1) ^= 1;
		$try->("bit $bit", $flipped);
	}
	is(join("\n", @bad), '', 'each bit of ' . length($value) . ' bytes is missed when it is another');
	@bad = ();
	$try->("cut to $_ bytes", substr $value, 0, $_) foreach 0 .. length($value) - 1;
	is(join("\n", @bad), '', 'so is each byte when it is cut off');
	@bad = ();
	$try->('one byte more', $value . 'x');
	$try->('twice', $value x 2);
	$try->('a large one', 'x' x 3_000_000);
	is(join("\n", @bad), '', 'and what is more than there should be');

	warm($s);
	($other_key) = grep { $_ ne $key } $redis->keys;
	$other = $redis->command('GET', $other_key);
	@bad = ();
	$try->("another's value", $other);
	is(join("\n", @bad), '', 'and what is under another key');

	foreach my $type ([ 'LPUSH', 'x' ], [ 'HSET', 'a', 'b' ], [ 'SADD', 'x' ], [ 'XADD', '*', 'a', 'b' ])
	{
		my ($command, @words) = @$type;

		$redis->command('DEL', $key);
		$redis->command($command, $key, @words);
		is($s->query("$small; SELECT cached FROM logq.last_query()"), "only one\n0", "$command: of another type");
		LogqTest::poll_ok(sub { return $redis->command('TYPE', $key) eq 'string'; }, "$command: it is stored over that");
	}
	is(same($s, 'in the end it is good again', 'small'), 1, 'and used again');
	cmp_ok(stat_cache('damaged'), '>', 8 * length $value, 'they are counted');
}
logged('none of which is a failure of Redis');

# ---------- refused values ----------

warm($s);
$redis->command('CONFIG', 'SET', 'maxmemory', '1');
$redis->command('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
{
	my $dropped = stat_cache('dropped');

	cmp_ok(same($s, 'full: same answers'), '>=', 3 * $all + 1, 'a full Redis is read from');
	$s->query("SET logq.cache = refresh");
	is(same($s, 'full and refreshed: same answers'), 0, 'and not written to');
	LogqTest::poll_ok(sub { $s->query($small); return stat_cache('state') eq 'read-only'; }, 'that is seen');
	like(stat_cache('reason'), qr/^OOM /, 'with the reason');
	cmp_ok(stat_cache('dropped'), '>', $dropped, 'and counted');
	my $sets = $redis->calls('set');
	my $begin = time;

	$s->query($queries{$_}) foreach (sort keys %queries) x 2;
	cmp_ok($redis->calls('set') - $sets, '<=', 2 + time - $begin, 'it is left alone with values');
	$redis->command('CONFIG', 'SET', 'maxmemory', '0');
	LogqTest::poll_ok(sub { $s->query($small); return stat_cache('state') eq 'closed'; }, 'until it takes them again');
	logged('one line each', qr/${refused}OOM/, $taken);
}
$redis->command('REPLICAOF', '127.0.0.1', 1);
LogqTest::poll_ok(sub { $s->query($small); return stat_cache('state') eq 'read-only'; }, 'a replica takes no values');
$s->query('RESET logq.cache');
cmp_ok(same($s, 'replica: same answers'), '>=', 3 * $all + 1, 'but is read from');
$c->fails('SELECT logq.cache_clear()', '08006', qr/READONLY/, 'it cannot be cleared');
$redis->command('REPLICAOF', 'NO', 'ONE');
$s->query("SET logq.cache = refresh");
LogqTest::poll_ok(sub { $s->query($small); return stat_cache('state') eq 'closed'; }, 'until it is none any more');
$s->query('RESET logq.cache');
logged('one line each', qr/${refused}READONLY/, $taken);

# ---------- killed, hanging, flushed, loading ----------

warm($s);
$redis->kill9;
is(same($s, 'killed: same answers'), 0, 'nothing comes from a Redis that was killed');
is(stat_cache('state'), 'open', 'it is left alone');
$c->fails('SELECT logq.cache_clear()', '08006', qr/Connection refused[\s\S]*HINT/, 'it cannot be cleared');
{
	my @others = map { session() } 1 .. 3;

	same($_, 'another session') foreach @others;
	logged('all sessions have one line', qr/${opened}could not connect: Connection refused/);
	$redis->start;
	ok(wait_for_redis($s), 'it is used when it is back');
	cmp_ok(same($others[0], 'another session'), '>=', 0, 'all sessions go on');
	warm($others[0]);
	cmp_ok(same($others[0], 'again'), '>=', 3 * $all + 1, 'with values');
	logged('with one line', $closed);
	$_->quit foreach @others;
}

# a connection that was lost between queries is no failure
warm($s);
$redis->restart;
is(same($s, 'restarted between queries: same answers'), 0, 'it was empty then');
warm($s);
cmp_ok(same($s, 'filled again'), '>=', 3 * $all + 1, 'and is used');
$redis->command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
cmp_ok(same($s, 'connection killed: same answers'), '>=', 3 * $all + 1, 'a connection that was closed is made anew');
$redis->command('FLUSHALL');
is(same($s, 'flushed: same answers', 'groups'), 0, 'flushed');
logged('nothing of this is worth a line');

# a silent one, and a session that has no patience
warm($s);
{
	my $hasty = session();
	my $timeouts = stat_cache('timeouts');

	$hasty->query("SET logq.cache_timeout = '1ms'");
	$redis->freeze;

	my $begin = time;

	same($hasty, 'in haste: same answers');
	tried($begin, 'timeouts', $timeouts, 'who has no patience does not try again at once');
	is(stat_cache('state'), 'closed', 'and does not speak for others');
	logged('nor in the log');
	$redis->thaw;
	cmp_ok(same($s, 'others: same answers'), '>=', 3 * $all, 'who go on');
	$hasty->quit;
}
$redis->freeze;
{
	my $timeouts = stat_cache('timeouts');
	my $begin = time;

	is(same($s, 'hangs: same answers'), 0, 'nothing comes from a Redis that hangs');
	cmp_ok(time - $begin, '>=', $timeout, 'the first query waits for it');
	tried($begin, 'timeouts', $timeouts, 'and no other one');

	my $other = session();

	is(same($other, 'another session'), 0, 'nor does another session');
	tried($begin, 'timeouts', $timeouts, 'which does not wait');
	logged('one line', qr/${opened}no answer within \d+ ms/);
	$other->query("SET logq.cache_timeout = '100ms'");
	$timeouts = stat_cache('timeouts');
	LogqTest::poll_ok(sub { $other->query($small); return stat_cache('timeouts') > $timeouts; },
		'after a time one session asks again');
	logged('which says nothing new');
	$redis->thaw;
	ok(wait_for_redis($s), 'it is used when it goes on');
	cmp_ok(same($s, 'goes on: same answers'), '>=', 3 * $all, 'with values');
	logged('one line', $closed);
	$other->quit;
}

# a session that ends does not wait for long, cleared it is not
$redis->freeze;
{
	my $begin = time;

	$c->sql("SET logq.cache = refresh; $queries{groups}");
	cmp_ok(time - $begin, '<', $timeout + $slack, 'a session ends whatever it has stored');
	$c->fails("SET statement_timeout = '500ms'; SELECT logq.cache_clear()", '57014', qr/statement timeout/, 'clearing can be cancelled');
	cmp_ok(time - $begin, '<', $timeout + 2 * $slack, 'at once');
}
$redis->thaw;
ok(wait_for_redis($s), 'it is used again');
log_lines();

# it loads
warm($s);
$redis->command('SET', "filler:$_", 'x' x 1000) foreach 1 .. 500;
$redis->command('SAVE');
$redis->kill9;
$redis->start('key-load-delay 10000', 'loading-process-events-interval-bytes 1024');
SKIP:
{
	skip 'this Redis loads too fast', 4
	  unless $redis->command('INFO', 'persistence') =~ /^loading:1/m;
	LogqTest::poll(sub { same($s, 'loading: same answers', 'rows'); return stat_cache('state') ne 'closed'; }, 5);
	like(stat_cache('reason'), qr/^LOADING/, 'one that loads is left alone');
	ok(wait_for_redis($s), 'until it has');
	logged('one line each', qr/${opened}LOADING/, $closed);
}
unlink $redis->dir . '/dump.rdb';
$redis->restart;
log_lines();

# ---------- restarted again and again, while sessions query ----------

{
	my @sessions = map { session() } 1 .. 3;
	my @names = sort keys %queries;
	my @wrong;
	my $slowest = 0;

	warm($s);
	foreach my $round (1 .. 24)
	{
		my @q = map { $names[ ($round + $_) % @names ] } 0 .. $#sessions;
		my $begin = time;

		$sessions[$_]->send($queries{ $q[$_] }) foreach 0 .. $#sessions;
		if ($round % 4 == 0) { $redis->kill9; }
		elsif ($round % 4 == 1 && !$redis->pid) { $redis->start; }
		elsif ($round % 4 == 2) { $redis->command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes') if $redis->pid; }
		elsif ($redis->pid) { $redis->command('FLUSHALL'); }
		foreach my $i (0 .. $#sessions)
		{
			my $got = $sessions[$i]->wait // 'no answer';

			push @wrong, "round $round, $q[$i]: $got" if $got ne $answers{ $q[$i] };
		}
		$slowest = time - $begin if time - $begin > $slowest;
	}
	is(join("\n", @wrong), '', 'answers are the same whatever happens meanwhile');
	cmp_ok($slowest, '<', $timeout + $slack, 'and come in time');
	$redis->start unless $redis->pid;
	ok(wait_for_redis($s), 'in the end it is used');

	my @lines = log_lines();
	my $state = 1;
	my $good = 1;

	foreach my $line (@lines)
	{
		$good = 0 unless $state ? $line =~ $opened : $line =~ $closed;
		$state = !$state;
	}
	ok($good && $state, 'lines of opening and closing take turns') or diag(explain(\@lines));
	$_->quit foreach @sessions;
}

# ---------- settings ----------

warm($s);
$s->query("SET logq.cache_server = ''");
is(same($s, 'no name: same answers'), 0, 'no name of a server: no Redis');
$c->sql($redis->server_sql(name => 'second', options => { host => $redis->host, port => $redis->port, prefix => 'second:' }));
$s->query("SET logq.cache_server = 'second'");
warm($s);
cmp_ok(same($s, 'another server: same answers'), '>=', 3 * $all + 1, 'another name, another server');
cmp_ok(scalar($redis->keys('second:')), '>=', 3 * $all + 1, 'with keys of its own');
$c->sql('DROP SERVER second CASCADE');
is(same($s, 'dropped: same answers'), 0, 'it is dropped');
$s->query('RESET logq.cache_server');
cmp_ok(same($s, 'the first one: same answers'), '>=', 3 * $all + 1, 'the first one is still there');
$s->query("BEGIN; DROP SERVER redis CASCADE");
is(same($s, 'dropped in a transaction: same answers'), 0, 'its own transaction does not see it');
$s->query('ROLLBACK');
cmp_ok(same($s, 'rolled back: same answers'), '>=', 3 * $all + 1, 'until that is rolled back');
{
	my $age = sub {
		my $answer = $s->query($queries{groups});

		return $answer eq $answers{groups} ? $s->query('SELECT coalesce(cache_age_ms, 0) FROM logq.last_query()') : $answer;
	};

	LogqTest::poll_ok(sub { return $age->() > 1000; }, 'what is old is used');
	$s->query("SET logq.cache_ttl = '1s'");
	cmp_ok($age->(), '<=', 1000, 'what is too old is not used');
}
logged('no line for any of this');

$c->quiet('nothing is left on the partitions');
done_testing();
