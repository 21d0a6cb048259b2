/*
 * inside.h: between the files of the translator.
 *
 *   form.c       which instructions make a region
 *   translate.c  a region's blocks, jumps, exits; the cold ends of instructions
 *   emit_int.c emit_mem.c emit_fp.c emit_csr.c   one instruction
 *   late.c       instructions that are made together with a later one
 *   address.c    how accesses find memory
 *   stubs.c      code that every region shares: entering, leaving, the ways out to C
 *   cache.c      memory for code, entries, links, removal, eviction
 *   runtime.c    jit_run(), and what the stubs call
 *   tier.c       what is hot, and the thread that translates it again
 */
#ifndef LODGE_CPU_RV64_JIT_INSIDE_H
#define LODGE_CPU_RV64_JIT_INSIDE_H

#include <pthread.h>

#include "base/util.h"
#include "cpu/rv64/block.h"
#include "cpu/rv64/frontend/branch_info.h"
#include "cpu/rv64/decode.h"
#include "cpu/rv64/jit/jit.h"
#include "cpu/rv64/jit/perfmap.h"
#include "cpu/rv64/jit/x86.h"

/* ---- the mapping ---- */

#define JIT_BIAS 128 /* rbp = hart + bias: hart.x[] is reached with one byte of displacement */
#define HART(field) x86_mem(RBP, (int32_t)offsetof(struct hart, field) - JIT_BIAS)
#define JIT_TLB R15 /* but in a region that has given it to jit_tr.holds */
#define JIT_FUEL R12 /* hart.j.fuel, while translated code runs */

/*
 * Host register of a guest register, or 0 (RAX, which is never one): it is in hart.x. This is the mapping by which regions meet, the stubs' and the
 * first tier's; within a region jit_tr.map and jit_tr.fmap say.
 */
static const int8_t jit_map[32] = {
	[2] = R14, /* sp */
	[8] = RBX, /* s0 */
	[9] = R13, /* s1 */
	[10] = RSI,
	[11] = RDI,
	[12] = R8,
	[13] = R9,
	[14] = R10,
	[15] = R11,
};
/* The same for FP registers: fa0-7, ft0-2, fs0-1. 0: in hart.f. */
static const int8_t jit_fmap[32] = {
	[10] = 3,
	[11] = 4,
	[12] = 5,
	[13] = 6,
	[14] = 7,
	[15] = 8,
	[16] = 9,
	[17] = 10,
	[0] = 11,
	[1] = 12,
	[2] = 13,
	[8] = 14,
	[9] = 15,
};

/* Its place in the hart, right when it is in no host register. */
static inline struct x86_rm jit_home(unsigned r)
{
	return x86_mem(RBP, (int32_t)(offsetof(struct hart, x) + 8 * r) - JIT_BIAS);
}

static inline struct x86_rm jit_fhome(unsigned r)
{
	return x86_mem(RBP, (int32_t)(offsetof(struct hart, f) + 8 * r) - JIT_BIAS);
}

/* ---- where an instruction is, for whoever leaves at it ---- */

/* off: 12 bits, of the page; left: 8 bits, instructions charged but not done, it included; len: its bytes */
static inline uint32_t jit_where(unsigned off, unsigned left, unsigned len)
{
	return off | left << 12 | len << 20;
}

/* What a slow access does: size and MEM_ flags, register, direction. */
#define JIT_STORE 0x10000u
static inline uint32_t jit_access(unsigned how, unsigned reg, bool store)
{
	return how | reg << 8 | (store ? JIT_STORE : 0);
}

/* ---- contexts ---- */

#define JIT_JUMPS 4096u
#define JIT_CTXS 8u
struct jit_ctx {
	uint64_t gen; /* of hart.code_gen */
	uint32_t fp;
	uint32_t used; /* for the choice of the one to give up; 0: never */
	uint64_t seen; /* removals of which it names no more */
	uint32_t found,
		close; /* put into its jumps since then; removals in a row that came close after each other */
	struct jit_jump *
		jumps; /* JIT_JUMPS; apart, because all contexts are looked through at each system call */
};

static inline unsigned jit_jump_slot(uint64_t pc)
{
	return (unsigned)((pc ^ pc >> 10) >> 1) & (JIT_JUMPS - 1);
}

/* The only other slot that pc may be in, whichever of the two this one is. */
static inline unsigned jit_jump_other(uint64_t pc, unsigned slot)
{
	return slot ^ (((uint32_t)(pc >> 12) * 0x9e3779b1u >> 20 & (JIT_JUMPS - 1)) | 1);
}

