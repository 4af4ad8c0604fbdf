/*-------------------------------------------------------------------------
 *
 * cache.c
 *		Fragments of sealed segments that need not be asked again.
 *
 * What a partition sends for a fragment of a sealed segment is the same as long
 * as the segment is: a change gives it another version.  So it is kept under a
 * key that has all that decides about it (cachekey.c) and never is out of date;
 * logq.cache_ttl bounds for how long what a user could once see may be shown.
 *
 * Looking up.  Fragments are looked up in shared memory when they have been
 * chosen.  What is not there is asked of Redis, of all streams together, while
 * they ask for what nobody can have: open segments.  A stream that has nothing
 * else to do waits for Redis, for logq.cache_timeout at most.  An ordered scan
 * with a LIMIT mostly needs a few segments: it looks up the first ones in
 * memory only, and those that follow when it comes to them.
 *
 * A fragment that is found is left out of the request, and its rows are handed
 * out when its turn comes.  That is not before the partition has confirmed the
 * version of its catalog; or, if nothing is left to be asked of it, by the rules
 * for a partition that is not asked at all: our copy of its catalog was true a
 * moment ago.  And it must have let this session in before.
 *
 * Of a fragment that a LIMIT has cut off, the first rows in order are kept.
 * Whoever needs more asks for what follows them, as after a failure.
 *
 * Memory: packed values up to MAX_HELD_BYTES a scan, and the rows of one
 * fragment a stream.
 *
 * Failure cases: whatever a cache cannot do, the partition is asked.  An error
 * may end a scan at any time; then logq_cache_forget_run() must be called
 * before anybody reads from Redis again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"

/* fragments of one stream that are looked up in all */
#define MAX_LOOKED_UP 4096
/* ... at a time by an ordered scan with a LIMIT, after its first request */
#define MAX_LOOK_AHEAD 128
/* packed values that are held for one run of a scan */
#define MAX_HELD_BYTES (64 * 1024 * 1024)
/* first rows of a fragment are of use to who needs up to so many times more */
#define MAX_TIMES_MORE 8

int			logq_cache = LOGQ_CACHE_ON;
int			logq_cache_max_value = 1024;
double		logq_cache_min_cost = 1.0;

/* ---------- look-ups ---------- */

/*
 * What was found under a fragment's key: is it good, and not too old?  The
 * caller owns the packed value.  Never throws.
 */
static bool
accept_value(LogqCached *cached, LogqCacheLevel level, const char *packed,
			 Size len, LogqCacheValue *value)
{
	int64		age;

	if (!logq_cache_open(&cached->key, packed, len,
						 LOGQ_CACHE_MAX_VALUE * 1024, value))
	{
		logq_cache_count(level, LOGQ_CACHE_DAMAGED, 1);
		return false;
	}
	/* another coordinator's clock may be ahead */
	age = GetCurrentTimestamp() - value->created_at;
	if (age > (int64) logq_cache_ttl * USECS_PER_SEC)
	{
		logq_cache_count(level, LOGQ_CACHE_EXPIRED, 1);
		return false;
	}
	return true;
}

/*
 * Are the first rows of a fragment of use?  Whoever has them must ask for what
 * follows them on its own, so not when all are needed, or many more.  What is
 * asked instead takes their place in the cache.
 */
static bool
has_enough(LogqCacheRun *run, const LogqCacheValue *value)
{
	int64		bound = run->state->request.bound;

	return value->whole ||
		(bound >= 0 && value->rows > 0 &&
		 value->rows >= bound / run->state->nstreams / MAX_TIMES_MORE);
}

/*
 * Put a value that is good where it is used from.  It was opened where it is,
 * or where it was before.
 */
