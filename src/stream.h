/*-------------------------------------------------------------------------
 *
 * stream.h
 *		What one partition sends back for one scan.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_STREAM_H
#define LOGQ_STREAM_H

#include "health.h"

#include "portability/instr_time.h"
#include "storage/buffile.h"
#include "utils/tuplesort.h"

#include "decode.h"

/* Where rows are counted */
typedef enum LogqSource
{
	LOGQ_SOURCE_ROWS,			/* the segment itself */
	LOGQ_SOURCE_LEVELS,			/* logq_store.rollup_level */
	LOGQ_SOURCE_SERVICES,		/* logq_store.rollup_service */
	LOGQ_SOURCE_CATALOG,		/* our own catalog: nobody is asked */
	LOGQ_NSOURCES
} LogqSource;

/* Bins of ts: [origin + k * width, origin + (k + 1) * width), in us */
typedef struct LogqBins
{
	int64		width;
	int64		origin;
} LogqBins;

/*
 * One segment to be asked, copied so that a catalog load cannot move it; or
 * the rollups of some segments.
 */
typedef struct LogqFragment
{
	TimestampTz lower;
	TimestampTz upper;
	double		rows;			/* estimate of those that match, -1: none */
	double		size;			/* rows that it has, an estimate, -1: none */
	char	   *name;			/* of rollups: a literal, names of segments */
	bool		any;			/* the name stands for any, in EXPLAIN */
	LogqSource	source;
	bool		sliced;			/* only rows, or minutes, of: */
	TimestampTz from;			/* included */
	TimestampTz to;				/* excluded */
	LogqBins	bins;			/* if rows are grouped by them */
	struct LogqCached *cached;	/* see cacherun.h; NULL: is never cached */
} LogqFragment;

typedef enum LogqStreamState
{
	LOGQ_STREAM_IDLE,			/* not opened */
	LOGQ_STREAM_CONNECTING,
	LOGQ_STREAM_SENDING,		/* libpq still holds a part of the request */
	LOGQ_STREAM_RESULTS,		/* between results */
	LOGQ_STREAM_COPYING,		/* rows are coming */
	LOGQ_STREAM_REPLAYING,		/* rows of a fragment that is here as a whole */
	LOGQ_STREAM_CACHED,			/* rows of one that need not be asked */
	LOGQ_STREAM_SPOOLED,		/* rows are in a file of ours */
	LOGQ_STREAM_HELD,			/* there is more to ask for, when needed */
	LOGQ_STREAM_BACKOFF,		/* no server can be asked just now */
	LOGQ_STREAM_DONE
} LogqStreamState;

typedef enum LogqStreamResult
{
	LOGQ_STREAM_ROW,			/* fields, ts and id are filled */
	LOGQ_STREAM_WAIT,			/* wait for wait_events on the socket */
	LOGQ_STREAM_PAUSED,			/* lazy, and must be released to go on */
	LOGQ_STREAM_END
} LogqStreamResult;

/*
 * Time, for all streams of a scan.  Whoever takes its rows may do so as slowly
 * as he likes: what passes between a row that was handed out and the next call
 * is no server's fault.
 */
typedef struct LogqClock
{
	unsigned	turn;			/* raised with every row */
	unsigned	seen_turn;		/* as it was at: */
	TimestampTz seen_at;		/* when the scan was last at work */
	TimestampTz idle;			/* us that it was not, in all */
} LogqClock;

/* What is asked of every fragment; set once a scan or rescan */
typedef struct LogqRequest
{
	int			nfields;
	bool		binned;			/* the first one is the bin of ts */
	bool		grouped;		/* rows are groups: a fragment's go together */
	bool		by_index;		/* an index of a sealed segment has all of it */
	const char *tail;			/* SQL: GROUP BY and the like, or "" */
	const char *rollup_select;	/* SQL, what rollups are asked for */
	const char *rollup_rows;	/* the same if their rows are the groups */
	bool		rollup_fits[LOGQ_NSOURCES];	/* they are, in bins of a minute */
	const char *rollup_where;	/* " AND ..." or "" */
	int			ts_field;		/* position of ts, -1 when not ordered */
	int			id_field;		/* of id, -1 when nobody needs it */
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
	LogqClock  *clock;
} LogqRequest;

/* A second request to another server, as long as the first has no answer */
typedef enum LogqHedgeState
{
	LOGQ_HEDGE_CONNECTING,
	LOGQ_HEDGE_SENDING,
	LOGQ_HEDGE_WAITING
} LogqHedgeState;

