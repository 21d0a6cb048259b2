#include "image/offline.h"

#include <errno.h>
#include <stdio.h>

#include "base/util.h"

/* base-passwd's preinst writes these at a first installation; update-passwd keeps them up to date later. */
static int base_passwd(struct rootfs *r, struct err *e)
{
	static const char *const files[][2] = {
		{"usr/share/base-passwd/passwd.master", "etc/passwd"},
		{"usr/share/base-passwd/group.master", "etc/group"},
	};
	int rc = 0;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(files); i++) {
		cleanup(buf_free) struct buf b = {0};

		rc = rootfs_read(r, files[i][0], MiB, &b, e)
			     ?: rootfs_put(r, files[i][1], 0644, b.p, e);
	}
	return rc;
}

/* Turns "unpacked" into "installed" for a package of the database. */
static void mark_installed(struct rootfs *r, const char *name)
{
	static const char from[] = "Status: install ok unpacked\n",
			  to[] = "Status: install ok installed\n";
	cleanup(free_ptr) char *head = text_fmt("Package: %s\n%s", name, from);
	char *p = head ? strstr(r->status.p, head) : NULL;
	struct buf b = {0};
	size_t at;

	if (!p)
		return;
	at = (size_t)(p - r->status.p) + strlen(head) - strlen(from);
	buf_add(&b, r->status.p, at);
	buf_str(&b, to);
	buf_str(&b, r->status.p + at + strlen(from));
	if (!b.oom) {
		buf_free(&r->status);
		r->status = b;
		r->unpacked--;
	} else {
		buf_free(&b);
	}
}

/* As deb-systemd-helper enables a unit: the link, and its own record of it for later upgrades. */
static int enable_unit(struct rootfs *r, const char *wants, const char *unit, struct err *e)
{
	static const char *const state = "var/lib/systemd/deb-systemd-helper-enabled";
	cleanup(free_ptr) char *link = text_fmt("etc/systemd/system/%s/%s", wants, unit);
	cleanup(free_ptr) char *to = text_fmt("/usr/lib/systemd/system/%s", unit);
	cleanup(free_ptr) char *seen = text_fmt("%s/%s/%s", state, wants, unit);
	cleanup(free_ptr) char *also = text_fmt("%s/%s.dsh-also", state, unit);
	cleanup(free_ptr) char *line = text_fmt("/%s\n", link);

	if (!link || !to || !seen || !also || !line)
		return err_set(e, -ENOMEM, "out of memory");
	if (!rootfs_has(r, to + 1))
		return err_set(e, -ENOENT, "unit %s is missing", unit);
	return rootfs_link(r, link, to, e) ?: rootfs_put(r, seen, 0644, "", e) ?:
		rootfs_put(r, also, 0644, line, e);
}

static int no_action(struct rootfs *r, struct err *e)
{
	return 0;
}

static int set_up_base_passwd(struct rootfs *r, struct err *e)
{
	return rootfs_put(r, "etc/subuid", 0644, "", e) ?: rootfs_put(r, "etc/subgid", 0644, "", e);
}

static int set_up_tzdata(struct rootfs *r, struct err *e)
{
	return rootfs_link(r, "etc/localtime", "/usr/share/zoneinfo/Etc/UTC", e);
}

static int set_up_apt(struct rootfs *r, struct err *e)
{
	return enable_unit(r, "timers.target.wants", "apt-daily-upgrade.timer", e)
		       ?: enable_unit(r, "timers.target.wants", "apt-daily.timer", e);
}

static int set_up_e2fsprogs(struct rootfs *r, struct err *e)
{
	return enable_unit(r, "timers.target.wants", "e2scrub_all.timer", e)
		       ?: enable_unit(r, "multi-user.target.wants", "e2scrub_reap.service", e);
}

static int set_up_dpkg(struct rootfs *r, struct err *e)
{
	cleanup(free_ptr) char *arch = text_fmt("%s\n", r->arch);

	if (!arch)
		return err_set(e, -ENOMEM, "out of memory");
	return rootfs_put(r, "var/lib/dpkg/arch-native", 0644, arch, e)
		       ?: enable_unit(r, "timers.target.wants", "dpkg-db-backup.timer", e);
}

static const struct {
	const char *name; /* with a colon: the architecture follows */
	const char *digest; /* the first 16 digits of the postinst's SHA-256 */
	int (*act)(struct rootfs *r, struct err *e);
} known[] = {
	/* Nothing at a first installation of a system that does not run: debconf questions, restarts. */
	{"debconf", "5a2e9dd3174db711", no_action},
	{"iproute2", "2f3e1f7e73979c97", no_action},
	{"libc6:", "ff2a3a7a0e74ceac", no_action},
	{"libpam0g:", "115eb8d446552fa6", no_action},
	{"linux-base", "e62e67f6bf13c764", no_action},
	{"openssl", "625ae8f649ec61f0", no_action}, /* its directory is in the package */
	{"apt", "799f93260841676d", set_up_apt}, /* its user is one of base-passwd's */
	{"base-passwd", "1cff0ea9b8dd12bc", set_up_base_passwd},
	{"ca-certificates", "bbad2df5d3c5e3d7", offline_certificates},
	{"dpkg", "46dccfe29646a5cd", set_up_dpkg},
	{"e2fsprogs", "980c52ee018966b5", set_up_e2fsprogs},
	{"tzdata", "555ed6cfc95b70d0", set_up_tzdata},
};

static int set_up_known(struct rootfs *r, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(known); i++) {
		cleanup(free_ptr) char *path = text_fmt("var/lib/dpkg/info/%s%s.postinst",
			known[i].name, strchr(known[i].name, ':') ? r->arch : "");
		cleanup(free_ptr) char *name = strndup(known[i].name, strcspn(known[i].name, ":"));
		cleanup(buf_free) struct buf b = {0};
		char digest[SHA256_HEX];

		if (!path || !name)
			return err_set(e, -ENOMEM, "out of memory");
		if (!rootfs_has(r, path))
			continue;
		rc = rootfs_read(r, path, MiB, &b, e);
		if (rc)
			return rc;
		sha256_mem(b.p, b.n, digest);
		if (strncmp(digest, known[i].digest, 16))
			continue;
		rc = known[i].act(r, e);
		if (!rc)
			mark_installed(r, name);
	}
	return rc;
}

int offline_configure(struct pull *p, struct rootfs *r, struct err *e)
{
	cleanup(free_ptr) char *kernel = text_fmt("linux-image-%s", p->kernel.release);
	int rc = base_passwd(r, e);

	if (rc)
		return rc;
	/* depmod has run, the boot files are there, and there is no boot loader to tell. */
	if (kernel)
		mark_installed(r, kernel);
	mark_installed(r, pull_kernel_meta(p->kind));
	mark_installed(r, "initramfs-tools");
	rc = set_up_known(r, e);
	return rc ?: rootfs_write_db(r, e);
}
