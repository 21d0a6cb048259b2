/*
 * tier.c: what is hot, and the thread that translates it again.
 *
 *   a hart's instructions are used up --jit_sample()--> count of the region at its pc, among the samples of late
 *        count is high: a copy of the page --bounded queue--> thread: form, choose registers, emit, without the lock
 *                                                               |
 *        still the same bytes? in place of the first tier's <---+ publish, under the lock
 *
 * Where a hart is when its instructions are used up is a fair sample of where its time goes, and costs nothing in translated code. Counts
 * are of guest-physical addresses and outlive the code: what was hot before it was removed needs one sample, once.
 *
 * Counts fade: hot is what has a share of the time, not what has been running for long. The second tier's code is twice as large as the first's; where time is spread
 * over thousands of places (a guest's kernel between a system call and its disk) it costs more in the host's caches than it saves, and all of it does not fit.
 *
 * Guest threads never wait for the thread: the queue is tried, not awaited, and dropped into when full; where they want the lock of the
 * cache in order to translate or link, they try and go on as they are. Only what has to be exact waits (fence.i, jit_drop()), for as
 * long as the thread holds the lock: making room, and publishing one region.
 *
 * A request is right when it is published if (1) no memory was replaced since it was made (jit.drops), so that the page is still where it
 * was, (2) the page has code, so that it is watched or looked at by fences, and (3) memory holds the bytes that were
 * translated. The copy may be torn: then (3) fails.
 *
 * Ahead: a machine that goes on from a snapshot brings a list of what was translated (jit_warm()). When nothing is asked for, the thread
 * makes that by the first tier, in segments of its own (LANE_AHEAD), before the guest meets it. The guest does not wait for it, either: it interprets.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <xmmintrin.h>

#include "base/clock.h"
#include "base/err.h"
#include "cpu/rv64/jit/inside.h"

#define HOT_SAMPLES 8u /* of one region, before it is translated again */
#define HOT_WINDOW \
	1024u /* samples of all, after which counts are halved: hot is a share of 1/256 */
#define HOT_SLOTS 4096u
#define HOT_QUEUE 8u
#define HOT_BAD 65536u
#define HOT_MISSES \
	512u /* a site that misses more than once in so many instructions goes to another page too often */
#define HOT_STRIKES 2u /* such samples, before the region is made again without that site */
#define HOT_RETRY \
	4096u /* samples of a region without some of its sites, some 100 ms, before it is made with all of them again */

enum why {
	WHY_HOT,
	/* Although it is of the second tier already: */
	WHY_MISSES, /* of some of its sites, which are given up */
	WHY_RETRY, /* with the sites that were given up */
};

struct request {
	uint64_t page, va, drops;
	uint32_t fp;
	uint16_t off;
	uint64_t counted; /* whose samples asked for it */
	enum why why;
	const uint8_t *live;
	uint8_t bytes[PAGE_SIZE];
};

/* Code to be made before it is met; the page was watched when no hart ran. */
struct ahead {
	uint64_t pa;
	uint32_t fp;
	const uint8_t *live; /* the page; good while jit.drops is what it was */
};

/* Samples of the region that was formed from pa. */
struct slot {
	uint64_t pa;
	uint32_t window;
	uint8_t samples, refused;
	bool was_hot; /* in full, once: the next time one sample will do */
	bool asked; /* it is in the queue */
};

struct jit_hot {
	struct jit *j;
	pthread_mutex_t lock; /* of the queue; held for a copy of a page at most */
	pthread_cond_t more;
	pthread_t thread;
	bool started, stop;
	unsigned first, n;
	struct request queue[HOT_QUEUE], work;
	/* While the thread forms a region it reads entries without the lock, as a hart does. */
	_Atomic bool inside;
	_Atomic uint64_t seen;
	struct jit_tr *tr; /* the thread's, or in JIT_TIERS_NOW under jit.lock */
	struct slot slots[HOT_SLOTS];
	uint32_t taken; /* samples, of both tiers */
	uint8_t bad[HOT_BAD / 8], split[HOT_BAD / 8]; /* sites, by address */
	uint64_t asked, dropped, moved, retried;
	struct ahead *ahead; /* NULL: none, or all done */
	size_t nahead, at;
	uint64_t ahead_drops, ahead_bytes;
	uint64_t made_ahead, ahead_insns, ahead_ns;
};

