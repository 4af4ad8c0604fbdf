# What outlives a coordinator, and a version: a dump that is restored, a
# coordinator that is made anew from its partitions, a second one beside the
# first, stores of an older format, and the scripts of the extension.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = LogqTest->new(partitions => 3, segment_interval => '1 hour');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = $c->coordinator;

# ---------- helpers ----------

# All that a coordinator can say of the rows, in one text
sub answers
{
	my ($on, $db, @more) = @_;

	return join "\n---\n", map { $on->safe_psql($db, $_, @more) } (
		"SELECT count(*), min(ts), max(ts), sum(hashtext(id || coalesce(message, '-') || coalesce(attrs::text, '-'))) FROM logq.logs",
		"SELECT partition, count(*) FROM logq.logs GROUP BY 1 ORDER BY 1",
		"SELECT service, level, count(*) FROM logq.logs GROUP BY 1, 2 ORDER BY 1, 2",
		"SELECT * FROM logq.search(level => 'ERROR', start_time => '2026-03-01 00:00+00', end_time => '2026-03-01 03:00+00', max_rows => 50)",
		"SELECT * FROM logq.search(contains => 'NUMBER 77', start_time => '2026-03-01 00:00+00', end_time => '2026-03-02 00:00+00', max_rows => NULL)",
		"SELECT * FROM logq.histogram('30 minutes', '2026-03-01 00:00+00', '2026-03-01 04:00+00', by => 'level')",
		"SELECT id, partition, message FROM logq.logs WHERE trace_id = md5('42') ORDER BY ts, id");
}

# What a coordinator knows of its own
sub knowledge
{
	my ($on, $db) = @_;

	return join "\n---\n", map { $on->safe_psql($db, $_) } (
		'SELECT number, server, same_locale, added, locale FROM logq.partition ORDER BY 1',
		'SELECT last_value FROM logq.partition_number',
		'SELECT * FROM logq.topic ORDER BY 1',
		'SELECT * FROM logq.topic_secret ORDER BY 1',
		'SELECT last_value, is_called FROM logq.topic_number_seq',
		q{SELECT srvname, fdwname, (SELECT array_agg(o ORDER BY o) FROM unnest(srvoptions) o) FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw ORDER BY 1},
		'SELECT srvname, usename, (SELECT array_agg(o ORDER BY o) FROM unnest(umoptions) o) FROM pg_user_mappings ORDER BY 1, 2',
		q{SELECT relname, relacl FROM pg_class WHERE relnamespace = 'logq'::regnamespace AND relkind IN ('r', 'v', 'f', 'S') ORDER BY 1},
		q{SELECT oid::regprocedure, proacl FROM pg_proc WHERE pronamespace = 'logq'::regnamespace ORDER BY oid::regprocedure::text},
		q{SELECT tgname, tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgname ~ 'changed$' ORDER BY 1, 2::text});
}

# The definition of a schema, as pg_dump writes it
sub schema_dump
{
	my ($on, $db, $schema) = @_;
	my ($out, $err);

	local $ENV{PGHOST} = $on->host;
	local $ENV{PGPORT} = $on->port;
	PostgreSQL::Test::Utils::run_log(
		[ 'pg_dump', '--schema-only', '-n', $schema, '-d', $db ], '>', \$out, '2>', \$err)
	  or die "pg_dump: $err";
	# newer versions name a key, a random one
	$out =~ s/^\\(?:un)?restrict .*\n//mg;
	return $out;
}

# As the owner of the stores
sub as_owner
{
	my ($on, $db, $sql) = @_;

	local $ENV{PGPASSWORD} = $LogqTest::password;
	return $on->safe_psql($db, $sql, extra_params => [ '-U', 'logq' ]);
}

# ---------- a coordinator with something of everything ----------

my @roles = map { "CREATE ROLE $_ LOGIN;" } qw(reader writer);

