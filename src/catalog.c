/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		Partitions and their segments, as this backend knows them.
 *
 * Which partitions there are stands in the table logq.partition; this file
 * keeps a copy, rebuilt after a relcache invalidation of that table or a
 * change of any foreign server.
 *
 * Which segments a partition has stands on the partition.  Each backend takes
 * them from the coordinator's tables (contents.c), or reads the partition's
 * own catalog when these have nothing, and again whenever a request finds
 * that the partition has moved on to another version; a request carries the
 * version along in its own round trip, before any row, so no answer ever
 * comes from an outdated list of segments.
 *
 * Invariants: a LogqPartition is never freed or moved.  Its segments are
 * replaced as a whole, by a load that has seen everything up to its end; a
 * load that fails half-way leaves the old ones in force.  Segments are sorted
 * by their bounds and do not overlap.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "maintain.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "contents.h"
#include "decode.h"

/* name, lower, upper, rows, version, state */
#define CATALOG_COLUMNS 6
/* rows of a segment of which nothing is known, when that goes for all */
#define ASSUMED_SEGMENT_ROWS 10000
/* what users may believe of row-level security at most; the worker asks each
 * second */
#define MAX_SECURITY_AGE_MS 5000

#define LOG_COLUMNS \
	"ts timestamptz, level text, service text, message text, " \
	"trace_id text, attrs jsonb, id bigint, partition text"

const LogqColumnDef logq_columns[LOGQ_NCOLUMNS] = {
	[LOGQ_COL_TS] = {"ts", TIMESTAMPTZOID},
	[LOGQ_COL_LEVEL] = {"level", TEXTOID},
	[LOGQ_COL_SERVICE] = {"service", TEXTOID},
	[LOGQ_COL_MESSAGE] = {"message", TEXTOID},
	[LOGQ_COL_TRACE_ID] = {"trace_id", TEXTOID},
	[LOGQ_COL_ATTRS] = {"attrs", JSONBOID},
	[LOGQ_COL_ID] = {"id", INT8OID},
	[LOGQ_COL_PARTITION] = {"partition", TEXTOID},
};

static HTAB *partitions_by_number = NULL;
static MemoryContext partition_list_cxt = NULL;
static List *partition_list = NIL;	/* valid when partition_list_valid */
static uint64 partition_list_wanted = 1;	/* raised by invalidations */
static uint64 partition_list_built = 0; /* what the list is as of */
#define partition_list_valid (partition_list_built == partition_list_wanted)
static Oid	partition_relid = InvalidOid;

/*
 * The table of partitions has changed, or everything may have.
 */
static void
partition_rel_invalidated(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == partition_relid)
	{
		partition_list_wanted++;
		if (relid == InvalidOid)
			partition_relid = InvalidOid;
	}
}

/*
 * The partition may lead to another database now, whose catalog can happen to
 * have the same version: nothing that is known of it holds any more, nor what
 * others have confirmed up to now.  Segments stay in place, as somebody may be
 * looking at them.
 */
static void
distrust(LogqPartition *part)
{
	part->loaded = false;
	part->version = 0;
	part->row_security_at = 0;
	part->confirmed_at = 0;
	part->distrusted_at = logq_now();
}

/*
 * A server was made, changed or dropped: its oid may have to be looked up
 * anew.
 */
static void
server_invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	LogqPartition *part;

	partition_list_wanted++;
	hash_seq_init(&status, partitions_by_number);
	while ((part = hash_seq_search(&status)) != NULL)
		if (hashvalue == 0 || part->server_hash == hashvalue)
			distrust(part);
}

/*
 * Oid of logq.partition.
 */
static Oid
get_partition_relid(void)
{
	Oid			relid;

	relid = get_relname_relid("partition",
							  get_namespace_oid("logq", false));
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"logq.partition\" does not exist"),
				 errhint("Run CREATE EXTENSION logq in this database.")));
	return relid;
}

/*
 * Does the server's object name replicas?
 */
