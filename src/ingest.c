/*-------------------------------------------------------------------------
 *
 * ingest.c
 *		Ingest worker: takes in one Kafka topic.
 *
 * Messages come from a process of their own (reader.c), become rows
 * (ingestfill.c) and are written to all partitions at once (sink.c), while the
 * next batch is being filled.  At most two batches are in memory.  While both
 * are full nothing is read, and librdkafka stops fetching.
 *
 * Exactly once: a partition moves its offsets in the transaction that writes
 * the rows.  Nothing else that is kept anywhere counts.  After whatever goes
 * wrong, the run ends: reader and connections are closed, all in memory is
 * forgotten, and another run begins where the partitions say (ingestopen.c).
 * Only the loss of one partition's connection is less: the others finish the
 * batch, and this one is connected again and asked whether it has it.
 *
 * A message that a partition refuses is found by batches that become smaller
 * until one has a single message.  That is then written to dead_letter with
 * what the partition said.
 *
 * Failure cases: trouble of Kafka or a partition is shown in logq.stat_ingest,
 * logged once, and tried again after one second to half a minute.  The worker
 * ends, with status 0, when its topic is removed or paused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingestrun.h"
#include "maintain.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* how often to look for changed settings */
#define CHECK_MS 1000
/* when to try again */
#define MIN_RETRY_MS 1000
#define MAX_RETRY_MS 30000
/* bytes of rows in one batch */
#define MAX_BATCH_BYTES (16 * 1024 * 1024)
/* messages taken before partitions get their turn */
#define MESSAGES_A_TURN 500
/* how long offsets may lag that no row moves */
#define LAZY_MS 1000
/* how long a run that is to end waits for what is in the air */
#define LEAVE_MS 2000
/* messages in a batch from which on one is not careful any more */
#define MAX_CAREFUL (64 * 1024)

static MemoryContext worker_cxt;
static MemoryContext round_cxt; /* for one turn of the loop */
static int32 topic_number;
static LogqRun *run = NULL;		/* NULL: between two runs */
static TimestampTz run_at = 0;	/* when to begin the next one */
static int	backoff = 0;		/* ms */
static char *last_error = NULL;	/* as logged; in worker_cxt */
/* messages in a batch at most, when one of them is refused; 0: any number */
static int	careful = 0;
static TimestampTz behind_since = 0;	/* a sink's offsets lag; 0: none do */
static TimestampTz settings_at = 0;
/* the run is to end, by then at the latest; 0: it is not */
static TimestampTz leave_at = 0;
static WaitEventSet *wait_set = NULL;
static bool wait_set_valid = false;
static bool kafka_trouble = false;	/* the reader has told of some */
static int	reader_position;
static uint32 reader_events;
static bool reader_parked;
static bool reader_ready;

/* ---------- settings ---------- */

/*
 * Settings of a parser for a topic (NULL: one that is not known any more).
 */
void
logq_ingest_parser_settings(const LogqTopic *topic,
							LogqParserSettings *settings)
{
	TimestampTz now = GetCurrentTimestamp();

	MemSet(settings, 0, sizeof(*settings));
	settings->format = topic != NULL ? topic->format : LOGQ_FORMAT_AUTO;
	if (topic != NULL && topic->key_field != NULL)
	{
		settings->key_field.data = topic->key_field;
		settings->key_field.len = strlen(topic->key_field);
	}
	if (topic != NULL && topic->service != NULL)
	{
		settings->service.data = topic->service;
		settings->service.len = strlen(topic->service);
	}
	settings->min_ts = now - (int64) logq_ingest_max_age * USECS_PER_SEC;
	settings->max_ts = now + (int64) logq_ingest_max_future * USECS_PER_SEC;
	settings->max_bytes = logq_ingest_max_message * 1024;
}

/*
 * Bring the run's limits of time up to date.
 */
static void
set_limits(void)
{
	LogqParserSettings settings;

	logq_ingest_parser_settings(run->topic, &settings);
	run->min_ts = settings.min_ts;
	run->max_ts = settings.max_ts;
}

