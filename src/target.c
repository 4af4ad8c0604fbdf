/*-------------------------------------------------------------------------
 *
 * target.c
 *		The tuple of a scan below an aggregation, and values as they come.
 *
 * Such a scan asks each segment for groups: a bin of ts, further keys, and
 * partial aggregates, in this order, which is also that of the tuple.  Some
 * members are not sent: the partition's name is known, and those that stand
 * there for quals are always NULL.
 *
 * Values come in the binary form of their types, which is the same in all
 * versions for the types that are shipped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * Read what the plan says.
 */
void
logq_upper_prepare(LogqScanState *state, List *plan, CustomScan *cscan)
{
	LogqUpperScan *upper = palloc0(sizeof(LogqUpperScan));
	List	   *targets = list_nth(plan, LOGQ_UPPER_TARGETS);
	int			qual = intVal(list_nth(plan, LOGQ_UPPER_COUNTED_QUAL));
	ListCell   *lc;

	upper->relid = (Oid) intVal(list_nth(plan, LOGQ_UPPER_RELID));
	upper->mode = intVal(list_nth(plan, LOGQ_UPPER_MODE));
	upper->gathers = intVal(list_nth(plan, LOGQ_UPPER_GATHERS)) != 0;
	upper->plan_steps = list_nth(plan, LOGQ_UPPER_STEPS);
	upper->from_rollups = intVal(list_nth(plan, LOGQ_UPPER_FROM_ROLLUPS)) != 0;
	upper->counted = list_nth(plan, LOGQ_UPPER_COUNTED);
	if (qual >= 0)
		upper->counted_qual =
			ExecInitQual(make_ands_implicit(list_nth(cscan->custom_exprs,
													 qual)),
						 &state->css.ss.ps);
	foreach(lc, (List *) list_nth(plan, LOGQ_UPPER_NEEDS))
	{
		upper->need_level |= lfirst_int(lc) == LOGQ_COL_LEVEL;
		upper->need_service |= lfirst_int(lc) == LOGQ_COL_SERVICE;
	}

	upper->targets = palloc0((list_length(targets) + 1) *
							 sizeof(LogqScanTarget));
	foreach(lc, targets)
	{
		List	   *item = lfirst(lc);
		LogqScanTarget *target = &upper->targets[upper->ntargets++];
		TargetEntry *tle = list_nth_node(TargetEntry,
										 cscan->custom_scan_tlist,
										 upper->ntargets - 1);
		Oid			recv;

		target->kind = intVal(list_nth(item, LOGQ_TARGET_ITEM_KIND));
		target->key = intVal(list_nth(item, LOGQ_TARGET_ITEM_KEY)) != 0;
		target->column = intVal(list_nth(item, LOGQ_TARGET_ITEM_COLUMN));
		target->pieces = list_nth(item, LOGQ_TARGET_ITEM_PIECES);
		target->type = exprType((Node *) tle->expr);
		getTypeBinaryInputInfo(target->type, &recv, &target->ioparam);
		fmgr_info_cxt(recv, &target->recv, state->scan_cxt);
		if (target->column >= 0 && state->map.attno[target->column] == 0)
			state->map.attno[target->column] = upper->ntargets;
		switch (target->kind)
		{
			case LOGQ_TARGET_BIN:
				upper->has_bin = true;
				upper->nkeys++;
				break;
			case LOGQ_TARGET_SQL:
				if (target->key)
					upper->nkeys++;
				else
					upper->nvalues++;
				break;
			case LOGQ_TARGET_COUNT:
				upper->nvalues++;
				break;
			case LOGQ_TARGET_PARTITION:
			case LOGQ_TARGET_QUAL:
				break;
		}
	}
	upper->cell_desc = logq_cell_desc();
	state->upper = upper;
}

/*
 * The select list without the bin.  count: the SQL of the number of rows.
 */
