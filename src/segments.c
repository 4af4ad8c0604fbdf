/*-------------------------------------------------------------------------
 *
 * segments.c
 *		Which segments of a partition can hold an answer.
 *
 * A partition's segments are chosen in these steps: those within the bounds of
 * ts by binary search, of them those whose exact bounds fit, and of these what
 * each node leaves, cheap nodes first, so that only few filters are looked
 * into, and those of a field all at once.
 *
 * What a segment holds is known of sealed ones only; all others are chosen by
 * their bounds.  No connection is needed, and what comes out is as good as our
 * copy of the partition's catalog: whoever asks the partition checks that, and
 * has the segments chosen again when it was outdated.
 *
 * Invariant: a segment is left out only if no row of it can match.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "prunenode.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "probe.h"
#include "words.h"

/* segments that a partition's share of a LIMIT is estimated by */
#define WEIGHED_SEGMENTS 32
/* how far back to look for a segment whose rows are known */
#define MAX_LOOK_BACK 8
/* so many services are looked up one by one in a segment's list */
#define FEW_SERVICES 4

/* One choice */
typedef struct Choice
{
	LogqScanState *state;
	LogqPartition *part;
	int		   *removed;		/* by reason; NULL within an OR */
	/* what the nodes at the top say of these, for estimates */
	bool		levels_known;
	uint64		levels;
	bool	   *services;		/* by the dictionary, NULL: not asked for */
} Choice;

static int	filter_node(Choice *choice, const LogqPruneNode *node,
						int *segments, int n);

/* ---------- single conditions ---------- */

/*
 * What the segment holds, NULL when it is not known or not to be used.
 */
static const LogqContent *
content_of(const LogqSegment *seg)
{
	return logq_enable_content_pruning ? seg->content : NULL;
}

/*
 * Flags for n segments, all set.
 */
static bool *
all_flags(int n)
{
	bool	   *flags = palloc((n + 1) * sizeof(bool));

	for (int i = 0; i < n; i++)
		flags[i] = true;
	return flags;
}

/*
 * Keep the segments whose flag is set; how many.
 */
static int
keep_flagged(int *segments, int n, const bool *keep)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (keep[i])
			segments[kept++] = segments[i];
	return kept;
}

/*
 * Those whose ts or id can be in the range.
 */
static int
filter_range(Choice *choice, const LogqPruneNode *node, int *segments, int n)
{
	int64		first = (int64) choice->part->number <<
		LOGQ_ID_PARTITION_SHIFT;
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		const LogqSegment *seg = &choice->part->segments[segments[i]];
		const LogqContent *content = content_of(seg);
		int64		low;
		int64		high;
		bool		keep;

		if (node->column == LOGQ_COL_TS)
		{
			low = content ? content->min_ts : seg->lower;
			high = content ? content->max_ts : seg->upper - 1;
		}
		else
		{
			low = content ? content->min_id : first;
			high = content ? content->max_id :
				first + ((INT64CONST(1) << LOGQ_ID_PARTITION_SHIFT) - 1);
		}
		keep = node->low <= high && node->high >= low;
		if (keep && node->nvalues > 0)
		{
			/* the smallest of the list that is not below the segment */
			int			from = 0;
			int			to = node->nvalues;

			while (from < to)
			{
				int			mid = (from + to) / 2;

				if (node->numbers[mid] < low)
					from = mid + 1;
				else
					to = mid;
			}
			keep = from < node->nvalues && node->numbers[from] <= high;
		}
		if (keep)
			segments[kept++] = segments[i];
	}
	return kept;
}

/*
 * Does the condition hold for a member of a dictionary (NULL: it is NULL)?
 */
static bool
entry_matches(Choice *choice, const LogqPruneNode *node, const char *entry)
{
	LogqPruneText	key;

	if (node->kind == LOGQ_NODE_SET)
		return logq_scan_value_passes(choice->state, node->qual,
									  node->column, entry);
	if (entry == NULL)
		return false;
	key.data = entry;
	key.len = strlen(entry);
	return bsearch(&key, node->texts, node->nvalues, sizeof(LogqPruneText),
				   logq_prune_compare_texts) != NULL;
}

/*
 * Those that have a level for which the condition holds.
 */
