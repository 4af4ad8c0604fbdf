/*-------------------------------------------------------------------------
 *
 * health.h
 *		The servers of partitions: which there are, and how they fare.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_HEALTH_H
#define LOGQ_HEALTH_H

#include "catalog.h"

#include "access/xlogdefs.h"

/* servers of one partition at most: its primary and its replicas */
#define LOGQ_MAX_SERVERS 16
/*
 * A wait for a server is never longer, ms: bytes may hide in the TLS library,
 * and whoever stands still has to notice (see logq_time_stopped).
 */
#define LOGQ_MAX_WAIT_MS 1000L
/* longest "host:port" that health is kept of */
#define LOGQ_ADDRESS_LEN 256

/*
 * How far the WAL is that others can see, as a number; NULL on a standby.
 * What was not flushed dies with the server, and no replica ever gets it: it
 * must not be waited for.  But with synchronous_commit = off, rows can be seen
 * before they are flushed.
 */
#define LOGQ_LSN_SQL \
	"CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE " \
	"(CASE pg_catalog.current_setting('synchronous_commit') WHEN 'off'" \
	" THEN pg_catalog.pg_current_wal_insert_lsn()" \
	" ELSE pg_catalog.pg_current_wal_flush_lsn() END" \
	" - '0/0'::pg_catalog.pg_lsn)::bigint END"
/*
 * ... and the transaction before which all that a snapshot does not see as
 * running are over.  A position may lie in the middle of a record, and stay
 * there for as long as nothing is written: so whoever has no transaction left
 * to replay has all, too.
 */
#define LOGQ_XID_SQL \
	"CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE " \
	"pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) END"

/* What a replica must have; zeros: nothing */
typedef struct LogqPosition
{
	XLogRecPtr	lsn;
	int64		xid;
} LogqPosition;

/* One of the servers that have the rows of a partition */
typedef struct LogqServer
{
	char		address[LOGQ_ADDRESS_LEN];	/* host:port, padded with zeros */
	char	   *host;			/* NULL: as the server's options say */
	char	   *port;
	bool		replica;
	bool		pooled;			/* a pooler in transaction mode */
} LogqServer;

/* The first one is the primary */
typedef struct LogqServers
{
	Oid			serverid;
	int			n;
	LogqServer	servers[LOGQ_MAX_SERVERS];
} LogqServers;

typedef enum LogqReadFrom
{
	LOGQ_READ_ANY,
	LOGQ_READ_PRIMARY,
	LOGQ_READ_REPLICA
} LogqReadFrom;

extern int	logq_read_from;
extern int	logq_max_replica_lag;	/* ms */
extern int	logq_partition_timeout; /* ms, 0: none */
extern bool logq_enable_hedging;
extern int	logq_hedge_min_delay;	/* ms */

/* ---------- health.c ---------- */

typedef enum LogqBreaker
{
	LOGQ_BREAKER_CLOSED,
	LOGQ_BREAKER_OPEN,
	LOGQ_BREAKER_HALF_OPEN		/* a probe is under way */
} LogqBreaker;

/* What is known of a server, at one moment */
typedef struct LogqHealth
{
	LogqBreaker breaker;
	bool		cheap;			/* its last failure took no time, or it was just
								 * slow: to be asked if there is no other */
	int			failures;		/* in a row */
	TimestampTz since;			/* the breaker is as it is */
	char		reason[256];
	double		latency_ms;		/* moving average, -1: unknown */
	int			values;			/* that it is made from, up to some number */
	TimestampTz measured_at;	/* the last one */
	double		p95_ms;			/* -1: unknown */
	double		connect_p95_ms; /* -1: unknown */
	int64		requests;
	int64		errors;
	int64		hedges;
	int64		hedge_wins;
	int64		lag_ms;			/* when it was last seen, -1: unknown */
	TimestampTz lag_at;
	TimestampTz answered_at;	/* 0: it has not */
} LogqHealth;

typedef enum LogqFault
{
	LOGQ_FAULT_REFUSED,			/* it said no at once, or hung up */
	LOGQ_FAULT_SILENT,			/* it did not say anything in time */
	LOGQ_FAULT_STALLED			/* it stopped in the middle of an answer, or
								 * what is wrong is not the server */
} LogqFault;

