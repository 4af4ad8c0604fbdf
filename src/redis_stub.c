#include "cache.h"
int logq_cache_ttl = 3600; int logq_cache_timeout = 20; char *logq_cache_server;
bool logq_redis_usable(void) { return false; }
LogqRedisLookup *logq_redis_lookup(const LogqCacheKey *keys, int nkeys, LogqRedisTake take, void *arg) { return NULL; }
bool logq_redis_poll(LogqRedisLookup *lookup) { return true; }
TimestampTz logq_redis_deadline(const LogqRedisLookup *lookup) { return 0; }
void logq_redis_forget(LogqRedisLookup *lookup) {}
pgsocket logq_redis_socket(uint32 *events, unsigned *generation) { return PGINVALID_SOCKET; }
void logq_redis_store(const LogqCacheKey *key, const char *packed, Size len) {}
void logq_redis_flush(void) {}