/* fp context: 0: FP instructions trap or dirty the state; else 8 | frm */
static inline uint32_t jit_fp_of(const struct hart *h)
{
	return h->fs == 3 ? 8u | h->fp.frm : 0;
}
#define JIT_FP_ANY 31u /* code without FP instructions */

/* ---- cache.c ---- */

/* One way into translated code. Never changed once it can be found, but for `next`. */
struct jit_entry {
	uint64_t key; /* jit_key() */
	const uint8_t *code;
	struct jit_region *region;
	struct jit_entry *_Atomic next;
};

static inline uint64_t jit_key(uint64_t pa, uint32_t fp)
{
	return pa | (uint64_t)fp << 58;
}

static inline uint64_t jit_key_pa(uint64_t key)
{
	return key & ((1ull << 58) - 1);
}

/* A jump in translated code whose target may be patched. */
struct jit_link {
	uint8_t *at; /* its rel32, in the writable mapping */
	const uint8_t *unlinked; /* where it goes when it is not linked: in that mapping */
	struct jit_region *from, *to; /* to: linked */
	struct jit_link *next_in, **prev_in; /* of to->in */
	uint16_t target; /* offset in the page */
	bool by_context; /* from code for every context to code for one: not linked but looked up */
};

/* An access of a second-tier region that remembers its page: address.c. */
struct jit_site {
	uint16_t off; /* of its instruction in the page */
	uint16_t slot; /* of hart.j.site */
	uint32_t missed, failed; /* of the slot, when the region was last judged */
};

struct jit_region {
	uint64_t page; /* guest-physical */
	uint32_t fp;
	bool dead;
	uint8_t tier; /* 1, 2 */
	uint8_t lane; /* enum jit_lane: whose segment it is in */
	uint8_t strikes; /* samples in which sites found another page too often */
	bool given_up; /* made without some of its sites */
	uint32_t samples; /* since then */
	uint16_t start; /* offset that it was formed from */
	const struct hart *judged_by; /* at a sample, last; and its instret then */
	bool judging; /* by one hart at a time */
	uint64_t judged_at;
	struct jit_site *sites;
	unsigned nsites;
	struct jit_page *in_page;
	struct jit_region *next_in_page, *next_in_segment;
	struct jit_link *in; /* jumps from elsewhere to here */
	struct jit_link *links;
	unsigned nlinks;
	struct jit_entry *entries;
	unsigned nentries;
	struct rv64_block **ops; /* of instructions that are interpreted */
	unsigned nops;
	uint32_t code_len, insns;
	const uint8_t *code;
	/* What it was made from: pieces of the page. */
	unsigned npieces;
	struct jit_piece {
		uint16_t off, len;
	} * pieces;
	const uint8_t *source;
	const uint8_t *host; /* of the page */
};

#define JIT_BUCKETS (1u << 15)
#define JIT_PAGES 4096u
#define JIT_QUIET 8 /* fences without a change, after which a page is watched again */
#define JIT_SEGMENTS 8u /* at least */
#define JIT_SEGMENT_MAX (1ull << 20) /* of each, one is empty or about to be */
#define JIT_SWEEP 32u /* regions that are removed in one go */
#define JIT_HEAT 65536u
#define JIT_WARM 12 /* executions of a block before its region is translated */
#define JIT_COLD_MAX 255u /* in heat: not to be translated */

/*
 * A page that code was translated of. Watched: nobody has written to it since. Else it is on the list of pages that each fence
 * compares with memory; a page that stays as it is for some fences is watched again.
 */
struct jit_page {
	uint64_t page, stamp;
	struct jit_region *regions;
	struct jit_page *next_hash, *next_unsure;
	bool armed; /* the next write will be told; false: written since */
	bool unsure; /* on the list */
	uint8_t quiet; /* fences without a change */
};

struct meta;
struct jit_segment {
	uint8_t *base, *used;
	uint8_t *touched; /* how far it was ever used: memory that the host has given */
	struct jit_region *regions;
	struct jit_region *sweep; /* the next of them to be removed */
	struct meta *meta, *fill; /* malloc'd pieces: entries, links, sources; the one in use */
	uint64_t
		drained_at; /* removals that all must have seen before it is used again; 0: in use */
};

