#include "device/virtio.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/virtio_impl.h"
#include "memory/space.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };
#define DESC_SIZE 16u
#define IOV_MAX_REQ (VIRTIO_CHAIN_MAX + 64)

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* Lives until libuv has closed its handle, which may be after the device is gone. */
struct virtio_doorbell {
	uv_async_t async;
	struct virtio *v;
};

static struct space *space_of(const struct virtio *v)
{
	return v->dev.env->space;
}

void virtio_break(struct virtio *v, const char *why)
{
	if (v->status & VIRTIO_NEEDS_RESET)
		return;
	v->status |= VIRTIO_NEEDS_RESET;
	v->broken++;
	v->config_generation++;
	/* A driver that breaks its device all day must not fill the log. */
	if (v->dev.env->report && (v->broken <= 16 || is_pow2(v->broken)))
		v->dev.env->report(v->dev.env->ctx, v->dev.id, why);
	if (v->status & VIRTIO_DRIVER_OK)
		virtio_pci_interrupt(v, v->config_vector, VIRTIO_ISR_CONFIG);
}

bool virtio_live(struct virtio *v)
{
	return (v->status & VIRTIO_DRIVER_OK) &&
	       !(v->status & (VIRTIO_NEEDS_RESET | VIRTIO_FAILED)) && !v->resetting &&
	       !v->quiesced && pci_bus_master(&v->pci);
}

bool virtq_ready(struct virtio *v, unsigned q)
{
	return q < v->nq && v->q[q].enabled && virtio_live(v);
}

/* ---- reading rings ---- */

/* What a chain adds up to while it is walked. */
struct walk {
	struct virtio *v;
	bool unwritten;
	unsigned descs, nout, nin, nsegs;
	uint64_t out_len, in_len;
	struct iovec iov[IOV_MAX_REQ]; /* out first, then in */
	struct vseg segs[VIRTIO_CHAIN_MAX];
};

static const char *take_desc(struct walk *w, const struct desc *d)
{
	bool in = d->flags & DESC_WRITE;
	unsigned n = w->nout + w->nin;

	if (++w->descs > VIRTIO_CHAIN_MAX)
		return "a descriptor chain that is too long, or loops";
	if (!in && w->nin)
		return "a readable descriptor after a writable one";
	if (!d->len)
		return NULL;
	if (space_span(space_of(w->v), gpa(d->addr), d->len,
		    in && !w->unwritten ? MEM_WRITE : MEM_READ, w->iov, &n, ARRAY_SIZE(w->iov)))
		return "a descriptor that points outside RAM";
	if (in) {
		w->segs[w->nsegs++] = (struct vseg){gpa(d->addr), d->len};
		w->nin = n - w->nout;
		w->in_len += d->len;
	} else {
		w->nout = n;
		w->out_len += d->len;
	}
	if (w->in_len > UINT32_MAX || w->out_len > UINT32_MAX)
		return "a request of more than 4 GiB";
	return NULL;
}

static bool read_desc(struct virtio *v, uint64_t table, unsigned i, struct desc *d)
{
	uint8_t raw[DESC_SIZE];

	if (space_read(space_of(v), gpa(table + (uint64_t)i * DESC_SIZE), raw, sizeof(raw)))
		return false;
	d->addr = get_le64(raw);
	d->len = get_le32(raw + 8);
	d->flags = get_le16(raw + 12);
	d->next = get_le16(raw + 14);
	return true;
}

static const char *walk_indirect(struct walk *w, const struct desc *at)
{
	unsigned n = at->len / DESC_SIZE, i = 0;

	if (!virtio_has(w->v, VIRTIO_F_INDIRECT_DESC))
		return "an indirect descriptor that was not negotiated";
	if (!n || at->len % DESC_SIZE || n > VIRTIO_CHAIN_MAX)
		return "an indirect table of impossible size";
	for (;;) {
		struct desc d;
		const char *why;

		if (!read_desc(w->v, at->addr, i, &d))
			return "an indirect table outside RAM";
		if (d.flags & DESC_INDIRECT)
			return "an indirect table inside an indirect table";
		why = take_desc(w, &d);
		if (why || !(d.flags & DESC_NEXT))
			return why;
		if (d.next >= n)
			return "an indirect descriptor that continues outside its table";
		i = d.next;
	}
}

