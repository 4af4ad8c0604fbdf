/*-------------------------------------------------------------------------
 *
 * admission.c
 *		How many queries may run at once, over all backends.
 *
 * A session that has a scan under way has one place, however many scans it
 * has.  Without a place to be had it queues up, for up to
 * logq.queue_timeout.
 *
 * The queue is in order of tickets, and places are handed over: whoever gives
 * one back, or finds that there are more, gives it to the first in the queue
 * who may run, and wakes nobody else.  So no newcomer comes before somebody who
 * waits for the same, and a thousand who wait cost no more than one.  One who
 * waits for the limit of its role alone is passed over.  A condition variable
 * would wake all of them, to run for the place; here each waits on its own
 * latch, and for no longer than LOGQ_ADMISSION_STEP without a look of its own.
 *
 * Backends go by the limit in shared memory, where each process puts it that
 * reads the configuration anew, the postmaster first: one that is in a query,
 * or in the queue, does not read it.
 *
 * Invariants, under the lock: "running" and "waiting" are the numbers of slots
 * that say so.  A slot is written by its own backend, and by whoever hands it
 * a place.  A backend that has a ticket has no place.
 *
 * Locks: one, held for a look over all slots at most, and never while taking
 * another one.  connlimit.c uses the same.
 *
 * Failure cases: an error or a cancel while waiting gives up the ticket, and
 * the place if it came meanwhile.  The end of a backend gives up all it has.
 * One that is killed takes all shared memory with it.  Without the library in
 * shared_preload_libraries there is no limit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(logq_admission_status);

/* A backend */
typedef struct QuerySlot
{
	bool		running;
	Oid			role;			/* whose query runs or waits */
	int			role_limit;		/* what that role may run, 0: any number */
	uint64		ticket;			/* 0: does not wait */
} QuerySlot;

typedef struct QueryState
{
	pg_atomic_uint32 limit;
	int			running;
	int			waiting;
	int			peak;
	uint64		last_ticket;
	int64		admitted;
	int64		waited;
	int64		rejected;
	TimestampTz rejected_at;	/* the last one, 0: none */
	double		wait_ms;
	QuerySlot	slots[FLEXIBLE_ARRAY_MEMBER];	/* MaxBackends, as PGPROCs */
} QueryState;

/* NULL when the library was not preloaded */
static QueryState *state = NULL;
static LWLock *lock = NULL;

/* scans of this backend that are under way */
static int	nscans = 0;
static bool exit_registered = false;

Size
logq_admission_shmem_size(void)
{
	return add_size(offsetof(QueryState, slots),
					mul_size(MaxBackends, sizeof(QuerySlot)));
}

void
logq_admission_shmem_startup(LWLock *our_lock)
{
	bool		found;

	state = ShmemInitStruct("logq admission", logq_admission_shmem_size(),
							&found);
	if (!found)
	{
		MemSet(state, 0, logq_admission_shmem_size());
		pg_atomic_init_u32(&state->limit, logq_max_concurrent_queries);
	}
	lock = our_lock;
}

/*
 * A process has read the configuration.  A parallel worker only hears what its
 * leader has read, which may be long ago.
 */
void
logq_assign_query_limit(int newval, void *extra)
{
	if (state != NULL && !InitializingParallelWorker)
		pg_atomic_write_u32(&state->limit, newval);
}

/* ---------- places; all with the lock held ---------- */

/*
 * How many queries of a role run.
 */
static int
running_of_role(Oid role)
{
	int			n = 0;
	int			i;

	for (i = 0; i < MaxBackends; i++)
		if (state->slots[i].running && state->slots[i].role == role)
			n++;
	return n;
}

/*
 * Is there a place for a query, as far as its role is concerned?
 */
static bool
role_has_place(const QuerySlot *slot)
{
	return slot->role_limit == 0 ||
		running_of_role(slot->role) < slot->role_limit;
}