struct jit_stats {
	uint64_t regions, blocks, insns, translate_ns; /* made */
	uint64_t removed, evictions, links;
	uint64_t
		longest_eviction_ns; /* a step of a segment's sweep, or it made ready, of the CPU's time */
	uint64_t taken_along, paired, pairs_found; /* branch_info.h */
	uint64_t hot_regions, hot_insns, hot_refused, hot_ns, swaps, sites; /* second tier */
};

struct jit_hot;

/* Who makes code, each in segments of its own: where one writes, nobody else does. */
enum jit_lane {
	LANE_FIRST, /* vCPUs, the first tier */
	LANE_SECOND, /* the thread, the second tier */
	LANE_AHEAD, /* the thread, the first tier before it is met: half of its segments for so long */
	LANES
};

struct jit {
	struct jit_opts o;
	pthread_mutex_t lock;
	uint8_t *rw, *rx; /* the same memory */
	uint64_t size, seg_bytes;
	struct jit_segment *seg;
	unsigned nsegs,
		nfirst; /* the first of them are for the first tier, a quarter for the second */
	unsigned nown; /* of those, the vCPUs' own: all, but while code is made ahead */
	unsigned cur[LANES]; /* segment that each fills */
	uint64_t
		drops; /* jit_drop() has been called: host pointers of before are no longer good. Atomic */
	struct jit_hot *hot; /* tier.c; NULL: one tier */
	struct jit_entry *_Atomic entries[JIT_BUCKETS];
	struct jit_page *pages[JIT_PAGES];
	struct jit_page *unsure; /* pages that fences look at */
	uint64_t lines
		[JIT_PAGES]; /* of 64 bytes in which there may be entries, by page; pages share */
	/* What jit_written() has heard since the last fence. Its own lock: writers must not wait for a translation. */
	pthread_mutex_t written_lock;
	uint64_t *written;
	unsigned nwritten, written_room;
	_Atomic bool lost; /* no memory to remember one: look at everything */
	_Atomic uint64_t removals;
	/*
	 * What tables of jumps may still name, for whoever sees that `removals` has moved: a bit for each 16 bytes of the cache in which an entry of a
	 * removed region lies, until other code is published there; and the removals when a segment was last ready to be used again: who
	 * has not looked since then cannot tell.
	 */
	uint64_t *gone;
	_Atomic uint64_t drained;
	_Atomic uint64_t fence_asked, fence_done; /* numbers of fences: jit_settle() */
	uint16_t heat[JIT_HEAT]; /* times that a block was interpreted, and which (jit_heat()) */
	struct hart *harts[CPU_MAX_VCPUS];
	unsigned nharts;
	struct rv64_decoder decoder;
	struct jit_stats st;
	/* stubs.c */
	void (*enter)(void); /* struct jit_link *(struct hart *, const void *code) */
	const uint8_t *leave_pc, *leave_fuel, *leave_link, *look_again, *look_link, *leave_va,
		*jump_va, *slow_mem, *slow_op;
	struct jit_tr *tr; /* workspace, under the lock */
	struct branch_table *branches; /* the same */
	struct jit_perf *perf; /* NULL: nobody wants names */
};

int jit_cache_create(struct jit *j, struct err *e);
void jit_cache_destroy(struct jit *j);
struct jit_entry *jit_find(struct jit *j, uint64_t pa, uint32_t fp);
/* The rest: under the lock. */
/* Memory for a region's code, in the writable mapping; NULL: none now (a hart has yet to leave old code). */
uint8_t *jit_code_room(struct jit *j, enum jit_lane lane, uint64_t *room);
/* Of the segment that the lane fills; zeroed; NULL: out of memory. */
void *jit_meta(struct jit *j, enum jit_lane lane, size_t n);
/* Half of the first tier's segments for code that is made ahead, and back. False: they are in use. */
bool jit_lane_open(struct jit *j);
void jit_lane_close(struct jit *j);
void jit_publish(struct jit *j, struct jit_region *r, uint64_t code_len);
/*
 * May the region still be published, which was made from bytes that were read some time ago, without the lock? It may when the page is one that fences
 * look at or that is watched, and the bytes are what memory holds: whoever writes them from now on is heard.
 */