/* ---- registers ---- */

struct operands {
	uint32_t x, f; /* sets of registers; one that is used twice counts once */
};

static struct operands operands_of(const struct rv64_insn *in)
{
	uint32_t rd = 1u << in->rd, rs1 = 1u << in->rs1, rs2 = 1u << in->rs2, rs3 = 1u << in->rs3;

	switch (rv64_row(in->id)->fmt) {
	case FMT_R:
	case FMT_AMO:
		return (struct operands){.x = rd | rs1 | rs2};
	case FMT_I:
	case FMT_SH6:
	case FMT_SH5:
	case FMT_UNA:
	case FMT_JALR:
	case FMT_LOAD:
	case FMT_LR:
		return (struct operands){.x = rd | rs1};
	case FMT_U:
	case FMT_J:
		return (struct operands){.x = rd};
	case FMT_B:
	case FMT_STORE:
		return (struct operands){.x = rs1 | rs2};
	case FMT_FLOAD:
		return (struct operands){.x = rs1, .f = rd};
	case FMT_FSTORE:
		return (struct operands){.x = rs1, .f = rs2};
	case FMT_R4:
		return (struct operands){.f = rd | rs1 | rs2 | rs3};
	case FMT_FR:
	case FMT_FR_RM:
		return (struct operands){.f = rd | rs1 | rs2};
	case FMT_FF_RM:
		return (struct operands){.f = rd | rs1};
	case FMT_XF:
	case FMT_XF_RM:
		return (struct operands){.x = rd, .f = rs1};
	case FMT_XFF:
		return (struct operands){.x = rd, .f = rs1 | rs2};
	case FMT_FX:
	case FMT_FX_RM:
		return (struct operands){.x = rs1, .f = rd};
	default:
		return (struct operands){0};
	}
}

/* Does this instruction of block i jump back? Then what lies between is a loop. */
static void deepen(struct jit_tr *t, unsigned i, const struct jit_insn *jump)
{
	int64_t to = (int64_t)jump->off + jump->in.imm;
	const struct jit_block *head;

	if (!jit_is_branch(jump->in.id) && (jump->in.id != RV_jal || jump->in.rd))
		return;
	if (to < 0 || to > t->blocks[i].off)
		return;
	head = jit_block_at(t, (unsigned)to);
	for (unsigned k = head ? (unsigned)(head - t->blocks) : i + 1; k <= i; k++)
		if (t->blocks[k].depth < 4)
			t->blocks[k].depth++;
}

/* Loops, as compilers lay them out. */
static void find_depths(struct jit_tr *t)
{
	for (unsigned i = 0; i < t->nblocks; i++)
		t->blocks[i].depth = 0;
	for (unsigned i = 0; i < t->nblocks; i++)
		for (unsigned k = 0; k < t->blocks[i].n; k++)
			deepen(t, i, &t->sorted[t->blocks[i].first + k]);
}

static bool leads_out(struct jit_tr *t, int64_t to)
{
	return to < 0 || to >= (int64_t)PAGE_SIZE || !jit_block_at(t, (unsigned)to);
}

/* How often the common mapping is needed at the block's end, of as many times as it runs. In eighths. */
static unsigned crossings(struct jit_tr *t, const struct jit_block *b)
{
	const struct jit_insn *end = &t->sorted[b->first + b->n - 1];
	unsigned n = 0;

	for (unsigned k = 0; k + 1 < b->n; k++) {
		const struct jit_insn *i = &t->sorted[b->first + k];

		n += jit_is_branch(i->in.id) && leads_out(t, (int64_t)i->off + i->in.imm);
	}
	switch (b->end) {
	case END_BRANCH:
		n += leads_out(t, (int64_t)end->off + end->in.imm);
		n += leads_out(t, b->next);
		return n >= 2 ? 8 : n;
	case END_JAL:
		return end->in.rd ? 16 : 8 * leads_out(t, (int64_t)end->off + end->in.imm);
	case END_JALR:
		return end->in.rd ? 16 : 8;
	case END_FALL:
		return 8 * leads_out(t, b->next);
	default:
		return 8;
	}
}

