/*-------------------------------------------------------------------------
 *
 * seal.h
 *		What the files that seal a segment know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_SEAL_H
#define LOGQ_SEAL_H

#include "maintain.h"

/* how often what waits for locks is tried */
#define LOGQ_SEAL_LOCK_ATTEMPTS 3

/* SQLSTATEs of partitions */
#define LOGQ_LOCK_NOT_AVAILABLE "55P03"
#define LOGQ_DEADLOCK_DETECTED "40P01"
#define LOGQ_QUERY_CANCELED "57014"
#define LOGQ_DIVISION_BY_ZERO "22012"
#define LOGQ_UNDEFINED_TABLE "42P01"
#define LOGQ_PROGRAM_LIMIT_EXCEEDED "54000"
#define LOGQ_INSUFFICIENT_PRIVILEGE "42501"

/* One segment being sealed */
typedef struct LogqSealing
{
	LogqConn   *conn;
	const char *segment;
	char	   *table;			/* its name in SQL, with the schema */
	char	   *literal;		/* its name as a literal */
	char	   *token;			/* of begin_seal, a number */
	int64		lower;
	int64		upper;
	List	   *attrs;			/* keys that get filters */
} LogqSealing;

/* ---------- seal.c ---------- */

/*
 * Run one or several statements.  Returns the error if there is one, else the
 * last result that has rows, else the last one; the caller looks and frees.
 */
extern PGresult *logq_seal_run(LogqConn *conn, const char *sql);
/* throw (and free) unless it went well */
extern PGresult *logq_seal_expect(LogqConn *conn, PGresult *res,
								  const char *sql);
/* has it failed with this SQLSTATE; has it waited too long for somebody? */
extern bool logq_seal_failed_with(const PGresult *res, const char *sqlstate);
extern bool logq_seal_failed_waiting(const PGresult *res);

/* ---------- sealdata.c ---------- */

/* phases 3 and 4: read the segment, write what is known of it */
extern LogqSealResult logq_seal_data(LogqSealing *s, int64 *rows);

#endif							/* LOGQ_SEAL_H */
