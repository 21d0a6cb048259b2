#include "base/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/state/cbor_read.h"
#include "base/err.h"
#include "base/state/impl.h"
#include "base/util.h"

/* Version of a run of inner objects in the stream, kept from parsing until their post_load. */
struct sub_version {
	const struct state_field *field;
	const void *staged; /* the object that has the field */
	unsigned version;
};

struct staged {
	void *copy; /* state_extent() bytes; NULL until the stream's object was read */
	unsigned version; /* of the stream's object */
};

struct loader {
	struct cbor_read in;
	struct err *e;
	struct staged *staged; /* one for each of objs */
	struct sub_version *subs;
	size_t nsubs, subs_cap;
	bool applied; /* vectors and blobs of the copies belong to the objects now */
};

static int sub_note(
	struct loader *l, const struct state_field *f, const void *obj, unsigned version)
{
	if (!f->sub->post_load)
		return 0;
	if (l->nsubs == l->subs_cap) {
		size_t cap = MAX(l->subs_cap * 2, (size_t)16);
		void *p = reallocarray(l->subs, cap, sizeof(*l->subs));

		if (!p)
			return err_set(l->e, -ENOMEM, "out of memory");
		l->subs = p;
		l->subs_cap = cap;
	}
	l->subs[l->nsubs++] = (struct sub_version){f, obj, version};
	return 0;
}

static unsigned sub_version(const struct loader *l, const struct state_field *f, const void *obj)
{
	for (size_t i = 0; i < l->nsubs; i++)
		if (l->subs[i].field == f && l->subs[i].staged == obj)
			return l->subs[i].version;
	return f->sub
		->version; /* the field was absent and holds the values that an absent field has */
}

static int read_int(struct loader *l, const struct state_field *f, void *obj, unsigned i)
{
	struct state_int k = state_int_of(f->type);
	unsigned bits = k.width * 8u - k.is_signed;
	uint64_t max = bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
	struct cbor_item it;
	int r = cbor_read_item(&l->in, &it, l->e);

	if (r)
		return r;
	if (k.is_bool) {
		if (it.kind != CBOR_ITEM_BOOL)
			return err_set(
				l->e, -EINVAL, "%s is not a boolean", cbor_kind_name(it.kind));
		state_int_put(f, obj, i, it.v);
		return 0;
	}
	if (it.kind == CBOR_ITEM_NEGINT && k.is_signed && it.v <= max) {
		state_int_put(f, obj, i, ~it.v);
		return 0;
	}
	if (it.kind != CBOR_ITEM_UINT)
		return err_set(l->e, -EINVAL, "%s does not fit", cbor_kind_name(it.kind));
	if (it.v > max)
		return err_set(l->e, -EINVAL, "%" PRIu64 " is above %" PRIu64, it.v, max);
	state_int_put(f, obj, i, it.v);
	return 0;
}

static int read_ints(struct loader *l, const struct state_field *f, void *obj)
{
	uint64_t n;
	int r;

	if (!state_int_of(f->type).is_array)
		return read_int(l, f, obj, 0);
	r = cbor_read_array(&l->in, &n, l->e);
	if (r)
		return r;
	if (n != f->count)
		return err_set(l->e, -EINVAL, "%" PRIu64 " values instead of %u", n, f->count);
	for (unsigned i = 0; !r && i < f->count; i++)
		r = read_int(l, f, obj, i);
	return r;
}

static int read_text(struct loader *l, const struct state_field *f, void *obj)
{
	struct cbor_item it;
	int r = cbor_read_kind(&l->in, CBOR_ITEM_TEXT, &it, l->e);

	if (r)
		return r;
	if (it.v >= f->size)
		return err_set(l->e, -EINVAL, "text of %" PRIu64 " bytes, at most %zu fit", it.v,
			f->size - 1);
	if (memchr(it.s, 0, it.v))
		return err_set(l->e, -EINVAL, "text has a NUL inside");
	memcpy((char *)obj + f->offset, it.s, it.v);
	return 0;
}

static int read_bytes(struct loader *l, const struct state_field *f, void *obj)
{
	struct cbor_item it;
	int r = cbor_read_kind(&l->in, CBOR_ITEM_BYTES, &it, l->e);
	void *p;

	if (r)
		return r;
	if (f->type == STATE_T_BYTES) {
		if (it.v != f->size)
			return err_set(
				l->e, -EINVAL, "%" PRIu64 " bytes instead of %zu", it.v, f->size);
		memcpy((char *)obj + f->offset, it.s, it.v);
		return 0;
	}
	if (it.v > f->size)
		return err_set(l->e, -EINVAL, "%" PRIu64 " bytes, at most %zu fit", it.v, f->size);
	if (!it.v)
		return 0;
	p = malloc(it.v);
	if (!p)
		return err_set(l->e, -ENOMEM, "out of memory");
	memcpy(p, it.s, it.v);
	*state_ptr(f, obj) = p;
	state_set_len(f, obj, (uint32_t)it.v);
	return 0;
}

