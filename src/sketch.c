/*-------------------------------------------------------------------------
 *
 * sketch.c
 *		Hash, bloom filter and count-min sketch of what segments hold.
 *
 * What is written here is kept by partitions for years and read by later
 * versions, on machines of either byte order: docs/formats.md is the law, and
 * the frozen vectors of test_sketch.c hold this file to it.  Numbers lie on
 * disk with the lowest byte first and at any address.
 *
 * Nothing here can fail.  A filter or sketch that comes from a partition must
 * pass logq_bloom_valid() or logq_sketch_valid() before anything else sees it;
 * after that every function stays within its bytes whatever they hold.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <string.h>

#include "sketch.h"

/* all of xxHash in this file: nothing to link with */
#define XXH_INLINE_ALL
#include <xxhash.h>

/* share of false positives that a new filter is made for */
#define BLOOM_TARGET 0.004

/* the one bit in each word of a block, by the Parquet specification */
static const uint32_t bloom_salt[8] = {
	0x47b6137bU, 0x44974d91U, 0x8824ad5bU, 0xa2b7289dU,
	0x705495c7U, 0x2df1424bU, 0x9efc4947U, 0x5c6bfb31U
};

/* bytes of a header, see docs/formats.md */
#define BLOOM_AT_VERSION 0
#define BLOOM_AT_LOG2 1
#define BLOOM_AT_NVALUES 8

#define SKETCH_AT_VERSION 0
#define SKETCH_AT_DEPTH 1
#define SKETCH_AT_LOG2 2
#define SKETCH_AT_TOTAL 8

/* counters of a row */
#define SKETCH_MIN_LOG2 4
#define SKETCH_MAX_LOG2 11
/* what can be read: as far as the bits of a hash go */
#define SKETCH_VALID_LOG2 16

/*
 * Read and write numbers with the lowest byte first, at any address.  The
 * compiler makes one instruction of each where the machine has it.
 */
static inline uint32_t
get32(const uint8_t *p)
{
	return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 |
		(uint32_t) p[3] << 24;
}

static inline uint64_t
get64(const uint8_t *p)
{
	return (uint64_t) get32(p) | (uint64_t) get32(p + 4) << 32;
}

static inline void
put32(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t) value;
	p[1] = (uint8_t) (value >> 8);
	p[2] = (uint8_t) (value >> 16);
	p[3] = (uint8_t) (value >> 24);
}

static inline void
put64(uint8_t *p, uint64_t value)
{
	put32(p, (uint32_t) value);
	put32(p + 4, (uint32_t) (value >> 32));
}

/*
 * Are all these bytes zero?
 */
static bool
all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (p[i] != 0)
			return false;
	}
	return true;
}

/*
 * XXH64 with seed 0.
 */
uint64_t
logq_hash(const void *data, size_t len)
{
	/* an empty value may come without memory */
	return XXH64(len > 0 ? data : "", len, 0);
}

/* ---------- split-block bloom filter ---------- */

/*
 * The bit of word i for a hash.
 */
static inline uint32_t
bloom_bit(uint64_t hash, int i)
{
	return UINT32_C(1) << ((uint32_t) hash * bloom_salt[i] >> 27);
}

/*
 * Expected share of false positives.
 *
 * Each of the n values falls into one of the blocks, so the values of a block
 * are close to Poisson distributed.  In a block with j values a bit of a word
 * is set with probability 1 - (1 - 1/32)^j, and all eight words must have
 * theirs.  The plain formula for bloom filters takes every block as loaded
 * alike and so is too hopeful, the more so the longer a filter is.
 *
 * The sum starts at the most frequent load and goes up and down from there
 * until the terms no longer matter: exp(-load) alone is zero for large loads.
 */
double
logq_bloom_fpp(int log2_blocks, uint64_t nvalues)
{
	double		load;
	double		mode;
	double		top;
	double		sum = 0.0;

	if (nvalues == 0)
		return 0.0;
	load = ldexp((double) nvalues, -log2_blocks);
	/* every bit is set: 8 * (31/32)^1200 < 1e-15 */
	if (load > 1200.0)
		return 1.0;

	mode = floor(load);
	top = exp(mode * log(load) - load - lgamma(mode + 1.0));

	for (int up = 0; up < 2; up++)
	{
		double		weight = top;
		double		j = mode;

		if (up)
		{
			j = mode + 1.0;
			weight = top * load / j;
		}
		while (j >= 0.0 && weight > 1e-18)
		{
			sum += weight * pow(1.0 - pow(31.0 / 32.0, j), 8.0);
			if (up)
			{
				j += 1.0;
				weight *= load / j;
			}
			else
			{
				weight *= j / load;
				j -= 1.0;
			}
		}
	}
	return sum < 1.0 ? sum : 1.0;
}

