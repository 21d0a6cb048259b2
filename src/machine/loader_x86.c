#include "machine/loader_x86.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "machine/loader_priv.h"
#include "machine/pc_map.h"
#include "machine/topology.h"
#include "memory/space.h"

#define WANTED "give an amd64 kernel, for example the one of 'lodge image pull debian --arch amd64'"

/* Places in the setup header (boot.rst, "Details of header fields"). */
enum {
	SETUP_SECTS = 0x1f1,
	SYSSIZE = 0x1f4,
	BOOT_FLAG = 0x1fe,
	HEADER_END = 0x201, /* the jump's offset: the header ends that much behind 0x202 */
	HEADER = 0x202,
	VERSION = 0x206,
	TYPE_OF_LOADER = 0x210,
	LOADFLAGS = 0x211,
	RAMDISK_IMAGE = 0x218,
	RAMDISK_SIZE = 0x21c,
	CMD_LINE_PTR = 0x228,
	INITRD_ADDR_MAX = 0x22c,
	KERNEL_ALIGNMENT = 0x230,
	RELOCATABLE = 0x234,
	XLOADFLAGS = 0x236,
	CMDLINE_SIZE = 0x238,
	SETUP_DATA = 0x250,
	PREF_ADDRESS = 0x258,
	INIT_SIZE = 0x260,
	HEADER_LEAST = 0x264, /* protocol 2.12 goes at least that far */
	HEADER_MOST = 0x290,
};
/* Places in the zero page beside it (zero-page.rst). */
enum {
	ZP_RSDP = 0x070,
	ZP_EXT_RAMDISK_IMAGE = 0x0c0,
	ZP_EXT_RAMDISK_SIZE = 0x0c4,
	ZP_E820_ENTRIES = 0x1e8,
	ZP_E820 = 0x2d0,
};
enum { LOADED_HIGH = 1, CAN_USE_64 = 1 };
enum { PROTOCOL_LEAST = 0x20c };
enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };
enum { SETUP_RNG_SEED = 9 };

#define PVH_MAGIC 0x336ec578u
#define PVH_NOTE 18u /* XEN_ELFNOTE_PHYS32_ENTRY */
#define NOTES_MAX (64 * KiB)
#define GATE_64 0x200u /* the 64-bit entry, from the start of the payload */
#define CMDLINE_DEFAULT 2047u /* of kernels that do not say: ELF files */

/* What lies in the page of the start info. */
#define MODULES (PC_START_INFO + 0x40)
#define MEMMAP (PC_START_INFO + 0x100)
#define SEED_NODE (PC_START_INFO + 0xc00)

/* bzImage */

static int damaged(const char *path, const char *field, uint64_t v, struct err *e)
{
	return err_set(e, -EINVAL,
		"kernel %s: its header is damaged: %s 0x%llx is not possible; copy it again", path,
		field, (unsigned long long)v);
}

static int setup_kind(const char *path, const uint8_t *head, struct err *e)
{
	unsigned version = get_le16(head + VERSION);

	if (version < PROTOCOL_LEAST)
		return err_set(e, -EINVAL,
			"kernel %s: its boot protocol is %u.%02u, and 2.12 is the least: it is "
			"older "
			"than Linux 3.8; " WANTED,
			path, version >> 8, version & 0xff);
	if (!(head[LOADFLAGS] & LOADED_HIGH))
		return err_set(e, -EINVAL, "kernel %s: it is a zImage; " WANTED, path);
	if (!(get_le16(head + XLOADFLAGS) & CAN_USE_64))
		return err_set(e, -EINVAL, "kernel %s: it is for 32-bit x86; " WANTED, path);
	return 0;
}

int x86_setup_parse(const char *path, const uint8_t *head, size_t len, uint64_t file_size,
	struct x86_setup *h, struct err *e)
{
	const char *other = kernel_mistaken(head, len);
	unsigned sects;
	uint64_t said;
	int rc;

