/*
 * virtio_blk.c: disks (virtio 1.2, section 5.2).
 *
 *   queue --virtq_pop--> start(): header copied once, payload in place --disk_submit--> disk
 *                                                                                         |
 *   interrupt, once a batch <--virtq_notify-- on_batch <--vreq_done, status byte-- on_done <--+
 *
 * A request without a whole header or without a status byte breaks the device: there is nowhere to put an answer. Everything else
 * that is wrong with a request is answered in its status byte.
 *
 * Threads: the disk's callbacks come in the loop's thread and take the device's lock, because vCPUs write the configuration.
 */
#include "device/virtio_blk.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/classes.h"
#include "device/virtio.h"

#define F_SEG_MAX (1ull << 2)
#define F_RO (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH (1ull << 9)
#define F_TOPOLOGY (1ull << 10)
#define F_CONFIG_WCE (1ull << 11)
#define F_MQ (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP };
enum { SEG_UNMAP = 1 };

/* Offsets in the configuration (section 5.2.4). */
enum {
	C_CAPACITY = 0,
	C_SEG_MAX = 12,
	C_BLK_SIZE = 20,
	C_PHYSICAL_EXP = 24,
	C_MIN_IO = 26,
	C_WRITEBACK = 32,
	C_NUM_QUEUES = 34,
	C_MAX_DISCARD = 36,
	C_MAX_DISCARD_SEG = 40,
	C_DISCARD_ALIGN = 44,
	C_MAX_ZEROES = 48,
	C_MAX_ZEROES_SEG = 52,
	C_ZEROES_UNMAP = 56,
	C_SIZE = 60,
};

#define HEADER 16u
#define SEGMENTS 254u /* of one request, beside header and status */
#define RANGES 16u /* of one discard or write-zeroes request */
#define RANGE_SIZE 16u
#define RANGE_MAX_SECTORS (1u << 21)
#define POPS 256u /* in one turn of the loop */

struct blk {
	struct virtio v;
	struct disk *disk;
	uint8_t config[C_SIZE];
	char serial[VIRTIO_BLK_ID_MAX];
	bool wce; /* the driver's cache switch: writes are durable after a flush only */
	bool wce_default;
	uint64_t capacity; /* sectors, for saved state */
	uint32_t to_notify; /* queues to which something was added */
	uint64_t failed, refused; /* statistics: IOERR, UNSUPP */
};

/* Behind each vreq. */
struct blk_req {
	struct blk *b;
	struct vreq *r;
	uint8_t *status; /* in guest memory, checked when the request was popped */
	struct disk_req d;
	unsigned nranges, range;
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} ranges[RANGES];
};

static struct blk *blk_of(struct virtio *v)
{
	return container_of(v, struct blk, v);
}

/* ---- answers ---- */

/* Under the device's lock. */
static void answer(struct blk_req *q, uint8_t status)
{
	struct blk *b = q->b;
	struct vreq *r = q->r;

	if (status == S_IOERR)
		b->failed++;
	if (status == S_UNSUPP)
		b->refused++;
	/* The length that is reported must have been written: what a failed read did not fill is zeroes. */
	if (status != S_OK)
		for (unsigned i = 0; i < r->nin; i++)
			memset(r->in[i].iov_base, 0, r->in[i].iov_len);
	*q->status = status;
	b->to_notify |= 1u << r->queue;
	vreq_done(r, (uint32_t)r->in_len);
}

static void report(struct blk *b, const struct disk_req *d)
{
	char text[160];

	/* The 1st, 2nd, 4th, 8th ... failure: a full file system fails thousands. */
	if (!is_pow2(b->failed + 1) || !b->v.dev.env->report)
		return;
	snprintf(text, sizeof(text), "%s of %llu bytes at %llu failed: %s (%llu so far)",
		disk_op_name(d->op), (unsigned long long)d->len, (unsigned long long)d->offset,
		strerrordesc_np(-d->result) ?: "error", (unsigned long long)b->failed + 1);
	b->v.dev.env->report(b->v.dev.env->ctx, b->v.dev.id, text);
}

