/*-------------------------------------------------------------------------
 *
 * partition.c
 *		logq.add_partition, logq.upgrade_store and logq.remove_partition.
 *
 * A partition is a server of logq_fdw whose database has the schema
 * logq_store.  The store knows its own number, so any coordinator that is
 * told of the server learns the same number; the coordinator keeps only the
 * name and the number, in logq.partition.
 *
 * Adding runs on the partition in a transaction of its own, before the local
 * row is written: should the local transaction roll back, an empty store
 * remains, and adding again finds it.  Removing never touches the partition.
 *
 * A store has a format number.  One of an older format is brought to ours by
 * logq.upgrade_store alone: adding refuses it, as an older coordinator beside
 * this one might still need it as it is.  All steps together are a transaction
 * on the partition, as the store's owner and under the lock that adding takes
 * too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "contents.h"
#include "health.h"
#include "maintain.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(logq_add_partition);
PG_FUNCTION_INFO_V1(logq_partition_changed);
PG_FUNCTION_INFO_V1(logq_upgrade_store);
PG_FUNCTION_INFO_V1(logq_remove_partition);

/*
 * Keys of the text of a database's sorting and case folding.  Equal texts
 * mean equal answers.  Before 15 a server cannot tell the version of its
 * default collation, so there only C is known to be the same.  Columns that are
 * newer are NULL unless they are made use of, and then concat_ws() leaves them
 * out.  The builtin provider folds case by the server's Unicode, of which the
 * collation's version says nothing.
 */
#define LOCALE_SQL(columns) \
	"SELECT pg_catalog.concat_ws('/', d.datlocprovider, d.datcollate, d.datctype, " columns ", " \
	"pg_catalog.pg_database_collation_actual_version(d.oid)) " \
	"FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
#define LOCALE_SQL_15 LOCALE_SQL("d.daticulocale")
#define LOCALE_SQL_16 LOCALE_SQL("d.daticulocale, d.daticurules")
#define LOCALE_SQL_17 \
	LOCALE_SQL("d.datlocale, d.daticurules, CASE WHEN d.datlocprovider = 'b' AND d.datlocale <> 'C' " \
			   "THEN pg_catalog.unicode_version() END")
#define LOCALE_SQL_13 \
	"SELECT CASE WHEN d.datcollate IN ('C', 'POSIX') AND d.datctype IN ('C', 'POSIX') " \
	"THEN 'c/C/C' ELSE 'unknown' END " \
	"FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"

/*
 * The first value of a query on this coordinator, in the caller's memory, or
 * NULL.
 *
 * It runs as the owner of logq.partition, as whoever may call our functions
 * need not have rights on the table, and where no operators of the caller's
 * get in its way.  An error's rollback undoes both.
 */
static char *
local_value(const char *sql, int nargs, Oid *types, Datum *values)
{
	MemoryContext old = CurrentMemoryContext;
	HeapTuple	tuple;
	Oid			owner;
	Oid			save_user;
	int			save_context;
	int			save_nestlevel;
	char	   *value = NULL;

	tuple = SearchSysCache1(RELOID,
							ObjectIdGetDatum(logq_relation_oid("partition")));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"logq.partition\" does not exist"),
				 errhint("Run CREATE EXTENSION logq in this database.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(owner, save_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);

	SPI_connect();
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	if (SPI_processed > 0 && SPI_tuptable != NULL)
	{
		value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		if (value != NULL)
			value = MemoryContextStrdup(old, value);
	}
	SPI_finish();

	SetUserIdAndSecContext(save_user, save_context);
	AtEOXact_GUC(true, save_nestlevel);
	return value;
}

/*
 * The first value of a query on a partition, palloc'd, or NULL.
 */
static char *
remote_value(LogqConn *conn, const char *sql)
{
	PGresult   *res = logq_conn_exec(conn, sql);
	char	   *value = NULL;

	if (PQntuples(res) > 0 && !PQgetisnull(res, 0, 0))
		value = pstrdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return value;
}

