/*-------------------------------------------------------------------------
 *
 * conditions.c
 *		Conditions of a query, by what the catalog can say of them.
 *
 * Estimating sorts conditions into bounds of ts and id, expressions of level,
 * service and partition alone, equality with a field that has many values,
 * patterns on message, and the rest.  Values are those known at plan time.
 *
 * All of this is for estimates: what is not understood goes to the rest, and
 * nothing here decides what is asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "estimate.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "shippable.h"
#include "sketch.h"

/* values of a list that are looked up */
#define MAX_LOOKUPS 50
/* elements of a list that is not known */
#define UNKNOWN_LIST_LENGTH 10

static Node *
strip_relabel(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

typedef struct DictWalk
{
	const LogqShipContext *ship;
	int			columns;
} DictWalk;

static bool
builtin_function(Oid funcid)
{
	return funcid < FirstGenbkiObjectId &&
		func_volatile(funcid) == PROVOLATILE_IMMUTABLE;
}

/*
 * Can this operator be evaluated for whatever value?  Patterns that are not
 * well-formed are an error, which is not for the planner to raise.
 */
static bool
harmless_operator(OpExpr *op)
{
	Oid			funcid = get_opcode(op->opno);
	Const	   *c = lsecond(op->args);
	text	   *pattern;

	if (!builtin_function(funcid) || !OidIsValid(op->inputcollid) ||
		exprType(linitial(op->args)) != TEXTOID ||
		exprType((Node *) c) != TEXTOID)
		return false;
	if (logq_function_kind(funcid) == LOGQ_FUNCTION_OTHER)
		return true;
	if (!IsA(c, Const))
		return false;
	if (c->constisnull)
		return true;
	pattern = DatumGetTextPP(c->constvalue);
	return VARSIZE_ANY_EXHDR(pattern) == 0 ||
		VARDATA_ANY(pattern)[VARSIZE_ANY_EXHDR(pattern) - 1] != '\\';
}

/*
 * Is there anything in the expression that keeps us from evaluating it for
 * the values of level, service and partition?  It must be made of these and
 * of constants, and of functions that have no effect, reveal nothing, and
 * fail for no value.
 */
static bool
not_dict_walker(Node *node, DictWalk *walk)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
			switch (logq_var_column(walk->ship, node))
			{
				case LOGQ_COL_LEVEL:
					walk->columns |= 1 << LOGQ_DICT_LEVEL;
					return false;
				case LOGQ_COL_SERVICE:
					walk->columns |= 1 << LOGQ_DICT_SERVICE;
					return false;
				case LOGQ_COL_PARTITION:
					walk->columns |= 1 << LOGQ_DICT_PARTITION;
					return false;
				default:
					return true;
			}
		case T_OpExpr:
		case T_DistinctExpr:
			{
				OpExpr	   *op = (OpExpr *) node;

				if (list_length(op->args) != 2 || !harmless_operator(op))
					return true;
				break;
			}
		case T_ScalarArrayOpExpr:
			{
				ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) node;

				if (!builtin_function(get_opcode(op->opno)) ||
					logq_function_kind(get_opcode(op->opno)) !=
					LOGQ_FUNCTION_OTHER || !OidIsValid(op->inputcollid) ||
					exprType(linitial(op->args)) != TEXTOID ||
					exprType(lsecond(op->args)) != TEXTARRAYOID)
					return true;
				break;
			}
		case T_FuncExpr:
			/* lower() and the like */
			if (!builtin_function(((FuncExpr *) node)->funcid) ||
				logq_function_kind(((FuncExpr *) node)->funcid) !=
				LOGQ_FUNCTION_CASE ||
				!OidIsValid(((FuncExpr *) node)->inputcollid))
				return true;
			break;
		case T_Const:
		case T_List:
		case T_RelabelType:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CoalesceExpr:
		case T_ArrayExpr:
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, not_dict_walker, (void *) walk);
}

