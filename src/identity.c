/*-------------------------------------------------------------------------
 *
 * identity.c
 *		Who a session is to its partitions.
 *
 * What a partition shows may depend on the user it is asked by.  So cached
 * rows are kept by that user's name, and a session is given those of a user
 * only when the partition has itself let it in as that user: a user mapping
 * with somebody else's name and no password gives nothing.
 *
 * Invariants: an entry is proven by a connection that was made from the user
 * mapping as it is now.  Whatever changes a server or a mapping takes all
 * entries away.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "identity.h"

#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

typedef struct IdentityKey
{
	Oid			serverid;
	Oid			userid;
} IdentityKey;

typedef struct Identity
{
	IdentityKey key;
	Oid			umid;			/* the mapping may be PUBLIC's */
	bool		named;			/* the mapping says who, or a connection has */
	bool		proven;
	char		user[NAMEDATALEN];
} Identity;

static HTAB *identities = NULL;
static bool valid = false;

/*
 * A server or a user mapping has changed, somewhere.  Not the moment to change
 * the table: somebody may be reading it.
 */
static void
identity_invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	valid = false;
}

/*
 * The table, empty after a change.
 */
static HTAB *
current_identities(void)
{
	if (identities == NULL)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, identity_invalidated,
									  (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, identity_invalidated,
									  (Datum) 0);
	}
	if (!valid && identities != NULL)
	{
		hash_destroy(identities);
		identities = NULL;
	}
	if (identities == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(IdentityKey);
		ctl.entrysize = sizeof(Identity);
		ctl.hcxt = TopMemoryContext;
		identities = hash_create("logq identities", 16, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		valid = true;
	}
	return identities;
}

/*
 * The entry of a user, made from the mapping when it is new.  Fails like a
 * connection would when there is no mapping.
 */
static Identity *
find_identity(Oid serverid, Oid userid)
{
	IdentityKey key = {serverid, userid};
	Identity	made = {0};
	Identity   *identity;
	UserMapping *mapping;
	ListCell   *lc;

	identity = hash_search(current_identities(), &key, HASH_FIND, NULL);
	if (identity != NULL)
		return identity;
	mapping = GetUserMapping(userid, serverid);
	made.key = key;
	made.umid = mapping->umid;
	foreach(lc, mapping->options)
	{
		DefElem    *def = lfirst(lc);

		/* libpq takes an empty one for none, the server cuts a long one */
		if (strcmp(def->defname, "user") == 0 &&
			defGetString(def)[0] != '\0' &&
			strlen(defGetString(def)) < NAMEDATALEN)
		{
			strlcpy(made.user, defGetString(def), NAMEDATALEN);
			made.named = true;
		}
	}
	/* reading the mapping may have let in news of a change */
	identity = hash_search(current_identities(), &key, HASH_ENTER, NULL);
	*identity = made;
	return identity;
}

/*
 * See identity.h.
 */
const char *
logq_identity(Oid serverid, Oid userid)
{
	Identity   *identity = find_identity(serverid, userid);

	return identity->named ? identity->user : NULL;
}

/*
 * See identity.h.
 */
bool
logq_identity_proven(Oid serverid, Oid userid)
{
	return find_identity(serverid, userid)->proven;
}

/*
 * See identity.h.
 */
void
logq_prove_identity(const LogqConn *conn)
{
	HASH_SEQ_STATUS seq;
	Identity   *identity;
	const char *user = PQuser(conn->pg);

	if (!valid || identities == NULL || conn->stale || user == NULL ||
		strlen(user) >= NAMEDATALEN)
		return;
	hash_seq_init(&seq, identities);
	while ((identity = hash_seq_search(&seq)) != NULL)
	{
		/* a mapping of PUBLIC may let one in, and not another */
		if (identity->umid != conn->umid ||
			identity->key.serverid != conn->serverid ||
			identity->key.userid != conn->userid)
			continue;
		if (!identity->named)
		{
			strlcpy(identity->user, user, NAMEDATALEN);
			identity->named = true;
		}
		identity->proven = strcmp(identity->user, user) == 0;
	}
}

/*
 * See identity.h.
 */
bool
logq_same_identity(const LogqConn *conn, Oid userid)
{
	const char *user = logq_identity(conn->serverid, userid);

	if (user != NULL && strcmp(user, PQuser(conn->pg)) != 0)
		return false;
	if (!logq_identity_proven(conn->serverid, userid))
	{
		LogqConn   *proof = logq_conn_acquire_beside(conn->serverid, userid);

		PG_TRY();
		{
			logq_conn_wait_ready(proof);
		}
		PG_CATCH();
		{
			logq_conn_close(proof);
			PG_RE_THROW();
		}
		PG_END_TRY();
		logq_prove_identity(proof);
		logq_conn_release(proof);
	}
	user = logq_identity(conn->serverid, userid);
	return user != NULL && strcmp(user, PQuser(conn->pg)) == 0;
}
