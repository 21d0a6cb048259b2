/* disks.c: methods: the machine's disks while the guest runs. */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "disk/tool.h"
#include "vm/control/control_impl.h"
#include "vm/vm.h"

/* What is of another kind than it should be is refused: taken for absent it would be answered as if nothing had been asked. */
static int want_disk(const struct rpc_request *q, struct disk **d, struct err *e)
{
	const char *id = NULL;
	int rc = json_want_text(q->params, q->method->name, "id", true, &id, e);

	return rc ?: vm_disk(control_vm(q), id, d, e);
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
	const char *what = q->method->name, *name = NULL;
	json_t *ids = NULL;
	bool gone = false;
	struct disk *d;
	int rc = json_want_text(q->params, what, "name", true, &name, e);

	rc = rc ?: json_want_bool(q->params, what, "delete", false, &gone, e);
	rc = rc ?: json_want_array(q->params, what, "ids", false, &ids, e);
	if (!rc && ids && gone)
		rc = err_set(e, -EINVAL, "%s: \"delete\" is of one disk: \"id\"", what);
	if (!rc && ids)
		return snapshot_ids(control_vm(q), ids, name, e);
	rc = rc ?: want_disk(q, &d, e);
	return rc ?: disk_snapshot(d, gone ? DISK_SNAP_DELETE : DISK_SNAP_CREATE, name, e);
}

static int bitmap(const struct rpc_request *q, json_t **res, struct err *e)
{
	static const char *const ops[] = {"add", "remove", "enable", "disable", "clear"};
	const char *what = q->method->name, *name = NULL, *op = NULL;
	uint64_t grain = 0;
	struct disk *d;
	int rc = want_disk(q, &d, e);

	rc = rc ?: json_want_text(q->params, what, "name", true, &name, e);
	rc = rc ?: json_want_text(q->params, what, "op", true, &op, e);
	rc = rc ?: json_want_u64(q->params, what, "granularity", false, &grain, e);
	for (unsigned i = 0; i < ARRAY_SIZE(ops) && !rc; i++)
		if (!strcmp(op, ops[i]))
			return disk_bitmap(d, (enum disk_bitmap_op)i, name, grain ?: 64 * KiB, e);
	return rc
		       ?: err_set(e, -EINVAL,
				  "%s: there is no \"op\" '%s': add, remove, enable, disable or "
				  "clear",
				  what, op);
}

/* Begins a new generation (`next`), then tells what has changed since one. */
static int changes(const struct rpc_request *q, json_t **res, struct err *e)
{
	const char *what = q->method->name;
	uint64_t since = 0, offset = 0;
	bool next = false;
	struct disk_generation g;
	struct disk *d;
	int rc = want_disk(q, &d, e);

	rc = rc ?: json_want_u64(q->params, what, "since", false, &since, e);
	rc = rc ?: json_want_u64(q->params, what, "offset", false, &offset, e);
	rc = rc ?: json_want_bool(q->params, what, "next", false, &next, e);
	if (!rc && offset > disk_size(d))
		rc = err_set(e, -ERANGE, "%s: %llu is behind the disk's end", what,
			(unsigned long long)offset);
	rc = rc ?: disk_generation(d, next, &g, e);
	if (rc)
		return rc;
	if (!json_object_get(q->params, "since"))
		since = g.now;
	return disk_changes_json(d, since, offset, res, e);
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
