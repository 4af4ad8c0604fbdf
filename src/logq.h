/*-------------------------------------------------------------------------
 *
 * logq.h
 *		What the files of logq know of each other.
 *
 * A query's way through the files:
 *
 *		fdw.c		paths
 *		upper.c		paths of queries that group rows
 *		groupest.c	how many groups there may be
 *		split.c		aggregates in two: partial ones, and how to combine them
 *		steps.c		expressions that take ts in steps, and bins of ts
 *		plan.c		the plan: what is sent, what is done here
 *		clause.c	clauses to be sent: their form and their order
 *		canon.c		clauses -> nodes that tell equal ones
 *		canonrun.c	those nodes with their values, as a text for the cache
 *		epoch.c		comparisons of seconds since 1970
 *		shippable.c	may this expression be sent?
 *		portable.c	calls that not all versions answer alike
 *		deparse.c	expression -> pieces of SQL with places for values
 *		estimate.c	how many rows a scan brings, by the catalog
 *		conditions.c	clauses, as estimating looks at them
 *		sums.c		sums over segments, and sketches, kept for estimates
 *		colstats.c	statistics of our columns, for core's own estimates
 *		prunetree.c	clauses -> nodes that choose segments
 *		scan.c		the executor node: begin, next row, rescan, end
 *		prunerun.c	those nodes take up the values of a run
 *		prune.c		bounds of ts and id
 *		segments.c	which segments of a partition are left
 *		sources.c	where rows are counted: rows, rollups, our catalog
 *		target.c	the tuple of a scan below an aggregation
 *		aggregate.c	the node above it
 *		probe.c		asks filters in the coordinator's tables
 *		gather.c	rows of all streams in turn or in order, and the waiting
 *		merge.c		the heap over ordered streams (plain C)
 *		stream.c	what one partition sends back, fragment by fragment
 *		batch.c		which segments a request asks, for how many rows
 *		rows.c		rows of a stream: from messages, or from a file
 *		replay.c	groups of a segment are handed out as a whole
 *		failover.c	a stream and the servers that could answer it
 *		hedge.c		second requests, to another server of the partition
 *		standby.c	is a replica far enough to answer?
 *		servers.c	the servers of a partition, and which to ask
 *		health.c	how servers fare, as all sessions have seen it
 *		query.c		what a session keeps of its queries
 *		querystat.c	what all of them add up to, and the slow ones
 *		decode.c	binary COPY -> fields (plain C)
 *		conn.c		connections of this backend, waiting, remote errors
 *		connect.c	how they begin
 *		resolve.c	names of hosts, looked up without waiting
 *		resolve/	the program that asks the system's resolver
 *		admission.c	how many queries may run at once
 *		connlimit.c	how many connections there may be to a partition
 *		reserve.c	who takes how many of them, and for how long
 *		explain.c	what EXPLAIN says of a scan
 *		aggfuncs.c	results of aggregates from partial results
 *		approx.c	approx_count_distinct
 *		percentile.c	approx_percentile
 *		quantile.c	percentile_cont, _disc of arrays of values
 *
 * What is known of partitions:
 *
 *		catalog.c	partitions and their segments
 *		update.c	brings a session's view of them up to date
 *		contents.c	what the coordinator's tables say of segments
 *		copy.c		keeps the coordinator's tables up to date
 *		copyread.c	what partitions say of their catalogs
 *		groups.c	filters of many segments, block by block
 *		publish.c	refresh_catalog, and who learns of new copies
 *		shmem.c		which copies have been confirmed, for all backends
 *		sketch.c	hash, bloom filter, count-min sketch (plain C)
 *		words.c		words of messages and of patterns (plain C)
 *
 * The cache (cache.h):
 *
 *		redis.c		look-ups in Redis, and stores
 *		redisbreaker.c	is Redis to be asked, and written to?
 *		redisconn.c	a connection to it
 *		redistls.c	TLS for that
 *		redisoptions.c	options of the server that leads to it
 *		redisclear.c	cache_clear
 *
 * Maintenance:
 *
 *		launcher.c	starts a maintenance worker for each database
 *		worker.c	maintenance worker: its loop, and which partitions there are
 *		watch.c		what it does for one: polls, copies, segments ahead
 *		sealer.c	sealer: retention, sealing, in a process of its own
 *		maintain.c	segments ahead, retention
 *		seal.c		sealing of a segment
 *		sealdata.c	what sealing reads and writes
 *		summary.c	rows of a segment -> its metadata (plain C)
 *		distinct.c	distinct values of a field of a segment (plain C)
 *
 * Writing, and the rest:
 *
 *		write.c		INSERT and COPY into logq.logs: rows
 *		route.c		which partition takes a row
 *		copyin.c	the COPY to a partition, segments and ids for it
 *		xact.c		remote write transactions: begin, and who reads over them
 *		xactend.c	their commit, abort, savepoints
 *		partition.c	add_partition, upgrade_store, remove_partition
 *		partitionstatus.c	partition_status
 *		options.c	options of servers and user mappings, password rules
 *		require.c	errors of functions that are written in SQL
 *		clock.c		the time that deadlines and ages are measured with
 *
 * Kafka:
 *
 *		topic.c		add_topic and the like, their tables
 *		topicoptions.c	what may be said about a topic
 *		topicrun.c	the maintenance worker starts and ends ingest workers
 *		topicstat.c	logq.stat_ingest: what ingest workers tell of themselves
 *		ingest.c	ingest worker: its loop, and what it does about trouble
 *		ingestwrite.c	batches on their way to all partitions
 *		ingestopen.c	where a topic begins: the offsets of all partitions
 *		ingestroute.c	how rows find their partitions, as text
 *		ingestfill.c	messages -> rows for each partition
 *		ingestbatch.c	rows -> binary COPY
 *		sink.c		writes a batch's share to one partition
 *		program.c	programs of ours as children of server processes
 *		reader.c	the worker's end of the process that runs librdkafka
 *		kafka/		that process, a program of its own
 *		record.c	message -> log rows (plain C)
 *		deadletter.c	dead letters: the view, and another try
 *		deadwrite.c	the transaction of another try
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_H
#define LOGQ_H

#include "postgres.h"

#include "compat.h"
#include "datatype/timestamp.h"
#include "foreign/foreign.h"
#include "libpq-fe.h"
#include "nodes/pathnodes.h"
#include "utils/hsearch.h"
#include "utils/relcache.h"

/* Name of the extension's own server, on which logq.logs lies */
#define LOGQ_SERVER_NAME "logq"
#define LOGQ_FDW_NAME "logq_fdw"
/* Schema of the store on a partition */
#define LOGQ_STORE_SCHEMA "logq_store"
/* The number of a row's partition stands in the bits of id from here up */
#define LOGQ_ID_PARTITION_SHIFT 44
#define LOGQ_MAX_PARTITION_NUMBER ((1 << 19) - 1)

