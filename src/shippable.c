/*-------------------------------------------------------------------------
 *
 * shippable.c
 *		May an expression be evaluated by the partitions?
 *
 * An expression is shipped only if every partition must come to the result
 * that we would come to.  That asks for more than immutability:
 *
 * - Partitions may be older (from 13 on), so whatever came after 13 stays
 *	 here.
 * - Some functions are marked immutable although their result depends on the
 *	 session, the platform's C library, the time zone database, Unicode data,
 *	 or the encoding.  They are listed by name below.
 * - Of others it depends on their arguments; see portable.c.
 * - The databases may differ in their locale.  What does not depend on it is
 *	 shipped as it is, what does is shipped if the partitions have the same
 *	 locale or if it is to be done in the "C" collation, which is the same
 *	 everywhere.  deparse.c then writes COLLATE "C".
 * - Only types are let through whose text form means the same to all servers.
 *
 * Sub-expressions that have one value for the whole scan are computed here
 * and sent as values; there anything goes that is not volatile.
 *
 * Nothing here fails: what is not understood is not shipped, which is slower
 * but never wrong.  Whether an error is raised (a cast of bad input, say) may
 * differ, because SQL leaves it open which of the clauses is evaluated first.
 *
 * The way the expression tree is walked follows foreign_expr_walker() of
 * contrib/postgres_fdw (Portions Copyright (c) 2012-2025, PostgreSQL Global
 * Development Group).
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "shippable.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/*
 * The highest OID of a function of PostgreSQL 13 that can get past the checks
 * of type and volatility.  What 14 to 18 added lies above, but for the two
 * in newer_functions; found by comparing their pg_proc.dat.
 */
#define LAST_FUNCTION_OF_13 5054

static const Oid newer_functions[] = {
	4401,						/* range_intersect_agg_transfn, 14 */
	4549						/* unicode_version, 17 */
};

/*
 * Immutable built-in functions that are not shipped, sorted by name.  Names
 * that contain "hash" or end in "cmp" are refused as well: what these return
 * is nobody's business outside of the server.
 */
static const char *const unshippable_functions[] = {
	/* the C library's mathematics; numeric ones got more precise over time */
	"acos", "acosd", "acosh",
	"age",						/* uses the session's time zone */
	"asin", "asind", "asinh", "atan", "atan2", "atan2d", "atand", "atanh",
	"cbrt", "cos", "cosd", "cosh", "cot", "cotd",
	"dcbrt", "dexp", "dlog1", "dlog10", "dpow",
	"exp",
	"is_normalized",			/* Unicode version */
	"json_strip_nulls", "jsonb_strip_nulls",	/* another signature in 18 */
	"ln", "log", "log10",
	"normalize",				/* Unicode version */
	"numeric_exp", "numeric_ln", "numeric_log", "numeric_power",
	"parse_ident",				/* folds case by the locale */
	"pg_encoding_max_length",
	"pg_size_bytes", "pg_size_pretty",	/* units were added */
	"pow", "power",
	"quote_ident",				/* key words, quote_all_identifiers */
	"sin", "sind", "sinh", "tan", "tand", "tanh",
	"to_ascii",					/* encoding */
	"xml_is_well_formed_content", "xml_is_well_formed_document"
};

/* These depend on the encoding of the database. */
static const Oid encoding_functions[] = {
	F_ASCII, F_BIT_LENGTH_TEXT, F_CHR, F_MD5_TEXT, F_OCTET_LENGTH_TEXT
};

/*
 * These have text among their input (or what can be text), but give the same
 * result in every deterministic collation.
 */
