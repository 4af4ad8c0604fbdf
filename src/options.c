/*-------------------------------------------------------------------------
 *
 * options.c
 *		Options of partitions' servers and of user mappings: which there
 *		are, what libpq gets of them, and who may connect without a password.
 *
 * Which options libpq has is asked of libpq itself, so a newer one brings
 * newer options.  Some of those make the server write files or talk to other
 * hosts; therefore only a superuser may set what is not on a list here.
 *
 * A user who is no superuser must bring a password, and the partition must
 * have asked for it: otherwise the connection might rest on the identity of
 * the operating system's user that the server runs as, on its password file,
 * or on its certificate.  Only a superuser can lift that, by setting
 * password_required to false in the user mapping.  GSS credentials that the
 * client has delegated (from 16 on) are not made use of and do not count as a
 * password, nor does SCRAM pass-through (from 18 on).
 *
 * The structure, and the rules on passwords, are taken from option.c and
 * connection.c of contrib/postgres_fdw (Portions Copyright (c) 2012-2025,
 * PostgreSQL Global Development Group).
 *
 *-------------------------------------------------------------------------
 */
#include "health.h"

#include <ctype.h>
#include <limits.h>

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

/*
 * What the partition's session must be like for it to read our literals and
 * evaluate our expressions as we do.  All of these are known to 13.  They go
 * with the startup packet, or, through a pooler, with every transaction, where
 * SET LOCAL costs 20 us; one SELECT of set_config() would cost 30.
 *
 * What is compiled would be of use for one segment only, and compiling for a
 * table of 342 segments took 20 s.
 */
#define SESSION_SETTINGS(setting) \
	setting("statement_timeout", "0") \
	setting("search_path", "pg_catalog") \
	setting("timezone", "UTC") \
	setting("datestyle", "ISO") \
	setting("intervalstyle", "postgres") \
	setting("extra_float_digits", "3") \
	setting("bytea_output", "hex") \
	setting("standard_conforming_strings", "on") \
	setting("array_nulls", "on") \
	setting("transform_null_equals", "off") \
	setting("gin_fuzzy_search_limit", "0") \
	setting("jit", "off") \
	setting("lock_timeout", "0") \
	setting("idle_in_transaction_session_timeout", "0")

#define AS_OPTION(name, value) " -c " name "=" value
#define AS_SET_LOCAL(name, value) "SET LOCAL " name " = '" value "'; "

/* Longest distance at which a name is taken for a misspelled one */
#define MAX_NAME_DISTANCE 4

typedef struct LogqOption
{
	const char *keyword;
	Oid			catalog;		/* of the objects that may have it */
	bool		is_libpq;		/* goes to libpq as it is */
	bool		superuser_only;
} LogqOption;

/* all options, for the life of the backend; made on first use */
static LogqOption *all_options = NULL;
static int	num_all_options = 0;

/* Options that logq has beyond libpq's, or in another place */
static const LogqOption own_options[] = {
	{"pooler", ForeignServerRelationId, false, false},
	{"replicas", ForeignServerRelationId, false, false},
	{"replicas_pooled", ForeignServerRelationId, false, false},
	{"password_required", UserMappingRelationId, false, false},
	/* who may set these in a user mapping is checked on its own */
	{"sslcert", UserMappingRelationId, true, false},
	{"sslkey", UserMappingRelationId, true, false}
};

/* libpq's options that logq sets itself */
static const char *const hidden_libpq_options[] = {
	"client_encoding", "fallback_application_name", "options", "replication"
};

/* libpq's options that anybody may set */
static const char *const safe_libpq_options[] = {
	"application_name", "channel_binding", "connect_timeout", "dbname",
	"gssencmode", "gsslib", "host", "hostaddr", "keepalives",
	"keepalives_count", "keepalives_idle", "keepalives_interval",
	"krbsrvname", "load_balance_hosts", "max_protocol_version",
	"min_protocol_version", "passfile", "password", "port", "require_auth",
	"requirepeer", "service", "ssl_max_protocol_version",
	"ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression",
	"sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation",
	"sslpassword", "sslrootcert", "sslsni", "target_session_attrs",
	"tcp_user_timeout", "user"
};

