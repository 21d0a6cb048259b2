/*
 * How an rv64 hart's exits reach the monitor (cpu/rv64/exits/): guests that leave in every way, the table with a row taken out, every
 * code that there can be, damaged records, and what is counted without an exit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "bare.h"
#include "memory/frames.h"

#define DEVICE 0x10000000ull
#define WFI 0x10500073u
#define EBREAK 0x00100073u
#define UNKNOWN_PAGE 0x40000000ull /* of the page tables that paged() makes: nothing there */
#define KERNEL_ONLY RAM

/* ---- guests that leave, one way each ---- */

/* Sv39: RAM, where it is, for the kernel alone; the same again one GiB above it for programs, read-only. */
static void paged(struct bare *b)
{
	uint64_t root = RAM + 0x100000;

	bare_put64(b, root + 2 * 8, (RAM >> 12) << 10 | 0xcf); /* D A - - X W R V */
	bare_put64(b, root + 3 * 8, (RAM >> 12) << 10 | 0x5b); /* - A - U X - R V */
	bare_satp(b, SATP_SV39 << 60 | root >> 12);
}

static void go(struct bare *b, unsigned priv, uint64_t pc)
{
	b->h->pc = pc;
	rv64_code_fence_i(b->h);
	rv64_set_priv(b->h, priv);
}

static void one(struct bare *b, uint32_t word)
{
	bare_put(b, CODE, word);
	bare_put(b, CODE + 4, WFI);
	go(b, PRIV_S, CODE);
}

static void do_load(struct bare *b)
{
	b->h->x[6] = DEVICE;
	one(b, enc(RV_lhu, 7, 6, 0));
}

static void do_store(struct bare *b)
{
	b->h->x[6] = DEVICE + 4;
	b->h->x[7] = 0x1122334455667788;
	one(b, enc(RV_sw, 0, 6, 7));
}

static void do_wfi(struct bare *b)
{
	one(b, WFI);
}

static void do_call(struct bare *b)
{
	b->h->x[17] = 0x12345;
	one(b, ECALL);
}

static void do_console(struct bare *b)
{
	b->h->x[17] = EXT_DBCN;
	b->h->x[16] = 2;
	b->h->x[10] = 'x';
	one(b, ECALL);
}

static void do_system(struct bare *b)
{
	b->h->x[17] = EXT_SRST;
	b->h->x[16] = b->h->x[10] = b->h->x[11] = 0;
	one(b, ECALL);
}

static void do_illegal(struct bare *b)
{
	one(b, 0);
}

static void do_break(struct bare *b)
{
	one(b, EBREAK);
}

static void do_misaligned_amo(struct bare *b)
{
	b->h->x[6] = RAM + 0x5001;
	one(b, enc(RV_amoadd_w, 7, 6, 7));
}

static void do_load_page(struct bare *b)
{
	paged(b);
	b->h->x[6] = UNKNOWN_PAGE;
	one(b, enc(RV_ld, 7, 6, 0));
}

static void do_store_page(struct bare *b)
{
	paged(b);
	b->h->x[6] = CODE + (1ull << 30);
	one(b, enc(RV_sd, 0, 6, 7));
	go(b, PRIV_U, CODE + (1ull << 30));
}

static void do_fetch_page(struct bare *b)
{
	paged(b);
	go(b, PRIV_U, CODE);
}

static void protect(struct bare *b, unsigned perm)
{
	uint64_t at = RAM + 0x200000;

	assert_int_equal(view_protect(space_view(b->space, 0), gpa(at), PAGE_SIZE, perm, NULL), 0);
	space_invalidate(b->space, 0, gpa(at), PAGE_SIZE, MEM_READ | MEM_WRITE | MEM_EXEC);
	b->h->x[6] = at;
}

static void do_view_write(struct bare *b)
{
	protect(b, VIEW_R | VIEW_X);
	one(b, enc(RV_sb, 0, 6, 7));
}

static void do_view_read(struct bare *b)
{
	protect(b, VIEW_X);
	one(b, enc(RV_lb, 7, 6, 0));
}

static void do_view_fetch(struct bare *b)
{
	protect(b, VIEW_R | VIEW_W);
	go(b, PRIV_S, RAM + 0x200000);
}

static void do_kick(struct bare *b)
{
	one(b, 0x0000006f); /* j . */
	rv64_engine.vcpu_kick(b->v[0]);
}

