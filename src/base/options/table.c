#include "base/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/size.h"
#include "base/spell.h"
#include "base/strbuf.h"
#include "base/util.h"

static void *at(const struct opt *o, const void *obj)
{
	return (char *)obj + o->offset;
}

static unsigned *count_at(const struct opt *o, const void *obj)
{
	return (unsigned *)((char *)obj + o->count_offset);
}

static unsigned list_max(const struct opt *o)
{
	return o->max ? (unsigned)o->max : 64;
}

const struct opt *options_by_flag(const struct opt *opts, const char *flag)
{
	for (; opts->type != OPT_END; opts++)
		if (opts->flag && !strcmp(opts->flag, flag))
			return opts;
	return NULL;
}

static bool is_key(const char *key, const char *written)
{
	while (*key && (*written == *key || (*written == '_' && *key == '-')))
		key++, written++;
	return *key == *written;
}

const struct opt *options_by_key(const struct opt *opts, const char *key)
{
	for (; opts->type != OPT_END; opts++)
		if (opts->key && is_key(opts->key, key))
			return opts;
	return NULL;
}

unsigned options_count(const struct opt *o, const void *obj)
{
	return *count_at(o, obj);
}

void *options_elem(const struct opt *o, const void *obj, unsigned i)
{
	return *(char **)at(o, obj) + (size_t)i * o->elem_size;
}

/* A number as the user would write it. */
static const char *number_text(const struct opt *o, uint64_t v, char text[SIZE_TEXT])
{
	if (o->type == OPT_SIZE)
		return size_text(text, v);
	snprintf(text, SIZE_TEXT, "%" PRIu64, v);
	return text;
}

static int in_range(const struct opt *o, uint64_t v, const char *text, struct err *e)
{
	uint64_t max = o->max ?: o->type == OPT_UINT ? UINT32_MAX : UINT64_MAX;
	char lo[SIZE_TEXT], hi[SIZE_TEXT];

	if (v >= o->min && v <= max)
		return 0;
	number_text(o, o->min, lo);
	if (!o->max)
		return err_set(e, -EINVAL,
			v < o->min ? "%s is too small: give at least %s" : "%s is too large", text,
			lo);
	number_text(o, max, hi);
	return err_set(e, -EINVAL, "%s is %s: give %s to %s", text,
		v < o->min ? "too small" : "too large", lo, hi);
}

static int set_number(const struct opt *o, void *obj, const char *text, struct err *e)
{
	uint64_t v;
	int r = o->type == OPT_SIZE ? size_parse(text, &v, e) : uint_parse(text, &v, e);

	if (r || (r = in_range(o, v, text, e)))
		return r;
	if (o->type == OPT_UINT)
		*(unsigned *)at(o, obj) = (unsigned)v;
	else
		*(uint64_t *)at(o, obj) = v;
	return 0;
}

static int set_bool(const struct opt *o, void *obj, const char *text, struct err *e)
{
	static const char *const words[][2] = {{"off", "on"}, {"false", "true"}, {"no", "yes"}};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		for (int v = 0; v < 2; v++) {
			if (strcmp(text, words[i][v]))
				continue;
			*(bool *)at(o, obj) = v;
			return 0;
		}
	}
	return err_set(e, -EINVAL, "\"%s\" is neither on nor off", text);
}

static int set_enum(const struct opt *o, void *obj, const char *text, struct err *e)
{
	cleanup(strbuf_free) struct strbuf all = {0};
	unsigned n = 0;

	for (int i = 0; o->values[i]; i++) {
		if (!o->values[i][0])
			continue; /* stands for "not given" and cannot be given */
		if (!strcmp(o->values[i], text)) {
			*(int *)at(o, obj) = i;
			return 0;
		}
		strbuf_addf(&all, "%s%s", n++ ? ", " : "", o->values[i]);
	}
	return err_set(e, -EINVAL, "\"%s\" is not known: give %s%s", text, n > 1 ? "one of " : "",
		strbuf_text(&all));
}

/* RFC 3629: what JSON and YAML can carry. */
static bool is_utf8(const char *text)
{
	const unsigned char *p = (const unsigned char *)text;

	while (*p) {
		unsigned more = *p < 0x80   ? 0
				: *p < 0xc2 ? 9
				: *p < 0xe0 ? 1
				: *p < 0xf0 ? 2
				: *p < 0xf5 ? 3
					    : 9;
		unsigned first = *p++;

		if (more == 9)
			return false;
		for (unsigned i = 0; i < more; i++, p++) {
			unsigned lo = i ? 0x80 : first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
			unsigned hi = i ? 0xbf : first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;

			if (*p < lo || *p > hi)
				return false;
		}
	}
	return true;
}

