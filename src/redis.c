/*-------------------------------------------------------------------------
 *
 * redis.c
 *		The cache's level in Redis: look-ups and stores of a session.
 *
 * A session has one connection, made when it is needed and kept.  Look-ups of
 * several scans may be under way on it at once, with stores in between.  All of
 * it is driven by those who wait for a look-up, and by whoever stores; nothing
 * here ever waits, but the end of the session, for logq.cache_timeout: an
 * answer that was not read when the socket is closed has the kernel reset the
 * connection, and Redis may lose with it what it has not read yet.
 *
 * Whatever goes wrong ends the connection, and with it all look-ups that are
 * under way: what they have brought is good, the rest is asked of the
 * partitions.  Then the breaker (redisbreaker.c) is open for all sessions.  A
 * value that Redis refuses is no such failure.  A connection that was lost
 * while nothing was asked is just made anew.
 *
 * A look-up that has taken logq.cache_timeout ends the connection, too: its
 * answer, which may come yet, is in the way of the next one.  That is no reason
 * to leave Redis alone when it has been answering: there may just be much.
 * But a session to which that happens several times in a row takes it for one.
 * Who has less patience than most, with logq.cache_timeout, pauses on his own.
 * A look-up that was forgotten has its answer thrown away as it comes.
 *
 * Failure cases: see above; none of them reaches a query.  Values are given as
 * they come from Redis: the caller looks whether they are whole.
 *
 *-------------------------------------------------------------------------
 */
#include "redisint.h"

#include <poll.h>

#include "lib/stringinfo.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* keys of one MGET: more would keep Redis from others for long */
#define MAX_KEYS 1024
/* what is kept for later when Redis does not read */
#define MAX_UNSENT (4 * 1024 * 1024)
/* how much longer than the largest rows a value may be */
#define MAX_VALUE_OVERHEAD 4096
/* answers to stores may take so long while nobody waits for them */
#define STORE_TIMEOUT_MS 1000
/* the session may go on ending for so long */
#define MAX_END_MS 1000
/* look-ups in a row that had but a part of their answers in time */
#define MAX_PARTIAL 3
/* whoever waits for less than this does not speak for others */
#define MIN_TIMEOUT_MS 20
#define HASTY_PAUSE_MS 1000

struct LogqRedisLookup
{
	dlist_node	node;			/* among those that are not over */
	bool		over;
	LogqRedisTake take;
	void	   *arg;
	unsigned	group;
	int			pending;		/* commands that are not answered */
	TimestampTz begun_at;
	TimestampTz deadline;
};

int			logq_cache_ttl = 3600;
int			logq_cache_timeout = 20;

static LogqRedisConn *session_conn = NULL;
/* is it for us to find out whether Redis is back? */
static bool probing = false;
static dlist_head lookups = DLIST_STATIC_INIT(lookups);
static unsigned last_group = 0;
static int	partial = 0;		/* look-ups in a row */
static TimestampTz paused_until = 0;	/* by this session's own haste */
static bool exit_registered = false;

/* ---------- the session's connection ---------- */

static void
end_lookup(LogqRedisLookup *lookup)
{
	if (lookup->over)
		return;
	lookup->over = true;
	dlist_delete(&lookup->node);
}

/*
 * Nobody wants what is still to come for a look-up.
 */
static void
disown(const LogqRedisLookup *lookup)
{
	dlist_iter	iter;

	if (session_conn == NULL)
		return;
	dlist_foreach(iter, &session_conn->commands)
	{
		LogqRedisCommand *command =
			dlist_container(LogqRedisCommand, node, iter.cur);

		if (command->owner == lookup)
			command->owner = NULL;
	}
}

/*
 * Close the connection.  Look-ups are over with that, and what was to be
 * stored may be lost.
 */
