/*-------------------------------------------------------------------------
 *
 * hot_cache.c
 *		A module that test/t/032_hot_cache.pl has loaded into a server: the
 *		level of the cache in shared memory, without the rest of logq.
 *
 * It has src/hotcache.c in it, so functions here see its insides.  Values say
 * what they are: a value's bytes follow from its key's number and from what
 * the writer drew for it, and each read looks at all of them.
 *
 * hot_pin() and hot_unpin() take logq_hot_get() apart, for tests to do
 * something in the midst of it.
 *
 *-------------------------------------------------------------------------
 */
#include "hotcache.c"

#include <math.h>

#include "access/xact.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "sketch.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

PG_FUNCTION_INFO_V1(hot_put);
PG_FUNCTION_INFO_V1(hot_get);
PG_FUNCTION_INFO_V1(hot_remove);
PG_FUNCTION_INFO_V1(hot_clear);
PG_FUNCTION_INFO_V1(hot_seen);
PG_FUNCTION_INFO_V1(hot_usage);
PG_FUNCTION_INFO_V1(hot_pin);
PG_FUNCTION_INFO_V1(hot_unpin);
PG_FUNCTION_INFO_V1(hot_counted);
PG_FUNCTION_INFO_V1(hot_run);
PG_FUNCTION_INFO_V1(hot_check);
PG_FUNCTION_INFO_V1(hot_private);

/* what a value has before the bytes that follow from it */
typedef struct ValueHead
{
	int64		number;
	uint64		seed;
	uint64		len;
} ValueHead;

int			logq_hot_cache_size = 1;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static int64 counted[LOGQ_NCACHE_COUNTERS];

/* of hot_pin() */
static uint32 pinned = NO_CHUNK;
static Size pinned_len;
static int64 pinned_number;

/*
 * In place of cachestat.c; of this session alone.
 */
void
logq_cache_count(LogqCacheLevel level, LogqCacheCounter counter, int64 n)
{
	counted[counter] += n;
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(logq_hot_shmem_size());
	RequestNamedLWLockTranche("hot_cache", 1);
}

static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	logq_hot_shmem_startup(&GetNamedLWLockTranche("hot_cache")->lock);
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	DefineCustomIntVariable("hot_cache.size", "Size of the cache.", NULL,
							&logq_hot_cache_size, 1, 0, 65536, PGC_POSTMASTER,
							GUC_UNIT_MB, NULL, NULL, NULL);
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* ---------- values ---------- */

/*
 * Four negative numbers each have one bucket; -1 to -3 have that of 0.
 */
static LogqCacheKey
key_of(int64 number)
{
	LogqCacheKey key;
	uint64		hash = logq_hash(&number, sizeof(number));
	int64		fourth = number / 4;

	memset(key.bytes, 0, sizeof(key.bytes));
	memcpy(key.bytes + 8, &hash, sizeof(hash));
	if (number < 0)
		hash = logq_hash(&fourth, sizeof(fourth));
	memcpy(key.bytes, &hash, sizeof(hash));
	return key;
}

/*
 * Byte i of a value.  Both its chunk and its place in it matter.
 */
static inline char
byte_of(uint64 seed, Size i)
{
	return (char) (seed >> (i & 7) * 8 ^ i ^ i >> 9);
}

static void
make_value(int64 number, uint64 seed, char *value, Size len)
{
	ValueHead	head = {number, seed, len};

	memcpy(value, &head, Min(len, sizeof(head)));
	for (Size i = sizeof(head); i < len; i++)
		value[i] = byte_of(seed, i);
}

static void
check_value(int64 number, const char *value, Size len)
{
	ValueHead	head = {0};

	memcpy(&head, value, Min(len, sizeof(head)));
	if (head.number != number || head.len != len)
		elog(ERROR, "value of %lld with %zu bytes instead of one of %lld with %zu",
			 (long long) head.number, (Size) head.len, (long long) number, len);
	for (Size i = sizeof(head); i < len; i++)
		if (value[i] != byte_of(head.seed, i))
			elog(ERROR, "byte %zu of %zu of a value of %lld is wrong",
				 i, len, (long long) number);
}

static void
put(int64 number, uint64 seed, Size len)
{
	LogqCacheKey key = key_of(number);
	char	   *value;

	len = Max(len, sizeof(ValueHead));
	value = palloc_extended(len, MCXT_ALLOC_HUGE);
	make_value(number, seed, value, len);
	logq_hot_put(&key, value, len);
	pfree(value);
}

