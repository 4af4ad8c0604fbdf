# However large a result, the coordinator's memory stays small: read through a
# cursor and through COPY.  And a client that stops reading stops the
# partitions.
#
#	LOGQ_BIG_ROWS	number of rows, 5,000,000

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use IPC::Run;
use LogqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $limit_kb = 64 * 1024;
my $fetch = 10000;
my $wanted = $ENV{LOGQ_BIG_ROWS} // 5_000_000;
my $partitions = 3;
my $hours = 8;
# of each segment of each partition
my $per_segment = int($wanted / ($partitions * $hours)) || 1;
my $total = $per_segment * $partitions * $hours;

# Anonymous memory of a process, in kB; undef once it has gone
sub memory
{
	my ($pid) = @_;

	open my $f, '<', "/proc/$pid/status" or return undef;
	while (my $line = <$f>)
	{
		return $1 if $line =~ /^RssAnon:\s+(\d+) kB/;
	}
	return undef;
}

plan skip_all => 'needs /proc' unless defined memory($$);

my $c = LogqTest->new(
	partitions => $partitions,
	conf => [ 'autovacuum = off', 'wal_level = minimal', 'max_wal_senders = 0' ]);

# ---------- rows, made where they lie, on all partitions at once ----------

{
	my @jobs;

	foreach my $name ($c->names)
	{
		my $node = $c->part($name);
		my $sql = '';

		foreach my $h (0 .. $hours - 1)
		{
			my $start = sprintf '2024-05-01 %02d:00+00', $h;

			# the rows of a segment in the order of time, as they arrive
			$sql .= <<"SQL";
SELECT logq_store.make_segment('$start');
INSERT INTO logq_store.log (ts, level, service, message, attrs)
	SELECT timestamptz '$start' + i * (interval '1 hour' / $per_segment),
		'INFO', 'service-' || i % 7,
		'request ' || i || ' took ' || i % 997 || ' ms, which is neither much nor little, and here are some more words',
		NULL
	FROM generate_series(0, $per_segment - 1) i;
SQL
		}
		push @jobs, IPC::Run::start(
			[ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1',
				'-d', $node->connstr('logs'), '-c', 'BEGIN', '-c', $sql, '-c', 'COMMIT' ],
			'>', '/dev/null');
	}
	$_->finish foreach @jobs;
	$c->on($_, 'ANALYZE logq_store.log') foreach $c->names;
}
is($c->sql('SELECT count(*), count(DISTINCT partition) FROM logq.logs'),
	"$total|$partitions", "$total rows lie on $partitions partitions");

# ---------- reading it all ----------

# Run a script in one psql and watch its backend.  Returns what psql printed,
# and the peak of its memory over its start.
sub watch
{
	my ($sql) = @_;
	my $node = $c->coordinator;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/watched.sql";
	my ($in, $out, $err, $start, $pid) = ('', '', '', undef, undef);
	my $peak = 0;
	my $samples = 0;

	# the library, the catalogs and the connections count as the start
	open my $f, '>', $script or die $!;
	print $f "SELECT count(*) FROM logq.logs WHERE id = 1 AND partition <> 'x';\n"
	  . "\\echo PID\nSELECT pg_backend_pid();\n$sql\n\\echo END\n";
	close $f or die $!;
	my $run = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1',
			'-d', $node->connstr('logs'), '-f', $script ],
		'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(400));

	until ($out =~ /^PID\n(\d+)\n/m || !$run->pumpable)
	{
		eval { $run->pump };
	}
	($pid) = $out =~ /^PID\n(\d+)\n/m;
	BAIL_OUT("no session: $err") unless $pid;
	$start = memory($pid);
	while ($run->pumpable)
	{
		my $now;

		# takes what psql prints, and a sample now and then
		LogqTest::poll(sub {
			eval { $run->pump_nb };
			$now = memory($pid);
			$samples++;
			return !$run->pumpable || (defined $now && $now > $peak);
		}, 0.2);
		$peak = $now if defined $now && $now > $peak;
	}
	$run->finish;
	die "failed: $err" if $out !~ /^END$/m;
	return ($out, $peak - $start, $samples);
}