static const char *
locale_sql(int version)
{
	return version >= 170000 ? LOCALE_SQL_17 :
		version >= 160000 ? LOCALE_SQL_16 :
		version >= 150000 ? LOCALE_SQL_15 : LOCALE_SQL_13;
}

/*
 * How this database sorts and folds case.
 */
static char *
local_locale(void)
{
	return local_value(locale_sql(logq_server_version()), 0, NULL, NULL);
}

/*
 * Does the partition sort and fold case as this database does?
 */
static bool
has_same_locale(LogqConn *conn)
{
	int			version = PQserverVersion(conn->pg);
	char	   *ours;
	char	   *theirs;

	theirs = remote_value(conn, locale_sql(version));
	if (version < 150000)
		ours = local_value(LOCALE_SQL_13, 0, NULL, NULL);
	else
		ours = local_locale();
	return ours != NULL && theirs != NULL && strcmp(ours, "unknown") != 0 &&
		strcmp(ours, theirs) == 0;
}

/*
 * The server as a partition-to-be: it must be of our wrapper, and not the
 * one that stands for all partitions.
 */
static ForeignServer *
partition_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, false);
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);

	if (strcmp(wrapper->fdwname, LOGQ_FDW_NAME) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not of foreign-data wrapper \"%s\"",
						name, LOGQ_FDW_NAME),
				 errhint("Create it with CREATE SERVER ... FOREIGN DATA WRAPPER %s.",
						 LOGQ_FDW_NAME)));
	if (strcmp(server->servername, LOGQ_SERVER_NAME) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" stands for all partitions and cannot be one",
						name)));
	return server;
}

/*
 * Begin a transaction on the partition that is the only one to make a store or
 * to change the format of one: several coordinators may want to at once.  A
 * lock that is not to be had soon, now or later on, is an error, as searches
 * would queue up behind us.
 */
static void
begin_store_change(LogqConn *conn)
{
	PQclear(logq_conn_exec(conn, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
						   "SET LOCAL lock_timeout = '10s'; "
						   "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('" LOGQ_STORE_SCHEMA "'))"));
}

/*
 * The format of the partition's store.
 */
static int
store_format(LogqConn *conn)
{
	char	   *format;

	format = remote_value(conn, "SELECT format FROM " LOGQ_STORE_SCHEMA ".store");
	if (format == NULL || atoi(format) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("store of partition \"%s\" has no valid format",
						conn->name)));
	return atoi(format);
}

/*
 * Complain of a format that is not ours.  Only an older one that has a way to
 * ours can be helped here.
 */
static void
report_format(LogqConn *conn, int format, bool upgradable)
{
	const char *name = quote_literal_cstr(conn->name);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("store of partition \"%s\" has format %d, this version of logq knows %d",
					conn->name, format, LOGQ_STORE_FORMAT),
			 format > LOGQ_STORE_FORMAT ?
			 errhint("Install a version of logq that knows this format, and run ALTER EXTENSION logq UPDATE.") :
			 upgradable ?
			 errhint("To upgrade it, run SELECT logq.upgrade_store(%s); other coordinators need this version of logq then, too.",
					 name) :
			 errhint("There is no way from this format to the present one; if the library is newer than the extension, run ALTER EXTENSION logq UPDATE first.")));
}

/*
 * What brings a store from a format to a later one, or NULL.
 */
static char *
upgrade_step(int format)
{
	Oid			type = INT4OID;
	Datum		value = Int32GetDatum(format);

	return local_value("SELECT logq.store_upgrade_sql($1)", 1, &type, &value);
}

/*
 * Make sure that the partition has a store, and return its number.
 */
