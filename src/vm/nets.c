#include "vm/nets.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "net/announce/announce.h"
#include "net/wire.h"
#include "vm/internal.h"
#include "vm/switchdir.h"
#include "vm/update/update.h"

static int open_user(struct net_backend **out, const struct vm_net *n, const char *id,
	struct uv_loop_s *loop, struct err *e)
{
	struct net_fwd fwds[VM_MAX_FWDS];
	struct net_user_opts o = {.id = id, .loop = loop, .fwds = fwds, .nfwds = n->nfwds};

	if (n->nfwds > VM_MAX_FWDS)
		return err_set(e, -EINVAL, "%s: more than %d forwarded ports", id, VM_MAX_FWDS);
	for (unsigned i = 0; i < n->nfwds; i++)
		fwds[i] = (struct net_fwd){n->fwds[i].udp, n->fwds[i].host, n->fwds[i].host_port,
			n->fwds[i].guest, n->fwds[i].guest_port};
	return net_user_open(out, &o, e);
}

/* The port has the name of the machine and of its card. */
static int open_switch(struct net_backend **out, const struct vm_config *cfg,
	const struct vm_net *n, const char *id, struct uv_loop_s *loop, int fd, struct err *e)
{
	char path[PATH_MAX], port[NET_WIRE_NAME];
	int rc = switch_path(n->sw, "sock", path, sizeof(path), e);

	snprintf(port, sizeof(port), "%.24s.%.20s", cfg->name ?: "machine", id);
	if (!rc)
		rc = net_wire_open(out, &(struct net_wire_opts){id, port, path, loop, fd}, e);
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		return err_set(e, rc,
			"%s: there is no switch %s: start it with `lodge switch run %s`", id, n->sw,
			n->sw);
	return rc;
}

static int open_one(struct vm_nets *nets, const struct vm_config *cfg, unsigned i,
	struct uv_loop_s *loop, const struct vm_handed *handed, struct err *e)
{
	int fd = handed ? handed->net[i] : 0;
	const struct vm_net *n = &cfg->nets[i];
	struct virtio_net_opts *o = &nets->opts[i];
	int rc;

	if (n->id)
		snprintf(nets->id[i], sizeof(nets->id[i]), "%s", n->id);
	else
		snprintf(nets->id[i], sizeof(nets->id[i]), "net%u", i);
	rc = vm_net_mac(cfg, i, o->mac, e);
	if (rc)
		return rc;
	/* The connections of user networking stay in the process that made them: a cable leads there. */
	if (n->user && fd > 0)
		return net_wire_open(&o->net,
			&(struct net_wire_opts){nets->id[i], nets->id[i], NULL, loop, fd}, e);
	if (n->user)
		return open_user(&o->net, n, nets->id[i], loop, e);
	if (n->sw)
		return open_switch(&o->net, cfg, n, nets->id[i], loop, fd, e);
	return net_tap_open(&o->net,
		&(struct net_tap_opts){
			nets->id[i], loop, n->tap, fd, handed ? handed->net_accepts[i] : 0},
		e);
}

/* User networking is this host's own: nobody else learns where the guest is. */
static int add_announcer(struct vm_nets *nets, unsigned i, struct uv_loop_s *loop,
	void (*announced)(void *ctx, const struct json_t *params), void *ctx, struct err *e)
{
	struct net_backend **b = &nets->opts[i].net;
	struct announce_opts o = {nets->id[i], loop, announced, ctx};
	int rc = net_announcer_open(b, *b, &o, e);

	if (rc)
		net_close(*b);
	return rc;
}

int nets_open(struct vm_nets **out, const struct vm_config *cfg, struct uv_loop_s *loop,
	const struct vm_handed *handed, void (*announced)(void *ctx, const struct json_t *params),
	void *ctx, struct err *e)
{
	struct vm_nets *nets = calloc(1, sizeof(*nets));

	if (!nets)
		return err_set(e, -ENOMEM, "networks: out of memory");
	for (unsigned i = 0; i < cfg->nnets && i < VM_MAX_NETS; i++) {
		int rc = open_one(nets, cfg, i, loop, handed, e);

		if (!rc && !cfg->nets[i].user)
			rc = add_announcer(nets, i, loop, announced, ctx, e);

		if (rc) {
			nets_close(nets);
			return rc;
		}
		nets->n++;
	}
	*out = nets;
	return 0;
}

struct net_backend *nets_release(struct vm_nets *nets, unsigned i)
{
	struct net_backend *b = i < nets->n ? nets->opts[i].net : NULL;

	if (b)
		nets->opts[i].net = NULL;
	return b;
}

void nets_close(struct vm_nets *nets)
{
	if (!nets)
		return;
	for (unsigned i = 0; i < nets->n; i++)
		net_close(nets->opts[i].net);
	free(nets);
}

/* ---- announcements ---- */

json_t *vm_announce_addresses(struct vm *vm)
{
	json_t *all = json_object();

	for (unsigned i = 0; i < vm->nets->n; i++) {
		json_t *known = announce_addresses(vm->nets->opts[i].net);

		if (known)
			json_object_set_new(all, vm->nets->id[i], known);
	}
	return all;
}

int vm_announce(struct vm *vm, const json_t *addresses, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->nets->n; i++)
		if (!vm->o.cfg->nets[i].user)
			rc = announce_start(vm->nets->opts[i].net,
				json_object_get(addresses, vm->nets->id[i]), e);
	for (unsigned i = 0; !rc && i < vm->board->ndevices; i++)
		virtio_net_announce(vm->board->devices[i]);
	return rc;
}

void vm_announce_hold(struct vm *vm, bool held)
{
	for (unsigned i = 0; i < vm->nets->n; i++)
		announce_hold(vm->nets->opts[i].net, held);
}
