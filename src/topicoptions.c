/*-------------------------------------------------------------------------
 *
 * topicoptions.c
 *		What may be said about a topic: its name, brokers and options.
 *
 * Options are properties of librdkafka, but for those that begin with "logq.".
 * Properties that let librdkafka load code, run commands or write files are
 * refused to all, and those that name a file to be read to all who may not
 * read the server's files.  Whether a property exists, and what it may be set
 * to, only librdkafka knows: see logq_reader_check().
 *
 * Values of secret properties are in no error.  librdkafka's own messages may
 * quote them: see logq_topic_redact().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "topic.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include <arpa/inet.h>
#include <ctype.h>

/* Kafka's own limit */
#define MAX_NAME_LENGTH 249
/* parts of a secret that are as long as this are not shown either */
#define SECRET_PART 4

/* ---------- properties of librdkafka ---------- */

#define OFFSETS_HINT \
	"Offsets are kept on the partitions of logq, and there is no consumer group."
#define CODE_HINT "It would let the server load code, or run a command."
#define READER_HINT "It is set by logq, which relies on it."
#define TEXT_HINT "It cannot be given as text."

/* Those that are ours to set, or nobody's */
static const struct
{
	const char *name;
	const char *hint;
}			refused[] = {
	{"bootstrap.servers", "Name the brokers in the parameter \"brokers\"."},
	{"metadata.broker.list", "Name the brokers in the parameter \"brokers\"."},
	{"group.id", OFFSETS_HINT},
	{"group.instance.id", OFFSETS_HINT},
	{"enable.auto.commit", OFFSETS_HINT},
	{"auto.commit.enable", OFFSETS_HINT},
	{"enable.auto.offset.store", OFFSETS_HINT},
	{"offset.store.method", OFFSETS_HINT},
	{"offset.store.path", OFFSETS_HINT},
	{"auto.offset.reset", "Use the option \"logq.start\", and the setting logq.on_offset_loss."},
	{"isolation.level", "Only messages of committed transactions are taken in."},
	{"allow.auto.create.topics", "Topics are not created by reading them."},
	{"transactional.id", "Nothing is written to Kafka."},
	{"enable.partition.eof", READER_HINT},
	{"log.queue", READER_HINT},
	{"enabled_events", READER_HINT},
	{"opaque", TEXT_HINT},
	{"default_topic_conf", TEXT_HINT},
	{"interceptors", TEXT_HINT},
	{"plugin.library.paths", CODE_HINT},
	{"ssl.engine.location", CODE_HINT},
	{"ssl.engine.id", CODE_HINT},
	{"ssl.providers", CODE_HINT},
	{"sasl.kerberos.kinit.cmd", CODE_HINT}
};

static bool
ends_with(const char *s, const char *suffix)
{
	size_t		len = strlen(s);
	size_t		suffix_len = strlen(suffix);

	return len >= suffix_len && strcmp(s + len - suffix_len, suffix) == 0;
}

/*
 * Is a property's value nobody's business?
 */
static bool
is_secret(const char *name)
{
	if (strncmp(name, "logq.", 5) == 0 ||
		strcmp(name, "ssl.ca.pem") == 0 ||
		strcmp(name, "https.ca.pem") == 0 ||
		strcmp(name, "ssl.certificate.pem") == 0)
		return false;
	return strstr(name, "password") != NULL ||
		strstr(name, "passphrase") != NULL ||
		strstr(name, "secret") != NULL ||
		strstr(name, "oauthbearer.config") != NULL ||
		strstr(name, "ssl.keystore") != NULL ||
		strstr(name, "jaas") != NULL ||
		ends_with(name, ".key") || ends_with(name, ".pem");
}

/*
 * Is it the name of a file that librdkafka reads?
 */
static bool
is_file(const char *name)
{
	return ends_with(name, ".location") || ends_with(name, ".file") ||
		strcmp(name, "sasl.kerberos.keytab") == 0;
}

/*
 * May a property be set at all?
 */
