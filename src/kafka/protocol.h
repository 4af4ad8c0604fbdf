/*-------------------------------------------------------------------------
 *
 * protocol.h
 *		What an ingest worker and its reader say to each other.
 *
 * librdkafka has threads of its own, and a process that shares memory with
 * PostgreSQL takes the whole server along when it crashes.  So it runs in a
 * program of its own, the reader, which the worker starts with one end of a
 * socket pair as standard input.  Either side ends when the other has.
 *
 * Both directions carry frames: a LogqFrameHead and then "length" bytes.
 * Both ends are built together and run on the same machine, so integers are in
 * its own order and structs are copied as they are; nothing is aligned.
 *
 * The worker sends one SETUP.  The reader connects, and answers INFO when it
 * knows the topic's partitions and their watermarks.  Then the worker sends one
 * ASSIGN, and MESSAGE, POSITION and ERROR frames follow for ever.  INFO comes
 * again when the number of partitions has changed.  A worker that wants
 * anything else starts another reader.
 *
 * Backpressure is the socket's: while the worker does not read, the reader
 * does not take messages from librdkafka, whose own queue is limited.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_KAFKA_PROTOCOL_H
#define LOGQ_KAFKA_PROTOCOL_H

#include <stdint.h>

/* name of the program, in the directory of PostgreSQL's modules */
#define LOGQ_READER_PROGRAM "logq_kafka"

typedef struct LogqFrameHead
{
	uint32_t	length;			/* of what follows */
	uint32_t	type;			/* LOGQ_FRAME_... */
} LogqFrameHead;

/* longest frame that anybody accepts */
#define LOGQ_FRAME_MAX (512U * 1024 * 1024)

/* ---------- worker to reader ---------- */

/* topic NUL, then property NUL value NUL ..., which librdkafka is set up with */
#define LOGQ_FRAME_SETUP 1
/* LogqReaderOffset, one for each partition to be read, from next on */
#define LOGQ_FRAME_ASSIGN 2
/* as SETUP; only find out whether the properties are good: OK or ERROR */
#define LOGQ_FRAME_CHECK 3

/* ---------- reader to worker ---------- */

/* id of the cluster NUL, then LogqReaderOffset of all partitions */
#define LOGQ_FRAME_INFO 16
/* LogqReaderMessage, then key, value and headers */
#define LOGQ_FRAME_MESSAGE 17
/*
 * LogqReaderOffset of some partitions, at their ends, and about once a second
 * as long as a broker answers: after TROUBLE, one means that it is over
 */
#define LOGQ_FRAME_POSITION 18
/* LogqReaderError, then text NUL */
#define LOGQ_FRAME_ERROR 19
/* int32: syslog level, then text NUL, from librdkafka's log */
#define LOGQ_FRAME_LOG 20
/* answer to CHECK */
#define LOGQ_FRAME_OK 21

typedef struct LogqReaderOffset
{
	int32_t		partition;
	/*
	 * ASSIGN: where to begin.  INFO: not used.  POSITION: everything below was
	 * sent or is not there (control records of transactions, messages that
	 * were compacted away); -1: not known.
	 */
	int64_t		next;
	int64_t		low;			/* first offset that there is; -1: not known */
	int64_t		high;			/* one after the last; -1: not known */
} LogqReaderOffset;

typedef struct LogqReaderMessage
{
	int32_t		partition;
	int64_t		offset;
	int64_t		timestamp;		/* ms since 1970, -1: none */
	int32_t		keylen;			/* -1: there is no key */
	int32_t		valuelen;		/* -1: there is no value */
	int32_t		headerslen;		/* each: int32 length of the name, name,
								 * int32 length of the value or -1, value */
} LogqReaderMessage;

typedef enum LogqReaderErrorKind
{
	LOGQ_READER_TROUBLE,		/* librdkafka goes on trying */
	LOGQ_READER_LOST,			/* offsets of a partition are not there */
	LOGQ_READER_FATAL			/* nothing more will come; the reader ends */
} LogqReaderErrorKind;

typedef struct LogqReaderError
{
	int32_t		kind;
	int32_t		partition;		/* -1: all */
} LogqReaderError;

#endif							/* LOGQ_KAFKA_PROTOCOL_H */