static const char *walk_chain(struct walk *w, const struct virtq *q, unsigned head)
{
	unsigned i = head;

	for (unsigned steps = 0; steps < q->size; steps++) {
		struct desc d;
		const char *why;

		if (!read_desc(w->v, q->desc, i, &d))
			return "a descriptor table outside RAM";
		if (d.flags & DESC_INDIRECT) {
			if (d.flags & DESC_NEXT)
				return "an indirect descriptor that has a next one";
			return walk_indirect(w, &d);
		}
		why = take_desc(w, &d);
		if (why || !(d.flags & DESC_NEXT))
			return why;
		if (d.next >= q->size)
			return "a descriptor that continues outside the table";
		i = d.next;
	}
	return "a descriptor chain that loops";
}

/* Entries that the driver has added and we have not taken; negative: the ring is not usable. */
static int waiting(struct virtio *v, struct virtq *q)
{
	uint16_t idx;

	if (space_load16(space_of(v), gpa(q->avail + 2), &idx)) {
		virtio_break(v, "an avail ring outside RAM");
		return -1;
	}
	if ((uint16_t)(idx - q->next_avail) > q->size) {
		virtio_break(v, "an avail index that jumped further than the queue is long");
		return -1;
	}
	return (uint16_t)(idx - q->next_avail);
}

/* Asks to be told of the next entry. True when one came meanwhile. */
static bool arm(struct virtio *v, struct virtq *q)
{
	if (!virtio_has(v, VIRTIO_F_EVENT_IDX))
		return false;
	if (space_store16(space_of(v), gpa(q->used + 4 + 8ull * q->size), q->next_avail)) {
		virtio_break(v, "a used ring outside RAM");
		return false;
	}
	atomic_thread_fence(memory_order_seq_cst);
	return waiting(v, q) > 0;
}

unsigned virtq_waiting(struct virtio *v, unsigned qi)
{
	int n = virtq_ready(v, qi) ? waiting(v, &v->q[qi]) : 0;

	return n > 0 ? (unsigned)n : 0;
}

static struct vreq *make_request(struct walk *w, unsigned qi, uint16_t head, size_t extra)
{
	size_t iovs = (w->nout + w->nin) * sizeof(struct iovec);
	size_t segs = w->nsegs * sizeof(struct vseg);
	size_t size = sizeof(struct vreq) + iovs + segs + align_up(extra, 16);
	struct vreq *r = calloc(1, size);

	if (!r)
		return NULL;
	r->held = size;
	r->v = w->v;
	r->queue = qi;
	r->head = head;
	r->out = (struct iovec *)(r + 1);
	r->in = r->out + w->nout;
	r->segs = (struct vseg *)(r->in + w->nin);
	r->data = (char *)(r + 1) + iovs + segs;
	r->nout = w->nout;
	r->nin = w->nin;
	r->nsegs = w->nsegs;
	r->out_len = w->out_len;
	r->in_len = w->in_len;
	memcpy(r->out, w->iov, iovs);
	memcpy(r->segs, w->segs, segs);
	return r;
}

struct vreq *virtq_pop(struct virtio *v, unsigned qi, size_t extra)
{
	struct virtq *q = &v->q[qi];
	struct walk w;
	struct vreq *r;
	const char *why;
	uint16_t head;
	int n;

