#include "vm/control/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/control/control_impl.h"

#define HISTORY 64

static const struct rpc_method *const tables[] = {control_life_methods, control_look_methods,
	control_snapshot_methods, control_migrate_methods, control_disk_methods, NULL};

/* The one place where a method's needs are looked at. */
static int admit(const struct rpc_request *q, struct err *e)
{
	const struct control *c = q->ctx;

	if (q->method->needs && !c->vm)
		return err_set(e, -EBUSY, "machine %s is still being built", c->name);
	return vm_need(c->vm, q->method->needs, e);
}

static json_t *needs(unsigned bits)
{
	json_t *j = json_array();

	for (unsigned bit = 1; bit <= bits; bit <<= 1)
		if (bits & bit)
			json_array_append_new(j, json_string(vm_need_name(bit)));
	return j;
}

json_t *control_methods(void)
{
	json_t *j = json_object();

	for (unsigned i = 0; tables[i]; i++)
		for (const struct rpc_method *m = tables[i]; m->name; m++)
			json_object_set_new(j, m->name,
				json_pack("{s:s, s:s, s:o}", "help", m->help, "params",
					m->params ?: "{}", "needs", needs(m->needs)));
	return j;
}

void control_name_us(const struct control *c, json_t *status)
{
	json_object_set_new(status, "name", json_string(c->name));
	json_object_set_new(status, "pid", json_integer(getpid()));
}

int control_create(struct control **out, uv_loop_t *loop, const char *path, int listening,
	const char *name, struct err *e)
{
	struct control *c = calloc(1, sizeof(*c));
	const struct rpc_service service = {tables, admit, c};
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "control socket: out of memory");
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->history = json_array();
	rc = listening < 0 ? rpc_server_create(&c->server, loop, path, &service, e)
			   : rpc_server_adopt(&c->server, loop, listening, path, &service, e);
	if (rc) {
		json_decref(c->history);
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void control_set_vm(struct control *c, struct vm *vm)
{
	c->vm = vm;
}

void control_event(struct control *c, const char *event, json_t *params)
{
	json_t *one = json_pack(
		"{s:s, s:I, s:O}", "event", event, "n", (json_int_t)++c->nevents, "params", params);

	json_array_append_new(c->history, one);
	if (json_array_size(c->history) > HISTORY)
		json_array_remove(c->history, 0);
	rpc_notify(c->server, event, json_incref(params));
}

void control_close(struct control *c)
{
	if (!c)
		return;
	rpc_server_close(c->server);
	json_decref(c->history);
	free(c);
}

void control_on_update(struct control *c,
	int (*update)(void *ctx, struct rpc_conn *conn, int sock, struct err *e),
	const char *why_not, void *ctx)
{
	c->update = update;
	c->no_update = why_not;
	c->update_ctx = ctx;
}
