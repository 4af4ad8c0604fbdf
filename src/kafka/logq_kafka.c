/*-------------------------------------------------------------------------
 *
 * logq_kafka.c
 *		The reader: runs librdkafka for an ingest worker, and sends it what
 *		comes from Kafka.  This file has the loop, and the worker's frames.
 *
 * A program of its own, started with one end of a socket pair as standard
 * input; protocol.h says what goes over it.  It knows nothing of PostgreSQL
 * and stores nothing: who kills it loses nothing.
 *
 *		logq_kafka.c	the loop and its input
 *		output.c		frames for the worker, errors
 *		setup.c			the topic's properties, and secrets in texts
 *		watch.c			the cluster: its partitions, and whether it answers
 *		consume.c		messages and positions
 *		reader.h		what these need of each other
 *
 * The main thread waits for the socket and for librdkafka's queues, and is the
 * only one that touches the socket.  Nothing on it may wait for anything else.
 * A second thread, the prober in watch.c, makes those calls that do.
 *
 * Invariants: frames of a partition are in the order of its offsets, without
 * omissions; a position is sent after all messages below it.  Whatever
 * librdkafka might skip over ends the program instead.  Memory does not grow
 * with what Kafka has, nor with the time the worker takes.
 *
 * Failure cases: the worker is gone: the socket ends, and so do we, at once
 * and without taking leave of the brokers, who may be down.  The worker is
 * slow: the output fills, and no more is taken from librdkafka, whose queue is
 * limited.  Brokers are down: librdkafka tries again for ever, and the worker
 * is told.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE				/* pipe2() */

#include "kafka/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* so often the worker hears where we are */
#define POSITION_MS 1000

#define READ_SIZE 65536

int			logq_wake_fd = -1;

static int	wake_read_fd = -1;
static int	sock = -1;
static LogqBuffer in;
static bool assigned = false;

/* ---------- input ---------- */

static void
take_frame(uint32_t type, char *data, size_t length)
{
	if (type == LOGQ_FRAME_SETUP && logq_rk == NULL)
	{
		if (logq_set_up(data, data + length))
		{
			logq_consume_start();
			logq_watch_start();
		}
	}
	else if (type == LOGQ_FRAME_CHECK && logq_rk == NULL)
	{
		if (logq_set_up(data, data + length))
			(void) logq_put_frame(LOGQ_FRAME_OK, 0);
		logq_ending = true;
	}
	else if (type == LOGQ_FRAME_ASSIGN && logq_rk != NULL && !assigned)
	{
		logq_assign(data, data + length);
		assigned = true;
	}
	else
		logq_fatal("the worker sent something unexpected: %u", type);
}

/*
 * Read what the worker has sent.  When it is gone, so are we.
 */
static void
read_in(void)
{
	for (;;)
	{
		char	   *p = logq_buffer_room(&in, READ_SIZE);
		ssize_t		n = read(sock, p, READ_SIZE);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n <= 0)
			_exit(0);
		in.end += n;
		while (!logq_ending && in.end - in.start >= sizeof(LogqFrameHead))
		{
			LogqFrameHead head;

			memcpy(&head, in.data + in.start, sizeof(head));
			if (head.length > LOGQ_FRAME_MAX)
			{
				logq_fatal("the worker sent a frame that is too long");
				break;
			}
			if (in.end - in.start < sizeof(head) + head.length)
				break;
			take_frame(head.type, in.data + in.start + sizeof(head),
					   head.length);
			in.start += sizeof(head) + head.length;
		}
		if (logq_ending)
			in.start = in.end = 0;	/* nobody looks at it any more */
	}
}

/* ---------- the loop ---------- */

/*
 * librdkafka writes a byte each time one of its queues is no longer empty, so
 * this comes before they are looked at.
 */
static void
drain_wake_pipe(void)
{
	char		bytes[256];

	while (read(wake_read_fd, bytes, sizeof(bytes)) == sizeof(bytes))
		;
}

/*
 * Each turn takes what there is, writes what the worker takes, and waits for
 * the socket, librdkafka or the prober.
 */
static void
loop(void)
{
	int64_t		next_position = logq_now_ms() + POSITION_MS;
	bool		more = false;	/* librdkafka may have messages */

	for (;;)
	{
		struct pollfd fds[2] = {
			{.fd = sock, .events = POLLIN},
			{.fd = wake_read_fd, .events = POLLIN}
		};
		int64_t		now;
		int64_t		wait_ms;
		bool		flushed;

		if (logq_rk != NULL && !logq_ending)
			rd_kafka_poll(logq_rk, 0);
		if (logq_rk != NULL && !logq_ending)
			logq_watch_take();
		if (assigned && !logq_ending)
			more = logq_take_messages();
		now = logq_now_ms();
		if (now >= next_position)
		{
			logq_watch_tick();
			/* a worker that is slow need not hear it more than once */
			if (assigned && !logq_ending && logq_out_pending() < LOGQ_OUT_SIZE)
				logq_send_positions();
			next_position = now + POSITION_MS;
		}

		flushed = logq_flush_out(sock);
		if (flushed && logq_ending)
			_exit(logq_exit_status);
		if (!flushed)
			fds[0].events |= POLLOUT;
		if (logq_ending || logq_rk == NULL)
			wait_ms = -1;
		else if (more && flushed)
			wait_ms = 0;
		else
			wait_ms = next_position - now;
		if (poll(fds, 2, (int) wait_ms) < 0)
		{
			if (errno != EINTR)
				_exit(1);
			continue;			/* nothing is in revents */
		}

		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL))
			read_in();
		if (fds[1].revents & POLLIN)
			drain_wake_pipe();
	}
}

/*
 * Take the socket away from standard input: librdkafka may run a program,
 * kinit, which must neither read from it nor keep it open when we are gone.
 */
static bool
begin(void)
{
	int			pipe_fds[2];
	int			null_fd;

	sock = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (sock < 0 || fcntl(sock, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return false;
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0)
		return false;
	if (null_fd != STDIN_FILENO)
		close(null_fd);
	if (pipe2(pipe_fds, O_NONBLOCK | O_CLOEXEC) < 0)
		return false;
	wake_read_fd = pipe_fds[0];
	logq_wake_fd = pipe_fds[1];
	return true;
}

int
main(void)
{
	sigset_t	none;
	struct stat st;

	if (fstat(STDIN_FILENO, &st) < 0 || !S_ISSOCK(st.st_mode))
	{
		fprintf(stderr, "logq_kafka: only logq can start this program\n");
		return 1;
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);	/* librdkafka uses system() for kinit */
	signal(SIGPIPE, SIG_IGN);

	if (!begin())
	{
		fprintf(stderr, "logq_kafka: could not begin: %s\n", strerror(errno));
		return 1;
	}
	loop();
	return 0;
}
