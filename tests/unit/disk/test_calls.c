/*
 * test_calls.c: what the host is asked for. That a flush is an fdatasync(2), and a write that is to be durable says so, no contents show: here
 * io_uring_submit(), pwritev2() and fdatasync() are looked at, and made to fail, on their way to the kernel (--wrap, in the ring's own queue of operations).
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/disk.h"

#define SIZE MiB
#define CALLS 64u

enum what { WRITE, SYNC, OTHER };

struct asked {
	enum what what;
	bool durable; /* a write: RWF_DSYNC; a flush: of data only */
	uint64_t off;
	unsigned niov;
};

static struct rig {
	uv_loop_t loop;
	char path[64];
	struct disk *d;
	struct asked call[CALLS];
	_Atomic unsigned n;
	_Atomic int fail_syncs; /* so many of the next ones */
	bool meet; /* a write at 0 fails while one at 4096 is under way, which the host says is done */
	_Atomic bool begun, told;
	int no_ring; /* what the host answers who wants one */
} rig;

static void note(enum what what, bool durable, uint64_t off, unsigned niov)
{
	unsigned i = rig.n++;

	if (i < CALLS)
		rig.call[i] = (struct asked){what, durable, off, niov};
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int n, off_t off, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t off, int flags);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

int __real_io_uring_queue_init_params(
	unsigned entries, struct io_uring *ring, struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(
	unsigned entries, struct io_uring *ring, struct io_uring_params *p);

int __wrap_io_uring_queue_init_params(
	unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
	return rig.no_ring ?: __real_io_uring_queue_init_params(entries, ring, p);
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++) {
		const struct io_uring_sqe *s = &ring->sq.sqes[i & *ring->sq.kring_mask];

		switch (s->opcode) {
		case IORING_OP_WRITEV:
		case IORING_OP_WRITE_FIXED:
			note(WRITE, s->rw_flags & RWF_DSYNC, s->off, s->len);
			break;
		case IORING_OP_FSYNC:
			note(SYNC, s->fsync_flags & IORING_FSYNC_DATASYNC, 0, 0);
			break;
		default:
			note(OTHER, false, s->off, 0);
		}
	}
	return __real_io_uring_submit(ring);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	note(WRITE, flags & RWF_DSYNC, (uint64_t)off, (unsigned)n);
	if (rig.meet && !off) {
		while (!rig.begun)
			usleep(1000);
		errno = EIO;
		return -1;
	}
	if (rig.meet && !rig.begun) {
		rig.begun = true;
		while (!rig.told)
			usleep(1000);
	}
	return __real_pwritev64v2(fd, iov, n, off, flags);
}

int __wrap_fdatasync(int fd)
{
	note(SYNC, true, 0, 0);
	if (rig.fail_syncs && rig.fail_syncs--) {
		errno = EIO;
		return -1;
	}
	return __real_fdatasync(fd);
}

static int setup(void **state)
{
	int fd;

	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	strcpy(rig.path, "lodge-calls-XXXXXX");
	fd = mkstemp(rig.path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	disk_close(rig.d);
	unlink(rig.path);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	return 0;
}

/* False: not here. */
static bool start(enum io_kind io, enum disk_cache cache)
{
	struct disk_opts o = {
		.path = rig.path, .format = "raw", .io = io, .cache = cache, .loop = &rig.loop};
	struct err e = {0};
	int rc = disk_open(&rig.d, &o, &e);

	if (rc && rc != -ENOSYS && rc != -EPERM && rc != -EOPNOTSUPP)
		fail_msg("%s", err_msg(&e));
	return !rc;
}

struct call {
	struct disk_req r;
	struct iovec iov;
	bool done;
};

static char data[64 * KiB] __attribute__((aligned(4096)));

static void on_done(struct disk_req *r)
{
	rig.told |= r->result != 0;
	container_of(r, struct call, r)->done = true;
}

static void submit(struct call *c, enum disk_op op, uint64_t off, uint64_t len, bool fua)
{
	*c = (struct call){.iov = {data, len}};
	c->r = (struct disk_req){.op = op,
		.offset = off,
		.len = len,
		.fua = fua,
		.iov = &c->iov,
		.niov = 1,
		.done = on_done};
	disk_submit(rig.d, &c->r);
}

static int run(enum disk_op op, uint64_t off, uint64_t len, bool fua)
{
	struct call c;

	submit(&c, op, off, len, fua);
	while (!c.done)
		uv_run(&rig.loop, UV_RUN_ONCE);
	return c.r.result;
}

/* How many there were of that sort. */
static unsigned count(enum what what, bool durable)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MIN((unsigned)rig.n, CALLS); i++)
		n += rig.call[i].what == what && rig.call[i].durable == durable;
	return n;
}

