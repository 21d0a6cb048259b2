/*
 * diskload.c: a load on a block device inside a guest, for bench/disk --rows guest: what fio's libaio engine with direct=1 does.
 *
 *	diskload DEVICE read|write SIZE DEPTH COUNT seq|rand [SYNC]
 *
 * DEPTH requests of SIZE bytes are in flight; the places follow one another, or are random ones. With SYNC, fdatasync(2) after so many. Prints
 * operations a second and the microseconds of CPU of this process for each. Source: io_submit(2), io_getevents(2).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int fail(const char *what)
{
	printf("diskload: %s: %s\n", what, strerror(errno));
	return 1;
}

struct load {
	int fd, write, random;
	uint64_t size, depth, count, sync, slots, sent, done, rng;
	aio_context_t ctx;
	struct iocb cb[256];
	char *mem;
};

static int send_some(struct load *l, struct iocb **list, long n)
{
	for (long i = 0; i < n; i++) {
		uint64_t slot = l->sent++;

		if (l->random) {
			l->rng = l->rng * 6364136223846793005ull + 1442695040888963407ull;
			slot = l->rng >> 20;
		}
		list[i]->aio_offset = (int64_t)(slot % l->slots * l->size);
	}
	return n && syscall(SYS_io_submit, l->ctx, n, list) != n ? fail("io_submit") : 0;
}

static int run(struct load *l)
{
	struct io_event ev[256];
	struct iocb *list[256];
	uint64_t since = 0;
	long n = 0;

	for (uint64_t i = 0; i < l->depth; i++) {
		l->cb[i] = (struct iocb){
			.aio_lio_opcode = l->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
			.aio_fildes = (uint32_t)l->fd,
			.aio_buf = (uint64_t)(uintptr_t)(l->mem + i * l->size),
			.aio_nbytes = l->size};
		list[n++] = &l->cb[i];
	}
	if (send_some(l, list, n))
		return 1;
	while (l->done < l->count) {
		long got = syscall(SYS_io_getevents, l->ctx, 1, 256, ev, NULL), k = 0;

		if (got < 0)
			return fail("io_getevents");
		for (long i = 0; i < got; i++) {
			if (ev[i].res != (int64_t)l->size) {
				errno = ev[i].res < 0 ? (int)-ev[i].res : EIO;
				return fail("a request");
			}
			l->done++;
			since++;
			if (l->sent + (uint64_t)k < l->count)
				list[k++] = (struct iocb *)(uintptr_t)ev[i].obj;
		}
		if (l->sync && since >= l->sync) {
			since = 0;
			if (fdatasync(l->fd))
				return fail("fdatasync");
		}
		if (send_some(l, list, k))
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct load l = {.rng = 12345};
	double t0, c0, s;
	off_t end;

	if (argc < 7)
		return 2;
	l.write = !strcmp(argv[2], "write");
	l.size = strtoull(argv[3], NULL, 0);
	l.depth = strtoull(argv[4], NULL, 0);
	l.count = strtoull(argv[5], NULL, 0);
	l.random = !strcmp(argv[6], "rand");
	l.sync = argc > 7 ? strtoull(argv[7], NULL, 0) : 0;
	l.fd = open(argv[1], O_RDWR | O_DIRECT);
	if (l.fd < 0)
		return fail(argv[1]);
	end = lseek(l.fd, 0, SEEK_END);
	if (!l.depth || l.depth > 256 || l.count < l.depth || end < (off_t)l.size)
		return 2;
	l.slots = (uint64_t)end / l.size;
	if (posix_memalign((void **)&l.mem, 4096, l.depth * l.size))
		return 1;
	memset(l.mem, 0x5a, l.depth * l.size);
	if (syscall(SYS_io_setup, 256, &l.ctx))
		return fail("io_setup");
	t0 = now();
	c0 = cpu();
	if (run(&l))
		return 1;
	s = now() - t0;
	printf("iops %.0f guest_us %.2f seconds %.3f\n", (double)l.count / s,
		(cpu() - c0) * 1e6 / (double)l.count, s);
	return 0;
}
