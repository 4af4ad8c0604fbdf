/*-------------------------------------------------------------------------
 *
 * summary.h
 *		What a segment holds, computed from its rows in one pass.  Plain C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_SUMMARY_H
#define LOGQ_SUMMARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode.h"

/* as many different ones are listed and counted, NULL included */
#define LOGQ_SUMMARY_MAX_LEVELS 64
#define LOGQ_SUMMARY_MAX_SERVICES 1000
/* keys of attrs that can have filters */
#define LOGQ_SUMMARY_MAX_ATTRS 32
/* bounds of trace_id are given up when one is longer */
#define LOGQ_SUMMARY_MAX_KEY 1024

/* Fields of a row; after them the values of the keys of attrs, as text */
typedef enum LogqSummaryColumn
{
	LOGQ_SUMMARY_TS,
	LOGQ_SUMMARY_LEVEL,
	LOGQ_SUMMARY_SERVICE,
	LOGQ_SUMMARY_MESSAGE,
	LOGQ_SUMMARY_TRACE_ID,
	LOGQ_SUMMARY_ID,
	LOGQ_SUMMARY_NCOLUMNS
} LogqSummaryColumn;

/* Values of a column that has few */
typedef struct LogqDict
{
	bool		complete;		/* false: too many, the rest is empty */
	int			n;
	char	  **texts;			/* end in a zero byte; NULL is NULL */
	int		   *lens;
	uint64_t   *rows;			/* of each */
	int		   *order;			/* once finished: by bytes, NULL last */
	/* private */
	int			max;
	size_t		bytes;
	size_t		max_bytes;
	int			null_index;
	int			nslots;
	int16_t    *slots;
} LogqDict;

/* One field's distinct values, and what is kept of them */
typedef struct LogqDistinct
{
	bool		used;			/* false: the field needs no filter */
	bool		counted;		/* has a sketch */
	uint64_t	nvalues;		/* exact, unless there were too many to keep */
	uint8_t    *filter;			/* once finished; NULL: would not pay */
	size_t		filter_size;
	uint8_t    *sketch;
	size_t		sketch_size;
	/* private: open addressing, 0 is a free slot */
	uint64_t   *hashes;
	uint32_t   *counts;
	size_t		nslots;
	uint32_t	zero_count;		/* the value whose hash is 0 */
	bool		has_zero;
	bool		direct;			/* too many: filter and sketch are filled */
} LogqDistinct;

/* Rows of one minute, service and level */
typedef struct LogqRollupEntry
{
	uint64_t	key;			/* 0: a free slot */
	uint64_t	rows;
} LogqRollupEntry;

typedef struct LogqRollup
{
	bool		kept;
	size_t		n;
	LogqRollupEntry *entries;	/* once finished: n, by minute, service, level */
	/* private */
	size_t		nslots;
} LogqRollup;

typedef struct LogqSummary
{
	const char *error;			/* why a call has returned false */
	int64_t		rows;
	/* of no meaning without rows */
	int64_t		min_ts;
	int64_t		max_ts;
	int64_t		min_id;
	int64_t		max_id;
	/* bytewise; NULL: no trace_id is there, or one is too long */
	char	   *min_trace_id;
	char	   *max_trace_id;
	bool		odd_case;
	LogqDict	levels;
	LogqDict	services;
	/* NULL unless both are complete; see logq_summary_cell() */
	uint64_t   *service_level_rows;
	LogqRollup	level_rollup;
	LogqRollup	service_rollup;
	LogqDistinct trace_id;
	LogqDistinct words;
	LogqDistinct service;		/* used when services are not complete */
	LogqDistinct attrs[LOGQ_SUMMARY_MAX_ATTRS];

	/* limits; tests lower them before the first row */
	uint64_t	max_distinct;	/* values of a field that are kept */
	size_t		max_memory;		/* bytes of all those together */
	size_t		max_rollup;		/* entries */

	/* private */
	int			nattrs;
	int64_t		lower;
	int64_t		upper;
	bool		utf8;
	bool		trace_carries_time;
	int			trace_form;		/* length of all of them, 0: none yet */
	bool		trace_too_long;
	int			min_trace_len;
	int			max_trace_len;
	size_t		memory;
} LogqSummary;

/*
 * A summary without rows, or NULL without memory.  lower and upper are the
 * bounds of the segment, times in microseconds since 2000-01-01 UTC.
 */
extern LogqSummary *logq_summary_create(int nattrs, int64_t lower,
										int64_t upper, bool utf8);
/* take a row: LOGQ_SUMMARY_NCOLUMNS + nattrs fields */
extern bool logq_summary_add(LogqSummary *sum, const LogqField *fields);
/* after the last row */
extern bool logq_summary_finish(LogqSummary *sum);
extern void logq_summary_free(LogqSummary *sum);

/* rows of the i-th service and j-th level, both in the order of the lists */
static inline uint64_t
logq_summary_cell(const LogqSummary *sum, int service, int level)
{
	return sum->service_level_rows[service * LOGQ_SUMMARY_MAX_LEVELS + level];
}

/* what an entry of a rollup is about; indexes to texts, not to order */
static inline int64_t
logq_rollup_minute(const LogqRollupEntry *entry)
{
	return ((int64_t) (entry->key >> 16) - (INT64_C(1) << 40)) * 60000000;
}

static inline int
logq_rollup_service(const LogqRollupEntry *entry)
{
	return (int) (entry->key >> 6 & 0x3ff);
}

static inline int
logq_rollup_level(const LogqRollupEntry *entry)
{
	return (int) (entry->key & 0x3f);
}

/* ---------- for the summary: distinct.c ---------- */

/* note why something failed; false */
extern bool logq_summary_fail(LogqSummary *sum, const char *error);
/* take rows of a value */
extern bool logq_distinct_values_add(LogqSummary *sum, LogqDistinct *set,
									 uint64_t hash, uint64_t count);
/* make the filter, if it is wanted and pays, and the sketch */
extern bool logq_distinct_values_finish(LogqSummary *sum, LogqDistinct *set,
										bool wanted);
extern void logq_distinct_values_free(LogqSummary *sum, LogqDistinct *set);

#endif							/* LOGQ_SUMMARY_H */
