/* test_disk.c: raw disks on both back ends against one oracle in memory; locks; every error of opening. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/pages.h"
#include "base/util.h"
#include "disk/disk.h"
#include "random.h"

#define SIZE (4 * MiB)

static struct rig {
	uv_loop_t loop;
	char path[64];
	unsigned batches, resized;
	uint64_t rng;
} rig;

static uint64_t rnd(uint64_t n)
{
	return random_below(&rig.rng, n);
}

static void make_file(const char *path, uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	rig.rng = RANDOM_SEED;
	uv_loop_init(&rig.loop);
	strcpy(rig.path, "lodge-disk-XXXXXX");
	close(mkstemp(rig.path));
	make_file(rig.path, SIZE);
	return 0;
}

static int teardown(void **state)
{
	unlink(rig.path);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	return 0;
}

static void on_batch(void *ctx)
{
	rig.batches++;
}

static void on_resized(void *ctx)
{
	rig.resized++;
}

static struct disk_opts opts(enum io_kind io, enum disk_cache cache)
{
	return (struct disk_opts){.path = rig.path,
		.format = "raw",
		.discard = true,
		.cache = cache,
		.io = io,
		.loop = &rig.loop,
		.client = {on_batch, on_resized, NULL}};
}

static struct disk *open_ok(const struct disk_opts *o)
{
	struct disk *d = NULL;
	struct err e = {0};

	if (disk_open(&d, o, &e))
		fail_msg("%s", err_msg(&e));
	return d;
}

static void open_fails(const struct disk_opts *o, int code, const char *text)
{
	struct disk *d = NULL;
	struct err e = {0};
	int rc = disk_open(&d, o, &e);

	if (rc != code || !strstr(err_msg(&e), text) || !strstr(err_msg(&e), o->path))
		fail_msg("%d, not %d: '%s' should say '%s' and name the file", rc, code,
			err_msg(&e), text);
	assert_null(d);
}

struct call {
	struct disk_req r;
	struct iovec iov[8];
	bool done;
};

static void on_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	assert_false(c->done);
	c->done = true;
}

static int run(struct disk *d, struct call *c)
{
	c->done = false;
	c->r.done = on_done;
	disk_submit(d, &c->r);
	assert_false(c->done); /* never from inside submit */
	while (!c->done)
		uv_run(&rig.loop, UV_RUN_ONCE);
	return c->r.result;
}

static int simple(struct disk *d, enum disk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct call c = {
		.r = {.op = op, .offset = off, .len = len, .iov = c.iov, .niov = buf ? 1 : 0}};

	c.iov[0] = (struct iovec){buf, len};
	return run(d, &c);
}

/* ---- against an oracle ---- */

#define SLOTS 24
#define MEMORY (128 * KiB) /* of each */
#define REGION \
	(SIZE / SLOTS / 4096 * \
		4096) /* each slot works in its own: overlapping requests have no order */

struct slot {
	struct call c;
	uint8_t *buf; /* of the request */
	uint64_t off, len;
	bool busy;
};

/* Splits the buffer at places that no host likes. */
static void split(struct slot *s)
{
	uint64_t left = s->len, at = 0;

	s->c.r.niov = 0;
	while (left) {
		uint64_t n = s->c.r.niov == 7 ? left : MIN(left, 1 + rnd(left));

		if (rnd(2) && n > DISK_SECTOR && s->c.r.niov < 7)
			n -= n % DISK_SECTOR;
		s->c.iov[s->c.r.niov++] = (struct iovec){s->buf + at, n};
		at += n;
		left -= n;
	}
}

static void verify(struct slot *s, uint8_t *oracle)
{
	assert_true(s->c.done);
	assert_int_equal(s->c.r.result, 0);
	if (s->c.r.op == DISK_READ)
		assert_memory_equal(s->buf, oracle + s->off, s->len);
	s->busy = false;
}

