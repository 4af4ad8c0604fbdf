/*-------------------------------------------------------------------------
 *
 * compat_json.h
 *		What differs between PostgreSQL 15 and 18 in the JSON lexer.
 *
 * Beside compat.h, since the parser of messages is also compiled as frontend
 * code, for tests.  To be included after postgres.h or postgres_fe.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_COMPAT_JSON_H
#define LOGQ_COMPAT_JSON_H

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

/*
 * Set up a lexer over UTF-8 text, without allocating anything, and without
 * unescaping: so lexing can only return codes, in all versions.  In 15 with
 * unescaping it could also throw, in a database that is not UTF-8.
 */
static inline void
logq_json_lexer_init(JsonLexContext *lex, const char *text, int len)
{
#if PG_VERSION_NUM >= 170000
	makeJsonLexContextCstringLen(lex, text, len, PG_UTF8, false);
#else
	memset(lex, 0, sizeof(*lex));
	lex->input = (char *) text;
	lex->input_length = len;
	lex->input_encoding = PG_UTF8;
	lex->token_terminator = lex->input;
	lex->line_start = lex->input;
	lex->line_number = 1;
#endif
}

#ifdef FRONTEND
/*
 * For tests: does PostgreSQL's own parser take this text, with all escapes?
 */
static inline bool
logq_json_accepts(const char *text, int len)
{
	JsonLexContext *lex;
	bool		accepts;

#if PG_VERSION_NUM >= 170000
	lex = makeJsonLexContextCstringLen(NULL, text, len, PG_UTF8, true);
	accepts = pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
	freeJsonLexContext(lex);
#else
	lex = makeJsonLexContextCstringLen((char *) text, len, PG_UTF8, true);
	accepts = pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
	pfree(lex->strval->data);
	pfree(lex->strval);
	pfree(lex);
#endif
	return accepts;
}
#endif

#endif							/* LOGQ_COMPAT_JSON_H */
