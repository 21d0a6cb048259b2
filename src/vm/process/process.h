/*
 * process.h: what the files of lodge-vm share: one process, one machine (decision D2).
 *
 *   options.c   flags, --config --> definition; what only prints
 *   main.c      name and lock, signals, standard input, the event loop, the end
 *   machine.c   log, control socket, the machine, the sandbox
 *   receive.c   --receive: a machine that comes from elsewhere, its definition with it
 *   update.c    live update: another process goes on with the machine; --take-over: this one does
 *
 * Threads: the event loop's.
 */
#ifndef LODGE_VM_PROCESS_PROCESS_H
#define LODGE_VM_PROCESS_PROCESS_H

#include <stdbool.h>
#include <uv.h>

#include "base/log.h"
#include "base/options.h"
#include "vm/config/config.h"
#include "vm/vm.h"

struct err;
struct json_t;
struct rpc_conn;

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

/* options.c */
extern const struct command process_command;
int process_read_args(struct process *p, int argc, char **argv, struct args *a, struct err *e);
/* Nothing but prints: true when that was asked for. */
bool process_prints(const struct process *p, const struct args *a);
void process_print(const struct process *p, const struct args *a);

/* main.c: to who started this machine (cli/launch/), once: it runs, with a warning or none (NULL). */
void process_tell_ready(struct process *p, const struct err *but);
/* Instead: it does not. `again`: it was a dry run, the machine itself may be the next to come. */
void process_tell_failed(struct process *p, const struct err *e, bool again);
/* For vm_opts; when it has ended all is taken down. */
void process_on_event(void *ctx, const char *name, struct json_t *params);
void process_on_ended(void *ctx, enum vm_cause cause, int code);
/* Signals, and what is typed, from now on. */
void process_watch(struct process *p);

/* machine.c */
int process_open_log(struct process *p, struct err *e);
/* Name and lock are ours. Everything that a machine needs is open when this returns 0; nothing runs. */
int process_build(struct process *p, struct err *e);
int process_enter_sandbox(struct process *p, struct err *e);

/* receive.c: waits for the other side's first word, and makes its definition ours. */
int process_await(struct process *p, struct err *e);
/* The machine is built: takes what comes, in turns of the loop. */
int process_receive(struct process *p, struct err *e);

/* update.c: see control_on_update(). */
int process_on_update(void *ctx, struct rpc_conn *conn, int sock, struct err *e);
/* A running machine of another process: from here on it is in this one. */
int process_take_over(struct process *p, struct err *e);

#endif
