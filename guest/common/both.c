/*
 * both.c: what a guest of either engine must find: exceptions, a timer, a second processor, accesses of each width, virtio-rng and virtio-blk
 * over PCI with message interrupts. One source for riscv64 and x86-64; isa.h is the difference.
 * The disk holds the number of each sector in every one of its words (tests/system/both.py makes it).
 * Source: PCI Express base specification 5.0 section 7; virtio 1.2 sections 4.1, 2.7, 5.2, 5.4.
 */
#include "guest/common/isa.h"

#define CFG(type, dev, off) (*(volatile type *)(isa_ecam + ((uint64_t)(dev) << 15) + (off)))
#define CFG8(dev, off) CFG(uint8_t, dev, off)
#define CFG16(dev, off) CFG(uint16_t, dev, off)
#define CFG32(dev, off) CFG(uint32_t, dev, off)
#define QUEUE 8

static void done(const char *what)
{
	put_text("ok ");
	put_text(what);
	put_text("\n");
}

static void expect(enum isa_event e, uint64_t n, const char *what)
{
	if (isa_count[e] != n)
		fail(what, isa_count[e]);
}

/* Sleeps until it has come n times. */
static void wait_for(enum isa_event e, uint64_t n, const char *what)
{
	uint64_t end = isa_ticks() + 20 * isa_second;

	while (isa_count[e] < n) {
		if (isa_ticks() > end)
			fail(what, isa_count[e]);
		isa_wait();
	}
	expect(e, n, what);
}

static void exceptions(void)
{
	for (unsigned i = 0; i < 100; i++)
		isa_break();
	expect(EV_BREAK, 100, "breakpoints");
	for (unsigned i = 0; i < 100; i++)
		isa_undefined();
	expect(EV_UNDEFINED, 100, "undefined instructions");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t at = isa_nowhere() + 8 * i;

		isa_touch(at, i & 1);
		if (isa_fault_address != at)
			fail("address of a page fault", isa_fault_address);
		if (isa_fault_write != (int)(i & 1))
			fail("direction of a page fault", i);
	}
	expect(EV_PAGE, 100, "page faults");
	done("exceptions");
}

static void timer(void)
{
	uint64_t begin = isa_ticks(), took;

	for (unsigned i = 1; i <= 20; i++) {
		isa_timer_in(5000);
		wait_for(EV_TIMER, i, "a timer");
	}
	took = isa_ticks() - begin;
	if (took < isa_second / 40)
		fail("20 timers of 5 ms took", took);
	done("timer");
}

/* ---- a second processor ---- */

static volatile unsigned second_is;
static volatile uint64_t shared;

static void second(unsigned cpu)
{
	uint64_t seen = isa_count[EV_IPI];

	second_is = cpu;
	for (unsigned i = 0; i < 20; i++) {
		while (isa_count[EV_IPI] == seen)
			isa_wait();
		seen = isa_count[EV_IPI];
		__atomic_add_fetch(&shared, 1, __ATOMIC_SEQ_CST);
	}
	second_is = 0;
}

static void processors(void)
{
	uint64_t end;

	if (!isa_start(1, second)) {
		put_text("one processor\n");
		return;
	}
	end = isa_ticks() + 20 * isa_second;
	while (second_is != 1)
		if (isa_ticks() > end)
			fail("a second processor", second_is);
	for (uint64_t i = 1; i <= 20; i++) {
		isa_ipi(1);
		while (shared != i)
			if (isa_ticks() > end)
				fail("an IPI", i);
	}
	done("a second processor");
}

/* ---- PCI ---- */

static struct {
	struct desc {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} desc[QUEUE];
	struct {
		uint16_t flags, idx, ring[QUEUE];
	} avail __attribute__((aligned(64)));
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, len;
		} ring[QUEUE];
	} used __attribute__((aligned(64)));
} ring __attribute__((aligned(4096)));

struct virtio {
	volatile uint8_t *common, *notify;
	uint32_t multiplier;
};

static uint64_t next_bar, messages;

