/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		Partitions and their segments, as this backend knows them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CATALOG_H
#define LOGQ_CATALOG_H

#include "logq.h"

/* store format that this version reads and writes */
#define LOGQ_STORE_FORMAT 4

/* longest part of trace_id's bounds that is kept in memory */
#define LOGQ_KEY_PREFIX 24
/* levels that a partition's dictionary holds at most, NULL included */
#define LOGQ_MAX_LEVELS 64
/* filters in one group */
#define LOGQ_GROUP_SIZE 64
/* rows of a level or service: more than fit, so not known exactly */
#define LOGQ_ROWS_UNKNOWN PG_UINT32_MAX

/* Fields that have filters: these, or "attrs." and a key */
#define LOGQ_FIELD_TRACE_ID "trace_id"
#define LOGQ_FIELD_SERVICE "service"
#define LOGQ_FIELD_WORDS "message"
#define LOGQ_FIELD_ATTRS "attrs."

/* Where the filter of one field of one segment is, and how large */
typedef struct LogqFilterRef
{
	int32		group;			/* in catalog_filter_group; 0: its own row */
	uint32		nvalues;		/* distinct values */
	uint16		field;			/* index to the partition's fields */
	uint8		slot;			/* in the group */
	int8		log2_blocks;	/* -1: there is no filter */
} LogqFilterRef;

/*
 * Contents of a sealed segment.  Levels and services are indexes to the
 * partition's dictionaries, whose entry 0 is NULL.  Numbers of rows are exact,
 * but for LOGQ_ROWS_UNKNOWN, which estimates take as it stands.
 */
typedef struct LogqContent
{
	int64		min_ts;
	int64		max_ts;
	int64		min_id;
	int64		max_id;
	bool		has_levels;		/* all its levels are listed */
	bool		has_services;	/* all its services are listed */
	bool		has_trace_id;	/* bounds of trace_id are known */
	bool		odd_case;		/* words cannot answer what ignores case */
	uint8		min_trace_len;	/* LOGQ_KEY_PREFIX: may be longer */
	uint8		max_trace_len;
	char		min_trace_id[LOGQ_KEY_PREFIX];
	char		max_trace_id[LOGQ_KEY_PREFIX];
	uint64		levels;			/* bit i: level i of the dictionary */
	uint32	   *level_rows;		/* for each bit set, ascending */
	int			nservices;
	uint32	   *services;		/* ascending */
	uint32	   *service_rows;	/* for each */
	LogqFilterRef *filters;
	int			nfilters;
	/* rows that the partition keeps in these rollups; -1: it does not */
	int32		level_rollup;
	int32		service_rollup;
} LogqContent;

struct LogqSegment
{
	TimestampTz lower;			/* included */
	TimestampTz upper;			/* excluded */
	char	   *name;			/* table in schema logq_store, unquoted */
	double		rows;			/* exact when sealed, else an estimate; -1 */
	int64		version;		/* of the catalog when it was changed last */
	bool		sealed;
	LogqContent *content;		/* NULL: not sealed, or not known here */
};

/*
 * What this backend knows of a partition.  The struct stays where it is for
 * the life of the backend; segments are replaced as a whole by a load, so
 * nobody keeps pointers to them over anything that can wait.
 */
struct LogqPartition
{
	int32		number;			/* hash key */
	char		name[NAMEDATALEN];	/* of the server */
	Oid			serverid;		/* InvalidOid: there is no such server */
	bool		same_locale;	/* sorts and folds case as we do */
	bool		has_replicas;
	/* copy of the partition's own catalog */
	bool		loaded;
	int64		version;
	int64		changed;		/* of the tables' copy that it is from, 0: none */
	uint64		puts;			/* lists of segments there have been: two of the
								 * same version differ when a transaction has
								 * written to what is sealed */
	TimestampTz confirmed_at;	/* a request of ours began then and found this
								 * version to be true; 0: none has */
	bool		row_security;	/* as a request found that began then: */
	TimestampTz row_security_at;	/* 0: none has asked */
	int			nsegments;
	LogqSegment *segments;		/* by lower, ascending */
	double		total_rows;		/* of all segments, a guess where unknown */
	/* dictionaries of contents; entry 0 of levels and services is NULL */
	int			nlevels;
	char	  **levels;
	int			nservices;
	char	  **services;
	int			nfields;
	char	  **fields;			/* names of fields with filters */
	double	   *service_level_rows; /* services x levels, of all contents */
	MemoryContext cxt;			/* holds segments; contents have their own */
	/* private to catalog.c and contents.c */
	TimestampTz distrusted_at;	/* what was confirmed before does not count */
	uint32		server_hash;	/* syscache hash value, for invalidation */
	struct LogqContents *contents;
	bool		groups_left;	/* see logq_copy_unfinished */
};

