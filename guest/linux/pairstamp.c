/*
 * pairstamp.c: inside a guest: do memory and a disk come from one moment? For tests/system/snapshot-disks.py.
 *
 *	pairstamp DEVICE BLOCKS PAGES
 *
 * Each round has a generation. One block after the other is read, must be what memory says that it is, and is written with this
 * generation (O_DIRECT, so that no cache hides the disk). Between blocks pages of memory are checked and stamped in the same way. Each eighth
 * block goes with its neighbours in one request, which spans clusters of the disk's format. A machine that goes on from a snapshot goes on
 * with this check: a disk, or a page, that is older or newer than the rest ends it with FAIL.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK 4096u
#define WORDS (BLOCK / sizeof(uint64_t))
#define TOGETHER 8u

struct pair {
	int fd;
	uint64_t blocks, pages, gen;
	uint64_t *on_disk; /* the generation of each block, as memory knows it */
	uint64_t *page;
	uint64_t *buf; /* TOGETHER blocks */
};

static int fail(const char *what, uint64_t at, uint64_t want, uint64_t got)
{
	printf("pairstamp FAIL: %s %llu: %llu instead of %llu\n", what, (unsigned long long)at,
		(unsigned long long)got, (unsigned long long)want);
	return 1;
}

static uint64_t word(uint64_t at, uint64_t gen, unsigned i)
{
	return gen ? gen ^ at << 32 ^ (uint64_t)i << 52 : 0;
}

static void fill(uint64_t *p, uint64_t at, uint64_t gen)
{
	for (unsigned i = 0; i < WORDS; i++)
		p[i] = word(at, gen, i);
}

static int expect(const char *what, const uint64_t *p, uint64_t at, uint64_t gen)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (p[i] != word(at, gen, i))
			return fail(what, at, gen, p[i] ^ at << 32 ^ (uint64_t)i << 52);
	return 0;
}

static int step_blocks(struct pair *p, uint64_t first, unsigned n)
{
	ssize_t len = (ssize_t)n * BLOCK;

	if (pread(p->fd, p->buf, (size_t)len, (off_t)(first * BLOCK)) != len)
		return fail("cannot read block", first, 0, (uint64_t)errno);
	for (unsigned i = 0; i < n; i++) {
		uint64_t *b = p->buf + i * WORDS;

		if (expect("block", b, first + i, p->on_disk[first + i]))
			return 1;
		fill(b, first + i, p->gen);
	}
	if (pwrite(p->fd, p->buf, (size_t)len, (off_t)(first * BLOCK)) != len)
		return fail("cannot write block", first, 0, (uint64_t)errno);
	for (unsigned i = 0; i < n; i++)
		p->on_disk[first + i] = p->gen;
	return 0;
}

/* The pages' share of one step: as many as there are for each block. */
static int step_pages(struct pair *p, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++) {
		if (expect("page", p->page + i * WORDS, i, p->gen - 1))
			return 1;
		fill(p->page + i * WORDS, i, p->gen);
	}
	return 0;
}

static int round_of(struct pair *p)
{
	for (uint64_t b = 0, n; b < p->blocks; b += n) {
		n = b % 64 == 0 && b + TOGETHER <= p->blocks ? TOGETHER : 1;
		if (step_blocks(p, b, (unsigned)n) ||
			step_pages(p, b * p->pages / p->blocks, (b + n) * p->pages / p->blocks))
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct pair p = {0};

	if (argc != 4)
		return 2;
	p.blocks = strtoull(argv[2], NULL, 0);
	p.pages = strtoull(argv[3], NULL, 0);
	p.fd = open(argv[1], O_RDWR | O_DIRECT);
	if (p.fd < 0 || !p.blocks || !p.pages) {
		printf("pairstamp FAIL: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	p.on_disk = calloc(p.blocks, sizeof(*p.on_disk));
	p.page = mmap(
		NULL, p.pages * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!p.on_disk || p.page == MAP_FAILED ||
		posix_memalign((void **)&p.buf, BLOCK, TOGETHER * BLOCK))
		return 1;
	for (p.gen = 1;; p.gen++) {
		if (round_of(&p))
			return 1;
		printf("pairstamp %s rounds %llu\n", argv[1], (unsigned long long)p.gen);
		fflush(stdout);
	}
}
