/*-------------------------------------------------------------------------
 *
 * contents.c
 *		What sealed segments hold, in this backend's memory.
 *
 * A content is what the coordinator's tables say of a sealed segment, in a
 * form that is small and quick to go through: levels and services are indexes
 * to the partition's dictionaries, counts have four bytes, and all of it is
 * one chunk of memory.
 *
 * Invariants: a content belongs to a version of its segment, and a version
 * never comes again with other contents; so a content is good wherever name
 * and version are the same, also in a list of segments that came from the
 * partition itself.
 *
 * Memory: contents lie in one context a partition and are freed one by one.
 * What they may take is logq.catalog_memory over the number of partitions;
 * beyond it those of the oldest segments are left out.  Dictionaries only
 * grow; all is made anew when more has been freed than is left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "contents.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"


/* One service of a segment */
typedef struct ServiceRows
{
	uint32		service;
	uint32		rows;
} ServiceRows;

/* ---------- memory ---------- */

/*
 * Empty dictionaries, and no contents.
 */
void
logq_contents_reset(LogqPartition *part)
{
	LogqContents *contents = part->contents;
	int			i;

	for (i = 0; i < part->nsegments; i++)
		part->segments[i].content = NULL;
	part->nlevels = part->nservices = part->nfields = 0;
	part->levels = part->services = part->fields = NULL;
	part->service_level_rows = NULL;
	contents->groups = NULL;
	contents->filters = NULL;
	contents->filters_cxt = NULL;
	contents->filters_size = 0;
	contents->service_slots = NULL;
	contents->live = contents->garbage = 0;
	contents->floor = DT_NOBEGIN;
	contents->seen = 0;
	contents->broken = true;
	MemoryContextReset(contents->cxt);
	MemoryContextReset(contents->dict);

	part->levels = MemoryContextAllocZero(contents->dict, LOGQ_MAX_LEVELS *
										  sizeof(char *));
	part->nlevels = 1;
	contents->services_size = 64;
	part->services = MemoryContextAllocZero(contents->dict,
											contents->services_size *
											sizeof(char *));
	part->service_level_rows =
		MemoryContextAllocZero(contents->dict,
							   contents->services_size * sizeof(double));
	part->nservices = 1;
	contents->service_mask = 255;
	contents->service_slots =
		MemoryContextAllocZero(contents->dict, (contents->service_mask + 1) *
							   sizeof(uint32));
	contents->fields_size = 16;
	part->fields = MemoryContextAllocZero(contents->dict,
										  contents->fields_size *
										  sizeof(char *));
	contents->broken = false;
}

/*
 * What we know of a partition's contents, made when it is wanted first.
 */
LogqContents *
logq_contents_get(LogqPartition *part)
{
	MemoryContext cxt;
	LogqContents *contents;

	if (part->contents != NULL)
		return part->contents;
	cxt = AllocSetContextCreate(CacheMemoryContext, "logq catalog",
								ALLOCSET_SMALL_SIZES);
	contents = MemoryContextAllocZero(cxt, sizeof(LogqContents));
	/* no rounding up to powers of two here: contents are many */
	contents->cxt = GenerationContextCreate(cxt, "logq contents",
											ALLOCSET_DEFAULT_MINSIZE,
											ALLOCSET_DEFAULT_INITSIZE,
											64 * 1024);
	contents->dict = AllocSetContextCreate(cxt, "logq dictionaries",
										   ALLOCSET_SMALL_SIZES);
	part->contents = contents;
	logq_contents_reset(part);
	return contents;
}

/*
 * Take a content's part out of the matrix of services and levels.  Its own is
 * not known any more, so as if levels were alike in all services.
 */
