#include "machine/board_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sysinfo.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "bus/bus.h"
#include "bus/pci.h"
#include "memory/frames.h"

static void take_down(struct board_parts *p, const struct board_step *steps, size_t built)
{
	while (built--)
		if (steps[built].down)
			steps[built].down(p);
	free(p);
}

void parts_take_down(struct board *b, const struct board_step *steps, size_t n)
{
	take_down(b->priv, steps, n);
}

int parts_build(struct board **out, const struct board_class *cls, size_t size,
	const struct board_step *steps, size_t n, const struct board_opts *o, struct err *e)
{
	struct board_parts *p = calloc(1, size);

	if (!p)
		return err_set(e, -ENOMEM, "machine: no memory");
	p->board.cls = cls;
	p->board.engine = o->engine;
	p->board.priv = p;
	p->opts = o;
	p->kernel.fd = p->initrd.fd = p->firmware.fd = -1;
	p->seed = o->seed;
	for (size_t i = 0; i < n; i++) {
		int rc = steps[i].up(p, e);

		if (rc) {
			take_down(p, steps, i);
			return rc;
		}
	}
	p->opts = NULL;
	board_reset(&p->board);
	*out = &p->board;
	return 0;
}

void parts_pci_down(struct board_parts *p)
{
	pci_host_destroy(p->board.pci);
}

void parts_cpus_reset(struct board_parts *p)
{
	struct board *b = &p->board;
	struct cpu_boot parked = {0};

	for (unsigned i = 0; i < b->nvcpus; i++)
		b->engine->vcpu_reset(b->vcpus[i], &parked);
}

int parts_check_memory(const struct board_parts *p, uint64_t most, struct err *e)
{
	char a[SIZE_TEXT], b[SIZE_TEXT];
	struct sysinfo si;
	uint64_t host = sysinfo(&si) ? UINT64_MAX
				     : ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;

	if (p->opts->memory > host || p->opts->memory > most)
		return err_set(e, -ENOMEM, "memory %s: this host has %s; give less with --memory",
			size_text(a, p->opts->memory), size_text(b, align_down(host, MiB)));
	return 0;
}

void parts_files_down(struct board_parts *p)
{
	boot_file_close(&p->kernel);
	boot_file_close(&p->initrd);
	boot_file_close(&p->firmware);
	free(p->append);
	p->append = NULL;
}

int parts_files_up(struct board_parts *p, struct err *e)
{
	const struct board_opts *o = p->opts;
	int rc = 0;

	if (!o->kernel && !o->firmware)
		return err_set(e, -EINVAL, "nothing to boot: give --kernel or --firmware");
	if (o->initrd && !o->kernel)
		return err_set(e, -EINVAL, "initrd %s: there is no kernel to use it; give --kernel",
			o->initrd);
	if (o->kernel)
		rc = boot_file_open(&p->kernel, "kernel", o->kernel, e);
	if (!rc && o->initrd)
		rc = boot_file_open(&p->initrd, "initrd", o->initrd, e);
	if (!rc && o->firmware)
		rc = boot_file_open(&p->firmware, "firmware", o->firmware, e);
	if (!rc && o->append) {
		p->append = strdup(o->append);
		if (!p->append)
			rc = err_set(e, -ENOMEM, "no memory");
	}
	if (rc)
		parts_files_down(p);
	return rc;
}

static int add_ram(struct board_parts *p, struct err *e)
{
	const struct topology *t = &p->topology;
	int rc = 0;

	for (unsigned n = 0; n < t->nodes; n++) {
		struct topology_range r[2];
		unsigned ranges = topology_node_ranges(t, n, r);

		for (unsigned i = 0; !rc && i < ranges; i++)
			rc = space_add_ram(
				p->board.space, gpa(r[i].base), r[i].len, (int)n, "ram", e);
	}
	return rc;
}

int parts_memory_up(struct board_parts *p, struct err *e)
{
	const struct topology *t = &p->topology;
	struct frames_opts fo = {.nodes = t->nodes, .name = "lodge-ram", .ram_fd = p->opts->ram_fd};
	struct board *b = &p->board;
	int rc;

	for (unsigned n = 0; n < fo.nodes; n++)
		fo.node_bytes[n] = t->node[n].len + space_spare_bytes(t->node[n].len);
	rc = frames_create(&b->frames, &fo, e);
	if (rc)
		return rc;
	rc = space_create(&b->space, b->frames, e);
	if (!rc) {
		rc = add_ram(p, e);
		if (rc)
			space_destroy(b->space); /* and the RAM in it */
	}
	if (rc)
		frames_destroy(b->frames);
	return rc;
}