static void do_spin(struct bare *b)
{
	one(b, 0x0000006f);
}

static const struct kind {
	const char *name;
	void (*run)(struct bare *b);
	uint64_t raw;
	enum cpu_type type;
	enum cpu_exit_reason reason;
	struct cpu_code code;
} kinds[] = {
	{"load", do_load, CAUSE_LOAD_ACCESS, CPU_TYPE_MMIO, CPU_EXIT_MMIO,
		{CPU_BASIC_EPT_MISCONFIG, 0, 0, CPU_QUAL_R}},
	{"store", do_store, CAUSE_STORE_ACCESS, CPU_TYPE_MMIO, CPU_EXIT_MMIO,
		{CPU_BASIC_EPT_MISCONFIG, 0, 0, CPU_QUAL_W}},
	{"wfi", do_wfi, CAUSE_VIRTUAL_INSN, CPU_TYPE_IDLE, CPU_EXIT_IDLE, {CPU_BASIC_HLT}},
	{"call", do_call, CAUSE_ECALL_S, CPU_TYPE_HYPERCALL, CPU_EXIT_HYPERCALL,
		{CPU_BASIC_VMCALL, 0, 0, CPU_CALL_OTHER}},
	{"console", do_console, CAUSE_ECALL_S, CPU_TYPE_CONSOLE, CPU_EXIT_CONSOLE,
		{CPU_BASIC_VMCALL, 0, 0, CPU_CALL_CONSOLE}},
	{"system", do_system, CAUSE_ECALL_S, CPU_TYPE_SYSTEM, CPU_EXIT_SYSTEM,
		{CPU_BASIC_VMCALL, 0, 0, CPU_CALL_SYSTEM}},
	{"illegal", do_illegal, CAUSE_ILLEGAL, CPU_TYPE_INVALID_OPCODE, CPU_EXIT_EXCEPTION,
		{CPU_BASIC_EXCEPTION, CPU_VEC_UD, 0, 0}},
	{"break", do_break, CAUSE_BREAK, CPU_TYPE_BREAKPOINT, CPU_EXIT_DEBUG,
		{CPU_BASIC_EXCEPTION, CPU_VEC_BP, 0, 0}},
	{"misaligned", do_misaligned_amo, CAUSE_STORE_MISALIGNED, CPU_TYPE_ALIGNMENT,
		CPU_EXIT_EXCEPTION, {CPU_BASIC_EXCEPTION, CPU_VEC_AC, 0, 0}},
	{"load page", do_load_page, CAUSE_LOAD_PAGE, CPU_TYPE_PAGE_FAULT, CPU_EXIT_EXCEPTION,
		{CPU_BASIC_EXCEPTION, CPU_VEC_PF, 0, UNKNOWN_PAGE}},
	{"store page", do_store_page, CAUSE_STORE_PAGE, CPU_TYPE_PAGE_FAULT, CPU_EXIT_EXCEPTION,
		{CPU_BASIC_EXCEPTION, CPU_VEC_PF, CPU_PF_P | CPU_PF_W | CPU_PF_U,
			CODE + (1ull << 30)}},
	{"fetch page", do_fetch_page, CAUSE_FETCH_PAGE, CPU_TYPE_PAGE_FAULT, CPU_EXIT_EXCEPTION,
		{CPU_BASIC_EXCEPTION, CPU_VEC_PF, CPU_PF_P | CPU_PF_U | CPU_PF_I, CODE}},
	{"view write", do_view_write, CAUSE_STORE_GUEST_PAGE, CPU_TYPE_VIEW_FAULT,
		CPU_EXIT_VIEW_FAULT, {CPU_BASIC_EPT_VIOLATION, 0, 0, CPU_QUAL_W}},
	{"view read", do_view_read, CAUSE_LOAD_GUEST_PAGE, CPU_TYPE_VIEW_FAULT, CPU_EXIT_VIEW_FAULT,
		{CPU_BASIC_EPT_VIOLATION, 0, 0, CPU_QUAL_R}},
	{"view fetch", do_view_fetch, CAUSE_FETCH_GUEST_PAGE, CPU_TYPE_VIEW_FAULT,
		CPU_EXIT_VIEW_FAULT, {CPU_BASIC_EPT_VIOLATION, 0, 0, CPU_QUAL_X}},
	{"kick", do_kick, CAUSE_IRQ | IRQ_SSI, CPU_TYPE_IPI, CPU_EXIT_BUDGET,
		{CPU_BASIC_EXTINT, CPU_VEC_IPI, 0, 0}},
	{"slice", do_spin, CAUSE_IRQ | IRQ_STI, CPU_TYPE_TIMER, CPU_EXIT_BUDGET,
		{CPU_BASIC_EXTINT, CPU_VEC_TIMER, 0, 0}},
};