/* ---------- columns of a log table ---------- */

typedef enum LogqColumn
{
	LOGQ_COL_TS = 0,
	LOGQ_COL_LEVEL,
	LOGQ_COL_SERVICE,
	LOGQ_COL_MESSAGE,
	LOGQ_COL_TRACE_ID,
	LOGQ_COL_ATTRS,
	LOGQ_COL_ID,
	LOGQ_COL_PARTITION,			/* not stored: the partition's name */
	LOGQ_NCOLUMNS
} LogqColumn;

typedef struct LogqColumnDef
{
	const char *name;
	Oid			type;
} LogqColumnDef;

/* in catalog.c; indexed by LogqColumn */
extern const LogqColumnDef logq_columns[LOGQ_NCOLUMNS];

/* Which attribute of a foreign table is which column */
typedef struct LogqRelMap
{
	int			natts;
	int			column[LOGQ_NCOLUMNS + 1];	/* by attno (from 1), -1: dropped */
	AttrNumber	attno[LOGQ_NCOLUMNS];	/* by LogqColumn, 0: not there */
} LogqRelMap;

/* in catalog.c: errors unless rel is a well-formed table on server logq */
extern void logq_rel_map(Relation rel, LogqRelMap *map);

/* ---------- settings, in logq.c ---------- */

