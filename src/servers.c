/*-------------------------------------------------------------------------
 *
 * servers.c
 *		The servers of a partition: which there are, and which to ask.
 *
 * The options host and port of a partition's server object lead to its primary,
 * the option replicas lists its standbys.  A query asks the primary as long as
 * it is well and not much slower than a replica, since only its answers are
 * certain to be up to date; logq.read_from says otherwise.  Whether a replica
 * is far enough is found out with each request to it (failover.c); what was
 * found a moment ago keeps it from being asked in vain.
 *
 * A server whose breaker is open is left alone.  From time to time one session
 * sees in the background whether it is back: it connects, which says enough,
 * while its queries go on elsewhere; the connection is then kept for use.
 * Only one that says no at once is asked all the same when there is no other,
 * as that costs nothing, and so an answer comes as soon as it is up again.
 *
 * Failure cases: options cannot be malformed, the validator has seen them.
 * Nothing that goes wrong with a probe reaches the query that carries it on.
 * Whatever else happens there does, such as that the query is cancelled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "health.h"

#include <poll.h>

#include "access/xlog_internal.h"
#include "commands/defrem.h"
#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define DEFAULT_PORT "5432"
/* the primary is preferred unless it is so much slower than a replica */
#define SLOWER_BY_FACTOR 2
#define SLOWER_BY_MS 5
/* by so many answers, of which the last one was at most so long ago */
#define MIN_VALUES 20
#define LATENCY_MEMORY_MS 5000
/* replicas that are about as fast share the work */
#define SIMILAR_FACTOR 1.5
#define SIMILAR_MS 1
/* for so long one that was too far behind is taken to be so still */
#define LAG_MEMORY_MS 500
/* second requests go out after this, as long as a server is unknown */
#define UNKNOWN_DELAY_MS 100
/* background probes of one session at a time */
#define MAX_PROBES 8
/* a probe takes no notice of a logq.connect_timeout below */
#define MIN_PROBE_TIMEOUT_MS 1000

typedef struct Probe
{
	LogqConn   *conn;			/* NULL: free */
	LogqServers servers;		/* a copy: the session's life is longer */
	int			server;
	TimestampTz started_at;
} Probe;

static Probe *probes = NULL;
static int	nprobes = 0;

/* ---------- which servers there are ---------- */

/*
 * Set the address of a server, as it is shown.
 */
static void
set_address(LogqServer *server, const char *host, const char *port)
{
	MemSet(server->address, 0, LOGQ_ADDRESS_LEN);
	snprintf(server->address, LOGQ_ADDRESS_LEN, "%s:%s", host, port);
}

/*
 * Take a member of a list of host:port apart.
 */
static void
set_host_and_port(LogqServer *server, const char *member)
{
	const char *colon = strrchr(member, ':');

	MemSet(server->address, 0, LOGQ_ADDRESS_LEN);
	strlcpy(server->address, member, LOGQ_ADDRESS_LEN);
	/* the brackets of an address of IPv6 are not libpq's */
	if (member[0] == '[')
		server->host = pnstrdup(member + 1, colon - member - 2);
	else
		server->host = pnstrdup(member, colon - member);
	server->port = pstrdup(colon + 1);
}

/*
 * See health.h.
 */
LogqServers *
logq_servers(Oid serverid)
{
	ForeignServer *server = GetForeignServer(serverid);
	LogqServers *result = palloc0(sizeof(LogqServers));
	const char *host = NULL;
	const char *port = DEFAULT_PORT;
	const char *pooler = NULL;
	const char *replicas = NULL;
	bool		replicas_pooled = false;
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, "host") == 0 ||
			(strcmp(def->defname, "hostaddr") == 0 && host == NULL))
			host = defGetString(def);
		else if (strcmp(def->defname, "port") == 0)
			port = defGetString(def);
		else if (strcmp(def->defname, "pooler") == 0)
			pooler = defGetString(def);
		else if (strcmp(def->defname, "replicas") == 0)
			replicas = defGetString(def);
		else if (strcmp(def->defname, "replicas_pooled") == 0)
			replicas_pooled = defGetBoolean(def);
	}

	result->serverid = serverid;
	result->n = 1;
	if (pooler != NULL)
	{
		set_host_and_port(&result->servers[0], pooler);
		result->servers[0].pooled = true;
	}
	else
		set_address(&result->servers[0], host ? host : "localhost", port);
	if (replicas != NULL)
	{
		foreach(lc, logq_split_option(replicas))
		{
			LogqServer *s = &result->servers[result->n];

			/* the validator lets no more through */
			if (result->n == LOGQ_MAX_SERVERS)
				break;
			set_host_and_port(s, lfirst(lc));
			s->replica = true;
			s->pooled = replicas_pooled;
			result->n++;
		}
	}
	return result;
}