static int32
prepare_store(LogqConn *conn, int32 wanted, const char *interval)
{
	int			format;
	char	   *value;
	char	   *encoding;
	int32		number;

	encoding = remote_value(conn, "SELECT pg_catalog.pg_encoding_to_char(encoding) "
							"FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()");
	if (encoding == NULL || pg_char_to_encoding(encoding) != GetDatabaseEncoding())
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("partition \"%s\" has encoding \"%s\", this database \"%s\"",
						conn->name, encoding ? encoding : "",
						GetDatabaseEncodingName()),
				 errhint("Use a database of the same encoding on the partition.")));

	begin_store_change(conn);
	value = remote_value(conn, "SELECT pg_catalog.to_regclass('" LOGQ_STORE_SCHEMA ".store')");
	if (value == NULL)
	{
		char	   *sql;

		sql = local_value(psprintf("SELECT logq.store_sql(%s, %s::pg_catalog.interval)",
								   wanted > 0 ? psprintf("%d", wanted) :
								   "(SELECT last_value::pg_catalog.int4 + 1 FROM logq.partition_number)",
								   quote_literal_cstr(interval ? interval : "1 hour")),
						  0, NULL, NULL);
		PQclear(logq_conn_exec(conn, sql));
	}
	format = store_format(conn);
	if (format != LOGQ_STORE_FORMAT)
		report_format(conn, format, format < LOGQ_STORE_FORMAT && upgrade_step(format) != NULL);
	if (value != NULL && interval != NULL)
		PQclear(logq_conn_exec(conn, psprintf("UPDATE " LOGQ_STORE_SCHEMA
											  ".store SET segment_interval = %s",
											  quote_literal_cstr(interval))));
	value = remote_value(conn, "SELECT number FROM " LOGQ_STORE_SCHEMA ".store");
	PQclear(logq_conn_exec(conn, "COMMIT"));

	number = value ? atoi(value) : 0;
	if (number < 1 || number > LOGQ_MAX_PARTITION_NUMBER)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("store of partition \"%s\" has no valid number",
						conn->name)));
	if (wanted > 0 && number != wanted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" already has number %d",
						conn->name, number),
				 errhint("Leave out the number.")));
	return number;
}

/*
 * Connect to a partition-to-be, prepare its store, and find out about it.
 */
static int32
join_partition(ForeignServer *server, int32 wanted, const char *interval,
			   bool *same_locale)
{
	LogqConn   *conn = logq_conn_acquire_tested(server->serverid, GetUserId());
	volatile int32 number = 0;

	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		number = prepare_store(conn, wanted, interval);
		*same_locale = has_same_locale(conn);
	}
	PG_CATCH();
	{
		/* whatever was begun there goes with the connection */
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
	return number;
}

/*
 * logq.add_partition(server, number, segment_interval) returns number
 */
Datum
logq_add_partition(PG_FUNCTION_ARGS)
{
	ForeignServer *server;
	char	   *interval = NULL;
	char	   *other;
	int32		wanted = 0;
	int32		number;
	bool		same_locale;
	NameData	name;
	Oid			types[4] = {INT4OID, NAMEOID, BOOLOID, TEXTOID};
	Datum		values[4];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("server must not be null")));
	server = partition_server(NameStr(*PG_GETARG_NAME(0)));
	if (!PG_ARGISNULL(1))
	{
		wanted = PG_GETARG_INT32(1);
		if (wanted < 1 || wanted > LOGQ_MAX_PARTITION_NUMBER)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("partition number %d is not between 1 and %d",
							wanted, LOGQ_MAX_PARTITION_NUMBER)));
	}
	if (!PG_ARGISNULL(2))
		interval = DatumGetCString(DirectFunctionCall1(interval_out,
													   PG_GETARG_DATUM(2)));

	/* a name is all of its 64 bytes, and goes into the table as that */
	namestrcpy(&name, server->servername);
	values[1] = NameGetDatum(&name);
	if (local_value("SELECT 1 FROM logq.partition WHERE server = $1", 1,
					&types[1], &values[1]) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("server \"%s\" is already a partition",
						server->servername),
				 errhint("To make a store anew that is lost, run SELECT logq.remove_partition(%s, true) first.",
						 quote_literal_cstr(server->servername))));

	number = join_partition(server, wanted, interval, &same_locale);

	values[0] = Int32GetDatum(number);
	values[2] = BoolGetDatum(same_locale);
	other = local_value("SELECT server FROM logq.partition WHERE number = $1",
						1, types, values);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("partition \"%s\" has number %d, and so has \"%s\"",
						server->servername, number, other),
				 errdetail("Either both servers lead to the same database, or the stores were created by coordinators that did not know of each other."),
				 errhint("Compare the options of the two servers; in the other case create one of the stores anew with a number of its own.")));
	values[3] = CStringGetTextDatum(local_locale());
	(void) local_value("INSERT INTO logq.partition (number, server, same_locale, locale) VALUES ($1, $2, $3, $4)",
					   4, types, values);
	(void) local_value("SELECT pg_catalog.setval('logq.partition_number', greatest($1, last_value)) FROM logq.partition_number",
					   1, types, values);
	logq_partitions_changed();
	logq_warn_without_worker("Without one, segments are made only as rows need them, and are not sealed or dropped by themselves.");
	PG_RETURN_INT32(number);
}