static bool
get(int64 number, Size max_len)
{
	LogqCacheKey key = key_of(number);
	Size		len;
	char	   *value = logq_hot_get(&key, max_len, &len);

	if (value == NULL)
		return false;
	if (len > max_len)
		elog(ERROR, "%zu bytes are more than %zu", len, max_len);
	check_value(number, value, len);
	pfree(value);
	return true;
}

/* ---------- one call each ---------- */

/* hot_put(number bigint, len int) */
Datum
hot_put(PG_FUNCTION_ARGS)
{
	put(PG_GETARG_INT64(0), pg_prng_uint64(&pg_global_prng_state),
		PG_GETARG_INT32(1));
	PG_RETURN_VOID();
}

/* hot_get(number bigint, max_len int) returns boolean */
Datum
hot_get(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(get(PG_GETARG_INT64(0), PG_GETARG_INT32(1)));
}

/* hot_remove(number bigint) */
Datum
hot_remove(PG_FUNCTION_ARGS)
{
	LogqCacheKey key = key_of(PG_GETARG_INT64(0));

	logq_hot_remove(&key);
	PG_RETURN_VOID();
}

/* hot_clear() returns bigint */
Datum
hot_clear(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(logq_hot_clear());
}

/* hot_seen(number bigint) returns boolean */
Datum
hot_seen(PG_FUNCTION_ARGS)
{
	LogqCacheKey key = key_of(PG_GETARG_INT64(0));

	PG_RETURN_BOOL(logq_hot_seen(&key));
}

/* hot_usage() returns text: entries, bytes, limit; bytes of values */
Datum
hot_usage(PG_FUNCTION_ARGS)
{
	int64		entries;
	int64		bytes;
	int64		size_limit;
	int64		values = 0;

	logq_hot_usage(&entries, &bytes, &size_limit);
	if (hot != NULL)
	{
		LWLockAcquire(lock, LW_SHARED);
		for (uint32 i = hot->newest; i != NO_CHUNK; i = entry_at(i)->older)
			values += entry_at(i)->len;
		LWLockRelease(lock);
	}
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%lld %lld %lld %lld",
											  (long long) entries,
											  (long long) bytes,
											  (long long) size_limit,
											  (long long) values)));
}

/* hot_counted(counter int) returns bigint */
Datum
hot_counted(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(counted[PG_GETARG_INT32(0)]);
}

/* hot_pin(number bigint) returns boolean: begin to read */
Datum
hot_pin(PG_FUNCTION_ARGS)
{
	LogqCacheKey key = key_of(PG_GETARG_INT64(0));

	if (pinned != NO_CHUNK)
		elog(ERROR, "there is a pin already");
	pinned_number = PG_GETARG_INT64(0);
	pinned = pin(&key, MaxAllocSize, &pinned_len);
	PG_RETURN_BOOL(pinned != NO_CHUNK);
}

/* hot_unpin(): read it, and be done */
Datum
hot_unpin(PG_FUNCTION_ARGS)
{
	uint32		first = pinned;
	char	   *value;

	if (pinned == NO_CHUNK)
		elog(ERROR, "there is no pin");
	pinned = NO_CHUNK;
	value = palloc(pinned_len);
	read_value(first, value, pinned_len);
	unpin(first);
	check_value(pinned_number, value, pinned_len);
	PG_RETURN_VOID();
}

/* ---------- many ---------- */

/*
 * A length from low to high, each power of two as often as another.
 */
static Size
random_len(pg_prng_state *prng, double low, double high)
{
	return (Size) (low * pow(high / low, pg_prng_double(prng)));
}

/*
 * hot_run(seed bigint, ops int, keys int, max_len int, puts float8, others
 * float8) returns text: hits, misses, seconds.
 *
 * Reads, and the given shares of writes; and of removals, values that are
 * larger than is asked for, and, rarely, clearing.
 */
Datum
hot_run(PG_FUNCTION_ARGS)
{
	int			ops = PG_GETARG_INT32(1);
	int			nkeys = PG_GETARG_INT32(2);
	int			max_len = PG_GETARG_INT32(3);
	double		puts = PG_GETARG_FLOAT8(4);
	double		others = PG_GETARG_FLOAT8(5);
	int64		hits = 0;
	int64		misses = 0;
	pg_prng_state prng;
	instr_time	begun;
	instr_time	ended;

	pg_prng_seed(&prng, PG_GETARG_INT64(0));
	INSTR_TIME_SET_CURRENT(begun);
	for (int i = 0; i < ops; i++)
	{
		/* some are asked for more often than others */
		double		x = pg_prng_double(&prng);
		int64		number = (int64) (x * x * nkeys) - nkeys / 8;
		double		what = pg_prng_double(&prng);
		LogqCacheKey key = key_of(number);

		CHECK_FOR_INTERRUPTS();
		if (what < puts)
			put(number, pg_prng_uint64(&prng), random_len(&prng, 64, max_len));
		else if (what < puts + others)
		{
			switch (pg_prng_uint64_range(&prng, 0, 299))
			{
				case 0:
					(void) logq_hot_clear();
					break;
				case 1:
					put(number, 0, 1 << 20);
					break;
				default:
					if (what < puts + others / 2)
						logq_hot_remove(&key);
					else
						(void) get(number, random_len(&prng, 64, max_len));
					break;
			}
		}
		else if (get(number, MaxAllocSize))
			hits++;
		else
			misses++;
	}
	INSTR_TIME_SET_CURRENT(ended);
	INSTR_TIME_SUBTRACT(ended, begun);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%lld %lld %.6f",
											  (long long) hits,
											  (long long) misses,
											  INSTR_TIME_GET_DOUBLE(ended))));
}

