/*-------------------------------------------------------------------------
 *
 * tool.h
 *		What the parts of logq_kafka_tool share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_KAFKA_TOOL_H
#define LOGQ_KAFKA_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <librdkafka/rdkafka.h>

/* ---------- generate.c: made-up logs ---------- */

typedef enum GenFormat
{
	GEN_JSON,
	GEN_OTLP,
	GEN_FLUENTBIT,
	GEN_VECTOR,
	GEN_MIXED					/* each in turn */
} GenFormat;

typedef struct GenSettings
{
	GenFormat	format;
	uint64_t	seed;
	const char *number_field;
	bool		stamp;			/* also write when a row was made */
} GenSettings;

/* most rows that a message can have */
#define GEN_MAX_BATCH 1000
/* longest that a row can become, with all that is around it */
#define GEN_MAX_ROW 2048

extern bool gen_format_by_name(const char *name, GenFormat *format);
extern size_t gen_message(const GenSettings *settings, uint64_t first, int rows,
						  const int64_t *ts, char *buf, const char **service);

/* ---------- topics.c ---------- */

extern void nap(void);
extern bool late(void);
extern void set(rd_kafka_conf_t *conf, const char *name, const char *value);
extern void set_number(rd_kafka_conf_t *conf, const char *name,
					   int64_t value);
extern rd_kafka_t *connect_as(rd_kafka_type_t type, rd_kafka_conf_t *conf);
extern int	require_topic(rd_kafka_t *rk, const char *topic);
extern void command_cluster(void);
extern void command_offsets(const char *topic);
extern void command_create(const char *topic, int partitions, char **config);
extern void command_grow(const char *topic, int partitions);
extern void command_delete(const char *topic);
extern void command_delete_records(const char *topic, int partition,
								   int64_t offset);

/* ---------- produce.c ---------- */

extern void command_produce(const char *topic);
extern void command_generate(const char *topic);

/* ---------- logq_kafka_tool.c ---------- */

#define MAX_HEADERS 100
#define MAX_PROPERTIES 100

/* what the command line asks for */
typedef struct Options
{
	const char *brokers;
	int			timeout_s;
	int64_t		deadline;		/* of now_us() */
	const char *properties[MAX_PROPERTIES];
	int			n_properties;

	const char *compression;
	int32_t		partition;
	const char *key;
	const char *headers[MAX_HEADERS];
	int			n_headers;
	int64_t		timestamp;		/* ms since 1970, 0: now */
	bool		null_value;
	bool		length_prefixed;
	bool		keyed;
	const char *transaction;

	GenSettings gen;
	uint64_t	total;			/* rows; 0: no limit */
	uint64_t	first;
	double		rate;			/* rows in a second, 0: no limit */
	double		seconds;		/* 0: no limit */
	double		from;			/* s since 1970 */
	double		to;				/* 0: rows have the time of their making */
	int			batch;
	bool		key_service;
	bool		progress;
} Options;

extern Options opt;

extern int64_t now_us(void);
extern void fail(const char *fmt,...)
			__attribute__((noreturn, format(printf, 1, 2)));

#endif							/* LOGQ_KAFKA_TOOL_H */
