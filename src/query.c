/*-------------------------------------------------------------------------
 *
 * query.c
 *		What a session keeps of its queries, and what it says of answers
 *		that are not complete.
 *
 * All scans of one run of the executor belong to one query.  The session keeps
 * the numbers of the one that began last for logq.last_query(): while it runs
 * they are taken from its scans as they are, at the end they are added up.
 *
 * With logq.partial_results, a partition of which no server can answer is left
 * out.  Each time there is a warning, which says how many rows of which time
 * may be missing, by the coordinator's copy of the catalog.
 *
 * Invariants: a LogqQuery lives in a context of its own as long as it has scans
 * or is the last one.  The end of a scan may come in a memory context callback
 * after an error: nothing there throws or allocates, so the sets of partitions
 * are as large as will be needed from the beginning, and the text for
 * logq.slow_queries is taken then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "query.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "querystat.h"

PG_FUNCTION_INFO_V1(logq_last_query);

/* Of one partition in one query */
typedef struct PartitionUse
{
	int32		number;
	char		name[NAMEDATALEN];
	bool		asked;
	bool		missing;
} PartitionUse;

typedef struct Numbers
{
	int64		segments_asked;
	int64		segments_pruned;
	int64		not_asked[LOGQ_NNOT_ASKED];
	int64		retried;
	int64		hedged;
	int64		rows;
	int64		bytes;
	int64		cached;
	TimestampTz oldest;			/* of what came from the cache, 0: nothing did */
} Numbers;

struct LogqQuery
{
	MemoryContext cxt;
	EState	   *estate;			/* the executor's run */
	dlist_node	node;			/* in the list of those with scans */
	dlist_head	scans;			/* LogqScanState.query_node */
	TimestampTz started_at;
	TimestampTz ended_at;		/* 0: has scans */
	double		first_row_ms;	/* -1: there was none */
	double		queued_ms;
	double		catalog_age_ms; /* -1: unknown */
	bool		failed;
	int			nuses;
	PartitionUse *uses;
	Numbers		numbers;		/* of scans that are over */
	Oid			userid;
	char	   *text;			/* the first of it, NULL: not kept */
};

static dlist_head running = DLIST_STATIC_INIT(running);
static LogqQuery *last_query = NULL;

/*
 * Forget a query that nobody will ask for.
 */
static void
forget(LogqQuery *query)
{
	if (query != NULL && dlist_is_empty(&query->scans) &&
		query != last_query)
		MemoryContextDelete(query->cxt);
}

/*
 * How old the copies of catalogs are at most that the query goes by; -1 when
 * one was never confirmed.
 */
static double
catalog_age(const LogqScanState *scan, TimestampTz now)
{
	double		age = 0;

	for (int i = 0; i < scan->nstreams; i++)
	{
		LogqConfirmation c;

		if (!logq_shmem_get(scan->streams[i].part->number, &c) ||
			c.confirmed_at == 0)
			return -1;
		age = Max(age, (now - c.confirmed_at) / 1000.0);
	}
	return age;
}

/*
 * Keep the first of the statement's text, should it turn out to be slow: at the
 * end of a query that failed the text may be gone.  Other statements of the
 * same message are left out; they may have passwords.
 */
