/*
 * restore.c: a machine goes on from a container: RAM is mapped from it, not read.
 */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "vm/internal.h"
#include "vm/snapshot/file.h"
#include "vm/snapshot/fits.h"
#include "vm/snapshot/restore.h"
#include "vm/snapshot/snapshot.h"

/* Pages that are not in the file but between two that are near each other are mapped with them: holes read as zero as well. */
#define MAP_GAP 4096u /* pages */

struct piece {
	void *at;
	size_t len;
};

struct vm_restored {
	struct piece *set; /* the working set, in the order of its first use */
	size_t nset;
	pthread_t thread;
	bool started;
	_Atomic bool stop;
	_Atomic uint64_t prefetched; /* bytes */
};

/* ---- does it fit ---- */

static int fits_ram(struct vm *vm, const struct snapfile *s, struct err *e)
{
	const struct space_ram *ram;
	unsigned i = 0;

	for (; (ram = space_ram(vm->board->space, i)); i++)
		if (i >= s->nranges || s->range[i].gpa != ram->base.v ||
			s->range[i].len != ram->len)
			break;
	if (ram || i != s->nranges)
		return err_set(e, -EINVAL,
			"restore: this machine's memory is not laid out as that of the snapshot");
	return 0;
}

static int fits(struct vm *vm, struct snapfile *s, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	cleanup(json_drop) json_t *j = NULL;
	size_t len;
	int rc = snapfile_section(s, SNAPFILE_S_MANIFEST, &text, &len, e);

	if (!rc)
		rc = json_parse(text, len, &j, e);
	if (!rc)
		rc = vm_fits_cpu(vm, j, "restore", e);
	return rc ?: fits_ram(vm, s, e);
}

/* ---- memory ---- */

static uint64_t page_gpa(const struct snapfile *s, uint64_t page, uint64_t *left)
{
	unsigned k = s->nranges - 1;

	while (s->first_page[k] > page)
		k--;
	*left = s->first_page[k] + s->range[k].len / PAGE_SIZE - page;
	return s->range[k].gpa + (page - s->first_page[k]) * PAGE_SIZE;
}

/* The frame of a page, and how many that follow it lie behind it in the machine too. */
static int frame_of(
	struct vm *vm, const struct snapfile *s, uint64_t page, mfn_t *out, uint64_t *count)
{
	struct view *v = space_view(vm->board->space, 0);
	struct view_leaf l;
	uint64_t left, n = 0;
	uint64_t a = page_gpa(s, page, &left);

	left = MIN(left, *count);
	while (n < left && !view_lookup(v, gpa(a + n * PAGE_SIZE), &l)) {
		uint64_t size = 1ull << l.order;

		if (n && l.mfn.n != out->n + n)
			break;
		if (!n)
			*out = l.mfn;
		n += size - (l.mfn.n & (size - 1));
	}
	*count = MIN(n, left);
	return n ? 0 : -EFAULT;
}

static int map_pages(
	struct vm *vm, const struct snapfile *s, uint64_t first, uint64_t count, struct err *e)
{
	for (uint64_t n; count; first += n, count -= n) {
		mfn_t m = MFN_NONE;
		int rc;

		n = count;
		rc = frame_of(vm, s, first, &m, &n);
		if (rc)
			return err_set(e, rc, "restore: guest memory is not mapped");
		rc = frames_map_file(
			vm->board->frames, m, n, s->fd, s->store + first * PAGE_SIZE, e);
		if (rc)
			return err_wrap(e, "restore");
	}
	return 0;
}

static int map_store(struct vm *vm, const struct snapfile *s, struct err *e)
{
	uint64_t first = 0, end = 0;
	int rc = 0;

	for (uint64_t i = 0; !rc && i < s->nruns; i++) {
		const struct snapfile_run *r = &s->runs[i];

		if (r->kind != SNAPFILE_RAW)
			continue;
		if (end && r->first - end > MAP_GAP) {
			rc = map_pages(vm, s, first, end - first, e);
			end = 0;
		}
		if (!end)
			first = r->first;
		end = r->first + r->count;
	}
	return !rc && end ? map_pages(vm, s, first, end - first, e) : rc;
}

struct unpack {
	struct vm *vm;
	struct snapfile *s;
};

static int put_page(void *ctx, uint64_t index, const void *page, struct err *e)
{
	struct unpack *u = ctx;
	uint64_t left;
	gpa_t a = gpa(page_gpa(u->s, index, &left));

	return space_write(u->vm->board->space, a, page, PAGE_SIZE)
		       ? err_set(e, -EFAULT, "restore: guest memory is not mapped")
		       : 0;
}

/* ---- what makes it fast after it runs ---- */

