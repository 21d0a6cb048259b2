/* disk.c: disks of a store: opening, reading, flushing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

static const struct disk_key open_keys[] = {
	{"commit", "batch|flush",
		"when the journal has a write: before it is acknowledged, or at the next flush and "
		"within a second (flush)"},
	{"metadata", "4M..4G", "memory for pages of pointers (64M)", .once = true},
	{"sorter", "on|off", "off: a transaction for each block, to compare with"},
	{"fence", "NUMBER", "opens only if no newer fencing number was given out", .once = true},
	{"take", "on|off", "takes the store away from another host that holds it", .once = true},
	{"snapshot", "NAME", "what the disk held then, by name or id; readonly"},
	{0},
};

/* ---- open, close ---- */

static int take_keys(struct lf_disk *l, struct lf_open *o, bool *one_by_one, struct err *e)
{
	struct disk *d = l->d;
	bool sorter = true, take = false;
	uint64_t memory = LF_PAGES_IN * LF_PAGE;
	const char *fence = disk_kv_get(d->o.kv, "fence"), *when = disk_kv_get(d->o.kv, "commit");
	char *end = NULL;
	int rc = disk_kv_bool(d->o.kv, "sorter", &sorter, e);

	rc = rc ?: disk_kv_bool(d->o.kv, "take", &take, e);
	rc = rc
		     ?: disk_kv_size(d->o.kv, "metadata", LF_PAGES_LEAST * LF_PAGE, 4 * GiB, false,
				&memory, e);
	o->pages = memory / LF_PAGE;
	if (!rc && fence) {
		errno = 0;
		o->fence = strtoull(fence, &end, 10);
		if (errno || *end || !o->fence || *fence == '-')
			return err_set(e, -EINVAL, "fence: '%s' is not a number above 0", fence);
	}
	if (!rc && when && strcmp(when, "batch") && strcmp(when, "flush"))
		rc = err_set(e, -EINVAL, "commit: '%s' is neither batch nor flush", when);
	*one_by_one = !sorter;
	l->late = sorter && (!when || !strcmp(when, "flush"));
	o->flags |= take ? LF_O_TAKE : 0;
	return rc;
}

/* A disk below another one (as a backing file) has the files of that one. */
static int open_store(struct lf_disk *l, const struct lf_open *o, struct err *e)
{
	struct disk *d = l->d;
	struct lf_env env = {d->o.loop, d->o.io, d->o.open_file, d->o.open_ctx, d->o.stores};
	int rc;

	if (d->depth)
		return lf_open(&l->fs, d->files, o, e);
	rc = lf_get(&l->fs, &env, o, e);
	if (rc)
		return rc;
	l->shared = true;
	d->files = l->fs->own_files;
	return 0;
}

/* snapshot: NULL, or what of the disk is read. */
static int find_disk(struct lf_disk *l, const char *name, const char *snapshot, struct err *e)
{
	struct lf *fs = l->fs;

	l->rec = lf_rec_find(fs, LF_DISK, 0, name);
	if (!l->rec)
		return lf_no_disk(fs, name, e);
	if (snapshot && !l->d->o.readonly)
		return err_set(e, -EROFS, "disk %s: a snapshot is only read", l->d->o.path);
	if (snapshot)
		l->rec = lf_snapshot_find(fs, l->rec->id, snapshot);
	if (!l->rec)
		return err_set(
			e, -ENOENT, "disk %s: there is no snapshot %s", l->d->o.path, snapshot);
	for (const struct lf_disk *o = fs->disks; o; o = o->next)
		if (o->rec == l->rec && (!o->d->o.readonly || !l->d->o.readonly))
			return err_set(e, -EBUSY,
				"disk %s: is open here already: one may write, or any number read",
				l->d->o.path);
	return 0;
}

static int lf_disk_open(struct disk *d, struct err *e)
{
	struct lf_disk *l = calloc(1, sizeof(*l));
	cleanup(free_ptr) char *store = NULL;
	struct lf_open o = {.direct = d->o.cache == DISK_CACHE_NONE};
	const char *name, *snapshot = disk_kv_get(d->o.kv, "snapshot");
	bool one_by_one = false;
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	d->priv = l;
	l->d = d;
	rc = lf_split(d->o.path, &store, &name, e);
	if (!rc)
		rc = take_keys(l, &o, &one_by_one, e);
	if (rc)
		return rc;
	o.path = store;
	o.flags |= (d->o.readonly ? 0 : LF_O_WRITE) | (d->o.discard ? LF_O_DISCARD : 0);
	rc = open_store(l, &o, e);
	if (!rc)
		rc = find_disk(l, name, snapshot, e);
	if (rc)
		return rc;
	lf_disk_list(l);
	l->track = lf_track_of(l->fs, l->rec);
	d->size = l->rec->size;
	d->physical = LF_SUB;
	d->can_discard = d->o.discard && !d->o.readonly;
	return d->o.readonly ? 0 : lf_writer_create(l, one_by_one, e);
}

