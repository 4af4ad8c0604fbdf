/*-------------------------------------------------------------------------
 *
 * ingestopen.c
 *		Where a topic begins: the offsets that the partitions have.
 *
 * Each sink has a row for each kpart in logq_store.kafka_offset: it holds all
 * rows that are routed to it of all messages before next_offset.  Sinks commit
 * one by one, so after a crash one may be ahead of another.  The reader then
 * begins at the lowest offset, and each sink skips what it has.  That is right
 * only if every message becomes the same rows, and these are routed, as before.
 * So a row also says what its routing was: an epoch, by what rows are routed,
 * the partitions, and the settings of the parser.
 *
 * Rules, for each kpart:
 *
 *	- The highest epoch counts.  Its partitions, less those that are gone, are
 *	  the participants.
 *	- If one of them does not have that epoch yet, somebody was about to begin
 *	  it.  No row has been written by it then, and all that have it agree on the
 *	  offset, which is where it begins.
 *	- If all participants agree on the offset, nothing is half done, and a new
 *	  epoch with today's partitions and setting may begin there.  It is first
 *	  noted on all of its partitions ("adopted"), then used.
 *	- Otherwise the old routing is used until they agree: the run is catching
 *	  up, and is followed by another one.
 *
 * A partition that was removed and added again has rows of an old epoch, whose
 * offsets mean nothing: it is not a participant, and gets the offset of a new
 * epoch.
 *
 * If a partition is removed with force while others are ahead of it, the rows
 * that it would have got of those messages go where they are not skipped, or
 * nowhere.  It had taken others of the same second with it.
 *
 * Failure cases: another coordinator that takes in the same topic is kept out
 * by an advisory lock on each partition, taken in the order of their numbers
 * and held as long as the connection.  It only saves both from trouble.  What
 * makes sure is the fence in move_offsets().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingestrun.h"
#include "maintain.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* how long a partition may be silent while we wait for it */
#define ANSWER_MS 10000
/* how often, and after what time each, the lock is tried */
#define LOCK_TRIES 10
/*
 * The session holds a lock: when we vanish without a word, it shall notice in
 * half a minute and not after the two hours of an operating system.  It is
 * idle when the topic is.
 */
#define KEEP_SQL \
	"SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; " \
	"SET tcp_keepalives_count = 3; SET tcp_user_timeout = 30000; " \
	"SET idle_session_timeout = 0; "
#define LOCK_TRY_MS 100
/*
 * How long a Kafka partition must have ended before the offset that is next
 * until we believe that it was made anew: a broker that was killed may not
 * know the end of its log at once.
 */
#define BEYOND_END_MS 15000
/*
 * Seen again after a longer time, it counts as another time.  Runs that fail
 * begin every half a minute.
 */
#define BEYOND_FORGET_MS 90000

/* ---------- sinks ---------- */

/*
 * The partitions of now become the run's sinks, by their numbers.
 */
