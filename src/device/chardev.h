/*
 * chardev.h: a character channel between a device (UART, virtio-console) and the host side (terminal, log,
 * socket).
 *
 *	device --- chardev_write() --> [ out ring ] --> chardev_take() --- host side
 *	device <-- chardev_read() ---- [ in ring  ] <-- chardev_give() --- host side
 *
 * Nobody blocks. Each call moves what fits and returns how much; the ends are told when to go on:
 *
 *	front.input	bytes arrived for the device		(thread of chardev_give)
 *	front.room	out ring was full and has room now	(thread of chardev_take)
 *	back.output	out ring was empty and has bytes now	(thread of chardev_write: a vCPU thread that may hold device locks,
 *								so: wake somebody, e.g. uv_async_send, and return)
 *	back.room	in ring was full and has room now	(thread of chardev_read: likewise)
 *
 * Callbacks are made with no lock of the channel held, and may come once more than needed. A device that cannot
 * wait (UART) writes with chardev_write_lossy(), which overwrites the oldest bytes and counts them as lost.
 *
 * Threads: any, for everything but create, destroy and the two attach calls (before vCPUs run). One front and one
 * back end at most. The rings are no part of the machine's state: what was written is on its way to people.
 */
#ifndef LODGE_DEVICE_CHARDEV_H
#define LODGE_DEVICE_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

struct chardev;
struct err;

struct chardev_front {
	void (*input)(void *ctx);
	void (*room)(void *ctx);
	void *ctx;
};

struct chardev_back {
	void (*output)(void *ctx);
	void (*room)(void *ctx);
	void *ctx;
};

struct chardev_stat {
	uint64_t out_bytes, in_bytes, lost;
};

/* Ring sizes are rounded up to powers of two; 16 bytes to 16 MiB. */
int chardev_create(struct chardev **out, size_t out_ring, size_t in_ring, struct err *e);
void chardev_destroy(struct chardev *c);

/* Any callback may be NULL; a NULL argument detaches. */
void chardev_attach_front(struct chardev *c, const struct chardev_front *f);
void chardev_attach_back(struct chardev *c, const struct chardev_back *b);

/* The device's side. Return the number of bytes moved. */
size_t chardev_write(struct chardev *c, const void *buf, size_t len);
void chardev_write_lossy(struct chardev *c, const void *buf, size_t len);
size_t chardev_read(struct chardev *c, void *buf, size_t len);

/* The host's side. */
size_t chardev_take(struct chardev *c, void *buf, size_t len);
size_t chardev_give(struct chardev *c, const void *buf, size_t len);

void chardev_stat(struct chardev *c, struct chardev_stat *st);

#endif