static bool
has_replicas(Oid serverid)
{
	ListCell   *lc;

	foreach(lc, GetForeignServer(serverid)->options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, "replicas") == 0)
			return true;
	return false;
}

/*
 * Read logq.partition.  Partitions that are known keep their struct and their
 * segments, unless they have another server now.
 */
static void
rebuild_partition_list(void)
{
	Relation	rel;
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *slot;
	uint64		wanted;
	List	   *list = NIL;
	ListCell   *lc;

	if (partitions_by_number == NULL)
	{
		HASHCTL		ctl;

		partition_list_cxt = AllocSetContextCreate(CacheMemoryContext,
												   "logq partitions",
												   ALLOCSET_SMALL_SIZES);
		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(LogqPartition);
		ctl.hcxt = partition_list_cxt;
		partitions_by_number = hash_create("logq partitions", 32, &ctl,
										   HASH_ELEM | HASH_BLOBS |
										   HASH_CONTEXT);
		CacheRegisterRelcacheCallback(partition_rel_invalidated, (Datum) 0);
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_invalidated,
									  (Datum) 0);
	}

	partition_relid = get_partition_relid();
	rel = table_open(partition_relid, AccessShareLock);
	/* an invalidation that arrives while we read must not be forgotten */
	wanted = partition_list_wanted;
	snapshot = logq_latest_snapshot();
	scan = table_beginscan(rel, snapshot, 0, NULL);
	slot = table_slot_create(rel, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		int32		number;
		Name		server;
		Oid			serverid;
		LogqPartition *part;
		bool		found;

		number = DatumGetInt32(slot_getattr(slot, 1, &isnull));
		server = DatumGetName(slot_getattr(slot, 2, &isnull));
		serverid = get_foreign_server_oid(NameStr(*server), true);

		part = hash_search(partitions_by_number, &number, HASH_ENTER, &found);
		if (!found)
		{
			MemSet((char *) part + sizeof(int32), 0,
				   sizeof(LogqPartition) - sizeof(int32));
			part->number = number;
		}
		else if (part->serverid != serverid)
			distrust(part);
		part->serverid = serverid;
		part->server_hash =
			GetSysCacheHashValue1(FOREIGNSERVEROID,
								  ObjectIdGetDatum(serverid));
		strlcpy(part->name, NameStr(*server), NAMEDATALEN);
		part->same_locale = DatumGetBool(slot_getattr(slot, 3, &isnull));
		part->has_replicas = OidIsValid(serverid) && has_replicas(serverid);
		list = lappend(list, part);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);

	/* by number; few enough for an insertion */
	{
		MemoryContext old = MemoryContextSwitchTo(partition_list_cxt);

		list_free(partition_list);
		partition_list = NIL;
		foreach(lc, list)
		{
			LogqPartition *part = lfirst(lc);
			int			at;

			for (at = 0; at < list_length(partition_list); at++)
				if (((LogqPartition *) list_nth(partition_list,
												at))->number > part->number)
					break;
			partition_list = list_insert_nth(partition_list, at, part);
		}
		MemoryContextSwitchTo(old);
	}
	list_free(list);
	/* in parallel mode there was only the query's own snapshot to read by */
	if (!IsInParallelMode())
		partition_list_built = wanted;
}

/*
 * All partitions by number, in a list of the caller's.
 */
List *
logq_partitions(void)
{
	if (!partition_list_valid)
		rebuild_partition_list();
	return list_copy(partition_list);
}

/*
 * How many partitions there were when we last looked.
 */
int
logq_partition_count(void)
{
	return list_length(partition_list);
}

/*
 * The partition on a server, or NULL.
 */
LogqPartition *
logq_partition_by_server(Oid serverid)
{
	ListCell   *lc;

	if (!partition_list_valid)
		rebuild_partition_list();
	foreach(lc, partition_list)
	{
		LogqPartition *part = lfirst(lc);

		if (part->serverid == serverid)
			return part;
	}
	return NULL;
}

/*
 * The partition on a server as far as this session knows, or NULL.  Never
 * throws.
 */