/* ---------- which to ask ---------- */

/*
 * Was it just now too far behind?
 */
static bool
lags(const LogqHealth *health, TimestampTz now)
{
	return health->lag_ms > logq_max_replica_lag &&
		now < TimestampTzPlusMilliseconds(health->lag_at, LAG_MEMORY_MS);
}

static double
known_latency(const LogqHealth *health)
{
	/* who is unknown gets a chance */
	return Max(health->latency_ms, 0);
}

/*
 * Is the primary much slower than some replica?  Only what is known well, and
 * of late, counts against it.
 */
static bool
is_slow(const LogqServers *servers, const LogqHealth *health, TimestampTz now)
{
	double		fastest = -1;

	if (health[0].values < MIN_VALUES ||
		now > TimestampTzPlusMilliseconds(health[0].measured_at,
										  LATENCY_MEMORY_MS))
		return false;
	for (int i = 1; i < servers->n; i++)
		if (health[i].values >= MIN_VALUES &&
			health[i].breaker == LOGQ_BREAKER_CLOSED &&
			!lags(&health[i], now) &&
			(fastest < 0 || health[i].latency_ms < fastest))
			fastest = health[i].latency_ms;
	return fastest >= 0 &&
		health[0].latency_ms > fastest * SLOWER_BY_FACTOR + SLOWER_BY_MS;
}

/*
 * May this server be asked at all?
 */
static bool
is_candidate(const LogqServers *servers, int server)
{
	/* who has no replica reads from what there is */
	if (servers->n == 1)
		return true;
	return logq_read_from == LOGQ_READ_ANY ||
		(logq_read_from == LOGQ_READ_REPLICA) ==
		servers->servers[server].replica;
}

/*
 * The session ends: somebody else may see whether they are back.
 */
static void
abandon_probes(int code, Datum arg)
{
	for (int i = 0; i < MAX_PROBES; i++)
		if (probes[i].conn != NULL)
			logq_health_abandon_probe(&probes[i].servers, probes[i].server);
	nprobes = 0;
}

/*
 * A server has so long for its next step.  Our user may be in a hurry; whether
 * a server is well does not depend on that.
 */
static void
set_deadline(Probe *probe)
{
	probe->conn->connect_deadline =
		TimestampTzPlusMilliseconds(logq_now(),
									Max(logq_connect_timeout,
										MIN_PROBE_TIMEOUT_MS));
}

/*
 * Something was thrown in a probe.  What its own options or its server bring
 * about is over with that: the query has the same, and will say it better.
 * All else is not ours to keep silent about, and may have left something
 * behind that only the end of the transaction cleans up.
 */
static void
swallow_error(Probe *probe, MemoryContext cxt)
{
	int			code = geterrcode();
	int			category = ERRCODE_TO_CATEGORY(code);

	MemoryContextSwitchTo(cxt);
	if (category != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR))
	{
		FlushErrorState();
		return;
	}
	logq_health_abandon_probe(&probe->servers, probe->server);
	if (probe->conn != NULL)
	{
		logq_conn_close(probe->conn);
		probe->conn = NULL;
		nprobes--;
	}
	PG_RE_THROW();
}

/*
 * Begin to connect to a server that has been in trouble.
 */
