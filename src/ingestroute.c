/*-------------------------------------------------------------------------
 *
 * ingestroute.c
 *		How messages become rows and rows find their partitions, as text.
 *
 * Offsets on partitions have this text with them (ingestopen.c):
 *
 *		EPOCH:service:1,2,3:FORMAT:MAX_BYTES:KEY_FIELD:SERVICE
 *
 * What comes after the partitions' numbers is the reading.  Colons and percent
 * signs in the last two fields are written as %3a and %25.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingestrun.h"

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

static const char *const format_names[] = {
	[LOGQ_FORMAT_AUTO] = "auto",
	[LOGQ_FORMAT_JSON] = "json",
	[LOGQ_FORMAT_OTLP] = "otlp",
	[LOGQ_FORMAT_FLUENTBIT] = "fluentbit",
	[LOGQ_FORMAT_VECTOR] = "vector",
	[LOGQ_FORMAT_RAW] = "raw"
};

static const char *const route_names[] = {
	[LOGQ_ROUTE_SERVICE] = "service",
	[LOGQ_ROUTE_TRACE_ID] = "trace_id",
	[LOGQ_ROUTE_ROUND_ROBIN] = "round_robin"
};

/* ---------- readings ---------- */

/*
 * Append a text so that a colon ends it.
 */
static void
append_field(StringInfo buf, const char *text)
{
	for (; text != NULL && *text != '\0'; text++)
	{
		if (*text == ':' || *text == '%')
			appendStringInfo(buf, "%%%02x", *text);
		else
			appendStringInfoChar(buf, *text);
	}
}

/*
 * Take the next field, up to a colon or the end; NULL: there is none.
 */
static char *
take_field(const char **pos)
{
	const char *p = *pos;
	char	   *field;
	char	   *to;

	if (p == NULL)
		return NULL;
	field = to = palloc(strlen(p) + 1);
	while (*p != '\0' && *p != ':')
	{
		if (p[0] == '%' && strspn(p + 1, "0123456789abcdef") >= 2)
		{
			char		hex[3] = {p[1], p[2], '\0'};

			*to++ = (char) strtol(hex, NULL, 16);
			p += 3;
		}
		else
			*to++ = *p++;
	}
	*to = '\0';
	*pos = *p == ':' ? p + 1 : NULL;
	return field;
}

/*
 * The run's reading of this text, made when it is new; NULL: that is none.
 */
static LogqReading *
find_reading(LogqRun *run, const char *text)
{
	LogqParserSettings settings = {0};
	LogqReading *reading;
	const char *p = text;
	char	   *fields[4];
	ListCell   *lc;
	int			i;

	foreach(lc, run->readings)
	{
		reading = lfirst(lc);
		if (strcmp(reading->text, text) == 0)
			return reading;
	}

	for (i = 0; i < lengthof(fields); i++)
		if ((fields[i] = take_field(&p)) == NULL)
			return NULL;
	if (!logq_format_by_name(fields[0], &settings.format))
		return NULL;
	settings.max_bytes = atoi(fields[1]);
	if (fields[2][0] != '\0')
	{
		settings.key_field.data = fields[2];
		settings.key_field.len = strlen(fields[2]);
	}
	if (fields[3][0] != '\0')
	{
		settings.service.data = fields[3];
		settings.service.len = strlen(fields[3]);
	}
	/* what is too old goes where the row would, so it is not for the parser */
	settings.min_ts = MIN_TIMESTAMP;
	settings.max_ts = END_TIMESTAMP - 1;

	reading = palloc(sizeof(LogqReading));
	reading->text = pstrdup(text);
	reading->max_bytes = settings.max_bytes;
	reading->parser = logq_parser_create(&settings);
	run->readings = lappend(run->readings, reading);
	return reading;
}

/*
 * The one by the settings of now.
 */
static LogqReading *
current_reading(LogqRun *run)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s:%d:", format_names[run->topic->format],
					 logq_ingest_max_message * 1024);
	append_field(&text, run->topic->key_field);
	appendStringInfoChar(&text, ':');
	append_field(&text, run->topic->service);
	return find_reading(run, text.data);
}

/* ---------- routings ---------- */

/*
 * Complete a routing whose epoch, way, numbers and reading are there.
 */
static void
complete_routing(LogqRun *run, LogqRouting *r)
{
	StringInfoData text;
	int			i;
	int			j;

	r->sinks = palloc((r->n + 1) * sizeof(int));
	r->left = palloc((r->n + 1) * sizeof(int32));
	r->left_sinks = palloc((r->n + 1) * sizeof(int));
	r->nleft = 0;
	initStringInfo(&text);
	appendStringInfo(&text, INT64_FORMAT ":%s:", r->epoch, route_names[r->by]);
	for (i = 0; i < r->n; i++)
	{
		appendStringInfo(&text, "%s%d", i > 0 ? "," : "", r->numbers[i]);
		r->sinks[i] = -1;
		for (j = 0; j < run->nsinks; j++)
			if (run->sinks[j].part->number == r->numbers[i])
				r->sinks[i] = j;
		if (r->sinks[i] >= 0)
		{
			r->left[r->nleft] = r->numbers[i];
			r->left_sinks[r->nleft] = r->sinks[i];
			r->nleft++;
		}
	}
	appendStringInfo(&text, ":%s", r->reading->text);
	r->text = text.data;
	logq_router_init(&r->router, r->left, r->nleft);
}

/*
 * A routing as it stands in kafka_offset; NULL: that is none.
 */
LogqRouting *
logq_parse_routing(LogqRun *run, const char *text)
{
	LogqRouting *r = palloc0(sizeof(LogqRouting));
	const char *p = text;
	char	   *end;
	int			by;

	r->epoch = strtoll(p, &end, 10);
	if (end == p || *end != ':')
		return NULL;
	p = end + 1;
	for (by = 0; by < lengthof(route_names); by++)
	{
		int			len = strlen(route_names[by]);

		if (strncmp(p, route_names[by], len) == 0 && p[len] == ':')
		{
			p += len + 1;
			break;
		}
	}
	if (by == lengthof(route_names))
		return NULL;
	r->by = by;
	r->numbers = palloc((strlen(p) + 1) * sizeof(int32));
	do
	{
		r->numbers[r->n++] = strtol(p, &end, 10);
		if (end == p || (*end != ',' && *end != ':'))
			return NULL;
		p = end + 1;
	} while (*end == ',');
	r->reading = find_reading(run, p);
	if (r->reading == NULL)
		return NULL;
	complete_routing(run, r);
	return r;
}

/*
 * Today's routing, as of an epoch.
 */
LogqRouting *
logq_current_routing(LogqRun *run, int64 epoch)
{
	LogqRouting *r = palloc0(sizeof(LogqRouting));
	int			i;

	r->epoch = epoch;
	r->by = logq_route_by;
	r->n = run->nsinks;
	r->numbers = palloc(r->n * sizeof(int32));
	for (i = 0; i < run->nsinks; i++)
		r->numbers[i] = run->sinks[i].part->number;
	r->reading = current_reading(run);
	complete_routing(run, r);
	return r;
}

/*
 * Do two routings do the same, apart from their epoch?
 */
bool
logq_same_routing(const LogqRouting *a, const LogqRouting *b)
{
	return a->by == b->by && a->n == b->n && a->reading == b->reading &&
		memcmp(a->numbers, b->numbers, a->n * sizeof(int32)) == 0;
}