/* on_error=pause: the request stays with the disk until the machine is resumed. */
static void on_failed(void *ctx, const struct disk_req *d)
{
	struct blk *b = ctx;
	struct device_env *env = b->v.dev.env;
	char text[160];

	snprintf(text, sizeof(text), "%s of %llu bytes at %llu failed: %s", disk_op_name(d->op),
		(unsigned long long)d->len, (unsigned long long)d->offset,
		strerrordesc_np(-d->result) ?: "error");
	if (env->stop)
		env->stop(env->ctx, b->v.dev.id, text);
}

/* The machine ends, and what its guest never flushed cannot be written. */
static void on_lost(void *ctx, int why)
{
	struct blk *b = ctx;
	struct device_env *env = b->v.dev.env;
	char text[160];

	snprintf(text, sizeof(text),
		"writes that the guest did not flush are lost: they cannot be written: %s",
		strerrordesc_np(-why) ?: "error");
	if (env->report)
		env->report(env->ctx, b->v.dev.id, text);
}

static void on_bitmap_lost(void *ctx, const struct err *what)
{
	struct blk *b = ctx;
	struct device_env *env = b->v.dev.env;

	if (env->report)
		env->report(env->ctx, b->v.dev.id, err_msg(what));
}

static void next_range(struct blk_req *q);

static void on_done(struct disk_req *d)
{
	struct blk_req *q = container_of(d, struct blk_req, d);
	struct blk *b = q->b;

	pthread_mutex_lock(&b->v.dev.lock);
	if (d->result) {
		report(b, d);
		answer(q, S_IOERR);
	} else if (q->range < q->nranges) {
		next_range(q);
	} else {
		answer(q, S_OK);
	}
	pthread_mutex_unlock(&b->v.dev.lock);
}

static void notify(struct blk *b)
{
	for (; b->to_notify; b->to_notify &= b->to_notify - 1)
		virtq_notify(&b->v, (unsigned)__builtin_ctz(b->to_notify));
}

static void on_batch(void *ctx)
{
	struct blk *b = ctx;

	pthread_mutex_lock(&b->v.dev.lock);
	notify(b);
	pthread_mutex_unlock(&b->v.dev.lock);
}

/* ---- requests ---- */

/* Is a write to be durable when it completes? (section 5.2.6.2, cache modes) */
static bool writes_through(const struct blk *b)
{
	return virtio_has(&b->v, F_CONFIG_WCE) ? !b->wce : !virtio_has(&b->v, F_FLUSH);
}