static void
start_probe(Probe *probe, const LogqServers *servers, int server, Oid userid)
{
	MemoryContext old = CurrentMemoryContext;

	probe->servers = *servers;
	probe->server = server;
	probe->started_at = logq_now();
	PG_TRY();
	{
		probe->conn = logq_conn_acquire_server(servers->serverid, userid,
											   &servers->servers[server],
											   LOGQ_ACQUIRE_PROBE);
		nprobes++;
		set_deadline(probe);
	}
	PG_CATCH();
	{
		swallow_error(probe, old);
	}
	PG_END_TRY();
}

/*
 * Is a socket ready, at this moment?
 */
static uint32
socket_events(pgsocket sock, uint32 wanted)
{
	struct pollfd pfd;
	uint32		events = 0;

	if (sock == PGINVALID_SOCKET)
		return wanted;
	pfd.fd = sock;
	pfd.events = (wanted & WL_SOCKET_READABLE ? POLLIN : 0) |
		(wanted & WL_SOCKET_WRITEABLE ? POLLOUT : 0);
	pfd.revents = 0;
	if (poll(&pfd, 1, 0) <= 0)
		return 0;
	if (pfd.revents & (POLLIN | POLLHUP | POLLERR))
		events |= WL_SOCKET_READABLE;
	if (pfd.revents & (POLLOUT | POLLHUP | POLLERR))
		events |= WL_SOCKET_WRITEABLE;
	return events & wanted;
}

/*
 * Go on with one probe.
 */
static void
advance_probe(Probe *probe)
{
	MemoryContext old = CurrentMemoryContext;
	char	   *volatile failure = NULL;
	volatile bool ready = false;

	PG_TRY();
	{
		for (;;)
		{
			uint32		wanted = 0;
			uint32		events;
			char	   *why = NULL;

			if (probe->conn->probe_events != 0)
			{
				events = socket_events(logq_conn_socket(probe->conn),
									   probe->conn->probe_events);
				wanted = events;
				/* it is not silent; perhaps nobody has looked for long */
				if (events != 0)
					set_deadline(probe);
			}
			ready = logq_conn_poll(probe->conn, &wanted, &why);
			failure = why;
			if (ready || failure != NULL)
				break;
			/* what it waits for now; is that there already? */
			probe->conn->probe_events = wanted;
			if (socket_events(logq_conn_socket(probe->conn), wanted) == 0)
				break;
		}
	}
	PG_CATCH();
	{
		swallow_error(probe, old);
		failure = "could not be used";
	}
	PG_END_TRY();

	if (ready)
	{
		logq_health_answered(&probe->servers, probe->server, -1,
							 (logq_now() -
							  probe->started_at) / 1000.0);
		/* a session can use it; the worker never reads */
		if (MyBgworkerEntry != NULL)
			logq_conn_close(probe->conn);
		else
			logq_conn_release(probe->conn);
	}
	else if (failure != NULL)
	{
		/* a user's wrong password is no news of the server but that it is up */
		if (logq_now() >= probe->conn->connect_deadline)
			logq_health_failed(&probe->servers, probe->server,
							   LOGQ_FAULT_SILENT, failure);
		else if (logq_conn_was_heard(probe->conn))
			logq_health_answered(&probe->servers, probe->server, -1, -1);
		else
			logq_health_failed(&probe->servers, probe->server,
							   LOGQ_FAULT_REFUSED, failure);
		logq_conn_close(probe->conn);
	}
	else
		return;
	probe->conn = NULL;
	nprobes--;
}

/*
 * See health.h.  Called whenever this session looks at its sockets, and free
 * when there is nothing to do.
 */
void
logq_advance_probes(void)
{
	if (nprobes == 0)
		return;
	for (int i = 0; i < MAX_PROBES; i++)
		if (probes[i].conn != NULL)
			advance_probe(&probes[i]);
}

bool
logq_probing(void)
{
	return nprobes > 0;
}

/*
 * Find out in the background whether servers are back that have been in
 * trouble.
 */
