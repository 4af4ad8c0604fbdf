/*-------------------------------------------------------------------------
 *
 * prunerun.c
 *		Nodes that choose segments take up the values of a run.
 *
 * The plan has them as Lists (prunetree.c).  Here they become structs, once,
 * and with each run what their parameters' values come down to: ranges, texts
 * with their hashes, words.  Sometimes the values alone tell that nothing can
 * match, or that a node cannot leave anything out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "prunenode.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "sketch.h"
#include "words.h"

/* ---------- nodes of the plan ---------- */

static int
column_reason(int column)
{
	switch (column)
	{
		case LOGQ_COL_TS:
			return LOGQ_REASON_TIME;
		case LOGQ_COL_ID:
			return LOGQ_REASON_ID;
		case LOGQ_COL_LEVEL:
			return LOGQ_REASON_LEVEL;
		case LOGQ_COL_SERVICE:
			return LOGQ_REASON_SERVICE;
		case LOGQ_COL_TRACE_ID:
			return LOGQ_REASON_TRACE_ID;
		case LOGQ_COL_ATTRS:
			return LOGQ_REASON_ATTRS;
		case LOGQ_COL_MESSAGE:
			return LOGQ_REASON_WORDS;
		default:
			return -1;
	}
}

static int
compare_cost(const void *a, const void *b)
{
	const LogqPruneNode *na = *(LogqPruneNode *const *) a;
	const LogqPruneNode *nb = *(LogqPruneNode *const *) b;

	return (int) na->cost - (int) nb->cost;
}

static LogqPruneNode *prepare_node(LogqScanState *state, List *sets,
								   List *list);

/*
 * An AND or OR over the nodes of a list from a position on.
 */
static LogqPruneNode *
prepare_children(LogqScanState *state, List *sets, LogqPruneKind kind,
				 List *list, int from)
{
	LogqPruneNode *node = palloc0(sizeof(LogqPruneNode));
	int			n = list_length(list) - from;
	int			i;

	node->kind = kind;
	node->reason = -1;
	node->children = palloc((n + 1) * sizeof(LogqPruneNode *));
	for (i = 0; i < n; i++)
	{
		LogqPruneNode *child = prepare_node(state, sets,
											list_nth(list, from + i));

		node->children[node->nchildren++] = child;
		node->cost = Max(node->cost, child->cost);
		if (node->reason < 0)
			node->reason = child->reason;
		else if (child->reason >= 0 && child->reason != node->reason)
			node->reason = LOGQ_REASON_SEVERAL;
	}
	if (n > 1)
		qsort(node->children, n, sizeof(LogqPruneNode *), compare_cost);
	return node;
}

/*
 * Make the node that a List of the plan stands for.
 */
static LogqPruneNode *
prepare_node(LogqScanState *state, List *sets, List *list)
{
	LogqPruneKind kind = intVal(linitial(list));
	LogqPruneNode *node;

	if (kind == LOGQ_NODE_AND || kind == LOGQ_NODE_OR)
		return prepare_children(state, sets, kind, list, 1);

	node = palloc0(sizeof(LogqPruneNode));
	node->kind = kind;
	node->reason = -1;
	switch (kind)
	{
		case LOGQ_NODE_CONST:
			node->param = intVal(lsecond(list));
			break;
		case LOGQ_NODE_RANGE:
			node->column = intVal(lsecond(list));
			node->op = intVal(lthird(list));
			node->param = intVal(lfourth(list));
			node->reason = column_reason(node->column);
			break;
		case LOGQ_NODE_SET:
			{
				Expr	   *qual = list_nth(sets, intVal(lthird(list)));

				node->column = intVal(lsecond(list));
				node->qual = ExecInitQual(make_ands_implicit(qual),
										  &state->css.ss.ps);
				node->likes = lfourth(list);
				node->reason = column_reason(node->column);
				node->cost = LOGQ_COST_SET;
				break;
			}
		case LOGQ_NODE_EQUAL:
			node->column = intVal(lsecond(list));
			node->any = intVal(lthird(list)) != 0;
			node->param = intVal(lfourth(list));
			node->field = strVal(list_nth(list, 4));
			node->reason = column_reason(node->column);
			node->cost = node->column == LOGQ_COL_LEVEL ||
				node->column == LOGQ_COL_SERVICE ? LOGQ_COST_SET : LOGQ_COST_FILTER;
			break;
		case LOGQ_NODE_CONTAINS:
			node->param = intVal(lsecond(list));
			node->reason = LOGQ_REASON_ATTRS;
			node->cost = LOGQ_COST_FILTER;
			break;
		case LOGQ_NODE_WORDS:
			node->op = intVal(lsecond(list));
			node->any = intVal(lthird(list)) != 0;
			node->param = intVal(lfourth(list));
			node->reason = LOGQ_REASON_WORDS;
			node->cost = LOGQ_COST_WORDS;
			break;
		case LOGQ_NODE_AND:
		case LOGQ_NODE_OR:
			break;
	}
	return node;
}

