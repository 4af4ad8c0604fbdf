/*-------------------------------------------------------------------------
 *
 * resolve.c
 *		Names of hosts, looked up without waiting.
 *
 * libpq's PQconnectPoll calls getaddrinfo, which blocks for as long as the
 * resolver likes, and cannot be interrupted.  So names are looked up by a
 * program of ours, logq_resolve, at the other end of a pipe, and libpq gets
 * addresses.  The caller waits for the pipe along with everything else.
 *
 * What was found is kept for all sessions, in shared memory, or in the backend
 * where the library was not preloaded.  It is taken without a look-up for
 * FRESH_MS, or until connecting to it fails (a doubt).  After that it is
 * looked up again, by one session at a time: the others go on with what they
 * have.  When the look-up fails, or takes longer than PATIENCE_MS, so does
 * that session: an old address is better than none, and who must be sure of
 * the server has TLS or Kerberos, which go by the name.  Failures are not kept.
 *
 * Of a list of names, those that cannot be looked up are left out, as libpq
 * would go on with the next one.
 *
 * The lock protects the cache, and is held while its entries are looked
 * through.  No other is taken under it.
 *
 * Failure cases: the program cannot be run, crashes, or says nothing before
 * the caller's deadline.  It is killed with the look-up, and when the process
 * exits; when that is killed, the program ends by its own limit.
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "program.h"
#include "resolve.h"
#include "resolve/protocol.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* how long what was found is taken without another look */
#define FRESH_MS 60000
/* ... when connecting to it has failed */
#define DOUBTED_MS 1000
/* how long a session that looks it up again keeps others from doing so */
#define ASKED_MS 5000
/* how long a look-up may take when something older is known */
#define PATIENCE_MS 1000
/* how long the program may live beyond the time allowed for connecting */
#define PROGRAM_GRACE_MS 1000

/* names of one list, each of which is a process for a moment */
#define MAX_NAMES 32
/* the longest that DNS allows is 253 */
#define MAX_NAME 255
#define MAX_ENTRIES 256

typedef char Address[LOGQ_RESOLVE_ADDRESS];

typedef struct Entry
{
	char		name[MAX_NAME + 1];
	TimestampTz looked_up_at;
	TimestampTz asked_at;		/* somebody is about to look it up again */
	TimestampTz used_at;
	bool		doubted;
	int			naddresses;
	Address		addresses[LOGQ_RESOLVE_ADDRESSES];
} Entry;

typedef struct Cache
{
	int			nentries;
	Entry		entries[MAX_ENTRIES];
} Cache;

/* One name that is being looked up */
typedef struct HostName
{
	char	   *name;
	bool		answered;
	int			naddresses;
	Address		addresses[LOGQ_RESOLVE_ADDRESSES];
	char		failure[LOGQ_RESOLVE_LINE];
} HostName;

struct LogqResolve
{
	struct LogqResolve *next;
	MemoryContext context;		/* this, and all that belongs to it */
	char	   *host;			/* the list */
	pid_t		pid;			/* 0: none, or it has been waited for */
	pgsocket	sock;
	bool		acquired_fd;
	bool		over;
	const char *end;			/* why it has ended early */
	int			nnames;
	HostName   *names;
	int			line_len;
	char		line[LOGQ_RESOLVE_LINE];
};

/* the lock is NULL when the cache is our own */
static LWLock *lock = NULL;
static Cache *cache = NULL;

/* all of this process, to kill them when it exits */
static LogqResolve *resolves = NULL;
static bool callback_registered = false;

/* ---------- the cache ---------- */

Size
logq_resolve_shmem_size(void)
{
	return sizeof(Cache);
}

void
logq_resolve_shmem_startup(LWLock *its_lock)
{
	bool		found;

	cache = ShmemInitStruct("logq host names", sizeof(Cache), &found);
	if (!found)
		MemSet(cache, 0, sizeof(Cache));
	lock = its_lock;
}

static void
lock_cache(void)
{
	if (lock != NULL)
		LWLockAcquire(lock, LW_EXCLUSIVE);
}

static void
unlock_cache(void)
{
	if (lock != NULL)
		LWLockRelease(lock);
}