static void
start_probes(const LogqServers *servers, const LogqHealth *health, Oid userid)
{
	if (probes == NULL)
	{
		probes = MemoryContextAllocZero(TopMemoryContext,
										MAX_PROBES * sizeof(Probe));
		before_shmem_exit(abandon_probes, (Datum) 0);
	}
	for (int i = 0; i < servers->n; i++)
	{
		Probe	   *probe = NULL;

		if (health[i].breaker == LOGQ_BREAKER_CLOSED ||
			!logq_health_begin_probe(servers, i))
			continue;
		for (int p = 0; p < MAX_PROBES && probe == NULL; p++)
			if (probes[p].conn == NULL)
				probe = &probes[p];
		if (probe == NULL)
		{
			logq_health_abandon_probe(servers, i);
			return;
		}
		start_probe(probe, servers, i, userid);
		if (probe->conn == NULL)
			logq_health_abandon_probe(servers, i);
		else
			advance_probe(probe);
	}
}

/*
 * See health.h.
 */
void
logq_probe_servers(const LogqServers *servers, Oid userid)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];

	logq_health_get(servers, health);
	start_probes(servers, health, userid);
}

/*
 * See health.h.  One that says no at once may be tried.
 */
void
logq_check_writable(Oid serverid, Oid userid)
{
	LogqServers *servers = logq_servers(serverid);
	LogqHealth	health[LOGQ_MAX_SERVERS];

	logq_advance_probes();
	logq_health_get(servers, health);
	if (health[0].breaker != LOGQ_BREAKER_CLOSED && !health[0].cheap)
	{
		start_probes(servers, health, userid);
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("partition \"%s\" cannot be written to, as its primary does not answer",
						GetForeignServer(serverid)->servername),
				 errdetail_internal("%s: %s", servers->servers[0].address,
									health[0].reason),
				 errhint("It is written to again as soon as it answers. See the view \"logq.stat_partitions\".")));
	}
	pfree(servers);
}

/*
 * See health.h.
 */
int
logq_choose_server(const LogqServers *servers, Oid userid, uint32 tried)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];
	TimestampTz now = logq_now();
	bool		in_trouble = false;
	double		fastest = -1;
	int			similar = 0;
	int			chosen = -1;

	logq_advance_probes();
	logq_health_get(servers, health);
	for (int i = 0; i < servers->n; i++)
	{
		if (health[i].breaker != LOGQ_BREAKER_CLOSED)
			in_trouble = true;
		else if (is_candidate(servers, i) && (tried & (1U << i)) == 0 &&
				 servers->servers[i].replica && !lags(&health[i], now) &&
				 (fastest < 0 || known_latency(&health[i]) < fastest))
			fastest = known_latency(&health[i]);
	}
	if (in_trouble)
		start_probes(servers, health, userid);

	if (is_candidate(servers, 0) && (tried & 1) == 0 &&
		health[0].breaker == LOGQ_BREAKER_CLOSED &&
		(fastest < 0 || !is_slow(servers, health, now)))
		return 0;

	if (fastest >= 0)
	{
		/* any of those that are about as fast as the fastest */
		for (int i = 1; i < servers->n; i++)
		{
			if (!is_candidate(servers, i) || (tried & (1U << i)) != 0 ||
				health[i].breaker != LOGQ_BREAKER_CLOSED ||
				lags(&health[i], now) ||
				known_latency(&health[i]) >
				fastest * SIMILAR_FACTOR + SIMILAR_MS)
				continue;
			similar++;
			if (pg_prng_uint64_range(&pg_global_prng_state, 1, similar) == 1)
				chosen = i;
		}
		return chosen;
	}

	/* there is none that is well: who fails at once costs nothing */
	for (int i = 0; i < servers->n; i++)
		if (is_candidate(servers, i) && (tried & (1U << i)) == 0 &&
			health[i].breaker != LOGQ_BREAKER_CLOSED && health[i].cheap)
			return i;
	return -1;
}

/*
 * See health.h.
 */
