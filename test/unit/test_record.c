/*-------------------------------------------------------------------------
 *
 * test_record.c
 *		The parser of messages: every rule, and every refusal.
 *
 * LIBS: postgres
 * LINK: src/recordplain.c src/recordotlp.c src/recordbuf.c
 * LINK: src/recordtime.c src/recordlevel.c src/jsontree.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <malloc.h>

#include "compat.h"
#include "recorddump.h"
#include "recordint.h"

#define KAFKA_TS "ts: 2023-11-14 22:13:20.500000\n"

/* what a message makes, with Kafka's time unless it says another */
typedef struct Case
{
	const char *message;
	const char *records;		/* as text_records() writes them, without the
								 * first "record 0" and Kafka's time */
} Case;

static LogqParser *parser;
/* to parse again what is left of a message */
static LogqParser *another;

/*
 * Parse bytes, copied to memory of just their size.
 */
static Text
parse_bytes(const char *data, int len)
{
	LogqMessage message;
	LogqRecord *records;
	Text		out = {0};
	char	   *copy = tap_alloc(len);
	int			n;

	memcpy(copy, data, len);
	memset(&message, 0, sizeof(message));
	message.value.data = copy;
	message.value.len = len;
	message.timestamp = KAFKA_MS;
	n = logq_parse(parser, &message, &records);
	text_records(&out, records, n);
	if (n < 100 && !sources_are_good(parser, &message, records, n, another))
		ok(false, "sources of %.*s", len, data);
	free(copy);
	return out;
}

/*
 * Compare records with what is expected.
 */
static void
compare(Text *out, const char *expected, const char *what)
{
	static const char first[] = "record 0\n";
	static const char ts[] = KAFKA_TS;
	const char *got = out->data;
	char		name[100];

	snprintf(name, sizeof(name), "%s", what);
	for (char *c = name; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ' || (unsigned char) *c > '~' || *c == '#')
			*c = '?';
	}
	if (strncmp(got, first, strlen(first)) == 0)
		got += strlen(first);
	if (strncmp(got, ts, strlen(ts)) == 0)
		got += strlen(ts);
	if (!ok(strcmp(got, expected) == 0, "%s", name))
	{
		diagnose("got", got);
		diagnose("expected", expected);
	}
	free(out->data);
}

/*
 * Check a list of cases.
 */
static void
check_cases(LogqFormat format, const Case *cases, int n)
{
	LogqParserSettings settings = usual_settings(format);

	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);
	for (int i = 0; i < n; i++)
	{
		Text		out = parse_bytes(cases[i].message,
									  strlen(cases[i].message));

		compare(&out, cases[i].records, cases[i].message);
	}
}

/* ---------- plain objects ---------- */

