/*-------------------------------------------------------------------------
 *
 * recordplain.c
 *		Rows from JSON objects: plain ones, Fluent Bit's and Vector's.
 *
 * A column is taken from the first of its candidates that is there; that
 * member is left out of attrs, and so are candidates that are null, or empty
 * where empty says nothing.  All others are attributes, and their text goes
 * there as it was written.  Of members of the same name the last counts, as in
 * jsonb.
 *
 * Levels: a name, or a number of bunyan and pino; numbers below 8 are syslog's
 * if the member is "severity", and nothing elsewhere.  What is not understood
 * is left in attrs, and the next candidate is tried.
 *
 * Fluent Bit and Vector run beside containers, so what else they know about
 * these tells the service where the object does not: the labels that
 * Kubernetes recommends, or the container's name.  These stay attributes.
 * Both read systemd's journal, whose fields have names of their own.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "recordint.h"

/* members that mean something; candidates of a column in their order */
typedef enum Member
{
	M_TIMESTAMP,
	M_TS,
	M_TIME,
	M_AT_TIMESTAMP,
	M_DATETIME,
	M_DATE,
	M_LEVEL,
	M_SEVERITY,
	M_LVL,
	M_SEVERITY_TEXT,
	M_LOG_LEVEL,
	M_LOGLEVEL,
	M_LEVELNAME,
	M_SERVICE,
	M_SERVICENAME,
	M_SERVICE_DOT_NAME,
	M_SERVICE_NAME,
	M_APP,
	M_MESSAGE,
	M_MSG,
	M_BODY,
	M_LOG,
	M_TRACEID,
	M_TRACE_ID,
	M_TRACE_DOT_ID,
	/* no candidates, or not always */
	M_APPNAME,
	M_TRACE,
	M_SOURCE_TYPE,
	M_KUBERNETES,
	M_CONTAINER_NAME,
	M_JOURNAL_MESSAGE,
	M_JOURNAL_PRIORITY,
	M_JOURNAL_IDENTIFIER,
	M_JOURNAL_UNIT,
	M_RESOURCE_LOGS,
	M_COUNT
} Member;

#define M_LAST_CANDIDATE M_TRACE_DOT_ID

typedef struct MemberName
{
	const char *name;
	uint8		len;
	uint8		member;
} MemberName;

#define NAME(name, member) {name, sizeof(name) - 1, member}

/* by length */
static const MemberName member_names[] = {
	NAME("ts", M_TS),
	NAME("msg", M_MSG),
	NAME("lvl", M_LVL),
	NAME("app", M_APP),
	NAME("log", M_LOG),
	NAME("time", M_TIME),
	NAME("body", M_BODY),
	NAME("date", M_DATE),
	NAME("level", M_LEVEL),
	NAME("trace", M_TRACE),
	NAME("message", M_MESSAGE),
	NAME("service", M_SERVICE),
	NAME("traceId", M_TRACEID),
	NAME("appname", M_APPNAME),
	NAME("MESSAGE", M_JOURNAL_MESSAGE),
	NAME("trace_id", M_TRACE_ID),
	NAME("severity", M_SEVERITY),
	NAME("trace.id", M_TRACE_DOT_ID),
	NAME("datetime", M_DATETIME),
	NAME("loglevel", M_LOGLEVEL),
	NAME("PRIORITY", M_JOURNAL_PRIORITY),
	NAME("timestamp", M_TIMESTAMP),
	NAME("levelname", M_LEVELNAME),
	NAME("log.level", M_LOG_LEVEL),
	NAME("@timestamp", M_AT_TIMESTAMP),
	NAME("kubernetes", M_KUBERNETES),
	NAME("serviceName", M_SERVICENAME),
	NAME("source_type", M_SOURCE_TYPE),
	NAME("service.name", M_SERVICE_DOT_NAME),
	NAME("service_name", M_SERVICE_NAME),
	NAME("resourceLogs", M_RESOURCE_LOGS),
	NAME("severity_text", M_SEVERITY_TEXT),
	NAME("resource_logs", M_RESOURCE_LOGS),
	NAME("_SYSTEMD_UNIT", M_JOURNAL_UNIT),
	NAME("container_name", M_CONTAINER_NAME),
	NAME("SYSLOG_IDENTIFIER", M_JOURNAL_IDENTIFIER),
};

#define LONGEST_NAME 17

