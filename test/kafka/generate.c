/*-------------------------------------------------------------------------
 *
 * generate.c
 *		Made-up log rows that look like real ones, as messages.
 *
 * They are like those of bench/gen.sql: twenty services share them as 1 : 1/2
 * : 1/3 : ..., levels are DEBUG 20 %, INFO 68 %, WARN 9 %, ERROR 2.6 %, FATAL
 * 0.4 %.  Seven rows in ten belong to a trace, about six rows each, across
 * services; four in ten have attributes.
 *
 * Each row has a number.  A row follows from its number and the seed alone
 * (but for the time), so that a load can be made in parts.  Nothing in it has
 * to be escaped in JSON.
 *
 * This has to keep up with a broker, hence no printf().
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "tool.h"

#define N_SERVICES 20

static const char *const service_names[N_SERVICES] = {
	"web", "payment-service", "auth-service", "checkout", "catalog-api",
	"search-api", "user-service", "cart", "inventory", "notification",
	"order-service", "shipping", "recommendation", "gateway", "billing",
	"session-store", "image-resizer", "mail-relay", "fraud-check", "scheduler"
};

enum
{
	INFO, DEBUG, WARN, ERROR, FATAL
};
static const char *const level_names[] = {
	"INFO", "DEBUG", "WARN", "ERROR", "FATAL"
};
static const char *const lower_level_names[] = {
	"info", "debug", "warn", "error", "fatal"
};
static const int severity_numbers[] = {9, 5, 13, 17, 21};
static const int statuses[] = {200, 200, 429, 500, 503};

static const char *const regions[] = {
	"eu-west", "eu-central", "us-east", "us-west", "ap-south"
};
static const char *const paths[] = {
	"/", "/api/v1/items", "/api/v1/orders", "/api/v1/cart", "/login",
	"/api/v1/search", "/api/v1/users/me", "/healthz", "/static/app.js",
	"/api/v2/checkout"
};
static const char *const peers[] = {
	"db-1", "db-2", "cache-1", "cache-2", "queue-1", "ledger", "idp", "cdn"
};

typedef struct Row
{
	uint64_t	n;
	int64_t		ts;				/* µs since 1970 */
	int			level;
	int			service;
	const char *region;
	uint64_t	num;			/* below a million */
	uint64_t	tenths;			/* of a millisecond */
	bool		has_attrs;
	bool		has_trace;
	char		trace[32];
	int			len;
	char		message[256];
} Row;

bool
gen_format_by_name(const char *name, GenFormat *format)
{
	static const char *const names[] = {
		"json", "otlp", "fluentbit", "vector", "mixed"
	};

	for (int i = 0; i < 5; i++)
	{
		if (strcmp(name, names[i]) == 0)
		{
			*format = (GenFormat) i;
			return true;
		}
	}
	return false;
}

/* ---------- random numbers ---------- */

/* splitmix64 */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t	z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* from 0 to below 1 */
static double
dice(uint64_t *state)
{
	return (double) (next_random(state) >> 11) * 0x1p-53;
}

/* ---------- text ---------- */

static char *
put(char *p, const char *s)
{
	size_t		len = strlen(s);

	memcpy(p, s, len);
	return p + len;
}

static char *
put_number(char *p, uint64_t v)
{
	char		digits[20];
	int			i = sizeof(digits);

	do
	{
		digits[--i] = '0' + v % 10;
		v /= 10;
	} while (v > 0);
	memcpy(p, digits + i, sizeof(digits) - i);
	return p + sizeof(digits) - i;
}

/* with leading zeros */
static char *
put_digits(char *p, uint64_t v, int width)
{
	for (int i = width - 1; i >= 0; i--)
	{
		p[i] = '0' + v % 10;
		v /= 10;
	}
	return p + width;
}

/* v is in units of 10^-places */
static char *
put_decimal(char *p, uint64_t v, int places)
{
	uint64_t	one = 1;

	for (int i = 0; i < places; i++)
		one *= 10;
	p = put_number(p, v / one);
	*p++ = '.';
	return put_digits(p, v % one, places);
}

static char *
put_hex(char *p, uint64_t v)
{
	for (int i = 60; i >= 0; i -= 4)
		*p++ = "0123456789abcdef"[(v >> i) & 15];
	return p;
}

