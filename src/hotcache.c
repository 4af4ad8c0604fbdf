/*-------------------------------------------------------------------------
 *
 * hotcache.c
 *		Cached values in shared memory.
 *
 * The memory is cut into chunks of 512 bytes.  A value is a chain of them,
 * with its Entry at the beginning of the first.  So any free chunk will do
 * for any value, memory cannot be fragmented, what is thrown away is just
 * what has to be, and each value wastes half a chunk on average.  A dsa_area
 * was considered: above 8 kB it needs runs of pages that lie side by side, and
 * an area that is always full hardly has any, so that it would refuse while
 * much is free; below, its size classes waste more than half a chunk does.
 * The length of the chain is that of the value, so the links need no end; they
 * lie in an array of their own, where following them is cheap.
 *
 * Who makes room: the list of entries is in order of arrival, and one that has
 * been read since it was last looked at gets a second chance (CLOCK).  That
 * way a look-up changes nothing but the entry's own state word, and look-ups
 * share the lock.
 *
 * A reader pins the entry, copies it without the lock, and unpins it.  A
 * writer takes chunks, which then are nobody else's, fills them without the
 * lock, and lets the entry be found.  Between the two nothing can throw, and
 * nothing looks for interrupts, so no error leaves a pin or a chunk behind.  A
 * process that dies there takes all shared memory with it.
 *
 * Invariants, under the lock: an entry that can be found is in one bucket and
 * in the list, and is not dead.  A dead one is in neither; it was pinned when
 * it was removed, and its last reader frees it.  Every chunk is free, or in an
 * entry, or in the hands of one writer; "nused" counts the latter two.
 *
 * Locks: one, the last to be taken.  It is held for BATCH steps at most; work
 * that takes more lets go of it in between.  Parts with locks of their own
 * would not pay: eight sessions on two cores that do nothing else make 1.4 to
 * 1.6 million look-ups and writes a second, and with a whole cache each they
 * make 2.4 to 2.9.  That is 0.3 us of each, where what is looked up stands for
 * a request of hundreds.
 *
 * Failure cases: no memory for the copy: not found.  All entries pinned, or
 * too many of them in the way: the value is not kept.  Without the library in
 * shared_preload_libraries, or with logq.hot_cache_size = 0, nothing is kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cache.h"

#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#define CHUNK_SIZE 512
#define NO_CHUNK PG_UINT32_MAX

/* what is done at most until the lock is let go of */
#define BATCH 64
/* taking a free chunk is less than throwing an entry out */
#define TAKE_BATCH 1024
/* entries that a writer spares because they were read */
#define MAX_CHANCES 256
/* what a writer looks at in vain, beyond what it needs */
#define SPARE_STEPS 512

/* a value may take this share of the memory */
#define MAX_SHARE 8

/* of Entry.state; the rest are pins */
#define STATE_DEAD (UINT32_C(1) << 31)
#define STATE_READ (UINT32_C(1) << 30)	/* since it was last looked at */
#define STATE_PINS (STATE_READ - 1)

typedef struct Entry
{
	LogqCacheKey key;
	uint32		len;
	pg_atomic_uint32 state;
	uint32		last;			/* chunk of the chain */
	/* other entries, by their first chunks */
	uint32		bucket_next;
	uint32		newer;
	uint32		older;
} Entry;

/* where an entry's value begins in its first chunk */
#define VALUE_AT MAXALIGN(sizeof(Entry))

typedef struct HotState
{
	uint32		nchunks;
	uint32		nbuckets;		/* a power of 2 */
	uint32		fresh;			/* from here on none was ever used */
	uint32		free;			/* first of the others that are free */
	uint32		nused;
	uint32		nentries;		/* that can be found */
	uint32		newest;
	uint32		oldest;
} HotState;

/* Chunks in a writer's hands */
typedef struct Chain
{
	uint32		n;
	uint32		first;
	uint32		last;
} Chain;

