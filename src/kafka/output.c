/*-------------------------------------------------------------------------
 *
 * output.c
 *		The reader's output: frames, and the texts that tell of trouble.
 *
 * Frames are appended to one buffer, which the loop writes to the socket as
 * far as the worker takes it.
 *
 * Invariants: only the main thread comes here, except for the clock and the
 * memory at the beginning.  A frame is in the buffer as a whole or not at all.
 * No text gets into it that was not censored.  After a fatal error nothing
 * more is appended.
 *
 * What bounds the buffer: messages, and partitions' errors and positions, are
 * only asked for while it is less than half full.  What comes unasked, trouble
 * and log lines, is left out once it is full: both come again or are of no
 * use by then.
 *
 * Failure cases: the worker is gone: the program ends at once.  There is no
 * memory: the same, with a line on stderr, which is the server's log.
 *
 *-------------------------------------------------------------------------
 */
#include "kafka/reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* the same trouble is told so often at most, and so many are remembered */
#define TROUBLE_MS 5000
#define MAX_TROUBLES 16

typedef struct Trouble
{
	char		text[LOGQ_TEXT_SIZE];
	int64_t		told_at;		/* 0: never */
} Trouble;

bool		logq_ending = false;
int			logq_exit_status = 0;

static LogqBuffer out;
static Trouble troubles[MAX_TROUBLES];

/* ---------- for both threads ---------- */

int64_t
logq_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * realloc() that does not return without memory.
 */
void *
logq_allocate(void *old, size_t size)
{
	void	   *p = realloc(old, size > 0 ? size : 1);

	if (p == NULL)
	{
		static const char complaint[] = "logq_kafka: out of memory\n";

		if (write(STDERR_FILENO, complaint, sizeof(complaint) - 1) < 0)
		{
			/* nobody hears us */
		}
		_exit(1);
	}
	return p;
}

char *
logq_copy(const char *s)
{
	size_t		size = strlen(s) + 1;

	return memcpy(logq_allocate(NULL, size), s, size);
}

/* ---------- buffers ---------- */

/*
 * Room for so many bytes more at the end of a buffer.  It may move what is in
 * there.
 */
char *
logq_buffer_room(LogqBuffer *buf, size_t len)
{
	if (buf->start == buf->end)
		buf->start = buf->end = 0;
	if (buf->end + len > buf->size)
	{
		if (buf->start > 0)
		{
			memmove(buf->data, buf->data + buf->start, buf->end - buf->start);
			buf->end -= buf->start;
			buf->start = 0;
		}
		if (buf->end + len > buf->size)
		{
			size_t		size = buf->end + len;

			if (size < LOGQ_OUT_SIZE)
				size = LOGQ_OUT_SIZE;
			buf->data = logq_allocate(buf->data, size);
			buf->size = size;
		}
	}
	return buf->data + buf->end;
}

/*
 * Begin a frame; its length bytes are to be written to what is returned,
 * before anything else is appended.
 */
char *
logq_put_frame(uint32_t type, size_t length)
{
	LogqFrameHead head = {.length = length, .type = type};
	char	   *p = logq_buffer_room(&out, sizeof(head) + length);

	memcpy(p, &head, sizeof(head));
	out.end += sizeof(head) + length;
	return p + sizeof(head);
}

void
logq_put_bytes(char **p, const void *data, size_t len)
{
	if (len > 0)
		memcpy(*p, data, len);
	*p += len;
}

void
logq_put_int32(char **p, int32_t value)
{
	logq_put_bytes(p, &value, sizeof(value));
}

/*
 * How many bytes the worker has not taken yet.
 */
size_t
logq_out_pending(void)
{
	return out.end - out.start;
}

/*
 * Write what there is; false: the socket takes no more for now.
 */
bool
logq_flush_out(int sock)
{
	while (out.start < out.end)
	{
		ssize_t		n = write(sock, out.data + out.start, out.end - out.start);

		if (n > 0)
			out.start += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		else
			_exit(0);			/* the worker is gone */
	}
	out.start = out.end = 0;
	if (out.size > 4 * LOGQ_OUT_SIZE)
	{
		/* there was a giant message */
		out.data = logq_allocate(out.data, LOGQ_OUT_SIZE);
		out.size = LOGQ_OUT_SIZE;
	}
	return true;
}

/* ---------- texts ---------- */

/*
 * A frame that is a head and then a text, which is cut and censored.
 */
static void
put_text(uint32_t type, const void *head, size_t head_len, const char *text)
{
	char		censored[LOGQ_TEXT_SIZE];
	size_t		len;
	char	   *p;

	snprintf(censored, sizeof(censored), "%s", text);
	logq_censor(censored);
	len = strlen(censored);
	if (len == sizeof(censored) - 1)
	{
		/* it was cut, and no half of a character may be left over */
		while (len > 0 && (censored[len - 1] & 0xc0) == 0x80)
			len--;
		if (len > 0 && (censored[len - 1] & 0x80) != 0)
			len--;
		censored[len] = '\0';
	}
	len++;
	p = logq_put_frame(type, head_len + len);
	logq_put_bytes(&p, head, head_len);
	logq_put_bytes(&p, censored, len);
}

void
logq_send_error(LogqReaderErrorKind kind, int32_t partition, const char *text)
{
	LogqReaderError error = {.kind = kind, .partition = partition};

	if (!logq_ending)
		put_text(LOGQ_FRAME_ERROR, &error, sizeof(error), text);
}

/*
 * Tell of something that librdkafka goes on with, unless the same text was
 * just told, if of another partition, or the worker does not listen anyway.
 */
void
logq_send_trouble(int32_t partition, const char *text)
{
	int64_t		now = logq_now_ms();
	Trouble    *oldest = &troubles[0];

	if (logq_out_pending() >= LOGQ_OUT_SIZE)
		return;
	for (int i = 0; i < MAX_TROUBLES; i++)
	{
		Trouble    *trouble = &troubles[i];

		if (trouble->told_at != 0 && now - trouble->told_at < TROUBLE_MS &&
			strncmp(trouble->text, text, sizeof(trouble->text) - 1) == 0)
			return;
		if (trouble->told_at < oldest->told_at)
			oldest = trouble;
	}
	snprintf(oldest->text, sizeof(oldest->text), "%s", text);
	oldest->told_at = now;
	logq_send_error(LOGQ_READER_TROUBLE, partition, text);
}

/*
 * Nothing more will be sent; the program ends when this has been.  Only the
 * first one counts.
 */
void
logq_fatal(const char *fmt,...)
{
	char		text[LOGQ_TEXT_SIZE];
	va_list		args;

	if (logq_ending)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	logq_send_error(LOGQ_READER_FATAL, -1, text);
	logq_ending = true;
	logq_exit_status = 1;
}

/*
 * Pass on a line of a log; false: there is no room for it.
 */
bool
logq_send_log(int level, const char *text)
{
	int32_t		level32 = level;

	if (logq_ending || logq_out_pending() >= LOGQ_OUT_SIZE)
		return false;
	put_text(LOGQ_FRAME_LOG, &level32, sizeof(level32), text);
	return true;
}
