/*-------------------------------------------------------------------------
 *
 * health.c
 *		How the servers of partitions fare, as all sessions have seen it.
 *
 * One entry for each server of a partition (its primary and each replica), by
 * its address: moving average and distribution of how long it takes to the
 * first result, a circuit breaker, and for primaries how far they had written
 * WAL at which time, against which replicas are measured.
 *
 * The breaker opens after MAX_FAILURES failures in a row, at once when a
 * server was silent up to a deadline, and when it was overtaken by the second
 * request MAX_OVERTAKEN times in a row.  While it is open, queries go to
 * other servers; from time to time one session may probe it, in the background.
 * Any answer closes it.  A server that has stopped in the middle of an answer is
 * not blamed: what it did may just have taken long.
 *
 * Second requests are paid for from a purse of the partition: each ordinary
 * request puts in a twentieth.
 *
 * All is protected by one lock, held for a few instructions, while nothing
 * else is waited for.  Nothing here throws.  Without shared memory (the library
 * was not preloaded) each session goes by what it has seen itself.
 *
 * Failure cases: when there is no room for an entry, the server counts as
 * healthy, and unknown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "health.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "admission.h"

PG_FUNCTION_INFO_V1(logq_server_status);

#define MAX_ENTRIES 512
/* columns of logq.server_status(), and those of them about the catalog */
#define STATUS_COLUMNS 29
#define CATALOG_COLUMNS 7
/* what opens a breaker */
#define MAX_FAILURES 3
#define MAX_OVERTAKEN 3
/* when to probe, doubled each time */
#define MIN_PROBE_MS 500
#define MAX_PROBE_MS 5000
/* what a probe may take before another one may try, beyond connect_timeout */
#define PROBE_SLACK_MS 1000
/* purse of second requests */
#define HEDGE_SHARE 0.05
#define MAX_HEDGES 10.0
/* enough at first for a breaker to open */
#define FIRST_HEDGES MAX_OVERTAKEN
/* weight of a new value in the average */
#define LATENCY_WEIGHT 0.1
/* so many values must there be of a distribution to speak of */
#define MIN_VALUES 20
/* beyond so many the past counts half */
#define MAX_VALUES 1024

/* times in buckets of a quarter octave, from 1/16 ms up to a minute */
#define NBUCKETS 80
#define FIRST_BUCKET_LOG2 (-4)

typedef struct Distribution
{
	uint32		total;
	uint16		count[NBUCKETS];
} Distribution;

/* how far the primary had written, about twice a second */
#define NSAMPLES 128
#define SAMPLE_MS 500

typedef struct WalSample
{
	XLogRecPtr	lsn;
	TimestampTz at;
} WalSample;

typedef struct EntryKey
{
	Oid			database;
	Oid			serverid;
	char		address[LOGQ_ADDRESS_LEN];
} EntryKey;

typedef struct Entry
{
	EntryKey	key;
	LogqHealth	health;
	Distribution answers;
	Distribution connects;
	char		last_error[256];	/* also when it is well since */
	TimestampTz last_error_at;	/* 0: there was none */
	int			overtaken;		/* in a row */
	TimestampTz probe_at;		/* open: not before */
	int			probe_ms;		/* wait after the next failure */
	TimestampTz probe_until;	/* half-open: then another may try */
	TimestampTz used_at;		/* who is not, makes room */
	double		purse;			/* of a primary: second requests */
	WalSample	newest;			/* of a primary */
	TimestampTz noted_at;		/* when that was heard of */
	int			nsamples;
	int			next_sample;	/* in the ring */
	WalSample	samples[NSAMPLES];
} Entry;

static LWLock *lock = NULL;
static HTAB *entries = NULL;

Size
logq_health_shmem_size(void)
{
	return hash_estimate_size(MAX_ENTRIES, sizeof(Entry));
}

