/*
 * virtio_pci.c: the PCI transport of virtio (virtio 1.2, section 4.1).
 *
 * BAR 0 (64-bit) holds four windows of a page each: common configuration, ISR, device configuration, notification.
 * BAR 2 has the MSI-X table: one vector for the configuration and one a queue. The doorbell page is served without the device's
 * lock, everything else under it.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/virtio_impl.h"

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040
#define SUBDEVICE 0x1100
#define BAR 0
#define BAR_MSIX 2
#define WINDOW 0x1000u
#define NOTIFY_STEP 4u

enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI_CFG };
enum {
	AT_COMMON = 0,
	AT_ISR = WINDOW,
	AT_DEVICE = 2 * WINDOW,
	AT_NOTIFY = 3 * WINDOW,
	BAR_SIZE = 4 * WINDOW
};

/* Offsets in the common configuration (section 4.1.4.3). */
enum {
	C_DEVICE_FEATURE_SELECT = 0x00,
	C_DEVICE_FEATURE = 0x04,
	C_DRIVER_FEATURE_SELECT = 0x08,
	C_DRIVER_FEATURE = 0x0c,
	C_CONFIG_VECTOR = 0x10,
	C_NUM_QUEUES = 0x12,
	C_STATUS = 0x14,
	C_GENERATION = 0x15,
	C_QUEUE_SELECT = 0x16,
	C_QUEUE_SIZE = 0x18,
	C_QUEUE_VECTOR = 0x1a,
	C_QUEUE_ENABLE = 0x1c,
	C_QUEUE_NOTIFY_OFF = 0x1e,
	C_QUEUE_DESC = 0x20,
	C_QUEUE_AVAIL = 0x28,
	C_QUEUE_USED = 0x30,
	C_QUEUE_NOTIFY_DATA = 0x38,
	C_QUEUE_RESET = 0x3a,
	C_END = 0x3c,
};

/* Where a register starts and how wide it is, for an access that begins inside it. */
static const struct {
	uint8_t off, size;
} regs[] = {
	{C_DEVICE_FEATURE_SELECT, 4},
	{C_DEVICE_FEATURE, 4},
	{C_DRIVER_FEATURE_SELECT, 4},
	{C_DRIVER_FEATURE, 4},
	{C_CONFIG_VECTOR, 2},
	{C_NUM_QUEUES, 2},
	{C_STATUS, 1},
	{C_GENERATION, 1},
	{C_QUEUE_SELECT, 2},
	{C_QUEUE_SIZE, 2},
	{C_QUEUE_VECTOR, 2},
	{C_QUEUE_ENABLE, 2},
	{C_QUEUE_NOTIFY_OFF, 2},
	{C_QUEUE_DESC, 8},
	{C_QUEUE_AVAIL, 8},
	{C_QUEUE_USED, 8},
	{C_QUEUE_NOTIFY_DATA, 2},
	{C_QUEUE_RESET, 2},
};

static struct virtq *selected(struct virtio *v)
{
	return v->queue_select < v->nq ? &v->q[v->queue_select] : NULL;
}

static uint64_t common_get(struct virtio *v, unsigned off)
{
	struct virtq *q = selected(v);

	switch (off) {
	case C_DEVICE_FEATURE_SELECT:
		return v->device_feature_select;
	case C_DEVICE_FEATURE:
		return v->device_feature_select < 2
			       ? (uint32_t)(v->offered >> (32 * v->device_feature_select))
			       : 0;
	case C_DRIVER_FEATURE_SELECT:
		return v->driver_feature_select;
	case C_DRIVER_FEATURE:
		return v->driver_feature_select < 2
			       ? (uint32_t)(v->features >> (32 * v->driver_feature_select))
			       : 0;
	case C_CONFIG_VECTOR:
		return v->config_vector;
	case C_NUM_QUEUES:
		return v->nq;
	case C_STATUS:
		return v->status;
	case C_GENERATION:
		return v->config_generation;
	case C_QUEUE_SELECT:
		return v->queue_select;
	}
	if (!q)
		return 0;
	switch (off) {
	case C_QUEUE_SIZE:
		return q->size;
	case C_QUEUE_VECTOR:
		return q->vector;
	case C_QUEUE_ENABLE:
		return q->enabled;
	case C_QUEUE_NOTIFY_OFF:
		return v->queue_select;
	case C_QUEUE_DESC:
		return q->desc;
	case C_QUEUE_AVAIL:
		return q->avail;
	case C_QUEUE_USED:
		return q->used;
	}
	return 0;
}

