/*-------------------------------------------------------------------------
 *
 * logq_kafka.c
 *		The reader: runs librdkafka for an ingest worker, and sends it what
 *		comes from Kafka.
 *
 * A program of its own, started with one end of a socket pair as standard
 * input; protocol.h says what goes over it.  It knows nothing of PostgreSQL
 * and stores nothing: who kills it loses nothing.
 *
 * The main thread waits for the socket and for librdkafka's queues, and is the
 * only one that touches the socket.  A second thread, the prober, asks the
 * cluster for its id, the topic's partitions and their watermarks, since those
 * calls wait; it goes on looking whether partitions were added.
 *
 * Partitions are read through the simple consumer, each from an offset of the
 * worker's: no group, so that nothing but reading the topic need be allowed,
 * and nobody else can move our offsets.
 *
 * Invariants: frames of a partition are in the order of its offsets, without
 * omissions; a position is sent after all messages below it.  Whatever
 * librdkafka might skip over ends the program instead.
 *
 * Failure cases: the worker is gone: the socket ends, and so do we, at once
 * and without taking leave of the brokers, who may be down.  The worker is
 * slow: the buffer fills, and no more is taken from librdkafka, whose queue is
 * limited.  Brokers are down: librdkafka tries again for ever, and the worker
 * is told.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include "kafka/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SOCKET_FD 0

/* output: no more is taken above this, and memory beyond is given back */
#define OUT_SIZE (512 * 1024)
/* messages taken from librdkafka at once */
#define BATCH_SIZE 1000
/* POSITION comes so often; and the cluster is asked so often */
#define POSITION_MS 1000
#define PROBE_MS 5000
#define PROBE_AGAIN_MS 250
#define PROBE_TIMEOUT_MS 3000
/* the same trouble is told so often at most, and so many are remembered */
#define TROUBLE_MS 5000
#define MAX_TROUBLES 16
/* lines of librdkafka's log that are passed on each second */
#define MAX_LOGS 20
#define TEXT_SIZE 1024
/* what is shorter could be any part of a word */
#define MIN_SECRET 4

/* What librdkafka may hold for us; see wake_fetchers() */
#define QUEUED_KBYTES "16384"
#define QUEUED_MESSAGES "20000"

typedef struct Property
{
	const char *name;
	const char *value;
} Property;

/* what we prefer, and a topic's properties may change */
static const Property preferred[] = {
	{"queued.max.messages.kbytes", QUEUED_KBYTES},
	{"queued.min.messages", QUEUED_MESSAGES},
	{"fetch.wait.max.ms", "100"},
	{"fetch.error.backoff.ms", "100"},
	{"reconnect.backoff.max.ms", "2000"},
	{"socket.connection.setup.timeout.ms", "10000"},
	{"socket.keepalive.enable", "true"},
	{"topic.metadata.refresh.interval.ms", "10000"},
	{"check.crcs", "true"},
	{NULL, NULL}
};

/* what nobody may change: without these messages would be lost */
static const Property forced[] = {
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"},
	{"isolation.level", "read_committed"},
	{"enable.partition.eof", "true"},
	{"allow.auto.create.topics", "false"},
	{"log.queue", "true"},
	{NULL, NULL}
};

typedef struct Buffer
{
	char	   *data;
	size_t		start;			/* what is before has been written or read */
	size_t		end;
	size_t		size;
} Buffer;

/* A Kafka partition that is read */
typedef struct Partition
{
	bool		assigned;
	bool		known;			/* next is more than where we began */
	int64_t		next;
} Partition;

typedef struct Trouble
{
	char		text[TEXT_SIZE];
	int64_t		told_at;
} Trouble;

static char *topic;
static rd_kafka_t *rk;
static rd_kafka_topic_t *rkt;
static rd_kafka_queue_t *queue; /* of messages, and of partitions' errors */

static Buffer in;
static Buffer out;
static bool ending = false;		/* after out is written */
static int	exit_status = 0;

static Partition *partitions;
static int	npartitions;		/* length of the array */
static bool assigned = false;

/* taken from librdkafka, and not yet in out */
static rd_kafka_message_t *batch[BATCH_SIZE];
static int	batch_next;
static int	batch_count = 0;

static Trouble troubles[MAX_TROUBLES];
static char unreachable[TEXT_SIZE]; /* why a broker is, as librdkafka says */
static bool cluster_down = false;	/* as far as we know */
static int	logs_left = MAX_LOGS;
static int	logs_lost = 0;

/* values that must not show up in a text */
static char **secrets;
static int	nsecrets = 0;
static bool oauthbearer = false;

