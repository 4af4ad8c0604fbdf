/*-------------------------------------------------------------------------
 *
 * words.c
 *		Words of messages, and words that a pattern cannot do without.
 *
 * Segments whose filter lacks a word of the pattern are not asked.  So a word
 * that is named here although some matching text does not have it, as a whole
 * word, makes answers wrong, silently.  That is the one thing that must never
 * happen; finding no word only costs time.
 *
 * A pattern is taken as a sequence of cells:
 *
 *		a word byte		each matching text has it here, in some case
 *		a boundary		each matching text has no word byte between, or a
 *						separator, or its start or end is here
 *		unknown			anything, even nothing
 *
 * and a word counts if there are boundaries directly on both sides of it.
 * Everything that is not understood is unknown, or ends the search.
 *
 * Case: words are in lower case, so that patterns which ignore case can be
 * answered too.  For these an ASCII letter of the pattern may also stand for
 * a letter beyond ASCII (the Kelvin sign is a k); logq_odd_case() tells of
 * texts with such letters, whose segments the words say nothing about.  All
 * this holds for deterministic collations only.
 *
 * The definition of a word is part of the format of filters: it must not
 * change without a new version of theirs.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <string.h>

#include "words.h"

/* a regular expression that is longer is not looked at */
#define MAX_REGEX 4096
/* nor is one of which groups are nested deeper */
#define MAX_GROUPS 32

/* cells other than word bytes, which stand for themselves in lower case */
#define CELL_UNKNOWN 1
#define CELL_BOUNDARY 2

/* the lower case of each byte that words are made of, 0 for all others */
static const unsigned char word_byte[256] = {
	['0'] = '0', ['1'] = '1', ['2'] = '2', ['3'] = '3', ['4'] = '4',
	['5'] = '5', ['6'] = '6', ['7'] = '7', ['8'] = '8', ['9'] = '9',
	['_'] = '_',
	['A'] = 'a', ['B'] = 'b', ['C'] = 'c', ['D'] = 'd', ['E'] = 'e',
	['F'] = 'f', ['G'] = 'g', ['H'] = 'h', ['I'] = 'i', ['J'] = 'j',
	['K'] = 'k', ['L'] = 'l', ['M'] = 'm', ['N'] = 'n', ['O'] = 'o',
	['P'] = 'p', ['Q'] = 'q', ['R'] = 'r', ['S'] = 's', ['T'] = 't',
	['U'] = 'u', ['V'] = 'v', ['W'] = 'w', ['X'] = 'x', ['Y'] = 'y',
	['Z'] = 'z',
	['a'] = 'a', ['b'] = 'b', ['c'] = 'c', ['d'] = 'd', ['e'] = 'e',
	['f'] = 'f', ['g'] = 'g', ['h'] = 'h', ['i'] = 'i', ['j'] = 'j',
	['k'] = 'k', ['l'] = 'l', ['m'] = 'm', ['n'] = 'n', ['o'] = 'o',
	['p'] = 'p', ['q'] = 'q', ['r'] = 'r', ['s'] = 's', ['t'] = 't',
	['u'] = 'u', ['v'] = 'v', ['w'] = 'w', ['x'] = 'x', ['y'] = 'y',
	['z'] = 'z'
};

/* a word that is being put together from cells */
typedef struct Gatherer
{
	LogqWordFunction function;
	void	   *arg;
	bool		bounded;		/* is there a boundary before it? */
	size_t		len;			/* may go beyond the buffer */
	char		word[LOGQ_WORD_MAX];
} Gatherer;

/* a regular expression and the cells that it comes to */
typedef struct Regex
{
	const unsigned char *at;
	const unsigned char *end;
	bool		any_case;
	size_t		ncells;
	int			ngroups;		/* open ones */
	struct
	{
		size_t		start;		/* its first cell */
		bool		branches;	/* has it alternatives? */
	}			groups[MAX_GROUPS];
	unsigned char cells[MAX_REGEX];
} Regex;