/* an object, while it becomes a row */
typedef struct Plain
{
	LogqParser *parser;
	LogqJsonTree *tree;
	int			object;
	LogqFormat	format;			/* JSON, FLUENTBIT or VECTOR */
	int			found[M_COUNT]; /* nodes, -1: not there, or null */
	bool		any_dropped;
} Plain;

/*
 * Which member is this?  M_COUNT: none that means something.
 */
static inline int
member_of(const char *key, int len)
{
	/* places in member_names by length, and one behind the last */
	static const uint8 first[LONGEST_NAME + 2] = {
		0, 0, 0, 1, 5, 8, 10, 10, 15, 21, 24, 26, 28, 31, 34, 35, 35, 35, 36
	};

	if (len > LONGEST_NAME)
		return M_COUNT;
	for (int i = first[len]; i < first[len + 1]; i++)
	{
		/* few that are as long begin alike */
		if (key[0] == member_names[i].name[0] &&
			memcmp(key, member_names[i].name, len) == 0)
			return member_names[i].member;
	}
	return M_COUNT;
}

/*
 * Leave a node out of attrs.
 */
static inline void
drop(Plain *plain, int node)
{
	plain->tree->nodes[node].dropped = true;
	plain->any_dropped = true;
}

/*
 * Find all members that mean something.
 */
static void
find_members(Plain *plain)
{
	LogqJsonTree *tree = plain->tree;
	int			end = tree->nodes[plain->object].next;
	int			next;

	for (int m = 0; m < M_COUNT; m++)
		plain->found[m] = -1;
	for (int i = logq_json_first(plain->object); i < end; i = next)
	{
		const LogqJsonNode *node = &tree->nodes[i];
		int			member = M_COUNT;

		next = node->next;
		if (unlikely(node->key_escaped))
		{
			for (int n = 0; n < lengthof(member_names); n++)
			{
				if (logq_json_key_is(tree, i, member_names[n].name,
									 member_names[n].len))
					member = member_names[n].member;
			}
		}
		else
			member = member_of(tree->text + node->key, node->key_len);
		if (member == M_COUNT)
			continue;
		if (member <= M_LAST_CANDIDATE)
		{
			/* jsonb would forget the earlier one, too */
			if (plain->found[member] >= 0)
				drop(plain, plain->found[member]);
			if (node->type == LOGQ_JSON_NULL)
				drop(plain, i);
		}
		plain->found[member] = node->type == LOGQ_JSON_NULL ? -1 : i;
	}
}

/*
 * Which of the formats is this?
 */
static LogqFormat
format_of(const Plain *plain)
{
	const LogqJsonTree *tree = plain->tree;
	const int  *found = plain->found;

	if (found[M_SOURCE_TYPE] >= 0 &&
		tree->nodes[found[M_SOURCE_TYPE]].type == LOGQ_JSON_STRING)
		return LOGQ_FORMAT_VECTOR;
	if (found[M_KUBERNETES] >= 0 ||
		(found[M_LOG] >= 0 && found[M_AT_TIMESTAMP] >= 0 &&
		 tree->nodes[found[M_LOG]].type == LOGQ_JSON_STRING) ||
		(found[M_JOURNAL_MESSAGE] >= 0 && found[M_AT_TIMESTAMP] >= 0))
		return LOGQ_FORMAT_FLUENTBIT;
	return LOGQ_FORMAT_JSON;
}

/*
 * A string that is not empty.
 */
static LogqText
string_of(Plain *plain, int node)
{
	LogqText	text;

	if (node < 0 || plain->tree->nodes[node].type != LOGQ_JSON_STRING)
		return logq_no_text();
	text = logq_record_text(plain->parser, node);
	return text.len > 0 ? text : logq_no_text();
}

/*
 * Take the time.  False: the record has been refused.
 */
static bool
take_time(Plain *plain, LogqRecord *record, bool *has_ts)
{
	static const uint8 usual[] = {
		M_TIMESTAMP, M_TS, M_TIME, M_AT_TIMESTAMP, M_DATETIME, M_DATE
	};
	/* Fluent Bit adds its own, which parsers have set */
	static const uint8 fluentbit[] = {
		M_AT_TIMESTAMP, M_TIMESTAMP, M_TS, M_TIME, M_DATETIME, M_DATE
	};
	const uint8 *order = plain->format == LOGQ_FORMAT_FLUENTBIT ?
		fluentbit : usual;

	*has_ts = false;
	for (int i = 0; i < lengthof(usual); i++)
	{
		int			node = plain->found[order[i]];
		LogqText	text;

		if (node < 0)
			continue;
		text = logq_record_text(plain->parser, node);
		if ((plain->tree->nodes[node].type == LOGQ_JSON_STRING ||
			 plain->tree->nodes[node].type == LOGQ_JSON_NUMBER) &&
			logq_parse_time(text.data, text.len, &record->ts))
		{
			drop(plain, node);
			*has_ts = true;
			return true;
		}
		/* these two may well be something else */
		if (order[i] == M_DATETIME || order[i] == M_DATE)
			continue;
		logq_record_refuse_time(plain->parser, record, text);
		return false;
	}
	return true;
}

