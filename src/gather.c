/*-------------------------------------------------------------------------
 *
 * gather.c
 *		Rows of many streams: the merge, the unordered round, the waiting.
 *
 * One loop serves all streams of a scan: whoever can go on without waiting
 * does, and when nobody whose row is needed can, the loop waits on their
 * sockets together.
 *
 * An ordered scan merges the heads of all streams.  A stream without a row
 * stands in the heap with a bound, by its next segment, and is asked, and
 * waited for, only when that comes up.  A stream that has a row is not read;
 * what follows rests in the kernel's socket buffers, and its partition stops
 * sending when these are full.  An unordered scan takes rows from whichever
 * stream has one.
 *
 * Failure cases: streams throw; nothing here needs cleaning up but the wait
 * set, which scan.c frees with the scan's memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

/* ---------- waiting ---------- */

/*
 * Add the sockets of second requests that are waited for.
 */
static void
add_hedges(LogqScanState *state)
{
	for (int i = 0; i < state->nstreams; i++)
	{
		LogqHedge  *hedge = &state->streams[i].hedge;
		LogqWaitSlot *slot = &state->wait_slots[state->nstreams + i];
		pgsocket	sock;

		slot->pos = -1;
		slot->generation = hedge->generation;
		if (hedge->conn == NULL || !state->waiting[i])
			continue;
		sock = logq_conn_socket(hedge->conn);
		if (sock == PGINVALID_SOCKET)
			continue;
		slot->events = hedge->wait_events;
		slot->pos = AddWaitEventToSet(state->wait_set, slot->events, sock,
									  NULL, slot);
	}
}

/*
 * Add Redis' socket while it is being asked.
 */
static void
add_redis(LogqScanState *state)
{
	LogqWaitSlot *slot = &state->wait_slots[2 * state->nstreams];
	pgsocket	sock;

	slot->pos = -1;
	if (!logq_cache_waits_for_redis(state))
		return;
	sock = logq_redis_socket(&slot->events, &slot->generation);
	if (sock != PGINVALID_SOCKET)
		slot->pos = AddWaitEventToSet(state->wait_set, slot->events, sock,
									  NULL, slot);
}

/*
 * Is the set out of date because of Redis?
 */
static bool
redis_changed(LogqScanState *state)
{
	LogqWaitSlot *slot = &state->wait_slots[2 * state->nstreams];
	pgsocket	sock = PGINVALID_SOCKET;
	uint32		events = 0;
	unsigned	generation = slot->generation;

	if (logq_cache_waits_for_redis(state))
		sock = logq_redis_socket(&events, &generation);
	return (slot->pos >= 0) != (sock != PGINVALID_SOCKET) ||
		(slot->pos >= 0 &&
		 (slot->generation != generation || slot->events != events));
}

/*
 * Is the set out of date because of a second request?  They are rare, and
 * short-lived.
 */
static bool
hedges_changed(LogqScanState *state)
{
	for (int i = 0; i < state->nstreams; i++)
	{
		const LogqHedge *hedge = &state->streams[i].hedge;
		const LogqWaitSlot *slot = &state->wait_slots[state->nstreams + i];

		if (hedge->conn != NULL ||
			(slot->pos >= 0 && slot->generation != hedge->generation))
			return true;
	}
	return false;
}

/*
 * How long may be waited until a stream wants to look at the time?
 */
static long
wait_ms(LogqScanState *state)
{
	TimestampTz now = 0;
	long		timeout = LOGQ_MAX_WAIT_MS;

	for (int i = 0; i < state->nstreams; i++)
	{
		TimestampTz wake_at = state->streams[i].wake_at;

		if (!state->waiting[i] || wake_at == 0)
			continue;
		if (now == 0)
			now = logq_now();
		timeout = Min(timeout, TimestampDifferenceMilliseconds(now, wake_at));
	}
	return timeout;
}

/*
 * Does a stream wait for its own socket?  One may have a connection and wait
 * for Redis before it asks for more: then nothing is expected to come, and a
 * socket that can be written to must not wake us up.
 */
static bool
listens(const LogqScanState *state, int i)
{
	return state->waiting[i] && state->streams[i].wait_events != 0;
}

