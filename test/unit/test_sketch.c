/*-------------------------------------------------------------------------
 *
 * test_sketch.c
 *		The hash, bloom filters and count-min sketches.
 *
 * Filters and sketches lie on partitions for years, so their bytes are
 * compared with frozen ones.  These were computed by another program, written
 * after docs/formats.md in another language.  If a test here fails after a
 * change, it is the change that is wrong: formats get a new version instead.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <string.h>

#include "sketch.h"
#include "tap.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"

/* "logq", "timeout", "payment-service" and TRACE in two blocks */
static const uint8_t frozen_bloom[] = {
	0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x20, 0x00, 0x20, 0x00, 0x00, 0x00, 0x02, 0x04,
	0x00, 0x04, 0x00, 0x01, 0x00, 0x80, 0x01, 0x00,
	0x00, 0x80, 0x10, 0x00, 0x00, 0x00, 0x10, 0x04,
	0x80, 0x01, 0x00, 0x00, 0x01, 0x00, 0x00, 0x80,
	0x00, 0x00, 0x48, 0x00, 0x00, 0x20, 0x40, 0x00,
	0x00, 0x00, 0x0a, 0x00, 0x10, 0x00, 0x00, 0x08,
	0x00, 0x02, 0x01, 0x00, 0x04, 0x08, 0x00, 0x00,
	0x00, 0x22, 0x00, 0x00, 0x00, 0x10, 0x00, 0x08
};

/* "logq" once, "timeout" 300 and "payment-service" 70000 times */
static const uint8_t frozen_sketch[] = {
	0x01, 0x04, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x9d, 0x12, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x71, 0x11, 0x01, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x2c, 0x01, 0x00, 0x00,
	0x2c, 0x01, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x70, 0x11, 0x01, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x70, 0x11, 0x01, 0x00,
	0x2d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x70, 0x11, 0x01, 0x00, 0x01, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x2c, 0x01, 0x00, 0x00
};

/*
 * The hash of a string.
 */
static uint64_t
hash_of(const char *value)
{
	return logq_hash(value, strlen(value));
}

/*
 * The hash of number i of a random set.
 */
static uint64_t
hash_number(uint64_t set, uint64_t i)
{
	uint64_t	value[2] = {set, i};

	return logq_hash(value, sizeof(value));
}

/*
 * XXH64 against published values.
 */
static void
check_hash(void)
{
	/* from the sanity check of xxHash: lengths of its buffer, seed 0 */
	static const struct
	{
		size_t		len;
		uint64_t	hash;
	}			buffers[] = {
		{0, UINT64_C(0xef46db3751d8e999)},
		{1, UINT64_C(0xe934a84adb052768)},
		{4, UINT64_C(0x9136a0dca57457ee)},
		{14, UINT64_C(0x8282dcc4994e35c8)},
		{222, UINT64_C(0xb641ae8cb691c174)},
	};
	static const struct
	{
		const char *value;
		uint64_t	hash;
	}			strings[] = {
		{"", UINT64_C(0xef46db3751d8e999)},
		{"a", UINT64_C(0xd24ec4f1a98c6e5b)},
		{"abc", UINT64_C(0x44bc2cf5ad770999)},
		{"xxhash", UINT64_C(0x32dd38952c4bc720)},
		{"Nobody inspects the spammish repetition",
		UINT64_C(0xfbcea83c8a378bf1)},
		/* ours, in docs/formats.md */
		{"logq", UINT64_C(0x6f5c98244ea36d11)},
		{"timeout", UINT64_C(0xfa61a36833ded806)},
		{"payment-service", UINT64_C(0x2a6053dcd9d244f3)},
		{TRACE, UINT64_C(0x82d8c03acc9eb486)},
	};
	uint8_t		buffer[256];
	uint64_t	next = 2654435761U;
	int			nwrong = 0;

	for (size_t i = 0; i < sizeof(buffer); i++)
	{
		buffer[i] = (uint8_t) (next >> 56);
		next *= UINT64_C(11400714785074694797);
	}
	for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
		nwrong += logq_hash(buffer, buffers[i].len) != buffers[i].hash;
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		nwrong += hash_of(strings[i].value) != strings[i].hash;
	ok(nwrong == 0, "the hash is XXH64 with seed 0");
	ok(logq_hash(NULL, 0) == buffers[0].hash, "the hash of nothing");

	/* the same at any address */
	for (size_t at = 0; at < 16; at++)
	{
		uint8_t		moved[64];

		memcpy(moved + at, buffer, 14);
		nwrong += logq_hash(moved + at, 14) != buffers[3].hash;
	}
	ok(nwrong == 0, "the hash does not depend on the address");
}

