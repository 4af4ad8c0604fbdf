/*-------------------------------------------------------------------------
 *
 * lookup.c
 *		Look-ups by primary key in the coordinator's tables.
 *
 * A look-up costs a descent of the index; table, index and scan stay open
 * from one to the next.
 *
 * Failure cases: what is open belongs to the current resource owner, so an
 * error closes it.  A table that is not there (the extension is being
 * dropped) is no error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lookup.h"

#include "access/relscan.h"
#include "access/table.h"

#include "contents.h"

/* See lookup.h. */
bool
logq_lookup_open(LogqLookup *lookup, const char *table, const char *index,
				 Snapshot snapshot)
{
	Oid			relid = logq_relation_oid(table);
	Oid			indexid;

	MemSet(lookup, 0, sizeof(LogqLookup));
	lookup->snapshot = snapshot;
	lookup->rel = OidIsValid(relid) ?
		try_table_open(relid, AccessShareLock) : NULL;
	if (lookup->rel == NULL)
		return false;
	indexid = logq_relation_oid(index);
	if (!OidIsValid(indexid))
	{
		table_close(lookup->rel, AccessShareLock);
		lookup->rel = NULL;
		return false;
	}
	lookup->index = index_open(indexid, AccessShareLock);
	return true;
}

/*
 * Add a key.  In these tables the columns of the primary key come first, in
 * its order, so column numbers are the same in table and index.
 */
void
logq_lookup_key(LogqLookup *lookup, RegProcedure equal, Datum value)
{
	ScanKeyInit(&lookup->keys[lookup->nkeys], lookup->nkeys + 1,
				BTEqualStrategyNumber, equal, value);
	lookup->nkeys++;
}

/* See lookup.h. */
HeapTuple
logq_lookup_row(LogqLookup *lookup, bool last)
{
	if (lookup->scan == NULL)
		lookup->scan = systable_beginscan_ordered(lookup->rel, lookup->index,
												  lookup->snapshot,
												  lookup->nkeys,
												  lookup->keys);
	else
		index_rescan(lookup->scan->iscan, lookup->keys, lookup->nkeys,
					 NULL, 0);
	return systable_getnext_ordered(lookup->scan, last ?
									BackwardScanDirection :
									ForwardScanDirection);
}

/* See lookup.h. */
void
logq_lookup_close(LogqLookup *lookup)
{
	if (lookup->scan != NULL)
		systable_endscan_ordered(lookup->scan);
	if (lookup->index != NULL)
		index_close(lookup->index, AccessShareLock);
	if (lookup->rel != NULL)
		table_close(lookup->rel, AccessShareLock);
	MemSet(lookup, 0, sizeof(LogqLookup));
}
