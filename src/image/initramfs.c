#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/util.h"
#include "image/kernel.h"
#include "image/scripts.h"

struct cpio {
	struct archive *a;
	const char *path;
	int code; /* first failure; everything after it does nothing */
	struct err *e;
};

/* All entries have time 0 and belong to root: the same input gives the same file. */
static void put(struct cpio *c, const char *name, mode_t mode, const void *p, size_t n)
{
	struct archive_entry *en;

	if (c->code)
		return;
	en = archive_entry_new();
	if (!en) {
		c->code = err_set(c->e, -ENOMEM, "out of memory");
		return;
	}
	archive_entry_set_pathname(en, name);
	archive_entry_set_mode(en, mode);
	archive_entry_set_uid(en, 0);
	archive_entry_set_gid(en, 0);
	archive_entry_set_mtime(en, 0, 0);
	archive_entry_set_nlink(en, S_ISDIR(mode) ? 2 : 1);
	if (S_ISLNK(mode))
		archive_entry_set_symlink(en, p);
	archive_entry_set_size(en, S_ISREG(mode) ? (la_int64_t)n : 0);
	if (S_ISCHR(mode))
		archive_entry_set_rdev(en, makedev(5, 1));
	if (archive_write_header(c->a, en) != ARCHIVE_OK ||
		(S_ISREG(mode) && n && archive_write_data(c->a, p, n) != (la_ssize_t)n))
		c->code = err_set(c->e, -(archive_errno(c->a) > 0 ? archive_errno(c->a) : EIO),
			"write %s: %s", c->path, archive_error_string(c->a) ?: "failed");
	archive_entry_free(en);
}

static void put_dir(struct cpio *c, const char *name)
{
	put(c, name, S_IFDIR | 0755, NULL, 0);
}

static void put_link(struct cpio *c, const char *name, const char *to)
{
	put(c, name, S_IFLNK | 0777, to, 0);
}

static void put_text(struct cpio *c, const char *name, mode_t mode, const char *text)
{
	put(c, name, S_IFREG | mode, text, strlen(text));
}

/*
 * In the binary the names stand one after the other, each with a 0 behind it, in order, from "[" and
 * "[[" on. (Running it would need a riscv64 machine.)
 */
int busybox_applets(const struct buf *busybox, struct buf *names, struct err *e)
{
	static const char first[] = "[\0[[\0a";
	const char *p = memmem(busybox->p, busybox->n, first, sizeof(first) - 1);
	const char *end = busybox->p + busybox->n, *last = "";
	size_t count = 0;

	while (p && p < end) {
		size_t n = strnlen(p, (size_t)(end - p));

		if (!n || n > 32 || p + n == end || strcmp(last, p) >= 0)
			break;
		for (size_t i = 0; i < n; i++)
			if (!isgraph((unsigned char)p[i]) || p[i] == '/')
				n = 0;
		if (!n)
			break;
		buf_add(names, p, n);
		buf_str(names, "\n");
		last = p;
		p += n + 1;
		count++;
	}
	if (count < 100)
		return err_set(e, -ENOEXEC, "busybox-static: its table of applets was not found");
	return buf_err(names, e);
}

static void put_applets(struct cpio *c, const struct buf *busybox)
{
	cleanup(buf_free) struct buf names = {0};
	struct slice rest, w;

	if (c->code)
		return;
	put(c, "bin/busybox", S_IFREG | 0755, busybox->p, busybox->n);
	c->code = busybox_applets(busybox, &names, c->e);
	rest = (struct slice){names.p, names.n};
	while (!c->code && slice_word(&rest, &w)) {
		cleanup(free_ptr) char *name = text_fmt("bin/" SLICE_FMT, SLICE_ARG(w));

		if (name && !slice_is(w, "busybox"))
			put_link(c, name, "busybox");
	}
}

/* Of the kernel's modules those in `only` (blanks between) and what they need. */
static bool needed(const struct kernel *k, const char *only, size_t i)
{
	struct slice rest = slice_of(only), w;

	while (slice_word(&rest, &w))
		if (slice_is(w, k->mod[i].name))
			return true;
	for (size_t j = i + 1; j < k->nmod; j++) {
		rest = slice_of(k->mod[j].deps);
		while (slice_word(&rest, &w))
			if (slice_is(w, k->mod[i].name) && needed(k, only, j))
				return true;
	}
	return false;
}

/* All that stands in the way of module i, nearest first, as modules.dep wants it (no module twice). */
static void all_deps(const struct kernel *k, size_t i, bool *seen, struct buf *out)
{
	struct slice rest = slice_of(k->mod[i].deps), w;

	while (slice_word(&rest, &w)) {
		for (size_t j = 0; j < i; j++) {
			if (!slice_is(w, k->mod[j].name) || seen[j])
				continue;
			seen[j] = true;
			buf_fmt(out, " %s", k->mod[j].file);
			all_deps(k, j, seen, out);
		}
	}
}

