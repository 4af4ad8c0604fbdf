/*-------------------------------------------------------------------------
 *
 * connlimit.c
 *		How many connections all backends have to a partition.
 *
 * What is limited is places.  A scan, or a transaction that writes, takes one
 * for each connection that it may need to a partition (its server), at all
 * partitions at once, and keeps them until it is over; it opens, loses and
 * opens again its connections on them as it likes.  Of a backend's connections
 * those that are on no place of its own are idle ones in its pool.  They take
 * places of others, hence:
 *
 *		a backend counts with max(places, connections) at each server.
 *
 * A pooled connection is used again by taking a place, which then costs none.
 *
 * Who finds too few places waits while it holds none of them, and drops its
 * idle connections before.  Whoever gives one back wakes the first of the
 * queue at this server, who looks whether all that it wants is there, and wakes
 * the next when it leaves the queue.  Nobody goes ahead of one who came before
 * and waits for a place at the same server; so those who want many get them,
 * too.  The exception are those who hold places already, of another scan or
 * of the transaction: others may wait for these, so they need not queue.  Two
 * such may wait for each other, for as long as logq.queue_timeout allows.
 *
 * Idle sessions cannot be told to close a connection.  So at most half of all
 * places may be idle, and always so few that the largest query so far fits, and
 * a self-join; an idle connection is not kept while anybody waits.
 *
 * The limit is exceeded by connections that are forced, and by those that were
 * open when it was lowered.
 *
 * Invariants: a backend's own record says what of it is counted in shared
 * memory, and only publish() changes either.  An entry of shared memory is
 * removed only when nothing is counted in it and nobody waits.  limit,
 * last_ticket, waiters and entries are protected by the lock of admission.c.
 *
 * Failure cases: no room for an entry: its server is as without a limit, until
 * there is.  The end of a backend takes its counts away.  One that is killed
 * takes all shared memory with it.  Without the library in
 * shared_preload_libraries nothing is counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_ENTRIES 1024

typedef struct ServerKey
{
	Oid			database;
	Oid			serverid;
} ServerKey;

/* Sums over all backends */
typedef struct ServerEntry
{
	ServerKey	key;
	int			open;			/* connections */
	int			reserved;		/* places without a connection */
	int			idle;			/* of open, those without a place */
	int			most_places;	/* that one backend has ever taken */
	int			waiting;		/* bits that are set below */
	uint8		waiters[FLEXIBLE_ARRAY_MEMBER]; /* a bit for each PGPROC */
} ServerEntry;

typedef struct Waiter
{
	uint64		ticket;			/* 0: does not wait */
	bool		holds;			/* has places already */
} Waiter;

typedef struct ConnState
{
	pg_atomic_uint32 limit;
	uint64		last_ticket;
	int			waiting;
	int64		rejected;
	TimestampTz rejected_at;	/* the last one, 0: none */
	Waiter		waiters[FLEXIBLE_ARRAY_MEMBER]; /* MaxBackends, as PGPROCs */
} ConnState;

/* What this backend has at a server */
typedef struct OwnRecord
{
	Oid			serverid;		/* key */
	int			open;
	int			places;
	/* of it, what is counted in the shared entry */
	int			counted_open;
	int			counted_reserved;
	int			counted_idle;
} OwnRecord;

/* NULL when the library was not preloaded */
static ConnState *state = NULL;
static HTAB *entries = NULL;
static LWLock *lock = NULL;

/* NULL: nothing yet, or nothing any more */
static HTAB *own_records = NULL;
static int	own_places = 0;		/* over all servers */

static Size
entry_size(void)
{
	return MAXALIGN(offsetof(ServerEntry, waiters) + (MaxBackends + 7) / 8);
}

Size
logq_connlimit_shmem_size(void)
{
	return add_size(MAXALIGN(add_size(offsetof(ConnState, waiters),
									  mul_size(MaxBackends, sizeof(Waiter)))),
					hash_estimate_size(MAX_ENTRIES, entry_size()));
}