/*
 * Keys that were seen.  One with its place in a set may lose it to those that
 * come later; a single place would let two keys that share it drive each other
 * out for ever.
 */
#define SEEN_SETS 2048
#define SEEN_WAYS 8

typedef pg_atomic_uint64 SeenSet[SEEN_WAYS];

/* all NULL when the library was not preloaded, or there is to be no level */
static LWLock *lock = NULL;
static HotState *hot = NULL;
static uint32 *buckets = NULL;	/* first chunk of their first entries */
static uint32 *links = NULL;	/* next chunk, of each */
static char *chunks = NULL;

/* in shared memory, else of this process */
static SeenSet *seen = NULL;
static SeenSet own_seen[SEEN_SETS];

/* ---------- memory ---------- */

static uint32
count_chunks(void)
{
	return (uint32) logq_hot_cache_size * (1024 * 1024 / CHUNK_SIZE);
}

/*
 * For two entries a bucket, should each be a single chunk.
 */
static uint32
count_buckets(void)
{
	return pg_nextpower2_32(Max(count_chunks() / 2, 1));
}

static Size
chunks_offset(void)
{
	Size		size = CACHELINEALIGN(sizeof(HotState));

	size = add_size(size, mul_size(count_buckets(), sizeof(uint32)));
	size = add_size(size, mul_size(count_chunks(), sizeof(uint32)));
	return CACHELINEALIGN(size);
}

static Size
hot_size(void)
{
	return add_size(chunks_offset(), mul_size(count_chunks(), CHUNK_SIZE));
}

Size
logq_hot_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(SeenSet) * SEEN_SETS);

	if (logq_hot_cache_size > 0)
		size = add_size(size, hot_size());
	return size;
}

static void
init_seen(SeenSet *sets)
{
	for (int i = 0; i < SEEN_SETS; i++)
		for (int j = 0; j < SEEN_WAYS; j++)
			pg_atomic_init_u64(&sets[i][j], 0);
}

void
logq_hot_shmem_startup(LWLock *our_lock)
{
	char	   *base;
	bool		found;

	seen = ShmemInitStruct("logq seen keys", sizeof(SeenSet) * SEEN_SETS,
						   &found);
	if (!found)
		init_seen(seen);
	if (logq_hot_cache_size == 0)
		return;

	base = ShmemInitStruct("logq hot cache", hot_size(), &found);
	hot = (HotState *) base;
	buckets = (uint32 *) (base + CACHELINEALIGN(sizeof(HotState)));
	links = buckets + count_buckets();
	chunks = base + chunks_offset();
	lock = our_lock;
	if (found)
		return;
	MemSet(hot, 0, sizeof(HotState));
	hot->nchunks = count_chunks();
	hot->nbuckets = count_buckets();
	hot->free = NO_CHUNK;
	hot->newest = NO_CHUNK;
	hot->oldest = NO_CHUNK;
	/* chunks and their links are first written when they are first used */
	memset(buckets, 0xff, hot->nbuckets * sizeof(uint32));
}

bool
logq_hot_available(void)
{
	return hot != NULL;
}

/* ---------- chunks ---------- */

static char *
chunk_at(uint32 chunk)
{
	return chunks + (Size) chunk * CHUNK_SIZE;
}

static Entry *
entry_at(uint32 first)
{
	return (Entry *) chunk_at(first);
}

static Size
largest_value(void)
{
	return Min((Size) hot->nchunks * CHUNK_SIZE / MAX_SHARE, MaxAllocSize);
}

/*
 * How many chunks an entry with so long a value has.
 */
static uint32
chunks_of(Size len)
{
	return (VALUE_AT + len + CHUNK_SIZE - 1) / CHUNK_SIZE;
}

/*
 * Add up to n free chunks to a writer's chain.  With the lock held.
 */
