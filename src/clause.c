/*-------------------------------------------------------------------------
 *
 * clause.c
 *		Clauses that are to be shipped: in which form, and in which order.
 *
 * logq_rewrite_clause makes an equal clause that can be shipped, and
 * logq_clause_rank orders clauses by what evaluating them costs a partition.
 * Neither decides whether a clause can be shipped, see shippable.c.  A mistake
 * in ranking costs time; a rewritten clause must mean the same for all values,
 * NULL and infinity included, and must not fail where the clause would not.
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "shippable.h"

#include "access/stratnum.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* These look at attrs through an index, if there is one. */
static const Oid jsonb_match_functions[] = {
	F_JSONB_CONTAINS, F_JSONB_CONTAINED, F_JSONB_EXISTS, F_JSONB_EXISTS_ALL,
	F_JSONB_EXISTS_ANY, F_JSONB_PATH_EXISTS_OPR, F_JSONB_PATH_MATCH_OPR,
	F_JSONB_EQ, F_JSONB_NE
};

/* What a clause consists of, for logq_clause_rank */
typedef struct RankState
{
	const LogqShipContext *cxt;
	bool		column[LOGQ_NCOLUMNS];
	bool		regex;
	bool		ignore_case;
	bool		like;
	bool		json_get;
	bool		cast;
	bool		other;
} RankState;

typedef enum ClauseRank
{
	RANK_TS_ID,
	RANK_LEVEL,
	RANK_SERVICE,
	RANK_TRACE_ID,
	RANK_COLUMN,
	RANK_ATTRS_MATCH,
	RANK_ATTRS_GET,
	RANK_ATTRS_CAST,
	RANK_LIKE,
	RANK_ILIKE,
	RANK_REGEX,
	RANK_OTHER
} ClauseRank;

/* ---------- rewriting ---------- */

/* Wrap a date or timestamp in its (stable) cast to timestamptz. */
static Expr *
cast_to_timestamptz(Node *expr)
{
	Oid			func = exprType(expr) == DATEOID ?
		F_TIMESTAMPTZ_DATE : F_TIMESTAMPTZ_TIMESTAMP;

	return (Expr *) makeFuncExpr(func, TIMESTAMPTZOID,
								 list_make1(copyObject(expr)), InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CAST);
}

/*
 * The operator on two timestamptz that means the same as opno does on a
 * timestamptz and a date or timestamp; InvalidOid if there is none.
 */
static Oid
timestamptz_operator(Oid opno)
{
	Oid			opf = lookup_type_cache(TIMESTAMPTZOID,
										TYPECACHE_BTREE_OPFAMILY)->btree_opf;
	Oid			negator;
	Oid			result = InvalidOid;
	int			strategy;

	if (opno >= FirstGenbkiObjectId)
		return InvalidOid;
	strategy = get_op_opfamily_strategy(opno, opf);
	if (strategy != 0)
		return get_opfamily_member(opf, TIMESTAMPTZOID, TIMESTAMPTZOID,
								   strategy);

	/* <> is in no family, but it negates = */
	negator = get_negator(opno);
	if (OidIsValid(negator) &&
		get_op_opfamily_strategy(negator, opf) == BTEqualStrategyNumber)
	{
		result = get_opfamily_member(opf, TIMESTAMPTZOID, TIMESTAMPTZOID,
									 BTEqualStrategyNumber);
		if (OidIsValid(result))
			result = get_negator(result);
	}
	return result;
}

/*
 * Can a date or timestamp be cast to timestamptz in every time zone?  Of what
 * is not known yet, it is taken for granted.
 */
static bool
is_in_range(Node *node)
{
	Const	   *con = (Const *) node;

	if (!IsA(node, Const) || con->constisnull)
		return true;
	if (con->consttype == DATEOID)
	{
		int64		days = DatumGetDateADT(con->constvalue);

		return DATE_NOT_FINITE(days) ||
			(days > DATETIME_MIN_JULIAN - POSTGRES_EPOCH_JDATE + 1 &&
			 days < TIMESTAMP_END_JULIAN - POSTGRES_EPOCH_JDATE - 2);
	}
	if (con->consttype == TIMESTAMPOID)
	{
		Timestamp	ts = DatumGetTimestamp(con->constvalue);

		return TIMESTAMP_NOT_FINITE(ts) ||
			(ts > MIN_TIMESTAMP + 2 * USECS_PER_DAY &&
			 ts < END_TIMESTAMP - 2 * USECS_PER_DAY);
	}
	return true;
}

/*
 * Rewrite one comparison, or return it as it is.
 *
 * The operators between the types convert just as the casts do, by the
 * session's time zone.  They differ only at the ends of what timestamptz can
 * hold, where the cast raises an error and the operator knows how to compare.
 */