static int set_text(const struct opt *o, void *obj, const char *text, struct err *e)
{
	char **p = at(o, obj);
	char *copy;
	int r = is_utf8(text) ? 0 : err_set(e, -EINVAL, "the text is not UTF-8");

	if (!r && o->check)
		r = o->check(text, e);
	if (r)
		return r;
	if (asprintf(&copy, "%s%s%s", o->joins && *p ? *p : "", o->joins && *p ? "," : "", text) <
		0)
		return err_set(e, -ENOMEM, "out of memory");
	free(*p);
	*p = copy;
	return 0;
}

void *options_append(const struct opt *o, void *obj, struct err *e)
{
	unsigned n = *count_at(o, obj);
	char **list = at(o, obj);
	char *p;

	if (n >= list_max(o)) {
		err_set(e, -EINVAL, "more than %u are not possible", list_max(o));
		return NULL;
	}
	p = reallocarray(*list, n + 1, o->elem_size);
	if (!p) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	*list = p;
	p += (size_t)n * o->elem_size;
	memset(p, 0, o->elem_size);
	++*count_at(o, obj);
	if (o->sub && options_defaults(o->sub, p, e))
		return NULL;
	return p;
}

int options_set(const struct opt *o, void *obj, const char *text, struct err *e)
{
	void *elem;
	int r;

	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		r = set_bool(o, obj, text, e);
		break;
	case OPT_UINT:
	case OPT_U64:
	case OPT_SIZE:
		r = set_number(o, obj, text, e);
		break;
	case OPT_ENUM:
		r = set_enum(o, obj, text, e);
		break;
	case OPT_TEXT:
		r = set_text(o, obj, text, e);
		break;
	case OPT_LIST:
		elem = options_append(o, obj, e);
		if (!elem)
			return e && e->code ? e->code : -EINVAL;
		r = o->parse ? o->parse(elem, text, e) : options_set_many(o->sub, elem, text, e);
		break;
	default:
		r = err_set(e, -EINVAL, "no such option");
	}
	if (!r && o->set_offset)
		*(bool *)((char *)obj + o->set_offset) = true;
	return r;
}

/* One "key=value" or "flag" of a comma list, already cut out. */
static int set_part(const struct opt *opts, void *obj, char *part, struct err *e)
{
	char *value = strchr(part, '=');
	const struct opt *o;
	int r;

	if (value)
		*value++ = '\0';
	o = options_by_flag(opts, part);
	if (!o) {
		cleanup(strbuf_free) struct strbuf all = {0};
		struct spell near = {0};

		for (o = opts; o->type != OPT_END; o++) {
			if (!o->flag)
				continue;
			spell_offer(&near, part, o->flag);
			strbuf_addf(&all, "%s%s", all.len ? ", " : "", o->flag);
		}
		if (near.best)
			return err_set(e, -EINVAL, "unknown part \"%s\": did you mean \"%s\"?",
				part, near.best);
		return err_set(
			e, -EINVAL, "unknown part \"%s\"; there is: %s", part, strbuf_text(&all));
	}
	if (!value && o->type != OPT_FLAG && o->type != OPT_BOOL)
		return err_set(
			e, -EINVAL, "%s needs a value: %s=%s", part, part, o->arg ?: "VALUE");
	r = options_set(o, obj, value ?: "on", e);
	return r ? err_wrap(e, "%s", part) : 0;
}

int options_set_many(const struct opt *opts, void *obj, const char *text, struct err *e)
{
	cleanup(free_ptr) char *copy = strdup(text);
	char *in = copy, *out, *part;
	int r;

	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	for (bool more = true; more;) {
		part = out = in;
		for (;; *out++ = *in++) {
			if (!*in || (*in == ',' && in[1] != ','))
				break;
			in += *in == ','; /* ",," is one comma of the value */
		}
		more = *in++ == ',';
		*out = '\0';
		r = set_part(opts, obj, part, e);
		if (r)
			return r;
	}
	return 0;
}

