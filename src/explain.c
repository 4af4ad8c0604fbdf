/*-------------------------------------------------------------------------
 *
 * explain.c
 *		What EXPLAIN says of a scan.
 *
 * Plain EXPLAIN does not connect: it shows which partitions and segments would
 * be asked, by our copy of the partitions' catalogs.  Numbers that
 * change from run to run are shown with ANALYZE only, times only with TIMING.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* How reasons are called in text, and in the names of properties */
static const char *const reason_names[LOGQ_NREASONS][2] = {
	[LOGQ_REASON_TIME] = {"time", "Segments Pruned by Time"},
	[LOGQ_REASON_ID] = {"id", "Segments Pruned by ID"},
	[LOGQ_REASON_LEVEL] = {"level", "Segments Pruned by Level"},
	[LOGQ_REASON_SERVICE] = {"service", "Segments Pruned by Service"},
	[LOGQ_REASON_TRACE_ID] = {"trace_id", "Segments Pruned by Trace ID"},
	[LOGQ_REASON_ATTRS] = {"attrs", "Segments Pruned by Attrs"},
	[LOGQ_REASON_WORDS] = {"words", "Segments Pruned by Words"},
	[LOGQ_REASON_SEVERAL] = {"several fields", "Segments Pruned by Several Fields"},
};

/* How sources of counts are called in text, and in the names of properties */
static const char *const source_names[LOGQ_NSOURCES][2] = {
	[LOGQ_SOURCE_ROWS] = {"rows", "Segments Counted by Rows"},
	[LOGQ_SOURCE_LEVELS] = {"minutes and levels", "Segments Counted by Minutes and Levels"},
	[LOGQ_SOURCE_SERVICES] = {"minutes, services and levels", "Segments Counted by Minutes, Services and Levels"},
	[LOGQ_SOURCE_CATALOG] = {"catalog", "Segments Counted by Catalog"},
};

/*
 * Names of the columns that travel.
 */
static char *
column_list(LogqScanState *state)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	for (i = 0; i < state->ncolumns; i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "",
						 logq_columns[state->columns[i]].name);
	return buf.data;
}

/*
 * The request as it goes to a partition, of one fragment.  Ids that travel
 * only for failover are not shown.
 */
static char *
remote_sql(LogqScanState *state, LogqStream *stream,
		   const LogqFragment *fragment, bool values)
{
	StringInfoData buf;
	LogqRequest request = state->request;
	LogqPartition *part = stream ? stream->part : NULL;
	LogqFragment any = {0};
	const char *select = "";

	if (!values)
	{
		memset(&request, 0, sizeof(request));
		request.tail = request.rollup_select = request.rollup_where = "";
		request.ordered = state->order != 0;
		request.descending = state->order < 0;
		request.bound = -1;
		if (state->upper != NULL)
		{
			LogqRequest saved = state->request;

			logq_upper_request(state);
			request.binned = state->request.binned;
			request.tail = state->request.tail;
			state->request = saved;
		}
	}
	if (state->upper != NULL)
		select = logq_upper_select(state, part, values);
	else
		select = column_list(state);
	if (fragment == NULL)
	{
		any.name = "<segment>";
		any.any = true;
		any.bins.width = 1;
		fragment = &any;
	}
	initStringInfo(&buf);
	logq_fragment_sql(&buf, &request, fragment, select,
					  logq_scan_where(state, state->where, part, values),
					  NULL, false,
					  stream != NULL && stream->share > 0 ? stream->share :
					  request.bound, logq_server_version());
	return buf.data;
}

/*
 * Requests, each of a kind once.
 */
static void
explain_remote_sql(LogqScanState *state, bool evaluated, ExplainState *es)
{
	bool		shown[LOGQ_NSOURCES] = {0};
	LogqStream *example = NULL;

	if (!evaluated)
	{
		ExplainPropertyText("Remote SQL",
							remote_sql(state, NULL, NULL, false), es);
		return;
	}
	for (int i = 0; i < state->nstreams; i++)
	{
		LogqStream *stream = &state->streams[i];
		const LogqFragment *fragments = stream->fragments;
		int			n = stream->nfragments;

		if (state->fates[i] != LOGQ_FATE_ASKED)
			continue;
		if (example == NULL)
			example = stream;
		if (state->upper != NULL && state->pruned[i].sources_valid)
		{
			fragments = state->pruned[i].fragments;
			n = state->pruned[i].nfragments;
		}
		for (int f = 0; f < n; f++)
		{
			LogqSource	source = fragments[f].source;

			if (shown[source])
				continue;
			shown[source] = true;
			ExplainPropertyText(source == LOGQ_SOURCE_ROWS ? "Remote SQL" :
								"Rollup SQL",
								remote_sql(state, stream, &fragments[f],
										   true), es);
		}
	}
	/* nobody knows the segments yet, or there is none */
	for (int source = 0; source < LOGQ_NSOURCES; source++)
		if (shown[source])
			return;
	if (example != NULL)
		ExplainPropertyText("Remote SQL",
							remote_sql(state, example, NULL, true), es);
}