/* of all servers of a partition at once; health has room for them */
extern void logq_health_get(const LogqServers *servers, LogqHealth *health);
/* a request goes to a server (extra: beside another one) */
extern void logq_health_asked(const LogqServers *servers, int server,
							  bool extra);
/*
 * Its first result has come: after so many ms over a connection that had
 * answered before, or so many with connecting.  Either may be -1.
 */
extern void logq_health_answered(const LogqServers *servers, int server,
								 double ms, double connect_ms);
extern void logq_health_failed(const LogqServers *servers, int server,
							   LogqFault fault, const char *reason);
/* another server was faster, although it had begun this much later */
extern void logq_health_overtaken(const LogqServers *servers, int server,
								  double ms, bool won);
/* may there be one more request beside another one? takes it if so */
extern bool logq_health_spend_hedge(const LogqServers *servers);
/*
 * Is it time to see whether a server is back?  True: it is up to the caller,
 * who is to say how it went with logq_health_answered or _failed.
 */
extern bool logq_health_begin_probe(const LogqServers *servers, int server);

/* the probe was given up: another session may try */
extern void logq_health_abandon_probe(const LogqServers *servers, int server);
/* is there a server of this database's partitions that is in trouble? */
extern bool logq_health_any_trouble(void);

/* the primary had written so far when asked at this time */
extern void logq_health_wal(const LogqServers *servers, XLogRecPtr lsn,
							TimestampTz asked_at);
/* how far behind is one that has replayed so far, as far as is known; ms */
extern int64 logq_health_wal_lag(const LogqServers *servers,
								 XLogRecPtr replayed);
extern void logq_health_set_lag(const LogqServers *servers, int server,
								int64 lag_ms);

extern Size logq_health_shmem_size(void);
/* called with AddinShmemInitLock held */
extern void logq_health_shmem_startup(LWLock *lock);

/* ---------- servers.c ---------- */

/* the servers of a partition by its options, palloc'd; for sessions' reads */
extern LogqServers *logq_servers(Oid serverid);
/*
 * The server to ask, leaving out those of the set "tried"; -1: there is none.
 * Starts probes of those that have been in trouble.  userid: who would ask.
 */
extern int	logq_choose_server(const LogqServers *servers, Oid userid,
							   uint32 tried);
/* another one beside the given one, for a second request; -1: none */
extern int	logq_choose_other(const LogqServers *servers, int server,
							  uint32 tried);
/* its breaker is closed */
extern bool logq_server_seems_well(const LogqServers *servers, int server);
/* nothing bad is known of it */
extern bool logq_primary_seems_well(const LogqServers *servers);
/* ms after which a second request is worth its while */
extern double logq_hedge_delay(const LogqServers *servers, int server,
							   bool connecting);
/* why a server that was not asked was not; palloc'd */
extern char *logq_server_refusal(const LogqServers *servers, int server);
/* are there probes of this session under way? */
extern bool logq_probing(void);
/*
 * Go on with them, in a transaction.  Never waits, and throws only what is not
 * theirs, such as that the query is cancelled.
 */
extern void logq_advance_probes(void);
/* for the worker: probe those servers of a partition that are in trouble */
extern void logq_probe_servers(const LogqServers *servers, Oid userid);
/* before writing: throws when the primary is known not to answer */
extern void logq_check_writable(Oid serverid, Oid userid);

/* what this session has written, which a replica must have */
extern void logq_expect_written(Oid serverid);
/* never throws after that */
extern void logq_note_written(Oid serverid, const LogqPosition *position);
extern LogqPosition logq_written_position(Oid serverid);
/* something was, and nobody knows how far that is */
#define LOGQ_WRITTEN_UNKNOWN PG_INT64_MAX
/* the primary was at this place later */
extern void logq_learn_written(Oid serverid, const LogqPosition *position);
/* what LOGQ_LSN_SQL has given */
extern XLogRecPtr logq_parse_lsn(const char *text);

#endif							/* LOGQ_HEALTH_H */
