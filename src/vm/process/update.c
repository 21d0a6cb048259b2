/* update.c: live update: the old process, which gives the machine away, and the new one, which takes it over. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "net/splice.h"
#include "net/wire.h"
#include "vm/control/control.h"
#include "vm/nets.h"
#include "vm/process/process.h"
#include "vm/rundir.h"
#include "vm/update/update.h"
#include "vm/vm.h"

/* ---- the old process ---- */

/* User networking stays here, with its connections, for as long as the machine wants it. */
static void keep_nat(struct process *p, struct net_backend *nat, int cable)
{
	struct net_backend *b;
	struct err e = {0};

	if (net_wire_open(&b, &(struct net_wire_opts){"nat", "nat", NULL, &p->loop, cable}, &e)) {
		close(cable);
		net_close(nat);
	} else if (net_splice(nat, b, &p->loop, &e)) {
		net_close(b);
		net_close(nat);
	}
	if (e.code)
		log_error(&p->log, "update", "%s", err_msg(&e));
}

static void on_given(void *ctx, const int nat[VM_MAX_NETS])
{
	struct net_backend *stay[VM_MAX_NETS];
	struct process *p = ctx;

	p->giver = NULL;
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		stay[i] = nat[i] > 0 ? nets_release(vm_nets(p->vm), i) : NULL;
	update_forget(p->vm, p->control);
	control_set_vm(p->control, NULL);
	vm_destroy(p->vm);
	p->vm = NULL;
	control_close(p->control);
	p->control = NULL;
	close(p->lock_fd); /* the other process has the lock too */
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		if (stay[i])
			keep_nat(p, stay[i], nat[i]);
	uv_unref((uv_handle_t *)&p->sigterm);
	uv_unref((uv_handle_t *)&p->sigint);
}

static void on_kept(void *ctx)
{
	struct process *p = ctx;

	p->giver = NULL;
}

int process_on_update(void *ctx, struct rpc_conn *conn, int sock, struct err *e)
{
	struct process *p = ctx;
	struct update_parts parts = {.vm = p->vm,
		.cfg = &p->cfg,
		.control = p->control,
		.name = p->name,
		.loop = &p->loop,
		.lock_fd = p->lock_fd,
		.given = on_given,
		.kept = on_kept,
		.ctx = p};

	if (!p->giver)
		return update_give(&p->giver, &parts, sock, conn, e);
	close(sock);
	return err_set(e, -EBUSY, "update: another one is under way");
}

/* ---- the new process ---- */

/* The lock of a machine that runs, and its name; the file with the pid is open for when it is ours. */
static int take_name(struct process *p, struct err *e)
{
	char path[PATH_MAX];
	int rc;

	snprintf(p->name, sizeof(p->name), "%s", p->cfg.name ?: "");
	p->lock_fd = update_fd(p->taker, "lock");
	rc = rundir_check_name(p->name, e) ?: rundir_path(p->name, "pid", path, sizeof(path), e);
	if (rc)
		return rc;
	p->pid_fd = open(path, O_WRONLY | O_CLOEXEC);
	return p->pid_fd < 0 || p->lock_fd < 0
		       ? err_sys(e, p->pid_fd < 0 ? -errno : -EPROTO, "%s", path)
		       : 0;
}

static void note_pid(struct process *p)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	/* Longer or as long as what was there, or cut: nobody sees digits of both. */
	if (pwrite(p->pid_fd, text, (size_t)n, 0) != n || ftruncate(p->pid_fd, n))
		log_warn(&p->log, "update", "the file with the process id could not be written");
	close(p->pid_fd);
}

/* A running machine of another process, from here on in this one. */
int process_take_over(struct process *p, struct err *e)
{
	int rc = process_open_log(p, e) ?: take_name(p, e) ?: process_build(p, e);

	update_stage("built");
	if (!rc) {
		process_watch(p);
		rc = process_enter_sandbox(p, e);
	}
	update_stage("sandboxed");
	if (!rc)
		rc = update_go_on(p->taker, p->vm, p->control, e);
	if (rc)
		return rc;
	note_pid(p);
	update_took(p->taker, p->vm, p->control);
	p->taker = NULL;
	return 0;
}