/*
 * log2 of the smallest number of blocks that comes to BLOOM_TARGET.
 */
int
logq_bloom_log2_blocks(uint64_t nvalues)
{
	int			log2_blocks = 0;

	while (log2_blocks < LOGQ_BLOOM_MAX_LOG2 &&
		   logq_bloom_fpp(log2_blocks, nvalues) > BLOOM_TARGET)
		log2_blocks++;
	return log2_blocks;
}

/*
 * Bytes of a filter.
 */
size_t
logq_bloom_size(int log2_blocks)
{
	return LOGQ_BLOOM_HEADER + ((size_t) LOGQ_BLOOM_BLOCK << log2_blocks);
}

/*
 * Make an empty filter.
 */
void
logq_bloom_init(uint8_t *filter, int log2_blocks, uint64_t nvalues)
{
	memset(filter, 0, logq_bloom_size(log2_blocks));
	filter[BLOOM_AT_VERSION] = LOGQ_BLOOM_VERSION;
	filter[BLOOM_AT_LOG2] = (uint8_t) log2_blocks;
	put64(filter + BLOOM_AT_NVALUES, nvalues);
}

/*
 * The block of a hash: the top bits.  So a filter of 2^a blocks answers as
 * one of 2^(a + b) would in which each block stands 2^b times in a row.
 */
uint32_t
logq_bloom_block(int log2_blocks, uint64_t hash)
{
	return (uint32_t) ((hash >> 32) << log2_blocks >> 32);
}

/*
 * Add a value.
 */
void
logq_bloom_add(uint8_t *filter, uint64_t hash)
{
	uint8_t    *block = filter + LOGQ_BLOOM_HEADER + (size_t)
		LOGQ_BLOOM_BLOCK * logq_bloom_block(filter[BLOOM_AT_LOG2], hash);

	for (int i = 0; i < 8; i++)
		put32(block + 4 * i, get32(block + 4 * i) | bloom_bit(hash, i));
}

/*
 * May the filter that this block is of hold the value?
 */
bool
logq_bloom_block_test(const uint8_t *block, uint64_t hash)
{
	uint32_t	missing = 0;

	for (int i = 0; i < 8; i++)
		missing |= ~get32(block + 4 * i) & bloom_bit(hash, i);
	return missing == 0;
}

/*
 * May the filter hold the value?
 */
bool
logq_bloom_test(const uint8_t *filter, uint64_t hash)
{
	return logq_bloom_block_test(filter + LOGQ_BLOOM_HEADER + (size_t)
								 LOGQ_BLOOM_BLOCK *
								 logq_bloom_block(filter[BLOOM_AT_LOG2],
												  hash),
								 hash);
}

/*
 * Is this a filter that we can read?
 */
bool
logq_bloom_valid(const uint8_t *filter, size_t len)
{
	return len >= LOGQ_BLOOM_HEADER &&
		filter[BLOOM_AT_VERSION] == LOGQ_BLOOM_VERSION &&
		filter[BLOOM_AT_LOG2] <= LOGQ_BLOOM_MAX_LOG2 &&
		all_zero(filter + BLOOM_AT_LOG2 + 1,
				 BLOOM_AT_NVALUES - BLOOM_AT_LOG2 - 1) &&
		len == logq_bloom_size(filter[BLOOM_AT_LOG2]);
}

int
logq_bloom_get_log2_blocks(const uint8_t *filter)
{
	return filter[BLOOM_AT_LOG2];
}

uint64_t
logq_bloom_get_nvalues(const uint8_t *filter)
{
	return get64(filter + BLOOM_AT_NVALUES);
}

/* ---------- count-min sketch ---------- */

/*
 * log2 of the counters of a row.  With twice as many counters as values, most
 * values have one to themselves in at least one row.  The upper limit keeps a
 * sketch at 32 kB: it is for estimates, not for answers.
 */
int
logq_sketch_log2_width(uint64_t nvalues)
{
	int			log2_width = SKETCH_MIN_LOG2;

	while (log2_width < SKETCH_MAX_LOG2 &&
		   (UINT64_C(1) << log2_width) / 2 < nvalues)
		log2_width++;
	return log2_width;
}

/*
 * Bytes of a sketch.
 */
size_t
logq_sketch_size(int log2_width)
{
	return LOGQ_SKETCH_HEADER +
		((size_t) LOGQ_SKETCH_DEPTH * sizeof(uint32_t) << log2_width);
}

/*
 * Make an empty sketch.
 */