static const Case plain_cases[] = {
	/* all candidates by themselves */
	{"{\"timestamp\":\"2024-01-02T03:04:05Z\"}", "ts: 2024-01-02 03:04:05.000000\n"},
	{"{\"ts\":1704164645}", "ts: 2024-01-02 03:04:05.000000\n"},
	{"{\"time\":\"1704164645123\"}", "ts: 2024-01-02 03:04:05.123000\n"},
	{"{\"@timestamp\":1704164645.25}", "ts: 2024-01-02 03:04:05.250000\n"},
	{"{\"datetime\":\"2024-01-02 03:04:05\"}", "ts: 2024-01-02 03:04:05.000000\n"},
	{"{\"date\":\"2024-01-02\"}", "ts: 2024-01-02 00:00:00.000000\n"},
	{"{\"level\":\"info\"}", "level: INFO\n"},
	{"{\"severity\":\"Warning\"}", "level: WARN\n"},
	{"{\"lvl\":\"E\"}", "level: ERROR\n"},
	{"{\"severity_text\":\"DEBUG\"}", "level: DEBUG\n"},
	{"{\"log.level\":\"fatal\"}", "level: FATAL\n"},
	{"{\"loglevel\":\"trace\"}", "level: TRACE\n"},
	{"{\"levelname\":\"INFO\"}", "level: INFO\n"},
	{"{\"service\":\"a\"}", "service: a\n"},
	{"{\"serviceName\":\"a\"}", "service: a\n"},
	{"{\"service.name\":\"a\"}", "service: a\n"},
	{"{\"service_name\":\"a\"}", "service: a\n"},
	{"{\"app\":\"a\"}", "service: a\n"},
	{"{\"message\":\"a\"}", "message: a\n"},
	{"{\"msg\":\"a\"}", "message: a\n"},
	{"{\"body\":\"a\"}", "message: a\n"},
	{"{\"log\":\"a\"}", "message: a\n"},
	{"{\"traceId\":\"a\"}", "trace_id: a\n"},
	{"{\"trace_id\":\"a\"}", "trace_id: a\n"},
	{"{\"trace.id\":\"a\"}", "trace_id: a\n"},
	/* names are not guessed at */
	{"{\"Message\":\"a\",\"TS\":\"b\",\"mess\":1,\"messages\":2,\"\":3}",
	"attrs: {\"Message\":\"a\",\"TS\":\"b\",\"mess\":1,\"messages\":2,\"\":3}\n"},
	/* the first in the order, whatever order they are in */
	{"{\"ts\":1,\"time\":\"x\",\"timestamp\":\"2024-01-02T03:04:05Z\"}",
	"ts: 2024-01-02 03:04:05.000000\nattrs: {\"ts\":1,\"time\":\"x\"}\n"},
	{"{\"log\":\"l\",\"body\":\"b\",\"msg\":\"m\",\"message\":\"M\"}",
	"message: M\nattrs: {\"log\":\"l\",\"body\":\"b\",\"msg\":\"m\"}\n"},
	{"{\"app\":\"a\",\"x\":1,\"service\":\"s\"}",
	"service: s\nattrs: {\"app\":\"a\",\"x\":1}\n"},
	/* null is missing */
	{"{\"message\":null,\"msg\":\"m\",\"ts\":null,\"level\":null,\"x\":null}",
	"message: m\nattrs: {\"x\":null}\n"},
	/* and so is empty, where it says nothing */
	{"{\"service\":\"\",\"app\":\"a\",\"traceId\":\"\",\"message\":\"\"}",
	"service: a\nmessage: \n"},
	/* the last of the same name */
	{"{\"message\":\"a\",\"x\":1,\"message\":\"b\",\"x\":2}",
	"message: b\nattrs: {\"x\":1,\"x\":2}\n"},
	{"{\"message\":\"a\",\"message\":null}", ""},
	{"{\"message\":null,\"message\":\"a\"}", "message: a\n"},
	/* no string */
	{"{\"message\":{\"a\": [1, 2]},\"service\":42,\"traceId\":[ 1 ]}",
	"service: 42\nmessage: {\"a\": [1, 2]}\ntrace_id: [ 1 ]\n"},
	{"{\"msg\":false,\"app\":true}", "service: true\nmessage: false\n"},
	/* objects of the Elastic Common Schema */
	{"{\"service\":{\"name\":\"s\"}}", "service: s\n"},
	{"{\"service\":{\"name\":\"s\",\"id\":1}}",
	"service: s\nattrs: {\"service\":{\"name\":\"s\",\"id\":1}}\n"},
	{"{\"service\":{\"id\":1},\"app\":\"a\"}",
	"service: a\nattrs: {\"service\":{\"id\":1}}\n"},
	{"{\"service\":{\"name\":null},\"app\":\"a\"}",
	"service: a\nattrs: {\"service\":{\"name\":null}}\n"},
	{"{\"log\":{\"level\":\"warn\"},\"message\":\"m\",\"trace\":{\"id\":\"t\"}}",
		"level: WARN\nmessage: m\ntrace_id: t\n"
	"attrs: {\"log\":{\"level\":\"warn\"},\"trace\":{\"id\":\"t\"}}\n"},
	/* the end of a line, once */
	{"{\"log\":\"a\\n\"}", "message: a\n"},
	{"{\"log\":\"a\\r\\n\"}", "message: a\n"},
	{"{\"log\":\"a\\n\\n\"}", "message: a\\n\n"},
	{"{\"log\":\"\\n\"}", "message: \n"},
	{"{\"message\":\"a\\n\"}", "message: a\\n\n"},
	/* levels */
	{"{\"level\":30}", "level: INFO\n"},
	{"{\"level\":35}", "level: INFO\n"},
	{"{\"level\":\"50\"}", "level: ERROR\n"},
	{"{\"level\":3}", "attrs: {\"level\":3}\n"},
	{"{\"level\":70}", "attrs: {\"level\":70}\n"},
	{"{\"level\":-10}", "attrs: {\"level\":-10}\n"},
	{"{\"severity\":3}", "level: ERROR\n"},
	{"{\"severity\":\"4\"}", "level: WARN\n"},
	{"{\"severity\":8}", "attrs: {\"severity\":8}\n"},
	{"{\"severity\":20}", "level: DEBUG\n"},
	{"{\"level\":\"loud\",\"severity\":\"INFO\"}",
	"level: INFO\nattrs: {\"level\":\"loud\"}\n"},
	{"{\"level\":true}", "attrs: {\"level\":true}\n"},
	{"{\"level\":\"\"}", "attrs: {\"level\":\"\"}\n"},
	/* these two may be something else */
	{"{\"date\":\"today\",\"datetime\":{}}",
	"attrs: {\"date\":\"today\",\"datetime\":{}}\n"},
	/* escapes */
	{"{\"m\\u0073g\":\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00z\"}",
	"message: a\"\\/\b\f\\n\r\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\n"},
	{"{\"\\u006cevel\":\"\\u0069nfo\",\"\\u0078\":\"\\u0079\"}",
	"level: INFO\nattrs: {\"\\u0078\":\"\\u0079\"}\n"},
	{"{\"time\":\"2024\\u002d01-02T03:04:05\\u005a\"}",
	"ts: 2024-01-02 03:04:05.000000\n"},
	/* attributes as they were written */
	{" { \"a\" : 1.50e+1 ,\n\"msg\" : \"m\" , \"b\" : [ ] } ",
	"message: m\nattrs: {\"a\" : 1.50e+1,\"b\" : [ ]}\n"},
	{"{\"a\" : {\"b\":[1,{\"c\":null}]}}", "attrs: {\"a\" : {\"b\":[1,{\"c\":null}]}}\n"},
	{"{}", ""},
	{"[]", ""},
	{"[{\"msg\":\"a\"}]", "message: a\n"},
	/* refused */
	{"{\"timestamp\":\"soon\"}", "error: timestamp \"soon\" is not understood\n"},
	{"{\"timestamp\":\"\"}", "error: timestamp \"\" is not understood\n"},
	{"{\"ts\":true}", "error: timestamp \"true\" is not understood\n"},
	{"{\"ts\":[1]}", "error: timestamp \"[1]\" is not understood\n"},
	{"{\"time\":\"a\\u0007\\nb\"}", "error: timestamp \"a??b\" is not understood\n"},
	{"{\"ts\":12}", "error: timestamp is too far in the past: 1970-01-01 00:00:12 UTC\n"},
	{"{\"ts\":\"2100-01-01T00:00:00.000001Z\"}",
	"error: timestamp is too far in the future: 2100-01-01 00:00:00 UTC\n"},
	{"{\"ts\":\"2100-01-01T00:00:00Z\"}", "ts: 2100-01-01 00:00:00.000000\n"},
	{"{\"ts\":\"1990-01-01T00:00:00Z\"}", "ts: 1990-01-01 00:00:00.000000\n"},
	{"{\"ts\":\"1989-12-31T23:59:59.999999Z\"}",
	"error: timestamp is too far in the past: 1989-12-31 23:59:59 UTC\n"},
	/* cut between characters */
	{"{\"ts\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa9\xc3\xa9\"}",
	"error: timestamp \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...\" is not understood\n"},
};

/* ---------- what is refused as a whole; records begins with its index ----- */

#define WHOLE "record -1\nerror: message is not valid JSON at byte "

