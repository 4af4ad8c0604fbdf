/*-------------------------------------------------------------------------
 *
 * redisconn.c
 *		A connection to Redis: how it begins, bytes to send, answers.
 *
 * hiredis makes the sockets, buffers what is sent, and takes the protocol
 * apart.  It is never left to wait, nor to look up names: it gets addresses
 * (resolve.c), and logq_redis_advance() does what can be done at the moment.
 *
 * Answers come in the order of the commands, so whose an answer is, is told by
 * a queue.  They are handed on piece by piece as they are parsed: hiredis makes
 * no tree of them, so that of a large answer there is never more in memory than
 * hiredis' buffer, with one value.  What belongs to one look-up is bounded
 * anyhow; beyond that the connection has failed.
 *
 * What is appended before the connection is open is kept until then; the first
 * of that is AUTH and SELECT, of which an error ends the connection.
 *
 * Failure cases: all of them set conn->failed and conn->why, once; whoever
 * called closes the connection then.  What Redis says is shown as far as it
 * cannot quote what we have sent.  Nothing here throws, but what the look-up
 * of names does is caught.
 *
 *-------------------------------------------------------------------------
 */
#include "redisint.h"

#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* of the answers to one look-up */
#define MAX_GROUP_BYTES (64 * 1024 * 1024)
/* that may wait for an answer */
#define MAX_COMMANDS 8192
#define MIN_EARLY_SIZE 1024

/* what hiredis is told each piece of an answer was made into */
#define PIECE ((void *) "")

/* changes whenever the socket does */
static unsigned generation = 0;

void
logq_redis_complain(LogqRedisConn *conn, const char *format,...)
{
	va_list		args;

	if (conn->failed)
		return;
	conn->failed = true;
	va_start(args, format);
	vsnprintf(conn->why, sizeof(conn->why), format, args);
	va_end(args);
}

/*
 * All up to what may be a quotation of the command.
 */
void
logq_redis_error_text(const LogqRedisItem *item, char *text, Size text_len)
{
	static const char *const quotes[] = {", with args", " with args", "`"};
	Size		len = Min(item->len, text_len - 1);

	for (Size i = 0; i < len; i++)
		text[i] = isprint((unsigned char) item->data[i]) &&
			(unsigned char) item->data[i] < 128 ? item->data[i] : ' ';
	text[len] = '\0';
	for (int i = 0; i < lengthof(quotes); i++)
	{
		char	   *quote = strstr(text, quotes[i]);

		if (quote != NULL)
			*quote = '\0';
	}
	len = strlen(text);
	while (len > 0 && text[len - 1] == ' ')
		text[--len] = '\0';
}

/* ---------- commands ---------- */

LogqRedisCommand *
logq_redis_command(LogqRedisConn *conn, LogqRedisTakeItem take)
{
	LogqRedisCommand *command;

	if (conn->failed || conn->ncommands >= MAX_COMMANDS)
		return NULL;
	command = MemoryContextAllocExtended(TopMemoryContext,
										 sizeof(LogqRedisCommand),
										 MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);
	if (command == NULL)
		return NULL;
	command->take = take;
	dlist_push_tail(&conn->commands, &command->node);
	conn->ncommands++;
	return command;
}

static LogqRedisCommand *
first_command(LogqRedisConn *conn)
{
	if (dlist_is_empty(&conn->commands))
		return NULL;
	return dlist_head_element(LogqRedisCommand, node, &conn->commands);
}

static void
drop_first_command(LogqRedisConn *conn)
{
	LogqRedisCommand *command = first_command(conn);

	dlist_delete(&command->node);
	if (--conn->ncommands == 0)
		conn->group_bytes = 0;
	pfree(command);
}

/*
 * Keep bytes until the connection is open.
 */
