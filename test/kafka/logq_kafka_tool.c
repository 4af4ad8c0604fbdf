/*-------------------------------------------------------------------------
 *
 * logq_kafka_tool.c
 *		What tests, demo and benchmarks do with a Kafka broker.
 *
 * Everything here waits until what was asked for is done and to be seen by
 * others, and rides out a broker that goes away and comes back within the
 * timeout.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tool.h"

static const char usage_text[] =
"usage: logq_kafka_tool BROKERS COMMAND ...\n"
"\n"
"  cluster                             wait for an answer; the cluster's id\n"
"  create TOPIC PARTITIONS [NAME=VALUE]...\n"
"  grow TOPIC PARTITIONS               so many partitions in all\n"
"  delete TOPIC\n"
"  delete-records TOPIC PARTITION OFFSET|end\n"
"                                      all that come before\n"
"  offsets TOPIC                       partition, first, one after the last\n"
"\n"
"  produce TOPIC                       a message for each line of the input\n"
"    --partition N                     (any)\n"
"    --key TEXT\n"
"    --header NAME[=VALUE]             any number of them\n"
"    --timestamp MILLISECONDS          (now)\n"
"    --null                            without a value; reads no input\n"
"    --length-prefixed                 each is 4 bytes, big endian, and so\n"
"                                      many bytes; 2^32 - 1: no value\n"
"    --keyed                           ... and its key comes first likewise\n"
"    --transaction commit|abort|open   in one; open: left to time out\n"
"\n"
"  generate TOPIC                      made-up logs, each with a number\n"
"    --format json|otlp|fluentbit|vector|mixed      (json)\n"
"    --total ROWS                      (until --seconds or a signal)\n"
"    --seconds N\n"
"    --rate ROWS                       in a second (as fast as can be)\n"
"    --first N                         number of the first (1)\n"
"    --number-field NAME               where the number is (n)\n"
"    --seed N                          (1)\n"
"    --from SECONDS --to SECONDS       times since 1970 to spread the rows\n"
"                                      over, needs --total (now)\n"
"    --batch ROWS                      of an OTLP message (10)\n"
"    --stamp                           field \"produced_at\": \xc2\xb5s since 1970\n"
"    --key-service                     the service is the message's key\n"
"    --progress                        a line each second to standard error\n"
"\n"
"Both put out how many messages, or rows, the broker has got, and take\n"
"  --compression none|gzip|snappy|lz4|zstd\n"
"  -P NAME=VALUE                       a property of librdkafka\n"
"All take\n"
"  --timeout SECONDS                   before giving up (60; generate: 600)\n";

Options opt = {
	.timeout_s = -1,
	.partition = RD_KAFKA_PARTITION_UA,
	.gen = {GEN_JSON, 1, "n", false},
	.first = 1,
	.batch = 10
};

int64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void
fail(const char *fmt,...)
{
	va_list		args;

	fputs("logq_kafka_tool: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void
usage(void)
{
	fputs(usage_text, stderr);
	exit(2);
}

/* ---------- arguments ---------- */

static int64_t
number(const char *text, int64_t min, int64_t max)
{
	char	   *end;
	long long	v;

	errno = 0;
	v = strtoll(text, &end, 10);
	if (errno || end == text || *end || v < min || v > max)
		fail("not a number from %" PRId64 " to %" PRId64 ": \"%s\"", min, max,
			 text);
	return v;
}

static double
real(const char *text)
{
	char	   *end;
	double		v;

	errno = 0;
	v = strtod(text, &end);
	if (errno || end == text || *end || !(v >= 0 && v <= 1e12))
		fail("not a number: \"%s\"", text);
	return v;
}

static const struct option options[] = {
	{"timeout", required_argument, NULL, 't'},
	{"compression", required_argument, NULL, 'c'},
	{"partition", required_argument, NULL, 'p'},
	{"key", required_argument, NULL, 'k'},
	{"header", required_argument, NULL, 'h'},
	{"timestamp", required_argument, NULL, 'T'},
	{"null", no_argument, NULL, 'n'},
	{"length-prefixed", no_argument, NULL, 'l'},
	{"keyed", no_argument, NULL, 'K'},
	{"transaction", required_argument, NULL, 'x'},
	{"format", required_argument, NULL, 'f'},
	{"total", required_argument, NULL, 'o'},
	{"seconds", required_argument, NULL, 's'},
	{"rate", required_argument, NULL, 'r'},
	{"first", required_argument, NULL, 'F'},
	{"number-field", required_argument, NULL, 'N'},
	{"seed", required_argument, NULL, 'e'},
	{"from", required_argument, NULL, 'a'},
	{"to", required_argument, NULL, 'z'},
	{"batch", required_argument, NULL, 'b'},
	{"stamp", no_argument, NULL, 'm'},
	{"key-service", no_argument, NULL, 'S'},
	{"progress", no_argument, NULL, 'v'},
	{NULL}
};

