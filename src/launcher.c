/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Starts and stops the maintenance workers, one for each database in
 *		logq.databases; and what all workers share.
 *
 * The launcher is started with the server, when the library is preloaded, and
 * again whenever it has ended.  It has no database, and of tables it reads but
 * that of roles: while logq.worker_role does not exist, as before the first
 * CREATE EXTENSION, it starts nobody, says so in the log once, and looks every
 * second.  Its workers are never restarted by the postmaster; the launcher
 * does so, five seconds after one has ended, and later and later (up to half a
 * minute) when it never lasts, as in a database that does not exist.
 *
 * Failure cases: a launcher that was started anew finds the workers of the
 * one before in shared memory and leaves them alone.  A crash of any process
 * ends all of them; the postmaster then starts the launcher, and it the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest.h"
#include "maintain.h"

#include "access/xact.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#define RESTART_MS 5000
#define MAX_RESTART_MS 30000
/* how often to look for a role that is not there */
#define ROLE_MS 1000
/* one that has run for so long was in order */
#define GOOD_RUN_MS 10000

/* A database that wants a worker; in TopMemoryContext */
typedef struct Database
{
	char		name[NAMEDATALEN];
	bool		wanted;
	BackgroundWorkerHandle *handle; /* NULL: not started by us */
	TimestampTz started_at;
	TimestampTz retry_at;
	int			backoff;		/* ms */
} Database;

static List *databases = NIL;

/* whom this worker has connected as; empty: the bootstrap superuser */
static char role_in_use[NAMEDATALEN] = "";

/*
 * Names in logq.databases, as a list of char *, palloc'd.  False: it is not a
 * list of names.
 */
static bool
wanted_databases(List **names)
{
	*names = NIL;
	if (logq_databases == NULL)
		return true;
	return SplitIdentifierString(pstrdup(logq_databases), ',', names);
}

/*
 * Is a database to have a worker?  A setting that cannot be read changes
 * nothing, so then, too.
 */
bool
logq_worker_wanted(const char *database_name)
{
	List	   *names;
	ListCell   *lc;

	if (!wanted_databases(&names))
		return true;
	foreach(lc, names)
		if (strcmp(lfirst(lc), database_name) == 0)
			return true;
	return false;
}

/*
 * Does this database have a maintenance worker, or will it have one soon?
 */
bool
logq_worker_runs_here(void)
{
	const char *name;

	if (logq_find_worker(LOGQ_WORKER_MAINTENANCE, NULL) != 0)
		return true;
	name = get_database_name(MyDatabaseId);
	return logq_shmem_available() && name != NULL && logq_worker_wanted(name);
}

/*
 * Tell a user who relies on the maintenance worker that there is none.
 */
void
logq_warn_without_worker(const char *detail)
{
	if (logq_worker_runs_here())
		return;
	ereport(NOTICE,
			(errcode(ERRCODE_WARNING),
			 errmsg("database \"%s\" has no maintenance worker",
					get_database_name(MyDatabaseId)),
			 errdetail("%s", detail),
			 errhint("Add \"logq\" to shared_preload_libraries and \"%s\" to logq.databases.",
					 get_database_name(MyDatabaseId))));
}

/*
 * Register the launcher, while that is possible.
 */
void
logq_worker_init(void)
{
	BackgroundWorker worker;

	/*
	 * Not while pg_upgrade runs: it has read the old server's next transaction
	 * id before, and rows that a worker writes here would be of the future.
	 */
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	MemSet(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_MS / 1000;
	strlcpy(worker.bgw_library_name, "logq", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "logq_launcher_main",
			sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "logq launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "logq launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

/* ---------- what all workers share ---------- */

/*
 * Start a worker for a database, whose name it is given beside its argument.
 * We are woken when it starts and when it ends.  The handle is for as long as
 * this process lives; NULL: there is no room for it, which is logged once.
 */
BackgroundWorkerHandle *
logq_start_worker(LogqWorkerKind kind, const char *database_name,
				  Datum arg)
{
	static bool complained = false;
	static const struct
	{
		const char *type;
		const char *function;
	}			kinds[] = {
		[LOGQ_WORKER_MAINTENANCE] = {"logq maintenance", "logq_maintenance_main"},
		[LOGQ_WORKER_SEALER] = {"logq sealer", "logq_sealer_main"},
		[LOGQ_WORKER_INGEST] = {"logq ingest", "logq_ingest_main"}
	};
	const char *type = kinds[kind].type;
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle = NULL;
	MemoryContext old;

	MemSet(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "logq", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, kinds[kind].function,
			sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s %s", type,
			 database_name);
	strlcpy(worker.bgw_type, type, sizeof(worker.bgw_type));
	strlcpy(worker.bgw_extra, database_name, sizeof(worker.bgw_extra));
	worker.bgw_main_arg = arg;
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
		complained = false;
	else
	{
		handle = NULL;
		if (!complained)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not start \"%s\": too many background workers",
							worker.bgw_name),
					 errhint("Raise max_worker_processes: logq needs one for its launcher, two for each database, and one for each Kafka topic.")));
		complained = true;
	}
	MemoryContextSwitchTo(old);
	return handle;
}

