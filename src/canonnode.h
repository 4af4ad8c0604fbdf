/*-------------------------------------------------------------------------
 *
 * canonnode.h
 *		Clauses in the plan, as canon.c puts them there for canonrun.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CANONNODE_H
#define LOGQ_CANONNODE_H

/*
 * Nodes of the plan: Lists whose first member is an Integer of this kind.  A
 * constant is a Const, or an Integer, the number of a parameter.
 */
typedef enum CanonKind
{
	CANON_AND,					/* nodes */
	CANON_OR,					/* nodes */
	CANON_NOT,					/* node */
	CANON_VALUE,				/* constant: a boolean */
	CANON_BOUND,				/* IntList: column, LogqPruneOp; constant */
	CANON_COMPARE,				/* IntList, see CompareItem; pieces of the
								 * left side; constant */
	CANON_SQL					/* pieces */
} CanonKind;

/* With how many values is an expression compared? */
typedef enum CanonQuantifier
{
	CANON_ONE,					/* one: ANY and ALL are the same then */
	CANON_ANY,
	CANON_ALL
} CanonQuantifier;

enum CompareItem
{
	COMPARE_OP,					/* the operator's OID */
	COMPARE_TYPE,				/* of the values */
	COMPARE_COLLATION,			/* LogqCollationUse */
	COMPARE_STRATEGY,			/* of an order that we know, else 0 */
	COMPARE_QUANTIFIER			/* CANON_ONE: the constant is no array */
};

#endif							/* LOGQ_CANONNODE_H */
