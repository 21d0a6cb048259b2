#include "vm/migrate/disks_in.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "disk/lock.h"
#include "disk/tool.h"
#include "vm/config/config.h"
#include "vm/migrate/blocks.h"

#define JOBS 8u /* messages on their way to the disks */
#define FLUSH_EVERY (128 * MiB) /* so that the last flush, which others wait for, is short */
#define GUARD_MS 5000 /* how long the images may take to go */
/* Else: the number of an image that was made. */
enum { GUARD_KEEP = 200, GUARD_DROP, GUARD_SETTLE };

struct job;

struct part {
	struct disk_req r;
	struct iovec iov;
	struct job *job;
	unsigned disk;
};

/* What one message asks for. */
struct job {
	struct disks_in *in;
	struct job *next;
	void *payload;
	uint8_t *data; /* what was packed */
	unsigned n, left;
	struct part part[];
};

struct image {
	char id[VM_DISK_ID];
	char *path;
	char *file; /* whose place it takes, by its real path; NULL: nothing is there */
	char *at; /* where it lies until then; NULL: it is made as `path` */
	int old; /* `file`, locked: nobody begins to use what will make way; -1. The guard holds it, too, and longer */
	bool overwrite, device; /* device: a block device, which is written to as it is */
	const char *format;
	uint64_t size;
	struct disk *d; /* the writer */
	bool fresh; /* nothing was written: it reads as zeroes */
	uint64_t unflushed; /* bytes; the loop's */
	struct disk_req flush;
	struct disks_in *in;
};

struct disks_in {
	struct uv_loop_s *loop;
	uv_async_t async;
	bool has_async, keep;
	uv_poll_t answer; /* of the guard */
	uv_timer_t patience;
	unsigned handles; /* that are not closed yet */
	bool freed;
	void (*named)(void *ctx, const struct err *why);
	void *ctx;
	uint8_t code
		[MIG_DISKS_MAX]; /* an errno for each image that takes a file's place, in order; 0: it has */
	unsigned ncodes;
	struct image image[MIG_DISKS_MAX];
	const char *place[VM_MAX_DISKS]; /* `at`, by number in the definition */
	unsigned n;
	bool dry; /* nothing that was there before is written to */
	struct disk_stores stores;
	int guard;
	struct mig_unblock *unblock; /* the receiving thread's */

	unsigned flushing; /* the loop's */
	bool sealed;

	pthread_mutex_t lock; /* below */
	pthread_cond_t cond;
	struct job *first, **last;
	unsigned njobs; /* with those that the loop has taken */
	bool round, gone; /* round: somebody waits until all is durable */
	int rc;
	struct err e;
};

/* ---- the guard ---- */

static void drop_image(const struct image *m)
{
	uv_loop_t loop;

	if (m->at) {
		(void)unlink(m->at);
		return;
	}
	uv_loop_init(&loop);
	(void)disk_remove(m->format, m->path, &loop, NULL);
}

/* But what makes way: it is the last to close them, since to give back the room of a large file may take seconds. */
static void close_others(const struct disks_in *in)
{
	unsigned from = STDIN_FILENO + 1, next = 0;

	for (; next != ~0u; from = next + 1) {
		next = ~0u;
		for (unsigned i = 0; i < in->n; i++)
			if (in->image[i].old >= (int)from)
				next = MIN(next, (unsigned)in->image[i].old);
		if (next > from)
			close_range(from, next - 1, 0);
	}
}

/* Each image gets its name; how that went is said. */
static void guard_name(struct disks_in *in)
{
	for (unsigned i = 0; i < in->n; i++) {
		const struct image *m = &in->image[i];
		uint8_t code;

		if (!m->at)
			continue;
		code = rename(m->at, m->file) ? (uint8_t)errno : 0;
		(void)send(STDIN_FILENO, &code, 1, MSG_NOSIGNAL);
	}
	close(STDIN_FILENO); /* who waits need not wait for the rest */
	for (unsigned i = 0; i < in->n; i++)
		if (in->image[i].at)
			(void)fs_sync_parent(in->image[i].file, NULL);
}