/* ---------- trouble ---------- */

/*
 * Show an error, and log it unless it was the last one, too.
 */
static void
complain(const char *text, const char *detail, const char *hint)
{
	logq_ingest_set_error(text);
	if (last_error != NULL && strcmp(last_error, text) == 0)
		return;
	ereport(LOG,
			(errmsg("topic \"%s\": %s",
					run != NULL && run->topic != NULL ? run->topic->name : "",
					text),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0));
	if (last_error != NULL)
		pfree(last_error);
	last_error = MemoryContextStrdup(worker_cxt, text);
}

/*
 * Something was written, or at least found to be in order.
 */
static void
succeed(void)
{
	kafka_trouble = false;
	logq_ingest_set_state(LOGQ_INGEST_RUNNING);
	logq_ingest_set_error(NULL);
	if (last_error == NULL)
		return;
	ereport(LOG,
			(errmsg("topic \"%s\" is taken in again", run->topic->name)));
	pfree(last_error);
	last_error = NULL;
}

/*
 * Is no sink of the run down?
 */
static bool
all_connected(void)
{
	int			s;

	for (s = 0; s < run->nsinks; s++)
		if (run->sinks[s].conn == NULL)
			return false;
	return true;
}

/*
 * End the run.  The next one begins after a pause that grows as long as
 * nothing succeeds.
 */
static void
end_run(bool pause)
{
	int			s;

	if (run != NULL)
	{
		logq_reader_stop(run->reader);
		for (s = 0; s < run->nsinks; s++)
			logq_sink_close(&run->sinks[s]);
		MemoryContextDelete(run->cxt);
	}
	run = NULL;
	run_at = 0;
	leave_at = 0;
	behind_since = 0;
	reader_ready = false;
	wait_set_valid = false;
	if (pause)
	{
		/* not all who wait for the same thing at the same time */
		backoff = Min(Max(backoff * 2, MIN_RETRY_MS), MAX_RETRY_MS);
		run_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											 backoff + MyProcPid % 500);
	}
}

/*
 * The run cannot go on.
 */
static void
fail_run(LogqIngestState state, const char *text, const char *detail,
		 const char *hint)
{
	complain(text, detail, hint);
	logq_ingest_set_state(state);
	end_run(true);
}

/*
 * The same, after an error was thrown.
 */
static void
fail_run_error(const ErrorData *edata)
{
	fail_run(edata->sqlerrcode == ERRCODE_LOGQ_OFFSETS_LOST ?
			 LOGQ_INGEST_FAILED : LOGQ_INGEST_WAITING,
			 logq_worker_error_text(edata), NULL, edata->hint);
}

/*
 * A partition refuses what it was sent.  Look for the message with smaller
 * batches, which begin where all partitions are by now.
 */
static void
handle_refusal(LogqSink *sink)
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
			fail_run(LOGQ_INGEST_FAILED, sink->error, NULL, NULL);
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
	end_run(false);
}

/* ---------- a run ---------- */

/*
 * The topic as it is now.  NULL: it is gone, or paused, or the extension is.
 */
static LogqTopic *
load_topic(void)
{
	LogqTopic  *topic = NULL;

	if (!OidIsValid(get_extension_oid("logq", true)))
		return NULL;
	PushActiveSnapshot(GetTransactionSnapshot());
	topic = logq_topic_load(topic_number);
	PopActiveSnapshot();
	return topic != NULL && !topic->paused ? topic : NULL;
}

/*
 * Nobody wants this worker.
 */
static void
end_worker(void)
{
	end_run(false);
	logq_ingest_set_error(NULL);
	proc_exit(0);
}

/*
 * Begin a run: start the reader.  In a transaction.
 */
