#include <errno.h>

#include "base/util.h"
#include "image/agent.h"
#include "image/pull.h"
#include "image/store.h"

int recipe_mini(struct pull *p, json_t *manifest, struct err *e)
{
	cleanup(buf_free) struct buf busybox = {0}, agent = {0};
	struct err none = {0};
	cleanup(free_ptr) char *from = text_fmt("%s/vmlinux", p->kernel.dir);
	cleanup(free_ptr) char *kernel = text_fmt("%s/vmlinux", p->out);
	cleanup(free_ptr) char *initrd = text_fmt("%s/initrd", p->out);
	int r;

	if (!from || !kernel || !initrd)
		return err_set(e, -ENOMEM, "out of memory");
	r = pull_busybox(p, &busybox, e) ?: file_copy(from, kernel, 0444, e);
	if (!r && agent_program(p->kind->arch, &agent, &none))
		json_object_set_new(manifest, "notes", json_pack("[s]", err_msg(&none)));
	if (!r)
		r = initramfs_mini(&p->kernel, &busybox, &agent, initrd, e);
	json_object_set_new(manifest, "kernel", json_string("vmlinux"));
	json_object_set_new(manifest, "initrd", json_string("initrd"));
	/* quiet: each line on a serial port costs time, and errors are still shown. */
	json_object_set_new(manifest, "append", json_string("console=ttyS0 quiet"));
	json_object_set_new(manifest, "memory", json_integer((json_int_t)(128 * MiB)));
	json_object_set_new(
		manifest, "login", json_string("a root shell on the console, no password"));
	return r;
}
