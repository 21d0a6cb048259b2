/*
 * main.c: lodge-vm: one process, one machine (decision D2).
 *
 *   flags, --config --> definition --> name and lock (rundir) --> control socket --> build --> sandbox --> run the event loop
 *
 * Everything is opened before the sandbox is entered. The exit code is the guest's: 0 for a clean power-off, the code that it gave to
 * the test finisher, 1 when something failed here, 137 when the machine was killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/log.h"
#include "base/util.h"
#include "vm/config/config.h"
#include "net/splice.h"
#include "net/wire.h"
#include "vm/console.h"
#include "vm/control/control.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/disks_in.h"
#include "vm/migrate/receive.h"
#include "vm/nets.h"
#include "vm/rundir.h"
#include "vm/sandbox.h"
#include "vm/snapshot/snapshot.h"
#include "vm/update/update.h"
#include "vm/vm.h"

/* What a process has beside the machine's definition. */
struct process {
	struct vm_config cfg;
	char *config, *console_log, *restore;
	char *tls_cert, *tls_key, *tls_ca;
	unsigned ready_fd, receive_fd, take_over;
	struct vm_place *places;
	unsigned nplaces;
	bool overwrite;
	bool cold, paused, explain, man, completion, version, no_stdio;

	uv_loop_t loop;
	uv_signal_t sigterm, sigint, sighup;
	uv_poll_t input;
	uv_timer_t last_words;
	struct log log;
	struct control *control;
	struct vm *vm;
	struct receive *receive; /* the machine is still coming */
	struct disks_in *disks; /* that it brings along */
	struct update_giver *giver; /* another process is about to take the machine over */
	struct update_taker *taker; /* we are */
	char name[64];
	int lock_fd, pid_fd;
	int code;
};

static const struct opt process_opts[] = {
	{"config", .type = OPT_TEXT, OPT_AT(struct process, config), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "read the definition from this YAML or JSON file; flags come on top"},
	{"console-log", .type = OPT_TEXT, OPT_AT(struct process, console_log), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE, .help = "keep what the guest writes to its console"},
	{"paused", .type = OPT_FLAG, OPT_AT(struct process, paused),
		.help = "build the machine and wait for `resume`"},
	{"restore", .type = OPT_TEXT, OPT_AT(struct process, restore), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "go on from a snapshot of a machine of the same definition; its memory is "
			"mapped from the file, which must not change meanwhile (lodge restore does "
			"all of it)"},
	{"restore-cold", .type = OPT_FLAG, OPT_AT(struct process, cold),
		.help = "with --restore: without the working set and the hot code that the "
			"snapshot "
			"has, to see what they are worth"},
	{"receive", .type = OPT_UINT, OPT_AT(struct process, receive_fd), .arg = "FD", .max = 1023,
		.help = "wait on this listening socket for a machine that is migrated here; its "
			"definition comes with it unless --config names one (lodge receive does "
			"all "
			"of it)"},
	{"receive-disk", .type = OPT_LIST, OPT_LIST_AT(struct process, places, nplaces),
		.parse = vm_place_parse, .sub = vm_place_opts, .arg = "ID=FILE:FORMAT",
		.max = VM_MAX_DISKS,
		.help = "for --receive: where this disk of the machine lies here, or is to be made "
			"if it comes along"},
	{"receive-overwrite", .type = OPT_FLAG, OPT_AT(struct process, overwrite),
		.help = "for --receive: disks that come along may take the place of files that are "
			"there, where --config or --receive-disk names them"},
	{"tls-cert", .type = OPT_TEXT, OPT_AT(struct process, tls_cert), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "for --receive: the certificate to show, PEM; only TLS is spoken then"},
	{"tls-key", .type = OPT_TEXT, OPT_AT(struct process, tls_key), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE, .help = "its key"},
	{"tls-ca", .type = OPT_TEXT, OPT_AT(struct process, tls_ca), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "what must have signed the certificate of who sends the machine"},
	{"ready-fd", .type = OPT_UINT, OPT_AT(struct process, ready_fd), .arg = "FD", .max = 1023,
		.help = "write one line of JSON to this descriptor when the machine runs or could "
			"not be built; no console on standard input and output then"},
	{"take-over", .type = OPT_UINT, OPT_AT(struct process, take_over), .arg = "FD", .max = 1023,
		.help = "go on with the machine of a running lodge-vm, whose channel this is "
			"(lodge "
			"update does all of it)"},
	{"explain-sandbox", .type = OPT_FLAG, OPT_AT(struct process, explain),
		.help = "print what the sandbox allows, with the reason for each rule, and end"},
	{"man", .type = OPT_FLAG, OPT_AT(struct process, man),
		.help = "print the manual page (lodge-vm --man | man -l -), and end"},
	{"completion", .type = OPT_FLAG, OPT_AT(struct process, completion),
		.help = "print the completion script for bash, and end"},
	{"version", .type = OPT_FLAG, OPT_AT(struct process, version),
		.help = "print the version, and end"},
	OPT_DONE,
};