/* Everything that can be intercepted is. */
static struct bare *start(bool intercept)
{
	struct bare *b = bare_new(1, true);
	struct rv64_vm *vm = (struct rv64_vm *)b->vm;

	vm->o.intercept = intercept ? ~0u : 0;
	rv64_set_causes(vm, &rv64_causes);
	b->h->x[8] = 1; /* a mark: no guest here changes it */
	return b;
}

static struct cpu_exit leave_by(struct bare *b, const struct kind *k)
{
	struct cpu_exit x;

	k->run(b);
	rv64_engine.vcpu_run(b->v[0], 200000, &x);
	return x;
}

static void each_kind_by_its_code(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct kind *k = &kinds[i];
		struct bare *b = start(true);
		struct cpu_exit x = leave_by(b, k);

		if (x.type != k->type || x.reason != k->reason || x.raw != k->raw ||
			x.code.basic != k->code.basic || x.code.vector != k->code.vector ||
			x.code.error != k->code.error || x.code.qual != k->code.qual)
			fail_msg("%s: raw %#lx, %s, %s, basic %u vector %u error %#x qual %#lx",
				k->name, (unsigned long)x.raw, cpu_type_name(x.type),
				cpu_exit_name(x.reason), x.code.basic, x.code.vector, x.code.error,
				(unsigned long)x.code.qual);
		bare_free(b);
	}
}

/* Takes row X out: the guests that leave by X, and no others, are unhandled, with their raw code. */
static void knock_out(void **state)
{
	unsigned hit = 0;

	for (unsigned irq = 0; irq < 2; irq++)
		for (unsigned row = 0; row < RV64_CAUSES; row++) {
			struct rv64_causes t = rv64_causes;
			uint64_t raw = row | (irq ? CAUSE_IRQ : 0);

			if (!rv64_cause(&t, raw))
				continue;
			*(irq ? &t.irq[row] : &t.exc[row]) = (struct rv64_cause){0};
			for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
				struct bare *b = start(true);
				uint64_t intercept = ((struct rv64_vm *)b->vm)->intercept;
				struct cpu_exit x;

				rv64_set_causes((struct rv64_vm *)b->vm, &t);
				/* It leaves as before; only what becomes of it differs. */
				((struct rv64_vm *)b->vm)->intercept = intercept;
				x = leave_by(b, &kinds[i]);
				if (kinds[i].raw == raw) {
					assert_int_equal(x.reason, CPU_EXIT_ERROR);
					assert_int_equal(x.type, CPU_TYPE_UNKNOWN);
					assert_int_equal(x.code.basic, CPU_BASIC_UNKNOWN);
					assert_non_null(x.text);
					hit++;
				} else {
					assert_int_equal(x.reason, kinds[i].reason);
				}
				assert_int_equal(x.raw, kinds[i].raw);
				bare_free(b);
			}
		}
	assert_int_equal(hit, ARRAY_SIZE(kinds));
}

/* ---- codes ---- */

static const uint8_t standard[] = {
	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 18, 19, 20, 21, 22, 23};
static const uint8_t standard_irq[] = {1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13};

static bool is_in(const uint8_t *list, unsigned n, uint64_t v)
{
	for (unsigned i = 0; i < n; i++)
		if (list[i] == v)
			return true;
	return false;
}

static void one_code(uint64_t cause)
{
	bool known = cause & CAUSE_IRQ
			     ? is_in(standard_irq, ARRAY_SIZE(standard_irq), cause & ~CAUSE_IRQ)
			     : is_in(standard, ARRAY_SIZE(standard), cause);
	struct rv64_status st = {.cause = cause, .tval = INSN_WFI, .pc = 0x1234, .htinst = 0x03};
	struct cpu_exit x;

	if (cause == CAUSE_STORE_ACCESS)
		st.htinst = 0x23;
	memset(&x, 0xa5, sizeof(x));
	rv64_translate(&rv64_causes, &st, &x);
	assert_int_equal(x.raw, cause);
	assert_int_equal(x.pc, 0x1234);
	assert_true((unsigned)x.type < CPU_TYPES && (unsigned)x.reason < CPU_EXIT_REASONS);
	assert_true((x.type != CPU_TYPE_UNKNOWN) == known);
	if (!known) {
		assert_int_equal(x.reason, CPU_EXIT_ERROR);
		assert_non_null(x.text);
	}
}

