/*
 * crc32c.h: the Castagnoli CRC-32 (polynomial 0x1edc6f41, reflected; RFC 3720 appendix B.4): checksums of metadata.
 *
 * crc32c(0, "123456789", 9) is 0xe3069283. Goes on: crc32c(crc32c(0, a, n), b, m) is that of a and b one behind the other.
 * Uses the processor's instruction where there is one.
 */
#ifndef LODGE_BASE_CRC32C_H
#define LODGE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t n);
/* Without the instruction: for tests to compare with. */
uint32_t crc32c_plain(uint32_t crc, const void *data, size_t n);

#endif
