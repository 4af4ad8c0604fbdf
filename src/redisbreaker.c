/*-------------------------------------------------------------------------
 *
 * redisbreaker.c
 *		Is Redis to be asked, and is it to be written to?  As all sessions
 *		have seen it.
 *
 * An entry for each configuration (of a database, by what its options say): a
 * circuit breaker, and a state of its own for writing, as a full Redis or a
 * replica of one answers look-ups all the same.
 *
 * The breaker opens with the first failure: a query loses logq.cache_timeout
 * to each, and gains little by trying again.  After a time, doubled each time,
 * one session asks Redis again (a probe).  Only an answer to a probe closes the
 * breaker: what was asked before it opened may well be answered after, and must
 * not have it flap.  The same for writing, where one value is let through.
 *
 * Whoever changes the state under the lock writes the one line to the log, when
 * the lock is released; what statement that was in says nothing.  The lock
 * protects all entries; it is held for a few instructions, no other is taken
 * under it, and nothing here throws.
 *
 * Failure cases: a session that ends, or forgets its probe: another may try
 * when the time of the probe is over.  Without shared memory (the library was
 * not preloaded) each session goes by what it has seen itself.  When there is
 * no room, the entry that was not used for the longest time goes.
 *
 *-------------------------------------------------------------------------
 */
#include "redisint.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_ENTRIES 32
/* when to ask again, doubled each time */
#define MIN_PAUSE_MS 1000
#define MAX_PAUSE_MS 30000
/* what a probe may take before another may try, beyond logq.cache_timeout */
#define PROBE_SLACK_MS 1000

typedef enum State
{
	CLOSED,
	OPEN,
	HALF_OPEN
} State;

typedef struct Entry
{
	/* which configuration; the database is InvalidOid: free */
	Oid			database;
	Oid			serverid;
	uint64		hash;
	TimestampTz used_at;
	State		state;
	TimestampTz since;
	TimestampTz ask_at;			/* open: not before; half-open: then another */
	int			pause_ms;		/* after the next failure */
	int			prober;			/* half-open: its process */
	char		reason[LOGQ_REDIS_REASON_LEN];
	bool		read_only;
	TimestampTz refused_since;
	TimestampTz write_at;		/* read-only: not before */
	int			write_pause_ms;
	char		refusal[LOGQ_REDIS_REASON_LEN];
} Entry;

typedef struct Breakers
{
	Entry		entries[MAX_ENTRIES];
} Breakers;

/* the lock is NULL when they are our own */
static LWLock *lock = NULL;
static Breakers *breakers = NULL;

Size
logq_redis_shmem_size(void)
{
	return sizeof(Breakers);
}

void
logq_redis_shmem_startup(LWLock *its_lock)
{
	bool		found;

	breakers = ShmemInitStruct("logq Redis", sizeof(Breakers), &found);
	if (!found)
		MemSet(breakers, 0, sizeof(Breakers));
	lock = its_lock;
}

static void
lock_entries(LWLockMode mode)
{
	static Breakers our_own;

	if (breakers == NULL)
		breakers = &our_own;
	if (lock != NULL)
		LWLockAcquire(lock, mode);
}

static void
unlock_entries(void)
{
	if (lock != NULL)
		LWLockRelease(lock);
}

/*
 * The entry of a configuration, or NULL.  With the lock held, exclusively to
 * make one.
 */
static Entry *
find_entry(const LogqRedisConfig *config, bool make)
{
	Entry	   *oldest = &breakers->entries[0];

	for (int i = 0; i < MAX_ENTRIES; i++)
	{
		Entry	   *entry = &breakers->entries[i];

		if (entry->database == MyDatabaseId &&
			entry->serverid == config->serverid &&
			entry->hash == config->hash)
			return entry;
		if (entry->used_at < oldest->used_at)
			oldest = entry;
	}
	if (!make)
		return NULL;
	MemSet(oldest, 0, sizeof(Entry));
	oldest->database = MyDatabaseId;
	oldest->serverid = config->serverid;
	oldest->hash = config->hash;
	oldest->used_at = logq_now();
	oldest->pause_ms = MIN_PAUSE_MS;
	oldest->write_pause_ms = MIN_PAUSE_MS;
	return oldest;
}

