/*
 * fuzz_postcopy.c: what the two sides of post-copy say to each other is hostile: maps of pages that are lacking, questions, pages that come late. The source
 * must send pages of its RAM only, the destination fill its RAM only, what does not fit is refused with a reason.
 *
 * Input: messages as in a stream; heads are made right first. Those for the destination go to its functions, the others through a connection.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/ram.h"

#define PAGES 136u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct side {
	struct frames *f;
	struct space *s;
	struct mig_ram ram;
};

struct rig {
	struct side src, dst;
	struct post_give *give;
	struct post_take *take; /* NULL: no userfaultfd here */
	struct chan *here, *there;
	struct mig_pack *pack;
	struct mig_unpack *unpack;
	bool begun;
};

static void must(int ok)
{
	if (!ok)
		abort();
}

static void make_side(struct side *d)
{
	struct frames_opts fo = {1, {8 * MiB}, "fuzz"};

	must(!frames_create(&d->f, &fo, NULL) && !space_create(&d->s, d->f, NULL));
	must(!space_add_ram(d->s, gpa(0x1000), PAGES * PAGE_SIZE, 0, "ram", NULL));
	mig_ram_init(&d->ram, d->s);
}

static void make(struct rig *r)
{
	struct chan_opts o = {.cancel = -1, .stall_ns = 1000000};
	int fd[2];

	make_side(&r->src);
	make_side(&r->dst);
	must(!post_give_create(&r->give, &r->src.ram, NULL));
	if (post_take_create(&r->take, &r->dst.ram, NULL))
		r->take = NULL;
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	o.fd = fd[0];
	must(!chan_create(&r->here, &o, NULL));
	o.fd = fd[1];
	must(!chan_create(&r->there, &o, NULL));
	must(!mig_pack_create(&r->pack, NULL) && !mig_unpack_create(&r->unpack, NULL));
}

static void unmake(struct rig *r)
{
	mig_pack_free(r->pack);
	mig_unpack_free(r->unpack);
	chan_free(r->here);
	chan_free(r->there);
	post_take_free(r->take);
	post_give_free(r->give);
	space_destroy(r->src.s);
	space_destroy(r->dst.s);
	frames_destroy(r->src.f);
	frames_destroy(r->dst.f);
}

static int put(void *ctx, uint64_t first, unsigned n, const void *pages)
{
	must(first < PAGES && n && n <= PAGES - first);
	return post_take_put(ctx, first, n, pages);
}

static int zero(void *ctx, uint64_t first, uint64_t n)
{
	must(first < PAGES && n && n <= PAGES - first);
	return post_take_put(ctx, first, n, NULL);
}

static int none(void *ctx, uint64_t page, void *out)
{
	return -1;
}

static void at_destination(struct rig *r, const struct mig_head *h, const void *payload)
{
	const struct mig_sink sink = {PAGES, zero, put, none, r->take};
	struct post_take_stat st;
	struct err e = {0};

	if (!r->take)
		return;
	if (h->type == MIG_SWITCH && !r->begun)
		r->begun = !post_take_begin(r->take, &e);
	else if (h->type == MIG_LACK && post_take_lack(r->take, h, payload, &e))
		must(e.msg[0] != 0);
	else if (h->type == MIG_PAGES && r->begun)
		(void)mig_unpack(r->unpack, payload, h->len, &sink, &e);
	post_take_stat(r->take, &st);
	must(st.left <= PAGES && st.of <= PAGES);
}

/* What the source is told: by a connection, as it comes. */
static void at_source(struct rig *r, const struct mig_head *h, const void *payload)
{
	struct post_give_stat st;
	struct err e = {0};
	int rc;

	/* With the word that ends it. */
	if (chan_send(r->there, (enum mig_type)h->type, h->arg, payload, h->len, NULL) ||
		chan_send(r->there, h->type == MIG_LACK ? MIG_ACK : MIG_READY, 0, NULL, 0, NULL))
		return;
	rc = h->type == MIG_LACK ? post_give_learn(r->give, r->here, &e)
				 : post_give_until(r->give, r->here, r->pack, MIG_READY, &e);
	must(!rc || e.msg[0]);
	post_give_stat(r->give, &st);
	must(st.left <= st.of && st.of <= PAGES + 63);
}

static size_t take(struct rig *r, const uint8_t *p, size_t left, uint64_t seq)
{
	uint8_t head[MIG_HEAD];
	struct mig_head h;

	if (left < MIG_HEAD)
		return 0;
	mig_head_put(head, (enum mig_type)get_le16(p + 4), get_le64(p + 16), seq, p + MIG_HEAD,
		get_le32(p + 8) <= left - MIG_HEAD ? get_le32(p + 8) : 0);
	if (mig_head_get(head, seq, &h, NULL))
		return MIG_HEAD;
	at_destination(r, &h, p + MIG_HEAD);
	if (h.type == MIG_LACK || h.type == MIG_WANT || h.type == MIG_ACK)
		at_source(r, &h, p + MIG_HEAD);
	return MIG_HEAD + h.len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = {0};
	uint64_t seq = 0;
	size_t n;

	make(&r);
	while (size && seq < 16 && (n = take(&r, data, size, seq++))) {
		data += n;
		size -= n;
	}
	unmake(&r);
	return 0;
}
