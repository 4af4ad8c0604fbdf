/*-------------------------------------------------------------------------
 *
 * recordotlp.c
 *		Rows from OTLP logs as JSON.
 *
 * An ExportLogsServiceRequest, which is also what the OpenTelemetry
 * Collector's Kafka exporter writes as otlp_json: resources, in them scopes,
 * in these records.  Names may be in lowerCamelCase, as the specification has
 * it, or as in the protocol's definition; 64-bit integers may be strings.
 *
 * Attributes become flat members of attrs: the record's take precedence over
 * the scope's, these over the resource's.  That is done by their order alone,
 * since jsonb takes the last of those that have the same name.  The attributes
 * of resource and scope are written once and then copied.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "compat.h"
#include "recordint.h"

/* what a resource, a scope and a record have */
typedef enum Slot
{
	S_RESOURCE,
	S_SCOPE_LOGS,
	S_SCOPE,
	S_LOG_RECORDS,
	S_ATTRIBUTES,
	S_NAME,
	S_VERSION,
	S_TIME,
	S_OBSERVED,
	S_SEVERITY,
	S_SEVERITY_TEXT,
	S_BODY,
	S_TRACE_ID,
	S_SPAN_ID,
	S_FLAGS,
	S_DROPPED,
	S_EVENT_NAME,
	S_COUNT
} Slot;

static const LogqJsonName resource_names[] = {
	{"resource", S_RESOURCE},
	{"scopeLogs", S_SCOPE_LOGS},
	{"scope_logs", S_SCOPE_LOGS},
	{"instrumentationLibraryLogs", S_SCOPE_LOGS},
	{"instrumentation_library_logs", S_SCOPE_LOGS},
};

static const LogqJsonName scope_logs_names[] = {
	{"scope", S_SCOPE},
	{"instrumentationLibrary", S_SCOPE},
	{"instrumentation_library", S_SCOPE},
	{"logRecords", S_LOG_RECORDS},
	{"log_records", S_LOG_RECORDS},
	{"logs", S_LOG_RECORDS},
};

static const LogqJsonName scope_names[] = {
	{"name", S_NAME},
	{"version", S_VERSION},
	{"attributes", S_ATTRIBUTES},
};

static const LogqJsonName record_names[] = {
	{"timeUnixNano", S_TIME},
	{"observedTimeUnixNano", S_OBSERVED},
	{"severityNumber", S_SEVERITY},
	{"severityText", S_SEVERITY_TEXT},
	{"body", S_BODY},
	{"attributes", S_ATTRIBUTES},
	{"traceId", S_TRACE_ID},
	{"spanId", S_SPAN_ID},
	{"flags", S_FLAGS},
	{"droppedAttributesCount", S_DROPPED},
	{"eventName", S_EVENT_NAME},
	{"time_unix_nano", S_TIME},
	{"observed_time_unix_nano", S_OBSERVED},
	{"severity_number", S_SEVERITY},
	{"severity_text", S_SEVERITY_TEXT},
	{"trace_id", S_TRACE_ID},
	{"span_id", S_SPAN_ID},
	{"dropped_attributes_count", S_DROPPED},
	{"event_name", S_EVENT_NAME},
};

/* kinds of values */
typedef enum Kind
{
	K_STRING,
	K_BOOL,
	K_INT,
	K_DOUBLE,
	K_BYTES,
	K_ARRAY,
	K_KVLIST
} Kind;

static const LogqJsonName value_names[] = {
	{"stringValue", K_STRING},
	{"intValue", K_INT},
	{"boolValue", K_BOOL},
	{"doubleValue", K_DOUBLE},
	{"arrayValue", K_ARRAY},
	{"kvlistValue", K_KVLIST},
	{"bytesValue", K_BYTES},
	{"string_value", K_STRING},
	{"int_value", K_INT},
	{"bool_value", K_BOOL},
	{"double_value", K_DOUBLE},
	{"array_value", K_ARRAY},
	{"kvlist_value", K_KVLIST},
	{"bytes_value", K_BYTES},
};

#define members(tree, node, names, slots) \
	logq_json_members(tree, node, names, lengthof(names), slots, S_COUNT)

/*
 * Is a node there, and of this type?
 */
static inline bool
is_type(const LogqJsonTree *tree, int node, LogqJsonType type)
{
	return node >= 0 && tree->nodes[node].type == type;
}

/*
 * What is between the quotes of a string as written, or a number's digits.
 */