static const Case refused_cases[] = {
	{"\"text\"", "record -1\nerror: message is not a JSON object\n"},
	{"42", "record -1\nerror: message is not a JSON object\n"},
	{"null", "record -1\nerror: message is not a JSON object\n"},
	{"", "record -1\nerror: message is empty\n"},
	{" \t\r\n", "record -1\nerror: message is empty\n"},
	{"hello", WHOLE "1: invalid token\n"},
	{"{", WHOLE "2: it ends too early\n"},
	{"{\"a\"", WHOLE "5: it ends too early\n"},
	{"{\"a\":", WHOLE "6: it ends too early\n"},
	{"{\"a\":1", WHOLE "7: it ends too early\n"},
	{"{\"a\":1,", WHOLE "8: it ends too early\n"},
	{"[", WHOLE "2: it ends too early\n"},
	{"[1,", WHOLE "4: it ends too early\n"},
	{"{\"a\":\"b", WHOLE "6: invalid token\n"},
	{"{\"a\":\"b\\", WHOLE "6: invalid token\n"},
	{"{\"a\":\"\\u00", WHOLE "6: invalid token\n"},
	{"{\"a\" 1}", WHOLE "6: expected \":\"\n"},
	{"{\"a\":}", WHOLE "6: expected a value\n"},
	{"{1:2}", WHOLE "2: expected a key\n"},
	{"{\"a\":1,}", WHOLE "8: expected a key\n"},
	{"{,}", WHOLE "2: expected a key\n"},
	{"{\"a\":1 \"b\":2}", WHOLE "8: expected \",\" or \"}\"\n"},
	{"{\"a\":1]", WHOLE "7: expected \",\" or \"}\"\n"},
	{"[1 2]", WHOLE "4: expected \",\" or \"]\"\n"},
	{"[1}", WHOLE "3: expected \",\" or \"]\"\n"},
	{"[1,]", WHOLE "4: expected a value\n"},
	{"[,1]", WHOLE "2: expected a value\n"},
	{"{} {}", WHOLE "4: expected the end\n"},
	{"{}x", WHOLE "3: invalid token\n"},
	{"{\"a\":01}", WHOLE "6: invalid token\n"},
	{"{\"a\":1.}", WHOLE "6: invalid token\n"},
	{"{\"a\":-}", WHOLE "6: invalid token\n"},
	{"{\"a\":+1}", WHOLE "6: invalid token\n"},
	{"{\"a\":NaN}", WHOLE "6: invalid token\n"},
	{"{\"a\":nul}", WHOLE "6: invalid token\n"},
	{"{'a':1}", WHOLE "2: invalid token\n"},
	{"{\"a\":\"x\ny\"}", WHOLE "6: control character in a string\n"},
	{"{\"a\":\"\\x\"}", WHOLE "6: invalid escape sequence\n"},
	{"{\"a\":\"\\u12g4\"}",
	WHOLE "6: \"\\u\" is not followed by four hexadecimal digits\n"},
	{"{\"a\":\"\\u0000\"}", WHOLE "7: \"\\u0000\" cannot be stored\n"},
	{"{\"x\\u0000\":1}", WHOLE "3: \"\\u0000\" cannot be stored\n"},
	{"{\"a\":[{\"b\":\"\\ud800\"}]}",
	WHOLE "13: first half of a surrogate pair without its second\n"},
	{"{\"a\":\"\\ud800x\"}",
	WHOLE "7: first half of a surrogate pair without its second\n"},
	{"{\"a\":\"\\ud800\\n\"}",
	WHOLE "7: first half of a surrogate pair without its second\n"},
	{"{\"a\":\"\\ud800\\u0041\"}",
	WHOLE "7: first half of a surrogate pair without its second\n"},
	{"{\"a\":\"\\ud800\\ud800\\udc00\"}",
	WHOLE "7: first half of a surrogate pair without its second\n"},
	{"{\"a\":\"\\udc00\"}",
	WHOLE "7: second half of a surrogate pair without its first\n"},
	{"{\"a\":1e1001}", WHOLE "6: number is too large or too long\n"},
	{"{\"a\":1E-1001}", WHOLE "6: number is too large or too long\n"},
	{"{\"a\":1e99999999999999999999}", WHOLE "6: number is too large or too long\n"},
	{"{\"msg\":\"\xff\"}", "record -1\nerror: message is not valid UTF-8 at byte 9\n"},
	{"{\"msg\":\"\xc3\"}", "record -1\nerror: message is not valid UTF-8 at byte 9\n"},
	{"\xef\xbb\xbf{}", WHOLE "1: invalid token\n"},
	/* overlong, a surrogate, beyond the last character */
	{"{\"msg\":\"\xc0\x80\"}", "record -1\nerror: message is not valid UTF-8 at byte 9\n"},
	{"{\"msg\":\"\xed\xa0\x80\"}", "record -1\nerror: message is not valid UTF-8 at byte 9\n"},
	{"{\"msg\":\"\xf4\x90\x80\x80\"}", "record -1\nerror: message is not valid UTF-8 at byte 9\n"},
};

/* ---------- OTLP ---------- */

#define RECORD(members) "{\"resourceLogs\":[{\"resource\":{\"attributes\":" \
	"[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"s\"}}]},\"scopeLogs\":" \
	"[{\"logRecords\":[{" members "}]}]}]}"

