#include "guest/common/virtio.h"

#define C8(v, off) (*(volatile uint8_t *)((v)->common + (off)))
#define C16(v, off) (*(volatile uint16_t *)((v)->common + (off)))
#define C32(v, off) (*(volatile uint32_t *)((v)->common + (off)))

static uint64_t config_at, next_bar;

static void fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void pci_start(uint64_t ecam, uint64_t window)
{
	config_at = ecam;
	next_bar = window;
}

volatile void *pci_config(unsigned dev, unsigned off)
{
	return (volatile void *)(config_at + ((uint64_t)dev << 15) + off);
}

unsigned virtio_type(unsigned dev)
{
	static const uint8_t transitional[] = {
		VIRTIO_NET, VIRTIO_BLK, VIRTIO_BALLOON, VIRTIO_CONSOLE, 0, VIRTIO_RNG};
	uint32_t id = PCI32(dev, 0);

	if ((id & 0xffff) != 0x1af4)
		return 0;
	if (id >> 16 >= 0x1040 && id >> 16 < 0x1080)
		return (id >> 16) - 0x1040;
	return id >> 16 >= 0x1000 && id >> 16 < 0x1006 ? transitional[(id >> 16) - 0x1000] : 0;
}

/* Gives BAR at `off` a place; 0 where there is none, or one of ports. */
static uint64_t place(unsigned dev, unsigned off)
{
	uint32_t low = PCI32(dev, off), size;
	uint64_t at;

	PCI32(dev, off) = ~0u;
	size = PCI32(dev, off);
	if (!size || low & 1) {
		PCI32(dev, off) = 0;
		return 0;
	}
	size = ~(size & ~15u) + 1;
	if (size & (size - 1))
		fail("size of a BAR", size);
	at = (next_bar + size - 1) & ~((uint64_t)size - 1);
	PCI32(dev, off) = (uint32_t)at;
	if ((low & 6) == 4)
		PCI32(dev, off + 4) = (uint32_t)(at >> 32);
	if ((PCI32(dev, off) & ~15u) != (uint32_t)at)
		fail("a BAR keeps its address", PCI32(dev, off));
	next_bar = at + size;
	return at;
}

static void capability(unsigned dev, unsigned at, const uint64_t *bar, struct virtio *v)
{
	volatile uint8_t *where;

	if (PCI8(dev, at) == 0x11) {
		v->table = (volatile uint32_t *)(bar[PCI32(dev, at + 4) & 7] +
						 (PCI32(dev, at + 4) & ~7u));
		PCI16(dev, at + 2) = 0x8000;
	}
	if (PCI8(dev, at) != 9)
		return;
	where = (volatile uint8_t *)(bar[PCI8(dev, at + 4)] + PCI32(dev, at + 8));
	switch (PCI8(dev, at + 3)) {
	case 1:
		v->common = where;
		break;
	case 2:
		v->notify = where;
		v->multiplier = PCI32(dev, at + 16);
		break;
	case 4:
		v->config = where;
		break;
	}
}

void virtio_open(struct virtio *v, unsigned dev)
{
	uint64_t bar[8] = {0};
	unsigned n = 0;

	*v = (struct virtio){0};
	PCI16(dev, 4) = 0;
	for (unsigned i = 0; i < 6; i++) {
		int wide = (PCI32(dev, 0x10 + 4 * i) & 7) == 4;

		bar[i] = place(dev, 0x10 + 4 * i);
		i += (unsigned)wide;
	}
	PCI16(dev, 4) = 6; /* memory and bus master */
	for (unsigned at = PCI8(dev, 0x34); at; at = PCI8(dev, at + 1)) {
		if (++n > 48)
			fail("capabilities without end", dev);
		capability(dev, at, bar, v);
	}
	if (!v->common || !v->notify)
		fail("virtio capabilities", dev);
}

void virtio_message(struct virtio *v, unsigned n, uint64_t address, uint32_t data)
{
	if (!v->table)
		fail("a table of MSI-X", n);
	v->table[4 * n] = (uint32_t)address;
	v->table[4 * n + 1] = (uint32_t)(address >> 32);
	v->table[4 * n + 2] = data;
	v->table[4 * n + 3] = 0;
}

void virtio_stop(struct virtio *v)
{
	C8(v, 20) = 0;
	while (C8(v, 20))
		;
}

uint32_t virtio_begin(struct virtio *v, uint32_t want)
{
	virtio_stop(v);
	C8(v, 20) = 1;
	C8(v, 20) = 3;
	C32(v, 0) = 0;
	want &= C32(v, 4);
	C32(v, 0) = 1;
	if (!(C32(v, 4) & 1))
		fail("VIRTIO_F_VERSION_1", C32(v, 4));
	C32(v, 8) = 0;
	C32(v, 12) = want;
	C32(v, 8) = 1;
	C32(v, 12) = 1;
	C8(v, 20) = 11;
	if (C8(v, 20) != 11)
		fail("FEATURES_OK", C8(v, 20));
	return want;
}

static void address(struct virtio *v, unsigned off, const volatile void *p)
{
	C32(v, off) = (uint32_t)(uint64_t)p;
	C32(v, off + 4) = (uint32_t)((uint64_t)p >> 32);
}

unsigned virtq_most(struct virtio *v, unsigned index)
{
	C16(v, 22) = (uint16_t)index;
	return C16(v, 24);
}

void virtq_place(struct virtio *v, unsigned index, unsigned size, const volatile void *desc,
	const volatile void *avail, const volatile void *used)
{
	C16(v, 22) = (uint16_t)index;
	C16(v, 24) = (uint16_t)size;
	address(v, 32, desc);
	address(v, 40, avail);
	address(v, 48, used);
	C16(v, 28) = 1;
}

void virtq_set_up(struct virtio *v, struct virtq *q, unsigned index, unsigned vector)
{
	volatile uint64_t *p = (volatile uint64_t *)q;

	for (unsigned i = 0; i < sizeof(*q) / sizeof(*p); i++)
		p[i] = 0;
	if (virtq_most(v, index) < VIRTQ_SIZE)
		fail("size of a queue", index);
	C16(v, 26) = (uint16_t)vector;
	if (C16(v, 26) != vector)
		fail("vector of a queue", C16(v, 26));
	virtq_place(v, index, VIRTQ_SIZE, q->desc, &q->avail, &q->used);
	if (C32(v, 40) != (uint32_t)(uint64_t)&q->avail)
		fail("an address register keeps its value", C32(v, 40));
	q->bell = (volatile uint16_t *)(v->notify + (uint64_t)C16(v, 30) * v->multiplier);
	q->index = (uint16_t)index;
}

void virtio_go(struct virtio *v)
{
	C8(v, 20) = 15;
}

uint8_t virtio_status(struct virtio *v)
{
	return C8(v, 20);
}

void virtq_publish(struct virtq *q, unsigned head)
{
	uint16_t idx = *(volatile uint16_t *)&q->avail.idx;

	*(volatile uint16_t *)&q->avail.ring[idx % VIRTQ_SIZE] = (uint16_t)head;
	fence();
	*(volatile uint16_t *)&q->avail.idx = (uint16_t)(idx + 1);
	fence();
	*q->bell = q->index;
}

int virtq_take(struct virtq *q, uint32_t *len)
{
	volatile uint32_t *e;

	if (*(volatile uint16_t *)&q->used.idx == q->taken)
		return -1;
	fence();
	e = (volatile uint32_t *)&q->used.ring[q->taken++ % VIRTQ_SIZE];
	if (e[0] >= VIRTQ_SIZE)
		fail("a used chain", e[0]);
	*len = e[1];
	return (int)e[0];
}