static uint64_t place(unsigned dev, unsigned off)
{
	uint32_t low = CFG32(dev, off), size;
	uint64_t at;

	CFG32(dev, off) = ~0u;
	size = CFG32(dev, off);
	if (!size || low & 1) {
		CFG32(dev, off) = 0;
		return 0;
	}
	size = ~(size & ~15u) + 1;
	at = (next_bar + size - 1) & ~((uint64_t)size - 1);
	CFG32(dev, off) = (uint32_t)at;
	if ((low & 6) == 4)
		CFG32(dev, off + 4) = 0;
	if ((CFG32(dev, off) & ~15u) != (uint32_t)at)
		fail("a BAR keeps its address", CFG32(dev, off));
	next_bar = at + size;
	return at;
}

static void capabilities(unsigned dev, struct virtio *v)
{
	uint64_t bar[6] = {0}, message;
	uint32_t data;

	CFG16(dev, 4) = 0;
	for (unsigned n = 0; n < 6; n++) {
		int wide = (CFG32(dev, 0x10 + 4 * n) & 7) == 4;

		bar[n] = place(dev, 0x10 + 4 * n);
		n += wide;
	}
	CFG16(dev, 4) = 6; /* memory and bus master */
	v->common = v->notify = 0;
	isa_message(&message, &data);
	for (unsigned at = CFG8(dev, 0x34), n = 0; at && n < 48; at = CFG8(dev, at + 1), n++) {
		if (CFG8(dev, at) == 0x11) {
			volatile uint32_t *t = (volatile uint32_t *)(bar[CFG32(dev, at + 4) & 7] +
								     (CFG32(dev, at + 4) & ~7u));

			t[0] = (uint32_t)message;
			t[1] = (uint32_t)(message >> 32);
			t[2] = data;
			t[3] = 0;
			CFG16(dev, at + 2) = 0x8000;
		}
		if (CFG8(dev, at) != 9)
			continue;
		if (CFG8(dev, at + 3) == 1)
			v->common = (volatile uint8_t *)(bar[CFG8(dev, at + 4)] +
							 CFG32(dev, at + 8));
		if (CFG8(dev, at + 3) == 2) {
			v->notify = (volatile uint8_t *)(bar[CFG8(dev, at + 4)] +
							 CFG32(dev, at + 8));
			v->multiplier = CFG32(dev, at + 16);
		}
	}
	if (!v->common || !v->notify)
		fail("virtio capabilities", dev);
}

#define C8(v, off) (*(volatile uint8_t *)((v)->common + (off)))
#define C16(v, off) (*(volatile uint16_t *)((v)->common + (off)))
#define C32(v, off) (*(volatile uint32_t *)((v)->common + (off)))

static void address(struct virtio *v, unsigned off, const void *p)
{
	C32(v, off) = (uint32_t)(uint64_t)p;
	C32(v, off + 4) = (uint32_t)((uint64_t)p >> 32);
	if (C32(v, off) != (uint32_t)(uint64_t)p)
		fail("an address register keeps its value", C32(v, off));
}

static void start(struct virtio *v)
{
	volatile uint8_t *p = (volatile uint8_t *)&ring;

	for (unsigned i = 0; i < sizeof(ring); i++)
		p[i] = 0;
	C8(v, 20) = 0;
	while (C8(v, 20))
		;
	C8(v, 20) = 1;
	C8(v, 20) = 3;
	C32(v, 0) = 1;
	if (!(C32(v, 4) & 1))
		fail("VIRTIO_F_VERSION_1", C32(v, 4));
	C32(v, 8) = 0;
	C32(v, 12) = 0;
	C32(v, 8) = 1;
	C32(v, 12) = 1; /* VERSION_1, no other */
	C8(v, 20) = 11;
	if (C8(v, 20) != 11)
		fail("FEATURES_OK", C8(v, 20));
	C16(v, 22) = 0;
	if (C16(v, 24) < QUEUE)
		fail("size of queue 0", C16(v, 24));
	C16(v, 24) = QUEUE;
	C16(v, 26) = 0;
	if (C16(v, 26))
		fail("vector of queue 0", C16(v, 26));
	address(v, 32, ring.desc);
	address(v, 40, &ring.avail);
	address(v, 48, &ring.used);
	C16(v, 28) = 1;
	C8(v, 20) = 15;
}

