/*
 * test_postcopy.c: memory that is used while it is still to come: every page as it was at the source, zero ones too, also when the connections break in
 * between; what the other side says is not believed.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "memory/uffd.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/ram.h"

#define PAGES 600u /* not a multiple of 64 */
#define RAM 1024u /* of both sides; 2 MiB leaves, and a rest */
#define BASE 0x80000000ull
#define READERS 3u

struct side {
	struct frames *f;
	struct space *s;
	struct mig_ram ram;
};

struct rig {
	struct side src, dst;
	struct post_give *give;
	struct post_take *take;
	struct chan *up[2], *down[2]; /* source's, destination's ends: asked for, pushed */
	struct mig_pack *pack, *push_pack;
	struct mig_unpack *unpack[2];
	uint64_t map[RAM / 64];
	_Atomic bool stop;
	_Atomic unsigned bad;
	int cancel;
	pthread_t reader[READERS];
};

static void make_side(struct side *d)
{
	struct frames_opts fo = {1, {64 * MiB}, "test"};
	struct err e = {0};

	assert_int_equal(frames_create(&d->f, &fo, &e), 0);
	assert_int_equal(space_create(&d->s, d->f, &e), 0);
	assert_int_equal(space_add_ram(d->s, gpa(BASE), (RAM - 100) * PAGE_SIZE, 0, "a", &e), 0);
	assert_int_equal(space_add_ram(d->s, gpa(BASE + GiB), 100 * PAGE_SIZE, 0, "b", &e), 0);
	mig_ram_init(&d->ram, d->s);
}

static uint64_t word_of(uint64_t page)
{
	return page % 3 ? page * 0x9e3779b97f4a7c15ull | 1 : 0;
}

static void fill(struct side *d, uint64_t (*word)(uint64_t page))
{
	uint64_t page[MIG_PAGE / 8];

	for (uint64_t i = 0; i < RAM; i++) {
		for (unsigned k = 0; k < ARRAY_SIZE(page); k++)
			page[k] = word(i);
		assert_int_equal(mig_ram_write(&d->ram, i, 1, page), 0);
	}
}