static const Oid collation_free_functions[] = {
	/* text */
	F_TEXTEQ, F_TEXTNE,
	F_TEXTLIKE, F_TEXTNLIKE, F_LIKE_TEXT_TEXT, F_NOTLIKE_TEXT_TEXT,
	F_LIKE_ESCAPE_TEXT_TEXT, F_STARTS_WITH, F_POSITION_TEXT_TEXT, F_STRPOS,
	F_TEXTLEN, F_LENGTH_TEXT, F_CHAR_LENGTH_TEXT, F_CHARACTER_LENGTH_TEXT,
	F_SUBSTR_TEXT_INT4, F_SUBSTR_TEXT_INT4_INT4,
	F_SUBSTRING_TEXT_INT4, F_SUBSTRING_TEXT_INT4_INT4,
	F_LEFT, F_RIGHT, F_REPLACE, F_TEXTCAT, F_REPEAT,
	LOGQ_F_REVERSE_TEXT,
	F_BTRIM_TEXT, F_BTRIM_TEXT_TEXT, F_LTRIM_TEXT, F_LTRIM_TEXT_TEXT,
	F_RTRIM_TEXT, F_RTRIM_TEXT_TEXT,
	F_LPAD_TEXT_INT4, F_LPAD_TEXT_INT4_TEXT,
	F_RPAD_TEXT_INT4, F_RPAD_TEXT_INT4_TEXT,
	F_OVERLAY_TEXT_TEXT_INT4, F_OVERLAY_TEXT_TEXT_INT4_INT4,
	F_SPLIT_PART, F_TRANSLATE,
	F_STRING_TO_ARRAY_TEXT_TEXT, F_STRING_TO_ARRAY_TEXT_TEXT_TEXT,
	F_VARCHAR_VARCHAR_INT4_BOOL,
	F_COUNT_ANY,
	F_NUM_NULLS, F_NUM_NONNULLS,
	/* a field, a zone, the flags of bounds */
	F_DATE_PART_TEXT_DATE, F_DATE_PART_TEXT_INTERVAL, F_DATE_PART_TEXT_TIME,
	F_DATE_PART_TEXT_TIMESTAMP,
	F_DATE_TRUNC_TEXT_INTERVAL, F_DATE_TRUNC_TEXT_TIMESTAMP,
	F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT,
	F_TIMEZONE_TEXT_TIMESTAMPTZ, F_TIMEZONE_TEXT_TIMESTAMP,
	F_INT4RANGE_INT4_INT4_TEXT, F_INT8RANGE_INT8_INT8_TEXT,
	F_NUMRANGE_NUMERIC_NUMERIC_TEXT, F_TSRANGE_TIMESTAMP_TIMESTAMP_TEXT,
	F_TSTZRANGE_TIMESTAMPTZ_TIMESTAMPTZ_TEXT, F_DATERANGE_DATE_DATE_TEXT,
	/* json */
	F_JSON_EXTRACT_PATH, F_JSON_EXTRACT_PATH_TEXT,
	F_JSON_OBJECT_FIELD, F_JSON_OBJECT_FIELD_TEXT,
	F_JSONB_DELETE_JSONB_TEXT, F_JSONB_DELETE_JSONB__TEXT,
	F_JSONB_DELETE_PATH, F_JSONB_EXISTS, F_JSONB_EXISTS_ALL,
	F_JSONB_EXISTS_ANY, F_JSONB_EXTRACT_PATH, F_JSONB_EXTRACT_PATH_TEXT,
	F_JSONB_INSERT, F_JSONB_OBJECT_FIELD, F_JSONB_OBJECT_FIELD_TEXT,
	F_JSONB_SET,
	/* arrays */
	F_ARRAY_APPEND, F_ARRAY_CAT, F_ARRAY_DIMS, F_ARRAY_EQ, F_ARRAY_LENGTH,
	F_ARRAY_LOWER, F_ARRAY_NDIMS, F_ARRAY_NE,
	F_ARRAY_POSITIONS, F_ARRAY_POSITION_ANYCOMPATIBLEARRAY_ANYCOMPATIBLE,
	F_ARRAY_POSITION_ANYCOMPATIBLEARRAY_ANYCOMPATIBLE_INT4,
	F_ARRAY_PREPEND, F_ARRAY_REMOVE, F_ARRAY_REPLACE, F_ARRAY_UPPER,
	F_ARRAYCONTAINED, F_ARRAYCONTAINS, F_ARRAYOVERLAP, F_CARDINALITY
};

/* These match in any case, or fold it. */
static const Oid case_functions[] = {
	F_TEXTICLIKE, F_TEXTICNLIKE, F_LOWER_TEXT, F_UPPER_TEXT, F_INITCAP
};

/* These use regular expressions. */
static const Oid regex_functions[] = {
	F_TEXTREGEXEQ, F_TEXTREGEXNE, F_TEXTICREGEXEQ, F_TEXTICREGEXNE,
	F_SUBSTRING_TEXT_TEXT, F_SUBSTRING_TEXT_TEXT_TEXT,
	F_REGEXP_REPLACE_TEXT_TEXT_TEXT, F_REGEXP_REPLACE_TEXT_TEXT_TEXT_TEXT,
	F_REGEXP_MATCH_TEXT_TEXT, F_REGEXP_MATCH_TEXT_TEXT_TEXT,
	F_REGEXP_SPLIT_TO_ARRAY_TEXT_TEXT, F_REGEXP_SPLIT_TO_ARRAY_TEXT_TEXT_TEXT
};