static void start(struct disk *d, struct slot *s, unsigned i, uint8_t *oracle)
{
	static const enum disk_op ops[] = {DISK_READ, DISK_READ, DISK_READ, DISK_WRITE, DISK_WRITE,
		DISK_FLUSH, DISK_WRITE_ZEROES};
	enum disk_op op = ops[rnd(ARRAY_SIZE(ops))];
	uint64_t max = MIN(REGION, 64 * KiB) / DISK_SECTOR;

	s->len = (1 + rnd(max)) * DISK_SECTOR;
	s->off = i * REGION + rnd((REGION - s->len) / DISK_SECTOR + 1) * DISK_SECTOR;
	if (rnd(2)) {
		s->off -= s->off % 4096;
		s->len = align_up(s->len, 4096);
		s->off = MIN(s->off, (i + 1) * REGION - s->len);
	}
	memset(&s->c, 0, sizeof(s->c));
	s->c.r = (struct disk_req){.op = op,
		.offset = s->off,
		.len = s->len,
		.fua = rnd(8) == 0,
		.unmap = rnd(2),
		.iov = s->c.iov,
		.done = on_done};
	if (op == DISK_READ || op == DISK_WRITE)
		split(s);
	if (op == DISK_WRITE) {
		for (uint64_t k = 0; k < s->len; k++)
			s->buf[k] = (uint8_t)rnd(256);
		memcpy(oracle + s->off, s->buf, s->len);
	}
	if (op == DISK_WRITE_ZEROES)
		memset(oracle + s->off, 0, s->len);
	s->busy = true;
	disk_submit(d, &s->c.r);
}

static void check_file(const uint8_t *oracle)
{
	uint8_t *file = malloc(SIZE);
	int fd = open(rig.path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, file, SIZE, 0), SIZE);
	assert_memory_equal(file, oracle, SIZE);
	close(fd);
	free(file);
}

/* `named`: some of the requests' memory is the disk's to keep in mind, up to the middle of one request's. */
static void against_oracle(const struct disk_opts *o, const char *io, bool named)
{
	struct disk *d = open_ok(o);
	uint8_t *oracle = calloc(1, SIZE);
	struct slot *slots = calloc(SLOTS, sizeof(*slots));
	struct disk_info info;
	struct disk_stats st;
	uint8_t *mem = pages_alloc(SLOTS * MEMORY);
	uint64_t ops = 0;

	disk_info(d, &info);
	if (io)
		assert_string_equal(info.io, io);
	assert_int_equal(info.size, SIZE);
	for (unsigned i = 0; i < SLOTS; i++)
		slots[i].buf = mem + i * MEMORY + (i % 3 ? 1 + i : 0); /* mostly not aligned */
	if (named)
		disk_memory(d, &(struct iovec){mem, SLOTS * MEMORY / 2 + 12345});
	for (unsigned round = 0; round < 1500; round++) {
		unsigned i = (unsigned)rnd(SLOTS);

		while (slots[i].busy && !slots[i].c.done)
			uv_run(&rig.loop, UV_RUN_ONCE);
		if (slots[i].busy)
			verify(&slots[i], oracle);
		start(d, &slots[i], i, oracle);
	}
	disk_drain(d);
	assert_int_equal(disk_in_flight(d), 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		if (slots[i].busy)
			verify(&slots[i], oracle);
	}
	check_file(oracle);
	disk_stats(d, &st);
	for (unsigned i = 0; i < DISK_OPS; i++) {
		uint64_t sum = 0;

		for (unsigned b = 0; b < DISK_LATENCY_BUCKETS; b++)
			sum += st.op[i].latency[b];
		assert_int_equal(sum, st.op[i].ops);
		assert_int_equal(st.op[i].errors, 0);
		ops += st.op[i].ops;
	}
	assert_true(ops == 1500 && st.in_flight_max > 1 && rig.batches > 0);
	disk_close(d);
	pages_free(mem, SLOTS * MEMORY);
	free(slots);
	free(oracle);
}

static bool have_uring(void)
{
	struct disk_opts o = opts(IO_URING, DISK_CACHE_WRITEBACK);
	struct disk *d;
	struct err e = {0};

	if (disk_open(&d, &o, &e)) {
		print_message("SKIP: %s\n", err_msg(&e));
		return false;
	}
	disk_close(d);
	return true;
}

static bool have_direct(void)
{
	int fd = open(rig.path, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0) {
		print_message("SKIP: no direct I/O in this folder\n");
		return false;
	}
	close(fd);
	return true;
}

static void oracle_uring(void **state)
{
	struct disk_opts o = opts(IO_URING, DISK_CACHE_WRITEBACK);

	if (!have_uring())
		skip();
	against_oracle(&o, "io_uring", false);
	make_file(rig.path, SIZE);
	against_oracle(&o, "io_uring", true);
}

static void oracle_threads(void **state)
{
	struct disk_opts o = opts(IO_THREADS, DISK_CACHE_WRITEBACK);

	against_oracle(&o, "threads", false);
}

static void oracle_direct(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_NONE);

	if (!have_direct())
		skip();
	against_oracle(&o, NULL, false);
}

static void oracle_direct_named(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_NONE);

	if (!have_direct())
		skip();
	against_oracle(&o, NULL, true);
}

