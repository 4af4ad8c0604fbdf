/*-------------------------------------------------------------------------
 *
 * cachevalue.c
 *		The form in which a fragment's rows are cached, in plain C.
 *
 * A value has been in places where others may write: it is believed only
 * after each of its bytes has been checked.  Whatever is wrong with it, it
 * counts as one that is not there, so there is one answer for all of that,
 * and no error.
 *
 * Nothing here allocates, and nothing reads outside of the bytes it is given,
 * whatever they hold.  The checksum tells damage, not malice: whoever can
 * write into the cache can make rows up.
 *
 * docs/formats.md has the format.  Unlike those of filters and sketches it
 * need not last: with another LOGQ_CACHE_FORMAT all that is cached is asked
 * anew.
 *
 *-------------------------------------------------------------------------
 */
#include <limits.h>
#include <string.h>

#include <lz4.h>

#include "cachevalue.h"
#include "sketch.h"

#define MAGIC "LQCV"

/* bytes of the header, see docs/formats.md */
#define AT_MAGIC 0
#define AT_FORMAT 4
#define AT_FLAGS 5
#define AT_ZERO 6
#define AT_ROWS 8
#define AT_RAW_LEN 12
#define AT_CREATED_AT 16
#define AT_COST_US 24
#define AT_KEY 32
#define AT_PAYLOAD_LEN 52
#define HEADER 56
/* behind the payload */
#define CHECKSUM 8

#define FLAG_WHOLE 1
#define FLAG_COMPRESSED 2

/* smaller ones are not worth the call */
#define MIN_COMPRESSED 128
/* a byte of LZ4 never brings more than this */
#define LZ4_MAX_RATIO 255

static void
put32(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t) value;
	p[1] = (uint8_t) (value >> 8);
	p[2] = (uint8_t) (value >> 16);
	p[3] = (uint8_t) (value >> 24);
}

static void
put64(uint8_t *p, uint64_t value)
{
	put32(p, (uint32_t) value);
	put32(p + 4, (uint32_t) (value >> 32));
}

static uint32_t
get32(const uint8_t *p)
{
	return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 |
		(uint32_t) p[3] << 24;
}

static uint64_t
get64(const uint8_t *p)
{
	return (uint64_t) get32(p) | (uint64_t) get32(p + 4) << 32;
}

/*
 * See cachevalue.h.  What would grow is not compressed.
 */
size_t
logq_cache_pack_bound(size_t raw_len)
{
	return HEADER + raw_len + CHECKSUM;
}

/*
 * Compress into as many bytes.  0: it does not pay, or LZ4 cannot.
 */
static size_t
compress(const char *raw, size_t raw_len, char *payload)
{
	int			len;

	if (raw_len < MIN_COMPRESSED || raw_len > LZ4_MAX_INPUT_SIZE)
		return 0;
	/* it gives up when there is not enough room */
	len = LZ4_compress_default(raw, payload, (int) raw_len,
							   (int) (raw_len - raw_len / 16));
	return len > 0 ? (size_t) len : 0;
}

/*
 * See cachevalue.h.  0: nobody could open it, it is too long.
 */
size_t
logq_cache_pack(const LogqCacheKey *key, const LogqCacheValue *value,
				const char *raw, size_t raw_len, char *packed)
{
	uint8_t    *header = (uint8_t *) packed;
	char	   *payload = packed + HEADER;
	size_t		payload_len;
	int			flags = value->whole ? FLAG_WHOLE : 0;

	if (raw_len > INT_MAX)
		return 0;
	payload_len = compress(raw, raw_len, payload);
	if (payload_len > 0)
		flags |= FLAG_COMPRESSED;
	else
	{
		payload_len = raw_len;
		if (raw_len > 0)
			memcpy(payload, raw, raw_len);
	}

	memset(header, 0, HEADER);
	memcpy(header + AT_MAGIC, MAGIC, 4);
	header[AT_FORMAT] = LOGQ_CACHE_FORMAT;
	header[AT_FLAGS] = (uint8_t) flags;
	put32(header + AT_ROWS, value->rows);
	put32(header + AT_RAW_LEN, (uint32_t) raw_len);
	put64(header + AT_CREATED_AT, (uint64_t) value->created_at);
	put64(header + AT_COST_US, value->cost_us);
	memcpy(header + AT_KEY, key->bytes, LOGQ_CACHE_KEY_LEN);
	put32(header + AT_PAYLOAD_LEN, (uint32_t) payload_len);
	put64((uint8_t *) payload + payload_len,
		  logq_hash(packed, HEADER + payload_len));
	return HEADER + payload_len + CHECKSUM;
}

/*
 * Can these lengths be true?
 */
static bool
lengths_agree(const LogqCacheValue *value, size_t max_raw)
{
	if (value->raw_len > max_raw || value->raw_len > INT_MAX ||
		value->payload_len > INT_MAX)
		return false;
	if (!value->compressed)
		return value->raw_len == value->payload_len;
	return value->payload_len < value->raw_len &&
		value->raw_len / LZ4_MAX_RATIO <= value->payload_len;
}

/*
 * See cachevalue.h.
 */
bool
logq_cache_open(const LogqCacheKey *key, const char *packed, size_t len,
				size_t max_raw, LogqCacheValue *value)
{
	const uint8_t *header = (const uint8_t *) packed;
	int			flags;

	if (len < HEADER + CHECKSUM ||
		memcmp(header + AT_MAGIC, MAGIC, 4) != 0 ||
		header[AT_FORMAT] != LOGQ_CACHE_FORMAT ||
		header[AT_ZERO] != 0 || header[AT_ZERO + 1] != 0 ||
		memcmp(header + AT_KEY, key->bytes, LOGQ_CACHE_KEY_LEN) != 0 ||
		get32(header + AT_PAYLOAD_LEN) != len - HEADER - CHECKSUM)
		return false;
	flags = header[AT_FLAGS];
	if ((flags & ~(FLAG_WHOLE | FLAG_COMPRESSED)) != 0)
		return false;

	value->whole = (flags & FLAG_WHOLE) != 0;
	value->compressed = (flags & FLAG_COMPRESSED) != 0;
	value->rows = get32(header + AT_ROWS);
	value->raw_len = get32(header + AT_RAW_LEN);
	value->created_at = (int64_t) get64(header + AT_CREATED_AT);
	value->cost_us = get64(header + AT_COST_US);
	value->payload = packed + HEADER;
	value->payload_len = len - HEADER - CHECKSUM;
	return lengths_agree(value, max_raw) &&
		get64(header + len - CHECKSUM) == logq_hash(packed, len - CHECKSUM);
}

/*
 * See cachevalue.h.
 */
bool
logq_cache_unpack(const LogqCacheValue *value, char *raw)
{
	if (value->compressed)
		return LZ4_decompress_safe(value->payload, raw,
								   (int) value->payload_len,
								   (int) value->raw_len) ==
			(int) value->raw_len;
	if (value->raw_len > 0)
		memcpy(raw, value->payload, value->raw_len);
	return true;
}
