# What tests of failures share: rows that lie in a local table, too; queries
# whose answers are compared, in their order; and what must be after a fault.
#
#	LogqFaults::load($c, small => 1500, big => 40_000);
#	my $q = LogqFaults::query('desc');	# @T@ stands for the table
#	LogqFaults::same($s, $q, 'name');	# on logq.logs as on local_logs
#	LogqFaults::last_query($s)->{retried};
#	LogqFaults::servers($c, 'p1');		# logq.stat_partitions, a hash each
#	LogqFaults::assert_clean($c, 'name', $s);

package LogqFaults;

use strict;
use warnings;

use JSON::PP ();
use LogqProcess qw(sockets_of);
use LogqProxy;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# "at once", on a machine that has other things to do
our $at_once = 3;

my $json = JSON::PP->new;

# ---------- rows ----------

# Rows on each partition: "small" ones in three segments on 2024-06-01, "big"
# ones in four on 2024-07-01.  Many have their ts in common.  local_logs on the
# coordinator has all of them, by way of the partitions themselves.
sub load
{
	my ($c, %n) = @_;
	my %days = (
		small => [ '2024-06-01 00:00+00', 3, 'repeat(md5(i::text), 4)' ],
		big => [ '2024-07-01 00:00+00', 4, "'$_' || repeat(' some words', 12)" ]);

	foreach my $name ($c->names)
	{
		foreach my $kind (sort keys %n)
		{
			my ($start, $hours, $text) = @{ $days{$kind} };
			my $n = $n{$kind};

			$c->on($name, <<"SQL");
SELECT logq_store.make_segment(timestamptz '$start' + h * interval '1 hour')
FROM generate_series(0, $hours - 1) h;
INSERT INTO logq_store.log (ts, level, service, message, trace_id, attrs)
	SELECT timestamptz '$start' + i / 3 * 3 * (interval '$hours hours' / $n),
		CASE i % 100 WHEN 0 THEN 'ERROR' WHEN 1 THEN 'WARN' ELSE 'INFO' END,
		'service-' || i % 5, '$name ' || i || ' ' || $text, md5((i / 4)::text),
		jsonb_build_object('n', i)
	FROM generate_series(0, $n - 1) i;
SQL
		}
		$c->on($name, 'VACUUM ANALYZE logq_store.log');
	}
	copy_rows($c);
	return;
}

# Make local_logs of what the partitions hold now
sub copy_rows
{
	my ($c) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/rows";

	$c->sql(<<'SQL');
DROP TABLE IF EXISTS local_logs;
CREATE TABLE local_logs (ts timestamptz, level text, service text,
	message text, trace_id text, attrs jsonb, id bigint, partition text);

-- One text for all rows of a query with a column "row": which rows, and
-- in which order when that matters.  After so many rows it waits for
-- an advisory lock, 4711: meanwhile a test does as it likes.
CREATE OR REPLACE FUNCTION digest(query text, ordered bool, pause_at bigint DEFAULT 0)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
	n bigint := 0;
	h text := '';
	sum numeric := 0;
BEGIN
	FOR r IN EXECUTE query LOOP
		n := n + 1;
		IF ordered THEN
			h := md5(h || r.row);
		ELSE
			sum := sum + hashtextextended(r.row, 0);
		END IF;
		IF n = pause_at THEN
			PERFORM pg_advisory_lock(4711), pg_advisory_unlock(4711);
		END IF;
	END LOOP;
	RETURN n || ' ' || CASE WHEN ordered THEN h ELSE sum::text END;
END
$$;
SQL
	foreach my $name ($c->names)
	{
		my $rows = $c->on($name,
			"COPY (SELECT ts, level, service, message, trace_id, attrs, id, '$name' FROM logq_store.log) TO STDOUT");

		open my $f, '>', $file or die "$file: $!";
		print $f $rows, $rows eq '' ? '' : "\n";
		close $f or die "$file: $!";
		$c->sql("COPY local_logs FROM '$file'");
	}
	$c->sql('ANALYZE local_logs');
	unlink $file;
	return;
}

# ---------- queries ----------

my $columns = 'ts, level, service, message, id, partition';
my $small = "ts >= '2024-06-01' AND ts < '2024-06-02'";

