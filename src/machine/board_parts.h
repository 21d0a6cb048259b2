/*
 * board_parts.h: what every board class is built from in the same way; for the board files only.
 *
 * Functions come in pairs, _up and _down, for a board's table of steps. One that fails has undone its own part.
 */
#ifndef LODGE_MACHINE_BOARD_PARTS_H
#define LODGE_MACHINE_BOARD_PARTS_H

#include "machine/board.h"
#include "machine/loader.h"
#include "machine/topology.h"

struct board_parts {
	struct board *board;
	const struct board_opts *opts; /* during creation only */
	struct topology topology;
	struct boot_file kernel, initrd, firmware;
	char *append;
	uint64_t boots; /* so far */
	uint64_t seed;
};

void parts_init(struct board_parts *p, struct board *b, const struct board_opts *o);

static inline bool parts_given(const struct boot_file *f)
{
	return f->path;
}

/* The host can have that much, and the map has room for it. */
int parts_check_memory(const struct board_parts *p, uint64_t most, struct err *e);

int parts_files_up(struct board_parts *p, struct err *e);
void parts_files_down(struct board_parts *p);

/* Frames for RAM and for the tables of second-level maps; the space; RAM in it, node by node. */
int parts_memory_up(struct board_parts *p, struct err *e);
void parts_memory_down(struct board_parts *p);

/* Fills in what every board says of its vCPUs and makes them. */
int parts_cpus_up(struct board_parts *p, struct cpu_vm_opts *vo, struct err *e);
void parts_cpus_down(struct board_parts *p);

int parts_bus_up(struct board_parts *p, struct err *e);
void parts_bus_down(struct board_parts *p);

/* Room and environment for `platform` devices and those of the options; then devices one by one; then those of the options. */
int parts_devices_begin(struct board_parts *p, unsigned platform, struct err *e);
int parts_device_add(struct board_parts *p, const char *cls, const char *id, const void *opts,
	int slot, struct err *e);
int parts_devices_end(struct board_parts *p, struct err *e);
void parts_devices_down(struct board_parts *p);

/* Random numbers for the guest, others at each boot; from the machine's seed where it has one. */
void parts_boot_seed(const struct board_parts *p, uint8_t seed[32]);

#endif
