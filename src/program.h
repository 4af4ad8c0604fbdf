/*-------------------------------------------------------------------------
 *
 * program.h
 *		Programs of ours that a server process runs as children.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_PROGRAM_H
#define LOGQ_PROGRAM_H

#include "logq.h"

/* where a program lies; MAXPGPATH bytes.  False, with errno: it does not. */
extern bool logq_program_path(const char *name, char *path);
/*
 * Run it, with one of our file descriptors as its standard input or output: -1
 * is /dev/null for the input, and standard error for the output.  Its process
 * id is also that of a process group of its own.  -1, with errno: it cannot be
 * run.  Never throws.
 */
extern pid_t logq_program_start(const char *path, char **argv, int in, int out);
/*
 * Wait for it, when it is ending or has been killed; *status is 0 when somebody
 * else has done so.  Never throws.
 */
extern void logq_program_wait(pid_t pid, int *status);

#endif							/* LOGQ_PROGRAM_H */
