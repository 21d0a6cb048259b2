#include "machine/topology.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/size.h"
#include "base/util.h"

static int limits(unsigned harts, unsigned nodes, uint64_t memory, struct err *e)
{
	char text[SIZE_TEXT];

	if (!harts || harts > CPU_MAX_VCPUS)
		return err_set(e, -EINVAL, "%u vCPUs: 1 to %d are possible", harts, CPU_MAX_VCPUS);
	if (!nodes || nodes > TOPOLOGY_NODES)
		return err_set(
			e, -EINVAL, "%u NUMA nodes: 1 to %u are possible", nodes, TOPOLOGY_NODES);
	if (memory < TOPOLOGY_MEMORY_MIN || memory % TOPOLOGY_GRAIN)
		return err_set(e, -EINVAL,
			"memory %s: it must be a multiple of 2M and at least 4M, for example 1G",
			size_text(text, memory));
	if (memory / TOPOLOGY_GRAIN < nodes)
		return err_set(e, -EINVAL, "memory %s: %u NUMA nodes need at least 2M each",
			size_text(text, memory), nodes);
	return 0;
}

int topology_init(struct topology *t, unsigned harts, unsigned nodes, uint64_t base,
	uint64_t memory, struct err *e)
{
	static const struct topology_range none;

	return topology_init_hole(t, harts, nodes, base, memory, &none, e);
}

int topology_init_hole(struct topology *t, unsigned harts, unsigned nodes, uint64_t base,
	uint64_t memory, const struct topology_range *hole, struct err *e)
{
	uint64_t grains = memory / TOPOLOGY_GRAIN, at = base;
	unsigned hart = 0;
	int rc = limits(harts, nodes, memory, e);

	if (rc)
		return rc;
	memset(t, 0, sizeof(*t));
	t->nodes = nodes;
	t->harts = harts;
	t->base = base;
	t->memory = memory;
	t->hole = *hole;
	for (unsigned n = 0; n < nodes; n++) {
		struct topology_node *node = &t->node[n];

		node->base = topology_skip_hole(t, at);
		node->len = (grains / nodes + (n < grains % nodes)) * TOPOLOGY_GRAIN;
		at += node->len;
		node->first_hart = hart;
		node->harts = harts / nodes + (n < harts % nodes);
		for (unsigned c = 0; c < node->harts; c++)
			t->hart[hart++] = (struct topology_hart){.node = n, .core = c};
		for (unsigned m = 0; m < nodes; m++)
			t->distance[n][m] = m == n ? TOPOLOGY_NEAR : TOPOLOGY_FAR;
	}
	return topology_check(t, e);
}

unsigned topology_node_ranges(const struct topology *t, unsigned n, struct topology_range r[2])
{
	const struct topology_node *node = &t->node[n];
	uint64_t low = t->hole.len && node->base < t->hole.base ? t->hole.base - node->base
								: UINT64_MAX;

	if (node->len <= low) {
		r[0] = (struct topology_range){node->base, node->len};
		return 1;
	}
	r[0] = (struct topology_range){node->base, low};
	r[1] = (struct topology_range){t->hole.base + t->hole.len, node->len - low};
	return 2;
}

int topology_add_device(
	struct topology *t, const char *id, const char *cls, unsigned node, int slot, struct err *e)
{
	struct topology_device *d;

	if (t->devices == TOPOLOGY_DEVICES)
		return err_set(
			e, -ENOSPC, "device %s: %u devices are the most", id, TOPOLOGY_DEVICES);
	if (!*id || strlen(id) >= sizeof(d->id) || strlen(cls) >= sizeof(d->cls))
		return err_set(
			e, -EINVAL, "device '%s' of class '%s': name empty or too long", id, cls);
	for (unsigned i = 0; i < t->devices; i++)
		if (!strcmp(t->device[i].id, id))
			return err_set(e, -EEXIST, "device %s: there are two of that name", id);
	if (node >= t->nodes)
		return err_set(e, -EINVAL, "device %s: there is no NUMA node %u", id, node);
	d = &t->device[t->devices++];
	*d = (struct topology_device){.node = node, .slot = slot};
	snprintf(d->id, sizeof(d->id), "%s", id);
	snprintf(d->cls, sizeof(d->cls), "%s", cls);
	return 0;
}