bool jit_still_right(struct jit *j, const struct jit_region *r);
/* Removes the regions of r's page that have an entry of r's. */
void jit_make_way(struct jit *j, const struct jit_region *r);
/* Before code of the page is read. False: out of memory. h: whose thread it is; NULL: no hart runs. */
bool jit_watch(struct jit *j, struct hart *h, uint64_t page);
/* Does the fences that are owed, without waiting. False: the lock is taken, h may run no translated code yet. Without the lock. */
bool jit_settle(struct jit *j, struct hart *h);
void jit_link_to(struct jit *j, struct jit_link *l, struct jit_entry *e);
void jit_remove(struct jit *j, struct jit_region *r);

static inline const uint8_t *jit_rx(const struct jit *j, const uint8_t *rw)
{
	return j->rx + (rw - j->rw);
}

/* Code of regions begins at multiples of 16: no two share a bit. */
static inline bool jit_is_gone(const struct jit *j, const void *code)
{
	uint64_t at = (uint64_t)((const uint8_t *)code - j->rx) / 16;

	return __atomic_load_n(&j->gone[at / 64], __ATOMIC_RELAXED) >> at % 64 & 1;
}

static inline uint32_t jit_page_hash(uint64_t page)
{
	return (uint32_t)(page * 0x9e3779b97f4a7c15ull >> 52);
}

/*
 * How often the block at pa was interpreted, up to JIT_COLD_MAX. A table that blocks share: eight bits tell them apart, and each has two
 * places. A newcomer takes that of the colder one, so that code that runs once never adds up to warm code. Two vCPUs may lose a count.
 */
static inline uint16_t *jit_heat_slots(struct jit *j, uint64_t pa, uint8_t *tag)
{
	uint64_t h = (pa >> 1) * 0x9e3779b97f4a7c15ull;

	/* Once more: functions at equal distances would meet. */
	h = (h ^ h >> 32) * 0x9e3779b97f4a7c15ull;
	*tag = (uint8_t)(h >> 40);
	return &j->heat[h >> 48 & ~1ull];
}

static inline uint8_t jit_heat(struct jit *j, uint64_t pa)
{
	uint8_t tag;
	const uint16_t *v = jit_heat_slots(j, pa, &tag);

	return v[0] >> 8 == tag ? (uint8_t)v[0] : v[1] >> 8 == tag ? (uint8_t)v[1] : 0;
}

static inline void jit_heat_set(struct jit *j, uint64_t pa, uint8_t n)
{
	uint8_t tag;
	uint16_t *v = jit_heat_slots(j, pa, &tag);

	if (v[0] >> 8 != tag && (v[1] >> 8 == tag || (uint8_t)v[1] < (uint8_t)v[0]))
		v++;
	*v = (uint16_t)(tag << 8 | n);
}

/* ---- stubs.c ---- */
void jit_make_stubs(struct jit *j, struct x86 *a);
/*
 * rax: an address, even. Goes on with hart.j.page set and the code's address in [rdx + rcx * 8 + 8], or jumps to *miss (rel32, rax as it
 * was).
 */
void jit_emit_lookup(struct x86 *a, uint8_t **miss);
/* Out of line, at *miss: the other slot. Goes back when it is there, and on when it is not, with rax as it was. */
void jit_emit_look_again(struct jit *j, struct x86 *a, uint8_t *miss);

/* ---- form.c and translate.c ---- */

#define JIT_REGION_INSNS 512u
#define JIT_PASS_INSNS 256u /* of the first tier, in one go: the guest waits for it */
#define JIT_REGION_BLOCKS 128u
#define JIT_PAIRS 16u
#define JIT_LINES 1024u /* of the table of far branches */
#define JIT_LOOP_INSNS 64u /* of all copies of a loop of one block */
#define JIT_REPEATED 256u /* instructions that copies may add to a region */

struct jit_insn {
	struct rv64_insn in;
	uint32_t word;
	uint16_t off;
};

enum jit_end {
	END_FALL,
	END_BRANCH,
	END_JAL,
	END_JALR,
	END_STOP /* the last instruction never goes on */
};

/* In the second tier there may be branches before its end. */
struct jit_block {
	uint16_t off, first, n; /* offset in the page; instructions */
	uint16_t next; /* offset behind it */
	enum jit_end end;
	uint8_t depth; /* of loops; second tier */
	uint8_t copies; /* that it is made of: more for a loop of this one block */
	uint8_t *code; /* by the region's mapping */
	uint8_t *
		slow; /* the same, each access with a look of its own: where the looks at its start fail */
	uint8_t *entry; /* by the common one: from outside, and after calls */
};