static const Case otlp_cases[] = {
	{"{\"resourceLogs\":[]}", ""},
	{"{\"resourceLogs\":null}", "error: JSON object has no \"resourceLogs\"\n"},
	{"{}", "error: JSON object has no \"resourceLogs\"\n"},
	{"{\"resourceLogs\":{}}", "error: \"resourceLogs\" is not an array of objects\n"},
	{"{\"resourceLogs\":[1]}", "error: \"resourceLogs\" is not an array of objects\n"},
	{"{\"resourceLogs\":[{}]}", ""},
	{"{\"resourceLogs\":[{\"scopeLogs\":{}}]}", "error: \"scopeLogs\" is not an array of objects\n"},
	{"{\"resourceLogs\":[{\"scopeLogs\":[[]]}]}", "error: \"scopeLogs\" is not an array of objects\n"},
	{"{\"resourceLogs\":[{\"scopeLogs\":[{}]}]}", ""},
	{"{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":1}]}]}",
	"error: \"logRecords\" is not an array of objects\n"},
	{"{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[1]}]}]}",
	"error: log record is not an object\n"},
	{RECORD(""), "service: s\n"},
	/* times */
	{RECORD("\"timeUnixNano\":\"1704164645123456789\""),
	"ts: 2024-01-02 03:04:05.123456\nservice: s\n"},
	{RECORD("\"timeUnixNano\":1704164645123456789,\"observedTimeUnixNano\":\"1\""),
	"ts: 2024-01-02 03:04:05.123456\nservice: s\n"},
	{RECORD("\"timeUnixNano\":\"0\",\"observedTimeUnixNano\":\"1704164645000000000\""),
	"ts: 2024-01-02 03:04:05.000000\nservice: s\n"},
	{RECORD("\"timeUnixNano\":0,\"observedTimeUnixNano\":\"\""), "service: s\n"},
	{RECORD("\"timeUnixNano\":\"2024-01-02\""),
	"error: timestamp \"2024-01-02\" is not understood\n"},
	{RECORD("\"timeUnixNano\":{}"), "error: timestamp \"{}\" is not understood\n"},
	/* nanoseconds, however few */
	{RECORD("\"timeUnixNano\":\"1704164645\""),
	"error: timestamp is too far in the past: 1970-01-01 00:00:01 UTC\n"},
	{RECORD("\"timeUnixNano\":\"18446744073709551615\""),
	"error: timestamp is too far in the future: 2554-07-21 23:34:33 UTC\n"},
	/* levels */
	{RECORD("\"severityNumber\":1"), "level: TRACE\nservice: s\n"},
	{RECORD("\"severityNumber\":\"24\",\"severityText\":\"FATAL\""),
	"level: FATAL\nservice: s\n"},
	{RECORD("\"severityNumber\":\"SEVERITY_NUMBER_WARN4\""), "level: WARN\nservice: s\n"},
	{RECORD("\"severityNumber\":0,\"severityText\":\"notice\""), "level: INFO\nservice: s\n"},
	{RECORD("\"severityNumber\":25,\"severityText\":\"loud\""),
	"service: s\nattrs: {\"severity_text\":\"loud\"}\n"},
	{RECORD("\"severityNumber\":9,\"severityText\":\"error\""),
	"level: INFO\nservice: s\nattrs: {\"severity_text\":\"error\"}\n"},
	/* bodies */
	{RECORD("\"body\":{\"stringValue\":\"a\\nb\"}"), "service: s\nmessage: a\\nb\n"},
	{RECORD("\"body\":{\"intValue\":\"17\"}"), "service: s\nmessage: 17\n"},
	{RECORD("\"body\":{\"doubleValue\":\"1e400\"}"), "service: s\nmessage: 1e400\n"},
	{RECORD("\"body\":{\"boolValue\":false}"), "service: s\nmessage: false\n"},
	{RECORD("\"body\":{\"arrayValue\":{}}"), "service: s\nmessage: []\n"},
	{RECORD("\"body\":{\"kvlistValue\":{\"values\":[{\"key\":\"a\"},{\"value\":{}},1,{\"key\":\"b\",\"value\":{\"arrayValue\":{\"values\":[{\"kvlistValue\":{}}]}}}]}}"),
	"service: s\nmessage: {\"a\":null,\"b\":[{}]}\n"},
	{RECORD("\"body\":{}"), "service: s\n"},
	{RECORD("\"body\":null"), "service: s\n"},
	{RECORD("\"body\":\"plain\""), "service: s\nmessage: plain\n"},
	{RECORD("\"body\":{\"unknown\":[1]}"), "service: s\nmessage: {\"unknown\":[1]}\n"},
	{RECORD("\"body\":{\"stringValue\":null,\"intValue\":1}"), "service: s\nmessage: 1\n"},
	/* numbers in strings only if they are some */
	{RECORD("\"attributes\":[{\"key\":\"a\",\"value\":{\"intValue\":\"-5\"}},{\"key\":\"b\",\"value\":{\"doubleValue\":\"Infinity\"}},{\"key\":\"c\",\"value\":{\"intValue\":\"\"}},{\"key\":\"d\",\"value\":{\"doubleValue\":\"1e2000\"}}]"),
	"service: s\nattrs: {\"a\":-5,\"b\":\"Infinity\",\"c\":\"\",\"d\":\"1e2000\"}\n"},
	/* what attributes are made of */
	{RECORD("\"attributes\":[{\"key\":\"\\u0061\",\"value\":{\"stringValue\":\"\\u0062\"}},{\"key\":1},{}]"),
	"service: s\nattrs: {\"\\u0061\":\"\\u0062\"}\n"},
	{RECORD("\"attributes\":{\"a\":1}"), "service: s\n"},
	{RECORD("\"traceId\":\"ABCDEF0123456789abcdef0123456789\",\"spanId\":\"00F0\""),
	"service: s\ntrace_id: abcdef0123456789abcdef0123456789\nattrs: {\"span_id\":\"00f0\"}\n"},
	{RECORD("\"traceId\":\"q83vASNFZ4mrze8BI0VniQ==\",\"spanId\":\"7uGbfsPBsXQ=\""),
	"service: s\ntrace_id: abcdef0123456789abcdef0123456789\nattrs: {\"span_id\":\"eee19b7ec3c1b174\"}\n"},
	{RECORD("\"traceId\":\"AAAAAAAAAAAAAAAAAAAAAA==\",\"spanId\":\"AAAAAAAAAAA=\""), "service: s\n"},
	{RECORD("\"traceId\":\"q83vASNFZ4mrze8BI0Vn.Q==\",\"spanId\":\"\\\"\""),
	"service: s\ntrace_id: q83vASNFZ4mrze8BI0Vn.Q==\nattrs: {\"span_id\":\"\\\"\"}\n"},
	{RECORD("\"traceId\":17,\"flags\":0,\"droppedAttributesCount\":0,\"eventName\":\"\""),
	"service: s\n"},
	{RECORD("\"flags\":\"257\",\"droppedAttributesCount\":\"2\",\"eventName\":\"e\""),
	"service: s\nattrs: {\"trace_flags\":257,\"event_name\":\"e\",\"dropped_attributes_count\":2}\n"},
	/* each record by itself */
	{RECORD("\"timeUnixNano\":\"x\"},{\"body\":{\"stringValue\":\"b\"}"),
		"error: timestamp \"x\" is not understood\nrecord 1\n"
	KAFKA_TS "service: s\nmessage: b\n"},
};

/* ---------- Fluent Bit and Vector, beyond test/data ---------- */

