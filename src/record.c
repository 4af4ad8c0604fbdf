/*-------------------------------------------------------------------------
 *
 * record.c
 *		From a message to log rows.
 *
 * The parser: settings, what is common to all formats, and what the key and
 * the headers of a message fill in.  Objects of the formats json, fluentbit
 * and vector are in recordplain.c, OTLP is in recordotlp.c.
 *
 * Invariants: all texts of a good record are valid UTF-8 without NUL, and its
 * attrs are a JSON object that jsonb takes, since one row that a partition
 * refuses would make it refuse a whole batch.  All texts point into the
 * message, the settings or the parser's arena.
 *
 * Nothing here throws, unless there is no memory.  What cannot be understood
 * becomes a record with an error; one bad record in a message does not keep
 * the others from being good.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <stdarg.h>

#include "recordint.h"

/* records that are kept from one message to the next */
#define FEW_RECORDS 16
#define KEPT_RECORDS 4096
/* largest buffer for sources that is kept, too */
#define KEPT_SOURCE (1024 * 1024)
/* most in a message */
#define MAX_RECORDS 1000000

/*
 * Longest attrs.  jsonb takes less than 256 MB in all, and needs at most 16
 * bytes a value (LOGQ_JSON_MAX_NODES) beside its text.
 */
#define MAX_ATTRS (128 * 1024 * 1024)

/* Kafka's times beyond the year 9999 would not fit */
#define MAX_KAFKA_MS INT64CONST(253402300799999)
#define MS_TO_2000 INT64CONST(946684800000)

static const struct
{
	const char *name;
	LogqFormat	format;
}			format_names[] = {
	{"auto", LOGQ_FORMAT_AUTO},
	{"json", LOGQ_FORMAT_JSON},
	{"otlp", LOGQ_FORMAT_OTLP},
	{"fluentbit", LOGQ_FORMAT_FLUENTBIT},
	{"vector", LOGQ_FORMAT_VECTOR},
	{"raw", LOGQ_FORMAT_RAW},
};

/*
 * Look a format up by its name.
 */
bool
logq_format_by_name(const char *name, LogqFormat *format)
{
	for (int i = 0; i < lengthof(format_names); i++)
	{
		if (strcmp(name, format_names[i].name) == 0)
		{
			*format = format_names[i].format;
			return true;
		}
	}
	return false;
}

/* ---------- settings ---------- */

/*
 * Copy a setting's text to *to; none if it cannot be stored.
 */
static LogqText
own_text(char **to, const LogqText *text)
{
	LogqText	own = {NULL, 0};

	if (text->data == NULL || text->len == 0 ||
		!logq_good_text(text->data, text->len))
		return own;
	memcpy(*to, text->data, text->len);
	own.data = *to;
	own.len = text->len;
	*to += text->len;
	return own;
}

/*
 * Is a text this word?
 */
static bool
text_is(const LogqText *text, const char *word)
{
	return text->data != NULL && text->len == strlen(word) &&
		memcmp(text->data, word, text->len) == 0;
}

/*
 * Take in settings.  Their texts are copied.
 */
void
logq_parser_set(LogqParser *parser, const LogqParserSettings *settings)
{
	static const char attrs[] = "attrs.";
	const int	attrs_len = sizeof(attrs) - 1;
	const LogqText *field = &settings->key_field;
	size_t		need;
	char	   *to;

	parser->format = settings->format;
	parser->min_ts = settings->min_ts;
	parser->max_ts = settings->max_ts;
	parser->max_bytes = settings->max_bytes;

	/* escaping makes a byte six */
	need = Max(settings->service.len, 0) + 6 * (size_t) Max(field->len, 0) + 8;
	if (need > parser->own_size)
	{
		parser->own = repalloc(parser->own, need);
		parser->own_size = need;
	}
	to = parser->own;
	parser->service = own_text(&to, &settings->service);

	parser->key_attr = logq_no_text();
	parser->key_target = LOGQ_KEY_NOTHING;
	if (text_is(field, "service"))
		parser->key_target = LOGQ_KEY_SERVICE;
	else if (text_is(field, "trace_id"))
		parser->key_target = LOGQ_KEY_TRACE;
	else if (text_is(field, "message"))
		parser->key_target = LOGQ_KEY_MESSAGE;
	else if (field->data != NULL && field->len > attrs_len &&
			 memcmp(field->data, attrs, attrs_len) == 0 &&
			 logq_good_text(field->data, field->len))
	{
		LogqText	json;

		parser->key_target = LOGQ_KEY_ATTR;
		logq_arena_reset(&parser->arena);
		logq_arena_begin(&parser->arena);
		logq_arena_add_json(&parser->arena, field->data + attrs_len,
							field->len - attrs_len);
		logq_arena_add_literal(&parser->arena, ":");
		json = logq_arena_finish(&parser->arena);
		parser->key_attr = own_text(&to, &json);
	}
}