/*
 * Make the wait set anew: the streams that wait, and, where the platform can
 * say that a peer has closed, those that rest, so that they are in the set
 * already when their turn comes.
 */
static void
rebuild_wait_set(LogqScanState *state)
{
	bool		park = WaitEventSetCanReportClosed();
	int			i;

	if (state->wait_set != NULL)
	{
		FreeWaitEventSet(state->wait_set);
		state->wait_set = NULL;
	}
	state->wait_set = logq_create_wait_event_set(2 * state->nstreams + 3);
	AddWaitEventToSet(state->wait_set, WL_LATCH_SET, PGINVALID_SOCKET,
					  MyLatch, NULL);
	AddWaitEventToSet(state->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
					  NULL, NULL);
	for (i = 0; i < state->nstreams; i++)
	{
		LogqStream *stream = &state->streams[i];
		LogqWaitSlot *slot = &state->wait_slots[i];

		if (slot->generation != stream->generation)
			slot->peer_closed = false;
		slot->pos = -1;
		if (stream->conn == NULL ||
			logq_conn_socket(stream->conn) == PGINVALID_SOCKET)
			continue;
		if (listens(state, i))
			slot->events = stream->wait_events;
		else if (park && !slot->peer_closed)
			slot->events = WL_SOCKET_CLOSED;
		else
			continue;
		slot->generation = stream->generation;
		slot->pos = AddWaitEventToSet(state->wait_set, slot->events,
									  logq_conn_socket(stream->conn), NULL,
									  slot);
	}
	add_hedges(state);
	add_redis(state);
}

/*
 * Wait until one of the waiting streams can go on, or some time has passed.
 */
static void
wait_for_streams(LogqScanState *state)
{
	WaitEvent	events[16];
	bool		rebuild = state->wait_set == NULL || hedges_changed(state) ||
		redis_changed(state);
	TimestampTz before;
	long		timeout;
	int			n;
	int			i;

	for (i = 0; i < state->nstreams && !rebuild; i++)
	{
		LogqStream *stream = &state->streams[i];
		LogqWaitSlot *slot = &state->wait_slots[i];

		if (slot->pos >= 0 && slot->generation != stream->generation)
			rebuild = true;		/* its socket has gone, or is another */
		else if (listens(state, i) &&
				 (slot->pos < 0 || stream->state == LOGQ_STREAM_CONNECTING))
			rebuild = true;		/* the socket may change on the way */
	}
	if (rebuild)
		rebuild_wait_set(state);
	else
	{
		for (i = 0; i < state->nstreams; i++)
		{
			LogqWaitSlot *slot = &state->wait_slots[i];
			uint32		wanted = listens(state, i) ?
			state->streams[i].wait_events : WL_SOCKET_CLOSED;

			if (slot->pos < 0 || slot->events == wanted)
				continue;
			if (wanted == WL_SOCKET_CLOSED && !WaitEventSetCanReportClosed())
			{
				/* cannot rest in the set */
				rebuild_wait_set(state);
				break;
			}
			ModifyWaitEvent(state->wait_set, slot->pos, wanted, NULL);
			slot->events = wanted;
		}
	}

	CHECK_FOR_INTERRUPTS();
	logq_advance_probes();
	before = logq_now();
	timeout = wait_ms(state);
	n = WaitEventSetWait(state->wait_set, timeout, events, lengthof(events),
						 PG_WAIT_EXTENSION);
	logq_clock_look(&state->clock, logq_now());
	state->clock.idle += logq_time_stopped(before, timeout);
	for (i = 0; i < n; i++)
	{
		LogqWaitSlot *slot = events[i].user_data;
		int			index;

		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			continue;
		}
		if (slot == NULL)
			continue;
		index = slot - state->wait_slots;
		if (index == 2 * state->nstreams)
		{
			/* also when all streams have something else to do */
			logq_cache_poll(state);
			continue;
		}
		if (index >= state->nstreams)
		{
			state->streams[index - state->nstreams].hedge.ready_events =
				events[i].events;
			continue;
		}
		if (listens(state, index))
			state->streams[index].ready_events = events[i].events;
		else if (events[i].events & WL_SOCKET_CLOSED)
		{
			/* it will be found out when it is read; do not wake up again */
			slot->peer_closed = true;
			FreeWaitEventSet(state->wait_set);
			state->wait_set = NULL;
			break;
		}
	}
	CHECK_FOR_INTERRUPTS();
}

