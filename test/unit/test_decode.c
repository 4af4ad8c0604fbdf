/*-------------------------------------------------------------------------
 *
 * test_decode.c
 *		The decoder of binary COPY, fed in pieces cut anywhere.
 *
 * Every piece is copied to memory of just its size, so that the sanitizer
 * sees a read past its end; most ways to feed free a piece as soon as the
 * decoder may not need it any more, so that it sees a late read too.
 *
 *-------------------------------------------------------------------------
 */
#include "copybuf.h"
#include "decode.h"

#define MAX_FIELDS 12

/* what becomes of a piece when the decoder asks for more */
typedef enum Keep
{
	KEEP_HOLD,					/* stays until the next one has been fed */
	KEEP_CUT,					/* goes; a cut row is kept by an empty feed, as
								 * in stream.c */
	KEEP_ALWAYS,				/* goes after an empty feed, as in catalog.c */
	KEEP_KINDS
} Keep;

/* what came out of a feeding */
typedef struct Outcome
{
	Buf			rows;			/* the fields, as buf_field() writes them */
	int			nrows;
	LogqDecodeResult last;
	const char *error;
	bool		ended;
	bool		outside;		/* a field lay outside the memory fed */
	bool		changed;		/* a row changed before the next feed */
} Outcome;

/*
 * Take all rows of the piece at hand.  They are copied only when the piece is
 * through: fields are to stay good until then.
 */
static void
take_rows(LogqDecoder *decoder, int nfields, Outcome *out)
{
	LogqField  *kept = NULL;
	int			kept_size = 0;
	LogqField	fields[MAX_FIELDS];
	Buf			at_once = {0};
	size_t		before = out->rows.len;
	int			nrows = 0;

	while ((out->last = logq_decode_next(decoder, fields)) == LOGQ_DECODE_ROW)
	{
		if ((nrows + 1) * MAX_FIELDS > kept_size)
		{
			kept_size = (nrows + 1) * MAX_FIELDS * 2;
			kept = tap_realloc(kept, kept_size * sizeof(LogqField));
		}
		for (int i = 0; i < nfields; i++)
		{
			const LogqField *f = &fields[i];

			if (f->len < -1 || (f->len == -1) != (f->data == NULL) ||
				(f->len >= 0 &&
				 (f->data < decoder->data ||
				  f->data + f->len > decoder->data + decoder->len)))
			{
				out->outside = true;
				break;
			}
			kept[nrows * MAX_FIELDS + i] = *f;
			buf_field(&at_once, f->data, f->len);
		}
		if (out->outside)
			break;
		nrows++;
	}
	for (int r = 0; r < nrows && !out->outside; r++)
	{
		for (int i = 0; i < nfields; i++)
		{
			LogqField  *f = &kept[r * MAX_FIELDS + i];

			buf_field(&out->rows, f->data, f->len);
		}
	}
	if (!out->outside &&
		(out->rows.len - before != at_once.len ||
		 (at_once.len > 0 &&
		  memcmp(out->rows.data + before, at_once.data, at_once.len) != 0)))
		out->changed = true;
	out->nrows += nrows;
	buf_free(&at_once);
	free(kept);
}

/*
 * Feed data cut at the given places, in ascending order, to a decoder that
 * has been started.
 */
static Outcome
feed_all(LogqDecoder *decoder, int nfields, const char *data, size_t len,
		 const size_t *cuts, int ncuts, Keep keep)
{
	Outcome		out = {{0}};
	char	   *held = NULL;
	size_t		from = 0;

	for (int i = 0; i <= ncuts; i++)
	{
		size_t		to = i < ncuts ? cuts[i] : len;
		char	   *piece = malloc(to - from);
		bool		fed;

		if (to > from)
			memcpy(piece, data + from, to - from);
		/* malloc(0) may be NULL; the decoder is never given that */
		fed = logq_decode_feed(decoder, piece ? piece : "", to - from);
		free(held);
		held = piece;
		if (!fed)
		{
			out.last = LOGQ_DECODE_ERROR;
			break;
		}
		take_rows(decoder, nfields, &out);
		if (out.last == LOGQ_DECODE_ERROR || out.outside)
			break;
		if (keep == KEEP_ALWAYS ||
			(keep == KEEP_CUT && decoder->pos < decoder->len &&
			 !decoder->reading_carry && !decoder->ended))
			(void) logq_decode_feed(decoder, "", 0);
		if (keep != KEEP_HOLD)
		{
			/* written over, for builds without a sanitizer */
			if (to > from)
				memset(held, 0xa5, to - from);
			free(held);
			held = NULL;
		}
		from = to;
	}
	out.error = decoder->error;
	out.ended = decoder->ended;
	free(held);
	return out;
}

