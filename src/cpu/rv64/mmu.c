/*
 * mmu.c: address translation and the software TLB (privileged specification, "Sv39", "Sv48", "Svnapot", "Svpbmt", "Svadu").
 *
 *   va --TLB miss--> translate(): walk, checks, A/D --> pa --PMP--> space_page() --> host address --> TLB entry
 *                                                                  | no RAM there
 *                                                                  v
 *                                                           MMIO exit (loads and stores)
 *
 * All page-table reads go through the space, as every other access does; A and D are set by compare-exchange on
 * memory, so that harts that walk at the same time never lose each other's bits.
 */
#include <errno.h>
#include <string.h>

#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

#define PTE_V BIT(0)
#define PTE_R BIT(1)
#define PTE_W BIT(2)
#define PTE_X BIT(3)
#define PTE_U BIT(4)
#define PTE_G BIT(5)
#define PTE_A BIT(6)
#define PTE_D BIT(7)
#define PTE_PBMT (3ull << 61)
#define PTE_N BIT(63)
#define PTE_RESERVED (0x7full << 54)
#define PTE_PPN(p) ((p) >> 10 & ((1ull << 44) - 1))

/* What kind of fault a failed access becomes. */
enum fail { OK, FAIL_PAGE, FAIL_ACCESS, FAIL_VIEW };

struct where {
	uint64_t pa;
	uint64_t span; /* bytes that its leaf maps; 0: no translation */
	bool global;
	bool writable; /* a write would have nothing to check or set */
};

static uint64_t fault_cause(enum fail f, unsigned acc)
{
	if (f == FAIL_PAGE)
		return acc == MEM_EXEC	  ? CAUSE_FETCH_PAGE
		       : acc == MEM_WRITE ? CAUSE_STORE_PAGE
					  : CAUSE_LOAD_PAGE;
	return acc == MEM_EXEC	  ? CAUSE_FETCH_ACCESS
	       : acc == MEM_WRITE ? CAUSE_STORE_ACCESS
				  : CAUSE_LOAD_ACCESS;
}

/*
 * Host address of guest memory that is about to be read or, announced, written. Reads of RAM in leaves of 2 MiB and more are remembered: what
 * takes that memory away flushes the TLB. NULL: no RAM, or not permitted (*perm).
 */
static char *memory_at(
	struct hart *h, uint64_t pa, enum mem_access acc, unsigned *perm, bool *write_free)
{
	struct tlb_ram *r = &h->mmu->ram[pa >> 21 & (TLB_RAMS - 1)];
	uint64_t in = pa & ((2ull << 20) - 1);
	struct space_page pg;

	*write_free = false;
	if (acc == MEM_READ && likely(r->number == pa >> 21)) {
		*perm = r->perm;
		return r->host + in;
	}
	if (space_page(h->vm->o.space, 0, gpa(pa), acc, &pg)) {
		*perm = pg.perm;
		return NULL;
	}
	*perm = pg.perm;
	*write_free = pg.write_free;
	if (pg.perm & MEM_READ && pg.order >= FRAME_ORDER_2M)
		*r = (struct tlb_ram){pa >> 21, (char *)pg.host - (in & ~PAGE_MASK), pg.perm};
	return (char *)pg.host + (pa & PAGE_MASK);
}

/* The page-table entry at `pa`, as a host address. */
static _Atomic uint64_t *pte_at(struct hart *h, uint64_t pa, enum mem_access acc)
{
	unsigned perm;
	bool free;

	if (!pmp_check(h, pa, 8, acc, PRIV_S))
		return NULL;
	return (_Atomic uint64_t *)(void *)memory_at(h, pa, acc, &perm, &free);
}

static bool leaf_allows(const struct hart *h, uint64_t pte, unsigned acc, unsigned priv)
{
	bool sum = h->mstatus & MSTATUS_SUM, mxr = h->mstatus & MSTATUS_MXR;

	if (priv == PRIV_U && !(pte & PTE_U))
		return false;
	if (priv == PRIV_S && pte & PTE_U && (acc == MEM_EXEC || !sum))
		return false;
	switch (acc) {
	case MEM_EXEC:
		return pte & PTE_X;
	case MEM_WRITE:
		return pte & PTE_W;
	default:
		return pte & PTE_R || (mxr && pte & PTE_X);
	}
}