/* These look for a string in another. */
static const Oid like_functions[] = {
	F_TEXTLIKE, F_TEXTNLIKE, F_LIKE_TEXT_TEXT, F_NOTLIKE_TEXT_TEXT,
	F_STARTS_WITH, F_POSITION_TEXT_TEXT, F_STRPOS
};

/*
 * These order values that have no collation of their own, yet if they are
 * jsonb (or arrays of it), strings in them go by the database's collation.
 */
static const Oid jsonb_order_functions[] = {
	F_JSONB_LT, F_JSONB_LE, F_JSONB_GT, F_JSONB_GE,
	F_ARRAY_LT, F_ARRAY_LE, F_ARRAY_GT, F_ARRAY_GE,
	F_ARRAY_LARGER, F_ARRAY_SMALLER
};

#define oid_in(oid, array) oid_in_array(oid, array, lengthof(array))

/* State of a walk */
typedef struct ShipState
{
	const LogqShipContext *cxt;
	Expr	   *case_arg;		/* what a CaseTestExpr stands for */
	bool		guarded;		/* not evaluated for all rows: what may fail
								 * must not be computed before */
	bool		behind;			/* the same, unless it is guarded */
	bool		uses_same;		/* something needs LOGQ_COLLATION_SAME */
	bool		uses_c;			/* something needs LOGQ_COLLATION_C */
} ShipState;

/* State of a search for things that are not constant for the scan */
typedef struct ConstantState
{
	Index		relid;
	int			case_depth;		/* inside of CASE x, or of an array cast */
} ConstantState;

static bool ship_walker(Node *node, ShipState *state);

static bool
oid_in_array(Oid oid, const Oid *array, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (array[i] == oid)
			return true;
	}
	return false;
}

/* ---------- types, functions, casts ---------- */

/*
 * Is this a type whose values all servers write and read alike?  Left out on
 * purpose: types that name objects (oid, regclass), those that depend on
 * settings of the session (money, xml) or on the encoding (bytea, for which
 * text would have to be converted), blank-padded strings, and whatever is
 * newer than 13.
 */
static bool
type_is_portable(Oid type)
{
	Oid			elemtype = get_element_type(type);

	if (OidIsValid(elemtype))
	{
		if (type >= FirstGenbkiObjectId)
			return false;
		type = elemtype;
	}

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
		case JSONOID:
		case JSONBOID:
		case UUIDOID:
		case INETOID:
		case CIDROID:
		case INT4RANGEOID:
		case INT8RANGEOID:
		case NUMRANGEOID:
		case TSRANGEOID:
		case TSTZRANGEOID:
		case DATERANGEOID:
			return true;
		default:
			return false;
	}
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp((const char *) a, *(const char *const *) b);
}

/* Is this function the same thing with the same result at any partition? */
static bool
function_is_portable(Oid funcid)
{
	char	   *name;
	size_t		len;
	bool		result;

	if (funcid > LAST_FUNCTION_OF_13 || oid_in(funcid, newer_functions) ||
		func_volatile(funcid) != PROVOLATILE_IMMUTABLE)
		return false;

	name = get_func_name(funcid);
	if (name == NULL)
		return false;
	len = strlen(name);
	result = bsearch(name, unshippable_functions,
					 lengthof(unshippable_functions), sizeof(char *),
					 compare_names) == NULL &&
		strstr(name, "hash") == NULL &&
		!(len > 3 && strcmp(name + len - 3, "cmp") == 0);
	pfree(name);
	return result;
}

/* Likewise for an operator. */
static bool
operator_is_portable(Oid opno)
{
	return opno < FirstGenbkiObjectId &&
		function_is_portable(get_opcode(opno));
}

/*
 * Will the partition's parser take the same cast that ours took?  Users can
 * define casts between built-in types, so the one that was used must be a
 * built-in one.  funcid is InvalidOid for a binary-coercible cast.
 */
