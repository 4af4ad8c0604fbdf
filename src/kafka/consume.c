/*-------------------------------------------------------------------------
 *
 * consume.c
 *		Takes messages from librdkafka, and says how far each partition is.
 *
 * Partitions are read through the simple consumer, each from an offset of the
 * worker's: no group, so that nothing but reading the topic need be allowed,
 * and nobody else can move our offsets.  All of them come in one queue.
 *
 * Invariants: only the main thread comes here, and no call waits: it asks for
 * what librdkafka has already.  A message is taken from the queue only while
 * the output is less than half full.  A partition's "next" only grows; what
 * librdkafka gives below it is left out, and what is sent moves it on, so that
 * a position is never ahead of its messages.
 *
 * Failure cases: offsets that are gone are told as LOST, and the worker
 * decides.  What librdkafka tries again is told as TROUBLE.  Anything else
 * might make it skip messages, and ends the program.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* messages taken from librdkafka at once */
#define BATCH_SIZE 1000
/* Kafka itself gets slow long before */
#define MAX_PARTITION 1000000

/* A Kafka partition that is read */
typedef struct Partition
{
	bool		assigned;
	bool		known;			/* next is more than where we began */
	int64_t		next;
} Partition;

/* of messages, and of partitions' errors */
static rd_kafka_queue_t *queue;

static Partition *partitions;
static int	npartitions = 0;	/* length of the array */

/* taken from librdkafka, and not yet in the output */
static rd_kafka_message_t *batch[BATCH_SIZE];
static int	batch_next = 0;
static int	batch_count = 0;

/* since the last time that we woke librdkafka */
static int64_t taken_bytes = 0;
static int64_t taken_messages = 0;

/*
 * Wake librdkafka's threads after we made room in its queue.  Before 2.2,
 * which has fetch.queue.backoff.ms, they look at a queue that was full only
 * once a second, which would limit us to one filling of it each second.
 *
 * The only call that wakes them, and need not do anything else, is the one
 * that changes SASL credentials, so these are set to what they are.
 * librdkafka copies them under a lock, breaks no connection, and sends each
 * broker's thread an operation that is empty.  Without SASL nobody reads
 * them; PLAIN and SCRAM find the same ones as before, under the same lock;
 * OAUTHBEARER has others.
 *
 * Not with GSSAPI, where logq_waking.needed is false: libsasl would be given a
 * name where there was none, and librdkafka holds the lock while libsasl talks
 * to Kerberos servers, for which the main thread must not wait.  Reading is
 * limited as above then; who needs more has a newer librdkafka, or sets
 * queued.min.messages higher.
 */
static void
wake_fetchers(void)
{
#if RD_KAFKA_VERSION >= 0x020000ff
	rd_kafka_error_t *error;

	if (!logq_waking.needed || (taken_bytes < logq_waking.bytes &&
								taken_messages < logq_waking.messages))
		return;
	taken_bytes = 0;
	taken_messages = 0;
	error = rd_kafka_sasl_set_credentials(logq_rk, logq_waking.username,
										  logq_waking.password);
	if (error != NULL)
		rd_kafka_error_destroy(error);	/* slower is all that it means */
#endif
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
			abort();			/* they were all there just now */
		logq_put_int32(p, strlen(name));
		logq_put_bytes(p, name, strlen(name));
		logq_put_int32(p, value != NULL ? (int32_t) valuelen : -1);
		if (value != NULL)
			logq_put_bytes(p, value, valuelen);
	}
}

/*
 * A message's headers; NULL: there are none, or none that can be read, which
 * is told: the message is worth more than they are.
 */
static rd_kafka_headers_t *
get_headers(const rd_kafka_message_t *m)
{
	rd_kafka_headers_t *headers = NULL;
	rd_kafka_resp_err_t err = rd_kafka_message_headers(m, &headers);

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return headers;
	if (err != RD_KAFKA_RESP_ERR__NOENT)
	{
		char		text[LOGQ_TEXT_SIZE];

		snprintf(text, sizeof(text),
				 "headers of the message at offset %lld of partition %d cannot be read: %s",
				 (long long) m->offset, m->partition, rd_kafka_err2str(err));
		logq_send_trouble(m->partition, text);
	}
	return NULL;
}

