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
/* messages taken before partitions get their turn */
#define MESSAGES_A_TURN 500
/* how long a run that is to end waits for what is in the air */
#define LEAVE_MS 2000

static MemoryContext worker_cxt;
static MemoryContext round_cxt; /* for one turn of the loop */
static int32 topic_number;
static LogqRun *run = NULL;		/* NULL: between two runs */
static TimestampTz run_at = 0;	/* when to begin the next one */
static int	backoff = 0;		/* ms */
static char *last_error = NULL;	/* as logged; in worker_cxt */
static TimestampTz settings_at = 0;
static WaitEventSet *wait_set = NULL;
static bool wait_set_valid = false;
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
	/* rows have the time of the clock on the wall */
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
void
logq_run_complain(const char *text, const char *hint)
{
	logq_ingest_set_error(text);
	if (last_error != NULL && strcmp(last_error, text) == 0)
		return;
	ereport(LOG,
			(errmsg("topic \"%s\": %s",
					run != NULL && run->topic != NULL ? run->topic->name : "",
					text),
			 hint ? errhint("%s", hint) : 0));
	if (last_error != NULL)
		pfree(last_error);
	last_error = MemoryContextStrdup(worker_cxt, text);
}

/*
 * Something was written, or at least found to be in order.
 */
void
logq_run_succeed(bool written)
{
	run->kafka_trouble = false;
	if (written)
	{
		backoff = 0;
		/* somebody waits for this */
		if (run->leave_at != 0)
			settings_at = 0;
	}
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
 * End the run.  The next one begins after a pause that grows as long as
 * nothing succeeds.
 */
void
logq_run_end(bool pause)
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
	reader_ready = false;
	wait_set_valid = false;
	if (pause)
	{
		/* not all who wait for the same thing at the same time */
		backoff = Min(Max(backoff * 2, MIN_RETRY_MS), MAX_RETRY_MS);
		run_at = TimestampTzPlusMilliseconds(logq_now(),
											 backoff + MyProcPid % 500);
	}
}

/*
 * The run cannot go on.
 */
void
logq_run_fail(LogqIngestState state, const char *text, const char *hint)
{
	logq_run_complain(text, hint);
	logq_ingest_set_state(state);
	logq_run_end(true);
}

/*
 * The same, after an error was thrown.
 */
void
logq_run_fail_error(const ErrorData *edata)
{
	logq_run_fail(edata->sqlerrcode == ERRCODE_LOGQ_OFFSETS_LOST ?
				  LOGQ_INGEST_FAILED : LOGQ_INGEST_WAITING,
				  logq_worker_error_text(edata), edata->hint);
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
	logq_run_end(false);
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
	run->round_cxt = round_cxt;
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
	TimestampTz now = logq_now();
	int			s;

	if (run == NULL || run->flying == NULL)
		return false;
	for (s = 0; s < run->nsinks; s++)
		if (run->sinks[s].share != NULL && run->sinks[s].conn == NULL)
			return false;
	if (run->leave_at == 0)
		run->leave_at = TimestampTzPlusMilliseconds(now, LEAVE_MS);
	return now < run->leave_at;
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
		logq_run_end(false);
	}
	else
	{
		run->leave_at = 0;
		set_limits();
		/* also without messages, that was long enough */
		if (run->open &&
			TimestampDifferenceExceeds(run->opened_at, logq_now(),
									   MAX_RETRY_MS))
			backoff = 0;
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
				logq_run_end(false);
				return;
			}
			edata = logq_worker_transaction(open_run, frame, round_cxt);
			if (edata != NULL)
				logq_run_fail_error(edata);
			else
			{
				wait_set_valid = false;
				logq_run_succeed(false);
			}
			return;
		case LOGQ_FRAME_POSITION:
			if (!run->open)
				return;
			logq_run_take_position(run, frame);
			/* these are not sent while no broker answers */
			if (run->kafka_trouble)
			{
				run->kafka_trouble = false;
				if (run->flying == NULL && logq_run_all_connected(run))
					logq_run_succeed(false);
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
				run->kafka_trouble = true;
				logq_run_complain(text, NULL);
				logq_ingest_set_state(LOGQ_INGEST_WAITING);
			}
			else
				logq_run_fail(error.kind == LOGQ_READER_FATAL ?
							  LOGQ_INGEST_FAILED : LOGQ_INGEST_WAITING,
							  text, NULL);
			return;
	}
	logq_run_fail(LOGQ_INGEST_WAITING,
				  "the Kafka reader sent an invalid frame", NULL);
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
		if (run->open && logq_run_is_full(run))
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
				logq_run_fail(LOGQ_INGEST_WAITING, how, NULL);
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

/* ---------- the loop ---------- */

/*
 * Wait until something happens, or the given time has come.
 */
static void
wait_for_events(TimestampTz until)
{
	int			n = (run != NULL ? run->nsinks : 0) + 3;
	bool		parked = run != NULL && run->open && logq_run_is_full(run);
	uint32		events = WL_SOCKET_READABLE;
	WaitEvent  *occurred;
	long		timeout;
	int			i;
	int			s;

	if (run != NULL && logq_reader_flush(run->reader))
		events |= WL_SOCKET_WRITEABLE;
	if (!wait_set_valid || parked != reader_parked ||
		(run != NULL && run->sockets_changed))
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
												   logq_conn_socket(sink->conn),
												   NULL, sink);
		}
		reader_parked = parked;
		reader_events = events;
		wait_set_valid = true;
		if (run != NULL)
			run->sockets_changed = false;
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

	timeout = TimestampDifferenceMilliseconds(logq_now(), until);
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
	TimestampTz now = logq_now();
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
			logq_run_fail_error(edata);
	}
	if (run != NULL)
		more = take_frames();
	next = settings_at;
	if (run != NULL && run->open)
	{
		TimestampTz at = logq_run_advance(run);

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
	logq_worker_connect_database();
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
			if (!logq_worker_wanted(MyBgworkerEntry->bgw_extra) ||
				logq_worker_role_changed())
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