typedef enum LogqRouteBy
{
	LOGQ_ROUTE_SERVICE,
	LOGQ_ROUTE_TRACE_ID,
	LOGQ_ROUTE_ROUND_ROBIN
} LogqRouteBy;

extern int	logq_route_by;
extern int	logq_connect_timeout;	/* ms */
extern int	logq_max_parallel_partitions;
extern bool logq_enable_filter_pushdown;
extern bool logq_enable_ordered_merge;
extern bool logq_enable_limit_pushdown;
extern bool logq_enable_limit_shares;
extern bool logq_enable_column_pruning;
extern bool logq_enable_partition_pruning;
extern bool logq_enable_segment_pruning;
extern bool logq_enable_content_pruning;
extern bool logq_enable_aggregate_pushdown;
extern bool logq_use_rollups;
extern char *logq_worker_role;
extern bool logq_strict_pruning;
extern int	logq_catalog_max_age;	/* ms */
extern int	logq_catalog_memory;	/* kB, of one backend */
extern int	logq_seal_after;	/* s */
extern bool logq_seal_trigrams;
extern char *logq_bloom_attrs;
extern char *logq_databases;

/* partitions and segments: catalog.h */
typedef struct LogqPartition LogqPartition;
typedef struct LogqSegment LogqSegment;

/* ---------- connections, in conn.c and command.c ---------- */

typedef enum LogqConnState
{
	LOGQ_CONN_CONNECTING,
	LOGQ_CONN_IDLE,				/* no command under way */
	LOGQ_CONN_BUSY,				/* a command was sent */
	LOGQ_CONN_BROKEN
} LogqConnState;

typedef struct LogqConn
{
	PGconn	   *pg;				/* NULL while names are looked up */
	struct LogqConnStart *start;	/* ... by this, in connect.c */
	LogqConnState state;
	Oid			serverid;
	Oid			userid;
	Oid			umid;			/* user mapping, for invalidation */
	char		name[NAMEDATALEN];	/* of the server, for messages */
	char		address[256];	/* "": where the server's options lead */
	bool		reused;			/* had served a request before this one */
	bool		stale;			/* options changed: close when free */
	bool		configured;		/* session settings were sent */
	int32		number;			/* of the partition, 0: it is none yet */
	bool		pooled;			/* ends at a pooler in transaction mode */
	bool		past_pooler;	/* there is one, but this does not use it */
	bool		used_external_fd;
	bool		in_use;
	bool		counted;		/* among all backends', in connlimit.c */
	bool		own_place;		/* took a place there when it was handed out */
	bool		in_copy;		/* free, but rows of a COPY are yet to come */
	bool		in_snapshot;	/* idle within a transaction that only reads */
	TimestampTz free_since;
	PostgresPollingStatusType poll; /* while connecting */
	TimestampTz connect_deadline;
	int			io_timeout;		/* ms: those who wait give up, 0: never */
	uint32		probe_events;	/* of a probe: what it waits for */
	uint32		server_hash;	/* syscache hash values of what it was */
	uint32		mapping_hash;	/* made from */
	struct LogqConn *next;
} LogqConn;

/*
 * logq_conn_acquire hands out a connection for the sole use of the caller: an
 * idle one of this session (checked), or a new one that is still connecting.
 * It does not wait.  fresh: do not take a pooled one.
 */
extern LogqConn *logq_conn_acquire(Oid serverid, Oid userid, bool fresh);
/*
 * The same, to one of the servers of a partition.  It may be a pooler: nothing
 * of a session must be counted on then, as every transaction, or simple query
 * outside of one, may be in another backend than the one before.  Settings
 * that logq_conn_setup_sql brings hold for one transaction.
 */
typedef enum LogqAcquire
{
	LOGQ_ACQUIRE_POOLED,
	LOGQ_ACQUIRE_FRESH,
	LOGQ_ACQUIRE_EXTRA,			/* NULL when there are too many already */
	LOGQ_ACQUIRE_PROBE			/* fresh, and not counted */
} LogqAcquire;
struct LogqServer;
extern LogqConn *logq_conn_acquire_server(Oid serverid, Oid userid,
										  const struct LogqServer *at,
										  LogqAcquire how);
