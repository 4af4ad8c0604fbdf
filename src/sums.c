/*-------------------------------------------------------------------------
 *
 * sums.c
 *		Rows, levels and services over ranges of segments; sketches.
 *
 * Planning must not walk over thousands of segments.  So each backend keeps,
 * for each partition, sums over all segments ahead of every eighth one (or
 * fewer, where memory would be too much): a range costs two of these and the
 * few segments at its ends.  They are made anew when the partition's copy has
 * changed, which is seldom and cheaper than the change itself.
 *
 * Rows of sealed segments are exact.  Those of open ones are the partition's
 * own estimates, which may be missing or of the past, so that the rate of
 * other segments stands in.
 *
 * Sketches that were read are kept, too, a bounded number of them: which ones
 * a range looks at hardly changes from query to query.
 *
 * Everything here is for estimates only; nothing of it decides what is asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "estimate.h"

#include <math.h>

#include "port/pg_bitutils.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "probe.h"
#include "sketch.h"

/* rows of an open segment when there is nothing to go by */
#define UNKNOWN_SEGMENT_ROWS 10000.0
/* segments that the rate of a partition is taken from */
#define RATE_SEGMENTS 24
/* segments at the end of a partition that may still be growing */
#define LIVE_SEGMENTS 16
/* memory for the sums of a partition */
#define MAX_SUMS_SIZE (1024 * 1024)

/* Places in a vector of sums, ahead of levels, services and fields */
enum SumItem
{
	SUM_ROWS,
	SUM_CONTENTS,
	SUM_WITH_LEVELS,
	SUM_WITH_SERVICES,
	SUM_FIRST_LEVEL
};

typedef struct Sums
{
	int32		number;			/* hash key: of the partition */
	/* which copy they are of */
	const LogqSegment *segments;
	int64		version;
	int64		changed;
	int			nsegments;
	int			nlevels;
	int			nservices;
	int			nfields;
	/* what they say */
	double		rate;			/* rows in a microsecond; 0: not known */
	int			step;			/* segments from one vector to the next */
	int			width;			/* members of a vector */
	double	   *before;			/* vectors: sums over segments [0, i * step) */
	MemoryContext cxt;
} Sums;

static HTAB *all_sums = NULL;

/* A sketch that was read; no sketch when it is NULL, which is worth keeping */
typedef struct KeptSketch
{
	int32		number;
	TimestampTz lower;			/* of the segment */
	int64		version;
	char		field[NAMEDATALEN];
	bytea	   *sketch;
	bool		used;
} KeptSketch;

#define KEPT_SKETCHES 128
/* the cache takes one part in so many of logq.catalog_memory */
#define KEPT_SHARE 8

static KeptSketch kept[KEPT_SKETCHES];
static int	kept_next = 0;
static Size kept_size = 0;
static MemoryContext kept_cxt = NULL;

/* ---------- single segments ---------- */

/*
 * Rows of a segment at a rate.
 *
 * One that has not begun was made ahead of time and is empty, unless nothing
 * else is known: then people write of the future.
 */
static double
rows_at_rate(const LogqSegment *seg, double rate, TimestampTz now)
{
	double		lower = (double) seg->lower;

	if (seg->sealed)
		return Max(seg->rows, 0);
	if (rate <= 0)
		return seg->rows > 0 ? seg->rows : UNKNOWN_SEGMENT_ROWS;
	if (seg->lower > now)
		return Max(seg->rows, 1);
	if (seg->upper > now)
		return Max(seg->rows, rate * ((double) now - lower));
	return seg->rows > 0 ? seg->rows : rate * ((double) seg->upper - lower);
}

/*
 * Rows that a partition takes in a microsecond, by its latest segments.
 */
static double
partition_rate(const LogqPartition *part)
{
	double		rows = 0;
	double		width = 0;
	int			n = 0;

	for (int i = part->nsegments - 1; i >= 0 && n < RATE_SEGMENTS; i--)
	{
		const LogqSegment *seg = &part->segments[i];

		if (seg->rows <= 0)
			continue;
		rows += seg->rows;
		width += (double) seg->upper - (double) seg->lower;
		n++;
	}
	return n > 0 ? rows / width : 0;
}

/*
 * Which part of a segment's rows lies within [low, high]?  Rows are taken to
 * be spread evenly over the time in which there are any.
 */
double
logq_segment_fraction(const LogqSegment *seg, int64 low, int64 high)
{
	double		begin = (double) seg->lower;
	double		end = (double) seg->upper - 1;
	double		from;
	double		to;

	if (seg->sealed && seg->content != NULL)
	{
		begin = (double) seg->content->min_ts;
		end = (double) seg->content->max_ts;
	}
	else if (!seg->sealed)
	{
		TimestampTz now = GetCurrentTimestamp();

		if (seg->lower < now && seg->upper > now)
			end = (double) now;
	}
	from = Max(begin, (double) low);
	to = Min(end, (double) high);
	if (to < from)
		return 0;
	return Min((to - from + 1) / (end - begin + 1), 1);
}

