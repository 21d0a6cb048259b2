/*
 * causes.c: the one table from RISC-V's trap causes to the codes of the primary ISA.
 */
#include <stddef.h>

#include "base/util.h"
#include "cpu/rv64/exits/exits.h"

static uint64_t guest_physical(const struct rv64_status *st)
{
	return st->htval << 2 | (st->tval & 3);
}

/* A load or store of memory that is not there: the device's business. */
static bool mmio(const struct rv64_status *st, struct cpu_exit *x)
{
	unsigned op = st->htinst & 0x7f;
	bool write = st->cause == CAUSE_STORE_ACCESS;

	/* LOAD and LOAD-FP, STORE and STORE-FP */
	if (write ? op != 0x23 && op != 0x27 : op != 0x03 && op != 0x07)
		return false;
	x->gva = st->tval;
	x->code.qual = write ? CPU_QUAL_W : CPU_QUAL_R;
	x->mmio.gpa = gpa(guest_physical(st));
	x->mmio.size = (uint8_t)(1u << (st->htinst >> 12 & 3));
	x->mmio.write = write;
	x->mmio.error = false;
	x->mmio.data = st->reg[0];
	return true;
}

static bool view_fault(const struct rv64_status *st, struct cpu_exit *x)
{
	bool write = st->cause == CAUSE_STORE_GUEST_PAGE;
	bool read = st->cause == CAUSE_LOAD_GUEST_PAGE;

	x->gva = st->tval;
	x->code.qual = write ? CPU_QUAL_W : read ? CPU_QUAL_R : CPU_QUAL_X;
	x->fault.gpa = gpa(guest_physical(st));
	x->fault.access = (unsigned)x->code.qual; /* the same bits: enum mem_access */
	x->fault.view = 0;
	x->fault.error = false;
	return true;
}

static bool page_fault(const struct rv64_status *st, struct cpu_exit *x)
{
	x->gva = st->tval;
	x->code.qual = st->tval;
	x->code.error |= st->flags & RV64_FLAG_USER ? CPU_PF_U : 0;
	x->code.error |= st->flags & RV64_FLAG_PRESENT ? CPU_PF_P : 0;
	x->exc.info = st->tval;
	x->exc.reflect = false;
	return true;
}

static bool exception(const struct rv64_status *st, struct cpu_exit *x)
{
	x->exc.info = st->tval;
	x->exc.reflect = false;
	return true;
}

static bool at_address(const struct rv64_status *st, struct cpu_exit *x)
{
	x->gva = st->tval;
	return exception(st, x);
}

/* An instruction that only the monitor can carry out; which, says its word. */
static bool instruction(const struct rv64_status *st, struct cpu_exit *x)
{
	switch (st->tval) {
	case INSN_WFI:
		x->code.basic = CPU_BASIC_HLT;
		x->idle.deadline_ns = st->reg[0];
		return true;
	case INSN_WRS_NTO:
	case INSN_WRS_STO:
	case INSN_PAUSE:
		x->code.basic = CPU_BASIC_PAUSE;
		return true;
	}
	return false;
}

static void console(const struct rv64_status *st, struct cpu_exit *x)
{
	const uint64_t *a = st->reg;
	bool byte = a[6] == 2;

	x->code.qual = CPU_CALL_CONSOLE;
	x->console.write = a[6] != 1;
	x->console.byte = byte;
	x->console.gpa = gpa(byte ? a[0] & 0xff : a[1]);
	x->console.len = byte ? 1 : a[0];
	x->console.done = 0;
}

static void system_call(
	const struct rv64_status *st, struct cpu_exit *x, enum cpu_system_event ev, uint64_t code)
{
	x->code.qual = CPU_CALL_SYSTEM;
	x->system.event = ev;
	x->system.code = code;
}

/* SBI calls that the engine does not serve itself. */
static bool call(const struct rv64_status *st, struct cpu_exit *x)
{
	const uint64_t *a = st->reg;

	switch (a[7]) {
	case EXT_DBCN:
		console(st, x);
		return true;
	case EXT_SRST:
		if ((uint32_t)a[0])
			system_call(st, x, CPU_SYSTEM_REBOOT, 0);
		else
			system_call(st, x, (uint32_t)a[1] ? CPU_SYSTEM_CRASH : CPU_SYSTEM_SHUTDOWN,
				(uint32_t)a[1]);
		return true;
	case EXT_SUSP:
		system_call(st, x, CPU_SYSTEM_SUSPEND, 0);
		return true;
	case EXT_HSM:
		/* A hart that stopped or suspended itself, each time that it is looked at. */
		x->code.basic = a[6] == HSM_STOP ? CPU_BASIC_INIT : CPU_BASIC_HLT;
		x->idle.deadline_ns = a[0];
		return true;
	}
	x->code.qual = CPU_CALL_OTHER;
	x->hcall.nr = a[6] << 32 | (uint32_t)a[7];
	for (unsigned i = 0; i < 6; i++)
		x->hcall.args[i] = a[i];
	x->hcall.ret[0] = x->hcall.ret[1] = 0;
	return true;
}

static bool user_call(const struct rv64_status *st, struct cpu_exit *x)
{
	x->code.qual = CPU_CALL_USER;
	return exception(st, x);
}