static int read_object(struct loader *l, const struct state_desc *d, unsigned version, void *obj);

static int read_version(struct loader *l, const struct state_desc *d, unsigned *version)
{
	struct cbor_item it;
	int r = cbor_read_kind(&l->in, CBOR_ITEM_UINT, &it, l->e);

	if (r)
		return r;
	if (!it.v)
		return err_set(l->e, -EINVAL, "version 0 of %s does not exist", d->type);
	if (it.v > d->version)
		return err_set(l->e, -ENOTSUP,
			"version %" PRIu64 " of %s is newer than %u, which this program knows; "
			"load it with the program that saved it or a newer one",
			it.v, d->type, d->version);
	*version = (unsigned)it.v;
	return 0;
}

static int read_sub(struct loader *l, const struct state_field *f, void *obj)
{
	unsigned version;
	uint64_t n;
	int r = cbor_read_array(&l->in, &n, l->e);

	if (r)
		return r;
	if (!n)
		return err_set(l->e, -EINVAL, "the version is missing");
	n--;
	if (f->type == STATE_T_STRUCT ? n != f->count : n > f->count)
		return err_set(l->e, -EINVAL, "%" PRIu64 " elements, %s %u fit", n,
			f->type == STATE_T_STRUCT ? "exactly" : "at most", f->count);
	r = read_version(l, f->sub, &version);
	if (r)
		return r;
	r = sub_note(l, f, obj, version);
	if (r)
		return r;
	if (f->type == STATE_T_VEC && n) {
		*state_ptr(f, obj) = calloc(n, f->size);
		if (!*state_ptr(f, obj))
			return err_set(l->e, -ENOMEM, "out of memory");
		state_set_len(f, obj, (uint32_t)n);
	}
	for (uint32_t i = 0; i < n; i++) {
		r = read_object(l, f->sub, version, state_elem(f, obj, i));
		if (r)
			return r;
	}
	return 0;
}

/* The values that a field takes when the stream does not have it; `obj` is zeroed. */
static void put_absent(const struct state_field *f, void *obj)
{
	if (state_int_of(f->type).width)
		for (unsigned i = 0; i < f->count; i++)
			state_int_put(f, obj, i, f->absent);
	if (f->type != STATE_T_STRUCT)
		return;
	for (unsigned i = 0; i < f->count; i++)
		for (const struct state_field *g = f->sub->fields; g->type != STATE_T_END; g++)
			put_absent(g, state_elem(f, obj, i));
}

static int read_field(
	struct loader *l, const struct state_desc *d, unsigned version, void *obj, bool *seen)
{
	const struct state_field *f = d->fields;
	struct cbor_item key;
	bool optional;
	size_t len;
	int r = cbor_read_kind(&l->in, CBOR_ITEM_TEXT, &key, l->e);

	if (r)
		return r;
	len = key.v;
	optional = len && key.s[len - 1] == '?';
	len -= optional;
	while (f->type != STATE_T_END && (strlen(f->name) != len || memcmp(f->name, key.s, len)))
		f++;
	if (f->type == STATE_T_END) {
		if (optional)
			return cbor_read_skip(&l->in, l->e);
		return err_set(l->e, -EINVAL, "%s has no field \"%.*s\"", d->type,
			(int)MIN(key.v, (uint64_t)100), (const char *)key.s);
	}
	if (seen[f - d->fields])
		return err_set(l->e, -EINVAL, "field \"%s\" is there twice", f->name);
	seen[f - d->fields] = true;
	if (f->type == STATE_T_GONE ? version >= f->since : version < f->since)
		return err_set(l->e, -EINVAL, "version %u of %s has no field \"%s\"", version,
			d->type, f->name);
	if (f->type == STATE_T_GONE)
		r = cbor_read_skip(&l->in, l->e);
	else if (f->sub)
		r = read_sub(l, f, obj);
	else if (f->type == STATE_T_TEXT)
		r = read_text(l, f, obj);
	else if (f->type == STATE_T_BYTES || f->type == STATE_T_BLOB)
		r = read_bytes(l, f, obj);
	else
		r = read_ints(l, f, obj);
	return r ? err_wrap(l->e, "%s", f->name) : 0;
}