static uint16_t vector_ok(const struct virtio *v, uint64_t n)
{
	return n <= v->nq ? (uint16_t)n : VIRTIO_NO_VECTOR; /* vectors 0..nq exist */
}

static void enable_queue(struct virtio *v, struct virtq *q)
{
	if (q->desc % 16 || q->avail % 2 || q->used % 4) {
		virtio_break(v, "a queue whose rings are misaligned");
		return;
	}
	q->enabled = true;
	virtio_kick(v, v->queue_select);
}

static void queue_put(struct virtio *v, struct virtq *q, unsigned off, uint64_t val)
{
	if (off == C_QUEUE_VECTOR) {
		q->vector = vector_ok(v, val);
		return;
	}
	if (q->enabled)
		return; /* the driver must not change a queue that is on */
	switch (off) {
	case C_QUEUE_SIZE:
		if (is_pow2(val) && val <= VIRTIO_QUEUE_SIZE)
			q->size = (uint16_t)val;
		else
			virtio_break(v, "a queue size that is not a power of two, or too large");
		return;
	case C_QUEUE_ENABLE:
		if (val == 1)
			enable_queue(v, q);
		return;
	case C_QUEUE_DESC:
		q->desc = val;
		return;
	case C_QUEUE_AVAIL:
		q->avail = val;
		return;
	case C_QUEUE_USED:
		q->used = val;
		return;
	}
}

static void common_put(struct virtio *v, unsigned off, uint64_t val)
{
	struct virtq *q = selected(v);
	unsigned shift = 32 * v->driver_feature_select;

	switch (off) {
	case C_DEVICE_FEATURE_SELECT:
		v->device_feature_select = (uint32_t)val;
		return;
	case C_DRIVER_FEATURE_SELECT:
		v->driver_feature_select = (uint32_t)val;
		return;
	case C_DRIVER_FEATURE:
		if (v->driver_feature_select < 2 && !(v->status & VIRTIO_FEATURES_OK))
			v->features = (v->features & ~(0xffffffffull << shift)) | (val & 0xffffffff)
											  << shift;
		return;
	case C_CONFIG_VECTOR:
		v->config_vector = vector_ok(v, val);
		return;
	case C_STATUS:
		virtio_set_status(v, (uint8_t)val);
		return;
	case C_QUEUE_SELECT:
		v->queue_select = (uint16_t)val;
		return;
	default:
		if (q)
			queue_put(v, q, off, val);
	}
}

/* The register that holds byte `off`; its index in regs, or -1. */
static int reg_at(unsigned off)
{
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		if (off >= regs[i].off && off < regs[i].off + regs[i].size)
			return (int)i;
	return -1;
}

/* Drivers access registers at their own width, and the 64-bit ones in halves; anything else gets bytes that make sense. */
static uint64_t common_read(struct virtio *v, unsigned off, unsigned size)
{
	uint64_t val = 0;

	for (unsigned i = 0; i < size;) {
		int r = reg_at(off + i);
		unsigned in, n;

		if (r < 0)
			break;
		in = off + i - regs[r].off;
		n = MIN(regs[r].size - in, size - i);
		val |= ((common_get(v, regs[r].off) >> (8 * in)) &
			       (n == 8 ? ~0ull : (1ull << (8 * n)) - 1))
		       << (8 * i);
		i += n;
	}
	return val;
}

