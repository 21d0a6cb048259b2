/*
 * disk-failures: a disk whose host fails, under a script that makes it fail (tests/system/disk-failures.py).
 *
 *	disk-failures FORMAT PATH report|pause|ignore [direct] [KEY=VALUE]
 *
 * One line is one step, and is answered by one line: "ok", "error N", "held" (the policy is pause), "differs AT".
 *	w OFF LEN PAT	write: the sector at byte N is filled with bytes (PAT + N / 512) % 251
 *	r OFF LEN PAT	read, and compare with that
 *	z OFF LEN PAT	zeroes; d OFF LEN PAT: discard (PAT is not looked at)
 *	f		flush
 *	retry		what is held once more; fail: reports it
 *	limit BYTES	RLIMIT_FSIZE of this process from now on; 0: none
 *	S FROM TO	snapshots of these numbers
 * The end of the input closes the disk.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/tool.h"

struct request {
	struct disk_req r;
	struct iovec iov;
	uint8_t *buf;
	bool done;
};

struct run {
	struct disk *d;
	uv_loop_t loop;
	struct request *stuck; /* it is held */
	bool held;
};

static void on_done(struct disk_req *r)
{
	container_of(r, struct request, r)->done = true;
}

static void on_failed(void *ctx, const struct disk_req *r)
{
	(void)r;
	((struct run *)ctx)->held = true;
}

static void fill(uint8_t *buf, uint64_t off, uint64_t len, unsigned pat)
{
	for (uint64_t i = 0; i < len; i += 512)
		memset(buf + i, (int)((pat + (off + i) / 512) % 251), 512);
}

static void compare(const uint8_t *buf, uint64_t off, uint64_t len, unsigned pat);

/* Says what has become of it. */
static void wait_for(struct run *run, struct request *q, unsigned pat)
{
	while (!q->done && !run->held)
		uv_run(&run->loop, UV_RUN_ONCE);
	if (!q->done) {
		run->stuck = q;
		puts("held");
		return;
	}
	if (q->r.result)
		printf("error %d\n", -q->r.result);
	else if (q->r.op == DISK_READ)
		compare(q->buf, q->r.offset, q->r.len, pat);
	else
		puts("ok");
	free(q->buf);
	free(q);
}

static void submit(struct run *run, enum disk_op op, uint64_t off, uint64_t len, unsigned pat)
{
	struct request *q = calloc(1, sizeof(*q));

	if (!q || len > 64 * MiB || posix_memalign((void **)&q->buf, 4096, len ?: 512))
		exit(3);
	if (op == DISK_WRITE)
		fill(q->buf, off, len, pat);
	run->held = false;
	q->iov = (struct iovec){q->buf, len};
	q->r = (struct disk_req){.op = op,
		.offset = off,
		.len = len,
		.iov = &q->iov,
		.niov = op == DISK_READ || op == DISK_WRITE ? 1 : 0,
		.done = on_done};
	disk_submit(run->d, &q->r);
	wait_for(run, q, pat);
}

static void compare(const uint8_t *buf, uint64_t off, uint64_t len, unsigned pat)
{
	uint8_t want[512];

	for (uint64_t i = 0; i < len; i += 512) {
		fill(want, off + i, 512, pat);
		if (memcmp(buf + i, want, 512)) {
			printf("differs %" PRIu64 "\n", off + i);
			return;
		}
	}
	puts("ok");
}

static void snapshots(struct run *run, uint64_t from, uint64_t to)
{
	struct err e = {0};
	char name[32];

	for (uint64_t i = from; i < to; i++) {
		snprintf(name, sizeof(name), "s%" PRIu64, i);
		if (disk_snapshot(run->d, DISK_SNAP_CREATE, name, &e)) {
			printf("error at %" PRIu64 ": %s\n", i, err_msg(&e));
			return;
		}
	}
	puts("ok");
}

static void again(struct run *run, bool retry)
{
	struct request *q = run->stuck;

	run->stuck = NULL;
	run->held = false;
	if (retry)
		disk_retry(run->d);
	else
		disk_fail_held(run->d);
	if (q)
		wait_for(run, q, 0);
	else
		puts("nothing is held");
}

static void step(struct run *run, const char *line)
{
	uint64_t off = 0, len = 0;
	unsigned pat = 0;

	if (sscanf(line, "limit %" SCNu64, &off) == 1) {
		struct rlimit l = {off ?: RLIM_INFINITY, RLIM_INFINITY};

		puts(setrlimit(RLIMIT_FSIZE, &l) ? "error" : "ok");
	} else if (!strncmp(line, "retry", 5) || !strncmp(line, "fail", 4)) {
		again(run, *line == 'r');
	} else if (*line == 'f') {
		submit(run, DISK_FLUSH, 0, 0, 0);
	} else if (sscanf(line, "S %" SCNu64 " %" SCNu64, &off, &len) == 2) {
		snapshots(run, off, len);
	} else if (sscanf(line, "%*c %" SCNu64 " %" SCNu64 " %u", &off, &len, &pat) == 3) {
		submit(run,
			*line == 'w'   ? DISK_WRITE
			: *line == 'z' ? DISK_WRITE_ZEROES
			: *line == 'd' ? DISK_DISCARD
				       : DISK_READ,
			off, len, pat);
	} else {
		puts("what?");
	}
	fflush(stdout);
}

static void on_lost(void *ctx, int why)
{
	(void)ctx;
	printf("lost %d\n", -why);
}

static void on_bitmap_lost(void *ctx, const struct err *what)
{
	(void)ctx;
	puts(err_msg(what));
}

int main(int argc, char **argv)
{
	struct run run = {0};
	struct disk_kv kv[2] = {{0}};
	struct disk_opts o = {.loop = &run.loop, .discard = true, .kv = kv};
	struct err e = {0};
	char line[256];

	if (argc < 4)
		return 2;
	signal(SIGXFSZ, SIG_IGN);
	uv_loop_init(&run.loop);
	o.format = argv[1];
	o.path = argv[2];
	o.on_error = !strcmp(argv[3], "pause")	  ? DISK_ERROR_PAUSE
		     : !strcmp(argv[3], "ignore") ? DISK_ERROR_IGNORE
						  : DISK_ERROR_REPORT;
	for (int i = 4; i < argc; i++) {
		char *v = strchr(argv[i], '=');

		if (!v) {
			o.cache = DISK_CACHE_NONE;
			continue;
		}
		*v++ = 0;
		kv[0] = (struct disk_kv){argv[i], v};
	}
	o.client = (struct disk_client){
		.failed = on_failed, .lost = on_lost, .bitmap_lost = on_bitmap_lost, .ctx = &run};
	if (disk_open(&run.d, &o, &e)) {
		printf("open: %s\n", err_msg(&e));
		return 1;
	}
	puts("open");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		step(&run, line);
	disk_close(run.d);
	uv_run(&run.loop, UV_RUN_DEFAULT);
	return 0;
}
