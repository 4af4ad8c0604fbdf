/*-------------------------------------------------------------------------
 *
 * jsontree.c
 *		JSON text as a flat array of nodes, by PostgreSQL's lexer.
 *
 * The nodes point into the text; nothing is copied, and the array is used
 * again for the next text.  There is no recursion.
 *
 * Invariants of a tree that was parsed: nodes are in the order of the text,
 * a container's members are the nodes between it and its "next", and every
 * value is one that jsonb takes.  The lexer is used without unescaping, which
 * is much cheaper and never throws, but lets escapes pass that jsonb refuses;
 * these are looked at here.
 *
 * Nothing here throws, unless there is no memory.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "compat.h"
#include "jsontree.h"

/* nodes that are kept from one text to the next */
#define FEW_NODES 256
#define KEPT_NODES 32768

/* numeric takes far more, but no log has them */
#define MAX_NUMBER_LENGTH 1000
#define MAX_EXPONENT 1000

/* longest key with escapes that is looked for, as written */
#define MAX_ESCAPED_KEY 256

typedef enum Want
{
	WANT_VALUE,
	WANT_VALUE_OR_END,			/* in an array that has just begun */
	WANT_KEY,
	WANT_KEY_OR_END,			/* in an object that has just begun */
	WANT_COMMA,					/* or the end of what is open */
	WANT_END
} Want;

/*
 * Set up an empty tree, in the current memory context.
 */
void
logq_json_init(LogqJsonTree *tree)
{
	memset(tree, 0, sizeof(*tree));
	tree->size = FEW_NODES;
	tree->nodes = palloc(tree->size * sizeof(LogqJsonNode));
}

/*
 * Give memory back that only a giant text needed.
 */
void
logq_json_trim(LogqJsonTree *tree)
{
	if (tree->size > KEPT_NODES)
	{
		tree->size = FEW_NODES;
		tree->nodes = repalloc(tree->nodes,
							   tree->size * sizeof(LogqJsonNode));
	}
	tree->nnodes = 0;
	tree->text = NULL;
}

/*
 * Note why the text is refused.
 */
static bool
fail(LogqJsonTree *tree, const char *error, const char *at)
{
	tree->error = error;
	tree->error_at = at - tree->text;
	return false;
}

/*
 * What a code of the lexer means.
 */
static const char *
lexer_error(JsonParseErrorType code)
{
	switch (code)
	{
		case JSON_ESCAPING_INVALID:
			return "invalid escape sequence";
		case JSON_ESCAPING_REQUIRED:
			return "control character in a string";
		case JSON_UNICODE_ESCAPE_FORMAT:
			return "\"\\u\" is not followed by four hexadecimal digits";
		default:
			return "invalid token";
	}
}

/*
 * Note that the lexer refuses the token behind "from".  Where that begins is
 * found anew, since versions differ in what they leave in the lexer.
 */
static bool
fail_token(LogqJsonTree *tree, JsonParseErrorType code, const char *from,
		   const char *end)
{
	while (from < end && (*from == ' ' || *from == '\t' ||
						  *from == '\n' || *from == '\r'))
		from++;
	return fail(tree, lexer_error(code), from);
}

/*
 * What was expected where something else is.
 */
static const char *
expected(Want want, bool in_object)
{
	switch (want)
	{
		case WANT_KEY:
		case WANT_KEY_OR_END:
			return "expected a key";
		case WANT_COMMA:
			return in_object ? "expected \",\" or \"}\"" :
				"expected \",\" or \"]\"";
		case WANT_END:
			return "expected the end";
		default:
			return "expected a value";
	}
}

/*
 * Append a node.  Returns its index, -1: there are too many.
 */
static inline int
add_node(LogqJsonTree *tree, LogqJsonType type, int start, int end)
{
	LogqJsonNode *node;

	if (tree->nnodes == tree->size)
	{
		if (tree->size >= LOGQ_JSON_MAX_NODES)
			return -1;
		tree->size = Min(tree->size * 2, LOGQ_JSON_MAX_NODES);
		tree->nodes = repalloc(tree->nodes,
							   tree->size * sizeof(LogqJsonNode));
	}
	node = &tree->nodes[tree->nnodes];
	node->key = -1;
	node->key_len = 0;
	node->start = start;
	node->end = end;
	node->type = type;
	node->key_escaped = false;
	node->escaped = false;
	node->dropped = false;
	node->next = tree->nnodes + 1;
	return tree->nnodes++;
}

