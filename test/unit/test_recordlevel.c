/*-------------------------------------------------------------------------
 *
 * test_recordlevel.c
 *		Levels as they are written in logs.
 *
 * LIBS: postgres
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "recordint.h"
#include "tap.h"

/* names of each level, separated by blanks */
static const struct
{
	const char *level;
	const char *names;
}			known[] = {
	{"TRACE", "TRACE trace Trace trc trce TRC verbose VERBOSE Verbose finest "
	"FINEST t T v V TRACE2 TRACE3 TRACE4 SEVERITY_NUMBER_TRACE 10 19"},
	{"DEBUG", "DEBUG debug dbg dbug DBG d D fine FINE finer config CONFIG "
	"DEBUG1 DEBUG5 DEBUG2 SEVERITY_NUMBER_DEBUG4 20 29"},
	{"INFO", "INFO info Info inf INF i I information informational "
	"Informational notice NOTICE ok OK log LOG success INFO2 INFO4 "
	"SEVERITY_NUMBER_INFO severity_number_info2 30 35"},
	{"WARN", "WARN warn Warn warning WARNING wrn WRN w W WARN2 "
	"SEVERITY_NUMBER_WARN3 40"},
	{"ERROR", "ERROR error Error err ERR e E severe SEVERE failure fail FAIL "
	"ERROR3 SEVERITY_NUMBER_ERROR4 50"},
	{"FATAL", "FATAL fatal ftl f F c C crit CRIT critical CRITICAL alert "
	"ALERT emerg emergency EMERGENCY panic PANIC dpanic FATAL4 "
	"SEVERITY_NUMBER_FATAL 60 69"},
	{NULL, "x q unknown UNSET default none 0 1 3 7 9 70 100 999999 9999999 -1 "
		"1.5 30.0 INFO0 INFO6 INFO22 I2 warning2 SEVERITY_NUMBER_ "
		"SEVERITY_NUMBER_UNSPECIFIED SEVERITY_NUMBER_9 SEVERITY_NUMBER_WARNING "
		"infos in erro [INFO] \xc4\xb0nfo "
	"aVeryLongNameThatIsNoLevelOfAnythingAtAll"},
};

/*
 * Check one name.
 */
static void
check(const char *text, int len, const char *level)
{
	char	   *copy = tap_alloc(len);
	const char *found;

	/* of just its size: a read past the end is seen */
	memcpy(copy, text, len);
	found = logq_normal_level(copy, len);
	ok(found == level ||
	   (found != NULL && level != NULL && strcmp(found, level) == 0),
	   "\"%.*s\" is %s", len, text, level ? level : "no level");
	free(copy);
}

int
main(void)
{
	static const char *const syslog[] = {
		"FATAL", "FATAL", "FATAL", "ERROR", "WARN", "INFO", "INFO", "DEBUG"
	};
	bool		good = true;

	for (int i = 0; i < lengthof(known); i++)
	{
		const char *name = known[i].names;

		while (*name != '\0')
		{
			int			len = strcspn(name, " ");

			check(name, len, known[i].level);
			name += len + strspn(name + len, " ");
		}
	}
	check("", 0, NULL);
	check("  ", 2, NULL);
	check(" warn ", 6, "WARN");
	ok(logq_normal_level("\tINFO\r\n", 7) != NULL, "blanks of all kinds");
	check("in fo", 5, NULL);
	ok(logq_normal_level("info\0", 5) == NULL, "a NUL byte");

	for (int i = 0; i < 8; i++)
		good = good && strcmp(logq_level_of_syslog(i), syslog[i]) == 0;
	ok(good, "numbers of syslog");
	ok(logq_level_of_syslog(-1) == NULL && logq_level_of_syslog(8) == NULL,
	   "no others of syslog");
	good = true;
	for (int i = 1; i <= 24; i++)
		good = good && strcmp(logq_level_of_otel(i), known[(i - 1) / 4].level) == 0;
	ok(good, "numbers of OpenTelemetry");
	ok(logq_level_of_otel(0) == NULL && logq_level_of_otel(25) == NULL &&
	   logq_level_of_otel(-1) == NULL, "no others of OpenTelemetry");
	return tap_done();
}
