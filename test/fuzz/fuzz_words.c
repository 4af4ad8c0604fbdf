/*-------------------------------------------------------------------------
 *
 * fuzz_words.c
 *		Any bytes for the words of texts and patterns.
 *
 * Byte 0 of an input chooses the kind of pattern, byte 1 how many of the
 * following bytes are the pattern (255: all); the rest is a text.  Words must
 * be words.  For EQUAL, LIKE and ILIKE, if the text matches by a simple
 * matcher of bytes, it must have the words of the pattern.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "words.h"

#define MAX_MATCH 64			/* a longer pattern or text is not matched */

/* a text that must have the words of a pattern */
typedef struct Text
{
	const char *bytes;
	size_t		len;
	bool		matches;
} Text;

/* a word that is looked for */
typedef struct Sought
{
	const char *word;
	size_t		len;
	bool		found;
} Sought;

extern int	LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/*
 * Stop unless the condition holds.
 */
static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fuzz_words: %s\n", what);
	abort();
}

/*
 * Lower case of ASCII; other bytes stay.
 */
static int
lower(int c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/*
 * Is this a word at all?
 */
static void
check_word(const char *word, size_t len)
{
	must(len >= LOGQ_WORD_MIN && len <= LOGQ_WORD_MAX, "a wrong length");
	for (size_t i = 0; i < len; i++)
		must((word[i] >= 'a' && word[i] <= 'z') ||
			 (word[i] >= '0' && word[i] <= '9') || word[i] == '_',
			 "a wrong byte in a word");
}

/*
 * A word of the text: is it the one that is looked for?
 */
static void
text_word(void *arg, const char *word, size_t len)
{
	Sought	   *sought = arg;

	check_word(word, len);
	if (sought != NULL && len == sought->len &&
		memcmp(word, sought->word, len) == 0)
		sought->found = true;
}

/*
 * A word of the pattern: has the text got it?
 */
static void
pattern_word(void *arg, const char *word, size_t len)
{
	Text	   *text = arg;
	Sought		sought = {word, len, false};

	check_word(word, len);
	if (!text->matches)
		return;
	logq_words_of_text(text->bytes, text->len, text_word, &sought);
	must(sought.found, "a word that a matching text lacks");
}

/*
 * Does the text match?  Bytes are characters.
 */
static bool
match_like(const char *pattern, size_t npattern, const char *text,
		   size_t ntext, bool any_case)
{
	/* where to go on if the rest does not match: the last % only */
	size_t		p = 0;
	size_t		t = 0;
	size_t		again_p = 0;
	size_t		again_t = 0;
	bool		again = false;

	for (;;)
	{
		bool		same = false;
		size_t		next = p + 1;

		if (p < npattern && pattern[p] == '%')
		{
			again = true;
			again_p = ++p;
			again_t = t;
			continue;
		}
		if (p == npattern && t == ntext)
			return true;
		if (p < npattern && t < ntext)
		{
			if (pattern[p] == '_')
				same = true;
			else
			{
				if (pattern[p] == '\\')
					next = ++p + 1;
				same = any_case ? lower(pattern[p]) == lower(text[t]) :
					pattern[p] == text[t];
			}
		}
		if (same)
		{
			p = next;
			t++;
		}
		else if (again && again_t < ntext)
		{
			p = again_p;
			t = ++again_t;
		}
		else
			return false;
	}
}

/*
 * One input.
 */
int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	LogqPatternKind kind;
	size_t		npattern;
	char	   *pattern;
	char	   *bytes;
	Text		text;

	if (size < 2)
		return 0;
	kind = input[0] % (LOGQ_PATTERN_IREGEX + 1);
	npattern = size - 2;
	if (input[1] < 255 && input[1] < npattern)
		npattern = input[1];

	/* of just their size: a read past the end is seen */
	pattern = malloc(npattern > 0 ? npattern : 1);
	text.len = size - 2 - npattern;
	bytes = malloc(text.len > 0 ? text.len : 1);
	must(pattern != NULL && bytes != NULL, "out of memory");
	memcpy(pattern, input + 2, npattern);
	memcpy(bytes, input + 2 + npattern, text.len);
	text.bytes = bytes;
	text.matches = false;

	logq_words_of_text(text.bytes, text.len, text_word, NULL);
	must(!logq_odd_case(text.bytes, text.len, true) ||
		 logq_odd_case(text.bytes, text.len, false), "odd only in UTF-8");

	if (npattern <= MAX_MATCH && text.len <= MAX_MATCH)
	{
		size_t		escapes = 0;

		while (escapes < npattern &&
			   pattern[npattern - 1 - escapes] == '\\')
			escapes++;
		if (kind == LOGQ_PATTERN_EQUAL)
			text.matches = npattern == text.len &&
				memcmp(pattern, text.bytes, npattern) == 0;
		else if ((kind == LOGQ_PATTERN_LIKE || kind == LOGQ_PATTERN_ILIKE) &&
				 escapes % 2 == 0)
			text.matches = match_like(pattern, npattern, text.bytes,
									  text.len, kind == LOGQ_PATTERN_ILIKE);
	}
	logq_words_of_pattern(kind, pattern, npattern, pattern_word, &text);

	/* a pattern without anything special matches itself */
	if (kind == LOGQ_PATTERN_EQUAL)
	{
		Text		itself = {pattern, npattern, true};

		logq_words_of_pattern(kind, pattern, npattern, pattern_word,
							  &itself);
	}
	free(pattern);
	free(bytes);
	return 0;
}