/*
 * Feed data to a new decoder.
 */
static Outcome
feed_new(int nfields, const Buf *data, const size_t *cuts, int ncuts,
		 Keep keep)
{
	LogqDecoder decoder = {0};
	Outcome		out;

	logq_decode_start(&decoder, nfields);
	out = feed_all(&decoder, nfields, data->data, data->len, cuts, ncuts,
				   keep);
	logq_decode_free(&decoder);
	return out;
}

/*
 * Is it the end, with these rows before it?
 */
static bool
is_end(const Outcome *out, const Buf *rows, int nrows)
{
	return out->last == LOGQ_DECODE_END && out->ended && !out->error &&
		!out->outside && !out->changed && out->nrows == nrows &&
		buf_equal(&out->rows, rows);
}

/*
 * Is it an error that names this, with these rows before it?
 */
static bool
is_error(const Outcome *out, const char *word, int nrows)
{
	return out->last == LOGQ_DECODE_ERROR && !out->outside && !out->changed &&
		out->error != NULL && strstr(out->error, word) != NULL &&
		out->nrows == nrows;
}

/*
 * Print what came instead of what was expected.
 */
static void
diagnose(const char *what, const Outcome *out)
{
	printf("# %s: result %d, %d rows, %zu bytes, error \"%s\"%s%s\n", what,
		   (int) out->last, out->nrows, out->rows.len,
		   out->error ? out->error : "",
		   out->outside ? ", a field outside its piece" : "",
		   out->changed ? ", a row changed" : "");
}

/*
 * Append random rows to data, and to rows what is expected of them.
 */
static void
random_rows(Buf *data, Buf *rows, int nfields, int nrows, int max_field)
{
	char	   *bytes = tap_alloc(max_field);

	for (int r = 0; r < nrows; r++)
	{
		Buf			row = {0};

		buf_int16(data, nfields);
		for (int i = 0; i < nfields; i++)
		{
			int			kind = tap_random_int(0, 9);
			int			len = 0;

			if (kind < 2)
			{
				buf_field(&row, NULL, 0);
				continue;
			}
			if (kind > 3)
				len = tap_random_int(0, kind == 9 ? max_field :
									 max_field < 12 ? max_field : 12);
			/* often what the decoder itself looks for: -1 and small counts */
			for (int b = 0; b < len; b++)
				bytes[b] = tap_random_int(0, 2) == 0 ? '\377' :
					(char) tap_random_int(0, kind == 8 ? 3 : 255);
			buf_field(&row, bytes, len);
		}
		buf_bytes(data, row.data, row.len);
		buf_bytes(rows, row.data, row.len);
		buf_free(&row);
	}
	free(bytes);
}

/*
 * Check that every way to cut data gives the rows and the end: each single
 * place, each pair of places if asked, and byte by byte.
 */