/* librdkafka has no fetch.queue.backoff.ms: we wake its threads */
static bool must_wake = false;
static const char *sasl_username = "";
static const char *sasl_password = "";
static int64_t taken_bytes = 0;
static int	taken_messages = 0;
static int64_t wake_bytes;
static int	wake_messages;

/* written to by librdkafka and the prober to wake the main thread */
static int	wake_pipe[2];

/* what the prober has found, under the lock */
static struct
{
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool		hurry;			/* look soon */
	bool		found;			/* the next three are new */
	char	   *cluster;
	LogqReaderOffset *offsets;
	int			count;
	bool		answered;		/* the cluster has answered */
	bool		failed;			/* trouble is new */
	rd_kafka_resp_err_t err;
	bool		fatal;
	char		trouble[TEXT_SIZE];
} probe = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void *
allocate(void *old, size_t size)
{
	void	   *p = realloc(old, size > 0 ? size : 1);

	if (p == NULL)
	{
		fprintf(stderr, "logq_kafka: out of memory\n");
		_exit(1);
	}
	return p;
}

/* ---------- output ---------- */

/*
 * Room for so many bytes more at the end of a buffer.
 */
static char *
buffer_room(Buffer *buf, size_t len)
{
	if (buf->start == buf->end)
		buf->start = buf->end = 0;
	if (buf->end + len > buf->size)
	{
		if (buf->start > 0)
		{
			memmove(buf->data, buf->data + buf->start, buf->end - buf->start);
			buf->end -= buf->start;
			buf->start = 0;
		}
		if (buf->end + len > buf->size)
		{
			size_t		size = buf->end + len;

			if (size < OUT_SIZE)
				size = OUT_SIZE;
			buf->data = allocate(buf->data, size);
			buf->size = size;
		}
	}
	return buf->data + buf->end;
}

/*
 * Begin a frame; its length bytes are to be written to what is returned.
 */
static char *
put_frame(uint32_t type, size_t length)
{
	LogqFrameHead head = {.length = length, .type = type};
	char	   *p = buffer_room(&out, sizeof(head) + length);

	memcpy(p, &head, sizeof(head));
	out.end += sizeof(head) + length;
	return p + sizeof(head);
}

static void
put_bytes(char **p, const void *data, size_t len)
{
	if (len > 0)
		memcpy(*p, data, len);
	*p += len;
}

static void
put_int32(char **p, int32_t value)
{
	put_bytes(p, &value, sizeof(value));
}

/*
 * Write what there is; false: the socket takes no more for now.
 */
static bool
flush_out(void)
{
	while (out.start < out.end)
	{
		ssize_t		n = write(SOCKET_FD, out.data + out.start,
							  out.end - out.start);

		if (n > 0)
			out.start += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		else
			_exit(0);			/* the worker is gone */
	}
	out.start = out.end = 0;
	if (out.size > 4 * OUT_SIZE)
	{
		/* there was a giant message */
		out.data = allocate(out.data, OUT_SIZE);
		out.size = OUT_SIZE;
	}
	return true;
}

/*
 * Take what must not be seen out of a text: values of secret properties, and
 * the rest of one, which librdkafka quotes when it does not understand it.
 */
static void
censor(char *text)
{
	char	   *p;

	for (int i = 0; i < nsecrets; i++)
	{
		size_t		len = strlen(secrets[i]);

		while ((p = strstr(text, secrets[i])) != NULL)
		{
			memmove(p + 1, p + len, strlen(p + len) + 1);
			*p = '\x7f';			/* for a moment: not in the secret */
		}
	}
	for (p = text; *p != '\0'; p++)
	{
		if (*p == '\x7f')
			*p = '*';
	}
	if (oauthbearer && (p = strstr(text, "beginning at")) != NULL)
		*p = '\0';
}

static void
send_error(LogqReaderErrorKind kind, int32_t partition, const char *text)
{
	LogqReaderError error = {.kind = kind, .partition = partition};
	char		censored[TEXT_SIZE];
	char	   *p;

	snprintf(censored, sizeof(censored), "%s", text);
	censor(censored);
	p = put_frame(LOGQ_FRAME_ERROR, sizeof(error) + strlen(censored) + 1);
	put_bytes(&p, &error, sizeof(error));
	put_bytes(&p, censored, strlen(censored) + 1);
}

/*
 * Tell of something that librdkafka goes on with, unless just told.
 */
