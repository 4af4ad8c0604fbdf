/*-------------------------------------------------------------------------
 *
 * standby.c
 *		Is a replica far enough to answer?
 *
 * The primary's answer tells where its WAL was, and the coordinator notes where
 * it was at which time.  A request to a replica begins with the question how far
 * it has replayed, before its snapshot is taken.  It is passed over when that is
 * more than logq.max_replica_lag before what the primary had when it was last
 * heard of, when it lacks what this session has written or this scan has seen of
 * the primary, and when its catalog is older than the one that is known.  A
 * replica that lacks only what is on its way is tried again for a moment, if
 * there is no other server.  A scan that has begun on the primary therefore never
 * misses a row when it goes on elsewhere.
 *
 * Failure cases: a replica that does not say how far it is is passed over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream.h"

/* what a replica may have received of a record whose end was never sent */
#define MAX_RECORD_TAIL (256 * 1024)

/*
 * In a transaction of its own, as its snapshot must not be the rows'.
 */
const char *
logq_replica_sql(void)
{
	return "BEGIN READ ONLY; SELECT pg_catalog.pg_is_in_recovery(), "
		"(pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn)::bigint, "
		"(pg_catalog.pg_last_wal_receive_lsn() - '0/0'::pg_catalog.pg_lsn)::bigint, "
		"(extract(epoch FROM pg_catalog.clock_timestamp() -"
		" pg_catalog.pg_last_xact_replay_timestamp()) * 1000)::bigint, "
		"CASE WHEN pg_catalog.pg_is_in_recovery()"
		" THEN pg_catalog.pg_is_wal_replay_paused() OR"
		" pg_catalog.current_setting('recovery_min_apply_delay') <> '0' END, "
		"pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()); "
		"COMMIT; ";
}

/*
 * A number of a result, or -1.
 */
static int64
result_number(const PGresult *res, int column)
{
	return PQgetisnull(res, 0, column) ? -1 :
		strtoll(PQgetvalue(res, 0, column), NULL, 10);
}

/*
 * How much WAL is missing to a position: 0 when all transactions are there.
 */
static int64
lacking(const LogqPosition *needed, XLogRecPtr replayed, int64 xmin)
{
	if (replayed >= needed->lsn || (needed->xid > 0 && xmin >= needed->xid))
		return 0;
	return (int64) (needed->lsn - replayed);
}

/*
 * Judge a replica.  *reason: what it lacks.
 *
 * The age of the last transaction that it has replayed says little by itself:
 * there may have been none since.  It counts when there is WAL to be replayed.
 * A primary that dies leaves the beginning of a record at the end of that,
 * which nobody will ever replay; and who has received much at once may be done
 * with it in a moment.
 */
LogqReplicaPosition
logq_judge_replica(LogqStream *stream, int server, const PGresult *res,
				   bool *promoted, char **reason)
{
	LogqPosition written = logq_written_position(stream->part->serverid);
	LogqReplicaPosition position = LOGQ_POSITION_FINE;
	XLogRecPtr	replayed;
	int64		unreplayed;
	int64		lag;
	int64		lacks;
	int64		xmin;
	bool		paused;			/* or meant to be late */

	*promoted = false;
	if (PQntuples(res) != 1)
	{
		*reason = "it does not say how far it has replayed";
		return LOGQ_POSITION_FAR_BEHIND;
	}
	if (PQgetvalue(res, 0, 0)[0] != 't')
	{
		/* it has become the partition, unless that is still there */
		*promoted = true;
		if ((stream->tried & 1) != 0 ||
			!logq_primary_seems_well(stream->servers))
			return LOGQ_POSITION_FINE;
		*reason = "it is not a replica any more";
		return LOGQ_POSITION_FAR_BEHIND;
	}

	replayed = (XLogRecPtr) Max(result_number(res, 1), 0);
	xmin = result_number(res, 5);
	lacks = Max(lacking(&stream->seen, replayed, xmin),
				lacking(&written, replayed, xmin));
	unreplayed = result_number(res, 2) - (int64) replayed;
	paused = PQgetvalue(res, 0, 4)[0] == 't';
	lag = logq_health_wal_lag(stream->servers,
							  !paused && unreplayed > 0 &&
							  unreplayed <= MAX_RECORD_TAIL ?
							  replayed + unreplayed : replayed);
	if (lag > logq_max_replica_lag)
		position = LOGQ_POSITION_FAR_BEHIND;
	if (unreplayed > (paused ? 0 : MAX_RECORD_TAIL))
	{
		lag = Max(lag, result_number(res, 3));
		if (lag > logq_max_replica_lag && position == LOGQ_POSITION_FINE)
			position = paused ? LOGQ_POSITION_FAR_BEHIND :
				LOGQ_POSITION_LACKING;
	}
	/* what may be over in a moment is not to be remembered */
	if (position != LOGQ_POSITION_LACKING)
		logq_health_set_lag(stream->servers, server, lag);
	if (position != LOGQ_POSITION_FINE)
	{
		*reason = psprintf("replica is " INT64_FORMAT " ms behind, more than \"logq.max_replica_lag\"",
						   lag);
		return position;
	}
	if (lacks > 0)
	{
		*reason = written.lsn == LOGQ_WRITTEN_UNKNOWN ?
			pstrdup("replica may lack what this session has written") :
			psprintf("replica lacks what this session has read or written (" INT64_FORMAT " bytes of WAL)",
					 lacks);
		return LOGQ_POSITION_LACKING;
	}
	return LOGQ_POSITION_FINE;
}