/* Takes `n` bytes off the front; they are there. */
static void trim_front(struct iovec **iov, unsigned *niov, size_t n)
{
	while (*niov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		++*iov;
		--*niov;
	}
	if (*niov) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

static void transfer(struct blk_req *q, uint64_t sector, bool write)
{
	struct vreq *r = q->r;
	struct disk_req *d = &q->d;

	if (write)
		trim_front(&r->out, &r->nout, HEADER);
	d->op = write ? DISK_WRITE : DISK_READ;
	d->len = write ? r->out_len - HEADER : r->in_len - 1;
	d->iov = write ? r->out : r->in;
	d->niov = write ? r->nout : r->nin;
	d->fua = write && writes_through(q->b);
	if (__builtin_mul_overflow(sector, (uint64_t)DISK_SECTOR, &d->offset))
		answer(q, S_IOERR);
	else
		disk_submit(q->b->disk, d);
}

static void next_range(struct blk_req *q)
{
	unsigned i = q->range++;

	q->d.offset = q->ranges[i].sector * DISK_SECTOR;
	q->d.len = (uint64_t)q->ranges[i].sectors * DISK_SECTOR;
	q->d.unmap = q->ranges[i].flags & SEG_UNMAP;
	disk_submit(q->b->disk, &q->d);
}

/* All ranges are looked at before the first one is acted on. */
static uint8_t read_ranges(struct blk_req *q, bool zeroes)
{
	uint64_t capacity = disk_size(q->b->disk) / DISK_SECTOR, len = q->r->out_len - HEADER;
	uint8_t raw[RANGE_SIZE];

	if (!len || len % RANGE_SIZE || len / RANGE_SIZE > RANGES)
		return S_IOERR;
	q->nranges = (unsigned)(len / RANGE_SIZE);
	for (unsigned i = 0; i < q->nranges; i++) {
		vreq_read(q->r, raw, sizeof(raw));
		q->ranges[i].sector = get_le64(raw);
		q->ranges[i].sectors = get_le32(raw + 8);
		q->ranges[i].flags = get_le32(raw + 12);
		if (q->ranges[i].flags & ~(zeroes ? (uint32_t)SEG_UNMAP : 0))
			return S_UNSUPP;
		if (q->ranges[i].sectors > RANGE_MAX_SECTORS || q->ranges[i].sectors > capacity ||
			q->ranges[i].sector > capacity - q->ranges[i].sectors)
			return S_IOERR;
	}
	return S_OK;
}

static void change_ranges(struct blk_req *q, bool zeroes)
{
	uint8_t status;

	if (virtio_has(&q->b->v, F_RO)) {
		answer(q, S_IOERR);
		return;
	}
	if (!virtio_has(&q->b->v, zeroes ? F_WRITE_ZEROES : F_DISCARD)) {
		answer(q, S_UNSUPP);
		return;
	}
	status = read_ranges(q, zeroes);
	if (status) {
		answer(q, status);
		return;
	}
	q->d.op = zeroes ? DISK_WRITE_ZEROES : DISK_DISCARD;
	q->d.fua = zeroes && writes_through(q->b);
	next_range(q);
}

static void get_id(struct blk_req *q)
{
	/* A driver that has less room gets what fits; no final NUL is asked for. */
	vreq_write(q->r, q->b->serial, MIN((uint64_t)VIRTIO_BLK_ID_MAX, q->r->in_len - 1));
	answer(q, S_OK);
}

/* The last byte that the device may write is the status; the iovecs lose it. */
static void split_status(struct blk_req *q)
{
	struct iovec *last = &q->r->in[q->r->nin - 1];

	q->status = (uint8_t *)last->iov_base + --last->iov_len;
	if (!last->iov_len)
		q->r->nin--;
}

static bool start(struct blk *b, struct vreq *r)
{
	struct blk_req *q = r->data;
	uint8_t header[HEADER];
	uint64_t sector;

	if (vreq_read(r, header, sizeof(header)) < sizeof(header) || !r->in_len) {
		virtio_break(&b->v, r->in_len ? "a request without a whole header"
					      : "a request without room for its status");
		vreq_done(r, 0);
		return false;
	}
	q->b = b;
	q->r = r;
	q->d.done = on_done;
	split_status(q);
	sector = get_le64(header + 8);
	switch (get_le32(header)) {
	case T_IN:
		transfer(q, sector, false);
		break;
	case T_OUT:
		transfer(q, sector, true);
		break;
	case T_FLUSH:
		q->d.op = DISK_FLUSH;
		disk_submit(b->disk, &q->d);
		break;
	case T_GET_ID:
		get_id(q);
		break;
	case T_DISCARD:
		change_ranges(q, false);
		break;
	case T_WRITE_ZEROES:
		change_ranges(q, true);
		break;
	default:
		answer(q, S_UNSUPP);
	}
	return true;
}

static void serve(struct virtio *v, unsigned qi)
{
	struct blk *b = blk_of(v);
	struct vreq *r;
	unsigned n = 0;

	while (n < POPS && (r = virtq_pop(v, qi, sizeof(struct blk_req)))) {
		n++;
		if (!start(b, r))
			break;
	}
	if (n == POPS)
		virtio_kick(v, qi); /* others want a turn as well */
	notify(b);
}

/* ---- configuration ---- */

static void fill_config(struct blk *b)
{
	struct disk_info info;
	unsigned exp;
	uint8_t *c = b->config;

	disk_info(b->disk, &info);
	exp = (unsigned)__builtin_ctz(info.physical / DISK_SECTOR);
	memset(c, 0, sizeof(b->config));
	put_le64(c + C_CAPACITY, info.size / DISK_SECTOR);
	put_le32(c + C_SEG_MAX, SEGMENTS);
	put_le32(c + C_BLK_SIZE, DISK_SECTOR);
	c[C_PHYSICAL_EXP] = (uint8_t)exp;
	put_le16(c + C_MIN_IO, (uint16_t)MIN(info.physical / DISK_SECTOR, 0xffffu));
	c[C_WRITEBACK] = b->wce;
	put_le16(c + C_NUM_QUEUES, (uint16_t)b->v.nq);
	if (info.readonly)
		return;
	if (info.discard) {
		put_le32(c + C_MAX_DISCARD, RANGE_MAX_SECTORS);
		put_le32(c + C_MAX_DISCARD_SEG, RANGES);
		put_le32(c + C_DISCARD_ALIGN, info.physical / DISK_SECTOR);
	}
	put_le32(c + C_MAX_ZEROES, RANGE_MAX_SECTORS);
	put_le32(c + C_MAX_ZEROES_SEG, RANGES);
	c[C_ZEROES_UNMAP] = info.discard;
}

/* The driver may write one byte; what it wrote elsewhere is taken back. */
static void config_written(struct virtio *v, unsigned off, unsigned len)
{
	struct blk *b = blk_of(v);

	if (off <= C_WRITEBACK && C_WRITEBACK < off + len && virtio_has(v, F_CONFIG_WCE))
		b->wce = b->config[C_WRITEBACK] & 1;
	fill_config(b);
}

static void stopped(struct virtio *v)
{
	struct blk *b = blk_of(v);

	b->wce = b->wce_default;
	fill_config(b);
}

static void on_resized(void *ctx)
{
	struct blk *b = ctx;

	pthread_mutex_lock(&b->v.dev.lock);
	fill_config(b);
	virtio_config_changed(&b->v);
	pthread_mutex_unlock(&b->v.dev.lock);
}

int virtio_blk_resize(struct device *d, uint64_t size, struct err *e)
{
	if (d->cls != &virtio_blk_class)
		return err_set(e, -EINVAL, "%s is not a disk", d->id);
	return disk_resize(container_of(d, struct blk, v.dev)->disk, size, e);
}

struct disk *virtio_blk_disk(struct device *d)
{
	return d->cls == &virtio_blk_class ? container_of(d, struct blk, v.dev)->disk : NULL;
}

/* ---- life ---- */

static const struct virtio_class blk_virtio = {
	.name = "virtio-blk",
	.id = 2,
	.pci_class = 0x018000,
	.queue = serve,
	.config_written = config_written,
	.stopped = stopped,
};

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct blk *b = container_of(d, struct blk, v.dev);
	const struct virtio_blk_opts *o = opts;
	const char *serial = o->serial ?: d->id;
	struct disk_opts disk = o->disk;
	uint64_t offered = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_MQ;
	int rc;

	if (!o->queues || o->queues > VIRTIO_BLK_QUEUES_MAX)
		return err_set(e, -EINVAL, "%u queues; 1 to %d are possible", o->queues,
			VIRTIO_BLK_QUEUES_MAX);
	disk.loop = d->env->loop;
	disk.stores = &d->env->stores;
	disk.client = (struct disk_client){
		on_batch, on_resized, b, on_failed, on_lost, on_bitmap_lost};
	rc = disk_open(&b->disk, &disk, e);
	if (rc)
		return rc;
	memcpy(b->serial, serial, strnlen(serial, sizeof(b->serial)));
	b->wce = b->wce_default = disk.cache != DISK_CACHE_WRITETHROUGH;
	if (disk.readonly)
		offered |= F_RO;
	else
		offered |= F_WRITE_ZEROES | (disk.discard ? F_DISCARD : 0);
	b->v.nq = o->queues;
	fill_config(b);
	rc = virtio_realize(
		&b->v, &blk_virtio, o->queues, offered, b->config, sizeof(b->config), e);
	if (rc)
		disk_close(b->disk);
	return rc;
}