static bool pbmt_ok(const struct hart *h, uint64_t pte)
{
	if (!(pte & PTE_PBMT))
		return true;
	return h->c.menvcfg & MENVCFG_PBMTE && (pte & PTE_PBMT) != PTE_PBMT;
}

enum step { STEP_DOWN, STEP_LEAF, STEP_FAULT };

/* What an entry is, before permissions. */
static enum step classify(const struct hart *h, uint64_t pte, unsigned level)
{
	uint64_t low = (1ull << (9 * level)) - 1;

	if (!(pte & PTE_V) || (!(pte & PTE_R) && pte & PTE_W) || pte & PTE_RESERVED ||
		!pbmt_ok(h, pte))
		return STEP_FAULT;
	if (!(pte & (PTE_R | PTE_X)))
		return level && !(pte & (PTE_A | PTE_D | PTE_U | PTE_N | PTE_PBMT)) ? STEP_DOWN
										    : STEP_FAULT;
	if (PTE_PPN(pte) & low)
		return STEP_FAULT;
	/* Svnapot: 64 KiB is the only size, at the lowest level. */
	if (pte & PTE_N && (level || (PTE_PPN(pte) & 15) != 8))
		return STEP_FAULT;
	return STEP_LEAF;
}

static uint64_t leaf_pa(uint64_t pte, uint64_t va, unsigned level)
{
	uint64_t ppn = PTE_PPN(pte), vpn = va >> PAGE_SHIFT;
	uint64_t low = pte & PTE_N ? 15 : (1ull << (9 * level)) - 1;

	return (ppn & ~low) << PAGE_SHIFT | (vpn & low) << PAGE_SHIFT | (va & PAGE_MASK);
}

/*
 * Where the walk begins: at the root, or at the last-level table if it is known. (What is remembered is forgotten by every fence that
 * may be about more than leaves; the specification asks no more.)
 */
static unsigned begin(struct hart *h, uint64_t va, unsigned levels, bool probe, uint64_t *table,
	char **host, struct where *w)
{
	const struct tlb_walk *k = &h->mmu->walks[va >> 21 & (TLB_WALKS - 1)];

	if (!probe && k->number == va >> 21 && k->satp == h->c.satp && !k->leaf) {
		*table = k->pa;
		*host = k->host;
		w->global = k->global;
		return 1;
	}
	*table = (h->c.satp & ((1ull << 44) - 1)) << PAGE_SHIFT;
	*host = NULL;
	w->global = false;
	return levels;
}

static void remember(
	struct hart *h, uint64_t va, uint64_t table, const _Atomic uint64_t *p, bool global)
{
	if (h->pmp_open)
		h->mmu->walks[va >> 21 & (TLB_WALKS - 1)] = (struct tlb_walk){.number = va >> 21,
			.satp = h->c.satp,
			.pa = table,
			.host = (char *)((uintptr_t)p & ~PAGE_MASK),
			.global = global};
}

static void remember_leaf(
	struct hart *h, uint64_t va, uint64_t pte, unsigned level, const struct where *w)
{
	h->mmu->walks[va >> 21 & (TLB_WALKS - 1)] = (struct tlb_walk){.number = va >> 21,
		.satp = h->c.satp,
		.leaf = pte,
		.level = (uint8_t)level,
		.global = w->global};
	h->mmu->giant |= level > 1;
}

static void found(
	struct hart *h, uint64_t va, uint64_t pte, unsigned level, unsigned priv, struct where *w)
{
	w->pa = leaf_pa(pte, va, level);
	w->span = pte & PTE_N ? 16 * PAGE_SIZE : PAGE_SIZE << (9 * level);
	w->writable = pte & PTE_D && leaf_allows(h, pte, MEM_WRITE, priv);
}

/*
 * A large page is one entry here, and serves each of its 4 KiB that the tables for translated code come to want. False: not known, or it does
 * not allow that, or D is to be set: what memory says is right then.
 */
static bool in_large_page(struct hart *h, uint64_t va, unsigned acc, unsigned priv, struct where *w)
{
	const struct tlb_walk *k = &h->mmu->walks[va >> 21 & (TLB_WALKS - 1)];

	if (k->number != va >> 21 || k->satp != h->c.satp || !k->leaf ||
		!leaf_allows(h, k->leaf, acc, priv) || (acc == MEM_WRITE && !(k->leaf & PTE_D)))
		return false;
	w->global = k->global;
	found(h, va, k->leaf, k->level, priv, w);
	return true;
}

