/*-------------------------------------------------------------------------
 *
 * query.h
 *		What a session keeps of its queries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_QUERY_H
#define LOGQ_QUERY_H

#include "scan.h"

extern bool logq_partial_results;

/* the scan's first run begins; waited_ms: for its place among the others */
extern void logq_query_begin(LogqScanState *scan, double waited_ms);
/* the scan hands out its first row */
extern void logq_query_first_row(LogqScanState *scan);
/* the scan is over; never throws */
extern void logq_query_end(LogqScanState *scan, bool failed);
/* a partition cannot answer (any more): say what may be missing */
extern void logq_query_warn_missing(LogqStream *stream);

#endif							/* LOGQ_QUERY_H */
