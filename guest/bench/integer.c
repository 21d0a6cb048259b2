/* Integer rows: arithmetic, branches, calls and tables in user mode. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sort ---- */

static void quick(uint32_t *a, int64_t low, int64_t high)
{
	while (high - low > 16) {
		uint32_t pivot = a[(low + high) / 2];
		int64_t i = low, j = high;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		if (j - low < high - i) {
			quick(a, low, j);
			low = i;
		} else {
			quick(a, i, high);
			high = j;
		}
	}
	for (int64_t i = low + 1; i <= high; i++) {
		uint32_t v = a[i];
		int64_t j = i;

		for (; j > low && a[j - 1] > v; j--)
			a[j] = a[j - 1];
		a[j] = v;
	}
}

static int compare(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;

	return (a > b) - (a < b);
}

/* One unit: 128 Ki numbers by a quicksort of our own, 16 Ki by the C library's qsort. */
uint64_t bench_sort(uint64_t n)
{
	enum { BIG = 128 << 10, SMALL = 16 << 10 };
	uint32_t *a = bench_alloc(BIG * sizeof(*a));
	uint64_t seed = 1, sum = 0;

	while (n--) {
		for (int i = 0; i < BIG; i++)
			a[i] = (uint32_t)bench_next(&seed);
		quick(a, 0, BIG - 1);
		for (int i = 1; i < BIG; i += 97)
			sum = bench_fold(sum, a[i] + (a[i - 1] <= a[i]));
		for (int i = 0; i < SMALL; i++)
			a[i] = (uint32_t)bench_next(&seed);
		qsort(a, SMALL, sizeof(*a), compare);
		for (int i = 1; i < SMALL; i += 97)
			sum = bench_fold(sum, a[i] + (a[i - 1] <= a[i]));
	}
	free(a);
	return sum;
}

/* ---- SHA-256 (FIPS 180-4, section 6.2) ---- */

static const uint32_t sha_k[64] = {
	0x428a2f98,
	0x71374491,
	0xb5c0fbcf,
	0xe9b5dba5,
	0x3956c25b,
	0x59f111f1,
	0x923f82a4,
	0xab1c5ed5,
	0xd807aa98,
	0x12835b01,
	0x243185be,
	0x550c7dc3,
	0x72be5d74,
	0x80deb1fe,
	0x9bdc06a7,
	0xc19bf174,
	0xe49b69c1,
	0xefbe4786,
	0x0fc19dc6,
	0x240ca1cc,
	0x2de92c6f,
	0x4a7484aa,
	0x5cb0a9dc,
	0x76f988da,
	0x983e5152,
	0xa831c66d,
	0xb00327c8,
	0xbf597fc7,
	0xc6e00bf3,
	0xd5a79147,
	0x06ca6351,
	0x14292967,
	0x27b70a85,
	0x2e1b2138,
	0x4d2c6dfc,
	0x53380d13,
	0x650a7354,
	0x766a0abb,
	0x81c2c92e,
	0x92722c85,
	0xa2bfe8a1,
	0xa81a664b,
	0xc24b8b70,
	0xc76c51a3,
	0xd192e819,
	0xd6990624,
	0xf40e3585,
	0x106aa070,
	0x19a4c116,
	0x1e376c08,
	0x2748774c,
	0x34b0bcb5,
	0x391c0cb3,
	0x4ed8aa4a,
	0x5b9cca4f,
	0x682e6ff3,
	0x748f82ee,
	0x78a5636f,
	0x84c87814,
	0x8cc70208,
	0x90befffa,
	0xa4506ceb,
	0xbef9a3f7,
	0xc67178f2,
};

static uint32_t ror(uint32_t v, int by)
{
	return v >> by | v << (32 - by);
}