/* how often an atom occurs */
typedef enum Repeat
{
	REPEAT_ONCE,
	REPEAT_SOME,				/* at least once */
	REPEAT_ANY,					/* perhaps not at all */
	REPEAT_WRONG				/* not a valid quantifier */
} Repeat;

/*
 * Call the function for each word of a text.
 */
void
logq_words_of_text(const char *text, size_t len, LogqWordFunction function,
				   void *arg)
{
	const unsigned char *at = (const unsigned char *) text;
	size_t		i = 0;
	char		word[LOGQ_WORD_MAX];

	while (i < len)
	{
		size_t		most;
		size_t		n = 0;
		unsigned char c;

		if (word_byte[at[i]] == 0)
		{
			i++;
			continue;
		}

		most = len - i < LOGQ_WORD_MAX ? len - i : LOGQ_WORD_MAX;
		while (n < most && (c = word_byte[at[i + n]]) != 0)
			word[n++] = (char) c;
		i += n;

		/* too long: none of it is a word */
		if (n == LOGQ_WORD_MAX && i < len && word_byte[at[i]] != 0)
		{
			while (i < len && word_byte[at[i]] != 0)
				i++;
			continue;
		}
		if (n >= LOGQ_WORD_MIN)
			function(arg, word, n);
	}
}

/*
 * Are there letters that a comparison without case may take for ASCII ones,
 * or marks that it may drop?
 *
 * In UTF-8 these are U+0130 and U+0131 (I with, i without a dot), U+017F
 * (long s), U+212A (Kelvin sign), and U+0307, the dot above, which lower() in
 * Turkish takes off a capital I.
 */
bool
logq_odd_case(const char *text, size_t len, bool utf8)
{
	const unsigned char *at = (const unsigned char *) text;
	size_t		i = 0;

	while (i < len)
	{
		uint64_t	eight;

		/* nearly all logs are ASCII for long stretches */
		if (len - i >= sizeof(eight))
		{
			memcpy(&eight, at + i, sizeof(eight));
			if ((eight & UINT64_C(0x8080808080808080)) == 0)
			{
				i += sizeof(eight);
				continue;
			}
		}
		if (at[i] < 0x80)
		{
			i++;
			continue;
		}
		if (!utf8)
			return true;
		if (len - i >= 2 &&
			((at[i] == 0xc4 && (at[i + 1] == 0xb0 || at[i + 1] == 0xb1)) ||
			 (at[i] == 0xc5 && at[i + 1] == 0xbf) ||
			 (at[i] == 0xcc && at[i + 1] == 0x87)))
			return true;
		if (len - i >= 3 && at[i] == 0xe2 && at[i + 1] == 0x84 &&
			at[i + 2] == 0xaa)
			return true;
		i++;
	}
	return false;
}

/*
 * Take a cell; a boundary finishes a word.
 */
static void
gather(Gatherer *gatherer, unsigned char cell)
{
	if (cell != CELL_UNKNOWN && cell != CELL_BOUNDARY)
	{
		if (gatherer->len < LOGQ_WORD_MAX)
			gatherer->word[gatherer->len] = (char) cell;
		gatherer->len++;
		return;
	}
	if (cell == CELL_BOUNDARY && gatherer->bounded &&
		gatherer->len >= LOGQ_WORD_MIN && gatherer->len <= LOGQ_WORD_MAX)
		gatherer->function(gatherer->arg, gatherer->word, gatherer->len);
	gatherer->bounded = cell == CELL_BOUNDARY;
	gatherer->len = 0;
}

/*
 * The cell of a byte of a pattern that stands for itself.
 *
 * A byte beyond ASCII belongs to a letter that, without case, may match an
 * ASCII one.
 */
static unsigned char
literal_cell(unsigned char byte, bool any_case)
{
	if (word_byte[byte] != 0)
		return word_byte[byte];
	return byte >= 0x80 && any_case ? CELL_UNKNOWN : CELL_BOUNDARY;
}

/*
 * LIKE and ILIKE, whose pattern is of the whole text.
 */