static int
filter_levels(Choice *choice, const LogqPruneNode *node, int *segments, int n)
{
	const LogqPartition *part = choice->part;
	uint64		levels = 0;
	int			kept = 0;
	int			i;

	for (i = 0; i < part->nlevels; i++)
		if (entry_matches(choice, node, part->levels[i]))
			levels |= UINT64CONST(1) << i;
	if (choice->removed != NULL)
	{
		choice->levels = choice->levels_known ? choice->levels & levels :
			levels;
		choice->levels_known = true;
	}

	for (i = 0; i < n; i++)
	{
		const LogqContent *content =
			content_of(&part->segments[segments[i]]);

		if (content == NULL || !content->has_levels ||
			(content->levels & levels) != 0)
			segments[kept++] = segments[i];
	}
	return kept;
}

/*
 * Is one of these services, or one with a flag, in the segment's list?
 */
static bool
has_service(const LogqContent *content, const bool *matches,
			const uint32 *few, int nfew)
{
	int			i;

	if (nfew > FEW_SERVICES)
	{
		for (i = 0; i < content->nservices; i++)
			if (matches[content->services[i]])
				return true;
		return false;
	}
	for (i = 0; i < nfew; i++)
	{
		int			from = 0;
		int			to = content->nservices;

		while (from < to)
		{
			int			mid = (from + to) / 2;

			if (content->services[mid] < few[i])
				from = mid + 1;
			else
				to = mid;
		}
		if (from < content->nservices && content->services[from] == few[i])
			return true;
	}
	return false;
}

/*
 * Look into the filters of the segments that still have a flag in "ask", and
 * take the flag from those that cannot have the hashes.
 */
static void
probe(Choice *choice, const char *field, const uint64 *hashes, int nhashes,
	  bool require_all, const int *segments, int n, bool *ask)
{
	int			index = logq_catalog_field(choice->part, field);
	int		   *asked;
	int		   *place;
	bool	   *maybe;
	int			nasked = 0;
	int			i;

	if (index < 0 || (nhashes > LOGQ_MAX_HASHES && !require_all))
		return;
	asked = palloc((n + 1) * sizeof(int));
	place = palloc((n + 1) * sizeof(int));
	for (i = 0; i < n; i++)
	{
		if (!ask[i] ||
			content_of(&choice->part->segments[segments[i]]) == NULL)
			continue;
		asked[nasked] = segments[i];
		place[nasked++] = i;
	}
	if (nasked > 0)
	{
		maybe = palloc(nasked * sizeof(bool));
		logq_probe_filters(choice->part, index, hashes, nhashes, require_all,
						   asked, nasked, maybe);
		for (i = 0; i < nasked; i++)
			ask[place[i]] = maybe[i];
		pfree(maybe);
	}
	pfree(asked);
	pfree(place);
}

/*
 * Those that have a service for which the condition holds.  Where there are
 * too many to be listed, a filter may know.
 */
static int
filter_services(Choice *choice, const LogqPruneNode *node, int *segments,
				int n)
{
	const LogqPartition *part = choice->part;
	bool	   *matches = palloc((part->nservices + 1) * sizeof(bool));
	uint32		few[FEW_SERVICES];
	int			nmatches = 0;
	bool	   *keep = palloc((n + 1) * sizeof(bool));
	bool	   *ask = palloc((n + 1) * sizeof(bool));
	bool		any_asked = false;
	int			i;

	for (i = 0; i < part->nservices; i++)
	{
		matches[i] = entry_matches(choice, node, part->services[i]);
		if (!matches[i])
			continue;
		if (nmatches < FEW_SERVICES)
			few[nmatches] = i;
		nmatches++;
	}
	if (choice->removed != NULL && choice->services == NULL)
		choice->services = matches;

	for (i = 0; i < n; i++)
	{
		const LogqContent *content =
			content_of(&part->segments[segments[i]]);

		ask[i] = content != NULL && !content->has_services &&
			node->kind == LOGQ_NODE_EQUAL;
		any_asked |= ask[i];
		keep[i] = content == NULL || !content->has_services ||
			has_service(content, matches, few, nmatches);
	}
	if (any_asked)
	{
		bool	   *maybe = palloc(n * sizeof(bool));

		memcpy(maybe, ask, n * sizeof(bool));
		probe(choice, node->field, node->hashes, node->nvalues, false,
			  segments, n, maybe);
		for (i = 0; i < n; i++)
			if (ask[i])
				keep[i] = maybe[i];
	}
	return keep_flagged(segments, n, keep);
}

/*
 * Can a trace_id of the segment be one of the node's values?  Of long bounds
 * only the beginning is known.
 */
