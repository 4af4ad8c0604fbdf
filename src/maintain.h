/*-------------------------------------------------------------------------
 *
 * maintain.h
 *		What is done for segments over their life: made, sealed, dropped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_MAINTAIN_H
#define LOGQ_MAINTAIN_H

#include "catalog.h"

/* ---------- seal.c ---------- */

typedef enum LogqSealResult
{
	LOGQ_SEAL_DONE,
	LOGQ_SEAL_BUSY,				/* somebody else seals it, or writers hold it */
	LOGQ_SEAL_WRITTEN,			/* written to again and again meanwhile */
	LOGQ_SEAL_GONE				/* dropped, or sealed already */
} LogqSealResult;

/*
 * Seal one segment over an idle connection outside a transaction.  Remote
 * errors are thrown; the caller then closes the connection.
 */
extern LogqSealResult logq_seal_segment(LogqPartition *part, LogqConn *conn,
										const char *segment, int64 *rows);
/*
 * Names of the open segments that end no later than before (NULL: by
 * logq.seal_after) and are not empty of rows to come, oldest first, palloc'd.
 */
extern List *logq_segments_to_seal(LogqPartition *part, LogqConn *conn,
								   const TimestampTz *before);

/* ---------- maintain.c ---------- */

/*
 * For which time there must be a segment, of a row of logq_store.store.  Not
 * earlier than need be: a segment that is open is asked by every query.
 */
#define LOGQ_AHEAD_SQL \
	"(pg_catalog.now() + least(segment_interval / 4, '15 minutes'::interval))"

/* make the segments of now and of that time, unless they are there */
extern void logq_make_ahead(LogqPartition *part, LogqConn *conn);
/*
 * Drop what retention has passed; returns how many segments, -1: a lock could
 * not be had.
 */
extern int	logq_apply_retention(LogqPartition *part, LogqConn *conn);

/* ---------- launcher.c ---------- */

typedef enum LogqWorkerKind
{
	LOGQ_WORKER_MAINTENANCE,
	LOGQ_WORKER_SEALER,
	LOGQ_WORKER_INGEST			/* several: registered in topicstat.c */
} LogqWorkerKind;

extern void logq_worker_init(void); /* from _PG_init: the launcher */
/* is a database named in logq.databases? */
extern bool logq_worker_wanted(const char *database_name);
/* does this database have a maintenance worker, or is it about to? */
extern bool logq_worker_runs_here(void);
/* a notice unless it does; detail: what is not done then */
extern void logq_warn_without_worker(const char *detail);
extern PGDLLEXPORT void logq_launcher_main(Datum arg);

/*
 * For workers: start another one; NULL: there is no room.  arg is its argument:
 * the database's oid for the sealer, the topic's number for an ingest worker.
 */
struct BackgroundWorkerHandle;
extern struct BackgroundWorkerHandle *logq_start_worker(LogqWorkerKind kind,
														const char *database_name,
														Datum arg);
/* settings of a worker's session */
/* connect to the worker's database, as logq.worker_role */
extern void logq_worker_connect_database(void);
/* ... which is another one by now, after the configuration was read again */
extern bool logq_worker_role_changed(void);
extern void logq_worker_session(const char *name);
/* call function(arg) in a transaction; the error is returned, in cxt */
extern ErrorData *logq_worker_transaction(void (*function) (void *arg),
										  void *arg, MemoryContext cxt);
extern char *logq_worker_error_text(const ErrorData *edata);
/* will it be gone when we try again? */
extern bool logq_worker_is_temporary(const ErrorData *edata);
/* a new connection as the owner of the server */
extern LogqConn *logq_worker_connect(LogqPartition *part);

/* ---------- worker.c ---------- */

extern PGDLLEXPORT void logq_maintenance_main(Datum arg);

/* ---------- sealer.c ---------- */

extern PGDLLEXPORT void logq_sealer_main(Datum arg);

/* ---------- shmem.c, for workers ---------- */

/* this process becomes the one of its kind; false: there is one already */
extern bool logq_register_worker(LogqWorkerKind kind,
								 const char *database_name);
/* pid of the one of a database (NULL: of ours), 0: there is none */
extern pid_t logq_find_worker(LogqWorkerKind kind, const char *database_name);
/* wake the maintenance worker of our database; never throws */
extern void logq_shmem_wake_maintenance(void);
extern bool logq_shmem_doubted_since(int32 number, TimestampTz since);
/* can a doubt be recorded at all? */
extern bool logq_shmem_can_doubt(int32 number);
extern void logq_shmem_forget_others(List *parts);
extern TimestampTz logq_shmem_seal_paused_at(int32 number);
extern bool logq_shmem_set_seal_paused(int32 number, TimestampTz at,
									   const char *error);
/* why segments could not be made ahead; NULL: they can, as far as is known */
extern void logq_shmem_set_ahead_error(int32 number, const char *error);

#endif							/* LOGQ_MAINTAIN_H */
