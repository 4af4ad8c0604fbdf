/*-------------------------------------------------------------------------
 *
 * test_words.c
 *		Words of texts, and that no pattern asks for a word too many.
 *
 * The property that matters: whenever a text matches a pattern, each word
 * that the pattern is said to need is among the words of the text.  It is
 * tried on random pairs, with matchers that are not ours: a plain recursive
 * one for LIKE, the C library's for regular expressions.  Patterns are made
 * from texts, and texts varied a little, so that many pairs match and many of
 * these only just.
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <locale.h>
#include <regex.h>
#include <string.h>

#include "tap.h"
#include "words.h"

#define MAX_CHARS 24			/* of a random text */
#define MAX_BYTES 4096
#define MAX_WORDS 256

typedef struct Words
{
	int			n;
	size_t		len[MAX_WORDS];
	char		word[MAX_WORDS][LOGQ_WORD_MAX];
} Words;

/* a text as characters */
typedef struct Text
{
	int			n;
	int			chars[2 * MAX_CHARS];
} Text;

/*
 * The characters of random texts: words of both cases, separators, what is
 * special in patterns, letters beyond ASCII, also those whose other case is
 * an ASCII letter, and a character of three bytes.
 */
static const int alphabet[] = {
	'a', 'a', 'a', 'b', 'b', 'A', 'B', 'k', 'K', 'i', 's', '_', '1', ' ', ' ',
	'-', '.', '%', '\\', '\n', '(', 0xe9, 0xc9, 0xcc, 0x130, 0x131, 0x17f,
	0x307, 0x212a, 0x20ac
};

#define NALPHABET ((int) (sizeof(alphabet) / sizeof(alphabet[0])))

static const char *const kind_name[] = {
	"EQUAL", "LIKE", "ILIKE", "REGEX", "IREGEX"
};

/*
 * Collect a word.
 */
static void
collect(void *arg, const char *word, size_t len)
{
	Words	   *words = arg;

	if (words->n == MAX_WORDS || len < LOGQ_WORD_MIN || len > LOGQ_WORD_MAX)
	{
		printf("Bail out! too many words, or of a wrong length\n");
		exit(1);
	}
	memcpy(words->word[words->n], word, len);
	words->len[words->n++] = len;
}

/*
 * Is every one of these words among those?
 */
static bool
all_among(const Words *these, const Words *those)
{
	for (int i = 0; i < these->n; i++)
	{
		int			j = 0;

		while (j < those->n &&
			   (these->len[i] != those->len[j] ||
				memcmp(these->word[i], those->word[j], these->len[i]) != 0))
			j++;
		if (j == those->n)
			return false;
	}
	return true;
}

/*
 * The words with spaces between.
 */
static const char *
join(const Words *words)
{
	static char buffer[MAX_WORDS * (LOGQ_WORD_MAX + 1) + 1];
	size_t		at = 0;

	for (int i = 0; i < words->n; i++)
	{
		if (i > 0)
			buffer[at++] = ' ';
		memcpy(buffer + at, words->word[i], words->len[i]);
		at += words->len[i];
	}
	buffer[at] = '\0';
	return buffer;
}

/*
 * Write a character in UTF-8; returns how many bytes.
 */
static size_t
put_char(char *at, int c)
{
	if (c < 0x80)
	{
		at[0] = (char) c;
		return 1;
	}
	if (c < 0x800)
	{
		at[0] = (char) (0xc0 | c >> 6);
		at[1] = (char) (0x80 | (c & 0x3f));
		return 2;
	}
	at[0] = (char) (0xe0 | c >> 12);
	at[1] = (char) (0x80 | (c >> 6 & 0x3f));
	at[2] = (char) (0x80 | (c & 0x3f));
	return 3;
}

/*
 * Write a text as a string of its own; returns its length.
 */
static size_t
put_text(char *at, const Text *text)
{
	size_t		len = 0;

	for (int i = 0; i < text->n; i++)
		len += put_char(at + len, text->chars[i]);
	at[len] = '\0';
	return len;
}

/*
 * A string for a diagnosis.
 */
static void
diagnose(const char *name, const char *bytes, size_t len)
{
	printf("#   %s: ", name);
	for (size_t i = 0; i < len; i++)
	{
		if (bytes[i] >= ' ' && bytes[i] < 0x7f)
			putchar(bytes[i]);
		else
			printf("<%02x>", (unsigned char) bytes[i]);
	}
	putchar('\n');
}

/*
 * A random text.
 */
