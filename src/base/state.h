/*
 * state.h: described state (decision D5).
 *
 * Every CPU, device and map publishes a table of the fields that make up its state. Save, load,
 * diff, inspection and the load fuzzer walk that table; nobody dumps a struct.
 *
 *	static const struct state_field uart_fields[] = {
 *		STATE_U8(struct uart, ier, 1),
 *		STATE_BYTES(struct uart, rx, 1),
 *		STATE_U32_SINCE(struct uart, divisor, 2, 1),	// added in version 2; 1 when absent
 *		STATE_END
 *	};
 *	static const struct state_desc uart_state = {"uart", 2, uart_fields,
 *		.post_load = uart_post_load};
 *
 * Stream (CBOR, RFC 8949; definite lengths only, keys in this order):
 *
 *	{"lodge": 1, "objects": [object ...], "digest": SHA-256 over all bytes before its 32}
 *	object: {"id": text, "type": desc type, "version": n, "fields": {name: value ...}}
 *
 * A value is an integer, a boolean, a byte string, a text, an array of integers or booleans, or,
 * for STRUCT and VEC, the array [version of the sub-description, {name: value ...} ...].
 *
 * How tables may change, and what old and new programs then do:
 * - A field is added with `since` = the raised version. A stream of an older version lacks it: it
 *   takes `absent` (integers), or zero, empty. A stream of that version or above that lacks it is
 *   refused and the field named.
 * - A field goes away: STATE_GONE(name, version), the raised version. Older streams may have it; it
 *   is skipped.
 * - A field that older readers may ignore is added with a STATE_..._OPT macro and raises no
 *   version. Its name carries a final "?" in the stream; a reader that does not know it skips it.
 * - Anything else that is not in the table is refused by name, as are duplicates and streams of a
 *   newer version.
 *
 * Loading treats the stream as hostile: nothing is allocated that the table does not bound (and for
 * blobs, that the stream does not hold), nesting is bounded, and it is all-or-nothing: the whole
 * stream is parsed into staging copies and each is checked (`check`) before the first object is
 * changed. Then all objects are changed, then `post_load` runs, in the order of `objs`, inner
 * descriptions before outer. Only a failing post_load leaves objects changed; the caller then
 * discards the machine.
 *
 * Members of an object that are not described are left alone by a load; VEC elements are replaced
 * whole (what is not described in them is zero), so they must own nothing that is not described.
 *
 * Ownership: the descriptor and its tables are static. Objects belong to the caller. VEC and BLOB
 * pointers are malloc'ed or NULL; load frees the old and stores new ones. Threads: the caller makes
 * sure that nobody changes an object while it is walked (machine paused); then _Atomic members may
 * be described as their plain types.
 */
#ifndef LODGE_BASE_STATE_H
#define LODGE_BASE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_t;

#define STATE_FORMAT 1u
#define STATE_MAX_FIELDS 256 /* in one table */
#define STATE_MAX_DEPTH 8 /* of descriptions inside descriptions */

enum state_type {
	STATE_T_END,
	STATE_T_U8,
	STATE_T_U16,
	STATE_T_U32,
	STATE_T_U64,
	STATE_T_I32, /* also int and enum */
	STATE_T_I64,
	STATE_T_BOOL,
	/* arrays of `count` integers; multi-dimensional ones are flat, last index fastest */
	STATE_T_U16S,
	STATE_T_U32S,
	STATE_T_U64S,
	STATE_T_BOOLS,
	STATE_T_BYTES, /* `size` raw bytes inside the object */
	STATE_T_TEXT, /* NUL-terminated char array of `size` bytes */
	STATE_T_STRUCT, /* `sub`, embedded `count` times, `size` apart */
	/* pointer to `sub` objects; their number is a u32 at `len_offset`, at most `count` */
	STATE_T_VEC,
	STATE_T_BLOB, /* pointer to bytes; length is a u32 at `len_offset`, at most `size` */
	STATE_T_GONE, /* no longer there since version `since` */
};

struct state_desc;

