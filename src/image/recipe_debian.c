#include <crypt.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/agent.h"
#include "image/ext4.h"
#include "image/offline.h"
#include "image/pull.h"
#include "image/rootfs.h"
#include "image/run.h"
#include "image/scripts.h"
#include "image/stage2/stage2.h"
#include "image/store.h"

#define DISK_SIZE (8 * GiB)
#define LABEL "lodge-root"

/* Beside what is essential, required or important: what a server without a screen needs. */
const char *const recipe_debian_names[] = {
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

/*
 * Updates and security archives are asked for first: one that the mirror does not serve whole would make each
 * `apt-get update` in the guest fail. It is then written switched off, and the manifest says so.
 */
static int add_source(struct pull *p, struct buf *b, const char *uri, const char *suite,
	const char *key, bool probe, json_t *notes, struct err *e)
{
	cleanup(free_ptr) char *xz = NULL;
	struct err why = {0};
	int rc = probe ? pull_index(p, uri, suite, &xz, &why) : 0;

	if (rc == -ECANCELED) {
		*e = why;
		return rc;
	}
	if (rc)
		json_array_append_new(notes,
			json_sprintf(
				"%s is switched off in apt's sources, because the mirror does not "
				"serve it whole: %s",
				suite, err_msg(&why)));
	buf_fmt(b, "%s%sTypes: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n%s",
		b->n ? "\n" : "", rc ? "# The mirror did not serve this suite whole.\n" : "", uri,
		suite, key, rc ? "Enabled: no\n" : "");
	return 0;
}

static int write_sources(struct pull *p, struct rootfs *r, json_t *notes, struct err *e)
{
	static const char *const keys[] = {"/usr/share/keyrings/debian-archive-keyring.gpg",
		"/usr/share/keyrings/debian-archive-keyring.pgp"};
	const char *key = keys[rootfs_has(r, keys[0] + 1) ? 0 : 1];
	cleanup(buf_free) struct buf b = {0};
	int rc;

	/* A directory of the host means nothing inside the guest. */
	if (!strncmp(p->mirror.uri, "file:", 5))
		return rootfs_put(r, "etc/apt/sources.list", 0644,
			"# This image was made from files of its host: name a mirror here.\n", e);
	rc = add_source(p, &b, p->mirror.uri, "trixie", key, false, notes, e);
	if (!rc)
		rc = add_source(p, &b, p->mirror.uri, "trixie-updates", key, true, notes, e);
	if (!rc && p->mirror.security)
		rc = add_source(p, &b, p->mirror.security, "trixie-security", key, true, notes, e);
	return rc ?: buf_err(&b, e) ?: rootfs_put(r, "etc/apt/sources.list.d/debian.sources", 0644, b.p, e);
}

static int write_config(struct pull *p, struct rootfs *r, json_t *notes, struct err *e)
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
	return rc ?: write_sources(p, r, notes, e);
}

