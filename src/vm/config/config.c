#include "vm/config/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sysinfo.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/size.h"
#include "base/strbuf.h"
#include "base/util.h"
#include "vm/rundir.h"

static int check_name(const char *text, struct err *e)
{
	size_t n = strlen(text);
	bool good = n && n <= VM_NAME_MAX && isalnum((unsigned char)text[0]);

	for (size_t i = 0; i < n; i++)
		good = good && (isalnum((unsigned char)text[i]) || strchr("._-", text[i]));
	if (!good)
		return err_set(e, -EINVAL,
			"\"%.80s\" is not a name: letters, digits, '.', '_' and '-', the first a "
			"letter or "
			"digit, at most %d",
			text, VM_NAME_MAX);
	return 0;
}

static int check_file(const char *text, struct err *e)
{
	return text[0] ? 0 : err_set(e, -EINVAL, "the file name is empty");
}

static int check_switch(const char *text, struct err *e)
{
	return rundir_check_name(text, e);
}

static int check_tap(const char *text, struct err *e)
{
	/* IFNAMSIZ - 1, and what the kernel's dev_valid_name() refuses */
	if (!text[0] || strlen(text) > 15 || strpbrk(text, "/: \t"))
		return err_set(
			e, -EINVAL, "\"%.40s\" is not the name of a network interface", text);
	return 0;
}

static int check_mac(const char *text, struct err *e)
{
	uint8_t mac[6];

	return vm_mac_parse(text, mac, e);
}

static int check_cpu(const char *text, struct err *e)
{
	static const char *const models[] = {"rv64", "host", "x86-64", "x86-64-v2", "x86-64-v3"};
	const char *rest = strchrnul(text, ',');
	bool known = false;

	for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
		known |= strlen(models[i]) == (size_t)(rest - text) &&
			 !strncmp(text, models[i], strlen(models[i]));
	if (!known)
		return err_set(e, -EINVAL,
			"\"%.*s\" is not a known CPU: give rv64, or for x86-64 guests host, "
			"x86-64, "
			"x86-64-v2 or x86-64-v3",
			(int)MIN(rest - text, 40), text);
	while (*rest) {
		const char *part = rest + 1;
		size_t n = strcspn(part, ",");
		size_t eq = strcspn(part, "=");

		rest = part + n;
		if (!eq || eq > 31 || eq >= n ||
			!((n - eq == 3 && !strncmp(part + eq, "=on", 3)) ||
				(n - eq == 4 && !strncmp(part + eq, "=off", 4))))
			return err_set(e, -EINVAL,
				"\"%.*s\" is not a switch: write zbb=off or zbb=on",
				(int)MIN(n, (size_t)60), part);
	}
	return 0;
}

int vm_mac_parse(const char *text, uint8_t mac[6], struct err *e)
{
	const char *p = text;

	for (int i = 0; i < 6; i++) {
		char digits[3] = {0};
		char *end;

		if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
			p[2] != (i < 5 ? ':' : '\0'))
			return err_set(e, -EINVAL,
				"\"%.40s\" is not a MAC address: write it as 52:54:00:12:34:56",
				text);
		memcpy(digits, p, 2);
		mac[i] = (uint8_t)strtoul(digits, &end, 16);
		p += 3;
	}
	if (mac[0] & 1)
		return err_set(e, -EINVAL,
			"%s is a multicast address: clear the lowest bit of the first byte", text);
	return 0;
}

/* "[addr]:port" of `n` bytes; the address stays as it is when there is none. */
static bool fwd_side(const char *text, size_t n, char addr[16], uint16_t *port)
{
	const char *colon = memchr(text, ':', n);
	char digits[6] = {0};
	size_t alen = colon ? (size_t)(colon - text) : 0, plen = n - alen - 1;
	struct in_addr in;
	uint64_t v;

	if (!colon || alen > 15 || !plen || plen > 5)
		return false;
	if (alen) {
		memcpy(addr, text, alen);
		addr[alen] = '\0';
		if (inet_pton(AF_INET, addr, &in) != 1)
			return false;
	}
	memcpy(digits, colon + 1, plen);
	if (uint_parse(digits, &v, NULL) || !v || v > 65535)
		return false;
	*port = (uint16_t)v;
	return true;
}

