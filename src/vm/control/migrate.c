/* migrate.c: methods: the machine moves to another process, or has come from one. */
#include "vm/migrate/migrate.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "vm/control/control_impl.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/receive.h"
#include "vm/vm.h"

/* Who asked has gone. */
static void orphan(void *ctx)
{
	struct control *c = ctx;

	if (c->vm)
		vm_migrate_cancel(c->vm);
}

static int read_tls(const json_t *j, struct chan_tls **out, struct err *e)
{
	const char *cert = NULL, *key = NULL, *ca = NULL, *peer = NULL;
	int rc = json_want_text(j, "tls", "cert", true, &cert, e)
			 ?: json_want_text(j, "tls", "key", true, &key, e)
			 ?: json_want_text(j, "tls", "ca", true, &ca, e)
			 ?: json_want_text(j, "tls", "peer", false, &peer, e);

	return rc ?: chan_tls_create(out, cert, key, ca, peer, e);
}

static int read_params(const json_t *p, struct vm_migrate_opts *o, struct err *e)
{
	uint64_t downtime_us = 0;
	const char *post = NULL;
	json_t *tls = NULL, *shared = NULL;
	bool throttle = true;
	int rc;

	if (!p)
		return 0;
	rc = json_want_u64(p, "migrate", "bandwidth", false, &o->bandwidth, e)
		     ?: json_want_u64(p, "migrate", "downtime_us", false, &downtime_us, e)
		     ?: json_want_text(p, "migrate", "post_copy", false, &post, e)
		     ?: json_want_bool(p, "migrate", "recover", false, &o->recover, e)
		     ?: json_want_bool(p, "migrate", "dry_run", false, &o->dry_run, e)
		     ?: json_want_bool(p, "migrate", "throttle", false, &throttle, e)
		     ?: json_want_bool(p, "migrate", "copy_disks", false, &o->copy_disks, e)
		     ?: json_want_array(p, "migrate", "shared", false, &shared, e)
		     ?: json_want_object(p, "migrate", "tls", false, &tls, e);
	o->downtime_ns = downtime_us * 1000;
	o->no_throttle = !throttle;
	if (post && !strcmp(post, "after-round"))
		o->post = MIG_POST_AFTER_ROUND;
	else if (post && !strcmp(post, "at-once"))
		o->post = MIG_POST_AT_ONCE;
	else if (post)
		rc = err_set(e, -EINVAL, "migrate: post_copy is after-round or at-once");
	o->shared = shared;
	return rc || !tls ? rc : read_tls(tls, &o->tls, e);
}

static int start(const struct rpc_request *q, json_t **res, struct err *e)
{
	struct vm_migrate_opts o = {0};
	int fd, rc;

	while (o.nfds < MIG_STREAMS_MAX && (fd = rpc_conn_take_fd(q->conn)) >= 0)
		o.fd[o.nfds++] = fd;
	rc = o.nfds ? read_params(q->params, &o, e)
		    : err_set(e, -EINVAL,
			      "migrate_start wants connected sockets that are passed with the "
			      "request, one a stream");
	if (rc) {
		for (unsigned i = 0; i < o.nfds; i++)
			close(o.fd[i]);
		return rc;
	}
	rc = vm_migrate_start(control_vm(q), &o, e);
	if (rc)
		return rc;
	rpc_conn_watch(q->conn, orphan, q->ctx);
	*res = vm_migrate_status(control_vm(q));
	return 0;
}

static int status(const struct rpc_request *q, json_t **res, struct err *e)
{
	*res = vm_migrate_status(control_vm(q));
	return 0;
}

static int cancel(const struct rpc_request *q, json_t **res, struct err *e)
{
	return vm_migrate_cancel(control_vm(q)) ? 0
						: err_set(e, -ENOENT, "no migration is under way");
}

static int take_back(const struct rpc_request *q, json_t **res, struct err *e)
{
	struct vm *vm = control_vm(q);

	return vm_migrate_take_back(vm, true, e) ?: vm_resume(vm, e);
}

static int recover(const struct rpc_request *q, json_t **res, struct err *e)
{
	int fd = rpc_conn_take_fd(q->conn);

	return fd >= 0 ? receive_recover(control_vm(q), fd, e)
		       : err_set(e, -EINVAL,
				 "receive_recover wants a listening socket with the request");
}

const struct rpc_method control_migrate_methods[] = {
	{"migrate_start", VM_NEED_MACHINE, start,
		"begins to move the machine over the connected sockets that are passed with the "
		"request; it ends with the event \"migration\"; closing the connection before that "
		"cancels it",
		"{\"bandwidth\": bytes a second, \"downtime_us\": number, \"dry_run\": bool, "
		"\"throttle\": bool, \"post_copy\": \"after-round\" or \"at-once\", "
		"\"recover\": bool, \"copy_disks\": bool, \"shared\": [id of a disk that both "
		"hosts have], \"tls\": {\"cert\", \"key\", \"ca\", \"peer\"}}"},
	{"migrate_status", VM_NEED_MACHINE, status,
		"how far the present migration is, or how the last one went", NULL},
	{"migrate_cancel", VM_NEED_MACHINE, cancel,
		"ends the present migration; the machine stays here", NULL},
	{"migrate_take_back", VM_NEED_MACHINE, take_back,
		"runs a machine on that a broken migration has left here, which does not run at "
		"its destination",
		NULL},
	{"receive_recover", VM_NEED_MACHINE, recover,
		"takes a listening socket, passed with the request, to which the source of a "
		"post-copy migration makes a new connection",
		NULL},
	{0},
};