void
logq_health_shmem_startup(LWLock *our_lock)
{
	HASHCTL		ctl;

	ctl.keysize = sizeof(EntryKey);
	ctl.entrysize = sizeof(Entry);
	entries = ShmemInitHash("logq health", MAX_ENTRIES, MAX_ENTRIES, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	lock = our_lock;
}

static void
lock_entries(LWLockMode mode)
{
	if (entries == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(EntryKey);
		ctl.entrysize = sizeof(Entry);
		ctl.hcxt = TopMemoryContext;
		entries = hash_create("logq health", 16, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
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
 * Make room: the one that was not used for the longest time goes.
 */
static void
remove_oldest(void)
{
	HASH_SEQ_STATUS status;
	Entry	   *entry;
	Entry	   *oldest = NULL;

	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (oldest == NULL || entry->used_at < oldest->used_at)
			oldest = entry;
	if (oldest != NULL)
		(void) hash_search(entries, &oldest->key, HASH_REMOVE, NULL);
}

/*
 * The entry of a server, or NULL.  With the lock held, exclusively to make
 * one.
 */
static Entry *
find_entry(const LogqServers *servers, int server, bool make)
{
	EntryKey	key;
	Entry	   *entry;
	bool		found;

	key.database = MyDatabaseId;
	key.serverid = servers->serverid;
	memcpy(key.address, servers->servers[server].address, LOGQ_ADDRESS_LEN);
	entry = hash_search(entries, &key, HASH_FIND, NULL);
	if (entry != NULL || !make)
		return entry;
	if (hash_get_num_entries(entries) >= MAX_ENTRIES)
		remove_oldest();
	entry = hash_search(entries, &key,
						lock ? HASH_ENTER_NULL : HASH_ENTER, &found);
	if (entry == NULL)
		return NULL;
	MemSet((char *) entry + sizeof(EntryKey), 0,
		   sizeof(Entry) - sizeof(EntryKey));
	entry->health.latency_ms = -1;
	entry->health.p95_ms = -1;
	entry->health.connect_p95_ms = -1;
	entry->health.lag_ms = -1;
	entry->probe_ms = MIN_PROBE_MS;
	entry->purse = FIRST_HEDGES;
	entry->used_at = entry->health.since = logq_now();
	return entry;
}

/* ---------- distributions ---------- */

static void
add_value(Distribution *d, double ms)
{
	int			bucket = 0;

	if (ms > 0)
		bucket = (int) floor((log2(ms) - FIRST_BUCKET_LOG2) * 4);
	bucket = Min(Max(bucket, 0), NBUCKETS - 1);
	if (d->total >= MAX_VALUES)
	{
		d->total = 0;
		for (int i = 0; i < NBUCKETS; i++)
		{
			d->count[i] /= 2;
			d->total += d->count[i];
		}
	}
	d->count[bucket]++;
	d->total++;
}

/*
 * Upper bound of the bucket that the 95th of a hundred values lies in, -1 when
 * there are too few.
 */
static double
p95(const Distribution *d)
{
	double		rest = d->total * 0.05;

	if (d->total < MIN_VALUES)
		return -1;
	for (int i = NBUCKETS - 1; i > 0; i--)
	{
		if (d->count[i] > rest)
			return exp2(FIRST_BUCKET_LOG2 + (i + 1) / 4.0);
		rest -= d->count[i];
	}
	return exp2(FIRST_BUCKET_LOG2 + 0.25);
}

/*
 * It has taken so long to the first result.
 */
static void
add_answer(Entry *entry, double ms, TimestampTz now)
{
	LogqHealth *health = &entry->health;

	health->latency_ms = health->latency_ms < 0 ? ms :
		health->latency_ms + (ms - health->latency_ms) * LATENCY_WEIGHT;
	health->values = Min(health->values + 1, MAX_VALUES);
	health->measured_at = now;
	add_value(&entry->answers, ms);
	health->p95_ms = p95(&entry->answers);
}

/* ---------- what has been seen ---------- */

void
logq_health_get(const LogqServers *servers, LogqHealth *health)
{
	lock_entries(LW_SHARED);
	for (int i = 0; i < servers->n; i++)
	{
		const Entry *entry = find_entry(servers, i, false);

		if (entry != NULL)
		{
			health[i] = entry->health;
			continue;
		}
		MemSet(&health[i], 0, sizeof(LogqHealth));
		health[i].latency_ms = -1;
		health[i].p95_ms = -1;
		health[i].connect_p95_ms = -1;
		health[i].lag_ms = -1;
	}
	unlock_entries();
}

void
logq_health_asked(const LogqServers *servers, int server, bool extra)
{
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, true);
	if (entry != NULL)
	{
		entry->health.requests++;
		if (extra)
			entry->health.hedges++;
	}
	/* the purse is the primary's */
	if (server != 0)
		entry = find_entry(servers, 0, true);
	if (entry != NULL)
	{
		entry->used_at = logq_now();
		if (!extra)
			entry->purse = Min(entry->purse + HEDGE_SHARE, MAX_HEDGES);
	}
	unlock_entries();
}

bool
logq_health_spend_hedge(const LogqServers *servers)
{
	Entry	   *entry;
	bool		granted = false;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, 0, true);
	if (entry != NULL && entry->purse >= 1)
	{
		entry->purse -= 1;
		granted = true;
	}
	unlock_entries();
	return granted;
}

/*
 * Name of the partition that a server belongs to, for the log.
 */
static const char *
partition_name(const LogqServers *servers)
{
	LogqPartition *part = logq_known_partition(servers->serverid);

	return part != NULL ? part->name : "?";
}

void
logq_health_answered(const LogqServers *servers, int server, double ms,
					 double connect_ms)
{
	TimestampTz now = logq_now();
	bool		closed = false;
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, true);
	if (entry != NULL)
	{
		LogqHealth *health = &entry->health;

		entry->used_at = now;
		entry->overtaken = 0;
		health->failures = 0;
		health->answered_at = now;
		if (ms >= 0)
			add_answer(entry, ms, now);
		if (connect_ms >= 0)
		{
			add_value(&entry->connects, connect_ms);
			health->connect_p95_ms = p95(&entry->connects);
		}
		if (health->breaker != LOGQ_BREAKER_CLOSED)
		{
			closed = true;
			health->breaker = LOGQ_BREAKER_CLOSED;
			health->since = now;
			health->reason[0] = '\0';
			/* one that takes connections may still not answer */
			if (ms >= 0 || connect_ms < 0)
				entry->probe_ms = MIN_PROBE_MS;
			/* what it was like in its trouble is of the past */
			health->latency_ms = ms;
			health->values = 0;
		}
	}
	unlock_entries();
	if (closed)
		ereport(LOG,
				(errmsg("server \"%s\" of partition \"%s\" answers again",
						servers->servers[server].address,
						partition_name(servers))));
}

/*
 * Open the breaker, or leave it open after a probe.  True: it was closed.
 */
static bool
open_breaker(Entry *entry, TimestampTz now)
{
	bool		was_closed = entry->health.breaker == LOGQ_BREAKER_CLOSED;

	if (was_closed)
		entry->health.since = now;
	/* somebody who had begun before it opened has failed later: no news */
	if (was_closed || entry->health.breaker == LOGQ_BREAKER_HALF_OPEN)
	{
		entry->probe_at = TimestampTzPlusMilliseconds(now, entry->probe_ms);
		entry->probe_ms = Min(entry->probe_ms * 2, MAX_PROBE_MS);
	}
	entry->health.breaker = LOGQ_BREAKER_OPEN;
	return was_closed;
}

/*
 * Keep what an error says, in one line.  To has 256 bytes.
 */
static void
keep_text(char *to, const char *text)
{
	int			len = pg_mbcliplen(text, strlen(text), 255);

	for (int i = 0; i < len; i++)
		to[i] = text[i] == '\n' || text[i] == '\t' ? ' ' : text[i];
	to[len] = '\0';
}

static void
log_opened(const LogqServers *servers, int server, const char *reason)
{
	ereport(LOG,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("server \"%s\" of partition \"%s\" is not asked any more until it answers: %s",
					servers->servers[server].address,
					partition_name(servers), reason)));
}

