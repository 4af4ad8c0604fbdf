# Who may connect as whom, who may read what, and where passwords never show.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(partitions => 2);
my $password = LogqTest::lit($LogqTest::password);
my $few = "SELECT count(*) FROM logq.logs WHERE level = 'ERROR'";

# On the partitions: "open" is let in without a password, "reader" may only read
foreach my $name ($c->names)
{
	$c->on($name, <<"SQL");
CREATE ROLE open LOGIN;
CREATE ROLE reader LOGIN PASSWORD 'rEAd-only-81';
GRANT USAGE ON SCHEMA logq_store TO open, reader;
GRANT SELECT ON logq_store.log TO open, reader;
SQL
	my $hba = $c->part($name)->data_dir . '/pg_hba.conf';
	my $lines = slurp_file($hba);

	open my $f, '>', $hba or die $!;
	print $f "local all reader scram-sha-256\n$lines";
	close $f;
	$c->part($name)->reload;
}
$c->sql(<<'SQL');
INSERT INTO logq.logs (ts, level, service, message, partition)
SELECT now() - i * interval '1 minute', CASE i % 10 WHEN 0 THEN 'ERROR' ELSE 'INFO' END,
	'web', 'message ' || i, 'p' || 1 + i % 2
FROM generate_series(0, 199) i;
CREATE ROLE alice LOGIN;
CREATE ROLE bob LOGIN;
CREATE ROLE carol LOGIN;
GRANT USAGE ON SCHEMA logq TO alice, bob, carol;
GRANT SELECT ON logq.logs TO alice, bob, carol;
GRANT CREATE ON SCHEMA public TO alice, bob;
SQL
is($c->sql($few), 20, 'the superuser sees all rows');

# the settings of a user's mappings, on all partitions
sub mapping
{
	my ($user, $options) = @_;

	$c->sql(join '', map {
		"DROP USER MAPPING IF EXISTS FOR $user SERVER $_;" .
		  (defined $options ? "CREATE USER MAPPING FOR $user SERVER $_ OPTIONS ($options);" : '')
	} $c->names);
	return;
}

# ---------- passwords ----------

$c->fails($few, '42704', qr/user mapping not found/, 'a user without a mapping', user => 'alice');
mapping('alice', "user 'logq'");
$c->fails($few, '2F003', qr/password is required/, 'a mapping without a password', user => 'alice');
mapping('alice', "user 'logq', password ''");
$c->fails($few, '2F003', qr/password is required/, 'an empty password', user => 'alice');
mapping('alice', "user 'open'");
$c->fails($few, '2F003', qr/password is required/, 'a server that asks for none', user => 'alice');
mapping('alice', "user 'open', password 'whatever'");
$c->fails($few, '2F003', qr/password is required/, 'a password that the server does not ask for',
	user => 'alice');
$c->quiet('nothing is left on the partitions');
mapping('alice', "user 'logq', password $password");
$c->gives($few, 20, 'with a password the user reads', user => 'alice');

# the server's own identity and files must not help
{
	local $ENV{PGPASSWORD} = $LogqTest::password;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/pgpass";
	my $restart = LogqTest::start_coordinator('careless');

	open my $f, '>', $file or die $!;
	print $f "*:*:*:logq:" . ($LogqTest::password =~ s/([:\\])/\\$1/gr) . "\n";
	close $f;
	chmod 0600, $file;
	$restart->stop;
	local $ENV{PGPASSFILE} = $file;
	$restart->start;
	$restart->safe_psql('logs', $c->server_sql('p1') . <<"SQL");
SELECT logq.add_partition('p1');
CREATE ROLE alice LOGIN;
GRANT USAGE ON SCHEMA logq TO alice;
GRANT SELECT ON logq.logs TO alice;
CREATE USER MAPPING FOR alice SERVER p1 OPTIONS (user 'logq');
SQL
	$c->fails($few, '2F003', qr/password is required/,
		'passwords in the environment of the server are not for users', user => 'alice', node => $restart);
	$restart->safe_psql('logs', "ALTER USER MAPPING FOR alice SERVER p1 OPTIONS (ADD password 'Wr0ngOne')");
	$c->fails($few, '08001|28P01|2F003', qr/ERROR/, 'nor if theirs is wrong', user => 'alice', node => $restart);
	$restart->stop;
}

# ---------- password_required and other options ----------

