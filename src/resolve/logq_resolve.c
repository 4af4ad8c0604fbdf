/*-------------------------------------------------------------------------
 *
 * logq_resolve.c
 *		Looks up names of hosts, with the system's own resolver, for a server
 *		process that must not wait for that.
 *
 *		logq_resolve LIMIT_MS NAME...
 *
 * For the N-th name, counted from 0, it writes to its standard output
 *
 *		A N address		for each address, in the resolver's order, at most
 *						LOGQ_RESOLVE_ADDRESSES; or
 *		F N reason		and then
 *		E N
 *
 * Names are looked up at the same time, each by a process of its own, and what
 * is said of one is written at once, so the lines of two are not mixed up.
 *
 * Failure cases: a resolver that hangs.  After LIMIT_MS the process is ended
 * by a signal, also when nobody is left who would kill it.  The reader is gone:
 * the next write ends it.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "resolve/protocol.h"

/*
 * What is said of one name; less than a pipe takes at once (PIPE_BUF), so that
 * it is not cut.
 */
typedef struct Answer
{
	char		text[3072];
	int			len;
} Answer;

static void
add_line(Answer *answer, char kind, int index, const char *text)
{
	char		line[LOGQ_RESOLVE_LINE];
	int			n;

	n = snprintf(line, sizeof(line), "%c %d %s", kind, index, text);
	if (n >= (int) sizeof(line))
		n = sizeof(line) - 1;
	for (int i = 0; i < n; i++)
		if (line[i] == '\n')
			line[i] = ' ';
	if (answer->len + n + 1 > (int) sizeof(answer->text))
		return;
	memcpy(answer->text + answer->len, line, n);
	answer->len += n;
	answer->text[answer->len++] = '\n';
}

static bool
is_new(char (*addresses)[LOGQ_RESOLVE_ADDRESS], int n, const char *address)
{
	for (int i = 0; i < n; i++)
		if (strcmp(addresses[i], address) == 0)
			return false;
	return true;
}

static void
add_addresses(Answer *answer, int index, const struct addrinfo *list)
{
	char		addresses[LOGQ_RESOLVE_ADDRESSES][LOGQ_RESOLVE_ADDRESS];
	int			n = 0;

	for (const struct addrinfo *ai = list;
		 ai != NULL && n < LOGQ_RESOLVE_ADDRESSES; ai = ai->ai_next)
	{
		if (getnameinfo(ai->ai_addr, ai->ai_addrlen,
						addresses[n], sizeof(addresses[n]), NULL, 0,
						NI_NUMERICHOST) != 0 ||
			!is_new(addresses, n, addresses[n]))
			continue;
		add_line(answer, 'A', index, addresses[n]);
		n++;
	}
	if (n == 0)
		add_line(answer, 'F', index, "it has no address");
}

static int
look_up(int index, const char *name, int limit_ms)
{
	struct itimerval limit;
	struct addrinfo hints;
	struct addrinfo *list = NULL;
	Answer		answer;
	int			rc;

	memset(&limit, 0, sizeof(limit));
	limit.it_value.tv_sec = limit_ms / 1000;
	limit.it_value.tv_usec = limit_ms % 1000 * 1000;
	setitimer(ITIMER_REAL, &limit, NULL);

	memset(&hints, 0, sizeof(hints));
	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	rc = getaddrinfo(name, NULL, &hints, &list);

	answer.len = 0;
	if (rc == 0)
		add_addresses(&answer, index, list);
	else
		add_line(&answer, 'F', index,
				 rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
	add_line(&answer, 'E', index, "");
	if (list != NULL)
		freeaddrinfo(list);
	return write(STDOUT_FILENO, answer.text, answer.len) == answer.len ? 0 : 1;
}

int
main(int argc, char **argv)
{
	int			limit_ms = argc > 2 ? atoi(argv[1]) : 0;
	int			rc = 0;

	if (limit_ms <= 0)
	{
		fprintf(stderr, "usage: logq_resolve LIMIT_MS NAME...\n");
		return 2;
	}
	/* the last one, mostly the only one, is for this process */
	for (int i = 2; i < argc - 1; i++)
	{
		pid_t		pid = fork();

		if (pid == 0)
			_exit(look_up(i - 2, argv[i], limit_ms));
		if (pid < 0)
			rc = 1;
	}
	rc |= look_up(argc - 3, argv[argc - 1], limit_ms);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	return rc;
}
