/* virtio-vsock: connections both ways, credit, hostile packets, the reset after a load. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/state.h"
#include "base/util.h"
#include "device/virtio.h"
#include "device/vsock/virtio_vsock.h"
#include "device/vsock/vsock_host.h"
#include "vdriver.h"

#define SIZE 16
/* Queue 0 is where vd_start() puts it. */
#define QDESC(q) ((q) ? VD_RAM + 0x18000 + 0x10000ull * (q) : VD_DESC)
#define QAVAIL(q) ((q) ? QDESC(q) + 0x1000 : VD_AVAIL)
#define QUSED(q) ((q) ? QDESC(q) + 0x2000 : VD_USED)
#define RXBUF (VD_RAM + 0x80000)
#define RXLEN 8192u
#define TXBUF (VD_RAM + 0x200000)
#define HDR 44u

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct rig {
	struct vdriver d;
	struct device *dev;
	char dir[32], path[64];
	uint16_t avail[3], seen;
	uint8_t pkt[RXLEN]; /* what the device sent last */
	uint32_t len;
};

static void post(struct rig *r, unsigned q, uint64_t addr, uint32_t len, bool write)
{
	uint16_t i = r->avail[q] % SIZE;

	vd_desc_at(&r->d, QDESC(q), i, addr, len, write ? VD_WRITE : 0, 0);
	space_store16(r->d.space, gpa(QAVAIL(q) + 4 + 2ull * i), i);
	space_store16(r->d.space, gpa(QAVAIL(q) + 2), ++r->avail[q]);
	vd_bell(&r->d, q);
}

static void give_buffers(struct rig *r, unsigned n)
{
	while (n--)
		post(r, 0, RXBUF + RXLEN * (r->avail[0] % SIZE), RXLEN, true);
}

static void rig_open(struct rig *r, unsigned buffers)
{
	struct virtio_vsock_opts o;

	memset(r, 0, sizeof(*r));
	strcpy(r->dir, "/tmp/lodge-vsock.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/v.sock", r->dir);
	o = (struct virtio_vsock_opts){7, r->path};
	vd_machine(&r->d);
	r->dev = vd_add(&r->d, "virtio-vsock", "vsock", &o, 1);
	vd_start(&r->d, 0, SIZE);
	for (unsigned q = 1; q < 3; q++) {
		vd_queue(&r->d, (uint16_t)q, SIZE, QDESC(q), QAVAIL(q), QUSED(q));
		space_fill(r->d.space, gpa(QDESC(q)), 0, 0x3000);
	}
	give_buffers(r, buffers);
}

static void rig_close(struct rig *r)
{
	vd_close(&r->d, &r->dev, 1);
	assert_int_equal(access(r->path, F_OK), -1); /* the socket went with the device */
	assert_int_equal(rmdir(r->dir), 0);
}

static void turn(struct rig *r)
{
	for (int i = 0; i < 8; i++)
		uv_run(&r->d.loop, UV_RUN_NOWAIT);
}

/* The next packet to the guest, or false. Its buffer is given back. */
static bool next(struct rig *r)
{
	uint16_t used = 0;
	uint8_t elem[8];

	turn(r);
	space_load16(r->d.space, gpa(QUSED(0) + 2), &used);
	if (used == r->seen)
		return false;
	space_read(r->d.space, gpa(QUSED(0) + 4 + 8ull * (r->seen % SIZE)), elem, 8);
	r->len = get_le32(elem + 4);
	space_read(r->d.space, gpa(RXBUF + RXLEN * get_le32(elem)), r->pkt, r->len);
	r->seen++;
	return true;
}

static void expect(struct rig *r, unsigned op, uint32_t host_port, uint32_t guest_port)
{
	assert_true(next(r));
	assert_int_equal(get_le16(r->pkt + 30), op);
	assert_int_equal(get_le64(r->pkt), 2);
	assert_int_equal(get_le64(r->pkt + 8), 7);
	assert_int_equal(get_le32(r->pkt + 20), guest_port);
	if (host_port)
		assert_int_equal(get_le32(r->pkt + 16), host_port);
	assert_int_equal(get_le32(r->pkt + 24), r->len - HDR);
}

struct says {
	uint32_t len, flags, alloc, fwd;
	const void *data;
};

static void say(struct rig *r, unsigned op, uint32_t guest, uint32_t host, struct says s)
{
	uint8_t h[HDR] = {0};

	put_le64(h, 7);
	put_le64(h + 8, 2);
	put_le32(h + 16, guest);
	put_le32(h + 20, host);
	put_le32(h + 24, s.len);
	put_le16(h + 28, 1);
	put_le16(h + 30, (uint16_t)op);
	put_le32(h + 32, s.flags);
	put_le32(h + 36, s.alloc ?: 65536);
	put_le32(h + 40, s.fwd);
	space_write(r->d.space, gpa(TXBUF), h, HDR);
	if (s.data)
		space_write(r->d.space, gpa(TXBUF + HDR), s.data, s.len);
	post(r, 1, TXBUF, HDR + (s.data ? s.len : 0), false);
	turn(r);
}

