/*-------------------------------------------------------------------------
 *
 * fuzz_decode.c
 *		Any bytes for the decoder of binary COPY.
 *
 * The first bytes of an input steer, the rest is what a server sent:
 *
 *		byte 0			number of columns (the low four bits)
 *		byte 1			bit 0: a valid header comes ahead of the data
 *						bits 1, 2: when a piece is freed, see Keep
 *		bytes 2 to 9	lengths of the pieces, again and again; 255 is the
 *						whole rest
 *
 * The data are decoded in one piece and in those pieces.  Both must come to
 * the same rows and the same result, fields must lie within what was fed, and
 * both must agree with a parser that is too simple to be wrong in the same
 * way: it sees everything at once.
 *
 * With -DSTANDALONE a program without libFuzzer, for gcc or a debugger:
 *
 *		fuzz_decode FILE...			runs these inputs
 *		fuzz_decode --seeds DIR		writes inputs to begin with
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"

#define STEERING 10
#define MAX_FIELDS 16
#define COPY_HEADER "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0"
#define COPY_HEADER_SIZE 19

/* what becomes of a piece once the decoder has asked for more */
typedef enum Keep
{
	KEEP_HOLD,					/* stays until the next one has been fed */
	KEEP_CUT,					/* goes, after an empty feed if a row is cut */
	KEEP_ALWAYS					/* goes, after an empty feed */
} Keep;

/* what came out: the rows as text of their own, a hash and a count */
typedef struct Outcome
{
	LogqDecodeResult last;
	uint64_t	hash;
	uint64_t	nrows;
	const char *error;
} Outcome;

extern int	LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/*
 * Stop unless the condition holds.
 */
static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fuzz_decode: %s\n", what);
	abort();
}

/*
 * Add bytes to a hash (FNV-1a).
 */
static void
add_bytes(uint64_t *hash, const void *data, size_t len)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < len; i++)
		*hash = (*hash ^ bytes[i]) * UINT64_C(0x100000001b3);
}

/*
 * Add a field to a hash.
 */
static void
add_field(uint64_t *hash, const char *data, int32_t len)
{
	add_bytes(hash, &len, sizeof(len));
	if (len > 0)
		add_bytes(hash, data, len);
}

/*
 * Decode data in pieces of the given lengths (none: in one piece).
 */
static Outcome
decode(LogqDecoder *decoder, int nfields, const char *data, size_t len,
	   const uint8_t *lengths, int nlengths, Keep keep)
{
	Outcome		out = {LOGQ_DECODE_MORE, 0, 0, NULL};
	LogqField	fields[MAX_FIELDS];
	char	   *held = NULL;
	size_t		from = 0;
	int			nempty = 0;

	logq_decode_start(decoder, nfields);
	for (int i = 0;; i++)
	{
		size_t		size = len - from;
		char	   *piece;

		if (nlengths > 0 && lengths[i % nlengths] < 255 &&
			lengths[i % nlengths] < size)
			size = lengths[i % nlengths];
		/* all pieces may be empty by their lengths, so not too many are */
		if (size == 0 && from < len && ++nempty > 16)
			size = 1;

		/* of just its size: a read past the end is seen */
		piece = malloc(size > 0 ? size : 1);
		must(piece != NULL, "out of memory");
		memcpy(piece, data + from, size);
		if (!logq_decode_feed(decoder, piece, size))
			must(false, "a piece was not taken");
		free(held);
		held = piece;

		while ((out.last = logq_decode_next(decoder,
											fields)) == LOGQ_DECODE_ROW)
		{
			const char *low = decoder->reading_carry ? decoder->carry : piece;
			size_t		all = decoder->reading_carry ? decoder->carry_len :
				size;

			must(decoder->pos <= all, "read on behind the end");
			out.nrows++;
			for (int f = 0; f < nfields; f++)
			{
				const LogqField *field = &fields[f];

				if (field->len == -1)
					must(field->data == NULL, "a null with data");
				else
				{
					must(field->len >= 0, "a negative length");
					must(field->data >= low &&
						 (size_t) (field->data - low) <= all &&
						 (size_t) field->len <=
						 all - (size_t) (field->data - low),
						 "a field outside the memory fed");
				}
				add_field(&out.hash, field->data, field->len);
			}
		}
		must(decoder->pos <= decoder->len, "read on behind the end");
		if (out.last == LOGQ_DECODE_ERROR)
		{
			must(decoder->error != NULL, "an error without a reason");
			must(logq_decode_next(decoder, fields) == LOGQ_DECODE_ERROR,
				 "an error that goes away");
			break;
		}
		must(decoder->error == NULL, "a reason without an error");
		must((out.last == LOGQ_DECODE_END) == decoder->ended,
			 "the end and no end");
		must(logq_decode_next(decoder, fields) == out.last,
			 "a result that does not stay");

		from += size;
		if (from == len)
			break;
		if (keep == KEEP_ALWAYS ||
			(keep == KEEP_CUT && decoder->pos < decoder->len &&
			 !decoder->reading_carry && !decoder->ended))
			must(logq_decode_feed(decoder, "", 0), "a row was not kept");
		if (keep != KEEP_HOLD)
		{
			free(held);
			held = NULL;
		}
	}
	free(held);
	out.error = decoder->error;
	return out;
}

