/*
 * fuzz_loader.c: kernels and firmware of any content: ELF, Image, gzip of both, raw. What is loaded lies inside RAM, and where the loader
 * refuses, it says why in one line.
 *
 * Input: first byte: kernel or firmware; the rest is the file.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "machine/loader.h"
#include "memory/space.h"

#define RAM 0x80000000ull
#define LEN (4 * MiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct loader_place place = {RAM, RAM + LEN, RAM + 2 * MiB};
	struct frames_opts fo = {.nodes = 1, .node_bytes = {LEN + 4 * MiB}, .name = "fuzz"};
	struct boot_file f;
	struct frames *frames;
	struct space *space;
	struct loaded out;
	struct err e = {0};
	int rc;

	if (!size)
		return 0;
	if (frames_create(&frames, &fo, &e) || space_create(&space, frames, &e) ||
		space_add_ram(space, gpa(RAM), LEN, 0, "ram", &e) ||
		boot_file_memory(&f, "file", data + 1, size - 1, &e))
		abort();
	rc = data[0] & 1 ? loader_firmware(space, &f, &place, &out, &e)
			 : loader_kernel(space, &f, &place, &out, &e);
	if (rc && (!e.msg[0] || strchr(e.msg, '\n')))
		abort();
	if (!rc && (out.start < RAM || out.start > out.end || out.end > RAM + LEN ||
			   out.entry < out.start || out.entry >= MAX(out.end, out.start + 1)))
		abort();
	boot_file_close(&f);
	space_destroy(space);
	frames_destroy(frames);
	return 0;
}