int vm_fwd_parse(struct vm_fwd *f, const char *text, struct err *e)
{
	const char *dash = strchr(text, '-');
	bool good = dash && (!strncmp(text, "tcp:", 4) || !strncmp(text, "udp:", 4)) &&
		    dash > text + 4;

	*f = (struct vm_fwd){.host = "127.0.0.1"};
	if (good) {
		f->udp = text[0] == 'u';
		good = fwd_side(text + 4, (size_t)(dash - text) - 4, f->host, &f->host_port) &&
		       fwd_side(dash + 1, strlen(dash + 1), f->guest, &f->guest_port);
	}
	if (!good)
		return err_set(e, -EINVAL,
			"\"%.80s\" is not a forwarding: write tcp:[ADDRESS]:PORT-[ADDRESS]:PORT, "
			"as in "
			"tcp::2222-:22",
			text);
	return 0;
}

static int fwd_parse(void *elem, const char *text, struct err *e)
{
	return vm_fwd_parse(elem, text, e);
}

static void fwd_format(const void *elem, struct strbuf *out)
{
	const struct vm_fwd *f = elem;

	strbuf_addf(out, "%s:%s:%u-%s:%u", f->udp ? "udp" : "tcp", f->host, f->host_port, f->guest,
		f->guest_port);
}

/*
 * FILE:format[,option...]: the format is what follows the last colon before the first single comma.
 */
static int disk_parse(void *elem, const char *text, struct err *e)
{
	cleanup(strbuf_free) struct strbuf file = {0};
	struct vm_disk *d = elem;
	const char *p = text;
	char *colon;
	int r;

	for (; *p && !(*p == ',' && p[1] != ','); p++) {
		p += *p == ',';
		strbuf_addc(&file, *p);
	}
	if (file.failed)
		return err_set(e, -ENOMEM, "out of memory");
	colon = file.s ? strrchr(file.s, ':') : NULL;
	if (!colon || !colon[1] || strchr(colon, '/'))
		return err_set(e, -EINVAL,
			"\"%.200s\" names no format: write %.200s:FORMAT, which is raw, qcow2 or "
			"lodgefs (formats are never guessed)",
			strbuf_text(&file),
			!file.len || strchr(file.s, '=') ? "FILE" : strbuf_text(&file));
	*colon++ = '\0';
	r = options_set(options_by_key(vm_disk_opts, "format"), d, colon, e);
	if (r)
		return err_wrap(e, "format of %s", file.s);
	r = options_set(options_by_key(vm_disk_opts, "file"), d, file.s, e);
	if (!r && *p)
		r = options_set_many(vm_disk_opts, d, p + 1, e);
	return r;
}

/* format_names begin with VM_FORMAT_RAW at index 1: index 0 stands for "not named". */
static const char *const engine_names[] = {"auto", "rv64", "interp", "kvm", NULL};
static const char *const irqchip_names[] = {"auto", "full", "split", NULL};
static const char *const dirty_names[] = {"bitmap", "ring", NULL};
static const char *const tiers_names[] = {"all", "first", "at-once", NULL};
static const char *const console_names[] = {"uart", "virtio", NULL};
static const char *const clock_names[] = {"host", NULL};
static const char *const format_names[] = {"", "raw", "qcow2", "lodgefs", NULL};
static const char *const cache_names[] = {"writeback", "none", "writethrough", NULL};
static const char *const io_names[] = {"auto", "uring", "threads", NULL};
static const char *const on_error_names[] = {"report", "pause", "ignore", NULL};
static const char *const commit_names[] = {"flush", "batch", NULL};
static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};

#define TEXT(f, k, T, m) .flag = f, .key = k, .type = OPT_TEXT, OPT_AT(T, m)
#define D(m) OPT_AT(struct vm_disk, m)