static void
check_property(const LogqTopicOption *option)
{
	const char *name = option->name;
	const char *hint = NULL;
	int			i;

	/* librdkafka takes "topic.NAME" for a topic's property NAME */
	if (strncmp(name, "topic.", 6) == 0)
		name += 6;
	for (i = 0; i < lengthof(refused); i++)
		if (strcmp(name, refused[i].name) == 0)
			hint = refused[i].hint;
	if (ends_with(option->name, "_cb"))
		hint = TEXT_HINT;
	if (hint != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("property \"%s\" cannot be set", option->name),
				 errhint("%s", hint)));

	/* librdkafka puts these into a command for a shell */
	if ((strcmp(option->name, "sasl.kerberos.principal") == 0 ||
		 strcmp(option->name, "sasl.kerberos.keytab") == 0) &&
		(option->text[0] == '-' ||
		 option->text[strspn(option->text,
							 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
							 "._-/@:")] != '\0'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for property \"%s\"", option->name),
				 errhint("Use letters, digits, and the characters . _ - / @ : only.")));
}

/*
 * May the current user set a property?
 */
void
logq_topic_check_privilege(const char *name)
{
	if (!is_file(name) ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set property \"%s\"", name),
			 errdetail("Only roles with privileges of the role \"%s\" may name files of the server.",
					   "pg_read_server_files"),
			 errhint("Certificates and keys can be given as text, in properties such as \"ssl.ca.pem\".")));
}

/*
 * May the current user let the reader prove who it is by what belongs to the
 * server: Kerberos tickets and keytabs of its operating system's user, or the
 * identity that a cloud gives to the machine?  Tokens would even be sent to
 * any broker that the user names.
 */
void
logq_topic_check_identity(const LogqTopic *topic)
{
	const char *mechanism = "GSSAPI";	/* librdkafka's default */
	const char *what = NULL;
	bool		sasl = false;
	int			i;

	for (i = 0; i < topic->nproperties; i++)
	{
		const char *name = topic->properties[2 * i];
		const char *value = topic->properties[2 * i + 1];

		if (strcmp(name, "security.protocol") == 0)
			sasl = pg_strncasecmp(value, "sasl", 4) == 0;
		else if (strcmp(name, "sasl.mechanism") == 0 ||
				 strcmp(name, "sasl.mechanisms") == 0)
			mechanism = value;
		else if (strcmp(name, "sasl.oauthbearer.metadata.authentication.type") == 0 &&
				 strcmp(value, "none") != 0)
			what = name;
	}
	if (sasl && pg_strcasecmp(mechanism, "GSSAPI") == 0)
		what = "sasl.mechanism";
	if (what == NULL ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set property \"%s\"", what),
			 errdetail("Only roles with privileges of the role \"%s\" may use the server's own credentials.",
					   "pg_read_server_files"),
			 errhint("Set \"sasl.mechanism\" to one that uses a password or a client secret.")));
}

/*
 * A text without what is secret in a topic's properties.  librdkafka may quote
 * only a part of a value, such as all from where it understands no more.
 */
char *
logq_topic_redact(const LogqTopic *topic, const char *text)
{
	char	   *result = pstrdup(text);
	int			len = strlen(result);
	char	   *mark = palloc0(len + 1);
	StringInfoData buf;
	int			i;
	int			k;

	for (k = 0; k < topic->nproperties; k++)
	{
		const char *secret = topic->properties[2 * k + 1];
		int			part = Min(strlen(secret), SECRET_PART);

		if (part == 0 || !is_secret(topic->properties[2 * k]))
			continue;
		for (i = 0; i + part <= len; i++)
		{
			char		saved = result[i + part];

			result[i + part] = '\0';
			if (strstr(secret, result + i) != NULL)
				memset(mark + i, 1, part);
			result[i + part] = saved;
		}
	}

	/* no half of a character is left over */
	for (i = 1; i < len; i++)
		if (mark[i - 1] && IS_HIGHBIT_SET(result[i]))
			mark[i] = 1;
	for (i = len - 1; i > 0; i--)
		if (mark[i] && IS_HIGHBIT_SET(result[i]) &&
			IS_HIGHBIT_SET(result[i - 1]))
			mark[i - 1] = 1;
	initStringInfo(&buf);
	for (i = 0; i < len; i++)
	{
		if (!mark[i])
			appendStringInfoChar(&buf, result[i]);
		else if (i == 0 || !mark[i - 1])
			appendStringInfoString(&buf, "***");
	}
	pfree(mark);
	pfree(result);
	return buf.data;
}