static int lf_disk_close(struct disk *d)
{
	struct lf_disk *l = d->priv;
	int lost;

	if (!l)
		return 0;
	sorter_destroy(l->sorter);
	if (l->fs)
		lf_disk_unlist(l);
	if (l->shared) {
		lost = lf_put(l->fs);
		d->files = d->own_files;
	} else {
		lost = lf_close(l->fs);
	}
	lost = lost ?: l->lost;
	free(l);
	return lost;
}

/* ---- reading ---- */

uint64_t lf_map(struct lf *fs, const struct lf_record *r, uint64_t off, uint64_t len,
	uint64_t *addr, bool *own)
{
	uint64_t in = off % LF_BLOCK, n, first = 0;
	const struct lf_entry *x = lf_find(fs, r, off / LF_BLOCK, own);
	unsigned i = (unsigned)(in / LF_SUB);

	len = MIN(len, LF_BLOCK - in);
	*addr = 0;
	if (!x)
		return len;
	for (n = 0; n < len; i++) {
		uint32_t b = lf_bit(x->own_valid, i)	? x->own
			     : lf_bit(x->base_valid, i) ? x->base
							: 0;

		if (n && b != first)
			break;
		first = b;
		n = MIN(len, (i + 1ull) * LF_SUB - in);
	}
	*addr = first ? lf_block_at(fs, first - 1) + in : 0;
	return n;
}

/* A request is done. What was read is let go. */
static void req_end(struct disk_req *r, int rc, bool soon)
{
	struct lf_disk *l = r->disk->priv;

	if (r->op == DISK_READ && l->sorter)
		sorter_leave(l->sorter, r->cookie);
	if (soon)
		disk_done_soon(r, rc);
	else
		disk_done(r, rc);
}

/* A request that waits in the middle. */
struct running {
	struct lf_disk *l;
	struct disk_req *r;
	int (*fn)(struct lf_disk *l, const struct disk_req *r);
	int rc;
	bool in_submit;
};

static void run_job(void *arg)
{
	struct running *x = arg;

	x->rc = x->fn(x->l, x->r);
}

static void run_after(void *arg)
{
	struct running x = *(struct running *)arg;

	x.l->fs->jobs--;
	free(arg);
	req_end(x.r, x.rc, x.in_submit);
}

static void run(struct lf_disk *l, struct disk_req *r,
	int (*fn)(struct lf_disk *l, const struct disk_req *r))
{
	struct running *x = calloc(1, sizeof(*x));
	unsigned jobs = l->fs->jobs;

	if (!x) {
		req_end(r, -ENOMEM, true);
		return;
	}
	*x = (struct running){.l = l, .r = r, .fn = fn, .rc = -ENOMEM, .in_submit = true};
	l->fs->jobs++;
	lf_start_job(l->fs, run_job, run_after, x);
	if (l->fs->jobs > jobs) /* it waits: `x` is alive */
		x->in_submit = false;
}

struct piece {
	struct file_req req;
	struct reading *of;
	struct piece *next;
	struct iovec iov[];
};

/* A request of several pieces. */
struct reading {
	struct disk_req *r;
	struct piece *piece;
	unsigned left;
	int rc;
	bool in_submit;
};

static void one_done(struct file_req *f)
{
	req_end(container_of(f, struct disk_req, file), f->result, false);
}

static void part_done(struct reading *j, int rc)
{
	struct disk_req *r = j->r;
	bool soon = j->in_submit;

	if (rc && !j->rc)
		j->rc = rc;
	if (--j->left)
		return;
	rc = j->rc;
	for (struct piece *p = j->piece, *next; p; p = next) {
		next = p->next;
		free(p);
	}
	free(j);
	req_end(r, rc, soon);
}

static void piece_done(struct file_req *f)
{
	part_done(container_of(f, struct piece, req)->of, f->result);
}

