/*-------------------------------------------------------------------------
 *
 * topic.c
 *		logq.add_topic() and the like, and what is in their tables.
 *
 * A topic is a row of logq.topic, and of logq.topic_secret when it has
 * properties that are secret.  Whoever may execute the functions may use them:
 * they write as the owner of the tables, so that nobody else needs privileges
 * on these, and nobody gets round the rules for options.
 *
 * Reading takes the rows as they are now, without asking for privileges, as
 * workers and logq.stat_ingest do it for everybody.  What was written round
 * logq.add_topic() is checked again then, but for the files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "topic.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "contents.h"
#include "maintain.h"

PG_FUNCTION_INFO_V1(logq_add_topic);
PG_FUNCTION_INFO_V1(logq_remove_topic);
PG_FUNCTION_INFO_V1(logq_pause_topic);
PG_FUNCTION_INFO_V1(logq_resume_topic);
PG_FUNCTION_INFO_V1(logq_topic_changed);

#define NO_WORKER_DETAIL "Without one, no topic is taken in."

/* columns of logq.topic and logq.topic_secret that we read */
enum
{
	TOPIC_NUMBER = 1,
	TOPIC_NAME,
	TOPIC_BROKERS,
	TOPIC_FORMAT,
	TOPIC_OPTIONS,
	TOPIC_PAUSED
};

enum
{
	SECRET_NUMBER = 1,
	SECRET_OPTIONS
};

/* ---------- writing ---------- */

/* What to go back to */
typedef struct OwnerState
{
	Oid			userid;
	int			context;
	int			guc_level;
} OwnerState;

/*
 * Oid of one of our tables; InvalidOid: the extension is not there.
 */
static Oid
find_table(const char *name)
{
	Oid			schema = get_namespace_oid("logq", true);

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

/*
 * From here on SPI runs as the owner of logq.topic, and no names of the
 * caller's get in its way.  An error undoes it.
 */
static void
become_owner(OwnerState *before)
{
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(find_table("topic")));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"logq.topic\" does not exist"),
				 errhint("Run CREATE EXTENSION logq in this database.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	before->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	GetUserIdAndSecContext(&before->userid, &before->context);
	SetUserIdAndSecContext(owner,
						   before->context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
}

static void
become_user(const OwnerState *before)
{
	SPI_finish();
	SetUserIdAndSecContext(before->userid, before->context);
	AtEOXact_GUC(true, before->guc_level);
}

/*
 * Run SQL as the owner.  True: there was a row for it, and *number (unless
 * NULL) is its first column.
 */
static bool
run_as_owner(const char *sql, int nargs, Oid *types, Datum *values,
			 int32 *number)
{
	bool		isnull;

	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	if (SPI_processed == 0)
		return false;
	if (number != NULL)
		*number = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1,
											  &isnull));
	return true;
}

/*
 * Write a topic and its secrets; returns its number.
 */
static int32
write_topic(const LogqTopic *topic, const char *format, List *options)
{
	OwnerState	before;
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, JSONBOID};
	Datum		values[4];
	Oid			secret_types[2] = {INT4OID, JSONBOID};
	Datum		secret_values[2];
	int32		number = 0;
	int			n;

	values[0] = CStringGetTextDatum(topic->name);
	values[1] = CStringGetTextDatum(topic->brokers);
	values[2] = CStringGetTextDatum(format);
	values[3] = logq_topic_select_options(options, false, &n);
	secret_values[1] = logq_topic_select_options(options, true, &n);

	become_owner(&before);
	/* the first does what the second would, but takes no new number */
	if (!run_as_owner("UPDATE logq.topic SET brokers = $2, format = $3, options = $4 "
					  "WHERE name = $1 RETURNING number",
					  4, types, values, &number))
		(void) run_as_owner("INSERT INTO logq.topic (name, brokers, format, options) "
							"VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE "
							"SET brokers = excluded.brokers, format = excluded.format, "
							"options = excluded.options RETURNING number",
							4, types, values, &number);
	secret_values[0] = Int32GetDatum(number);
	if (n == 0)
		(void) run_as_owner("DELETE FROM logq.topic_secret WHERE number = $1",
							1, secret_types, secret_values, NULL);
	else
		(void) run_as_owner("INSERT INTO logq.topic_secret (number, options) VALUES ($1, $2) "
							"ON CONFLICT (number) DO UPDATE SET options = excluded.options",
							2, secret_types, secret_values, NULL);
	become_user(&before);
	return number;
}

/*
 * A parameter of logq.add_topic() that must not be null.
 */
static Datum
get_parameter(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return PG_GETARG_DATUM(i);
}

/*
 * logq.add_topic(name, brokers, format, options) returns number
 */