/*
 * Bring the partition's store to our format, and return the one it had.
 *
 * What a step makes has to belong to the owner of the store, whoever calls:
 * the coordinators' maintenance works as that role.
 */
static int
run_upgrade(LogqConn *conn)
{
	char	   *owner;
	char	   *sql;
	int			format;
	int			first;

	begin_store_change(conn);
	if (remote_value(conn, "SELECT pg_catalog.to_regclass('" LOGQ_STORE_SCHEMA ".store')") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("partition \"%s\" has no store", conn->name),
				 errhint("Run SELECT logq.add_partition(%s), which makes one.",
						 quote_literal_cstr(conn->name))));
	first = format = store_format(conn);
	if (format > LOGQ_STORE_FORMAT)
		report_format(conn, format, false);
	if (format == LOGQ_STORE_FORMAT)
	{
		PQclear(logq_conn_exec(conn, "COMMIT"));
		return first;
	}

	owner = remote_value(conn, "SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)) "
						 "FROM pg_catalog.pg_class WHERE oid = '" LOGQ_STORE_SCHEMA ".store'::pg_catalog.regclass "
						 "AND pg_catalog.pg_has_role(relowner, 'MEMBER')");
	if (owner == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("user mapping for partition \"%s\" leads to a role that does not own its store",
						conn->name),
				 errhint("Call this as a role whose user mapping leads to the owner of the store.")));
	PQclear(logq_conn_exec(conn, psprintf("SET LOCAL ROLE %s; LOCK TABLE " LOGQ_STORE_SCHEMA
										  ".store IN SHARE ROW EXCLUSIVE MODE", owner)));

	while (format < LOGQ_STORE_FORMAT)
	{
		int			before = format;

		CHECK_FOR_INTERRUPTS();
		sql = upgrade_step(format);
		if (sql == NULL)
			report_format(conn, format, false);
		PQclear(logq_conn_exec(conn, sql));
		format = store_format(conn);
		if (format <= before || format > LOGQ_STORE_FORMAT)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("upgrade of the store of partition \"%s\" led from format %d to %d",
							conn->name, before, format)));
	}
	PQclear(logq_conn_exec(conn, "COMMIT"));
	return first;
}

/*
 * logq.upgrade_store(server) returns the format that its store had
 *
 * The server need not be a partition yet.  Its transaction there is committed
 * whatever becomes of the one here; again, it finds nothing to do.
 */
Datum
logq_upgrade_store(PG_FUNCTION_ARGS)
{
	ForeignServer *server = partition_server(NameStr(*PG_GETARG_NAME(0)));
	LogqConn   *conn = logq_conn_acquire_tested(server->serverid, GetUserId());
	volatile int format = 0;

	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		format = run_upgrade(conn);
	}
	PG_CATCH();
	{
		/* whatever was begun there goes with the connection */
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
	PG_RETURN_INT32(format);
}

