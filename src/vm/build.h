/*
 * build.h: from a VM definition (config.h) to a board: which devices it gets, with which back ends; and what is done to those
 * back ends later.
 *
 * Threads: the event loop's, while the machine is built or later; the callbacks of build_board() say theirs.
 */
#ifndef LODGE_VM_BUILD_H
#define LODGE_VM_BUILD_H

#include <stdint.h>

struct board;
struct board_opts;
struct err;
struct json_t;
struct vm;
struct vm_config;

/*
 * Fills vm->board, which the caller destroys. Back ends are opened here; what fails is unwound. Of `events` only the callbacks count, which get `vm`; they are called until
 * the board is gone, from any thread, and must not call back into the board: wake (a vCPU has something to do), note (cpu.h), system_event
 * (enum cpu_system_event), report (a device has something to say), stop (a device asks for a pause: on-error=pause).
 */
int build_board(struct vm *vm, const struct board_opts *events, struct err *e);
int build_power_button(struct board *b, struct err *e);
/* Asks the guest to keep `target` bytes of its memory. */
int build_balloon(struct board *b, const struct vm_config *cfg, uint64_t target, struct err *e);
unsigned build_workers(const struct vm_config *cfg);

/* NULL: there is none such. */
struct disk *build_disk(struct board *b, const char *id);
/* What the host failed, and on-error=pause has held, is tried once more. */
void build_retry_disks(struct board *b);
/* Live: grows the disk `id` to `size` bytes (0: what its file has now) and tells the guest. */
int build_disk_resize(struct board *b, const char *id, uint64_t size, struct err *e);

/*
 * Memory of this process: guest RAM in use and what Lodge itself takes beyond it, `shared` bytes of it shared memory mapped twice
 * (translated code). New reference.
 */
struct json_t *build_host_stats(struct vm *vm, uint64_t shared);

/* The console hub and its character device. */
int vm_console_build(struct vm *vm, struct err *e);
void vm_console_free(struct vm *vm);

#endif