typedef struct LogqHedge
{
	LogqConn   *conn;			/* NULL: there is none */
	int			server;
	LogqHedgeState state;
	bool		fresh;			/* the connection was made for it */
	char	   *sql;
	TimestampTz started_at;
	TimestampTz sent_at;
	unsigned	generation;		/* raised whenever conn changes */
	uint32		wait_events;
	uint32		ready_events;
} LogqHedge;

/* Ids of the rows that an unordered fragment has brought, in case it must be
 * asked again elsewhere */
typedef struct LogqHad
{
	int			nids;			/* in memory, as they came */
	int			capacity;
	int64	   *ids;
	Tuplesortstate *sort;		/* NULL: there are no others */
	bool		sorted;			/* being read: rows come by id now */
	bool		more;			/* next is one of them */
	int64		next;
	int64		count;
	bool		any;			/* a row has come by id, the last one's is: */
	int64		last;
} LogqHad;

/* Bytes of a fragment that is kept until it has come as a whole */
typedef struct LogqReplay
{
	StringInfoData data;		/* in memory; data.data NULL: never used */
	BufFile    *file;			/* when they are many: all before "data" */
	bool		reading;
	bool		at_data;		/* the file has been read */
} LogqReplay;

/* Bytes of a fragment that may be worth storing */
typedef struct LogqKept
{
	bool		keeping;
	StringInfoData data;		/* data.data NULL: never used */
	TimestampTz since;			/* the fragment, or its request, began */
	TimestampTz sent_at;		/* the request */
	int			asked;			/* fragments that it has brought */
	bool		current;		/* it sees segments in the versions we know */
	int64		limit;			/* rows asked of all but the last one, -1: all */
} LogqKept;

typedef struct LogqStream LogqStream;

/* fills fragments from the partition's catalog, in the order to be asked */
typedef void (*LogqStreamPlanner) (LogqStream *stream, void *arg);

struct LogqStream
{
	LogqPartition *part;
	Oid			userid;
	MemoryContext cxt;			/* for this scan or rescan */
	const LogqRequest *request;
	const char *select;			/* SQL of the list but for the bin, or "" */
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
	bool		in_fragment;	/* rows of one are coming */

	/* the servers of the partition; failover.c */
	LogqServers *servers;		/* NULL: not looked up in this run */
	int			server;			/* that conn leads to */
	uint32		tried;			/* those that have failed since progress */
	uint32		behind;			/* of these, those that only lack something */
	LogqFailure *failures[LOGQ_MAX_SERVERS];	/* why each failed last */
	int			nfailures;		/* in this run */
	bool		renewed;		/* a lost connection was made anew, since
								 * progress */
	bool		fresh;			/* conn was made for this request */
	bool		answered;		/* the request has had a result */
	bool		promoted;		/* the replica is none any more */
	TimestampTz attempt_at;		/* when this server's turn began */
	TimestampTz sent_at;		/* 0: not sent yet */
	TimestampTz progress_at;	/* when something last came */
	TimestampTz waiting_since;	/* 0: nobody waits */
	TimestampTz idle;			/* of the clock, that these take account of */
	TimestampTz hedge_at;		/* 0: no second request */
	TimestampTz retry_at;		/* in BACKOFF */
	TimestampTz behind_until;	/* waiting for replicas has an end */
	TimestampTz wake_at;		/* who waits is to come back by then, 0: - */
	LogqPosition seen;			/* the primary had this when it answered */
	LogqHedge	hedge;
	bool		tracked;		/* ids of rows are kept in: */
	LogqHad		had;
	LogqFailure *missing;		/* why there is no (further) answer */

	char	   *sql;			/* the last request, for errors */
	LogqCatalogLoad *load;		/* while the catalog is being read */
	bool		trusted;		/* fragments chosen before asking, see stream.c */
	bool		replanned;		/* set when they are chosen; who asks resets it */
	int64		plan_version;	/* of the catalog they were chosen by */
	TimestampTz asked_at;		/* when the last request was sent */
	bool		confirmed;		/* the catalog was true in this scan */
	bool		check_security; /* fragments and cells count rows of everybody:
								 * wrong if there is row-level security */
	bool		secured;		/* there is, as the partition has said */
	bool		stale;			/* the version did not match: skip rows */
	int			reloads;
	int			loads;			/* of the catalog, in this run */
	int64		new_version;
	int64		skipped_bytes;