LogqPartition *
logq_known_partition(Oid serverid)
{
	ListCell   *lc;

	foreach(lc, partition_list)
		if (((LogqPartition *) lfirst(lc))->serverid == serverid)
			return lfirst(lc);
	return NULL;
}

/*
 * Do all partitions sort and fold case as this database does?
 */
bool
logq_all_same_locale(void)
{
	ListCell   *lc;

	if (!partition_list_valid)
		rebuild_partition_list();
	foreach(lc, partition_list)
		if (!((LogqPartition *) lfirst(lc))->same_locale)
			return false;
	return true;
}

/*
 * Tell all backends, once we commit, that logq.partition has changed, and
 * that plans over logq.logs may depend on it.
 */
void
logq_partitions_changed(void)
{
	Oid			logs;

	CacheInvalidateRelcacheByRelid(get_partition_relid());
	/* there may be other log tables than logq.logs: all plans go */
	CacheInvalidateCatalog(ForeignServerRelationId);
	logs = get_relname_relid("logs", get_namespace_oid("logq", false));
	if (OidIsValid(logs))
		CacheInvalidateRelcacheByRelid(logs);
	partition_list_wanted++;
}

/*
 * Match the columns of a foreign table to the log's columns by name.
 */
void
logq_rel_map(Relation rel, LogqRelMap *map)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			i;
	int			col;

	ForeignServer *server;

	server = GetForeignServer(GetForeignServerIdByRelId(RelationGetRelid(rel)));
	if (strcmp(server->servername, LOGQ_SERVER_NAME) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("foreign table \"%s\" is on server \"%s\", which can only be a partition",
						RelationGetRelationName(rel), server->servername),
				 errhint("Create log tables on server \"%s\", and read one partition with WHERE partition = %s.",
						 LOGQ_SERVER_NAME,
						 quote_literal_cstr(server->servername))));
	if (desc->natts > LOGQ_NCOLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_COLUMN_NAME),
				 errmsg("foreign table \"%s\" has or had more columns than a log table",
						RelationGetRelationName(rel)),
				 errhint("The columns are " LOG_COLUMNS ".")));
	MemSet(map, 0, sizeof(LogqRelMap));
	map->natts = desc->natts;
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		map->column[i + 1] = -1;
		if (att->attisdropped)
			continue;
		for (col = 0; col < LOGQ_NCOLUMNS; col++)
			if (strcmp(NameStr(att->attname), logq_columns[col].name) == 0)
				break;
		if (col == LOGQ_NCOLUMNS || att->atttypid != logq_columns[col].type)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_COLUMN_NAME),
					 errmsg("column \"%s\" of foreign table \"%s\" is not a column of a log table",
							NameStr(att->attname),
							RelationGetRelationName(rel)),
					 errhint("The columns are " LOG_COLUMNS ".")));
		map->column[i + 1] = col;
		map->attno[col] = i + 1;
	}
}

/* ---------- loading a partition's catalog ---------- */

struct LogqCatalogLoad
{
	LogqPartition *part;
	MemoryContext cxt;
	int			nsegments;
	int			capacity;
	LogqSegment *segments;
	LogqDecoder decoder;
};

/*
 * What to ask a partition for: its version, then its segments.  The caller
 * runs both in one REPEATABLE READ transaction, so they belong together.
 * Whoever may read log rows may read these columns, and perhaps no others.
 */
const char *
logq_catalog_sql(void)
{
	return "SELECT version FROM logq_store.catalog_version; "
		"COPY (SELECT s.name::text, s.lower, s.upper, "
		"coalesce(CASE WHEN s.state = 'sealed' THEN s.rows::float8 END, "
		"c.reltuples::float8, -1), s.version, "
		"CASE WHEN s.rows IS NULL "
		"OR s.name IN (SELECT r.segment FROM logq_store.reopened r) "
		"THEN 'open' ELSE s.state END "
		"FROM logq_store.segment s LEFT JOIN (pg_catalog.pg_class c "
		"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
		"AND n.nspname = 'logq_store') ON c.relname = s.name "
		"ORDER BY s.lower) TO STDOUT (FORMAT binary)";
}

