# SQLsmith's random queries against a coordinator.
#
#	my $smith = LogqSmith->new(seconds => 25, seed => 1);
#	$smith->run;
#	$smith->check;		# tests
#	$smith->summary;	# what was done, and what came of it
#
# SQLsmith makes queries of the tables, functions and operators that it sees.  So
# there is a schema "app" with what it cannot think of itself, above all views
# that call logq.search() and the like, and that group; with tables to join; and
# with a table whose trigger writes logs.  Three partitions, of which the first
# has a replica, a maintenance worker that seals, and a cache.
#
# The clients, who begin anew in each round:
#
#	reader	a role with logq_reader and logq_writer, settings as they are
#	odd		the same role, with settings that are drawn for the round
#	admin	superuser, or a role with logq_admin, in turn
#
# In every other round servers are stopped, killed and frozen, one at a time.
# SQLsmith rolls back all that it does, and sets a statement_timeout of 1 s.
#
# What it does not judge are answers.  It is a failure when a server crashes or
# says that something has leaked; when there is an internal error that is not a
# known one of PostgreSQL's; when a partition takes what it is sent for wrong; when
# a statement goes on for long after its timeout; and when something is left
# behind, or the next answer is wrong.

package LogqSmith;

use strict;
use warnings;

use File::Basename qw(basename);
use LogqProcess qw(descendants is_alive process_state postmaster_pid
  kill_postmaster start_server freeze thaw thaw_all);
use LogqFaults;
use LogqRedis;
use LogqTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# a statement must have ended so many seconds after it began.  Its timeout is 1 s,
# and a machine may be busy.
my $patience = $ENV{LOGQ_SMITH_PATIENCE} // 20;

# processes of SQLsmith that run
my %children;
my $owner = $$;

my @switches = map { "logq.enable_$_" } qw(aggregate_pushdown column_pruning
  content_pruning filter_pushdown hedging limit_pushdown limit_shares
  ordered_merge partition_pruning segment_pruning);

# What a superuser must not call: it would stop a server, end others' sessions,
# write files, keep what a rollback does not take back, or only pass the time
my $not_called = join '|', qw(pg_terminate_backend pg_cancel_backend
  pg_rotate_logfile pg_rotate_logfile_old pg_promote lo_export lo_import pg_sleep
  pg_sleep_for pg_sleep_until pg_switch_wal pg_backup_start pg_backup_stop
  pg_create_restore_point pg_create_physical_replication_slot
  pg_create_logical_replication_slot pg_copy_physical_replication_slot
  pg_copy_logical_replication_slot pg_drop_replication_slot
  pg_import_system_collations pg_advisory_lock pg_advisory_lock_shared
  pg_logical_emit_message pg_stop_making_pinned_objects unknownin set_retention
  reset_stats);

# Internal errors that PostgreSQL's own functions give for odd arguments: file and
# message, and what the statement has that gives reason for it.  Those of types'
# functions are all PostgreSQL's; files of logq are looked at first.
my $types = qr/^(?:timestamp|date|datetime|formatting|numeric|float|int8?|varlena|varchar|varbit
	|geo_\w+|network\w*|mac8?|cash|array\w*|json\w*|rangetypes\w*|multirangetypes\w*
	|ts[a-z]*|acl|ruleutils|regproc|xml|uuid|enum|pgstatfuncs|dbsize|genfile|misc|xid8funcs)\.c$/x;
my @known = (
	[ $types, qr/./, qr/./ ],
	[ qr/^parse_coerce\.c$/, qr/^failed to find conversion function from unknown/, qr/unknown(?:in|recv)\(|as unknown\)/ ],
	[ qr/^dependency\.c$/, qr/^invalid non-zero objectSubId/, qr/pg_(?:identify|describe)_object/ ]);

sub available
{
	return scalar grep { -x "$_/sqlsmith" } File::Spec->path;
}

