#include "bare.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/err.h"
#include "memory/frames.h"

static void on_wake(void *ctx, unsigned vcpu)
{
	struct bare *b = ctx;

	atomic_fetch_or(&b->woken, 1u << vcpu);
}

struct bare *bare_new(unsigned harts, bool builtin_firmware)
{
	return bare_new_jit(harts, builtin_firmware, CPU_JIT_AUTO);
}

struct bare *bare_new_jit(unsigned harts, bool builtin_firmware, enum cpu_jit jit)
{
	struct bare *b = calloc(1, sizeof(*b));
	struct err e = {0};
	struct frames_opts fo = {.nodes = 1, .node_bytes = {2 * RAM_SIZE}, .name = "bare"};

	assert_int_equal(frames_create(&b->frames, &fo, &e), 0);
	assert_int_equal(space_create(&b->space, b->frames, &e), 0);
	assert_int_equal(space_add_ram(b->space, gpa(RAM), RAM_SIZE, 0, "ram", &e), 0);
	assert_int_equal(rv64_engine.vm_create(&b->vm,
				 &(struct cpu_vm_opts){.space = b->space,
					 .vcpus = harts,
					 .jit = jit,
					 .timebase_hz = 10000000,
					 .builtin_firmware = builtin_firmware,
					 .wake = on_wake,
					 .wake_ctx = b},
				 &e),
		0);
	for (unsigned i = 0; i < harts; i++) {
		assert_int_equal(rv64_engine.vcpu_create(&b->v[i], b->vm, i, &e), 0);
		rv64_engine.vcpu_reset(b->v[i],
			&(struct cpu_boot){
				.pc = CODE, .arg0 = i, .running = !builtin_firmware || i == 0});
	}
	b->h = bare_hart(b, 0);
	bare_put(b, VECTOR, enc(RV_sw, 0, 31, 0)); /* sw x0, 0(x31) */
	bare_put(b, VECTOR + 4, 0x0000006f); /* j . */
	bare_put(b, SVECTOR, ECALL);
	b->h->c.mtvec = VECTOR;
	b->h->c.stvec = SVECTOR;
	b->h->x[31] = BARE_STOP;
	return b;
}

void bare_free(struct bare *b)
{
	rv64_engine.vm_destroy(b->vm);
	space_destroy(b->space);
	frames_destroy(b->frames);
	free(b);
}

struct hart *bare_hart(struct bare *b, unsigned i)
{
	return rv64_engine.vcpu_state_obj(b->v[i]);
}

void bare_put(struct bare *b, uint64_t pa, uint32_t word)
{
	assert_int_equal(space_write(b->space, gpa(pa), &word, sizeof(word)), 0);
}

void bare_put64(struct bare *b, uint64_t pa, uint64_t v)
{
	assert_int_equal(space_write(b->space, gpa(pa), &v, sizeof(v)), 0);
}

uint64_t bare_get64(struct bare *b, uint64_t pa)
{
	uint64_t v = 0;

	assert_int_equal(space_read(b->space, gpa(pa), &v, sizeof(v)), 0);
	return v;
}

void bare_exit(struct bare *b, unsigned i, struct cpu_exit *x)
{
	for (unsigned n = 0; n < 1000; n++) {
		rv64_engine.vcpu_run(b->v[i], 1000000, x);
		if (x->reason != CPU_EXIT_BUDGET)
			return;
	}
	fail_msg("hart %u does not leave: pc %#lx", i, (unsigned long)bare_hart(b, i)->pc);
}

uint64_t bare_trap(struct bare *b)
{
	struct cpu_exit x;

	rv64_code_fence_i(b->h); /* tests put new code at old addresses */
	bare_exit(b, 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_MMIO);
	assert_int_equal(x.mmio.gpa.v, BARE_STOP);
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	return b->h->c.mcause;
}

int64_t bare_one(struct bare *b, unsigned priv, uint32_t word)
{
	uint64_t cause;

	bare_put(b, CODE, word);
	bare_put(b, CODE + 4, ECALL);
	b->h->pc = CODE;
	rv64_set_priv(b->h, priv);
	cause = bare_trap(b);
	if (cause == 8 + (uint64_t)priv && b->h->c.mepc != CODE)
		return -1;
	return (int64_t)cause;
}

void bare_satp(struct bare *b, uint64_t v)
{
	b->h->c.satp = v;
	mmu_space(b->h);
	mmu_flush(b->h);
	rv64_code_space(b->h, v);
	rv64_code_flush(b->h);
}

uint64_t bare_csr(struct bare *b, unsigned csr)
{
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, csr, 0)), -1);
	return b->h->x[5];
}

uint64_t bare_csr_write(struct bare *b, unsigned csr, uint64_t v)
{
	b->h->x[6] = v;
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrw, 0, csr, 6)), -1);
	return bare_csr(b, csr);
}
