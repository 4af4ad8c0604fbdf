/*-------------------------------------------------------------------------
 *
 * recordtime.c
 *		Times as they are written in logs.
 *
 * ISO 8601, extended or basic, with a T or blanks before the time of day; a
 * fraction of any length after a point or comma; Z, UTC or an offset; UTC if
 * there is none.  Second 60 is the next minute's first, as in PostgreSQL.
 * What is finer than a microsecond is cut off, towards the past.
 *
 * Or a number since 1970, with a fraction or an exponent if it likes.  What it
 * counts is told by how large it is, as long as the time is before the year
 * 5138: up to 11 digits before the point are seconds, 14 milliseconds, 17
 * microseconds, 20 nanoseconds.
 *
 * All arithmetic is on integers and decimal digits.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "recordint.h"

#define SECONDS_A_DAY 86400
/* from 1970-01-01 to 2000-01-01 */
#define EPOCH_DAYS 10957
#define EPOCH_US (INT64CONST(86400000000) * EPOCH_DAYS)

/* as many digits as an int64 holds for certain */
#define MAX_DIGITS 18

/*
 * Days since 1970 of a date of the Gregorian calendar, by cycles of 400 years
 * that begin in March.
 */
static int64
days_of_date(int year, int month, int day)
{
	int			y = month <= 2 ? year - 1 : year;
	int			cycle = (y >= 0 ? y : y - 399) / 400;
	int			in_cycle = y - cycle * 400;
	int			from_march = month + (month > 2 ? -3 : 9);
	int			in_year = (153 * from_march + 2) / 5 + day - 1;

	return (int64) cycle * 146097 + in_cycle * 365 + in_cycle / 4 -
		in_cycle / 100 + in_year - 719468;
}

/*
 * Days in a month.
 */
static int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
		return 29;
	return days[month - 1];
}

/*
 * Read exactly n digits.
 */
static bool
read_digits(const char **pos, const char *end, int n, int *value)
{
	const char *p = *pos;
	int			v = 0;

	if (end - p < n)
		return false;
	for (int i = 0; i < n; i++)
	{
		if (p[i] < '0' || p[i] > '9')
			return false;
		v = v * 10 + (p[i] - '0');
	}
	*pos = p + n;
	*value = v;
	return true;
}

/*
 * Read a zone, up to the end: nothing, Z, UTC, GMT, +hh, +hhmm or +hh:mm.
 * Returns seconds east.
 */
static bool
read_zone(const char *p, const char *end, int *offset)
{
	bool		west;
	int			hours;
	int			minutes = 0;

	*offset = 0;
	while (p < end && *p == ' ')
		p++;
	if (p == end || (end - p == 1 && (*p == 'Z' || *p == 'z')) ||
		(end - p == 3 &&
		 (memcmp(p, "UTC", 3) == 0 || memcmp(p, "GMT", 3) == 0)))
		return true;
	if (*p != '+' && *p != '-')
		return false;
	west = *p++ == '-';
	if (!read_digits(&p, end, 2, &hours))
		return false;
	if (p < end)
	{
		if (*p == ':')
			p++;
		if (!read_digits(&p, end, 2, &minutes))
			return false;
	}
	if (p != end || hours > 23 || minutes > 59)
		return false;
	*offset = (hours * 60 + minutes) * 60;
	if (west)
		*offset = -*offset;
	return true;
}

/*
 * Read ISO 8601 text.
 */
static bool
parse_iso(const char *p, const char *end, int64_t *ts)
{
	int			year;
	int			month;
	int			day;
	int			hour = 0;
	int			minute = 0;
	int			second = 0;
	int			us = 0;
	int			offset = 0;
	bool		basic;

	if (!read_digits(&p, end, 4, &year))
		return false;
	basic = p < end && *p != '-';
	if (!basic)
		p++;
	if (!read_digits(&p, end, 2, &month))
		return false;
	if (!basic && (p >= end || *p++ != '-'))
		return false;
	if (!read_digits(&p, end, 2, &day))
		return false;
	if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
		return false;

	/* eight digits alone are a number */
	if (p == end && basic)
		return false;
	if (p < end)
	{
		if (*p != 'T' && *p != 't' && *p != ' ')
			return false;
		while (p < end && *p == ' ')
			p++;
		if (p < end && (*p == 'T' || *p == 't'))
			p++;
		if (!read_digits(&p, end, 2, &hour))
			return false;
		if (!basic && (p >= end || *p++ != ':'))
			return false;
		if (!read_digits(&p, end, 2, &minute))
			return false;
		if (p < end && (basic ? *p >= '0' && *p <= '9' : *p == ':'))
		{
			if (!basic)
				p++;
			if (!read_digits(&p, end, 2, &second))
				return false;
			if (p < end && (*p == '.' || *p == ','))
			{
				int			digits = 0;

				for (p++; p < end && *p >= '0' && *p <= '9'; p++)
				{
					if (digits++ < 6)
						us = us * 10 + (*p - '0');
				}
				if (digits == 0)
					return false;
				for (; digits < 6; digits++)
					us *= 10;
			}
		}
		if (hour > 24 || minute > 59 || second > 60 ||
			(hour == 24 && (minute > 0 || second > 0 || us > 0)))
			return false;
		if (!read_zone(p, end, &offset))
			return false;
	}

	*ts = (days_of_date(year, month, day) - EPOCH_DAYS) * SECONDS_A_DAY +
		(hour * 60 + minute) * 60 + second - offset;
	*ts = *ts * 1000000 + us;
	return true;
}