static void
send_trouble(int32_t partition, const char *text)
{
	int64_t		now = now_ms();
	Trouble    *oldest = &troubles[0];

	for (int i = 0; i < MAX_TROUBLES; i++)
	{
		Trouble    *trouble = &troubles[i];

		if (strncmp(trouble->text, text, sizeof(trouble->text) - 1) == 0 &&
			now - trouble->told_at < TROUBLE_MS)
			return;
		if (trouble->told_at < oldest->told_at)
			oldest = trouble;
	}
	snprintf(oldest->text, sizeof(oldest->text), "%s", text);
	oldest->told_at = now;
	send_error(LOGQ_READER_TROUBLE, partition, text);
}

/*
 * Nothing more will be sent; the program ends when this has been.
 */
static void fatal(const char *fmt,...) __attribute__((format(printf, 1, 2)));

static void
fatal(const char *fmt,...)
{
	char		text[TEXT_SIZE];
	va_list		args;

	if (ending)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	send_error(LOGQ_READER_FATAL, -1, text);
	ending = true;
	exit_status = 1;
}

static void
send_log(int level, const char *text)
{
	char		censored[TEXT_SIZE];
	int32_t		level32 = level;
	char	   *p;

	snprintf(censored, sizeof(censored), "%s", text);
	censor(censored);
	p = put_frame(LOGQ_FRAME_LOG, sizeof(level32) + strlen(censored) + 1);
	put_int32(&p, level32);
	put_bytes(&p, censored, strlen(censored) + 1);
}

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

static void
report_trouble(rd_kafka_resp_err_t err, int32_t partition, const char *text)
{
	if (is_unreachable(err) && partition < 0)
	{
		char		whole[TEXT_SIZE + 64];

		snprintf(whole, sizeof(whole), "cannot reach the brokers: %s",
				 unreachable[0] != '\0' ? unreachable : text);
		send_trouble(-1, whole);
	}
	else
		send_trouble(partition, text);
}

/*
 * librdkafka's errors that are not of a partition; on the main thread.
 */
