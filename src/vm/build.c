#include "vm/build.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "device/chardev.h"
#include "device/virtio_blk.h"
#include "device/virtio_balloon.h"
#include "device/virtio_console.h"
#include "device/vsock/virtio_vsock.h"
#include "vm/config/config.h"
#include "vm/host/engines.h"
#include "vm/internal.h"
#include "vm/nets.h"
#include "vm/update/update.h"

#define UART_OUT_RING (256u << 10)
#define UART_IN_RING (4u << 10)

unsigned build_workers(const struct vm_config *cfg)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return cfg->workers ?: MIN(cfg->smp, (unsigned)MAX(cores, 1L));
}

/* The CPU that the definition has when nothing is said is rv64's; other engines have a default of their own. */
static const char *cpu_model(const struct vm_config *cfg, const struct cpu_engine_ops *engine)
{
	return engine && strcmp(engine->name, "rv64") && !strcmp(cfg->cpu, "rv64") ? NULL
										   : cfg->cpu;
}

#define DEVICES_MAX 64
#define POWER_BUTTON "power"
#define BALLOON "balloon"

/* The PCI devices of a definition, in slot order; their options live as long as board_create() runs. */
struct device_list {
	struct board_device dev[DEVICES_MAX];
	unsigned n;
	struct virtio_console_opts console;
	struct virtio_vsock_opts vsock;
	struct virtio_blk_opts disk[VM_MAX_DISKS];
	struct disk_kv disk_kv[VM_MAX_DISKS][8];
	char fence[VM_MAX_DISKS][24], metadata[VM_MAX_DISKS][SIZE_TEXT];
	char disk_id[VM_MAX_DISKS][VM_DISK_ID];
};

static void add_device(struct device_list *l, const char *cls, const char *id, const void *opts)
{
	l->dev[l->n++] = (struct board_device){cls, id, opts};
}

/* Two tables of the same words: disks know nothing of the definition of a machine. */
_Static_assert((int)VM_CACHE_WRITEBACK == (int)DISK_CACHE_WRITEBACK &&
		       (int)VM_CACHE_NONE == (int)DISK_CACHE_NONE &&
		       (int)VM_CACHE_WRITETHROUGH == (int)DISK_CACHE_WRITETHROUGH,
	"enum vm_cache and enum disk_cache");
_Static_assert((int)VM_IO_AUTO == (int)IO_AUTO && (int)VM_IO_URING == (int)IO_URING &&
		       (int)VM_IO_THREADS == (int)IO_THREADS,
	"enum vm_io and enum io_kind");
_Static_assert((int)VM_ERROR_REPORT == (int)DISK_ERROR_REPORT &&
		       (int)VM_ERROR_PAUSE == (int)DISK_ERROR_PAUSE &&
		       (int)VM_ERROR_IGNORE == (int)DISK_ERROR_IGNORE,
	"enum vm_on_error and enum disk_on_error");

/* Options of the format. */
static const struct disk_kv *disk_keys(struct device_list *l, const struct vm_disk *d, unsigned i)
{
	unsigned n = 0;

	snprintf(l->fence[i], sizeof(l->fence[i]), "%llu", (unsigned long long)d->fence);
	if (d->fence)
		l->disk_kv[i][n++] = (struct disk_kv){"fence", l->fence[i]};
	if (d->metadata)
		l->disk_kv[i][n++] = (struct disk_kv){
			"metadata", size_text(l->metadata[i], d->metadata)};
	if (d->take)
		l->disk_kv[i][n++] = (struct disk_kv){"take", "on"};
	if (d->commit == VM_COMMIT_BATCH)
		l->disk_kv[i][n++] = (struct disk_kv){"commit", "batch"};
	if (!d->sorter)
		l->disk_kv[i][n++] = (struct disk_kv){"sorter", "off"};
	if (d->snapshot)
		l->disk_kv[i][n++] = (struct disk_kv){"snapshot", d->snapshot};
	if (d->data_file)
		l->disk_kv[i][n++] = (struct disk_kv){"data-file", d->data_file};
	return l->disk_kv[i];
}

