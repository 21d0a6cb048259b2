#include "cpu/exit.h"

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
	[CPU_EXIT_ERROR] = "error",
};

const char *cpu_exit_name(enum cpu_exit_reason r)
{
	return (unsigned)r < CPU_EXIT_REASONS ? names[r] : "unknown";
}