Datum
logq_add_topic(PG_FUNCTION_ARGS)
{
	LogqTopic	topic = {0};
	char	   *format;
	List	   *options;
	ListCell   *lc;
	char	   *problem;
	int32		number;

	topic.name = TextDatumGetCString(get_parameter(fcinfo, 0, "name"));
	topic.brokers = TextDatumGetCString(get_parameter(fcinfo, 1, "brokers"));
	format = TextDatumGetCString(get_parameter(fcinfo, 2, "format"));
	options = logq_topic_read_options(DatumGetJsonbP(get_parameter(fcinfo, 3, "options")));

	logq_topic_check_name(topic.name);
	topic.brokers = logq_topic_brokers(topic.brokers);
	if (!logq_format_by_name(format, &topic.format))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized format \"%s\"", format),
				 errhint("Formats are \"auto\", \"json\", \"otlp\", \"fluentbit\", \"vector\" and \"raw\".")));
	logq_topic_apply_options(&topic, options);
	foreach(lc, options)
		logq_topic_check_privilege(((LogqTopicOption *) lfirst(lc))->name);
	logq_topic_check_identity(&topic);
	problem = logq_reader_check(&topic);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of topic \"%s\" are not valid", topic.name),
				 errdetail("%s", logq_topic_redact(&topic, problem))));

	number = write_topic(&topic, format, options);
	logq_warn_without_worker(NO_WORKER_DETAIL);
	PG_RETURN_INT32(number);
}

/*
 * Run SQL that is to change the topic of a name.
 */
static void
change_topic(const char *sql, Datum name)
{
	OwnerState	before;
	Oid			type = TEXTOID;
	bool		found;

	become_owner(&before);
	found = run_as_owner(sql, 1, &type, &name, NULL);
	become_user(&before);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist",
						TextDatumGetCString(name)),
				 errhint("See the view \"logq.stat_ingest\" for those there are.")));
}

/*
 * logq.remove_topic(name)
 */
Datum
logq_remove_topic(PG_FUNCTION_ARGS)
{
	change_topic("DELETE FROM logq.topic WHERE name = $1",
				 PG_GETARG_DATUM(0));
	PG_RETURN_VOID();
}

/*
 * logq.pause_topic(name)
 */
Datum
logq_pause_topic(PG_FUNCTION_ARGS)
{
	change_topic("UPDATE logq.topic SET paused = true WHERE name = $1",
				 PG_GETARG_DATUM(0));
	PG_RETURN_VOID();
}

/*
 * logq.resume_topic(name)
 */
Datum
logq_resume_topic(PG_FUNCTION_ARGS)
{
	change_topic("UPDATE logq.topic SET paused = false WHERE name = $1",
				 PG_GETARG_DATUM(0));
	logq_warn_without_worker(NO_WORKER_DETAIL);
	PG_RETURN_VOID();
}

/*
 * Trigger on both tables, which a restored dump changes, too.
 */
Datum
logq_topic_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"topic_changed")));
	logq_topics_changed();
	return PointerGetDatum(NULL);
}

/* ---------- reading ---------- */

/* A scan of one of our tables */
typedef struct TableReader
{
	Relation	rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
} TableReader;

/*
 * Begin; false: the table is not there.
 */
static bool
open_table(TableReader *reader, const char *name, Snapshot snapshot)
{
	Oid			relid = find_table(name);

	if (!OidIsValid(relid))
		return false;
	reader->rel = table_open(relid, AccessShareLock);
	reader->scan = table_beginscan(reader->rel, snapshot, 0, NULL);
	reader->slot = table_slot_create(reader->rel, NULL);
	return true;
}

static bool
next_row(TableReader *reader)
{
	return table_scan_getnextslot(reader->scan, ForwardScanDirection,
								  reader->slot);
}

static void
close_table(TableReader *reader)
{
	ExecDropSingleTupleTableSlot(reader->slot);
	table_endscan(reader->scan);
	table_close(reader->rel, AccessShareLock);
}

/*
 * A column of the current row; all are NOT NULL.
 */
static Datum
get_column(TableReader *reader, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(reader->slot, column, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table \"%s\" has a null in column %d",
						RelationGetRelationName(reader->rel), column)));
	return value;
}

/*
 * A row of logq.topic as it stands there; the options of it are added to.
 */
static LogqTopic *
read_topic(TableReader *reader)
{
	LogqTopic  *topic = palloc0(sizeof(LogqTopic));
	char	   *format;

	topic->number = DatumGetInt32(get_column(reader, TOPIC_NUMBER));
	topic->name = TextDatumGetCString(get_column(reader, TOPIC_NAME));
	topic->brokers = TextDatumGetCString(get_column(reader, TOPIC_BROKERS));
	format = TextDatumGetCString(get_column(reader, TOPIC_FORMAT));
	topic->paused = DatumGetBool(get_column(reader, TOPIC_PAUSED));
	if (!logq_format_by_name(format, &topic->format))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized format \"%s\"", format)));
	logq_topic_apply_options(topic, logq_topic_read_options(DatumGetJsonbP(get_column(reader,
																TOPIC_OPTIONS))));
	return topic;
}

