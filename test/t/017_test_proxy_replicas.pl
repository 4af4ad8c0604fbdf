# The replicas and the proxy that tests of failures rely on do what these
# believe.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket;
use Test::More;
use Time::HiRes qw(time);

use LogqProxy;
use LogqTest;

# ---- a proxy before a server that says what we want -----------------------

my $backend = IO::Socket::INET->new(
	Listen => 50,
	LocalAddr => '127.0.0.1',
	Proto => 'tcp') or die "listen: $!";
my $p = LogqProxy->new(port => $backend->sockport, unix => 1);

sub client
{
	my ($proxy) = @_;

	return IO::Socket::INET->new(
		PeerAddr => $proxy->host,
		PeerPort => $proxy->port,
		Timeout => 10);
}

# Both ends of a connection through the proxy, after the client's first message
sub through
{
	my ($socket, $startup, $quiet) = @_;
	my ($c, $s);

	$c = $socket // client($p) // die "connect: $@";
	$startup //= pack('NN', 8, 196608);
	$c->syswrite($startup);
	IO::Select->new($backend)->can_read(10) or die 'no connection to the backend';
	$s = $backend->accept;
	is(take($s, length $startup), $startup, 'the server gets what the client sends')
	  if !$socket && !$quiet;
	return ($c, $s);
}

# Read so many bytes, or what there is before the end or an error, which is
# then in $how
my $how;

