#include "base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/spell.h"
#include "base/util.h"

const char *json_type_name(const json_t *j)
{
	switch (json_typeof(j)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a text";
	case JSON_INTEGER:
		return "a whole number";
	case JSON_REAL:
		return "a fraction";
	case JSON_NULL:
		return "null";
	default:
		return "a boolean";
	}
}

json_t *json_text(const char *text)
{
	json_t *j = json_string(text);
	cleanup(free_ptr) char *copy = j ? NULL : strdup(text);

	return j ?: copy ? json_string(text_one_line(copy)) : NULL;
}

/* The value of a key, NULL when it is absent and may be; *r is the answer in that case. */
static json_t *get(
	const json_t *obj, const char *where, const char *key, bool must, int *r, struct err *e)
{
	json_t *v = json_object_get(obj, key);

	*r = 0;
	if (!v && must)
		*r = err_set(e, -EINVAL, "%s: \"%s\" is missing", where, key);
	return v;
}

static int wrong(
	const json_t *v, const char *where, const char *key, const char *want, struct err *e)
{
	return err_set(
		e, -EINVAL, "%s: \"%s\" is %s instead of %s", where, key, json_type_name(v), want);
}

int json_want_text(const json_t *obj, const char *where, const char *key, bool must,
	const char **out, struct err *e)
{
	int r;
	json_t *v = get(obj, where, key, must, &r, e);

	if (!v)
		return r;
	if (!json_is_string(v))
		return wrong(v, where, key, "a text", e);
	*out = json_string_value(v);
	return 0;
}

int json_want_u64(const json_t *obj, const char *where, const char *key, bool must, uint64_t *out,
	struct err *e)
{
	int r;
	json_t *v = get(obj, where, key, must, &r, e);

	if (!v)
		return r;
	if (!json_is_integer(v))
		return wrong(v, where, key, "a whole number", e);
	if (json_integer_value(v) < 0)
		return err_set(e, -EINVAL, "%s: \"%s\" is negative", where, key);
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

int json_want_bool(
	const json_t *obj, const char *where, const char *key, bool must, bool *out, struct err *e)
{
	int r;
	json_t *v = get(obj, where, key, must, &r, e);

	if (!v)
		return r;
	if (!json_is_boolean(v))
		return wrong(v, where, key, "a boolean", e);
	*out = json_is_true(v);
	return 0;
}

int json_want_object(const json_t *obj, const char *where, const char *key, bool must, json_t **out,
	struct err *e)
{
	int r;
	json_t *v = get(obj, where, key, must, &r, e);

	if (!v)
		return r;
	if (!json_is_object(v))
		return wrong(v, where, key, "an object", e);
	*out = v;
	return 0;
}

int json_want_array(const json_t *obj, const char *where, const char *key, bool must, json_t **out,
	struct err *e)
{
	int r;
	json_t *v = get(obj, where, key, must, &r, e);

	if (!v)
		return r;
	if (!json_is_array(v))
		return wrong(v, where, key, "an array", e);
	*out = v;
	return 0;
}

int json_only_keys(
	const json_t *obj, const char *where, const char *const *keys, size_t n, struct err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)obj, key, v)
	{
		struct spell near = {0};

		for (size_t i = 0; i < n; i++)
			spell_offer(&near, key, keys[i]);
		if (near.best && !near.distance)
			continue;
		if (near.best)
			return err_set(e, -EINVAL, "%s: unknown key \"%s\": did you mean \"%s\"?",
				where, key, near.best);
		return err_set(e, -EINVAL, "%s: unknown key \"%s\"", where, key);
	}
	return 0;
}

int json_parse(const char *text, size_t len, json_t **out, struct err *e)
{
	json_error_t je;

	*out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
	if (!*out)
		return err_set(e, -EINVAL, "line %d, column %d: %s", je.line, je.column, je.text);
	return 0;
}