/* as in 2026-01-01T00:00:00.000000Z */
static char *
put_iso(char *p, int64_t us)
{
	static int64_t last = -1;
	static char text[21];
	int64_t		second = us / 1000000;

	if (second != last)
	{
		time_t		t = (time_t) second;
		struct tm	tm;
		char	   *q = text;

		gmtime_r(&t, &tm);
		q = put_digits(q, tm.tm_year + 1900, 4);
		*q++ = '-';
		q = put_digits(q, tm.tm_mon + 1, 2);
		*q++ = '-';
		q = put_digits(q, tm.tm_mday, 2);
		*q++ = 'T';
		q = put_digits(q, tm.tm_hour, 2);
		*q++ = ':';
		q = put_digits(q, tm.tm_min, 2);
		*q++ = ':';
		q = put_digits(q, tm.tm_sec, 2);
		*q = '.';
		last = second;
	}
	memcpy(p, text, 20);
	p = put_digits(p + 20, us % 1000000, 6);
	*p++ = 'Z';
	return p;
}

/* ---------- rows ---------- */

/* The text of an INFO or DEBUG row, of kind 0 to 7 */
static char *
put_common(char *p, const Row *row, int kind, const char *path,
		   const char *peer)
{
	uint64_t	num = row->num;
	uint64_t	hash = num;

	if (row->level == DEBUG)
		kind = 8 + kind / 2;
	switch (kind)
	{
		case 0:
			p = put_number(put(p, "user "), num);
			p = put_number(put(p, " logged in from 10."), num % 200);
			p = put_number(put(p, "."), num % 251);
			return put_number(put(p, "."), num % 241);
		case 1:
			p = put_number(put(p, "order "), 100000 + num);
			p = put_number(put(p, " placed, "), 1 + num % 9);
			p = put_decimal(put(p, " items, total "), num % 50000, 2);
			return put(p, " EUR");
		case 2:
			p = put_number(put(p, "job "), num);
			p = put_decimal(put(p, " done in "), row->tenths, 1);
			return put(p, " ms");
		case 3:
			p = put_number(put(p, "cache refreshed: "), num % 5000);
			p = put(put(p, " keys from "), peer);
			p = put_decimal(put(p, " in "), row->tenths, 1);
			return put(p, " ms");
		case 4:
			p = put_hex(put(p, "message "), next_random(&hash));
			p = put_hex(p, next_random(&hash));
			return put(put(p, " delivered to "), peer);
		case 8:
			return put_number(put(p, "cache hit for key user:"), num);
		case 9:
			p = put_number(put(p, "pool: "), num % 51);
			return put(put(put(p, " of 50 connections to "), peer), " in use");
		case 10:
			p = put(put(p, "feature flag new-"), service_names[row->service]);
			p = put(p, num % 2 == 0 ? " is true" : " is false");
			return put_number(put(p, " for user "), num);
		case 11:
			p = put_decimal(put(p, "query took "), row->tenths, 1);
			return put(put_number(put(p, " ms, "), num % 1000), " rows");
		default:
			p = put(put(put(p, "GET "), path), " 200 in ");
			return put(put_decimal(p, row->tenths, 1), " ms");
	}
}

/* The text of the others; e is from 0 to below 1 */
static char *
put_trouble(char *p, const Row *row, double e, const char *path,
			const char *peer)
{
	uint64_t	num = row->num;

	if (row->level == WARN)
	{
		switch ((int) (e * 4))
		{
			case 0:
				p = put(put(put(p, "slow request: "), path), " took ");
				return put(put_number(p, 1000 + row->tenths), " ms");
			case 1:
				p = put_number(put(p, "retry "), 1 + num % 3);
				return put(put(put(p, " of 3 to "), peer), " after timeout");
			case 2:
				return put(put_number(put(p, "queue is "), 70 + num % 30),
						   " % full");
			default:
				return put_number(put(p, "rate limit reached for client "),
								  num);
		}
	}
	if (row->level == FATAL)
	{
		if (e < 0.5)
			return put(put_number(put(p, "out of memory: could not allocate "),
								  4096 * num), " bytes");
		return put(put(put(p, "cannot reach "), peer), ": timeout, giving up");
	}
	switch ((int) (e * 5))
	{
		case 0:
			p = put(put(put(p, "connection to "), peer),
					" failed: timeout after ");
			return put(put_number(p, 1000 * (1 + num % 30)), " ms");
		case 1:
			p = put_number(put(p, "payment "), num);
			return put_number(put(p, " declined: code "), 50 + num % 9);
		case 2:
			p = put(put(p, "unhandled exception in "), path);
			return put_number(put(p, ": null reference at line "), num % 900);
		case 3:
			p = put(put(put(p, "GET "), path), " 500 in ");
			return put(put_decimal(p, row->tenths, 1), " ms");
		default:
			p = put(put(put(p, "deadlock detected on "), peer),
					", transaction ");
			return put(put_number(p, num), " rolled back");
	}
}

