/* snapshot.c: methods: snapshots while the guest runs. */
#include "vm/snapshot/snapshot.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/control/control_impl.h"

/* Who asked for the snapshot has gone, or has hung up: nobody would give it its name. */
static void orphan(void *ctx)
{
	struct control *c = ctx;

	if (c->vm)
		vm_snapshot_cancel(c->vm);
}

static int create(const struct rpc_request *q, json_t **res, struct err *e)
{
	static const char *const modes[] = {"auto", "memory-only", "with-disks", "copy"};
	const json_t *p = q->params;
	const char *mode = json_string_value(json_object_get(p, "disks")) ?: "auto";
	struct vm_snapshot_opts o = {.name = json_string_value(json_object_get(p, "name")),
		.queue_bytes = (uint64_t)json_integer_value(json_object_get(p, "queue")),
		.pack_percent = (unsigned)json_integer_value(json_object_get(p, "pack_percent"))};
	unsigned i = 0;
	int rc, fd;

	while (i < ARRAY_SIZE(modes) && strcmp(mode, modes[i]))
		i++;
	o.disks = (enum vm_snapshot_disks)i;
	o.fd = rpc_conn_take_fd(q->conn);
	if (!o.name || i == ARRAY_SIZE(modes) || o.fd < 0) {
		if (o.fd >= 0)
			close(o.fd);
		return err_set(e, -EINVAL,
			"snapshot_create wants \"name\", an open file passed with the request, and "
			"\"disks\": auto, memory-only, with-disks, or copy, with a file for each");
	}
	while (o.ncopies < VM_SNAPSHOT_COPIES && o.disks == VM_SNAPSHOT_COPY_DISKS &&
		(fd = rpc_conn_take_fd(q->conn)) >= 0)
		o.copy_fd[o.ncopies++] = fd;
	rc = vm_snapshot_start(control_vm(q), &o, e);
	if (rc)
		return rc;
	rpc_conn_watch(q->conn, orphan, q->ctx);
	*res = vm_snapshot_status(control_vm(q));
	return 0;
}

static int status(const struct rpc_request *q, json_t **res, struct err *e)
{
	*res = vm_snapshot_status(control_vm(q));
	return 0;
}

static int cancel(const struct rpc_request *q, json_t **res, struct err *e)
{
	vm_snapshot_cancel(control_vm(q));
	return 0;
}

const struct rpc_method control_snapshot_methods[] = {
	{"snapshot_create",
		VM_NEED_LIVE | VM_NEED_UNMOVED | VM_NEED_OURS | VM_NEED_WHOLE | VM_NEED_UNSNAPPED |
			VM_NEED_STEADY,
		create,
		"starts a snapshot into a file that is passed with the request, and answers when "
		"the moment is over; it ends with the event \"snapshot\"; closing the connection "
		"before that cancels it",
		"{\"name\": text, \"disks\": text, \"queue\": bytes, \"pack_percent\": int}"},
	{"snapshot_status", VM_NEED_MACHINE, status,
		"how far the present snapshot is, or how the last one went", NULL},
	{"snapshot_cancel", VM_NEED_MACHINE, cancel, "ends the present snapshot", NULL},
	{0},
};