static LogqText
bare(const LogqJsonTree *tree, int node)
{
	LogqText	text = logq_json_source(tree, node);

	if (tree->nodes[node].type == LOGQ_JSON_STRING)
	{
		text.data++;
		text.len -= 2;
	}
	return text;
}

/*
 * Append a number that may be written as a string; as a string if it is no
 * number ("NaN").
 */
static void
add_number(LogqParser *parser, int node)
{
	const LogqJsonTree *tree = &parser->tree;
	LogqText	text = bare(tree, node);

	if (tree->nodes[node].type != LOGQ_JSON_STRING || text.len == 0 ||
		!IsValidJsonNumber(text.data, text.len) ||
		!logq_json_number_fits(text.data, text.len))
		text = logq_json_source(tree, node);
	logq_arena_add_text(&parser->arena, text);
}

/*
 * The kind of a value, and the node that it is in; false: it has none.
 */
static bool
value_kind(const LogqJsonTree *tree, int value, Kind *kind, int *node)
{
	int			end = tree->nodes[value].next;

	if (tree->nodes[value].type != LOGQ_JSON_OBJECT)
		return false;
	for (int i = logq_json_first(value); i < end; i = tree->nodes[i].next)
	{
		for (int n = 0; n < lengthof(value_names); n++)
		{
			if (tree->nodes[i].type != LOGQ_JSON_NULL &&
				logq_json_key_is(tree, i, value_names[n].name,
								 strlen(value_names[n].name)))
			{
				*kind = value_names[n].slot;
				*node = i;
				return true;
			}
		}
	}
	return false;
}

static void add_attributes(LogqParser *parser, int list, bool *first,
						   const char *except);

/*
 * Append an AnyValue as plain JSON.  Recursion ends where the nesting of the
 * tree does.
 */
static void
add_value(LogqParser *parser, int value)
{
	const LogqJsonTree *tree = &parser->tree;
	LogqArena  *arena = &parser->arena;
	bool		first = true;
	Kind		kind;
	int			node;
	int			list;

	if (value < 0)
	{
		logq_arena_add_literal(arena, "null");
		return;
	}
	if (!value_kind(tree, value, &kind, &node))
	{
		/* {} is the value that is not set; all else is no AnyValue */
		if (tree->nodes[value].type == LOGQ_JSON_OBJECT &&
			tree->nodes[value].next == value + 1)
			logq_arena_add_literal(arena, "null");
		else
			logq_arena_add_text(arena, logq_json_source(tree, value));
		return;
	}
	switch (kind)
	{
		case K_INT:
		case K_DOUBLE:
			add_number(parser, node);
			break;
		case K_ARRAY:
			list = logq_json_member(tree, node, "values");
			logq_arena_add_literal(arena, "[");
			if (is_type(tree, list, LOGQ_JSON_ARRAY))
			{
				for (int i = logq_json_first(list); i < tree->nodes[list].next;
					 i = tree->nodes[i].next)
				{
					if (!first)
						logq_arena_add_literal(arena, ",");
					first = false;
					add_value(parser, i);
				}
			}
			logq_arena_add_literal(arena, "]");
			break;
		case K_KVLIST:
			logq_arena_add_literal(arena, "{");
			add_attributes(parser, logq_json_member(tree, node, "values"),
						   &first, NULL);
			logq_arena_add_literal(arena, "}");
			break;
		default:
			logq_arena_add_text(arena, logq_json_source(tree, node));
	}
}

/*
 * Append a list of KeyValues as members of an object, without one of them.
 * What has no key is passed over.
 */
static void
add_attributes(LogqParser *parser, int list, bool *first, const char *except)
{
	const LogqJsonTree *tree = &parser->tree;
	LogqArena  *arena = &parser->arena;

	if (!is_type(tree, list, LOGQ_JSON_ARRAY))
		return;
	for (int i = logq_json_first(list); i < tree->nodes[list].next;
		 i = tree->nodes[i].next)
	{
		int			key = logq_json_member(tree, i, "key");
		LogqText	source;

		if (!is_type(tree, key, LOGQ_JSON_STRING))
			continue;
		source = bare(tree, key);
		if (except != NULL && source.len == strlen(except) &&
			memcmp(source.data, except, source.len) == 0)
			continue;
		if (!*first)
			logq_arena_add_literal(arena, ",");
		*first = false;
		logq_arena_add_text(arena, logq_json_source(tree, key));
		logq_arena_add_literal(arena, ":");
		add_value(parser, logq_json_member(tree, i, "value"));
	}
}

