/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Which segments a request asks for, how many rows, and its SQL.
 *
 * K rows are rarely all on one partition.  An ordered scan that needs K asks
 * each partition for its share of them and some more (scan.c), beginning with
 * its first segment.  Should the merge run dry, it asks for the share that this
 * partition has had so far of what is still needed, behind the last row.
 * When few rows match, whole segments are asked, in growing batches.
 *
 * Invariant: fragments up to batch_start have given all they have; a segment
 * is only ever left behind when it had fewer rows than it was asked for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cacherun.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* growth of batches by each request */
#define BATCH_GROWTH 4
/* segments in one request at most, to keep its text at some tens of kB */
#define MAX_BATCH 128
/* and in the first one, which rests on estimates alone */
#define MAX_FIRST_BATCH 16
/* rows that a partition may read before it has to say something */
#define MAX_SILENT_ROWS 20000

/* ---------- fragments ---------- */

/*
 * Leave out of the fragments what comes before the last row that the scan has
 * handed out.
 */
static void
skip_to_last_row(LogqStream *stream)
{
	const LogqRequest *request = stream->request;
	int			skip = 0;

	while (skip < stream->nfragments)
	{
		LogqFragment *fragment = &stream->fragments[skip];

		if (request->descending ? fragment->lower <= request->last_ts :
			fragment->upper > request->last_ts)
			break;
		skip++;
	}
	stream->fragments += skip;
	stream->nfragments -= skip;
	stream->ts = request->last_ts;
	stream->id = request->last_id;
	stream->has_key = true;
	if (stream->nfragments > 0)
	{
		LogqFragment *fragment = &stream->fragments[0];

		stream->resume = fragment->lower <= request->last_ts &&
			fragment->upper > request->last_ts;
	}
}

/*
 * Choose fragments from the catalog as it is known now.
 */
void
logq_plan_fragments(LogqStream *stream)
{
	stream->nfragments = 0;
	stream->batch_start = stream->batch_end = stream->batch_done = 0;
	stream->batch_size = 0;
	stream->resume = false;
	stream->poor = false;
	stream->plan_version = stream->part->version;
	stream->planner(stream, stream->planner_arg);
	stream->replanned = true;
	/* nothing is handed out while a stream has no bound, so it kept its own */
	if (stream->request->ordered && stream->request->handed_out)
		skip_to_last_row(stream);
	logq_cache_planned(stream);
}

/*
 * The catalog was read because a segment had gone: leave out of the fragments
 * not yet done those that are no longer there.  False: all are there, so the
 * error was about something else.
 */
bool
logq_forget_dropped_fragments(LogqStream *stream)
{
	int			from = stream->batch_start + stream->batch_done;
	int			to = from;
	bool		first_gone = false;
	int			i;

	for (i = from; i < stream->nfragments; i++)
	{
		const LogqSegment *seg = logq_segment_for(stream->part,
												  stream->fragments[i].lower);

		/* rollups of a segment that has gone are gone, which is no error */
		if (stream->fragments[i].source != LOGQ_SOURCE_ROWS ||
			(seg != NULL &&
			 strcmp(seg->name, stream->fragments[i].name) == 0))
			stream->fragments[to++] = stream->fragments[i];
		else if (i == from)
			first_gone = true;
	}
	if (to == stream->nfragments)
		return false;
	stream->nfragments = to;
	stream->looked_up = Min(stream->looked_up, to);
	/* what was had of the first one is to be left out as long as it is there */
	if (first_gone || stream->batch_done > 0)
	{
		stream->resume = false;
		logq_had_reset(stream);
	}
	stream->batch_start = stream->batch_end = from;
	stream->batch_done = 0;
	return true;
}

/*
 * The fragment that the next row can come from, or nfragments.
 */
static int
next_fragment(const LogqStream *stream)
{
	if (stream->state == LOGQ_STREAM_HELD)
		return stream->batch_end;
	return Min(stream->batch_start + stream->batch_done, stream->nfragments);
}

/*
 * Unless the catalog is confirmed or trusted nothing is known; from then on
 * the bounds of the segments, which never change, and the last row.
 */
