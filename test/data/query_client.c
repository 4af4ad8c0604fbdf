/*-------------------------------------------------------------------------
 *
 * query_client.c
 *		Runs queries in all the ways that clients of PostgreSQL know.
 *
 *		query_client CONNINFO < jobs > answers
 *
 * A job is a line of fields, between which there is a tab: a name, the ways,
 * separated by commas, the SQL, and then the parameters' values, \N for NULL.
 * Tabs, newlines and backslashes are escaped as in COPY.  The ways:
 *
 *		simple		PQexec(): text; may be several statements
 *		rows		the same, row by row
 *		text		PQexecParams(), results as text
 *		binary		... and in binary
 *		prepared	PQprepare() once, then PQexecPrepared() seven times, so
 *					that a generic plan is made if that is not dearer; text
 *		prepared_binary
 *		cursor		DECLARE, and FETCH of seven rows at a time; text
 *		cursor_binary
 *		cancel		PQexec(), and a request to cancel it once it waits for
 *					the partitions
 *
 * An answer is a line of JSON: {"name", "way", "state" of an error, "message",
 * "columns": [[name, type oid], ...], "rows": [[...], ...], "again",
 * "results", "ms"}.  "rows" is null when the columns and rows are those of the
 * job's first way.  "again" has the rows of those repeated executions that had
 * others than the first one, "results" says how many results a simple query
 * had; rows are those of all that have some.
 *
 * Whatever comes in binary is decoded here, as a client would.  So that both
 * can be compared, times with a time zone are given in UTC, floating-point
 * numbers as %.17g, by either way.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libpq-fe.h"

#define EXECUTIONS 7
#define MAX_PARAMS 16

/* ---------- text ---------- */

typedef struct Text
{
	char	   *data;
	size_t		len;
	size_t		size;
} Text;

static void
die(const char *what, const char *more)
{
	fprintf(stderr, "query_client: %s%s\n", what, more);
	exit(2);
}

static void
append_bytes(Text *t, const char *bytes, size_t n)
{
	if (t->len + n + 1 > t->size)
	{
		t->size = (t->len + n + 1) * 2;
		t->data = realloc(t->data, t->size);
		if (t->data == NULL)
			die("out of memory", "");
	}
	memcpy(t->data + t->len, bytes, n);
	t->len += n;
	t->data[t->len] = '\0';
}

static void
append(Text *t, const char *s)
{
	append_bytes(t, s, strlen(s));
}

static void
append_json(Text *t, const char *s)
{
	append(t, "\"");
	for (; *s != '\0'; s++)
	{
		char		escape[8];

		if (*s == '"' || *s == '\\')
			snprintf(escape, sizeof(escape), "\\%c", *s);
		else if ((unsigned char) *s < ' ')
			snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char) *s);
		else
		{
			append_bytes(t, s, 1);
			continue;
		}
		append(t, escape);
	}
	append(t, "\"");
}

/* ---------- values ---------- */

/* oids of types, from pg_type.dat: they never change */
enum
{
	BOOL = 16, BYTEA = 17, CHAR = 18, NAME = 19, INT8 = 20, INT2 = 21, INT4 = 23,
	TEXT = 25, OID = 26, JSON = 114, FLOAT4 = 700, FLOAT8 = 701, UNKNOWN = 705,
	BPCHAR = 1042, VARCHAR = 1043, DATE = 1082, TIMESTAMP = 1114,
	TIMESTAMPTZ = 1184, NUMERIC = 1700, JSONB = 3802
};

static uint64_t
get_int(const char *p, int bytes)
{
	uint64_t	v = 0;

	for (int i = 0; i < bytes; i++)
		v = v << 8 | (unsigned char) p[i];
	return v;
}

static int64_t
floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* days since 1970 to a date of the Gregorian calendar, and back */
static void
civil_from_days(int64_t z, int64_t *y, int *m, int *d)
{
	int64_t		era;
	int64_t		doe;
	int64_t		yoe;
	int64_t		doy;
	int			mp;

	z += 719468;
	era = floor_div(z, 146097);
	doe = z - era * 146097;
	yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (int) ((5 * doy + 2) / 153);
	*d = (int) (doy - (153 * mp + 2) / 5 + 1);
	*m = mp < 10 ? mp + 3 : mp - 9;
	*y = yoe + era * 400 + (*m <= 2);
}

