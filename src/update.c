/*-------------------------------------------------------------------------
 *
 * update.c
 *		Brings a session's view of a partition up to date with the
 *		coordinator's tables.
 *
 * logq.catalog and logq.catalog_segment are a copy of what the partitions'
 * own catalogs say.  Each backend takes from it the list of segments and
 * their contents.  logq.catalog.changed grows with each change of the copy,
 * so a backend that has taken in what was there at one value needs only the
 * rows of higher ones.
 *
 * Invariants: any list of segments may be used at any time, as each request
 * checks its version; a list is still never replaced by one of a lower
 * version.  The tables are read under a snapshot of their own, the newest
 * there is, whatever the isolation level: this is a cache, not data.
 *
 * Failure cases: an update that fails half-way leaves segments in place and is
 * marked, so that the next one begins anew.  Without the tables (the extension
 * is being dropped) nothing changes.  In parallel mode no new snapshot can be
 * had, so nothing is brought up to date.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "contents.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* released contents are swept out when they take more than the live ones, and
 * more than this */
#define MIN_GARBAGE (1024 * 1024)
/* how far contents may go beyond their limit while they are read */
#define BUDGET_SLACK(budget) ((budget) + (budget) / 4)

/* transactions of this backend so far */
static uint64 xact_count = 1;

/*
 * A transaction is over: the tables may be looked at again.
 */
static void
count_xact(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		xact_count++;
}

/*
 * Oid of a table or index in schema logq.
 */
Oid
logq_relation_oid(const char *name)
{
	Oid			namespace = get_namespace_oid("logq", true);

	return OidIsValid(namespace) ? get_relname_relid(name, namespace) :
		InvalidOid;
}

/*
 * The newest snapshot that may be taken now, registered.
 */
Snapshot
logq_latest_snapshot(void)
{
	return RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() :
							GetLatestSnapshot());
}

/*
 * Order of segments by time.
 */
static int
compare_segments(const void *a, const void *b)
{
	const LogqSegment *left = a;
	const LogqSegment *right = b;

	return left->lower < right->lower ? -1 : left->lower > right->lower;
}

/* Rows of logq.catalog_segment being read */
typedef struct SegmentScan
{
	LogqPartition *part;
	MemoryContext scratch;		/* for each row */
	SysScanDesc scan;
	TupleDesc	desc;
	Datum		values[NATTS_SEGMENT];
	bool		isnull[NATTS_SEGMENT];
	LogqSegment seg;			/* the row; name points into it */
	int64		changed;
} SegmentScan;

/*
 * The next row.  False: there are no more.
 */
static bool
next_segment(SegmentScan *scan)
{
	HeapTuple	tuple = systable_getnext(scan->scan);
	LogqSegment *seg = &scan->seg;
	Datum	   *values = scan->values;
	text	   *state;

	MemoryContextReset(scan->scratch);
	if (!HeapTupleIsValid(tuple))
		return false;
	heap_deform_tuple(tuple, scan->desc, values, scan->isnull);
	seg->lower = DatumGetTimestampTz(values[ANUM_SEGMENT_LOWER - 1]);
	seg->upper = DatumGetTimestampTz(values[ANUM_SEGMENT_UPPER - 1]);
	seg->name = NameStr(*DatumGetName(values[ANUM_SEGMENT_NAME - 1]));
	seg->version = DatumGetInt64(values[ANUM_SEGMENT_VERSION - 1]);
	state = DatumGetTextPP(values[ANUM_SEGMENT_STATE - 1]);
	/* without its rows nothing that is said of it would be exact */
	seg->sealed = VARSIZE_ANY_EXHDR(state) == 6 &&
		memcmp(VARDATA_ANY(state), "sealed", 6) == 0 &&
		!scan->isnull[ANUM_SEGMENT_ROWS - 1];
	if (seg->sealed)
		seg->rows = (double) DatumGetInt64(values[ANUM_SEGMENT_ROWS - 1]);
	else
		seg->rows = DatumGetFloat8(values[ANUM_SEGMENT_ESTIMATED_ROWS - 1]);
	seg->content = NULL;
	scan->changed = DatumGetInt64(values[ANUM_SEGMENT_CHANGED - 1]);
	return true;
}