static char *
keep_text(MemoryContext cxt, const EState *estate)
{
	const PlannedStmt *stmt = estate->es_plannedstmt;
	const char *text = estate->es_sourceText;
	int			limit = LOGQ_SLOW_QUERY_TEXT;
	char	   *copy;
	int			location = 0;
	int			len;

	if (text == NULL || logq_slow_query_ms < 0 || !logq_shmem_available())
		return NULL;
	/* that of a function's body may be a place in another text */
	if (stmt != NULL && stmt->stmt_location > 0 &&
		strnlen(text, stmt->stmt_location) == stmt->stmt_location)
		location = stmt->stmt_location;
	text += location;
	if (stmt != NULL && stmt->stmt_location >= 0 && stmt->stmt_len > 0)
		len = strnlen(text, stmt->stmt_len);
	else
		len = strnlen(text, limit + 1);
	while (len > 0 && isspace((unsigned char) *text))
	{
		text++;
		len--;
	}
	while (len > 0 && len <= limit && isspace((unsigned char) text[len - 1]))
		len--;
	if (len > limit)
		len = pg_mbcliplen(text, limit + 1, limit);
	if (len == 0)
		return NULL;
	copy = MemoryContextAlloc(cxt, len + 1);
	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

static LogqQuery *
new_query(LogqScanState *scan)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "logq query",
											  ALLOCSET_SMALL_SIZES);
	LogqQuery  *query = MemoryContextAllocZero(cxt, sizeof(LogqQuery));
	LogqQuery  *before = last_query;

	query->cxt = cxt;
	query->estate = scan->css.ss.ps.state;
	dlist_init(&query->scans);
	query->started_at = logq_now();
	query->first_row_ms = -1;
	query->catalog_age_ms = catalog_age(scan, query->started_at);
	query->userid = GetUserId();
	query->text = keep_text(cxt, query->estate);
	query->nuses = scan->nstreams;
	query->uses = MemoryContextAllocZero(cxt, (scan->nstreams + 1) *
										 sizeof(PartitionUse));
	for (int i = 0; i < scan->nstreams; i++)
	{
		const LogqPartition *part = scan->streams[i].part;

		query->uses[i].number = part->number;
		strlcpy(query->uses[i].name, part->name, NAMEDATALEN);
	}
	dlist_push_head(&running, &query->node);
	last_query = query;
	forget(before);
	return query;
}

/*
 * See query.h.  The scan has its streams.
 */
void
logq_query_begin(LogqScanState *scan, double waited_ms)
{
	LogqQuery  *query = NULL;
	dlist_iter	iter;

	if (scan->query != NULL)
		return;
	dlist_foreach(iter, &running)
	{
		LogqQuery  *other = dlist_container(LogqQuery, node, iter.cur);

		if (other->estate == scan->css.ss.ps.state)
			query = other;
	}
	if (query == NULL)
		query = new_query(scan);
	query->queued_ms += waited_ms;
	dlist_push_tail(&query->scans, &scan->query_node);
	scan->query = query;
}

void
logq_query_first_row(LogqScanState *scan)
{
	LogqQuery  *query = scan->query;

	if (query != NULL && query->first_row_ms < 0)
		query->first_row_ms = (logq_now() -
							   query->started_at) / 1000.0;
}

/*
 * Add why segments of a partition were not asked, in the last run.  Returns how
 * many these are.
 */
static int64
add_reasons(const LogqScanState *scan, int index, Numbers *sum)
{
	const LogqPruned *pruned = &scan->pruned[index];
	int			known = Max(pruned->known, 0);
	int64		n = 0;

	if (pruned->valid)
	{
		for (int r = 0; r < LOGQ_NREASONS; r++)
		{
			sum->not_asked[r] += pruned->removed[r];
			n += pruned->removed[r];
		}
		return n;
	}
	switch (scan->fates[index])
	{
		case LOGQ_FATE_PRUNED_NAME:
			sum->not_asked[LOGQ_NOT_ASKED_PARTITION] += known;
			return known;
		case LOGQ_FATE_PRUNED_ID:
			sum->not_asked[LOGQ_NOT_ASKED_PARTITION_ID] += known;
			return known;
		case LOGQ_FATE_PRUNED_EMPTY:
			sum->not_asked[LOGQ_NOT_ASKED_CONTRADICTION] += known;
			return known;
		default:
			return 0;
	}
}

/*
 * Add what a scan has done so far.  Never throws.
 */
