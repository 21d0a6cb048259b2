/*
 * board_parts.h: what every board class is built from in the same way; for the board files only.
 *
 * A board class is a struct that begins with struct board_parts, and a table of steps. parts_build() goes through the table; a step
 * that fails has undone its own part, and those before it are undone in reverse. The same table, from its end, takes the machine apart. Steps
 * that all boards have are here, in pairs of _up and _down.
 */
#ifndef LODGE_MACHINE_BOARD_PARTS_H
#define LODGE_MACHINE_BOARD_PARTS_H

#include "machine/board_class.h"
#include "machine/loader.h"
#include "machine/topology.h"

struct board_parts {
	struct board board;
	const struct board_opts *opts; /* during creation only */
	struct topology topology;
	struct boot_file kernel, initrd, firmware;
	char *append;
	uint64_t boots; /* so far */
	uint64_t seed;
};

struct board_step {
	int (*up)(struct board_parts *p, struct err *e);
	void (*down)(struct board_parts *p); /* NULL: nothing to undo */
};

/* A machine in `size` zeroed bytes that begin with struct board_parts; board.priv is that struct. */
int parts_build(struct board **out, const struct board_class *cls, size_t size,
	const struct board_step *steps, size_t n, const struct board_opts *o, struct err *e);
void parts_take_down(struct board *b, const struct board_step *steps, size_t n);

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

void parts_pci_down(struct board_parts *p); /* the host bridge is each board's own to make */
/* Every vCPU parked, in its reset state: with what a board's reset ends. */
void parts_cpus_reset(struct board_parts *p);

/* The board's own devices, then those of the options as PCI functions, in slot order. */
int parts_devices_up(
	struct board_parts *p, const struct board_device *platform, unsigned n, struct err *e);
void parts_devices_down(struct board_parts *p);

/* Random numbers for the guest, others at each boot; from the machine's seed where it has one. */
void parts_boot_seed(const struct board_parts *p, uint8_t seed[32]);

#endif
