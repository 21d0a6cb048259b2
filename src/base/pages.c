#include "base/pages.h"

#include <stdint.h>
#include <sys/mman.h>

#include "base/util.h"

#define LARGE (2 * MiB)

/* Nobody says where a mapping begins: so it is one large page longer at first. */
void *pages_alloc(size_t len)
{
	size_t n = align_up(len, LARGE), head;
	char *p = mmap(NULL, n + LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	head = align_up((uintptr_t)p, LARGE) - (uintptr_t)p;
	if (head)
		munmap(p, head);
	if (head < LARGE)
		munmap(p + head + n, LARGE - head);
	(void)madvise(p + head, n, MADV_HUGEPAGE);
	return p + head;
}

void pages_free(void *p, size_t len)
{
	if (p)
		munmap(p, align_up(len, LARGE));
}
