/*-------------------------------------------------------------------------
 *
 * topic.h
 *		What topic.c wants of topicoptions.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOGQ_TOPIC_H
#define LOGQ_TOPIC_H

#include "ingest.h"

#include "utils/jsonb.h"

/* An option as it was given */
typedef struct LogqTopicOption
{
	char	   *name;
	char	   *text;			/* its value, in librdkafka's spelling */
	JsonbValue	value;
} LogqTopicOption;

/* is it a name that Kafka allows?  Errors are thrown, here and below. */
extern void logq_topic_check_name(const char *name);
/* check a list of brokers, and write it as librdkafka wants it */
extern char *logq_topic_brokers(const char *brokers);
/* members of a JSON object, as a list of LogqTopicOption */
extern List *logq_topic_read_options(Jsonb *jb);
/* check options, and take them, besides those that the topic has already */
extern void logq_topic_apply_options(LogqTopic *topic, List *options);
/* may the current user set an option? */
extern void logq_topic_check_privilege(const char *name);
/* may the current user let the topic use what the server itself can prove? */
extern void logq_topic_check_identity(const LogqTopic *topic);
/* those options that are secret, or all others, as jsonb; *n: how many */
extern Datum logq_topic_select_options(List *options, bool secret, int *n);

#endif							/* LOGQ_TOPIC_H */