enum jit_cold_kind {
	COLD_MEM,
	COLD_OP,
	COLD_LINK,
	COLD_FUEL,
	COLD_VA,
	COLD_MISS,
	COLD_JUMP,
	COLD_ENTRY,
	COLD_GO,
	COLD_CUSTOM
};
struct jit_tr;

/* FP registers, all with a host register, that do not hold yet what the guest may see: emit_fp.c. */
struct jit_fp {
	uint32_t
		nan; /* the result of an operation: if it is a NaN, it may not be the canonical one */
	uint32_t single; /* of these, and of `loose`: a single */
	uint32_t loose; /* a single without its box */
};

/* A shift that nobody has wanted the result of yet: late.c. */
struct jit_late {
	uint8_t rd, src, by; /* one of them has a host register */
	bool right : 1, wide : 1;
};
#define JIT_LATE 8

struct jit_cold {
	enum jit_cold_kind kind;
	uint8_t *from; /* rel32 of the jump that comes here */
	uint8_t *back;
	uint32_t a, b;
	struct rv64_block *op;
	uint32_t low; /* jit_tr.low there */
	struct jit_fp fp; /* jit_tr.fp_late there */
	struct jit_late late[JIT_LATE]; /* jit_tr.late there */
	unsigned nlate;
	void (*custom)(struct jit_tr *t, struct jit_cold *c);
	uint64_t arg[2];
};

/* The work on one region. */
struct jit_tr {
	struct x86 a;
	struct jit *j;
	uint64_t page; /* guest-physical */
	uint64_t va; /* of the page, for perf */
	const uint8_t *host; /* what is read; a copy in the second tier */
	const uint8_t *live; /* the page itself */
	unsigned tier;
	enum jit_lane lane;
	uint16_t start;
	/* Far branches to other pages, as distances from the page's start: to be translated in the same pass. */
	int64_t pairs[JIT_PAIRS];
	unsigned npairs;
	const struct jit_region *replaces; /* in the second tier: as if it were not there */
	/* Host registers that hold another guest register than by the common mapping. */
	struct jit_swap {
		int8_t host;
		uint8_t theirs, ours; /* by the common mapping, by this region's */
	} swaps[10], fswaps[13];
	unsigned nswaps, nfswaps;
	/* Host registers that hold hart.j.near[slot - 1], and what they hold by the common mapping: a guest register, or 0, the TLB. */
	struct jit_hold {
		int8_t host;
		uint8_t slot, theirs;
	} holds[3];
	unsigned nholds;
	int8_t near_host[JIT_NEAR + 1]; /* of slot; 0: it is in the hart */
	struct jit_site sites[128];
	unsigned nsites, next_site;
	bool given_up, retry; /* some sites were; they are tried again */
	uint32_t fp; /* context */
	int8_t map[32], fmap[32]; /* as jit_map and jit_fmap, for this region */
	unsigned frm;
	bool uses_fp;
	struct jit_insn insns[JIT_REGION_INSNS]; /* as they were found */
	struct jit_insn sorted[JIT_REGION_INSNS]; /* by address: blocks refer to these */
	unsigned ninsns;
	struct jit_block blocks[JIT_REGION_BLOCKS];
	unsigned nblocks;
	uint16_t at[2048]; /* by halfword of the page: 1 + instruction */
	uint16_t block_at[2048]; /* 1 + block */
	uint8_t leader[2048];
	uint16_t led[2 * JIT_REGION_BLOCKS]; /* where leader is set */
	unsigned nled;
	unsigned lo, hi; /* halfwords that were found: what of the tables is in use */
	struct jit_fix {
		uint8_t *at;
		uint16_t target;
		bool entry; /* of a call: by the common mapping */
	} fixes[4 * JIT_REGION_BLOCKS];
	unsigned nfixes;
	struct jit_cold colds[8 * JIT_REGION_INSNS];
	unsigned ncolds;
	struct {
		uint8_t *at;
		uint8_t *unlinked;
		uint16_t target;
	} links[4 * JIT_REGION_BLOCKS];
	unsigned nlinks;
	struct rv64_block *ops[JIT_REGION_INSNS];
	unsigned nops;
	/* While a block is made. */
	const struct jit_insn *insn;
	unsigned left; /* instructions of the block from this one on */
	uint32_t known; /* guest registers whose value is known */
	uint64_t value[32];
	uint32_t boxed; /* FP registers that surely hold a boxed single */
	struct jit_fp fp_late;
	uint32_t nan_of[32]; /* FP registers that are no NaNs if this one is none */
	unsigned index; /* of the instruction in its block, all copies counted */
	unsigned repeated;
	/*
	 * Sign extension put off. sx: guest registers whose value is a sign-extended 32-bit one; low: of these, the ones whose host
	 * register has only the low half right. What needs the whole asks jit_full() first; blocks end, and code is left, with all whole.
	 */
	uint32_t sx, low;
	struct jit_late late[JIT_LATE];
	unsigned nlate;
	/* The flags are those of this register, compared with 0, while code ends there. */
	const uint8_t *zero_at;
	int zero_reg;
	bool alone; /* look, even if the access could share: out of line */
	/* address.c: by instruction of the block. */
	struct jit_near {
		uint8_t slot; /* of hart.j.near, from 1; 0: alone */
		bool first, write; /* looks for all; some store */
		bool chained; /* right behind another with the same slot */
		bool early; /* the block's start has looked, and it is there */
		uint8_t before, span; /* bytes: from the lowest of all to this one; of all */
	} near[JIT_BLOCK_INSNS + 1];
	struct jit_cold *chain; /* of the access before this one */
	/* Looks at the block's start: for [reg + lo, reg + lo + span). */
	struct jit_early {
		uint8_t slot, reg, n; /* n: accesses */
		uint8_t span;
		bool write;
		uint16_t index; /* of the first access */
		int32_t lo;
	} early[JIT_NEAR];
	unsigned nearly;
	struct jit_cold nowhere; /* of accesses that cannot miss */
};