void
logq_stream_bound(const LogqStream *stream, int64 *ts, int64 *id)
{
	const LogqRequest *request = stream->request;
	int			next = next_fragment(stream);
	bool		desc = request->descending;

	*id = desc ? PG_INT64_MAX : PG_INT64_MIN;
	if (!stream->confirmed && !stream->trusted)
	{
		*ts = desc ? PG_INT64_MAX : PG_INT64_MIN;
		return;
	}
	if (next >= stream->nfragments)
	{
		/* only the end is to come */
		*ts = desc ? PG_INT64_MIN : PG_INT64_MAX;
		return;
	}
	*ts = desc ? Min(stream->fragments[next].upper - 1, request->ts_high) :
		Max(stream->fragments[next].lower, request->ts_low);
	if (stream->has_key &&
		(desc ? stream->ts <= *ts : stream->ts >= *ts))
	{
		*ts = stream->ts;
		*id = stream->id;
	}
}

/*
 * How far the next segment reaches in the merge's order.
 */
int64
logq_stream_horizon(const LogqStream *stream)
{
	int			next = next_fragment(stream);

	if ((!stream->confirmed && !stream->trusted) ||
		next >= stream->nfragments)
		return stream->request->descending ? PG_INT64_MAX : PG_INT64_MIN;
	return stream->request->descending ? stream->fragments[next].lower :
		stream->fragments[next].upper - 1;
}

/* ---------- requests ---------- */

/*
 * Append a condition; *first: it is the first one.
 */
static void
append_condition(StringInfo buf, bool *first, const char *condition)
{
	appendStringInfo(buf, "%s%s", *first ? " WHERE " : " AND ", condition);
	*first = false;
}

/*
 * Append the bounds of a slice.
 */
static void
append_slice(StringInfo buf, bool *first, const LogqFragment *fragment,
			 const char *column)
{
	StringInfoData slice;

	if (!fragment->sliced)
		return;
	initStringInfo(&slice);
	appendStringInfo(&slice, "%s >= ", column);
	logq_append_time(&slice, fragment->from);
	appendStringInfo(&slice, " AND %s < ", column);
	logq_append_time(&slice, fragment->to);
	append_condition(buf, first, slice.data);
	pfree(slice.data);
}

/*
 * The SQL that asks one fragment.  by_id: an unordered one that was cut off is
 * gone on with in the order of ids.
 */
void
logq_fragment_sql(StringInfo buf, const LogqRequest *request,
				  const LogqFragment *fragment, const char *select,
				  const char *where, const char *extra, bool by_id,
				  int64 limit, int server_version)
{
	bool		rows = fragment->source == LOGQ_SOURCE_ROWS;
	const char *column = rows ? "ts" : "minute";
	bool		first = true;
	/* a rollup has each minute and what it counts by but once */
	bool		as_is = !rows && request->binned &&
		fragment->bins.width == USECS_PER_MINUTE &&
		request->rollup_fits[fragment->source];

	if (!rows)
		select = as_is ? request->rollup_rows : request->rollup_select;
	appendStringInfoString(buf, "SELECT");
	if (request->binned)
	{
		appendStringInfoChar(buf, ' ');
		/* minutes are bins of their own */
		if (rows || fragment->bins.width != USECS_PER_MINUTE)
			logq_append_bin(buf, &fragment->bins, fragment->upper, column,
							server_version);
		else
			appendStringInfoString(buf, column);
	}
	if (select[0] != '\0')
		appendStringInfo(buf, "%s%s", request->binned ? ", " : " ", select);
	if (rows)
	{
		appendStringInfo(buf, " FROM " LOGQ_STORE_SCHEMA ".%s%s",
						 fragment->any ? fragment->name :
						 quote_identifier(fragment->name), where);
		first = where[0] == '\0';
	}
	else
	{
		appendStringInfo(buf, " FROM " LOGQ_STORE_SCHEMA ".%s WHERE segment = ANY (%s)%s",
						 fragment->source == LOGQ_SOURCE_LEVELS ?
						 "rollup_level" : "rollup_service",
						 fragment->name, request->rollup_where);
		first = false;
	}
	append_slice(buf, &first, fragment, column);
	if (extra != NULL)
		append_condition(buf, &first, extra);
	if (!as_is)
		appendStringInfoString(buf, request->tail);
	if (request->ordered)
		appendStringInfoString(buf, request->descending ?
							   " ORDER BY ts DESC, id DESC" :
							   " ORDER BY ts, id");
	else if (by_id)
		appendStringInfoString(buf, " ORDER BY id");
	if (limit >= 0)
		appendStringInfo(buf, " LIMIT " INT64_FORMAT, limit);
}

