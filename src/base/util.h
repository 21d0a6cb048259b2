/*
 * util.h: the few macros that every file needs.
 *
 * cleanup(fn) runs fn(&var) when the variable leaves its scope, so that early return is safe:
 *
 *	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
 *	cleanup(free_ptr) char *buf = malloc(n);
 *	...
 *	*out = steal_ptr(buf);		// keep it: the cleanup then frees NULL
 */
#ifndef LODGE_BASE_UTIL_H
#define LODGE_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* <sys/param.h>, which libuv brings in, has its own that evaluate twice. */
#undef MIN
#undef MAX
#define MIN(a, b) \
	({ \
		__typeof__(a) min_a = (a); \
		__typeof__(b) min_b = (b); \
		min_a < min_b ? min_a : min_b; \
	})
#define MAX(a, b) \
	({ \
		__typeof__(a) max_a = (a); \
		__typeof__(b) max_b = (b); \
		max_a > max_b ? max_a : max_b; \
	})
#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)

static inline uint64_t align_up(uint64_t v, uint64_t pow2)
{
	return (v + pow2 - 1) & ~(pow2 - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t pow2)
{
	return v & ~(pow2 - 1);
}

static inline bool is_pow2(uint64_t v)
{
	return v && !(v & (v - 1));
}

#define cleanup(fn) __attribute__((cleanup(fn)))

/* void * so that it serves every pointer type: the attribute passes the variable's address. */
static inline void free_ptr(void *p)
{
	free(*(void **)p);
}

static inline void close_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define steal_ptr(p) \
	({ \
		__typeof__(p) steal_tmp = (p); \
		(p) = NULL; \
		steal_tmp; \
	})

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#endif
