/*
 * hostile.c: a guest of either engine that does to its devices what no driver may. Loads and stores of every width and misalignment over the
 * windows of the board (isa_windows) and over ECAM; then, for every virtio device, rings and registers that lie. What is shown: the
 * machine goes on, each device answers or asks for its reset, and after one a well-meant request is served.
 * Source: virtio 1.2 sections 2.1, 2.7; defects that other monitors had.
 */
#include "guest/common/isa.h"
#include "guest/common/virtio.h"

#define INDIRECT 4u
#define F_INDIRECT (1u << 28)
#define NEEDS_RESET 0x40

static uint64_t rnd(void)
{
	static uint64_t s = 88172645463325252ul;

	s ^= s << 13;
	s ^= s >> 7;
	return s ^= s << 17;
}

static void touch(const struct isa_window *w, uint64_t at, unsigned width)
{
	isa_load(at, width);
	if (isa_harmless(at, 1u << width) && !w->readonly)
		isa_store(at, width, rnd());
}

static void sweep(const struct isa_window *w)
{
	for (uint64_t off = 0; off < w->size; off += w->step)
		for (unsigned width = 0; width < 4; width++)
			for (unsigned skew = 0; skew < 8; skew++)
				touch(w, w->base + off + skew, width);
	for (unsigned i = 0; i < 500; i++)
		touch(w, w->base + rnd() % (w->size - 8), (unsigned)rnd() & 3);
	isa_uart_again();
	put_text("ok sweep of ");
	put_text(w->name);
	put_text("\n");
}

/* ---- rings ---- */

static struct virtq q;
static struct virtq_desc table[4];
static uint8_t good[64];

static unsigned loop(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)good, 16, VIRTQ_NEXT | VIRTQ_WRITE, 1};
	q.desc[1] = (struct virtq_desc){(uint64_t)good, 16, VIRTQ_NEXT | VIRTQ_WRITE, 0};
	return 0;
}

static unsigned next_outside(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)good, 16, VIRTQ_NEXT, VIRTQ_SIZE + 100};
	return 0;
}

static unsigned beyond_ram(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){1ul << 60, 64, VIRTQ_WRITE, 0};
	return 0;
}

static unsigned around_the_end(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){~10ul, 4096, VIRTQ_WRITE, 0};
	return 0;
}

static unsigned of_a_device(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){isa_ecam, 4096, VIRTQ_WRITE, 0};
	return 0;
}

static unsigned no_length(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)good, 0, VIRTQ_WRITE, 0};
	return 0;
}

static unsigned four_gigabytes(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)good, ~0u, VIRTQ_NEXT, 1};
	q.desc[1] = (struct virtq_desc){(uint64_t)good, ~0u, VIRTQ_WRITE, 0};
	return 0;
}

static unsigned wrong_order(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)good, 16, VIRTQ_WRITE | VIRTQ_NEXT, 1};
	q.desc[1] = (struct virtq_desc){(uint64_t)good, 16, 0, 0};
	return 0;
}

static unsigned nested(struct virtio *v)
{
	table[0] = (struct virtq_desc){(uint64_t)table, sizeof(table), INDIRECT, 0};
	q.desc[0] = (struct virtq_desc){(uint64_t)table, sizeof(table), INDIRECT, 0};
	return 0;
}

static unsigned odd_table(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)table, 17, INDIRECT, 0};
	return 0;
}

static unsigned empty_table(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)table, 0, INDIRECT, 0};
	return 0;
}

static unsigned table_and_next(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)table, sizeof(table), INDIRECT | VIRTQ_NEXT, 1};
	return 0;
}

static unsigned table_beyond_ram(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){1ul << 49, 64, INDIRECT, 0};
	return 0;
}

static unsigned endless_table(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)table, 0xfffffff0, INDIRECT, 0};
	return 0;
}

static unsigned head_outside(struct virtio *v)
{
	return 200;
}

static unsigned index_ahead(struct virtio *v)
{
	*(volatile uint16_t *)&q.avail.idx = 1000;
	return 0;
}

static unsigned used_outside(struct virtio *v)
{
	q.desc[0] = (struct virtq_desc){(uint64_t)good, 16, VIRTQ_WRITE, 0};
	virtq_place(v, 0, VIRTQ_SIZE, q.desc, &q.avail, (void *)(1ul << 49));
	return 0;
}

static unsigned table_in_device(struct virtio *v)
{
	virtq_place(v, 0, VIRTQ_SIZE, v->common, v->common, v->common);
	return 0;
}

