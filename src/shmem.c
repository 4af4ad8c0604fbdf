/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		Which copies of catalogs have been confirmed, for all backends; and
 *		which workers there are.
 *
 * Only with the library in shared_preload_libraries: otherwise nothing is
 * ever found confirmed here and the rest does nothing, so every backend goes
 * by its own requests.
 *
 * An entry says that the coordinator's tables hold a certain version of a
 * partition's catalog (it is published), and when a request last began that
 * found the partition at that version (it is confirmed).  A doubt takes the
 * confirmation away for good: what began before it proves nothing any more,
 * also when its answer, or the copy made from it, comes in later.  So an entry
 * is made by a doubt, too.
 *
 * All is protected by one lock, held for a few instructions.  Nothing here
 * throws or waits for anything else: commit callbacks call it.
 *
 * Failure cases: when there is no room for a partition it is never confirmed,
 * which costs requests and no answers.  After a crash all starts empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"
#include "cache.h"
#include "ingest.h"
#include "maintain.h"
#include "resolve.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "health.h"
#include "querystat.h"

PG_FUNCTION_INFO_V1(logq_catalog_status);
PG_FUNCTION_INFO_V1(logq_catalog_places);

#define MAX_ENTRIES 1024
/* databases with a maintenance worker, and those with a sealer */
#define MAX_WORKERS 256
/* of logq.catalog_status() */
#define CATALOG_COLUMNS 15

typedef struct EntryKey
{
	Oid			database;
	int32		number;
} EntryKey;

typedef struct Entry
{
	EntryKey	key;
	bool		published;
	TimestampTz doubted_at;		/* what began until then confirms nothing */
	TimestampTz seal_paused_at; /* its last sealing did not get far, 0: it did */
	char		seal_error[256];	/* why, "": no error */
	char		ahead_error[256];	/* of making segments, "" */
	TimestampTz true_at;		/* a confirmation, perhaps taken away since */
	TimestampTz failing_since;	/* there was no error before */
	LogqPartitionFacts facts;
	LogqConfirmation confirmation;
} Entry;

typedef struct WorkerSlot
{
	LogqWorkerKind kind;
	pid_t		pid;			/* 0: free */
	Oid			database;
	NameData	database_name;
	Latch	   *latch;
} WorkerSlot;

typedef struct SharedState
{
	int			nworkers;		/* slots above are free */
	WorkerSlot	workers[MAX_WORKERS];
} SharedState;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* all NULL when the library was not preloaded */
static LWLock *lock = NULL;
static SharedState *state = NULL;
static HTAB *entries = NULL;

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(add_size(MAXALIGN(sizeof(SharedState)),
									hash_estimate_size(MAX_ENTRIES,
													   sizeof(Entry))));
	RequestAddinShmemSpace(logq_ingest_shmem_size());
	RequestAddinShmemSpace(logq_health_shmem_size());
	RequestAddinShmemSpace(logq_resolve_shmem_size());
	RequestAddinShmemSpace(logq_admission_shmem_size());
	RequestAddinShmemSpace(logq_connlimit_shmem_size());
	RequestAddinShmemSpace(logq_hot_shmem_size());
	RequestAddinShmemSpace(logq_cachestat_shmem_size());
	RequestAddinShmemSpace(logq_redis_shmem_size());
	RequestAddinShmemSpace(logq_querystat_shmem_size());
	RequestNamedLWLockTranche("logq", 8);
}