static void
take_hit(LogqCacheRun *run, LogqCached *cached, LogqCacheLevel level,
		 char *packed, Size len, const char *opened,
		 const LogqCacheValue *value)
{
	cached->value = *value;
	cached->value.payload = packed + (value->payload - opened);
	cached->packed = packed;
	cached->len = len;
	cached->level = level;
	cached->state = LOGQ_CACHED_HIT;
	run->held += len;
	logq_cache_count(level, LOGQ_CACHE_HITS, 1);
	logq_cache_count(level, LOGQ_CACHE_BYTES_READ, len);
}

/*
 * The value, if there is one, is not needed any more.
 */
static void
forget_value(LogqCacheRun *run, LogqCached *cached)
{
	if (cached->packed != NULL)
	{
		run->held -= cached->len;
		pfree(cached->packed);
		cached->packed = NULL;
	}
	cached->state = LOGQ_CACHED_MISS;
}

/*
 * Redis has a value for a fragment.  Must not throw: this may be called for
 * one scan of the session while another one waits.
 */
static void
take_from_redis(void *arg, int index, const char *data, Size len)
{
	LogqCacheLookup *lookup = arg;
	LogqCacheRun *run = lookup->run;
	LogqCached *cached = lookup->entries[index];
	LogqCacheValue value;
	char	   *packed;

	if (cached->state != LOGQ_CACHED_PENDING ||
		!accept_value(cached, LOGQ_CACHE_REDIS, data, len, &value) ||
		!has_enough(run, &value) ||
		run->held + len > MAX_HELD_BYTES)
		return;
	packed = MemoryContextAllocExtended(run->cxt, len, MCXT_ALLOC_NO_OOM);
	if (packed == NULL)
		return;
	memcpy(packed, data, len);
	take_hit(run, cached, LOGQ_CACHE_REDIS, packed, len, data, &value);
	/* it will be nearer next time */
	logq_hot_put(&cached->key, packed, len);
}

/*
 * Ask Redis for all fragments that were collected.
 */
static void
send_collected(LogqCacheRun *run)
{
	LogqCacheLookup *lookup = NULL;
	LogqCacheKey *keys;
	int			n = run->ncollected;

	run->ncollected = 0;
	if (n == 0)
		return;
	for (int i = 0; i < LOGQ_MAX_LOOKUPS && lookup == NULL; i++)
		if (run->lookups[i].redis == NULL)
			lookup = &run->lookups[i];
	if (lookup != NULL)
	{
		keys = MemoryContextAlloc(run->cxt, n * sizeof(LogqCacheKey));
		for (int i = 0; i < n; i++)
			keys[i] = run->collected[i]->key;
		lookup->run = run;
		lookup->entries = run->collected;
		lookup->nentries = n;
		lookup->redis = logq_redis_lookup(keys, n, take_from_redis, lookup);
		pfree(keys);
	}
	if (lookup == NULL || lookup->redis == NULL)
	{
		for (int i = 0; i < n; i++)
			run->collected[i]->state = LOGQ_CACHED_MISS;
	}
	/* the entries are the look-up's now */
	run->collected = NULL;
	run->collected_size = 0;
}

/*
 * A fragment is to be asked of Redis.
 */
static void
collect(LogqCacheRun *run, LogqCached *cached)
{
	if (run->ncollected == run->collected_size)
	{
		run->collected_size = Max(run->collected_size * 2, 64);
		if (run->collected == NULL)
			run->collected = MemoryContextAlloc(run->cxt,
												run->collected_size *
												sizeof(LogqCached *));
		else
			run->collected = repalloc(run->collected,
									  run->collected_size *
									  sizeof(LogqCached *));
	}
	run->collected[run->ncollected++] = cached;
	cached->state = LOGQ_CACHED_PENDING;
}

/*
 * A look-up is over: what has not been found will not be.
 */
static void
end_lookup(LogqCacheLookup *lookup)
{
	logq_redis_forget(lookup->redis);
	lookup->redis = NULL;
	for (int i = 0; i < lookup->nentries; i++)
	{
		if (lookup->entries[i]->state != LOGQ_CACHED_PENDING)
			continue;
		lookup->entries[i]->state = LOGQ_CACHED_MISS;
		logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_MISSES, 1);
	}
}

