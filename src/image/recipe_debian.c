#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/ext4.h"
#include "image/offline.h"
#include "image/pull.h"
#include "image/rootfs.h"
#include "image/run.h"
#include "image/scripts.h"
#include "image/stage2.h"
#include "image/store.h"

#define DISK_SIZE (8 * GiB)
#define LABEL "lodge-root"

/* Beside what is essential, required or important: what a server without a screen needs. */
const char *const recipe_debian_names[] = {
	"linux-image-riscv64",
	"initramfs-tools",
	"systemd-sysv",
	"systemd-resolved",
	"dbus",
	"libpam-systemd",
	"ca-certificates",
	"e2fsprogs",
	NULL,
};

/*
 * Important packages that a virtual machine does without: networkd and resolved bring the network up, timers of
 * systemd replace cron, there is no DMI. Each one left out is one less to configure in the second stage.
 */
const char *const recipe_debian_without[] = {
	"ifupdown",
	"dhcpcd-base",
	"cron",
	"cron-daemon-common",
	"dmidecode",
	"nftables",
	"vim-tiny",
	"vim-common",
	"whiptail",
	"debconf-i18n",
	"logrotate",
	"apt-utils",
	"fdisk",
	NULL,
};

static int unpack_all(struct pull *p, struct rootfs *r, struct err *e)
{
	const struct pkg *base = pull_pkg(p, "base-files");
	int rc = 0;

	if (!base)
		return err_set(e, -ENOENT, "the mirror has no package base-files");
	/* First, because it has the links (/lib to usr/lib) that others unpack through. */
	for (size_t i = 0; !rc && i <= p->set.n; i++) {
		const struct pkg *k = i ? p->set.v[i - 1] : base;
		cleanup(free_ptr) char *deb = pull_deb(p, k);

		if (i && k == base)
			continue;
		rc = deb ? pull_step(p, "unpack", i, p->set.n, e)
			 : err_set(e, -ENOMEM, "out of memory");
		if (!rc)
			rc = rootfs_unpack(r, deb, k, e);
	}
	return rc ?: rootfs_write_db(r, e);
}

static int write_sources(struct pull *p, struct rootfs *r, struct err *e)
{
	static const char *const key = "/usr/share/keyrings/debian-archive-keyring";
	const char *ext = rootfs_has(r, "usr/share/keyrings/debian-archive-keyring.gpg") ? "gpg"
											 : "pgp";
	cleanup(buf_free) struct buf b = {0};

	/* A directory of the host means nothing inside the guest. */
	if (!strncmp(p->mirror.uri, "file:", 5))
		return rootfs_put(r, "etc/apt/sources.list", 0644,
			"# This image was made from files of its host: name a mirror here.\n", e);
	buf_fmt(&b,
		"Types: deb\nURIs: %s\nSuites: trixie trixie-updates\nComponents: main\n"
		"Signed-By: %s.%s\n",
		p->mirror.uri, key, ext);
	if (p->mirror.security)
		buf_fmt(&b,
			"\nTypes: deb\nURIs: %s\nSuites: trixie-security\nComponents: main\n"
			"Signed-By: %s.%s\n",
			p->mirror.security, key, ext);
	return buf_err(&b, e)
		       ?: rootfs_put(r, "etc/apt/sources.list.d/debian.sources", 0644, b.p, e);
}

static int write_config(struct pull *p, struct rootfs *r, struct err *e)
{
	static const struct {
		const char *path, *text;
		mode_t mode;
	} files[] = {
		{"etc/fstab", "LABEL=" LABEL " / ext4 errors=remount-ro 0 1\n", 0644},
		{"etc/hostname", "lodge\n", 0644},
		{"etc/hosts", "127.0.0.1 localhost\n127.0.1.1 lodge\n::1 localhost ip6-localhost\n",
			0644},
		{"etc/locale.conf", "LANG=C.UTF-8\n", 0644},
		/* Empty: each machine gets an identity of its own at its first boot (machine-id(5)). */
		{"etc/machine-id", "", 0444},
		{"etc/systemd/network/80-lodge.network",
			"[Match]\nName=en* "
			"eth*\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nUseDomains=yes\n",
			0644},
		{"usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0755},
		{"var/lib/lodge/stage2", script_stage2, 0755},
	};
	/* As `systemctl enable systemd-networkd` makes them, without the unit that waits for a network. */
	static const struct {
		const char *path, *to;
	} links[] = {
		{"etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
			"/usr/lib/systemd/system/systemd-networkd.service"},
		{"etc/systemd/system/sockets.target.wants/systemd-networkd.socket",
			"/usr/lib/systemd/system/systemd-networkd.socket"},
		{"etc/systemd/system/dbus-org.freedesktop.network1.service",
			"/usr/lib/systemd/system/systemd-networkd.service"},
		{"etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"},
		{"etc/default/locale", "../locale.conf"},
	};
	int rc = 0;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(files); i++)
		rc = rootfs_put(r, files[i].path, files[i].mode, files[i].text, e);
	for (size_t i = 0; !rc && i < ARRAY_SIZE(links); i++)
		rc = rootfs_link(r, links[i].path, links[i].to, e);
	return rc ?: write_sources(p, r, e);
}