/* replace our columns by those of the slot */
static Node *
dict_mutator(Node *node, const LogqShipContext *ship)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		AttrNumber	attno;

		switch (logq_var_column(ship, node))
		{
			case LOGQ_COL_LEVEL:
				attno = LOGQ_DICT_LEVEL + 1;
				break;
			case LOGQ_COL_SERVICE:
				attno = LOGQ_DICT_SERVICE + 1;
				break;
			default:
				attno = LOGQ_DICT_PARTITION + 1;
				break;
		}
		return (Node *) makeVar(1, attno, TEXTOID, -1,
								((Var *) node)->varcollid, 0);
	}
	return expression_tree_mutator(node, dict_mutator, (void *) ship);
}

/*
 * The field that an expression is the value of, as the catalog names it, or
 * NULL.
 */
static char *
field_of(const LogqShipContext *ship, Node *node)
{
	OpExpr	   *op;
	Const	   *key;

	node = strip_relabel(node);
	if (logq_var_column(ship, node) == LOGQ_COL_TRACE_ID)
		return LOGQ_FIELD_TRACE_ID;
	op = (OpExpr *) node;
	if (!IsA(node, OpExpr) || list_length(op->args) != 2 ||
		get_opcode(op->opno) != F_JSONB_OBJECT_FIELD_TEXT ||
		logq_var_column(ship, linitial(op->args)) != LOGQ_COL_ATTRS)
		return NULL;
	key = lsecond(op->args);
	if (!IsA(key, Const) || key->constisnull)
		return NULL;
	return psprintf("%s%s", LOGQ_FIELD_ATTRS,
					text_to_cstring(DatumGetTextPP(key->constvalue)));
}

/* does any partition know of this field? */
static bool
field_is_known(const char *field)
{
	ListCell   *lc;
	List	   *parts = logq_partitions();
	bool		known = false;

	foreach(lc, parts)
		if (logq_catalog_field(lfirst(lc), field) >= 0)
			known = true;
	list_free(parts);
	return known;
}

static void
add_hash(LogqFieldCondition *cond, Datum value)
{
	text	   *t = DatumGetTextPP(value);

	if (cond->hashes == NULL)
		cond->hashes = palloc(MAX_LOOKUPS * sizeof(uint64));
	if (cond->nhashes < MAX_LOOKUPS)
		cond->hashes[cond->nhashes++] = logq_hash(VARDATA_ANY(t),
												  VARSIZE_ANY_EXHDR(t));
	cond->nvalues++;
}

/* = value; nothing equals NULL */
static void
add_field_value(LogqFieldCondition *cond, Node *value)
{
	Const	   *c = (Const *) value;

	if (!IsA(value, Const))
	{
		cond->unknown = true;
		cond->nvalues++;
	}
	else if (!c->constisnull)
		add_hash(cond, c->constvalue);
}

/* = ANY (array) */
static void
add_field_array(LogqFieldCondition *cond, Node *array)
{
	if (IsA(array, Const))
	{
		Const	   *c = (Const *) array;
		Datum	   *elems;
		bool	   *nulls;
		int			n;

		if (c->constisnull)
			return;
		deconstruct_array(DatumGetArrayTypeP(c->constvalue), TEXTOID, -1,
						  false, TYPALIGN_INT, &elems, &nulls, &n);
		for (int i = 0; i < n; i++)
			if (!nulls[i])
				add_hash(cond, elems[i]);
	}
	else if (IsA(array, ArrayExpr) && !((ArrayExpr *) array)->multidims)
	{
		ListCell   *lc;

		foreach(lc, ((ArrayExpr *) array)->elements)
			add_field_value(cond, lfirst(lc));
	}
	else
	{
		cond->unknown = true;
		cond->nvalues += UNKNOWN_LIST_LENGTH;
	}
}

