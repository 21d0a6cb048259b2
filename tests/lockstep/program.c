#include "program.h"

#include <elf.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL_AT (RAM_BASE + 0x200000)

static _Noreturn void die(const char *what, const char *path)
{
	fprintf(stderr, "lockstep: %s: %s\n", path, what);
	exit(2);
}

static void *slurp(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	char *buf;
	long n;

	if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 0)
		die("cannot be read", path);
	rewind(f);
	buf = malloc((size_t)n + 1);
	if (!buf || fread(buf, 1, (size_t)n, f) != (size_t)n)
		die("cannot be read", path);
	fclose(f);
	*len = (size_t)n;
	return buf;
}

static void put(struct side *s, uint64_t pa, const void *p, size_t n, const char *path)
{
	if (space_write(s->space, gpa(pa), p, n))
		die("does not fit into memory", path);
}

static void load_elf(struct side *s, const char *path)
{
	size_t len;
	char *file = slurp(path, &len);
	const Elf64_Ehdr *eh = (const void *)file;
	const Elf64_Phdr *ph;

	if (len < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
		eh->e_machine != EM_RISCV || eh->e_phoff + eh->e_phnum * sizeof(*ph) > len)
		die("is no RISC-V ELF file", path);
	ph = (const void *)(file + eh->e_phoff);
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD)
			continue;
		if (ph[i].p_offset + ph[i].p_filesz > len)
			die("is cut short", path);
		put(s, ph[i].p_paddr, file + ph[i].p_offset, ph[i].p_filesz, path);
	}
	side_boot(s, eh->e_entry, 0, 0);
	free(file);
}

static void prop_str(void *fdt, const char *name, const char *text)
{
	fdt_property(fdt, name, text, (int)strlen(text) + 1);
}

static void prop_reg(void *fdt, uint64_t at, uint64_t len)
{
	fdt64_t reg[2] = {cpu_to_fdt64(at), cpu_to_fdt64(len)};

	fdt_property(fdt, "reg", reg, sizeof(reg));
}

/* "rv64imafdc_zba_..." as the list that newer kernels want: "i\0m\0...zba\0". */
static void prop_extensions(void *fdt, const char *isa)
{
	char list[512];
	size_t n = 0;

	for (isa += strlen("rv64"); *isa && *isa != '_'; isa++) {
		list[n++] = *isa;
		list[n++] = 0;
	}
	for (; *isa && n < sizeof(list) - 1; isa++)
		list[n++] = *isa == '_' ? 0 : *isa;
	list[n++] = 0;
	prop_str(fdt, "riscv,isa-base", "rv64i");
	/* Behind the single letters comes no empty name. */
	for (size_t i = 1; i < n; i++)
		if (!list[i] && !list[i - 1])
			memmove(list + i, list + i + 1, --n - i);
	fdt_property(fdt, "riscv,isa-extensions", list, (int)n);
}

/* One hart, its timer, memory; the console is the firmware's. */
static void make_tree(struct side *s, void *fdt, int room, const struct program *p, uint64_t initrd,
	uint64_t initrd_len)
{
	fdt_create(fdt, room);
	fdt_finish_reservemap(fdt);
	fdt_begin_node(fdt, "");
	fdt_property_u32(fdt, "#address-cells", 2);
	fdt_property_u32(fdt, "#size-cells", 2);
	prop_str(fdt, "compatible", "riscv-virtio");
	prop_str(fdt, "model", "lockstep");
	fdt_begin_node(fdt, "chosen");
	prop_str(fdt, "bootargs", p->append);
	if (initrd_len) {
		fdt_property_u64(fdt, "linux,initrd-start", initrd);
		fdt_property_u64(fdt, "linux,initrd-end", initrd + initrd_len);
	}
	fdt_end_node(fdt);
	fdt_begin_node(fdt, "memory@80000000");
	prop_str(fdt, "device_type", "memory");
	prop_reg(fdt, RAM_BASE, s->o.ram);
	fdt_end_node(fdt);
	fdt_begin_node(fdt, "serial@10000000"); /* no interrupt: the driver polls */
	prop_str(fdt, "compatible", "ns16550a");
	prop_reg(fdt, UART_BASE, 0x100);
	fdt_property_u32(fdt, "clock-frequency", 3686400);
	fdt_end_node(fdt);
	fdt_begin_node(fdt, "cpus");
	fdt_property_u32(fdt, "#address-cells", 1);
	fdt_property_u32(fdt, "#size-cells", 0);
	fdt_property_u32(fdt, "timebase-frequency", 10000000);
	fdt_begin_node(fdt, "cpu@0");
	prop_str(fdt, "device_type", "cpu");
	fdt_property_u32(fdt, "reg", 0);
	prop_str(fdt, "status", "okay");
	prop_str(fdt, "compatible", "riscv");
	prop_str(fdt, "riscv,isa", rv64_engine.isa_string(s->vm));
	prop_extensions(fdt, rv64_engine.isa_string(s->vm));
	prop_str(fdt, "mmu-type", rv64_engine.mmu_type(s->vm));
	fdt_property_u32(fdt, "riscv,cboz-block-size", CBO_BLOCK);
	fdt_property_u32(fdt, "riscv,cbom-block-size", CBO_BLOCK);
	fdt_begin_node(fdt, "interrupt-controller");
	fdt_property_u32(fdt, "#interrupt-cells", 1);
	fdt_property(fdt, "interrupt-controller", NULL, 0);
	prop_str(fdt, "compatible", "riscv,cpu-intc");
	fdt_property_u32(fdt, "phandle", 1);
	fdt_end_node(fdt);
	fdt_end_node(fdt);
	fdt_end_node(fdt);
	fdt_end_node(fdt);
	if (fdt_finish(fdt))
		die("does not fit", "device tree");
}

static void load_linux(struct side *s, const struct program *p)
{
	uint64_t end = RAM_BASE + s->o.ram, initrd = 0, tree;
	static const int room = 64 << 10;
	size_t klen, ilen = 0;
	void *kernel = slurp(p->kernel, &klen), *blob = NULL, *fdt = calloc(1, (size_t)room);

	put(s, KERNEL_AT, kernel, klen, p->kernel);
	tree = end - (2 << 20);
	if (p->initrd) {
		blob = slurp(p->initrd, &ilen);
		initrd = (tree - ilen) & ~(uint64_t)PAGE_MASK;
		if (initrd < KERNEL_AT + 2 * klen)
			die("does not fit into memory", p->initrd);
		put(s, initrd, blob, ilen, p->initrd);
	}
	make_tree(s, fdt, room, p, initrd, ilen);
	put(s, tree, fdt, fdt_totalsize(fdt), "device tree");
	side_boot(s, KERNEL_AT, 0, tree);
	free(kernel);
	free(blob);
	free(fdt);
}

void program_load(const struct program *p, struct side *s)
{
	if (p->kernel)
		load_linux(s, p);
	else
		load_elf(s, p->elf);
	if (p->random)
		gen_program(s, p->seed);
}
