#include "vdriver.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void on_report(void *ctx, const char *device, const char *text)
{
	struct vdriver *d = ctx;

	d->reports++;
}

void vd_machine(struct vdriver *d)
{
	struct frames_opts fo = {
		.nodes = 1, .node_bytes = {VD_RAM_LEN + (2 << 20)}, .name = "vdriver"};
	struct pci_host_opts po = {.ecam = 0x30000000,
		.buses = 1,
		.mem = {{BUS_MMIO, 0x40000000, 0x10000000}, {BUS_MMIO, 0x400000000, 0x10000000}}};

	memset(d, 0, sizeof(*d));
	uv_loop_init(&d->loop);
	uv_async_init(&d->loop, &d->keep, NULL);
	must(!frames_create(&d->frames, &fo, NULL));
	must(!space_create(&d->space, d->frames, NULL));
	must(!space_add_ram(d->space, gpa(VD_RAM), VD_RAM_LEN, FRAMES_NODE_ANY, "ram", NULL));
	must(!bus_create(&d->bus, NULL));
	must(!pci_host_create(&d->pci, d->bus, &po, NULL));
	d->env = (struct device_env){.loop = &d->loop,
		.space = d->space,
		.bus = d->bus,
		.pci = d->pci,
		.seed = 1,
		.report = on_report,
		.ctx = d};
}

static void cfg(struct vdriver *d, unsigned reg, unsigned size, uint64_t val)
{
	pci_host_write(d->pci, (uint64_t)d->slot << 15 | reg, size, val);
}

struct device *vd_add(
	struct vdriver *d, const char *cls, const char *id, const void *opts, unsigned slot)
{
	must(!device_create(&d->dev, cls, id, &d->env, opts, NULL));
	d->slot = slot;
	d->bar = VD_BAR + slot * 0x10000ull;
	must((pci_host_read(d->pci, (uint64_t)slot << 15, 4) & 0xffff) == 0x1af4);
	cfg(d, PCI_CFG_BAR0, 4, d->bar);
	cfg(d, PCI_CFG_BAR0 + 4, 4, 0);
	cfg(d, PCI_CFG_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	return d->dev;
}

void vd_close(struct vdriver *d, struct device **devs, unsigned n)
{
	while (n)
		device_destroy(devs[--n]);
	pci_host_destroy(d->pci);
	bus_destroy(d->bus);
	space_destroy(d->space);
	frames_destroy(d->frames);
	uv_close((uv_handle_t *)&d->keep, NULL);
	uv_run(&d->loop, UV_RUN_DEFAULT);
	must(!uv_loop_close(&d->loop));
}

uint64_t vd_read(struct vdriver *d, unsigned off, unsigned size)
{
	uint64_t v;

	bus_access(d->bus, BUS_MMIO, d->bar + off, size, false, &v);
	return v;
}

void vd_write(struct vdriver *d, unsigned off, unsigned size, uint64_t val)
{
	bus_access(d->bus, BUS_MMIO, d->bar + off, size, true, &val);
}

uint8_t vd_status(struct vdriver *d)
{
	return (uint8_t)vd_read(d, 0x14, 1);
}

void vd_queue(
	struct vdriver *d, uint16_t q, uint16_t size, uint64_t desc, uint64_t avail, uint64_t used)
{
	vd_write(d, 0x16, 2, q);
	vd_write(d, 0x18, 2, size);
	vd_write(d, 0x20, 4, desc);
	vd_write(d, 0x24, 4, desc >> 32);
	vd_write(d, 0x28, 8, avail);
	vd_write(d, 0x30, 8, used);
	vd_write(d, 0x1c, 2, 1);
}

void vd_start(struct vdriver *d, uint64_t features, uint16_t size)
{
	features |= 1ull << 32;
	vd_write(d, 0x14, 1, 0);
	space_fill(d->space, gpa(VD_RAM), 0, 0x20000);
	d->avail_idx = 0;
	vd_write(d, 0x14, 1, 1);
	vd_write(d, 0x14, 1, 3);
	for (unsigned half = 0; half < 2; half++) {
		vd_write(d, 0x08, 4, half);
		vd_write(d, 0x0c, 4, features >> (32 * half));
	}
	vd_write(d, 0x14, 1, 0xb);
	vd_queue(d, 0, size, VD_DESC, VD_AVAIL, VD_USED);
	vd_write(d, 0x14, 1, 0xf);
}

void vd_desc_at(struct vdriver *d, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
	uint16_t flags, uint16_t next)
{
	uint8_t raw[16];

	put_le64(raw, addr);
	put_le32(raw + 8, len);
	put_le16(raw + 12, flags);
	put_le16(raw + 14, next);
	space_write(d->space, gpa(table + 16ull * i), raw, sizeof(raw));
}

void vd_desc(
	struct vdriver *d, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	vd_desc_at(d, VD_DESC, i, addr, len, flags, next);
}

void vd_bell(struct vdriver *d, unsigned q)
{
	vd_write(d, 0x3000 + 4 * q, 4, q);
	uv_run(&d->loop, UV_RUN_NOWAIT);
	uv_run(&d->loop, UV_RUN_NOWAIT);
}

void vd_submit(struct vdriver *d, uint16_t size, uint16_t head)
{
	space_store16(d->space, gpa(VD_AVAIL + 4 + 2ull * (d->avail_idx % size)), head);
	space_store16(d->space, gpa(VD_AVAIL + 2), ++d->avail_idx);
	vd_bell(d, 0);
}

uint16_t vd_used(struct vdriver *d)
{
	uint16_t v = 0;

	space_load16(d->space, gpa(VD_USED + 2), &v);
	return v;
}

uint32_t vd_used_len(struct vdriver *d, uint16_t size, uint16_t i)
{
	uint8_t raw[4] = {0};

	space_read(d->space, gpa(VD_USED + 4 + 8ull * (i % size) + 4), raw, sizeof(raw));
	return get_le32(raw);
}
