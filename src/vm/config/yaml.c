#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/spell.h"
#include "base/util.h"
#include "vm/config/config.h"

#define MAX_KEYS 64 /* of one table */

struct load {
	yaml_parser_t parser;
	yaml_event_t ev; /* the current event */
	const char *name;
	char path[128]; /* "disks[1].cache: ", in front of messages */
	struct err *e;
};

static const char *event_name(const yaml_event_t *ev)
{
	switch (ev->type) {
	case YAML_SCALAR_EVENT:
		return "a single value";
	case YAML_SEQUENCE_START_EVENT:
		return "a list";
	case YAML_MAPPING_START_EVENT:
		return "a mapping";
	case YAML_ALIAS_EVENT:
		return "an alias (not supported: write the value out)";
	default:
		return "nothing";
	}
}

static const char *want_name(const struct opt *o)
{
	switch (o->type) {
	case OPT_FLAG:
	case OPT_BOOL:
		return "on or off";
	case OPT_UINT:
	case OPT_U64:
		return "a number";
	case OPT_SIZE:
		return "a size such as 512M";
	case OPT_LIST:
		return "a list";
	default:
		return "a text";
	}
}

/* The message that is in l->e, with file, place and path in front. */
static int put_place(struct load *l, const yaml_mark_t *at, int code)
{
	char text[sizeof(l->e->msg)];

	snprintf(text, sizeof(text), "%s", err_msg(l->e));
	return err_set(l->e, code, "%s: line %zu, column %zu: %s%s", l->name, at->line + 1,
		at->column + 1, l->path, text);
}

static int next(struct load *l)
{
	yaml_mark_t at;

	yaml_event_delete(&l->ev);
	memset(&l->ev, 0, sizeof(l->ev));
	if (yaml_parser_parse(&l->parser, &l->ev)) {
		if (l->ev.type != YAML_SCALAR_EVENT ||
			strlen((char *)l->ev.data.scalar.value) == l->ev.data.scalar.length)
			return 0;
		err_set(l->e, -EINVAL, "a NUL inside a text");
		return put_place(l, &l->ev.start_mark, -EINVAL);
	}
	at = l->parser.error == YAML_READER_ERROR ? l->parser.mark : l->parser.problem_mark;
	l->path[0] = '\0';
	if (l->parser.error == YAML_MEMORY_ERROR)
		err_set(l->e, -ENOMEM, "out of memory");
	else
		err_set(l->e, -EINVAL, "not YAML: %s", l->parser.problem ?: "cannot be read");
	return put_place(l, &at, l->e->code);
}

static int wrong_type(struct load *l, const char *want)
{
	err_set(l->e, -EINVAL, "%s instead of %s", event_name(&l->ev), want);
	return put_place(l, &l->ev.start_mark, -EINVAL);
}

static bool is_null(const yaml_event_t *ev)
{
	const char *text = (const char *)ev->data.scalar.value;

	return ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (!text[0] || !strcmp(text, "~") || !strcmp(text, "null"));
}

static int set_scalar(struct load *l, const struct opt *o, void *obj)
{
	int r;

	if (is_null(&l->ev)) {
		err_set(l->e, -EINVAL, "no value: give %s or leave the key out", want_name(o));
		return put_place(l, &l->ev.start_mark, -EINVAL);
	}
	r = options_set(o, obj, (const char *)l->ev.data.scalar.value, l->e);
	return r ? put_place(l, &l->ev.start_mark, r) : 0;
}

static int read_mapping(struct load *l, const struct opt *opts, void *obj);

/* The elements of a list; the current event is its start. */
static int read_list(struct load *l, const struct opt *o, void *obj)
{
	size_t stem = strlen(l->path) - 2; /* without ": " */
	void *elem;
	int r;

	if (l->ev.type != YAML_SEQUENCE_START_EVENT)
		return wrong_type(l, "a list");
	for (unsigned i = 0;; i++) {
		snprintf(l->path + stem, sizeof(l->path) - stem, "[%u]: ", i);
		r = next(l);
		if (r || l->ev.type == YAML_SEQUENCE_END_EVENT)
			return r;
		if (l->ev.type == YAML_SCALAR_EVENT) {
			r = set_scalar(l, o, obj);
		} else if (l->ev.type == YAML_MAPPING_START_EVENT && o->sub) {
			elem = options_append(o, obj, l->e);
			if (!elem)
				return put_place(l, &l->ev.start_mark, l->e->code);
			r = read_mapping(l, o->sub, elem);
		} else {
			r = wrong_type(l, o->sub ? "a mapping or a text" : "a text");
		}
		if (r)
			return r;
	}
}