static const struct opt_group groups[] = {
	{"Machine", vm_config_opts, offsetof(struct process, cfg)},
	{"Process", process_opts, 0},
	{0},
};

static const struct command command = {
	.program = "lodge-vm",
	.summary = "run one virtual machine",
	.text = "Runs one machine in this process until its guest powers off. `lodge run` starts "
		"it for you; by hand it puts the "
		"guest's console on standard input and output.",
	.groups = groups,
};

/* To who started this machine, once: cli/launch.c. Takes j. */
static void tell(struct process *p, json_t *j)
{
	if (!p->ready_fd) {
		json_decref(j);
		return;
	}
	json_dumpfd(j, (int)p->ready_fd, JSON_COMPACT);
	json_decref(j);
	if (write((int)p->ready_fd, "\n", 1) < 0)
		log_warn(&p->log, "lodge-vm", "who started this machine is not listening");
	close((int)p->ready_fd);
	p->ready_fd = 0;
}

static void tell_ready(struct process *p, const struct err *but)
{
	tell(p, json_pack("{s:b, s:s, s:i, s:b, s:s*}", "ok", 1, "name", p->name, "pid",
			(int)getpid(), "coming", receive_is_coming(p->receive), "warning",
			but ? err_msg(but) : NULL));
}

/* again: it was a dry run, the machine itself may be the next to come. */
static void tell_failed(struct process *p, const struct err *e, bool again)
{
	tell(p, json_pack("{s:b, s:i, s:s, s:b}", "ok", 0, "errno", -e->code, "error", err_msg(e),
			"again", again));
}

static void on_event(void *ctx, const char *name, json_t *params)
{
	struct process *p = ctx;

	control_event(p->control, name, params);
}

static void close_all(uv_handle_t *h, void *arg)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

/* Whoever still reads has had his time. */
static void on_last_words(uv_timer_t *t)
{
	uv_walk(t->loop, close_all, NULL);
}

static void on_ended(void *ctx, enum vm_cause cause, int code)
{
	struct process *p = ctx;

	p->code = code;
	/* What waits for a page that is not here can only be ended by the host, and must see no other page in its place. */
	if (receive_is_coming(p->receive)) {
		log_warn(&p->log, "receive", "the machine ends before all its memory is here");
		rundir_remove(p->name);
		_exit(code); /* not taken down: others see it */
	}
	receive_free(steal_ptr(p->receive));
	update_give_cancel(p->giver);
	p->giver = NULL;
	control_set_vm(p->control, NULL);
	vm_destroy(p->vm);
	p->vm = NULL;
	disks_in_free(steal_ptr(p->disks));
	rundir_remove(p->name);
	control_close(p->control);
	p->control = NULL;
	uv_close((uv_handle_t *)&p->sigterm, NULL);
	uv_close((uv_handle_t *)&p->sigint, NULL);
	if (!p->no_stdio)
		uv_close((uv_handle_t *)&p->input, NULL);
	uv_timer_start(&p->last_words, on_last_words, 2000, 0);
	uv_unref((uv_handle_t *)&p->last_words);
}

static void on_signal(uv_signal_t *s, int signum)
{
	struct process *p = s->data;

	if (p->vm)
		vm_kill(p->vm);
	else
		uv_stop(&p->loop); /* only networks of a machine that has gone on elsewhere are left */
}

/* Who waited for a machine from elsewhere has gone (cli/launch.c). */
static void on_hangup(uv_signal_t *s, int signum)
{
	struct process *p = s->data;

	if (p->receive && !receive_is_coming(p->receive))
		receive_give_up(p->receive);
}

/* ---- live update: the old process ---- */