/*
 * hot_private(): this session has a cache of its own from now on, for
 * measuring what a lock that many share costs.
 */
Datum
hot_private(PG_FUNCTION_ARGS)
{
	char	   *base = MemoryContextAllocHuge(TopMemoryContext, hot_size());
	HotState   *ours = (HotState *) base;

	*ours = *hot;
	buckets = (uint32 *) (base + CACHELINEALIGN(sizeof(HotState)));
	links = buckets + count_buckets();
	chunks = base + chunks_offset();
	ours->fresh = ours->nused = ours->nentries = 0;
	ours->free = ours->newest = ours->oldest = NO_CHUNK;
	memset(buckets, 0xff, ours->nbuckets * sizeof(uint32));
	hot = ours;
	lock = MemoryContextAlloc(TopMemoryContext, sizeof(LWLockPadded));
	LWLockInitialize(lock, LWTRANCHE_FIRST_USER_DEFINED);
	PG_RETURN_VOID();
}

/* ---------- is all in order? ---------- */

static bool
belongs(bool *taken, uint32 chunk)
{
	if (chunk >= hot->fresh || taken[chunk])
		return false;
	taken[chunk] = true;
	return true;
}

/*
 * What is wrong, NULL: nothing.  With the lock held, and nobody else at work.
 */
static const char *
find_fault(bool *taken, int64 *dead)
{
	uint32		nused = 0;
	uint32		nentries = 0;
	uint32		nfree = 0;
	uint32		before = NO_CHUNK;
	uint32		first;

	for (first = hot->newest; first != NO_CHUNK;
		 first = entry_at(first)->older)
	{
		Entry	   *entry = entry_at(first);
		uint32		chunk = first;
		uint32		n = chunks_of(entry->len);

		if (entry->newer != before)
			return "the list is not the same both ways";
		before = first;
		if (nentries++ > hot->nchunks)
			return "the list has no end";
		if (find_entry(&entry->key) != first)
			return "an entry of the list cannot be found";
		if ((pg_atomic_read_u32(&entry->state) & ~STATE_READ) != 0)
			return "an entry is pinned, or dead";
		for (uint32 i = 0;; chunk = links[chunk])
		{
			if (!belongs(taken, chunk))
				return "a chunk of an entry is somewhere else, too";
			nused++;
			if (++i == n)
				break;
		}
		if (chunk != entry->last)
			return "an entry has another last chunk";
	}
	if (hot->oldest != before)
		return "the list ends elsewhere";
	if (nentries != hot->nentries)
		return "the number of entries is wrong";

	for (uint32 i = 0; i < hot->nbuckets; i++)
		for (first = buckets[i]; first != NO_CHUNK;
			 first = entry_at(first)->bucket_next)
			if (nentries-- == 0 || !taken[first])
				return "a bucket has an entry that the list has not";
	if (nentries != 0)
		return "entries are missing in the buckets";

	for (first = hot->free; first != NO_CHUNK; first = links[first])
	{
		if (!belongs(taken, first))
			return "a free chunk is somewhere else, too";
		nfree++;
	}
	if (hot->fresh - nfree != hot->nused)
		return "the number of used chunks is wrong";
	*dead = hot->nused - nused;
	return NULL;
}

/*
 * hot_check() returns text: "ok", or what is wrong.  With the number of chunks
 * that no entry has, which readers and writers may have left behind.
 */
Datum
hot_check(PG_FUNCTION_ARGS)
{
	bool	   *taken = palloc0(hot->nchunks);
	int64		dead = 0;
	const char *fault;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	fault = find_fault(taken, &dead);
	LWLockRelease(lock);
	if (fault == NULL)
		fault = dead == 0 ? "ok" :
			psprintf("%lld chunks are lost", (long long) dead);
	PG_RETURN_TEXT_P(cstring_to_text(fault));
}
