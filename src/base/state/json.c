#include "base/state.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/hex.h"
#include "base/state/impl.h"
#include "base/util.h"

static json_t *hex_json(const void *data, size_t n)
{
	cleanup(free_ptr) char *text = malloc(2 * n + 1);

	if (!text)
		return NULL;
	hex_put(text, data, n);
	return json_stringn(text, 2 * n);
}

static json_t *int_json(const struct state_field *f, const void *obj, unsigned i)
{
	struct state_int k = state_int_of(f->type);
	uint64_t v = state_int_get(f, obj, i);
	char text[24];

	if (k.is_bool)
		return json_boolean(v);
	if (k.width < 8)
		return json_integer((json_int_t)v);
	if (k.is_signed)
		snprintf(text, sizeof(text), "%" PRId64, (int64_t)v);
	else
		snprintf(text, sizeof(text), "0x%" PRIx64, v);
	return json_string(text);
}

static json_t *fields_json(const struct state_desc *d, const void *obj);

static json_t *sub_json(const struct state_field *f, const void *obj)
{
	json_t *list;

	if (f->type == STATE_T_STRUCT && f->count == 1)
		return fields_json(f->sub, state_elem(f, obj, 0));
	list = json_array();
	for (uint32_t i = 0, n = state_elems(f, obj); list && i < n; i++) {
		if (json_array_append_new(list, fields_json(f->sub, state_elem(f, obj, i)))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *value_json(const struct state_field *f, const void *obj)
{
	const char *p = (const char *)obj + f->offset;
	json_t *list;

	switch (f->type) {
	case STATE_T_BYTES:
		return hex_json(p, f->size);
	case STATE_T_TEXT:
		/* guests may have put anything there: what is not UTF-8 is shown as hex */
		return json_stringn(p, strnlen(p, f->size)) ?: hex_json(p, strnlen(p, f->size));
	case STATE_T_BLOB:
		return hex_json(*state_ptr(f, obj), state_len(f, obj));
	case STATE_T_STRUCT:
	case STATE_T_VEC:
		return sub_json(f, obj);
	default:
		if (!state_int_of(f->type).is_array)
			return int_json(f, obj, 0);
	}
	list = json_array();
	for (unsigned i = 0; list && i < f->count; i++) {
		if (json_array_append_new(list, int_json(f, obj, i))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *fields_json(const struct state_desc *d, const void *obj)
{
	json_t *map = json_object();

	for (const struct state_field *f = d->fields; map && f->type != STATE_T_END; f++) {
		if (f->type == STATE_T_GONE)
			continue;
		if (json_object_set_new(map, f->name, value_json(f, obj))) {
			json_decref(map);
			return NULL;
		}
	}
	return map;
}

struct json_t *state_json(const struct state_obj *objs, unsigned n)
{
	json_t *all = json_object();

	for (unsigned i = 0; all && i < n; i++) {
		if (state_desc_check(objs[i].desc, NULL)) {
			json_decref(all);
			return NULL;
		}
		state_pre_save(objs[i].desc, objs[i].obj);
		if (json_object_set_new(all, objs[i].id, fields_json(objs[i].desc, objs[i].obj))) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}
