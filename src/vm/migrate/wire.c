#include "vm/migrate/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "vm/migrate/blocks.h"

#define MAGIC 0x474d444cu /* "LDMG" */
#define AT_TYPE 4
#define AT_FLAGS 6
#define AT_LEN 8
#define AT_CRC 12
#define AT_ARG 16
#define AT_SEQ 24

#define REC_AT_COUNT 4
#define REC_AT_FIRST 8
#define REC_LEN_BITS 24 /* kind in the top 8 bits of the first word, length of the data below */

#define LEVEL 1
#define ROOM (MIG_BATCH * (MIG_PAGE + MIG_RECORD) + 64u * 1024) /* of a payload */

/* ---- messages ---- */

uint32_t mig_payload_max(unsigned type)
{
	static const uint32_t max[MIG_TYPES] = {[MIG_HELLO] = 4u << 20,
		[MIG_JOIN] = MIG_ID,
		[MIG_PAGES] = 2 * ROOM,
		[MIG_ROUND] = 1,
		[MIG_STATE] = MIG_PAYLOAD_MAX,
		[MIG_SWITCH] = 1,
		[MIG_GO] = 1,
		[MIG_WELCOME] = 1u << 20,
		[MIG_ACK] = 1,
		[MIG_READY] = 1,
		[MIG_RUNNING] = 1,
		[MIG_REFUSED] = 4096,
		[MIG_HOT] = 8 * MIG_HOT_MAX,
		[MIG_LACK] = MIG_MAP_MAX,
		[MIG_WANT] = 8 * MIG_WANT_MAX,
		[MIG_PUSH] = 1,
		[MIG_WHOLE] = 1,
		[MIG_RECOVER] = MIG_ID,
		[MIG_DISK] = MIG_BLOCK_MAX,
		[MIG_NEIGHBOURS] = 1u << 20};

	return type < MIG_TYPES ? max[type] : 0;
}

static uint32_t crc_of(const uint8_t *head, const void *payload, uint32_t len)
{
	uint8_t copy[MIG_HEAD];

	memcpy(copy, head, MIG_HEAD);
	put_le32(copy + AT_CRC, 0);
	return crc32c(crc32c(0, copy, MIG_HEAD), payload, len);
}

void mig_head_put(uint8_t head[MIG_HEAD], enum mig_type type, uint64_t arg, uint64_t seq,
	const void *payload, uint32_t len)
{
	put_le32(head, MAGIC);
	put_le16(head + AT_TYPE, (uint16_t)type);
	put_le16(head + AT_FLAGS, 0);
	put_le32(head + AT_LEN, len);
	put_le64(head + AT_ARG, arg);
	put_le64(head + AT_SEQ, seq);
	put_le32(head + AT_CRC, crc_of(head, payload, len));
}

int mig_head_get(const uint8_t head[MIG_HEAD], uint64_t seq, struct mig_head *out, struct err *e)
{
	*out = (struct mig_head){.type = get_le16(head + AT_TYPE),
		.flags = get_le16(head + AT_FLAGS),
		.len = get_le32(head + AT_LEN),
		.crc = get_le32(head + AT_CRC),
		.arg = get_le64(head + AT_ARG),
		.seq = get_le64(head + AT_SEQ)};
	if (get_le32(head) != MAGIC)
		return err_set(e, -EBADMSG, "the stream is not a migration, or is damaged");
	if (!mig_payload_max(out->type) || out->flags)
		return err_set(e, -EBADMSG, "the stream has a message of unknown kind %u.%u",
			out->type, out->flags);
	if (out->len > mig_payload_max(out->type))
		return err_set(
			e, -EBADMSG, "the stream has a message of %u bytes, too many", out->len);
	if (out->seq != seq)
		return err_set(e, -EBADMSG,
			"the stream has message %llu where %llu should be: some are lost or "
			"repeated",
			(unsigned long long)out->seq, (unsigned long long)seq);
	return 0;
}

