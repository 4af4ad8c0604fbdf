/*-------------------------------------------------------------------------
 *
 * topics.c
 *		Connections to a broker, and topics.
 *
 * A broker may be killed and come back at any time: whatever passes by itself
 * is tried again until the timeout.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tool.h"

static char last_error[512];

void
nap(void)
{
	struct timespec t = {0, 20000000};

	nanosleep(&t, NULL);
}

bool
late(void)
{
	return now_us() >= opt.deadline;
}

/* ---------- librdkafka ---------- */

void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) !=
		RD_KAFKA_CONF_OK)
		fail("%s", error);
}

void
set_number(rd_kafka_conf_t *conf, const char *name, int64_t value)
{
	char		text[32];

	snprintf(text, sizeof(text), "%" PRId64, value);
	set(conf, name, text);
}

/* Kept for when there is nothing better to say */
static void
on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
	(void) rk;
	(void) opaque;
	if (err != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		snprintf(last_error, sizeof(last_error), ": %s", reason);
}

static void
fail_without_answer(rd_kafka_t *rk)
{
	rd_kafka_poll(rk, 0);
	fail("no answer from %s%s", opt.brokers, last_error);
}

rd_kafka_t *
connect_as(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char		error[512];
	rd_kafka_t *rk;

	set(conf, "bootstrap.servers", opt.brokers);
	set(conf, "client.id", "logq_kafka_tool");
	/* brokers come and go in the tests */
	set(conf, "reconnect.backoff.ms", "20");
	set(conf, "reconnect.backoff.max.ms", "250");
	set(conf, "log_level", "2");
	for (int i = 0; i < opt.n_properties; i++)
	{
		char	   *name = strdup(opt.properties[i]);
		char	   *equals = name ? strchr(name, '=') : NULL;

		if (!equals)
			fail("-P needs NAME=VALUE, not \"%s\"", opt.properties[i]);
		*equals = '\0';
		set(conf, name, equals + 1);
		free(name);
	}
	rd_kafka_conf_set_error_cb(conf, on_error);
	rk = rd_kafka_new(type, conf, error, sizeof(error));
	if (!rk)
		fail("%s", error);
	return rk;
}

/* For looking and for changing things; without a group */
static rd_kafka_t *
connect_admin(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	/* else an open transaction would hide what comes after it */
	set(conf, "isolation.level", "read_uncommitted");
	return connect_as(RD_KAFKA_CONSUMER, conf);
}

/* Errors that pass when a broker is back, or has understood that it is */
static bool
is_transient(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
		case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
		case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS:
			/* no broker has registered yet */
		case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
			return true;
		default:
			return false;
	}
}