/* Reads one map of fields into the zeroed `obj`. */
static int read_object(struct loader *l, const struct state_desc *d, unsigned version, void *obj)
{
	bool seen[STATE_MAX_FIELDS] = {false};
	uint64_t n;
	int r = cbor_read_map(&l->in, &n, l->e);

	if (r)
		return r;
	for (uint64_t i = 0; i < n; i++) {
		r = read_field(l, d, version, obj, seen);
		if (r)
			return r;
	}
	for (const struct state_field *f = d->fields; f->type != STATE_T_END; f++) {
		if (seen[f - d->fields] || f->type == STATE_T_GONE)
			continue;
		if (version >= f->since && !f->optional)
			return err_set(l->e, -EINVAL, "field \"%s\" is missing", f->name);
		put_absent(f, obj);
	}
	if (!d->check)
		return 0;
	if (l->e)
		l->e->msg[0] = '\0';
	r = d->check(obj, version, l->e);
	if (r && l->e && !l->e->msg[0])
		return err_set(l->e, r, "%s cannot be in this state", d->type);
	return r;
}

static int read_key(struct loader *l, const char *want)
{
	struct cbor_item it;
	int r = cbor_read_kind(&l->in, CBOR_ITEM_TEXT, &it, l->e);

	if (r)
		return r;
	if (it.v != strlen(want) || memcmp(it.s, want, it.v))
		return err_set(l->e, -EBADMSG, "the key \"%s\" is not where it belongs", want);
	return 0;
}

static bool item_is(const struct cbor_item *it, const char *text)
{
	return it->v == strlen(text) && !memcmp(it->s, text, it->v);
}

static int read_top_object(struct loader *l, const struct state_obj *objs, unsigned n)
{
	struct cbor_item id, type;
	unsigned i = 0;
	uint64_t keys;
	int r = cbor_read_map(&l->in, &keys, l->e);

	if (!r && keys != 4)
		r = err_set(l->e, -EBADMSG, "an object has %" PRIu64 " keys instead of 4", keys);
	if (r || (r = read_key(l, "id")) || (r = cbor_read_kind(&l->in, CBOR_ITEM_TEXT, &id, l->e)))
		return r;
	while (i < n && !item_is(&id, objs[i].id))
		i++;
	if (i == n)
		return err_set(l->e, -EINVAL, "object %.*s of the stream is not in this machine",
			(int)MIN(id.v, (uint64_t)100), (const char *)id.s);
	if (l->staged[i].copy)
		return err_set(l->e, -EINVAL, "object %s is there twice", objs[i].id);
	if ((r = read_key(l, "type")) || (r = cbor_read_kind(&l->in, CBOR_ITEM_TEXT, &type, l->e)))
		return r;
	if (!item_is(&type, objs[i].desc->type))
		return err_set(l->e, -EINVAL, "%s is a %.*s in the stream and a %s in this machine",
			objs[i].id, (int)MIN(type.v, (uint64_t)100), (const char *)type.s,
			objs[i].desc->type);
	l->staged[i].copy = calloc(1, state_extent(objs[i].desc));
	if (!l->staged[i].copy)
		return err_set(l->e, -ENOMEM, "out of memory");
	if (!(r = read_key(l, "version")) &&
		!(r = read_version(l, objs[i].desc, &l->staged[i].version)) &&
		!(r = read_key(l, "fields")))
		r = read_object(l, objs[i].desc, l->staged[i].version, l->staged[i].copy);
	return r ? err_wrap(l->e, "%s", objs[i].id) : 0;
}

/*
 * What does not depend on the objects: ours, whole, not damaged. Leaves the reader at the objects.
 */
static int read_frame(struct loader *l)
{
	uint8_t md[STATE_DIGEST_LEN];
	struct cbor_item it;
	uint64_t n;

	if (cbor_read_map(&l->in, &n, NULL) || n != 3 || read_key(l, "lodge") ||
		cbor_read_kind(&l->in, CBOR_ITEM_UINT, &it, NULL))
		return err_set(l->e, -EBADMSG, "this is not a Lodge state stream");
	if (it.v != STATE_FORMAT)
		return err_set(l->e, -ENOTSUP, "format %" PRIu64 "; this program knows %u", it.v,
			STATE_FORMAT);
	if (l->in.len < l->in.off + sizeof(md))
		return err_set(l->e, -EBADMSG, "the stream is cut");
	if (!EVP_Digest(l->in.p, l->in.len - sizeof(md), md, NULL, EVP_sha256(), NULL))
		return err_set(l->e, -ENOMEM, "cannot compute SHA-256");
	if (memcmp(md, l->in.p + l->in.len - sizeof(md), sizeof(md)))
		return err_set(
			l->e, -EBADMSG, "the digest does not match: the stream is cut or damaged");
	return read_key(l, "objects");
}