/*
 * Bytes of a filter, and what is taken for one.
 */
static void
check_bloom_format(void)
{
	static const char *const values[] = {
		"logq", "timeout", "payment-service", TRACE
	};
	uint8_t		memory[sizeof(frozen_bloom) + 1];
	uint8_t    *filter = memory + 1;	/* at an odd address */
	int			nwrong = 0;

	ok(logq_bloom_size(1) == sizeof(frozen_bloom), "size of a filter");
	memset(memory, 0xff, sizeof(memory));
	logq_bloom_init(filter, 1, 4);
	for (int i = 0; i < 4; i++)
		logq_bloom_add(filter, hash_of(values[i]));
	ok(memcmp(filter, frozen_bloom, sizeof(frozen_bloom)) == 0,
	   "a filter has its frozen bytes");
	ok(memory[0] == 0xff, "and no byte before it is touched");

	ok(logq_bloom_valid(filter, sizeof(frozen_bloom)), "it is valid");
	ok(logq_bloom_get_log2_blocks(filter) == 1 &&
	   logq_bloom_get_nvalues(filter) == 4, "its header");
	for (int i = 0; i < 4; i++)
	{
		uint64_t	hash = hash_of(values[i]);

		nwrong += !logq_bloom_test(filter, hash) ||
			!logq_bloom_block_test(filter + LOGQ_BLOOM_HEADER +
								   LOGQ_BLOOM_BLOCK *
								   logq_bloom_block(1, hash), hash);
	}
	ok(nwrong == 0, "it holds its values");
	ok(!logq_bloom_test(filter, hash_of("absent")) &&
	   !logq_bloom_test(filter, hash_of("Timeout")), "and not others");

	for (size_t len = 0; len < sizeof(frozen_bloom); len++)
		nwrong += logq_bloom_valid(filter, len);
	for (int at = 0; at < 8; at++)
	{
		for (int bit = 0; bit < 8; bit++)
		{
			filter[at] ^= 1 << bit;
			nwrong += logq_bloom_valid(filter, sizeof(frozen_bloom));
			filter[at] ^= 1 << bit;
		}
	}
	nwrong += !logq_bloom_valid(filter, sizeof(frozen_bloom));
	ok(nwrong == 0, "other lengths, versions and sizes are not valid");
	filter[1] = 255;
	ok(!logq_bloom_valid(filter, sizeof(frozen_bloom)), "nor is a huge one");
	logq_bloom_init(filter, 0, 0);
	ok(logq_bloom_valid(filter, logq_bloom_size(0)), "one block is valid");
}

/*
 * What rate is expected, and how large filters are made.
 */
