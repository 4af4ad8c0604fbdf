/*-------------------------------------------------------------------------
 *
 * fuzz_record.c
 *		Any bytes for the parser of messages.
 *
 * LIBS: postgres
 * LINK: src/recordplain.c src/recordotlp.c src/recordbuf.c
 * LINK: src/recordtime.c src/recordlevel.c src/jsontree.c
 *
 * The first bytes of an input steer:
 *
 *		byte 0			format (low three bits), what the key fills (next three),
 *						whether there is a default service, Kafka's time
 *		byte 1			lengths of key (low three bits) and headers (the rest),
 *						which follow at byte 4
 *		byte 2			which template is changed, 0: none
 *		byte 3			where, in 1/256 of its length, and whether the rest of
 *						the input replaces or is put between
 *
 * The rest is the message, or what is put into a template: without these it
 * would take long until an input is JSON of some format at all.
 *
 * Whatever comes out must be storable: texts valid UTF-8 without NUL, by a
 * check of our own; attrs a JSON object, by PostgreSQL's parser with all
 * escapes; times within bounds; a level one of six.  What is refused has a
 * reason and nothing else.  A second parse gives the same, a JSON text that
 * PostgreSQL's parser refuses is refused, and the source of each record is a
 * message that has this record alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "compat.h"
#include "record.h"

#define STEERING 4
#define MIN_TS (-INT64CONST(315619200000000))	/* 1990 */
#define MAX_TS INT64CONST(3155760000000000) /* 2100 */

static const char *const templates[] = {
	"{\"timestamp\":\"2024-01-02T03:04:05.678+01:00\",\"level\":\"info\",\"service\":{\"name\":\"s\"},\"message\":\"m\\u00e9\\ud83d\\ude00\",\"traceId\":\"t\",\"a\":[1.5e3,{\"b\":null}]}",
	"{\"ts\":1700000000.123,\"severity\":3,\"app\":\"a\",\"log\":{\"level\":\"warn\"},\"trace\":{\"id\":\"x\"},\"date\":1}",
	"[{\"time\":\"1700000000123456789\",\"lvl\":30,\"msg\":\"\"},{\"datetime\":\"20240102T030405Z\",\"body\":[]},1]",
	"{\"resourceLogs\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"s\"}},{\"key\":\"k\",\"value\":{\"intValue\":\"1\"}}]},\"scopeLogs\":[{\"scope\":{\"name\":\"n\",\"version\":\"v\",\"attributes\":[]},\"logRecords\":[{\"timeUnixNano\":\"1700000000123456789\",\"severityNumber\":9,\"severityText\":\"x\",\"body\":{\"kvlistValue\":{\"values\":[{\"key\":\"a\",\"value\":{\"doubleValue\":\"1e5\"}}]}},\"attributes\":[{\"key\":\"b\",\"value\":{\"arrayValue\":{\"values\":[{\"boolValue\":true},{\"bytesValue\":\"AA==\"}]}}}],\"flags\":1,\"traceId\":\"AB\",\"spanId\":\"CD\",\"droppedAttributesCount\":1,\"eventName\":\"e\"}]}]}]}",
	"{\"resource_logs\":[{\"instrumentation_library_logs\":[{\"instrumentation_library\":{},\"log_records\":[{\"observed_time_unix_nano\":1,\"severity_number\":\"SEVERITY_NUMBER_INFO2\",\"body\":{\"array_value\":{\"values\":[{\"int_value\":1}]}},\"trace_id\":\"W47/95gDgQPSabYzgT/GDA==\",\"span_id\":\"7uGbfsPBsXQ=\"}]}]}]}",
	"{\"resourceLogs\":[{\"resource\":{\"attributes\":[]},\"scopeLogs\":[{\"scope\":{\"name\":\"n\"},\"logRecords\":[{\"body\":{\"stringValue\":\"a\"}},{\"timeUnixNano\":\"x\"},1]},2,{\"logRecords\":3},{\"logs\":[{},{}]}]},4,{\"scopeLogs\":{}},{\"scope_logs\":[{\"log_records\":[{}]}]}]}",
	"[{\"resource_logs\":[{\"instrumentationLibraryLogs\":[{\"instrumentationLibrary\":{},\"logRecords\":[{},{}]}]}]},{\"resourceLogs\":5},{\"msg\":\"m\"},[],6]",
	"{\"@timestamp\":1700000000.123456,\"log\":\"x\\r\\n\",\"kubernetes\":{\"labels\":{\"app.kubernetes.io/name\":\"n\",\"k8s-app\":\"\"},\"container_name\":\"c\"},\"container_name\":\"/d\"}",
	"{\"@timestamp\":1700000000.5,\"PRIORITY\":\"3\",\"SYSLOG_IDENTIFIER\":\"i\",\"_SYSTEMD_UNIT\":\"u\",\"MESSAGE\":\"m\"}",
	"{\"appname\":\"a\",\"kubernetes\":{\"pod_labels\":{\"app\":\"\\u0061\"}},\"message\":\"m\",\"severity\":\"notice\",\"source_type\":\"syslog\",\"timestamp\":\"2023-11-14T22:13:19Z\"}",
};