static Expr *
rewrite_comparison(const LogqShipContext *cxt, OpExpr *op)
{
	Node	   *left;
	Node	   *right;
	Oid			ltype;
	Oid			rtype;
	Oid			opno;
	bool		turned;
	Expr	   *constant;
	Expr	   *result;

	if (list_length(op->args) != 2)
		return (Expr *) op;
	result = logq_rewrite_epoch(cxt, op);
	if (result != NULL)
		return result;
	left = (Node *) linitial(op->args);
	right = (Node *) lsecond(op->args);
	ltype = exprType(left);
	rtype = exprType(right);

	if (ltype == TIMESTAMPTZOID &&
		(rtype == DATEOID || rtype == TIMESTAMPOID))
		turned = false;
	else if (rtype == TIMESTAMPTZOID &&
			 (ltype == DATEOID || ltype == TIMESTAMPOID))
		turned = true;
	else
		return (Expr *) op;

	if (!logq_is_scan_constant(cxt, turned ? left : right) ||
		logq_is_scan_constant(cxt, turned ? right : left) ||
		!is_in_range(turned ? left : right))
		return (Expr *) op;
	opno = timestamptz_operator(op->opno);
	if (!OidIsValid(opno))
		return (Expr *) op;

	constant = cast_to_timestamptz(turned ? left : right);
	result = make_opclause(opno, BOOLOID, false,
						   turned ? constant : copyObject((Expr *) left),
						   turned ? copyObject((Expr *) right) : constant,
						   InvalidOid, InvalidOid);
	set_opfuncid((OpExpr *) result);
	return result;
}

/* ---------- what may be computed before the scan ---------- */

/*
 * Is a parameter the result of a sub-select?  PostgreSQL runs that when it is
 * first asked for, if ever.
 */
static bool
is_of_sub_select(const PlannerInfo *root, const Param *param)
{
	if (param->paramkind != PARAM_EXEC)
		return false;
	for (; root != NULL; root = root->parent_root)
	{
		ListCell   *lc;

		foreach(lc, root->init_plans)
			if (list_member_int(lfirst_node(SubPlan, lc)->setParam,
								param->paramid))
				return true;
	}
	return false;
}

/* See shippable.h. */
bool
logq_cannot_fail(const LogqShipContext *cxt, Node *node)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (IsA(node, Param))
		return !is_of_sub_select(cxt->root, (Param *) node);
	return IsA(node, Const) || IsA(node, Var);
}

/* State of a search for CASE x WHEN */
typedef struct CaseState
{
	const LogqShipContext *cxt;
	int			depth;
} CaseState;

/*
 * How often is there a CASE with an argument in the argument of a CASE, and so
 * on, in what is written out?
 */
static bool
case_depth_walker(Node *node, CaseState *state)
{
	if (node == NULL)
		return false;
	if (IsA(node, CaseExpr) && ((CaseExpr *) node)->arg != NULL)
	{
		CaseExpr   *c = (CaseExpr *) node;
		int			inner;
		ListCell   *lc;

		check_stack_depth();
		inner = logq_case_depth(state->cxt, (Node *) c->arg);
		state->depth = Max(state->depth, inner + 1);
		foreach(lc, c->args)
		{
			CaseWhen   *when = lfirst_node(CaseWhen, lc);

			(void) case_depth_walker((Node *) when->expr, state);
			(void) case_depth_walker((Node *) when->result, state);
		}
		return case_depth_walker((Node *) c->defresult, state);
	}
	return expression_tree_walker(node, case_depth_walker, (void *) state);
}

/* See shippable.h. */
int
logq_case_depth(const LogqShipContext *cxt, Node *node)
{
	CaseState	state = {cxt};

	if (!logq_is_scan_constant(cxt, node))
		(void) case_depth_walker(node, &state);
	return state.depth;
}

/* ---------- guards ---------- */

/* What arms of AND and OR ahead of an expression say about it */
typedef struct GuardState
{
	const LogqShipContext *cxt;
	List	   *decided;		/* conditions: if one is true, it is of no
								 * matter */
} GuardState;

static Node *guard_mutator(Node *node, void *arg);

/*
 * Of which nodes may parts be sent, or prune?  All parts of these are
 * expressions, or lists of them.
 */
static bool
may_be_sent(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CaseExpr:
		case T_ArrayExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_RowCompareExpr:
		case T_SubscriptingRef:
			return true;
		default:
			return false;
	}
}

/*
 * Put what is computed before the scan under conditions, in their order.  See
 * logq_is_guarded().
 */
