/*-------------------------------------------------------------------------
 *
 * rows.c
 *		Print log rows as COPY takes them (text format).
 *
 *		rows NUMBER END HOURS
 *
 * NUMBER rows, oldest first, spread evenly over the HOURS before END (seconds
 * since 1970).  Columns: ts, level, service, message, trace_id, attrs.
 *
 * The same arguments give the same rows each time.  No two rows have the same ts, so
 * that any two systems agree on the order.  Services are skewed (the first
 * of 50 has about 12 times the rows of the last), 2.5 % of the rows are
 * errors, about 1 % have "timeout" in their message, and about 8 neighbours
 * in time share a trace_id.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NSERVICES 50
/* a service's weight is 1 / rank ^ SKEW */
#define SKEW 0.64
/* rows of one trace, and how far apart they lie */
#define ROWS_PER_TRACE 8
#define TRACE_SPREAD 400
#define USECS_PER_HOUR INT64_C(3600000000)

static uint64_t state = UINT64_C(20240229);

/*
 * splitmix64: one step of a counter, well mixed.
 */
static uint64_t
mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint32_t
draw(uint32_t n)
{
	state += UINT64_C(0x9e3779b97f4a7c15);
	return (uint32_t) (((mix(state) >> 32) * n) >> 32);
}

static const char *const methods[] = {"GET", "GET", "GET", "POST", "PUT"};
static const char *const things[] = {"orders", "payments", "users", "carts",
"products", "invoices", "sessions", "shipments"};
static const char *const regions[] = {"eu-west-1", "eu-central-1",
"us-east-1", "us-west-2", "ap-south-1"};

#define ANY(array) (array)[draw(sizeof(array) / sizeof((array)[0]))]

static int
debug_message(char *buf, size_t size, unsigned duration)
{
	switch (draw(4))
	{
		case 0:
			return snprintf(buf, size, "cache hit for key %s:%08x",
							ANY(things), draw(UINT32_MAX));
		case 1:
			return snprintf(buf, size, "acquired connection %u of pool \"main\" in %u us",
							draw(100), duration);
		case 2:
			return snprintf(buf, size, "decoded %u bytes of %s from topic events-%u",
							draw(65536), ANY(things), draw(32));
		default:
			return snprintf(buf, size, "entering %s handler, request body has %u bytes",
							ANY(things), draw(9000));
	}
}

static int
info_message(char *buf, size_t size, unsigned duration, unsigned status)
{
	switch (draw(8))
	{
		case 0:
			return snprintf(buf, size, "user %u logged in from 10.%u.%u.%u",
							draw(2000000), draw(256), draw(256), draw(256));
		case 1:
			return snprintf(buf, size, "published event %s.updated to partition %u at offset %u",
							ANY(things), draw(64), draw(100000000));
		case 2:
			return snprintf(buf, size, "job %u finished: %u %s processed, 0 failed",
							draw(1000000), draw(5000), ANY(things));
		default:
			return snprintf(buf, size, "%s /api/v1/%s/%u %u in %u ms",
							ANY(methods), ANY(things), draw(10000000), status,
							duration);
	}
}

static int
warn_message(char *buf, size_t size, unsigned duration)
{
	if (draw(100) < 7)
		return snprintf(buf, size, "request to service-%u close to its timeout: %u of 3000 ms",
						draw(NSERVICES) + 1, 2000 + draw(1000));
	switch (draw(3))
	{
		case 0:
			return snprintf(buf, size, "slow query (%u ms): SELECT * FROM %s WHERE customer_id = %u",
							duration + 500, ANY(things), draw(1000000));
		case 1:
			return snprintf(buf, size, "retrying request to service-%u, attempt %u of 5",
							draw(NSERVICES) + 1, draw(4) + 2);
		default:
			return snprintf(buf, size, "connection pool \"main\" has %u of 100 connections in use",
							80 + draw(20));
	}
}

static int
error_message(char *buf, size_t size, unsigned duration)
{
	if (draw(100) < 18)
		return snprintf(buf, size, "upstream timeout after %u ms while calling service-%u",
						3000 + duration, draw(NSERVICES) + 1);
	switch (draw(4))
	{
		case 0:
			return snprintf(buf, size, "could not connect to db-%u: Connection refused",
							draw(12));
		case 1:
			return snprintf(buf, size, "java.lang.NullPointerException at com.example.%s.Controller.handle(Controller.java:%u)",
							ANY(things), draw(900) + 20);
		case 2:
			return snprintf(buf, size, "payment %u declined by provider, code %u",
							draw(100000000), draw(90) + 10);
		default:
			return snprintf(buf, size, "deadlock detected in table %s, transaction %u rolled back",
							ANY(things), draw(100000000));
	}
}

int
main(int argc, char **argv)
{
	static char out[1 << 16];
	double		upto[NSERVICES];
	double		sum = 0;
	/* a service for each of 65536 draws */
	static unsigned char service_of[65536];
	int64_t		nrows;
	int64_t		start;
	int64_t		step;
	int64_t		last_second = -1;
	char		second[32] = "";

	if (argc != 4 || (nrows = atoll(argv[1])) < 1 || atoll(argv[3]) < 1)
	{
		fprintf(stderr, "usage: rows NUMBER END HOURS\n");
		return 2;
	}
	start = atoll(argv[2]) * 1000000 - atoll(argv[3]) * USECS_PER_HOUR;
	step = atoll(argv[3]) * USECS_PER_HOUR / nrows;
	if (step < 1)
	{
		fprintf(stderr, "rows: more than one row per microsecond\n");
		return 2;
	}
	setvbuf(stdout, out, _IOFBF, sizeof(out));

	for (int s = 0; s < NSERVICES; s++)
		upto[s] = (sum += pow(s + 1, -SKEW));
	for (int i = 0, s = 0; i < 65536; i++)
	{
		while (s < NSERVICES - 1 && upto[s] <= sum * i / 65536)
			s++;
		service_of[i] = s + 1;
	}

	for (int64_t i = 0; i < nrows; i++)
	{
		int64_t		ts = start + i * step + (int64_t) (mix(i) % step);
		uint64_t	trace = (i + draw(TRACE_SPREAD)) / ROWS_PER_TRACE;
		unsigned	luck = draw(1000);
		unsigned	duration = draw(100) < 95 ? draw(200) : 200 + draw(3000);
		unsigned	status = 200;
		const char *level;
		char		message[256];

		if (luck < 25)
		{
			level = "ERROR";
			status = 500 + draw(5);
			error_message(message, sizeof(message), duration);
		}
		else if (luck < 100)
		{
			level = "WARN";
			status = draw(3) == 0 ? 429 : 200;
			warn_message(message, sizeof(message), duration);
		}
		else if (luck < 250)
		{
			level = "DEBUG";
			debug_message(message, sizeof(message), duration);
		}
		else
		{
			level = "INFO";
			if (draw(100) < 4)
				status = 404;
			info_message(message, sizeof(message), duration, status);
		}

		if (ts / 1000000 != last_second)
		{
			time_t		t = last_second = ts / 1000000;

			strftime(second, sizeof(second), "%Y-%m-%d %H:%M:%S", gmtime(&t));
		}
		printf("%s.%06d+00\t%s\tservice-%d\t%s\t%016llx%016llx\t"
			   "{\"duration_ms\": %u, \"status\": %u, \"region\": \"%s\"}\n",
			   second, (int) (ts % 1000000), level,
			   service_of[draw(65536)], message,
			   (unsigned long long) mix(2 * trace + 1),
			   (unsigned long long) mix(2 * trace + 2),
			   duration, status, ANY(regions));
	}
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
