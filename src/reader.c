/*-------------------------------------------------------------------------
 *
 * reader.c
 *		The worker's end of the process that runs librdkafka.
 *
 * A reader is a child of ours that runs the program logq_kafka, at the other
 * end of a socket pair; kafka/protocol.h says what goes over it.  What is to be
 * sent is queued, and written when the socket takes it; what comes is read
 * into one buffer, in which the frames are handed out.
 *
 * Invariants: nothing here waits, but for the end of a child that is ending.
 * A reader does not outlive the process that started it: it is killed when
 * that exits, and ends by itself when that is killed, since nobody else has
 * our end of the socket pair.
 *
 * Failure cases: the program cannot be run, crashes, is killed, or sends
 * nonsense: logq_reader_receive says so, and the worker starts another.  A
 * reader that hangs is not noticed here.
 *
 *-------------------------------------------------------------------------
 */
#include "logq.h"

#include "ingest.h"
#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* buffer for what comes; larger only while there is a frame that is */
#define IN_SIZE (1024 * 1024)
/* so long may a child take to end that has closed its socket */
#define END_MS 1000
#define CHECK_MS 10000

struct LogqReader
{
	struct LogqReader *next;
	MemoryContext context;		/* this, and all that belongs to it */
	pid_t		pid;			/* 0: none, or it has been waited for */
	pgsocket	sock;
	bool		acquired_fd;
	const char *violation;		/* what was wrong with what it sent */
	StringInfoData out;			/* to be sent, from cursor on */
	char	   *in;
	Size		in_size;
	Size		in_start;		/* what is before has been handed out */
	Size		in_end;
};

/* all of this process, to kill them when it exits */
static LogqReader *readers = NULL;
static bool callback_registered = false;

/*
 * Kill it, and wait for it; never throws.
 */
void
logq_reader_stop(LogqReader *reader)
{
	LogqReader **link;
	int			status;

	if (reader == NULL)
		return;
	for (link = &readers; *link != NULL; link = &(*link)->next)
	{
		if (*link == reader)
		{
			*link = reader->next;
			break;
		}
	}
	if (reader->pid > 0)
	{
		kill(reader->pid, SIGKILL);
		logq_program_wait(reader->pid, &status);
	}
	if (reader->sock != PGINVALID_SOCKET)
		close(reader->sock);
	if (reader->acquired_fd)
		ReleaseExternalFD();
	MemoryContextDelete(reader->context);
}

/*
 * This process exits, perhaps by an error.
 */
static void
stop_all(int code, Datum arg)
{
	while (readers != NULL)
		logq_reader_stop(readers);
}

/*
 * Start the program.  On return, or when this throws, the reader has what
 * logq_reader_stop clears away.
 */
static void
launch(LogqReader *reader, const char *topic)
{
	char		path[MAXPGPATH];
	char	   *argv[2];
	int			socks[2];
	pid_t		pid;
	int			saved_errno;

	if (!logq_program_path(LOGQ_READER_PROGRAM, path))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not find the Kafka reader \"%s\": %m", path),
				 errhint("Install all of logq on this server, with \"make install\".")));
	argv[0] = psprintf("%s: %s", LOGQ_READER_PROGRAM, topic);
	argv[1] = NULL;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a Kafka reader: too many files are open"),
				 errhint("Raise max_files_per_process or the limit of the operating system.")));
	reader->acquired_fd = true;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, socks) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket pair: %m")));
	reader->sock = socks[0];
	if (!pg_set_noblock(socks[0]) ||
		fcntl(socks[0], F_SETFD, FD_CLOEXEC) < 0)
	{
		saved_errno = errno;
		close(socks[1]);
		errno = saved_errno;
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not set up a socket: %m")));
	}

	pid = logq_program_start(path, argv, socks[1], -1);
	saved_errno = errno;
	close(socks[1]);
	if (pid < 0)
	{
		errno = saved_errno;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not fork a Kafka reader: %m")));
	}
	reader->pid = pid;
}

static void
append_string(StringInfo buf, const char *s)
{
	appendBinaryStringInfo(buf, s, strlen(s) + 1);
}

/*
 * Queue a SETUP or CHECK frame for a topic.
 */
