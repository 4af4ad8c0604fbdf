/*-------------------------------------------------------------------------
 *
 * ingestwrite.c
 *		Batches on their way to all partitions.
 *
 * One batch is in the air at most; it is over when each sink has committed its
 * share.  A sink that is down is connected again, asked whether it has the
 * share, and sent it again if not, while the others go on.
 *
 * A message that a partition refuses is found by batches that become smaller
 * from run to run until one has a single message; that becomes a dead letter.
 *
 * Whatever here ends the run says so to its caller, who must not look at the
 * run any more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingestrun.h"
#include "maintain.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* when to try again */
#define MIN_RETRY_MS 1000
#define MAX_RETRY_MS 30000
/* bytes of rows in one batch */
#define MAX_BATCH_BYTES (16 * 1024 * 1024)
/* how long offsets may lag that no row moves */
#define LAZY_MS 1000
/* messages in a batch from which on one is not careful any more */
#define MAX_CAREFUL (64 * 1024)

/* messages in a batch at most, when one of them is refused; 0: any number */
static int	careful = 0;

/*
 * Is there no room for another message?
 */
bool
logq_run_is_full(const LogqRun *run)
{
	const LogqBatch *batch = run->filling;

	return batch->nrows >= logq_ingest_batch_rows ||
		batch->bytes >= MAX_BATCH_BYTES ||
		(careful > 0 && batch->nmessages >= careful);
}

/*
 * Is no sink of the run down?
 */
bool
logq_run_all_connected(const LogqRun *run)
{
	int			s;

	for (s = 0; s < run->nsinks; s++)
		if (run->sinks[s].conn == NULL)
			return false;
	return true;
}

/*
 * A partition refuses what it was sent.  Look for the message with smaller
 * batches, which begin where all partitions are by now.
 */
static void
handle_refusal(LogqRun *run, LogqSink *sink)
{
	LogqBatch  *batch = run->flying;
	int			k;

	if (batch->nmessages <= 1)
	{
		/* which one it is; none: the offsets alone are refused */
		for (k = 0; k < run->nkparts; k++)
			if (batch->counts[k].rows > 0 || batch->counts[k].dead > 0)
				break;
		if (k == run->nkparts ||
			!logq_poison_add(run->kparts[k].number, batch->to[k] - 1,
							 sink->part->number, sink->error))
		{
			/* not even as a dead letter */
			logq_poison_forget(-1, 0);
			logq_run_fail(LOGQ_INGEST_FAILED, sink->error, NULL);
			return;
		}
		careful = 1;
	}
	else
		careful = Max(batch->nmessages / 8, 1);
	ereport(batch->nmessages <= 1 ? LOG : DEBUG1,
			(errmsg("topic \"%s\": a message is refused: %s",
					run->topic->name, sink->error),
			 batch->nmessages <= 1 ?
			 errdetail("It becomes a dead letter.") : 0));
	logq_run_end(false);
}

static void
make_segments(void *arg)
{
	logq_sink_make_segments(arg);
}

/*
 * Write a sink's share, as soon as it has the segments for it.
 */
static void
write_share(LogqRun *run, LogqSink *sink)
{
	if (sink->share->nmissing > 0)
	{
		ErrorData  *edata = logq_worker_transaction(make_segments, sink,
													run->round_cxt);

		if (edata != NULL)
		{
			sink->failure = SINK_FAILED_LOST;
			sink->error = MemoryContextStrdup(run->cxt,
											  logq_worker_error_text(edata));
			/* libpq may have closed its socket: nobody shall wait for it */
			logq_sink_close(sink);
			run->sockets_changed = true;
			return;
		}
	}
	logq_sink_write(run, sink);
	if (sink->error != NULL)
	{
		/* likewise */
		logq_sink_close(sink);
		run->sockets_changed = true;
	}
}

static void
connect_again(void *arg)
{
	LogqSink   *sink = arg;
	LogqRun    *run = sink->run;

	logq_sink_connect(run, sink);
	logq_catalog_load(sink->part, sink->conn);
	sink->version = sink->part->version;
	/* without a share, this finds a standby that lacks the last commits */
	if (logq_sink_was_committed(run, sink) && sink->share != NULL)
		sink->committed = true;
}