static unsigned size_of_three(struct virtio *v)
{
	virtq_place(v, 0, 3, q.desc, &q.avail, &q.used);
	return 0;
}

static unsigned size_of_nothing(struct virtio *v)
{
	virtq_place(v, 0, 0, q.desc, &q.avail, &q.used);
	return 0;
}

static unsigned size_of_all(struct virtio *v)
{
	virtq_place(v, 0, 0xffff, q.desc, &q.avail, &q.used);
	return 0;
}

static unsigned unaligned(struct virtio *v)
{
	virtq_place(
		v, 0, VIRTQ_SIZE, (char *)q.desc + 1, (char *)&q.avail + 1, (char *)&q.used + 1);
	return 0;
}

static unsigned (*const lies[])(struct virtio *) = {loop, next_outside, beyond_ram, around_the_end,
	of_a_device, no_length, four_gigabytes, wrong_order, nested, odd_table, empty_table,
	table_and_next, table_beyond_ram, endless_table, head_outside, index_ahead, used_outside,
	table_in_device, size_of_three, size_of_nothing, size_of_all, unaligned};

/* Until it has answered or wants its reset, or for a while. */
static unsigned outcome(struct virtio *v, uint64_t ticks)
{
	uint64_t end = isa_ticks() + ticks;
	uint32_t len;

	while (isa_ticks() < end) {
		if (virtio_status(v) & NEEDS_RESET)
			return 1;
		if (*(volatile uint16_t *)&q.used.idx != q.taken)
			return virtq_take(&q, &len) >= 0 ? 2 : 0;
	}
	return 0;
}

static void attack(unsigned dev)
{
	unsigned count[3] = {0}, type = virtio_type(dev);
	/* The queue that it reads without being given something from outside. */
	unsigned busy = type != VIRTIO_BLK && type != VIRTIO_RNG && type != VIRTIO_BALLOON;
	struct virtio v;

	virtio_open(&v, dev);
	for (unsigned queue = 0; queue < 2; queue++)
		for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
			int sure = lies[i] == head_outside && queue == busy;
			unsigned head, how;

			virtio_begin(&v, F_INDIRECT);
			if (queue && virtq_most(&v, queue) < VIRTQ_SIZE)
				break;
			virtq_set_up(&v, &q, 0, VIRTQ_NO_VECTOR);
			if (queue)
				virtq_set_up(&v, &q, queue, VIRTQ_NO_VECTOR);
			head = lies[i](&v);
			virtio_go(&v);
			virtq_publish(&q, head);
			how = outcome(&v, sure ? 20 * isa_second : isa_second / 100);
			if (sure && how != 1)
				fail("a device that takes everything", type);
			count[how]++;
			virtio_stop(&v);
			/* Stopped in the middle of a request, and asked when it is stopped. */
			virtio_begin(&v, 0);
			virtq_set_up(&v, &q, queue, VIRTQ_NO_VECTOR);
			q.desc[0] = (struct virtq_desc){
				(uint64_t)good, sizeof(good), VIRTQ_WRITE, 0};
			virtio_go(&v);
			virtq_publish(&q, 0);
			virtio_stop(&v);
			virtq_publish(&q, 0);
		}
	put_text("ok rings of ");
	put_dec(type);
	put_text(": silent ");
	put_dec(count[0]);
	put_text(" reset ");
	put_dec(count[1]);
	put_text(" answered ");
	put_dec(count[2]);
	put_text("\n");
}

/* What is meant well is served after all that. */
static void still_works(unsigned dev)
{
	uint64_t end = isa_ticks() + 10 * isa_second;
	struct virtio v;
	uint32_t len;

	virtio_open(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &q, 0, VIRTQ_NO_VECTOR);
	virtio_go(&v);
	q.desc[0] = (struct virtq_desc){(uint64_t)good, sizeof(good), VIRTQ_WRITE, 0};
	virtq_publish(&q, 0);
	while (virtq_take(&q, &len) < 0)
		if (isa_ticks() > end)
			fail("random bytes after all", virtio_status(&v));
	put_text("ok the rng still works\n");
}

int both(void)
{
	for (const struct isa_window *w = isa_windows; w->name; w++)
		sweep(w);
	pci_start(isa_ecam, isa_pci_window);
	for (unsigned dev = 1; dev < 32; dev++)
		if (virtio_type(dev))
			attack(dev);
	for (unsigned dev = 1; dev < 32; dev++)
		if (virtio_type(dev) == VIRTIO_RNG)
			still_works(dev);
	return 0;
}