static bool
all_cuts(int nfields, const Buf *data, const Buf *rows, int nrows, bool pairs)
{
	size_t	   *each = tap_alloc(sizeof(size_t) * (data->len + 1));
	bool		good = true;

	for (size_t i = 0; i <= data->len; i++)
		each[i] = i;
	for (int keep = 0; good && keep < KEEP_KINDS; keep++)
	{
		Outcome		out = feed_new(nfields, data, NULL, 0, keep);

		if (!(good = is_end(&out, rows, nrows)))
			diagnose("no cut", &out);
		buf_free(&out.rows);

		for (size_t a = 0; good && a <= data->len; a++)
		{
			for (size_t b = pairs ? a : data->len; good && b <= data->len; b++)
			{
				size_t		cuts[2] = {a, b};

				out = feed_new(nfields, data, cuts, 2, keep);
				if (!(good = is_end(&out, rows, nrows)))
				{
					printf("# cut at %zu and %zu of %zu, keep %d\n", a, b,
						   data->len, keep);
					diagnose("cut", &out);
				}
				buf_free(&out.rows);
			}
		}
		if (!good)
			break;
		out = feed_new(nfields, data, each, (int) data->len, keep);
		if (!(good = is_end(&out, rows, nrows)))
			diagnose("byte by byte", &out);
		buf_free(&out.rows);
	}
	free(each);
	return good;
}

/*
 * Small inputs, cut everywhere.
 */
static void
test_small(void)
{
	bool		good = true;

	for (int n = 0; good && n < 60; n++)
	{
		Buf			data = {0};
		Buf			rows = {0};
		int			nfields = tap_random_int(0, 5);
		int			nrows = tap_random_int(0, 4);

		buf_header(&data, 0, 0);
		random_rows(&data, &rows, nfields, nrows, 20);
		buf_trailer(&data);
		good = all_cuts(nfields, &data, &rows, nrows, n < 8);
		buf_free(&data);
		buf_free(&rows);
	}
	ok(good, "random rows, cut at every place, whole and byte by byte");
}

/*
 * Order two sizes.
 */
static int
compare_size(const void *a, const void *b)
{
	size_t		x = *(const size_t *) a;
	size_t		y = *(const size_t *) b;

	return (x > y) - (x < y);
}

/*
 * Larger inputs, cut in many places, with the same decoder throughout: what
 * one input leaves in the carry buffer must not show in the next.
 */
static void
test_large(void)
{
	LogqDecoder decoder = {0};
	bool		good = true;

	for (int n = 0; good && n < 150; n++)
	{
		Buf			data = {0};
		Buf			rows = {0};
		int			nfields = tap_random_int(1, MAX_FIELDS);
		int			nrows = tap_random_int(0, 40);
		int			ncuts = tap_random_int(0, n % 2 ? 8 : 300);
		size_t		cuts[300];
		Outcome		out;

		buf_header(&data, 0, tap_random_int(0, 1) * 1024);
		random_rows(&data, &rows, nfields, nrows, n % 10 ? 300 : 100000);
		buf_trailer(&data);
		for (int i = 0; i < ncuts; i++)
			cuts[i] = tap_random() % (data.len + 1);
		qsort(cuts, ncuts, sizeof(size_t), compare_size);

		logq_decode_start(&decoder, nfields);
		out = feed_all(&decoder, nfields, data.data, data.len, cuts, ncuts,
					   n % KEEP_KINDS);
		if (!(good = is_end(&out, &rows, nrows)))
			diagnose("large input", &out);
		buf_free(&out.rows);
		buf_free(&data);
		buf_free(&rows);
	}
	ok(good, "larger rows, cut at random, one decoder for all");
	logq_decode_free(&decoder);
	ok(decoder.carry == NULL && decoder.carry_size == 0,
	   "the carry buffer is freed");
	/* must do no harm twice */
	logq_decode_free(&decoder);
}

/*
 * One field of several megabytes, in the pieces a socket gives.
 */
static void
test_huge_field(void)
{
	Buf			data = {0};
	Buf			rows = {0};
	int			len = 5 * 1024 * 1024;
	char	   *bytes = tap_alloc(len);
	size_t		cuts[700];
	int			ncuts = 0;
	Outcome		out;

	for (int i = 0; i < len; i++)
		bytes[i] = (char) (i * 7);
	buf_field(&rows, bytes, len);
	buf_field(&rows, bytes, 0);
	buf_header(&data, 0, 0);
	buf_int16(&data, 2);
	buf_bytes(&data, rows.data, rows.len);
	buf_trailer(&data);
	for (size_t at = 8192; at < data.len; at += 8192)
		cuts[ncuts++] = at;
	for (int keep = 0; keep < KEEP_KINDS; keep++)
	{
		out = feed_new(2, &data, cuts, ncuts, keep);
		if (!ok(is_end(&out, &rows, 1), "a field of %d bytes, %d pieces (%d)",
				len, ncuts + 1, keep))
			diagnose("huge field", &out);
		buf_free(&out.rows);
	}
	free(bytes);
	buf_free(&data);
	buf_free(&rows);
}