const struct opt vm_disk_opts[] = {
	{.key = "file", .type = OPT_TEXT, D(file), .check = check_file, .help = "the disk image"},
	{.key = "format",
		.type = OPT_ENUM,
		D(format),
		.values = format_names,
		.help = "its format; never guessed"},
	{.flag = "readonly",
		.key = "readonly",
		.type = OPT_FLAG,
		D(readonly),
		.help = "refuse the guest's writes"},
	{.flag = "cache",
		.key = "cache",
		.type = OPT_ENUM,
		D(cache),
		.values = cache_names,
		.dflt = "writeback",
		.help = "how writes reach the medium"},
	{.flag = "io",
		.key = "io",
		.type = OPT_ENUM,
		D(io),
		.values = io_names,
		.dflt = "auto",
		.help = "how files are worked on: io_uring, or threads where the host has none"},
	{.flag = "id",
		.key = "id",
		.type = OPT_TEXT,
		D(id),
		.check = check_name,
		.arg = "ID",
		.help = "its name in messages and the control socket"},
	{.flag = "discard",
		.key = "discard",
		.type = OPT_BOOL,
		D(discard),
		.dflt = "on",
		.help = "let the guest give space back"},
	{.flag = "queues",
		.key = "queues",
		.type = OPT_UINT,
		D(queues),
		.arg = "N",
		.min = 1,
		.max = VM_MAX_QUEUES,
		.help = "request queues; without it one for each vCPU"},
	{.flag = "iops",
		.key = "iops",
		.type = OPT_U64,
		D(iops),
		.arg = "N",
		.max = 1000000000,
		.help = "at most so many requests a second"},
	{.flag = "iops-burst",
		.key = "iops-burst",
		.type = OPT_U64,
		D(iops_burst),
		.arg = "N",
		.max = 1000000000,
		.help = "so many at once after a pause"},
	{.flag = "bps",
		.key = "bps",
		.type = OPT_SIZE,
		D(bps),
		.arg = "SIZE",
		.help = "at most so many bytes a second"},
	{.flag = "bps-burst",
		.key = "bps-burst",
		.type = OPT_SIZE,
		D(bps_burst),
		.arg = "SIZE",
		.help = "so many at once after a pause"},
	{.flag = "on-error",
		.key = "on-error",
		.type = OPT_ENUM,
		D(on_error),
		.values = on_error_names,
		.dflt = "report",
		.help = "what a failure of the host does: tell the guest, stop it until resume, or "
			"nothing"},
	{.flag = "fence",
		.key = "fence",
		.type = OPT_U64,
		D(fence),
		.arg = "N",
		.help = "lodgefs: the manager's fencing number; a store that has seen a newer one "
			"refuses"},
	{.flag = "take",
		.key = "take",
		.type = OPT_FLAG,
		D(take),
		.help = "lodgefs: take the store from another host that holds it"},
	{.flag = "commit",
		.key = "commit",
		.type = OPT_ENUM,
		D(commit),
		.values = commit_names,
		.dflt = "flush",
		.help = "qcow2, lodgefs: when a killed lodge-vm has not lost what a write "
			"allocated: "
			"with the next flush and within a second, or before it is answered"},
	{.flag = "sorter",
		.key = "sorter",
		.type = OPT_BOOL,
		D(sorter),
		.dflt = "on",
		.help = "qcow2, lodgefs: off: a transaction for each block, to compare with"},
	{.flag = "metadata",
		.key = "metadata",
		.type = OPT_SIZE,
		D(metadata),
		.min = 4 * MiB,
		.max = 4 * GiB,
		.arg = "SIZE",
		.help = "lodgefs: memory for pages of pointers; 64M, which is enough for 896 GiB "
			"in use at a time, without it"},
	{.flag = "snapshot",
		.key = "snapshot",
		.type = OPT_TEXT,
		D(snapshot),
		.arg = "NAME",
		.help = "qcow2, lodgefs: what the disk held when this snapshot was made, by name "
			"or id; with readonly"},
	{.flag = "data-file",
		.key = "data-file",
		.type = OPT_TEXT,
		D(data_file),
		.check = check_file,
		.arg = "FILE",
		.help = "qcow2: where the data of an image with an external data file is"},
	OPT_DONE,
};

