/*-------------------------------------------------------------------------
 *
 * prunetree.c
 *		Clauses -> the nodes by which segments.c chooses segments.
 *
 * Equality with level, service, trace_id and members of attrs, attrs @>, words
 * that a pattern on message cannot do without, ranges of ts and id within ORs,
 * and any harmless condition on level or service alone, whose values are all
 * known.  LogqPruneKind in scan.h says what each node looks like.
 *
 * A node may only ever take away what cannot match; a clause that is not
 * understood gives none, and then its OR gives none either.  Negations never
 * do: nearly every segment holds something else, too.
 *
 * A condition that fails for some value must not do so here, where it is
 * evaluated for values that the query may never meet.  So only functions that
 * fail for no text are let into sets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "words.h"

/* an OR of more is not worth the time it takes to find out */
#define MAX_BRANCHES 64

/* What building the nodes of a clause needs */
typedef struct PruneBuild
{
	const LogqShipContext *ship;
	bool		sent;			/* partitions evaluate the clause */
	bool		in_or;
	List	  **params;
	List	  **sets;
} PruneBuild;

static List *build_node(PruneBuild *build, Node *expr);

/* ---------- comparisons ---------- */

/*
 * May this be evaluated when the scan starts?  In an OR that is evaluated
 * here, only what cannot fail: the branch may be one that is never reached.
 */
static bool
usable_value(PruneBuild *build, Node *value)
{
	if (build->in_or && !build->sent)
	{
		Node	   *arg = value;

		if (IsA(arg, NullTest))
			arg = (Node *) ((NullTest *) arg)->arg;
		while (arg != NULL && IsA(arg, RelabelType))
			arg = (Node *) ((RelabelType *) arg)->arg;
		if (arg == NULL ||
			(!IsA(arg, Const) && !IsA(arg, Param) && !IsA(arg, Var)))
			return false;
	}
	return logq_is_scan_constant(build->ship, value);
}

/*
 * An Integer node of a parameter's index.
 */
static Node *
param_node(PruneBuild *build, Node *value)
{
	return (Node *) makeInteger(logq_param_index(build->params,
												 (Expr *) value));
}

/*
 * The column of ours that an expression is, or -1.  text and varchar are the
 * same here: which comparison is made is for the operator to say.
 */
static int
plain_column(PruneBuild *build, Node *expr)
{
	return logq_plain_column(build->ship, expr);
}

/*
 * Are texts that are equal in this collation the same bytes?
 */
static bool
is_deterministic(Oid collation)
{
	return collation == DEFAULT_COLLATION_OID ||
		collation == C_COLLATION_OID ||
		(OidIsValid(collation) && get_collation_isdeterministic(collation));
}

static Oid
op_function(Oid opno, Oid opfuncid)
{
	return OidIsValid(opfuncid) ? opfuncid : get_opcode(opno);
}

/*
 * Two arguments of attrs ->> 'key': the name of the filters of such values, or
 * NULL.
 */