void
logq_redis_session_close(void)
{
	dlist_iter	iter;
	int			dropped = 0;

	if (session_conn == NULL)
		return;
	while (!dlist_is_empty(&lookups))
		end_lookup(dlist_head_element(LogqRedisLookup, node, &lookups));
	dlist_foreach(iter, &session_conn->commands)
		if (dlist_container(LogqRedisCommand, node, iter.cur)->is_store)
			dropped++;
	if (dropped > 0)
		logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_DROPPED, dropped);
	logq_redis_disconnect(session_conn);
	session_conn = NULL;
}

void
logq_redis_session_fail(const char *reason, bool timeout)
{
	const LogqRedisConfig *config = session_conn->config;
	char		copy[LOGQ_REDIS_REASON_LEN];
	bool		was_probe = probing;

	/* it may lie in the connection */
	strlcpy(copy, reason, sizeof(copy));
	probing = false;
	logq_redis_session_close();
	logq_cache_count(LOGQ_CACHE_REDIS,
					 timeout ? LOGQ_CACHE_TIMEOUTS : LOGQ_CACHE_ERRORS, 1);
	logq_redis_failed(config, was_probe, copy);
}

/*
 * The options have changed: the next one is another connection.
 */
void
logq_redis_config_changed(void)
{
	logq_redis_session_close();
	if (probing)
		logq_redis_abandon_probe();
	probing = false;
}

/*
 * Have the connection do what it can.  False: there is none any more.
 */
static bool
advance(void)
{
	if (session_conn == NULL)
		return false;
	if (logq_redis_advance(session_conn))
		return true;
	logq_redis_session_fail(session_conn->why, false);
	return false;
}

/*
 * A failure that nobody waited for: what is stored goes nowhere.
 */
static bool
check_stores(void)
{
	TimestampTz now = logq_now();
	int			timeout = Max(logq_cache_timeout, STORE_TIMEOUT_MS);

	if (!advance())
		return false;
	if (!dlist_is_empty(&lookups) ||
		(session_conn->ncommands == 0 && logq_redis_unsent(session_conn) == 0) ||
		!TimestampDifferenceExceeds(session_conn->progress_at, now, timeout))
		return true;
	logq_redis_session_fail("no answer to what is stored", true);
	return false;
}

/*
 * The session ends: give what was stored a last chance.  Whose look-up is under
 * way may still forget it.
 */
static void
at_exit(int code, Datum arg)
{
	TimestampTz end =
		TimestampTzPlusMilliseconds(logq_now(),
									Min(logq_cache_timeout, MAX_END_MS));

	while (!dlist_is_empty(&lookups))
	{
		LogqRedisLookup *lookup =
			dlist_head_element(LogqRedisLookup, node, &lookups);

		disown(lookup);
		end_lookup(lookup);
	}
	while (session_conn != NULL && logq_redis_advance(session_conn) &&
		   session_conn->ncommands > 0)
	{
		uint32		events;
		unsigned	generation;
		struct pollfd pfd = {0};
		long		rest = TimestampDifferenceMilliseconds(logq_now(),
														   end);

		pfd.fd = logq_redis_conn_socket(session_conn, &events, &generation);
		pfd.events = (events & WL_SOCKET_READABLE ? POLLIN : 0) |
			(events & WL_SOCKET_WRITEABLE ? POLLOUT : 0);
		if (rest <= 0 || pfd.fd == PGINVALID_SOCKET)
			break;
		(void) poll(&pfd, 1, (int) rest);
	}
	logq_redis_session_close();
	if (probing)
		logq_redis_abandon_probe();
	probing = false;
}

/*
 * See redisint.h.  One that was lost while nothing was asked is no failure:
 * Redis may close connections that nobody uses, and may have been restarted.
 */
LogqRedisConn *
logq_redis_session_conn(const LogqRedisConfig *config)
{
	if (session_conn != NULL && dlist_is_empty(&lookups) &&
		session_conn->state == LOGQ_REDIS_OPEN &&
		!logq_redis_advance(session_conn))
		logq_redis_session_close();
	if (session_conn != NULL)
		return session_conn;
	if (!exit_registered)
	{
		before_shmem_exit(at_exit, (Datum) 0);
		exit_registered = true;
	}
	session_conn = logq_redis_connect(config);
	return session_conn;
}

