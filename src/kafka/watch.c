/*-------------------------------------------------------------------------
 *
 * watch.c
 *		Watches the cluster: which partitions there are, whether it answers,
 *		and what librdkafka says about it.
 *
 * Asking the cluster for its id, for the topic's partitions and for their
 * watermarks are calls that wait, for seconds if brokers are down.  A thread,
 * the prober, makes them, and goes on to look whether partitions were added.
 * What it finds it leaves in "probe", and writes to the pipe that wakes the
 * main thread.
 *
 * Who may touch what: "probe" either thread, under its lock, which is never
 * held while waiting for anything else.  Local variables of prober() and
 * look(), the prober.  All else in here, and all output, the main thread: it
 * also runs librdkafka's callbacks, from rd_kafka_poll().
 *
 * Invariants: INFO is sent only of partitions that all have a leader and
 * watermarks, and again only if their number has changed.  All that is sent
 * comes from one cluster.
 *
 * Failure cases: no answer, no topic, no leader, no permission: told as
 * trouble, and tried again soon, for ever.  Another cluster answers: the
 * program ends, since offsets mean nothing there.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/reader.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* the cluster is asked so often; after trouble, or when told to hurry */
#define PROBE_MS 5000
#define PROBE_AGAIN_MS 250
/* how long one call may wait */
#define PROBE_TIMEOUT_MS 3000
/* lines of librdkafka's log that are passed on between two ticks */
#define MAX_LOGS 20

/* What a look at the cluster came to; the prober's until it is handed over */
typedef struct Look
{
	char	   *cluster;		/* NULL: nothing new */
	LogqReaderOffset *offsets;
	int			count;			/* of partitions, or -1: failed */
	rd_kafka_resp_err_t err;
	bool		fatal;
	char		text[LOGQ_TEXT_SIZE];	/* why it failed */
} Look;

/* between the threads, under the lock */
static struct
{
	pthread_mutex_t lock;
	pthread_cond_t cond;		/* for the prober */
	bool		hurry;			/* look soon */

	/* for the main thread, which takes it */
	bool		answered;		/* the last look was good */
	char	   *cluster;		/* not NULL: there is INFO to be sent */
	LogqReaderOffset *offsets;
	int			count;
	bool		failed;			/* the last look was not; the next three */
	rd_kafka_resp_err_t err;
	bool		fatal;			/* stays */
	char		text[LOGQ_TEXT_SIZE];
} probe = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* the main thread's */
static char unreachable[LOGQ_TEXT_SIZE];	/* why a broker is */
static bool cluster_down = false;	/* as far as we know */
static int	logs_left = MAX_LOGS;
static long logs_lost = 0;

/* ---------- librdkafka's events ---------- */

/*
 * Does this say why there is no connection to a broker?
 */
static bool
is_cause(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR__TRANSPORT ||
		err == RD_KAFKA_RESP_ERR__RESOLVE ||
		err == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
		err == RD_KAFKA_RESP_ERR__SSL;
}

/*
 * Is this the lack of a connection?  What is told then is always the cause.
 */
static bool
is_unreachable(rd_kafka_resp_err_t err)
{
	return is_cause(err) ||
		err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN ||
		err == RD_KAFKA_RESP_ERR__TIMED_OUT ||
		err == RD_KAFKA_RESP_ERR__WAIT_COORD;
}

void
logq_report_trouble(rd_kafka_resp_err_t err, int32_t partition,
					const char *text)
{
	if (is_unreachable(err) && partition < 0)
	{
		char		whole[LOGQ_TEXT_SIZE + 64];

		snprintf(whole, sizeof(whole), "cannot reach the brokers: %s",
				 unreachable[0] != '\0' ? unreachable : text);
		logq_send_trouble(-1, whole);
	}
	else
		logq_send_trouble(partition, text);
}

/*
 * librdkafka's errors that are not of a partition.
 */
void
logq_on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
	(void) opaque;
	if (err == RD_KAFKA_RESP_ERR__FATAL)
	{
		char		text[LOGQ_TEXT_SIZE];

		(void) rd_kafka_fatal_error(rk, text, sizeof(text));
		logq_fatal("librdkafka gave up: %s", text);
		return;
	}
	if (is_cause(err))
	{
		char	   *end;

		snprintf(unreachable, sizeof(unreachable), "%s", reason);
		end = strstr(unreachable, " (after ");
		if (end != NULL)
			*end = '\0';		/* how long it took: never twice the same */
	}
	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		cluster_down = true;

	/*
	 * That a connection has ended is no trouble yet: it may be made anew at
	 * once, and there are other brokers.  The prober will tell.
	 */
	if (err != RD_KAFKA_RESP_ERR__TRANSPORT)
		logq_report_trouble(err, -1, reason);

	pthread_mutex_lock(&probe.lock);
	probe.hurry = true;
	pthread_cond_signal(&probe.cond);
	pthread_mutex_unlock(&probe.lock);
}

