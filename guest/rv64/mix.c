/*
 * mix.c: a fixed amount of everyday work, in S-mode with Sv39 on, for measuring an engine's speed (bench/run).
 *
 * Prints a checksum of each part, so that two machines can be seen to have done the same, and how many instructions retired.
 */
#include "rt.h"

#define N 4096

static uint64_t root[512] __attribute__((aligned(4096)));
static uint64_t devices[512] __attribute__((aligned(4096)));
static uint32_t data[N];
static uint32_t next[N];
static double a[64][64], b[64][64], c[64][64];
static char text[16384];

static uint64_t seed = 88172645463325252;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static uint64_t sort(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < N; i++)
		data[i] = (uint32_t)rnd();
	for (int gap = N / 2; gap; gap /= 2)
		for (int i = gap; i < N; i++) {
			uint32_t v = data[i];
			int j = i;

			for (; j >= gap && data[j - gap] > v; j -= gap)
				data[j] = data[j - gap];
			data[j] = v;
		}
	for (int i = 0; i < N; i++)
		sum += (uint64_t)data[i] * (uint64_t)i;
	return sum;
}

static uint64_t hash(void)
{
	uint64_t h = 0xcbf29ce484222325;

	for (int round = 0; round < 8; round++)
		for (int i = 0; i < N; i++) {
			h = (h ^ data[i]) * 0x100000001b3;
			h = (h << 23 | h >> 41) + (uint64_t)i;
		}
	return h;
}

static uint64_t crc(void)
{
	uint32_t v = ~0u;

	for (int i = 0; i < N; i++) {
		v ^= data[i];
		for (int k = 0; k < 8; k++)
			v = v >> 1 ^ (0xedb88320u & -(v & 1));
	}
	return v;
}

static uint64_t chase(void)
{
	uint32_t at = 0;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < N; i++)
		next[i] = (i * 1327 + 421) % N;
	for (int i = 0; i < 16 * N; i++) {
		at = next[at];
		sum += at;
	}
	return sum;
}

static uint64_t matrix(void)
{
	double sum = 0;

	for (int i = 0; i < 64; i++)
		for (int j = 0; j < 64; j++) {
			a[i][j] = (double)(i * j % 17) / 3;
			b[i][j] = (double)(i + 2 * j) / 7;
		}
	for (int i = 0; i < 64; i++)
		for (int j = 0; j < 64; j++) {
			double s = 0;

			for (int k = 0; k < 64; k++)
				s += a[i][k] * b[k][j];
			c[i][j] = s;
			sum += s;
		}
	return (uint64_t)sum;
}

static uint64_t strings(void)
{
	uint64_t words = 0, longest = 0, run = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (char)(rnd() % 7 ? 'a' + rnd() % 26 : ' ');
	for (int round = 0; round < 4; round++)
		for (unsigned i = 0; i < sizeof(text); i++) {
			if (text[i] == ' ') {
				words += run > 0;
				longest = run > longest ? run : longest;
				run = 0;
			} else {
				text[i] = (char)(text[i] == 'z' ? 'a' : text[i] + 1);
				run++;
			}
		}
	return words << 16 | longest;
}

static uint64_t __attribute__((noinline)) fib(uint64_t n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t branches(void)
{
	uint64_t n = 0;

	for (int i = 0; i < 4 * N; i++) {
		uint64_t r = rnd();

		if (r & 1)
			n += r & 2 ? 3 : 5;
		else if (r & 4)
			n ^= r >> 60;
		else
			n -= 1;
	}
	return n;
}

static const struct {
	const char *name;
	uint64_t (*fn)(void);
} parts[] = {{"sort", sort}, {"hash", hash}, {"crc", crc}, {"chase", chase}, {"matrix", matrix},
	{"strings", strings}, {"branches", branches}};

#ifndef ROUNDS
#define ROUNDS 60
#endif

static void work(void)
{
	uint64_t before = csr_read(instret), sum = 0;

	for (int round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
			sum = sum * 31 + parts[i].fn();
		sum += fib(18);
	}
	put_text("CHECK ");
	put_hex(sum);
	put_text("\nINSTRET ");
	put_dec(csr_read(instret) - before);
	put_text("\nSUCCESS\n");
	finish(0);
}

int main(uint64_t hart)
{
	if (hart)
		return 0;
	/* Sv39, 1 GiB and 2 MiB leaves: devices below, RAM at 2 GiB; A and D set already. */
	devices[0] = (0ull >> 2) | 0xc7;
	for (uint64_t i = 0; i < 512; i++)
		devices[i] = (i << 21 >> 2) | 0xc7;
	root[0] = ((uint64_t)devices >> 2) | 1;
	root[2] = (0x80000000ull >> 2) | 0xcf;
	csr_write(pmpaddr0, -1ul);
	csr_write(pmpcfg0, 0x1f);
	csr_write(mcounteren, 7);
	csr_write(satp, 8ull << 60 | (uint64_t)root >> 12);
	csr_clear(mstatus, 0x1800);
	csr_set(mstatus, 0x800);
	csr_write(mepc, (uint64_t)work);
	__asm__ volatile("sfence.vma\n mret");
	return 1;
}
