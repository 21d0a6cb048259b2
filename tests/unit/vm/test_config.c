#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "vm/config/config.h"

static char top[64];

static int make_top(void **state)
{
	snprintf(top, sizeof(top), "/tmp/lodge-test-XXXXXX");
	return !mkdtemp(top) || chdir(top) || fs_write_file_atomic("kernel", "K", 1, 0600, NULL) ||
	       fs_write_file_atomic("a.raw", "A", 1, 0600, NULL) ||
	       fs_write_file_atomic("b.raw", "B", 1, 0600, NULL) || link("a.raw", "also-a.raw") ||
	       fs_write_file_atomic("empty", "", 0, 0600, NULL) || mkdir("dir", 0700) ||
	       close(creat("big", 0600)) || truncate("big", 3 * MiB + 5) || mkfifo("fifo", 0600);
}

static int drop_top(void **state)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", top);
	return system(cmd);
}

struct run {
	struct vm_config c;
	char *config;
};

static const struct opt run_opts[] = {
	{"config", .letter = 'c', .type = OPT_TEXT, OPT_AT(struct run, config), .arg = "FILE",
		.help = "read the definition from a file"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Run", run_opts}, {"Machine", vm_config_opts}, {0}};
static const struct command run = {.program = "lodge",
	.verb = "run",
	.args = "[IMAGE]",
	.max_args = 1,
	.summary = "run a machine",
	.groups = groups};

static int parse(struct run *r, struct err *e, int argc, char **argv)
{
	struct args a;

	*r = (struct run){0};
	*e = (struct err){0};
	assert_int_equal(command_defaults(&run, r, e), 0);
	return vm_config_parse_args(&run, r, &r->c, argc, argv, &a, e);
}
#define WORDS(...) ((char *[]){"run", __VA_ARGS__, NULL})
#define PARSE(...) parse(&r, &e, ARRAY_SIZE(WORDS(__VA_ARGS__)) - 1, WORDS(__VA_ARGS__))

static void tables_are_well_formed(void **state)
{
	struct err e = {0};

	if (command_check(&run, &e))
		fail_msg("%s", e.msg);
}

static void defaults(void **state)
{
	cleanup(vm_config_free) struct vm_config c;
	struct err e = {0};
	json_t *j;

	assert_int_equal(vm_config_init(&c, &e), 0);
	assert_true(c.memory == GiB);
	assert_int_equal(c.smp, 1);
	assert_int_equal(c.nodes, 1);
	assert_true(c.sandbox && c.rng && c.vsock && c.balloon && !c.has_seed && !c.name);
	assert_string_equal(c.cpu, "rv64");
	j = vm_config_to_json(&c);
	assert_int_equal(json_object_size(j), 0);
	json_decref(j);
}

static const char *const every_flag[] = {"run", "--name", "box", "--memory", "2G", "--smp", "4",
	"--nodes", "2", "--engine", "rv64", "--jit-cache", "8M", "--jit-tiers", "first",
	"--jit-pairs", "on", "--kvm-irqchip", "split", "--kvm-dirty", "ring", "--kvm-halt-poll",
	"200000", "--kvm-own-cpus", "on", "--perf-map", "-", "--cpu", "rv64,zbb=off,v=on",
	"--kernel", "kernel", "--initrd", "a.raw", "--append", "console=ttyS0 quiet", "--firmware",
	"kernel", "--disk", "a.raw:raw,readonly,cache=none,id=root,discard=off,queues=3", "--disk",
	"x,,y:z:raw", "--net",
	"user,hostfwd=tcp::2222-:22,hostfwd=udp:0.0.0.0:53-10.0.2.15:5353,mac=52:54:00:12:34:56",
	"--net", "tap=tap0,id=lan", "--console", "virtio", "--clock", "host", "--seed",
	"18446744073709551615", "--balloon", "off", "--rng", "off", "--vsock", "off", "--sandbox",
	"off", "--workers", "2", "--log", "l", "--log-level", "debug"};

static const char same_yaml[] =
	"# a comment\n"
	"name: box\nmemory: 2G\nsmp: 4\nnodes: 2\nengine: rv64\njit-cache: 8M\njit-tiers: "
	"first\njit-pairs: on\nkvm-irqchip: split\nkvm-dirty: ring\nkvm-halt-poll: "
	"200000\nkvm-own-cpus: on\nperf-map: '-'\ncpu: "
	"'rv64,zbb=off,v=on'\n"
	"kernel: kernel\ninitrd: a.raw\nappend: console=ttyS0 quiet\nfirmware: kernel\n"
	"disks:\n"
	"  - file: a.raw\n    format: raw\n    readonly: true\n    cache: none\n    id: root\n"
	"    discard: off\n    queues: 3\n"
	"  - x,,y:z:raw\n"
	"nets:\n"
	"- {user: yes, hostfwd: ['tcp::2222-:22', 'udp:0.0.0.0:53-10.0.2.15:5353'], mac: "
	"'52:54:00:12:34:56'}\n"
	"- tap: tap0\n  id: lan\n"
	"console: virtio\nclock: host\nseed: 18446744073709551615\nballoon: off\nvsock: off\nrng: "
	"false\nsandbox: no\n"
	"workers: 2\nlog: l\nlog-level: debug\n";

static char *dump(const struct vm_config *c)
{
	json_t *j = vm_config_to_json(c);
	char *text = json_dumps(j, JSON_SORT_KEYS);

	json_decref(j);
	return text;
}

static void all_writings_mean_the_same(void **state)
{
	cleanup(vm_config_free) struct vm_config yaml, json, again;
	cleanup(free_ptr) char *a = NULL, *b = NULL, *c = NULL, *d = NULL;
	char *argv[80];
	struct run r;
	struct err e;
	json_t *j;

	memcpy(argv, every_flag, sizeof(every_flag));
	if (parse(&r, &e, ARRAY_SIZE(every_flag), argv))
		fail_msg("%s", e.msg);
	/* every key but `image`, which has no flag, and `clock`, which has one value, was given */
	j = vm_config_to_json(&r.c);
	for (const struct opt *o = vm_config_opts; o->type != OPT_END; o++)
		if (o->key && strcmp(o->key, "image") && strcmp(o->key, "clock") &&
			!json_object_get(j, o->key))
			fail_msg("%s is not in the JSON", o->key);
	assert_int_equal(r.c.ndisks, 2);
	assert_string_equal(r.c.disks[1].file, "x,y:z");
	assert_int_equal(r.c.disks[0].queues, 3);
	assert_true(r.c.disks[0].readonly && !r.c.disks[0].discard && r.c.disks[1].discard);
	assert_int_equal(r.c.nets[0].nfwds, 2);
	assert_string_equal(r.c.nets[0].fwds[0].host, "127.0.0.1");
	assert_int_equal(r.c.nets[0].fwds[0].host_port, 2222);
	assert_int_equal(r.c.nets[0].fwds[0].guest_port, 22);
	assert_true(r.c.nets[0].fwds[1].udp);
	assert_string_equal(r.c.nets[0].fwds[1].guest, "10.0.2.15");
	assert_true(r.c.has_seed && r.c.seed == UINT64_MAX);
	a = dump(&r.c);
	assert_int_equal(vm_config_init(&yaml, &e), 0);
	if (vm_config_parse_yaml(&yaml, same_yaml, strlen(same_yaml), "vm.yaml", &e))
		fail_msg("%s", e.msg);
	b = dump(&yaml);
	assert_string_equal(a, b);
	assert_int_equal(vm_config_init(&json, &e), 0);
	if (vm_config_from_json(&json, j, &e))
		fail_msg("%s", e.msg);
	c = dump(&json);
	assert_string_equal(a, c);
	/* JSON is YAML too: the persisted definition can be given to --config */
	assert_int_equal(vm_config_init(&again, &e), 0);
	if (vm_config_parse_yaml(&again, a, strlen(a), "vm.json", &e))
		fail_msg("%s", e.msg);
	d = dump(&again);
	assert_string_equal(a, d);
	json_decref(j);
	command_free(&run, &r);
}

/* Keys are the names of flags; what was written with underscores is read for ever. */
static void keys_are_spelled_as_flags(void **state)
{
	static const char text[] = "log_level: debug\njit-tiers: first\ndisks:\n"
				   "- {file: a.raw, format: raw, iops_burst: 7, bps-burst: 1M, "
				   "on_error: pause}\n";
	static const char *const names[] = {"log-level", "jit-tiers"};
	static const char *const of_disk[] = {"iops-burst", "bps-burst", "on-error"};
	cleanup(vm_config_free) struct vm_config c, back;
	struct err e = {0};
	json_t *j, *d;

	for (const struct opt *o = vm_disk_opts; o->type != OPT_END; o++)
		assert_true(!o->flag || !strcmp(o->flag, o->key));
	assert_int_equal(vm_config_init(&c, &e), 0);
	if (vm_config_parse_yaml(&c, text, strlen(text), "vm.yaml", &e))
		fail_msg("%s", e.msg);
	assert_int_equal(c.disks[0].on_error, VM_ERROR_PAUSE);
	j = vm_config_to_json(&c);
	d = json_array_get(json_object_get(j, "disks"), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		assert_non_null(json_object_get(j, names[i]));
	for (unsigned i = 0; i < ARRAY_SIZE(of_disk); i++)
		assert_non_null(json_object_get(d, of_disk[i]));
	json_object_set(d, "on_error", json_object_get(d, "on-error"));
	json_object_del(d, "on-error");
	assert_int_equal(vm_config_init(&back, &e), 0);
	if (vm_config_from_json(&back, j, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(back.disks[0].on_error, VM_ERROR_PAUSE);
	json_decref(j);
}

static void flags_go_over_the_file(void **state)
{
	static const char text[] = "memory: 2G\nsmp: 2\ndisks: ['a.raw:raw']\n";
	struct run r;
	struct err e;

	assert_int_equal(fs_write_file_atomic("vm.yaml", text, strlen(text), 0600, NULL), 0);
	assert_int_equal(PARSE("--smp", "3", "--disk", "b.raw:raw", "--config", "vm.yaml"), 0);
	assert_int_equal(r.c.smp, 3);
	assert_true(r.c.memory == 2 * GiB);
	assert_int_equal(r.c.ndisks, 2);
	assert_string_equal(r.c.disks[1].file, "b.raw");
	command_free(&run, &r);
	assert_int_equal(PARSE("-c", "none.yaml"), -ENOENT);
	assert_string_equal(e.msg, "open none.yaml: No such file or directory");
	command_free(&run, &r);
	assert_int_equal(PARSE("-c", "dir"), -EISDIR);
	command_free(&run, &r);
}

static void each_bad_flag_names_the_remedy(void **state)
{
	struct run r;
	struct err e;

#define BAD(text, ...) \
	do { \
		assert_int_equal(PARSE(__VA_ARGS__), -EINVAL); \
		assert_string_equal(e.msg, text); \
		command_free(&run, &r); \
	} while (0)
	BAD("--memory: 0 is too small: give 1M to 8T", "--memory", "0");
	BAD("--memory: \"3\" has no unit: write 3M or 3G (or 3B for bytes)", "--memory", "3");
	BAD("--memory: 3B is too small: give 1M to 8T", "--memory", "3B");
	BAD("--smp: 0 is too small: give 1 to 128", "--smp", "0");
	BAD("--smp: 129 is too large: give 1 to 128", "--smp", "129");
	BAD("--disk: \"a.raw\" names no format: write a.raw:FORMAT, which is raw, "
	    "qcow2 or lodgefs (formats are never guessed)",
		"--disk", "a.raw");
	BAD("--disk: \"a:b/c\" names no format: write a:b/c:FORMAT, which is raw, "
	    "qcow2 or lodgefs (formats are never guessed)",
		"--disk", "a:b/c");
	BAD("--disk: format of a.raw: \"qcow9\" is not known: give one of raw, qcow2, lodgefs",
		"--disk", "a.raw:qcow9");
	BAD("--disk: \"file=a.raw\" names no format: write FILE:FORMAT, which is raw, qcow2 or "
	    "lodgefs (formats are never guessed)",
		"--disk", "file=a.raw,format=raw");
	BAD("--disk: the file name is empty", "--disk", ":raw");
	BAD("--disk: unknown part \"reedonly\": did you mean \"readonly\"?", "--disk",
		"a:raw,reedonly");
	BAD("--disk: cache: \"fast\" is not known: give one of writeback, none, writethrough",
		"--disk", "a:raw,cache=fast");
	BAD("unknown flag --memroy: did you mean --memory?", "--memroy=1G");
	BAD("--net: hostfwd: \"tcp:80\" is not a forwarding: write "
	    "tcp:[ADDRESS]:PORT-[ADDRESS]:PORT, as in "
	    "tcp::2222-:22",
		"--net", "user,hostfwd=tcp:80");
	BAD("--net: mac: \"52:54\" is not a MAC address: write it as 52:54:00:12:34:56", "--net",
		"user,mac=52:54");
	BAD("--net: mac: 53:54:00:12:34:56 is a multicast address: clear the lowest bit of the "
	    "first byte",
		"--net", "user,mac=53:54:00:12:34:56");
	BAD("--net: tap: \"a/b\" is not the name of a network interface", "--net", "tap=a/b");
	BAD("--cpu: \"x86\" is not a known CPU: give rv64, or for x86-64 guests host, x86-64, "
	    "x86-64-v2 or x86-64-v3",
		"--cpu", "x86");
	BAD("--cpu: \"zbb\" is not a switch: write zbb=off or zbb=on", "--cpu", "rv64,zbb");
	BAD("--name: \"../x\" is not a name: letters, digits, '.', '_' and '-', the first a letter "
	    "or digit, at "
	    "most 63",
		"--name", "../x");
	BAD("--clock: \"model\" is not known: give host", "--clock", "model");
	BAD("--append: the text is not UTF-8", "--append", "\xff");
	BAD("--kernel: the file name is empty", "--kernel", "");
}

static void forwardings(void **state)
{
	static const char *const bad[] = {"", "tcp", "tcp:", "tcp::-:", "tcp::1-2", "tcp::0-:1",
		"tcp::1-:65536", "sctp::1-:1", "tcp:1.2.3:1-:1", "tcp:1.2.3.4.5:1-:1", "tcp::1:-:1",
		"tcp::1-:1x", "tcp::123456-:1", "tcp:::1-:1", "tcp-:1:1", "tcp::1-:"};
	struct vm_fwd f;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (vm_fwd_parse(&f, bad[i], NULL) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
	assert_int_equal(vm_fwd_parse(&f, "tcp:0.0.0.0:65535-192.168.100.100:1", NULL), 0);
	assert_int_equal(f.host_port, 65535);
	assert_string_equal(f.guest, "192.168.100.100");
}

static void each_bad_yaml_names_line_and_column(void **state)
{
	static const struct {
		const char *text, *say;
	} rows[] = {
		{"memory: 1G\nsmp: four\n", "line 2, column 6: smp: \"four\" is not a number"},
		{"memory: 1G\nsmp: [1, 2]\n", "line 2, column 6: smp: a list instead of a number"},
		{"smp:\n  a: 1\n", "line 2, column 3: smp: a mapping instead of a number"},
		{"memory: 1024\n", "line 1, column 9: memory: \"1024\" has no unit: write 1024M or "
				   "1024G (or 1024B "
				   "for bytes)"},
		{"kernel:\nsmp: 1\n",
			"line 1, column 8: kernel: no value: give a text or leave the key out"},
		{"kernel: ~\n",
			"line 1, column 9: kernel: no value: give a text or leave the key out"},
		{"sandbox: maybe\n", "line 1, column 10: sandbox: \"maybe\" is neither on nor off"},
		{"memroy: 1G\n",
			"line 1, column 1: unknown key \"memroy\": did you mean \"memory\"?"},
		{"smp: 1\nsmp: 2\n", "line 2, column 1: the key \"smp\" is there twice"},
		{"disks: a.raw:raw\n", "line 1, column 8: disks: a single value instead of a list"},
		{"disks:\n- a.raw\n", "line 2, column 3: disks[0]: \"a.raw\" names no format: "
				      "write a.raw:FORMAT, "
				      "which is raw, qcow2 or lodgefs (formats are never guessed)"},
		{"disks:\n- a.raw:raw\n- file: b\n  format: qcow9\n",
			"line 4, column 11: disks[1]: format: \"qcow9\" is not known: give one of "
			"raw, qcow2, lodgefs"},
		{"disks:\n- fiel: b\n",
			"line 2, column 3: disks[0]: unknown key \"fiel\": did you mean \"file\"?"},
		{"disks:\n- [a]\n",
			"line 2, column 3: disks[0]: a list instead of a mapping or a text"},
		{"nets:\n- user: on\n  hostfwd:\n  - {a: b}\n",
			"line 4, column 5: nets[0]: hostfwd[0]: a mapping instead of a text"},
		{"- a\n", "line 1, column 1: a list instead of a mapping of keys to values, as in "
			  "\"memory: 1G\""},
		{"memory: &x 1G\nsmp: *x\n",
			"line 2, column 6: smp: an alias (not supported: write the value out) "
			"instead of a number"},
		{"? [a]\n: b\n", "line 1, column 3: a list instead of a key"},
		{"smp: 1\n---\nsmp: 2\n",
			"line 2, column 1: a second document: one file defines one machine"},
		{"smp: 1\n\tx: 2\n", "line 2, column 1: not YAML: found a tab character that "
				     "violates indentation"},
		{"disks: [\n", "line 2, column 1: not YAML: did not find expected node content"},
		{"name: \"a\\0b\"\n", "line 1, column 7: name: a NUL inside a text"},
	};
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup(vm_config_free) struct vm_config c;
		char want[600];

		snprintf(want, sizeof(want), "vm.yaml: %s", rows[i].say);
		assert_int_equal(vm_config_init(&c, &e), 0);
		assert_int_equal(
			vm_config_parse_yaml(&c, rows[i].text, strlen(rows[i].text), "vm.yaml", &e),
			-EINVAL);
		assert_string_equal(e.msg, want);
	}
}

static void deep_or_empty_yaml_is_refused(void **state)
{
	cleanup(vm_config_free) struct vm_config c;
	char deep[20000];
	struct err e = {0};

	memset(deep, '[', sizeof(deep));
	assert_int_equal(vm_config_init(&c, &e), 0);
	assert_int_equal(vm_config_parse_yaml(&c, deep, sizeof(deep), "x", &e), -EINVAL);
	assert_int_equal(vm_config_parse_yaml(&c, "", 0, "x", &e), -EINVAL);
	assert_string_equal(e.msg, "x is empty: it should define a machine, as in \"memory: 1G\"");
	assert_int_equal(vm_config_parse_yaml(&c, "\xff\xfe\xff", 3, "x", &e), -EINVAL);
	assert_int_equal(vm_config_parse_yaml(&c, "{}", 2, "x", &e), 0);
}

static void each_bad_json_names_the_key(void **state)
{
	static const struct {
		const char *text, *say;
	} rows[] = {
		{"[]", "the definition is an array instead of an object"},
		{"{\"smp\": \"x\"}", "smp: \"x\" is not a number"},
		{"{\"smp\": 1.5}", "smp: a fraction does not fit: give a number"},
		{"{\"smp\": -1}", "smp: \"-1\" is not a number"},
		{"{\"memory\": 3}", "memory: 3B is too small: give 1M to 8T"},
		{"{\"rng\": 1}", "rng: a whole number does not fit: give true or false"},
		{"{\"name\": null}", "name: null does not fit: give a text"},
		{"{\"name\": \"a\\u0000b\"}", "name: a NUL inside a text"},
		{"{\"disks\": {}}", "disks: an object instead of an array"},
		{"{\"disks\": [{\"fil\": 1}]}",
			"disks: [0]: unknown key \"fil\": did you mean \"file\"?"},
		{"{\"nets\": [{\"hostfwd\": [{}]}]}",
			"nets: [0]: hostfwd: [0]: an object does not fit: give a text"},
	};
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup(vm_config_free) struct vm_config c;
		cleanup(json_drop) json_t *j = json_loads(rows[i].text, JSON_ALLOW_NUL, NULL);

		assert_non_null(j);
		assert_int_equal(vm_config_init(&c, &e), 0);
		assert_int_equal(vm_config_from_json(&c, j, &e), -EINVAL);
		assert_string_equal(e.msg, rows[i].say);
	}
}

/* Parses the flags and validates against a host of 4 GiB. */
static int validate(struct run *r, struct err *e, int argc, char **argv)
{
	const struct vm_host host = {4 * GiB};

	if (parse(r, e, argc, argv))
		fail_msg("%s", e->msg);
	return vm_config_validate(&r->c, &host, false, e);
}

static void cross_checks(void **state)
{
	struct run r;
	struct err e;

#define CHECK(code, text, ...) \
	do { \
		assert_int_equal( \
			validate(&r, &e, ARRAY_SIZE(WORDS(__VA_ARGS__)) - 1, WORDS(__VA_ARGS__)), \
			code); \
		assert_string_equal(e.msg, text); \
		command_free(&run, &r); \
	} while (0)
	CHECK(0, "", "--kernel", "kernel", "--disk", "a.raw:raw", "--disk", "b.raw:raw", "--net",
		"user");
	CHECK(0, "", "--kernel", "kernel", "--disk", "a.raw:raw,readonly", "--disk",
		"also-a.raw:raw,readonly");
	CHECK(-EINVAL, "nothing to boot: name an image, or give --kernel FILE or --firmware FILE",
		"--smp", "1");
	CHECK(-EINVAL, "memory 5G is more than the 4G that this host has: give less", "-k",
		"kernel", "-m", "5G");
	CHECK(-EINVAL, "memory 1025K is not a multiple of 4K: write it in K, M or G", "-k",
		"kernel", "-m", "1025K");
	CHECK(-EINVAL, "2 nodes for 1 vCPUs: each node needs one; raise --smp or lower --nodes",
		"-k", "kernel", "--nodes", "2");
	CHECK(-ENOENT, "kernel none: No such file or directory", "-k", "none");
	CHECK(-EINVAL, "kernel empty is empty: was it copied completely?", "-k", "empty");
	CHECK(-EINVAL, "kernel dir is a directory: name a file", "-k", "dir");
	CHECK(-EINVAL, "kernel fifo is not a regular file: name a file", "-k", "fifo");
	CHECK(-EINVAL,
		"kernel, initrd and firmware take 4M and the guest has 2M: give more --memory",
		"-k", "kernel", "--initrd", "big", "-m", "2M");
	CHECK(-EINVAL, "initrd kernel without a kernel: add --kernel FILE", "--firmware", "kernel",
		"--initrd", "kernel");
	CHECK(-ENOENT, "disk none: No such file or directory", "-k", "kernel", "--disk",
		"none:raw");
	CHECK(-EINVAL, "disk dir is a directory: name a file", "-k", "kernel", "--disk", "dir:raw");
	CHECK(-EINVAL, "disk empty is empty: was it copied completely?", "-k", "kernel", "--disk",
		"empty:raw");
	CHECK(-EINVAL,
		"disk also-a.raw is there twice: give each disk a file of its own, or make both "
		"readonly",
		"-k", "kernel", "--disk", "a.raw:raw", "--disk", "also-a.raw:raw");
	CHECK(-EINVAL, "two disks have the id x: rename one", "-k", "kernel", "--disk",
		"a.raw:raw,id=x", "--disk", "b.raw:raw,id=x");
	CHECK(-EINVAL, "net 0 must be either user, tap=NAME or switch=NAME, not several", "-k",
		"kernel", "--net", "user,tap=t");
	CHECK(-EINVAL, "net 0 must be one of: user, tap=NAME or switch=NAME", "-k", "kernel",
		"--net", "id=x");
	CHECK(-EINVAL, "two nets use the tap t: give each its own", "-k", "kernel", "--net",
		"tap=t", "--net", "tap=t");
}

static void unwritable_disk(void **state)
{
	struct run r;
	struct err e;

	assert_int_equal(chmod(top, 0755), 0);
	assert_int_equal(chmod("kernel", 0644), 0);
	assert_int_equal(chmod("b.raw", 0444), 0);
	/* root may write everything: be somebody else for a moment */
	if (geteuid() == 0)
		assert_int_equal(seteuid(65534), 0);
	CHECK(-EACCES,
		"disk b.raw cannot be written; add readonly, or make it writable: Permission "
		"denied",
		"-k", "kernel", "--disk", "b.raw:raw");
	if (getuid() == 0)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod("b.raw", 0600), 0);
}

static void mapping_without_format(void **state)
{
	static const char text[] = "kernel: kernel\ndisks: [{file: a.raw}]\n";
	static const char none[] = "kernel: kernel\ndisks: [{format: raw}]\n";
	const struct vm_host host = {4 * GiB};
	cleanup(vm_config_free) struct vm_config c, d;
	struct err e = {0};

	assert_int_equal(vm_config_init(&c, &e), 0);
	assert_int_equal(vm_config_parse_yaml(&c, text, strlen(text), "x", &e), 0);
	assert_int_equal(vm_config_validate(&c, &host, false, &e), -EINVAL);
	assert_string_equal(e.msg, "disk a.raw names no format: add format: raw, qcow2 or lodgefs "
				   "(formats are never guessed)");
	assert_int_equal(vm_config_init(&d, &e), 0);
	assert_int_equal(vm_config_parse_yaml(&d, none, strlen(none), "x", &e), 0);
	assert_int_equal(vm_config_validate(&d, &host, false, &e), -EINVAL);
	assert_string_equal(e.msg, "disk 0 names no file: add file");
}

static void images_are_resolved_first(void **state)
{
	static const char text[] = "image: debian:mini\nappend: quiet\n";
	const struct vm_host host = {4 * GiB};
	cleanup(vm_config_free) struct vm_config c;
	struct err e = {0};

	assert_int_equal(vm_config_init(&c, &e), 0);
	assert_int_equal(vm_config_parse_yaml(&c, text, strlen(text), "x", &e), 0);
	assert_int_equal(vm_config_validate(&c, &host, true, &e), 0);
	assert_int_equal(vm_config_validate(&c, &host, false, &e), -EINVAL);
	assert_string_equal(e.msg, "image debian:mini: images are opened by lodge run; here give "
				   "--kernel or --firmware");
}

static void host_is_read(void **state)
{
	struct vm_host h;
	struct err e = {0};

	assert_int_equal(vm_host_read(&h, &e), 0);
	assert_true(h.memory > 64 * MiB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_are_well_formed),
		cmocka_unit_test(defaults),
		cmocka_unit_test(all_writings_mean_the_same),
		cmocka_unit_test(keys_are_spelled_as_flags),
		cmocka_unit_test(flags_go_over_the_file),
		cmocka_unit_test(each_bad_flag_names_the_remedy),
		cmocka_unit_test(forwardings),
		cmocka_unit_test(each_bad_yaml_names_line_and_column),
		cmocka_unit_test(deep_or_empty_yaml_is_refused),
		cmocka_unit_test(each_bad_json_names_the_key),
		cmocka_unit_test(cross_checks),
		cmocka_unit_test(unwritable_disk),
		cmocka_unit_test(mapping_without_format),
		cmocka_unit_test(images_are_resolved_first),
		cmocka_unit_test(host_is_read),
	};

	return cmocka_run_group_tests(tests, make_top, drop_top);
}