static int add_agent(struct pull *p, struct rootfs *r, json_t *notes, struct err *e)
{
	cleanup(buf_free) struct buf program = {0};
	struct err why = {0};
	int rc = agent_program(p->kind->arch, &program, &why);

	if (rc == -ENOENT) {
		json_array_append_new(notes, json_string(err_msg(&why)));
		return 0;
	}
	if (rc) {
		*e = why;
		return rc;
	}
	return rootfs_put_bytes(r, AGENT_PATH, 0755, program.p, program.n, e)
		       ?: rootfs_put(r, AGENT_UNIT, 0644, agent_unit, e)
		       ?: rootfs_link(r, AGENT_WANTS, "/" AGENT_UNIT, e);
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
	int rc = whole_file_read(from, 256 * MiB, &b, e);

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	return rc ?: whole_file_write(path, b.p, b.n, 0644, false, e);
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

int recipe_debian_check(const struct pull *p, struct err *e)
{
	static const char *const tools[][2] = {{"mke2fs", "e2fsprogs"}, {"debugfs", "e2fsprogs"},
		{"e2fsck", "e2fsprogs"}, {"depmod", "kmod"}};

	for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
		cleanup(free_ptr) char *s = run_find(tools[i][0]);

		if (!s)
			return err_set(e, -ENOENT, "the program %s is missing: apt-get install %s",
				tools[i][0], tools[i][1]);
	}
	return stage2_check(p, e);
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
	json_t *notes = json_array();
	int rc;

	json_object_set_new(manifest, "notes", notes);

	if (!dir || !disk || !initrd)
		return err_set(e, -ENOMEM, "out of memory");
	if (size < GiB || size % 4096)
		return err_set(e, -EINVAL, "--size: at least 1G and a multiple of 4K");
	rc = rootfs_open(&r, dir, e);
	r.arch = p->kind->arch;
	if (!rc)
		rc = unpack_all(p, &r, e) ?: write_config(p, &r, notes, e);
	if (!rc)
		rc = add_agent(p, &r, notes, e);
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

/* The shadow file with root's field replaced. */
static int new_shadow(
	const char *disk, const char *work, const char *password, struct buf *out, struct err *e)
{
	cleanup(buf_free) struct buf old = {0};
	cleanup(free_ptr) struct crypt_data *cd = calloc(1, sizeof(*cd));
	cleanup(free_ptr) char *salt = crypt_gensalt_ra("$6$", 0, NULL, 0);
	const char *hash, *line, *end;
	int rc = ext4_read(disk, "etc/shadow", work, &old, e);

	if (rc)
		return rc;
	hash = cd && salt ? crypt_r(password, salt, cd) : NULL;
	if (!hash || hash[0] == '*')
		return err_set(e, -EINVAL, "the root password cannot be hashed");
	line = !strncmp(old.p, "root:", 5) ? old.p : strstr(old.p, "\nroot:");
	line += line && *line == '\n';
	end = line ? strchr(line + 5, ':') : NULL;
	if (!end)
		return err_set(e, -EINVAL, "the image's /etc/shadow has no root");
	buf_add(out, old.p, (size_t)(line - old.p));
	buf_fmt(out, "root:%s%s", hash, end);
	return buf_err(out, e);
}

static int set_password(struct pull *p, const char *disk, struct err *e)
{
	cleanup(buf_free) struct buf shadow = {0}, cmds = {0};
	cleanup(free_ptr) char *file = text_fmt("%s/shadow", p->work);
	int rc;

	if (!file)
		return err_set(e, -ENOMEM, "out of memory");
	rc = new_shadow(disk, p->work, p->o->root_password, &shadow, e)
		     ?: whole_file_write(file, shadow.p, shadow.n, 0600, false, e);
	if (rc)
		return rc;
	buf_fmt(&cmds,
		"rm /etc/shadow\nwrite \"%s\" /etc/shadow\nsif /etc/shadow mode 0100640\n"
		"sif /etc/shadow uid 0\nsif /etc/shadow gid 42\n",
		file);
	return buf_err(&cmds, e) ?: ext4_edit(disk, &cmds, p->work, e);
}

int recipe_password(struct pull *p, const char *built, struct err *e)
{
	static const char *const files[] = {"vmlinux", "initrd", "disk.raw"};
	cleanup(free_ptr) char *disk = text_fmt("%s/disk.raw", p->out);
	json_t *m = manifest_read(built, e);
	int rc = m && disk ? dir_remove(p->out, e) ?: dir_make(p->out, 0755, e) : -EINVAL;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(files); i++) {
		cleanup(free_ptr) char *from = text_fmt("%s/%s", built, files[i]);
		cleanup(free_ptr) char *to = text_fmt("%s/%s", p->out, files[i]);

		rc = from && to ? file_copy(from, to, 0644, e)
				: err_set(e, -ENOMEM, "out of memory");
	}
	if (!rc)
		rc = set_password(p, disk, e);
	if (!rc) {
		chmod(disk, 0400);
		json_object_set_new(m, "root_password", json_true());
		json_object_set_new(m, "login",
			json_string("root with the password given to "
				    "image pull, on the console (ttyS0, hvc0)"));
		rc = pull_save_manifest(p->out, m, e);
	}
	json_decref(m);
	return rc;
}