	if (len < HEADER_LEAST || memcmp(head + HEADER, "HdrS", 4)) {
		if (len >= 0x3c && !memcmp(head + 0x38, "RSC\5", 4))
			other = "a kernel for riscv64";
		return err_set(e, -EINVAL, "kernel %s: it is %s; " WANTED, path,
			other ?: "no bzImage and no ELF");
	}
	if (get_le16(head + BOOT_FLAG) != 0xaa55)
		return damaged(path, "boot_flag", get_le16(head + BOOT_FLAG), e);
	rc = setup_kind(path, head, e);
	if (rc)
		return rc;
	if (HEADER + head[HEADER_END] < HEADER_LEAST)
		return damaged(path, "the header's length", head[HEADER_END], e);
	sects = head[SETUP_SECTS] ?: 4;
	*h = (struct x86_setup){.setup_bytes = (sects + 1) * 512,
		.init_size = get_le32(head + INIT_SIZE),
		.align = get_le32(head + KERNEL_ALIGNMENT),
		.pref_address = get_le64(head + PREF_ADDRESS),
		.relocatable = head[RELOCATABLE]};
	said = (uint64_t)get_le32(head + SYSSIZE) * 16;
	/* In paragraphs of 16: the last one may not be whole. */
	if (!said || h->setup_bytes + said > file_size + 15)
		return err_set(e, -EINVAL,
			"kernel %s: cut short, %llu of %llu bytes; copy it again", path,
			(unsigned long long)file_size, (unsigned long long)(h->setup_bytes + said));
	if (file_size - h->setup_bytes > UINT32_MAX || file_size - h->setup_bytes <= GATE_64)
		return damaged(path, "setup_sects", sects, e);
	h->payload = (uint32_t)(file_size - h->setup_bytes);
	if (h->init_size < said)
		return damaged(path, "init_size", h->init_size, e);
	if (!is_pow2(h->align) || h->align > GiB)
		return damaged(path, "kernel_alignment", h->align, e);
	if (h->pref_address < PC_KERNEL || h->pref_address > UINT32_MAX ||
		h->pref_address % h->align)
		return damaged(path, "pref_address", h->pref_address, e);
	return 0;
}

/* Where it likes to be; where it may move and that does not fit, as low as possible. */
static int setup_place(const char *path, const struct x86_setup *h, uint64_t low_end,
	struct x86_kernel *out, struct err *e)
{
	uint64_t need = MAX(h->init_size, h->payload), at = h->pref_address;
	char a[SIZE_TEXT], b[SIZE_TEXT];

	if (h->relocatable && at + need > low_end)
		at = align_up(PC_KERNEL, h->align);
	if (at + need > low_end)
		return err_set(e, -E2BIG,
			"kernel %s: it needs %s of memory from 0x%llx on, and memory ends at %s; "
			"give "
			"more with --memory",
			path, size_text(a, align_up(need, MiB)), (unsigned long long)at,
			size_text(b, low_end));
	out->start = at;
	out->end = at + need;
	out->entry = at + GATE_64;
	return 0;
}

static int bzimage_load(struct space *s, const struct boot_file *f, uint64_t low_end,
	struct x86_kernel *out, struct err *e)
{
	uint8_t head[IMAGE_HEAD] = {0};
	size_t n = (size_t)MIN(f->size, (uint64_t)IMAGE_HEAD);
	struct x86_setup h = {0};
	int rc = boot_file_read(f, 0, head, n, e);

	if (!rc)
		rc = x86_setup_parse(f->path, head, n, f->size, &h, e);
	if (!rc)
		rc = setup_place(f->path, &h, low_end, out, e);
	if (rc)
		return rc;
	out->header_len = MIN((unsigned)HEADER + head[HEADER_END], (unsigned)HEADER_MOST) -
			  SETUP_SECTS;
	memcpy(out->header, head + SETUP_SECTS, out->header_len);
	out->initrd_max = get_le32(head + INITRD_ADDR_MAX);
	out->cmdline_max = get_le32(head + CMDLINE_SIZE);
	return boot_file_copy(s, f, h.setup_bytes, h.payload, out->start, e);
}

