/*-------------------------------------------------------------------------
 *
 * program.c
 *		Programs of ours that a server process runs as children.
 *
 * What must not be in a server process, because it has threads or blocks, is
 * in programs beside our library: logq_kafka and logq_resolve.  They share
 * nothing with the server but a pipe or a socket.
 *
 * Invariants: the child runs no code of PostgreSQL, which would think that it
 * is still the parent, and has none of its file descriptors and signal
 * handlers.  Who starts one waits for it, and kills it before it exits itself.
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"

/*
 * Where a program lies.
 */
bool
logq_program_path(const char *name, char *path)
{
	snprintf(path, MAXPGPATH, "%s/%s", pkglib_path, name);
	return access(path, X_OK) == 0;
}

/*
 * Close all file descriptors from 3 on, most of which are not marked to be
 * closed on exec.  In the child: async-signal-safe.
 */
static void
close_others(int max_fd)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, 3U, ~0U, 0) == 0)
		return;
#endif
	for (int fd = 3; fd < max_fd; fd++)
		close(fd);
}

/*
 * Become the program.  In the child of a fork: only what is async-signal-safe.
 */
static void
run_program(const char *path, char **argv, int in, int out, int max_fd)
{
	struct sigaction action;
	sigset_t	none;

	memset(&action, 0, sizeof(action));
	action.sa_handler = SIG_DFL;
	sigemptyset(&action.sa_mask);
	for (int sig = 1; sig < NSIG; sig++)
		(void) sigaction(sig, &action, NULL);
	sigemptyset(&none);
	(void) sigprocmask(SIG_SETMASK, &none, NULL);

	/*
	 * Signals for the parent are sent to its process group, too: a cancel
	 * must not end the program.
	 */
	(void) setsid();
	if (in < 0)
		in = open("/dev/null", O_RDONLY);
	if (dup2(in, STDIN_FILENO) < 0 ||
		dup2(out < 0 ? STDERR_FILENO : out, STDOUT_FILENO) < 0)
		_exit(127);
	close_others(max_fd);
	execv(path, argv);
	_exit(127);
}

/*
 * Run it as a child.
 */
pid_t
logq_program_start(const char *path, char **argv, int in, int out)
{
	int			max_fd = (int) sysconf(_SC_OPEN_MAX);
	sigset_t	all;
	sigset_t	before;
	pid_t		pid;
	int			saved_errno;

	/* no handler of ours may run in the child */
	fflush(NULL);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		run_program(path, argv, in, out, max_fd > 0 ? max_fd : 1024);
	saved_errno = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = saved_errno;
	return pid;
}

/*
 * Wait for one that is ending.
 */
void
logq_program_wait(pid_t pid, int *status)
{
	*status = 0;
	while (waitpid(pid, status, 0) < 0)
	{
		if (errno != EINTR)
			break;				/* somebody else has waited for it */
	}
}