static void
on_error(rd_kafka_t *self, int err, const char *reason, void *opaque)
{
	char		text[TEXT_SIZE];
	char	   *end;

	(void) opaque;
	if (err == RD_KAFKA_RESP_ERR__FATAL)
	{
		(void) rd_kafka_fatal_error(self, text, sizeof(text));
		fatal("librdkafka gave up: %s", text);
		return;
	}
	if (is_cause(err))
	{
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
		report_trouble(err, -1, reason);

	pthread_mutex_lock(&probe.lock);
	probe.hurry = true;
	pthread_cond_signal(&probe.cond);
	pthread_mutex_unlock(&probe.lock);
}

/*
 * A line of librdkafka's log; on the main thread.
 */
static void
on_log(const rd_kafka_t *self, int level, const char *facility,
	   const char *line)
{
	char		text[TEXT_SIZE];

	(void) self;
	if (strcmp(facility, "CLUSTERID") == 0 && level <= 4)
		fatal("the brokers belong to another Kafka cluster now: %s", line);
	else if (logs_left > 0)
	{
		logs_left--;
		snprintf(text, sizeof(text), "%s: %s", facility, line);
		send_log(level, text);
	}
	else
		logs_lost++;
}

/*
 * Wake librdkafka's threads after we made room in its queue: before 2.2 they
 * look at it only once a second when it was full, which would limit us to one
 * filling of it each second.  The only call that wakes them and does nothing
 * else is the one that changes SASL credentials, so these are set to what
 * they are.
 */
static void
wake_fetchers(void)
{
#if RD_KAFKA_VERSION >= 0x020000ff
	if (taken_bytes >= wake_bytes || taken_messages >= wake_messages)
	{
		rd_kafka_error_t *error;

		taken_bytes = 0;
		taken_messages = 0;
		error = rd_kafka_sasl_set_credentials(rk, sasl_username,
											  sasl_password);
		if (error != NULL)
			rd_kafka_error_destroy(error);
	}
#endif
}

/* ---------- the prober ---------- */

/*
 * One look at the cluster.  known is the number of partitions that were sent,
 * or -1.  Returns how many there are, or -1 with probe.trouble set.
 */
static int
look(int known, char **known_cluster)
{
	const struct rd_kafka_metadata *metadata = NULL;
	const struct rd_kafka_metadata_topic *t;
	rd_kafka_resp_err_t err;
	LogqReaderOffset *offsets = NULL;
	char	   *cluster = NULL;
	int32_t		where = -1;
	int			count = -1;
	char		text[TEXT_SIZE];
	bool		other_cluster = false;

	snprintf(text, sizeof(text), "unknown trouble");
	err = rd_kafka_metadata(rk, 0, rkt, &metadata, PROBE_TIMEOUT_MS);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		snprintf(text, sizeof(text), "could not ask for topic \"%s\": %s",
				 topic, rd_kafka_err2str(err));
		goto failed;
	}
	if (metadata->topic_cnt != 1)
	{
		err = RD_KAFKA_RESP_ERR__BAD_MSG;
		goto failed;
	}
	t = &metadata->topics[0];
	err = t->err;
	if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		(err == RD_KAFKA_RESP_ERR_NO_ERROR && t->partition_cnt == 0))
	{
		err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		snprintf(text, sizeof(text), "topic \"%s\" does not exist", topic);
		goto failed;
	}
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		snprintf(text, sizeof(text), "topic \"%s\" cannot be read: %s",
				 topic, rd_kafka_err2str(err));
		goto failed;
	}
	for (int i = 0; i < t->partition_cnt; i++)
	{
		if (t->partitions[i].leader < 0)
		{
			err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
			where = t->partitions[i].id;
			snprintf(text, sizeof(text),
					 "partition %d of topic \"%s\" has no leader",
					 where, topic);
			goto failed;
		}
	}

	cluster = rd_kafka_clusterid(rk, PROBE_TIMEOUT_MS);
	if (cluster == NULL)
	{
		err = RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION;
		snprintf(text, sizeof(text),
				 "the brokers do not tell the id of their cluster");
		goto failed;
	}
	if (*known_cluster != NULL && strcmp(cluster, *known_cluster) != 0)
	{
		other_cluster = true;
		snprintf(text, sizeof(text),
				 "the brokers belong to another Kafka cluster now: \"%s\" instead of \"%s\"",
				 cluster, *known_cluster);
		goto failed;
	}

	count = t->partition_cnt;
	if (count != known)
	{
		offsets = allocate(NULL, count * sizeof(*offsets));
		for (int i = 0; i < count; i++)
		{
			LogqReaderOffset *o = &offsets[i];

			o->partition = t->partitions[i].id;
			o->next = -1;
			err = rd_kafka_query_watermark_offsets(rk, topic, o->partition,
												   &o->low, &o->high,
												   PROBE_TIMEOUT_MS);
			if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			{
				count = -1;
				where = o->partition;
				snprintf(text, sizeof(text),
						 "could not get the offsets of partition %d of topic \"%s\": %s",
						 where, topic, rd_kafka_err2str(err));
				goto failed;
			}
		}
	}

	pthread_mutex_lock(&probe.lock);
	if (offsets != NULL)
	{
		free(probe.offsets);
		free(probe.cluster);
		probe.offsets = offsets;
		probe.count = count;
		probe.cluster = strdup(cluster);
		probe.found = true;
	}
	probe.answered = true;
	probe.failed = false;
	pthread_mutex_unlock(&probe.lock);
	if (*known_cluster == NULL)
		*known_cluster = strdup(cluster);
	rd_kafka_mem_free(rk, cluster);
	rd_kafka_metadata_destroy(metadata);
	return count;

failed:
	pthread_mutex_lock(&probe.lock);
	snprintf(probe.trouble, sizeof(probe.trouble), "%s", text);
	probe.err = err;
	probe.fatal = other_cluster;
	probe.failed = true;
	pthread_mutex_unlock(&probe.lock);
	free(offsets);
	if (cluster != NULL)
		rd_kafka_mem_free(rk, cluster);
	if (metadata != NULL)
		rd_kafka_metadata_destroy(metadata);
	return -1;
}

/*
 * The prober's thread: looks now and then, and soon again after trouble.
 */
static void *
prober(void *arg)
{
	char	   *cluster = NULL;
	int			known = -1;

	(void) arg;
	for (;;)
	{
		int			count = look(known, &cluster);
		int			wait_ms = count < 0 ? PROBE_AGAIN_MS : PROBE_MS;
		struct timespec until;

		if (count >= 0)
			known = count;
		if (write(wake_pipe[1], "", 1) < 0)
		{
			/* it is full: the main thread will wake anyway */
		}

		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += wait_ms / 1000;
		until.tv_nsec += (wait_ms % 1000) * 1000000L;
		if (until.tv_nsec >= 1000000000L)
		{
			until.tv_sec++;
			until.tv_nsec -= 1000000000L;
		}
		pthread_mutex_lock(&probe.lock);
		while (!(probe.hurry && count >= 0))
		{
			if (pthread_cond_timedwait(&probe.cond, &probe.lock,
									   &until) == ETIMEDOUT)
				break;
		}
		probe.hurry = false;
		pthread_mutex_unlock(&probe.lock);
	}
	return NULL;
}

