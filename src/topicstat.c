/*-------------------------------------------------------------------------
 *
 * topicstat.c
 *		logq.stat_ingest: what ingest workers tell of themselves, and which
 *		of them there are.
 *
 * Only with the library in shared_preload_libraries, without which there are
 * no workers either: then nothing is known here and the rest does nothing.
 *
 * A topic has a slot, which says who its worker is and what holds it up; what
 * has been taken in is counted for each of its Kafka partitions.  Both outlive
 * the worker, so the numbers are those since the server's start.  They are for
 * people to look at: what has been taken in is decided by the partitions.
 *
 * All is protected by one lock, held for a few instructions.  Nothing here
 * throws or waits for anything else, but for logq.ingest_status().
 *
 * Failure cases: without a free slot a worker cannot register, and does not
 * run; slots that nobody needs are taken over before.  Kafka partitions for
 * which there is no room are taken in and not shown.  After a crash all
 * starts empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest.h"
#include "maintain.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include <math.h>
#include <signal.h>

PG_FUNCTION_INFO_V1(logq_ingest_status);

#define MAX_TOPICS 128
#define MAX_ENTRIES 4096
#define ERROR_SIZE 512
/* seconds after which a row counts 1/e in the rate */
#define RATE_SECONDS 10.0

typedef struct TopicSlot
{
	Oid			database;		/* InvalidOid: free */
	int32		topic;
	NameData	database_name;	/* once it had a worker */
	pid_t		pid;			/* 0: it has no worker */
	Latch	   *latch;			/* of the worker */
	LogqIngestState state;
	bool		noted;			/* the error is not the worker's */
	TimestampTz error_at;
	char		error[ERROR_SIZE];	/* "": there is none */
} TopicSlot;

typedef struct SharedState
{
	pg_atomic_uint64 changes;	/* of topics */
	TopicSlot	topics[MAX_TOPICS];
} SharedState;

typedef struct EntryKey
{
	Oid			database;
	int32		topic;
	int32		partition;
} EntryKey;

typedef struct Entry
{
	EntryKey	key;
	int64		next;			/* -1: not known */
	int64		high;
	int64		rows;
	int64		bytes;
	int64		dead_letters;
	TimestampTz last_dead_letter;	/* 0: none */
	TimestampTz last_commit;	/* 0: none */
	double		rate;			/* rows per second, as of last_commit */
} Entry;

/* all NULL when the library was not preloaded */
static LWLock *lock = NULL;
static SharedState *state = NULL;
static HTAB *entries = NULL;

/* of the topic that this process is the worker of */
static TopicSlot *my_slot = NULL;

/* topics were changed in this transaction */
static bool change_pending = false;

/* ---------- for shmem.c ---------- */

Size
logq_ingest_shmem_size(void)
{
	return add_size(MAXALIGN(sizeof(SharedState)),
					hash_estimate_size(MAX_ENTRIES, sizeof(Entry)));
}