static bool
append_early(LogqRedisConn *conn, const char *bytes, Size len)
{
	if (conn->early_len + len > conn->early_size)
	{
		Size		size = Max(conn->early_size, MIN_EARLY_SIZE);
		char	   *larger;

		while (size < conn->early_len + len)
			size *= 2;
		larger = MemoryContextAllocExtended(conn->context, size,
											MCXT_ALLOC_NO_OOM |
											MCXT_ALLOC_HUGE);
		if (larger == NULL)
			return false;
		if (conn->early != NULL)
		{
			memcpy(larger, conn->early, conn->early_len);
			pfree(conn->early);
		}
		conn->early = larger;
		conn->early_size = size;
	}
	memcpy(conn->early + conn->early_len, bytes, len);
	conn->early_len += len;
	return true;
}

bool
logq_redis_append(LogqRedisConn *conn, const char *bytes, Size len)
{
	if (conn->failed)
		return false;
	if (conn->state == LOGQ_REDIS_OPEN ?
		redisAppendFormattedCommand(conn->redis, bytes, len) == REDIS_OK :
		append_early(conn, bytes, len))
		return true;
	logq_redis_complain(conn, "out of memory");
	return false;
}

Size
logq_redis_unsent(const LogqRedisConn *conn)
{
	return conn->early_len +
		(conn->redis != NULL ? sdslen(conn->redis->obuf) : 0);
}

/* ---------- answers ---------- */

/*
 * Hand on a piece of the answer to the first command.  Called by hiredis,
 * which goes on to parse what it has, whatever we say.
 */
static void *
hand_on(const redisReadTask *task, LogqRedisItem *item)
{
	LogqRedisConn *conn = task->privdata;
	LogqRedisCommand *command = first_command(conn);

	if (conn->failed)
		return PIECE;
	for (const redisReadTask *t = task->parent; t != NULL; t = t->parent)
		item->depth++;
	item->index = task->idx;
	item->parent_index = task->parent != NULL ? task->parent->idx : 0;
	if (command == NULL || !command->take(conn, command, item))
		logq_redis_complain(conn, "its answers make no sense");
	return PIECE;
}

static void *
take_string(const redisReadTask *task, char *data, size_t len)
{
	LogqRedisItem item = {.data = data,.len = len};

	item.type = task->type == REDIS_REPLY_ERROR ? LOGQ_REDIS_ERROR :
		task->type == REDIS_REPLY_STATUS ? LOGQ_REDIS_STATUS :
		LOGQ_REDIS_STRING;
	return hand_on(task, &item);
}

static void *
take_array(const redisReadTask *task, LogqRedisCount elements)
{
	LogqRedisItem item = {.type = LOGQ_REDIS_ARRAY,.number = elements};

	return hand_on(task, &item);
}

static void *
take_integer(const redisReadTask *task, long long number)
{
	LogqRedisItem item = {.type = LOGQ_REDIS_INTEGER,.number = number};

	return hand_on(task, &item);
}

static void *
take_nil(const redisReadTask *task)
{
	LogqRedisItem item = {.type = LOGQ_REDIS_NIL};

	return hand_on(task, &item);
}

static void
free_piece(void *piece)
{
}

/* a newer hiredis has more of them, for what nobody has asked for */
static redisReplyObjectFunctions reader_functions = {
	.createString = take_string,
	.createArray = take_array,
	.createInteger = take_integer,
	.createNil = take_nil,
	.freeObject = free_piece
};

/*
 * Parse what has come.
 */
static void
parse(LogqRedisConn *conn)
{
	const LogqRedisItem end = {.type = LOGQ_REDIS_END};
	void	   *reply;

	for (;;)
	{
		if (redisReaderGetReply(conn->redis->reader, &reply) != REDIS_OK)
			logq_redis_complain(conn, "its answers make no sense: %s",
								conn->redis->reader->errstr);
		if (conn->failed || reply == NULL)
			return;
		/* no piece could be handed on without a command */
		if (dlist_is_empty(&conn->commands) ||
			!first_command(conn)->take(conn, first_command(conn), &end))
		{
			logq_redis_complain(conn, "its answers make no sense");
			return;
		}
		drop_first_command(conn);
	}
}

/* ---------- sending and receiving ---------- */

/*
 * Is the socket ready, at this moment?
 */
