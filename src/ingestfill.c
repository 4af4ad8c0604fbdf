/*-------------------------------------------------------------------------
 *
 * ingestfill.c
 *		Fills a batch: messages become rows, and rows find their sinks.
 *
 * A batch is everything that was read of some kparts up to certain offsets.  A
 * message is in it with all its rows, so an offset alone says what of it has
 * been written.  Rows that a sink has already, from before the run, are
 * skipped.
 *
 * A dead letter goes to a sink that is chosen by its offset, as it may have no
 * service.  What a partition has refused, and what is too old by the clock of
 * now, goes to the dead letters of the partition that would get the row: it may
 * have the row from before, and others may be past this offset already.
 *
 * Memory of batches is reused.  A giant one is given back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingestrun.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* a share's buffer that has become larger is not kept */
#define MAX_KEPT_BUFFER (16 * 1024 * 1024)
/* bytes of copies that the dead letters of one message may take */
#define MAX_DEAD_COPIES ((Size) 64 * 1024 * 1024)

/* partitions that may refuse the same message, and dead letters of it */
#define MAX_POISONS 64

typedef struct Poison
{
	int32		kpart;
	int64		offset;
	int32		partition;		/* number of the one that refuses */
	char		reason[512];
} Poison;

/* messages that partitions refuse; kept over runs, as long as they are next */
static Poison poisons[MAX_POISONS];
static int	npoisons = 0;

/* ---------- what partitions refuse ---------- */

/*
 * Why a partition refuses a message; NULL: it does not, as far as we know.
 */
static const char *
find_poison(int32 kpart, int64 offset, int32 partition)
{
	int			i;

	for (i = 0; i < npoisons; i++)
		if (poisons[i].kpart == kpart && poisons[i].offset == offset &&
			poisons[i].partition == partition)
			return poisons[i].reason;
	return NULL;
}

/*
 * A partition refuses a message.  False: that was known, or there is no room.
 */
bool
logq_poison_add(int32 kpart, int64 offset, int32 partition,
				const char *reason)
{
	Poison	   *p;

	if (npoisons == MAX_POISONS ||
		find_poison(kpart, offset, partition) != NULL)
		return false;
	p = &poisons[npoisons++];
	p->kpart = kpart;
	p->offset = offset;
	p->partition = partition;
	strlcpy(p->reason, reason, sizeof(p->reason));
	p->reason[pg_mbcliplen(p->reason, strlen(p->reason),
						   sizeof(p->reason) - 1)] = '\0';
	return true;
}

/*
 * Forget those of a Kafka partition before an offset; kpart -1: all.
 */
void
logq_poison_forget(int32 kpart, int64 offset)
{
	int			i;

	for (i = npoisons - 1; i >= 0; i--)
		if (kpart < 0 ||
			(poisons[i].kpart == kpart && poisons[i].offset < offset))
			poisons[i] = poisons[--npoisons];
}

/*
 * Is any known?
 */
bool
logq_poison_any(void)
{
	return npoisons > 0;
}

/* ---------- batches ---------- */

/*
 * An empty batch of a run.
 */
LogqBatch *
logq_batch_create(LogqRun *run)
{
	MemoryContext old = MemoryContextSwitchTo(run->cxt);
	LogqBatch  *batch = palloc0(sizeof(LogqBatch));
	int			s;

	batch->shares = palloc0(run->nsinks * sizeof(LogqShare));
	batch->to = palloc((run->nkparts + 1) * sizeof(int64));
	batch->counts = palloc((run->nkparts + 1) * sizeof(LogqKcount));
	for (s = 0; s < run->nsinks; s++)
	{
		LogqShare  *share = &batch->shares[s];

		initStringInfo(&share->rows);
		initStringInfo(&share->dead);
		share->to = palloc((run->nkparts + 1) * sizeof(int64));
	}
	MemoryContextSwitchTo(old);
	logq_batch_reset(run, batch);
	return batch;
}

/*
 * Forget the contents of a buffer.
 */
static void
reset_buffer(MemoryContext cxt, StringInfo buf)
{
	if (buf->maxlen > MAX_KEPT_BUFFER)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		pfree(buf->data);
		initStringInfo(buf);
		MemoryContextSwitchTo(old);
	}
	else
		resetStringInfo(buf);
}

/*
 * Make a batch empty.
 */
void
logq_batch_reset(LogqRun *run, LogqBatch *batch)
{
	int			s;
	int			k;

	for (s = 0; s < run->nsinks; s++)
	{
		LogqShare  *share = &batch->shares[s];

		reset_buffer(run->cxt, &share->rows);
		reset_buffer(run->cxt, &share->dead);
		share->nrows = 0;
		share->ndead = 0;
		share->nmissing = 0;
		for (k = 0; k < run->nkparts; k++)
			share->to[k] = -1;
	}
	for (k = 0; k < run->nkparts; k++)
	{
		batch->to[k] = -1;
		MemSet(&batch->counts[k], 0, sizeof(LogqKcount));
	}
	batch->nmessages = 0;
	batch->nrows = 0;
	batch->bytes = 0;
	batch->first_at = 0;
}