void
logq_connlimit_shmem_startup(LWLock *our_lock)
{
	Size		size = add_size(offsetof(ConnState, waiters),
								mul_size(MaxBackends, sizeof(Waiter)));
	HASHCTL		ctl;
	bool		found;

	state = ShmemInitStruct("logq connections", size, &found);
	if (!found)
	{
		MemSet(state, 0, size);
		pg_atomic_init_u32(&state->limit, logq_max_connections_per_partition);
	}
	ctl.keysize = sizeof(ServerKey);
	ctl.entrysize = entry_size();
	entries = ShmemInitHash("logq connections of servers", MAX_ENTRIES,
							MAX_ENTRIES, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	lock = our_lock;
}

/*
 * As logq_assign_query_limit().
 */
void
logq_assign_connection_limit(int newval, void *extra)
{
	if (state != NULL && !InitializingParallelWorker)
		pg_atomic_write_u32(&state->limit, newval);
}

int
logq_connection_limit(void)
{
	return state != NULL ? (int) pg_atomic_read_u32(&state->limit) : 0;
}

/* ---------- entries; all with the lock held exclusively ---------- */

/*
 * Make room: an entry in which nothing is counted goes.
 */
static void
remove_unused_entry(void)
{
	HASH_SEQ_STATUS status;
	ServerEntry *entry;

	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->open == 0 && entry->reserved == 0 && entry->waiting == 0)
		{
			(void) hash_search(entries, &entry->key, HASH_REMOVE, NULL);
			hash_seq_term(&status);
			return;
		}
	}
}

/*
 * The entry of a server, NULL when there is no room for it.
 */
static ServerEntry *
get_entry(Oid serverid)
{
	ServerKey	key;
	ServerEntry *entry;
	bool		found;

	key.database = MyDatabaseId;
	key.serverid = serverid;
	entry = hash_search(entries, &key, HASH_FIND, NULL);
	if (entry != NULL)
		return entry;
	if (hash_get_num_entries(entries) >= MAX_ENTRIES)
		remove_unused_entry();
	if (hash_get_num_entries(entries) >= MAX_ENTRIES)
		return NULL;
	entry = hash_search(entries, &key, HASH_ENTER_NULL, &found);
	if (entry != NULL && !found)
		MemSet((char *) entry + sizeof(ServerKey), 0,
			   entry_size() - sizeof(ServerKey));
	return entry;
}

static inline bool
waits_for(const ServerEntry *entry, int backend)
{
	return (entry->waiters[backend / 8] & (1 << backend % 8)) != 0;
}

static void
set_waits_for(ServerEntry *entry, int backend, bool waits)
{
	if (waits == waits_for(entry, backend))
		return;
	entry->waiters[backend / 8] ^= 1 << backend % 8;
	entry->waiting += waits ? 1 : -1;
}

/*
 * Wake those who could go on now that something has become free: the first of
 * the queue, and those who need not queue.
 */
static void
wake_waiters(const ServerEntry *entry)
{
	int			first = -1;
	int			i;

	if (entry->waiting == 0)
		return;
	for (i = 0; i < MaxBackends; i++)
	{
		const Waiter *waiter = &state->waiters[i];

		if (!waits_for(entry, i))
			continue;
		if (waiter->holds)
			SetLatch(&ProcGlobal->allProcs[i].procLatch);
		else if (first < 0 || waiter->ticket < state->waiters[first].ticket)
			first = i;
	}
	if (first >= 0)
		SetLatch(&ProcGlobal->allProcs[first].procLatch);
}

/*
 * Count in the entry what the backend's own record says now.
 */
static void
publish(OwnRecord *own, ServerEntry *entry)
{
	int			before = entry->open + entry->reserved;
	int			reserved = Max(own->places - own->open, 0);
	int			idle = Max(own->open - own->places, 0);

	entry->open += own->open - own->counted_open;
	entry->reserved += reserved - own->counted_reserved;
	entry->idle += idle - own->counted_idle;
	own->counted_open = own->open;
	own->counted_reserved = reserved;
	own->counted_idle = idle;
	entry->most_places = Max(entry->most_places, own->places);
	if (entry->open + entry->reserved < before)
		wake_waiters(entry);
}

/*
 * How many idle connections there may be.
 */
static int
max_idle(const ServerEntry *entry)
{
	int			limit = logq_connection_limit();
	/* an answer to the first self-join must be possible, too */
	int			largest = Max(entry->most_places, 2);

	if (entry->waiting > 0)
		return 0;
	return Max(Min(limit / 2, limit - largest), 0);
}

/* ---------- a backend's own records ---------- */

/*
 * At exit.  The transaction's own clean-up comes after it, and finds that
 * there is nothing left to do.
 */
static void
leave_at_exit(int code, Datum arg)
{
	HASH_SEQ_STATUS status;
	OwnRecord  *own;
	HTAB	   *records = own_records;

	own_records = NULL;
	own_places = 0;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	hash_seq_init(&status, records);
	while ((own = hash_seq_search(&status)) != NULL)
	{
		ServerEntry *entry = get_entry(own->serverid);

		own->open = own->places = 0;
		if (entry != NULL)
			publish(own, entry);
	}
	LWLockRelease(lock);
}