static void
shmem_startup(void)
{
	HASHCTL		ctl;
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	state = ShmemInitStruct("logq workers", sizeof(SharedState), &found);
	if (!found)
		MemSet(state, 0, sizeof(SharedState));
	ctl.keysize = sizeof(EntryKey);
	ctl.entrysize = sizeof(Entry);
	entries = ShmemInitHash("logq confirmations", MAX_ENTRIES, MAX_ENTRIES,
							&ctl, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	lock = &GetNamedLWLockTranche("logq")->lock;
	logq_ingest_shmem_startup();
	logq_health_shmem_startup(&GetNamedLWLockTranche("logq")[2].lock);
	logq_resolve_shmem_startup(&GetNamedLWLockTranche("logq")[3].lock);
	logq_admission_shmem_startup(&GetNamedLWLockTranche("logq")[4].lock);
	logq_connlimit_shmem_startup(&GetNamedLWLockTranche("logq")[4].lock);
	logq_hot_shmem_startup(&GetNamedLWLockTranche("logq")[5].lock);
	logq_cachestat_shmem_startup();
	logq_redis_shmem_startup(&GetNamedLWLockTranche("logq")[6].lock);
	logq_querystat_shmem_startup(&GetNamedLWLockTranche("logq")[7].lock);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Ask for shared memory, while that is possible.
 */
void
logq_shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/*
 * Was the library preloaded?
 */
bool
logq_shmem_available(void)
{
	return state != NULL;
}

/* ---------- confirmations ---------- */

/*
 * The entry of a partition of our database, or NULL.  With the lock held,
 * exclusively to make one.
 */
static Entry *
find_entry(int32 number, bool make)
{
	EntryKey	key;
	Entry	   *entry;
	bool		found;

	key.database = MyDatabaseId;
	key.number = number;
	if (!make)
		return hash_search(entries, &key, HASH_FIND, NULL);
	if (hash_get_num_entries(entries) >= MAX_ENTRIES)
		return hash_search(entries, &key, HASH_FIND, NULL);
	entry = hash_search(entries, &key, HASH_ENTER_NULL, &found);
	if (entry != NULL && !found)
		MemSet((char *) entry + sizeof(EntryKey), 0,
			   sizeof(Entry) - sizeof(EntryKey));
	return entry;
}

/*
 * What was published of a partition.  At every executor start: one lock, one
 * look-up.
 */
bool
logq_shmem_get(int32 number, LogqConfirmation *confirmation)
{
	const Entry *entry;
	bool		published = false;

	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_SHARED);
	entry = find_entry(number, false);
	if (entry != NULL && entry->published)
	{
		*confirmation = entry->confirmation;
		published = true;
	}
	LWLockRelease(lock);
	return published;
}

/*
 * Take note of a committed copy.  Two sessions may come here in another order
 * than they committed in: the later copy has the higher "changed".
 */
void
logq_shmem_publish(int32 number, int64 version, int64 changed,
				   TimestampTz asked_at)
{
	Entry	   *entry;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, true);
	if (entry != NULL &&
		(!entry->published || changed >= entry->confirmation.changed))
	{
		LogqConfirmation *c = &entry->confirmation;

		if (!entry->published || c->version != version)
			c->confirmed_at = 0;
		entry->published = true;
		c->version = version;
		c->changed = changed;
		if (asked_at > entry->doubted_at && asked_at > c->confirmed_at)
			entry->true_at = c->confirmed_at = asked_at;
	}
	LWLockRelease(lock);
}

/*
 * A request that began at asked_at met this version.
 */
void
logq_shmem_confirm(int32 number, int64 version, TimestampTz asked_at)
{
	Entry	   *entry;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, false);
	if (entry != NULL && entry->published &&
		entry->confirmation.version == version &&
		asked_at > entry->doubted_at &&
		asked_at > entry->confirmation.confirmed_at)
		entry->true_at = entry->confirmation.confirmed_at = asked_at;
	LWLockRelease(lock);
}

/*
 * A request that began at asked_at found row-level security to be so.
 */
void
logq_shmem_row_security(int32 number, bool row_security, TimestampTz asked_at)
{
	Entry	   *entry;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, true);
	if (entry != NULL && asked_at >= entry->confirmation.row_security_at)
	{
		entry->confirmation.row_security = row_security;
		entry->confirmation.row_security_at = asked_at;
	}
	LWLockRelease(lock);
}

/*
 * What wakes the maintenance worker of our database, or NULL.  With the lock
 * held.
 */
static Latch *
maintenance_latch(void)
{
	int			i;

	for (i = 0; i < state->nworkers; i++)
		if (state->workers[i].pid != 0 &&
			state->workers[i].kind == LOGQ_WORKER_MAINTENANCE &&
			state->workers[i].database == MyDatabaseId)
			return state->workers[i].latch;
	return NULL;
}

/*
 * Wake the maintenance worker of our database.
 */
void
logq_shmem_wake_maintenance(void)
{
	Latch	   *latch;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_SHARED);
	latch = maintenance_latch();
	LWLockRelease(lock);
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * Take the confirmation away, and wake the worker to get a new one.
 */
void
logq_shmem_doubt(int32 number)
{
	TimestampTz now = logq_now();
	Entry	   *entry;
	Latch	   *latch;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, true);
	if (entry != NULL)
	{
		entry->doubted_at = Max(entry->doubted_at, now);
		entry->confirmation.confirmed_at = 0;
	}
	latch = maintenance_latch();
	LWLockRelease(lock);
	/* should the worker have ended meanwhile, somebody else wakes in vain */
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * Was a partition doubted after this time?
 */
bool
logq_shmem_doubted_since(int32 number, TimestampTz since)
{
	const Entry *entry;
	bool		doubted = false;

	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_SHARED);
	entry = find_entry(number, false);
	if (entry != NULL)
		doubted = entry->doubted_at > since;
	LWLockRelease(lock);
	return doubted;
}

/*
 * Can a doubt of this partition be recorded?
 */
bool
logq_shmem_can_doubt(int32 number)
{
	bool		can;

	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_SHARED);
	can = find_entry(number, false) != NULL ||
		hash_get_num_entries(entries) < MAX_ENTRIES;
	LWLockRelease(lock);
	return can;
}

