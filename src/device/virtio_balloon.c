/*
 * virtio_balloon.c: memory balloon with statistics and free page reporting (virtio 1.2, section 5.5).
 *
 *   driver --inflate queue: numbers of 4 KiB pages--> space_discard()
 *          --reporting queue: ranges-----------------> space_discard()
 *          --deflate queue---------------------------> nothing: a page is there again when it is touched
 *          --stats queue: one buffer that stays in the ring until fresh figures are wanted
 *
 * A page that is discarded reads as zeroes. A guest that gives back pages which it still uses harms only itself; numbers that are
 * no RAM are counted and ignored. What one request and one turn of the event loop may do is bounded.
 *
 * Queue numbers: the specification fixes 2, 3 and 4 for stats, hinting and reporting, but drivers (Linux, since the first one) number the
 * queues that exist without gaps. Without hinting, reporting is queue 3 with stats and 2 without; 4 is understood as well.
 */
#include "device/virtio_balloon.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "device/classes.h"
#include "device/virtio.h"
#include "memory/space.h"

enum { INFLATE, DEFLATE, THIRD, FOURTH, FIFTH, QUEUES };

#define F_STATS (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING (1ull << 5)

enum { CFG_NUM_PAGES = 0, CFG_ACTUAL = 4, CFG_LEN = 8 };

#define PFNS_MAX 16384u /* of one request; drivers send 256 */
#define BATCH 32 /* requests of one turn of the event loop */
#define STAT_SIZE 10u

/* Tags of section 5.5.6.4, in order. */
static const char *const stat_names[] = {"swap_in", "swap_out", "major_faults", "minor_faults",
	"free", "total", "available", "disk_caches", "hugetlb_allocations", "hugetlb_failures"};

struct balloon {
	struct virtio v;
	uint8_t config[CFG_LEN];
	uint32_t target; /* pages */
	uint64_t stat[ARRAY_SIZE(stat_names)];
	uint32_t stats_seen; /* bit a tag */
	uint64_t stats_ns; /* when they came */
	uint64_t inflated, deflated, reported, refused; /* pages, since the start */
};

static struct balloon *of(struct virtio *v)
{
	return container_of(v, struct balloon, v);
}

static uint64_t ram_pages(struct balloon *b)
{
	uint64_t n = 0;

	for (unsigned i = 0; space_ram(b->v.dev.env->space, i); i++)
		n += space_ram(b->v.dev.env->space, i)->len / PAGE_SIZE;
	return n;
}

/*
 * Trackers hear of it first: the page changes, and somebody may want what was in it. Not of pages that are empty: most of what a guest reports
 * after its boot is, and a snapshot would copy all of it first.
 */
static bool give_back(struct balloon *b, uint64_t first, uint64_t pages)
{
	struct space *s = b->v.dev.env->space;
	uint64_t empty;

	while (pages && (empty = space_untouched(s, gpa(first * PAGE_SIZE), pages))) {
		first += empty;
		pages -= empty;
	}
	if (!pages)
		return true;
	space_announce(s, gpa(first * PAGE_SIZE), pages * PAGE_SIZE);
	return !space_discard(s, gpa(first * PAGE_SIZE), pages * PAGE_SIZE);
}

/* Adjacent numbers go together; when a run is refused its pages are tried one by one, so that one bad number does not spoil the others. */
static void give_run(struct balloon *b, uint64_t first, uint64_t pages)
{
	if (!pages)
		return;
	if (give_back(b, first, pages)) {
		b->inflated += pages;
		return;
	}
	for (uint64_t i = 0; i < pages; i++) {
		if (pages > 1 && give_back(b, first + i, 1))
			b->inflated++;
		else
			b->refused++;
	}
}