void
logq_health_failed(const LogqServers *servers, int server, LogqFault fault,
				   const char *reason)
{
	TimestampTz now = logq_now();
	bool		opened = false;
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, true);
	if (entry != NULL)
	{
		LogqHealth *health = &entry->health;

		entry->used_at = now;
		health->errors++;
		keep_text(entry->last_error, reason);
		entry->last_error_at = now;
		if (fault != LOGQ_FAULT_STALLED)
		{
			health->failures++;
			health->cheap = fault == LOGQ_FAULT_REFUSED;
			keep_text(entry->health.reason, reason);
			if (health->breaker != LOGQ_BREAKER_CLOSED ||
				fault == LOGQ_FAULT_SILENT ||
				health->failures >= MAX_FAILURES)
				opened = open_breaker(entry, now);
		}
	}
	unlock_entries();
	if (opened)
		log_opened(servers, server, reason);
}

/*
 * A second request has beaten, or not, the one to this server.  ms: how long
 * this one has taken already.
 */
void
logq_health_overtaken(const LogqServers *servers, int server, double ms,
					  bool won)
{
	static const char *const reason = "other servers of the partition were faster, three times in a row";
	TimestampTz now = logq_now();
	bool		opened = false;
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, true);
	if (entry != NULL && won)
		entry->health.hedge_wins++;
	else if (entry != NULL)
	{
		LogqHealth *health = &entry->health;

		/* it would have taken longer still */
		add_answer(entry, ms, now);
		if (++entry->overtaken >= MAX_OVERTAKEN &&
			health->breaker == LOGQ_BREAKER_CLOSED)
		{
			/* it does answer: better than nothing, and for writes */
			health->cheap = true;
			keep_text(entry->health.reason, reason);
			opened = open_breaker(entry, now);
		}
	}
	unlock_entries();
	if (opened)
		log_opened(servers, server, reason);
}

