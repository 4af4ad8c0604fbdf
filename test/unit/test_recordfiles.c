/*-------------------------------------------------------------------------
 *
 * test_recordfiles.c
 *		Messages as log shippers write them: test/data/messages.
 *
 * LIBS: postgres
 * LINK: src/record.c src/recordplain.c src/recordotlp.c src/recordbuf.c
 * LINK: src/recordtime.c src/recordlevel.c src/jsontree.c
 *
 * With an argument, prints what becomes of that file, for a new expectation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <dirent.h>

#include "recorddump.h"

#define FOLDER "test/data/messages"

/*
 * Read a file whole.
 */
static Text
read_file(const char *path)
{
	Text		text = {0};
	FILE	   *file = fopen(path, "rb");
	char		buf[4096];
	size_t		n;

	text_bytes(&text, "", 0);
	if (file == NULL)
		return text;
	while ((n = fread(buf, 1, sizeof(buf), file)) > 0)
		text_bytes(&text, buf, n);
	fclose(file);
	return text;
}

/*
 * What becomes of a message.
 */
static Text
records_of(const Text *value, LogqFormat format)
{
	LogqParserSettings settings = usual_settings(format);
	static LogqParser *parser = NULL;
	static LogqParser *another;
	LogqMessage message;
	LogqRecord *records;
	Text		out = {0};
	int			n;

	if (parser == NULL)
	{
		parser = logq_parser_create(&settings);
		another = logq_parser_create(&settings);
	}
	logq_parser_set(parser, &settings);
	logq_parser_set(another, &settings);
	memset(&message, 0, sizeof(message));
	message.value.data = value->data;
	message.value.len = value->len;
	message.timestamp = KAFKA_MS;
	n = logq_parse(parser, &message, &records);
	text_records(&out, records, n);
	if (!sources_are_good(parser, &message, records, n, another))
		text_add(&out, "and sources that make other records\n");
	return out;
}

/*
 * Compare one message with what is expected.
 */
static void
check_file(const char *name)
{
	char		path[300];
	char		format_name[20];
	LogqFormat	formats[2] = {LOGQ_FORMAT_AUTO, LOGQ_FORMAT_AUTO};
	Text		value;
	Text		expected;

	snprintf(path, sizeof(path), FOLDER "/%s.json", name);
	value = read_file(path);
	snprintf(path, sizeof(path), FOLDER "/%s.expected", name);
	expected = read_file(path);
	snprintf(format_name, sizeof(format_name), "%.*s",
			 (int) strcspn(name, "_"), name);
	if (!logq_format_by_name(format_name, &formats[0]))
		ok(false, "%s begins with the name of a format", name);
	for (int i = 0; i < 2; i++)
	{
		Text		out = records_of(&value, formats[i]);

		if (!ok(strcmp(out.data, expected.data) == 0, "%s as %s", name,
				i == 0 ? format_name : "auto"))
		{
			diagnose("got", out.data);
			diagnose("expected", expected.data);
		}
		free(out.data);
	}
	free(value.data);
	free(expected.data);
}

/*
 * Compare for scandir(): messages only.
 */
static int
is_message(const struct dirent *entry)
{
	size_t		len = strlen(entry->d_name);

	return len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0;
}

int
main(int argc, char **argv)
{
	struct dirent **entries;
	int			n;

	if (argc > 1)
	{
		Text		value = read_file(argv[1]);
		Text		out = records_of(&value, LOGQ_FORMAT_AUTO);

		fputs(out.data, stdout);
		free(value.data);
		free(out.data);
		return 0;
	}
	n = scandir(FOLDER, &entries, is_message, alphasort);
	ok(n >= 22, "%d messages in " FOLDER, n);
	for (int i = 0; i < n; i++)
	{
		entries[i]->d_name[strlen(entries[i]->d_name) - 5] = '\0';
		check_file(entries[i]->d_name);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return tap_done();
}