/*
 * Make a parser.
 */
LogqParser *
logq_parser_create(const LogqParserSettings *settings)
{
	LogqParser *parser = palloc0(sizeof(LogqParser));

	logq_json_init(&parser->tree);
	logq_arena_init(&parser->arena);
	parser->size = FEW_RECORDS;
	parser->records = palloc(parser->size * sizeof(LogqRecord));
	parser->places = palloc(parser->size * sizeof(LogqRecordPlace));
	parser->source_size = 64;
	parser->source = palloc(parser->source_size);
	parser->own_size = 64;
	parser->own = palloc(parser->own_size);
	logq_parser_set(parser, settings);
	return parser;
}

/* ---------- records ---------- */

/*
 * Have room for this many records.
 */
static void
resize(LogqParser *parser, int size)
{
	parser->size = size;
	parser->records = repalloc(parser->records, size * sizeof(LogqRecord));
	parser->places = repalloc(parser->places,
							  size * sizeof(LogqRecordPlace));
}

/*
 * One more record, empty.  Those that were returned before may move.
 */
LogqRecord *
logq_record_add(LogqParser *parser)
{
	LogqRecord *record;

	if (parser->nrecords == parser->size)
	{
		if (parser->size >= MAX_RECORDS)
		{
			parser->too_many = true;
			return NULL;
		}
		resize(parser, Min(parser->size * 2, MAX_RECORDS));
	}
	parser->places[parser->nrecords] = parser->at;
	record = &parser->records[parser->nrecords];
	memset(record, 0, sizeof(*record));
	record->index = parser->nrecords++;
	return record;
}

/*
 * Make a record one that is refused, with nothing but its index and why.
 */
void
logq_record_refuse(LogqParser *parser, LogqRecord *record,
				   const char *format,...)
{
	char		buf[320];
	int			index = record->index;
	va_list		args;

	va_start(args, format);
	vsnprintf(buf, sizeof(buf), format, args);
	va_end(args);
	memset(record, 0, sizeof(*record));
	record->index = index;
	record->error = logq_arena_printf(&parser->arena, "%s", buf);
}

/*
 * Refuse a record for a time that is not understood.
 */
void
logq_record_refuse_time(LogqParser *parser, LogqRecord *record, LogqText shown)
{
	char		buf[LOGQ_SHOWN_SIZE];

	logq_record_refuse(parser, record, "timestamp \"%s\" is not understood",
					   logq_shown(shown.data, shown.len, buf));
}

/*
 * A string's text, or the source of any other value.
 */
LogqText
logq_record_text(LogqParser *parser, int node)
{
	const LogqJsonNode *n = &parser->tree.nodes[node];
	LogqText	text = logq_json_source(&parser->tree, node);
	const char *error;

	if (n->type != LOGQ_JSON_STRING)
		return text;
	text.data++;
	text.len -= 2;
	if (!n->escaped)
		return text;

	logq_arena_begin(&parser->arena);
	if (!logq_arena_reserve(&parser->arena, text.len))
		return logq_no_text();
	parser->arena.pos += logq_json_unescape(text.data, text.len,
											parser->arena.pos, &error);
	return logq_arena_finish(&parser->arena);
}

/*
 * Begin attrs.  The key comes first: members of the same name that come later
 * take precedence in jsonb, and it is for what is missing.
 */
void
logq_record_begin_attrs(LogqParser *parser)
{
	if (parser->key_target == LOGQ_KEY_ATTR)
		logq_record_extras(parser);
	logq_arena_begin(&parser->arena);
	logq_arena_add_literal(&parser->arena, "{");
	if (parser->key_target == LOGQ_KEY_ATTR && parser->key_json.data != NULL)
		logq_arena_add_text(&parser->arena, parser->key_json);
}

/*
 * Begin the next member of attrs.
 */
void
logq_record_next_attr(LogqParser *parser)
{
	if (parser->arena.pos - parser->arena.begun > 1)
		logq_arena_add_literal(&parser->arena, ",");
}

/*
 * End attrs.
 */
