/*
 * runtime.c: running translated code, and what it calls.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "cpu/rv64/jit/inside.h"
#include "cpu/rv64/priv.h"

#define JIT_WARM_PAIR 1 /* before it is, together with what branches to it */
/*
 * A slice is so many instructions as translated code does in some microseconds. What takes much longer ends it sooner, so that timers are
 * seen: so many cold blocks; translating; and a slow access is charged as so many instructions.
 */
#define COLD_BLOCKS 32u
#define SLOW_INSNS 64

long jit_slow_mem(struct hart *h, uint64_t va, uint32_t where, uint32_t what);
long jit_slow_op(struct hart *h, struct rv64_block *b, uint32_t where);

/* ---- life ---- */

/* clang 14's builtin does not know it. Intel SDM volume 2, CPUID, leaf 80000001H: ECX bit 5. */
static bool has_lzcnt(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && c >> 5 & 1;
}

unsigned jit_needs(unsigned i, const char **name, bool *there)
{
	static const char *const names[] = {"AVX", "BMI1", "BMI2", "FMA", "LZCNT", "POPCNT"};

	__builtin_cpu_init();
	if (i < ARRAY_SIZE(names)) {
		const bool have[ARRAY_SIZE(names)] = {!!__builtin_cpu_supports("avx"),
			!!__builtin_cpu_supports("bmi"), !!__builtin_cpu_supports("bmi2"),
			!!__builtin_cpu_supports("fma"), has_lzcnt(),
			!!__builtin_cpu_supports("popcnt")};

		*name = names[i];
		*there = have[i];
	}
	return ARRAY_SIZE(names);
}

int jit_available(struct err *e)
{
	const char *name;
	char missing[64] = "";
	size_t n = 0;
	bool there;

	for (unsigned i = 0; i < jit_needs(i, &name, &there); i++)
		if (!there)
			n += (size_t)snprintf(
				missing + n, sizeof(missing) - n, "%s%s", n ? ", " : "", name);
	return n ? err_set(e, -ENOTSUP,
			   "the translator makes code for x86-64-v3, and this host has no %s",
			   missing)
		 : 0;
}

int jit_create(struct jit **out, const struct jit_opts *o, struct err *e)
{
	struct jit *j;
	int rc = jit_available(e);

	if (rc)
		return rc;
	j = calloc(1, sizeof(*j));
	if (j) {
		j->tr = calloc(1, sizeof(*j->tr));
		j->branches = malloc(branch_table_bytes(JIT_LINES));
	}
	if (!j || !j->tr || !j->branches) {
		if (j) {
			free(j->tr);
			free(j->branches);
		}
		free(j);
		return err_set(e, -ENOMEM, "translator: out of memory");
	}
	branch_table_init(j->branches, JIT_LINES);
	j->o = *o;
	j->size = align_up(o->cache_bytes ? o->cache_bytes : JIT_CACHE_DEFAULT, PAGE_SIZE);
	j->tr->j = j;
	j->tr->tier = 1;
	j->tr->lane = LANE_FIRST;
	memcpy(j->tr->map, jit_map, sizeof(jit_map));
	memcpy(j->tr->fmap, jit_fmap, sizeof(jit_fmap));
	j->tr->lo = 1; /* above hi: nothing in use */
	pthread_mutex_init(&j->lock, NULL);
	pthread_mutex_init(&j->written_lock, NULL);
	rv64_decoder_init(&j->decoder, o->exts);
	rc = o->perf_map ? jit_perf_open(&j->perf, o->perf_map, e) : 0;
	j->o.perf_map = NULL;
	if (!rc)
		rc = jit_cache_create(j, e);
	if (!rc && o->tiers != JIT_TIERS_ONE)
		rc = jit_hot_create(j, e);
	if (rc) {
		jit_destroy(j);
		return rc;
	}
	*out = j;
	return 0;
}

void jit_destroy(struct jit *j)
{
	if (!j)
		return;
	jit_hot_destroy(j);
	jit_cache_destroy(j);
	jit_perf_close(j->perf);
	pthread_mutex_destroy(&j->lock);
	pthread_mutex_destroy(&j->written_lock);
	free(j->branches);
	free(j->tr);
	free(j);
}

