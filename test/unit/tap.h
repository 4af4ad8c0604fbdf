/*-------------------------------------------------------------------------
 *
 * tap.h
 *		What the plain C tests share: TAP output and repeatable randomness.
 *
 * A test program calls tap_seed() once, ok() for each result and ends with
 * "return tap_done();".  The seed is printed; LOGQ_SEED=n repeats a run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_TEST_TAP_H
#define LOGQ_TEST_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int	tap_count = 0;
static int	tap_failed = 0;
static uint64_t tap_random_state = 0;

/*
 * Print one result.  Returns it, so that a caller may add a diagnosis.
 */
static inline bool __attribute__((format(printf, 2, 3)))
ok(bool passed, const char *format,...)
{
	va_list		args;

	tap_count++;
	if (!passed)
		tap_failed++;
	printf("%s %d - ", passed ? "ok" : "not ok", tap_count);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	/* a crash must not swallow what came before it */
	fflush(stdout);
	return passed;
}

/*
 * Print the plan.  Returns the program's exit status.
 */
static inline int
tap_done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed == 0 ? 0 : 1;
}

/*
 * Start the random numbers, with another seed each run unless LOGQ_SEED says
 * which.
 */
static inline void
tap_seed(void)
{
	const char *given = getenv("LOGQ_SEED");

	if (given != NULL && *given != '\0')
		tap_random_state = strtoull(given, NULL, 10);
	else
	{
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		tap_random_state = (uint64_t) now.tv_sec * 1000003 +
			(uint64_t) now.tv_nsec;
	}
	printf("# LOGQ_SEED=%llu repeats this run\n",
		   (unsigned long long) tap_random_state);
	fflush(stdout);
}

/*
 * The next 64 random bits (splitmix64).
 */
static inline uint64_t
tap_random(void)
{
	uint64_t	z = (tap_random_state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/*
 * A random number from low to high, both included.
 */
static inline int
tap_random_int(int low, int high)
{
	return low + (int) (tap_random() % (uint64_t) (high - low + 1));
}

/*
 * malloc() that does not return without memory.
 */
static inline void *
tap_alloc(size_t size)
{
	/* malloc(0) may return NULL, and that would look like a failure */
	void	   *memory = malloc(size > 0 ? size : 1);

	if (memory == NULL)
	{
		printf("Bail out! out of memory\n");
		exit(1);
	}
	return memory;
}

/*
 * realloc() that does not return without memory.
 */
static inline void *
tap_realloc(void *memory, size_t size)
{
	memory = realloc(memory, size > 0 ? size : 1);
	if (memory == NULL)
	{
		printf("Bail out! out of memory\n");
		exit(1);
	}
	return memory;
}

#endif							/* LOGQ_TEST_TAP_H */