static void
queue_setup(LogqReader *reader, const LogqTopic *topic, uint32 type)
{
	LogqFrameHead head = {.length = 0, .type = type};
	StringInfo	out = &reader->out;
	bool		has_client_id = false;

	appendBinaryStringInfo(out, (char *) &head, sizeof(head));
	append_string(out, topic->name);
	append_string(out, "bootstrap.servers");
	append_string(out, topic->brokers);
	for (int i = 0; i < topic->nproperties; i++)
	{
		append_string(out, topic->properties[2 * i]);
		append_string(out, topic->properties[2 * i + 1]);
		if (strcmp(topic->properties[2 * i], "client.id") == 0)
			has_client_id = true;
	}
	if (!has_client_id)
	{
		append_string(out, "client.id");
		append_string(out, "logq");
	}
	head.length = out->len - sizeof(head);
	memcpy(out->data, &head, sizeof(head));
}

static LogqReader *
start_reader(const LogqTopic *topic, uint32 type)
{
	MemoryContext context;
	MemoryContext old;
	LogqReader *reader;

	if (!callback_registered)
	{
		before_shmem_exit(stop_all, (Datum) 0);
		callback_registered = true;
	}

	context = AllocSetContextCreate(TopMemoryContext, "logq reader",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	reader = palloc0(sizeof(LogqReader));
	reader->context = context;
	reader->sock = PGINVALID_SOCKET;
	reader->next = readers;
	readers = reader;

	PG_TRY();
	{
		initStringInfo(&reader->out);
		queue_setup(reader, topic, type);
		reader->in = palloc(IN_SIZE);
		reader->in_size = IN_SIZE;
		launch(reader, topic->name);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		logq_reader_stop(reader);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);

	(void) logq_reader_flush(reader);
	return reader;
}

/*
 * Start one for a topic; errors are thrown, nothing is left then.
 */
LogqReader *
logq_reader_start(const LogqTopic *topic)
{
	return start_reader(topic, LOGQ_FRAME_SETUP);
}

/*
 * Let it read partitions from offsets on; once.
 */
void
logq_reader_assign(LogqReader *reader, int n, const LogqReaderOffset *offsets)
{
	LogqFrameHead head;

	head.length = n * sizeof(LogqReaderOffset);
	head.type = LOGQ_FRAME_ASSIGN;
	appendBinaryStringInfo(&reader->out, (char *) &head, sizeof(head));
	appendBinaryStringInfo(&reader->out, (const char *) offsets, head.length);
	(void) logq_reader_flush(reader);
}

pgsocket
logq_reader_socket(const LogqReader *reader)
{
	return reader->sock;
}

/*
 * Send what is queued, without waiting; true: there is more to send, when the
 * socket is writable.  That the reader has ended shows when receiving.
 */
bool
logq_reader_flush(LogqReader *reader)
{
	StringInfo	out = &reader->out;

	while (out->cursor < out->len)
	{
		ssize_t		n = send(reader->sock, out->data + out->cursor,
							 out->len - out->cursor, MSG_NOSIGNAL);

		if (n > 0)
			out->cursor += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return true;
		else
			break;
	}
	/* it may have held passwords */
	explicit_bzero(out->data, out->len);
	resetStringInfo(out);
	return false;
}

/*
 * Note that what was sent makes no sense.  The socket is ended, so that
 * whoever waits for it calls logq_reader_receive.
 */
static void
violation(LogqReader *reader, const char *what)
{
	reader->violation = what;
	(void) shutdown(reader->sock, SHUT_RDWR);
}

/*
 * The next frame of what has been received; false: there is none complete.
 */
bool
logq_reader_next(LogqReader *reader, LogqFrame *frame)
{
	LogqFrameHead head;
	Size		have = reader->in_end - reader->in_start;

	if (have < sizeof(head) || reader->violation != NULL)
		return false;
	memcpy(&head, reader->in + reader->in_start, sizeof(head));
	if (head.length > LOGQ_FRAME_MAX)
	{
		violation(reader, "a frame that is too long");
		return false;
	}
	if (head.type < LOGQ_FRAME_INFO || head.type > LOGQ_FRAME_OK)
	{
		violation(reader, "a frame of an unknown type");
		return false;
	}
	if (have < sizeof(head) + head.length)
		return false;

	frame->type = head.type;
	frame->length = head.length;
	frame->data = reader->in + reader->in_start + sizeof(head);
	reader->in_start += sizeof(head) + head.length;
	return true;
}

/*
 * The reader has ended, or must: how, palloc'd.
 */
static char *
describe_end(LogqReader *reader)
{
	int			status = 0;
	int			waited_ms = 0;
	bool		killed = false;

	if (reader->violation != NULL && reader->pid > 0)
	{
		kill(reader->pid, SIGKILL);
		killed = true;
	}
	while (reader->pid > 0)
	{
		pid_t		pid = waitpid(reader->pid, &status, killed ? 0 : WNOHANG);

		if (pid == reader->pid || (pid < 0 && errno != EINTR))
			reader->pid = 0;
		else if (pid == 0 && waited_ms++ < END_MS)
			pg_usleep(1000);
		else if (pid == 0)
		{
			kill(reader->pid, SIGKILL);
			killed = true;
		}
	}

	if (reader->violation != NULL)
		return psprintf("the Kafka reader sent %s", reader->violation);
	if (killed)
		return pstrdup("the Kafka reader closed its connection");
	if (WIFSIGNALED(status))
		return psprintf("the Kafka reader was terminated by signal %d: %s",
						WTERMSIG(status), pg_strsignal(WTERMSIG(status)));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return psprintf("the Kafka reader \"%s/%s\" could not be run: it, or librdkafka, is not installed properly",
						pkglib_path, LOGQ_READER_PROGRAM);
	return psprintf("the Kafka reader ended with exit code %d",
					WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

/*
 * Make the buffer so large, which must hold what is in it, at its beginning.
 */
static void
resize_in(LogqReader *reader, Size size)
{
	reader->in = repalloc_huge(reader->in, size);
	reader->in_size = size;
}

/*
 * Move what has not been handed out to the beginning of the buffer, and make
 * it as large as the next frame needs.
 */
static void
prepare_in(LogqReader *reader)
{
	Size		have = reader->in_end - reader->in_start;
	Size		need = IN_SIZE;

	if (reader->in_start > 0)
	{
		memmove(reader->in, reader->in + reader->in_start, have);
		reader->in_start = 0;
		reader->in_end = have;
	}
	if (have >= sizeof(LogqFrameHead))
	{
		LogqFrameHead head;

		memcpy(&head, reader->in, sizeof(head));
		if (head.length <= LOGQ_FRAME_MAX)
			need = Max(need, sizeof(head) + head.length);
	}
	if (need > reader->in_size)
		resize_in(reader, need);
	else if (reader->in_size > need && have <= need)
		resize_in(reader, need);
}

/*
 * Take in what has come, without waiting; frames that have not been handed
 * out are kept.  Only as much as there is room for: the rest waits in the
 * socket, and then in the reader.  False: it has ended, *how says how.
 */
bool
logq_reader_receive(LogqReader *reader, char **how)
{
	Size		had;

	prepare_in(reader);
	had = reader->in_end;
	while (reader->violation == NULL && reader->in_end < reader->in_size)
	{
		ssize_t		n = recv(reader->sock, reader->in + reader->in_end,
							 reader->in_size - reader->in_end, 0);

		if (n > 0)
			reader->in_end += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return true;
		else if (reader->in_end > had)
			return true;		/* its last words; the end comes next */
		else
			break;
	}
	if (reader->violation == NULL && reader->in_end >= reader->in_size)
		return true;
	*how = describe_end(reader);
	return false;
}

/*
 * What is the reader's answer to a check?  False: none yet.
 */
static bool
take_answer(LogqReader *reader, char **problem)
{
	LogqFrame	frame;

	while (logq_reader_next(reader, &frame))
	{
		if (frame.type == LOGQ_FRAME_OK)
			return true;
		if (frame.type == LOGQ_FRAME_ERROR &&
			frame.length > sizeof(LogqReaderError))
		{
			*problem = pnstrdup(frame.data + sizeof(LogqReaderError),
								frame.length - sizeof(LogqReaderError));
			return true;
		}
	}
	return false;
}

/*
 * Let one check a topic's properties; NULL, or what is wrong, palloc'd.  In an
 * ordinary backend, which thereby need not load librdkafka.
 */
char *
logq_reader_check(const LogqTopic *topic)
{
	LogqReader *reader = start_reader(topic, LOGQ_FRAME_CHECK);
	TimestampTz deadline = TimestampTzPlusMilliseconds(logq_now(),
													   CHECK_MS);
	char	   *problem = NULL;

	PG_TRY();
	{
		while (!take_answer(reader, &problem))
		{
			uint32		events = WL_LATCH_SET | WL_SOCKET_READABLE |
				WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
			long		left = TimestampDifferenceMilliseconds(logq_now(),
															   deadline);

			if (left <= 0)
			{
				problem = pstrdup("the Kafka reader did not answer");
				break;
			}
			if (logq_reader_flush(reader))
				events |= WL_SOCKET_WRITEABLE;
			(void) WaitLatchOrSocket(MyLatch, events, reader->sock, left,
									 PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
			if (!logq_reader_receive(reader, &problem))
				break;
		}
	}
	PG_FINALLY();
	{
		logq_reader_stop(reader);
	}
	PG_END_TRY();
	return problem;
}
