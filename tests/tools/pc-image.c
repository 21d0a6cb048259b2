/*
 * pc-image.c: what the `pc` board puts into memory before the guest's first instruction, as files for another machine with the same map.
 *
 *	pc-image DIR KERNEL INITRD|- MEMORY VCPUS NODES COMMAND-LINE
 *
 * Writes DIR/0xADDRESS.bin for each piece, and at 0x500 what tests/witness/rom.S wants to know. The window for 64-bit BARs is left out of
 * the tables: where it may lie follows from the host's processor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "machine/acpi.h"
#include "machine/loader_x86.h"
#include "machine/pc_map.h"
#include "machine/topology.h"
#include "memory/space.h"

#define PARAMS 0x500
#define DEVICES 8

struct rig {
	const char *dir;
	struct frames *frames;
	struct space *space;
	struct topology t;
	struct x86_kernel k;
	struct x86_boot boot;
	struct boot_file kernel, initrd;
};

static int dump(const struct rig *r, uint64_t at, uint64_t len)
{
	cleanup(free_ptr) uint8_t *p = malloc(len ? len : 1);
	char path[512];
	FILE *f;
	int rc;

	snprintf(path, sizeof(path), "%s/0x%llx.bin", r->dir, (unsigned long long)at);
	if (!p || space_read(r->space, gpa(at), p, len))
		return 1;
	f = fopen(path, "wb");
	if (!f) {
		perror(path);
		return 1;
	}
	rc = fwrite(p, 1, len, f) != len;
	return fclose(f) || rc;
}

static int make(struct rig *r, char **argv, struct err *e)
{
	static const struct topology_range hole = {3 * GiB, GiB};
	struct frames_opts fo = {.nodes = 1, .name = "image"};
	uint64_t memory, low_end;
	int rc = size_parse(argv[4], &memory, e);

	if (!rc)
		rc = topology_init_hole(&r->t, (unsigned)atoi(argv[5]), (unsigned)atoi(argv[6]), 0,
			memory, &hole, e);
	for (int i = 1; !rc && i <= DEVICES; i++) {
		char id[16];

		snprintf(id, sizeof(id), "dev%d", i);
		rc = topology_add_device(&r->t, id, "any", 0, i, e);
	}
	if (rc)
		return rc;
	low_end = topology_low_end(&r->t);
	fo.node_bytes[0] = low_end + space_spare_bytes(low_end);
	rc = frames_create(&r->frames, &fo, e);
	if (!rc)
		rc = space_create(&r->space, r->frames, e);
	if (!rc)
		rc = space_add_ram(r->space, gpa(0), low_end, 0, "ram", e);
	if (!rc)
		rc = boot_file_open(&r->kernel, "kernel", argv[2], e);
	if (!rc)
		rc = x86_kernel_load(r->space, &r->kernel, low_end, &r->k, e);
	r->boot = (struct x86_boot){.topology = &r->t, .cmdline = argv[7], .rsdp = PC_ACPI};
	if (!rc && strcmp(argv[3], "-")) {
		rc = boot_file_open(&r->initrd, "initrd", argv[3], e);
		r->boot.initrd_len = r->initrd.size;
		if (!rc)
			rc = x86_initrd_place(&r->k, &r->initrd, low_end, &r->boot.initrd, e);
		if (!rc)
			rc = loader_blob(r->space, &r->initrd, r->boot.initrd, e);
	}
	return rc ?: x86_boot_write(r->space, &r->k, &r->boot, e);
}

static int tables(struct rig *r, struct err *e)
{
	struct acpi_opts o = {.topology = &r->t, .base = PC_ACPI, .max = PC_ACPI_MAX};
	struct acpi_tables t;
	int rc;

	for (unsigned i = 0; i < CPU_MAX_VCPUS; i++)
		o.apic_id[i] = i;
	rc = acpi_build(&o, &t, e);
	if (!rc && space_write(r->space, gpa(PC_ACPI), t.blob, t.len))
		rc = err_set(e, -1, "no memory for tables");
	acpi_free(&t);
	return rc;
}

int main(int argc, char **argv)
{
	struct rig r = {0};
	struct err e = {0};
	uint8_t params[40] = {0};

	if (argc != 8) {
		fprintf(stderr, "usage: %s DIR KERNEL INITRD|- MEMORY VCPUS NODES COMMAND-LINE\n",
			argv[0]);
		return 2;
	}
	r.dir = argv[1];
	if (make(&r, argv, &e) || tables(&r, &e)) {
		fprintf(stderr, "%s: %s\n", argv[0], err_msg(&e));
		return 1;
	}
	put_le64(params, r.k.entry);
	put_le64(params + 8, r.k.pvh ? PC_START_INFO : PC_ZERO_PAGE);
	put_le64(params + 16, PC_PAGE_TABLES);
	put_le64(params + 24, PC_STACK);
	params[32] = r.k.pvh;
	space_write(r.space, gpa(PARAMS), params, sizeof(params));
	return dump(&r, PARAMS, sizeof(params)) ||
	       dump(&r, PC_START_INFO, PC_CMDLINE + PC_CMDLINE_MAX - PC_START_INFO) ||
	       dump(&r, PC_ACPI, PC_ACPI_MAX) || dump(&r, r.k.start, r.k.end - r.k.start) ||
	       (r.boot.initrd_len && dump(&r, r.boot.initrd, r.boot.initrd_len));
}
