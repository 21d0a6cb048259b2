#include "base/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/state/impl.h"
#include "base/util.h"

struct state_int state_int_of(enum state_type t)
{
	static const struct state_int ints[] = {
		[STATE_T_U8] = {1},
		[STATE_T_U16] = {2},
		[STATE_T_U32] = {4},
		[STATE_T_U64] = {8},
		[STATE_T_I32] = {4, .is_signed = true},
		[STATE_T_I64] = {8, .is_signed = true},
		[STATE_T_BOOL] = {1, .is_bool = true},
		[STATE_T_U16S] = {2, .is_array = true},
		[STATE_T_U32S] = {4, .is_array = true},
		[STATE_T_U64S] = {8, .is_array = true},
		[STATE_T_BOOLS] = {1, .is_bool = true, .is_array = true},
	};

	if ((unsigned)t >= ARRAY_SIZE(ints))
		return (struct state_int){0};
	return ints[t];
}

uint64_t state_int_get(const struct state_field *f, const void *obj, unsigned i)
{
	struct state_int k = state_int_of(f->type);
	const char *p = (const char *)obj + f->offset + (size_t)i * k.width;

	switch (k.width) {
	case 1:
		return k.is_bool ? *(const uint8_t *)p != 0 : *(const uint8_t *)p;
	case 2:
		return *(const uint16_t *)p;
	case 4:
		return k.is_signed ? (uint64_t)(int64_t) * (const int32_t *)p
				   : *(const uint32_t *)p;
	default:
		return *(const uint64_t *)p;
	}
}

void state_int_put(const struct state_field *f, void *obj, unsigned i, uint64_t v)
{
	struct state_int k = state_int_of(f->type);
	char *p = (char *)obj + f->offset + (size_t)i * k.width;

	switch (k.width) {
	case 1:
		*(uint8_t *)p = (uint8_t)v;
		break;
	case 2:
		*(uint16_t *)p = (uint16_t)v;
		break;
	case 4:
		*(uint32_t *)p = (uint32_t)v;
		break;
	default:
		*(uint64_t *)p = v;
	}
}

static int field_check(const struct state_desc *d, const struct state_field *f, struct err *e)
{
	struct state_int k = state_int_of(f->type);
	bool sub = f->type == STATE_T_STRUCT || f->type == STATE_T_VEC;

	if (!f->name || !f->name[0] || strchr(f->name, '?') || strlen(f->name) > 100)
		return err_set(e, -EINVAL, "state table %s: a field has no usable name", d->type);
	if (f->type > STATE_T_GONE)
		return err_set(e, -EINVAL, "state table %s: %s: unknown type", d->type, f->name);
	if (f->since < 1 || f->since > d->version)
		return err_set(e, -EINVAL,
			"state table %s: %s: since %u is not in 1..%u (raise the version)", d->type,
			f->name, f->since, d->version);
	if (f->type == STATE_T_GONE)
		return 0;
	if (k.width && (f->size != k.width || !f->count))
		return err_set(e, -EINVAL, "state table %s: %s: size does not fit the type",
			d->type, f->name);
	if (f->optional && (!k.width || k.is_array))
		return err_set(e, -EINVAL,
			"state table %s: %s: only single integers can be optional", d->type,
			f->name);
	if (sub && (!f->sub || !f->size || !f->count))
		return err_set(
			e, -EINVAL, "state table %s: %s: no sub-description", d->type, f->name);
	if (!f->size || f->size > UINT32_MAX)
		return err_set(e, -EINVAL, "state table %s: %s: bad size", d->type, f->name);
	return 0;
}

static int desc_check(const struct state_desc *d, unsigned depth, struct err *e)
{
	unsigned n = 0;
	int r;

	if (!d || !d->type || !d->fields || !d->version)
		return err_set(e, -EINVAL, "state table %s: no type, fields or version",
			d && d->type ? d->type : "?");
	if (depth >= STATE_MAX_DEPTH)
		return err_set(e, -EINVAL, "state table %s: nested deeper than %u", d->type,
			STATE_MAX_DEPTH);
	for (const struct state_field *f = d->fields; f->type != STATE_T_END; f++) {
		if (++n > STATE_MAX_FIELDS)
			return err_set(e, -EINVAL, "state table %s: more than %u fields", d->type,
				STATE_MAX_FIELDS);
		r = field_check(d, f, e);
		if (r)
			return r;
		for (const struct state_field *g = d->fields; g != f; g++)
			if (!strcmp(f->name, g->name))
				return err_set(e, -EINVAL, "state table %s: %s is described twice",
					d->type, f->name);
		if (f->sub) {
			r = desc_check(f->sub, depth + 1, e);
			if (r)
				return r;
		}
	}
	return 0;
}

int state_desc_check(const struct state_desc *desc, struct err *e)
{
	return desc_check(desc, 0, e);
}

