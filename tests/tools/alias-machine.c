/*
 * alias-machine: runs guest/common/both.c on a machine two of whose pages, 16 MiB above the start of RAM, are one frame; while writes
 * are tracked.
 *
 *	alias-machine ENGINE GUEST
 *
 * The guest's console is standard output. Ends as the guest does, or with 2 when a write to the frame was not noticed.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "guest/common/alias.h"
#include "machine/board.h"
#include "memory/space.h"
#include "vm/config/config.h"
#include "vm/internal.h"

struct run {
	uv_loop_t loop;
	struct log log;
	struct vm_config cfg;
	struct vm *vm;
	struct tracker *tracker;
	gpa_t page[2];
	bool noticed;
	int code;
};

static int die(const struct err *e)
{
	fprintf(stderr, "alias-machine: %s\n", err_msg(e));
	return 3;
}

static void on_page(void *ctx, gpa_t page)
{
	struct run *r = ctx;

	r->noticed |= page.v == r->page[0].v || page.v == r->page[1].v;
}

static void on_end(void *ctx, enum vm_cause cause, int code)
{
	struct run *r = ctx;

	r->code = cause == VM_CAUSE_SHUTDOWN ? code : 1;
	tracker_collect(r->tracker, on_page, r);
	tracker_stop(r->tracker);
	vm_destroy(r->vm);
}

static int alias(struct run *r, struct err *e)
{
	struct space *s = r->vm->board->space;
	uint64_t magic = ALIAS_MAGIC;
	struct view_leaf l;
	int rc;

	r->page[0] = gpa(space_ram(s, 0)->base.v + 16 * MiB);
	r->page[1] = gpa(r->page[0].v + PAGE_SIZE);
	rc = view_lookup(space_view(s, 0), r->page[0], &l);
	if (!rc)
		rc = space_write(s, gpa(r->page[0].v + 8), &magic, sizeof(magic));
	if (rc)
		return err_set(e, rc, "the page is not there");
	rc = view_remap(space_view(s, 0), r->page[1], l.mfn, VIEW_RWX, e);
	if (rc)
		return rc;
	space_invalidate(s, 0, r->page[1], PAGE_SIZE, MEM_READ | MEM_WRITE | MEM_EXEC);
	return tracker_start(&r->tracker, s, NULL, e);
}

int main(int argc, char **argv)
{
	struct run r = {.code = 3};
	struct vm_opts o = {
		.cfg = &r.cfg, .loop = &r.loop, .log = &r.log, .ended = on_end, .ctx = &r};
	struct err e = {0};
	bool kvm = argc == 3 && !strcmp(argv[1], "kvm");

	if (argc != 3 || vm_config_init(&r.cfg, &e))
		return 3;
	r.cfg.engine = kvm			   ? VM_ENGINE_KVM
		       : strcmp(argv[1], "interp") ? VM_ENGINE_RV64
						   : VM_ENGINE_INTERP;
	r.cfg.memory = 64 * MiB;
	r.cfg.smp = 2;
	*(kvm ? &r.cfg.kernel : &r.cfg.firmware) = strdup(argv[2]);
	r.log = (struct log){2, LOG_LVL_WARN};
	uv_loop_init(&r.loop);
	o.console_fd = dup(1);
	if (vm_create(&r.vm, &o, &e) || alias(&r, &e) || vm_start(r.vm, false, &e))
		return die(&e);
	uv_run(&r.loop, UV_RUN_DEFAULT);
	vm_config_free(&r.cfg);
	return r.code ?: r.noticed ? 0 : 2;
}
