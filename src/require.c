/*-------------------------------------------------------------------------
 *
 * require.c
 *		Errors of functions that are written in SQL.
 *
 * An SQL function that the planner is to expand cannot raise an error of its
 * own.  It puts what its arguments have to fulfil into its WHERE clause as
 * calls of logq.require(), which are evaluated once, before anything is asked,
 * and when the arguments are constants, already in planning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(logq_require);

/*
 * require(condition boolean, message text, hint text): true, or an error.  A
 * condition that is not known is not fulfilled.
 */
Datum
logq_require(PG_FUNCTION_ARGS)
{
	char	   *message;
	char	   *hint;

	if (!PG_ARGISNULL(0) && PG_GETARG_BOOL(0))
		PG_RETURN_BOOL(true);

	message = PG_ARGISNULL(1) ? "condition is not fulfilled" :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
	hint = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("%s", message),
			 hint ? errhint("%s", hint) : 0));
}
