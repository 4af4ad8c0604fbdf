/*-------------------------------------------------------------------------
 *
 * redisint.h
 *		Between the files of the cache's level in Redis.
 *
 *		redisoptions.c	options of the foreign server that leads to Redis
 *		redisbreaker.c	is it to be asked, and written to?  For all sessions
 *		redisconn.c		a connection: bytes and answers, nothing of the cache
 *		redistls.c		TLS for it, where hiredis can do that
 *		redis.c			look-ups and stores of a session
 *		redisclear.c	logq.cache_clear()
 *
 * To be included first: it has compat.h bring hiredis along.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_REDISINT_H
#define LOGQ_REDISINT_H

#define LOGQ_COMPAT_HIREDIS

#include "logq.h"

#include "cache.h"
#include "resolve.h"

#include "lib/ilist.h"

#define LOGQ_REDIS_FDW "logq_redis"
/* of a key in Redis, without the prefix */
#define LOGQ_REDIS_HEX_LEN (2 * LOGQ_CACHE_KEY_LEN)
#define LOGQ_REDIS_MAX_PREFIX 128
/* of what is said of a failure */
#define LOGQ_REDIS_REASON_LEN 160

/* ---------- redisoptions.c ---------- */

/* What the foreign server and the user mapping say */
typedef struct LogqRedisConfig
{
	MemoryContext context;		/* this, and all that belongs to it */
	Oid			serverid;
	uint64		hash;			/* over all of it */
	const char *bad;			/* why it is of no use; NULL: it is fine */
	const char *address;		/* for messages */
	const char *socket;			/* NULL: host and port */
	const char *host;
	const char *port;
	const char *db;
	const char *prefix;
	const char *user;			/* "": none; so the password */
	const char *password;
	bool		tls;
	const char *sslrootcert;	/* NULL: what the system trusts */
	const char *sslcert;		/* NULL: none; so the key */
	const char *sslkey;
	const char *server_name;	/* that the certificate must be for */
} LogqRedisConfig;

/*
 * The configuration as it is now, or NULL: there is no Redis.  Free when
 * nothing has changed, else it reads the system catalogs; and if something
 * has, logq_redis_config_changed() is called before the old one is freed.
 */
extern const LogqRedisConfig *logq_redis_config(void);
/* the same without reading anything: NULL also when something has changed */
extern const LogqRedisConfig *logq_redis_known_config(void);
extern void logq_redis_config_changed(void);	/* in redis.c */

/* ---------- redisbreaker.c ---------- */

typedef enum LogqRedisAsk
{
	LOGQ_REDIS_ASK_NOT,
	LOGQ_REDIS_ASK,
	LOGQ_REDIS_PROBE			/* it is for us to find out whether it is back */
} LogqRedisAsk;

/* would begin_ask say anything but no? */
extern bool logq_redis_may_ask(const LogqRedisConfig *config);
extern LogqRedisAsk logq_redis_begin_ask(const LogqRedisConfig *config);
/* it has failed; reason is in short, and holds nothing secret */
extern void logq_redis_failed(const LogqRedisConfig *config, bool probe,
							  const char *reason);
/* a probe has been answered */
extern void logq_redis_answered(const LogqRedisConfig *config);
/* this session will not go on with its probe.  Never throws. */
extern void logq_redis_abandon_probe(void);
/* the same for writing alone */
extern LogqRedisAsk logq_redis_begin_write(const LogqRedisConfig *config);
extern void logq_redis_refused(const LogqRedisConfig *config,
							   const char *reason);
extern void logq_redis_taken(const LogqRedisConfig *config);

/* ---------- redisconn.c ---------- */

typedef struct LogqRedisConn LogqRedisConn;
typedef struct LogqRedisCommand LogqRedisCommand;

/* A piece of an answer */
typedef struct LogqRedisItem
{
	enum
	{
		LOGQ_REDIS_STRING,
		LOGQ_REDIS_STATUS,
		LOGQ_REDIS_ERROR,
		LOGQ_REDIS_INTEGER,
		LOGQ_REDIS_NIL,
		LOGQ_REDIS_ARRAY,
		LOGQ_REDIS_END			/* the answer is complete */
	}			type;
	int			depth;			/* 0: the answer itself */
	int			index;			/* in its array */
	int			parent_index;	/* of that array in its own */
	const char *data;			/* of a string, status or error */
	Size		len;
	int64		number;			/* an integer; of an array, its length */
} LogqRedisItem;