static void every_code(void **state)
{
	uint64_t r = 88172645463325252ull;

	for (uint64_t c = 0; c < 4096; c++) {
		one_code(c);
		one_code(c | CAUSE_IRQ);
	}
	for (unsigned bit = 12; bit < 64; bit++)
		one_code(1ull << bit);
	one_code(UINT64_MAX);
	for (unsigned i = 0; i < 100000; i++) {
		r ^= r << 13;
		r ^= r >> 7;
		r ^= r << 17;
		one_code(r);
	}
}

/* A code that nobody knows, from a guest's hart to its exit: paused with its number, and nothing ends. */
static void unknown_from_a_guest(void **state)
{
	static const uint64_t codes[] = {14, 17, 24, 31, 32, 47, 48, 63};

	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
		struct bare *b = start(false);
		struct cpu_exit x;

		do_spin(b);
		b->h->medeleg &= ~(1ull << codes[i]);
		rv64_trap(b->h, CODE, codes[i], 7);
		rv64_post(b->h->ring, &b->h->nposted, 0, RV64_RECORD_EXIT, &b->h->st);
		assert_true(rv64_take(&b->h->reader, &x, NULL, NULL));
		assert_int_equal(x.reason, CPU_EXIT_ERROR);
		assert_int_equal(x.raw, codes[i]);
		assert_int_equal(x.pc, CODE);
		bare_free(b);
	}
}

/* Contents that contradict themselves. */
static void contradictions(void **state)
{
	struct rv64_status st = {.cause = CAUSE_LOAD_ACCESS, .htinst = 0x23};
	struct cpu_exit x;

	rv64_translate(&rv64_causes, &st, &x);
	assert_int_equal(x.reason, CPU_EXIT_ERROR);
	st = (struct rv64_status){.cause = CAUSE_STORE_ACCESS, .htinst = 0};
	rv64_translate(&rv64_causes, &st, &x);
	assert_int_equal(x.reason, CPU_EXIT_ERROR);
	st = (struct rv64_status){.cause = CAUSE_VIRTUAL_INSN, .tval = 0x13};
	rv64_translate(&rv64_causes, &st, &x);
	assert_int_equal(x.reason, CPU_EXIT_ERROR);
	assert_int_equal(x.raw, CAUSE_VIRTUAL_INSN);
}

/* ---- damaged records ---- */

enum harm {
	HARM_SEQ,
	HARM_SEQ_OLD,
	HARM_LENGTH,
	HARM_VCPU,
	HARM_KIND,
	HARM_HEAD,
	HARM_HEAD_BACK,
	HARMS
};

struct harmer {
	enum harm how;
	unsigned times;
};

static void harm(void *ctx, unsigned vcpu, struct rv64_ring *ring)
{
	struct harmer *m = ctx;
	struct rv64_record *r = &ring->slot[(ring->head - 1) % RV64_RING];

	if (!m->times)
		return;
	m->times--;
	switch (m->how) {
	case HARM_SEQ:
		r->seq ^= 1ull << 40;
		return;
	case HARM_SEQ_OLD:
		r->seq -= RV64_RING;
		return;
	case HARM_LENGTH:
		r->length = 0xffffffff;
		return;
	case HARM_VCPU:
		r->vcpu++;
		return;
	case HARM_KIND:
		r->kind = 0;
		return;
	case HARM_HEAD:
		ring->head += 1000000;
		return;
	case HARM_HEAD_BACK:
		ring->head -= 1;
		return;
	case HARMS:
		return;
	}
}