static int check_nodes(const struct topology *t, struct err *e)
{
	uint64_t at = t->base;
	unsigned hart = 0;

	if (t->hole.base % TOPOLOGY_GRAIN || t->hole.len % TOPOLOGY_GRAIN ||
		(t->hole.len && t->hole.base <= t->base))
		return err_set(e, -EINVAL, "the hole in the memory is out of place");
	for (unsigned n = 0; n < t->nodes; n++) {
		const struct topology_node *node = &t->node[n];

		if (node->base != topology_skip_hole(t, at) || !node->len ||
			node->len % TOPOLOGY_GRAIN)
			return err_set(e, -EINVAL, "NUMA node %u: its memory is out of place", n);
		if (node->first_hart != hart)
			return err_set(e, -EINVAL, "NUMA node %u: its harts are out of place", n);
		at += node->len;
		hart += node->harts;
		if (t->distance[n][n] != TOPOLOGY_NEAR)
			return err_set(e, -EINVAL, "NUMA node %u: distance to itself is not %u", n,
				TOPOLOGY_NEAR);
		for (unsigned m = 0; m < n; m++)
			if (t->distance[n][m] <= TOPOLOGY_NEAR ||
				t->distance[n][m] != t->distance[m][n])
				return err_set(e, -EINVAL,
					"NUMA nodes %u and %u: distance %u there, %u back", n, m,
					t->distance[n][m], t->distance[m][n]);
	}
	if (at != t->base + t->memory || hart != t->harts)
		return err_set(e, -EINVAL, "NUMA nodes do not add up to the machine");
	return 0;
}

int topology_check(const struct topology *t, struct err *e)
{
	int rc = limits(t->harts, t->nodes, t->memory, e);

	if (!rc)
		rc = check_nodes(t, e);
	for (unsigned h = 0; !rc && h < t->harts; h++) {
		const struct topology_hart *hart = &t->hart[h];

		if (hart->node >= t->nodes || h != t->node[hart->node].first_hart + hart->core ||
			hart->core >= t->node[hart->node].harts)
			rc = err_set(e, -EINVAL, "hart %u: it is not where its node says", h);
	}
	for (unsigned d = 0; !rc && d < t->devices; d++)
		if (t->device[d].node >= t->nodes)
			rc = err_set(e, -EINVAL, "device %s: there is no NUMA node %u",
				t->device[d].id, t->device[d].node);
	return rc;
}

static json_t *node_json(const struct topology *t, unsigned n)
{
	const struct topology_node *node = &t->node[n];
	json_t *harts = json_array(), *far = json_array();

	for (unsigned c = 0; c < node->harts; c++)
		json_array_append_new(harts, json_integer(node->first_hart + c));
	for (unsigned m = 0; m < t->nodes; m++)
		json_array_append_new(far, json_integer(t->distance[n][m]));
	return json_pack("{s:i, s:I, s:I, s:o, s:o}", "node", (int)n, "memory_base",
		(json_int_t)node->base, "memory_bytes", (json_int_t)node->len, "harts", harts,
		"distances", far);
}

json_t *topology_json(const struct topology *t)
{
	json_t *nodes = json_array(), *devices = json_array();

	for (unsigned n = 0; n < t->nodes; n++)
		json_array_append_new(nodes, node_json(t, n));
	for (unsigned i = 0; i < t->devices; i++) {
		const struct topology_device *d = &t->device[i];
		json_t *j = json_pack(
			"{s:s, s:s, s:i}", "id", d->id, "class", d->cls, "node", (int)d->node);

		if (d->slot >= 0)
			json_object_set_new(j, "pci_slot", json_integer(d->slot));
		json_array_append_new(devices, j);
	}
	return json_pack("{s:i, s:I, s:o, s:o}", "vcpus", (int)t->harts, "memory_bytes",
		(json_int_t)t->memory, "nodes", nodes, "devices", devices);
}
