#include "vm/migrate/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"

#define AT_DISK 1
#define AT_ZERO 2
#define AT_DATA_LEN 4
#define AT_OFF 8
#define AT_LEN 16

#define LEVEL 1
#define SECTOR 512u

/* ---- packing ---- */

struct mig_blocks {
	ZSTD_CCtx *zstd;
	uint32_t len;
	uint8_t buf[MIG_BLOCK_MAX];
};

int mig_blocks_create(struct mig_blocks **out, struct err *e)
{
	struct mig_blocks *b = calloc(1, sizeof(*b));

	if (b)
		b->zstd = ZSTD_createCCtx();
	if (!b || !b->zstd) {
		mig_blocks_free(b);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	ZSTD_CCtx_setParameter(b->zstd, ZSTD_c_compressionLevel, LEVEL);
	*out = b;
	return 0;
}

void mig_blocks_free(struct mig_blocks *b)
{
	if (!b)
		return;
	ZSTD_freeCCtx(b->zstd);
	free(b);
}

static uint8_t *record(struct mig_blocks *b, enum mig_kind kind, unsigned disk, uint64_t off,
	uint64_t len, uint32_t data_len)
{
	uint8_t *r = b->buf + b->len;

	r[0] = (uint8_t)kind;
	r[AT_DISK] = (uint8_t)disk;
	put_le16(r + AT_ZERO, 0);
	put_le32(r + AT_DATA_LEN, data_len);
	put_le64(r + AT_OFF, off);
	put_le64(r + AT_LEN, len);
	b->len += MIG_BLOCK_RECORD + data_len;
	return r + MIG_BLOCK_RECORD;
}

uint32_t mig_blocks_zero(
	struct mig_blocks *b, unsigned disk, uint64_t off, uint64_t len, const void **payload)
{
	b->len = 0;
	record(b, MIG_ZERO, disk, off, len, 0);
	*payload = b->buf;
	return b->len;
}

static bool is_zero(const uint8_t *p, uint32_t n)
{
	return !*p && !memcmp(p, p + 1, n - 1);
}

/* How long the run of grains at `p` is that are all zero, or all not. */
static uint32_t run_at(const uint8_t *p, uint32_t len, bool *zero)
{
	uint32_t n = MIN(len, MIG_BLOCK_GRAIN);

	*zero = is_zero(p, n);
	while (n < len && is_zero(p + n, MIN(len - n, MIG_BLOCK_GRAIN)) == *zero)
		n += MIN(len - n, MIG_BLOCK_GRAIN);
	return n;
}

static void put_run(struct mig_blocks *b, unsigned disk, uint64_t off, uint32_t len,
	const uint8_t *data, bool zstd)
{
	uint32_t room = len - len / 8;
	size_t got = zstd ? ZSTD_compress2(
				    b->zstd, b->buf + b->len + MIG_BLOCK_RECORD, room, data, len)
			  : 0;

	if (zstd && !ZSTD_isError(got))
		record(b, MIG_ZSTD, disk, off, len, (uint32_t)got);
	else
		memcpy(record(b, MIG_RAW, disk, off, len, len), data, len);
}

uint32_t mig_blocks_data(struct mig_blocks *b, unsigned disk, uint64_t off, uint32_t len,
	const void *data, bool zstd, const void **payload)
{
	const uint8_t *p = data;
	bool zero;

	b->len = 0;
	for (uint32_t at = 0, n; at < len; at += n) {
		n = run_at(p + at, len - at, &zero);
		if (zero)
			record(b, MIG_ZERO, disk, off + at, n, 0);
		else
			put_run(b, disk, off + at, n, p + at, zstd);
	}
	*payload = b->buf;
	return b->len;
}

/* ---- unpacking ---- */

static bool possible(const struct mig_block *b, uint32_t left)
{
	uint64_t end;

	if (!b->len || b->off % SECTOR || b->len % SECTOR || b->data_len > left ||
		__builtin_add_overflow(b->off, b->len, &end))
		return false;
	switch (b->kind) {
	case MIG_ZERO:
		return !b->data_len;
	case MIG_RAW:
		return b->len <= MIG_PIECE && b->data_len == b->len;
	case MIG_ZSTD:
		return b->len <= MIG_PIECE && b->data_len;
	default:
		return false;
	}
}

int mig_block_next(
	const void *payload, uint32_t len, uint32_t *at, struct mig_block *out, struct err *e)
{
	const uint8_t *r = (const uint8_t *)payload + *at;

	if (*at == len)
		return 0;
	if (len - *at < MIG_BLOCK_RECORD)
		return err_set(e, -EBADMSG, "the stream is damaged: half a record of a disk");
	*out = (struct mig_block){.kind = r[0],
		.disk = r[AT_DISK],
		.data_len = get_le32(r + AT_DATA_LEN),
		.off = get_le64(r + AT_OFF),
		.len = get_le64(r + AT_LEN),
		.data = r + MIG_BLOCK_RECORD};
	*at += MIG_BLOCK_RECORD;
	if (get_le16(r + AT_ZERO) || !possible(out, len - *at))
		return err_set(e, -EBADMSG,
			"the stream is damaged: a record of kind %u about %llu bytes of disk %u "
			"from %llu on",
			out->kind, (unsigned long long)out->len, out->disk,
			(unsigned long long)out->off);
	*at += out->data_len;
	return 1;
}

struct mig_unblock {
	ZSTD_DCtx *zstd;
};

int mig_unblock_create(struct mig_unblock **out, struct err *e)
{
	struct mig_unblock *u = calloc(1, sizeof(*u));

	if (u)
		u->zstd = ZSTD_createDCtx();
	if (!u || !u->zstd) {
		mig_unblock_free(u);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	*out = u;
	return 0;
}

void mig_unblock_free(struct mig_unblock *u)
{
	if (!u)
		return;
	ZSTD_freeDCtx(u->zstd);
	free(u);
}

int mig_block_get(struct mig_unblock *u, const struct mig_block *b, void *out, struct err *e)
{
	size_t got;

	if (b->kind == MIG_RAW) {
		memcpy(out, b->data, b->len);
		return 0;
	}
	got = ZSTD_decompressDCtx(u->zstd, out, b->len, b->data, b->data_len);
	if (got == b->len)
		return 0;
	ZSTD_DCtx_reset(u->zstd, ZSTD_reset_session_and_parameters);
	return err_set(e, -EBADMSG, "the stream is damaged: disk %u at %llu does not unpack",
		b->disk, (unsigned long long)b->off);
}