/*
 * Number of this backend among all.
 */
static int
my_number(void)
{
	return MyProc - ProcGlobal->allProcs;
}

/*
 * Make the record of a server.  NULL: nothing is counted.  Throws for lack of
 * memory.
 */
static OwnRecord *
make_own(Oid serverid)
{
	OwnRecord  *own;
	bool		found;

	if (state == NULL || MyProc == NULL || my_number() >= MaxBackends ||
		proc_exit_inprogress)
		return NULL;
	if (own_records == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(OwnRecord);
		ctl.hcxt = TopMemoryContext;
		own_records = hash_create("logq connections of this backend", 32, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		before_shmem_exit(leave_at_exit, (Datum) 0);
	}
	own = hash_search(own_records, &serverid, HASH_ENTER, &found);
	if (!found)
		MemSet((char *) own + sizeof(Oid), 0, sizeof(OwnRecord) - sizeof(Oid));
	return own;
}

static OwnRecord *
find_own(Oid serverid)
{
	if (own_records == NULL)
		return NULL;
	return hash_search(own_records, &serverid, HASH_FIND, NULL);
}

/*
 * Add to what a backend has.  Never throws.
 */
static void
change_own(OwnRecord *own, int open, int places)
{
	ServerEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->open += open;
	own->places += places;
	own_places += places;
	entry = get_entry(own->serverid);
	if (entry != NULL)
		publish(own, entry);
	LWLockRelease(lock);
}

/* ---------- taking places ---------- */

/* What somebody wants to take */
typedef struct Wish
{
	OwnRecord  *own;
	int			places;
} Wish;

/*
 * How many would be taken from others at a server, for so many more.
 */
static int
taken_from_others(const OwnRecord *own, int places)
{
	return Max(own->places + places, own->open) -
		Max(own->places, own->open);
}

/*
 * Is there room at a server?
 */
static bool
has_room(const ServerEntry *entry, int n)
{
	int			limit = logq_connection_limit();

	return n == 0 || limit == 0 || entry->open + entry->reserved + n <= limit;
}

/*
 * Does anybody wait at this server who came before?  A ticket of 0 is the
 * last one.
 */
static bool
must_queue(const ServerEntry *entry, uint64 ticket)
{
	int			i;

	if (own_places > 0 || entry->waiting == 0)
		return false;
	for (i = 0; i < MaxBackends; i++)
		if (waits_for(entry, i) &&
			(ticket == 0 || state->waiters[i].ticket < ticket))
			return true;
	return false;
}

/*
 * Take all of it, or nothing.  With the lock held.  -1: it was taken; else
 * which wish could not be fulfilled.
 */
static int
take_places(const Wish *wishes, int n, uint64 ticket)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		const OwnRecord *own = wishes[i].own;
		const ServerEntry *entry = get_entry(own->serverid);
		int			more = taken_from_others(own, wishes[i].places);

		if (entry != NULL && more > 0 &&
			(!has_room(entry, more) || must_queue(entry, ticket)))
			return i;
	}
	for (i = 0; i < n; i++)
	{
		OwnRecord  *own = wishes[i].own;
		ServerEntry *entry = get_entry(own->serverid);

		own->places += wishes[i].places;
		own_places += wishes[i].places;
		if (entry != NULL)
			publish(own, entry);
	}
	return -1;
}

/*
 * Stand in the queue at all servers, or leave it and let the next ones look.
 * With the lock held.
 */
static void
set_waiting(const Wish *wishes, int n, bool waits)
{
	Waiter	   *waiter = &state->waiters[my_number()];
	int			i;

	for (i = 0; i < n; i++)
	{
		ServerEntry *entry = get_entry(wishes[i].own->serverid);

		if (entry == NULL)
			continue;
		set_waits_for(entry, my_number(), waits);
		if (!waits)
			wake_waiters(entry);
	}
	waiter->ticket = waits ? ++state->last_ticket : 0;
	waiter->holds = own_places > 0;
	state->waiting += waits ? 1 : -1;
}

/*
 * Leave the queue at the exit of the backend.
 */
static void
leave_queue_at_exit(int code, Datum arg)
{
	HASH_SEQ_STATUS status;
	ServerEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (waits_for(entry, my_number()))
		{
			set_waits_for(entry, my_number(), false);
			wake_waiters(entry);
		}
	}
	state->waiters[my_number()].ticket = 0;
	state->waiting--;
	LWLockRelease(lock);
}