/*
 * Check that data is refused with an error that has a word in it, after so
 * many rows, however it is cut.  Takes the data.
 */
static void
refused(int nfields, Buf *data, const char *word, int nrows, const char *what)
{
	bool		good = true;

	for (size_t cut = 0; good && cut <= data->len; cut++)
	{
		for (int keep = 0; good && keep < KEEP_KINDS; keep++)
		{
			Outcome		out = feed_new(nfields, data, &cut, 1, keep);

			if (!(good = is_error(&out, word, nrows)))
			{
				printf("# cut at %zu of %zu, keep %d\n", cut, data->len, keep);
				diagnose(what, &out);
			}
			buf_free(&out.rows);
		}
	}
	ok(good, "refused: %s", what);
	buf_free(data);
}

/*
 * Headers: extensions are skipped, critical flags refused.
 */
static void
test_header(void)
{
	static const int lengths[] = {1, 2, 19, 1023, 1024};
	Buf			data = {0};
	Buf			rows = {0};
	bool		good = true;

	for (int i = 0; good && i < 5; i++)
	{
		buf_header(&data, 0, lengths[i]);
		random_rows(&data, &rows, 2, 2, 10);
		buf_trailer(&data);
		good = all_cuts(2, &data, &rows, 2, false);
		buf_free(&data);
		buf_free(&rows);
	}
	ok(good, "header extensions are skipped");

	buf_header(&data, 0xffff, 0);
	random_rows(&data, &rows, 2, 2, 10);
	buf_trailer(&data);
	ok(all_cuts(2, &data, &rows, 2, false), "flags that are not critical");
	buf_free(&data);
	buf_free(&rows);

	for (int bit = 16; bit < 32; bit++)
	{
		LogqDecoder decoder = {0};
		Outcome		out;

		buf_header(&data, UINT32_C(1) << bit, 0);
		logq_decode_start(&decoder, 1);
		out = feed_all(&decoder, 1, data.data, data.len, NULL, 0, KEEP_HOLD);
		good = good && is_error(&out, "flags", 0);
		logq_decode_free(&decoder);
		buf_free(&data);
	}
	ok(good, "each critical flag is refused");
	buf_header(&data, 0x10000, 0);
	refused(1, &data, "flags", 0, "a header that announces OIDs");
	buf_header(&data, 0, 1025);
	refused(1, &data, "too long", 0, "an extension that is too long");
	buf_header(&data, 0, 0xffffffff);
	refused(1, &data, "too long", 0, "an extension of 4 GB");
	buf_header(&data, 0, 0x80000000);
	refused(1, &data, "too long", 0, "an extension of 2 GB");

	good = true;
	for (int i = 0; i < 11; i++)
	{
		Outcome		out;

		buf_header(&data, 0, 0);
		data.data[i] ^= 0x20;
		out = feed_new(1, &data, NULL, 0, KEEP_HOLD);
		good = good && is_error(&out, "signature", 0);
		buf_free(&data);
	}
	ok(good, "each byte of the signature counts");
	buf_bytes(&data, "1\t2009-01-01 00:00:00\thello\n", 28);
	refused(1, &data, "signature", 0, "COPY in text format");
}

/*
 * Rows that are not what was asked for.
 */
