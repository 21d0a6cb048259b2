/*
 * diskstamp.c: a guest by which a disk that moves shows of what moment it is. On both engines; tests/system/migrate-disks.py.
 *
 * Each round has a generation. One block after the other of every disk is read, must hold what memory says, and is written with this generation; each
 * sixteenth block is written together with its neighbours. A disk that is older or newer than memory ends the guest with FAIL.
 *
 * Source: virtio 1.2 section 5.2.
 */
#include "guest/common/isa.h"
#include "guest/common/virtio.h"

#define BLOCK 4096u
#define WORDS (BLOCK / 8)
#define BLOCKS 64u
#define TOGETHER 8u
#define DISKS 4u
#define F_FLUSH (1u << 9)

enum { T_IN, T_OUT, T_FLUSH = 4 };

struct drive {
	struct virtio v;
	struct virtq q;
	uint64_t gen[BLOCKS]; /* what each block holds */
};

static struct drive drive[DISKS];
static uint64_t data[TOGETHER][WORDS];

static void request(struct drive *d, uint32_t type, uint64_t block, unsigned n)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head;
	static volatile uint8_t status;
	unsigned k = 0;
	uint32_t len;

	head.type = type;
	head.sector = block * (BLOCK / 512);
	status = 255;
	d->q.desc[k] = (struct virtq_desc){(uint64_t)&head, 16, VIRTQ_NEXT, k + 1};
	k++;
	if (n) {
		d->q.desc[k] = (struct virtq_desc){(uint64_t)data, n * BLOCK,
			VIRTQ_NEXT | (type == T_IN ? VIRTQ_WRITE : 0), k + 1};
		k++;
	}
	d->q.desc[k] = (struct virtq_desc){(uint64_t)&status, 1, VIRTQ_WRITE, 0};
	virtq_publish(&d->q, 0);
	while (virtq_take(&d->q, &len) < 0)
		;
	if (status)
		fail("a request on the disk", block);
}

static uint64_t word(uint64_t block, uint64_t gen, unsigned i)
{
	return gen ? gen << 32 ^ block << 12 ^ i : 0;
}

static void look(const struct drive *d, uint64_t first, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		for (unsigned i = 0; i < WORDS; i++) {
			uint64_t has = ((volatile uint64_t *)data[k])[i];

			if (has == word(first + k, d->gen[first + k], i))
				continue;
			put_text("block ");
			put_dec(first + k);
			put_text(" of generation ");
			put_dec(d->gen[first + k]);
			fail(": holds", has);
		}
}

static void step(struct drive *d, uint64_t first, unsigned n, uint64_t gen)
{
	request(d, T_IN, first, n);
	look(d, first, n);
	for (unsigned k = 0; k < n; k++) {
		d->gen[first + k] = gen;
		for (unsigned i = 0; i < WORDS; i++)
			((volatile uint64_t *)data[k])[i] = word(first + k, gen, i);
	}
	request(d, T_OUT, first, n);
}

int both(void)
{
	unsigned n = 0;

	pci_start(isa_ecam, isa_pci_window);
	for (unsigned dev = 1; dev < 32 && n < DISKS; dev++) {
		struct drive *d = &drive[n];

		if (virtio_type(dev) != VIRTIO_BLK)
			continue;
		virtio_open(&d->v, dev);
		if (!virtio_begin(&d->v, F_FLUSH))
			fail("a disk without flush", dev);
		virtq_set_up(&d->v, &d->q, 0, VIRTQ_NO_VECTOR);
		virtio_go(&d->v);
		n++;
	}
	put_text("diskstamp: disks ");
	put_dec(n);
	put_text("\n");
	for (uint64_t gen = 1;; gen++) {
		for (uint64_t b = 0; b < BLOCKS; b += b % 16 < TOGETHER ? TOGETHER : 1)
			for (unsigned k = 0; k < n; k++)
				step(&drive[k], b, b % 16 < TOGETHER ? TOGETHER : 1, gen);
		for (unsigned k = 0; k < n; k++)
			request(&drive[k], T_FLUSH, 0, 0);
		put_text("disk rounds ");
		put_dec(gen);
		put_text("\n");
	}
}
