/*
 * fuzz_virtio_blk.c: arbitrary requests to a disk, cut into arbitrary pieces, several in flight, with resets, resizes and quiesce in
 * between. Every request that was taken is answered, nothing outside the disk changes, and after a reset the disk works.
 *
 * Input: byte 0 chooses the features, then records of 16 bytes {what, type, cut, pieces, length (4), sector (8)}.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../unit/device/vdriver.h"
#include "base/bytes.h"
#include "base/util.h"
#include "device/virtio.h"
#include "device/virtio_blk.h"

#define RECORD 16
#define MAX_RECORDS 64
#define SIZE 64
#define DISK (256u << 10)
#define HDR VD_DATA
#define STATUS (VD_DATA + 0x800)
#define BUF (VD_DATA + 0x1000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct virtio *virtio_of(struct device *dev)
{
	return container_of(dev, struct virtio, dev);
}

static uint32_t type_of(uint8_t b)
{
	static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 0, 1, 2, 14, 0x80000001};

	return types[b % ARRAY_SIZE(types)];
}

/* A chain of header, payload in some pieces, and status, of which any may be cut short, left out or of the wrong direction. */
static void submit(struct vdriver *d, const uint8_t *r, unsigned slot)
{
	uint32_t type = type_of(r[1]), len = get_le32(r + 4) & 0xffff;
	uint64_t sector = get_le64(r + 8), hdr = HDR + 16ull * slot;
	unsigned base = slot * 8, n = 0, pieces = 1 + r[3] % 4;
	uint16_t in = type == 0 || type == 8 ? VD_WRITE : 0;
	uint8_t h[16] = {0};

	if (r[2] & 0x10)
		in ^= VD_WRITE;
	if (!(r[2] & 0x20)) { /* mostly something that could be right */
		sector %= DISK / 512 + 8;
		len &= ~(type == 11 || type == 13 ? 15u : 511u);
	}
	put_le32(h, type);
	put_le64(h + 8, sector);
	space_write(d->space, gpa(hdr), h, sizeof(h));
	vd_desc(d, base + n, hdr, r[2] & 1 ? r[2] >> 1 : 16, VD_NEXT, (uint16_t)(base + n + 1));
	n++;
	for (unsigned i = 0; i < pieces; i++, n++)
		vd_desc(d, base + n, BUF + (uint64_t)slot * 0x1000 + i * (len / pieces),
			i == pieces - 1 ? len - i * (len / pieces) : len / pieces,
			(uint16_t)(VD_NEXT | in), (uint16_t)(base + n + 1));
	vd_desc(d, base + n, STATUS + slot, 1, r[2] & 2 && r[2] & 0x40 ? 0 : VD_WRITE, 0);
	/* Ranges for discard and zeroes. */
	if (type == 11 || type == 13) {
		uint8_t range[16];

		put_le64(range, sector);
		put_le32(range + 8, get_le32(r + 4) >> 16);
		put_le32(range + 12, r[3] >> 6);
		space_write(d->space, gpa(BUF + (uint64_t)slot * 0x1000), range, sizeof(range));
	}
	vd_submit(d, SIZE, (uint16_t)base);
}

static void step(struct vdriver *d, const uint8_t *r, uint64_t features)
{
	struct device *dev = d->dev;

	switch (r[0] % 16) {
	case 0:
		if (dev->cls->quiesce(dev, NULL) || virtio_of(dev)->open)
			abort();
		dev->cls->resume(dev);
		break;
	case 1:
		vd_start(d, features, SIZE);
		break;
	case 2:
		vd_write(d, 0x2000 + r[1] % 64, 1u << (r[2] & 3), get_le64(r + 8));
		break;
	case 3:
		vd_write(d, 0x14, 1, 0);
		uv_run(&d->loop, UV_RUN_NOWAIT);
		break;
	default:
		submit(d, r, r[0] / 16 % 8);
	}
}

/* Whatever came before: a reset, and a read answers. */
static void works(struct vdriver *d, uint64_t features)
{
	uint8_t r[RECORD] = {15, 0, 0, 0, 0, 2}, status = 0xff;

	vd_write(d, 0x14, 1, 0);
	while (vd_status(d))
		uv_run(&d->loop, UV_RUN_ONCE);
	vd_start(d, features, SIZE);
	space_fill(d->space, gpa(STATUS), 0xff, 1);
	submit(d, r, 0);
	while (!vd_used(d))
		uv_run(&d->loop, UV_RUN_ONCE);
	space_read(d->space, gpa(STATUS), &status, 1);
	if (status)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_blk_opts o = {
		.disk = {.format = "raw", .discard = true, .io = IO_THREADS}, .queues = 2};
	uint64_t features;
	struct vdriver d;
	struct device *dev;
	char path[40];
	int fd;

	if (size < 1)
		return 0;
	fd = memfd_create("disk", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, DISK))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	o.disk.path = path;
	o.disk.readonly = data[0] & 0x80;
	features = (data[0] & 1 ? 1ull << 9 : 0) | (data[0] & 2 ? 1ull << 11 : 0) |
		   (data[0] & 4 && !o.disk.readonly ? 3ull << 13 : 0) |
		   (data[0] & 8 ? 1ull << 29 : 0);
	vd_machine(&d);
	dev = vd_add(&d, "virtio-blk", "fuzzed", &o, 1);
	vd_start(&d, features, SIZE);
	for (size_t n = 0, at = 1; at + RECORD <= size && n < MAX_RECORDS; at += RECORD, n++)
		step(&d, data + at, features);
	works(&d, features);
	if (lseek(fd, 0, SEEK_END) != DISK)
		abort();
	vd_close(&d, &dev, 1);
	close(fd);
	return 0;
}
