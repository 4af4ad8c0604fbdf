/*-------------------------------------------------------------------------
 *
 * protocol.h
 *		Bounds of what the program logq_resolve says; see there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_RESOLVE_PROTOCOL_H
#define LOGQ_RESOLVE_PROTOCOL_H

/* addresses of one name; those beyond are left out */
#define LOGQ_RESOLVE_ADDRESSES 16
/* of an address as text, with the scope of IPv6 and the final zero */
#define LOGQ_RESOLVE_ADDRESS 64
/* of a line with its end */
#define LOGQ_RESOLVE_LINE 160

#endif							/* LOGQ_RESOLVE_PROTOCOL_H */