sub cursor_script
{
	my ($query) = @_;
	my $fetches = int($total / $fetch) + 1;

	# the rows go nowhere, their numbers to standard output
	return "BEGIN;\nDECLARE c CURSOR FOR $query;\n\\o /dev/null\n" .
	  ("FETCH $fetch FROM c;\n\\echo rows :ROW_COUNT\n" x $fetches) . <<'SQL';
\o
SELECT 'contexts ' || (sum(total_bytes) / 1024)::bigint FROM pg_backend_memory_contexts;
COMMIT;
SQL
}

foreach my $query ('SELECT * FROM logq.logs',
	'SELECT * FROM logq.logs ORDER BY ts DESC, id DESC')
{
	my ($out, $growth, $samples) = watch(cursor_script($query));
	my $rows = 0;
	my ($contexts) = $out =~ /^contexts (\d+)$/m;

	$rows += $1 while $out =~ /^rows (\d+)$/mg;
	is($rows, $total, "cursor gives all rows: $query");
	cmp_ok($growth, '<', $limit_kb,
		"and its backend grew by $growth kB at most, seen in $samples samples");
	cmp_ok($contexts, '<', $limit_kb,
		"and its memory contexts hold $contexts kB at the end");
}

foreach my $query ('SELECT * FROM logq.logs',
	'SELECT * FROM logq.logs ORDER BY ts, id')
{
	my ($out, $growth, $samples) =
	  watch("COPY ($query) TO '/dev/null';\n\\echo copied :ROW_COUNT");

	like($out, qr/^copied $total$/m, "COPY gives all rows: $query");
	cmp_ok($growth, '<', $limit_kb,
		"and its backend grew by $growth kB at most, seen in $samples samples");
}

# with a reader that is slower than the partitions, and work of its own
{
	my ($out, $growth) = watch(<<'SQL');
SELECT 'sum ' || count(*) FROM (SELECT md5(message || id) AS m FROM logq.logs
	ORDER BY ts, id OFFSET 0) s WHERE m > '0';
SQL
	like($out, qr/^sum $total$/m, 'a slow reader gets all rows');
	cmp_ok($growth, '<', $limit_kb, "and its backend grew by $growth kB at most");
}

# ---------- a client that stops reading ----------

# Rows that the partitions have sent so far, by partition; undef for those that
# are not waiting to send
sub sent
{
	my @r;

	foreach my $name ($c->names)
	{
		my $out = $c->on($name, <<'SQL');
SELECT p.tuples_processed
FROM pg_stat_progress_copy p JOIN pg_stat_activity a USING (pid)
WHERE a.usename = 'logq' AND a.wait_event = 'ClientWrite'
SQL
		push @r, $out eq '' ? undef : $out;
	}
	return @r;
}

{
	my $node = $c->coordinator;
	my @psql = ($node->installed_command('psql'), '-XAtq', '-d',
		$node->connstr('logs'), '-c',
		"COPY (SELECT * FROM logq.logs ORDER BY ts, id) TO STDOUT");
	my ($before, $grown, $pid, $lines);
	my @first;
	my $same = 0;

	my $psql_pid = open my $pipe, '-|', @psql or die $!;
	ok(LogqTest::poll(sub {
				my @now = sent();

				# the same for ten looks in a row: nothing moves
				$same = (grep { !defined } @now) || "@now" ne "@first" ? 0 : $same + 1;
				@first = map { $_ // '?' } @now;
				return $same >= 10;
			}, 60),
		'when the client does not read, all partitions wait to send')
	  or diag("rows sent: @first");
	$grown = 0;
	$grown += $_ eq '?' ? $total : $_ foreach @first;
	cmp_ok($grown, '<', $total / 5, "after $grown of $total rows");

	$pid = $c->sql(<<'SQL');
SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY%TO STDOUT' AND state = 'active'
SQL
	cmp_ok(memory($pid) // $limit_kb, '<', $limit_kb,
		'and the backend is small');

	# it goes on where it was
	$lines = 0;
	$lines++ while <$pipe>;
	close $pipe;
	is($lines, $total, 'then the client reads on and gets all rows');
	$c->quiet('and the partitions are done');
}
done_testing();
