/*
 * device.h: what a device is (decision D8).
 *
 * A device class is one static table entry (device/table.c). The machine builds devices in order and, when one
 * fails, unrealizes those before it in exact reverse.
 *
 *   realize -> reset -> [ running: MMIO in vCPU threads, work in the event loop ] -> quiesce -> (save) -> resume
 *                                                                               \-> unrealize
 *
 * Threads. realize, unrealize, reset, quiesce, resume and described state: the event loop thread, with vCPUs
 * outside run(). A device's lock guards what its MMIO handlers (any vCPU thread) share with its loop work.
 *
 * A class without described state does not register: device_class_check() fails and with it every machine and the unit test.
 */
#ifndef LODGE_DEVICE_DEVICE_H
#define LODGE_DEVICE_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"
#include "bus/bus.h"
#include "disk/disk.h"

struct err;
struct log;
struct uv_loop_s;
struct space;
struct pci_host;
struct device;
struct json_t;

/* What the machine lends to every device. Constant after the machine is built. */
struct device_env {
	struct uv_loop_s *loop;
	struct space *space;
	struct bus *bus;
	struct pci_host *pci; /* NULL on a machine without PCI */
	struct log *log;
	uint64_t seed; /* 0: use the host's randomness */
	/* Guest-caused: shutdown, reset (enum cpu_system_event in `event`). Any thread. */
	void (*system_event)(void *ctx, int event, uint64_t code);
	/* Something that people should see in events and logs ("virtio-blk.0: needs reset: descriptor loop"). Any thread. */
	void (*report)(void *ctx, const char *device, const char *text);
	void *ctx;
	/* The device cannot go on (the host failed a request of it): stop the guest, and tell people. Any thread; may be NULL. */
	void (*stop)(void *ctx, const char *device, const char *text);
	struct disk_stores stores; /* that its disks share */
};

struct device_class {
	const char *name; /* "virtio-blk" */
	const char *help; /* one line */
	size_t size; /* of the struct that begins with struct device */
	/* `opts` is the class's own option struct (its header says which); valid during the call only. */
	int (*realize)(struct device *d, const void *opts, struct err *e);
	void (*unrealize)(struct device *d);
	void (*reset)(struct device *d);
	/* Finish or park requests in flight, so that described state is all there is. May be slow, must end. NULL: nothing to do. */
	int (*quiesce)(struct device *d, struct err *e);
	void (*resume)(struct device *d);
	const struct state_desc *state;
	/* Adds what a person wants to know ("disk": path, "link": up) to the object. May be NULL. */
	void (*describe)(struct device *d, struct json_t *into);
	/* Counters for `lodge stats`. May be NULL. */
	void (*stats)(struct device *d, struct json_t *into);
	/* Presses the machine's power button, where this is one. Loop thread. -ENOTCONN: the guest does not listen yet. */
	int (*power_button)(struct device *d, struct err *e);
	/* The machine goes on as another one than it was (restored, cloned). Loop thread, state loaded, vCPUs not running yet. May be NULL. */
	int (*reborn)(struct device *d, struct err *e);
};

struct device {
	const struct device_class *cls;
	struct device_env *env;
	char id[32]; /* "virtio-blk.0": unique in the machine, the id in state streams */
	pthread_mutex_t lock; /* see above; recursive it is not */
};

/* The static table: NULL-terminated. */
extern const struct device_class *const device_classes[];
const struct device_class *device_class_find(const char *name);
int device_class_check(const struct device_class *c, struct err *e);

int device_create(struct device **out, const char *cls, const char *id, struct device_env *env,
	const void *opts, struct err *e);
void device_destroy(struct device *d);

#endif
