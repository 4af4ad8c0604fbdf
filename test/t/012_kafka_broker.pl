# The broker and the producer that other tests rely on do what these believe.

use strict;
use warnings;

use Test::More;

use LogqKafka;
use LogqTest;

my $k = LogqKafka->new;

sub total
{
	my ($topic) = @_;
	my $offsets = $k->offsets($topic);
	my $n = 0;

	$n += $_->[1] foreach values %$offsets;
	return $n;
}

# ---- topics --------------------------------------------------------------

$k->create_topic('t', partitions => 2);
is_deeply($k->offsets('t'), { 0 => [ 0, 0 ], 1 => [ 0, 0 ] }, 'a new topic');
$k->add_partitions('t', 3);
is($k->produce('t', [ 'one', undef, [ 'key', 'two' ], "\0\xff", '' ],
	partition => 2, key => 'k', headers => { a => 1, b => undef }), 5, 'messages');
is_deeply($k->offsets('t'),
	{ 0 => [ 0, 0 ], 1 => [ 0, 0 ], 2 => [ 0, 5 ] }, 'they are in the partition');
$k->delete_records('t', 2, 3);
is_deeply($k->offsets('t')->{2}, [ 3, 5 ], 'records are deleted');
$k->produce('t', [ 'x' ], compression => $_, partition => 0)
  foreach qw(gzip snappy lz4 zstd);
is_deeply($k->offsets('t')->{0}, [ 0, 4 ], 'compressed messages');
ok(!eval { $k->create_topic('t'); 1 }, 'a topic that exists is not made again');
$k->delete_topic('t');
ok(!eval { $k->offsets('t'); 1 } && $@ =~ /there is no topic "t"/,
	'the topic is gone');
$k->create_topic('t');
is_deeply($k->offsets('t'), { 0 => [ 0, 0 ] }, 'a topic with its name is empty');

# a control record takes an offset
$k->produce('t', [ 1 .. 10 ], transaction => 'commit');
$k->produce('t', [ 1 .. 10 ], transaction => 'abort');
is_deeply($k->offsets('t')->{0}, [ 0, 22 ], 'transactions');

# ---- sizes, retention, compaction ----------------------------------------

$k->create_topic('big', config => { 'max.message.bytes' => 1000 });
ok(!eval { $k->produce('big', [ 'x' x 2000 ]); 1 } && $@ =~ /too large/i,
	'a message that the topic does not allow');
$k->produce('t', [ 'x' x 15_000_000 ], partition => 0);
is($k->offsets('t')->{0}[1], 23, 'a message of 15 MB');

$k->create_topic('old', config => { 'retention.ms' => 1000 });
$k->produce('old', [ 1 .. 10 ]);
ok(LogqTest::poll(sub { return $k->offsets('old')->{0}[0] == 10; }, 30),
	'retention is over soon');

# ---- it goes away and comes back -----------------------------------------

my $id = $k->cluster_id;

$k->create_topic('load', partitions => 3);
my $load = $k->start_generate('load', total => 60_000, rate => 30_000);
LogqTest::poll(sub { return total('load') > 0; });
$k->kill9;
ok(!$k->running, 'killed');
$k->start;
is($load->finish, 60_000, 'the producer does not mind');
is(total('load'), 60_000, 'nothing was lost or came twice');
is($k->cluster_id, $id, 'it is the same cluster');
$k->stop;
$k->start;
is(total('load'), 60_000, 'data stay');
$load = $k->start_generate('load', rate => 1000, format => 'otlp', batch => 5);
LogqTest::poll(sub { return total('load') > 60_000; });
my $rows = $load->stop;
is((total('load') - 60_000) * 5, $rows, "a load that is stopped is delivered");
is($k->generate('load', total => 100, format => 'mixed', from => 1000,
	to => 2000, seed => 7, first => 500, number_field => 'x', stamp => 1,
	key_service => 1), 100, 'options of the producer');

# ---- with a password -----------------------------------------------------

my %sasl = ('bootstrap.servers' => $k->sasl_brokers,
	'security.protocol' => 'sasl_plaintext', 'sasl.mechanisms' => 'PLAIN',
	'sasl.username' => $LogqKafka::sasl_user);
$k->produce('t', [ 'x' ],
	properties => { %sasl, 'sasl.password' => $LogqKafka::sasl_password });
ok(!eval { $k->produce('t', [ 'x' ], timeout => 2,
	properties => { %sasl, 'sasl.password' => 'wrong' }); 1 },
	'the listener wants its password');

done_testing();