#define N(m) OPT_AT(struct vm_net, m)

const struct opt vm_net_opts[] = {
	{.flag = "user",
		.key = "user",
		.type = OPT_FLAG,
		N(user),
		.help = "network without privileges"},
	{.flag = "tap",
		.key = "tap",
		.type = OPT_TEXT,
		N(tap),
		.check = check_tap,
		.arg = "NAME",
		.help = "an interface of the host"},
	{.flag = "switch",
		.key = "switch",
		.type = OPT_TEXT,
		N(sw),
		.check = check_switch,
		.arg = "NAME",
		.help = "a switch of this host, made by `lodge switch run NAME`"},
	{.flag = "hostfwd",
		.key = "hostfwd",
		.type = OPT_LIST,
		OPT_LIST_AT(struct vm_net, fwds, nfwds),
		.max = VM_MAX_FWDS,
		.arg = "tcp:[ADDRESS]:PORT-[ADDRESS]:PORT",
		.parse = fwd_parse,
		.format = fwd_format,
		.help = "a port of the host that leads to one of the guest"},
	{.flag = "mac",
		.key = "mac",
		.type = OPT_TEXT,
		N(mac),
		.check = check_mac,
		.arg = "MAC",
		.help = "the guest's address"},
	{.flag = "id",
		.key = "id",
		.type = OPT_TEXT,
		N(id),
		.check = check_name,
		.arg = "ID",
		.help = "its name in messages and the control socket"},
	OPT_DONE,
};

#define C(m) OPT_AT(struct vm_config, m)
#define BOTH(n) .flag = n, .key = n

