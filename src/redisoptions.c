/*-------------------------------------------------------------------------
 *
 * redisoptions.c
 *		The foreign server that leads to Redis: its options and those of its
 *		user mapping, when they are made and when they are used.
 *
 * The server is the one that logq.cache_server names, of the wrapper
 * "logq_redis"; without it there is no Redis.  It is used for all users alike,
 * as what is kept there tells them apart by itself.  So the user mapping that
 * counts is that of the server's owner, or else that of PUBLIC.
 *
 * What was read is kept for the session until one of these objects changes;
 * that there is no such server is kept, too.
 *
 * Failure cases: options that the validator has not seen, as they can come out
 * of a dump or from another build of logq, make a configuration that is of no
 * use and says why.  Nothing here throws because of an option, but for the
 * validator.
 *
 *-------------------------------------------------------------------------
 */
#include "redisint.h"

#include <limits.h>
#include <sys/un.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(logq_redis_validator);

#define DEFAULT_HOST "127.0.0.1"
#define DEFAULT_PORT "6379"
#define DEFAULT_PREFIX "logq:"
#define NO_TLS_HINT "Build logq with hiredis 1.0 or later and its library hiredis_ssl."

/* hiredis 0.14 leaves the last byte of the address as it happens to be */
#define MAX_SOCKET_PATH (sizeof(((struct sockaddr_un *) NULL)->sun_path) - 2)

typedef struct Option
{
	const char *name;
	Oid			catalog;
	bool		superuser_only; /* has the server read a file */
} Option;

static const Option options[] = {
	{"db", ForeignServerRelationId, false},
	{"host", ForeignServerRelationId, false},
	{"port", ForeignServerRelationId, false},
	{"prefix", ForeignServerRelationId, false},
	{"socket", ForeignServerRelationId, false},
	{"sslcert", ForeignServerRelationId, true},
	{"sslkey", ForeignServerRelationId, true},
	{"sslrootcert", ForeignServerRelationId, true},
	{"tls", ForeignServerRelationId, false},
	{"tls_server_name", ForeignServerRelationId, false},
	{"password", UserMappingRelationId, false},
	{"user", UserMappingRelationId, false}
};

char	   *logq_cache_server = NULL;

/* what was read; NULL with config_known: there is no such server */
static LogqRedisConfig *config = NULL;
static bool config_known = false;
static char config_name[NAMEDATALEN];	/* for this logq.cache_server */
static bool callbacks_registered = false;

/* ---------- the validator ---------- */