/*
 * Take what has come from Redis.  Returns until when there may come more, 0:
 * nothing will.
 */
static TimestampTz
poll_lookups(LogqCacheRun *run)
{
	TimestampTz deadline = 0;

	for (int i = 0; i < LOGQ_MAX_LOOKUPS; i++)
	{
		LogqCacheLookup *lookup = &run->lookups[i];

		if (lookup->redis == NULL)
			continue;
		if (logq_redis_poll(lookup->redis))
			end_lookup(lookup);
		else
			deadline = Max(deadline, logq_redis_deadline(lookup->redis));
	}
	return deadline;
}

/*
 * Is a fragment that is not in memory worth asking Redis for, and storing?  Of
 * a window that moves on, each step cuts a segment in another place, and nobody
 * has that yet, or ever will want it.
 */
static bool
is_wanted(const LogqCached *cached)
{
	return !cached->ragged || logq_cache_min_cost == 0 ||
		logq_hot_seen(&cached->key);
}

/*
 * Look up fragments of a stream, from the first one that has not been up to
 * "to": in memory, and what is not there, if the run is collecting, in Redis.
 */
static void
look_up(LogqStream *stream, int to)
{
	LogqCacheRun *run = stream->cache;
	int			from = stream->looked_up;

	to = Min(Min(to, stream->nfragments), MAX_LOOKED_UP);
	if (from >= to)
		return;
	logq_cache_keys(stream, from, to);
	stream->looked_up = to;
	for (int i = from; i < to; i++)
	{
		LogqCached *cached = stream->fragments[i].cached;
		LogqCacheValue value;
		MemoryContext old;
		char	   *packed;
		Size		len;
		bool		good;

		if (cached == NULL)
			continue;
		if (!run->reads)
		{
			cached->wanted = is_wanted(cached);
			continue;
		}
		old = MemoryContextSwitchTo(run->cxt);
		packed = logq_hot_get(&cached->key, MAX_HELD_BYTES - run->held, &len);
		MemoryContextSwitchTo(old);
		good = packed != NULL &&
			accept_value(cached, LOGQ_CACHE_MEMORY, packed, len, &value);
		if (good && has_enough(run, &value))
		{
			take_hit(run, cached, LOGQ_CACHE_MEMORY, packed, len, packed,
					 &value);
			continue;
		}
		if (packed != NULL)
		{
			pfree(packed);
			if (!good)
				logq_hot_remove(&cached->key);
		}
		if (logq_hot_available())
			logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_MISSES, 1);
		cached->wanted = is_wanted(cached);
		if (run->collecting && cached->wanted)
			collect(run, cached);
	}
}

/*
 * In what order fragments of an unordered stream are asked: those that must be,
 * those that Redis may have, those that are here.
 */
static int
fragment_rank(const LogqFragment *fragment)
{
	if (fragment->cached == NULL)
		return 0;
	switch (fragment->cached->state)
	{
		case LOGQ_CACHED_PENDING:
			return 1;
		case LOGQ_CACHED_HIT:
			return 2;
		default:
			return 0;
	}
}

/*
 * Bring the fragments that are still to be asked into that order, each kind in
 * the order in which it is.
 */
static void
arrange(LogqStream *stream)
{
	int			first = stream->batch_end;
	int			n = stream->looked_up - first;
	LogqFragment *sorted;
	int			to = 0;

	if (stream->request->ordered || stream->resume || n <= 1)
		return;
	sorted = MemoryContextAlloc(stream->cxt, n * sizeof(LogqFragment));
	for (int rank = 0; rank <= 2; rank++)
		for (int i = 0; i < n; i++)
			if (fragment_rank(&stream->fragments[first + i]) == rank)
				sorted[to++] = stream->fragments[first + i];
	memcpy(&stream->fragments[first], sorted, n * sizeof(LogqFragment));
	pfree(sorted);
}

