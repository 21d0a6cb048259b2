/*
 * jit.h: translation of guest code to host code.
 *
 *   run loop (engine.c) --jit_run()--> runtime.c: find code | heat it | run it
 *                                         |  cold: one interpreted block      ^ out of fuel, trap, exit, other context
 *                                         v  warm                             |
 *                                      form.c: region of a page --> translate.c + emit_*.c --> cache.c: code, entries, links
 *
 * A *region* is a set of basic blocks of one 4 KiB page that branch to each other. Every block's start can be entered from outside.
 * Translated code does not know its virtual address: hart.j.page holds that of the page it runs in, all else is offset. So code is
 * found by guest-physical address, shared by all address spaces and all vCPUs of the VM.
 *
 * Registers while translated code runs: rbp is the hart (plus JIT_BIAS), r15 hart.cur (the TLB), r12 the fuel, nine guest registers live in host
 * registers (jit_map), the others in hart.x; rax, rcx, rdx and xmm0-2 are free for an instruction's own use. When mstatus.FS is dirty,
 * 13 guest FP registers live in xmm3-15 (jit_fmap). The mapping is the same everywhere, so blocks run into each other as they are.
 *
 * Context: what code was translated for beside its bytes: FP usable (FS dirty) and frm. Code without FP instructions serves all.
 *
 * Precise state: a block charges all its instructions to hart.j.fuel at its start. Whatever may leave in the middle of a block passes a
 * word (struct jit_where) with its place in the page and the number of instructions not done, from which runtime.c makes pc and instret.
 *
 * Threads: code is shared by the vCPUs. Making and removing it takes the lock of the jit; running and finding it does not. Memory of code
 * that was removed is used again after every hart has left translated code once (jit_hart.seen).
 */
#ifndef LODGE_CPU_RV64_JIT_H
#define LODGE_CPU_RV64_JIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/rv64/hart.h"

struct err;
struct jit;

#define JIT_CACHE_DEFAULT \
	(10ull << 20) /* all of Lodge in 32 MiB: what belongs to code is half as large as it */
#define JIT_CACHE_MIN (1ull << 20)
#define JIT_BLOCK_INSNS 120u /* instructions of a block at most */

struct jit_opts {
	uint64_t cache_bytes;
	uint64_t exts; /* of the decoder */
	const char *perf_map; /* perfmap.h; NULL: none */
	enum jit_tiers {
		JIT_TIERS_TWO, /* hot code once more, on a thread */
		JIT_TIERS_ONE,
		JIT_TIERS_NOW, /* everything once more, at once, by the vCPU's thread: for tests */
	} tiers;
	bool alone; /* regions are not taken together with what they branch to: to see what that is worth */
	/*
	 * Code of the page is about to be read: from now on jit_written() is to be called before the page is next written to, by anybody. By h's
	 * thread, or with h NULL while no hart runs. Returns a stamp; until settled(stamp) some vCPU may still write without being
	 * noticed. Both may be NULL: then every fence compares everything.
	 */
	uint64_t (*watch)(void *ctx, struct hart *h, uint64_t page);
	bool (*settled)(void *ctx, uint64_t stamp);
	/* The page in the host's memory, if code may be there; else NULL. May itself be NULL: nothing is translated ahead. */
	const void *(*memory)(void *ctx, uint64_t page);
	void *ctx;
};

/* What of the host's instructions code is made of: the name of the i-th, and whether the host has it; answers how many there are. */
unsigned jit_needs(unsigned i, const char **name, bool *there);
/* -ENOTSUP: this host lacks some of them: says which. */
int jit_available(struct err *e);
int jit_create(struct jit **out, const struct jit_opts *o, struct err *e);
void jit_destroy(struct jit *j); /* no hart runs */
int jit_hart_init(struct jit *j, struct hart *h, struct err *e);
void jit_hart_destroy(struct hart *h);

/*
 * Runs from h->pc until the slice's instructions are used up, an exit, or poll bits; interprets what is cold. *entries counts down with each
 * time that something is entered. True: the slice is over (what is left covers no block, or *entries is 0). When more than
 * JIT_BLOCK_INSNS are left at the start it does not go beyond the slice.
 */
bool jit_run(struct hart *h, uint64_t *entries);

/* A watched page is about to be written. Any thread. */
void jit_written(struct jit *j, uint64_t page);
/*
 * After fence.i: forgets translations whose code has changed. Does not wait: while somebody else holds the lock the fence is owed, and h
 * interprets until it, or another hart for all, has done it. h's thread.
 */
void jit_fence(struct jit *j, struct hart *h);
/* Forgets what was translated from guest-physical [a, a + len): other memory is there now. Any thread. */
void jit_drop(struct jit *j, uint64_t a, uint64_t len);

/*
 * Where translated code begins, for a machine that goes on elsewhere, at most max; how many. That of the second tier comes first, then the first
 * tier's, the newest first. A word each: guest-physical address (bits 0 to 57), FP context (58 to 62; 31: any), second tier (63). Any thread.
 */
size_t jit_hot_list(struct jit *j, uint64_t *list, size_t max);
/*
 * Such a list, from anywhere: once jit_go() was called the second tier's thread makes that code, by the first tier, before the guest meets it. What
 * was of the second is made by it again at the first sample. No hart runs.
 */
void jit_warm(struct jit *j, const uint64_t *list, size_t n);
/* Harts run from now on. */
void jit_go(struct jit *j);

/* Counters, by name. */
void jit_counters(
	struct jit *j, void (*each)(void *ctx, const char *name, uint64_t value), void *ctx);

#endif