/* Takes nothing more from the queues and waits for what was taken. Not under the lock: completions want it. */
static bool quiet(struct blk *b)
{
	pthread_mutex_lock(&b->v.dev.lock);
	virtio_quiesce(&b->v);
	pthread_mutex_unlock(&b->v.dev.lock);
	disk_drain(b->disk);
	return virtio_quiesce(&b->v);
}

static void unrealize(struct device *d)
{
	struct blk *b = container_of(d, struct blk, v.dev);

	quiet(b);
	disk_close(b->disk);
	virtio_unrealize(&b->v);
}

static void reset(struct device *d)
{
	struct blk *b = container_of(d, struct blk, v.dev);

	quiet(b); /* a reboot does not ask first */
	disk_fail_held(b->disk);
	virtio_reset(&b->v);
	b->v.quiesced = false;
}

static int quiesce(struct device *d, struct err *e)
{
	struct blk *b = container_of(d, struct blk, v.dev);

	/* What the host failed waits for the machine's resume. */
	if (!quiet(b) && !disk_held(b->disk))
		return err_set(e, -EBUSY, "%s: a request is still open", d->id);
	return 0;
}

/* ---- state and description ---- */

static const struct state_field fields[] = {
	STATE_STRUCT(struct blk, v, &virtio_state, struct virtio, 1),
	STATE_BOOL(struct blk, wce, 1),
	STATE_U64(struct blk, capacity, 1),
	STATE_END,
};

