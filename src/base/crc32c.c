#include "base/crc32c.h"

#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* Four bits at a time: what has no instruction for it is not in a hurry. */
static const uint32_t nibble[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc,
	0x5125dad3, 0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};

uint32_t crc32c_plain(uint32_t crc, const void *data, size_t n)
{
	const uint8_t *p = data;

	crc = ~crc;
	while (n--) {
		crc ^= *p++;
		crc = crc >> 4 ^ nibble[crc & 15];
		crc = crc >> 4 ^ nibble[crc & 15];
	}
	return ~crc;
}

#ifdef __x86_64__
/*
 * The instruction takes three cycles and can begin one each cycle: three runs of RUN bytes side by side, three of which are nearly a page. What came
 * before a run is as many bits further up: the product with x^(8 n - 33) modulo the polynomial (bits reflected), reduced by the instruction itself,
 * which multiplies by x^32, and the product of two reflected numbers is one bit short. (Intel: Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction.)
 */
#define RUN 1360u
#define OVER_ONE 0x3f70cc6f /* n = RUN */
#define OVER_TWO 0x5aa1f3cf /* n = 2 RUN */
#define SSE __attribute__((target("sse4.2,pclmul")))

SSE static uint64_t word(uint64_t c, const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return _mm_crc32_u64(c, v);
}

SSE static uint64_t shifted(uint64_t c, int64_t by)
{
	return (uint64_t)_mm_cvtsi128_si64(
		_mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)c), _mm_cvtsi64_si128(by), 0));
}

SSE static uint32_t crc32c_sse(uint32_t crc, const void *data, size_t n)
{
	const uint8_t *p = data;
	uint64_t c = ~crc;

	for (; n >= 3 * RUN; n -= 3 * RUN, p += 3 * RUN) {
		uint64_t d = 0, f = 0;

		for (unsigned i = 0; i < RUN; i += 8) {
			c = word(c, p + i);
			d = word(d, p + RUN + i);
			f = word(f, p + 2 * RUN + i);
		}
		c = _mm_crc32_u64(0, shifted(c, OVER_TWO) ^ shifted(d, OVER_ONE)) ^ f;
	}
	for (; n >= 8; n -= 8, p += 8)
		c = word(c, p);
	while (n--)
		c = _mm_crc32_u8((uint32_t)c, *p++);
	return ~(uint32_t)c;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
	return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul")
		       ? crc32c_sse(crc, data, n)
		       : crc32c_plain(crc, data, n);
}
#else
uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
	return crc32c_plain(crc, data, n);
}
#endif
