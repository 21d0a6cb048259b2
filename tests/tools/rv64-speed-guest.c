/* Kernels for rv64-speed: entry(which) does one and returns a checksum. Freestanding; every kernel a different kind of work. */
#include <stdint.h>

static uint64_t tab[4096];
static uint8_t text[65536];
static uint32_t perm[2048];
static double d[1024];

static uint64_t shuffle(uint64_t s)
{
	s ^= s << 13;
	s ^= s >> 7;
	return s ^ s << 17;
}

static void sort(uint64_t *a, long n)
{
	for (long g = n / 2; g; g /= 2)
		for (long i = g; i < n; i++) {
			uint64_t t = a[i];
			long j = i;

			for (; j >= g && a[j - g] > t; j -= g)
				a[j] = a[j - g];
			a[j] = t;
		}
}

static uint32_t crc(const uint8_t *p, long n)
{
	uint32_t c = ~0u;

	while (n--) {
		c ^= *p++;
		for (int k = 0; k < 8; k++)
			if (c & 1) /* a branch that nothing predicts */
				c = c >> 1 ^ 0xedb88320;
			else
				c >>= 1;
	}
	return ~c;
}

static uint64_t fib(int n)
{
	return n < 2 ? (uint64_t)n : fib(n - 1) + fib(n - 2);
}

static uint64_t choose(const uint8_t *p, long n)
{
	uint64_t a = 1;

	while (n--) {
		switch (*p++ & 15) {
		case 0:
			a += 3;
			break;
		case 1:
			a ^= 5;
			break;
		case 2:
			a *= 7;
			break;
		case 3:
			a >>= 1;
			break;
		case 4:
			a -= 9;
			break;
		case 5:
			a |= 33;
			break;
		case 6:
			a <<= 1;
			break;
		case 7:
			a = ~a;
			break;
		case 8:
			a += a >> 3;
			break;
		case 9:
			a ^= a << 7;
			break;
		case 10:
			a += 100;
			break;
		case 11:
			a -= a >> 5;
			break;
		case 12:
			a ^= 0x55;
			break;
		case 13:
			a += p[-1];
			break;
		case 14:
			a *= 3;
			break;
		default:
			a = -a;
			break;
		}
	}
	return a;
}

/* 1024 functions, called through a register: the block cache rather than the handlers. */
/* clang-format off */
#define F(n) __attribute__((noinline)) static uint64_t f##n(uint64_t a) { return (a ^ 0x##n) * 3 + 1; }
#define R(n) f##n,
#define ALL16(do, n) do(n##0) do(n##1) do(n##2) do(n##3) do(n##4) do(n##5) do(n##6) do(n##7) \
	do(n##8) do(n##9) do(n##a) do(n##b) do(n##c) do(n##d) do(n##e) do(n##f)
#define ALL256(do, n) \
	ALL16(do, n##0) ALL16(do, n##1) ALL16(do, n##2) ALL16(do, n##3) \
	ALL16(do, n##4) ALL16(do, n##5) ALL16(do, n##6) ALL16(do, n##7) \
	ALL16(do, n##8) ALL16(do, n##9) ALL16(do, n##a) ALL16(do, n##b) \
	ALL16(do, n##c) ALL16(do, n##d) ALL16(do, n##e) ALL16(do, n##f)
ALL256(F, 0) ALL256(F, 1) ALL256(F, 2) ALL256(F, 3)
static uint64_t (*const functions[])(uint64_t) = {ALL256(R, 0) ALL256(R, 1) ALL256(R, 2) ALL256(R, 3)};
/* clang-format on */

uint64_t entry(uint64_t which);

__attribute__((section(".text.start"))) uint64_t entry(uint64_t which)
{
	uint64_t s = 88172645463325252ull, acc = 0;
	uint32_t at = 0;

	for (int i = 0; i < 4096; i++)
		tab[i] = s = shuffle(s);
	for (int i = 0; i < 65536; i++)
		text[i] = (uint8_t)((s = shuffle(s)) >> 20);
	for (int r = 0; r < 40; r++)
		switch (which) {
		case 0:
			for (int i = 0; i < 100000; i++)
				tab[i & 4095] = s = shuffle(s);
			acc += s;
			break;
		case 1:
			for (int i = 0; i < 4096; i++)
				tab[i] = s = shuffle(s);
			sort(tab, 4096);
			acc += tab[77];
			break;
		case 2:
			acc += crc(text, 16384);
			break;
		case 3:
			acc += fib(21);
			break;
		case 4:
			acc += choose(text, 65536);
			break;
		case 5:
			for (int k = 0; k < 20; k++)
				for (int i = 0; i < 8192; i++)
					((volatile uint64_t *)text)[i] = ((
						volatile uint64_t *)text)[(i + 64) & 8191];
			acc += tab[9] + text[5];
			break;
		case 6:
			for (int k = 0; k < 50; k++)
				for (int i = 1; i < 1023; i++)
					d[i] = d[i - 1] * 0.5 + d[i + 1] * 0.25 + i;
			acc += (uint64_t)d[100];
			break;
		case 7:
			for (uint32_t i = 0; i < 2048; i++)
				perm[i] = (i * 1103515245u + 12345u) & 2047;
			for (int n = 0; n < 200000; n++)
				acc += at = perm[at];
			break;
		default:
			for (int n = 0; n < 20000; n++)
				acc = functions[n * 7 & 1023](acc);
			break;
		}
	return acc;
}
