/*
 * share.c: one store under several disks of one owner (disk_opts.stores): they share its memory, its journal and its one lock on the file.
 *
 * Who comes first opens the store, who goes last closes it. A store that was opened to be read and is now to be written is opened once more, and
 * the disks that are read move over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

static void batch(void *ctx)
{
	const struct lf *fs = ctx;

	for (const struct lf_disk *l = fs->disks; l; l = l->next)
		if (l->d->o.client.batch)
			l->d->o.client.batch(l->d->o.client.ctx);
}

static struct lf *find(const struct lf_env *env, const char *key)
{
	struct lf *fs = env->stores ? env->stores->first : NULL;

	while (fs && strcmp(fs->key, key))
		fs = fs->next;
	return fs;
}

static int open_one(struct lf **out, struct files *files, const struct lf_open *o, struct err *e)
{
	int rc = lf_open(out, files, o, e);

	if (rc == -EBUSY && (o->flags & LF_O_WRITE))
		return err_wrap(e,
			"store %s: one process writes to a store, to as many of its disks as it "
			"likes; machines that run "
			"beside each other have a store each, or only read",
			o->path);
	return rc;
}

static void own(struct lf *fs, struct files *files, char *key)
{
	fs->key = key;
	fs->own_files = files;
	files->batch = batch;
	files->ctx = fs;
}

static void list(struct lf *fs, struct disk_stores *stores)
{
	fs->stores = stores;
	if (!stores)
		return;
	fs->next = stores->first;
	stores->first = fs;
}

static void unlist(struct lf *fs)
{
	struct lf **p;

	if (!fs->stores)
		return;
	for (p = (struct lf **)&fs->stores->first; *p != fs; p = &(*p)->next)
		;
	*p = fs->next;
}

/* ---- after a failure, and after a while ---- */

#define TRY_NS 100000000ull /* no more often */
#define LATER_MS 1000u

/* Lives until libuv has closed its handles. */
struct lf_revive {
	uv_idle_t idle;
	uv_timer_t later;
	unsigned handles;
	struct lf *fs;
	struct disk_req *first, **last;
	uint64_t tried;
};

static int revive_make(struct lf *fs, struct uv_loop_s *loop)
{
	struct lf_revive *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->fs = fs;
	v->last = &v->first;
	uv_idle_init(loop, &v->idle);
	uv_timer_init(loop, &v->later);
	v->handles = 2;
	v->idle.data = v->later.data = v;
	uv_unref((uv_handle_t *)&v->idle);
	uv_unref((uv_handle_t *)&v->later);
	fs->revive = v;
	return 0;
}

static void revive_closed(uv_handle_t *h)
{
	struct lf_revive *v = h->data;

	if (!--v->handles)
		free(v);
}

static void revive_drop(struct lf *fs)
{
	if (fs->revive) {
		uv_close((uv_handle_t *)&fs->revive->idle, revive_closed);
		uv_close((uv_handle_t *)&fs->revive->later, revive_closed);
	}
	fs->revive = NULL;
}

static void later_job(void *arg)
{
	struct lf *fs = arg;

	/* What fails is told by the next write or flush. */
	if (!lf_write_out(fs) && fs->freed && lf_room_short(fs))
		(void)lf_mark(fs);
}

static void later_after(void *arg)
{
	((struct lf *)arg)->jobs--;
}

static void on_later(uv_timer_t *h)
{
	struct lf *fs = ((struct lf_revive *)h->data)->fs;

	fs->jobs++;
	lf_start_job(fs, later_job, later_after, fs);
}

bool lf_write_later(struct lf *fs)
{
	struct lf_revive *v = fs->revive;

	if (v && !uv_is_active((uv_handle_t *)&v->later))
		uv_timer_start(&v->later, on_later, LATER_MS, 0);
	return v;
}

/* Nothing of the store is on its way any more: with the error all of it ends soon. */
static bool settle(struct lf *fs)
{
	for (unsigned i = 0; i < 1000; i++) {
		bool busy = fs->jobs || fs->lock.held || fs->ahead;

		for (struct lf_disk *l = fs->disks; l; l = l->next) {
			if (l->sorter)
				sorter_kick(l->sorter);
			busy |= l->sorter && sorter_busy(l->sorter);
		}
		busy |= files_drain(fs->files);
		if (!busy)
			return true;
	}
	return false;
}

static int reload(struct lf **at)
{
	struct lf *old = *at, *fs;
	struct lf_disk *l;
	int rc;

	if (!settle(old))
		return old->failed;
	/* What was acknowledged and is not in the journal is in memory only. */
	if (lf_unwritten(old)) {
		old->failed = 0;
		return lf_write_out(old);
	}
	rc = lf_reload(&fs, old, NULL);
	if (rc)
		return rc == -ESTALE ? rc : old->failed;
	unlist(old);
	own(fs, steal_ptr(old->own_files), steal_ptr(old->key));
	list(fs, old->stores);
	fs->revive = steal_ptr(old->revive);
	fs->revive->fs = fs;
	fs->disks = steal_ptr(old->disks);
	fs->users = old->users;
	for (l = fs->disks; l; l = l->next) {
		l->rec = lf_rec_again(fs, l->rec);
		l->fs = fs;
		l->track = l->rec ? lf_track_of(fs, l->rec) : NULL;
		if (!l->rec) /* it cannot go while it is open */
			fs->failed = -EUCLEAN;
	}
	lf_close(old);
	*at = fs;
	return fs->failed;
}

void lf_unpark(struct lf *fs)
{
	struct lf_revive *v = fs->revive;
	struct disk_req *r = v ? v->first : NULL, *next;
	int rc;

	if (!r)
		return;
	v->first = NULL;
	v->last = &v->first;
	rc = fs->failed ? reload(&fs) : 0;
	v->tried = clock_mono_ns();
	for (; r; r = next) {
		next = r->next;
		if (rc)
			disk_done(r, rc);
		else
			r->disk->format->submit(r->disk, r);
	}
	batch(fs);
}

