/*-------------------------------------------------------------------------
 *
 * write.c
 *		INSERT and COPY into a log table.
 *
 * A row is checked, routed to a partition, encoded as a tuple of binary COPY
 * and put into that partition's buffer; copyin.c sends the buffers as they
 * fill, and at the end of the statement all partitions finish at the same
 * time.  Rows are buffered here anyhow, so there is no ExecForeignBatchInsert:
 * it would only make the executor copy the rows once more before we see them.
 *
 * Not done: a function or trigger that reads the table while the statement
 * that called it writes does not see that statement's rows, or is refused
 * when it cannot be kept from seeing some of them (xact.c).
 *
 * Failure cases: a row that no partition would take is an error that names
 * the row's problem, before anything is sent for it.  What a partition says
 * is an error of the statement; xact.c cleans up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "write.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "commands/trigger.h"
#include "foreign/fdwapi.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* a row must leave room for its lengths, here and on the partition */
#define MAX_ROW_SIZE (MaxAllocSize - SEND_CHUNK)
/* how much of a value an error shows */
#define MAX_SHOWN_VALUE 64

/* members of fdw_private */
enum WritePrivate
{
	WRITE_PRIVATE_NEED_SLOT,
	WRITE_PRIVATE_NEED_ID
};

/* ---------- routing ---------- */

/*
 * The stream of the partition that the row itself names.
 */
static LogqWriteStream *
named_partition(LogqWriteState *state, text *name)
{
	StringInfoData known;
	int			i;

	for (i = 0; i < state->nstreams; i++)
	{
		const char *candidate = state->streams[i].part->name;

		if (strlen(candidate) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(candidate, VARDATA_ANY(name), strlen(candidate)) == 0)
			return &state->streams[i];
	}

	initStringInfo(&known);
	for (i = 0; i < state->nstreams; i++)
		appendStringInfo(&known, "%s\"%s\"", i > 0 ? ", " : "",
						 state->streams[i].part->name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("partition \"%s\" does not exist",
					text_to_cstring(name)),
			 errdetail("The partitions are %s.", known.data),
			 errhint("Leave column \"partition\" out to have rows routed.")));
	return NULL;				/* keep compiler quiet */
}

/*
 * The stream that a row goes to.  values are by LogqColumn.
 */
static LogqWriteStream *
route_row(LogqWriteState *state, const Datum *values, const bool *nulls)
{
	static uint32 turn = 0;
	static bool turn_set = false;
	int			key;

	if (!nulls[LOGQ_COL_PARTITION])
		return named_partition(state,
							   DatumGetTextPP(values[LOGQ_COL_PARTITION]));

	if (state->route_by != LOGQ_ROUTE_ROUND_ROBIN)
	{
		key = state->route_by == LOGQ_ROUTE_SERVICE ?
			LOGQ_COL_SERVICE : LOGQ_COL_TRACE_ID;
		if (!nulls[key])
		{
			text	   *t = DatumGetTextPP(values[key]);

			return &state->streams[logq_route(&state->router, VARDATA_ANY(t),
											  VARSIZE_ANY_EXHDR(t))];
		}
		if (key == LOGQ_COL_SERVICE)
			return &state->streams[logq_route(&state->router, "", 0)];
	}

	/* sessions that insert one row each shall not all begin with the first */
	if (!turn_set)
	{
		turn = (uint32) MyProcPid;
		turn_set = true;
	}
	return &state->streams[turn++ % state->nstreams];
}

/* ---------- rows ---------- */

/*
 * Show the row as core does for its own constraints, to whom may read it.
 */