static void put_modules(struct cpio *c, const struct kernel *k, const char *only)
{
	cleanup(buf_free) struct buf dep = {0};
	cleanup(free_ptr) char *dir = text_fmt("lib/modules/%s", k->release);
	cleanup(free_ptr) char *depname = text_fmt("lib/modules/%s/modules.dep", k->release);

	put_dir(c, "lib");
	put_dir(c, "lib/modules");
	if (dir)
		put_dir(c, dir);
	for (size_t i = 0; i < k->nmod && !c->code; i++) {
		cleanup(free_ptr) char *from = text_fmt("%s/modules/%s", k->dir, k->mod[i].file);
		cleanup(free_ptr) char *to = text_fmt("%s/%s", dir, k->mod[i].file);
		cleanup(buf_free) struct buf ko = {0};
		bool seen[64] = {false};

		if (!needed(k, only, i))
			continue;
		if (!from || !to) {
			c->code = err_set(c->e, -ENOMEM, "out of memory");
			return;
		}
		c->code = whole_file_read(from, 64 * MiB, &ko, c->e);
		if (!c->code)
			put(c, to, S_IFREG | 0644, ko.p, ko.n);
		buf_fmt(&dep, "%s:", k->mod[i].file);
		all_deps(k, i, seen, &dep);
		buf_str(&dep, "\n");
	}
	if (depname && dep.p)
		put_text(c, depname, 0644, dep.p);
}

static int cpio_open(struct cpio *c, const char *path, struct err *e)
{
	*c = (struct cpio){.a = archive_write_new(), .path = path, .e = e};
	if (!c->a)
		return c->code = err_set(e, -ENOMEM, "out of memory");
	archive_write_set_format_cpio_newc(c->a);
	if (archive_write_open_filename(c->a, path) != ARCHIVE_OK)
		c->code = err_set(e, -(archive_errno(c->a) > 0 ? archive_errno(c->a) : EIO),
			"create %s: %s", path, archive_error_string(c->a) ?: "failed");
	return c->code;
}

static int cpio_close(struct cpio *c)
{
	if (!c->code && archive_write_close(c->a) != ARCHIVE_OK)
		c->code = err_set(c->e, -(archive_errno(c->a) > 0 ? archive_errno(c->a) : EIO),
			"write %s: %s", c->path, archive_error_string(c->a) ?: "failed");
	if (c->a)
		archive_write_free(c->a);
	return c->code;
}

static void put_tree(struct cpio *c, const char *const *dirs)
{
	for (; *dirs; dirs++)
		put_dir(c, *dirs);
	/* The kernel opens /dev/console for process 1 before anything is mounted. */
	put(c, "dev/console", S_IFCHR | 0600, NULL, 0);
	put_link(c, "sbin", "bin");
}

int initramfs_mini(const struct kernel *k, const struct buf *busybox, const struct buf *agent,
	const char *path, struct err *e)
{
	static const char *const dirs[] = {"bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "mnt",
		"proc", "root", "run", "sys", "tmp", "usr", "etc/udhcpc", "var", "var/log",
		"var/run", NULL};
	struct cpio c;

	if (cpio_open(&c, path, e))
		return cpio_close(&c);
	put_tree(&c, dirs);
	put_link(&c, "usr/bin", "../bin");
	put_link(&c, "usr/sbin", "../bin");
	put_text(&c, "init", 0755, script_mini_init);
	put_text(&c, "etc/profile", 0644, script_mini_profile);
	put_text(&c, "etc/passwd", 0644, "root:x:0:0:root:/root:/bin/sh\n");
	put_text(&c, "etc/group", 0644, "root:x:0:\n");
	put_text(&c, "etc/hosts", 0644, "127.0.0.1 localhost lodge\n::1 localhost\n");
	put_text(&c, "etc/acpi/PWRF/00000080", 0755, "#!/bin/sh\npoweroff\n");
	put_text(&c, "etc/udhcpc/default.script", 0755, script_udhcpc);
	put_applets(&c, busybox);
	if (agent->n)
		put(&c, "bin/lodge-agent", S_IFREG | 0755, agent->p, agent->n);
	put_modules(&c, k,
		"virtio_pci button virtio_blk virtio_net virtio_input evdev virtio_balloon "
		"virtio_rng ext4 "
		"vmw_vsock_virtio_transport");
	return cpio_close(&c);
}

int initramfs_disk(
	const struct kernel *k, const struct buf *busybox, const char *path, struct err *e)
{
	static const char *const dirs[] = {
		"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", NULL};
	struct cpio c;

	if (cpio_open(&c, path, e))
		return cpio_close(&c);
	put_tree(&c, dirs);
	put_text(&c, "init", 0755, script_disk_init);
	put_applets(&c, busybox);
	put_modules(&c, k, "virtio_pci virtio_blk virtio_scsi ext4");
	return cpio_close(&c);
}
