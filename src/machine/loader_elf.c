/*
 * loader_elf.c: ELF64 for RISC-V and x86-64 (System V ABI, chapters 4 and 5; the psABIs of both).
 *
 * PT_LOAD segments go to their physical addresses. A position-independent file (ET_DYN, as Debian's OpenSBI) goes to the
 * start of RAM and relocates itself. An entry point that is a virtual address of a segment is translated; one that is none, but
 * a physical one, is taken as such (Linux' vmlinux for x86).
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "machine/loader_priv.h"
#include "memory/space.h"

#ifndef EM_RISCV
#define EM_RISCV 243
#endif
#define MAX_SEGMENTS 64
#define HEADER_PAGE_MAX (64 * KiB)

static const char *machine_name(unsigned m)
{
	switch (m) {
	case EM_386:
		return "32-bit x86";
	case EM_X86_64:
		return "x86-64";
	case EM_RISCV:
		return "RISC-V";
	case EM_ARM:
		return "32-bit ARM";
	case EM_AARCH64:
		return "arm64";
	case EM_PPC64:
		return "ppc64";
	case EM_S390:
		return "s390x";
	case EM_MIPS:
		return "MIPS";
	default:
		return "another machine";
	}
}

struct header {
	uint64_t entry, phoff, bias;
	unsigned phnum;
};

static int header_read(
	const struct boot_file *f, const struct loader_place *p, struct header *h, struct err *e)
{
	Elf64_Ehdr eh;
	unsigned machine, type, want = EM_RISCV;
	const char *isa = p->isa ?: "riscv64";

	if (!strcmp(isa, "amd64"))
		want = EM_X86_64;
	if (f->size < sizeof(eh) || boot_file_read(f, 0, &eh, sizeof(eh), NULL))
		return err_set(e, -EINVAL, "%s %s: the ELF header is cut short; copy it again",
			f->what, f->path);
	machine = le16toh(eh.e_machine);
	type = le16toh(eh.e_type);
	if (eh.e_ident[EI_DATA] == ELFDATA2LSB && machine != want)
		return err_set(e, -EINVAL, "%s %s: it is an ELF file for %s; give one for %s",
			f->what, f->path, machine_name(machine), isa);
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(e, -EINVAL,
			"%s %s: it is a 32-bit or big-endian ELF file; give one for %s", f->what,
			f->path, isa);
	if (type != ET_EXEC && type != ET_DYN)
		return err_set(e, -EINVAL,
			"%s %s: it is an ELF object, not a program; link it first", f->what,
			f->path);
	h->entry = le64toh(eh.e_entry);
	h->phoff = le64toh(eh.e_phoff);
	h->phnum = le16toh(eh.e_phnum);
	h->bias = type == ET_DYN ? p->ram : 0;
	if (le16toh(eh.e_phentsize) != sizeof(Elf64_Phdr) || !h->phnum || h->phnum > MAX_SEGMENTS)
		return err_set(e, -EINVAL,
			"%s %s: %u program headers of %u bytes are not possible; link it again",
			f->what, f->path, h->phnum, le16toh(eh.e_phentsize));
	return 0;
}

/*
 * Linkers like to put the ELF header and what pads it to a page into the first segment, in front of the text. Where the text is linked
 * to the start of RAM that page lies before it. A bare program does not look at it: leave it out.
 */
static void skip_headers(const struct loader_place *p, Elf64_Phdr *s)
{
	uint64_t skip = p->ram - s->p_paddr;

	if (s->p_type != PT_LOAD || s->p_offset || s->p_paddr >= p->ram || skip > HEADER_PAGE_MAX ||
		skip > s->p_filesz || skip > s->p_memsz)
		return;
	s->p_offset += skip;
	s->p_vaddr += skip;
	s->p_paddr += skip;
	s->p_filesz -= skip;
	s->p_memsz -= skip;
}