	if (!virtq_ready(v, qi))
		return NULL;
	if (v->in_turn && !v->turn) {
		virtio_kick(v, qi);
		return NULL;
	}
	if (v->held > VIRTIO_HELD_MAX) {
		v->starved |= 1u << qi;
		return NULL;
	}
	n = waiting(v, q);
	if (n < 0 || (n == 0 && !arm(v, q)))
		return NULL;
	if (space_load16(
		    space_of(v), gpa(q->avail + 4 + 2ull * (q->next_avail % q->size)), &head)) {
		virtio_break(v, "an avail ring outside RAM");
		return NULL;
	}
	if (head >= q->size) {
		virtio_break(v, "an avail entry that names no descriptor");
		return NULL;
	}
	w.v = v;
	w.unwritten = v->cls->unwritten >> qi & 1;
	w.descs = w.nout = w.nin = w.nsegs = 0;
	w.out_len = w.in_len = 0;
	why = walk_chain(&w, q, head);
	if (why) {
		virtio_break(v, why);
		return NULL;
	}
	r = make_request(&w, qi, head, extra);
	if (!r)
		return NULL; /* host out of memory: the driver will ring again */
	q->next_avail++;
	q->open++;
	v->open++;
	v->held += r->held;
	v->requests++;
	if (v->in_turn)
		v->turn--;
	return r;
}

/* ---- request data ---- */

static size_t move(
	struct iovec *iov, unsigned n, uint64_t *at, void *buf, size_t len, bool to_guest)
{
	uint64_t skip = *at;
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t part;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - skip, len - done);
		if (to_guest)
			memcpy((char *)iov[i].iov_base + skip, (char *)buf + done, part);
		else
			memcpy((char *)buf + done, (char *)iov[i].iov_base + skip, part);
		skip = 0;
		done += part;
	}
	*at += done;
	return done;
}

size_t vreq_read(struct vreq *r, void *buf, size_t len)
{
	return move(r->out, r->nout, &r->out_at, buf, len, false);
}

size_t vreq_write(struct vreq *r, const void *buf, size_t len)
{
	return move(r->in, r->nin, &r->in_at, (void *)(uintptr_t)buf, len, true);
}

/* The pages were announced when the request was popped; whoever collected since then must hear of them again. */
static void announce(struct vreq *r, uint64_t written)
{
	for (unsigned i = 0; i < r->nsegs && written; i++) {
		uint64_t n = MIN(written, r->segs[i].len);

		space_announce(space_of(r->v), r->segs[i].gpa, n);
		written -= n;
	}
}

static void finish_reset(struct virtio *v)
{
	if (!v->resetting || v->open)
		return;
	virtio_clear(v);
}

static void release(struct vreq *r)
{
	struct virtio *v = r->v;

	v->q[r->queue].open--;
	v->open--;
	v->held -= r->held;
	free(r);
	if (v->held <= VIRTIO_HELD_MAX / 2)
		for (; v->starved; v->starved &= v->starved - 1)
			virtio_kick(v, (unsigned)__builtin_ctz(v->starved));
	finish_reset(v);
}

/* The element `ahead` of the used index; the driver sees it when the index moves. */
static int put_used(struct vreq *r, unsigned ahead, uint32_t written)
{
	struct virtq *q = &r->v->q[r->queue];
	unsigned slot = (uint16_t)(q->used_idx + ahead) % q->size;
	uint8_t elem[8];

	announce(r, written);
	put_le32(elem, r->head);
	put_le32(elem + 4, written);
	return space_write(space_of(r->v), gpa(q->used + 4 + 8ull * slot), elem, sizeof(elem));
}

void vreq_done_all(struct vreq *const *r, const uint32_t *written, unsigned n)
{
	struct virtio *v = r[0]->v;
	struct virtq *q = &v->q[r[0]->queue];

	if (!v->resetting && !(v->status & VIRTIO_NEEDS_RESET)) {
		bool bad = false;

		for (unsigned i = 0; i < n; i++)
			bad = bad || put_used(r[i], i, written[i]);
		if (bad ||
			space_store16(space_of(v), gpa(q->used + 2), (uint16_t)(q->used_idx + n)))
			virtio_break(v, "a used ring outside RAM");
		q->used_idx = (uint16_t)(q->used_idx + n);
		q->pending_notify = true;
	} else {
		for (unsigned i = 0; i < n; i++)
			announce(r[i], written[i]);
	}
	for (unsigned i = 0; i < n; i++)
		release(r[i]);
}

