/*
 * test_migwire.c: what is packed comes out alike, in every way of packing; damage of any byte is found; a connection says how it ended.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/migrate/blocks.h"
#include "vm/migrate/chan.h"

#define PAGES 300u

struct copy {
	uint8_t from[PAGES][MIG_PAGE], to[PAGES][MIG_PAGE];
	uint64_t had[PAGES / 64 + 1];
	uint64_t wire;
	struct mig_pack *pack;
	struct mig_unpack *unpack;
};

static int zero(void *ctx, uint64_t first, uint64_t n)
{
	struct copy *c = ctx;

	memset(c->to[first], 0, n * MIG_PAGE);
	return 0;
}

static int put(void *ctx, uint64_t first, unsigned n, const void *pages)
{
	struct copy *c = ctx;

	memcpy(c->to[first], pages, (size_t)n * MIG_PAGE);
	return 0;
}

static int get(void *ctx, uint64_t page, void *out)
{
	struct copy *c = ctx;

	memcpy(out, c->to[page], MIG_PAGE);
	return 0;
}

static void flush(struct copy *c)
{
	const struct mig_sink sink = {PAGES, zero, put, get, c};
	struct err e = {0};
	const void *payload;
	uint64_t about;
	uint32_t len = mig_pack_take(c->pack, &payload, &about);

	c->wire += len;
	assert_true(len <= mig_payload_max(MIG_PAGES));
	if (mig_unpack(c->unpack, payload, len, &sink, &e))
		fail_msg("%s", err_msg(&e));
}

/* Runs of every length over all pages. */
static void send_all(struct copy *c, const struct mig_pack_opts *o)
{
	unsigned n = 1;

	c->wire = 0;
	for (unsigned i = 0; i < PAGES; i += n) {
		uint64_t had = 0;

		n = MIN(1 + i % 64, PAGES - i);
		n = MIN(n, 64 - i % 64);
		for (unsigned k = 0; k < n; k++)
			had |= (c->had[(i + k) / 64] >> ((i + k) % 64) & 1) << k;
		if (!mig_pack_add(c->pack, o, i, n, c->from[i], had)) {
			flush(c);
			assert_true(mig_pack_add(c->pack, o, i, n, c->from[i], had));
		}
		for (unsigned k = 0; k < n; k++)
			c->had[(i + k) / 64] |= 1ull << ((i + k) % 64);
	}
	flush(c);
	assert_memory_equal(c->from, c->to, sizeof(c->to));
}

static void fill(struct copy *c, unsigned round)
{
	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t *w = (uint64_t *)(void *)c->from[i], r = i * 77777 + 1;

		if ((i + round) % 5 == 0) {
			memset(w, 0, MIG_PAGE);
		} else if (i % 3) {
			if (!round)
				for (unsigned k = 0; k < 512; k++)
					w[k] = r = r * 6364136223846793005ull +
						   1442695040888963407ull;
			w[(i + round) % 512] = round + 1;
		} else {
			memset(w, (int)(i + round), MIG_PAGE);
		}
	}
}

static int setup(void **state)
{
	struct copy *c = calloc(1, sizeof(*c));

	assert_int_equal(mig_pack_create(&c->pack, NULL), 0);
	assert_int_equal(mig_unpack_create(&c->unpack, NULL), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct copy *c = *state;

	mig_pack_free(c->pack);
	mig_unpack_free(c->unpack);
	free(c);
	return 0;
}

static void test_ways(void **state)
{
	/* The way changes while it goes, as it does when a connection gets slower. */
	static const struct mig_pack_opts ways[] = {{false, 0}, {true, 0}, {true, 4 * MiB},
		{true, 4 * MiB}, {false, 0}, {true, 4 * MiB}, {true, 64 * KiB}, {true, 4 * MiB}};
	struct copy *c = *state;
	uint64_t raw = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		struct mig_pack_stat st, was;

		fill(c, i);
		mig_pack_stat(c->pack, &was);
		send_all(c, &ways[i]);
		mig_pack_stat(c->pack, &st);
		if (!i)
			raw = c->wire;
		if (i == 3) { /* one word of each page is new */
			assert_true(st.pages[MIG_DELTA] - was.pages[MIG_DELTA] > PAGES / 3);
			assert_true(c->wire < raw / 3);
		}
		if (i == 4)
			assert_true(st.pages[MIG_ZSTD] == was.pages[MIG_ZSTD]);
	}
}