/*
 * Rows that are still needed of this partition at most, -1: all.
 */
int64
logq_batch_rows_needed(LogqStream *stream)
{
	const LogqRequest *request = stream->request;

	if (request->bound < 0)
		return -1;
	return Max(Min(request->bound - stream->scan_rows, request->remaining), 0);
}

/*
 * The condition that leaves out what has been handed out already, or NULL when
 * that is for us to do.
 */
static char *
resume_condition(LogqStream *stream)
{
	StringInfoData buf;

	if (!stream->request->ordered)
		return stream->had.any ?
			psprintf("id > '" INT64_FORMAT "'::bigint", stream->had.last) :
			NULL;
	initStringInfo(&buf);
	appendStringInfo(&buf, "(ts, id) %c (",
					 stream->request->descending ? '<' : '>');
	logq_append_time(&buf, stream->ts);
	appendStringInfo(&buf, ", '" INT64_FORMAT "'::bigint)", stream->id);
	return buf.data;
}

/*
 * How many of the next fragments it takes, by what is known of them, to have
 * so many rows.  Fewer would only cost another round trip.  *before: rows of
 * all of them but the last.
 */
static int
fragments_for(LogqStream *stream, int64 wanted, double *before)
{
	double		rows = 0;
	int			size = 0;
	int			most = stream->batch_size == 0 ? MAX_FIRST_BATCH : MAX_BATCH;

	stream->batch_expected = -1;
	while (size < most &&
		   stream->batch_end + size < stream->nfragments)
	{
		LogqFragment *fragment = &stream->fragments[stream->batch_end + size];

		size++;
		*before = rows;
		rows += Max(fragment->rows, 0);
		if (fragment->rows < 0)
			return size;
		if (rows >= wanted)
			break;
	}
	stream->batch_expected = rows;
	return Max(size, 1);
}

/*
 * How many rows the next request should bring: the share of what is still
 * needed that this partition has had so far, and twice the spread that chance
 * would give it.  0: as many as are needed.
 */
static int64
rows_to_ask(LogqStream *stream, int64 needed)
{
	const LogqRequest *request = stream->request;
	int64		emitted = request->bound - request->remaining;
	int64		ask = stream->share;

	if (needed < 0 || ask <= 0 || stream->poor)
		return 0;
	if (stream->scan_rows > 0 && emitted > 0)
	{
		ask = (int64) ((double) request->remaining *
					   Min((double) stream->scan_rows / emitted, 1.0)) + 1;
		ask += (int64) (2 * sqrt((double) ask)) + 8;
	}
	return ask < needed ? ask : 0;
}

/*
 * Fragments of the batch that are really asked, but for the first so many.
 */
int
logq_batch_asked(const LogqStream *stream, int done)
{
	int			asked = 0;

	for (int i = stream->batch_start + done; i < stream->batch_end; i++)
		asked += !logq_fragment_is_cached(&stream->fragments[i]);
	return asked;
}

/*
 * Choose the next batch: fragments from batch_start to batch_end, and how
 * many rows of the last one.
 */
