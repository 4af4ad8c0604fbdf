/*-------------------------------------------------------------------------
 *
 * decode.c
 *		Binary COPY output, taken apart into fields, in plain C.
 *
 * The input is a stream of bytes in pieces of any size.  A server sends one
 * tuple a message, the header ahead of the first one, but nothing in the
 * protocol promises that, and a middleman may cut elsewhere.  A tuple that
 * lies whole in a piece is used where it is; only one that is cut is copied
 * together.
 *
 * Whatever comes in, nothing outside the pieces is read: the bytes are
 * another server's.  Fields point into the piece (or the carry buffer) and
 * are good until the next feed.  An error stays: after one, a piece may be
 * gone that the decoder has not kept, so it is never looked at again.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "decode.h"

static const char copy_signature[11] = "PGCOPY\n\377\r\n";

#define COPY_HEADER_SIZE 19		/* signature, flags, extension length */
/* a backend cannot hold a larger tuple, so nobody sends one */
#define MAX_CARRY ((size_t) 0x7fffffff)

/*
 * Begin a new COPY of so many columns.  Keeps the carry buffer for reuse.
 */
void
logq_decode_start(LogqDecoder *decoder, int nfields)
{
	decoder->nfields = nfields;
	decoder->header_done = false;
	decoder->ended = false;
	decoder->error = NULL;
	decoder->data = "";
	decoder->len = 0;
	decoder->pos = 0;
	decoder->carry_len = 0;
	decoder->reading_carry = false;
}

/*
 * Free the carry buffer.
 */
void
logq_decode_free(LogqDecoder *decoder)
{
	free(decoder->carry);
	decoder->carry = NULL;
	decoder->carry_len = decoder->carry_size = 0;
}

/*
 * Append to the carry buffer; false when memory is out.
 */
static bool
carry_append(LogqDecoder *decoder, const char *data, size_t len)
{
	if (len == 0)
		return true;
	if (len > MAX_CARRY - decoder->carry_len)
	{
		decoder->error = "a row is too large";
		return false;
	}
	if (decoder->carry_len + len > decoder->carry_size)
	{
		size_t		size = decoder->carry_size ? decoder->carry_size : 1024;
		char	   *grown;

		while (size < decoder->carry_len + len)
			size *= 2;
		grown = realloc(decoder->carry, size);
		if (grown == NULL)
		{
			decoder->error = "out of memory";
			return false;
		}
		decoder->carry = grown;
		decoder->carry_size = size;
	}
	memcpy(decoder->carry + decoder->carry_len, data, len);
	decoder->carry_len += len;
	return true;
}

/*
 * Hand in the next piece, after logq_decode_next asked for more.  The piece
 * must stay where it is until then.  False: decoder->error says why.
 */
bool
logq_decode_feed(LogqDecoder *decoder, const char *data, size_t len)
{
	if (decoder->error != NULL)
		return false;

	if (decoder->reading_carry)
	{
		/* drop what was consumed of the carry buffer, keep the rest */
		if (decoder->pos < decoder->carry_len)
			memmove(decoder->carry, decoder->carry + decoder->pos,
					decoder->carry_len - decoder->pos);
		decoder->carry_len -= decoder->pos;
		decoder->reading_carry = false;
	}
	else
	{
		decoder->carry_len = 0;
		if (decoder->pos < decoder->len &&
			!carry_append(decoder, decoder->data + decoder->pos,
						  decoder->len - decoder->pos))
			return false;
	}

	decoder->pos = 0;
	if (decoder->carry_len > 0)
	{
		if (!carry_append(decoder, data, len))
			return false;
		decoder->reading_carry = true;
		decoder->data = decoder->carry;
		decoder->len = decoder->carry_len;
	}
	else
	{
		decoder->data = data;
		decoder->len = len;
	}
	return true;
}

/*
 * Note an error and return it.
 */
static LogqDecodeResult
decode_error(LogqDecoder *decoder, const char *why)
{
	decoder->error = why;
	return LOGQ_DECODE_ERROR;
}

/*
 * Read the header if it has arrived.
 */
static LogqDecodeResult
decode_header(LogqDecoder *decoder)
{
	const char *p = decoder->data + decoder->pos;
	size_t		left = decoder->len - decoder->pos;
	uint32_t	flags;
	uint32_t	extension;

	if (left < COPY_HEADER_SIZE)
		return LOGQ_DECODE_MORE;
	if (memcmp(p, copy_signature, sizeof(copy_signature)) != 0)
		return decode_error(decoder, "the COPY signature is missing");
	flags = (uint32_t) logq_decode_int32(p + 11);
	/* bits 16 to 31 are critical: whoever does not know one must not read */
	if ((flags & 0xffff0000) != 0)
		return decode_error(decoder, "the COPY header has unknown flags");
	extension = (uint32_t) logq_decode_int32(p + 15);
	if (extension > 1024)
		return decode_error(decoder, "the COPY header is too long");
	if (left < COPY_HEADER_SIZE + extension)
		return LOGQ_DECODE_MORE;
	decoder->pos += COPY_HEADER_SIZE + extension;
	decoder->header_done = true;
	return LOGQ_DECODE_ROW;
}

/*
 * Fill fields with the next tuple.
 */
LogqDecodeResult
logq_decode_next(LogqDecoder *decoder, LogqField *fields)
{
	const char *p;
	size_t		left;
	size_t		used;
	int			natts;
	int			i;

	if (decoder->error != NULL)
		return LOGQ_DECODE_ERROR;

	if (decoder->ended)
	{
		/* nothing may follow the trailer */
		if (decoder->pos < decoder->len)
			return decode_error(decoder, "there is data after the trailer");
		return LOGQ_DECODE_END;
	}

	if (!decoder->header_done)
	{
		LogqDecodeResult result = decode_header(decoder);

		if (result != LOGQ_DECODE_ROW)
			return result;
	}

	p = decoder->data + decoder->pos;
	left = decoder->len - decoder->pos;
	if (left < 2)
		return LOGQ_DECODE_MORE;
	natts = logq_decode_int16(p);
	if (natts == -1)
	{
		decoder->pos += 2;
		decoder->ended = true;
		if (decoder->pos < decoder->len)
			return decode_error(decoder, "there is data after the trailer");
		return LOGQ_DECODE_END;
	}
	if (natts != decoder->nfields)
		return decode_error(decoder, "a row has another number of columns");

	used = 2;
	for (i = 0; i < natts; i++)
	{
		int32_t		len;

		if (left - used < 4)
			return LOGQ_DECODE_MORE;
		len = logq_decode_int32(p + used);
		used += 4;
		if (len == -1)
		{
			fields[i].data = NULL;
			fields[i].len = -1;
			continue;
		}
		if (len < -1)
			return decode_error(decoder, "a field has a negative length");
		if (left - used < (size_t) len)
			return LOGQ_DECODE_MORE;
		fields[i].data = p + used;
		fields[i].len = len;
		used += len;
	}
	decoder->pos += used;
	return LOGQ_DECODE_ROW;
}