static int64_t
days_from_civil(int64_t y, int m, int d)
{
	int64_t		era;
	int64_t		yoe;
	int64_t		doy;

	y -= m <= 2;
	era = floor_div(y, 400);
	yoe = y - era * 400;
	doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

/* microseconds since 1970 */
static void
append_time(Text *t, int64_t us, const char *zone)
{
	int64_t		seconds = floor_div(us, 1000000);
	int64_t		days = floor_div(seconds, 86400);
	int			of_day = (int) (seconds - days * 86400);
	int64_t		y;
	int			m;
	int			d;
	char		buf[80];

	civil_from_days(days, &y, &m, &d);
	snprintf(buf, sizeof(buf), "%04" PRId64 "-%02d-%02d %02d:%02d:%02d.%06d%s",
			 y, m, d, of_day / 3600, of_day / 60 % 60, of_day % 60,
			 (int) (us - seconds * 1000000), zone);
	append(t, buf);
}

/* of the years that tests have */
static void
append_time_text(Text *t, const char *s, const char *zone)
{
	int			y;
	int			m;
	int			d;
	int			hour;
	int			min;
	int			sec;
	int			n = 0;
	int64_t		us;

	if (sscanf(s, "%d-%d-%d %d:%d:%d%n", &y, &m, &d, &hour, &min, &sec, &n) != 6)
		die("no time: ", s);
	us = (days_from_civil(y, m, d) * 86400 + hour * 3600 + min * 60 + sec) *
		INT64_C(1000000);
	s += n;
	if (*s == '.')
	{
		int			unit = 100000;

		for (s++; *s >= '0' && *s <= '9'; s++, unit /= 10)
			us += (*s - '0') * unit;
	}
	if (*zone != '\0')
	{
		int			offset[3] = {0};
		int			sign = *s == '-' ? -1 : 1;

		if (sscanf(s + 1, "%d:%d:%d", &offset[0], &offset[1], &offset[2]) < 1)
			die("no offset: ", s);
		us -= sign * (offset[0] * 3600 + offset[1] * 60 + offset[2]) *
			INT64_C(1000000);
	}
	append_time(t, us, zone);
}

static void
append_double(Text *t, double v)
{
	char		buf[40];

	if (isnan(v))
		strcpy(buf, "NaN");
	else if (isinf(v))
		strcpy(buf, v < 0 ? "-Infinity" : "Infinity");
	else
		snprintf(buf, sizeof(buf), "%.17g", v);
	append(t, buf);
}

/* digits of four decimals each */
static void
append_numeric(Text *t, const char *p)
{
	int			ndigits = (int) get_int(p, 2);
	int			weight = (int16_t) get_int(p + 2, 2);
	int			sign = (int) get_int(p + 4, 2);
	int			scale = (int) get_int(p + 6, 2);
	char		buf[8];

#define DIGIT(i) ((i) >= 0 && (i) < ndigits ? (int) get_int(p + 8 + 2 * (i), 2) : 0)
	if (sign == 0xC000 || sign == 0xD000 || sign == 0xF000)
	{
		append(t, sign == 0xC000 ? "NaN" : sign == 0xD000 ? "Infinity" : "-Infinity");
		return;
	}
	if (sign == 0x4000)
		append(t, "-");
	if (weight < 0)
		append(t, "0");
	for (int i = 0; i <= weight; i++)
	{
		snprintf(buf, sizeof(buf), i == 0 ? "%d" : "%04d", DIGIT(i));
		append(t, buf);
	}
	if (scale > 0)
	{
		size_t		end;

		append(t, ".");
		end = t->len + scale;
		for (int i = weight + 1; t->len < end; i++)
		{
			snprintf(buf, sizeof(buf), "%04d", DIGIT(i));
			append(t, buf);
		}
		t->len = end;
		t->data[end] = '\0';
	}
#undef DIGIT
}

/* microseconds and days from 1970 to 2000 */
#define EPOCH_DAYS 10957
#define EPOCH_US (EPOCH_DAYS * INT64_C(86400000000))

static void
append_binary(Text *t, const char *p, int len, Oid type)
{
	char		buf[40];
	int			m;
	int			d;
	int64_t		y;
	union
	{
		uint64_t	i;
		double		d;
	}			u8;
	union
	{
		uint32_t	i;
		float		f;
	}			u4;

	switch (type)
	{
		case BOOL:
			append(t, *p ? "t" : "f");
			return;
		case INT2:
			snprintf(buf, sizeof(buf), "%d", (int16_t) get_int(p, 2));
			break;
		case INT4:
			snprintf(buf, sizeof(buf), "%d", (int32_t) get_int(p, 4));
			break;
		case OID:
			snprintf(buf, sizeof(buf), "%u", (uint32_t) get_int(p, 4));
			break;
		case INT8:
			snprintf(buf, sizeof(buf), "%" PRId64, (int64_t) get_int(p, 8));
			break;
		case FLOAT4:
			u4.i = (uint32_t) get_int(p, 4);
			append_double(t, u4.f);
			return;
		case FLOAT8:
			u8.i = get_int(p, 8);
			append_double(t, u8.d);
			return;
		case NUMERIC:
			append_numeric(t, p);
			return;
		case TIMESTAMP:
		case TIMESTAMPTZ:
			append_time(t, (int64_t) get_int(p, 8) + EPOCH_US,
						type == TIMESTAMP ? "" : "+00");
			return;
		case DATE:
			civil_from_days((int32_t) get_int(p, 4) + EPOCH_DAYS, &y, &m, &d);
			snprintf(buf, sizeof(buf), "%04" PRId64 "-%02d-%02d", y, m, d);
			break;
		case JSONB:
			if (len < 1 || *p != 1)
				die("jsonb of another version", "");
			append_bytes(t, p + 1, len - 1);
			return;
		case CHAR:
		case NAME:
		case TEXT:
		case JSON:
		case UNKNOWN:
		case BPCHAR:
		case VARCHAR:
			append_bytes(t, p, len);
			return;
		default:
			snprintf(buf, sizeof(buf), "%u", type);
			die("there is no decoder for type ", buf);
	}
	append(t, buf);
}

static void
append_value(Text *t, const PGresult *res, int row, int col)
{
	const char *p = PQgetvalue(res, row, col);
	Oid			type = PQftype(res, col);
	Text		value = {0};

	if (PQgetisnull(res, row, col))
	{
		append(t, "null");
		return;
	}
	append(&value, "");
	if (PQfformat(res, col) == 1)
		append_binary(&value, p, PQgetlength(res, row, col), type);
	else if (type == TIMESTAMP || type == TIMESTAMPTZ)
		append_time_text(&value, p, type == TIMESTAMP ? "" : "+00");
	else if (type == FLOAT8)
		append_double(&value, strtod(p, NULL));
	else if (type == FLOAT4)
		append_double(&value, strtof(p, NULL));
	else
		append(&value, p);
	append_json(t, value.data);
	free(value.data);
}

/* ---------- answers ---------- */

typedef struct Answer
{
	Text		columns;
	Text		rows;
	int			nresults;
	char		state[6];
	Text		message;
} Answer;

static void
free_answer(Answer *a)
{
	free(a->columns.data);
	free(a->rows.data);
	free(a->message.data);
	memset(a, 0, sizeof(*a));
}

/*
 * Take up a result, and free it.  False: it is an error.
 */
static bool
take(Answer *a, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);
	char		buf[20];

	if (status == PGRES_TUPLES_OK || status == PGRES_SINGLE_TUPLE)
	{
		a->columns.len = 0;
		append(&a->columns, "");
		for (int i = 0; i < PQnfields(res); i++)
		{
			append(&a->columns, i > 0 ? ",[" : "[");
			append_json(&a->columns, PQfname(res, i));
			snprintf(buf, sizeof(buf), ",%u]", PQftype(res, i));
			append(&a->columns, buf);
		}
		for (int r = 0; r < PQntuples(res); r++)
		{
			append(&a->rows, a->rows.len > 0 ? ",[" : "[");
			for (int i = 0; i < PQnfields(res); i++)
			{
				if (i > 0)
					append(&a->rows, ",");
				append_value(&a->rows, res, r, i);
			}
			append(&a->rows, "]");
		}
	}
	else if (status != PGRES_COMMAND_OK)
	{
		const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
		const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

		snprintf(a->state, sizeof(a->state), "%s", state ? state : "?????");
		a->message.len = 0;
		append(&a->message, message ? message : PQresultErrorMessage(res));
	}
	PQclear(res);
	return a->state[0] == '\0';
}