/*
 * Start a load.  It lives in a context of its own until it is ended or
 * aborted, whatever becomes of the query.
 */
LogqCatalogLoad *
logq_catalog_load_begin(LogqPartition *part)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext,
											  "logq segments",
											  ALLOCSET_SMALL_SIZES);
	LogqCatalogLoad *load = MemoryContextAllocZero(CurrentMemoryContext,
												   sizeof(LogqCatalogLoad));

	load->part = part;
	load->cxt = cxt;
	load->capacity = 64;
	load->segments = MemoryContextAlloc(cxt,
										load->capacity * sizeof(LogqSegment));
	logq_decode_start(&load->decoder, CATALOG_COLUMNS);
	return load;
}

/*
 * Take a piece of the segments' COPY.
 */
void
logq_catalog_load_row(LogqCatalogLoad *load, const char *buf, int len)
{
	LogqField	fields[CATALOG_COLUMNS];
	LogqDecodeResult result = LOGQ_DECODE_ERROR;

	if (logq_decode_feed(&load->decoder, buf, len))
	{
		while ((result = logq_decode_next(&load->decoder,
										  fields)) == LOGQ_DECODE_ROW)
		{
			LogqSegment *seg;
			union
			{
				int64		i;
				float8		f;
			}			rows;

			if (fields[0].len < 0 || fields[0].len >= NAMEDATALEN ||
				fields[1].len != 8 || fields[2].len != 8 ||
				fields[3].len != 8 || fields[4].len != 8 ||
				fields[5].len < 0)
			{
				load->decoder.error = "a segment has no name, bounds or state";
				result = LOGQ_DECODE_ERROR;
				break;
			}
			if (load->nsegments == load->capacity)
			{
				load->capacity *= 2;
				load->segments = repalloc(load->segments,
										  load->capacity *
										  sizeof(LogqSegment));
			}
			seg = &load->segments[load->nsegments++];
			seg->name = MemoryContextAlloc(load->cxt, fields[0].len + 1);
			memcpy(seg->name, fields[0].data, fields[0].len);
			seg->name[fields[0].len] = '\0';
			seg->lower = logq_decode_int64(fields[1].data);
			seg->upper = logq_decode_int64(fields[2].data);
			rows.i = logq_decode_int64(fields[3].data);
			seg->rows = rows.f;
			seg->version = logq_decode_int64(fields[4].data);
			seg->sealed = fields[5].len == 6 &&
				memcmp(fields[5].data, "sealed", 6) == 0;
			seg->content = NULL;
		}
	}
	/* buf goes; keep what it has of a row that goes on in the next piece */
	if (result == LOGQ_DECODE_MORE &&
		!logq_decode_feed(&load->decoder, "", 0))
		result = LOGQ_DECODE_ERROR;
	if (result == LOGQ_DECODE_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("could not read the segments of partition \"%s\": %s",
						load->part->name, load->decoder.error)));
}

/*
 * Replace the segments of a partition; their memory goes with the context.
 * Contents are the caller's business.
 */
void
logq_catalog_put(LogqPartition *part, MemoryContext cxt,
				 LogqSegment *segments, int nsegments, int64 version,
				 int64 changed)
{
	if (part->cxt != NULL)
		MemoryContextDelete(part->cxt);
	MemoryContextSetParent(cxt, CacheMemoryContext);
	part->cxt = cxt;
	part->segments = segments;
	part->nsegments = nsegments;
	if (part->version != version)
		part->confirmed_at = 0;
	part->version = version;
	part->changed = changed;
	part->puts++;
	logq_catalog_sum_rows(part);
	part->loaded = true;
}

/*
 * Add up the rows of all segments.  Those that nobody has counted are taken
 * to be like the others.
 */