/*
 * The entry of a name, or NULL.  With the lock held.
 */
static Entry *
find_entry(const char *name)
{
	for (int i = 0; i < cache->nentries; i++)
		if (strcmp(cache->entries[i].name, name) == 0)
			return &cache->entries[i];
	return NULL;
}

/*
 * Is it less than this ago?  A clock that was set back makes things old.
 */
static bool
is_within(TimestampTz at, TimestampTz now, int ms)
{
	return at <= now && !TimestampDifferenceExceeds(at, now, ms);
}

static bool
is_fresh(const Entry *entry, TimestampTz now)
{
	return is_within(entry->looked_up_at, now,
					 entry->doubted ? DOUBTED_MS : FRESH_MS) ||
		is_within(entry->asked_at, now, ASKED_MS);
}

/*
 * What is known of a name; 0: nothing.
 */
static int
recall(const char *name, bool only_fresh, Address *addresses)
{
	TimestampTz now = logq_now();
	Entry	   *entry;
	int			n = 0;

	if (cache == NULL)
		return 0;
	lock_cache();
	entry = find_entry(name);
	if (entry != NULL && (!only_fresh || is_fresh(entry, now)))
	{
		n = entry->naddresses;
		memcpy(addresses, entry->addresses, n * sizeof(Address));
		entry->used_at = now;
	}
	unlock_cache();
	return n;
}

/*
 * Keep what was found, perhaps in the place of what was not used for long.
 */
static void
remember(const HostName *name)
{
	TimestampTz now = logq_now();
	Entry	   *entry;

	lock_cache();
	entry = find_entry(name->name);
	if (entry == NULL && cache->nentries < MAX_ENTRIES)
		entry = &cache->entries[cache->nentries++];
	else if (entry == NULL)
	{
		entry = &cache->entries[0];
		for (int i = 1; i < cache->nentries; i++)
			if (cache->entries[i].used_at < entry->used_at)
				entry = &cache->entries[i];
	}
	strlcpy(entry->name, name->name, sizeof(entry->name));
	entry->looked_up_at = entry->used_at = now;
	entry->asked_at = 0;
	entry->doubted = false;
	entry->naddresses = name->naddresses;
	memcpy(entry->addresses, name->addresses,
		   name->naddresses * sizeof(Address));
	unlock_cache();
}

/*
 * A name is about to be looked up.  True: something older is known.
 */
static bool
note_asked(const char *name)
{
	Entry	   *entry;

	lock_cache();
	entry = find_entry(name);
	if (entry != NULL)
		entry->asked_at = logq_now();
	unlock_cache();
	return entry != NULL;
}

/* ---------- lists ---------- */

/*
 * Cut a list at its commas, as libpq does: white space counts.
 */
static List *
split(const char *text)
{
	List	   *result = NIL;

	for (;;)
	{
		const char *comma = strchr(text, ',');

		if (comma == NULL)
			return lappend(result, pstrdup(text));
		result = lappend(result, pnstrdup(text, comma - text));
		text = comma + 1;
	}
}

static bool
is_numeric(const char *host)
{
	unsigned char address[sizeof(struct in6_addr)];
	const char *scope = strchr(host, '%');
	char		text[LOGQ_RESOLVE_ADDRESS];

	if (strlen(host) >= sizeof(text))
		return false;
	if (inet_pton(AF_INET, host, address) == 1)
		return true;
	strlcpy(text, host, sizeof(text));
	if (scope != NULL)
		text[scope - host] = '\0';
	return inet_pton(AF_INET6, text, address) == 1;
}

/*
 * Must a member of a list be looked up?
 */
static bool
is_name(const char *host)
{
	/* the directory of a socket, or an abstract one; empty is the default */
	if (host[0] == '\0' || host[0] == '/' || host[0] == '@')
		return false;
	return !is_numeric(host);
}

/*
 * The addresses of a name, from where the caller knows them.
 */
typedef int (*FindAddresses) (void *arg, const char *name,
							  Address *addresses);

static int
find_fresh(void *arg, const char *name, Address *addresses)
{
	return recall(name, true, addresses);
}