/*
 * Content of the row, or NULL when it has none or there is no room.
 */
static LogqContent *
read_content(SegmentScan *scan)
{
	MemoryContext old;
	LogqContent *content;

	if (!scan->seg.sealed || scan->seg.lower < scan->part->contents->floor)
		return NULL;
	old = MemoryContextSwitchTo(scan->scratch);
	content = logq_content_make(scan->part, scan->values, scan->isnull);
	MemoryContextSwitchTo(old);
	return content;
}

/*
 * The segment of ours that has the row's bounds and name, or NULL.
 */
static LogqSegment *
find_segment(const LogqPartition *part, const LogqSegment *seg)
{
	LogqSegment *found;
	int			i = logq_segment_search(part, seg->lower);

	if (i == part->nsegments)
		return NULL;
	found = &part->segments[i];
	if (found->lower != seg->lower || found->upper != seg->upper ||
		strcmp(found->name, seg->name) != 0)
		return NULL;
	return found;
}

/*
 * Take in contents of those segments whose version is also ours.
 */
static void
take_contents(SegmentScan *scan)
{
	LogqPartition *part = scan->part;

	while (next_segment(scan))
	{
		LogqSegment *ours = find_segment(part, &scan->seg);
		LogqContent *content;

		if (ours == NULL || ours->version != scan->seg.version)
			continue;
		content = read_content(scan);
		logq_content_release(part, ours);
		ours->content = content;
		if (part->contents->live > BUDGET_SLACK(part->contents->budget))
			logq_contents_enforce(part, part->segments, part->nsegments);
	}
	logq_contents_enforce(part, part->segments, part->nsegments);
}

/*
 * Do segments, sorted by time, overlap?
 */
static bool
segments_overlap(const LogqSegment *segments, int nsegments)
{
	int			i;

	for (i = 0; i < nsegments; i++)
		if (segments[i].lower >= segments[i].upper ||
			(i > 0 && segments[i].lower < segments[i - 1].upper))
			return true;
	return false;
}

/*
 * Add the row to a list in cxt.
 */
static LogqSegment *
add_segment(SegmentScan *scan, MemoryContext cxt, LogqSegment **segments,
			int *n, int *size)
{
	LogqSegment *seg;
	char	   *name = MemoryContextStrdup(cxt, scan->seg.name);

	if (*n == *size)
	{
		*size *= 2;
		*segments = repalloc_huge(*segments,
								  (Size) *size * sizeof(LogqSegment));
	}
	seg = &(*segments)[(*n)++];
	*seg = scan->seg;
	seg->name = name;
	return seg;
}

/*
 * Take in rows that were changed, and those that are new; ours came from the
 * same tables.  False: that cannot be, everything must be read.
 */
static bool
take_changes(SegmentScan *scan)
{
	LogqPartition *part = scan->part;
	LogqSegment *added;
	int			nadded = 0;
	int			size = 16;

	added = palloc(size * sizeof(LogqSegment));
	while (next_segment(scan))
	{
		LogqSegment *ours = find_segment(part, &scan->seg);
		LogqContent *content = read_content(scan);

		if (ours == NULL)
			ours = add_segment(scan, part->cxt, &added, &nadded, &size);
		else
		{
			logq_content_release(part, ours);
			ours->rows = scan->seg.rows;
			ours->version = scan->seg.version;
			ours->sealed = scan->seg.sealed;
		}
		ours->content = content;
	}
	if (nadded > 0)
	{
		part->segments = repalloc_huge(part->segments,
									   (Size) (part->nsegments + nadded) *
									   sizeof(LogqSegment));
		memcpy(part->segments + part->nsegments, added,
			   nadded * sizeof(LogqSegment));
		part->nsegments += nadded;
		qsort(part->segments, part->nsegments, sizeof(LogqSegment),
			  compare_segments);
	}
	pfree(added);
	if (nadded > 0 && segments_overlap(part->segments, part->nsegments))
		return false;
	logq_contents_enforce(part, part->segments, part->nsegments);
	logq_catalog_sum_rows(part);
	return true;
}