/*
 * Pass on what the prober has found.
 */
static void
take_probe(void)
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
			fatal("%s", probe.trouble);
		else
			report_trouble(probe.err, -1, probe.trouble);
	}
	if (probe.found)
	{
		size_t		len = strlen(probe.cluster) + 1;
		size_t		offsets_len = probe.count * sizeof(LogqReaderOffset);
		char	   *p = put_frame(LOGQ_FRAME_INFO, len + offsets_len);

		probe.found = false;
		put_bytes(&p, probe.cluster, len);
		put_bytes(&p, probe.offsets, offsets_len);
	}
	pthread_mutex_unlock(&probe.lock);
}

/* ---------- messages ---------- */

/*
 * Length of a message's headers as we send them, and their number.
 */
static size_t
headers_length(const rd_kafka_headers_t *headers, size_t *count)
{
	const char *name;
	const void *value;
	size_t		valuelen;
	size_t		len = 0;

	for (*count = 0;
		 rd_kafka_header_get_all(headers, *count, &name, &value,
								 &valuelen) == RD_KAFKA_RESP_ERR_NO_ERROR;
		 (*count)++)
		len += 2 * sizeof(int32_t) + strlen(name) +
			(value != NULL ? valuelen : 0);
	return len;
}

static void
put_headers(char **p, const rd_kafka_headers_t *headers, size_t count)
{
	for (size_t i = 0; i < count; i++)
	{
		const char *name;
		const void *value;
		size_t		valuelen;

		if (rd_kafka_header_get_all(headers, i, &name, &value, &valuelen) !=
			RD_KAFKA_RESP_ERR_NO_ERROR)
			abort();
		put_int32(p, strlen(name));
		put_bytes(p, name, strlen(name));
		put_int32(p, value != NULL ? (int32_t) valuelen : -1);
		if (value != NULL)
			put_bytes(p, value, valuelen);
	}
}

static void
put_message(const rd_kafka_message_t *m, Partition *part)
{
	LogqReaderMessage head;
	rd_kafka_headers_t *headers;
	rd_kafka_timestamp_type_t type;
	size_t		nheaders = 0;
	size_t		headerslen = 0;
	size_t		keylen = m->key != NULL ? m->key_len : 0;
	size_t		valuelen = m->payload != NULL ? m->len : 0;
	size_t		len;
	char	   *p;

	if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
		headerslen = headers_length(headers, &nheaders);
	len = sizeof(head) + keylen + valuelen + headerslen;
	if (len > LOGQ_FRAME_MAX)
	{
		fatal("message at offset %lld of partition %d is too large: %zu bytes",
			  (long long) m->offset, m->partition, len);
		return;
	}

	memset(&head, 0, sizeof(head));
	head.partition = m->partition;
	head.offset = m->offset;
	head.timestamp = rd_kafka_message_timestamp(m, &type);
	if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || head.timestamp < 0)
		head.timestamp = -1;
	head.keylen = m->key != NULL ? (int32_t) keylen : -1;
	head.valuelen = m->payload != NULL ? (int32_t) valuelen : -1;
	head.headerslen = headerslen;

	p = put_frame(LOGQ_FRAME_MESSAGE, len);
	put_bytes(&p, &head, sizeof(head));
	put_bytes(&p, m->key, keylen);
	put_bytes(&p, m->payload, valuelen);
	if (nheaders > 0)
		put_headers(&p, headers, nheaders);

	part->next = m->offset + 1;
	part->known = true;
	taken_bytes += keylen + valuelen;
	taken_messages++;
}

static LogqReaderOffset
position_of(int32_t partition)
{
	LogqReaderOffset o;
	int64_t		low;
	int64_t		high;

	memset(&o, 0, sizeof(o));
	o.partition = partition;
	o.next = partitions[partition].known ? partitions[partition].next : -1;
	o.low = o.high = -1;
	if (rd_kafka_get_watermark_offsets(rk, topic, partition, &low, &high) ==
		RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		o.low = low >= 0 ? low : -1;
		o.high = high >= 0 ? high : -1;
	}
	if (o.high < o.next)
		o.high = o.next;
	return o;
}

/*
 * Where all partitions stand.  Not while the cluster is down: what we know is
 * old then, and the worker can take a position as a sign of life.
 */