static void
give_place(QuerySlot *slot)
{
	slot->running = true;
	state->running++;
	state->admitted++;
	state->peak = Max(state->peak, state->running);
}

static void
give_up_ticket(QuerySlot *slot)
{
	slot->ticket = 0;
	state->waiting--;
}

/*
 * Hand places that are free to those who wait.  One look over all slots for
 * each that is handed out, and for each role whose limit is in the way.
 */
static void
hand_out_places(void)
{
	uint64		done = 0;
	Oid			full_role = InvalidOid;
	int			full_limit = 0;

	while (state->waiting > 0 &&
		   state->running < (int) pg_atomic_read_u32(&state->limit))
	{
		QuerySlot  *first = NULL;
		int			i;

		for (i = 0; i < MaxBackends; i++)
		{
			QuerySlot  *slot = &state->slots[i];

			if (slot->ticket > done &&
				(first == NULL || slot->ticket < first->ticket) &&
				!(slot->role == full_role && slot->role_limit > 0 &&
				  slot->role_limit <= full_limit))
				first = slot;
		}
		if (first == NULL)
			break;
		done = first->ticket;
		if (!role_has_place(first))
		{
			full_role = first->role;
			full_limit = first->role_limit;
			continue;
		}
		give_up_ticket(first);
		give_place(first);
		SetLatch(&ProcGlobal->allProcs[first - state->slots].procLatch);
	}
}

/*
 * A backend gives up what it has.
 */
static void
give_up_place(QuerySlot *slot)
{
	if (slot->ticket != 0)
		give_up_ticket(slot);
	if (slot->running)
	{
		slot->running = false;
		state->running--;
		hand_out_places();
	}
}

/* ---------- a backend's own place ---------- */

/*
 * Slot of this backend, NULL when there is none.
 */
static QuerySlot *
my_slot(void)
{
	int			i;

	if (state == NULL || MyProc == NULL)
		return NULL;
	i = MyProc - ProcGlobal->allProcs;
	return i < MaxBackends ? &state->slots[i] : NULL;
}

/*
 * At exit.  The transaction's own clean-up comes after it, and finds that
 * there is nothing left to do.
 */
static void
leave_at_exit(int code, Datum arg)
{
	QuerySlot  *slot = my_slot();

	nscans = 0;
	if (slot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	give_up_place(slot);
	LWLockRelease(lock);
}

/*
 * See admission.h.
 */
bool
logq_wait_for_turn(TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(logq_now(),
													   deadline);

	if (left <= 0)
		return false;
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(left, LOGQ_ADMISSION_STEP), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/*
 * Wait until we are handed a place.  False: we were not, within the time.
 */
static bool
wait_for_place(const QuerySlot *slot, TimestampTz deadline)
{
	for (;;)
	{
		bool		granted;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		hand_out_places();
		granted = slot->running;
		LWLockRelease(lock);
		if (granted)
			return true;

		if (!logq_wait_for_turn(deadline))
			return false;
	}
}

/*
 * There is no place.  The limit of the role is named when it is in the way,
 * for it may be the only one.
 */
static void
report_no_place(const QuerySlot *slot, bool role_full, double waited)
{
	if (role_full)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_CONNECTIONS),
				 errmsg("too many logq queries of role \"%s\" are running",
						GetUserNameFromId(slot->role, false)),
				 errdetail("The role may run %d at a time; none of them ended within %.0f ms.",
						   slot->role_limit, waited),
				 errhint("Try again when one of them has ended, wait longer with \"logq.queue_timeout\", or let a superuser raise \"logq.max_concurrent_queries_per_role\" of the role.")));
	ereport(ERROR,
			(errcode(ERRCODE_TOO_MANY_CONNECTIONS),
			 errmsg("too many logq queries are running"),
			 errdetail("All %d places are taken; none became free within %.0f ms.",
					   (int) pg_atomic_read_u32(&state->limit), waited),
			 errhint("Try again in a few seconds, wait longer with \"logq.queue_timeout\", or raise \"logq.max_concurrent_queries\".")));
}