/*
 * A line of librdkafka's log.
 */
void
logq_on_log(const rd_kafka_t *rk, int level, const char *facility,
			const char *line)
{
	char		text[LOGQ_TEXT_SIZE];

	(void) rk;
	if (strcmp(facility, "CLUSTERID") == 0 && level <= 4)
	{
		logq_fatal("the brokers belong to another Kafka cluster now: %s", line);
		return;
	}
	snprintf(text, sizeof(text), "%s: %s", facility, line);
	if (logs_left > 0 && logq_send_log(level, text))
		logs_left--;
	else
		logs_lost++;
}

/*
 * About once a second: more lines of the log are welcome.
 */
void
logq_watch_tick(void)
{
	if (logs_lost > 0)
	{
		char		text[64];

		snprintf(text, sizeof(text), "%ld more lines", logs_lost);
		if (logq_send_log(4, text))
			logs_lost = 0;
	}
	logs_left = MAX_LOGS;
}

bool
logq_cluster_is_down(void)
{
	return cluster_down;
}

/* ---------- the prober ---------- */

static bool fail(Look *look, rd_kafka_resp_err_t err, const char *fmt,...)
			__attribute__((format(printf, 3, 4)));

/*
 * A look has failed.
 */
static bool
fail(Look *look, rd_kafka_resp_err_t err, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(look->text, sizeof(look->text), fmt, args);
	va_end(args);
	look->err = err;
	look->count = -1;
	return false;
}

/*
 * Can the topic be read, with all its partitions?
 */
static bool
check_topic(Look *look, const struct rd_kafka_metadata *metadata)
{
	const struct rd_kafka_metadata_topic *t = &metadata->topics[0];

	if (metadata->topic_cnt != 1)
		return fail(look, RD_KAFKA_RESP_ERR__BAD_MSG,
					"the brokers' answer has %d topics instead of one",
					metadata->topic_cnt);
	if (t->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		(t->err == RD_KAFKA_RESP_ERR_NO_ERROR && t->partition_cnt == 0))
		return fail(look, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
					"topic \"%s\" does not exist", logq_topic_name);
	if (t->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return fail(look, t->err, "topic \"%s\" cannot be read: %s",
					logq_topic_name, rd_kafka_err2str(t->err));
	for (int i = 0; i < t->partition_cnt; i++)
	{
		if (t->partitions[i].leader < 0)
			return fail(look, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
						"partition %d of topic \"%s\" has no leader",
						t->partitions[i].id, logq_topic_name);
	}
	return true;
}

/*
 * Is it the cluster that we know?  It becomes so by the first answer.
 */
static bool
check_cluster(Look *look, char **known_cluster)
{
	char	   *cluster = rd_kafka_clusterid(logq_rk, PROBE_TIMEOUT_MS);
	bool		same = true;

	if (cluster == NULL)
		return fail(look, RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION,
					"the brokers do not tell the id of their cluster");
	if (*known_cluster == NULL)
		*known_cluster = logq_copy(cluster);
	else if (strcmp(cluster, *known_cluster) != 0)
	{
		look->fatal = true;
		same = fail(look, RD_KAFKA_RESP_ERR_NO_ERROR,
					"the brokers belong to another Kafka cluster now: \"%s\" instead of \"%s\"",
					cluster, *known_cluster);
	}
	rd_kafka_mem_free(logq_rk, cluster);
	return same;
}

/*
 * Watermarks of all partitions.
 */
static bool
get_offsets(Look *look, const struct rd_kafka_metadata_topic *t)
{
	size_t		size = t->partition_cnt * sizeof(*look->offsets);

	look->offsets = memset(logq_allocate(NULL, size), 0, size);
	for (int i = 0; i < t->partition_cnt; i++)
	{
		LogqReaderOffset *o = &look->offsets[i];
		rd_kafka_resp_err_t err;

		o->partition = t->partitions[i].id;
		o->next = -1;
		err = rd_kafka_query_watermark_offsets(logq_rk, logq_topic_name,
											   o->partition, &o->low, &o->high,
											   PROBE_TIMEOUT_MS);
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			return fail(look, err,
						"could not get the offsets of partition %d of topic \"%s\": %s",
						o->partition, logq_topic_name, rd_kafka_err2str(err));
	}
	return true;
}

/*
 * One look at the cluster.  known is the number of partitions that were handed
 * over last, or -1.
 */
static void
look_at_cluster(Look *look, int known, char **known_cluster)
{
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_resp_err_t err;

	memset(look, 0, sizeof(*look));
	err = rd_kafka_metadata(logq_rk, 0, logq_rkt, &metadata, PROBE_TIMEOUT_MS);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		(void) fail(look, err, "could not ask for topic \"%s\": %s",
					logq_topic_name, rd_kafka_err2str(err));
		return;
	}
	if (check_topic(look, metadata) && check_cluster(look, known_cluster))
	{
		const struct rd_kafka_metadata_topic *t = &metadata->topics[0];

		if (t->partition_cnt == known || get_offsets(look, t))
			look->count = t->partition_cnt;
		if (look->count >= 0 && look->offsets != NULL)
			look->cluster = logq_copy(*known_cluster);
	}
	rd_kafka_metadata_destroy(metadata);
}

