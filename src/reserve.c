/*-------------------------------------------------------------------------
 *
 * reserve.c
 *		Who takes how many places for connections, and for how long.
 *
 * A query with one scan takes a place at each partition that a run of it
 * asks.  One with several takes as many as it has scans at all partitions when
 * the first of them runs: what the others will ask is not known yet, and to
 * take it later would be to wait while holding the first one's places.  A
 * partition that the transaction has written to is read over the connection
 * that wrote, and needs none.  A query's places go with its executor state, by
 * a callback of its memory context, so also after errors.
 *
 * A transaction takes a place at each partition with its first write, as its
 * rows may go to any, and keeps them to its end.
 *
 * Only with logq.max_connections_per_partition; else nothing happens here.
 *
 * Failure cases: places are taken all at once or not at all, and noted before
 * anything else can fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admission.h"
#include "scan.h"

#include "access/xact.h"
#include "utils/memutils.h"

/* Places at a server */
typedef struct ServerPlaces
{
	Oid			serverid;
	int			held;
} ServerPlaces;

/* Places at some servers */
typedef struct PlaceList
{
	int			n;
	int			size;
	ServerPlaces *servers;
} PlaceList;

/* A query, by its executor state */
struct LogqQueryPlaces
{
	EState	   *estate;
	int			nscans;
	bool		complete;		/* several scans have theirs */
	PlaceList	places;
	MemoryContextCallback callback;
	struct LogqQueryPlaces *next;
};

static struct LogqQueryPlaces *queries = NULL;

static PlaceList xact_places;
static bool xact_callback_registered = false;

/* ---------- lists ---------- */

/*
 * The member for a server, made when there is none.  It is likely at "hint".
 * The list grows in context.
 */
static ServerPlaces *
places_at(PlaceList *list, Oid serverid, int hint, MemoryContext context)
{
	int			i;

	if (hint < list->n && list->servers[hint].serverid == serverid)
		return &list->servers[hint];
	for (i = 0; i < list->n; i++)
		if (list->servers[i].serverid == serverid)
			return &list->servers[i];
	if (list->n == list->size)
	{
		int			size = Max(2 * list->size, 32);

		if (list->servers == NULL)
			list->servers = MemoryContextAlloc(context,
											   size * sizeof(ServerPlaces));
		else
			list->servers = repalloc(list->servers,
									 size * sizeof(ServerPlaces));
		list->size = size;
	}
	list->servers[list->n].serverid = serverid;
	list->servers[list->n].held = 0;
	return &list->servers[list->n++];
}

/*
 * Give all back.  Never throws.
 */
static void
give_back(PlaceList *list)
{
	int			i;

	for (i = 0; i < list->n; i++)
	{
		int			held = list->servers[i].held;

		list->servers[i].held = 0;
		if (held > 0)
			logq_unreserve_connections(list->servers[i].serverid, held);
	}
	list->n = 0;
}

/*
 * Take so many more at the members of a list.  Returns ms that it waited.
 */
static double
take_more(PlaceList *list, const int *more)
{
	Oid		   *serverids = palloc((list->n + 1) * sizeof(Oid));
	int		   *wanted = palloc((list->n + 1) * sizeof(int));
	double		waited = 0;
	int			n = 0;
	int			i;

	for (i = 0; i < list->n; i++)
	{
		if (more[i] <= 0)
			continue;
		serverids[n] = list->servers[i].serverid;
		wanted[n++] = more[i];
	}
	if (n > 0)
	{
		waited = logq_reserve_connections(n, serverids, wanted);
		for (i = 0; i < list->n; i++)
			list->servers[i].held += Max(more[i], 0);
	}
	pfree(serverids);
	pfree(wanted);
	return waited;
}

/* ---------- queries ---------- */

/*
 * The executor state goes.
 */
static void
query_ended(void *arg)
{
	struct LogqQueryPlaces *query = arg;
	struct LogqQueryPlaces **link;

	for (link = &queries; *link != NULL; link = &(*link)->next)
	{
		if (*link == query)
		{
			*link = query->next;
			break;
		}
	}
	give_back(&query->places);
}

/*
 * See admission.h.
 */
void
logq_reserve_begin_scan(LogqScanState *state)
{
	EState	   *estate = state->css.ss.ps.state;
	struct LogqQueryPlaces *query;

	if (logq_connection_limit() == 0)
		return;
	for (query = queries; query != NULL; query = query->next)
		if (query->estate == estate)
			break;
	if (query == NULL)
	{
		query = MemoryContextAllocZero(estate->es_query_cxt, sizeof(*query));
		query->estate = estate;
		query->callback.func = query_ended;
		query->callback.arg = query;
		query->next = queries;
		queries = query;
		MemoryContextRegisterResetCallback(estate->es_query_cxt,
										   &query->callback);
	}
	query->nscans++;
	state->query_places = query;
}

/*
 * See admission.h.
 */
double
logq_reserve_start_run(LogqScanState *state)
{
	struct LogqQueryPlaces *query = state->query_places;
	PlaceList  *list;
	MemoryContext context = state->css.ss.ps.state->es_query_cxt;
	double		waited;
	int		   *more;
	int			i;

	if (query == NULL || query->complete || logq_connection_limit() == 0)
		return 0;
	list = &query->places;
	for (i = 0; i < state->nstreams; i++)
		if (OidIsValid(state->streams[i].part->serverid))
			(void) places_at(list, state->streams[i].part->serverid, i,
							 context);

	more = palloc0((list->n + 1) * sizeof(int));
	for (i = 0; i < state->nstreams; i++)
	{
		const LogqStream *stream = &state->streams[i];
		ServerPlaces *at;
		int			needed = query->nscans;

		if (!OidIsValid(stream->part->serverid))
			continue;
		at = places_at(list, stream->part->serverid, i, context);
		if ((query->nscans == 1 && state->fates[i] != LOGQ_FATE_ASKED) ||
			logq_xact_has_written(stream->part->serverid))
			needed = 0;
		/* of the run before: give back first */
		if (at->held > needed)
		{
			int			held = at->held;

			at->held = needed;
			logq_unreserve_connections(at->serverid, held - needed);
		}
		more[at - list->servers] = needed - at->held;
	}
	waited = take_more(list, more);
	pfree(more);
	query->complete = query->nscans > 1;
	return waited;
}

/* ---------- transactions ---------- */

/*
 * At the end of a transaction.
 */
static void
xact_ended(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		give_back(&xact_places);
}

/*
 * See admission.h.
 */
void
logq_reserve_write(Oid serverid, int nwriters)
{
	ServerPlaces *at;
	int		   *more;
	int			i;

	if (logq_connection_limit() == 0)
		return;
	if (!xact_callback_registered)
	{
		RegisterXactCallback(xact_ended, NULL);
		xact_callback_registered = true;
	}
	if (xact_places.n == 0)
	{
		ListCell   *lc;

		foreach(lc, logq_partitions())
		{
			LogqPartition *part = lfirst(lc);

			if (OidIsValid(part->serverid))
				(void) places_at(&xact_places, part->serverid, 0,
								 TopMemoryContext);
		}
	}
	at = places_at(&xact_places, serverid, 0, TopMemoryContext);

	more = palloc0(xact_places.n * sizeof(int));
	for (i = 0; i < xact_places.n; i++)
		more[i] = 1 - xact_places.servers[i].held;
	more[at - xact_places.servers] = nwriters - at->held;
	(void) take_more(&xact_places, more);
	pfree(more);
}