/*
 * Take the whole list; contents of rows that we have seen stay as they are.
 */
static bool
take_list(SegmentScan *scan, int64 version, int64 changed)
{
	LogqPartition *part = scan->part;
	LogqContents *contents = part->contents;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext,
											  "logq segments",
											  ALLOCSET_SMALL_SIZES);
	LogqSegment *segments;
	int			nsegments = 0;
	int			size = 64;
	int			i;

	segments = MemoryContextAlloc(cxt, size * sizeof(LogqSegment));
	while (next_segment(scan))
	{
		LogqSegment *ours = find_segment(part, &scan->seg);
		LogqSegment *seg = add_segment(scan, cxt, &segments, &nsegments,
									   &size);

		if (ours != NULL && ours->content != NULL && seg->sealed &&
			ours->version == seg->version && scan->changed <= contents->seen)
		{
			seg->content = ours->content;
			ours->content = NULL;
		}
		else
			seg->content = read_content(scan);
		if (contents->live > BUDGET_SLACK(contents->budget))
		{
			for (i = 0; i < part->nsegments; i++)
				logq_content_release(part, &part->segments[i]);
			qsort(segments, nsegments, sizeof(LogqSegment), compare_segments);
			logq_contents_enforce(part, segments, nsegments);
		}
	}
	for (i = 0; i < part->nsegments; i++)
		logq_content_release(part, &part->segments[i]);
	qsort(segments, nsegments, sizeof(LogqSegment), compare_segments);
	if (segments_overlap(segments, nsegments))
		return false;
	logq_contents_enforce(part, segments, nsegments);
	logq_catalog_put(part, cxt, segments, nsegments, version, changed);
	return true;
}

/* How to take in what the tables have */
typedef enum TakeMode
{
	TAKE_NOTHING,
	TAKE_CONTENTS,				/* for the list that we have */
	TAKE_CHANGES,				/* of a list that came from there */
	TAKE_LIST
} TakeMode;

/*
 * Read rows that were changed after "since".  False: a list cannot be used.
 */
static bool
read_segments(LogqPartition *part, TakeMode mode, int64 since, int64 version,
			  int64 changed, Snapshot snapshot)
{
	Oid			relid = logq_relation_oid("catalog_segment");
	Oid			index = logq_relation_oid("catalog_segment_changed");
	Relation	rel;
	SegmentScan scan;
	ScanKeyData keys[2];
	bool		done = true;

	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	if (rel == NULL)
		return false;
	MemSet(&scan, 0, sizeof(scan));
	scan.part = part;
	scan.desc = RelationGetDescr(rel);
	scan.scratch = AllocSetContextCreate(CurrentMemoryContext, "logq segment",
										 ALLOCSET_DEFAULT_SIZES);
	ScanKeyInit(&keys[0], ANUM_SEGMENT_NUMBER, BTEqualStrategyNumber,
				F_INT4EQ, Int32GetDatum(part->number));
	ScanKeyInit(&keys[1], ANUM_SEGMENT_CHANGED, BTGreaterStrategyNumber,
				F_INT8GT, Int64GetDatum(since));
	scan.scan = systable_beginscan(rel, index, OidIsValid(index), snapshot,
								   2, keys);
	switch (mode)
	{
		case TAKE_NOTHING:
			break;
		case TAKE_CONTENTS:
			take_contents(&scan);
			break;
		case TAKE_CHANGES:
			done = take_changes(&scan);
			break;
		case TAKE_LIST:
			done = take_list(&scan, version, changed);
			break;
	}
	systable_endscan(scan.scan);
	table_close(rel, AccessShareLock);
	MemoryContextDelete(scan.scratch);
	return done;
}