int jit_hart_init(struct jit *j, struct hart *h, struct err *e)
{
	struct jit_jump *jumps;

	h->j.ctxs = calloc(1, JIT_CTXS * (sizeof(*h->j.ctxs) + JIT_JUMPS * sizeof(*jumps)));
	if (!h->j.ctxs)
		return err_set(e, -ENOMEM, "hart: out of memory for its jump tables");
	jumps = (struct jit_jump *)(h->j.ctxs + JIT_CTXS);
	for (unsigned i = 0; i < JIT_CTXS; i++)
		h->j.ctxs[i].jumps = jumps + i * JIT_JUMPS;
	h->j.jit = j;
	h->j.ctx_gen = UINT64_MAX;
	h->j.nfilled = JIT_FILLED; /* tags are to be made */
	j->harts[j->nharts++] = h;
	return 0;
}

void jit_hart_destroy(struct hart *h)
{
	free(h->j.ctxs);
	h->j.ctxs = NULL;
}

void jit_counters(
	struct jit *j, void (*each)(void *ctx, const char *name, uint64_t value), void *ctx)
{
	uint64_t used = 0, resident = PAGE_SIZE, lookups = 0, leaves = 0, mem = 0, op = 0, cold = 0,
		 owed = 0;
	struct jit_stats st;

	pthread_mutex_lock(&j->lock);
	st = j->st;
	for (unsigned i = 0; i < j->nsegs; i++)
		used += (uint64_t)(j->seg[i].used - j->seg[i].base);
	for (unsigned i = 0; i < j->nsegs; i++)
		resident += align_up((uint64_t)(j->seg[i].touched - j->seg[i].base), PAGE_SIZE);
	pthread_mutex_unlock(&j->lock);
	for (unsigned i = 0; i < j->nharts; i++) {
		const struct jit_hart *h = &j->harts[i]->j;

		lookups += h->lookups;
		leaves += h->leaves;
		mem += h->slow_mem;
		op += h->slow_op;
		cold += h->cold_blocks;
		owed += h->fences_owed;
	}
	each(ctx, "regions", st.regions);
	each(ctx, "blocks", st.blocks);
	each(ctx, "instructions_translated", st.insns);
	each(ctx, "translate_us", st.translate_ns / 1000);
	each(ctx, "removed", st.removed);
	each(ctx, "evictions", st.evictions);
	each(ctx, "fences", atomic_load(&j->fence_asked));
	each(ctx, "fences_owed", owed);
	each(ctx, "links", st.links);
	each(ctx, "lookups", lookups);
	each(ctx, "leaves", leaves);
	each(ctx, "slow_accesses", mem);
	each(ctx, "interpreted_instructions", op);
	each(ctx, "interpreted_blocks", cold);
	each(ctx, "longest_eviction_us", st.longest_eviction_ns / 1000);
	each(ctx, "branch_lines", j->branches->fills);
	each(ctx, "taken_along", st.taken_along);
	each(ctx, "pairs_made", st.paired);
	each(ctx, "pairs_known", st.pairs_found);
	jit_hot_counters(j, each, ctx);
	each(ctx, "cache_bytes", j->size);
	each(ctx, "cache_used", used);
	each(ctx, "cache_resident", resident);
}

/* ---- what translated code calls ---- */

static void precise(struct hart *h, uint32_t where)
{
	h->pc = h->j.page + (where & 0xfff);
	h->instret = h->instret_stop -
		     (uint64_t)(int64_t)(h->j.fuel + (int32_t)(where >> 12 & 0xff));
}

/* Leaves with what the hart says: instret may have moved. */
static long leave(struct hart *h)
{
	h->j.fuel = (int32_t)(h->instret_stop - h->instret);
	return 0;
}

/* Also: a fence may have removed what runs, or what the calls on the host's stack come back to. */
static bool same_context(struct hart *h)
{
	return atomic_load_explicit(&h->j.jit->removals, memory_order_relaxed) == h->j.seen &&
	       h->map_gen == h->j.ctx_gen && jit_fp_of(h) == h->j.ctx_fp && !h->j.fence &&
	       !atomic_load_explicit(&h->poll, memory_order_relaxed);
}

