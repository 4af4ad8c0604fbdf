/*-------------------------------------------------------------------------
 *
 * redistls.c
 *		TLS for connections to Redis.
 *
 * Built where there is hiredis_ssl (see the Makefile).  That takes an OpenSSL
 * connection of ours, as its own way of making one has no means to check that
 * the certificate is for the server that was meant.  It is always checked:
 * against sslrootcert or what the system trusts, and for tls_server_name or
 * host.
 *
 * OpenSSL keeps errors in a queue of the thread, and tells by it whether what
 * did not succeed may be tried again.  PostgreSQL's own connections use the
 * same queue.  So it is emptied before and after each use of a socket.
 *
 *-------------------------------------------------------------------------
 */
#include "redisint.h"

#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "utils/memutils.h"

typedef struct LogqRedisTls
{
	SSL_CTX    *context;
	SSL		   *ssl;			/* hiredis owns it */
} LogqRedisTls;

void
logq_redis_tls_clear_errors(void)
{
	ERR_clear_error();
}

/*
 * The first error of the queue, which is the one that says most.
 */
static const char *
queued_error(void)
{
	unsigned long error = ERR_peek_error();
	const char *reason = ERR_reason_error_string(error);

	if (reason != NULL)
		return reason;
	/* from 3.0 on, such an error has no text */
	return error != 0 ? strerror(ERR_GET_REASON(error)) : "unknown error";
}

/*
 * A key that is protected by a password is of no use: OpenSSL would ask for it
 * on the terminal.
 */
static int
no_password(char *buf, int size, int rwflag, void *arg)
{
	return 0;
}

/*
 * Read certificates.  That of all the system trusts can take longer than a
 * whole look-up may, so it is not to be part of one.
 */
void
logq_redis_tls_prepare(LogqRedisConn *conn)
{
	const LogqRedisConfig *config = conn->config;
	SSL_CTX    *context;
	bool		good;

	conn->tls = MemoryContextAllocExtended(conn->context, sizeof(LogqRedisTls),
										   MCXT_ALLOC_NO_OOM |
										   MCXT_ALLOC_ZERO);
	ERR_clear_error();
	context = SSL_CTX_new(TLS_client_method());
	if (conn->tls == NULL || context == NULL)
	{
		logq_redis_complain(conn, "out of memory");
		SSL_CTX_free(context);
		ERR_clear_error();
		return;
	}
	conn->tls->context = context;
	SSL_CTX_set_default_passwd_cb(context, no_password);
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	if (config->sslrootcert != NULL)
		good = SSL_CTX_load_verify_locations(context, config->sslrootcert,
											 NULL) == 1;
	else
		good = SSL_CTX_set_default_verify_paths(context) == 1;
	if (!good)
		logq_redis_complain(conn, "could not load root certificates: %s",
							queued_error());
	if (config->sslcert != NULL &&
		SSL_CTX_use_certificate_chain_file(context, config->sslcert) != 1)
		logq_redis_complain(conn, "could not load the certificate: %s",
							queued_error());
	if (config->sslkey != NULL &&
		SSL_CTX_use_PrivateKey_file(context, config->sslkey,
									SSL_FILETYPE_PEM) != 1)
		logq_redis_complain(conn, "could not load the key: %s",
							queued_error());
	ERR_clear_error();
}

/*
 * Say whom the certificate must be for: an address, or a name, which is also
 * sent along.
 */
static bool
set_server_name(SSL *ssl, const char *name)
{
	if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1)
		return true;
	return SSL_set1_host(ssl, name) == 1 &&
		SSL_set_tlsext_host_name(ssl, name) == 1;
}

/*
 * Begin with TLS on a socket that is connected; hiredis goes on whenever it
 * reads or writes.
 */
void
logq_redis_tls_start(LogqRedisConn *conn)
{
	SSL		   *ssl;

	ERR_clear_error();
	ssl = SSL_new(conn->tls->context);
	if (ssl == NULL || !set_server_name(ssl, conn->config->server_name))
	{
		logq_redis_complain(conn, "TLS could not be started: %s",
							queued_error());
		SSL_free(ssl);
	}
	else if (redisInitiateSSL(conn->redis, ssl) != REDIS_OK)
	{
		logq_redis_complain(conn, "TLS could not be started: %s",
							conn->redis->errstr);
		SSL_free(ssl);
	}
	else
		conn->tls->ssl = ssl;
	ERR_clear_error();
}

void
logq_redis_tls_end(LogqRedisConn *conn)
{
	if (conn->tls != NULL)
		SSL_CTX_free(conn->tls->context);
	conn->tls = NULL;
}

const char *
logq_redis_tls_error(const LogqRedisConn *conn)
{
	long		verified;

	if (conn->tls == NULL || conn->tls->ssl == NULL)
		return NULL;
	verified = SSL_get_verify_result(conn->tls->ssl);
	if (verified != X509_V_OK)
		return X509_verify_cert_error_string(verified);
	if (ERR_peek_error() != 0)
		return queued_error();
	return NULL;
}
