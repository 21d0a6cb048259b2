/*
 * virtio_vsock.h: options of the class "virtio-vsock" (virtio 1.2, section 5.10): sockets between the guest and
 * programs of the host, without a network. Stream sockets only. The host's side is vsock_host.h.
 *
 * Connections are no part of the machine's state: a machine that was loaded tells its driver that the transport was reset, and
 * the guest's sockets end.
 */
#ifndef LODGE_DEVICE_VIRTIO_VSOCK_H
#define LODGE_DEVICE_VIRTIO_VSOCK_H

#include <stdint.h>

#define VSOCK_CID_HOST 2u
#define VSOCK_CID_GUEST \
	3u /* each machine has its own host side, so that all guests may have the same */

struct virtio_vsock_opts {
	uint32_t cid; /* the guest's; above 2 */
	const char *path; /* of the Unix socket */
};

#endif
