/*-------------------------------------------------------------------------
 *
 * deparse.c
 *		Expressions and values as SQL that every partition reads alike.
 *
 * logq_deparse_expr takes what logq_is_shippable has accepted; meeting
 * anything else is an internal error.  The text relies on nothing but the
 * settings that logq pins on its connections (logq_connection_params):
 * search_path is pg_catalog, so operators need no schema, and
 * standard_conforming_strings is on.
 *
 * The text is not a whole yet: values that are known only when the scan
 * starts have places in it, and so has the partition's name, as one plan
 * serves all partitions.  Everything is parenthesised, so no precedence has
 * to be known and a literal can stand wherever a place is.
 *
 * Values are always written as literals with a type.  Hence the partition's
 * parser finds the operator and function that ours found: their arguments
 * have exactly the declared types.
 *
 * The general plan, and logq_set_transmission_modes, follow deparse.c and
 * postgres_fdw.c of contrib/postgres_fdw (Portions Copyright (c) 2012-2025,
 * PostgreSQL Global Development Group).
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "shippable.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

typedef struct DeparseState
{
	const LogqShipContext *cxt;
	StringInfoData buf;			/* text since the last place */
	List	   *pieces;
	List	  **params;
	Expr	   *case_arg;		/* what a CaseTestExpr stands for */
} DeparseState;

static void deparse_node(Node *node, DeparseState *state);

/* ---------- values ---------- */

static void
pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * See logq.h.  Only to be in force while values are written: expressions of
 * the user must be evaluated in the user's own settings.
 */
int
logq_set_transmission_modes(void)
{
	int			nestlevel = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		pin_setting("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		pin_setting("intervalstyle", "postgres");
	if (extra_float_digits < 3)
		pin_setting("extra_float_digits", "3");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		pin_setting("bytea_output", "hex");

	/* any zone would do, but the same one makes the same text */
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		pin_setting("timezone", "UTC");

	/* names of objects in values of type regclass and the like */
	pin_setting("search_path", "pg_catalog");

	return nestlevel;
}

/* See logq.h.  The caller has set the transmission modes. */
void
logq_append_literal(StringInfo buf, Datum value, bool isnull, Oid type,
					int32 typmod)
{
	if (isnull)
		appendStringInfoString(buf, "NULL");
	else
	{
		Oid			outfunc;
		bool		varlena;
		char	   *text;
		char	   *quoted;

		getTypeOutputInfo(type, &outfunc, &varlena);
		text = OidOutputFunctionCall(outfunc, value);
		/* writes E'' when there is a backslash */
		quoted = quote_literal_cstr(text);
		appendStringInfoString(buf, quoted);
		pfree(quoted);
		pfree(text);
	}
	appendStringInfoString(buf, "::");
	appendStringInfoString(buf,
						   format_type_extended(type, typmod,
												FORMAT_TYPE_TYPEMOD_GIVEN));
}

/* See logq.h.  The text is that of timestamptz_out() in these modes. */
void
logq_append_time(StringInfo buf, TimestampTz time)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char		text[MAXDATELEN + 1];

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "time out of range");
	tm.tm_isdst = 0;			/* it is in UTC, and that is to be written */
	EncodeDateTime(&tm, fsec, true, 0, NULL, USE_ISO_DATES, text);
	appendStringInfo(buf, "'%s'::timestamp with time zone", text);
}

/* See logq.h. */
int
logq_param_index(List **params, Expr *expr)
{
	int			i = 0;
	ListCell   *lc;

	foreach(lc, *params)
	{
		if (equal(lfirst(lc), expr))
			return i;
		i++;
	}
	*params = lappend(*params, copyObject(expr));
	return i;
}

/* ---------- helpers ---------- */

/* End the text and leave a place for a value. */
static void
append_place(DeparseState *state, int place)
{
	if (state->buf.len > 0)
	{
		state->pieces = lappend(state->pieces,
								makeString(pstrdup(state->buf.data)));
		resetStringInfo(&state->buf);
	}
	state->pieces = lappend(state->pieces, makeInteger(place));
}

static void
append_text(DeparseState *state, const char *text)
{
	appendStringInfoString(&state->buf, text);
}

/* expressions, separated by commas */
static void
deparse_list(List *list, DeparseState *state)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		if (foreach_current_index(lc) > 0)
			append_text(state, ", ");
		deparse_node((Node *) lfirst(lc), state);
	}
}