/*
 * Keep a reason, in one line of characters that are whole.
 */
static void
set_reason(char *to, const char *reason)
{
	int			len = pg_mbcliplen(reason, strlen(reason),
								   LOGQ_REDIS_REASON_LEN - 1);

	for (int i = 0; i < len; i++)
		to[i] = (unsigned char) reason[i] < ' ' ? ' ' : reason[i];
	to[len] = '\0';
}

/* ---------- asking ---------- */

/*
 * May this session ask, or would it be the one to probe?
 */
static LogqRedisAsk
ask_entry(const Entry *entry, TimestampTz now)
{
	if (entry == NULL || entry->state == CLOSED)
		return LOGQ_REDIS_ASK;
	if (entry->state == HALF_OPEN && entry->prober == MyProcPid)
		return LOGQ_REDIS_PROBE;
	return now >= entry->ask_at ? LOGQ_REDIS_PROBE : LOGQ_REDIS_ASK_NOT;
}

bool
logq_redis_may_ask(const LogqRedisConfig *config)
{
	LogqRedisAsk ask;

	lock_entries(LW_SHARED);
	ask = ask_entry(find_entry(config, false), logq_now());
	unlock_entries();
	return ask != LOGQ_REDIS_ASK_NOT;
}

LogqRedisAsk
logq_redis_begin_ask(const LogqRedisConfig *config)
{
	TimestampTz now = logq_now();
	LogqRedisAsk ask;
	Entry	   *entry;

	/* as a rule there is nothing to be changed */
	lock_entries(LW_SHARED);
	entry = find_entry(config, false);
	ask = ask_entry(entry, now);
	unlock_entries();
	if (ask != LOGQ_REDIS_PROBE)
		return ask;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(config, false);
	ask = ask_entry(entry, now);
	if (ask == LOGQ_REDIS_PROBE)
	{
		entry->used_at = now;
		entry->state = HALF_OPEN;
		entry->prober = MyProcPid;
		entry->ask_at =
			TimestampTzPlusMilliseconds(now,
										logq_cache_timeout + PROBE_SLACK_MS);
	}
	unlock_entries();
	return ask;
}

/*
 * It has failed.  Others than the one who probes have nothing new to say once
 * the breaker is open.
 */
void
logq_redis_failed(const LogqRedisConfig *config, bool probe,
				  const char *reason)
{
	TimestampTz now = logq_now();
	char		clean[LOGQ_REDIS_REASON_LEN];
	bool		opened = false;
	Entry	   *entry;

	set_reason(clean, reason);
	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(config, true);
	if (entry->state == CLOSED ||
		(probe && entry->state == HALF_OPEN && entry->prober == MyProcPid))
	{
		opened = entry->state == CLOSED;
		if (opened)
			entry->since = now;
		entry->used_at = now;
		entry->state = OPEN;
		entry->ask_at = TimestampTzPlusMilliseconds(now, entry->pause_ms);
		entry->pause_ms = Min(entry->pause_ms * 2, MAX_PAUSE_MS);
		strlcpy(entry->reason, clean, LOGQ_REDIS_REASON_LEN);
	}
	unlock_entries();
	if (opened)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errhidestmt(true), errhidecontext(true),
				 errmsg("Redis at \"%s\" is not asked any more until it answers: %s",
						config->address, clean)));
}

/*
 * The probe has been answered.
 */
void
logq_redis_answered(const LogqRedisConfig *config)
{
	TimestampTz now = logq_now();
	bool		closed = false;
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(config, false);
	if (entry != NULL && entry->state != CLOSED)
	{
		closed = true;
		entry->used_at = now;
		entry->state = CLOSED;
		entry->since = now;
		entry->pause_ms = MIN_PAUSE_MS;
		entry->reason[0] = '\0';
	}
	unlock_entries();
	if (closed)
		ereport(LOG,
				(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
				 errhidestmt(true), errhidecontext(true),
				 errmsg("Redis at \"%s\" answers again",
						config->address)));
}

