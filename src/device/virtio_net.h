/*
 * virtio_net.h: options of the class "virtio-net" (virtio 1.2, section 5.1): a network card on a packet back end (net/net.h).
 *
 * One pair of queues and a control queue. Checksums and segmentation are offered as far as the back end goes.
 * The back end belongs to whoever made it and must outlive the device.
 */
#ifndef LODGE_DEVICE_VIRTIO_NET_H
#define LODGE_DEVICE_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

struct net_backend;

struct virtio_net_opts {
	struct net_backend *net;
	uint8_t mac[6];
};

struct device;
/*
 * Asks the driver to announce the guest's addresses (VIRTIO_NET_F_GUEST_ANNOUNCE; virtio 1.2, section 5.1.6.5.4). False: it cannot, or `d` is no card. Loop
 * thread.
 */
bool virtio_net_announce(struct device *d);

#endif
