/*-------------------------------------------------------------------------
 *
 * shippable.h
 *		What shippable.c, portable.c, clause.c, epoch.c and deparse.c know of
 *		each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_SHIPPABLE_H
#define LOGQ_SHIPPABLE_H

#include "logq.h"

/* On which collation does the result of a function or operator depend? */
typedef enum LogqCollationUse
{
	LOGQ_COLLATION_ANY,			/* none: the partition may use its own */
	LOGQ_COLLATION_SAME,		/* the default one, the same over there */
	LOGQ_COLLATION_C,			/* "C", which the remote SQL has to name */
	LOGQ_COLLATION_NO			/* on one that partitions may not have */
} LogqCollationUse;

/* funcid is InvalidOid for GREATEST and LEAST */
extern LogqCollationUse logq_collation_use(const LogqShipContext *cxt,
										   Oid funcid, Oid inputcollid,
										   List *args);

/* What a function does to text, by rising cost */
typedef enum LogqFunctionKind
{
	LOGQ_FUNCTION_OTHER,
	LOGQ_FUNCTION_LIKE,			/* looks for a string in another */
	LOGQ_FUNCTION_CASE,			/* matches in any case, or folds it */
	LOGQ_FUNCTION_REGEX			/* uses a regular expression */
} LogqFunctionKind;

extern LogqFunctionKind logq_function_kind(Oid funcid);

/* does it take the query's own execution to compute a node? */
extern bool logq_is_of_query(Node *node);

/*
 * In clause.c: is this, which is the same for the whole scan, known without
 * computing anything?
 */
extern bool logq_cannot_fail(const LogqShipContext *cxt, Node *node);

/*
 * In clause.c: how often is there a CASE x WHEN in the x of another, and so on,
 * in what is written out?
 */
extern int	logq_case_depth(const LogqShipContext *cxt, Node *node);

/*
 * In clause.c: is an arm of AND or OR known before the scan, and not yet?  Then
 * it may keep those behind it from being computed.
 */
extern bool logq_may_decide(const LogqShipContext *cxt, Node *arm);

/*
 * In clause.c: is it a constant that logq_rewrite_clause() has put under
 * conditions?
 */
extern bool logq_is_guarded(const Node *node);

/* in portable.c: does a jsonpath keep to what 13 knows and no setting touches? */
extern bool logq_jsonpath_is_portable(const Const *con);
/* in portable.c: is it the same with these arguments in all versions? */
extern bool logq_call_is_portable(Oid funcid, List *args);

/* in epoch.c: comparisons of seconds since 1970; NULL if it is none */
extern Expr *logq_rewrite_epoch(const LogqShipContext *cxt, OpExpr *op);

#endif							/* LOGQ_SHIPPABLE_H */