	LogqDecoder decoder;
	char	   *message;		/* libpq's, being decoded */
	BufFile    *spool;
	char	   *spool_buf;
	int			spool_buf_size;

	/* a fragment that must be had as a whole; replay.c */
	LogqReplay	replay;
	/* the cache; see cacherun.h */
	struct LogqCacheRun *cache; /* NULL: not used */
	char	   *cache_user;		/* in whose name keys were made, NULL: none were */
	bool		planned;		/* fragments were chosen before asking */
	bool		local;			/* nothing was asked so far */
	bool		local_batch;	/* nothing of this batch is */
	bool		more_pending;	/* more may have to be asked of the same snapshot */
	int			looked_up;		/* fragments that were, from the first one on */
	char	   *cached_rows;	/* binary COPY that is being read */
	LogqKept	kept;
	/* cells of our own catalog, which come last; they are the scan's */
	struct Tuplestorestate *cells;
	bool		in_cells;		/* the current row is one, in cell_slot */
	TupleTableSlot *cell_slot;

	/* the current row */
	LogqField  *fields;
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
	int64		retries;
	int64		hedges;
	int64		cached[2];		/* fragments from memory, and from Redis */
	int64		rows_cached;
	int64		stored;			/* fragments */
	TimestampTz oldest;			/* of cached ones, 0: there was none */
	bool		was_missing;
	instr_time	started;
	double		first_row_ms;	/* -1: none came */
};

extern void logq_stream_init(LogqStream *stream, LogqPartition *part,
							 Oid userid);
extern void logq_stream_start(LogqStream *stream, MemoryContext cxt,
							  const LogqRequest *request, const char *select,
							  const char *where, bool trusted,
							  LogqStreamPlanner planner, void *planner_arg);
/* ... that need not ask anybody: there are cells only */
extern void logq_stream_start_cells(LogqStream *stream);
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

/* for request.c and failover.c */
extern void logq_stream_free_message(LogqStream *stream);
extern void logq_stream_drop_connection(LogqStream *stream, bool keep);

/* ---------- request.c ---------- */

/* begin, or begin again, with whatever connection there is to be had */
extern void logq_stream_open(LogqStream *stream);
/* choose what the next request asks for; false: there is nothing */
extern bool logq_stream_prepare(LogqStream *stream);
/* SQL of the request that is prepared, for a server, palloc'd */
extern char *logq_stream_sql(LogqStream *stream, int server,
							 const LogqConn *conn);
/* send it over the connection, which is idle */
extern void logq_stream_send(LogqStream *stream);
/* prepare the next one and send it */
extern void logq_stream_ask(LogqStream *stream);
/* the answer at hand will not be gone on with: what is left to be asked? */
extern void logq_stream_rewind(LogqStream *stream);
/* the partition's catalog is not what the fragments were chosen by */
extern void logq_stream_catalog_moved(LogqStream *stream);

/* ---------- failover.c ---------- */

/* get hold of a connection; an error or the end when there is none */
extern void logq_stream_connect(LogqStream *stream);
extern void logq_stream_failed(LogqStream *stream, LogqFailure *failure,
							   LogqFault fault);
extern void logq_stream_connect_failed(LogqStream *stream,
									   const char *reason);
extern void logq_stream_lost(LogqStream *stream, PGresult *res);
extern bool logq_failure_may_pass(const LogqFailure *failure);
/* the request at hand was sent; a result of it has come */
extern void logq_stream_sent(LogqStream *stream);
extern void logq_stream_answered(LogqStream *stream);
/*
 * A replica says how far it is.  False: not far enough; the stream has gone
 * elsewhere.  Frees res.
 */
extern bool logq_stream_check_replica(LogqStream *stream, PGresult *res);
/* the replica has an older catalog than is known */
extern void logq_stream_catalog_behind(LogqStream *stream);
extern void logq_stream_not_primary(LogqStream *stream);
/*
 * The stream is about to wait.  True: not yet, its state has changed.  Else
 * wake_at is set.
 */
extern bool logq_stream_before_wait(LogqStream *stream);
/* the scan is at work */
extern void logq_clock_look(LogqClock *clock, TimestampTz now);
/* somebody begins to wait for the stream, or still does */
extern void logq_stream_waits(LogqStream *stream, TimestampTz now);
/* all that is measured from a time on goes on as if nobody had been idle */
extern void logq_stream_skip_idle(LogqStream *stream);
/* a failure that is not the partition's own words */
extern LogqFailure *logq_make_failure(LogqStream *stream, int sqlstate,
									  const char *reason);