int mig_payload_check(
	const uint8_t head[MIG_HEAD], const void *payload, uint32_t len, struct err *e)
{
	return crc_of(head, payload, len) == get_le32(head + AT_CRC)
		       ? 0
		       : err_set(e, -EBADMSG, "the stream is damaged (checksum)");
}

/* ---- packing ---- */

/* What was sent of pages that were sent more than once. */
struct cache {
	uint64_t entries; /* a power of two; 0: none yet */
	uint64_t *page; /* number + 1 */
	uint8_t *data;
};

struct mig_pack {
	uint8_t *buf; /* ROOM */
	uint32_t len;
	uint64_t about;
	unsigned data; /* pages with data in buf */
	uint8_t *zeroes; /* the last record, when it is of that kind and can be made longer */
	ZSTD_CCtx *zstd;
	struct cache cache;
	struct mig_pack_stat st;
};

int mig_pack_create(struct mig_pack **out, struct err *e)
{
	struct mig_pack *p = calloc(1, sizeof(*p));

	if (p) {
		p->buf = malloc(ROOM);
		p->zstd = ZSTD_createCCtx();
	}
	if (!p || !p->buf || !p->zstd) {
		mig_pack_free(p);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, LEVEL);
	*out = p;
	return 0;
}

void mig_pack_free(struct mig_pack *p)
{
	if (!p)
		return;
	ZSTD_freeCCtx(p->zstd);
	free(p->cache.page);
	free(p->cache.data);
	free(p->buf);
	free(p);
}

void mig_pack_forget(struct mig_pack *p)
{
	free(p->cache.page);
	free(p->cache.data);
	p->cache = (struct cache){0};
}

/* Without memory there are no deltas. */
static void cache_make(struct cache *c, uint64_t bytes)
{
	uint64_t n = 1;

	while (n * 2 * MIG_PAGE <= bytes)
		n *= 2;
	c->page = calloc(n, sizeof(*c->page));
	c->data = malloc(n * MIG_PAGE);
	if (c->page && c->data)
		c->entries = n;
}

static uint8_t *cache_find(struct mig_pack *p, uint64_t page, bool *hit)
{
	struct cache *c = &p->cache;
	uint64_t slot;

	*hit = false;
	if (!c->entries)
		return NULL;
	slot = (page * 0x9e3779b97f4a7c15ull >> 20) & (c->entries - 1);
	*hit = c->page[slot] == page + 1;
	c->page[slot] = page + 1;
	return c->data + slot * MIG_PAGE;
}

static bool is_zero(const uint8_t *p)
{
	return !p[0] && !memcmp(p, p + 1, MIG_PAGE - 1);
}

static uint8_t *record(
	struct mig_pack *p, enum mig_kind kind, uint64_t first, uint32_t count, uint32_t len)
{
	uint8_t *r = p->buf + p->len;

	p->zeroes = kind == MIG_ZERO ? r : NULL;
	put_le32(r, (uint32_t)kind << REC_LEN_BITS | len);
	put_le32(r + REC_AT_COUNT, count);
	put_le64(r + REC_AT_FIRST, first);
	p->len += MIG_RECORD + len;
	p->about += count;
	p->st.pages[kind] += count;
	return r + MIG_RECORD;
}

static void put_raw(struct mig_pack *p, uint64_t first, unsigned n, const uint8_t *pages)
{
	uint8_t *to = record(p, MIG_RAW, first, n, n * MIG_PAGE);

	/* In mig_pack_room() a zero page before it has left a gap: its record is smaller. */
	if (to != pages)
		memmove(to, pages, (size_t)n * MIG_PAGE);
	p->data += n;
}

/* `prefix` NULL: without. False: it did not get smaller. */
static bool put_zstd(
	struct mig_pack *p, uint64_t first, unsigned n, const uint8_t *pages, const uint8_t *prefix)
{
	size_t len = (size_t)n * MIG_PAGE, room = len - len / 8, got;
	uint64_t began = clock_mono_ns();