void options_get(const struct opt *o, const void *obj, struct strbuf *out)
{
	char text[SIZE_TEXT];

	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		strbuf_adds(out, *(bool *)at(o, obj) ? "on" : "off");
		break;
	case OPT_UINT:
		strbuf_addf(out, "%u", *(unsigned *)at(o, obj));
		break;
	case OPT_U64:
	case OPT_SIZE:
		strbuf_adds(out, number_text(o, *(uint64_t *)at(o, obj), text));
		break;
	case OPT_ENUM:
		strbuf_adds(out, o->values[*(int *)at(o, obj)]);
		break;
	case OPT_TEXT:
		strbuf_adds(out, *(char **)at(o, obj) ?: "");
		break;
	default:
		break;
	}
}

bool options_is_default(const struct opt *o, const void *obj)
{
	cleanup(strbuf_free) struct strbuf now = {0}, dflt = {0};
	uint64_t zero[2] = {0};
	struct opt there = *o;

	if (o->set_offset && *((const char *)obj + o->set_offset))
		return false;
	if (o->type == OPT_LIST)
		return !*count_at(o, obj);
	if (o->type == OPT_TEXT) {
		const char *text = *(char **)at(o, obj);

		return text && o->dflt ? !strcmp(text, o->dflt) : !text && !o->dflt;
	}
	there.offset = 0;
	there.set_offset = 0;
	if (o->dflt && options_set(&there, zero, o->dflt, NULL))
		return false;
	options_get(&there, zero, &dflt);
	options_get(o, obj, &now);
	return !strcmp(strbuf_text(&now), strbuf_text(&dflt));
}

int options_defaults(const struct opt *opts, void *obj, struct err *e)
{
	for (const struct opt *o = opts; o->type != OPT_END; o++) {
		int r = o->dflt ? options_set(o, obj, o->dflt, e) : 0;

		if (r)
			return err_wrap(e, "default of %s", o->flag ?: o->key);
		if (o->set_offset)
			*((bool *)obj + o->set_offset) = false;
	}
	return 0;
}

void options_free(const struct opt *opts, void *obj)
{
	for (const struct opt *o = opts; o->type != OPT_END; o++) {
		if (o->type == OPT_LIST) {
			for (unsigned i = 0; o->sub && i < *count_at(o, obj); i++)
				options_free(o->sub, options_elem(o, obj, i));
			*count_at(o, obj) = 0;
		}
		if (o->type == OPT_TEXT || o->type == OPT_LIST) {
			free(*(void **)at(o, obj));
			*(void **)at(o, obj) = NULL;
		}
	}
}

static bool same(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

int options_check(const struct opt *opts, struct err *e)
{
	static const size_t widths[] = {[OPT_FLAG] = sizeof(bool),
		[OPT_BOOL] = sizeof(bool),
		[OPT_UINT] = sizeof(unsigned),
		[OPT_U64] = 8,
		[OPT_SIZE] = 8,
		[OPT_ENUM] = sizeof(int),
		[OPT_TEXT] = sizeof(char *),
		[OPT_LIST] = sizeof(void *)};

	for (const struct opt *o = opts; o->type != OPT_END; o++) {
		const char *name = o->flag ?: o->key ?: "?";
		uint64_t value[2] = {0};
		struct opt there = *o;
		int r = 0;

		if ((!o->flag && !o->key) || !o->help)
			return err_set(e, -EINVAL, "option %s: no name or no help", name);
		if (o->key && strchr(o->key, '_'))
			return err_set(e, -EINVAL, "option %s: keys are written with dashes", name);
		if (o->type > OPT_LIST || o->width != widths[o->type])
			return err_set(
				e, -EINVAL, "option %s: the member does not fit the type", name);
		if (o->type == OPT_ENUM && !o->values)
			return err_set(e, -EINVAL, "option %s: no values", name);
		if (o->type == OPT_LIST && (!o->elem_size || (!o->sub && !(o->parse && o->format))))
			return err_set(
				e, -EINVAL, "option %s: nothing describes the elements", name);
		if (o->type != OPT_FLAG && o->flag && !o->arg && o->type != OPT_BOOL &&
			o->type != OPT_ENUM)
			return err_set(e, -EINVAL, "option %s: no text for the value", name);
		for (const struct opt *p = opts; p != o; p++)
			if (same(p->flag, o->flag) || same(p->key, o->key) ||
				(o->letter && p->letter == o->letter))
				return err_set(e, -EINVAL, "option %s is there twice", name);
		there.offset = there.set_offset = 0;
		if (o->dflt && o->type != OPT_LIST)
			r = options_set(&there, value, o->dflt, e);
		if (o->type == OPT_TEXT)
			free(*(void **)value);
		if (!r && o->sub)
			r = options_check(o->sub, e);
		if (r)
			return err_wrap(e, "option %s", name);
	}
	return 0;
}
