#include "vm/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/landlock.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "cpu/cpu.h"

struct rule {
	int nr;
	const char *name;
	const char *why;
	/* At most one argument condition; op 0: none. */
	unsigned arg;
	enum scmp_compare op;
	uint64_t a, b;
};

#define ALLOW(call, why) \
	{ \
		SCMP_SYS(call), #call, why, 0, 0, 0, 0 \
	}
#define ALLOW_EQ(call, arg, val, why) \
	{ \
		SCMP_SYS(call), #call, why, arg, SCMP_CMP_EQ, val, 0 \
	}
#define ALLOW_MASKED(call, arg, mask, val, why) \
	{ \
		SCMP_SYS(call), #call, why, arg, SCMP_CMP_MASKED_EQ, mask, val \
	}

static const struct rule rules[] = {
	ALLOW(read, "event descriptors, control socket, disks without io_uring"),
	ALLOW(write, "log, console log, event descriptors, control socket"),
	ALLOW(readv, "tap and disk requests of several pieces"),
	ALLOW(writev, "tap, control socket"),
	ALLOW(pread64, "disk fall back; own memory figures"),
	ALLOW(pwrite64, "disk fall back"),
	ALLOW(preadv, "disk fall back"),
	ALLOW(pwritev, "disk fall back"),
	ALLOW(preadv2, "disk fall back"),
	ALLOW(pwritev2, "disk fall back"),
	ALLOW(lseek, "disk size, and where a file has data"),
	ALLOW(fstatfs, "whether the host has room for what is written ahead of a guest"),
	ALLOW(fallocate, "discard and write zeroes; memory that the balloon gives back"),
	ALLOW(fdatasync, "disk flush"),
	ALLOW(fsync, "disk flush"),
	ALLOW(sync_file_range, "a snapshot hands what it has written to the host's writeback"),
	ALLOW(getpriority, "the threads of a snapshot give way to vCPUs"),
	ALLOW(setpriority, "the threads of a snapshot give way to vCPUs"),
	ALLOW(ftruncate, "disks that grow; the end of a snapshot's file"),
	ALLOW(fstat, "disk size after a resize"),
	ALLOW(io_uring_enter, "disk requests"),
	ALLOW(close, "connections that end"),
	ALLOW(dup, "libuv hands descriptors over"),
	ALLOW(dup3, "libuv hands descriptors over"),
	ALLOW(fcntl, "non-blocking mode and locks of new connections"),
	ALLOW_EQ(ioctl, 1, FIONBIO, "non-blocking mode of sockets"),
	ALLOW_EQ(ioctl, 1, FIONREAD, "bytes waiting in a socket (user networking)"),
	ALLOW_EQ(ioctl, 1, TUNSETOFFLOAD, "what a guest's driver takes from its tap"),
	ALLOW_EQ(ioctl, 1, UFFDIO_REGISTER, "post-copy: pages that are still to come"),
	ALLOW_EQ(ioctl, 1, UFFDIO_UNREGISTER, "post-copy"),
	ALLOW_EQ(ioctl, 1, UFFDIO_COPY, "post-copy"),
	ALLOW_EQ(ioctl, 1, UFFDIO_ZEROPAGE, "post-copy"),
	ALLOW_EQ(ioctl, 1, UFFDIO_WAKE, "post-copy"),
	ALLOW(epoll_wait, "event loop"),
	ALLOW(epoll_pwait, "event loop"),
	ALLOW(epoll_ctl, "event loop"),
	ALLOW(poll, "user networking"),
	ALLOW(ppoll, "user networking"),
	ALLOW(eventfd2, "event loop"),
	ALLOW(timerfd_settime, "timers"),
	ALLOW(socket, "user networking makes the guest's connections; control clients"),
	ALLOW(connect, "user networking"),
	ALLOW(bind, "user networking"),
	ALLOW(listen, "user networking: forwarded ports"),
	ALLOW(accept, "control socket, forwarded ports"),
	ALLOW(accept4, "control socket, forwarded ports"),
	ALLOW(getsockname, "user networking"),
	ALLOW(getpeername, "user networking"),
	ALLOW(setsockopt, "user networking"),
	ALLOW(getsockopt, "user networking, control socket"),
	ALLOW(sendto, "user networking"),
	ALLOW(recvfrom, "user networking"),
	ALLOW(sendmsg, "user networking, control socket"),
	ALLOW(recvmsg, "user networking, control socket"),
	ALLOW(shutdown, "connections that end"),
	ALLOW(futex, "locks between vCPUs and the event loop"),
	ALLOW_EQ(prlimit64, 2, 0, "stack size of the disk fall back's threads; reading only"),
	ALLOW(timer_create, "time slices of vCPUs that run in the kernel (KVM)"),
	ALLOW(timer_settime, "time slices of vCPUs that run in the kernel (KVM)"),
	ALLOW(timer_delete, "time slices of vCPUs that run in the kernel (KVM)"),
	ALLOW(sched_yield, "vCPUs that wait for each other"),
	ALLOW(sched_getaffinity, "how many processors there are"),
	ALLOW(sched_getattr, "workers ask for short slices"),
	ALLOW(sched_setattr, "workers ask for short slices"),
	ALLOW(membarrier, "vCPUs that wait for each other"),
	ALLOW(getcpu, "where a worker runs"),
	ALLOW(set_robust_list, "thread start and end"),
	ALLOW(rseq, "thread start"),
	ALLOW_MASKED(clone, 0, CLONE_THREAD, CLONE_THREAD,
		"threads of the disk fall back; never a process"),
	ALLOW(clone3, "refused below: glibc then takes clone"),
	ALLOW(brk, "memory"),
	ALLOW_MASKED(mmap, 2, PROT_EXEC, 0, "memory, never executable (W^X)"),
	ALLOW_MASKED(mprotect, 2, PROT_EXEC, 0, "memory, never executable (W^X)"),
	ALLOW(mremap, "memory"),
	ALLOW(munmap, "memory"),
	ALLOW(madvise, "memory that is given back"),
	ALLOW(clock_gettime, "time, where the vDSO does not serve it"),
	ALLOW(clock_nanosleep, "short waits"),
	ALLOW(nanosleep, "short waits"),
	ALLOW(gettimeofday, "time"),
	ALLOW(getrandom, "entropy for the guest"),
	ALLOW(sysinfo, "qsort(3) asks how much memory there is (disk requests)"),
	ALLOW(getpid, "log, libuv"),
	ALLOW(gettid, "locks"),
	ALLOW(getuid, "user networking; whose runtime directory"),
	ALLOW(geteuid, "whose runtime directory"),
	ALLOW(rt_sigaction, "signals at the end"),
	ALLOW(rt_sigprocmask, "thread start"),
	ALLOW(rt_sigreturn, "signals"),
	ALLOW(sigaltstack, "thread start"),
	ALLOW(tgkill, "abort on a broken invariant"),
	ALLOW(restart_syscall, "sleeps that a stop signal interrupted"),
	ALLOW(prctl, "thread names"),
	ALLOW(readlink, "the full name of a store that comes from another process"),
	ALLOW(getcwd, "the same"),
	ALLOW(uname, "the host's name in a store's lease"),
	ALLOW(openat, "name-server configuration (Landlock says which files)"),
	ALLOW(newfstatat, "has the name-server configuration changed"),
	ALLOW(stat, "has the name-server configuration changed"),
	ALLOW(unlink, "control socket at the end (Landlock says where)"),
	ALLOW(unlinkat, "control socket at the end (Landlock says where)"),
	ALLOW(rmdir, "runtime directory at the end (Landlock says where)"),
	ALLOW(exit, "thread end"),
	ALLOW(exit_group, "end"),
};

