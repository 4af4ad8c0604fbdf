/*-------------------------------------------------------------------------
 *
 * recorddump.h
 *		What the tests of the parser of messages share.
 *
 * To be included after postgres_fe.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_TEST_RECORDDUMP_H
#define LOGQ_TEST_RECORDDUMP_H

#include <time.h>

#include "record.h"
#include "tap.h"

/* 2023-11-14 22:13:20.500 UTC */
#define KAFKA_MS INT64CONST(1700000000500)

#define SECONDS_TO_2000 INT64CONST(946684800)

/* a growing text, ended by NUL */
typedef struct Text
{
	char	   *data;
	size_t		len;
	size_t		size;
} Text;

/*
 * Append some bytes.
 */
static inline void
text_bytes(Text *text, const char *data, size_t len)
{
	if (text->len + len + 1 > text->size)
	{
		text->size = (text->len + len + 1) * 2;
		text->data = tap_realloc(text->data, text->size);
	}
	if (len > 0)
		memcpy(text->data + text->len, data, len);
	text->len += len;
	text->data[text->len] = '\0';
}

/*
 * Append a string.
 */
static inline void
text_add(Text *text, const char *string)
{
	text_bytes(text, string, strlen(string));
}

/*
 * Append a line for a column, unless it is NULL; ends of lines in it as \n.
 */
static inline void
text_column(Text *text, const char *name, const LogqText *value)
{
	if (value->data == NULL)
		return;
	text_add(text, name);
	text_add(text, ": ");
	for (int i = 0; i < value->len; i++)
	{
		if (value->data[i] == '\n')
			text_add(text, "\\n");
		else
			text_bytes(text, value->data + i, 1);
	}
	text_add(text, "\n");
}

/*
 * A time in UTC, with microseconds, by the C library.
 */
static inline const char *
time_string(int64_t ts)
{
	static char buf[80];
	int64_t		us = ts % 1000000;
	time_t		seconds = (time_t) (ts / 1000000 + SECONDS_TO_2000);
	struct tm	tm;
	char		date[60];

	if (us < 0)
	{
		us += 1000000;
		seconds--;
	}
	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(buf, sizeof(buf), "%s.%06d", date, (int) us);
	return buf;
}

/*
 * Append all that records say.
 */
static inline void
text_records(Text *text, const LogqRecord *records, int n)
{
	char		line[100];

	text_bytes(text, "", 0);
	for (int i = 0; i < n; i++)
	{
		const LogqRecord *r = &records[i];

		snprintf(line, sizeof(line), "record %d\n", r->index);
		text_add(text, line);
		if (r->error != NULL)
		{
			LogqText	error;

			error.data = r->error;
			error.len = strlen(r->error);
			text_column(text, "error", &error);
			continue;
		}
		text_add(text, "ts: ");
		text_add(text, time_string(r->ts));
		text_add(text, "\n");
		text_column(text, "level", &r->level);
		text_column(text, "service", &r->service);
		text_column(text, "message", &r->message);
		text_column(text, "trace_id", &r->trace_id);
		text_column(text, "attrs", &r->attrs);
	}
}

/*
 * Is the source of each record of a message, which has just been parsed, a
 * message that has this record alone?  By another parser of the same settings.
 */
static inline bool
sources_are_good(LogqParser *parser, const LogqMessage *message,
				 const LogqRecord *records, int n, LogqParser *another)
{
	bool		good = true;

	for (int i = 0; i < n && good; i++)
	{
		LogqMessage alone = *message;
		LogqRecord	wanted = records[i];
		LogqRecord *again;
		LogqText	source = logq_record_source(parser, &records[i]);
		char	   *copy = tap_alloc(source.len);
		Text		a = {0};
		Text		b = {0};
		int			nagain;

		/* of just its size */
		memcpy(copy, source.data, source.len);
		alone.value.data = copy;
		alone.value.len = source.len;
		nagain = logq_parse(another, &alone, &again);
		if (wanted.index > 0)
			wanted.index = 0;
		text_records(&a, &wanted, 1);
		text_records(&b, again, nagain);
		good = strcmp(a.data, b.data) == 0 && source.len <= message->value.len;
		if (!good)
			printf("# record %d's source: %.*s\n# %s# %s", records[i].index,
				   source.len, source.data, a.data, b.data);
		free(a.data);
		free(b.data);
		free(copy);
	}
	return good;
}

/*
 * Settings that take everything from 1990 to 2100.
 */
static inline LogqParserSettings
usual_settings(LogqFormat format)
{
	LogqParserSettings settings;

	memset(&settings, 0, sizeof(settings));
	settings.format = format;
	settings.min_ts = (INT64CONST(631152000) - SECONDS_TO_2000) * 1000000;
	settings.max_ts = (INT64CONST(4102444800) - SECONDS_TO_2000) * 1000000;
	settings.max_bytes = 1024 * 1024;
	return settings;
}

/*
 * Print a text as a diagnosis.
 */
static inline void
diagnose(const char *what, const char *text)
{
	printf("# %s:\n#   ", what);
	for (; *text != '\0'; text++)
	{
		putchar(*text);
		if (*text == '\n' && text[1] != '\0')
			printf("#   ");
	}
	putchar('\n');
}

#endif							/* LOGQ_TEST_RECORDDUMP_H */
