/*-------------------------------------------------------------------------
 *
 * lookup.h
 *		Look-ups by primary key in the coordinator's tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_LOOKUP_H
#define LOGQ_LOOKUP_H

#include "access/genam.h"
#include "access/skey.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#define LOGQ_LOOKUP_MAX_KEYS 4

/* Look-ups in one table, one after the other */
typedef struct LogqLookup
{
	Relation	rel;			/* NULL: cannot be read */
	Relation	index;
	Snapshot	snapshot;
	SysScanDesc scan;
	int			nkeys;
	ScanKeyData keys[LOGQ_LOOKUP_MAX_KEYS];
} LogqLookup;

/*
 * Open a table of schema logq and its primary key.  The snapshot is the
 * caller's, registered, for as long as the look-up is open.  False: one of
 * the two is not there.
 */
extern bool logq_lookup_open(LogqLookup *lookup, const char *table,
							 const char *index, Snapshot snapshot);
/* add the next key; sk_argument may be replaced ahead of each row */
extern void logq_lookup_key(LogqLookup *lookup, RegProcedure equal,
							Datum value);
/*
 * The first row with the keys as they are now, or the last; NULL: there is
 * none.  It is good until the next one.  What keys point to must be there for
 * as long as the look-up is open.
 */
extern HeapTuple logq_lookup_row(LogqLookup *lookup, bool last);
/* also of one that could not be opened, or is all zeros */
extern void logq_lookup_close(LogqLookup *lookup);

#endif							/* LOGQ_LOOKUP_H */
