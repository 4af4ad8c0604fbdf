# The random queries again, fewer of them, with a PgBouncer in transaction mode
# before each partition.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqPgBouncer;
use Test::More;

plan skip_all => 'there is no pgbouncer' unless LogqPgBouncer::program();
$ENV{LOGQ_POOLED} = 1;
$ENV{LOGQ_QUERIES} //= 120;
do "$FindBin::Bin/001_random_queries.pl" or die $@ || $!;