static void durable(enum io_kind io)
{
	if (!start(io, DISK_CACHE_WRITEBACK))
		skip();
	assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
	assert_int_equal(count(WRITE, false), 1);
	assert_int_equal(count(WRITE, true) + count(SYNC, true), 0);
	assert_int_equal(run(DISK_WRITE, 0, 4096, true), 0);
	assert_int_equal(count(WRITE, true), 1);
	assert_int_equal(run(DISK_FLUSH, 0, 0, false), 0);
	assert_int_equal(count(SYNC, true), 1);
	/* Zeroes have no such flag: a flush comes behind them. */
	assert_int_equal(run(DISK_WRITE_ZEROES, 0, 4096, true), 0);
	assert_int_equal(count(SYNC, true), 2);
	assert_int_equal(run(DISK_WRITE_ZEROES, 0, 4096, false), 0);
	assert_int_equal(count(SYNC, true), 2);
}

static void durable_ring(void **state)
{
	durable(IO_URING);
}

static void durable_threads(void **state)
{
	durable(IO_THREADS);
}

static void writethrough(void **state)
{
	if (!start(IO_THREADS, DISK_CACHE_WRITETHROUGH))
		skip();
	assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
	assert_int_equal(count(WRITE, true), 1);
	assert_int_equal(count(WRITE, false), 0);
}

/* Who takes the disk over may be another host. */
static void asleep(void **state)
{
	struct disk_stores stores = {0};
	struct disk_opts o = {.path = rig.path,
		.format = "raw",
		.io = IO_THREADS,
		.loop = &rig.loop,
		.stores = &stores};

	assert_int_equal(disk_open(&rig.d, &o, NULL), 0);
	assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
	assert_int_equal(disk_sleep(rig.d, NULL), 0);
	assert_int_equal(count(SYNC, true), 1);
	disk_close(rig.d);
	rig.d = NULL;
	disk_stores_clear(&stores);
}

/* Neighbours are one operation, but not those of which only some are to be durable. */
static void neighbours(void **state)
{
	struct call c[4];

	if (!start(IO_URING, DISK_CACHE_WRITEBACK))
		skip();
	for (unsigned i = 0; i < 4; i++)
		submit(&c[i], DISK_WRITE, i * 4096ull, 4096, i >= 2);
	for (unsigned i = 0; i < 4; i++)
		while (!c[i].done)
			uv_run(&rig.loop, UV_RUN_ONCE);
	assert_int_equal(rig.n, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rig.call[i].what, WRITE);
		assert_int_equal(rig.call[i].durable, i == 1);
		assert_int_equal(rig.call[i].off, i * 8192);
		assert_int_equal(rig.call[i].niov, 2);
	}
}

/* Once a flush has failed through the page cache all do. */
static void failed_flush(void **state)
{
	if (!start(IO_THREADS, DISK_CACHE_WRITEBACK))
		skip();
	assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
	rig.fail_syncs = 1;
	assert_int_equal(run(DISK_FLUSH, 0, 0, false), -EIO);
	assert_int_equal(run(DISK_FLUSH, 0, 0, false), -EIO);
	assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
	assert_int_equal(run(DISK_FLUSH, 0, 0, false), -EIO);
}

static struct file *open_direct(struct files *fs, enum io_kind io)
{
	struct file *f = NULL;