$c->sql('GRANT USAGE ON FOREIGN SERVER p1, p2 TO alice');
$c->fails("ALTER USER MAPPING FOR alice SERVER p1 OPTIONS (ADD password_required 'false')",
	'42501', qr/password_required=false is superuser-only/, 'users cannot lift the rule for themselves',
	user => 'alice');
$c->fails("ALTER USER MAPPING FOR alice SERVER p1 OPTIONS (ADD $_ '/etc/hostname')",
	'42501', qr/superuser-only/, "nor set $_", user => 'alice')
  foreach qw(sslcert sslkey);
mapping('alice', "user 'open', password_required 'false'");
$c->gives($few, 20, 'the superuser can', user => 'alice');
$c->fails("ALTER USER MAPPING FOR alice SERVER p1 OPTIONS (SET user 'logq')",
	'42501', qr/ERROR/, 'and then the user cannot change whom it is for', user => 'alice');
$c->fails("ALTER USER MAPPING FOR alice SERVER p1 OPTIONS (DROP password_required); $few",
	'2F003', qr/"p1"/, 'but can give it up', user => 'alice');
mapping('alice', "user 'logq', password $password");
$c->gives("ALTER USER MAPPING FOR alice SERVER p1 OPTIONS (SET password $password); $few", 20,
	'users can change their passwords', user => 'alice');

$c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_fdw OPTIONS (hst 'h')", 'HV00D',
	qr/invalid option "hst"[\s\S]*"host"[\s\S]*dbname/, 'a wrong option of a server, with a hint');
$c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_fdw OPTIONS (password 'secret')", 'HV00D',
	qr/invalid option "password"/, 'a server has no password');
$c->fails("CREATE USER MAPPING FOR bob SERVER p1 OPTIONS (passwrd 'secret')", 'HV00D',
	qr/invalid option "passwrd"[\s\S]*"password"/, 'a wrong option of a mapping, with a hint');
$c->fails("CREATE USER MAPPING FOR bob SERVER p1 OPTIONS (host 'h')", 'HV00D',
	qr/invalid option "host"[\s\S]*user/, 'a mapping has no host');
$c->fails("CREATE FOREIGN TABLE x (ts timestamptz) SERVER logq OPTIONS (a 'b')", 'HV00D',
	qr/invalid option "a"/, 'tables have no options');
$c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_fdw OPTIONS (port '0')", 'HV024',
	qr/"port"/, 'a wrong value');
foreach my $option (qw(options client_encoding replication fallback_application_name))
{
	$c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_fdw OPTIONS ($option 'x')", 'HV00D',
		qr/invalid option "$option"/, "$option is set by logq alone");
}

# a database name is not a whole connection string
$c->sql("CREATE SERVER sly FOREIGN DATA WRAPPER logq_fdw OPTIONS (host '"
	  . $c->part('p1')->host . "', port '" . $c->part('p1')->port
	  . "', dbname 'user=open dbname=logs'); CREATE USER MAPPING FOR CURRENT_USER SERVER sly OPTIONS (user 'logq', password $password)");
$c->fails("SELECT logq.add_partition('sly')", '08001|3D000', qr/"sly"[\s\S]*user=open/,
	'a database name smuggles in no other options');

# ---------- one session, several users ----------

{
	my $s = $c->session;

	mapping('alice', undef);
	is($s->query($few), 20, 'the superuser has connections');
	$s->query('SET ROLE alice');
	like($s->query($few), qr/42704|user mapping/, 'which are not for another role');
	mapping('alice', "user 'logq', password 'Wr0ngOne'");
	like($s->query($few), qr/ERROR:\s+(08001|28P01)/, 'nor if its own mapping is wrong');
	$s->query('RESET ROLE');
	is($s->query($few), 20, 'they are still there');
	$s->query('SET SESSION AUTHORIZATION carol');
	like($s->query($few), qr/user mapping/, 'nor for another user');
	$s->quit;
	mapping('alice', undef);
}

# ---------- views and functions ----------

mapping('bob', "user 'reader', password 'rEAd-only-81'");
$c->sql(<<'SQL', extra_params => [ '-U', 'bob' ]);
CREATE VIEW errors AS SELECT * FROM logq.logs WHERE level = 'ERROR';
CREATE VIEW errors_barrier WITH (security_barrier) AS
	SELECT ts, message FROM logq.logs WHERE level = 'ERROR';
CREATE VIEW errors_invoker WITH (security_invoker) AS
	SELECT * FROM logq.logs WHERE level = 'ERROR';