/*
 * Does this session leave Redis alone, of its own?
 */
static bool
is_paused(void)
{
	if (paused_until != 0 && logq_now() >= paused_until)
		paused_until = 0;
	return paused_until != 0;
}

/*
 * The connection, if Redis is to be asked at all.
 */
static LogqRedisConn *
begin_ask(const LogqRedisConfig *config)
{
	LogqRedisAsk ask;

	if (is_paused())
		return NULL;
	ask = logq_redis_begin_ask(config);
	if (ask == LOGQ_REDIS_ASK_NOT)
		return NULL;
	probing = ask == LOGQ_REDIS_PROBE;
	return logq_redis_session_conn(config);
}

/*
 * A command was answered as it should be.
 */
static void
note_answer(LogqRedisConn *conn, const LogqRedisCommand *command)
{
	if (command->probe && probing)
	{
		probing = false;
		logq_redis_answered(conn->config);
	}
}

bool
logq_redis_usable(void)
{
	const LogqRedisConfig *config = logq_redis_config();

	if (config == NULL)
		return false;
	if (config->bad == NULL)
		return !is_paused() && logq_redis_may_ask(config);
	/* say so once */
	if (logq_redis_may_ask(config))
		logq_redis_failed(config, false, config->bad);
	return false;
}

/* ---------- look-ups ---------- */

/*
 * A piece of the answer to MGET: an array of strings and nils.
 */
static bool
take_values(LogqRedisConn *conn, LogqRedisCommand *command,
			const LogqRedisItem *item)
{
	LogqRedisLookup *lookup = command->owner;
	char		text[LOGQ_REDIS_REASON_LEN];

	switch (item->type)
	{
		case LOGQ_REDIS_ERROR:
			logq_redis_error_text(item, text, sizeof(text));
			logq_redis_complain(conn, "%s", text);
			return false;
		case LOGQ_REDIS_ARRAY:
			return item->depth == 0 && item->number == command->nkeys;
		case LOGQ_REDIS_NIL:
		case LOGQ_REDIS_STRING:
			if (item->depth != 1)
				return false;
			command->seen++;
			if (lookup == NULL || item->type == LOGQ_REDIS_NIL ||
				item->len > (Size) logq_cache_max_value * 1024 +
				MAX_VALUE_OVERHEAD)
				return true;
			lookup->take(lookup->arg, command->first + item->index,
						 item->data, item->len);
			return true;
		case LOGQ_REDIS_END:
			if (command->seen != command->nkeys)
				return false;
			note_answer(conn, command);
			if (lookup != NULL && --lookup->pending == 0)
			{
				partial = 0;
				end_lookup(lookup);
			}
			return true;
		default:
			return false;
	}
}

static void
append_key(StringInfo buf, const char *prefix, const LogqCacheKey *key)
{
	static const char digits[] = "0123456789abcdef";

	appendStringInfo(buf, "$%d\r\n%s",
					 (int) strlen(prefix) + LOGQ_REDIS_HEX_LEN, prefix);
	for (int i = 0; i < LOGQ_CACHE_KEY_LEN; i++)
	{
		appendStringInfoChar(buf, digits[key->bytes[i] >> 4]);
		appendStringInfoChar(buf, digits[key->bytes[i] & 15]);
	}
	appendBinaryStringInfo(buf, "\r\n", 2);
}

/*
 * The bytes of a look-up: one MGET after the other.
 */
static void
make_mgets(StringInfo buf, const char *prefix, const LogqCacheKey *keys,
		   int nkeys)
{
	initStringInfo(buf);
	for (int i = 0; i < nkeys; i++)
	{
		if (i % MAX_KEYS == 0)
			appendStringInfo(buf, "*%d\r\n$4\r\nMGET\r\n",
							 Min(MAX_KEYS, nkeys - i) + 1);
		append_key(buf, prefix, &keys[i]);
	}
}

/*
 * Note what is to be answered.  Does not throw.
 */