static uint64_t extend(uint64_t v, unsigned how)
{
	switch (how & (MEM_SIZE | MEM_SIGNED)) {
	case 1 | MEM_SIGNED:
		return (uint64_t)(int8_t)v;
	case 2 | MEM_SIGNED:
		return (uint64_t)(int16_t)v;
	case 4 | MEM_SIGNED:
		return (uint64_t)(int32_t)v;
	default:
		return v;
	}
}

/* hart.j.site: what was known of pages may have changed. */
static void forget_sites(struct hart *h)
{
	bool all = h->j.nfilled >= JIT_FILLED;
	unsigned n = all ? JIT_SITES : h->j.nfilled;

	for (unsigned i = 0; i < n; i++) {
		struct jit_found *f = &h->j.site[all ? i : h->j.filled[i]];

		f->tag = UINT64_MAX;
		f->limit = 0;
	}
	h->j.nfilled = 0;
}

/* A load or store that the TLB did not serve. 0: leave. */
long jit_slow_mem(struct hart *h, uint64_t va, uint32_t where, uint32_t what)
{
	unsigned how = what & 0xff, reg = what >> 8 & 0xff;
	struct rv64_op op[2] = {{.rd = (uint8_t)reg}, {.pc2 = (uint8_t)(where >> 20 & 0xf) / 2}};
	uint64_t v;

	precise(h, where);
	h->j.slow_mem++;
	if (what & JIT_STORE) {
		v = how & MEM_FP ? h->f[reg] : h->x[reg];
		if (!mem_store(h, op, va, how & MEM_SIZE, v))
			return leave(h);
	} else {
		if (!mem_load(h, op, va, how, &v))
			return leave(h);
		if (how & MEM_FP)
			h->f[reg] = (how & MEM_SIZE) == 4 ? v | 0xffffffff00000000 : v;
		else
			h->x[reg] = extend(v, how);
	}
	/* Time passes here: somebody who waits for this hart should not wait for the rest of the slice. */
	if (unlikely(atomic_load_explicit(&h->poll, memory_order_relaxed))) {
		h->pc += where >> 20 & 0xf;
		h->instret++;
		return leave(h);
	}
	forget_sites(h);
	h->instret_stop -= SLOW_INSNS;
	h->j.fuel -= SLOW_INSNS;
	return 1;
}

/* One instruction by its handler. 0: leave. */
long jit_slow_op(struct hart *h, struct rv64_block *b, uint32_t where)
{
	precise(h, where);
	h->j.slow_op++;
	h->j.stopped = 0;
	b->ops[0].fn(h, b->ops);
	if (!h->j.stopped || !same_context(h))
		return leave(h);
	forget_sites(h);
	return 1;
}

/* ---- contexts ---- */

/* Removals are close when so few jumps were found between them; after so many of those the table is emptied at each. */
#define FEW_JUMPS 128u
#define CLOSE_MAX 16u

static void forget_jumps(struct jit_ctx *c, uint64_t removals)
{
	c->seen = removals;
	c->found = 0;
	memset(c->jumps, 0xff, JIT_JUMPS * sizeof(*c->jumps)); /* no pc is odd */
}

/*
 * Translations were removed since c was last in use: it may name them. Where a segment was emptied since, its memory may be other code
 * by now, of which the bits speak. Not so when none was: what is emptied from now on is not used again before this hart has been here once more.
 * Looking through the table costs more than it saves where removals follow each other so closely: a guest that rewrites its code all the time.
 */
static void forget_removed(const struct jit *j, struct jit_ctx *c, uint64_t removals)
{
	c->close = c->found < FEW_JUMPS ? MIN(c->close + 1, CLOSE_MAX) : 0;
	if (c->close == CLOSE_MAX || c->seen < atomic_load(&j->drained)) {
		forget_jumps(c, removals);
		return;
	}
	c->seen = removals;
	c->found = 0;
	for (struct jit_jump *i = c->jumps; i < c->jumps + JIT_JUMPS; i++)
		if (i->va != UINT64_MAX && jit_is_gone(j, i->code))
			i->va = UINT64_MAX;
}