void vreq_done(struct vreq *r, uint32_t written)
{
	vreq_done_all(&r, &written, 1);
}

void vreq_undo(struct vreq *r)
{
	struct virtio *v = r->v;

	/* A reset has put the ring's indices to 0 already, or will. */
	v->q[r->queue].next_avail--;
	v->requests--;
	release(r);
}

static bool wants_interrupt(struct virtio *v, struct virtq *q)
{
	uint16_t event, flags, old = q->signalled;
	bool valid = q->signalled_valid;

	atomic_thread_fence(memory_order_seq_cst);
	if (!virtio_has(v, VIRTIO_F_EVENT_IDX))
		return !space_load16(space_of(v), gpa(q->avail), &flags) &&
		       !(flags & AVAIL_NO_INTERRUPT);
	q->signalled = q->used_idx;
	q->signalled_valid = true;
	if (space_load16(space_of(v), gpa(q->avail + 4 + 2ull * q->size), &event))
		return false;
	/* virtio 1.2, section 2.7.7.2: has used_idx passed event since we last told? */
	return !valid || (uint16_t)(q->used_idx - event - 1) < (uint16_t)(q->used_idx - old);
}

void virtq_notify(struct virtio *v, unsigned qi)
{
	struct virtq *q = &v->q[qi];

	if (!q->pending_notify || !q->enabled)
		return;
	q->pending_notify = false;
	if (!wants_interrupt(v, q))
		return;
	v->interrupts++;
	virtio_pci_interrupt(v, q->vector, VIRTIO_ISR_QUEUE);
}

void virtio_config_changed(struct virtio *v)
{
	v->config_generation++;
	if (v->status & VIRTIO_DRIVER_OK)
		virtio_pci_interrupt(v, v->config_vector, VIRTIO_ISR_CONFIG);
}

/* ---- doorbell ---- */

void virtio_kick(struct virtio *v, unsigned q)
{
	if (q >= v->nq || atomic_exchange(&v->q[q].kicked, true))
		return;
	uv_async_send(&v->bell->async);
}

static void on_bell(uv_async_t *a)
{
	struct virtio_doorbell *b = container_of(a, struct virtio_doorbell, async);
	struct virtio *v = b->v;

	if (!v)
		return;
	pthread_mutex_lock(&v->dev.lock);
	for (unsigned i = 0; i < v->nq; i++) {
		if (!atomic_exchange(&v->q[i].kicked, false))
			continue;
		v->kicks++;
		if (!virtq_ready(v, i))
			continue;
		v->in_turn = true;
		v->turn = VIRTIO_TURN;
		v->cls->queue(v, i);
		v->in_turn = false;
	}
	pthread_mutex_unlock(&v->dev.lock);
}

static void bell_closed(uv_handle_t *h)
{
	free(container_of((uv_async_t *)h, struct virtio_doorbell, async));
}

/* ---- life ---- */

void virtio_clear(struct virtio *v)
{
	bool was_running = v->status & VIRTIO_DRIVER_OK;

	v->resetting = false;
	v->status = 0;
	v->isr = 0;
	v->features = 0;
	v->device_feature_select = v->driver_feature_select = 0;
	v->queue_select = 0;
	v->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < v->nq; i++) {
		struct virtq *q = &v->q[i];

		memset(q, 0, sizeof(*q));
		q->size = VIRTIO_QUEUE_SIZE;
		q->vector = VIRTIO_NO_VECTOR;
	}
	pci_intx_set(&v->pci, false);
	if (was_running && v->cls->stopped)
		v->cls->stopped(v);
}