static void
check_bloom_sizes(void)
{
	int			nwrong = 0;
	double		last;
	uint64_t	n;

	ok(logq_bloom_fpp(4, 0) == 0.0, "an empty filter has no false positives");
	/* computed elsewhere, as the plain sum */
	ok(fabs(logq_bloom_fpp(0, 1) / 2.2875771239e-9 - 1.0) < 1e-6,
	   "rate of one value in one block: %.4g", logq_bloom_fpp(0, 1));
	ok(fabs(logq_bloom_fpp(10, 23552) / 0.007731159903 - 1.0) < 1e-6,
	   "rate of 23 values a block: %.4g", logq_bloom_fpp(10, 23552));
	ok(fabs(logq_bloom_fpp(3, 800) / 0.7021951353 - 1.0) < 1e-6,
	   "rate of 100 values a block: %.4g", logq_bloom_fpp(3, 800));
	for (int log2_blocks = 0; log2_blocks <= 18; log2_blocks++)
	{
		last = 0.0;
		for (n = 1; n != 0; n <<= 1)
		{
			double		rate = logq_bloom_fpp(log2_blocks, n);

			nwrong += !(rate >= last && rate <= 1.0);
			last = rate;
		}
		nwrong += last != 1.0;
	}
	ok(nwrong == 0, "the rate grows with the values, from 0 to 1");
	/* the sum starts at its middle: no jump where it begins elsewhere */
	for (n = 1, last = 0.0; n < 3000; n++)
	{
		double		rate = logq_bloom_fpp(0, n);

		nwrong += !(rate >= last - 1e-9 && rate - last < 0.02);
		last = rate;
	}
	ok(nwrong == 0, "and evenly");

	ok(logq_bloom_log2_blocks(0) == 0 && logq_bloom_log2_blocks(1) == 0,
	   "few values have one block");
	for (n = 1; n < UINT64_C(1) << 22; n += n / 7 + 1)
	{
		int			log2_blocks = logq_bloom_log2_blocks(n);

		nwrong += logq_bloom_fpp(log2_blocks, n) > 0.004 ||
			(log2_blocks > 0 && logq_bloom_fpp(log2_blocks - 1, n) <= 0.004);
	}
	ok(nwrong == 0, "a filter is the smallest with 0.4 %% of false positives");
	ok(logq_bloom_log2_blocks(UINT64_C(1) << 40) == LOGQ_BLOOM_MAX_LOG2 &&
	   logq_bloom_log2_blocks(UINT64_MAX) == LOGQ_BLOOM_MAX_LOG2 &&
	   logq_bloom_size(LOGQ_BLOOM_MAX_LOG2) == 16 + 8 * 1024 * 1024,
	   "none is larger than 8 MB");
}

/*
 * No value is ever missed, and others not too often found.
 */
static void
check_bloom_answers(void)
{
	/* values a block: from nearly empty to overfull */
	static const struct
	{
		int			log2_blocks;
		int			load;
	}			loads[] = {
		{15, 8}, {15, 16}, {14, 23}, {13, 40}, {12, 100}
	};
	uint64_t	set = tap_random();
	int			log2_blocks = logq_bloom_log2_blocks(1000000);
	uint8_t    *filter = tap_alloc(logq_bloom_size(log2_blocks));
	int			nwrong = 0;

	logq_bloom_init(filter, log2_blocks, 1000000);
	for (int i = 0; i < 1000000; i++)
		logq_bloom_add(filter, hash_number(set, i));
	for (int i = 0; i < 1000000; i++)
		nwrong += !logq_bloom_test(filter, hash_number(set, i));
	ok(nwrong == 0, "no false negative in a million");
	for (int i = 1000000; i < 2000000; i++)
		nwrong += logq_bloom_test(filter, hash_number(set, i));
	ok(nwrong > 0 && nwrong < 10000 * 1.3,
	   "%d false positives in a million", nwrong);
	free(filter);

	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
	{
		int			n = loads[i].load << loads[i].log2_blocks;
		double		expected = logq_bloom_fpp(loads[i].log2_blocks, n);
		double		found = 0.0;
		int			nprobes = expected < 0.001 ? 4000000 : 500000;

		filter = tap_alloc(logq_bloom_size(loads[i].log2_blocks));
		logq_bloom_init(filter, loads[i].log2_blocks, n);
		set = tap_random();
		for (int v = 0; v < n; v++)
			logq_bloom_add(filter, hash_number(set, v));
		for (int v = n; v < n + nprobes; v++)
			found += logq_bloom_test(filter, hash_number(set, v));
		found /= nprobes;
		ok(found < expected * 1.3 && found > expected / 1.3,
		   "%d values a block: %.4f %% false positives, %.4f expected",
		   loads[i].load, found * 100.0, expected * 100.0);
		free(filter);
	}
}

/*
 * A filter answers like a wider one in which its blocks are repeated, and
 * the block of a hash decides alone: groups of filters rely on both.
 */