bool
logq_health_begin_probe(const LogqServers *servers, int server)
{
	TimestampTz now = logq_now();
	bool		ours = false;
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, false);
	if (entry != NULL &&
		((entry->health.breaker == LOGQ_BREAKER_OPEN &&
		  now >= entry->probe_at) ||
		 (entry->health.breaker == LOGQ_BREAKER_HALF_OPEN &&
		  now >= entry->probe_until)))
	{
		entry->health.breaker = LOGQ_BREAKER_HALF_OPEN;
		entry->probe_until =
			TimestampTzPlusMilliseconds(now, (int64) logq_connect_timeout +
										PROBE_SLACK_MS);
		ours = true;
	}
	unlock_entries();
	return ours;
}

void
logq_health_abandon_probe(const LogqServers *servers, int server)
{
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, false);
	if (entry != NULL && entry->health.breaker == LOGQ_BREAKER_HALF_OPEN)
	{
		entry->health.breaker = LOGQ_BREAKER_OPEN;
		entry->probe_at = 0;
	}
	unlock_entries();
}

bool
logq_health_any_trouble(void)
{
	HASH_SEQ_STATUS status;
	const Entry *entry;
	bool		trouble = false;

	lock_entries(LW_SHARED);
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (entry->key.database == MyDatabaseId &&
			entry->health.breaker != LOGQ_BREAKER_CLOSED)
			trouble = true;
	unlock_entries();
	return trouble;
}

/* ---------- how far replicas are ---------- */