static void
test_bad_rows(void)
{
	static const int counts[] = {0, 1, 3, 4, 0x7fff, -2, -32768};
	static const int64_t lengths[] = {-2, -3, INT32_MIN};
	Buf			data = {0};
	Buf			rows = {0};
	char		what[80];

	for (int i = 0; i < 7; i++)
	{
		buf_header(&data, 0, 0);
		random_rows(&data, &rows, 2, 1, 10);
		buf_int16(&data, counts[i]);
		buf_bytes(&data, "\0\0\0\0\0\0\0\0", 8);
		snprintf(what, sizeof(what), "a second row of %d columns, not 2",
				 counts[i]);
		refused(2, &data, "columns", 1, what);
		buf_free(&rows);
	}
	for (int i = 0; i < 3; i++)
	{
		buf_header(&data, 0, 0);
		buf_int16(&data, 2);
		buf_field(&data, "abc", 3);
		buf_int32(&data, lengths[i]);
		snprintf(what, sizeof(what), "a field of %lld bytes",
				 (long long) lengths[i]);
		refused(2, &data, "negative", 0, what);
	}
}

/*
 * What ends early is never an end, and the rows that came whole are right.
 */
static void
test_truncated(void)
{
	bool		good = true;

	for (int n = 0; good && n < 20; n++)
	{
		Buf			data = {0};
		Buf			rows = {0};
		Buf			part = {0};
		size_t		starts[5];

		buf_header(&data, 0, n % 3);
		for (int r = 0; r < 4; r++)
		{
			starts[r] = data.len;
			random_rows(&data, &rows, 3, 1, 15);
		}
		starts[4] = data.len;
		buf_trailer(&data);
		part.data = data.data;
		for (part.len = 0; good && part.len < data.len; part.len++)
		{
			size_t		cut = tap_random() % (part.len + 1);
			Outcome		out = feed_new(3, &part, &cut, 1, n % KEEP_KINDS);
			int			whole = 0;

			while (whole < 4 && starts[whole + 1] <= part.len)
				whole++;
			good = out.last == LOGQ_DECODE_MORE && !out.ended && !out.error &&
				!out.outside && !out.changed && out.nrows == whole &&
				out.rows.len <= rows.len &&
				(out.rows.len == 0 ||
				 memcmp(out.rows.data, rows.data, out.rows.len) == 0);
			if (!good)
			{
				printf("# %zu of %zu bytes, cut at %zu\n", part.len, data.len,
					   cut);
				diagnose("truncated", &out);
			}
			buf_free(&out.rows);
		}
		buf_free(&data);
		buf_free(&rows);
	}
	ok(good, "data that ends early asks for more and is no end");

	/* a length that only says much makes nobody allocate it */
	{
		LogqDecoder decoder = {0};
		Buf			data = {0};
		Outcome		out;
		size_t		cut = 20;

		buf_header(&data, 0, 0);
		buf_int16(&data, 1);
		buf_int32(&data, 0x7fffffff);
		buf_bytes(&data, "abc", 3);
		logq_decode_start(&decoder, 1);
		out = feed_all(&decoder, 1, data.data, data.len, &cut, 1, KEEP_CUT);
		ok(out.last == LOGQ_DECODE_MORE && out.nrows == 0 &&
		   decoder.carry_size < 65536,
		   "a field that claims 2 GB asks for more, without the memory");
		logq_decode_free(&decoder);
		buf_free(&data);
	}
}

/*
 * The trailer at all places relative to a cut, and what may follow it.
 *
 * TimescaleDB #5323 was an extra row that came of a trailer in a message of
 * its own.
 */