/* ---------- where rows go ---------- */

/*
 * The sink that takes what is not routed by a key.
 */
static int
sink_by_offset(LogqRouting *r, int64 offset)
{
	int			i = (int) (offset % r->n);

	if (r->sinks[i] >= 0)
		return r->sinks[i];
	/* that one is gone */
	return r->left_sinks[offset % r->nleft];
}

/*
 * The sink that takes a row.  Depends on nothing but the row, the offset and
 * the routing.
 */
static int
sink_of_record(LogqRouting *r, const LogqRecord *record, int64 offset)
{
	const LogqText *key;

	if (r->by == LOGQ_ROUTE_ROUND_ROBIN)
		return sink_by_offset(r, offset + record->index);
	key = r->by == LOGQ_ROUTE_SERVICE ? &record->service : &record->trace_id;
	if (key->data == NULL)
	{
		if (r->by == LOGQ_ROUTE_TRACE_ID)
			return sink_by_offset(r, offset + record->index);
		return r->left_sinks[logq_route(&r->router, "", 0)];
	}
	return r->left_sinks[logq_route(&r->router, key->data, key->len)];
}

/*
 * Note that a share needs a segment which is not known.
 */
static void
add_missing(LogqSink *sink, LogqShare *share, TimestampTz ts)
{
	/* neighbours are likely to need the same */
	if (share->nmissing > 0 &&
		share->missing[share->nmissing - 1] / USECS_PER_MINUTE ==
		ts / USECS_PER_MINUTE)
		return;
	if (share->nmissing == share->maxmissing)
	{
		int			max = Max(share->maxmissing * 2, 64);

		share->missing = share->missing == NULL ?
			MemoryContextAlloc(sink->cxt, max * sizeof(TimestampTz)) :
			repalloc(share->missing, max * sizeof(TimestampTz));
		share->maxmissing = max;
	}
	share->missing[share->nmissing++] = ts;
}

/*
 * Is there a segment for a row?  As far as we know; the partition knows better.
 */
static inline void
check_segment(LogqSink *sink, LogqShare *share, TimestampTz ts)
{
	const LogqSegment *seg;

	if (ts >= sink->lower && ts < sink->upper)
		return;
	seg = logq_segment_for(sink->part, ts);
	if (seg == NULL)
		add_missing(sink, share, ts);
	else
	{
		sink->lower = seg->lower;
		sink->upper = seg->upper;
	}
}

/*
 * The partition has found a row without a segment: look at all rows again.
 */
void
logq_share_find_missing(LogqSink *sink, LogqShare *share)
{
	const char *p = share->rows.data;
	const char *end = p + share->rows.len;

	sink->lower = DT_NOEND;
	sink->upper = DT_NOBEGIN;
	share->nmissing = 0;
	while (p < end)
	{
		uint16		n16;
		uint32		n32;
		uint64		n64;
		int			nfields;

		/* what we have written ourselves: ts is the first field */
		memcpy(&n16, p, 2);
		nfields = pg_ntoh16(n16);
		memcpy(&n64, p + 6, 8);
		check_segment(sink, share, (TimestampTz) pg_ntoh64(n64));
		p += 2;
		while (nfields-- > 0)
		{
			memcpy(&n32, p, 4);
			p += 4;
			if ((int32) pg_ntoh32(n32) > 0)
				p += (int32) pg_ntoh32(n32);
		}
	}
}

/* ---------- frames ---------- */

/*
 * Index of a kpart; an error if the reader makes it up.
 */
static int
find_kpart(const LogqRun *run, int32 number)
{
	int			k = logq_run_kpart(run, number);

	if (k < 0)
		elog(ERROR, "the Kafka reader knows a partition %d of its own", number);
	return k;
}

/*
 * A dead letter.  That of a record is a message of its own, as a large message
 * may have thousands of them.
 */
static void
add_dead(LogqRun *run, int s, int k, int64 offset, const LogqRecord *record,
		 const LogqMessage *message, const char *reason, Size *copied)
{
	LogqBatch  *batch = run->filling;
	LogqShare  *share = &batch->shares[s];
	LogqMessage letter = *message;
	int			before = share->dead.len;

	if (offset < run->sinks[s].start[k])
		return;
	letter.value = logq_record_source(run->kparts[k].routing->reading->parser,
									  record);
	/*
	 * What a message has in common is copied for each record, which may be
	 * more than any buffer holds: what is beyond the limit goes without.
	 */
	*copied += letter.key.len + letter.headers.len + letter.value.len;
	if (record->index >= 0 && *copied > MAX_DEAD_COPIES)
	{
		MemSet(&letter, 0, sizeof(letter));
		letter.timestamp = message->timestamp;
	}
	logq_ingest_append_dead(&share->dead, run->cluster, run->topic->name,
							run->kparts[k].number, offset, record->index,
							&letter, reason);
	share->ndead++;
	batch->nrows++;
	batch->counts[k].dead++;
	batch->bytes += share->dead.len - before;
}

