/*-------------------------------------------------------------------------
 *
 * sketch.h
 *		Hash, bloom filter and count-min sketch of what segments hold.
 *
 * Plain C.  docs/formats.md has the formats, which are for ever: partitions
 * keep what was written in them years ago.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_SKETCH_H
#define LOGQ_SKETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* XXH64 with seed 0 of the value's bytes */
extern uint64_t logq_hash(const void *data, size_t len);

/* ---------- split-block bloom filter ---------- */

#define LOGQ_BLOOM_VERSION 1
#define LOGQ_BLOOM_HEADER 16	/* bytes before the first block */
#define LOGQ_BLOOM_BLOCK 32		/* bytes of a block */
#define LOGQ_BLOOM_MAX_LOG2 18	/* 8 MB */

/* log2 of the number of blocks for at most 0.4 % of false positives */
extern int	logq_bloom_log2_blocks(uint64_t nvalues);
/* bytes of a filter with its header */
extern size_t logq_bloom_size(int log2_blocks);
/* share of false positives to be expected */
extern double logq_bloom_fpp(int log2_blocks, uint64_t nvalues);
/* make an empty filter in memory of logq_bloom_size() bytes */
extern void logq_bloom_init(uint8_t *filter, int log2_blocks,
							uint64_t nvalues);
extern void logq_bloom_add(uint8_t *filter, uint64_t hash);
/* is this a filter that this version can read, and of the right length? */
extern bool logq_bloom_valid(const uint8_t *filter, size_t len);
/* from the header of a valid one */
extern int	logq_bloom_get_log2_blocks(const uint8_t *filter);
extern uint64_t logq_bloom_get_nvalues(const uint8_t *filter);
extern bool logq_bloom_test(const uint8_t *filter, uint64_t hash);
/* which block decides about a hash, and what it says */
extern uint32_t logq_bloom_block(int log2_blocks, uint64_t hash);
extern bool logq_bloom_block_test(const uint8_t *block, uint64_t hash);

/* ---------- count-min sketch ---------- */

#define LOGQ_SKETCH_VERSION 1
#define LOGQ_SKETCH_DEPTH 4
#define LOGQ_SKETCH_HEADER 16

extern int	logq_sketch_log2_width(uint64_t nvalues);
extern size_t logq_sketch_size(int log2_width);
extern void logq_sketch_init(uint8_t *sketch, int log2_width);
extern void logq_sketch_add(uint8_t *sketch, uint64_t hash, uint64_t count);
extern bool logq_sketch_valid(const uint8_t *sketch, size_t len);
/* rows counted in all */
extern uint64_t logq_sketch_total(const uint8_t *sketch);
/* rows of one value: never below the truth */
extern uint64_t logq_sketch_upper(const uint8_t *sketch, uint64_t hash);
/* its likely number: the noise of other values is taken off */
extern double logq_sketch_estimate(const uint8_t *sketch, uint64_t hash);

#endif							/* LOGQ_SKETCH_H */