CREATE FUNCTION count_errors() RETURNS bigint LANGUAGE sql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $$ SELECT count(*) FROM logq.logs WHERE level = 'ERROR' $$;
GRANT SELECT ON errors, errors_barrier, errors_invoker TO alice, carol;
SQL
$c->fails($few, '42704', qr/user mapping not found/, 'a user without a mapping', user => 'alice');
$c->gives('SELECT count(*) FROM errors', 20, 'reads a view of one who has one', user => 'alice');
$c->gives('SELECT count(*) FROM (SELECT * FROM errors ORDER BY ts DESC, id DESC LIMIT 5) s', 5,
	'in order', user => 'alice');
$c->gives('SELECT count(*) FROM errors a JOIN errors b USING (id)', 20, 'joined with itself',
	user => 'alice');
$c->gives("SELECT count(*) FROM errors_barrier WHERE message LIKE 'message 1%'", 11,
	'with a security barrier', user => 'alice');
$c->gives('SELECT count_errors()', 20, 'and a function of one who has one', user => 'alice');
$c->fails('SELECT count(*) FROM errors_invoker', '42704', qr/user mapping not found/,
	'but not a view that runs as its caller', user => 'alice');
$c->fails("SELECT count(*) FROM errors WHERE id IN (SELECT id FROM logq.logs)", '42704',
	qr/user mapping not found/, 'nor the table besides', user => 'alice');
like($c->on('p1', "SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE usename IN ('logq', 'open', 'reader') AND state IS NOT NULL") ,
	qr/^(|logq|reader|logq,reader)$/, 'nobody was there whom no mapping names');

# a function that leaks what it sees must not see what the barrier hides
$c->sql(<<'SQL', extra_params => [ '-U', 'alice' ]);
CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001
	AS 'BEGIN RAISE NOTICE ''leak: %'', $1; RETURN true; END';
SQL
{
	my $r = $c->try('SELECT count(*) FROM errors_barrier WHERE leak(message)', user => 'alice');
	my %seen = map { $_ => 1 } $r->{err} =~ /leak: (message \d+)/g;

	is($r->{out}, 20, 'a leaky function on a view with a barrier');
	is(scalar(grep { !/0$/ } keys %seen), 0, 'sees only what is in the view');
}

# ---------- what a reader needs ----------

mapping('carol', undef);
$c->sql(join '', map {
	"CREATE USER MAPPING FOR PUBLIC SERVER $_ OPTIONS (user 'reader', password 'rEAd-only-81');"
} $c->names);
$c->gives("SELECT count(*) FROM logq.search(level => 'ERROR', start_time => now() - interval '1 day')",
	20, 'USAGE on the schema and SELECT on the table are enough to search', user => 'carol');
$c->gives($few, 20, 'and to read', user => 'carol');
$c->gives("SET logq.enable_filter_pushdown = off; $few", 20, 'settings are for all', user => 'carol');
$c->gives("EXPLAIN (COSTS OFF) $few" =~ s/count\(\*\)/1/r, $c->try("EXPLAIN (COSTS OFF) $few" =~ s/count\(\*\)/1/r)->{out},
	'so is EXPLAIN', user => 'carol');
$c->fails("INSERT INTO logq.logs (ts) VALUES (now())", '42501', qr/permission denied/,
	'not to write', user => 'carol');
$c->fails("SELECT logq.$_", '42501', qr/permission denied/, "not to call $_", user => 'carol')
  foreach "add_partition('p1')", "remove_partition('p1', true)";
$c->fails('SELECT * FROM logq.partition', '42501', qr/permission denied/,
	'not to read the list of partitions', user => 'carol');
$c->fails('SELECT * FROM logq.partitions', '42501', qr/permission denied/, 'nor their state',
	user => 'carol');
$c->sql('GRANT SELECT ON logq.partitions TO carol; GRANT EXECUTE ON FUNCTION logq.partition_status() TO carol');
is($c->try("SELECT string_agg(state, ' ') FROM logq.partitions", user => 'carol')->{out}, 'up up',
	'which can be granted');
$c->sql('GRANT INSERT ON logq.logs TO carol');
$c->fails("INSERT INTO logq.logs (ts, level) VALUES (now(), 'lost')", '42501', qr/"p[12]"[\s\S]*permission denied/,
	'who may only read on the partition cannot write', user => 'carol');
