#include "cli/snapshot/clone_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "cli/disk/disk_session.h"
#include "cli/place.h"
#include "cli/snapshot/store.h"
#include "vm/config/config.h"

void clone_disks_close(struct clone_disks *c)
{
	while (c->n)
		close(c->fd[--c->n]);
}

static int add(struct clone_disks *c, const char *dir, unsigned index, struct err *e)
{
	char path[PATH_MAX];
	int rc;

	if (c->n == CLONE_DISKS)
		return err_set(e, -E2BIG,
			"clone: the machine writes to more than %u disks, and no more can be "
			"cloned at once",
			CLONE_DISKS);
	snprintf(path, sizeof(path), "%s/.base", dir);
	rc = snapstore_create_at(path, &c->fd[c->n], e);
	if (!rc)
		c->index[c->n++] = index;
	return rc;
}

int clone_disks_make(struct clone_disks *c, const json_t *definition, struct err *e)
{
	char dir[PATH_MAX - 8];
	const json_t *d;
	size_t i;
	int rc = place_path(NULL, dir, sizeof(dir), e) ?: fs_mkdir_p(dir, 0700, e);

	json_array_foreach(json_object_get(definition, "disks"), i, d)
	{
		if (!rc && !json_is_true(json_object_get(d, "readonly")))
			rc = add(c, dir, (unsigned)i, e);
	}
	return rc;
}

static int copy_one(const json_t *d, int fd, struct err *e)
{
	cleanup(session_end) struct session s = {0};
	struct disk_copy copy = {.blank = true};
	char from[PATH_MAX + 16], to[40];
	struct disk *a, *b;
	int rc;

	snprintf(from, sizeof(from), "%s:%s", json_text_at(d, "file"), json_text_at(d, "format"));
	snprintf(to, sizeof(to), "/proc/self/fd/%d:raw", fd);
	session_begin(&s, false, "clone");
	copy.watch = s.watch;
	rc = session_open_snapshot(&s, from, json_text_at(d, "snapshot"), &a, e);
	if (!rc && ftruncate(fd, (off_t)disk_size(a)))
		rc = err_sys(e, -errno, "copy of disk %s", json_text_at(d, "id"));
	return rc ?: session_open(&s, to, 0, &b, e) ?: disk_copy(a, b, &copy, e);
}

int clone_disks_of_snapshot(struct clone_disks *c, const struct snapopen *s, struct err *e)
{
	const json_t *disks = json_object_get(s->manifest, "disks");
	int rc = clone_disks_make(c, json_object_get(s->manifest, "definition"), e);

	for (unsigned i = 0; i < c->n && !rc; i++) {
		const json_t *d = json_array_get(disks, c->index[i]);

		if (!*json_text_at(d, "snapshot"))
			return err_set(e, -EOPNOTSUPP,
				"clone: the snapshot does not have what disk %s held then "
				"(--memory-only): clone the machine while it runs, or make one "
				"with its disks",
				json_text_at(d, "id"));
		rc = copy_one(d, c->fd[i], e);
		if (rc == -EBUSY)
			err_wrap(e,
				"clone: the machine that the snapshot is of still has its disk %s: "
				"clone that machine, or stop it first",
				json_text_at(d, "id"));
	}
	return rc;
}

static int replace(char **text, char *now)
{
	free(*text);
	*text = now;
	return now ? 0 : -ENOMEM;
}

static int give_one(const struct place *p, struct vm_disk *d, unsigned index, int fd, struct err *e)
{
	cleanup(session_end) struct session s = {0};
	char base[32], self[40], path[PATH_MAX];
	struct disk_create_opts o = {.path = path, .backing = base, .backing_format = "raw"};
	struct stat st;
	int rc;

	snprintf(base, sizeof(base), "disk%u.qcow2", index);
	rc = place_file(p, base, path, sizeof(path), e);
	snprintf(base, sizeof(base), "disk%u.base", index);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (rc)
		return rc;
	if (fchmod(fd, 0400) || fstat(fd, &st) ||
		linkat(AT_FDCWD, self, p->lock, base, AT_SYMLINK_FOLLOW))
		return err_sys(e, -errno, "%s/%s", p->dir, base);
	session_begin(&s, false, "clone");
	o.loop = &s.loop;
	o.stores = &s.stores;
	o.size = (uint64_t)st.st_size;
	rc = disk_create("qcow2", &o, e);
	if (!rc && replace(&d->file, strdup(path)))
		rc = err_set(e, -ENOMEM, "out of memory");
	d->format = VM_FORMAT_QCOW2;
	d->fence = 0;
	d->take = false;
	return rc;
}

int clone_disks_give(
	const struct clone_disks *c, const struct place *p, struct vm_config *cfg, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < c->n && !rc; i++)
		rc = c->index[i] < cfg->ndisks
			     ? give_one(p, &cfg->disks[c->index[i]], c->index[i], c->fd[i], e)
			     : err_set(e, -EBADMSG, "clone: the definition has no such disk");
	return rc ? err_wrap(e, "disks of %s", cfg->name) : 0;
}

int clone_disks_sync(const struct clone_disks *c, struct err *e)
{
	for (unsigned i = 0; i < c->n; i++)
		if (fdatasync(c->fd[i]))
			return err_sys(e, -errno, "clone: what the clones' disks begin with");
	return 0;
}