static void
words_of_like(Gatherer *gatherer, const unsigned char *pattern, size_t len,
			  bool any_case)
{
	size_t		i;

	/* one that ends in its escape is an error, which is not ours to hide */
	for (i = 0; i < len; i++)
	{
		if (pattern[i] == '\\' && ++i == len)
			return;
	}

	gather(gatherer, CELL_BOUNDARY);
	for (i = 0; i < len; i++)
	{
		if (pattern[i] == '%' || pattern[i] == '_')
			gather(gatherer, CELL_UNKNOWN);
		else
		{
			if (pattern[i] == '\\')
				i++;
			gather(gatherer, literal_cell(pattern[i], any_case));
		}
	}
	gather(gatherer, CELL_BOUNDARY);
}

/*
 * Is there a bound such as {3} or {1,2} here?  Any other brace is a literal.
 */
static bool
at_bound(const Regex *regex)
{
	return regex->end - regex->at >= 2 && regex->at[0] == '{' &&
		regex->at[1] >= '0' && regex->at[1] <= '9';
}

/*
 * Read a number of a bound; false if it is beyond what PostgreSQL takes.
 */
static bool
read_number(Regex *regex, int *number)
{
	*number = 0;
	while (regex->at < regex->end && *regex->at >= '0' && *regex->at <= '9')
	{
		*number = *number * 10 + (*regex->at++ - '0');
		if (*number > 255)
			return false;
	}
	return true;
}

/*
 * Read a bound.
 */
static Repeat
read_bound(Regex *regex)
{
	int			low;
	int			high;

	regex->at++;
	if (!read_number(regex, &low))
		return REPEAT_WRONG;
	high = low;
	if (regex->at < regex->end && *regex->at == ',')
	{
		regex->at++;
		if (regex->at < regex->end && *regex->at == '}')
			high = 255;
		else if (regex->at == regex->end || *regex->at < '0' ||
				 *regex->at > '9' || !read_number(regex, &high))
			return REPEAT_WRONG;
	}
	if (regex->at == regex->end || *regex->at != '}' || high < low)
		return REPEAT_WRONG;
	regex->at++;
	return low == 0 ? REPEAT_ANY : REPEAT_SOME;
}

/*
 * Read a quantifier if there is one.
 */
static Repeat
read_quantifier(Regex *regex)
{
	Repeat		repeat = REPEAT_ONCE;

	if (regex->at == regex->end)
		return REPEAT_ONCE;
	if (*regex->at == '*' || *regex->at == '?')
	{
		regex->at++;
		repeat = REPEAT_ANY;
	}
	else if (*regex->at == '+')
	{
		regex->at++;
		repeat = REPEAT_SOME;
	}
	else if (at_bound(regex))
		repeat = read_bound(regex);

	/* the reluctant ones match the same texts */
	if (repeat != REPEAT_ONCE && regex->at < regex->end && *regex->at == '?')
		regex->at++;
	return repeat;
}

/*
 * Take an atom of one cell, and what quantifies it.
 *
 * A separator that occurs at least once leaves nothing but separators beside
 * its neighbours, so it remains a boundary.  Of all else we no longer know
 * what comes next to it.
 */
static bool
add_atom(Regex *regex, unsigned char cell)
{
	Repeat		repeat = read_quantifier(regex);

	if (repeat == REPEAT_WRONG)
		return false;
	if (repeat == REPEAT_ANY ||
		(repeat == REPEAT_SOME && cell != CELL_BOUNDARY))
		cell = CELL_UNKNOWN;
	regex->cells[regex->ncells++] = cell;
	return true;
}

/*
 * Skip the name of a class such as [:alpha:] in a bracket expression.  What
 * else may be within two brackets is not known here.
 */
static bool
skip_class(Regex *regex)
{
	static const char *const classes[] = {
		"[:alnum:]", "[:alpha:]", "[:blank:]", "[:cntrl:]", "[:digit:]",
		"[:graph:]", "[:lower:]", "[:print:]", "[:punct:]", "[:space:]",
		"[:upper:]", "[:xdigit:]"
	};

	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
	{
		size_t		len = strlen(classes[i]);

		if ((size_t) (regex->end - regex->at) >= len &&
			memcmp(regex->at, classes[i], len) == 0)
		{
			regex->at += len;
			return true;
		}
	}
	return false;
}

