/*
 * engines.h: which engine runs a machine, and what this host is good for.
 *
 * Threads: any. engine_choose() may measure for a few milliseconds, and opens /dev/kvm: before the sandbox.
 */
#ifndef LODGE_VM_ENGINES_H
#define LODGE_VM_ENGINES_H

#include <stdbool.h>
#include <stddef.h>

struct cpu_engine_ops;
struct err;
struct json_t;

/* Kernel code that takes more than this times the host's own is interpreted. On hardware it is about 1. */
#define ENGINE_SLOW 20.0

/* "riscv64" or "x86-64", by the file's own words (Linux Image, bzImage, ELF); NULL: it does not say. */
const char *engine_kernel_isa(const char *path);

/*
 * `want`: enum vm_engine. AUTO takes the engine of the kernel's ISA, and kvm only where kernel code runs on hardware. NULL with *e: what is
 * missing, and what to do.
 */
const struct cpu_engine_ops *engine_choose(int want, const char *kernel, struct err *e);

/*
 * For `lodge doctor`: text has what the engine of that name is worth here. False: it cannot be used, or is no use.
 */
bool engine_describe(const char *name, char *text, size_t size);

/*
 * For `lodge doctor`: what this host offers the engine beyond what it needs: text counts and names what is not there; *list (a new reference) has
 * all of it. False: nothing is known; text says why.
 */
bool engine_features(const char *name, char *text, size_t size, struct json_t **list);

#endif