static void test_hostile_records(void **state)
{
	struct copy *c = *state;
	const struct mig_sink sink = {PAGES, zero, put, get, c};
	const struct mig_pack_opts o = {true, 4 * MiB};
	uint8_t good[8192];
	const void *payload;
	uint64_t about;
	uint32_t len;

	fill(c, 1);
	assert_true(mig_pack_add(c->pack, &o, 0, 3, c->from[0], 0));
	len = mig_pack_take(c->pack, &payload, &about);
	assert_true(len > MIG_RECORD && len < sizeof(good));
	memcpy(good, payload, len);
	for (uint32_t cut = 1; cut < len; cut++)
		mig_unpack(c->unpack, good, cut, &sink, NULL); /* never outside */
	for (unsigned bit = 0; bit < MIG_RECORD * 8; bit++) {
		good[bit / 8] ^= 1u << (bit % 8);
		mig_unpack(c->unpack, good, len, &sink, NULL);
		good[bit / 8] ^= 1u << (bit % 8);
	}
	/* Pages beyond the machine's. */
	good[15] = 1;
	assert_int_equal(mig_unpack(c->unpack, good, len, &sink, NULL), -EBADMSG);
}

/* ---- connections ---- */

static void pair(struct chan **a, struct chan **b, int cancel)
{
	int fd[2];
	struct err e = {0};

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	assert_int_equal(chan_create(a, &(struct chan_opts){.fd = fd[0], .cancel = cancel}, &e), 0);
	assert_int_equal(
		chan_create(b, &(struct chan_opts){.fd = fd[1], .cancel = -1, .stall_ns = 50000000},
			&e),
		0);
}

static void test_messages(void **state)
{
	struct chan *a, *b;
	struct mig_head h;
	struct err e = {0};
	void *p;

	pair(&a, &b, -1);
	assert_int_equal(chan_send(a, MIG_STATE, 7, "state", 5, &e), 0);
	assert_int_equal(chan_send(a, MIG_GO, 9, NULL, 0, &e), 0);
	assert_int_equal(chan_want(b, MIG_STATE, &h, &p, &e), 0);
	assert_int_equal(h.arg, 7);
	assert_string_equal(p, "state");
	free(p);
	assert_int_equal(chan_want(b, MIG_READY, NULL, NULL, &e), -EBADMSG);
	assert_int_equal(chan_recv(b, &h, &p, &e), -ETIMEDOUT);
	err_set(&e, -EINVAL, "no such disk");
	chan_refuse(a, &e);
	assert_int_equal(chan_recv(b, &h, &p, &e), -EREMOTEIO);
	assert_string_equal(err_msg(&e), "no such disk");
	chan_free(a);
	assert_int_equal(chan_recv(b, &h, &p, &e), -ENOTCONN);
	chan_free(b);
}

static void test_cancel(void **state)
{
	int cancel = eventfd(1, EFD_CLOEXEC);
	struct chan *a, *b;
	struct mig_head h;
	struct err e = {0};
	void *p;

	pair(&a, &b, cancel);
	assert_int_equal(chan_recv(a, &h, &p, &e), -ECANCELED);
	assert_int_equal(chan_send(a, MIG_GO, 0, NULL, 0, &e), -ECANCELED);
	/* Of what was cancelled nothing has gone out; what follows is whole. */
	chan_refuse(a, &e);
	assert_int_equal(chan_recv(b, &h, &p, &e), -EREMOTEIO);
	assert_string_equal(err_msg(&e), "cancelled");
	chan_free(a);
	chan_free(b);
	close(cancel);
}

/* Every bit of a message, every place to cut it, and each twice. */
static void test_damage(void **state)
{
	uint8_t good[MIG_HEAD + 16], bad[2 * sizeof(good)];

	memset(good + MIG_HEAD, 0x5a, 16);
	mig_head_put(good, MIG_STATE, 3, 0, good + MIG_HEAD, 16);
	for (unsigned i = 0; i < sizeof(good) * 9 + 1; i++) {
		size_t len = sizeof(good);
		struct chan *b;
		struct mig_head h;
		struct err e = {0};
		int fd[2], rc;
		void *p = NULL;

		memcpy(bad, good, sizeof(good));
		memcpy(bad + sizeof(good), good, sizeof(good));
		if (i < sizeof(good) * 8)
			bad[i / 8] ^= 1u << (i % 8);
		else if (i < sizeof(good) * 9)
			len = i - sizeof(good) * 8;
		else
			len = sizeof(bad);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		assert_int_equal(
			chan_create(&b, &(struct chan_opts){.fd = fd[1], .cancel = -1}, &e), 0);
		assert_int_equal(write(fd[0], bad, len), len);
		close(fd[0]);
		rc = chan_recv(b, &h, &p, &e);
		if (len == sizeof(bad)) {
			assert_int_equal(rc, 0);
			free(p);
			rc = chan_recv(b, &h, &p, &e);
		}
		assert_true(rc == -EBADMSG || rc == -ECONNRESET || (!len && rc == -ENOTCONN));
		chan_free(b);
	}
}