static char *
describe_row(LogqWriteState *state, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(state->rel);
	StringInfoData buf;
	int			i;
	bool		first = true;

	if (pg_class_aclcheck(RelationGetRelid(state->rel), GetUserId(),
						  ACL_SELECT) != ACLCHECK_OK)
		return NULL;

	initStringInfo(&buf);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid			output;
		bool		is_varlena;
		char	   *value;
		int			len;

		if (att->attisdropped)
			continue;
		if (!first)
			appendStringInfoString(&buf, ", ");
		first = false;
		if (slot->tts_isnull[i])
		{
			appendStringInfoString(&buf, "null");
			continue;
		}
		getTypeOutputInfo(att->atttypid, &output, &is_varlena);
		value = OidOutputFunctionCall(output, slot->tts_values[i]);
		len = strlen(value);
		if (len > MAX_SHOWN_VALUE)
		{
			len = pg_mbcliplen(value, len, MAX_SHOWN_VALUE);
			appendBinaryStringInfo(&buf, value, len);
			appendStringInfoString(&buf, "...");
		}
		else
			appendStringInfoString(&buf, value);
		pfree(value);
	}
	return buf.data;
}

/*
 * Errors unless the row can be stored at all.  Returns about its size.
 */
static Size
check_row(LogqWriteState *state, const Datum *values, const bool *nulls,
		  TupleTableSlot *slot)
{
	const char *relname = RelationGetRelationName(state->rel);
	TimestampTz ts;
	Size		size = 0;
	int			col;

	if (nulls[LOGQ_COL_TS])
	{
		char	   *row = describe_row(state, slot);

		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
						logq_columns[LOGQ_COL_TS].name, relname),
				 row ? errdetail("Failing row contains (%s).", row) : 0));
	}
	ts = DatumGetTimestampTz(values[LOGQ_COL_TS]);
	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("column \"%s\" of relation \"%s\" cannot be infinite",
						logq_columns[LOGQ_COL_TS].name, relname),
				 errhint("Every row lies in a segment of time. Give the time of the event.")));
	if (!nulls[LOGQ_COL_ID])
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot insert a non-DEFAULT value into column \"%s\"",
						logq_columns[LOGQ_COL_ID].name),
				 errdetail("Ids are assigned by the partitions."),
				 errhint("Leave the column out, or use DEFAULT.")));

	for (col = LOGQ_COL_LEVEL; col <= LOGQ_COL_ATTRS; col++)
		if (!nulls[col])
			size += toast_raw_datum_size(values[col]);
	if (size > MAX_ROW_SIZE)
	{
		char	   *service = nulls[LOGQ_COL_SERVICE] ? NULL :
			TextDatumGetCString(values[LOGQ_COL_SERVICE]);

		if (service != NULL && strlen(service) > MAX_SHOWN_VALUE)
			service[pg_mbcliplen(service, strlen(service),
								 MAX_SHOWN_VALUE)] = '\0';
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row of %zu bytes is too large for relation \"%s\"",
						size, relname),
				 errdetail("The row is of service \"%s\" at %s. The limit is %zu bytes.",
						   service ? service : "", timestamptz_to_str(ts),
						   (Size) MAX_ROW_SIZE)));
	}
	return size;
}

/*
 * Append a field of text, which is in the encoding that we told the partition.
 */
static void
append_text(StringInfo buf, Datum value)
{
	text	   *t = DatumGetTextPP(value);
	int			len = VARSIZE_ANY_EXHDR(t);

	pq_sendint32(buf, len);
	appendBinaryStringInfo(buf, VARDATA_ANY(t), len);
}

/*
 * Append a field of jsonb: its external form is a version and the text.  The
 * length is known only when the text is there.
 */
static void
append_jsonb(StringInfo buf, Datum value)
{
	Jsonb	   *jb = DatumGetJsonbP(value);
	int			at = buf->len;
	uint32		len;

	pq_sendint32(buf, 0);
	pq_sendint8(buf, 1);
	(void) JsonbToCString(buf, &jb->root, VARSIZE(jb));
	len = pg_hton32((uint32) (buf->len - at - 4));
	memcpy(buf->data + at, &len, 4);
}

/*
 * Append a row as a tuple of binary COPY.
 */
static void
append_row(LogqWriteStream *stream, const Datum *values, const bool *nulls,
		   int64 id)
{
	StringInfo	buf = &stream->buf;
	bool		with_id = stream->state->need_id;
	int			col;

	pq_sendint16(buf, with_id ? 7 : 6);
	pq_sendint32(buf, 8);
	pq_sendint64(buf, DatumGetTimestampTz(values[LOGQ_COL_TS]));
	for (col = LOGQ_COL_LEVEL; col <= LOGQ_COL_ATTRS; col++)
	{
		if (nulls[col])
			pq_sendint32(buf, (uint32) -1);
		else if (col == LOGQ_COL_ATTRS)
			append_jsonb(buf, values[col]);
		else
			append_text(buf, values[col]);
	}
	if (with_id)
	{
		pq_sendint32(buf, 8);
		pq_sendint64(buf, id);
	}
}

