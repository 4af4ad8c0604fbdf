/*-------------------------------------------------------------------------
 *
 * words.h
 *		Words of messages, and words that a pattern cannot do without.
 *
 * A word is a longest run of ASCII letters, digits and underscores, from
 * LOGQ_WORD_MIN to LOGQ_WORD_MAX bytes, its letters taken as lower case.  All
 * else, every byte above 127 included, separates words.  Plain C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_WORDS_H
#define LOGQ_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#define LOGQ_WORD_MIN 2
#define LOGQ_WORD_MAX 64

/* called for each word, in lower case, not ending in a zero byte */
typedef void (*LogqWordFunction) (void *arg, const char *word, size_t len);

extern void logq_words_of_text(const char *text, size_t len,
							   LogqWordFunction function, void *arg);

/*
 * Has the text letters beyond ASCII whose lower case may be in ASCII, or the
 * other way round?  A comparison that ignores case can then match it although
 * it lacks the word.  In encodings other than UTF-8 any byte above 127.
 */
extern bool logq_odd_case(const char *text, size_t len, bool utf8);

typedef enum LogqPatternKind
{
	LOGQ_PATTERN_EQUAL,			/* the whole text */
	LOGQ_PATTERN_LIKE,			/* escape character is the backslash */
	LOGQ_PATTERN_ILIKE,
	LOGQ_PATTERN_REGEX,			/* of PostgreSQL (ARE) */
	LOGQ_PATTERN_IREGEX			/* ~* */
} LogqPatternKind;

/*
 * Words that every text which matches the pattern has as whole words.  Gives
 * up rather than be wrong: none at all is a right answer.
 */
extern void logq_words_of_pattern(LogqPatternKind kind, const char *pattern,
								  size_t len, LogqWordFunction function,
								  void *arg);

#endif							/* LOGQ_WORDS_H */