static void
test_trailer(void)
{
	Buf			data = {0};
	Buf			rows = {0};
	size_t		cuts[4];
	bool		good = true;

	buf_header(&data, 0, 0);
	cuts[0] = data.len;
	random_rows(&data, &rows, 3, 5, 30);
	cuts[1] = data.len;
	cuts[2] = data.len + 1;
	buf_trailer(&data);
	cuts[3] = data.len;
	for (int keep = 0; keep < KEEP_KINDS; keep++)
	{
		/* each choice of the four places */
		for (int mask = 0; mask < 16; mask++)
		{
			size_t		chosen[4];
			int			n = 0;
			Outcome		out;

			for (int i = 0; i < 4; i++)
			{
				if (mask & 1 << i)
					chosen[n++] = cuts[i];
			}
			out = feed_new(3, &data, chosen, n, keep);
			if (!is_end(&out, &rows, 5))
			{
				good = false;
				diagnose("trailer", &out);
			}
			buf_free(&out.rows);
		}
	}
	ok(good, "a trailer in a piece of its own, or cut, brings no extra row");

	/* the last row and the trailer end together, and empty pieces follow */
	{
		LogqDecoder decoder = {0};
		LogqField	fields[3];
		Outcome		out;

		logq_decode_start(&decoder, 3);
		out = feed_all(&decoder, 3, data.data, data.len, NULL, 0, KEEP_HOLD);
		buf_free(&out.rows);
		good = logq_decode_feed(&decoder, "", 0) &&
			logq_decode_next(&decoder, fields) == LOGQ_DECODE_END &&
			logq_decode_next(&decoder, fields) == LOGQ_DECODE_END;
		ok(good, "the end stays the end");
		good = logq_decode_feed(&decoder, "x", 1) &&
			logq_decode_next(&decoder, fields) == LOGQ_DECODE_ERROR &&
			logq_decode_next(&decoder, fields) == LOGQ_DECODE_ERROR &&
			!logq_decode_feed(&decoder, "", 0);
		ok(good, "a piece after the end is an error, and stays one");
		logq_decode_free(&decoder);
	}
	buf_bytes(&data, "x", 1);
	refused(3, &data, "after the trailer", 5, "a byte after the trailer");
	buf_free(&rows);

	buf_header(&data, 0, 0);
	buf_trailer(&data);
	buf_trailer(&data);
	refused(3, &data, "after the trailer", 0, "a second trailer");

	buf_header(&data, 0, 0);
	buf_trailer(&data);
	ok(all_cuts(3, &data, &rows, 0, true), "a header and a trailer, no row");
	buf_free(&data);
}

/*
 * Fields without bytes: empty is not null, not even at the end of a piece.
 */
static void
test_empty_fields(void)
{
	LogqDecoder decoder = {0};
	LogqField	fields[2];
	Buf			data = {0};
	Buf			rows = {0};

	buf_header(&data, 0, 0);
	for (int r = 0; r < 4; r++)
	{
		Buf			row = {0};

		buf_field(&row, r & 1 ? "" : NULL, 0);
		buf_field(&row, r & 2 ? "" : NULL, 0);
		buf_int16(&data, 2);
		buf_bytes(&data, row.data, row.len);
		buf_bytes(&rows, row.data, row.len);
		buf_free(&row);
	}
	/* r = 3: the piece ends with the empty field */
	logq_decode_start(&decoder, 2);
	(void) logq_decode_feed(&decoder, data.data, data.len);
	for (int r = 0; r < 4; r++)
		(void) logq_decode_next(&decoder, fields);
	ok(fields[0].len == 0 && fields[0].data != NULL &&
	   fields[1].len == 0 && fields[1].data != NULL, "empty is not null");
	ok(logq_decode_next(&decoder, fields) == LOGQ_DECODE_MORE,
	   "no trailer, no end");
	logq_decode_free(&decoder);

	buf_trailer(&data);
	ok(all_cuts(2, &data, &rows, 4, true), "empty fields and nulls, all cuts");
	buf_free(&data);
	buf_free(&rows);
}

/*
 * A decoder that was left anywhere starts anew.
 */
