/*
 * view.h: second-level maps (decision D1).
 *
 * A view maps guest-physical addresses to machine frames. It is a real radix table in machine frames, in the
 * format of RISC-V Sv48x4 (privileged specification, "Hypervisor extension", two-stage translation): a root of
 * 16 KiB (2048 entries), then three levels of 512; leaves of 4 KiB, 2 MiB and 1 GiB (512 GiB is not used). An entry is
 * V|R|W|X|U..., PPN << 10. The guest-physical space is 50 bits.
 *
 * A VM has one view by default and may have several: same gpa, another frame or other permissions. Each view
 * has a small number (its tag) by which software TLBs tell its entries apart.
 *
 * Who may do what: readers (view_lookup) take no lock and may run beside a writer; they see the old or the new
 * leaf; who they are must be known to space_invalidate() (vCPUs by their listener, others by space_hold()). Writers are serialised by the view's own lock. A change that takes something away (unmap, protect,
 * remap) is complete only after space_invalidate() (space.h), which the caller must call before it
 * reuses a frame; table frames that a change made empty are kept back until then.
 *
 * Errors: -EINVAL (misaligned, beyond 50 bits, wraps), -EEXIST (mapping over a mapping), -ENOENT, -ENOMEM.
 */
#ifndef LODGE_MEMORY_VIEW_H
#define LODGE_MEMORY_VIEW_H

#include "memory/frames.h"

#define VIEW_GPA_BITS 50

enum view_perm {
	VIEW_R = 1,
	VIEW_W = 2,
	VIEW_X = 4,
	VIEW_RWX = 7,
};

struct view;

struct view_leaf {
	mfn_t mfn; /* of the 4 KiB page that was asked for, not of the leaf's start */
	unsigned perm; /* enum view_perm bits */
	unsigned order; /* size of the leaf: FRAME_ORDER_* */
};

int view_create(struct view **out, struct frames *f, int node, unsigned tag, struct err *e);
void view_destroy(struct view *v); /* frees tables, never the frames they map */
unsigned view_tag(const struct view *v);

/* Maps [a, a+len) to the frames from m on, with the largest leaves that alignment allows. All or nothing. */
int view_map(struct view *v, gpa_t a, mfn_t m, uint64_t len, unsigned perm, struct err *e);
/* Unmaps; splits larger leaves at the edges. Holes inside are allowed. */
int view_unmap(struct view *v, gpa_t a, uint64_t len, struct err *e);
/* Changes permissions of what is mapped in the range; splits at the edges. */
int view_protect(struct view *v, gpa_t a, uint64_t len, unsigned perm, struct err *e);
/* Replaces the frame of one 4 KiB page. */
int view_remap(struct view *v, gpa_t a, mfn_t m, unsigned perm, struct err *e);
/* Joins full, contiguous, equally permitted tables into larger leaves; returns the number joined. */
unsigned view_coalesce(struct view *v, gpa_t a, uint64_t len);

/* -ENOENT when nothing is mapped there. Lock-free. */
int view_lookup(const struct view *v, gpa_t a, struct view_leaf *out);
/* Calls fn for each leaf in address order; stops and returns when fn returns non-zero. */
int view_walk(const struct view *v,
	int (*fn)(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *), void *ctx);

struct view_stat {
	uint64_t tables, leaves_4k, leaves_2m, leaves_1g;
};
void view_stat(const struct view *v, struct view_stat *st);

#endif