static bool
trace_id_within(const LogqPruneNode *node, const LogqContent *content)
{
	LogqPruneText	low = {content->min_trace_id, content->min_trace_len};
	int			maxlen = content->max_trace_len;
	int			from = 0;
	int			to = node->nvalues;
	LogqPruneText	found;

	/* the first value that is not below the lower bound */
	while (from < to)
	{
		int			mid = (from + to) / 2;

		if (logq_prune_compare_texts(&node->texts[mid], &low) < 0)
			from = mid + 1;
		else
			to = mid;
	}
	if (from == node->nvalues)
		return false;
	found = node->texts[from];
	if (maxlen >= LOGQ_KEY_PREFIX)
		return memcmp(found.data, content->max_trace_id,
					  Min(found.len, maxlen)) <= 0;
	else
	{
		LogqPruneText	high = {content->max_trace_id, maxlen};

		return logq_prune_compare_texts(&found, &high) <= 0;
	}
}

/*
 * Those that can have one of the values of trace_id or of a member of attrs.
 */
static int
filter_values(Choice *choice, const LogqPruneNode *node, int *segments, int n)
{
	bool	   *keep = all_flags(n);

	if (node->column == LOGQ_COL_TRACE_ID)
	{
		for (int i = 0; i < n; i++)
		{
			const LogqContent *content =
				content_of(&choice->part->segments[segments[i]]);

			keep[i] = content == NULL || !content->has_trace_id ||
				trace_id_within(node, content);
		}
		n = keep_flagged(segments, n, keep);
		pfree(keep);
		keep = all_flags(n);
	}
	probe(choice, node->field, node->hashes, node->nvalues, false, segments,
		  n, keep);
	n = keep_flagged(segments, n, keep);
	pfree(keep);
	return n;
}

/*
 * Those that can have all keys with their values.
 */
static int
filter_contains(Choice *choice, const LogqPruneNode *node, int *segments,
				int n)
{
	bool	   *keep = all_flags(n);

	for (int i = 0; i < node->nterms; i++)
		probe(choice, node->terms[i].field, node->terms[i].hashes,
			  node->terms[i].nhashes, true, segments, n, keep);
	n = keep_flagged(segments, n, keep);
	pfree(keep);
	return n;
}

/*
 * Those that can have all words of one of the patterns.
 */
static int
filter_words(Choice *choice, const LogqPruneNode *node, int *segments, int n)
{
	bool		folds = node->op == LOGQ_PATTERN_ILIKE ||
		node->op == LOGQ_PATTERN_IREGEX;
	bool	   *keep = palloc((n + 1) * sizeof(bool));
	bool	   *ask = palloc((n + 1) * sizeof(bool));
	int			i;

	if (node->nterms > LOGQ_MAX_HASHES)
		return n;
	for (i = 0; i < n; i++)
	{
		const LogqContent *content =
			content_of(&choice->part->segments[segments[i]]);

		keep[i] = content == NULL || (folds && content->odd_case);
	}
	for (int t = 0; t < node->nterms; t++)
	{
		for (i = 0; i < n; i++)
			ask[i] = !keep[i];
		probe(choice, node->terms[t].field, node->terms[t].hashes,
			  node->terms[t].nhashes, true, segments, n, ask);
		for (i = 0; i < n; i++)
			keep[i] |= ask[i];
	}
	n = keep_flagged(segments, n, keep);
	pfree(keep);
	pfree(ask);
	return n;
}

/* ---------- the tree ---------- */

/*
 * Those that one member of an OR leaves.
 */
static int
filter_or(Choice *choice, const LogqPruneNode *node, int *segments, int n)
{
	int		   *undecided = palloc((n + 1) * sizeof(int));
	int		   *left = palloc((n + 1) * sizeof(int));
	bool	   *keep = palloc0((n + 1) * sizeof(bool));
	int		   *removed = choice->removed;
	int			i;

	choice->removed = NULL;
	for (int c = 0; c < node->nchildren; c++)
	{
		int			nundecided = 0;
		int			nleft;
		int			at = 0;

		for (i = 0; i < n; i++)
			if (!keep[i])
				undecided[nundecided++] = i;
		if (nundecided == 0)
			break;
		for (i = 0; i < nundecided; i++)
			left[i] = segments[undecided[i]];
		nleft = filter_node(choice, node->children[c], left, nundecided);
		for (i = 0; i < nundecided && at < nleft; i++)
			if (segments[undecided[i]] == left[at])
			{
				keep[undecided[i]] = true;
				at++;
			}
	}
	choice->removed = removed;
	n = keep_flagged(segments, n, keep);
	pfree(undecided);
	pfree(left);
	pfree(keep);
	return n;
}