/*
 * An expression with COLLATE "C" if wanted and if it has a collation; *collate
 * is cleared then.  One argument that names it is enough for a function or an
 * operator: the others' collations are implicit, or are "C" too.
 */
static void
deparse_collated(Node *node, bool *collate, DeparseState *state)
{
	if (*collate && type_is_collatable(exprType(node)))
	{
		*collate = false;
		append_text(state, "(");
		deparse_node(node, state);
		append_text(state, " COLLATE pg_catalog.\"C\")");
	}
	else
		deparse_node(node, state);
}

/* must an argument name the collation "C"? */
static bool
must_collate(DeparseState *state, Oid funcid, Oid inputcollid, List *args)
{
	return logq_collation_use(state->cxt, funcid, inputcollid, args) ==
		LOGQ_COLLATION_C;
}

/* (expr)::type */
static void
deparse_cast(Node *arg, Oid type, int32 typmod, DeparseState *state)
{
	append_text(state, "(");
	deparse_node(arg, state);
	append_text(state, ")::");
	append_text(state, format_type_extended(type, typmod,
											FORMAT_TYPE_TYPEMOD_GIVEN));
}

/* ---------- nodes ---------- */

static void
deparse_var(Var *var, DeparseState *state)
{
	int			column = state->cxt->map->column[var->varattno];

	if (column == LOGQ_COL_PARTITION)
		append_place(state, LOGQ_PIECE_PARTITION);
	else
		append_text(state, quote_identifier(logq_columns[column].name));
}

static void
deparse_const(Const *con, DeparseState *state)
{
	/* the value has been cut to its typmod already */
	logq_append_literal(&state->buf, con->constvalue, con->constisnull,
						con->consttype, -1);
}

/*
 * Casts as casts, everything else as a plain call: the special syntax of
 * SUBSTRING and its like is but another way to write one.
 */
static void
deparse_function(FuncExpr *f, DeparseState *state)
{
	bool		collate = must_collate(state, f->funcid, f->inputcollid,
									   f->args);
	char	   *name;
	ListCell   *lc;

	if (f->funcformat == COERCE_EXPLICIT_CAST ||
		f->funcformat == COERCE_IMPLICIT_CAST)
	{
		int32		typmod = -1;

		(void) exprIsLengthCoercion((Node *) f, &typmod);
		append_text(state, "(");
		deparse_collated((Node *) linitial(f->args), &collate, state);
		append_text(state, ")::");
		append_text(state, format_type_extended(f->funcresulttype, typmod,
												FORMAT_TYPE_TYPEMOD_GIVEN));
		return;
	}

	name = get_func_name(f->funcid);
	if (name == NULL)
		elog(ERROR, "cache lookup failed for function %u", f->funcid);
	appendStringInfo(&state->buf, "pg_catalog.%s(", quote_identifier(name));
	foreach(lc, f->args)
	{
		if (foreach_current_index(lc) > 0)
			append_text(state, ", ");
		if (f->funcvariadic && lnext(f->args, lc) == NULL)
			append_text(state, "VARIADIC ");
		deparse_collated((Node *) lfirst(lc), &collate, state);
	}
	append_text(state, ")");
}

/* OpExpr, and DistinctExpr with its own infix */
static void
deparse_operator(OpExpr *op, const char *infix, DeparseState *state)
{
	bool		collate = must_collate(state, get_opcode(op->opno),
									   op->inputcollid, op->args);

	append_text(state, "(");
	if (list_length(op->args) == 2)
	{
		deparse_collated((Node *) linitial(op->args), &collate, state);
		append_text(state, " ");
	}
	append_text(state, infix);
	append_text(state, " ");
	deparse_collated((Node *) llast(op->args), &collate, state);
	append_text(state, ")");
}

static void
deparse_array_operator(ScalarArrayOpExpr *op, DeparseState *state)
{
	bool		collate = must_collate(state, get_opcode(op->opno),
									   op->inputcollid, op->args);

	append_text(state, "(");
	deparse_collated((Node *) linitial(op->args), &collate, state);
	appendStringInfo(&state->buf, " %s %s (", get_opname(op->opno),
					 op->useOr ? "ANY" : "ALL");
	deparse_collated((Node *) lsecond(op->args), &collate, state);
	append_text(state, "))");
}

static void
deparse_bool(BoolExpr *b, DeparseState *state)
{
	const char *infix = b->boolop == AND_EXPR ? " AND " : " OR ";
	ListCell   *lc;

	append_text(state, "(");
	if (b->boolop == NOT_EXPR)
		append_text(state, "NOT ");
	foreach(lc, b->args)
	{
		if (foreach_current_index(lc) > 0)
			append_text(state, infix);
		deparse_node((Node *) lfirst(lc), state);
	}
	append_text(state, ")");
}