void
logq_batch_choose(LogqStream *stream)
{
	int64		needed = logq_batch_rows_needed(stream);
	int64		ask = rows_to_ask(stream, needed);
	double		before = 0;
	int			size;
	int			limited;

	/* rows that have been had before will come again */
	if (needed >= 0 && stream->resume)
		needed += stream->had.count;
	stream->batch_limit = needed;
	stream->batch_expected = -1;
	if (stream->resume && !stream->request->ordered)
		size = 1;
	else if (needed < 0)
		size = MAX_BATCH;
	else if (ask > 0)
	{
		size = stream->resume ? 1 : fragments_for(stream, ask, &before);
		stream->batch_limit = Min(Max(ask - (int64) before, 8), needed);
	}
	else if (stream->resume)
		size = 1;
	else
	{
		size = stream->batch_size == 0 ? 1 :
			Min(stream->batch_size * BATCH_GROWTH, MAX_BATCH);
		size = Max(size, fragments_for(stream, needed, &before));
	}
	limited = logq_cache_limit_batch(stream, size);
	/* that was the share of fragments which are not of this batch */
	if (ask > 0 && !stream->resume && limited < size)
		stream->batch_limit = Min(ask, needed);
	size = limited;
	stream->batch_size = size;
	stream->batch_ask = ask;
	stream->batch_rows = 0;
	stream->fragment_rows = 0;
	stream->batch_start = stream->batch_end;
	stream->batch_end = Min(stream->batch_start + size, stream->nfragments);
	stream->batch_done = 0;
	stream->fragments_asked += logq_batch_asked(stream, 0);
}

/*
 * All segments of a batch have ended.  Was the last one cut off by its share of
 * a LIMIT, or are just its first rows in the cache, so that it has more?
 */
bool
logq_batch_was_cut_off(const LogqStream *stream)
{
	const LogqCached *cached = stream->batch_end == 0 ? NULL :
		stream->fragments[stream->batch_end - 1].cached;

	if (cached != NULL && cached->state == LOGQ_CACHED_BEGUN)
		return true;
	if (cached != NULL && cached->state == LOGQ_CACHED_TAKEN)
		return false;
	return stream->batch_ask > 0 &&
		stream->fragment_rows >= stream->batch_limit;
}

/*
 * A batch has come to its end.  If its last segment was cut off, it is asked
 * again from where it was.  If few rows match, asking by shares is over.
 */
void
logq_batch_ended(LogqStream *stream)
{
	stream->resume = false;
	if (logq_batch_was_cut_off(stream))
	{
		stream->batch_end--;
		stream->resume = true;
	}
	else if (stream->batch_ask > 0 && !stream->local_batch &&
			 stream->batch_rows * BATCH_GROWTH < stream->batch_ask &&
			 (stream->batch_expected < 0 ||
			  stream->batch_rows * BATCH_GROWTH < stream->batch_expected))
		stream->poor = true;
}

/*
 * Write what reads the next batch.  Before a segment that will take a while the partition
 * is made to send what it has, so that a silent one can be told from one that
 * is at work.
 */
char *
logq_batch_copies(LogqStream *stream, int server_version)
{
	StringInfoData buf;
	StringInfoData extra;
	char	   *resume = NULL;
	double		silent = 0;
	int64		needed;
	int			i;

	needed = logq_batch_rows_needed(stream);
	stream->kept.limit = needed;
	if (stream->resume)
		resume = resume_condition(stream);

	initStringInfo(&buf);
	initStringInfo(&extra);
	for (i = stream->batch_start + stream->batch_done; i < stream->batch_end; i++)
	{
		const LogqFragment *fragment = &stream->fragments[i];

		if (logq_fragment_is_cached(fragment))
			continue;
		resetStringInfo(&extra);
		if (resume != NULL)
			appendStringInfoString(&extra, resume);
		if (buf.len == 0 || silent > MAX_SILENT_ROWS)
		{
			appendStringInfo(&extra, "%s" LOGQ_SIGN_OF_LIFE,
							 extra.len > 0 ? " AND " : "");
			silent = 0;
		}
		silent += fragment->size < 0 ? MAX_SILENT_ROWS : fragment->size;
		appendStringInfoString(&buf, "COPY (");
		logq_fragment_sql(&buf, stream->request, fragment, stream->select,
						  stream->where, extra.len > 0 ? extra.data : NULL,
						  stream->resume,
						  i == stream->batch_end - 1 ?
						  stream->batch_limit : needed, server_version);
		appendStringInfoString(&buf, ") TO STDOUT (FORMAT binary); ");
	}
	pfree(extra.data);
	return buf.data;
}