void
logq_record_end_attrs(LogqParser *parser, LogqRecord *record)
{
	bool		empty = parser->arena.pos - parser->arena.begun <= 1;

	logq_arena_add_literal(&parser->arena, "}");
	record->attrs = logq_arena_finish(&parser->arena);
	if (empty)
		record->attrs = logq_no_text();
}

/* ---------- key and headers ---------- */

/* names of headers, in lower case; of those for a field the first one wins */
static const struct
{
	const char *name;
	LogqRecordField field;
}			header_names[] = {
	{"timestamp", LOGQ_FIELD_TS},
	{"ts", LOGQ_FIELD_TS},
	{"time", LOGQ_FIELD_TS},
	{"@timestamp", LOGQ_FIELD_TS},
	{"level", LOGQ_FIELD_LEVEL},
	{"severity", LOGQ_FIELD_LEVEL},
	{"lvl", LOGQ_FIELD_LEVEL},
	{"severity_text", LOGQ_FIELD_LEVEL},
	{"log.level", LOGQ_FIELD_LEVEL},
	{"loglevel", LOGQ_FIELD_LEVEL},
	{"levelname", LOGQ_FIELD_LEVEL},
	{"service", LOGQ_FIELD_SERVICE},
	{"servicename", LOGQ_FIELD_SERVICE},
	{"service.name", LOGQ_FIELD_SERVICE},
	{"service_name", LOGQ_FIELD_SERVICE},
	{"app", LOGQ_FIELD_SERVICE},
	{"message", LOGQ_FIELD_MESSAGE},
	{"msg", LOGQ_FIELD_MESSAGE},
	{"body", LOGQ_FIELD_MESSAGE},
	{"log", LOGQ_FIELD_MESSAGE},
	{"traceid", LOGQ_FIELD_TRACE},
	{"trace_id", LOGQ_FIELD_TRACE},
	{"trace.id", LOGQ_FIELD_TRACE},
	{"traceparent", LOGQ_FIELD_TRACE},
};

/*
 * The trace id of W3C's traceparent: version, trace id, span id, flags.
 */