/* Sets A and D. `pte` is what was read; -EAGAIN: it is something else now. */
static int update(struct hart *h, uint64_t slot, uint64_t pte, uint64_t want, enum fail *f)
{
	_Atomic uint64_t *p;

	*f = FAIL_PAGE;
	if (!(h->c.menvcfg & MENVCFG_ADUE))
		return -EPERM;
	*f = FAIL_ACCESS;
	p = pte_at(h, slot, MEM_WRITE);
	if (!p)
		return -EPERM;
	return atomic_compare_exchange_strong(p, &pte, want) ? 0 : -EAGAIN;
}

/* `probe`: change nothing in the guest. */
static enum fail walk(
	struct hart *h, uint64_t va, unsigned acc, unsigned priv, bool probe, struct where *w)
{
	unsigned levels = h->c.satp >> 60 == SATP_SV48 ? 4 : 3;
	unsigned bits = 12 + 9 * levels;
	uint64_t table;
	char *host;

	if ((int64_t)(va << (64 - bits)) >> (64 - bits) != (int64_t)va)
		return FAIL_PAGE;
	if (!probe && in_large_page(h, va, acc, priv, w))
		return OK;
	h->stats.page_walks++;
	for (unsigned level = begin(h, va, levels, probe, &table, &host, w); level-- > 0;) {
		uint64_t in = (va >> (12 + 9 * level) & 511) * 8;
		_Atomic uint64_t *p = host ? (_Atomic uint64_t *)(void *)(host + in)
					   : pte_at(h, table + in, MEM_READ);
		uint64_t pte, want;
		enum fail f;
		int rc;

		if (!p)
			return FAIL_ACCESS;
		if (!level && !host && !probe)
			remember(h, va, table, p, w->global);
	again:
		pte = atomic_load_explicit(p, memory_order_acquire);
		w->global |= !!(pte & PTE_G);
		switch (classify(h, pte, level)) {
		case STEP_FAULT:
			h->fault_present = false;
			return FAIL_PAGE;
		case STEP_DOWN:
			table = PTE_PPN(pte) << PAGE_SHIFT;
			continue;
		case STEP_LEAF:
			break;
		}
		h->fault_present = true;
		if (!leaf_allows(h, pte, acc, priv))
			return FAIL_PAGE;
		want = pte | PTE_A | (acc == MEM_WRITE ? PTE_D : 0);
		if (want != pte && !probe) {
			rc = update(h, table + in, pte, want, &f);
			if (rc == -EAGAIN)
				goto again;
			if (rc)
				return f;
		}
		found(h, va, pte, level, priv, w);
		if (level && !probe)
			remember_leaf(h, va, want, level, w);
		return OK;
	}
	return FAIL_PAGE;
}

static enum fail translate(
	struct hart *h, uint64_t va, unsigned acc, unsigned priv, bool probe, struct where *w)
{
	if (priv == PRIV_M || h->c.satp >> 60 == SATP_BARE) {
		w->pa = va;
		w->span = 0;
		w->global = false;
		w->writable = true;
		/* 56 bits of physical address are all there can be. */
		return va >> 56 ? FAIL_ACCESS : OK;
	}
	return walk(h, va, acc, priv, probe, w);
}