static char *
copy_text(const char *text)
{
	return text != NULL ? pstrdup(text) : NULL;
}

static LogqTopic *
copy_topic(const LogqTopic *topic)
{
	LogqTopic  *copy = palloc(sizeof(LogqTopic));
	int			i;

	*copy = *topic;
	copy->name = pstrdup(topic->name);
	copy->brokers = pstrdup(topic->brokers);
	copy->key_field = copy_text(topic->key_field);
	copy->service = copy_text(topic->service);
	copy->properties = palloc((2 * topic->nproperties + 1) * sizeof(char *));
	for (i = 0; i < 2 * topic->nproperties; i++)
		copy->properties[i] = pstrdup(topic->properties[i]);
	return copy;
}

/*
 * The topic of a name, or else of a number.  Only what is returned stays in
 * the caller's memory, which may be there for long.
 */
static LogqTopic *
load_topic(const char *name, int32 number)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext cxt = AllocSetContextCreate(CurTransactionContext,
											  "logq topic",
											  ALLOCSET_SMALL_SIZES);
	LogqTopic  *topic = NULL;
	Snapshot	snapshot;
	TableReader reader;

	MemoryContextSwitchTo(cxt);
	snapshot = logq_latest_snapshot();
	if (open_table(&reader, "topic", snapshot))
	{
		while (topic == NULL && next_row(&reader))
		{
			if (name == NULL ?
				DatumGetInt32(get_column(&reader, TOPIC_NUMBER)) == number :
				strcmp(TextDatumGetCString(get_column(&reader, TOPIC_NAME)),
					   name) == 0)
				topic = read_topic(&reader);
		}
		close_table(&reader);
	}
	if (topic != NULL && open_table(&reader, "topic_secret", snapshot))
	{
		while (next_row(&reader))
			if (DatumGetInt32(get_column(&reader, SECRET_NUMBER)) == topic->number)
				logq_topic_apply_options(topic, logq_topic_read_options(DatumGetJsonbP(get_column(&reader,
																			SECRET_OPTIONS))));
		close_table(&reader);
	}
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(old);
	if (topic != NULL)
		topic = copy_topic(topic);
	MemoryContextDelete(cxt);
	return topic;
}

LogqTopic *
logq_topic_load(int32 number)
{
	return load_topic(NULL, number);
}

LogqTopic *
logq_topic_load_by_name(const char *name)
{
	return load_topic(name, 0);
}

static int
compare_rows(const ListCell *a, const ListCell *b)
{
	const LogqTopicRow *left = lfirst(a);
	const LogqTopicRow *right = lfirst(b);

	return left->number < right->number ? -1 : left->number > right->number;
}

/*
 * All rows of logq.topic.
 */
List *
logq_topic_rows(void)
{
	List	   *rows = NIL;
	Snapshot	snapshot;
	TableReader reader;

	if (!OidIsValid(get_extension_oid("logq", true)))
		return NIL;
	snapshot = logq_latest_snapshot();
	if (open_table(&reader, "topic", snapshot))
	{
		while (next_row(&reader))
		{
			LogqTopicRow *row = palloc(sizeof(LogqTopicRow));

			row->number = DatumGetInt32(get_column(&reader, TOPIC_NUMBER));
			row->name = TextDatumGetCString(get_column(&reader, TOPIC_NAME));
			row->paused = DatumGetBool(get_column(&reader, TOPIC_PAUSED));
			rows = lappend(rows, row);
		}
		close_table(&reader);
	}
	UnregisterSnapshot(snapshot);
	list_sort(rows, compare_rows);
	return rows;
}

/* ---------- topics in memory ---------- */

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/*
 * Are they read, and their messages understood, in the same way?
 */
bool
logq_topic_equal(const LogqTopic *a, const LogqTopic *b)
{
	int			i;

	if (a->number != b->number || a->format != b->format ||
		a->start_latest != b->start_latest ||
		a->nproperties != b->nproperties ||
		strcmp(a->name, b->name) != 0 ||
		strcmp(a->brokers, b->brokers) != 0 ||
		!same_text(a->key_field, b->key_field) ||
		!same_text(a->service, b->service))
		return false;
	for (i = 0; i < 2 * a->nproperties; i++)
		if (strcmp(a->properties[i], b->properties[i]) != 0)
			return false;
	return true;
}

void
logq_topic_free(LogqTopic *topic)
{
	int			i;

	if (topic == NULL)
		return;
	for (i = 0; i < 2 * topic->nproperties; i++)
		pfree(topic->properties[i]);
	pfree(topic->properties);
	if (topic->key_field != NULL)
		pfree(topic->key_field);
	if (topic->service != NULL)
		pfree(topic->service);
	pfree(topic->name);
	pfree(topic->brokers);
	pfree(topic);
}