static Node *
guard(const GuardState *state, Node *node)
{
	CaseExpr   *c = makeNode(CaseExpr);
	ListCell   *lc;

	c->casetype = exprType(node);
	c->casecollid = exprCollation(node);
	foreach(lc, state->decided)
	{
		CaseWhen   *when = makeNode(CaseWhen);

		when->expr = lfirst(lc);
		when->result = (Expr *) makeNullConst(c->casetype, exprTypmod(node),
											  c->casecollid);
		when->location = -1;
		c->args = lappend(c->args, when);
	}
	c->defresult = (Expr *) node;
	c->location = -1;
	return (Node *) c;
}

/* See shippable.h. */
bool
logq_is_guarded(const Node *node)
{
	const CaseExpr *c = (const CaseExpr *) node;
	ListCell   *lc;

	/* one of the query's own has a place there */
	if (!IsA(node, CaseExpr) || c->arg != NULL || c->location != -1)
		return false;
	foreach(lc, c->args)
	{
		const Expr *result = lfirst_node(CaseWhen, lc)->result;

		if (!IsA(result, Const) || !((const Const *) result)->constisnull)
			return false;
	}
	return true;
}

/* See shippable.h. */
bool
logq_may_decide(const LogqShipContext *cxt, Node *arm)
{
	return !IsA(arm, Const) && logq_is_scan_constant(cxt, arm);
}

/*
 * The next arm of AND or OR is to be computed unless this one has decided.
 */
static void
add_decision(GuardState *state, BoolExprType boolop, Node *arm)
{
	if (boolop == NOT_EXPR || !logq_may_decide(state->cxt, arm))
		return;
	state->decided = lappend(list_copy(state->decided),
							 boolop == OR_EXPR ? arm :
							 (Node *) make_notclause((Expr *) arm));
}

static Node *
guard_mutator(Node *node, void *arg)
{
	GuardState *state = arg;

	if (node == NULL)
		return NULL;
	/* these have no type */
	if (IsA(node, List) || IsA(node, CaseWhen))
		return expression_tree_mutator(node, guard_mutator, arg);
	if (logq_is_scan_constant(state->cxt, node))
		return state->decided == NIL ||
			logq_cannot_fail(state->cxt, node) ? node : guard(state, node);
	if (IsA(node, BoolExpr))
	{
		BoolExpr   *b = (BoolExpr *) node;
		GuardState	inner = *state;
		List	   *args = NIL;
		ListCell   *lc;

		check_stack_depth();
		foreach(lc, b->args)
		{
			args = lappend(args, guard_mutator(lfirst(lc), &inner));
			add_decision(&inner, b->boolop, lfirst(lc));
		}
		return (Node *) makeBoolExpr(b->boolop, args, b->location);
	}
	return may_be_sent(node) ?
		expression_tree_mutator(node, guard_mutator, arg) : node;
}

/*
 * Is there an AND or OR with an arm that can decide about others?
 */
static bool
decides_walker(Node *node, void *cxt)
{
	if (node == NULL)
		return false;
	if (IsA(node, BoolExpr) && ((BoolExpr *) node)->boolop != NOT_EXPR)
	{
		ListCell   *lc;

		foreach(lc, ((BoolExpr *) node)->args)
			if (logq_may_decide(cxt, lfirst(lc)))
				return true;
	}
	return expression_tree_walker(node, decides_walker, cxt);
}

/* Rewrite the comparisons in a clause. */
static Expr *
rewrite_comparisons(const LogqShipContext *cxt, Expr *clause)
{
	if (IsA(clause, OpExpr))
		return rewrite_comparison(cxt, (OpExpr *) clause);

	if (IsA(clause, BoolExpr))
	{
		BoolExpr   *b = (BoolExpr *) clause;
		List	   *args = NIL;
		bool		changed = false;
		ListCell   *lc;

		check_stack_depth();
		foreach(lc, b->args)
		{
			Expr	   *arg = (Expr *) lfirst(lc);
			Expr	   *new = rewrite_comparisons(cxt, arg);

			changed |= new != arg;
			args = lappend(args, new);
		}
		if (changed)
			return makeBoolExpr(b->boolop, args, b->location);
		list_free(args);
	}
	return clause;
}

/*
 * See logq.h.  The result may share parts with the clause.
 *
 * AND and OR look at their arms from left to right, and no further than need
 * be.  An arm that does not depend on rows may thus protect later ones, as in
 * $1 = '' OR ts >= $1::timestamptz; but what these compare with is computed
 * before the scan.  So it is computed unless an arm ahead has decided, and is
 * NULL then.
 */
Expr *
logq_rewrite_clause(const LogqShipContext *cxt, Expr *clause)
{
	GuardState	state = {cxt};

	clause = rewrite_comparisons(cxt, clause);
	if (!decides_walker((Node *) clause, (void *) cxt))
		return clause;
	return (Expr *) guard_mutator((Node *) clause, &state);
}

/* ---------- ranking ---------- */

