/*
 * fuzz_migration.c: a migration stream from somebody else is hostile input: its messages and their records of pages, into a small RAM. Checksums and numbers
 * are made right first, so that what is behind them is reached. Nothing may be written outside of the RAM, and what is refused is refused with a reason.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vm/migrate/blocks.h"

#define PAGES 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
	if (!ok)
		abort();
}

static int zero(void *ctx, uint64_t first, uint64_t n)
{
	must(first < PAGES && n && n <= PAGES - first);
	memset((char *)ctx + first * MIG_PAGE, 0, n * MIG_PAGE);
	return 0;
}

static int put(void *ctx, uint64_t first, unsigned n, const void *pages)
{
	must(first < PAGES && n && n <= PAGES - first);
	memcpy((char *)ctx + first * MIG_PAGE, pages, (size_t)n * MIG_PAGE);
	return 0;
}

static int get(void *ctx, uint64_t page, void *out)
{
	must(page < PAGES);
	memcpy(out, (char *)ctx + page * MIG_PAGE, MIG_PAGE);
	return 0;
}

/* Records of disks: where they are on the disk is the receiver's to look at, all else is looked at here. */
static void take_blocks(const uint8_t *payload, uint32_t len)
{
	uint8_t *out = malloc(MIG_PIECE);
	struct mig_unblock *u;
	struct mig_block b;
	struct err e = {0};
	uint32_t at = 0;
	int rc;

	must(out && !mig_unblock_create(&u, NULL));
	while ((rc = mig_block_next(payload, len, &at, &b, &e)) > 0) {
		must(at <= len && b.len && b.off + b.len > b.off);
		must(b.kind == MIG_ZERO ||
			(b.len <= MIG_PIECE && b.data + b.data_len <= payload + len));
		if (b.kind != MIG_ZERO && mig_block_get(u, &b, out, &e))
			must(e.msg[0] != 0);
	}
	must(!rc || e.msg[0] != 0);
	mig_unblock_free(u);
	free(out);
}

/* The next message; how many bytes it takes, or 0 at the end of what makes sense. */
static size_t take(const uint8_t *p, size_t left, uint64_t seq, struct mig_unpack *u, void *ram)
{
	const struct mig_sink sink = {PAGES, zero, put, get, ram};
	uint8_t head[MIG_HEAD];
	struct mig_head h;
	struct err e = {0};

	if (left < MIG_HEAD)
		return 0;
	/* As a sender makes it, from type, argument and length. */
	mig_head_put(head, (enum mig_type)get_le16(p + 4), get_le64(p + 16), seq, p + MIG_HEAD,
		get_le32(p + 8) <= left - MIG_HEAD ? get_le32(p + 8) : 0);
	if (mig_head_get(head, seq, &h, &e)) {
		must(e.msg[0] != 0);
		return MIG_HEAD;
	}
	must(h.len <= mig_payload_max(h.type) && h.len <= left - MIG_HEAD);
	must(!mig_payload_check(head, p + MIG_HEAD, h.len, &e));
	if (h.type == MIG_PAGES && mig_unpack(u, p + MIG_HEAD, h.len, &sink, &e))
		must(e.msg[0] != 0);
	if (h.type == MIG_DISK)
		take_blocks(p + MIG_HEAD, h.len);
	return MIG_HEAD + h.len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *ram = calloc(PAGES, MIG_PAGE);
	struct mig_unpack *u;
	uint64_t seq = 0;
	size_t n;

	must(ram && !mig_unpack_create(&u, NULL));
	while (size && seq < 64 && (n = take(data, size, seq++, u, ram))) {
		data += n;
		size -= n;
	}
	mig_unpack_free(u);
	free(ram);
	return 0;
}