/*
 * Exchanges registers of the common mapping against such that are used more often here, while what is saved is more than what
 * leaving and coming back costs.
 */
static unsigned exchange(
	const uint64_t *uses, uint64_t cost, int8_t *map, struct jit_swap *swaps, unsigned max)
{
	unsigned n = 0;

	for (; n < max; n++) {
		unsigned in = 0, out = 0;

		for (unsigned r = 0; r < 32; r++) {
			bool taken = false;

			for (unsigned i = 0; i < n; i++)
				taken |= swaps[i].ours == r || swaps[i].theirs == r;
			if (taken)
				continue;
			if (!map[r] && uses[r] && (!in || uses[r] > uses[in - 1]))
				in = r + 1;
			if (map[r] && (!out || uses[r] < uses[out - 1]))
				out = r + 1;
		}
		if (!in || !out || uses[in - 1] <= uses[out - 1] + cost)
			break;
		swaps[n] = (struct jit_swap){.host = map[out - 1],
			.theirs = (uint8_t)(out - 1),
			.ours = (uint8_t)(in - 1)};
		map[in - 1] = map[out - 1];
		map[out - 1] = 0;
	}
	return n;
}

/*
 * Host registers for what the looks at blocks' starts find: the TLB's, which only looks out of line want then, and those of the common
 * mapping that are used less than they are worth. cost: of loading one when the region is left.
 */
static void hold(struct jit_tr *t, const uint64_t *near, const uint64_t *uses, uint64_t cost)
{
	bool held[JIT_NEAR + 1] = {false};

	while (t->nholds < ARRAY_SIZE(t->holds)) {
		unsigned slot = 0, out = 0;
		struct jit_hold *h = &t->holds[t->nholds];

		for (unsigned s = 1; s <= JIT_NEAR; s++)
			if (near[s] && !held[s] && (!slot || near[s] > near[slot]))
				slot = s;
		for (unsigned r = 1; r < 32 && t->nholds; r++) {
			bool swapped = false;

			for (unsigned i = 0; i < t->nswaps; i++)
				swapped |= t->swaps[i].ours == r;
			if (t->map[r] && !swapped && (!out || uses[r] < uses[out]))
				out = r;
		}
		if (!slot || (t->nholds && !out))
			return;
		if (near[slot] <= (out ? uses[out] + 2 * cost : cost))
			return;
		h->host = out ? t->map[out] : JIT_TLB;
		h->slot = (uint8_t)slot;
		h->theirs = (uint8_t)out;
		t->map[out] = 0;
		t->near_host[slot] = h->host;
		held[slot] = true;
		t->nholds++;
	}
}

void jit_choose_map(struct jit_tr *t)
{
	uint64_t x[32] = {0}, f[32] = {0}, near[JIT_NEAR + 1] = {0}, cost = 0;

	find_depths(t);
	for (unsigned i = 0; i < t->nblocks; i++) {
		const struct jit_block *b = &t->blocks[i];
		uint64_t weight = 8ull << 3 * b->depth;

		/* A register costs a store and a load each way. */
		cost += weight * crossings(t, b) / 8 * 4;
		jit_find_near(t, b);
		for (unsigned k = 0; k < t->nearly; k++)
			near[t->early[k].slot] += weight * (t->early[k].n + 1u) / b->copies;
		for (unsigned k = 0; k < b->n; k++) {
			const struct rv64_insn *in = &t->sorted[b->first + k].in;
			struct operands o = operands_of(in);

			for (uint32_t left = o.x & ~1u; left; left &= left - 1)
				x[__builtin_ctz(left)] += weight;
			for (uint32_t left = o.f; left; left &= left - 1)
				f[__builtin_ctz(left)] += weight;
			if (rv64_row(in->id)->fmt == FMT_CSR)
				cost += weight * 4;
		}
	}
	t->nswaps = exchange(x, cost, t->map, t->swaps, ARRAY_SIZE(t->swaps));
	if (t->fp && t->uses_fp)
		t->nfswaps = exchange(f, cost, t->fmap, t->fswaps, ARRAY_SIZE(t->fswaps));
	hold(t, near, x, cost / 4);
}