static void
subtract_rows(LogqPartition *part, const LogqContent *content)
{
	double		total = 0;
	int			i;

	if (!content->has_levels || !content->has_services)
		return;
	for (i = 0; i < content->nservices; i++)
		total += content->service_rows[i];
	for (i = 0; total > 0 && i < content->nservices; i++)
	{
		double	   *row = part->service_level_rows +
			(size_t) content->services[i] * part->nlevels;
		int			level;
		int			n = 0;

		for (level = 0; level < part->nlevels; level++)
		{
			if ((content->levels & (UINT64CONST(1) << level)) == 0)
				continue;
			row[level] -= (double) content->service_rows[i] *
				content->level_rows[n++] / total;
			row[level] = Max(row[level], 0);
		}
	}
}

/*
 * Free a segment's content, if it has one.
 */
void
logq_content_release(LogqPartition *part, LogqSegment *seg)
{
	LogqContents *contents = part->contents;
	Size		size;

	if (seg->content == NULL)
		return;
	size = GetMemoryChunkSpace(seg->content);
	contents->live -= size;
	contents->garbage += size;
	subtract_rows(part, seg->content);
	pfree(seg->content);
	seg->content = NULL;
}

/*
 * Too much: leave out the contents of the oldest.  The segments are sorted.
 */
void
logq_contents_enforce(LogqPartition *part, LogqSegment *segments,
					  int nsegments)
{
	LogqContents *contents = part->contents;
	int			i;

	for (i = 0; i < nsegments && contents->live > contents->budget; i++)
	{
		logq_content_release(part, &segments[i]);
		contents->floor = Max(contents->floor, segments[i].upper);
	}
}

/* ---------- dictionaries ---------- */

/*
 * Grow an array of pointers.
 */
static char **
grow_names(char **names, int *size)
{
	names = repalloc(names, 2 * *size * sizeof(char *));
	MemSet(names + *size, 0, *size * sizeof(char *));
	*size *= 2;
	return names;
}

/*
 * A text as a string in the dictionaries' memory.
 */
static char *
dictionary_string(LogqContents *contents, const char *data, int len)
{
	char	   *name = MemoryContextAlloc(contents->dict, len + 1);

	memcpy(name, data, len);
	name[len] = '\0';
	return name;
}

static bool
same_name(const char *name, const char *data, int len)
{
	return strncmp(name, data, len) == 0 && name[len] == '\0';
}

/*
 * Index of a level, -1 when there are too many.
 */