json_t *sandbox_explain(void)
{
	json_t *j = json_object();

	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++)
		json_object_set_new(j, rules[i].name, json_string(rules[i].why));
	return j;
}

static int drop_capabilities(struct err *e)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			prctl(PR_CAPBSET_DROP, cap, 0, 0,
				0); /* without CAP_SETPCAP there is little to drop */
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &head, none))
		return err_sys(e, -errno, "sandbox: cannot drop capabilities");
	return 0;
}

static int allow_path(int ruleset, const char *path, uint64_t access)
{
	struct landlock_path_beneath_attr attr = {.allowed_access = access};
	int rc;

	attr.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (attr.parent_fd < 0)
		return -errno;
	rc = (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &attr, 0);
	close(attr.parent_fd);
	return rc ? -errno : 0;
}

static int enter_landlock(const struct sandbox_opts *o, struct err *e)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) -
				     1, /* all of the first version */
	};
	cleanup(close_fd) int fd = (int)syscall(
		SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (fd < 0) {
		log_warn(o->log, "sandbox",
			"Landlock is not available here (%s): files are only guarded by seccomp",
			strerrordesc_np(errno));
		return 0;
	}
	/* Missing ones simply stay closed. */
	allow_path(fd, "/etc/resolv.conf", LANDLOCK_ACCESS_FS_READ_FILE);
	if (o->runtime_dir)
		allow_path(fd, o->runtime_dir,
			LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR);
	if (syscall(SYS_landlock_restrict_self, fd, 0))
		return err_sys(e, -errno, "sandbox: Landlock");
	return 0;
}

static int add_rule(scmp_filter_ctx ctx, const struct rule *r)
{
	if (r->nr == SCMP_SYS(clone3))
		return seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), r->nr, 0);
	if (!r->op)
		return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, r->nr, 0);
	return seccomp_rule_add(
		ctx, SCMP_ACT_ALLOW, r->nr, 1, (struct scmp_arg_cmp){r->arg, r->op, r->a, r->b});
}

/* What the engine asks of the kernel, each request by its number. */
static int add_engine(scmp_filter_ctx ctx, const struct cpu_engine_ops *engine)
{
	const struct cpu_ioctl *list;
	unsigned n = 0;
	int rc = 0;

	if (!engine || !engine->ioctls)
		return 0;
	list = engine->ioctls(&n);
	for (unsigned i = 0; !rc && i < n; i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
			(struct scmp_arg_cmp){1, SCMP_CMP_EQ, list[i].nr, 0});
	return rc;
}

static int enter_seccomp(const struct sandbox_opts *o, struct err *e)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc = ctx ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && i < ARRAY_SIZE(rules); i++)
		if (rules[i].nr >= 0) /* calls that this architecture does not have are negative */
			rc = add_rule(ctx, &rules[i]);
	if (!rc)
		rc = add_engine(ctx, o->engine);
	if (!rc)
		rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!rc)
		rc = seccomp_attr_set(
			ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree: the list is long */
	if (!rc)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	if (rc)
		return err_sys(e, rc, "sandbox: seccomp filter; --sandbox off runs without it");
	return 0;
}

int sandbox_enter(const struct sandbox_opts *o, struct err *e)
{
	int rc;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_sys(e, -errno, "sandbox: no new privileges");
	rc = drop_capabilities(e);
	if (!rc)
		rc = enter_landlock(o, e);
	if (!rc)
		rc = enter_seccomp(o, e);
	return rc;
}
