/*
 * nets.h: the network back ends of a machine's definition, opened before the sandbox and closed after the board is gone.
 */
#ifndef LODGE_VM_NETS_H
#define LODGE_VM_NETS_H

#include "device/virtio_net.h"
#include "vm/config.h"

struct uv_loop_s;
struct vm_handed;

struct vm_nets {
	unsigned n;
	char id[VM_MAX_NETS][32];
	struct virtio_net_opts opts[VM_MAX_NETS];
};

/* `handed`: what another process has of them (update/update.h), or NULL. What fails is unwound; nets_close() is then not needed but allowed. */
int nets_open(struct vm_nets **out, const struct vm_config *cfg, struct uv_loop_s *loop,
	const struct vm_handed *handed, struct err *e);
/* The back end of a network, now the caller's. After it the card has none: it is about to go. */
struct net_backend *nets_release(struct vm_nets *nets, unsigned i);
void nets_close(struct vm_nets *nets);

#endif