void
logq_ingest_shmem_startup(void)
{
	HASHCTL		ctl;
	bool		found;

	state = ShmemInitStruct("logq topics", sizeof(SharedState), &found);
	if (!found)
	{
		MemSet(state, 0, sizeof(SharedState));
		pg_atomic_init_u64(&state->changes, 1);
	}
	ctl.keysize = sizeof(EntryKey);
	ctl.entrysize = sizeof(Entry);
	entries = ShmemInitHash("logq topic partitions", MAX_ENTRIES, MAX_ENTRIES,
							&ctl, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	/* the first one is shmem.c's */
	lock = &GetNamedLWLockTranche("logq")[1].lock;
}

/* ---------- slots ---------- */

/*
 * The slot of a topic of our database, or NULL.  With the lock held,
 * exclusively to make one.
 */
static TopicSlot *
find_slot(int32 topic, bool make)
{
	TopicSlot  *unused = NULL;
	TopicSlot  *idle = NULL;
	int			i;

	for (i = 0; i < MAX_TOPICS; i++)
	{
		TopicSlot  *slot = &state->topics[i];

		if (slot->database == MyDatabaseId && slot->topic == topic &&
			slot->database != InvalidOid)
			return slot;
		if (slot->database == InvalidOid)
			unused = unused ? unused : slot;
		else if (slot->pid == 0 &&
				 (idle == NULL || slot->error_at < idle->error_at))
			idle = slot;
	}
	if (!make || MyDatabaseId == InvalidOid)
		return NULL;
	/* perhaps of a database that has been dropped: nobody tells us */
	if (unused == NULL)
		unused = idle;
	if (unused != NULL)
	{
		MemSet(unused, 0, sizeof(TopicSlot));
		unused->database = MyDatabaseId;
		unused->topic = topic;
	}
	return unused;
}

/*
 * Set or take away a slot's error.  With the lock held.
 */
static void
set_error(TopicSlot *slot, const char *error)
{
	int			len = 0;

	if (error != NULL)
		len = pg_mbcliplen(error, strlen(error), ERROR_SIZE - 1);
	if (len == strlen(slot->error) &&
		memcmp(slot->error, error ? error : "", len) == 0)
		return;
	memcpy(slot->error, error ? error : "", len);
	slot->error[len] = '\0';
	slot->error_at = len > 0 ? GetCurrentTimestamp() : 0;
}

/*
 * At exit of a worker.  Its error is of interest more than ever.
 */
static void
unregister(int code, Datum arg)
{
	my_slot = NULL;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	{
		TopicSlot  *slot = (TopicSlot *) DatumGetPointer(arg);

		if (slot->pid == MyProcPid)
		{
			slot->pid = 0;
			slot->latch = NULL;
			slot->state = LOGQ_INGEST_STOPPED;
		}
	}
	LWLockRelease(lock);
}

/*
 * This process becomes the worker of a topic.
 */
bool
logq_ingest_register(int32 topic)
{
	TopicSlot  *slot;

	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(topic, true);
	if (slot == NULL || slot->pid != 0)
	{
		LWLockRelease(lock);
		return false;
	}
	slot->pid = MyProcPid;
	slot->latch = &MyProc->procLatch;
	slot->state = LOGQ_INGEST_STARTING;
	namestrcpy(&slot->database_name,
			   MyBgworkerEntry ? MyBgworkerEntry->bgw_extra : "");
	if (slot->noted)
		set_error(slot, NULL);
	slot->noted = false;
	my_slot = slot;
	LWLockRelease(lock);
	before_shmem_exit(unregister, PointerGetDatum(slot));
	return true;
}

/*
 * Process id of the worker of a topic, or 0.
 */
pid_t
logq_ingest_find(int32 topic)
{
	const TopicSlot *slot;
	pid_t		pid = 0;

	if (state == NULL)
		return 0;
	LWLockAcquire(lock, LW_SHARED);
	slot = find_slot(topic, false);
	if (slot != NULL)
		pid = slot->pid;
	LWLockRelease(lock);
	return pid;
}

/*
 * End workers of our database whose topics are not in the list.  A process
 * whose slot we see under the lock has not yet ended.
 */
void
logq_ingest_terminate_others(List *topics)
{
	int			i;

	if (state == NULL)
		return;
	LWLockAcquire(lock, LW_SHARED);
	for (i = 0; i < MAX_TOPICS; i++)
	{
		const TopicSlot *slot = &state->topics[i];

		if (slot->database == MyDatabaseId && slot->pid != 0 &&
			!list_member_int(topics, slot->topic))
			(void) kill(slot->pid, SIGTERM);
	}
	LWLockRelease(lock);
}

/*
 * End workers of databases that are not in logq.databases, whoever has
 * started them.
 */
void
logq_ingest_terminate_unwanted(void)
{
	int			i;

	if (state == NULL)
		return;
	for (i = 0; i < MAX_TOPICS; i++)
	{
		TopicSlot  *slot = &state->topics[i];
		NameData	name;
		pid_t		pid;

		LWLockAcquire(lock, LW_SHARED);
		pid = slot->pid;
		name = slot->database_name;
		LWLockRelease(lock);
		if (pid == 0 || logq_worker_wanted(NameStr(name)))
			continue;
		LWLockAcquire(lock, LW_SHARED);
		if (slot->pid == pid)
			(void) kill(pid, SIGTERM);
		LWLockRelease(lock);
	}
}

/*
 * Forget topics of our database that are not in the list; not before their
 * workers have ended, as these would tell us again.
 */
void
logq_ingest_forget_others(List *topics)
{
	HASH_SEQ_STATUS status;
	Entry	   *entry;
	List	   *busy = NIL;
	int			i;

	if (state == NULL)
		return;
	/* room for it first: nothing may be thrown under the lock */
	for (i = 0; i < MAX_TOPICS; i++)
		busy = lappend_int(busy, -1);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (i = 0; i < MAX_TOPICS; i++)
	{
		TopicSlot  *slot = &state->topics[i];

		if (slot->database != MyDatabaseId ||
			list_member_int(topics, slot->topic))
			continue;
		if (slot->pid == 0)
			slot->database = InvalidOid;
		else
			list_nth_cell(busy, i)->int_value = slot->topic;
	}
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (entry->key.database == MyDatabaseId &&
			!list_member_int(topics, entry->key.topic) &&
			!list_member_int(busy, entry->key.topic))
			(void) hash_search(entries, &entry->key, HASH_REMOVE, NULL);
	LWLockRelease(lock);
	list_free(busy);
}

/*
 * Note why a topic of our database has no worker.  A worker's own error says
 * more, and stays.
 */
bool
logq_ingest_note(int32 topic, LogqIngestState new_state, const char *error)
{
	TopicSlot  *slot;

	if (state == NULL)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(topic, true);
	if (slot != NULL && slot->pid == 0)
	{
		slot->state = new_state;
		if (error != NULL && (slot->noted || slot->error[0] == '\0' ||
							  new_state == LOGQ_INGEST_FAILED))
		{
			set_error(slot, error);
			slot->noted = true;
		}
	}
	LWLockRelease(lock);
	return slot != NULL;
}

/* ---------- changes of topics ---------- */

/*
 * At the end of a transaction that has changed topics.
 */
static void
announce_changes(XactEvent event, void *arg)
{
	Latch	   *latches[MAX_TOPICS];
	int			nlatches = 0;
	int			i;

	if (!change_pending)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			/* whoever commits what was prepared: it is soon noticed anyway */
			change_pending = false;
			return;
		default:
			return;
	}
	change_pending = false;
	if (state == NULL)
		return;
	pg_atomic_fetch_add_u64(&state->changes, 1);
	LWLockAcquire(lock, LW_SHARED);
	for (i = 0; i < MAX_TOPICS; i++)
		if (state->topics[i].database == MyDatabaseId &&
			state->topics[i].pid != 0)
			latches[nlatches++] = state->topics[i].latch;
	LWLockRelease(lock);
	for (i = 0; i < nlatches; i++)
		SetLatch(latches[i]);
	logq_shmem_wake_maintenance();
}