static bool
command(Answer *a, PGconn *conn, const char *sql)
{
	return take(a, PQexec(conn, sql));
}

static void
simple(Answer *a, PGconn *conn, const char *sql, bool by_row)
{
	PGresult   *res;

	if (!PQsendQuery(conn, sql) || (by_row && !PQsetSingleRowMode(conn)))
		die("cannot send: ", PQerrorMessage(conn));
	while ((res = PQgetResult(conn)) != NULL)
	{
		a->nresults += PQresultStatus(res) != PGRES_SINGLE_TUPLE;
		(void) take(a, res);
	}
}

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/*
 * Once the query waits for the partitions, as another connection sees.
 */
static void
cancelled(Answer *a, PGconn *conn, const char *sql, const char *conninfo)
{
	PGcancel   *cancel = PQgetCancel(conn);
	PGconn	   *other = PQconnectdb(conninfo);
	struct timespec pause = {0, 10000000};
	double		end = now_ms() + 30000;
	bool		waits = false;
	char		look[200];
	char		error[256];
	PGresult   *res;

	snprintf(look, sizeof(look),
			 "SELECT 1 FROM pg_stat_activity WHERE pid = %d AND state = 'active' AND wait_event_type = 'Extension'",
			 PQbackendPID(conn));
	if (!PQsendQuery(conn, sql))
		die("cannot send: ", PQerrorMessage(conn));
	while (!waits && now_ms() < end)
	{
		res = PQexec(other, look);
		waits = PQntuples(res) > 0;
		PQclear(res);
		nanosleep(&pause, NULL);
	}
	PQfinish(other);
	if (!PQcancel(cancel, error, sizeof(error)))
		die("cannot cancel: ", error);
	PQfreeCancel(cancel);
	while ((res = PQgetResult(conn)) != NULL)
		(void) take(a, res);
}