static int read_piece(struct lf *fs, struct reading *j, uint64_t at, uint64_t len, uint64_t addr)
{
	const struct disk_req *r = j->r;
	struct piece *p = calloc(1, sizeof(*p) + r->niov * sizeof(p->iov[0]));

	if (!p)
		return -ENOMEM;
	p->of = j;
	p->next = j->piece;
	j->piece = p;
	p->req = (struct file_req){
		.op = FILE_READ, .off = addr, .len = len, .iov = p->iov, .done = piece_done};
	p->req.niov = iov_slice(p->iov, r->niov, r->iov, r->niov, at, len);
	j->left++;
	file_submit(fs->f, &p->req);
	return 0;
}

static void read_many(struct lf_disk *l, struct disk_req *r)
{
	struct reading *j = calloc(1, sizeof(*j));
	uint64_t at = 0;
	int rc = 0;

	if (!j) {
		req_end(r, -ENOMEM, true);
		return;
	}
	*j = (struct reading){.r = r, .left = 1, .in_submit = true};
	while (at < r->len && !rc) {
		uint64_t addr, n, more, next;
		bool own;

		n = lf_map(l->fs, l->rec, r->offset + at, r->len - at, &addr, &own);
		/* What goes on in the file is one transfer. */
		while (addr && at + n < r->len) {
			more = lf_map(
				l->fs, l->rec, r->offset + at + n, r->len - at - n, &next, &own);
			if (next != addr + n)
				break;
			n += more;
		}
		if (addr)
			rc = read_piece(l->fs, j, at, n, addr);
		else
			iov_zero(r->iov, r->niov, at, n);
		at += n;
	}
	if (j->left > 1) { /* else part_done() frees it */
		j->in_submit = false;
		part_done(j, rc);
	} else {
		part_done(j, rc);
	}
}

/* ---- reading what has checksums, or what it is not known yet where it is ---- */

#define TRIES \
	3u /* a read that meets a write of the same place may see neither the old nor the new whole */
#define AT_ONCE MiB

struct extent {
	uint64_t addr, at, len; /* at: in the buffer */
};

/* [from, from + len) of the disk, whole sub-blocks, as it is now. Waits. -EBADMSG: does not fit. */
static int read_once(struct lf_disk *l, uint64_t from, uint64_t len, uint8_t *buf)
{
	struct extent x[AT_ONCE / LF_SUB + 1];
	struct lf_wait w = {.fs = l->fs};
	cleanup(free_ptr) struct lf_xfer *xfer = NULL;
	unsigned n = 0;
	uint64_t bad;
	int rc;

	for (uint64_t at = 0, some; at < len; at += some) {
		bool own;

		rc = lf_bring(l->fs, l->rec, (from + at) / LF_BLOCK);
		if (rc)
			return rc;
		some = lf_map(l->fs, l->rec, from + at, len - at, &x[n].addr, &own);
		x[n].at = at;
		x[n].len = some;
		if (x[n].addr)
			n++;
		else
			memset(buf + at, 0, some);
	}
	xfer = calloc(MAX(n, 1u), sizeof(*xfer));
	if (!xfer)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		lf_start(&w, &xfer[i], FILE_READ, x[i].addr, buf + x[i].at, x[i].len);
	rc = lf_wait_all(&w);
	for (unsigned i = 0; i < n && !rc && l->fs->sums; i++)
		rc = lf_sums_verify(l->fs, x[i].addr, buf + x[i].at, x[i].len, &bad);
	return rc;
}

static int read_waiting(struct lf_disk *l, const struct disk_req *r)
{
	cleanup(free_ptr) uint8_t *buf = NULL;
	int rc = posix_memalign((void **)&buf, LF_PAGE, AT_ONCE) ? -ENOMEM : 0;

	for (uint64_t at = 0, n; at < r->len && !rc; at += n) {
		uint64_t from = align_down(r->offset + at, LF_SUB), skip = r->offset + at - from;

		n = MIN(r->len - at, AT_ONCE - skip);
		for (unsigned try = 0; try < TRIES; try++) {
			rc = read_once(l, from, align_up(skip + n, LF_SUB), buf);
			if (rc != -EBADMSG)
				break;
		}
		if (!rc)
			iov_write(r->iov, r->niov, at, buf + skip, n);
	}
	l->fs->stats.sum_errors += rc == -EBADMSG;
	return rc == -EBADMSG ? -EIO : rc;
}