sub take
{
	my ($fh, $n, $seconds) = @_;
	my $end = time + ($seconds // 10);
	my $data = '';

	$how = '';
	while (length $data < $n)
	{
		my $left = $end - time;
		my $r;

		if ($left <= 0 || !IO::Select->new($fh)->can_read($left))
		{
			$how = 'timeout';
			last;
		}
		$r = sysread($fh, $data, $n - length $data, length $data);
		$how = defined $r ? 'eof' : $!{ECONNRESET} ? 'reset' : "error: $!"
		  unless $r;
		last if !$r;
	}
	return $data;
}

my $bytes = join '', map { chr(65 + $_ % 26) } 0 .. 99_999;

foreach my $end ('rst', 'fin')
{
	foreach my $n (1, 4711, 99_999)
	{
		my ($c, $s);

		$p->cut($n, how => $end);
		($c, $s) = through();
		$s->syswrite($bytes);
		ok(take($c, 200_000) eq substr($bytes, 0, $n),
			"$end: $n bytes arrive, and no more");
		is($how, $end eq 'rst' ? 'reset' : 'eof', 'how it ends');
		take($s, 1);
		like($how, qr/^(?:reset|eof)$/, 'for the server, too');
	}
}
{
	my ($c, $s);

	$p->cut(0);
	($c, $s) = through(undef, undef, 1);
	is(take($c, 1), '', 'none at all');
	is($how, 'reset', 'but a reset');
}

# a client that does not read yet: a reset would take what it has not got
{
	my ($c, $s);

	$p->cut(60_000, on => 'each');
	foreach (1 .. 2)
	{
		($c, $s) = through();
		$s->syswrite($bytes);
		ok(LogqTest::poll(sub { return ($p->connections)[-1]{fired} }, 10),
			'cut before the client has read anything');
		is(length take($c, 100_000), 60_000, 'it gets all the same, each time');
	}
	$p->clear;
}

# counted from now
{
	my ($c1, $s1) = through();
	my ($c2, $s2) = through();
	my ($id1, $id2) = map { $_->{id} } ($p->connections)[ -2, -1 ];
	my @list;

	foreach my $pair ([ $c1, $s1 ], [ $c2, $s2 ])
	{
		$pair->[1]->syswrite('before');
		is(take($pair->[0], 6), 'before', 'bytes before');
	}
	$p->mark;
	$p->cut(10, on => 'now');
	$s1->syswrite('x' x 7);
	$s2->syswrite('y' x 12);
	is(take($c2, 20), 'y' x 10, 'the first that has got so many more is cut');
	is(take($c1, 7), 'x' x 7, 'the other not');
	$s1->syswrite('x' x 100);
	is(take($c1, 100), 'x' x 100, 'nor later');
	@list = ($p->connections)[ -2, -1 ];
	is_deeply([ map { "$_->{id} $_->{open} $_->{to_client} $_->{since_mark}" } @list ],
		[ "$id1 1 113 107", "$id2 0 16 10" ], 'bytes are counted');
	is($list[0]{to_server}, 8, 'those to the server, too');

	$p->stall(5, on => $id1);
	$s1->syswrite('123456789');
	is(take($c1, 5), '12345', 'stalled: so many arrive');
	is(take($c1, 1, 0.3) . $how, 'timeout', 'and the connection stays');
	$c1->syswrite('hello');
	is(take($s1, 5), 'hello', 'what the client sends goes on');
	$p->resume;
	is(take($c1, 4), '6789', 'the rest comes when it is resumed');
	$p->stall(0, on => 'all', both => 1);
	$c1->syswrite('hello');
	is(take($s1, 5, 0.2), '', 'stalled both ways');
	$p->clear;
	is(take($s1, 5), 'hello', 'and clear');
	close $c1;
	is(take($s1, 1) . $how, 'eof', 'a client that is gone is gone for the server');
	ok(!eval { $p->cut(0, on => 'now'); 1 } && $@ =~ /no connection is open/,
		'no connection is left to cut');
	ok(!eval { $p->cut(0, on => $id1); 1 } && $@ =~ /$id1 is not open/,
		'nor that one');
}

# requests to cancel are not what a trigger waits for
{
	my ($c, $s);

	$p->cut(3, how => 'fin');
	($c, $s) = through(undef, pack('NNNN', 16, 80877102, 1, 2));
	$s->syswrite('abcdef');
	is(take($c, 6), 'abcdef', 'a request to cancel passes');
	is(($p->connections(all => 1))[-1]{kind}, 'cancel', 'and is known as such');
	($c, $s) = through(undef, pack('NNNN', 8, 80877103, 8, 196608));
	$s->syswrite('Nbcdef');
	is(take($c, 6), 'Nbc', 'the connection after it is cut');
	is(($p->connections)[-1]{kind}, 'session', 'which had asked for SSL');
	$p->cut(3, how => 'fin');
	($c, $s) = through(undef, pack('NN', 8, 80877103));
	$s->syswrite('N');
	is(take($c, 1), 'N', 'the answer to one that asks for SSL');
	$c->syswrite(pack('NN', 8, 196608));
	$s->syswrite('bcdef') if take($s, 8) ne '';
	is(take($c, 6), 'bc', 'is counted, too');
}

# slow
{
	my ($c, $s) = through();
	my $start;

	$p->delay(200);
	$start = time;
	$s->syswrite('abc');
	is(take($c, 3), 'abc', 'delayed');
	cmp_ok(time - $start, '>=', 0.2, 'by so much');
	$p->delay(20, chunk => 100);
	$start = time;
	$s->syswrite('x' x 1000);
	is(take($c, 1000), 'x' x 1000, 'in small bits');
	cmp_ok(time - $start, '>=', 0.2, 'with a pause before each');
	$p->clear;
	$s->syswrite($bytes);
	ok(take($c, 100_000) eq $bytes, 'at full speed again');
	close $s;
	is(take($c, 1) . $how, 'eof', 'a server that closes');
}

# new connections that fail
{
	my ($c, $s) = through();
	my $new;

	$p->refuse;
	ok(!client($p), 'refused');
	ok($!{ECONNREFUSED} || $@ =~ /refused/, 'at once');
	ok(!IO::Socket::UNIX->new(Peer => $p->socket_dir . '/.s.PGSQL.' . $p->port),
		'on the socket, too');
	$s->syswrite('abc');
	is(take($c, 3), 'abc', 'what was there goes on');

	$p->blackhole;
	$new = client($p);
	ok($new, 'a connection that is accepted');
	$new->syswrite('hello');
	is(take($new, 1, 0.3) . $how, 'timeout', 'and not answered');

	$p->full;
	$new = IO::Socket::INET->new(Proto => 'tcp') // die "socket: $!";
	$new->blocking(0);
	ok(!connect($new, pack_sockaddr_in($p->port, INADDR_LOOPBACK))
		  && $!{EINPROGRESS}, 'a connection is asked for');
	ok(!IO::Select->new($new)->can_write(0.3), 'and not made: the backlog is full');
	is($p->status->{mode}, 'full', 'its mode');
	close $new;

	$p->pass;
	($c, $s) = through(IO::Socket::UNIX->new(
			Peer => $p->socket_dir . '/.s.PGSQL.' . $p->port));
	$s->syswrite('abc');
	is(take($c, 3), 'abc', 'through the socket');
	$p->close_all('fin');
	is(take($c, 1) . $how, 'eof', 'all are ended');
}

# ---- it never outlives anybody --------------------------------------------

{
	my $pid = $p->pid;

	$p->stop;
	ok(!kill(0, $pid), 'a proxy that is stopped');

	# its owner is killed before it can do anything about it
	pipe(my $r, my $w) or die "pipe: $!";
	my $child = fork // die "fork: $!";
	if ($child == 0)
	{
		my $orphan = LogqProxy->new(port => $backend->sockport);

		syswrite($w, $orphan->pid . "\n");
		kill 'KILL', $$;
	}
	close $w;
	$pid = <$r>;
	waitpid($child, 0);
	chomp $pid;
	LogqTest::poll_ok(sub { return !kill(0, $pid) || zombie($pid) },
		'one whose owner was killed', 10);
}

# ---- replicas ---------------------------------------------------------------

my $c = LogqTest->new(partitions => 1, replicas => 2, segment_interval => '1 day');
my $r1 = $c->replica('p1', 1);
my $r2 = $c->replica('p1', 2);
my $count = 'SELECT count(*) FROM logq_store.log';

is($c->sql("SELECT option_value FROM pg_foreign_server s, pg_options_to_table(s.srvoptions) WHERE srvname = 'p1' AND option_name = 'replicas'"),
	join(',', map { $_->host . ':' . $_->port } $r1, $r2),
	'the server object knows them');
$c->sql("INSERT INTO logq.logs (ts, level, message) SELECT '2024-06-01 12:00+00'::timestamptz + i * interval '1 s', 'INFO', repeat('m', 300) FROM generate_series(1, 500) i");
$c->wait_for_catchup_all;
is($_->safe_psql('logs', $count), 500, $_->name . ' has the rows')
  foreach $r1, $r2;
is($r1->safe_psql('logs', 'SELECT pg_is_in_recovery()'), 't', 'it is a standby');
is($r1->safe_psql('logs', $count, extra_params => [ '-U', 'logq' ],
	connstr => $r1->connstr('logs') . " password='" . ($LogqTest::password =~ s/'/\\'/gr) . "'"),
	500, 'which the user of the mapping reads');

$c->pause_replica('p1', 1);
$r2->stop;
$c->sql("INSERT INTO logq.logs (ts, level) SELECT '2024-06-01 13:00+00', 'WARN' FROM generate_series(1, 10) i");
is($r1->safe_psql('logs', $count), 500, 'one that is paused lags');
is($c->on('p1', $count), 510, 'its partition does not');
$c->resume_replica('p1', 1);
$r2->start;
$c->wait_for_catchup_all;
is($_->safe_psql('logs', $count), 510, $_->name . ' has caught up')
  foreach $r1, $r2;
$c->quiet('nothing goes on there');

# ---- a proxy before a partition -----------------------------------------------

$p = LogqProxy->new(node => $c->part('p1'));

# what psql gets from a COPY through the proxy, in bytes, and its error
sub copy
{
	my ($out, $err) = ('', '');

	$c->part('p1')->psql('logs',
		"\\copy (SELECT ts, message FROM logq_store.log WHERE level = 'INFO' ORDER BY ts) TO STDOUT (FORMAT binary)",
		connstr => 'host=' . $p->host . ' port=' . $p->port . ' user=logq dbname=logs password=\'' . ($LogqTest::password =~ s/'/\\'/gr) . '\'',
		stdout => \$out, stderr => \$err, timeout => 30);
	return $err;
}

{
	my (@copies, $conn, $n);

	is(copy(), '', 'COPY through the proxy');
	$conn = ($p->connections)[-1];
	@copies = LogqProxy::places($p->messages($conn->{id}));
	is(scalar(@copies), 1, 'one COPY is seen');
	$n = grep { $_->[1] eq 'd' } $p->messages($conn->{id});
	is($n, 501, 'with its rows and its trailer');
	is(join(' ', sort { $copies[0]{$a} <=> $copies[0]{$b} || $a cmp $b } keys %{ $copies[0] }),
		'before_copy response header before_row row before_trailer trailer before_done done before_complete complete after',
		'in their order');
	is($copies[0]{after} + 6, $conn->{to_client}, 'and then "ready"');
	foreach my $place (sort keys %{ $copies[0] })
	{
		my $got;

		$p->cut($copies[0]{$place});
		like(copy(), qr/server closed the connection|reset by peer|lost synchron/,
			"cut at $place");
		$got = ($p->connections)[-1];
		is($got->{to_client}, $copies[0]{$place}, 'exactly there');
	}
	is(copy(), '', 'and whole again');
}

$c->route('p1', $p, []);
is($c->sql("SELECT option_value FROM pg_foreign_server s, pg_options_to_table(s.srvoptions) WHERE srvname = 'p1' AND option_name = 'port'"),
	$p->port, 'the coordinator is sent to the proxy');
$p->mark;
my $before = $p->status->{accepted};
is($c->sql('SELECT count(*), max(length(message)) FROM logq.logs'), '510|300',
	'and gets its rows');
cmp_ok($p->status->{accepted}, '>', $before, 'through it');
$c->route('p1');
is($c->sql('SELECT count(*) FROM logq.logs'), 510, 'back to where they are');
$p->stop;

# ---- promotion ------------------------------------------------------------------

$c->wait_for_catchup_all;
$c->part('p1')->stop('immediate');
$c->promote_replica('p1', 1);
is($r1->safe_psql('logs', $count), 510, 'a replica that was promoted has all');
$r1->safe_psql('logs', "INSERT INTO logq_store.log (ts, level) VALUES ('2024-06-01 14:00+00', 'NEW')");
is($r1->safe_psql('logs', $count), 511, 'and takes writes');
$c->route('p1', $r1, []);
is($c->sql('SELECT count(*) FROM logq.logs'), 511, 'the coordinator is sent there');

sub zombie
{
	my ($pid) = @_;

	open my $stat, '<', "/proc/$pid/stat" or return 1;
	return (<$stat> // ') Z') =~ /\) Z/;
}

done_testing();
