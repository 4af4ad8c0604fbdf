/*-------------------------------------------------------------------------
 *
 * probe.c
 *		Asks filters and sketches that lie in the coordinator's tables.
 *
 * Filters are large and a look-up needs only 32 bytes of each.  Those of 64
 * segments lie block by block in logq.catalog_filter_group: the row of block
 * i has, for each of the 64, the block that decides about a hash whose block
 * would be i in the largest of them.  So one short row answers for 64
 * segments.  Younger filters lie in rows of their own.  Those that are asked
 * are kept in this backend's memory, as far as there is room; of others a
 * slice is read.
 *
 * Invariants: rows of a group never change, and no number of a group comes
 * again; a reference to a slot belongs to a version of its segment, so it may
 * be out of date, but never wrong.  A row that is not there, or is not what
 * it should be, means that the segment may hold the value.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "probe.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "contents.h"
#include "lookup.h"
#include "sketch.h"

/* share of logq.catalog_memory that filters may take */
#define KEPT_SHARE 4

/* One filter to be asked */
typedef struct Probe
{
	const LogqSegment *seg;
	const LogqFilterRef *ref;
	bool	   *maybe;
} Probe;

/* A filter that is kept, of contents->filters */
typedef struct KeptFilterKey
{
	int64		version;		/* of the segment */
	TimestampTz lower;
	int64		field;
} KeptFilterKey;

typedef struct KeptFilter
{
	KeptFilterKey key;			/* hash key */
	uint8	   *filter;
} KeptFilter;

/* Size of a group, of contents->groups */
typedef struct GroupSize
{
	int32		group;			/* hash key */
	int8		log2_blocks;	/* -1: it cannot be read */
} GroupSize;

/*
 * log2 of the number of blocks of a group, which is remembered: it is found
 * by a look-up of its own.  -1: it cannot be read.
 */
