/*-------------------------------------------------------------------------
 *
 * cachestat.c
 *		Counters of the cache, and the view logq.stat_cache.
 *
 * Of all databases and sessions, since the coordinator was started or they
 * were reset.  They are counted without a lock, so one that is read while
 * others count may be a little ahead of another, and a reset may lose what
 * comes at the same time.
 *
 * Without the library in shared_preload_libraries nothing is counted, and the
 * view has no rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cache.h"

#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(logq_cache_status);
PG_FUNCTION_INFO_V1(logq_cache_reset_stats);

typedef struct LevelCounters
{
	pg_atomic_uint64 counters[LOGQ_NCACHE_COUNTERS];
} LevelCounters;

typedef struct CacheStats
{
	pg_atomic_uint64 reset_at;
	LevelCounters levels[LOGQ_NCACHE_LEVELS];
} CacheStats;

/* NULL when the library was not preloaded */
static CacheStats *stats = NULL;

static const char *const level_names[LOGQ_NCACHE_LEVELS] = {
	"memory", "redis"
};

Size
logq_cachestat_shmem_size(void)
{
	return MAXALIGN(sizeof(CacheStats));
}

/*
 * Called with AddinShmemInitLock held.
 */
void
logq_cachestat_shmem_startup(void)
{
	bool		found;

	stats = ShmemInitStruct("logq cache statistics", sizeof(CacheStats),
							&found);
	if (found)
		return;
	pg_atomic_init_u64(&stats->reset_at, GetCurrentTimestamp());
	for (int i = 0; i < LOGQ_NCACHE_LEVELS; i++)
		for (int j = 0; j < LOGQ_NCACHE_COUNTERS; j++)
			pg_atomic_init_u64(&stats->levels[i].counters[j], 0);
}

/*
 * See cache.h.
 */
void
logq_cache_count(LogqCacheLevel level, LogqCacheCounter counter, int64 n)
{
	if (stats != NULL)
		pg_atomic_fetch_add_u64(&stats->levels[level].counters[counter], n);
}

/*
 * Does a level count this?  What it cannot have is NULL rather than 0.
 */
static bool
is_counted(LogqCacheLevel level, LogqCacheCounter counter)
{
	switch (counter)
	{
		case LOGQ_CACHE_EVICTIONS:
			return level == LOGQ_CACHE_MEMORY;
		case LOGQ_CACHE_DROPPED:
		case LOGQ_CACHE_ERRORS:
		case LOGQ_CACHE_TIMEOUTS:
			return level == LOGQ_CACHE_REDIS;
		default:
			return true;
	}
}

/*
 * The state of a level, for its first columns: state, reason, since, entries,
 * bytes, size_limit.
 */
static void
level_state(LogqCacheLevel level, Datum *values, bool *nulls)
{
	memset(nulls, true, 6 * sizeof(bool));
	if (level == LOGQ_CACHE_MEMORY)
	{
		int64		entries;
		int64		bytes;
		int64		size_limit;

		logq_hot_usage(&entries, &bytes, &size_limit);
		values[0] = CStringGetTextDatum(logq_hot_available() ? "on" : "off");
		values[3] = Int64GetDatum(entries);
		values[4] = Int64GetDatum(bytes);
		values[5] = Int64GetDatum(size_limit);
		nulls[0] = nulls[3] = nulls[4] = nulls[5] = false;
	}
	else
	{
		const char *state;
		char		reason[512] = "";
		TimestampTz since = 0;

		logq_redis_status(&state, reason, sizeof(reason), &since);
		values[0] = CStringGetTextDatum(state);
		nulls[0] = false;
		/* it may name hosts */
		if (reason[0] != '\0' &&
			has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		{
			values[1] = CStringGetTextDatum(reason);
			nulls[1] = false;
		}
		if (since != 0)
		{
			values[2] = TimestampTzGetDatum(logq_wall_time(since));
			nulls[2] = false;
		}
	}
}

/*
 * logq.cache_status()
 */
Datum
logq_cache_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LogqCacheLevel level;

	InitMaterializedSRF(fcinfo, 0);
	if (stats == NULL)
		return (Datum) 0;

	for (level = 0; level < LOGQ_NCACHE_LEVELS; level++)
	{
		Datum		values[7 + LOGQ_NCACHE_COUNTERS + 1] = {0};
		bool		nulls[7 + LOGQ_NCACHE_COUNTERS + 1] = {false};
		int			n = 0;
		LogqCacheCounter c;
		TimestampTz reset_at;

		values[n++] = CStringGetTextDatum(level_names[level]);
		level_state(level, &values[n], &nulls[n]);
		n += 6;
		/* its columns have the order of LogqCacheCounter */
		for (c = 0; c < LOGQ_NCACHE_COUNTERS; c++, n++)
		{
			uint64		count =
				pg_atomic_read_u64(&stats->levels[level].counters[c]);

			nulls[n] = !is_counted(level, c);
			if (c == LOGQ_CACHE_SAVED_US)
				values[n] = Float8GetDatum(count / 1000.0);
			else
				values[n] = Int64GetDatum((int64) count);
		}
		reset_at = (TimestampTz) pg_atomic_read_u64(&stats->reset_at);
		values[n] = TimestampTzGetDatum(reset_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}

/*
 * See cache.h.
 */
void
logq_cachestat_reset(void)
{
	if (stats == NULL)
		return;
	for (int i = 0; i < LOGQ_NCACHE_LEVELS; i++)
		for (int j = 0; j < LOGQ_NCACHE_COUNTERS; j++)
			pg_atomic_write_u64(&stats->levels[i].counters[j], 0);
	pg_atomic_write_u64(&stats->reset_at, GetCurrentTimestamp());
}

/*
 * logq.cache_reset_stats()
 */
Datum
logq_cache_reset_stats(PG_FUNCTION_ARGS)
{
	logq_cachestat_reset();
	PG_RETURN_VOID();
}