/* depmod on the host: in an interpreted guest it would read 3,900 packed modules for minutes. */
static int run_depmod(struct pull *p, struct rootfs *r, struct err *e)
{
	const char *argv[] = {"depmod", "-b", r->dir, p->kernel.release, NULL};

	return run_ok(argv, NULL, e);
}

static int copy_file_into(struct rootfs *r, const char *from, const char *to, struct err *e)
{
	cleanup(buf_free) struct buf b = {0};
	cleanup(free_ptr) char *path = text_fmt("%s/%s", r->dir, to);
	int rc = file_read(from, 256 * MiB, &b, e);

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	return rc ?: file_write(path, b.p, b.n, 0644, false, e);
}

static int make_boot(struct pull *p, struct rootfs *r, const char *initrd, struct err *e)
{
	cleanup(buf_free) struct buf busybox = {0};
	cleanup(free_ptr) char *kernel = text_fmt("%s/vmlinux", p->out);
	cleanup(free_ptr) char *from = text_fmt("%s/vmlinux", p->kernel.dir);
	cleanup(free_ptr) char *in_boot = text_fmt("boot/initrd.img-%s", p->kernel.release);
	int rc;

	if (!kernel || !from || !in_boot)
		return err_set(e, -ENOMEM, "out of memory");
	rc = pull_busybox(p, &busybox, e) ?: initramfs_disk(&p->kernel, &busybox, initrd, e);
	if (!rc)
		rc = file_copy(from, kernel, 0644, e);
	/* `update-initramfs -u` in the guest renews what is there, so there must be one. */
	return rc ?: copy_file_into(r, initrd, in_boot, e);
}

static int check_tools(struct err *e)
{
	static const char *const tools[][2] = {{"mke2fs", "e2fsprogs"}, {"debugfs", "e2fsprogs"},
		{"e2fsck", "e2fsprogs"}, {"depmod", "kmod"}};

	for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
		cleanup(free_ptr) char *s = run_find(tools[i][0]);

		if (!s)
			return err_set(e, -ENOENT, "the program %s is missing: apt-get install %s",
				tools[i][0], tools[i][1]);
	}
	return 0;
}

static void describe(json_t *m, uint64_t size)
{
	json_object_set_new(m, "kernel", json_string("vmlinux"));
	json_object_set_new(m, "initrd", json_string("initrd"));
	json_object_set_new(m, "append", json_string("root=LABEL=" LABEL " console=ttyS0"));
	json_object_set_new(m, "disk",
		json_pack("{s:s, s:s, s:I}", "file", "disk.raw", "format", "raw", "size",
			(json_int_t)size));
	json_object_set_new(m, "memory", json_integer((json_int_t)(512 * MiB)));
	json_object_set_new(m, "login",
		json_string("root on the console (ttyS0, hvc0) WITHOUT a password; set one with "
			    "lodge image pull debian --root-password WORD, or with passwd inside"));
}

int recipe_debian(struct pull *p, json_t *manifest, struct err *e)
{
	cleanup(rootfs_close) struct rootfs r = {.fd = -1};
	cleanup(free_ptr) char *dir = text_fmt("%s/root", p->work);
	cleanup(free_ptr) char *disk = text_fmt("%s/disk.raw", p->out);
	cleanup(free_ptr) char *initrd = text_fmt("%s/initrd", p->out);
	uint64_t size = p->o->disk_size ?: DISK_SIZE;
	int rc;

	if (!dir || !disk || !initrd)
		return err_set(e, -ENOMEM, "out of memory");
	if (size < GiB || size % 4096)
		return err_set(e, -EINVAL, "--size: at least 1G and a multiple of 4K");
	rc = check_tools(e) ?: rootfs_open(&r, dir, e) ?: unpack_all(p, &r, e) ?: write_config(p, &r, e);
	if (!rc)
		rc = make_boot(p, &r, initrd, e) ?: run_depmod(p, &r, e) ?: offline_configure(p, &r, e);
	if (!rc)
		rc = pull_step(p, "disk", 0, 0, e) ?: ext4_make(&r, disk, size, LABEL, p->work, e);
	if (!rc)
		rc = stage2_run(p, disk, r.unpacked, e);
	if (!rc)
		rc = ext4_check(disk, e);
	describe(manifest, size);
	return rc;
}