static LogqText
trace_of_traceparent(LogqText value)
{
	bool		zero = true;

	if (value.len < 55 || value.data[2] != '-' || value.data[35] != '-')
		return logq_no_text();
	value.data += 3;
	value.len = 32;
	for (int i = 0; i < value.len; i++)
	{
		char		c = value.data[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return logq_no_text();
		if (c != '0')
			zero = false;
	}
	return zero ? logq_no_text() : value;
}

/*
 * Read an int32 of the headers.
 */
static bool
read_length(const char **pos, const char *end, int32 *value)
{
	if (end - *pos < (int) sizeof(*value))
		return false;
	memcpy(value, *pos, sizeof(*value));
	*pos += sizeof(*value);
	return *value <= end - *pos;
}

/*
 * Read the headers.  Values that cannot be stored are passed over.
 */
static void
read_headers(LogqParser *parser)
{
	const char *pos = parser->message->headers.data;
	const char *end = pos + parser->message->headers.len;
	int			best[LOGQ_FIELDS];

	for (int f = 0; f < LOGQ_FIELDS; f++)
		best[f] = lengthof(header_names);
	while (pos < end)
	{
		char		lower[16];
		LogqText	name;
		LogqText	value;

		if (!read_length(&pos, end, &name.len) || name.len < 0)
			return;
		name.data = pos;
		pos += name.len;
		if (!read_length(&pos, end, &value.len))
			return;
		value.data = pos;
		pos += Max(value.len, 0);
		if (name.len > (int) sizeof(lower) || value.len <= 0)
			continue;
		for (int i = 0; i < name.len; i++)
			lower[i] = pg_ascii_tolower((unsigned char) name.data[i]);
		for (int i = 0; i < lengthof(header_names); i++)
		{
			LogqRecordField field = header_names[i].field;

			if (strlen(header_names[i].name) != name.len ||
				memcmp(header_names[i].name, lower, name.len) != 0)
				continue;
			if (i > best[field] || !logq_good_text(value.data, value.len))
				break;
			if (strcmp(header_names[i].name, "traceparent") == 0)
				value = trace_of_traceparent(value);
			if (value.data != NULL)
			{
				best[field] = i;
				parser->header[field] = value;
			}
			break;
		}
	}
}

/*
 * Read key and headers of the message, unless that was done.
 */
void
logq_record_extras(LogqParser *parser)
{
	const LogqText *key = &parser->message->key;

	if (parser->extras_read)
		return;
	parser->extras_read = true;
	memset(parser->header, 0, sizeof(parser->header));
	parser->key = logq_no_text();
	parser->key_json = logq_no_text();
	if (parser->message->headers.data != NULL)
		read_headers(parser);
	if (parser->key_target != LOGQ_KEY_NOTHING && key->data != NULL &&
		key->len > 0 && logq_good_text(key->data, key->len))
	{
		parser->key = *key;
		if (parser->key_target == LOGQ_KEY_ATTR)
		{
			logq_arena_begin(&parser->arena);
			logq_arena_add_text(&parser->arena, parser->key_attr);
			logq_arena_add_json(&parser->arena, key->data, key->len);
			parser->key_json = logq_arena_finish(&parser->arena);
		}
	}
}

/*
 * Take a text from headers or key, if there is one.
 */
static inline void
fill_text(LogqParser *parser, LogqText *text, LogqRecordField field,
		  LogqKeyTarget target)
{
	const char *before = text->data;

	if (text->data == NULL)
		*text = parser->header[field];
	if (text->data == NULL && parser->key_target == target)
		*text = parser->key;
	/* each record has its own copy of it in the end */
	if (text->data != before)
		logq_count_repeated(parser, text->len);
}

/*
 * Fill in what a record lacks: from headers, the key, the settings and Kafka's
 * time.  A record that has its time and all texts does not need them.
 */
void
logq_record_finish(LogqParser *parser, LogqRecord *record, bool has_ts)
{
	const char *what = "timestamp";
	char		text[LOGQ_TIME_TEXT_SIZE];

	if (parser->message->headers.data != NULL ||
		parser->key_target != LOGQ_KEY_NOTHING)
	{
		logq_record_extras(parser);
		fill_text(parser, &record->service, LOGQ_FIELD_SERVICE,
				  LOGQ_KEY_SERVICE);
		fill_text(parser, &record->message, LOGQ_FIELD_MESSAGE,
				  LOGQ_KEY_MESSAGE);
		fill_text(parser, &record->trace_id, LOGQ_FIELD_TRACE,
				  LOGQ_KEY_TRACE);
		if (record->level.data == NULL)
		{
			const LogqText *level = &parser->header[LOGQ_FIELD_LEVEL];

			if (level->data != NULL)
				record->level = logq_text_of(logq_normal_level(level->data,
															   level->len));
		}
		if (!has_ts && parser->header[LOGQ_FIELD_TS].data != NULL)
		{
			has_ts = logq_parse_time(parser->header[LOGQ_FIELD_TS].data,
									 parser->header[LOGQ_FIELD_TS].len,
									 &record->ts);
			what = "timestamp in a header";
		}
	}
	if (record->service.data == NULL)
		record->service = parser->service;

	if (!has_ts)
	{
		int64		ms = parser->message->timestamp;

		what = "timestamp of the Kafka message";
		if (ms < 0)
		{
			logq_record_refuse(parser, record, "there is no timestamp");
			return;
		}
		if (ms > MAX_KAFKA_MS)
		{
			logq_record_refuse(parser, record, "%s is out of range", what);
			return;
		}
		record->ts = (ms - MS_TO_2000) * 1000;
	}
	if (record->ts < parser->min_ts)
		logq_record_refuse(parser, record, "%s is too far in the past: %s",
						   what, logq_time_text(record->ts, text));
	else if (record->ts > parser->max_ts)
		logq_record_refuse(parser, record, "%s is too far in the future: %s",
						   what, logq_time_text(record->ts, text));
	else if (record->attrs.len > MAX_ATTRS)
		logq_record_refuse(parser, record, "attributes are larger than %d MB",
						   MAX_ATTRS / (1024 * 1024));
}

/* ---------- messages ---------- */

static int	refuse_all(LogqParser *parser, LogqRecord **records,
						   const char *format,...) pg_attribute_printf(3, 4);

/*
 * The message as a whole is refused.
 */
static int
refuse_all(LogqParser *parser, LogqRecord **records, const char *format,...)
{
	char		buf[320];
	va_list		args;

	va_start(args, format);
	vsnprintf(buf, sizeof(buf), format, args);
	va_end(args);
	parser->nrecords = 0;
	logq_record_add(parser);
	parser->records[0].index = -1;
	parser->records[0].error = logq_arena_printf(&parser->arena, "%s", buf);
	*records = parser->records;
	return 1;
}

/*
 * Is there nothing but blanks?
 */
static bool
is_blank(const LogqText *text)
{
	for (int i = 0; i < text->len; i++)
	{
		char		c = text->data[i];

		if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
			return false;
	}
	return true;
}

/*
 * The records of a JSON value.
 */
static void
value_records(LogqParser *parser)
{
	const LogqJsonTree *tree = &parser->tree;

	if (tree->nodes[0].type == LOGQ_JSON_OBJECT)
	{
		logq_plain_record(parser, 0);
		return;
	}
	for (int i = logq_json_first(0);
		 i < tree->nodes[0].next && !parser->too_many;
		 i = tree->nodes[i].next)
	{
		parser->at.element = i;
		if (tree->nodes[i].type == LOGQ_JSON_OBJECT)
			logq_plain_record(parser, i);
		else
		{
			LogqRecord *record = logq_record_add(parser);

			if (record != NULL)
				logq_record_refuse(parser, record,
								   "element of the array is not an object");
		}
	}
}

/*
 * The rows of a message.
 */
int
logq_parse(LogqParser *parser, const LogqMessage *message,
		   LogqRecord **records)
{
	const LogqText *value = &message->value;
	int			good;

	parser->message = message;
	parser->nrecords = 0;
	parser->repeated = 0;
	parser->at.element = 0;
	parser->at.resource_logs = parser->at.scope_logs = parser->at.part = -1;
	parser->too_many = false;
	parser->extras_read = false;
	logq_arena_reset(&parser->arena);
	logq_json_trim(&parser->tree);
	if (parser->size > KEPT_RECORDS)
		resize(parser, FEW_RECORDS);
	if (parser->source_size > KEPT_SOURCE)
	{
		parser->source_size = 64;
		parser->source = repalloc(parser->source, parser->source_size);
	}
	*records = parser->records;

	if (value->data == NULL)
		return 0;
	if (value->len > parser->max_bytes)
		return refuse_all(parser, records,
						  "message of %d bytes is larger than the limit "
						  "of %d bytes",
						  value->len, parser->max_bytes);
	if (is_blank(value))
		return refuse_all(parser, records, "message is empty");
	good = logq_good_length(value->data, value->len);
	if (good < value->len)
	{
		if (value->data[good] == '\0')
			return refuse_all(parser, records,
							  "message has a NUL byte at byte %d", good + 1);
		return refuse_all(parser, records,
						  "message is not valid UTF-8 at byte %d", good + 1);
	}

	if (parser->format == LOGQ_FORMAT_RAW)
	{
		LogqRecord *record = logq_record_add(parser);

		record->message = *value;
		logq_record_begin_attrs(parser);
		logq_record_end_attrs(parser, record);
		logq_record_finish(parser, record, false);
	}
	else
	{
		if (!logq_json_parse(&parser->tree, value->data, value->len))
			return refuse_all(parser, records,
							  "message is not valid JSON at byte %d: %s",
							  parser->tree.error_at + 1, parser->tree.error);
		if (parser->tree.nodes[0].type != LOGQ_JSON_OBJECT &&
			parser->tree.nodes[0].type != LOGQ_JSON_ARRAY)
			return refuse_all(parser, records,
							  "message is not a JSON object");
		value_records(parser);
	}

	if (parser->too_many)
		return refuse_all(parser, records,
						  "message has more than %d records", MAX_RECORDS);
	if (parser->arena.full)
		return refuse_all(parser, records,
						  "message takes too much memory");
	*records = parser->records;
	return parser->nrecords;
}

/*
 * A message that has this record alone.  It has nothing that the message does
 * not have, so it is no longer than that.
 */
LogqText
logq_record_source(LogqParser *parser, const LogqRecord *record)
{
	const LogqJsonTree *tree = &parser->tree;
	const LogqText *value = &parser->message->value;
	const LogqRecordPlace *place;
	LogqText	source;

	if (record->index < 0 || parser->nrecords == 1)
		return *value;
	place = &parser->places[record->index];
	source = logq_json_source(tree, place->element);
	if (place->part < 0 &&
		tree->nodes[place->element].type == LOGQ_JSON_OBJECT)
		return source;

	if (parser->source_size < value->len)
	{
		parser->source_size = value->len;
		parser->source = repalloc(parser->source, parser->source_size);
	}
	if (place->part >= 0)
		source.len = logq_otlp_source(parser, place, parser->source);
	else
	{
		/* it is no message without the array */
		parser->source[0] = '[';
		memcpy(parser->source + 1, source.data, source.len);
		parser->source[source.len + 1] = ']';
		source.len += 2;
	}
	source.data = parser->source;
	return source;
}