/*
 * The level that a node means; NULL: none.
 */
static const char *
level_of(Plain *plain, int node, bool syslog)
{
	LogqText	text;

	if (node < 0 ||
		(plain->tree->nodes[node].type != LOGQ_JSON_STRING &&
		 plain->tree->nodes[node].type != LOGQ_JSON_NUMBER))
		return NULL;
	text = logq_record_text(plain->parser, node);
	if (syslog)
	{
		const char *level;

		level = logq_level_of_syslog(logq_small_number(text.data, text.len));
		if (level != NULL)
			return level;
	}
	return logq_normal_level(text.data, text.len);
}

/*
 * Take the level.
 */
static void
take_level(Plain *plain, LogqRecord *record)
{
	for (int m = M_LEVEL; m <= M_LEVELNAME; m++)
	{
		const char *level = level_of(plain, plain->found[m], m == M_SEVERITY);

		if (level != NULL)
		{
			drop(plain, plain->found[m]);
			record->level = logq_text_of(level);
			return;
		}
	}
	if (plain->format != LOGQ_FORMAT_JSON)
	{
		const char *level = level_of(plain, plain->found[M_JOURNAL_PRIORITY],
									 true);

		if (level != NULL)
		{
			drop(plain, plain->found[M_JOURNAL_PRIORITY]);
			record->level = logq_text_of(level);
			return;
		}
	}
	/* the Elastic Common Schema's log.level, not flattened */
	if (plain->found[M_LOG] >= 0)
		record->level =
			logq_text_of(level_of(plain, logq_json_member(plain->tree,
														  plain->found[M_LOG],
														  "level"), false));
}

/*
 * What the surroundings tell about the service.
 */
static LogqText
container_service(Plain *plain)
{
	static const char *const labels[] = {"labels", "pod_labels"};
	static const char *const label[] = {
		"app.kubernetes.io/name", "app", "k8s-app"
	};
	const LogqJsonTree *tree = plain->tree;
	int			kubernetes = plain->found[M_KUBERNETES];
	LogqText	text;

	if (kubernetes >= 0)
	{
		for (int i = 0; i < lengthof(labels); i++)
		{
			int			node = logq_json_member(tree, kubernetes, labels[i]);

			for (int j = 0; node >= 0 && j < lengthof(label); j++)
			{
				text = string_of(plain,
								 logq_json_member(tree, node, label[j]));
				if (text.data != NULL)
					return text;
			}
		}
		text = string_of(plain, logq_json_member(tree, kubernetes,
												 "container_name"));
		if (text.data != NULL)
			return text;
	}
	/* Docker's own names begin with a slash */
	text = string_of(plain, plain->found[M_CONTAINER_NAME]);
	if (text.len > 1 && text.data[0] == '/')
	{
		text.data++;
		text.len--;
	}
	return text;
}

/*
 * Take the service.
 */
static void
take_service(Plain *plain, LogqRecord *record)
{
	const LogqJsonTree *tree = plain->tree;

	for (int m = M_SERVICE; m <= M_APP; m++)
	{
		int			node = plain->found[m];
		LogqText	text;

		if (node < 0)
			continue;
		if (tree->nodes[node].type == LOGQ_JSON_OBJECT)
		{
			int			name = logq_json_member(tree, node, "name");

			text = string_of(plain, name);
			if (text.data == NULL)
				continue;
			record->service = text;
			/* its other members are worth keeping */
			if (name == logq_json_first(node) &&
				tree->nodes[name].next == tree->nodes[node].next)
				drop(plain, node);
			return;
		}
		drop(plain, node);
		text = logq_record_text(plain->parser, node);
		if (text.len > 0)
		{
			record->service = text;
			return;
		}
	}
	if (plain->format == LOGQ_FORMAT_VECTOR && plain->found[M_APPNAME] >= 0)
	{
		record->service = string_of(plain, plain->found[M_APPNAME]);
		if (record->service.data != NULL)
		{
			drop(plain, plain->found[M_APPNAME]);
			return;
		}
	}
	if (plain->format == LOGQ_FORMAT_JSON)
		return;
	record->service = container_service(plain);
	if (record->service.data == NULL)
		record->service = string_of(plain, plain->found[M_JOURNAL_IDENTIFIER]);
	if (record->service.data == NULL)
		record->service = string_of(plain, plain->found[M_JOURNAL_UNIT]);
}

