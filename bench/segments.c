/*-------------------------------------------------------------------------
 *
 * segments.c
 *		Make up the catalog of a partition with many sealed segments.
 *
 *		segments segment PARTITION FIRST NUMBER NEWEST
 *		segments filter PARTITION FIRST NUMBER NEWEST
 *		segments trace PARTITION SEGMENT
 *
 * The first two print rows of logq_store.segment (as COPY takes them, text) and
 * of logq_store.filter (binary) for NUMBER hourly segments of a partition,
 * from FIRST hours before the one that ends at NEWEST (seconds since 1970)
 * back.  The last one prints a trace_id that only this segment's filter was
 * given.
 *
 * The segments have no tables: this is to measure how segments are chosen, not
 * how they are read.  Each has 40,000 rows, 5 levels, every third of 50
 * services, and 4,000 different trace_ids.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sketch.h"

#define NPARTITIONS 3
#define NSERVICES 50
#define NTRACES 4000
#define ROWS_PER_TRACE 10
#define NROWS (NTRACES * ROWS_PER_TRACE)
#define TRACE_LEN 32

static const char *const levels[] = {"DEBUG", "ERROR", "INFO", "TRACE", "WARN"};
/* of a hundred rows */
static const int level_share[] = {15, 3, 74, 1, 7};

#define NLEVELS ((int) (sizeof(levels) / sizeof(levels[0])))

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

static void
make_trace(char *buf, int partition, int segment, int i)
{
	uint64_t	n = ((uint64_t) segment * NPARTITIONS + partition) * NTRACES + i;

	snprintf(buf, TRACE_LEN + 1, "%016llx%016llx",
			 (unsigned long long) mix(2 * n + 1),
			 (unsigned long long) mix(2 * n + 2));
}

static void
make_time(char *buf, size_t size, const char *format, int64_t when)
{
	time_t		t = (time_t) when;

	strftime(buf, size, format, gmtime(&t));
}

static void
print_segment(int partition, int segment, int64_t newest)
{
	int64_t		upper = newest - INT64_C(3600) * segment;
	int64_t		first_id = ((int64_t) partition << 44) + 1 +
		(INT64_C(1) << 40) - (int64_t) (segment + 1) * NROWS;
	char		name[64];
	char		lower_text[64];
	char		upper_text[64];
	char		last_text[64];
	char		min_trace[TRACE_LEN + 1] = "g";
	char		max_trace[TRACE_LEN + 1] = "";
	int			services[NSERVICES];
	int			nservices = 0;
	int			rows[NSERVICES][NLEVELS];
	int			rows_left = NROWS;

	make_time(name, sizeof(name), "log_%Y%m%d_%H%M%S", upper - 3600);
	make_time(lower_text, sizeof(lower_text), "%Y-%m-%d %H:%M:%S+00",
			  upper - 3600);
	make_time(upper_text, sizeof(upper_text), "%Y-%m-%d %H:%M:%S+00", upper);
	make_time(last_text, sizeof(last_text), "%Y-%m-%d %H:%M:%S.999+00",
			  upper - 1);
	for (int i = 0; i < NTRACES; i++)
	{
		char		trace[TRACE_LEN + 1];

		make_trace(trace, partition, segment, i);
		if (strcmp(trace, min_trace) < 0)
			strcpy(min_trace, trace);
		if (strcmp(trace, max_trace) > 0)
			strcpy(max_trace, trace);
	}

	for (int s = 0; s < NSERVICES; s++)
	{
		if (s % NPARTITIONS == partition % NPARTITIONS)
			services[nservices++] = s + 1;
	}
	/* the first service of the list has what is left over */
	for (int s = nservices - 1; s >= 0; s--)
	{
		for (int l = 0; l < NLEVELS; l++)
		{
			rows[s][l] = NROWS / nservices * level_share[l] / 100;
			rows_left -= rows[s][l];
		}
	}
	rows[0][2] += rows_left;

	printf("%s\t%s\t%s\tsealed\t0\t%s\t%d\t%d\t%s\t%s\t%lld\t%lld\t%s\t%s\t{",
		   name, lower_text, upper_text, upper_text,
		   NROWS, NROWS * 300, lower_text, last_text, (long long) first_id,
		   (long long) first_id + NROWS - 1, min_trace, max_trace);
	for (int l = 0; l < NLEVELS; l++)
		printf("%s%s", l ? "," : "", levels[l]);
	printf("}\t{");
	for (int l = 0; l < NLEVELS; l++)
	{
		int			n = 0;

		for (int s = 0; s < nservices; s++)
			n += rows[s][l];
		printf("%s%d", l ? "," : "", n);
	}
	printf("}\t{");
	for (int s = 0; s < nservices; s++)
		printf("%sservice-%02d", s ? "," : "", services[s]);
	printf("}\t{");
	for (int s = 0; s < nservices; s++)
	{
		int			n = 0;

		for (int l = 0; l < NLEVELS; l++)
			n += rows[s][l];
		printf("%s%d", s ? "," : "", n);
	}
	printf("}\t{");
	for (int s = 0; s < nservices; s++)
	{
		for (int l = 0; l < NLEVELS; l++)
			printf("%s%d", s || l ? "," : "", rows[s][l]);
	}
	printf("}\tf\n");
}