/*
 * What the segments' rows are counted by.
 */
static void
explain_sources(LogqScanState *state, ExplainState *es)
{
	int64		segments[LOGQ_NSOURCES] = {0};
	StringInfoData buf;

	for (int i = 0; i < state->nstreams; i++)
		if (state->pruned[i].sources_valid)
			for (int s = 0; s < LOGQ_NSOURCES; s++)
				segments[s] += state->pruned[i].segments[s];
	initStringInfo(&buf);
	for (int s = LOGQ_NSOURCES - 1; s >= 0; s--)
	{
		if (es->format != EXPLAIN_FORMAT_TEXT)
			ExplainPropertyInteger(source_names[s][1], NULL, segments[s], es);
		else if (segments[s] > 0)
			appendStringInfo(&buf, "%s" INT64_FORMAT " by %s",
							 buf.len > 0 ? ", " : "", segments[s],
							 source_names[s][0]);
	}
	if (buf.len > 0)
		ExplainPropertyText("Counted", buf.data, es);
}

/*
 * One number of a list of reasons: ", 2 by id".
 */
static void
append_reason(StringInfo buf, int64 n, const char *reason)
{
	if (n > 0)
		appendStringInfo(buf, "%s" INT64_FORMAT " by %s",
						 buf->len > 0 ? ", " : "", n, reason);
}

/*
 * "3 of 504 (pruned: ...)"
 */
static char *
pruned_text(int64 left, int64 total, StringInfo reasons)
{
	return psprintf(INT64_FORMAT " of " INT64_FORMAT "%s%s%s", left, total,
					reasons->len > 0 ? " (pruned: " : "", reasons->data,
					reasons->len > 0 ? ")" : "");
}

/*
 * Partitions and segments: how many there are, how many are asked, and why
 * not the others.
 */
