/*-------------------------------------------------------------------------
 *
 * write.h
 *		What a statement that writes knows, shared by write.c and copyin.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_WRITE_H
#define LOGQ_WRITE_H

#include "catalog.h"

#include "lib/stringinfo.h"

/* bytes that go to libpq at a time; also when a buffer is worth sending */
#define SEND_CHUNK (64 * 1024)
/* bytes kept for a partition that reads slowly, before we wait for it */
#define MAX_PENDING (1024 * 1024)

typedef enum LogqCopyPhase
{
	COPY_CLOSED,
	COPY_ASKED,					/* command sent */
	COPY_OPEN,					/* takes data */
	COPY_ENDED					/* end sent, result to come */
} LogqCopyPhase;

/* What one statement writes to one partition */
typedef struct LogqWriteStream
{
	struct LogqWriteState *state;
	LogqPartition *part;
	LogqCopyPhase phase;
	LogqConn   *conn;			/* unless COPY_CLOSED */
	PGresult   *failure;		/* first error of the COPY's results */
	bool		input_seen;		/* the partition said something */
	StringInfoData buf;
	int			sent;			/* bytes of buf that libpq has */
	int			send_at;		/* send when so many are pending */
	/* a segment that takes rows, and the version that is known from */
	TimestampTz lower;
	TimestampTz upper;
	int64		version;
	/* reserved ids */
	int64	   *ids;
	int			nids;
	int			next_id;
	int			id_block;
	double		rows;
	struct LogqWriteStream *next;	/* in open_copies */
} LogqWriteStream;

/* What one statement writes to one log table */
typedef struct LogqWriteState
{
	MemoryContext cxt;
	MemoryContext row_cxt;		/* reset for each row */
	MemoryContextCallback callback;
	Relation	rel;
	LogqRelMap	map;
	Oid			userid;
	bool		need_slot;		/* the stored row is looked at */
	bool		need_id;		/* and its id */
	LogqRouteBy route_by;
	int			nstreams;
	LogqWriteStream *streams;		/* by the partition's number */
	LogqRouter	router;
} LogqWriteState;

/* ---------- copyin.c ---------- */

/* see to it that the partition has a segment for a row of this time */
extern void logq_write_ensure_segment(LogqWriteStream *stream, TimestampTz ts);
/* hand the buffer to libpq, until no more than max_pending bytes are left */
extern void logq_write_send(LogqWriteStream *stream, int max_pending);
/* send all that is left and wait for every partition's answer */
extern void logq_write_finish(LogqWriteState *state);
extern void logq_write_reserve_ids(LogqWriteStream *stream);
/* the stream's memory goes: forget its COPY */
extern void logq_write_forget(LogqWriteStream *stream);

#endif							/* LOGQ_WRITE_H */