# Options: seconds, seed, round (20; seconds)
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {
		seconds => $opt{seconds},
		seed => $opt{seed},
		round => $opt{round} // 20,
		statements => 0,
		rounds => 0,
		marks => {},
		faults => {},
		problems => []
	  },
	  $class;
	my @log = ('logging_collector = on', "log_destination = 'jsonlog'",
		"log_directory = 'log'", "log_filename = 'smith.log'",
		'log_rotation_age = 0', 'log_rotation_size = 0',
		'log_error_verbosity = verbose', 'log_min_error_statement = error',
		'log_min_messages = warning');

	srand $self->{seed};
	$self->{c} = LogqTest->new(
		replicas => { p1 => 1 },
		conf => [@log],
		coordinator_conf => [
			@log, "logq.databases = 'logs'",
			'logq.seal_after = 0', 'logq.partition_timeout = 2s',
			'logq.cache_min_cost = 0', 'max_connections = 60', split(/;/, $ENV{LOGQ_SMITH_CONF} // '') ]);
	$self->{redis} = LogqRedis->new;
	$self->{c}->sql($self->{redis}->server_sql);
	$self->make_database;
	return $self;
}

# ---------- what SQLsmith sees ----------

# Functions for who has this schema ahead in its path: not those that must not be
# called, or by "who" may not, nor those for which it never finds the right
# arguments.  A table, as each function is looked up by itself.
sub shadow_sql
{
	my ($schema, $who) = @_;

	return <<"SQL";
CREATE SCHEMA $schema;
CREATE TABLE $schema.pg_proc AS
	SELECT oid, pronamespace, prorettype, proname, proargtypes, proretset, prokind, procost, pronargs
	FROM pg_catalog.pg_proc p
	WHERE proname !~ '^(?:$not_called)\$' AND has_function_privilege(${who}p.oid, 'EXECUTE')
		AND NOT (proargtypes::oid[] || prorettype && ARRAY['anyrange', 'anymultirange', 'anyenum']::regtype[]::oid[])
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid AND a.aggkind <> 'n');
CREATE INDEX ON $schema.pg_proc (oid);
GRANT USAGE ON SCHEMA $schema TO PUBLIC;
GRANT SELECT ON $schema.pg_proc TO PUBLIC;
SQL
}

sub make_database
{
	my ($self) = @_;
	my $c = $self->{c};

	foreach my $name ($c->names)
	{
		# from two days ago until some hours from now; the last ones stay open
		$c->sql(<<"SQL");
INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs, partition)
	SELECT date_trunc('hour', now()) + interval '3 hours' - i * interval '43 seconds',
		(ARRAY['DEBUG', 'INFO', 'INFO', 'WARN', 'ERROR', NULL, '', 'Öd'])[1 + i % 8],
		(ARRAY['web', 'payment-service', 'it''s', 'db\\x', NULL])[1 + i % 5],
		CASE i % 50 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN repeat('x', 9000)
			ELSE 'request ' || i || ' of user ' || i % 97 || ' took ' || i % 1013 || ' ms, 日本語 100%' END,
		CASE WHEN i % 7 > 0 THEN md5((i / 3)::text) END,
		CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '[1, null, "x"]'
			ELSE jsonb_build_object('status', i % 5 * 100, 'user', 'u' || i % 97, 'ok', i % 3 = 0, 'd', i / 7.0) END,
		'$name'
	FROM generate_series(1, 4000) i;
SQL
	}
	$c->sql(<<"SQL");
CREATE ROLE smith LOGIN IN ROLE logq_reader, logq_writer, pg_monitor;
CREATE ROLE smith_admin LOGIN IN ROLE logq_reader, logq_writer, logq_admin, pg_monitor;
@{[ map { "CREATE USER MAPPING FOR PUBLIC SERVER $_ OPTIONS (user 'logq', password " . LogqTest::lit($LogqTest::password) . ");\n" } $c->names ]}
CREATE SCHEMA app;
CREATE TABLE app.service (service text PRIMARY KEY, team text, tier int, since timestamptz, tags text[], price numeric);
INSERT INTO app.service VALUES ('web', 'a', 1, now() - interval '1 day', '{x,y}', 1.5),
	('payment-service', 'b', 2, '-infinity', NULL, 'NaN'), ('it''s', NULL, NULL, NULL, '{}', 0), ('none', '', -1, 'infinity', '{NULL}', 1e30);
CREATE TABLE app.deploy (id bigint PRIMARY KEY, service text REFERENCES app.service, at timestamptz, log_id bigint, notes jsonb, ok bool);
INSERT INTO app.deploy SELECT row_number() OVER (), 'web', ts, id, attrs, level = 'ERROR' FROM logq.logs WHERE service = 'web' AND level = 'ERROR' ORDER BY ts LIMIT 30;
CREATE TABLE app.number (i int, b bigint, f float8, n numeric, d date, iv interval, j jsonb, t text, x bytea);
INSERT INTO app.number SELECT i, i * 10000000000, i / 7.0, i / 3.0, current_date + i, i * interval '1 hour', to_jsonb(i), i::text, decode(md5(i::text), 'hex') FROM generate_series(-20, 20) i;

-- what is written to logs; and logs as a partition of a local table
CREATE TABLE app.inbox (ts timestamptz, level text, service text, message text, trace_id text, attrs jsonb);
CREATE FUNCTION app.to_logs() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO logq.logs (ts, level, service, message, trace_id, attrs)
		SELECT coalesce(CASE WHEN isfinite(n.ts) AND n.ts > now() - interval '1 day' AND n.ts < now() + interval '1 hour' THEN n.ts END, now()),
			n.level, n.service, n.message, n.trace_id, n.attrs FROM new_rows n LIMIT 100;
	RETURN NULL;
END \$\$;
CREATE TRIGGER to_logs AFTER INSERT ON app.inbox REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION app.to_logs();
INSERT INTO app.inbox VALUES (now(), 'INFO', 'web', 'first', 't', '{}');
CREATE TABLE app.both (ts timestamptz, level text, service text, message text, id bigint) PARTITION BY RANGE (ts);
CREATE TABLE app.both_old PARTITION OF app.both FOR VALUES FROM (MINVALUE) TO ('2001-01-01');
CREATE FOREIGN TABLE app.both_new PARTITION OF app.both FOR VALUES FROM ('2001-01-01') TO (MAXVALUE) SERVER logq;
INSERT INTO app.both_old SELECT '2000-01-01'::timestamptz + i * interval '1 hour', 'INFO', 'web', 'old ' || i, i FROM generate_series(1, 50) i;

CREATE VIEW app.recent AS SELECT * FROM logq.search();
CREATE VIEW app.error AS SELECT * FROM logq.search(start_time => '-infinity', level => 'ERROR', max_rows => 200);
CREATE VIEW app.of_user AS SELECT * FROM logq.search(now() - interval '1 day', contains => 'USER 13', max_rows => NULL);
CREATE VIEW app.pattern AS SELECT * FROM logq.search(now() - interval '6 hours', pattern => 'took 1[0-9]+ ms', service => 'web');
CREATE VIEW app.newest AS SELECT ts, id, message, service FROM logq.logs ORDER BY ts DESC, id DESC LIMIT 50;
CREATE VIEW app.oldest AS SELECT ts, id, level, attrs FROM logq.logs ORDER BY ts, id LIMIT 50 OFFSET 3;
CREATE VIEW app.per_minute AS SELECT date_trunc('minute', ts) AS minute, level, count(*) AS n FROM logq.logs GROUP BY 1, 2;
CREATE VIEW app.per_hour AS SELECT date_bin('1 hour', ts, '2000-01-01') AS hour, service, count(*) AS n, count(DISTINCT level) AS levels FROM logq.logs WHERE ts > now() - interval '1 day' GROUP BY 1, 2 HAVING count(*) > 1;
CREATE VIEW app.per_level AS SELECT level, count(*) AS n, count(trace_id) AS traces, min(ts) AS first, max(ts) AS last, max(id) AS id FROM logq.logs GROUP BY level;
CREATE VIEW app.per_service AS SELECT service, count(*) AS n, logq.approx_count_distinct(trace_id) AS traces,
	avg(length(message)) AS length, sum(id % 10) AS s, stddev(length(message)::float8) AS sd, variance(id % 10) AS v,
	logq.approx_percentile(length(message)::float8, 0.9) AS p90, percentile_cont(0.5) WITHIN GROUP (ORDER BY length(message)) AS p50,
	bool_or(level = 'ERROR') AS failed, min(message) AS message
	FROM logq.logs GROUP BY service;
CREATE VIEW app.per_status AS SELECT attrs ->> 'status' AS status, partition, count(*) AS n, avg((attrs ->> 'd')::numeric) AS d FROM logq.logs WHERE jsonb_typeof(attrs) = 'object' GROUP BY 1, 2;
CREATE VIEW app.total AS SELECT count(*) AS n, min(ts) AS first, max(ts) AS last FROM logq.logs;
CREATE VIEW app.filtered AS SELECT level, count(*) FILTER (WHERE service = 'web') AS web, count(*) FILTER (WHERE ts > now() - interval '1 hour') AS recent FROM logq.logs GROUP BY GROUPING SETS ((level), ());
CREATE VIEW app.different AS SELECT DISTINCT service, level FROM logq.logs;
CREATE VIEW app.latest AS SELECT DISTINCT ON (service) service, ts, message FROM logq.logs ORDER BY service, ts DESC;
CREATE VIEW app.histogram AS SELECT * FROM logq.histogram('10 minutes', by => 'level');
CREATE VIEW app.days AS SELECT * FROM logq.histogram('1 day', now() - interval '3 days', by => 'status');
CREATE VIEW app.facet AS SELECT * FROM logq.facets(now() - interval '3 hours');
CREATE VIEW app.field_name AS SELECT * FROM logq.field_names(now() - interval '3 hours');
CREATE VIEW app.field_value AS SELECT * FROM logq.field_values('user', now() - interval '5 hours');
CREATE VIEW app.tail AS SELECT * FROM logq.tail(last_rows => 20);
CREATE VIEW app.context AS SELECT d.id AS deploy, l.* FROM app.deploy d, logq.context(d.log_id, 2, 2) l;
CREATE VIEW app.nearby AS SELECT d.id AS deploy, l.* FROM app.deploy d, LATERAL (SELECT * FROM logq.logs l WHERE l.ts > d.at AND l.service = d.service ORDER BY l.ts, l.id LIMIT 3) l;
CREATE VIEW app.counted AS SELECT d.id AS deploy, (SELECT count(*) FROM logq.logs l WHERE l.ts > d.at AND l.level = 'ERROR') AS n FROM app.deploy d;
CREATE VIEW app.joined AS SELECT s.team, l.* FROM logq.logs l JOIN app.service s USING (service);
CREATE VIEW app.everything AS SELECT ts, level, message FROM logq.logs UNION ALL SELECT ts, level, message FROM app.inbox;
CREATE VIEW app.same_trace AS SELECT a.id AS a, b.id AS b, a.trace_id FROM logq.logs a JOIN logq.logs b USING (trace_id) WHERE a.level = 'ERROR' AND b.level = 'WARN';
CREATE VIEW app.gap AS SELECT id, ts - lag(ts) OVER (PARTITION BY service ORDER BY ts) AS gap FROM logq.logs WHERE ts > now() - interval '2 hours';
CREATE VIEW app.last_query AS SELECT * FROM logq.last_query();
CREATE VIEW app.barrier WITH (security_barrier) AS SELECT * FROM logq.logs WHERE level <> 'DEBUG';
CREATE MATERIALIZED VIEW app.hours AS SELECT date_trunc('hour', ts) AS hour, count(*) AS n FROM logq.logs GROUP BY 1;

CREATE FUNCTION app.rows_of(s text) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM logq.logs WHERE service = s';
CREATE FUNCTION app.rows_since(t timestamptz) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM logq.search(start_time => t, max_rows => 10)';
CREATE FUNCTION app.message_of(i bigint) RETURNS text LANGUAGE sql STABLE AS 'SELECT message FROM logq.logs WHERE id = i';
CREATE FUNCTION app.found(pattern text, contains text) RETURNS text LANGUAGE sql STABLE AS 'SELECT string_agg(m.message, chr(10)) FROM logq.search(now() - interval ''2 hours'', pattern => found.pattern, contains => found.contains, max_rows => 5) m';
CREATE FUNCTION app.busiest(step interval) RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT bucket FROM logq.histogram(busiest.step) ORDER BY count DESC LIMIT 1';
CREATE FUNCTION app.around(i bigint, n int) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT jsonb_agg(c) FROM logq.context(i, least(n, 20), 2) c';
CREATE FUNCTION app.looped(level text) RETURNS int LANGUAGE plpgsql AS \$\$
DECLARE
	r record;
	n int := 0;
BEGIN
	FOR r IN SELECT l.id FROM logq.logs l WHERE l.level = looped.level LOOP
		n := n + 1;
		EXIT WHEN n > 60;
	END LOOP;
	BEGIN
		PERFORM 1 / (n - 61) FROM logq.logs l WHERE l.ts > now() LIMIT 1;
	EXCEPTION WHEN division_by_zero THEN
		n := -n;
	END;
	RETURN n;
END \$\$;
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA app TO PUBLIC;
ANALYZE app.service, app.deploy, app.number;
@{[ shadow_sql('shadow', "'smith', "), shadow_sql('shadow_admin', '') ]}
SQL
	LogqTest::poll(sub {
		return $c->sql("SELECT count(*) FROM logq.segments WHERE state = 'sealed'") >= 20;
	}, 120) or die "nothing is sealed";
	# what the workers have
	foreach my $name ($c->names)
	{
		$self->{connections}{$name} = LogqFaults::connections_on($c->part($name));
	}
	return;
}