PG_FUNCTION_INFO_V1(logq_fdw_validator);

/* ---------- which options there are ---------- */

static bool
name_in_array(const char *name, const char *const *array, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(name, array[i]) == 0)
			return true;
	}
	return false;
}

#define name_in(name, array) name_in_array(name, array, lengthof(array))

/*
 * Build the list of all options.  What PQconndefaults returns is kept for the
 * life of the backend: the keywords in it are used, not copied.  The defaults
 * that it also finds (in the environment, say) are of no interest.
 */
static void
init_options(void)
{
	static PQconninfoOption *libpq_options = NULL;
	LogqOption *options;
	int			n = 0;

	if (all_options != NULL)
		return;

	if (libpq_options == NULL)
		libpq_options = PQconndefaults();
	if (libpq_options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Could not get libpq's default connection options.")));

	for (PQconninfoOption *lopt = libpq_options; lopt->keyword != NULL; lopt++)
		n++;
	options = (LogqOption *)
		MemoryContextAlloc(TopMemoryContext,
						   sizeof(own_options) + n * sizeof(LogqOption));
	memcpy(options, own_options, sizeof(own_options));
	n = lengthof(own_options);

	for (PQconninfoOption *lopt = libpq_options; lopt->keyword != NULL; lopt++)
	{
		/* no debug options, and no OAuth, which wants a terminal */
		if (strchr(lopt->dispchar, 'D') != NULL ||
			strncmp(lopt->keyword, "oauth_", strlen("oauth_")) == 0 ||
			name_in(lopt->keyword, hidden_libpq_options))
			continue;

		options[n].keyword = lopt->keyword;
		/* the user and all secrets belong into user mappings */
		options[n].catalog =
			strcmp(lopt->keyword, "user") == 0 ||
			strchr(lopt->dispchar, '*') != NULL ?
			UserMappingRelationId : ForeignServerRelationId;
		options[n].is_libpq = true;
		options[n].superuser_only = !name_in(lopt->keyword,
											 safe_libpq_options);
		n++;
	}

	num_all_options = n;
	all_options = options;
}

static const LogqOption *
find_option(const char *keyword, Oid catalog)
{
	for (int i = 0; i < num_all_options; i++)
	{
		if (all_options[i].catalog == catalog &&
			strcmp(all_options[i].keyword, keyword) == 0)
			return &all_options[i];
	}
	return NULL;
}

/* See logq.h. */
void
logq_report_invalid_option(const char *keyword, List *valid)
{
	StringInfoData names;
	const char *closest = NULL;
	int			distance = MAX_NAME_DISTANCE;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, valid)
	{
		const char *name = lfirst(lc);
		int			d;

		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", name);

		/* no option is as long, and the cost is quadratic */
		if (strlen(keyword) > NAMEDATALEN)
			continue;
		d = varstr_levenshtein_less_equal(keyword, strlen(keyword),
										  name, strlen(name),
										  1, 1, 1, distance, true);
		/* more than half of it changed is another word */
		if (d <= distance && d <= (int) strlen(keyword) / 2 &&
			(closest == NULL || d < distance))
		{
			closest = name;
			distance = d;
		}
	}

	if (names.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", keyword),
				 errhint("There are no valid options in this context.")));
	if (closest != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", keyword),
				 errhint("Perhaps you meant the option \"%s\". Valid options are: %s.",
						 closest, names.data)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", keyword),
			 errhint("Valid options are: %s.", names.data)));
}

/* Complain of an unknown option, and say which there are. */
static void
report_unknown_option(const char *keyword, Oid catalog)
{
	List	   *valid = NIL;

	for (int i = 0; i < num_all_options; i++)
		if (all_options[i].catalog == catalog)
			valid = lappend(valid, (char *) all_options[i].keyword);
	logq_report_invalid_option(keyword, valid);
}

/* ---------- values ---------- */

/* See logq.h. */
void
logq_report_invalid_value(const char *option, const char *value,
						  const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option, value),
			 errhint("%s", hint)));
}