/*
 * Add a segment to a vector of sums.
 */
static void
add_segment(const Sums *sums, double *vector, const LogqSegment *seg,
			double rows, double fraction)
{
	const LogqContent *content = seg->sealed ? seg->content : NULL;
	double	   *services = vector + SUM_FIRST_LEVEL + sums->nlevels;
	double	   *fields = services + sums->nservices;

	rows *= fraction;
	vector[SUM_ROWS] += rows;
	if (content == NULL)
		return;
	vector[SUM_CONTENTS] += 1;
	if (content->has_levels)
	{
		uint64		levels = content->levels;

		vector[SUM_WITH_LEVELS] += rows;
		for (int i = 0; levels != 0; i++)
		{
			int			level = pg_rightmost_one_pos64(levels);

			levels &= levels - 1;
			if (level < sums->nlevels)
				vector[SUM_FIRST_LEVEL + level] += fraction *
					content->level_rows[i];
		}
	}
	if (content->has_services)
	{
		vector[SUM_WITH_SERVICES] += rows;
		for (int i = 0; i < content->nservices; i++)
			if (content->services[i] < (uint32) sums->nservices)
				services[content->services[i]] += fraction *
					content->service_rows[i];
	}
	for (int i = 0; i < content->nfilters; i++)
	{
		int			field = content->filters[i].field;

		if (field >= sums->nfields)
			continue;
		fields[field] += rows;
		fields[sums->nfields + field] += fraction *
			content->filters[i].nvalues;
		fields[2 * sums->nfields + field] += fraction;
	}
}

/* ---------- sums over ranges ---------- */

/*
 * Make the sums of a partition.
 */
static void
make_sums(Sums *sums, const LogqPartition *part)
{
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext cxt;
	double	   *vector;
	int			n;

	/* whatever fails on the way, they are not taken for valid */
	sums->segments = NULL;
	sums->changed = -1;
	if (sums->cxt != NULL)
		MemoryContextDelete(sums->cxt);
	sums->cxt = NULL;
	cxt = AllocSetContextCreate(CacheMemoryContext, "logq sums",
								ALLOCSET_SMALL_SIZES);
	sums->cxt = cxt;

	sums->nlevels = part->nlevels;
	sums->nservices = part->nservices;
	sums->nfields = part->nfields;
	sums->width = SUM_FIRST_LEVEL + part->nlevels + part->nservices +
		3 * part->nfields;
	sums->rate = partition_rate(part);
	sums->step = 8;
	while ((Size) (part->nsegments / sums->step + 2) * sums->width *
		   sizeof(double) > MAX_SUMS_SIZE && sums->step < part->nsegments)
		sums->step *= 2;

	n = (part->nsegments + sums->step - 1) / sums->step + 1;
	sums->before = MemoryContextAllocHuge(cxt, (Size) n * sums->width *
										  sizeof(double));
	vector = sums->before;
	MemSet(vector, 0, sums->width * sizeof(double));
	for (int i = 0; i < part->nsegments; i++)
	{
		const LogqSegment *seg = &part->segments[i];

		if (i % sums->step == 0)
		{
			memcpy(vector + sums->width, vector,
				   sums->width * sizeof(double));
			vector += sums->width;
		}
		add_segment(sums, vector, seg, rows_at_rate(seg, sums->rate, now), 1);
	}

	sums->nsegments = part->nsegments;
	sums->version = part->version;
	sums->changed = part->changed;
	sums->segments = part->segments;
}

/*
 * The sums of a partition as our copy of its catalog is now.
 */