static void
test_reuse(void)
{
	LogqDecoder decoder = {0};
	Buf			first = {0};
	Buf			second = {0};
	Buf			ignored = {0};
	Buf			rows = {0};
	bool		good = true;

	buf_header(&first, 0, 0);
	random_rows(&first, &ignored, 3, 3, 40);
	buf_trailer(&first);
	buf_bytes(&first, "x", 1);
	buf_header(&second, 0, 0);
	random_rows(&second, &rows, 5, 3, 40);
	buf_trailer(&second);
	for (size_t stop = 0; good && stop <= first.len; stop++)
	{
		size_t		cut = stop / 2;
		Outcome		out;

		logq_decode_start(&decoder, 3);
		out = feed_all(&decoder, 3, first.data, stop, &cut, 1, KEEP_CUT);
		good = (out.last == LOGQ_DECODE_ERROR) == (stop == first.len);
		buf_free(&out.rows);

		logq_decode_start(&decoder, 5);
		cut = stop % second.len;
		out = feed_all(&decoder, 5, second.data, second.len, &cut, 1,
					   KEEP_CUT);
		if (!is_end(&out, &rows, 3))
		{
			good = false;
			diagnose("reuse", &out);
		}
		buf_free(&out.rows);
	}
	ok(good, "a decoder left anywhere, after an error too, starts anew");

	logq_decode_free(&decoder);
	logq_decode_start(&decoder, 5);
	{
		size_t		cut = second.len - 10;
		Outcome		out = feed_all(&decoder, 5, second.data, second.len, &cut,
								   1, KEEP_CUT);

		ok(is_end(&out, &rows, 3), "and so does one that was freed");
		buf_free(&out.rows);
	}
	logq_decode_free(&decoder);
	buf_free(&first);
	buf_free(&second);
	buf_free(&ignored);
	buf_free(&rows);
}

/*
 * Nothing fed, and pieces without bytes.
 */
static void
test_nothing(void)
{
	LogqDecoder decoder = {0};
	LogqField	field;
	bool		good;

	logq_decode_start(&decoder, 1);
	good = logq_decode_next(&decoder, &field) == LOGQ_DECODE_MORE;
	for (int i = 0; i < 3; i++)
		good = good && logq_decode_feed(&decoder, "", 0) &&
			logq_decode_next(&decoder, &field) == LOGQ_DECODE_MORE;
	ok(good && !decoder.ended && decoder.carry == NULL,
	   "nothing fed asks for more");
	logq_decode_free(&decoder);
}

/*
 * A row that cannot be kept is an error that stays: the piece is gone by the
 * next call, and to look at it again would be a use after free.
 */
static void
test_too_large(void)
{
	LogqDecoder decoder = {0};
	LogqField	field;
	char	   *piece = tap_alloc(30);
	bool		good;

	memset(piece, 'x', 30);
	memcpy(piece, "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0" "\0\1\177\377\377\377",
		   25);
	logq_decode_start(&decoder, 1);
	good = logq_decode_feed(&decoder, piece, 30) &&
		logq_decode_next(&decoder, &field) == LOGQ_DECODE_MORE;
	/* pretend that the piece was 2 GB */
	decoder.len = (size_t) UINT32_C(0x80000000) + decoder.pos;
	good = good && !logq_decode_feed(&decoder, "", 0);
	free(piece);
	ok(good && decoder.error != NULL, "a row above 2 GB is refused");
	good = !logq_decode_feed(&decoder, "", 0) &&
		logq_decode_next(&decoder, &field) == LOGQ_DECODE_ERROR;
	ok(good, "and its piece is never looked at again");
	logq_decode_free(&decoder);
}

/*
 * The readers of numbers.
 */
static void
test_numbers(void)
{
	static const int64_t numbers[] = {
		INT64_MIN, INT64_MAX, -1, 0, 1, 0x0102030405060708, INT32_MIN,
		INT32_MAX, INT16_MIN, INT16_MAX
	};
	bool		good = true;

	for (int i = 0; i < 10; i++)
	{
		Buf			buf = {0};

		/* at an odd address, as fields are */
		buf_bytes(&buf, "x", 1);
		buf_int32(&buf, (int64_t) ((uint64_t) numbers[i] >> 32));
		buf_int32(&buf, numbers[i]);
		good = good && logq_decode_int64(buf.data + 1) == numbers[i] &&
			logq_decode_int32(buf.data + 5) == (int32_t) numbers[i] &&
			logq_decode_int16(buf.data + 7) == (int16_t) numbers[i];
		buf_free(&buf);
	}
	ok(good, "numbers, at odd addresses, with their signs");
}

int
main(void)
{
	tap_seed();
	test_numbers();
	test_nothing();
	test_small();
	test_large();
	test_huge_field();
	test_header();
	test_bad_rows();
	test_truncated();
	test_trailer();
	test_empty_fields();
	test_reuse();
	test_too_large();
	return tap_done();
}
