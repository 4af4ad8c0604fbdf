/*-------------------------------------------------------------------------
 *
 * copy.h
 *		What the files share that keep the coordinator's tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_COPY_H
#define LOGQ_COPY_H

#include "catalog.h"
#include "decode.h"

/* A local transaction's work on the tables' copy of one partition's catalog */
typedef struct LogqCopy
{
	int32		number;
	const char *name;			/* of the partition */
	MemoryContext cxt;			/* for as long as this lasts */
	/* logq.catalog */
	bool		found;
	int64		version;
	int64		changed;
	int64		deleted;
	/* for what we change; 0 until there is something */
	int64		next_changed;
	/* groups that have lost members, as LogqGroupRef */
	List	   *shrunk;
} LogqCopy;

typedef struct LogqGroupRef
{
	int32		group;
	char	   *field;
} LogqGroupRef;

/* ---------- copyread.c ---------- */

/* columns of a row at most */
#define LOGQ_COPY_COLUMNS 32

typedef void (*LogqCopyRow) (void *arg, const LogqField *fields);

typedef struct LogqRemoteCopy
{
	int			ncolumns;
	LogqCopyRow row;			/* takes one, in a context of its own */
} LogqRemoteCopy;

/* run SQL on the partition; returns the version that it gave, or -1 */
extern int64 logq_copy_ask(LogqConn *conn, const char *sql, int ncopies,
						   const LogqRemoteCopy *copies, void *arg);
/* a field that is not null as a value of one of the types that occur */
extern Datum logq_copy_datum(LogqConn *conn, const LogqField *field,
							 Oid type);
/* an error: the partition sent something else than it should */
extern void logq_copy_bad_data(LogqConn *conn, const char *why);

/* ---------- publish.c ---------- */

/* tell other backends of the copy when we commit */
extern void logq_copy_publish(LogqPartition *part, int64 version,
							  int64 changed, TimestampTz asked_at);

/* ---------- copy.c ---------- */

/* value of "changed" for rows that we change */
extern int64 logq_copy_changed(LogqCopy *copy);
/* run SQL through SPI; errors unless it gives what is expected */
extern void logq_copy_run(const char *sql, int nargs, Oid *types,
						  Datum *values, const char *nulls);

/* ---------- groups.c; within SPI, with logq.catalog's row locked ---------- */

/* segments of these names (a name[]) are about to change: note their groups */
extern void logq_groups_note(LogqCopy *copy, Datum names);
/* remove groups of copy->shrunk without members, dissolve sparse ones */
extern void logq_groups_shrink(LogqCopy *copy);
/* are there filters enough for a group?  Takes no lock. */
extern bool logq_groups_wanted(int32 number);
/* build some; false: there is nothing left to be built */
extern bool logq_groups_build(LogqCopy *copy);

#endif							/* LOGQ_COPY_H */