/* How many partitions with a leader a topic has; 0: none, -1: no answer */
static int
count_partitions(rd_kafka_t *rk, const char *topic)
{
	const struct rd_kafka_metadata *md;
	int			n = 0;

	/* asking for one topic would cache that it is not there */
	if (rd_kafka_metadata(rk, 1, NULL, &md, 2000) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return -1;
	for (int i = 0; i < md->topic_cnt; i++)
	{
		if (strcmp(md->topics[i].topic, topic) != 0)
			continue;
		for (int j = 0; j < md->topics[i].partition_cnt; j++)
		{
			if (md->topics[i].partitions[j].leader >= 0)
				n++;
		}
	}
	if (md->broker_cnt == 0)
		n = -1;
	rd_kafka_metadata_destroy(md);
	return n;
}

/* ... once there is an answer; ends the program when there is no such topic */
int
require_topic(rd_kafka_t *rk, const char *topic)
{
	int			n;

	while ((n = count_partitions(rk, topic)) < 0)
	{
		if (late())
			fail_without_answer(rk);
		nap();
	}
	if (n == 0)
		fail("there is no topic \"%s\"", topic);
	return n;
}

static void
get_offsets(rd_kafka_t *rk, const char *topic, int32_t number, int64_t *low,
			int64_t *high)
{
	rd_kafka_resp_err_t err;

	while ((err = rd_kafka_query_watermark_offsets(rk, topic, number, low,
												   high, 5000)))
	{
		/* a leader that does not have the log yet says that there is none */
		if ((!is_transient(err) &&
			 err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) || late())
			fail("offsets of \"%s\" %d: %s", topic, (int) number,
				 rd_kafka_err2str(err));
		nap();
	}
}

/* ---------- topics ---------- */

typedef enum AdminOp
{
	OP_CREATE,
	OP_GROW,
	OP_DELETE,
	OP_DELETE_RECORDS
} AdminOp;

/* One attempt.  n is the number of partitions, or a partition. */
static rd_kafka_resp_err_t
try_admin(rd_kafka_t *rk, AdminOp op, const char *topic, int n, int64_t offset,
		  char **config, char *error, size_t error_size)
{
	static const rd_kafka_admin_op_t ops[] = {
		RD_KAFKA_ADMIN_OP_CREATETOPICS, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS,
		RD_KAFKA_ADMIN_OP_DELETETOPICS, RD_KAFKA_ADMIN_OP_DELETERECORDS
	};
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, ops[op]);
	rd_kafka_NewTopic_t *new_topic = NULL;
	rd_kafka_NewPartitions_t *more = NULL;
	rd_kafka_DeleteTopic_t *del = NULL;
	rd_kafka_DeleteRecords_t *del_records = NULL;
	rd_kafka_topic_partition_list_t *list = NULL;
	const rd_kafka_topic_result_t **topics = NULL;
	rd_kafka_event_t *event;
	rd_kafka_resp_err_t err;
	size_t		count = 0;

	if (rd_kafka_AdminOptions_set_request_timeout(options, 10000, error,
												  error_size) ||
		rd_kafka_AdminOptions_set_operation_timeout(options, 10000, error,
													error_size))
		fail("%s", error);

	switch (op)
	{
		case OP_CREATE:
			new_topic = rd_kafka_NewTopic_new(topic, n, 1, error, error_size);
			if (!new_topic)
				fail("%s", error);
			for (; config && *config; config++)
			{
				char	   *name = strdup(*config);
				char	   *equals = name ? strchr(name, '=') : NULL;

				if (!equals)
					fail("a setting needs NAME=VALUE, not \"%s\"", *config);
				*equals = '\0';
				if (rd_kafka_NewTopic_set_config(new_topic, name, equals + 1))
					fail("not a setting: \"%s\"", *config);
				free(name);
			}
			rd_kafka_CreateTopics(rk, &new_topic, 1, options, queue);
			break;
		case OP_GROW:
			more = rd_kafka_NewPartitions_new(topic, n, error, error_size);
			if (!more)
				fail("%s", error);
			rd_kafka_CreatePartitions(rk, &more, 1, options, queue);
			break;
		case OP_DELETE:
			del = rd_kafka_DeleteTopic_new(topic);
			rd_kafka_DeleteTopics(rk, &del, 1, options, queue);
			break;
		case OP_DELETE_RECORDS:
			list = rd_kafka_topic_partition_list_new(1);
			rd_kafka_topic_partition_list_add(list, topic, n)->offset =
				offset;
			del_records = rd_kafka_DeleteRecords_new(list);
			rd_kafka_DeleteRecords(rk, &del_records, 1, options, queue);
			break;
	}

	event = rd_kafka_queue_poll(queue, 15000);
	if (!event)
		err = RD_KAFKA_RESP_ERR__TIMED_OUT;
	else
	{
		err = rd_kafka_event_error(event);
		snprintf(error, error_size, "%s", err ? rd_kafka_event_error_string(event) : "");
	}
	if (event && !err)
	{
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
				topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event),
															 &count);
				break;
			case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
				topics = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event),
																 &count);
				break;
			case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
				topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event),
															 &count);
				break;
			case RD_KAFKA_EVENT_DELETERECORDS_RESULT:
				{
					const rd_kafka_topic_partition_list_t *result =
						rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));

					for (int i = 0; i < result->cnt; i++)
					{
						if (result->elems[i].err)
							err = result->elems[i].err;
					}
					break;
				}
			default:
				break;
		}
		for (size_t i = 0; i < count; i++)
		{
			const char *text = rd_kafka_topic_result_error_string(topics[i]);

			err = rd_kafka_topic_result_error(topics[i]);
			if (err && text)
				snprintf(error, error_size, "%s", text);
		}
	}
	if (err && !error[0])
		snprintf(error, error_size, "%s", rd_kafka_err2str(err));

	if (event)
		rd_kafka_event_destroy(event);
	if (new_topic)
		rd_kafka_NewTopic_destroy(new_topic);
	if (more)
		rd_kafka_NewPartitions_destroy(more);
	if (del)
		rd_kafka_DeleteTopic_destroy(del);
	if (del_records)
		rd_kafka_DeleteRecords_destroy(del_records);
	if (list)
		rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	return err;
}

