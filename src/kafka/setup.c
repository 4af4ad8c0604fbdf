/*-------------------------------------------------------------------------
 *
 * setup.c
 *		Sets up librdkafka with a topic's properties, and keeps those that are
 *		secret out of texts.
 *
 * Three sets of properties are given to librdkafka one after the other: what
 * the reader prefers, what the topic has, and what nobody may change.  A CHECK
 * frame does the same and then ends the program: whatever librdkafka does not
 * accept is found by trying.
 *
 * Invariants: only the main thread comes here.  What is declared in reader.h
 * does not change after logq_set_up() has returned true, which is before there
 * is a prober.  Values of secret properties are remembered before librdkafka
 * sees them, so that it cannot quote one before we know it.
 *
 * Failure cases: all of them end the program, with a text that says which
 * property is wrong.  The value of a secret one is not in it.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE				/* strcasestr() */

#include "kafka/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* what is shorter could be any part of a word */
#define MIN_SECRET 4

/* What librdkafka may hold for us, of all partitions together */
#define QUEUED_KBYTES "16384"
#define QUEUED_MESSAGES "20000"

typedef struct Property
{
	const char *name;
	const char *value;
} Property;

/* what we prefer, and a topic's properties may change */
static const Property preferred[] = {
	{"queued.max.messages.kbytes", QUEUED_KBYTES},
	{"queued.min.messages", QUEUED_MESSAGES},
	{"fetch.wait.max.ms", "100"},
	{"fetch.error.backoff.ms", "100"},
	{"reconnect.backoff.max.ms", "2000"},
	{"socket.connection.setup.timeout.ms", "10000"},
	{"socket.keepalive.enable", "true"},
	{"topic.metadata.refresh.interval.ms", "10000"},
	{"check.crcs", "true"},
	{NULL, NULL}
};

/* what nobody may change: without these messages would be lost */
static const Property forced[] = {
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"},
	{"isolation.level", "read_committed"},
	{"enable.partition.eof", "true"},
	{"allow.auto.create.topics", "false"},
	{"log.queue", "true"},
	/* or logq_on_log() would not hear of CLUSTERID */
	{"log_level", "6"},
	{NULL, NULL}
};

rd_kafka_t *logq_rk = NULL;
rd_kafka_topic_t *logq_rkt = NULL;
char	   *logq_topic_name = NULL;
LogqWaking	logq_waking = {.username = "", .password = ""};

/* values that must not show up in a text */
static char **secrets;
static int	nsecrets = 0;
static bool oauthbearer = false;

/* ---------- secrets ---------- */

/*
 * Is a property's value to be kept out of texts?  Rather too often than not.
 */
static bool
is_secret(const char *name)
{
	static const char *const words[] = {
		"password", "passphrase", "secret", "key", "pem", "oauthbearer",
		"token", "jaas", NULL
	};

	for (int i = 0; words[i] != NULL; i++)
	{
		if (strcasestr(name, words[i]) != NULL)
			return true;
	}
	return false;
}

/*
 * Mark what is a secret in a text, and what could be the beginning of one at
 * the text's end, where librdkafka or we may have cut it.
 */
static void
mark_secret(const char *text, size_t len, const char *secret, bool *mark)
{
	size_t		secret_len = strlen(secret);

	for (const char *p = text; (p = strstr(p, secret)) != NULL; p++)
		memset(mark + (p - text), true, secret_len);
	for (size_t part = secret_len - 1; part >= MIN_SECRET; part--)
	{
		if (part <= len && memcmp(text + len - part, secret, part) == 0)
		{
			memset(mark + (len - part), true, part);
			break;
		}
	}
}

/*
 * Take what must not be seen out of a text, of LOGQ_TEXT_SIZE at most: values
 * of secret properties, and the rest of one, which librdkafka quotes when it
 * does not understand it.  All secrets are looked for before any is taken out,
 * since one may be a part of another.
 */
void
logq_censor(char *text)
{
	bool		mark[LOGQ_TEXT_SIZE] = {false};
	size_t		len = strlen(text);
	char	   *to = text;

	if (len >= sizeof(mark))
		len = sizeof(mark) - 1;
	for (int i = 0; i < nsecrets; i++)
		mark_secret(text, len, secrets[i], mark);
	for (size_t i = 0; i < len; i++)
	{
		if (!mark[i])
			*to++ = text[i];
		else if (i == 0 || !mark[i - 1])
			*to++ = '*';
	}
	*to = '\0';
	if (oauthbearer && (to = strstr(text, "beginning at")) != NULL)
		*to = '\0';
}

/* ---------- properties ---------- */

/*
 * The next string of a frame, or NULL.
 */
static char *
next_string(char **p, const char *end)
{
	char	   *s = *p;
	char	   *nul = memchr(s, '\0', end - s);

	if (nul == NULL)
		return NULL;
	*p = nul + 1;
	return s;
}

static bool
is_named(const char *name, const char *other)
{
	return strcmp(name, other) == 0;
}

/*
 * Set one property; false: told why not.
 */
