/*
 * disk-io: a disk under a script, for tests that compare with other programs.
 *
 *	disk-io create FORMAT PATH SIZE [KEY=VALUE]...	(backing=FILE:FORMAT names a backing file)
 *	disk-io run FORMAT PATH [readonly|discard|direct]... < SCRIPT
 *
 * Lines of a script; requests between `{` and `}` are in flight together, others alone:
 *	w OFF LEN PAT	write: the sector at byte N of the disk is filled with bytes (PAT + N / 512) % 251
 *	u OFF LEN PAT	the same, durable when done
 *	c OFF LEN PAT	the same, compressed
 *	z OFF LEN U	write zeroes, U = 1: may give space back
 *	d OFF LEN	discard
 *	f		flush
 *	s SIZE		resize
 *	x PATH		read everything, to a file
 *	k		end at once, as if killed
 *	S/D/A NAME	create, delete, apply a snapshot
 *	B/b NAME	add, remove a bitmap
 *	m NAME		prints what a bitmap records: one "OFF LEN" a line
 *	R 0|1		check; 1: and repair (disk opened with `force`)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "disk/tool.h"

struct request {
	struct disk_req r;
	struct iovec iov;
	char line[256];
};

static unsigned failures;

static void done(struct disk_req *r)
{
	struct request *q = container_of(r, struct request, r);

	if (r->result) {
		printf("%s: %s\n", q->line, strerror(-r->result));
		failures++;
	}
	free(q->iov.iov_base);
	free(q);
}

static char *pattern(unsigned long long off, unsigned long long len, unsigned pat)
{
	char *buf = aligned_alloc(4096, align_up(len, 4096) + 4096);

	for (unsigned long long i = 0; i < len; i++)
		buf[i] = (char)((pat + (off + i) / 512) % 251);
	return buf;
}

static void submit(struct disk *d, const char *line)
{
	struct request *q = calloc(1, sizeof(*q));
	unsigned long long off = 0, len = 0;
	unsigned arg = 0;
	char op;

	if (sscanf(line, "%c %llu %llu %u", &op, &off, &len, &arg) < 1)
		exit(2);
	snprintf(q->line, sizeof(q->line), "%s", line);
	q->r.offset = off;
	q->r.len = len;
	q->r.done = done;
	q->r.op = op == 'z'   ? DISK_WRITE_ZEROES
		  : op == 'd' ? DISK_DISCARD
		  : op == 'f' ? DISK_FLUSH
			      : DISK_WRITE;
	q->r.unmap = op == 'z' && arg;
	q->r.fua = op == 'u';
	if (q->r.op == DISK_WRITE) {
		q->iov = (struct iovec){pattern(off, len, arg), len};
		q->r.iov = &q->iov;
		q->r.niov = 1;
	}
	disk_submit(d, &q->r);
}

static void dump(struct disk *d, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	for (uint64_t off = 0; off < disk_size(d);) {
		struct request *q = calloc(1, sizeof(*q));
		uint64_t len = MIN(disk_size(d) - off, 1ull << 20);
		char *buf = malloc(len);
		struct iovec iov = {buf, len};

		snprintf(q->line, sizeof(q->line), "read %llu", (unsigned long long)off);
		q->r = (struct disk_req){.op = DISK_READ,
			.offset = off,
			.len = len,
			.iov = &iov,
			.niov = 1,
			.done = done};
		disk_submit(d, &q->r);
		disk_drain(d);
		if (pwrite(fd, buf, len, (off_t)off) != (ssize_t)len)
			exit(1);
		free(buf);
		off += len;
	}
	close(fd);
}

static void packed(struct disk *d, const char *line)
{
	unsigned long long off, len;
	struct err e = {0};
	unsigned pat;
	char *buf;

	if (sscanf(line, "c %llu %llu %u", &off, &len, &pat) != 3)
		exit(2);
	buf = pattern(off, len, pat);
	if (d->format->write_compressed(d, off, buf, len, &e)) {
		printf("%s: %s\n", line, err_msg(&e));
		failures++;
	}
	free(buf);
}

static void found(void *ctx, bool error, const char *text)
{
	printf("%s: %s\n", error ? "error" : "leak", text);
}

static void admin(struct disk *d, const char *line)
{
	static const enum disk_snap_op ops[] = {
		['S'] = DISK_SNAP_CREATE, ['D'] = DISK_SNAP_DELETE, ['A'] = DISK_SNAP_APPLY};
	struct disk_watch w = {.found = found};
	struct disk_check c = {0};
	struct err e = {0};
	int rc;

	if (*line == 'B' || *line == 'b')
		rc = d->format->bitmap(
			d, *line == 'B' ? DISK_BITMAP_ADD : DISK_BITMAP_REMOVE, line + 2, 4096, &e);
	else if (*line == 'R')
		rc = d->format->check(d, line[2] == '1', &w, &c, &e);
	else
		rc = d->format->snapshot(d, ops[(unsigned char)*line], line + 2, &e);
	if (*line == 'R')
		printf("errors %llu leaks %llu fixed %llu %llu\n", (unsigned long long)c.errors,
			(unsigned long long)c.leaks, (unsigned long long)c.fixed_errors,
			(unsigned long long)c.fixed_leaks);
	if (rc) {
		printf("%s: %s\n", line, err_msg(&e));
		failures++;
	}
}

static void changed(struct disk *d, const char *name)
{
	struct err e = {0};
	bool dirty;

	for (uint64_t off = 0, len; off < disk_size(d); off += len) {
		len = disk_size(d) - off;
		if (disk_bitmap_status(d, name, off, &len, &dirty, &e)) {
			printf("m %s: %s\n", name, err_msg(&e));
			failures++;
			return;
		}
		if (dirty)
			printf("%llu %llu\n", (unsigned long long)off, (unsigned long long)len);
	}
}

static int run(uv_loop_t *loop, int argc, char **argv)
{
	struct disk_opts o = {.format = argv[2], .path = argv[3], .loop = loop, .offline = true};
	bool together = false;
	struct err e = {0};
	struct disk *d;
	char line[256];

	for (int i = 4; i < argc; i++) {
		o.readonly |= !strcmp(argv[i], "readonly");
		o.discard |= !strcmp(argv[i], "discard");
		o.force |= !strcmp(argv[i], "force");
		if (!strcmp(argv[i], "direct"))
			o.cache = DISK_CACHE_NONE;
	}
	if (disk_open(&d, &o, &e)) {
		fprintf(stderr, "%s\n", err_msg(&e));
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (*line == '{' || *line == '}') {
			together = *line == '{';
		} else if (*line == 'x') {
			dump(d, line + 2);
		} else if (*line == 'c') {
			packed(d, line);
		} else if (*line == 'm') {
			changed(d, line + 2);
		} else if (*line == 'k') {
			_exit(failures != 0);
		} else if (*line && strchr("SDABbR", *line)) {
			disk_drain(d);
			admin(d, line);
		} else if (*line == 's') {
			if (disk_resize(d, strtoull(line + 2, NULL, 0), &e)) {
				printf("%s: %s\n", line, err_msg(&e));
				failures++;
			}
		} else if (*line) {
			submit(d, line);
		}
		if (!together)
			disk_drain(d);
	}
	disk_drain(d);
	disk_close(d);
	return failures != 0;
}

static int create(uv_loop_t *loop, int argc, char **argv)
{
	struct disk_kv kv[32] = {{0}};
	struct disk_create_opts o = {.path = argv[3], .kv = kv, .loop = loop, .overwrite = true};
	const struct disk_format *f = !strcmp(argv[2], "qcow2") ? &disk_qcow2 : &disk_raw;
	struct err e = {0};
	unsigned n = 0;

	o.size = strtoull(argv[4], NULL, 0);
	for (int i = 5; i < argc && n < 31; i++) {
		char *eq = strchr(argv[i], '='), *colon;

		if (!eq)
			return 2;
		*eq = 0;
		if (!strcmp(argv[i], "backing") && (colon = strrchr(eq + 1, ':'))) {
			*colon = 0;
			o.backing = eq + 1;
			o.backing_format = colon + 1;
			continue;
		}
		kv[n++] = (struct disk_kv){argv[i], eq + 1};
	}
	if (!f || !f->create || f->create(&o, &e)) {
		fprintf(stderr, "%s\n", err_msg(&e));
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uv_loop_t loop;
	int rc = 2;

	setvbuf(stdout, NULL, _IOLBF, 0);
	uv_loop_init(&loop);
	if (argc > 4 && !strcmp(argv[1], "create"))
		rc = create(&loop, argc, argv);
	else if (argc > 3 && !strcmp(argv[1], "run"))
		rc = run(&loop, argc, argv);
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	return rc;
}