void
logq_sketch_init(uint8_t *sketch, int log2_width)
{
	memset(sketch, 0, logq_sketch_size(log2_width));
	sketch[SKETCH_AT_VERSION] = LOGQ_SKETCH_VERSION;
	sketch[SKETCH_AT_DEPTH] = LOGQ_SKETCH_DEPTH;
	sketch[SKETCH_AT_LOG2] = (uint8_t) log2_width;
}

/*
 * Where the counter of a hash is in a row.  Each row has 16 bits of the hash
 * to itself and takes the top bits of these, so the rows are independent of
 * each other, and a sketch is made narrower by adding up neighbours.
 */
static inline size_t
sketch_at(int log2_width, uint64_t hash, int row)
{
	uint32_t	bits = (uint32_t) (hash >> 16 * row & 0xffff);
	size_t		column = (size_t) (bits << log2_width >> 16);

	return LOGQ_SKETCH_HEADER +
		sizeof(uint32_t) * (((size_t) row << log2_width) + column);
}

/*
 * Count rows of a value.  A counter that is full stays so.
 */
void
logq_sketch_add(uint8_t *sketch, uint64_t hash, uint64_t count)
{
	uint64_t	total = get64(sketch + SKETCH_AT_TOTAL);

	put64(sketch + SKETCH_AT_TOTAL,
		  count > UINT64_MAX - total ? UINT64_MAX : total + count);
	for (int row = 0; row < LOGQ_SKETCH_DEPTH; row++)
	{
		uint8_t    *at = sketch + sketch_at(sketch[SKETCH_AT_LOG2], hash, row);
		uint32_t	old = get32(at);

		put32(at, count > UINT32_MAX - old ? UINT32_MAX :
			  old + (uint32_t) count);
	}
}

/*
 * Is this a sketch that we can read?
 */
bool
logq_sketch_valid(const uint8_t *sketch, size_t len)
{
	return len >= LOGQ_SKETCH_HEADER &&
		sketch[SKETCH_AT_VERSION] == LOGQ_SKETCH_VERSION &&
		sketch[SKETCH_AT_DEPTH] == LOGQ_SKETCH_DEPTH &&
		sketch[SKETCH_AT_LOG2] <= SKETCH_VALID_LOG2 &&
		all_zero(sketch + SKETCH_AT_LOG2 + 1,
				 SKETCH_AT_TOTAL - SKETCH_AT_LOG2 - 1) &&
		len == logq_sketch_size(sketch[SKETCH_AT_LOG2]);
}

uint64_t
logq_sketch_total(const uint8_t *sketch)
{
	return get64(sketch + SKETCH_AT_TOTAL);
}

/*
 * Rows of a value at most: the least of its counters, each of which has all
 * rows of the value and perhaps more.  A full counter says nothing but that
 * there are no more rows than in all.
 */
uint64_t
logq_sketch_upper(const uint8_t *sketch, uint64_t hash)
{
	uint64_t	upper = logq_sketch_total(sketch);

	for (int row = 0; row < LOGQ_SKETCH_DEPTH; row++)
	{
		uint32_t	counter = get32(sketch +
									sketch_at(sketch[SKETCH_AT_LOG2],
											  hash, row));

		if (counter < UINT32_MAX && counter < upper)
			upper = counter;
	}
	return upper;
}

/*
 * Likely rows of a value: from each counter the mean of the others in its row
 * is taken off, and of the rows the median counts (count-mean-min).
 */
double
logq_sketch_estimate(const uint8_t *sketch, uint64_t hash)
{
	int			log2_width = sketch[SKETCH_AT_LOG2];
	double		total = (double) logq_sketch_total(sketch);
	double		upper = (double) logq_sketch_upper(sketch, hash);
	double		likely[LOGQ_SKETCH_DEPTH] = {0.0};
	double		median;

	for (int row = 0; row < LOGQ_SKETCH_DEPTH; row++)
	{
		double		counter = get32(sketch +
									sketch_at(log2_width, hash, row));
		double		noise = 0.0;
		int			i = row;

		if (log2_width > 0 && total > counter)
			noise = (total - counter) / (ldexp(1.0, log2_width) - 1.0);

		/* insert it in order */
		for (; i > 0 && likely[i - 1] > counter - noise; i--)
			likely[i] = likely[i - 1];
		likely[i] = counter - noise;
	}
	median = (likely[(LOGQ_SKETCH_DEPTH - 1) / 2] +
			  likely[LOGQ_SKETCH_DEPTH / 2]) / 2.0;
	if (median < 0.0)
		return 0.0;
	return median < upper ? median : upper;
}
