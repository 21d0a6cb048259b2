#include "machine/board.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "machine/board_class.h"

#define CONTROLLERS_MAX 8u

static const struct board_class *const classes[] = {
	&board_virt,
	&board_pc,
};

/* Ids of vCPUs in state streams; constant, so that they need no owner. */
#define IDS8(p) p "0", p "1", p "2", p "3", p "4", p "5", p "6", p "7"
#define IDS10(p) IDS8(p), p "8", p "9"
static const char *const cpu_ids[CPU_MAX_VCPUS] = {IDS10("cpu"), IDS10("cpu1"), IDS10("cpu2"),
	IDS10("cpu3"), IDS10("cpu4"), IDS10("cpu5"), IDS10("cpu6"), IDS10("cpu7"), IDS10("cpu8"),
	IDS10("cpu9"), IDS10("cpu10"), IDS10("cpu11"), IDS8("cpu12")};

int board_create(struct board **out, const char *cls, const struct board_opts *o, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		if (strcmp(classes[i]->name, cls))
			continue;
		if (strcmp(classes[i]->isa, o->engine->isa))
			return err_set(e, -EINVAL, "board %s is for %s; engine %s runs %s", cls,
				classes[i]->isa, o->engine->name, o->engine->isa);
		return classes[i]->create(out, o, e);
	}
	return err_set(e, -ENOENT, "there is no board '%s'; there are: virt, pc", cls);
}

const char *board_for(const char *isa)
{
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		if (!strcmp(classes[i]->isa, isa))
			return classes[i]->name;
	return NULL;
}

void board_destroy(struct board *b)
{
	if (b)
		b->cls->destroy(b);
}

int board_boot(struct board *b, struct err *e)
{
	return b->cls->boot(b, e);
}

void board_reset(struct board *b)
{
	for (unsigned i = 0; i < b->ndevices; i++)
		b->devices[i]->cls->reset(b->devices[i]);
	b->cls->reset(b);
}

int board_tables(struct board *b,
	void (*each)(void *ctx, const char *name, const void *bytes, size_t len), void *ctx,
	struct err *e)
{
	if (!b->cls->tables)
		return err_set(e, -ENOTSUP, "board %s has no ACPI tables", b->cls->name);
	return b->cls->tables(b, each, ctx, e);
}

int board_quiesce(struct board *b, struct err *e)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct device *d = b->devices[i];
		int rc = d->cls->quiesce ? d->cls->quiesce(d, e) : 0;

		if (!rc)
			continue;
		/* Those before it go on; the one that failed has not stopped. */
		while (i--)
			if (b->devices[i]->cls->resume)
				b->devices[i]->cls->resume(b->devices[i]);
		return err_wrap(e, "device %s", d->id);
	}
	return 0;
}

void board_resume(struct board *b)
{
	for (unsigned i = b->ndevices; i--;)
		if (b->devices[i]->cls->resume)
			b->devices[i]->cls->resume(b->devices[i]);
}

int board_state(struct board *b, struct state_obj **objs, unsigned *n)
{
	const struct cpu_engine_ops *ops = b->engine;
	unsigned max = 1 + b->nvcpus + CONTROLLERS_MAX + b->ndevices, k = 0;
	struct state_obj *list = calloc(max, sizeof(*list));

	if (!list)
		return -ENOMEM;
	/* Engine first and devices last: a device's post_load may raise an interrupt, and controllers pass it on. */
	list[k++] = (struct state_obj){"cpus", ops->vm_state(), ops->vm_state_obj(b->cpu_vm)};
	for (unsigned i = 0; i < b->nvcpus; i++)
		list[k++] = (struct state_obj){
			cpu_ids[i], ops->vcpu_state(), ops->vcpu_state_obj(b->vcpus[i])};
	k += b->cls->state(b, list + k, CONTROLLERS_MAX);
	for (unsigned i = 0; i < b->ndevices; i++)
		list[k++] = (struct state_obj){
			b->devices[i]->id, b->devices[i]->cls->state, b->devices[i]};
	*objs = list;
	*n = k;
	return 0;
}
