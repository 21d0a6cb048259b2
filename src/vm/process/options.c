/* options.c: the options of lodge-vm, and what is printed from their table. */
#include <jansson.h>
#include <stdio.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/process/process.h"
#include "vm/sandbox.h"
#include "vm/update/update.h"

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

const struct command process_command = {
	.program = "lodge-vm",
	.summary = "run one virtual machine",
	.text = "Runs one machine in this process until its guest powers off. `lodge run` starts "
		"it for you; by hand it puts the "
		"guest's console on standard input and output.",
	.groups = groups,
};

int process_read_args(struct process *p, int argc, char **argv, struct args *a, struct err *e)
{
	struct vm_host host;
	int rc = command_defaults(&process_command, p, e);

	if (!rc)
		rc = vm_config_parse_args(&process_command, p, &p->cfg, argc, argv, a, e);
	if (rc || process_prints(p, a))
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
	const struct command *const one = &process_command;

	commands_print_man(&page, &one, 1, stdout);
}

bool process_prints(const struct process *p, const struct args *a)
{
	return a->help || p->explain || p->man || p->completion || p->version;
}

void process_print(const struct process *p, const struct args *a)
{
	const struct command *const one = &process_command;

	if (a->help)
		command_print_help(&process_command, stdout);
	else if (p->explain)
		print_sandbox();
	else if (p->man)
		print_man();
	else if (p->completion)
		commands_print_completion("lodge-vm", &one, 1, stdout);
	else
		puts("lodge-vm " LODGE_VERSION);
}
