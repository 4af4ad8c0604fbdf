/*-------------------------------------------------------------------------
 *
 * floor.c
 *		How fast could it be at best?  The ideal requests, by bare libpq.
 *
 *		floor [-n RUNS] CASE [ARGUMENT] [OUTPUT]
 *
 * prints the median time of RUNS in ms.  Without a CASE, lines of the form
 * "CASE ARGUMENT OUTPUT" are read from standard input, each is run once, and
 * its time is printed; "-" stands for no argument, OUTPUT is /dev/null unless
 * given.
 *
 *		newest_errors - [OUTPUT]		newest 100 rows with level ERROR
 *		service_level_hour FROM [OUTPUT]
 *		like_hour FROM [OUTPUT]			newest 100 of the hour from FROM (seconds
 *										since 1970) that the case asks for
 *		trace_needle TRACE [OUTPUT]		a trace, of segments that hold it or are open
 *		trace_all TRACE [OUTPUT]		the same, all segments are asked
 *		trace_parent TRACE [OUTPUT]		one statement on the parent table
 *		stream_ordered ROWS [OUTPUT]	newest ROWS rows as binary COPY
 *
 * The partitions are the words of LOGQ_PARTITIONS, each a name in libpq's
 * service file, asked as user "logq".
 *
 * This is a floor and no competitor: it knows the segments, and which rows of
 * which partition the answer has, before the clock starts.  It trusts that
 * nothing changes meanwhile, so it confirms no catalog and opens no
 * transaction.  It may block, and it ends at the first error.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <endian.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

#define COLUMNS "ts, level, service, message, trace_id, attrs, id"
#define NCOLUMNS 7
#define MAX_PARTITIONS 64
#define MAX_RUNS 1001
#define NEWEST_ROWS 100

/* what precedes the first row of a binary COPY */
#define COPY_HEADER_SIZE 19
static const char copy_header[COPY_HEADER_SIZE] = "PGCOPY\n\377\r\n\0";

typedef struct Segment
{
	char	   *table;			/* quoted, with schema */
	int64_t		lower;			/* us since 1970 */
	int64_t		upper;
	bool		open;			/* takes rows: what it holds is not known */
} Segment;

typedef struct Partition
{
	PGconn	   *conn;
	int			nsegments;
	Segment    *segments;		/* newest first */
	char	   *request;
	size_t		request_len;
	size_t		request_size;
	/* the row at hand */
	bool		copying;
	bool		first_message;
	bool		done;
	char	   *message;		/* libpq's */
	char	   *row;			/* in message */
	int			row_len;
	int64_t		ts;
	int64_t		id;
} Partition;

static Partition partitions[MAX_PARTITIONS];
static int	npartitions;

/* of the request that is prepared: what was asked for, and how to merge */
static char *prepared;
static bool descending;
static bool binary_output;
static int64_t max_rows;

