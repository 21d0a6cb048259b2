/*
 * fuzz_rv64_isa.c: any bytes as code, on a hart over flat memory. Nothing outside the memory is touched (sanitizers), x0 stays
 * zero, every word has a text, and a run that ends in a trap ends in the same state when it is made in small pieces.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu/rv64/disasm.h"
#include "../unit/cpu/flat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT 3000
#define CODE (FLAT_BASE + 0x2000 - 64) /* soon crosses a page */

static struct flat *prepare(const uint8_t *data, size_t size)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;

	h->fs = 1;
	fp_host_init(&h->fp);
	memcpy(f->ram + (CODE - FLAT_BASE), data, size < 4096 ? size : 4096);
	/* Addresses, small numbers and bit patterns, so that accesses often hit memory. */
	for (unsigned i = 1; i < 32; i++) {
		h->x[i] = i & 1 ? FLAT_BASE + i * 0x1000 : i & 2 ? i : 0x9e3779b97f4a7c15ull * i;
		h->f[i] = i & 1 ? fp32_box(0x3f000000u + (i << 22)) : h->x[i];
	}
	return f;
}

static void run(struct flat *f, uint64_t step)
{
	struct hart *h = &f->h;
	uint64_t pc = CODE;

	fp_host_enter(&h->fp);
	do {
		flat_run(f, pc, step);
		pc = h->pc;
	} while (!f->trapped && h->instret < LIMIT);
	fp_host_leave(&h->fp);
	if (h->x[0])
		abort();
}

static void same(const struct flat *a, const struct flat *b)
{
	const struct hart *h = &a->h, *k = &b->h;

	if (memcmp(h->x, k->x, 32 * sizeof(h->x[0])) || memcmp(h->f, k->f, sizeof(h->f)) ||
		h->instret != k->instret || a->cause != b->cause || a->epc != b->epc ||
		a->tval != b->tval || fp_host_flags(&h->fp) != fp_host_flags(&k->fp) ||
		memcmp(a->ram, b->ram, FLAT_SIZE))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct flat *a = prepare(data, size), *b;
	char text[64];

	for (size_t i = 0; i + 4 <= size && i < 256; i += 2) {
		uint32_t word;
		unsigned len;

		memcpy(&word, data + i, 4);
		len = rv64_disasm(&a->h.ic->decoder, word, i, text, sizeof(text));
		if ((len != 2 && len != 4) || !text[0] || strlen(text) >= sizeof(text) - 1)
			abort();
	}
	run(a, LIMIT);
	if (a->trapped) {
		b = prepare(data, size);
		run(b, 1 + (size ? data[0] % 16 : 0));
		same(a, b);
		flat_free(b);
	}
	flat_free(a);
	return 0;
}
