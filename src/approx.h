/*-------------------------------------------------------------------------
 *
 * approx.h
 *		What approximate aggregates leave to the partitions, as SQL.
 *
 * These compute just what functions of the extension do (the names are in the
 * comments), on any server from PostgreSQL 13 on that has not got it, given
 * that search_path is pg_catalog.  Put the SQL of the argument in place of
 * each %s: it is there only once, since it may be costly (attrs ->> 'key').
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_APPROX_H
#define LOGQ_APPROX_H

/* ---------- logq.approx_count_distinct() ---------- */

#define LOGQ_DISTINCT_BUCKET_BITS 12
#define LOGQ_DISTINCT_BUCKETS (1 << LOGQ_DISTINCT_BUCKET_BITS)

/*
 * The hash of a text: the function by which PostgreSQL finds the partition of
 * a row in a hash-partitioned table, so it has to stay as it is.  But it
 * depends on the byte order of the machine.  If a server should ever come to
 * another result than ours, its rows must not get mixed up with others: it
 * raises an error, whose text is in the cast.  That costs nothing, since the
 * condition is decided when the query is planned.
 *
 * (The first bits of md5() would be the same everywhere, but take about five
 * times as long, longer than grouping by the values themselves.)
 */
#ifdef WORDS_BIGENDIAN
#define LOGQ_DISTINCT_HASH_CHECK "-1504916667656980959"
#else
#define LOGQ_DISTINCT_HASH_CHECK "-5571340122151905754"
#endif

#define LOGQ_DISTINCT_HASH_SQL \
	"CASE WHEN hashtextextended('logq'::text COLLATE \"C\", 0) = " \
	LOGQ_DISTINCT_HASH_CHECK " THEN " \
	"hashtextextended((%s) COLLATE \"C\", 0) ELSE " \
	"('this server hashes text in another way than the coordinator'::text)" \
	"::bigint END"

/* logq.distinct_bucket(text): integer */
#define LOGQ_DISTINCT_BUCKET_SQL \
	"((" LOGQ_DISTINCT_HASH_SQL ") & 4095)::integer"
/* logq.distinct_rest(text): bigint */
#define LOGQ_DISTINCT_REST_SQL \
	"((" LOGQ_DISTINCT_HASH_SQL ") >> 12)"

/* ---------- logq.approx_percentile() ---------- */

/*
 * Buckets are of equal width in asinh(value * SCALE), which is linear around
 * zero and logarithmic beyond, for negative values as well.  All values of a
 * bucket are within 1/(2 * DENSITY) of its middle, which is 0.99 % of the
 * value if that is at least 10 / SCALE.  What lies beyond MAX counts as
 * infinite, and so does NaN.
 */
#define LOGQ_PERCENTILE_SCALE 1e10
#define LOGQ_PERCENTILE_DENSITY 51
#define LOGQ_PERCENTILE_MAX 1e290
/* the bucket of that, and the last one on either side */
#define LOGQ_PERCENTILE_LAST 35265

/* logq.percentile_bucket(float8): integer.  LEAST would take NULL for 1e290. */
#define LOGQ_PERCENTILE_BUCKET_SQL \
	"(asinh(float8smaller(float8larger((%s), '-1e290'), '1e290')" \
	" * '1e10'::float8) * '51'::float8)::integer"

#endif							/* LOGQ_APPROX_H */