void
logq_run_find_sinks(LogqRun *run)
{
	List	   *parts = logq_partitions();
	MemoryContext old = MemoryContextSwitchTo(run->cxt);
	ListCell   *lc;

	run->nsinks = 0;
	run->sinks = palloc0((list_length(parts) + 1) * sizeof(LogqSink));
	foreach(lc, parts)
	{
		LogqSink   *sink = &run->sinks[run->nsinks++];

		sink->part = lfirst(lc);
		sink->serverid = sink->part->serverid;
		sink->run = run;
		sink->cxt = run->cxt;
		sink->lower = DT_NOEND;
		sink->upper = DT_NOBEGIN;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Are the partitions, and the way to route, those that the run began with?
 */
bool
logq_run_is_current(const LogqRun *run)
{
	List	   *parts = logq_partitions();
	ListCell   *lc;
	int			i = 0;

	if (list_length(parts) != run->nsinks)
		return false;
	foreach(lc, parts)
	{
		const LogqSink *sink = &run->sinks[i++];

		if (sink->part != lfirst(lc) ||
			sink->serverid != sink->part->serverid ||
			(sink->conn != NULL && sink->conn->stale))
			return false;
	}
	if (run->open && !run->catching_up)
		for (i = 0; i < run->nkparts; i++)
			if (run->kparts[i].routing->by != (LogqRouteBy) logq_route_by ||
				run->kparts[i].routing->reading->max_bytes !=
				logq_ingest_max_message * 1024)
				return false;
	return true;
}

/*
 * Who holds the advisory lock that we want, as far as we may know.
 */
static char *
lock_holder(LogqConn *conn, const char *key)
{
	PGresult   *res;
	char	   *holder = NULL;

	res = logq_conn_exec(conn,
						 psprintf("SELECT pg_catalog.concat_ws(' ', a.application_name, "
								  "'from ' || a.client_addr::pg_catalog.text, "
								  "'since ' || a.backend_start::pg_catalog.text) "
								  "FROM pg_catalog.pg_locks l "
								  "JOIN pg_catalog.pg_stat_activity a USING (pid) "
								  "WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted "
								  "AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
								  "AND ((l.classid::pg_catalog.int8 << 32) | l.objid::pg_catalog.int8) = %s",
								  key));
	if (PQntuples(res) > 0 && PQgetvalue(res, 0, 0)[0] != '\0')
		holder = pstrdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return holder;
}

/*
 * Connect a sink, and make the topic ours on it.
 */
void
logq_sink_connect(LogqRun *run, LogqSink *sink)
{
	PGresult   *res;
	char	   *key;
	bool		locked;
	int			try;

	Assert(sink->conn == NULL);
	sink->conn = logq_worker_connect(sink->part);
	logq_conn_wait_ready(sink->conn);
	sink->conn->io_timeout = ANSWER_MS;
	/* messages are in UTF-8, whatever the databases are in */
	PQclear(logq_conn_exec(sink->conn,
						   psprintf("SET client_encoding = 'UTF8'; "
									KEEP_SQL
									"SET application_name = %s",
									quote_literal_cstr(psprintf("logq ingest %s",
																run->topic->name)))));
	key = psprintf("pg_catalog.hashtextextended(%s, 8161)",
				   quote_literal_cstr(psprintf("logq/%s/%s", run->cluster,
											   run->topic->name)));
	for (try = 0, locked = false; !locked && try < LOCK_TRIES; try++)
	{
		/* a connection of ours that we have closed may not be over yet */
		if (try > 0)
			(void) logq_conn_wait(sink->conn, WL_SOCKET_READABLE,
								  TimestampTzPlusMilliseconds(logq_now(),
															  LOCK_TRY_MS));
		res = logq_conn_exec(sink->conn,
							 psprintf("SELECT pg_catalog.pg_try_advisory_lock(%s)",
									  key));
		locked = PQgetvalue(res, 0, 0)[0] == 't';
		PQclear(res);
	}
	if (!locked)
	{
		char	   *holder = lock_holder(sink->conn, key);

		ereport(ERROR,
				(errcode(ERRCODE_LOGQ_FENCED),
				 errmsg("somebody else takes in topic \"%s\" to partition \"%s\"",
						run->topic->name, sink->part->name),
				 holder ? errdetail("It is \"%s\".", holder) : 0,
				 errhint("Let only one coordinator take in a topic: call logq.remove_topic() on all others.")));
	}
	sink->phase = SINK_IDLE;
	sink->events = WL_SOCKET_READABLE;
	sink->ready = 0;
	sink->lower = DT_NOEND;
	sink->upper = DT_NOBEGIN;
}

/*
 * Index of a kpart by its number, -1: there is none.
 */
int
logq_run_kpart(const LogqRun *run, int32 number)
{
	int			i;

	/* they are numbered from 0 without gaps, as a rule */
	if (number >= 0 && number < run->nkparts &&
		run->kparts[number].number == number)
		return number;
	for (i = 0; i < run->nkparts; i++)
		if (run->kparts[i].number == number)
			return i;
	return -1;
}

/*
 * Read a sink's offsets into next and, if it is not NULL, routing.
 */
static void
read_offsets(LogqRun *run, LogqSink *sink, int64 *next, char **routing)
{
	PGresult   *res;
	int			i;

	for (i = 0; i < run->nkparts; i++)
		next[i] = -1;
	res = logq_conn_exec(sink->conn,
						 psprintf("SELECT kafka_partition, next_offset, routing FROM "
								  LOGQ_STORE_SCHEMA ".kafka_offset "
								  "WHERE cluster = %s AND topic = %s",
								  quote_literal_cstr(run->cluster),
								  quote_literal_cstr(run->topic->name)));
	for (i = 0; i < PQntuples(res); i++)
	{
		int			k = logq_run_kpart(run, atoi(PQgetvalue(res, i, 0)));

		if (k < 0)
			continue;
		next[k] = strtoll(PQgetvalue(res, i, 1), NULL, 10);
		if (routing != NULL)
			routing[k] = MemoryContextStrdup(run->cxt, PQgetvalue(res, i, 2));
	}
	PQclear(res);
}

/*
 * The connection was lost, perhaps while a share was written; there is a new
 * one.  Has it been committed?  Anything but all or nothing means that somebody
 * else was here, or that the partition was restored from a backup.
 */
bool
logq_sink_was_committed(LogqRun *run, LogqSink *sink)
{
	int64	   *next = palloc(run->nkparts * sizeof(int64));
	bool		all = true;
	bool		none = true;
	int			i;

	read_offsets(run, sink, next, NULL);
	for (i = 0; i < run->nkparts; i++)
	{
		int64		to = sink->next[i];

		if (sink->share != NULL)
			to = Max(to, sink->share->to[i]);

		/* it has no part in this one */
		if (sink->next[i] == PG_INT64_MAX)
			continue;
		if (next[i] != to)
			all = false;
		if (next[i] != sink->next[i])
			none = false;
	}
	if (!all && !none)
		ereport(ERROR,
				(errcode(ERRCODE_LOGQ_FENCED),
				 errmsg("offsets of topic \"%s\" on partition \"%s\" are not where they were left",
						run->topic->name, sink->part->name)));
	return all;
}

/* ---------- where a kpart begins ---------- */

/*
 * The epoch after another one; 0: after none.  By the clock, since partitions
 * that are not here now may know higher ones than we do, and come back: no two
 * routings shall have the same.
 */
static int64
next_epoch(int64 epoch)
{
	return Max(epoch + 1, GetCurrentTimestamp());
}

/* What is to be done about one kpart */
typedef struct KpartPlan
{
	LogqRouting *routing;
	bool		adopt;			/* note it, and the offset, on its sinks */
	int64	   *next;			/* by sink: offset to be noted or left; -1: none */
	bool		settled;		/* the routing is today's */
} KpartPlan;

/* Kafka partitions that end before the offset that is next */
typedef struct Beyond
{
	int32		number;
	TimestampTz since;
	TimestampTz last;
} Beyond;

static List *beyond = NIL;		/* in TopMemoryContext */

/*
 * Since when a Kafka partition has been seen like this, without a long pause.
 */
static TimestampTz
beyond_since(int32 number)
{
	TimestampTz now = logq_now();
	Beyond	   *b = NULL;
	ListCell   *lc;

	foreach(lc, beyond)
		if (((Beyond *) lfirst(lc))->number == number)
			b = lfirst(lc);
	if (b == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		b = palloc0(sizeof(Beyond));
		b->number = number;
		beyond = lappend(beyond, b);
		MemoryContextSwitchTo(old);
	}
	/* the broker may have been started again and again */
	if (TimestampDifferenceExceeds(b->last, now, BEYOND_FORGET_MS))
		b->since = now;
	b->last = now;
	return b->since;
}

/*
 * It has been seen in order.
 */
static void
forget_beyond(int32 number)
{
	ListCell   *lc;

	foreach(lc, beyond)
		if (((Beyond *) lfirst(lc))->number == number)
		{
			pfree(lfirst(lc));
			beyond = foreach_delete_current(beyond, lc);
		}
}

/*
 * What Kafka has lost is an error, or is skipped with a warning.
 */
static void
lose_offsets(LogqRun *run, LogqKpart *kpart, int64 next)
{
	bool		skip = logq_on_offset_loss == LOGQ_OFFSET_LOSS_SKIP;
	bool		behind = next < kpart->low;

	if (!behind)
	{
		if (!TimestampDifferenceExceeds(beyond_since(kpart->number),
										logq_now(), BEYOND_END_MS))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("Kafka has offsets up to " INT64_FORMAT
							" of partition %d of topic \"%s\" only, where " INT64_FORMAT " is next",
							kpart->high - 1, kpart->number, run->topic->name,
							next),
					 errdetail("Perhaps the broker has just been started.")));
	}

	ereport(skip ? WARNING : ERROR,
			(errcode(ERRCODE_LOGQ_OFFSETS_LOST),
			 behind ?
			 errmsg("Kafka no longer has offsets " INT64_FORMAT " to " INT64_FORMAT
					" of partition %d of topic \"%s\"",
					next, kpart->low - 1, kpart->number, run->topic->name) :
			 errmsg("Kafka has offsets up to " INT64_FORMAT
					" of partition %d of topic \"%s\" only, where " INT64_FORMAT " is next",
					kpart->high - 1, kpart->number, run->topic->name, next),
			 behind ?
			 errdetail("%s", skip ?
					   "These messages were not taken in, and never will be." :
					   "These messages were not taken in.") :
			 errdetail("%s", skip ?
					   "The topic was made anew, it seems; it is taken in from its beginning." :
					   "The topic was made anew, it seems."),
			 skip ? 0 :
			 errhint("Set logq.on_offset_loss to \"skip\" to go on with what there is.")));
}