static void on_idle(uv_idle_t *h)
{
	struct lf_revive *v = h->data;

	uv_idle_stop(h);
	uv_unref((uv_handle_t *)h);
	lf_unpark(v->fs);
}

bool lf_park(struct lf *fs, struct disk_req *r)
{
	struct lf_revive *v = fs->revive;

	if (!v || fs->failed == -ESTALE || fs->lost || !fs->writable)
		return false;
	if (!v->first && clock_mono_ns() - v->tried < TRY_NS)
		return false;
	r->next = NULL;
	*v->last = r;
	v->last = &r->next;
	uv_ref((uv_handle_t *)&v->idle);
	uv_idle_start(&v->idle, on_idle);
	return true;
}

/* ---- opening ---- */

/* The disks of `old` go on in `fs`, unless they are not there as they were. */
static int move(struct lf *old, struct lf *fs, struct err *e)
{
	struct lf_disk *l;

	for (l = old->disks; l; l = l->next) {
		const struct lf_record *r = lf_rec_again(fs, l->rec);

		if (!r || r->size != l->d->size || r->generation != l->rec->generation)
			return err_set(e, -EBUSY,
				"store %s: another process has changed disk '%s' while this one "
				"reads it",
				old->path, l->rec->name);
	}
	for (l = old->disks; l; l = l->next) {
		l->rec = lf_rec_again(fs, l->rec);
		l->fs = fs;
		l->track = lf_track_of(fs, l->rec);
	}
	fs->disks = steal_ptr(old->disks);
	fs->users = old->users;
	return 0;
}

/* A store that is read gets a writer. Nothing is in flight but reads. */
static int promote(struct lf **at, const struct lf_open *o, struct err *e)
{
	struct lf *old = *at, *fs = NULL;
	struct files *files = old->own_files;
	struct lf_open again = {.path = old->path, .direct = o->direct};
	int rc;

	files_drain(files);
	file_close(steal_ptr(old->f)); /* with its lock */
	rc = open_one(&fs, files, o, e);
	if (rc && lf_open(&fs, files, &again, NULL))
		return rc; /* nobody reads it any more: lf_submit() says so */
	if (move(old, fs, rc ? NULL : e)) {
		lf_close(fs);
		return rc ?: -EBUSY;
	}
	unlist(old);
	own(fs, files, steal_ptr(old->key));
	list(fs, old->stores);
	fs->revive = steal_ptr(old->revive);
	fs->revive->fs = fs;
	old->own_files = NULL;
	lf_close(old);
	*at = fs;
	return rc;
}

static int join(struct lf **out, struct lf *fs, const struct lf_open *o, struct err *e)
{
	bool write = o->flags & LF_O_WRITE;
	int rc = 0;

	if (o->direct != fs->direct)
		return err_set(e, -EINVAL,
			"store %s: another disk of it is open with%s cache=none: all that one "
			"machine uses of "
			"a store agree on that",
			fs->path, fs->direct ? "" : "out");
	if (fs->failed && write && !fs->lost && fs->failed != -ESTALE)
		(void)reload(&fs);
	if (fs->failed && write)
		return lf_fail(fs, fs->failed, e);
	if (write && !fs->writable)
		rc = promote(&fs, o, e);
	else if (o->fence && o->fence != fs->fence)
		rc = err_set(e, -ESTALE,
			"store %s: is open with the fencing number %llu, and another disk wants "
			"%llu",
			fs->path, (unsigned long long)fs->fence, (unsigned long long)o->fence);
	if (rc)
		return rc;
	if (o->flags & LF_O_DISCARD)
		fs->discard = fs->f->o.discard = true;
	fs->users++;
	*out = fs;
	return 0;
}

int lf_get(struct lf **out, const struct lf_env *env, const struct lf_open *o, struct err *e)
{
	char *key = env->open_file ? NULL : realpath(o->path, NULL);
	struct files *files;
	struct lf *fs;
	int rc;

	key = key ?: strdup(o->path);
	if (!key)
		return err_set(e, -ENOMEM, "out of memory");
	fs = find(env, key);
	if (fs) {
		free(key);
		return join(out, fs, o, e);
	}
	files = calloc(1, sizeof(*files));
	if (!files) {
		free(key);
		return err_set(e, -ENOMEM, "out of memory");
	}
	*files = (struct files){.loop = env->loop,
		.shelf = env->stores ? &env->stores->shelf : NULL,
		.io = env->io,
		.open = env->open_file,
		.open_ctx = env->open_ctx};
	rc = open_one(&fs, files, o, e);
	if (!rc && revive_make(fs, env->loop)) {
		rc = err_set(e, -ENOMEM, "out of memory");
		lf_close(fs);
	}
	if (rc) {
		free(files);
		free(key);
		return rc;
	}
	own(fs, files, key);
	list(fs, env->stores);
	fs->users = 1;
	*out = fs;
	return 0;
}

int lf_put(struct lf *fs)
{
	struct files *files;
	int lost;

	if (!fs || --fs->users)
		return 0;
	unlist(fs);
	files = fs->own_files;
	revive_drop(fs);
	lost = lf_close(fs);
	free(files);
	return lost;
}

void lf_disk_list(struct lf_disk *l)
{
	l->next = l->fs->disks;
	l->fs->disks = l;
}

void lf_disk_unlist(struct lf_disk *l)
{
	struct lf_disk **p = &l->fs->disks;

	while (*p && *p != l)
		p = &(*p)->next;
	if (*p)
		*p = l->next;
}