# name => [sql, is there an order?]
my %queries = (
	desc => [ "SELECT $columns FROM \@T\@ WHERE $small ORDER BY ts DESC, id DESC", 1 ],
	asc => [ "SELECT $columns FROM \@T\@ WHERE $small ORDER BY ts, id", 1 ],
	unordered => [ "SELECT $columns FROM \@T\@ WHERE $small", 0 ],
	few => [ "SELECT $columns FROM \@T\@ WHERE $small AND level = 'ERROR'", 0 ],
	# the partitions cannot evaluate it, so all their rows come
	aggregate => [ "SELECT level, count(*), sum(hashtext(message)), min(id), max(ts) FROM \@T\@ WHERE $small AND random() >= 0 GROUP BY level ORDER BY level", 1 ],
	count => [ "SELECT count(*) FROM \@T\@ WHERE $small", 1 ],
	limit => [ "SELECT $columns FROM \@T\@ WHERE $small ORDER BY ts DESC, id DESC LIMIT 300", 1 ],
	limit_here => [ "SELECT $columns FROM \@T\@ WHERE $small AND random() >= 0 ORDER BY ts, id LIMIT 300", 1 ],
	join => [ "SELECT a.id, b.message FROM \@T\@ a JOIN \@T\@ b USING (id) WHERE a.ts >= '2024-06-01' AND a.ts < '2024-06-02' AND b.ts < '2024-06-02' AND a.level = 'WARN' ORDER BY a.ts DESC, a.id DESC", 1 ],
	cursor => [ "BEGIN;\nDECLARE c CURSOR FOR SELECT $columns FROM \@T\@ WHERE $small ORDER BY ts DESC, id DESC;\nFETCH 40 FROM c;\nFETCH 400 FROM c;\nFETCH ALL FROM c;\nCOMMIT", 1 ],
	unordered_cursor => [ "BEGIN;\nDECLARE c CURSOR FOR SELECT $columns FROM \@T\@ WHERE $small;\nFETCH 40 FROM c;\nFETCH 400 FROM c;\nFETCH ALL FROM c;\nCOMMIT", 0 ],
	big_desc => [ digest_of('ORDER BY ts DESC, id DESC', 'true'), 1 ],
	big_asc => [ digest_of('ORDER BY ts, id', 'true'), 1 ],
	big_unordered => [ digest_of('', 'false'), 1 ]);

# Rows of the big day, in a digest.  @P@ says when to pause.
sub digest_of
{
	my ($order, $ordered) = @_;

	return "SELECT digest(\$q\$SELECT concat_ws('|', ts, level, message, id, partition) AS row FROM \@T\@ WHERE ts >= '2024-07-01' AND ts < '2024-07-02' $order\$q\$, $ordered, \@P\@)";
}