void
logq_health_wal(const LogqServers *servers, XLogRecPtr lsn,
				TimestampTz asked_at)
{
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, 0, true);
	if (entry != NULL && asked_at >= entry->newest.at &&
		(lsn >= entry->newest.lsn || asked_at >= entry->noted_at))
	{
		WalSample  *last;

		/*
		 * Less than before, although asked later: another server, or a
		 * restored one.  Answers that were on their way at the same time may
		 * come in any order.
		 */
		if (lsn < entry->newest.lsn)
			entry->nsamples = entry->next_sample = 0;
		entry->newest.lsn = lsn;
		entry->newest.at = asked_at;
		entry->noted_at = logq_now();
		last = &entry->samples[(entry->next_sample + NSAMPLES - 1) % NSAMPLES];
		if (entry->nsamples == 0 ||
			(lsn > last->lsn &&
			 asked_at >= TimestampTzPlusMilliseconds(last->at, SAMPLE_MS)))
		{
			entry->samples[entry->next_sample] = entry->newest;
			entry->next_sample = (entry->next_sample + 1) % NSAMPLES;
			entry->nsamples = Min(entry->nsamples + 1, NSAMPLES);
		}
	}
	unlock_entries();
}

/*
 * How long before the primary was last heard of had it written something that
 * was not replayed?  0: nothing of that kind is known.  Time does not count on
 * while the primary is down, as nothing is written then.
 */
int64
logq_health_wal_lag(const LogqServers *servers, XLogRecPtr replayed)
{
	int64		lag = 0;
	const Entry *entry;

	lock_entries(LW_SHARED);
	entry = find_entry(servers, 0, false);
	if (entry != NULL && entry->newest.lsn > replayed)
	{
		TimestampTz since = entry->newest.at;

		for (int i = 0; i < entry->nsamples; i++)
			if (entry->samples[i].lsn > replayed)
				since = Min(since, entry->samples[i].at);
		lag = Max((entry->newest.at - since) / 1000, 1);
	}
	unlock_entries();
	return lag;
}

void
logq_health_set_lag(const LogqServers *servers, int server, int64 lag_ms)
{
	Entry	   *entry;

	lock_entries(LW_EXCLUSIVE);
	entry = find_entry(servers, server, true);
	if (entry != NULL)
	{
		entry->health.lag_ms = lag_ms;
		entry->health.lag_at = logq_now();
	}
	unlock_entries();
}

/* ---------- logq.stat_partitions ---------- */

static const char *const breaker_names[] = {
	[LOGQ_BREAKER_CLOSED] = "closed",
	[LOGQ_BREAKER_OPEN] = "open",
	[LOGQ_BREAKER_HALF_OPEN] = "half-open",
};

static Datum
ms_or_null(double ms, bool *isnull)
{
	*isnull = ms < 0;
	return Float8GetDatum(ms);
}

/*
 * In a word: is it up, as far as is known?
 */
static const char *
state_name(const LogqHealth *h)
{
	if (h->breaker != LOGQ_BREAKER_CLOSED)
		return "down";
	if (h->failures > 0)
		return "failing";
	return h->answered_at != 0 ? "up" : "unknown";
}

/*
 * What a server's last error was; false: there was none.
 */
static bool
get_last_error(const LogqServers *servers, int server, char *text,
			   TimestampTz *at)
{
	const Entry *entry;
	bool		found = false;

	lock_entries(LW_SHARED);
	entry = find_entry(servers, server, false);
	if (entry != NULL && entry->last_error_at != 0)
	{
		memcpy(text, entry->last_error, sizeof(entry->last_error));
		*at = entry->last_error_at;
		found = true;
	}
	unlock_entries();
	return found;
}

/*
 * A time, which is unknown when it is 0.
 */
static Datum
time_or_null(TimestampTz t, bool *isnull)
{
	*isnull = t == 0;
	return TimestampTzGetDatum(logq_wall_time(t));
}

/*
 * What is known of a partition's catalog: the last columns, of its primary.
 */
