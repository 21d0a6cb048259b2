/* look.c: methods: what somebody wants to see of the machine. */
#include "base/util.h"
#include "vm/console.h"
#include "vm/control/control_impl.h"
#include "vm/vm.h"

static bool flag(const struct rpc_request *q, const char *key)
{
	return json_is_true(json_object_get(q->params, key));
}

static int status(const struct rpc_request *q, json_t **res, struct err *e)
{
	*res = vm_status(control_vm(q));
	control_name_us(q->ctx, *res);
	return 0;
}

static int stats(const struct rpc_request *q, json_t **res, struct err *e)
{
	*res = vm_stats(control_vm(q));
	return 0;
}

static int exits(const struct rpc_request *q, json_t **res, struct err *e)
{
	const char *types = json_string_value(json_object_get(q->params, "types")) ?: "";

	return vm_trace_exits(control_vm(q), q->conn, types, flag(q, "stop"), res, e);
}

static int inspect(const struct rpc_request *q, json_t **res, struct err *e)
{
	int rc = vm_inspect(control_vm(q), res, e);

	if (!rc)
		control_name_us(q->ctx, json_object_get(*res, "status"));
	return rc;
}

static int acpi(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_acpi(control_vm(q), res, e);
}

static int console(const struct rpc_request *q, json_t **res, struct err *e)
{
	return console_attach(vm_console(control_vm(q)), q->conn, flag(q, "history"), e);
}

static int events(const struct rpc_request *q, json_t **res, struct err *e)
{
	struct control *c = q->ctx;

	if (flag(q, "follow"))
		rpc_conn_subscribe(q->conn);
	*res = json_pack("{s:O}", "events", c->history);
	return 0;
}

static int methods(const struct rpc_request *q, json_t **res, struct err *e)
{
	*res = control_methods();
	return 0;
}

const struct rpc_method control_look_methods[] = {
	{"status", VM_NEED_MACHINE, status, "state, uptime, shape of the machine", NULL},
	{"stats", VM_NEED_MACHINE, stats, "counters of vCPUs, devices, exits and the process",
		NULL},
	{"exits", VM_NEED_MACHINE, exits,
		"why vCPUs left and what they were given, one by one, since this was last asked; "
		"ask every second or so",
		"{\"types\": text, \"stop\": bool}"},
	{"inspect", VM_NEED_MACHINE, inspect,
		"topology, and every register and device field by name, of one moment in which the "
		"machine stands still",
		NULL},
	{"acpi", VM_NEED_MACHINE, acpi,
		"the machine's ACPI tables by signature, in hexadecimal digits", NULL},
	{"console", VM_NEED_MACHINE, console, "turns this connection into the console",
		"{\"history\": bool}"},
	{"events", 0, events, "what happened, and with follow what happens", "{\"follow\": bool}"},
	{"methods", 0, methods, "this list", NULL},
	{0},
};
