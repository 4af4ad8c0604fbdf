/*-------------------------------------------------------------------------
 *
 * request.c
 *		What a stream asks next, and over which connection.
 *
 * Before each request it is found out whether there is anything to ask for: the
 * partition's catalog, when it is not known or known to be outdated, else a
 * batch of fragments (batch.c), of which those in the cache are left out
 * (cache.c).  The SQL is made when it is known which server it goes to.
 *
 * A request is one simple query.  It begins with what a replica has to say of
 * itself, and with the version of the catalog, by which stream.c judges the
 * rows that follow.
 *
 * Invariant: a connection that is "in_snapshot" is in the hands of the stream
 * whose last request did not end its transaction.
 *
 * Failure cases: as in stream.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cacherun.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * Sealed segments are vacuumed, so their index on (service, level, ts, id) is
 * read without the table, in the order of the groups, in a third of the time
 * of reading and hashing the rows.  The planner takes its pages for expensive.
 */
#define INDEX_SCAN_SQL "SET LOCAL random_page_cost = '1.1'; "

/*
 * Begin, or begin again: with the transaction's own connection if it has
 * written to the partition, else with one to any of its servers.
 */
void
logq_stream_open(LogqStream *stream)
{
	LogqConn   *conn;

	if (!OidIsValid(stream->part->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" of partition %d does not exist",
						stream->part->name, stream->part->number),
				 errhint("Create the server again, or run SELECT logq.remove_partition(%s, true).",
						 quote_literal_cstr(stream->part->name))));

	conn = logq_xact_written_conn(stream->part->serverid, stream->userid);
	if (conn != NULL)
	{
		stream->conn = conn;
		stream->borrowed = true;
		stream->generation++;
		logq_spool_request(stream);
		/* others may use it now; we are done with it */
		stream->conn = NULL;
		stream->borrowed = false;
		stream->generation++;
		return;
	}
	if (!logq_stream_prepare(stream))
		stream->state = LOGQ_STREAM_DONE;
	else if (stream->local_batch)
		stream->state = LOGQ_STREAM_CACHED;
	else
		logq_stream_connect(stream);
}

/*
 * The partition's catalog has another version than the fragments were chosen
 * by.  Perhaps our tables, or another scan of this session, know it already;
 * else it must be read, unless somebody has moved it on meanwhile.
 */
void
logq_stream_catalog_moved(LogqStream *stream)
{
	LogqPartition *part = stream->part;
	LogqConfirmation known;

	logq_catalog_update(part);
	if (part->version != stream->new_version)
		part->loaded = false;
	/* others may trust the outdated copy; the worker shall have a look */
	if (!logq_shmem_get(part->number, &known) ||
		known.version != stream->new_version)
		logq_shmem_doubt(part->number);
}

/*
 * Choose what the next request asks for: the catalog when it is not known or
 * known to be outdated, else a batch of fragments.  False: there is nothing
 * left to be asked.
 */
bool
logq_stream_prepare(LogqStream *stream)
{
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);

	stream->stale = false;
	stream->skipped_bytes = 0;
	stream->local_batch = false;
	stream->more_pending = false;

	if (stream->load != NULL ||
		(!stream->confirmed && !stream->part->loaded))
	{
		if (stream->load == NULL)
			stream->load = logq_catalog_load_begin(stream->part);
	}
	else
	{
		/* one that has not asked yet may have its fragments */
		if (!stream->confirmed && stream->reloads == 0 &&
			!((stream->trusted || stream->planned) &&
			  (stream->batch_end == 0 || stream->local) &&
			  stream->plan_version == stream->part->version))
			logq_plan_fragments(stream);
		/* cells alone are not handed out before that is known */
		if (stream->confirmed && !stream->check_security &&
			stream->batch_end >= stream->nfragments)
		{
			MemoryContextSwitchTo(old);
			return false;
		}
		logq_batch_choose(stream);
	}
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * What a request begins with that reads segments: a setting, and the version of
 * the catalog.  Once that has been confirmed, it is asked for only if a replica
 * may be older, or what comes may be stored under it.  With it comes, if need
 * be, whether there is row-level security.
 */
static void
append_opening(LogqStream *stream, bool replica, StringInfo buf)
{
	bool		has_replicas = stream->servers->n > 1;
	const char *security = stream->check_security ?
		", " LOGQ_ROW_SECURITY_SQL : "";

	if (stream->request->by_index)
		appendStringInfoString(buf, INDEX_SCAN_SQL);
	/* should it be lost, a replica must have what it has shown */
	if (has_replicas && !replica &&
		(!stream->confirmed || stream->seen.lsn == 0))
		appendStringInfo(buf,
						 "SELECT version, " LOGQ_LSN_SQL ", " LOGQ_XID_SQL "%s"
						 " FROM " LOGQ_STORE_SCHEMA ".catalog_version; ",
						 security);
	else if (!stream->confirmed || replica || stream->cache != NULL ||
			 stream->check_security)
		appendStringInfo(buf,
						 "SELECT version%s FROM " LOGQ_STORE_SCHEMA ".catalog_version; ",
						 security);
}