/* See estimate.h. */
bool
logq_take_equality(const LogqShipContext *ship, Node *clause,
				   LogqFieldCondition *cond)
{
	char	   *field;

	if (IsA(clause, OpExpr))
	{
		OpExpr	   *op = (OpExpr *) clause;
		Node	   *value;

		if (list_length(op->args) != 2 || get_opcode(op->opno) != F_TEXTEQ)
			return false;
		field = field_of(ship, linitial(op->args));
		value = strip_relabel(lsecond(op->args));
		if (field == NULL)
		{
			field = field_of(ship, lsecond(op->args));
			value = strip_relabel(linitial(op->args));
		}
		if (field == NULL || !logq_is_scan_constant(ship, value) ||
			(cond->field != NULL && strcmp(cond->field, field) != 0))
			return false;
		cond->field = field;
		add_field_value(cond, value);
		return true;
	}
	if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;
		Node	   *array = lsecond(op->args);

		if (!op->useOr || get_opcode(op->opno) != F_TEXTEQ)
			return false;
		field = field_of(ship, linitial(op->args));
		if (field == NULL || !logq_is_scan_constant(ship, array) ||
			(cond->field != NULL && strcmp(cond->field, field) != 0))
			return false;
		cond->field = field;
		add_field_array(cond, array);
		return true;
	}
	if (is_orclause(clause))
	{
		ListCell   *lc;

		foreach(lc, ((BoolExpr *) clause)->args)
			if (!logq_take_equality(ship, lfirst(lc), cond))
				return false;
		return true;
	}
	return false;
}

/*
 * attrs @> '{"key": "value", ...}': conditions on all keys that have filters.
 */
static List *
take_containment(const LogqShipContext *ship, Node *clause,
				 RestrictInfo *rinfo)
{
	OpExpr	   *op = (OpExpr *) clause;
	Const	   *c;
	Jsonb	   *jb;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *field = NULL;
	List	   *result = NIL;

	if (!IsA(clause, OpExpr) || get_opcode(op->opno) != F_JSONB_CONTAINS ||
		logq_var_column(ship, linitial(op->args)) != LOGQ_COL_ATTRS)
		return NIL;
	c = lsecond(op->args);
	if (!IsA(c, Const) || c->constisnull)
		return NIL;
	jb = DatumGetJsonbP(c->constvalue);
	if (!JB_ROOT_IS_OBJECT(jb))
		return NIL;

	it = JsonbIteratorInit(&jb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		LogqFieldCondition *cond;
		char	   *value;

		if (token == WJB_KEY)
			field = psprintf("%s%.*s", LOGQ_FIELD_ATTRS, v.val.string.len,
							 v.val.string.val);
		if (token != WJB_VALUE || field == NULL || !field_is_known(field))
			continue;
		switch (v.type)
		{
			case jbvString:
				value = pnstrdup(v.val.string.val, v.val.string.len);
				break;
			case jbvNumeric:
				value = OidOutputFunctionCall(F_NUMERIC_OUT,
											  NumericGetDatum(v.val.numeric));
				break;
			case jbvBool:
				value = v.val.boolean ? "true" : "false";
				break;
			default:
				continue;
		}
		cond = palloc0(sizeof(LogqFieldCondition));
		cond->field = field;
		cond->rinfo = rinfo;
		add_hash(cond, CStringGetTextDatum(value));
		result = lappend(result, cond);
	}
	return result;
}

/* elements of the list in id = ANY (list); -1: it is no such clause */
static double
id_list_length(Expr *clause, List *params)
{
	Const	   *c = linitial(params);

	if (!IsA(clause, ScalarArrayOpExpr) || !IsA(c, Const))
		return -1;
	if (c->constisnull)
		return 0;
	return ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(c->constvalue)),
						  ARR_DIMS(DatumGetArrayTypeP(c->constvalue)));
}

/*
 * A bound of ts or id, if the clause is one and its value is known now.
 */