/*
 * Until it is done.  An attempt without an answer may have succeeded all the
 * same; then the next one says that there is nothing to do.
 */
static void
admin(rd_kafka_t *rk, AdminOp op, const char *topic, int n, int64_t offset,
	  char **config)
{
	char		error[512] = "";
	bool		again = false;
	rd_kafka_resp_err_t err;

	while ((err = try_admin(rk, op, topic, n, offset, config, error,
							sizeof(error))))
	{
		if (again &&
			((op == OP_CREATE && err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) ||
			 (op == OP_GROW && err == RD_KAFKA_RESP_ERR_INVALID_PARTITIONS) ||
			 (op == OP_DELETE && err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)))
			break;
		if (!is_transient(err) || late())
			fail("topic \"%s\": %s", topic, error);
		again = true;
		error[0] = '\0';
		nap();
	}
}

static void
wait_for_partitions(rd_kafka_t *rk, const char *topic, int n)
{
	int64_t		low,
				high;

	while (count_partitions(rk, topic) != n)
	{
		if (late())
			fail("topic \"%s\" does not get %d partitions", topic, n);
		nap();
	}
	for (int i = 0; i < n; i++)
		get_offsets(rk, topic, i, &low, &high);
}

void
command_cluster(void)
{
	rd_kafka_t *rk = connect_admin();
	char	   *id = NULL;

	while (count_partitions(rk, "") < 0 ||
		   (id = rd_kafka_clusterid(rk, 1000)) == NULL)
	{
		if (late())
			fail_without_answer(rk);
		nap();
	}
	printf("%s\n", id);
	rd_kafka_mem_free(rk, id);
	rd_kafka_destroy(rk);
}

void
command_offsets(const char *topic)
{
	rd_kafka_t *rk = connect_admin();
	int			n = require_topic(rk, topic);

	for (int i = 0; i < n; i++)
	{
		int64_t		low,
					high;

		get_offsets(rk, topic, i, &low, &high);
		printf("%d %" PRId64 " %" PRId64 "\n", i, low, high);
	}
	rd_kafka_destroy(rk);
}

void
command_create(const char *topic, int partitions, char **config)
{
	rd_kafka_t *rk = connect_admin();

	admin(rk, OP_CREATE, topic, partitions, 0, config);
	wait_for_partitions(rk, topic, partitions);
	rd_kafka_destroy(rk);
}

/* To so many partitions in all */
void
command_grow(const char *topic, int partitions)
{
	rd_kafka_t *rk = connect_admin();

	admin(rk, OP_GROW, topic, partitions, 0, NULL);
	wait_for_partitions(rk, topic, partitions);
	rd_kafka_destroy(rk);
}

void
command_delete(const char *topic)
{
	rd_kafka_t *rk = connect_admin();

	admin(rk, OP_DELETE, topic, 0, 0, NULL);
	wait_for_partitions(rk, topic, 0);
	rd_kafka_destroy(rk);
}

/* What comes before offset, or all with RD_KAFKA_OFFSET_END */
void
command_delete_records(const char *topic, int partition, int64_t offset)
{
	rd_kafka_t *rk = connect_admin();

	require_topic(rk, topic);
	admin(rk, OP_DELETE_RECORDS, topic, partition, offset, NULL);
	rd_kafka_destroy(rk);
}
