/*
 * pci.c: walks bus 0 over ECAM, gives BARs their addresses, and drives virtio-rng and virtio-blk by polling.
 * The disk holds the number of each sector in every one of its words (tests/system/guests.py makes it).
 * Source: PCI Express base specification 5.0 section 7; virtio 1.2 sections 4.1, 2.7, 5.2, 5.4.
 */
#include "rt.h"

#define ECAM 0x30000000ul
#define CFG32(dev, off) (*(volatile uint32_t *)(ECAM + ((uint64_t)(dev) << 15) + (off)))
#define CFG8(dev, off) (*(volatile uint8_t *)(ECAM + ((uint64_t)(dev) << 15) + (off)))
#define CFG16(dev, off) (*(volatile uint16_t *)(ECAM + ((uint64_t)(dev) << 15) + (off)))
#define QUEUE 8

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
static struct {
	struct desc desc[QUEUE];
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

static uint64_t next_bar = 0x40000000;
static unsigned rngs, disks;

static void place_bars(unsigned dev)
{
	CFG16(dev, 4) = 0;
	for (unsigned off = 0x10; off < 0x28; off += 4) {
		uint32_t low, size;
		int wide;

		low = CFG32(dev, off);
		CFG32(dev, off) = ~0u;
		size = CFG32(dev, off);
		if (!size)
			continue;
		wide = !(low & 1) && (low & 6) == 4;
		if (low & 1) {
			CFG32(dev, off) = 0;
			continue;
		}
		size = ~(size & ~15u) + 1;
		if (size & (size - 1))
			fail("size of a BAR", size);
		next_bar = (next_bar + size - 1) & ~((uint64_t)size - 1);
		CFG32(dev, off) = (uint32_t)next_bar;
		if (wide)
			CFG32(dev, off + 4) = (uint32_t)(next_bar >> 32);
		if ((CFG32(dev, off) & ~15u) != (uint32_t)next_bar)
			fail("a BAR keeps its address", CFG32(dev, off));
		next_bar += size;
		off += wide ? 4 : 0;
	}
	CFG16(dev, 4) = 6; /* memory and bus master */
}

static uint64_t bar_of(unsigned dev, unsigned n)
{
	uint64_t low = CFG32(dev, 0x10 + 4 * n);

	if ((low & 6) == 4)
		low |= (uint64_t)CFG32(dev, 0x14 + 4 * n) << 32;
	return low & ~15ul;
}

static void capabilities(unsigned dev, struct virtio *v)
{
	unsigned n = 0;

	v->common = v->notify = 0;
	for (unsigned at = CFG8(dev, 0x34); at; at = CFG8(dev, at + 1)) {
		uint64_t where;

		if (++n > 48)
			fail("capabilities without end", dev);
		if (CFG8(dev, at) != 9)
			continue;
		where = bar_of(dev, CFG8(dev, at + 4)) + CFG32(dev, at + 8);
		if (CFG8(dev, at + 3) == 1)
			v->common = (volatile uint8_t *)where;
		if (CFG8(dev, at + 3) == 2) {
			v->notify = (volatile uint8_t *)where;
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
}

static void start(struct virtio *v)
{
	uint8_t *p = (uint8_t *)&ring;

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
	address(v, 32, ring.desc);
	address(v, 40, &ring.avail);
	address(v, 48, &ring.used);
	C16(v, 28) = 1;
	C8(v, 20) = 15;
}

/* Gives the chain that starts at descriptor 0 and waits; returns the written length. */
static uint32_t go(struct virtio *v)
{
	uint16_t was = *(volatile uint16_t *)&ring.used.idx;
	uint64_t end = csr_read(time) + 50000000;

	ring.avail.ring[ring.avail.idx % QUEUE] = 0;
	__asm__ volatile("fence rw, rw" ::: "memory");
	ring.avail.idx++;
	__asm__ volatile("fence rw, rw" ::: "memory");
	*(volatile uint16_t *)(v->notify + (uint64_t)C16(v, 30) * v->multiplier) = 0;
	while (*(volatile uint16_t *)&ring.used.idx == was)
		if (csr_read(time) > end)
			fail("the device does not answer; status", C8(v, 20));
	__asm__ volatile("fence rw, rw" ::: "memory");
	if ((uint16_t)(was + 1) != ring.used.idx || ring.used.ring[was % QUEUE].id)
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

		for (unsigned i = 0; i < 8; i++)
			got[i] = 0;
		len = go(&v);
		if (!len || len > sizeof(got))
			fail("length of random bytes", len);
		zeroes += !got[0];
	}
	if (zeroes > 1)
		fail("random bytes are zero", zeroes);
	rngs++;
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
	for (uint64_t sector = 0; sector < 100; sector += 2) {
		head.sector = sector;
		status = 255;
		if (go(&v) != sizeof(data) + 1 || status)
			fail("a read", status);
		for (unsigned i = 0; i < 256; i++)
			if (data[i] != sector + i / 128)
				fail("contents of a sector", data[i]);
	}
	/* Behind the end: an error and no more. */
	head.sector = 1ul << 50;
	go(&v);
	if (status != 1)
		fail("a read behind the end", status);
	disks++;
}

int main(uint64_t hart)
{
	unsigned found = 0;

	if (hart)
		return 0;
	for (unsigned dev = 0; dev < 32; dev++) {
		uint32_t id = CFG32(dev, 0);

		if ((id & 0xffff) == 0xffff)
			continue;
		found++;
		put_dec(dev);
		put_text(" ");
		put_hex(id);
		put_text(" class ");
		put_hex(CFG32(dev, 8) >> 8);
		put_text("\n");
		if (CFG32(dev, 8) >> 16 != 0x600)
			place_bars(dev);
		if (id == 0x10441af4 || id == 0x10051af4)
			rng(dev);
		if (id == 0x10421af4 || id == 0x10011af4)
			disk(dev);
	}
	if (CFG32(32 * 8 - 1, 0) != ~0u)
		fail("nothing answers in an empty slot", CFG32(32 * 8 - 1, 0));
	put_text("rngs ");
	put_dec(rngs);
	put_text(" disks ");
	put_dec(disks);
	put_text("\n");
	if (!found || !rngs)
		fail("host bridge, rng", found);
	return 0;
}
