#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fsutil.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/ui/print.h"
#include "cli/verb.h"
#include "vm/host/engines.h"

/* One thing that was looked at. */
struct finding {
	bool good;
	char text[160]; /* what there is */
	const char *remedy; /* when it is not good */
	json_t *list; /* for --json; or NULL */
};

static void engine_rv64(struct finding *f)
{
	f->good = engine_describe("rv64", f->text, sizeof(f->text));
	f->remedy = "";
}

static void engine_kvm(struct finding *f)
{
	f->good = engine_describe("kvm", f->text, sizeof(f->text));
	f->remedy =
		"a host with VT-x or AMD-V (nested, where it is a guest), the modules kvm_intel or "
		"kvm_amd, and membership of the group kvm; riscv64 guests do not need it";
}

/* What is not there has another way, which --json names: nothing to mend. */
static void kvm_features(struct finding *f)
{
	f->good = engine_features("kvm", f->text, sizeof(f->text), &f->list);
	f->remedy = "";
}

/* What the translator's code is made of: all of it, or there is none. */
static void jit_features(struct finding *f)
{
	const json_t *one;
	size_t i;

	f->good = engine_features("rv64", f->text, sizeof(f->text), &f->list);
	json_array_foreach(f->list, i, one)
		f->good &= json_integer_value(json_object_get(one, "value")) != 0;
	f->remedy = "a CPU of 2013 or later (x86-64-v3); where this host is a guest, its CPU model "
		    "host; without, guest code is only interpreted";
}

static void userfaultfd(struct finding *f)
{
	int fd = (int)syscall(
		SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);

	f->good = fd >= 0;
	snprintf(f->text, sizeof(f->text), "%s", f->good ? "available" : strerrordesc_np(errno));
	f->remedy = "a kernel with CONFIG_USERFAULTFD, and sysctl vm.unprivileged_userfaultfd=1 "
		    "for kernel faults";
	if (fd >= 0)
		close(fd);
}

static void uring(struct finding *f)
{
	struct io_uring_params p = {0};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &p);

	f->good = fd >= 0;
	snprintf(f->text, sizeof(f->text), "%s", f->good ? "available" : strerrordesc_np(errno));
	f->remedy = "sysctl kernel.io_uring_disabled=0; until then disks use threads";
	if (fd >= 0)
		close(fd);
}

/* For memory of our own that disks' data goes through (base/pages.h). */
static void large_pages(struct finding *f)
{
	cleanup(free_ptr) char *text = NULL;

	f->good = !fs_read_file(
		"/sys/kernel/mm/transparent_hugepage/enabled", 4096, &text, NULL, NULL);
	if (f->good)
		text[strcspn(text, "\n")] = 0;
	f->good = f->good && !strstr(text, "[never]");
	snprintf(f->text, sizeof(f->text), "for disks' data: %s", text ?: "not known");
	f->remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled; until then large "
		    "requests go in pieces of 4 KiB";
}

static void memory(struct finding *f)
{
	struct sysinfo si;
	char total[SIZE_TEXT], free_text[SIZE_TEXT];

	f->good = !sysinfo(&si);
	snprintf(f->text, sizeof(f->text), "%s, %s free, %d processors",
		size_text(total, align_down((uint64_t)si.totalram * si.mem_unit, MiB)),
		size_text(free_text, align_down((uint64_t)si.freeram * si.mem_unit, MiB)),
		get_nprocs());
	f->remedy = "";
}

static void limits(struct finding *f)
{
	struct rlimit nofile, memlock;
	int n;

	getrlimit(RLIMIT_NOFILE, &nofile);
	getrlimit(RLIMIT_MEMLOCK, &memlock);
	f->good = nofile.rlim_cur >= 1024;
	n = snprintf(f->text, sizeof(f->text), "%llu open files, locked memory ",
		(unsigned long long)nofile.rlim_cur);
	if (memlock.rlim_cur == RLIM_INFINITY)
		snprintf(f->text + n, sizeof(f->text) - (size_t)n, "without limit");
	else
		snprintf(f->text + n, sizeof(f->text) - (size_t)n, "%llu KiB",
			(unsigned long long)memlock.rlim_cur / 1024);
	f->remedy = "ulimit -n 1024 or more";
}