static bool all_here(const struct lf_disk *l, uint64_t off, uint64_t len)
{
	for (uint64_t mib = off / LF_BLOCK; mib <= (off + len - 1) / LF_BLOCK; mib++)
		if (!lf_here(l->fs, l->rec, mib))
			return false;
	return true;
}

static void submit_read(struct lf_disk *l, struct disk_req *r)
{
	uint64_t addr, n;
	bool own;

	if (l->sorter)
		r->cookie = sorter_enter(l->sorter);
	if (l->fs->sums || !all_here(l, r->offset, r->len)) {
		run(l, r, read_waiting);
		return;
	}
	n = lf_map(l->fs, l->rec, r->offset, r->len, &addr, &own);
	if (n < r->len || !addr) {
		read_many(l, r);
		return;
	}
	r->file = (struct file_req){.op = FILE_READ,
		.off = addr,
		.len = n,
		.iov = r->iov,
		.niov = r->niov,
		.done = one_done};
	file_submit(l->fs->f, &r->file);
}

/* ---- writing in place, which needs nobody's help ---- */

static void in_place_done(struct file_req *f)
{
	struct disk_req *r = container_of(f, struct disk_req, file);
	struct lf_disk *l = r->disk->priv;

	sorter_bypassed(l->sorter, r->offset, r->len);
	sorter_leave(l->sorter, r->cookie);
	disk_done(r, f->result);
}

/* Does all of it have its place already, in one piece that nobody else refers to, and no metadata to be seen to? */
static bool in_place(struct lf_disk *l, const struct disk_req *r, uint64_t *addr)
{
	struct lf *fs = l->fs;

	if (r->op != DISK_WRITE || r->nranges || l->track || fs->sums || l->rec->nranges ||
		!all_here(l, r->offset, r->len))
		return false;
	for (uint64_t n = 0, at, some; n < r->len; n += some) {
		bool own;

		some = lf_map(fs, l->rec, r->offset + n, r->len - n, &at, &own);
		if (!at || !own || (n && at != *addr + n) ||
			!lf_alone(fs, (uint32_t)((at - fs->s.data_at) / LF_BLOCK + 1)))
			return false;
		*addr = n ? *addr : at;
	}
	return !lf_overwrites(fs, *addr, r->len) && sorter_bypass(l->sorter, r->offset, r->len);
}

static void submit_write(struct lf_disk *l, struct disk_req *r)
{
	uint64_t addr = 0;

	if (!in_place(l, r, &addr)) {
		sorter_submit(l->sorter, r);
		return;
	}
	r->cookie = sorter_enter(l->sorter);
	r->file = (struct file_req){.op = FILE_WRITE,
		.off = addr,
		.len = r->len,
		.iov = r->iov,
		.niov = r->niov,
		.done = in_place_done};
	file_submit(l->fs->f, &r->file);
}

/* ---- flushing ---- */

static int flush_now(struct lf_disk *l, const struct disk_req *r)
{
	int rc = lf_flush(l->fs) ?: l->fs->failed;

	(void)r;
	if (rc)
		return rc;
	rc = l->lost;
	l->lost = 0;
	return rc;
}

static void lf_submit(struct disk *d, struct disk_req *r)
{
	struct lf_disk *l = d->priv;

	if (!l->fs->f) /* see promote() */
		disk_done_soon(r, -ESTALE);
	else if (l->fs->failed && r->op != DISK_READ) {
		/* Not even what would change nothing: what is in memory is not what is in the store. */
		if (!lf_park(l->fs, r))
			disk_done_soon(r, l->fs->failed);
	} else if (r->op == DISK_READ)
		submit_read(l, r);
	else if (r->op == DISK_FLUSH)
		run(l, r, flush_now);
	else
		submit_write(l, r);
}

static void lf_kick(struct disk *d)
{
	struct lf_disk *l = d->priv;

	if (!l || !l->fs)
		return;
	lf_unpark(l->fs);
	if (l->sorter)
		sorter_kick(l->sorter);
}

/* ---- what it is ---- */

static const void *lf_store(const struct disk *d)
{
	return ((struct lf_disk *)d->priv)->fs;
}

#define LOOK_MAX GiB /* of what a machine's disk answers at once */

/* 1: it is known where that lies. 0: not now, and a machine goes on meanwhile. */
static int known(struct lf_disk *l, uint64_t off)
{
	int rc = l->d->o.offline ? lf_bring(l->fs, l->rec, off / LF_BLOCK) : 0;

	return rc ?: lf_here(l->fs, l->rec, off / LF_BLOCK);
}

