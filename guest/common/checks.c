/* Source: virtio 1.2 sections 5.2, 5.4. */
#include "guest/common/checks.h"

void check_rng(struct virtq *q, uint32_t (*go)(struct virtq *q, unsigned head))
{
	static uint64_t got[8];
	unsigned zeroes = 0;

	q->desc[0] = (struct virtq_desc){(uint64_t)got, sizeof(got), VIRTQ_WRITE, 0};
	for (unsigned round = 0; round < 20; round++) {
		uint32_t len;

		got[0] = 0;
		len = go(q, 0);
		if (!len || len > sizeof(got))
			fail("length of random bytes", len);
		zeroes += !*(volatile uint64_t *)got;
	}
	if (zeroes > 1)
		fail("random bytes are zero", zeroes);
}

void check_disk(struct virtq *q, uint32_t (*go)(struct virtq *q, unsigned head), uint64_t sectors)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head;
	static uint32_t data[256];
	static volatile uint8_t status;

	q->desc[0] = (struct virtq_desc){(uint64_t)&head, 16, VIRTQ_NEXT, 1};
	q->desc[1] = (struct virtq_desc){(uint64_t)data, sizeof(data), VIRTQ_NEXT | VIRTQ_WRITE, 2};
	q->desc[2] = (struct virtq_desc){(uint64_t)&status, 1, VIRTQ_WRITE, 0};
	for (uint64_t sector = 0; sector < sectors; sector += 2) {
		head.sector = sector;
		status = 255;
		if (go(q, 0) != sizeof(data) + 1 || status)
			fail("a read", status);
		for (unsigned i = 0; i < 256; i++)
			if (((volatile uint32_t *)data)[i] != sector + i / 128)
				fail("contents of a sector", data[i]);
	}
	/* Behind the end: an error and no more. */
	head.sector = 1ul << 50;
	go(q, 0);
	if (status != 1)
		fail("a read behind the end", status);
}