/* ELF */

/* Looks for the note that says where the 32-bit entry is; 0: there is none. */
static uint32_t notes_find(const uint8_t *p, uint64_t len)
{
	while (len >= 12) {
		uint64_t name = get_le32(p), desc = get_le32(p + 4), type = get_le32(p + 8);
		uint64_t at = 12 + align_up(name, 4), all = at + align_up(desc, 4);

		if (all > len)
			return 0;
		if (type == PVH_NOTE && name == 4 && !memcmp(p + 12, "Xen", 4) && desc >= 4)
			return get_le32(p + at);
		p += all;
		len -= all;
	}
	return 0;
}

/* loader_elf() has checked the header. */
static int pvh_entry(const struct boot_file *f, uint32_t *entry, struct err *e)
{
	cleanup(free_ptr) uint8_t *notes = malloc(NOTES_MAX);
	Elf64_Ehdr eh = {0};
	int rc = notes ? boot_file_read(f, 0, &eh, sizeof(eh), e)
		       : err_set(e, -ENOMEM, "kernel %s: no memory", f->path);

	*entry = 0;
	for (unsigned i = 0; !rc && !*entry && i < le16toh(eh.e_phnum); i++) {
		Elf64_Phdr ph = {0};
		uint64_t len;

		rc = boot_file_read(f, le64toh(eh.e_phoff) + i * sizeof(ph), &ph, sizeof(ph), e);
		len = le64toh(ph.p_filesz);
		if (rc || le32toh(ph.p_type) != PT_NOTE)
			continue;
		if (len > NOTES_MAX)
			return err_set(e, -EINVAL,
				"kernel %s: a note segment of %llu bytes; link it again", f->path,
				(unsigned long long)len);
		rc = boot_file_read(f, le64toh(ph.p_offset), notes, len, e);
		if (!rc)
			*entry = notes_find(notes, len);
	}
	return rc;
}

static int elf_load(struct space *s, const struct boot_file *f, uint64_t low_end,
	struct x86_kernel *out, struct err *e)
{
	struct loader_place p = {PC_KERNEL, low_end, PC_KERNEL, "amd64"};
	struct loaded l;
	uint32_t entry = 0;
	int rc = loader_elf(s, f, &p, &l, e);

	if (!rc)
		rc = pvh_entry(f, &entry, e);
	if (rc)
		return rc;
	if (entry && (entry < l.start || entry >= l.end))
		return err_set(e, -EINVAL,
			"kernel %s: its PVH entry point 0x%x is in no segment; link it again",
			f->path, entry);
	out->pvh = entry;
	out->start = l.start;
	out->end = l.end;
	out->entry = entry ?: l.entry;
	out->initrd_max = UINT32_MAX;
	out->cmdline_max = CMDLINE_DEFAULT;
	out->header_len = HEADER_LEAST - SETUP_SECTS;
	put_le16(out->header + (BOOT_FLAG - SETUP_SECTS), 0xaa55);
	memcpy(out->header + (HEADER - SETUP_SECTS), "HdrS", 4);
	put_le16(out->header + (VERSION - SETUP_SECTS), PROTOCOL_LEAST);
	out->header[LOADFLAGS - SETUP_SECTS] = LOADED_HIGH;
	return 0;
}

int x86_kernel_load(struct space *s, const struct boot_file *f, uint64_t low_end,
	struct x86_kernel *out, struct err *e)
{
	struct boot_file plain;
	int rc;

