/*
 * fuzz_virtqueue.c: a hostile driver: arbitrary rings, descriptors, features and register writes on each kind of device, with the doorbell
 * rung in between. Never a crash, a hang, an access outside RAM, or a request that is lost; after a reset the device works.
 *
 * Input: byte 0 chooses the device, then records of 8 bytes {what, index, value (6)}.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "../unit/device/vdriver.h"
#include "../unit/net/fake_net.h"
#include "base/bytes.h"
#include "base/util.h"
#include "device/virtio.h"
#include "device/virtio_balloon.h"
#include "device/virtio_console.h"
#include "device/virtio_net.h"

#define RECORD 8
#define MAX_RECORDS 256
#define SIZE 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Guest addresses that are interesting: inside, at the edges, outside, in the rings themselves. */
static uint64_t address(uint64_t v)
{
	switch (v >> 44 & 7) {
	case 0:
		return VD_RAM + VD_RAM_LEN - (v & 0xff);
	case 1:
		return v << 16;
	case 2:
		return VD_DESC + (v & 0x1ff);
	case 3:
		return VD_USED + (v & 0xff);
	default:
		return VD_DATA + (v & 0xffff);
	}
}

/* What comes from elsewhere while the driver misbehaves: frames, and wishes of the balloon. */
static void outside(struct vdriver *d, struct fake_net *net, uint64_t v)
{
	static const uint8_t frame[NET_HDR + 3000];

	if (net->b.front.receive)
		net_deliver(&net->b, frame, NET_HDR + 14 + (v & 0x7ff));
	if (d->dev->cls->stats) {
		json_t *j = json_object();

		d->dev->cls->stats(d->dev, j);
		json_decref(j);
	}
	virtio_balloon_set(d->dev, v & (VD_RAM_LEN - 1), NULL);
}

static void step(struct vdriver *d, struct fake_net *net, const uint8_t *rec)
{
	uint64_t v = (uint64_t)get_le32(rec + 2) | (uint64_t)get_le16(rec + 6) << 32;
	unsigned i = rec[1];

	switch (rec[0] % 11) {
	case 0:
	case 1:
	case 2:
		vd_desc(d, i % SIZE, address(v), (uint32_t)(v & 0x8000 ? v : v & 0xfff),
			(uint16_t)(v >> 40 & 7), (uint16_t)(i / SIZE));
		break;
	case 3:
		vd_desc_at(d, VD_DATA, i % 32, address(v), (uint32_t)v & 0xffff,
			(uint16_t)(v >> 40 & 7), (uint16_t)(i / 8));
		break;
	case 4:
	case 5:
		vd_submit(d, SIZE, (uint16_t)(i % (SIZE + 1)));
		break;
	case 6:
		space_store16(d->space, gpa(VD_AVAIL + (i & 62)), (uint16_t)v);
		vd_bell(d, i % 3);
		break;
	case 7:
		vd_write(d, (unsigned)(v >> 8) % 0x4000, 1u << (i & 3), v);
		break;
	case 8:
		vd_queue(d, i % 4, (uint16_t)(1u << (i / 16 % 16)), address(v) & ~15ull,
			address(v >> 3) & ~1ull, address(v >> 5) & ~3ull);
		break;
	case 9:
		vd_start(d, v & 1 ? 0 : 3ull << 28 | (v >> 8 & 0xffffff), SIZE);
		break;
	case 10:
		outside(d, net, v);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const classes[] = {
		"virtio-rng", "virtio-input", "virtio-console", "virtio-net", "virtio-balloon"};
	struct virtio_console_opts console = {NULL};
	struct virtio_net_opts card = {.mac = {0x52}};
	const void *opts[] = {NULL, NULL, &console, &card, NULL};
	struct fake_net *net = malloc(sizeof(*net));
	unsigned which;
	struct vdriver d;
	struct device *dev;
	struct virtio *v;
	unsigned n = 0;

	if (size < 1 || !net) {
		free(net);
		return 0;
	}
	which = data[0] % ARRAY_SIZE(classes);
	fake_init(net, NET_OFF_CSUM | NET_OFF_TSO4, NET_OFF_CSUM | NET_OFF_TSO4);
	card.net = &net->b;
	vd_machine(&d);
	dev = vd_add(&d, classes[which], "fuzzed", opts[which], 1);
	vd_start(&d, 3ull << 28, SIZE);
	for (size_t at = 1; at + RECORD <= size && n < MAX_RECORDS; at += RECORD, n++)
		step(&d, net, data + at);
	v = container_of(dev, struct virtio, dev);
	if (v->open)
		abort(); /* these devices answer at once: a request was lost */
	vd_start(&d, 0, SIZE);
	if (vd_status(&d) != 0xf)
		abort();
	vd_close(&d, &dev, 1);
	free(net);
	return 0;
}