static void
add_scan(LogqQuery *query, const LogqScanState *scan, Numbers *sum)
{
	sum->rows += scan->rows_out;
	for (int i = 0; i < scan->nstreams; i++)
	{
		const LogqStream *stream = &scan->streams[i];
		int64		cached = 0;
		int64		removed;

		sum->segments_asked += stream->fragments_asked;
		for (int level = 0; level < LOGQ_NCACHE_LEVELS; level++)
			cached += stream->cached[level];
		sum->cached += cached;
		if (stream->oldest != 0 &&
			(sum->oldest == 0 || stream->oldest < sum->oldest))
			sum->oldest = stream->oldest;
		/* of several runs, or fragments asked twice, all are in "asked" */
		removed = add_reasons(scan, i, sum);
		sum->segments_pruned += Max(scan->pruned[i].known -
									stream->fragments_asked - cached, removed);
		sum->retried += stream->retries;
		sum->hedged += stream->hedges;
		sum->bytes += stream->bytes;
		for (int u = 0; u < query->nuses; u++)
		{
			PartitionUse *use = &query->uses[u];

			if (use->number != stream->part->number)
				continue;
			if (stream->requests > 0 || stream->was_missing)
				use->asked = true;
			if (stream->was_missing)
				use->missing = true;
		}
	}
}

/*
 * Tell all sessions of a query that is over.  Never throws.
 */
static void
tell(const LogqQuery *query)
{
	const Numbers *numbers = &query->numbers;
	LogqQueryRecord record = {
		.started_at = logq_wall_time(query->started_at),
		.total_ms = (query->ended_at - query->started_at) / 1000.0,
		.first_row_ms = query->first_row_ms,
		.queued_ms = query->queued_ms,
		.failed = query->failed,
		.segments_asked = numbers->segments_asked,
		.segments_cached = numbers->cached,
		.segments_pruned = numbers->segments_pruned,
		.rows = numbers->rows,
		.bytes = numbers->bytes,
		.retried = numbers->retried,
		.hedged = numbers->hedged,
		.userid = query->userid,
		.text = query->text,
	};

	for (int i = 0; i < query->nuses; i++)
	{
		record.partitions_asked += query->uses[i].asked;
		record.partial |= query->uses[i].missing && !query->failed;
	}
	record.partitions_pruned = query->nuses - record.partitions_asked;
	memcpy(record.not_asked, numbers->not_asked, sizeof(record.not_asked));
	logq_querystat_record(&record);
}

void
logq_query_end(LogqScanState *scan, bool failed)
{
	LogqQuery  *query = scan->query;

	if (query == NULL)
		return;
	scan->query = NULL;
	add_scan(query, scan, &query->numbers);
	query->failed |= failed;
	dlist_delete(&scan->query_node);
	if (!dlist_is_empty(&query->scans))
		return;
	query->ended_at = logq_now();
	dlist_delete(&query->node);
	/* the next run may have its state at the same place */
	query->estate = NULL;
	tell(query);
	forget(query);
}

/* ---------- what is missing ---------- */

/*
 * "Up to about 41000 rows between ... and ... may be missing."
 */
static char *
missing_rows(const LogqStream *stream)
{
	const LogqRequest *request = stream->request;
	int			next = Min(stream->batch_start + stream->batch_done,
						   stream->nfragments);
	TimestampTz lower = PG_INT64_MAX;
	TimestampTz upper = PG_INT64_MIN;
	double		rows = 0;
	char	   *from;

	if (!stream->confirmed && !stream->part->loaded)
		return pstrdup("It is not known how many rows are missing, nor of which time.");
	for (int i = next; i < stream->nfragments; i++)
	{
		const LogqFragment *fragment = &stream->fragments[i];

		if (fragment->size > 0)
			rows += fragment->size;
		lower = Min(lower, fragment->lower);
		upper = Max(upper, fragment->upper);
	}
	if (lower > upper)
		return pstrdup("No segment that is known could have had rows.");
	lower = Max(lower, request->ts_low);
	upper = Min(upper, request->ts_high);
	if (request->ordered && stream->has_key)
	{
		if (request->descending)
			upper = Min(upper, stream->ts);
		else
			lower = Max(lower, stream->ts);
	}
	from = pstrdup(timestamptz_to_str(lower));
	return psprintf("Up to about %.0f rows between %s and %s may be missing.",
					rows, from, timestamptz_to_str(upper));
}