static const Case fluentbit_cases[] = {
	{"{\"@timestamp\":1704164645.0,\"timestamp\":\"x\"}",
	"ts: 2024-01-02 03:04:05.000000\nattrs: {\"timestamp\":\"x\"}\n"},
	{"{\"kubernetes\":{\"labels\":{\"app\":\"a\",\"k8s-app\":\"k\"}}}",
	"service: a\nattrs: {\"kubernetes\":{\"labels\":{\"app\":\"a\",\"k8s-app\":\"k\"}}}\n"},
	{"{\"kubernetes\":{\"labels\":{\"app\":\"\"},\"container_name\":\"c\"},\"app\":\"own\"}",
	"service: own\nattrs: {\"kubernetes\":{\"labels\":{\"app\":\"\"},\"container_name\":\"c\"}}\n"},
	{"{\"kubernetes\":\"no\",\"container_name\":\"/\"}",
	"service: /\nattrs: {\"kubernetes\":\"no\",\"container_name\":\"/\"}\n"},
	{"{\"appname\":\"a\"}", "attrs: {\"appname\":\"a\"}\n"},
	/* the journal */
	{"{\"PRIORITY\":\"4\",\"MESSAGE\":\"m\",\"_SYSTEMD_UNIT\":\"u\",\"SYSLOG_IDENTIFIER\":\"i\"}",
	"level: WARN\nservice: i\nmessage: m\nattrs: {\"_SYSTEMD_UNIT\":\"u\",\"SYSLOG_IDENTIFIER\":\"i\"}\n"},
	{"{\"PRIORITY\":\"x\",\"level\":\"INFO\",\"MESSAGE\":\"m\",\"msg\":\"own\",\"_SYSTEMD_UNIT\":\"u\"}",
	"level: INFO\nservice: u\nmessage: own\nattrs: {\"PRIORITY\":\"x\",\"MESSAGE\":\"m\",\"_SYSTEMD_UNIT\":\"u\"}\n"},
};

static const Case vector_cases[] = {
	{"{\"source_type\":\"syslog\",\"appname\":\"a\"}",
	"service: a\nattrs: {\"source_type\":\"syslog\"}\n"},
	{"{\"appname\":\"a\",\"service\":\"s\"}", "service: s\nattrs: {\"appname\":\"a\"}\n"},
	{"{\"appname\":null,\"container_name\":\"c\"}",
	"service: c\nattrs: {\"appname\":null,\"container_name\":\"c\"}\n"},
};

/* in json, nothing is made of containers */
static const Case json_cases[] = {
	{"{\"kubernetes\":{\"container_name\":\"c\"},\"appname\":\"a\",\"source_type\":\"t\"}",
	"attrs: {\"kubernetes\":{\"container_name\":\"c\"},\"appname\":\"a\",\"source_type\":\"t\"}\n"},
	{"{\"MESSAGE\":\"m\",\"PRIORITY\":\"3\",\"SYSLOG_IDENTIFIER\":\"i\",\"_SYSTEMD_UNIT\":\"u\"}",
	"attrs: {\"MESSAGE\":\"m\",\"PRIORITY\":\"3\",\"SYSLOG_IDENTIFIER\":\"i\",\"_SYSTEMD_UNIT\":\"u\"}\n"},
	{"{\"resourceLogs\":[]}", "attrs: {\"resourceLogs\":[]}\n"},
};

static const Case raw_cases[] = {
	{"plain text {", "message: plain text {\n"},
	{"{\"msg\":1}", "message: {\"msg\":1}\n"},
	{" a ", "message:  a \n"},
	{"  ", "record -1\nerror: message is empty\n"},
	{"\xff", "record -1\nerror: message is not valid UTF-8 at byte 1\n"},
};

/* ---------- headers and key ---------- */

/*
 * Headers as in kafka/protocol.h, of names and values in turn; a value of NULL
 * is one that is not there.
 */
static LogqText
headers_of(const char *const *list)
{
	static Text text;
	LogqText	headers;

	text.len = 0;
	for (; list[0] != NULL; list += 2)
	{
		int32		len = strlen(list[0]);

		text_bytes(&text, (char *) &len, sizeof(len));
		text_add(&text, list[0]);
		len = list[1] != NULL ? (int32) strlen(list[1]) : -1;
		text_bytes(&text, (char *) &len, sizeof(len));
		if (len > 0)
			text_add(&text, list[1]);
	}
	headers.data = text.data;
	headers.len = text.len;
	return headers;
}

/*
 * Check what headers, key and settings add to a message.
 */
static void
check_extras(const char *value, const char *const *headers, const char *key,
			 const char *key_field, const char *service, const char *expected,
			 const char *what)
{
	LogqParserSettings settings = usual_settings(LOGQ_FORMAT_AUTO);
	LogqMessage message;
	LogqRecord *records;
	Text		out = {0};
	char		gone[100];
	int			n;

	/* settings need not stay */
	if (key_field != NULL)
		settings.key_field.data = strcpy(gone, key_field);
	settings.key_field.len = key_field != NULL ? strlen(key_field) : 0;
	settings.service.data = service;
	settings.service.len = service != NULL ? strlen(service) : 0;
	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);
	memset(gone, 'x', sizeof(gone));

	memset(&message, 0, sizeof(message));
	message.value.data = value;
	message.value.len = strlen(value);
	message.key.data = key;
	message.key.len = key != NULL ? strlen(key) : 0;
	message.timestamp = KAFKA_MS;
	if (headers != NULL)
		message.headers = headers_of(headers);
	n = logq_parse(parser, &message, &records);
	text_records(&out, records, n);
	if (!sources_are_good(parser, &message, records, n, another))
		ok(false, "sources: %s", what);
	compare(&out, expected, what);
}

/*
 * A text from the key, or the headers, that all records of a message get.
 */
static void
test_repeated(void)
{
	Text		value = {0};
	Text		key = {0};

	text_add(&value, "[{}");
	for (int i = 0; i < 3000; i++)
		text_add(&value, ",{}");
	text_add(&value, "]");
	for (int i = 0; i < 12000; i++)
		text_add(&key, "0123456789");
	check_extras(value.data, NULL, key.data, "message", NULL,
				 "record -1\nerror: message takes too much memory\n",
				 "a key that all records would repeat");
	check_extras(value.data, NULL, key.data, "attrs.key", NULL,
				 "record -1\nerror: message takes too much memory\n",
				 "the same as an attribute");
	free(value.data);
	free(key.data);
}

