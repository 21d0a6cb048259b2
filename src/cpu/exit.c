#include "cpu/exit.h"

#include <stddef.h>
#include <stdio.h>

#include "base/util.h"

static const char *const names[CPU_EXIT_REASONS] = {
	[CPU_EXIT_BUDGET] = "budget",
	[CPU_EXIT_IDLE] = "idle",
	[CPU_EXIT_PAUSE] = "pause",
	[CPU_EXIT_STOPPED] = "stopped",
	[CPU_EXIT_MMIO] = "mmio",
	[CPU_EXIT_PIO] = "pio",
	[CPU_EXIT_VIEW_FAULT] = "view fault",
	[CPU_EXIT_HYPERCALL] = "hypercall",
	[CPU_EXIT_CONSOLE] = "console",
	[CPU_EXIT_SYSTEM] = "system",
	[CPU_EXIT_DEBUG] = "debug",
	[CPU_EXIT_EXCEPTION] = "exception",
	[CPU_EXIT_ERROR] = "error",
};

static const struct {
	const char *name;
	enum cpu_exit_reason reason;
} types[CPU_TYPES] = {
	[CPU_TYPE_UNKNOWN] = {"unknown", CPU_EXIT_ERROR},
	[CPU_TYPE_TIMER] = {"timer", CPU_EXIT_BUDGET},
	[CPU_TYPE_IPI] = {"ipi", CPU_EXIT_BUDGET},
	[CPU_TYPE_EXTERNAL] = {"external", CPU_EXIT_BUDGET},
	[CPU_TYPE_PMI] = {"counter overflow", CPU_EXIT_BUDGET},
	[CPU_TYPE_IDLE] = {"idle", CPU_EXIT_IDLE},
	[CPU_TYPE_PAUSE] = {"pause", CPU_EXIT_PAUSE},
	[CPU_TYPE_STOPPED] = {"stopped", CPU_EXIT_STOPPED},
	[CPU_TYPE_MMIO] = {"mmio", CPU_EXIT_MMIO},
	[CPU_TYPE_PIO] = {"pio", CPU_EXIT_PIO},
	[CPU_TYPE_VIEW_FAULT] = {"view fault", CPU_EXIT_VIEW_FAULT},
	[CPU_TYPE_HYPERCALL] = {"hypercall", CPU_EXIT_HYPERCALL},
	[CPU_TYPE_CONSOLE] = {"console", CPU_EXIT_CONSOLE},
	[CPU_TYPE_SYSTEM] = {"system", CPU_EXIT_SYSTEM},
	[CPU_TYPE_CRASH] = {"crash", CPU_EXIT_ERROR},
	[CPU_TYPE_BREAKPOINT] = {"breakpoint", CPU_EXIT_DEBUG},
	[CPU_TYPE_DEBUG] = {"debug", CPU_EXIT_DEBUG},
	[CPU_TYPE_INVALID_OPCODE] = {"invalid opcode", CPU_EXIT_EXCEPTION},
	[CPU_TYPE_PAGE_FAULT] = {"page fault", CPU_EXIT_EXCEPTION},
	[CPU_TYPE_ALIGNMENT] = {"alignment", CPU_EXIT_EXCEPTION},
	[CPU_TYPE_PROTECTION] = {"protection", CPU_EXIT_EXCEPTION},
	[CPU_TYPE_SYSCALL] = {"system call", CPU_EXIT_EXCEPTION},
	[CPU_TYPE_HARDWARE] = {"hardware error", CPU_EXIT_EXCEPTION},
};

/* Basic exit reasons that say all. */
static const struct {
	uint16_t basic;
	uint8_t type;
	const char *name;
} basics[] = {
	{CPU_BASIC_EPT_MISCONFIG, CPU_TYPE_MMIO, "EPT misconfiguration"},
	{CPU_BASIC_HLT, CPU_TYPE_IDLE, "HLT"},
	{CPU_BASIC_IO, CPU_TYPE_PIO, "I/O instruction"},
	{CPU_BASIC_PAUSE, CPU_TYPE_PAUSE, "PAUSE"},
	{CPU_BASIC_EPT_VIOLATION, CPU_TYPE_VIEW_FAULT, "EPT violation"},
	{CPU_BASIC_TRIPLE, CPU_TYPE_SYSTEM, "triple fault"},
	{CPU_BASIC_ENTRY_FAIL, CPU_TYPE_CRASH, "VM-entry failure"},
	{CPU_BASIC_INIT, CPU_TYPE_STOPPED, "INIT"},
	{CPU_BASIC_SIPI, CPU_TYPE_STOPPED, "SIPI"},
	{CPU_BASIC_WINDOW, CPU_TYPE_EXTERNAL, "interrupt window"},
};