static void guard_main(struct disks_in *in, int fd)
{
	bool made[MIG_DISKS_MAX] = {false}, keep = false;
	uint8_t c;
	ssize_t n;

	dup2(fd, STDIN_FILENO);
	close_others(in);
	setsid(); /* Ctrl-C in the terminal is not for us */
	prctl(PR_SET_NAME, "lodge-guard");
	while ((n = read(STDIN_FILENO, &c, 1)) == 1 || (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		if (c < in->n)
			made[c] = true;
		else
			keep = c != GUARD_DROP;
		if (c == GUARD_SETTLE)
			break;
	}
	for (unsigned i = 0; i < in->n && !keep; i++)
		if (made[i])
			drop_image(&in->image[i]);
	if (keep)
		guard_name(in);
	_exit(0); /* forked child */
}

/* Whose child it is matters to nobody: it outlives who made it. */
static int guard_start(struct disks_in *in, struct err *e)
{
	int fd[2], status;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		return err_sys(e, -errno, "receive");
	pid = fork();
	if (!pid) {
		if (fork())
			_exit(0); /* forked child */
		guard_main(in, fd[1]);
	}
	close(fd[1]);
	in->guard = fd[0];
	if (pid < 0)
		return err_sys(e, -errno, "receive: no process that clears up");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static void guard_tell(struct disks_in *in, uint8_t what)
{
	while (send(in->guard, &what, 1, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

/* ---- images ---- */

static const json_t *shape_of(const json_t *hello, const char *id)
{
	const json_t *list = json_object_get(hello, "disks"), *j;
	size_t i;

	json_array_foreach(list, i, j)
	{
		if (!strcmp(json_string_value(json_object_get(j, "id")) ?: "", id))
			return j;
	}
	return NULL;
}

static bool is_placed(const struct disks_in_opts *o, const char *id)
{
	size_t len = strlen(id);

	for (unsigned i = 0; i < o->nplaces; i++)
		if (!strncmp(o->places[i].text, id, len) && o->places[i].text[len] == '=')
			return true;
	return o->own;
}

/* A file that is there makes way in the end. What a device holds stays there, but for what is written to it. */
static int look_there(struct image *m)
{
	struct stat st;
	bool there = m->overwrite && !stat(m->path, &st);

	m->device = there && S_ISBLK(st.st_mode);
	m->fresh = !m->device;
	if (!there || !S_ISREG(st.st_mode))
		return 0;
	m->file = realpath(m->path, NULL); /* a link stays one */
	if (m->file && asprintf(&m->at, "%s.incoming", m->file) >= 0)
		return 0;
	m->at = NULL;
	return -ENOMEM;
}

static int no_way(const struct image *m, const char *why, struct err *e)
{
	return err_set(e, -EPERM,
		"disk %s: %s %s, so that no other file can take its place: name another one", m->id,
		m->file, why);
}

/* What can be known of it before the machine runs here: after that it would be too late. */
static int can_make_way(const struct image *m, struct err *e)
{
	struct statx x;
	char dir[PATH_MAX];
	struct stat st;

	if (!m->at)
		return 0;
	if (statx(AT_FDCWD, m->file, AT_SYMLINK_NOFOLLOW, STATX_UID, &x))
		return err_sys(e, -errno, "disk %s: %s", m->id, m->file);
	if (x.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		return no_way(m, "is mounted by itself", e);
	if (x.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
		return no_way(m, "has an attribute (chattr)", e);
	snprintf(dir, sizeof(dir), "%s", m->file);
	if (!stat(dirname(dir), &st) && st.st_mode & S_ISVTX && geteuid() &&
		st.st_uid != geteuid() && x.stx_uid != geteuid())
		return no_way(m, "is somebody else's, in a folder for all (sticky)", e);
	return 0;
}

static int plan(struct disks_in *in, const struct disks_in_opts *o, const char *id, struct err *e)
{
	struct image *m = &in->image[in->n];
	uint64_t size = 0;
	unsigned i = 0;
	int rc = json_want_u64(shape_of(o->hello, id), "hello", "size", true, &size, e);

	if (rc)
		return rc;
	if (!size || size % DISK_SECTOR)
		return err_set(e, -EBADMSG, "disk %.40s: a size of %llu bytes", id,
			(unsigned long long)size);
	for (; i < o->cfg->ndisks; i++) {
		vm_disk_id(o->cfg, i, m->id);
		if (!strcmp(m->id, id))
			break;
	}
	if (i == o->cfg->ndisks)
		return err_set(e, -EINVAL,
			"disk %.40s is to be copied: the definition here has none of this id", id);
	m->path = strdup(o->cfg->disks[i].file ?: "");
	m->format = vm_format_name(o->cfg->disks[i].format);
	m->overwrite = o->overwrite && is_placed(o, id);
	m->old = -1;
	m->size = size;
	m->in = in;
	in->n++;
	rc = m->path ? look_there(m) : -ENOMEM;
	in->place[i] = m->at;
	return rc ? err_set(e, rc, "receive: out of memory") : can_make_way(m, e);
}

static int there_already(const struct image *m, struct err *e)
{
	struct stat st;

	if (m->at)
		return err_set(e, -EEXIST,
			"disk %s: %s is there already: another machine is coming to this place, or "
			"one did not come before the host went down: then remove it; where it ran "
			"here by then it is its disk, and is to be renamed",
			m->id, m->at);
	if (m->overwrite && stat(m->path, &st))
		return err_set(e, -EEXIST,
			"disk %s: %s is there already, and a disk of a store is not overwritten, "
			"since it may have snapshots: lodge store rm, or another place: --disk "
			"%s=FILE:FORMAT",
			m->id, m->path, m->id);
	return err_set(e, -EEXIST,
		"disk %s: %s is there already: a machine that brings its disks along "
		"overwrites none: move it away, receive with --overwrite and --disk "
		"%s=FILE:FORMAT (or --config), or name another place",
		m->id, m->path, m->id);
}

/* Whose the old one was is its owner, if we may say so; nobody else may read what only he could. */
static int inherit(const struct image *m, struct err *e)
{
	cleanup(close_fd) int fd = open(m->at, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(m->old, &st) || (fchown(fd, st.st_uid, st.st_gid) && errno != EPERM) ||
		fchmod(fd, st.st_mode & 0777))
		return err_sys(e, -errno, "disk %s: %s", m->id, m->at);
	return 0;
}

static int hold_old(struct image *m, struct err *e)
{
	if (!m->at)
		return 0;
	m->old = open(m->file, O_RDWR | O_CLOEXEC);
	return m->old < 0 ? err_sys(e, -errno, "disk %s", m->path)
			  : disk_lock(m->old, m->path, true, e);
}

/* What takes a file's place is nobody else's until it is known who may read that. */
static int create(struct disks_in *in, const struct image *m, struct err *e)
{
	mode_t was = umask(0177);
	int rc;

	if (!m->at)
		umask(was);
	rc = disk_create(m->format,
		&(struct disk_create_opts){.path = m->at ?: m->path,
			.size = m->size,
			.loop = in->loop,
			.overwrite = m->device},
		e);
	umask(was);
	return rc;
}

static int make(struct disks_in *in, unsigned i, struct err *e)
{
	struct image *m = &in->image[i];
	int rc = 0;

	if (m->device && strcmp(m->format, "raw"))
		rc = err_set(e, -EOPNOTSUPP,
			"%s is a block device: what it holds would be lost before it is known "
			"whether the machine comes: receive to a file, or as raw",
			m->path);
	rc = rc ?: create(in, m, e);
	if (rc == -EEXIST)
		return there_already(m, e);
	if (rc)
		return err_wrap(e, "%s", m->id);
	guard_tell(in, (uint8_t)i);
	return m->at ? inherit(m, e) : 0;
}

int disks_in_create(struct disks_in **out, const struct disks_in_opts *o, struct err *e)
{
	json_t *copy = NULL;
	const json_t *j;
	struct disks_in *in;
	size_t i;
	int rc = json_want_array(o->hello, "hello", "copy", false, &copy, e);

	*out = NULL;
	if (rc || !json_array_size(copy))
		return rc;
	if (json_array_size(copy) > MIG_DISKS_MAX)
		return err_set(e, -EBADMSG, "hello: more than %u disks", MIG_DISKS_MAX);
	in = calloc(1, sizeof(*in));
	if (!in)
		return err_set(e, -ENOMEM, "receive: out of memory");
	in->loop = o->loop;
	in->guard = -1;
	in->dry = json_is_true(json_object_get(o->hello, "dry_run"));
	in->last = &in->first;
	pthread_mutex_init(&in->lock, NULL);
	pthread_cond_init(&in->cond, NULL);
	rc = mig_unblock_create(&in->unblock, e);
	json_array_foreach(copy, i, j)
	{
		rc = rc ?: plan(in, o, json_string_value(j) ?: "", e);
	}
	for (unsigned k = 0; !rc && k < in->n; k++)
		rc = hold_old(&in->image[k], e);
	rc = rc ?: guard_start(in, e);
	for (unsigned k = 0; !rc && k < in->n; k++)
		rc = make(in, k, e);
	if (rc) {
		disks_in_free(in);
		return rc;
	}
	*out = in;
	return 0;
}

const char *const *disks_in_at(const struct disks_in *in)
{
	return in ? in->place : NULL;
}

/* ---- the loop's side ---- */

static void fail(struct disks_in *in, int rc, const struct err *e)
{
	pthread_mutex_lock(&in->lock);
	if (!in->rc) {
		in->rc = rc;
		in->e = *e;
	}
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->lock);
}

static void advance(struct disks_in *in);

static void flushed(struct disk_req *r)
{
	struct image *m = container_of(r, struct image, flush);
	struct err e = {0};

	m->in->flushing--;
	if (r->result) {
		err_sys(&e, r->result, "disk %s (%s): flush", m->id, m->path);
		fail(m->in, r->result, &e);
	}
	m->flush.done = NULL;
	advance(m->in);
}

static void start_flush(struct image *m)
{
	if (m->flush.done)
		return; /* one is on its way */
	m->unflushed = 0;
	m->in->flushing++;
	m->flush = (struct disk_req){.op = DISK_FLUSH, .done = flushed};
	disk_submit(m->d, &m->flush);
}

/* Is a round over? What was written is flushed once more when nothing is on its way. */
static void advance(struct disks_in *in)
{
	bool ready;

	pthread_mutex_lock(&in->lock);
	ready = in->round && !in->njobs && !in->flushing && !in->gone && !in->rc;
	pthread_mutex_unlock(&in->lock);
	if (!ready)
		return;
	for (unsigned i = 0; i < in->n && !in->sealed; i++)
		if (in->image[i].unflushed)
			start_flush(&in->image[i]);
	in->sealed = true;
	if (in->flushing)
		return;
	in->sealed = false;
	pthread_mutex_lock(&in->lock);
	in->round = false;
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->lock);
}

static void free_job(struct job *j)
{
	free(j->payload);
	free(j->data);
	free(j);
}

static void end_job(struct job *j)
{
	struct disks_in *in = j->in;

	free_job(j);
	pthread_mutex_lock(&in->lock);
	in->njobs--;
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->lock);
	advance(in);
}

static void written(struct disk_req *r)
{
	struct part *p = container_of(r, struct part, r);
	struct job *j = p->job;
	struct image *m = &j->in->image[p->disk];
	struct err e = {0};

	if (r->result) {
		err_sys(&e, r->result, "disk %s (%s): %s of %llu bytes at %llu", m->id, m->path,
			disk_op_name(r->op), (unsigned long long)r->len,
			(unsigned long long)r->offset);
		fail(j->in, r->result, &e);
	}
	m->unflushed += r->len;
	if (m->unflushed >= FLUSH_EVERY)
		start_flush(m);
	if (!--j->left)
		end_job(j);
}

static void on_async(uv_async_t *a)
{
	struct disks_in *in = container_of(a, struct disks_in, async);
	struct job *j, *next;

	pthread_mutex_lock(&in->lock);
	j = in->first;
	in->first = NULL;
	in->last = &in->first;
	pthread_mutex_unlock(&in->lock);
	for (; j; j = next) {
		next = j->next;
		for (unsigned i = 0, n = j->n; i < n; i++) /* `done` comes later */
			disk_submit(in->image[j->part[i].disk].d, &j->part[i].r);
	}
	advance(in);
}

int disks_in_open(struct disks_in *in, struct err *e)
{
	int rc = 0;

	if (!in)
		return 0;
	if (uv_async_init(in->loop, &in->async, on_async))
		return err_set(e, -ENOMEM, "receive: out of memory");
	in->has_async = true;
	in->handles++;
	uv_unref((uv_handle_t *)&in->async);
	for (unsigned i = 0; !rc && i < in->n; i++) {
		rc = disk_open(&in->image[i].d,
			&(struct disk_opts){.path = in->image[i].path,
				.at = in->image[i].at,
				.format = in->image[i].format,
				.discard = true,
				.loop = in->loop,
				.stores = &in->stores},
			e);
		if (rc)
			err_wrap(e, "%s", in->image[i].id);
	}
	return rc;
}

int disks_in_sleep(struct disks_in *in, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; in && !rc && i < in->n; i++)
		rc = disk_sleep(in->image[i].d, e);
	return rc;
}

/* ---- the receiver's side ---- */

/* How many records, and whether they can be. */
static int look(struct disks_in *in, const void *payload, uint32_t len, unsigned *n, uint64_t *data,
	struct err *e)
{
	struct mig_block b;
	uint32_t at = 0;
	int rc;

	*n = 0;
	*data = 0;
	while ((rc = mig_block_next(payload, len, &at, &b, e)) > 0) {
		if (b.disk >= in->n || b.off + b.len > in->image[b.disk].size)
			return err_set(e, -EBADMSG,
				"the stream is damaged: disk %u at %llu, %llu bytes", b.disk,
				(unsigned long long)b.off, (unsigned long long)b.len);
		++*n;
		*data += b.kind == MIG_ZSTD ? b.len : 0;
	}
	if (!rc && (*n > MIG_BLOCK_RECORDS || *data > MIG_PIECE))
		rc = err_set(e, -EBADMSG, "the stream is damaged: too much at once");
	return rc;
}

static int fill(struct disks_in *in, struct job *j, uint32_t len, struct err *e)
{
	struct mig_block b;
	uint8_t *to = j->data;
	uint32_t at = 0;
	int rc = 0;

	while (!rc && mig_block_next(j->payload, len, &at, &b, NULL) > 0) {
		struct part *p = &j->part[j->n];

		if ((b.kind == MIG_ZERO && in->image[b.disk].fresh) ||
			(in->dry && in->image[b.disk].device))
			continue;
		p->job = j;
		p->disk = b.disk;
		p->r = (struct disk_req){.op = b.kind == MIG_ZERO ? DISK_WRITE_ZEROES : DISK_WRITE,
			.unmap = true,
			.offset = b.off,
			.len = b.len,
			.iov = &p->iov,
			.niov = 1,
			.done = written};
		p->iov = (struct iovec){(void *)(uintptr_t)b.data, b.len};
		if (b.kind == MIG_ZSTD) {
			rc = mig_block_get(in->unblock, &b, to, e);
			p->iov.iov_base = to;
			to += b.len;
		}
		j->n++;
	}
	j->left = j->n;
	return rc;
}

/* Its turn comes when few others are on their way. */
static int enqueue(struct disks_in *in, struct job *j, struct err *e)
{
	int rc;

	pthread_mutex_lock(&in->lock);
	while (in->njobs >= JOBS && !in->rc && !in->gone)
		pthread_cond_wait(&in->cond, &in->lock);
	rc = in->gone ? err_set(e, -ECANCELED, "cancelled") : in->rc;
	if (in->rc && !in->gone)
		*e = in->e;
	if (!rc) {
		in->njobs++;
		*in->last = j;
		in->last = &j->next;
	}
	pthread_mutex_unlock(&in->lock);
	if (!rc)
		uv_async_send(&in->async);
	return rc;
}

int disks_in_take(struct disks_in *in, void *payload, uint32_t len, struct err *e)
{
	struct job *j = NULL;
	uint64_t data;
	unsigned n;
	int rc = look(in, payload, len, &n, &data, e);

	if (!rc) {
		j = calloc(1, sizeof(*j) + n * sizeof(j->part[0]));
		if (!j || (data && !(j->data = malloc(data))))
			rc = err_set(e, -ENOMEM, "receive: out of memory");
	}
	if (!j) {
		free(payload);
		return rc;
	}
	j->in = in;
	j->payload = payload;
	rc = rc ?: fill(in, j, len, e);
	if (!rc && j->n)
		rc = enqueue(in, j, e);
	if (rc || !j->n)
		free_job(j);
	return rc;
}

int disks_in_round(struct disks_in *in, struct err *e)
{
	int rc;

	pthread_mutex_lock(&in->lock);
	in->round = true;
	uv_async_send(&in->async);
	while (in->round && !in->rc && !in->gone)
		pthread_cond_wait(&in->cond, &in->lock);
	rc = in->gone ? err_set(e, -ECANCELED, "cancelled") : in->rc;
	if (in->rc && !in->gone)
		*e = in->e;
	pthread_mutex_unlock(&in->lock);
	for (unsigned i = 0; i < in->n; i++)
		in->image[i].fresh = false;
	return rc;
}

void disks_in_cancel(struct disks_in *in)
{
	if (!in)
		return;
	pthread_mutex_lock(&in->lock);
	in->gone = true;
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->lock);
}

/* ---- the end ---- */

void disks_in_keep(struct disks_in *in, bool keep)
{
	if (!in)
		return;
	in->keep = keep;
	guard_tell(in, keep ? GUARD_KEEP : GUARD_DROP);
}

static void let_old_go(struct disks_in *in)
{
	for (unsigned i = 0; i < in->n; i++) {
		if (in->image[i].old >= 0)
			close(in->image[i].old);
		in->image[i].old = -1;
	}
}

void disks_in_settle(struct disks_in *in)
{
	if (!in)
		return;
	let_old_go(in); /* the guard is to be the last */
	guard_tell(in, GUARD_SETTLE);
}

static void forget(struct disks_in *in)
{
	pthread_cond_destroy(&in->cond);
	pthread_mutex_destroy(&in->lock);
	free(in);
}

static void closed(uv_handle_t *h)
{
	struct disks_in *in = h->data;

	if (!--in->handles && in->freed)
		forget(in);
}

static void close_handle(struct disks_in *in, uv_handle_t *h)
{
	h->data = in;
	uv_close(h, closed);
}

static void close_files(struct disks_in *in)
{
	struct job *j, *next;

	/* A round that nobody waits for any more must not go on: what ends at one disk would begin a flush of another, which is closed. */
	disks_in_cancel(in);
	for (unsigned i = 0; i < in->n; i++)
		if (in->image[i].d)
			disk_drain(in->image[i].d);
	for (unsigned i = 0; i < in->n; i++)
		disk_close(steal_ptr(in->image[i].d));
	for (j = steal_ptr(in->first); j; j = next) {
		next = j->next;
		free_job(j);
	}
	disk_stores_clear(&in->stores);
	mig_unblock_free(steal_ptr(in->unblock));
	if (in->has_async)
		close_handle(in, (uv_handle_t *)&in->async);
	in->has_async = false;
	let_old_go(in);
	if (in->guard >= 0)
		shutdown(in->guard, SHUT_WR);
}

static bool makes_way(const struct disks_in *in)
{
	for (unsigned i = 0; i < in->n; i++)
		if (in->image[i].at)
			return true;
	return false;
}

/* ---- the names ---- */

static void close_answer(struct disks_in *in)
{
	if (in->named) {
		close_handle(in, (uv_handle_t *)&in->answer);
		close_handle(in, (uv_handle_t *)&in->patience);
	}
	in->named = NULL;
}

/* The first that has not got its name. */
static int names(const struct disks_in *in, struct err *e)
{
	unsigned k = 0;

	for (unsigned i = 0; i < in->n; i++) {
		const struct image *m = &in->image[i];

		if (!m->at || (k < in->ncodes && !in->code[k++]))
			continue;
		return err_set(e, -EIO,
			"disk %s: its image is %s, which could not take the place of %s (%s): when "
			"this machine has ended, and before it is started again, do that by hand",
			m->id, m->at, m->file,
			k <= in->ncodes && k ? strerrordesc_np(in->code[k - 1]) ?: "?"
					     : "who was to do it does not answer");
	}
	return 0;
}

static void end_names(struct disks_in *in)
{
	void (*named)(void *ctx, const struct err *why) = in->named;
	struct err e = {0};

	close_answer(in);
	close(in->guard);
	in->guard = -1;
	named(in->ctx, names(in, &e) ? &e : NULL);
}

static void on_answer(uv_poll_t *h, int status, int events)
{
	struct disks_in *in = h->data;
	ssize_t n = recv(
		in->guard, in->code + in->ncodes, sizeof(in->code) - in->ncodes, MSG_DONTWAIT);

	if (n > 0)
		in->ncodes += (unsigned)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		end_names(in);
}

static void on_patience(uv_timer_t *h)
{
	end_names(h->data);
}

void disks_in_end(struct disks_in *in, void (*named)(void *ctx, const struct err *why), void *ctx)
{
	close_files(in);
	in->ctx = ctx;
	if (!makes_way(in) || uv_poll_init(in->loop, &in->answer, in->guard)) {
		named(ctx, NULL);
		return;
	}
	in->named = named;
	uv_timer_init(in->loop, &in->patience);
	uv_update_time(in->loop); /* closing may have taken a while */
	in->answer.data = in->patience.data = in;
	in->handles += 2;
	uv_poll_start(&in->answer, UV_READABLE, on_answer);
	uv_timer_start(&in->patience, on_patience, GUARD_MS, 0);
}

static void wait_for_guard(const struct disks_in *in)
{
	uint64_t end = clock_mono_ns() + GUARD_MS * 1000000ull, now;
	struct pollfd p = {in->guard, POLLIN, 0};
	uint8_t code;

	while ((now = clock_mono_ns()) < end && poll(&p, 1, (int)((end - now) / 1000000)) > 0 &&
		recv(in->guard, &code, 1, 0) > 0)
		;
}

void disks_in_free(struct disks_in *in)
{
	if (!in)
		return;
	close_files(in);
	close_answer(in);
	if (in->guard >= 0) {
		if (!in->keep || makes_way(in))
			wait_for_guard(in);
		close(in->guard);
	}
	for (unsigned i = 0; i < in->n; i++) {
		free(in->image[i].path);
		free(in->image[i].file);
		free(in->image[i].at);
	}
	in->freed = true;
	if (!in->handles)
		forget(in);
}