/* ---------- ordered scans ---------- */

/*
 * Bring the entry at the top of the heap up to date with its stream, which
 * has been advanced.
 */
static void
update_top(LogqScanState *state, LogqStreamResult result)
{
	LogqMerge  *merge = &state->merge;
	int			index = merge->entries[0].stream;
	LogqStream *stream = &state->streams[index];
	int64		ts;
	int64		id;

	state->waiting[index] = result == LOGQ_STREAM_WAIT;
	state->bounded[index] = result != LOGQ_STREAM_ROW;
	switch (result)
	{
		case LOGQ_STREAM_ROW:
			logq_merge_replace_top(merge, stream->ts, stream->id);
			break;
		case LOGQ_STREAM_END:
			logq_merge_pop(merge);
			break;
		case LOGQ_STREAM_WAIT:
		case LOGQ_STREAM_PAUSED:
			logq_stream_bound(stream, &ts, &id);
			logq_merge_replace_top(merge, ts, id);
			break;
	}
}

/*
 * The stream at the top must ask: release it, and with it all others that
 * could deliver rows of the same stretch of time, so that they work at the
 * same time.  At most logq.max_parallel_partitions are waited for at once.
 */
static void
release_streams(LogqScanState *state)
{
	LogqMerge  *merge = &state->merge;
	int			top = merge->entries[0].stream;
	int64		horizon = logq_stream_horizon(&state->streams[top]);
	int			pending = 0;
	int			i;

	state->streams[top].released = true;
	state->waiting[top] = true;
	for (i = 0; i < state->nstreams; i++)
		pending += state->waiting[i];

	for (i = 1; i < merge->nentries; i++)
	{
		LogqMergeEntry *entry = &merge->entries[i];
		LogqStream *stream = &state->streams[entry->stream];

		if (pending >= logq_max_parallel_partitions)
			break;
		if (!state->bounded[entry->stream] || state->waiting[entry->stream] ||
			stream->has_row ||
			(state->order < 0 ? entry->ts < horizon : entry->ts > horizon))
			continue;
		if (stream->state == LOGQ_STREAM_IDLE ||
			stream->state == LOGQ_STREAM_HELD)
		{
			stream->released = true;
			state->waiting[entry->stream] = true;
			pending++;
		}
	}
}

/*
 * Advance the waiting streams below the top as well: who has something gets
 * on with it while the top is being waited for.  Their entries stay where
 * they are; a bound never comes after the row that follows it.
 */
static void
advance_others(LogqScanState *state, int top)
{
	int			i;

	for (i = 0; i < state->nstreams; i++)
	{
		LogqStream *stream = &state->streams[i];
		int64		ts;
		int64		id;

		if (i == top || !state->waiting[i])
			continue;
		stream->replanned = false;
		state->waiting[i] = logq_stream_advance(stream) == LOGQ_STREAM_WAIT;
		/* segments chosen anew may reach beyond the bound it stands by */
		if (stream->replanned)
		{
			logq_stream_bound(stream, &ts, &id);
			logq_merge_raise(&state->merge, ts, id, i);
		}
	}
}

/*
 * Index of the stream that holds the next row in order, -1 at the end.
 *
 * The heap has an entry a stream: the key of its row, or, as long as it has
 * none, a bound before which it will deliver nothing.  So a row can be handed
 * out as soon as it comes before all bounds, and a stream need not even have
 * been asked for it.
 */
