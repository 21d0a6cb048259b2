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
	int listening; /* a descriptor that listens there already, from another process; 0: none. Owned on success */
};

/*
 * The connections go on in another process (live update), beside the described state: NULL when `d` is no vsock device, or memory is short.
 * Places in `fds` name the descriptors. take_over() follows the loading of the described state; -EINVAL: not such an object. forget(): the
 * path is another process's now. Loop thread, the machine quiesced.
 */
struct device;
struct err;
struct fdlist;
struct json_t;
struct json_t *virtio_vsock_hand_over(struct device *d, struct fdlist *fds);
int virtio_vsock_take_over(
	struct device *d, const struct json_t *j, struct fdlist *fds, struct err *e);
void virtio_vsock_forget(struct device *d);
int virtio_vsock_listening(struct device *d); /* the descriptor; -1: no vsock device */

#endif