static void
begin_run(void *arg)
{
	MemoryContext cxt = AllocSetContextCreate(worker_cxt, "logq ingest run",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);

	run = palloc0(sizeof(LogqRun));
	run->cxt = cxt;
	run->topic = load_topic();
	if (run->topic == NULL)
	{
		/* which frees the run's context */
		MemoryContextSwitchTo(old);
		end_worker();
	}
	logq_run_find_sinks(run);
	set_limits();
	logq_ingest_set_state(last_error == NULL ? LOGQ_INGEST_STARTING :
						  LOGQ_INGEST_WAITING);
	run->reader = logq_reader_start(run->topic);
	wait_set_valid = false;
	MemoryContextSwitchTo(old);
}

static void
open_run(void *arg)
{
	logq_run_open(run, arg);
	MemoryContextSwitchTo(run->cxt);
	run->filling = logq_batch_create(run);
	run->spare = logq_batch_create(run);
}

/*
 * The run is to end.  May it wait until all sinks have what is in the air?  It
 * saves the next one from doing it again, and rows from getting lost when a
 * partition is removed that had its share not yet.
 */
static bool
wait_for_batch(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int			s;

	if (run == NULL || run->flying == NULL)
		return false;
	for (s = 0; s < run->nsinks; s++)
		if (run->sinks[s].share != NULL && run->sinks[s].conn == NULL)
			return false;
	if (leave_at == 0)
		leave_at = TimestampTzPlusMilliseconds(now, LEAVE_MS);
	return now < leave_at;
}

/*
 * Has anything changed that the run depends on?  Then it ends.
 */
static void
check_settings(void *arg)
{
	LogqTopic  *topic = load_topic();

	if (topic == NULL)
	{
		if (!wait_for_batch())
			end_worker();
		return;
	}
	if (run == NULL)
		return;
	if (!logq_topic_equal(topic, run->topic) || !logq_run_is_current(run))
	{
		if (wait_for_batch())
			return;
		ereport(DEBUG1,
				(errmsg_internal("topic \"%s\": settings have changed",
								 topic->name)));
		end_run(false);
	}
	else
	{
		leave_at = 0;
		set_limits();
	}
}

/* ---------- what the reader says ---------- */

/*
 * What librdkafka says, for anybody to see.  Brokers may say anything.
 */