/* note what a function does; false if it is none of the known kinds */
static bool
rank_function(RankState *state, Oid funcid)
{
	switch (logq_function_kind(funcid))
	{
		case LOGQ_FUNCTION_REGEX:
			state->regex = true;
			return true;
		case LOGQ_FUNCTION_CASE:
			state->ignore_case = true;
			return true;
		case LOGQ_FUNCTION_LIKE:
			state->like = true;
			return true;
		case LOGQ_FUNCTION_OTHER:
			break;
	}
	return false;
}

static bool
is_jsonb_match(Oid funcid)
{
	for (int i = 0; i < lengthof(jsonb_match_functions); i++)
	{
		if (jsonb_match_functions[i] == funcid)
			return true;
	}
	return false;
}

/* note what a clause consists of */
static bool
rank_walker(Node *node, RankState *state)
{
	int			column;

	if (node == NULL)
		return false;
	/* a list has no type */
	if (IsA(node, List))
		return expression_tree_walker(node, rank_walker, (void *) state);
	if (logq_is_scan_constant(state->cxt, node))
		return false;
	if (IsA(node, CaseExpr))
	{
		/* no need to look into it */
		state->other = true;
		return false;
	}
	column = logq_plain_column(state->cxt, node);
	if (column >= 0)
	{
		state->column[column] = true;
		return false;
	}

	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			{
				Oid			funcid = get_opcode(((OpExpr *) node)->opno);

				(void) rank_function(state, funcid);
				/* what gets something out of attrs: -> ->> #> #>> and - */
				if (!is_jsonb_match(funcid) &&
					exprType((Node *) linitial(((OpExpr *) node)->args)) ==
					JSONBOID)
					state->json_get = true;
				break;
			}
		case T_ScalarArrayOpExpr:
			{
				ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) node;

				(void) rank_function(state, get_opcode(op->opno));
				break;
			}
		case T_FuncExpr:
			{
				FuncExpr   *f = (FuncExpr *) node;

				if (f->funcformat == COERCE_EXPLICIT_CAST ||
					f->funcformat == COERCE_IMPLICIT_CAST)
					state->cast = true;
				else if (!rank_function(state, f->funcid))
					state->other = true;
				break;
			}
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
			state->cast = true;
			break;
		case T_NullTest:
		case T_BooleanTest:
		case T_RelabelType:
		case T_BoolExpr:
			break;
		default:
			state->other = true;
			break;
	}
	return expression_tree_walker(node, rank_walker, (void *) state);
}

/* Does a clause compare the column itself with something known? */
static bool
compares_column(const LogqShipContext *cxt, Expr *clause, LogqColumn column)
{
	List	   *args;

	if (IsA(clause, OpExpr))
		args = ((OpExpr *) clause)->args;
	else if (IsA(clause, ScalarArrayOpExpr))
		args = ((ScalarArrayOpExpr *) clause)->args;
	else
		return false;
	return list_length(args) == 2 &&
		((logq_plain_column(cxt, linitial(args)) == (int) column &&
		  logq_is_scan_constant(cxt, lsecond(args))) ||
		 (logq_plain_column(cxt, lsecond(args)) == (int) column &&
		  logq_is_scan_constant(cxt, linitial(args))));
}

/* See logq.h.  Lower comes first. */
int
logq_clause_rank(const LogqShipContext *cxt, Expr *clause)
{
	RankState	state = {0};

	if (IsA(clause, BoolExpr))
	{
		int			rank = 0;
		ListCell   *lc;

		check_stack_depth();
		foreach(lc, ((BoolExpr *) clause)->args)
		{
			/* not within Max(), which would do it twice */
			int			of_arg = logq_clause_rank(cxt, (Expr *) lfirst(lc));

			rank = Max(rank, of_arg);
		}
		return rank;
	}

	state.cxt = cxt;
	(void) rank_walker((Node *) clause, &state);
	if (state.other)
		return RANK_OTHER;
	if (state.regex)
		return RANK_REGEX;
	if (state.ignore_case)
		return RANK_ILIKE;
	if (state.like)
		return RANK_LIKE;
	if (state.column[LOGQ_COL_ATTRS])
	{
		if (state.cast)
			return RANK_ATTRS_CAST;
		return state.json_get ? RANK_ATTRS_GET : RANK_ATTRS_MATCH;
	}
	if (compares_column(cxt, clause, LOGQ_COL_TS) ||
		compares_column(cxt, clause, LOGQ_COL_ID))
		return RANK_TS_ID;
	if (compares_column(cxt, clause, LOGQ_COL_LEVEL))
		return RANK_LEVEL;
	if (compares_column(cxt, clause, LOGQ_COL_SERVICE))
		return RANK_SERVICE;
	if (compares_column(cxt, clause, LOGQ_COL_TRACE_ID))
		return RANK_TRACE_ID;
	return RANK_COLUMN;
}