/*
 * The reader is this far; nothing but what is no message lies in between.
 */
static void
reach(LogqRun *run, int k, int64 offset)
{
	if (offset <= run->kparts[k].position)
		return;
	run->kparts[k].position = offset;
	run->filling->to[k] = offset;
}

/*
 * Take a message.
 */
void
logq_run_take_message(LogqRun *run, const LogqFrame *frame)
{
	LogqBatch  *batch = run->filling;
	LogqReaderMessage head;
	LogqMessage message;
	LogqRecord *records;
	LogqRouting *routing;
	const char *p;
	int			nrecords;
	Size		copied = 0;
	int			i;
	int			k;

	if (frame->length < sizeof(head))
		elog(ERROR, "the Kafka reader sent an invalid frame");
	memcpy(&head, frame->data, sizeof(head));
	p = frame->data + sizeof(head);
	if (head.keylen < -1 || head.valuelen < -1 || head.headerslen < 0 ||
		(uint64) Max(head.keylen, 0) + Max(head.valuelen, 0) +
		head.headerslen + sizeof(head) != frame->length)
		elog(ERROR, "the Kafka reader sent an invalid frame");
	message.key.data = head.keylen < 0 ? NULL : p;
	message.key.len = Max(head.keylen, 0);
	p += message.key.len;
	message.value.data = head.valuelen < 0 ? NULL : p;
	message.value.len = Max(head.valuelen, 0);
	p += message.value.len;
	message.headers.data = head.headerslen == 0 ? NULL : p;
	message.headers.len = head.headerslen;
	message.timestamp = head.timestamp;

	k = find_kpart(run, head.partition);
	/* librdkafka delivers in order and once; do not depend on it */
	if (head.offset < run->kparts[k].position)
		return;
	if (head.offset >= run->kparts[k].stop)
	{
		reach(run, k, run->kparts[k].stop);
		return;
	}
	run->kparts[k].position = head.offset + 1;
	routing = run->kparts[k].routing;

	nrecords = logq_parse(routing->reading->parser, &message, &records);
	for (i = 0; i < nrecords; i++)
	{
		LogqRecord *record = &records[i];
		LogqShare  *share;
		LogqSink   *sink;
		const char *refusal;
		int			before;
		int			s;

		if (record->error != NULL)
		{
			add_dead(run, sink_by_offset(routing, head.offset), k,
					 head.offset, record, &message, record->error,
					 &copied);
			continue;
		}
		s = sink_of_record(routing, record, head.offset);
		sink = &run->sinks[s];
		if (head.offset < sink->start[k])
			continue;			/* it has this one */
		refusal = npoisons == 0 ? NULL :
			find_poison(head.partition, head.offset, sink->part->number);
		if (refusal != NULL)
		{
			add_dead(run, s, k, head.offset, record, &message, refusal,
					 &copied);
			continue;
		}
		if (record->ts < run->min_ts || record->ts > run->max_ts)
		{
			add_dead(run, s, k, head.offset, record, &message,
					 psprintf("timestamp %s is too far in the %s",
							  timestamptz_to_str(record->ts),
							  record->ts < run->min_ts ? "past" : "future"),
					 &copied);
			continue;
		}
		share = &batch->shares[s];
		before = share->rows.len;
		logq_ingest_append(&share->rows, record);
		share->nrows++;
		batch->counts[k].rows++;
		batch->nrows++;
		batch->bytes += share->rows.len - before;
		check_segment(sink, share, record->ts);
	}

	batch->counts[k].bytes += message.value.len;
	batch->to[k] = head.offset + 1;
	if (batch->nmessages++ == 0)
		batch->first_at = logq_now();
}

/*
 * The reader tells how far it is, and where partitions end.
 */
void
logq_run_take_position(LogqRun *run, const LogqFrame *frame)
{
	uint32		at;

	for (at = 0; at + sizeof(LogqReaderOffset) <= frame->length;
		 at += sizeof(LogqReaderOffset))
	{
		LogqReaderOffset o;
		LogqKpart  *kpart;
		int			k;

		memcpy(&o, frame->data + at, sizeof(o));
		k = find_kpart(run, o.partition);
		kpart = &run->kparts[k];
		reach(run, k, Min(o.next, kpart->stop));
		if (o.high >= 0)
		{
			kpart->high = o.high;
			logq_ingest_set_offsets(kpart->number, -1, o.high);
		}
	}
}
