/*
 * config.h: the definition of a machine, and every way to write it down.
 *
 * One static table (vm_config_opts) has every option once: its flag, its key in YAML and in JSON,
 * type, default, range and help. The flags of `lodge run` and `lodge-vm`, the YAML file, the JSON
 * of the control socket and of the persisted definition, help, man page and completion are all made
 * from it (base/options.h), so the same words work everywhere:
 *
 *	--memory 2G --disk root.img:raw,cache=none --net user,hostfwd=tcp::2222-:22
 *
 *	memory: 2G
 *	disks:
 *	  - {file: root.img, format: raw, cache: none}
 *	nets:
 *	  - {user: on, hostfwd: ["tcp::2222-:22"]}
 *
 * In YAML an element of a list may also be the text of the flag: `disks:
 * ["root.img:raw,cache=none"]`.
 *
 * Ownership: a struct vm_config owns all that it points to; vm_config_free() releases it. Threads:
 * one at a time. Errors: one line with what, where and remedy; -EINVAL for what the user wrote,
 * else the errno of the file.
 */
#ifndef LODGE_VM_CONFIG_H
#define LODGE_VM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/options.h"

struct err;
struct json_t;

#define VM_MAX_DISKS 16
#define VM_MAX_NETS 8
#define VM_MAX_FWDS 64
#define VM_MAX_VCPUS 128
#define VM_MAX_NODES 8
#define VM_MAX_QUEUES 16
#define VM_NAME_MAX 63
#define VM_CONFIG_FILE_MAX (1u << 20) /* bytes of a definition file */

enum vm_engine { VM_ENGINE_AUTO, VM_ENGINE_RV64, VM_ENGINE_INTERP, VM_ENGINE_KVM };
enum vm_console { VM_CONSOLE_UART, VM_CONSOLE_VIRTIO };
enum vm_clock { VM_CLOCK_HOST };
enum vm_format { VM_FORMAT_NONE, VM_FORMAT_RAW, VM_FORMAT_QCOW2, VM_FORMAT_LODGEFS };
enum vm_cache {
	VM_CACHE_WRITEBACK, /* host page cache; guest flushes reach the medium */
	VM_CACHE_NONE, /* O_DIRECT */
	VM_CACHE_WRITETHROUGH, /* each write is on the medium when it completes */
};

enum vm_io { VM_IO_AUTO, VM_IO_URING, VM_IO_THREADS };

/* When what a write allocates outlives the process: with the next flush and within a second, or before it is answered. */
enum vm_commit { VM_COMMIT_FLUSH, VM_COMMIT_BATCH };

enum vm_on_error { VM_ERROR_REPORT, VM_ERROR_PAUSE, VM_ERROR_IGNORE };

struct vm_disk {
	char *id; /* NULL: the machine makes one, "disk0" */
	char *file;
	int format; /* enum vm_format; vm_config_validate() refuses NONE */
	bool readonly;
	int cache; /* enum vm_cache */
	int io; /* enum vm_io: how the host's files are worked on */
	bool discard; /* guest discards free space in the file */
	unsigned queues; /* 0: one for each vCPU, at most VM_MAX_QUEUES */
	uint64_t iops, iops_burst; /* per second; 0: no limit, and a tenth of a second's worth */
	uint64_t bps, bps_burst; /* bytes */
	int on_error; /* enum vm_on_error: of the host */
	uint64_t
		fence; /* lodgefs: opens the store only with a number above its own; 0: the next one */
	bool take; /* lodgefs: takes the store from another host that holds it */
	int commit; /* enum vm_commit */
	bool sorter; /* off: a transaction for each block, to compare with */
	uint64_t
		metadata; /* lodgefs: memory for pages of pointers; 0: as much as it takes by itself */
	char *snapshot; /* qcow2, lodgefs: what the disk held when that was made; readonly. NULL: what it holds */
	char *data_file; /* qcow2: where its data is; NULL: where the image says */
};

/* Host port to guest port. Addresses are IPv4 text; "" in guest is the guest's first address. */
struct vm_fwd {
	bool udp;
	char host[16];
	uint16_t host_port;
	char guest[16];
	uint16_t guest_port;
};

struct vm_net {
	char *id; /* NULL: "net0" */
	bool user; /* user networking; else tap or switch */
	char *tap; /* name of the host's interface */
	char *sw; /* name of a switch of this host (`lodge switch`) */
	/* "52:54:00:12:34:56"; NULL: the machine makes one (from the seed if there is one) */
	char *mac;
	struct vm_fwd *fwds; /* user networking only */
	unsigned nfwds;
};

