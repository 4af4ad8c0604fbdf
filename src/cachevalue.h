/*-------------------------------------------------------------------------
 *
 * cachevalue.h
 *		The form in which a fragment's rows are cached, in plain C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CACHEVALUE_H
#define LOGQ_CACHEVALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* raised whenever what is kept, or what keys are made from, changes */
#define LOGQ_CACHE_FORMAT 1

#define LOGQ_CACHE_KEY_LEN 20

/* The first bytes of a SHA-256 over all that decides about the rows */
typedef struct LogqCacheKey
{
	uint8_t		bytes[LOGQ_CACHE_KEY_LEN];
} LogqCacheKey;

typedef struct LogqCacheValue
{
	bool		whole;			/* else the first rows in order, no more */
	bool		compressed;
	uint32_t	rows;
	uint32_t	raw_len;		/* of the binary COPY, header to trailer */
	int64_t		created_at;		/* us since 2000-01-01 UTC */
	uint64_t	cost_us;		/* that it took to ask for it */
	/* in the packed value */
	const char *payload;
	size_t		payload_len;
} LogqCacheValue;

/* room that a packed value of so many bytes takes at most */
extern size_t logq_cache_pack_bound(size_t raw_len);
/*
 * Pack raw_len bytes of binary COPY; value brings whole, rows, created_at and
 * cost_us.  Returns the length.
 */
extern size_t logq_cache_pack(const LogqCacheKey *key,
							  const LogqCacheValue *value, const char *raw,
							  size_t raw_len, char *packed);
/*
 * Take apart what was found under a key.  False: it is damaged, cut off, of
 * another format, or another key's.  All bytes are checked; raw_len is at most
 * max_raw.
 */
extern bool logq_cache_open(const LogqCacheKey *key, const char *packed,
							size_t len, size_t max_raw,
							LogqCacheValue *value);
/* false: not that many bytes after all */
extern bool logq_cache_unpack(const LogqCacheValue *value, char *raw);

#endif							/* LOGQ_CACHEVALUE_H */