void
logq_redis_abandon_probe(void)
{
	lock_entries(LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENTRIES; i++)
	{
		Entry	   *entry = &breakers->entries[i];

		if (entry->state == HALF_OPEN && entry->prober == MyProcPid)
		{
			entry->state = OPEN;
			entry->ask_at = 0;
		}
	}
	unlock_entries();
}

/* ---------- writing ---------- */

LogqRedisAsk
logq_redis_begin_write(const LogqRedisConfig *config)
{
	TimestampTz now = logq_now();
	LogqRedisAsk ask = LOGQ_REDIS_ASK;
	Entry	   *entry;

	lock_entries(LW_SHARED);
	entry = find_entry(config, false);
	if (entry != NULL && entry->read_only)
		ask = now >= entry->write_at ? LOGQ_REDIS_PROBE : LOGQ_REDIS_ASK_NOT;
	unlock_entries();
	if (ask != LOGQ_REDIS_PROBE)
		return ask;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(config, false);
	if (entry != NULL && entry->read_only && now < entry->write_at)
		ask = LOGQ_REDIS_ASK_NOT;
	else if (entry != NULL && entry->read_only)
	{
		/* for one value; should that not be answered, the next one will do */
		entry->used_at = now;
		entry->write_at =
			TimestampTzPlusMilliseconds(now, entry->write_pause_ms);
		entry->write_pause_ms = Min(entry->write_pause_ms * 2, MAX_PAUSE_MS);
	}
	unlock_entries();
	return ask;
}

/*
 * A value was refused.
 */
void
logq_redis_refused(const LogqRedisConfig *config, const char *reason)
{
	TimestampTz now = logq_now();
	char		clean[LOGQ_REDIS_REASON_LEN];
	bool		began = false;
	Entry	   *entry;

	set_reason(clean, reason);
	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(config, true);
	entry->used_at = now;
	strlcpy(entry->refusal, clean, LOGQ_REDIS_REASON_LEN);
	if (!entry->read_only)
	{
		began = true;
		entry->read_only = true;
		entry->refused_since = now;
		entry->write_at =
			TimestampTzPlusMilliseconds(now, entry->write_pause_ms);
		entry->write_pause_ms = Min(entry->write_pause_ms * 2, MAX_PAUSE_MS);
	}
	unlock_entries();
	if (began)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errhidestmt(true), errhidecontext(true),
				 errmsg("Redis at \"%s\" is not written to any more until it takes values: %s",
						config->address, clean)));
}

/*
 * The value that was let through was taken.
 */
void
logq_redis_taken(const LogqRedisConfig *config)
{
	bool		ended = false;
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(config, false);
	if (entry != NULL && entry->read_only)
	{
		ended = true;
		entry->read_only = false;
		entry->since = logq_now();
		entry->write_pause_ms = MIN_PAUSE_MS;
		entry->refusal[0] = '\0';
	}
	unlock_entries();
	if (ended)
		ereport(LOG,
				(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
				 errhidestmt(true), errhidecontext(true),
				 errmsg("Redis at \"%s\" takes values again",
						config->address)));
}

/* ---------- for logq.stat_cache ---------- */

/*
 * See cache.h.
 */
void
logq_redis_status(const char **state, char *reason, Size reason_len,
				  TimestampTz *since)
{
	const LogqRedisConfig *config = logq_redis_config();
	const Entry *entry;

	*state = "not configured";
	*since = 0;
	reason[0] = '\0';
	if (config == NULL)
		return;
	*state = "closed";
	/* of which nothing else may have taken notice yet */
	if (config->bad != NULL)
		logq_redis_failed(config, false, config->bad);
	lock_entries(LW_SHARED);
	entry = find_entry(config, false);
	if (entry != NULL && entry->state != CLOSED)
	{
		*state = entry->state == OPEN ? "open" : "half-open";
		*since = entry->since;
		strlcpy(reason, entry->reason, reason_len);
	}
	else if (entry != NULL && entry->read_only)
	{
		*state = "read-only";
		*since = entry->refused_since;
		strlcpy(reason, entry->refusal, reason_len);
	}
	else if (entry != NULL)
		*since = entry->since;
	unlock_entries();
}