/* ---- blocks of disks ---- */

static void test_blocks(void **state)
{
	cleanup(free_ptr) uint8_t *from = calloc(1, MIG_PIECE), *to = malloc(MIG_PIECE);
	struct mig_blocks *b = NULL;
	struct mig_unblock *u = NULL;
	const void *payload;
	struct err e = {0};

	assert_int_equal(mig_blocks_create(&b, &e), 0);
	assert_int_equal(mig_unblock_create(&u, &e), 0);
	for (unsigned k = 0; k < MIG_PIECE; k++) /* packs well, not at all, nothing */
		from[k] = k % (16 * MIG_BLOCK_GRAIN) < 8 * MIG_BLOCK_GRAIN ? (uint8_t)(k / 5000 + 1)
			  : k % (16 * MIG_BLOCK_GRAIN) < 12 * MIG_BLOCK_GRAIN
				  ? (uint8_t)(k * 2654435761u >> 24)
				  : 0;
	for (unsigned zstd = 0; zstd < 2; zstd++)
		for (uint32_t len = MIG_PIECE; len; len = len / 3 / 512 * 512) {
			uint32_t n = mig_blocks_data(b, 7, 512 * 1000, len, from, zstd, &payload),
				 at = 0;
			uint64_t next = 512 * 1000;
			struct mig_block r;

			assert_true(n <= mig_payload_max(MIG_DISK));
			memset(to, 0xee, MIG_PIECE);
			while (mig_block_next(payload, n, &at, &r, &e)) {
				assert_int_equal(r.disk, 7);
				assert_int_equal(r.off, next);
				if (r.kind == MIG_ZERO)
					memset(to + (next - 512 * 1000), 0, r.len);
				else
					assert_int_equal(
						mig_block_get(u, &r, to + (next - 512 * 1000), &e),
						0);
				next += r.len;
			}
			assert_int_equal(next, 512 * 1000 + len);
			assert_memory_equal(to, from, len);
			assert_true(!zstd || len < MIG_PIECE || n < len / 4 * 3);
		}
	assert_int_equal(mig_blocks_zero(b, 3, 0, 1ull << 40, &payload), MIG_BLOCK_RECORD);
	mig_blocks_free(b);
	mig_unblock_free(u);
}

/* Each of these is refused, with a reason. */
static void test_hostile_blocks(void **state)
{
	static const struct {
		uint8_t kind;
		uint16_t zero;
		uint32_t data_len, have;
		uint64_t off, len;
	} bad[] = {
		{MIG_ZERO, 1, 0, 0, 0, 512},
		{MIG_ZERO, 0, 4, 4, 0, 512},
		{MIG_ZERO, 0, 0, 0, 0, 0},
		{MIG_ZERO, 0, 0, 0, 100, 512},
		{MIG_ZERO, 0, 0, 0, 0, 100},
		{MIG_ZERO, 0, 0, 0, ~511ull, 1024},
		{MIG_RAW, 0, 512, 100, 0, 512},
		{MIG_RAW, 0, 512, 512, 0, 1024},
		{MIG_RAW, 0, 0, 0, 0, 512},
		{MIG_ZSTD, 0, 0, 0, 0, 512},
		{MIG_ZSTD, 0, 16, 16, 0, 2 * MIG_PIECE},
		{MIG_DELTA, 0, 16, 16, 0, 512},
		{9, 0, 0, 0, 0, 512},
	};
	uint8_t buf[MIG_BLOCK_RECORD + 512];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct mig_block r;
		struct err e = {0};
		uint32_t at = 0;

		memset(buf, 0, sizeof(buf));
		buf[0] = bad[i].kind;
		memcpy(buf + 2, &bad[i].zero, 2);
		memcpy(buf + 4, &bad[i].data_len, 4);
		memcpy(buf + 8, &bad[i].off, 8);
		memcpy(buf + 16, &bad[i].len, 8);
		if (mig_block_next(buf, MIG_BLOCK_RECORD + bad[i].have, &at, &r, &e) != -EBADMSG)
			fail_msg("record %u was taken", i);
		assert_true(e.msg[0]);
	}
	for (uint32_t n = 1; n < MIG_BLOCK_RECORD; n++) {
		struct mig_block r;
		struct err e = {0};
		uint32_t at = 0;

		assert_int_equal(mig_block_next(buf, n, &at, &r, &e), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_ways, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_records, setup, teardown),
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_hostile_blocks),
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