/*
 * Close all connections that are on no place: others may wait for them, and
 * we shall not hold any while we wait.
 */
static void
close_idle_connections(void)
{
	HASH_SEQ_STATUS status;
	const OwnRecord *own;

	hash_seq_init(&status, own_records);
	while ((own = hash_seq_search(&status)) != NULL)
		while (own->open > own->places && logq_conn_close_idle(own->serverid))
			continue;
}

/*
 * Wait in the queue until all can be taken.  -1: it was; else which wish is
 * not fulfilled.
 */
static int
wait_for_places(const Wish *wishes, int n, TimestampTz deadline)
{
	uint64		ticket = state->waiters[my_number()].ticket;

	for (;;)
	{
		int			missing;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		missing = take_places(wishes, n, ticket);
		LWLockRelease(lock);
		if (missing < 0)
			return -1;

		if (!logq_wait_for_turn(deadline))
			return missing;
	}
}

/*
 * A query that needs more than there can be shall not wait for it.
 */
static void
reject_impossible(const Wish *wishes, int n)
{
	int			limit = logq_connection_limit();
	int			i;

	for (i = 0; i < n && limit > 0; i++)
	{
		const OwnRecord *own = wishes[i].own;

		if (own->places + wishes[i].places <= limit)
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		state->rejected++;
		state->rejected_at = GetCurrentTimestamp();
		LWLockRelease(lock);
		if (own->places > 0)
			ereport(ERROR,
					(errcode(ERRCODE_TOO_MANY_CONNECTIONS),
					 errmsg("too many connections to partition \"%s\" are needed at once",
							GetForeignServer(own->serverid)->servername),
					 errdetail("The session holds %d places for connections and needs %d more, of %d that all sessions may have.",
							   own->places, wishes[i].places, limit),
					 errhint("Close cursors, or end the transaction, before the query; or raise \"logq.max_connections_per_partition\".")));
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_CONNECTIONS),
				 errmsg("too many connections to partition \"%s\" are needed at once",
						GetForeignServer(own->serverid)->servername),
				 errdetail("The query needs %d connections to each partition, of %d that all sessions may have.",
						   wishes[i].places, limit),
				 errhint("Scan the log table less often in one query, or raise \"logq.max_connections_per_partition\".")));
	}
}

/*
 * Nothing became free.
 */
static void
report_no_place(const Wish *wish, double waited)
{
	ereport(ERROR,
			(errcode(ERRCODE_TOO_MANY_CONNECTIONS),
			 errmsg("too many connections to partition \"%s\"",
					GetForeignServer(wish->own->serverid)->servername),
			 own_places > 0 ?
			 errdetail("%d are needed of %d that all sessions may have, and were not free within %.0f ms; the session holds others meanwhile.",
					   wish->places, logq_connection_limit(), waited) :
			 errdetail("%d are needed of %d that all sessions may have, and were not free within %.0f ms.",
					   wish->places, logq_connection_limit(), waited),
			 errhint("Try again in a few seconds, wait longer with \"logq.queue_timeout\", or raise \"logq.max_connections_per_partition\".")));
}

/*
 * Queue up.  Returns ms that it took.
 */
static double
queue_up(const Wish *wishes, int n)
{
	TimestampTz start = logq_now();
	TimestampTz deadline =
	TimestampTzPlusMilliseconds(start, logq_queue_timeout);
	int			missing = -1;
	double		waited;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	set_waiting(wishes, n, true);
	LWLockRelease(lock);
	PG_ENSURE_ERROR_CLEANUP(leave_queue_at_exit, (Datum) 0);
	{
		/* of those that are idle none may stay, as somebody waits */
		close_idle_connections();
		missing = wait_for_places(wishes, n, deadline);
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave_queue_at_exit, (Datum) 0);

	waited = (logq_now() - start) / 1000.0;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	set_waiting(wishes, n, false);
	if (missing >= 0)
	{
		state->rejected++;
		state->rejected_at = GetCurrentTimestamp();
	}
	LWLockRelease(lock);
	if (missing >= 0)
		report_no_place(&wishes[missing], waited);
	return waited;
}

/*
 * See admission.h.
 */
