/*-------------------------------------------------------------------------
 *
 * querystat.c
 *		What all sessions' queries add up to: logq.stat_queries,
 *		logq.query_histogram(), and the last slow ones, logq.slow_queries.
 *
 * There is one entry a database, with counters and two histograms, and one
 * ring for the slow queries of all databases.  When all entries are in use,
 * the one whose last query is longest ago makes room.
 *
 * Counters are kept over restarts: the postmaster writes them to a file when
 * it is shut down, and reads it when it starts.  It then removes the file, so
 * that after a crash all begin at zero: whoever watches a counter can tell a
 * zero from work done, but not an old value.  A file that is damaged, or was
 * written by another version, counts as none, with a line in the log.  Slow
 * queries are not kept.
 *
 * Locks: the LWLock guards which database an entry is of, and the ring; a
 * spinlock in each entry guards its numbers.  The LWLock is taken first.  A
 * session remembers its entry, so the end of a query usually takes but the
 * spinlock; that the entry is still of its database is looked at under it.
 *
 * What a query costs by this, measured in a loop: 0.05 us for the counters,
 * 0.01 us for its text, 0.07 us more when it is slow.  The quickest queries
 * take 400 us.
 *
 * The end of a query may come in a memory context callback after an error:
 * nothing in logq_querystat_record() throws or allocates.
 *
 * Without the library in shared_preload_libraries nothing is counted, and the
 * views have no rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "querystat.h"

#include <math.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"

#include "cache.h"

PG_FUNCTION_INFO_V1(logq_query_status);
PG_FUNCTION_INFO_V1(logq_query_histogram);
PG_FUNCTION_INFO_V1(logq_slow_query_status);
PG_FUNCTION_INFO_V1(logq_reset_stats);

#define MAX_DATABASES 64
#define MAX_SLOW_QUERIES 100

/*
 * Bounds of buckets, which include them: two to each power of two of 0.25 ms
 * (0.25, 0.375, 0.5, 0.75, 1, 1.5, ...) up to 65,536 ms.  The last bucket is
 * for all that took longer.
 */
#define NBOUNDS 37
#define NBUCKETS (NBOUNDS + 1)

#define STAT_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/logq_queries.stat"
#define STAT_FILE_MAGIC 0x4c515153	/* "LQQS" */
/* to be raised when Numbers changes its meaning */
#define STAT_FILE_VERSION 1

/* In the order of columns of logq.query_status() from "queries" on */
typedef enum Counter
{
	C_QUERIES,
	C_ERRORS,
	C_PARTIAL,
	C_ROWS,
	C_BYTES,
	C_PARTITIONS_ASKED,
	C_PARTITIONS_PRUNED,
	C_SEGMENTS_ASKED,
	C_SEGMENTS_CACHED,
	C_SEGMENTS_PRUNED,
	C_NOT_ASKED,
	C_RETRIED = C_NOT_ASKED + LOGQ_NNOT_ASKED,
	C_HEDGED,
	C_QUEUED_US,
	C_TOTAL_US,
	C_FIRST_ROW_US,
	NCOUNTERS
} Counter;

typedef struct Histogram
{
	int64		counts[NBUCKETS];
	int64		max_us;
} Histogram;

/* What is written to the file, too */
typedef struct Numbers
{
	Oid			database;		/* InvalidOid: free */
	int32		unused;			/* no byte of the file is undefined */
	TimestampTz last_at;		/* its last query, or its first use */
	TimestampTz reset_at;
	int64		counters[NCOUNTERS];
	Histogram	total;
	Histogram	first_row;
} Numbers;

typedef struct Entry
{
	slock_t		mutex;
	Numbers		numbers;
} Entry;

typedef struct SlowQuery
{
	LogqQueryRecord record;		/* its text is not there */
	Oid			database;
	int			encoding;
	bool		has_text;
	char		text[LOGQ_SLOW_QUERY_TEXT + 1];
} SlowQuery;

typedef struct QueryStats
{
	Entry		entries[MAX_DATABASES];
	/* the ring */
	int			nslow;
	int			next;
	SlowQuery	slow[MAX_SLOW_QUERIES];
} QueryStats;

