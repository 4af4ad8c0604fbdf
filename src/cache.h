/*-------------------------------------------------------------------------
 *
 * cache.h
 *		What fragments of sealed segments brought, kept for those who ask the
 *		same again.
 *
 * Two levels: the coordinator's shared memory (hotcache.c), then Redis
 * (redis.c).  What is kept is the same in both: a packed value, which brings
 * along all that is needed to tell whether it is whole and undamaged.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CACHE_H
#define LOGQ_CACHE_H

#include "cachevalue.h"

#ifndef FRONTEND

#include "logq.h"

#include "storage/lwlock.h"

typedef enum LogqCacheMode
{
	LOGQ_CACHE_OFF,				/* neither read nor written */
	LOGQ_CACHE_ON,
	LOGQ_CACHE_REFRESH			/* written only: all is asked anew */
} LogqCacheMode;

extern int	logq_cache;			/* LogqCacheMode */
extern int	logq_cache_ttl;		/* s */
extern int	logq_cache_timeout; /* ms */
extern int	logq_cache_max_value;	/* kB, before packing */
#define LOGQ_CACHE_MAX_VALUE 16384	/* ... whatever is set */
extern double logq_cache_min_cost;	/* ms */
extern char *logq_cache_server; /* name of the foreign server, "": none */
extern int	logq_hot_cache_size;	/* MB, 0: none */

/* ---------- hotcache.c: the level in shared memory ---------- */

extern Size logq_hot_shmem_size(void);
/* called with AddinShmemInitLock held */
extern void logq_hot_shmem_startup(LWLock *lock);
/* is there any? */
extern bool logq_hot_available(void);
/*
 * A copy of the packed value, palloc'd; NULL: there is none, or it has more
 * than max_len bytes.  Whether it is fresh and undamaged is for the caller to
 * find out.
 */
extern char *logq_hot_get(const LogqCacheKey *key, Size max_len, Size *len);
/*
 * Keep a value, in place of the one that is there; the least recently used
 * ones make room.  Never throws; a value that does not fit is not kept.
 */
extern void logq_hot_put(const LogqCacheKey *key, const char *packed,
						 Size len);
extern void logq_hot_remove(const LogqCacheKey *key);
/*
 * Returns how many values went.  Forgets what logq_hot_seen() has noted, too.
 */
extern int64 logq_hot_clear(void);
/* for logq.stat_cache; bytes and size_limit are memory for values */
extern void logq_hot_usage(int64 *entries, int64 *bytes, int64 *size_limit);
/*
 * Has this key been seen here not long ago?  Notes it.  (By a table of some
 * thousands of hashes, which may forget, and may take one for another.)
 */
extern bool logq_hot_seen(const LogqCacheKey *key);

/* ---------- cachestat.c: counters, for logq.stat_cache ---------- */

typedef enum LogqCacheLevel
{
	LOGQ_CACHE_MEMORY,
	LOGQ_CACHE_REDIS,
	LOGQ_NCACHE_LEVELS
} LogqCacheLevel;

/*
 * Of the level in memory, hotcache.c counts stores, bytes_written, evictions
 * and, for what is more than a share of the memory, too_large; all else is for
 * those who call it.
 */
typedef enum LogqCacheCounter
{
	LOGQ_CACHE_HITS,
	LOGQ_CACHE_MISSES,
	LOGQ_CACHE_EXPIRED,			/* of the misses, too old */
	LOGQ_CACHE_DAMAGED,			/* of the misses, not to be read */
	LOGQ_CACHE_STORES,
	LOGQ_CACHE_TOO_CHEAP,		/* not stored: quickly asked again */
	LOGQ_CACHE_TOO_LARGE,		/* not stored */
	LOGQ_CACHE_EVICTIONS,		/* of memory, made room for others */
	LOGQ_CACHE_DROPPED,			/* of Redis, not stored: it took no more */
	LOGQ_CACHE_ERRORS,			/* of Redis: lost, refused, nonsense */
	LOGQ_CACHE_TIMEOUTS,		/* of Redis */
	LOGQ_CACHE_BYTES_READ,		/* packed */
	LOGQ_CACHE_BYTES_WRITTEN,	/* packed */
	LOGQ_CACHE_SAVED_US,		/* what hits had cost when they were asked */
	LOGQ_NCACHE_COUNTERS
} LogqCacheCounter;

