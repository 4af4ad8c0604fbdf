/*-------------------------------------------------------------------------
 *
 * redisclear.c
 *		logq.cache_clear(): nothing is left of what was cached.
 *
 * Keys in Redis are found with SCAN, a thousand at a time, and removed with
 * UNLINK, which does the work behind the scenes.  Only those go that look as
 * ours do, prefix and hexadecimal digits: with an empty prefix the rest of the
 * database may be somebody else's.
 *
 * It goes over the session's own connection, behind what the session has
 * stored, and whatever the breaker says.  Unlike all else that asks Redis this
 * waits, as long as there is any progress; and fails when there is none.
 *
 * Failure cases: the level in memory is cleared before anything can fail.  An
 * error, or cancel, in the middle ends the connection, as the answers that are
 * under way have nowhere to go.
 *
 *-------------------------------------------------------------------------
 */
#include "redisint.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(logq_cache_clear);

/* how long nothing may happen */
#define PATIENCE_MS 5000
#define MAX_CURSOR 24
/* keys of one UNLINK */
#define MAX_KEYS 1000

typedef char HexKey[LOGQ_REDIS_HEX_LEN];

typedef struct Clear
{
	const char *prefix;
	int			pending;		/* commands that are not answered */
	char		cursor[MAX_CURSOR]; /* of SCAN: where to go on */
	HexKey	   *keys;			/* that it has found last */
	int			nkeys;
	int			max_keys;
	int64		removed;
	char		error[LOGQ_REDIS_REASON_LEN];	/* "": none */
} Clear;

/* ---------- answers ---------- */

/*
 * Keep a key that SCAN has found, if it is one of ours.
 */
static bool
keep_key(Clear *clear, const char *key, Size len)
{
	Size		prefix_len = strlen(clear->prefix);

	if (len != prefix_len + LOGQ_REDIS_HEX_LEN ||
		memcmp(key, clear->prefix, prefix_len) != 0)
		return true;
	key += prefix_len;
	for (int i = 0; i < LOGQ_REDIS_HEX_LEN; i++)
		if (!((key[i] >= '0' && key[i] <= '9') ||
			  (key[i] >= 'a' && key[i] <= 'f')))
			return true;
	if (clear->nkeys == clear->max_keys)
	{
		int			max_keys = Max(2 * clear->max_keys, MAX_KEYS);
		HexKey	   *more = palloc_extended(max_keys * sizeof(HexKey),
										   MCXT_ALLOC_NO_OOM |
										   MCXT_ALLOC_HUGE);

		if (more == NULL)
			return false;
		if (clear->nkeys > 0)
			memcpy(more, clear->keys, clear->nkeys * sizeof(HexKey));
		if (clear->keys != NULL)
			pfree(clear->keys);
		clear->keys = more;
		clear->max_keys = max_keys;
	}
	memcpy(clear->keys[clear->nkeys++], key, LOGQ_REDIS_HEX_LEN);
	return true;
}

/*
 * The answer to SCAN: a cursor, and an array of keys.
 */
static bool
take_scanned(LogqRedisConn *conn, LogqRedisCommand *command,
			 const LogqRedisItem *item)
{
	Clear	   *clear = command->owner;

	switch (item->type)
	{
		case LOGQ_REDIS_END:
			clear->pending--;
			return true;
		case LOGQ_REDIS_ERROR:
			logq_redis_error_text(item, clear->error, sizeof(clear->error));
			return true;
		case LOGQ_REDIS_ARRAY:
			return item->depth == 0 ? item->number == 2 :
				item->depth == 1 && item->index == 1;
		case LOGQ_REDIS_STRING:
			if (item->depth == 2)
				return keep_key(clear, item->data, item->len);
			if (item->depth != 1 || item->index != 0 ||
				item->len >= MAX_CURSOR)
				return false;
			memcpy(clear->cursor, item->data, item->len);
			clear->cursor[item->len] = '\0';
			return true;
		default:
			return false;
	}
}

/*
 * The answer to UNLINK: how many there were.
 */
static bool
take_removed(LogqRedisConn *conn, LogqRedisCommand *command,
			 const LogqRedisItem *item)
{
	Clear	   *clear = command->owner;

	if (item->type == LOGQ_REDIS_END)
		clear->pending--;
	else if (item->type == LOGQ_REDIS_ERROR)
		logq_redis_error_text(item, clear->error, sizeof(clear->error));
	else if (item->type == LOGQ_REDIS_INTEGER)
		clear->removed += item->number;
	else
		return false;
	return true;
}

/* ---------- commands ---------- */

static void
append_argument(StringInfo buf, const char *argument)
{
	appendStringInfo(buf, "$%zu\r\n%s\r\n", strlen(argument), argument);
}