/*
 * Like logq_conn_acquire, for those who may wait: one that was used before is
 * asked whether somebody answers, and exchanged if not.
 */
extern LogqConn *logq_conn_acquire_tested(Oid serverid, Oid userid);
/*
 * To the primary, over its pooler if it has one, for one of the connections
 * that were reserved: see admission.h.
 */
extern LogqConn *logq_conn_acquire_reserved(Oid serverid, Oid userid,
											bool fresh);
/*
 * Tested, too; on a place that was reserved if one is not in use at the moment,
 * else like logq_conn_acquire: for what a writer does before it writes.
 */
extern LogqConn *logq_conn_acquire_beside(Oid serverid, Oid userid);
/* close one that is idle, if there is any to this server.  Never throws. */
extern bool logq_conn_close_idle(Oid serverid);
/*
 * Advance a connecting connection.  True: it is ready.  False: wait for
 * *events on logq_conn_socket().  Errors are reported with ereport, or stored
 * in *failure when failure is not NULL (then false comes back and state is
 * LOGQ_CONN_BROKEN).
 */
extern bool logq_conn_poll(LogqConn *conn, uint32 *events, char **failure);
/* what to wait on; another one after each logq_conn_poll while connecting */
extern pgsocket logq_conn_socket(const LogqConn *conn);
/*
 * Give it back: kept when it is idle, or soon will be (LOGQ_CONN_BUSY: the
 * rest of the answer is thrown away when it comes).  Never throws.
 */
extern void logq_conn_release(LogqConn *conn);
/* throw away what has arrived of an answer; true: it was all, conn is idle */
extern bool logq_conn_drain(LogqConn *conn);
/* close at once, whatever it is doing.  Never throws. */
extern void logq_conn_close(LogqConn *conn);

/*
 * What must be sent ahead of a request, in the same simple query, or "": a
 * look whether this is the partition's store, and settings.  Through a pooler
 * that is all of them, ahead of each transaction; they end with it.  The text is
 * good until the next call.
 */
extern const char *logq_conn_setup_sql(LogqConn *conn);
/* the same for a further transaction of one simple query */
extern const char *logq_conn_transaction_sql(const LogqConn *conn);

/*
 * For those who may wait (writing, DDL); all honour interrupts and none calls
 * anything of libpq that blocks.
 */
extern void logq_conn_wait_ready(LogqConn *conn);	/* connected and idle */
extern void logq_conn_send(LogqConn *conn, const char *sql);	/* any SQL */
extern bool logq_conn_try_send(LogqConn *conn, const char *sql);	/* or false */
extern void logq_conn_flush(LogqConn *conn);	/* until all is sent */
/* until PQgetResult does not block; does not throw when the connection is lost */
extern void logq_conn_await_result(LogqConn *conn);
/* does somebody answer on an idle connection?  false: it is of no use */
extern bool logq_conn_answers(LogqConn *conn);
extern PGresult *logq_conn_get_result(LogqConn *conn);	/* NULL: idle again */
/* the last result of sql (several statements are fine); errors reported */
extern PGresult *logq_conn_exec(LogqConn *conn, const char *sql);
/* statements that take locks; false: somebody else had one, nothing was done */
extern bool logq_conn_exec_unless_locked(LogqConn *conn, const char *sql);
/* wait for the socket (or a deadline, 0 for none; false when it passed) */
extern bool logq_conn_wait(LogqConn *conn, uint32 events,
						   TimestampTz deadline);

/* What has gone wrong with a partition, palloc'd */
typedef struct LogqFailure
{
	int			sqlstate;
	bool		lost;			/* the connection */
	bool		fatal;			/* or it says that it is about to be */
	char	   *reason;			/* in short, without the partition's name */
	char	   *message;
	char	   *detail;			/* NULL: none; so those below */
	char	   *hint;
	char	   *context;
	char	   *sql;
} LogqFailure;

/*
 * Connecting has failed.  Did the server take our password first?  Then it is
 * well, and what is wrong is ours.
 */
