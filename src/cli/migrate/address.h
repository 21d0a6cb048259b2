/*
 * address.h: where a machine goes to, or is waited for: unix:PATH, or tcp:HOST:PORT ([HOST] for IPv6).
 *
 * Memory of a guest is secret, and who may send a machine here decides which files of this host are opened for it. So TCP without TLS
 * is only for this host itself, unless `plain` says that the network is trusted. One thread. Errors: -EINVAL, what the host says.
 */
#ifndef LODGE_CLI_MIGRATE_ADDRESS_H
#define LODGE_CLI_MIGRATE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct err;

struct address {
	struct sockaddr_storage sa;
	socklen_t len;
	char host[256]; /* of tcp; what its certificate must be for */
	char text[512]; /* for people */
};

int address_parse(struct address *a, const char *text, struct err *e);
/* -EPERM: TCP to another host, neither `tls` nor `plain`. */
int address_allowed(const struct address *a, bool tls, bool plain, struct err *e);
/* A connected socket. */
int address_connect(const struct address *a, int *fd, struct err *e);
/* A listening one. A dead socket file that is in the way is removed; port 0 becomes a real one in a->text. */
int address_listen(struct address *a, int *fd, struct err *e);

#endif