/*
 * Take a piece of the answer to a command.  False: it makes no sense, or is
 * an error that ends the connection, of which logq_redis_conn_complain has
 * been told.  Must not throw.
 */
typedef bool (*LogqRedisTakeItem) (LogqRedisConn *conn,
								   LogqRedisCommand *command,
								   const LogqRedisItem *item);

/* One that is to be answered; freed with its answer, or the connection */
struct LogqRedisCommand
{
	dlist_node	node;
	LogqRedisTakeItem take;
	unsigned	group;			/* commands whose answers are bounded together */
	bool		probe;			/* sent to find out whether Redis is back */
	bool		is_store;
	Size		len;			/* of the value that is stored */
	void	   *owner;			/* the look-up; NULL: it was forgotten */
	int			first;			/* index of the first key */
	int			nkeys;
	int			seen;			/* elements of the answer */
};

typedef enum LogqRedisConnState
{
	LOGQ_REDIS_RESOLVING,
	LOGQ_REDIS_CONNECTING,
	LOGQ_REDIS_OPEN
} LogqRedisConnState;

struct LogqRedisConn
{
	LogqRedisConnState state;
	const LogqRedisConfig *config;
	LogqResolve *resolve;		/* while names are looked up */
	List	   *addresses;		/* that have not been tried, palloc'd text */
	MemoryContext context;		/* of these, and of this */
	struct redisContext *redis; /* NULL before there is an address */
	struct LogqRedisTls *tls;	/* of redistls.c */
	bool		failed;			/* to be closed */
	char		why[LOGQ_REDIS_REASON_LEN];
	dlist_head	commands;		/* to be answered, in order */
	int			ncommands;
	char	   *early;			/* to be sent when it is open */
	Size		early_len;
	Size		early_size;
	unsigned	group;			/* of the answer that is being read */
	Size		group_bytes;
	TimestampTz received_at;	/* when anything last was */
	TimestampTz progress_at;	/* ... or sent */
};

/* a new connection, which says hello of its own; NULL: not now.  Never throws */
extern LogqRedisConn *logq_redis_connect(const LogqRedisConfig *config);
/* frees all; commands are given up without a word.  Never throws. */
extern void logq_redis_disconnect(LogqRedisConn *conn);
/*
 * Do what can be done without waiting.  False: the connection has failed, for
 * the reason in conn->why.  Never throws.
 */
extern bool logq_redis_advance(LogqRedisConn *conn);
/*
 * A command is about to be appended, all of its bytes at once.  NULL: there
 * are too many, or there is no memory.
 */
extern LogqRedisCommand *logq_redis_command(LogqRedisConn *conn,
											LogqRedisTakeItem take);
/* false: there is no memory, and the connection has failed */
extern bool logq_redis_append(LogqRedisConn *conn, const char *bytes,
							  Size len);
/* bytes that were appended and not sent */
extern Size logq_redis_unsent(const LogqRedisConn *conn);
/* what to wait for: PGINVALID_SOCKET for none, or no connection */
extern pgsocket logq_redis_conn_socket(const LogqRedisConn *conn,
									   uint32 *events, unsigned *generation);
/* the connection has failed, unless it had before */
extern void logq_redis_complain(LogqRedisConn *conn, const char *format,...)
			pg_attribute_printf(2, 3);
/*
 * What Redis says in an error, as far as it may be shown.  It may quote the
 * command, which can hold a password or a value.
 */
extern void logq_redis_error_text(const LogqRedisItem *item, char *text,
								  Size text_len);

/* ---------- redis.c ---------- */

/* the session's connection, a new one if need be; NULL: not now */
extern LogqRedisConn *logq_redis_session_conn(const LogqRedisConfig *config);
/* it has failed, or an answer was not waited for: tell all, and close it */
extern void logq_redis_session_fail(const char *reason, bool timeout);
/* close it, if there is one, without a word */
extern void logq_redis_session_close(void);

#endif							/* LOGQ_REDISINT_H */
