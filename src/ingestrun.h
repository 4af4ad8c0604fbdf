/*-------------------------------------------------------------------------
 *
 * ingestrun.h
 *		What the files of the ingest worker share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_INGESTRUN_H
#define LOGQ_INGESTRUN_H

#include "ingest.h"

/*
 * Names and numbers: kpart is a partition of Kafka, of which a run has nkparts;
 * arrays "by kpart" are indexed by its place in LogqRun.kparts.  A sink is a
 * partition of ours.
 */

/* What a batch brings to one sink */
typedef struct LogqShare
{
	StringInfoData rows;		/* tuples of binary COPY */
	int			nrows;
	StringInfoData dead;		/* likewise, for dead_letter */
	int			ndead;
	int64	   *to;				/* by kpart: where its offset goes */
	/* times of rows for which no segment was known */
	TimestampTz *missing;
	int			nmissing;
	int			maxmissing;
} LogqShare;

typedef enum LogqSinkPhase
{
	SINK_DOWN,					/* no connection */
	SINK_IDLE,
	SINK_WRITING
} LogqSinkPhase;

typedef enum LogqSinkFailure
{
	SINK_FAILED_LOST,			/* whatever can be tried again as it is */
	SINK_FAILED_DATA,			/* the partition refuses what is written */
	SINK_FAILED_SEGMENT,		/* a row has no segment (any more) */
	SINK_FAILED_FENCED			/* the offsets are not where they should be */
} LogqSinkFailure;

typedef struct LogqSink
{
	LogqPartition *part;
	Oid			serverid;		/* of the connection */
	LogqConn   *conn;			/* NULL when down */
	LogqSinkPhase phase;
	int64	   *start;			/* by kpart: what it had when the run began */
	int64	   *next;			/* by kpart: what it has */
	char	  **routing;		/* by kpart: as found, NULL: no row */
	LogqShare  *share;			/* under way, or to be tried again */
	/* while it is written */
	StringInfo	copying;		/* the COPY under way, NULL: none */
	int			ncopies;		/* begun so far */
	int			sent;			/* bytes of it that libpq has */
	bool		committed;
	TimestampTz give_up_at;		/* unless something happens before */
	/* after a failure */
	LogqSinkFailure failure;
	char	   *error;			/* in the sink's context; NULL: none */
	TimestampTz retry_at;
	int			backoff;		/* ms */
	/* a segment that takes rows */
	TimestampTz lower;
	TimestampTz upper;
	int64		version;		/* of the catalog, as last seen */
	struct LogqRun *run;
	MemoryContext cxt;			/* the run's */
	/* waiting */
	uint32		events;
	uint32		ready;
	int			position;
} LogqSink;

/*
 * How messages become rows, as far as it decides how many there are and where
 * they go: format, logq.key, logq.service, logq.ingest_max_message.
 */
typedef struct LogqReading
{
	char	   *text;			/* as it stands in a routing's text */
	int			max_bytes;
	LogqParser *parser;
} LogqReading;

/* How rows are routed: by what, among which partitions */
typedef struct LogqRouting
{
	int64		epoch;			/* the higher one counts */
	LogqRouteBy by;
	int			n;
	int32	   *numbers;		/* all that were meant, for round_robin */
	int		   *sinks;			/* of those: index of the sink, -1: gone */
	int			nleft;			/* those that are not gone */
	int32	   *left;			/* their numbers */
	int		   *left_sinks;		/* and sinks */
	LogqRouter	router;			/* among these */
	LogqReading *reading;
	char	   *text;			/* as it stands in kafka_offset */
} LogqRouting;

typedef struct LogqKpart
{
	int32		number;
	int64		low;
	int64		high;
	LogqRouting *routing;
	int64		position;		/* next offset that may come from the reader */
	int64		progress;		/* where batches that were sent off lead */
	int64		stop;			/* where an old routing ends */
} LogqKpart;

typedef struct LogqKcount
{
	int64		rows;
	int64		bytes;
	int64		dead;
} LogqKcount;

/* What is written in one go */
typedef struct LogqBatch
{
	LogqShare  *shares;			/* by sink */
	int64	   *to;				/* by kpart; -1: nothing of it */
	LogqKcount *counts;			/* by kpart */
	int			nmessages;
	int64		nrows;			/* and dead letters */
	Size		bytes;			/* of shares */
	TimestampTz first_at;		/* when it got its first message */
} LogqBatch;