static char *
reader_text(const char *said)
{
	char	   *text = logq_topic_redact(run->topic, said);
	char	   *p;

	if (!pg_verifymbstr(text, strlen(text), true))
		for (p = text; *p != '\0'; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	return text;
}

/*
 * Take one frame that is not a message.
 */
static void
take_frame(LogqFrame *frame)
{
	ErrorData  *edata;
	LogqReaderError error;
	const char *text;

	switch (frame->type)
	{
		case LOGQ_FRAME_INFO:
			if (run->open)
			{
				/* Kafka has more partitions than before */
				end_run(false);
				return;
			}
			edata = logq_worker_transaction(open_run, frame, round_cxt);
			if (edata != NULL)
				fail_run_error(edata);
			else
			{
				wait_set_valid = false;
				succeed();
			}
			return;
		case LOGQ_FRAME_POSITION:
			if (!run->open)
				return;
			logq_run_take_position(run, frame);
			/* these are not sent while no broker answers */
			if (kafka_trouble)
			{
				kafka_trouble = false;
				if (run->flying == NULL && all_connected())
					succeed();
			}
			return;
		case LOGQ_FRAME_LOG:
			if (frame->length > 5 && frame->data[frame->length - 1] == '\0')
				ereport(DEBUG1,
						(errmsg_internal("librdkafka: %s",
										 reader_text(frame->data + 4))));
			return;
		case LOGQ_FRAME_ERROR:
			if (frame->length <= sizeof(error) ||
				frame->data[frame->length - 1] != '\0')
				break;
			memcpy(&error, frame->data, sizeof(error));
			text = reader_text(frame->data + sizeof(error));
			if (error.kind == LOGQ_READER_TROUBLE)
			{
				kafka_trouble = true;
				complain(text, NULL, NULL);
				logq_ingest_set_state(LOGQ_INGEST_WAITING);
			}
			else
				fail_run(error.kind == LOGQ_READER_FATAL ?
						 LOGQ_INGEST_FAILED : LOGQ_INGEST_WAITING,
						 text, NULL, NULL);
			return;
	}
	fail_run(LOGQ_INGEST_WAITING, "the Kafka reader sent an invalid frame",
			 NULL, NULL);
}

/*
 * Is there room for another message?
 */
static bool
batch_is_full(void)
{
	const LogqBatch *batch = run->filling;

	return batch->nrows >= logq_ingest_batch_rows ||
		batch->bytes >= MAX_BATCH_BYTES ||
		(careful > 0 && batch->nmessages >= careful);
}

/*
 * Take frames as long as there is room.  True: there are more of them.
 */
static bool
take_frames(void)
{
	int			n = 0;
	LogqFrame	frame;

	while (run != NULL && n < MESSAGES_A_TURN)
	{
		if (run->open && batch_is_full())
			return false;
		if (!logq_reader_next(run->reader, &frame))
		{
			char	   *how;

			/* so that a partial frame can be completed; once a turn */
			if (!reader_ready)
				return false;
			reader_ready = false;
			if (!logq_reader_receive(run->reader, &how))
			{
				fail_run(LOGQ_INGEST_WAITING, how, NULL, NULL);
				return false;
			}
			continue;
		}
		if (frame.type == LOGQ_FRAME_MESSAGE && run->open)
		{
			logq_run_take_message(run, &frame);
			n++;
		}
		else
			take_frame(&frame);
	}
	return run != NULL;
}

/* ---------- batches on their way ---------- */

static void
make_segments(void *arg)
{
	logq_sink_make_segments(arg);
}

/*
 * Write a sink's share, as soon as it has the segments for it.
 */
static void
write_share(LogqSink *sink)
{
	if (sink->share->nmissing > 0)
	{
		ErrorData  *edata = logq_worker_transaction(make_segments, sink,
													round_cxt);

		if (edata != NULL)
		{
			sink->failure = SINK_FAILED_LOST;
			sink->error = MemoryContextStrdup(run->cxt,
											  logq_worker_error_text(edata));
			/* libpq may have closed its socket: nobody shall wait for it */
			logq_sink_close(sink);
			wait_set_valid = false;
			return;
		}
	}
	logq_sink_write(run, sink);
}

static void
connect_again(void *arg)
{
	LogqSink   *sink = arg;

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
share_is_written(LogqSink *sink)
{
	int			k;

	for (k = 0; k < run->nkparts; k++)
		if (sink->share->to[k] > sink->next[k])
			sink->next[k] = sink->share->to[k];
	sink->share->open = false;
	sink->share = NULL;
	sink->backoff = 0;
	sink->committed_at = GetCurrentTimestamp();
}

/*
 * A sink has failed, or is down.  False: that was the end of the run.
 */
static bool
handle_sink_failure(LogqSink *sink)
{
	ErrorData  *edata;
	TimestampTz now;
	bool		at_once = false;

	if (sink->error != NULL)
	{
		if (sink->failure == SINK_FAILED_DATA)
		{
			handle_refusal(sink);
			return false;
		}
		if (sink->failure == SINK_FAILED_FENCED)
		{
			fail_run(LOGQ_INGEST_WAITING, sink->error, NULL,
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
			complain(sink->error, NULL, NULL);
			logq_ingest_set_state(LOGQ_INGEST_WAITING);
		}
		logq_sink_close(sink);
		wait_set_valid = false;
		pfree(sink->error);
		sink->error = NULL;
		sink->backoff = Min(Max(sink->backoff * 2, MIN_RETRY_MS),
							MAX_RETRY_MS);
		sink->retry_at = at_once ? 0 :
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), sink->backoff);
	}

	now = GetCurrentTimestamp();
	if (sink->conn != NULL || now < sink->retry_at)
		return true;
	sink->committed = false;
	edata = logq_worker_transaction(connect_again, sink, round_cxt);
	wait_set_valid = false;
	if (edata != NULL)
	{
		if (edata->sqlerrcode == ERRCODE_LOGQ_FENCED)
		{
			fail_run_error(edata);
			return false;
		}
		sink->failure = SINK_FAILED_LOST;
		sink->error = MemoryContextStrdup(run->cxt,
										  logq_worker_error_text(edata));
		return handle_sink_failure(sink);
	}
	if (sink->committed)
		share_is_written(sink);
	else if (sink->share != NULL)
		write_share(sink);
	else if (run->flying == NULL && !kafka_trouble && all_connected())
		succeed();
	return true;
}

/*
 * All sinks have what was in the air.
 */
static void
batch_is_written(void)
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
	backoff = 0;
	/* since when the first one does; batches that go on do not put it off */
	if (!behind)
		behind_since = 0;
	else if (behind_since == 0)
		behind_since = GetCurrentTimestamp();
	if (leave_at != 0)
		settings_at = 0;
	succeed();
	/* now the new routing can begin */
	if (run->catching_up && agree)
		end_run(false);
}

