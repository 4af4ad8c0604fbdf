/*-------------------------------------------------------------------------
 *
 * cachekey.c
 *		What a fragment is called in the cache.
 *
 * The key is a hash of all that decides about the rows of a fragment:
 *
 * - the user it is read as, by the name that the partition knows;
 * - the segment and its version, which is the time in microseconds at which its
 *	 entry in the catalog changed last.  Its bounds and contents go in as well,
 *	 so that stores which have nothing to do with each other, but share a Redis,
 *	 would have to agree in all of it;
 * - the conditions in a form that equal ones share (canon.c); of the bounds of
 *	 ts and id, what they cut off of what the segment has, so a segment that lies
 *	 within the range has the same key whatever the range is;
 * - what is selected, how it is grouped, the bins of ts, the order;
 * - the format of values, and the encoding of texts in them.
 *
 * A LIMIT is not part of it: a value says whether it is whole.
 *
 * Invariant: whatever is added to requests and can change what comes back must
 * be added here, or LOGQ_CACHE_FORMAT must be raised.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cacherun.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "mb/pg_wchar.h"

#include "catalog.h"
#include "identity.h"

static void
hash_failed(pg_cryptohash_ctx *hash)
{
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not compute the key of a cached fragment: %s",
					pg_cryptohash_error(hash))));
}

static void
begin_hash(pg_cryptohash_ctx *hash)
{
	if (pg_cryptohash_init(hash) < 0)
		hash_failed(hash);
}

static void
end_hash(pg_cryptohash_ctx *hash, uint8 *digest)
{
	if (pg_cryptohash_final(hash, digest, PG_SHA256_DIGEST_LENGTH) < 0)
		hash_failed(hash);
}

static void
add_bytes(pg_cryptohash_ctx *hash, const void *data, size_t len)
{
	if (pg_cryptohash_update(hash, data, len) < 0)
		hash_failed(hash);
}

static void
add_number(pg_cryptohash_ctx *hash, int64 number)
{
	add_bytes(hash, &number, sizeof(number));
}

/*
 * With its length, so that no text can go over into the next one.
 */
static void
add_text(pg_cryptohash_ctx *hash, const char *text)
{
	add_number(hash, strlen(text));
	add_bytes(hash, text, strlen(text));
}

/*
 * What all fragments of a stream have in common.
 */
static void
hash_stream(pg_cryptohash_ctx *hash, LogqStream *stream, const char *user,
			uint8 *digest)
{
	const LogqRequest *request = stream->request;
	LogqCanon  *canon = &stream->cache->canon;

	if (canon->text == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(stream->cache->cxt);

		logq_canon_begin(stream->cache->state, canon);
		MemoryContextSwitchTo(old);
	}
	begin_hash(hash);
	add_number(hash, LOGQ_CACHE_FORMAT);
	add_text(hash, GetDatabaseEncodingName());
	add_text(hash, user);
	add_text(hash, canon->text);
	add_text(hash, canon->names_partition ? stream->part->name : "");
	add_text(hash, stream->select);
	add_text(hash, request->tail);
	add_number(hash, request->nfields);
	add_number(hash, request->binned);
	add_number(hash, !request->ordered ? 0 : request->descending ? -1 : 1);
	end_hash(hash, digest);
}

/*
 * A range that is asked for, cut to what there is: if that is all of it, the
 * key says just so.  False: it is not.
 */
static bool
add_range(pg_cryptohash_ctx *hash, int64 low, int64 high, int64 first,
		  int64 last)
{
	bool		all = low <= first && high >= last;

	add_number(hash, all);
	add_number(hash, all ? 0 : Max(low, first));
	add_number(hash, all ? 0 : Min(high, last));
	return all;
}

/*
 * The key of a fragment of this segment.
 */
static void
hash_fragment(pg_cryptohash_ctx *hash, LogqStream *stream,
			  const uint8 *stream_digest, const LogqFragment *fragment,
			  const LogqSegment *seg, LogqCached *cached)
{
	const LogqCanon *canon = &stream->cache->canon;
	const LogqContent *content = seg->content;
	int64		first = content != NULL ? content->min_ts : seg->lower;
	int64		last = content != NULL ? content->max_ts : seg->upper - 1;
	int64		first_id = content != NULL ? content->min_id : PG_INT64_MIN;
	int64		last_id = content != NULL ? content->max_id : PG_INT64_MAX;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];

	begin_hash(hash);
	add_bytes(hash, stream_digest, PG_SHA256_DIGEST_LENGTH);
	add_text(hash, seg->name);
	add_number(hash, seg->version);
	add_number(hash, seg->lower);
	add_number(hash, seg->upper);
	add_number(hash, (int64) seg->rows);
	add_number(hash, first);
	add_number(hash, last);
	add_number(hash, first_id);
	add_number(hash, last_id);

	/* the slices of a large segment are the same in every query */
	add_number(hash, fragment->sliced);
	if (fragment->sliced)
	{
		first = Max(first, fragment->from);
		last = Min(last, fragment->to - 1);
		add_number(hash, first);
		add_number(hash, last);
	}
	cached->ragged = !add_range(hash, canon->ts_low, canon->ts_high, first,
								last);
	if (!add_range(hash, canon->id_low, canon->id_high, first_id, last_id))
		cached->ragged = true;

	if (stream->request->binned)
	{
		const LogqBins *bins = &fragment->bins;
		int64		origin = bins->origin % bins->width;

		add_number(hash, bins->width);
		add_number(hash, origin < 0 ? origin + bins->width : origin);
	}
	end_hash(hash, digest);
	memcpy(cached->key.bytes, digest, LOGQ_CACHE_KEY_LEN);
}

/*
 * See cacherun.h.
 *
 * The list of segments must be that by which the fragments were chosen: another
 * scan of the session may know a later one by now, and a replica that is good
 * enough for us may lack what makes its versions.
 */
void
logq_cache_keys(LogqStream *stream, int from, int to)
{
	const char *user = logq_identity(stream->part->serverid, stream->userid);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *hash = NULL;
	LogqCached *cached = NULL;
	int			left = 0;

	if (user == NULL || stream->plan_version != stream->part->version)
		return;
	if (stream->cache_user == NULL)
		stream->cache_user = MemoryContextStrdup(stream->cxt, user);
	else if (strcmp(stream->cache_user, user) != 0)
		return;
	for (int i = from; i < to; i++)
	{
		LogqFragment *fragment = &stream->fragments[i];
		const LogqSegment *seg;

		if (fragment->source != LOGQ_SOURCE_ROWS)
			continue;
		seg = logq_segment_for(stream->part, fragment->lower);
		if (seg == NULL || !seg->sealed ||
			strcmp(seg->name, fragment->name) != 0)
			continue;
		if (hash == NULL)
		{
			hash = pg_cryptohash_create(PG_SHA256);
			if (hash == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_OUT_OF_MEMORY),
						 errmsg("out of memory")));
			hash_stream(hash, stream, user, digest);
		}
		if (left == 0)
		{
			left = Min(to - i, 128);
			cached = MemoryContextAllocZero(stream->cxt,
											left * sizeof(LogqCached));
		}
		fragment->cached = cached++;
		left--;
		hash_fragment(hash, stream, digest, fragment, seg, fragment->cached);
	}
	if (hash != NULL)
		pg_cryptohash_free(hash);
}
