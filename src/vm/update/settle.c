#include "vm/update/settle.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/frames.h"
#include "vm/internal.h"
#include "vm/migrate/ram.h"

#define STEP_PAGES 256u
#define LITTLE 512u /* pages: some half a millisecond */
#define ROUNDS_MAX 8u

struct settle {
	struct vm *vm;
	struct mig_ram ram;
	struct tracker *t;
	uint64_t *dirty; /* a bit a page: to be written yet */
	uint64_t at, left; /* of this round: where it is, pages from there on */
	unsigned round; /* 0: all of it */
};

static void mark(void *ctx, gpa_t page)
{
	struct settle *s = ctx;
	uint64_t n = mig_ram_page(&s->ram, page);

	s->left += !(s->dirty[n / 64] >> (n % 64) & 1);
	s->dirty[n / 64] |= 1ull << (n % 64);
}

int settle_begin(struct settle **out, struct vm *vm, struct err *e)
{
	struct settle *s;
	int rc;

	*out = NULL;
	if (!vm->restored)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "update: out of memory");
	s->vm = vm;
	mig_ram_init(&s->ram, vm->board->space);
	s->left = s->ram.pages;
	s->dirty = calloc(s->ram.pages / 64 + 1, sizeof(*s->dirty));
	rc = s->dirty ? tracker_start(&s->t, vm->board->space, NULL, e)
		      : err_set(e, -ENOMEM, "update: out of memory");
	if (rc) {
		free(s->dirty);
		free(s);
		return rc;
	}
	*out = s;
	return 0;
}

/* Pages from `page` on, at most `max`; how many were done. */
static int64_t some(struct settle *s, uint64_t page, uint64_t max, struct err *e)
{
	struct space *space = s->vm->board->space;
	unsigned in = space_hold(space);
	struct view_leaf l;
	uint64_t left;
	gpa_t a = mig_ram_gpa(&s->ram, page, &left);
	int64_t n = 1; /* nothing is mapped there: nothing can be lost */

	if (!view_lookup(space_view(space, 0), a, &l)) {
		uint64_t size = 1ull << l.order;

		left = MIN(left, size - (a.v / PAGE_SIZE & (size - 1)));
		n = frames_settle(space_frames(space), l.mfn, MIN(max, left), !s->round, e);
	}
	space_release(space, in);
	return n;
}

static uint64_t next_dirty(const struct settle *s, uint64_t at)
{
	while (at < s->ram.pages && !(s->dirty[at / 64] >> (at % 64)))
		at = align_down(at, 64) + 64;
	return at < s->ram.pages ? at + (unsigned)__builtin_ctzll(s->dirty[at / 64] >> (at % 64))
				 : at;
}

/* At most `max` pages of this round. */
static int work(struct settle *s, uint64_t max, struct err *e)
{
	while (max && s->left) {
		int64_t n;

		if (s->round)
			s->at = next_dirty(s, s->at);
		n = some(s, s->at, s->round ? 1 : MIN(max, s->left), e);
		if (n < 0)
			return (int)n;
		if (s->round)
			s->dirty[s->at / 64] &= ~(1ull << (s->at % 64));
		s->at += (uint64_t)n;
		s->left -= (uint64_t)n;
		max -= (uint64_t)n;
	}
	return 0;
}

static void next_round(struct settle *s)
{
	s->round++;
	s->at = 0;
	tracker_collect(s->t, mark, s);
}

int settle_step(struct settle *s, bool *enough, struct err *e)
{
	int rc = work(s, STEP_PAGES, e);

	*enough = false;
	if (rc || s->left)
		return rc;
	next_round(s);
	*enough = s->left <= LITTLE || s->round > ROUNDS_MAX;
	return 0;
}

int settle_rest(struct settle *s, struct err *e)
{
	next_round(s);
	return work(s, UINT64_MAX, e);
}

void settle_end(struct settle *s, bool kept)
{
	if (!s)
		return;
	tracker_stop(s->t);
	if (kept)
		frames_unsettle(s->vm->board->frames);
	free(s->dirty);
	free(s);
}