static const char *const key_fields[] = {
	"service", "trace_id", "message", "attrs.k", "attrs.\"\\\n", "attrs.\xff",
	"x", ""
};

extern int	LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/*
 * Stop unless the condition holds.
 */
static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fuzz_record: %s\n", what);
	abort();
}

/*
 * Is this valid UTF-8 without NUL?  Written after RFC 3629's table.
 */
static bool
is_text(const char *data, int len)
{
	const unsigned char *s = (const unsigned char *) data;

	for (int i = 0; i < len;)
	{
		int			more;
		unsigned char low = 0x80;
		unsigned char high = 0xBF;

		if (s[i] == 0 || (s[i] >= 0x80 && s[i] < 0xC2) || s[i] > 0xF4)
			return false;
		more = s[i] < 0x80 ? 0 : s[i] < 0xE0 ? 1 : s[i] < 0xF0 ? 2 : 3;
		if (s[i] == 0xE0)
			low = 0xA0;
		else if (s[i] == 0xED)
			high = 0x9F;
		else if (s[i] == 0xF0)
			low = 0x90;
		else if (s[i] == 0xF4)
			high = 0x8F;
		for (int m = 1; m <= more; m++)
		{
			if (i + m >= len || s[i + m] < low || s[i + m] > high)
				return false;
			low = 0x80;
			high = 0xBF;
		}
		i += more + 1;
	}
	return true;
}

/*
 * Check a column.
 */
static void
check_text(const LogqText *text)
{
	if (text->data == NULL)
		must(text->len == 0, "a length without text");
	else
	{
		must(text->len >= 0, "a negative length");
		must(is_text(text->data, text->len), "text that cannot be stored");
	}
}

/*
 * Check a record.
 */
static void
check_record(const LogqRecord *record)
{
	static const char *const levels[] = {
		"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"
	};
	bool		known = record->level.data == NULL;

	if (record->error != NULL)
	{
		must(*record->error != '\0', "an empty reason");
		must(is_text(record->error, strlen(record->error)),
			 "a reason that cannot be stored");
		must(record->message.data == NULL && record->attrs.data == NULL &&
			 record->service.data == NULL && record->level.data == NULL &&
			 record->trace_id.data == NULL, "a refused record with columns");
		return;
	}
	must(record->ts >= MIN_TS && record->ts <= MAX_TS, "a time out of bounds");
	check_text(&record->level);
	check_text(&record->service);
	check_text(&record->message);
	check_text(&record->trace_id);
	check_text(&record->attrs);
	must(record->service.data == NULL || record->service.len > 0,
		 "an empty service");
	must(record->trace_id.data == NULL || record->trace_id.len > 0,
		 "an empty trace id");
	for (int i = 0; i < lengthof(levels); i++)
	{
		if (record->level.len == strlen(levels[i]) &&
			memcmp(record->level.data, levels[i], record->level.len) == 0)
			known = true;
	}
	must(known, "a level of its own");
	if (record->attrs.data != NULL)
	{
		const char *attrs = record->attrs.data;

		must(record->attrs.len > 2 && attrs[0] == '{' &&
			 attrs[record->attrs.len - 1] == '}', "attrs that are no object");
		must(logq_json_accepts(attrs, record->attrs.len),
			 "attrs that PostgreSQL refuses");
	}
}

/*
 * Add bytes to a hash (FNV-1a).
 */
static void
add_bytes(uint64_t *hash, const void *data, size_t len)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < len; i++)
		*hash = (*hash ^ bytes[i]) * UINT64CONST(0x100000001b3);
}

/*
 * Add a column to a hash.
 */
static void
add_text(uint64_t *hash, const LogqText *text)
{
	add_bytes(hash, &text->len, sizeof(text->len));
	if (text->len > 0)
		add_bytes(hash, text->data, text->len);
}

/*
 * Add a record to a hash.
 */
static void
add_record(uint64_t *hash, const LogqRecord *r)
{
	add_bytes(hash, &r->ts, r->error != NULL ? 0 : sizeof(r->ts));
	add_text(hash, &r->level);
	add_text(hash, &r->service);
	add_text(hash, &r->message);
	add_text(hash, &r->trace_id);
	add_text(hash, &r->attrs);
	if (r->error != NULL)
		add_bytes(hash, r->error, strlen(r->error));
}

/*
 * Check the sources of the first records of a message.
 */