# Anonymous memory, in MB, of processes of the coordinator: the largest one of
# those that the condition on pg_stat_activity is true for
sub memory
{
	my ($self, $condition) = @_;
	my $most = 0;

	foreach my $pid (split /\n/, $self->{c}->sql("SELECT pid FROM pg_stat_activity WHERE $condition"))
	{
		my $text = eval { slurp_file("/proc/$pid/status") } // next;

		$most = $1 / 1024 if $text =~ /^RssAnon:\s+(\d+) kB/m && $1 / 1024 > $most;
	}
	return $most;
}

# ---------- clients ----------

# Settings for a client, as libpq takes them
sub options
{
	my ($self, $kind) = @_;
	my @set;

	if ($kind eq 'odd')
	{
		@set = map { "$_=" . (rand() < 0.5 ? 'on' : 'off') } @switches;
		push @set, 'logq.partial_results=' . (rand() < 0.5 ? 'on' : 'off'),
		  'logq.strict_pruning=' . (rand() < 0.2 ? 'on' : 'off'),
		  'logq.cache=' . (rand() < 0.7 ? 'on' : 'off'),
		  'logq.max_parallel_partitions=' . (1 + int rand 4),
		  'enable_hashagg=' . (rand() < 0.7 ? 'on' : 'off'),
		  'enable_nestloop=' . (rand() < 0.8 ? 'on' : 'off'),
		  'enable_sort=' . (rand() < 0.8 ? 'on' : 'off'),
		  'enable_material=' . (rand() < 0.8 ? 'on' : 'off'),
		  'enable_partitionwise_aggregate=' . (rand() < 0.5 ? 'on' : 'off'),
		  'enable_partitionwise_join=' . (rand() < 0.5 ? 'on' : 'off'),
		  'work_mem=' . (rand() < 0.5 ? '64kB' : '4MB'),
		  'plan_cache_mode=' . (rand() < 0.5 ? 'auto' : 'force_generic_plan'),
		  'timezone=' . (qw(UTC Asia/Kathmandu America/St_Johns))[ int rand 3 ];
	}
	push @set, 'search_path=' . ($kind eq 'admin' ? 'shadow_admin' : 'shadow') . ',pg_catalog';
	return join ' ', map { "-c $_" } @set;
}

