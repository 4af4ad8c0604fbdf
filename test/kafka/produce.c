/*-------------------------------------------------------------------------
 *
 * produce.c
 *		Producing messages: from standard input, and made-up logs.
 *
 * The producer is idempotent and never gives a message up before the timeout:
 * each arrives once, even if the broker is killed in between.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

/* longest message that is read */
#define MAX_MESSAGE (256 * 1024 * 1024)
#define NULL_LENGTH UINT32_C(0xffffffff)

static uint64_t delivered = 0;
static uint64_t failed = 0;
static char first_error[512];
static volatile sig_atomic_t stopped = 0;

/* A message counts as many rows as its opaque pointer says */
static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	uint64_t	rows = (uintptr_t) message->_private;

	(void) rk;
	(void) opaque;
	if (!message->err)
	{
		delivered += rows;
		return;
	}
	if (failed == 0)
		snprintf(first_error, sizeof(first_error), "%s",
				 rd_kafka_err2str(message->err));
	failed += rows;
}

static rd_kafka_t *
connect_producer(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	set(conf, "enable.idempotence", "true");
	/* the check at the start finds topics that do not exist */
	set_number(conf, "topic.metadata.propagation.max.ms",
			   opt.timeout_s < 3600 ? (int64_t) opt.timeout_s * 1000 : 3600000);
	set(conf, "topic.metadata.refresh.interval.ms", "2000");
	/* the broker shall be the one to refuse a message */
	set(conf, "message.max.bytes", "300000000");
	set(conf, "linger.ms", "5");
	set(conf, "batch.num.messages", "10000");
	set(conf, "queue.buffering.max.messages", "200000");
	set(conf, "queue.buffering.max.kbytes", "524288");
	/* few messages too shall reach all partitions */
	set(conf, "sticky.partitioning.linger.ms", "0");
	if (opt.compression)
		set(conf, "compression.codec", opt.compression);
	if (opt.transaction)
	{
		/* the same for all connections of this process */
		static char id[64];

		if (id[0] == '\0')
			snprintf(id, sizeof(id), "logq-%d-%" PRId64, (int) getpid(),
					 now_us());
		set(conf, "transactional.id", id);
		/* messages have the same */
		set_number(conf, "transaction.timeout.ms",
				   (int64_t) (opt.timeout_s < 60 ? opt.timeout_s : 60) * 1000);
	}
	else
		set_number(conf, "message.timeout.ms", (int64_t) opt.timeout_s * 1000);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	return connect_as(RD_KAFKA_PRODUCER, conf);
}

/* ---------- producing ---------- */

static void
produce(rd_kafka_t *rk, const char *topic, const void *value, size_t len,
		const void *this_key, size_t keylen, uintptr_t rows)
{
	rd_kafka_headers_t *list = NULL;

	for (;;)
	{
		rd_kafka_resp_err_t err;

		if (opt.n_headers > 0)
		{
			list = rd_kafka_headers_new(opt.n_headers);
			for (int i = 0; i < opt.n_headers; i++)
			{
				const char *equals = strchr(opt.headers[i], '=');

				rd_kafka_header_add(list, opt.headers[i],
									equals ? equals - opt.headers[i] : -1,
									equals ? equals + 1 : NULL,
									equals ? -1 : 0);
			}
		}
		err = list ?
			rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic),
							  RD_KAFKA_V_PARTITION(opt.partition),
							  RD_KAFKA_V_VALUE((void *) value, len),
							  RD_KAFKA_V_KEY(this_key, keylen),
							  RD_KAFKA_V_TIMESTAMP(opt.timestamp),
							  RD_KAFKA_V_HEADERS(list),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_OPAQUE((void *) rows),
							  RD_KAFKA_V_END) :
			rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic),
							  RD_KAFKA_V_PARTITION(opt.partition),
							  RD_KAFKA_V_VALUE((void *) value, len),
							  RD_KAFKA_V_KEY(this_key, keylen),
							  RD_KAFKA_V_TIMESTAMP(opt.timestamp),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_OPAQUE((void *) rows),
							  RD_KAFKA_V_END);
		if (!err)
			return;
		/* they became librdkafka's only when it took the message */
		if (list)
			rd_kafka_headers_destroy(list);
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			fail("topic \"%s\": %s", topic, rd_kafka_err2str(err));
		rd_kafka_poll(rk, 10);
		if (failed > 0)
			return;
	}
}