static void
make_row(Row *row, uint64_t seed, uint64_t n, int64_t ts)
{
	static double bound[N_SERVICES];
	uint64_t	state = (seed << 40) ^ n;
	double		b,
				c,
				d,
				e,
				f,
				g;
	char	   *end;

	if (bound[N_SERVICES - 1] == 0)
	{
		double		sum = 0;

		for (int i = 0; i < N_SERVICES; i++)
			bound[i] = sum += 1.0 / (i + 1);
		for (int i = 0; i < N_SERVICES; i++)
			bound[i] /= sum;
	}

	b = dice(&state);
	c = dice(&state);
	d = dice(&state);
	e = dice(&state);
	f = dice(&state);
	g = dice(&state);

	row->n = n;
	row->ts = ts;
	row->level = c < 0.68 ? INFO : c < 0.88 ? DEBUG : c < 0.97 ? WARN :
		c < 0.996 ? ERROR : FATAL;
	row->service = 0;
	while (row->service < N_SERVICES - 1 && b >= bound[row->service])
		row->service++;
	row->region = regions[(int) (f * 5)];
	row->num = (uint64_t) (d * 1e6);
	/* most are short, few are long */
	row->tenths = (uint64_t) (-400 * log(1 - dice(&state)));

	end = row->level <= DEBUG ?
		put_common(row->message, row, (int) (e * 8), paths[(int) (d * 10)],
				   peers[(int) (f * 8)]) :
		put_trouble(row->message, row, e, paths[(int) (d * 10)],
					peers[(int) (f * 8)]);
	row->len = (int) (end - row->message);

	/* neighbours in time share a trace */
	row->has_trace = g < 0.7;
	row->has_attrs = g > 0.3 && g < 0.7;
	if (row->has_trace)
	{
		uint64_t	trace = (~seed << 40) ^ (uint64_t) ((n + e * 16) / 6);

		put_hex(put_hex(row->trace, next_random(&trace)), next_random(&trace));
	}
}

/* ---------- messages ---------- */

/* ,"status":200,"duration_ms":12.3,"user_id":5,"region":"eu-west","n":7 */
static char *
put_fields(char *p, const GenSettings *settings, const Row *row)
{
	if (row->has_attrs)
	{
		p = put_number(put(p, ",\"status\":"), statuses[row->level]);
		p = put_decimal(put(p, ",\"duration_ms\":"), row->tenths, 1);
		p = put_number(put(p, ",\"user_id\":"), row->num);
		p = put(put(put(p, ",\"region\":\""), row->region), "\"");
	}
	p = put(put(put(p, ",\""), settings->number_field), "\":");
	p = put_number(p, row->n);
	if (settings->stamp)
		p = put_number(put(p, ",\"produced_at\":"), now_us());
	return put(p, "}");
}

static char *
put_text_fields(char *p, const Row *row, const char *message,
				const char *level)
{
	p = put(put(put(p, "\"level\":\""), level), "\",\"service\":\"");
	p = put(put(p, service_names[row->service]), "\",\"");
	p = put(put(p, message), "\":\"");
	memcpy(p, row->message, row->len);
	p = put(p + row->len, "\"");
	if (row->has_trace)
	{
		p = put(p, ",\"trace_id\":\"");
		memcpy(p, row->trace, 32);
		p = put(p + 32, "\"");
	}
	return p;
}

static char *
put_json(char *p, const GenSettings *settings, const Row *row)
{
	p = put(put_iso(put(p, "{\"timestamp\":\""), row->ts), "\",");
	p = put_text_fields(p, row, "message", level_names[row->level]);
	return put_fields(p, settings, row);
}

/* as Fluent Bit's output "kafka" does with its defaults */
static char *
put_fluentbit(char *p, const GenSettings *settings, const Row *row)
{
	p = put_decimal(put(p, "{\"@timestamp\":"), row->ts, 6);
	p = put(p, ",\"stream\":\"stdout\",");
	p = put_text_fields(p, row, "log", lower_level_names[row->level]);
	return put_fields(p, settings, row);
}