static char *
attrs_field(PruneBuild *build, Node *expr)
{
	Const	   *key;
	List	   *args;

	while (IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (IsA(expr, OpExpr))
	{
		OpExpr	   *op = (OpExpr *) expr;

		if (op_function(op->opno, op->opfuncid) != F_JSONB_OBJECT_FIELD_TEXT)
			return NULL;
		args = op->args;
	}
	else if (IsA(expr, FuncExpr) &&
			 ((FuncExpr *) expr)->funcid == F_JSONB_OBJECT_FIELD_TEXT)
		args = ((FuncExpr *) expr)->args;
	else
		return NULL;
	key = lsecond(args);
	if (plain_column(build, linitial(args)) != LOGQ_COL_ATTRS ||
		!IsA(key, Const) || key->constisnull || key->consttype != TEXTOID)
		return NULL;
	return psprintf(LOGQ_FIELD_ATTRS "%s",
					TextDatumGetCString(key->constvalue));
}

/*
 * Node of "expr = value" or "expr = ANY (value)".
 */
static List *
build_equal(PruneBuild *build, Node *expr, Node *value, bool any)
{
	const char *field = "";
	int			column = plain_column(build, expr);

	if (exprType(value) != (any ? TEXTARRAYOID : TEXTOID))
		return NIL;
	switch (column)
	{
		case LOGQ_COL_LEVEL:
			break;
		case LOGQ_COL_SERVICE:
			field = LOGQ_FIELD_SERVICE;
			break;
		case LOGQ_COL_TRACE_ID:
			field = LOGQ_FIELD_TRACE_ID;
			break;
		case LOGQ_COL_MESSAGE:
			if (!usable_value(build, value))
				return NIL;
			return list_make4(makeInteger(LOGQ_NODE_WORDS),
							  makeInteger(LOGQ_PATTERN_EQUAL),
							  makeInteger(any), param_node(build, value));
		case -1:
			field = attrs_field(build, expr);
			if (field == NULL)
				return NIL;
			column = LOGQ_COL_ATTRS;
			break;
		default:
			return NIL;
	}
	if (!usable_value(build, value))
		return NIL;
	return list_make5(makeInteger(LOGQ_NODE_EQUAL), makeInteger(column),
					  makeInteger(any), param_node(build, value),
					  makeString(pstrdup(field)));
}

/*
 * Which kind of pattern does a function match the text at its left with?
 */
static bool
pattern_kind(Oid funcid, LogqPatternKind *kind)
{
	switch (funcid)
	{
		case F_TEXTLIKE:
		case F_LIKE_TEXT_TEXT:
			*kind = LOGQ_PATTERN_LIKE;
			return true;
		case F_TEXTICLIKE:
			*kind = LOGQ_PATTERN_ILIKE;
			return true;
		case F_TEXTREGEXEQ:
			*kind = LOGQ_PATTERN_REGEX;
			return true;
		case F_TEXTICREGEXEQ:
			*kind = LOGQ_PATTERN_IREGEX;
			return true;
		default:
			return false;
	}
}

/*
 * Node of a comparison of two arguments by a function, or with any member of
 * an array.
 */
static List *
build_comparison(PruneBuild *build, Oid funcid, Oid collation, List *args,
				 bool any)
{
	Node	   *left;
	Node	   *right;
	LogqPatternKind kind;
	List	   *node;

	if (list_length(args) != 2)
		return NIL;
	left = linitial(args);
	right = lsecond(args);

	if (funcid == F_JSONB_CONTAINED && !any)
	{
		Node	   *turned = left;

		left = right;
		right = turned;
		funcid = F_JSONB_CONTAINS;
	}
	if (funcid == F_JSONB_CONTAINS && !any)
	{
		if (plain_column(build, left) != LOGQ_COL_ATTRS ||
			exprType(right) != JSONBOID || !usable_value(build, right))
			return NIL;
		return list_make2(makeInteger(LOGQ_NODE_CONTAINS),
						  param_node(build, right));
	}

	if (!is_deterministic(collation))
		return NIL;
	if (funcid == F_TEXTEQ)
	{
		node = build_equal(build, left, right, any);
		if (node == NIL && !any)
			node = build_equal(build, right, left, false);
		return node;
	}
	if (pattern_kind(funcid, &kind) &&
		plain_column(build, left) == LOGQ_COL_MESSAGE &&
		exprType(right) == (any ? TEXTARRAYOID : TEXTOID) &&
		usable_value(build, right))
		return list_make4(makeInteger(LOGQ_NODE_WORDS), makeInteger(kind),
						  makeInteger(any), param_node(build, right));
	return NIL;
}

/* ---------- sets ---------- */

static bool
is_foreign_function(Oid funcid, void *context)
{
	return funcid >= FirstGenbkiObjectId;
}

/*
 * Might this run a query?  A set's condition is evaluated while we look at
 * our copy of the catalog, which a query may replace.
 */
static bool
may_run_query(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) ||
		(IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC) ||
		check_functions_in_node(node, is_foreign_function, context))
		return true;
	return expression_tree_walker(node, may_run_query, context);
}

static bool
set_value(PruneBuild *build, Node *value)
{
	return usable_value(build, value) && !may_run_query(value, NULL);
}

/* What an expression on one column consists of */
typedef struct SetSearch
{
	PruneBuild *build;
	int			column;			/* -1: none so far */
	List	   *likes;			/* patterns of LIKE */
} SetSearch;

/*
 * Is this a text made of one column whose values are known, by functions that
 * do not fail for any?
 */