$node->safe_psql('logs', join("\n", @roles, <<"SQL"));
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
SELECT '2026-03-01 00:00+00'::timestamptz + i * interval '3 seconds',
	(ARRAY['INFO', 'WARN', 'ERROR', NULL])[1 + i % 4], 'service-' || i % 5,
	'Message number ' || i, md5((i / 3)::text), jsonb_build_object('status', i % 7)
FROM generate_series(1, 6000) i;
SELECT count(*) FROM logq.seal(before => '2026-03-01 03:00+00');
SELECT logq.set_retention('1000 years', 'p2');
-- a topic, its password, a number that was used
SELECT logq.add_topic('gone', 'localhost:1');
SELECT logq.remove_topic('gone');
SELECT logq.add_topic('logs', 'localhost:1', 'json', '{"sasl.username": "me", "sasl.password": "quite secret"}');
SELECT logq.pause_topic('logs');
GRANT USAGE ON SCHEMA logq TO reader, writer;
GRANT SELECT ON logq.logs TO reader;
GRANT EXECUTE ON FUNCTION logq.seal(name, name, timestamptz) TO writer;
REVOKE SELECT ON logq.stat_cache FROM PUBLIC;
CREATE SERVER redis FOREIGN DATA WRAPPER logq_redis OPTIONS (host 'localhost', port '1');
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (password 'another one');
@{[ join "\n", map { "CREATE USER MAPPING FOR reader SERVER $_ OPTIONS (user 'logq', password @{[ LogqTest::lit($LogqTest::password) ]});" } $c->names ]}
CREATE VIEW public.errors AS SELECT * FROM logq.logs WHERE level = 'ERROR';
SQL
$c->sql("ALTER DATABASE logs SET logq.partition_timeout = '7s'");
# a partition that was removed: its number is not given again
LogqTest::set_up_partition_database($c->part('p1'), 'fourth');
$c->add_partition('p4', node => $c->part('p1'), db => 'fourth');
$c->sql("SELECT logq.remove_partition('p4')");
$c->sql('DROP SERVER p4 CASCADE');

my $answers = answers($node, 'logs');
my $knowledge = knowledge($node, 'logs');

like($answers, qr/^6000\|/, 'rows are there');
is($c->sql('SELECT last_value FROM logq.partition_number'), '4',
	'four numbers were given');

# ---------- dump and restore ----------

$node->command_ok([ 'pg_dump', '--create', '-Fc', '-f', "$dir/coordinator", '-d', 'logs' ],
	'dump of a coordinator');

my $new = LogqTest::start_server('restored', "shared_preload_libraries = 'logq'");

$new->safe_psql('postgres', join("\n", @roles));
$new->command_ok([ 'pg_restore', '--create', '--exit-on-error', '-d', 'postgres', "$dir/coordinator" ],
	'is restored on another server');
is($new->safe_psql('logs', 'SHOW logq.partition_timeout'), '7s', 'settings of the database');
is(knowledge($new, 'logs'), $knowledge, 'what the coordinator knew is there');
is(answers($new, 'logs'), $answers, 'answers are equal');
is(answers($new, 'logs', extra_params => [ '-U', 'reader' ]),
	$answers, '... for a role with grants and mappings of its own, too');
is($new->safe_psql('logs', 'SELECT count(*) FROM public.errors'),
	$c->sql('SELECT count(*) FROM public.errors'), 'a view over the log table');
is($new->safe_psql('logs', 'SELECT count(*) FROM logq.catalog_segment'),
	'0', 'the copy of the catalog is not in the dump');
$new->safe_psql('logs', 'SELECT logq.refresh_catalog()');
$c->sql('SELECT logq.refresh_catalog()');
is($new->safe_psql('logs', $_), $c->sql($_), '... and is made anew')
  foreach 'SELECT partition, name, state, rows, filters FROM logq.segments WHERE exact ORDER BY 1, 2';
