# Rows come through Kafka while everything that takes part is killed at random:
# each row and each dead letter is there once in the end.
#
#	LOGQ_CRASH_ROWS		how many rows, 60000
#	LOGQ_CRASH_KILLS	how many kills at least, 7
#	LOGQ_CRASH_SEED		of what happens; printed, else from the clock
#
# "test/crash" runs the long version.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqCrash;
use Test::More;

my $crash = LogqCrash->new(
	rows => $ENV{LOGQ_CRASH_ROWS} // 60_000,
	kills => $ENV{LOGQ_CRASH_KILLS} // 7,
	seconds => $ENV{LOGQ_CRASH_ROWS} ? 2 : 1,
	seed => $ENV{LOGQ_CRASH_SEED} // (time ^ $$ << 8) % 1_000_000);

ok(eval { $crash->run; 1 }, "all comes back after each kill (seed $crash->{seed})")
  or diag($@);
$crash->check;
diag($_) foreach $crash->summary;
done_testing;