/*
 * A sink has committed its share.
 */
static void
share_is_written(LogqRun *run, LogqSink *sink)
{
	int			k;

	for (k = 0; k < run->nkparts; k++)
		if (sink->share->to[k] > sink->next[k])
			sink->next[k] = sink->share->to[k];
	sink->share = NULL;
	sink->backoff = 0;
}

/*
 * A sink has failed, or is down.  False: that was the end of the run.
 */
static bool
handle_sink_failure(LogqRun *run, LogqSink *sink)
{
	ErrorData  *edata;
	TimestampTz now;
	bool		at_once = false;

	if (sink->error != NULL)
	{
		if (sink->failure == SINK_FAILED_DATA)
		{
			handle_refusal(run, sink);
			return false;
		}
		if (sink->failure == SINK_FAILED_FENCED)
		{
			logq_run_fail(LOGQ_INGEST_WAITING, sink->error,
					 "Let only one coordinator take in a topic: call logq.remove_topic() on all others.");
			return false;
		}
		if (sink->failure == SINK_FAILED_SEGMENT && sink->share != NULL)
		{
			sink->part->loaded = false;
			logq_share_find_missing(sink, sink->share);
			/* a segment was dropped; when that does not help, say so */
			at_once = sink->backoff == 0;
		}
		if (!at_once)
		{
			logq_run_complain(sink->error, NULL);
			logq_ingest_set_state(LOGQ_INGEST_WAITING);
		}
		logq_sink_close(sink);
		run->sockets_changed = true;
		pfree(sink->error);
		sink->error = NULL;
		sink->backoff = Min(Max(sink->backoff * 2, MIN_RETRY_MS),
							MAX_RETRY_MS);
		sink->retry_at = at_once ? 0 :
			TimestampTzPlusMilliseconds(logq_now(), sink->backoff);
	}

	now = logq_now();
	if (sink->conn != NULL || now < sink->retry_at)
		return true;
	sink->committed = false;
	edata = logq_worker_transaction(connect_again, sink, run->round_cxt);
	run->sockets_changed = true;
	if (edata != NULL)
	{
		if (edata->sqlerrcode == ERRCODE_LOGQ_FENCED)
		{
			logq_run_fail_error(edata);
			return false;
		}
		sink->failure = SINK_FAILED_LOST;
		sink->error = MemoryContextStrdup(run->cxt,
										  logq_worker_error_text(edata));
		return handle_sink_failure(run, sink);
	}
	if (sink->committed)
		share_is_written(run, sink);
	else if (sink->share != NULL)
		write_share(run, sink);
	else if (run->flying == NULL && !run->kafka_trouble && logq_run_all_connected(run))
		logq_run_succeed(false);
	return true;
}

/*
 * All sinks have what was in the air.  False: that was the end of the run.
 */
static bool
batch_is_written(LogqRun *run)
{
	LogqBatch  *batch = run->flying;
	bool		agree = true;
	bool		behind = false;
	int			k;
	int			s;

	for (k = 0; k < run->nkparts; k++)
	{
		LogqKpart  *kpart = &run->kparts[k];
		const LogqKcount *c = &batch->counts[k];

		logq_ingest_set_offsets(kpart->number, kpart->progress, -1);
		if (c->rows > 0 || c->dead > 0)
			logq_ingest_count(kpart->number, c->rows, c->bytes, c->dead);
		for (s = 0; s < run->nsinks; s++)
		{
			if (run->sinks[s].next[k] < kpart->progress)
				behind = true;
			if (run->sinks[s].next[k] != PG_INT64_MAX &&
				run->sinks[s].next[k] != kpart->progress)
				agree = false;
		}
		logq_poison_forget(kpart->number, kpart->progress);
	}
	if (careful > 0 && !logq_poison_any())
		careful = careful > MAX_CAREFUL ? 0 : careful * 2;
	logq_batch_reset(run, batch);
	run->spare = batch;
	run->flying = NULL;
	/* since when the first one does; batches that go on do not put it off */
	if (!behind)
		run->behind_since = 0;
	else if (run->behind_since == 0)
		run->behind_since = logq_now();
	logq_run_succeed(true);
	/* now the new routing can begin */
	if (run->catching_up && agree)
	{
		logq_run_end(false);
		return false;
	}
	return true;
}

