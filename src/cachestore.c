/*-------------------------------------------------------------------------
 *
 * cachestore.c
 *		Which fragments are worth keeping for later, and keeping them.
 *
 * The bytes of a fragment are gathered as they come, up to logq.cache_max_value.
 * What it cost is the time that this session spent on it: from the end of the
 * fragment before it, or an even share of the time since the request was sent,
 * whichever is more, as a partition works ahead.  A fragment that is quickly
 * had again is not worth its place: an index look-up takes a tenth of a
 * millisecond.
 *
 * A fragment is stored under the version of its segment that the partition has
 * confirmed in the same snapshot.
 *
 * Never stored: what is gone on with from the middle, what did not come to its
 * end, what a LIMIT may have cut off in no particular order.  What a LIMIT cut
 * off in order is stored as the beginning that it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "identity.h"

/* reading a value back takes about a millisecond for so many bytes */
#define BYTES_PER_MS (256 * 1024)
/* memory that is kept from one fragment to the next */
#define MAX_IDLE_BYTES (64 * 1024)

/*
 * Time at which the scan is, not counting what its reader takes.
 */
static TimestampTz
working_time(const LogqStream *stream)
{
	LogqClock  *clock = stream->request->clock;

	logq_clock_look(clock, logq_now());
	return clock->seen_at - clock->idle;
}

/* See cacherun.h. */
void
logq_cache_sent(LogqStream *stream)
{
	LogqKept   *kept = &stream->kept;

	if (stream->cache == NULL)
		return;
	logq_prove_identity(stream->conn);
	kept->since = kept->sent_at = working_time(stream);
	kept->asked = 0;
}

/* See cacherun.h. */
void
logq_cache_begin_fragment(LogqStream *stream)
{
	LogqKept   *kept = &stream->kept;
	int			next = stream->batch_start + stream->batch_done;

	kept->keeping = stream->cache != NULL && stream->in_fragment &&
		kept->current &&
		next < stream->batch_end &&
		stream->fragments[next].cached != NULL &&
		stream->fragments[next].cached->wanted &&
		!(stream->resume && stream->batch_done == 0);
	if (!kept->keeping)
		return;
	if (kept->data.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(stream->cxt);

		initStringInfo(&kept->data);
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(&kept->data);
}

/*
 * Forget what was gathered, and the memory if it is much.
 */
static void
stop_keeping(LogqStream *stream)
{
	LogqKept   *kept = &stream->kept;

	kept->keeping = false;
	if (kept->data.data != NULL && kept->data.maxlen > MAX_IDLE_BYTES)
	{
		pfree(kept->data.data);
		kept->data.data = NULL;
	}
}

/* See cacherun.h. */
void
logq_cache_keep(LogqStream *stream, const char *data, int len)
{
	LogqKept   *kept = &stream->kept;

	if (len > (int64) logq_cache_max_value * 1024 - kept->data.len)
	{
		stop_keeping(stream);
		logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_TOO_LARGE, 1);
		return;
	}
	appendBinaryStringInfo(&kept->data, data, len);
}

/*
 * Is what was gathered worth storing?
 */
static bool
is_worth_storing(int64 cost, int64 bytes)
{
	/* for tests, and for whoever wants all */
	if (logq_cache_min_cost == 0 ||
		cost >= logq_cache_min_cost * 1000 + bytes * 1000 / BYTES_PER_MS)
		return true;
	logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_TOO_CHEAP, 1);
	return false;
}

/*
 * Put a fragment into both levels.
 */
static void
store(LogqStream *stream, const LogqCached *cached, bool whole, int64 cost)
{
	LogqKept   *kept = &stream->kept;
	LogqCacheValue value = {0};
	char	   *packed;
	size_t		len;

	value.whole = whole;
	value.rows = stream->fragment_rows;
	value.created_at = GetCurrentTimestamp();
	value.cost_us = Max(cost, 0);
	packed = MemoryContextAlloc(stream->cxt,
								logq_cache_pack_bound(kept->data.len));
	len = logq_cache_pack(&cached->key, &value, kept->data.data,
						  kept->data.len, packed);
	logq_hot_put(&cached->key, packed, len);
	if (logq_redis_usable())
		logq_redis_store(&cached->key, packed, len);
	pfree(packed);
	stream->stored++;
}

/*
 * Did a binary COPY come to its end?
 */
static bool
has_trailer(const StringInfoData *data)
{
	return data->len >= 2 && (uint8) data->data[data->len - 2] == 0xff &&
		(uint8) data->data[data->len - 1] == 0xff;
}

/*
 * See cacherun.h.  The fragment does not count as done yet.
 */
void
logq_cache_end_fragment(LogqStream *stream)
{
	LogqKept   *kept = &stream->kept;
	int			at = stream->batch_start + stream->batch_done;
	TimestampTz now;
	int64		cost;
	int64		limit;
	bool		whole;

	if (stream->cache == NULL)
		return;
	now = working_time(stream);
	kept->asked++;
	cost = Max(now - kept->since, (now - kept->sent_at) / kept->asked);
	kept->since = now;
	if (!kept->keeping)
		return;

	/* that will be found out, if its groups have yet to be read */
	if (!has_trailer(&kept->data))
	{
		stop_keeping(stream);
		return;
	}
	/* of groups, none has been handed out yet, and there is no limit */
	limit = at == stream->batch_end - 1 ? stream->batch_limit : kept->limit;
	whole = limit < 0 || stream->fragment_rows < limit;
	if ((whole || (stream->request->ordered && stream->fragment_rows > 0)) &&
		is_worth_storing(cost, kept->data.len))
		store(stream, stream->fragments[at].cached, whole, cost);
	stop_keeping(stream);
}