static const Option *
find_option(const char *name, Oid catalog)
{
	for (int i = 0; i < lengthof(options); i++)
		if (options[i].catalog == catalog && strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

/*
 * What is wrong with the value of an option, as a hint; NULL: nothing.
 */
static const char *
value_hint(const char *name, const char *value)
{
	bool		ignored;

	if (strcmp(name, "host") == 0 &&
		(value[0] == '\0' || strpbrk(value, ", /\t\r\n@") != NULL))
		return "Give one name or address, or the option \"socket\".";
	if (strcmp(name, "port") == 0 && !logq_is_integer(value, 1, 65535))
		return "Give a number between 1 and 65535.";
	if (strcmp(name, "socket") == 0 && value[0] != '/')
		return "Give the path of a socket, from the root.";
	if (strcmp(name, "socket") == 0 && strlen(value) > MAX_SOCKET_PATH)
		return "The path of a socket may have 106 bytes.";
	if (strcmp(name, "db") == 0 && !logq_is_integer(value, 0, INT_MAX))
		return "Give the number of a database, from 0.";
	if (strcmp(name, "prefix") == 0 && strlen(value) > LOGQ_REDIS_MAX_PREFIX)
		return "A prefix may have 128 bytes.";
	if (strcmp(name, "tls") == 0 && !parse_bool(value, &ignored))
		return "Valid values are: on, off.";
	if ((strncmp(name, "ssl", 3) == 0 ||
		 strcmp(name, "tls_server_name") == 0) && value[0] == '\0')
		return "Drop the option to do without.";
	return NULL;
}

static const char *
get_option(List *given, const char *name)
{
	ListCell   *lc;

	foreach(lc, given)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

static bool
wants_tls(List *given)
{
	const char *tls = get_option(given, "tls");
	bool		result = false;

	if (tls != NULL)
		(void) parse_bool(tls, &result);
	return result;
}

/*
 * What is wrong with the options together; NULL: nothing.
 */
static const char *
conflict(List *given)
{
	if (get_option(given, "socket") != NULL &&
		(get_option(given, "host") != NULL ||
		 get_option(given, "port") != NULL))
		return "option \"socket\" excludes \"host\" and \"port\"";
	if (get_option(given, "socket") != NULL && wants_tls(given))
		return "option \"socket\" excludes \"tls\"";
	if ((get_option(given, "sslcert") == NULL) !=
		(get_option(given, "sslkey") == NULL))
		return "options \"sslcert\" and \"sslkey\" go together";
	return NULL;
}

/*
 * Check the options of a server or user mapping of logq_redis; the wrapper
 * itself has none.
 */
Datum
logq_redis_validator(PG_FUNCTION_ARGS)
{
	List	   *given = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	const char *problem;
	ListCell   *lc;

	foreach(lc, given)
	{
		DefElem    *def = lfirst(lc);
		const Option *option = find_option(def->defname, catalog);
		const char *value = defGetString(def);
		const char *hint;

		if (option == NULL)
		{
			List	   *valid = NIL;

			for (int i = 0; i < lengthof(options); i++)
				if (options[i].catalog == catalog)
					valid = lappend(valid, (char *) options[i].name);
			logq_report_invalid_option(def->defname, valid);
			continue;
		}
		if (option->superuser_only && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set option \"%s\"",
							def->defname),
					 errhint("Only a superuser may set this option.")));
		/* secrets are all fine */
		hint = value_hint(def->defname, value);
		if (hint != NULL)
			logq_report_invalid_value(def->defname, value, hint);
	}
	if (!LOGQ_REDIS_HAS_TLS && wants_tls(given))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("TLS to Redis is not supported by this build"),
				 errhint(NO_TLS_HINT)));
	problem = conflict(given);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("%s", problem)));
	PG_RETURN_VOID();
}

/* ---------- the configuration of the session ---------- */

/*
 * An object has changed that may be one of ours.
 */
static void
config_invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	config_known = false;
}

/*
 * The options of the user mapping that counts; NIL: there is none.
 */
static List *
mapping_options(const ForeignServer *server)
{
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;
	List	   *result = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
							ObjectIdGetDatum(server->owner),
							ObjectIdGetDatum(server->serverid));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
								ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server->serverid));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		result = untransformRelOptions(datum);
	ReleaseSysCache(tuple);
	return result;
}

static const char *
or_default(const char *value, const char *otherwise)
{
	return pstrdup(value != NULL ? value : otherwise);
}

static const char *
or_null(const char *value)
{
	return value != NULL ? pstrdup(value) : NULL;
}

/*
 * Why options are of no use; NULL: they are fine.  The validator says the
 * same, but may be of another build.
 */
static const char *
check_config(const LogqRedisConfig *new, List *given)
{
	ListCell   *lc;

	foreach(lc, given)
	{
		DefElem    *def = lfirst(lc);

		if (value_hint(def->defname, defGetString(def)) != NULL)
			return psprintf("invalid value for option \"%s\"", def->defname);
	}
	if (new->tls && !LOGQ_REDIS_HAS_TLS)
		return "TLS to Redis is not supported by this build";
	return conflict(given);
}