/*
 * Keep what an error says, NULL: there is none.  To has 256 bytes.  True: it
 * is another one than before.
 */
static bool
keep_error(char *to, const char *error)
{
	int			len = 0;
	bool		same;

	if (error != NULL)
		len = pg_mbcliplen(error, strlen(error), 255);
	same = strlen(to) == len && memcmp(to, error ? error : "", len) == 0;
	memcpy(to, error ? error : "", len);
	to[len] = '\0';
	return !same;
}

/*
 * Note why a partition could not be confirmed.
 */
void
logq_shmem_set_error(int32 number, const char *error)
{
	Entry	   *entry;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, error != NULL);
	if (entry != NULL)
	{
		(void) keep_error(entry->confirmation.error, error);
		if (entry->confirmation.error[0] == '\0')
			entry->failing_since = 0;
		else if (entry->failing_since == 0)
			entry->failing_since = logq_now();
	}
	LWLockRelease(lock);
}

/*
 * Note what a partition has said of itself.
 */
void
logq_shmem_set_facts(int32 number, const LogqPartitionFacts *facts)
{
	Entry	   *entry;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, true);
	if (entry != NULL)
		entry->facts = *facts;
	LWLockRelease(lock);
}

/*
 * What an entry says, for who shows it.  With the lock held.
 */
static void
state_of_entry(const Entry *entry, LogqCatalogState *result)
{
	result->confirmation = entry->confirmation;
	result->published = entry->published;
	result->doubted_at = entry->confirmation.confirmed_at == 0 ?
		entry->doubted_at : 0;
	result->true_at = entry->true_at;
	result->failing_since = entry->failing_since;
	strlcpy(result->seal_error, entry->seal_error,
			sizeof(result->seal_error));
	strlcpy(result->ahead_error, entry->ahead_error,
			sizeof(result->ahead_error));
	result->facts = entry->facts;
}

/*
 * All that is known of a partition's catalog.
 */
bool
logq_shmem_state(int32 number, LogqCatalogState *result)
{
	const Entry *entry;

	MemSet(result, 0, sizeof(LogqCatalogState));
	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_SHARED);
	entry = find_entry(number, false);
	if (entry != NULL)
		state_of_entry(entry, result);
	LWLockRelease(lock);
	return entry != NULL;
}

/*
 * Forget those partitions of our database that are not in the list (of
 * LogqPartition).
 */
void
logq_shmem_forget_others(List *parts)
{
	HASH_SEQ_STATUS status;
	Entry	   *entry;
	ListCell   *lc;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		bool		keep = entry->key.database != MyDatabaseId;

		foreach(lc, parts)
			if (((LogqPartition *) lfirst(lc))->number == entry->key.number)
				keep = true;
		if (!keep)
			(void) hash_search(entries, &entry->key, HASH_REMOVE, NULL);
	}
	LWLockRelease(lock);
}

/*
 * logq.catalog_status()
 */
Datum
logq_catalog_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	HASH_SEQ_STATUS status;
	const Entry *entry;
	Entry	   *ours;
	int			n = 0;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	if (state == NULL)
		return (Datum) 0;

	/* the result may go to disk, which is not for the time of the lock */
	ours = palloc(MAX_ENTRIES * sizeof(Entry));
	LWLockAcquire(lock, LW_SHARED);
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (entry->key.database == MyDatabaseId && n < MAX_ENTRIES)
			ours[n++] = *entry;
	LWLockRelease(lock);

	for (i = 0; i < n; i++)
	{
		LogqCatalogState st;
		const LogqPartitionFacts *f = &st.facts;
		Datum		values[CATALOG_COLUMNS];
		bool		nulls[CATALOG_COLUMNS];
		int			col = 0;

		state_of_entry(&ours[i], &st);
		values[col++] = Int32GetDatum(ours[i].key.number);
		values[col++] = Int64GetDatum(st.confirmation.version);
		values[col++] = TimestampTzGetDatum(logq_wall_time(st.confirmation.confirmed_at));
		values[col++] = CStringGetTextDatum(st.confirmation.error);
		values[col++] = TimestampTzGetDatum(logq_wall_time(st.failing_since));
		values[col++] = TimestampTzGetDatum(logq_wall_time(st.doubted_at));
		values[col++] = TimestampTzGetDatum(logq_wall_time(f->asked_at));
		values[col++] = Int32GetDatum(f->format);
		values[col++] = Int32GetDatum(LOGQ_STORE_FORMAT);
		values[col++] = Float8GetDatum(f->clock_offset / 1000.0);
		values[col++] = Float8GetDatum(f->clock_error / 1000.0);
		values[col++] = Int32GetDatum(f->connections);
		values[col++] = Int32GetDatum(f->max_connections);
		values[col++] = CStringGetTextDatum(st.seal_error);
		values[col++] = CStringGetTextDatum(st.ahead_error);
		Assert(col == CATALOG_COLUMNS);

		MemSet(nulls, 0, sizeof(nulls));
		nulls[1] = !ours[i].published;
		nulls[2] = st.confirmation.confirmed_at == 0;
		nulls[3] = st.confirmation.error[0] == '\0';
		nulls[4] = st.failing_since == 0;
		nulls[5] = st.doubted_at == 0;
		for (col = 6; col < 13; col++)
			nulls[col] = f->asked_at == 0;
		nulls[13] = st.seal_error[0] == '\0';
		nulls[14] = st.ahead_error[0] == '\0';
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	pfree(ours);
	return (Datum) 0;
}

