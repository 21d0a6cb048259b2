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

int offline_configure(struct pull *p, struct rootfs *r, struct err *e)
{
	cleanup(free_ptr) char *kernel = text_fmt("linux-image-%s", p->kernel.release);
	int rc = base_passwd(r, e);

	if (rc)
		return rc;
	/* depmod has run, the boot files are there, and there is no boot loader to tell. */
	if (kernel)
		mark_installed(r, kernel);
	mark_installed(r, "linux-image-riscv64");
	mark_installed(r, "initramfs-tools");
	return rootfs_write_db(r, e);
}