void
logq_topics_changed(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(announce_changes, NULL);
	registered = true;
	change_pending = true;
}

uint64
logq_topics_change_count(void)
{
	return state != NULL ? pg_atomic_read_u64(&state->changes) : 0;
}

/* ---------- what a worker tells ---------- */

void
logq_ingest_set_state(LogqIngestState new_state)
{
	if (my_slot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_slot->state = new_state;
	LWLockRelease(lock);
}

void
logq_ingest_set_error(const char *error)
{
	if (my_slot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	set_error(my_slot, error);
	LWLockRelease(lock);
}

/*
 * What is known of a Kafka partition of our topic; made when it is new.  NULL:
 * there is no room.  With the lock held exclusively.
 */
static Entry *
find_entry(int32 partition)
{
	EntryKey	key;
	Entry	   *entry;
	bool		found;

	key.database = MyDatabaseId;
	key.topic = my_slot->topic;
	key.partition = partition;
	if (hash_get_num_entries(entries) >= MAX_ENTRIES)
		return hash_search(entries, &key, HASH_FIND, NULL);
	entry = hash_search(entries, &key, HASH_ENTER_NULL, &found);
	if (entry != NULL && !found)
	{
		MemSet((char *) entry + sizeof(EntryKey), 0,
			   sizeof(Entry) - sizeof(EntryKey));
		entry->next = entry->high = -1;
	}
	return entry;
}

void
logq_ingest_set_offsets(int32 partition, int64 next, int64 high)
{
	Entry	   *entry;

	if (my_slot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(partition);
	if (entry != NULL)
	{
		if (next >= 0)
			entry->next = next;
		if (high >= 0)
			entry->high = high;
	}
	LWLockRelease(lock);
}

/*
 * A rate as of then, as it is now when nothing has come since.
 */
static double
decayed_rate(double rate, TimestampTz then, TimestampTz now)
{
	double		seconds = (now - then) / (double) USECS_PER_SEC;

	if (then == 0 || seconds < 0)
		return rate;
	return rate * exp(-seconds / RATE_SECONDS);
}

void
logq_ingest_count(int32 partition, int64 rows, int64 bytes,
				  int64 dead_letters)
{
	TimestampTz now = GetCurrentTimestamp();
	Entry	   *entry;

	if (my_slot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(partition);
	if (entry != NULL)
	{
		entry->rows += rows;
		entry->bytes += bytes;
		entry->dead_letters += dead_letters;
		if (dead_letters > 0)
			entry->last_dead_letter = now;
		entry->rate = decayed_rate(entry->rate, entry->last_commit, now) +
			rows / RATE_SECONDS;
		entry->last_commit = now;
	}
	LWLockRelease(lock);
}

/* ---------- logq.ingest_status ---------- */

/*
 * Name of a topic's state.  What the worker said last holds while there is
 * one.
 */
static const char *
state_name(const TopicSlot *slot, bool paused)
{
	LogqIngestState now = slot ? slot->state : LOGQ_INGEST_STOPPED;

	if ((slot == NULL || slot->pid == 0) && paused)
		now = LOGQ_INGEST_PAUSED;
	switch (now)
	{
		case LOGQ_INGEST_STOPPED:
			return "stopped";
		case LOGQ_INGEST_PAUSED:
			return "paused";
		case LOGQ_INGEST_STARTING:
			return "starting";
		case LOGQ_INGEST_RUNNING:
			return "running";
		case LOGQ_INGEST_WAITING:
			return "waiting";
		case LOGQ_INGEST_FAILED:
			return "failed";
	}
	return NULL;
}

/*
 * Put out one row; entry is NULL when no Kafka partition is known.
 */
static void
put_row(ReturnSetInfo *rsinfo, const LogqTopicRow *row, const TopicSlot *slot,
		const Entry *entry, TimestampTz now)
{
	Datum		values[14] = {0};
	bool		nulls[14] = {0};

	values[0] = CStringGetTextDatum(row->name);
	nulls[1] = entry == NULL;
	nulls[2] = entry == NULL || entry->next < 0;
	nulls[3] = entry == NULL || entry->next < 0 || entry->high < 0;
	nulls[10] = entry == NULL || entry->last_commit == 0;
	nulls[13] = entry == NULL || entry->last_dead_letter == 0;
	values[4] = values[6] = values[7] = Int64GetDatum(0);
	values[5] = Float8GetDatum(0);
	if (entry != NULL)
	{
		double		rate = decayed_rate(entry->rate, entry->last_commit, now);

		values[1] = Int32GetDatum(entry->key.partition);
		values[2] = Int64GetDatum(entry->next);
		values[3] = Int64GetDatum(Max(entry->high - entry->next, 0));
		values[4] = Int64GetDatum(entry->rows);
		/* nobody wants to see how it fades away */
		values[5] = Float8GetDatum(rate < 0.01 ? 0 : rate);
		values[6] = Int64GetDatum(entry->bytes);
		values[7] = Int64GetDatum(entry->dead_letters);
		values[10] = TimestampTzGetDatum(entry->last_commit);
		values[13] = TimestampTzGetDatum(entry->last_dead_letter);
	}
	nulls[8] = nulls[9] = slot == NULL || slot->error[0] == '\0';
	if (!nulls[8])
	{
		values[8] = CStringGetTextDatum(slot->error);
		values[9] = TimestampTzGetDatum(slot->error_at);
	}
	values[11] = CStringGetTextDatum(state_name(slot, row->paused));
	nulls[12] = slot == NULL || slot->pid == 0;
	if (!nulls[12])
		values[12] = Int32GetDatum(slot->pid);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static int
compare_entries(const void *a, const void *b)
{
	const EntryKey *left = &((const Entry *) a)->key;
	const EntryKey *right = &((const Entry *) b)->key;

	if (left->topic != right->topic)
		return left->topic < right->topic ? -1 : 1;
	return left->partition < right->partition ? -1 :
		left->partition > right->partition;
}

/*
 * logq.ingest_status()
 */
Datum
logq_ingest_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *rows = logq_topic_rows();
	TimestampTz now;
	TopicSlot  *slots = NULL;
	Entry	   *ours = NULL;
	int			nslots = 0;
	int			n = 0;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);

	if (state != NULL)
	{
		HASH_SEQ_STATUS status;
		const Entry *entry;
		int			i;

		slots = palloc(MAX_TOPICS * sizeof(TopicSlot));
		ours = palloc(MAX_ENTRIES * sizeof(Entry));
		LWLockAcquire(lock, LW_SHARED);
		for (i = 0; i < MAX_TOPICS; i++)
			if (state->topics[i].database == MyDatabaseId)
				slots[nslots++] = state->topics[i];
		hash_seq_init(&status, entries);
		while ((entry = hash_seq_search(&status)) != NULL)
			if (entry->key.database == MyDatabaseId && n < MAX_ENTRIES)
				ours[n++] = *entry;
		LWLockRelease(lock);
		qsort(ours, n, sizeof(Entry), compare_entries);
	}

	now = GetCurrentTimestamp();
	foreach(lc, rows)
	{
		const LogqTopicRow *row = lfirst(lc);
		const TopicSlot *slot = NULL;
		bool		any = false;
		int			i;

		for (i = 0; i < nslots; i++)
			if (slots[i].topic == row->number)
				slot = &slots[i];
		for (i = 0; i < n; i++)
		{
			if (ours[i].key.topic != row->number)
				continue;
			put_row(rsinfo, row, slot, &ours[i], now);
			any = true;
		}
		if (!any)
			put_row(rsinfo, row, slot, NULL, now);
	}
	return (Datum) 0;
}