static void
check_sources(LogqParser *parser, LogqParser *another,
			  const LogqMessage *message, const LogqRecord *records, int n)
{
	for (int i = 0; i < Min(n, 20); i++)
	{
		LogqMessage alone = *message;
		LogqRecord *again;
		LogqText	source = logq_record_source(parser, &records[i]);
		char	   *copy = malloc(Max(source.len, 1));
		uint64_t	wanted = 0;
		uint64_t	hash = 0;

		must(source.len <= message->value.len, "a source longer than all");
		memcpy(copy, source.data, source.len);
		alone.value.data = copy;
		alone.value.len = source.len;
		must(logq_parse(another, &alone, &again) == 1,
			 "a source of more or less than one record");
		must(again->index == Min(records[i].index, 0),
			 "another index in the source");
		add_record(&wanted, &records[i]);
		add_record(&hash, again);
		must(hash == wanted, "a source that makes another record");
		free(copy);
	}
}

/*
 * Parse and check; returns a hash of all records.
 */
static uint64_t
parse(LogqParser *parser, LogqParser *another, const LogqMessage *message,
	  int *nrecords)
{
	uint64_t	hash = 0;
	LogqRecord *records;
	int			n = logq_parse(parser, message, &records);

	must(n >= 0, "a negative number of records");
	for (int i = 0; i < n; i++)
	{
		const LogqRecord *r = &records[i];

		must(r->index == i || (r->index == -1 && n == 1 && r->error != NULL),
			 "an index out of order");
		check_record(r);
		add_record(&hash, r);
	}
	check_sources(parser, another, message, records, n);
	*nrecords = n;
	if (n > 0 && records[0].index == -1)
		*nrecords = -1;
	return hash;
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	static LogqParser *parser = NULL;
	static LogqParser *another;
	LogqParserSettings settings;
	LogqMessage message;
	const char *base = "";
	size_t		key_len;
	size_t		headers_len;
	size_t		base_len;
	size_t		at;
	size_t		skipped;
	size_t		len;
	char	   *key;
	char	   *headers;
	char	   *value;
	uint64_t	hash;
	int			n;
	int			again;

	if (size < STEERING)
		return 0;
	memset(&settings, 0, sizeof(settings));
	settings.format = (LogqFormat) ((input[0] & 7) % (LOGQ_FORMAT_RAW + 1));
	settings.key_field.data = key_fields[input[0] >> 3 & 7];
	settings.key_field.len = strlen(settings.key_field.data);
	if (input[0] & 0x40)
	{
		settings.service.data = "default";
		settings.service.len = 7;
	}
	settings.min_ts = MIN_TS;
	settings.max_ts = MAX_TS;
	settings.max_bytes = 1 << 20;
	if (parser == NULL)
	{
		parser = logq_parser_create(&settings);
		another = logq_parser_create(&settings);
	}
	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);

	key_len = input[1] & 7;
	headers_len = input[1] >> 3;
	if (input[2] % (lengthof(templates) + 1) > 0)
		base = templates[input[2] % (lengthof(templates) + 1) - 1];
	base_len = strlen(base);
	at = base_len * (input[3] & 0xFE) / 256;
	skipped = input[3] & 1;
	input += STEERING;
	size -= STEERING;
	if (key_len + headers_len > size)
		return 0;

	/* each of just its size: a read past the end is seen */
	key = malloc(key_len + 1);
	memcpy(key, input, key_len);
	key = realloc(key, Max(key_len, 1));
	headers = malloc(Max(headers_len, 1));
	memcpy(headers, input + key_len, headers_len);
	input += key_len + headers_len;
	size -= key_len + headers_len;
	skipped = skipped ? Min(size, base_len - at) : 0;
	len = base_len + size - skipped;
	value = malloc(Max(len, 1));
	memcpy(value, base, at);
	memcpy(value + at, input, size);
	memcpy(value + at + size, base + at + skipped, base_len - at - skipped);

	memset(&message, 0, sizeof(message));
	message.value.data = value;
	message.value.len = len;
	message.key.data = key_len > 0 ? key : NULL;
	message.key.len = key_len;
	message.headers.data = headers_len > 0 ? headers : NULL;
	message.headers.len = headers_len;
	message.timestamp = settings.service.len > 0 ? INT64CONST(1700000000500) : -1;

	hash = parse(parser, another, &message, &n);
	must(parse(parser, another, &message, &again) == hash && again == n,
		 "another result the second time");
	if (settings.format != LOGQ_FORMAT_RAW && n >= 0)
	{
		must(is_text(value, len), "a message that is not text");
		must(logq_json_accepts(value, len), "JSON that PostgreSQL refuses");
	}
	else if (settings.format == LOGQ_FORMAT_RAW && n < 0 && is_text(value, len))
	{
		for (size_t i = 0; i < len; i++)
			must(memchr(" \t\r\n", value[i], 4) != NULL, "raw text refused");
	}

	/* the parts are functions of their own */
	if (size > 0)
	{
		int64_t		ts;
		const char *level = logq_normal_level(value, len);

		if (logq_parse_time(value, len, &ts))
			must(ts > -INT64CONST(1300000000000000000) &&
				 ts < INT64CONST(9000000000000000000), "a time that cannot be");
		must(level == NULL || *level != '\0', "an empty level");
	}
	free(key);
	free(headers);
	free(value);
	return 0;
}