/*
 * See cacherun.h.  Fragments may be of an earlier choice.
 */
void
logq_cache_planned(LogqStream *stream)
{
	stream->looked_up = 0;
	for (int i = 0; i < stream->nfragments; i++)
		stream->fragments[i].cached = NULL;
	if (stream->cache == NULL)
		return;
	if (!stream->request->ordered || stream->request->bound < 0)
	{
		look_up(stream, stream->nfragments);
		/* those beyond the limit are asked, and come first like others */
		stream->looked_up = stream->nfragments;
	}
}

/* ---------- runs ---------- */

/*
 * Is one trace_id, or one id, looked for?  An index has it in less time than
 * it takes to ask Redis.
 */
static bool
is_look_up(LogqScanState *state)
{
	CustomScan *plan = castNode(CustomScan, state->css.ss.ps.plan);
	ListCell   *lc;

	if (state->bounds.id_low == state->bounds.id_high)
		return true;
	foreach(lc, (List *) list_nth(plan->custom_private,
								  LOGQ_PLAN_PRUNE_NODES))
	{
		List	   *node = lfirst(lc);

		if (intVal(linitial(node)) == LOGQ_NODE_EQUAL &&
			intVal(lsecond(node)) == LOGQ_COL_TRACE_ID &&
			intVal(lthird(node)) == 0)
			return true;
	}
	return false;
}

/*
 * See cacherun.h.  Streams that need all of their fragments choose them here,
 * so that they are looked up together.
 */
void
logq_cache_begin_run(LogqScanState *state)
{
	LogqCacheRun *run = &state->cache;
	bool		all = state->order == 0 || state->request.bound < 0;

	if (logq_cache == LOGQ_CACHE_OFF ||
		(!logq_hot_available() && !logq_redis_usable()) ||
		is_look_up(state))
		return;
	run->state = state;
	run->cxt = state->run_cxt;
	run->canon.text = NULL;
	run->held = 0;
	run->collected = NULL;
	run->ncollected = run->collected_size = 0;
	run->reads = logq_cache == LOGQ_CACHE_ON;
	run->collecting = all && run->reads && logq_redis_usable();
	for (int i = 0; i < state->nstreams; i++)
	{
		LogqStream *stream = &state->streams[i];

		if (state->fates[i] != LOGQ_FATE_ASKED ||
			!OidIsValid(stream->part->serverid) ||
			logq_xact_written_conn(stream->part->serverid,
								   stream->userid) != NULL)
			continue;
		stream->cache = run;
		if (all && stream->part->loaded)
		{
			logq_plan_fragments(stream);
			stream->planned = true;
		}
	}
	run->collecting = false;
	send_collected(run);
}

/*
 * See cacherun.h.
 */
void
logq_cache_forget_run(LogqScanState *state)
{
	for (int i = 0; i < LOGQ_MAX_LOOKUPS; i++)
	{
		LogqCacheLookup *lookup = &state->cache.lookups[i];

		if (lookup->redis != NULL)
			logq_redis_forget(lookup->redis);
		lookup->redis = NULL;
	}
}

void
logq_cache_poll(LogqScanState *state)
{
	(void) poll_lookups(&state->cache);
}

bool
logq_cache_waits_for_redis(const LogqScanState *state)
{
	for (int i = 0; i < LOGQ_MAX_LOOKUPS; i++)
		if (state->cache.lookups[i].redis != NULL)
			return true;
	return false;
}

/* ---------- requests ---------- */

/*
 * The first fragment that Redis may still have, of those that are to be asked.
 */
static int
first_pending(const LogqStream *stream)
{
	for (int i = stream->batch_end; i < stream->looked_up; i++)
		if (stream->fragments[i].cached != NULL &&
			stream->fragments[i].cached->state == LOGQ_CACHED_PENDING)
			return i;
	return stream->nfragments;
}

/*
 * The first fragment from a position on that is not here.
 */