/*
 * Hand over what a look has found, and wake the main thread.  It may not have
 * taken the last one yet; an INFO that is waiting stays unless there is a
 * newer one.
 */
static void
hand_over(Look *look)
{
	pthread_mutex_lock(&probe.lock);
	probe.failed = look->count < 0;
	if (probe.failed)
	{
		probe.err = look->err;
		probe.fatal = look->fatal;
		memcpy(probe.text, look->text, sizeof(probe.text));
	}
	else
		probe.answered = true;
	if (look->cluster != NULL)
	{
		free(probe.cluster);
		free(probe.offsets);
		probe.cluster = look->cluster;
		probe.offsets = look->offsets;
		probe.count = look->count;
		look->offsets = NULL;
	}
	pthread_mutex_unlock(&probe.lock);
	free(look->offsets);
	if (write(logq_wake_fd, "", 1) < 0)
	{
		/* the pipe is full: the main thread will wake anyway */
	}
}

/*
 * Wait until it is time for the next look.  After trouble, or when told to
 * hurry, that is soon; never at once, as there may be errors all the time.
 */
static void
wait_for_next(bool well)
{
	int64_t		soon = logq_now_ms() + PROBE_AGAIN_MS;
	int64_t		late = logq_now_ms() + PROBE_MS;

	pthread_mutex_lock(&probe.lock);
	for (;;)
	{
		int64_t		until = well && !probe.hurry ? late : soon;
		struct timespec ts = {
			.tv_sec = until / 1000,
			.tv_nsec = until % 1000 * 1000000
		};

		if (logq_now_ms() >= until)
			break;
		(void) pthread_cond_timedwait(&probe.cond, &probe.lock, &ts);
	}
	probe.hurry = false;
	pthread_mutex_unlock(&probe.lock);
}

/*
 * The prober's thread.  It ends only when another cluster has answered.
 */
static void *
prober(void *arg)
{
	char	   *cluster = NULL;
	int			known = -1;
	Look		look;

	(void) arg;
	do
	{
		bool		well;

		look_at_cluster(&look, known, &cluster);
		well = look.count >= 0;
		if (well)
			known = look.count;
		hand_over(&look);
		if (!look.fatal)
			wait_for_next(well);
	} while (!look.fatal);
	free(cluster);
	return NULL;
}

/* ---------- the main thread's end of it ---------- */

/*
 * Begin to watch.  librdkafka's queue of events wakes the loop, too.
 */
void
logq_watch_start(void)
{
	rd_kafka_queue_t *main_queue = rd_kafka_queue_get_main(logq_rk);
	pthread_condattr_t attr;
	pthread_t	thread;

	rd_kafka_queue_io_event_enable(main_queue, logq_wake_fd, "", 1);
	rd_kafka_queue_destroy(main_queue); /* our reference to it */
	if (pthread_condattr_init(&attr) != 0 ||
		pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) != 0 ||
		pthread_cond_init(&probe.cond, &attr) != 0 ||
		pthread_create(&thread, NULL, prober, NULL) != 0)
	{
		logq_fatal("could not start a thread");
		return;
	}
	(void) pthread_condattr_destroy(&attr);
	(void) pthread_detach(thread);
}

/*
 * Pass on what the prober has found.
 */
void
logq_watch_take(void)
{
	pthread_mutex_lock(&probe.lock);
	if (probe.answered)
	{
		probe.answered = false;
		cluster_down = false;
		unreachable[0] = '\0';
	}
	if (probe.failed)
	{
		probe.failed = false;
		cluster_down = true;
		if (probe.fatal)
			logq_fatal("%s", probe.text);
		else
			logq_report_trouble(probe.err, -1, probe.text);
	}
	if (probe.cluster != NULL && !logq_ending)
	{
		size_t		len = strlen(probe.cluster) + 1;
		size_t		offsets_len = probe.count * sizeof(LogqReaderOffset);
		char	   *p = logq_put_frame(LOGQ_FRAME_INFO, len + offsets_len);

		logq_put_bytes(&p, probe.cluster, len);
		logq_put_bytes(&p, probe.offsets, offsets_len);
		free(probe.cluster);
		free(probe.offsets);
		probe.cluster = NULL;
		probe.offsets = NULL;
	}
	pthread_mutex_unlock(&probe.lock);
}
