/*-------------------------------------------------------------------------
 *
 * fuzz_sketch.c
 *		Any bytes for bloom filters and count-min sketches.
 *
 * What comes from a partition may be damaged.  Whatever passes for valid must
 * be answered from without reading beyond its bytes; after a value is added,
 * it must be found.
 *
 * Byte 0 of an input: bit 0 chooses filter or sketch, bit 1 has a header put
 * in front that fits as many of the bytes as possible.  Eight bytes are a
 * hash, the rest is the filter or sketch.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sketch.h"

#define STEERING 9

extern int	LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/*
 * Stop unless the condition holds.
 */
static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fuzz_sketch: %s\n", what);
	abort();
}

/*
 * Questions to a filter.
 */
static void
ask_bloom(uint8_t *filter, size_t len, uint64_t hash)
{
	int			log2_blocks;
	uint32_t	block;
	bool		found;

	if (!logq_bloom_valid(filter, len))
		return;
	log2_blocks = logq_bloom_get_log2_blocks(filter);
	must(log2_blocks >= 0 && log2_blocks <= LOGQ_BLOOM_MAX_LOG2 &&
		 logq_bloom_size(log2_blocks) == len, "a valid filter of no size");
	(void) logq_bloom_get_nvalues(filter);

	block = logq_bloom_block(log2_blocks, hash);
	must(block >> log2_blocks == 0, "no such block");
	found = logq_bloom_block_test(filter + LOGQ_BLOOM_HEADER +
								  (size_t) LOGQ_BLOOM_BLOCK * block, hash);
	must(logq_bloom_test(filter, hash) == found, "the block says otherwise");

	logq_bloom_add(filter, hash);
	must(logq_bloom_test(filter, hash), "not found after it was added");
	must(logq_bloom_valid(filter, len), "no longer valid");
}

/*
 * Questions to a sketch.
 */
static void
ask_sketch(uint8_t *sketch, size_t len, uint64_t hash, uint64_t count)
{
	uint64_t	total;
	uint64_t	upper;
	double		estimate;

	if (!logq_sketch_valid(sketch, len))
		return;
	total = logq_sketch_total(sketch);
	upper = logq_sketch_upper(sketch, hash);
	estimate = logq_sketch_estimate(sketch, hash);
	must(upper <= total, "more than all");
	must(estimate >= 0.0 && estimate <= (double) upper,
		 "an estimate that cannot be");

	logq_sketch_add(sketch, hash, count);
	must(logq_sketch_total(sketch) >= total &&
		 logq_sketch_total(sketch) >= count, "total went round");
	must(logq_sketch_upper(sketch, hash) >= upper, "fewer rows than before");
	must(logq_sketch_valid(sketch, len), "no longer valid");
}

/*
 * One input.
 */
int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	uint8_t    *memory;
	uint64_t	hash;
	size_t		len;
	int			bits = 0;

	if (size < STEERING)
		return 0;
	memcpy(&hash, input + 1, sizeof(hash));
	len = size - STEERING;

	/* of just its size: a read past the end is seen */
	if (input[0] & 2)
	{
		size_t		unit = input[0] & 1 ? 16 : LOGQ_BLOOM_BLOCK;

		if (len < unit)
			return 0;
		while (unit << (bits + 1) <= len)
			bits++;
		len = 16 + (unit << bits);
	}
	memory = malloc(len > 0 ? len : 1);
	must(memory != NULL, "out of memory");
	if (input[0] & 2)
	{
		if (input[0] & 1)
			logq_sketch_init(memory, bits);
		else
			logq_bloom_init(memory, bits, hash);
		/* a total or a number of values of its own, too */
		memcpy(memory + 8, input + 1, 8);
		memcpy(memory + 16, input + STEERING, len - 16);
	}
	else if (len > 0)
		memcpy(memory, input + STEERING, len);

	if (input[0] & 2)
		must(input[0] & 1 ? logq_sketch_valid(memory, len) :
			 logq_bloom_valid(memory, len), "a good header is not valid");
	if (input[0] & 1)
		ask_sketch(memory, len, hash, hash >> (input[0] >> 2));
	else
		ask_bloom(memory, len, hash);
	free(memory);

	(void) logq_hash(input, size);
	must(logq_bloom_fpp(input[1] % 19, hash) >= 0.0 &&
		 logq_bloom_fpp(input[1] % 19, hash) <= 1.0, "no share");
	return 0;
}
