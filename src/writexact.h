/*-------------------------------------------------------------------------
 *
 * writexact.h
 *		What the beginning (xact.c) and the end (xactend.c) of remote write
 *		transactions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_WRITEXACT_H
#define LOGQ_WRITEXACT_H

#include "health.h"

#include "access/xact.h"

typedef enum LogqCommitOutcome
{
	LOGQ_COMMIT_NOT_SENT,
	LOGQ_COMMIT_SENT,			/* no answer yet, so unknown */
	LOGQ_COMMIT_DONE,
	LOGQ_COMMIT_FAILED
} LogqCommitOutcome;

typedef struct LogqWriteXact
{
	Oid			serverid;
	Oid			userid;
	LogqConn   *conn;			/* NULL: lost */
	LogqPartition *part;		/* may be NULL */
	char		name[NAMEDATALEN];
	int			depth;			/* remote nest level, 0: not begun */
	int			lowest;			/* lowest nest level that holds writes */
	CommandId	first_cid;		/* of the commands that wrote */
	CommandId	last_cid;
	int			released;		/* nest level whose savepoint is gone while
								 * the local one has not yet committed */
	bool		changing;		/* see the head of xact.c */
	bool		copying;
	LogqPosition position;		/* after commit, where replicas matter; or 0 */
	int64		version;		/* of the catalog, at commit; 0: unknown */
	LogqCommitOutcome outcome;
	PGresult   *res;			/* of the last command; freed on abort */
	struct LogqWriteXact *next;
} LogqWriteXact;

/* ---------- xact.c ---------- */

extern LogqWriteXact *logq_write_xacts; /* in TopMemoryContext */

extern void logq_xact_clear_result(LogqWriteXact *wx);
/* close the connection, with what it had not committed; never throws */
extern void logq_xact_lose_connection(LogqWriteXact *wx);
/* the same, and remove the entry; never throws */
extern void logq_xact_forget(LogqWriteXact *wx);
/* errors unless it can take a command or a commit */
extern void logq_xact_reject_unusable(LogqWriteXact *wx);
/* queue a command; false: the connection is lost */
extern bool logq_xact_send(LogqWriteXact *wx, const char *sql);
/* its end; false: see res; throws interrupts only */
extern bool logq_xact_collect(LogqWriteXact *wx);
/* throw what logq_xact_collect() has kept */
extern void logq_xact_report(LogqWriteXact *wx, const char *sql);

/* ---------- xactend.c ---------- */

extern void logq_xact_callback(XactEvent event, void *arg);
extern void logq_subxact_callback(SubXactEvent event,
								  SubTransactionId mySubid,
								  SubTransactionId parentSubid, void *arg);

#endif							/* LOGQ_WRITEXACT_H */