void virtio_set_status(struct virtio *v, uint8_t status)
{
	uint8_t old = v->status;

	if (!status) {
		v->resetting = true;
		finish_reset(v);
		return;
	}
	if (v->resetting)
		return;
	/* Bits are only added; NEEDS_RESET is ours. */
	status |= old;
	if (!(old & VIRTIO_FEATURES_OK) && status & VIRTIO_FEATURES_OK &&
		(v->features & ~v->offered || !(v->features & VIRTIO_F_VERSION_1)))
		status &= (uint8_t)~VIRTIO_FEATURES_OK;
	/* Else a driver could run the device with features that were never offered. */
	if (status & VIRTIO_DRIVER_OK && !(status & VIRTIO_FEATURES_OK)) {
		virtio_break(v, "a driver that starts before its features are agreed");
		return;
	}
	v->status = (uint8_t)((status & ~VIRTIO_NEEDS_RESET) | (old & VIRTIO_NEEDS_RESET));
	if (!(old & VIRTIO_DRIVER_OK) && status & VIRTIO_DRIVER_OK) {
		if (v->cls->started)
			v->cls->started(v);
		for (unsigned i = 0; i < v->nq; i++)
			virtio_kick(v, i);
	}
}

int virtio_realize(struct virtio *v, const struct virtio_class *cls, unsigned nq, uint64_t offered,
	void *config, unsigned config_len, struct err *e)
{
	int rc;

	if (nq > VIRTIO_QUEUES)
		return err_set(
			e, -EINVAL, "%s: %u queues; at most %d", v->dev.id, nq, VIRTIO_QUEUES);
	v->cls = cls;
	v->nq = nq;
	v->offered = offered | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1;
	v->config = config;
	v->config_len = config_len;
	v->bell = calloc(1, sizeof(*v->bell));
	if (!v->bell)
		return err_set(e, -ENOMEM, "%s: out of memory", v->dev.id);
	v->bell->v = v;
	rc = uv_async_init(v->dev.env->loop, &v->bell->async, on_bell);
	if (rc) {
		free(v->bell);
		v->bell = NULL;
		return err_set(e, rc, "%s: %s", v->dev.id, uv_strerror(rc));
	}
	/* Devices alone do not keep a program running. */
	uv_unref((uv_handle_t *)&v->bell->async);
	rc = virtio_pci_add(v, e);
	if (rc) {
		virtio_unrealize(v);
		return rc;
	}
	virtio_clear(v);
	return 0;
}

void virtio_unrealize(struct virtio *v)
{
	if (v->open)
		abort(); /* broken invariant */
	virtio_pci_remove(v);
	if (!v->bell)
		return;
	v->bell->v = NULL;
	uv_close((uv_handle_t *)&v->bell->async, bell_closed);
	v->bell = NULL;
}

void virtio_reset(struct virtio *v)
{
	if (v->open)
		abort(); /* broken invariant */
	virtio_clear(v);
	pci_func_reset(&v->pci);
}

bool virtio_quiesce(struct virtio *v)
{
	v->quiesced = true;
	return v->open == 0;
}

void virtio_resume(struct virtio *v)
{
	v->quiesced = false;
	for (unsigned i = 0; i < v->nq; i++)
		virtio_kick(v, i);
}

/* ---- state and description ---- */

static const struct state_field virtq_fields[] = {
	STATE_U16(struct virtq, size, 1),
	STATE_U16(struct virtq, vector, 1),
	STATE_BOOL(struct virtq, enabled, 1),
	STATE_U64(struct virtq, desc, 1),
	STATE_U64(struct virtq, avail, 1),
	STATE_U64(struct virtq, used, 1),
	STATE_U16(struct virtq, next_avail, 1),
	STATE_U16(struct virtq, used_idx, 1),
	STATE_U16(struct virtq, signalled, 1),
	STATE_BOOL(struct virtq, signalled_valid, 1),
	STATE_BOOL(struct virtq, pending_notify, 1),
	STATE_END,
};

