/*-------------------------------------------------------------------------
 *
 * ingest.h
 *		How logs come from Kafka to the partitions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_INGEST_H
#define LOGQ_INGEST_H

#include "catalog.h"
#include "kafka/protocol.h"
#include "record.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* ---------- settings, in logq.c ---------- */

typedef enum LogqOffsetLoss
{
	LOGQ_OFFSET_LOSS_ERROR,
	LOGQ_OFFSET_LOSS_SKIP
} LogqOffsetLoss;

extern int	logq_ingest_batch_rows;
extern int	logq_ingest_batch_ms;
extern int	logq_ingest_max_message;	/* kB */
extern int	logq_ingest_max_age;	/* s */
extern int	logq_ingest_max_future; /* s */
extern int	logq_on_offset_loss;

/* ---------- topic.c: logq.topic ---------- */

typedef struct LogqTopic
{
	int32		number;
	char	   *name;
	char	   *brokers;
	LogqFormat	format;
	bool		paused;
	/* options: names with the prefix "logq." are ours, all others librdkafka's */
	char	   *key_field;		/* logq.key, or NULL */
	char	   *service;		/* logq.service, or NULL */
	bool		start_latest;	/* logq.start: 'latest' instead of 'earliest' */
	int			nproperties;
	char	  **properties;		/* name, value, name, value ...; with secrets */
} LogqTopic;

/*
 * A topic as it is in the tables now, with its secrets, palloc'd; NULL: there
 * is none.  In a transaction, with a snapshot.
 */
extern LogqTopic *logq_topic_load(int32 number);
/* the same by its name */
extern LogqTopic *logq_topic_load_by_name(const char *name);
/* are two of them the same to somebody who reads them? */
extern bool logq_topic_equal(const LogqTopic *a, const LogqTopic *b);
extern void logq_topic_free(LogqTopic *topic);
/*
 * A text about a topic without whatever is secret in the topic's properties,
 * palloc'd.  For all that librdkafka says, before anybody sees it.
 */
extern char *logq_topic_redact(const LogqTopic *topic, const char *text);

/* A row of logq.topic, without what only a worker needs */
typedef struct LogqTopicRow
{
	int32		number;
	char	   *name;
	bool		paused;
} LogqTopicRow;

/* all rows, by number, palloc'd; NIL also when the extension is not there */
extern List *logq_topic_rows(void);

/* ---------- topicrun.c: the maintenance worker starts ingest workers ------ */

/*
 * Start workers that should be there and are not, end those that should not.
 * In the maintenance worker, outside a transaction.  extension_there as the
 * worker has found.  Returns when to look again at the latest.
 */
extern TimestampTz logq_topics_look_after(bool extension_there);

/* ---------- topicstat.c: what others see of it ---------- */

typedef enum LogqIngestState
{
	LOGQ_INGEST_STOPPED,		/* no worker */
	LOGQ_INGEST_PAUSED,			/* by logq.pause_topic() */
	LOGQ_INGEST_STARTING,		/* worker finds out where it stands */
	LOGQ_INGEST_RUNNING,
	LOGQ_INGEST_WAITING,		/* for a broker, a partition, or another consumer */
	LOGQ_INGEST_FAILED			/* somebody has to do something */
} LogqIngestState;

/* for shmem.c: our share of shared memory */
extern Size logq_ingest_shmem_size(void);
extern void logq_ingest_shmem_startup(void);	/* holds AddinShmemInitLock */

/*
 * This process becomes the worker of a topic of its database, until it ends;
 * false: it has one.
 */
extern bool logq_ingest_register(int32 topic);
/* pid of the worker of a topic of our database; 0: there is none */
extern pid_t logq_ingest_find(int32 topic);
/* end those of our database whose topic is not in the list (of int) */
extern void logq_ingest_terminate_others(List *topics);
/* forget what is known of topics of our database that are not in the list */
extern void logq_ingest_forget_others(List *topics);
/* when the transaction commits: wake those who start workers, and workers */
extern void logq_topics_changed(void);
/* raised by every change of topics, of any database */
extern uint64 logq_topics_change_count(void);
/*
 * For the maintenance worker: why a topic of our database has no worker, to be
 * shown until it has one.  False: there is no room.
 */
extern bool logq_ingest_note(int32 topic, LogqIngestState state,
							 const char *error);
/* for the launcher: end workers of databases that are not to have any */
extern void logq_ingest_terminate_unwanted(void);

/* for the worker itself; none throws */
extern void logq_ingest_set_state(LogqIngestState state);
/* NULL: all is well; shown with the time at which it was first the same */
extern void logq_ingest_set_error(const char *error);
/* offsets of a Kafka partition; -1 for what is not known or as it was */
extern void logq_ingest_set_offsets(int32 partition, int64 next, int64 high);
/* a commit brought so much; rows per second are computed from this */
extern void logq_ingest_count(int32 partition, int64 rows, int64 bytes,
							  int64 dead_letters);

/* ---------- reader.c: the process that runs librdkafka ---------- */

typedef struct LogqReader LogqReader;

typedef struct LogqFrame
{
	uint32		type;
	const char *data;			/* valid until the next logq_reader_receive */
	uint32		length;
} LogqFrame;

/* start one for a topic; errors are thrown, nothing is left then */
extern LogqReader *logq_reader_start(const LogqTopic *topic);
/* let one check a topic's properties; NULL, or what is wrong, palloc'd */
extern char *logq_reader_check(const LogqTopic *topic);
extern void logq_reader_assign(LogqReader *reader, int n,
							   const LogqReaderOffset *offsets);
extern pgsocket logq_reader_socket(const LogqReader *reader);
/* does it have more to send to the reader? then wait for writability, too */
extern bool logq_reader_flush(LogqReader *reader);
/* the next frame of what has been received; false: there is none complete */
extern bool logq_reader_next(LogqReader *reader, LogqFrame *frame);
/*
 * Take in what has come, without waiting; all frames before have been taken
 * or are kept.  False: the reader has ended, *how says how (palloc'd).
 */
extern bool logq_reader_receive(LogqReader *reader, char **how);
/* kill it, and wait for it; never throws */
extern void logq_reader_stop(LogqReader *reader);

/* ---------- ingestbatch.c: what is to be written ---------- */

/* columns of logq_store.log that are written, and of logq_store.dead_letter */
#define LOGQ_INGEST_COLUMNS "ts, level, service, message, trace_id, attrs"
#define LOGQ_DEAD_COLUMNS \
	"cluster, topic, kafka_partition, kafka_offset, record, ts, key, headers, payload, reason"

/* append a good record as a tuple of binary COPY */
extern void logq_ingest_append(StringInfo buf, const LogqRecord *record);
/* append a dead letter as a tuple of binary COPY */
extern void logq_ingest_append_dead(StringInfo buf, const char *cluster,
									const char *topic, int32 partition,
									int64 offset, int record,
									const LogqMessage *message,
									const char *reason);

/* ---------- ingest.c ---------- */

extern PGDLLEXPORT void logq_ingest_main(Datum arg);
/* settings of a parser for a topic, by the settings of now */
extern void logq_ingest_parser_settings(const LogqTopic *topic,
										LogqParserSettings *settings);

#endif							/* LOGQ_INGEST_H */
