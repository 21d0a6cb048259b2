/*
 * disk_bench.c: one pattern of requests on a disk, without a guest: what bench/disk compares with `qemu-img bench`.
 *
 *	disk_bench FILE:FORMAT read|write [count=N] [size=BYTES] [depth=N] [step=BYTES] [random=SEED] [flush=N] [cache=none] [io=threads]
 *	           [buffers=one] [memory=tools] [sorter=off]
 *
 * The places are 0, step, 2 * step ... modulo the disk's size, as qemu-img's are, or random ones. Each request that is in flight has memory of its
 * own; with buffers=one they share it, as qemu-img's do: what is hot in the CPU's cache is cheaper to fill. memory=tools: such as `lodge disk convert` has
 * (pages.h, disk_memory()). Prints one JSON object.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/pages.h"
#include "base/util.h"
#include "disk/tool.h"

struct bench {
	struct disk *d;
	enum disk_op op;
	uint64_t count, size, depth, step, random, flush;
	uint64_t sent, done, writes, at, errors;
	bool flushing, one_buffer, tools;
};

struct slot {
	struct disk_req r;
	struct iovec iov;
	struct bench *b;
};

static void next(struct slot *s);

static void on_done(struct disk_req *r)
{
	struct slot *s = container_of(r, struct slot, r);

	s->b->errors += r->result != 0;
	s->b->done += r->op != DISK_FLUSH;
	next(s);
}

static uint64_t place(struct bench *b)
{
	uint64_t slots = b->d->size / b->size, at = b->at;

	if (b->random) {
		b->random ^= b->random << 13;
		b->random ^= b->random >> 7;
		b->random ^= b->random << 17;
		return b->random % slots * b->size;
	}
	b->at = (at + b->step) % b->d->size;
	if (b->at > b->d->size - b->size)
		b->at = 0;
	return at;
}

static void next(struct slot *s)
{
	struct bench *b = s->b;
	bool flush = b->flush && b->writes && b->writes % b->flush == 0 && !b->flushing;

	if (b->sent == b->count)
		return;
	b->flushing = flush;
	s->r = (struct disk_req){.op = flush ? DISK_FLUSH : b->op, .done = on_done};
	if (!flush) {
		s->r.offset = place(b);
		s->r.len = b->size;
		s->r.iov = &s->iov;
		s->r.niov = 1;
		b->sent++;
		b->writes++;
	}
	disk_submit(b->d, &s->r);
}

static double cpu(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void go(struct bench *b)
{
	struct slot *slot = calloc(b->depth, sizeof(*slot));
	uint64_t memory = b->one_buffer ? b->size : b->depth * b->size;
	json_t *stats = json_object();
	double c0, cpu_s, s;
	uint64_t t0;
	char *mem;

	/* Aligned and no more, as qemu-img's is; or what Lodge's own tools use. */
	mem = b->tools ? pages_alloc(memory) : aligned_alloc(4096, align_up(memory, 4096));
	if (!mem)
		exit(1);
	memset(mem, 0x5a, memory);
	if (b->tools)
		disk_memory(b->d, &(struct iovec){mem, memory});
	t0 = clock_mono_ns();
	c0 = cpu();
	for (uint64_t i = 0; i < b->depth; i++) {
		slot[i] = (struct slot){.iov = {mem + i * b->size % memory, b->size}, .b = b};
		next(&slot[i]);
	}
	while (b->done < b->count)
		uv_run(b->d->o.loop, UV_RUN_ONCE);
	s = (double)(clock_mono_ns() - t0) / 1e9;
	cpu_s = cpu() - c0;
	/* Not timed, as with qemu-img: whoever works on the image next does not wait for our dirty pages. */
	disk_drain(b->d);
	disk_rw(b->d, DISK_FLUSH, 0, NULL, 0, NULL);
	disk_format_stats(b->d, stats);
	json_dumpf(json_pack("{s:f, s:f, s:f, s:f, s:I, s:o}", "seconds", s, "iops",
			   (double)b->count / s, "mib_s",
			   (double)(b->count * b->size) / s / (double)MiB, "cpu_us_per_op",
			   cpu_s * 1e6 / (double)b->count, "errors", (json_int_t)b->errors, "stats",
			   stats),
		stdout, JSON_REAL_PRECISION(6));
	putchar('\n');
	if (b->tools)
		disk_memory(b->d, NULL);
	/* The process ends. */
	free(slot);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t v = strtoull(text, &end, 10);

	return *end == 'k' ? v * KiB : *end == 'm' ? v * MiB : *end == 'g' ? v * GiB : v;
}

int main(int argc, char **argv)
{
	struct bench b = {.op = DISK_READ, .count = 10000, .size = 4096, .depth = 64};
	struct disk_kv kv[2] = {{0}};
	struct disk_opts o = {.kv = kv, .discard = true};
	struct err e = {0};
	char *path;
	uv_loop_t loop;

	if (argc < 3 || disk_split_name(argv[1], &path, &o.format, &e)) {
		fprintf(stderr, "disk_bench FILE:FORMAT read|write KEY=VALUE...: %s\n",
			err_msg(&e));
		return 2;
	}
	b.op = strcmp(argv[2], "write") ? DISK_READ : DISK_WRITE;
	for (int i = 3; i < argc; i++) {
		char *v = strchr(argv[i], '=');

		if (!v)
			return 2;
		*v++ = 0;
		if (!strcmp(argv[i], "count"))
			b.count = number(v);
		else if (!strcmp(argv[i], "size"))
			b.size = number(v);
		else if (!strcmp(argv[i], "depth"))
			b.depth = number(v);
		else if (!strcmp(argv[i], "step"))
			b.step = number(v);
		else if (!strcmp(argv[i], "random"))
			b.random = number(v);
		else if (!strcmp(argv[i], "flush"))
			b.flush = number(v);
		else if (!strcmp(argv[i], "buffers"))
			b.one_buffer = !strcmp(v, "one");
		else if (!strcmp(argv[i], "memory"))
			b.tools = !strcmp(v, "tools");
		else if (!strcmp(argv[i], "cache"))
			o.cache = !strcmp(v, "none") ? DISK_CACHE_NONE : DISK_CACHE_WRITEBACK;
		else if (!strcmp(argv[i], "io"))
			o.io = !strcmp(v, "threads") ? IO_THREADS : IO_AUTO;
		else
			kv[0] = (struct disk_kv){argv[i], v};
	}
	b.step = b.step ?: b.size;
	uv_loop_init(&loop);
	o.path = path;
	o.loop = &loop;
	if (disk_open(&b.d, &o, &e)) {
		fprintf(stderr, "disk_bench: %s\n", err_msg(&e));
		return 1;
	}
	go(&b);
	disk_close(b.d);
	uv_run(&loop, UV_RUN_DEFAULT);
	return b.errors != 0;
}