static void resume(struct device *d)
{
	virtio_device_resume(d);
	disk_retry(container_of(d, struct blk, v.dev)->disk);
}

static void pre_save(void *obj)
{
	struct blk *b = obj;

	/* A request cannot be saved: the guest gets the error that it was held for. */
	disk_fail_held(b->disk);

	b->capacity = disk_size(b->disk) / DISK_SECTOR;
}

static int post_load(void *obj, unsigned version, struct err *e)
{
	struct blk *b = obj;
	uint64_t now = disk_size(b->disk) / DISK_SECTOR;

	if (now < b->capacity)
		return err_set(e, -EINVAL,
			"%s: the disk has %llu sectors, and had %llu when the machine was saved: "
			"it is not "
			"the same disk",
			b->v.dev.id, (unsigned long long)now, (unsigned long long)b->capacity);
	fill_config(b);
	if (now > b->capacity)
		virtio_config_changed(&b->v);
	return 0;
}

static const struct state_desc state = {.type = "virtio-blk",
	.version = 1,
	.fields = fields,
	.pre_save = pre_save,
	.post_load = post_load};

static void describe(struct device *d, json_t *into)
{
	static const char *const caches[] = {"writeback", "none", "writethrough"};
	struct blk *b = container_of(d, struct blk, v.dev);
	struct disk_info i;

	virtio_describe(&b->v, into);
	disk_info(b->disk, &i);
	json_object_set_new(into, "disk",
		json_pack("{s:s, s:s, s:I, s:b, s:b, s:s, s:s, s:i}", "file", i.path, "format",
			i.format, "size", (json_int_t)i.size, "readonly", i.readonly, "discard",
			i.discard, "cache", caches[i.cache], "io", i.io, "physical_block",
			(int)i.physical));
}

static json_t *op_stats(const struct disk_op_stats *s)
{
	json_t *hist = json_array();
	unsigned n = DISK_LATENCY_BUCKETS;

	while (n && !s->latency[n - 1])
		n--;
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(hist, json_integer((json_int_t)s->latency[i]));
	return json_pack("{s:I, s:I, s:I, s:f, s:f, s:o}", "ops", (json_int_t)s->ops, "bytes",
		(json_int_t)s->bytes, "errors", (json_int_t)s->errors, "mean_us",
		s->ops ? (double)s->total_ns / 1e3 / (double)s->ops : 0.0, "max_us",
		(double)s->max_ns / 1e3, "latency_log2_us", hist);
}

static void stats(struct device *d, json_t *into)
{
	struct blk *b = container_of(d, struct blk, v.dev);
	struct disk_stats s;

	virtio_stats(&b->v, into);
	disk_stats(b->disk, &s);
	for (unsigned i = 0; i < DISK_OPS; i++)
		json_object_set_new(into, disk_op_name(i), op_stats(&s.op[i]));
	json_object_set_new(into, "in_flight", json_integer(s.in_flight));
	json_object_set_new(into, "in_flight_max", json_integer(s.in_flight_max));
	json_object_set_new(into, "held", json_integer(s.held));
	json_object_set_new(into, "ignored", json_integer((json_int_t)s.ignored));
	json_object_set_new(into, "delayed", json_integer((json_int_t)s.delayed));
	json_object_set_new(into, "delayed_us", json_integer((json_int_t)(s.delayed_ns / 1000)));
	disk_format_stats(b->disk, into);
	json_object_set_new(into, "failed", json_integer((json_int_t)b->failed));
	json_object_set_new(into, "refused", json_integer((json_int_t)b->refused));
}

const struct device_class virtio_blk_class = {
	.name = "virtio-blk",
	.help = "a disk",
	.size = sizeof(struct blk),
	.realize = realize,
	.unrealize = unrealize,
	.reset = reset,
	.quiesce = quiesce,
	.resume = resume,
	.state = &state,
	.describe = describe,
	.stats = stats,
};