extern bool logq_conn_was_heard(const LogqConn *conn);
/* frees res */
extern LogqFailure *logq_remote_failure(LogqConn *conn, PGresult *res,
										const char *sql);
extern void logq_report_failure(int elevel, const LogqFailure *failure);

/*
 * The one place that turns a remote error into a local one.  Names the
 * partition; keeps the remote SQLSTATE, message, detail, hint and context.
 * Frees res.  sql may be NULL.
 */
extern void logq_report_remote_error(int elevel, LogqConn *conn,
									 PGresult *res, const char *sql);

/* ---------- options.c ---------- */

/*
 * How soon a partition's backend that computes without sending notices that
 * nobody waits for it any more.
 */
#define LOGQ_PEER_CHECK_INTERVAL "500ms"
/* servers that know the settings client_connection_check_interval, ... */
#define LOGQ_HAS_PEER_CHECK 140000
#define LOGQ_HAS_TRANSACTION_TIMEOUT 170000

/* an option's value as text, or NULL */
extern const char *logq_server_option(ForeignServer *server,
									  const char *name);
/*
 * SQL that gives one transaction what other connections have from their
 * startup packet, and what servers of that version know beyond it.
 */
extern const char *logq_transaction_settings(int server_version);
/* SQL that fails, in this state, where the store of another partition is */
#define LOGQ_WRONG_STORE_STATE "08004"
extern void logq_append_store_check(StringInfo buf, int32 number);
/*
 * libpq keywords and values for a server and user, palloc'd, ending in NULLs,
 * with what logq adds (client_encoding, application_name, options, ...).  at:
 * the server of a partition to connect to, NULL for the one of the options.
 */
extern void logq_connection_params(ForeignServer *server, UserMapping *user,
								   const struct LogqServer *at,
								   const char ***keywords,
								   const char ***values);
/* errors: no such option among the valid ones (names), or no such value */
extern void logq_report_invalid_option(const char *keyword, List *valid);
extern void logq_report_invalid_value(const char *option, const char *value,
									  const char *hint);
/* a decimal number from min to max, with at most white space around it? */
extern bool logq_is_integer(const char *text, long min, long max);
/* members of a list that is an option's value, without white space */
extern List *logq_split_option(const char *value);
/* before and after connecting: the password rules for non-superusers */
extern void logq_check_conn_params(const char **keywords, const char **values,
								   UserMapping *user);
extern void logq_check_conn_security(PGconn *conn, UserMapping *user,
									 const char *server_name);

/* ---------- shippable.c ---------- */

typedef struct LogqShipContext
{
	PlannerInfo *root;
	RelOptInfo *rel;
	const LogqRelMap *map;
	bool		same_locale;	/* logq_all_same_locale() */
} LogqShipContext;

/*
 * Rewrite a clause into an equal one that can be shipped more often: the
 * stable comparisons of a timestamptz column with a date or timestamp that
 * does not depend on the row become timestamptz comparisons.
 */
extern Expr *logq_rewrite_clause(const LogqShipContext *cxt, Expr *clause);
extern bool logq_is_shippable(const LogqShipContext *cxt, Expr *expr);
/* the same of an aggregate with its arguments, and its filter */
extern bool logq_is_aggregate_shippable(const LogqShipContext *cxt,
										Aggref *agg);
/* the column of ours that a node is, or -1 */
extern int	logq_var_column(const LogqShipContext *cxt, Node *node);
/* the same, also of what is but called another type: text as varchar */
extern int	logq_plain_column(const LogqShipContext *cxt, Node *node);
/*
 * Does expr have the same value for the whole scan (no Vars of rel, nothing
 * volatile, no sub-select of rel)?  Such expressions become parameters.
 */
extern bool logq_is_scan_constant(const LogqShipContext *cxt, Node *expr);
/* rank of a clause by the cost of evaluating it at the partition */
extern int	logq_clause_rank(const LogqShipContext *cxt, Expr *clause);

/* ---------- deparse.c ---------- */