/*
 * Put what the partition assigns into the slot, for RETURNING and the like.
 * The slot of a foreign table holds a heap tuple, so that a new one has to be
 * formed, in the slot's context, before the old one goes.
 */
static void
complete_slot(LogqWriteStream *stream, TupleTableSlot *slot, int64 id)
{
	LogqWriteState *state = stream->state;
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	AttrNumber	attno;
	MemoryContext old;
	HeapTuple	tuple;

	memcpy(values, slot->tts_values, desc->natts * sizeof(Datum));
	memcpy(nulls, slot->tts_isnull, desc->natts * sizeof(bool));
	if ((attno = state->map.attno[LOGQ_COL_PARTITION]) > 0)
	{
		values[attno - 1] = CStringGetTextDatum(stream->part->name);
		nulls[attno - 1] = false;
	}
	if (state->need_id && (attno = state->map.attno[LOGQ_COL_ID]) > 0)
	{
		values[attno - 1] = Int64GetDatum(id);
		nulls[attno - 1] = false;
	}

	old = MemoryContextSwitchTo(slot->tts_mcxt);
	tuple = heap_form_tuple(desc, values, nulls);
	tuple->t_tableOid = RelationGetRelid(state->rel);
	ExecForceStoreHeapTuple(tuple, slot, true);
	MemoryContextSwitchTo(old);
}

/*
 * Take one row.
 */
static TupleTableSlot *
exec_foreign_insert(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot,
					TupleTableSlot *planSlot)
{
	LogqWriteState *state = rri->ri_FdwState;
	LogqWriteStream *stream;
	Datum		values[LOGQ_NCOLUMNS];
	bool		nulls[LOGQ_NCOLUMNS];
	MemoryContext old;
	Size		size;
	int64		id = 0;
	int			col;

	MemoryContextReset(state->row_cxt);
	old = MemoryContextSwitchTo(state->row_cxt);

	slot_getallattrs(slot);
	for (col = 0; col < LOGQ_NCOLUMNS; col++)
	{
		AttrNumber	attno = state->map.attno[col];

		nulls[col] = attno == 0 || slot->tts_isnull[attno - 1];
		values[col] = nulls[col] ? (Datum) 0 : slot->tts_values[attno - 1];
	}
	size = check_row(state, values, nulls, slot);

	if (state->nstreams == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no partitions to store rows of relation \"%s\"",
						RelationGetRelationName(state->rel)),
				 errhint("Add one with SELECT logq.add_partition(...).")));

	stream = route_row(state, values, nulls);
	logq_write_ensure_segment(stream, DatumGetTimestampTz(values[LOGQ_COL_TS]));
	if (state->need_id)
	{
		if (stream->next_id == stream->nids)
			logq_write_reserve_ids(stream);
		id = stream->ids[stream->next_id++];
	}

	/* a giant row would not fit behind what waits */
	if (size > MAX_PENDING && stream->buf.len > 0)
		logq_write_send(stream, 0);
	append_row(stream, values, nulls, id);
	stream->rows++;
	if (stream->buf.len >= stream->send_at)
		logq_write_send(stream, MAX_PENDING);

	if (state->need_slot)
		complete_slot(stream, slot, id);
	MemoryContextSwitchTo(old);
	return slot;
}

/* ---------- begin and end ---------- */

/*
 * The statement's memory goes, after its end or an error.  Connections are
 * the business of xact.c.
 */
static void
state_freed(void *arg)
{
	LogqWriteState *state = arg;
	int			i;

	for (i = 0; i < state->nstreams; i++)
	{
		logq_write_forget(&state->streams[i]);
		PQclear(state->streams[i].failure);
		state->streams[i].failure = NULL;
	}
}