/*
 * Send the batch off that is being filled.
 */
static void
launch(bool move_all)
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
		share->open = true;
		sink->share = share;
		if (sink->conn != NULL)
			write_share(sink);
	}
}

/*
 * When the batch that is being filled is to go, 0: not yet known.
 */
static TimestampTz
batch_due(void)
{
	const LogqBatch *batch = run->filling;
	TimestampTz due = 0;
	bool		moved = behind_since != 0;
	int			k;

	if (batch->nmessages > 0)
	{
		if (batch_is_full())
			return DT_NOBEGIN;
		return TimestampTzPlusMilliseconds(batch->first_at,
										   logq_ingest_batch_ms);
	}
	for (k = 0; k < run->nkparts && !moved; k++)
		moved = batch->to[k] > run->kparts[k].progress;
	if (moved)
	{
		if (behind_since == 0)
			behind_since = GetCurrentTimestamp();
		due = run->catching_up ? DT_NOBEGIN :
			TimestampTzPlusMilliseconds(behind_since, LAZY_MS);
	}
	return due;
}

/*
 * Let sinks go on, and batches off.  Returns when to come again, 0: when
 * something happens.  The run may be over afterwards.
 */
static TimestampTz
advance_sinks(void)
{
	TimestampTz next = 0;
	bool		busy = false;
	int			s;

	for (s = 0; s < run->nsinks; s++)
	{
		LogqSink   *sink = &run->sinks[s];

		if ((sink->conn == NULL || !logq_sink_advance(sink)) &&
			!handle_sink_failure(sink))
			return 0;
		if (sink->share != NULL && sink->phase == SINK_IDLE &&
			sink->committed && sink->error == NULL)
			share_is_written(sink);
		busy = busy || sink->share != NULL;
		if (sink->conn == NULL && (next == 0 || sink->retry_at < next))
			next = sink->retry_at;
		if (sink->phase == SINK_WRITING &&
			(next == 0 || sink->give_up_at < next))
			next = sink->give_up_at;
	}
	if (run->flying != NULL && !busy)
	{
		batch_is_written();
		if (run == NULL)
			return 0;
	}
	if (run->flying == NULL && leave_at == 0)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz due = batch_due();

		if (due != 0 && due <= now)
		{
			/*
			 * While a message is looked for, runs end soon, and the next one
			 * shall not begin before what was found to be good.
			 */
			launch(run->catching_up || careful > 0 ||
				   (behind_since != 0 &&
					TimestampDifferenceExceeds(behind_since, now, LAZY_MS)));
			return now;
		}
		if (due != 0 && (next == 0 || due < next))
			next = due;
	}
	return next;
}

/* ---------- the loop ---------- */

/*
 * Wait until something happens, or the given time has come.
 */
