/*-------------------------------------------------------------------------
 *
 * publish.c
 *		logq.refresh_catalog(), and how other backends learn of new copies.
 *
 * They are told when the transaction that made a copy has committed.  A copy
 * that is rolled back was never there: then this backend only forgets what it
 * has itself taken from the tables meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copy.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "contents.h"

PG_FUNCTION_INFO_V1(logq_refresh_catalog);

/* ---------- publishing at commit ---------- */

typedef struct PendingCopy
{
	LogqPartition *part;
	int64		version;
	int64		changed;
	TimestampTz asked_at;
	SubTransactionId subid;
	struct PendingCopy *next;
} PendingCopy;

/* in TopTransactionContext */
static PendingCopy *pending_copies = NULL;

/*
 * What was copied is there for all, or never was.
 */
static void
publish_xact(XactEvent event, void *arg)
{
	PendingCopy *p;

	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (p = pending_copies; p != NULL; p = p->next)
				logq_shmem_publish(p->part->number, p->version, p->changed,
								   p->asked_at);
			pending_copies = NULL;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			for (p = pending_copies; p != NULL; p = p->next)
				logq_contents_forget_tables(p->part);
			pending_copies = NULL;
			break;
		default:
			break;
	}
}

/*
 * A subtransaction's copies are its parent's, or were not made.
 */
static void
publish_subxact(SubXactEvent event, SubTransactionId mySubid,
				SubTransactionId parentSubid, void *arg)
{
	PendingCopy **link = &pending_copies;
	PendingCopy *p;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while ((p = *link) != NULL)
	{
		if (p->subid == mySubid)
		{
			if (event == SUBXACT_EVENT_ABORT_SUB)
			{
				logq_contents_forget_tables(p->part);
				*link = p->next;
				continue;
			}
			p->subid = parentSubid;
		}
		link = &p->next;
	}
}

/*
 * Tell others when we commit; the latest copy of a partition last.
 */
void
logq_copy_publish(LogqPartition *part, int64 version, int64 changed,
				  TimestampTz asked_at)
{
	static bool registered = false;
	PendingCopy *p;
	PendingCopy **link;

	if (!registered)
	{
		RegisterXactCallback(publish_xact, NULL);
		RegisterSubXactCallback(publish_subxact, NULL);
		registered = true;
	}
	p = MemoryContextAllocZero(TopTransactionContext, sizeof(PendingCopy));
	p->part = part;
	p->version = version;
	p->changed = changed;
	p->asked_at = asked_at;
	p->subid = GetCurrentSubTransactionId();
	for (link = &pending_copies; *link != NULL; link = &(*link)->next)
		;
	*link = p;
}

/* ---------- logq.refresh_catalog ---------- */

/*
 * Copy the catalog of one partition as the caller.
 */
static int
refresh_partition(LogqPartition *part)
{
	LogqConn   *conn;
	volatile int nchanged = 0;

	if (!OidIsValid(part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" of partition %d does not exist",
						part->name, part->number),
				 errhint("Create the server again, or run SELECT logq.remove_partition(%s, true).",
						 quote_literal_cstr(part->name))));
	conn = logq_conn_acquire_tested(part->serverid, GetUserId());
	PG_TRY();
	{
		logq_conn_wait_ready(conn);
		nchanged = logq_copy_catalog(part, conn);
	}
	PG_CATCH();
	{
		/* it may be in a transaction */
		logq_conn_close(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	logq_conn_release(conn);
	return nchanged;
}

/*
 * logq.refresh_catalog(partition)
 */
Datum
logq_refresh_catalog(PG_FUNCTION_ARGS)
{
	List	   *parts = logq_partitions();
	ListCell   *lc;
	int			nchanged = 0;
	bool		found = false;

	foreach(lc, parts)
	{
		LogqPartition *part = lfirst(lc);

		if (!PG_ARGISNULL(0) &&
			strcmp(part->name, NameStr(*PG_GETARG_NAME(0))) != 0)
			continue;
		found = true;
		nchanged += refresh_partition(part);
	}
	if (!found && !PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not a partition",
						NameStr(*PG_GETARG_NAME(0))),
				 errhint("See the view \"logq.partitions\" for those there are.")));
	PG_RETURN_INT32(nchanged);
}
