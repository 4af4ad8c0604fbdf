/*-------------------------------------------------------------------------
 *
 * ingestbatch.c
 *		Records and dead letters as tuples of binary COPY.
 *
 * This is done for each row of a topic, so a tuple is measured first, room
 * for it is made once, and then it is written without looking again.
 *
 * All text goes as it is: the parser lets through UTF-8 without NUL bytes
 * only, and who sends the tuples has told the partition that the client's
 * encoding is UTF8.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest.h"

#include "lib/stringinfo.h"
#include "port/pg_bswap.h"
#include "utils/timestamp.h"

/* ms from 1970 to 2000 */
#define EPOCH_MS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)
/* what a timestamptz can hold, in ms since 1970 */
#define MIN_MS (MIN_TIMESTAMP / 1000 + EPOCH_MS)
#define END_MS (END_TIMESTAMP / 1000 + EPOCH_MS)

/* ---------- parts of a tuple; the room is there ---------- */

static inline char *
put_int16(char *at, int16 value)
{
	uint16		n = pg_hton16((uint16) value);

	memcpy(at, &n, sizeof(n));
	return at + sizeof(n);
}

static inline char *
put_int32(char *at, int32 value)
{
	uint32		n = pg_hton32((uint32) value);

	memcpy(at, &n, sizeof(n));
	return at + sizeof(n);
}

static inline char *
put_int64(char *at, int64 value)
{
	uint64		n = pg_hton64((uint64) value);

	memcpy(at, &n, sizeof(n));
	return at + sizeof(n);
}

/*
 * A field of bytes: NULL when there is no data.
 */
static inline char *
put_bytes(char *at, const char *data, int len)
{
	if (data == NULL)
		return put_int32(at, -1);
	at = put_int32(at, len);
	memcpy(at, data, len);
	return at + len;
}

static inline char *
put_text(char *at, const LogqText *text)
{
	return put_bytes(at, text->data, text->len);
}

static inline Size
text_size(const LogqText *text)
{
	return 4 + (text->data ? text->len : 0);
}

/*
 * Make room for a tuple; returns where it goes.  Too large a buffer is an
 * error that nobody should see, as who fills one sends it long before.
 */
static inline char *
reserve(StringInfo buf, Size size)
{
	if (size >= MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row of %zu bytes is too large to be sent to a partition",
						size)));
	enlargeStringInfo(buf, (int) size);
	return buf->data + buf->len;
}

/*
 * The tuple is there; a StringInfo ends in NUL.
 */
static inline void
finish(StringInfo buf, const char *end)
{
	buf->len = (int) (end - buf->data);
	buf->data[buf->len] = '\0';
}

/* ---------- tuples ---------- */

/*
 * Append a good record: LOGQ_INGEST_COLUMNS.
 */
void
logq_ingest_append(StringInfo buf, const LogqRecord *record)
{
	char	   *at;

	at = reserve(buf, 2 + 4 + 8 + text_size(&record->level) +
				 text_size(&record->service) + text_size(&record->message) +
				 text_size(&record->trace_id) + text_size(&record->attrs) + 1);
	at = put_int16(at, 6);
	at = put_int32(at, 8);
	at = put_int64(at, record->ts);
	at = put_text(at, &record->level);
	at = put_text(at, &record->service);
	at = put_text(at, &record->message);
	at = put_text(at, &record->trace_id);
	if (record->attrs.data == NULL)
		at = put_int32(at, -1);
	else
	{
		/* jsonb's external form is a version and the text */
		at = put_int32(at, record->attrs.len + 1);
		*at++ = 1;
		memcpy(at, record->attrs.data, record->attrs.len);
		at += record->attrs.len;
	}
	finish(buf, at);
}

/*
 * Append a dead letter: LOGQ_DEAD_COLUMNS.  A record of -1 stands for the
 * whole message.
 */
void
logq_ingest_append_dead(StringInfo buf, const char *cluster,
						const char *topic, int32 partition, int64 offset,
						int record, const LogqMessage *message,
						const char *reason)
{
	int			clusterlen = strlen(cluster);
	int			topiclen = strlen(topic);
	int			reasonlen = strlen(reason);
	char	   *at;

	at = reserve(buf, 2 + 4 + clusterlen + 4 + topiclen + 4 + 4 + 4 + 8 +
				 4 + 4 + 4 + 8 + text_size(&message->key) +
				 text_size(&message->headers) + text_size(&message->value) +
				 4 + reasonlen);
	at = put_int16(at, 10);
	at = put_bytes(at, cluster, clusterlen);
	at = put_bytes(at, topic, topiclen);
	at = put_int32(at, 4);
	at = put_int32(at, partition);
	at = put_int32(at, 8);
	at = put_int64(at, offset);
	if (record < 0)
		at = put_int32(at, -1);
	else
	{
		at = put_int32(at, 4);
		at = put_int32(at, record);
	}
	/* producers may give any number as the time, which -1 only says is none */
	if (message->timestamp == -1 ||
		message->timestamp < MIN_MS || message->timestamp >= END_MS)
		at = put_int32(at, -1);
	else
	{
		at = put_int32(at, 8);
		at = put_int64(at, (message->timestamp - EPOCH_MS) * 1000);
	}
	at = put_text(at, &message->key);
	at = put_text(at, &message->headers);
	at = put_text(at, &message->value);
	at = put_bytes(at, reason, reasonlen);
	finish(buf, at);
}