/* all partitions by number, as of the current snapshot (a fresh List) */
extern List *logq_partitions(void);
extern LogqPartition *logq_partition_by_server(Oid serverid);
extern LogqPartition *logq_known_partition(Oid serverid);
/* do all partitions sort and fold case as this database does? */
extern bool logq_all_same_locale(void);
extern void logq_partitions_changed(void);

/*
 * Bring our copy up to date with the coordinator's tables, if these have
 * moved on (cheap when they have not).  Afterwards part->loaded says whether
 * anything is known at all.  Never connects.
 */
extern void logq_catalog_update(LogqPartition *part);
/*
 * Was our copy true at a time that is less than logq.catalog_max_age ago?
 * Then what it says of contents may decide that a partition is not asked.
 * False with logq.strict_pruning.
 */
extern bool logq_catalog_confirmed(const LogqPartition *part);
/* a request that began at asked_at found our version to be true */
extern void logq_catalog_confirm(LogqPartition *part, TimestampTz asked_at);

/* Is there row-level security on a partition's log rows? */
typedef enum LogqRowSecurity
{
	LOGQ_ROW_SECURITY_OFF,
	LOGQ_ROW_SECURITY_ON,
	LOGQ_ROW_SECURITY_UNKNOWN	/* the partition must say */
} LogqRowSecurity;

/*
 * Policies change no version, so they are asked for on their own: as the last
 * column beside the version.  Of tables that have row-level security those
 * count that have a policy (the list of policies is short, that of segments is
 * not), or the log table.
 */
#define LOGQ_ROW_SECURITY_SQL \
	"(SELECT relrowsecurity FROM pg_catalog.pg_class" \
	" WHERE oid = '" LOGQ_STORE_SCHEMA ".log'::pg_catalog.regclass)" \
	" OR EXISTS (SELECT FROM pg_catalog.pg_policy p" \
	" JOIN pg_catalog.pg_class c ON c.oid = p.polrelid WHERE c.relrowsecurity" \
	" AND c.relnamespace = '" LOGQ_STORE_SCHEMA "'::pg_catalog.regnamespace)"

/* as was found less than logq.catalog_max_age ago; strict: "off" is unknown */
extern LogqRowSecurity logq_row_security(const LogqPartition *part);
/* a request that began at asked_at found it to be so */
extern void logq_note_row_security(LogqPartition *part, bool row_security,
								   TimestampTz asked_at);

/* the SQL that reads a partition's catalog: one version, one binary COPY */
extern const char *logq_catalog_sql(void);
/* a new copy of a partition's segments is built up and then put in force */
typedef struct LogqCatalogLoad LogqCatalogLoad;
extern LogqCatalogLoad *logq_catalog_load_begin(LogqPartition *part);
extern void logq_catalog_load_row(LogqCatalogLoad *load, const char *buf,
								  int len);
extern void logq_catalog_load_end(LogqCatalogLoad *load, int64 version);
extern void logq_catalog_load_abort(LogqCatalogLoad *load);
/* load the partition's catalog through conn (which must be idle) */
extern void logq_catalog_load(LogqPartition *part, LogqConn *conn);

/*
 * Index of the first segment whose upper bound is above ts (nsegments: none).
 */
extern int	logq_segment_search(const LogqPartition *part, TimestampTz ts);
/* the segment that takes a row of this time, or NULL when unknown here */
extern const LogqSegment *logq_segment_for(const LogqPartition *part,
										   TimestampTz ts);

/* in contents.c */

/* index of the field in the partition's fields, -1 when it has no filters */
extern int	logq_catalog_field(const LogqPartition *part, const char *field);
/* the segment's filter of this field, or NULL */
extern const LogqFilterRef *logq_segment_filter(const LogqSegment *seg,
												int field);

/* ---------- the copy in the coordinator's tables, in copy.c ---------- */