static inline struct x86_rm jit_x(const struct jit_tr *t, unsigned r)
{
	return t->map[r] ? x86_reg(t->map[r]) : jit_home(r);
}

static inline struct x86_rm jit_f(const struct jit_tr *t, unsigned r)
{
	return t->fmap[r] ? x86_reg(t->fmap[r]) : jit_fhome(r);
}

/* Fills insns and blocks from `off` on. False: nothing to translate there. */
bool jit_form(struct jit_tr *t, unsigned off);
static inline bool jit_is_branch(unsigned id)
{
	return id >= RV_beq && id <= RV_bgeu;
}

/* The block that begins at off, or NULL. */
struct jit_block *jit_block_at(struct jit_tr *t, unsigned off);
/* Translates what was formed. NULL: no room, or it did not fit (t->a.full). */
struct jit_region *jit_translate(struct jit_tr *t);
/* Its two halves: code into [code, code + room), for which no lock is needed, and (under the lock) what names it. False, NULL: as above. */
bool jit_emit(struct jit_tr *t, uint8_t *code, uint64_t room);
struct jit_region *jit_record(struct jit_tr *t, uint8_t *code);
void jit_tell_perf(struct jit_tr *t, const struct jit_region *r);
/* From the region's mapping to the common one, before anything leads out of the region; and back. Flags and rax, rcx, rdx stay. */
void jit_swap_out(struct jit_tr *t);
void jit_swap_in(struct jit_tr *t);

/* ---- tier.c ---- */

int jit_hot_create(struct jit *j, struct err *e);
void jit_hot_destroy(struct jit *j);
/* The hart has used up its instructions before the block at h->pc: that is where its time goes. Never waits. */
void jit_sample(struct hart *h);
/* JIT_TIERS_NOW: the second tier at once, of what the first has just made of t. Under the lock. */
void jit_hot_now(struct jit *j, const struct jit_tr *t);
/* Has the thread seen that many removals, or is it looking at nothing? */
bool jit_hot_has_left(const struct jit *j, uint64_t since);
/* Does the access at this address go to another page each time? Are those that would share its look in two pages? */
bool jit_bad_site(struct jit_tr *t, uint64_t pa);
bool jit_split_site(struct jit_tr *t, uint64_t pa);
/* t->map and t->fmap for what was formed. */
void jit_choose_map(struct jit_tr *t);
void jit_hot_counters(
	struct jit *j, void (*each)(void *ctx, const char *name, uint64_t value), void *ctx);