static void inflate(struct balloon *b, struct vreq *r)
{
	uint64_t first = 0, run = 0;
	unsigned left = PFNS_MAX;
	uint8_t raw[1024];
	size_t n;

	while (left && (n = vreq_read(r, raw, MIN(sizeof(raw), 4ull * left)) / 4)) {
		left -= (unsigned)n;
		for (size_t i = 0; i < n; i++) {
			uint64_t pfn = get_le32(raw + 4 * i);

			if (run && pfn == first + run) {
				run++;
				continue;
			}
			if (run && pfn + 1 == first) { /* Linux counts down */
				first--;
				run++;
				continue;
			}
			give_run(b, first, run);
			first = pfn;
			run = 1;
		}
	}
	give_run(b, first, run);
}

static void report(struct balloon *b, struct vreq *r)
{
	for (unsigned i = 0; i < r->nsegs; i++) {
		uint64_t from = align_up(r->segs[i].gpa.v, PAGE_SIZE);
		uint64_t to = align_down(r->segs[i].gpa.v + r->segs[i].len, PAGE_SIZE);

		if (to > from && give_back(b, from / PAGE_SIZE, (to - from) / PAGE_SIZE))
			b->reported += (to - from) / PAGE_SIZE;
		else
			b->refused++;
	}
}

/* Figures, then back into the ring: the driver refills the buffer only when it is handed back, which asks for new ones. */
static void read_stats(struct balloon *b, unsigned q)
{
	struct vreq *r = virtq_pop(&b->v, q, 0);
	uint8_t raw[STAT_SIZE];

	if (!r)
		return;
	b->stats_seen = 0;
	for (unsigned i = 0; i < 64 && vreq_read(r, raw, sizeof(raw)) == sizeof(raw); i++) {
		unsigned tag = get_le16(raw);

		if (tag >= ARRAY_SIZE(stat_names))
			continue;
		b->stat[tag] = get_le64(raw + 2);
		b->stats_seen |= 1u << tag;
	}
	b->stats_ns = clock_mono_ns();
	vreq_undo(r);
}

static void ask_stats(struct balloon *b)
{
	struct vreq *r;

	if (!virtio_has(&b->v, F_STATS))
		return;
	r = virtq_pop(&b->v, THIRD, 0);
	if (!r)
		return;
	vreq_done(r, 0);
	virtq_notify(&b->v, THIRD);
	read_stats(b, THIRD); /* arms the doorbell, or finds the answer there already */
}

static void serve(struct virtio *v, unsigned q)
{
	struct balloon *b = of(v);
	struct vreq *r = NULL;

	if (q == THIRD && virtio_has(v, F_STATS)) {
		read_stats(b, q);
		return;
	}
	if (q >= THIRD && !virtio_has(v, F_REPORTING))
		return;
	for (unsigned i = 0; i < BATCH && (r = virtq_pop(v, q, 0)); i++) {
		if (q == INFLATE)
			inflate(b, r);
		else if (q == DEFLATE)
			b->deflated += MIN(r->out_len / 4, (uint64_t)PFNS_MAX);
		else
			report(b, r);
		vreq_done(r, 0);
	}
	virtq_notify(v, q);
	if (r)
		virtio_kick(v, q); /* others first */
}

/* The driver says how many pages it has given; the rest of the configuration is not its to change. */
static void config_written(struct virtio *v, unsigned off, unsigned len)
{
	put_le32(of(v)->config + CFG_NUM_PAGES, of(v)->target);
}

static void stopped(struct virtio *v)
{
	struct balloon *b = of(v);

	put_le32(b->config + CFG_ACTUAL, 0);
	b->stats_seen = 0;
}

static const struct virtio_class balloon_virtio = {
	.name = "virtio-balloon",
	.id = 5,
	.pci_class = 0x00ff00,
	.unwritten = 1u << THIRD | 1u << FOURTH | 1u << FIFTH, /* reporting is one of them */
	.queue = serve,
	.config_written = config_written,
	.stopped = stopped,
};

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct balloon *b = container_of(d, struct balloon, v.dev);

	return virtio_realize(&b->v, &balloon_virtio, QUEUES,
		F_STATS | F_DEFLATE_ON_OOM | F_REPORTING, b->config, CFG_LEN, e);
}

