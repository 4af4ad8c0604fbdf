/*-------------------------------------------------------------------------
 *
 * probe.h
 *		Asks filters and sketches that lie in the coordinator's tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_PROBE_H
#define LOGQ_PROBE_H

#include "catalog.h"

/*
 * For each of the given segments (indexes to part->segments, ascending): may
 * its filter of this field (index to part->fields, -1: none has one) hold any
 * (require_all: all) of the hashes?  maybe[i] belongs to segments[i]; true
 * when there is no filter, or it cannot be read.  Any of no hashes is false,
 * all of none is true.
 */
extern void logq_probe_filters(LogqPartition *part, int field,
							   const uint64 *hashes, int nhashes,
							   bool require_all, const int *segments,
							   int nsegments, bool *maybe);

/*
 * The valid sketch of a sealed segment's field, detoasted and palloc'd, or
 * NULL.  seg is one of part->segments.
 */
extern bytea *logq_read_sketch(LogqPartition *part, const LogqSegment *seg,
							   const char *field);

#endif							/* LOGQ_PROBE_H */
