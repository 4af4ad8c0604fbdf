/*-------------------------------------------------------------------------
 *
 * fuzz_cachevalue.c
 *		Any bytes for a cached value.
 *
 * The bytes are opened as they are; and as the rest of a value, behind a
 * header that fits and before a right checksum, for few inputs would ever have
 * that by chance; and they are packed.
 *
 * Byte 0 of an input: bit 0 says whether the payload is compressed.  Bytes 1
 * and 2 are what it is said to bring.
 *
 * LINK: src/sketch.c
 * LIBS: lz4
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cachevalue.h"
#include "sketch.h"

#define STEERING 3
#define HEADER 56
#define CHECKSUM 8
#define MAX_RAW 65536

extern int	LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const LogqCacheKey key = {"a key of twenty byte"};

static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fuzz_cachevalue: %s\n", what);
	abort();
}

static void *
get_memory(size_t len)
{
	void	   *memory = malloc(len > 0 ? len : 1);

	must(memory != NULL, "out of memory");
	return memory;
}

/*
 * Open and unpack.
 */
static bool
take_apart(const char *packed, size_t len)
{
	LogqCacheValue value;
	char	   *raw;

	if (!logq_cache_open(&key, packed, len, MAX_RAW, &value))
		return false;
	must(value.raw_len <= MAX_RAW, "longer than it may be");
	must(value.payload >= packed &&
		 value.payload + value.payload_len <= packed + len,
		 "a payload outside of the value");
	raw = get_memory(value.raw_len);
	(void) logq_cache_unpack(&value, raw);
	free(raw);
	return true;
}

/*
 * One input.
 */
int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	LogqCacheValue value = {0};
	const char *bytes;
	char	   *packed;
	char	   *raw;
	size_t		len;
	size_t		raw_len;
	uint64_t	hash;

	/* of just its size: a read past the end is seen */
	packed = get_memory(size);
	if (size > 0)
		memcpy(packed, input, size);
	(void) take_apart(packed, size);
	free(packed);
	if (size < STEERING)
		return 0;

	bytes = (const char *) input + STEERING;
	len = size - STEERING;
	raw_len = input[0] & 1 ? (size_t) input[1] << 8 | input[2] : len;

	/* as a payload */
	packed = get_memory(HEADER + len + CHECKSUM);
	memset(packed, 0, HEADER);
	memcpy(packed, "LQCV", 4);
	packed[4] = LOGQ_CACHE_FORMAT;
	packed[5] = input[0] & 1 ? 2 : 0;
	for (int i = 0; i < 4; i++)
	{
		packed[12 + i] = (char) (raw_len >> 8 * i);
		packed[52 + i] = (char) (len >> 8 * i);
	}
	memcpy(packed + 32, key.bytes, LOGQ_CACHE_KEY_LEN);
	memcpy(packed + HEADER, bytes, len);
	hash = logq_hash(packed, HEADER + len);
	for (int i = 0; i < CHECKSUM; i++)
		packed[HEADER + len + i] = (char) (hash >> 8 * i);
	if (!take_apart(packed, HEADER + len + CHECKSUM))
		must((input[0] & 1) || len > MAX_RAW, "a good header does not open");
	free(packed);

	/* as what is to be packed */
	value.whole = input[0] & 2;
	value.rows = input[1];
	packed = get_memory(logq_cache_pack_bound(len));
	len = logq_cache_pack(&key, &value, bytes, len, packed);
	must(len >= HEADER + CHECKSUM &&
		 len <= logq_cache_pack_bound(size - STEERING),
		 "longer than the bound");
	must(logq_cache_open(&key, packed, len, size, &value), "it does not open");
	must(value.raw_len == size - STEERING, "of another length");
	must(value.whole == ((input[0] & 2) != 0) && value.rows == input[1],
		 "another header");
	raw = get_memory(value.raw_len);
	must(logq_cache_unpack(&value, raw), "it does not unpack");
	must(memcmp(raw, bytes, value.raw_len) == 0, "other bytes");
	free(raw);

	/* a damage anywhere */
	packed[(input[0] << 8 | input[1]) % len] ^= 1 << (input[2] & 7);
	must(!logq_cache_open(&key, packed, len, size, &value), "damage passes");
	free(packed);
	return 0;
}