static void
by_cursor(Answer *a, PGconn *conn, const char *sql, bool binary,
		  const char **params, int nparams)
{
	Text		declare = {0};
	bool		more = true;

	append(&declare, binary ? "DECLARE c BINARY CURSOR FOR " : "DECLARE c CURSOR FOR ");
	append(&declare, sql);
	if (command(a, conn, "BEGIN") &&
		take(a, PQexecParams(conn, declare.data, nparams, NULL, params, NULL,
							 NULL, 0)))
		while (more)
		{
			PGresult   *res = PQexec(conn, "FETCH 7 FROM c");

			more = PQntuples(res) > 0;
			more = take(a, res) && more;
		}
	free(declare.data);
	PQclear(PQexec(conn, a->state[0] ? "ROLLBACK" : "COMMIT"));
}

/* ---------- jobs ---------- */

/*
 * One job in one way.
 */
static void
run(PGconn *conn, const char *name, const char *way, const char *sql,
	const char **params, int nparams, const char *conninfo, Answer *first)
{
	bool		binary = strstr(way, "binary") != NULL;
	Answer		a = {0};
	Text		others = {0};
	Text		line = {0};
	char		buf[64];
	double		start = now_ms();

	append(&a.columns, "");
	append(&a.rows, "");
	append(&a.message, "");
	append(&others, "");
	if (strcmp(way, "simple") == 0 || strcmp(way, "rows") == 0)
		simple(&a, conn, sql, strcmp(way, "rows") == 0);
	else if (strcmp(way, "text") == 0 || strcmp(way, "binary") == 0)
		(void) take(&a, PQexecParams(conn, sql, nparams, NULL, params, NULL,
									 NULL, binary));
	else if (strncmp(way, "prepared", 8) == 0)
	{
		bool		ok = take(&a, PQprepare(conn, "s", sql, nparams, NULL));

		for (int i = 0; ok && i < EXECUTIONS; i++)
		{
			Answer		again = {0};

			append(&again.rows, "");
			append(&again.columns, "");
			ok = take(i == 0 ? &a : &again,
					  PQexecPrepared(conn, "s", nparams, params, NULL, NULL,
									 binary));
			if (!ok && i > 0)
			{
				snprintf(a.state, sizeof(a.state), "%s", again.state);
				append(&a.message, again.message.data);
			}
			else if (i > 0 && strcmp(a.columns.data, again.columns.data) != 0)
				die("executions have different columns: ", name);
			else if (i > 0 && strcmp(a.rows.data, again.rows.data) != 0)
			{
				append(&others, others.len > 0 ? ",[" : "[");
				append(&others, again.rows.data);
				append(&others, "]");
			}
			free_answer(&again);
		}
	}
	else if (strncmp(way, "cursor", 6) == 0)
		by_cursor(&a, conn, sql, binary, params, nparams);
	else if (strcmp(way, "cancel") == 0)
		cancelled(&a, conn, sql, conninfo);
	else
		die("there is no way ", way);

	append(&line, "{\"name\":");
	append_json(&line, name);
	append(&line, ",\"way\":");
	append_json(&line, way);
	append(&line, ",\"state\":");
	append_json(&line, a.state);
	append(&line, ",\"message\":");
	append_json(&line, a.message.data);
	append(&line, ",\"columns\":[");
	append(&line, a.columns.data);
	append(&line, "],\"rows\":");
	if (first->rows.data != NULL && strcmp(a.state, first->state) == 0 &&
		strcmp(a.columns.data, first->columns.data) == 0 &&
		strcmp(a.rows.data, first->rows.data) == 0)
		append(&line, "null");
	else
	{
		append(&line, "[");
		append(&line, a.rows.data);
		append(&line, "]");
	}
	append(&line, ",\"again\":[");
	append(&line, others.data);
	snprintf(buf, sizeof(buf), "],\"results\":%d,\"ms\":%.1f}", a.nresults,
			 now_ms() - start);
	append(&line, buf);
	puts(line.data);
	free(line.data);
	free(others.data);
	if (first->rows.data == NULL)
		*first = a;
	else
		free_answer(&a);
	if (strncmp(way, "prepared", 8) == 0)
		PQclear(PQexec(conn, "DEALLOCATE ALL"));
	if (PQstatus(conn) != CONNECTION_OK)
		die("the connection is lost after ", name);
}