/*
 * SQL of a shippable expression as a list of String nodes (text as it is) and
 * Integer nodes: n >= 0 stands for the value of the n-th member of *params
 * (to which expressions that are constant for the scan are added, equal ones
 * once), LOGQ_PIECE_PARTITION for the partition's name.
 */
#define LOGQ_PIECE_PARTITION (-1)
extern List *logq_deparse_expr(const LogqShipContext *cxt, Expr *expr,
							   List **params);
/* index in *params of an expression, added when new */
extern int	logq_param_index(List **params, Expr *expr);
/*
 * A value as a literal that any server reads the same, with its type:
 * 'text'::pg_catalog.text; NULL::type when isnull.
 */
extern void logq_append_literal(StringInfo buf, Datum value, bool isnull,
								Oid type, int32 typmod);
/* a finite time as such a literal; needs no settings, unlike others */
extern void logq_append_time(StringInfo buf, TimestampTz time);
/* pin the settings that output functions depend on; undo with AtEOXact_GUC */
extern int	logq_set_transmission_modes(void);

/* ---------- time, in clock.c ---------- */

extern void logq_clock_init(void);
/* then */
extern TimestampTz logq_loaded_at(void);
/* for whatever is compared with each other: it is never set */
extern TimestampTz logq_now(void);
/* what people see of that */
extern TimestampTz logq_wall_time(TimestampTz time);
/*
 * A wait began at "before" and was to end after "asked" ms, or only by an event
 * if -1: us that this process, or the machine, has stood still meanwhile.  Others are not to blame for it: what they
 * have to meet is put off.
 */
extern TimestampTz logq_time_stopped(TimestampTz before, long asked);

/* ---------- remote write transactions, in xact.c ---------- */

/*
 * Late rows open their segments now, while no lock on another partition is
 * waited for, and the version tells whether anybody has changed the catalog.
 */
#define LOGQ_COMMIT_SQL \
	"SET CONSTRAINTS ALL IMMEDIATE; " \
	"SELECT version FROM " LOGQ_STORE_SCHEMA ".catalog_version; COMMIT"

/*
 * The connection of this transaction's writes to a partition as this user,
 * in a transaction and at the savepoint of the current subtransaction.
 */
extern LogqConn *logq_xact_begin_write(Oid serverid, Oid userid);
/*
 * For readers: the same connection if this transaction has written to the
 * partition and it is idle in its transaction, else NULL.
 */
extern LogqConn *logq_xact_written_conn(Oid serverid, Oid userid);
/*
 * Has the transaction written to it what a reader must see, whoever it was?
 * Never throws.
 */
extern bool logq_xact_has_written(Oid serverid);
/* is this the connection over which a user's writes would go, by now? */
extern bool logq_xact_writes_over(Oid serverid, Oid userid,
								  const LogqConn *conn);
/*
 * While a COPY is under way on the connection: marks it, so that an abort
 * ends it first.
 */
extern void logq_xact_set_copying(LogqConn *conn, bool copying);

/* ---------- write.c ---------- */

struct FdwRoutine;
extern void logq_write_init(struct FdwRoutine *routine);
/* make the segment for ts on a partition in a transaction of its own */
extern void logq_make_segment(LogqPartition *part, Oid userid,
							  TimestampTz ts);

/* ---------- route.c ---------- */

/* entries, and longest key, of the cache of routes */
#define LOGQ_ROUTE_CACHE_SIZE 64
#define LOGQ_ROUTE_CACHE_KEYLEN 52

typedef struct LogqRouteEntry
{
	int16		target;			/* -1: free */
	int16		keylen;
	char		key[LOGQ_ROUTE_CACHE_KEYLEN];
} LogqRouteEntry;

/* Some partitions, among which keys are spread */
typedef struct LogqRouter
{
	int			n;
	int32	   *numbers;		/* of the partitions */
	LogqRouteEntry cache[LOGQ_ROUTE_CACHE_SIZE];
} LogqRouter;

/* numbers must live as long */
extern void logq_router_init(LogqRouter *router, int32 *numbers, int n);
/* rendezvous hash: index of the partition that takes a key */
extern int	logq_route(LogqRouter *router, const char *key, int keylen);

#endif							/* LOGQ_H */