/* what is a server to be blamed for that could not be connected to? */
extern LogqFault logq_connect_fault(const LogqConn *conn);

/* ---------- hedge.c ---------- */

extern void logq_start_hedge(LogqStream *stream);
/* true: it has taken over */
extern bool logq_advance_hedge(LogqStream *stream);
/* the first request has failed: the second one is what there is */
extern void logq_adopt_hedge(LogqStream *stream);
/* never throws */
extern void logq_stream_end_hedge(LogqStream *stream);

/* ---------- standby.c ---------- */

/* What a replica's position means for us */
typedef enum LogqReplicaPosition
{
	LOGQ_POSITION_FINE,
	LOGQ_POSITION_LACKING,		/* it may have it in a moment */
	LOGQ_POSITION_FAR_BEHIND
} LogqReplicaPosition;

/* *promoted: it is none any more; *reason: what it lacks, palloc'd */
extern LogqReplicaPosition logq_judge_replica(LogqStream *stream, int server,
											  const PGresult *res,
											  bool *promoted, char **reason);

/* a row or the end of a segment: whoever has failed may be asked again */
static inline void
logq_stream_progressed(LogqStream *stream)
{
	if (unlikely(stream->tried != 0 || stream->renewed))
	{
		stream->tried = stream->behind = 0;
		stream->renewed = false;
	}
}

/* SQL that makes a partition send what it has so far; see failover.c */
#define LOGQ_SIGN_OF_LIFE "''::pg_catalog.tsquery IS NOT NULL"
/* a replica's position, to be asked before its snapshot is taken */
extern const char *logq_replica_sql(void);
/* columns of the answers that a request begins with; LOGQ_ROW_SECURITY_SQL
 * adds one to those with a version */
#define LOGQ_VERSION_COLUMNS 1
#define LOGQ_VERSION_LSN_COLUMNS 3
#define LOGQ_REPLICA_COLUMNS 6

/* ---------- rows.c ---------- */

/* decode from the message at hand; true: a row is there */
extern bool logq_stream_decode_row(LogqStream *stream);
/* forget the ids of rows, or get ready to leave them out */
extern void logq_had_reset(LogqStream *stream);
extern void logq_had_sort(LogqStream *stream);
/* the message is about to go: keep what it has of a cut row */
extern void logq_stream_keep_cut_row(LogqDecoder *decoder);
extern void logq_stream_decode_failed(LogqStream *stream);
/* ask over the transaction's own connection, into a file; waits */
extern void logq_spool_request(LogqStream *stream);
extern LogqStreamResult logq_spool_advance(LogqStream *stream);

/* ---------- replay.c ---------- */

extern void logq_replay_add(LogqStream *stream, const char *data, int len);
extern bool logq_replay_row(LogqStream *stream);
extern void logq_replay_reset(LogqStream *stream);

/* ---------- batch.c ---------- */

/* choose fragments from the catalog as it is known now */
extern void logq_plan_fragments(LogqStream *stream);
/* leave out those that a fresh catalog lacks; false: all are there */
extern bool logq_forget_dropped_fragments(LogqStream *stream);

/* choose the next fragments */
extern void logq_batch_choose(LogqStream *stream);
/* SQL that reads them, palloc'd */
extern char *logq_batch_copies(LogqStream *stream, int server_version);
/* fragments of the batch that are really asked, but for the first "done" */
extern int	logq_batch_asked(const LogqStream *stream, int done);
extern bool logq_batch_was_cut_off(const LogqStream *stream);
extern void logq_batch_ended(LogqStream *stream);
/* rows that are still needed of this partition at most, -1: all */
extern int64 logq_batch_rows_needed(LogqStream *stream);
/*
 * SQL of one fragment, for requests and EXPLAIN.  extra: a further condition,
 * or NULL.
 */
extern void logq_fragment_sql(StringInfo buf, const LogqRequest *request,
							  const LogqFragment *fragment,
							  const char *select, const char *where,
							  const char *extra, bool by_id, int64 limit,
							  int server_version);

/* ---------- steps.c ---------- */

extern int64 logq_bin_start(const LogqBins *bins, int64 ts);
extern void logq_append_bin(StringInfo buf, const LogqBins *bins,
							TimestampTz upper, const char *column,
							int server_version);

#endif							/* LOGQ_STREAM_H */