/*
 * The routing with the highest epoch that any sink knows for a kpart, or NULL.
 */
static LogqRouting *
latest_routing(LogqRun *run, int k)
{
	LogqRouting *latest = NULL;
	int			s;

	for (s = 0; s < run->nsinks; s++)
	{
		LogqSink   *sink = &run->sinks[s];
		LogqRouting *r;

		if (sink->routing[k] == NULL)
			continue;
		r = logq_parse_routing(run, sink->routing[k]);
		if (r == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("routing \"%s\" on partition \"%s\" is not understood",
							sink->routing[k], sink->part->name),
					 errhint("Was it written by a later version of logq?")));
		if (latest == NULL || r->epoch > latest->epoch)
			latest = r;
	}
	return latest;
}

/*
 * Decide about one kpart, by the rules above.  is_new: no kpart of this topic
 * has been taken in before.
 */
static void
plan_kpart(LogqRun *run, int k, bool is_new, KpartPlan *plan)
{
	LogqKpart  *kpart = &run->kparts[k];
	LogqRouting *r = latest_routing(run, k);
	bool		begun = true;	/* all participants have the epoch */
	bool		agree = true;
	int64		lowest = PG_INT64_MAX;
	int64		highest = -1;
	int			s;
	int			i;

	plan->next = palloc(run->nsinks * sizeof(int64));
	for (s = 0; s < run->nsinks; s++)
		plan->next[s] = -1;

	if (r == NULL)
	{
		/* what comes to a topic after we knew it is not to be missed */
		lowest = is_new && run->topic->start_latest ? kpart->high : kpart->low;
		plan->adopt = true;
		plan->settled = true;
		plan->routing = logq_current_routing(run, next_epoch(0));
		for (s = 0; s < run->nsinks; s++)
			plan->next[s] = lowest;
		return;
	}

	for (i = 0; i < r->nleft; i++)
	{
		LogqSink   *sink = &run->sinks[r->left_sinks[i]];

		if (sink->routing[k] == NULL ||
			strtoll(sink->routing[k], NULL, 10) != r->epoch)
		{
			begun = false;
			continue;
		}
		lowest = Min(lowest, sink->next[k]);
		highest = Max(highest, sink->next[k]);
	}
	for (i = 0; i < r->nleft && !begun && highest >= 0; i++)
	{
		LogqSink   *sink = &run->sinks[r->left_sinks[i]];

		/* it agreed when that epoch was begun, so this is an older state */
		if (sink->routing[k] != NULL && sink->next[k] < lowest &&
			strtoll(sink->routing[k], NULL, 10) < r->epoch)
			ereport(logq_on_offset_loss == LOGQ_OFFSET_LOSS_SKIP ?
					WARNING : ERROR,
					(errcode(ERRCODE_LOGQ_OFFSETS_LOST),
					 errmsg("partition \"%s\" has partition %d of topic \"%s\" up to offset "
							INT64_FORMAT " of an earlier routing only, where all others have it up to " INT64_FORMAT,
							sink->part->name, kpart->number, run->topic->name,
							sink->next[k], lowest),
					 errdetail("It was restored from a backup, it seems; its rows of the messages in between are missing."),
					 errhint("Restore a later backup, or set logq.on_offset_loss to \"skip\" to go on without these rows.")));
	}
	if (highest < 0)
	{
		/* all who had a part in it are gone: go by what somebody has noted */
		for (s = 0; s < run->nsinks; s++)
			if (run->sinks[s].routing[k] != NULL &&
				strtoll(run->sinks[s].routing[k], NULL, 10) == r->epoch)
				lowest = highest = run->sinks[s].next[k];
	}
	agree = lowest == highest;

	if (highest <= kpart->high)
		forget_beyond(kpart->number);
	if (lowest < kpart->low || highest > kpart->high)
	{
		int64		to = kpart->low;

		lose_offsets(run, kpart, lowest < kpart->low ? lowest : highest);
		/* the one ahead keeps what it has */
		if (highest > kpart->high)
			agree = true;
		for (i = 0; i < r->nleft; i++)
		{
			s = r->left_sinks[i];
			plan->next[s] = agree ? to : Max(run->sinks[s].next[k], to);
		}
		if (!agree)
		{
			highest = Max(highest, to);
			agree = highest == to;
		}
		lowest = to;
		plan->adopt = true;
	}

	if (agree)
	{
		LogqRouting *now = logq_current_routing(run, r->epoch);

		plan->settled = true;
		if (begun && logq_same_routing(r, now) && !plan->adopt)
		{
			plan->routing = r;
			return;
		}
		plan->adopt = true;
		plan->routing = logq_current_routing(run,
											 next_epoch(r->epoch));
		for (s = 0; s < run->nsinks; s++)
			plan->next[s] = lowest;
		return;
	}

	/* finish what is half done */
	plan->routing = r;
	plan->settled = begun && logq_same_routing(r, logq_current_routing(run, r->epoch));
	if (!begun)
		plan->adopt = true;
	for (i = 0; i < r->nleft; i++)
	{
		s = r->left_sinks[i];
		if (plan->next[s] < 0)
			plan->next[s] = run->sinks[s].routing[k] == NULL ||
				strtoll(run->sinks[s].routing[k], NULL, 10) != r->epoch ?
				lowest : run->sinks[s].next[k];
	}
}