static int lf_block_status(
	struct disk *d, uint64_t off, uint64_t len, struct disk_extent *out, struct err *e)
{
	struct lf_disk *l = d->priv;
	uint64_t addr, n, next;
	bool own;
	int rc = known(l, off);

	if (rc < 0)
		return lf_fail(l->fs, rc, e);
	if (!d->o.offline)
		len = MIN(len, LOOK_MAX);
	if (!rc) { /* who reads it brings the page, and then it is known */
		*out = (struct disk_extent){.offset = off,
			.len = MIN(len, LF_BLOCK - off % LF_BLOCK),
			.flags = DISK_EXT_HERE | DISK_EXT_DATA};
		return 0;
	}
	n = lf_map(l->fs, l->rec, off, len, &addr, &own);
	while (n < len && known(l, off + n) > 0) {
		uint64_t more = lf_map(l->fs, l->rec, off + n, len - n, &next, &own);

		if (addr ? next != addr + n : next != 0)
			break;
		n += more;
	}
	*out = (struct disk_extent){.offset = off,
		.len = n,
		.flags = DISK_EXT_HERE | (addr ? DISK_EXT_DATA | DISK_EXT_PLACE : 0u),
		.file = l->fs->f,
		.addr = addr};
	return 0;
}

static int lf_info(struct disk *d, json_t *obj, struct err *e)
{
	struct lf_disk *l = d->priv;
	const struct lf *fs = l->fs;

	(void)e;
	json_object_set_new(obj, "store", json_text(fs->path));
	json_object_set_new(obj, "block_size", json_integer(LF_BLOCK));
	json_object_set_new(obj, "sub_block_size", json_integer(LF_SUB));
	json_object_set_new(obj, "generation", json_integer((json_int_t)l->rec->generation));
	json_object_set_new(obj, "tracked", json_boolean(l->track));
	json_object_set_new(obj, "fence", json_integer((json_int_t)fs->fence));
	return 0;
}

static void lf_stats_json(struct disk *d, json_t *obj)
{
	struct lf_disk *l = d->priv;
	const struct lf_stats *s = &l->fs->stats;
	struct sorter_stats w = {0};

	if (l->sorter)
		sorter_stats(l->sorter, &w);
	const struct {
		const char *name;
		uint64_t v;
	} all[] = {{"logical_transactions", w.logical}, {"physical_transactions", w.physical},
		{"plain_elements", w.plain}, {"meta_elements", w.meta},
		{"data_writes", w.data_writes}, {"data_bytes", w.data_bytes},
		{"fill_bytes", w.fill_bytes}, {"transactions", s->transactions},
		{"journal_bytes", s->journal_bytes}, {"marks", s->marks},
		{"checkpoints", s->checkpoints}, {"flushes", s->flushes},
		{"page_writes", s->page_writes}, {"replayed", s->replayed}, {"dropped", s->dropped},
		{"pages_in_memory", l->fs->pages_in}, {"pages_max", l->fs->pages_max},
		{"page_reads", s->page_reads}, {"page_looks", s->page_looks},
		{"checksum_errors", s->sum_errors}, {"without_checksum", l->fs->sums_wrote},
		{"unwritten_pages", l->fs->ntouch}, {"zeroes_ahead", s->ahead_bytes},
		{"room_bytes", s->room_bytes}, {"error", (uint64_t)-l->fs->failed}};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		json_object_set_new(obj, all[i].name, json_integer((json_int_t)all[i].v));
}

const struct disk_format disk_lodgefs = {
	.name = "lodgefs",
	.help = "a disk in a store of Lodge's own, named STORE/NAME",
	.create_keys = lf_disk_keys,
	.open_keys = open_keys,
	.open = lf_disk_open,
	.close = lf_disk_close,
	.submit = lf_submit,
	.kick = lf_kick,
	.create = lf_disk_create,
	.measure = lf_disk_measure,
	.resize = lf_resize,
	.block_status = lf_block_status,
	.snapshot = lf_snapshot,
	.store = lf_store,
	.snapshot_all = lf_snapshot_all,
	.snapshots = lf_snapshots,
	.bitmap = lf_bitmap,
	.bitmaps = lf_bitmaps,
	.bitmap_status = lf_bitmap_status,
	.bitmap_merge = lf_bitmap_merge,
	.generation = lf_generation,
	.changed = lf_changed,
	.info = lf_info,
	.stats = lf_stats_json,
	.scattered = true,
};