static int read_working_set(struct vm *vm, struct snapfile *s, struct err *e)
{
	cleanup(free_ptr) char *buf = NULL;
	struct vm_restored *r = vm->restored;
	size_t len;
	int rc = snapfile_section(s, SNAPFILE_S_WORKING_SET, &buf, &len, e);

	if (rc)
		return rc == -ENOENT ? 0 : rc;
	r->set = calloc(len / 16 + 1, sizeof(*r->set));
	if (!r->set)
		return err_set(e, -ENOMEM, "restore: out of memory");
	for (size_t i = 0; i < len / 16; i++) {
		uint64_t first = get_le64(buf + i * 16), n = get_le32(buf + i * 16 + 8);
		mfn_t m = MFN_NONE;

		if (!n || first >= s->pages || frame_of(vm, s, first, &m, &n))
			continue;
		r->set[r->nset++] = (struct piece){frames_ptr(vm->board->frames, m), n * PAGE_SIZE};
	}
	return 0;
}

static int read_hot_code(struct vm *vm, struct snapfile *s, struct err *e)
{
	const struct cpu_engine_ops *ops = vm->board->engine;
	cleanup(free_ptr) char *buf = NULL;
	uint64_t *list;
	size_t len;
	int rc;

	if (!ops->hot_code_put)
		return 0;
	rc = snapfile_section(s, SNAPFILE_S_HOT_CODE, &buf, &len, e);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	list = (uint64_t *)(void *)buf; /* malloc'ed, hence aligned */
	for (size_t i = 0; i < len / 8; i++)
		list[i] = get_le64(&list[i]);
	ops->hot_code_put(vm->board->cpu_vm, list, len / 8);
	return 0;
}

/* The guest wrote to these first: they get their own copy before it asks. */
static void *prefetch(void *arg)
{
	struct vm_restored *r = arg;

	pthread_setname_np(pthread_self(), "prefetch");
	/* Not niced: it holds the address space's lock, for which the guest would then wait on a busy host. */
	for (size_t i = 0; i < r->nset && !atomic_load(&r->stop); i++)
		if (!madvise(r->set[i].at, r->set[i].len, MADV_POPULATE_WRITE))
			atomic_fetch_add(&r->prefetched, r->set[i].len);
	return NULL;
}

void vm_restore_started(struct vm *vm)
{
	struct vm_restored *r = vm->restored;

	if (r && !r->started && r->nset)
		r->started = !pthread_create(&r->thread, NULL, prefetch, r);
}

void vm_restore_drop(struct vm *vm)
{
	struct vm_restored *r = vm->restored;

	if (!r)
		return;
	atomic_store(&r->stop, true);
	if (r->started)
		pthread_join(r->thread, NULL);
	free(r->set);
	free(r);
	vm->restored = NULL;
}

/* ---- all of it ---- */

static int load_state(struct vm *vm, struct snapfile *s, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	cleanup(free_ptr) char *buf = NULL;
	size_t len;
	unsigned n;
	int rc = snapfile_section(s, SNAPFILE_S_STATE, &buf, &len, e);

	if (!rc)
		rc = board_state(vm->board, &objs, &n);
	if (!rc)
		rc = state_load(objs, n, (const uint8_t *)buf, len, e);
	return rc ? err_wrap(e, "restore") : 0;
}

/* Two machines may come from this one: it says to its guest that it is another one now. */
static int reborn(struct vm *vm, struct err *e)
{
	struct board *b = vm->board;
	int rc = 0;

	for (unsigned i = 0; !rc && i < b->ndevices; i++)
		if (b->devices[i]->cls->reborn)
			rc = b->devices[i]->cls->reborn(b->devices[i], e);
	return rc;
}

int vm_restore(struct vm *vm, int fd, unsigned warm, struct err *e)
{
	cleanup(snapfile_drop) struct snapfile *s = NULL;
	struct unpack u = {.vm = vm};
	int copy = dup(fd), rc;

	if (vm->state != VM_BUILT || !vm->o.restore)
		rc = err_set(e, -EBUSY, "restore: only into a machine that was made for it");
	else
		rc = copy < 0 ? err_sys(e, -errno, "restore") : 0;
	if (rc) {
		if (copy >= 0)
			close(copy);
		return rc;
	}
	rc = snapfile_open(&s, copy, e);
	if (rc)
		return rc;
	if (snapfile_has_parent(s))
		return err_set(e, -ENOTSUP,
			"restore: this snapshot holds only what changed since another one (lodge "
			"restore joins them)");
	vm->restored = calloc(1, sizeof(*vm->restored));
	if (!vm->restored)
		return err_set(e, -ENOMEM, "restore: out of memory");
	u.s = s;
	rc = fits(vm, s, e) ?: map_store(vm, s, e) ?: snapfile_unpack(s, put_page, &u, e);
	rc = rc ?: load_state(vm, s, e) ?: reborn(vm, e);
	if (!rc && (warm & VM_WARM_MEMORY))
		rc = read_working_set(vm, s, e);
	if (!rc && (warm & VM_WARM_CODE))
		rc = read_hot_code(vm, s, e);
	return rc;
}