/* The exit comes all the same, one later; the record is counted; and the guest notices nothing. */
static void damaged_is_dropped(void **state)
{
	for (unsigned how = 0; how < HARMS; how++)
		for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
			struct bare *b = start(true);
			struct rv64_vm *vm = (struct rv64_vm *)b->vm;
			struct harmer m = {(enum harm)how, 3};
			struct cpu_exit x;

			vm->tamper = harm;
			vm->tamper_ctx = &m;
			kinds[i].run(b);
			for (unsigned n = 0; n < 3; n++) {
				rv64_engine.vcpu_run(b->v[0], 200000, &x);
				assert_int_equal(x.reason, CPU_EXIT_BUDGET);
				assert_int_equal(b->h->reader.dropped, n + 1);
				assert_non_null(b->h->reader.why);
			}
			rv64_engine.vcpu_run(b->v[0], 200000, &x);
			assert_int_equal(b->h->reader.dropped, 3);
			/* A dropped idle or kick is a wake for nothing: the guest has gone on. */
			if (kinds[i].run != do_wfi && kinds[i].run != do_kick)
				assert_int_equal(x.type, kinds[i].type);
			bare_free(b);
		}
}

static void damaged_without_end(void **state)
{
	struct bare *b = start(false);
	struct rv64_vm *vm = (struct rv64_vm *)b->vm;
	struct harmer m = {HARM_LENGTH, 1000};
	struct cpu_exit x;
	unsigned n = 0;

	vm->tamper = harm;
	vm->tamper_ctx = &m;
	do_load(b);
	do
		rv64_engine.vcpu_run(b->v[0], 200000, &x);
	while (x.reason == CPU_EXIT_BUDGET && ++n < 100);
	assert_int_equal(x.reason, CPU_EXIT_ERROR);
	assert_int_equal(n, 15);
	assert_int_equal(x.raw, CAUSE_LOAD_ACCESS);
	bare_free(b);
}

/* ---- answers ---- */

static void exceptions_go_back(void **state)
{
	struct bare *b = start(true);
	struct cpu_exit x;

	do_illegal(b);
	rv64_engine.vcpu_run(b->v[0], 200000, &x);
	assert_int_equal(x.type, CPU_TYPE_INVALID_OPCODE);
	/* Not reflected: it is made again, and leaves again. */
	x.exc.reflect = false;
	rv64_engine.vcpu_run(b->v[0], 200000, &x);
	assert_int_equal(x.type, CPU_TYPE_INVALID_OPCODE);
	assert_int_equal(x.pc, CODE);
	x.exc.reflect = true;
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_int_equal(b->h->pc, SVECTOR);
	assert_int_equal(b->h->c.scause, CAUSE_ILLEGAL);
	assert_int_equal(b->h->c.sepc, CODE);
	bare_free(b);
}

static void view_faults_are_answered(void **state)
{
	struct bare *b = start(false);
	struct cpu_exit x;

	do_view_write(b);
	b->h->x[7] = 0x5a;
	rv64_engine.vcpu_run(b->v[0], 200000, &x);
	assert_int_equal(x.reason, CPU_EXIT_VIEW_FAULT);
	assert_int_equal(x.fault.gpa.v, RAM + 0x200000);
	assert_int_equal(x.fault.access, MEM_WRITE);
	assert_int_equal(x.gva, RAM + 0x200000);
	/* Permitted now: the same store is made. */
	assert_int_equal(view_protect(space_view(b->space, 0), gpa(RAM + 0x200000), PAGE_SIZE,
				 VIEW_R | VIEW_W, NULL),
		0);
	space_invalidate(b->space, 0, gpa(RAM + 0x200000), PAGE_SIZE, MEM_WRITE);
	x.fault.error = false;
	bare_exit(b, 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_IDLE);
	assert_int_equal(bare_get64(b, RAM + 0x200000) & 0xff, 0x5a);
	/* Refused: an access fault. */
	do_view_write(b);
	rv64_engine.vcpu_run(b->v[0], 200000, &x);
	assert_int_equal(x.reason, CPU_EXIT_VIEW_FAULT);
	x.fault.error = true;
	rv64_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(b->h->c.scause, CAUSE_STORE_ACCESS);
	assert_int_equal(b->h->c.stval, RAM + 0x200000);
	bare_free(b);
}

/* ---- what needs no exit ---- */

struct heard {
	unsigned n;
	uint64_t count[CPU_TYPES];
	struct cpu_note last;
};

static void on_note(void *ctx, unsigned vcpu, const struct cpu_note *n)
{
	struct heard *h = ctx;

	h->n++;
	h->count[n->type] += n->count;
	h->last = *n;
}

