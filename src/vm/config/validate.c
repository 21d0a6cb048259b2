#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "vm/config/config.h"

/*
 * There, readable (and writable when `write`), a file or, when `device`, also a block device; not
 * empty.
 */
static int check_readable(
	const char *what, const char *path, bool device, bool write, struct err *e)
{
	/*
	 * O_NONBLOCK: a FIFO must not hang us. The open is the test: access(2) asks for the wrong
	 * user in setuid programs.
	 */
	cleanup(close_fd) int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && write && (errno == EACCES || errno == EROFS || errno == EPERM))
		return err_sys(e, -errno,
			"%s %s cannot be written; add readonly, or make it writable", what, path);
	if (fd < 0 && errno == EISDIR)
		return err_set(e, -EINVAL, "%s %s is a directory: name a file", what, path);
	if (fd < 0)
		return err_sys(e, -errno, "%s %s", what, path);
	if (fstat(fd, &st))
		return err_sys(e, -errno, "%s %s", what, path);
	if (!S_ISREG(st.st_mode) && !(device && S_ISBLK(st.st_mode)))
		return err_set(e, -EINVAL, "%s %s is %s: name a file", what, path,
			S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
	if (S_ISREG(st.st_mode) && !st.st_size)
		return err_set(e, -EINVAL, "%s %s is empty: was it copied completely?", what, path);
	return 0;
}

static int check_disk(const struct vm_config *c, unsigned i, struct err *e)
{
	const struct vm_disk *d = &c->disks[i];
	struct stat st, other;

	if (!d->file)
		return err_set(e, -EINVAL, "disk %u names no file: add file", i);
	if (d->format == VM_FORMAT_NONE)
		return err_set(e, -EINVAL,
			"disk %s names no format: add format: raw, qcow2 or lodgefs (formats are "
			"never guessed)",
			d->file);
	for (unsigned j = 0; j < i; j++) {
		if (d->id && c->disks[j].id && !strcmp(d->id, c->disks[j].id))
			return err_set(e, -EINVAL, "two disks have the id %s: rename one", d->id);
		if (d->readonly && c->disks[j].readonly)
			continue;
		if (!stat(d->file, &st) && !stat(c->disks[j].file, &other) &&
			st.st_dev == other.st_dev && st.st_ino == other.st_ino)
			return err_set(e, -EINVAL,
				"disk %s is there twice: give each disk a file of its own, or make "
				"both readonly",
				d->file);
	}
	/* A disk in a store is STORE/NAME: only who knows the store can look at it. */
	if ((d->fence || d->take || d->metadata) && d->format != VM_FORMAT_LODGEFS)
		return err_set(e, -EINVAL,
			"disk %s: fence, take and metadata are about stores: only lodgefs has them",
			d->file);
	if ((d->commit != VM_COMMIT_FLUSH || !d->sorter) && d->format == VM_FORMAT_RAW)
		return err_set(e, -EINVAL,
			"disk %s: commit and sorter are about metadata: raw has none", d->file);
	if ((d->iops_burst && !d->iops) || (d->bps_burst && !d->bps))
		return err_set(e, -EINVAL,
			"disk %s: %s-burst alone limits nothing: it is what may pass at once of "
			"%s, add that",
			d->file, d->iops_burst && !d->iops ? "iops" : "bps",
			d->iops_burst && !d->iops ? "iops" : "bps");
	if (d->snapshot && d->format == VM_FORMAT_RAW)
		return err_set(e, -EINVAL, "disk %s: raw has no snapshots", d->file);
	if (d->snapshot && !d->readonly)
		return err_set(e, -EINVAL,
			"disk %s: a snapshot is only read: add readonly (to write upon it: `lodge "
			"disk convert --snapshot %s` makes a disk of it; in a store, `lodge disk "
			"create -o clone=DISK@%s`)",
			d->file, d->snapshot, d->snapshot);
	if (d->data_file && d->format != VM_FORMAT_QCOW2)
		return err_set(e, -EINVAL, "disk %s: data-file is of qcow2", d->file);
	if (d->format == VM_FORMAT_LODGEFS)
		return 0;
	return check_readable("disk", d->file, true, !d->readonly, e);
}

