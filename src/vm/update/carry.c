#include "vm/update/carry.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fdlist.h"
#include "base/hex.h"
#include "base/util.h"
#include "device/vsock/virtio_vsock.h"
#include "net/announce/announce.h"
#include "vm/console.h"
#include "vm/control/control.h"
#include "vm/internal.h"
#include "vm/nets.h"

#define HOT_MAX 65536u
#define INPUT_MAX 4096u /* of the UART's ring */

/* ---- bytes ---- */

json_t *blob_put(struct blob *b, const void *buf, size_t len)
{
	uint64_t off = b->at;

	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(
			b->fd, (const char *)buf + done, len - done, (off_t)(off + done));

		if (n <= 0 && errno != EINTR)
			return NULL;
		done += n > 0 ? (size_t)n : 0;
	}
	b->at += len;
	return json_pack("[I, I]", (json_int_t)off, (json_int_t)len);
}

int blob_get(int fd, const json_t *range, size_t max, void **out, size_t *len, struct err *e)
{
	json_int_t off = json_integer_value(json_array_get(range, 0));
	json_int_t want = json_integer_value(json_array_get(range, 1));
	cleanup(free_ptr) char *buf = NULL;

	if (json_array_size(range) != 2 || off < 0 || want < 0 || (uint64_t)want > max)
		return err_set(e, -EINVAL, "update: bytes that cannot be");
	buf = malloc((size_t)want + 1);
	if (!buf)
		return err_set(e, -ENOMEM, "update: out of memory");
	for (size_t done = 0; done < (size_t)want;) {
		ssize_t n = pread(fd, buf + done, (size_t)want - done, off + (off_t)done);

		if (n <= 0 && errno != EINTR)
			return err_set(e, -EINVAL, "update: bytes that are not there");
		done += n > 0 ? (size_t)n : 0;
	}
	buf[want] = 0;
	*len = (size_t)want;
	*out = steal_ptr(buf);
	return 0;
}

/* ---- memory ---- */

json_t *carry_layout(struct vm *vm)
{
	struct view *v = space_view(vm->board->space, 0);
	const struct space_ram *ram;
	json_t *all = json_array();

	for (unsigned i = 0; (ram = space_ram(vm->board->space, i)); i++) {
		uint64_t at = ram->base.v, end = at + ram->len, first = at, frame = 0, n = 0;
		struct view_leaf l;

		while (at < end && !view_lookup(v, gpa(at), &l)) {
			uint64_t size = (1ull << l.order) -
					((at / PAGE_SIZE) & ((1ull << l.order) - 1));
			uint64_t m = l.mfn.n;

			if (n && m != frame + n) {
				json_array_append_new(
					all, json_pack("[I, I, I]", (json_int_t)first,
						     (json_int_t)frame, (json_int_t)n));
				n = 0;
			}
			if (!n) {
				first = at;
				frame = m;
			}
			n += size;
			at += size * PAGE_SIZE;
		}
		json_array_append_new(all, json_pack("[I, I, I]", (json_int_t)first,
						   (json_int_t)frame, (json_int_t)n));
	}
	return all;
}

/* ---- console ---- */

static json_t *bytes_hex(const void *buf, size_t len)
{
	cleanup(free_ptr) char *text = malloc(2 * len + 1);

	if (!text)
		return NULL;
	hex_put(text, buf, len);
	return json_string(text);
}

static json_t *console_out(struct vm *vm, struct blob *b)
{
	cleanup(free_ptr) unsigned char *ring = NULL;
	struct console_state st;
	uint8_t typed[INPUT_MAX];
	size_t n;

	if (console_hand_over(vm->console, &st, &ring))
		return NULL;
	n = chardev_read(vm->uart, typed, sizeof(typed));
	return json_pack("{s:I, s:o, s:o, s:o}", "head", (json_int_t)st.head, "ring",
		blob_put(b, st.ring, st.ring_len), "input", bytes_hex(st.input, st.input_len),
		"typed", bytes_hex(typed, n));
}