/* Gives the chain that starts at descriptor 0 and sleeps until its message comes; returns the written length. */
static uint32_t go(struct virtio *v)
{
	uint16_t was = *(volatile uint16_t *)&ring.used.idx;

	ring.avail.ring[ring.avail.idx % QUEUE] = 0;
	isa_fence();
	ring.avail.idx++;
	isa_fence();
	*(volatile uint16_t *)(v->notify + (uint64_t)C16(v, 30) * v->multiplier) = 0;
	wait_for(EV_MESSAGE, ++messages, "a message");
	isa_fence();
	if ((uint16_t)(was + 1) != *(volatile uint16_t *)&ring.used.idx ||
		ring.used.ring[was % QUEUE].id)
		fail("used ring", ring.used.idx);
	return ring.used.ring[was % QUEUE].len;
}

static void rng(unsigned dev)
{
	static uint64_t got[8];
	struct virtio v;
	unsigned zeroes = 0;

	capabilities(dev, &v);
	start(&v);
	ring.desc[0] = (struct desc){(uint64_t)got, sizeof(got), 2, 0};
	for (unsigned round = 0; round < 20; round++) {
		uint32_t len;

		got[0] = 0;
		len = go(&v);
		if (!len || len > sizeof(got))
			fail("length of random bytes", len);
		zeroes += !got[0];
	}
	if (zeroes > 1)
		fail("random bytes are zero", zeroes);
	done("virtio-rng");
}

static void disk(unsigned dev)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head;
	static uint32_t data[256];
	static volatile uint8_t status;
	struct virtio v;

	capabilities(dev, &v);
	start(&v);
	ring.desc[0] = (struct desc){(uint64_t)&head, 16, 1, 1};
	ring.desc[1] = (struct desc){(uint64_t)data, sizeof(data), 1 | 2, 2};
	ring.desc[2] = (struct desc){(uint64_t)&status, 1, 2, 0};
	for (uint64_t sector = 0; sector < 20; sector += 2) {
		head.sector = sector;
		status = 255;
		if (go(&v) != sizeof(data) + 1 || status)
			fail("a read", status);
		for (unsigned i = 0; i < 256; i++)
			if (((volatile uint32_t *)data)[i] != sector + i / 128)
				fail("contents of a sector", data[i]);
	}
	/* Behind the end: an error and no more. */
	head.sector = 1ul << 50;
	go(&v);
	if (status != 1)
		fail("a read behind the end", status);
	done("virtio-blk");
}

/* The same register by each width, of memory and of the UART. */
static void widths(void)
{
	uint32_t id = CFG32(0, 0);

	if ((id & 0xffff) == 0xffff)
		fail("a host bridge", id);
	for (unsigned i = 0; i < 4; i++)
		if (CFG8(0, i) != (uint8_t)(id >> 8 * i) ||
			CFG16(0, i & 2) != (uint16_t)(id >> 8 * (i & 2)))
			fail("narrow reads of a register", i);
	if (CFG32(255, 0) != ~0u)
		fail("nothing answers in an empty slot", CFG32(255, 0));
	for (unsigned i = 0; i < 256; i++)
		if (isa_scratch(1, (uint8_t)i) != i || isa_scratch(0, 0) != i)
			fail("scratch register", i);
	done("widths");
}

int both(void)
{
	next_bar = isa_pci_window;
	widths();
	exceptions();
	timer();
	processors();
	for (unsigned dev = 0; dev < 32; dev++) {
		uint32_t id = CFG32(dev, 0);

		if (id == 0x10441af4 || id == 0x10051af4)
			rng(dev);
		if (id == 0x10421af4 || id == 0x10011af4)
			disk(dev);
	}
	return 0;
}