static void
send_positions(void)
{
	int			count = 0;
	char	   *p;

	if (!assigned || cluster_down)
		return;
	for (int i = 0; i < npartitions; i++)
		count += partitions[i].assigned;
	p = put_frame(LOGQ_FRAME_POSITION, count * sizeof(LogqReaderOffset));
	for (int i = 0; i < npartitions; i++)
	{
		if (partitions[i].assigned)
		{
			LogqReaderOffset o = position_of(i);

			put_bytes(&p, &o, sizeof(o));
		}
	}
}

/*
 * An error, or the end, of a partition.  Whatever is not known to leave the
 * partition where it is ends the program: after a batch that is damaged, or
 * cannot be unpacked, librdkafka would go on with the next one.
 */
static void
take_error(const rd_kafka_message_t *m, Partition *part)
{
	char		text[TEXT_SIZE];

	switch (m->err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			if (part != NULL)
			{
				LogqReaderOffset o;
				char	   *p;

				if (part->next < m->offset)
					part->next = m->offset;
				part->known = true;
				o = position_of(m->partition);
				p = put_frame(LOGQ_FRAME_POSITION, sizeof(o));
				put_bytes(&p, &o, sizeof(o));
			}
			break;

		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			snprintf(text, sizeof(text), "%s", rd_kafka_message_errstr(m));
			send_error(LOGQ_READER_LOST, m->partition, text);
			break;

		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
			snprintf(text, sizeof(text),
					 "partition %d of topic \"%s\" does not exist",
					 m->partition, topic);
			report_trouble(m->err, m->partition, text);
			break;

		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_UNKNOWN:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__SSL:
			report_trouble(m->err, m->partition, rd_kafka_message_errstr(m));
			break;

		default:
			fatal("partition %d of topic \"%s\" cannot be read on at offset %lld: %s",
				  m->partition, topic, (long long) m->offset,
				  rd_kafka_message_errstr(m));
			break;
	}
}

/*
 * Take messages until out is full enough or there are none.  False: there are
 * none for now.
 */
static bool
take_messages(void)
{
	while (!ending && out.end - out.start < OUT_SIZE / 2)
	{
		if (batch_next >= batch_count)
		{
			batch_next = 0;
			batch_count = rd_kafka_consume_batch_queue(queue, 0, batch,
													   BATCH_SIZE);
			if (batch_count <= 0)
			{
				batch_count = 0;
				return false;
			}
		}
		while (batch_next < batch_count && !ending &&
			   out.end - out.start < OUT_SIZE / 2)
		{
			rd_kafka_message_t *m = batch[batch_next++];
			Partition  *part = NULL;

			if (m->partition >= 0 && m->partition < npartitions &&
				partitions[m->partition].assigned)
				part = &partitions[m->partition];
			if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR)
				take_error(m, part);
			else if (part != NULL && m->offset >= part->next)
				put_message(m, part);
			rd_kafka_message_destroy(m);
		}
		if (must_wake)
			wake_fetchers();
	}
	return !ending;
}

/* ---------- input ---------- */

/*
 * The next string of a frame, or NULL.
 */
static char *
next_string(char **p, const char *end)
{
	char	   *s = *p;
	char	   *nul = memchr(s, '\0', end - s);

	if (nul == NULL)
		return NULL;
	*p = nul + 1;
	return s;
}

static bool
is_secret(const char *name)
{
	static const char *const words[] = {
		"password", "secret", "key", "pem", "oauthbearer", "token", NULL
	};

	for (int i = 0; words[i] != NULL; i++)
	{
		if (strcasestr(name, words[i]) != NULL)
			return true;
	}
	return false;
}

static bool
is_named(const char *name, const char *other)
{
	return strcmp(name, other) == 0;
}

/*
 * Set one of a topic's properties; false: told why not.
 */
static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		text[TEXT_SIZE];
	rd_kafka_conf_res_t res;

	if (is_secret(name) && strlen(value) >= MIN_SECRET &&
		strchr(value, '\x7f') == NULL)
	{
		secrets = allocate(secrets, (nsecrets + 1) * sizeof(*secrets));
		secrets[nsecrets++] = strdup(value);
	}
	if (is_named(name, "sasl.username"))
		sasl_username = strdup(value);
	else if (is_named(name, "sasl.password"))
		sasl_password = strdup(value);
	else if (is_named(name, "sasl.mechanism") ||
			 is_named(name, "sasl.mechanisms"))
		oauthbearer = strcasecmp(value, "OAUTHBEARER") == 0;

	text[0] = '\0';
	res = rd_kafka_conf_set(conf, name, value, text, sizeof(text));
	if (res == RD_KAFKA_CONF_OK)
		return true;
	if (res == RD_KAFKA_CONF_UNKNOWN)
		fatal("librdkafka knows no property \"%s\"", name);
	else if (is_secret(name))
		fatal("librdkafka does not accept the value of property \"%s\"", name);
	else
		fatal("librdkafka does not accept the value of property \"%s\": %s",
			  name, text);
	return false;
}

