/*
 * fuzz_loader_x86.c: amd64 kernels of any content: bzImage, ELF with and without a PVH note, gzip of both. What is loaded lies inside RAM
 * and above what the board uses, the initrd beside it, and where the loader refuses it says why in one line.
 *
 * Input: the file.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "machine/loader_x86.h"
#include "machine/pc_map.h"
#include "machine/topology.h"
#include "memory/space.h"

#define LEN (32 * MiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct space *s, const struct x86_kernel *k)
{
	static const uint8_t bytes[5000];
	struct topology t;
	struct x86_boot b = {.topology = &t, .cmdline = "console=ttyS0", .rsdp = PC_ACPI};
	struct boot_file f;
	struct err e = {0};

	if (k->start < PC_KERNEL || k->start >= k->end || k->end > LEN || k->entry < k->start ||
		k->entry >= k->end)
		abort();
	if (topology_init(&t, 1, 1, 0, LEN, &e) ||
		boot_file_memory(&f, "initrd", bytes, sizeof(bytes), &e))
		abort();
	b.initrd_len = f.size;
	if (!x86_initrd_place(k, &f, LEN, &b.initrd, &e) &&
		(b.initrd < k->end || b.initrd + f.size > LEN ||
			b.initrd + f.size - 1 > k->initrd_max))
		abort();
	if (x86_boot_write(s, k, &b, &e) && !e.msg[0])
		abort();
	boot_file_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frames_opts fo = {.nodes = 1, .node_bytes = {LEN + 4 * MiB}, .name = "fuzz"};
	struct boot_file f;
	struct frames *frames;
	struct space *space;
	struct x86_kernel k;
	struct err e = {0};
	int rc;

	if (frames_create(&frames, &fo, &e) || space_create(&space, frames, &e) ||
		space_add_ram(space, gpa(0), LEN, 0, "ram", &e) ||
		boot_file_memory(&f, "kernel", data, size, &e))
		abort();
	rc = x86_kernel_load(space, &f, LEN, &k, &e);
	if (rc && (!e.msg[0] || strchr(e.msg, '\n')))
		abort();
	if (!rc)
		check(space, &k);
	boot_file_close(&f);
	space_destroy(space);
	frames_destroy(frames);
	return 0;
}
