/*-------------------------------------------------------------------------
 *
 * decode.h
 *		Binary COPY output, taken apart into fields, in plain C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_DECODE_H
#define LOGQ_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct LogqField
{
	const char *data;
	int32_t		len;			/* -1: NULL */
} LogqField;

typedef enum LogqDecodeResult
{
	LOGQ_DECODE_ROW,			/* the fields are filled */
	LOGQ_DECODE_MORE,			/* feed the next piece */
	LOGQ_DECODE_END,			/* the trailer has been seen */
	LOGQ_DECODE_ERROR			/* not binary COPY, or not our columns */
} LogqDecodeResult;

typedef struct LogqDecoder
{
	int			nfields;		/* columns that were asked for */
	bool		header_done;
	bool		ended;
	const char *error;			/* why LOGQ_DECODE_ERROR */
	/* the piece being read; the caller's memory */
	const char *data;
	size_t		len;
	size_t		pos;
	/* a tuple that does not end in the piece it began in (malloc'd) */
	char	   *carry;
	size_t		carry_len;
	size_t		carry_size;
	bool		reading_carry;
} LogqDecoder;

extern void logq_decode_start(LogqDecoder *decoder, int nfields);
extern bool logq_decode_feed(LogqDecoder *decoder, const char *data,
							 size_t len);
extern LogqDecodeResult logq_decode_next(LogqDecoder *decoder,
										 LogqField *fields);
extern void logq_decode_free(LogqDecoder *decoder);

/* fields are big-endian on the wire */
static inline int64_t
logq_decode_int64(const char *data)
{
	const unsigned char *p = (const unsigned char *) data;
	uint64_t	value = 0;
	int			i;

	for (i = 0; i < 8; i++)
		value = (value << 8) | p[i];
	return (int64_t) value;
}

static inline int32_t
logq_decode_int32(const char *data)
{
	const unsigned char *p = (const unsigned char *) data;

	return (int32_t) (((uint32_t) p[0] << 24) | ((uint32_t) p[1] << 16) |
					  ((uint32_t) p[2] << 8) | (uint32_t) p[3]);
}

static inline int16_t
logq_decode_int16(const char *data)
{
	const unsigned char *p = (const unsigned char *) data;

	return (int16_t) (((unsigned) p[0] << 8) | (unsigned) p[1]);
}

#endif							/* LOGQ_DECODE_H */