/* in place, as COPY escapes */
static void
unescape(char *s)
{
	char	   *to = s;

	for (; *s != '\0'; s++)
	{
		if (*s == '\\' && s[1] != '\0')
			*to++ = *++s == 'n' ? '\n' : *s == 't' ? '\t' : *s;
		else
			*to++ = *s;
	}
	*to = '\0';
}

int
main(int argc, char **argv)
{
	PGconn	   *conn;
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		len;

	if (argc != 2)
		die("usage: query_client CONNINFO < jobs", "");
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		die("cannot connect: ", PQerrorMessage(conn));
	while ((len = getline(&line, &size, stdin)) > 0)
	{
		char	   *fields[3 + MAX_PARAMS];
		const char *params[MAX_PARAMS];
		int			n = 0;
		char	   *rest = line;
		char	   *ways;
		Answer		first = {0};

		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		while (rest != NULL && n < 3 + MAX_PARAMS)
			fields[n++] = strsep(&rest, "\t");
		if (n < 3 || rest != NULL)
			die("a job has a name, ways, SQL and at most 16 parameters: ", line);
		for (int i = 0; i < n; i++)
		{
			bool		null = strcmp(fields[i], "\\N") == 0;

			unescape(fields[i]);
			if (i >= 3)
				params[i - 3] = null ? NULL : fields[i];
		}
		ways = fields[1];
		while (ways != NULL)
			run(conn, fields[0], strsep(&ways, ","), fields[2], params, n - 3,
				argv[1], &first);
		free_answer(&first);
	}
	free(line);
	PQfinish(conn);
	return 0;
}