static bool
cast_is_builtin(Oid source, Oid target, Oid funcid)
{
	HeapTuple	tup;
	Form_pg_cast form;
	bool		result;

	if (source == target && !OidIsValid(funcid))
		return true;

	tup = SearchSysCache2(CASTSOURCETARGET, ObjectIdGetDatum(source),
						  ObjectIdGetDatum(target));
	if (!HeapTupleIsValid(tup))
	{
		/* arrays go by the cast of their elements */
		source = get_element_type(source);
		target = get_element_type(target);
		return OidIsValid(source) && OidIsValid(target) &&
			!OidIsValid(funcid) &&
			cast_is_builtin(source, target, funcid);
	}
	form = (Form_pg_cast) GETSTRUCT(tup);
	result = form->oid < FirstUnpinnedObjectId && form->castfunc == funcid;
	ReleaseSysCache(tup);
	return result;
}

/*
 * Does a cast by way of the text form give the same at any partition?  The
 * output of floats and intervals depends on the session's settings although
 * not all of it is marked so.
 */
static bool
io_cast_is_portable(Oid source, Oid target)
{
	Oid			outfunc;
	Oid			infunc;
	Oid			ioparam;
	bool		varlena;

	if (source == FLOAT4OID || source == FLOAT8OID || source == INTERVALOID)
		return false;
	getTypeOutputInfo(source, &outfunc, &varlena);
	getTypeInputInfo(target, &infunc, &ioparam);
	return func_volatile(outfunc) == PROVOLATILE_IMMUTABLE &&
		func_volatile(infunc) == PROVOLATILE_IMMUTABLE;
}

/* See shippable.h. */
LogqFunctionKind
logq_function_kind(Oid funcid)
{
	if (oid_in(funcid, regex_functions))
		return LOGQ_FUNCTION_REGEX;
	if (oid_in(funcid, case_functions))
		return LOGQ_FUNCTION_CASE;
	if (oid_in(funcid, like_functions))
		return LOGQ_FUNCTION_LIKE;
	return LOGQ_FUNCTION_OTHER;
}

/* ---------- collations ---------- */

static bool
any_is_collatable(List *args)
{
	ListCell   *lc;

	foreach(lc, args)
		if (type_is_collatable(exprType((Node *) lfirst(lc))))
			return true;
	return false;
}

static bool
any_is_jsonb(List *args)
{
	ListCell   *lc;

	foreach(lc, args)
	{
		Oid			type = exprType((Node *) lfirst(lc));

		if (type == JSONBOID || type == JSONBARRAYOID)
			return true;
	}
	return false;
}

/*
 * Which collation must a partition use to come to the same result?
 *
 * Only the default collation and "C" are considered; others may be missing at
 * a partition, or come from another version of the library.  A collation that
 * is not deterministic is never among the two (up to 18).
 */
LogqCollationUse
logq_collation_use(const LogqShipContext *cxt, Oid funcid, Oid inputcollid,
				   List *args)
{
	bool		folds;

	if (oid_in(funcid, encoding_functions) && !cxt->same_locale)
		return LOGQ_COLLATION_NO;

	if (!OidIsValid(inputcollid))
	{
		/*
		 * The collations of the arguments contradict each other.  Whoever
		 * needs one raises an error, unless the columns over there have the
		 * same.  (The parser gives none to the cut to a length in the cast of
		 * an array.)
		 */
		if (any_is_collatable(args) && funcid != F_VARCHAR_VARCHAR_INT4_BOOL)
			return LOGQ_COLLATION_NO;
		if ((OidIsValid(funcid) && !oid_in(funcid, jsonb_order_functions)) ||
			!any_is_jsonb(args))
			return LOGQ_COLLATION_ANY;
		return cxt->same_locale ? LOGQ_COLLATION_SAME : LOGQ_COLLATION_NO;
	}

	if (inputcollid != DEFAULT_COLLATION_OID &&
		inputcollid != C_COLLATION_OID)
		return LOGQ_COLLATION_NO;

	if (oid_in(funcid, collation_free_functions) ||
		oid_in(funcid, encoding_functions))
		return LOGQ_COLLATION_ANY;

	/*
	 * Prefer not to name a collation: an index over there has the default
	 * one, and is not used for another.
	 */
	if (inputcollid == DEFAULT_COLLATION_OID && cxt->same_locale)
		return LOGQ_COLLATION_SAME;

	folds = oid_in(funcid, case_functions) ||
		oid_in(funcid, regex_functions);
	if (folds ? logq_ctype_is_c(inputcollid) : logq_collate_is_c(inputcollid))
		return LOGQ_COLLATION_C;
	return LOGQ_COLLATION_NO;
}

