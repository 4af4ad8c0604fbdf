/*-------------------------------------------------------------------------
 *
 * test_recordtime.c
 *		Times as they are written in logs.
 *
 * LIBS: postgres
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "recorddump.h"
#include "recordint.h"

/* text, and the time that it means; NULL: none */
static const struct
{
	const char *text;
	const char *time;
}			times[] = {
	/* the parts of ISO 8601 */
	{"2024-02-29T12:34:56Z", "2024-02-29 12:34:56.000000"},
	{"2024-02-29 12:34:56", "2024-02-29 12:34:56.000000"},
	{"2024-02-29t12:34:56z", "2024-02-29 12:34:56.000000"},
	{"  2024-02-29T12:34:56Z ", "2024-02-29 12:34:56.000000"},
	{"2024-02-29T12:34Z", "2024-02-29 12:34:00.000000"},
	{"2024-02-29", "2024-02-29 00:00:00.000000"},
	{"2024-02-29 12:34:56 UTC", "2024-02-29 12:34:56.000000"},
	{"2024-02-29 12:34:56 GMT", "2024-02-29 12:34:56.000000"},
	{"20240229T123456Z", "2024-02-29 12:34:56.000000"},
	{"20240229T123456.5+0100", "2024-02-29 11:34:56.500000"},
	{"20240229T1234", "2024-02-29 12:34:00.000000"},
	/* fractions */
	{"2024-02-29T12:34:56.1Z", "2024-02-29 12:34:56.100000"},
	{"2024-02-29T12:34:56,123Z", "2024-02-29 12:34:56.123000"},
	{"2024-02-29T12:34:56.123456Z", "2024-02-29 12:34:56.123456"},
	{"2024-02-29T12:34:56.123456999Z", "2024-02-29 12:34:56.123456"},
	{"2024-02-29T12:34:56.999999999999Z", "2024-02-29 12:34:56.999999"},
	{"2024-02-29T12:34:56.000000001Z", "2024-02-29 12:34:56.000000"},
	/* offsets */
	{"2024-02-29T12:34:56+02:00", "2024-02-29 10:34:56.000000"},
	{"2024-02-29T12:34:56-05:30", "2024-02-29 18:04:56.000000"},
	{"2024-02-29T12:34:56+0200", "2024-02-29 10:34:56.000000"},
	{"2024-02-29T12:34:56+02", "2024-02-29 10:34:56.000000"},
	{"2024-02-29 12:34:56 +02:00", "2024-02-29 10:34:56.000000"},
	{"2024-03-01T00:30:00+01:00", "2024-02-29 23:30:00.000000"},
	{"2024-12-31T23:30:00-01:00", "2025-01-01 00:30:00.000000"},
	{"2024-02-29T12:34:56-00:00", "2024-02-29 12:34:56.000000"},
	/* boundaries */
	{"1970-01-01T00:00:00Z", "1970-01-01 00:00:00.000000"},
	{"1969-12-31T23:59:59.999999Z", "1969-12-31 23:59:59.999999"},
	{"2000-01-01T00:00:00Z", "2000-01-01 00:00:00.000000"},
	{"2000-02-29T00:00:00Z", "2000-02-29 00:00:00.000000"},
	{"2016-12-31T23:59:60Z", "2017-01-01 00:00:00.000000"},
	{"2016-12-31T23:59:60.5Z", "2017-01-01 00:00:00.500000"},
	{"2024-02-29T24:00:00Z", "2024-03-01 00:00:00.000000"},
	{"9999-12-31T23:59:59.999999Z", "9999-12-31 23:59:59.999999"},
	{"1582-10-15T00:00:00Z", "1582-10-15 00:00:00.000000"},
	/* what is no time */
	{"", NULL},
	{" ", NULL},
	{"now", NULL},
	{"Z", NULL},
	{"2023-02-29T12:34:56Z", NULL},
	{"1900-02-29T12:34:56Z", NULL},
	{"2024-13-01T12:34:56Z", NULL},
	{"2024-00-01T12:34:56Z", NULL},
	{"2024-04-31T12:34:56Z", NULL},
	{"2024-04-00T12:34:56Z", NULL},
	{"2024-02-29T25:00:00Z", NULL},
	{"2024-02-29T24:00:01Z", NULL},
	{"2024-02-29T12:60:00Z", NULL},
	{"2024-02-29T12:34:61Z", NULL},
	{"2024-02-29T12:34:56.Z", NULL},
	{"2024-02-29T12:34:56+24:00", NULL},
	{"2024-02-29T12:34:56+2:00", NULL},
	{"2024-02-29T12:34:56+02:60", NULL},
	{"2024-02-29T12:34:56+02:00x", NULL},
	{"2024-02-29T12:34:56 CET", NULL},
	{"2024-02-29T", NULL},
	{"2024-02-29T12", NULL},
	{"2024-2-29", NULL},
	{"2024-0229", NULL},
	{"24-02-29T12:34:56Z", NULL},
	{"2024-02-29X12:34:56Z", NULL},
	{"29/Feb/2024:12:34:56 +0000", NULL},
	/* numbers: s, ms, us, ns */
	{"0", "1970-01-01 00:00:00.000000"},
	{"-0.0", "1970-01-01 00:00:00.000000"},
	{"1700000000", "2023-11-14 22:13:20.000000"},
	{"1700000000.5", "2023-11-14 22:13:20.500000"},
	{"1700000000.123456", "2023-11-14 22:13:20.123456"},
	{"1700000000.1234569999", "2023-11-14 22:13:20.123456"},
	{"1700000000.", "2023-11-14 22:13:20.000000"},
	{"1700000000123", "2023-11-14 22:13:20.123000"},
	{"1700000000123.456", "2023-11-14 22:13:20.123456"},
	{"1700000000123456", "2023-11-14 22:13:20.123456"},
	{"1700000000123456789", "2023-11-14 22:13:20.123456"},
	{"1700000000999999999", "2023-11-14 22:13:20.999999"},
	{" 1700000000 ", "2023-11-14 22:13:20.000000"},
	{"+1700000000", "2023-11-14 22:13:20.000000"},
	{"00001700000000", "2023-11-14 22:13:20.000000"},
	{"1.7e9", "2023-11-14 22:13:20.000000"},
	{"1.700000000123456E9", "2023-11-14 22:13:20.123456"},
	{"0.0017e+12", "2023-11-14 22:13:20.000000"},
	{"17000000001234e-4", "2023-11-14 22:13:20.123400"},
	{"1.7e18", "2023-11-14 22:13:20.000000"},
	/* where one unit ends and the next begins */
	{"99999999999", "5138-11-16 09:46:39.000000"},
	{"99999999999.999999", "5138-11-16 09:46:39.999999"},
	{"100000000000", "1973-03-03 09:46:40.000000"},
	{"99999999999999", "5138-11-16 09:46:39.999000"},
	{"100000000000000", "1973-03-03 09:46:40.000000"},
	{"99999999999999999", "5138-11-16 09:46:39.999999"},
	{"100000000000000000", "1973-03-03 09:46:40.000000"},
	{"99999999999999999999", "5138-11-16 09:46:39.999999"},
	{"0.000001", "1970-01-01 00:00:00.000001"},
	{"0.0000009", "1970-01-01 00:00:00.000000"},
	{"1e-300", "1970-01-01 00:00:00.000000"},
	/* before 1970, towards the past */
	{"-1", "1969-12-31 23:59:59.000000"},
	{"-1.5", "1969-12-31 23:59:58.500000"},
	{"-0.0000001", "1969-12-31 23:59:59.999999"},
	{"-1e-300", "1969-12-31 23:59:59.999999"},
	/* what is no number, or none of a time */
	{"100000000000000000000", NULL},
	{"1e300", NULL},
	{"1e99999999999999999999", NULL},
	{"-", NULL},
	{".", NULL},
	{".5", NULL},
	{"1e", NULL},
	{"1e+", NULL},
	{"1.5.5", NULL},
	{"0x10", NULL},
	{"12:34", NULL},
	{"1,5", NULL},
	{"NaN", NULL},
	{"Infinity", NULL},
};