static int console_in(struct vm *vm, const json_t *j, int blob, struct err *e)
{
	const char *input = json_string_value(json_object_get(j, "input")) ?: "";
	const char *typed = json_string_value(json_object_get(j, "typed")) ?: "";
	size_t ninput = strlen(input) / 2, ntyped = strlen(typed) / 2;
	cleanup(free_ptr) unsigned char *in = malloc(ninput + 1), *ring = NULL;
	struct console_state st = {
		.head = (unsigned long long)json_integer_value(json_object_get(j, "head"))};
	uint8_t early[INPUT_MAX];
	void *bytes = NULL;
	int rc = blob_get(
		blob, json_object_get(j, "ring"), CONSOLE_HISTORY, &bytes, &st.ring_len, e);

	ring = bytes;
	if (rc)
		return rc;
	if (!in || ntyped > sizeof(early) || hex_get(in, ninput, input) ||
		hex_get(early, ntyped, typed))
		return err_set(e, -EINVAL, "update: the console's input");
	st.ring = ring;
	st.input = in;
	st.input_len = ninput;
	rc = console_take_over(vm->console, &st, e);
	if (!rc && chardev_give(vm->uart, early, ntyped) != ntyped)
		rc = err_set(
			e, -EINVAL, "update: the console's device has no room for what was typed");
	return rc;
}

void carry_undo(struct vm *vm, const json_t *j)
{
	const char *typed =
		json_string_value(json_object_get(json_object_get(j, "console"), "typed")) ?: "";
	size_t n = strlen(typed) / 2;
	uint8_t early[INPUT_MAX];

	if (n <= sizeof(early) && !hex_get(early, n, typed))
		chardev_give(vm->uart, early, n);
}

/* ---- what the translator knows ---- */

static json_t *hot_out(struct vm *vm, struct blob *b)
{
	const struct cpu_engine_ops *ops = vm->board->engine;
	cleanup(free_ptr) uint64_t *list = ops->hot_code_get ? calloc(HOT_MAX, sizeof(*list))
							     : NULL;
	size_t n = list ? ops->hot_code_get(vm->board->cpu_vm, list, HOT_MAX) : 0;

	return blob_put(b, list, n * sizeof(*list));
}

static int hot_in(struct vm *vm, const json_t *j, int blob, struct err *e)
{
	const struct cpu_engine_ops *ops = vm->board->engine;
	cleanup(free_ptr) void *bytes = NULL;
	size_t len;
	int rc = blob_get(blob, j, HOT_MAX * sizeof(uint64_t), &bytes, &len, e);

	if (!rc && ops->hot_code_put)
		ops->hot_code_put(vm->board->cpu_vm, bytes, len / sizeof(uint64_t));
	return rc;
}

/* ---- all of it ---- */

static struct device *vsock_device(struct vm *vm)
{
	for (unsigned i = 0; i < vm->board->ndevices; i++)
		if (virtio_vsock_listening(vm->board->devices[i]) >= 0)
			return vm->board->devices[i];
	return NULL;
}

json_t *carry_out(struct vm *vm, struct control *control, struct blob *b, struct fdlist *fds)
{
	struct device *vsock = vsock_device(vm);
	json_t *j = json_pack("{s:o, s:o, s:o, s:I, s:I, s:b, s:o}", "console", console_out(vm, b),
		"control", control_hand_over(control, fds), "hot", hot_out(vm, b), "uptime_ns",
		(json_int_t)(clock_mono_ns() - vm->started_ns), "reboots", (json_int_t)vm->reboots,
		"running", vm->state == VM_RUNNING, "neighbours", vm_announce_addresses(vm));

	if (j && vsock)
		json_object_set_new(j, "vsock", virtio_vsock_hand_over(vsock, fds));
	return j;
}

int carry_in(struct vm *vm, struct control *control, const json_t *j, int blob, struct fdlist *fds,
	struct err *e)
{
	const json_t *vsock = json_object_get(j, "vsock");
	struct device *dev = vsock_device(vm);
	int rc = console_in(vm, json_object_get(j, "console"), blob, e)
			 ?: control_take_over(control, json_object_get(j, "control"), fds, e)
			 ?: hot_in(vm, json_object_get(j, "hot"), blob, e);

	if (!rc && vsock && dev)
		rc = virtio_vsock_take_over(dev, vsock, fds, e);
	for (unsigned i = 0; !rc && i < vm->nets->n; i++) {
		const json_t *known = json_object_get(
			json_object_get(j, "neighbours"), vm->nets->id[i]);

		if (known)
			rc = announce_go_on(vm->nets->opts[i].net, known, e);
	}
	vm->started_ns = clock_mono_ns() -
			 (uint64_t)json_integer_value(json_object_get(j, "uptime_ns"));
	vm->reboots = (uint64_t)json_integer_value(json_object_get(j, "reboots"));
	return rc;
}