static const struct {
	uint8_t vector, type;
	const char *name;
} vectors[] =
	{
		{CPU_VEC_DE, CPU_TYPE_PROTECTION, "#DE"},
		{CPU_VEC_DB, CPU_TYPE_DEBUG, "#DB"},
		{CPU_VEC_BP, CPU_TYPE_BREAKPOINT, "#BP"},
		{CPU_VEC_UD, CPU_TYPE_INVALID_OPCODE, "#UD"},
		{CPU_VEC_DF, CPU_TYPE_CRASH, "#DF"},
		{CPU_VEC_GP, CPU_TYPE_PROTECTION, "#GP"},
		{CPU_VEC_PF, CPU_TYPE_PAGE_FAULT, "#PF"},
		{CPU_VEC_AC, CPU_TYPE_ALIGNMENT, "#AC"},
		{CPU_VEC_MC, CPU_TYPE_HARDWARE, "#MC"},
		{CPU_VEC_VE, CPU_TYPE_PROTECTION, "#VE"},
		{CPU_VEC_CP, CPU_TYPE_PROTECTION, "#CP"},
},
  interrupts[] = {
	  {CPU_VEC_NMI, CPU_TYPE_EXTERNAL, "NMI"},
	  {CPU_VEC_TIMER, CPU_TYPE_TIMER, "timer"},
	  {CPU_VEC_PMI, CPU_TYPE_PMI, "counter overflow"},
	  {CPU_VEC_IPI, CPU_TYPE_IPI, "IPI"},
	  {CPU_VEC_EXTERNAL, CPU_TYPE_EXTERNAL, "external"},
};

static const struct {
	uint8_t type;
	const char *name;
} calls[] = {
	[CPU_CALL_OTHER] = {CPU_TYPE_HYPERCALL, "VMCALL"},
	[CPU_CALL_CONSOLE] = {CPU_TYPE_CONSOLE, "VMCALL console"},
	[CPU_CALL_SYSTEM] = {CPU_TYPE_SYSTEM, "VMCALL system"},
	[CPU_CALL_USER] = {CPU_TYPE_SYSCALL, "system call"},
};

const char *cpu_exit_name(enum cpu_exit_reason r)
{
	return (unsigned)r < CPU_EXIT_REASONS ? names[r] : "unknown";
}

const char *cpu_type_name(enum cpu_type t)
{
	return (unsigned)t < CPU_TYPES ? types[t].name : "unknown";
}

enum cpu_exit_reason cpu_type_reason(enum cpu_type t)
{
	return (unsigned)t < CPU_TYPES ? types[t].reason : CPU_EXIT_ERROR;
}

/* *name as well, for people. */
static enum cpu_type look_up(const struct cpu_code *c, const char **name)
{
	*name = "unknown";
	if (c->basic == CPU_BASIC_EXCEPTION) {
		for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
			if (vectors[i].vector == c->vector) {
				*name = vectors[i].name;
				return (enum cpu_type)vectors[i].type;
			}
		return CPU_TYPE_UNKNOWN;
	}
	if (c->basic == CPU_BASIC_EXTINT) {
		for (unsigned i = 0; i < ARRAY_SIZE(interrupts); i++)
			if (interrupts[i].vector == c->vector) {
				*name = interrupts[i].name;
				return (enum cpu_type)interrupts[i].type;
			}
		return CPU_TYPE_UNKNOWN;
	}
	if (c->basic == CPU_BASIC_VMCALL) {
		if (c->qual >= ARRAY_SIZE(calls))
			return CPU_TYPE_UNKNOWN;
		*name = calls[c->qual].name;
		return (enum cpu_type)calls[c->qual].type;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(basics); i++)
		if (basics[i].basic == c->basic) {
			*name = basics[i].name;
			return (enum cpu_type)basics[i].type;
		}
	return CPU_TYPE_UNKNOWN;
}

enum cpu_type cpu_code_type(const struct cpu_code *c)
{
	const char *name;

	return look_up(c, &name);
}

void cpu_exit_identify(struct cpu_exit *x)
{
	x->type = cpu_code_type(&x->code);
	x->reason = cpu_type_reason(x->type);
	if (x->type == CPU_TYPE_UNKNOWN)
		x->text = "no exit is known by this code";
	else if (x->type == CPU_TYPE_CRASH)
		x->text = "the processor refused the guest's state";
}

const char *cpu_code_text(char *out, const struct cpu_code *c)
{
	const char *name;

	look_up(c, &name);
	if (c->basic == CPU_BASIC_UNKNOWN)
		snprintf(out, CPU_CODE_TEXT, "none");
	else if (c->basic == CPU_BASIC_EXCEPTION)
		snprintf(out, CPU_CODE_TEXT, "0 %s (vector %u) error %#x", name, c->vector,
			c->error);
	else if (c->basic == CPU_BASIC_EXTINT)
		snprintf(out, CPU_CODE_TEXT, "1 %s (vector %#x)", name, c->vector);
	else
		snprintf(out, CPU_CODE_TEXT, "%u %s %#llx", c->basic, name,
			(unsigned long long)c->qual);
	return out;
}