sub start_client
{
	my ($self, $kind, $user, $seed) = @_;
	my $node = $self->{c}->coordinator;
	my $out = "$PostgreSQL::Test::Utils::tmp_check/smith.$kind";
	my $pid;

	unlink "$out.err";
	$pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		$ENV{PGOPTIONS} = $self->options($kind);
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', "$out.out";
		open STDERR, '>', "$out.err";
		exec 'sqlsmith', '--verbose', '--exclude-catalog', "--seed=$seed",
		  '--target=host=' . $node->host . ' port=' . $node->port . " dbname=logs user=$user"
		  or POSIX::_exit(127);
	}
	$children{$pid} = $kind;
	return;
}

# A mark for each statement: e of a syntax error, t of a timeout, S of what could
# not be parsed, C of a connection that is gone, . of what went well
sub count_statements
{
	my ($self, $kind) = @_;
	my $text = slurp_file("$PostgreSQL::Test::Utils::tmp_check/smith.$kind.err");

	foreach my $line (split /\n/, $text)
	{
		next unless $line =~ /^[.etSC]+$/;
		$self->{statements} += length $line;
		$self->{marks}{$kind} += length $line;
	}
	return;
}

# They have read the catalog first
sub wait_for_clients
{
	my ($self) = @_;

	foreach my $kind (values %children)
	{
		LogqTest::poll(sub {
			my $text = eval { slurp_file("$PostgreSQL::Test::Utils::tmp_check/smith.$kind.err") } // '';

			return $text =~ /Generating indexes\.\.\.done/;
		}, 300) or die 'SQLsmith does not begin';
	}
	return;
}