static int unix_socket(const char *path, uint32_t listen_port)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), listen_port ? "%s_%u" : "%s", path, listen_port);
	if (listen_port) {
		assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		assert_int_equal(listen(fd, 4), 0);
	} else {
		assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	}
	return fd;
}

/* A program asks for port 1024 of the guest; returns its end, and the port that it came from. */
static int ask(struct rig *r, uint32_t alloc, uint32_t *host_port)
{
	int fd = unix_socket(r->path, 0);
	char ok[32] = "";

	assert_int_equal(write(fd, "CONNECT 1024\nearly", 18), 18);
	expect(r, REQUEST, 0, 1024);
	*host_port = get_le32(r->pkt + 16);
	assert_int_equal(get_le32(r->pkt + 36), VSOCK_RING);
	say(r, RESPONSE, 1024, *host_port, (struct says){.alloc = alloc});
	assert_true(recv(fd, ok, sizeof(ok) - 1, MSG_DONTWAIT) > 0);
	assert_memory_equal(ok, "OK ", 3);
	return fd;
}

static void a_program_reaches_the_guest_and_back(void **state)
{
	static struct rig r;
	uint32_t port;
	char buf[32] = "";
	int fd;

	rig_open(&r, SIZE);
	fd = ask(&r, 0, &port);
	/* What the program sent before the guest agreed is not lost. */
	expect(&r, RW, port, 1024);
	assert_memory_equal(r.pkt + HDR, "early", 5);
	say(&r, RW, 1024, port, (struct says){.len = 5, .data = "hello"});
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 5);
	assert_memory_equal(buf, "hello", 5);
	/* Credit: the line "OK" was ours, so 5 bytes are forwarded, not 5 and some. */
	say(&r, CREDIT_REQUEST, 1024, port, (struct says){0});
	expect(&r, CREDIT_UPDATE, port, 1024);
	assert_int_equal(get_le32(r.pkt + 40), 5);
	/* The program ends: the guest hears that no more comes, and may still send. */
	shutdown(fd, SHUT_WR);
	expect(&r, SHUTDOWN, port, 1024);
	assert_int_equal(get_le32(r.pkt + 32), 2);
	say(&r, RW, 1024, port, (struct says){.len = 3, .data = "bye"});
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 3);
	say(&r, SHUTDOWN, 1024, port, (struct says){.flags = 3});
	expect(&r, RST, port, 1024);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 0);
	close(fd);
	rig_close(&r);
}

static void the_guest_reaches_a_program_or_is_refused(void **state)
{
	static struct rig r;
	char name[96], buf[16];
	int lfd, fd;

	rig_open(&r, SIZE);
	say(&r, REQUEST, 5555, 80, (struct says){0});
	expect(&r, RST, 80, 5555);
	lfd = unix_socket(r.path, 80);
	say(&r, REQUEST, 5555, 80, (struct says){0});
	expect(&r, RESPONSE, 80, 5555);
	fd = accept(lfd, NULL, NULL);
	say(&r, RW, 5555, 80, (struct says){.len = 2, .data = "hi"});
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 2);
	/* The same connection cannot be asked for twice. */
	say(&r, REQUEST, 5555, 80, (struct says){0});
	expect(&r, RST, 80, 5555);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), 0);
	close(fd);
	close(lfd);
	snprintf(name, sizeof(name), "%s_80", r.path);
	unlink(name);
	rig_close(&r);
}

static void nothing_is_sent_beyond_the_guests_credit(void **state)
{
	static struct rig r;
	static char data[5000];
	uint32_t port, got = 0;
	int fd;

	rig_open(&r, SIZE);
	fd = ask(&r, 1000, &port);
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	while (next(&r)) {
		if (get_le16(r.pkt + 30) == RW)
			got += r.len - HDR;
		else
			assert_int_equal(get_le16(r.pkt + 30), CREDIT_REQUEST);
	}
	assert_int_equal(got, 1000);
	say(&r, CREDIT_UPDATE, 1024, port, (struct says){.alloc = 1000, .fwd = 600});
	while (next(&r))
		if (get_le16(r.pkt + 30) == RW)
			got += r.len - HDR;
	assert_int_equal(got, 1600);
	close(fd);
	rig_close(&r);
}

static void who_sends_beyond_our_credit_is_cut_off(void **state)
{
	static struct rig r;
	static char data[60000];
	uint32_t port;
	int fd;

	rig_open(&r, SIZE);
	fd = ask(&r, 0, &port);
	expect(&r, RW, port, 1024);
	/* Nobody reads: the kernel takes some, the ring VSOCK_RING; a guest that heeds credit would have stopped. */
	for (int i = 0; i < 40; i++)
		say(&r, RW, 1024, port, (struct says){.len = sizeof(data), .data = data});
	for (;;) {
		assert_true(next(&r));
		if (get_le16(r.pkt + 30) == RST)
			break;
	}
	close(fd);
	rig_close(&r);
}