static bool
note_mgets(LogqRedisConn *conn, LogqRedisLookup *lookup, int nkeys)
{
	for (int i = 0; i < nkeys; i += MAX_KEYS)
	{
		LogqRedisCommand *command = logq_redis_command(conn, take_values);

		if (command == NULL)
			return false;
		command->group = lookup->group;
		command->probe = probing;
		command->owner = lookup;
		command->first = i;
		command->nkeys = Min(MAX_KEYS, nkeys - i);
		lookup->pending++;
	}
	return true;
}

LogqRedisLookup *
logq_redis_lookup(const LogqCacheKey *keys, int nkeys, LogqRedisTake take,
				  void *arg)
{
	const LogqRedisConfig *config = logq_redis_known_config();
	LogqRedisLookup *lookup;
	LogqRedisConn *conn;
	StringInfoData buf;

	if (config == NULL || config->bad != NULL || nkeys <= 0)
		return NULL;
	conn = begin_ask(config);
	if (conn == NULL)
		return NULL;
	make_mgets(&buf, config->prefix, keys, nkeys);
	lookup = MemoryContextAllocZero(TopMemoryContext,
									sizeof(LogqRedisLookup));
	lookup->take = take;
	lookup->arg = arg;
	lookup->group = ++last_group;
	lookup->begun_at = logq_now();
	lookup->deadline = TimestampTzPlusMilliseconds(lookup->begun_at,
												   logq_cache_timeout);
	dlist_push_tail(&lookups, &lookup->node);
	if (!note_mgets(conn, lookup, nkeys) ||
		!logq_redis_append(conn, buf.data, buf.len))
		logq_redis_session_fail(conn->failed ? conn->why :
								"too much is under way", false);
	else
		(void) advance();
	pfree(buf.data);
	return lookup;
}

/*
 * A look-up has taken too long.  With less than its due it proves nothing.
 */
static void
note_timeout(const LogqRedisLookup *lookup)
{
	bool		heard = session_conn->received_at >= lookup->begun_at;
	char		reason[LOGQ_REDIS_REASON_LEN];

	if (logq_cache_timeout < MIN_TIMEOUT_MS)
		paused_until = TimestampTzPlusMilliseconds(logq_now(),
												   HASTY_PAUSE_MS);
	if (paused_until != 0 || (heard && ++partial < MAX_PARTIAL))
	{
		logq_redis_session_close();
		logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_TIMEOUTS, 1);
		return;
	}
	partial = 0;
	snprintf(reason, sizeof(reason), "no %s within %d ms",
			 session_conn->state == LOGQ_REDIS_RESOLVING ?
			 "address for its name" :
			 session_conn->state == LOGQ_REDIS_CONNECTING ?
			 "connection" : heard ? "whole answer" : "answer",
			 logq_cache_timeout);
	logq_redis_session_fail(reason, true);
}

bool
logq_redis_poll(LogqRedisLookup *lookup)
{
	if (lookup->over)
		return true;
	/* what is there has come in time, whenever somebody looks */
	(void) advance();
	if (!lookup->over && logq_now() >= lookup->deadline)
		note_timeout(lookup);
	return lookup->over;
}

TimestampTz
logq_redis_deadline(const LogqRedisLookup *lookup)
{
	return lookup->deadline;
}

void
logq_redis_forget(LogqRedisLookup *lookup)
{
	if (lookup == NULL)
		return;
	end_lookup(lookup);
	disown(lookup);
	pfree(lookup);
}

pgsocket
logq_redis_socket(uint32 *events, unsigned *generation)
{
	return logq_redis_conn_socket(session_conn, events, generation);
}

/* ---------- stores ---------- */

/*
 * Is an error that of a Redis that is well, but takes no values?
 */
static bool
is_refusal(const char *text)
{
	static const char *const codes[] = {
		"OOM ", "READONLY ", "MISCONF ", "NOPERM ", "NOREPLICAS "
	};

	for (int i = 0; i < lengthof(codes); i++)
		if (strncmp(text, codes[i], strlen(codes[i])) == 0)
			return true;
	return false;
}