static uint64
hash_options(uint64 hash, List *given)
{
	ListCell   *lc;

	foreach(lc, given)
	{
		DefElem    *def = lfirst(lc);
		const char *value = defGetString(def);

		hash = hash_bytes_extended((const unsigned char *) def->defname,
								   strlen(def->defname) + 1, hash);
		hash = hash_bytes_extended((const unsigned char *) value,
								   strlen(value) + 1, hash);
	}
	return hash;
}

/*
 * Read the configuration, into a memory context of its own.  NULL: there is
 * none.
 */
static LogqRedisConfig *
read_config(void)
{
	ForeignServer *server = GetForeignServerByName(logq_cache_server, true);
	const ForeignDataWrapper *wrapper;
	MemoryContext context;
	MemoryContext old;
	LogqRedisConfig *new;
	List	   *mapping;

	if (server == NULL)
		return NULL;
	wrapper = GetForeignDataWrapper(server->fdwid);
	mapping = mapping_options(server);

	context = AllocSetContextCreate(CurrentMemoryContext,
									"logq Redis options",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	new = palloc0(sizeof(LogqRedisConfig));
	new->context = context;
	new->serverid = server->serverid;
	new->hash = hash_options(hash_options(server->fdwid, server->options),
							 mapping);
	new->socket = or_null(get_option(server->options, "socket"));
	new->host = or_default(get_option(server->options, "host"), DEFAULT_HOST);
	new->port = or_default(get_option(server->options, "port"), DEFAULT_PORT);
	new->db = or_default(get_option(server->options, "db"), "0");
	new->prefix = or_default(get_option(server->options, "prefix"),
							 DEFAULT_PREFIX);
	new->user = or_default(get_option(mapping, "user"), "");
	new->password = or_default(get_option(mapping, "password"), "");
	new->tls = wants_tls(server->options);
	new->sslrootcert = or_null(get_option(server->options, "sslrootcert"));
	new->sslcert = or_null(get_option(server->options, "sslcert"));
	new->sslkey = or_null(get_option(server->options, "sslkey"));
	new->server_name = or_default(get_option(server->options,
											 "tls_server_name"), new->host);
	new->address = new->socket != NULL ? new->socket :
		psprintf(strchr(new->host, ':') != NULL ? "[%s]:%s" : "%s:%s",
				 new->host, new->port);
	if (strcmp(wrapper->fdwname, LOGQ_REDIS_FDW) != 0)
		new->bad = psprintf("server \"%s\" is not of the foreign-data wrapper \"%s\"",
							server->servername, LOGQ_REDIS_FDW);
	else
		new->bad = check_config(new, server->options);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	return new;
}

const LogqRedisConfig *
logq_redis_known_config(void)
{
	if (!config_known || logq_cache_server == NULL ||
		strcmp(config_name, logq_cache_server) != 0)
		return NULL;
	return config;
}

const LogqRedisConfig *
logq_redis_config(void)
{
	LogqRedisConfig *new;

	if (logq_cache_server == NULL || logq_cache_server[0] == '\0' ||
		strlen(logq_cache_server) >= NAMEDATALEN)
		return NULL;
	if (config_known && strcmp(config_name, logq_cache_server) == 0)
		return config;
	if (!IsTransactionState())
		return NULL;

	if (!callbacks_registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, config_invalidated,
									  (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, config_invalidated,
									  (Datum) 0);
		CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID,
									  config_invalidated, (Datum) 0);
		callbacks_registered = true;
	}
	/* what changes while it is read is to be read again */
	config_known = true;
	strlcpy(config_name, logq_cache_server, NAMEDATALEN);
	PG_TRY();
	{
		new = read_config();
	}
	PG_CATCH();
	{
		config_known = false;
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* other objects have changed, not ours */
	if (new != NULL && config != NULL && new->serverid == config->serverid &&
		new->hash == config->hash)
	{
		MemoryContextDelete(new->context);
		return config;
	}
	if (config != NULL)
	{
		logq_redis_config_changed();
		MemoryContextDelete(config->context);
	}
	config = new;
	return config;
}