static int
next_ordered(LogqScanState *state)
{
	LogqMerge  *merge = &state->merge;

	/* the top's row was handed out: move on before looking again */
	if (state->current >= 0)
		update_top(state, logq_stream_advance(&state->streams[state->current]));
	state->current = -1;

	while (merge->nentries > 0)
	{
		int			top = merge->entries[0].stream;
		LogqStream *stream = &state->streams[top];
		LogqMergeEntry before = merge->entries[0];
		LogqStreamResult result;

		if (stream->has_row)
		{
			if (!state->bounded[top])
			{
				state->request.handed_out = true;
				state->request.last_ts = stream->ts;
				state->request.last_id = stream->id;
				state->current = top;
				return top;
			}
			/* it has come meanwhile; its place may be further down */
			update_top(state, LOGQ_STREAM_ROW);
			continue;
		}

		result = logq_stream_advance(stream);
		if (result == LOGQ_STREAM_PAUSED)
		{
			update_top(state, result);
			/* its bound may have moved, and another be at the top now */
			if (merge->entries[0].stream != top)
				continue;
			release_streams(state);
			advance_others(state, -1);
			continue;
		}
		update_top(state, result);
		if (result == LOGQ_STREAM_WAIT && merge->entries[0].stream == top &&
			merge->entries[0].ts == before.ts &&
			merge->entries[0].id == before.id)
		{
			wait_for_streams(state);
			advance_others(state, top);
		}
	}
	return -1;
}

/* ---------- unordered scans ---------- */

/*
 * Advance one live stream of an unordered scan.  True: it holds a row.
 */
static bool
advance_live(LogqScanState *state, int index)
{
	LogqStreamResult result = logq_stream_advance(&state->streams[index]);

	if (result == LOGQ_STREAM_END)
	{
		state->live[index] = false;
		state->active--;
	}
	return result == LOGQ_STREAM_ROW;
}

/*
 * Open streams up to the limit, and go on until none of them is still
 * connecting.  A reader may take its time between rows, and a server does not
 * wait for the rest of a handshake for ever.
 */
static void
open_streams(LogqScanState *state)
{
	bool		connecting = false;
	int			i;

	while (state->opened < state->nstreams &&
		   state->active < logq_max_parallel_partitions)
	{
		i = state->opened++;
		if (state->fates[i] != LOGQ_FATE_ASKED &&
			state->fates[i] != LOGQ_FATE_CATALOG)
			continue;
		state->live[i] = true;
		state->active++;
		(void) advance_live(state, i);
		connecting = true;
	}

	while (connecting)
	{
		connecting = false;
		for (i = 0; i < state->opened; i++)
		{
			/* the others answer meanwhile; what they take is theirs */
			state->waiting[i] = state->live[i] &&
				!state->streams[i].has_row &&
				!advance_live(state, i) && state->live[i];
			/* one that waits for Redis may connect after that */
			connecting |= state->waiting[i] &&
				(state->streams[i].state == LOGQ_STREAM_CONNECTING ||
				 state->streams[i].state == LOGQ_STREAM_IDLE);
		}
		if (connecting)
			wait_for_streams(state);
	}
	memset(state->waiting, false, state->nstreams * sizeof(bool));
}

/*
 * Index of a stream that holds a row, -1 at the end.  Stays with a stream as
 * long as it has rows at hand.
 */
static int
next_unordered(LogqScanState *state)
{
	int			index = Max(state->current, 0);

	/* that row was handed out */
	if (state->current >= 0)
		state->streams[index].has_row = false;

	for (;;)
	{
		int			before = state->active;
		int			i;

		if (state->opened < state->nstreams)
		{
			open_streams(state);
			before = state->active;
		}
		if (state->active == 0)
		{
			if (state->opened < state->nstreams)
				continue;
			state->current = -1;
			return -1;
		}

		for (i = 0; i < state->opened; i++)
		{
			if (index >= state->opened)
				index = 0;
			if (state->live[index] &&
				(state->streams[index].has_row || advance_live(state, index)))
			{
				state->current = index;
				return index;
			}
			index++;
		}

		/* when one has ended, there may be another to open */
		if (state->active == before)
		{
			memcpy(state->waiting, state->live,
				   state->nstreams * sizeof(bool));
			wait_for_streams(state);
			memset(state->waiting, false, state->nstreams * sizeof(bool));
		}
	}
}

/*
 * Index of the stream that holds the scan's next row, -1 at the end.
 */
int
logq_gather_next(LogqScanState *state)
{
	return state->order != 0 ? next_ordered(state) : next_unordered(state);
}
