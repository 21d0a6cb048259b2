#include "vm/needs.h"

#include <errno.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/internal.h"
#include "vm/migrate/migrate.h"
#include "vm/snapshot/snapshot.h"

static int machine(const struct vm *vm, struct err *e)
{
	return vm ? 0 : err_set(e, -EBUSY, "the machine is still being built");
}

static int live(const struct vm *vm, struct err *e)
{
	return vm->state == VM_RUNNING || vm->state == VM_PAUSED
		       ? 0
		       : err_set(e, -EBUSY, "the machine is %s", vm_state_name(vm->state));
}

static int running(const struct vm *vm, struct err *e)
{
	return vm->state == VM_RUNNING
		       ? 0
		       : err_set(e, -EBUSY,
				 "the machine is %s: a guest that does not run cannot do that "
				 "itself; resume or kill it",
				 vm_state_name(vm->state));
}

static int unmoved(const struct vm *vm, struct err *e)
{
	return vm->mig ? err_set(e, -EBUSY,
				 "this machine is being migrated: wait for it, or stop it: lodge "
				 "migrate --cancel")
		       : 0;
}

static int ours(const struct vm *vm, struct err *e)
{
	switch (vm->owner) {
	case VM_OURS:
		return 0;
	case VM_COMING:
		return err_set(e, -EBUSY, "this machine is still coming from another process");
	case VM_AWAY:
	case VM_UNSURE_POST:
		return err_set(e, -EBUSY,
			"this machine runs where it was migrated to, or may, and pages of it are "
			"here: `lodge migrate --recover` or `lodge kill`");
	default:
		return err_set(e, -EBUSY,
			"an earlier migration of this machine is not settled: `lodge migrate "
			"--take-back` or `lodge kill` first");
	}
}

static int whole(const struct vm *vm, struct err *e)
{
	return vm_migrate_whole(vm, false, e);
}

static int linked(const struct vm *vm, struct err *e)
{
	return vm_migrate_whole(vm, true, e);
}

static int unsnapped(const struct vm *vm, struct err *e)
{
	const char *name = vm_snapshot_name(vm);

	return name ? err_set(e, -EBUSY,
			      "a snapshot of this machine is being written (%s): wait for it, or "
			      "stop who writes it",
			      name)
		    : 0;
}

static int steady(const struct vm *vm, struct err *e)
{
	return vm->halted ? err_set(e, -EBUSY, "the machine is about to end or to reboot") : 0;
}

static const struct {
	enum vm_need need;
	const char *name;
	int (*look)(const struct vm *vm, struct err *e);
} looks[] = {
	{VM_NEED_MACHINE, "built", machine},
	{VM_NEED_LIVE, "not ended", live},
	{VM_NEED_RUNNING, "running", running},
	{VM_NEED_UNMOVED, "no migration", unmoved},
	{VM_NEED_OURS, "here", ours},
	{VM_NEED_LOOSE, "not at the switch-over", vm_migrate_idle},
	{VM_NEED_WHOLE, "all memory here", whole},
	{VM_NEED_LINKED, "no broken connection", linked},
	{VM_NEED_UNSNAPPED, "no snapshot", unsnapped},
	{VM_NEED_STEADY, "no reboot", steady},
};

int vm_need(const struct vm *vm, unsigned needs, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < ARRAY_SIZE(looks); i++)
		if (needs & looks[i].need)
			rc = looks[i].look(vm, e);
	return rc;
}

const char *vm_need_name(unsigned bit)
{
	for (unsigned i = 0; i < ARRAY_SIZE(looks); i++)
		if (bit == looks[i].need)
			return looks[i].name;
	return NULL;
}
