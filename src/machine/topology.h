/*
 * topology.h: the shape of a machine (decision D12): nodes, cores, harts, memory ranges, distances, devices.
 *
 * One object, from which the device tree, the placement of memory and vCPUs, and `lodge inspect` are made. It is
 * filled once, checked, and constant from then on; any thread may read it.
 *
 *	machine
 *	  node 0: memory [base, base+len)  core 0 (hart 0)  core 1 (hart 1)   devices on its PCI bus
 *	  node 1: ...
 *	  distance[i][j]: 10 on the same node, more elsewhere (ACPI SLIT's scale), symmetric
 */
#ifndef LODGE_MACHINE_TOPOLOGY_H
#define LODGE_MACHINE_TOPOLOGY_H

#include <stdint.h>

#include "cpu/cpu.h"
#include "memory/frames.h"

struct err;
struct json_t;

#define TOPOLOGY_NODES FRAMES_MAX_NODES
#define TOPOLOGY_DEVICES 64
#define TOPOLOGY_NEAR 10u
#define TOPOLOGY_FAR 20u
#define TOPOLOGY_GRAIN (2ull << 20) /* memory comes in these */
#define TOPOLOGY_MEMORY_MIN (4ull << 20)

struct topology_range {
	uint64_t base, len;
};

struct topology_node {
	uint64_t base,
		len; /* base: guest-physical, of its first byte; len: bytes of RAM (see topology_node_ranges) */
	unsigned first_hart, harts;
};

struct topology_hart {
	unsigned node, core; /* core: within its node */
};

struct topology_device {
	char id[32];
	char cls[32];
	unsigned node;
	int slot; /* PCI slot, -1: a platform device */
};

struct topology {
	unsigned nodes, harts, devices;
	uint64_t base, memory; /* all RAM: one range but for the hole, cut into nodes */
	struct topology_range hole; /* of addresses, no RAM in it; len 0: none */
	struct topology_node node[TOPOLOGY_NODES];
	struct topology_hart hart[CPU_MAX_VCPUS];
	struct topology_device device[TOPOLOGY_DEVICES];
	uint8_t distance[TOPOLOGY_NODES][TOPOLOGY_NODES];
};

/*
 * The plain shape: harts and memory spread evenly over the nodes (what is left over goes to the first ones), neighbours in
 * order, every other node equally far. -EINVAL with the limit and what to write.
 */
int topology_init(struct topology *t, unsigned harts, unsigned nodes, uint64_t base,
	uint64_t memory, struct err *e);
/* The same with a hole in the addresses, which RAM that does not fit below it continues behind. Grains of TOPOLOGY_GRAIN. */
int topology_init_hole(struct topology *t, unsigned harts, unsigned nodes, uint64_t base,
	uint64_t memory, const struct topology_range *hole, struct err *e);
int topology_add_device(struct topology *t, const char *id, const char *cls, unsigned node,
	int slot, struct err *e);
/* Everything above holds: ranges adjacent and non-empty, harts covered once, distances symmetric, ids unique. */
int topology_check(const struct topology *t, struct err *e);
/* For `lodge inspect`. New reference, or NULL without memory. */
struct json_t *topology_json(const struct topology *t);

/* Where the address `at`, counted as if there were no hole, really is. */
static inline uint64_t topology_skip_hole(const struct topology *t, uint64_t at)
{
	return t->hole.len && at >= t->hole.base ? at + t->hole.len : at;
}

/* The guest-physical address behind the last byte of RAM. */
static inline uint64_t topology_ram_end(const struct topology *t)
{
	return topology_skip_hole(t, t->base + t->memory - 1) + 1;
}

/* The address behind the last byte of RAM that lies below the hole. */
static inline uint64_t topology_low_end(const struct topology *t)
{
	uint64_t end = t->base + t->memory;

	return t->hole.len && end > t->hole.base ? t->hole.base : end;
}

/* A node's memory as ranges of addresses: one, or two where the hole cuts it. */
unsigned topology_node_ranges(const struct topology *t, unsigned node, struct topology_range r[2]);

#endif