/*
 * Connect to the database whose name the worker was given, as
 * logq.worker_role.  A role that cannot be is the end of the worker; it is
 * tried again like any that has ended.
 */
void
logq_worker_connect_database(void)
{
	strlcpy(role_in_use, logq_worker_role, sizeof(role_in_use));
	BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra,
										 role_in_use[0] != '\0' ?
										 role_in_use : NULL,
										 role_in_use[0] != '\0' ?
										 LOGQ_WORKER_CONNECT_FLAGS : 0);
}

/* See maintain.h. */
bool
logq_worker_role_changed(void)
{
	return strcmp(role_in_use, logq_worker_role) != 0;
}

/*
 * Settings of a worker's session: whatever the configuration says, its
 * transactions are simple ones.  What they write can be copied again, so no
 * commit waits for the disk or a standby.
 */
void
logq_worker_session(const char *name)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"synchronous_commit", "off"},
		{"lock_timeout", "500ms"},
		LOGQ_WORKER_TIMEOUTS
		{"row_security", "off"}
	};
	int			i;

	for (i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
	pgstat_report_appname(name);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Call function(arg) in a transaction.  NULL: it was committed.  Otherwise
 * the error, in cxt, which is the current context afterwards in any case.
 */
ErrorData *
logq_worker_transaction(void (*function) (void *arg), void *arg,
						MemoryContext cxt)
{
	ErrorData  *volatile edata = NULL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		function(arg);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		edata = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	pgstat_report_stat(false);
	return edata;
}

/*
 * What an error says, in one line, palloc'd.
 */
char *
logq_worker_error_text(const ErrorData *edata)
{
	char	   *text;
	char	   *p;

	text = edata->detail ?
		psprintf("%s: %s", edata->message, edata->detail) :
		pstrdup(edata->message);
	for (p = text; *p != '\0'; p++)
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	return text;
}

/*
 * Somebody else works on the same things in our database, or is dropping
 * them: no reason to worry anybody.
 */
bool
logq_worker_is_temporary(const ErrorData *edata)
{
	return edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		edata->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		edata->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

/*
 * Take a new connection to a partition as the owner of its server.  In a
 * transaction.
 */
LogqConn *
logq_worker_connect(LogqPartition *part)
{
	ForeignServer *server;

	if (!OidIsValid(part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", part->name)));
	server = GetForeignServer(part->serverid);
	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER,
							   ObjectIdGetDatum(server->owner),
							   ObjectIdGetDatum(part->serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER,
							   ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(part->serverid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no user mapping for \"%s\", the owner of server \"%s\"",
						GetUserNameFromId(server->owner, false),
						part->name)));
	return logq_conn_acquire(part->serverid, server->owner, true);
}

/* ---------- the launcher ---------- */

/*
 * The role of logq.worker_role, InvalidOid: there is none.  In a transaction.
 */
static void
look_up_role(void *arg)
{
	*(Oid *) arg = get_role_oid(logq_worker_role, true);
}

/*
 * Is there the role that workers are to be?  That there is none is logged once
 * for each name.  Roles are the same in all databases.
 */
static bool
role_exists(MemoryContext cxt)
{
	static char missing[NAMEDATALEN] = "";
	ErrorData  *edata;
	Oid			role = InvalidOid;

	if (logq_worker_role[0] == '\0')
		return true;
	edata = logq_worker_transaction(look_up_role, &role, cxt);
	if (edata != NULL)
		ReThrowError(edata);
	if (OidIsValid(role))
	{
		missing[0] = '\0';
		return true;
	}
	if (strncmp(missing, logq_worker_role, NAMEDATALEN - 1) != 0)
		ereport(LOG,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no worker of logq is started: role \"%s\" does not exist",
						logq_worker_role),
				 errdetail("It is the one of the parameter \"%s\".",
						   "logq.worker_role"),
				 errhint("CREATE EXTENSION logq makes the role \"logq_worker\".  Another one can be any that may connect to the databases in logq.databases and has no rights besides.")));
	strlcpy(missing, logq_worker_role, sizeof(missing));
	return false;
}

/*
 * Start the worker of a database.
 */
static void
start_worker(Database *db, TimestampTz now)
{
	db->started_at = now;
	db->handle = logq_start_worker(LOGQ_WORKER_MAINTENANCE, db->name,
								   (Datum) 0);
	if (db->handle == NULL)
		db->retry_at = TimestampTzPlusMilliseconds(now, MAX_RESTART_MS);
}

/*
 * Take logq.databases over into our list.
 */
static void
read_setting(void)
{
	List	   *names;
	ListCell   *lc;

	if (!wanted_databases(&names))
	{
		ereport(LOG,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list syntax in parameter \"%s\"",
						"logq.databases"),
				 errhint("Give names of databases, separated by commas.")));
		return;					/* all stays as it was */
	}

	foreach(lc, databases)
		((Database *) lfirst(lc))->wanted = false;
	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		Database   *db = NULL;
		ListCell   *lc2;

		foreach(lc2, databases)
			if (strcmp(((Database *) lfirst(lc2))->name, name) == 0)
				db = lfirst(lc2);
		if (db == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			db = palloc0(sizeof(Database));
			strlcpy(db->name, name, NAMEDATALEN);
			db->backoff = RESTART_MS;
			databases = lappend(databases, db);
			MemoryContextSwitchTo(old);
		}
		db->wanted = true;
		/* perhaps that was what it took */
		db->backoff = RESTART_MS;
		db->retry_at = 0;
	}

	foreach(lc, databases)
	{
		Database   *db = lfirst(lc);

		if (db->wanted)
			continue;
		/* a worker that is not ours sees for itself that it is not wanted */
		if (db->handle != NULL)
		{
			TerminateBackgroundWorker(db->handle);
			pfree(db->handle);
		}
		databases = foreach_delete_current(databases, lc);
		pfree(db);
	}
	/* whoever has started them may have ended before it could end them */
	logq_ingest_terminate_unwanted();
}

