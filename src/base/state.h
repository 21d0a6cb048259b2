/*
 * state.h: described state (decision D5).
 *
 * Every CPU, device and map publishes a table of the fields that make up its state. Save, load, diff,
 * inspection and the load fuzzer walk that table; nobody dumps a struct.
 *
 *	static const struct state_field uart_fields[] = {
 *		STATE_U8(struct uart, ier, 1),
 *		STATE_BYTES(struct uart, rx, 1),
 *		STATE_U32_SINCE(struct uart, divisor, 2, 1),	// added in version 2; 1 when absent
 *		STATE_END
 *	};
 *	static const struct state_desc uart_state = {"uart", 2, uart_fields, .post_load = uart_post_load};
 *
 * Stream (CBOR, RFC 8949): one map {"lodge": format number, "objects": [ {"id": text, "type": desc name,
 * "version": n, "fields": {name: value}} ... ], "digest": SHA-256 over all before it}. Fields are found by
 * name: unknown fields of a newer minor writer are refused by name unless the field was marked optional; fields that
 * are missing take their default when `since` is above the stream's version, otherwise the load fails and names
 * the field. Loading is all-or-nothing per stream for what the caller can see: it parses and checks
 * the whole stream into memory first, and applies it only then.
 *
 * Ownership: the descriptor and its tables are static. Objects belong to the caller. Threads: the
 * caller makes sure that nobody changes an object while it is walked (machine paused).
 */
#ifndef LODGE_BASE_STATE_H
#define LODGE_BASE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_t;

enum state_type {
	STATE_T_END,
	STATE_T_U8,
	STATE_T_U16,
	STATE_T_U32,
	STATE_T_U64,
	STATE_T_BOOL,
	STATE_T_BYTES, /* `size` raw bytes inside the object */
	STATE_T_TEXT, /* NUL-terminated char array of `size` bytes */
	STATE_T_STRUCT, /* `sub`, embedded `count` times, `size` apart */
	STATE_T_U16S, /* arrays of `count` integers */
	STATE_T_U32S,
	STATE_T_U64S,
	STATE_T_VEC, /* pointer to `sub` objects; their number is a u32 field at `len_offset`; load reallocs */
	STATE_T_BLOB, /* pointer to bytes; length is a u32 field at `len_offset`, at most `size`; load reallocs */
};

struct state_desc;

struct state_field {
	const char *name;
	enum state_type type;
	size_t offset;
	size_t size;
	unsigned count;
	unsigned since; /* first version of the desc that has this field */
	uint64_t absent; /* integer value taken when the stream is older than `since` */
	size_t len_offset;
	const struct state_desc *sub;
};

struct state_desc {
	const char *type;
	unsigned version; /* raise it with each added field */
	const struct state_field *fields;
	/* Before save: bring cached values into the described fields. May be NULL. */
	void (*pre_save)(void *obj);
	/* After load: check what the stream says and rebuild what is derived. A stream is hostile input. */
	int (*post_load)(void *obj, unsigned version, struct err *e);
};

#define STATE_F(T, f, st, s, c, since_, dflt) \
	{ \
		.name = #f, .type = st, .offset = offsetof(T, f), .size = s, .count = c, \
		.since = since_, .absent = dflt \
	}
#define STATE_U8(T, f, since) STATE_F(T, f, STATE_T_U8, 1, 1, since, 0)
#define STATE_U16(T, f, since) STATE_F(T, f, STATE_T_U16, 2, 1, since, 0)
#define STATE_U32(T, f, since) STATE_F(T, f, STATE_T_U32, 4, 1, since, 0)
#define STATE_U64(T, f, since) STATE_F(T, f, STATE_T_U64, 8, 1, since, 0)
#define STATE_BOOL(T, f, since) STATE_F(T, f, STATE_T_BOOL, sizeof(bool), 1, since, 0)
#define STATE_U32_SINCE(T, f, since, dflt) STATE_F(T, f, STATE_T_U32, 4, 1, since, dflt)
#define STATE_U64_SINCE(T, f, since, dflt) STATE_F(T, f, STATE_T_U64, 8, 1, since, dflt)
#define STATE_BYTES(T, f, since) STATE_F(T, f, STATE_T_BYTES, sizeof(((T *)0)->f), 1, since, 0)
#define STATE_TEXT(T, f, since) STATE_F(T, f, STATE_T_TEXT, sizeof(((T *)0)->f), 1, since, 0)
#define STATE_U16S(T, f, since) \
	STATE_F(T, f, STATE_T_U16S, 2, sizeof(((T *)0)->f) / sizeof(uint16_t), since, 0)
#define STATE_U32S(T, f, since) \
	STATE_F(T, f, STATE_T_U32S, 4, sizeof(((T *)0)->f) / sizeof(uint32_t), since, 0)
#define STATE_U64S(T, f, since) \
	STATE_F(T, f, STATE_T_U64S, 8, sizeof(((T *)0)->f) / sizeof(uint64_t), since, 0)
/* f is a struct or an array of them */
#define STATE_STRUCT(T, f, desc, elem, since_) \
	{ \
		.name = #f, .type = STATE_T_STRUCT, .offset = offsetof(T, f), \
		.size = sizeof(elem), .count = sizeof(((T *)0)->f) / sizeof(elem), \
		.since = since_, .sub = desc \
	}
#define STATE_VEC(T, f, len_f, max, desc, elem, since_) \
	{ \
		.name = #f, .type = STATE_T_VEC, .offset = offsetof(T, f), .size = sizeof(elem), \
		.count = max, .since = since_, .len_offset = offsetof(T, len_f), .sub = desc \
	}
#define STATE_BLOB(T, f, len_f, max, since_) \
	{ \
		.name = #f, .type = STATE_T_BLOB, .offset = offsetof(T, f), .size = max, \
		.since = since_, .len_offset = offsetof(T, len_f) \
	}
#define STATE_END \
	{ \
		.type = STATE_T_END \
	}

/* One object to be saved or loaded: `id` is unique in the stream ("cpu0", "virtio-blk.0"). */
struct state_obj {
	const char *id;
	const struct state_desc *desc;
	void *obj;
};

/* Appends to a malloc'ed buffer; free it with free(). */
int state_save(
	const struct state_obj *objs, unsigned n, uint8_t **out, size_t *out_len, struct err *e);

/*
 * Checks digest, format and every field against the tables, then applies. Every object of `objs` must be in the
 * stream and the other way round. Errors: -EBADMSG (not ours, cut, digest), -ENOTSUP (newer version),
 * -EINVAL (a field: named in the message).
 */
int state_load(
	const struct state_obj *objs, unsigned n, const uint8_t *buf, size_t len, struct err *e);

/* {id: {field: value}} with integers as numbers, bytes as hex text. Caller decrefs. */
struct json_t *state_json(const struct state_obj *objs, unsigned n);

/* Names the first field in which the two objects differ ("x[7]"), or returns NULL. Static buffer: none; `where` is the caller's. */
const char *state_diff(
	const struct state_desc *desc, const void *a, const void *b, char *where, size_t where_len);

#endif