/*
 * Bring the tables up to date with the partition, over an idle connection
 * outside a transaction, in the current local transaction; what they then say
 * is published when it commits.  Returns how many segments changed.
 */
extern int	logq_copy_catalog(LogqPartition *part, LogqConn *conn);
/*
 * Did the last call in this backend leave filters that can be put in groups?
 * Then it should be called again before long, also with an equal version.
 */
extern bool logq_copy_unfinished(const LogqPartition *part);

/* ---------- confirmations shared by all backends, in shmem.c ---------- */

typedef struct LogqConfirmation
{
	int64		version;		/* of the copy in the tables */
	int64		changed;		/* logq.catalog.changed of that copy */
	TimestampTz confirmed_at;	/* 0: not, or doubted since */
	bool		row_security;	/* as found by who asked at: */
	TimestampTz row_security_at;	/* 0: nobody has */
	char		error[256];		/* why it could not be confirmed last, or "" */
} LogqConfirmation;

extern void logq_shmem_init(void);	/* from _PG_init */
/* was the library preloaded, so that there is shared memory? */
extern bool logq_shmem_available(void);
/* of a partition of the current database; false: nothing was published */
extern bool logq_shmem_get(int32 number, LogqConfirmation *confirmation);
/* row-level security was found to be so by a request that began at asked_at */
extern void logq_shmem_row_security(int32 number, bool row_security,
									TimestampTz asked_at);
/* the tables have a new copy, which was true at asked_at */
extern void logq_shmem_publish(int32 number, int64 version, int64 changed,
							   TimestampTz asked_at);
/* the partition was found to have this version at asked_at */
extern void logq_shmem_confirm(int32 number, int64 version,
							   TimestampTz asked_at);
/*
 * It may have another version by now, as far as we know: not confirmed until
 * something that began later says so.  Wakes the maintenance worker.
 */
extern void logq_shmem_doubt(int32 number);
/* why the worker could not confirm it; NULL: it could */
extern void logq_shmem_set_error(int32 number, const char *error);

/* What the maintenance worker asks a partition from time to time */
typedef struct LogqPartitionFacts
{
	TimestampTz asked_at;		/* 0: not yet, and all else is nothing */
	int			format;			/* of its store */
	int64		clock_offset;	/* its clock less ours, microseconds */
	int64		clock_error;	/* that may be wrong by so many */
	int			connections;	/* of all clients to its server */
	int			max_connections;
} LogqPartitionFacts;

/* What is known of the copy of a partition's catalog, at one moment */
typedef struct LogqCatalogState
{
	LogqConfirmation confirmation;
	bool		published;
	TimestampTz doubted_at;		/* 0: confirmed since, or never doubted */
	TimestampTz true_at;		/* last one ever to be confirmed, 0: none */
	TimestampTz failing_since;	/* 0: the worker can confirm it */
	char		seal_error[256];	/* of the last sealing, "" */
	char		ahead_error[256];	/* of making segments ahead, "" */
	LogqPartitionFacts facts;
} LogqCatalogState;

extern void logq_shmem_set_facts(int32 number,
								 const LogqPartitionFacts *facts);
/* false: nothing is known, and all of it is zero */
extern bool logq_shmem_state(int32 number, LogqCatalogState *state);

/*
 * Rows, segments and format of a store, for partition.c and partitionstatus.c.
 * Exact: sealed segments know their rows, only open ones are counted.  The
 * LATERAL lets the partition prune all others at run time.
 */
#define LOGQ_STATUS_SQL \
	"SELECT (SELECT coalesce(sum(s.rows), 0) FROM " LOGQ_STORE_SCHEMA ".segment s WHERE s.state = 'sealed')::bigint " \
	"+ (SELECT coalesce(sum(c.n), 0) FROM " LOGQ_STORE_SCHEMA ".segment s, " \
	"LATERAL (SELECT count(*) AS n FROM " LOGQ_STORE_SCHEMA ".log l WHERE l.ts >= s.lower AND l.ts < s.upper) c " \
	"WHERE s.state <> 'sealed')::bigint, " \
	"(SELECT count(*) FROM " LOGQ_STORE_SCHEMA ".segment), " \
	"(SELECT format FROM " LOGQ_STORE_SCHEMA ".store)"

#endif							/* LOGQ_CATALOG_H */