static void
test_extras(void)
{
	static const char *const all[] = {
		"TIMESTAMP", "2024-01-02T03:04:05Z", "Severity", "err",
		"Service.Name", "s", "MSG", "m", "TraceID", "t", "other", "o", NULL
	};
	static const char *const parent[] = {
		"app", "a", "traceparent",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", NULL
	};
	static const char *const order[] = {
		"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"app", "a", "service", "s", "serviceName", "n", "trace_id", "t", NULL
	};
	static const char *const bad[] = {
		"service", "\xff", "traceparent",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"timestamp", "never", "level", "loud", "message", NULL,
		"averyveryverylongnameofaheader", "x", "", "", NULL
	};
	static const char *const past[] = {"ts", "12", NULL};
	static const char *const nul[] = {"service", "x", NULL};
	LogqMessage message;
	LogqRecord *records;
	LogqParserSettings settings;

	check_extras("{}", all, NULL, NULL, "d",
				 "ts: 2024-01-02 03:04:05.000000\nlevel: ERROR\nservice: s\n"
				 "message: m\ntrace_id: t\n", "headers fill all");
	check_extras("{\"ts\":1700000000,\"level\":\"INFO\",\"service\":\"own\","
				 "\"message\":\"own\",\"traceId\":\"own\"}", all, NULL, NULL, "d",
				 "ts: 2023-11-14 22:13:20.000000\nlevel: INFO\nservice: own\n"
				 "message: own\ntrace_id: own\n", "headers replace nothing");
	check_extras("[{},{\"app\":\"own\"}]", parent, NULL, NULL, NULL,
				 "service: a\ntrace_id: 0af7651916cd43dd8448eb211c80319c\n"
				 "record 1\n" KAFKA_TS "service: own\n"
				 "trace_id: 0af7651916cd43dd8448eb211c80319c\n",
				 "headers fill every record; traceparent");
	check_extras("{}", order, NULL, NULL, NULL, "service: s\ntrace_id: t\n",
				 "headers in their order");
	check_extras("{}", bad, NULL, NULL, "d", "service: d\n",
				 "headers that cannot be used");
	check_extras("{}", past, NULL, NULL, NULL,
				 "error: timestamp in a header is too far in the past: "
				 "1970-01-01 00:00:12 UTC\n", "a header's time out of range");
	check_extras(RECORD("\"body\":{}"), all, NULL, NULL, "d",
				 "ts: 2024-01-02 03:04:05.000000\nlevel: ERROR\nservice: s\n"
				 "message: m\ntrace_id: t\n", "headers fill OTLP");
	check_extras("{}", NULL, "k", "service", "d", "service: k\n", "key as service");
	check_extras("{}", parent, "k", "service", "d",
				 "service: a\ntrace_id: 0af7651916cd43dd8448eb211c80319c\n",
				 "header before key");
	check_extras("{}", NULL, "k", "message", NULL, "message: k\n", "key as message");
	check_extras("{\"msg\":\"\"}", NULL, "k", "message", NULL, "message: \n",
				 "key where an empty message is");
	check_extras("{}", NULL, "k", "trace_id", NULL, "trace_id: k\n", "key as trace id");
	check_extras("{}", NULL, "k\"\\\n\x01", "attrs.the \"key\"", NULL,
				 "attrs: {\"the \\\"key\\\"\":\"k\\\"\\\\\\u000a\\u0001\"}\n",
				 "key as attribute");
	check_extras("{\"k\":1,\"msg\":\"m\"}", NULL, "v", "attrs.k", NULL,
				 "message: m\nattrs: {\"k\":\"v\",\"k\":1}\n",
				 "key ahead of an attribute of that name, which wins");
	check_extras(RECORD("\"attributes\":[{\"key\":\"a\",\"value\":{\"intValue\":1}}]"),
				 NULL, "v", "attrs.k", NULL,
				 "service: s\nattrs: {\"k\":\"v\",\"a\":1}\n", "key as attribute in OTLP");
	check_extras("{}", NULL, "\xff", "service", NULL, "", "key that is not UTF-8");
	check_extras("{}", NULL, "", "service", NULL, "", "empty key");
	check_extras("{}", NULL, "k", "attrs.", NULL, "", "key for no attribute");
	check_extras("{}", NULL, "k", "nothing", NULL, "", "key for nothing");
	check_extras("{}", NULL, "k", NULL, NULL, "", "key without a field");
	check_extras("{}", NULL, NULL, NULL, "\xff", "", "default that is not UTF-8");

	/* headers that are cut off anywhere */
	settings = usual_settings(LOGQ_FORMAT_AUTO);
	logq_parser_set(parser, &settings);
	memset(&message, 0, sizeof(message));
	message.value.data = "{}";
	message.value.len = 2;
	message.timestamp = KAFKA_MS;
	for (int cut = 0; cut < 16; cut++)
	{
		LogqText	headers = headers_of(nul);
		char	   *copy = tap_alloc(cut);

		memcpy(copy, headers.data, cut);
		message.headers.data = copy;
		message.headers.len = cut;
		logq_parse(parser, &message, &records);
		if (records[0].error != NULL || records[0].service.data != NULL)
			ok(false, "headers cut off after %d bytes", cut);
		free(copy);
	}
}

/* ---------- the message itself ---------- */