/*
 * The answer to SET.
 */
static bool
take_stored(LogqRedisConn *conn, LogqRedisCommand *command,
			const LogqRedisItem *item)
{
	char		text[LOGQ_REDIS_REASON_LEN];

	if (item->type == LOGQ_REDIS_END)
		return true;
	if (item->type == LOGQ_REDIS_ERROR)
	{
		logq_redis_error_text(item, text, sizeof(text));
		if (!is_refusal(text))
		{
			logq_redis_complain(conn, "%s", text);
			return false;
		}
		command->is_store = false;
		logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_DROPPED, 1);
		note_answer(conn, command);
		logq_redis_refused(conn->config, text);
		return true;
	}
	if (item->type != LOGQ_REDIS_STATUS)
		return false;
	command->is_store = false;
	logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_STORES, 1);
	logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_BYTES_WRITTEN, command->len);
	note_answer(conn, command);
	/* of all values, one was let through */
	if (command->nkeys > 0)
		logq_redis_taken(conn->config);
	return true;
}

/*
 * Append SET, with a time to live.  The value is copied only once, to where it
 * waits to be sent.
 */
static void
append_set(LogqRedisConn *conn, const LogqCacheKey *key, const char *packed,
		   Size len)
{
	char		head[LOGQ_REDIS_MAX_PREFIX + 128];
	char		tail[64];
	char		ttl[16];
	int			n;

	n = snprintf(head, sizeof(head), "*5\r\n$3\r\nSET\r\n$%d\r\n%s",
				 (int) strlen(conn->config->prefix) + LOGQ_REDIS_HEX_LEN,
				 conn->config->prefix);
	for (int i = 0; i < LOGQ_CACHE_KEY_LEN; i++)
		n += snprintf(head + n, sizeof(head) - n, "%02x", key->bytes[i]);
	n += snprintf(head + n, sizeof(head) - n, "\r\n$%zu\r\n", len);
	(void) logq_redis_append(conn, head, n);
	(void) logq_redis_append(conn, packed, len);
	snprintf(ttl, sizeof(ttl), "%d", logq_cache_ttl);
	n = snprintf(tail, sizeof(tail), "\r\n$2\r\nEX\r\n$%d\r\n%s\r\n",
				 (int) strlen(ttl), ttl);
	(void) logq_redis_append(conn, tail, n);
}

/*
 * Is there room for a value?  One is kept however large it is.
 */
static bool
has_room(LogqRedisConn *conn, Size len)
{
	Size		unsent = logq_redis_unsent(conn);

	return unsent == 0 || unsent + len <= MAX_UNSENT;
}

/*
 * False: the value was not even taken.
 */
static bool
store(const LogqRedisConfig *config, const LogqCacheKey *key,
	  const char *packed, Size len)
{
	LogqRedisCommand *command;
	LogqRedisConn *conn;
	LogqRedisAsk write = logq_redis_begin_write(config);

	if (write == LOGQ_REDIS_ASK_NOT)
		return false;
	conn = begin_ask(config);
	if (conn == NULL)
		return false;
	if (!has_room(conn, len) && (!check_stores() || !has_room(conn, len)))
		return false;
	command = logq_redis_command(conn, take_stored);
	if (command == NULL)
		return false;
	command->is_store = true;
	command->len = len;
	command->probe = probing;
	command->nkeys = write == LOGQ_REDIS_PROBE ? 1 : 0;
	append_set(conn, key, packed, len);
	(void) check_stores();
	return true;
}

void
logq_redis_store(const LogqCacheKey *key, const char *packed, Size len)
{
	const LogqRedisConfig *config = logq_redis_known_config();

	if (config == NULL || config->bad != NULL)
		return;
	if (!store(config, key, packed, len))
		logq_cache_count(LOGQ_CACHE_REDIS, LOGQ_CACHE_DROPPED, 1);
}

void
logq_redis_flush(void)
{
	if (session_conn != NULL)
		(void) check_stores();
}