/* See logq.h. */
bool
logq_is_integer(const char *text, long min, long max)
{
	char	   *end;
	long		n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (end == text || errno != 0 || n < min || n > max)
		return false;
	while (isspace((unsigned char) *end))
		end++;
	return *end == '\0';
}

/* Cut a list at its commas; white space around the members is dropped. */
List *
logq_split_option(const char *value)
{
	List	   *result = NIL;
	const char *p = value;

	for (;;)
	{
		const char *end = strchr(p, ',');
		int			len;

		if (end == NULL)
			end = p + strlen(p);
		while (p < end && isspace((unsigned char) *p))
			p++;
		len = end - p;
		while (len > 0 && isspace((unsigned char) p[len - 1]))
			len--;
		result = lappend(result, pnstrdup(p, len));
		if (*end == '\0')
			return result;
		p = end + 1;
	}
}

/*
 * Is a member of replicas, or a pooler, of the form host:port?  The address of
 * IPv6 stands in brackets.
 */
static bool
is_host_and_port(const char *member)
{
	const char *port;

	if (member[0] == '[')
	{
		const char *end = strchr(member, ']');

		if (end == NULL || end == member + 1 || end[1] != ':')
			return false;
		port = end + 2;
	}
	else
	{
		const char *colon = strchr(member, ':');

		if (colon == NULL || colon == member ||
			strpbrk(member, " \t\r\n[]") != NULL)
			return false;
		port = colon + 1;
	}
	return isdigit((unsigned char) port[0]) &&
		logq_is_integer(port, 1, 65535);
}

/* Check what can be told without a connection. */
static void
check_option_value(const char *option, const char *value)
{
	static const char *const integer_options[] = {
		"connect_timeout", "keepalives", "keepalives_count",
		"keepalives_idle", "keepalives_interval", "tcp_user_timeout"
	};
	static const char *const sslmodes[] = {
		"disable", "allow", "prefer", "require", "verify-ca", "verify-full"
	};

	if (strcmp(option, "port") == 0)
	{
		List	   *ports = logq_split_option(value);
		ListCell   *lc;

		/* libpq takes one for each host, an empty one is the default */
		foreach(lc, ports)
		{
			const char *port = (const char *) lfirst(lc);

			if (port[0] != '\0' && !logq_is_integer(port, 1, 65535))
				logq_report_invalid_value(option, value,
										  "Give a number between 1 and 65535.");
		}
		list_free_deep(ports);
	}
	else if (strcmp(option, "replicas") == 0)
	{
		List	   *members = logq_split_option(value);
		ListCell   *lc;

		foreach(lc, members)
		{
			if (!is_host_and_port((const char *) lfirst(lc)))
				logq_report_invalid_value(option, value,
										  "Give a list such as 'db1b:5432,db1c:5432'.");
			if (strlen((const char *) lfirst(lc)) >= LOGQ_ADDRESS_LEN)
				logq_report_invalid_value(option, value,
										  "An address may have 255 bytes.");
		}
		if (list_length(members) >= LOGQ_MAX_SERVERS)
			logq_report_invalid_value(option, value,
									  "There may be 15 replicas.");
		list_free_deep(members);
	}
	else if (strcmp(option, "pooler") == 0)
	{
		if (!is_host_and_port(value) || strlen(value) >= LOGQ_ADDRESS_LEN)
			logq_report_invalid_value(option, value,
									  "Give an address such as 'db1:6432'.");
	}
	else if (name_in(option, integer_options))
	{
		if (!logq_is_integer(value, INT_MIN, INT_MAX))
			logq_report_invalid_value(option, value, "Give an integer.");
	}
	else if (strcmp(option, "sslmode") == 0)
	{
		if (!name_in(value, sslmodes))
			logq_report_invalid_value(option, value,
									  "Valid values are: disable, allow, prefer, require, verify-ca, verify-full.");
	}
}

/*
 * Check the options of a server or user mapping of logq_fdw; foreign tables,
 * columns and the wrapper itself have none.
 *
 * Whenever an object is altered, this sees all its options, not just the ones
 * that change.  So nobody but a superuser can alter an object on which a
 * superuser has set an option that is theirs alone, except by dropping that.
 */