/*
 * Note on a sink what was planned for some kparts.  All in one transaction;
 * fails if anything has moved since it was read.
 */
static void
adopt(LogqRun *run, int s, const KpartPlan *plans)
{
	LogqSink   *sink = &run->sinks[s];
	StringInfoData sql;
	bool		any = false;
	int			k;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
	for (k = 0; k < run->nkparts; k++)
	{
		const KpartPlan *plan = &plans[k];

		if (!plan->adopt || plan->next[s] < 0)
			continue;
		any = true;
		if (sink->next[k] < 0)
			appendStringInfo(&sql, "; INSERT INTO " LOGQ_STORE_SCHEMA
							 ".kafka_offset (cluster, topic, kafka_partition, next_offset, routing) "
							 "VALUES (%s, %s, %d, " INT64_FORMAT ", %s)",
							 quote_literal_cstr(run->cluster),
							 quote_literal_cstr(run->topic->name),
							 run->kparts[k].number, plan->next[s],
							 quote_literal_cstr(plan->routing->text));
		else
			appendStringInfo(&sql, "; SELECT " LOGQ_STORE_SCHEMA
							 ".move_offsets(%s, %s, '{%d}', '{" INT64_FORMAT "}', '{" INT64_FORMAT "}', %s)",
							 quote_literal_cstr(run->cluster),
							 quote_literal_cstr(run->topic->name),
							 run->kparts[k].number, sink->next[k],
							 plan->next[s],
							 quote_literal_cstr(plan->routing->text));
		sink->next[k] = plan->next[s];
	}
	appendStringInfoString(&sql, "; COMMIT");
	if (any)
		PQclear(logq_conn_exec(sink->conn, sql.data));
}

