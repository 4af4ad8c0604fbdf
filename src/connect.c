/*-------------------------------------------------------------------------
 *
 * connect.c
 *		How a connection to a partition begins: names of hosts are looked up,
 *		then libpq connects.
 *
 * PQconnectPoll would look names up itself, and block.  So resolve.c does that
 * where it is needed, and libpq gets an address with each name, which it then
 * needs only for TLS, Kerberos and messages.  Until then conn->pg is NULL, and
 * logq_conn_socket() is the pipe of the look-up.
 *
 * libpq is left to itself where a service or the server's environment may
 * bring names of their own: such a look-up does block.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "connect.h"
#include "resolve.h"

#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * What is left for connecting, when the look-up of the name has taken all the
 * time there was and older addresses are known.
 */
#define MIN_CONNECT_MS 500

/* A connection that libpq does not know of yet: names are looked up */
typedef struct LogqConnStart
{
	MemoryContext context;		/* this, and all that belongs to it */
	LogqResolve *resolve;
	const char **keywords;
	const char **values;
} LogqConnStart;

/*
 * Remote notices are of no interest to the local client, and libpq would
 * print them to stderr.
 */
static void
ignore_notice(void *arg, const PGresult *res)
{
}

/*
 * The value of one of libpq's keywords, or NULL.  The last one counts, but for
 * empty ones.
 */
static const char *
find_param(const char **keywords, const char **values, const char *keyword)
{
	const char *value = NULL;

	for (int i = 0; keywords[i] != NULL; i++)
		if (strcmp(keywords[i], keyword) == 0 &&
			values[i] != NULL && values[i][0] != '\0')
			value = values[i];
	return value;
}

/*
 * The hosts among libpq's parameters, if we are to look up their names; NULL:
 * leave that to libpq.  A service may bring anything, such as more ports.
 */
static const char *
hosts_to_look_up(const char **keywords, const char **values)
{
	if (find_param(keywords, values, "hostaddr") != NULL ||
		find_param(keywords, values, "service") != NULL)
		return NULL;
	return find_param(keywords, values, "host");
}

/*
 * Let libpq connect, with these hosts instead of those in the parameters
 * unless addresses is NULL.
 */