static int
group_size(LogqPartition *part, const char *field, int32 group,
		   LogqLookup *lookup, Snapshot snapshot)
{
	LogqContents *contents = part->contents;
	GroupSize  *size;
	HeapTuple	tuple;
	bool		found;
	bool		isnull;
	int			log2_blocks = -1;

	if (contents->groups == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(GroupSize);
		ctl.hcxt = contents->dict;
		contents->groups = hash_create("logq groups", 64, &ctl,
									   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	size = hash_search(contents->groups, &group, HASH_FIND, NULL);
	if (size != NULL)
		return size->log2_blocks;

	if (lookup->rel == NULL)
	{
		if (!logq_lookup_open(lookup, "catalog_filter_group",
							  "catalog_filter_group_pkey", snapshot))
			return -1;
		logq_lookup_key(lookup, F_INT4EQ, Int32GetDatum(part->number));
		logq_lookup_key(lookup, F_TEXTEQ, CStringGetTextDatum(field));
		logq_lookup_key(lookup, F_INT4EQ, 0);
	}
	lookup->keys[ANUM_GROUP_GROUP - 1].sk_argument = Int32GetDatum(group);
	tuple = logq_lookup_row(lookup, true);
	/* gone, or not yet there for our snapshot: may be another time */
	if (!HeapTupleIsValid(tuple))
		return -1;
	found = false;
	{
		int32		last = DatumGetInt32(heap_getattr(tuple, ANUM_GROUP_BLOCK,
													  RelationGetDescr(lookup->rel),
													  &isnull));

		while (log2_blocks < LOGQ_BLOOM_MAX_LOG2 && !found)
		{
			log2_blocks++;
			found = (1 << log2_blocks) == last + 1;
		}
	}
	if (!found)
		log2_blocks = -1;
	size = hash_search(contents->groups, &group, HASH_ENTER, NULL);
	size->log2_blocks = (int8) log2_blocks;
	return log2_blocks;
}

/*
 * Take the answer of a block into account.
 */
static inline void
answer(Probe *probe, bool require_all, bool hit)
{
	if (hit != require_all)
		*probe->maybe = hit;
}

/*
 * Ask filters that are all in one group.  Their answers are as if nothing had
 * been asked: true when all hashes are required, else false.
 */
static void
probe_group(LogqLookup *lookup, int log2_blocks, const uint64 *hashes,
			int nhashes, bool require_all, Probe *probes, int nprobes)
{
	int32		group = probes[0].ref->group;
	int			open = nprobes;
	int			i;
	int			k;

	CHECK_FOR_INTERRUPTS();
	for (i = 0; i < nhashes && open > 0; i++)
	{
		HeapTuple	tuple = NULL;
		const bytea *data = NULL;

		if (log2_blocks >= 0)
		{
			lookup->keys[ANUM_GROUP_GROUP - 1].sk_argument =
				Int32GetDatum(group);
			lookup->keys[ANUM_GROUP_BLOCK - 1].sk_argument =
				Int32GetDatum((int32) logq_bloom_block(log2_blocks,
													   hashes[i]));
			tuple = logq_lookup_row(lookup, false);
		}
		if (HeapTupleIsValid(tuple))
		{
			bool		isnull;

			/* stored plain, so there is nothing to detoast */
			data = (bytea *) DatumGetPointer(heap_getattr(tuple,
														  ANUM_GROUP_DATA,
														  RelationGetDescr(lookup->rel),
														  &isnull));
			if (VARATT_IS_EXTENDED(data) || VARSIZE(data) !=
				VARHDRSZ + LOGQ_GROUP_SIZE * LOGQ_BLOOM_BLOCK)
				data = NULL;
		}
		open = 0;
		for (k = 0; k < nprobes; k++)
		{
			Probe	   *probe = &probes[k];

			/* decided already? */
			if (*probe->maybe != require_all)
				continue;
			answer(probe, require_all, data == NULL ||
				   logq_bloom_block_test((const uint8 *) VARDATA(data) +
										 probe->ref->slot * LOGQ_BLOOM_BLOCK,
										 hashes[i]));
			if (*probe->maybe == require_all)
				open++;
		}
	}
}

/*
 * The place of a filter among those that are kept.  When it is not there it
 * is added, without the filter, if there is room for so many bytes; 0 bytes
 * only look it up.
 */
static KeptFilter *
kept_filter(LogqPartition *part, const Probe *probe, Size size)
{
	LogqContents *contents = part->contents;
	KeptFilterKey key;
	KeptFilter *kept;

	key.version = probe->seg->version;
	key.lower = probe->seg->lower;
	key.field = probe->ref->field;
	if (contents->filters != NULL)
	{
		kept = hash_search(contents->filters, &key, HASH_FIND, NULL);
		if (size == 0 || (kept != NULL && kept->filter != NULL))
			return kept;
	}
	if (size == 0)
		return NULL;

	if (contents->filters_size + size > (Size) logq_catalog_memory * 1024 /
		KEPT_SHARE / Max(logq_partition_count(), 1))
	{
		/* some of them may be of the past by now */
		if (contents->filters_changed == part->changed)
			return NULL;
		MemoryContextReset(contents->filters_cxt);
		contents->filters = NULL;
		contents->filters_size = 0;
	}
	if (contents->filters == NULL)
	{
		HASHCTL		ctl;

		if (contents->filters_cxt == NULL)
			contents->filters_cxt = AllocSetContextCreate(contents->dict,
														  "logq filters",
														  ALLOCSET_DEFAULT_SIZES);
		ctl.keysize = sizeof(KeptFilterKey);
		ctl.entrysize = sizeof(KeptFilter);
		ctl.hcxt = contents->filters_cxt;
		contents->filters = hash_create("logq kept filters", 64, &ctl,
										HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		contents->filters_changed = part->changed;
	}
	kept = hash_search(contents->filters, &key, HASH_ENTER, NULL);
	kept->filter = NULL;
	return kept;
}

/*
 * Keep a filter that has just been found, if there is room.
 */
static const uint8 *
keep_filter(LogqPartition *part, const Probe *probe, Datum filter)
{
	Size		size = logq_bloom_size(probe->ref->log2_blocks);
	KeptFilter *kept = kept_filter(part, probe, size);
	bytea	   *bytes;

	if (kept == NULL)
		return NULL;
	bytes = DatumGetByteaPP(filter);
	kept->filter = memcpy(MemoryContextAlloc(part->contents->filters_cxt,
											 size),
						  VARDATA_ANY(bytes), size);
	part->contents->filters_size += GetMemoryChunkSpace(kept->filter) +
		2 * sizeof(KeptFilter);
	if ((Pointer) bytes != DatumGetPointer(filter))
		pfree(bytes);
	return kept->filter;
}

/*
 * Ask a filter that is in memory.
 */
static void
probe_kept(const uint8 *filter, const uint64 *hashes, int nhashes,
		   bool require_all, Probe *probe)
{
	int			i;

	for (i = 0; i < nhashes && *probe->maybe == require_all; i++)
		answer(probe, require_all, logq_bloom_test(filter, hashes[i]));
}

/*
 * Ask a filter that has a row of its own.
 */
static void
probe_own(LogqPartition *part, LogqLookup *lookup, const uint64 *hashes,
		  int nhashes, bool require_all, Probe *probe)
{
	TupleDesc	desc = RelationGetDescr(lookup->rel);
	int			log2_blocks = probe->ref->log2_blocks;
	HeapTuple	tuple;
	Datum		filter = 0;
	bool		isnull;
	bool		readable = false;
	NameData	segment;
	int			i;

	CHECK_FOR_INTERRUPTS();
	namestrcpy(&segment, probe->seg->name);
	lookup->keys[ANUM_FILTER_SEGMENT - 1].sk_argument = NameGetDatum(&segment);
	tuple = logq_lookup_row(lookup, false);
	if (HeapTupleIsValid(tuple) &&
		DatumGetInt64(heap_getattr(tuple, ANUM_FILTER_VERSION, desc,
								   &isnull)) == probe->seg->version)
	{
		filter = heap_getattr(tuple, ANUM_FILTER_FILTER, desc, &isnull);
		if (!isnull && toast_raw_datum_size(filter) - VARHDRSZ ==
			logq_bloom_size(log2_blocks))
		{
			bytea	   *header = DatumGetByteaPSlice(filter, 0,
													 LOGQ_BLOOM_HEADER);
			const uint8 *bytes = (const uint8 *) VARDATA_ANY(header);

			readable = bytes[0] == LOGQ_BLOOM_VERSION &&
				logq_bloom_get_log2_blocks(bytes) == log2_blocks;
		}
	}
	if (readable)
	{
		const uint8 *kept = keep_filter(part, probe, filter);

		if (kept != NULL)
		{
			probe_kept(kept, hashes, nhashes, require_all, probe);
			return;
		}
	}
	for (i = 0; i < nhashes && *probe->maybe == require_all; i++)
	{
		bytea	   *block;

		if (!readable)
		{
			answer(probe, require_all, true);
			continue;
		}
		block = DatumGetByteaPSlice(filter, LOGQ_BLOOM_HEADER +
									logq_bloom_block(log2_blocks, hashes[i]) *
									LOGQ_BLOOM_BLOCK, LOGQ_BLOOM_BLOCK);
		answer(probe, require_all,
			   logq_bloom_block_test((const uint8 *) VARDATA_ANY(block),
									 hashes[i]));
	}
}

/*
 * Order of probes by group.
 */
static int
compare_probes(const void *a, const void *b)
{
	int32		left = ((const Probe *) a)->ref->group;
	int32		right = ((const Probe *) b)->ref->group;

	return left < right ? -1 : left > right;
}

/*
 * Ask those filters that are in groups, which are sorted by group.
 */
static void
probe_groups(LogqPartition *part, const char *field, const uint64 *hashes,
			 int nhashes, bool require_all, Probe *probes, int nprobes,
			 Snapshot snapshot)
{
	LogqLookup	lookup;
	LogqLookup	sizes;
	bool		readable;
	int			first;
	int			last;

	MemSet(&sizes, 0, sizeof(sizes));
	readable = logq_lookup_open(&lookup, "catalog_filter_group",
								"catalog_filter_group_pkey", snapshot);
	logq_lookup_key(&lookup, F_INT4EQ, Int32GetDatum(part->number));
	logq_lookup_key(&lookup, F_TEXTEQ, CStringGetTextDatum(field));
	logq_lookup_key(&lookup, F_INT4EQ, 0);
	logq_lookup_key(&lookup, F_INT4EQ, 0);
	for (first = 0; first < nprobes; first = last)
	{
		int32		group = probes[first].ref->group;

		for (last = first + 1; last < nprobes; last++)
			if (probes[last].ref->group != group)
				break;
		probe_group(&lookup, !readable ? -1 :
					group_size(part, field, group, &sizes, snapshot),
					hashes, nhashes, require_all, probes + first,
					last - first);
	}
	logq_lookup_close(&sizes);
	logq_lookup_close(&lookup);
}

/*
 * Ask the filters of one field of some segments.
 */
void
logq_probe_filters(LogqPartition *part, int field, const uint64 *hashes,
				   int nhashes, bool require_all, const int *segments,
				   int nsegments, bool *maybe)
{
	MemoryContext cxt;
	MemoryContext old;
	Snapshot	snapshot;
	Probe	   *probes;
	int			ngrouped = 0;
	int			nown = 0;
	bool		sorted = true;
	int			i;

	cxt = AllocSetContextCreate(CurrentMemoryContext, "logq probe",
								ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	/* those in groups from the front, others from the back */
	probes = palloc_extended((Size) Max(nsegments, 1) * sizeof(Probe),
							 MCXT_ALLOC_HUGE);
	for (i = 0; i < nsegments; i++)
	{
		const LogqSegment *seg = &part->segments[segments[i]];
		const LogqFilterRef *ref = logq_segment_filter(seg, field);
		Probe	   *probe;

		maybe[i] = ref == NULL ? true : require_all;
		if (ref == NULL || nhashes == 0)
			continue;
		if (ref->group > 0)
		{
			if (ngrouped > 0 && probes[ngrouped - 1].ref->group > ref->group)
				sorted = false;
			probe = &probes[ngrouped++];
		}
		else
			probe = &probes[nsegments - ++nown];
		probe->seg = seg;
		probe->ref = ref;
		probe->maybe = &maybe[i];
		if (ref->group == 0)
		{
			KeptFilter *kept = kept_filter(part, probe, 0);

			if (kept == NULL || kept->filter == NULL)
				continue;
			probe_kept(kept->filter, hashes, nhashes, require_all, probe);
			nown--;
		}
	}

	if (ngrouped + nown > 0)
	{
		const char *name = part->fields[field];

		snapshot = logq_latest_snapshot();
		if (!sorted)
			qsort(probes, ngrouped, sizeof(Probe), compare_probes);
		if (ngrouped > 0)
			probe_groups(part, name, hashes, nhashes, require_all, probes,
						 ngrouped, snapshot);
		if (nown > 0)
		{
			LogqLookup	lookup;
			bool		readable;

			readable = logq_lookup_open(&lookup, "catalog_filter",
										"catalog_filter_pkey", snapshot);
			logq_lookup_key(&lookup, F_INT4EQ, Int32GetDatum(part->number));
			logq_lookup_key(&lookup, F_NAMEEQ, 0);
			logq_lookup_key(&lookup, F_TEXTEQ, CStringGetTextDatum(name));
			for (i = nsegments - nown; i < nsegments; i++)
			{
				if (readable)
					probe_own(part, &lookup, hashes, nhashes, require_all,
							  &probes[i]);
				else
					*probes[i].maybe = true;
			}
			logq_lookup_close(&lookup);
		}
		UnregisterSnapshot(snapshot);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

/*
 * The sketch of a segment's field, or NULL.
 */
bytea *
logq_read_sketch(LogqPartition *part, const LogqSegment *seg,
				 const char *field)
{
	Snapshot	snapshot = logq_latest_snapshot();
	LogqLookup	lookup;
	NameData	segment;
	bytea	   *sketch = NULL;

	namestrcpy(&segment, seg->name);
	if (seg->sealed && logq_lookup_open(&lookup, "catalog_filter",
										"catalog_filter_pkey", snapshot))
	{
		TupleDesc	desc = RelationGetDescr(lookup.rel);
		HeapTuple	tuple;
		bool		isnull;

		logq_lookup_key(&lookup, F_INT4EQ, Int32GetDatum(part->number));
		logq_lookup_key(&lookup, F_NAMEEQ, NameGetDatum(&segment));
		logq_lookup_key(&lookup, F_TEXTEQ, CStringGetTextDatum(field));
		tuple = logq_lookup_row(&lookup, false);
		if (HeapTupleIsValid(tuple) &&
			DatumGetInt64(heap_getattr(tuple, ANUM_FILTER_VERSION, desc,
									   &isnull)) == seg->version)
		{
			Datum		value = heap_getattr(tuple, ANUM_FILTER_SKETCH, desc,
											 &isnull);

			if (!isnull)
				sketch = DatumGetByteaPCopy(value);
			if (sketch != NULL &&
				!logq_sketch_valid((const uint8 *) VARDATA(sketch),
								   VARSIZE(sketch) - VARHDRSZ))
			{
				pfree(sketch);
				sketch = NULL;
			}
		}
		logq_lookup_close(&lookup);
	}
	UnregisterSnapshot(snapshot);
	return sketch;
}