struct state_field {
	const char *name;
	enum state_type type;
	size_t offset;
	/*
	 * bytes of one element (VEC, STRUCT, integers), of the whole (BYTES, TEXT), or at most
	 * (BLOB)
	 */
	size_t size;
	unsigned count;
	unsigned since; /* first version of the desc that has this field */
	uint64_t absent; /* integer value taken when the stream is older than `since` */
	/* VEC, BLOB: where the u32 length lives; it is not described by itself */
	size_t len_offset;
	const struct state_desc *sub;
	bool optional; /* readers that do not know the field may ignore it */
};

struct state_desc {
	const char *type;
	unsigned version; /* from 1; raise it with each added or removed field */
	const struct state_field *fields;
	/* Before save and json: bring cached values into the described fields. May be NULL. */
	void (*pre_save)(void *obj);
	/*
	 * After load: rebuild what is derived from the fields. Runs when all objects of the stream
	 * are in place.
	 * -errno and a message refuse the load, but late: what the fields alone can tell belongs in
	 * `check`.
	 */
	int (*post_load)(void *obj, unsigned version, struct err *e);
	/*
	 * Before anything is applied: is this a state that the object can be in? `staged` has the
	 * described fields and zeroes elsewhere (no pointers to the machine). A stream is hostile
	 * input: indices, enums, ring sizes. May be NULL.
	 */
	int (*check)(const void *staged, unsigned version, struct err *e);
	/*
	 * There were programs of this format that did not have the object: a stream without it leaves the
	 * object as it is. (Else it is refused.)
	 */
	bool younger;
};

/*
 * n, when `f` is really n bytes wide (or, with STATE_MULT, a multiple); does not compile otherwise
 */
#define STATE_SZ(T, f, n) ((n) + 0 * sizeof(char[sizeof(((T *)0)->f) == (n) ? 1 : -1]))
#define STATE_MULT(T, f, n) \
	(sizeof(((T *)0)->f) / (n) + 0 * sizeof(char[sizeof(((T *)0)->f) % (n) == 0 ? 1 : -1]))

#define STATE_F(T, f, st, s, c, since_, dflt) \
	{ \
		.name = #f, .type = st, .offset = offsetof(T, f), .size = s, .count = c, \
		.since = since_, .absent = (uint64_t)(dflt) \
	}
#define STATE_INT(T, f, st, w, since, dflt) STATE_F(T, f, st, STATE_SZ(T, f, w), 1, since, dflt)
#define STATE_U8(T, f, since) STATE_INT(T, f, STATE_T_U8, 1, since, 0)
#define STATE_U16(T, f, since) STATE_INT(T, f, STATE_T_U16, 2, since, 0)
#define STATE_U32(T, f, since) STATE_INT(T, f, STATE_T_U32, 4, since, 0)
#define STATE_U64(T, f, since) STATE_INT(T, f, STATE_T_U64, 8, since, 0)
#define STATE_I32(T, f, since) STATE_INT(T, f, STATE_T_I32, 4, since, 0)
#define STATE_I64(T, f, since) STATE_INT(T, f, STATE_T_I64, 8, since, 0)
#define STATE_ENUM(T, f, since) STATE_I32(T, f, since)
#define STATE_BOOL(T, f, since) STATE_INT(T, f, STATE_T_BOOL, 1, since, 0)
#define STATE_U8_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_U8, 1, since, dflt)
#define STATE_U16_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_U16, 2, since, dflt)
#define STATE_U32_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_U32, 4, since, dflt)
#define STATE_U64_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_U64, 8, since, dflt)
#define STATE_I32_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_I32, 4, since, dflt)
#define STATE_I64_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_I64, 8, since, dflt)
#define STATE_BOOL_SINCE(T, f, since, dflt) STATE_INT(T, f, STATE_T_BOOL, 1, since, dflt)
/*
 * readers of the same version that do not know the field skip it; it is `dflt` where the stream
 * lacks it
 */
#define STATE_INT_OPT(T, f, st, w, dflt) \
	{ \
		.name = #f, .type = st, .offset = offsetof(T, f), .size = STATE_SZ(T, f, w), \
		.count = 1, .since = 1, .absent = (uint64_t)(dflt), .optional = true \
	}
