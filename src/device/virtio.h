/*
 * virtio.h: what every virtio device is made of: the one virtqueue walker (decision D7) and the PCI transport.
 *
 *   guest driver --doorbell (vCPU thread, no lock)--> async --event loop, device lock--> class->queue(v, n)
 *                                                                                         |
 *        virtq_pop() --> struct vreq --> device works, maybe asynchronously --> vreq_done() --> used ring, MSI-X
 *
 * No device touches a ring. A request that was popped has one way to end: vreq_done(); the device cannot be reset, saved or destroyed while
 * one is open, which is checked. What a request says (headers) is copied out of guest memory once by vreq_read(); payload is in
 * iovecs whose guest addresses were checked when it was popped.
 *
 * A ring that makes no sense (loops, descriptors outside RAM, an index that jumps ...) breaks the device: it sets DEVICE_NEEDS_RESET,
 * tells the driver by a configuration interrupt, reports it, and pops nothing more until the driver resets it. Nothing else in the machine is
 * touched.
 *
 * A driver that never stops adding requests does not keep the event loop: virtq_pop() ends each turn of a queue after
 * VIRTIO_TURN of them, and rings the doorbell for the rest. What one request may cost is the class's to bound. Nor do thousands of open
 * requests of a thousand pieces each eat the host's memory: above VIRTIO_HELD_MAX nothing is popped until some are done.
 *
 * Reset by the driver while requests are open: the status register keeps reading non-zero until the last one is done
 * (virtio 1.2, section 2.4 and 4.1.4.3: the driver waits for 0).
 *
 * Threads: class functions and everything here run in the event loop thread with the device's lock held, but register
 * accesses, which come in vCPU threads with the lock held too; virtio_kick() is for any thread.
 *
 * Offered by all: VERSION_1, INDIRECT_DESC, EVENT_IDX. Split rings only. Source: Virtual I/O Device (VIRTIO) 1.2, OASIS.
 */
#ifndef LODGE_DEVICE_VIRTIO_H
#define LODGE_DEVICE_VIRTIO_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "bus/pci.h"
#include "device/device.h"
#include "memory/addr.h"

#define VIRTIO_QUEUES 32 /* of one device, at most */
#define VIRTIO_QUEUE_SIZE 1024u
#define VIRTIO_CHAIN_MAX 1024u /* descriptors in one request */
#define VIRTIO_TURN 256u /* requests that one queue pops in one turn of the event loop */
#define VIRTIO_HELD_MAX (16u << 20) /* bytes of host memory behind a device's open requests */
#define VIRTIO_NO_VECTOR 0xffffu

#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

struct virtio;
struct virtio_doorbell;

struct virtio_class {
	const char *name; /* of the device class */
	uint16_t id; /* virtio 1.2, chapter 5 */
	uint32_t pci_class; /* 24 bits */
	uint32_t
		unwritten; /* queues, a bit each, that only name what is writable: it is not announced as written */
	/* The driver rang, or the device was started: pop and work. */
	void (*queue)(struct virtio *v, unsigned q);
	/* The driver wrote [off, off+len) of the configuration. May be NULL: read-only. */
	void (*config_written)(struct virtio *v, unsigned off, unsigned len);
	/* DRIVER_OK with v->features final; and back to reset state (no request is open). May be NULL. */
	void (*started)(struct virtio *v);
	void (*stopped)(struct virtio *v);
};

struct virtq {
	uint16_t size; /* chosen by the driver; power of two */
	uint16_t vector;
	bool enabled;
	uint64_t desc, avail, used;
	uint16_t next_avail; /* next entry of the avail ring to take */
	uint16_t used_idx; /* next entry of the used ring to fill */
	uint16_t signalled; /* used_idx when the driver was last told */
	bool signalled_valid;
	bool pending_notify; /* something was added since */
	unsigned open; /* requests popped and not done */
	_Atomic bool kicked; /* any thread */
};