/*
 * Get ready for writing to a log table.
 */
static void
begin_write(EState *estate, ResultRelInfo *rri, bool need_slot, bool need_id)
{
	MemoryContext cxt = AllocSetContextCreate(estate->es_query_cxt,
											  "logq write",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	LogqWriteState *state = palloc0(sizeof(LogqWriteState));
	int32	   *numbers;
	List	   *parts;
	ListCell   *lc;

	state->cxt = cxt;
	state->row_cxt = AllocSetContextCreate(cxt, "logq row",
										   ALLOCSET_DEFAULT_SIZES);
	state->rel = rri->ri_RelationDesc;
	logq_rel_map(state->rel, &state->map);
	state->userid = logq_result_rel_user(rri, estate);
	state->need_slot = need_slot;
	state->need_id = need_id;
	state->route_by = logq_route_by;

	parts = logq_partitions();
	state->streams = palloc0(Max(list_length(parts), 1) *
							 sizeof(LogqWriteStream));
	numbers = palloc(Max(list_length(parts), 1) * sizeof(int32));
	foreach(lc, parts)
	{
		LogqPartition *part = lfirst(lc);
		LogqWriteStream *stream = &state->streams[state->nstreams];

		/* a partition without its server cannot take rows */
		if (!OidIsValid(part->serverid))
			continue;
		stream->state = state;
		stream->part = part;
		stream->lower = DT_NOEND;
		stream->upper = DT_NOBEGIN;
		stream->send_at = SEND_CHUNK;
		initStringInfo(&stream->buf);
		numbers[state->nstreams++] = part->number;
	}
	logq_router_init(&state->router, numbers, state->nstreams);

	state->callback.func = state_freed;
	state->callback.arg = state;
	MemoryContextRegisterResetCallback(cxt, &state->callback);
	MemoryContextSwitchTo(old);
	rri->ri_FdwState = state;
}

/*
 * Send the rest.  Only called when the statement has succeeded so far.
 */
static void
end_write(EState *estate, ResultRelInfo *rri)
{
	LogqWriteState *state = rri->ri_FdwState;

	if (state == NULL)
		return;
	rri->ri_FdwState = NULL;
	logq_write_finish(state);
	MemoryContextDelete(state->cxt);
}

/*
 * AFTER ROW triggers are queued with the whole row.
 */
static bool
has_after_triggers(ResultRelInfo *rri)
{
	return rri->ri_TrigDesc != NULL && rri->ri_TrigDesc->trig_insert_after_row;
}

/*
 * Refuse what cannot be done, and find out whether anybody wants to see ids.
 */
static List *
plan_foreign_modify(PlannerInfo *root, ModifyTable *plan,
					Index resultRelation, int subplan_index)
{
	RangeTblEntry *rte = planner_rt_fetch(resultRelation, root);
	const char *relname = get_rel_name(rte->relid);
	Bitmapset  *attrs = NULL;
	bool		need_slot = false;
	bool		need_id = false;

	switch (plan->operation)
	{
		case CMD_INSERT:
			break;
		case CMD_UPDATE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot update foreign table \"%s\"", relname),
					 errhint("Logs are append-only.")));
			break;
		case CMD_DELETE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot delete from foreign table \"%s\"",
							relname),
					 errhint("Logs are append-only. Old rows leave with their segment.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot merge into foreign table \"%s\"",
							relname),
					 errhint("Logs are append-only. Use INSERT.")));
	}
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT is not supported for foreign table \"%s\"",
						relname),
				 errhint("Log rows have no key that could conflict. Leave the clause out.")));

	if (plan->returningLists != NIL)
		pull_varattnos((Node *) list_nth(plan->returningLists, subplan_index),
					   resultRelation, &attrs);
	if (plan->withCheckOptionLists != NIL)
		pull_varattnos((Node *) list_nth(plan->withCheckOptionLists,
										 subplan_index),
					   resultRelation, &attrs);
	if (attrs != NULL)
	{
		int			i = -1;

		while ((i = bms_next_member(attrs, i)) >= 0)
		{
			AttrNumber	attno = i + FirstLowInvalidHeapAttributeNumber;
			char	   *attname;

			if (attno < 0)
				continue;		/* tableoid is core's business */
			if (attno == InvalidAttrNumber)
			{
				need_slot = need_id = true; /* the whole row */
				continue;
			}
			attname = get_attname(rte->relid, attno, false);
			if (strcmp(attname, logq_columns[LOGQ_COL_ID].name) == 0)
				need_slot = need_id = true;
			else if (strcmp(attname,
							logq_columns[LOGQ_COL_PARTITION].name) == 0)
				need_slot = true;
		}
	}
	return list_make2(makeBoolean(need_slot), makeBoolean(need_id));
}

