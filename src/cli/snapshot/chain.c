/* Snapshots that hold only what changed since another one: found by id, joined. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "cli/snapshot/copy.h"
#include "cli/snapshot/store.h"
#include "vm/snapshot/file.h"

/* The first snapshot of the store that `is` takes. -ENOENT: none. */
static int find(bool (*is)(const struct snapfile *s, const uint8_t *id), const uint8_t *id,
	char **name, struct snapopen *out)
{
	cleanup(fs_names_free) struct fs_names names = {0};

	if (snapstore_names(&names, NULL))
		return -ENOENT;
	for (size_t i = 0; i < names.n; i++) {
		struct snapopen s = {0};

		/* One that is damaged is nobody's business here. */
		if (snapstore_open(names.v[i], &s, NULL))
			continue;
		if (is(s.file, id)) {
			*name = strdup(names.v[i]);
			if (out)
				*out = s;
			else
				snapopen_close(&s);
			return *name ? 0 : -ENOMEM;
		}
		snapopen_close(&s);
	}
	return -ENOENT;
}

static bool has_id(const struct snapfile *s, const uint8_t *id)
{
	return !memcmp(s->id, id, SNAPFILE_ID);
}

static bool has_parent_id(const struct snapfile *s, const uint8_t *id)
{
	return !memcmp(s->parent, id, SNAPFILE_ID);
}

char *snapstore_child(const struct snapfile *parent)
{
	char *name = NULL;

	find(has_parent_id, parent->id, &name, NULL);
	return name;
}

static int add_parent(struct snapchain *c, struct err *e)
{
	const struct snapopen *last = &c->s[c->n - 1];
	cleanup(free_ptr) char *name = NULL;

	if (c->n == SNAPCHAIN_MAX)
		return err_set(e, -ELOOP, "%s: more than %u snapshots that need each other",
			c->s[0].path, SNAPCHAIN_MAX);
	if (find(has_id, last->file->parent, &name, &c->s[c->n]))
		return err_set(e, -ENOENT,
			"%s holds only what changed since another snapshot, which is not here: "
			"bring that one back (lodge snapshot import)",
			last->path);
	c->n++;
	return 0;
}

int snapchain_open(const char *arg, struct snapchain *out, struct err *e)
{
	int rc;

	*out = (struct snapchain){.s = calloc(SNAPCHAIN_MAX, sizeof(*out->s))};
	if (!out->s)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	rc = snapstore_open(arg, &out->s[0], e);
	out->n = !rc;
	while (!rc && snapfile_has_parent(out->s[out->n - 1].file))
		rc = add_parent(out, e);
	if (rc)
		snapchain_close(out);
	return rc;
}

void snapchain_close(struct snapchain *c)
{
	while (c->n)
		snapopen_close(&c->s[--c->n]);
	free(c->s);
	c->s = NULL;
}

int snapstore_open_whole(const char *arg, struct snapopen *out,
	bool (*progress)(void *ctx, uint64_t done, uint64_t of), void *ctx, struct err *e)
{
	cleanup(snapchain_close) struct snapchain c = {0};
	cleanup(close_fd) int fd = -1;
	struct snapcopy_opts o = {.from = &c, .progress = progress, .ctx = ctx};
	char path[64];
	int rc = snapchain_open(arg, &c, e);

	memset(out, 0, sizeof(*out));
	if (!rc && c.n == 1) {
		*out = c.s[0];
		c.n = 0;
		return 0;
	}
	rc = rc ?: snapstore_create("being-joined", &fd, e);
	o.fd = fd;
	rc = rc ?: snapcopy(&o, e);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = rc ?: snapstore_open(path, out, e);
	/* It has no name: others reach it through who has it open. */
	if (!rc)
		snprintf(out->path, sizeof(out->path), "/proc/%d/fd/%d", (int)getpid(),
			out->file->fd);
	return rc;
}