static void
put_message(const rd_kafka_message_t *m, Partition *part)
{
	LogqReaderMessage head;
	const rd_kafka_headers_t *headers = get_headers(m);
	rd_kafka_timestamp_type_t type;
	size_t		nheaders = 0;
	size_t		headerslen = 0;
	size_t		keylen = m->key != NULL ? m->key_len : 0;
	size_t		valuelen = m->payload != NULL ? m->len : 0;
	size_t		len;
	char	   *p;

	if (headers != NULL)
		headerslen = headers_length(headers, &nheaders);
	len = sizeof(head) + keylen + valuelen + headerslen;
	if (len > LOGQ_FRAME_MAX)
	{
		logq_fatal("message at offset %lld of partition %d is too large: %zu bytes",
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

	p = logq_put_frame(LOGQ_FRAME_MESSAGE, len);
	logq_put_bytes(&p, &head, sizeof(head));
	logq_put_bytes(&p, m->key, keylen);
	logq_put_bytes(&p, m->payload, valuelen);
	if (nheaders > 0)
		put_headers(&p, headers, nheaders);

	part->next = m->offset + 1;
	part->known = true;
}

/* ---------- positions ---------- */

/*
 * Where a partition stands, as far as librdkafka knows without asking.
 */
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
	if (rd_kafka_get_watermark_offsets(logq_rk, logq_topic_name, partition,
									   &low, &high) ==
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
void
logq_send_positions(void)
{
	int			count = 0;
	char	   *p;

	if (logq_cluster_is_down())
		return;
	for (int i = 0; i < npartitions; i++)
		count += partitions[i].assigned;
	p = logq_put_frame(LOGQ_FRAME_POSITION, count * sizeof(LogqReaderOffset));
	for (int i = 0; i < npartitions; i++)
	{
		if (partitions[i].assigned)
		{
			LogqReaderOffset o = position_of(i);

			logq_put_bytes(&p, &o, sizeof(o));
		}
	}
}

/* ---------- what comes from the queue ---------- */

/*
 * An error, or the end, of a partition.  Whatever is not known to leave the
 * partition where it is ends the program: after a batch that is damaged, or
 * cannot be unpacked, librdkafka would go on with the next one.
 */
static void
take_error(const rd_kafka_message_t *m, Partition *part)
{
	char		text[LOGQ_TEXT_SIZE];

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
				p = logq_put_frame(LOGQ_FRAME_POSITION, sizeof(o));
				logq_put_bytes(&p, &o, sizeof(o));
			}
			break;

		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			logq_send_error(LOGQ_READER_LOST, m->partition,
							rd_kafka_message_errstr(m));
			break;

		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
			snprintf(text, sizeof(text),
					 "partition %d of topic \"%s\" does not exist",
					 m->partition, logq_topic_name);
			logq_report_trouble(m->err, m->partition, text);
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
			logq_report_trouble(m->err, m->partition,
								rd_kafka_message_errstr(m));
			break;

		default:
			logq_fatal("partition %d of topic \"%s\" cannot be read on at offset %lld: %s",
					   m->partition, logq_topic_name, (long long) m->offset,
					   rd_kafka_message_errstr(m));
			break;
	}
}

static void
take_message(const rd_kafka_message_t *m)
{
	Partition  *part = NULL;

	if (m->partition >= 0 && m->partition < npartitions &&
		partitions[m->partition].assigned)
		part = &partitions[m->partition];
	if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		take_error(m, part);
	else
	{
		taken_bytes += m->len + m->key_len;
		taken_messages++;
		if (part != NULL && m->offset >= part->next)
			put_message(m, part);
	}
}

/*
 * Take messages until the output is full enough or there are none.  False:
 * there are none for now.
 */
bool
logq_take_messages(void)
{
	while (!logq_ending && logq_out_pending() < LOGQ_OUT_SIZE / 2)
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
		while (batch_next < batch_count && !logq_ending &&
			   logq_out_pending() < LOGQ_OUT_SIZE / 2)
		{
			rd_kafka_message_t *m = batch[batch_next++];

			take_message(m);
			rd_kafka_message_destroy(m);
		}
		wake_fetchers();
	}
	return !logq_ending;
}

/* ---------- beginning ---------- */

/*
 * Make the queue, which wakes the loop each time it is no longer empty.
 */
void
logq_consume_start(void)
{
	queue = rd_kafka_queue_new(logq_rk);
	rd_kafka_queue_io_event_enable(queue, logq_wake_fd, "", 1);
}

/*
 * Make the array long enough for a partition.
 */
static Partition *
partition_for(int32_t id)
{
	if (id >= npartitions)
	{
		partitions = logq_allocate(partitions,
								   (id + 1) * sizeof(*partitions));
		memset(partitions + npartitions, 0,
			   (id + 1 - npartitions) * sizeof(*partitions));
		npartitions = id + 1;
	}
	return &partitions[id];
}

/*
 * ASSIGN: read partitions from the offsets given; once only.
 */
void
logq_assign(const char *p, const char *end)
{
	LogqReaderOffset o;

	if ((size_t) (end - p) % sizeof(o) != 0)
	{
		logq_fatal("the worker sent offsets of a wrong length");
		return;
	}
	for (; p < end; p += sizeof(o))
	{
		Partition  *part;

		memcpy(&o, p, sizeof(o));
		if (o.partition < 0 || o.partition > MAX_PARTITION || o.next < 0)
		{
			logq_fatal("the worker assigned partition %d at offset %lld",
					   o.partition, (long long) o.next);
			return;
		}
		part = partition_for(o.partition);
		if (part->assigned)
		{
			logq_fatal("the worker assigned partition %d twice", o.partition);
			return;
		}
		part->assigned = true;
		part->next = o.next;
		if (rd_kafka_consume_start_queue(logq_rkt, o.partition, o.next,
										 queue) != 0)
		{
			logq_fatal("could not start reading partition %d: %s", o.partition,
					   rd_kafka_err2str(rd_kafka_last_error()));
			return;
		}
	}
}
