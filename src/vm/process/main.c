/*
 * main.c: lodge-vm: one process, one machine (decision D2).
 *
 *   flags, --config --> definition --> name and lock (rundir) --> control socket --> build --> sandbox --> run the event loop
 *
 * Everything is opened before the sandbox is entered. The exit code is the guest's: 0 for a clean power-off, the code that it gave to
 * the test finisher, 1 when something failed here, 137 when the machine was killed.
 */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "vm/console.h"
#include "vm/control/control.h"
#include "vm/migrate/disks_in.h"
#include "vm/migrate/receive.h"
#include "vm/process/process.h"
#include "vm/rundir.h"
#include "vm/update/update.h"
#include "vm/vm.h"

/* ---- to who started this machine ---- */

/* Once. Takes j. */
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

void process_tell_ready(struct process *p, const struct err *but)
{
	tell(p, json_pack("{s:b, s:s, s:i, s:b, s:s*}", "ok", 1, "name", p->name, "pid",
			(int)getpid(), "coming", receive_is_coming(p->receive), "warning",
			but ? err_msg(but) : NULL));
}

void process_tell_failed(struct process *p, const struct err *e, bool again)
{
	tell(p, json_pack("{s:b, s:i, s:s, s:b}", "ok", 0, "errno", -e->code, "error", err_msg(e),
			"again", again));
}

/* ---- from outside ---- */

static void on_signal(uv_signal_t *s, int signum)
{
	struct process *p = s->data;

	if (p->vm)
		vm_kill(p->vm);
	else
		uv_stop(&p->loop); /* only networks of a machine that has gone on elsewhere are left */
}

/* Who waited for a machine from elsewhere has gone (cli/launch/keeper.c). */
static void on_hangup(uv_signal_t *s, int signum)
{
	struct process *p = s->data;

	if (p->receive && !receive_is_coming(p->receive))
		receive_give_up(p->receive);
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

void process_watch(struct process *p)
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

/* ---- from the machine ---- */

void process_on_event(void *ctx, const char *name, json_t *params)
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

void process_on_ended(void *ctx, enum vm_cause cause, int code)
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

/* ---- one machine ---- */

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

static int start(struct process *p, struct err *e)
{
	int rc = vm_start(p->vm, p->paused || p->receive, e);

	if (!rc && p->receive)
		return process_receive(p, e);
	if (!rc)
		process_tell_ready(p, NULL);
	return rc;
}

static int bring_up(struct process *p, struct err *e)
{
	int rc = p->receive_fd ? process_await(p, e) : 0;

	rc = rc ?: process_open_log(p, e);
	rc = rc ?: claim_name(p, e);
	if (rc)
		return rc;
	rc = process_build(p, e);
	if (!rc) {
		process_watch(p);
		rc = process_enter_sandbox(p, e);
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
	rc = p->taker ? process_take_over(p, e) : bring_up(p, e);
	if (rc && p->receive) {
		disks_in_free(steal_ptr(p->disks));
		receive_refuse(p->receive, e);
	}
	if (rc)
		return rc;
	uv_run(&p->loop, UV_RUN_DEFAULT);
	return 0;
}

/* 2: wrong usage. 1: failed. */
static int finish(struct process *p, const struct err *e, int code)
{
	process_tell_failed(p, e, false);
	if (p->taker)
		update_take_failed(p->taker, e);
	fprintf(stderr, "lodge-vm: %s\n", err_msg(e));
	/* What is the other process's must not be taken down in order: it would be gone there. */
	if (p->taker)
		_exit(code); /* not taken down: others see it */
	return code;
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
	rc = process_read_args(p, argc, argv, &a, &e);
	if (rc) {
		rc = finish(p, &e, 2);
	} else if (process_prints(p, &a)) {
		process_print(p, &a);
	} else {
		rc = run(p, &e);
		rc = rc ? finish(p, &e, 1) : p->code;
	}
	command_free(&process_command, p);
	free(p);
	return rc;
}
