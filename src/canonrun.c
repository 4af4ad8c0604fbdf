/*-------------------------------------------------------------------------
 *
 * canonrun.c
 *		Equal questions in equal words.
 *
 * The plan has the clauses that are sent as a tree (canon.c).  When a run
 * begins, the constants have values, and the tree is simplified.  An OR of
 * comparisons of the same expression by the same operator is one with ANY, an
 * AND is one with ALL; their values are sorted, each is there once, and of
 * those of an ordering operator just the one that counts.  ANDs and ORs are
 * flat, their members sorted and different.  Then it is written down.
 *
 * Invariant: equal texts (and ranges) mean that a partition passes the same
 * rows.  The reverse is but hoped for.  All that is done holds in
 * three-valued logic, or is done only where NULL does not pass just as false
 * does not: below ANDs and ORs alone, never below a NOT.  Whether evaluating
 * fails is left open by SQL, and so it is here.
 *
 * The text is not SQL, and is never read back.  No part of it can be taken for
 * another: what may hold anything has its length in front.  Operators and
 * types are told by their OIDs, as only built-in ones are sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cache.h"
#include "canonnode.h"
#include "scan.h"

#include "access/stratnum.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* A value that an expression is compared with */
typedef struct CanonElement
{
	Datum		value;
	const char *image;			/* differs if the value does */
	int			len;
} CanonElement;

typedef enum CanonTruth
{
	CANON_FALSE,
	CANON_TRUE,
	CANON_NULL
} CanonTruth;

/* Nodes of a run */
typedef struct CanonNode
{
	CanonKind	kind;
	const char *text;			/* NULL: not written yet */
	CanonTruth	truth;			/* CANON_VALUE */
	int			nchildren;		/* CANON_AND, CANON_OR, CANON_NOT */
	struct CanonNode **children;
	/* CANON_COMPARE */
	Oid			op;
	Oid			type;
	int			collation;
	int			strategy;
	CanonQuantifier quantifier;
	const char *left;
	bool		has_null;
	int			nelements;		/* others than NULL; sorted, different */
	CanonElement *elements;
} CanonNode;

typedef struct CanonRun
{
	LogqScanState *state;
	LogqCanon  *canon;
	LogqBounds	bounds;
} CanonRun;

static CanonNode *read_node(CanonRun *run, List *list, bool null_is_false);

/* ---------- constants ---------- */

static Datum
constant_value(CanonRun *run, Node *node, bool *isnull)
{
	if (IsA(node, Const))
	{
		*isnull = ((Const *) node)->constisnull;
		return ((Const *) node)->constvalue;
	}
	*isnull = run->state->param_nulls[intVal(node)];
	return run->state->param_values[intVal(node)];
}

static Oid
constant_type(CanonRun *run, Node *node)
{
	return IsA(node, Const) ? ((Const *) node)->consttype :
		run->state->param_types[intVal(node)];
}

/*
 * Give a value an image, which no other of its type has, whatever the
 * session's settings.  The value must stay.
 */
static void
init_element(CanonElement *element, Datum value, Oid type)
{
	char	   *image;

	element->value = value;
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			{
				text	   *t = DatumGetTextPP(value);

				element->image = VARDATA_ANY(t);
				element->len = VARSIZE_ANY_EXHDR(t);
				return;
			}
		case BOOLOID:
			image = DatumGetBool(value) ? "t" : "f";
			break;
		case INT2OID:
			image = psprintf("%d", DatumGetInt16(value));
			break;
		case INT4OID:
		case DATEOID:
			image = psprintf("%d", DatumGetInt32(value));
			break;
		case INT8OID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			image = psprintf(INT64_FORMAT, DatumGetInt64(value));
			break;
		case FLOAT4OID:
			{
				float4		f = DatumGetFloat4(value);
				uint32		bits;

				memcpy(&bits, &f, sizeof(bits));
				image = psprintf("%u", bits);
				break;
			}
		case FLOAT8OID:
			{
				float8		f = DatumGetFloat8(value);
				uint64		bits;

				memcpy(&bits, &f, sizeof(bits));
				image = psprintf(UINT64_FORMAT, bits);
				break;
			}
		case INTERVALOID:
			{
				Interval   *i = DatumGetIntervalP(value);

				image = psprintf(INT64_FORMAT ",%d,%d", i->time, i->day,
								 i->month);
				break;
			}
		default:
			{
				/* no setting matters to the others */
				Oid			outfunc;
				bool		varlena;

				getTypeOutputInfo(type, &outfunc, &varlena);
				image = OidOutputFunctionCall(outfunc, value);
			}
	}
	element->image = image;
	element->len = strlen(image);
}