/* Wait for all messages; how many there are is to be put out by the caller */
static void
finish_producing(rd_kafka_t *rk)
{
	/* each message ends by its own timeout */
	int64_t		end = now_us() + ((int64_t) opt.timeout_s + 10) * 1000000;
	char		error[512];

	while (rd_kafka_outq_len(rk) > 0 && now_us() < end &&
		   !rd_kafka_fatal_error(rk, error, sizeof(error)))
		rd_kafka_flush(rk, 200);
	if (rd_kafka_fatal_error(rk, error, sizeof(error)))
		fail("%s", error);
	if (failed > 0)
		fail("%" PRIu64 " of %" PRIu64 " were not delivered: %s", failed,
			 failed + delivered, first_error);
	if (rd_kafka_outq_len(rk) > 0)
		fail("%d messages are not delivered yet", rd_kafka_outq_len(rk));
}

/* false: end of the input */
static bool
read_prefixed(char **buf, size_t *size, uint32_t *len)
{
	unsigned char head[4];
	size_t		n = fread(head, 1, 4, stdin);

	if (n == 0)
		return false;
	if (n < 4)
		fail("the input ends within a length");
	*len = (uint32_t) head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
	if (*len == NULL_LENGTH)
		return true;
	if (*len > MAX_MESSAGE)
		fail("a message of %" PRIu32 " bytes is too long", *len);
	if (*len >= *size)
	{
		*size = (size_t) *len + 1;
		*buf = realloc(*buf, *size);
		if (!*buf)
			fail("out of memory");
	}
	if (fread(*buf, 1, *len, stdin) != *len)
		fail("the input ends within a message");
	return true;
}