static void choose_context(struct hart *h)
{
	uint32_t fp = jit_fp_of(h);
	struct jit_ctx *c = h->j.ctxs, *old = c;

	for (; c < h->j.ctxs + JIT_CTXS; c++) {
		if (c->used && c->gen == h->map_gen && c->fp == fp)
			break;
		if (c->used < old->used)
			old = c;
	}
	if (c == h->j.ctxs + JIT_CTXS) {
		c = old;
		c->gen = h->map_gen;
		c->fp = fp;
		forget_jumps(c, h->j.seen);
	}
	if (c->seen != h->j.seen)
		forget_removed(h->j.jit, c, h->j.seen);
	c->used = ++h->j.ctx_clock;
	h->j.ctx_gen = h->map_gen;
	h->j.ctx_fp = fp;
	h->j.fp_live = fp;
	h->j.jumps = c->jumps;
	h->j.ctx = c;
}

/* ---- finding code ---- */

static const void *known(const struct hart *h, uint64_t va)
{
	unsigned slot = jit_jump_slot(va);

	if (h->j.jumps[slot].va != va)
		slot = jit_jump_other(va, slot);
	return h->j.jumps[slot].va == va ? h->j.jumps[slot].code : NULL;
}

/* Into its first slot; what was there goes to its other one. */
static void know(struct hart *h, uint64_t va, const void *code)
{
	unsigned slot = jit_jump_slot(va);
	struct jit_jump old = h->j.jumps[slot];

	h->j.ctx->found++;
	h->j.jumps[slot] = (struct jit_jump){va, code};
	if (old.va != UINT64_MAX)
		h->j.jumps[jit_jump_other(old.va, slot)] = old;
}

/* One region, formed from va's place; under the lock. */
static bool make(struct hart *h, const struct rv64_code_at *at, uint64_t va, uint32_t fp)
{
	struct jit *j = h->j.jit;
	struct jit_tr *t = j->tr;
	bool made = false;

	t->page = at->pa & ~(uint64_t)PAGE_MASK;
	t->live = t->host = at->host - (at->pa & PAGE_MASK);
	t->va = va & ~(uint64_t)PAGE_MASK;
	t->fp = fp;
	if (!jit_watch(j, h, t->page) || !jit_form(t, (unsigned)(at->pa & PAGE_MASK)))
		jit_heat_set(j, at->pa, JIT_COLD_MAX);
	else if (jit_translate(t))
		made = true;
	else if (t->a.full)
		jit_heat_set(j, at->pa, JIT_COLD_MAX);
	if (made && j->o.tiers == JIT_TIERS_NOW)
		jit_hot_now(j, t);
	return made;
}

/*
 * What the region's lines branch to in other pages, in the same pass: translated, if it is getting warm, and known to the jump table, by
 * which the code goes there. Only pages that this hart has fetched from under the translations of now, so that nothing is seen of it.
 */
static void make_pairs(struct hart *h, const int64_t *pairs, unsigned n, uint32_t fp)
{
	struct jit *j = h->j.jit;
	uint64_t page = h->pc & ~(uint64_t)PAGE_MASK;
	unsigned insns = j->tr->ninsns;

	for (unsigned i = 0; i < n && insns < JIT_PASS_INSNS; i++) {
		uint64_t va = page + (uint64_t)pairs[i];
		struct rv64_code_at at;
		struct jit_entry *e;
		uint8_t heat;

		if (known(h, va) || !rv64_code_known(h, va, &at) ||
			at.left < PAGE_SIZE - (at.pa & PAGE_MASK))
			continue;
		e = jit_find(j, at.pa, fp);
		heat = jit_heat(j, at.pa);
		if (!e && heat >= JIT_WARM_PAIR && heat != JIT_COLD_MAX && make(h, &at, va, fp)) {
			j->st.paired++;
			insns += j->tr->ninsns;
			e = jit_find(j, at.pa, fp);
		}
		if (!e)
			continue;
		know(h, va, e->code);
		j->st.pairs_found++;
	}
}

static void translate(struct hart *h, const struct rv64_code_at *at, uint32_t fp)
{
	struct jit *j = h->j.jit;
	int64_t pairs[JIT_PAIRS];
	uint64_t t0;
	unsigned n;

	/* Whoever holds it makes code: until then this block is interpreted. */
	if (pthread_mutex_trylock(&j->lock))
		return;
	if (!jit_find(j, at->pa, fp)) {
		t0 = clock_mono_ns();
		if (make(h, at, h->pc, fp)) {
			n = j->tr->npairs;
			memcpy(pairs, j->tr->pairs, n * sizeof(pairs[0]));
			make_pairs(h, pairs, n, fp);
		}
		j->st.translate_ns += clock_mono_ns() - t0;
	}
	pthread_mutex_unlock(&j->lock);
}