static void common_write(struct virtio *v, unsigned off, unsigned size, uint64_t val)
{
	int r = reg_at(off);
	unsigned in;
	uint64_t mask, old;

	if (r < 0)
		return;
	in = off - regs[r].off;
	if (in + size > regs[r].size && !(in == 0 && size > regs[r].size))
		return; /* begins inside one register and ends in another: no driver does so */
	if (size > regs[r].size)
		size = regs[r].size;
	if (in == 0 && size == regs[r].size) {
		common_put(v, regs[r].off, val);
		return;
	}
	/* Part of a register: only for those that have no effect of their own. */
	if (regs[r].size != 8)
		return;
	mask = ((1ull << (8 * size)) - 1) << (8 * in);
	old = common_get(v, regs[r].off);
	common_put(v, regs[r].off, (old & ~mask) | (val << (8 * in) & mask));
}

static uint64_t device_read(struct virtio *v, unsigned off, unsigned size)
{
	uint64_t val = 0;

	for (unsigned i = 0; i < size && off + i < v->config_len; i++)
		val |= (uint64_t)v->config[off + i] << (8 * i);
	return val;
}

static void device_write(struct virtio *v, unsigned off, unsigned size, uint64_t val)
{
	if (!v->cls->config_written || off >= v->config_len || size > v->config_len - off)
		return;
	for (unsigned i = 0; i < size; i++)
		v->config[off + i] = (uint8_t)(val >> (8 * i));
	v->cls->config_written(v, off, size);
}

static uint64_t isr_read(struct virtio *v)
{
	uint8_t isr = v->isr;

	v->isr = 0;
	pci_intx_set(&v->pci, false);
	return isr;
}

static uint64_t bar_read(void *dev, uint64_t off, unsigned size)
{
	struct virtio *v = dev;
	uint64_t val = 0;

	pthread_mutex_lock(&v->dev.lock);
	if (off < AT_ISR)
		val = common_read(v, (unsigned)off, size);
	else if (off < AT_DEVICE)
		val = off == AT_ISR ? isr_read(v) : 0;
	else if (off < AT_NOTIFY)
		val = device_read(v, (unsigned)(off - AT_DEVICE), size);
	pthread_mutex_unlock(&v->dev.lock);
	return val;
}

static void bar_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct virtio *v = dev;

	if (off >= AT_NOTIFY) {
		virtio_kick(v, (unsigned)((off - AT_NOTIFY) / NOTIFY_STEP));
		return;
	}
	pthread_mutex_lock(&v->dev.lock);
	if (off < AT_ISR)
		common_write(v, (unsigned)off, size, val);
	else if (off >= AT_DEVICE)
		device_write(v, (unsigned)(off - AT_DEVICE), size, val);
	pthread_mutex_unlock(&v->dev.lock);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

/*
 * The configuration access capability (section 4.1.4.9): bar, offset and length select what the data field reaches. For drivers
 * that cannot map the BAR yet (firmware).
 */
enum { P_BAR = 4, P_OFFSET = 8, P_LENGTH = 12, P_DATA = 16, P_SIZE = 20 };

static bool window_access(
	struct virtio *v, unsigned off, unsigned size, uint64_t *at, unsigned *len)
{
	unsigned data = v->cfg_cap + P_DATA;

	if (off + size <= data || off >= data + 4)
		return false;
	*len = pci_cfg_get(&v->pci, v->cfg_cap + P_LENGTH, 4);
	*at = pci_cfg_get(&v->pci, v->cfg_cap + P_OFFSET, 4);
	return pci_cfg_get(&v->pci, v->cfg_cap + P_BAR, 1) == BAR &&
	       (*len == 1 || *len == 2 || *len == 4) && *at % *len == 0 && *at + *len <= BAR_SIZE;
}

static void cfg_read(struct pci_func *f, unsigned off, unsigned size)
{
	struct virtio *v = container_of(f, struct virtio, pci);
	uint64_t at;
	unsigned len;

	if (window_access(v, off, size, &at, &len))
		pci_cfg_put(f, v->cfg_cap + P_DATA, 4, (uint32_t)bar_read(v, at, len));
}

static void cfg_write(struct pci_func *f, unsigned off, unsigned size)
{
	struct virtio *v = container_of(f, struct virtio, pci);
	uint64_t at;
	unsigned len;

	if (window_access(v, off, size, &at, &len))
		bar_write(v, at, len, pci_cfg_get(f, v->cfg_cap + P_DATA, len));
}

