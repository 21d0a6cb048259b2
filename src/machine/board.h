/*
 * board.h: a machine, put together: memory, vCPUs, bus, interrupt controllers, devices, boot state.
 *
 * A board class (`virt` for rv64, `pc` for x86-64) is a table entry. board_create() builds in order and, when a step fails, unwinds exactly
 * what had started, in reverse. The board runs nothing: vm/ runs its vCPUs (vm/vm.h) and handles their exits.
 *
 *   board_create -> board_boot (loads kernel, device tree; sets vCPU boot states) -> vCPUs run
 *        ^                ^--- board_reset (reboot): devices and vCPUs to reset state, boot again
 *        +-- board_destroy
 *
 * Threads: event loop thread, vCPUs outside run(). Files named in the options are opened in board_create(), so that
 * reboot works inside the sandbox.
 */
#ifndef LODGE_MACHINE_BOARD_H
#define LODGE_MACHINE_BOARD_H

#include "cpu/cpu.h"
#include "device/chardev.h"
#include "device/device.h"

struct uv_loop_s;
struct topology;

struct board_device {
	const char *cls; /* "virtio-blk" */
	const char *id; /* "virtio-blk.0" */
	const void *opts; /* the class's options; must live until board_create() returns */
};

struct board_opts {
	const struct cpu_engine_ops *engine;
	enum cpu_jit jit;
	uint64_t jit_cache;
	enum cpu_tiers jit_tiers;
	bool jit_alone;
	enum cpu_irqchip irqchip; /* these four: cpu_vm_opts */
	enum cpu_dirty dirty;
	uint64_t halt_poll_ns;
	bool own_cpus;
	const char *perf_map;
	const char *cpu_model;
	unsigned vcpus;
	uint64_t memory; /* bytes of guest RAM, over all nodes */
	int ram_fd; /* of another process that has this machine: frames_opts.ram_fd; 0: new RAM */
	unsigned nodes; /* NUMA nodes; at least 1 */
	enum cpu_clock clock;
	uint64_t seed; /* 0: host randomness */
	const char *kernel, *initrd, *append, *firmware; /* paths and text; NULL: none */
	struct chardev *uart; /* back end of the first UART; may be NULL */
	const struct board_device *devices; /* PCI devices, in slot order */
	unsigned ndevices;
	struct uv_loop_s *loop;
	struct log *log;
	void (*wake)(void *ctx, unsigned vcpu); /* cpu_vm_opts.wake */
	void (*note)(void *ctx, unsigned vcpu, const struct cpu_note *n); /* cpu_vm_opts.note */
	void (*system_event)(void *ctx, int event, uint64_t code); /* device_env.system_event */
	void (*report)(void *ctx, const char *device, const char *text);
	void (*stop)(void *ctx, const char *device, const char *text); /* device_env.stop */
	void *ctx;
};

struct board_class;

struct board {
	const struct board_class *cls;
	const struct cpu_engine_ops *engine;
	struct cpu_vm *cpu_vm;
	struct vcpu *vcpus[CPU_MAX_VCPUS];
	unsigned nvcpus;
	unsigned timebase_hz; /* of cpu_engine_ops.time_get() */
	struct frames *frames;
	struct space *space;
	struct bus *bus;
	struct pci_host *pci;
	struct topology *topology;
	struct device **devices; /* all of them, platform devices first, in creation order */
	unsigned ndevices;
	struct device_env env;
	void *priv; /* the board class's own */
};

int board_create(struct board **out, const char *cls, const struct board_opts *o, struct err *e);
/* The board for an engine's guests (cpu_engine_ops.isa), or NULL. */
const char *board_for(const char *isa);
void board_destroy(struct board *b);

/* Loads what is to be booted and sets every vCPU's boot state. */
int board_boot(struct board *b, struct err *e);
/* Reset state of every device, controller and vCPU; RAM keeps its contents. Then board_boot() again. */
void board_reset(struct board *b);
int board_quiesce(struct board *b, struct err *e);
void board_resume(struct board *b);

/* Everything that makes up the machine's state except RAM: *objs is malloc'ed, ids owned by the board. Shape (vCPU count,
 * devices) is fixed by the options, so the loader builds a like board first. */
int board_state(struct board *b, struct state_obj **objs, unsigned *n);

/* ACPI tables as the guest gets them, for people and tools; `name` is the signature, "RSDP" for the root pointer. -ENOTSUP: the board has none. */
int board_tables(struct board *b,
	void (*each)(void *ctx, const char *name, const void *bytes, size_t len), void *ctx,
	struct err *e);

#endif