is($new->safe_psql('logs', "SELECT p.server FROM logq.catalog JOIN logq.partition p USING (number) WHERE retention = '1000 years'"),
	'p2', 'retention comes from the partition');
is($new->safe_psql('logs', "SELECT logq.add_topic('second', 'localhost:1')"),
	$c->sql("SELECT logq.add_topic('second', 'localhost:1')"),
	'numbers of topics go on');
LogqTest::set_up_partition_database($c->part('p2'), 'fifth');
$new->safe_psql('logs', $c->server_sql('p5', node => $c->part('p2'), db => 'fifth'));
is($new->safe_psql('logs', "SELECT logq.add_partition('p5')"),
	'5', '... and those of partitions');
$new->safe_psql('logs', "SELECT logq.remove_partition('p5'); DROP SERVER p5 CASCADE");

# as a script, and over what is there
$node->command_ok([ 'pg_dump', '--clean', '--if-exists', '-f', "$dir/script", '-d', 'logs' ],
	'dump as a script');
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-1', '-d', 'logs', '-f', "$dir/script" ],
	'is restored in the place of another one');
is(knowledge($new, 'logs'), knowledge($node, 'logs'), 'what the coordinator knew is there');
is(answers($new, 'logs'), $answers, 'answers are equal');

# ---------- a database of another locale ----------

is($c->sql('SELECT bool_and(same_locale) FROM logq.partition'), 't',
	'partitions have the locale of the coordinator');
$new->safe_psql('postgres',
	"CREATE DATABASE other_locale TEMPLATE template0 LOCALE 'C'");
my ($out, $err) = ('', '');
my $explain = q{EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM logq.logs WHERE message ~ 'NUMBER.77'};

{
	local $ENV{PGHOST} = $new->host;
	local $ENV{PGPORT} = $new->port;
	ok(PostgreSQL::Test::Utils::run_log(
			[ 'pg_restore', '--verbose', '--exit-on-error', '-d', 'other_locale', "$dir/coordinator" ],
			'>', \$out, '2>', \$err),
		'restored into a database of another locale');
}
is($new->safe_psql('other_locale', 'SELECT bool_or(same_locale) FROM logq.partition'),
	'f', 'which partitions do not have');
like($err, qr/partitions were added in a database of another locale.*remove each partition/s,
	'... of which there is a warning');