Datum
logq_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *lc;

	init_options();

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);
		const LogqOption *option = find_option(def->defname, catalog);

		if (option == NULL)
			report_unknown_option(def->defname, catalog);
		else if (option->superuser_only && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set connection option \"%s\"",
							def->defname),
					 errhint("Only a superuser may set this option.")));
		else if (strcmp(def->defname, "password_required") == 0)
		{
			if (!defGetBoolean(def) && !superuser())
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("password_required=false is superuser-only"),
						 errhint("User mappings with the password_required option set to false may only be created or modified by the superuser.")));
		}
		else if (strcmp(def->defname, "replicas_pooled") == 0)
			(void) defGetBoolean(def);
		else if (catalog == UserMappingRelationId &&
				 (strcmp(def->defname, "sslcert") == 0 ||
				  strcmp(def->defname, "sslkey") == 0))
		{
			if (!superuser())
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("sslcert and sslkey are superuser-only"),
						 errhint("User mappings with the sslcert or sslkey options set may only be created or modified by the superuser.")));
		}
		else
			check_option_value(def->defname, defGetString(def));
	}

	PG_RETURN_VOID();
}

/* ---------- what libpq gets ---------- */

/* See logq.h. */
const char *
logq_server_option(ForeignServer *server, const char *name)
{
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* See logq.h. */
const char *
logq_transaction_settings(int server_version)
{
	if (server_version < LOGQ_HAS_PEER_CHECK)
		return SESSION_SETTINGS(AS_SET_LOCAL);
	if (server_version < LOGQ_HAS_TRANSACTION_TIMEOUT)
		return SESSION_SETTINGS(AS_SET_LOCAL)
			AS_SET_LOCAL("client_connection_check_interval",
						 LOGQ_PEER_CHECK_INTERVAL);
	return SESSION_SETTINGS(AS_SET_LOCAL)
		AS_SET_LOCAL("client_connection_check_interval",
					 LOGQ_PEER_CHECK_INTERVAL)
		AS_SET_LOCAL("transaction_timeout", "0");
}

/*
 * Whatever host, port or replica a server's options name, and whoever answers
 * there by now, only the partition's own store may be read and written: rows
 * of another one would come twice, and those of this one not at all.  The
 * server itself refuses in a transaction that it then leaves failed, so that
 * nothing of the request is done, and nobody uses the connection again.  The
 * error is one of those after which another server is asked.
 *
 * A store that is yet to be made, or is lost, is left to those who need it.
 * Short, as pg_stat_activity shows the beginning of a request.
 */
void
logq_append_store_check(StringInfo buf, int32 number)
{
	appendStringInfo(buf,
					 "BEGIN READ ONLY; DO 'DECLARE it int; BEGIN "
					 "IF pg_catalog.to_regclass(''" LOGQ_STORE_SCHEMA ".store'') IS NOT NULL THEN "
					 "SELECT number INTO it FROM " LOGQ_STORE_SCHEMA ".store; "
					 "IF it OPERATOR(pg_catalog.<>) %d THEN "
					 "RAISE ''the server has the store of partition number %%, not of number %d'', it "
					 "USING ERRCODE = ''" LOGQ_WRONG_STORE_STATE "''; "
					 "END IF; END IF; END'; COMMIT; ",
					 number, number);
}

/*
 * Append those of the options that are libpq's; returns how many there are.
 * elsewhere: leave out what leads to the partition's own host.
 */
static int
append_libpq_options(List *options, Oid catalog, bool elsewhere,
					 const char **keywords, const char **values, int n)
{
	static const char *const addresses[] = {
		"host", "hostaddr", "port", "target_session_attrs",
		"load_balance_hosts"
	};
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);
		const LogqOption *option = find_option(def->defname, catalog);

		if (option != NULL && option->is_libpq &&
			!(elsewhere && name_in(option->keyword, addresses)))
		{
			keywords[n] = option->keyword;
			values[n] = pstrdup(defGetString(def));
			n++;
		}
	}
	return n;
}