/*
 * The request as it goes to a server of the partition.
 *
 * If Redis may have more of what is wanted, the transaction is left open: what
 * it turns out not to have is then read from the same snapshot.  A row that an
 * UPDATE moves from one segment to another must not be seen in both.
 */
char *
logq_stream_sql(LogqStream *stream, int server, const LogqConn *conn)
{
	bool		replica = stream->servers->servers[server].replica;
	bool		goes_on = conn->in_snapshot && stream->confirmed &&
		stream->load == NULL;
	StringInfoData buf;

	initStringInfo(&buf);
	if (!goes_on)
	{
		if (conn->in_snapshot)
			appendStringInfo(&buf, "COMMIT; %s",
							 logq_conn_transaction_sql(conn));
		/* settings ahead of all that ended with its transaction */
		if (replica)
			appendStringInfo(&buf, "%s%s", logq_replica_sql(),
							 logq_conn_transaction_sql(conn));
		appendStringInfoString(&buf,
							   "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ");
	}
	if (stream->load != NULL)
		appendStringInfo(&buf, "%s; ", logq_catalog_sql());
	else
	{
		char	   *copies = logq_batch_copies(stream,
											   PQserverVersion(conn->pg));

		if (!goes_on)
			append_opening(stream, replica, &buf);
		appendStringInfoString(&buf, copies);
		pfree(copies);
	}
	if (!stream->more_pending)
		appendStringInfoString(&buf, "COMMIT");
	return buf.data;
}

/*
 * What was asked for will not come, or not from there: what has not been done
 * yet is to be asked again.
 */
void
logq_stream_rewind(LogqStream *stream)
{
	logq_stream_free_message(stream);
	logq_decode_free(&stream->decoder);
	logq_replay_reset(stream);
	if (stream->load != NULL)
	{
		/* none of it is in force yet */
		logq_catalog_load_abort(stream->load);
		stream->load = logq_catalog_load_begin(stream->part);
		return;
	}
	if (stream->in_fragment && stream->fragment_rows > 0)
	{
		stream->resume = true;
		logq_had_sort(stream);
	}
	else if (stream->batch_done > 0)
	{
		stream->resume = false;
		/* only the end of the request was lost, which changes nothing */
		if (stream->batch_start + stream->batch_done == stream->batch_end &&
			logq_batch_was_cut_off(stream))
		{
			stream->batch_done--;
			stream->resume = true;
		}
	}
	else if (stream->resume)
		logq_had_sort(stream);
	stream->in_fragment = false;
	stream->fragments_asked -= logq_batch_asked(stream, stream->batch_done);
	stream->batch_start += stream->batch_done;
	stream->batch_end = stream->batch_start;
	stream->batch_done = 0;
}

/*
 * Send the request that was prepared over the connection, which is idle.
 */
void
logq_stream_send(LogqStream *stream)
{
	MemoryContext old = MemoryContextSwitchTo(stream->cxt);

	logq_cache_check_user(stream, stream->conn);
	if (stream->sql != NULL)
		pfree(stream->sql);
	stream->sql = logq_stream_sql(stream, stream->server,
								  stream->conn);
	stream->conn->in_snapshot = false;
	MemoryContextSwitchTo(old);

	stream->asked_at = logq_now();
	stream->requests++;
	stream->state = LOGQ_STREAM_SENDING;
	logq_stream_sent(stream);
	logq_cache_sent(stream);
	/* else libpq makes a text of the notice, with an excerpt of the SQL */
	PQsetErrorVerbosity(stream->conn->pg, PQERRORS_TERSE);
	if (!logq_conn_try_send(stream->conn, stream->sql))
		logq_stream_lost(stream, NULL);
}

/*
 * Send the next request over an idle connection, or, if all so far was in the
 * cache, get one.  That is never the one by which the transaction has written
 * meanwhile: its rows are not of this query.
 */
void
logq_stream_ask(LogqStream *stream)
{
	if (!logq_stream_prepare(stream))
		stream->state = LOGQ_STREAM_DONE;
	else if (stream->local_batch)
	{
		/* its transaction, too, would last as long as the reader likes */
		if (stream->conn != NULL && logq_cache_has_rest(stream))
			logq_stream_drop_connection(stream, true);
		stream->state = LOGQ_STREAM_CACHED;
	}
	else if (stream->conn == NULL)
		logq_stream_connect(stream);
	else
	{
		stream->fresh = false;
		stream->attempt_at = logq_now();
		logq_stream_send(stream);
	}
}
