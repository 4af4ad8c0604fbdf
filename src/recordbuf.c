/*-------------------------------------------------------------------------
 *
 * recordbuf.c
 *		Text that the parser of messages makes, valid until the next message.
 *
 * Blocks never move, so that slices into them stay good while more is made.
 * What one message makes is limited: a few bytes of OTLP can stand for
 * megabytes, since each record gets the attributes of its resource.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#include "utils/memutils.h"
#endif

#include <stdarg.h>

#include "mb/pg_wchar.h"

#include "recordint.h"

/* size of a usual block */
#define BLOCK_SIZE (32 * 1024)
/* largest block that is kept for the next message */
#define KEPT_BLOCK (1024 * 1024)
/* most that one message may make */
#define MAX_TOTAL ((size_t) 256 * 1024 * 1024)

/* the text follows */
struct LogqArenaBlock
{
	LogqArenaBlock *next;
	size_t		size;
};

/*
 * Allocate where the arena lives.
 */
static void *
allocate(LogqArena *arena, size_t size)
{
#ifdef FRONTEND
	return palloc(size);
#else
	return MemoryContextAllocHuge((MemoryContext) arena->context, size);
#endif
}

/*
 * Write to a new block from now on.
 */
static void
new_block(LogqArena *arena, size_t size)
{
	LogqArenaBlock *block = allocate(arena, sizeof(LogqArenaBlock) + size);

	block->next = arena->blocks;
	block->size = size;
	arena->blocks = block;
	arena->begun = arena->pos = (char *) (block + 1);
	arena->end = arena->pos + size;
	arena->total += size;
}

/*
 * Set up an empty arena, in the current memory context.
 */
void
logq_arena_init(LogqArena *arena)
{
	memset(arena, 0, sizeof(*arena));
#ifndef FRONTEND
	arena->context = CurrentMemoryContext;
#endif
	new_block(arena, BLOCK_SIZE);
}

/*
 * Forget all text.  The newest block is kept, as it is the one that suits this
 * size of messages best, unless it is a giant.
 */
void
logq_arena_reset(LogqArena *arena)
{
	LogqArenaBlock *keep = arena->blocks;

	while (keep->next != NULL)
	{
		LogqArenaBlock *gone = keep->size > KEPT_BLOCK ? keep : keep->next;

		if (gone == keep)
			keep = keep->next;
		else
			keep->next = gone->next;
		pfree(gone);
	}
	if (keep->size > KEPT_BLOCK)
	{
		pfree(keep);
		arena->blocks = NULL;
		new_block(arena, BLOCK_SIZE);
		keep = arena->blocks;
	}
	arena->blocks = keep;
	arena->begun = arena->pos = (char *) (keep + 1);
	arena->end = arena->pos + keep->size;
	arena->total = keep->size;
	arena->full = false;
}

/*
 * Make sure that there is room, moving the text that has been begun to a new
 * block if need be.
 */
bool
logq_arena_reserve(LogqArena *arena, size_t len)
{
	size_t		have = arena->pos - arena->begun;
	char	   *old = arena->begun;
	size_t		size;

	if (arena->full)
		return false;
	if (len <= (size_t) (arena->end - arena->pos))
		return true;
	size = Max((have + len) * 2, BLOCK_SIZE);
	if (arena->total + have + len > MAX_TOTAL)
	{
		arena->full = true;
		return false;
	}
	if (arena->total + size > MAX_TOTAL)
		size = have + len;
	new_block(arena, size);
	memcpy(arena->pos, old, have);
	arena->pos += have;
	return true;
}

/*
 * Begin a text.
 */
void
logq_arena_begin(LogqArena *arena)
{
	arena->begun = arena->pos;
}

/*
 * Append to the text that was begun.
 */
void
logq_arena_add(LogqArena *arena, const char *data, int len)
{
	if (len > 0 && logq_arena_reserve(arena, len))
	{
		memcpy(arena->pos, data, len);
		arena->pos += len;
	}
}

/*
 * End the text that was begun.
 */
LogqText
logq_arena_finish(LogqArena *arena)
{
	LogqText	text;

	text.data = arena->begun;
	text.len = arena->pos - arena->begun;
	arena->begun = arena->pos;
	return text;
}

/*
 * A copy of some text.
 */
LogqText
logq_arena_copy(LogqArena *arena, const char *data, int len)
{
	logq_arena_begin(arena);
	logq_arena_add(arena, data, len);
	return logq_arena_finish(arena);
}

/*
 * Append as a JSON string.
 */
void
logq_arena_add_json(LogqArena *arena, const char *data, int len)
{
	int			done = 0;

	logq_arena_add_literal(arena, "\"");
	for (int i = 0; i < len; i++)
	{
		unsigned char c = data[i];
		char		escape[8];

		if (c >= ' ' && c != '"' && c != '\\')
			continue;
		logq_arena_add(arena, data + done, i - done);
		done = i + 1;
		if (c >= ' ')
			snprintf(escape, sizeof(escape), "\\%c", c);
		else
			snprintf(escape, sizeof(escape), "\\u%04x", c);
		logq_arena_add(arena, escape, strlen(escape));
	}
	logq_arena_add(arena, data + done, len - done);
	logq_arena_add_literal(arena, "\"");
}

/*
 * A message, ended by NUL; what is too long for one is cut.  Never NULL.
 */
const char *
logq_arena_printf(LogqArena *arena, const char *format,...)
{
	char		buf[512];
	va_list		args;
	LogqText	text;

	va_start(args, format);
	vsnprintf(buf, sizeof(buf), format, args);
	va_end(args);
	text = logq_arena_copy(arena, buf, strlen(buf) + 1);
	return arena->full ? "message takes too much memory" : text.data;
}

/*
 * A piece of text as an error may show it.
 */
const char *
logq_shown(const char *text, int len, char buf[LOGQ_SHOWN_SIZE])
{
	/* room for three points and NUL */
	int			max = LOGQ_SHOWN_SIZE - 4;
	int			n = Min(len, max);

	/* not in the middle of a character */
	if (n < len)
	{
		while (n > 0 && ((unsigned char) text[n] & 0xC0) == 0x80)
			n--;
	}
	for (int i = 0; i < n; i++)
	{
		unsigned char c = text[i];

		buf[i] = c < ' ' || c == 127 ? '?' : text[i];
	}
	if (n < len)
	{
		memcpy(buf + n, "...", 3);
		n += 3;
	}
	buf[n] = '\0';
	return buf;
}

/*
 * How many bytes from the first on are valid UTF-8 without NUL?
 */
int
logq_good_length(const char *text, int len)
{
	return len == 0 ? 0 : pg_encoding_verifymbstr(PG_UTF8, text, len);
}
