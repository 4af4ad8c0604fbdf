/*-------------------------------------------------------------------------
 *
 * replay.c
 *		Fragments that are handed out only when they have come as a whole.
 *
 * Groups of a segment cannot be told from those that another server would
 * give, so there is no going on elsewhere in the middle of them.  They are few,
 * usually: what a fragment sends is kept, in memory and then in a file, and its
 * rows are handed out once its end has come.  If that does not come, nothing
 * was handed out, and the fragment is asked again as a whole.
 *
 * Failure cases: the file is closed by the stream, or on abort by its resource
 * owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

/* bytes that are kept in memory, and read from a file at a time */
#define MAX_BYTES_IN_MEMORY (256 * 1024)

/*
 * Keep bytes of the fragment at hand.
 */
void
logq_replay_add(LogqStream *stream, const char *data, int len)
{
	LogqReplay *replay = &stream->replay;

	if (replay->data.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(stream->cxt);

		initStringInfo(&replay->data);
		MemoryContextSwitchTo(old);
	}
	if (replay->data.len > 0 && len > MAX_BYTES_IN_MEMORY - replay->data.len)
	{
		if (replay->file == NULL)
			replay->file = BufFileCreateTemp(false);
		BufFileWrite(replay->file, replay->data.data, replay->data.len);
		resetStringInfo(&replay->data);
	}
	appendBinaryStringInfo(&replay->data, data, len);
}

/*
 * Forget all bytes.  The memory stays for the next fragment.
 */
void
logq_replay_reset(LogqStream *stream)
{
	LogqReplay *replay = &stream->replay;

	if (replay->file != NULL)
		BufFileClose(replay->file);
	replay->file = NULL;
	replay->reading = replay->at_data = false;
	if (replay->data.data != NULL)
		resetStringInfo(&replay->data);
}

/*
 * Hand the next bytes to the decoder; false when there are none.
 */
static bool
feed(LogqStream *stream)
{
	LogqReplay *replay = &stream->replay;
	size_t		len;

	if (!replay->reading)
	{
		replay->reading = true;
		if (replay->file != NULL)
		{
			/* all of it in the file: memory is needed to read it */
			BufFileWrite(replay->file, replay->data.data, replay->data.len);
			if (BufFileSeek(replay->file, 0, 0, SEEK_SET) != 0)
				ereport(ERROR,
						(errcode_for_file_access(),
						 errmsg("could not rewind temporary file for partition \"%s\"",
								stream->part->name)));
			resetStringInfo(&replay->data);
			enlargeStringInfo(&replay->data, MAX_BYTES_IN_MEMORY);
		}
	}
	if (replay->file != NULL)
	{
		len = BufFileRead(replay->file, replay->data.data,
						  MAX_BYTES_IN_MEMORY);
		if (len == 0)
			return false;
	}
	else
	{
		if (replay->at_data || replay->data.data == NULL)
			return false;
		replay->at_data = true;
		len = replay->data.len;
	}
	if (!logq_decode_feed(&stream->decoder, replay->data.data, len))
		logq_stream_decode_failed(stream);
	return true;
}

/*
 * Decode the next row of the fragment.  False: that was all of it.
 */
bool
logq_replay_row(LogqStream *stream)
{
	for (;;)
	{
		if (logq_stream_decode_row(stream))
			return true;
		logq_stream_keep_cut_row(&stream->decoder);
		if (!feed(stream))
			break;
	}
	if (!stream->decoder.ended)
		logq_stream_decode_failed(stream);
	logq_replay_reset(stream);
	return false;
}