typedef struct FileHeader
{
	uint32		magic;
	uint32		version;
	uint32		size;			/* of Numbers */
	uint32		n;
	pg_crc32c	crc;			/* of all Numbers */
} FileHeader;

/* in ms; -1: none are slow */
int			logq_slow_query_ms = 1000;

/* NULL when the library was not preloaded */
static QueryStats *stats = NULL;
static LWLock *lock = NULL;
/* perhaps ours */
static Entry *my_entry = NULL;

/*
 * The index-th bound, in microseconds.
 */
static int64
bucket_bound(int index)
{
	int64		power = INT64CONST(250) << (index / 2);

	return index % 2 == 0 ? power : power + power / 2;
}

/*
 * The bucket of a time: the first whose bound is not below it.
 */
static int
bucket_of(int64 us)
{
	int			low = 0;
	int			high = NBOUNDS;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (bucket_bound(middle) < us)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* ---------- the file ---------- */

static pg_crc32c
numbers_crc(const Numbers *numbers, int n)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, numbers, n * sizeof(Numbers));
	FIN_CRC32C(crc);
	return crc;
}

/*
 * Read the file.  What is wrong with it, or NULL.
 */
static const char *
read_file(FILE *file, Numbers *numbers, int *n)
{
	FileHeader	header;
	char		more;

	*n = 0;
	if (fread(&header, sizeof(header), 1, file) != 1)
		return "it is too short";
	if (header.magic != STAT_FILE_MAGIC)
		return "it is no such file";
	if (header.version != STAT_FILE_VERSION || header.size != sizeof(Numbers))
		return "it was written by another version";
	if (header.n > MAX_DATABASES)
		return "it has too many entries";
	if (fread(numbers, sizeof(Numbers), header.n, file) != header.n)
		return "it is too short";
	if (fread(&more, 1, 1, file) != 0)
		return "it is too long";
	if (!EQ_CRC32C(numbers_crc(numbers, header.n), header.crc))
		return "its checksum is wrong";
	*n = header.n;
	return NULL;
}

/*
 * At the start of the postmaster.  The server starts whatever the file is
 * like.
 */
static void
load_stats(void)
{
	FILE	   *file = AllocateFile(STAT_FILE, PG_BINARY_R);
	Numbers    *numbers;
	const char *wrong;
	int			n;

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", STAT_FILE)));
		return;
	}
	numbers = palloc(MAX_DATABASES * sizeof(Numbers));
	wrong = read_file(file, numbers, &n);
	FreeFile(file);
	if (wrong != NULL)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignoring invalid data in file \"%s\": %s",
						STAT_FILE, wrong)));
	for (int i = 0; i < n; i++)
		stats->entries[i].numbers = numbers[i];
	pfree(numbers);
	/* see the head of this file */
	(void) unlink(STAT_FILE);
}

/*
 * At the end of the postmaster, when nobody counts any more.
 */
static void
save_stats(int code, Datum arg)
{
	FILE	   *file;
	FileHeader	header = {.magic = STAT_FILE_MAGIC,
		.version = STAT_FILE_VERSION,.size = sizeof(Numbers)};
	Numbers    *numbers;

	/* not after a crash, when they may be anything */
	if (code != 0 || stats == NULL)
		return;
	numbers = palloc(MAX_DATABASES * sizeof(Numbers));
	for (int i = 0; i < MAX_DATABASES; i++)
		if (OidIsValid(stats->entries[i].numbers.database))
			numbers[header.n++] = stats->entries[i].numbers;
	header.crc = numbers_crc(numbers, header.n);

	file = AllocateFile(STAT_FILE ".tmp", PG_BINARY_W);
	if (file == NULL)
		goto failed;
	if (fwrite(&header, sizeof(header), 1, file) != 1 ||
		fwrite(numbers, sizeof(Numbers), header.n, file) != header.n)
		goto failed;
	if (FreeFile(file))
	{
		file = NULL;
		goto failed;
	}
	(void) durable_rename(STAT_FILE ".tmp", STAT_FILE, LOG);
	pfree(numbers);
	return;

failed:
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", STAT_FILE ".tmp")));
	if (file != NULL)
		FreeFile(file);
	(void) unlink(STAT_FILE ".tmp");
	pfree(numbers);
}