static int
first_to_ask(const LogqStream *stream, int from)
{
	while (from < stream->nfragments &&
		   logq_fragment_is_cached(&stream->fragments[from]))
		from++;
	return from;
}

/*
 * May fragments that are here be handed out before the partition is asked for
 * others?  Not unless it has confirmed what we know: then all that it is asked
 * for shall be of one moment.  But for a LIMIT the others may not be needed.
 */
static bool
may_begin_here(const LogqStream *stream)
{
	return stream->confirmed ||
		(stream->request->ordered && stream->request->bound >= 0);
}

/*
 * May rows of this stream be handed out without asking the partition, as it
 * has let this session in by the name that the keys are for, and has confirmed,
 * or would confirm, what we know?
 */
static bool
may_skip_asking(LogqStream *stream)
{
	const char *user;

	if (stream->conn == NULL)
	{
		user = logq_identity(stream->part->serverid, stream->userid);
		if (user == NULL || strcmp(user, stream->cache_user) != 0 ||
			!logq_identity_proven(stream->part->serverid, stream->userid))
			return false;
	}
	return !stream->check_security &&
		(stream->confirmed ||
		 (stream->plan_version == stream->part->version &&
		  logq_catalog_confirmed(stream->part)));
}

/*
 * See cacherun.h.
 */
bool
logq_cache_must_wait(LogqStream *stream)
{
	LogqCacheRun *run = stream->cache;
	TimestampTz deadline;
	int			pending;

	if (run == NULL)
		return false;
	/* the first request brought too little: now it pays to look further */
	if (stream->state == LOGQ_STREAM_HELD && run->reads && !stream->resume &&
		stream->looked_up < stream->batch_end + stream->batch_size &&
		stream->looked_up < stream->nfragments)
	{
		run->collecting = logq_redis_usable();
		look_up(stream, stream->batch_end + MAX_LOOK_AHEAD);
		run->collecting = false;
		send_collected(run);
	}
	if (first_pending(stream) == stream->nfragments)
		return false;
	deadline = poll_lookups(run);
	arrange(stream);
	pending = first_pending(stream);
	if (pending == stream->nfragments)
		return false;
	/* what is here already may be handed out only if nothing must be asked */
	if (pending > stream->batch_end &&
		(may_begin_here(stream) ||
		 first_to_ask(stream, stream->batch_end) < pending ||
		 !may_skip_asking(stream)))
		return false;
	stream->wake_at = deadline;
	return true;
}

/*
 * See cacherun.h.
 *
 * What is found at the beginning is taken first, on its own: perhaps no more
 * is needed.  Of an unordered stream it only comes first when nothing else is
 * left.
 */
int
logq_cache_limit_batch(LogqStream *stream, int size)
{
	LogqFragment *fragments;
	bool		hit;
	int			pending;
	int			n = 0;

	stream->local_batch = false;
	if (stream->cache == NULL)
		return size;
	size = Min(size, stream->nfragments - stream->batch_end);
	look_up(stream, stream->batch_end + size);
	arrange(stream);
	fragments = &stream->fragments[stream->batch_end];
	/* whoever goes on from the middle asks, whatever was found */
	if (stream->resume && fragments[0].cached != NULL)
		forget_value(stream->cache, fragments[0].cached);
	pending = first_pending(stream);
	if (pending < stream->nfragments)
	{
		size = Min(size, pending - stream->batch_end);
		stream->more_pending = true;
	}
	if (size <= 0)
		return 0;

	hit = logq_fragment_is_cached(&fragments[0]) &&
		(may_begin_here(stream) ||
		 first_to_ask(stream, stream->batch_end) == stream->nfragments) &&
		may_skip_asking(stream);
	/* after the first rows of a fragment, the rest of it must be asked */
	while (n < size && (!hit || logq_fragment_is_cached(&fragments[n])))
	{
		n++;
		if (logq_fragment_is_cached(&fragments[n - 1]) &&
			!fragments[n - 1].cached->value.whole)
			break;
	}
	if (!hit)
		stream->local = false;
	else
	{
		stream->local_batch = true;
		/*
		 * An ordered stream may come to ask after all.  Should the version have
		 * moved on then, it goes on behind what was handed out.
		 */
		if (stream->request->ordered)
			stream->trusted = true;
		else
			stream->confirmed = true;
	}
	return n;
}