static void
wait_for_events(TimestampTz until)
{
	int			n = (run != NULL ? run->nsinks : 0) + 3;
	bool		parked = run != NULL && run->open && batch_is_full();
	uint32		events = WL_SOCKET_READABLE;
	WaitEvent  *occurred;
	long		timeout;
	int			i;
	int			s;

	if (run != NULL && logq_reader_flush(run->reader))
		events |= WL_SOCKET_WRITEABLE;
	if (!wait_set_valid || parked != reader_parked)
	{
		if (wait_set != NULL)
			FreeWaitEventSet(wait_set);
		wait_set = logq_create_wait_event_set(n);
		AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch,
						  NULL);
		AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
						  NULL, NULL);
		if (run != NULL && !parked)
			reader_position = AddWaitEventToSet(wait_set, events,
												logq_reader_socket(run->reader),
												NULL, run);
		for (s = 0; run != NULL && s < run->nsinks; s++)
		{
			LogqSink   *sink = &run->sinks[s];

			if (sink->conn != NULL)
				sink->position = AddWaitEventToSet(wait_set, sink->events,
												   PQsocket(sink->conn->pg),
												   NULL, sink);
		}
		reader_parked = parked;
		reader_events = events;
		wait_set_valid = true;
	}
	else if (run != NULL)
	{
		if (!parked && events != reader_events)
			ModifyWaitEvent(wait_set, reader_position, events, NULL);
		reader_events = events;
		for (s = 0; s < run->nsinks; s++)
			if (run->sinks[s].conn != NULL)
				ModifyWaitEvent(wait_set, run->sinks[s].position,
								run->sinks[s].events, NULL);
	}

	timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	occurred = palloc(n * sizeof(WaitEvent));
	n = WaitEventSetWait(wait_set, timeout, occurred, n, PG_WAIT_EXTENSION);
	for (i = 0; i < n; i++)
	{
		if (occurred[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			settings_at = 0;
		}
		else if (occurred[i].user_data == run && run != NULL)
			reader_ready = true;
		else if (occurred[i].user_data != NULL)
			((LogqSink *) occurred[i].user_data)->ready |=
				occurred[i].events & WL_SOCKET_MASK;
	}
}

/*
 * One turn.  Returns when the next one is to be at the latest.
 */
static TimestampTz
turn(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next;
	ErrorData  *edata;
	bool		more = false;

	if (now >= settings_at)
	{
		settings_at = TimestampTzPlusMilliseconds(now, CHECK_MS);
		edata = logq_worker_transaction(check_settings, NULL, round_cxt);
		if (edata != NULL)
		{
			/* the extension may be on its way out */
			if (edata->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
				edata->sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
				edata->sqlerrcode != ERRCODE_UNDEFINED_SCHEMA)
				ReThrowError(edata);
		}
	}
	if (run == NULL)
	{
		if (now < run_at)
			return Min(run_at, settings_at);
		edata = logq_worker_transaction(begin_run, NULL, round_cxt);
		if (edata != NULL)
			fail_run_error(edata);
	}
	if (run != NULL)
		more = take_frames();
	next = settings_at;
	if (run != NULL && run->open)
	{
		TimestampTz at = advance_sinks();

		if (at != 0)
			next = Min(next, at);
	}
	if (run == NULL)
		return Min(Max(run_at, now), settings_at);
	return more ? now : Min(next, settings_at);
}

/*
 * The ingest worker of one topic.
 */
void
logq_ingest_main(Datum arg)
{
	topic_number = DatumGetInt32(arg);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra, NULL, 0);
	if (!logq_ingest_register(topic_number))
		proc_exit(0);
	logq_worker_session("logq ingest");

	worker_cxt = AllocSetContextCreate(TopMemoryContext, "logq ingest",
									   ALLOCSET_DEFAULT_SIZES);
	round_cxt = AllocSetContextCreate(worker_cxt, "logq ingest round",
									  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		TimestampTz next;

		MemoryContextSwitchTo(round_cxt);
		MemoryContextReset(round_cxt);
		/* nothing is under way here that somebody could want to cancel */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (!logq_worker_wanted(MyBgworkerEntry->bgw_extra))
				end_worker();
			settings_at = 0;
			/* perhaps that was what it took */
			run_at = 0;
			backoff = 0;
		}
		next = turn();
		wait_for_events(next);
	}
}