static char *
select_list(LogqScanState *state, LogqPartition *part, const char *count,
			bool values)
{
	const LogqUpperScan *upper = state->upper;
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < upper->ntargets; i++)
	{
		const LogqScanTarget *target = &upper->targets[i];

		if (target->kind != LOGQ_TARGET_SQL &&
			target->kind != LOGQ_TARGET_COUNT)
			continue;
		if (buf.len > 0)
			appendStringInfoString(&buf, ", ");
		if (target->kind == LOGQ_TARGET_COUNT)
			appendStringInfoString(&buf, count);
		else
			logq_scan_pieces(state, &buf, target->pieces, part, values);
	}
	return buf.data;
}

/*
 * See scan.h.
 */
const char *
logq_upper_select(LogqScanState *state, LogqPartition *part, bool values)
{
	return select_list(state, part, "pg_catalog.count(*)", values);
}

/*
 * Are groups by this column?
 */
static bool
has_key(const LogqUpperScan *upper, LogqColumn column)
{
	for (int i = 0; i < upper->ntargets; i++)
		if (upper->targets[i].key && upper->targets[i].column == column)
			return true;
	return false;
}

/*
 * See scan.h.  Without GROUP BY a segment would give one row in any case.  But
 * one in which nothing was found must not give any: aggregates here that take
 * constants, or the partition, would see a row.
 */
void
logq_upper_request(LogqScanState *state)
{
	LogqUpperScan *upper = state->upper;
	LogqRequest *request = &state->request;
	StringInfoData buf;

	request->binned = upper->has_bin;
	request->grouped = upper->mode != LOGQ_UPPER_ROWS;
	request->by_index = upper->mode == LOGQ_UPPER_COUNTS &&
		upper->from_rollups;
	request->nfields = upper->nkeys + upper->nvalues;

	initStringInfo(&buf);
	if (request->grouped && upper->nkeys > 0)
	{
		appendStringInfoString(&buf, " GROUP BY ");
		for (int i = 1; i <= upper->nkeys; i++)
			appendStringInfo(&buf, "%s%d", i > 1 ? ", " : "", i);
	}
	else if (request->grouped && upper->nvalues == 0)
		appendStringInfoString(&buf, " LIMIT 1");
	else if (request->grouped)
		appendStringInfoString(&buf, " HAVING pg_catalog.count(*) > 0");
	request->tail = buf.data;

	if (upper->mode == LOGQ_UPPER_COUNTS)
	{
		bool		values = state->values_done;

		initStringInfo(&buf);
		for (int i = 0; i < list_length(upper->counted); i++)
		{
			appendStringInfoString(&buf, " AND ");
			logq_scan_pieces(state, &buf, list_nth(upper->counted, i), NULL,
							 values);
		}
		request->rollup_where = buf.data;
		request->rollup_select = select_list(state, NULL,
											 "pg_catalog.sum(rows)::bigint",
											 values);
		request->rollup_rows = select_list(state, NULL, "rows", values);
		request->rollup_fits[LOGQ_SOURCE_LEVELS] =
			has_key(upper, LOGQ_COL_LEVEL);
		request->rollup_fits[LOGQ_SOURCE_SERVICES] =
			has_key(upper, LOGQ_COL_LEVEL) &&
			has_key(upper, LOGQ_COL_SERVICE);
	}
}

/* ---------- values ---------- */

/*
 * A field by the receive function of its type.
 *
 * These functions take text to be in the client's encoding.  It is in ours:
 * let them think that they are the same.
 */
Datum
logq_receive(FmgrInfo *recv, Oid ioparam, LogqStream *stream,
			 const char *what, const LogqField *field)
{
	int			client = pg_get_client_encoding();
	StringInfoData buf;
	volatile Datum value;

	buf.data = unconstify(char *, field->data);
	buf.len = buf.maxlen = field->len;
	buf.cursor = 0;
	if (client == GetDatabaseEncoding())
		value = ReceiveFunctionCall(recv, &buf, ioparam, -1);
	else
	{
		(void) SetClientEncoding(GetDatabaseEncoding());
		PG_TRY();
		{
			value = ReceiveFunctionCall(recv, &buf, ioparam, -1);
		}
		PG_CATCH();
		{
			/* it was in force, so this cannot fail */
			(void) SetClientEncoding(client);
			PG_RE_THROW();
		}
		PG_END_TRY();
		(void) SetClientEncoding(client);
	}
	if (buf.cursor != buf.len)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("partition \"%s\" sent %d bytes for %s",
						stream->part->name, field->len, what)));
	return value;
}

