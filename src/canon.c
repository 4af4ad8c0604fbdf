/*-------------------------------------------------------------------------
 *
 * canon.c
 *		What a scan asks of rows, so that equal questions can be told.
 *
 * Whoever has asked the same before may have put it in another way: the
 * conditions in another order, an IN list for an OR, BETWEEN for two
 * comparisons, the constant on the other side, a parameter for a constant,
 * one bound more than was needed.  The cache goes by a text in which these are
 * all the same; it is made when a run begins and the constants have values,
 * see canonrun.c.
 *
 * When the scan is planned, the clauses that are sent become a tree (nested
 * Lists in the plan) of ANDs, ORs and NOTs over
 *
 * - bounds of ts and id, which become a range each and are not in the text;
 * - comparisons of an expression with a constant, or with ANY or ALL of an
 *	 array of them: x = 'a' is x = ANY ('{a}'), and so is one with ALL;
 * - values that are the same for all rows;
 * - SQL, for whatever else there is.
 *
 * Invariant: a node says all that the SQL of its clause says, which depends on
 * nothing but what is in the node: the operator, whether the collation "C" is
 * named, the types, the SQL of the left side.  When in doubt, it is SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cache.h"
#include "canonnode.h"
#include "scan.h"
#include "shippable.h"

#include "access/stratnum.h"
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/*
 * Types of which append_image() can write values.
 */
static bool
has_image(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case JSONBOID:
		case UUIDOID:
		case INETOID:
		case CIDROID:
			return true;
		default:
			return false;
	}
}

static Node *
constant_node(Node *expr, List **params)
{
	if (IsA(expr, Const))
		return copyObject(expr);
	return (Node *) makeInteger(logq_param_index(params, (Expr *) expr));
}

/*
 * An expression as pieces.  The usual ones are columns, for which there is no
 * need to pin any settings.
 */
static List *
expr_pieces(const LogqShipContext *cxt, Node *expr, List **params)
{
	int			column = logq_var_column(cxt, expr);

	if (column >= 0 && column != LOGQ_COL_PARTITION)
		return list_make1(makeString(pstrdup(logq_columns[column].name)));
	return logq_deparse_expr(cxt, (Expr *) expr, params);
}

static List *
build_sql(const LogqShipContext *cxt, Expr *clause, List **params)
{
	return list_make2(makeInteger(CANON_SQL),
					  logq_deparse_expr(cxt, clause, params));
}

/*
 * Put the constant side of a comparison on the right.  Comparisons that
 * cannot be turned come back as they are.
 */
static OpExpr *
constant_to_right(const LogqShipContext *cxt, OpExpr *op)
{
	OpExpr	   *turned;
	Oid			opno;

	if (list_length(op->args) != 2 ||
		!logq_is_scan_constant(cxt, linitial(op->args)) ||
		logq_is_scan_constant(cxt, lsecond(op->args)))
		return op;
	opno = get_commutator(op->opno);
	if (!OidIsValid(opno) || opno >= FirstGenbkiObjectId)
		return op;
	/* IS DISTINCT FROM must stay about the same equality */
	if (IsA(op, DistinctExpr) && opno != op->opno)
		return op;
	turned = (OpExpr *) copyObject((Node *) op);
	turned->opno = opno;
	turned->opfuncid = get_opcode(opno);
	turned->args = list_make2(lsecond(turned->args), linitial(turned->args));
	return turned;
}

/*
 * Strategy of an operator, if we can tell which of two values bounds more just
 * as a partition does: both sides are of that type, and texts are compared in
 * the collation "C".
 */
static int
order_strategy(Oid opno, Oid type, LogqCollationUse use)
{
	TypeCacheEntry *cache = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid			left;
	Oid			right;
	int			strategy;

	if (!OidIsValid(cache->btree_opf))
		return 0;
	strategy = get_op_opfamily_strategy(opno, cache->btree_opf);
	if (strategy == 0 || strategy == BTEqualStrategyNumber)
		return 0;
	op_input_types(opno, &left, &right);
	if (left != type || right != type)
		return 0;
	if (type_is_collatable(type) ?
		use != LOGQ_COLLATION_C &&
		!(use == LOGQ_COLLATION_SAME &&
		  logq_collate_is_c(DEFAULT_COLLATION_OID)) :
		use != LOGQ_COLLATION_ANY)
		return 0;
	return strategy;
}