static int unknown_key(struct load *l, const struct opt *opts, const char *key)
{
	struct spell near = {0};

	for (const struct opt *o = opts; o->type != OPT_END; o++)
		if (o->key)
			spell_offer(&near, key, o->key);
	if (near.best)
		err_set(l->e, -EINVAL, "unknown key \"%.80s\": did you mean \"%s\"?", key,
			near.best);
	else
		err_set(l->e, -EINVAL, "unknown key \"%.80s\"", key);
	return put_place(l, &l->ev.start_mark, -EINVAL);
}

/* Keys and values up to the end of the mapping whose start is the current event. */
static int read_mapping(struct load *l, const struct opt *opts, void *obj)
{
	size_t outer = strlen(l->path);
	bool seen[MAX_KEYS] = {false};
	const struct opt *o;
	int r;

	for (;;) {
		l->path[outer] = '\0';
		r = next(l);
		if (r || l->ev.type == YAML_MAPPING_END_EVENT)
			return r;
		if (l->ev.type != YAML_SCALAR_EVENT)
			return wrong_type(l, "a key");
		o = options_by_key(opts, (const char *)l->ev.data.scalar.value);
		if (!o)
			return unknown_key(l, opts, (const char *)l->ev.data.scalar.value);
		if (o - opts >= MAX_KEYS || seen[o - opts]) {
			err_set(l->e, -EINVAL, "the key \"%s\" is there twice", o->key);
			return put_place(l, &l->ev.start_mark, -EINVAL);
		}
		seen[o - opts] = true;
		/* "disks[0]: " and then "cache: " */
		snprintf(l->path + outer, sizeof(l->path) - outer, "%s: ", o->key);
		r = next(l);
		if (r)
			return r;
		if (o->type == OPT_LIST)
			r = read_list(l, o, obj);
		else if (l->ev.type == YAML_SCALAR_EVENT)
			r = set_scalar(l, o, obj);
		else
			r = wrong_type(l, want_name(o));
		if (r)
			return r;
	}
}

static int read_document(struct load *l, struct vm_config *c)
{
	int r = next(l); /* stream start */

	if (r || (r = next(l)))
		return r;
	if (l->ev.type == YAML_STREAM_END_EVENT)
		return err_set(l->e, -EINVAL,
			"%s is empty: it should define a machine, as in \"memory: 1G\"", l->name);
	r = next(l);
	if (r)
		return r;
	if (l->ev.type != YAML_MAPPING_START_EVENT)
		return wrong_type(l, "a mapping of keys to values, as in \"memory: 1G\"");
	if ((r = read_mapping(l, vm_config_opts, c)) || (r = next(l)) || (r = next(l)))
		return r;
	l->path[0] = '\0';
	if (l->ev.type != YAML_STREAM_END_EVENT) {
		err_set(l->e, -EINVAL, "a second document: one file defines one machine");
		return put_place(l, &l->ev.start_mark, -EINVAL);
	}
	return 0;
}

int vm_config_parse_yaml(
	struct vm_config *c, const char *text, size_t len, const char *name, struct err *e)
{
	struct err own = {0};
	struct load l = {.name = name, .e = e ?: &own};
	int r;

	if (!yaml_parser_initialize(&l.parser))
		return err_set(e, -ENOMEM, "%s: out of memory", name);
	yaml_parser_set_input_string(&l.parser, (const unsigned char *)text, len);
	r = read_document(&l, c);
	yaml_event_delete(&l.ev);
	yaml_parser_delete(&l.parser);
	return r;
}

int vm_config_load(struct vm_config *c, const char *path, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	size_t len;
	int r = fs_read_file(path, VM_CONFIG_FILE_MAX, &text, &len, e);

	return r ?: vm_config_parse_yaml(c, text, len, path, e);
}
