/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Everything that differs between PostgreSQL 15 and 18, and between
 *		the versions of libpq and hiredis, in one place.
 *
 * No other file of logq tests PG_VERSION_NUM, a LIBPQ_HAS_ symbol, or what
 * hiredis has.
 *
 * The parser of messages is also compiled as frontend code, for tests: for it,
 * there is nothing here but the JSON lexer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_COMPAT_H
#define LOGQ_COMPAT_H

#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "logq supports PostgreSQL 15 to 18"
#endif

/* ---------- the JSON lexer ---------- */

/*
 * Set up a lexer over UTF-8 text, without allocating anything, and without
 * unescaping: so lexing can only return codes, in all versions.  In 15 with
 * unescaping it could also throw, in a database that is not UTF-8.
 */
static inline void
logq_json_lexer_init(JsonLexContext *lex, const char *text, int len)
{
#if PG_VERSION_NUM >= 170000
	makeJsonLexContextCstringLen(lex, text, len, PG_UTF8, false);
#else
	memset(lex, 0, sizeof(*lex));
	lex->input = (char *) text;
	lex->input_length = len;
	lex->input_encoding = PG_UTF8;
	lex->token_terminator = lex->input;
	lex->line_start = lex->input;
	lex->line_number = 1;
#endif
}

#ifdef FRONTEND
/*
 * For tests: does PostgreSQL's own parser take this text, with all escapes?
 */
static inline bool
logq_json_accepts(const char *text, int len)
{
	JsonLexContext *lex;
	bool		accepts;

#if PG_VERSION_NUM >= 170000
	lex = makeJsonLexContextCstringLen(NULL, text, len, PG_UTF8, true);
	accepts = pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
	freeJsonLexContext(lex);
#else
	lex = makeJsonLexContextCstringLen((char *) text, len, PG_UTF8, true);
	accepts = pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
	pfree(lex->strval->data);
	pfree(lex->strval);
	pfree(lex);
#endif
	return accepts;
}
#endif

#ifndef FRONTEND

#include "catalog/pg_class.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "parser/parsetree.h"
#include "postmaster/bgworker.h"
#include "utils/pg_locale.h"
#include "utils/rel.h"
#include "utils/tuplesort.h"

#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#include "varatt.h"
#endif

#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#include "storage/waiteventset.h"
#endif
#include "storage/latch.h"

/*
 * For a background worker's connection as a role: it may be one that cannot
 * log in, from 17 on.  Before, that is an error.
 */
#ifdef BGWORKER_BYPASS_ROLELOGINCHECK
#define LOGQ_WORKER_CONNECT_FLAGS BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define LOGQ_WORKER_CONNECT_FLAGS 0
#endif

/* the user as whom a relation of the query is read, InvalidOid: the caller */
static inline Oid
logq_rel_check_as_user(PlannerInfo *root, RelOptInfo *rel)
{
#if PG_VERSION_NUM >= 160000
	return rel->userid;
#else
	return planner_rt_fetch(rel->relid, root)->checkAsUser;
#endif
}

/* the user as whom a result relation is written */
static inline Oid
logq_result_rel_user(ResultRelInfo *rri, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecGetResultRelCheckAsUser(rri, estate);
#else
	Index		rti = rri->ri_RangeTableIndex;

	if (rti == 0 && rri->ri_RootResultRelInfo != NULL)
		rti = rri->ri_RootResultRelInfo->ri_RangeTableIndex;
	if (rti == 0)
		return GetUserId();		/* COPY FROM */
	else
	{
		RangeTblEntry *rte = exec_rt_fetch(rti, estate);

		return OidIsValid(rte->checkAsUser) ? rte->checkAsUser : GetUserId();
	}
#endif
}

/* is this pathkey descending? */
static inline bool
logq_pathkey_is_desc(PathKey *pk)
{
#if PG_VERSION_NUM >= 180000
	return pk->pk_cmptype == COMPARE_GT;
#else
	return pk->pk_strategy == BTGreaterStrategyNumber;
#endif
}

/*
 * A wait set that lives as long as its owner says.  From 17 on the first
 * argument is a resource owner; we pass none and free the set in a memory
 * context callback in all versions, which also covers errors.
 */
