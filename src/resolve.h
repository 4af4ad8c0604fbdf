/*-------------------------------------------------------------------------
 *
 * resolve.h
 *		Names of hosts, looked up without waiting.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_RESOLVE_H
#define LOGQ_RESOLVE_H

#include "logq.h"

#define LOGQ_RESOLVE_PROGRAM "logq_resolve"

/*
 * What libpq gets instead of the options host and port: lists with a member
 * for each address.  hostaddr is NULL when no name has to be looked up; then
 * the other two are as they were.
 */
typedef struct LogqAddresses
{
	char	   *host;
	char	   *hostaddr;
	char	   *port;
} LogqAddresses;

typedef struct LogqResolve LogqResolve;

/*
 * host and port as in a server's options (lists are fine, port may be NULL or
 * shorter).  True: *addresses is filled, palloc'd, from what is known or needs
 * no look-up.  False: look it up.
 */
extern bool logq_resolve_known(const char *host, const char *port,
							   LogqAddresses *addresses);
/* start looking up all names of the list that are not known; may throw */
extern LogqResolve *logq_resolve_start(const char *host);
/* becomes readable when there is something for logq_resolve_poll */
extern pgsocket logq_resolve_socket(const LogqResolve *resolve);
/* true: it is over.  Never waits, never throws. */
extern bool logq_resolve_poll(LogqResolve *resolve);
/*
 * After its end, or to give up at a deadline: *addresses is filled from what
 * was found, or, where that failed, from what was known before however old it
 * is.  Names of a list that have no address are left out, as libpq would go on
 * with the next one.  False: nothing is left; *failure says why, palloc'd.
 */
extern bool logq_resolve_result(LogqResolve *resolve, const char *port,
								LogqAddresses *addresses, char **failure);
/* end it, whatever it is doing, and free it.  Never throws. */
extern void logq_resolve_free(LogqResolve *resolve);

/*
 * Connecting to what was known of the names of a list has failed: they are to
 * be looked up again soon.
 */
extern void logq_resolve_doubt(const char *host);

extern Size logq_resolve_shmem_size(void);
/* called with AddinShmemInitLock held */
extern void logq_resolve_shmem_startup(LWLock *lock);

#endif							/* LOGQ_RESOLVE_H */