is($c->sql("SELECT count(*) FROM logq.logs WHERE level = 'lost'"), 0, 'and nothing is stored');
$c->fails("INSERT INTO logq.logs (ts, level) VALUES ('2040-01-01 00:00+00', 'lost')", '42501',
	qr/"p[12]"[\s\S]*permission denied/, 'nor make a segment', user => 'carol');
is(join(' ', map { $c->on($_, "SELECT count(*) FROM logq_store.segment WHERE lower > '2039-01-01'") } $c->names),
	'0 0', 'and none is made');
mapping('carol', "user 'logq', password $password");
$c->gives("INSERT INTO logq.logs (ts, level) VALUES ('2040-01-01 00:00+00', 'carol') RETURNING level",
	'carol', 'with a mapping that may, and INSERT, a user writes', user => 'carol');
mapping('carol', undef);
$c->gives("SELECT count(*) FROM logq.logs WHERE level = 'carol'", 1,
	'a new segment can be read by those who could read the others', user => 'carol');
$c->sql('REVOKE SELECT ON logq.logs FROM carol');
$c->fails($few, '42501', qr/permission denied/, 'without SELECT nobody reads', user => 'carol');
$c->fails('SELECT * FROM logq.search()', '42501', qr/permission denied/, 'nor searches', user => 'carol');
$c->sql('REVOKE INSERT ON logq.logs FROM carol; GRANT SELECT (ts, level) ON logq.logs TO carol');
$c->gives("SELECT count(level) FROM logq.logs WHERE level = 'ERROR'", 20,
	'columns can be granted', user => 'carol');
$c->fails('SELECT message FROM logq.logs', '42501', qr/permission denied/, 'one by one', user => 'carol');

# rows of a level of security, on the partition
$c->on('p1', <<'SQL');
DO $$
DECLARE
	s name;
BEGIN
	FOR s IN SELECT name FROM logq_store.segment LOOP
		EXECUTE format('ALTER TABLE logq_store.%I ENABLE ROW LEVEL SECURITY', s);
	END LOOP;
END $$;
SQL
$c->gives("SELECT count(level) FROM logq.logs WHERE level = 'ERROR'",
	$c->sql("SELECT count(*) FROM logq.logs WHERE level = 'ERROR' AND partition = 'p2'"),
	'row level security of a partition holds', user => 'carol');

# ---------- where passwords never show ----------

{
	my $secret = qr/\Q$LogqTest::password\E|pass%word|rEAd-only-81|Wr0ngOne/;
	my $r = $c->try("EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) SELECT * FROM logq.logs WHERE level = 'ERROR' ORDER BY ts LIMIT 3");
	my ($logs, $err) = ('', '');

	like($r->{out}, qr/"Node Type"/, 'EXPLAIN VERBOSE');
	unlike($r->{out} . $r->{err}, $secret, 'EXPLAIN VERBOSE shows no password');
	unlike($c->sql('SELECT * FROM logq.partitions'), $secret, 'nor does logq.partitions');

	mapping('alice', "user 'logq', password 'Wr0ngOne'");
	$r = $c->try($few, user => 'alice');
	like($r->{state}, qr/08001|28P01/, 'a wrong password');
	unlike($r->{err}, $secret, 'is not shown');
	$c->sql("ALTER SERVER p1 OPTIONS (SET dbname 'nowhere')");
	$r = $c->try($few);
	isnt($r->{state}, '', 'a wrong database');
	$err .= $r->{err};
	$c->sql("ALTER SERVER p1 OPTIONS (SET dbname 'logs', ADD sslmode 'verify-full')");
	$err .= $c->try($few)->{err};
	$c->sql("ALTER SERVER p1 OPTIONS (DROP sslmode)");
	$err .= $c->try('SELECT count(*) FROM logq.logs WHERE length(message) / (id - id) = 1')->{err};
	$err .= $c->try('SELECT * FROM logq.partitions')->{out};
	unlike($err, $secret, 'no error shows a password');
	is($c->try("SELECT count(*) FROM pg_user_mappings WHERE umoptions::text LIKE '%pass%'", user => 'carol')->{out},
		0, 'users do not see mappings of others');

	$logs .= slurp_file($_->logfile)
	  foreach $c->coordinator, map { $c->part($_) } $c->names;
	# the test's own statements are not logged, unless they fail
	$logs =~ s/^.*STATEMENT:.*$//mg;
	unlike($logs, $secret, 'no log holds a password');
}
done_testing();
