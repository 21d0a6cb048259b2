/*
 * client.h: a machine's control socket as the verbs use it: one call, one answer, blocking.
 *
 * A machine NAME lives in <runtime>/NAME: control.sock, pid, and `lock`, which its lodge-vm holds as long as it
 * lives. A directory whose lock nobody holds is what a dead machine left.
 *
 * One thread. Errors: -ENOENT no such machine (with the names there are, nearest first), -ECONNREFUSED it is there and does not
 * answer, else what the machine said.
 */
#ifndef LODGE_CLI_CLIENT_H
#define LODGE_CLI_CLIENT_H

#include <jansson.h>
#include <stddef.h>

struct err;
struct fs_names;
struct client {
	int fd;
	char name[64];
	unsigned id;
	char *buf; /* what came after the last line */
	size_t len, cap;
};

/* <runtime>/NAME[/file]; makes nothing. */
int client_path(const char *name, const char *file, char *path, size_t size, struct err *e);
int client_open(struct client *c, const char *name, struct err *e);
/* The same for a switch (`lodge switch`). */
int client_open_switch(struct client *c, const char *name, struct err *e);
/* From now on an answer that takes longer is -ETIMEDOUT, and the connection of no more use. Without it, it is waited for. */
void client_patience(struct client *c, unsigned seconds);
void client_close(struct client *c); /* fit for cleanup() */

/* Steals `params` (may be NULL). *result: new reference; may be NULL. Notifications that come in between are dropped. */
int client_call(
	struct client *c, const char *method, json_t *params, json_t **result, struct err *e);
/* The same, with open files (borrowed, at most CLIENT_FDS) that go with the request. */
#define CLIENT_FDS 8u
int client_call_fds(struct client *c, const char *method, json_t *params, const int *fds,
	unsigned nfds, json_t **result, struct err *e);
int client_call_fd(struct client *c, const char *method, json_t *params, int fd, json_t **result,
	struct err *e);
/* The next notification of a subscribed connection: 0, or -EPIPE when the machine has gone. *params: new reference. */
int client_event(struct client *c, char *event, size_t size, json_t **params, struct err *e);

/* Names of machines whose lodge-vm lives; the caller frees them. Removes what dead ones left. */
int client_names(struct fs_names *names, struct err *e);
/* Those of switches that answer. */
int client_switch_names(struct fs_names *names, struct err *e);

#endif