static void sha_block(uint32_t *h, const uint8_t *p)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
		       (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[i - 7] +
		       (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
	}
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t e = s[4], a = s[0];
		uint32_t t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) +
			      ((e & s[5]) ^ (~e & s[6])) + sha_k[i] + w[i];
		uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) +
			      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

		s[7] = s[6];
		s[6] = s[5];
		s[5] = s[4];
		s[4] = s[3] + t1;
		s[3] = s[2];
		s[2] = s[1];
		s[1] = s[0];
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

/* One unit: 64 KiB. */
uint64_t bench_sha256(uint64_t n)
{
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
		0x1f83d9ab, 0x5be0cd19};
	uint8_t *p = bench_alloc(65536);
	uint64_t seed = 2, sum = 0;

	for (int i = 0; i < 65536; i++)
		p[i] = (uint8_t)bench_next(&seed);
	while (n--) {
		for (int at = 0; at < 65536; at += 64)
			sha_block(h, p + at);
		p[n % 65536]++;
	}
	for (int i = 0; i < 8; i++)
		sum = bench_fold(sum, h[i]);
	free(p);
	return sum;
}

/* ---- CRC-32 (ISO 3309), a table of bytes: each step waits for the one before ---- */

/* One unit: 64 KiB. */
uint64_t bench_crc32(uint64_t n)
{
	uint8_t *p = bench_alloc(65536);
	uint64_t seed = 3;
	uint32_t table[256], crc = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
		table[i] = c;
	}
	for (int i = 0; i < 65536; i++)
		p[i] = (uint8_t)bench_next(&seed);
	while (n--) {
		for (int i = 0; i < 65536; i++)
			crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
	}
	free(p);
	return ~crc;
}

/* ---- branches that depend on data ---- */

/* One unit: 256 Collatz walks and 1024 binary searches. */
uint64_t bench_branchy(uint64_t n)
{
	uint32_t keys[4096];
	uint64_t seed = 4, sum = 0;

	for (uint32_t i = 0; i < 4096; i++)
		keys[i] = i * 524288u + (i & 7);
	while (n--) {
		for (int i = 0; i < 256; i++) {
			uint64_t v = (bench_next(&seed) & 0xffff) + 1;
			uint32_t steps = 0;

			while (v != 1) {
				if (v & 1)
					v = 3 * v + 1;
				else
					v >>= 1;
				steps++;
			}
			sum += steps;
		}
		for (int i = 0; i < 1024; i++) {
			uint32_t want = (uint32_t)bench_next(&seed), low = 0, high = 4096;

			while (low < high) {
				uint32_t mid = (low + high) / 2;

				if (keys[mid] == want) {
					sum += 1000;
					break;
				}
				if (keys[mid] < want)
					low = mid + 1;
				else
					high = mid;
			}
			sum = bench_fold(sum, low);
		}
	}
	return sum;
}

/* ---- recursion ---- */