/* Note the collation that a node needs; false if it cannot be had. */
static bool
note_collation(ShipState *state, Oid funcid, Oid inputcollid, List *args)
{
	switch (logq_collation_use(state->cxt, funcid, inputcollid, args))
	{
		case LOGQ_COLLATION_ANY:
			return true;
		case LOGQ_COLLATION_SAME:
			state->uses_same = true;
			return true;
		case LOGQ_COLLATION_C:
			state->uses_c = true;
			return true;
		case LOGQ_COLLATION_NO:
			break;
	}
	return false;
}

/* ---------- columns ---------- */

/* See logq.h. */
int
logq_var_column(const LogqShipContext *cxt, Node *node)
{
	Var		   *var = (Var *) node;

	if (!IsA(node, Var) || var->varno != (int) cxt->rel->relid ||
		var->varlevelsup != 0 || var->varattno <= 0 ||
		var->varattno > Min(cxt->map->natts, LOGQ_NCOLUMNS))
		return -1;
	return cxt->map->column[var->varattno];
}

/* See logq.h. */
int
logq_plain_column(const LogqShipContext *cxt, Node *node)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return logq_var_column(cxt, node);
}

/* See shippable.h. */
bool
logq_is_of_query(Node *node)
{
	switch (nodeTag(node))
	{
		case T_SubLink:
		case T_SubPlan:
		case T_AlternativeSubPlan:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_PlaceHolderVar:
		case T_CurrentOfExpr:
		case T_SetToDefault:
			return true;
		default:
			return false;
	}
}

/* ---------- constant for the scan? ---------- */

/*
 * Find what keeps an expression from being computed before the scan.  A
 * CaseTestExpr does if what it stands for lies outside of the expression.
 */
static bool
not_constant_walker(Node *node, ConstantState *state)
{
	if (node == NULL)
		return false;
	if (logq_is_of_query(node))
		return true;

	switch (nodeTag(node))
	{
		case T_Var:
			return ((Var *) node)->varno == (int) state->relid ||
				((Var *) node)->varlevelsup > 0;
		case T_Param:
			return ((Param *) node)->paramkind != PARAM_EXTERN &&
				((Param *) node)->paramkind != PARAM_EXEC;
		case T_CaseTestExpr:
			return state->case_depth == 0;
		case T_CaseExpr:
			{
				CaseExpr   *c = (CaseExpr *) node;
				int			saved = state->case_depth;
				bool		result;
				ListCell   *lc;

				if (not_constant_walker((Node *) c->arg, state))
					return true;
				if (c->arg != NULL)
					state->case_depth++;
				result = not_constant_walker((Node *) c->defresult, state);
				foreach(lc, c->args)
				{
					CaseWhen   *when = lfirst_node(CaseWhen, lc);

					if (result)
						break;
					result = not_constant_walker((Node *) when->expr, state) ||
						not_constant_walker((Node *) when->result, state);
				}
				state->case_depth = saved;
				return result;
			}
		case T_ArrayCoerceExpr:
			{
				ArrayCoerceExpr *a = (ArrayCoerceExpr *) node;
				bool		result;

				if (not_constant_walker((Node *) a->arg, state))
					return true;
				state->case_depth++;
				result = not_constant_walker((Node *) a->elemexpr, state);
				state->case_depth--;
				return result;
			}
		default:
			return expression_tree_walker(node, not_constant_walker,
										  (void *) state);
	}
}

/*
 * See logq.h.  Also demands a type whose values can be sent, so a constant of
 * a domain or an enum is none, but a cast of it to text is.
 */
bool
logq_is_scan_constant(const LogqShipContext *cxt, Node *expr)
{
	ConstantState state;

	if (IsA(expr, Const) && ((Const *) expr)->consttype == JSONPATHOID)
		return logq_jsonpath_is_portable((Const *) expr);
	if (!type_is_portable(exprType(expr)))
		return false;
	if (IsA(expr, Const))
		return true;

	state.relid = cxt->rel->relid;
	state.case_depth = 0;
	return !not_constant_walker(expr, &state) &&
		!contain_volatile_functions(expr);
}

/* ---------- shippable? ---------- */