like($c->sql($explain), qr/Remote.*WHERE \(message ~ 'NUMBER/, 'what was sent as it stands');
like($new->safe_psql('other_locale', $explain), qr/Remote.*message COLLATE pg_catalog\."C"\) ~ 'NUMBER/,
	'... is sent with the locale of this database');
is($new->safe_psql('other_locale', 'SELECT count(*), sum(id % 1000) FROM logq.logs WHERE message ~* \'number.77\''),
	$c->sql('SELECT count(*), sum(id % 1000) FROM logq.logs WHERE message ~* \'number.77\''),
	'answers are right');
$c->sql('UPDATE logq.partition SET same_locale = false');
$c->gives('SELECT logq.remove_partition(server, true), logq.add_partition(server) FROM logq.partition; SELECT bool_and(same_locale) FROM logq.partition',
	"|1\n|2\n|3\nt", 'partitions that are added again are looked at again');
is(answers($node, 'logs'), $answers, '... with the same answers');

# ---------- a coordinator that is lost, and a second one ----------

$c->on($_, q{INSERT INTO logq_store.kafka_offset VALUES ('cluster', 'logs', 0, 1234, 'r')})
  foreach $c->names;

$new->safe_psql('postgres', join "\n", 'DROP DATABASE logs', ';', 'CREATE DATABASE logs;');
$new->safe_psql('logs', 'CREATE EXTENSION logq');
# in another order than they were added at first
foreach my $name (reverse $c->names)
{
	is($c->add_partition($name, coordinator => $new), $name =~ s/p//r,
		"partition $name keeps its number");
}
is(answers($new, 'logs'), $answers, 'a coordinator made anew: answers are equal');
is($c->on('p1', 'SELECT next_offset FROM logq_store.kafka_offset'),
	'1234', 'offsets of Kafka are as they were');
is($new->safe_psql('logs', 'SELECT last_value FROM logq.partition_number'),
	'3', 'it knows the numbers of the partitions that it was told of');

# both at once
$new->safe_psql('logs', q{INSERT INTO logq.logs (ts, level, service, message) VALUES ('2026-03-01 01:00+00', 'ERROR', 'late', 'through the second')});
$c->sql(q{INSERT INTO logq.logs (ts, level, service, message) VALUES ('2026-03-01 01:00+00', 'ERROR', 'late', 'through the first')});
my $after = answers($node, 'logs');

isnt($after, $answers, 'rows were written through two coordinators');
is(answers($new, 'logs'), $after, 'which give the same answers');
$new->safe_psql('logs', q{SELECT logq.seal(before => '2026-03-01 03:00+00')});
is(answers($_, 'logs'), $after, 'sealed by one: ' . $_->name)
  foreach $node, $new;

# ---------- stores of an older format ----------

my $p1 = $c->part('p1');

my $format = $c->sql(q{SELECT substring(logq.store_sql(1) from 'logq_store\.store VALUES \((\d+),')});

# the store of this format that a coordinator of that time would have made
sub old_store
{
	my ($db, $number, $of) = @_;
	my $sql = slurp_file("$FindBin::Bin/../data/store_format_" . ($of // 2) . '.sql');
	my ($first, $last) =
	  map { (($number + $_) << 44) + ($_ ? -1 : 1) } (0, 1);

	$sql =~ s/\@NUMBER\@/$number/g;
	$sql =~ s/\@INTERVAL\@/'1 hour'::interval/g;
	$sql =~ s/\@FIRST\@/$first/g;
	$sql =~ s/\@LAST\@/$last/g;
	LogqTest::set_up_partition_database($p1, $db);
	as_owner($p1, $db, $sql);
	return;
}

old_store('old', 7);
as_owner($p1, 'old', <<'SQL');
SELECT logq_store.make_segment('2026-04-01 00:00+00');
INSERT INTO logq_store.log (ts, level, service, message)
SELECT '2026-04-01 00:00+00'::timestamptz + i * interval '1 second', 'INFO', 'old', 'row ' || i
FROM generate_series(1, 100) i;
SQL
LogqTest::set_up_partition_database($p1, 'fresh');
as_owner($p1, 'fresh', $c->sql('SELECT logq.store_sql(7)'));

# as somebody who may not: a member of nothing
$p1->safe_psql('old', "CREATE ROLE stranger LOGIN; GRANT USAGE, CREATE ON SCHEMA logq_store TO stranger");
$c->sql($c->server_sql('old', node => $p1, db => 'old') . <<'SQL');
CREATE USER MAPPING FOR writer SERVER old OPTIONS (user 'stranger', password_required 'false');
GRANT USAGE ON FOREIGN SERVER old TO writer;
SQL
$c->fails("SELECT logq.add_partition('old')", 'HV000',
	qr/store of partition "old" has format 2, this version of logq knows $format.*SELECT logq\.upgrade_store\('old'\)/s,
	'a store of an older format is not added, and the hint says what to do');
$c->fails("SELECT logq.upgrade_store('old')", '42501', qr/permission denied for function upgrade_store/,
	'not everybody may upgrade', user => 'writer');
$c->sql('GRANT EXECUTE ON FUNCTION logq.upgrade_store(name) TO writer');
$c->fails("SELECT logq.upgrade_store('old')", '42501', qr/"old" leads to a role that does not own its store/,
	'nor through a role that does not own the store', user => 'writer');

# somebody who has the lock
my $holder = $c->session(node => $p1, db => 'old');
$holder->query("BEGIN; SELECT pg_advisory_xact_lock(hashtext('logq_store'))");
my $upgrade = $c->session;
$upgrade->send("SELECT 'had format ' || logq.upgrade_store('old')");
LogqTest::poll_ok(sub
	{
		return $p1->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") eq '1';
	},
	'an upgrade waits for whoever changes the store');
is($p1->safe_psql('old', 'SELECT format FROM logq_store.store'), '2', '... and has done nothing');
$holder->query('COMMIT');
is($upgrade->wait(60), 'had format 2', 'then goes on');
is($p1->safe_psql('old', 'SELECT format, number, segment_interval FROM logq_store.store'),
	"$format|7|01:00:00", 'format, number and interval');
is($c->sql("SELECT logq.upgrade_store('old')"), $format, 'a second time there is nothing to do');
is($c->sql("SELECT logq.add_partition('old')"), '7', 'it can be added');
is($c->sql(q{SELECT count(*), min(message), count(DISTINCT id >> 44) FROM logq.logs WHERE service = 'old'}),
	'100|row 1|1', 'its rows are found');
$c->sql(q{INSERT INTO logq.logs (ts, level, service, message, partition) VALUES ('2026-04-01 00:10+00', 'INFO', 'old', 'new row', 'old')});
is($c->sql(q{SELECT count(*) FROM logq.seal('old', before => '2026-04-02 00:00+00')}), '1', 'it takes rows, and is sealed');
is($c->sql(q{SELECT count(*) FROM logq.logs WHERE service = 'old'}), '101', '... with the same answers');

# one that was added, and is found to be older than it should: not made so here
$p1->safe_psql('old', 'UPDATE logq_store.store SET format = 2');
is($c->sql("SELECT state, error FROM logq.partitions WHERE name = 'old'"),
	"up|its store has format 2, this version of logq knows $format; see logq.upgrade_store()",
	'logq.partitions shows an older format');
$p1->safe_psql('old', "UPDATE logq_store.store SET format = $format");
is($c->sql("SELECT state, error FROM logq.partitions WHERE name = 'old'"), 'up|', '... and nothing of the present one');

# without rows, so that there are no other tables
$p1->safe_psql('postgres', 'CREATE ROLE admin LOGIN SUPERUSER');
$c->sql('CREATE ROLE admin LOGIN SUPERUSER');
foreach my $of (2 .. $format - 1)
{
	old_store("empty$of", 7, $of);
	$c->sql($c->server_sql("empty$of", node => $p1, db => "empty$of"));
	$c->sql("CREATE USER MAPPING FOR admin SERVER empty$of OPTIONS (user 'admin', password_required 'false')");
	is($c->try("SELECT logq.upgrade_store('empty$of')", user => 'admin')->{out}, $of,
		"a superuser there upgrades one of format $of as its owner");
	is(schema_dump($p1, "empty$of", 'logq_store'), schema_dump($p1, 'fresh', 'logq_store'),
		'an upgraded store is just as one that is made now');
}

# each step leads on, the last one to what stores are made with
is($p1->safe_psql('fresh', 'SELECT format FROM logq_store.store'), $format, 'format of new stores');
is($c->sql("SELECT count(*) FROM generate_series(2, $format - 1) f WHERE logq.store_upgrade_sql(f) IS NULL"),
	'0', 'there is a step from each format since 2');
is($c->sql("SELECT logq.store_upgrade_sql($format) IS NULL"), 't', 'and none from the present one');

# what cannot be
$c->sql($c->server_sql('fresh', node => $p1, db => 'fresh'));
$p1->safe_psql('fresh', 'UPDATE logq_store.store SET format = 99');
foreach my $function ('add_partition', 'upgrade_store')
{
	$c->fails("SELECT logq.$function('fresh')", 'HV000',
		qr/store of partition "fresh" has format 99, this version of logq knows $format.*HINT:  Install a version/s,
		"$function: a newer format is refused");
}
is($p1->safe_psql('fresh', 'SELECT format FROM logq_store.store'), '99', '... and left alone');
$p1->safe_psql('fresh', 'UPDATE logq_store.store SET format = 1');
$c->fails("SELECT logq.upgrade_store('fresh')", 'HV000',
	qr/has format 1.*There is no way from this format/s, 'so is one without a way');
# a step that fails half way
$p1->safe_psql('fresh', 'UPDATE logq_store.store SET format = 2; DROP TABLE logq_store.kafka_offset');
$c->fails("SELECT logq.upgrade_store('fresh')", '42P07', qr/"?dead_letter"? already exists/,
	'a step that fails');
is($p1->safe_psql('fresh', q{SELECT format, to_regclass('logq_store.kafka_offset') IS NULL FROM logq_store.store}),
	'2|t', '... has changed nothing');
LogqTest::set_up_partition_database($p1, 'nothing');
$c->sql($c->server_sql('nothing', node => $p1, db => 'nothing'));
$c->fails("SELECT logq.upgrade_store('nothing')", '42704', qr/partition "nothing" has no store/,
	'no store at all');
$c->fails("SELECT logq.upgrade_store('logq')", '42809', qr/stands for all partitions/,
	'the server of all partitions has none');

# ---------- versions of the extension ----------

# Every script that updates has to lead to what a fresh installation makes.
my $default = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'logq'});
my $sharedir = $node->config_data('--sharedir');
my %fresh;
my $n = 0;

sub members
{
	my ($db) = @_;

	return $node->safe_psql($db, <<'SQL');
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'logq') ORDER BY 1
SQL
}