static unsigned data_priv(const struct hart *h)
{
	return h->mstatus & MSTATUS_MPRV ? (h->mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT
					 : h->priv;
}

/* What the TLB knows of that byte; NULL: nothing. */
static void *known_at(struct hart *h, uint64_t va, unsigned acc)
{
	const struct tlb_entry *side = acc == MEM_WRITE ? h->cur->w : h->cur->r;
	const struct tlb_entry *e = &side[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	return e->tag == (va & ~PAGE_MASK) ? (void *)(va + e->add) : NULL;
}

/*
 * Translates one piece of a data access that lies inside one page. OK with *host NULL: no RAM there, pa in w. Fills the TLB where the
 * entry holds for the whole page.
 */
static enum fail data_piece(
	struct hart *h, uint64_t va, unsigned len, unsigned acc, struct where *w, void **host)
{
	unsigned priv = data_priv(h), perm = 0;
	enum fail f = translate(h, va, acc, priv, false, w);
	bool write_free;
	char *p;

	h->stats.tlb_misses++;
	if (f)
		return f;
	if (!pmp_check(h, w->pa, len, acc, priv))
		return FAIL_ACCESS;
	p = memory_at(h, w->pa, (enum mem_access)acc, &perm, &write_free);
	*host = p;
	if (!p) {
		h->fault_gpa = w->pa;
		return perm ? FAIL_VIEW : OK; /* there is RAM, which may not be used so */
	}
	if (pmp_page_uniform(h, w->pa) && (acc == MEM_READ || write_free))
		tlb_fill(h, acc == MEM_WRITE, va & ~PAGE_MASK, p - (w->pa & PAGE_MASK), w->span,
			w->global);
	/* What is written once is mostly written again. */
	if (acc == MEM_READ && w->writable && perm & MEM_WRITE && h->pmp_open &&
		space_write_free(h->vm->o.space, gpa(w->pa & ~PAGE_MASK)))
		tlb_fill(h, true, va & ~PAGE_MASK, p - (w->pa & PAGE_MASK), w->span, w->global);
	/* What is written is mostly read next; W without R does not exist in page tables. */
	if (acc == MEM_WRITE && write_free && perm & MEM_READ && h->pmp_open)
		tlb_fill(h, false, va & ~PAGE_MASK, p - (w->pa & PAGE_MASK), w->span, w->global);
	return OK;
}

/* RAM that the second-level map does not let the guest use so: the monitor's to say. At h->pc. */
static void leave_as_view_fault(struct hart *h, unsigned acc, uint64_t va)
{
	uint64_t cause = acc == MEM_EXEC    ? CAUSE_FETCH_GUEST_PAGE
			 : acc == MEM_WRITE ? CAUSE_STORE_GUEST_PAGE
					    : CAUSE_LOAD_GUEST_PAGE;

	h->pend = (struct rv64_pending){.active = true,
		.kind = PEND_VIEW,
		.cause = fault_cause(FAIL_ACCESS, acc),
		.va = va};
	rv64_leave(h, cause, va)->htval = h->fault_gpa >> 2;
}

static bool fault(struct hart *h, const struct rv64_op *op, enum fail f, unsigned acc, uint64_t va)
{
	op_leave(h, op);
	if (f == FAIL_VIEW)
		leave_as_view_fault(h, acc, va);
	else
		rv64_trap(h, h->pc, fault_cause(f, acc), va);
	return false;
}

/* htinst: the instruction that would do the same, whatever it was (hypervisor extension, "Transformed Instruction"). */
static uint64_t transformed(unsigned size, bool write, unsigned rd)
{
	unsigned log = (unsigned)__builtin_ctz(size & MEM_SIZE);
	unsigned op = (write ? 0x23 : 0x03) | (size & MEM_FP ? 4 : 0);
	bool is_unsigned = !write && log < 3 && !(size & (MEM_SIGNED | MEM_FP));

	return op | (log | (is_unsigned ? 4u : 0)) << 12 | (write ? 0 : rd << 7);
}

static bool leave_as_mmio(struct hart *h, const struct rv64_op *op, uint64_t va, uint64_t pa,
	unsigned size, bool write, uint64_t val)
{
	struct rv64_status *st;

	h->pend = (struct rv64_pending){
		.active = true,
		.kind = PEND_MMIO,
		.write = write,
		.is_signed = size & MEM_SIGNED,
		.fp = size & MEM_FP,
		.rd = op->rd,
		.size = size & MEM_SIZE,
		.next_pc = op_pc(h, op) + op_len(op),
		.gpa = pa,
		.data = val,
		.va = va,
	};
	op_leave(h, op);
	st = rv64_leave(h, write ? CAUSE_STORE_ACCESS : CAUSE_LOAD_ACCESS, va);
	st->htval = pa >> 2;
	st->htinst = transformed(size, write, op->rd & 31);
	st->reg[0] = val;
	return false;
}

void mmu_complete(struct hart *h, bool error)
{
	struct rv64_pending p = h->pend;
	uint64_t v = p.data;

	h->pend.active = false;
	if (error) {
		rv64_deliver(h, h->pc, p.write ? CAUSE_STORE_ACCESS : CAUSE_LOAD_ACCESS, p.va);
		return;
	}
	if (!p.write) {
		if (p.size < 8)
			v &= (1ull << (8 * p.size)) - 1;
		if (p.is_signed && p.size < 8)
			v = (uint64_t)((int64_t)(v << (64 - 8 * p.size)) >> (64 - 8 * p.size));
		if (p.fp) {
			h->f[p.rd] = p.size == 4 ? v | 0xffffffff00000000 : v;
			h->fs = 3;
		} else {
			h->x[p.rd] = v;
		}
	}
	h->instret++;
	h->pc = p.next_pc;
}

static uint64_t load_host(const void *p, unsigned n)
{
	uint64_t v = 0;

	/* One access where the guest's is aligned: other harts must never see half of it. */
	if (!((uintptr_t)p & (n - 1)))
		switch (n) {
		case 1:
			return *(const uint8_t *)p;
		case 2:
			return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
		case 4:
			return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
		case 8:
			return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
		}
	memcpy(&v, p, n);
	return v;
}

static void store_host(void *p, unsigned n, uint64_t v)
{
	if (!((uintptr_t)p & (n - 1)))
		switch (n) {
		case 1:
			*(uint8_t *)p = (uint8_t)v;
			return;
		case 2:
			__atomic_store_n((uint16_t *)p, (uint16_t)v, __ATOMIC_RELAXED);
			return;
		case 4:
			__atomic_store_n((uint32_t *)p, (uint32_t)v, __ATOMIC_RELAXED);
			return;
		case 8:
			__atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
			return;
		}
	memcpy(p, &v, n);
}

/* Both pages of an access that crosses: nothing is done unless both can be used. -1: trapped. */
static bool two_pieces(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned n,
	unsigned acc, void *host[2])
{
	unsigned first = (unsigned)(PAGE_SIZE - (va & PAGE_MASK));
	struct where w;
	enum fail f = OK;

	host[0] = known_at(h, va, acc);
	host[1] = known_at(h, va + first, acc);
	if (!host[0])
		f = data_piece(h, va, first, acc, &w, &host[0]);
	if (f)
		return fault(h, op, f, acc, va);
	if (!host[1])
		f = data_piece(h, va + first, n - first, acc, &w, &host[1]);
	if (f)
		return fault(h, op, f, acc, va + first);
	if (!host[0] || !host[1])
		return fault(h, op, FAIL_ACCESS, acc, host[0] ? va + first : va);
	return true;
}

bool mem_load(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size, uint64_t *out)
{
	unsigned n = size & MEM_SIZE;
	struct where w;
	void *host[2];
	enum fail f;

	if ((va & PAGE_MASK) + n > PAGE_SIZE) {
		unsigned first = (unsigned)(PAGE_SIZE - (va & PAGE_MASK));

		if (!two_pieces(h, op, va, n, MEM_READ, host))
			return false;
		*out = 0;
		memcpy(out, host[0], first);
		memcpy((char *)out + first, host[1], n - first);
		return true;
	}
	/* A misaligned one may be here though its page is known. */
	host[0] = known_at(h, va, MEM_READ);
	f = host[0] ? OK : data_piece(h, va, n, MEM_READ, &w, &host[0]);
	if (f)
		return fault(h, op, f, MEM_READ, va);
	if (host[0]) {
		*out = load_host(host[0], n);
		return true;
	}
	if (size & MEM_LR || va & (n - 1))
		return fault(h, op, FAIL_ACCESS, MEM_READ, va);
	return leave_as_mmio(h, op, va, w.pa, size, false, 0);
}

bool mem_store(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size, uint64_t val)
{
	unsigned n = size & MEM_SIZE;
	struct where w;
	void *host[2];
	enum fail f;

	if ((va & PAGE_MASK) + n > PAGE_SIZE) {
		unsigned first = (unsigned)(PAGE_SIZE - (va & PAGE_MASK));

		if (!two_pieces(h, op, va, n, MEM_WRITE, host))
			return false;
		memcpy(host[0], &val, first);
		memcpy(host[1], (char *)&val + first, n - first);
		return true;
	}
	host[0] = known_at(h, va, MEM_WRITE);
	f = host[0] ? OK : data_piece(h, va, n, MEM_WRITE, &w, &host[0]);
	if (f)
		return fault(h, op, f, MEM_WRITE, va);
	if (host[0]) {
		store_host(host[0], n, val);
		return true;
	}
	if (va & (n - 1))
		return fault(h, op, FAIL_ACCESS, MEM_WRITE, va);
	return leave_as_mmio(h, op, va, w.pa, n, true, n < 8 ? val & ((1ull << (8 * n)) - 1) : val);
}

void *mem_amo(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size)
{
	struct where w;
	void *host;
	enum fail f;

	if (va & (size - 1)) {
		rv64_trap(h, op_leave(h, op), CAUSE_STORE_MISALIGNED, va);
		return NULL;
	}
	f = data_piece(h, va, size, MEM_WRITE, &w, &host);
	/* It reads too; R is implied by W in page tables, not in PMP. */
	if (!f && !pmp_check(h, w.pa, size, MEM_READ, data_priv(h)))
		f = FAIL_ACCESS;
	if (!f && !host)
		f = FAIL_ACCESS; /* atomics are for RAM */
	if (f) {
		fault(h, op, f, MEM_WRITE, va);
		return NULL;
	}
	return host;
}

bool mem_fetch_page(struct hart *h, uint64_t va, struct code_at *out)
{
	struct space_page pg;
	struct where w;
	enum fail f = translate(h, va, MEM_EXEC, h->priv, false, &w);

	if (!f && !pmp_check(h, w.pa, 2, MEM_EXEC, h->priv))
		f = FAIL_ACCESS;
	if (!f && space_page(h->vm->o.space, 0, gpa(w.pa), MEM_EXEC, &pg)) {
		h->fault_gpa = w.pa;
		f = pg.perm ? FAIL_VIEW : FAIL_ACCESS;
	}
	if (f == FAIL_VIEW) {
		leave_as_view_fault(h, MEM_EXEC, va);
		return false;
	}
	if (f) {
		rv64_trap(h, h->pc, fault_cause(f, MEM_EXEC), va);
		return false;
	}
	*out = (struct code_at){
		.host = (const char *)pg.host + (w.pa & PAGE_MASK),
		.gpa = gpa(w.pa),
		.span = w.span,
		.global = w.global,
		.alone = !pmp_page_uniform(h, w.pa),
	};
	return true;
}

static bool cbo_allowed(const struct hart *h, enum cbo_kind kind)
{
	uint64_t bit = kind == CBO_ZERO	   ? ENVCFG_CBZE
		       : kind == CBO_INVAL ? ENVCFG_CBIE
					   : ENVCFG_CBCFE;

	if (h->priv != PRIV_M && !(h->c.menvcfg & bit))
		return false;
	return h->priv != PRIV_U || h->c.senvcfg & bit;
}

bool mem_may_zero(const struct hart *h)
{
	return cbo_allowed(h, CBO_ZERO);
}

/* Caches are coherent here: clean, flush and inval only check; zero writes. */
bool mem_cbo(struct hart *h, const struct rv64_op *op, uint64_t va, enum cbo_kind kind)
{
	uint64_t line = va & ~(uint64_t)(CBO_BLOCK - 1);
	void *host = known_at(h, line, MEM_WRITE);
	struct where w;
	enum fail f;

	if (!cbo_allowed(h, kind)) {
		rv64_illegal(h, op);
		return false;
	}
	/* Kernels clear pages with it: 64 in a row. */
	if (likely(host)) {
		if (kind == CBO_ZERO)
			memset(host, 0, CBO_BLOCK);
		return true;
	}
	if (kind != CBO_ZERO) {
		f = data_piece(h, line, CBO_BLOCK, MEM_READ, &w, &host);
		if (f == FAIL_PAGE)
			f = data_piece(h, line, CBO_BLOCK, MEM_WRITE, &w, &host);
		return f ? fault(h, op, f, MEM_WRITE, va) : true;
	}
	f = data_piece(h, line, CBO_BLOCK, MEM_WRITE, &w, &host);
	if (!f && !host)
		f = FAIL_ACCESS;
	if (f)
		return fault(h, op, f, MEM_WRITE, va);
	memset(host, 0, CBO_BLOCK);
	return true;
}

int mmu_probe(struct hart *h, uint64_t va, enum mem_access acc, gpa_t *out)
{
	struct where w;

	if (translate(h, va, acc, acc == MEM_EXEC ? h->priv : data_priv(h), true, &w))
		return -EFAULT;
	*out = gpa(w.pa);
	return 0;
}
