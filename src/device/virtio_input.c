/*
 * virtio_input.c: a keyboard with one key: power (virtio 1.2, section 5.8). Debian's logind watches every input device that
 * udev calls a key device, and powers off when it is pressed; so this is the machine's power button.
 */
#include "device/virtio_input.h"

#include <errno.h>
#include <linux/input.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/classes.h"
#include "device/virtio.h"

enum { EVENTS, STATUS, QUEUES };

/* Selectors of the configuration. */
enum { SEL_UNSET, SEL_NAME, SEL_SERIAL, SEL_DEVIDS, SEL_PROPS = 0x10, SEL_EV_BITS };

struct config {
	uint8_t select, subsel, size, reserved[5];
	uint8_t data[128];
};

/* What a press is made of: down, sync, up, sync. */
static const struct {
	uint16_t type, code;
	uint32_t value;
} press[] = {{EV_KEY, KEY_POWER, 1}, {EV_SYN, SYN_REPORT, 0}, {EV_KEY, KEY_POWER, 0},
	{EV_SYN, SYN_REPORT, 0}};

struct input {
	struct virtio v;
	struct config cfg;
	uint32_t to_send; /* events of presses that the driver has no buffer for yet */
};

static void set_bit(struct input *in, unsigned bit)
{
	in->cfg.data[bit / 8] |= (uint8_t)(1u << (bit % 8));
	in->cfg.size = MAX(in->cfg.size, (uint8_t)(bit / 8 + 1));
}

static void answer(struct virtio *v, unsigned off, unsigned len)
{
	struct input *in = container_of(v, struct input, v);
	struct config *c = &in->cfg;

	c->size = 0;
	memset(c->data, 0, sizeof(c->data));
	switch (c->select) {
	case SEL_NAME:
		c->size = sizeof("Lodge power button") - 1;
		memcpy(c->data, "Lodge power button", c->size);
		break;
	case SEL_DEVIDS:
		c->size = 8;
		put_le16(c->data, BUS_VIRTUAL);
		put_le16(c->data + 2, 0x1af4);
		put_le16(c->data + 4, 1);
		put_le16(c->data + 6, 1);
		break;
	case SEL_EV_BITS:
		if (c->subsel == EV_KEY)
			set_bit(in, KEY_POWER);
		break;
	}
}

static void send_events(struct input *in)
{
	struct vreq *r;

	while (in->to_send && (r = virtq_pop(&in->v, EVENTS, 0))) {
		unsigned i = (ARRAY_SIZE(press) - in->to_send % ARRAY_SIZE(press)) %
			     ARRAY_SIZE(press);
		uint8_t ev[8];

		put_le16(ev, press[i].type);
		put_le16(ev + 2, press[i].code);
		put_le32(ev + 4, press[i].value);
		vreq_done(r, (uint32_t)vreq_write(r, ev, sizeof(ev)));
		in->to_send--;
	}
	virtq_notify(&in->v, EVENTS);
}

static void serve(struct virtio *v, unsigned q)
{
	struct input *in = container_of(v, struct input, v);
	struct vreq *r;

	if (q == EVENTS) {
		send_events(in);
		return;
	}
	/* Lamps: there are none. */
	while ((r = virtq_pop(v, STATUS, 0)))
		vreq_done(r, 0);
	virtq_notify(v, STATUS);
}

static void stopped(struct virtio *v)
{
	container_of(v, struct input, v)->to_send = 0;
}

int virtio_input_power(struct device *d, struct err *e)
{
	struct input *in = container_of(d, struct input, v.dev);
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	if (!virtq_ready(&in->v, EVENTS)) {
		rc = err_set(e, -ENOTCONN,
			"the guest has no driver for the power button (virtio_input) yet: wait, or "
			"kill the machine");
	} else if (in->to_send < 64) {
		in->to_send += ARRAY_SIZE(press);
		send_events(in);
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static const struct virtio_class input_virtio = {.name = "virtio-input",
	.id = 18,
	.pci_class = 0x098000,
	.queue = serve,
	.config_written = answer,
	.stopped = stopped};

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct input *in = container_of(d, struct input, v.dev);

	return virtio_realize(&in->v, &input_virtio, QUEUES, 0, &in->cfg, sizeof(in->cfg), e);
}

static const struct state_field fields[] = {
	STATE_STRUCT(struct input, v, &virtio_state, struct virtio, 1),
	STATE_BYTES(struct input, cfg, 1),
	STATE_U32(struct input, to_send, 1),
	STATE_END,
};
static const struct state_desc state = {.type = "virtio-input", .version = 1, .fields = fields};

const struct device_class virtio_input_class = {
	.name = "virtio-input",
	.help = "the power button, as a keyboard with that key",
	.size = sizeof(struct input),
	.realize = realize,
	.unrealize = virtio_device_unrealize,
	.reset = virtio_device_reset,
	.quiesce = virtio_device_quiesce,
	.resume = virtio_device_resume,
	.state = &state,
	.describe = virtio_device_describe,
	.stats = virtio_device_stats,
	.power_button = virtio_input_power,
};
