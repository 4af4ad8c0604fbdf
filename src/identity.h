/*-------------------------------------------------------------------------
 *
 * identity.h
 *		Who a session is to its partitions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_IDENTITY_H
#define LOGQ_IDENTITY_H

#include "logq.h"

/*
 * The name that a local user has at a partition, or will have once connected;
 * NULL: that will be known then.  Fails when there is no user mapping.
 */
extern const char *logq_identity(Oid serverid, Oid userid);
/* has this session been let in by that name, with the mapping as it is? */
extern bool logq_identity_proven(Oid serverid, Oid userid);
/* this connection, which is idle, has been let in; never throws */
extern void logq_prove_identity(const LogqConn *conn);
/*
 * Is a user the same one at the partition as this connection is?  Connects, and
 * waits for that, if the session has not been let in as the user before.
 */
extern bool logq_same_identity(const LogqConn *conn, Oid userid);

#endif							/* LOGQ_IDENTITY_H */
