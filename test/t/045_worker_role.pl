# Background workers as a role that is no superuser.

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

$c->sql("SELECT logq.add_topic('t', '127.0.0.1:1')");
users_become($superuser, 'without a role, workers are the bootstrap superuser');

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
is($c->sql("SELECT count(*) FROM logq.segments WHERE upper > now()"), $c->sql("SELECT sum(segments) - 6 FROM logq.partitions"),
	'segments are made ahead');
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
is(users('maintenance'), '', 'and nobody works');
set_role('group_only');
LogqTest::poll_ok(sub { return slurp_file($node->logfile, $offset) =~ /role "group_only" is not permitted to log in/; },
	'nor as one that may not log in');
$c->sql('REVOKE CONNECT ON DATABASE logs FROM PUBLIC; GRANT CONNECT ON DATABASE logs TO other');
set_role('worker');
LogqTest::poll_ok(sub { return slurp_file($node->logfile, $offset) =~ /permission denied for database "logs"/; },
	'nor as one that may not connect to the database');
$c->sql('GRANT CONNECT ON DATABASE logs TO worker');
users_become('worker', 'once it may, they go on');
$c->fails("SET logq.worker_role = 'postgres'", '55P02', qr/logq\.worker_role/, 'sessions cannot change it');
done_testing();