static void
random_text(Text *text)
{
	text->n = tap_random_int(0, MAX_CHARS);
	for (int i = 0; i < text->n; i++)
		text->chars[i] = alphabet[tap_random_int(0, NALPHABET - 1)];
	/* half of them without what is odd, since these say nothing of ILIKE */
	if (tap_random() % 2 == 0)
	{
		for (int i = 0; i < text->n; i++)
		{
			if (text->chars[i] >= 0x130 && text->chars[i] != 0x20ac)
				text->chars[i] = 'a';
		}
	}
}

/*
 * Change up to two characters.
 */
static void
vary(Text *text)
{
	for (int times = tap_random_int(1, 2); times > 0; times--)
	{
		int			at = tap_random_int(0, text->n);

		switch (tap_random() % 3)
		{
			case 0:
				if (at < text->n)
					text->chars[at] =
						alphabet[tap_random_int(0, NALPHABET - 1)];
				break;
			case 1:
				memmove(text->chars + at + 1, text->chars + at,
						(text->n - at) * sizeof(int));
				text->chars[at] = alphabet[tap_random_int(0, NALPHABET - 1)];
				text->n++;
				break;
			case 2:
				if (at < text->n)
				{
					memmove(text->chars + at, text->chars + at + 1,
							(text->n - at - 1) * sizeof(int));
					text->n--;
				}
				break;
		}
	}
}

/*
 * Lower case, as generous as any locale might be.
 */
static int
fold(int c)
{
	if (c < 0x80)
		return tolower(c);
	if (c == 0xc9)
		return 0xe9;
	if (c == 0x130 || c == 0x131)
		return 'i';
	if (c == 0x17f)
		return 's';
	return c == 0x212a ? 'k' : c;
}

/*
 * Does the text match?  The pattern must not end in its escape.
 */
static bool
match_like(const int *pattern, int npattern, const int *text, int ntext,
		   bool any_case)
{
	int			c;

	if (npattern == 0)
		return ntext == 0;
	if (*pattern == '%')
	{
		for (int skip = 0; skip <= ntext; skip++)
		{
			if (match_like(pattern + 1, npattern - 1, text + skip,
						   ntext - skip, any_case))
				return true;
		}
		return false;
	}
	if (ntext == 0)
		return false;
	if (*pattern == '_')
		return match_like(pattern + 1, npattern - 1, text + 1, ntext - 1,
						  any_case);
	if (*pattern == '\\')
	{
		pattern++;
		npattern--;
	}
	c = *pattern;
	if (any_case ? fold(c) != fold(*text) : c != *text)
		return false;
	return match_like(pattern + 1, npattern - 1, text + 1, ntext - 1,
					  any_case);
}

/*
 * A pattern that the text is likely to match.
 */
static void
random_like(Text *pattern, const Text *text, bool any_case)
{
	int			npercents = 0;

	pattern->n = 0;
	for (int i = 0; i < text->n && pattern->n < MAX_CHARS * 2 - 6; i++)
	{
		int			c = text->chars[i];

		switch (tap_random() % 16)
		{
			case 0:
				pattern->chars[pattern->n++] = '_';
				continue;
			case 1:
				/* for any number of characters; not many, matching is slow */
				if (npercents++ < 4)
				{
					pattern->chars[pattern->n++] = '%';
					i += tap_random_int(-1, 3);
					continue;
				}
				break;
			case 2:
				if (any_case && c < 0x80)
					c = isupper(c) ? tolower(c) : toupper(c);
				else if (any_case && c == 0x212a)
					c = 'k';
				break;
			case 3:
				if (any_case && (c == 'k' || c == 'K'))
					c = 0x212a;
				else if (any_case && c == 'i')
					c = 0x130;
				break;
			case 4:
				pattern->chars[pattern->n++] = '\\';
				pattern->chars[pattern->n++] = c;
				continue;
		}
		if (c == '%' || c == '_' || c == '\\')
			pattern->chars[pattern->n++] = '\\';
		pattern->chars[pattern->n++] = c;
	}
	if (tap_random() % 4 == 0)
		vary(pattern);
}

/*
 * Random pairs for LIKE or ILIKE.
 */
