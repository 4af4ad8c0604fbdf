/*-------------------------------------------------------------------------
 *
 * prunenode.h
 *		Nodes that choose segments, with the values of a run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_PRUNENODE_H
#define LOGQ_PRUNENODE_H

#include "scan.h"

/* filters asked for more hashes than this would hardly ever say no */
#define LOGQ_MAX_HASHES 128

/* What the values alone tell of a node */
typedef enum LogqPruneVerdict
{
	LOGQ_VERDICT_TEST,				/* depends on the segment */
	LOGQ_VERDICT_ALL,				/* every row may match */
	LOGQ_VERDICT_NONE				/* no row matches */
} LogqPruneVerdict;

/* Order in which the members of an AND are looked at */
typedef enum LogqPruneCost
{
	LOGQ_COST_RANGE,
	LOGQ_COST_SET,
	LOGQ_COST_FILTER,
	LOGQ_COST_WORDS
} LogqPruneCost;

typedef struct LogqPruneText
{
	const char *data;
	int			len;
} LogqPruneText;

/* Hashes that the filter of one field must have */
typedef struct LogqPruneTerm
{
	const char *field;
	int			nhashes;
	uint64	   *hashes;
} LogqPruneTerm;

struct LogqPruneNode
{
	LogqPruneKind kind;
	int			reason;			/* LogqPruneReason, -1: not about segments */
	LogqPruneCost	cost;
	LogqColumn	column;
	int			op;				/* LogqPruneOp or LogqPatternKind */
	bool		any;			/* the parameter is an array */
	int			param;
	const char *field;
	ExprState  *qual;
	List	   *likes;
	int			nchildren;
	LogqPruneNode **children;

	/* values of this run */
	LogqPruneVerdict verdict;
	int64		low;			/* of a range, included */
	int64		high;
	int			nvalues;
	int64	   *numbers;		/* of a range by list, ascending */
	LogqPruneText  *texts;			/* ascending by their bytes */
	uint64	   *hashes;			/* of each text */
	int			nterms;
	LogqPruneTerm  *terms;			/* attrs: all of them; words: any of them */
};

/* order by bytes, which is that of collation "C" */
extern int	logq_prune_compare_texts(const void *a, const void *b);

#endif							/* LOGQ_PRUNENODE_H */
