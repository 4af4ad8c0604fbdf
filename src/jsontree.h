/*-------------------------------------------------------------------------
 *
 * jsontree.h
 *		JSON text as a flat array of nodes.
 *
 * To be included after postgres.h or postgres_fe.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_JSONTREE_H
#define LOGQ_JSONTREE_H

#include "record.h"

typedef enum LogqJsonType
{
	LOGQ_JSON_NULL,
	LOGQ_JSON_FALSE,
	LOGQ_JSON_TRUE,
	LOGQ_JSON_NUMBER,
	LOGQ_JSON_STRING,
	LOGQ_JSON_ARRAY,
	LOGQ_JSON_OBJECT
} LogqJsonType;

/*
 * A value.  The nodes in it follow it at once; "next" is the node behind them,
 * its next sibling if there is one.  All places are offsets into the text.
 */
typedef struct LogqJsonNode
{
	int			key;			/* behind the key's opening quote, -1: no key */
	int			key_len;		/* as written, without quotes */
	int			start;			/* strings: the opening quote */
	int			end;			/* behind its last byte */
	int			next;
	uint8_t		type;			/* LogqJsonType */
	bool		key_escaped;	/* the key has a backslash */
	bool		escaped;		/* the string has one */
	bool		dropped;		/* for the caller: not to be an attribute */
} LogqJsonNode;

typedef struct LogqJsonTree
{
	const char *text;
	LogqJsonNode *nodes;		/* node 0 is the whole */
	int			nnodes;
	int			size;
	const char *error;			/* why logq_json_parse() failed ... */
	int			error_at;		/* ... and where, from 0 */
} LogqJsonTree;

/* names to look for in an object, and where to put what they have */
typedef struct LogqJsonName
{
	const char *name;
	int			slot;
} LogqJsonName;

#define LOGQ_JSON_MAX_DEPTH 128
#define LOGQ_JSON_MAX_NODES 4000000

extern void logq_json_init(LogqJsonTree *tree);
/* give memory back that only a giant text needed */
extern void logq_json_trim(LogqJsonTree *tree);
/*
 * Take in a text, which must be valid UTF-8 without NUL; false: tree->error
 * says why not.  What jsonb would refuse is refused.
 */
extern bool logq_json_parse(LogqJsonTree *tree, const char *text, int len);
/* would numeric take this JSON number? */
extern bool logq_json_number_fits(const char *text, int len);
/*
 * Undo the escapes of what stands between a string's quotes; out has room for
 * len bytes, or is NULL to look only.  Returns the length; -1: an escape is
 * not allowed, *error says why.
 */
extern int	logq_json_unescape(const char *text, int len, char *out,
							   const char **error);
/* is this the key of a node? */
extern bool logq_json_key_is(const LogqJsonTree *tree, int node,
							 const char *name, int len);
/* the last member of that name, -1: none, or null */
extern int	logq_json_member(const LogqJsonTree *tree, int object,
							 const char *name);
/*
 * The last members of these names, by slot; slots of those that are missing
 * or null become -1.  Of names with the same slot the last member wins.
 */
extern void logq_json_members(const LogqJsonTree *tree, int object,
							  const LogqJsonName *names, int nnames,
							  int *slots, int nslots);

/* for (int i = logq_json_first(t, n); i < t->nodes[n].next; i = t->nodes[i].next) */
#define logq_json_first(node) ((node) + 1)

/* the source of a value */
static inline LogqText
logq_json_source(const LogqJsonTree *tree, int node)
{
	const LogqJsonNode *n = &tree->nodes[node];
	LogqText	text;

	text.data = tree->text + n->start;
	text.len = n->end - n->start;
	return text;
}

#endif							/* LOGQ_JSONTREE_H */
