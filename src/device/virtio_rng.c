/*
 * virtio_rng.c: entropy (virtio 1.2, section 5.4). With a seed the bytes repeat from run to run; without, they are the
 * host kernel's.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/util.h"
#include "device/classes.h"
#include "device/virtio.h"

#define CHUNK_MAX 65536u /* of one request: the rest is left unwritten, which drivers must expect */
#define TURN_MAX (16 * CHUNK_MAX) /* of one turn of the event loop */

struct rng {
	struct virtio v;
	uint64_t state; /* of the seeded generator */
	uint64_t bytes;
};

/* splitmix64: statistically fine and repeatable; where secrets matter nobody sets a seed. */
static uint64_t next(struct rng *r)
{
	uint64_t z = (r->state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static void fill(struct rng *r, uint8_t *buf, size_t len)
{
	if (!r->v.dev.env->seed) {
		for (size_t at = 0; at < len;) {
			ssize_t n = getrandom(buf + at, len - at, 0);

			if (n > 0)
				at += (size_t)n;
		}
		return;
	}
	for (size_t at = 0; at < len; at += 8) {
		uint64_t w = next(r);

		memcpy(buf + at, &w, MIN(len - at, sizeof(w)));
	}
}

static void serve(struct virtio *v, unsigned q)
{
	struct rng *r = container_of(v, struct rng, v);
	struct vreq *req;

	for (unsigned sum = 0; (req = virtq_pop(v, q, 0));) {
		uint8_t buf[256];
		uint32_t done = 0;

		while (done < CHUNK_MAX && req->in_at < req->in_len) {
			size_t n = MIN(sizeof(buf), req->in_len - req->in_at);

			fill(r, buf, n);
			done += (uint32_t)vreq_write(req, buf, n);
		}
		r->bytes += done;
		vreq_done(req, done);
		sum += done;
		if (sum >= TURN_MAX) {
			virtio_kick(v, q);
			break;
		}
	}
	virtq_notify(v, q);
}

static const struct virtio_class rng_virtio = {
	.name = "virtio-rng", .id = 4, .pci_class = 0xff0000, .queue = serve};

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct rng *r = container_of(d, struct rng, v.dev);

	r->state = d->env->seed;
	return virtio_realize(&r->v, &rng_virtio, 1, 0, NULL, 0, e);
}

static const struct state_field fields[] = {
	STATE_STRUCT(struct rng, v, &virtio_state, struct virtio, 1),
	STATE_U64(struct rng, state, 1),
	STATE_END,
};
static const struct state_desc state = {.type = "virtio-rng", .version = 1, .fields = fields};

const struct device_class virtio_rng_class = {
	.name = "virtio-rng",
	.help = "entropy for the guest",
	.size = sizeof(struct rng),
	.realize = realize,
	.unrealize = virtio_device_unrealize,
	.reset = virtio_device_reset,
	.quiesce = virtio_device_quiesce,
	.resume = virtio_device_resume,
	.state = &state,
	.describe = virtio_device_describe,
	.stats = virtio_device_stats,
};
