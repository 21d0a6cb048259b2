/*
 * pc-acpi.c: writes the ACPI tables of the `pc` board into a folder, a file each (facp.dat, dsdt.dat, ...), for iasl, acpiexec and
 * other machines that have the same map.
 *
 *	pc-acpi DIR VCPUS NODES MEMORY reduced|full [APIC-ID-STEP]
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "machine/acpi.h"
#include "machine/pc_map.h"
#include "machine/topology.h"

static int write_table(const char *dir, const struct acpi_tables *t, unsigned i)
{
	char path[512], name[5];
	FILE *f;
	int rc;

	for (unsigned k = 0; k < 5; k++)
		name[k] = (char)tolower(t->table[i].name[k]);
	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	f = fopen(path, "wb");
	if (!f) {
		perror(path);
		return 1;
	}
	rc = fwrite(t->blob + t->table[i].off, 1, t->table[i].len, f) != t->table[i].len;
	return fclose(f) || rc;
}

int main(int argc, char **argv)
{
	static const struct topology_range hole = {3 * GiB, GiB};
	struct acpi_opts o = {.base = PC_ACPI, .max = PC_ACPI_MAX, .pci_high_len = PC_PCI_HIGH_LEN};
	struct acpi_tables tables;
	struct topology t;
	struct err e = {0};
	uint64_t memory;
	unsigned step = argc > 6 ? (unsigned)atoi(argv[6]) : 1;
	int rc = 0;

	if (argc < 6) {
		fprintf(stderr, "usage: %s DIR VCPUS NODES MEMORY reduced|full [APIC-ID-STEP]\n",
			argv[0]);
		return 2;
	}
	o.topology = &t;
	o.full = !strcmp(argv[5], "full");
	for (unsigned i = 0; i < CPU_MAX_VCPUS; i++)
		o.apic_id[i] = i * step;
	rc = size_parse(argv[4], &memory, &e);
	if (!rc)
		rc = topology_init_hole(
			&t, (unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]), 0, memory, &hole, &e);
	for (int i = 1; !rc && i <= 24; i++) {
		char id[16];

		snprintf(id, sizeof(id), "dev%d", i);
		rc = topology_add_device(&t, id, "any", 0, i, &e);
	}
	if (!rc) {
		o.pci_high = pc_pci_high(topology_ram_end(&t));
		rc = acpi_build(&o, &tables, &e);
	}
	if (rc) {
		fprintf(stderr, "%s: %s\n", argv[0], err_msg(&e));
		return 1;
	}
	for (unsigned i = 0; !rc && i < tables.n; i++)
		rc = write_table(argv[1], &tables, i);
	acpi_free(&tables);
	return rc;
}