static void
check_like(LogqPatternKind kind, int npatterns)
{
	bool		any_case = kind == LOGQ_PATTERN_ILIKE;
	int			npairs = 0;
	int			nmatches = 0;
	int			nwords = 0;
	int			nwrong = 0;

	for (int i = 0; i < npatterns; i++)
	{
		Text		first;
		Text		pattern;
		Words		need = {0};
		char		pattern_bytes[MAX_BYTES];
		size_t		pattern_len;
		bool		escaped = false;

		random_text(&first);
		random_like(&pattern, &first, any_case);
		for (int c = 0; c < pattern.n; c++)
			escaped = !escaped && pattern.chars[c] == '\\';
		pattern_len = put_text(pattern_bytes, &pattern);
		logq_words_of_pattern(kind, pattern_bytes, pattern_len, collect,
							  &need);
		if (escaped)
		{
			nwrong += need.n > 0;
			continue;
		}

		for (int j = 0; j < 6; j++)
		{
			Text		text = first;
			Words		have = {0};
			char		bytes[MAX_BYTES];
			size_t		len;

			if (j > 0)
				vary(&text);
			len = put_text(bytes, &text);
			npairs++;
			if (!match_like(pattern.chars, pattern.n, text.chars, text.n,
							any_case) ||
				(any_case && logq_odd_case(bytes, len, true)))
				continue;
			nmatches++;
			nwords += need.n > 0;
			logq_words_of_text(bytes, len, collect, &have);
			if (!all_among(&need, &have) && nwrong++ == 0)
			{
				diagnose("pattern", pattern_bytes, pattern_len);
				diagnose("text", bytes, len);
			}
		}
	}
	ok(nwrong == 0, "%s: %d pairs, %d match, %d of these need words, %d "
	   "wrongly", kind_name[kind], npairs, nmatches, nwords, nwrong);
	ok(nmatches > npairs / 20 && nwords > nmatches / 20,
	   "%s: enough of them match and need words", kind_name[kind]);
}

/*
 * Put a string; returns how many bytes.
 */
static size_t
put_string(char *at, const char *string)
{
	size_t		len = strlen(string);

	memcpy(at, string, len);
	return len;
}

/*
 * A regular expression that the text, or a part of it, is likely to match,
 * once as PostgreSQL and once as the C library writes it.
 */
static void
random_regex(const Text *text, bool any_case, char *ours, char *theirs)
{
	static const char *const quantifiers[] = {
		"*", "+", "?", "{0,1}", "{1,2}", "{0}", "{1}", "{1,}", "{0,}"
	};
	/* what may stand between two characters anyway */
	static const char *const nothings[] = {
		"a*", "b?", "-*", ".*", "()", "(a|)", "( )*", "(ab){0,2}", "[ab]*",
		"[ -]?", "\\s*", "\\w*", "\\W*"
	};
	/* constraints in both languages */
	static const char *const constraints[][2] = {
		{"\\y", "\\b"}, {"\\Y", "\\B"}, {"\\m", "\\<"}, {"\\M", "\\>"},
		{"^", "^"}, {"$", "$"}
	};
	int			from = 0;
	int			to = text->n;
	int			depth = 0;
	/* the tamer, the more often words remain that are needed */
	int			tame = tap_random_int(1, 3);

	tame *= tame;
	if (tap_random() % 2 == 0)
	{
		from = tap_random_int(0, text->n);
		to = tap_random_int(from, text->n);
	}
	else if (tap_random() % 2 == 0)
	{
		*ours++ = '^';
		*theirs++ = '^';
	}

	for (int i = from; i < to; i++)
	{
		char		atom[64];
		size_t		len = 0;
		int			c = text->chars[i];
		bool		word = c < 0x80 && (isalnum(c) || c == '_');

		/* perhaps something before it */
		switch (tap_random() % (24 * tame))
		{
			case 0:
				{
					const char *nothing = nothings[tap_random_int(0, 12)];

					ours += put_string(ours, nothing);
					theirs += put_string(theirs, nothing);
					break;
				}
			case 1:
			case 2:
				{
					int			which = tap_random_int(0, 5);

					ours += put_string(ours, constraints[which][0]);
					theirs += put_string(theirs, constraints[which][1]);
					break;
				}
			case 3:
				*ours++ = '(';
				*theirs++ = '(';
				depth++;
				break;
		}
		/* where a word may begin or end, these often hold */
		if (tap_random() % 6 == 0)
		{
			bool		before = i > 0 && text->chars[i - 1] < 0x80 &&
				(isalnum(text->chars[i - 1]) || text->chars[i - 1] == '_');

			if (word && !before)
			{
				ours += put_string(ours, "\\m");
				theirs += put_string(theirs, "\\<");
			}
			else if (!word && before)
			{
				ours += put_string(ours, "\\y");
				theirs += put_string(theirs, "\\b");
			}
		}

		/* the character, or something in its place */
		switch (tap_random() % (20 * tame))
		{
			case 0:
				atom[len++] = '.';
				break;
			case 1:
				len = put_string(atom, word ? "\\w" : "\\W");
				break;
			case 2:
				len = put_string(atom, isspace(c) ? "\\s" : "\\S");
				break;
			case 3:
				atom[len++] = '[';
				if (c != '\\')
					len += put_char(atom + len, c);
				len += put_string(atom + len, tap_random() % 2 ? " :]" : "b]");
				break;
			case 4:
				len = put_string(atom, "[^b]");
				break;
			case 5:
				atom[len++] = '(';
				if (c >= 0x80 || isalnum(c) || c == '_' || c == ' ')
					len += put_char(atom + len, c);
				len += put_string(atom + len, tap_random() % 2 ? "|b)" : ")");
				break;
			case 6:
				len = put_string(atom, "[[:alnum:]_]");
				break;
			case 7:
				if (any_case && c < 0x80)
					c = isupper(c) ? tolower(c) : toupper(c);
				/* FALLTHROUGH */
			default:
				if (c < 0x80 && ispunct(c) && c != '_' && c != '-' && c != '%')
					atom[len++] = '\\';
				len += put_char(atom + len, c);
				break;
		}
		memcpy(ours, atom, len);
		ours += len;
		memcpy(theirs, atom, len);
		theirs += len;

		if (depth > 0 && tap_random() % 4 == 0)
		{
			if (tap_random() % 4 == 0)
			{
				ours += put_string(ours, "|b");
				theirs += put_string(theirs, "|b");
			}
			*ours++ = ')';
			*theirs++ = ')';
			depth--;
		}
		if (tap_random() % (8 * tame) == 0)
		{
			const char *quantifier = quantifiers[tap_random_int(0, 8)];

			ours += put_string(ours, quantifier);
			theirs += put_string(theirs, quantifier);
			/* the C library knows no reluctant ones */
			if (tap_random() % 4 == 0)
				*ours++ = '?';
		}
	}
	while (depth-- > 0)
	{
		*ours++ = ')';
		*theirs++ = ')';
	}
	if (tap_random() % 4 == 0)
	{
		*ours++ = '$';
		*theirs++ = '$';
	}
	*ours = '\0';
	*theirs = '\0';
}

