/*
 * exits.c: the one table of exit handlers, for every engine (decision D3).
 */
#include <stdio.h>

#include "base/util.h"
#include "bus/bus.h"
#include "memory/space.h"
#include "vm/internal.h"

static enum exit_verdict on_budget(struct vm_vcpu *vc, struct cpu_exit *x)
{
	return EXIT_AGAIN;
}

static enum exit_verdict on_idle(struct vm_vcpu *vc, struct cpu_exit *x)
{
	return EXIT_IDLE;
}

static enum exit_verdict on_pause(struct vm_vcpu *vc, struct cpu_exit *x)
{
	return EXIT_YIELD;
}

static enum exit_verdict on_stopped(struct vm_vcpu *vc, struct cpu_exit *x)
{
	return EXIT_PARK;
}

static enum exit_verdict on_mmio(struct vm_vcpu *vc, struct cpu_exit *x)
{
	x->mmio.error = bus_access(vc->vm->board->bus, BUS_MMIO, x->mmio.gpa.v, x->mmio.size,
				x->mmio.write, &x->mmio.data) != 0;
	return EXIT_GO_ON;
}

static enum exit_verdict on_pio(struct vm_vcpu *vc, struct cpu_exit *x)
{
	x->mmio.error = bus_access(vc->vm->board->bus, BUS_PIO, x->mmio.gpa.v, x->mmio.size,
				x->mmio.write, &x->mmio.data) != 0;
	return EXIT_GO_ON;
}

/* RAM that the second-level map does not let the guest use so: nobody manages such pages yet, so the guest is told. */
static enum exit_verdict on_view_fault(struct vm_vcpu *vc, struct cpu_exit *x)
{
	x->fault.error = true;
	return EXIT_GO_ON;
}

/* Exceptions belong to the guest: they are only seen here, on the way to it. */
static enum exit_verdict on_exception(struct vm_vcpu *vc, struct cpu_exit *x)
{
	x->exc.reflect = true;
	return EXIT_GO_ON;
}

/* No hypercall is defined above the engines yet: each is "not supported", in the convention of its ISA (-1: SBI's too). */
static enum exit_verdict on_hypercall(struct vm_vcpu *vc, struct cpu_exit *x)
{
	x->hcall.ret[0] = (uint64_t)-2;
	x->hcall.ret[1] = 0;
	return EXIT_GO_ON;
}

static enum exit_verdict on_console(struct vm_vcpu *vc, struct cpu_exit *x)
{
	char buf[1024];
	uint64_t n = MIN(x->console.len, sizeof(buf));

	x->console.done = 0;
	if (!x->console.write)
		return EXIT_GO_ON; /* input belongs to the UART's driver */
	if (x->console.byte) {
		buf[0] = (char)x->console.gpa.v;
		console_output(vc->vm->console, buf, 1);
		x->console.done = 1;
		return EXIT_GO_ON;
	}
	if (space_read(vc->vm->board->space, x->console.gpa, buf, n) == 0) {
		console_output(vc->vm->console, buf, n);
		x->console.done = n;
	}
	return EXIT_GO_ON;
}

static enum exit_verdict on_system(struct vm_vcpu *vc, struct cpu_exit *x)
{
	vm_post_event(vc->vm, (int)x->system.event, x->system.code, NULL);
	return EXIT_PARK;
}

static enum exit_verdict on_unexpected(struct vm_vcpu *vc, struct cpu_exit *x)
{
	char text[192];

	snprintf(text, sizeof(text), "vCPU %u: %s (raw code %#llx) at pc %#llx%s%s",
		(unsigned)(vc - vc->vm->vcpus), cpu_exit_name(x->reason),
		(unsigned long long)x->raw, (unsigned long long)x->pc,
		x->reason == CPU_EXIT_ERROR && x->text ? ": " : "",
		x->reason == CPU_EXIT_ERROR && x->text ? x->text : "");
	vm_post_event(vc->vm, VM_POST_ERROR, x->raw, text);
	return EXIT_PARK;
}

static enum exit_verdict (*const handlers[CPU_EXIT_REASONS])(
	struct vm_vcpu *, struct cpu_exit *) = {
	[CPU_EXIT_BUDGET] = on_budget,
	[CPU_EXIT_IDLE] = on_idle,
	[CPU_EXIT_PAUSE] = on_pause,
	[CPU_EXIT_STOPPED] = on_stopped,
	[CPU_EXIT_MMIO] = on_mmio,
	[CPU_EXIT_PIO] = on_pio,
	[CPU_EXIT_VIEW_FAULT] = on_view_fault,
	[CPU_EXIT_HYPERCALL] = on_hypercall,
	[CPU_EXIT_CONSOLE] = on_console,
	[CPU_EXIT_SYSTEM] = on_system,
	[CPU_EXIT_DEBUG] = on_exception, /* no debugger can ask for stops yet */
	[CPU_EXIT_EXCEPTION] = on_exception,
	[CPU_EXIT_ERROR] = on_unexpected,
};

enum exit_verdict exit_handle(struct vm_vcpu *vc, struct cpu_exit *x)
{
	if ((unsigned)x->reason >= CPU_EXIT_REASONS)
		return on_unexpected(vc, x);
	atomic_fetch_add_explicit(&vc->exits[x->reason], 1, memory_order_relaxed);
	if ((unsigned)x->type < CPU_TYPES)
		atomic_fetch_add_explicit(&vc->types[x->type], 1, memory_order_relaxed);
	if (unlikely(trace_on(vc->vm->trace)))
		trace_exit(vc->vm->trace, (unsigned)(vc - vc->vm->vcpus), x);
	return handlers[x->reason](vc, x);
}
