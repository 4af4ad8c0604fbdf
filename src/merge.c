/*-------------------------------------------------------------------------
 *
 * merge.c
 *		The k-way merge of ordered streams, in plain C.
 *
 * A binary heap with one entry a stream, keyed on (ts, id).  The server's
 * own binaryheap compares through a function pointer on Datums and cannot be
 * linked into a test program; the merge is the inner loop of every ordered
 * search, so its keys lie in the entries and the comparison is inlined.
 *
 * Invariant: no entry comes before its parent.  Two streams never carry the
 * same (ts, id), ids being unique over all partitions; should it happen all
 * the same, the stream with the lower number comes first, so that an answer
 * never depends on the order of arrival.
 *
 * Memory is the caller's and nothing here can fail.
 *
 *-------------------------------------------------------------------------
 */
#include "merge.h"

/*
 * Must entry a stand above entry b?
 */
static inline bool
entry_before(const LogqMerge *merge, const LogqMergeEntry *a,
			 const LogqMergeEntry *b)
{
	if (a->ts == b->ts && a->id == b->id)
		return a->stream < b->stream;
	return logq_merge_before(merge, a->ts, a->id, b->ts, b->id);
}

/*
 * Move the entry at the root down to where it belongs.
 */
static void
sift_down(LogqMerge *merge)
{
	LogqMergeEntry *heap = merge->entries;
	LogqMergeEntry moved = heap[0];
	int			at = 0;

	for (;;)
	{
		int			child = 2 * at + 1;

		if (child >= merge->nentries)
			break;
		if (child + 1 < merge->nentries &&
			entry_before(merge, &heap[child + 1], &heap[child]))
			child++;
		if (!entry_before(merge, &heap[child], &moved))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moved;
}

/*
 * Start an empty merge over the caller's array.
 */
void
logq_merge_init(LogqMerge *merge, LogqMergeEntry *entries, int capacity,
				bool descending)
{
	merge->descending = descending;
	merge->nentries = 0;
	merge->capacity = capacity;
	merge->entries = entries;
}

/*
 * Add a stream that stands at the given key.  The caller keeps within the
 * capacity: there is one entry a stream.
 */
void
logq_merge_push(LogqMerge *merge, int64_t ts, int64_t id, int stream)
{
	LogqMergeEntry *heap = merge->entries;
	LogqMergeEntry added;
	int			at = merge->nentries++;

	added.ts = ts;
	added.id = id;
	added.stream = stream;

	while (at > 0)
	{
		int			parent = (at - 1) / 2;

		if (!entry_before(merge, &added, &heap[parent]))
			break;
		heap[at] = heap[parent];
		at = parent;
	}
	heap[at] = added;
}

/*
 * The top's stream has moved on to another key.  One pass down the heap,
 * where a pop and a push would take two.
 */
void
logq_merge_replace_top(LogqMerge *merge, int64_t ts, int64_t id)
{
	merge->entries[0].ts = ts;
	merge->entries[0].id = id;
	sift_down(merge);
}

/*
 * The top's stream has ended.
 */
void
logq_merge_pop(LogqMerge *merge)
{
	merge->nentries--;
	if (merge->nentries > 0)
	{
		merge->entries[0] = merge->entries[merge->nentries];
		sift_down(merge);
	}
}

/*
 * Bring a stream's entry forward, if this key comes before the one it has.
 */
void
logq_merge_raise(LogqMerge *merge, int64_t ts, int64_t id, int stream)
{
	LogqMergeEntry *heap = merge->entries;
	LogqMergeEntry moved;
	int			at = 0;

	while (at < merge->nentries && heap[at].stream != stream)
		at++;
	if (at == merge->nentries ||
		!logq_merge_before(merge, ts, id, heap[at].ts, heap[at].id))
		return;
	moved.ts = ts;
	moved.id = id;
	moved.stream = stream;
	while (at > 0)
	{
		int			parent = (at - 1) / 2;

		if (!entry_before(merge, &moved, &heap[parent]))
			break;
		heap[at] = heap[parent];
		at = parent;
	}
	heap[at] = moved;
}