/*
 * Random pairs for regular expressions.
 */
static void
check_regex(LogqPatternKind kind, int npatterns)
{
	bool		any_case = kind == LOGQ_PATTERN_IREGEX;
	int			npairs = 0;
	int			nmatches = 0;
	int			nwords = 0;
	int			nwrong = 0;
	int			ninvalid = 0;

	for (int i = 0; i < npatterns; i++)
	{
		Text		first;
		Words		need = {0};
		char		ours[MAX_BYTES];
		char		theirs[MAX_BYTES];
		regex_t		regex;

		random_text(&first);
		random_regex(&first, any_case, ours, theirs);
		logq_words_of_pattern(kind, ours, strlen(ours), collect, &need);
		if (regcomp(&regex, theirs, REG_EXTENDED | REG_NOSUB |
					(any_case ? REG_ICASE : 0)) != 0)
		{
			ninvalid++;
			continue;
		}

		for (int j = 0; j < 8; j++)
		{
			Text		text = first;
			Words		have = {0};
			char		bytes[MAX_BYTES];
			size_t		len;

			if (j > 0)
				vary(&text);
			len = put_text(bytes, &text);
			npairs++;
			if ((any_case && logq_odd_case(bytes, len, true)) ||
				regexec(&regex, bytes, 0, NULL, 0) != 0)
				continue;
			nmatches++;
			nwords += need.n > 0;
			logq_words_of_text(bytes, len, collect, &have);
			if (!all_among(&need, &have) && nwrong++ < 3)
			{
				diagnose("pattern", ours, strlen(ours));
				diagnose("text", bytes, len);
				diagnose("needs", join(&need), strlen(join(&need)));
			}
		}
		regfree(&regex);
	}
	ok(nwrong == 0, "%s: %d pairs, %d match, %d of these need words, %d "
	   "wrongly", kind_name[kind], npairs, nmatches, nwords, nwrong);
	ok(nmatches > npairs / 20 && nwords > nmatches / 100 &&
	   ninvalid < npatterns / 2,
	   "%s: enough of them match and need words (%d not valid)",
	   kind_name[kind], ninvalid);
}

