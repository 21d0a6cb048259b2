/*
 * virtio_balloon.h: the class "virtio-balloon" (virtio 1.2, section 5.5): memory that the guest gives back to the host. It takes no options.
 *
 * Two ways, both through space_discard(): the balloon, in which the guest puts as many pages as it is asked to, and free page
 * reporting, by which it names pages that it does not use without being asked.
 */
#ifndef LODGE_DEVICE_VIRTIO_BALLOON_H
#define LODGE_DEVICE_VIRTIO_BALLOON_H

#include <stdint.h>

struct device;
struct err;

/*
 * Asks the guest to give `bytes` (rounded down to pages) back in all; 0: it may take everything again. It obeys when it can, and may take pages back when
 * it runs out of memory. -EINVAL: d is not a balloon, or more than the machine's memory. Loop thread, not under the device's lock.
 */
int virtio_balloon_set(struct device *d, uint64_t bytes, struct err *e);

#endif
