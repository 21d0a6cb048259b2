/*
 * cbor_read.h: a pull reader for CBOR (RFC 8949) from memory, safe on hostile input.
 *
 * It allocates nothing: byte strings and texts point into the caller's buffer. Definite lengths
 * only; a length is checked against what is left of the buffer before it is reported. No recursion
 * except cbor_read_skip(), which is bounded. On top of libcbor's streaming decoder.
 *
 * All functions: 0, -EBADMSG (malformed or cut) or, from those that want a kind, -EINVAL (another
 * kind). Errors name the offset. A reader belongs to one thread.
 */
#ifndef LODGE_BASE_CBOR_READ_H
#define LODGE_BASE_CBOR_READ_H

#include <stddef.h>
#include <stdint.h>

struct err;

struct cbor_read {
	const uint8_t *p;
	size_t len, off; /* `off` is where the next item starts */
};

enum cbor_item_kind {
	CBOR_ITEM_OTHER, /* floats, tags, null, indefinite lengths: nothing that Lodge writes */
	CBOR_ITEM_UINT, /* v */
	CBOR_ITEM_NEGINT, /* -1 - v */
	CBOR_ITEM_BYTES, /* v bytes at s */
	CBOR_ITEM_TEXT, /* v bytes at s; not NUL-terminated, may be invalid UTF-8 */
	CBOR_ITEM_ARRAY, /* v items follow */
	CBOR_ITEM_MAP, /* v pairs follow */
	CBOR_ITEM_BOOL, /* v is 0 or 1 */
};

struct cbor_item {
	enum cbor_item_kind kind;
	uint64_t v;
	const uint8_t *s;
};

void cbor_read_init(struct cbor_read *r, const void *buf, size_t len);
int cbor_read_item(struct cbor_read *r, struct cbor_item *it, struct err *e);
int cbor_read_kind(
	struct cbor_read *r, enum cbor_item_kind kind, struct cbor_item *it, struct err *e);
int cbor_read_array(struct cbor_read *r, uint64_t *n, struct err *e);
int cbor_read_map(struct cbor_read *r, uint64_t *n, struct err *e);

/* Passes over one value with all that is in it, at most 16 levels deep. */
int cbor_read_skip(struct cbor_read *r, struct err *e);

/* "a text", "an array" ... for messages. */
const char *cbor_kind_name(enum cbor_item_kind kind);

#endif