/*
 * Set up librdkafka as a SETUP or CHECK frame says; false: told why not.
 */
static bool
set_up(char *p, const char *end)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	const char *brokers = "";
	char		text[TEXT_SIZE];
	char		size[32];
	size_t		len;
	char	   *name;

	topic = next_string(&p, end);
	if (topic == NULL || topic[0] == '\0')
	{
		fatal("the worker sent no topic");
		return false;
	}
	topic = strdup(topic);

	for (int i = 0; preferred[i].name != NULL; i++)
	{
		/* an older librdkafka need not know all of them */
		(void) rd_kafka_conf_set(conf, preferred[i].name, preferred[i].value,
								 text, sizeof(text));
	}
	must_wake = rd_kafka_conf_set(conf, "fetch.queue.backoff.ms", "10", text,
								  sizeof(text)) != RD_KAFKA_CONF_OK;
	while ((name = next_string(&p, end)) != NULL)
	{
		char	   *value = next_string(&p, end);

		if (value == NULL)
			break;
		if (is_named(name, "bootstrap.servers"))
			brokers = value;
		if (!set_property(conf, name, value))
			return false;
	}
	for (int i = 0; forced[i].name != NULL; i++)
	{
		if (!set_property(conf, forced[i].name, forced[i].value))
			return false;
	}

	wake_bytes = atoll(QUEUED_KBYTES) * 1024 / 4;
	wake_messages = atoi(QUEUED_MESSAGES) / 4;
	len = sizeof(size);
	if (rd_kafka_conf_get(conf, "queued.max.messages.kbytes", size, &len) ==
		RD_KAFKA_CONF_OK)
		wake_bytes = atoll(size) * 1024 / 4;
	len = sizeof(size);
	if (rd_kafka_conf_get(conf, "queued.min.messages", size, &len) ==
		RD_KAFKA_CONF_OK)
		wake_messages = atoi(size) / 4;

	rd_kafka_conf_set_error_cb(conf, on_error);
	rd_kafka_conf_set_log_cb(conf, on_log);
	if (oauthbearer)
		rd_kafka_conf_enable_sasl_queue(conf, 1);

	text[0] = '\0';
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	if (rk == NULL)
	{
		fatal("librdkafka cannot be set up like this: %s", text);
		return false;
	}
	rd_kafka_set_log_queue(rk, NULL);
	if (oauthbearer)
	{
		/* fetching a token may take long */
		rd_kafka_error_t *error = rd_kafka_sasl_background_callbacks_enable(rk);

		if (error != NULL)
			rd_kafka_error_destroy(error);
	}
	if (rd_kafka_brokers_add(rk, brokers) <= 0)
	{
		fatal("no address of a broker in \"%s\"", brokers);
		return false;
	}
	rkt = rd_kafka_topic_new(rk, topic, NULL);
	if (rkt == NULL)
	{
		fatal("librdkafka does not accept topic \"%s\": %s", topic,
			  rd_kafka_err2str(rd_kafka_last_error()));
		return false;
	}
	return true;
}

/*
 * Begin: the prober finds out what there is.
 */
static void
begin(void)
{
	rd_kafka_queue_t *main_queue = rd_kafka_queue_get_main(rk);
	pthread_condattr_t attr;
	pthread_t	thread;

	/* both queues wake us; one byte each time they are no longer empty */
	rd_kafka_queue_io_event_enable(main_queue, wake_pipe[1], "", 1);
	queue = rd_kafka_queue_new(rk);
	rd_kafka_queue_io_event_enable(queue, wake_pipe[1], "", 1);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&probe.cond, &attr);
	if (pthread_create(&thread, NULL, prober, NULL) != 0)
		fatal("could not start a thread");
}

/*
 * ASSIGN: read partitions from the offsets given.
 */
