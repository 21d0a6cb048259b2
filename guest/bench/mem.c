/* Memory rows: the C library's copies, and walks whose cost is the address translation. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* One unit: 256 KiB in pieces of 16 KiB, 1 KiB and 1 to 64 bytes. */
uint64_t bench_memcpy(uint64_t n)
{
	uint8_t *a = bench_alloc(128 << 10), *b = bench_alloc(128 << 10);
	uint64_t sum = 0, seed = 8;

	for (int i = 0; i < 128 << 10; i++)
		a[i] = (uint8_t)bench_next(&seed);
	while (n--) {
		for (int i = 0; i < 8; i++)
			memcpy(b + i * 16384, a + ((i * 5) & 7) * 16384 + (n & 7), 16000);
		for (int i = 0; i < 100; i++)
			memcpy(b + i * 1024 + (i & 15), a + i * 512, 1024);
		for (int i = 0; i < 256; i++)
			memcpy(b + i * 100, a + i * 70, (bench_next(&seed) & 63) + 1);
		sum = bench_fold(sum, (uint64_t)b[n & 0xffff] << 8 | b[(n * 7 + 100) & 0x1ffff]);
		a[(n * 31) & 0x1ffff]++;
	}
	free(a);
	free(b);
	return sum;
}

/* One unit: 256 KiB in pieces of 16 KiB and 1 KiB. */
uint64_t bench_memset(uint64_t n)
{
	uint8_t *a = bench_alloc(128 << 10);
	uint64_t sum = 0;

	while (n--) {
		for (int i = 0; i < 8; i++)
			memset(a + i * 16384, (int)(n + (uint64_t)i), 16000);
		for (int i = 0; i < 128; i++)
			memset(a + i * 1024 + 3, (int)(n ^ (uint64_t)i), 1000);
		sum = bench_fold(sum, (uint64_t)a[n & 0xffff] << 8 | a[(n * 7 + 100) & 0x1ffff]);
	}
	free(a);
	return sum;
}

/* One unit: 16 Ki steps along a random cycle through 4 MiB. */
uint64_t bench_chase(uint64_t n)
{
	enum { NODES = 64 << 10 };
	struct node {
		uint64_t next, pad[7];
	} *p = bench_alloc(NODES * sizeof(*p));
	uint32_t *order = bench_alloc(NODES * sizeof(*order));
	uint64_t seed = 9, at = 0, sum = 0;

	for (uint32_t i = 0; i < NODES; i++)
		order[i] = i;
	for (uint32_t i = NODES - 1; i; i--) {
		uint32_t j = (uint32_t)(bench_next(&seed) % (i + 1)), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < NODES; i++)
		p[order[i]].next = order[(i + 1) % NODES];
	while (n--) {
		for (int i = 0; i < 16384; i++)
			at = p[at].next;
		sum = bench_fold(sum, at);
	}
	free(order);
	free(p);
	return sum;
}

/* One unit: a load and a store in each of 8192 pages of 4 KiB. */
uint64_t bench_stride(uint64_t n)
{
	enum { PAGES = 8192 };
	uint8_t *p = mmap(
		NULL, PAGES * 4096ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t sum = 0;

	if (p == MAP_FAILED)
		bench_die("mmap");
	/* Small pages everywhere, or there would be nothing to translate. */
	madvise(p, PAGES * 4096ul, MADV_NOHUGEPAGE);
	while (n--) {
		for (uint64_t i = 0; i < PAGES; i++) {
			uint8_t *q = p + i * 4096 + ((i * 64) & 4032);

			*q = (uint8_t)(*q + i);
			sum += *q;
		}
	}
	munmap(p, PAGES * 4096ul);
	return sum;
}