static void packets_that_make_no_sense_are_answered_or_dropped(void **state)
{
	static struct rig r;
	uint8_t junk[HDR];

	rig_open(&r, SIZE);
	for (unsigned op = 0; op < 12; op++)
		if (op != REQUEST && op != RST) {
			say(&r, op, 9, 9, (struct says){0});
			expect(&r, RST, 9, 9);
		}
	say(&r, RST, 9, 9, (struct says){0});
	assert_false(next(&r));
	/* Another guest's address, a short header, all ones. */
	memset(junk, 0xff, sizeof(junk));
	space_write(r.d.space, gpa(TXBUF), junk, sizeof(junk));
	post(&r, 1, TXBUF, HDR, false);
	expect(&r, RST, 0xffffffff, 0xffffffff);
	post(&r, 1, TXBUF, 10, false);
	assert_false(next(&r));
	assert_int_equal(r.d.reports, 0);
	rig_close(&r);
}

static void without_buffers_nothing_grows(void **state)
{
	static struct rig r;
	struct virtio *v;

	rig_open(&r, 0);
	for (int i = 0; i < 2000; i++)
		say(&r, RW, (uint32_t)i, 9, (struct says){0});
	v = container_of(r.dev, struct virtio, dev);
	assert_int_equal(v->open, 0);
	/* Some answers come when there are buffers, none is repeated. */
	give_buffers(&r, SIZE);
	expect(&r, RST, 9, get_le32(r.pkt + 20) ?: 255);
	rig_close(&r);
}

static void programs_that_say_nonsense_are_let_go(void **state)
{
	static const char *const lines[] = {"GET / HTTP/1.0\r\n", "CONNECT \n", "CONNECT -1\n",
		"CONNECT 99999999999\n", "CONNECT 4294967295\n", "CONNECT 10x\n",
		"CONNECT 0000000000000000000000000000000001\n", "\n"};
	static struct rig r;
	char c;

	rig_open(&r, SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		int fd = unix_socket(r.path, 0);

		assert_true(write(fd, lines[i], strlen(lines[i])) > 0);
		assert_false(next(&r));
		assert_true(recv(fd, &c, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
		close(fd);
	}
	rig_close(&r);
}

static void a_loaded_machine_says_that_connections_are_gone(void **state)
{
	static struct rig r;
	const struct state_desc *desc;
	uint16_t used = 0;
	uint8_t id[4] = {1, 1, 1, 1};
	struct err e = {0};

	rig_open(&r, SIZE);
	desc = r.dev->cls->state;
	assert_int_equal(r.dev->cls->quiesce(r.dev, &e), 0);
	assert_int_equal(desc->post_load(r.dev, desc->version, &e), 0);
	r.dev->cls->resume(r.dev);
	turn(&r);
	space_write(r.d.space, gpa(TXBUF + 0x8000), id, 4);
	post(&r, 2, TXBUF + 0x8000, 4, true);
	turn(&r);
	space_load16(r.d.space, gpa(QUSED(2) + 2), &used);
	assert_int_equal(used, 1);
	space_read(r.d.space, gpa(TXBUF + 0x8000), id, 4);
	assert_int_equal(get_le32(id), 0);
	rig_close(&r);
}

/* A driver that hears of the reset late would end what was opened since. */
static void a_loaded_machine_opens_nothing_before_it_knows(void **state)
{
	static struct rig r;
	const struct state_desc *desc;
	struct err e = {0};
	int fd, more;

	rig_open(&r, SIZE);
	desc = r.dev->cls->state;
	post(&r, 2, TXBUF + 0x8000, 4, true);
	post(&r, 2, TXBUF + 0x8010, 4, true);
	turn(&r);
	assert_int_equal(r.dev->cls->quiesce(r.dev, &e), 0);
	assert_int_equal(desc->post_load(r.dev, desc->version, &e), 0);
	r.dev->cls->resume(r.dev);
	fd = unix_socket(r.path, 0);
	assert_int_equal(write(fd, "CONNECT 1024\n", 13), 13);
	assert_false(next(&r));
	/* On a busy host it hears of it after a second, or two. */
	usleep(1200000);
	more = unix_socket(r.path, 0);
	assert_int_equal(write(more, "CONNECT 1024\n", 13), 13);
	assert_false(next(&r));
	post(&r, 2, TXBUF + 0x8000, 4, true);
	expect(&r, REQUEST, 0, 1024);
	expect(&r, REQUEST, 0, 1024);
	close(fd);
	close(more);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_program_reaches_the_guest_and_back),
		cmocka_unit_test(the_guest_reaches_a_program_or_is_refused),
		cmocka_unit_test(nothing_is_sent_beyond_the_guests_credit),
		cmocka_unit_test(who_sends_beyond_our_credit_is_cut_off),
		cmocka_unit_test(packets_that_make_no_sense_are_answered_or_dropped),
		cmocka_unit_test(without_buffers_nothing_grows),
		cmocka_unit_test(programs_that_say_nonsense_are_let_go),
		cmocka_unit_test(a_loaded_machine_says_that_connections_are_gone),
		cmocka_unit_test(a_loaded_machine_opens_nothing_before_it_knows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
