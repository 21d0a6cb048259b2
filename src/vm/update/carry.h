/*
 * carry.h: what makes up a machine beside its described state and its memory, as one JSON object, bytes in a memory file, and descriptors.
 *
 * Called with the machine standing still and quiesced. carry_in() follows the loading of the described state, in a machine that was built of the same
 * definition; what came is checked, and after an error the machine must not run.
 */
#ifndef LODGE_VM_UPDATE_CARRY_H
#define LODGE_VM_UPDATE_CARRY_H

#include <stddef.h>
#include <stdint.h>

struct control;
struct err;
struct fdlist;
struct json_t;
struct vm;

/* A memory file that is written from its beginning. Ranges in it are [offset, length]. */
struct blob {
	int fd;
	uint64_t at;
};
/* NULL: it could not be written. */
struct json_t *blob_put(struct blob *b, const void *buf, size_t len);
/* *out: malloc'ed, with a NUL behind it. -EINVAL: not a range, or longer than `max`. */
int blob_get(
	int fd, const struct json_t *range, size_t max, void **out, size_t *len, struct err *e);

/* Where RAM lies in its memory file: two processes must agree. [[guest-physical address, frame, frames]...] */
struct json_t *carry_layout(struct vm *vm);

struct json_t *carry_out(
	struct vm *vm, struct control *control, struct blob *b, struct fdlist *fds);
/* The old process goes on after all: gives back what carry_out() took from the console's device. */
void carry_undo(struct vm *vm, const struct json_t *j);
int carry_in(struct vm *vm, struct control *control, const struct json_t *j, int blob,
	struct fdlist *fds, struct err *e);

#endif