static bool
set_text(SetSearch *search, Node *expr)
{
	int			column = plain_column(search->build, expr);
	ListCell   *lc;

	if (column == LOGQ_COL_LEVEL || column == LOGQ_COL_SERVICE ||
		column == LOGQ_COL_PARTITION)
	{
		if (search->column >= 0 && search->column != column)
			return false;
		search->column = column;
		return true;
	}
	if (column >= 0)
		return false;
	if (set_value(search->build, expr))
		return true;

	switch (nodeTag(expr))
	{
		case T_RelabelType:
			return set_text(search, (Node *) ((RelabelType *) expr)->arg);
		case T_FuncExpr:
			switch (((FuncExpr *) expr)->funcid)
			{
				case F_LOWER_TEXT:
				case F_UPPER_TEXT:
				case F_BTRIM_TEXT:
				case F_BTRIM_TEXT_TEXT:
				case F_LTRIM_TEXT:
				case F_LTRIM_TEXT_TEXT:
				case F_RTRIM_TEXT:
				case F_RTRIM_TEXT_TEXT:
					foreach(lc, ((FuncExpr *) expr)->args)
						if (!set_text(search, lfirst(lc)))
							return false;
					return true;
				default:
					return false;
			}
		case T_CoalesceExpr:
			foreach(lc, ((CoalesceExpr *) expr)->args)
				if (!set_text(search, lfirst(lc)))
					return false;
			return true;
		default:
			return false;
	}
}

/*
 * Likewise for a comparison of texts.
 */
static bool
set_comparison(SetSearch *search, Oid funcid, List *args, bool any)
{
	LogqPatternKind kind;

	if (list_length(args) != 2 || !set_text(search, linitial(args)))
		return false;
	switch (funcid)
	{
		case F_TEXTEQ:
		case F_TEXT_LT:
		case F_TEXT_LE:
		case F_TEXT_GT:
		case F_TEXT_GE:
		case F_STARTS_WITH:
			if (!any)
				return set_text(search, lsecond(args));
			break;
		default:
			if (!pattern_kind(funcid, &kind))
				return false;
			if (!set_value(search->build, lsecond(args)))
				return false;
			/* a pattern may fail at its end, for texts that get there */
			if (kind == LOGQ_PATTERN_LIKE || kind == LOGQ_PATTERN_ILIKE)
				search->likes = lappend(search->likes, lsecond(args));
			break;
	}
	return set_value(search->build, lsecond(args));
}

/*
 * Is this a condition on one column whose values are known, with no negation
 * and nothing that may fail?
 */
static bool
set_condition(SetSearch *search, Node *expr)
{
	ListCell   *lc;

	switch (nodeTag(expr))
	{
		case T_BoolExpr:
			if (is_notclause(expr))
				return false;
			foreach(lc, ((BoolExpr *) expr)->args)
				if (!set_condition(search, lfirst(lc)))
					return false;
			return true;
		case T_NullTest:
			return ((NullTest *) expr)->nulltesttype == IS_NULL &&
				!((NullTest *) expr)->argisrow &&
				set_text(search, (Node *) ((NullTest *) expr)->arg);
		case T_OpExpr:
			{
				OpExpr	   *op = (OpExpr *) expr;

				return set_comparison(search,
									  op_function(op->opno, op->opfuncid),
									  op->args, false);
			}
		case T_FuncExpr:
			return set_comparison(search, ((FuncExpr *) expr)->funcid,
								  ((FuncExpr *) expr)->args, false);
		case T_ScalarArrayOpExpr:
			{
				ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) expr;

				return op->useOr &&
					set_comparison(search,
								   op_function(op->opno, op->opfuncid),
								   op->args, true);
			}
		default:
			return false;
	}
}

/*
 * Node of a condition on level, service or partition alone.
 */
static List *
build_set(PruneBuild *build, Node *expr)
{
	SetSearch	search = {build, -1, NIL};
	List	   *likes = NIL;
	ListCell   *lc;

	if (!set_condition(&search, expr) || search.column < 0)
		return NIL;
	foreach(lc, search.likes)
		likes = lappend_int(likes, logq_param_index(build->params,
													lfirst(lc)));
	*build->sets = lappend(*build->sets, expr);
	return list_make4(makeInteger(LOGQ_NODE_SET), makeInteger(search.column),
					  makeInteger(list_length(*build->sets) - 1), likes);
}