/* From the start of a reader to the next one */
typedef struct LogqRun
{
	MemoryContext cxt;
	LogqTopic  *topic;
	LogqReader *reader;
	List	   *readings;		/* of LogqReading, no two of them the same */
	TimestampTz min_ts;			/* rows before and after are dead letters */
	TimestampTz max_ts;
	bool		open;			/* offsets are known, the reader is assigned */
	TimestampTz opened_at;
	char	   *cluster;
	int			nkparts;
	LogqKpart  *kparts;
	int			nsinks;
	LogqSink   *sinks;
	bool		catching_up;	/* some kpart goes by an old routing */
	LogqBatch  *filling;
	LogqBatch  *flying;			/* NULL: none */
	LogqBatch  *spare;
	TimestampTz behind_since;	/* a sink's offsets lag; 0: none do */
	TimestampTz leave_at;		/* it is to end, by then at the latest; 0: not */
	bool		kafka_trouble;	/* the reader has told of some */
	bool		sockets_changed;	/* of sinks */
	MemoryContext round_cxt;	/* for one turn of the loop */
} LogqRun;

/* ---------- ingest.c ---------- */

/* end the run, which frees it; the next one begins at once, or after a pause */
extern void logq_run_end(bool pause);
/* the same, since something went wrong */
extern void logq_run_fail(LogqIngestState state, const char *text,
						  const char *hint);
extern void logq_run_fail_error(const ErrorData *edata);
/* show an error, and log it unless it was the last one, too */
extern void logq_run_complain(const char *text, const char *hint);
/* all is in order; written: a batch was */
extern void logq_run_succeed(bool written);

/* ---------- ingestwrite.c ---------- */

/* is there no room for another message? */
extern bool logq_run_is_full(const LogqRun *run);
/* is no sink down? */
extern bool logq_run_all_connected(const LogqRun *run);
/*
 * Let sinks go on, and batches off.  Returns when to come again, 0: when
 * something happens.  The run may be over afterwards.
 */
extern TimestampTz logq_run_advance(LogqRun *run);

/* ---------- ingestopen.c ---------- */

/* the partitions of now become the run's sinks; in a transaction */
extern void logq_run_find_sinks(LogqRun *run);
/* are the partitions and settings still those that the run began with? */
extern bool logq_run_is_current(const LogqRun *run);
/*
 * INFO has come: connect all sinks, find out where each is, and tell the
 * reader where to begin.  Blocks, in a transaction; errors are thrown.
 */
extern void logq_run_open(LogqRun *run, const LogqFrame *info);
/* index of a Kafka partition by its number, -1: there is none */
extern int	logq_run_kpart(const LogqRun *run, int32 number);
/* connect a sink and make it ours; likewise */
extern void logq_sink_connect(LogqRun *run, LogqSink *sink);
/* after a lost connection: was the share committed?  Throws when fenced. */
extern bool logq_sink_was_committed(LogqRun *run, LogqSink *sink);
/* SQLSTATE of "somebody else": not only another one's fence */
#define ERRCODE_LOGQ_FENCED MAKE_SQLSTATE('L', 'Q', '0', '0', '1')
/* Kafka does not have what comes next, and that is not to be skipped */
#define ERRCODE_LOGQ_OFFSETS_LOST MAKE_SQLSTATE('L', 'Q', '0', '0', '2')

/* ---------- ingestroute.c ---------- */

/* a routing as it stands in kafka_offset; NULL: that is none */
extern LogqRouting *logq_parse_routing(LogqRun *run, const char *text);
/* that of now, as of an epoch */
extern LogqRouting *logq_current_routing(LogqRun *run, int64 epoch);
/* do two do the same, apart from their epoch? */
extern bool logq_same_routing(const LogqRouting *a, const LogqRouting *b);

/* ---------- ingestfill.c ---------- */

/* a partition refuses a message; false: that was known, so it is no use */
extern bool logq_poison_add(int32 kpart, int64 offset, int32 partition,
							const char *reason);
/* a Kafka partition is past those before offset; kpart -1: forget all */
extern void logq_poison_forget(int32 kpart, int64 offset);
extern bool logq_poison_any(void);

extern LogqBatch *logq_batch_create(LogqRun *run);
extern void logq_batch_reset(LogqRun *run, LogqBatch *batch);
/* a MESSAGE or POSITION frame */
extern void logq_run_take_message(LogqRun *run, const LogqFrame *frame);
extern void logq_run_take_position(LogqRun *run, const LogqFrame *frame);
/* note again for which rows of a share segments are missing */
extern void logq_share_find_missing(LogqSink *sink, LogqShare *share);

/* ---------- sink.c ---------- */

/* have the segments made that a share needs; blocks, in a transaction */
extern void logq_sink_make_segments(LogqSink *sink);
/* begin to write sink->share */
extern void logq_sink_write(LogqRun *run, LogqSink *sink);
/* go on as far as possible without waiting; false: it has failed */
extern bool logq_sink_advance(LogqSink *sink);
/* close the connection, whatever is under way */
extern void logq_sink_close(LogqSink *sink);

/* append an array literal of int8 that server and any reader understand */
extern void logq_append_int8_array(StringInfo buf, int n, const int64 *values);

#endif							/* LOGQ_INGESTRUN_H */
