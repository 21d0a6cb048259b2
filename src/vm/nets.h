/*
 * nets.h: the network back ends of a machine's definition, opened before the sandbox and closed after the board is gone.
 */
#ifndef LODGE_VM_NETS_H
#define LODGE_VM_NETS_H

#include "device/virtio_net.h"
#include "vm/config/config.h"

struct uv_loop_s;
struct vm;
struct vm_handed;
struct json_t;

struct vm_nets {
	unsigned n;
	char id[VM_MAX_NETS][32];
	struct virtio_net_opts opts[VM_MAX_NETS];
};

/* `handed`: what another process has of them (update/update.h), or NULL. `announced`: of announcements. What fails is unwound; nets_close() is then not needed but allowed. */
int nets_open(struct vm_nets **out, const struct vm_config *cfg, struct uv_loop_s *loop,
	const struct vm_handed *handed, void (*announced)(void *ctx, const struct json_t *params),
	void *ctx, struct err *e);
/*
 * Announcements (net/announce/announce.h), for who brings a machine to another host: what each card knows of its guest, {"net0": {...}}, goes along, and
 * when the guest runs there, vm_announce() asks the network, card by card, and the guest's drivers to do the same. NULL: only what was seen here. What comes
 * of it are events "announce". vm_announce_hold(true) when the guest stands still to go on elsewhere: not one more frame; false: it goes on here after all.
 */
struct json_t *vm_announce_addresses(struct vm *vm);
int vm_announce(struct vm *vm, const struct json_t *addresses, struct err *e);
void vm_announce_hold(struct vm *vm, bool held);

/* The back end of a network, now the caller's. After it the card has none: it is about to go. */
struct net_backend *nets_release(struct vm_nets *nets, unsigned i);
void nets_close(struct vm_nets *nets);

#endif
