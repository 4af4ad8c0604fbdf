/*
 * slow_getaddrinfo.c
 *		A resolver that does what a test says: to be preloaded.
 *
 * Names that end in ".test" are looked up in the file $LOGQ_TEST_NAMES alone,
 * which a test may change at any time.  A line of it is a name, and then
 *
 *		ADDRESS...		what it has
 *		hang			it takes a minute, and then fails
 *
 * Other names of that kind do not exist.  Each look-up is a line in
 * $LOGQ_TEST_NAMES.log.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*Getaddrinfo) (const char *, const char *,
							const struct addrinfo *, struct addrinfo **);

static void
log_name(const char *file, const char *name)
{
	char		path[4096];
	FILE	   *f;

	snprintf(path, sizeof(path), "%s.log", file);
	f = fopen(path, "a");
	if (f == NULL)
		return;
	fprintf(f, "%s\n", name);
	fclose(f);
}

/* the rest of a name's line, or an empty one */
static void
find_line(const char *file, const char *name, char *rest, size_t size)
{
	FILE	   *f = fopen(file, "r");
	size_t		len = strlen(name);
	char		line[4096];

	rest[0] = '\0';
	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, name, len) == 0 && line[len] == ' ')
			snprintf(rest, size, "%s", line + len + 1);
	fclose(f);
}

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	Getaddrinfo real = (Getaddrinfo) dlsym(RTLD_NEXT, "getaddrinfo");
	const char *file = getenv("LOGQ_TEST_NAMES");
	struct addrinfo **end = result;
	size_t		len = name != NULL ? strlen(name) : 0;
	char		rest[4096];
	char	   *save = NULL;

	if (file == NULL || len < 5 || strcmp(name + len - 5, ".test") != 0)
		return real(name, service, hints, result);

	log_name(file, name);
	find_line(file, name, rest, sizeof(rest));
	*result = NULL;
	for (char *word = strtok_r(rest, " \n", &save); word != NULL;
		 word = strtok_r(NULL, " \n", &save))
	{
		if (strcmp(word, "hang") == 0)
		{
			for (unsigned int left = 60; left > 0;)
				left = sleep(left);
			return EAI_AGAIN;
		}
		/* glibc frees a list one by one */
		if (real(word, service, hints, end) != 0)
			return EAI_FAIL;
		while (*end != NULL)
			end = &(*end)->ai_next;
	}
	return *result != NULL ? 0 : EAI_NONAME;
}