static bool
is_ready(const LogqRedisConn *conn, short events)
{
	struct pollfd pfd = {.fd = conn->redis->fd,.events = events};

	return poll(&pfd, 1, 0) > 0;
}

/*
 * hiredis has failed to read or write.
 */
static void
complain_of_loss(LogqRedisConn *conn)
{
	const char *tls_error = logq_redis_tls_error(conn);

	logq_redis_complain(conn, "connection lost: %s",
						tls_error != NULL ? tls_error : conn->redis->errstr);
}

/*
 * Read and parse all that has come.
 */
static void
receive(LogqRedisConn *conn)
{
	const redisReader *reader = conn->redis->reader;

	while (!conn->failed)
	{
		const LogqRedisCommand *command = first_command(conn);
		size_t		before = reader->len;

		logq_redis_tls_clear_errors();
		if (redisBufferRead(conn->redis) != REDIS_OK)
		{
			complain_of_loss(conn);
			break;
		}
		if (reader->len == before)
			break;
		conn->received_at = conn->progress_at = logq_now();
		if (command == NULL || command->group != conn->group)
		{
			conn->group = command != NULL ? command->group : 0;
			conn->group_bytes = 0;
		}
		conn->group_bytes += reader->len - before;
		if (conn->group_bytes > MAX_GROUP_BYTES)
		{
			logq_redis_complain(conn,
								"its answer to one look-up has more than %d MB",
								MAX_GROUP_BYTES / (1024 * 1024));
			break;
		}
		parse(conn);
	}
	logq_redis_tls_clear_errors();
}

/*
 * Send what can be sent.
 */
static void
transmit(LogqRedisConn *conn)
{
	redisContext *redis = conn->redis;

	while (!conn->failed && sdslen(redis->obuf) > 0)
	{
		size_t		before = sdslen(redis->obuf);

		logq_redis_tls_clear_errors();
		if (redisBufferWrite(redis, NULL) != REDIS_OK)
			complain_of_loss(conn);
		else if (sdslen(redis->obuf) == before)
			break;
		else
			conn->progress_at = logq_now();
	}
	logq_redis_tls_clear_errors();
}

/* ---------- the beginning ---------- */

/*
 * The answer to AUTH.  Should it have the password in it after all, only the
 * word in front is shown.
 */
static bool
take_auth(LogqRedisConn *conn, LogqRedisCommand *command,
		  const LogqRedisItem *item)
{
	const char *password = conn->config->password;
	char		text[LOGQ_REDIS_REASON_LEN];

	if (item->type == LOGQ_REDIS_ERROR)
	{
		logq_redis_error_text(item, text, sizeof(text));
		if (password[0] != '\0' && strstr(text, password) != NULL)
			text[strcspn(text, " ")] = '\0';
		logq_redis_complain(conn, "it does not take user and password: %s",
							text);
	}
	return item->type == LOGQ_REDIS_STATUS || item->type == LOGQ_REDIS_END;
}

static bool
take_select(LogqRedisConn *conn, LogqRedisCommand *command,
			const LogqRedisItem *item)
{
	char		text[LOGQ_REDIS_REASON_LEN];

	if (item->type == LOGQ_REDIS_ERROR)
	{
		logq_redis_error_text(item, text, sizeof(text));
		logq_redis_complain(conn, "it does not open database %s: %s",
							conn->config->db, text);
	}
	return item->type == LOGQ_REDIS_STATUS || item->type == LOGQ_REDIS_END;
}

static void
append_hello(LogqRedisConn *conn, LogqRedisTakeItem take,
			 int argc, const char **argv)
{
	LogqRedisCommand *command = logq_redis_command(conn, take);
	char	   *bytes;
	int			len = redisFormatCommandArgv(&bytes, argc, argv, NULL);

	if (command == NULL || len < 0)
		logq_redis_complain(conn, "out of memory");
	if (len < 0)
		return;
	(void) logq_redis_append(conn, bytes, len);
	redisFreeCommand(bytes);
}

/*
 * What a connection begins with.
 */
