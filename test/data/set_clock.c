/*
 * set_clock.c
 *		A clock that a test sets: to be preloaded.
 *
 * What the file $LOGQ_TEST_CLOCK holds, a long int, is by how many seconds the
 * clock on the wall is ahead.  A test may change it at any time, for all
 * processes that have it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

/* What PostgreSQL asks for the time */
int
gettimeofday(struct timeval *tv, void *tz)
{
	struct timespec ts;
	const char *file = getenv("LOGQ_TEST_CLOCK");

	(void) tz;
	if (ahead == NULL && file != NULL)
	{
		int			fd = open(file, O_RDONLY | O_CLOEXEC);
		void	   *page = MAP_FAILED;

		if (fd >= 0)
			page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
		if (page == MAP_FAILED)
			abort();
		close(fd);
		ahead = page;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec + (ahead != NULL ? *ahead : 0);
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}