/*
 * logq.catalog_places()
 */
Datum
logq_catalog_places(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[2];
	bool		nulls[2] = {false};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (state == NULL)
		PG_RETURN_NULL();
	LWLockAcquire(lock, LW_SHARED);
	values[0] = Int32GetDatum((int32) hash_get_num_entries(entries));
	LWLockRelease(lock);
	values[1] = Int32GetDatum(MAX_ENTRIES);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values,
											 nulls));
}

/* ---------- sealing that has to wait ---------- */

/*
 * When did the last sealing of a partition's segments not get far?  0: it did.
 */
TimestampTz
logq_shmem_seal_paused_at(int32 number)
{
	const Entry *entry;
	TimestampTz result = 0;

	if (state == NULL)
		return 0;
	LWLockAcquire(lock, LW_SHARED);
	entry = find_entry(number, false);
	if (entry != NULL)
		result = entry->seal_paused_at;
	LWLockRelease(lock);
	return result;
}

/*
 * Note how it went.  error is the reason, NULL for none.  True: it is another
 * error than the last time.
 */
bool
logq_shmem_set_seal_paused(int32 number, TimestampTz at, const char *error)
{
	Entry	   *entry;
	bool		is_new = error != NULL;

	if (state == NULL)
		return is_new;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, at != 0);
	if (entry != NULL)
	{
		is_new = keep_error(entry->seal_error, error) && error != NULL;
		entry->seal_paused_at = at;
	}
	LWLockRelease(lock);
	return is_new;
}

/*
 * Note why segments cannot be made ahead.
 */
void
logq_shmem_set_ahead_error(int32 number, const char *error)
{
	Entry	   *entry;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(number, error != NULL);
	if (entry != NULL)
		(void) keep_error(entry->ahead_error, error);
	LWLockRelease(lock);
}

/* ---------- workers ---------- */

/*
 * At exit of a worker.
 */
static void
unregister_worker(int code, Datum arg)
{
	WorkerSlot *slot = &state->workers[DatumGetInt32(arg)];

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (slot->pid == MyProcPid)
		slot->pid = 0;
	while (state->nworkers > 0 && state->workers[state->nworkers - 1].pid == 0)
		state->nworkers--;
	LWLockRelease(lock);
}

/*
 * This process is now the worker of its kind for its database.  False: there
 * is another one, or no room.
 */
bool
logq_register_worker(LogqWorkerKind kind, const char *database_name)
{
	int			slot = -1;
	int			i;

	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (i = 0; i < state->nworkers; i++)
	{
		if (state->workers[i].pid == 0)
			slot = i;
		else if (state->workers[i].kind == kind &&
				 state->workers[i].database == MyDatabaseId)
		{
			LWLockRelease(lock);
			return false;
		}
	}
	if (slot < 0 && state->nworkers < MAX_WORKERS)
		slot = state->nworkers++;
	if (slot >= 0)
	{
		WorkerSlot *w = &state->workers[slot];

		w->kind = kind;
		w->pid = MyProcPid;
		w->database = MyDatabaseId;
		namestrcpy(&w->database_name, database_name);
		w->latch = &MyProc->procLatch;
	}
	LWLockRelease(lock);
	if (slot >= 0)
		before_shmem_exit(unregister_worker, Int32GetDatum(slot));
	return slot >= 0;
}

/*
 * Process id of the worker of a kind for a database, or 0.  By name for the
 * launcher, which has no database; NULL means ours.
 */
pid_t
logq_find_worker(LogqWorkerKind kind, const char *database_name)
{
	pid_t		pid = 0;
	int			i;

	if (state == NULL)
		return 0;
	LWLockAcquire(lock, LW_SHARED);
	for (i = 0; i < state->nworkers; i++)
	{
		const WorkerSlot *w = &state->workers[i];

		if (w->pid != 0 && w->kind == kind &&
			(database_name == NULL ? w->database == MyDatabaseId :
			 strcmp(NameStr(w->database_name), database_name) == 0))
			pid = w->pid;
	}
	LWLockRelease(lock);
	return pid;
}