/*
 * INSERT begins.  EXPLAIN alone needs nothing.
 */
static void
begin_foreign_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
					 List *fdw_private, int subplan_index, int eflags)
{
	bool		triggers = has_after_triggers(rri);

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	begin_write(mtstate->ps.state, rri,
				triggers ||
				boolVal(list_nth(fdw_private, WRITE_PRIVATE_NEED_SLOT)),
				triggers ||
				boolVal(list_nth(fdw_private, WRITE_PRIVATE_NEED_ID)));
}

/*
 * COPY FROM begins, or rows are routed here as to a partition of a local
 * table.  Then there is no plan of ours that says which columns are wanted.
 */
static void
begin_foreign_insert(ModifyTableState *mtstate, ResultRelInfo *rri)
{
	ModifyTable *plan = (ModifyTable *) mtstate->ps.plan;
	bool		need;

	if (rri->ri_FdwState != NULL)
		return;
	if (plan != NULL && plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT is not supported for foreign table \"%s\"",
						RelationGetRelationName(rri->ri_RelationDesc)),
				 errhint("Log rows have no key that could conflict. Leave the clause out.")));

	need = has_after_triggers(rri) || rri->ri_WithCheckOptions != NIL ||
		(plan != NULL && plan->returningLists != NIL);
	begin_write(mtstate->ps.state, rri, need, need);
}

/*
 * Only INSERT.
 */
static int
is_foreign_rel_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

/*
 * TRUNCATE is refused with more reason than core would give.
 */
static void
exec_foreign_truncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot truncate foreign table \"%s\"",
					RelationGetRelationName((Relation) linitial(rels))),
			 errhint("Logs are append-only. Old rows leave with their segment.")));
}

/*
 * How rows are routed and, when they have been, to how many partitions.
 */
static void
explain_foreign_modify(ModifyTableState *mtstate, ResultRelInfo *rri,
					   List *fdw_private, int subplan_index,
					   ExplainState *es)
{
	static const char *const route_names[] = {
		[LOGQ_ROUTE_SERVICE] = "service",
		[LOGQ_ROUTE_TRACE_ID] = "trace_id",
		[LOGQ_ROUTE_ROUND_ROBIN] = "round robin"
	};
	LogqWriteState *state = rri->ri_FdwState;
	ListCell   *lc;
	int			n = 0;

	foreach(lc, logq_partitions())
		if (OidIsValid(((LogqPartition *) lfirst(lc))->serverid))
			n++;
	ExplainPropertyText("Route By", route_names[logq_route_by], es);
	ExplainPropertyInteger("Partitions", NULL, n, es);
	if (es->analyze && state != NULL)
	{
		int			i;

		n = 0;
		for (i = 0; i < state->nstreams; i++)
			if (state->streams[i].rows > 0)
				n++;
		ExplainPropertyInteger("Partitions Written", NULL, n, es);
	}
}

/*
 * Install the callbacks.
 */
void
logq_write_init(FdwRoutine *routine)
{
	routine->PlanForeignModify = plan_foreign_modify;
	routine->BeginForeignModify = begin_foreign_modify;
	routine->ExecForeignInsert = exec_foreign_insert;
	routine->EndForeignModify = end_write;
	routine->BeginForeignInsert = begin_foreign_insert;
	routine->EndForeignInsert = end_write;
	routine->IsForeignRelUpdatable = is_foreign_rel_updatable;
	routine->ExplainForeignModify = explain_foreign_modify;
	routine->ExecForeignTruncate = exec_foreign_truncate;
}