void
logq_query_warn_missing(LogqStream *stream)
{
	const LogqFailure *failure = stream->missing;
	char	   *rows = missing_rows(stream);

	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("partition \"%s\" is missing from the answer: %s",
					stream->part->name, failure->reason),
			 errdetail_internal("%s", failure->detail == NULL ||
								strcmp(failure->detail, failure->reason) == 0 ?
								rows : psprintf("%s\n%s", rows,
												failure->detail)),
			 errhint("See logq.last_query(), or turn off \"logq.partial_results\" for an error instead.")));
}

/* ---------- logq.last_query() ---------- */

/*
 * Names of the partitions that are missing, as name[].
 */
static Datum
missing_names(const LogqQuery *query)
{
	Datum	   *names = palloc((query->nuses + 1) * sizeof(Datum));
	int			n = 0;

	for (int i = 0; i < query->nuses; i++)
		if (query->uses[i].missing)
			names[n++] = CStringGetDatum(query->uses[i].name);
	return PointerGetDatum(construct_array(names, n, NAMEOID, NAMEDATALEN,
										   false, TYPALIGN_CHAR));
}

Datum
logq_last_query(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LogqQuery  *query = last_query;
	Numbers		numbers;
	Datum		values[20] = {0};
	bool		nulls[20] = {0};
	int			asked = 0;
	int			missing = 0;
	int			n = 0;
	TimestampTz end;
	dlist_iter	iter;

	InitMaterializedSRF(fcinfo, 0);
	if (query == NULL)
		return (Datum) 0;
	numbers = query->numbers;
	dlist_foreach(iter, &query->scans)
		add_scan(query, dlist_container(LogqScanState, query_node, iter.cur),
				 &numbers);
	end = query->ended_at != 0 ? query->ended_at : logq_now();
	for (int i = 0; i < query->nuses; i++)
	{
		asked += query->uses[i].asked;
		missing += query->uses[i].missing;
	}

	values[n++] = TimestampTzGetDatum(logq_wall_time(query->started_at));
	values[n++] = BoolGetDatum(!query->failed && missing == 0);
	values[n++] = Int32GetDatum(query->nuses);
	values[n++] = Int32GetDatum(asked);
	values[n++] = Int32GetDatum(query->nuses - asked);
	values[n++] = Int32GetDatum(missing);
	values[n++] = missing_names(query);
	values[n++] = Int64GetDatum(numbers.segments_asked);
	values[n++] = Int64GetDatum(numbers.segments_pruned);
	values[n++] = Int64GetDatum(numbers.retried);
	values[n++] = Int64GetDatum(numbers.hedged);
	values[n++] = Int64GetDatum(numbers.rows);
	values[n++] = Int64GetDatum(numbers.bytes);
	nulls[n] = query->first_row_ms < 0;
	values[n++] = Float8GetDatum(query->first_row_ms);
	values[n++] = Float8GetDatum((end - query->started_at) / 1000.0);
	values[n++] = Float8GetDatum(query->queued_ms);
	values[n++] = Int64GetDatum(numbers.cached);
	nulls[n] = numbers.oldest == 0;
	/* another coordinator's clock may be ahead */
	values[n++] = Float8GetDatum(Max(logq_wall_time(query->started_at) -
									 numbers.oldest, 0) / 1000.0);
	nulls[n] = query->catalog_age_ms < 0;
	values[n++] = Float8GetDatum(query->catalog_age_ms);
	values[n++] = BoolGetDatum(query->ended_at == 0);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}