static void
test_messages(void)
{
	LogqParserSettings settings = usual_settings(LOGQ_FORMAT_AUTO);
	LogqMessage message;
	LogqRecord *records;
	Text		deep = {0};
	Text		out;
	char		expected[300];

	memset(&message, 0, sizeof(message));
	message.timestamp = KAFKA_MS;
	logq_parser_set(parser, &settings);
	ok(logq_parse(parser, &message, &records) == 0, "no value, no record");

	message.value.data = "{}";
	message.value.len = 2;
	message.timestamp = -1;
	ok(logq_parse(parser, &message, &records) == 1 && records->error &&
	   strcmp(records->error, "there is no timestamp") == 0, "no time at all");
	message.timestamp = 0;
	ok(logq_parse(parser, &message, &records) == 1 && records->error &&
	   strcmp(records->error, "timestamp of the Kafka message is too far in "
			  "the past: 1970-01-01 00:00:00 UTC") == 0, "Kafka's time in the past");
	message.timestamp = PG_INT64_MAX;
	ok(logq_parse(parser, &message, &records) == 1 && records->error &&
	   strcmp(records->error, "timestamp of the Kafka message is out of range") == 0,
	   "Kafka's time at the end of int64");

	settings.max_bytes = 2;
	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);
	out = parse_bytes("{}", 2);
	compare(&out, "", "as large as can be");
	out = parse_bytes("{ }", 3);
	compare(&out, "record -1\nerror: message of 3 bytes is larger than the "
			"limit of 2 bytes\n", "too large");
	settings.max_bytes = 1024 * 1024;
	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);

	out = parse_bytes("{\"a\":\"\0\"}", 9);
	compare(&out, "record -1\nerror: message has a NUL byte at byte 7\n", "NUL");
	out = parse_bytes("a\0\xff", 3);
	compare(&out, "record -1\nerror: message has a NUL byte at byte 2\n",
			"NUL before what is not UTF-8");
	out = parse_bytes("\0", 1);
	compare(&out, "record -1\nerror: message has a NUL byte at byte 1\n",
			"nothing but NUL");

	/* nesting */
	for (int depth = LOGQ_JSON_MAX_DEPTH; depth <= LOGQ_JSON_MAX_DEPTH + 1; depth++)
	{
		deep.len = 0;
		text_add(&deep, "{\"a\":");
		for (int i = 1; i < depth; i++)
			text_add(&deep, "[");
		for (int i = 1; i < depth; i++)
			text_add(&deep, "]");
		text_add(&deep, "}");
		out = parse_bytes(deep.data, deep.len);
		if (depth == LOGQ_JSON_MAX_DEPTH)
		{
			ok(strstr(out.data, "error") == NULL, "nested %d deep", depth);
			free(out.data);
		}
		else
		{
			snprintf(expected, sizeof(expected),
					 WHOLE "%d: it is nested too deeply\n", 5 + depth - 1);
			compare(&out, expected, "nested one deeper");
		}
	}

	/* long numbers */
	for (int digits = 1000; digits <= 1001; digits++)
	{
		deep.len = 0;
		text_add(&deep, "{\"a\":");
		for (int i = 0; i < digits; i++)
			text_add(&deep, "9");
		text_add(&deep, "}");
		out = parse_bytes(deep.data, deep.len);
		ok((strstr(out.data, "error") != NULL) == (digits > 1000),
		   "a number of %d digits", digits);
		free(out.data);
	}
	free(deep.data);
}

/* ---------- records by themselves ---------- */

/* a message, and the sources of its records, one a line */
static const Case source_cases[] = {
	{"{\"a\": 1}", "{\"a\": 1}\n"},
	{"[ {\"a\": 1} ]", "[ {\"a\": 1} ]\n"},
	{"no json", "no json\n"},
	{"[{\"a\": [1, {}]}, {\"ts\":\"x\"} ,7,[{}]]",
	"{\"a\": [1, {}]}\n{\"ts\":\"x\"}\n[7]\n[[{}]]\n"},
	{"{\"resourceLogs\":[{\"schemaUrl\":\"u\",\"scopeLogs\":[{\"scope\":{\"name\": \"s\"},\"logRecords\":[{\"flags\":1},{\"flags\":2},3]},{\"logRecords\":[{}]},4,{\"logRecords\":5}],\"resource\":{\"attributes\":[ ]}},6,{\"scopeLogs\":{}}]}",
		"{\"resourceLogs\":[{\"resource\":{\"attributes\":[ ]},\"scopeLogs\":[{\"scope\":{\"name\": \"s\"},\"logRecords\":[{\"flags\":1}]}]}]}\n"
		"{\"resourceLogs\":[{\"resource\":{\"attributes\":[ ]},\"scopeLogs\":[{\"scope\":{\"name\": \"s\"},\"logRecords\":[{\"flags\":2}]}]}]}\n"
		"{\"resourceLogs\":[{\"resource\":{\"attributes\":[ ]},\"scopeLogs\":[{\"scope\":{\"name\": \"s\"},\"logRecords\":[3]}]}]}\n"
		"{\"resourceLogs\":[{\"resource\":{\"attributes\":[ ]},\"scopeLogs\":[{\"logRecords\":[{}]}]}]}\n"
		"{\"resourceLogs\":[{\"scopeLogs\":[4]}]}\n"
		"{\"resourceLogs\":[{\"resource\":{\"attributes\":[ ]},\"scopeLogs\":[{\"logRecords\":5}]}]}\n"
		"{\"resourceLogs\":[6]}\n"
	"{\"resourceLogs\":[{\"scopeLogs\":{}}]}\n"},
	/* names stay as they are; an array of OTLP and others */
	{"[{\"resource_logs\":[{\"instrumentation_library_logs\":[{\"instrumentation_library\":{},\"logs\":[{},{}]}]}]},{\"\\u0072esourceLogs\":[{\"scope_logs\":[{\"log\\u0052ecords\":[{}]}]}]},{}]",
		"{\"resource_logs\":[{\"instrumentation_library_logs\":[{\"instrumentation_library\":{},\"logs\":[{}]}]}]}\n"
		"{\"resource_logs\":[{\"instrumentation_library_logs\":[{\"instrumentation_library\":{},\"logs\":[{}]}]}]}\n"
		"{\"\\u0072esourceLogs\":[{\"scope_logs\":[{\"log\\u0052ecords\":[{}]}]}]}\n"
	"{}\n"},
	/* the last member of a name counts, and null does not */
	{"{\"resourceLogs\":null,\"resource_logs\":[{\"resource\":1,\"resource\":{\"x\":1},\"scope_logs\":[{\"scope\":{},\"scope\":null,\"logRecords\":0,\"logs\":[{},{}]}]}]}",
		"{\"resource_logs\":[{\"resource\":{\"x\":1},\"scope_logs\":[{\"logs\":[{}]}]}]}\n"
	"{\"resource_logs\":[{\"resource\":{\"x\":1},\"scope_logs\":[{\"logs\":[{}]}]}]}\n"},
};