static void
explain_pruning(LogqScanState *state, bool evaluated, ExplainState *es)
{
	StringInfoData reasons;
	char	   *segments;
	int			by[LOGQ_NFATES] = {0};
	int64		removed[LOGQ_NREASONS] = {0};
	int64		known = 0;
	int64		left = 0;
	int64		with_partition = 0;
	int			unknown = 0;
	int			i;

	if (!evaluated)
	{
		List	   *parts = logq_partitions();

		if (es->format == EXPLAIN_FORMAT_TEXT)
			ExplainPropertyText("Partitions",
								psprintf("%d, pruned at run time",
										 list_length(parts)), es);
		else
			ExplainPropertyInteger("Partitions Total", NULL,
								   list_length(parts), es);
		return;
	}

	for (i = 0; i < state->nstreams; i++)
	{
		LogqPartition *part = state->streams[i].part;
		LogqPruned *pruned = &state->pruned[i];
		int			n = pruned->known;

		by[state->fates[i]]++;
		if (n < 0)
		{
			/* nobody has looked, if the partition was pruned as a whole */
			logq_catalog_update(part);
			n = part->loaded ? part->nsegments : -1;
		}
		if (n < 0)
			unknown++;
		else
		{
			known += n;
			left += pruned->nleft;
		}
		if (pruned->valid)
		{
			for (int r = 0; r < LOGQ_NREASONS; r++)
				removed[r] += pruned->removed[r];
		}
		else if (n > 0)
			with_partition += n;
	}

	if (es->format != EXPLAIN_FORMAT_TEXT)
	{
		ExplainPropertyInteger("Partitions Total", NULL, state->nstreams, es);
		ExplainPropertyInteger("Partitions Asked", NULL,
							   by[LOGQ_FATE_ASKED], es);
		ExplainPropertyInteger("Partitions Pruned by Name", NULL,
							   by[LOGQ_FATE_PRUNED_NAME], es);
		ExplainPropertyInteger("Partitions Pruned by ID", NULL,
							   by[LOGQ_FATE_PRUNED_ID], es);
		ExplainPropertyInteger("Partitions Pruned by Contradiction", NULL,
							   by[LOGQ_FATE_PRUNED_EMPTY], es);
		ExplainPropertyInteger("Partitions Pruned by Segments", NULL,
							   by[LOGQ_FATE_PRUNED_SEGMENTS], es);
		ExplainPropertyInteger("Partitions Answered by Catalog", NULL,
							   by[LOGQ_FATE_CATALOG], es);
		ExplainPropertyInteger("Segments Known", NULL, known, es);
		ExplainPropertyInteger("Segments Asked", NULL, left, es);
		for (i = 0; i < LOGQ_NREASONS; i++)
			ExplainPropertyInteger(reason_names[i][1], NULL, removed[i], es);
		ExplainPropertyInteger("Segments Pruned with Partition", NULL,
							   with_partition, es);
		ExplainPropertyInteger("Partitions with Unknown Segments", NULL,
							   unknown, es);
		return;
	}

	initStringInfo(&reasons);
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_NAME], "partition");
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_ID], "id");
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_EMPTY], "contradiction");
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_SEGMENTS], "segments");
	append_reason(&reasons, by[LOGQ_FATE_CATALOG], "catalog");
	ExplainPropertyText("Partitions",
						pruned_text(by[LOGQ_FATE_ASKED], state->nstreams,
									&reasons), es);

	if (unknown > 0 && unknown == state->nstreams)
	{
		ExplainPropertyText("Segments", "not yet known", es);
		return;
	}
	resetStringInfo(&reasons);
	for (i = 0; i < LOGQ_NREASONS; i++)
		append_reason(&reasons, removed[i], reason_names[i][0]);
	append_reason(&reasons, with_partition, "partition");
	segments = pruned_text(left, known, &reasons);
	if (unknown > 0)
		segments = psprintf("%s, those of %d partitions not yet known",
							segments, unknown);
	ExplainPropertyText("Segments", segments, es);
}

/*
 * What each partition sent back.
 */
static void
explain_streams(LogqScanState *state, ExplainState *es)
{
	int			i;

	ExplainOpenGroup("Streams", "Streams", false, es);
	for (i = 0; i < state->nstreams; i++)
	{
		LogqStream *stream = &state->streams[i];

		if (stream->requests == 0 && stream->missing == NULL)
			continue;
		if (es->format == EXPLAIN_FORMAT_TEXT)
		{
			StringInfoData buf;

			initStringInfo(&buf);
			appendStringInfo(&buf, "rows=" INT64_FORMAT " bytes=" INT64_FORMAT
							 " segments=" INT64_FORMAT " requests=" INT64_FORMAT,
							 stream->rows - stream->rows_cached,
							 stream->bytes,
							 stream->fragments_asked, stream->requests);
			if (es->timing && stream->first_row_ms >= 0)
				appendStringInfo(&buf, " first row=%.3f ms",
								 stream->first_row_ms);
			if (stream->retries > 0)
				appendStringInfo(&buf, " retried=" INT64_FORMAT,
								 stream->retries);
			if (stream->hedges > 0)
				appendStringInfo(&buf, " hedged=" INT64_FORMAT,
								 stream->hedges);
			if (stream->missing != NULL)
				appendStringInfo(&buf, " missing: %s",
								 stream->missing->reason);
			else if (stream->servers != NULL && stream->server > 0)
				appendStringInfo(&buf, " replica=%s",
								 stream->servers->servers[stream->server].address);
			ExplainPropertyText(psprintf("Partition %s", stream->part->name),
								buf.data, es);
		}
		else
		{
			ExplainOpenGroup("Stream", NULL, true, es);
			ExplainPropertyText("Partition", stream->part->name, es);
			ExplainPropertyInteger("Rows", NULL,
								   stream->rows - stream->rows_cached, es);
			ExplainPropertyInteger("Bytes", NULL, stream->bytes, es);
			ExplainPropertyInteger("Segments", NULL, stream->fragments_asked,
								   es);
			ExplainPropertyInteger("Requests", NULL, stream->requests, es);
			if (es->timing && stream->first_row_ms >= 0)
				ExplainPropertyFloat("First Row Time", "ms",
									 stream->first_row_ms, 3, es);
			ExplainPropertyInteger("Retries", NULL, stream->retries, es);
			ExplainPropertyInteger("Hedges", NULL, stream->hedges, es);
			ExplainPropertyBool("Missing", stream->missing != NULL, es);
			if (stream->servers != NULL)
				ExplainPropertyText("Server",
									stream->servers->servers[stream->server].address,
									es);
			ExplainCloseGroup("Stream", NULL, true, es);
		}
	}
	ExplainCloseGroup("Streams", "Streams", false, es);
}

