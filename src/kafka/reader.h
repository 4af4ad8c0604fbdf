/*-------------------------------------------------------------------------
 *
 * reader.h
 *		What the parts of the reader need of each other.
 *
 * Two threads of ours run: the main one, and the prober of watch.c.  All that
 * is declared here belongs to the main thread, except for what says otherwise
 * below: the prober reads logq_rk, logq_rkt, logq_topic_name and logq_wake_fd,
 * which do not change any more when it is started, and it may allocate.
 * librdkafka's own threads call nothing of ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_KAFKA_READER_H
#define LOGQ_KAFKA_READER_H

#include "kafka/protocol.h"

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* texts are cut at this, with the NUL */
#define LOGQ_TEXT_SIZE 1024

/* output: no more is taken above half of it; memory beyond is given back */
#define LOGQ_OUT_SIZE (512 * 1024)

/* ---------- output.c ---------- */

typedef struct LogqBuffer
{
	char	   *data;
	size_t		start;			/* what is before has been written or read */
	size_t		end;
	size_t		size;
} LogqBuffer;

extern bool logq_ending;		/* after what is in the output, with ... */
extern int	logq_exit_status;

/* for both threads */
extern int64_t logq_now_ms(void);
extern void *logq_allocate(void *old, size_t size);
extern char *logq_copy(const char *s);

extern char *logq_buffer_room(LogqBuffer *buf, size_t len);
extern char *logq_put_frame(uint32_t type, size_t length);
extern void logq_put_bytes(char **p, const void *data, size_t len);
extern void logq_put_int32(char **p, int32_t value);
extern size_t logq_out_pending(void);
extern bool logq_flush_out(int sock);

extern void logq_send_error(LogqReaderErrorKind kind, int32_t partition,
							const char *text);
extern void logq_send_trouble(int32_t partition, const char *text);
extern bool logq_send_log(int level, const char *text);
extern void logq_fatal(const char *fmt,...)
			__attribute__((format(printf, 1, 2)));

/* ---------- setup.c ---------- */

/* How consume.c wakes librdkafka's threads; see wake_fetchers() there */
typedef struct LogqWaking
{
	bool		needed;
	int64_t		bytes;			/* after so much was taken, or ... */
	int64_t		messages;
	const char *username;		/* SASL credentials, "" if there are none */
	const char *password;
} LogqWaking;

extern rd_kafka_t *logq_rk;
extern rd_kafka_topic_t *logq_rkt;
extern char *logq_topic_name;
extern LogqWaking logq_waking;

extern bool logq_set_up(char *p, const char *end);
extern void logq_censor(char *text);

/* ---------- watch.c ---------- */

extern void logq_watch_start(void);
extern void logq_watch_take(void);
extern void logq_watch_tick(void);
extern bool logq_cluster_is_down(void);
extern void logq_report_trouble(rd_kafka_resp_err_t err, int32_t partition,
								const char *text);
extern void logq_on_error(rd_kafka_t *rk, int err, const char *reason,
						  void *opaque);
extern void logq_on_log(const rd_kafka_t *rk, int level, const char *facility,
						const char *line);

/* ---------- consume.c ---------- */

extern void logq_consume_start(void);
extern void logq_assign(const char *p, const char *end);
extern bool logq_take_messages(void);
extern void logq_send_positions(void);

/* ---------- logq_kafka.c ---------- */

/* bytes written to it wake the main thread; any thread may */
extern int	logq_wake_fd;

#endif							/* LOGQ_KAFKA_READER_H */