/*
 * Make the nodes of a plan, NULL when it has none.
 */
LogqPruneNode *
logq_prune_prepare(LogqScanState *state, CustomScan *plan)
{
	List	   *nodes = list_nth(plan->custom_private, LOGQ_PLAN_PRUNE_NODES);
	int			pos = intVal(list_nth(plan->custom_private,
									  LOGQ_PLAN_PRUNE_SETS));
	List	   *sets;

	if (nodes == NIL)
		return NULL;
	sets = pos < 0 ? NIL : list_copy_tail(plan->custom_exprs, pos);
	return prepare_children(state, sets, LOGQ_NODE_AND, nodes, 0);
}

/* ---------- values of a run ---------- */

static int
compare_numbers(const void *a, const void *b)
{
	int64		va = *(const int64 *) a;
	int64		vb = *(const int64 *) b;

	return va < vb ? -1 : va > vb;
}

/*
 * Order of texts by their bytes, which is that of collation "C".
 */
int
logq_prune_compare_texts(const void *a, const void *b)
{
	const LogqPruneText *ta = a;
	const LogqPruneText *tb = b;
	int			cmp = memcmp(ta->data, tb->data, Min(ta->len, tb->len));

	return cmp != 0 ? cmp : ta->len - tb->len;
}

/*
 * The text values of a parameter, its array's members if it is one, without
 * NULLs, in memory of the run.
 */
static LogqPruneText *
param_texts(LogqScanState *state, int param, bool any, int *ntexts)
{
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 1;
	LogqPruneText  *texts;
	int			i;

	*ntexts = 0;
	if (state->param_nulls[param])
		return NULL;
	if (any)
		deconstruct_array(DatumGetArrayTypeP(state->param_values[param]),
						  TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls,
						  &nelems);
	else
	{
		elems = &state->param_values[param];
		nulls = &state->param_nulls[param];
	}
	texts = palloc((nelems + 1) * sizeof(LogqPruneText));
	for (i = 0; i < nelems; i++)
	{
		text	   *value;
		LogqPruneText  *result = &texts[*ntexts];

		if (nulls[i])
			continue;
		value = DatumGetTextPP(elems[i]);
		result->len = VARSIZE_ANY_EXHDR(value);
		result->data = memcpy(palloc(result->len + 1), VARDATA_ANY(value),
							  result->len);
		(*ntexts)++;
	}
	return texts;
}

/*
 * Values of a node that compares texts for equality.
 */
static void
begin_equal(LogqScanState *state, LogqPruneNode *node)
{
	int			i;

	node->texts = param_texts(state, node->param, node->any, &node->nvalues);
	if (node->nvalues == 0)
	{
		node->verdict = LOGQ_VERDICT_NONE;
		return;
	}
	if (node->nvalues > 1)
		qsort(node->texts, node->nvalues, sizeof(LogqPruneText), logq_prune_compare_texts);
	node->hashes = palloc(node->nvalues * sizeof(uint64));
	for (i = 0; i < node->nvalues; i++)
		node->hashes[i] = logq_hash(node->texts[i].data, node->texts[i].len);
}

/*
 * Values of a node of ts or id.
 */
static void
begin_range(LogqScanState *state, LogqPruneNode *node)
{
	Datum		value = state->param_values[node->param];
	Oid			type = state->param_types[node->param];
	LogqBounds	bounds;

	logq_bounds_init(&bounds);
	logq_bounds_apply(&bounds, node->column, node->op, value,
					  state->param_nulls[node->param], type);
	node->low = node->column == LOGQ_COL_TS ? bounds.ts_low : bounds.id_low;
	node->high = node->column == LOGQ_COL_TS ? bounds.ts_high : bounds.id_high;
	node->nvalues = 0;
	if (bounds.nothing)
		node->verdict = LOGQ_VERDICT_NONE;
	else if (node->op == LOGQ_PRUNE_EQ_ANY)
	{
		node->nvalues = logq_bounds_list(value, &node->numbers);
		qsort(node->numbers, node->nvalues, sizeof(int64), compare_numbers);
	}
}

/*
 * A condition that is the same for all rows.
 */
static void
begin_const(LogqScanState *state, LogqPruneNode *node)
{
	node->verdict = !state->param_nulls[node->param] &&
		DatumGetBool(state->param_values[node->param]) ?
		LOGQ_VERDICT_ALL : LOGQ_VERDICT_NONE;
}

/*
 * A set's condition is evaluated for each partition's values, but one on the
 * partition's name, which is no more than that.  LIKE fails for a pattern
 * that ends in its escape character, if a text gets that far: leave it alone.
 */
static void
begin_set(LogqScanState *state, LogqPruneNode *node)
{
	ListCell   *lc;

	foreach(lc, node->likes)
	{
		int			param = lfirst_int(lc);
		int			ntexts;
		LogqPruneText  *texts = param_texts(state, param,
										state->param_types[param] != TEXTOID,
										&ntexts);

		for (int i = 0; i < ntexts; i++)
			if (texts[i].len > 0 && texts[i].data[texts[i].len - 1] == '\\')
				node->verdict = LOGQ_VERDICT_ALL;
	}
}