static __attribute__((noinline)) uint64_t fib(uint64_t n)
{
	/* Without the barrier the compiler turns the second call into a loop and unrolls the first. */
	__asm__ volatile("" : "+r"(n));
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static __attribute__((noinline)) uint64_t ackermann(uint64_t m, uint64_t n)
{
	__asm__ volatile("" : "+r"(m), "+r"(n));
	if (!m)
		return n + 1;
	return n ? ackermann(m - 1, ackermann(m, n - 1)) : ackermann(m - 1, 1);
}

static __attribute__((noinline)) uint64_t queens(
	uint32_t all, uint32_t cols, uint32_t left, uint32_t right)
{
	uint64_t found = 0;
	uint32_t free_cols = all & ~(cols | left | right);

	if (cols == all)
		return 1;
	while (free_cols) {
		uint32_t bit = free_cols & -free_cols;

		free_cols ^= bit;
		found += queens(all, cols | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return found;
}

/* One unit: fib(25), Ackermann(2, 200) and nine queens. */
uint64_t bench_recursion(uint64_t n)
{
	uint64_t sum = 0;

	while (n--) {
		sum = bench_fold(sum, fib(25 + (n & 1)));
		sum = bench_fold(sum, ackermann(2, 200 + (n & 3)));
		sum = bench_fold(sum, queens(0x1ff, 0, 0, 0));
	}
	return sum;
}

/* ---- a stack machine: the dispatch is one indirect jump, taken everywhere ---- */

enum op {
	OP_PUSH,
	OP_LOAD,
	OP_STORE,
	OP_ADD,
	OP_SUB,
	OP_MUL,
	OP_XOR,
	OP_SHR,
	OP_LESS,
	OP_JUMPZ,
	OP_JUMP,
	OP_PEEK,
	OP_POKE,
	OP_END,
};

struct insn {
	int16_t op, arg;
};

static __attribute__((noinline)) uint64_t stack_machine(
	const struct insn *code, uint64_t *var, uint64_t *mem)
{
	const struct insn *pc = code;
	uint64_t stack[32], *sp = stack, steps = 0;

	for (;; steps++) {
		int64_t arg = pc->arg;

		switch ((enum op)pc++->op) {
		case OP_PUSH:
			*sp++ = (uint64_t)arg;
			break;
		case OP_LOAD:
			*sp++ = var[arg];
			break;
		case OP_STORE:
			var[arg] = *--sp;
			break;
		case OP_ADD:
			sp--;
			sp[-1] += sp[0];
			break;
		case OP_SUB:
			sp--;
			sp[-1] -= sp[0];
			break;
		case OP_MUL:
			sp--;
			sp[-1] *= sp[0];
			break;
		case OP_XOR:
			sp--;
			sp[-1] ^= sp[0];
			break;
		case OP_SHR:
			sp--;
			sp[-1] >>= sp[0] & 63;
			break;
		case OP_LESS:
			sp--;
			sp[-1] = sp[-1] < sp[0];
			break;
		case OP_JUMPZ:
			if (!*--sp)
				pc = code + arg;
			break;
		case OP_JUMP:
			pc = code + arg;
			break;
		case OP_PEEK:
			sp[-1] = mem[sp[-1] & 1023];
			break;
		case OP_POKE:
			sp -= 2;
			mem[sp[1] & 1023] = sp[0];
			break;
		case OP_END:
			return steps;
		}
	}
}

/* One unit: a loop of 8192 turns, 23 operations each. */
uint64_t bench_bytecode(uint64_t n)
{
	/* i = 0; while (i < 8192) { x = x * 25173 + 13849; mem[i] = x >> 7 ^ mem[x]; i = i + 1; } */
	static const struct insn code[] = {
		{OP_PUSH, 0},
		{OP_STORE, 0}, /* 2: the condition */
		{OP_LOAD, 0},
		{OP_PUSH, 8192},
		{OP_LESS, 0},
		{OP_JUMPZ, 25}, /* 6: the next x */
		{OP_LOAD, 1},
		{OP_PUSH, 25173},
		{OP_MUL, 0},
		{OP_PUSH, 13849},
		{OP_ADD, 0},
		{OP_STORE, 1}, /* 12: the store */
		{OP_LOAD, 1},
		{OP_PUSH, 7},
		{OP_SHR, 0},
		{OP_LOAD, 1},
		{OP_PEEK, 0},
		{OP_XOR, 0},
		{OP_LOAD, 0},
		{OP_POKE, 0}, /* 20: the next turn */
		{OP_LOAD, 0},
		{OP_PUSH, 1},
		{OP_ADD, 0},
		{OP_STORE, 0},
		{OP_JUMP, 2}, /* 25 */
		{OP_END, 0},
	};
	uint64_t var[2] = {0, 1}, *mem = bench_alloc(8192), sum = 0;

	while (n--) {
		sum = bench_fold(sum, stack_machine(code, var, mem));
		sum = bench_fold(sum, var[1] ^ mem[n & 1023]);
	}
	free(mem);
	return sum;
}

/* ---- indirect calls ---- */

#define CALLEE(name, expr) \
	static __attribute__((noinline)) uint64_t name(uint64_t v) \
	{ \
		return expr; \
	}

CALLEE(call_0, v + 1)
CALLEE(call_1, v ^ 0x55)
CALLEE(call_2, v * 3)
CALLEE(call_3, v >> 1)
CALLEE(call_4, v - 7)
CALLEE(call_5, v | 1)
CALLEE(call_6, v << 3)
CALLEE(call_7, ~v)

/* One unit: 4096 calls of one target, 4096 of eight in turn, 4096 of eight at random. */
uint64_t bench_indirect(uint64_t n)
{
	static uint64_t (*const targets[8])(uint64_t) = {
		call_0, call_1, call_2, call_3, call_4, call_5, call_6, call_7};
	uint64_t (*volatile one)(uint64_t) = call_4;
	uint64_t v = 1, seed = 5;

	while (n--) {
		for (int i = 0; i < 4096; i++)
			v = one(v);
		for (int i = 0; i < 4096; i++)
			v = targets[i & 7](v);
		for (int i = 0; i < 4096; i++)
			v = targets[bench_next(&seed) & 7](v) + (uint64_t)i;
	}
	return v;
}

/* ---- strings, by the C library ---- */

/* One unit: 256 lines made, taken apart, searched and compared. */
uint64_t bench_strings(uint64_t n)
{
	char *text = bench_alloc(65536), line[96];
	uint64_t seed = 6, sum = 0;

	while (n--) {
		char *at = text, *save = NULL;

		for (int i = 0; i < 256; i++) {
			unsigned key = (unsigned)(bench_next(&seed) & 0xffff);

			at += sprintf(at, "key%u=%lx;name=%.*s;next=%d\n", key,
				(unsigned long)bench_next(&seed), i & 15, "abcdefghijklmnop", i);
		}
		sum = bench_fold(sum, strlen(text));
		for (char *p = strstr(text, "name="); p; p = strstr(p + 5, "name="))
			sum += (uint64_t)(p - text);
		for (char *p = strchr(text, ';'); p; p = strchr(p + 1, ';'))
			sum++;
		for (char *p = strtok_r(text, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
			char *eq = strchr(p, '=');

			strcpy(line, p);
			sum = bench_fold(sum, strtoul(p + 3, NULL, 10));
			sum = bench_fold(sum, strtoul(eq + 1, NULL, 16));
			sum += (uint64_t)(strcmp(line, p) == 0) + (strncmp(p, "key1", 4) == 0);
			sum += (uint64_t)(memcmp(line, "key4", 4) < 0) +
			       (strrchr(line, '=') > line);
		}
	}
	free(text);
	return sum;
}

/* ---- a hash table with open addresses ---- */

static uint64_t mix64(uint64_t v)
{
	v = (v ^ v >> 31) * 0x7fb5d329728ea185u;
	v = (v ^ v >> 27) * 0x81dadef4bc2dd44du;
	return v ^ v >> 33;
}

/* One unit: 32 Ki insertions or counts into 64 Ki places of 16 bytes, and the FNV-1a of 32 KiB. */
uint64_t bench_hashing(uint64_t n)
{
	enum { SIZE = 64 << 10 };
	struct place {
		uint64_t key, count;
	} *table = bench_alloc(SIZE * sizeof(*table));
	uint64_t seed = 7, sum = 0;

	while (n--) {
		uint64_t fnv = 0xcbf29ce484222325u;
		const uint8_t *bytes = (const uint8_t *)table;

		memset(table, 0, SIZE * sizeof(*table));
		for (int i = 0; i < 32768; i++) {
			uint64_t key = bench_next(&seed) % 40000 + 1, at = mix64(key) % SIZE;

			while (table[at].key && table[at].key != key)
				at = (at + 1) % SIZE;
			table[at].key = key;
			sum += table[at].count++;
		}
		for (int i = 0; i < 32768; i++)
			fnv = (fnv ^ bytes[i]) * 0x100000001b3u;
		sum = bench_fold(sum, fnv);
	}
	free(table);
	return sum;
}