static Sums *
get_sums(const LogqPartition *part)
{
	Sums	   *sums;
	bool		found;

	if (all_sums == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(Sums);
		ctl.hcxt = CacheMemoryContext;
		all_sums = hash_create("logq sums", 32, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	sums = hash_search(all_sums, &part->number, HASH_ENTER, &found);
	if (!found)
	{
		MemSet((char *) sums + sizeof(int32), 0,
			   sizeof(Sums) - sizeof(int32));
		sums->nsegments = -1;
	}
	if (sums->segments != part->segments || sums->version != part->version ||
		sums->changed != part->changed ||
		sums->nsegments != part->nsegments ||
		sums->nlevels != part->nlevels ||
		sums->nservices != part->nservices ||
		sums->nfields != part->nfields)
		make_sums(sums, part);
	return sums;
}

/* See estimate.h. */
double
logq_segment_rows(LogqPartition *part, const LogqSegment *seg)
{
	return rows_at_rate(seg, get_sums(part)->rate, GetCurrentTimestamp());
}

/* See estimate.h. */
bool
logq_sums_have_contents(LogqPartition *part)
{
	Sums	   *sums = get_sums(part);
	int			last = (part->nsegments + sums->step - 1) / sums->step;

	return sums->before[(Size) last * sums->width + SUM_CONTENTS] > 0;
}

/*
 * Add segments [first, last), whole ones.
 */
static void
add_whole(const Sums *sums, const LogqPartition *part, double *vector,
		  int first, int last, int width)
{
	int			from = (first + sums->step - 1) / sums->step;
	int			to = last / sums->step;
	TimestampTz now = GetCurrentTimestamp();

	if (from < to)
	{
		const double *begin = sums->before + (Size) from * sums->width;
		const double *end = sums->before + (Size) to * sums->width;

		for (int i = 0; i < width; i++)
			vector[i] += end[i] - begin[i];
	}
	else
		from = to = (last + sums->step - 1) / sums->step;

	for (int i = first; i < Min(from * sums->step, last); i++)
	{
		const LogqSegment *seg = &part->segments[i];

		if (width > SUM_FIRST_LEVEL)
			add_segment(sums, vector, seg,
						rows_at_rate(seg, sums->rate, now), 1);
		else
			vector[SUM_ROWS] += rows_at_rate(seg, sums->rate, now);
	}
	for (int i = to * sums->step; i < last; i++)
	{
		const LogqSegment *seg = &part->segments[i];

		if (width > SUM_FIRST_LEVEL)
			add_segment(sums, vector, seg,
						rows_at_rate(seg, sums->rate, now), 1);
		else
			vector[SUM_ROWS] += rows_at_rate(seg, sums->rate, now);
	}
}

/* See estimate.h. */
void
logq_sum_range(LogqPartition *part, int64 low, int64 high, bool contents,
			   LogqRangeSum *sum)
{
	Sums	   *sums = get_sums(part);
	TimestampTz now = GetCurrentTimestamp();
	int			width = contents ? sums->width : SUM_FIRST_LEVEL;
	double	   *vector = palloc0(sums->width * sizeof(double));
	int			first = logq_segment_search(part, low);
	int			last = logq_segment_search(part, high);
	int			live;

	if (last < part->nsegments && part->segments[last].lower <= high)
		last++;
	last = Max(first, last);

	/*
	 * Those at the ends may be cut, and those that have not ended grow while
	 * the sums stay as they are.
	 */
	live = logq_segment_search(part, now);
	if (live < part->nsegments - LIVE_SEGMENTS)
		live = part->nsegments;
	live = Max(Min(live, last - 1), first + 1);
	if (first < last)
	{
		add_whole(sums, part, vector, first + 1, live, width);
		for (int i = first; i < last; i = i == first ? live : i + 1)
		{
			const LogqSegment *seg = &part->segments[i];

			add_segment(sums, vector, seg,
						rows_at_rate(seg, sums->rate, now),
						logq_segment_fraction(seg, low, high));
		}
	}

	sum->part = part;
	sum->first = first;
	sum->last = last;
	sum->rows = vector[SUM_ROWS];
	sum->contents = vector[SUM_CONTENTS];
	sum->with_levels = vector[SUM_WITH_LEVELS];
	sum->with_services = vector[SUM_WITH_SERVICES];
	sum->levels = vector + SUM_FIRST_LEVEL;
	sum->services = sum->levels + sums->nlevels;
	sum->field_rows = sum->services + sums->nservices;
	sum->field_values = sum->field_rows + sums->nfields;
	sum->field_segments = sum->field_values + sums->nfields;
}

/* ---------- sketches ---------- */

/*
 * Take a sketch out of those that are kept.
 */
static void
forget_sketch(KeptSketch *k)
{
	if (k->sketch != NULL)
	{
		kept_size -= VARSIZE(k->sketch);
		pfree(k->sketch);
		k->sketch = NULL;
	}
	k->version = -1;
	k->used = false;
}

/*
 * The sketch of a segment's field, from memory if possible; NULL: none.  It
 * is good until the next call.
 */
static const bytea *
get_sketch(LogqPartition *part, const LogqSegment *seg, const char *field)
{
	KeptSketch *k;
	bytea	   *sketch;
	Size		limit = (Size) logq_catalog_memory * 1024 / KEPT_SHARE;

	for (int i = 0; i < KEPT_SKETCHES; i++)
	{
		k = &kept[i];
		if (k->version == seg->version && k->lower == seg->lower &&
			k->number == part->number && k->field[0] != '\0' &&
			strcmp(k->field, field) == 0)
		{
			k->used = true;
			return k->sketch;
		}
	}

	sketch = logq_read_sketch(part, seg, field);
	if (strlen(field) >= NAMEDATALEN ||
		(sketch != NULL && VARSIZE(sketch) > limit))
		return sketch;

	/* second chance, then out; ends, as nothing that is kept is larger */
	for (;;)
	{
		k = &kept[kept_next];
		kept_next = (kept_next + 1) % KEPT_SKETCHES;
		if (k->used)
		{
			k->used = false;
			continue;
		}
		forget_sketch(k);
		if (sketch == NULL || kept_size + VARSIZE(sketch) <= limit)
			break;
	}
	if (sketch != NULL)
	{
		if (kept_cxt == NULL)
			kept_cxt = AllocSetContextCreate(CacheMemoryContext,
											 "logq sketches",
											 ALLOCSET_DEFAULT_SIZES);
		k->sketch = MemoryContextAlloc(kept_cxt, VARSIZE(sketch));
		memcpy(k->sketch, sketch, VARSIZE(sketch));
		kept_size += VARSIZE(sketch);
		pfree(sketch);
	}
	k->number = part->number;
	k->lower = seg->lower;
	k->version = seg->version;
	strlcpy(k->field, field, NAMEDATALEN);
	k->used = true;
	return k->sketch;
}

/*
 * What is known of a field of a segment, or NULL.  There need not be a filter.
 */
static const LogqFilterRef *
segment_field(const LogqSegment *seg, int field)
{
	if (!seg->sealed || seg->content == NULL)
		return NULL;
	for (int i = 0; i < seg->content->nfilters; i++)
		if (seg->content->filters[i].field == field)
			return &seg->content->filters[i];
	return NULL;
}

/*
 * Look at one segment's sketch.
 *
 * While there are more counters than values, a value has one for its own.
 * When there are less, a sketch finds values that have many rows; what it says
 * of others is noise, of about the square root of the number of values in a
 * counter, and is taken for nothing.
 */
static void
sample_segment(LogqPartition *part, const LogqSegment *seg,
			   const char *field, int fieldno, const uint64 *hashes,
			   int nhashes, int64 low, int64 high, LogqSample *sample)
{
	const bytea *sketch = get_sketch(part, seg, field);
	double		fraction = logq_segment_fraction(seg, low, high);
	double		nvalues = segment_field(seg, fieldno)->nvalues;
	const uint8_t *data;
	double		total;
	double		load;
	double		noise = 0;
	double		matches = 0;

	if (sketch == NULL)
	{
		sample->complete = false;
		return;
	}
	data = (const uint8_t *) VARDATA_ANY(sketch);
	total = logq_sketch_total(data);
	load = nvalues * LOGQ_SKETCH_DEPTH * sizeof(uint32_t) /
		(VARSIZE_ANY_EXHDR(sketch) - LOGQ_SKETCH_HEADER);
	if (load > 0.5)
	{
		noise = 3 * sqrt(load) * total / Max(nvalues, 1);
		sample->complete = false;
	}
	for (int i = 0; i < nhashes; i++)
	{
		double		rows = noise > 0 ?
			logq_sketch_estimate(data, hashes[i]) :
			(double) logq_sketch_upper(data, hashes[i]);

		if (rows >= 0.5 && rows > noise)
			matches += rows;
	}
	sample->sampled++;
	sample->sampled_rows += Max(seg->rows, 0) * fraction;
	sample->not_null += total * fraction;
	if (matches > 0)
	{
		sample->hits++;
		sample->matches += Min(matches, total) * fraction;
	}
}

/*
 * See estimate.h.
 *
 * Which ones are looked at goes by their positions among all segments and not
 * within the range, so that it stays the same while the range moves on; the
 * newest one always is.
 */
void
logq_sample_sketches(LogqPartition *part, const char *field, int first,
					 int last, int max_segments, const uint64 *hashes,
					 int nhashes, int64 low, int64 high, LogqSample *sample)
{
	int			fieldno = logq_catalog_field(part, field);
	int			step = 1;
	int			newest;

	MemSet(sample, 0, sizeof(LogqSample));
	if (fieldno < 0 || max_segments <= 0)
		return;
	for (newest = last - 1; newest >= first; newest--)
		if (segment_field(&part->segments[newest], fieldno) != NULL)
			break;
	if (newest < first)
		return;
	while ((newest - first) / step >= max_segments)
		step *= 2;
	sample->complete = step == 1;
	sample_segment(part, &part->segments[newest], field, fieldno, hashes,
				   nhashes, low, high, sample);
	for (int i = newest - 1 - (newest - 1) % step; i >= first; i -= step)
		if (segment_field(&part->segments[i], fieldno) != NULL)
			sample_segment(part, &part->segments[i], field, fieldno, hashes,
						   nhashes, low, high, sample);
}
