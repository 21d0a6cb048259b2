#include "base/state/cbor_read.h"

#include <errno.h>
#include <inttypes.h>

#include <cbor.h>

#include "base/err.h"
#include "base/util.h"

#define SKIP_DEPTH 16

void cbor_read_init(struct cbor_read *r, const void *buf, size_t len)
{
	*r = (struct cbor_read){.p = buf, .len = len};
}

static void set(void *ctx, enum cbor_item_kind kind, uint64_t v, const uint8_t *s)
{
	*(struct cbor_item *)ctx = (struct cbor_item){kind, v, s};
}

static void on_u8(void *ctx, uint8_t v)
{
	set(ctx, CBOR_ITEM_UINT, v, NULL);
}

static void on_u16(void *ctx, uint16_t v)
{
	set(ctx, CBOR_ITEM_UINT, v, NULL);
}

static void on_u32(void *ctx, uint32_t v)
{
	set(ctx, CBOR_ITEM_UINT, v, NULL);
}

static void on_u64(void *ctx, uint64_t v)
{
	set(ctx, CBOR_ITEM_UINT, v, NULL);
}

static void on_n8(void *ctx, uint8_t v)
{
	set(ctx, CBOR_ITEM_NEGINT, v, NULL);
}

static void on_n16(void *ctx, uint16_t v)
{
	set(ctx, CBOR_ITEM_NEGINT, v, NULL);
}

static void on_n32(void *ctx, uint32_t v)
{
	set(ctx, CBOR_ITEM_NEGINT, v, NULL);
}

static void on_n64(void *ctx, uint64_t v)
{
	set(ctx, CBOR_ITEM_NEGINT, v, NULL);
}

static void on_bytes(void *ctx, cbor_data s, size_t n)
{
	set(ctx, CBOR_ITEM_BYTES, n, s);
}

static void on_text(void *ctx, cbor_data s, size_t n)
{
	set(ctx, CBOR_ITEM_TEXT, n, s);
}

static void on_array(void *ctx, size_t n)
{
	set(ctx, CBOR_ITEM_ARRAY, n, NULL);
}

static void on_map(void *ctx, size_t n)
{
	set(ctx, CBOR_ITEM_MAP, n, NULL);
}

static void on_bool(void *ctx, bool v)
{
	set(ctx, CBOR_ITEM_BOOL, v, NULL);
}

int cbor_read_item(struct cbor_read *r, struct cbor_item *it, struct err *e)
{
	struct cbor_callbacks cb = cbor_empty_callbacks;
	struct cbor_decoder_result res;

	cb.uint8 = on_u8;
	cb.uint16 = on_u16;
	cb.uint32 = on_u32;
	cb.uint64 = on_u64;
	cb.negint8 = on_n8;
	cb.negint16 = on_n16;
	cb.negint32 = on_n32;
	cb.negint64 = on_n64;
	cb.byte_string = on_bytes;
	cb.string = on_text;
	cb.array_start = on_array;
	cb.map_start = on_map;
	cb.boolean = on_bool;
	*it = (struct cbor_item){.kind = CBOR_ITEM_OTHER};
	if (r->off >= r->len)
		return err_set(e, -EBADMSG, "offset %zu: the stream ends in the middle", r->off);
	res = cbor_stream_decode(r->p + r->off, r->len - r->off, &cb, it);
	if (res.status == CBOR_DECODER_NEDATA)
		return err_set(e, -EBADMSG, "offset %zu: the stream ends in the middle", r->off);
	if (res.status != CBOR_DECODER_FINISHED || !res.read || res.read > r->len - r->off)
		return err_set(e, -EBADMSG, "offset %zu: not CBOR", r->off);
	r->off += res.read;
	return 0;
}

int cbor_read_kind(
	struct cbor_read *r, enum cbor_item_kind kind, struct cbor_item *it, struct err *e)
{
	size_t at = r->off;
	int rc = cbor_read_item(r, it, e);

	if (rc)
		return rc;
	if (it->kind != kind)
		return err_set(e, -EINVAL, "offset %zu: %s where %s belongs", at,
			cbor_kind_name(it->kind), cbor_kind_name(kind));
	return 0;
}

int cbor_read_array(struct cbor_read *r, uint64_t *n, struct err *e)
{
	struct cbor_item it;
	int rc = cbor_read_kind(r, CBOR_ITEM_ARRAY, &it, e);

	if (rc)
		return rc;
	*n = it.v;
	/* each item is at least a byte: nobody needs to believe more */
	if (it.v > r->len - r->off)
		return err_set(e, -EBADMSG, "offset %zu: array of %" PRIu64 " items does not fit",
			r->off, it.v);
	return 0;
}

int cbor_read_map(struct cbor_read *r, uint64_t *n, struct err *e)
{
	struct cbor_item it;
	int rc = cbor_read_kind(r, CBOR_ITEM_MAP, &it, e);

	if (rc)
		return rc;
	*n = it.v;
	if (it.v > (r->len - r->off) / 2)
		return err_set(e, -EBADMSG, "offset %zu: map of %" PRIu64 " pairs does not fit",
			r->off, it.v);
	return 0;
}

static int skip(struct cbor_read *r, unsigned depth, struct err *e)
{
	struct cbor_item it;
	uint64_t n;
	int rc = cbor_read_item(r, &it, e);

	if (rc)
		return rc;
	if (it.kind != CBOR_ITEM_ARRAY && it.kind != CBOR_ITEM_MAP)
		return 0;
	if (depth >= SKIP_DEPTH)
		return err_set(
			e, -EBADMSG, "offset %zu: nested deeper than %u", r->off, SKIP_DEPTH);
	/* not doubled before it is bounded: it may be near 2^64 */
	if (it.v > r->len - r->off)
		return err_set(
			e, -EBADMSG, "offset %zu: %" PRIu64 " items do not fit", r->off, it.v);
	n = it.kind == CBOR_ITEM_MAP ? it.v * 2 : it.v;
	for (uint64_t i = 0; i < n; i++) {
		rc = skip(r, depth + 1, e);
		if (rc)
			return rc;
	}
	return 0;
}

int cbor_read_skip(struct cbor_read *r, struct err *e)
{
	return skip(r, 0, e);
}

const char *cbor_kind_name(enum cbor_item_kind kind)
{
	static const char *const names[] = {
		[CBOR_ITEM_OTHER] = "something unexpected",
		[CBOR_ITEM_UINT] = "an integer",
		[CBOR_ITEM_NEGINT] = "a negative integer",
		[CBOR_ITEM_BYTES] = "a byte string",
		[CBOR_ITEM_TEXT] = "a text",
		[CBOR_ITEM_ARRAY] = "an array",
		[CBOR_ITEM_MAP] = "a map",
		[CBOR_ITEM_BOOL] = "a boolean",
	};

	return (unsigned)kind < ARRAY_SIZE(names) ? names[kind] : names[0];
}