static void
check_bloom_groups(void)
{
	uint64_t	set = tap_random();
	int			nwrong = 0;

	for (int narrow = 0; narrow <= 5; narrow++)
	{
		for (int wide = narrow; wide <= 8; wide++)
		{
			uint8_t    *a = tap_alloc(logq_bloom_size(narrow));
			uint8_t    *b = tap_alloc(logq_bloom_size(wide));
			int			n = 20 << narrow;

			logq_bloom_init(a, narrow, n);
			logq_bloom_init(b, wide, n);
			for (int i = 0; i < n; i++)
				logq_bloom_add(a, hash_number(set, i));
			for (size_t i = 0; i < (size_t) 1 << wide; i++)
				memcpy(b + LOGQ_BLOOM_HEADER + i * LOGQ_BLOOM_BLOCK,
					   a + LOGQ_BLOOM_HEADER +
					   (i >> (wide - narrow)) * LOGQ_BLOOM_BLOCK,
					   LOGQ_BLOOM_BLOCK);
			for (int i = 0; i < 5 * n; i++)
			{
				uint64_t	hash = hash_number(set, i);
				uint32_t	block = logq_bloom_block(wide, hash);

				nwrong += logq_bloom_block(narrow, hash) !=
					block >> (wide - narrow) || block >> wide != 0;
				nwrong += logq_bloom_test(a, hash) !=
					logq_bloom_test(b, hash);
				nwrong += logq_bloom_test(a, hash) !=
					logq_bloom_block_test(b + LOGQ_BLOOM_HEADER +
										  (size_t) block * LOGQ_BLOOM_BLOCK,
										  hash);
			}
			free(a);
			free(b);
		}
	}
	ok(nwrong == 0, "a widened filter answers like the narrow one");
}

/*
 * Bytes of a sketch, and what is taken for one.
 */
static void
check_sketch_format(void)
{
	uint8_t		memory[sizeof(frozen_sketch) + 1];
	uint8_t    *sketch = memory + 1;
	int			nwrong = 0;

	ok(logq_sketch_size(2) == sizeof(frozen_sketch), "size of a sketch");
	memset(memory, 0xff, sizeof(memory));
	logq_sketch_init(sketch, 2);
	logq_sketch_add(sketch, hash_of("logq"), 1);
	logq_sketch_add(sketch, hash_of("payment-service"), 69999);
	logq_sketch_add(sketch, hash_of("timeout"), 300);
	logq_sketch_add(sketch, hash_of("payment-service"), 1);
	ok(memcmp(sketch, frozen_sketch, sizeof(frozen_sketch)) == 0,
	   "a sketch has its frozen bytes");
	ok(memory[0] == 0xff, "and no byte before it is touched");
	ok(logq_sketch_valid(sketch, sizeof(frozen_sketch)) &&
	   logq_sketch_total(sketch) == 70301, "it is valid, with its total");
	ok(logq_sketch_upper(sketch, hash_of("payment-service")) == 70000 &&
	   logq_sketch_upper(sketch, hash_of("timeout")) == 300 &&
	   logq_sketch_upper(sketch, hash_of("logq")) == 1,
	   "upper bounds in it");

	for (size_t len = 0; len < sizeof(frozen_sketch); len++)
		nwrong += logq_sketch_valid(sketch, len);
	for (int at = 0; at < 8; at++)
	{
		for (int bit = 0; bit < 8; bit++)
		{
			sketch[at] ^= 1 << bit;
			nwrong += logq_sketch_valid(sketch, sizeof(frozen_sketch));
			sketch[at] ^= 1 << bit;
		}
	}
	ok(nwrong == 0, "other lengths, versions and sizes are not valid");

	for (uint64_t n = 0; n < 5000; n++)
	{
		int			log2_width = logq_sketch_log2_width(n);

		nwrong += log2_width < 4 || log2_width > 11 ||
			(log2_width < 11 && UINT64_C(1) << log2_width < 2 * n);
	}
	ok(nwrong == 0 && logq_sketch_log2_width(3) == 4 &&
	   logq_sketch_log2_width(UINT64_MAX) == 11,
	   "a row has 16 to 2048 counters");
}

/*
 * Full counters stay full, and say nothing.
 */
