/*-------------------------------------------------------------------------
 *
 * cacherun.h
 *		What streams and scans have to do with the cache.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CACHERUN_H
#define LOGQ_CACHERUN_H

#include "cache.h"
#include "stream.h"

/* look-ups in Redis of one run of a scan that can be under way at once */
#define LOGQ_MAX_LOOKUPS 8

typedef enum LogqCachedState
{
	LOGQ_CACHED_MISS,			/* to be asked, and perhaps stored */
	LOGQ_CACHED_PENDING,		/* Redis has not answered yet */
	LOGQ_CACHED_HIT,
	LOGQ_CACHED_TAKEN,			/* all of it was handed out */
	LOGQ_CACHED_BEGUN			/* its first rows were; the rest is to be asked */
} LogqCachedState;

/* A fragment's place in the cache */
typedef struct LogqCached
{
	LogqCacheKey key;
	LogqCachedState state;
	bool		ragged;			/* a bound of ts or id cuts its segment */
	bool		wanted;			/* to be stored, once it has been asked for */
	/* of a hit */
	LogqCacheLevel level;
	char	   *packed;
	Size		len;			/* of packed */
	LogqCacheValue value;
} LogqCached;

struct LogqCacheRun;

/* A look-up in Redis that is under way */
typedef struct LogqCacheLookup
{
	struct LogqCacheRun *run;
	LogqRedisLookup *redis;		/* NULL: this is free */
	LogqCached **entries;		/* in the order of its keys */
	int			nentries;
} LogqCacheLookup;

/* The cache, for one run of a scan */
typedef struct LogqCacheRun
{
	bool		reads;			/* else all is asked anew, and stored */
	bool		collecting;		/* look-ups of all streams go together */
	struct LogqScanState *state;
	MemoryContext cxt;			/* of the run */
	LogqCanon	canon;			/* canon.text NULL: not made yet */
	size_t		held;			/* bytes of packed values */
	LogqCached **collected;
	int			ncollected;
	int			collected_size;
	LogqCacheLookup lookups[LOGQ_MAX_LOOKUPS];
} LogqCacheRun;

/* ---------- cachekey.c ---------- */

/*
 * Give fragments [from, to) of the stream's their keys.  Some have none: they
 * are of open segments, or not of rows.
 */
extern void logq_cache_keys(LogqStream *stream, int from, int to);

/* ---------- cache.c ---------- */

/*
 * A run begins: its parameters have values, and its streams have been set up.
 * Those that can use the cache do.  Call with run_cxt current.
 */
extern void logq_cache_begin_run(struct LogqScanState *state);
/* no value is written to memory of the run any more; never throws */
extern void logq_cache_forget_run(struct LogqScanState *state);
/* a look-up is under way, which may be waited for */
extern bool logq_cache_waits_for_redis(const struct LogqScanState *state);

/* take what Redis has sent; never throws */
extern void logq_cache_poll(struct LogqScanState *state);

/* the stream's fragments were chosen */
extern void logq_cache_planned(LogqStream *stream);
/*
 * Before the next request: must Redis be waited for?  Sets wake_at then.
 */
extern bool logq_cache_must_wait(LogqStream *stream);
/*
 * Up to so many of the next fragments were to be asked together: how many it
 * is now.  Sets local_batch when none of these must be.
 */
extern int	logq_cache_limit_batch(LogqStream *stream, int size);

/* is this a connection of the user in whose name fragments were looked up? */
extern bool logq_cache_is_user(const LogqStream *stream,
							   const LogqConn *conn);
/* it is about to be asked; if it is not, nothing is cached, or will be */
extern void logq_cache_check_user(LogqStream *stream, const LogqConn *conn);

/* from this batch on, is there nothing that must be asked? */
extern bool logq_cache_has_rest(const LogqStream *stream);

/* is the fragment in the cache, so that it is not asked? */
static inline bool
logq_fragment_is_cached(const LogqFragment *fragment)
{
	return fragment->cached != NULL &&
		fragment->cached->state == LOGQ_CACHED_HIT;
}

/* can the next fragment of this batch be handed out from the cache? */
extern bool logq_cache_is_next(const LogqStream *stream);
/* decode its next row; false: it has come to its end, and counts as done */
extern bool logq_cache_row(LogqStream *stream);

/* ---------- cachestore.c ---------- */

/* a request has been sent */
extern void logq_cache_sent(LogqStream *stream);
/* a fragment begins to come, sends this, has come as a whole */
extern void logq_cache_begin_fragment(LogqStream *stream);
extern void logq_cache_keep(LogqStream *stream, const char *data, int len);
extern void logq_cache_end_fragment(LogqStream *stream);

#endif							/* LOGQ_CACHERUN_H */
