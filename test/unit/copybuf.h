/*-------------------------------------------------------------------------
 *
 * copybuf.h
 *		Binary COPY data, put together for the tests of the decoder.
 *
 * Written from the description of the format, not from decode.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_TEST_COPYBUF_H
#define LOGQ_TEST_COPYBUF_H

#include <string.h>

#include "tap.h"

typedef struct Buf
{
	char	   *data;
	size_t		len;
	size_t		size;
} Buf;

/*
 * Append bytes.
 */
static inline void
buf_bytes(Buf *buf, const void *data, size_t len)
{
	if (buf->len + len > buf->size)
	{
		buf->size = (buf->len + len) * 2;
		buf->data = tap_realloc(buf->data, buf->size);
	}
	if (len > 0)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
}

/*
 * Append two bytes, big-endian.
 */
static inline void
buf_int16(Buf *buf, int value)
{
	unsigned char bytes[2];

	bytes[0] = (unsigned) value >> 8 & 0xff;
	bytes[1] = (unsigned) value & 0xff;
	buf_bytes(buf, bytes, 2);
}

/*
 * Append four bytes, big-endian.
 */
static inline void
buf_int32(Buf *buf, int64_t value)
{
	buf_int16(buf, (int) ((uint64_t) value >> 16 & 0xffff));
	buf_int16(buf, (int) ((uint64_t) value & 0xffff));
}

/*
 * Append the header.
 */
static inline void
buf_header(Buf *buf, uint32_t flags, uint32_t extension)
{
	buf_bytes(buf, "PGCOPY\n\377\r\n\0", 11);
	buf_int32(buf, flags);
	buf_int32(buf, extension);
	for (uint32_t i = 0; i < extension && extension < 100000; i++)
		buf_bytes(buf, "\377", 1);
}

/*
 * Append a field; NULL data is a null.
 */
static inline void
buf_field(Buf *buf, const char *data, int32_t len)
{
	buf_int32(buf, data == NULL ? -1 : len);
	if (data != NULL)
		buf_bytes(buf, data, len);
}

/*
 * Append the trailer.
 */
static inline void
buf_trailer(Buf *buf)
{
	buf_int16(buf, -1);
}

/*
 * Are the contents the same?
 */
static inline bool
buf_equal(const Buf *a, const Buf *b)
{
	return a->len == b->len &&
		(a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

/*
 * Free the memory; the buffer is then empty.
 */
static inline void
buf_free(Buf *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

#endif							/* LOGQ_TEST_COPYBUF_H */