/*
 * Keep those of the segments (ascending) that the node leaves; how many.
 */
static int
filter_node(Choice *choice, const LogqPruneNode *node, int *segments, int n)
{
	int			before = n;

	if (n == 0 || node->verdict == LOGQ_VERDICT_ALL)
		return n;
	if (node->verdict == LOGQ_VERDICT_NONE)
		n = 0;
	else
	{
		switch (node->kind)
		{
			case LOGQ_NODE_AND:
				/* each member counts what it removes */
				for (int i = 0; i < node->nchildren; i++)
					n = filter_node(choice, node->children[i], segments, n);
				return n;
			case LOGQ_NODE_OR:
				n = filter_or(choice, node, segments, n);
				break;
			case LOGQ_NODE_CONST:
				break;
			case LOGQ_NODE_RANGE:
				n = filter_range(choice, node, segments, n);
				break;
			case LOGQ_NODE_SET:
			case LOGQ_NODE_EQUAL:
				if (node->column == LOGQ_COL_LEVEL)
					n = filter_levels(choice, node, segments, n);
				else if (node->column == LOGQ_COL_SERVICE)
					n = filter_services(choice, node, segments, n);
				else if (node->column != LOGQ_COL_PARTITION)
					n = filter_values(choice, node, segments, n);
				else if (logq_enable_partition_pruning &&
						 !entry_matches(choice, node, choice->part->name))
					n = 0;
				break;
			case LOGQ_NODE_CONTAINS:
				n = filter_contains(choice, node, segments, n);
				break;
			case LOGQ_NODE_WORDS:
				n = filter_words(choice, node, segments, n);
				break;
		}
	}
	if (choice->removed != NULL)
		choice->removed[node->reason < 0 ? LOGQ_REASON_SEVERAL :
						node->reason] += before - n;
	return n;
}

/*
 * Those whose exact bounds fit the bounds of ts and id.
 */
static int
filter_bounds(Choice *choice, int *segments, int n)
{
	const LogqBounds *bounds = &choice->state->bounds;
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		const LogqContent *content =
			content_of(&choice->part->segments[segments[i]]);

		/* an empty segment's bounds are the wrong way round */
		if (content != NULL &&
			(content->min_ts > bounds->ts_high ||
			 content->max_ts < bounds->ts_low ||
			 content->min_ts > content->max_ts))
			choice->removed[LOGQ_REASON_TIME]++;
		else if (content != NULL &&
				 (content->min_id > bounds->id_high ||
				  content->max_id < bounds->id_low))
			choice->removed[LOGQ_REASON_ID]++;
		else
			segments[kept++] = segments[i];
	}
	return kept;
}

/* ---------- estimates ---------- */

/*
 * Rows of a sealed segment that the conditions on level and service leave, as
 * if these had nothing to do with each other.
 */
static double
matching_rows(Choice *choice, const LogqSegment *seg)
{
	const LogqContent *content = seg->content;
	double		levels = 1;
	double		services = 1;

	if (seg->rows <= 0)
		return 0;
	if (choice->levels_known && content->has_levels &&
		content->level_rows != NULL)
	{
		double		rows = 0;
		int			at = 0;

		for (int i = 0; i < LOGQ_MAX_LEVELS; i++)
		{
			uint64		bit = UINT64CONST(1) << i;

			if ((content->levels & bit) == 0)
				continue;
			if ((choice->levels & bit) != 0)
				rows += content->level_rows[at];
			at++;
		}
		levels = rows / seg->rows;
	}
	if (choice->services != NULL && content->has_services &&
		content->service_rows != NULL)
	{
		double		rows = 0;

		for (int i = 0; i < content->nservices; i++)
			if (choice->services[content->services[i]])
				rows += content->service_rows[i];
		services = rows / seg->rows;
	}
	return seg->rows * Min(levels, 1) * Min(services, 1);
}

/*
 * Which part of the rows of all sealed segments the conditions on level and
 * service leave; 1 when it is not known.
 */
static double
matching_share(Choice *choice)
{
	const LogqPartition *part = choice->part;
	double		total = 0;
	double		matching = 0;

	if (part->service_level_rows == NULL ||
		(!choice->levels_known && choice->services == NULL))
		return 1;
	for (int s = 0; s < part->nservices; s++)
	{
		const double *rows = &part->service_level_rows[s * part->nlevels];
		bool		passes = choice->services == NULL || choice->services[s];

		for (int l = 0; l < part->nlevels; l++)
		{
			total += rows[l];
			if (passes && (!choice->levels_known ||
						   (choice->levels & (UINT64CONST(1) << l)) != 0))
				matching += rows[l];
		}
	}
	return total > 0 ? matching / total : 1;
}