#define STATE_U64_OPT(T, f, dflt) STATE_INT_OPT(T, f, STATE_T_U64, 8, dflt)
#define STATE_BYTES(T, f, since) STATE_F(T, f, STATE_T_BYTES, sizeof(((T *)0)->f), 1, since, 0)
#define STATE_TEXT(T, f, since) STATE_F(T, f, STATE_T_TEXT, sizeof(((T *)0)->f), 1, since, 0)
#define STATE_U16S(T, f, since) STATE_F(T, f, STATE_T_U16S, 2, STATE_MULT(T, f, 2), since, 0)
#define STATE_U32S(T, f, since) STATE_F(T, f, STATE_T_U32S, 4, STATE_MULT(T, f, 4), since, 0)
#define STATE_U64S(T, f, since) STATE_F(T, f, STATE_T_U64S, 8, STATE_MULT(T, f, 8), since, 0)
#define STATE_BOOLS(T, f, since) STATE_F(T, f, STATE_T_BOOLS, 1, STATE_MULT(T, f, 1), since, 0)
/* f is a struct or an array of them */
#define STATE_STRUCT(T, f, desc, elem, since_) \
	{ \
		.name = #f, .type = STATE_T_STRUCT, .offset = offsetof(T, f), \
		.size = sizeof(elem), .count = STATE_MULT(T, f, sizeof(elem)), .since = since_, \
		.sub = desc \
	}
#define STATE_ARRAY(T, f, desc, elem, since_) STATE_STRUCT(T, f, desc, elem, since_)
/* f is a pointer to len_f (u32) structs, at most `max` */
#define STATE_VEC(T, f, len_f, max, desc, elem, since_) \
	{ \
		.name = #f, .type = STATE_T_VEC, .offset = offsetof(T, f), .size = sizeof(elem), \
		.count = max, .since = since_, \
		.len_offset = offsetof(T, len_f) + 0 * STATE_SZ(T, len_f, 4), .sub = desc \
	}
/* f is a pointer to len_f (u32) bytes, at most `max` */
#define STATE_BLOB(T, f, len_f, max, since_) \
	{ \
		.name = #f, .type = STATE_T_BLOB, .offset = offsetof(T, f), .size = max, \
		.since = since_, .len_offset = offsetof(T, len_f) + 0 * STATE_SZ(T, len_f, 4) \
	}
/* "name" was a field before version `ver` */
#define STATE_GONE(n, ver) \
	{ \
		.name = n, .type = STATE_T_GONE, .since = ver \
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

/*
 * Is the table itself well formed (names unique, versions, depth, sizes)? Whoever registers a
 * device calls this once; save and load do as well and answer -EINVAL with the field named.
 */
int state_desc_check(const struct state_desc *desc, struct err *e);

/*
 * The first digest of a process takes a millisecond or more: the library reads its configuration and sets itself up. Who saves or loads while a guest stands still
 * calls this before, from any thread.
 */
void state_prepare(void);

/*
 * Stores a malloc'ed buffer in *out; free it with free(). -EINVAL: an id twice, a vector above its
 * bound.
 */
int state_save(
	const struct state_obj *objs, unsigned n, uint8_t **out, size_t *out_len, struct err *e);

/*
 * Checks digest, format and every field against the tables, then applies. Every object of `objs`
 * must be in the stream and the other way round. Errors: -EBADMSG (not ours, cut, digest), -ENOTSUP
 * (newer version),
 * -EINVAL (a field or object: named in the message), -ENOMEM, or what check and post_load answered.
 */
int state_load(
	const struct state_obj *objs, unsigned n, const uint8_t *buf, size_t len, struct err *e);

/*
 * {id: {field: value}}. Integers of up to 32 bits are numbers; u64 and i64 are text, "0x80000000"
 * and "-1", because many JSON readers lose integers above 2^53; bytes are hex text (no prefix);
 * structs are objects, arrays of them arrays. Caller decrefs. NULL when memory is out or a table is
 * malformed.
 */
struct json_t *state_json(const struct state_obj *objs, unsigned n);

/*
 * Names the first field in which the two objects differ ("x[7]", "queues[1].size"), or returns NULL
 * when they are equal. The text is in the caller's `where` (cut if it is too small).
 */
const char *state_diff(
	const struct state_desc *desc, const void *a, const void *b, char *where, size_t where_len);

/* Frees what the VEC and BLOB fields of `obj` point to and sets them to NULL and 0. */
void state_free(const struct state_desc *desc, void *obj);

#endif