# Members are left out of dumps, so they are made ordinary objects first.  One
# column after the other would be in the order of ALTER TABLE.
sub definition
{
	my ($db) = @_;
	my $members = members($db);

	my $config = $node->safe_psql($db, <<'SQL');
SELECT c.oid::regclass, u.condition FROM pg_extension e,
	unnest(e.extconfig, e.extcondition) AS u(oid, condition) JOIN pg_class c ON c.oid = u.oid
WHERE extname = 'logq' ORDER BY 1::text
SQL
	$node->safe_psql($db, q{DELETE FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'logq');
		DELETE FROM pg_init_privs});
	return "$members\n$config\n" . schema_dump($node, $db, 'logq');
}

sub fresh
{
	my ($version) = @_;

	if (!defined $fresh{$version})
	{
		my $db = 'fresh_' . $n++;

		$node->safe_psql('postgres', "CREATE DATABASE $db");
		$node->safe_psql($db, "CREATE EXTENSION logq VERSION '$version'");
		$fresh{$version} = definition($db);
	}
	return $fresh{$version};
}

ok(-e "$sharedir/extension/logq--$default.sql", "version $default has its script");
foreach my $version (split /\n/, $node->safe_psql('postgres', q{SELECT version FROM pg_available_extension_versions WHERE name = 'logq' ORDER BY 1}))
{
	like(fresh($version), qr/foreign table logq\.logs.*CREATE FUNCTION logq\.add_partition/s,
		"version $version can be installed");
}
$node->safe_psql('postgres', 'CREATE DATABASE changed');
$node->safe_psql('changed', 'CREATE EXTENSION logq; ALTER FUNCTION logq.store_sql(integer, interval) COST 99');
isnt(definition('changed'), fresh($default), 'a difference would be seen');
foreach my $script (sort glob "$sharedir/extension/logq--*--*.sql")
{
	my ($from, $to) = $script =~ /logq--(.+)--(.+)\.sql$/;
	my $db = 'updated_' . $n++;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION logq VERSION '$from'; ALTER EXTENSION logq UPDATE TO '$to'");
	is(definition($db), fresh($to), "update from $from to $to gives what version $to is");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_extension_update_paths('logq') WHERE target = '$default' AND path IS NULL"),
	'0', "there is a way from each version to $default");

done_testing();
