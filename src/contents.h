/*-------------------------------------------------------------------------
 *
 * contents.h
 *		What the files around the catalog share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CONTENTS_H
#define LOGQ_CONTENTS_H

#include "catalog.h"

#include "utils/snapshot.h"

/* ---------- columns of the coordinator's tables, by number ---------- */

enum
{
	ANUM_CATALOG_NUMBER = 1,
	ANUM_CATALOG_VERSION,
	ANUM_CATALOG_CHANGED,
	ANUM_CATALOG_DELETED,
	ANUM_CATALOG_INTERVAL,
	ANUM_CATALOG_RETENTION,
	ANUM_CATALOG_COPIED_AT
};

enum
{
	ANUM_SEGMENT_NUMBER = 1,
	ANUM_SEGMENT_NAME,
	ANUM_SEGMENT_CHANGED,
	ANUM_SEGMENT_LOWER,
	ANUM_SEGMENT_UPPER,
	ANUM_SEGMENT_STATE,
	ANUM_SEGMENT_VERSION,
	ANUM_SEGMENT_ESTIMATED_ROWS,
	ANUM_SEGMENT_SEALED_AT,
	ANUM_SEGMENT_ROWS,
	ANUM_SEGMENT_BYTES,
	ANUM_SEGMENT_MIN_TS,
	ANUM_SEGMENT_MAX_TS,
	ANUM_SEGMENT_MIN_ID,
	ANUM_SEGMENT_MAX_ID,
	ANUM_SEGMENT_MIN_TRACE_ID,
	ANUM_SEGMENT_MAX_TRACE_ID,
	ANUM_SEGMENT_LEVELS,
	ANUM_SEGMENT_LEVEL_ROWS,
	ANUM_SEGMENT_SERVICES,
	ANUM_SEGMENT_SERVICE_ROWS,
	ANUM_SEGMENT_SERVICE_LEVEL_ROWS,
	ANUM_SEGMENT_ODD_CASE,
	ANUM_SEGMENT_LEVEL_ROLLUP,
	ANUM_SEGMENT_SERVICE_ROLLUP,
	ANUM_SEGMENT_FILTER_FIELDS,
	ANUM_SEGMENT_FILTER_VALUES,
	ANUM_SEGMENT_FILTER_BLOCKS,
	ANUM_SEGMENT_FILTER_GROUPS,
	ANUM_SEGMENT_FILTER_SLOTS,
	NATTS_SEGMENT = ANUM_SEGMENT_FILTER_SLOTS
};

enum
{
	ANUM_FILTER_NUMBER = 1,
	ANUM_FILTER_SEGMENT,
	ANUM_FILTER_FIELD,
	ANUM_FILTER_VERSION,
	ANUM_FILTER_FILTER,
	ANUM_FILTER_SKETCH
};

enum
{
	ANUM_GROUP_NUMBER = 1,
	ANUM_GROUP_FIELD,
	ANUM_GROUP_GROUP,
	ANUM_GROUP_BLOCK,
	ANUM_GROUP_DATA
};

/* ---------- contents.c ---------- */

/* What this backend knows of the contents of a partition's segments */
typedef struct LogqContents
{
	MemoryContext cxt;			/* contents, freed one by one */
	MemoryContext dict;			/* dictionaries and the like */
	int64		live;			/* bytes of contents */
	int64		garbage;		/* bytes of those released since a reset */
	int64		budget;			/* bytes they may take */
	TimestampTz floor;			/* for older segments there was no room */
	int64		seen;			/* logq.catalog.changed up to which the
								 * tables' contents are taken in; 0: none */
	uint64		checked;		/* transaction in which we last looked */
	bool		broken;			/* an update did not come to its end */
	int			services_size;
	int			fields_size;
	uint32	   *service_slots;	/* hash table: index of a service, 0: free */
	uint32		service_mask;
	/* of probe.c, in dict */
	HTAB	   *groups;			/* sizes of groups */
	HTAB	   *filters;		/* filters that were asked, in filters_cxt */
	MemoryContext filters_cxt;
	Size		filters_size;	/* bytes */
	int64		filters_changed;	/* part->changed when they began */
} LogqContents;

/* part->contents, made when wanted first */
extern LogqContents *logq_contents_get(LogqPartition *part);
/* empty dictionaries, no contents */
extern void logq_contents_reset(LogqPartition *part);
/* content of a row of logq.catalog_segment, or NULL; leaves garbage */
extern LogqContent *logq_content_make(LogqPartition *part,
									  const Datum *values,
									  const bool *isnull);
extern void logq_content_release(LogqPartition *part, LogqSegment *seg);
/* leave out contents of the oldest segments (sorted) as far as necessary */
extern void logq_contents_enforce(LogqPartition *part, LogqSegment *segments,
								  int nsegments);
/* the numbers of an array without nulls that has n elements, or NULL */
extern const void *logq_number_array(Datum value, bool isnull, Oid type,
									 int n);
/* the texts of an array; false: there is none */
extern bool logq_text_array(Datum value, bool isnull, Datum **texts,
							bool **nulls, int *n);
/* new segments are to replace ours: equal ones take over their contents */
extern void logq_contents_carry(LogqPartition *part, LogqSegment *segments,
								int nsegments);
/* what was read of the tables was rolled back */
extern void logq_contents_forget_tables(LogqPartition *part);

/* ---------- update.c ---------- */

/* a table or index in schema logq, InvalidOid when it is not there */
extern Oid	logq_relation_oid(const char *name);
/* the newest snapshot that may be taken now, registered */
extern Snapshot logq_latest_snapshot(void);

/* ---------- catalog.c ---------- */

extern int	logq_partition_count(void);
extern void logq_catalog_put(LogqPartition *part, MemoryContext cxt,
							 LogqSegment *segments, int nsegments,
							 int64 version, int64 changed);
extern void logq_catalog_sum_rows(LogqPartition *part);

#endif							/* LOGQ_CONTENTS_H */