static int
compare_elements(const void *a, const void *b)
{
	const CanonElement *ea = a;
	const CanonElement *eb = b;
	int			result = memcmp(ea->image, eb->image, Min(ea->len, eb->len));

	return result != 0 ? result : ea->len - eb->len;
}

/* ---------- nodes of a run ---------- */

static CanonNode *
make_node(CanonKind kind)
{
	CanonNode  *node = palloc0(sizeof(CanonNode));

	node->kind = kind;
	return node;
}

static CanonNode *
make_truth(CanonTruth truth)
{
	CanonNode  *node = make_node(CANON_VALUE);

	node->truth = truth;
	return node;
}

/*
 * The order of comparisons: those that can be merged follow each other, then
 * those whose values can be compared.
 */
static int
compare_comparisons(const void *a, const void *b)
{
	const CanonNode *na = *(CanonNode *const *) a;
	const CanonNode *nb = *(CanonNode *const *) b;
	int			result = strcmp(na->left, nb->left);

	if (result == 0)
		result = (na->type > nb->type) - (na->type < nb->type);
	if (result == 0)
		result = na->collation - nb->collation;
	if (result == 0)
		result = na->strategy - nb->strategy;
	if (result == 0)
		result = (na->op > nb->op) - (na->op < nb->op);
	return result;
}

static bool
is_less_strategy(int strategy)
{
	return strategy == BTLessStrategyNumber ||
		strategy == BTLessEqualStrategyNumber;
}

/*
 * Compare two values by their type's order.
 */
static int
compare_values(const CanonNode *node, const CanonElement *a,
			   const CanonElement *b)
{
	TypeCacheEntry *cache = lookup_type_cache(node->type,
											  TYPECACHE_CMP_PROC_FINFO);

	return DatumGetInt32(FunctionCall2Coll(&cache->cmp_proc_finfo,
										   C_COLLATION_OID, a->value,
										   b->value));
}

/*
 * Sort the values of a comparison, and leave one of equal ones, and of those
 * of an ordering operator the one that decides.  What is not a comparison any
 * more comes back as the truth that it is.
 */
static CanonNode *
finish_comparison(CanonNode *node, bool null_is_false)
{
	int			n = 0;

	if (null_is_false && node->has_null)
	{
		if (node->quantifier != CANON_ANY)
			return make_truth(CANON_FALSE);
		node->has_null = false;
	}
	if (node->nelements > 1)
		qsort(node->elements, node->nelements, sizeof(CanonElement),
			  compare_elements);
	for (int i = 0; i < node->nelements; i++)
	{
		CanonElement *element = &node->elements[i];

		if (n > 0 && node->strategy != 0)
		{
			/* x < ALL goes by the smallest, x < ANY by the largest */
			int			result = compare_values(node, element,
												&node->elements[0]);

			if (is_less_strategy(node->strategy) ==
				(node->quantifier == CANON_ALL) ? result < 0 : result > 0)
				node->elements[0] = *element;
		}
		else if (n == 0 ||
				 compare_elements(element, &node->elements[n - 1]) != 0)
			node->elements[n++] = *element;
	}
	node->nelements = n;
	n += node->has_null;
	if (n == 0)
		return make_truth(node->quantifier == CANON_ANY ? CANON_FALSE :
						  CANON_TRUE);
	if (n == 1)
		node->quantifier = CANON_ONE;
	return node;
}

/*
 * Merge n comparisons of one expression by one operator, which are ANDed or
 * ORed.
 */