sub end_clients
{
	my ($self) = @_;

	kill 'TERM', keys %children;
	foreach my $pid (keys %children)
	{
		waitpid $pid, 0;
		$self->count_statements($children{$pid});
		delete $children{$pid};
	}
	return;
}

# ---------- the run ----------

# A statement that runs for too long; where it hangs is said by its wait event
sub look_for_hangs
{
	my ($self) = @_;
	my $rows = eval { $self->{c}->sql(<<"SQL"); } // return;
SELECT pid, coalesce(wait_event, '-'), round(extract(epoch FROM clock_timestamp() - query_start)), left(query, 4000)
FROM pg_stat_activity
WHERE application_name LIKE 'sqlsmith%' AND state = 'active'
	AND clock_timestamp() - query_start > $patience * interval '1 second'
SQL

	return if $rows eq '';
	push @{ $self->{problems} }, "goes on long after its timeout: $rows";
	$self->{c}->sql("SELECT pg_terminate_backend($1)") while $rows =~ /^(\d+)\|/mg;
	return;
}

sub wait_until
{
	my ($self, $end) = @_;

	while (time < $end)
	{
		$self->look_for_hangs;
		foreach my $pid (keys %children)
		{
			next if is_alive($pid);
			waitpid $pid, 0;
			$self->count_statements($children{$pid});
			die "SQLsmith has ended: "
			  . substr(slurp_file("$PostgreSQL::Test::Utils::tmp_check/smith.$children{$pid}.err"), -1000);
		}
		usleep(250_000) if time < $end;
	}
	return;
}

