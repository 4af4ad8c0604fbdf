/*-------------------------------------------------------------------------
 *
 * test_cachevalue.c
 *		Packed values: what was packed comes back, and nothing else passes.
 *
 * Small ones are damaged in all ways that are few enough to try: each bit
 * flipped, each byte set to anything, every length, every byte taken out or
 * doubled.  Values lie in memory of just their size, so that the sanitizer
 * sees a read past the end.
 *
 * LINK: src/sketch.c
 * LIBS: lz4
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "cachevalue.h"
#include "sketch.h"
#include "tap.h"

#define HEADER 56
#define CHECKSUM 8
#define MAX_RAW (16 * 1024 * 1024)

static const LogqCacheKey a_key = {
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 255}
};

/* "logq", whole, one row, of docs/formats.md */
static const uint8_t frozen[] = {
	0x4c, 0x51, 0x43, 0x56, 0x01, 0x01, 0x00, 0x00,
	0x01, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00,
	0x40, 0x42, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x00,
	0xdc, 0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
	0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
	0x10, 0x11, 0x12, 0xff, 0x04, 0x00, 0x00, 0x00,
	0x6c, 0x6f, 0x67, 0x71,
	0xaa, 0x3c, 0x34, 0x8a, 0x84, 0xac, 0x31, 0x8f
};

/* A packed value in memory of its own */
typedef struct Packed
{
	char	   *bytes;
	size_t		len;
} Packed;

/*
 * A copy with room for more or less behind it.
 */
static Packed
copy_of(const Packed *packed, size_t len)
{
	Packed		copy = {tap_alloc(len), len};

	memcpy(copy.bytes, packed->bytes, len < packed->len ? len : packed->len);
	if (len > packed->len)
		memset(copy.bytes + packed->len, 0, len - packed->len);
	return copy;
}

static Packed
pack(const LogqCacheKey *key, const LogqCacheValue *value, const char *raw,
	 size_t raw_len)
{
	char	   *room = tap_alloc(logq_cache_pack_bound(raw_len));
	size_t		len = logq_cache_pack(key, value, raw, raw_len, room);
	Packed		whole = {room, len};
	Packed		packed;

	if (len > logq_cache_pack_bound(raw_len))
		ok(false, "%zu bytes stay within the bound", raw_len);
	packed = copy_of(&whole, len);
	free(room);
	return packed;
}

/*
 * Does it open?
 */
static bool
opens(const LogqCacheKey *key, const Packed *packed, size_t max_raw)
{
	LogqCacheValue value;

	return logq_cache_open(key, packed->bytes, packed->len, max_raw, &value);
}

/*
 * Does a changed copy pass for the value?  Frees the copy.
 */
static bool
passes(Packed copy)
{
	bool		result = opens(&a_key, &copy, MAX_RAW);

	free(copy.bytes);
	return result;
}

/*
 * Write the right checksum, as somebody would who means harm, or another
 * version of this program.
 */
static void
seal(Packed *packed)
{
	uint64_t	hash = logq_hash(packed->bytes, packed->len - CHECKSUM);

	for (int i = 0; i < CHECKSUM; i++)
		packed->bytes[packed->len - CHECKSUM + i] = (char) (hash >> 8 * i);
}

/*
 * Pack, open and unpack.
 */
static bool
comes_back(const LogqCacheValue *value, const char *raw, size_t raw_len,
		   bool *compressed)
{
	Packed		packed = pack(&a_key, value, raw, raw_len);
	LogqCacheValue back;
	char	   *unpacked;
	bool		same;

	if (!logq_cache_open(&a_key, packed.bytes, packed.len, raw_len, &back))
	{
		free(packed.bytes);
		return false;
	}
	unpacked = tap_alloc(back.raw_len);
	same = back.raw_len == raw_len && back.whole == value->whole &&
		back.rows == value->rows && back.created_at == value->created_at &&
		back.cost_us == value->cost_us &&
		logq_cache_unpack(&back, unpacked) &&
		memcmp(unpacked, raw, raw_len) == 0 &&
		(raw_len == 0 || !opens(&a_key, &packed, raw_len - 1));
	*compressed = back.compressed;
	free(unpacked);
	free(packed.bytes);
	return same;
}

/*
 * Bytes that LZ4 can do nothing about, or much.
 */