/*
 * Times from text.
 */
static void
test_texts(void)
{
	for (int i = 0; i < lengthof(times); i++)
	{
		int			len = strlen(times[i].text);
		/* of just its size: a read past the end is seen */
		char	   *copy = tap_alloc(len);
		int64_t		ts;
		bool		understood;

		memcpy(copy, times[i].text, len);
		understood = logq_parse_time(copy, len, &ts);
		if (times[i].time == NULL)
			ok(!understood, "\"%s\" is no time", times[i].text);
		else if (!ok(understood && strcmp(time_string(ts), times[i].time) == 0,
					 "\"%s\"", times[i].text))
			printf("# got %s\n", understood ? time_string(ts) : "nothing");
		free(copy);
	}
}

/*
 * Every day of some centuries, against the C library.
 */
static void
test_days(void)
{
	int			wrong = 0;

	for (int64_t day = -141427; day < 150000; day++)
	{
		int64_t		ts = (day * 86400 - SECONDS_TO_2000) * 1000000;
		char		text[80];
		char		ours[LOGQ_TIME_TEXT_SIZE];
		int64_t		parsed;

		snprintf(text, sizeof(text), "%.10s", time_string(ts));
		if (!logq_parse_time(text, strlen(text), &parsed) || parsed != ts)
			wrong++;
		logq_time_text(ts, ours);
		if (strncmp(ours, time_string(ts), 10) != 0)
			wrong++;
	}
	ok(wrong == 0, "all days from 1582 to 2380");
}