double
logq_reserve_connections(int n, const Oid *serverids, const int *wanted)
{
	Wish	   *wishes = palloc(Max(n, 1) * sizeof(Wish));
	double		waited = 0;
	int			nwishes = 0;
	int			missing;
	int			i;

	for (i = 0; i < n; i++)
	{
		OwnRecord  *own = make_own(serverids[i]);

		if (own == NULL || wanted[i] <= 0)
			continue;
		wishes[nwishes].own = own;
		wishes[nwishes++].places = wanted[i];
	}
	if (nwishes > 0)
	{
		reject_impossible(wishes, nwishes);
		LWLockAcquire(lock, LW_EXCLUSIVE);
		missing = take_places(wishes, nwishes, 0);
		LWLockRelease(lock);
		if (missing >= 0)
			waited = queue_up(wishes, nwishes);
	}
	pfree(wishes);
	return waited;
}

/*
 * See admission.h.
 */
void
logq_force_reservation(Oid serverid)
{
	OwnRecord  *own = make_own(serverid);

	if (own != NULL)
		change_own(own, 0, 1);
}

/*
 * See admission.h.
 */
void
logq_unreserve_connections(Oid serverid, int n)
{
	OwnRecord  *own = find_own(serverid);

	if (own == NULL)
		return;
	Assert(own->places >= n);
	change_own(own, 0, -Min(n, own->places));
	/* idle connections have lost their places */
	while (own->open > own->places && !logq_may_keep_connection(serverid) &&
		   logq_conn_close_idle(serverid))
		continue;
}

/* ---------- connections ---------- */

/*
 * See admission.h.
 */
bool
logq_count_connection(Oid serverid, bool reserved, bool forced)
{
	OwnRecord  *own = make_own(serverid);
	bool		room = true;

	if (own == NULL)
		return true;
	if (!reserved && !forced)
	{
		ServerEntry *entry;

		/* looked at and taken under one lock */
		LWLockAcquire(lock, LW_EXCLUSIVE);
		entry = get_entry(serverid);
		if (entry != NULL)
			room = entry->waiting == 0 &&
				has_room(entry, taken_from_others(own, 1));
		if (room)
		{
			own->places++;
			own_places++;
			own->open++;
			if (entry != NULL)
				publish(own, entry);
		}
		LWLockRelease(lock);
		return room;
	}
	change_own(own, 1, reserved ? 0 : 1);
	return true;
}

/*
 * See admission.h.
 */
void
logq_uncount_connection(Oid serverid, bool own_place)
{
	OwnRecord  *own = find_own(serverid);

	if (own != NULL)
		change_own(own, -1, own_place ? -1 : 0);
}

/*
 * See admission.h.
 */
bool
logq_has_free_place(Oid serverid)
{
	const OwnRecord *own = find_own(serverid);

	return own != NULL && own->open < own->places;
}

/*
 * See admission.h.
 */
int
logq_own_places(Oid serverid)
{
	const OwnRecord *own = find_own(serverid);

	return own != NULL ? own->places : 0;
}

/*
 * See admission.h.
 */
bool
logq_may_keep_connection(Oid serverid)
{
	const OwnRecord *own = find_own(serverid);
	const ServerEntry *entry;
	bool		may = true;

	if (own == NULL || own->open <= own->places ||
		logq_connection_limit() == 0)
		return true;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = get_entry(serverid);
	if (entry != NULL)
		may = entry->idle <= max_idle(entry);
	LWLockRelease(lock);
	return may;
}

/* ---------- what others want to know ---------- */

/*
 * See admission.h.
 */
void
logq_connection_counts(Oid serverid, int *open, int *waiting)
{
	ServerKey	key;
	const ServerEntry *entry;

	*open = *waiting = 0;
	if (state == NULL)
		return;
	key.database = MyDatabaseId;
	key.serverid = serverid;
	LWLockAcquire(lock, LW_SHARED);
	entry = hash_search(entries, &key, HASH_FIND, NULL);
	if (entry != NULL)
	{
		*open = entry->open;
		*waiting = entry->waiting;
	}
	LWLockRelease(lock);
}

/*
 * See admission.h.
 */
void
logq_connection_stats(LogqConnectionStats *stats)
{
	HASH_SEQ_STATUS status;
	const ServerEntry *entry;

	MemSet(stats, 0, sizeof(LogqConnectionStats));
	if (state == NULL)
		return;
	stats->limit = logq_connection_limit();
	LWLockAcquire(lock, LW_SHARED);
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		stats->open += entry->open;
		stats->reserved += entry->reserved;
	}
	stats->waiting = state->waiting;
	stats->rejected = state->rejected;
	stats->rejected_at = state->rejected_at;
	LWLockRelease(lock);
}