static void
fill(char *raw, size_t len, bool random)
{
	for (size_t i = 0; i < len; i++)
		raw[i] = random ? (char) tap_random() :
			"INFO payment-service "[i % 21];
}

static LogqCacheValue
random_value(void)
{
	LogqCacheValue value = {0};

	value.whole = tap_random() & 1;
	value.rows = (uint32_t) tap_random();
	value.created_at = (int64_t) tap_random();
	value.cost_us = tap_random();
	return value;
}

static void
check_round_trips(void)
{
	static const size_t lens[] = {
		0, 1, 21, 127, 128, 129, 500, 4096, 65535, 65536, 65537, 1000000,
		MAX_RAW
	};
	bool		all = true;
	bool		right_form = true;

	for (int random = 0; random < 2; random++)
		for (int i = 0; i < (int) (sizeof(lens) / sizeof(lens[0])); i++)
		{
			char	   *raw = tap_alloc(lens[i]);
			LogqCacheValue value = random_value();
			bool		compressed = false;

			fill(raw, lens[i], random);
			all &= comes_back(&value, raw, lens[i], &compressed);
			if (compressed != (!random && lens[i] >= 128))
				right_form = false;
			free(raw);
		}
	ok(all, "what was packed comes back");
	ok(right_form, "only what pays is compressed");

	all = true;
	for (int i = 0; i < 2000; i++)
	{
		size_t		len = tap_random_int(0, 3000);
		size_t		part = tap_random_int(0, (int) len);
		char	   *raw = tap_alloc(len);
		LogqCacheValue value = random_value();
		bool		compressed;

		fill(raw, part, true);
		fill(raw + part, len - part, false);
		all &= comes_back(&value, raw, len, &compressed);
		free(raw);
	}
	ok(all, "random ones come back");
}

/*
 * The bytes as they are documented.
 */
static void
check_frozen(void)
{
	LogqCacheValue value = {0};
	Packed		packed;
	int			wrong = -1;

	value.whole = true;
	value.rows = 1;
	value.created_at = 1000000;
	value.cost_us = 1500;
	packed = pack(&a_key, &value, "logq", 4);
	if (packed.len == sizeof(frozen))
		for (int i = 0; i < (int) packed.len; i++)
			if ((uint8_t) packed.bytes[i] != frozen[i])
				wrong = i;
	if (!ok(packed.len == sizeof(frozen) && wrong < 0,
			"a value has the bytes of docs/formats.md"))
		printf("# %zu bytes, another one at %d\n", packed.len, wrong);
	free(packed.bytes);
}

/*
 * All small damages to a value.
 */
static void
check_damage(const char *what, const char *raw, size_t raw_len)
{
	LogqCacheValue value = random_value();
	Packed		packed = pack(&a_key, &value, raw, raw_len);
	int			flips = 0;
	int			bytes = 0;
	int			lengths = 0;
	int			shifts = 0;

	if (!opens(&a_key, &packed, raw_len))
		ok(false, "%s: it opens as it is", what);

	for (size_t i = 0; i < packed.len; i++)
	{
		for (int b = 1; b < 256; b++)
		{
			Packed		copy = copy_of(&packed, packed.len);

			copy.bytes[i] ^= b;
			if (!passes(copy))
				continue;
			bytes++;
			if ((b & (b - 1)) == 0)
				flips++;
		}
	}
	ok(flips == 0, "%s: no bit can be flipped (%zu bytes)", what, packed.len);
	ok(bytes == 0, "%s: no byte can be changed", what);

	for (size_t len = 0; len < packed.len + 70; len++)
		if (len != packed.len && passes(copy_of(&packed, len)))
			lengths++;
	ok(lengths == 0, "%s: it cannot be cut off or go on", what);

	for (size_t i = 0; i < packed.len; i++)
	{
		Packed		less = copy_of(&packed, packed.len - 1);
		Packed		more = copy_of(&packed, packed.len + 1);

		memcpy(less.bytes + i, packed.bytes + i + 1, packed.len - 1 - i);
		memcpy(more.bytes + i + 1, packed.bytes + i, packed.len - i);
		shifts += passes(less);
		shifts += passes(more);
	}
	ok(shifts == 0, "%s: no byte can be missing or doubled", what);

	shifts = 0;
	for (int i = 0; i < 20000; i++)
	{
		Packed		copy = copy_of(&packed, packed.len);
		int			n = tap_random_int(2, 8);

		while (n-- > 0)
			copy.bytes[tap_random() % copy.len] = (char) tap_random();
		/* as it was, by chance */
		if (memcmp(copy.bytes, packed.bytes, packed.len) == 0)
			free(copy.bytes);
		else
			shifts += passes(copy);
	}
	ok(shifts == 0, "%s: no bytes can be changed together", what);
	free(packed.bytes);
}