/* Large requests of scattered memory are copied now and then, to see what is quicker: what they read and write is the same. */
static void scattered(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_NONE);
	uint8_t *mem = pages_alloc(4 * MiB), *oracle = calloc(1, SIZE);
	struct disk *d;

	if (!have_direct())
		skip();
	d = open_ok(&o);
	for (unsigned i = 0; i < 300; i++) {
		struct call c = {.r = {.op = i % 2 ? DISK_READ : DISK_WRITE, .niov = 8}};
		uint64_t len = 8 * 4096 * (4 + rnd(32)), off = rnd((SIZE - len) / 4096) * 4096;

		c.r.offset = off;
		c.r.len = len;
		c.r.iov = c.iov;
		for (unsigned k = 0; k < 8; k++) {
			c.iov[k] = (struct iovec){mem + (k * 5 + i) % 8 * 512 * KiB, len / 8};
			if (c.r.op == DISK_READ)
				continue;
			memset(c.iov[k].iov_base, (int)rnd(256), len / 8);
			memcpy(oracle + off + k * (len / 8), c.iov[k].iov_base, len / 8);
		}
		assert_int_equal(run(d, &c), 0);
		for (unsigned k = 0; k < 8; k++)
			assert_memory_equal(
				c.iov[k].iov_base, oracle + off + k * (len / 8), len / 8);
	}
	disk_close(d);
	check_file(oracle);
	pages_free(mem, 4 * MiB);
	free(oracle);
}

/*
 * Named memory is the pages that it was then: what is mapped in their place later sees nothing of a read, until none is named. That is why
 * guests' memory is not.
 */
static void named_memory(void **state)
{
	struct disk_opts o = opts(IO_URING, DISK_CACHE_WRITEBACK);
	uint8_t *mem = pages_alloc(2 * MiB);
	struct iovec named = {mem, 2 * MiB};
	struct disk *d;

	if (!have_uring())
		skip();
	d = open_ok(&o);
	memset(mem, 7, 4096);
	assert_int_equal(simple(d, DISK_WRITE, 0, mem, 4096), 0);
	disk_memory(d, &named);
	assert_ptr_equal(mmap(mem, 2 * MiB, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
		mem);
	assert_int_equal(simple(d, DISK_READ, 0, mem, 4096), 0);
	assert_int_equal(mem[0], 0);
	disk_memory(d, &named);
	assert_int_equal(simple(d, DISK_READ, 0, mem, 4096), 0);
	assert_int_equal(mem[0], 7);
	memset(mem, 0, 4096);
	disk_memory(d, NULL);
	assert_int_equal(simple(d, DISK_READ, 0, mem, 4096), 0);
	assert_int_equal(mem[0], 7);
	disk_close(d);
	pages_free(mem, 2 * MiB);
}

static void oracle_direct_threads(void **state)
{
	struct disk_opts o = opts(IO_THREADS, DISK_CACHE_NONE);

	if (!have_direct())
		skip();
	against_oracle(&o, "threads", false);
}

static void oracle_writethrough(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITETHROUGH);

	against_oracle(&o, NULL, false);
}

/* tmpfs has no ZERO_RANGE: zeroes come by punching and by writing. */
static void oracle_no_zero_range(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);

	if (access("/dev/shm", W_OK)) {
		print_message("SKIP: no /dev/shm\n");
		skip();
	}
	unlink(rig.path);
	strcpy(rig.path, "/dev/shm/lodge-disk-XXXXXX");
	close(mkstemp(rig.path));
	make_file(rig.path, SIZE);
	against_oracle(&o, NULL, false);
}

/* ---- requests ---- */

