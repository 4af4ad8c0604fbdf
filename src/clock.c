/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The time that deadlines, ages and pauses are measured with.
 *
 * The clock on the wall may be set, back above all: when a machine comes up
 * with a wrong one, and NTP steps it.  A deadline that was made before would
 * then not come for as long as that step, an age would be negative, and what
 * is kept with the later of two times would be kept.  So all times that are
 * compared with each other, in this process or by others in shared memory, are
 * of logq_now(), which only ever goes on, at the same rate: the clock on the
 * wall as it was when the server started, and the time since then.
 *
 * The clock on the wall, GetCurrentTimestamp(), is for what is compared with
 * the times of log rows or segments, with another server's clock, or with what
 * outlives the server: a table, a file, Redis.  What people see goes through
 * logq_wall_time().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "logq.h"

#include <time.h>

/* how late a wait ends when others had to run first, us */
#define STANDSTILL_US 100000
/* no clock was set: it takes time to read two of them, us */
#define SAME_CLOCK_US 100000

/* the postmaster's, where it loads the library: so the same in all processes */
static TimestampTz boot_time = 0;
static TimestampTz loaded_at = 0;

/*
 * Time since the machine was started, that of sleeping included.
 */
static TimestampTz
since_boot(void)
{
	struct timespec ts;

	clock_gettime(LOGQ_STEADY_CLOCK, &ts);
	return ts.tv_sec * USECS_PER_SEC + ts.tv_nsec / 1000;
}

/*
 * When the library is loaded.  A machine without a clock may take the time for
 * 1970 at first; times before 2000 are negative, and 0 is "never".
 */
void
logq_clock_init(void)
{
	boot_time = Max(GetCurrentTimestamp(), USECS_PER_DAY) - since_boot();
	loaded_at = logq_now();
}

TimestampTz
logq_loaded_at(void)
{
	return loaded_at;
}

TimestampTz
logq_now(void)
{
	return boot_time + since_boot();
}

/*
 * What the clock on the wall shows, or would have shown had it been set before,
 * at a time of logq_now(); 0 is 0.
 */
TimestampTz
logq_wall_time(TimestampTz time)
{
	TimestampTz ahead = GetCurrentTimestamp() - logq_now();

	if (time == 0 || (ahead < SAME_CLOCK_US && ahead > -SAME_CLOCK_US))
		return time;
	return time + ahead;
}

/*
 * How much longer than it was to has a wait taken?  See logq.h.
 */
TimestampTz
logq_time_stopped(TimestampTz before, long asked)
{
	TimestampTz late;

	if (asked < 0)
		return 0;
	late = logq_now() - before - asked * 1000;
	return late > STANDSTILL_US ? late : 0;
}