static void
take_chunks(Chain *chain, uint32 n)
{
	for (; n > 0; n--)
	{
		uint32		chunk = hot->free;

		if (chunk != NO_CHUNK)
			hot->free = links[chunk];
		else if (hot->fresh < hot->nchunks)
			chunk = hot->fresh++;
		else
			return;
		hot->nused++;
		if (chain->n++ == 0)
			chain->first = chunk;
		else
			links[chain->last] = chunk;
		chain->last = chunk;
	}
}

/*
 * With the lock held.
 */
static void
free_chunks(uint32 first, uint32 last, uint32 n)
{
	Assert(hot->nused >= n);
	links[last] = hot->free;
	hot->free = first;
	hot->nused -= n;
}

static void
free_entry(uint32 first)
{
	const Entry *entry = entry_at(first);

	free_chunks(first, entry->last, chunks_of(entry->len));
}

/*
 * Copy a value out of its chunks.  Its entry is pinned.
 */
static void
read_value(uint32 first, char *to, Size len)
{
	uint32		chunk = first;
	Size		at = VALUE_AT;

	for (;;)
	{
		Size		n = Min(len, CHUNK_SIZE - at);

		memcpy(to, chunk_at(chunk) + at, n);
		to += n;
		len -= n;
		if (len == 0)
			return;
		chunk = links[chunk];
		at = 0;
	}
}

/*
 * Copy a value into chunks that only we have.
 */
static void
write_value(uint32 first, const char *from, Size len)
{
	uint32		chunk = first;
	Size		at = VALUE_AT;

	for (;;)
	{
		Size		n = Min(len, CHUNK_SIZE - at);

		memcpy(chunk_at(chunk) + at, from, n);
		from += n;
		len -= n;
		if (len == 0)
			return;
		chunk = links[chunk];
		at = 0;
	}
}

/* ---------- entries; all with the lock held ---------- */

/*
 * Keys are the beginning of a SHA-256, so any bits of them will do.
 */
static uint64
key_bits(const LogqCacheKey *key, int at)
{
	uint64		bits;

	memcpy(&bits, key->bytes + at, sizeof(bits));
	return bits;
}

static uint32 *
bucket_of(const LogqCacheKey *key)
{
	return &buckets[key_bits(key, 0) & (hot->nbuckets - 1)];
}

static bool
keys_equal(const LogqCacheKey *a, const LogqCacheKey *b)
{
	return memcmp(a->bytes, b->bytes, LOGQ_CACHE_KEY_LEN) == 0;
}

/*
 * First chunk of a key's entry.
 */
static uint32
find_entry(const LogqCacheKey *key)
{
	uint32		first = *bucket_of(key);

	while (first != NO_CHUNK && !keys_equal(&entry_at(first)->key, key))
		first = entry_at(first)->bucket_next;
	return first;
}

static void
push_newest(uint32 first)
{
	Entry	   *entry = entry_at(first);

	entry->newer = NO_CHUNK;
	entry->older = hot->newest;
	if (hot->newest != NO_CHUNK)
		entry_at(hot->newest)->newer = first;
	else
		hot->oldest = first;
	hot->newest = first;
}

static void
leave_list(const Entry *entry)
{
	if (entry->newer != NO_CHUNK)
		entry_at(entry->newer)->older = entry->older;
	else
		hot->newest = entry->older;
	if (entry->older != NO_CHUNK)
		entry_at(entry->older)->newer = entry->newer;
	else
		hot->oldest = entry->newer;
}

static void
add_entry(uint32 first)
{
	Entry	   *entry = entry_at(first);
	uint32	   *bucket = bucket_of(&entry->key);

	entry->bucket_next = *bucket;
	*bucket = first;
	push_newest(first);
	hot->nentries++;
}

/*
 * No new reader will find it.  Readers only unpin it meanwhile, so either we
 * see no pin any more, or the last of them sees that it is dead.
 */