/*
 * Take the message.  The end of the line is none of it when a container's
 * output has been put into "log" as it was.
 */
static void
take_message(Plain *plain, LogqRecord *record)
{
	for (int m = M_MESSAGE; m <= M_LOG; m++)
	{
		int			node = plain->found[m];

		if (node < 0)
			continue;
		drop(plain, node);
		record->message = logq_record_text(plain->parser, node);
		if (m == M_LOG)
		{
			LogqText   *text = &record->message;

			if (text->len > 0 && text->data[text->len - 1] == '\n')
				text->len--;
			if (text->len > 0 && text->data[text->len - 1] == '\r')
				text->len--;
		}
		return;
	}
	if (plain->format != LOGQ_FORMAT_JSON &&
		plain->found[M_JOURNAL_MESSAGE] >= 0)
	{
		drop(plain, plain->found[M_JOURNAL_MESSAGE]);
		record->message =
			logq_record_text(plain->parser, plain->found[M_JOURNAL_MESSAGE]);
	}
}

/*
 * Take the trace id.
 */
static void
take_trace(Plain *plain, LogqRecord *record)
{
	for (int m = M_TRACEID; m <= M_TRACE_DOT_ID; m++)
	{
		int			node = plain->found[m];
		LogqText	text;

		if (node < 0)
			continue;
		drop(plain, node);
		text = logq_record_text(plain->parser, node);
		if (text.len > 0)
		{
			record->trace_id = text;
			return;
		}
	}
	/* the Elastic Common Schema's trace.id, not flattened */
	if (plain->found[M_TRACE] >= 0)
	{
		int			id = logq_json_member(plain->tree, plain->found[M_TRACE],
										  "id");

		record->trace_id = string_of(plain, id);
	}
}

/*
 * All members that were not dropped, as they were written.  Neighbours are
 * copied together, with what is between them; nothing is copied at all if the
 * object is what is left.
 */
static void
take_attrs(Plain *plain, LogqRecord *record)
{
	const LogqJsonTree *tree = plain->tree;
	int			end = tree->nodes[plain->object].next;
	LogqArena  *arena = &plain->parser->arena;
	int			i = logq_json_first(plain->object);

	if (!plain->any_dropped && i < end &&
		plain->parser->key_target != LOGQ_KEY_ATTR)
	{
		record->attrs = logq_json_source(tree, plain->object);
		return;
	}
	logq_record_begin_attrs(plain->parser);
	while (i < end)
	{
		int			from;
		int			to;

		if (tree->nodes[i].dropped)
		{
			i = tree->nodes[i].next;
			continue;
		}
		from = tree->nodes[i].key - 1;
		do
		{
			to = tree->nodes[i].end;
			i = tree->nodes[i].next;
		} while (i < end && !tree->nodes[i].dropped);
		logq_record_next_attr(plain->parser);
		logq_arena_add(arena, tree->text + from, to - from);
	}
	logq_record_end_attrs(plain->parser, record);
}

/*
 * The record of an object, or the records, should it be OTLP.
 */
void
logq_plain_record(LogqParser *parser, int object)
{
	Plain		plain;
	LogqRecord *record;
	bool		has_ts;

	if (parser->format == LOGQ_FORMAT_OTLP)
	{
		logq_otlp_records(parser, object);
		return;
	}

	plain.parser = parser;
	plain.tree = &parser->tree;
	plain.object = object;
	plain.any_dropped = false;
	find_members(&plain);
	plain.format = parser->format;
	if (plain.format == LOGQ_FORMAT_AUTO)
	{
		int			resources = plain.found[M_RESOURCE_LOGS];

		if (resources >= 0 &&
			plain.tree->nodes[resources].type == LOGQ_JSON_ARRAY)
		{
			logq_otlp_records(parser, object);
			return;
		}
		plain.format = format_of(&plain);
	}

	record = logq_record_add(parser);
	if (record == NULL || !take_time(&plain, record, &has_ts))
		return;
	take_level(&plain, record);
	take_service(&plain, record);
	take_message(&plain, record);
	take_trace(&plain, record);
	take_attrs(&plain, record);
	logq_record_finish(parser, record, has_ts);
}