static bool
ship_list(List *list, ShipState *state)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		/* a slice of an array may lack a bound */
		if (lfirst(lc) != NULL &&
			!ship_walker((Node *) lfirst(lc), state))
			return false;
	}
	return true;
}

/*
 * An argument of AND, OR, NOT or the whole: no collation gets across these,
 * so each may have its own.  Within one, "C" and the default may not meet: an
 * explicit COLLATE "C" is inherited by the operators above.
 */
static bool
ship_boolean(Node *node, ShipState *outer)
{
	ShipState	state = *outer;

	state.uses_same = false;
	state.uses_c = false;
	return ship_walker(node, &state) && !(state.uses_same && state.uses_c);
}

static bool
ship_case(CaseExpr *c, ShipState *state)
{
	ShipState	inner;
	ListCell   *lc;
	bool		result = true;

	/*
	 * deparse.c writes the argument in place of each CaseTestExpr.  The
	 * argument itself must not have one of an outer CASE.  It may have one of
	 * its own, which is written several times in each place; but no deeper, as
	 * that would be without bounds.
	 */
	inner = *state;
	if (c->arg != NULL)
	{
		if (logq_case_depth(state->cxt, (Node *) c->arg) > 1)
			return false;
		inner.case_arg = NULL;
		if (!ship_walker((Node *) c->arg, &inner))
			return false;
		inner.case_arg = c->arg;
	}
	foreach(lc, c->args)
	{
		CaseWhen   *when = lfirst_node(CaseWhen, lc);

		result = ship_walker((Node *) when->expr, &inner);
		/* all but the first condition depend on the ones ahead */
		inner.guarded = true;
		result = result && ship_walker((Node *) when->result, &inner);
		if (!result)
			break;
	}
	if (result && c->defresult != NULL)
		result = ship_walker((Node *) c->defresult, &inner);
	state->uses_same |= inner.uses_same;
	state->uses_c |= inner.uses_c;
	return result;
}

static bool
ship_function(FuncExpr *f, ShipState *state)
{
	if (f->funcretset || !function_is_portable(f->funcid) ||
		!logq_call_is_portable(f->funcid, f->args) ||
		!note_collation(state, f->funcid, f->inputcollid, f->args))
		return false;

	/* casts are written as such */
	if (f->funcformat == COERCE_EXPLICIT_CAST ||
		f->funcformat == COERCE_IMPLICIT_CAST)
	{
		if (f->args == NIL ||
			!cast_is_builtin(exprType((Node *) linitial(f->args)),
							 f->funcresulttype, f->funcid))
			return false;
		/* an implicit cast to a length would complain, :: cuts off */
		if (f->funcformat == COERCE_IMPLICIT_CAST &&
			list_length(f->args) > 2)
			return false;
	}
	return ship_list(f->args, state);
}

