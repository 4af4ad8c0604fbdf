/*-------------------------------------------------------------------------
 *
 * connect.h
 *		How a connection begins: between conn.c and connect.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_CONNECT_H
#define LOGQ_CONNECT_H

#include "logq.h"

/*
 * Begin to connect with libpq's parameters: conn->pg is there, or names are
 * being looked up (conn->start).  May throw; logq_conn_close clears away.
 */
extern void logq_connect_begin(LogqConn *conn, const char **keywords,
							   const char **values);
/*
 * Go on with a look-up.  True: it is over and conn->pg is there.  False: wait
 * for *events, or, when *why is not NULL, it has failed.
 */
extern bool logq_connect_look_up(LogqConn *conn, uint32 *events, char **why);
/* look up nothing more; never throws */
extern void logq_connect_end_look_up(LogqConn *conn);
/* connecting has failed: have the names looked up again */
extern void logq_connect_doubt(LogqConn *conn);
/* why it has failed, palloc'd, for anybody to read, and what to do about it */
extern char *logq_connect_reason(LogqConn *conn, const char *why);
extern const char *logq_connect_hint(const char *reason);

#endif							/* LOGQ_CONNECT_H */