/* An error that passes is waited for; else it ends the program */
static void
transact(rd_kafka_error_t *(*call) (rd_kafka_t *rk, int timeout_ms),
		 rd_kafka_t *rk, const char *what)
{
	rd_kafka_error_t *error;

	while ((error = call(rk, 5000)) != NULL)
	{
		if (!rd_kafka_error_is_retriable(error) || late())
			fail("%s: %s", what, rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
		nap();
	}
}

/*
 * The broker answers to the end of a transaction when it has decided, before
 * the control record is in each partition.  A test that looks at the offsets
 * next would see it come.  The id is given to another producer only when all
 * of them are written.
 */
static void
wait_for_control_records(void)
{
	rd_kafka_t *rk = connect_producer();

	transact(rd_kafka_init_transactions, rk, "init_transactions");
	rd_kafka_destroy(rk);
}

void
command_produce(const char *topic)
{
	rd_kafka_t *rk = connect_producer();
	char	   *value = NULL;
	char	   *this_key = NULL;
	size_t		value_size = 0;
	size_t		key_size = 0;

	require_topic(rk, topic);
	if (opt.transaction)
	{
		rd_kafka_error_t *error;

		transact(rd_kafka_init_transactions, rk, "init_transactions");
		error = rd_kafka_begin_transaction(rk);
		if (error)
			fail("begin_transaction: %s", rd_kafka_error_string(error));
	}

	if (opt.null_value)
		produce(rk, topic, NULL, 0, opt.key, opt.key ? strlen(opt.key) : 0, 1);
	while (!opt.null_value && failed == 0)
	{
		const char *k = opt.key;
		size_t		keylen = opt.key ? strlen(opt.key) : 0;
		uint32_t	len;

		if (opt.length_prefixed)
		{
			if (opt.keyed)
			{
				if (!read_prefixed(&this_key, &key_size, &len))
					break;
				/* a key that is empty is still a key */
				k = len == NULL_LENGTH ? NULL : this_key ? this_key : "";
				keylen = k ? len : 0;
			}
			if (!read_prefixed(&value, &value_size, &len))
			{
				if (opt.keyed)
					fail("the input ends after a key");
				break;
			}
			if (len == NULL_LENGTH)
				produce(rk, topic, NULL, 0, k, keylen, 1);
			else
				produce(rk, topic, value ? value : "", len, k, keylen, 1);
		}
		else
		{
			ssize_t		n = getline(&value, &value_size, stdin);

			if (n < 0)
				break;
			if (n > 0 && value[n - 1] == '\n')
				n--;
			produce(rk, topic, value, n, k, keylen, 1);
		}
		rd_kafka_poll(rk, 0);
	}
	if (ferror(stdin))
		fail("could not read the input: %s", strerror(errno));

	/* before an abort, too: it would take back what was not sent yet */
	finish_producing(rk);
	printf("%" PRIu64 "\n", delivered);
	fflush(stdout);
	if (opt.transaction && strcmp(opt.transaction, "open") == 0)
		_exit(0);
	if (opt.transaction)
	{
		if (strcmp(opt.transaction, "commit") == 0)
			transact(rd_kafka_commit_transaction, rk, "commit_transaction");
		else
			transact(rd_kafka_abort_transaction, rk, "abort_transaction");
		wait_for_control_records();
	}
	free(value);
	free(this_key);
	rd_kafka_destroy(rk);
}

/* ---------- generating ---------- */

static void
on_signal(int signo)
{
	(void) signo;
	stopped = 1;
}

/* Time of row i, from 0, when it is made at this moment */
static int64_t
row_time(uint64_t i, int64_t now)
{
	if (opt.to <= 0)
		return now;
	return (int64_t) ((opt.from + (opt.to - opt.from) * i / opt.total) * 1e6);
}

void
command_generate(const char *topic)
{
	rd_kafka_t *rk = connect_producer();
	struct sigaction action;
	int			batch = opt.gen.format == GEN_OTLP ? opt.batch : 1;
	char	   *buf = malloc((size_t) batch * GEN_MAX_ROW + GEN_MAX_ROW);
	int64_t    *times = malloc(sizeof(int64_t) * batch);
	uint64_t	sent = 0;
	unsigned	messages = 0;
	int64_t		start,
				now,
				next_line;

	if (!buf || !times)
		fail("out of memory");
	require_topic(rk, topic);

	/* what is made is still delivered */
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_signal;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);

	start = now = now_us();
	next_line = start + 1000000;
	while (!stopped && failed == 0 && (opt.total == 0 || sent < opt.total))
	{
		const char *service;
		size_t		len;
		int			rows = batch;

		now = now_us();
		if (opt.progress && now >= next_line)
		{
			fprintf(stderr, "%" PRIu64 " made, %" PRIu64 " delivered\n",
					sent, delivered);
			next_line += 1000000;
		}
		if (opt.seconds > 0 && now - start >= opt.seconds * 1e6)
			break;
		if (opt.rate > 0 && sent >= opt.rate * (now - start) / 1e6)
		{
			rd_kafka_poll(rk, 1);
			continue;
		}
		if (opt.total > 0 && opt.total - sent < (uint64_t) rows)
			rows = (int) (opt.total - sent);
		for (int i = 0; i < rows; i++)
			times[i] = row_time(sent + i, now);
		len = gen_message(&opt.gen, opt.first + sent, rows, times, buf, &service);
		if (len > (size_t) rows * GEN_MAX_ROW + GEN_MAX_ROW)
			abort();
		produce(rk, topic, buf, len, opt.key_service ? service : opt.key,
				opt.key_service ? strlen(service) : opt.key ? strlen(opt.key) : 0,
				rows);
		sent += rows;
		if (++messages % 64 == 0)
			rd_kafka_poll(rk, 0);
	}
	finish_producing(rk);
	printf("%" PRIu64 "\n", delivered);
	free(buf);
	free(times);
	rd_kafka_destroy(rk);
}