static CanonNode *
merge_comparisons(CanonNode **nodes, int n, CanonKind kind,
				  bool null_is_false)
{
	CanonNode  *merged = make_node(CANON_COMPARE);
	int			nelements = 0;
	int			i;

	*merged = *nodes[0];
	merged->text = NULL;
	merged->quantifier = kind == CANON_OR ? CANON_ANY : CANON_ALL;
	for (i = 0; i < n; i++)
		nelements += nodes[i]->nelements;
	merged->elements = palloc((nelements + 1) * sizeof(CanonElement));
	merged->nelements = 0;
	for (i = 0; i < n; i++)
	{
		memcpy(merged->elements + merged->nelements, nodes[i]->elements,
			   nodes[i]->nelements * sizeof(CanonElement));
		merged->nelements += nodes[i]->nelements;
		merged->has_null |= nodes[i]->has_null;
	}
	return finish_comparison(merged, null_is_false);
}

/*
 * Two comparisons that differ in whether the value itself passes: the one that
 * says it all, or NULL.
 */
static CanonNode *
choose_comparison(CanonNode *a, CanonNode *b, CanonKind kind)
{
	int			result;
	bool		a_strict;

	if (a->strategy == 0 || b->strategy == 0 ||
		is_less_strategy(a->strategy) != is_less_strategy(b->strategy) ||
		a->type != b->type || a->collation != b->collation ||
		a->quantifier != CANON_ONE || b->quantifier != CANON_ONE ||
		a->has_null || b->has_null || strcmp(a->left, b->left) != 0)
		return NULL;
	result = compare_values(a, &a->elements[0], &b->elements[0]);
	if (result != 0)
		return (is_less_strategy(a->strategy) == (kind == CANON_AND)) ==
			(result < 0) ? a : b;
	a_strict = a->strategy == BTLessStrategyNumber ||
		a->strategy == BTGreaterStrategyNumber;
	return a_strict == (kind == CANON_AND) ? a : b;
}

/*
 * Merge what can be merged of the comparisons among the members of an AND or
 * OR.
 */
static void
merge_members(CanonNode *node, bool null_is_false)
{
	CanonNode **comparisons;
	int			ncomparisons = 0;
	int			n = 0;
	int			end;

	/* move them out of the members */
	comparisons = palloc((node->nchildren + 1) * sizeof(CanonNode *));
	for (int i = 0; i < node->nchildren; i++)
	{
		CanonNode  *child = node->children[i];

		if (child->kind == CANON_COMPARE &&
			child->quantifier != (node->kind == CANON_OR ? CANON_ALL :
								  CANON_ANY))
			comparisons[ncomparisons++] = child;
		else
			node->children[n++] = child;
	}
	qsort(comparisons, ncomparisons, sizeof(CanonNode *),
		  compare_comparisons);

	for (int i = 0; i < ncomparisons; i = end)
	{
		CanonNode  *merged = comparisons[i];
		CanonNode  *chosen;

		for (end = i + 1; end < ncomparisons; end++)
			if (compare_comparisons(&comparisons[i], &comparisons[end]) != 0)
				break;
		if (end > i + 1)
			merged = merge_comparisons(comparisons + i, end - i, node->kind,
									   null_is_false);
		/* < and <= follow each other */
		chosen = i == 0 ? NULL : choose_comparison(node->children[n - 1],
												   merged, node->kind);
		if (chosen != NULL)
			node->children[n - 1] = chosen;
		else
			node->children[n++] = merged;
	}
	node->nchildren = n;
	pfree(comparisons);
}

/* ---------- text ---------- */

static const char *node_text(CanonNode *node);

static int
compare_texts(const void *a, const void *b)
{
	return strcmp((*(CanonNode *const *) a)->text,
				  (*(CanonNode *const *) b)->text);
}

static void
append_sized(StringInfo buf, const char *data, int len)
{
	appendStringInfo(buf, "%d:", len);
	appendBinaryStringInfo(buf, data, len);
}

/*
 * The text of a node, which is made once.
 */
static const char *
node_text(CanonNode *node)
{
	StringInfoData buf;

	if (node->text != NULL)
		return node->text;
	if (node->kind == CANON_VALUE)
		return node->text = node->truth == CANON_TRUE ? "t" :
			node->truth == CANON_FALSE ? "f" : "u";

	initStringInfo(&buf);
	if (node->kind == CANON_COMPARE)
	{
		appendStringInfo(&buf, "c%u,%u,%d,%d,%d,%d,", node->op, node->type,
						 node->collation, node->quantifier, node->has_null,
						 node->nelements);
		append_sized(&buf, node->left, strlen(node->left));
		for (int i = 0; i < node->nelements; i++)
			append_sized(&buf, node->elements[i].image,
						 node->elements[i].len);
	}
	else
	{
		appendStringInfo(&buf, "%c%d,", node->kind == CANON_AND ? 'a' :
						 node->kind == CANON_OR ? 'o' : 'n', node->nchildren);
		for (int i = 0; i < node->nchildren; i++)
			appendStringInfoString(&buf, node_text(node->children[i]));
	}
	return node->text = buf.data;
}