	*fs = (struct files){.loop = &rig.loop, .io = io};
	/* Not `sectors`: in whole pages only. */
	return file_open(&f, fs, &(struct file_opts){.path = rig.path, .direct = true}, NULL) ? NULL
											      : f;
}

/* Of two durable writes that the host fails only one may be told: the other one is written once more. */
static void failed_beside(void **state)
{
	struct call c[2];

	if (!start(IO_THREADS, DISK_CACHE_WRITETHROUGH))
		skip();
	rig.meet = true;
	for (unsigned i = 0; i < 2; i++)
		submit(&c[i], DISK_WRITE, i * 4096ull, 4096, false);
	for (unsigned i = 0; i < 2; i++)
		while (!c[i].done)
			uv_run(&rig.loop, UV_RUN_ONCE);
	assert_int_equal(c[0].r.result, -EIO);
	assert_int_equal(c[1].r.result, 0);
	assert_int_equal(count(WRITE, true), 3);
}

/* Without the page cache nothing is lost; but what direct I/O does not take has been in it, until a flush. */
static void failed_flush_direct(void **state)
{
	struct files fs;
	struct file *f = open_direct(&fs, IO_THREADS);

	if (!f)
		skip();
	assert_int_equal(file_write(f, 0, data, 4096, NULL), 0);
	rig.fail_syncs = 1;
	assert_int_equal(file_flush(f, NULL), -EIO);
	assert_int_equal(file_flush(f, NULL), 0);
	assert_int_equal(file_write(f, 512, data, 512, NULL), 0);
	assert_int_equal(file_flush(f, NULL), 0);
	rig.fail_syncs = 1;
	assert_int_equal(file_flush(f, NULL), -EIO);
	assert_int_equal(file_flush(f, NULL), 0);
	assert_int_equal(file_write(f, 512, data, 512, NULL), 0);
	rig.fail_syncs = 1;
	assert_int_equal(file_flush(f, NULL), -EIO);
	assert_int_equal(file_flush(f, NULL), -EIO);
	file_close(f);
}

/* Somebody cuts the file off, and puts it back. */
static void cut_off(void **state)
{
	struct files fs = {.loop = &rig.loop, .io = IO_THREADS};
	struct file *f = NULL;

	assert_int_equal(file_open(&f, &fs, &(struct file_opts){.path = rig.path}, NULL), 0);
	assert_int_equal(truncate(rig.path, SIZE / 2), 0);
	assert_int_equal(file_read(f, SIZE / 2 - 4096, data, 4096, NULL), 0);
	assert_int_equal(file_read(f, SIZE / 2 - 4096, data, 8192, NULL), -EIO);
	assert_int_equal(file_flush(f, NULL), -EIO);
	assert_int_equal(file_write(f, SIZE / 2 + 65536, data, 4096, NULL), 0);
	assert_int_equal(file_flush(f, NULL), -EIO);
	assert_int_equal(truncate(rig.path, SIZE), 0);
	assert_int_equal(file_flush(f, NULL), 0);
	assert_int_equal(file_read(f, SIZE, data, 4096, NULL), 0); /* nothing was there */
	file_close(f);
}

static void *let_go(void *arg)
{
	usleep(3500000);
	for (unsigned i = 0; i < 2; i++)
		close(((int *)arg)[i]);
	return NULL;
}

/* The lock of a process that was killed stays until the kernel has come to it. Here it lies in a socket. */
static void left_locked(void **state)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(rig.path, O_RDWR | O_CLOEXEC), sv[2];
	char text[CMSG_SPACE(sizeof(int))] = {0};
	struct msghdr m = {.msg_iov = &(struct iovec){data, 1},
		.msg_iovlen = 1,
		.msg_control = text,
		.msg_controllen = sizeof(text)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	pthread_t t;

	if (geteuid()) {
		print_message("SKIP: needs root, who may look at all processes\n");
		skip();
	}
	*c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(sendmsg(sv[0], &m, 0), 1);
	close(fd);
	assert_int_equal(pthread_create(&t, NULL, let_go, sv), 0);
	assert_true(start(IO_THREADS, DISK_CACHE_WRITEBACK));
	pthread_join(t, NULL);
}