static uint64_t stale(uint64_t page)
{
	return page < PAGES ? 77 : word_of(page); /* what is not lacking is right already */
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct err e = {0};

	make_side(&r->src);
	make_side(&r->dst);
	fill(&r->src, word_of);
	fill(&r->dst, stale);
	for (unsigned i = 0; i < PAGES; i++)
		r->map[i / 64] |= 1ull << (i % 64);
	r->cancel = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(mig_pack_create(&r->pack, &e), 0);
	assert_int_equal(mig_pack_create(&r->push_pack, &e), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(mig_unpack_create(&r->unpack[i], &e), 0);
	assert_int_equal(post_give_create(&r->give, &r->src.ram, &e), 0);
	*state = r;
	if (uffd_modes() & UFFD_MISSING)
		assert_int_equal(post_take_create(&r->take, &r->dst.ram, &e), 0);
	return 0;
}

static void hang_up(struct rig *r)
{
	for (unsigned i = 0; i < 2; i++) {
		chan_free(steal_ptr(r->up[i]));
		chan_free(steal_ptr(r->down[i]));
	}
}

static int teardown(void **state)
{
	struct rig *r = *state;

	hang_up(r);
	post_take_free(r->take);
	post_give_free(r->give);
	mig_pack_free(r->pack);
	mig_pack_free(r->push_pack);
	for (unsigned i = 0; i < 2; i++)
		mig_unpack_free(r->unpack[i]);
	space_destroy(r->src.s);
	space_destroy(r->dst.s);
	frames_destroy(r->src.f);
	frames_destroy(r->dst.f);
	close(r->cancel);
	free(r);
	return 0;
}

static void connect_all(struct rig *r)
{
	for (unsigned i = 0; i < 2; i++) {
		struct chan_opts o = {.cancel = r->cancel, .stall_ns = 20000000000ull};
		int fd[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		o.fd = fd[0];
		assert_int_equal(chan_create(&r->up[i], &o, NULL), 0);
		o.fd = fd[1];
		assert_int_equal(chan_create(&r->down[i], &o, NULL), 0);
	}
}

/* A vCPU: reads all pages, from somewhere on, and does not come out before it has seen each. */
static void *read_all(void *arg)
{
	struct rig *r = arg;
	unsigned from = (unsigned)((uintptr_t)&from / 64 % RAM);

	for (unsigned i = 0; i < RAM; i++) {
		uint64_t n = (from + i * 7) % RAM, page[MIG_PAGE / 8];

		if (mig_ram_read(&r->dst.ram, n, 1, page) || page[0] != word_of(n) ||
			page[511] != word_of(n))
			r->bad++;
	}
	return NULL;
}

static int put(void *ctx, uint64_t first, unsigned n, const void *pages)
{
	return post_take_put(ctx, first, n, pages);
}

static int zero(void *ctx, uint64_t first, uint64_t n)
{
	return post_take_put(ctx, first, n, NULL);
}

static int none(void *ctx, uint64_t page, void *out)
{
	return -EBADMSG;
}

/* The destination's end of one connection, until it breaks or all is there. */
static void serve(struct rig *r, unsigned i)
{
	const struct mig_sink sink = {RAM, zero, put, none, r->take};

	while (post_take_left(r->take)) {
		struct pollfd more[] = {{post_take_fd(r->take), POLLIN, 0}, {r->cancel, POLLIN, 0}};
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head h;
		int rc = chan_poll(r->down[i], more, 2, 100);

		if (more[1].revents)
			return;
		if (!i && more[0].revents && post_take_faults(r->take, r->down[0], NULL))
			return;
		if (rc != 1)
			continue;
		if (chan_recv(r->down[i], &h, &payload, NULL))
			return;
		assert_int_equal(h.type, MIG_PAGES);
		assert_int_equal(mig_unpack(r->unpack[i], payload, h.len, &sink, NULL), 0);
	}
}

static void *serve_asked(void *arg)
{
	serve(arg, 0);
	return NULL;
}

static void *serve_pushed(void *arg)
{
	serve(arg, 1);
	return NULL;
}

static void *answer(void *arg)
{
	struct rig *r = arg;

	(void)post_give_until(r->give, r->up[0], r->pack, MIG_WHOLE, NULL);
	return NULL;
}

/* At most `words` of the map. */
static void push(struct rig *r, unsigned words)
{
	static const struct mig_pack_opts plain = {0};
	uint8_t *pages = malloc((size_t)MIG_BATCH * MIG_PAGE);
	const void *payload;
	uint64_t w, bits, about;

	while (words-- && post_give_next(r->give, &w, &bits)) {
		uint32_t len;

		for (unsigned i = 0; i < 64; i++)
			if (bits >> i & 1) {
				assert_int_equal(
					mig_ram_read(&r->src.ram, w * 64 + i, 1, pages), 0);
				mig_pack_add(r->push_pack, &plain, w * 64 + i, 1, pages, 1);
			}
		len = mig_pack_take(r->push_pack, &payload, &about);
		if (chan_send(r->up[1], MIG_PAGES, about, payload, len, NULL))
			break;
	}
	free(pages);
}

static void tell_lacking(struct rig *r)
{
	struct err e = {0};

	assert_int_equal(post_give_lack(r->give, r->up[0], r->map, &e), 0);
	assert_int_equal(chan_send(r->up[0], MIG_ACK, 0, NULL, 0, &e), 0);
	for (;;) {
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head h;

		assert_int_equal(chan_recv(r->down[0], &h, &payload, &e), 0);
		if (h.type != MIG_LACK)
			break;
		assert_int_equal(post_take_lack(r->take, &h, payload, &e), 0);
	}
}

/* One connection's life: `words` are pushed, then it is cut, or all of it comes. */
static void live(struct rig *r, unsigned words)
{
	pthread_t t[3];

	assert_int_equal(pthread_create(&t[0], NULL, serve_asked, r), 0);
	assert_int_equal(pthread_create(&t[1], NULL, serve_pushed, r), 0);
	assert_int_equal(pthread_create(&t[2], NULL, answer, r), 0);
	push(r, words);
	while (words == ~0u && post_take_left(r->take))
		usleep(1000);
	assert_int_equal(eventfd_write(r->cancel, 1), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	assert_int_equal(eventfd_read(r->cancel, &(eventfd_t){0}), 0);
	hang_up(r);
}

static void all_comes(struct rig *r, unsigned cuts)
{
	struct post_take_stat st;
	struct err e = {0};

	connect_all(r);
	tell_lacking(r);
	assert_int_equal(post_take_begin(r->take, &e), 0);
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&r->reader[i], NULL, read_all, r), 0);
	for (unsigned i = 0; i < cuts; i++) {
		live(r, 2);
		/* Whoever it was, one that knows nothing brings the rest. */
		post_give_free(r->give);
		assert_int_equal(post_give_create(&r->give, &r->src.ram, &e), 0);
		connect_all(r);
		assert_int_equal(post_take_tell(r->take, r->down[0], &e), 0);
		assert_int_equal(post_give_learn(r->give, r->up[0], &e), 0);
		assert_int_equal(post_take_again(r->take, r->down[0], &e), 0);
	}
	live(r, ~0u);
	post_take_end(r->take);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(r->reader[i], NULL);
	assert_int_equal(r->bad, 0);
	post_take_stat(r->take, &st);
	assert_int_equal(st.of, PAGES);
	assert_int_equal(st.left, 0);
}

static void test_comes(void **state)
{
	struct rig *r = *state;

	if (!r->take) {
		print_message("SKIP: no userfaultfd for us\n");
		skip();
	}
	all_comes(r, 0);
}

static void test_breaks(void **state)
{
	struct rig *r = *state;

	if (!r->take) {
		print_message("SKIP: no userfaultfd for us\n");
		skip();
	}
	all_comes(r, 3);
}

/* Maps and questions about pages that do not exist. */
static void test_refused(void **state)
{
	struct rig *r = *state;
	uint64_t map[RAM / 64 + 1] = {0}, far = RAM;
	struct err e = {0};

	connect_all(r);
	if (r->take) {
		assert_int_equal(
			post_take_lack(r->take, &(struct mig_head){.arg = RAM, .len = 8}, map, &e),
			-EBADMSG);
		assert_int_equal(
			post_take_lack(r->take, &(struct mig_head){.arg = 1, .len = 8}, map, &e),
			-EBADMSG);
		assert_int_equal(post_take_lack(r->take,
					 &(struct mig_head){.arg = ~63ull, .len = 64}, map, &e),
			-EBADMSG);
	}
	assert_int_equal(chan_send(r->down[0], MIG_LACK, RAM, map, 8, &e), 0);
	assert_int_equal(post_give_learn(r->give, r->up[0], &e), -EBADMSG);
	assert_int_equal(chan_send(r->down[0], MIG_WANT, 1, &far, 8, &e), 0);
	assert_int_equal(post_give_until(r->give, r->up[0], r->pack, MIG_WHOLE, &e), -EBADMSG);
	assert_int_equal(chan_send(r->down[0], MIG_WANT, 2, &far, 8, &e), 0);
	assert_int_equal(post_give_until(r->give, r->up[0], r->pack, MIG_WHOLE, &e), -EBADMSG);
}

/* A number of pages that is the right length when it is multiplied, and far more than there is. */
static void test_question_too_long(void **state)
{
	struct rig *r = *state;
	uint64_t page = 1;
	struct err e = {0};

	connect_all(r);
	assert_int_equal(chan_send(r->down[0], MIG_WANT, 1ull << 61 | 1, &page, 8, &e), 0);
	assert_int_equal(post_give_until(r->give, r->up[0], r->pack, MIG_WHOLE, &e), -EBADMSG);
	assert_non_null(strstr(err_msg(&e), "a question of 8 bytes"));
	assert_int_equal(chan_send(r->down[0], MIG_WANT, 1, &page, 7, &e), 0);
	assert_int_equal(post_give_until(r->give, r->up[0], r->pack, MIG_WHOLE, &e), -EBADMSG);
}

/* Half a question, and no more: the source does not go on as if nothing had been read. */
static void test_half_a_question(void **state)
{
	struct rig *r = *state;
	struct chan_opts o = {.cancel = -1, .stall_ns = 20000000};
	struct err e = {0};
	int fd[2];

	connect_all(r);
	assert_int_equal(post_give_lack(r->give, r->up[0], r->map, &e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	chan_free(r->up[0]);
	o.fd = fd[0];
	assert_int_equal(chan_create(&r->up[0], &o, &e), 0);
	assert_int_equal(write(fd[1], "LDMG\x0f", 5), 5);
	assert_int_equal(post_give_until(r->give, r->up[0], r->pack, MIG_WHOLE, &e), -ETIMEDOUT);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_comes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_breaks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_question_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_a_question, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