/* User networking stays here, with its connections, for as long as the machine wants it. */
static void keep_nat(struct process *p, struct net_backend *nat, int cable)
{
	struct net_backend *b;
	struct err e = {0};

	if (net_wire_open(&b, &(struct net_wire_opts){"nat", "nat", NULL, &p->loop, cable}, &e)) {
		close(cable);
		net_close(nat);
	} else if (net_splice(nat, b, &p->loop, &e)) {
		net_close(b);
		net_close(nat);
	}
	if (e.code)
		log_error(&p->log, "update", "%s", err_msg(&e));
}

static void on_given(void *ctx, const int nat[VM_MAX_NETS])
{
	struct net_backend *stay[VM_MAX_NETS];
	struct process *p = ctx;

	p->giver = NULL;
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		stay[i] = nat[i] > 0 ? nets_release(vm_nets(p->vm), i) : NULL;
	update_forget(p->vm, p->control);
	control_set_vm(p->control, NULL);
	vm_destroy(p->vm);
	p->vm = NULL;
	control_close(p->control);
	p->control = NULL;
	close(p->lock_fd); /* the other process has the lock too */
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		if (stay[i])
			keep_nat(p, stay[i], nat[i]);
	uv_unref((uv_handle_t *)&p->sigterm);
	uv_unref((uv_handle_t *)&p->sigint);
}

static void on_kept(void *ctx)
{
	struct process *p = ctx;

	p->giver = NULL;
}

static int on_update(void *ctx, struct rpc_conn *conn, int sock, struct err *e)
{
	struct process *p = ctx;
	struct update_parts parts = {.vm = p->vm,
		.cfg = &p->cfg,
		.control = p->control,
		.name = p->name,
		.loop = &p->loop,
		.lock_fd = p->lock_fd,
		.given = on_given,
		.kept = on_kept,
		.ctx = p};

	if (!p->giver)
		return update_give(&p->giver, &parts, sock, conn, e);
	close(sock);
	return err_set(e, -EBUSY, "update: another one is under way");
}

/* By hand: what is typed goes to the guest. Ends with the input, not the machine. */
static void on_input(uv_poll_t *h, int status, int events)
{
	struct process *p = h->data;
	char buf[1024];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n > 0 && p->vm)
		console_input(vm_console(p->vm), buf, (size_t)n);
	else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		uv_poll_stop(h);
}