/* A vendor capability that says where a window is (section 4.1.4). */
static int add_cap(struct virtio *v, unsigned type, uint32_t at, uint32_t len, unsigned size,
	unsigned *off, struct err *e)
{
	uint8_t body[12] = {0};
	int rc = pci_cap_add(&v->pci, PCI_CAP_ID_VNDR, size, off, e);

	if (rc)
		return rc;
	body[0] = (uint8_t)type;
	body[1] = BAR;
	put_le32(body + 4, at);
	put_le32(body + 8, len);
	/* Bytes 0 and 1 are pci.c's; 2 is the length, 3 the type, 4 the BAR, 8 the offset, 12 the length. */
	pci_cfg_set(&v->pci, *off + 2, &(uint8_t){(uint8_t)size}, 1);
	pci_cfg_set(&v->pci, *off + 3, body, 2);
	pci_cfg_set(&v->pci, *off + 8, body + 4, 8);
	return 0;
}

static int add_caps(struct virtio *v, struct err *e)
{
	static const uint8_t all[4] = {0xff, 0xff, 0xff, 0xff};
	uint8_t step[4];
	unsigned off;
	int rc = add_cap(v, CAP_COMMON, AT_COMMON, C_END, 16, &off, e);

	if (!rc)
		rc = add_cap(v, CAP_ISR, AT_ISR, 1, 16, &off, e);
	if (!rc && v->config_len)
		rc = add_cap(v, CAP_DEVICE, AT_DEVICE, v->config_len, 16, &off, e);
	if (!rc)
		rc = add_cap(v, CAP_NOTIFY, AT_NOTIFY, NOTIFY_STEP * VIRTIO_QUEUES, 20, &off, e);
	if (rc)
		return rc;
	put_le32(step, NOTIFY_STEP);
	pci_cfg_set(&v->pci, off + 16, step, 4);
	rc = add_cap(v, CAP_PCI_CFG, 0, 0, P_SIZE, &v->cfg_cap, e);
	if (rc)
		return rc;
	pci_cfg_writable(&v->pci, v->cfg_cap + P_BAR, all, 1);
	pci_cfg_writable(&v->pci, v->cfg_cap + P_OFFSET, all, 4);
	pci_cfg_writable(&v->pci, v->cfg_cap + P_LENGTH, all, 4);
	pci_cfg_writable(&v->pci, v->cfg_cap + P_DATA, all, 4);
	return 0;
}

int virtio_pci_add(struct virtio *v, struct err *e)
{
	struct pci_func_opts o = {
		.name = v->dev.id,
		.vendor = VENDOR,
		.device = (uint16_t)(DEVICE_BASE + v->cls->id),
		.subvendor = VENDOR,
		.subdevice = SUBDEVICE,
		.class_code = v->cls->pci_class,
		.revision = 1,
		.slot = PCI_SLOT_ANY,
		.intx = true,
		.cfg_read = cfg_read,
		.cfg_write = cfg_write,
	};
	struct pci_bar_opts bar = {.name = v->dev.id,
		.size = BAR_SIZE,
		.flags = PCI_BAR_64 | PCI_BAR_PREFETCH,
		.ops = &bar_ops,
		.dev = v};
	int rc;

	if (!v->dev.env->pci)
		return err_set(e, -ENOTSUP, "%s: this machine has no PCI", v->dev.id);
	rc = pci_func_add(&v->pci, v->dev.env->pci, &o, e);
	if (!rc)
		rc = pci_bar_add(&v->pci, BAR, &bar, e);
	if (!rc)
		rc = add_caps(v, e);
	if (!rc)
		rc = pci_msix_init(&v->pci, BAR_MSIX, v->nq + 1, e);
	if (!rc)
		pci_func_publish(&v->pci);
	return rc;
}

void virtio_pci_remove(struct virtio *v)
{
	pci_func_remove(&v->pci);
}

void virtio_pci_interrupt(struct virtio *v, uint16_t vector, uint8_t isr)
{
	if (pci_msix_on(&v->pci)) {
		if (vector != VIRTIO_NO_VECTOR)
			pci_msix_notify(&v->pci, vector);
		return;
	}
	v->isr |= isr;
	pci_intx_set(&v->pci, true);
}