/*
 * Make the lists for libpq.  A name without an address is left out, or, if
 * all are needed, a reason to return false, as is an empty list.
 */
static bool
expand(const char *host, const char *port, FindAddresses find, void *arg,
	   bool need_all, LogqAddresses *result)
{
	List	   *hosts = split(host);
	List	   *ports = split(port != NULL ? port : "");
	bool		port_each = list_length(ports) > 1;
	bool		has_name = false;
	StringInfoData out_host;
	StringInfoData out_addr;
	StringInfoData out_port;
	int			nmembers = 0;
	ListCell   *lc;

	foreach(lc, hosts)
		has_name |= is_name(lfirst(lc));
	/* when the numbers do not fit, libpq is to say so */
	if (!has_name ||
		(port_each && list_length(ports) != list_length(hosts)))
	{
		result->host = pstrdup(host);
		result->hostaddr = NULL;
		result->port = port != NULL ? pstrdup(port) : NULL;
		return true;
	}

	initStringInfo(&out_host);
	initStringInfo(&out_addr);
	initStringInfo(&out_port);
	foreach(lc, hosts)
	{
		const char *member = lfirst(lc);
		Address		addresses[LOGQ_RESOLVE_ADDRESSES];
		int			n = 1;

		if (is_name(member))
			n = find(arg, member, addresses);
		else if (is_numeric(member))
			strlcpy(addresses[0], member, sizeof(Address));
		else
			addresses[0][0] = '\0';
		if (n == 0 && need_all)
			return false;
		for (int i = 0; i < n; i++, nmembers++)
		{
			const char *comma = nmembers > 0 ? "," : "";

			appendStringInfo(&out_host, "%s%s", comma, member);
			appendStringInfo(&out_addr, "%s%s", comma, addresses[i]);
			if (port_each)
				appendStringInfo(&out_port, "%s%s", comma,
								 (char *) list_nth(ports,
												   foreach_current_index(lc)));
		}
	}
	if (nmembers == 0)
		return false;
	result->host = out_host.data;
	result->hostaddr = out_addr.data;
	/* one port is for all */
	result->port = port_each ? out_port.data :
		port != NULL ? pstrdup(port) : NULL;
	return true;
}

/*
 * Are the addresses known?
 */
bool
logq_resolve_known(const char *host, const char *port,
				   LogqAddresses *addresses)
{
	return expand(host, port, find_fresh, NULL, true, addresses);
}

/*
 * Connecting to what was known has failed: names may have moved.
 */
void
logq_resolve_doubt(const char *host)
{
	List	   *hosts;
	ListCell   *lc;

	if (cache == NULL)
		return;
	hosts = split(host);
	lock_cache();
	foreach(lc, hosts)
	{
		Entry	   *entry = find_entry(lfirst(lc));

		if (entry != NULL)
			entry->doubted = true;
	}
	unlock_cache();
	list_free_deep(hosts);
}

/* ---------- the program ---------- */

/*
 * Kill the program, and what it has started, and close the pipe.
 */
static void
end_program(LogqResolve *resolve, int *status)
{
	*status = 0;
	if (resolve->pid > 0)
	{
		(void) kill(-resolve->pid, SIGKILL);
		(void) kill(resolve->pid, SIGKILL);
		logq_program_wait(resolve->pid, status);
		resolve->pid = 0;
	}
	if (resolve->sock != PGINVALID_SOCKET)
		close(resolve->sock);
	resolve->sock = PGINVALID_SOCKET;
	if (resolve->acquired_fd)
		ReleaseExternalFD();
	resolve->acquired_fd = false;
}

/*
 * This process exits, perhaps in the middle of things: whose look-up it is may
 * still free it.
 */
static void
end_all(int code, Datum arg)
{
	int			status;

	for (LogqResolve *resolve = resolves; resolve != NULL;
		 resolve = resolve->next)
	{
		end_program(resolve, &status);
		resolve->over = true;
	}
}

/*
 * End a look-up and forget it.
 */
void
logq_resolve_free(LogqResolve *resolve)
{
	LogqResolve **link;
	int			status;

	if (resolve == NULL)
		return;
	for (link = &resolves; *link != NULL; link = &(*link)->next)
	{
		if (*link == resolve)
		{
			*link = resolve->next;
			break;
		}
	}
	end_program(resolve, &status);
	MemoryContextDelete(resolve->context);
}