static int
level_index(LogqPartition *part, const char *data, int len)
{
	double	   *rows;
	int			n = part->nlevels;
	int			i;

	for (i = 1; i < n; i++)
		if (same_name(part->levels[i], data, len))
			return i;
	if (n == LOGQ_MAX_LEVELS)
		return -1;

	/* one more column in the matrix */
	rows = MemoryContextAllocExtended(part->contents->dict,
									  (Size) (n + 1) * sizeof(double) *
									  part->contents->services_size,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (i = 0; i < part->nservices; i++)
		memcpy(rows + (size_t) i * (n + 1),
			   part->service_level_rows + (size_t) i * n, n * sizeof(double));
	pfree(part->service_level_rows);
	part->service_level_rows = rows;
	part->levels[n] = dictionary_string(part->contents, data, len);
	part->nlevels++;
	return n;
}

/*
 * Index of a service.
 */
static uint32
service_index(LogqPartition *part, const char *data, int len)
{
	LogqContents *contents = part->contents;
	uint32		at = hash_bytes((const unsigned char *) data, len);
	int			i;

	for (;; at++)
	{
		uint32		found = contents->service_slots[at &
													contents->service_mask];

		if (found == 0)
			break;
		if (same_name(part->services[found], data, len))
			return found;
	}

	if (part->nservices == contents->services_size)
	{
		int			old_size = contents->services_size;
		double	   *rows;

		rows = MemoryContextAllocExtended(contents->dict,
										  (Size) 2 * old_size *
										  part->nlevels * sizeof(double),
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		part->services = grow_names(part->services, &contents->services_size);
		memcpy(rows, part->service_level_rows,
			   (Size) part->nservices * part->nlevels * sizeof(double));
		pfree(part->service_level_rows);
		part->service_level_rows = rows;

		if (contents->services_size > contents->service_mask / 4)
		{
			uint32		mask = contents->service_mask * 4 + 3;
			uint32	   *slots = MemoryContextAllocZero(contents->dict,
													   ((Size) mask + 1) *
													   sizeof(uint32));

			for (i = 1; i < part->nservices; i++)
			{
				const char *name = part->services[i];
				uint32		to = hash_bytes((const unsigned char *) name,
											strlen(name));

				while (slots[to & mask] != 0)
					to++;
				slots[to & mask] = i;
			}
			pfree(contents->service_slots);
			contents->service_slots = slots;
			contents->service_mask = mask;
			at = hash_bytes((const unsigned char *) data, len);
			while (slots[at & mask] != 0)
				at++;
		}
	}
	i = part->nservices;
	part->services[i] = dictionary_string(contents, data, len);
	contents->service_slots[at & contents->service_mask] = i;
	part->nservices++;
	return i;
}

/*
 * Index of a field, -1 when there are too many.
 */
static int
field_index(LogqPartition *part, const char *data, int len)
{
	int			i;

	for (i = 0; i < part->nfields; i++)
		if (same_name(part->fields[i], data, len))
			return i;
	if (i > PG_UINT16_MAX)
		return -1;
	if (i == part->contents->fields_size)
		part->fields = grow_names(part->fields,
								  &part->contents->fields_size);
	part->fields[i] = dictionary_string(part->contents, data, len);
	part->nfields++;
	return i;
}

/* ---------- one segment ---------- */

/* See contents.h. */
const void *
logq_number_array(Datum value, bool isnull, Oid type, int n)
{
	ArrayType  *array;

	if (isnull)
		return NULL;
	array = DatumGetArrayTypeP(value);
	if (ARR_ELEMTYPE(array) != type || ARR_HASNULL(array) ||
		ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) != n)
		return NULL;
	return ARR_DATA_PTR(array);
}

/* See contents.h. */
bool
logq_text_array(Datum value, bool isnull, Datum **texts, bool **nulls, int *n)
{
	if (isnull)
		return false;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false,
					  TYPALIGN_INT, texts, nulls, n);
	return true;
}

/*
 * A number of rows as contents keep it.
 */
static uint32
exact_rows(int64 rows)
{
	return rows >= 0 && rows < LOGQ_ROWS_UNKNOWN ? (uint32) rows :
		LOGQ_ROWS_UNKNOWN;
}

/*
 * Rows of a rollup, -1 when it is not kept.
 */
static int32
rollup_rows(Datum value, bool isnull)
{
	int64		rows = isnull ? -1 : DatumGetInt64(value);

	return (int32) Max(Min(rows, PG_INT32_MAX), -1);
}

static int
compare_services(const void *a, const void *b)
{
	uint32		left = ((const ServiceRows *) a)->service;
	uint32		right = ((const ServiceRows *) b)->service;

	return left < right ? -1 : left > right;
}

/*
 * A bound of trace_id, as much of it as is kept.  Returns that length.
 */
static uint8
key_prefix(Datum value, char *prefix)
{
	text	   *key = DatumGetTextPP(value);
	int			len = Min(VARSIZE_ANY_EXHDR(key), LOGQ_KEY_PREFIX);

	memcpy(prefix, VARDATA_ANY(key), len);
	return (uint8) len;
}

/*
 * The filters of a segment: their number, and in refs where each is.
 */
