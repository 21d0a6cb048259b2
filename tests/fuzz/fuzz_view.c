/*
 * fuzz_view.c: random changes of a second-level map beside a flat array that says what each page should be. After each change, and at the end for all
 * pages, lookups and the walk must agree with the array; when everything is unmapped and invalidated, every table frame must have come back.
 *
 * The guest-physical window is 8 MiB around a 1 GiB border, so that leaves of both larger sizes begin and end in it; frames are
 * 4 GiB (never touched, but for tables), so that 1 GiB leaves can be made.
 *
 * Input: records of 8 bytes {what, perm, page (2), pages (2), frame (2)}.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"

#define RECORD 8
#define MAX_RECORDS 256
#define PAGES (2 * 1024u)
#define BASE ((1ull << 42) - PAGES / 2 * PAGE_SIZE)
#define BIG (BASE + PAGES / 2 * PAGE_SIZE + 3 * GiB) /* where 1 GiB leaves go */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct model {
	bool mapped[PAGES];
	uint64_t frame[PAGES];
	uint8_t perm[PAGES];
	bool big; /* a 1 GiB leaf at BIG, of frames from 1 GiB on */
};

struct rig {
	struct frames *f;
	struct space *s;
	struct view *v;
	struct model m;
	uint64_t tables_free;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static uint64_t frames_left(struct frames *f)
{
	struct frames_node_stat st;

	frames_node_stat(f, 0, &st);
	return st.free;
}

static gpa_t page(uint64_t i)
{
	return gpa(BASE + i * PAGE_SIZE);
}

static void compare(struct rig *r, uint64_t from, uint64_t n)
{
	for (uint64_t i = from; i < from + n; i++) {
		struct view_leaf l;
		int rc = view_lookup(r->v, gpa(page(i).v + i % 4096), &l);

		must(!rc == r->m.mapped[i]);
		if (!rc)
			must(l.mfn.n == r->m.frame[i] && l.perm == r->m.perm[i]);
	}
}

static void map(struct rig *r, uint64_t at, uint64_t n, uint64_t frame, unsigned perm)
{
	bool clear = true;
	struct err e = {0};
	int rc;

	for (uint64_t i = at; i < at + n; i++)
		clear = clear && !r->m.mapped[i];
	rc = view_map(r->v, page(at), mfn(frame), n * PAGE_SIZE, perm, &e);
	must(!rc == clear && (clear || e.msg[0]));
	for (uint64_t i = at; clear && i < at + n; i++) {
		r->m.mapped[i] = true;
		r->m.frame[i] = frame + (i - at);
		r->m.perm[i] = (uint8_t)perm;
	}
}

static void unmap(struct rig *r, uint64_t at, uint64_t n)
{
	must(!view_unmap(r->v, page(at), n * PAGE_SIZE, NULL));
	for (uint64_t i = at; i < at + n; i++)
		r->m.mapped[i] = false;
}

static void protect(struct rig *r, uint64_t at, uint64_t n, unsigned perm)
{
	must(!view_protect(r->v, page(at), n * PAGE_SIZE, perm, NULL));
	for (uint64_t i = at; i < at + n; i++)
		r->m.perm[i] = (uint8_t)perm;
}

static void remap(struct rig *r, uint64_t at, uint64_t frame, unsigned perm)
{
	must(!view_remap(r->v, page(at), mfn(frame), perm, NULL) == r->m.mapped[at]);
	if (!r->m.mapped[at])
		return;
	r->m.frame[at] = frame;
	r->m.perm[at] = (uint8_t)perm;
}

/* The large leaf is checked at a few pages; splitting it must not change any. */
static void big(struct rig *r, unsigned what, uint64_t off)
{
	struct view_leaf l;

	if (what % 4 == 0) {
		must(!view_map(r->v, gpa(BIG), mfn(GiB / PAGE_SIZE), GiB, VIEW_RWX, NULL) ==
			!r->m.big);
		r->m.big = true;
	} else if (what % 4 == 1) {
		must(!view_unmap(r->v, gpa(BIG), GiB, NULL));
		r->m.big = false;
	} else if (r->m.big) {
		must(!view_protect(r->v, gpa(BIG + off * PAGE_SIZE), 3 * PAGE_SIZE, VIEW_R, NULL));
		must(!view_protect(
			r->v, gpa(BIG + off * PAGE_SIZE), 3 * PAGE_SIZE, VIEW_RWX, NULL));
		if (what % 4 == 2)
			view_coalesce(r->v, gpa(BIG), GiB);
	}
	for (uint64_t i = 0; i < 4; i++) {
		uint64_t p = (off * 7919 + i * 65537) % (GiB / PAGE_SIZE);
		int rc = view_lookup(r->v, gpa(BIG + p * PAGE_SIZE), &l);

		must(!rc == r->m.big);
		if (!rc)
			must(l.mfn.n == GiB / PAGE_SIZE + p && l.perm == VIEW_RWX);
	}
}

/* What must be refused and change nothing. */
static void nonsense(struct rig *r, uint64_t at, uint64_t n)
{
	struct view_leaf l;

	must(view_map(r->v, gpa(page(at).v + 1), mfn(0), PAGE_SIZE, 1, NULL) < 0);
	must(view_map(r->v, gpa(0), mfn(frames_count(r->f) - n), (n + 1) * PAGE_SIZE, 1, NULL) < 0);
	must(view_unmap(r->v, gpa((1ull << 50) - PAGE_SIZE), 2 * PAGE_SIZE, NULL) < 0);
	must(view_protect(r->v, gpa(-PAGE_SIZE), 2 * PAGE_SIZE, 1, NULL) < 0);
	must(view_lookup(r->v, gpa(1ull << 50 | page(at).v), &l) < 0);
	must(view_lookup(r->v, gpa(0), &l) < 0);
}

static void step(struct rig *r, const uint8_t *rec)
{
	uint64_t at = get_le16(rec + 2) % PAGES, n = get_le16(rec + 4) % PAGES + 1;
	uint64_t frame = get_le16(rec + 6) % (GiB / PAGE_SIZE - PAGES);
	unsigned perm = rec[1] & 7;

	if (rec[1] & 8) /* few pages are as likely as many */
		n = n % 4 + 1;
	if (rec[1] & 16) /* and so are frames and addresses that fit each other */
		frame = 512 * (frame % 64) + at % 512;
	if (n > PAGES - at)
		n = PAGES - at;
	switch (rec[0] % 8) {
	case 0:
	case 1:
		map(r, at, n, frame, perm);
		break;
	case 2:
		unmap(r, at, n);
		break;
	case 3:
		protect(r, at, n, perm);
		break;
	case 4:
		remap(r, at, frame, perm);
		break;
	case 5:
		view_coalesce(r->v, page(at), n * PAGE_SIZE);
		break;
	case 6:
		big(r, rec[1], at * n);
		break;
	case 7:
		nonsense(r, at, n);
		space_invalidate(r->s, 0, page(at), n * PAGE_SIZE, VIEW_RWX);
		break;
	}
	compare(r, at, n);
}

static int check_leaf(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *l)
{
	struct rig *r = ctx;
	uint64_t i = (a.v - BASE) / PAGE_SIZE;

	must(len == PAGE_SIZE << l->order && !(a.v & (len - 1)));
	must(!(l->mfn.n & ((1ull << l->order) - 1)));
	if (a.v >= BIG) {
		must(r->m.big);
		return 0;
	}
	must(a.v >= BASE && i + len / PAGE_SIZE <= PAGES);
	for (uint64_t k = 0; k < len / PAGE_SIZE; k++)
		must(r->m.mapped[i + k] && r->m.frame[i + k] == l->mfn.n + k);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frames_opts fo = {.nodes = 1, .node_bytes = {4 * GiB}, .name = "fuzz"};
	struct rig *r = calloc(1, sizeof(*r));
	struct view_stat st;

	must(r && !frames_create(&r->f, &fo, NULL) && !space_create(&r->s, r->f, NULL));
	r->v = space_view(r->s, 0);
	r->tables_free = frames_left(r->f);
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD <= size; i++)
		step(r, data + i * RECORD);
	compare(r, 0, PAGES);
	must(!view_walk(r->v, check_leaf, r));
	must(!view_unmap(r->v, gpa(0), 1ull << 50, NULL));
	view_stat(r->v, &st);
	must(st.tables == 1 && !st.leaves_4k && !st.leaves_2m && !st.leaves_1g);
	space_invalidate(r->s, 0, gpa(0), 1ull << 50, VIEW_RWX);
	must(frames_left(r->f) == r->tables_free);
	space_destroy(r->s);
	frames_destroy(r->f);
	free(r);
	return 0;
}