/* ---------- options ---------- */

/*
 * Members of a JSON object, as a list of LogqTopicOption.
 */
List *
logq_topic_read_options(Jsonb *jb)
{
	List	   *options = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	LogqTopicOption *option = NULL;

	if (!JB_ROOT_IS_OBJECT(jb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errhint("Write them as {\"name\": \"value\", ...}.")));
	it = JsonbIteratorInit(&jb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			option = palloc0(sizeof(LogqTopicOption));
			option->name = pnstrdup(v.val.string.val, v.val.string.len);
			if (option->name[0] == '\0')
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("an option has no name")));
		}
		else if (token == WJB_VALUE)
		{
			switch (v.type)
			{
				case jbvString:
					option->text = pnstrdup(v.val.string.val,
											v.val.string.len);
					break;
				case jbvNumeric:
					option->text = DatumGetCString(DirectFunctionCall1(numeric_out,
																	   NumericGetDatum(v.val.numeric)));
					break;
				case jbvBool:
					option->text = pstrdup(v.val.boolean ? "true" : "false");
					break;
				default:
					ereport(ERROR,
							(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							 errmsg("value of option \"%s\" is not a string, a number, true or false",
									option->name)));
			}
			option->value = v;
			options = lappend(options, option);
		}
	}
	return options;
}

/*
 * A value of one of our own options is not what it should be.
 */
static void
report_option_value(const LogqTopicOption *option, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"",
					option->name, option->text),
			 errhint("%s", hint)));
}

/*
 * Take one of our own options.
 */
static void
apply_own_option(LogqTopic *topic, const LogqTopicOption *option)
{
	const char *value = option->text;
	bool		is_text = option->value.type == jbvString;

	if (strcmp(option->name, "logq.key") == 0)
	{
		if (!is_text || (strcmp(value, "service") != 0 &&
						 strcmp(value, "trace_id") != 0 &&
						 strcmp(value, "message") != 0 &&
						 (strncmp(value, "attrs.", 6) != 0 ||
						  value[6] == '\0')))
			report_option_value(option, "A message's key can fill \"service\", \"trace_id\", \"message\", or \"attrs.NAME\" for a field of attrs.");
		topic->key_field = pstrdup(value);
	}
	else if (strcmp(option->name, "logq.service") == 0)
	{
		if (!is_text || value[0] == '\0')
			report_option_value(option, "Give a text, which is the service of rows that have none.");
		topic->service = pstrdup(value);
	}
	else if (strcmp(option->name, "logq.start") == 0)
	{
		topic->start_latest = strcmp(value, "latest") == 0;
		if (!topic->start_latest && strcmp(value, "earliest") != 0)
			report_option_value(option, "A topic that was never taken in before is begun at \"earliest\" or \"latest\".");
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized option \"%s\"", option->name),
				 errhint("Options of logq are \"logq.key\", \"logq.service\" and \"logq.start\"; all others are properties of librdkafka.")));
}

/*
 * Take options, all of them or more of them.
 */
void
logq_topic_apply_options(LogqTopic *topic, List *options)
{
	ListCell   *lc;
	int			room = 2 * (topic->nproperties + list_length(options) + 1);

	topic->properties = topic->properties == NULL ?
		palloc(room * sizeof(char *)) :
		repalloc(topic->properties, room * sizeof(char *));
	foreach(lc, options)
	{
		const LogqTopicOption *option = lfirst(lc);

		if (strncmp(option->name, "logq.", 5) == 0)
			apply_own_option(topic, option);
		else
		{
			check_property(option);
			topic->properties[2 * topic->nproperties] = pstrdup(option->name);
			topic->properties[2 * topic->nproperties + 1] = pstrdup(option->text);
			topic->nproperties++;
		}
	}
}