static int segment_read(const struct boot_file *f, const struct loader_place *p,
	const struct header *h, unsigned i, Elf64_Phdr *out, struct err *e)
{
	Elf64_Phdr ph = {0};

	if (h->phoff > f->size ||
		boot_file_read(f, h->phoff + i * sizeof(ph), &ph, sizeof(ph), NULL))
		return err_set(e, -EINVAL, "%s %s: the program headers lie outside the file",
			f->what, f->path);
	*out = (Elf64_Phdr){.p_type = le32toh(ph.p_type),
		.p_offset = le64toh(ph.p_offset),
		.p_vaddr = le64toh(ph.p_vaddr),
		.p_paddr = le64toh(ph.p_paddr) + h->bias,
		.p_filesz = le64toh(ph.p_filesz),
		.p_memsz = le64toh(ph.p_memsz)};
	skip_headers(p, out);
	return 0;
}

static int segment_check(const struct boot_file *f, const struct loader_place *p, unsigned i,
	const Elf64_Phdr *s, struct err *e)
{
	char a[SIZE_TEXT];

	if (s->p_filesz > s->p_memsz || s->p_offset > f->size ||
		s->p_filesz > f->size - s->p_offset)
		return err_set(e, -EINVAL,
			"%s %s: segment %u says that it is longer than the file; copy it again",
			f->what, f->path, i);
	if (s->p_paddr < p->ram || s->p_paddr > p->ram_end || s->p_memsz > p->ram_end - s->p_paddr)
		return err_set(e, -EINVAL,
			"%s %s: segment %u wants %s at 0x%llx, and memory is from 0x%llx to "
			"0x%llx; "
			"link it for there or give more with --memory",
			f->what, f->path, i, size_text(a, s->p_memsz),
			(unsigned long long)s->p_paddr, (unsigned long long)p->ram,
			(unsigned long long)p->ram_end);
	return 0;
}

static int segment_load(
	struct space *s, const struct boot_file *f, const Elf64_Phdr *ph, struct err *e)
{
	int rc = boot_file_copy(s, f, ph->p_offset, ph->p_filesz, ph->p_paddr, e);

	if (!rc && ph->p_memsz > ph->p_filesz &&
		space_fill(s, gpa(ph->p_paddr + ph->p_filesz), 0, ph->p_memsz - ph->p_filesz))
		rc = err_set(e, -EFAULT, "%s %s: no memory for its zeroed data", f->what, f->path);
	return rc;
}

/* Checks every segment (load false), or puts every segment into memory. */
static int segments(struct space *s, const struct boot_file *f, const struct loader_place *p,
	const struct header *h, bool load, struct loaded *out, struct err *e)
{
	bool found = false, physical = false;
	Elf64_Phdr ph = {0};
	int rc;

	for (unsigned i = 0; i < h->phnum; i++) {
		rc = segment_read(f, p, h, i, &ph, e);
		if (rc)
			return rc;
		if (ph.p_type != PT_LOAD || !ph.p_memsz)
			continue;
		rc = segment_check(f, p, i, &ph, e);
		if (!rc && load)
			rc = segment_load(s, f, &ph, e);
		if (rc)
			return rc;
		out->start = MIN(out->start, ph.p_paddr);
		out->end = MAX(out->end, ph.p_paddr + ph.p_memsz);
		if (h->entry >= ph.p_vaddr && h->entry - ph.p_vaddr < ph.p_memsz) {
			out->entry = h->entry - ph.p_vaddr + ph.p_paddr;
			found = true;
		} else if (!found && h->entry >= ph.p_paddr && h->entry - ph.p_paddr < ph.p_memsz) {
			out->entry = h->entry;
			physical = true;
		}
	}
	if (!out->end)
		return err_set(e, -EINVAL, "%s %s: it has nothing to load; link it again", f->what,
			f->path);
	if (!found && !physical)
		return err_set(e, -EINVAL, "%s %s: its entry point 0x%llx is in no segment",
			f->what, f->path, (unsigned long long)h->entry);
	return 0;
}

int loader_elf(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e)
{
	struct header h = {0};
	int rc = header_read(f, p, &h, e);

	*out = (struct loaded){.start = UINT64_MAX};
	/* Everything is checked before the first byte is written; and again, for a file may change. */
	if (!rc)
		rc = segments(s, f, p, &h, false, out, e);
	return rc ? rc : segments(s, f, p, &h, true, out, e);
}