static void notes(void **state)
{
	struct bare *b = start(false);
	struct rv64_vm *vm = (struct rv64_vm *)b->vm;
	struct heard heard = {0};
	struct cpu_stats st;
	struct cpu_exit x;

	vm->o.note = on_note;
	vm->o.note_ctx = &heard;
	/* The handler skips the instruction and comes back. */
	bare_put(b, SVECTOR, enc_csr(RV_csrrs, 5, 0x141, 0));
	bare_put(b, SVECTOR + 4, enc(RV_addi, 5, 5, 0) | 4u << 20);
	bare_put(b, SVECTOR + 8, enc_csr(RV_csrrw, 0, 0x141, 5));
	bare_put(b, SVECTOR + 12, 0x10200073); /* sret */
	/* 500 illegal instructions: many more than the ring holds. */
	for (unsigned i = 0; i < 500; i++)
		bare_put(b, CODE + 4 * i, 0xffffffff);
	bare_put(b, CODE + 4 * 500, WFI);
	b->h->c.stvec = SVECTOR;
	go(b, PRIV_S, CODE);
	bare_exit(b, 0, &x);
	assert_int_equal(heard.n, 0);
	rv64_engine.vcpu_stats(b->v[0], &st);
	assert_int_equal(st.delivered[CPU_TYPE_INVALID_OPCODE], 500);
	rv64_engine.vm_notes(b->vm, true);
	go(b, PRIV_S, CODE);
	bare_exit(b, 0, &x);
	assert_int_equal(heard.n, 500);
	assert_int_equal(heard.count[CPU_TYPE_INVALID_OPCODE], 500);
	assert_int_equal(heard.last.code.vector, CPU_VEC_UD);
	assert_int_equal(heard.last.raw, CAUSE_ILLEGAL);
	assert_int_equal(heard.last.pc, CODE + 4 * 499);
	assert_int_equal(b->h->reader.dropped, 0);
	bare_free(b);
}

/* Messages of devices count when they are claimed; those of harts each, though several are claimed as one. */
static void messages(void **state)
{
	struct bare *b = start(false);
	struct cpu_stats st;
	struct cpu_exit x;

	b->h->imsic[CPU_MSI_S].delivery = 1;
	b->h->imsic[CPU_MSI_S].eie[0] = 1ull << 1 | 1ull << 5;
	b->h->mie = S_IRQS;
	b->h->mstatus |= MSTATUS_SIE;
	bare_put(b, SVECTOR, enc_csr(RV_csrrw, 5, 0x15c, 0));
	bare_put(b, SVECTOR + 4, 0xfe029ee3); /* bne x5, x0, .-4 */
	bare_put(b, SVECTOR + 8, 0x10200073); /* sret */
	b->h->c.stvec = SVECTOR;
	for (unsigned i = 0; i < 3; i++)
		rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 1 | CPU_MSI_FROM_VCPU);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 5);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 5);
	do_wfi(b);
	bare_exit(b, 0, &x);
	rv64_engine.vcpu_stats(b->v[0], &st);
	assert_int_equal(st.delivered[CPU_TYPE_IPI], 3);
	assert_int_equal(st.delivered[CPU_TYPE_EXTERNAL], 1);
	assert_int_equal(st.interrupts, 1);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 5);
	bare_exit(b, 0, &x);
	rv64_engine.vcpu_stats(b->v[0], &st);
	assert_int_equal(st.delivered[CPU_TYPE_IPI], 3);
	assert_int_equal(st.delivered[CPU_TYPE_EXTERNAL], 2);
	/* The second of two that were sent at once comes after the first's claim counted both. */
	atomic_fetch_or(&b->h->imsic[CPU_MSI_S].eip[0], 1ull << 1);
	atomic_fetch_or(&b->h->poll, POLL_IRQ);
	do_wfi(b);
	bare_exit(b, 0, &x);
	assert_int_equal(atomic_load(&b->h->imsic[CPU_MSI_S].eip[0]), 0);
	rv64_engine.vcpu_stats(b->v[0], &st);
	assert_int_equal(st.delivered[CPU_TYPE_IPI], 3);
	assert_int_equal(st.delivered[CPU_TYPE_EXTERNAL], 2);
	bare_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kind_by_its_code),
		cmocka_unit_test(knock_out),
		cmocka_unit_test(every_code),
		cmocka_unit_test(unknown_from_a_guest),
		cmocka_unit_test(contradictions),
		cmocka_unit_test(damaged_is_dropped),
		cmocka_unit_test(damaged_without_end),
		cmocka_unit_test(exceptions_go_back),
		cmocka_unit_test(view_faults_are_answered),
		cmocka_unit_test(notes),
		cmocka_unit_test(messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