	if (prefix)
		ZSTD_CCtx_refPrefix(p->zstd, prefix, MIG_PAGE);
	got = ZSTD_compress2(p->zstd, p->buf + p->len + MIG_RECORD, room, pages, len);
	p->st.ns += clock_mono_ns() - began;
	p->st.raw += len;
	if (ZSTD_isError(got)) {
		p->st.packed += len;
		return false;
	}
	p->st.packed += got;
	record(p, prefix ? MIG_DELTA : MIG_ZSTD, first, n, (uint32_t)got);
	p->data += n;
	return true;
}

static void put_run(struct mig_pack *p, const struct mig_pack_opts *o, uint64_t first, unsigned n,
	const uint8_t *pages)
{
	if (!o->zstd || !put_zstd(p, first, n, pages, NULL))
		put_raw(p, first, n, pages);
}

/* A page that went before, and is remembered, goes as what differs. */
static bool put_delta(struct mig_pack *p, uint64_t page, const uint8_t *now)
{
	bool hit, done = false;
	uint8_t *old = cache_find(p, page, &hit);

	if (!old)
		return false;
	if (hit)
		done = put_zstd(p, page, 1, now, old);
	memcpy(old, now, MIG_PAGE);
	return done;
}

static void put_zero(struct mig_pack *p, uint64_t page)
{
	bool hit;
	uint8_t *old = cache_find(p, page, &hit);

	if (old)
		memset(old, 0, MIG_PAGE);
	if (p->zeroes &&
		get_le64(p->zeroes + REC_AT_FIRST) + get_le32(p->zeroes + REC_AT_COUNT) == page) {
		put_le32(p->zeroes + REC_AT_COUNT, get_le32(p->zeroes + REC_AT_COUNT) + 1);
		p->about++;
		p->st.pages[MIG_ZERO]++;
		return;
	}
	record(p, MIG_ZERO, page, 1, 0);
}

static bool fits(const struct mig_pack *p, unsigned n)
{
	return p->data + n <= MIG_BATCH && p->len + n * (MIG_PAGE + MIG_RECORD) <= ROOM;
}

void *mig_pack_room(struct mig_pack *p, unsigned n)
{
	return fits(p, n) ? p->buf + p->len + MIG_RECORD : NULL;
}

bool mig_pack_add(struct mig_pack *p, const struct mig_pack_opts *o, uint64_t first, unsigned n,
	const void *pages, uint64_t had)
{
	const uint8_t *at = pages;
	unsigned run = 0; /* pages before i that wait to go together */

	if (!fits(p, n))
		return false;
	if (o->zstd && o->cache && !p->cache.page)
		cache_make(&p->cache, o->cache);
	else if (!o->cache && p->cache.page)
		mig_pack_forget(p); /* what goes now would not be remembered */
	for (unsigned i = 0; i <= n; i++) {
		const uint8_t *page = at + (size_t)i * MIG_PAGE;
		bool again = i < n && had >> i & 1;
		bool zero = i < n && is_zero(page);
		bool alone = i == n || zero || (o->zstd && o->cache && again);

		if (alone && run) {
			put_run(p, o, first + i - run, run, page - (size_t)run * MIG_PAGE);
			run = 0;
		}
		if (i == n)
			break;
		if (zero && again)
			put_zero(p, first + i);
		else if (!zero && !(alone && put_delta(p, first + i, page)))
			run++;
	}
	return true;
}

uint32_t mig_pack_take(struct mig_pack *p, const void **payload, uint64_t *about)
{
	uint32_t len = p->len;

	*payload = p->buf;
	*about = p->about;
	p->len = 0;
	p->about = 0;
	p->data = 0;
	p->zeroes = NULL;
	return len;
}

void mig_pack_stat(const struct mig_pack *p, struct mig_pack_stat *out)
{
	*out = p->st;
}

/* ---- unpacking ---- */

struct mig_unpack {
	ZSTD_DCtx *zstd;
	uint8_t *pages; /* MIG_BATCH */
	uint8_t old[MIG_PAGE];
};