void
logq_catalog_sum_rows(LogqPartition *part)
{
	double		rows = 0;
	int			known = 0;
	int			i;

	for (i = 0; i < part->nsegments; i++)
	{
		if (part->segments[i].rows >= 0)
		{
			rows += part->segments[i].rows;
			known++;
		}
	}
	part->total_rows = known > 0 ? rows / known * part->nsegments :
		(double) ASSUMED_SEGMENT_ROWS * part->nsegments;
}

/*
 * Put what was loaded in force.
 */
void
logq_catalog_load_end(LogqCatalogLoad *load, int64 version)
{
	LogqPartition *part = load->part;
	int			i;

	for (i = 0; i < load->nsegments; i++)
		if (load->segments[i].lower >= load->segments[i].upper ||
			(i > 0 && load->segments[i].lower < load->segments[i - 1].upper))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("segments \"%s\" and \"%s\" of partition \"%s\" overlap",
							load->segments[Max(i - 1, 0)].name,
							load->segments[i].name, part->name)));

	/* what the tables said of a segment holds as long as its version does */
	logq_contents_carry(part, load->segments, load->nsegments);
	logq_catalog_put(part, load->cxt, load->segments, load->nsegments,
					 version, 0);
	load->cxt = NULL;
	logq_catalog_load_abort(load);
}

/*
 * Free a load that did not come to its end.  (When an error takes the memory
 * context, only the decoder's carry buffer remains; it is malloc'd only when
 * a server cuts a tuple in two.)
 */
void
logq_catalog_load_abort(LogqCatalogLoad *load)
{
	logq_decode_free(&load->decoder);
	if (load->cxt != NULL)
		MemoryContextDelete(load->cxt);
	pfree(load);
}

/*
 * Load the catalog of a partition through a connection, waiting for it.  For
 * writers and commands; scans load through their streams.
 */
void
logq_catalog_load(LogqPartition *part, LogqConn *conn)
{
	LogqCatalogLoad *volatile load = logq_catalog_load_begin(part);
	volatile int64 version = -1;
	PGresult   *volatile res = NULL;
	char	   *volatile buf = NULL;
	char	   *sql;
	bool		in_xact = PQtransactionStatus(conn->pg) != PQTRANS_IDLE;
	TimestampTz asked_at = logq_now();

	if (in_xact)
		sql = pstrdup(logq_catalog_sql());
	else
		sql = psprintf("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; %s; COMMIT",
					   logq_catalog_sql());

	logq_conn_send(conn, sql);
	PG_TRY();
	{
		while ((res = logq_conn_get_result(conn)) != NULL)
		{
			switch (PQresultStatus(res))
			{
				case PGRES_COMMAND_OK:
					break;
				case PGRES_TUPLES_OK:
					if (PQntuples(res) == 1 && PQnfields(res) == 1)
						version = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
					break;
				case PGRES_COPY_OUT:
					for (;;)
					{
						char	   *piece;
						int			len = PQgetCopyData(conn->pg, &piece, 1);

						if (len == -1 || len == -2)
							break;	/* the result says how it ended */
						if (len == 0)
						{
							(void) logq_conn_wait(conn, WL_SOCKET_READABLE,
												  0);
							if (PQconsumeInput(conn->pg) == 0)
								logq_report_remote_error(ERROR, conn, NULL,
														 sql);
							continue;
						}
						buf = piece;
						logq_catalog_load_row(load, piece, len);
						buf = NULL;
						PQfreemem(piece);
					}
					break;
				default:
					{
						PGresult   *failed = res;

						res = NULL;
						logq_report_remote_error(ERROR, conn, failed, sql);
					}
			}
			PQclear(res);
			res = NULL;
		}
		if (version < 0 || !load->decoder.ended)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("partition \"%s\" has no catalog version",
							part->name)));
		logq_catalog_load_end(load, version);
		/* in a transaction the version may be one that never comes to be */
		if (!in_xact)
			logq_catalog_confirm(part, asked_at);
	}
	PG_CATCH();
	{
		PQclear(res);
		PQfreemem(buf);
		logq_decode_free(&load->decoder);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pfree(sql);
}