/*
 * Would numeric take this JSON number?
 */
bool
logq_json_number_fits(const char *text, int len)
{
	int			i;
	int			exponent = 0;

	if (len > MAX_NUMBER_LENGTH)
		return false;
	for (i = 0; i < len && text[i] != 'e' && text[i] != 'E'; i++)
		;
	for (i++; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			continue;			/* its sign */
		exponent = exponent * 10 + (text[i] - '0');
		if (exponent > MAX_EXPONENT)
			return false;
	}
	return true;
}

/*
 * Value of four hexadecimal digits, which are known to be some.
 */
static uint32
hex4(const char *text)
{
	uint32		value = 0;

	for (int i = 0; i < 4; i++)
	{
		char		c = text[i];

		value = value << 4 |
			(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return value;
}

/*
 * Undo escapes, as jsonb does.  The lexer has seen the text: every backslash
 * is followed by a letter that it knows, and \u by four digits.
 */
int
logq_json_unescape(const char *text, int len, char *out, const char **error)
{
	int			n = 0;
	int			i = 0;
	uint32		high = 0;		/* first half of a surrogate pair */

	while (i < len)
	{
		unsigned char utf8[4];
		uint32		c;
		int			bytes;

		if (text[i] != '\\')
		{
			const char *next = memchr(text + i, '\\', len - i);
			int			plain = next ? next - (text + i) : len - i;

			if (high != 0)
				break;
			if (out != NULL)
				memcpy(out + n, text + i, plain);
			n += plain;
			i += plain;
			continue;
		}
		if (text[i + 1] != 'u')
		{
			if (high != 0)
				break;
			if (out != NULL)
			{
				switch (text[i + 1])
				{
					case 'b':
						out[n] = '\b';
						break;
					case 'f':
						out[n] = '\f';
						break;
					case 'n':
						out[n] = '\n';
						break;
					case 'r':
						out[n] = '\r';
						break;
					case 't':
						out[n] = '\t';
						break;
					default:	/* quote, slash, backslash */
						out[n] = text[i + 1];
				}
			}
			n++;
			i += 2;
			continue;
		}

		c = hex4(text + i + 2);
		i += 6;
		if (c == 0)
		{
			*error = "\"\\u0000\" cannot be stored";
			return -1;
		}
		if (c >= 0xD800 && c <= 0xDBFF)
		{
			if (high != 0)
				break;
			high = c;
			continue;
		}
		if (c >= 0xDC00 && c <= 0xDFFF)
		{
			if (high == 0)
			{
				*error = "second half of a surrogate pair without its first";
				return -1;
			}
			c = 0x10000 + ((high & 0x3FF) << 10) + (c & 0x3FF);
			high = 0;
		}
		else if (high != 0)
			break;
		unicode_to_utf8(c, utf8);
		bytes = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
		if (out != NULL)
			memcpy(out + n, utf8, bytes);
		n += bytes;
	}
	if (high != 0)
	{
		*error = "first half of a surrogate pair without its second";
		return -1;
	}
	return n;
}

/*
 * Does the string that was just lexed have escapes, and good ones?
 */
static inline bool
check_string(LogqJsonTree *tree, int start, int len, bool *escaped)
{
	const char *text = tree->text + start;
	const char *error;

	*escaped = memchr(text, '\\', len) != NULL;
	if (*escaped && logq_json_unescape(text, len, NULL, &error) < 0)
		return fail(tree, error, text);
	return true;
}

/*
 * The end of a string's text without escapes, "p" being its start; NULL: it
 * has escapes, or is no good.  Eight bytes at a time, as most strings are long.
 */
static inline const char *
plain_string_end(const char *p, const char *end)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 highs = UINT64CONST(0x8080808080808080);

	while (end - p >= (int) sizeof(uint64))
	{
		uint64		v;
		uint64		quote;
		uint64		backslash;

		memcpy(&v, p, sizeof(v));
		quote = v ^ (ones * '"');
		backslash = v ^ (ones * '\\');
		/* a byte below 0x20, a quote, a backslash; or may be one */
		if ((((v - ones * 0x20) | (quote - ones) | (backslash - ones)) &
			 ~v & highs) != 0)
			break;
		p += sizeof(v);
	}
	for (; p < end; p++)
	{
		if (*p == '"')
			return p;
		if (*p == '\\' || (unsigned char) *p < 0x20)
			return NULL;
	}
	return NULL;
}

/*
 * The next token.  Those that logs are made of are found here, all others by
 * PostgreSQL's lexer, which also says what is wrong with what is no token.
 */
static inline JsonParseErrorType
next_token(JsonLexContext *lex, const char *end)
{
	const char *p = lex->token_terminator;
	JsonTokenType type;

	if (p < end && *p == ' ')
		p++;
	if (p >= end)
		return json_lex(lex);
	switch (*p)
	{
		case '"':
			{
				const char *q = plain_string_end(p + 1, end);

				if (q == NULL)
					return json_lex(lex);
				lex->token_start = (char *) p;
				lex->token_terminator = (char *) q + 1;
				lex->token_type = JSON_TOKEN_STRING;
				return JSON_SUCCESS;
			}
		case '{':
			type = JSON_TOKEN_OBJECT_START;
			break;
		case '}':
			type = JSON_TOKEN_OBJECT_END;
			break;
		case '[':
			type = JSON_TOKEN_ARRAY_START;
			break;
		case ']':
			type = JSON_TOKEN_ARRAY_END;
			break;
		case ',':
			type = JSON_TOKEN_COMMA;
			break;
		case ':':
			type = JSON_TOKEN_COLON;
			break;
		default:
			return json_lex(lex);
	}
	lex->token_start = (char *) p;
	lex->token_terminator = (char *) p + 1;
	lex->token_type = type;
	return JSON_SUCCESS;
}

/*
 * Take in a text.
 */
bool
logq_json_parse(LogqJsonTree *tree, const char *text, int len)
{
	JsonLexContext lex;
	int			open[LOGQ_JSON_MAX_DEPTH];
	int			depth = 0;
	Want		want = WANT_VALUE;
	bool		in_object = false;
	bool		escapes = memchr(text, '\\', len) != NULL;
	int			key = -1;
	int			key_len = 0;
	bool		key_escaped = false;

	tree->text = text;
	tree->nnodes = 0;
	tree->error = NULL;
	tree->error_at = 0;

	logq_json_lexer_init(&lex, text, len);
	for (;;)
	{
		const char *from = lex.token_terminator;
		JsonParseErrorType code = next_token(&lex, text + len);
		JsonTokenType token = lex.token_type;
		LogqJsonType type;
		int			start;
		int			end;
		int			node;

		if (code != JSON_SUCCESS)
			return fail_token(tree, code, from, text + len);
		if (token == JSON_TOKEN_END)
		{
			if (want == WANT_END)
				return true;
			return fail(tree, "it ends too early", text + len);
		}
		start = lex.token_start - text;
		end = lex.token_terminator - text;

		if (want == WANT_COMMA)
		{
			if (token == JSON_TOKEN_COMMA)
			{
				want = in_object ? WANT_KEY : WANT_VALUE;
				continue;
			}
			if (token == (in_object ? JSON_TOKEN_OBJECT_END :
						  JSON_TOKEN_ARRAY_END))
				goto close;
			return fail(tree, expected(want, in_object), lex.token_start);
		}
		if (want == WANT_KEY || want == WANT_KEY_OR_END)
		{
			if (token == JSON_TOKEN_STRING)
			{
				key = start + 1;
				key_len = end - start - 2;
				key_escaped = false;
				if (escapes && !check_string(tree, key, key_len, &key_escaped))
					return false;
				code = next_token(&lex, text + len);
				if (code != JSON_SUCCESS)
					return fail_token(tree, code, text + end, text + len);
				if (lex.token_type != JSON_TOKEN_COLON)
					return fail(tree, lex.token_type == JSON_TOKEN_END ?
								"it ends too early" : "expected \":\"",
								lex.token_start ? lex.token_start : text + len);
				want = WANT_VALUE;
				continue;
			}
			if (token == JSON_TOKEN_OBJECT_END && want == WANT_KEY_OR_END)
				goto close;
			return fail(tree, expected(want, in_object), lex.token_start);
		}
		if (want == WANT_END)
			return fail(tree, expected(want, in_object), lex.token_start);

		/* a value */
		switch (token)
		{
			case JSON_TOKEN_STRING:
				type = LOGQ_JSON_STRING;
				break;
			case JSON_TOKEN_NUMBER:
				if (!logq_json_number_fits(lex.token_start, end - start))
					return fail(tree, "number is too large or too long",
								lex.token_start);
				type = LOGQ_JSON_NUMBER;
				break;
			case JSON_TOKEN_TRUE:
				type = LOGQ_JSON_TRUE;
				break;
			case JSON_TOKEN_FALSE:
				type = LOGQ_JSON_FALSE;
				break;
			case JSON_TOKEN_NULL:
				type = LOGQ_JSON_NULL;
				break;
			case JSON_TOKEN_OBJECT_START:
				type = LOGQ_JSON_OBJECT;
				break;
			case JSON_TOKEN_ARRAY_START:
				type = LOGQ_JSON_ARRAY;
				break;
			case JSON_TOKEN_ARRAY_END:
				if (want == WANT_VALUE_OR_END)
					goto close;
				/* FALLTHROUGH */
			default:
				return fail(tree, expected(want, in_object), lex.token_start);
		}
		node = add_node(tree, type, start, end);
		if (node < 0)
			return fail(tree, "there are too many values", lex.token_start);
		if (in_object)
		{
			tree->nodes[node].key = key;
			tree->nodes[node].key_len = key_len;
			tree->nodes[node].key_escaped = key_escaped;
		}
		if (type == LOGQ_JSON_STRING && escapes &&
			!check_string(tree, start + 1, end - start - 2,
						  &tree->nodes[node].escaped))
			return false;
		if (type == LOGQ_JSON_OBJECT || type == LOGQ_JSON_ARRAY)
		{
			if (depth == LOGQ_JSON_MAX_DEPTH)
				return fail(tree, "it is nested too deeply", lex.token_start);
			open[depth++] = node;
			in_object = type == LOGQ_JSON_OBJECT;
			want = in_object ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
		}
		else
			want = depth > 0 ? WANT_COMMA : WANT_END;
		continue;

close:
		node = open[--depth];
		tree->nodes[node].end = end;
		tree->nodes[node].next = tree->nnodes;
		in_object = depth > 0 &&
			tree->nodes[open[depth - 1]].type == LOGQ_JSON_OBJECT;
		want = depth > 0 ? WANT_COMMA : WANT_END;
	}
}

/*
 * Is this the key of a node?
 */
bool
logq_json_key_is(const LogqJsonTree *tree, int node, const char *name, int len)
{
	const LogqJsonNode *n = &tree->nodes[node];

	if (n->key < 0)
		return false;
	if (n->key_escaped)
	{
		char		plain[MAX_ESCAPED_KEY];
		const char *error;

		return n->key_len <= MAX_ESCAPED_KEY &&
			logq_json_unescape(tree->text + n->key, n->key_len, plain,
							   &error) == len &&
			memcmp(plain, name, len) == 0;
	}
	return n->key_len == len && memcmp(tree->text + n->key, name, len) == 0;
}

/*
 * The last member of that name.
 */
int
logq_json_member(const LogqJsonTree *tree, int object, const char *name)
{
	int			len = strlen(name);
	int			found = -1;

	if (tree->nodes[object].type != LOGQ_JSON_OBJECT)
		return -1;
	for (int i = logq_json_first(object); i < tree->nodes[object].next;
		 i = tree->nodes[i].next)
	{
		if (logq_json_key_is(tree, i, name, len))
			found = i;
	}
	return found >= 0 && tree->nodes[found].type == LOGQ_JSON_NULL ? -1 : found;
}

/*
 * The last members of these names, by slot.
 */
void
logq_json_members(const LogqJsonTree *tree, int object,
				  const LogqJsonName *names, int nnames,
				  int *slots, int nslots)
{
	for (int s = 0; s < nslots; s++)
		slots[s] = -1;
	if (tree->nodes[object].type != LOGQ_JSON_OBJECT)
		return;
	for (int i = logq_json_first(object); i < tree->nodes[object].next;
		 i = tree->nodes[i].next)
	{
		for (int n = 0; n < nnames; n++)
		{
			if (logq_json_key_is(tree, i, names[n].name,
								 strlen(names[n].name)))
			{
				slots[names[n].slot] =
					tree->nodes[i].type == LOGQ_JSON_NULL ? -1 : i;
				break;
			}
		}
	}
}