static void
deparse_boolean_test(BooleanTest *b, DeparseState *state)
{
	const char *suffix = NULL;

	switch (b->booltesttype)
	{
		case IS_TRUE:
			suffix = " IS TRUE)";
			break;
		case IS_NOT_TRUE:
			suffix = " IS NOT TRUE)";
			break;
		case IS_FALSE:
			suffix = " IS FALSE)";
			break;
		case IS_NOT_FALSE:
			suffix = " IS NOT FALSE)";
			break;
		case IS_UNKNOWN:
			suffix = " IS UNKNOWN)";
			break;
		case IS_NOT_UNKNOWN:
			suffix = " IS NOT UNKNOWN)";
			break;
	}
	append_text(state, "(");
	deparse_node((Node *) b->arg, state);
	append_text(state, suffix);
}

/*
 * CASE, always without an argument: that is written wherever a condition
 * refers to it.  It is not volatile, and the optimizer may have made anything
 * of the conditions.
 */
static void
deparse_case(CaseExpr *c, DeparseState *state)
{
	Expr	   *saved = state->case_arg;
	ListCell   *lc;

	if (c->arg != NULL)
		state->case_arg = c->arg;
	append_text(state, "(CASE");
	foreach(lc, c->args)
	{
		CaseWhen   *when = lfirst_node(CaseWhen, lc);

		append_text(state, " WHEN ");
		deparse_node((Node *) when->expr, state);
		append_text(state, " THEN ");
		deparse_node((Node *) when->result, state);
	}
	if (c->defresult != NULL)
	{
		append_text(state, " ELSE ");
		deparse_node((Node *) c->defresult, state);
	}
	append_text(state, " END)");
	state->case_arg = saved;
}

static void
deparse_min_max(MinMaxExpr *m, DeparseState *state)
{
	bool		collate = must_collate(state, InvalidOid, m->inputcollid,
									   m->args);
	ListCell   *lc;

	append_text(state, m->op == IS_GREATEST ? "GREATEST(" : "LEAST(");
	foreach(lc, m->args)
	{
		if (foreach_current_index(lc) > 0)
			append_text(state, ", ");
		deparse_collated((Node *) lfirst(lc), &collate, state);
	}
	append_text(state, ")");
}

static void
deparse_subscript(SubscriptingRef *s, DeparseState *state)
{
	ListCell   *upper;
	ListCell   *lower = list_head(s->reflowerindexpr);

	/* the inner parentheses: '...'::int[] [1] would be another type */
	append_text(state, "((");
	deparse_node((Node *) s->refexpr, state);
	append_text(state, ")");
	foreach(upper, s->refupperindexpr)
	{
		append_text(state, "[");
		if (lower != NULL)
		{
			if (lfirst(lower) != NULL)
				deparse_node((Node *) lfirst(lower), state);
			append_text(state, ":");
			lower = lnext(s->reflowerindexpr, lower);
		}
		if (lfirst(upper) != NULL)
			deparse_node((Node *) lfirst(upper), state);
		append_text(state, "]");
	}
	append_text(state, ")");
}

/* an aggregate without DISTINCT and ORDER BY */
static void
deparse_aggregate(Aggref *agg, DeparseState *state)
{
	char	   *name = get_func_name(agg->aggfnoid);
	List	   *args = NIL;
	bool		collate;
	ListCell   *lc;

	if (name == NULL)
		elog(ERROR, "cache lookup failed for function %u", agg->aggfnoid);
	foreach(lc, agg->args)
		args = lappend(args, lfirst_node(TargetEntry, lc)->expr);
	collate = must_collate(state, agg->aggfnoid, agg->inputcollid, args);
	appendStringInfo(&state->buf, "pg_catalog.%s(", quote_identifier(name));
	if (args == NIL)
		append_text(state, "*");
	foreach(lc, args)
	{
		if (foreach_current_index(lc) > 0)
			append_text(state, ", ");
		deparse_collated((Node *) lfirst(lc), &collate, state);
	}
	append_text(state, ")");
	if (agg->aggfilter != NULL)
	{
		append_text(state, " FILTER (WHERE ");
		deparse_node((Node *) agg->aggfilter, state);
		append_text(state, ")");
	}
}