/*
 * Does a sink lack the highest epoch of some kpart?
 */
static bool
is_behind(const LogqRun *run, int s)
{
	int			k;
	int			i;

	for (k = 0; k < run->nkparts; k++)
	{
		const char *mine = run->sinks[s].routing[k];

		for (i = 0; i < run->nsinks; i++)
		{
			const char *other = run->sinks[i].routing[k];

			if (other != NULL &&
				(mine == NULL ||
				 strtoll(mine, NULL, 10) < strtoll(other, NULL, 10)))
				return true;
		}
	}
	return false;
}

/*
 * Kafka partitions as the reader has found them.
 */
static void
take_info(LogqRun *run, const LogqFrame *info)
{
	Size		len = strnlen(info->data, info->length);
	const char *p = info->data + len + 1;
	int			k;

	if (len == 0 || len == info->length ||
		(info->length - len - 1) % sizeof(LogqReaderOffset) != 0)
		elog(ERROR, "the Kafka reader sent an invalid frame");
	run->cluster = MemoryContextStrdup(run->cxt, info->data);
	run->nkparts = (info->length - len - 1) / sizeof(LogqReaderOffset);
	run->kparts = MemoryContextAllocZero(run->cxt, (run->nkparts + 1) *
										 sizeof(LogqKpart));
	for (k = 0; k < run->nkparts; k++)
	{
		LogqReaderOffset o;

		memcpy(&o, p + k * sizeof(o), sizeof(o));
		run->kparts[k].number = o.partition;
		run->kparts[k].low = o.low;
		run->kparts[k].high = o.high;
	}
}

