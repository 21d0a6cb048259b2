/*
 * tls.h: the options of a side's certificate, as both verbs have them. The texts belong to options_free(); what is read, a new reference, to
 * the caller. -EINVAL: wrong usage; any other error is of a file, and names it.
 */
#ifndef LODGE_CLI_MIGRATE_TLS_H
#define LODGE_CLI_MIGRATE_TLS_H

#include <stdbool.h>

#include "base/options.h"

struct err;
struct json_t;

struct tls_opts {
	char *cert, *key, *ca, *peer;
	bool plain;
};
extern const struct opt tls_opts[];

/* -EINVAL: some are there and some are not. */
int tls_opts_check(const struct tls_opts *t, struct err *e);
/* {"cert", "key", "ca", "peer"} with the files' contents; *out NULL without TLS. `host`: whom the certificate must name unless --tls-peer does. */
int tls_opts_read(const struct tls_opts *t, const char *host, struct json_t **out, struct err *e);

#endif