/*
 * Conditions on single keys that follow from attrs @> value.
 */
static void
begin_contains(LogqScanState *state, LogqPruneNode *node)
{
	Jsonb	   *jsonb;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	node->nterms = 0;
	if (state->param_nulls[node->param])
	{
		node->verdict = LOGQ_VERDICT_NONE;
		return;
	}
	node->verdict = LOGQ_VERDICT_ALL;
	jsonb = DatumGetJsonbP(state->param_values[node->param]);
	if (!JB_ROOT_IS_OBJECT(jsonb) || JB_ROOT_COUNT(jsonb) == 0)
		return;

	node->terms = palloc(JB_ROOT_COUNT(jsonb) * sizeof(LogqPruneTerm));
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		LogqPruneTerm  *term = &node->terms[node->nterms];
		char	   *field;

		if (token != WJB_KEY)
			continue;
		field = psprintf(LOGQ_FIELD_ATTRS "%.*s", v.val.string.len,
						 v.val.string.val);
		(void) JsonbIteratorNext(&it, &v, true);
		term->field = field;
		term->nhashes = 1;
		term->hashes = palloc(sizeof(uint64));
		/* equal numbers may be written in different ways */
		if (v.type == jbvString)
			term->hashes[0] = logq_hash(v.val.string.val, v.val.string.len);
		else if (v.type == jbvBool)
			term->hashes[0] = v.val.boolean ? logq_hash("true", 4) :
				logq_hash("false", 5);
		else
			continue;
		node->nterms++;
		node->verdict = LOGQ_VERDICT_TEST;
	}
}

/*
 * Callback: take up a word.
 */
static void
add_word(void *arg, const char *word, size_t len)
{
	LogqPruneTerm  *term = arg;

	if (term->nhashes < LOGQ_MAX_HASHES)
		term->hashes[term->nhashes++] = logq_hash(word, len);
}

/*
 * Words of each pattern.
 */
static void
begin_words(LogqScanState *state, LogqPruneNode *node)
{
	LogqPruneText  *texts;
	int			ntexts;

	texts = param_texts(state, node->param, node->any, &ntexts);
	node->nterms = 0;
	if (ntexts == 0)
	{
		node->verdict = LOGQ_VERDICT_NONE;
		return;
	}
	node->terms = palloc(ntexts * sizeof(LogqPruneTerm));
	for (int i = 0; i < ntexts; i++)
	{
		LogqPruneTerm  *term = &node->terms[node->nterms++];

		term->field = LOGQ_FIELD_WORDS;
		term->nhashes = 0;
		term->hashes = palloc(LOGQ_MAX_HASHES * sizeof(uint64));
		logq_words_of_pattern(node->op, texts[i].data, texts[i].len,
							  add_word, term);
		if (term->nhashes == 0)
		{
			/* this one may match anything */
			node->verdict = LOGQ_VERDICT_ALL;
			return;
		}
	}
}

/*
 * Take up the values, and find out what they alone tell.
 */
static void
begin_node(LogqScanState *state, LogqPruneNode *node)
{
	int			nall = 0;
	int			nnone = 0;
	int			i;

	node->verdict = LOGQ_VERDICT_TEST;
	switch (node->kind)
	{
		case LOGQ_NODE_AND:
		case LOGQ_NODE_OR:
			for (i = 0; i < node->nchildren; i++)
			{
				begin_node(state, node->children[i]);
				nall += node->children[i]->verdict == LOGQ_VERDICT_ALL;
				nnone += node->children[i]->verdict == LOGQ_VERDICT_NONE;
			}
			if (node->kind == LOGQ_NODE_AND)
			{
				if (nnone > 0)
					node->verdict = LOGQ_VERDICT_NONE;
				else if (nall == node->nchildren)
					node->verdict = LOGQ_VERDICT_ALL;
			}
			else
			{
				if (nall > 0)
					node->verdict = LOGQ_VERDICT_ALL;
				else if (nnone == node->nchildren)
					node->verdict = LOGQ_VERDICT_NONE;
			}
			break;
		case LOGQ_NODE_CONST:
			begin_const(state, node);
			break;
		case LOGQ_NODE_RANGE:
			begin_range(state, node);
			break;
		case LOGQ_NODE_SET:
			begin_set(state, node);
			break;
		case LOGQ_NODE_EQUAL:
			begin_equal(state, node);
			break;
		case LOGQ_NODE_CONTAINS:
			begin_contains(state, node);
			break;
		case LOGQ_NODE_WORDS:
			begin_words(state, node);
			break;
	}
}

/*
 * See scan.h.
 */
bool
logq_prune_begin(LogqScanState *state)
{
	if (state->prune_root == NULL)
		return true;
	begin_node(state, state->prune_root);
	return state->prune_root->verdict != LOGQ_VERDICT_NONE;
}