# A query of these, or of any SQL: a hash of name, sql, ordered
sub query
{
	my ($name, $sql, $ordered) = @_;

	($sql, $ordered) = @{ $queries{$name} // die "no query $name" }
	  unless defined $sql;
	return { name => $name, sql => $sql, ordered => $ordered };
}

sub query_names { return grep { !/^big/ } sort keys %queries; }

sub on_table
{
	my ($q, $table, $pause) = @_;
	my $sql = $q->{sql} =~ s/\@T\@/$table/gr;

	$pause //= 0;
	return $sql =~ s/\@P\@/$pause/gr;
}

# What the query gives on the local table, looked up once; copy_rows() of
# another cluster does not matter, as the cluster is the key
my %right;

sub right
{
	my ($s, $q) = @_;

	return $right{ $s->{node}->name }{ $q->{sql} } //=
	  $s->query(on_table($q, 'local_logs'));
}

sub forget_right { %right = (); return; }

# How an answer differs from the right one, or ''
sub difference
{
	my ($q, $right, $answer) = @_;
	my (@right, @answer, %seen, @missing, @more);

	return '' if $answer eq $right;
	return "error: " . substr($answer, 0, 1500) if $answer =~ /^(?:ERROR|FATAL|WARNING): |session ended/m;
	@right = split /\n/, $right;
	@answer = split /\n/, $answer;
	return '' if !$q->{ordered} && join("\n", sort @right) eq join("\n", sort @answer);
	$seen{$_}++ foreach @right;
	foreach (@answer)
	{
		push @more, $_ if --$seen{$_} < 0;
	}
	@missing = grep { $seen{$_} > 0 && $seen{$_}-- } @right;
	return sprintf '%d rows instead of %d; missing %d, such as %s; too many %d, such as %s%s',
	  scalar @answer, scalar @right,
	  scalar @missing, substr($missing[0] // '-', 0, 200),
	  scalar @more, substr($more[0] // '-', 0, 200),
	  @missing || @more ? '' : '; only the order is different';
}

# Test: in this session the query gives on logq.logs what it does on local_logs
sub same
{
	my ($s, $q, $name) = @_;
	my $right = right($s, $q);
	my $answer = $s->query(on_table($q, 'logq.logs'));
	my $difference = difference($q, $right, $answer);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok($difference eq '', $name) || (diag("$q->{name}: $difference"), 0)[1];
}

# Where the answer of the server behind a proxy can be cut, when the code asks it
# over a connection that is there: a list of [name, bytes, must it be asked
# again?].  Names are those of LogqProxy::places(), "row of COPY 2".
sub places
{
	my ($proxy, $code) = @_;
	my (@copies, @places);

	$proxy->mark;
	$code->();
	# A self-join has two; one that has got something will do.  It is closed when
	# the rest was not wanted, and one of a worker that looks for news, and finds none,
	# may be open beside it.
	foreach my $conn (sort { $b->{open} <=> $a->{open} || $b->{id} <=> $a->{id} }
		grep { $_->{since_mark} > 0 } $proxy->connections)
	{
		my @seen = LogqProxy::places($proxy->messages($conn->{id}));
		my $rows = grep { exists $_->{row} } @seen;

		@copies = @seen if $rows || !@copies;
		last if $rows;
	}
	foreach my $i (0 .. $#copies)
	{
		my $copy = $copies[$i];

		push @places, map {
			[ "$_ of COPY " . ($i + 1), $copy->{$_}, $i < $#copies || !/done|complete|after/ ]
		} sort { $copy->{$a} <=> $copy->{$b} || $a cmp $b } keys %$copy;
	}
	return @places;
}

# ---------- what logq says ----------

# The row of logq.last_query() as a hash
sub last_query
{
	my ($s) = @_;
	my $row = $s->query('SELECT row_to_json(q) FROM logq.last_query() q');

	return eval { $json->decode($row) } // die "logq.last_query(): $row";
}

# Servers of a partition, or of all, by "host:port"; the primary also as
# "primary"
sub servers
{
	my ($c, $partition) = @_;
	my $where = defined $partition ? "WHERE partition = '$partition'" : '';
	my $rows = $json->decode($c->sql(
		"SELECT coalesce(json_agg(s), '[]') FROM logq.stat_partitions s $where"));
	my %servers = map { $_->{server} => $_ } @$rows;

	if (defined $partition)
	{
		my ($primary) = grep { $_->{role} eq 'primary' } @$rows;

		$servers{primary} = $primary;
	}
	return \%servers;
}

# Ask the primaries, and again as long as one of them was so slow a moment ago
# that the next query would prefer its replica, as is_slow() in servers.c has it
sub ask_primaries
{
	my ($s, $q) = @_;

	$s->query("SET logq.read_from = 'primary'");
	LogqTest::poll(sub {
		$s->query(on_table($q, 'logq.logs'));
		return $s->query(<<'SQL') eq 't';
SELECT coalesce(bool_and(p.latency_ms <= 2 * r.latency_ms + 5), true)
FROM logq.stat_partitions p
	JOIN logq.stat_partitions r USING (partition)
WHERE p.role = 'primary' AND r.role = 'replica'
SQL
	}, 20);
	$s->query('RESET logq.read_from');
	return;
}

# "host:port" of a node or proxy
sub address { return $_[0]->host . ':' . $_[0]->port; }

# State of the breaker of a node or proxy
sub breaker
{
	my ($c, $node) = @_;

	return (servers($c)->{ address($node) } // {})->{breaker} // 'unknown';
}

# Wait until it is in a state.  Where there is no worker, servers are probed by
# sessions that have queries: so there is one.
sub wait_for_breaker
{
	my ($c, $node, $state, $seconds) = @_;
	my $is;

	return LogqTest::poll(sub {
		return 1 if ($is = breaker($c, $node)) =~ /^(?:$state)$/;
		poke($c) if $state eq 'closed';
		return 0;
	}, $seconds // 30) || (diag('the breaker of ' . address($node) . " is $is"), 0)[1];
}

# A query of a session that is kept for this
sub poke
{
	my ($c) = @_;
	my $answer;

	$c->{poker} //= do {
		my $s = $c->session;

		$s->query('SET logq.partial_results = on');
		$s;
	};
	$answer = $c->{poker}->query("SELECT count(*) FROM logq.logs WHERE level = 'none'");
	$c->{poker} = undef if $answer =~ /session ended$|server closed/m;
	return;
}

# ---------- after a fault ----------

# What is under way on the coordinator, one line a backend, without sessions
# that are given
sub local_activity
{
	my ($c, @sessions) = @_;
	my $known = join ', ', 0, map { $_->{pid} } grep { $_ } @sessions, $c->{poker};

	return grep { $_ ne '' } split /\n/, $c->sql(<<"SQL");
SELECT pid, state, coalesce(wait_event, '-'), left(query, 200)
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle'
	AND pid <> pg_backend_pid() AND pid NOT IN ($known)
SQL
}

# Connections that logq has to a server
sub connections_on
{
	my ($node) = @_;

	return $node->safe_psql('logs',
		"SELECT count(*) FROM pg_stat_activity WHERE usename = 'logq'");
}

# Test: nothing is stuck anywhere, and each of these sessions gets its next
# query right and holds no more sockets than in the beginning.  Nodes that are
# down are left out.
sub assert_clean
{
	my ($c, $name, @sessions) = @_;
	my (@here, @there, @wrong);
	my $good;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	LogqTest::poll(sub {
		@here = local_activity($c, @sessions);
		return 0 if @here;
		@there = $c->remote_activity;
		return !@there;
	}, 5);
	foreach my $s (@sessions)
	{
		my $q = query('few');
		my $difference = difference($q, right($s, $q),
			$s->query(on_table($q, 'logq.logs')));
		my $sockets = sockets_of($s->{pid});
		my $most = 8 + ($s->{sockets} //= $sockets);

		push @wrong, "the next query: $difference" if $difference ne '';
		push @wrong, "$sockets sockets are open, $s->{sockets} in the beginning"
		  if $sockets > $most;
	}
	$good = ok(!@here && !@there && !@wrong, "$name: nothing is left behind");
	diag(join "\n", (map { "coordinator: $_" } @here), @there, @wrong)
	  unless $good;
	return $good;
}

1;
