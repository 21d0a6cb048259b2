/*
 * addr.h: the two address types that must never be confused (decision D6).
 *
 * gpa_t: a guest-physical address. mfn_t: the number of a 4 KiB machine frame. Both are structs, so that the
 * compiler refuses to mix them with each other or with plain integers. Only a second-level map turns one into
 * the other.
 */
#ifndef LODGE_MEMORY_ADDR_H
#define LODGE_MEMORY_ADDR_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE_SIZE (1ull << PAGE_SHIFT)
#define PAGE_MASK (PAGE_SIZE - 1)

typedef struct {
	uint64_t v;
} gpa_t;

typedef struct {
	uint64_t n;
} mfn_t;

#define MFN_NONE ((mfn_t){UINT64_MAX})

static inline gpa_t gpa(uint64_t v)
{
	return (gpa_t){v};
}

static inline mfn_t mfn(uint64_t n)
{
	return (mfn_t){n};
}

static inline bool mfn_valid(mfn_t m)
{
	return m.n != UINT64_MAX;
}

/* True when [a, a + len) does not wrap; a range of length 0 does not. */
static inline bool gpa_range_ok(gpa_t a, uint64_t len)
{
	return len == 0 || a.v + (len - 1) >= a.v;
}

#endif