/*
 * Take a bracket expression, of which regex->at is behind the bracket.
 *
 * One that has only some ASCII separators is one of these.  Any other is
 * unknown, and all that matters is where it ends.
 */
static bool
add_bracket(Regex *regex)
{
	const unsigned char *start;
	bool		separators = true;

	if (regex->at < regex->end && *regex->at == '^')
	{
		regex->at++;
		separators = false;
	}
	start = regex->at;
	while (regex->at < regex->end)
	{
		unsigned char c = *regex->at;
		size_t		left = regex->end - regex->at;

		if (c == ']' && regex->at > start)
		{
			regex->at++;
			return add_atom(regex,
							separators ? CELL_BOUNDARY : CELL_UNKNOWN);
		}
		if (c == '[' && left >= 2 &&
			(regex->at[1] == ':' || regex->at[1] == '.' ||
			 regex->at[1] == '='))
		{
			if (!skip_class(regex))
				return false;
			separators = false;
			continue;
		}
		if (c == '\\')
		{
			/* of those with a letter only the common ones: \c takes more */
			if (left < 2 || regex->at[1] >= 0x80 ||
				(word_byte[regex->at[1]] != 0 &&
				 strchr("dswnrtfv_", regex->at[1]) == NULL))
				return false;
			regex->at += 2;
			separators = false;
			continue;
		}
		if (word_byte[c] != 0 && left >= 3 && regex->at[1] == '-' &&
			regex->at[2] != ']')
		{
			/* a range, as everybody writes them */
			if (word_byte[regex->at[2]] == 0 || regex->at[2] < c)
				return false;
			regex->at += 3;
			separators = false;
			continue;
		}
		/* any other range; first and last it is a minus sign */
		if (c == '-' && regex->at > start && left >= 2 &&
			regex->at[1] != ']')
			return false;
		if (c >= 0x80 || word_byte[c] != 0)
			separators = false;
		regex->at++;
	}
	return false;
}

/*
 * Take a constraint, which matches no character.  Nothing may quantify it.
 *
 * Where a text begins or ends, no word goes on.  \y, \m and \M say that one
 * neighbour is a letter, digit or underscore in the sense of the locale and
 * the other is not; if the pattern has a word byte on one side, which is one
 * in every locale, then what is on the other side is not a word byte.
 */
static bool
add_constraint(Regex *regex, unsigned char cell)
{
	if (read_quantifier(regex) != REPEAT_ONCE)
		return false;
	regex->cells[regex->ncells++] = cell;
	return true;
}

/*
 * Take an escape, of which regex->at is behind the backslash.
 */
static bool
add_escape(Regex *regex)
{
	unsigned char c;

	if (regex->at == regex->end || *regex->at >= 0x80)
		return false;
	c = *regex->at++;
	switch (c)
	{
		case 'A':				/* start of the text */
		case 'Z':				/* its end */
		case 'm':				/* start of a word */
		case 'M':				/* end of a word */
		case 'y':				/* either */
			return add_constraint(regex, CELL_BOUNDARY);
		case 'Y':
			return add_constraint(regex, CELL_UNKNOWN);
		case 's':				/* no locale has white space, or a character
								 * that is not alphanumeric, among ASCII's
								 * letters, digits and the underscore */
		case 'W':
		case 'a':				/* control characters and the backslash */
		case 'b':
		case 'B':
		case 'e':
		case 'f':
		case 'n':
		case 'r':
		case 't':
		case 'v':
			return add_atom(regex, CELL_BOUNDARY);
		case 'd':
		case 'D':
		case 'S':
		case 'w':
			return add_atom(regex, CELL_UNKNOWN);
		case '_':
			return add_atom(regex, '_');
		default:
			/* numbers of characters, back references and mistakes */
			if (word_byte[c] != 0)
				return false;
			return add_atom(regex, CELL_BOUNDARY);
	}
}

