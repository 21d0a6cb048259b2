/*
 * pci.c: walks bus 0 over ECAM, gives BARs their addresses, and drives virtio-rng and virtio-blk by polling.
 * The disk holds the number of each sector in every one of its words (tests/system/guests.py makes it).
 * Source: virtio 1.2 sections 5.2, 5.4.
 */
#include "rt.h"

#include "guest/common/virtio.h"

static struct virtq queue;
static unsigned rngs, disks;

static void start(struct virtio *v, unsigned dev)
{
	virtio_open(v, dev);
	virtio_begin(v, 0);
	virtq_set_up(v, &queue, 0, VIRTQ_NO_VECTOR);
	virtio_go(v);
}

/* Gives the chain that starts at descriptor 0 and waits; returns the written length. */
static uint32_t go(struct virtio *v)
{
	uint64_t end = csr_read(time) + 50000000;
	uint32_t len;
	int head;

	virtq_publish(&queue, 0);
	while ((head = virtq_take(&queue, &len)) < 0)
		if (csr_read(time) > end)
			fail("the device does not answer; status", virtio_status(v));
	if (head)
		fail("used ring", (uint64_t)head);
	return len;
}

static void rng(unsigned dev)
{
	static uint64_t got[8];
	struct virtio v;
	unsigned zeroes = 0;

	start(&v, dev);
	queue.desc[0] = (struct virtq_desc){(uint64_t)got, sizeof(got), 2, 0};
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

	start(&v, dev);
	queue.desc[0] = (struct virtq_desc){(uint64_t)&head, 16, 1, 1};
	queue.desc[1] = (struct virtq_desc){(uint64_t)data, sizeof(data), 1 | 2, 2};
	queue.desc[2] = (struct virtq_desc){(uint64_t)&status, 1, 2, 0};
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
	pci_start(0x30000000, 0x40000000);
	for (unsigned dev = 0; dev < 32; dev++) {
		uint32_t id = PCI32(dev, 0);

		if ((id & 0xffff) == 0xffff)
			continue;
		found++;
		put_dec(dev);
		put_text(" ");
		put_hex(id);
		put_text(" class ");
		put_hex(PCI32(dev, 8) >> 8);
		put_text("\n");
		if (virtio_type(dev) == VIRTIO_RNG)
			rng(dev);
		if (virtio_type(dev) == VIRTIO_BLK)
			disk(dev);
	}
	if (PCI32(32 * 8 - 1, 0) != ~0u)
		fail("nothing answers in an empty slot", PCI32(32 * 8 - 1, 0));
	put_text("rngs ");
	put_dec(rngs);
	put_text(" disks ");
	put_dec(disks);
	put_text("\n");
	if (!found || !rngs)
		fail("host bridge, rng", found);
	return 0;
}
