/*
 * test/cppcheck.h
 *		The macros of PostgreSQL that cppcheck would stumble over.
 *
 * Read by test/cppcheck ahead of each file; no compiler ever sees it.
 */
#define PG_VERSION_NUM 150000
#define INT64CONST(x) (x##L)
#define UINT64CONST(x) (x##UL)
#define PGDLLEXPORT
#define PGDLLIMPORT
#define FLEXIBLE_ARRAY_MEMBER
#define PG_MODULE_MAGIC
#define PG_FUNCTION_INFO_V1(f)
#define PG_FUNCTION_ARGS FunctionCallInfo fcinfo
#define pg_noreturn
#define pg_attribute_noreturn()
#define pg_attribute_printf(a, b)
#define PG_TRY() if (1)
#define PG_CATCH() else
#define PG_FINALLY()
#define PG_END_TRY() (void) 0
#define foreach(c, l) for (ListCell *c = list_head(l); c; c = lnext(l, c))
#define forboth(c, l, d, m) \
	for (ListCell *c = list_head(l), *d = list_head(m); c && d; \
		 c = lnext(l, c), d = lnext(m, d))
#define dlist_foreach(i, h) \
	for (i.cur = (h)->head.next; i.cur != &(h)->head; i.cur = i.cur->next)
#define dlist_foreach_modify(i, h) dlist_foreach(i, h)
/* ereport(ERROR, ...) does not come back */
#define ERROR 21
#define FATAL 22
#define PANIC 23
#define ereport(level, ...) \
	do { (void) (__VA_ARGS__); if ((level) >= ERROR) abort(); } while (0)
#define elog(level, ...) \
	do { errmsg(__VA_ARGS__); if ((level) >= ERROR) abort(); } while (0)