/*
 * Take in what the tables have of a partition, given its row in logq.catalog.
 */
static void
take_in(LogqPartition *part, int64 version, int64 changed, int64 deleted,
		bool fresh, Snapshot snapshot)
{
	LogqContents *contents = part->contents;
	TakeMode	mode;
	bool		same_list = part->changed > 0 &&
		part->changed == contents->seen;
	bool		loaded = part->loaded;

	if (changed == contents->seen && !fresh &&
		(part->loaded || same_list))
	{
		/* nothing new; if a request found our list outdated, so be it */
		part->loaded = true;
		return;
	}
	if (part->loaded && (version < part->version ||
						 (version == part->version && part->changed == 0)))
		mode = TAKE_CONTENTS;
	else if (same_list && !fresh && changed > contents->seen &&
			 deleted <= contents->seen)
		mode = TAKE_CHANGES;
	else
		mode = TAKE_LIST;

	if (fresh)
		logq_contents_reset(part);
	/* in case of an error */
	contents->broken = true;
	part->loaded = loaded && mode != TAKE_CHANGES;

	if (!read_segments(part, mode,
					   mode == TAKE_LIST || changed < contents->seen ? 0 :
					   contents->seen, version, changed, snapshot))
	{
		/* the partition itself must tell */
		ereport(DEBUG1,
				(errmsg_internal("segments of partition \"%s\" in \"logq.catalog_segment\" cannot be used",
								 part->name)));
		part->loaded = loaded && mode != TAKE_CHANGES;
		part->changed = 0;
		return;
	}
	if (mode == TAKE_CHANGES)
	{
		if (part->version != version)
			part->confirmed_at = 0;
		part->version = version;
		part->changed = changed;
		part->loaded = true;
	}
	else if (mode == TAKE_CONTENTS)
		part->changed = version == part->version ? changed : 0;
	contents->seen = changed;
	contents->broken = false;
}

/*
 * Bring our copy up to date with the tables.
 */
void
logq_catalog_update(LogqPartition *part)
{
	static bool registered = false;
	LogqContents *contents = logq_contents_get(part);
	LogqConfirmation shared;
	MemoryContext cxt;
	MemoryContext old;
	Oid			relid;
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	int64		budget;
	bool		fresh;

	if (IsInParallelMode())
		return;
	if (!registered)
	{
		RegisterXactCallback(count_xact, NULL);
		registered = true;
	}

	budget = (int64) logq_catalog_memory * 1024 /
		Max(logq_partition_count(), 1);
	fresh = contents->broken || part->version == 0 ||
		(contents->garbage > MIN_GARBAGE &&
		 contents->garbage > contents->live) ||
		(budget > contents->budget && contents->floor > DT_NOBEGIN);
	if (budget < contents->budget)
	{
		contents->budget = budget;
		logq_contents_enforce(part, part->segments, part->nsegments);
	}

	if (!fresh && part->loaded)
	{
		if (logq_shmem_get(part->number, &shared) ?
			shared.changed == contents->seen :
			contents->checked == xact_count)
			return;
	}
	contents->checked = xact_count;
	contents->budget = budget;

	relid = logq_relation_oid("catalog");
	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	if (rel == NULL)
		return;
	cxt = AllocSetContextCreate(CurrentMemoryContext, "logq catalog update",
								ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	snapshot = logq_latest_snapshot();
	relid = logq_relation_oid("catalog_pkey");
	ScanKeyInit(&key, ANUM_CATALOG_NUMBER, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(part->number));
	scan = systable_beginscan(rel, relid, OidIsValid(relid), snapshot, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		bool		isnull;

#define COLUMN(anum) DatumGetInt64(heap_getattr(tuple, anum, desc, &isnull))
		take_in(part, COLUMN(ANUM_CATALOG_VERSION),
				COLUMN(ANUM_CATALOG_CHANGED), COLUMN(ANUM_CATALOG_DELETED),
				fresh, snapshot);
#undef COLUMN
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}