static bool
take_bound(const LogqShipContext *ship, Node *clause, LogqBounds *bounds,
		   LogqConditions *conds)
{
	List	   *params = NIL;
	List	   *step;
	LogqColumn	column;
	LogqPruneOp op;
	Const	   *value;

	clause = (Node *) logq_rewrite_clause(ship, (Expr *) clause);
	step = logq_prune_step(ship, (Expr *) clause, &params);
	if (step == NIL)
		return false;
	column = list_nth_int(step, LOGQ_PRUNE_COLUMN);
	op = list_nth_int(step, LOGQ_PRUNE_OP);
	/* the rewritten clause may have a cast in it */
	value = (Const *) estimate_expression_value(ship->root, linitial(params));
	if (!IsA(value, Const))
		return false;
	linitial(params) = value;

	/* a list of times says more than its ends, but core can count it */
	if (column == LOGQ_COL_TS && op == LOGQ_PRUNE_EQ_ANY)
		return false;
	if (column == LOGQ_COL_ID)
	{
		if (op == LOGQ_PRUNE_EQ_ANY)
		{
			double		n = id_list_length((Expr *) clause, params);

			if (n < 0)
				return false;
			conds->ids = conds->ids < 0 ? n : Min(conds->ids, n);
		}
		else if (op == LOGQ_PRUNE_EQ)
			conds->ids = conds->ids < 0 ? 1 : Min(conds->ids, 1);
		else
			conds->id_range = true;
	}
	logq_bounds_apply(bounds, column, op, value->constvalue,
					  value->constisnull, value->consttype);
	return true;
}

/* is it a pattern that messages are to match? */
static bool
is_message_pattern(const LogqShipContext *ship, Node *clause)
{
	OpExpr	   *op = (OpExpr *) clause;
	Oid			funcid;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2 ||
		logq_plain_column(ship, linitial(op->args)) !=
		LOGQ_COL_MESSAGE)
		return false;
	funcid = get_opcode(op->opno);
	return funcid == F_TEXTLIKE || funcid == F_TEXTICLIKE ||
		funcid == F_TEXTREGEXEQ || funcid == F_TEXTICREGEXEQ;
}

/* See estimate.h. */
void
logq_take_conditions(const LogqShipContext *ship, List *clauses,
					 LogqBounds *bounds, LogqConditions *conds)
{
	ListCell   *lc;

	MemSet(conds, 0, sizeof(LogqConditions));
	conds->ids = -1;
	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		LogqFieldCondition cond = {0};
		DictWalk	walk = {ship, 0};
		List	   *contained;
		Node	   *clause;

		if (rinfo->pseudoconstant)
			continue;
		clause = estimate_expression_value(ship->root,
										   (Node *) rinfo->clause);
		if (IsA(clause, Const))
		{
			/* a value for a parameter has decided it */
			if (((Const *) clause)->constisnull ||
				!DatumGetBool(((Const *) clause)->constvalue))
				bounds->nothing = true;
		}
		else if (take_bound(ship, clause, bounds, conds))
			;
		else if (!not_dict_walker(clause, &walk) && walk.columns != 0)
		{
			LogqDictClause *dict = palloc0(sizeof(LogqDictClause));

			dict->expr = (Expr *) dict_mutator(clause, ship);
			dict->columns = walk.columns;
			dict->rinfo = rinfo;
			conds->dict = lappend(conds->dict, dict);
		}
		else if (logq_take_equality(ship, clause, &cond) &&
				 field_is_known(cond.field))
		{
			LogqFieldCondition *copy = palloc(sizeof(LogqFieldCondition));

			*copy = cond;
			copy->rinfo = rinfo;
			conds->fields = lappend(conds->fields, copy);
		}
		else if ((contained = take_containment(ship, clause, rinfo)) != NIL)
			conds->fields = list_concat(conds->fields, contained);
		else if (is_message_pattern(ship, clause))
			conds->patterns = lappend(conds->patterns, rinfo);
		else
			conds->others = lappend(conds->others, rinfo);
	}
}