static void
check_sketch_full(void)
{
	uint8_t		sketch[16 + 256];
	uint64_t	hash = hash_of("logq");

	logq_sketch_init(sketch, 4);
	logq_sketch_add(sketch, hash, UINT32_MAX - 1);
	ok(logq_sketch_upper(sketch, hash) == UINT32_MAX - 1, "nearly full");
	logq_sketch_add(sketch, hash, 7);
	ok(logq_sketch_upper(sketch, hash) == UINT64_C(0xffffffff) + 6 &&
	   logq_sketch_total(sketch) == UINT64_C(0xffffffff) + 6,
	   "full counters leave the total");
	logq_sketch_add(sketch, hash, UINT64_MAX);
	ok(logq_sketch_total(sketch) == UINT64_MAX &&
	   logq_sketch_upper(sketch, hash) == UINT64_MAX, "a full total");
	ok(logq_sketch_estimate(sketch, hash) >= 0.0 &&
	   logq_sketch_upper(sketch, hash_of("absent")) <= UINT64_MAX,
	   "estimates of a full sketch");
	logq_sketch_init(sketch, 4);
	ok(logq_sketch_upper(sketch, hash) == 0 &&
	   logq_sketch_estimate(sketch, hash) == 0.0, "an empty sketch");
	logq_sketch_init(sketch, 0);
	logq_sketch_add(sketch, hash, 5);
	ok(logq_sketch_estimate(sketch, hash) == 5.0, "one counter a row");
}

/*
 * Upper bounds and estimates of skewed values.
 */
static void
check_sketch_answers(int nvalues, double exponent)
{
	uint64_t	set = tap_random();
	int			log2_width = logq_sketch_log2_width(nvalues);
	uint8_t    *sketch = tap_alloc(logq_sketch_size(log2_width));
	uint64_t   *rows = tap_alloc(nvalues * sizeof(uint64_t));
	uint64_t	total = 0;
	double		noise;
	double		sum = 0.0;
	int			nlow = 0;
	int			nfar = 0;
	int			nheavy = 0;
	int			noff = 0;
	int			nexact = 0;

	logq_sketch_init(sketch, log2_width);
	for (int i = 0; i < nvalues; i++)
	{
		rows[i] = 1 + (uint64_t) (1e6 / pow(i + 1, exponent));
		total += rows[i];
		/* in two portions */
		logq_sketch_add(sketch, hash_number(set, i), rows[i] / 3);
		logq_sketch_add(sketch, hash_number(set, i), rows[i] - rows[i] / 3);
	}
	noise = (double) total / (1 << log2_width);

	for (int i = 0; i < nvalues; i++)
	{
		uint64_t	upper = logq_sketch_upper(sketch, hash_number(set, i));
		double		estimate = logq_sketch_estimate(sketch,
													hash_number(set, i));

		nlow += upper < rows[i];
		nexact += upper == rows[i];
		noff += !(estimate >= 0.0 && estimate <= upper);
		if (rows[i] > 4 * noise)
		{
			nheavy++;
			nfar += estimate > 3.0 * rows[i] || estimate < rows[i] / 3.0;
		}
	}
	ok(logq_sketch_total(sketch) == total && nlow == 0,
	   "%d values, exponent %.1f: none is above its upper bound", nvalues,
	   exponent);
	ok(noff == 0, "estimates are between zero and the upper bound");
	/* two heavy values may share counters of two rows, once in a long time */
	ok((nheavy > 0) == (exponent > 0.0) && nfar <= nheavy / 50,
	   "%d of %d heavy values are far off", nfar, nheavy);
	/* of a handful, chance may spoil any share */
	if (nvalues == 1000)
		ok(nexact >= nvalues * 0.8, "%d of %d are exact", nexact, nvalues);

	/* of values that are not there, most of the noise is taken off */
	for (int i = 0; i < 10000; i++)
		sum += logq_sketch_estimate(sketch, hash_number(set, nvalues + i));
	ok(sum / 10000 <= 0.5 * noise, "absent values: %.2f, noise is %.2f",
	   sum / 10000, noise);

	free(rows);
	free(sketch);
}

int
main(void)
{
	tap_seed();
	check_hash();
	check_bloom_format();
	check_bloom_sizes();
	check_bloom_answers();
	check_bloom_groups();
	check_sketch_format();
	check_sketch_full();
	check_sketch_answers(8, 0.0);
	check_sketch_answers(50000, 0.0);
	check_sketch_answers(1000, 1.0);
	check_sketch_answers(20000, 1.1);
	check_sketch_answers(200000, 1.3);
	return tap_done();
}