static void
remove_entry(uint32 first)
{
	Entry	   *entry = entry_at(first);
	uint32	   *at = bucket_of(&entry->key);

	while (*at != first)
		at = &entry_at(*at)->bucket_next;
	*at = entry->bucket_next;
	leave_list(entry);
	hot->nentries--;
	if ((pg_atomic_fetch_or_u32(&entry->state, STATE_DEAD) & STATE_PINS) == 0)
		free_entry(first);
}

/*
 * Throw out the oldest entry, or let it be the newest: when it is being read,
 * or was, as long as there are chances.
 */
static bool
throw_out_oldest(int *chances)
{
	uint32		first = hot->oldest;
	Entry	   *entry = entry_at(first);
	uint32		state = pg_atomic_read_u32(&entry->state);

	if ((state & STATE_PINS) != 0 ||
		((state & STATE_READ) != 0 && *chances > 0))
	{
		if (*chances > 0)
			(*chances)--;
		pg_atomic_fetch_and_u32(&entry->state, ~STATE_READ);
		leave_list(entry);
		push_newest(first);
		return false;
	}
	remove_entry(first);
	return true;
}

/*
 * Throw out entries until n chunks are free, for a batch of steps.  Returns
 * how many went.
 */
static int
make_room(uint32 n, uint32 *steps, int *chances)
{
	int			gone = 0;

	for (int i = 0; i < BATCH && hot->nchunks - hot->nused < n; i++)
	{
		/* perhaps others hold it all */
		if (*steps == 0 || hot->oldest == NO_CHUNK)
		{
			*steps = 0;
			break;
		}
		(*steps)--;
		if (throw_out_oldest(chances))
			gone++;
	}
	return gone;
}

/* ---------- for others ---------- */

/*
 * First chunk of a key's entry, which stays as it is until it is unpinned.
 */
static uint32
pin(const LogqCacheKey *key, Size max_len, Size *len)
{
	uint32		first;

	LWLockAcquire(lock, LW_SHARED);
	first = find_entry(key);
	if (first != NO_CHUNK)
	{
		Entry	   *entry = entry_at(first);

		*len = entry->len;
		if (*len > max_len)
			first = NO_CHUNK;
		else if ((pg_atomic_fetch_add_u32(&entry->state, 1) & STATE_READ) == 0)
			pg_atomic_fetch_or_u32(&entry->state, STATE_READ);
	}
	LWLockRelease(lock);
	return first;
}

static void
unpin(uint32 first)
{
	uint32		state = pg_atomic_fetch_sub_u32(&entry_at(first)->state, 1);

	if ((state & STATE_DEAD) == 0 || (state & STATE_PINS) != 1)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	free_entry(first);
	LWLockRelease(lock);
}

/*
 * See cache.h.
 */
char *
logq_hot_get(const LogqCacheKey *key, Size max_len, Size *len)
{
	char	   *copy;
	uint32		first;

	if (hot == NULL)
		return NULL;
	first = pin(key, max_len, len);
	if (first == NO_CHUNK)
		return NULL;
	/* nothing may throw until it is unpinned */
	copy = MemoryContextAllocExtended(CurrentMemoryContext, *len,
									  MCXT_ALLOC_NO_OOM);
	if (copy != NULL)
		read_value(first, copy, *len);
	unpin(first);
	return copy;
}

/*
 * Fill an empty chain with n chunks.  False, and none: there are not that many
 * to be had.
 */
static bool
get_room(Chain *chain, uint32 n)
{
	uint32		steps = 2 * n + SPARE_STEPS;
	int			chances = MAX_CHANCES;
	int			gone = 0;

	while (chain->n < n && steps > 0)
	{
		LWLockAcquire(lock, LW_EXCLUSIVE);
		gone += make_room(n - chain->n, &steps, &chances);
		take_chunks(chain, Min(n - chain->n, TAKE_BATCH));
		LWLockRelease(lock);
	}
	if (gone > 0)
		logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_EVICTIONS, gone);
	if (chain->n == n)
		return true;
	if (chain->n > 0)
	{
		LWLockAcquire(lock, LW_EXCLUSIVE);
		free_chunks(chain->first, chain->last, chain->n);
		LWLockRelease(lock);
	}
	return false;
}