/*
 * Read a big-endian number; false if the data end before it does.
 */
static bool
read_number(const uint8_t **data, const uint8_t *end, int size, int64_t *value)
{
	uint64_t	bits = 0;

	if (end - *data < size)
		return false;
	for (int i = 0; i < size; i++)
		bits = bits << 8 | *(*data)++;
	*value = size == 2 ? (int64_t) (int16_t) bits : (int64_t) (int32_t) bits;
	return true;
}

/*
 * The same in the simplest way, following the description of the format.
 */
static Outcome
parse(int nfields, const uint8_t *data, size_t len)
{
	Outcome		out = {LOGQ_DECODE_ERROR, 0, 0, NULL};
	const uint8_t *end = data + len;
	const uint8_t *at = data + 11;
	int64_t		flags;
	int64_t		number;

	if (len < COPY_HEADER_SIZE)
	{
		out.last = LOGQ_DECODE_MORE;
		return out;
	}
	if (memcmp(data, COPY_HEADER, 11) != 0)
		return out;
	(void) read_number(&at, end, 4, &flags);
	(void) read_number(&at, end, 4, &number);
	if ((flags & 0xffff0000) != 0 || number < 0 || number > 1024)
		return out;
	out.last = LOGQ_DECODE_MORE;
	if (end - at < number)
		return out;
	at += number;

	for (;;)
	{
		uint64_t	hash = out.hash;

		if (!read_number(&at, end, 2, &number))
			return out;
		if (number == -1)
		{
			out.last = at < end ? LOGQ_DECODE_ERROR : LOGQ_DECODE_END;
			return out;
		}
		if (number != nfields)
		{
			out.last = LOGQ_DECODE_ERROR;
			return out;
		}
		for (int f = 0; f < nfields; f++)
		{
			if (!read_number(&at, end, 4, &number))
				return out;
			if (number < -1)
			{
				out.last = LOGQ_DECODE_ERROR;
				return out;
			}
			if (number > end - at)
				return out;
			add_field(&hash, (const char *) at, (int32_t) number);
			if (number > 0)
				at += number;
		}
		out.hash = hash;
		out.nrows++;
	}
}

/*
 * One input.
 */