/* ---------- shared memory ---------- */

Size
logq_querystat_shmem_size(void)
{
	return MAXALIGN(sizeof(QueryStats));
}

/*
 * Called with AddinShmemInitLock held.
 */
void
logq_querystat_shmem_startup(LWLock *stats_lock)
{
	bool		found;

	lock = stats_lock;
	stats = ShmemInitStruct("logq query statistics", sizeof(QueryStats),
							&found);
	if (!IsUnderPostmaster)
		on_shmem_exit(save_stats, (Datum) 0);
	if (found)
		return;
	MemSet(stats, 0, sizeof(QueryStats));
	for (int i = 0; i < MAX_DATABASES; i++)
		SpinLockInit(&stats->entries[i].mutex);
	load_stats();
}

/*
 * The entry of our database, with the lock held.
 */
static Entry *
search_entry(void)
{
	for (int i = 0; i < MAX_DATABASES; i++)
		if (stats->entries[i].numbers.database == MyDatabaseId)
			return &stats->entries[i];
	return NULL;
}

/*
 * The entry of our database, which is made if need be.  Never throws.
 */
static Entry *
find_entry(void)
{
	Entry	   *entry;

	LWLockAcquire(lock, LW_SHARED);
	entry = search_entry();
	LWLockRelease(lock);
	if (entry != NULL)
		return entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = search_entry();
	if (entry == NULL)
	{
		TimestampTz now = GetCurrentTimestamp();

		/* those that are free have a last_at of 0 */
		entry = &stats->entries[0];
		for (int i = 1; i < MAX_DATABASES; i++)
			if (stats->entries[i].numbers.last_at < entry->numbers.last_at)
				entry = &stats->entries[i];
		SpinLockAcquire(&entry->mutex);
		memset(&entry->numbers, 0, sizeof(Numbers));
		entry->numbers.database = MyDatabaseId;
		entry->numbers.last_at = now;
		entry->numbers.reset_at = now;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(lock);
	return entry;
}

/*
 * The entry of our database, with its spinlock held.  Never throws.
 */
static Entry *
lock_entry(void)
{
	for (;;)
	{
		if (my_entry == NULL)
			my_entry = find_entry();
		SpinLockAcquire(&my_entry->mutex);
		if (my_entry->numbers.database == MyDatabaseId)
			return my_entry;
		/* it had to make room */
		SpinLockRelease(&my_entry->mutex);
		my_entry = NULL;
	}
}

/*
 * Put a query into the ring.  Never throws.
 */
static void
keep_slow(const LogqQueryRecord *record)
{
	SlowQuery  *slow;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slow = &stats->slow[stats->next];
	stats->next = (stats->next + 1) % MAX_SLOW_QUERIES;
	stats->nslow = Min(stats->nslow + 1, MAX_SLOW_QUERIES);
	slow->record = *record;
	slow->record.text = NULL;
	slow->database = MyDatabaseId;
	slow->encoding = GetDatabaseEncoding();
	slow->has_text = record->text != NULL;
	strlcpy(slow->text, record->text != NULL ? record->text : "",
			sizeof(slow->text));
	LWLockRelease(lock);
}

static void
add_time(Histogram *histogram, int bucket, int64 us)
{
	histogram->counts[bucket]++;
	histogram->max_us = Max(histogram->max_us, us);
}

/*
 * See querystat.h.  All is computed before the spinlock is taken.
 */
void
logq_querystat_record(const LogqQueryRecord *record)
{
	/* a clock that is set back must not make counters fall */
	int64		total_us = Max((int64) (record->total_ms * 1000), 0);
	int64		first_us = Max((int64) (record->first_row_ms * 1000), 0);
	bool		has_row = record->first_row_ms >= 0;
	int			total_bucket = bucket_of(total_us);
	int			first_bucket = bucket_of(first_us);
	int64		add[NCOUNTERS];
	TimestampTz now;
	Numbers    *numbers;
	Entry	   *entry;

	if (stats == NULL)
		return;
	add[C_QUERIES] = 1;
	add[C_ERRORS] = record->failed;
	add[C_PARTIAL] = record->partial;
	add[C_ROWS] = record->rows;
	add[C_BYTES] = record->bytes;
	add[C_PARTITIONS_ASKED] = record->partitions_asked;
	add[C_PARTITIONS_PRUNED] = record->partitions_pruned;
	add[C_SEGMENTS_ASKED] = record->segments_asked;
	add[C_SEGMENTS_CACHED] = record->segments_cached;
	add[C_SEGMENTS_PRUNED] = record->segments_pruned;
	for (int i = 0; i < LOGQ_NNOT_ASKED; i++)
		add[C_NOT_ASKED + i] = record->not_asked[i];
	add[C_RETRIED] = record->retried;
	add[C_HEDGED] = record->hedged;
	add[C_QUEUED_US] = (int64) (record->queued_ms * 1000);
	add[C_TOTAL_US] = total_us;
	add[C_FIRST_ROW_US] = has_row ? first_us : 0;
	now = record->started_at + total_us;

	entry = lock_entry();
	numbers = &entry->numbers;
	numbers->last_at = Max(numbers->last_at, now);
	for (int i = 0; i < NCOUNTERS; i++)
		numbers->counters[i] += add[i];
	add_time(&numbers->total, total_bucket, total_us);
	if (has_row)
		add_time(&numbers->first_row, first_bucket, first_us);
	SpinLockRelease(&entry->mutex);

	if (logq_slow_query_ms >= 0 && record->total_ms >= logq_slow_query_ms)
		keep_slow(record);
}

/* ---------- views ---------- */

/*
 * A percentile in ms.  Within its bucket times are taken to lie evenly, but
 * none beyond the longest; NaN without any.
 */
static double
percentile(const Histogram *histogram, double fraction)
{
	int64		n = 0;
	int64		before = 0;
	double		place;

	for (int i = 0; i < NBUCKETS; i++)
		n += histogram->counts[i];
	if (n == 0)
		return NAN;
	place = fraction * n;
	for (int i = 0; i < NBUCKETS; i++)
	{
		int64		count = histogram->counts[i];
		double		low;
		double		high = histogram->max_us;

		if (count == 0 || before + count < place)
		{
			before += count;
			continue;
		}
		low = i == 0 ? 0 : bucket_bound(i - 1);
		if (i < NBOUNDS)
			high = Min(high, bucket_bound(i));
		return (low + (high - low) * (place - before) / count) / 1000.0;
	}
	return histogram->max_us / 1000.0;
}

/*
 * The numbers of our database.
 */
static void
read_numbers(Numbers *numbers)
{
	Entry	   *entry = lock_entry();

	*numbers = entry->numbers;
	SpinLockRelease(&entry->mutex);
}

/*
 * Put a histogram's percentiles and its maximum.
 */
static void
put_percentiles(const Histogram *histogram, Datum *values, bool *nulls,
				int *n)
{
	static const double fractions[] = {0.5, 0.95, 0.99};

	for (int i = 0; i < lengthof(fractions); i++)
	{
		double		ms = percentile(histogram, fractions[i]);

		nulls[*n] = isnan(ms);
		values[(*n)++] = Float8GetDatum(ms);
	}
	nulls[*n] = nulls[*n - 1];
	values[(*n)++] = Float8GetDatum(histogram->max_us / 1000.0);
}

/*
 * logq.query_status()
 */
Datum
logq_query_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[NCOUNTERS + 9] = {0};
	bool		nulls[NCOUNTERS + 9] = {false};
	Numbers		numbers;
	int			n = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (stats == NULL)
		return (Datum) 0;
	read_numbers(&numbers);
	for (Counter c = 0; c < NCOUNTERS; c++)
		values[n++] = c >= C_QUEUED_US ?
			Float8GetDatum(numbers.counters[c] / 1000.0) :
			Int64GetDatum(numbers.counters[c]);
	put_percentiles(&numbers.total, values, nulls, &n);
	put_percentiles(&numbers.first_row, values, nulls, &n);
	values[n++] = TimestampTzGetDatum(numbers.reset_at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/*
 * logq.query_histogram(): counts up to each bound, as Prometheus has them.
 */
Datum
logq_query_histogram(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Numbers		numbers;
	int64		total = 0;
	int64		first_row = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (stats == NULL)
		return (Datum) 0;
	read_numbers(&numbers);
	for (int i = 0; i < NBUCKETS; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		total += numbers.total.counts[i];
		first_row += numbers.first_row.counts[i];
		values[0] = Float8GetDatum(i < NBOUNDS ? bucket_bound(i) / 1000.0 :
								   get_float8_infinity());
		values[1] = Int64GetDatum(total);
		values[2] = Int64GetDatum(first_row);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}

/*
 * A name for a view, NULL when it is gone.
 */
static void
put_name(const char *name, Datum *values, bool *nulls, int *n)
{
	NameData   *copy = palloc0(sizeof(NameData));

	nulls[*n] = name == NULL;
	if (name != NULL)
		namestrcpy(copy, name);
	values[(*n)++] = NameGetDatum(copy);
}

/*
 * The text of a query, for those who may see it.  What another database's
 * encoding has beyond ASCII may be invalid in ours.
 */
static Datum
slow_text(SlowQuery *slow, bool all)
{
	if (!all && !has_privs_of_role(GetUserId(), slow->record.userid))
		return CStringGetTextDatum("<insufficient privilege>");
	if (slow->encoding != GetDatabaseEncoding())
		for (char *p = slow->text; *p != '\0'; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	return CStringGetTextDatum(slow->text);
}

/*
 * logq.slow_query_status(), the last one first.
 */
Datum
logq_slow_query_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	SlowQuery  *copy;
	int			count;
	int			next;

	InitMaterializedSRF(fcinfo, 0);
	if (stats == NULL)
		return (Datum) 0;
	copy = palloc(sizeof(stats->slow));
	LWLockAcquire(lock, LW_SHARED);
	count = stats->nslow;
	next = stats->next;
	memcpy(copy, stats->slow, count * sizeof(SlowQuery));
	LWLockRelease(lock);

	for (int i = 1; i <= count; i++)
	{
		SlowQuery  *slow = &copy[(next - i + MAX_SLOW_QUERIES) %
								 MAX_SLOW_QUERIES];
		const LogqQueryRecord *r = &slow->record;
		Datum		values[19] = {0};
		bool		nulls[19] = {false};
		int			n = 0;

		values[n++] = TimestampTzGetDatum(r->started_at);
		put_name(GetUserNameFromId(r->userid, true), values, nulls, &n);
		put_name(get_database_name(slow->database), values, nulls, &n);
		values[n++] = Float8GetDatum(r->total_ms);
		nulls[n] = r->first_row_ms < 0;
		values[n++] = Float8GetDatum(r->first_row_ms);
		values[n++] = Float8GetDatum(r->queued_ms);
		values[n++] = BoolGetDatum(r->failed);
		values[n++] = BoolGetDatum(r->partial);
		values[n++] = Int32GetDatum(r->partitions_asked);
		values[n++] = Int32GetDatum(r->partitions_pruned);
		values[n++] = Int64GetDatum(r->segments_asked);
		values[n++] = Int64GetDatum(r->segments_cached);
		values[n++] = Int64GetDatum(r->segments_pruned);
		values[n++] = Int64GetDatum(r->rows);
		values[n++] = Int64GetDatum(r->bytes);
		values[n++] = Int64GetDatum(r->retried);
		values[n++] = Int64GetDatum(r->hedged);
		nulls[n] = !slow->has_text;
		values[n++] = slow_text(slow, all);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}

/*
 * logq.reset_stats()
 */
Datum
logq_reset_stats(PG_FUNCTION_ARGS)
{
	TimestampTz now = GetCurrentTimestamp();

	logq_cachestat_reset();
	if (stats == NULL)
		PG_RETURN_VOID();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		Entry	   *entry = &stats->entries[i];
		Oid			database = entry->numbers.database;

		if (!OidIsValid(database))
			continue;
		SpinLockAcquire(&entry->mutex);
		memset(&entry->numbers, 0, sizeof(Numbers));
		entry->numbers.database = database;
		entry->numbers.last_at = now;
		entry->numbers.reset_at = now;
		SpinLockRelease(&entry->mutex);
	}
	stats->nslow = 0;
	stats->next = 0;
	LWLockRelease(lock);
	PG_RETURN_VOID();
}