const struct opt vm_config_opts[] = {
	{BOTH("name"), .letter = 'n', .type = OPT_TEXT, C(name), .check = check_name, .arg = "NAME",
		.help = "name of the machine; without it one is made up"},
	{BOTH("memory"), .letter = 'm', .type = OPT_SIZE, C(memory), .arg = "SIZE", .min = MiB,
		.max = 8192 * GiB, .dflt = "1G", .help = "memory of the guest, such as 512M or 2G"},
	{BOTH("smp"), .type = OPT_UINT, C(smp), .arg = "N", .min = 1, .max = VM_MAX_VCPUS,
		.dflt = "1", .help = "number of vCPUs"},
	{BOTH("nodes"), .type = OPT_UINT, C(nodes), .arg = "N", .min = 1, .max = VM_MAX_NODES,
		.dflt = "1", .help = "NUMA nodes that memory and vCPUs are spread over"},
	{BOTH("engine"), .type = OPT_ENUM, C(engine), .values = engine_names, .dflt = "auto",
		.help = "what runs the vCPUs: rv64 translates riscv64 code to the host's, interp "
			"only interprets it, kvm runs x86-64; auto takes what the kernel is for, "
			"and "
			"kvm only where kernel code runs on hardware"},
	{BOTH("jit-cache"), .type = OPT_SIZE, C(jit_cache), .arg = "SIZE", .min = MiB, .max = GiB,
		.dflt = "10M", .help = "memory for translated code"},
	{BOTH("jit-tiers"), .type = OPT_ENUM, C(jit_tiers), .values = tiers_names, .dflt = "all",
		.help = "all: hot code is translated again, better, by a thread; first: it is not; "
			"at-once: everything is, which is for tests"},
	{BOTH("jit-pairs"), .type = OPT_BOOL, C(jit_pairs), .dflt = "off",
		.help = "translate code together with what it branches to far away"},
	{BOTH("kvm-irqchip"), .type = OPT_ENUM, C(kvm_irqchip), .values = irqchip_names,
		.dflt = "auto",
		.help = "where kvm's interrupt controllers are: full: in the kernel; split: the "
			"IOAPIC "
			"in this process; auto: what the host has"},
	{BOTH("kvm-dirty"), .type = OPT_ENUM, C(kvm_dirty), .values = dirty_names, .dflt = "bitmap",
		.help = "how kvm notes what the guest has written: a bit for each page, or rings"},
	{BOTH("kvm-halt-poll"), .type = OPT_U64, C(kvm_halt_poll), .arg = "NS",
		.help = "nanoseconds that kvm polls for a halted vCPU before its thread sleeps; "
			"without "
			"it as the host does"},
	{BOTH("kvm-own-cpus"), .type = OPT_BOOL, C(kvm_own_cpus), .dflt = "off",
		.help = "HLT, PAUSE and MWAIT stay inside a kvm guest: for vCPUs that have "
			"processors of "
			"their own"},
	{BOTH("perf-map"), .type = OPT_TEXT, C(perf_map), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "write /tmp/perf-PID.map, so that perf names guest functions, by a "
			"System.map or a copy of the guest's /proc/kallsyms (-: by address)"},
	{BOTH("cpu"), .type = OPT_TEXT, C(cpu), .check = check_cpu,
		.arg = "MODEL[,EXTENSION=on|off...]", .dflt = "rv64",
		.help = "CPU model, and extensions switched on or off, such as rv64,zbb=off; for "
			"x86-64 guests host (what they get when nothing is said), x86-64, "
			"x86-64-v2, x86-64-v3 (lodge cpu)"},
	{BOTH("kernel"), .letter = 'k', .type = OPT_TEXT, C(kernel), .check = check_file,
		.arg = "FILE", .complete = OPT_COMPLETE_FILE,
		.help = "kernel to boot (Linux Image or ELF)"},
	{BOTH("initrd"), .type = OPT_TEXT, C(initrd), .check = check_file, .arg = "FILE",
		.complete = OPT_COMPLETE_FILE, .help = "initial RAM disk for the kernel"},
	{BOTH("append"), .type = OPT_TEXT, C(append), .arg = "TEXT",
		.help = "command line of the kernel"},
	{BOTH("firmware"), .type = OPT_TEXT, C(firmware), .check = check_file, .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "M-mode firmware to start instead of the built-in SBI, such as OpenSBI"},
	{.key = "image",
		.type = OPT_TEXT,
		C(image),
		.help = "name of an image that lodge image pull made"},
	{.flag = "disk",
		.key = "disks",
		.type = OPT_LIST,
		OPT_LIST_AT(struct vm_config, disks, ndisks),
		.max = VM_MAX_DISKS,
		.sub = vm_disk_opts,
		.parse = disk_parse,
		.arg = "FILE:raw|qcow2|lodgefs[,OPTION...]",
		.complete = OPT_COMPLETE_FILE,
		.help = "a disk; options: readonly, cache=writeback|none|writethrough, "
			"on-error=report|pause|ignore, discard=on|off, iops=N, iops-burst=N, "
			"bps=SIZE, bps-burst=SIZE, queues=N, io=uring|threads, id=ID, fence=N, "
			"take, commit=flush|batch, sorter=on|off, metadata=SIZE, snapshot=NAME, "
			"data-file=FILE; a comma in a name is written twice"},
	{.flag = "net",
		.key = "nets",
		.type = OPT_LIST,
		OPT_LIST_AT(struct vm_config, nets, nnets),
		.max = VM_MAX_NETS,
		.sub = vm_net_opts,
		.arg = "user[,hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT...]|tap=NAME|switch=NAME[,"
		       "mac=MAC][,id="
		       "ID]",
		.help = "a network card; forwarded ports listen on 127.0.0.1 when no address is "
			"given"},
	{BOTH("console"), .type = OPT_ENUM, C(console), .values = console_names, .dflt = "uart",
		.help = "which device the console is"},
	{BOTH("clock"), .type = OPT_ENUM, C(clock), .values = clock_names, .dflt = "host",
		.help = "what drives the guest's counters; a repeatable model of cycles is not "
			"there yet"},
	{BOTH("seed"), .type = OPT_U64, C(seed), .set_offset = offsetof(struct vm_config, has_seed),
		.arg = "NUMBER", .help = "make random numbers and made-up addresses repeatable"},
	{BOTH("balloon"), .type = OPT_BOOL, C(balloon), .dflt = "on",
		.help = "memory balloon with free page reporting"},
	{BOTH("vsock"), .type = OPT_BOOL, C(vsock), .dflt = "on",
		.help = "sockets between guest and host (lodge exec, lodge cp)"},
	{BOTH("rng"), .type = OPT_BOOL, C(rng), .dflt = "on", .help = "source of random numbers"},
	{BOTH("sandbox"), .type = OPT_BOOL, C(sandbox), .dflt = "on",
		.help = "confine the machine's process; off only for debugging"},
	{BOTH("workers"), .type = OPT_UINT, C(workers), .arg = "N", .min = 1, .max = 1024,
		.help = "host threads that run vCPUs; without it as many as there are vCPUs or "
			"cores"},
	{BOTH("log"), .type = OPT_TEXT, C(log), .check = check_file, .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "where Lodge writes its log; without it standard error"},
	{BOTH("log-level"), .type = OPT_ENUM, C(log_level), .values = level_names, .dflt = "info",
		.help = "how much it logs"},
	OPT_DONE,
};