static void
test_sources(void)
{
	LogqParserSettings settings = usual_settings(LOGQ_FORMAT_AUTO);
	LogqMessage message;
	LogqRecord *records;
	Text		big = {0};
	Text		out;
	int			n;

	logq_parser_set(parser, &settings);
	memset(&message, 0, sizeof(message));
	message.timestamp = KAFKA_MS;
	for (int c = 0; c < lengthof(source_cases); c++)
	{
		Text		sources = {0};

		text_bytes(&sources, "", 0);
		out = parse_bytes(source_cases[c].message,
						  strlen(source_cases[c].message));
		free(out.data);
		message.value.data = source_cases[c].message;
		message.value.len = strlen(source_cases[c].message);
		n = logq_parse(parser, &message, &records);
		for (int i = 0; i < n; i++)
		{
			LogqText	source = logq_record_source(parser, &records[i]);

			text_bytes(&sources, source.data, source.len);
			text_add(&sources, "\n");
		}
		if (!ok(strcmp(sources.data, source_cases[c].records) == 0,
				"sources of case %d", c))
		{
			diagnose("got", sources.data);
			diagnose("expected", source_cases[c].records);
		}
		free(sources.data);
	}

	/* what all sources of a message take is limited */
	settings.max_bytes = 16 * 1024 * 1024;
	logq_parser_set(parser, &settings);
	text_add(&big, "{\"resourceLogs\":[{\"resource\":{\"x\":\"");
	for (int i = 0; i < 100000; i++)
		text_add(&big, "0123456789");
	text_add(&big, "\"},\"scopeLogs\":[{\"logRecords\":[0");
	for (int i = 0; i < 1000; i++)
		text_add(&big, ",0");
	text_add(&big, "]}]}]}");
	out = parse_bytes(big.data, big.len);
	compare(&out, "record -1\nerror: message takes too much memory\n",
			"bad records that would take gigabytes");
	free(big.data);
}

/*
 * Formats by name.
 */
static void
test_names(void)
{
	static const char *const names[] = {
		"auto", "json", "otlp", "fluentbit", "vector", "raw"
	};
	LogqFormat	format;
	bool		good = true;

	for (int i = 0; i < lengthof(names); i++)
		good = good && logq_format_by_name(names[i], &format) && format == i;
	ok(good, "formats by name");
	ok(!logq_format_by_name("JSON", &format) && !logq_format_by_name("", &format),
	   "no others");
}

/* ---------- memory ---------- */

/*
 * Bytes that are allocated.
 */
static size_t
allocated(void)
{
#if defined(__SANITIZE_ADDRESS__)
	extern size_t __sanitizer_get_current_allocated_bytes(void);

	return __sanitizer_get_current_allocated_bytes();
#else
	return mallinfo2().uordblks;
#endif
}

/*
 * Parse a text some times.
 */
static void
parse_often(const Text *text, int times)
{
	LogqMessage message;
	LogqRecord *records;

	memset(&message, 0, sizeof(message));
	message.value.data = text->data;
	message.value.len = text->len;
	message.timestamp = KAFKA_MS;
	for (int i = 0; i < times; i++)
	{
		logq_parse(parser, &message, &records);
		logq_record_source(parser, &records[0]);
		logq_parse(another, &message, &records);
	}
}

/*
 * Messages leave nothing behind, and giants give back what they took.
 */
static void
test_memory(void)
{
	LogqParserSettings settings = usual_settings(LOGQ_FORMAT_AUTO);
	Text		small = {0};
	Text		large = {0};
	Text		bomb = {0};
	Text		out;
	size_t		before;

	settings.max_bytes = 64 * 1024 * 1024;
	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);
	text_add(&small, "{\"msg\":\"a\\nb\",\"x\":\"\\u0041\",\"level\":\"loud\"}");
	parse_often(&small, 10);
	before = allocated();
	parse_often(&small, 20000);
	ok(allocated() == before, "small messages leave nothing behind");

	/* many records, nodes and text */
	text_add(&large, "[{\"msg\":\"");
	for (int i = 0; i < 1000000; i++)
		text_add(&large, "a\\n");
	text_add(&large, "\"}");
	for (int i = 0; i < 50000; i++)
		text_add(&large, ",{\"msg\":\"a\\nb\",\"x\":1}");
	text_add(&large, "]");
	before = allocated();
	for (int i = 0; i < 5; i++)
	{
		parse_often(&large, 1);
		parse_often(&small, 2);
	}
	ok(allocated() <= before, "giants leave nothing behind");
	free(large.data);

	/* a megabyte of attributes for each of thousands of records */
	text_add(&bomb, "{\"resourceLogs\":[{\"resource\":{\"attributes\":[{\"key\":\"a\",\"value\":{\"stringValue\":\"");
	for (int i = 0; i < 100000; i++)
		text_add(&bomb, "0123456789");
	text_add(&bomb, "\"}}]},\"scopeLogs\":[{\"logRecords\":[{}");
	for (int i = 0; i < 5000; i++)
		text_add(&bomb, ",{}");
	text_add(&bomb, "]}]}]}");
	out = parse_bytes(bomb.data, bomb.len);
	compare(&out, "record -1\nerror: message takes too much memory\n",
			"a message that would take gigabytes");
	free(bomb.data);
	parse_often(&small, 2);
	ok(allocated() <= before, "nor does that one");

	bomb.data = NULL;
	bomb.len = bomb.size = 0;
	text_add(&bomb, "[{}");
	for (int i = 0; i < 1000000; i++)
		text_add(&bomb, ",{}");
	text_add(&bomb, "]");
	out = parse_bytes(bomb.data, bomb.len);
	compare(&out, "record -1\nerror: message has more than 1000000 records\n",
			"too many records");
	bomb.len = 0;
	text_add(&bomb, "{\"a\":[0");
	for (int i = 0; i < LOGQ_JSON_MAX_NODES; i++)
		text_add(&bomb, ",0");
	text_add(&bomb, "]}");
	out = parse_bytes(bomb.data, bomb.len);
	ok(strstr(out.data, "there are too many values") != NULL, "too many values");
	free(out.data);
	free(bomb.data);
	free(small.data);
}

#define CHECK(format, cases) check_cases(format, cases, lengthof(cases))

int
main(void)
{
	LogqParserSettings settings = usual_settings(LOGQ_FORMAT_AUTO);

	parser = logq_parser_create(&settings);
	another = logq_parser_create(&settings);
	CHECK(LOGQ_FORMAT_AUTO, plain_cases);
	CHECK(LOGQ_FORMAT_JSON, plain_cases);
	CHECK(LOGQ_FORMAT_AUTO, refused_cases);
	CHECK(LOGQ_FORMAT_OTLP, refused_cases);
	CHECK(LOGQ_FORMAT_OTLP, otlp_cases);
	CHECK(LOGQ_FORMAT_FLUENTBIT, fluentbit_cases);
	CHECK(LOGQ_FORMAT_VECTOR, vector_cases);
	CHECK(LOGQ_FORMAT_JSON, json_cases);
	CHECK(LOGQ_FORMAT_RAW, raw_cases);
	test_extras();
	test_repeated();
	test_messages();
	test_sources();
	test_names();
	test_memory();
	return tap_done();
}
