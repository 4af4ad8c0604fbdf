/*-------------------------------------------------------------------------
 *
 * explain.c
 *		What EXPLAIN says of a scan.
 *
 * Plain EXPLAIN does not connect: it shows which partitions would be asked,
 * and which of the segments that this session already knows.  Numbers that
 * change from run to run are shown with ANALYZE only, times only with TIMING.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

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
 * The request as it goes to a partition, of one segment.
 */
static char *
remote_sql(LogqScanState *state, LogqStream *stream, bool values)
{
	StringInfoData buf;
	LogqRequest request = state->request;
	const char *segment = "<segment>";

	if (request.select_list == NULL)
	{
		request.select_list = column_list(state);
		request.nfields = state->ncolumns;
		request.ordered = state->order != 0;
		request.descending = state->order < 0;
		request.bound = -1;
	}
	if (stream != NULL && stream->nfragments > 0)
		segment = quote_identifier(stream->fragments[0].name);
	initStringInfo(&buf);
	logq_fragment_sql(&buf, &request, segment,
					  logq_scan_where(state, stream ? stream->part : NULL,
									  values),
					  NULL,
					  stream != NULL && stream->share > 0 ? stream->share :
					  request.bound);
	return buf.data;
}

/*
 * One number of a list of reasons: ", 2 by id".
 */
static void
append_reason(StringInfo buf, int n, const char *reason)
{
	if (n > 0)
		appendStringInfo(buf, "%s%d by %s", buf->len > 0 ? ", " : "", n,
						 reason);
}

/*
 * Partitions and segments: how many there are, how many are asked, and why
 * not the others.
 */
static void
explain_pruning(LogqScanState *state, bool evaluated, ExplainState *es)
{
	StringInfoData reasons;
	int			by[4] = {0, 0, 0, 0};
	int64		known = 0;
	int64		left = 0;
	int64		time_pruned = 0;
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
		by[state->fates[i]]++;
		if (state->segments_known[i] < 0)
			unknown++;
		else
		{
			known += state->segments_known[i];
			if (state->fates[i] == LOGQ_FATE_ASKED)
			{
				left += state->segments_left[i];
				time_pruned += state->segments_known[i] -
					state->segments_left[i];
			}
		}
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
		ExplainPropertyInteger("Segments Known", NULL, known, es);
		ExplainPropertyInteger("Segments Asked", NULL, left, es);
		ExplainPropertyInteger("Segments Pruned by Time", NULL, time_pruned,
							   es);
		ExplainPropertyInteger("Segments Pruned with Partition", NULL,
							   known - left - time_pruned, es);
		ExplainPropertyInteger("Partitions with Unknown Segments", NULL,
							   unknown, es);
		return;
	}

	initStringInfo(&reasons);
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_NAME], "partition");
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_ID], "id");
	append_reason(&reasons, by[LOGQ_FATE_PRUNED_EMPTY], "contradiction");
	ExplainPropertyText("Partitions",
						psprintf("%d of %d%s%s%s", by[LOGQ_FATE_ASKED],
								 state->nstreams,
								 reasons.len > 0 ? " (pruned: " : "",
								 reasons.data, reasons.len > 0 ? ")" : ""),
						es);

	resetStringInfo(&reasons);
	append_reason(&reasons, (int) time_pruned, "time");
	append_reason(&reasons, (int) (known - left - time_pruned), "partition");
	if (unknown > 0 && unknown == state->nstreams)
		ExplainPropertyText("Segments", "not yet known to this session", es);
	else
		ExplainPropertyText("Segments",
							psprintf("" INT64_FORMAT " of " INT64_FORMAT "%s%s%s%s",
									 left, known,
									 reasons.len > 0 ? " (pruned: " : "",
									 reasons.data,
									 reasons.len > 0 ? ")" : "",
									 unknown > 0 ?
									 psprintf(", those of %d partitions not yet known to this session", unknown) : ""),
							es);
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

		if (stream->requests == 0)
			continue;
		if (es->format == EXPLAIN_FORMAT_TEXT)
		{
			StringInfoData buf;

			initStringInfo(&buf);
			appendStringInfo(&buf, "rows=" INT64_FORMAT " bytes=" INT64_FORMAT
							 " segments=" INT64_FORMAT " requests=" INT64_FORMAT,
							 stream->rows, stream->bytes,
							 stream->fragments_asked, stream->requests);
			if (es->timing && stream->first_row_ms >= 0)
				appendStringInfo(&buf, " first row=%.3f ms",
								 stream->first_row_ms);
			ExplainPropertyText(psprintf("Partition %s", stream->part->name),
								buf.data, es);
		}
		else
		{
			ExplainOpenGroup("Stream", NULL, true, es);
			ExplainPropertyText("Partition", stream->part->name, es);
			ExplainPropertyInteger("Rows", NULL, stream->rows, es);
			ExplainPropertyInteger("Bytes", NULL, stream->bytes, es);
			ExplainPropertyInteger("Segments", NULL, stream->fragments_asked,
								   es);
			ExplainPropertyInteger("Requests", NULL, stream->requests, es);
			if (es->timing && stream->first_row_ms >= 0)
				ExplainPropertyFloat("First Row Time", "ms",
									 stream->first_row_ms, 3, es);
			ExplainCloseGroup("Stream", NULL, true, es);
		}
	}
	ExplainCloseGroup("Streams", "Streams", false, es);
}

/*
 * EXPLAIN callback of the scan node.
 */
void
logq_explain_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	LogqScanState *state = (LogqScanState *) node;
	bool		evaluated = state->runs > 0;

	if (!evaluated)
		evaluated = logq_scan_plan_partitions(state, true);

	if (state->order != 0)
		ExplainPropertyText("Merge Order", state->order < 0 ?
							"ts DESC, id DESC" : "ts, id", es);
	explain_pruning(state, evaluated, es);
	if (evaluated && state->request.bound >= 0)
		ExplainPropertyInteger("Row Limit", NULL, state->request.bound, es);
	else if (!evaluated && state->limit != NULL &&
			 es->format == EXPLAIN_FORMAT_TEXT)
		ExplainPropertyText("Row Limit", "set at run time", es);

	if (es->verbose)
	{
		LogqStream *example = NULL;
		int			i;

		for (i = 0; evaluated && i < state->nstreams; i++)
			if (state->fates[i] == LOGQ_FATE_ASKED &&
				(example == NULL ||
				 (example->nfragments == 0 &&
				  state->streams[i].nfragments > 0)))
				example = &state->streams[i];
		if (!evaluated || example != NULL)
			ExplainPropertyText("Remote SQL",
								remote_sql(state, example, evaluated), es);
	}
	if (es->analyze && state->runs > 0)
		explain_streams(state, es);
}
