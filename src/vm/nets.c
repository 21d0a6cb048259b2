#include "vm/nets.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "net/wire.h"
#include "vm/switchdir.h"

/* FNV-1a, finished by a mixer: short names must differ in every byte of the address. */
static uint64_t hash(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3;
	return h;
}

/*
 * Given; else made from the seed, or the machine's name, so that a machine keeps its address; else by lot. 0x52 is "locally administered,
 * unicast" (IEEE 802).
 */
static int make_mac(uint8_t mac[6], const struct vm_config *cfg, unsigned i, struct err *e)
{
	uint64_t h = 0xcbf29ce484222325;
	uint8_t raw[8];

	if (cfg->nets[i].mac)
		return vm_mac_parse(cfg->nets[i].mac, mac, e);
	put_le64(raw, cfg->seed);
	if (cfg->has_seed)
		h = hash(h, raw, sizeof(raw));
	else if (cfg->name)
		h = hash(h, cfg->name, strlen(cfg->name));
	else if (getrandom(&h, sizeof(h), 0) != sizeof(h))
		return err_sys(e, -errno, "net%u: random numbers", i);
	h = hash(h, &(uint8_t){(uint8_t)i}, 1);
	h ^= h >> 32;
	h *= 0x9e3779b97f4a7c15;
	put_be64(raw, h);
	mac[0] = 0x52;
	memcpy(mac + 1, raw, 5);
	return 0;
}

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
	const struct vm_net *n, const char *id, struct uv_loop_s *loop, struct err *e)
{
	char path[PATH_MAX], port[NET_WIRE_NAME];
	int rc = switch_path(n->sw, "sock", path, sizeof(path), e);

	snprintf(port, sizeof(port), "%.24s.%.20s", cfg->name ?: "machine", id);
	if (!rc)
		rc = net_wire_open(out, &(struct net_wire_opts){id, port, path, loop}, e);
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		return err_set(e, rc,
			"%s: there is no switch %s: start it with `lodge switch run %s`", id, n->sw,
			n->sw);
	return rc;
}

static int open_one(struct vm_nets *nets, const struct vm_config *cfg, unsigned i,
	struct uv_loop_s *loop, struct err *e)
{
	const struct vm_net *n = &cfg->nets[i];
	struct virtio_net_opts *o = &nets->opts[i];
	int rc;

	if (n->id)
		snprintf(nets->id[i], sizeof(nets->id[i]), "%s", n->id);
	else
		snprintf(nets->id[i], sizeof(nets->id[i]), "net%u", i);
	rc = make_mac(o->mac, cfg, i, e);
	if (rc)
		return rc;
	if (n->user)
		return open_user(&o->net, n, nets->id[i], loop, e);
	if (n->sw)
		return open_switch(&o->net, cfg, n, nets->id[i], loop, e);
	return net_tap_open(&o->net, &(struct net_tap_opts){nets->id[i], loop, n->tap}, e);
}

int nets_open(
	struct vm_nets **out, const struct vm_config *cfg, struct uv_loop_s *loop, struct err *e)
{
	struct vm_nets *nets = calloc(1, sizeof(*nets));

	if (!nets)
		return err_set(e, -ENOMEM, "networks: out of memory");
	for (unsigned i = 0; i < cfg->nnets && i < VM_MAX_NETS; i++) {
		int rc = open_one(nets, cfg, i, loop, e);

		if (rc) {
			nets_close(nets);
			return rc;
		}
		nets->n++;
	}
	*out = nets;
	return 0;
}

void nets_close(struct vm_nets *nets)
{
	if (!nets)
		return;
	for (unsigned i = 0; i < nets->n; i++)
		net_close(nets->opts[i].net);
	free(nets);
}