static void
say_hello(LogqRedisConn *conn)
{
	const LogqRedisConfig *config = conn->config;
	const char *auth[3] = {"AUTH"};
	const char *select[] = {"SELECT", config->db};
	int			n = 1;

	if (config->user[0] != '\0')
		auth[n++] = config->user;
	if (n > 1 || config->password[0] != '\0')
		auth[n++] = config->password;
	if (n > 1)
		append_hello(conn, take_auth, n, auth);
	if (strcmp(config->db, "0") != 0)
		append_hello(conn, take_select, 2, select);
}

static void
close_socket(LogqRedisConn *conn)
{
	if (conn->redis == NULL)
		return;
	redisFree(conn->redis);
	conn->redis = NULL;
	generation++;
}

/*
 * Connect to the next address.  False: there is none left, and conn->why says
 * what was wrong with the last one.
 */
static bool
connect_next(LogqRedisConn *conn)
{
	const LogqRedisConfig *config = conn->config;

	for (;;)
	{
		close_socket(conn);
		if (config->socket == NULL && conn->addresses == NIL)
			return false;
		if (config->socket != NULL)
			conn->redis = redisConnectUnixNonBlock(config->socket);
		else
		{
			conn->redis = redisConnectNonBlock(linitial(conn->addresses),
											   atoi(config->port));
			conn->addresses = list_delete_first(conn->addresses);
		}
		conn->state = LOGQ_REDIS_CONNECTING;
		generation++;
		if (conn->redis != NULL && conn->redis->err == 0)
			break;
		snprintf(conn->why, sizeof(conn->why), "could not connect: %s",
				 conn->redis != NULL ? conn->redis->errstr : "out of memory");
		/* hiredis may have closed it, and there is but one such socket */
		if (config->socket != NULL)
			return false;
	}
	conn->redis->reader->fn = &reader_functions;
	conn->redis->reader->privdata = conn;
	/* programs that are started are not to hold it open */
	(void) fcntl(conn->redis->fd, F_SETFD, FD_CLOEXEC);
	return true;
}

/*
 * Note the addresses that were found.  They are palloc'd.
 */
static void
set_addresses(LogqRedisConn *conn, const LogqAddresses *found)
{
	conn->addresses = logq_split_option(found->hostaddr != NULL ?
										found->hostaddr : found->host);
}

/*
 * Go on with the look-up of the name, or begin with it.  False: there is
 * nothing to go on with yet.
 */
static bool
look_up(LogqRedisConn *conn)
{
	const char *host = conn->config->host;
	LogqAddresses found;
	char	   *failure;

	if (conn->resolve == NULL)
	{
		if (logq_resolve_known(host, NULL, &found))
		{
			set_addresses(conn, &found);
			return true;
		}
		conn->resolve = logq_resolve_start(host);
		generation++;
	}
	if (!logq_resolve_poll(conn->resolve))
		return false;
	if (logq_resolve_result(conn->resolve, NULL, &found, &failure))
		set_addresses(conn, &found);
	else
		logq_redis_complain(conn, "%s", failure);
	logq_resolve_free(conn->resolve);
	conn->resolve = NULL;
	generation++;
	return true;
}

/*
 * The same, but nothing is thrown: a cache that cannot be reached is no reason
 * for a query to fail.  None of what is called here takes anything that the
 * end of a transaction would have to give back.
 */
