/*
 * bytes.h: integers at any address, in the byte order that a format or device names.
 *
 * get_le32(p) reads 4 bytes at p, put_le32(p, v) writes them; p needs no alignment. Not atomic:
 * rings that a guest writes at the same time are read with the accessors of memory/.
 */
#ifndef LODGE_BASE_BYTES_H
#define LODGE_BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BYTES_ORDER(order, bits) \
	static inline uint##bits##_t get_##order##bits(const void *p) \
	{ \
		uint##bits##_t v; \
\
		memcpy(&v, p, sizeof(v)); \
		return order##bits##toh(v); \
	} \
	static inline void put_##order##bits(void *p, uint##bits##_t v) \
	{ \
		v = hto##order##bits(v); \
		memcpy(p, &v, sizeof(v)); \
	}

BYTES_ORDER(le, 16)
BYTES_ORDER(le, 32)
BYTES_ORDER(le, 64)
BYTES_ORDER(be, 16)
BYTES_ORDER(be, 32)
BYTES_ORDER(be, 64)

#undef BYTES_ORDER

#endif