/*
 * Read a number of units since 1970.
 */
bool
logq_parse_time_number(const char *text, int len, LogqTimeUnit unit,
					   int64_t *ts)
{
	const char *p = text;
	const char *end = text + len;
	char		digits[MAX_DIGITS];
	int			ndigits = 0;	/* from the first that is not 0 */
	int			point = 0;		/* how many of them are before the point */
	bool		behind_point = false;
	bool		some = false;
	bool		more = false;	/* is anything not 0 cut off? */
	bool		negative = false;
	int64		us = 0;
	int			wanted;

	if (p < end && (*p == '-' || *p == '+'))
		negative = *p++ == '-';
	for (; p < end; p++)
	{
		if (*p == '.' && !behind_point && some)
		{
			behind_point = true;
			continue;
		}
		if (*p < '0' || *p > '9')
			break;
		some = true;
		if (ndigits == 0 && *p == '0')
		{
			if (behind_point)
				point--;
			continue;
		}
		if (ndigits < MAX_DIGITS)
			digits[ndigits] = *p;
		else if (*p != '0')
			more = true;
		ndigits++;
		if (!behind_point)
			point++;
	}
	if (!some)
		return false;
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		int			exponent = 0;
		bool		less = false;

		if (++p < end && (*p == '-' || *p == '+'))
			less = *p++ == '-';
		if (p == end)
			return false;
		for (; p < end && *p >= '0' && *p <= '9'; p++)
		{
			if (exponent < 1000)
				exponent = exponent * 10 + (*p - '0');
		}
		point += less ? -exponent : exponent;
	}
	if (p != end)
		return false;
	if (ndigits == 0)
	{
		*ts = -EPOCH_US;
		return true;
	}

	if (unit == LOGQ_TIME_BY_SIZE)
	{
		if (point <= 11)
			unit = LOGQ_TIME_S;
		else if (point <= 14)
			unit = LOGQ_TIME_MS;
		else if (point <= 17)
			unit = LOGQ_TIME_US;
		else
			unit = LOGQ_TIME_NS;
	}
	wanted = point + 6 - (int) unit;
	/* one digit less than an int64 holds, since EPOCH_US comes on top */
	if (wanted >= MAX_DIGITS)
		return false;
	for (int i = 0; i < wanted; i++)
		us = us * 10 + (i < ndigits ? digits[i] - '0' : 0);
	/* digits[] begins with one that is not 0 and may end with zeros */
	for (int i = Max(wanted, 0); i < Min(ndigits, MAX_DIGITS); i++)
	{
		if (digits[i] != '0')
			more = true;
	}
	if (negative)
		us = more ? -us - 1 : -us;
	*ts = us - EPOCH_US;
	return true;
}

/*
 * Read a time of either kind; blanks around it do not count.
 */
bool
logq_parse_time(const char *text, int len, int64_t *ts)
{
	const char *end = text + len;

	while (text < end && *text == ' ')
		text++;
	while (text < end && end[-1] == ' ')
		end--;
	return parse_iso(text, end, ts) ||
		logq_parse_time_number(text, end - text, LOGQ_TIME_BY_SIZE, ts);
}

/*
 * A time as people read it.  Any int64 is one.
 */
const char *
logq_time_text(int64_t ts, char buf[LOGQ_TIME_TEXT_SIZE])
{
	int64		seconds = ts / 1000000 - (ts % 1000000 < 0 ? 1 : 0);
	int64		days = seconds / SECONDS_A_DAY -
		(seconds % SECONDS_A_DAY < 0 ? 1 : 0);
	int			rest = (int) (seconds - days * SECONDS_A_DAY);
	int64		since;			/* days since 0000-03-01 */
	int64		cycle;
	int			in_cycle;
	int			years;
	int			in_year;
	int			month;			/* from March */

	since = days + EPOCH_DAYS + 719468;
	cycle = since / 146097 - (since % 146097 < 0 ? 1 : 0);
	in_cycle = (int) (since - cycle * 146097);
	years = (in_cycle - in_cycle / 1460 + in_cycle / 36524 -
			 in_cycle / 146096) / 365;
	in_year = in_cycle - (years * 365 + years / 4 - years / 100);
	month = (5 * in_year + 2) / 153;
	snprintf(buf, LOGQ_TIME_TEXT_SIZE, "%04lld-%02d-%02d %02d:%02d:%02d UTC",
			 (long long) (cycle * 400 + years + (month >= 10 ? 1 : 0)),
			 month < 10 ? month + 3 : month - 9,
			 in_year - (153 * month + 2) / 5 + 1,
			 rest / 3600, rest / 60 % 60, rest % 60);
	return buf;
}