/* For emitters. The word of the instruction at hand. */
static inline uint32_t jit_here(const struct jit_tr *t)
{
	return jit_where(t->insn->off, t->left, t->insn->in.len);
}
/* A jump that was emitted with rel32 at `from` leads out of line; continue at `back` (NULL: where the code is now). */
struct jit_cold *jit_cold(struct jit_tr *t, enum jit_cold_kind kind, uint8_t *from);
/* The instruction at hand, by the interpreter: out of line, coming from `from`, then on to jit_cold.back. */
void jit_cold_op(struct jit_tr *t, uint8_t *from);
/* The same in line. */
void jit_emit_op(struct jit_tr *t);
/* A guest register's value in a host register: its own, or `tmp`, loaded. */
int jit_src(struct jit_tr *t, unsigned r, int tmp);
/* The same, always in `tmp`. */
void jit_get(struct jit_tr *t, int tmp, unsigned r);
/* Where a result for r may be made: its own register, or tmp; jit_put() then stores it. */
int jit_dst(const struct jit_tr *t, unsigned r, int tmp);
void jit_put(struct jit_tr *t, unsigned r, int reg);
/* Makes r whole; all of them. */
void jit_full(struct jit_tr *t, unsigned r);
void jit_full_all(struct jit_tr *t);
/* Makes all FP registers what the guest may see. */
void jit_fp_settle(struct jit_tr *t);
/* The same out of line, for what was late there. Changes rdx and xmm0. */
void jit_fp_mend(struct jit_tr *t, const struct jit_fp *late);
/* r = the sign-extended low half of `reg`: whole only when somebody asks. */
void jit_put_low(struct jit_tr *t, unsigned r, int reg);
/* Which sources the instruction reads the low half of only: 1 rs1, 2 rs2. */
unsigned jit_reads_low(const struct jit_tr *t, const struct rv64_insn *in);
/* r = v, and it is known. */
void jit_put_const(struct jit_tr *t, unsigned r, uint64_t v);

/* ---- late.c ---- */

/* Before an instruction: what it needs is made. True: nothing more is to be done for it now. */
bool jit_late_take(struct jit_tr *t, const struct rv64_insn *in);
/* rd is wanted; all are; rd has another value. */
void jit_late_need(struct jit_tr *t, unsigned rd);
void jit_late_make_all(struct jit_tr *t);
void jit_late_drop(struct jit_tr *t, unsigned rd);
/* Out of line: those that waited there, without rax, rcx, rdx. */
void jit_late_cold(struct jit_tr *t, const struct jit_cold *c);
/* rd = pc + imm, which fits into 32 bits as a distance from the page's start. */
void jit_emit_auipc(struct jit_tr *t, unsigned rd, int64_t imm);
/* Both instructions as one. */
bool jit_emit_pair(struct jit_tr *t, const struct rv64_insn *in, const struct rv64_insn *next);

/* Each true when it emitted the instruction. */
bool jit_emit_int(struct jit_tr *t, const struct rv64_insn *in);
bool jit_emit_mem(struct jit_tr *t, const struct rv64_insn *in);
bool jit_emit_fp(struct jit_tr *t, const struct rv64_insn *in);
bool jit_emit_csr(struct jit_tr *t, const struct rv64_insn *in);

/* rs1 + imm in rax. */
void jit_emit_va(struct jit_tr *t, unsigned rs1, int32_t imm);
/*
 * Where [rs1 + imm] is: *m, which may use rax and rcx; changes rdx too. `what` for the slow way: jit_access(). The caller says with
 * jit_back() where the access is done. For the instruction at hand only: it may share its look with others.
 */
struct jit_cold *jit_emit_access(struct jit_tr *t, unsigned rs1, int32_t imm, unsigned size,
	bool write, uint32_t what, struct x86_rm *m);
/*
 * The same for [rs1] of atomics: host address in rax; misaligned ones and misses are the interpreter's. Sizes above 8: the block of that size
 * in which rs1 points.
 */
struct jit_cold *jit_emit_aligned(struct jit_tr *t, unsigned rs1, unsigned size, bool write);
/* Before a block is made: which of its accesses share a look at the TLB. */
void jit_find_near(struct jit_tr *t, const struct jit_block *b);
/* At the start of block `number`: the looks that are made there. */
void jit_emit_early(struct jit_tr *t, unsigned number);
/* Where the block's slow form is to be made, out of line. */
void jit_emit_slow(struct jit_tr *t, struct jit_block *b);
static inline struct x86_rm jit_near_home(unsigned slot)
{
	return x86_mem(RBP, (int32_t)(offsetof(struct hart, j.near) + 8 * (slot - 1)) - JIT_BIAS);
}
static inline void jit_back(struct jit_tr *t, struct jit_cold *c)
{
	c->back = t->a.p;
}

#endif