/* as Vector's source "file" and sink "kafka" do */
static char *
put_vector(char *p, const GenSettings *settings, const Row *row)
{
	p = put(p, "{\"file\":\"/var/log/app.log\",\"host\":\"node-");
	p = put(put_number(p, row->num % 9), "\",");
	p = put_text_fields(p, row, "message", lower_level_names[row->level]);
	p = put(p, ",\"source_type\":\"file\",\"timestamp\":\"");
	p = put(put_iso(p, row->ts), "\"");
	return put_fields(p, settings, row);
}

static char *
put_otlp_record(char *p, const GenSettings *settings, const Row *row)
{
	p = put_number(put(p, "{\"timeUnixNano\":\""), row->ts);
	p = put_number(put(p, "000\",\"observedTimeUnixNano\":\""), row->ts);
	p = put(p, "000\",\"severityNumber\":");
	p = put_number(p, severity_numbers[row->level]);
	p = put(put(p, ",\"severityText\":\""), level_names[row->level]);
	p = put(p, "\",\"body\":{\"stringValue\":\"");
	memcpy(p, row->message, row->len);
	p = put(p + row->len, "\"},\"attributes\":[{\"key\":\"");
	p = put(put(p, settings->number_field), "\",\"value\":{\"intValue\":\"");
	p = put(put_number(p, row->n), "\"}}");
	if (settings->stamp)
	{
		p = put(p, ",{\"key\":\"produced_at\",\"value\":{\"intValue\":\"");
		p = put(put_number(p, now_us()), "\"}}");
	}
	if (row->has_attrs)
	{
		p = put(p, ",{\"key\":\"status\",\"value\":{\"intValue\":\"");
		p = put_number(p, statuses[row->level]);
		p = put(p, "\"}},{\"key\":\"duration_ms\",\"value\":{\"doubleValue\":");
		p = put_decimal(p, row->tenths, 1);
		p = put(p, "}},{\"key\":\"user_id\",\"value\":{\"intValue\":\"");
		p = put_number(p, row->num);
		p = put(p, "\"}},{\"key\":\"region\",\"value\":{\"stringValue\":\"");
		p = put(put(p, row->region), "\"}}");
	}
	p = put(p, "],\"traceId\":\"");
	if (row->has_trace)
	{
		uint64_t	span = row->n;

		memcpy(p, row->trace, 32);
		p = put(p + 32, "\",\"spanId\":\"");
		p = put_hex(p, next_random(&span));
	}
	else
		p = put(p, "\",\"spanId\":\"");
	return put(p, "\"}");
}

/* One message as the Collector's exporter writes it: rows by service */
static char *
put_otlp(char *p, const GenSettings *settings, uint64_t first, int rows,
		 const int64_t *ts)
{
	static Row	batch[GEN_MAX_BATCH];
	bool		any = false;

	for (int i = 0; i < rows; i++)
		make_row(&batch[i], settings->seed, first + i, ts[i]);
	p = put(p, "{\"resourceLogs\":[");
	for (int s = 0; s < N_SERVICES; s++)
	{
		bool		open = false;

		for (int i = 0; i < rows; i++)
		{
			if (batch[i].service != s)
				continue;
			if (!open)
			{
				p = put(p, any ? ",{" : "{");
				p = put(p, "\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"");
				p = put(put(p, service_names[s]), "\"}}]},\"scopeLogs\":[{\"scope\":{},\"logRecords\":[");
			}
			else
				*p++ = ',';
			open = any = true;
			p = put_otlp_record(p, settings, &batch[i]);
		}
		if (open)
			p = put(p, "]}]}");
	}
	return put(p, "]}");
}

/*
 * Writes a message with some rows, of these times, to a buffer that has
 * GEN_MAX_ROW bytes for each; returns its length and a service in it.  Only
 * OTLP takes more than one row.
 */
size_t
gen_message(const GenSettings *settings, uint64_t first, int rows,
			const int64_t *ts, char *buf, const char **service)
{
	GenFormat	format = settings->format;
	char	   *p;
	Row			row;

	make_row(&row, settings->seed, first, ts[0]);
	*service = service_names[row.service];
	if (format == GEN_MIXED)
		format = (GenFormat) (first % 4);
	switch (format)
	{
		case GEN_OTLP:
			p = put_otlp(buf, settings, first, rows, ts);
			break;
		case GEN_FLUENTBIT:
			p = put_fluentbit(buf, settings, &row);
			break;
		case GEN_VECTOR:
			p = put_vector(buf, settings, &row);
			break;
		default:
			p = put_json(buf, settings, &row);
			break;
	}
	return p - buf;
}