bool jit_hot_has_left(const struct jit *j, uint64_t since)
{
	return !j->hot || !atomic_load(&j->hot->inside) || atomic_load(&j->hot->seen) >= since;
}

/* ---- sites ---- */

static uint32_t bad_index(uint64_t pa)
{
	return (uint32_t)((pa >> 1) * 0x9e3779b97f4a7c15ull >> 48);
}

/* Is it set? When the region is made with all its sites again, no longer. */
static bool given_up(struct jit_tr *t, uint8_t *bits, uint64_t pa)
{
	uint32_t i = bad_index(pa);
	uint8_t bit = (uint8_t)(1u << i % 8);

	if (!(__atomic_load_n(&bits[i / 8], __ATOMIC_RELAXED) & bit))
		return false;
	if (t->retry) {
		__atomic_fetch_and(&bits[i / 8], (uint8_t)~bit, __ATOMIC_RELAXED);
		return false;
	}
	t->given_up = true;
	return true;
}

bool jit_bad_site(struct jit_tr *t, uint64_t pa)
{
	return t->j->hot && given_up(t, t->j->hot->bad, pa);
}

bool jit_split_site(struct jit_tr *t, uint64_t pa)
{
	return t->j->hot && given_up(t, t->j->hot->split, pa);
}

/* Sites of the region that found other pages all the time; the number. */
static unsigned sites_that_miss(struct hart *h, struct jit_region *r)
{
	struct jit_hot *hot = h->j.jit->hot;
	uint64_t many;
	unsigned n = 0;
	bool before;

	/* Counts of two harts taken for one's would give up what serves both. */
	if (__atomic_exchange_n(&r->judging, true, __ATOMIC_ACQUIRE))
		return 0;
	many = (h->instret - r->judged_at) / HOT_MISSES;
	before = r->judged_by == h;
	r->judged_by = h;
	r->judged_at = h->instret;
	for (unsigned i = 0; i < r->nsites; i++) {
		uint32_t at = bad_index(r->page + r->sites[i].off);
		const struct jit_found *f = &h->j.site[r->sites[i].slot];
		uint32_t since = f->missed - r->sites[i].missed;
		uint32_t failed = f->failed - r->sites[i].failed;

		r->sites[i].missed = f->missed;
		r->sites[i].failed = f->failed;
		if (!before || since < MAX(many, 4ull))
			continue;
		n++;
		__atomic_fetch_or(failed > since / 2 ? &hot->split[at / 8] : &hot->bad[at / 8],
			1u << at % 8, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&r->judging, false, __ATOMIC_RELEASE);
	return n;
}

/* ---- the work ---- */

static bool there_already(struct jit *j, const struct request *q, enum jit_lane lane)
{
	const struct jit_entry *e = jit_find(j, q->page + q->off, q->fp);

	return e && (lane == LANE_AHEAD || e->region->tier == 2);
}

static void count(struct jit_hot *hot, const struct jit_tr *t, const struct jit_region *r)
{
	struct jit_stats *st = &hot->j->st;

	if (t->lane == LANE_AHEAD) {
		hot->made_ahead++;
		hot->ahead_insns += t->ninsns;
		hot->ahead_bytes += r->code_len;
		return;
	}
	st->hot_regions++;
	st->hot_insns += t->ninsns;
	st->swaps += t->nswaps + t->nfswaps;
	st->sites += t->nsites;
}

/* With jit.lock. `now`: keeps it. */
static bool make(struct jit_hot *hot, struct request *q, enum jit_lane lane, bool now)
{
	struct jit *j = hot->j;
	struct jit_tr *t = hot->tr;
	struct jit_region *r = NULL;
	bool already = there_already(j, q, lane);
	uint64_t room;
	uint8_t *code;

	if (already && q->why == WHY_HOT)
		return true;
	t->j = j;
	t->tier = lane == LANE_SECOND ? 2 : 1;
	t->lane = lane;
	memcpy(t->map, jit_map, sizeof(jit_map));
	memcpy(t->fmap, jit_fmap, sizeof(jit_fmap));
	t->page = q->page;
	t->va = q->va;
	t->fp = q->fp;
	t->host = q->bytes;
	t->live = q->live;
	t->replaces = already ? jit_find(j, q->page + q->off, q->fp)->region : NULL;
	t->retry = q->why == WHY_RETRY;
	t->next_site = (unsigned)(q->page >> PAGE_SHIFT) * 73 + q->off / 16u;
	code = jit_code_room(j, lane, &room);
	if (!code)
		return false;
	atomic_store(&hot->seen, atomic_load(&j->removals));
	atomic_store(&hot->inside, true);
	if (!now)
		pthread_mutex_unlock(&j->lock);
	if (!jit_form(t, q->off) || !jit_emit(t, code, room))
		code = NULL;
	atomic_store(&hot->inside, false);
	if (!now)
		pthread_mutex_lock(&j->lock);
	if (!code || __atomic_load_n(&j->drops, __ATOMIC_ACQUIRE) != q->drops)
		return false;
	r = jit_record(t, code);
	if (!r)
		return false;
	/* What is made ahead may have been met meanwhile. */
	if (!jit_still_right(j, r) || (lane == LANE_AHEAD && there_already(j, q, lane))) {
		for (unsigned i = 0; i < r->nops; i++)
			free(r->ops[i]);
		return false;
	}
	if (lane == LANE_SECOND)
		jit_make_way(j, r);
	jit_publish(j, r, r->code_len);
	jit_tell_perf(t, r);
	count(hot, t, r);
	return true;
}

static void made(struct jit_hot *hot, const struct request *q, bool good);
static void fill(struct request *q, const struct jit *j, uint64_t pa, uint64_t va, uint32_t fp,
	const uint8_t *live);

/* Half of the segments at most: what is swept when one is nearly full must not be what was just made. */
static bool ahead_is_over(const struct jit_hot *hot)
{
	const struct jit *j = hot->j;

	return hot->at == hot->nahead || hot->ahead_drops != j->drops ||
	       hot->ahead_bytes > (j->nfirst - j->nown - 1) * j->seg_bytes / 2;
}

static void make_ahead(struct jit_hot *hot)
{
	uint64_t t0 = clock_mono_ns();
	struct jit *j = hot->j;

	pthread_mutex_lock(&j->lock);
	while (!ahead_is_over(hot)) {
		const struct ahead *a = &hot->ahead[hot->at++];

		if (jit_find(j, a->pa, a->fp))
			continue;
		/* Under the lock, which jit_drop() takes before the page goes. */
		fill(&hot->work, j, a->pa, 0, a->fp, a->live);
		make(hot, &hot->work, LANE_AHEAD, false);
		break;
	}
	if (ahead_is_over(hot)) {
		jit_lane_close(j);
		free(hot->ahead);
		hot->ahead = NULL;
	}
	hot->ahead_ns += clock_mono_ns() - t0;
	pthread_mutex_unlock(&j->lock);
}

static void *work(void *arg)
{
	struct jit_hot *hot = arg;
	struct jit *j = hot->j;

	pthread_setname_np(pthread_self(), "translator");
	_mm_setcsr(0x1f80); /* made by a vCPU's thread, it has the guest's */
	pthread_mutex_lock(&hot->lock);
	while (!hot->stop) {
		uint64_t t0;
		bool good;

		if (!hot->n && hot->ahead) {
			pthread_mutex_unlock(&hot->lock);
			make_ahead(hot);
			pthread_mutex_lock(&hot->lock);
			continue;
		}
		if (!hot->n) {
			pthread_cond_wait(&hot->more, &hot->lock);
			continue;
		}
		hot->work = hot->queue[hot->first];
		hot->first = (hot->first + 1) % HOT_QUEUE;
		hot->n--;
		pthread_mutex_unlock(&hot->lock);
		t0 = clock_mono_ns();
		pthread_mutex_lock(&j->lock);
		good = make(hot, &hot->work, LANE_SECOND, false);
		j->st.hot_refused += !good;
		j->st.hot_ns += clock_mono_ns() - t0;
		pthread_mutex_unlock(&j->lock);
		made(hot, &hot->work, good);
		pthread_mutex_lock(&hot->lock);
	}
	pthread_mutex_unlock(&hot->lock);
	return NULL;
}

/* By a vCPU's thread, or the one that lets them run: it lives in the same sandbox. */
static void start(struct jit_hot *hot)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	hot->started = !pthread_create(&hot->thread, NULL, work, hot);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void fill(struct request *q, const struct jit *j, uint64_t pa, uint64_t va, uint32_t fp,
	const uint8_t *live)
{
	q->drops = __atomic_load_n(&j->drops, __ATOMIC_ACQUIRE);
	q->page = pa & ~(uint64_t)PAGE_MASK;
	q->off = (uint16_t)(pa & PAGE_MASK);
	q->va = va & ~(uint64_t)PAGE_MASK;
	q->fp = fp;
	q->why = WHY_HOT;
	q->live = live;
	memcpy(q->bytes, live, PAGE_SIZE);
}

static struct slot *slot_of(struct jit_hot *hot, uint64_t pa)
{
	return &hot->slots[(pa >> 1) * 0x9e3779b97f4a7c15ull >> 52];
}

static void ask(struct hart *h, uint64_t pa, uint64_t va, const uint8_t *live, uint64_t drops,
	uint64_t counted, enum why why)
{
	struct jit_hot *hot = h->j.jit->hot;
	struct request *q;

	if (pthread_mutex_trylock(&hot->lock))
		return;
	hot->asked++;
	if (hot->n == HOT_QUEUE) {
		hot->dropped++;
	} else {
		q = &hot->queue[(hot->first + hot->n) % HOT_QUEUE];
		fill(q, h->j.jit, pa, va, h->j.ctx_fp, live);
		q->drops = drops;
		q->counted = counted;
		q->why = why;
		slot_of(hot, counted)->asked = true;
		hot->n++;
		if (!hot->started && !hot->stop)
			start(hot);
		pthread_cond_signal(&hot->more);
	}
	pthread_mutex_unlock(&hot->lock);
}

/* ---- samples ---- */

static void made(struct jit_hot *hot, const struct request *q, bool good)
{
	struct slot *s = slot_of(hot, q->counted);

	s->asked = false;
	if (good)
		s->refused = 0;
	else if (s->refused < 6)
		s->refused++;
}

static void fade(struct jit_hot *hot, struct slot *s)
{
	uint32_t now = __atomic_load_n(&hot->taken, __ATOMIC_RELAXED) / HOT_WINDOW;
	uint32_t windows = now - s->window;

	s->samples = windows < 8 ? (uint8_t)(s->samples >> windows) : 0;
	s->window = now;
}

/* vCPUs may lose each other's counts. */
static bool is_hot(struct jit_hot *hot, uint64_t pa)
{
	struct slot *s = slot_of(hot, pa);

	fade(hot, s);
	if (s->pa != pa) {
		if (s->samples) {
			s->samples--;
			return false;
		}
		*s = (struct slot){.pa = pa, .window = s->window};
	}
	if (s->samples < UINT8_MAX)
		s->samples++;
	if (s->asked || s->samples < (s->was_hot ? 1u : HOT_SAMPLES) << MIN(s->refused, (uint8_t)5))
		return false;
	s->was_hot = s->samples >= HOT_SAMPLES;
	s->samples = 0;
	return true;
}

/* What a sample of the second tier's region says. WHY_HOT: it is good as it is. */
static enum why judge(struct hart *h, struct jit_region *r)
{
	struct jit_hot *hot = h->j.jit->hot;
	unsigned bad = sites_that_miss(h, r);

	if (bad && ++r->strikes >= HOT_STRIKES) {
		r->strikes = 0;
		hot->moved += bad;
		return WHY_MISSES;
	}
	/*
	 * Which page an access goes to depends on what it works on, too: a table that lies across two pages in one process does not in the next,
	 * whose code is the same, in the same place. So sites are given up for a while.
	 */
	if (!r->given_up || ++r->samples < HOT_RETRY)
		return WHY_HOT;
	r->samples = 0;
	hot->retried++;
	return WHY_RETRY;
}

void jit_sample(struct hart *h)
{
	struct jit *j = h->j.jit;
	struct jit_hot *hot = j->hot;
	uint64_t drops = __atomic_load_n(&j->drops, __ATOMIC_ACQUIRE);
	struct rv64_code_at at;
	struct jit_entry *e;
	enum why why = WHY_HOT;
	uint64_t counted;

	if (!hot || !rv64_code_where(h, &at))
		return; /* a trap was taken, which the next fetch would have taken */
	__atomic_fetch_add(&hot->taken, 1, __ATOMIC_RELAXED);
	e = jit_find(j, at.pa, h->j.ctx_fp);
	if (!e)
		return;
	counted = e->region->page + e->region->start;
	if (e->region->tier == 2) {
		why = judge(h, e->region);
		if (why == WHY_HOT)
			return;
		at.host += (int)e->region->start - (int)(at.pa & PAGE_MASK);
		at.pa = counted;
	} else if (!is_hot(hot, counted)) {
		return;
	}
	if (j->o.tiers == JIT_TIERS_TWO && at.left == PAGE_SIZE - (h->pc & PAGE_MASK))
		ask(h, at.pa, h->pc, at.host - (at.pa & PAGE_MASK), drops, counted, why);
}

void jit_hot_now(struct jit *j, const struct jit_tr *t)
{
	struct request *q = &j->hot->work;

	fill(q, j, t->page + t->start, t->va, t->fp, t->live);
	if (!make(j->hot, q, LANE_SECOND, true))
		j->st.hot_refused++;
}

/* ---- life ---- */

int jit_hot_create(struct jit *j, struct err *e)
{
	struct jit_hot *hot = calloc(1, sizeof(*hot));

	if (hot)
		hot->tr = calloc(1, sizeof(*hot->tr));
	if (!hot || !hot->tr) {
		free(hot);
		return err_set(e, -ENOMEM, "translator: out of memory");
	}
	hot->j = j;
	hot->tr->lo = 1; /* above hi: nothing in use */
	pthread_mutex_init(&hot->lock, NULL);
	pthread_cond_init(&hot->more, NULL);
	j->hot = hot;
	return 0;
}

void jit_hot_destroy(struct jit *j)
{
	struct jit_hot *hot = j->hot;

	if (!hot)
		return;
	pthread_mutex_lock(&hot->lock);
	hot->stop = true;
	pthread_cond_signal(&hot->more);
	pthread_mutex_unlock(&hot->lock);
	if (hot->started)
		pthread_join(hot->thread, NULL);
	pthread_mutex_destroy(&hot->lock);
	pthread_cond_destroy(&hot->more);
	free(hot->ahead);
	free(hot->tr);
	free(hot);
	j->hot = NULL;
}

void jit_hot_counters(
	struct jit *j, void (*each)(void *ctx, const char *name, uint64_t value), void *ctx)
{
	struct jit_hot *hot = j->hot;

	each(ctx, "hot_regions", j->st.hot_regions);
	each(ctx, "hot_instructions", j->st.hot_insns);
	each(ctx, "hot_us", j->st.hot_ns / 1000);
	each(ctx, "hot_refused", j->st.hot_refused);
	each(ctx, "hot_asked", hot ? hot->asked : 0);
	each(ctx, "hot_dropped", hot ? hot->dropped : 0);
	each(ctx, "ahead_regions", hot ? hot->made_ahead : 0);
	each(ctx, "ahead_instructions", hot ? hot->ahead_insns : 0);
	each(ctx, "ahead_us", hot ? hot->ahead_ns / 1000 : 0);
	each(ctx, "registers_exchanged", j->st.swaps);
	each(ctx, "sites", j->st.sites);
	each(ctx, "sites_given_up", hot ? hot->moved : 0);
	each(ctx, "sites_tried_again", hot ? hot->retried : 0);
}

/* ---- what another machine may begin with ---- */

#define SECOND_TIER (1ull << 63) /* in a word of the list, beside jit_key() */
#define LIST_FIRST 8192u /* words of the first tier: about what is made ahead */

static size_t list_segment(
	const struct jit_segment *seg, uint64_t mark, uint64_t *list, size_t n, size_t max)
{
	for (const struct jit_region *r = seg->regions; r; r = r->next_in_segment)
		for (unsigned k = 0; k < r->nentries && n < max && !r->dead; k++)
			list[n++] = r->entries[k].key | mark;
	return n;
}

size_t jit_hot_list(struct jit *j, uint64_t *list, size_t max)
{
	size_t n = 0;

	pthread_mutex_lock(&j->lock);
	for (unsigned i = j->nfirst; i < j->nsegs; i++)
		n = list_segment(&j->seg[i], SECOND_TIER, list, n, max);
	max = MIN(max, n + LIST_FIRST);
	for (unsigned i = j->nfirst; i-- > 0;) {
		const struct jit_segment *seg = &j->seg[(j->cur[LANE_FIRST] + 1 + i) % j->nfirst];

		n = list_segment(seg, 0, list, n, max);
	}
	pthread_mutex_unlock(&j->lock);
	return n;
}

/* Under the lock; no hart runs. */
static void plan(struct jit *j, const uint64_t *list, size_t n)
{
	struct jit_hot *hot = j->hot;
	uint64_t page = UINT64_MAX;
	const uint8_t *live = NULL;

	if (!hot || hot->ahead || !j->o.memory || j->o.tiers != JIT_TIERS_TWO || !jit_lane_open(j))
		return;
	hot->ahead = calloc(n + 1, sizeof(*hot->ahead));
	hot->nahead = hot->at = 0;
	hot->ahead_bytes = 0;
	hot->ahead_drops = j->drops;
	for (size_t i = 0; hot->ahead && i < n; i++) {
		uint64_t pa = jit_key_pa(list[i]);
		uint32_t fp = list[i] >> 58 & 31;

		if (pa % 2)
			continue;
		if (page != (pa & ~(uint64_t)PAGE_MASK)) {
			page = pa & ~(uint64_t)PAGE_MASK;
			live = j->o.memory(j->o.ctx, page);
			if (live && !jit_watch(j, NULL, page))
				live = NULL;
		}
		/* Code without FP serves all; if there is some after all, that of who uses it. */
		if (live)
			hot->ahead[hot->nahead++] = (struct ahead){
				pa, fp == JIT_FP_ANY ? 8u : fp, live};
	}
}

void jit_warm(struct jit *j, const uint64_t *list, size_t n)
{
	pthread_mutex_lock(&j->lock);
	plan(j, list, n);
	pthread_mutex_unlock(&j->lock);
	for (size_t i = 0; i < n; i++) {
		uint64_t pa = jit_key_pa(list[i]);

		jit_heat_set(j, pa, j->hot && j->hot->ahead ? JIT_WARM / 2 : JIT_WARM - 1);
		if (j->hot && list[i] & SECOND_TIER)
			*slot_of(j->hot, pa) = (struct slot){.pa = pa, .was_hot = true};
	}
}

void jit_go(struct jit *j)
{
	struct jit_hot *hot = j->hot;

	if (!hot || !hot->ahead)
		return;
	pthread_mutex_lock(&hot->lock);
	if (!hot->started && !hot->stop)
		start(hot);
	pthread_cond_signal(&hot->more);
	pthread_mutex_unlock(&hot->lock);
}
