/*
 * checks.h: what rng and disk have to do, however a guest waits for them.
 *
 * `go` gives the chain that begins at descriptor `head`, waits until the device has used it, and returns how much it wrote. The device is set up with
 * this queue, and runs.
 */
#ifndef GUEST_CHECKS_H
#define GUEST_CHECKS_H

#include "guest/common/virtio.h"

void check_rng(struct virtq *q, uint32_t (*go)(struct virtq *q, unsigned head));
/* The disk holds the number of each sector in every one of its words; so many of them are read. */
void check_disk(struct virtq *q, uint32_t (*go)(struct virtq *q, unsigned head), uint64_t sectors);

#endif