static int open_console_log(struct process *p, struct err *e)
{
	int fd;

	if (!p->console_log)
		return p->no_stdio ? -1 : dup(STDOUT_FILENO);
	fd = open(p->console_log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return fd < 0 ? err_sys(e, -errno, "console log %s", p->console_log) : fd;
}

static int open_log(struct process *p, struct err *e)
{
	p->log.fd = STDERR_FILENO;
	p->log.max = (enum log_level)p->cfg.log_level;
	if (p->cfg.log) {
		p->log.fd = open(p->cfg.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (p->log.fd < 0)
			return err_sys(e, -errno, "log %s", p->cfg.log);
	}
	return 0;
}

/* The lock of a machine that runs, and its name; the file with the pid is open for when it is ours. */
static int take_name(struct process *p, struct err *e)
{
	char path[PATH_MAX];
	int rc;

	snprintf(p->name, sizeof(p->name), "%s", p->cfg.name ?: "");
	p->lock_fd = update_fd(p->taker, "lock");
	rc = rundir_check_name(p->name, e) ?: rundir_path(p->name, "pid", path, sizeof(path), e);
	if (rc)
		return rc;
	p->pid_fd = open(path, O_WRONLY | O_CLOEXEC);
	return p->pid_fd < 0 || p->lock_fd < 0
		       ? err_sys(e, p->pid_fd < 0 ? -errno : -EPROTO, "%s", path)
		       : 0;
}

static int claim_name(struct process *p, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	char path[PATH_MAX];
	json_t *j;
	int rc;

	if (p->cfg.name)
		snprintf(p->name, sizeof(p->name), "%s", p->cfg.name);
	else
		snprintf(p->name, sizeof(p->name), "vm-%d", (int)getpid());
	rc = rundir_claim(p->name, &p->lock_fd, e);
	if (!rc)
		rc = rundir_path(p->name, "config.json", path, sizeof(path), e);
	if (rc)
		return rc;
	j = vm_config_to_json(&p->cfg);
	text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	json_decref(j);
	return text ? fs_write_file_volatile(path, text, strlen(text), 0600, e) : 0;
}

static int build(struct process *p, struct err *e)
{
	struct vm_opts o = {.cfg = &p->cfg,
		.loop = &p->loop,
		.log = &p->log,
		.event = on_event,
		.ended = on_ended,
		.ctx = p,
		.restore = p->restore || p->receive || p->taker,
		.asleep = p->receive || p->taker,
		.disk_at = disks_in_at(p->disks),
		.handed = p->taker ? update_handed(p->taker) : NULL};
	cleanup(close_fd) int snapshot_fd = -1;
	char path[PATH_MAX], vsock[PATH_MAX];
	int rc;

	o.console_fd = p->taker ? update_fd(p->taker, "console_log") : open_console_log(p, e);
	if (o.console_fd < -1)
		return o.console_fd;
	rc = rundir_path(p->name, "control.sock", path, sizeof(path), e);
	if (!rc)
		rc = control_create(&p->control, &p->loop, path,
			p->taker ? update_fd(p->taker, "control") : -1, p->name, e);
	if (!rc)
		rc = rundir_path(p->name, "vsock.sock", vsock, sizeof(vsock), e);
	o.vsock = vsock;
	if (!rc)
		rc = vm_create(&p->vm, &o, e);
	if (rc)
		return rc;
	control_set_vm(p->control, p->vm);
	/* Who reads this process's standard output would not see that another one goes on. */
	control_on_update(p->control, p->no_stdio ? on_update : NULL,
		"console: it is on the standard input and output of who started this machine by "
		"hand, and cannot go to another process: shut the machine down, or run it by "
		"`lodge "
		"run -d`",
		p);
	if (p->receive) {
		rc = disks_in_open(p->disks, e) ?: receive_check(p->receive, p->vm, e);
	} else if (p->restore) {
		snapshot_fd = open(p->restore, O_RDONLY | O_CLOEXEC);
		rc = snapshot_fd < 0 ? err_sys(e, -errno, "%s", p->restore)
				     : vm_restore(p->vm, snapshot_fd,
					       p->cold ? 0 : VM_WARM_MEMORY | VM_WARM_CODE, e);
	}
	return rc;
}

static int enter_sandbox(struct process *p, struct err *e)
{
	char path[PATH_MAX];
	int rc;

	if (!p->cfg.sandbox) {
		log_warn(&p->log, "lodge-vm", "runs without its sandbox, as it was told");
		return 0;
	}
	rc = fs_place_path(FS_RUNTIME, path, sizeof(path), e);
	return rc ?: sandbox_enter(&(struct sandbox_opts){path, &p->log, vm_engine(p->vm)}, e);
}

static void watch_signals_and_input(struct process *p)
{
	uv_signal_init(&p->loop, &p->sigterm);
	uv_signal_init(&p->loop, &p->sigint);
	p->sigterm.data = p->sigint.data = p;
	uv_signal_start(&p->sigterm, on_signal, SIGTERM);
	uv_signal_start(&p->sigint, on_signal, SIGINT);
	if (p->receive) {
		uv_signal_init(&p->loop, &p->sighup);
		p->sighup.data = p;
		uv_signal_start(&p->sighup, on_hangup, SIGHUP);
		uv_unref((uv_handle_t *)&p->sighup);
	}
	uv_timer_init(&p->loop, &p->last_words);
	if (p->no_stdio)
		return;
	/* A regular file or /dev/null cannot be polled: such input is none. */
	if (uv_poll_init(&p->loop, &p->input, STDIN_FILENO)) {
		p->no_stdio = true;
		return;
	}
	p->input.data = p;
	uv_poll_start(&p->input, UV_READABLE, on_input);
}

static void note_pid(struct process *p)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	/* Longer or as long as what was there, or cut: nobody sees digits of both. */
	if (pwrite(p->pid_fd, text, (size_t)n, 0) != n || ftruncate(p->pid_fd, n))
		log_warn(&p->log, "update", "the file with the process id could not be written");
	close(p->pid_fd);
}

/* A running machine of another process, from here on in this one. */
static int take_over(struct process *p, struct err *e)
{
	int rc = open_log(p, e) ?: take_name(p, e) ?: build(p, e);

	update_stage("built");
	if (!rc) {
		watch_signals_and_input(p);
		rc = enter_sandbox(p, e);
	}
	update_stage("sandboxed");
	if (!rc)
		rc = update_go_on(p->taker, p->vm, p->control, e);
	if (rc)
		return rc;
	note_pid(p);
	update_took(p->taker, p->vm, p->control);
	p->taker = NULL;
	return 0;
}

/* ---- a machine that comes from elsewhere ---- */

static int read_tls(struct process *p, struct chan_tls **out, struct err *e)
{
	cleanup(free_ptr) char *cert = NULL, *key = NULL, *ca = NULL;
	int rc;

	*out = NULL;
	if (!p->tls_cert && !p->tls_key && !p->tls_ca)
		return 0;
	if (!p->tls_cert || !p->tls_key || !p->tls_ca)
		return err_set(e, -EINVAL, "--tls-cert, --tls-key and --tls-ca go together");
	rc = fs_read_file(p->tls_cert, MiB, &cert, NULL, e)
		     ?: fs_read_file(p->tls_key, MiB, &key, NULL, e)
		     ?: fs_read_file(p->tls_ca, MiB, &ca, NULL, e);
	return rc ?: chan_tls_create(out, cert, key, ca, NULL, e);
}

/* Without a definition of our own it is the source's, under our name; what it says lies relative to where it was started. */
static int adopt_definition(struct process *p, struct err *e)
{
	const json_t *hello = receive_hello(p->receive);
	const char *dir = json_string_value(json_object_get(hello, "directory"));
	struct vm_config c;
	struct vm_host host;
	int rc = 0;

	if (!p->config) {
		rc = vm_config_init(&c, e)
			     ?: vm_config_from_json(&c, json_object_get(hello, "definition"), e);
		if (!rc) {
			free(c.name);
			c.name = steal_ptr(p->cfg.name);
			free(c.log);
			c.log = steal_ptr(p->cfg.log);
		}
		vm_config_free(&p->cfg);
		p->cfg = c;
		if (!rc && dir && *dir && chdir(dir) && errno != ENOENT)
			rc = err_sys(e, -errno, "%s, where the machine was started", dir);
	}
	for (unsigned i = 0; !rc && i < p->nplaces; i++)
		rc = vm_disk_place(&p->cfg, p->places[i].text, e);
	if (!rc)
		rc = disks_in_create(&p->disks,
			&(struct disks_in_opts){.hello = hello,
				.cfg = &p->cfg,
				.overwrite = p->overwrite,
				.own = p->config,
				.places = p->places,
				.nplaces = p->nplaces,
				.loop = &p->loop},
			e);
	rc = rc ?: vm_host_read(&host, e);
	return rc ?: vm_config_validate(&p->cfg, &host, true, e);
}

static int wait_for_machine(struct process *p, struct err *e)
{
	struct chan_tls *tls;
	int rc = read_tls(p, &tls, e) ?: receive_open(&p->receive, (int)p->receive_fd, tls, e);

	return rc ?: adopt_definition(p, e);
}

/* Its images have their names: who waits finds them. */
static void on_named(void *ctx, const struct err *why)
{
	struct process *p = ctx;

	if (why) {
		log_error(&p->log, "receive", "%s", err_msg(why));
		on_event(p, "error", json_pack("{s:s}", "text", err_msg(why)));
	}
	disks_in_free(steal_ptr(p->disks));
	tell_ready(p, why); /* after post-copy it was said long ago */
}

static void on_received(void *ctx, const struct err *why)
{
	struct process *p = ctx;

	if (why) {
		tell_failed(p, why,
			json_is_true(json_object_get(receive_hello(p->receive), "dry_run")));
		log_error(&p->log, "receive", "%s", err_msg(why));
		vm_end(p->vm, VM_CAUSE_ERROR, 1, err_msg(why));
		return;
	}
	if (receive_is_coming(p->receive)) {
		tell_ready(p, NULL);
		return; /* with the socket, to which a new connection comes when this one breaks */
	}
	receive_free(steal_ptr(p->receive));
	close((int)p->receive_fd);
	if (p->disks)
		disks_in_end(p->disks, on_named, p);
	else
		tell_ready(p, NULL); /* after post-copy it was said long ago */
}

static int start(struct process *p, struct err *e)
{
	int rc = vm_start(p->vm, p->paused || p->receive, e);

	if (!rc && p->receive)
		return receive_start(p->receive, p->vm, p->disks, on_received, p, e);
	if (!rc)
		tell_ready(p, NULL);
	return rc;
}

static int bring_up(struct process *p, struct err *e)
{
	int rc = p->receive_fd ? wait_for_machine(p, e) : 0;

	rc = rc ?: open_log(p, e);
	rc = rc ?: claim_name(p, e);
	if (rc)
		return rc;
	rc = build(p, e);
	if (!rc) {
		watch_signals_and_input(p);
		rc = enter_sandbox(p, e);
	}
	rc = rc ?: start(p, e);
	if (rc)
		rundir_remove(p->name);
	return rc;
}

static int run(struct process *p, struct err *e)
{
	int rc;

	uv_loop_init(&p->loop);
	rc = p->taker ? take_over(p, e) : bring_up(p, e);
	if (rc && p->receive) {
		disks_in_free(steal_ptr(p->disks));
		receive_refuse(p->receive, e);
	}
	if (rc)
		return rc;
	uv_run(&p->loop, UV_RUN_DEFAULT);
	return 0;
}

static int read_args(struct process *p, int argc, char **argv, struct args *a, struct err *e)
{
	struct vm_host host;
	int rc = command_defaults(&command, p, e);

	if (!rc)
		rc = vm_config_parse_args(&command, p, &p->cfg, argc, argv, a, e);
	if (rc || a->help || p->explain || p->man || p->completion || p->version)
		return rc;
	p->no_stdio = p->ready_fd || p->take_over;
	if (p->receive_fd)
		return 0; /* the definition comes later */
	if (p->take_over) {
		rc = update_take(&p->taker, (int)p->take_over, e);
		if (!rc)
			rc = vm_config_from_json(&p->cfg, update_definition(p->taker), e);
		if (rc)
			return rc;
	}
	rc = vm_host_read(&host, e);
	return rc ?: vm_config_validate(&p->cfg, &host, false, e);
}

/* 2: wrong usage. 1: failed. */
static int finish(struct process *p, const struct err *e, int code)
{
	tell_failed(p, e, false);
	if (p->taker)
		update_take_failed(p->taker, e);
	fprintf(stderr, "lodge-vm: %s\n", err_msg(e));
	/* What is the other process's must not be taken down in order: it would be gone there. */
	if (p->taker)
		_exit(code); /* not taken down: others see it */
	return code;
}

static void print_sandbox(void)
{
	json_t *j = sandbox_explain();

	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

static void print_man(void)
{
	static const struct man_page page = {
		.program = "lodge-vm",
		.version = LODGE_VERSION,
		.date = LODGE_DATE,
		.summary = "run one virtual machine",
		.text = "Runs one machine in this process until its guest powers off. lodge run "
			"starts "
			"it; by hand it puts the guest's console on standard input and output. "
			"While "
			"it runs, its control socket is control.sock in a directory of its name "
			"below "
			"$XDG_RUNTIME_DIR/lodge, or /run/lodge for root: JSON-RPC 2.0, one object "
			"a "
			"line; the method \"methods\" lists the others.",
		.after = ".SH EXIT STATUS\nThe guest's: 0 after a clean power-off, or the code "
			 "that it "
			 "gave to the test finisher; 137 when it was killed, 1 when something "
			 "failed, "
			 "2 after wrong usage.\n.SH SEE ALSO\n\\fBlodge\\fR(1)\n",
	};
	const struct command *const one = &command;

	commands_print_man(&page, &one, 1, stdout);
}

/* What only prints and starts no machine. */
static void print_only(const struct process *p, const struct args *a)
{
	const struct command *const one = &command;

	if (a->help)
		command_print_help(&command, stdout);
	else if (p->explain)
		print_sandbox();
	else if (p->man)
		print_man();
	else if (p->completion)
		commands_print_completion("lodge-vm", &one, 1, stdout);
	else
		puts("lodge-vm " LODGE_VERSION);
}

int main(int argc, char **argv)
{
	struct process *p = calloc(1, sizeof(*p));
	struct args a = {0};
	struct err e = {0};
	int rc;

	if (!p)
		return 1;
	fs_hold_stdio();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a disk over the limit of file sizes fails by EFBIG */
	rc = read_args(p, argc, argv, &a, &e);
	if (rc) {
		rc = finish(p, &e, 2);
	} else if (a.help || p->explain || p->man || p->completion || p->version) {
		print_only(p, &a);
	} else {
		rc = run(p, &e);
		rc = rc ? finish(p, &e, 1) : p->code;
	}
	command_free(&command, p);
	free(p);
	return rc;
}
