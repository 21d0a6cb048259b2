/* machine.c: the machine of this process: everything is opened, built, and then the door is closed. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "vm/control/control.h"
#include "vm/migrate/disks_in.h"
#include "vm/migrate/receive.h"
#include "vm/process/process.h"
#include "vm/rundir.h"
#include "vm/sandbox.h"
#include "vm/snapshot/snapshot.h"
#include "vm/update/update.h"
#include "vm/vm.h"

int process_open_log(struct process *p, struct err *e)
{
	p->log.fd = STDERR_FILENO;
	p->log.max = (enum log_level)p->cfg.log_level;
	if (p->cfg.log) {
		p->log.fd = open(p->cfg.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (p->log.fd < 0)
			return err_sys(e, -errno, "log %s", p->cfg.log);
	}
	return 0;
}

static int open_console_log(struct process *p, struct err *e)
{
	int fd;

	if (!p->console_log)
		return p->no_stdio ? -1 : dup(STDOUT_FILENO);
	fd = open(p->console_log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return fd < 0 ? err_sys(e, -errno, "console log %s", p->console_log) : fd;
}

int process_build(struct process *p, struct err *e)
{
	struct vm_opts o = {.cfg = &p->cfg,
		.loop = &p->loop,
		.log = &p->log,
		.event = process_on_event,
		.ended = process_on_ended,
		.ctx = p,
		.restore = p->restore || p->receive || p->taker,
		.asleep = p->receive || p->taker,
		.disk_at = disks_in_at(p->disks),
		.handed = p->taker ? update_handed(p->taker) : NULL};
	cleanup(close_fd) int snapshot_fd = -1;
	char path[PATH_MAX], vsock[PATH_MAX];
	int rc;

	o.console_fd = p->taker ? update_fd(p->taker, "console_log") : open_console_log(p, e);
	if (o.console_fd < -1)
		return o.console_fd;
	rc = rundir_path(p->name, "control.sock", path, sizeof(path), e);
	if (!rc)
		rc = control_create(&p->control, &p->loop, path,
			p->taker ? update_fd(p->taker, "control") : -1, p->name, e);
	if (!rc)
		rc = rundir_path(p->name, "vsock.sock", vsock, sizeof(vsock), e);
	o.vsock = vsock;
	if (!rc)
		rc = vm_create(&p->vm, &o, e);
	if (rc)
		return rc;
	control_set_vm(p->control, p->vm);
	/* Who reads this process's standard output would not see that another one goes on. */
	control_on_update(p->control, p->no_stdio ? process_on_update : NULL,
		"console: it is on the standard input and output of who started this machine by "
		"hand, and cannot go to another process: shut the machine down, or run it by "
		"`lodge "
		"run -d`",
		p);
	if (p->receive) {
		rc = disks_in_open(p->disks, e) ?: receive_check(p->receive, p->vm, e);
	} else if (p->restore) {
		snapshot_fd = open(p->restore, O_RDONLY | O_CLOEXEC);
		rc = snapshot_fd < 0 ? err_sys(e, -errno, "%s", p->restore)
				     : vm_restore(p->vm, snapshot_fd,
					       p->cold ? 0 : VM_WARM_MEMORY | VM_WARM_CODE, e);
	}
	return rc;
}

int process_enter_sandbox(struct process *p, struct err *e)
{
	char path[PATH_MAX];
	int rc;

	if (!p->cfg.sandbox) {
		log_warn(&p->log, "lodge-vm", "runs without its sandbox, as it was told");
		return 0;
	}
	rc = fs_place_path(FS_RUNTIME, path, sizeof(path), e);
	return rc ?: sandbox_enter(&(struct sandbox_opts){path, &p->log, vm_engine(p->vm)}, e);
}
