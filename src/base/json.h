/*
 * json.h: typed access to JSON objects that came from outside.
 *
 * `where` is the text in front of messages: "stop" gives "stop: \"timeout\" is a text instead of a
 * number". Getters leave *out untouched when the key is absent and not `must`. Texts and objects
 * are borrowed from `obj`. 0 or -EINVAL.
 */
#ifndef LODGE_BASE_JSON_H
#define LODGE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

struct err;

static inline void json_drop(json_t **j)
{
	json_decref(*j);
}

int json_want_text(const json_t *obj, const char *where, const char *key, bool must,
	const char **out, struct err *e);
int json_want_u64(const json_t *obj, const char *where, const char *key, bool must, uint64_t *out,
	struct err *e);
int json_want_bool(
	const json_t *obj, const char *where, const char *key, bool must, bool *out, struct err *e);
int json_want_object(const json_t *obj, const char *where, const char *key, bool must, json_t **out,
	struct err *e);
int json_want_array(const json_t *obj, const char *where, const char *key, bool must, json_t **out,
	struct err *e);

/* Refuses keys that are not among the n, naming the nearest that is. */
int json_only_keys(
	const json_t *obj, const char *where, const char *const *keys, size_t n, struct err *e);

/* A text from outside, whatever bytes it has: where it is no UTF-8, which JSON cannot hold, with '?' in their places. */
json_t *json_text(const char *text);

/* Of an object that is our own: "" or 0 where there is nothing, or something else. Borrowed. */
static inline const char *json_text_at(const json_t *obj, const char *key)
{
	const char *text = json_string_value(json_object_get(obj, key));

	return text ? text : "";
}

static inline json_int_t json_int_at(const json_t *obj, const char *key)
{
	return json_integer_value(json_object_get(obj, key));
}

/* "a text", "an array" ... */
const char *json_type_name(const json_t *j);

/*
 * Parses one JSON value that is all of the text; duplicate keys are refused; message with line and
 * column.
 */
int json_parse(const char *text, size_t len, json_t **out, struct err *e);

#endif
