/*-------------------------------------------------------------------------
 *
 * portable.c
 *		Calls that not all versions of PostgreSQL answer alike.
 *
 * shippable.c knows which functions are the same everywhere.  Here are those
 * of which it depends on their arguments: a time zone, a field, a number that
 * older servers do not take, a regular expression that they read otherwise.
 * Also those of which only some of a name are to stay here.
 *
 * An argument whose value is not known yet can be anything, so such a call is
 * not portable.  Regular expressions are the exception: they are taken to be
 * plain ones, as it takes unusual ones to be different, and then only before
 * 14.
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "shippable.h"

#include "catalog/pg_type.h"
#include "parser/scansup.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/numeric.h"

/* of embedded options and flags: these change nothing about newlines */
#define HARMLESS_FLAGS "cgistx"

/* ---------- jsonpath ---------- */

/*
 * May this method of jsonpath be used, whose name ends before "end"?
 */
static bool
jsonpath_method_is_portable(const char *text, const char *end)
{
	static const char *const methods[] = {"keyvalue", "size", "type"};
	const char *start = end;

	while (start > text && ((start[-1] >= 'a' && start[-1] <= 'z') ||
							start[-1] == '_'))
		start--;
	for (int i = 0; i < lengthof(methods); i++)
		if (strlen(methods[i]) == end - start &&
			strncmp(methods[i], start, end - start) == 0)
			return true;
	return false;
}

/*
 * See shippable.h.  That excludes like_regex (a matter of the locale) and most
 * methods (newer, or about numbers of floating point; they are recognised by a
 * letter ahead of a parenthesis, which in the canonical form only strings and
 * quoted keys have otherwise).
 */
bool
logq_jsonpath_is_portable(const Const *con)
{
	char	   *text;
	bool		result;

	if (con->constisnull)
		return true;
	text = OidOutputFunctionCall(F_JSONPATH_OUT, con->constvalue);
	result = strstr(text, "like_regex") == NULL;
	for (char *p = text; result && *p != '\0'; p++)
	{
		if (p[1] == '(' &&
			((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			 *p == '_'))
			result = jsonpath_method_is_portable(text, p + 1);
	}
	pfree(text);
	return result;
}

/* ---------- arguments ---------- */

/*
 * The constant that an argument is, or NULL; NULL as well if it is of another
 * type, or NULL itself.
 */
static Const *
known_constant(Node *node, Oid type)
{
	Const	   *con = (Const *) node;

	return IsA(node, Const) && !con->constisnull && con->consttype == type ?
		con : NULL;
}

/*
 * A constant of text, or NULL.
 */
static char *
known_text(Node *node)
{
	Const	   *con = known_constant(node, TEXTOID);

	return con == NULL ? NULL : TextDatumGetCString(con->constvalue);
}

/*
 * Is the zone a constant that no time zone database can change?  (That of a
 * partition may be older or newer than ours.)
 */
static bool
zone_is_utc(Node *node)
{
	char	   *zone = known_text(node);

	return zone != NULL &&
		(pg_strcasecmp(zone, "UTC") == 0 ||
		 pg_strcasecmp(zone, "GMT") == 0 ||
		 pg_strcasecmp(zone, "Etc/UTC") == 0);
}

/*
 * A field of an interval: 18 counts the quarters of negative ones otherwise,
 * and knows weeks.
 */
static bool
field_is_portable(Node *node)
{
	char	   *field = known_text(node);
	int			value;

	if (field == NULL)
		return false;
	field = downcase_truncate_identifier(field, strlen(field), false);
	return DecodeUnits(0, field, &value) != UNITS ||
		(value != DTK_QUARTER && value != DTK_WEEK);
}

/*
 * What a numeric is cut to: a scale that is negative, or greater than the
 * precision, came with 15.
 */
static bool
typmod_is_portable(Node *node)
{
	Const	   *con = known_constant(node, INT4OID);
	int32		typmod;
	int			precision;
	int			scale;

	if (con == NULL)
		return false;
	typmod = DatumGetInt32(con->constvalue);
	if (typmod < (int32) VARHDRSZ)
		return true;
	precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
	scale = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
	return scale >= 0 && scale <= precision;
}

/*
 * Counting fields from the end came with 14.
 */
static bool
field_number_is_portable(Node *node)
{
	Const	   *con = known_constant(node, INT4OID);

	return con != NULL && DatumGetInt32(con->constvalue) > 0;
}

/* ---------- regular expressions ---------- */

/*
 * May a regular expression have these options, up to their end, and any of its
 * classes?
 */
static bool
are_harmless(const char *flags, char end)
{
	while (*flags != end && *flags != '\0')
		if (strchr(HARMLESS_FLAGS, *flags++) == NULL)
			return false;
	return true;
}

/*
 * Does a regular expression mean the same in all versions?  14 let \D and \W
 * match newlines also where these are special, and took both and \S into
 * brackets, and [:word:]; 13 raises an error for these.
 */
static bool
regex_is_portable(const char *regex, bool plain)
{
	bool		bracket = false;

	if (strncmp(regex, "***", 3) == 0)
	{
		plain = false;
		regex += regex[3] == '\0' ? 3 : 4;
	}
	if (regex[0] == '(' && regex[1] == '?' && isalpha((unsigned char) regex[2]))
		plain = plain && are_harmless(regex + 2, ')');
	if (strstr(regex, "[:word:]") != NULL)
		return false;

	for (const char *p = regex; *p != '\0'; p++)
	{
		if (*p == '\\' && p[1] != '\0')
		{
			p++;
			if (strchr(bracket ? "DSW" : plain ? "" : "DW", *p) != NULL)
				return false;
		}
		else if (*p == '[' && !bracket)
		{
			bracket = true;
			if (p[1] == '^')
				p++;
			/* stands for itself at the beginning */
			if (p[1] == ']')
				p++;
		}
		else if (*p == '[' && (p[1] == ':' || p[1] == '.' || p[1] == '='))
		{
			char		end[] = {p[1], ']', '\0'};

			p = strstr(p + 2, end);
			if (p == NULL)
				return false;
			p++;
		}
		else if (*p == ']')
			bracket = false;
	}
	return true;
}

/*
 * The same of an expression for one: a text, or an array of them.
 */
static bool
pattern_is_portable(Node *node, bool plain)
{
	char	   *regex = known_text(node);
	Const	   *con = known_constant(node, TEXTARRAYOID);

	if (regex != NULL)
		return regex_is_portable(regex, plain);
	if (con != NULL)
	{
		ArrayType  *array = DatumGetArrayTypeP(con->constvalue);
		Datum	   *values;
		bool	   *nulls;
		int			n;

		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values,
						  &nulls, &n);
		for (int i = 0; i < n; i++)
			if (!nulls[i] &&
				!regex_is_portable(TextDatumGetCString(values[i]), plain))
				return false;
	}
	else if (IsA(node, ArrayExpr))
	{
		ListCell   *lc;

		foreach(lc, ((ArrayExpr *) node)->elements)
			if (!pattern_is_portable(lfirst(lc), plain))
				return false;
	}
	return true;
}