/* The code at h->pc; NULL: there is none, h->pc is cold, or a trap was taken (*trapped). *entries is 0 when time has passed. */
static const void *find(struct hart *h, bool *trapped, uint64_t *entries)
{
	const void *code = known(h, h->pc);
	struct jit *j = h->j.jit;
	struct rv64_code_at at;
	struct jit_entry *e;
	uint8_t heat;

	*trapped = false;
	if (code)
		return code;
	if (!rv64_code_where(h, &at)) {
		*trapped = true;
		return NULL;
	}
	if (at.left < PAGE_SIZE - (at.pa & PAGE_MASK))
		return NULL;
	h->j.lookups++;
	e = jit_find(j, at.pa, h->j.ctx_fp);
	if (!e) {
		heat = jit_heat(j, at.pa);
		if (heat == JIT_COLD_MAX)
			return NULL;
		if (heat + 1 < JIT_WARM) {
			jit_heat_set(j, at.pa, heat + 1);
			return NULL;
		}
		translate(h, &at, h->j.ctx_fp);
		*entries = 0;
		e = jit_find(j, at.pa, h->j.ctx_fp);
		if (!e)
			return NULL;
	}
	know(h, h->pc, e->code);
	return e->code;
}

/* Left over a jump that is not linked: link it if its target has code by now. */
static void follow(struct hart *h, struct jit_link *l)
{
	struct jit *j = h->j.jit;
	uint64_t pa = l->from->page + l->target;
	struct jit_entry *e;

	h->pc = h->j.page + l->target;
	e = jit_find(j, pa, h->j.ctx_fp);
	if (!e || l->by_context)
		return;
	if (pthread_mutex_trylock(&j->lock))
		return; /* the next time */
	/* Once more: it may have gone. */
	e = jit_find(j, pa, h->j.ctx_fp);
	if (e)
		jit_link_to(j, l, e);
	pthread_mutex_unlock(&j->lock);
}

bool jit_run(struct hart *h, uint64_t *entries)
{
	struct jit *j = h->j.jit;
	struct jit_link *(*enter)(struct hart *, const void *) =
		(struct jit_link * (*)(struct hart *, const void *))(uintptr_t)j->enter;

	atomic_store(&h->j.inside, true);
	while (!h->posted && *entries && !atomic_load_explicit(&h->poll, memory_order_relaxed)) {
		bool owes = unlikely(h->j.fence) && !jit_settle(j, h), trapped = false;
		uint64_t removals = atomic_load_explicit(&j->removals, memory_order_acquire);
		struct jit_link *l;
		const void *code;

		if (h->map_gen != h->j.ctx_gen || jit_fp_of(h) != h->j.ctx_fp ||
			removals != h->j.seen) {
			atomic_store(&h->j.seen, removals);
			choose_context(h);
		}
		--*entries;
		code = owes ? NULL : find(h, &trapped, entries);
		if (trapped)
			continue;
		if (code && !*entries)
			break;
		if (!code) {
			uint64_t stop = h->instret_stop;

			h->instret_stop = 0; /* no chaining: each block is looked at */
			rv64_block_run(h);
			h->instret_stop = stop;
			if (++h->j.cold_blocks % COLD_BLOCKS == 0)
				*entries = 0;
			if (h->instret + JIT_BLOCK_INSNS >= stop)
				break;
			continue;
		}
		h->j.page = h->pc & ~(uint64_t)PAGE_MASK;
		h->j.fuel = (int32_t)(h->instret_stop - h->instret);
		forget_sites(h);
		l = enter(h, code);
		h->instret = h->instret_stop - (uint64_t)(int64_t)h->j.fuel;
		h->j.leaves++;
		if ((uintptr_t)l > 1)
			follow(h, l);
		else if (l)
			jit_sample(h);
		if (h->j.fuel < (int32_t)JIT_BLOCK_INSNS)
			break;
	}
	atomic_store(&h->j.inside, false);
	return !*entries || h->instret + JIT_BLOCK_INSNS >= h->instret_stop;
}