static void
parse_options(int argc, char **argv)
{
	int			c;

	while ((c = getopt_long(argc, argv, "P:", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'P':
				if (opt.n_properties == MAX_PROPERTIES)
					fail("too many properties");
				opt.properties[opt.n_properties++] = optarg;
				break;
			case 't':
				opt.timeout_s = (int) number(optarg, 1, 2000000);
				break;
			case 'c':
				opt.compression = optarg;
				break;
			case 'p':
				opt.partition = (int32_t) number(optarg, 0, INT32_MAX);
				break;
			case 'k':
				opt.key = optarg;
				break;
			case 'h':
				if (opt.n_headers == MAX_HEADERS)
					fail("too many headers");
				opt.headers[opt.n_headers++] = optarg;
				break;
			case 'T':
				opt.timestamp = number(optarg, 1, INT64_MAX);
				break;
			case 'n':
				opt.null_value = true;
				break;
			case 'l':
				opt.length_prefixed = true;
				break;
			case 'K':
				opt.keyed = true;
				break;
			case 'x':
				if (strcmp(optarg, "commit") != 0 &&
					strcmp(optarg, "abort") != 0 && strcmp(optarg, "open") != 0)
					usage();
				opt.transaction = optarg;
				break;
			case 'f':
				if (!gen_format_by_name(optarg, &opt.gen.format))
					fail("there is no format \"%s\"", optarg);
				break;
			case 'o':
				opt.total = number(optarg, 1, INT64_MAX);
				break;
			case 's':
				opt.seconds = real(optarg);
				break;
			case 'r':
				opt.rate = real(optarg);
				break;
			case 'F':
				opt.first = number(optarg, 0, INT64_C(1) << 39);
				break;
			case 'N':
				/* it is not escaped, and has to fit */
				if (strlen(optarg) > 64 || strpbrk(optarg, "\"\\"))
					fail("not a name of a field: \"%s\"", optarg);
				opt.gen.number_field = optarg;
				break;
			case 'e':
				opt.gen.seed = number(optarg, 0, 1 << 23);
				break;
			case 'a':
				opt.from = real(optarg);
				break;
			case 'z':
				opt.to = real(optarg);
				break;
			case 'b':
				opt.batch = (int) number(optarg, 1, GEN_MAX_BATCH);
				break;
			case 'm':
				opt.gen.stamp = true;
				break;
			case 'S':
				opt.key_service = true;
				break;
			case 'v':
				opt.progress = true;
				break;
			default:
				usage();
		}
	}
	if (opt.from > 0 && opt.to <= 0)
		opt.to = now_us() / 1e6;
	if ((opt.to > 0 && (opt.total == 0 || opt.from >= opt.to)) ||
		(opt.keyed && !opt.length_prefixed))
		usage();
}

int
main(int argc, char **argv)
{
	const char *command;
	const char *topic;

	if (argc < 3)
		usage();
	opt.brokers = argv[1];
	command = argv[2];
	argc -= 2;
	argv += 2;
	parse_options(argc, argv);
	argc -= optind;
	argv += optind;
	topic = argv[0];

	if (opt.timeout_s < 0)
		opt.timeout_s = strcmp(command, "generate") == 0 ? 600 : 60;
	opt.deadline = now_us() + (int64_t) opt.timeout_s * 1000000;

	if (strcmp(command, "cluster") == 0 && argc == 0)
		command_cluster();
	else if (strcmp(command, "create") == 0 && argc >= 2)
		command_create(topic, (int) number(argv[1], 1, 10000), argv + 2);
	else if (strcmp(command, "grow") == 0 && argc == 2)
		command_grow(topic, (int) number(argv[1], 1, 10000));
	else if (strcmp(command, "delete") == 0 && argc == 1)
		command_delete(topic);
	else if (strcmp(command, "delete-records") == 0 && argc == 3)
		command_delete_records(topic, (int) number(argv[1], 0, INT32_MAX),
							   strcmp(argv[2], "end") == 0 ?
							   RD_KAFKA_OFFSET_END :
							   number(argv[2], 0, INT64_MAX));
	else if (strcmp(command, "offsets") == 0 && argc == 1)
		command_offsets(topic);
	else if (strcmp(command, "produce") == 0 && argc == 1)
		command_produce(topic);
	else if (strcmp(command, "generate") == 0 && argc == 1)
		command_generate(topic);
	else
		usage();
	return 0;
}