int mig_unpack_create(struct mig_unpack **out, struct err *e)
{
	struct mig_unpack *u = calloc(1, sizeof(*u));

	if (u) {
		u->zstd = ZSTD_createDCtx();
		u->pages = malloc((size_t)MIG_BATCH * MIG_PAGE);
	}
	if (!u || !u->zstd || !u->pages) {
		mig_unpack_free(u);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	*out = u;
	return 0;
}

void mig_unpack_free(struct mig_unpack *u)
{
	if (!u)
		return;
	ZSTD_freeDCtx(u->zstd);
	free(u->pages);
	free(u);
}

struct rec {
	unsigned kind;
	uint32_t len, count;
	uint64_t first;
	const uint8_t *data;
};

static bool possible(const struct rec *r, uint32_t left, const struct mig_sink *s)
{
	if (r->kind >= MIG_KINDS || !r->count || r->len > left)
		return false;
	if (r->first >= s->pages || r->count > s->pages - r->first)
		return false;
	switch (r->kind) {
	case MIG_ZERO:
		return !r->len;
	case MIG_RAW:
		return r->count <= MIG_BATCH && r->len == r->count * MIG_PAGE;
	case MIG_ZSTD:
		return r->count <= MIG_BATCH && r->len;
	default:
		return r->count == 1 && r->len;
	}
}

static int inflate_one(
	struct mig_unpack *u, const struct rec *r, const struct mig_sink *s, struct err *e)
{
	size_t want = (size_t)r->count * MIG_PAGE, got;
	int rc;

	if (r->kind == MIG_DELTA) {
		rc = s->get(s->ctx, r->first, u->old);
		if (rc)
			return err_sys(e, rc, "page %llu", (unsigned long long)r->first);
		ZSTD_DCtx_refPrefix(u->zstd, u->old, MIG_PAGE);
	}
	got = ZSTD_decompressDCtx(u->zstd, u->pages, want, r->data, r->len);
	if (got != want) {
		ZSTD_DCtx_reset(u->zstd, ZSTD_reset_session_and_parameters);
		return err_set(e, -EBADMSG, "the stream is damaged: page %llu does not unpack",
			(unsigned long long)r->first);
	}
	rc = s->put(s->ctx, r->first, r->count, u->pages);
	return rc ? err_sys(e, rc, "page %llu", (unsigned long long)r->first) : 0;
}

static int take(struct mig_unpack *u, const struct rec *r, const struct mig_sink *s, struct err *e)
{
	int rc;

	if (r->kind == MIG_ZSTD || r->kind == MIG_DELTA)
		return inflate_one(u, r, s, e);
	rc = r->kind == MIG_ZERO ? s->zero(s->ctx, r->first, r->count)
				 : s->put(s->ctx, r->first, r->count, r->data);
	return rc ? err_sys(e, rc, "page %llu", (unsigned long long)r->first) : 0;
}

int mig_unpack(struct mig_unpack *u, const void *payload, uint32_t len, const struct mig_sink *s,
	struct err *e)
{
	const uint8_t *p = payload;

	while (len) {
		struct rec r;
		int rc;

		if (len < MIG_RECORD)
			return err_set(e, -EBADMSG, "the stream is damaged: half a record");
		r = (struct rec){.kind = get_le32(p) >> REC_LEN_BITS,
			.len = get_le32(p) & ((1u << REC_LEN_BITS) - 1),
			.count = get_le32(p + REC_AT_COUNT),
			.first = get_le64(p + REC_AT_FIRST),
			.data = p + MIG_RECORD};
		len -= MIG_RECORD;
		if (!possible(&r, len, s))
			return err_set(e, -EBADMSG,
				"the stream is damaged: a record of kind %u about %u pages from "
				"%llu on, %u bytes",
				r.kind, r.count, (unsigned long long)r.first, r.len);
		rc = take(u, &r, s, e);
		if (rc)
			return rc;
		p += MIG_RECORD + r.len;
		len -= r.len;
	}
	return 0;
}