/*
 * A string's text, or any other AnyValue as JSON; none for {} .
 */
static LogqText
value_text(LogqParser *parser, int value)
{
	Kind		kind;
	int			node;

	if (value < 0)
		return logq_no_text();
	if (value_kind(&parser->tree, value, &kind, &node))
	{
		if (kind == K_STRING)
			return logq_record_text(parser, node);
	}
	else if (parser->tree.nodes[value].type == LOGQ_JSON_STRING)
		return logq_record_text(parser, value);
	else if (parser->tree.nodes[value].next == value + 1 &&
			 parser->tree.nodes[value].type == LOGQ_JSON_OBJECT)
		return logq_no_text();
	logq_arena_begin(&parser->arena);
	add_value(parser, value);
	return logq_arena_finish(&parser->arena);
}

/*
 * The attribute service.name of a resource.
 */
static LogqText
service_of(LogqParser *parser, int list)
{
	const LogqJsonTree *tree = &parser->tree;
	LogqText	service = logq_no_text();

	if (!is_type(tree, list, LOGQ_JSON_ARRAY))
		return service;
	for (int i = logq_json_first(list); i < tree->nodes[list].next;
		 i = tree->nodes[i].next)
	{
		int			key = logq_json_member(tree, i, "key");
		LogqText	source;

		if (!is_type(tree, key, LOGQ_JSON_STRING))
			continue;
		source = bare(tree, key);
		if (source.len == strlen("service.name") &&
			memcmp(source.data, "service.name", source.len) == 0)
			service = value_text(parser, logq_json_member(tree, i, "value"));
	}
	return service.len > 0 ? service : logq_no_text();
}

/*
 * Base64 of an id's 16 or 8 bytes as hexadecimal digits, if it is some.
 * OTLP wants ids in hexadecimal, but protobuf's own JSON has bytes that way.
 */
