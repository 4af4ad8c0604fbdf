/*
 * hot_stub.c
 *		Stands in for what other parts of the cache bring.  To be deleted.
 */
#include "postgres.h"

#include "cache.h"

int			logq_cache_max_value = 1024;

int64
logq_hot_clear(void)
{
	return 0;
}

void
logq_cache_count(LogqCacheLevel level, LogqCacheCounter counter, int64 n)
{
}