/*
 * Index of the first segment that reaches beyond ts.
 */
int
logq_segment_search(const LogqPartition *part, TimestampTz ts)
{
	int			low = 0;
	int			high = part->nsegments;

	while (low < high)
	{
		int			mid = low + (high - low) / 2;

		if (part->segments[mid].upper > ts)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/*
 * The segment that takes a row of this time, if it is known here.
 */
const LogqSegment *
logq_segment_for(const LogqPartition *part, TimestampTz ts)
{
	int			i;

	if (!part->loaded)
		return NULL;
	i = logq_segment_search(part, ts);
	if (i == part->nsegments || part->segments[i].lower > ts)
		return NULL;
	return &part->segments[i];
}

/* ---------- confirmations ---------- */

/*
 * Was our copy true less than logq.catalog_max_age ago?  Either a request of
 * this session says so, or what all sessions share, if that is about the same
 * version.  Times ahead of the clock, which was set back, prove nothing.
 */
bool
logq_catalog_confirmed(const LogqPartition *part)
{
	TimestampTz now;
	TimestampTz since;
	LogqConfirmation shared;

	if (logq_strict_pruning || !part->loaded)
		return false;
	now = logq_now();
	since = TimestampTzPlusMilliseconds(now, -(int64) logq_catalog_max_age);
	since = Max(since, part->distrusted_at);

	/* what another session of ours writes must be able to reach us */
	if (!logq_shmem_can_doubt(part->number))
		return false;
	if (logq_shmem_get(part->number, &shared))
	{
		if (shared.version == part->version)
		{
			if (shared.confirmed_at > since && shared.confirmed_at <= now)
				return true;
		}
		else if (shared.confirmed_at >= part->confirmed_at)
			return false;		/* ours is the older one */
	}
	/* a doubt goes for our own requests as well */
	return part->confirmed_at > since && part->confirmed_at <= now &&
		!logq_shmem_doubted_since(part->number, part->confirmed_at - 1);
}

/*
 * A request of ours that began at asked_at found our version to be true.
 */
void
logq_catalog_confirm(LogqPartition *part, TimestampTz asked_at)
{
	part->confirmed_at = Max(part->confirmed_at, asked_at);
	logq_shmem_confirm(part->number, part->version, asked_at);
}

/*
 * Is there row-level security on the partition's log rows?  Then counts that
 * were made of all of them are nobody's business.
 *
 * Like the catalog, "off" is believed for logq.catalog_max_age.  "On" is as
 * well: it costs time, and no more.  But users may set that as they like, and
 * it is about them: what they set only makes it shorter.
 */
LogqRowSecurity
logq_row_security(const LogqPartition *part)
{
	bool		found = part->row_security;
	TimestampTz at = part->row_security_at;
	TimestampTz now = logq_now();
	int			max_age = superuser() ? logq_catalog_max_age :
		Min(logq_catalog_max_age, MAX_SECURITY_AGE_MS);
	TimestampTz since;
	LogqConfirmation shared;

	since = TimestampTzPlusMilliseconds(now, -(int64) max_age);
	since = Max(since, part->distrusted_at);
	if (logq_shmem_get(part->number, &shared) && shared.row_security_at > at)
	{
		found = shared.row_security;
		at = shared.row_security_at;
	}
	if (at <= since || at > now)
		return LOGQ_ROW_SECURITY_UNKNOWN;
	if (found)
		return LOGQ_ROW_SECURITY_ON;
	return logq_strict_pruning ? LOGQ_ROW_SECURITY_UNKNOWN :
		LOGQ_ROW_SECURITY_OFF;
}

/*
 * A request that began at asked_at found it to be so.
 */
void
logq_note_row_security(LogqPartition *part, bool row_security,
					   TimestampTz asked_at)
{
	if (asked_at >= part->row_security_at)
	{
		part->row_security = row_security;
		part->row_security_at = asked_at;
	}
	logq_shmem_row_security(part->number, row_security, asked_at);
}