/*
 * Rows of a segment that nobody has counted: none yet when its time is to
 * come, else as many as the last one that is known has had by this time.  -1:
 * none is known.
 */
static double
likely_rows(const LogqPartition *part, const LogqSegment *seg)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();
	int			at = seg - part->segments;

	if (seg->rows >= 0)
		return seg->rows;
	if (seg->lower > now)
		return 0;
	for (int i = at - 1; i >= 0 && i >= at - MAX_LOOK_BACK; i--)
	{
		const LogqSegment *before = &part->segments[i];
		double		width = (double) before->upper - (double) before->lower;

		if (before->rows >= 0)
			return before->rows *
				((double) Min(now, seg->upper) - (double) seg->lower) / width;
	}
	return -1;
}

/*
 * Rows to be expected of each of the segments that the scan comes to first,
 * and of all of them.
 */
static void
expect_rows(Choice *choice, LogqPruned *pruned)
{
	double		elsewhere = matching_share(choice);
	int			n = Min(pruned->nleft, WEIGHED_SEGMENTS);

	pruned->nexpected = n;
	pruned->expected = palloc((n + 1) * sizeof(double));
	pruned->weight = 0;
	for (int i = 0; i < n; i++)
	{
		int			index = pruned->left[choice->state->order > 0 ? i :
										 pruned->nleft - 1 - i];
		const LogqSegment *seg = &choice->part->segments[index];
		double		rows = likely_rows(choice->part, seg);

		if (seg->content != NULL)
			rows = matching_rows(choice, seg);
		else if (rows > 0)
			rows *= elsewhere;
		pruned->expected[i] = rows;
		if (rows < 0 || pruned->weight < 0)
			pruned->weight = -1;
		else
			pruned->weight += rows;
	}
}

/* ---------- a partition ---------- */

/*
 * Choose the segments of a partition that are to be asked, unless they were
 * in this run, from the same catalog.
 */
void
logq_prune_segments(LogqScanState *state, int index)
{
	LogqPartition *part = state->streams[index].part;
	LogqPruned *pruned = &state->pruned[index];
	Choice		choice = {state, part, pruned->removed};
	MemoryContext scratch;
	MemoryContext old;
	int			first = 0;
	int			last = part->nsegments;
	int			n;

	if (!part->loaded)
	{
		pruned->valid = false;
		pruned->sources_valid = false;
		pruned->known = -1;
		pruned->nleft = 0;
		pruned->nexpected = 0;
		pruned->weight = -1;
		memset(pruned->removed, 0, sizeof(pruned->removed));
		return;
	}
	if (pruned->valid && pruned->version == part->version &&
		pruned->changed == part->changed && pruned->puts == part->puts &&
		pruned->known == part->nsegments)
		return;

	memset(pruned->removed, 0, sizeof(pruned->removed));
	if (logq_enable_segment_pruning)
		logq_bounds_segments(&state->bounds, part, &first, &last);
	pruned->removed[LOGQ_REASON_TIME] = part->nsegments - (last - first);
	n = last - first;
	old = MemoryContextSwitchTo(state->run_cxt);
	pruned->left = palloc_extended((n + 1) * sizeof(int), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
		pruned->left[i] = first + i;

	scratch = AllocSetContextCreate(state->run_cxt, "logq segments",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(scratch);
	if (logq_enable_segment_pruning)
	{
		n = filter_bounds(&choice, pruned->left, n);
		if (state->prune_root != NULL)
			n = filter_node(&choice, state->prune_root, pruned->left, n);
	}
	pruned->valid = true;
	pruned->sources_valid = false;
	pruned->version = part->version;
	pruned->changed = part->changed;
	pruned->puts = part->puts;
	pruned->known = part->nsegments;
	pruned->nleft = n;
	MemoryContextSwitchTo(old);
	pruned->nexpected = 0;
	pruned->weight = -1;
	if (state->order != 0 && state->request.bound >= 0)
	{
		old = MemoryContextSwitchTo(state->run_cxt);
		expect_rows(&choice, pruned);
		MemoryContextSwitchTo(old);
	}
	MemoryContextDelete(scratch);
}
