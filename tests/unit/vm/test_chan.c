/*
 * test_chan.c: who waits at a connection serves others meanwhile, and does not wait longer, or for more, than it was told to.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "vm/migrate/chan.h"

#define LONG_NS 20000000000ull

/* `raw`: the other end of c, as a descriptor or as a connection. */
struct rig {
	struct chan *c, *other;
	int raw, fd; /* fd: what is served beside it */
	unsigned served;
	int answer;
};

static void make(struct rig *r, struct chan_opts o, bool other)
{
	struct err e = {0};
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	r->raw = fd[1];
	o.fd = fd[0];
	o.cancel = -1;
	o.beside.ctx = r;
	o.beside.fd = r->fd;
	assert_int_equal(chan_create(&r->c, &o, &e), 0);
	if (other)
		assert_int_equal(chan_create(&r->other,
					 &(struct chan_opts){
						 .fd = r->raw, .cancel = -1, .stall_ns = LONG_NS},
					 &e),
			0);
}

static void unmake(struct rig *r)
{
	chan_free(r->c);
	if (r->other)
		chan_free(r->other);
	else
		close(r->raw);
	close(r->fd);
}

/* Three times; it says something itself, and at last the other side does. */
static int serve(void *ctx, struct err *e)
{
	struct rig *r = ctx;
	eventfd_t n;

	r->served++;
	if (r->answer)
		return err_set(e, r->answer, "served badly");
	assert_int_equal(chan_send(r->c, MIG_READY, r->served, NULL, 0, e), 0);
	if (r->served < 3)
		return 0;
	assert_int_equal(eventfd_read(r->fd, &n), 0);
	return chan_send(r->other, MIG_GO, 0, NULL, 0, e);
}

static void test_serves(void **state)
{
	struct rig r = {.fd = eventfd(1, EFD_NONBLOCK)};
	struct mig_head h;
	struct err e = {0};
	void *p;

	make(&r, (struct chan_opts){.stall_ns = LONG_NS, .beside.serve = serve}, true);
	assert_int_equal(chan_want(r.c, MIG_GO, &h, NULL, &e), 0);
	assert_int_equal(r.served, 3);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(chan_want(r.other, MIG_READY, &h, NULL, &e), 0);
		assert_int_equal(h.arg, i);
	}
	/* What it says ends the waiting. */
	assert_int_equal(eventfd_write(r.fd, 1), 0);
	r.answer = -EIO;
	assert_int_equal(chan_recv(r.c, &h, &p, &e), -EIO);
	/* And is not asked any more. */
	chan_known(r.c);
	chan_stall(r.c, 10000000);
	assert_int_equal(chan_recv(r.c, &h, &p, &e), -ETIMEDOUT);
	assert_int_equal(r.served, 4);
	unmake(&r);
}

/* A byte for each tick: what would go on for ever if only silence counted. */
static int trickle(void *ctx, struct err *e)
{
	struct rig *r = ctx;
	uint64_t n;

	assert_int_equal(read(r->fd, &n, sizeof(n)), sizeof(n));
	r->served++;
	return write(r->raw, "L", 1) == 1 ? 0 : -errno;
}

static void test_deadline(void **state)
{
	const struct itimerspec each = {{0, 20000000}, {0, 1}};
	struct rig r = {.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)};
	struct mig_head h;
	struct err e = {0};
	void *p;

	assert_int_equal(timerfd_settime(r.fd, 0, &each, NULL), 0);
	make(&r,
		(struct chan_opts){.stall_ns = LONG_NS,
			.until_ns = clock_mono_ns() + 500000000,
			.beside.serve = trickle},
		false);
	assert_int_equal(chan_recv(r.c, &h, &p, &e), -ETIMEDOUT);
	assert_true(r.served && r.served < MIG_HEAD);
	unmake(&r);
}

static void test_limit(void **state)
{
	struct rig r = {.fd = -1};
	struct mig_head h;
	struct err e = {0};
	void *p;

	make(&r, (struct chan_opts){.stall_ns = LONG_NS, .max = MIG_ID}, true);
	assert_int_equal(chan_send(r.other, MIG_STATE, 0, "0123456789abcdef", 16, &e), 0);
	assert_int_equal(chan_recv(r.c, &h, &p, &e), 0);
	free(p);
	assert_int_equal(chan_send(r.other, MIG_STATE, 0, "0123456789abcdefg", 17, &e), 0);
	assert_int_equal(chan_recv(r.c, &h, &p, &e), -EMSGSIZE);
	unmake(&r);
}

static void test_await(void **state)
{
	struct rig r = {.fd = -1};
	struct mig_head h;
	struct err e = {0};

	make(&r, (struct chan_opts){.stall_ns = 10000000}, true);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(chan_await(r.c, &e), -ETIMEDOUT);
		assert_int_equal(chan_send(r.other, MIG_GO, i, NULL, 0, &e), 0);
		assert_int_equal(chan_await(r.c, &e), 0);
		assert_int_equal(chan_want(r.c, MIG_GO, &h, NULL, &e), 0);
		assert_int_equal(h.arg, i);
	}
	unmake(&r);
}