/*
 * Start the program for the names of a look-up.  On return, or when this
 * throws, there is what logq_resolve_free clears away.
 */
static void
launch(LogqResolve *resolve, int limit_ms)
{
	char		path[MAXPGPATH];
	char	   *argv[MAX_NAMES + 3];
	int			fds[2];
	pid_t		pid;
	int			saved_errno;

	if (!logq_program_path(LOGQ_RESOLVE_PROGRAM, path))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not find the program \"%s\": %m", path),
				 errdetail("It looks up the names of hosts."),
				 errhint("Install all of logq on this server, with \"make install\".")));
	argv[0] = LOGQ_RESOLVE_PROGRAM;
	argv[1] = psprintf("%d", limit_ms);
	for (int i = 0; i < resolve->nnames; i++)
		argv[2 + i] = resolve->names[i].name;
	argv[2 + resolve->nnames] = NULL;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not look up host \"%s\": too many files are open",
						resolve->host),
				 errhint("Raise max_files_per_process or the limit of the operating system.")));
	resolve->acquired_fd = true;
	if (pipe(fds) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a pipe: %m")));
	resolve->sock = fds[0];
	if (!pg_set_noblock(fds[0]) || fcntl(fds[0], F_SETFD, FD_CLOEXEC) < 0)
	{
		saved_errno = errno;
		close(fds[1]);
		errno = saved_errno;
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not set up a pipe: %m")));
	}

	pid = logq_program_start(path, argv, -1, fds[1]);
	saved_errno = errno;
	close(fds[1]);
	if (pid < 0)
	{
		errno = saved_errno;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not fork to look up host \"%s\": %m",
						resolve->host)));
	}
	resolve->pid = pid;
}

/*
 * Note which names must be looked up, each once.
 */
static void
collect_names(LogqResolve *resolve)
{
	List	   *hosts = split(resolve->host);
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, hosts)
	{
		char	   *host = lfirst(lc);
		Address		addresses[LOGQ_RESOLVE_ADDRESSES];
		bool		is_new = is_name(host);
		ListCell   *lc2;

		foreach(lc2, names)
			if (strcmp(lfirst(lc2), host) == 0)
				is_new = false;
		if (!is_new || recall(host, true, addresses) > 0)
			continue;
		if (strlen(host) > MAX_NAME)
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("name of a host is too long: \"%s\"", host)));
		names = lappend(names, host);
	}
	if (list_length(names) > MAX_NAMES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d names of hosts in one list", MAX_NAMES)));

	resolve->names = palloc0(Max(list_length(names), 1) * sizeof(HostName));
	foreach(lc, names)
		resolve->names[resolve->nnames++].name = lfirst(lc);
}

/*
 * Start looking up the names of a list.
 */
