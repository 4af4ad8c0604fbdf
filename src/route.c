/*-------------------------------------------------------------------------
 *
 * route.c
 *		Which partition takes a row.
 *
 * The hash differs between byte orders.  Only the balance of the partitions
 * depends on it; no query relies on where a key lies.  What is taken from
 * Kafka relies on getting the same answer again after a restart, from the
 * same machine and the same partitions (ingest.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "logq.h"

#include "common/hashfn.h"

/*
 * Get ready to route among some partitions.
 */
void
logq_router_init(LogqRouter *router, int32 *numbers, int n)
{
	int			i;

	router->n = n;
	router->numbers = numbers;
	for (i = 0; i < LOGQ_ROUTE_CACHE_SIZE; i++)
		router->cache[i].target = -1;
}

/*
 * Highest random weight: each partition draws a number for the key and the
 * highest wins, so a new partition takes its share of the keys from all others
 * and moves no other key.  The lower number wins a tie.
 */
static int
draw(const LogqRouter *router, const char *key, int keylen)
{
	const int32 *numbers = router->numbers;
	int			best = 0;
	uint64		best_weight = 0;
	int			i;

	for (i = 0; i < router->n; i++)
	{
		uint64		weight = hash_bytes_extended((const unsigned char *) key,
												 keylen, (uint64) numbers[i]);

		if (i == 0 || weight > best_weight ||
			(weight == best_weight && numbers[i] < numbers[best]))
		{
			best = i;
			best_weight = weight;
		}
	}
	return best;
}

/*
 * The partition that takes a key.  Services are few, so that remembering their
 * routes saves a hash per row and partition.
 */
int
logq_route(LogqRouter *router, const char *key, int keylen)
{
	LogqRouteEntry *entry = NULL;
	int			best;

	if (keylen <= LOGQ_ROUTE_CACHE_KEYLEN)
	{
		uint32		hash = hash_bytes((const unsigned char *) key, keylen);

		entry = &router->cache[hash % LOGQ_ROUTE_CACHE_SIZE];
		if (entry->target >= 0 && entry->keylen == keylen &&
			memcmp(entry->key, key, keylen) == 0)
			return entry->target;
	}
	best = draw(router, key, keylen);
	if (entry != NULL && best <= PG_INT16_MAX)
	{
		entry->target = best;
		entry->keylen = keylen;
		memcpy(entry->key, key, keylen);
	}
	return best;
}