int vm_config_init(struct vm_config *c, struct err *e)
{
	*c = (struct vm_config){0};
	return options_defaults(vm_config_opts, c, e);
}

void vm_config_free(struct vm_config *c)
{
	options_free(vm_config_opts, c);
}

int vm_host_read(struct vm_host *h, struct err *e)
{
	struct sysinfo si;

	if (sysinfo(&si))
		return err_sys(e, -errno, "ask the host for its memory");
	h->memory = (uint64_t)si.totalram * si.mem_unit;
	return 0;
}

/* FNV-1a, finished by a mixer: short names must differ in every byte of the address. */
static uint64_t hash(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3;
	return h;
}

/* 0x52 is "locally administered, unicast" (IEEE 802). */
int vm_net_mac(const struct vm_config *cfg, unsigned i, uint8_t mac[6], struct err *e)
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

void vm_disk_id(const struct vm_config *c, unsigned i, char out[VM_DISK_ID])
{
	if (c->disks[i].id)
		snprintf(out, VM_DISK_ID, "%s", c->disks[i].id);
	else
		snprintf(out, VM_DISK_ID, "disk%u", i);
}

const char *vm_format_name(int format)
{
	return format_names[format];
}

const struct opt vm_place_opts[] = {
	{.key = "text", .type = OPT_TEXT, OPT_AT(struct vm_place, text), .help = "ID=FILE:FORMAT"},
	OPT_DONE,
};

int vm_place_parse(void *elem, const char *text, struct err *e)
{
	const char *equals = strchr(text, '='), *colon = strrchr(text, ':');

	if (!equals || equals == text || !colon || colon < equals)
		return err_set(
			e, -EINVAL, "'%s': ID=FILE:FORMAT, as in disk0=/srv/web.qcow2:qcow2", text);
	return options_set(vm_place_opts, elem, text, e);
}

int vm_disk_place(struct vm_config *c, const char *text, struct err *e)
{
	const char *equals = strchr(text, '='), *colon = strrchr(text, ':');
	cleanup(free_ptr) char *path = strndup(equals + 1, (size_t)(colon - equals - 1));
	char id[VM_DISK_ID];
	unsigned i = 0;

	for (; i < c->ndisks; i++) {
		vm_disk_id(c, i, id);
		if (strlen(id) == (size_t)(equals - text) && !strncmp(id, text, strlen(id)))
			break;
	}
	if (i == c->ndisks)
		return err_set(e, -ENOENT, "'%s': the machine has no disk of this id", text);
	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	return options_set(options_by_key(vm_disk_opts, "file"), &c->disks[i], path, e)
		       ?: options_set(options_by_key(vm_disk_opts, "format"), &c->disks[i],
				  colon + 1, e);
}