/* The walk itself: may this node and all below it be sent? */
static bool
ship_walker(Node *node, ShipState *state)
{
	const LogqShipContext *cxt = state->cxt;

	if (node == NULL)
		return true;
	check_stack_depth();

	if (logq_is_scan_constant(cxt, node))
		return (!state->guarded && !state->behind) ||
			logq_cannot_fail(cxt, node) ||
			(!state->guarded && logq_is_guarded(node));
	if (!type_is_portable(exprType(node)))
		return false;

	switch (nodeTag(node))
	{
		case T_Var:
			return logq_var_column(cxt, node) >= 0;
		case T_FuncExpr:
			return ship_function((FuncExpr *) node, state);
		case T_OpExpr:
		case T_DistinctExpr:	/* the same struct */
		case T_NullIfExpr:		/* the same struct */
			{
				OpExpr	   *op = (OpExpr *) node;

				return !op->opretset && operator_is_portable(op->opno) &&
					logq_call_is_portable(get_opcode(op->opno), op->args) &&
					note_collation(state, get_opcode(op->opno),
								   op->inputcollid, op->args) &&
					ship_list(op->args, state);
			}
		case T_ScalarArrayOpExpr:
			{
				ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) node;

				return operator_is_portable(op->opno) &&
					logq_call_is_portable(get_opcode(op->opno), op->args) &&
					note_collation(state, get_opcode(op->opno),
								   op->inputcollid, op->args) &&
					ship_list(op->args, state);
			}
		case T_BoolExpr:
			{
				BoolExpr   *b = (BoolExpr *) node;
				ShipState	inner = *state;
				ListCell   *lc;

				foreach(lc, b->args)
				{
					Node	   *arm = lfirst(lc);

					if (!ship_boolean(arm, &inner))
						return false;
					inner.behind = inner.behind || logq_may_decide(cxt, arm);
				}
				return true;
			}
		case T_NullTest:
			return !((NullTest *) node)->argisrow &&
				ship_walker((Node *) ((NullTest *) node)->arg, state);
		case T_BooleanTest:
			return ship_walker((Node *) ((BooleanTest *) node)->arg, state);
		case T_RelabelType:
			{
				RelabelType *r = (RelabelType *) node;

				return cast_is_builtin(exprType((Node *) r->arg),
									   r->resulttype, InvalidOid) &&
					ship_walker((Node *) r->arg, state);
			}
		case T_CoerceViaIO:
			{
				CoerceViaIO *c = (CoerceViaIO *) node;

				return io_cast_is_portable(exprType((Node *) c->arg),
										   c->resulttype) &&
					ship_walker((Node *) c->arg, state);
			}
		case T_ArrayCoerceExpr:
			{
				ArrayCoerceExpr *a = (ArrayCoerceExpr *) node;
				ShipState	inner = *state;

				/* only the cast is written, its elemexpr just has to do */
				inner.case_arg = a->arg;
				if (!ship_walker((Node *) a->elemexpr, &inner))
					return false;
				state->uses_same |= inner.uses_same;
				state->uses_c |= inner.uses_c;
				return ship_walker((Node *) a->arg, state);
			}
		case T_CaseExpr:
			return ship_case((CaseExpr *) node, state);
		case T_CaseTestExpr:
			return state->case_arg != NULL;
		case T_ArrayExpr:
			return ship_list(((ArrayExpr *) node)->elements, state);
		case T_CoalesceExpr:
			{
				List	   *args = ((CoalesceExpr *) node)->args;
				ShipState	inner = *state;
				bool		result;

				inner.guarded = true;
				result = ship_walker(linitial(args), state) &&
					ship_list(list_copy_tail(args, 1), &inner);
				state->uses_same |= inner.uses_same;
				state->uses_c |= inner.uses_c;
				return result;
			}
		case T_MinMaxExpr:
			{
				MinMaxExpr *m = (MinMaxExpr *) node;

				return note_collation(state, InvalidOid, m->inputcollid,
									  m->args) &&
					ship_list(m->args, state);
			}
		case T_RowCompareExpr:
			{
				/* (ts, id) < (x, y), how to go on from a row; no collations */
				RowCompareExpr *r = (RowCompareExpr *) node;
				ListCell   *lc;

				foreach(lc, r->opnos)
				{
					if (!operator_is_portable(lfirst_oid(lc)))
						return false;
				}
				return !any_is_collatable(r->largs) &&
					!any_is_collatable(r->rargs) &&
					ship_list(r->largs, state) &&
					ship_list(r->rargs, state);
			}
		case T_SubscriptingRef:
			{
				SubscriptingRef *s = (SubscriptingRef *) node;

				/* arrays only: jsonb cannot be subscripted in 13 */
				return s->refassgnexpr == NULL &&
					OidIsValid(get_element_type(s->refcontainertype)) &&
					ship_walker((Node *) s->refexpr, state) &&
					ship_list(s->refupperindexpr, state) &&
					ship_list(s->reflowerindexpr, state);
			}
		default:
			return false;
	}
}

bool
logq_is_shippable(const LogqShipContext *cxt, Expr *expr)
{
	ShipState	state = {0};

	state.cxt = cxt;
	return ship_boolean((Node *) expr, &state);
}

/*
 * See logq.h.  What it is grouped and combined by is looked at elsewhere.
 */
bool
logq_is_aggregate_shippable(const LogqShipContext *cxt, Aggref *agg)
{
	ShipState	state = {0};
	List	   *args = NIL;
	ListCell   *lc;

	foreach(lc, agg->args)
		args = lappend(args, lfirst_node(TargetEntry, lc)->expr);
	state.cxt = cxt;
	return function_is_portable(agg->aggfnoid) &&
		type_is_portable(agg->aggtype) &&
		note_collation(&state, agg->aggfnoid, agg->inputcollid, args) &&
		ship_list(args, &state) && !(state.uses_same && state.uses_c) &&
		(agg->aggfilter == NULL || logq_is_shippable(cxt, agg->aggfilter));
}