/* Embedded first in each virtio device. */
struct virtio {
	struct device dev;
	struct pci_func pci;
	const struct virtio_class *cls;
	uint64_t offered, features;
	uint8_t status, isr, config_generation;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select, config_vector;
	uint8_t *config; /* device-specific configuration, little-endian */
	unsigned config_len;
	struct virtq q[VIRTIO_QUEUES];
	unsigned nq;
	bool resetting; /* status was written 0 while requests were open */
	bool quiesced;
	bool in_turn; /* in class->queue() */
	unsigned turn; /* requests that it may still pop */
	size_t held; /* bytes behind open requests */
	uint32_t starved; /* queues that were not popped from because of it */
	unsigned open; /* over all queues */
	unsigned cfg_cap; /* offset of the configuration access capability */
	struct virtio_doorbell *bell;
	uint64_t requests, kicks, interrupts, broken; /* statistics */
};

/* One request. `out` is what the driver wrote for the device, `in` what it wants filled. */
struct vreq {
	struct virtio *v;
	unsigned queue;
	uint16_t head;
	size_t held; /* bytes of this object */
	unsigned nout, nin; /* iovecs */
	uint64_t out_len, in_len;
	struct iovec *out, *in;
	uint64_t out_at, in_at; /* cursors of vreq_read() and vreq_write() */
	void *data; /* `extra` bytes of the device's own, zeroed */
	struct vseg {
		gpa_t gpa;
		uint64_t len;
	} * segs; /* guest addresses behind `in` */
	unsigned nsegs;
};

/* `config` (of the device, constant address) and nq queues; adds `offered` to the common features. */
int virtio_realize(struct virtio *v, const struct virtio_class *cls, unsigned nq, uint64_t offered,
	void *config, unsigned config_len, struct err *e);
void virtio_unrealize(struct virtio *v);
/* Power-on state; no request may be open. For device_class.reset. */
void virtio_reset(struct virtio *v);
/* Stops popping; true when no request is open. For device_class.quiesce, which first drains its back end. */
bool virtio_quiesce(struct virtio *v);
/* Pops again, and looks at every queue. For device_class.resume. */
void virtio_resume(struct virtio *v);
extern const struct state_desc virtio_state; /* object: struct virtio */
void virtio_describe(struct virtio *v, struct json_t *into);
void virtio_stats(struct virtio *v, struct json_t *into);

/* Entries of a device class that has nothing of its own to add; a class whose struct begins with struct virtio may name them. */
void virtio_device_unrealize(struct device *d);
void virtio_device_reset(struct device *d);
int virtio_device_quiesce(struct device *d, struct err *e); /* -EBUSY when a request is open */
void virtio_device_resume(struct device *d);
void virtio_device_describe(struct device *d, struct json_t *into);
void virtio_device_stats(struct device *d, struct json_t *into);

static inline bool virtio_has(const struct virtio *v, uint64_t feature)
{
	return (v->features & feature) == feature;
}

/* Is the driver ready, DMA allowed, and nothing broken, resetting or quiesced? */
bool virtio_live(struct virtio *v);
bool virtq_ready(struct virtio *v, unsigned q);

/* The next request of the queue with `extra` zeroed bytes at ->data; NULL: none, not live, broken now, or not now. */
struct vreq *virtq_pop(struct virtio *v, unsigned q, size_t extra);
/* Entries that wait, without taking any. */
unsigned virtq_waiting(struct virtio *v, unsigned q);

/* Copy and move on. Return how many bytes there were (less than len at the end). */
size_t vreq_read(struct vreq *r, void *buf, size_t len);
size_t vreq_write(struct vreq *r, const void *buf, size_t len);

/* Ends the request: `written` bytes of `in` hold data now. Frees it. The driver is told by the next virtq_notify(). */
void vreq_done(struct vreq *r, uint32_t written);
/* Ends several of one queue, in order, that the driver must see at once or not at all (a frame in several buffers). */
void vreq_done_all(struct vreq *const *r, const uint32_t *written, unsigned n);
/* Puts back, untouched, the request that was popped last from its queue. Frees it. */
void vreq_undo(struct vreq *r);
/* Interrupts the driver if something was done and it wants to know. Call once for a batch. */
void virtq_notify(struct virtio *v, unsigned q);

/* The configuration changed: raises the generation and interrupts. */
void virtio_config_changed(struct virtio *v);
/* Stops the device until the driver resets it. `why` names the defect. */
void virtio_break(struct virtio *v, const char *why);
/* Any thread: have class->queue(v, q) called from the event loop. */
void virtio_kick(struct virtio *v, unsigned q);

#endif