/*
 * Random times, written and read in all ways.
 */
static void
test_random(void)
{
	int			wrong = 0;

	for (int i = 0; i < 20000; i++)
	{
		/* up to the year 2100 */
		int64_t		unix_us = (int64_t) (tap_random() % UINT64CONST(4102444800000000));
		int64_t		ts = unix_us - SECONDS_TO_2000 * 1000000;
		int			ns = tap_random_int(0, 999);
		char		text[6][80];
		char		ours[LOGQ_TIME_TEXT_SIZE];

		snprintf(text[0], 80, "%s%03dZ", time_string(ts), ns);
		snprintf(text[1], 80, "%lld.%06d", (long long) (unix_us / 1000000),
				 (int) (unix_us % 1000000));
		/* those that are too small would be of another unit */
		if (unix_us < INT64CONST(100000000000000))
			unix_us = -1;
		snprintf(text[2], 80, "%lld.%03d", (long long) (unix_us / 1000),
				 (int) (unix_us % 1000));
		snprintf(text[3], 80, "%lld", (long long) unix_us);
		snprintf(text[4], 80, "%lld%03d", (long long) unix_us, ns);
		snprintf(text[5], 80, "%llde-6", (long long) unix_us);
		for (int t = 0; t < (unix_us < 0 ? 2 : 6); t++)
		{
			int64_t		parsed = 0;

			if (!logq_parse_time(text[t], strlen(text[t]), &parsed) ||
				parsed != ts)
			{
				if (wrong++ < 5)
					printf("# \"%s\" became %s\n", text[t],
						   time_string(parsed));
			}
		}
		logq_time_text(ts, ours);
		if (strncmp(ours, time_string(ts), 19) != 0)
			wrong++;
	}
	ok(wrong == 0, "random times, written as ISO 8601 and as numbers");
}

/*
 * A unit that is known.
 */
static void
test_units(void)
{
	int64_t		ts;

	ok(logq_parse_time_number("1", 1, LOGQ_TIME_NS, &ts) &&
	   ts == -SECONDS_TO_2000 * 1000000, "a nanosecond");
	ok(logq_parse_time_number("1500", 4, LOGQ_TIME_NS, &ts) &&
	   ts == -SECONDS_TO_2000 * 1000000 + 1, "1500 nanoseconds");
	ok(logq_parse_time_number("18446744073709551615", 20, LOGQ_TIME_NS, &ts) &&
	   strcmp(time_string(ts), "2554-07-21 23:34:33.709551") == 0,
	   "the largest uint64 of nanoseconds");
	ok(!logq_parse_time_number("1000000000000", 13, LOGQ_TIME_S, &ts),
	   "too many seconds");
	ok(!logq_parse_time_number("", 0, LOGQ_TIME_NS, &ts), "no number at all");
}

/*
 * The ends of int64 can be shown.
 */
static void
test_shown(void)
{
	char		buf[LOGQ_TIME_TEXT_SIZE];

	ok(strcmp(logq_time_text(PG_INT64_MAX, buf), "294277-01-09 04:00:54 UTC") == 0,
	   "the end of time: %s", buf);
	ok(strcmp(logq_time_text(PG_INT64_MIN, buf), "-290278-12-22 19:59:05 UTC") == 0,
	   "the beginning of time: %s", buf);
}

int
main(void)
{
	tap_seed();
	test_texts();
	test_days();
	test_random();
	test_units();
	test_shown();
	return tap_done();
}