/*
 * See cache.h.  Nothing here may throw.
 */
void
logq_hot_put(const LogqCacheKey *key, const char *packed, Size len)
{
	Chain		chain = {0, NO_CHUNK, NO_CHUNK};
	Entry	   *entry;
	uint32		old;

	if (hot == NULL || len == 0)
		return;
	if (len > largest_value())
	{
		logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_TOO_LARGE, 1);
		return;
	}
	if (!get_room(&chain, chunks_of(len)))
		return;

	entry = entry_at(chain.first);
	entry->key = *key;
	entry->len = len;
	entry->last = chain.last;
	pg_atomic_init_u32(&entry->state, 0);
	write_value(chain.first, packed, len);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	old = find_entry(key);
	if (old != NO_CHUNK)
		remove_entry(old);
	add_entry(chain.first);
	LWLockRelease(lock);
	logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_STORES, 1);
	logq_cache_count(LOGQ_CACHE_MEMORY, LOGQ_CACHE_BYTES_WRITTEN, len);
}

/*
 * See cache.h.
 */
void
logq_hot_remove(const LogqCacheKey *key)
{
	uint32		first;

	if (hot == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	first = find_entry(key);
	if (first != NO_CHUNK)
		remove_entry(first);
	LWLockRelease(lock);
}

/*
 * See cache.h.  By buckets, for in the list an entry may move to where we have
 * been; what comes while we are at it may stay or go.  Keys that were seen are
 * forgotten, too.
 */
int64
logq_hot_clear(void)
{
	int64		gone = 0;

	if (seen != NULL)
		for (int i = 0; i < SEEN_SETS; i++)
			for (int j = 0; j < SEEN_WAYS; j++)
				pg_atomic_write_u64(&seen[i][j], 0);
	if (hot == NULL)
		return 0;

	for (uint32 i = 0; i < hot->nbuckets;)
	{
		uint32		end = Min(i + BATCH, hot->nbuckets);

		LWLockAcquire(lock, LW_EXCLUSIVE);
		for (; i < end; i++)
			for (; buckets[i] != NO_CHUNK; gone++)
				remove_entry(buckets[i]);
		LWLockRelease(lock);
	}
	return gone;
}

/*
 * See cache.h.
 */
void
logq_hot_usage(int64 *entries, int64 *bytes, int64 *size_limit)
{
	*entries = *bytes = *size_limit = 0;
	if (hot == NULL)
		return;
	LWLockAcquire(lock, LW_SHARED);
	*entries = hot->nentries;
	*bytes = (int64) hot->nused * CHUNK_SIZE;
	*size_limit = (int64) hot->nchunks * CHUNK_SIZE;
	LWLockRelease(lock);
}

/*
 * See cache.h.  Without a lock: when two meet in a set, one of their keys may
 * get lost, or another one's.
 */
bool
logq_hot_seen(const LogqCacheKey *key)
{
	pg_atomic_uint64 *set;
	uint64		hash = key_bits(key, 8);

	if (seen == NULL)
	{
		init_seen(own_seen);
		seen = own_seen;
	}
	set = seen[key_bits(key, 0) % SEEN_SETS];
	/* 0: a free place */
	if (hash == 0)
		hash = 1;
	for (int i = 0; i < SEEN_WAYS; i++)
		if (pg_atomic_read_u64(&set[i]) == hash)
			return true;
	for (int i = SEEN_WAYS - 1; i > 0; i--)
		pg_atomic_write_u64(&set[i], pg_atomic_read_u64(&set[i - 1]));
	pg_atomic_write_u64(&set[0], hash);
	return false;
}