static int read_stream(struct loader *l, const struct state_obj *objs, unsigned n)
{
	struct cbor_item it;
	uint64_t count;
	int r = read_frame(l);

	if (r || (r = cbor_read_array(&l->in, &count, l->e)))
		return r;
	for (uint64_t i = 0; i < count; i++) {
		r = read_top_object(l, objs, n);
		if (r)
			return r;
	}
	for (unsigned i = 0; i < n; i++)
		if (!l->staged[i].copy && !objs[i].desc->younger)
			return err_set(l->e, -EINVAL, "the stream has no object %s", objs[i].id);
	if ((r = read_key(l, "digest")) || (r = cbor_read_kind(&l->in, CBOR_ITEM_BYTES, &it, l->e)))
		return r;
	if (it.v != STATE_DIGEST_LEN || l->in.off != l->in.len)
		return err_set(l->e, -EBADMSG, "the digest is not at the end");
	return 0;
}

/* Moves the described fields of `from` into `obj`; what a load replaces is freed. Cannot fail. */
static void apply(const struct state_desc *d, const void *from, void *obj)
{
	for (const struct state_field *f = d->fields; f->type != STATE_T_END; f++) {
		switch (f->type) {
		case STATE_T_GONE:
			break;
		case STATE_T_VEC:
			for (uint32_t i = 0, n = state_len(f, obj); i < n; i++)
				state_free(f->sub, state_elem(f, obj, i));
			__attribute__((fallthrough));
		case STATE_T_BLOB:
			free(*state_ptr(f, obj));
			*state_ptr(f, obj) = *state_ptr(f, from);
			state_set_len(f, obj, state_len(f, from));
			break;
		case STATE_T_STRUCT:
			for (unsigned i = 0; i < f->count; i++)
				apply(f->sub, state_elem(f, from, i), state_elem(f, obj, i));
			break;
		default:
			memcpy((char *)obj + f->offset, (const char *)from + f->offset,
				f->size * f->count);
		}
	}
}

static int post_load(const struct loader *l, const struct state_desc *d, const void *from,
	void *obj, unsigned version)
{
	int r;

	for (const struct state_field *f = d->fields; f->type != STATE_T_END; f++) {
		unsigned v;

		if (!f->sub)
			continue;
		v = f->sub->post_load ? sub_version(l, f, from) : f->sub->version;
		for (uint32_t i = 0, n = state_elems(f, obj); i < n; i++) {
			const void *inner = f->type == STATE_T_VEC ? state_elem(f, obj, i)
								   : state_elem(f, from, i);

			r = post_load(l, f->sub, inner, state_elem(f, obj, i), v);
			if (r)
				return r;
		}
	}
	if (!d->post_load)
		return 0;
	if (l->e)
		l->e->msg[0] = '\0';
	r = d->post_load(obj, version, l->e);
	if (r && l->e && !l->e->msg[0])
		return err_set(l->e, r, "%s refuses the state", d->type);
	return r;
}

static int apply_all(struct loader *l, const struct state_obj *objs, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (l->staged[i].copy)
			apply(objs[i].desc, l->staged[i].copy, objs[i].obj);
	l->applied = true;
	for (unsigned i = 0; i < n; i++) {
		int r = 0;

		if (l->staged[i].copy)
			r = post_load(l, objs[i].desc, l->staged[i].copy, objs[i].obj,
				l->staged[i].version);

		if (r)
			return err_wrap(l->e, "%s", objs[i].id);
	}
	return 0;
}

int state_load(
	const struct state_obj *objs, unsigned n, const uint8_t *buf, size_t len, struct err *e)
{
	struct err own = {0};
	struct loader l = {.e = e ? e : &own};
	int r = 0;

	for (unsigned i = 0; i < n; i++) {
		r = state_desc_check(objs[i].desc, l.e);
		if (r)
			return r;
	}
	cbor_read_init(&l.in, buf, len);
	l.staged = calloc(n ? n : 1, sizeof(*l.staged));
	if (!l.staged)
		return err_set(l.e, -ENOMEM, "state: out of memory");
	r = read_stream(&l, objs, n);
	if (!r)
		r = apply_all(&l, objs, n);
	for (unsigned i = 0; i < n; i++) {
		if (l.staged[i].copy && !l.applied)
			state_free(objs[i].desc, l.staged[i].copy);
		free(l.staged[i].copy);
	}
	free(l.staged);
	free(l.subs);
	if (r)
		err_wrap(l.e, "load state");
	return r;
}
