#include "base/state.h"

#include <errno.h>
#include <string.h>

#include <cbor.h>
#include <openssl/evp.h>

#include "base/err.h"
#include "base/state/impl.h"
#include "base/util.h"

/* A growing byte buffer; the first failure stays in `failed` and later writes do nothing. */
struct out {
	uint8_t *p;
	size_t len, cap;
	bool failed;
};

static uint8_t *room(struct out *o, size_t n)
{
	if (o->failed)
		return NULL;
	if (o->cap - o->len < n) {
		size_t cap = MAX(o->cap * 2, align_up(o->len + n, 4096));
		uint8_t *p = realloc(o->p, cap);

		if (!p) {
			o->failed = true;
			return NULL;
		}
		o->p = p;
		o->cap = cap;
	}
	return o->p + o->len;
}

/* One CBOR head (major type and number) is at most nine bytes: RFC 8949 section 3. */
typedef size_t (*head_fn)(size_t, unsigned char *, size_t);

static void put_head(struct out *o, head_fn fn, size_t n)
{
	uint8_t *p = room(o, 9);

	if (p)
		o->len += fn(n, p, 9);
}

static void put_raw(struct out *o, const void *data, size_t n)
{
	uint8_t *p = room(o, n);

	if (!p)
		return;
	if (n)
		memcpy(p, data, n);
	o->len += n;
}

static void put_bytes(struct out *o, const void *data, size_t n)
{
	put_head(o, cbor_encode_bytestring_start, n);
	put_raw(o, data, n);
}

static void put_text(struct out *o, const char *s, size_t n)
{
	put_head(o, cbor_encode_string_start, n);
	put_raw(o, s, n);
}

static void put_key(struct out *o, const char *s)
{
	put_text(o, s, strlen(s));
}

static void put_uint(struct out *o, uint64_t v)
{
	uint8_t *p = room(o, 9);

	if (p)
		o->len += cbor_encode_uint(v, p, 9);
}

static void put_int(struct out *o, const struct state_field *f, const void *obj, unsigned i)
{
	struct state_int k = state_int_of(f->type);
	uint64_t v = state_int_get(f, obj, i);
	uint8_t *p;

	if (!k.is_bool && !(k.is_signed && (int64_t)v < 0)) {
		put_uint(o, v);
		return;
	}
	p = room(o, 9);
	if (!p)
		return;
	if (k.is_bool)
		o->len += cbor_encode_bool(v, p, 9);
	else
		o->len += cbor_encode_negint(~v, p, 9); /* the wire has -1 - value */
}

static int put_fields(struct out *o, const struct state_desc *d, const void *obj, struct err *e);

static int put_sub(struct out *o, const struct state_field *f, const void *obj, struct err *e)
{
	uint32_t n = state_elems(f, obj);
	int r;

	if (n > f->count)
		return err_set(e, -EINVAL, "%s: %u elements, at most %u fit", f->name, n, f->count);
	put_head(o, cbor_encode_array_start, (size_t)n + 1);
	put_uint(o, f->sub->version);
	for (uint32_t i = 0; i < n; i++) {
		r = put_fields(o, f->sub, state_elem(f, obj, i), e);
		if (r)
			return err_wrap(e, "%s", f->name);
	}
	return 0;
}

static int put_value(struct out *o, const struct state_field *f, const void *obj, struct err *e)
{
	const char *p = (const char *)obj + f->offset;

	switch (f->type) {
	case STATE_T_BYTES:
		put_bytes(o, p, f->size);
		return 0;
	case STATE_T_TEXT:
		put_text(o, p, strnlen(p, f->size - 1));
		return 0;
	case STATE_T_BLOB:
		if (state_len(f, obj) > f->size)
			return err_set(e, -EINVAL, "%s: %u bytes, at most %zu fit", f->name,
				state_len(f, obj), f->size);
		put_bytes(o, *state_ptr(f, obj), state_len(f, obj));
		return 0;
	case STATE_T_STRUCT:
	case STATE_T_VEC:
		return put_sub(o, f, obj, e);
	default:
		if (state_int_of(f->type).is_array)
			put_head(o, cbor_encode_array_start, f->count);
		for (unsigned i = 0; i < f->count; i++)
			put_int(o, f, obj, i);
		return 0;
	}
}

static int put_fields(struct out *o, const struct state_desc *d, const void *obj, struct err *e)
{
	size_t n = 0;
	int r;

	for (const struct state_field *f = d->fields; f->type != STATE_T_END; f++)
		n += f->type != STATE_T_GONE;
	put_head(o, cbor_encode_map_start, n);
	for (const struct state_field *f = d->fields; f->type != STATE_T_END; f++) {
		size_t len = strlen(f->name);

		if (f->type == STATE_T_GONE)
			continue;
		put_head(o, cbor_encode_string_start, len + f->optional);
		put_raw(o, f->name, len);
		put_raw(o, "?", f->optional);
		r = put_value(o, f, obj, e);
		if (r)
			return r;
	}
	return 0;
}

static int put_objects(struct out *o, const struct state_obj *objs, unsigned n, struct err *e)
{
	put_key(o, "objects");
	put_head(o, cbor_encode_array_start, n);
	for (unsigned i = 0; i < n; i++) {
		int r = state_desc_check(objs[i].desc, e);

		if (r)
			return r;
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(objs[i].id, objs[j].id))
				return err_set(e, -EINVAL, "state: two objects have the id %s",
					objs[i].id);
		state_pre_save(objs[i].desc, objs[i].obj);
		put_head(o, cbor_encode_map_start, 4);
		put_key(o, "id");
		put_key(o, objs[i].id);
		put_key(o, "type");
		put_key(o, objs[i].desc->type);
		put_key(o, "version");
		put_uint(o, objs[i].desc->version);
		put_key(o, "fields");
		r = put_fields(o, objs[i].desc, objs[i].obj, e);
		if (r)
			return err_wrap(e, "state of %s", objs[i].id);
	}
	return 0;
}

void state_prepare(void)
{
	uint8_t md[STATE_DIGEST_LEN];

	(void)EVP_Digest(md, 0, md, NULL, EVP_sha256(), NULL);
}

int state_save(
	const struct state_obj *objs, unsigned n, uint8_t **out, size_t *out_len, struct err *e)
{
	uint8_t md[STATE_DIGEST_LEN];
	struct out o = {0};
	int r;

	put_head(&o, cbor_encode_map_start, 3);
	put_key(&o, "lodge");
	put_uint(&o, STATE_FORMAT);
	r = put_objects(&o, objs, n, e);
	if (r)
		goto fail;
	put_key(&o, "digest");
	put_head(&o, cbor_encode_bytestring_start, STATE_DIGEST_LEN);
	r = err_set(e, -ENOMEM, "state: out of memory");
	if (o.failed || !EVP_Digest(o.p, o.len, md, NULL, EVP_sha256(), NULL))
		goto fail;
	put_raw(&o, md, sizeof(md));
	if (o.failed)
		goto fail;
	if (e)
		*e = (struct err){0};
	*out = o.p;
	*out_len = o.len;
	return 0;
fail:
	free(o.p);
	return r;
}