static void
deparse_node(Node *node, DeparseState *state)
{
	check_stack_depth();

	if (logq_is_scan_constant(state->cxt, node))
	{
		if (IsA(node, Const))
			deparse_const((Const *) node, state);
		else
			append_place(state,
						 logq_param_index(state->params, (Expr *) node));
		return;
	}

	switch (nodeTag(node))
	{
		case T_Var:
			deparse_var((Var *) node, state);
			break;
		case T_FuncExpr:
			deparse_function((FuncExpr *) node, state);
			break;
		case T_Aggref:
			deparse_aggregate((Aggref *) node, state);
			break;
		case T_OpExpr:
			deparse_operator((OpExpr *) node,
							 get_opname(((OpExpr *) node)->opno), state);
			break;
		case T_DistinctExpr:
			deparse_operator((OpExpr *) node, "IS DISTINCT FROM", state);
			break;
		case T_NullIfExpr:
			/* compares for equality, which needs no collation */
			append_text(state, "NULLIF(");
			deparse_list(((NullIfExpr *) node)->args, state);
			append_text(state, ")");
			break;
		case T_ScalarArrayOpExpr:
			deparse_array_operator((ScalarArrayOpExpr *) node, state);
			break;
		case T_BoolExpr:
			deparse_bool((BoolExpr *) node, state);
			break;
		case T_NullTest:
			append_text(state, "(");
			deparse_node((Node *) ((NullTest *) node)->arg, state);
			append_text(state,
						((NullTest *) node)->nulltesttype == IS_NULL ?
						" IS NULL)" : " IS NOT NULL)");
			break;
		case T_BooleanTest:
			deparse_boolean_test((BooleanTest *) node, state);
			break;
		case T_RelabelType:
			{
				RelabelType *r = (RelabelType *) node;

				/* if it only names a collation, the operators know it */
				if (exprType((Node *) r->arg) == r->resulttype)
					deparse_node((Node *) r->arg, state);
				else
					deparse_cast((Node *) r->arg, r->resulttype, -1, state);
				break;
			}
		case T_CoerceViaIO:
			deparse_cast((Node *) ((CoerceViaIO *) node)->arg,
						 ((CoerceViaIO *) node)->resulttype, -1, state);
			break;
		case T_ArrayCoerceExpr:
			deparse_cast((Node *) ((ArrayCoerceExpr *) node)->arg,
						 ((ArrayCoerceExpr *) node)->resulttype,
						 ((ArrayCoerceExpr *) node)->resulttypmod, state);
			break;
		case T_CaseExpr:
			deparse_case((CaseExpr *) node, state);
			break;
		case T_CaseTestExpr:
			Assert(state->case_arg != NULL);
			deparse_node((Node *) state->case_arg, state);
			break;
		case T_ArrayExpr:
			append_text(state, "(ARRAY[");
			deparse_list(((ArrayExpr *) node)->elements, state);
			append_text(state, "])::");
			append_text(state,
						format_type_be(((ArrayExpr *) node)->array_typeid));
			break;
		case T_CoalesceExpr:
			append_text(state, "COALESCE(");
			deparse_list(((CoalesceExpr *) node)->args, state);
			append_text(state, ")");
			break;
		case T_MinMaxExpr:
			deparse_min_max((MinMaxExpr *) node, state);
			break;
		case T_RowCompareExpr:
			append_text(state, "(ROW(");
			deparse_list(((RowCompareExpr *) node)->largs, state);
			append_text(state, psprintf(") %s ROW(",
										get_opname(linitial_oid(((RowCompareExpr *) node)->opnos))));
			deparse_list(((RowCompareExpr *) node)->rargs, state);
			append_text(state, "))");
			break;
		case T_SubscriptingRef:
			deparse_subscript((SubscriptingRef *) node, state);
			break;
		default:
			elog(ERROR, "unsupported expression type for deparse: %d",
				 (int) nodeTag(node));
	}
}

/*
 * See logq.h.  Literals that are known already are written here, in the
 * transmission modes.
 */
List *
logq_deparse_expr(const LogqShipContext *cxt, Expr *expr, List **params)
{
	DeparseState state = {0};
	int			nestlevel;

	state.cxt = cxt;
	state.params = params;
	initStringInfo(&state.buf);

	nestlevel = logq_set_transmission_modes();
	deparse_node((Node *) expr, &state);
	AtEOXact_GUC(true, nestlevel);

	if (state.buf.len > 0)
		state.pieces = lappend(state.pieces,
							   makeString(pstrdup(state.buf.data)));
	pfree(state.buf.data);
	return state.pieces;
}