int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	LogqDecoder decoder = {0};
	int			nfields;
	Keep		keep;
	size_t		header;
	size_t		len;
	char	   *data;
	Outcome		expected;
	Outcome		whole;
	Outcome		pieces;

	if (size < STEERING)
		return 0;
	nfields = input[0] % MAX_FIELDS;
	header = input[1] & 1 ? COPY_HEADER_SIZE : 0;
	keep = (input[1] >> 1) % 3;
	len = header + size - STEERING;
	data = malloc(len > 0 ? len : 1);
	must(data != NULL, "out of memory");
	memcpy(data, COPY_HEADER, header);
	memcpy(data + header, input + STEERING, size - STEERING);

	expected = parse(nfields, (const uint8_t *) data, len);
	whole = decode(&decoder, nfields, data, len, NULL, 0, KEEP_HOLD);
	/* the same decoder again: what it still holds must not show */
	pieces = decode(&decoder, nfields, data, len, input + 2, STEERING - 2,
					keep);

	must(whole.last == expected.last, "another result than expected");
	must(whole.nrows == expected.nrows && whole.hash == expected.hash,
		 "other rows than expected");
	must(pieces.last == whole.last, "cuts change the result");
	must(pieces.nrows == whole.nrows && pieces.hash == whole.hash,
		 "cuts change the rows");
	must(pieces.error == whole.error ||
		 (pieces.error != NULL && whole.error != NULL &&
		  strcmp(pieces.error, whole.error) == 0), "cuts change the error");

	logq_decode_free(&decoder);
	free(data);
	return 0;
}

#ifdef STANDALONE

#define LIT(s) s, sizeof(s) - 1

/* to begin with: something of each kind */
static const struct
{
	const char *steering;		/* STEERING bytes */
	const char *data;
	size_t		len;
}			seeds[] = {
	/* no row */
	{"\2\1\1\1\1\1\1\1\1\1", LIT("\377\377")},
	/* two rows of two fields, with a null and an empty one */
	{"\2\3\3\1\2\5\7\1\4\2", LIT("\0\2\0\0\0\3abc\377\377\377\377"
								 "\0\2\0\0\0\0\0\0\0\1x\377\377")},
	/* the trailer in a piece of its own */
	{"\1\5\7\377\377\377\377\377\377\377", LIT("\0\1\0\0\0\1x\377\377")},
	/* ends within a field */
	{"\1\5\40\1\1\1\1\1\1\1", LIT("\0\1\0\0\0\377x")},
	/* another number of columns */
	{"\3\1\24\1\1\1\1\1\1\1", LIT("\0\1\0\0\0\1x\377\377")},
	/* a negative length */
	{"\1\3\24\1\1\1\1\1\1\1", LIT("\0\1\377\377\377\376")},
	/* data after the trailer */
	{"\1\3\25\1\1\1\1\1\1\1", LIT("\377\377\377\377")},
	/* a header of its own, with an extension */
	{"\1\2\3\3\3\3\3\3\3\3", LIT("PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\2xx"
								 "\0\1\0\0\0\1x\377\377")},
	/* a critical flag */
	{"\1\2\13\1\1\1\1\1\1\1", LIT("PGCOPY\n\377\r\n\0\0\1\0\0\0\0\0\0")},
	/* rows without columns */
	{"\0\1\1\1\1\1\1\1\1\1", LIT("\0\0\0\0\377\377")},
};

/*
 * Write the seeds.
 */
static int
write_seeds(const char *folder)
{
	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
	{
		char		path[4096];
		FILE	   *file;

		snprintf(path, sizeof(path), "%s/seed-%02zu", folder, i);
		file = fopen(path, "wb");
		if (file == NULL ||
			fwrite(seeds[i].steering, 1, STEERING, file) != STEERING ||
			fwrite(seeds[i].data, 1, seeds[i].len, file) != seeds[i].len ||
			fclose(file) != 0)
		{
			perror(path);
			return 1;
		}
	}
	return 0;
}

int
main(int argc, char **argv)
{
	static uint8_t input[1 << 20];

	if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
		return write_seeds(argv[2]);
	for (int i = 1; i < argc; i++)
	{
		FILE	   *file = fopen(argv[i], "rb");
		size_t		size;

		if (file == NULL)
		{
			perror(argv[i]);
			return 1;
		}
		size = fread(input, 1, sizeof(input), file);
		fclose(file);
		LLVMFuzzerTestOneInput(input, size);
	}
	printf("%d inputs\n", argc - 1);
	return 0;
}

#endif							/* STANDALONE */
