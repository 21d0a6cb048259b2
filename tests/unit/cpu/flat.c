#include "flat.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static struct flat *of(struct hart *h)
{
	return container_of(h, struct flat, h);
}

struct flat *flat_new(uint64_t exts)
{
	struct flat *f = calloc(1, sizeof(*f));

	if (!f)
		abort();
	f->ram = aligned_alloc(4096, FLAT_SIZE);
	if (!f->ram || rv64_icache_create(&f->h.ic, exts, BLOCK_ARENA, NULL))
		abort();
	memset(f->ram, 0, FLAT_SIZE);
	memset(&f->tlb, 0xff, sizeof(f->tlb));
	for (unsigned i = 0; i < FLAT_PAGES; i++)
		f->map[i] = (uint16_t)i;
	f->h.cur = &f->tlb;
	f->h.fs = 1;
	f->h.resv_va = UINT64_MAX;
	rv64_code_mode(&f->h, PRIV_M);
	return f;
}

void flat_free(struct flat *f)
{
	rv64_icache_destroy(f->h.ic);
	free(f->ram);
	free(f);
}

void flat_put(struct flat *f, uint64_t at, const uint32_t *words, unsigned n)
{
	memcpy(f->ram + (at - FLAT_BASE), words, n * 4);
}

void flat_run(struct flat *f, uint64_t pc, uint64_t max)
{
	struct hart *h = &f->h;

	h->pc = pc;
	h->poll = 0;
	f->trapped = false;
	h->instret_stop = h->instret + max;
	while (!h->poll && h->instret < h->instret_stop)
		rv64_block_run(h);
}

static uint8_t *at(struct flat *f, uint64_t va, unsigned len)
{
	/* Differences, not sums: an address near the end of the space must not wrap into memory. */
	if (va - FLAT_BASE < FLAT_SIZE && len <= FLAT_SIZE - (va - FLAT_BASE))
		return f->ram + (va - FLAT_BASE);
	if (va - FLAT_ALIAS < FLAT_SIZE && len <= FLAT_SIZE - (va - FLAT_ALIAS))
		return f->ram + f->map[(va - FLAT_ALIAS) >> 12] * 4096ull + (va & 4095);
	return NULL;
}

void rv64_trap(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	struct flat *f = of(h);

	f->trapped = true;
	f->cause = cause;
	f->epc = pc;
	f->tval = tval;
	h->resv_va = UINT64_MAX;
	h->poll = POLL_KICK;
}

bool mem_load(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size, uint64_t *out)
{
	struct flat *f = of(h);
	unsigned n = size & MEM_SIZE;
	uint8_t *p = at(f, va, n);

	if (!p) {
		rv64_trap(h, op_leave(h, op), 5, va);
		return false;
	}
	*out = 0;
	memcpy(out, p, n);
	f->tlb.r[(va >> 12) % TLB_SIZE] = (struct tlb_entry){
		va & ~PAGE_MASK, (uint64_t)(uintptr_t)p - va};
	return true;
}

bool mem_store(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size, uint64_t val)
{
	struct flat *f = of(h);
	uint8_t *p = at(f, va, size);

	if (!p) {
		rv64_trap(h, op_leave(h, op), 7, va);
		return false;
	}
	memcpy(p, &val, size);
	f->tlb.w[(va >> 12) % TLB_SIZE] = (struct tlb_entry){
		va & ~PAGE_MASK, (uint64_t)(uintptr_t)p - va};
	return true;
}

void *mem_amo(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size)
{
	uint8_t *p = at(of(h), va, size);

	if (!p || (va & (size - 1))) {
		rv64_trap(h, op_leave(h, op), p ? 6 : 7, va);
		return NULL;
	}
	return p;
}

bool mem_fetch_page(struct hart *h, uint64_t va, struct code_at *out)
{
	struct flat *f = of(h);
	uint8_t *p = at(f, va, 2);

	f->fetches++;
	if (!p) {
		rv64_trap(h, h->pc, 1, va);
		return false;
	}
	out->host = p;
	out->gpa = gpa(FLAT_BASE + (uint64_t)(p - f->ram));
	out->global = va < FLAT_ALIAS;
	out->alone = false;
	out->span = va < FLAT_ALIAS ? 0 : f->span;
	return true;
}

bool mem_cbo(struct hart *h, const struct rv64_op *op, uint64_t va, enum cbo_kind kind)
{
	uint8_t *p = at(of(h), va & ~63ull, 64);

	if (!p)
		rv64_trap(h, op_leave(h, op), 7, va);
	else if (kind == CBO_ZERO)
		memset(p, 0, 64);
	return p;
}

/* mscratch and fflags/frm/fcsr are not here; anything else is illegal. */
bool csr_access(struct hart *h, const struct rv64_op *op, unsigned csr, enum csr_kind kind,
	bool write, uint64_t val, uint64_t *old)
{
	struct flat *f = of(h);

	if (csr != 0x340) {
		rv64_trap(h, op_leave(h, op), 2, rv64_op_raw(op));
		return false;
	}
	*old = f->mscratch;
	if (write)
		f->mscratch = kind == CSR_RW ? val : kind == CSR_RS ? *old | val : *old & ~val;
	return true;
}

bool op_wfi(struct hart *h, const struct rv64_op *op)
{
	return true;
}

bool op_wrs(struct hart *h, const struct rv64_op *op, bool timeout)
{
	return true;
}

bool op_pause(struct hart *h, const struct rv64_op *op)
{
	return true;
}

bool op_sfence_vma(struct hart *h, const struct rv64_op *op, bool has_va, uint64_t va,
	bool has_asid, uint64_t asid)
{
	if (has_va)
		rv64_code_flush_va(h, va);
	else if (has_asid)
		rv64_code_flush_asid(h, asid);
	else
		rv64_code_flush(h);
	memset(&of(h)->tlb, 0xff, sizeof(struct tlb));
	return true;
}

bool op_sinval_order(struct hart *h, const struct rv64_op *op)
{
	return true;
}

void op_ecall(struct hart *h, const struct rv64_op *op)
{
	rv64_trap(h, op_leave(h, op), 11, 0);
}

void op_ebreak(struct hart *h, const struct rv64_op *op)
{
	uint64_t pc = op_leave(h, op);

	rv64_trap(h, pc, 3, pc);
}

void op_mret(struct hart *h, const struct rv64_op *op)
{
	rv64_trap(h, op_leave(h, op), 2, rv64_op_raw(op));
}

void op_sret(struct hart *h, const struct rv64_op *op)
{
	rv64_trap(h, op_leave(h, op), 2, rv64_op_raw(op));
}