static void
assign(const char *p, const char *end)
{
	LogqReaderOffset o;

	if (rk == NULL || assigned)
	{
		fatal("the worker assigned partitions at the wrong time");
		return;
	}
	for (; p + sizeof(o) <= end; p += sizeof(o))
	{
		memcpy(&o, p, sizeof(o));
		if (o.partition < 0 || o.partition > 1000000 || o.next < 0)
		{
			fatal("the worker assigned partition %d at offset %lld",
				  o.partition, (long long) o.next);
			return;
		}
		if (o.partition >= npartitions)
		{
			partitions = allocate(partitions, (o.partition + 1) *
								  sizeof(*partitions));
			memset(partitions + npartitions, 0, (o.partition + 1 - npartitions) *
				   sizeof(*partitions));
			npartitions = o.partition + 1;
		}
		partitions[o.partition].assigned = true;
		partitions[o.partition].next = o.next;
		if (rd_kafka_consume_start_queue(rkt, o.partition, o.next, queue) != 0)
		{
			fatal("could not start reading partition %d: %s", o.partition,
				  rd_kafka_err2str(rd_kafka_last_error()));
			return;
		}
	}
	assigned = true;
}

static void
take_frame(uint32_t type, char *data, size_t length)
{
	if (type == LOGQ_FRAME_SETUP && rk == NULL)
	{
		if (set_up(data, data + length))
			begin();
	}
	else if (type == LOGQ_FRAME_CHECK && rk == NULL)
	{
		if (set_up(data, data + length))
			(void) put_frame(LOGQ_FRAME_OK, 0);
		ending = true;
	}
	else if (type == LOGQ_FRAME_ASSIGN)
		assign(data, data + length);
	else
		fatal("the worker sent something unknown: %u", type);
}

/*
 * Read what the worker has sent.  When it is gone, so are we.
 */
static void
read_in(void)
{
	for (;;)
	{
		char	   *p = buffer_room(&in, 65536);
		ssize_t		n = read(SOCKET_FD, p, 65536);
		LogqFrameHead head;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n <= 0)
			_exit(0);
		in.end += n;
		while (!ending && in.end - in.start >= sizeof(head))
		{
			memcpy(&head, in.data + in.start, sizeof(head));
			if (head.length > LOGQ_FRAME_MAX)
				_exit(1);
			if (in.end - in.start < sizeof(head) + head.length)
				break;
			take_frame(head.type, in.data + in.start + sizeof(head),
					   head.length);
			in.start += sizeof(head) + head.length;
		}
	}
}

/* ---------- the loop ---------- */

static void
loop(void)
{
	int64_t		next_position = now_ms() + POSITION_MS;
	bool		more = false;

	for (;;)
	{
		struct pollfd fds[2] = {
			{.fd = SOCKET_FD, .events = POLLIN},
			{.fd = wake_pipe[0], .events = POLLIN}
		};
		int64_t		now;
		int64_t		wait_ms;
		bool		flushed;

		if (rk != NULL && !ending)
		{
			rd_kafka_poll(rk, 0);
			take_probe();
		}
		if (assigned && !ending)
			more = take_messages();
		now = now_ms();
		if (now >= next_position)
		{
			if (logs_lost > 0)
			{
				char		text[64];

				snprintf(text, sizeof(text), "%d more lines", logs_lost);
				send_log(4, text);
				logs_lost = 0;
			}
			logs_left = MAX_LOGS;
			/* a worker that is slow need not hear it more than once */
			if (!ending && out.end - out.start < OUT_SIZE)
				send_positions();
			next_position = now + POSITION_MS;
		}

		flushed = flush_out();
		if (flushed && ending)
			_exit(exit_status);
		if (!flushed)
			fds[0].events |= POLLOUT;
		if (ending || rk == NULL)
			wait_ms = -1;
		else if (more && flushed)
			wait_ms = 0;
		else
			wait_ms = next_position - now;
		if (poll(fds, 2, wait_ms) < 0 && errno != EINTR)
			_exit(1);

		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL))
			read_in();
		if (fds[1].revents & POLLIN)
		{
			char		sink[256];

			while (read(wake_pipe[0], sink, sizeof(sink)) == sizeof(sink))
				;
		}
	}
}

int
main(int argc, char **argv)
{
	sigset_t	none;
	struct stat st;
	int			flags = fcntl(SOCKET_FD, F_GETFL);

	(void) argc;
	(void) argv;
	if (flags < 0 || fstat(SOCKET_FD, &st) < 0 || !S_ISSOCK(st.st_mode))
	{
		fprintf(stderr, "logq_kafka: only logq can start this program\n");
		return 1;
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);

	if (fcntl(SOCKET_FD, F_SETFL, flags | O_NONBLOCK) < 0 ||
		pipe2(wake_pipe, O_NONBLOCK | O_CLOEXEC) < 0)
	{
		fprintf(stderr, "logq_kafka: could not begin: %s\n",
				strerror(errno));
		return 1;
	}
	loop();
	return 0;
}