/*
 * Those options that are secret, or all others, as JSON; *n: how many.
 */
Datum
logq_topic_select_options(List *options, bool secret, int *n)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;
	ListCell   *lc;

	*n = 0;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach(lc, options)
	{
		LogqTopicOption *option = lfirst(lc);
		JsonbValue	key;

		if (is_secret(option->name) != secret)
			continue;
		key.type = jbvString;
		key.val.string.val = option->name;
		key.val.string.len = strlen(option->name);
		(void) pushJsonbValue(&state, WJB_KEY, &key);
		(void) pushJsonbValue(&state, WJB_VALUE, &option->value);
		(*n)++;
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

/* ---------- name, brokers, format ---------- */

/*
 * Is it a name that Kafka allows?
 */
void
logq_topic_check_name(const char *name)
{
	static const char legal[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

	if (strlen(name) > MAX_NAME_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic name is too long"),
				 errdetail("Kafka allows up to %d characters.",
						   MAX_NAME_LENGTH)));
	if (name[0] == '\0' || name[strspn(name, legal)] != '\0' ||
		strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic name \"%s\"", name),
				 errdetail("Kafka allows letters, digits, dots, underscores and hyphens, but neither \".\" nor \"..\".")));
}

/*
 * What is wrong with one of the brokers, or NULL.
 */
static const char *
broker_problem(char *broker)
{
	char	   *port;
	int			number = 0;
	const char *p;

	if (broker[0] == '\0')
		return "It is empty.";
	if (strstr(broker, "://") != NULL)
		return "The protocol is not a part of it: use the property \"security.protocol\".";
	if (broker[0] == '[')
	{
		char	   *end = strchr(broker, ']');
		char		address[64];
		struct in6_addr in6;

		if (end == NULL)
			return "A bracket is not closed.";
		strlcpy(address, broker + 1, Min(end - broker, sizeof(address)));
		if (inet_pton(AF_INET6, address, &in6) != 1)
			return "What stands in brackets is not an IPv6 address.";
		if (end[1] != ':')
			return "It has no port.";
		port = end + 2;
	}
	else
	{
		port = strchr(broker, ':');
		if (port == NULL)
			return "It has no port.";
		if (port == broker)
			return "It has no host.";
		if (strspn(broker, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") !=
			port - broker)
			return "Its host has characters that are not letters, digits, dots, hyphens or underscores.";
		if (strchr(port + 1, ':') != NULL)
			return "An IPv6 address must stand in brackets.";
		port++;
	}
	for (p = port; *p >= '0' && *p <= '9' && number <= 65535; p++)
		number = number * 10 + (*p - '0');
	if (*p != '\0' || number < 1 || number > 65535)
		return "Its port is not a number from 1 to 65535.";
	return NULL;
}

/*
 * Check a list of brokers, and write it as librdkafka wants it.
 */
char *
logq_topic_brokers(const char *brokers)
{
	char	   *rest = pstrdup(brokers);
	StringInfoData buf;

	initStringInfo(&buf);
	while (rest != NULL)
	{
		char	   *broker = rest;
		const char *problem;
		int			len;

		rest = strchr(broker, ',');
		if (rest != NULL)
			*rest++ = '\0';
		while (isspace((unsigned char) *broker))
			broker++;
		len = strlen(broker);
		while (len > 0 && isspace((unsigned char) broker[len - 1]))
			broker[--len] = '\0';
		problem = broker_problem(broker);
		if (problem != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid broker \"%s\"", broker),
					 errdetail("%s", problem),
					 errhint("Write brokers as host:port, separated by commas; an IPv6 address stands in brackets.")));
		if (buf.len > 0)
			appendStringInfoChar(&buf, ',');
		appendStringInfoString(&buf, broker);
	}
	return buf.data;
}