LogqResolve *
logq_resolve_start(const char *host)
{
	MemoryContext context;
	MemoryContext old;
	LogqResolve *resolve;

	if (!callback_registered)
	{
		before_shmem_exit(end_all, (Datum) 0);
		callback_registered = true;
	}
	if (cache == NULL)
		cache = MemoryContextAllocZero(TopMemoryContext, sizeof(Cache));

	context = AllocSetContextCreate(TopMemoryContext, "logq name look-up",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	resolve = palloc0(sizeof(LogqResolve));
	resolve->context = context;
	resolve->sock = PGINVALID_SOCKET;
	resolve->next = resolves;
	resolves = resolve;

	PG_TRY();
	{
		bool		all_older = true;
		int			limit_ms = logq_connect_timeout;

		resolve->host = pstrdup(host);
		collect_names(resolve);
		for (int i = 0; i < resolve->nnames; i++)
			all_older &= note_asked(resolve->names[i].name);
		if (all_older)
			limit_ms = Min(PATIENCE_MS, (limit_ms + 1) / 2);
		else if (limit_ms <= INT_MAX - PROGRAM_GRACE_MS)
			limit_ms += PROGRAM_GRACE_MS;
		/* others may have found all meanwhile */
		if (resolve->nnames > 0)
			launch(resolve, limit_ms);
		else
			resolve->over = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		logq_resolve_free(resolve);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return resolve;
}

pgsocket
logq_resolve_socket(const LogqResolve *resolve)
{
	return resolve->sock;
}

/*
 * The program has ended, or closed its end, before all was said.
 */
static void
note_end(LogqResolve *resolve)
{
	int			status;

	logq_program_wait(resolve->pid, &status);
	resolve->pid = 0;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		resolve->end = "timeout expired";
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		resolve->end = "the program \"" LOGQ_RESOLVE_PROGRAM "\" could not be run";
	else
		resolve->end = "the program \"" LOGQ_RESOLVE_PROGRAM "\" failed";
	resolve->over = true;
}

/*
 * Take a line of what the program says.  What makes no sense is passed over.
 */
static void
take_line(LogqResolve *resolve)
{
	char	   *line = resolve->line;
	char	   *text;
	long		index;
	HostName   *name;

	if (strlen(line) < 4 || line[1] != ' ')
		return;
	index = strtol(line + 2, &text, 10);
	if (index < 0 || index >= resolve->nnames || *text != ' ')
		return;
	name = &resolve->names[index];
	text++;
	switch (line[0])
	{
		case 'A':
			if (name->naddresses < LOGQ_RESOLVE_ADDRESSES && is_numeric(text))
				strlcpy(name->addresses[name->naddresses++], text,
						sizeof(Address));
			break;
		case 'F':
			strlcpy(name->failure, text, sizeof(name->failure));
			break;
		case 'E':
			name->answered = true;
			if (name->naddresses > 0)
				remember(name);
			break;
		default:
			break;
	}
}

static void
take_bytes(LogqResolve *resolve, const char *bytes, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (bytes[i] != '\n')
		{
			if (resolve->line_len < LOGQ_RESOLVE_LINE - 1)
				resolve->line[resolve->line_len++] = bytes[i];
			continue;
		}
		resolve->line[resolve->line_len] = '\0';
		resolve->line_len = 0;
		take_line(resolve);
	}
}

/*
 * Take in what has come.
 */
bool
logq_resolve_poll(LogqResolve *resolve)
{
	char		bytes[1024];

	while (!resolve->over)
	{
		ssize_t		n = read(resolve->sock, bytes, sizeof(bytes));

		if (n > 0)
		{
			take_bytes(resolve, bytes, n);
			resolve->over = true;
			for (int i = 0; i < resolve->nnames; i++)
				resolve->over &= resolve->names[i].answered;
		}
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		else
			note_end(resolve);
	}
	return true;
}

/*
 * What was found, or else was known before.
 */
static int
find_found(void *arg, const char *host, Address *addresses)
{
	LogqResolve *resolve = arg;

	for (int i = 0; i < resolve->nnames; i++)
	{
		HostName   *name = &resolve->names[i];

		if (name->naddresses == 0 || strcmp(name->name, host) != 0)
			continue;
		memcpy(addresses, name->addresses, name->naddresses * sizeof(Address));
		return name->naddresses;
	}
	return recall(host, false, addresses);
}

/*
 * The result of a look-up, over or not.
 */
bool
logq_resolve_result(LogqResolve *resolve, const char *port,
					LogqAddresses *addresses, char **failure)
{
	StringInfoData why;

	if (expand(resolve->host, port, find_found, resolve, false, addresses))
		return true;

	initStringInfo(&why);
	/* what others knew of was pushed out of the cache just now */
	if (resolve->nnames == 0)
		appendStringInfo(&why, "could not look up host \"%s\"",
						 resolve->host);
	for (int i = 0; i < resolve->nnames; i++)
	{
		HostName   *name = &resolve->names[i];

		appendStringInfo(&why, "%scould not look up host \"%s\": ",
						 i > 0 ? "; " : "", name->name);
		if (name->failure[0] != '\0')
			appendStringInfoString(&why, name->failure);
		else if (resolve->end != NULL)
			appendStringInfoString(&why, resolve->end);
		else
			appendStringInfo(&why, "timeout expired after %d ms",
							 logq_connect_timeout);
	}
	*failure = why.data;
	return false;
}
