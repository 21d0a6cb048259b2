/*
 * Rows of generated code: code that changes under its own feet, and much code that runs once.
 *
 * A small assembler for each machine, of the same few operations on one 64-bit value: a function of
 * generated code takes it as its argument and returns it.
 */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>

typedef uint64_t (*code_fn)(uint64_t);

static uint8_t *code_pages(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);

	if (p == MAP_FAILED)
		bench_die("mmap of code");
	return p;
}

static uint8_t *put(uint8_t *p, uint64_t v, int bytes)
{
	memcpy(p, &v, (size_t)bytes);
	return p + bytes;
}

#ifdef __riscv
/* RISC-V Unprivileged ISA, chapter 2: the value is in a0, t0 is free. */
static uint8_t *put_enter(uint8_t *p)
{
	return p;
}

static uint8_t *put_add(uint8_t *p, uint32_t imm)
{
	return put(p, imm << 20 | 10 << 15 | 10 << 7 | 0x13, 4);
}

static uint8_t *put_xor(uint8_t *p, uint32_t imm)
{
	return put(p, imm << 20 | 10 << 15 | 4 << 12 | 10 << 7 | 0x13, 4);
}

static uint8_t *put_add_shifted(uint8_t *p, uint32_t by)
{
	p = put(p, by << 20 | 10 << 15 | 1 << 12 | 5 << 7 | 0x13, 4);
	return put(p, 5 << 20 | 10 << 15 | 10 << 7 | 0x33, 4);
}

static uint8_t *put_add_if_odd(uint8_t *p, uint32_t imm)
{
	p = put(p, 1 << 20 | 10 << 15 | 7 << 12 | 5 << 7 | 0x13, 4); /* andi t0, a0, 1 */
	p = put(p, 5 << 15 | 8 << 7 | 0x63, 4); /* beqz t0, over the next */
	return put_add(p, imm);
}

static uint8_t *put_return(uint8_t *p)
{
	return put(p, 0x8067, 4);
}
#else
/* The value arrives in rdi and is kept in rax; rcx is free. */
static uint8_t *put_enter(uint8_t *p)
{
	return put(p, 0xf88948, 3); /* mov rax, rdi */
}

static uint8_t *put_add(uint8_t *p, uint32_t imm)
{
	return put(put(p, 0x0548, 2), imm, 4); /* add rax, imm32 */
}

static uint8_t *put_xor(uint8_t *p, uint32_t imm)
{
	return put(put(p, 0x3548, 2), imm, 4); /* xor rax, imm32 */
}

static uint8_t *put_add_shifted(uint8_t *p, uint32_t by)
{
	p = put(p, 0xc18948, 3); /* mov rcx, rax */
	p = put(put(p, 0xe1c148, 3), by, 1); /* shl rcx, imm8 */
	return put(p, 0xc80148, 3); /* add rax, rcx */
}

static uint8_t *put_add_if_odd(uint8_t *p, uint32_t imm)
{
	p = put(p, 0x01a8, 2); /* test al, 1 */
	p = put(p, 0x0674, 2); /* je over the next */
	return put_add(p, imm);
}

static uint8_t *put_return(uint8_t *p)
{
	return put(p, 0xc3, 1);
}
#endif

static void published(uint8_t *from, uint8_t *to)
{
	__builtin___clear_cache((char *)from, (char *)to);
}

/* One unit: 10 times a function rewritten and called, and its neighbour in the same page called twice. */
uint64_t bench_smc(uint64_t n)
{
	uint8_t *page = code_pages(4096), *p = page + 2048;
	uint64_t v = 1;

	put_return(put_add_shifted(put_enter(p), 1));
	for (n *= 10; n--;) {
		uint8_t *end = put_return(put_add(put_enter(page), (uint32_t)n & 1023));

		published(page, n ? end : p + 64);
		v = ((code_fn)page)(v);
		v = ((code_fn)p)(v);
		v = ((code_fn)p)(v);
	}
	munmap(page, 4096);
	return v;
}

/* One unit: 32768 functions of 24 to 40 instructions are written, and each is called once. */
uint64_t bench_cold(uint64_t n)
{
	enum { FUNCTIONS = 32768, ROOM = 256 };
	uint64_t v = 1, seed = 10;

	while (n--) {
		uint8_t *pages = code_pages((uint64_t)FUNCTIONS * ROOM);

		for (int i = 0; i < FUNCTIONS; i++) {
			uint8_t *p = put_enter(pages + (uint64_t)i * ROOM);

			for (int k = 0; k < 6; k++) {
				uint32_t r = (uint32_t)bench_next(&seed);

				p = put_add(p, r & 1023);
				p = put_xor(p, r >> 10 & 1023);
				if (r >> 30)
					p = put_add_shifted(p, (r >> 20 & 7) + 1);
				p = put_add_if_odd(p, r >> 20 & 1023);
			}
			put_return(p);
		}
		published(pages, pages + (uint64_t)FUNCTIONS * ROOM);
		for (int i = 0; i < FUNCTIONS; i++)
			v = ((code_fn)(pages + (uint64_t)i * ROOM))(v);
		munmap(pages, (uint64_t)FUNCTIONS * ROOM);
	}
	return v;
}