/*
 * Take the end of a group: what is in it remains known only if it occurs
 * once and has no alternatives.
 */
static bool
add_group_end(Regex *regex)
{
	Repeat		repeat;

	if (regex->ngroups == 0)
		return false;
	repeat = read_quantifier(regex);
	if (repeat == REPEAT_WRONG)
		return false;
	regex->ngroups--;
	if (repeat != REPEAT_ONCE || regex->groups[regex->ngroups].branches)
	{
		/* an empty group makes room for its cell by its parentheses */
		regex->ncells = regex->groups[regex->ngroups].start;
		regex->cells[regex->ncells++] = CELL_UNKNOWN;
	}
	return true;
}

/*
 * Turn a regular expression into cells; false if there is something in it
 * that is not known here, or wrong.  Each cell comes from at least one byte.
 */
static bool
read_regex(Regex *regex)
{
	while (regex->at < regex->end)
	{
		unsigned char c = *regex->at;

		/* a quantifier where it has nothing to quantify */
		if (c == '*' || c == '+' || c == '?' || at_bound(regex))
			return false;
		regex->at++;
		switch (c)
		{
			case '|':
				/* of alternatives all would have to agree on a word */
				if (regex->ngroups == 0)
					return false;
				regex->groups[regex->ngroups - 1].branches = true;
				break;
			case '(':
				/* options, look-around, comments */
				if (regex->at < regex->end && *regex->at == '?')
					return false;
				if (regex->ngroups == MAX_GROUPS)
					return false;
				regex->groups[regex->ngroups].start = regex->ncells;
				regex->groups[regex->ngroups++].branches = false;
				break;
			case ')':
				if (!add_group_end(regex))
					return false;
				break;
			case '[':
				if (!add_bracket(regex))
					return false;
				break;
			case '\\':
				if (!add_escape(regex))
					return false;
				break;
			case '^':
			case '$':
				/*
				 * Start and end of the text.  In expressions that know lines
				 * a newline would be there, which is a separator too.
				 */
				if (!add_constraint(regex, CELL_BOUNDARY))
					return false;
				break;
			case '.':
				if (!add_atom(regex, CELL_UNKNOWN))
					return false;
				break;
			default:
				/*
				 * A quantifier is for the whole of a character of several
				 * bytes.  How many these are is for the encoding to say, so
				 * all characters beyond ASCII in a row are taken as one.
				 */
				while (c >= 0x80 && regex->at < regex->end &&
					   *regex->at >= 0x80)
					regex->at++;
				if (!add_atom(regex, literal_cell(c, regex->any_case)))
					return false;
				break;
		}
	}
	return regex->ngroups == 0;
}

/*
 * Call the function for words that no text can lack which matches a pattern.
 * A word may come more than once.
 */
void
logq_words_of_pattern(LogqPatternKind kind, const char *pattern, size_t len,
					  LogqWordFunction function, void *arg)
{
	Gatherer	gatherer;
	Regex		regex;

	gatherer.function = function;
	gatherer.arg = arg;
	gatherer.bounded = false;
	gatherer.len = 0;

	switch (kind)
	{
		case LOGQ_PATTERN_EQUAL:
			logq_words_of_text(pattern, len, function, arg);
			break;

		case LOGQ_PATTERN_LIKE:
		case LOGQ_PATTERN_ILIKE:
			words_of_like(&gatherer, (const unsigned char *) pattern, len,
						  kind == LOGQ_PATTERN_ILIKE);
			break;

		case LOGQ_PATTERN_REGEX:
		case LOGQ_PATTERN_IREGEX:
			if (len > MAX_REGEX)
				break;
			regex.at = (const unsigned char *) pattern;
			regex.end = regex.at + len;
			regex.any_case = kind == LOGQ_PATTERN_IREGEX;
			regex.ncells = 0;
			regex.ngroups = 0;
			if (!read_regex(&regex))
				break;
			/* a match begins and ends anywhere: no boundary there */
			for (size_t i = 0; i < regex.ncells; i++)
				gather(&gatherer, regex.cells[i]);
			break;
	}
}
