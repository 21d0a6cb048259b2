/*
 * pci.c: walks bus 0 over ECAM, gives BARs their addresses, and drives every virtio-rng and virtio-blk by polling (guest/common/both_devices.c: by
 * message interrupts). tests/system/guests.py makes the disks.
 */
#include "rt.h"

#include "guest/common/checks.h"

static struct virtq queue;
static unsigned rngs, disks;

static void start(unsigned dev)
{
	struct virtio v;

	virtio_open(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &queue, 0, VIRTQ_NO_VECTOR);
	virtio_go(&v);
}

static uint32_t go(struct virtq *q, unsigned first)
{
	uint64_t end = csr_read(time) + 50000000;
	uint32_t len;
	int head;

	virtq_publish(q, first);
	while ((head = virtq_take(q, &len)) < 0)
		if (csr_read(time) > end)
			fail("the device does not answer", q->index);
	if (head != (int)first)
		fail("used ring", (uint64_t)head);
	return len;
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
		if (virtio_type(dev) == VIRTIO_RNG) {
			start(dev);
			check_rng(&queue, go);
			rngs++;
		}
		if (virtio_type(dev) == VIRTIO_BLK) {
			start(dev);
			check_disk(&queue, go, 100);
			disks++;
		}
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