/*
 * One field of one of the log's own types as a Datum in the current memory
 * context.  what: what it is of, for errors.
 */
Datum
logq_scan_datum(LogqScanState *state, LogqStream *stream, Oid type,
				const char *what, const LogqField *field)
{
	switch (type)
	{
		case TEXTOID:
			{
				text	   *value;

				(void) pg_verify_mbstr(GetDatabaseEncoding(), field->data,
									   field->len, false);
				value = palloc(field->len + VARHDRSZ);
				SET_VARSIZE(value, field->len + VARHDRSZ);
				memcpy(VARDATA(value), field->data, field->len);
				return PointerGetDatum(value);
			}
		case JSONBOID:
			return logq_receive(&state->jsonb_recv, state->jsonb_ioparam,
								stream, what, field);
		default:
			if (field->len != 8)
				ereport(ERROR,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("partition \"%s\" sent %d bytes for %s",
								stream->part->name, field->len, what)));
			return Int64GetDatum(logq_decode_int64(field->data));
	}
}

/*
 * A value of a type in its binary form.
 */
static Datum
receive_value(LogqScanState *state, LogqStream *stream,
			  LogqScanTarget *target, const LogqField *field)
{
	switch (target->type)
	{
		case INT8OID:
		case TIMESTAMPTZOID:
		case TEXTOID:
			return logq_scan_datum(state, stream, target->type, "a group",
								   field);
		default:
			return logq_receive(&target->recv, target->ioparam, stream,
								"a group", field);
	}
}

/*
 * The tuple from a cell of our catalog.
 */
static void
fill_from_cell(LogqUpperScan *upper, TupleTableSlot *cell, LogqPartition *part,
			   TupleTableSlot *slot)
{
	for (int i = 0; i < upper->ntargets; i++)
	{
		int			from = -1;

		switch (upper->targets[i].kind)
		{
			case LOGQ_TARGET_BIN:
				from = LOGQ_CELL_TS;
				break;
			case LOGQ_TARGET_SQL:
				from = upper->targets[i].column == LOGQ_COL_LEVEL ?
					LOGQ_CELL_LEVEL : LOGQ_CELL_SERVICE;
				break;
			case LOGQ_TARGET_COUNT:
				from = LOGQ_CELL_ROWS;
				break;
			case LOGQ_TARGET_PARTITION:
				slot->tts_values[i] = CStringGetTextDatum(part->name);
				slot->tts_isnull[i] = false;
				break;
			case LOGQ_TARGET_QUAL:
				break;
		}
		if (from < 0)
			continue;
		slot->tts_values[i] = cell->tts_values[from];
		slot->tts_isnull[i] = cell->tts_isnull[from];
	}
}

/*
 * See scan.h.  The caller has set all to NULL, and row_cxt is current.
 */
void
logq_upper_fill(LogqScanState *state, LogqStream *stream,
				TupleTableSlot *slot)
{
	LogqUpperScan *upper = state->upper;
	int			n = 0;

	if (stream->in_cells)
	{
		fill_from_cell(upper, stream->cell_slot, stream->part, slot);
		return;
	}
	for (int i = 0; i < upper->ntargets; i++)
	{
		LogqScanTarget *target = &upper->targets[i];

		if (target->kind == LOGQ_TARGET_QUAL)
			continue;
		if (target->kind == LOGQ_TARGET_PARTITION)
			slot->tts_values[i] = CStringGetTextDatum(stream->part->name);
		else
		{
			const LogqField *field = &stream->fields[n++];

			if (field->len < 0)
				continue;
			slot->tts_values[i] = receive_value(state, stream, target, field);
		}
		slot->tts_isnull[i] = false;
	}
}