/*
 * A call of a function that uses one.
 */
static bool
regex_call_is_portable(Oid funcid, List *args)
{
	Node	   *flags = NULL;
	bool		plain = true;

	if (funcid == F_REGEXP_REPLACE_TEXT_TEXT_TEXT_TEXT)
		flags = lfourth(args);
	else if (funcid == F_REGEXP_MATCH_TEXT_TEXT_TEXT ||
			 funcid == F_REGEXP_SPLIT_TO_ARRAY_TEXT_TEXT_TEXT)
		flags = lthird(args);
	if (flags != NULL)
	{
		char	   *text = known_text(flags);

		plain = text != NULL && are_harmless(text, '\0');
	}
	return pattern_is_portable(lsecond(args), plain);
}

/* ---------- calls ---------- */

/*
 * See shippable.h.
 */
bool
logq_call_is_portable(Oid funcid, List *args)
{
	switch (funcid)
	{
		case F_WIDTH_BUCKET_FLOAT8_FLOAT8_FLOAT8_INT4:
		case F_WIDTH_BUCKET_NUMERIC_NUMERIC_NUMERIC_INT4:
			/* values at the bounds of buckets: rounded otherwise before 15 */
			return false;
		case F_BOOL_JSONB:
		case F_NUMERIC_JSONB:
		case F_INT2_JSONB:
		case F_INT4_JSONB:
		case F_INT8_JSONB:
		case F_FLOAT4_JSONB:
		case F_FLOAT8_JSONB:
			/* null becomes NULL in 18, and was an error */
			return false;
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
		case F_TIMEZONE_TEXT_TIMESTAMP:
			return zone_is_utc(linitial(args));
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT:
			return zone_is_utc(lthird(args));
		case F_DATE_PART_TEXT_INTERVAL:
			return field_is_portable(linitial(args));
		case F_NUMERIC_NUMERIC_INT4:
			return typmod_is_portable(lsecond(args));
		case F_SPLIT_PART:
			return field_number_is_portable(lthird(args));
		default:
			return logq_function_kind(funcid) != LOGQ_FUNCTION_REGEX ||
				regex_call_is_portable(funcid, args);
	}
}