struct vm_config {
	char *name; /* NULL: the one that starts it makes one */
	char *image; /* name of an image, not a path; its parts become kernel, initrd, disks */
	uint64_t memory; /* bytes */
	unsigned smp;
	unsigned nodes; /* NUMA nodes */
	int engine; /* enum vm_engine */
	uint64_t jit_cache;
	int jit_tiers; /* enum cpu_tiers */
	bool jit_pairs;
	int kvm_irqchip, kvm_dirty; /* enum cpu_irqchip, enum cpu_dirty (cpu/cpu.h) */
	uint64_t kvm_halt_poll; /* ns; 0: as the host does */
	bool kvm_own_cpus;
	char *perf_map;
	char *cpu; /* "rv64,zbb=off"; the engine knows the switches */
	char *kernel, *initrd, *append, *firmware;
	struct vm_disk *disks;
	unsigned ndisks;
	struct vm_net *nets;
	unsigned nnets;
	int console; /* enum vm_console */
	int clock; /* enum vm_clock */
	uint64_t seed; /* with has_seed: random numbers and addresses repeat */
	bool has_seed;
	bool balloon, rng, vsock, sandbox;
	unsigned
		/* host threads that run vCPUs; 0: as many as vCPUs or host cores, the smaller */
		workers;
	char *log; /* NULL: standard error */
	int log_level; /* enum log_level (base/log.h) */
};

/* The table; objects are struct vm_config. */
extern const struct opt vm_config_opts[];
extern const struct opt vm_disk_opts[];
extern const struct opt vm_net_opts[];

/* Sets every default; `c` is overwritten. */
int vm_config_init(struct vm_config *c, struct err *e);
void vm_config_free(struct vm_config *c); /* fit for cleanup() */

/*
 * A command whose groups include vm_config_opts (base: where the struct vm_config lies in obj) and
 * an OPT_TEXT flag "config": reads that file first if it is named, then the flags over it; lists
 * are appended to. `obj` has its defaults.
 */
int vm_config_parse_args(const struct command *cmd, void *obj, struct vm_config *c, int argc,
	char **argv, struct args *a, struct err *e);

/*
 * YAML (JSON is a subset of it). What is in the file replaces what `c` has; lists are appended to.
 */
int vm_config_load(struct vm_config *c, const char *path, struct err *e);
int vm_config_parse_yaml(
	struct vm_config *c, const char *text, size_t len, const char *name, struct err *e);

/*
 * One object with the keys of the table; values at their default are left out. NULL: out of memory.
 * Caller decrefs.
 */
struct json_t *vm_config_to_json(const struct vm_config *c);
int vm_config_from_json(struct vm_config *c, const struct json_t *j, struct err *e);

/* What the checks need to know of the host. */
struct vm_host {
	uint64_t memory; /* bytes of RAM */
};
int vm_host_read(struct vm_host *h, struct err *e);

/*
 * What no single option can tell: something to boot, memory within the host's, files that are
 * there, readable, not empty and, for disks that are written, writable; ids and files not twice.
 * Does not touch names of machines, locks, ports, taps. An `image` must have been resolved (kernel
 * set) unless `image_ok`.
 */
int vm_config_validate(
	const struct vm_config *c, const struct vm_host *h, bool image_ok, struct err *e);

/* The id that disk i has in the machine. */
#define VM_DISK_ID 32
void vm_disk_id(const struct vm_config *c, unsigned i, char out[VM_DISK_ID]);
/* "raw" ... of enum vm_format. */
const char *vm_format_name(int format);
/* "disk0=/srv/web.qcow2:qcow2": that disk lies there, in that format: elements of a list of options. */
struct vm_place {
	char *text;
};
extern const struct opt vm_place_opts[];
int vm_place_parse(void *elem, const char *text, struct err *e);
/* -ENOENT: there is no disk with the id. */
int vm_disk_place(struct vm_config *c, const char *text, struct err *e);

/* "52:54:00:12:34:56" -> 6 bytes; multicast addresses are refused. */
int vm_mac_parse(const char *text, uint8_t mac[6], struct err *e);
/*
 * The hardware address of card i: the definition's, else made from the seed, else from the machine's name, so that it stays the same. A machine
 * without all three gets another one each time.
 */
int vm_net_mac(const struct vm_config *cfg, unsigned i, uint8_t mac[6], struct err *e);

/* "tcp:[addr]:port-[guest]:port" */
int vm_fwd_parse(struct vm_fwd *f, const char *text, struct err *e);

#endif