static void
start_libpq(LogqConn *conn, const char **keywords, const char **values,
			const LogqAddresses *addresses)
{
	if (addresses != NULL && addresses->hostaddr != NULL)
	{
		const char **more_keywords;
		const char **more_values;
		int			n = 0;

		while (keywords[n] != NULL)
			n++;
		more_keywords = palloc0((n + 4) * sizeof(char *));
		more_values = palloc0((n + 4) * sizeof(char *));
		memcpy(more_keywords, keywords, n * sizeof(char *));
		memcpy(more_values, values, n * sizeof(char *));
		more_keywords[n] = "host";
		more_values[n++] = addresses->host;
		more_keywords[n] = "hostaddr";
		more_values[n++] = addresses->hostaddr;
		if (addresses->port != NULL)
		{
			more_keywords[n] = "port";
			more_values[n++] = addresses->port;
		}
		keywords = more_keywords;
		values = more_values;
	}

	conn->pg = PQconnectStartParams(keywords, values, false);
	if (conn->pg == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	PQsetNoticeReceiver(conn->pg, ignore_notice, NULL);
	/* what libpq says at the start of the protocol's poll loop */
	conn->poll = PGRES_POLLING_WRITING;
}

/*
 * Look up names first; logq_conn_poll goes on.
 */
static void
start_look_up(LogqConn *conn, const char **keywords, const char **values,
			  const char *host)
{
	MemoryContext context;
	MemoryContext old;
	LogqConnStart *start;
	int			n = 0;

	while (keywords[n] != NULL)
		n++;
	context = AllocSetContextCreate(TopMemoryContext, "logq connection start",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	start = palloc0(sizeof(LogqConnStart));
	start->context = context;
	start->keywords = palloc0((n + 1) * sizeof(char *));
	start->values = palloc0((n + 1) * sizeof(char *));
	conn->start = start;
	for (int i = 0; i < n; i++)
	{
		start->keywords[i] = pstrdup(keywords[i]);
		start->values[i] = pstrdup(values[i]);
	}
	MemoryContextSwitchTo(old);
	start->resolve = logq_resolve_start(host);
}

/*
 * Let libpq connect, or look up names before.
 */
void
logq_connect_begin(LogqConn *conn, const char **keywords, const char **values)
{
	const char *host = hosts_to_look_up(keywords, values);
	LogqAddresses addresses;

	if (host == NULL)
		start_libpq(conn, keywords, values, NULL);
	else if (logq_resolve_known(host, find_param(keywords, values, "port"),
								&addresses))
		start_libpq(conn, keywords, values, &addresses);
	else
		start_look_up(conn, keywords, values, host);
}

/*
 * Names are looked up no more.  Never throws.
 */
void
logq_connect_end_look_up(LogqConn *conn)
{
	LogqConnStart *start = conn->start;

	if (start == NULL)
		return;
	conn->start = NULL;
	logq_resolve_free(start->resolve);
	MemoryContextDelete(start->context);
}

/*
 * Advance the look-up of names.  True: it is over, and libpq has begun to
 * connect.  False: wait, or, with *why, it has failed.
 */
bool
logq_connect_look_up(LogqConn *conn, uint32 *events, char **why)
{
	LogqConnStart *start = conn->start;
	TimestampTz now = logq_now();
	LogqAddresses addresses;

	*why = NULL;
	if (!logq_resolve_poll(start->resolve) && now < conn->connect_deadline)
	{
		*events = WL_SOCKET_READABLE;
		return false;
	}
	if (!logq_resolve_result(start->resolve,
							 find_param(start->keywords, start->values, "port"),
							 &addresses, why))
	{
		logq_connect_end_look_up(conn);
		return false;
	}
	start_libpq(conn, start->keywords, start->values, &addresses);
	logq_connect_end_look_up(conn);
	conn->connect_deadline =
		Max(conn->connect_deadline,
			TimestampTzPlusMilliseconds(now, Min(MIN_CONNECT_MS,
												 logq_connect_timeout)));
	/* what has happened was on another socket */
	*events = 0;
	return true;
}

/*
 * What those who wait for a connection wait on.
 */
pgsocket
logq_conn_socket(const LogqConn *conn)
{
	if (conn->start != NULL)
		return logq_resolve_socket(conn->start->resolve);
	return PQsocket(conn->pg);
}

/*
 * Connecting has failed: names may have other addresses now.
 */
void
logq_connect_doubt(LogqConn *conn)
{
	PQconninfoOption *options = PQconninfo(conn->pg);	/* none for NULL */

	for (PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
		if (strcmp(o->keyword, "host") == 0 && o->val != NULL)
			logq_resolve_doubt(o->val);
	PQconninfoFree(options);
}

/* ---------- failures ---------- */

/*
 * Why libpq could not connect, palloc'd, without the names of files on this
 * server: who may only read is told that a key cannot be used, not where keys
 * lie.  They come from options that not everybody sees, or from the home of
 * the server's user.  The server log gets it all.
 */
char *
logq_connect_reason(LogqConn *conn, const char *why)
{
	static const char word[] = "file \"/";
	StringInfoData text;
	const char *rest = why;
	const char *p;
	const char *end;

	initStringInfo(&text);
	while ((p = strstr(rest, word)) != NULL &&
		   (end = strchr(p + strlen(word), '"')) != NULL)
	{
		appendBinaryStringInfo(&text, rest, p - rest);
		appendStringInfoString(&text, "file");
		rest = end + 1;
	}
	if (rest != why)
		ereport(LOG_SERVER_ONLY,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to partition \"%s\"", conn->name),
				 errdetail_internal("%s", pchomp(why))));
	appendStringInfoString(&text, rest);
	while (text.len > 0 && text.data[text.len - 1] == '\n')
		text.data[--text.len] = '\0';
	return text.data;
}

/*
 * What to do about it.
 */
const char *
logq_connect_hint(const char *reason)
{
	if (strstr(reason, "certificate") != NULL ||
		strstr(reason, "private key") != NULL ||
		strstr(reason, "SSL") != NULL)
		return "Check the options sslmode, sslrootcert and host of the server, and the certificate of the partition; the server log says which files were looked for.";
	if (strstr(reason, "authentication failed") != NULL)
		return "Check user and password of the user mapping for the server.";
	return "See the view \"logq.partitions\" for the state of all partitions.";
}