static void
put_catalog_state(int32 number, Datum *values, bool *nulls)
{
	LogqCatalogState st;
	const LogqPartitionFacts *f = &st.facts;

	if (!logq_shmem_state(number, &st))
	{
		memset(nulls, true, CATALOG_COLUMNS);
		return;
	}
	values[0] = time_or_null(st.true_at, &nulls[0]);
	values[1] = Float8GetDatum((logq_now() - st.true_at) / 1000.0);
	nulls[1] = st.true_at == 0;
	values[2] = time_or_null(st.failing_since, &nulls[2]);
	nulls[3] = st.confirmation.error[0] == '\0';
	values[3] = CStringGetTextDatum(st.confirmation.error);
	nulls[4] = nulls[5] = nulls[6] = f->asked_at == 0;
	values[4] = Int32GetDatum(f->connections);
	values[5] = Int32GetDatum(f->max_connections);
	values[6] = Float8GetDatum(f->clock_offset / 1000.0);
}

/*
 * logq.server_status(): a row for each server of each partition.
 */
Datum
logq_server_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	logq_advance_probes();
	foreach(lc, logq_partitions())
	{
		LogqPartition *part = lfirst(lc);
		LogqHealth	health[LOGQ_MAX_SERVERS];
		LogqServers *servers;
		int			connections = 0;
		int			waiting = 0;

		if (!OidIsValid(part->serverid))
			continue;
		servers = logq_servers(part->serverid);
		logq_health_get(servers, health);
		logq_connection_counts(part->serverid, &connections, &waiting);
		for (int i = 0; i < servers->n; i++)
		{
			const LogqHealth *h = &health[i];
			Datum		values[STATUS_COLUMNS] = {0};
			bool		nulls[STATUS_COLUMNS] = {0};
			char		last_error[256];
			TimestampTz last_error_at = 0;
			int			n = 0;

			values[n++] = CStringGetDatum(part->name);
			values[n++] = CStringGetTextDatum(servers->servers[i].address);
			values[n++] = CStringGetTextDatum(servers->servers[i].replica ?
											  "replica" : "primary");
			values[n++] = CStringGetTextDatum(breaker_names[h->breaker]);
			values[n] = time_or_null(h->since, &nulls[n]);
			n++;
			nulls[n] = h->reason[0] == '\0';
			values[n++] = CStringGetTextDatum(h->reason);
			values[n++] = Int32GetDatum(h->failures);
			values[n] = ms_or_null(h->latency_ms, &nulls[n]);
			n++;
			values[n] = ms_or_null(h->p95_ms, &nulls[n]);
			n++;
			values[n] = ms_or_null(h->connect_p95_ms, &nulls[n]);
			n++;
			values[n++] = Int64GetDatum(h->requests);
			values[n++] = Int64GetDatum(h->errors);
			values[n++] = Int64GetDatum(h->hedges);
			values[n++] = Int64GetDatum(h->hedge_wins);
			nulls[n] = h->lag_ms < 0;
			values[n++] = Int64GetDatum(h->lag_ms);
			values[n] = time_or_null(h->lag_at, &nulls[n]);
			n++;
			/* these are the partition's */
			nulls[n] = i > 0;
			values[n++] = Int32GetDatum(connections);
			nulls[n] = i > 0;
			values[n++] = Int32GetDatum(waiting);
			values[n++] = CStringGetTextDatum(state_name(h));
			values[n] = time_or_null(h->answered_at, &nulls[n]);
			n++;
			nulls[n] = nulls[n + 1] =
				!get_last_error(servers, i, last_error, &last_error_at);
			if (!nulls[n])
				values[n] = CStringGetTextDatum(last_error);
			values[n + 1] = TimestampTzGetDatum(logq_wall_time(last_error_at));
			n += 2;
			Assert(n == STATUS_COLUMNS - CATALOG_COLUMNS);
			if (i == 0)
				put_catalog_state(part->number, &values[n], &nulls[n]);
			else
				memset(&nulls[n], true, CATALOG_COLUMNS);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
								 nulls);
		}
	}
	return (Datum) 0;
}