/* ---------- reading the plan ---------- */

/*
 * Pieces of SQL with their values.
 */
static const char *
pieces_text(CanonRun *run, List *pieces)
{
	StringInfoData buf;
	ListCell   *lc;

	if (list_length(pieces) == 1 && IsA(linitial(pieces), String))
		return strVal(linitial(pieces));
	foreach(lc, pieces)
		if (IsA(lfirst(lc), Integer) &&
			intVal(lfirst(lc)) == LOGQ_PIECE_PARTITION)
			run->canon->names_partition = true;
	initStringInfo(&buf);
	logq_scan_pieces(run->state, &buf, pieces, NULL, true);
	return buf.data;
}

static CanonNode *
read_sql(CanonRun *run, List *list)
{
	CanonNode  *node = make_node(CANON_SQL);
	const char *sql = pieces_text(run, lsecond(list));
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, 's');
	append_sized(&buf, sql, strlen(sql));
	node->text = buf.data;
	return node;
}

static CanonNode *
read_value(CanonRun *run, List *list, bool null_is_false)
{
	bool		isnull;
	Datum		value = constant_value(run, lsecond(list), &isnull);

	if (isnull)
		return make_truth(null_is_false ? CANON_FALSE : CANON_NULL);
	return make_truth(DatumGetBool(value) ? CANON_TRUE : CANON_FALSE);
}

/*
 * A bound goes to the ranges, and is no condition any more.
 */
static CanonNode *
read_bound(CanonRun *run, List *list)
{
	List	   *item = lsecond(list);
	Node	   *constant = lthird(list);
	bool		isnull;
	Datum		value = constant_value(run, constant, &isnull);

	logq_bounds_apply(&run->bounds, linitial_int(item), lsecond_int(item),
					  value, isnull, constant_type(run, constant));
	return make_truth(CANON_TRUE);
}

static CanonNode *
read_comparison(CanonRun *run, List *list, bool null_is_false)
{
	CanonNode  *node = make_node(CANON_COMPARE);
	List	   *item = lsecond(list);
	bool		isnull;
	Datum		value = constant_value(run, lfourth(list), &isnull);

	node->op = (Oid) list_nth_int(item, COMPARE_OP);
	node->type = (Oid) list_nth_int(item, COMPARE_TYPE);
	node->collation = list_nth_int(item, COMPARE_COLLATION);
	node->strategy = list_nth_int(item, COMPARE_STRATEGY);
	node->quantifier = list_nth_int(item, COMPARE_QUANTIFIER);
	node->left = pieces_text(run, lthird(list));

	if (isnull)
	{
		/* of an array, too: the result is NULL, for ANY as for ALL */
		node->quantifier = CANON_ONE;
		node->has_null = true;
	}
	else if (node->quantifier == CANON_ONE)
	{
		node->nelements = 1;
		node->elements = palloc(sizeof(CanonElement));
		init_element(node->elements, value, node->type);
	}
	else
	{
		ArrayType  *array = DatumGetArrayTypeP(value);
		int16		len;
		bool		byval;
		char		align;
		Datum	   *values;
		bool	   *nulls;
		int			n;

		get_typlenbyvalalign(ARR_ELEMTYPE(array), &len, &byval, &align);
		deconstruct_array(array, ARR_ELEMTYPE(array), len, byval, align,
						  &values, &nulls, &n);
		node->elements = palloc((n + 1) * sizeof(CanonElement));
		for (int i = 0; i < n; i++)
		{
			if (nulls[i])
				node->has_null = true;
			else
				init_element(&node->elements[node->nelements++], values[i],
							 node->type);
		}
	}
	return finish_comparison(node, null_is_false);
}

