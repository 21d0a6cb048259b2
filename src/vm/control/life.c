/* life.c: methods: what somebody wants the machine to do. */
#include <errno.h>
#include <unistd.h>

#include "base/err.h"
#include "vm/control/control_impl.h"
#include "vm/nets.h"
#include "vm/vm.h"

static int pause_vm(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_pause(control_vm(q), e);
}

static int resume(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_resume(control_vm(q), e);
}

static int stop(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_power_button(control_vm(q), e);
}

static int reset(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_reset(control_vm(q), e);
}

static int balloon(const struct rpc_request *q, json_t **res, struct err *e)
{
	const json_t *target = json_object_get(q->params, "target");

	if (!json_is_integer(target) || json_integer_value(target) < 0)
		return err_set(e, -EINVAL, "balloon: \"target\" must be a number of bytes");
	return vm_balloon(control_vm(q), (uint64_t)json_integer_value(target), e);
}

static int kill_vm(const struct rpc_request *q, json_t **res, struct err *e)
{
	vm_kill(control_vm(q));
	return 0;
}

static int announce(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_announce(control_vm(q), NULL, e);
}

static int update(const struct rpc_request *q, json_t **res, struct err *e)
{
	struct control *c = q->ctx;
	int sock = rpc_conn_take_fd(q->conn);

	if (sock < 0)
		return err_set(e, -EINVAL,
			"update wants the channel of the new process, passed with the request: "
			"lodge update %s",
			c->name);
	if (!c->update) {
		close(sock);
		return err_set(e, -EOPNOTSUPP, "update: %s", c->no_update ?: "not here");
	}
	return c->update(c->update_ctx, q->conn, sock, e) ?: RPC_LATER;
}

const struct rpc_method control_life_methods[] = {
	{"pause", VM_NEED_MACHINE, pause_vm, "stops the vCPUs and the guest's clock", NULL},
	{"resume", VM_NEED_MACHINE, resume, "lets them run on", NULL},
	{"stop", VM_NEED_RUNNING, stop, "presses the power button: the guest shuts itself down",
		NULL},
	{"reset", VM_NEED_LIVE | VM_NEED_OURS | VM_NEED_LOOSE | VM_NEED_LINKED, reset,
		"resets the machine and boots it again", NULL},
	{"balloon", VM_NEED_MACHINE, balloon, "asks the guest to keep only so much memory",
		"{\"target\": bytes}"},
	{"kill", VM_NEED_MACHINE, kill_vm,
		"ends the machine at once; what the guest has not flushed is lost", NULL},
	{"announce", VM_NEED_MACHINE, announce,
		"tells switches and neighbours where the guest's addresses are, until they have "
		"answered; events \"announce\" say how that went",
		NULL},
	{"update", VM_NEED_MACHINE, update,
		"another lodge-vm, whose channel is passed with the request, goes on with the "
		"machine: lodge update",
		NULL},
	{0},
};