/*
 * Send the batch off that is being filled.
 */
static void
launch(LogqRun *run, bool move_all)
{
	LogqBatch  *batch = run->filling;
	int			k;
	int			s;

	run->flying = batch;
	run->filling = run->spare;
	run->spare = NULL;
	for (k = 0; k < run->nkparts; k++)
		run->kparts[k].progress = Max(run->kparts[k].progress, batch->to[k]);
	for (s = 0; s < run->nsinks; s++)
	{
		LogqSink   *sink = &run->sinks[s];
		LogqShare  *share = &batch->shares[s];
		bool		moves = false;

		for (k = 0; k < run->nkparts; k++)
		{
			share->to[k] = run->kparts[k].progress;
			if (share->to[k] > sink->next[k])
				moves = true;
		}
		/* offsets that no row moves can wait for one that does */
		if (!moves || (share->nrows == 0 && share->ndead == 0 && !move_all))
			continue;
		sink->share = share;
		if (sink->conn != NULL)
			write_share(run, sink);
	}
}

/*
 * When the batch that is being filled is to go, 0: not yet known.
 */
static TimestampTz
batch_due(LogqRun *run)
{
	const LogqBatch *batch = run->filling;
	TimestampTz due = 0;
	bool		moved = run->behind_since != 0;
	int			k;

	if (batch->nmessages > 0)
	{
		if (logq_run_is_full(run))
			return DT_NOBEGIN;
		return TimestampTzPlusMilliseconds(batch->first_at,
										   logq_ingest_batch_ms);
	}
	for (k = 0; k < run->nkparts && !moved; k++)
		moved = batch->to[k] > run->kparts[k].progress;
	if (moved)
	{
		if (run->behind_since == 0)
			run->behind_since = logq_now();
		due = run->catching_up ? DT_NOBEGIN :
			TimestampTzPlusMilliseconds(run->behind_since, LAZY_MS);
	}
	return due;
}

/*
 * Let sinks go on, and batches off.  Returns when to come again, 0: when
 * something happens.  The run may be over afterwards.
 */
TimestampTz
logq_run_advance(LogqRun *run)
{
	TimestampTz next = 0;
	bool		busy = false;
	int			s;

	for (s = 0; s < run->nsinks; s++)
	{
		LogqSink   *sink = &run->sinks[s];

		if ((sink->conn == NULL || !logq_sink_advance(sink)) &&
			!handle_sink_failure(run, sink))
			return 0;
		if (sink->share != NULL && sink->phase == SINK_IDLE &&
			sink->committed && sink->error == NULL)
			share_is_written(run, sink);
		busy = busy || sink->share != NULL;
		if (sink->conn == NULL && (next == 0 || sink->retry_at < next))
			next = sink->retry_at;
		if (sink->phase == SINK_WRITING &&
			(next == 0 || sink->give_up_at < next))
			next = sink->give_up_at;
	}
	if (run->flying != NULL && !busy)
	{
		if (!batch_is_written(run))
			return 0;
	}
	if (run->flying == NULL && run->leave_at == 0)
	{
		TimestampTz now = logq_now();
		TimestampTz due = batch_due(run);

		if (due != 0 && due <= now)
		{
			/*
			 * While a message is looked for, runs end soon, and the next one
			 * shall not begin before what was found to be good.
			 */
			launch(run, run->catching_up || careful > 0 ||
				   (run->behind_since != 0 &&
					TimestampDifferenceExceeds(run->behind_since, now, LAZY_MS)));
			return now;
		}
		if (due != 0 && (next == 0 || due < next))
			next = due;
	}
	return next;
}