/*
 * A comparison of an expression with one value or with those of an array; SQL
 * if it is none of which we know how to write the values.
 */
static List *
build_comparison(const LogqShipContext *cxt, Expr *clause, List **params)
{
	CanonQuantifier quantifier;
	List	   *args;
	Oid			opno;
	Oid			inputcollid;
	Oid			type;
	LogqCollationUse use;

	if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		quantifier = op->useOr ? CANON_ANY : CANON_ALL;
		args = op->args;
		opno = op->opno;
		inputcollid = op->inputcollid;
		type = get_element_type(exprType(lsecond(args)));
	}
	else
	{
		OpExpr	   *op = constant_to_right(cxt, (OpExpr *) clause);

		clause = (Expr *) op;
		if (list_length(op->args) != 2)
			return build_sql(cxt, clause, params);
		quantifier = CANON_ONE;
		args = op->args;
		opno = op->opno;
		inputcollid = op->inputcollid;
		type = exprType(lsecond(args));
	}
	/* only of strict ones the result for NULL is known */
	if (!logq_is_scan_constant(cxt, lsecond(args)) || !has_image(type) ||
		!op_strict(opno))
		return build_sql(cxt, clause, params);

	use = logq_collation_use(cxt, get_opcode(opno), inputcollid, args);
	return list_make4(makeInteger(CANON_COMPARE),
					  list_make5_int((int) opno, (int) type, use,
									 order_strategy(opno, type, use),
									 quantifier),
					  expr_pieces(cxt, linitial(args), params),
					  constant_node(lsecond(args), params));
}

/*
 * The node of a clause.  conjunct: there are only ANDs above it.
 */
static List *
build_node(const LogqShipContext *cxt, Expr *clause, bool conjunct,
		   List **params)
{
	LogqPruneOp op;
	int			column;
	Node	   *value;

	check_stack_depth();

	if (logq_is_scan_constant(cxt, (Node *) clause))
		return list_make2(makeInteger(CANON_VALUE),
						  constant_node((Node *) clause, params));

	switch (nodeTag(clause))
	{
		case T_BoolExpr:
			{
				BoolExpr   *b = (BoolExpr *) clause;
				CanonKind	kind = b->boolop == AND_EXPR ? CANON_AND :
					b->boolop == OR_EXPR ? CANON_OR : CANON_NOT;
				List	   *node = list_make1(makeInteger(kind));
				ListCell   *lc;

				conjunct = conjunct && kind == CANON_AND;
				foreach(lc, b->args)
					node = lappend(node, build_node(cxt, lfirst(lc), conjunct,
													params));
				return node;
			}
		case T_OpExpr:
			if (conjunct &&
				logq_prune_bound(cxt, clause, &column, &op, &value) &&
				logq_is_scan_constant(cxt, value))
				return list_make3(makeInteger(CANON_BOUND),
								  list_make2_int(column, op),
								  constant_node(value, params));
			return build_comparison(cxt, clause, params);
		case T_ScalarArrayOpExpr:
			return build_comparison(cxt, clause, params);
		case T_DistinctExpr:
			return build_sql(cxt, (Expr *) constant_to_right(cxt,
															 (OpExpr *) clause),
							 params);
		default:
			return build_sql(cxt, clause, params);
	}
}

/*
 * See cache.h.  The nodes of the clauses, which are ANDed.  All parameters are
 * there already if the clauses were deparsed before.
 */
List *
logq_canon_clauses(const LogqShipContext *cxt, List *clauses, List **params)
{
	List	   *nodes = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
		nodes = lappend(nodes, build_node(cxt, lfirst(lc), true, params));
	return nodes;
}