size_t state_extent(const struct state_desc *desc)
{
	size_t max = 1;

	for (const struct state_field *f = desc->fields; f->type != STATE_T_END; f++) {
		size_t end;

		switch (f->type) {
		case STATE_T_GONE:
			continue;
		case STATE_T_VEC:
		case STATE_T_BLOB:
			end = MAX(f->offset + sizeof(void *), f->len_offset + sizeof(uint32_t));
			break;
		default:
			end = f->offset + f->size * f->count;
		}
		max = MAX(max, end);
	}
	return align_up(max, 16);
}

void state_pre_save(const struct state_desc *desc, void *obj)
{
	if (desc->pre_save)
		desc->pre_save(obj);
	for (const struct state_field *f = desc->fields; f->type != STATE_T_END; f++) {
		if (!f->sub)
			continue;
		for (uint32_t i = 0, n = state_elems(f, obj); i < n; i++)
			state_pre_save(f->sub, state_elem(f, obj, i));
	}
}

void state_free(const struct state_desc *desc, void *obj)
{
	for (const struct state_field *f = desc->fields; f->type != STATE_T_END; f++) {
		if (f->sub)
			for (uint32_t i = 0, n = state_elems(f, obj); i < n; i++)
				state_free(f->sub, state_elem(f, obj, i));
		if (f->type != STATE_T_VEC && f->type != STATE_T_BLOB)
			continue;
		free(*state_ptr(f, obj));
		*state_ptr(f, obj) = NULL;
		state_set_len(f, obj, 0);
	}
}

/* where[0..len) receives prefix, field name and, for i >= 0, "[i]" */
static const char *put_where(
	char *where, size_t len, const char *prefix, const char *name, int64_t i)
{
	if (i >= 0)
		snprintf(where, len, "%s%s[%lld]", prefix, name, (long long)i);
	else
		snprintf(where, len, "%s%s", prefix, name);
	return where;
}

static int64_t first_int_diff(const struct state_field *f, const void *a, const void *b)
{
	for (unsigned i = 0; i < f->count; i++)
		if (state_int_get(f, a, i) != state_int_get(f, b, i))
			return i;
	return -1;
}

static int64_t first_byte_diff(const uint8_t *a, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (a[i] != b[i])
			return (int64_t)i;
	return -1;
}

static const char *diff(const struct state_desc *desc, const void *a, const void *b,
	const char *prefix, char *where, size_t len);

static const char *diff_sub(const struct state_field *f, const void *a, const void *b,
	const char *prefix, char *where, size_t len)
{
	bool many = f->type == STATE_T_VEC || f->count > 1;
	uint32_t n = state_elems(f, a);

	if (n != state_elems(f, b))
		return put_where(where, len, prefix, f->name, -1);
	for (uint32_t i = 0; i < n; i++) {
		char inner[256];

		put_where(inner, sizeof(inner) - 1, prefix, f->name, many ? (int64_t)i : -1);
		strcat(inner, ".");
		if (diff(f->sub, state_elem(f, a, i), state_elem(f, b, i), inner, where, len))
			return where;
	}
	return NULL;
}

static const char *diff_field(const struct state_field *f, const void *a, const void *b,
	const char *prefix, char *where, size_t len)
{
	const char *pa = (const char *)a + f->offset, *pb = (const char *)b + f->offset;
	struct state_int k = state_int_of(f->type);
	int64_t i = -1;

	switch (f->type) {
	case STATE_T_STRUCT:
	case STATE_T_VEC:
		return diff_sub(f, a, b, prefix, where, len);
	case STATE_T_TEXT:
		if (!strncmp(pa, pb, f->size))
			return NULL;
		return put_where(where, len, prefix, f->name, -1);
	case STATE_T_BLOB:
		if (state_len(f, a) != state_len(f, b))
			return put_where(where, len, prefix, f->name, -1);
		i = first_byte_diff(*state_ptr(f, a), *state_ptr(f, b), state_len(f, a));
		break;
	case STATE_T_BYTES:
		i = first_byte_diff((const uint8_t *)pa, (const uint8_t *)pb, f->size);
		break;
	case STATE_T_GONE:
		return NULL;
	default:
		i = first_int_diff(f, a, b);
		if (i >= 0 && !k.is_array)
			return put_where(where, len, prefix, f->name, -1);
	}
	return i < 0 ? NULL : put_where(where, len, prefix, f->name, i);
}

static const char *diff(const struct state_desc *desc, const void *a, const void *b,
	const char *prefix, char *where, size_t len)
{
	for (const struct state_field *f = desc->fields; f->type != STATE_T_END; f++)
		if (diff_field(f, a, b, prefix, where, len))
			return where;
	return NULL;
}

const char *state_diff(
	const struct state_desc *desc, const void *a, const void *b, char *where, size_t where_len)
{
	return diff(desc, a, b, "", where, where_len);
}