/* ---------- trees ---------- */

/*
 * Node of an OR: each of its branches must have one.
 */
static List *
build_or(PruneBuild *build, BoolExpr *expr)
{
	List	   *node;
	PruneBuild	inner = *build;
	int			nparams = list_length(*build->params);
	int			nsets = list_length(*build->sets);
	ListCell   *lc;

	inner.in_or = true;
	node = build_set(&inner, (Node *) expr);
	if (node != NIL || list_length(expr->args) > MAX_BRANCHES)
		return node;

	node = list_make1(makeInteger(LOGQ_NODE_OR));
	foreach(lc, expr->args)
	{
		List	   *child = build_node(&inner, lfirst(lc));

		if (child == NIL)
		{
			/* nobody wants to know these now */
			*build->params = list_truncate(*build->params, nparams);
			*build->sets = list_truncate(*build->sets, nsets);
			return NIL;
		}
		node = lappend(node, child);
	}
	return node;
}

/*
 * Node of an AND: whatever its members give.
 */
static List *
build_and(PruneBuild *build, BoolExpr *expr)
{
	List	   *node = list_make1(makeInteger(LOGQ_NODE_AND));
	ListCell   *lc;

	foreach(lc, expr->args)
	{
		List	   *child = build_node(build, lfirst(lc));

		if (child != NIL)
			node = lappend(node, child);
	}
	return list_length(node) > 1 ? node : NIL;
}

/*
 * The node of an expression, or NIL.
 */
static List *
build_node(PruneBuild *build, Node *expr)
{
	List	   *node = NIL;
	LogqPruneOp op;
	int			column;
	Node	   *value;

	check_stack_depth();
	if (build->in_or && exprType(expr) == BOOLOID &&
		usable_value(build, expr))
		return list_make2(makeInteger(LOGQ_NODE_CONST),
						  param_node(build, expr));

	switch (nodeTag(expr))
	{
		case T_BoolExpr:
			if (is_orclause(expr))
				return build_or(build, (BoolExpr *) expr);
			if (is_andclause(expr))
				return build_and(build, (BoolExpr *) expr);
			return NIL;
		case T_OpExpr:
			{
				OpExpr	   *e = (OpExpr *) expr;

				node = build_comparison(build,
										op_function(e->opno, e->opfuncid),
										e->inputcollid, e->args, false);
				break;
			}
		case T_ScalarArrayOpExpr:
			{
				ScalarArrayOpExpr *e = (ScalarArrayOpExpr *) expr;

				if (!e->useOr)
					return NIL;
				node = build_comparison(build,
										op_function(e->opno, e->opfuncid),
										e->inputcollid, e->args, true);
				break;
			}
		default:
			break;
	}
	if (node == NIL &&
		logq_prune_bound(build->ship, (Expr *) expr, &column, &op, &value) &&
		usable_value(build, value))
		node = list_make4(makeInteger(LOGQ_NODE_RANGE), makeInteger(column),
						  makeInteger(op), param_node(build, value));
	return node != NIL ? node : build_set(build, expr);
}

/*
 * See scan.h.  Comparisons of ts and id that hold for all rows become steps,
 * but the members of a list may lie far apart.
 */
void
logq_prune_clause(const LogqShipContext *cxt, Expr *clause, bool sent,
				  List **steps, List **nodes, List **params, List **sets)
{
	PruneBuild	build = {cxt, sent, false, params, sets};
	List	   *step;
	List	   *node;

	if (is_andclause(clause))
	{
		ListCell   *lc;

		foreach(lc, ((BoolExpr *) clause)->args)
			logq_prune_clause(cxt, lfirst(lc), sent, steps, nodes, params,
							  sets);
		return;
	}
	step = logq_prune_step(cxt, clause, params);
	if (step != NIL)
		*steps = lappend(*steps, step);
	if (step == NIL || list_nth_int(step, LOGQ_PRUNE_OP) == LOGQ_PRUNE_EQ_ANY)
	{
		node = build_node(&build, (Node *) clause);
		if (node != NIL)
			*nodes = lappend(*nodes, node);
	}
}
