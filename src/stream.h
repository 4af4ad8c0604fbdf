/*-------------------------------------------------------------------------
 *
 * stream.h
 *		What one partition sends back for one scan.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_STREAM_H
#define LOGQ_STREAM_H

#include "catalog.h"

#include "portability/instr_time.h"
#include "storage/buffile.h"

#include "decode.h"

/* One segment to be asked, copied so that a catalog load cannot move it */
typedef struct LogqFragment
{
	TimestampTz lower;
	TimestampTz upper;
	double		rows;			/* estimate of those that match, -1: none */
	char	   *name;
} LogqFragment;

typedef enum LogqStreamState
{
	LOGQ_STREAM_IDLE,			/* not opened */
	LOGQ_STREAM_CONNECTING,
	LOGQ_STREAM_SENDING,		/* libpq still holds a part of the request */
	LOGQ_STREAM_RESULTS,		/* between results */
	LOGQ_STREAM_COPYING,		/* rows are coming */
	LOGQ_STREAM_SPOOLED,		/* rows are in a file of ours */
	LOGQ_STREAM_HELD,			/* there is more to ask for, when needed */
	LOGQ_STREAM_DONE
} LogqStreamState;

typedef enum LogqStreamResult
{
	LOGQ_STREAM_ROW,			/* fields, ts and id are filled */
	LOGQ_STREAM_WAIT,			/* wait for wait_events on the socket */
	LOGQ_STREAM_PAUSED,			/* lazy, and must be released to go on */
	LOGQ_STREAM_END
} LogqStreamResult;

/* What is asked of every fragment; set once a scan or rescan */
typedef struct LogqRequest
{
	const char *select_list;	/* SQL, may be empty */
	int			nfields;
	int			ts_field;		/* position of ts, -1 when not ordered */
	int			id_field;
	bool		ordered;
	bool		descending;
	bool		lazy;			/* ask only when released */
	int64		ts_low;			/* rows lie within these */
	int64		ts_high;
	int64		bound;			/* rows the scan needs at most, -1: all */
	int64		remaining;		/* of bound, rows not yet handed out */
	/* an ordered scan's last row so far, whichever stream it came from */
	bool		handed_out;
	int64		last_ts;
	int64		last_id;
} LogqRequest;

typedef struct LogqStream LogqStream;

/* fills fragments from the partition's catalog, in the order to be asked */
typedef void (*LogqStreamPlanner) (LogqStream *stream, void *arg);

struct LogqStream
{
	LogqPartition *part;
	Oid			userid;
	MemoryContext cxt;			/* for this scan or rescan */
	const LogqRequest *request;
	const char *where;			/* " WHERE ..." or "" */
	LogqStreamPlanner planner;
	void	   *planner_arg;

	LogqStreamState state;
	LogqConn   *conn;
	bool		borrowed;		/* conn is the transaction's own writer */
	bool		released;		/* a lazy stream may ask once more */
	unsigned	generation;		/* raised whenever conn changes */
	uint32		wait_events;
	uint32		ready_events;	/* set by whoever waited */

	/* fragments [0, batch_start) are done, up to batch_end are asked */
	int			nfragments;
	LogqFragment *fragments;
	int			batch_start;
	int			batch_end;
	int			batch_done;		/* fragments of this batch that have ended */
	int			batch_size;		/* of the last request, 0: there was none */
	int64		batch_limit;	/* rows asked of its last one, -1: all */
	int64		batch_rows;		/* rows that came for this batch */
	int64		fragment_rows;	/* and for its last fragment so far */
	int64		batch_ask;		/* rows it was meant to bring, 0: any */
	double		batch_expected; /* rows it was likely to bring, -1: unknown */
	int64		share;			/* rows to ask for first, 0: all */
	bool		poor;			/* few rows match: do not ask by shares */
	bool		resume;			/* the next fragment was cut off at a row */

	char	   *sql;			/* the last request, for errors */
	LogqCatalogLoad *load;		/* while the catalog is being read */
	bool		trusted;		/* fragments chosen before asking, see stream.c */
	bool		replanned;		/* set when they are chosen; who asks resets it */
	int64		plan_version;	/* of the catalog they were chosen by */
	TimestampTz asked_at;		/* when the last request was sent */
	bool		confirmed;		/* the catalog was true in this scan */
	bool		stale;			/* the version did not match: skip rows */
	int			reloads;
	int64		new_version;
	int64		skipped_bytes;
	bool		retried;

	LogqDecoder decoder;
	char	   *message;		/* libpq's, being decoded */
	BufFile    *spool;
	char	   *spool_buf;
	int			spool_buf_size;

	/* the current row */
	LogqField	fields[LOGQ_NCOLUMNS];
	int64		ts;
	int64		id;
	bool		has_row;
	bool		has_key;		/* ts and id are where to go on from */

	/* of this scan or rescan */
	int64		scan_rows;
	/* over all rescans, for EXPLAIN */
	int64		rows;
	int64		bytes;
	int64		requests;
	int64		fragments_asked;
	instr_time	started;
	double		first_row_ms;	/* -1: none came */
};

extern void logq_stream_init(LogqStream *stream, LogqPartition *part,
							 Oid userid);
extern void logq_stream_start(LogqStream *stream, MemoryContext cxt,
							  const LogqRequest *request, const char *where,
							  bool trusted, LogqStreamPlanner planner,
							  void *planner_arg);
extern LogqStreamResult logq_stream_advance(LogqStream *stream);
/* no row that is still to come stands before this key in the merge's order */
extern void logq_stream_bound(const LogqStream *stream, int64 *ts, int64 *id);
/* bound of the times of the segment that a lazy stream would ask next */
extern int64 logq_stream_horizon(const LogqStream *stream);
/* end of the scan: keep the connection if that costs no waiting */
extern void logq_stream_finish(LogqStream *stream);
/* free at once what is not palloc'd; never throws */
extern void logq_stream_abandon(LogqStream *stream);

/* report a failed or unexpected result, which ends the stream */
extern void logq_stream_error(LogqStream *stream, PGresult *res);

/* ---------- rows.c ---------- */

/* decode from the message at hand; true: a row is there */
extern bool logq_stream_decode_row(LogqStream *stream);
/* the message is about to go: keep what it has of a cut row */
extern void logq_stream_keep_cut_row(LogqDecoder *decoder);
extern void logq_stream_decode_failed(LogqStream *stream);
/* ask over the transaction's own connection, into a file; waits */
extern void logq_spool_request(LogqStream *stream);
extern LogqStreamResult logq_spool_advance(LogqStream *stream);

/* ---------- batch.c ---------- */

/* choose fragments from the catalog as it is known now */
extern void logq_plan_fragments(LogqStream *stream);
/* leave out those that a fresh catalog lacks; false: all are there */
extern bool logq_forget_dropped_fragments(LogqStream *stream);

/* SQL of the next request, whose fragments are chosen here */
extern char *logq_batch_request(LogqStream *stream);
extern void logq_batch_ended(LogqStream *stream);
/* rows that are still needed of this partition at most, -1: all */
extern int64 logq_batch_rows_needed(LogqStream *stream);
/* SQL of one fragment, for requests and EXPLAIN */
extern void logq_fragment_sql(StringInfo buf, const LogqRequest *request,
							  const char *segment, const char *where,
							  const char *resume, int64 limit);

#endif							/* LOGQ_STREAM_H */