/*
 * See cacherun.h.
 */
bool
logq_cache_is_user(const LogqStream *stream, const LogqConn *conn)
{
	const char *user = PQuser(conn->pg);

	return stream->cache == NULL || stream->cache_user == NULL ||
		(user != NULL && strcmp(user, stream->cache_user) == 0);
}

/*
 * See cacherun.h.
 */
void
logq_cache_check_user(LogqStream *stream, const LogqConn *conn)
{
	if (logq_cache_is_user(stream, conn))
		return;
	stream->fragments_asked -= logq_batch_asked(stream, stream->batch_done);
	for (int i = stream->batch_start + stream->batch_done;
		 i < stream->nfragments; i++)
		stream->fragments[i].cached = NULL;
	stream->fragments_asked += logq_batch_asked(stream, stream->batch_done);
	stream->cache = NULL;
	stream->local_batch = false;
}

/*
 * See cacherun.h.
 */
bool
logq_cache_has_rest(const LogqStream *stream)
{
	for (int i = stream->batch_start; i < stream->nfragments; i++)
		if (!logq_fragment_is_cached(&stream->fragments[i]) ||
			!stream->fragments[i].cached->value.whole)
			return false;
	return true;
}

/* ---------- rows ---------- */

/*
 * See cacherun.h.
 */
bool
logq_cache_is_next(const LogqStream *stream)
{
	int			next = stream->batch_start + stream->batch_done;

	return stream->cache != NULL && next < stream->batch_end &&
		stream->confirmed && !stream->stale && stream->load == NULL &&
		logq_fragment_is_cached(&stream->fragments[next]);
}

/*
 * Unpack the next fragment for the decoder.
 */
static void
begin_cached(LogqStream *stream, LogqCached *cached)
{
	const LogqCacheValue *value = &cached->value;

	stream->cached_rows = MemoryContextAlloc(stream->cxt, value->raw_len + 1);
	logq_decode_start(&stream->decoder, stream->request->nfields);
	if (!logq_cache_unpack(value, stream->cached_rows) ||
		!logq_decode_feed(&stream->decoder, stream->cached_rows,
						  value->raw_len))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read the cached rows of partition \"%s\"",
						stream->part->name),
				 errhint("Somebody writes to the cache who should not. Run SELECT logq.cache_clear(), or set \"logq.cache\" to off.")));
	stream->fragment_rows = 0;
	stream->in_fragment = true;
	stream->cached[cached->level]++;
	if (stream->oldest == 0 || value->created_at < stream->oldest)
		stream->oldest = value->created_at;
	logq_cache_count(cached->level, LOGQ_CACHE_SAVED_US, value->cost_us);
}

/*
 * See cacherun.h.
 */
bool
logq_cache_row(LogqStream *stream)
{
	LogqFragment *fragment =
		&stream->fragments[stream->batch_start + stream->batch_done];
	LogqCached *cached = fragment->cached;

	if (stream->cached_rows == NULL)
		begin_cached(stream, cached);
	if (logq_stream_decode_row(stream))
	{
		stream->rows_cached++;
		return true;
	}
	if (!stream->decoder.ended)
		logq_stream_decode_failed(stream);
	pfree(stream->cached_rows);
	stream->cached_rows = NULL;
	forget_value(stream->cache, cached);
	cached->state = cached->value.whole ? LOGQ_CACHED_TAKEN :
		LOGQ_CACHED_BEGUN;
	stream->batch_done++;
	stream->in_fragment = false;
	logq_had_reset(stream);
	return false;
}