static void reset(struct device *d)
{
	struct balloon *b = container_of(d, struct balloon, v.dev);

	stopped(&b->v);
	virtio_device_reset(d);
}

static const struct state_field fields[] = {
	STATE_STRUCT(struct balloon, v, &virtio_state, struct virtio, 1),
	STATE_BYTES(struct balloon, config, 1),
	STATE_U32(struct balloon, target, 1),
	STATE_END,
};

static int post_load(void *obj, unsigned version, struct err *e)
{
	struct balloon *b = obj;

	if (b->target > ram_pages(b))
		return err_set(e, -EINVAL, "%s: a target above the machine's memory", b->v.dev.id);
	put_le32(b->config + CFG_NUM_PAGES, b->target);
	return 0;
}

static const struct state_desc state = {
	.type = "virtio-balloon", .version = 1, .fields = fields, .post_load = post_load};

int virtio_balloon_set(struct device *d, uint64_t bytes, struct err *e)
{
	struct balloon *b = container_of(d, struct balloon, v.dev);
	uint64_t pages = bytes / PAGE_SIZE;

	if (d->cls != &virtio_balloon_class)
		return err_set(e, -EINVAL, "%s: not a balloon", d->id);
	if (pages > ram_pages(b) || pages > UINT32_MAX)
		return err_set(e, -EINVAL,
			"%s: the guest cannot give back %llu MiB of the %llu that it has", d->id,
			(unsigned long long)(bytes >> 20),
			(unsigned long long)(ram_pages(b) * PAGE_SIZE >> 20));
	pthread_mutex_lock(&d->lock);
	b->target = (uint32_t)pages;
	put_le32(b->config + CFG_NUM_PAGES, b->target);
	virtio_config_changed(&b->v);
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static void describe(struct device *d, json_t *into)
{
	struct balloon *b = container_of(d, struct balloon, v.dev);

	virtio_describe(&b->v, into);
	json_object_set_new(
		into, "target_bytes", json_integer((json_int_t)(b->target * PAGE_SIZE)));
	json_object_set_new(into, "actual_bytes",
		json_integer((json_int_t)(get_le32(b->config + CFG_ACTUAL) * PAGE_SIZE)));
}

/* The guest's own figures are the last that it sent; being asked for them asks it for new ones. */
static void stats(struct device *d, json_t *into)
{
	struct balloon *b = container_of(d, struct balloon, v.dev);
	const struct {
		const char *name;
		uint64_t value;
	} all[] = {
		{"target_bytes", b->target * PAGE_SIZE},
		{"actual_bytes", get_le32(b->config + CFG_ACTUAL) * PAGE_SIZE},
		{"inflated_pages", b->inflated},
		{"deflated_pages", b->deflated},
		{"reported_pages", b->reported},
		{"refused_pages", b->refused},
	};
	json_t *guest = json_object();

	pthread_mutex_lock(&d->lock);
	virtio_stats(&b->v, into);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		json_object_set_new(into, all[i].name, json_integer((json_int_t)all[i].value));
	for (unsigned i = 0; i < ARRAY_SIZE(stat_names); i++)
		if (b->stats_seen & 1u << i)
			json_object_set_new(
				guest, stat_names[i], json_integer((json_int_t)b->stat[i]));
	if (b->stats_seen)
		json_object_set_new(guest, "age_ms",
			json_integer((json_int_t)((clock_mono_ns() - b->stats_ns) / 1000000)));
	ask_stats(b);
	pthread_mutex_unlock(&d->lock);
	json_object_set_new(into, "guest", guest);
}

const struct device_class virtio_balloon_class = {
	.name = "virtio-balloon",
	.help = "memory that the guest gives back, asked for or by itself",
	.size = sizeof(struct balloon),
	.realize = realize,
	.unrealize = virtio_device_unrealize,
	.reset = reset,
	.quiesce = virtio_device_quiesce,
	.resume = virtio_device_resume,
	.state = &state,
	.describe = describe,
	.stats = stats,
};
