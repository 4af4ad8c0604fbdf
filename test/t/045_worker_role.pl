# Background workers are a role that is no superuser, by default and as set.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(partitions => 2,
	coordinator_conf => [ "logq.databases = 'logs'", 'logq.seal_after = 0' ]);
my $node = $c->coordinator;

# whom the workers of a kind are connected as
sub users
{
	my ($kind) = @_;

	return $c->sql("SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE backend_type = 'logq $kind'");
}

sub set_role
{
	my ($role) = @_;

	$c->sql("ALTER SYSTEM SET logq.worker_role = '$role'");
	$node->reload;
	return;
}

sub users_become
{
	my ($user, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll_ok(sub { return users('maintenance') eq $user && users('ingest') eq $user; }, $name)
	  or diag(users('maintenance') . '; ' . users('ingest'));
	return;
}

my $superuser = $c->sql('SELECT rolname FROM pg_roles WHERE oid = 10');

# the server was started before there was a database, and a role
my $before = () = slurp_file($node->logfile) =~ /no worker of logq is started: role "logq_worker" does not exist/g;
cmp_ok($before, '<=', 1, 'a server without the extension says so once, if it came to look');
$c->sql("SELECT logq.add_topic('t', '127.0.0.1:1')");
users_become('logq_worker', 'workers are a role that CREATE EXTENSION has made');
is($c->sql("SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = 'logq_worker'"), 'f',
	'which has no attributes');
is($c->sql("SELECT count(*) FROM pg_shdepend WHERE refobjid = 'logq_worker'::regrole"), 0, 'nor rights, nor owns anything');
is($c->sql("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'logq_worker'"),
	$c->sql("SELECT current_setting('server_version_num')::int < 170000"), 'and can log in only where a worker has to');
is($c->sql("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'logq_worker'"), 't', '... without a password');
set_role('');
users_become($superuser, 'with an empty name, they are the bootstrap superuser');

$c->sql('CREATE ROLE worker LOGIN; CREATE ROLE other LOGIN; CREATE ROLE group_only NOLOGIN');
set_role('worker');
users_become('worker', 'with one, they are that');
is($c->sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'worker'"), 'f', 'which is no superuser');

# and do all their work.  The sealer is short-lived: the test looks at what is left.
$c->sql("CREATE FUNCTION public.who() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN INSERT INTO public.seen VALUES (session_user, current_user); RETURN NULL; END \$\$;
CREATE TABLE public.seen (session_role name, role name);
CREATE TRIGGER who AFTER INSERT OR UPDATE ON logq.catalog_segment FOR EACH STATEMENT EXECUTE FUNCTION public.who()");
$c->sql("INSERT INTO logq.logs (ts, level, message, partition) SELECT '2026-03-01 12:00+00'::timestamptz + i % 3 * interval '1 hour', 'INFO', 'm' || i, 'p' || 1 + i % 2 FROM generate_series(0, 599) i");
LogqTest::poll_ok(sub {
	return $c->sql("SELECT count(*) FROM logq.segments WHERE state = 'sealed' AND lower < '2026-03-02'") eq '6';
}, 'segments are sealed, and their catalog is copied');
is($c->sql("SELECT string_agg(DISTINCT session_role, ',') FROM public.seen"), 'worker', 'by sessions of that role');
$c->sql('DROP TRIGGER who ON logq.catalog_segment');
LogqTest::poll_ok(sub {
	return $c->sql('SELECT count(*) FROM logq.catalog_status() WHERE confirmed_at IS NOT NULL AND error IS NULL') eq '2';
}, 'and confirmed');
# all but those six; an hour may have ended meanwhile
LogqTest::poll_ok(sub {
	return $c->sql("SELECT count(*) FROM logq.segments WHERE upper > now() - interval '5 minutes'")
	  eq $c->sql('SELECT sum(segments) - 6 FROM logq.partitions');
}, 'segments are made ahead');
is($c->sql("SELECT count(DISTINCT partition) FROM logq.segments WHERE upper > now()"), 2, '... on both');
$c->sql("SELECT logq.set_retention('1 day')");
LogqTest::poll_ok(sub {
	return $c->sql("SELECT count(*) FROM logq.segments WHERE upper < now() - interval '2 days'") eq '0';
}, 'and dropped');

set_role('other');
users_become('other', 'another one is taken when the configuration is read');

# roles that will not do
my $offset = -s $node->logfile;

set_role('nobody_there');
LogqTest::poll_ok(sub { return slurp_file($node->logfile, $offset) =~ /role "nobody_there" does not exist/; },
	'a role that does not exist is in the log');
LogqTest::poll_ok(sub { return users('maintenance') . users('ingest') eq ''; }, 'and nobody works');
like($c->sql("SELECT detail || ' ' || what_to_do FROM logq.health() WHERE check_name = 'maintenance' AND NOT ok"),
	qr/no maintenance worker.*the role "nobody_there" does not exist.*logq\.worker_role/, 'health() says why, and what to do');
$c->sql('CREATE ROLE nobody_there LOGIN');
users_become('nobody_there', 'they do as soon as it exists');
is(() = slurp_file($node->logfile, $offset) =~ /role "nobody_there" does not exist/g, 1, 'it was logged once');
set_role('group_only');
if ($c->sql("SELECT current_setting('server_version_num')::int < 170000") eq 't')
{
	LogqTest::poll_ok(sub { return slurp_file($node->logfile, $offset) =~ /role "group_only" is not permitted to log in/; },
		'nor as one that may not log in');
	like($c->sql("SELECT detail FROM logq.health() WHERE check_name = 'maintenance' AND NOT ok"), qr/the role "group_only" cannot log in/,
		'which health() says');
}
else
{
	users_become('group_only', 'one that may not log in will do');
}
$c->sql('REVOKE CONNECT ON DATABASE logs FROM PUBLIC; GRANT CONNECT ON DATABASE logs TO other');
set_role('worker');
LogqTest::poll_ok(sub { return slurp_file($node->logfile, $offset) =~ /permission denied for database "logs"/; },
	'nor as one that may not connect to the database');
like($c->sql("SELECT detail FROM logq.health() WHERE check_name = 'maintenance' AND NOT ok"), qr/the role "worker" may not connect/,
	'which health() says');
$c->sql('GRANT CONNECT ON DATABASE logs TO worker');
users_become('worker', 'once it may, they go on');
$c->fails("SET logq.worker_role = 'postgres'", '55P02', qr/logq\.worker_role/, 'sessions cannot change it');

# a database that is not for everybody
$node->safe_psql('postgres', 'CREATE DATABASE closed');
$node->safe_psql('postgres', 'REVOKE CONNECT ON DATABASE closed FROM PUBLIC');
$node->safe_psql('closed', 'CREATE EXTENSION logq');
is($node->safe_psql('postgres', "SELECT has_database_privilege('logq_worker', 'closed', 'CONNECT'), has_database_privilege('other', 'closed', 'CONNECT')"),
	't|f', 'CREATE EXTENSION lets workers in');
done_testing();
