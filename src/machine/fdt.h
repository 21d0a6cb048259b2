/*
 * fdt.h: the device tree of the `virt` board, made from the topology and from what the engine says of its CPUs.
 *
 * Written with libfdt's sequential calls; nothing is parsed. Same inputs, same bytes. Source: Devicetree
 * Specification 0.4; the bindings in Linux' Documentation/devicetree/bindings (riscv, interrupt-controller/riscv,aplic and
 * riscv,imsics, pci, numa).
 */
#ifndef LODGE_MACHINE_FDT_H
#define LODGE_MACHINE_FDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct topology;

struct fdt_opts {
	const struct topology *topology;
	const char *isa; /* "rv64imafdc_zba_..."; cpu_engine_ops.isa_string */
	const char *mmu; /* "riscv,sv48" */
	unsigned msi_ids; /* highest identity of an interrupt file */
	bool firmware; /* the guest starts in M-mode: describe what only M-mode may use */
	const char *bootargs; /* NULL: none */
	uint64_t initrd, initrd_len; /* len 0: none */
	uint8_t rng_seed[32];
};

/* *out is malloc'ed. -E2BIG: more than FDT_MAX (bootargs of megabytes). */
#define FDT_MAX (2u << 20)
int fdt_virt(const struct fdt_opts *o, void **out, size_t *len, struct err *e);

#endif