/*
 * Queue up.  Returns ms that it took.
 */
static double
queue_up(QuerySlot *slot)
{
	TimestampTz start = logq_now();
	TimestampTz deadline =
	TimestampTzPlusMilliseconds(start, logq_queue_timeout);
	volatile bool granted = false;
	double		waited;
	bool		role_full;

	PG_TRY();
	{
		granted = wait_for_place(slot, deadline);
	}
	PG_CATCH();
	{
		LWLockAcquire(lock, LW_EXCLUSIVE);
		give_up_place(slot);
		LWLockRelease(lock);
		PG_RE_THROW();
	}
	PG_END_TRY();

	waited = (logq_now() - start) / 1000.0;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* perhaps it came in the last moment */
	granted = slot->running;
	state->wait_ms += waited;
	role_full = !granted && !role_has_place(slot);
	if (!granted)
	{
		state->rejected++;
		state->rejected_at = GetCurrentTimestamp();
		give_up_ticket(slot);
	}
	LWLockRelease(lock);
	if (!granted)
		report_no_place(slot, role_full, waited);
	return waited;
}

/*
 * See admission.h.
 */
double
logq_admit_query(void)
{
	QuerySlot  *slot = my_slot();
	double		waited = 0;
	bool		granted;

	if (nscans > 0 || slot == NULL)
	{
		nscans++;
		return 0;
	}
	if (!exit_registered)
	{
		before_shmem_exit(leave_at_exit, (Datum) 0);
		exit_registered = true;
	}

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot->role = GetUserId();
	slot->role_limit = logq_max_concurrent_queries_per_role;
	/* others first, should there be more places than there were */
	hand_out_places();
	granted = state->running < (int) pg_atomic_read_u32(&state->limit) &&
		role_has_place(slot);
	if (granted)
		give_place(slot);
	else
	{
		slot->ticket = ++state->last_ticket;
		state->waiting++;
		if (logq_queue_timeout > 0)
			state->waited++;
	}
	LWLockRelease(lock);

	if (!granted)
		waited = queue_up(slot);
	nscans = 1;
	return waited;
}

/*
 * See admission.h.
 */
void
logq_leave_query(void)
{
	QuerySlot  *slot = my_slot();

	if (nscans == 0 || --nscans > 0 || slot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	give_up_place(slot);
	LWLockRelease(lock);
}

/*
 * logq.admission_status()
 */
Datum
logq_admission_status(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	LogqConnectionStats conns;
	Datum		values[15] = {0};
	bool		nulls[15] = {false};
	int			i = 0;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (state == NULL)
		PG_RETURN_NULL();

	logq_connection_stats(&conns);
	LWLockAcquire(lock, LW_SHARED);
	values[i++] = Int32GetDatum((int) pg_atomic_read_u32(&state->limit));
	values[i++] = Int32GetDatum(state->running);
	values[i++] = Int32GetDatum(state->waiting);
	values[i++] = Int32GetDatum(state->peak);
	values[i++] = Int64GetDatum(state->admitted);
	values[i++] = Int64GetDatum(state->waited);
	values[i++] = Int64GetDatum(state->rejected);
	values[i++] = Float8GetDatum(state->wait_ms);
	values[13] = TimestampTzGetDatum(state->rejected_at);
	nulls[13] = state->rejected_at == 0;
	LWLockRelease(lock);
	values[i++] = Int32GetDatum(conns.limit);
	values[i++] = Int64GetDatum(conns.open);
	values[i++] = Int64GetDatum(conns.reserved);
	values[i++] = Int64GetDatum(conns.waiting);
	values[i++] = Int64GetDatum(conns.rejected);
	Assert(i == 13);
	values[14] = TimestampTzGetDatum(conns.rejected_at);
	nulls[14] = conns.rejected_at == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values,
											 nulls));
}
