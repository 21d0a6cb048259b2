/*
 * virtio_console.c: one console port on a character channel (virtio 1.2, section 5.3; no multiport).
 *
 *   driver --transmit queue--> chardev_write_lossy()      chardev --receive queue--> driver
 *
 * The channel's callbacks come from other threads and only ring the doorbell; the work is done in the event loop.
 */
#include "device/virtio_console.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/chardev.h"
#include "device/classes.h"
#include "device/virtio.h"

enum { RX, TX, QUEUES };
#define F_SIZE 1ull
#define PENDING 4096u
#define REQUEST_MAX \
	(1u << 20) /* of one request, more is lost (drivers send pages); then others have their turn */

struct console_dev {
	struct virtio v;
	struct chardev *chardev;
	uint8_t config[12]; /* cols, rows, max_nr_ports, emerg_wr */
	uint8_t pending[PENDING]; /* taken from the channel, no buffer of the driver for it yet */
	uint32_t npending;
	uint64_t tx_bytes, rx_bytes;
};

static void transmit(struct console_dev *c)
{
	struct vreq *r;

	for (uint64_t sum = 0; (r = virtq_pop(&c->v, TX, 0));) {
		char buf[1024];
		size_t n;

		while (r->out_at < REQUEST_MAX && (n = vreq_read(r, buf, sizeof(buf)))) {
			c->tx_bytes += n;
			if (c->chardev)
				chardev_write_lossy(c->chardev, buf, n);
		}
		sum += r->out_at;
		vreq_done(r, 0);
		if (sum >= REQUEST_MAX) {
			virtio_kick(&c->v, TX);
			break;
		}
	}
	virtq_notify(&c->v, TX);
}

static void receive(struct console_dev *c)
{
	struct vreq *r;

	while (c->chardev) {
		size_t n;

		if (c->npending < PENDING)
			c->npending += (uint32_t)chardev_read(
				c->chardev, c->pending + c->npending, PENDING - c->npending);
		if (!c->npending)
			break;
		r = virtq_pop(&c->v, RX, 0);
		if (!r)
			break;
		n = vreq_write(r, c->pending, c->npending);
		vreq_done(r, (uint32_t)n);
		memmove(c->pending, c->pending + n, c->npending - n);
		c->npending -= (uint32_t)n;
		c->rx_bytes += n;
	}
	virtq_notify(&c->v, RX);
}

static void serve(struct virtio *v, unsigned q)
{
	struct console_dev *c = container_of(v, struct console_dev, v);

	if (q == TX)
		transmit(c);
	else
		receive(c);
}

static void input(void *ctx)
{
	struct console_dev *c = ctx;

	virtio_kick(&c->v, RX);
}

static const struct virtio_class console_virtio = {
	.name = "virtio-console", .id = 3, .pci_class = 0x078000, .queue = serve};

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct console_dev *c = container_of(d, struct console_dev, v.dev);
	const struct virtio_console_opts *o = opts;
	int rc;

	c->chardev = o->chardev;
	put_le16(c->config, 80);
	put_le16(c->config + 2, 25);
	put_le32(c->config + 4, 1);
	rc = virtio_realize(
		&c->v, &console_virtio, QUEUES, F_SIZE, c->config, sizeof(c->config), e);
	if (!rc && c->chardev)
		chardev_attach_front(c->chardev, &(struct chardev_front){.input = input, .ctx = c});
	return rc;
}

static void unrealize(struct device *d)
{
	struct console_dev *c = container_of(d, struct console_dev, v.dev);

	if (c->chardev)
		chardev_attach_front(c->chardev, NULL);
	virtio_unrealize(&c->v);
}

static void reset(struct device *d)
{
	container_of(d, struct console_dev, v.dev)->npending = 0;
	virtio_device_reset(d);
}

static const struct state_field fields[] = {
	STATE_STRUCT(struct console_dev, v, &virtio_state, struct virtio, 1),
	STATE_BYTES(struct console_dev, pending, 1),
	STATE_U32(struct console_dev, npending, 1),
	STATE_END,
};

static int post_load(void *obj, unsigned version, struct err *e)
{
	struct console_dev *c = obj;

	return c->npending <= PENDING
		       ? 0
		       : err_set(e, -EINVAL, "%s: npending %u", c->v.dev.id, c->npending);
}

static const struct state_desc state = {
	.type = "virtio-console", .version = 1, .fields = fields, .post_load = post_load};

const struct device_class virtio_console_class = {
	.name = "virtio-console",
	.help = "a console without the slowness of a serial port",
	.size = sizeof(struct console_dev),
	.realize = realize,
	.unrealize = unrealize,
	.reset = reset,
	.quiesce = virtio_device_quiesce,
	.resume = virtio_device_resume,
	.state = &state,
	.describe = virtio_device_describe,
	.stats = virtio_device_stats,
};