static CanonNode *
read_not(CanonRun *run, List *list)
{
	CanonNode  *child = read_node(run, lsecond(list), false);
	CanonNode  *node;

	if (child->kind == CANON_VALUE)
		return child->truth == CANON_NULL ? child :
			make_truth(child->truth == CANON_TRUE ? CANON_FALSE : CANON_TRUE);
	node = make_node(CANON_NOT);
	node->nchildren = 1;
	node->children = palloc(sizeof(CanonNode *));
	node->children[0] = child;
	return node;
}

/*
 * An AND or OR of the nodes of a list from a position on.
 */
static CanonNode *
read_members(CanonRun *run, CanonKind kind, List *list, int from,
			 bool null_is_false)
{
	CanonNode  *node = make_node(kind);
	CanonTruth	neutral = kind == CANON_AND ? CANON_TRUE : CANON_FALSE;
	int			allocated = list_length(list) + 4;
	int			n;
	int			i;

	node->children = palloc(allocated * sizeof(CanonNode *));
	for (i = from; i < list_length(list); i++)
	{
		CanonNode  *child = read_node(run, list_nth(list, i), null_is_false);
		bool		same = child->kind == kind;

		n = same ? child->nchildren : 1;
		if (node->nchildren + n > allocated)
		{
			allocated = (node->nchildren + n) * 2;
			node->children = repalloc(node->children,
									  allocated * sizeof(CanonNode *));
		}
		memcpy(node->children + node->nchildren,
			   same ? child->children : &child, n * sizeof(CanonNode *));
		node->nchildren += n;
	}
	merge_members(node, null_is_false);

	/* what is always true says nothing in an AND, what is not decides it */
	n = 0;
	for (i = 0; i < node->nchildren; i++)
	{
		CanonNode  *child = node->children[i];

		if (child->kind != CANON_VALUE || child->truth == CANON_NULL)
			node->children[n++] = child;
		else if (child->truth != neutral)
			return child;
	}
	if (n == 0)
		return make_truth(neutral);

	for (i = 0; i < n; i++)
		(void) node_text(node->children[i]);
	qsort(node->children, n, sizeof(CanonNode *), compare_texts);
	node->nchildren = 1;
	for (i = 1; i < n; i++)
		if (compare_texts(&node->children[i],
						  &node->children[node->nchildren - 1]) != 0)
			node->children[node->nchildren++] = node->children[i];
	return node->nchildren == 1 ? node->children[0] : node;
}

/*
 * A node of the plan, with its values.  null_is_false: it does not matter
 * which of these the result is.
 */
static CanonNode *
read_node(CanonRun *run, List *list, bool null_is_false)
{
	CanonKind	kind = intVal(linitial(list));

	check_stack_depth();
	switch (kind)
	{
		case CANON_AND:
		case CANON_OR:
			return read_members(run, kind, list, 1, null_is_false);
		case CANON_NOT:
			return read_not(run, list);
		case CANON_VALUE:
			return read_value(run, list, null_is_false);
		case CANON_BOUND:
			return read_bound(run, list);
		case CANON_COMPARE:
			return read_comparison(run, list, null_is_false);
		case CANON_SQL:
			return read_sql(run, list);
	}
	elog(ERROR, "unexpected kind of node: %d", (int) kind);
	return NULL;				/* keep compiler quiet */
}

/*
 * See cache.h.  Should no time or id be left, the ranges are empty.
 */
void
logq_canon_begin(LogqScanState *state, LogqCanon *canon)
{
	CustomScan *plan = castNode(CustomScan, state->css.ss.ps.plan);
	CanonRun	run;
	CanonNode  *root;

	run.state = state;
	run.canon = canon;
	logq_bounds_init(&run.bounds);
	canon->names_partition = false;
	root = read_members(&run, CANON_AND,
						list_nth(plan->custom_private, LOGQ_PLAN_CANON), 0,
						true);
	canon->text = pstrdup(node_text(root));
	canon->ts_low = run.bounds.ts_low;
	canon->ts_high = run.bounds.ts_high;
	canon->id_low = run.bounds.id_low;
	canon->id_high = run.bounds.id_high;
	if (run.bounds.nothing)
	{
		canon->ts_low = canon->id_low = PG_INT64_MAX;
		canon->ts_high = canon->id_high = PG_INT64_MIN;
	}
}
