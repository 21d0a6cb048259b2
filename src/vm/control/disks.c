/* disks.c: methods: the machine's disks while the guest runs. */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/tool.h"
#include "vm/control/control_impl.h"
#include "vm/vm.h"

static int want_disk(const struct rpc_request *q, struct disk **d, struct err *e)
{
	return vm_disk(control_vm(q), json_string_value(json_object_get(q->params, "id")), d, e);
}

static int resize(const struct rpc_request *q, json_t **res, struct err *e)
{
	const char *id = json_string_value(json_object_get(q->params, "id"));
	json_t *size = json_object_get(q->params, "size");

	if (!id || !json_is_integer(size) || json_integer_value(size) < 0)
		return err_set(e, -EINVAL,
			"disk_resize wants \"id\", the name of a disk, and \"size\" in bytes (0: "
			"what its file has now)");
	return vm_disk_resize(control_vm(q), id, (uint64_t)json_integer_value(size), e);
}

static int info(const struct rpc_request *q, json_t **res, struct err *e)
{
	struct disk *d;
	int rc = want_disk(q, &d, e);

	return rc ?: disk_describe(d, res, e);
}

/* Of several disks at one instant. */
static int snapshot_ids(struct vm *vm, const json_t *ids, const char *name, struct err *e)
{
	struct disk *d[DISK_TOGETHER];
	unsigned n = (unsigned)json_array_size(ids);
	int rc = 0;

	if (!n || n > DISK_TOGETHER)
		rc = err_set(
			e, -EINVAL, "disk_snapshot: \"ids\" names 1 to %u disks", DISK_TOGETHER);
	for (unsigned i = 0; i < n && !rc; i++)
		rc = vm_disk(vm, json_string_value(json_array_get(ids, i)), &d[i], e);
	for (unsigned i = 0; i < n && !rc; i++)
		for (unsigned k = 0; k < i && !rc; k++)
			if (d[k] == d[i])
				rc = err_set(e, -EINVAL, "disk_snapshot: a disk is named twice");
	return rc ?: disk_snapshot_all(d, n, name, e);
}

static int snapshot(const struct rpc_request *q, json_t **res, struct err *e)
{
	const char *name = json_string_value(json_object_get(q->params, "name"));
	bool gone = json_is_true(json_object_get(q->params, "delete"));
	const json_t *ids = json_object_get(q->params, "ids");
	struct disk *d;
	int rc;

	if (ids && !gone)
		return snapshot_ids(control_vm(q), ids, name, e);
	rc = want_disk(q, &d, e);
	return rc ?: disk_snapshot(d, gone ? DISK_SNAP_DELETE : DISK_SNAP_CREATE, name, e);
}

static int bitmap(const struct rpc_request *q, json_t **res, struct err *e)
{
	static const char *const ops[] = {"add", "remove", "enable", "disable", "clear"};
	const json_t *p = q->params;
	const char *name = json_string_value(json_object_get(p, "name"));
	const char *op = json_string_value(json_object_get(p, "op"));
	uint64_t grain = (uint64_t)json_integer_value(json_object_get(p, "granularity"));
	struct disk *d;
	int rc = want_disk(q, &d, e);

	for (unsigned i = 0; i < ARRAY_SIZE(ops) && !rc && name && op; i++)
		if (!strcmp(op, ops[i]))
			return disk_bitmap(d, (enum disk_bitmap_op)i, name, grain ?: 64 * KiB, e);
	return rc
		       ?: err_set(e, -EINVAL,
				  "disk_bitmap wants \"id\", \"name\", and \"op\": add, remove, "
				  "enable, disable or clear");
}

/* Begins a new generation (`next`), then tells what has changed since one. */
static int changes(const struct rpc_request *q, json_t **res, struct err *e)
{
	json_int_t since = json_integer_value(json_object_get(q->params, "since"));
	json_int_t offset = json_integer_value(json_object_get(q->params, "offset"));
	struct disk_generation g;
	struct disk *d;
	int rc = want_disk(q, &d, e);

	if (!rc)
		rc = disk_generation(d, json_is_true(json_object_get(q->params, "next")), &g, e);
	return rc
		       ?: disk_changes_json(
				  d, since > 0 ? (uint64_t)since : g.now, (uint64_t)offset, res, e);
}

#define A_DISK (VM_NEED_LIVE | VM_NEED_OURS | VM_NEED_LOOSE)

const struct rpc_method control_disk_methods[] = {
	{"disk_resize", VM_NEED_LIVE | VM_NEED_UNMOVED | VM_NEED_OURS, resize,
		"grows a disk while the guest runs, and tells it",
		"{\"id\": text, \"size\": bytes}"},
	{"disk_info", A_DISK, info, "what a disk is, with its snapshots and bitmaps",
		"{\"id\": text}"},
	{"disk_snapshot", A_DISK, snapshot,
		"makes (or deletes) a snapshot of a disk while the guest runs",
		"{\"id\": text, \"name\": text, \"delete\": bool}, or \"ids\": of several disks at "
		"one instant"},
	{"disk_bitmap", A_DISK, bitmap, "records of changed blocks, while the guest runs",
		"{\"id\": text, \"name\": text, \"op\": text, \"granularity\": bytes}"},
	{"disk_changes", A_DISK, changes,
		"what has changed in a disk since a generation, while the guest runs",
		"{\"id\": text, \"since\": number, \"next\": bool: begins a new one first, "
		"\"offset\": bytes: where the answer before said \"more\"}"},
	{0},
};