/*
 * Trigger on logq.partition: somebody else than the functions above may have
 * changed it, a restored dump perhaps.  Its database may have another locale
 * than the one in which partitions were found to have the same: conditions
 * must not be sent any more, as they would mean something else there.
 */
Datum
logq_partition_changed(PG_FUNCTION_ARGS)
{
	Oid			type = TEXTOID;
	Datum		locale;
	TriggerEvent event;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"partition_changed")));
	event = ((TriggerData *) fcinfo->context)->tg_event;
	if (TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event))
	{
		locale = CStringGetTextDatum(local_locale());
		/* an UPDATE, even of nothing, calls us again */
		if (local_value("SELECT 1 FROM logq.partition WHERE same_locale AND locale IS DISTINCT FROM $1",
						1, &type, &locale) != NULL)
		{
			ereport(WARNING,
					(errcode(ERRCODE_WARNING),
					 errmsg("partitions were added in a database of another locale"),
					 errdetail("Conditions that depend on the locale are not sent to partitions."),
					 errhint("Once the servers can be reached, remove each partition with logq.remove_partition(server, true), and add it again.")));
			(void) local_value("UPDATE logq.partition SET same_locale = false WHERE same_locale AND locale IS DISTINCT FROM $1",
							   1, &type, &locale);
		}
	}
	logq_partitions_changed();
	return PointerGetDatum(NULL);
}

/* ---------- what partitions hold ---------- */

/*
 * Number of rows on a partition, those of this transaction included.
 */
static char *
count_rows(Oid serverid)
{
	LogqConn   *conn = logq_xact_written_conn(serverid, GetUserId());
	char	   *volatile rows = NULL;

	if (conn != NULL)
		return remote_value(conn, LOGQ_STATUS_SQL);

	conn = logq_conn_acquire_tested(serverid, GetUserId());
	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		rows = remote_value(conn, LOGQ_STATUS_SQL);
	}
	PG_CATCH();
	{
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
	return rows;
}

/*
 * logq.remove_partition(server, force).  Who cannot ask the partition, since it
 * is dead or its server object is gone, learns that there is "force".
 */
Datum
logq_remove_partition(PG_FUNCTION_ARGS)
{
	Name		server = PG_GETARG_NAME(0);
	bool		force = PG_GETARG_BOOL(1);
	Oid			type = NAMEOID;
	Datum		value = NameGetDatum(server);

	if (local_value("SELECT 1 FROM logq.partition WHERE server = $1", 1,
					&type, &value) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not a partition", NameStr(*server)),
				 errhint("See the view \"logq.partitions\" for those there are.")));

	if (!force)
	{
		MemoryContext cxt = CurrentMemoryContext;
		char	   *rows = NULL;

		PG_TRY();
		{
			rows = count_rows(get_foreign_server_oid(NameStr(*server), false));
		}
		PG_CATCH();
		{
			ErrorData  *edata;

			MemoryContextSwitchTo(cxt);
			edata = CopyErrorData();
			FlushErrorState();
			if (edata->sqlerrcode != ERRCODE_QUERY_CANCELED)
				edata->hint = psprintf("To forget the partition without asking it, run SELECT logq.remove_partition(%s, true).",
									   quote_literal_cstr(NameStr(*server)));
			ReThrowError(edata);
		}
		PG_END_TRY();
		if (rows == NULL || strcmp(rows, "0") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("partition \"%s\" holds %s rows",
							NameStr(*server), rows ? rows : "unknown"),
					 errhint("To forget it all the same, run SELECT logq.remove_partition(%s, true); the rows stay on its server.",
							 quote_literal_cstr(NameStr(*server)))));
	}
	(void) local_value("DELETE FROM logq.partition WHERE server = $1", 1,
					   &type, &value);
	logq_partitions_changed();
	PG_RETURN_VOID();
}