static void landlock(struct finding *f)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	f->good = abi > 0;
	if (f->good)
		snprintf(f->text, sizeof(f->text), "version %ld", abi);
	else
		snprintf(f->text, sizeof(f->text), "%s: machines are confined by seccomp alone",
			strerrordesc_np(errno));
	f->remedy = "a kernel with CONFIG_SECURITY_LANDLOCK and landlock in lsm=";
}

static void seccomp(struct finding *f)
{
	f->good = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
	snprintf(f->text, sizeof(f->text), "%s",
		f->good ? "available" : "not available: machines only run with --sandbox off");
	f->remedy = "a kernel with CONFIG_SECCOMP_FILTER";
}

static void tun(struct finding *f)
{
	cleanup(close_fd) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	f->good = fd >= 0;
	snprintf(f->text, sizeof(f->text), "%s", f->good ? "available" : strerrordesc_np(errno));
	f->remedy = "modprobe tun; user networking (--net user) works without";
}

static void pull_tools(struct finding *f)
{
	static const char *const tools[] = {"gpgv", "mke2fs", "debugfs", "e2fsck", "depmod"};
	size_t n = 0;

	f->good = true;
	f->text[0] = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(tools); i++) {
		static const char *const places[] = {"/usr/bin", "/usr/sbin", "/bin", "/sbin"};
		bool there = false;

		for (unsigned k = 0; k < ARRAY_SIZE(places); k++) {
			char path[64];

			snprintf(path, sizeof(path), "%s/%s", places[k], tools[i]);
			there |= !access(path, X_OK);
		}
		n += (size_t)snprintf(f->text + n, sizeof(f->text) - n, "%s%s%s", i ? ", " : "",
			tools[i], there ? "" : " MISSING");
		f->good &= there;
	}
	f->remedy = "apt install gpgv e2fsprogs kmod";
}

static const struct {
	const char *name;
	void (*look)(struct finding *f);
} checks[] = {
	{"engine rv64", engine_rv64},
	{"rv64 JIT", jit_features},
	{"engine kvm", engine_kvm},
	{"kvm features", kvm_features},
	{"io_uring", uring},
	{"userfaultfd", userfaultfd},
	{"large pages", large_pages},
	{"memory", memory},
	{"limits", limits},
	{"seccomp", seccomp},
	{"landlock", landlock},
	{"tun", tun},
	{"image pull", pull_tools},
};

static int run(void *o, const struct args *a)
{
	const struct json_only *d = o;
	json_t *all = json_object();

	for (unsigned i = 0; i < ARRAY_SIZE(checks); i++) {
		struct finding f = {.remedy = ""};
		json_t *j;

		checks[i].look(&f);
		j = json_pack("{s:b, s:s, s:s}", "available", f.good, "found", f.text, "remedy",
			f.good ? "" : f.remedy);
		if (f.list)
			json_object_set_new(j, "list", f.list);
		json_object_set_new(all, checks[i].name, j);
		if (d->json)
			continue;
		printf("%-4s %-12s %s\n", f.good ? "ok" : "--", checks[i].name, f.text);
		if (!f.good && *f.remedy)
			printf("%-4s %-12s to get it: %s\n", "", "", f.remedy);
	}
	if (d->json)
		print_json(all);
	json_decref(all);
	return EXIT_DONE;
}

const struct verb verbs_doctor[] = {
	{VERB("doctor", NULL, "what this host offers, what is missing and how to get it"),
		.cmd.groups = json_groups, .size = sizeof(struct json_only), .run = run},
	VERBS_END,
};