struct part {
	struct file_req r;
	struct iovec iov;
	bool done;
};

static void part_done(struct file_req *r)
{
	container_of(r, struct part, r)->done = true;
}

/* Neighbours of which only one is fit for direct I/O. */
static void neighbours_direct(void **state)
{
	struct part p[2] = {{.iov = {data, 4096}}, {.iov = {data, 512}}};
	struct files fs;
	struct file *f = open_direct(&fs, IO_URING);

	if (!f)
		skip();
	for (unsigned i = 0; i < 2; i++) {
		p[i].r = (struct file_req){.op = FILE_WRITE,
			.off = i * 4096ull,
			.len = p[i].iov.iov_len,
			.iov = &p[i].iov,
			.niov = 1,
			.done = part_done};
		file_submit(f, &p[i].r);
	}
	for (unsigned i = 0; i < 2; i++) {
		while (!p[i].done)
			uv_run(&rig.loop, UV_RUN_ONCE);
		assert_int_equal(p[i].r.result, 0);
	}
	assert_int_equal(count(WRITE, false), 2);
	file_close(f);
}

/* What the host does in part is done as far as it went, and the rest, alone, fails by its own error. */
static void in_part(enum io_kind io)
{
	struct rlimit was, few;
	struct call c[8];

	if (!start(io, DISK_CACHE_WRITEBACK))
		skip();
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &was);
	few = (struct rlimit){20 * KiB, was.rlim_max};
	setrlimit(RLIMIT_FSIZE, &few);
	for (unsigned i = 0; i < 8; i++)
		submit(&c[i], DISK_WRITE, i * 4096ull, 4096, false);
	for (unsigned i = 0; i < 8; i++)
		while (!c[i].done)
			uv_run(&rig.loop, UV_RUN_ONCE);
	submit(&c[0], DISK_WRITE, 0, 32 * KiB, false);
	while (!c[0].done)
		uv_run(&rig.loop, UV_RUN_ONCE);
	setrlimit(RLIMIT_FSIZE, &was);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(c[i].r.result, i && i < 5 ? 0 : -EFBIG);
}

/* Before Linux 5.12 rings are locked memory, of which a user may have too little (RLIMIT_MEMLOCK) for that of one more disk. */
static void no_ring(void **state)
{
	static const int why[] = {-ENOSYS, -EPERM, -ENOMEM, -EMFILE};

	for (unsigned i = 0; i < ARRAY_SIZE(why); i++) {
		struct disk_opts o = {.path = rig.path, .format = "raw", .loop = &rig.loop};
		struct disk_info info;
		struct err e = {0};

		rig.no_ring = why[i];
		assert_int_equal(disk_open(&rig.d, &o, NULL), 0);
		disk_info(rig.d, &info);
		assert_string_equal(info.io, "threads");
		assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
		disk_close(rig.d);
		rig.d = NULL;
		o.io = IO_URING;
		assert_int_equal(disk_open(&rig.d, &o, &e), why[i]);
		rig.no_ring = 0;
	}
}

static void in_part_ring(void **state)
{
	in_part(IO_URING);
}

static void in_part_threads(void **state)
{
	in_part(IO_THREADS);
}

/* What begins in memory that was named, and ends behind it. */
static void beyond_named(void **state)
{
	if (!start(IO_URING, DISK_CACHE_WRITEBACK))
		skip();
	disk_memory(rig.d, &(struct iovec){data, 4096});
	assert_int_equal(run(DISK_WRITE, 0, 4096, false), 0);
	assert_int_equal(run(DISK_WRITE, 0, 8192, false), 0);
	assert_int_equal(run(DISK_READ, 0, 8192, false), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(durable_ring),
		T(durable_threads),
		T(writethrough),
		T(asleep),
		T(neighbours),
		T(neighbours_direct),
		T(failed_flush),
		T(failed_beside),
		T(failed_flush_direct),
		T(in_part_ring),
		T(no_ring),
		T(in_part_threads),
		T(beyond_named),
		T(cut_off),
		T(left_locked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