static bool
look_up_safely(LogqRedisConn *conn)
{
	MemoryContext old = MemoryContextSwitchTo(conn->context);
	volatile bool result = true;

	PG_TRY();
	{
		result = look_up(conn);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(conn->context);
		error = CopyErrorData();
		FlushErrorState();
		logq_redis_complain(conn, "%s", error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * The socket is connected: begin with TLS, and send what has been waiting.
 */
static void
open_connection(LogqRedisConn *conn)
{
	conn->state = LOGQ_REDIS_OPEN;
	conn->progress_at = logq_now();
	if (conn->config->tls)
		logq_redis_tls_start(conn);
	if (conn->early_len > 0)
		(void) logq_redis_append(conn, conn->early, conn->early_len);
	conn->early_len = 0;
	if (conn->early != NULL)
		pfree(conn->early);
	conn->early = NULL;
	conn->early_size = 0;
}

/*
 * Has connecting come to an end?
 */
static void
check_connecting(LogqRedisConn *conn)
{
	int			error = 0;
	socklen_t	len = sizeof(error);

	while (is_ready(conn, POLLOUT))
	{
		if (getsockopt(conn->redis->fd, SOL_SOCKET, SO_ERROR, &error,
					   &len) < 0)
			error = errno;
		if (error == 0)
		{
			open_connection(conn);
			return;
		}
		snprintf(conn->why, sizeof(conn->why), "could not connect: %s",
				 strerror(error));
		if (!connect_next(conn))
		{
			conn->failed = true;
			return;
		}
	}
}

/*
 * See redisint.h.
 */
bool
logq_redis_advance(LogqRedisConn *conn)
{
	if (!conn->failed && conn->state == LOGQ_REDIS_RESOLVING)
	{
		if (conn->config->socket == NULL && !look_up_safely(conn))
			return true;
		if (!conn->failed && !connect_next(conn))
			conn->failed = true;
	}
	if (!conn->failed && conn->state == LOGQ_REDIS_CONNECTING)
		check_connecting(conn);
	if (!conn->failed && conn->state == LOGQ_REDIS_OPEN)
	{
		/* it may have said why, before it hung up */
		receive(conn);
		transmit(conn);
		receive(conn);
	}
	/* a name may lead elsewhere by now */
	if (conn->failed && conn->config->socket == NULL &&
		conn->state == LOGQ_REDIS_CONNECTING)
		logq_resolve_doubt(conn->config->host);
	return !conn->failed;
}

LogqRedisConn *
logq_redis_connect(const LogqRedisConfig *config)
{
	MemoryContext old = CurrentMemoryContext;
	LogqRedisConn *volatile conn = NULL;

	if (!AcquireExternalFD())
		return NULL;
	PG_TRY();
	{
		MemoryContext context =
			AllocSetContextCreate(TopMemoryContext, "logq Redis connection",
								  ALLOCSET_SMALL_SIZES);

		conn = MemoryContextAllocZero(context, sizeof(LogqRedisConn));
		conn->context = context;
	}
	PG_CATCH();
	{
		/* there is no memory */
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
	if (conn == NULL)
	{
		ReleaseExternalFD();
		return NULL;
	}
	conn->config = config;
	conn->state = LOGQ_REDIS_RESOLVING;
	conn->progress_at = logq_now();
	dlist_init(&conn->commands);
	if (config->tls)
		logq_redis_tls_prepare(conn);
	say_hello(conn);
	return conn;
}

void
logq_redis_disconnect(LogqRedisConn *conn)
{
	if (conn->resolve != NULL)
		logq_resolve_free(conn->resolve);
	close_socket(conn);
	generation++;
	logq_redis_tls_end(conn);
	ReleaseExternalFD();
	while (!dlist_is_empty(&conn->commands))
		drop_first_command(conn);
	MemoryContextDelete(conn->context);
}

/*
 * What to wait for.
 *
 * With TLS, what could not be sent may have to wait until something has come,
 * while the socket would take more; hiredis does not say which.  But if it
 * would, then it is not that which is waited for.
 */
pgsocket
logq_redis_conn_socket(const LogqRedisConn *conn, uint32 *events,
					   unsigned *gen)
{
	*events = WL_SOCKET_READABLE;
	*gen = generation;
	if (conn == NULL || conn->failed)
		return PGINVALID_SOCKET;
	if (conn->resolve != NULL)
		return logq_resolve_socket(conn->resolve);
	if (conn->redis == NULL)
		return PGINVALID_SOCKET;
	if (conn->state == LOGQ_REDIS_CONNECTING)
		*events = WL_SOCKET_WRITEABLE;
	else if (sdslen(conn->redis->obuf) > 0 &&
			 !(conn->config->tls && is_ready(conn, POLLOUT)))
		*events |= WL_SOCKET_WRITEABLE;
	return conn->redis->fd;
}