/*
 * See after one database.  Returns when to look again, 0: when woken.
 */
static TimestampTz
look_after(Database *db, MemoryContext cxt)
{
	TimestampTz now = logq_now();
	pid_t		pid;

	if (db->handle != NULL)
	{
		switch (GetBackgroundWorkerPid(db->handle, &pid))
		{
			case BGWH_STARTED:
			case BGWH_NOT_YET_STARTED:
				return 0;
			case BGWH_POSTMASTER_DIED:
				proc_exit(1);
			case BGWH_STOPPED:
				break;
		}
		pfree(db->handle);
		db->handle = NULL;
		if (TimestampDifferenceExceeds(db->started_at, now, GOOD_RUN_MS))
			db->backoff = RESTART_MS;
		db->retry_at = TimestampTzPlusMilliseconds(now, db->backoff);
		db->backoff = Min(db->backoff * 2, MAX_RESTART_MS);
	}
	if (now < db->retry_at)
		return db->retry_at;
	if (logq_find_worker(LOGQ_WORKER_MAINTENANCE, db->name) != 0)
	{
		/* that of a launcher before us, about whose end nobody tells us */
		db->retry_at = TimestampTzPlusMilliseconds(now, RESTART_MS);
		return db->retry_at;
	}
	if (!role_exists(cxt))
		return TimestampTzPlusMilliseconds(now, ROLE_MS);
	start_worker(db, now);
	return db->handle != NULL ? 0 : db->retry_at;
}

/*
 * The launcher.
 */
void
logq_launcher_main(Datum arg)
{
	MemoryContext cxt;
	ListCell   *lc;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	/* no database, and so nobody's rights: roles are all there is to see */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	cxt = AllocSetContextCreate(TopMemoryContext, "logq launcher",
								ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(cxt);
	read_setting();
	/* a worker that makes the server crash gets no chance to do it all day */
	if (TimestampDifferenceExceeds(logq_loaded_at(), logq_now(), RESTART_MS))
		foreach(lc, databases)
			((Database *) lfirst(lc))->retry_at =
				TimestampTzPlusMilliseconds(logq_now(), RESTART_MS);

	for (;;)
	{
		TimestampTz next = 0;
		long		timeout = -1;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		CHECK_FOR_INTERRUPTS();
		/* it is in no transaction, and would hold up others' invalidations */
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		/* not before: a transaction ends in TopMemoryContext, up to 17 */
		MemoryContextSwitchTo(cxt);
		MemoryContextReset(cxt);
		/* the postmaster would not start us again after a status of 0 */
		if (ShutdownRequestPending)
			proc_exit(1);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			read_setting();
		}

		foreach(lc, databases)
		{
			TimestampTz at = look_after(lfirst(lc), cxt);

			if (at != 0 && (next == 0 || at < next))
				next = at;
		}
		if (next != 0)
		{
			timeout = TimestampDifferenceMilliseconds(logq_now(),
													  next);
			events |= WL_TIMEOUT;
		}
		if (WaitLatch(MyLatch, events, timeout,
					  PG_WAIT_EXTENSION) & WL_LATCH_SET)
			ResetLatch(MyLatch);
	}
}