	*out = (struct x86_kernel){0};
	if (boot_file_starts(f, ELF_MAGIC, 4))
		return elf_load(s, f, low_end, out, e);
	if (!boot_file_starts(f, GZIP_MAGIC, 2))
		return bzimage_load(s, f, low_end, out, e);
	rc = boot_file_gunzip(f, &plain, low_end, e);
	if (rc)
		return rc;
	if (boot_file_starts(&plain, ELF_MAGIC, 4))
		rc = elf_load(s, &plain, low_end, out, e);
	else
		rc = bzimage_load(s, &plain, low_end, out, e);
	boot_file_close(&plain);
	return rc;
}

int x86_initrd_place(const struct x86_kernel *k, const struct boot_file *initrd, uint64_t low_end,
	uint64_t *at, struct err *e)
{
	uint64_t top = MIN(low_end, k->initrd_max == UINT64_MAX ? low_end : k->initrd_max + 1);
	uint64_t low = align_up(k->end, PAGE_SIZE), need = align_up(initrd->size, PAGE_SIZE);
	char a[SIZE_TEXT], b[SIZE_TEXT];

	top = align_down(top, PAGE_SIZE);
	if (top < low || initrd->size > top || need > top - low)
		return err_set(e, -E2BIG,
			"initrd %s: it has %s, and between the kernel's end and the highest "
			"address that "
			"the kernel takes there are %s; give more with --memory",
			initrd->path, size_text(a, initrd->size),
			size_text(b, top > low ? top - low : 0));
	*at = top - need;
	return 0;
}

/* What the kernel is told. */

struct memory_map {
	struct {
		uint64_t base, len;
		uint32_t type;
	} v[8];
	unsigned n;
};

static void map_add(struct memory_map *m, uint64_t base, uint64_t end, uint32_t type)
{
	if (end > base) {
		m->v[m->n].base = base;
		m->v[m->n].len = end - base;
		m->v[m->n++].type = type;
	}
}

static void map_make(struct memory_map *m, const struct topology *t)
{
	const struct pc_range *ecam = &pc_map[PC_ECAM];

	m->n = 0;
	map_add(m, 0, PC_LOW_END, E820_RAM);
	map_add(m, PC_LOW_END, PC_ACPI, E820_RESERVED);
	map_add(m, PC_ACPI, PC_ACPI + PC_ACPI_MAX, E820_ACPI);
	map_add(m, PC_ACPI + PC_ACPI_MAX, PC_KERNEL, E820_RESERVED);
	map_add(m, PC_KERNEL, topology_low_end(t), E820_RAM);
	map_add(m, ecam->base, ecam->base + ecam->len, E820_RESERVED);
	map_add(m, pc_map[PC_HIGH_RAM].base, topology_ram_end(t), E820_RAM);
}

static int put(struct space *s, uint64_t at, const void *p, size_t n, struct err *e)
{
	if (space_write(s, gpa(at), p, n))
		return err_set(
			e, -EFAULT, "boot data: no memory at 0x%llx", (unsigned long long)at);
	return 0;
}

/* 4 GiB one to one, in leaves of 2 MiB. */
static int page_tables(struct space *s, struct err *e)
{
	uint8_t page[PAGE_SIZE] = {0};
	int rc;

	put_le64(page, (PC_PAGE_TABLES + PAGE_SIZE) | 3);
	rc = put(s, PC_PAGE_TABLES, page, sizeof(page), e);
	for (unsigned i = 0; i < 4; i++)
		put_le64(page + 8 * i, (PC_PAGE_TABLES + (2 + i) * PAGE_SIZE) | 3);
	if (!rc)
		rc = put(s, PC_PAGE_TABLES + PAGE_SIZE, page, sizeof(page), e);
	for (uint64_t i = 0; !rc && i < 4; i++) {
		for (uint64_t k = 0; k < 512; k++)
			put_le64(page + 8 * k, (i * 512 + k) << 21 | 0x83);
		rc = put(s, PC_PAGE_TABLES + (2 + i) * PAGE_SIZE, page, sizeof(page), e);
	}
	return rc;
}