static void
put_field(const void *data, size_t len)
{
	uint32_t	n = htonl((uint32_t) len);

	fwrite(&n, sizeof(n), 1, stdout);
	fwrite(data, 1, len, stdout);
}

static void
print_filter(int partition, int segment, int64_t newest)
{
	int			log2_blocks = logq_bloom_log2_blocks(NTRACES);
	int			log2_width = logq_sketch_log2_width(NTRACES);
	size_t		filter_size = logq_bloom_size(log2_blocks);
	size_t		sketch_size = logq_sketch_size(log2_width);
	uint8_t    *filter = malloc(filter_size);
	uint8_t    *sketch = malloc(sketch_size);
	uint16_t	nfields = htons(5);
	uint64_t	nvalues = htobe64(NTRACES);
	char		name[64];

	if (filter == NULL || sketch == NULL)
	{
		fprintf(stderr, "segments: out of memory\n");
		exit(1);
	}
	logq_bloom_init(filter, log2_blocks, NTRACES);
	logq_sketch_init(sketch, log2_width);
	for (int i = 0; i < NTRACES; i++)
	{
		char		trace[TRACE_LEN + 1];
		uint64_t	hash;

		make_trace(trace, partition, segment, i);
		hash = logq_hash(trace, TRACE_LEN);
		logq_bloom_add(filter, hash);
		logq_sketch_add(sketch, hash, ROWS_PER_TRACE);
	}

	make_time(name, sizeof(name), "log_%Y%m%d_%H%M%S",
			  newest - INT64_C(3600) * (segment + 1));
	fwrite(&nfields, sizeof(nfields), 1, stdout);
	put_field(name, strlen(name));
	put_field("trace_id", 8);
	put_field(&nvalues, sizeof(nvalues));
	put_field(filter, filter_size);
	put_field(sketch, sketch_size);
	free(filter);
	free(sketch);
}

int
main(int argc, char **argv)
{
	/* signature, flags, length of the header's extension */
	static const char header[19] = "PGCOPY\n\377\r\n";
	static char out[1 << 16];
	int			partition = argc > 2 ? atoi(argv[2]) : 0;
	int			first = argc > 3 ? atoi(argv[3]) : -1;
	int			number = argc > 4 ? atoi(argv[4]) : 0;
	int64_t		newest = argc > 5 ? atoll(argv[5]) : 0;

	setvbuf(stdout, out, _IOFBF, sizeof(out));
	if (argc == 4 && strcmp(argv[1], "trace") == 0)
	{
		char		trace[TRACE_LEN + 1];

		make_trace(trace, partition, first, NTRACES / 2);
		puts(trace);
	}
	else if (argc == 6 && strcmp(argv[1], "segment") == 0)
	{
		for (int i = first; i < first + number; i++)
			print_segment(partition, i, newest);
	}
	else if (argc == 6 && strcmp(argv[1], "filter") == 0)
	{
		fwrite(header, sizeof(header), 1, stdout);
		for (int i = first; i < first + number; i++)
			print_filter(partition, i, newest);
		fwrite("\377\377", 2, 1, stdout);
	}
	else
	{
		fprintf(stderr, "usage: segments segment PARTITION FIRST NUMBER NEWEST\n"
				"       segments filter PARTITION FIRST NUMBER NEWEST\n"
				"       segments trace PARTITION SEGMENT\n");
		return 2;
	}
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