# One server at a time, as long as the round goes on
sub break_servers
{
	my ($self, $end) = @_;
	my $c = $self->{c};

	while (time < $end - 4)
	{
		my @servers = ((map { $c->part($_) } $c->names), $c->replica('p1'), $self->{redis});
		my $node = $servers[ int rand @servers ];
		my $is_redis = $node == $self->{redis};
		my $kind = (qw(fast immediate kill freeze))[ int rand 4 ];
		my $for = 0.5 + rand 4;

		$kind = 'kill' if $is_redis && $kind ne 'freeze';
		$self->{faults}{ $is_redis ? "redis $kind" : $kind }++;
		if ($is_redis) { $kind eq 'freeze' ? $node->freeze : $node->kill9; }
		elsif ($kind eq 'freeze') { freeze($node); }
		elsif ($kind eq 'kill') { kill_postmaster($node); }
		else { $node->stop($kind); }
		my $well = eval { $self->wait_until(time + $for); 1 };

		if ($is_redis) { $kind eq 'freeze' ? $node->thaw : $node->start; }
		elsif ($kind eq 'freeze') { thaw($node); }
		else { start_server($node); }
		die $@ unless $well;
		$self->wait_until(time + 1 + rand 3);
	}
	$self->wait_until($end);
	return;
}