/* It says why and goes; who still writes hears the reason, not that nobody reads. */
static void test_last_word(void **state)
{
	const struct err full = {.code = -ENOSPC, .msg = "disk3: No space left on device"};

	for (int said = 0; said < 2; said++) {
		struct rig r = {.fd = -1};
		struct err e = {0};
		int rc;

		make(&r, (struct chan_opts){.stall_ns = LONG_NS}, true);
		assert_int_equal(chan_send(r.c, MIG_STATE, 0, "unread", 6, &e), 0);
		assert_int_equal(chan_send(r.other, MIG_READY, 0, NULL, 0, &e), 0);
		if (said)
			chan_refuse(r.other, &full);
		chan_free(r.other);
		r.other = NULL;
		r.raw = -1;
		do
			rc = chan_send(r.c, MIG_STATE, 0, "more", 4, &e);
		while (!rc);
		assert_true(rc == -EPIPE || rc == -ECONNRESET);
		assert_int_equal(chan_last_word(r.c, rc, &e), said ? -EREMOTEIO : rc);
		if (said)
			assert_string_equal(err_msg(&e), full.msg);
		else
			assert_int_equal(e.code, rc);
		assert_int_equal(chan_last_word(r.c, -EBADMSG, &e), -EBADMSG);
		unmake(&r);
	}
}

/* Who is written to no more, and talks on and on without a reason, is not heard out. */
static void *talk(void *arg)
{
	struct rig *r = arg;
	struct err e = {0};

	while (!chan_send(r->other, MIG_READY, 0, NULL, 0, &e))
		;
	return NULL;
}

static void test_last_word_ends(void **state)
{
	struct rig r = {.fd = -1};
	struct err e = {0};
	pthread_t t;
	int rc;

	make(&r, (struct chan_opts){.stall_ns = LONG_NS}, true);
	assert_int_equal(shutdown(r.raw, SHUT_RD), 0);
	assert_int_equal(pthread_create(&t, NULL, talk, &r), 0);
	rc = chan_send(r.c, MIG_STATE, 0, "more", 4, &e);
	assert_int_equal(rc, -EPIPE);
	assert_int_equal(chan_last_word(r.c, rc, &e), rc);
	assert_int_equal(shutdown(r.raw, SHUT_RDWR), 0);
	pthread_join(t, NULL);
	unmake(&r);
}

static int knock(struct sockaddr_un *sa, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)sa, len), 0);
	return fd;
}

/* Who is silent keeps nobody waiting, however many they are; who speaks is next. */
static void test_lobby(void **state)
{
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd, speaks, rc = 0;
	int silent[2 * CHAN_LOBBY_MAX];
	struct pollfd more = {eventfd(0, 0), POLLIN, 0};
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(sa);
	struct chan_lobby l = {0};
	struct err e = {0};
	char ch = 0;

	assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa_family_t)), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(listen(listener, 2 * CHAN_LOBBY_MAX), 0);
	for (unsigned i = 0; i < 2 * CHAN_LOBBY_MAX; i++)
		silent[i] = knock(&sa, len);
	for (unsigned i = 0; i < 2 * CHAN_LOBBY_MAX; i++)
		assert_int_equal(chan_lobby_turn(&l, listener, &more, 1, 1000, &fd, &e), 0);
	assert_int_equal(l.n, CHAN_LOBBY_MAX);
	assert_int_equal(chan_lobby_turn(&l, listener, &more, 1, 0, &fd, &e), 0);
	/* The oldest had to go. */
	assert_int_equal(recv(silent[0], &ch, 1, MSG_DONTWAIT), 0);
	assert_int_equal(recv(silent[CHAN_LOBBY_MAX], &ch, 1, MSG_DONTWAIT), -1);
	speaks = knock(&sa, len);
	assert_int_equal(write(speaks, "x", 1), 1);
	while (!rc)
		rc = chan_lobby_turn(&l, listener, &more, 1, -1, &fd, &e);
	assert_int_equal(rc, 1);
	assert_int_equal(read(fd, &ch, 1), 1);
	assert_int_equal(ch, 'x');
	close(fd);
	/* What else is waited for; and who has gone is not kept. */
	assert_int_equal(eventfd_write(more.fd, 1), 0);
	assert_int_equal(chan_lobby_turn(&l, listener, &more, 1, -1, &fd, &e), 0);
	assert_int_equal(more.revents, POLLIN);
	close(silent[CHAN_LOBBY_MAX + 3]);
	assert_int_equal(chan_lobby_turn(&l, listener, &more, 1, -1, &fd, &e), 1);
	assert_int_equal(read(fd, &ch, 1), 0);
	close(fd);
	chan_lobby_clear(&l);
	assert_int_equal(recv(silent[CHAN_LOBBY_MAX + 5], &ch, 1, MSG_DONTWAIT), 0);
	for (unsigned i = 0; i < 2 * CHAN_LOBBY_MAX; i++)
		if (i != CHAN_LOBBY_MAX + 3)
			close(silent[i]);
	close(speaks);
	close(listener);
	close(more.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_serves),
		cmocka_unit_test(test_deadline),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_await),
		cmocka_unit_test(test_last_word),
		cmocka_unit_test(test_last_word_ends),
		cmocka_unit_test(test_lobby),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