/*
 * A text and what words it should have.
 */
static void
text_is(const char *text, size_t len, const char *expected)
{
	Words		words = {0};

	logq_words_of_text(text, len, collect, &words);
	if (!ok(strcmp(join(&words), expected) == 0, "words of a text: %s",
			expected))
		printf("#   are: %s\n", join(&words));
}

/*
 * Words of texts: known ones, and against a simple splitter.
 */
static void
check_texts(void)
{
	char		sized[200];
	int			nwrong = 0;

#define TEXT(s, expected) text_is(s, sizeof(s) - 1, expected)
	TEXT("", "");
	TEXT(" ", "");
	TEXT("Hello, World", "hello world");
	TEXT("a bc d", "bc");
	TEXT("snake_case __ _1 x", "snake_case __ _1");
	TEXT("10.0.0.17:8080", "10 17 8080");
	TEXT("caf\xc3\xa9 noir", "caf noir");
	TEXT("gr\xc3\xbc\xc3\x9f" "e AB", "gr ab");
	TEXT("ab\0cd", "ab cd");
	TEXT("[ERROR] user=\"bob\"", "error user bob");
	TEXT("AZaz09_`{@[/:^", "azaz09_");
#undef TEXT

	memset(sized, 'x', sizeof(sized));
	for (int len = LOGQ_WORD_MAX - 1; len <= 2 * LOGQ_WORD_MAX + 2; len++)
	{
		Words		words = {0};
		char		bytes[300];

		memcpy(bytes, sized, len);
		memcpy(bytes + len, " end", 4);
		logq_words_of_text(bytes, len + 4, collect, &words);
		nwrong += words.n != (len <= LOGQ_WORD_MAX ? 2 : 1) ||
			memcmp(words.word[words.n - 1], "end", 3) != 0;
		words.n = 0;
		logq_words_of_text(bytes, len, collect, &words);
		nwrong += words.n != (len <= LOGQ_WORD_MAX ? 1 : 0);
	}
	ok(nwrong == 0, "words that are too long are skipped whole");

	nwrong = 0;
	for (int i = 0; i < 200000; i++)
	{
		Words		words = {0};
		Words		expected = {0};
		unsigned char bytes[100];
		int			len = tap_random_int(0, sizeof(bytes));
		int			start = 0;
		bool		any = tap_random() % 2 == 0;

		for (int j = 0; j < len; j++)
			bytes[j] = any ? tap_random() % 256 :
				"abcXYZ019__ "[tap_random_int(0, tap_random() % 9 ? 10 : 11)];
		for (int j = 0; j <= len; j++)
		{
			char		lower[100];

			if (j < len && bytes[j] < 0x80 &&
				(isalnum(bytes[j]) || bytes[j] == '_'))
				continue;
			for (int k = start; k < j; k++)
				lower[k - start] = (char) tolower(bytes[k]);
			if (j - start >= LOGQ_WORD_MIN && j - start <= LOGQ_WORD_MAX)
				collect(&expected, lower, j - start);
			start = j + 1;
		}
		logq_words_of_text((char *) bytes, len, collect, &words);
		if (words.n != expected.n ||
			memcmp(words.len, expected.len, words.n * sizeof(size_t)) != 0 ||
			!all_among(&words, &expected) || !all_among(&expected, &words))
			nwrong++;
	}
	ok(nwrong == 0, "random texts have the words that a plain splitter finds");
}

/*
 * Texts that are odd, and texts that are not.
 */
static void
check_odd_case(void)
{
	static const struct
	{
		const char *text;
		bool		utf8;
		bool		odd;
	}			cases[] = {
		{"", true, false},
		{"plain ASCII of more than eight bytes", true, false},
		{"plain ASCII of more than eight bytes", false, false},
		{"\xc4\xb0", true, true},	/* I with a dot */
		{"\xc4\xb1", true, true},	/* i without */
		{"\xc4\xb2", true, false},
		{"\xc5\xbf", true, true},	/* long s */
		{"\xc5\xbe", true, false},
		{"\xe2\x84\xaa", true, true},	/* Kelvin sign */
		{"\xe2\x84\xab", true, false},	/* Angstrom sign */
		{"I\xcc\x87", true, true},	/* dot above */
		{"I\xcc\x86", true, false},
		{"caf\xc3\xa9", true, false},
		{"caf\xc3\xa9", false, true},
		{"caf\xe9", false, true},
		{"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", true, false},
		{"\xf0\x9f\x98\x80", true, false},
		/* cut off */
		{"\xc4", true, false},
		{"\xe2\x84", true, false},
	};
	int			nwrong = 0;

	for (int i = 0; i < (int) (sizeof(cases) / sizeof(cases[0])); i++)
	{
		if (logq_odd_case(cases[i].text, strlen(cases[i].text),
						  cases[i].utf8) != cases[i].odd)
		{
			nwrong++;
			printf("#   case %d\n", i);
		}
		/* at every distance from the start */
		for (int before = 0; before < 20; before++)
		{
			char		bytes[100];

			memset(bytes, 'x', sizeof(bytes));
			memcpy(bytes + before, cases[i].text, strlen(cases[i].text));
			nwrong += logq_odd_case(bytes, sizeof(bytes),
									cases[i].utf8) != cases[i].odd;
		}
	}
	ok(nwrong == 0, "letters with an odd case are found, and no others");
}

