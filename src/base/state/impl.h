/*
 * impl.h: what the files of this folder share; see state.h for the contract. Not for users of
 * described state.
 *
 * Callers have passed the table through state_desc_check(), so sizes and depth are sane here.
 */
#ifndef LODGE_BASE_STATE_IMPL_H
#define LODGE_BASE_STATE_IMPL_H

#include "base/state.h"

#define STATE_DIGEST_LEN 32

/* How the integer types look; .width is 0 for types that are not integers or booleans. */
struct state_int {
	uint8_t width; /* bytes */
	bool is_signed, is_bool, is_array;
};
struct state_int state_int_of(enum state_type t);

/* Element `i` of an integer field, sign-extended to 64 bits where it is signed. */
uint64_t state_int_get(const struct state_field *f, const void *obj, unsigned i);
void state_int_put(const struct state_field *f, void *obj, unsigned i, uint64_t v);

static inline uint32_t state_len(const struct state_field *f, const void *obj)
{
	return *(const uint32_t *)((const char *)obj + f->len_offset);
}

static inline void state_set_len(const struct state_field *f, void *obj, uint32_t len)
{
	*(uint32_t *)((char *)obj + f->len_offset) = len;
}

/* The address of a pointer field. */
static inline void **state_ptr(const struct state_field *f, const void *obj)
{
	return (void **)((const char *)obj + f->offset);
}

/* Sub-object `i` of a STRUCT or VEC field. */
static inline void *state_elem(const struct state_field *f, const void *obj, uint32_t i)
{
	char *base = f->type == STATE_T_VEC ? *state_ptr(f, obj) : (char *)obj + f->offset;

	return base + (size_t)i * f->size;
}

static inline uint32_t state_elems(const struct state_field *f, const void *obj)
{
	return f->type == STATE_T_VEC ? state_len(f, obj) : f->count;
}

/*
 * Runs pre_save of `obj` and of what is inside it, inner ones last (an outer one may fill inner
 * fields).
 */
void state_pre_save(const struct state_desc *desc, void *obj);

/* Bytes of an object that its table reaches. */
size_t state_extent(const struct state_desc *desc);

#endif