/*
 * Connect all sinks, find out where each is, and tell the reader where to
 * begin.
 */
void
logq_run_open(LogqRun *run, const LogqFrame *info)
{
	MemoryContext old = MemoryContextSwitchTo(run->cxt);
	LogqReaderOffset *offsets;
	KpartPlan  *plans;
	bool		is_new = true;
	int			k;
	int			s;

	take_info(run, info);
	if (run->nsinks == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no partitions to store rows"),
				 errhint("Add one with SELECT logq.add_partition(...).")));
	for (s = 0; s < run->nsinks; s++)
	{
		LogqSink   *sink = &run->sinks[s];

		logq_sink_connect(run, sink);
		logq_catalog_load(sink->part, sink->conn);
		sink->version = sink->part->version;
		sink->next = palloc((run->nkparts + 1) * sizeof(int64));
		sink->start = palloc((run->nkparts + 1) * sizeof(int64));
		sink->routing = palloc0((run->nkparts + 1) * sizeof(char *));
		read_offsets(run, sink, sink->next, sink->routing);
		for (k = 0; k < run->nkparts; k++)
			if (sink->next[k] >= 0)
				is_new = false;
	}

	plans = palloc0((run->nkparts + 1) * sizeof(KpartPlan));
	run->catching_up = false;
	for (k = 0; k < run->nkparts; k++)
	{
		plan_kpart(run, k, is_new, &plans[k]);
		run->kparts[k].routing = plans[k].routing;
		if (!plans[k].settled)
			run->catching_up = true;
	}

	/*
	 * All of them, before any row is written by it.  Those that come (back)
	 * first: whoever lacks an epoch that others have was there before it.
	 */
	for (s = 0; s < run->nsinks; s++)
		if (is_behind(run, s))
			adopt(run, s, plans);
	for (s = 0; s < run->nsinks; s++)
		if (!is_behind(run, s))
			adopt(run, s, plans);

	offsets = palloc0((run->nkparts + 1) * sizeof(LogqReaderOffset));
	for (k = 0; k < run->nkparts; k++)
	{
		LogqKpart  *kpart = &run->kparts[k];
		const LogqRouting *r = kpart->routing;
		int			i;

		kpart->position = PG_INT64_MAX;
		for (s = 0; s < run->nsinks; s++)
			run->sinks[s].start[k] = PG_INT64_MAX;	/* no part in it */
		for (i = 0; i < r->nleft; i++)
		{
			LogqSink   *sink = &run->sinks[r->left_sinks[i]];

			sink->start[k] = sink->next[k];
			kpart->position = Min(kpart->position, sink->next[k]);
			if (!plans[k].settled)
				kpart->stop = Max(kpart->stop, sink->next[k]);
		}
		if (plans[k].settled)
			kpart->stop = PG_INT64_MAX;
		for (s = 0; s < run->nsinks; s++)
			if (run->sinks[s].start[k] == PG_INT64_MAX)
				run->sinks[s].next[k] = PG_INT64_MAX;
		kpart->progress = kpart->position;
		offsets[k].partition = kpart->number;
		offsets[k].next = kpart->position;
		logq_ingest_set_offsets(kpart->number, kpart->position, kpart->high);
	}
	logq_reader_assign(run->reader, run->nkparts, offsets);
	run->open = true;
	run->opened_at = logq_now();
	MemoryContextSwitchTo(old);
}