sub run
{
	my ($self) = @_;
	my $left = $self->{seconds};

	while ($left > 0)
	{
		my $round = $self->{rounds}++;
		my $seed = ($self->{seed} * 1000 + $round * 10) % 2_000_000_000;
		my $length = $left < $self->{round} + 5 ? $left : $self->{round};
		my $round_end;

		$left -= $length;
		$self->start_client('reader', 'smith', $seed);
		$self->start_client('odd', 'smith', $seed + 1);
		$self->start_client('admin',
			$round % 2 ? 'smith_admin' : $self->superuser, $seed + 2);
		$self->wait_for_clients;
		$round_end = time + $length;
		if ($round % 2) { $self->break_servers($round_end); }
		else { $self->wait_until($round_end); }
		$self->note_memory;
		$self->end_clients;
		$self->{took} += $length;
		diag(sprintf '%d s: round %d, %d statements', $self->{took}, $round + 1,
			$self->{statements}) if $self->{seconds} > 60;
		last if @{ $self->{problems} } > 20;
	}
	$self->{logq} = $self->{c}->sql(<<'SQL');
SELECT format('%s, of which %s failed, %s were partial, %s tried again, %s asked twice; segments: %s asked, %s cached, %s pruned',
	queries, errors, partial, retried, hedged, segments_asked, segments_cached, segments_pruned)
FROM logq.stat_queries
SQL
	return;
}

# What sessions have kept at the end of a round
sub note_memory
{
	my ($self) = @_;
	my $now = $self->memory("application_name LIKE 'sqlsmith%' AND state LIKE 'idle%'");

	$self->{session_memory} = $now if $now > ($self->{session_memory} // 0);
	return;
}

sub superuser
{
	my ($self) = @_;

	return $self->{c}->sql('SELECT rolname FROM pg_roles WHERE oid = 10');
}

# ---------- what came of it ----------

# Errors in the log of a server: a hash each of state, severity, message, place,
# statement
sub log_lines
{
	my ($node, $code) = @_;

	foreach my $file (glob $node->data_dir . '/log/*.json')
	{
		open my $f, '<', $file or die "$file: $!";
		while (my $line = <$f>)
		{
			my %l;

			foreach my $key (qw(error_severity state_code message file_name statement backend_type func_name))
			{
				$l{$key} = $line =~ /"$key":"((?:[^"\\]|\\.)*)"/ ? $1 : '';
			}
			$l{line} = $line =~ /"file_line_num":(\d+)/ ? $1 : 0;
			$code->(\%l);
		}
		close $f;
	}
	return;
}

# The files of logq
sub own_files
{
	my %own = map { basename($_) => 1 } glob("src/*.[ch]"), glob("src/import/*.[ch]");

	return \%own;
}

sub note_problem
{
	my ($self, $what, $l) = @_;
	my $key = "$what: $l->{error_severity} $l->{state_code} $l->{file_name}:$l->{line}";

	return if $self->{noted}{"$key"}++;
	push @{ $self->{problems} },
	  "$key: " . substr($l->{message}, 0, 500) . "\n  " . substr($l->{statement}, 0, 6000);
	return;
}

sub read_logs
{
	my ($self) = @_;
	my $c = $self->{c};
	my $own = own_files();

	log_lines($c->coordinator, sub {
		my ($l) = @_;

		if ($l->{message} =~ /terminated by signal|exited with exit code [2-9]|^TRAP|leak|problem in alloc set|not closed|still referenced/
			|| $l->{error_severity} eq 'PANIC')
		{
			$self->note_problem('coordinator', $l);
		}
		return unless $l->{error_severity} =~ /ERROR|FATAL/;
		$self->{errors}{ substr($l->{state_code}, 0, 2) }++;
		return unless $l->{state_code} =~ /^XX/;
		if ($own->{ $l->{file_name} }
			|| !grep {
				$l->{file_name} =~ $_->[0] && $l->{message} =~ $_->[1]
				  && $l->{statement} =~ $_->[2]
			} @known)
		{
			$self->note_problem('internal error', $l);
		}
		else { $self->{known}{"$l->{file_name}: $l->{message}"}++; }
	});
	foreach my $name ($c->names)
	{
		foreach my $node ($c->part($name), $c->replicas($name))
		{
			log_lines($node, sub {
				my ($l) = @_;

				$self->note_problem($node->name, $l)
				  if $l->{message} =~ /terminated by signal/ && $l->{message} !~ /signal [39]/
				  || $l->{error_severity} eq 'PANIC'
				  # a value that numrange() does not take has this class, too
				  || $l->{file_name} ne 'rangetypes.c' && $l->{state_code} =~ /^(?:XX|42|0A|25|26|34|3D|3F|28)/;
				$self->{remote_errors}{ substr($l->{state_code}, 0, 2) }++
				  if $l->{error_severity} =~ /ERROR/;
			});
		}
	}
	return;
}