static void add_disk(struct device_list *l, const struct vm *vm, unsigned i)
{
	const struct vm_config *cfg = vm->o.cfg;
	const struct vm_disk *d = &cfg->disks[i];

	vm_disk_id(cfg, i, l->disk_id[i]);
	l->disk[i] = (struct virtio_blk_opts){
		.disk = {.path = d->file,
			.format = vm_format_name(d->format),
			.readonly = d->readonly,
			.at = vm->o.disk_at ? vm->o.disk_at[i] : NULL,
			.asleep = vm->o.asleep,
			.discard = d->discard,
			.cache = (enum disk_cache)d->cache,
			.io = (enum io_kind)d->io,
			.limits = {d->iops, d->bps, d->iops_burst, d->bps_burst},
			.on_error = (enum disk_on_error)d->on_error,
			.kv = disk_keys(l, d, i)},
		.queues = d->queues ?: MIN(cfg->smp, (unsigned)VM_MAX_QUEUES),
	};
	add_device(l, "virtio-blk", l->disk_id[i], &l->disk[i]);
}

static int check_ids(const struct device_list *l, struct err *e)
{
	for (unsigned i = 0; i < l->n; i++)
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(l->dev[i].id, l->dev[j].id))
				return err_set(e, -EINVAL,
					"two devices have the id %s (%s and %s): give one another "
					"id",
					l->dev[i].id, l->dev[j].cls, l->dev[i].cls);
	return 0;
}

static int list_devices(struct device_list *l, struct vm *vm, struct err *e)
{
	const struct vm_config *cfg = vm->o.cfg;

	add_device(l, "virtio-input", POWER_BUTTON, NULL);
	if (cfg->rng)
		add_device(l, "virtio-rng", "rng", NULL);
	if (cfg->console == VM_CONSOLE_VIRTIO) {
		l->console.chardev = vm->uart;
		add_device(l, "virtio-console", "console", &l->console);
	}
	for (unsigned i = 0; i < cfg->ndisks; i++)
		add_disk(l, vm, i);
	for (unsigned i = 0; i < vm->nets->n; i++)
		add_device(l, "virtio-net", vm->nets->id[i], &vm->nets->opts[i]);
	if (cfg->balloon)
		add_device(l, "virtio-balloon", BALLOON, NULL);
	if (cfg->vsock && vm->o.vsock) {
		l->vsock = (struct virtio_vsock_opts){
			VSOCK_CID_GUEST, vm->o.vsock, vm->o.handed ? vm->o.handed->vsock : 0};
		add_device(l, "virtio-vsock", "vsock", &l->vsock);
	}
	return check_ids(l, e);
}

static void on_announced(void *ctx, const json_t *params)
{
	vm_emit(ctx, "announce", json_deep_copy(params));
}

int build_board(struct vm *vm, const struct board_opts *events, struct err *e)
{
	const struct vm_config *cfg = vm->o.cfg;
	const struct cpu_engine_ops *engine = engine_choose(cfg->engine, cfg->kernel, e);
	struct board_opts o = {
		.engine = engine,
		.cpu_model = cpu_model(cfg, engine),
		.jit = cfg->engine == VM_ENGINE_INTERP ? CPU_JIT_OFF : CPU_JIT_AUTO,
		.jit_cache = cfg->jit_cache,
		.jit_tiers = (enum cpu_tiers)cfg->jit_tiers,
		.jit_alone = !cfg->jit_pairs,
		.irqchip = (enum cpu_irqchip)cfg->kvm_irqchip,
		.dirty = (enum cpu_dirty)cfg->kvm_dirty,
		.halt_poll_ns = cfg->kvm_halt_poll,
		.own_cpus = cfg->kvm_own_cpus,
		.perf_map = cfg->perf_map,
		.vcpus = cfg->smp,
		.memory = cfg->memory,
		.ram_fd = vm->o.handed ? vm->o.handed->ram : 0,
		.nodes = cfg->nodes,
		.clock = CPU_CLOCK_HOST,
		.seed = cfg->has_seed ? cfg->seed : 0,
		.kernel = cfg->kernel,
		.initrd = cfg->initrd,
		.append = cfg->append,
		.firmware = cfg->firmware,
		.uart = cfg->console == VM_CONSOLE_UART ? vm->uart : NULL,
		.loop = vm->o.loop,
		.log = vm->o.log,
		.wake = events->wake,
		.note = events->note,
		.system_event = events->system_event,
		.report = events->report,
		.stop = events->stop,
		.ctx = vm,
	};
	struct device_list list = {0};
	int rc;

	if (!o.engine)
		return e->code;
	if (strcmp(engine->name, "kvm") && (o.irqchip || o.dirty || o.halt_poll_ns || o.own_cpus))
		return err_set(e, -EINVAL,
			"kvm-irqchip, kvm-dirty, kvm-halt-poll and kvm-own-cpus are for --engine "
			"kvm, and "
			"this machine's is %s: leave them out",
			engine->name);
	rc = nets_open(&vm->nets, cfg, vm->o.loop, vm->o.handed, on_announced, vm, e);
	if (!rc)
		rc = list_devices(&list, vm, e);
	if (rc)
		return rc;
	o.devices = list.dev;
	o.ndevices = list.n;
	return board_create(&vm->board, board_for(o.engine->isa) ?: "", &o, e);
}

