/*
 * control_impl.h: what the files of the control socket share.
 *
 *   rpc.h: a line --> control.c: the row of the method; admit(): what it needs --> its function, in the file of its feature
 *
 * A method is a row and a function in the file of its feature; a new file's table has a line in control.c.
 */
#ifndef LODGE_VM_CONTROL_CONTROL_IMPL_H
#define LODGE_VM_CONTROL_CONTROL_IMPL_H

#include <jansson.h>

#include "vm/control/control.h"
#include "vm/needs.h"
#include "vm/rpc.h"

struct control {
	struct rpc_server *server;
	struct vm *vm; /* NULL: not built yet, or not any more */
	json_t *history; /* the last events, oldest first: a late subscriber sees what happened */
	unsigned long long nevents;
	int (*update)(void *ctx, struct rpc_conn *conn, int sock, struct err *e);
	const char *no_update;
	void *update_ctx;
	struct rpc_conn *asked; /* whose answer another process left to us */
	char name[64];
};

static inline struct vm *control_vm(const struct rpc_request *q)
{
	return ((struct control *)q->ctx)->vm;
}

/* "name" and "pid" of this process. */
void control_name_us(const struct control *c, json_t *status);

/* Each ends with a NULL name. `needs` of a row: bits of enum vm_need; 0: there need not be a machine. */
extern const struct rpc_method control_disk_methods[], control_life_methods[],
	control_look_methods[], control_migrate_methods[], control_snapshot_methods[];

#endif