static int virtq_check(const void *staged, unsigned version, struct err *e)
{
	const struct virtq *q = staged;

	if (q->size && (!is_pow2(q->size) || q->size > VIRTIO_QUEUE_SIZE))
		return err_set(e, -EINVAL, "size %u is not a power of two up to %u", q->size,
			VIRTIO_QUEUE_SIZE);
	if (q->enabled && !q->size)
		return err_set(e, -EINVAL, "an enabled queue has no size");
	return 0;
}

static const struct state_desc virtq_state = {
	.type = "virtq", .version = 1, .fields = virtq_fields, .check = virtq_check};

static const struct state_field virtio_fields[] = {
	STATE_STRUCT(struct virtio, pci, &pci_func_state, struct pci_func, 1),
	STATE_U64(struct virtio, features, 1),
	STATE_U8(struct virtio, status, 1),
	STATE_U8(struct virtio, isr, 1),
	STATE_U8(struct virtio, config_generation, 1),
	STATE_U32(struct virtio, device_feature_select, 1),
	STATE_U32(struct virtio, driver_feature_select, 1),
	STATE_U16(struct virtio, queue_select, 1),
	STATE_U16(struct virtio, config_vector, 1),
	STATE_ARRAY(struct virtio, q, &virtq_state, struct virtq, 1),
	STATE_END,
};

static int virtio_post_load(void *obj, unsigned version, struct err *e)
{
	struct virtio *v = obj;

	if (v->features & ~v->offered)
		return err_set(e, -EINVAL,
			"%s: the stream has features that this device does not offer", v->dev.id);
	if (v->status & VIRTIO_DRIVER_OK &&
		(!(v->status & VIRTIO_FEATURES_OK) || !virtio_has(v, VIRTIO_F_VERSION_1)))
		return err_set(e, -EINVAL, "%s: a driver that runs without its features agreed",
			v->dev.id);
	v->resetting = false;
	/* Doorbells that rang before the save are not in the stream. */
	for (unsigned i = 0; i < v->nq; i++)
		virtio_kick(v, i);
	return 0;
}

const struct state_desc virtio_state = {
	.type = "virtio", .version = 1, .fields = virtio_fields, .post_load = virtio_post_load};

void virtio_describe(struct virtio *v, json_t *into)
{
	json_object_set_new(into, "virtio_id", json_integer(v->cls->id));
	json_object_set_new(into, "queues", json_integer(v->nq));
	json_object_set_new(into, "driver",
		json_string(v->status & VIRTIO_NEEDS_RESET ? "needs reset"
			    : v->status & VIRTIO_DRIVER_OK ? "running"
			    : v->status			   ? "starting"
							   : "none"));
}

void virtio_stats(struct virtio *v, json_t *into)
{
	json_object_set_new(into, "requests", json_integer((json_int_t)v->requests));
	json_object_set_new(into, "kicks", json_integer((json_int_t)v->kicks));
	json_object_set_new(into, "interrupts", json_integer((json_int_t)v->interrupts));
	json_object_set_new(into, "broken", json_integer((json_int_t)v->broken));
}

/* ---- for device classes ---- */

static struct virtio *of(struct device *d)
{
	return container_of(d, struct virtio, dev);
}

void virtio_device_unrealize(struct device *d)
{
	virtio_unrealize(of(d));
}

void virtio_device_reset(struct device *d)
{
	virtio_reset(of(d));
}

int virtio_device_quiesce(struct device *d, struct err *e)
{
	if (!virtio_quiesce(of(d)))
		return err_set(e, -EBUSY, "%s: a request is still open", d->id);
	return 0;
}

void virtio_device_resume(struct device *d)
{
	virtio_resume(of(d));
}

void virtio_device_describe(struct device *d, json_t *into)
{
	virtio_describe(of(d), into);
}

void virtio_device_stats(struct device *d, json_t *into)
{
	virtio_stats(of(d), into);
}