static void bad_requests(enum io_kind io)
{
	struct disk_opts o = opts(io, DISK_CACHE_WRITEBACK);
	struct disk *d = open_ok(&o);
	uint8_t buf[1024] = {0};
	struct disk_stats st;
	struct call c = {.r = {.op = DISK_READ, .len = 1024, .iov = c.iov, .niov = 1}};

	assert_int_equal(simple(d, DISK_READ, SIZE - 512, buf, 1024), -ERANGE);
	assert_int_equal(simple(d, DISK_READ, UINT64_MAX - 511, buf, 1024), -ERANGE);
	assert_int_equal(simple(d, DISK_WRITE, 1, buf, 512), -EINVAL);
	assert_int_equal(simple(d, DISK_WRITE, 0, buf, 100), -EINVAL);
	assert_int_equal(simple(d, DISK_DISCARD, SIZE, NULL, 512), -ERANGE);
	assert_int_equal(simple(d, DISK_OPS, 0, NULL, 512), -EINVAL);
	c.iov[0] = (struct iovec){buf, 512}; /* fewer bytes than it says */
	assert_int_equal(run(d, &c), -EINVAL);
	assert_int_equal(simple(d, DISK_READ, 512, buf, 0), 0);
	assert_int_equal(simple(d, DISK_READ, SIZE - 512, buf, 512), 0);
	disk_stats(d, &st);
	assert_int_equal(st.op[DISK_READ].errors, 4);
	assert_int_equal(st.op[DISK_WRITE].errors, 2);
	/* A file that is cut while it is in use. */
	assert_int_equal(truncate(rig.path, MiB), 0);
	assert_int_equal(simple(d, DISK_READ, 2 * MiB, buf, 512), -EIO);
	assert_int_equal(simple(d, DISK_READ, 0, buf, 512), 0);
	disk_close(d);
	make_file(rig.path, SIZE);
	o.readonly = true;
	d = open_ok(&o);
	assert_int_equal(simple(d, DISK_WRITE, 0, buf, 512), -EROFS);
	assert_int_equal(simple(d, DISK_DISCARD, 0, NULL, 512), -EROFS);
	assert_int_equal(simple(d, DISK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
	assert_int_equal(simple(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(simple(d, DISK_READ, 0, buf, 512), 0);
	disk_close(d);
}

static void requests(void **state)
{
	bad_requests(IO_AUTO);
	bad_requests(IO_THREADS);
}

static uint64_t allocated(void)
{
	struct stat st;

	assert_int_equal(stat(rig.path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void discard_gives_space_back(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);
	struct disk *d = open_ok(&o);
	uint8_t *buf = malloc(MiB);
	uint64_t full;

	memset(buf, 0xa5, MiB);
	assert_int_equal(simple(d, DISK_WRITE, 0, buf, MiB), 0);
	assert_int_equal(simple(d, DISK_FLUSH, 0, NULL, 0), 0);
	full = allocated();
	assert_true(full >= MiB);
	assert_int_equal(simple(d, DISK_DISCARD, 0, NULL, MiB), 0);
	if (allocated() >= full)
		print_message("this file system punches no holes\n");
	disk_close(d);
	o.discard = false;
	d = open_ok(&o);
	assert_int_equal(simple(d, DISK_WRITE, 0, buf, MiB), 0);
	assert_int_equal(simple(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(simple(d, DISK_DISCARD, 0, NULL, MiB), 0);
	assert_true(allocated() >= MiB);
	assert_int_equal(simple(d, DISK_READ, 0, buf, MiB), 0);
	assert_int_equal(buf[12345], 0xa5);
	disk_close(d);
	free(buf);
}

static void close_waits(void **state)
{
	static const enum io_kind kinds[] = {IO_AUTO, IO_THREADS};

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct disk_opts o = opts(kinds[k], DISK_CACHE_WRITETHROUGH);
		struct disk *d = open_ok(&o);
		struct call *c = calloc(600, sizeof(*c)); /* more than a ring holds */
		uint8_t *buf = calloc(600, DISK_SECTOR);

		for (unsigned i = 0; i < 600; i++) {
			c[i].iov[0] = (struct iovec){buf + i * DISK_SECTOR, DISK_SECTOR};
			c[i].r = (struct disk_req){.op = i % 100 ? DISK_READ : DISK_WRITE,
				.offset = i * DISK_SECTOR,
				.len = i == 7 ? 1 : DISK_SECTOR,
				.iov = c[i].iov,
				.niov = 1,
				.done = on_done};
			disk_submit(d, &c[i].r);
		}
		disk_close(d);
		for (unsigned i = 0; i < 600; i++) {
			assert_true(c[i].done);
			assert_int_equal(c[i].r.result, i == 7 ? -EINVAL : 0);
		}
		free(buf);
		free(c);
		uv_run(&rig.loop, UV_RUN_DEFAULT);
	}
}

static void resize(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);
	struct disk *d = open_ok(&o);
	uint8_t buf[512];
	struct err e = {0};

	assert_int_equal(disk_resize(d, SIZE - 512, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "only grow"));
	assert_int_equal(disk_resize(d, SIZE + 1, &e), -EINVAL);
	assert_int_equal(rig.resized, 0);
	assert_int_equal(disk_resize(d, SIZE + MiB, &e), 0);
	assert_int_equal(rig.resized, 1);
	assert_int_equal(disk_size(d), SIZE + MiB);
	assert_int_equal(simple(d, DISK_READ, SIZE + MiB - 512, buf, 512), 0);
	assert_int_equal(truncate(rig.path, SIZE + 2 * MiB), 0);
	assert_int_equal(disk_resize(d, 0, &e), 0);
	assert_int_equal(disk_size(d), SIZE + 2 * MiB);
	assert_int_equal(rig.resized, 2);
	assert_int_equal(truncate(rig.path, SIZE), 0);
	assert_int_equal(disk_resize(d, 0, &e), -EINVAL);
	disk_close(d);
}

/* ---- opening ---- */

static void open_errors(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);
	char path[80];

	o.format = NULL;
	open_fails(&o, -EINVAL, "no format: name one of: raw");
	o.format = "qcow3";
	open_fails(&o, -EINVAL, "there is no format 'qcow3'");
	o.format = "raw";
	o.path = "/nowhere/x.img";
	open_fails(&o, -ENOENT, "lodge disk create");
	o.path = "/tmp";
	open_fails(&o, -EINVAL, "directory");
	o.path = "/dev/null";
	open_fails(&o, -EINVAL, "neither a file nor a block device");
	snprintf(path, sizeof(path), "%s.fifo", rig.path);
	assert_int_equal(mkfifo(path, 0600), 0);
	o.path = path;
	open_fails(&o, -EINVAL,
		"neither a file nor a block device"); /* and does not wait for a writer */
	unlink(path);
	o.path = rig.path;
	make_file(rig.path, 1000);
	open_fails(&o, -EINVAL, "1000 bytes are not a multiple of 512");
	make_file(rig.path, 0);
	open_fails(&o, -EINVAL, "is empty");
	o.path = "/dev/shm";
	o.readonly = true;
	open_fails(&o, -EINVAL, "directory");
}

static void readonly_file(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);
	bool root = geteuid() == 0;

	assert_int_equal(chmod(rig.path, 0444), 0);
	if (root && seteuid(65534)) {
		print_message("SKIP: root may write everywhere, and cannot become somebody else\n");
		skip();
	}
	if (root && access(rig.path, R_OK)) /* checks by the real id: see below */
		print_message("cannot see the file as nobody\n");
	open_fails(&o, -EROFS, "readonly=on");
	if (root)
		assert_int_equal(seteuid(0), 0);
}

static void locks(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);
	struct disk *d = open_ok(&o), *d2;
	char who[32];
	int to[2];
	pid_t child;

	/* In one process. */
	open_fails(&o, -EBUSY, "in use by another machine");
	o.readonly = true;
	open_fails(&o, -EBUSY, "in use by another machine");
	disk_close(d);
	/* Readers share. */
	d = open_ok(&o);
	d2 = open_ok(&o);
	o.readonly = false;
	open_fails(&o, -EBUSY, "in use");
	disk_close(d);
	open_fails(&o, -EBUSY, "in use");
	disk_close(d2);
	/* In another, which is named, and whose lock dies with it. */
	assert_int_equal(pipe(to), 0);
	child = fork();
	if (!child) {
		int fd = open(rig.path, O_RDWR);
		struct flock fl = {.l_type = F_WRLCK};
		char ok = fcntl(fd, F_OFD_SETLK, &fl) ? 'n' : 'y';

		if (write(to[1], &ok, 1) == 1)
			pause();
		_exit(0);
	}
	assert_int_equal(read(to[0], who, 1), 1);
	assert_int_equal(who[0], 'y');
	snprintf(who, sizeof(who), "(pid %d)", (int)child);
	open_fails(&o, -EBUSY, who);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(to[0]);
	close(to[1]);
	d = open_ok(&o);
	disk_close(d);
}

/* A disk whose opening failed leaves no lock and no descriptor. */
static void failure_leaves_nothing(void **state)
{
	struct disk_opts o = opts(IO_AUTO, DISK_CACHE_WRITEBACK);
	int before = dup(0), after;
	struct disk *d;

	close(before);
	make_file(rig.path, 1000);
	for (unsigned i = 0; i < 10; i++)
		open_fails(&o, -EINVAL, "multiple");
	make_file(rig.path, SIZE);
	d = open_ok(&o);
	disk_close(d);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	after = dup(0);
	close(after);
	assert_int_equal(before, after);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(oracle_uring),
		T(oracle_threads),
		T(oracle_direct),
		T(oracle_direct_named),
		T(scattered),
		T(named_memory),
		T(oracle_direct_threads),
		T(oracle_writethrough),
		T(oracle_no_zero_range),
		T(requests),
		T(discard_gives_space_back),
		T(close_waits),
		T(resize),
		T(open_errors),
		T(readonly_file),
		T(locks),
		T(failure_leaves_nothing),
	};

	return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
