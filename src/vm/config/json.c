#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/spell.h"
#include "base/strbuf.h"
#include "base/util.h"
#include "vm/config/config.h"

static json_t *opts_json(const struct opt *opts, const void *obj);

static json_t *elem_json(const struct opt *o, const void *elem)
{
	cleanup(strbuf_free) struct strbuf sb = {0};

	if (o->sub)
		return opts_json(o->sub, elem);
	o->format(elem, &sb);
	return json_string(strbuf_text(&sb));
}

static json_t *value_json(const struct opt *o, const void *obj)
{
	cleanup(strbuf_free) struct strbuf sb = {0};
	const char *at = (const char *)obj + o->offset;
	json_t *list;

	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		return json_boolean(*(const bool *)at);
	case OPT_UINT:
		return json_integer(*(const unsigned *)at);
	case OPT_U64:
		/* as text above 2^53, where many readers of JSON round */
		if (*(const uint64_t *)at <= 1ull << 53)
			return json_integer((json_int_t) * (const uint64_t *)at);
		break;
	case OPT_LIST:
		list = json_array();
		for (unsigned i = 0; list && i < options_count(o, obj); i++) {
			if (json_array_append_new(list, elem_json(o, options_elem(o, obj, i)))) {
				json_decref(list);
				return NULL;
			}
		}
		return list;
	default:
		break;
	}
	options_get(o, obj, &sb);
	return sb.failed ? NULL : json_string(strbuf_text(&sb));
}

static json_t *opts_json(const struct opt *opts, const void *obj)
{
	json_t *map = json_object();

	for (const struct opt *o = opts; map && o->type != OPT_END; o++) {
		if (!o->key || options_is_default(o, obj))
			continue;
		if (json_object_set_new(map, o->key, value_json(o, obj))) {
			json_decref(map);
			return NULL;
		}
	}
	return map;
}

struct json_t *vm_config_to_json(const struct vm_config *c)
{
	return opts_json(vm_config_opts, c);
}

static int set_from_json(const struct opt *o, void *obj, const json_t *v, struct err *e)
{
	bool number = o->type == OPT_UINT || o->type == OPT_U64 || o->type == OPT_SIZE;
	char text[32];

	if (json_is_string(v)) {
		if (strlen(json_string_value(v)) != json_string_length(v))
			return err_set(e, -EINVAL, "a NUL inside a text");
		return options_set(o, obj, json_string_value(v), e);
	}
	if (json_is_boolean(v) && (o->type == OPT_BOOL || o->type == OPT_FLAG))
		return options_set(o, obj, json_is_true(v) ? "on" : "off", e);
	if (json_is_integer(v) && number) {
		/* sizes as numbers are bytes */
		snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT "%s", json_integer_value(v),
			o->type == OPT_SIZE && json_integer_value(v) > 0 ? "B" : "");
		return options_set(o, obj, text, e);
	}
	return err_set(e, -EINVAL, "%s does not fit: give %s", json_type_name(v),
		number					     ? "a number"
		: o->type == OPT_BOOL || o->type == OPT_FLAG ? "true or false"
							     : "a text");
}

static int opts_from_json(const struct opt *opts, void *obj, const json_t *j, struct err *e);

static int list_from_json(const struct opt *o, void *obj, const json_t *j, struct err *e)
{
	json_t *v;
	size_t i;
	int r;

	if (!json_is_array(j))
		return err_set(e, -EINVAL, "%s instead of an array", json_type_name(j));
	json_array_foreach(j, i, v)
	{
		if (json_is_object(v) && o->sub) {
			void *elem = options_append(o, obj, e);

			r = elem ? opts_from_json(o->sub, elem, v, e) : -EINVAL;
		} else {
			r = set_from_json(o, obj, v, e);
		}
		if (r)
			return err_wrap(e, "[%zu]", i);
	}
	return 0;
}

static int opts_from_json(const struct opt *opts, void *obj, const json_t *j, struct err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)j, key, v)
	{
		const struct opt *o = options_by_key(opts, key);
		struct spell near = {0};
		int r;

		if (!o) {
			for (o = opts; o->type != OPT_END; o++)
				if (o->key)
					spell_offer(&near, key, o->key);
			return err_set(e, -EINVAL, "unknown key \"%.80s\"%s%s%s", key,
				near.best ? ": did you mean \"" : "", near.best ?: "",
				near.best ? "\"?" : "");
		}
		r = o->type == OPT_LIST ? list_from_json(o, obj, v, e)
					: set_from_json(o, obj, v, e);
		if (r)
			return err_wrap(e, "%s", key);
	}
	return 0;
}

int vm_config_from_json(struct vm_config *c, const struct json_t *j, struct err *e)
{
	struct err own = {0};

	if (!json_is_object(j))
		return err_set(
			e, -EINVAL, "the definition is %s instead of an object", json_type_name(j));
	return opts_from_json(vm_config_opts, c, j, e ?: &own);
}