int build_power_button(struct board *b, struct err *e)
{
	int rc = err_set(e, -ENOTSUP, "this machine has no power button");

	for (unsigned i = 0; i < b->ndevices; i++) {
		struct device *d = b->devices[i];

		if (!d->cls->power_button)
			continue;
		rc = d->cls->power_button(d, e);
		if (!rc)
			return 0;
	}
	return rc;
}

int build_disk_resize(struct board *b, const char *id, uint64_t size, struct err *e)
{
	for (unsigned i = 0; i < b->ndevices; i++)
		if (!strcmp(b->devices[i]->id, id))
			return virtio_blk_resize(b->devices[i], size, e);
	return err_set(e, -ENOENT, "this machine has no disk %s", id);
}

struct disk *build_disk(struct board *b, const char *id)
{
	for (unsigned i = 0; i < b->ndevices; i++)
		if (!strcmp(b->devices[i]->id, id))
			return virtio_blk_disk(b->devices[i]);
	return NULL;
}

void build_retry_disks(struct board *b)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d)
			disk_retry(d);
	}
}

int build_balloon(struct board *b, const struct vm_config *cfg, uint64_t target, struct err *e)
{
	if (target > cfg->memory)
		return err_set(e, -EINVAL,
			"balloon: the machine was made with %llu MiB: the target cannot be more",
			(unsigned long long)(cfg->memory >> 20));
	for (unsigned i = 0; i < b->ndevices; i++)
		if (!strcmp(b->devices[i]->id, BALLOON))
			return virtio_balloon_set(b->devices[i], cfg->memory - target, e);
	return err_set(e, -ENOTSUP, "this machine has no balloon: start it with --balloon on");
}

/* "VmRSS:  123 kB" lines of /proc/self/status; the descriptor was opened before the sandbox. */
static json_int_t status_kb(const char *text, const char *key)
{
	const char *p = strstr(text, key);

	return p ? strtoll(p + strlen(key), NULL, 10) : 0;
}

json_t *build_host_stats(struct vm *vm, uint64_t shared)
{
	char text[4096] = "";
	ssize_t n = vm->proc_fd < 0 ? -1 : pread(vm->proc_fd, text, sizeof(text) - 1, 0);
	json_int_t shmem;

	if (n < 0)
		return json_object();
	text[n] = 0;
	/* Guest RAM is one shared memory file; all that is not shared memory is Lodge's own, and the code cache, which is. */
	shmem = status_kb(text, "RssShmem:") - 2 * (json_int_t)(shared >> 10);
	return json_pack("{s:I, s:I, s:I}", "guest_ram_kib", MAX(shmem, 0), "own_kib",
		status_kb(text, "RssAnon:") + status_kb(text, "RssFile:") +
			(json_int_t)(shared >> 10),
		"threads", status_kb(text, "Threads:"));
}

/* ---- the console: chardev of the UART <-> hub ---- */

static size_t uart_take(void *ctx, void *buf, size_t len)
{
	return chardev_take(ctx, buf, len);
}

static size_t uart_give(void *ctx, const void *buf, size_t len)
{
	return chardev_give(ctx, buf, len);
}

static void uart_wants(void *ctx)
{
	console_poke(ctx);
}

int vm_console_build(struct vm *vm, struct err *e)
{
	int rc;

	vm->proc_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	rc = console_create(&vm->console, vm->o.loop, vm->o.console_fd, e);
	if (rc)
		return rc;
	rc = chardev_create(&vm->uart, UART_OUT_RING, UART_IN_RING, e);
	if (rc)
		return rc;
	chardev_attach_back(vm->uart, &(struct chardev_back){uart_wants, uart_wants, vm->console});
	console_set_device(vm->console, &(struct console_device){uart_take, uart_give, vm->uart});
	return 0;
}

void vm_console_free(struct vm *vm)
{
	if (vm->uart)
		chardev_attach_back(vm->uart, NULL);
	console_close(vm->console);
	if (vm->uart)
		chardev_destroy(vm->uart);
	if (vm->proc_fd >= 0)
		close(vm->proc_fd);
}