static void
report_failure(const LogqRedisConfig *config, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not clear the cache in Redis at \"%s\": %s",
					config->address, reason),
			 errdetail("What was cached in memory is gone."),
			 errhint("See the options of the foreign server \"%s\", and the view \"logq.stat_cache\".",
					 logq_cache_server)));
}

static void
send_command(LogqRedisConn *conn, Clear *clear, LogqRedisTakeItem take,
			 StringInfo buf)
{
	LogqRedisCommand *command = logq_redis_command(conn, take);

	if (command != NULL)
	{
		command->owner = clear;
		clear->pending++;
	}
	if (command == NULL || !logq_redis_append(conn, buf->data, buf->len))
		report_failure(conn->config,
					   conn->failed ? conn->why : "too much is under way");
}

/*
 * A pattern that the prefix alone matches, with anything behind it.
 */
static char *
prefix_pattern(const char *prefix)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *p = prefix; *p != '\0'; p++)
	{
		if (strchr("*?[]\\", *p) != NULL)
			appendStringInfoChar(&buf, '\\');
		appendStringInfoChar(&buf, *p);
	}
	appendStringInfoChar(&buf, '*');
	return buf.data;
}

static void
send_scan(LogqRedisConn *conn, Clear *clear)
{
	StringInfoData buf;
	char	   *pattern = prefix_pattern(clear->prefix);

	initStringInfo(&buf);
	appendStringInfoString(&buf, "*6\r\n$4\r\nSCAN\r\n");
	append_argument(&buf, clear->cursor);
	append_argument(&buf, "MATCH");
	append_argument(&buf, pattern);
	append_argument(&buf, "COUNT");
	append_argument(&buf, "1000");
	send_command(conn, clear, take_scanned, &buf);
	pfree(pattern);
	pfree(buf.data);
}

static void
send_unlinks(LogqRedisConn *conn, Clear *clear)
{
	for (int first = 0; first < clear->nkeys; first += MAX_KEYS)
	{
		int			n = Min(MAX_KEYS, clear->nkeys - first);
		StringInfoData buf;

		initStringInfo(&buf);
		appendStringInfo(&buf, "*%d\r\n$6\r\nUNLINK\r\n", n + 1);
		for (int i = first; i < first + n; i++)
		{
			appendStringInfo(&buf, "$%zu\r\n%s",
							 strlen(clear->prefix) + LOGQ_REDIS_HEX_LEN,
							 clear->prefix);
			appendBinaryStringInfo(&buf, clear->keys[i], LOGQ_REDIS_HEX_LEN);
			appendStringInfoString(&buf, "\r\n");
		}
		send_command(conn, clear, take_removed, &buf);
		pfree(buf.data);
	}
	clear->nkeys = 0;
}

/*
 * Wait until all commands are answered.
 */
static void
wait_for_answers(LogqRedisConn *conn, const Clear *clear)
{
	TimestampTz started_at = logq_now();

	for (;;)
	{
		uint32		events;
		unsigned	generation;
		pgsocket	sock;
		TimestampTz end;
		long		rest;

		CHECK_FOR_INTERRUPTS();
		if (!logq_redis_advance(conn))
			report_failure(conn->config, conn->why);
		if (clear->error[0] != '\0')
			report_failure(conn->config, clear->error);
		if (clear->pending == 0)
			return;

		end = TimestampTzPlusMilliseconds(Max(started_at, conn->progress_at),
										  PATIENCE_MS);
		rest = TimestampDifferenceMilliseconds(logq_now(), end);
		if (rest <= 0)
			report_failure(conn->config,
						   psprintf("no answer within %d ms", PATIENCE_MS));
		sock = logq_redis_conn_socket(conn, &events, &generation);
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_TIMEOUT |
								 WL_EXIT_ON_PM_DEATH | events,
								 sock, rest, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static int64
clear_redis(const LogqRedisConfig *config)
{
	LogqRedisConn *conn = logq_redis_session_conn(config);
	Clear		clear = {.prefix = config->prefix,.cursor = "0"};

	if (conn == NULL)
		report_failure(config, "too many files are open");
	PG_TRY();
	{
		do
		{
			send_scan(conn, &clear);
			wait_for_answers(conn, &clear);
			send_unlinks(conn, &clear);
		} while (strcmp(clear.cursor, "0") != 0);
		wait_for_answers(conn, &clear);
	}
	PG_CATCH();
	{
		logq_redis_session_close();
		PG_RE_THROW();
	}
	PG_END_TRY();
	return clear.removed;
}

/*
 * logq.cache_clear()
 */
Datum
logq_cache_clear(PG_FUNCTION_ARGS)
{
	int64		removed = logq_hot_clear();
	const LogqRedisConfig *config = logq_redis_config();

	if (config != NULL && config->bad != NULL)
		report_failure(config, config->bad);
	if (config != NULL)
		removed += clear_redis(config);
	PG_RETURN_INT64(removed);
}
