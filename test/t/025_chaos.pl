# Servers and network fail at random while many clients ask: each answer is
# right, or an error, or says that it is not complete.
#
#	LOGQ_CHAOS_FAULTS	how many faults, 30
#	LOGQ_CHAOS_CLIENTS	how many clients, 16
#	LOGQ_SEED			of what happens; printed, else from the clock
#
# "test/chaos" runs the long version.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqChaos;
use Test::More;

my $chaos = LogqChaos->new(
	faults => $ENV{LOGQ_CHAOS_FAULTS} // 30,
	clients => $ENV{LOGQ_CHAOS_CLIENTS} // 16,
	seed => $ENV{LOGQ_SEED} // (time ^ $$ << 8) % 1_000_000);

ok(eval { $chaos->run; 1 }, "all comes back after each fault (seed $chaos->{seed})")
  or diag($@);
$chaos->check;
diag($_) foreach $chaos->summary;
done_testing;