static int check_net(const struct vm_config *c, unsigned i, struct err *e)
{
	const struct vm_net *n = &c->nets[i];

	unsigned kinds = n->user + (n->tap != NULL) + (n->sw != NULL);

	if (kinds != 1)
		return err_set(e, -EINVAL, "net %u must be %s user, tap=NAME or switch=NAME%s", i,
			kinds ? "either" : "one of:", kinds ? ", not several" : "");
	if (!n->user && n->nfwds)
		return err_set(e, -EINVAL,
			"net %u: hostfwd works with user networking only; "
			"forward to a tap in the host's firewall, or plug user networking into "
			"the switch",
			i);
	for (unsigned j = 0; j < i; j++) {
		if (n->id && c->nets[j].id && !strcmp(n->id, c->nets[j].id))
			return err_set(e, -EINVAL, "two nets have the id %s: rename one", n->id);
		if (n->mac && c->nets[j].mac && !strcasecmp(n->mac, c->nets[j].mac))
			return err_set(
				e, -EINVAL, "two nets have the address %s: change one", n->mac);
		if (n->tap && c->nets[j].tap && !strcmp(n->tap, c->nets[j].tap))
			return err_set(
				e, -EINVAL, "two nets use the tap %s: give each its own", n->tap);
	}
	return 0;
}

static int check_memory(const struct vm_config *c, const struct vm_host *h, struct err *e)
{
	char want[SIZE_TEXT], have[SIZE_TEXT];

	if (c->memory % 4096)
		return err_set(e, -EINVAL,
			"memory %s is not a multiple of 4K: write it in K, M or G",
			size_text(want, c->memory));
	if (c->memory > h->memory)
		return err_set(e, -EINVAL,
			"memory %s is more than the %s that this host has: give less",
			size_text(want, c->memory), size_text(have, align_down(h->memory, MiB)));
	if (c->nodes > 1 && c->memory / c->nodes < MiB)
		return err_set(e, -EINVAL,
			"memory %s over %u nodes is under 1M for each: take fewer nodes",
			size_text(want, c->memory), c->nodes);
	return 0;
}

/*
 * Together they must leave something of the memory; the loader knows more exactly and asks again.
 */
static int check_fits(const struct vm_config *c, struct err *e)
{
	const char *const files[] = {c->kernel, c->initrd, c->firmware};
	char want[SIZE_TEXT], have[SIZE_TEXT];
	uint64_t sum = 0;
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (files[i] && !stat(files[i], &st))
			sum += (uint64_t)st.st_size;
	if (sum < c->memory)
		return 0;
	return err_set(e, -EINVAL,
		"kernel, initrd and firmware take %s and the guest has %s: give more --memory",
		size_text(want, align_up(sum, MiB)), size_text(have, c->memory));
}

static int check_boot(const struct vm_config *c, bool image_ok, struct err *e)
{
	int r = 0;

	if (!c->kernel && !c->firmware && c->image && !image_ok)
		return err_set(e, -EINVAL,
			"image %s: images are opened by lodge run; here give --kernel or "
			"--firmware",
			c->image);
	if (!c->kernel && !c->firmware && !c->image)
		return err_set(e, -EINVAL,
			"nothing to boot: name an image, or give --kernel FILE or --firmware FILE");
	if (c->initrd && !c->kernel && !c->image)
		return err_set(
			e, -EINVAL, "initrd %s without a kernel: add --kernel FILE", c->initrd);
	if (c->append && !c->kernel && !c->image)
		return err_set(e, -EINVAL, "append without a kernel: add --kernel FILE");
	if (c->kernel)
		r = check_readable("kernel", c->kernel, false, false, e);
	if (!r && c->initrd)
		r = check_readable("initrd", c->initrd, false, false, e);
	if (!r && c->firmware)
		r = check_readable("firmware", c->firmware, false, false, e);
	return r ?: check_fits(c, e);
}

int vm_config_validate(
	const struct vm_config *c, const struct vm_host *h, bool image_ok, struct err *e)
{
	int r = check_memory(c, h, e);

	if (r)
		return r;
	if (c->nodes > c->smp)
		return err_set(e, -EINVAL,
			"%u nodes for %u vCPUs: each node needs one; raise --smp or lower --nodes",
			c->nodes, c->smp);
	r = check_boot(c, image_ok, e);
	for (unsigned i = 0; !r && i < c->ndisks; i++)
		r = check_disk(c, i, e);
	for (unsigned i = 0; !r && i < c->nnets; i++)
		r = check_net(c, i, e);
	return r;
}