static void __attribute__((format(printf, 1, 2), noreturn))
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fputs("floor: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void *
must_alloc(void *p)
{
	if (p == NULL)
		die("out of memory");
	return p;
}

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---------- outside the timed part ---------- */

static PGresult *
query(Partition *p, const char *sql)
{
	PGresult   *res = PQexec(p->conn, sql);

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		die("%s", PQerrorMessage(p->conn));
	return res;
}

static void
connect_partition(Partition *p, const char *name)
{
	char		conninfo[256];
	PGresult   *res;

	snprintf(conninfo, sizeof(conninfo),
			 "service='%s' user=logq application_name=floor", name);
	p->conn = PQconnectdb(conninfo);
	if (PQstatus(p->conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(p->conn));
	res = query(p, "SELECT pg_catalog.format('logq_store.%I', name),"
				" (extract(epoch FROM lower) * 1000000)::bigint,"
				" (extract(epoch FROM upper) * 1000000)::bigint,"
				" state = 'open'"
				" FROM logq_store.segment ORDER BY upper DESC");
	p->nsegments = PQntuples(res);
	p->segments = must_alloc(calloc(p->nsegments + 1, sizeof(Segment)));
	for (int i = 0; i < p->nsegments; i++)
	{
		p->segments[i].table = must_alloc(strdup(PQgetvalue(res, i, 0)));
		p->segments[i].lower = atoll(PQgetvalue(res, i, 1));
		p->segments[i].upper = atoll(PQgetvalue(res, i, 2));
		p->segments[i].open = strcmp(PQgetvalue(res, i, 3), "t") == 0;
	}
	PQclear(res);
}

static void __attribute__((format(printf, 2, 3)))
append(Partition *p, const char *format,...)
{
	for (;;)
	{
		va_list		args;
		size_t		room = p->request_size - p->request_len;
		int			n;

		va_start(args, format);
		n = vsnprintf(p->request ? p->request + p->request_len : NULL, room,
					  format, args);
		va_end(args);
		if (n < 0)
			die("could not format a request");
		if ((size_t) n < room)
		{
			p->request_len += n;
			return;
		}
		p->request_size = 2 * p->request_size + n + 1;
		p->request = must_alloc(realloc(p->request, p->request_size));
	}
}

static int
compare_newest_first(const void *a, const void *b)
{
	int64_t		x = *(const int64_t *) a;
	int64_t		y = *(const int64_t *) b;

	return x < y ? 1 : x > y ? -1 : 0;
}

/*
 * The ts of the n-th newest row that meets a condition, in us since 1970, and
 * how many rows of each partition are as new.
 */
static int64_t
find_cutoff(const char *where, int64_t n, int64_t *counts)
{
	int64_t    *all = NULL;
	int64_t		nall = 0;
	int64_t		cutoff;
	char		sql[512];

	snprintf(sql, sizeof(sql),
			 "SELECT (extract(epoch FROM ts) * 1000000)::bigint"
			 " FROM logq_store.log %s ORDER BY ts DESC LIMIT %lld",
			 where, (long long) n);
	for (int i = 0; i < npartitions; i++)
	{
		PGresult   *res = query(&partitions[i], sql);
		int			rows = PQntuples(res);

		all = must_alloc(realloc(all, (nall + rows + 1) * sizeof(int64_t)));
		for (int j = 0; j < rows; j++)
			all[nall++] = atoll(PQgetvalue(res, j, 0));
		counts[i] = rows;
		PQclear(res);
	}
	if (nall == 0)
		die("there are no rows");
	qsort(all, nall, sizeof(int64_t), compare_newest_first);
	cutoff = all[nall < n ? nall - 1 : n - 1];
	free(all);

	for (int i = 0; i < npartitions; i++)
	{
		PGresult   *res;

		snprintf(sql, sizeof(sql),
				 "SELECT count(*) FROM logq_store.log %s %s ts >="
				 " timestamptz 'epoch' + %lld * interval '1 microsecond'",
				 where, *where ? "AND" : "WHERE", (long long) cutoff);
		res = query(&partitions[i], sql);
		counts[i] = atoll(PQgetvalue(res, 0, 0));
		PQclear(res);
	}
	return cutoff;
}

/*
 * The newest rows that meet a condition, before a time in us since 1970.
 */
static void
prepare_newest(const char *where, int64_t before)
{
	int64_t		counts[MAX_PARTITIONS];
	int64_t		cutoff = find_cutoff(where, NEWEST_ROWS, counts);

	for (int i = 0; i < npartitions; i++)
	{
		Partition  *p = &partitions[i];

		if (counts[i] == 0)
			continue;
		for (int s = 0; s < p->nsegments && p->segments[s].upper > cutoff; s++)
			if (p->segments[s].lower < before)
				append(p, "COPY (SELECT " COLUMNS " FROM %s %s"
					   " ORDER BY ts DESC, id DESC LIMIT %lld)"
					   " TO STDOUT (FORMAT binary);",
					   p->segments[s].table, where,
					   (long long) counts[i] + 1);
	}
	descending = true;
	max_rows = NEWEST_ROWS;
}

static void
prepare_hour(const char *condition, const char *from)
{
	char		where[256];

	snprintf(where, sizeof(where), "WHERE %s AND level = 'ERROR'"
			 " AND ts >= to_timestamp(%lld) AND ts < to_timestamp(%lld)",
			 condition, atoll(from), atoll(from) + 3600);
	prepare_newest(where, (atoll(from) + 3600) * INT64_C(1000000));
}

static void
prepare_trace(const char *trace, const char *how)
{
	for (int i = 0; i < npartitions; i++)
	{
		Partition  *p = &partitions[i];
		char	   *literal = PQescapeLiteral(p->conn, trace, strlen(trace));
		char		sql[512];

		if (literal == NULL)
			die("%s", PQerrorMessage(p->conn));
		if (strcmp(how, "trace_parent") == 0)
			append(p, "COPY (SELECT " COLUMNS " FROM logq_store.log"
				   " WHERE trace_id = %s ORDER BY ts, id)"
				   " TO STDOUT (FORMAT binary);", literal);
		else
			for (int s = p->nsegments - 1; s >= 0; s--)
			{
				if (strcmp(how, "trace_needle") == 0 &&
					!p->segments[s].open)
				{
					PGresult   *res;
					bool		found;

					snprintf(sql, sizeof(sql),
							 "SELECT FROM %s WHERE trace_id = %s LIMIT 1",
							 p->segments[s].table, literal);
					res = query(p, sql);
					found = PQntuples(res) > 0;
					PQclear(res);
					if (!found)
						continue;
				}
				append(p, "COPY (SELECT " COLUMNS " FROM %s"
					   " WHERE trace_id = %s ORDER BY ts, id)"
					   " TO STDOUT (FORMAT binary);",
					   p->segments[s].table, literal);
			}
		PQfreemem(literal);
	}
	descending = false;
	max_rows = INT64_MAX;
}

static void
prepare_stream_ordered(int64_t rows)
{
	int64_t		counts[MAX_PARTITIONS];
	int64_t		cutoff = find_cutoff("", rows, counts);

	for (int i = 0; i < npartitions; i++)
	{
		Partition  *p = &partitions[i];
		int64_t		left = counts[i];

		/* LIMIT ends each where the answer does, so nothing is cancelled */
		for (int s = 0; s < p->nsegments && p->segments[s].upper > cutoff &&
			 left > 0; s++)
		{
			char		sql[512];
			PGresult   *res;

			append(p, "COPY (SELECT " COLUMNS " FROM %s"
				   " ORDER BY ts DESC, id DESC LIMIT %lld)"
				   " TO STDOUT (FORMAT binary);",
				   p->segments[s].table, (long long) left);
			snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s",
					 p->segments[s].table);
			res = query(p, sql);
			left -= atoll(PQgetvalue(res, 0, 0));
			PQclear(res);
		}
	}
	descending = true;
	binary_output = true;
	max_rows = rows;
}

/*
 * Have the requests for a case ready; nothing to do for the same one again.
 */
static void
prepare(const char *name, const char *argument)
{
	char		key[512];

	snprintf(key, sizeof(key), "%s %s", name, argument);
	if (prepared != NULL && strcmp(prepared, key) == 0)
		return;
	free(prepared);
	prepared = must_alloc(strdup(key));
	for (int i = 0; i < npartitions; i++)
		partitions[i].request_len = 0;
	binary_output = false;

	if (strcmp(name, "newest_errors") == 0)
		prepare_newest("WHERE level = 'ERROR'", INT64_MAX);
	else if (strcmp(name, "service_level_hour") == 0)
		prepare_hour("service = 'service-10'", argument);
	else if (strcmp(name, "like_hour") == 0)
		prepare_hour("message LIKE '%timeout%'", argument);
	else if (strcmp(name, "trace_needle") == 0 ||
			 strcmp(name, "trace_all") == 0 ||
			 strcmp(name, "trace_parent") == 0)
		prepare_trace(argument, name);
	else if (strcmp(name, "stream_ordered") == 0 && atoll(argument) > 0)
		prepare_stream_ordered(atoll(argument));
	else
		die("unknown case \"%s %s\"", name, argument);
}

/* ---------- the timed part ---------- */

static int32_t
get_int(const char *p, int size)
{
	uint16_t	n16;
	uint32_t	n32;

	if (size == 2)
	{
		memcpy(&n16, p, 2);
		return (int16_t) ntohs(n16);
	}
	memcpy(&n32, p, 4);
	return (int32_t) ntohl(n32);
}

static int64_t
get_int64(const char *p)
{
	uint64_t	n;

	memcpy(&n, p, 8);
	return (int64_t) be64toh(n);
}

/*
 * Find ts, the first field, and id, the last one.
 */
static void
read_key(Partition *p)
{
	const char *field = p->row + 2;

	p->ts = get_int64(field + 4);
	for (int i = 0; i < NCOLUMNS - 1; i++)
	{
		int32_t		len = get_int(field, 4);

		field += 4 + (len > 0 ? len : 0);
	}
	p->id = get_int64(field + 4);
}

static void
wait_for(Partition *p)
{
	struct pollfd fd = {.fd = PQsocket(p->conn), .events = POLLIN};

	if (poll(&fd, 1, 60000) <= 0)
		die("a partition has sent nothing for a minute");
	if (!PQconsumeInput(p->conn))
		die("%s", PQerrorMessage(p->conn));
}

static void
next_row(Partition *p)
{
	if (p->message != NULL)
	{
		PQfreemem(p->message);
		p->message = NULL;
	}
	while (!p->done)
	{
		int			len;
		int			skip;

		if (!p->copying)
		{
			PGresult   *res;

			while (PQisBusy(p->conn))
				wait_for(p);
			res = PQgetResult(p->conn);
			if (res == NULL)
				p->done = true;
			else if (PQresultStatus(res) == PGRES_COPY_OUT)
				p->copying = p->first_message = true;
			else if (PQresultStatus(res) != PGRES_COMMAND_OK)
				die("%s", PQresultErrorMessage(res));
			PQclear(res);
			continue;
		}

		len = PQgetCopyData(p->conn, &p->message, 1);
		if (len == 0)
		{
			wait_for(p);
			continue;
		}
		if (len == -1)
		{
			p->copying = false;
			continue;
		}
		if (len < 0)
			die("%s", PQerrorMessage(p->conn));
		/* the header comes with the first row, the trailer is -1 fields */
		skip = p->first_message ? COPY_HEADER_SIZE : 0;
		p->first_message = false;
		p->row = p->message + skip;
		p->row_len = len - skip;
		if (p->row_len > 2 && get_int(p->row, 2) == NCOLUMNS)
		{
			read_key(p);
			return;
		}
		PQfreemem(p->message);
		p->message = NULL;
	}
}

static bool
comes_before(const Partition *a, const Partition *b)
{
	if (a->ts != b->ts)
		return (a->ts < b->ts) != descending;
	return (a->id < b->id) != descending;
}

static void
print_row(const Partition *p, FILE *out)
{
	const char *field = p->row + 2;

	fprintf(out, "%lld\t%lld", (long long) p->id, (long long) p->ts);
	for (int i = 0; i < NCOLUMNS; i++)
	{
		int32_t		len = get_int(field, 4);

		field += 4;
		if (len > 0)
		{
			/* jsonb is its text, with the number of its format ahead */
			int			skip = i == 5;

			if (i != 0 && i != NCOLUMNS - 1)
			{
				fputc('\t', out);
				fwrite(field + skip, 1, len - skip, out);
			}
			field += len;
		}
	}
	fputc('\n', out);
}

static double
run(const char *output)
{
	FILE	   *out = fopen(output, "w");
	int64_t		nrows = 0;
	double		start;

	if (out == NULL)
		die("could not open \"%s\"", output);
	start = now_ms();

	for (int i = 0; i < npartitions; i++)
	{
		Partition  *p = &partitions[i];

		p->done = p->request_len == 0;
		p->copying = false;
		if (!p->done && !PQsendQuery(p->conn, p->request))
			die("%s", PQerrorMessage(p->conn));
	}
	for (int i = 0; i < npartitions; i++)
		next_row(&partitions[i]);

	if (binary_output)
		fwrite(copy_header, 1, COPY_HEADER_SIZE, out);
	while (nrows < max_rows)
	{
		Partition  *best = NULL;

		for (int i = 0; i < npartitions; i++)
		{
			if (!partitions[i].done &&
				(best == NULL || comes_before(&partitions[i], best)))
				best = &partitions[i];
		}
		if (best == NULL)
			break;
		if (binary_output)
			fwrite(best->row, 1, best->row_len, out);
		else
			print_row(best, out);
		if (++nrows < max_rows)
			next_row(best);
	}
	if (binary_output)
		fwrite("\377\377", 1, 2, out);
	if (fflush(out) != 0 || ferror(out))
		die("could not write to \"%s\"", output);
	start = now_ms() - start;

	/* a few rows more than needed may still be under way */
	for (int i = 0; i < npartitions; i++)
	{
		while (!partitions[i].done)
			next_row(&partitions[i]);
	}
	fclose(out);
	return start;
}

static int
compare_double(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

int
main(int argc, char **argv)
{
	const char *names = getenv("LOGQ_PARTITIONS");
	char	   *list;
	int			runs = 15;
	int			c;

	while ((c = getopt(argc, argv, "n:")) != -1)
	{
		if (c != 'n' || (runs = atoi(optarg)) < 1 || runs > MAX_RUNS)
		{
			fprintf(stderr, "usage: floor [-n RUNS] [CASE [ARGUMENT] [OUTPUT]]\n");
			return 2;
		}
	}
	if (names == NULL)
		die("LOGQ_PARTITIONS is not set");
	list = must_alloc(strdup(names));
	for (char *name = strtok(list, " "); name != NULL; name = strtok(NULL, " "))
	{
		if (npartitions == MAX_PARTITIONS)
			die("too many partitions");
		connect_partition(&partitions[npartitions++], name);
	}
	free(list);

	if (optind < argc)
	{
		const char *argument = optind + 1 < argc ? argv[optind + 1] : "-";
		const char *output = optind + 2 < argc ? argv[optind + 2] : "/dev/null";
		static double times[MAX_RUNS];

		prepare(argv[optind], argument);
		run(output);
		for (int i = 0; i < runs; i++)
			times[i] = run(output);
		qsort(times, runs, sizeof(double), compare_double);
		printf("%.3f\n", times[runs / 2]);
	}
	else
	{
		char		line[1024];

		while (fgets(line, sizeof(line), stdin) != NULL)
		{
			char	   *name = strtok(line, " \n");
			char	   *argument = name ? strtok(NULL, " \n") : NULL;
			char	   *output = argument ? strtok(NULL, " \n") : NULL;

			if (name == NULL)
				continue;
			prepare(name, argument ? argument : "-");
			printf("%.3f\n", run(output ? output : "/dev/null"));
			fflush(stdout);
		}
	}
	return 0;
}