int
logq_choose_other(const LogqServers *servers, int server, uint32 tried)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];
	TimestampTz now = logq_now();
	int			chosen = -1;

	logq_health_get(servers, health);
	for (int i = 0; i < servers->n; i++)
	{
		if (i == server || !is_candidate(servers, i) ||
			(tried & (1U << i)) != 0 ||
			health[i].breaker != LOGQ_BREAKER_CLOSED ||
			(servers->servers[i].replica && lags(&health[i], now)))
			continue;
		if (chosen < 0 ||
			known_latency(&health[i]) < known_latency(&health[chosen]))
			chosen = i;
	}
	return chosen;
}

/*
 * See health.h.
 */
bool
logq_server_seems_well(const LogqServers *servers, int server)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];

	logq_health_get(servers, health);
	return health[server].breaker == LOGQ_BREAKER_CLOSED;
}

/*
 * See health.h.
 */
bool
logq_primary_seems_well(const LogqServers *servers)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];

	logq_health_get(servers, health);
	return health[0].breaker == LOGQ_BREAKER_CLOSED &&
		health[0].failures == 0;
}

/*
 * See health.h.
 */
double
logq_hedge_delay(const LogqServers *servers, int server, bool connecting)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];
	double		delay;

	logq_health_get(servers, health);
	delay = connecting ? health[server].connect_p95_ms :
		health[server].p95_ms;
	return Max(delay < 0 ? UNKNOWN_DELAY_MS : delay, logq_hedge_min_delay);
}

/*
 * See health.h.
 */
char *
logq_server_refusal(const LogqServers *servers, int server)
{
	LogqHealth	health[LOGQ_MAX_SERVERS];
	const LogqHealth *h = &health[server];

	if (!is_candidate(servers, server))
		return psprintf("not asked, as \"logq.read_from\" is \"%s\"",
						logq_read_from == LOGQ_READ_PRIMARY ? "primary" :
						"replica");
	logq_health_get(servers, health);
	if (h->breaker != LOGQ_BREAKER_CLOSED)
		return psprintf("not asked since %s: %s",
						timestamptz_to_str(logq_wall_time(h->since)), h->reason);
	if (servers->servers[server].replica &&
		lags(h, logq_now()))
		return psprintf("replica is " INT64_FORMAT " ms behind, more than \"logq.max_replica_lag\"",
						h->lag_ms);
	return pstrdup("not asked");
}

/* ---------- what this session has written ---------- */

typedef struct Written
{
	Oid			serverid;		/* hash key */
	LogqPosition position;
} Written;

static HTAB *written = NULL;

/*
 * A transaction of ours will write.  When it commits, it is too late to find
 * out that there is no memory.
 */
void
logq_expect_written(Oid serverid)
{
	Written    *w;
	bool		found;

	if (written == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(Written);
		written = hash_create("logq written", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	w = hash_search(written, &serverid, HASH_ENTER, &found);
	if (!found)
		MemSet(&w->position, 0, sizeof(LogqPosition));
}

/*
 * It has come to this place on the primary.
 */
void
logq_note_written(Oid serverid, const LogqPosition *position)
{
	Written    *w;

	if (written == NULL)
		return;
	w = hash_search(written, &serverid, HASH_FIND, NULL);
	/* a server that was restored or replaced may have less than before */
	if (w != NULL)
		w->position = *position;
}

void
logq_learn_written(Oid serverid, const LogqPosition *position)
{
	if (logq_written_position(serverid).lsn == LOGQ_WRITTEN_UNKNOWN)
		logq_note_written(serverid, position);
}

LogqPosition
logq_written_position(Oid serverid)
{
	const LogqPosition nothing = {0};
	const Written *w;

	if (written == NULL)
		return nothing;
	w = hash_search(written, &serverid, HASH_FIND, NULL);
	return w ? w->position : nothing;
}

/*
 * A position as a number.  Where WAL will be inserted next may be behind the
 * header of a page that has nothing else yet; who has replayed all is before it.
 */
XLogRecPtr
logq_parse_lsn(const char *text)
{
	XLogRecPtr	lsn = (XLogRecPtr) strtoll(text, NULL, 10);
	XLogRecPtr	in_page = lsn % XLOG_BLCKSZ;

	if (in_page == SizeOfXLogShortPHD || in_page == SizeOfXLogLongPHD)
		lsn -= in_page;
	return lsn;
}