/* never throws; does nothing without shared memory */
extern void logq_cache_count(LogqCacheLevel level, LogqCacheCounter counter,
							 int64 n);
extern void logq_cachestat_reset(void);
extern Size logq_cachestat_shmem_size(void);
extern void logq_cachestat_shmem_startup(void);

/* ---------- redis.c: the level in Redis ---------- */

extern Size logq_redis_shmem_size(void);
extern void logq_redis_shmem_startup(LWLock *lock);
/*
 * How it fares, for logq.stat_cache: "not configured", "closed" (all is well),
 * "open" (it is not asked), "half-open" (one session finds out whether it is
 * back), "read-only" (it refuses values).  *since is 0 when it has never been
 * otherwise.
 */
extern void logq_redis_status(const char **state, char *reason,
							  Size reason_len, TimestampTz *since);

/*
 * A value has come for the index-th key of a look-up.  The data are there for
 * the call only.  Must not throw.
 */
typedef void (*LogqRedisTake) (void *arg, int index, const char *data,
							   Size len);

typedef struct LogqRedisLookup LogqRedisLookup;

/* is there one, and is it to be asked?  Cheap; may read the system catalogs */
extern bool logq_redis_usable(void);
/*
 * Ask for the values of some keys.  Never waits: it connects, if it has to,
 * sends and reads while logq_redis_poll is called.  NULL: not now.
 */
extern LogqRedisLookup *logq_redis_lookup(const LogqCacheKey *keys, int nkeys,
										  LogqRedisTake take, void *arg);
/*
 * Go on.  True: it is over, no more values will come: all have, or Redis has
 * failed, or logq.cache_timeout has passed since it began.  Never waits, never
 * throws.
 */
extern bool logq_redis_poll(LogqRedisLookup *lookup);
/* when it will be over at the latest */
extern TimestampTz logq_redis_deadline(const LogqRedisLookup *lookup);
/* forget it, over or not; what still comes is thrown away.  Never throws. */
extern void logq_redis_forget(LogqRedisLookup *lookup);
/*
 * What to wait for, as long as a look-up is not over: PGINVALID_SOCKET when
 * there is nothing.  *generation changes whenever the socket does.
 */
extern pgsocket logq_redis_socket(uint32 *events, unsigned *generation);
/*
 * Write a value, to live for logq.cache_ttl.  Sends what can be sent without
 * waiting, keeps some of the rest for later calls, and drops it beyond that.
 * Never throws, never waits.
 */
extern void logq_redis_store(const LogqCacheKey *key, const char *packed,
							 Size len);
/* send more of what was kept, take the answers that are there */
extern void logq_redis_flush(void);

/* ---------- canon.c, canonrun.c: equal questions in one form ---------- */

struct LogqScanState;

/* What a scan's clauses say, of one run of it */
typedef struct LogqCanon
{
	/* rows lie within these by clauses that say nothing else; included */
	int64		ts_low;
	int64		ts_high;
	int64		id_low;
	int64		id_high;
	/* all other clauses, equal ones in equal words */
	char	   *text;
	/* some of them read the partition's name, which is not in the text */
	bool		names_partition;
} LogqCanon;

/*
 * At plan time: the clauses that are sent, for LOGQ_PLAN_CANON; parameters are
 * added to *params.
 */
extern List *logq_canon_clauses(const LogqShipContext *cxt, List *clauses,
								List **params);
/*
 * Once a run has its parameters evaluated, as values and as literals.  Call
 * with memory of the run current.
 */
extern void logq_canon_begin(struct LogqScanState *state, LogqCanon *canon);

#endif							/* FRONTEND */

#endif							/* LOGQ_CACHE_H */
