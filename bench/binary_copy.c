/*-------------------------------------------------------------------------
 *
 * binary_copy.c
 *		How fast do partitions take rows at best?  Files that COPY has written,
 *		in binary format, are copied into all partitions at once.
 *
 *		binary_copy DATABASE DIRECTORY
 *
 * prints the milliseconds from the start until all have committed, the CPU
 * seconds of their backends together, and those of its own processes.
 *
 * The partitions are the words of LOGQ_PARTITIONS, each a name in libpq's
 * service file, asked as user "logq"; the file of each has its name.
 *
 * One process a partition, which blocks.  All are connected before the clock
 * starts.  Each sends one COPY in large pieces, and does nothing to the rows: a
 * limit for whoever has to make them first.  It ends at the first error.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

#define COLUMNS "ts, level, service, message, trace_id, attrs"
#define MAX_PARTITIONS 64
#define CHUNK (64 * 1024)

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "binary_copy: %s: %s\n", what, why);
	exit(1);
}

/* Both in seconds */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double
cpu_of(int pid)
{
	char		name[64];
	char		line[1024];
	unsigned long user,
				system;
	FILE	   *file;
	char	   *p;

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	file = fopen(name, "r");
	if (!file || !fgets(line, sizeof(line), file))
		return 0;
	fclose(file);
	/* the program's name may have blanks */
	p = strrchr(line, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
					 &user, &system) != 2)
		return 0;
	return (double) (user + system) / sysconf(_SC_CLK_TCK);
}

/*
 * Copy one file.  Says that it is ready with a byte, waits until the other
 * pipe is closed, and says how much CPU its backend took.
 */
static void
copy_file(const char *database, const char *directory, const char *partition,
		  int go, int done)
{
	const char *const keywords[] = {"service", "user", "dbname", NULL};
	const char *const values[] = {partition, "logq", database, NULL};
	char		path[4096];
	static char buf[CHUNK];
	char		byte = 0;
	PGconn	   *conn;
	PGresult   *res;
	ssize_t		n;
	double		before,
				spent;
	int			fd;

	snprintf(path, sizeof(path), "%s/%s", directory, partition);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		fail(path, strerror(errno));
	conn = PQconnectdbParams(keywords, values, 0);
	if (PQstatus(conn) != CONNECTION_OK)
		fail(partition, PQerrorMessage(conn));
	before = cpu_of(PQbackendPID(conn));

	if (write(done, &byte, 1) != 1 || read(go, &byte, 1) != 0)
		fail(partition, "lost its parent");

	res = PQexec(conn, "COPY logq_store.log (" COLUMNS ") FROM STDIN (FORMAT binary)");
	if (PQresultStatus(res) != PGRES_COPY_IN)
		fail(partition, PQerrorMessage(conn));
	PQclear(res);
	while ((n = read(fd, buf, CHUNK)) > 0)
	{
		if (PQputCopyData(conn, buf, n) != 1)
			fail(partition, PQerrorMessage(conn));
	}
	if (n < 0)
		fail(path, strerror(errno));
	if (PQputCopyEnd(conn, NULL) != 1)
		fail(partition, PQerrorMessage(conn));
	res = PQgetResult(conn);
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		fail(partition, PQerrorMessage(conn));
	PQclear(res);

	spent = cpu_of(PQbackendPID(conn)) - before;
	if (write(done, &spent, sizeof(spent)) != sizeof(spent))
		fail(partition, "lost its parent");
	PQfinish(conn);
	exit(0);
}

int
main(int argc, char **argv)
{
	char	   *partitions = getenv("LOGQ_PARTITIONS");
	int			done[MAX_PARTITIONS];
	int			go[2];
	int			n = 0;
	double		start,
				end,
				spent = 0;
	struct rusage usage;

	if (argc != 3 || !partitions)
	{
		fprintf(stderr, "usage: binary_copy DATABASE DIRECTORY, with LOGQ_PARTITIONS set\n");
		return 2;
	}
	if (pipe(go) != 0)
		fail("pipe", strerror(errno));
	for (char *p = strtok(partitions, " "); p; p = strtok(NULL, " "))
	{
		int			ends[2];
		pid_t		pid;

		if (n == MAX_PARTITIONS)
			fail("LOGQ_PARTITIONS", "too many partitions");
		if (pipe(ends) != 0)
			fail("pipe", strerror(errno));
		pid = fork();
		if (pid < 0)
			fail("fork", strerror(errno));
		if (pid == 0)
		{
			close(go[1]);
			close(ends[0]);
			copy_file(argv[1], argv[2], p, go[0], ends[1]);
		}
		close(ends[1]);
		done[n++] = ends[0];
	}
	close(go[0]);

	/* all are connected */
	for (int i = 0; i < n; i++)
	{
		char		byte;

		if (read(done[i], &byte, 1) != 1)
			return 1;
	}
	start = now();
	close(go[1]);
	for (int i = 0; i < n; i++)
	{
		double		backend;

		if (read(done[i], &backend, sizeof(backend)) != sizeof(backend))
			return 1;
		spent += backend;
	}
	end = now();
	while (wait(NULL) > 0)
		;
	getrusage(RUSAGE_CHILDREN, &usage);
	printf("%.3f %.2f %.2f\n", (end - start) * 1000, spent,
		   usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		   (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	return 0;
}