static int
read_filters(LogqPartition *part, const Datum *values, const bool *isnull,
			 LogqFilterRef **refs)
{
	Datum	   *fields;
	bool	   *nulls;
	int			n;
	int			nrefs = 0;
	int			i;
	const int64 *nvalues;
	const int32 *blocks;
	const int32 *groups;
	const int32 *slots;

	if (!logq_text_array(values[ANUM_SEGMENT_FILTER_FIELDS - 1],
						 isnull[ANUM_SEGMENT_FILTER_FIELDS - 1],
						 &fields, &nulls, &n))
		return 0;
#define NUMBERS(anum, type) \
	logq_number_array(values[(anum) - 1], isnull[(anum) - 1], type, n)
	nvalues = NUMBERS(ANUM_SEGMENT_FILTER_VALUES, INT8OID);
	blocks = NUMBERS(ANUM_SEGMENT_FILTER_BLOCKS, INT4OID);
	groups = NUMBERS(ANUM_SEGMENT_FILTER_GROUPS, INT4OID);
	slots = NUMBERS(ANUM_SEGMENT_FILTER_SLOTS, INT4OID);
#undef NUMBERS
	if (nvalues == NULL || blocks == NULL || groups == NULL || slots == NULL)
		return 0;

	*refs = palloc(Max(n, 1) * sizeof(LogqFilterRef));
	for (i = 0; i < n; i++)
	{
		LogqFilterRef *ref = &(*refs)[nrefs];
		text	   *name;
		int			field;

		if (nulls[i])
			continue;
		name = DatumGetTextPP(fields[i]);
		field = field_index(part, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
		if (field < 0 || slots[i] < 0 || slots[i] >= LOGQ_GROUP_SIZE)
			continue;
		ref->group = groups[i];
		ref->nvalues = (uint32) Min(Max(nvalues[i], 0), PG_UINT32_MAX);
		ref->field = (uint16) field;
		ref->slot = (uint8) slots[i];
		ref->log2_blocks = -1;
		while (ref->log2_blocks < 30 &&
			   (1 << (ref->log2_blocks + 1)) <= blocks[i])
			ref->log2_blocks++;
		nrefs++;
	}
	return nrefs;
}

/*
 * Content of a sealed segment from its row, or NULL when the row has none.
 * One chunk of memory takes it all.  Leaves garbage in the current context.
 */
LogqContent *
logq_content_make(LogqPartition *part, const Datum *values, const bool *isnull)
{
	LogqContents *contents = part->contents;
	LogqContent fixed;
	LogqContent *content;
	uint32		level_rows[LOGQ_MAX_LEVELS];
	uint32		by_level[LOGQ_MAX_LEVELS];
	int			level_of[LOGQ_MAX_LEVELS];
	int			nlevels = 0;
	ServiceRows *services = NULL;
	uint32	   *service_of = NULL;
	LogqFilterRef *refs = NULL;
	const int64 *rows;
	Datum	   *texts;
	bool	   *nulls;
	int			n;
	int			i;
	int			k;
	char	   *at;
	Size		size;

#define VALUE(anum) values[(anum) - 1]
#define ISNULL(anum) isnull[(anum) - 1]

	MemSet(&fixed, 0, sizeof(fixed));
	if (ISNULL(ANUM_SEGMENT_ROWS))
		return NULL;
	if (DatumGetInt64(VALUE(ANUM_SEGMENT_ROWS)) == 0)
	{
		/* matches nothing */
		fixed.min_ts = fixed.min_id = PG_INT64_MAX;
		fixed.max_ts = fixed.max_id = PG_INT64_MIN;
	}
	else
	{
		if (ISNULL(ANUM_SEGMENT_MIN_TS) || ISNULL(ANUM_SEGMENT_MAX_TS) ||
			ISNULL(ANUM_SEGMENT_MIN_ID) || ISNULL(ANUM_SEGMENT_MAX_ID))
			return NULL;
		fixed.min_ts = DatumGetTimestampTz(VALUE(ANUM_SEGMENT_MIN_TS));
		fixed.max_ts = DatumGetTimestampTz(VALUE(ANUM_SEGMENT_MAX_TS));
		fixed.min_id = DatumGetInt64(VALUE(ANUM_SEGMENT_MIN_ID));
		fixed.max_id = DatumGetInt64(VALUE(ANUM_SEGMENT_MAX_ID));
	}
	fixed.odd_case = ISNULL(ANUM_SEGMENT_ODD_CASE) ||
		DatumGetBool(VALUE(ANUM_SEGMENT_ODD_CASE));
	if (!ISNULL(ANUM_SEGMENT_MIN_TRACE_ID) &&
		!ISNULL(ANUM_SEGMENT_MAX_TRACE_ID))
	{
		fixed.has_trace_id = true;
		fixed.min_trace_len = key_prefix(VALUE(ANUM_SEGMENT_MIN_TRACE_ID),
										 fixed.min_trace_id);
		fixed.max_trace_len = key_prefix(VALUE(ANUM_SEGMENT_MAX_TRACE_ID),
										 fixed.max_trace_id);
	}

	fixed.level_rollup = rollup_rows(VALUE(ANUM_SEGMENT_LEVEL_ROLLUP),
									 ISNULL(ANUM_SEGMENT_LEVEL_ROLLUP));
	fixed.service_rollup = rollup_rows(VALUE(ANUM_SEGMENT_SERVICE_ROLLUP),
									   ISNULL(ANUM_SEGMENT_SERVICE_ROLLUP));

	/* levels, as bits */
	if (logq_text_array(VALUE(ANUM_SEGMENT_LEVELS),
						ISNULL(ANUM_SEGMENT_LEVELS), &texts, &nulls, &n) &&
		n <= LOGQ_MAX_LEVELS &&
		(rows = logq_number_array(VALUE(ANUM_SEGMENT_LEVEL_ROWS),
								  ISNULL(ANUM_SEGMENT_LEVEL_ROWS),
								  INT8OID, n)) != NULL)
	{
		fixed.has_levels = true;
		for (i = 0; i < n && fixed.has_levels; i++)
		{
			int			level = 0;

			if (!nulls[i])
			{
				text	   *name = DatumGetTextPP(texts[i]);

				level = level_index(part, VARDATA_ANY(name),
									VARSIZE_ANY_EXHDR(name));
			}
			level_of[i] = level;
			if (level < 0)
				fixed.has_levels = false;
			else
			{
				fixed.levels |= UINT64CONST(1) << level;
				by_level[level] = exact_rows(rows[i]);
			}
		}
		nlevels = n;
		if (!fixed.has_levels)
			fixed.levels = 0;
	}
	for (i = k = 0; i < LOGQ_MAX_LEVELS; i++)
		if (fixed.levels & (UINT64CONST(1) << i))
			level_rows[k++] = by_level[i];
	size = k * sizeof(uint32);

	/* services, as a sorted list */
	if (logq_text_array(VALUE(ANUM_SEGMENT_SERVICES),
						ISNULL(ANUM_SEGMENT_SERVICES), &texts, &nulls, &n) &&
		(rows = logq_number_array(VALUE(ANUM_SEGMENT_SERVICE_ROWS),
								  ISNULL(ANUM_SEGMENT_SERVICE_ROWS),
								  INT8OID, n)) != NULL)
	{
		bool		sorted = true;

		fixed.has_services = true;
		fixed.nservices = n;
		services = palloc(Max(n, 1) * sizeof(ServiceRows));
		service_of = palloc(Max(n, 1) * sizeof(uint32));
		for (i = 0; i < n; i++)
		{
			uint32		service = 0;

			if (!nulls[i])
			{
				text	   *name = DatumGetTextPP(texts[i]);

				service = service_index(part, VARDATA_ANY(name),
										VARSIZE_ANY_EXHDR(name));
			}
			if (i > 0 && service < service_of[i - 1])
				sorted = false;
			services[i].service = service_of[i] = service;
			services[i].rows = exact_rows(rows[i]);
		}
		if (!sorted)
			qsort(services, n, sizeof(ServiceRows), compare_services);
		size += n * 2 * sizeof(uint32);
	}

	/* rows of each pair of the two */
	if (fixed.has_levels && fixed.has_services &&
		(rows = logq_number_array(VALUE(ANUM_SEGMENT_SERVICE_LEVEL_ROWS),
								  ISNULL(ANUM_SEGMENT_SERVICE_LEVEL_ROWS),
								  INT8OID, fixed.nservices * nlevels)) != NULL)
	{
		for (i = 0; i < fixed.nservices; i++)
		{
			double	   *sums = part->service_level_rows +
				(size_t) service_of[i] * part->nlevels;

			for (k = 0; k < nlevels; k++)
				sums[level_of[k]] += *rows++;
		}
	}

	fixed.nfilters = read_filters(part, values, isnull, &refs);
	size += fixed.nfilters * sizeof(LogqFilterRef);

	content = MemoryContextAllocHuge(contents->cxt,
									 MAXALIGN(sizeof(fixed)) + size);
	at = (char *) content + MAXALIGN(sizeof(fixed));
	fixed.level_rows = (uint32 *) at;
	n = pg_popcount64(fixed.levels);
	memcpy(at, level_rows, n * sizeof(uint32));
	at += n * sizeof(uint32);
	fixed.services = (uint32 *) at;
	at += fixed.nservices * sizeof(uint32);
	fixed.service_rows = (uint32 *) at;
	at += fixed.nservices * sizeof(uint32);
	fixed.filters = (LogqFilterRef *) at;
	for (i = 0; i < fixed.nservices; i++)
	{
		fixed.services[i] = services[i].service;
		fixed.service_rows[i] = services[i].rows;
	}
	if (fixed.nfilters > 0)
		memcpy(at, refs, fixed.nfilters * sizeof(LogqFilterRef));
	*content = fixed;
	contents->live += GetMemoryChunkSpace(content);
	return content;
#undef VALUE
#undef ISNULL
}

/*
 * Segments read from the partition itself are about to replace ours: those
 * with the same name and version take over their contents.  Both are sorted.
 */
void
logq_contents_carry(LogqPartition *part, LogqSegment *segments, int nsegments)
{
	int			old = 0;
	int			i;

	if (part->contents == NULL)
		return;
	if (part->version == 0)
	{
		logq_contents_reset(part);
		return;
	}
	for (i = 0; i < nsegments; i++)
	{
		LogqSegment *ours;

		while (old < part->nsegments &&
			   part->segments[old].lower < segments[i].lower)
			old++;
		if (old == part->nsegments)
			break;
		ours = &part->segments[old];
		if (ours->lower == segments[i].lower && segments[i].sealed &&
			ours->version == segments[i].version &&
			strcmp(ours->name, segments[i].name) == 0)
		{
			segments[i].content = ours->content;
			ours->content = NULL;
		}
	}
	for (i = 0; i < part->nsegments; i++)
		logq_content_release(part, &part->segments[i]);
}

/*
 * What we read of the tables in this transaction was rolled back.  Contents
 * are still true, as they came from the partition, but what is new in the
 * tables since then cannot be told from "changed".
 */
void
logq_contents_forget_tables(LogqPartition *part)
{
	part->changed = 0;
	if (part->contents != NULL)
		part->contents->seen = 0;
}

/*
 * Index of a field that has filters, or -1.
 */
int
logq_catalog_field(const LogqPartition *part, const char *field)
{
	int			i;

	for (i = 0; i < part->nfields; i++)
		if (strcmp(part->fields[i], field) == 0)
			return i;
	return -1;
}

/*
 * The filter of a field, if the segment has one.
 */
const LogqFilterRef *
logq_segment_filter(const LogqSegment *seg, int field)
{
	int			i;

	if (seg->content == NULL || field < 0)
		return NULL;
	for (i = 0; i < seg->content->nfilters; i++)
	{
		const LogqFilterRef *ref = &seg->content->filters[i];

		if (ref->field == field)
			return ref->log2_blocks < 0 ? NULL : ref;
	}
	return NULL;
}
