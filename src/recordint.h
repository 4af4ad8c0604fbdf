/*-------------------------------------------------------------------------
 *
 * recordint.h
 *		What the files of the parser of messages share.
 *
 * To be included after postgres.h or postgres_fe.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_RECORDINT_H
#define LOGQ_RECORDINT_H

#include "jsontree.h"
#include "record.h"

/* ---------- recordbuf.c: text that is valid until the next message ------- */

/*
 * Bytes that the records of a message have from its headers or key, or from
 * their resources and scopes, together: each has its own copy.  Dead letters
 * are made of them, and all those of a message are in memory at once.
 */
#define MAX_REPEATED (256 * 1024 * 1024)

typedef struct LogqArenaBlock LogqArenaBlock;

/*
 * Blocks of text that do not move, and at most one text that is still being
 * written.  When there is too much of it, nothing more is written, and "full"
 * tells.
 */
typedef struct LogqArena
{
	void	   *context;		/* where blocks come from */
	LogqArenaBlock *blocks;		/* the newest first */
	char	   *begun;			/* the text that is being written */
	char	   *pos;
	char	   *end;
	size_t		total;
	bool		full;
} LogqArena;

extern void logq_arena_init(LogqArena *arena);
extern void logq_arena_reset(LogqArena *arena);
/* room for that many bytes at pos */
extern bool logq_arena_reserve(LogqArena *arena, size_t len);
extern void logq_arena_begin(LogqArena *arena);
extern void logq_arena_add(LogqArena *arena, const char *data, int len);
extern LogqText logq_arena_finish(LogqArena *arena);
extern LogqText logq_arena_copy(LogqArena *arena, const char *data, int len);
/* append as a JSON string, with its quotes; must be valid UTF-8 */
extern void logq_arena_add_json(LogqArena *arena, const char *data, int len);
/* an error; whatever text has been begun is given up */
extern const char *logq_arena_printf(LogqArena *arena, const char *format,...)
			pg_attribute_printf(2, 3);

#define logq_arena_add_text(arena, text) \
	logq_arena_add(arena, (text).data, (text).len)
#define logq_arena_add_literal(arena, literal) \
	logq_arena_add(arena, "" literal, sizeof(literal) - 1)

/*
 * A piece of text as an error may show it: shortened, without control
 * characters, valid UTF-8 if text is.  Returns buf.
 */
#define LOGQ_SHOWN_SIZE 80
extern const char *logq_shown(const char *text, int len,
							  char buf[LOGQ_SHOWN_SIZE]);
/* how many bytes from the first on are valid UTF-8 without NUL */
extern int	logq_good_length(const char *text, int len);
#define logq_good_text(text, len) (logq_good_length(text, len) == (len))

/* ---------- recordtime.c ---------- */

/* what a number of a time counts; each is a power of ten of seconds */
typedef enum LogqTimeUnit
{
	LOGQ_TIME_BY_SIZE = -1,
	LOGQ_TIME_S = 0,
	LOGQ_TIME_MS = 3,
	LOGQ_TIME_US = 6,
	LOGQ_TIME_NS = 9
} LogqTimeUnit;

extern bool logq_parse_time_number(const char *text, int len,
								   LogqTimeUnit unit, int64_t *ts);
#define LOGQ_TIME_TEXT_SIZE 48
extern const char *logq_time_text(int64_t ts, char buf[LOGQ_TIME_TEXT_SIZE]);

/* ---------- recordlevel.c ---------- */

/* the numbers of RFC 5424 and of OpenTelemetry; NULL: there is no such */
extern const char *logq_level_of_syslog(int number);
extern const char *logq_level_of_otel(int number);
/* a short number without sign; -1: it is none */
extern int	logq_small_number(const char *text, int len);

/* ---------- record.c ---------- */

/* columns that have candidates */
typedef enum LogqRecordField
{
	LOGQ_FIELD_TS,
	LOGQ_FIELD_LEVEL,
	LOGQ_FIELD_SERVICE,
	LOGQ_FIELD_MESSAGE,
	LOGQ_FIELD_TRACE,
	LOGQ_FIELDS
} LogqRecordField;

