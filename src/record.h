/*-------------------------------------------------------------------------
 *
 * record.h
 *		From a message to log rows.
 *
 * Plain C over PostgreSQL's JSON lexer: knows nothing of libpq, tables or
 * transactions, and never throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_RECORD_H
#define LOGQ_RECORD_H

#include <stdbool.h>
#include <stdint.h>

typedef enum LogqFormat
{
	LOGQ_FORMAT_AUTO,			/* of each message, by what it looks like */
	LOGQ_FORMAT_JSON,			/* plain objects */
	LOGQ_FORMAT_OTLP,			/* OTLP logs as JSON */
	LOGQ_FORMAT_FLUENTBIT,
	LOGQ_FORMAT_VECTOR,
	LOGQ_FORMAT_RAW				/* the whole value is the message */
} LogqFormat;

/* Some bytes, not ended by NUL; data is NULL for what is not there */
typedef struct LogqText
{
	const char *data;
	int			len;
} LogqText;

/* A message as Kafka hands it out */
typedef struct LogqMessage
{
	LogqText	value;
	LogqText	key;
	LogqText	headers;		/* as in kafka/protocol.h */
	int64_t		timestamp;		/* ms since 1970, -1: none */
} LogqMessage;

/* A log row, or why there is none */
typedef struct LogqRecord
{
	int			index;			/* in the message, from 0; -1: all of it */
	int64_t		ts;				/* µs since 2000-01-01 UTC, as timestamptz */
	LogqText	level;
	LogqText	service;
	LogqText	message;
	LogqText	trace_id;
	LogqText	attrs;			/* text of a JSON object that jsonb accepts */
	const char *error;			/* NULL: it is good */
} LogqRecord;

typedef struct LogqParserSettings
{
	LogqFormat	format;
	LogqText	key_field;		/* what the key fills: "service", "trace_id",
								 * "message" or "attrs.NAME"; NULL: nothing */
	LogqText	service;		/* of rows that have none; NULL: none */
	int64_t		min_ts;			/* µs since 2000; what is earlier, or later */
	int64_t		max_ts;			/* than this, is refused */
	int			max_bytes;		/* of a message's value */
} LogqParserSettings;

typedef struct LogqParser LogqParser;

/* in the current memory context, for as long as that lasts */
extern LogqParser *logq_parser_create(const LogqParserSettings *settings);
extern void logq_parser_set(LogqParser *parser,
							const LogqParserSettings *settings);
/*
 * The rows of a message, valid until the next call; the message must live as
 * long.  Returns how many.  A message that cannot be understood as a whole is
 * one record with an error and index -1; a message without a value has none.
 * Memory of the parser is reused, and given back when a giant message is over.
 */
extern int	logq_parse(LogqParser *parser, const LogqMessage *message,
					   LogqRecord **records);
/*
 * A message that has this record alone, of those that logq_parse() has just
 * returned: parsed again, its only record is the same but for its index.  The
 * value itself if that is so already.  Valid until the next call of this or of
 * logq_parse().
 */
extern LogqText logq_record_source(LogqParser *parser,
								   const LogqRecord *record);
/* "auto", "json", ...; false: there is no such format */
extern bool logq_format_by_name(const char *name, LogqFormat *format);

/* ---------- parts of it, for tests ---------- */

/* TRACE, DEBUG, INFO, WARN, ERROR or FATAL; NULL: not understood */
extern const char *logq_normal_level(const char *text, int len);
/* false: not understood.  ISO 8601 text, or a number of seconds, ms, µs, ns. */
extern bool logq_parse_time(const char *text, int len, int64_t *ts);

#endif							/* LOGQ_RECORD_H */