/* The identity that was claimed from an interrupt file; 0: a wired input. */
static bool external(const struct rv64_status *st, struct cpu_exit *x)
{
	x->code.qual = st->tval;
	return true;
}

#define EXC(name, vec, err, fn) \
	{ \
		name, CPU_BASIC_EXCEPTION, CPU_VEC_##vec, err, fn \
	}
#define VMX(name, why, fn) \
	{ \
		name, CPU_BASIC_##why, 0, 0, fn \
	}
#define INT(name, vec, fn) \
	{ \
		name, CPU_BASIC_EXTINT, CPU_VEC_##vec, 0, fn \
	}

const struct rv64_causes rv64_causes = {
	.exc =
		{
			[CAUSE_FETCH_MISALIGNED] = EXC("fetch misaligned", AC, 0, at_address),
			[CAUSE_FETCH_ACCESS] = VMX("fetch access fault", EPT_VIOLATION, view_fault),
			[CAUSE_ILLEGAL] = EXC("illegal instruction", UD, 0, exception),
			[CAUSE_BREAK] = EXC("breakpoint", BP, 0, at_address),
			[CAUSE_LOAD_MISALIGNED] = EXC("load misaligned", AC, 0, at_address),
			[CAUSE_LOAD_ACCESS] = VMX("load access fault", EPT_MISCONFIG, mmio),
			[CAUSE_STORE_MISALIGNED] = EXC("store misaligned", AC, 0, at_address),
			[CAUSE_STORE_ACCESS] = VMX("store access fault", EPT_MISCONFIG, mmio),
			[CAUSE_ECALL_U] = VMX("ecall from U", VMCALL, user_call),
			[CAUSE_ECALL_S] = VMX("ecall from S", VMCALL, call),
			[CAUSE_ECALL_VS] = VMX("ecall from VS", VMCALL, call),
			[CAUSE_ECALL_M] = VMX("ecall from M", VMCALL, call),
			[CAUSE_FETCH_PAGE] = EXC("fetch page fault", PF, CPU_PF_I, page_fault),
			[CAUSE_LOAD_PAGE] = EXC("load page fault", PF, 0, page_fault),
			[CAUSE_STORE_PAGE] = EXC("store page fault", PF, CPU_PF_W, page_fault),
			[CAUSE_DOUBLE_TRAP] = EXC("double trap", DF, 0, NULL),
			[CAUSE_SOFTWARE_CHECK] = EXC("software check", CP, 0, exception),
			[CAUSE_HARDWARE] = EXC("hardware error", MC, 0, exception),
			[CAUSE_FETCH_GUEST_PAGE] = VMX(
				"fetch guest-page fault", EPT_VIOLATION, view_fault),
			[CAUSE_LOAD_GUEST_PAGE] = VMX(
				"load guest-page fault", EPT_VIOLATION, view_fault),
			[CAUSE_VIRTUAL_INSN] = VMX("virtual instruction", UNKNOWN, instruction),
			[CAUSE_STORE_GUEST_PAGE] = VMX(
				"store guest-page fault", EPT_VIOLATION, view_fault),
		},
	/* 2, 6, 10, 12: the same of a guest with a hypervisor of its own; 13: local counter overflow (Sscofpmf) */
	.irq =
		{
			[IRQ_SSI] = INT("supervisor software interrupt", IPI, NULL),
			[2] = INT("virtual software interrupt", IPI, NULL),
			[IRQ_MSI] = INT("machine software interrupt", IPI, NULL),
			[IRQ_STI] = INT("supervisor timer interrupt", TIMER, NULL),
			[6] = INT("virtual timer interrupt", TIMER, NULL),
			[IRQ_MTI] = INT("machine timer interrupt", TIMER, NULL),
			[IRQ_SEI] = INT("supervisor external interrupt", EXTERNAL, external),
			[10] = INT("virtual external interrupt", EXTERNAL, external),
			[IRQ_MEI] = INT("machine external interrupt", EXTERNAL, external),
			[12] = INT("guest external interrupt", EXTERNAL, external),
			[13] = INT("counter overflow interrupt", PMI, NULL),
		},
};

const struct rv64_cause *rv64_cause(const struct rv64_causes *t, uint64_t cause)
{
	uint64_t n = cause & ~CAUSE_IRQ;
	const struct rv64_cause *c;

	if (n >= RV64_CAUSES)
		return NULL;
	c = cause & CAUSE_IRQ ? &t->irq[n] : &t->exc[n];
	return c->name ? c : NULL;
}

void rv64_translate(const struct rv64_causes *t, const struct rv64_status *st, struct cpu_exit *x)
{
	const struct rv64_cause *c = rv64_cause(t, st->cause);

	x->raw = st->cause;
	x->pc = st->pc;
	x->gva = 0;
	x->code = (struct cpu_code){.basic = CPU_BASIC_UNKNOWN};
	if (c) {
		x->code.basic = c->basic;
		x->code.vector = c->vector;
		x->code.error = c->error;
		if (c->detail && !c->detail(st, x))
			x->code.basic = CPU_BASIC_UNKNOWN;
	}
	cpu_exit_identify(x);
}