# All rows, here and where they lie
sub compare_rows
{
	my ($self) = @_;
	my $c = $self->{c};
	my $digest = q{count(*) || ' ' || coalesce(sum(hashtextextended(concat_ws('|', ts, level, service, message, trace_id, attrs, id), 0)), 0)};

	foreach my $name ($c->names)
	{
		is($c->sql("SELECT $digest FROM logq.logs WHERE partition = '$name'"),
			$c->on($name, "SELECT $digest FROM logq_store.log"), "rows of $name are right");
		is($c->sql("SELECT count(*) FROM logq.logs WHERE partition = '$name' AND level = 'ERROR'"),
			$c->on($name, "SELECT count(*) FROM logq_store.log WHERE level = 'ERROR'"),
			"counts of $name are right");
	}
	return;
}

sub check
{
	my ($self) = @_;
	my $c = $self->{c};
	my @left;

	ok($self->{statements} > 0, 'statements were run');
	LogqTest::poll_ok(sub {
		@left = (LogqFaults::local_activity($c), $c->remote_activity);
		return !@left;
	}, 'nothing is under way afterwards', 30) or diag(explain(\@left));
	LogqTest::poll_ok(sub {
		@left = grep { $_ ne '' } split /\n/, $c->sql("SELECT * FROM logq.stat_admission WHERE running > 0 OR waiting > 0");
		return !@left;
	}, 'no place is taken afterwards', 30) or diag(explain(\@left));
	$c->wait_for_catchup_all;
	LogqFaults::wait_for_breaker($c, $_, 'closed', 60)
	  foreach (map { $c->part($_) } $c->names), $c->replica('p1');
	$self->compare_rows;
	foreach my $name ($c->names)
	{
		my $now;

		LogqTest::poll_ok(sub {
			$now = LogqFaults::connections_on($c->part($name));
			return $now <= $self->{connections}{$name} + 1;
		}, "no connections to $name are left") or diag("$self->{connections}{$name} before, $now now");
	}
	$self->{worker_memory} = $self->memory("backend_type = 'logq maintenance'");
	# sanitizers keep what was freed
	ok($self->{worker_memory} < ($ENV{SANITIZE} ? 500 : 100), 'the maintenance worker has not grown')
	  or diag("$self->{worker_memory} MB");
	$self->read_logs;
	is(scalar @{ $self->{problems} }, 0, 'no crash, leak or internal error, and nothing hangs')
	  or diag(join "\n\n", @{ $self->{problems} });
	return;
}

sub summary
{
	my ($self) = @_;
	my $list = sub {
		my ($h) = @_;

		return join ', ', map { "$_ $h->{$_}" } sort keys %{ $h // {} };
	};

	return (
		sprintf('seed %d: %d statements in %d s (%s)', $self->{seed}, $self->{statements},
			$self->{took}, $list->($self->{marks})),
		"queries of log tables: $self->{logq}",
		'faults: ' . $list->($self->{faults}),
		'errors by class: ' . $list->($self->{errors}),
		'errors of partitions by class: ' . $list->($self->{remote_errors}),
		sprintf('memory, MB: sessions at the end of a round %.0f at most, maintenance worker %.0f',
			$self->{session_memory} // 0, $self->{worker_memory} // 0),
		map { "known: $_ ($self->{known}{$_})" } sort keys %{ $self->{known} // {} });
}

END
{
	my $status = $?;

	kill 'TERM', keys %children if $$ == $owner;
	$? = $status;
}

1;
