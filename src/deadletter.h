/*-------------------------------------------------------------------------
 *
 * deadletter.h
 *		What the files that take dead letters again know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_DEADLETTER_H
#define LOGQ_DEADLETTER_H

#include "ingest.h"

#define LOGQ_DEAD_LETTER LOGQ_STORE_SCHEMA ".dead_letter"

/* a lock that is waited for longer may be one of our own local transaction */
#define LOGQ_RETRY_LOCK_SQL "SET LOCAL lock_timeout = '30s'; "

/* What becomes of a dead letter */
typedef enum LogqFate
{
	LOGQ_FATE_KEEP,				/* with another reason, or as it is */
	LOGQ_FATE_TAKE,				/* all its records are rows */
	LOGQ_FATE_SPLIT				/* some are, others dead letters instead */
} LogqFate;

typedef struct LogqBadRecord
{
	int			index;
	char	   *reason;
} LogqBadRecord;

typedef struct LogqLetter
{
	int64		id;
	uint32		xmin;			/* what it was when it was read */
	char	   *topic;
	int			record;			/* which one of a message it was; -1: the
								 * message is whole */
	LogqMessage message;
	int64		bytes;
	char	   *refused;		/* by the partition: why */
	bool		locked;
	LogqFate	fate;
	char	   *reason;			/* LOGQ_FATE_KEEP; NULL: the one it has */
	int			nbad;			/* LOGQ_FATE_SPLIT */
	LogqBadRecord *bad;
} LogqLetter;

/* How the messages of a topic are parsed */
typedef struct LogqTopicSettings
{
	char	   *name;
	LogqParserSettings settings;
} LogqTopicSettings;

/* One call of logq.retry_dead_letters(), at one partition */
typedef struct LogqRetry
{
	MemoryContext cxt;
	MemoryContext batch_cxt;
	List	   *topics;			/* of LogqTopicSettings */
	LogqTopicSettings *topic;	/* that the parser is set to */
	LogqParser *parser;
	const char *condition;		/* AND topic = ..., or empty */
	LogqPartition *part;
	LogqConn   *conn;
	bool		local;			/* doing something here, not there */
	bool		committing;
	/* a segment that takes rows */
	TimestampTz lower;
	TimestampTz upper;
	/* the batch */
	LogqLetter *letters;
	int			nletters;
	char	   *refusal;		/* what the partition said of its data */
	bool		no_segment;		/* ... namely that a segment is missing */
	/* the answer */
	int64		taken;
	int64		rows;
} LogqRetry;

/* ---------- deadletter.c ---------- */

/* set the parser to a topic */
extern void logq_retry_use_topic(LogqRetry *r, const char *name);
/* a text as a reason: not too long, and UTF-8 */
extern char *logq_retry_reason(const char *text);

/* ---------- deadwrite.c ---------- */

/* is this what a partition says of data that it does not take? */
extern bool logq_retry_is_refusal(const PGresult *res);
/* what a partition said, as a reason; it speaks this encoding to us */
extern char *logq_retry_refusal_text(const PGresult *res, int encoding);
/*
 * Run statements that have no business to fail; returns the result with rows,
 * which is the caller's to free.
 */
extern PGresult *logq_retry_run(LogqRetry *r, const char *sql);
/*
 * Do in one transaction what has been decided of some dead letters.  False:
 * the partition has refused the data; nothing was done.
 */
extern bool logq_retry_write(LogqRetry *r, LogqLetter *letters, int n);
/* copies of the catalog may not be true any more; version 0 is unknown */
extern void logq_retry_doubt(LogqRetry *r, int64 version);

#endif							/* LOGQ_DEADLETTER_H */
