/*-------------------------------------------------------------------------
 *
 * recordlevel.c
 *		Levels as they are written in logs, made one of six.
 *
 * Names are those of the usual libraries, in any case; java.util.logging's go
 * where OpenTelemetry puts them.  Digits 1 to 5 behind a name of one of the
 * six belong to it (OpenTelemetry's INFO2, PostgreSQL's DEBUG5).  Numbers are
 * those of bunyan and pino, 10 to 69 by tens; those of syslog and of
 * OpenTelemetry mean something else and have functions of their own.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "recordint.h"

static const char *const levels[] = {
	"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"
};

typedef enum Level
{
	LEVEL_TRACE,
	LEVEL_DEBUG,
	LEVEL_INFO,
	LEVEL_WARN,
	LEVEL_ERROR,
	LEVEL_FATAL
} Level;

typedef struct LevelName
{
	const char *name;			/* lower case */
	Level		level;
} LevelName;

#define MAX_NAME 16

/* the six are found without this; by first letter */
static const LevelName names[] = {
	{"alert", LEVEL_FATAL},
	{"c", LEVEL_FATAL},
	{"config", LEVEL_DEBUG},
	{"crit", LEVEL_FATAL},
	{"critical", LEVEL_FATAL},
	{"d", LEVEL_DEBUG},
	{"dbg", LEVEL_DEBUG},
	{"dbug", LEVEL_DEBUG},
	{"dpanic", LEVEL_FATAL},
	{"e", LEVEL_ERROR},
	{"emerg", LEVEL_FATAL},
	{"emergency", LEVEL_FATAL},
	{"err", LEVEL_ERROR},
	{"f", LEVEL_FATAL},
	{"fail", LEVEL_ERROR},
	{"failure", LEVEL_ERROR},
	{"fine", LEVEL_DEBUG},
	{"finer", LEVEL_DEBUG},
	{"finest", LEVEL_TRACE},
	{"ftl", LEVEL_FATAL},
	{"i", LEVEL_INFO},
	{"inf", LEVEL_INFO},
	{"information", LEVEL_INFO},
	{"informational", LEVEL_INFO},
	{"log", LEVEL_INFO},
	{"notice", LEVEL_INFO},
	{"ok", LEVEL_INFO},
	{"panic", LEVEL_FATAL},
	{"severe", LEVEL_ERROR},
	{"success", LEVEL_INFO},
	{"t", LEVEL_TRACE},
	{"trc", LEVEL_TRACE},
	{"trce", LEVEL_TRACE},
	{"v", LEVEL_TRACE},
	{"verbose", LEVEL_TRACE},
	{"w", LEVEL_WARN},
	{"warning", LEVEL_WARN},
	{"wrn", LEVEL_WARN},
};

/*
 * A short number without sign.
 */
int
logq_small_number(const char *text, int len)
{
	int			value = 0;

	if (len < 1 || len > 6)
		return -1;
	for (int i = 0; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + (text[i] - '0');
	}
	return value;
}

/*
 * A number of RFC 5424: 0 emergency, 7 debug.
 */
const char *
logq_level_of_syslog(int number)
{
	static const Level of[] = {
		LEVEL_FATAL, LEVEL_FATAL, LEVEL_FATAL, LEVEL_ERROR,
		LEVEL_WARN, LEVEL_INFO, LEVEL_INFO, LEVEL_DEBUG
	};

	return number >= 0 && number < lengthof(of) ? levels[of[number]] : NULL;
}

/*
 * A number of OpenTelemetry: four for each level.
 */
const char *
logq_level_of_otel(int number)
{
	return number >= 1 && number <= 24 ? levels[(number - 1) / 4] : NULL;
}

/*
 * Is this one of the six, perhaps with a digit behind it?  In lower case.
 */
static const char *
one_of_six(const char *text, int len)
{
	if (len > 1 && text[len - 1] >= '1' && text[len - 1] <= '5')
		len--;
	if (len == 4)
	{
		if (memcmp(text, "info", 4) == 0)
			return levels[LEVEL_INFO];
		if (memcmp(text, "warn", 4) == 0)
			return levels[LEVEL_WARN];
	}
	else if (len == 5)
	{
		if (memcmp(text, "error", 5) == 0)
			return levels[LEVEL_ERROR];
		if (memcmp(text, "debug", 5) == 0)
			return levels[LEVEL_DEBUG];
		if (memcmp(text, "trace", 5) == 0)
			return levels[LEVEL_TRACE];
		if (memcmp(text, "fatal", 5) == 0)
			return levels[LEVEL_FATAL];
	}
	return NULL;
}

/*
 * The level that a text means.
 */
const char *
logq_normal_level(const char *text, int len)
{
	static const char otel[] = "severity_number_";
	const int	otel_len = sizeof(otel) - 1;
	char		lower[MAX_NAME + sizeof(otel)];
	const char *found;
	int			number;

	while (len > 0 && (*text == ' ' || *text == '\t'))
	{
		text++;
		len--;
	}
	while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t' ||
					   text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	if (len < 1 || len >= (int) sizeof(lower))
		return NULL;
	number = logq_small_number(text, len);
	if (number >= 0)
		return number >= 10 && number < 70 ? levels[number / 10 - 1] : NULL;

	for (int i = 0; i < len; i++)
		lower[i] = text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i];
	found = one_of_six(lower, len);
	if (found != NULL)
		return found;
	if (len > otel_len && memcmp(lower, otel, otel_len) == 0)
		return one_of_six(lower + otel_len, len - otel_len);
	for (int i = 0; i < lengthof(names); i++)
	{
		if (names[i].name[0] == lower[0] &&
			strlen(names[i].name) == len &&
			memcmp(names[i].name, lower, len) == 0)
			return levels[names[i].level];
	}
	return NULL;
}
