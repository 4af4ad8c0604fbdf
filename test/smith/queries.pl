# SQLsmith's random queries against a coordinator whose partitions fail.
#
#	LOGQ_SMITH_SECONDS	how long, 25
#	LOGQ_SMITH_ROUND	of that, how long a client's session is: half of it, 60 at most
#	LOGQ_SMITH_PATIENCE	after so many seconds a statement hangs, 20
#	LOGQ_SEED			of what is asked, 1
#
# "test/sqlsmith" runs the long version.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqSmith;
use Test::More;

plan skip_all => 'sqlsmith is not installed' unless LogqSmith::available();

my $seconds = $ENV{LOGQ_SMITH_SECONDS} // 25;
my $smith = LogqSmith->new(
	seconds => $seconds,
	round => $ENV{LOGQ_SMITH_ROUND} // ($seconds < 120 ? $seconds / 2 : 60),
	seed => $ENV{LOGQ_SEED} // 1);

ok(eval { $smith->run; 1 }, "all comes back after each fault (seed $smith->{seed})")
  or diag($@);
$smith->check;
diag($_) foreach $smith->summary;
done_testing;