/*
 * Patterns and the words that they need.
 */
static void
check_patterns(void)
{
#define EQUAL LOGQ_PATTERN_EQUAL
#define LIKE LOGQ_PATTERN_LIKE
#define ILIKE LOGQ_PATTERN_ILIKE
#define REGEX LOGQ_PATTERN_REGEX
#define IREGEX LOGQ_PATTERN_IREGEX
	static const struct
	{
		LogqPatternKind kind;
		const char *pattern;
		const char *words;
	}			cases[] = {
		{EQUAL, "", ""},
		{EQUAL, "User 42 logged in", "user 42 logged in"},
		{EQUAL, "50%\\_of", "50 _of"},

		{LIKE, "", ""},
		{LIKE, "%", ""},
		{LIKE, "timeout", "timeout"},
		{LIKE, "%timeout%", ""},
		{LIKE, "%timeout", ""},
		{LIKE, "timeout%", ""},
		{LIKE, "% timeout %", "timeout"},
		{LIKE, "% timeout", "timeout"},
		{LIKE, "timeout %", "timeout"},
		{LIKE, "%read timeout exceeded%", "timeout"},
		{LIKE, "Read Timeout Exceeded", "read timeout exceeded"},
		{LIKE, "a b cd", "cd"},
		{LIKE, "_ab cd_", ""},
		{LIKE, "_ab cd ef_", "cd"},
		{LIKE, "%ab\\_cd%", ""},
		{LIKE, "% ab\\_cd %", "ab_cd"},
		{LIKE, "%\\%ab\\%%", "ab"},
		{LIKE, "%\\\\ab\\\\%", "ab"},
		{LIKE, "% \\a\\b %", "ab"},
		{LIKE, "% ab \\", ""},
		{LIKE, "% ab \\\\", "ab"},
		{LIKE, "ab\\", ""},
		{LIKE, "% caf\xc3\xa9 %", "caf"},
		{LIKE, "%\xc3\xa9toile %", "toile"},
		{LIKE, "%\\\xc3\xa9toile %", "toile"},
		{LIKE, "% ab% %cd %", ""},
		{LIKE, "% ab %% cd %", "ab cd"},

		{ILIKE, "% TimeOut %", "timeout"},
		{ILIKE, "%timeout%", ""},
		{ILIKE, "% caf\xc3\xa9 %", ""},
		{ILIKE, "% xy caf\xc3\xa9 zz %", "xy zz"},
		{ILIKE, "\xe2\x84\xaa" "elvin ab", "ab"},
		{ILIKE, "ab \xe2\x84\xaa", "ab"},
		{ILIKE, "ab\xe2\x84\xaa cd", "cd"},

		{REGEX, "", ""},
		{REGEX, "timeout", ""},
		{REGEX, "^timeout$", "timeout"},
		{REGEX, "^timeout", ""},
		{REGEX, "timeout$", ""},
		{REGEX, "^read timeout", "read"},
		{REGEX, "read timeout$", "timeout"},
		{REGEX, " timeout ", "timeout"},
		{REGEX, "\\ytimeout\\y", "timeout"},
		{REGEX, "\\mtimeout\\M", "timeout"},
		{REGEX, "\\Atimeout\\Z", "timeout"},
		{REGEX, "\\Ytimeout\\Y", ""},
		{REGEX, "\\<timeout\\>", "timeout"},
		{REGEX, "[[:<:]]timeout[[:>:]]", ""},
		{REGEX, ".*\\ytimeout\\y.*", "timeout"},
		{REGEX, "x\\ytimeout\\yx", "timeout"},
		{REGEX, "\\y.timeout\\y", ""},
		{REGEX, "\\yt?imeout\\y", ""},
		{REGEX, "\\ytimeout?\\y", ""},
		{REGEX, "\\ytimeouts?\\y", ""},
		{REGEX, "\\ytimeouts*?\\y", ""},
		{REGEX, "\\ytimeout+\\y", ""},
		{REGEX, "\\ytimeout{2}\\y", ""},
		{REGEX, "\\ytimeout{2,3}?\\y", ""},
		{REGEX, "\\ytimeout{ \\y", "timeout"},
		{REGEX, "\\ytimeout{,3} \\y", "timeout"},
		{REGEX, " ab{1", ""},
		{REGEX, " ab {3,2}cd ", ""},
		{REGEX, " ab {256}cd ", ""},
		{REGEX, "\\s+timeout\\s+", "timeout"},
		{REGEX, "\\s*timeout\\s*", ""},
		{REGEX, "\\Wtimeout\\W", "timeout"},
		{REGEX, "\\wtimeout\\w", ""},
		{REGEX, "\\Stimeout\\S", ""},
		{REGEX, "\\dtimeout\\D", ""},
		{REGEX, " ab -+ cd ", "ab cd"},
		{REGEX, " ab+ cd ", "cd"},
		{REGEX, " ab *cd ", ""},
		{REGEX, " ab ?cd ", ""},
		{REGEX, " ab {1,2}cd ", "ab cd"},
		{REGEX, " ab {0,2}cd ", ""},
		{REGEX, " ab {0}cd ", ""},
		{REGEX, "user=\\w+ id=\\d+ took", "id"},
		{REGEX, "(error|warning) in module x1 ", "in module x1"},
		{REGEX, "error in module|ab in cd", ""},
		{REGEX, " ab (cd) ef ", "ab cd ef"},
		{REGEX, " ab( cd )ef ", "ab cd ef"},
		{REGEX, " ab(cd)ef ", "abcdef"},
		{REGEX, " ab(cd)?ef ", ""},
		{REGEX, " ab (cd )?ef ", "ab"},
		{REGEX, " ab ( cd )+ ef ", "ab ef"},
		{REGEX, " ab ((cd) ef (gh|ij) kl) ", "ab cd ef kl"},
		{REGEX, " ab ((cd) ef (gh|ij) kl)* mn ", "ab mn"},
		{REGEX, " ab()cd ", "abcd"},
		{REGEX, " ab (cd ", ""},
		{REGEX, " ab cd) ", ""},
		{REGEX, " ab (cd|) ef", "ab"},
		{REGEX, " ab (?:cd) ", ""},
		{REGEX, "(?i) ab ", ""},
		{REGEX, "***= ab ", ""},
		{REGEX, "***: ab ", ""},
		{REGEX, " ab (?=cd) ef ", ""},
		{REGEX, " ab (cd) \\1 ", ""},
		{REGEX, " ab \\x41 cd ", ""},
		{REGEX, " ab \\u0041 cd ", ""},
		{REGEX, " ab \\cA cd ", ""},
		{REGEX, " ab \\0 cd ", ""},
		{REGEX, " ab \\q cd ", ""},
		{REGEX, " ab \\", ""},
		{REGEX, " ab\\tcd\\n", "ab cd"},
		{REGEX, " ab\\.cd\\.", "ab cd"},
		{REGEX, " ab\\_cd ", "ab_cd"},
		{REGEX, " ab.cd ", ""},
		{REGEX, " ab[.]cd ", "ab cd"},
		{REGEX, " ab[ :=]+cd ", "ab cd"},
		{REGEX, " ab[]/]cd ", "ab cd"},
		{REGEX, " ab[^ ]cd ", ""},
		{REGEX, " ab[^]]cd ef ", "ef"},
		{REGEX, " ab[ -z]cd ", ""},
		{REGEX, " ab[ x]cd ", ""},
		{REGEX, " ab[\\] cd ] ef ", "ef"},
		{REGEX, " ab[\\c] cd ] ef ", ""},
		{REGEX, " ab[[:space:]] cd ", "cd"},
		{REGEX, " ab[[:alpha:] cd ] ef ", "ef"},
		{REGEX, " ab[[:alfa:]] cd ef ", ""},
		{REGEX, " ab[[:alpha:", ""},
		{REGEX, " ab[a-z0-9_-]cd ef ", "ef"},
		{REGEX, " ab[z-a]cd ef ", ""},
		{REGEX, " ab[a-c-e]cd ef ", ""},
		{REGEX, " ab[a-\\]cd ] ef ", ""},
		{REGEX, " ab[ -]cd[-:]ef[,--]gh", ""},
		{REGEX, " ab[ -]cd[-:]ef[--]gh ", "ab cd ef gh"},
		{REGEX, " ab[\\d.]cd ef ", "ef"},
		{REGEX, " ab[\\1]cd ef ", ""},
		{REGEX, " ab[[.-.]] cd ", ""},
		{REGEX, " ab[[] cd ", "ab cd"},
		{REGEX, " ab[ cd ", ""},
		{REGEX, " ab ** cd ", ""},
		{REGEX, " ab *+ cd ", ""},
		{REGEX, "* ab cd ", ""},
		{REGEX, " ab ^* cd ", ""},
		{REGEX, " ab \\y? cd ", ""},
		{REGEX, " ab (* cd )", ""},
		{REGEX, " ab caf\xc3\xa9 cd ", "ab caf cd"},
		{REGEX, " ab caf\xc3\xa9? cd ", "ab cd"},
		{REGEX, " ab caf\xc3\xa9+ cd ", "ab caf cd"},
		{REGEX, " ab caf\xc3\xa9\xc3\xa9{0,2} cd ", "ab cd"},
		{REGEX, " ab \\\xc3\xa9 cd ", ""},

		{IREGEX, " TimeOut ", "timeout"},
		{IREGEX, " ab caf\xc3\xa9 cd ", "ab cd"},
		{IREGEX, " ab\xe2\x84\xaa cd ", "cd"},
		{IREGEX, " ab\xe2\x84\xaa+ cd ", "cd"},
		{IREGEX, " AB[ \xe2\x84\xaa]CD EF ", "ef"},
		{IREGEX, "\\yab\\y", "ab"},
	};
	char		pattern[5000];
	Words		words = {0};

	for (int i = 0; i < (int) (sizeof(cases) / sizeof(cases[0])); i++)
	{
		words.n = 0;
		logq_words_of_pattern(cases[i].kind, cases[i].pattern,
							  strlen(cases[i].pattern), collect, &words);
		if (!ok(strcmp(join(&words), cases[i].words) == 0, "%s %d: \"%s\"",
				kind_name[cases[i].kind], i, cases[i].words))
		{
			diagnose("pattern", cases[i].pattern, strlen(cases[i].pattern));
			diagnose("are", join(&words), strlen(join(&words)));
		}
	}

	/* words of all lengths, bounded on both sides */
	for (int len = LOGQ_WORD_MAX - 1; len <= LOGQ_WORD_MAX + 1; len++)
	{
		memset(pattern, 'x', sizeof(pattern));
		pattern[0] = pattern[len + 1] = ' ';
		for (LogqPatternKind kind = EQUAL; kind <= IREGEX; kind++)
		{
			words.n = 0;
			logq_words_of_pattern(kind, pattern, len + 2, collect, &words);
			ok(words.n == (len <= LOGQ_WORD_MAX), "%s: a word of %d bytes",
			   kind_name[kind], len);
		}
	}

	/* too long, and nested too deeply, to be looked at */
	memset(pattern, ' ', sizeof(pattern));
	memcpy(pattern, "\\yab\\y", 6);
	words.n = 0;
	logq_words_of_pattern(REGEX, pattern, 4096, collect, &words);
	ok(words.n == 1, "a long regular expression");
	words.n = 0;
	logq_words_of_pattern(REGEX, pattern, 4097, collect, &words);
	ok(words.n == 0, "one that is too long");
	for (int depth = 32; depth <= 33; depth++)
	{
		memcpy(pattern, " ab ", 4);
		memset(pattern + 4, '(', depth);
		memset(pattern + 4 + depth, ')', depth);
		words.n = 0;
		logq_words_of_pattern(REGEX, pattern, 4 + 2 * depth, collect,
							  &words);
		ok(words.n == (depth == 32), "%d groups in each other", depth);
	}
}

int
main(void)
{
	tap_seed();
	check_texts();
	check_odd_case();
	check_patterns();
	check_like(LOGQ_PATTERN_LIKE, 150000);
	check_like(LOGQ_PATTERN_ILIKE, 150000);
	if (setlocale(LC_ALL, "C.UTF-8") == NULL)
		printf("# there is no locale C.UTF-8: characters are bytes here\n");
	check_regex(LOGQ_PATTERN_REGEX, 80000);
	check_regex(LOGQ_PATTERN_IREGEX, 80000);
	return tap_done();
}
