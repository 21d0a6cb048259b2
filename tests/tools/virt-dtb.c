/*
 * virt-dtb.c: writes the device tree of the `virt` board to standard output, for dtc and for other machines that have the
 * same map.
 *
 *	virt-dtb HARTS NODES MEMORY ISA firmware|builtin [BOOTARGS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/size.h"
#include "machine/fdt.h"
#include "machine/topology.h"
#include "machine/virt_map.h"

int main(int argc, char **argv)
{
	struct fdt_opts o = {.mmu = "riscv,sv48", .msi_ids = 255};
	struct topology t;
	struct err e = {0};
	uint64_t memory;
	void *dtb;
	size_t len;

	if (argc < 6) {
		fprintf(stderr, "usage: %s HARTS NODES MEMORY ISA firmware|builtin [BOOTARGS]\n",
			argv[0]);
		return 2;
	}
	o.topology = &t;
	o.isa = argv[4];
	o.firmware = !strcmp(argv[5], "firmware");
	o.bootargs = argv[6];
	if (size_parse(argv[3], &memory, &e) ||
		topology_init(&t, (unsigned)atoi(argv[1]), (unsigned)atoi(argv[2]),
			virt_map[VIRT_DRAM].base, memory, &e) ||
		fdt_virt(&o, &dtb, &len, &e)) {
		fprintf(stderr, "%s: %s\n", argv[0], err_msg(&e));
		return 1;
	}
	fwrite(dtb, 1, len, stdout);
	free(dtb);
	return 0;
}