/* what a message's key may fill */
typedef enum LogqKeyTarget
{
	LOGQ_KEY_NOTHING,
	LOGQ_KEY_SERVICE,
	LOGQ_KEY_TRACE,
	LOGQ_KEY_MESSAGE,
	LOGQ_KEY_ATTR
} LogqKeyTarget;

/*
 * Where a record is in the message: nodes of the tree.  What is not an array
 * or object as it should be stands for a record, too.
 */
typedef struct LogqRecordPlace
{
	int			element;		/* the whole, or the element of an array */
	/* of OTLP, -1: none */
	int			resource_logs;
	int			scope_logs;
	int			part;			/* the record, or what is wrong; -1: the
								 * element as it is */
} LogqRecordPlace;

struct LogqParser
{
	LogqFormat	format;
	int64_t		min_ts;
	int64_t		max_ts;
	int			max_bytes;
	char	   *own;			/* the texts of the settings */
	size_t		own_size;
	LogqText	service;
	LogqKeyTarget key_target;
	LogqText	key_attr;		/* "name": as JSON, with the colon */

	LogqJsonTree tree;
	LogqArena	arena;
	LogqRecord *records;
	LogqRecordPlace *places;	/* of each */
	int			nrecords;
	int			size;
	bool		too_many;		/* records */
	LogqRecordPlace at;			/* of the next one */
	int64_t		repeated;		/* bytes that count for MAX_REPEATED */
	char	   *source;			/* of the last that was asked for */
	size_t		source_size;

	/* of the message at hand */
	const LogqMessage *message;
	bool		extras_read;	/* are the next three up to date? */
	LogqText	header[LOGQ_FIELDS];	/* the best header for each */
	LogqText	key;			/* NULL: none that can be used */
	LogqText	key_json;		/* "name":"key" for attrs */
};

/* one more record, empty; NULL: there are too many */
extern LogqRecord *logq_record_add(LogqParser *parser);
/* make it one that is refused */
extern void logq_record_refuse(LogqParser *parser, LogqRecord *record,
							   const char *format,...)
			pg_attribute_printf(3, 4);
/* refuse it for a time that is not understood */
extern void logq_record_refuse_time(LogqParser *parser, LogqRecord *record,
									LogqText shown);
/* read key and headers of the message, unless that was done */
extern void logq_record_extras(LogqParser *parser);
/* fill in what is missing; check the time */
extern void logq_record_finish(LogqParser *parser, LogqRecord *record,
							   bool has_ts);
/* begin and end attrs; nothing may be unescaped in between */
extern void logq_record_begin_attrs(LogqParser *parser);
extern void logq_record_end_attrs(LogqParser *parser, LogqRecord *record);
/* begin the next member of attrs; its key and value are to follow */
extern void logq_record_next_attr(LogqParser *parser);
/* a string's text; the source of any other value */
extern LogqText logq_record_text(LogqParser *parser, int node);

/* a record repeats so many bytes of its message */
static inline void
logq_count_repeated(LogqParser *parser, int bytes)
{
	parser->repeated += bytes;
	if (parser->repeated > MAX_REPEATED)
		parser->arena.full = true;
}

static inline LogqText
logq_no_text(void)
{
	LogqText	text = {NULL, 0};

	return text;
}

static inline LogqText
logq_text_of(const char *string)
{
	LogqText	text;

	text.data = string;
	text.len = string ? (int) strlen(string) : 0;
	return text;
}

/* ---------- recordplain.c ---------- */

/* the record of an object, or the records, should it be OTLP */
extern void logq_plain_record(LogqParser *parser, int object);

/* ---------- recordotlp.c ---------- */

/* all records of an object with a member "resourceLogs" */
extern void logq_otlp_records(LogqParser *parser, int object);
/*
 * Write a message that has this part alone; returns its length.  It is never
 * longer than the message that it comes from.
 */
extern int	logq_otlp_source(const LogqParser *parser,
							 const LogqRecordPlace *place, char *to);

#endif							/* LOGQ_RECORDINT_H */