static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		text[LOGQ_TEXT_SIZE] = "";
	rd_kafka_conf_res_t res;

	if (is_secret(name) && strlen(value) >= MIN_SECRET)
	{
		secrets = logq_allocate(secrets, (nsecrets + 1) * sizeof(*secrets));
		secrets[nsecrets++] = logq_copy(value);
	}
	if (is_named(name, "sasl.username"))
		logq_waking.username = logq_copy(value);
	else if (is_named(name, "sasl.password"))
		logq_waking.password = logq_copy(value);
	else if (is_named(name, "sasl.mechanism") ||
			 is_named(name, "sasl.mechanisms"))
		oauthbearer = strcasecmp(value, "OAUTHBEARER") == 0;

	res = rd_kafka_conf_set(conf, name, value, text, sizeof(text));
	if (res == RD_KAFKA_CONF_OK)
		return true;
	if (res == RD_KAFKA_CONF_UNKNOWN)
		logq_fatal("librdkafka knows no property \"%s\"", name);
	else if (is_secret(name))
		logq_fatal("librdkafka does not accept the value of property \"%s\"",
				   name);
	else
		logq_fatal("librdkafka does not accept the value of property \"%s\": %s",
				   name, text);
	return false;
}

/*
 * What a property is, after all were set.
 */
static void
get_property(rd_kafka_conf_t *conf, const char *name, char *value, size_t size)
{
	if (rd_kafka_conf_get(conf, name, value, &size) != RD_KAFKA_CONF_OK)
		value[0] = '\0';
}

/*
 * Shall consume.c wake librdkafka's threads, and how often?  Four times for
 * each filling of the queue, so that it is never empty.  See wake_fetchers()
 * there also for why not with GSSAPI.
 */
static void
set_up_waking(rd_kafka_conf_t *conf, bool needed)
{
	char		value[128];
	bool		sasl;
	bool		gssapi;

	get_property(conf, "security.protocol", value, sizeof(value));
	sasl = strncasecmp(value, "sasl", 4) == 0;
	get_property(conf, "sasl.mechanisms", value, sizeof(value));
	gssapi = strcasestr(value, "GSSAPI") != NULL;
	logq_waking.needed = needed && !(sasl && gssapi);

	get_property(conf, "queued.max.messages.kbytes", value, sizeof(value));
	logq_waking.bytes = atoll(value[0] ? value : QUEUED_KBYTES) * 1024 / 4;
	get_property(conf, "queued.min.messages", value, sizeof(value));
	logq_waking.messages = atoll(value[0] ? value : QUEUED_MESSAGES) / 4;
}

/*
 * Give librdkafka all properties; false: told why not.
 */
static bool
set_properties(rd_kafka_conf_t *conf, char *p, const char *end,
			   const char **brokers)
{
	char		text[LOGQ_TEXT_SIZE];
	bool		must_wake;
	char	   *name;

	for (int i = 0; preferred[i].name != NULL; i++)
	{
		/* an older librdkafka need not know all of them */
		(void) rd_kafka_conf_set(conf, preferred[i].name, preferred[i].value,
								 text, sizeof(text));
	}
	must_wake = rd_kafka_conf_set(conf, "fetch.queue.backoff.ms", "10", text,
								  sizeof(text)) != RD_KAFKA_CONF_OK;
	while ((name = next_string(&p, end)) != NULL)
	{
		char	   *value = next_string(&p, end);

		if (value == NULL)
		{
			logq_fatal("the worker sent a property without a value");
			return false;
		}
		if (is_named(name, "bootstrap.servers"))
			*brokers = value;
		if (!set_property(conf, name, value))
			return false;
	}
	for (int i = 0; forced[i].name != NULL; i++)
	{
		if (!set_property(conf, forced[i].name, forced[i].value))
			return false;
	}
	set_up_waking(conf, must_wake);
	return true;
}

/*
 * Set up librdkafka as a SETUP or CHECK frame says; false: told why not.
 * What was made until then is left to the end of the program.
 */
bool
logq_set_up(char *p, const char *end)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	const char *brokers = "";
	const char *name = next_string(&p, end);
	char		text[LOGQ_TEXT_SIZE] = "";

	if (name == NULL || name[0] == '\0')
	{
		logq_fatal("the worker sent no topic");
		return false;
	}
	logq_topic_name = logq_copy(name);
	if (!set_properties(conf, p, end, &brokers))
		return false;

	/* both are called by rd_kafka_poll() only, on the main thread */
	rd_kafka_conf_set_error_cb(conf, logq_on_error);
	rd_kafka_conf_set_log_cb(conf, logq_on_log);
	if (oauthbearer)
		rd_kafka_conf_enable_sasl_queue(conf, 1);

	logq_rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	if (logq_rk == NULL)
	{
		logq_fatal("librdkafka cannot be set up like this: %s", text);
		return false;
	}
	rd_kafka_set_log_queue(logq_rk, NULL);
	if (oauthbearer)
	{
		/*
		 * Fetching a token may take long: not on the main thread.  It is an
		 * error if there is nothing to be fetched.
		 */
		rd_kafka_error_t *error;

		error = rd_kafka_sasl_background_callbacks_enable(logq_rk);
		if (error != NULL)
			rd_kafka_error_destroy(error);
	}
	if (rd_kafka_brokers_add(logq_rk, brokers) <= 0)
	{
		logq_fatal("no address of a broker in \"%s\"", brokers);
		return false;
	}
	logq_rkt = rd_kafka_topic_new(logq_rk, logq_topic_name, NULL);
	if (logq_rkt == NULL)
	{
		logq_fatal("librdkafka does not accept topic \"%s\": %s",
				   logq_topic_name, rd_kafka_err2str(rd_kafka_last_error()));
		return false;
	}
	return true;
}
