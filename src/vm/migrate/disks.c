#include "vm/migrate/disks.h"

#include <errno.h>
#include <stddef.h>

#include "base/err.h"
#include "device/virtio_blk.h"
#include "disk/tool.h"
#include "machine/board.h"
#include "vm/migrate/disks_out.h"

int mig_disks_can(struct board *b, struct err *e)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d && disk_held(d))
			return err_set(e, -EBUSY,
				"disk %s (%s): has requests that the host failed: see to it, and "
				"resume the machine first",
				b->devices[i]->id, d->o.path);
	}
	return 0;
}

int mig_disks_flush(struct board *b, struct err *e)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d && !d->o.readonly && disk_rw(d, DISK_FLUSH, 0, NULL, 0, e))
			return err_wrap(e, "disk %s", b->devices[i]->id);
	}
	return 0;
}

static void undo_sleep(struct board *b, unsigned n)
{
	while (n--) {
		struct disk *d = virtio_blk_disk(b->devices[n]);

		if (d)
			(void)disk_wake(d, NULL);
	}
}

int mig_disks_sleep(struct board *b, const struct disks_out *copied, struct err *e)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d && !disks_out_has(copied, d) && disk_sleep(d, e)) {
			undo_sleep(b, i);
			return err_wrap(e, "disk %s", b->devices[i]->id);
		}
	}
	return 0;
}

int mig_disks_wake(struct board *b, struct err *e)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (!d || !disk_wake(d, e))
			continue;
		while (i--) {
			d = virtio_blk_disk(b->devices[i]);
			if (d)
				(void)disk_sleep(d, NULL);
		}
		return err_wrap(e, "disks");
	}
	return 0;
}