static int zero_page(struct space *s, const struct x86_kernel *k, const struct x86_boot *b,
	const struct memory_map *m, struct err *e)
{
	uint8_t zp[PAGE_SIZE] = {0}, node[48] = {0};
	int rc;

	memcpy(zp + SETUP_SECTS, k->header, k->header_len);
	zp[TYPE_OF_LOADER] = 0xff; /* none that has a number */
	put_le32(zp + CMD_LINE_PTR, PC_CMDLINE);
	put_le32(zp + RAMDISK_IMAGE, (uint32_t)b->initrd);
	put_le32(zp + RAMDISK_SIZE, (uint32_t)b->initrd_len);
	put_le32(zp + ZP_EXT_RAMDISK_IMAGE, (uint32_t)(b->initrd >> 32));
	put_le32(zp + ZP_EXT_RAMDISK_SIZE, (uint32_t)(b->initrd_len >> 32));
	put_le64(zp + ZP_RSDP, b->rsdp);
	put_le64(zp + SETUP_DATA, SEED_NODE);
	zp[ZP_E820_ENTRIES] = (uint8_t)m->n;
	for (unsigned i = 0; i < m->n; i++) {
		uint8_t *at = zp + ZP_E820 + 20 * (size_t)i;

		put_le64(at, m->v[i].base);
		put_le64(at + 8, m->v[i].len);
		put_le32(at + 16, m->v[i].type);
	}
	put_le32(node + 8, SETUP_RNG_SEED);
	put_le32(node + 12, sizeof(b->seed));
	memcpy(node + 16, b->seed, sizeof(b->seed));
	rc = put(s, SEED_NODE, node, sizeof(node), e);
	return rc ?: put(s, PC_ZERO_PAGE, zp, sizeof(zp), e);
}

static int start_info(
	struct space *s, const struct x86_boot *b, const struct memory_map *m, struct err *e)
{
	uint8_t si[56] = {0}, mod[32] = {0}, map[8 * 24] = {0};
	int rc;

	put_le32(si, PVH_MAGIC);
	put_le32(si + 4, 1); /* version: with a memory map */
	put_le32(si + 12, b->initrd_len ? 1 : 0);
	put_le64(si + 16, b->initrd_len ? MODULES : 0);
	put_le64(si + 24, PC_CMDLINE);
	put_le64(si + 32, b->rsdp);
	put_le64(si + 40, MEMMAP);
	put_le32(si + 48, m->n);
	put_le64(mod, b->initrd);
	put_le64(mod + 8, b->initrd_len);
	for (unsigned i = 0; i < m->n; i++) {
		put_le64(map + 24 * (size_t)i, m->v[i].base);
		put_le64(map + 24 * (size_t)i + 8, m->v[i].len);
		put_le32(map + 24 * (size_t)i + 16, m->v[i].type);
	}
	rc = put(s, MODULES, mod, sizeof(mod), e);
	if (!rc)
		rc = put(s, MEMMAP, map, 24 * (size_t)m->n, e);
	return rc ?: put(s, PC_START_INFO, si, sizeof(si), e);
}

int x86_boot_write(
	struct space *s, const struct x86_kernel *k, const struct x86_boot *b, struct err *e)
{
	const char *cmdline = b->cmdline ?: "";
	uint64_t max = MIN((uint64_t)k->cmdline_max, PC_CMDLINE_MAX - 1);
	struct memory_map m;
	int rc;

	if (strlen(cmdline) > max)
		return err_set(e, -E2BIG,
			"the kernel's command line has %zu bytes, and this kernel takes %llu; "
			"shorten "
			"--append",
			strlen(cmdline), (unsigned long long)max);
	map_make(&m, b->topology);
	rc = put(s, PC_CMDLINE, cmdline, strlen(cmdline) + 1, e);
	if (!rc)
		rc = page_tables(s, e);
	if (rc)
		return rc;
	return k->pvh ? start_info(s, b, &m, e) : zero_page(s, k, b, &m, e);
}