static inline WaitEventSet *
logq_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* version of the server that this was built for */
static inline int
logq_server_version(void)
{
	return PG_VERSION_NUM;
}

/* is the order of a collation that of strcmp()? */
static inline bool
logq_collate_is_c(Oid collation)
{
#if PG_VERSION_NUM >= 180000
	return pg_newlocale_from_collation(collation)->collate_is_c;
#else
	return lc_collate_is_c(collation);
#endif
}

/* does a collation know no letters but those of ASCII? */
static inline bool
logq_ctype_is_c(Oid collation)
{
#if PG_VERSION_NUM >= 180000
	return pg_newlocale_from_collation(collation)->ctype_is_c;
#else
	return lc_ctype_is_c(collation);
#endif
}

/* the next value of a sort of values that are passed by value */
static inline bool
logq_tuplesort_getdatum(Tuplesortstate *sort, Datum *value, bool *isnull)
{
#if PG_VERSION_NUM >= 160000
	return tuplesort_getdatum(sort, true, false, value, isnull, NULL);
#else
	return tuplesort_getdatum(sort, true, value, isnull, NULL);
#endif
}

/*
 * From 16 on the planner may have sorted the input of an aggregate with
 * DISTINCT or ORDER BY.  Let it sort for itself.
 */
static inline void
logq_set_unsorted(Aggref *agg)
{
#if PG_VERSION_NUM >= 160000
	agg->aggpresorted = false;
#endif
}

/* reverse(text) was the only one of its name before 18 */
#if PG_VERSION_NUM >= 180000
#define LOGQ_F_REVERSE_TEXT F_REVERSE_TEXT
#else
#define LOGQ_F_REVERSE_TEXT F_REVERSE
#endif

/* 18 names its module */
#if PG_VERSION_NUM >= 180000
#define LOGQ_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "logq", .version = "0.1.0")
#else
#define LOGQ_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* a timeout of 17 that ends the process */
#if PG_VERSION_NUM >= 170000
#define LOGQ_WORKER_TIMEOUTS {"transaction_timeout", "0"},
#else
#define LOGQ_WORKER_TIMEOUTS
#endif

/* a clock that goes on while the machine sleeps, where there is one */
#include <time.h>
#ifdef CLOCK_BOOTTIME
#define LOGQ_STEADY_CLOCK CLOCK_BOOTTIME
#else
#define LOGQ_STEADY_CLOCK CLOCK_MONOTONIC
#endif

/* ---------- hiredis, for those who ask for it ---------- */

#ifdef LOGQ_COMPAT_HIREDIS

#include <hiredis/hiredis.h>

/* how many elements an array has, in a reader's functions */
#if HIREDIS_MAJOR >= 1
typedef size_t LogqRedisCount;
#else
typedef int LogqRedisCount;
#endif

/*
 * LOGQ_HIREDIS_SSL: the Makefile has found hiredis' TLS, which is from 1.0 on
 * in a library of its own, and builds redistls.c.
 */
struct LogqRedisConn;
#ifdef LOGQ_HIREDIS_SSL
#define LOGQ_REDIS_HAS_TLS true
/* what takes its time; then begin on the socket.  Failures: conn->failed. */
extern void logq_redis_tls_prepare(struct LogqRedisConn *conn);
extern void logq_redis_tls_start(struct LogqRedisConn *conn);
extern void logq_redis_tls_end(struct LogqRedisConn *conn);
/* around each use of the socket: OpenSSL's errors are a matter of the process */
extern void logq_redis_tls_clear_errors(void);
/* why that has failed, or NULL */
extern const char *logq_redis_tls_error(const struct LogqRedisConn *conn);
#else
/* whoever wants TLS has been refused before */
#define LOGQ_REDIS_HAS_TLS false
#define logq_redis_tls_prepare(conn) ((void) 0)
#define logq_redis_tls_start(conn) ((void) 0)
#define logq_redis_tls_end(conn) ((void) 0)
#define logq_redis_tls_clear_errors() ((void) 0)
#define logq_redis_tls_error(conn) ((const char *) NULL)
#endif

#endif							/* LOGQ_COMPAT_HIREDIS */

#endif							/* FRONTEND */

#endif							/* LOGQ_COMPAT_H */