static void
decode_id(LogqParser *parser, LogqText *id)
{
	static const char digits[] = "0123456789abcdef";
	static const char base64[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	int			padding = id->len == 24 ? 2 : 1;
	char		hex[36];
	int			len = 0;
	uint32		bits = 0;

	if ((id->len != 24 && id->len != 12) ||
		memcmp(id->data + id->len - padding, "==", padding) != 0)
		return;
	for (int i = 0; i < id->len - padding; i++)
	{
		const char *c = memchr(base64, id->data[i], 64);

		if (c == NULL)
			return;
		/* three digits for two characters, the last of which is left over */
		bits = bits << 6 | (uint32) (c - base64);
		hex[len++] = digits[i % 2 == 0 ? bits >> 2 & 15 : bits >> 4 & 15];
		if (i % 2 == 1)
			hex[len++] = digits[bits & 15];
	}
	*id = logq_arena_copy(&parser->arena, hex, id->len == 24 ? 32 : 16);
}

/*
 * An id in lower case; none if it is empty or all zeros.  One that is neither
 * hexadecimal nor base64 is taken as it is.
 */
static LogqText
id_text(LogqParser *parser, int node)
{
	LogqText	id;
	bool		zero = true;
	bool		upper = false;
	bool		hex = true;

	if (!is_type(&parser->tree, node, LOGQ_JSON_STRING))
		return logq_no_text();
	id = logq_record_text(parser, node);
	decode_id(parser, &id);
	for (int i = 0; i < id.len; i++)
	{
		char		c = id.data[i];

		if (c != '0')
			zero = false;
		if (c >= 'A' && c <= 'F')
			upper = true;
		else if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			hex = false;
	}
	if (zero)
		return logq_no_text();
	if (hex && upper)
	{
		id = logq_arena_copy(&parser->arena, id.data, id.len);
		/* the copy is ours; it is empty if there is no memory left */
		for (int i = 0; i < id.len; i++)
			((char *) id.data)[i] =
				pg_ascii_tolower((unsigned char) id.data[i]);
	}
	return id;
}

/*
 * Is there a number, and is it more than 0?
 */
static bool
is_positive(const LogqJsonTree *tree, int node)
{
	LogqText	text;

	if (!is_type(tree, node, LOGQ_JSON_NUMBER) &&
		!is_type(tree, node, LOGQ_JSON_STRING))
		return false;
	text = bare(tree, node);
	if (text.len == 0 || text.data[0] == '-')
		return false;
	for (int i = 0; i < text.len; i++)
	{
		if (text.data[i] >= '1' && text.data[i] <= '9')
			return true;
	}
	return false;
}

/*
 * Take the time.  0 stands for a time that is not known.  False: the record
 * has been refused.
 */
static bool
take_time(LogqParser *parser, const int *slots, LogqRecord *record,
		  bool *has_ts)
{
	const LogqJsonTree *tree = &parser->tree;
	static const Slot order[] = {S_TIME, S_OBSERVED};

	*has_ts = false;
	for (int i = 0; i < lengthof(order); i++)
	{
		int			node = slots[order[i]];
		LogqText	text;

		if (node < 0)
			continue;
		text = bare(tree, node);
		if ((tree->nodes[node].type == LOGQ_JSON_STRING ||
			 tree->nodes[node].type == LOGQ_JSON_NUMBER) &&
			(text.len == 0 ||
			 logq_parse_time_number(text.data, text.len, LOGQ_TIME_NS,
									&record->ts)))
		{
			if (!is_positive(tree, node))
				continue;
			*has_ts = true;
			return true;
		}
		logq_record_refuse_time(parser, record, text);
		return false;
	}
	return true;
}

/*
 * Take the level: by the number, or else by the text.  Returns whether the
 * text says more than the level does.
 */
static bool
take_level(LogqParser *parser, const int *slots, LogqRecord *record)
{
	const LogqJsonTree *tree = &parser->tree;
	int			number = slots[S_SEVERITY];
	int			text = slots[S_SEVERITY_TEXT];
	const char *level = NULL;
	const char *by_text = NULL;
	LogqText	plain = logq_no_text();

	if (is_type(tree, number, LOGQ_JSON_NUMBER) ||
		is_type(tree, number, LOGQ_JSON_STRING))
	{
		LogqText	source = bare(tree, number);
		int			n = logq_small_number(source.data, source.len);

		level = n >= 0 ? logq_level_of_otel(n) :
			logq_normal_level(source.data, source.len);
	}
	if (is_type(tree, text, LOGQ_JSON_STRING))
	{
		plain = logq_record_text(parser, text);
		by_text = logq_normal_level(plain.data, plain.len);
	}
	if (level == NULL)
		level = by_text;
	record->level = logq_text_of(level);
	return plain.len > 0 && (by_text == NULL || by_text != level);
}

/*
 * Append a member of attrs.
 */
static void
add_member(LogqParser *parser, const char *name, LogqText value)
{
	logq_record_next_attr(parser);
	logq_arena_add(&parser->arena, name, strlen(name));
	logq_arena_add_text(&parser->arena, value);
}

/*
 * Take all attributes.
 */
static void
take_attrs(LogqParser *parser, const int *slots, LogqText common,
		   bool severity_text, LogqRecord *record)
{
	const LogqJsonTree *tree = &parser->tree;
	LogqText	span = id_text(parser, slots[S_SPAN_ID]);
	bool		first;

	logq_record_begin_attrs(parser);
	if (common.len > 0)
		add_member(parser, "", common);
	first = parser->arena.pos - parser->arena.begun <= 1;
	add_attributes(parser, slots[S_ATTRIBUTES], &first, NULL);
	if (span.data != NULL)
	{
		add_member(parser, "\"span_id\":", logq_no_text());
		logq_arena_add_json(&parser->arena, span.data, span.len);
	}
	if (is_positive(tree, slots[S_FLAGS]))
	{
		add_member(parser, "\"trace_flags\":", logq_no_text());
		add_number(parser, slots[S_FLAGS]);
	}
	if (is_type(tree, slots[S_EVENT_NAME], LOGQ_JSON_STRING) &&
		bare(tree, slots[S_EVENT_NAME]).len > 0)
		add_member(parser, "\"event_name\":",
				   logq_json_source(tree, slots[S_EVENT_NAME]));
	if (is_positive(tree, slots[S_DROPPED]))
	{
		add_member(parser, "\"dropped_attributes_count\":", logq_no_text());
		add_number(parser, slots[S_DROPPED]);
	}
	if (severity_text)
		add_member(parser, "\"severity_text\":",
				   logq_json_source(tree, slots[S_SEVERITY_TEXT]));
	logq_record_end_attrs(parser, record);
}

/*
 * One record.
 */
static void
log_record(LogqParser *parser, int node, LogqText service, LogqText common)
{
	LogqRecord *record;
	int			slots[S_COUNT];
	bool		has_ts;
	bool		severity_text;

	parser->at.part = node;
	record = logq_record_add(parser);
	if (record == NULL)
		return;
	if (!is_type(&parser->tree, node, LOGQ_JSON_OBJECT))
	{
		logq_record_refuse(parser, record, "log record is not an object");
		return;
	}
	members(&parser->tree, node, record_names, slots);
	if (!take_time(parser, slots, record, &has_ts))
		return;
	severity_text = take_level(parser, slots, record);
	record->service = service;
	record->message = value_text(parser, slots[S_BODY]);
	record->trace_id = id_text(parser, slots[S_TRACE_ID]);
	take_attrs(parser, slots, common, severity_text, record);
	logq_record_finish(parser, record, has_ts);
}

/*
 * A record that stands for what is not as it should be; part is -1 if that is
 * the object as a whole.
 */
static void
refuse_part(LogqParser *parser, int part, const char *what)
{
	LogqRecord *record;

	parser->at.part = part;
	record = logq_record_add(parser);
	if (record != NULL)
		logq_record_refuse(parser, record, "\"%s\" is not an array of objects",
						   what);
}

/*
 * The records of a scope.
 */
static void
scope_logs(LogqParser *parser, int node, LogqText service, LogqText attributes,
		   int repeated)
{
	const LogqJsonTree *tree = &parser->tree;
	int			slots[S_COUNT];
	int			scope[S_COUNT];
	int			list;
	bool		first = attributes.len == 0;
	LogqText	common;

	parser->at.scope_logs = node;
	members(tree, node, scope_logs_names, slots);
	list = slots[S_LOG_RECORDS];
	if (list < 0)
		return;
	if (!is_type(tree, list, LOGQ_JSON_ARRAY))
	{
		refuse_part(parser, list, "logRecords");
		return;
	}
	if (tree->nodes[list].next == list + 1)
		return;

	logq_arena_begin(&parser->arena);
	logq_arena_add_text(&parser->arena, attributes);
	if (slots[S_SCOPE] >= 0)
		repeated += logq_json_source(tree, slots[S_SCOPE]).len;
	if (slots[S_SCOPE] >= 0)
	{
		static const char *const names[] = {
			"\"otel.scope.name\":", "\"otel.scope.version\":"
		};
		static const Slot from[] = {S_NAME, S_VERSION};

		members(tree, slots[S_SCOPE], scope_names, scope);
		add_attributes(parser, scope[S_ATTRIBUTES], &first, NULL);
		for (int i = 0; i < lengthof(names); i++)
		{
			if (!is_type(tree, scope[from[i]], LOGQ_JSON_STRING) ||
				bare(tree, scope[from[i]]).len == 0)
				continue;
			if (!first)
				logq_arena_add_literal(&parser->arena, ",");
			first = false;
			logq_arena_add(&parser->arena, names[i], strlen(names[i]));
			logq_arena_add_text(&parser->arena,
								logq_json_source(tree, scope[from[i]]));
		}
	}
	common = logq_arena_finish(&parser->arena);

	for (int i = logq_json_first(list);
		 i < tree->nodes[list].next && !parser->too_many &&
		 !parser->arena.full;
		 i = tree->nodes[i].next)
	{
		log_record(parser, i, service, common);
		logq_count_repeated(parser, repeated);
	}
}

/*
 * The records of a resource.
 */
static void
resource_logs(LogqParser *parser, int node)
{
	const LogqJsonTree *tree = &parser->tree;
	int			slots[S_COUNT];
	int			attributes = -1;
	int			repeated = 0;
	int			list;
	bool		first = true;
	LogqText	service;
	LogqText	common;

	parser->at.resource_logs = node;
	parser->at.scope_logs = -1;
	members(tree, node, resource_names, slots);
	if (slots[S_RESOURCE] >= 0)
	{
		attributes = logq_json_member(tree, slots[S_RESOURCE], "attributes");
		repeated = logq_json_source(tree, slots[S_RESOURCE]).len;
	}
	list = slots[S_SCOPE_LOGS];
	if (list < 0)
		return;
	if (!is_type(tree, list, LOGQ_JSON_ARRAY))
	{
		refuse_part(parser, list, "scopeLogs");
		return;
	}
	service = service_of(parser, attributes);
	/* once, however many scopes there are: time shall not be their product */
	logq_arena_begin(&parser->arena);
	add_attributes(parser, attributes, &first, "service.name");
	common = logq_arena_finish(&parser->arena);
	for (int i = logq_json_first(list);
		 i < tree->nodes[list].next && !parser->too_many &&
		 !parser->arena.full;
		 i = tree->nodes[i].next)
	{
		if (is_type(tree, i, LOGQ_JSON_OBJECT))
			scope_logs(parser, i, service, common, repeated);
		else
		{
			parser->at.scope_logs = -1;
			refuse_part(parser, i, "scopeLogs");
		}
	}
}

/*
 * The list of resources of an object; -1: it has none.
 */
static int
resource_list(const LogqJsonTree *tree, int object)
{
	int			list = logq_json_member(tree, object, "resourceLogs");

	return list >= 0 ? list : logq_json_member(tree, object, "resource_logs");
}

/*
 * All records of an object.
 */
void
logq_otlp_records(LogqParser *parser, int object)
{
	const LogqJsonTree *tree = &parser->tree;
	int			list = resource_list(tree, object);

	if (list < 0)
	{
		LogqRecord *record = logq_record_add(parser);

		if (record != NULL)
			logq_record_refuse(parser, record,
							   "JSON object has no \"resourceLogs\"");
		return;
	}
	if (!is_type(tree, list, LOGQ_JSON_ARRAY))
	{
		refuse_part(parser, -1, "resourceLogs");
		return;
	}
	for (int i = logq_json_first(list);
		 i < tree->nodes[list].next && !parser->too_many &&
		 !parser->arena.full;
		 i = tree->nodes[i].next)
	{
		if (is_type(tree, i, LOGQ_JSON_OBJECT))
			resource_logs(parser, i);
		else
		{
			parser->at.resource_logs = parser->at.scope_logs = -1;
			refuse_part(parser, i, "resourceLogs");
		}
	}
	parser->at.resource_logs = parser->at.scope_logs = parser->at.part = -1;
}

/* ---------- sources ---------- */

/*
 * Write a text.
 */
static char *
put(char *to, const char *text)
{
	size_t		len = strlen(text);

	memcpy(to, text, len);
	return to + len;
}

/*
 * Write a value as it is in the message.
 */
static char *
put_value(char *to, const LogqJsonTree *tree, int node)
{
	LogqText	source = logq_json_source(tree, node);

	memcpy(to, source.data, source.len);
	return to + source.len;
}

/*
 * Write a member's name as it is in the message, and the colon.
 */
static char *
put_name(char *to, const LogqJsonTree *tree, int node)
{
	const LogqJsonNode *n = &tree->nodes[node];

	memcpy(to, tree->text + n->key - 1, n->key_len + 2);
	return put(to + n->key_len + 2, ":");
}

/*
 * Write the members on the way to a part that is not in this object itself:
 * what is common to all parts of its list, and the list's beginning.
 */
static char *
put_way(char *to, const LogqJsonTree *tree, int common, int list)
{
	to = put(to, "{");
	if (common >= 0)
	{
		to = put_name(to, tree, common);
		to = put_value(to, tree, common);
		to = put(to, ",");
	}
	to = put_name(to, tree, list);
	return put(to, "[");
}

/*
 * Write a message that has one part alone.  Names are as the message has them:
 * what it is taken for shall not change, nor shall it become longer.
 */
int
logq_otlp_source(const LogqParser *parser, const LogqRecordPlace *place,
				 char *to)
{
	const LogqJsonTree *tree = &parser->tree;
	char	   *start = to;
	const char *ends = "]}";
	int			slots[S_COUNT];
	int			part = place->part;
	bool		named = tree->nodes[part].key >= 0;

	to = put_way(to, tree, -1, resource_list(tree, place->element));
	if (place->resource_logs >= 0)
	{
		ends = "]}]}";
		members(tree, place->resource_logs, resource_names, slots);
		if (place->scope_logs >= 0)
		{
			to = put_way(to, tree, slots[S_RESOURCE], slots[S_SCOPE_LOGS]);
			members(tree, place->scope_logs, scope_logs_names, slots);
			ends = "]}]}]}";
		}
		/* a scope that is none needs no resource */
		if (!named)
			to = put_way(to, tree,
						 place->scope_logs >= 0 ? slots[S_SCOPE] : -1,
						 place->scope_logs >= 0 ? slots[S_LOG_RECORDS] :
						 slots[S_SCOPE_LOGS]);
		else
		{
			/* the list itself is what is wrong */
			to = put(to, "{");
			to = put_name(to, tree, part);
			ends++;
		}
	}
	to = put_value(to, tree, part);
	to = put(to, ends);
	return to - start;
}