/*
 * See logq.h.  If a keyword comes twice, libpq takes the last: the mapping's
 * options win over the server's, and ours over both.
 *
 * They are for PQconnectStartParams with expand_dbname off; with it on,
 * dbname could smuggle in any other option.
 */
void
logq_connection_params(ForeignServer *server, UserMapping *user,
					   const LogqServer *at,
					   const char ***keywords, const char ***values)
{
	bool		elsewhere = at != NULL && at->host != NULL;
	int			n = 0;
	int			max;

	init_options();

	/* five of our own and the terminator */
	max = list_length(server->options) + list_length(user->options) + 6;
	*keywords = (const char **) palloc(max * sizeof(char *));
	*values = (const char **) palloc(max * sizeof(char *));

	n = append_libpq_options(server->options, ForeignServerRelationId,
							 elsewhere, *keywords, *values, n);
	n = append_libpq_options(user->options, UserMappingRelationId,
							 false, *keywords, *values, n);
	if (elsewhere)
	{
		(*keywords)[n] = "host";
		(*values)[n++] = pstrdup(at->host);
		(*keywords)[n] = "port";
		(*values)[n++] = pstrdup(at->port);
	}

	(*keywords)[n] = "fallback_application_name";
	(*values)[n++] = "logq";
	(*keywords)[n] = "client_encoding";
	(*values)[n++] = GetDatabaseEncodingName();
	/* a pooler refuses them, or ignores them, which is worse */
	if (at == NULL || !at->pooled)
	{
		(*keywords)[n] = "options";
		(*values)[n++] = SESSION_SETTINGS(AS_OPTION);
	}
	(*keywords)[n] = NULL;
	(*values)[n] = NULL;
	Assert(n < max);
}

/* ---------- passwords ---------- */

static bool
password_required(UserMapping *user)
{
	ListCell   *lc;

	foreach(lc, user->options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, "password_required") == 0)
			return defGetBoolean(def);
	}
	return true;
}

static bool
has_password(const char **keywords, const char **values)
{
	bool		result = false;

	/* the last one counts */
	for (int i = 0; keywords[i] != NULL; i++)
	{
		if (strcmp(keywords[i], "password") == 0)
			result = values[i] != NULL && values[i][0] != '\0';
	}
	return result;
}

/*
 * Before connecting: whoever is no superuser must have a password in the user
 * mapping.  It is the mapping's user that counts, not the current one, as a
 * view's owner may be the one who reads.
 */
void
logq_check_conn_params(const char **keywords, const char **values,
					   UserMapping *user)
{
	ForeignServer *server;

	if (superuser_arg(user->userid) ||
		has_password(keywords, values) ||
		!password_required(user))
		return;

	server = GetForeignServer(user->serverid);
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required for server \"%s\"",
					server->servername),
			 errdetail("Non-superusers must provide a password in the user mapping.")));
}

/*
 * After connecting: the partition must have asked for the password, and the
 * one it got must be the mapping's.  The caller closes the connection when
 * this throws.
 *
 * A mapping without options is looked up: whoever waited for the connection
 * may have kept only the OIDs.
 */
void
logq_check_conn_security(PGconn *conn, UserMapping *user,
						 const char *server_name)
{
	if (superuser_arg(user->userid))
		return;
	if (user->options == NIL)
		user = GetUserMapping(user->userid, user->serverid);
	if (!password_required(user))
		return;

	if (PQconnectionUsedPassword(conn))
	{
		const char *used = PQpass(conn);
		ListCell   *lc;

		foreach(lc, user->options)
		{
			DefElem    *def = (DefElem *) lfirst(lc);

			if (strcmp(def->defname, "password") == 0)
			{
				const char *password = defGetString(def);

				if (password[0] != '\0' && used != NULL &&
					strcmp(password, used) == 0)
					return;
			}
		}
	}

	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required for server \"%s\"", server_name),
			 errdetail("Non-superusers cannot connect if the server does not request a password."),
			 errhint("Target server's authentication method must be changed or password_required=false set in the user mapping attributes.")));
}