/*
 * With a right checksum: what a header says must be possible.  byte < 0: only
 * seal it.
 */
static bool
passes_forged(const Packed *packed, int byte, int change)
{
	Packed		copy = copy_of(packed, packed->len);

	if (byte >= 0)
		copy.bytes[byte] ^= change;
	seal(&copy);
	return passes(copy);
}

static void
check_forged(const char *raw, size_t raw_len)
{
	LogqCacheValue value = random_value();
	Packed		packed = pack(&a_key, &value, raw, raw_len);
	Packed		plain = pack(&a_key, &value, raw, 100);
	Packed		copy;
	LogqCacheKey key;
	LogqCacheValue back;
	char	   *room = tap_alloc(MAX_RAW);
	bool		passed = false;

	ok(passes_forged(&packed, -1, 0), "sealed anew, it opens");
	ok(!passes_forged(&packed, 4, 3), "another format does not");
	for (int bit = 4; bit < 256; bit *= 2)
		passed |= passes_forged(&packed, 5, bit);
	ok(!passed, "nor unknown flags");
	ok(!passes_forged(&packed, 6, 1) && !passes_forged(&packed, 7, 128),
	   "nor bytes that are to be 0");
	ok(!passes_forged(&packed, 5, 2) && !passes_forged(&plain, 5, 2),
	   "nor the other form");
	ok(!passes_forged(&packed, 52, 1), "nor another length of the payload");
	ok(!passes_forged(&plain, 12, 1), "nor another length of what is plain");
	ok(!passes_forged(&packed, 15, 1) && !passes_forged(&packed, 15, 0x80),
	   "nor a length that is beyond what is asked for");

	/* small enough, but more than LZ4 can make of it */
	copy = copy_of(&packed, packed.len);
	memcpy(copy.bytes + 12, "\0\0\377", 4);
	seal(&copy);
	ok(!passes(copy), "nor a length that cannot be");

	/* it may open, with another length; then it does not unpack */
	copy = copy_of(&packed, packed.len);
	copy.bytes[12] ^= 1;
	seal(&copy);
	ok(!logq_cache_open(&a_key, copy.bytes, copy.len, MAX_RAW, &back) ||
	   !logq_cache_unpack(&back, room), "what is shorter or longer is found");
	free(copy.bytes);

	/* payloads that are no LZ4 never get out of their room */
	for (int i = 0; i < 20000; i++)
	{
		copy = copy_of(&packed, packed.len);
		for (int n = tap_random_int(1, 8); n > 0; n--)
			copy.bytes[HEADER + tap_random() %
					   (copy.len - HEADER - CHECKSUM)] = (char) tap_random();
		seal(&copy);
		if (logq_cache_open(&a_key, copy.bytes, copy.len, raw_len, &back))
		{
			char	   *exact = tap_alloc(back.raw_len);

			(void) logq_cache_unpack(&back, exact);
			free(exact);
		}
		else
			passed = true;
		free(copy.bytes);
	}
	ok(!passed, "nonsense with a right header is left to LZ4");

	passed = false;
	for (int i = 0; i < LOGQ_CACHE_KEY_LEN * 8; i++)
	{
		key = a_key;
		key.bytes[i / 8] ^= 1 << i % 8;
		passed |= opens(&key, &packed, MAX_RAW);
	}
	ok(!passed, "it is no other key's");
	free(packed.bytes);
	free(plain.bytes);
	free(room);
}

int
main(void)
{
	char		raw[600];

	tap_seed();
	check_frozen();
	check_round_trips();
	fill(raw, sizeof(raw), true);
	check_damage("nothing", raw, 0);
	check_damage("plain", raw, 90);
	fill(raw, sizeof(raw), false);
	check_damage("compressed", raw, sizeof(raw));
	check_forged(raw, sizeof(raw));
	return tap_done();
}