void parts_memory_down(struct board_parts *p)
{
	space_destroy(p->board.space);
	frames_destroy(p->board.frames);
}

void parts_cpus_down(struct board_parts *p)
{
	p->board.engine->vm_destroy(p->board.cpu_vm);
}

int parts_cpus_up(struct board_parts *p, struct cpu_vm_opts *vo, struct err *e)
{
	const struct board_opts *o = p->opts;
	struct board *b = &p->board;
	int rc;

	vo->space = b->space;
	vo->log = o->log;
	vo->vcpus = o->vcpus;
	vo->clock = o->clock;
	vo->jit = o->jit;
	vo->jit_cache = o->jit_cache;
	vo->jit_tiers = o->jit_tiers;
	vo->jit_alone = o->jit_alone;
	vo->irqchip = o->irqchip;
	vo->dirty = o->dirty;
	vo->halt_poll_ns = o->halt_poll_ns;
	vo->own_cpus = o->own_cpus;
	vo->perf_map = o->perf_map;
	vo->cpu_model = o->cpu_model;
	vo->seed = o->seed;
	vo->wake = o->wake;
	vo->wake_ctx = o->ctx;
	vo->note = o->note;
	vo->note_ctx = o->ctx;
	b->timebase_hz = vo->timebase_hz ?: 1000000000u;
	rc = b->engine->vm_create(&b->cpu_vm, vo, e);
	if (rc)
		return rc;
	for (; b->nvcpus < o->vcpus; b->nvcpus++) {
		rc = b->engine->vcpu_create(&b->vcpus[b->nvcpus], b->cpu_vm, b->nvcpus, e);
		if (rc) {
			parts_cpus_down(p);
			return rc;
		}
	}
	return 0;
}

int parts_bus_up(struct board_parts *p, struct err *e)
{
	return bus_create(&p->board.bus, e);
}

void parts_bus_down(struct board_parts *p)
{
	bus_destroy(p->board.bus);
}

static int add_device(struct board_parts *p, const struct board_device *d, int slot, struct err *e)
{
	struct board *b = &p->board;
	int rc = topology_add_device(&p->topology, d->id, d->cls, 0, slot, e);

	if (!rc)
		rc = device_create(&b->devices[b->ndevices], d->cls, d->id, &b->env, d->opts, e);
	if (!rc)
		b->ndevices++;
	return rc;
}

int parts_devices_up(
	struct board_parts *p, const struct board_device *platform, unsigned n, struct err *e)
{
	const struct board_opts *o = p->opts;
	struct board *b = &p->board;
	int rc = 0;

	b->env = (struct device_env){o->loop, b->space, b->bus, b->pci, o->log, o->seed,
		o->system_event, o->report, o->ctx, o->stop};
	b->devices = calloc(n + o->ndevices, sizeof(struct device *));
	if (!b->devices)
		return err_set(e, -ENOMEM, "no memory");
	for (unsigned i = 0; !rc && i < n; i++)
		rc = add_device(p, &platform[i], -1, e);
	for (unsigned i = 0; !rc && i < o->ndevices; i++)
		rc = add_device(p, &o->devices[i], (int)i + 1, e);
	if (!rc)
		rc = topology_check(&p->topology, e);
	if (rc)
		parts_devices_down(p);
	return rc;
}

void parts_devices_down(struct board_parts *p)
{
	while (p->board.ndevices)
		device_destroy(p->board.devices[--p->board.ndevices]);
	disk_stores_clear(&p->board.env.stores);
	free(p->board.devices);
}

/* splitmix64: the seed and the number of the boot give the guest's seed. */
void parts_boot_seed(const struct board_parts *p, uint8_t seed[32])
{
	uint64_t s = p->seed + (p->boots + 1) * 0x9e3779b97f4a7c15ull;

	if (!p->seed && getrandom(seed, 32, 0) == 32)
		return;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t z = (s += 0x9e3779b97f4a7c15ull);

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ z >> 27) * 0x94d049bb133111ebull;
		put_le64(seed + 8 * i, z ^ z >> 31);
	}
}
