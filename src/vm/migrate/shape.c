#include "vm/migrate/shape.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "device/virtio_blk.h"
#include "disk/format.h"
#include "vm/config/config.h"
#include "vm/internal.h"
#include "vm/snapshot/fits.h"

static json_t *memory(struct vm *vm)
{
	const struct space_ram *r;
	json_t *list = json_array();

	for (unsigned i = 0; (r = space_ram(vm->board->space, i)); i++)
		json_array_append_new(
			list, json_pack("[I, I]", (json_int_t)r->base.v, (json_int_t)r->len));
	return list;
}

static json_t *objects(struct vm *vm)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	json_t *list = json_array();
	unsigned n;

	if (board_state(vm->board, &objs, &n))
		return list;
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:i, s:b}", "id", objs[i].id, "type",
				      objs[i].desc->type, "version", (int)objs[i].desc->version,
				      "younger", objs[i].desc->younger));
	return list;
}

static json_t *disks(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->board->ndevices; i++) {
		struct disk *d = virtio_blk_disk(vm->board->devices[i]);
		struct disk_info info;

		if (!d)
			continue;
		disk_info(d, &info);
		json_array_append_new(list,
			json_pack("{s:s, s:I, s:s, s:b, s:s}", "id", vm->board->devices[i]->id,
				"size", (json_int_t)info.size, "format", info.format, "readonly",
				info.readonly, "file", info.path));
	}
	return list;
}

json_t *mig_shape(struct vm *vm)
{
	const struct cpu_engine_ops *ops = vm->board->engine;

	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "lodge",
		LODGE_VERSION, "name", vm->o.cfg->name ?: "", "directory", vm->directory, "engine",
		ops->name, "isa", ops->isa, "cpu",
		ops->isa_string ? ops->isa_string(vm->board->cpu_vm) : "", "memory", memory(vm),
		"objects", objects(vm), "disks", disks(vm), "definition",
		vm_config_to_json(vm->o.cfg));
}

/* ---- comparing ---- */

static int fits_memory(struct vm *vm, const json_t *from, struct err *e)
{
	cleanup(json_drop) json_t *mine = memory(vm);
	json_t *theirs = NULL;
	json_int_t a = 0, b = 0;
	int rc = json_want_array(from, "migration", "memory", true, &theirs, e);

	if (rc || json_equal(mine, theirs))
		return rc;
	for (size_t i = 0; i < json_array_size(mine); i++)
		a += json_integer_value(json_array_get(json_array_get(mine, i), 1));
	for (size_t i = 0; i < json_array_size(theirs); i++)
		b += json_integer_value(json_array_get(json_array_get(theirs, i), 1));
	if (a == b)
		return err_set(e, -EINVAL,
			"the memory of the two machines is not laid out alike: are their --nodes?");
	return err_set(e, -EINVAL, "the machine has %lld MiB of memory, the one here %lld MiB",
		(long long)b >> 20, (long long)a >> 20);
}

static const json_t *by_id(const json_t *list, const char *id)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i,
		j) if (!strcmp(json_string_value(json_object_get(j, "id")) ?: "", id)) return j;
	return NULL;
}

static const char *text_of(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key)) ?: "";
}

static json_int_t num_of(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

/* Looks at each of theirs, with what is here of the same id, or NULL. */
static int fits_each(const json_t *mine, const json_t *from, const char *key,
	int (*fits)(const json_t *here, const json_t *j, struct err *e), struct err *e)
{
	json_t *theirs = NULL;
	const json_t *j;
	size_t i;
	int rc = json_want_array(from, "migration", key, true, &theirs, e);

	json_array_foreach(theirs, i, j)
	{
		rc = rc ?: fits(by_id(mine, text_of(j, "id")), j, e);
	}
	return rc;
}

static int fits_object(const json_t *here, const json_t *j, struct err *e)
{
	const char *id = text_of(j, "id"), *type = text_of(j, "type");

	if (!here)
		return err_set(e, -EINVAL,
			"%.40s (%.40s): the machine here has none: its definition differs", id,
			type);
	if (strcmp(text_of(here, "type"), type))
		return err_set(e, -EINVAL, "%.40s: is a %.40s, and here a %s", id, type,
			text_of(here, "type"));
	if (num_of(j, "version") > num_of(here, "version"))
		return err_set(e, -ENOTSUP,
			"%.40s (%.40s): its state is of version %lld, and this Lodge "
			"(" LODGE_VERSION ") reads up to %lld: use as new a Lodge here",
			id, type, (long long)num_of(j, "version"),
			(long long)num_of(here, "version"));
	return 0;
}

static int fits_disk(const json_t *here, const json_t *j, struct err *e)
{
	if (!here)
		return 0; /* fits_object() has told */
	if (num_of(here, "size") != num_of(j, "size"))
		return err_set(e, -EINVAL,
			"disk %.40s: has %lld bytes, and %s here has %lld: it is not the same disk",
			text_of(j, "id"), (long long)num_of(j, "size"), text_of(here, "file"),
			(long long)num_of(here, "size"));
	if (json_is_true(json_object_get(here, "readonly")) &&
		!json_is_true(json_object_get(j, "readonly")))
		return err_set(e, -EINVAL, "disk %.40s: is written to, and is readonly here",
			text_of(j, "id"));
	return 0;
}

/* What is here and not there. A Lodge of before this part was made can have none. */
static int fits_more(const json_t *mine, const json_t *from, struct err *e)
{
	const json_t *theirs = json_object_get(from, "objects"), *j;
	size_t i;

	json_array_foreach(mine, i, j)
	{
		if (!by_id(theirs, text_of(j, "id")) &&
			!json_is_true(json_object_get(j, "younger")))
			return err_set(e, -EINVAL,
				"%s (%s): the machine that is to come has none: its definition "
				"differs",
				text_of(j, "id"), text_of(j, "type"));
	}
	return 0;
}

int mig_shape_fits(struct vm *vm, const json_t *from, struct err *e)
{
	cleanup(json_drop) json_t *here = objects(vm), *shown = disks(vm);

	return vm_fits_cpu(vm, from, "migration", e)
		       ?: fits_memory(vm, from, e)
		       ?: fits_each(here, from, "objects", fits_object, e)
		       ?: fits_more(here, from, e)
		       ?: fits_each(shown, from, "disks", fits_disk, e);
}