/*
 * What came from the cache, and how old it was at most.
 */
static void
explain_cache(LogqScanState *state, ExplainState *es)
{
	int64		cached[LOGQ_NCACHE_LEVELS] = {0};
	int64		stored = 0;
	int64		rows = 0;
	TimestampTz oldest = 0;
	double		age = 0;
	bool		any = false;

	for (int i = 0; i < state->nstreams; i++)
	{
		const LogqStream *stream = &state->streams[i];

		for (int level = 0; level < LOGQ_NCACHE_LEVELS; level++)
		{
			cached[level] += stream->cached[level];
			any |= stream->cached[level] > 0;
		}
		rows += stream->rows_cached;
		stored += stream->stored;
		if (stream->oldest != 0 && (oldest == 0 || stream->oldest < oldest))
			oldest = stream->oldest;
	}
	if (oldest != 0)
		age = Max(GetCurrentTimestamp() - oldest, 0) / 1000.0;
	if (es->format == EXPLAIN_FORMAT_TEXT)
	{
		StringInfoData buf;

		if (!any && stored == 0)
			return;
		initStringInfo(&buf);
		appendStringInfo(&buf, "memory=" INT64_FORMAT " redis=" INT64_FORMAT
						 " rows=" INT64_FORMAT, cached[LOGQ_CACHE_MEMORY],
						 cached[LOGQ_CACHE_REDIS], rows);
		if (es->timing && oldest != 0)
			appendStringInfo(&buf, " oldest=%.0f ms", age);
		if (stored > 0)
			appendStringInfo(&buf, " stored=" INT64_FORMAT, stored);
		ExplainPropertyText("Cache", buf.data, es);
		return;
	}
	ExplainPropertyInteger("Segments from Memory", NULL,
						   cached[LOGQ_CACHE_MEMORY], es);
	ExplainPropertyInteger("Segments from Redis", NULL,
						   cached[LOGQ_CACHE_REDIS], es);
	ExplainPropertyInteger("Rows from Cache", NULL, rows, es);
	ExplainPropertyInteger("Segments Stored", NULL, stored, es);
	if (es->timing && oldest != 0)
		ExplainPropertyFloat("Oldest from Cache", "ms", age, 3, es);
}

/*
 * The name of the log table, as core shows it of other scans.
 */
static char *
relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/*
 * EXPLAIN callback of the scan node.
 */
void
logq_explain_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	LogqScanState *state = (LogqScanState *) node;
	bool		evaluated = state->runs > 0;

	/* never at the end of a run, where there may be no snapshot */
	if (!evaluated &&
		(state->css.ss.ps.state->es_top_eflags & EXEC_FLAG_EXPLAIN_ONLY))
		evaluated = logq_scan_plan_partitions(state, true);

	if (state->upper != NULL)
		ExplainPropertyText("Relation", relation_name(state->upper->relid),
							es);
	if (state->order != 0)
		ExplainPropertyText("Merge Order", state->order < 0 ?
							"ts DESC, id DESC" : "ts, id", es);
	explain_pruning(state, evaluated, es);
	if (evaluated && state->request.bound >= 0)
		ExplainPropertyInteger("Row Limit", NULL, state->request.bound, es);
	else if (!evaluated && state->limit != NULL &&
			 es->format == EXPLAIN_FORMAT_TEXT)
		ExplainPropertyText("Row Limit", "set at run time", es);

	if (evaluated && state->upper != NULL &&
		state->upper->mode == LOGQ_UPPER_COUNTS)
		explain_sources(state, es);
	if (es->verbose)
		explain_remote_sql(state, evaluated, es);
	if (es->analyze && state->runs > 0)
	{
		explain_cache(state, es);
		explain_streams(state, es);
	}
}
