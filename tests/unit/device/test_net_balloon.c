/* virtio-net and virtio-balloon under a scripted driver: what a good one gets, and what a bad one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "../net/fake_net.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/state.h"
#include "device/virtio_balloon.h"
#include "device/virtio_net.h"
#include "vdriver.h"

#define SIZE 64
#define RING(q) (VD_RAM + 0x100000 + (q)*0x8000ull)
#define AVAIL(q) (RING(q) + 0x2000)
#define USED(q) (RING(q) + 0x4000)
#define BUF(i) (VD_RAM + 0x200000 + (i)*0x1000ull)

#define F_MRG (1ull << 15)
#define F_CTRL (1ull << 17 | 1ull << 18)
#define F_CTRL_MAC (1ull << 23)
enum { RX, TX, CTRL };

struct rig {
	struct vdriver d;
	struct device *dev;
	struct fake_net net;
	uint16_t avail[4];
};

static void start(struct rig *r, uint64_t features, unsigned queues)
{
	struct vdriver *d = &r->d;

	features |= 1ull << 32;
	memset(r->avail, 0, sizeof(r->avail));
	vd_write(d, 0x14, 1, 0);
	space_fill(d->space, gpa(VD_RAM), 0, VD_RAM_LEN);
	vd_write(d, 0x14, 1, 3);
	for (unsigned half = 0; half < 2; half++) {
		vd_write(d, 0x08, 4, half);
		vd_write(d, 0x0c, 4, features >> (32 * half));
	}
	vd_write(d, 0x14, 1, 0xb);
	assert_int_equal(vd_status(d), 0xb);
	for (unsigned q = 0; q < queues; q++)
		vd_queue(d, (uint16_t)q, SIZE, RING(q), AVAIL(q), USED(q));
	vd_write(d, 0x14, 1, 0xf);
}

static void desc(struct rig *r, unsigned q, unsigned i, uint64_t at, uint32_t len, unsigned flags)
{
	vd_desc_at(&r->d, RING(q), i, at, len, (uint16_t)flags, (uint16_t)(i + 1));
}

static void submit(struct rig *r, unsigned q, unsigned head)
{
	space_store16(r->d.space, gpa(AVAIL(q) + 4 + 2ull * (r->avail[q] % SIZE)), (uint16_t)head);
	space_store16(r->d.space, gpa(AVAIL(q) + 2), ++r->avail[q]);
	vd_bell(&r->d, q);
}

static unsigned used(struct rig *r, unsigned q)
{
	uint16_t v;

	assert_int_equal(space_load16(r->d.space, gpa(USED(q) + 2), &v), 0);
	return v;
}

static uint32_t used_len(struct rig *r, unsigned q, unsigned i)
{
	uint8_t raw[4];

	space_read(r->d.space, gpa(USED(q) + 4 + 8ull * (i % SIZE) + 4), raw, 4);
	return get_le32(raw);
}

static bool broken(struct rig *r)
{
	return vd_status(&r->d) & VD_NEEDS_RESET;
}

static int open_net_with(struct rig *r, unsigned offloads)
{
	struct virtio_net_opts o = {.net = &r->net.b, .mac = {0x52, 1, 2, 3, 4, 5}};

	memset(r, 0, sizeof(*r));
	fake_init(&r->net, offloads, offloads);
	vd_machine(&r->d);
	r->dev = vd_add(&r->d, "virtio-net", "net0", &o, 1);
	return 0;
}

static int open_net(void **state)
{
	static struct rig r;

	*state = &r;
	return open_net_with(&r, 0);
}

static int open_net_offloads(void **state)
{
	static struct rig r;

	*state = &r;
	return open_net_with(&r, NET_OFF_CSUM | NET_OFF_TSO4);
}

static int close_rig(void **state)
{
	struct rig *r = *state;

	vd_close(&r->d, &r->dev, 1);
	return 0;
}

static json_int_t stat_of(struct rig *r, const char *key)
{
	json_t *j = json_object();
	json_int_t v;

	r->dev->cls->stats(r->dev, j);
	v = json_integer_value(json_object_get(j, key));
	json_decref(j);
	return v;
}

static void make_frame(uint8_t *f, const uint8_t *dst, size_t len)
{
	memset(f, 0, NET_HDR);
	for (size_t i = NET_HDR; i < len; i++)
		f[i] = (uint8_t)(i * 7);
	memcpy(f + NET_HDR, dst, 6);
}

static const uint8_t our_mac[6] = {0x52, 1, 2, 3, 4, 5}, other_mac[6] = {0x52, 9, 9, 9, 9, 9};

static void frames_go_out_whole(void **state)
{
	struct rig *r = *state;
	uint8_t f[NET_HDR + 200];

	start(r, F_MRG, 2);
	make_frame(f, other_mac, sizeof(f));
	space_write(r->d.space, gpa(BUF(0)), f, sizeof(f));
	/* Split where a driver might: inside the header, and inside the frame. */
	desc(r, TX, 0, BUF(0), 5, VD_NEXT);
	desc(r, TX, 1, BUF(0) + 5, 60, VD_NEXT);
	desc(r, TX, 2, BUF(0) + 65, sizeof(f) - 65, 0);
	submit(r, TX, 0);
	assert_int_equal(used(r, TX), 1);
	assert_int_equal(r->net.sent, 1);
	assert_int_equal(r->net.last_len, sizeof(f));
	assert_memory_equal(r->net.last, f, sizeof(f));
	assert_int_equal(stat_of(r, "tx_packets"), 1);
	assert_int_equal(stat_of(r, "tx_bytes"), 200);
}

static void bad_frames_are_dropped_and_counted(void **state)
{
	struct rig *r = *state;
	uint8_t head[NET_HDR] = {0};

	start(r, 0, 2);
	/* Longer than 64 KiB. */
	for (unsigned i = 0; i < 4; i++)
		desc(r, TX, i, BUF(0), 0x8000, i < 3 ? VD_NEXT : 0);
	submit(r, TX, 0);
	/* A header and no frame; a frame of 5 bytes. */
	desc(r, TX, 0, BUF(0), NET_HDR, 0);
	submit(r, TX, 0);
	desc(r, TX, 0, BUF(0), NET_HDR + 5, 0);
	submit(r, TX, 0);
	/* Segments that nobody offered to cut. */
	head[NET_H_FLAGS] = NET_NEEDS_CSUM;
	head[NET_H_GSO_TYPE] = NET_GSO_TCPV4;
	put_le16(head + NET_H_GSO_SIZE, 1000);
	space_write(r->d.space, gpa(BUF(0)), head, sizeof(head));
	desc(r, TX, 0, BUF(0), 3000, 0);
	submit(r, TX, 0);
	assert_int_equal(used(r, TX), 4);
	assert_int_equal(r->net.sent, 0);
	assert_int_equal(stat_of(r, "tx_drops"), 4);
	assert_false(broken(r));
	/* Without even a header it is no request at all. */
	desc(r, TX, 0, BUF(0), NET_HDR - 1, 0);
	submit(r, TX, 0);
	assert_true(broken(r));
	assert_int_equal(r->d.reports, 1);
	start(r, 0, 2);
	desc(r, TX, 0, BUF(0), 100, 0);
	submit(r, TX, 0);
	assert_int_equal(r->net.sent, 1);
}

static void offloads_only_as_negotiated(void **state)
{
	struct rig *r = *state;
	uint8_t head[NET_HDR] = {[NET_H_FLAGS] = NET_NEEDS_CSUM};

	start(r, 1ull << 0 | 1ull << 1, 2); /* CSUM, GUEST_CSUM */
	put_le16(head + NET_H_CSUM_START, 34);
	put_le16(head + NET_H_CSUM_OFFSET, 16);
	space_write(r->d.space, gpa(BUF(0)), head, sizeof(head));
	desc(r, TX, 0, BUF(0), 100, 0);
	submit(r, TX, 0);
	assert_int_equal(r->net.sent, 1);
	assert_int_equal(r->net.last[NET_H_FLAGS], NET_NEEDS_CSUM);
	assert_int_equal(r->net.b.accepted, NET_OFF_CSUM);
	/* Segments, which the back end would take but the driver has not asked for a checksum with. */
	head[NET_H_FLAGS] = 0;
	head[NET_H_GSO_TYPE] = NET_GSO_TCPV4;
	space_write(r->d.space, gpa(BUF(0)), head, sizeof(head));
	desc(r, TX, 0, BUF(0), 3000, 0);
	submit(r, TX, 0);
	assert_int_equal(r->net.sent, 1);
	start(r, 0, 2);
	desc(r, TX, 0, BUF(0), 100, 0);
	submit(r, TX, 0);
	assert_int_equal(r->net.b.accepted, 0);
}

static void post(struct rig *r, unsigned i, uint32_t len)
{
	desc(r, RX, i, BUF(i), len, VD_WRITE);
	submit(r, RX, i);
}

static void a_frame_fills_one_buffer(void **state)
{
	struct rig *r = *state;
	uint8_t f[NET_HDR + 300], got[sizeof(f)];

	start(r, 0, 2);
	make_frame(f, our_mac, sizeof(f));
	assert_false(net_deliver(&r->net.b, f, sizeof(f))); /* no buffer: keep it */
	assert_int_equal(stat_of(r, "rx_waits"), 1);
	r->net.flushed = 0;
	post(r, 0, 1600);
	assert_int_equal(r->net.flushed, 1);
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(used(r, RX), 1);
	assert_int_equal(used_len(r, RX, 0), sizeof(f));
	space_read(r->d.space, gpa(BUF(0)), got, sizeof(got));
	put_le16(f + NET_H_BUFFERS, 1);
	assert_memory_equal(got, f, sizeof(f));
	/* One that does not fit is dropped, and the buffer stays. */
	post(r, 1, 100);
	put_le16(f + NET_H_BUFFERS, 0);
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(used(r, RX), 1);
	assert_int_equal(stat_of(r, "rx_drops"), 1);
	assert_true(net_deliver(&r->net.b, f, 60));
	assert_int_equal(used(r, RX), 2);
	assert_int_equal(used_len(r, RX, 1), 60);
}

static void a_frame_over_several_buffers_appears_at_once(void **state)
{
	struct rig *r = *state;
	uint8_t f[NET_HDR + 1000], got[400];
	uint8_t count[2];

	start(r, F_MRG, 2);
	make_frame(f, our_mac, sizeof(f));
	for (unsigned i = 0; i < 2; i++)
		post(r, i, 400);
	assert_false(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(used(r, RX), 0); /* nothing of it was shown */
	post(r, 2, 400);
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(used(r, RX), 3);
	assert_int_equal(used_len(r, RX, 0), 400);
	assert_int_equal(used_len(r, RX, 2), sizeof(f) - 800);
	space_read(r->d.space, gpa(BUF(0) + NET_H_BUFFERS), count, 2);
	assert_int_equal(get_le16(count), 3);
	space_read(r->d.space, gpa(BUF(1)), got, sizeof(got));
	assert_memory_equal(got, f + 400, 400);
	/* A driver of tiny buffers: 128 of them are the bound; 64 fit the ring. */
	for (unsigned i = 3; i < 3 + SIZE && i < 60; i++)
		post(r, i % SIZE, 1);
	assert_false(broken(r));
	assert_false(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(used(r, RX), 3);
}

static int ctrl(struct rig *r, const void *cmd, uint32_t len)
{
	uint8_t ack = 0xee;

	space_write(r->d.space, gpa(BUF(0)), cmd, len);
	space_write(r->d.space, gpa(BUF(1)), &ack, 1);
	desc(r, CTRL, 0, BUF(0), len, VD_NEXT);
	desc(r, CTRL, 1, BUF(1), 1, VD_WRITE);
	submit(r, CTRL, 0);
	space_read(r->d.space, gpa(BUF(1)), &ack, 1);
	return ack;
}

static bool passes(struct rig *r, const uint8_t *dst)
{
	uint8_t f[NET_HDR + 60];
	unsigned before = used(r, RX);

	make_frame(f, dst, sizeof(f));
	post(r, 2, 1600);
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	if (used(r, RX) != before)
		return true;
	/* Take the buffer back by a frame that always passes. */
	memset(f + NET_HDR, 0xff, 6);
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	return false;
}

static void the_filter_obeys(void **state)
{
	static const uint8_t multi[6] = {1, 0, 0x5e, 0, 0, 1}, multi2[6] = {1, 0, 0x5e, 0, 0, 2};
	uint8_t table[2 + 4 + 4 + 6] = {1, 0};
	struct rig *r = *state;

	start(r, F_CTRL | F_CTRL_MAC, 3);
	assert_true(passes(r, other_mac)); /* promiscuous until told otherwise */
	assert_int_equal(ctrl(r, (uint8_t[]){0, 0, 0}, 3), 0);
	assert_false(passes(r, other_mac));
	assert_true(passes(r, our_mac));
	assert_false(passes(r, multi));
	put_le32(table + 6, 1);
	memcpy(table + 10, multi, 6);
	assert_int_equal(ctrl(r, table, sizeof(table)), 0);
	assert_true(passes(r, multi));
	assert_false(passes(r, multi2));
	assert_int_equal(ctrl(r, (uint8_t[]){0, 1, 1}, 3), 0); /* all multicast */
	assert_true(passes(r, multi2));
	assert_int_equal(ctrl(r, (uint8_t[]){1, 1, 0x52, 9, 9, 9, 9, 9}, 8), 0);
	assert_true(passes(r, other_mac));
	assert_false(passes(r, our_mac));
	assert_int_equal(vd_read(&r->d, 0x2001, 1), 9);
	/* Nonsense: told so, and nothing changes. */
	assert_int_equal(ctrl(r, (uint8_t[]){0, 2, 1}, 3), 1); /* EXTRA was not negotiated */
	assert_int_equal(ctrl(r, (uint8_t[]){9, 9}, 2), 1);
	assert_int_equal(ctrl(r, (uint8_t[]){1}, 1), 1);
	assert_int_equal(ctrl(r, (uint8_t[]){1, 1, 0x53, 9, 9, 9, 9, 9}, 8), 1);
	put_le32(table + 2, 0xffffffff);
	assert_int_equal(ctrl(r, table, sizeof(table)), 1);
	assert_true(passes(r, other_mac));
	assert_false(broken(r));
	/* No room for the answer. */
	desc(r, CTRL, 0, BUF(0), 3, 0);
	submit(r, CTRL, 0);
	assert_true(broken(r));
	/* A reset brings the first address back. */
	start(r, F_CTRL, 3);
	assert_int_equal(vd_read(&r->d, 0x2001, 1), 1);
}

static void nobody_at_home_drops(void **state)
{
	struct rig *r = *state;
	uint8_t f[NET_HDR + 60];

	make_frame(f, our_mac, sizeof(f));
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(stat_of(r, "rx_drops"), 1);
}

static void the_link_goes_down(void **state)
{
	struct rig *r = *state;
	uint8_t generation;

	start(r, 1ull << 16, 2);
	assert_int_equal(vd_read(&r->d, 0x2006, 2), 1);
	generation = (uint8_t)vd_read(&r->d, 0x15, 1);
	net_link_set(&r->net.b, false);
	assert_int_equal(vd_read(&r->d, 0x2006, 2), 0);
	assert_int_not_equal(vd_read(&r->d, 0x15, 1), generation);
	desc(r, TX, 0, BUF(0), 100, 0);
	submit(r, TX, 0);
	assert_int_equal(r->net.sent, 0);
	assert_int_equal(stat_of(r, "tx_drops"), 1);
}

static void quiet_and_back(void **state)
{
	struct rig *r = *state;
	struct state_obj obj = {"net0", r->dev->cls->state, r->dev};
	struct err e = {0};
	uint8_t f[NET_HDR + 60], *buf;
	size_t len;

	start(r, F_MRG | F_CTRL, 3);
	make_frame(f, our_mac, sizeof(f));
	post(r, 0, 1600);
	assert_int_equal(ctrl(r, (uint8_t[]){0, 0, 0}, 3), 0);
	assert_int_equal(r->dev->cls->quiesce(r->dev, &e), 0);
	assert_false(net_deliver(&r->net.b, f, sizeof(f))); /* kept, not lost */
	assert_int_equal(state_save(&obj, 1, &buf, &len, &e), 0);
	r->dev->cls->reset(r->dev);
	assert_int_equal(state_load(&obj, 1, buf, len, &e), 0);
	free(buf);
	r->dev->cls->resume(r->dev);
	uv_run(&r->d.loop, UV_RUN_NOWAIT);
	assert_true(net_deliver(&r->net.b, f, sizeof(f)));
	assert_int_equal(used(r, RX), 1);
	assert_false(passes(r, other_mac)); /* the filter came along */
}

/* ---- balloon ---- */

#define F_STATS (1ull << 1)
#define F_REPORTING (1ull << 5)
enum { INFLATE, DEFLATE, STATS, REPORTING };

static int open_balloon(void **state)
{
	static struct rig r;

	memset(&r, 0, sizeof(r));
	vd_machine(&r.d);
	r.dev = vd_add(&r.d, "virtio-balloon", "balloon", NULL, 1);
	*state = &r;
	return 0;
}

static uint8_t byte_at(struct rig *r, uint64_t a)
{
	uint8_t b;

	assert_int_equal(space_read(r->d.space, gpa(a), &b, 1), 0);
	return b;
}

static void pages_are_given_back(void **state)
{
	uint32_t page = (uint32_t)((VD_RAM + 0x300000) / PAGE_SIZE);
	uint8_t pfns[4 * 6];
	struct rig *r = *state;

	start(r, 0, 2);
	space_fill(r->d.space, gpa(VD_RAM + 0x300000), 0x5a, 0x10000);
	/* Up, down, twice, outside of RAM, and the highest number there is. */
	put_le32(pfns, page + 2);
	put_le32(pfns + 4, page + 1);
	put_le32(pfns + 8, page + 5);
	put_le32(pfns + 12, page + 5);
	put_le32(pfns + 16, 1);
	put_le32(pfns + 20, 0xffffffff);
	space_write(r->d.space, gpa(BUF(0)), pfns, sizeof(pfns));
	desc(r, INFLATE, 0, BUF(0), sizeof(pfns), 0);
	submit(r, INFLATE, 0);
	assert_int_equal(used(r, INFLATE), 1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(byte_at(r, VD_RAM + 0x300000 + i * PAGE_SIZE + 7),
			i == 1 || i == 2 || i == 5 ? 0 : 0x5a);
	assert_int_equal(stat_of(r, "inflated_pages"), 4);
	assert_int_equal(stat_of(r, "refused_pages"), 2);
	assert_false(broken(r));
	/* A run that leaves RAM: what is inside goes, the rest is refused. */
	put_le32(pfns, (uint32_t)((VD_RAM + VD_RAM_LEN) / PAGE_SIZE - 1));
	put_le32(pfns + 4, (uint32_t)((VD_RAM + VD_RAM_LEN) / PAGE_SIZE));
	space_fill(r->d.space, gpa(VD_RAM + VD_RAM_LEN - PAGE_SIZE), 0x77, PAGE_SIZE);
	space_write(r->d.space, gpa(BUF(0)), pfns, 8);
	desc(r, INFLATE, 0, BUF(0), 8, 0);
	submit(r, INFLATE, 0);
	assert_int_equal(byte_at(r, VD_RAM + VD_RAM_LEN - 1), 0);
	assert_int_equal(stat_of(r, "refused_pages"), 3);
	desc(r, DEFLATE, 0, BUF(0), 8, 0);
	submit(r, DEFLATE, 0);
	assert_int_equal(stat_of(r, "deflated_pages"), 2);
}

static void free_pages_are_reported(void **state)
{
	struct rig *r = *state;

	start(r, F_STATS | F_REPORTING, 4);
	space_fill(r->d.space, gpa(VD_RAM + 0x300000), 0x5a, 0x10000);
	/* Only whole pages inside the range. */
	desc(r, REPORTING, 0, VD_RAM + 0x300800, 0x3000, VD_WRITE);
	submit(r, REPORTING, 0);
	assert_int_equal(used(r, REPORTING), 1);
	assert_int_equal(byte_at(r, VD_RAM + 0x300fff), 0x5a);
	assert_int_equal(byte_at(r, VD_RAM + 0x301000), 0);
	assert_int_equal(byte_at(r, VD_RAM + 0x302fff), 0);
	assert_int_equal(byte_at(r, VD_RAM + 0x303000), 0x5a);
	assert_int_equal(stat_of(r, "reported_pages"), 2);
	/* Without the feature the queue is no such thing. */
	start(r, F_STATS, 4);
	space_fill(r->d.space, gpa(VD_RAM + 0x300000), 0x5a, 0x10000);
	desc(r, REPORTING, 0, VD_RAM + 0x300000, 0x3000, VD_WRITE);
	submit(r, REPORTING, 0);
	assert_int_equal(byte_at(r, VD_RAM + 0x301000), 0x5a);
}

#define REPORTED (VD_RAM + 0x300000)

static void count_reported(void *ctx, gpa_t page, const void *host)
{
	unsigned *n = ctx;

	*n += page.v >= REPORTED && page.v < REPORTED + 0x8000;
}

/* A snapshot copies what is announced: not what is empty. */
static void empty_pages_are_not_announced(void **state)
{
	struct rig *r = *state;
	struct tracker *t;
	struct err e = {0};
	unsigned n = 0;
	struct tracker_ops ops = {.before = count_reported, .ctx = &n};

	start(r, F_STATS | F_REPORTING, 4);
	space_fill(r->d.space, gpa(REPORTED + 0x4000), 0x5a, 0x4000);
	assert_int_equal(space_discard(r->d.space, gpa(REPORTED), 0x4000), 0);
	assert_int_equal(tracker_start(&t, r->d.space, &ops, &e), 0);
	desc(r, REPORTING, 0, REPORTED, 0x4000, VD_WRITE);
	submit(r, REPORTING, 0);
	assert_int_equal(stat_of(r, "reported_pages"), 4);
	assert_int_equal(n, 0);
	desc(r, REPORTING, 0, REPORTED, 0x8000, VD_WRITE);
	submit(r, REPORTING, 0);
	assert_int_equal(stat_of(r, "reported_pages"), 12);
	assert_int_equal(n, 4);
	assert_int_equal(byte_at(r, REPORTED + 0x4000), 0);
	tracker_stop(t);
}

static void put_stat(struct rig *r, uint64_t value)
{
	uint8_t s[20];

	put_le16(s, 4); /* free */
	put_le64(s + 2, value);
	put_le16(s + 10, 999); /* unknown: skipped */
	put_le64(s + 12, 1);
	space_write(r->d.space, gpa(BUF(3)), s, sizeof(s));
	desc(r, STATS, 0, BUF(3), sizeof(s), 0);
	submit(r, STATS, 0);
}

static json_int_t guest_free(struct rig *r)
{
	json_t *j = json_object();
	json_int_t v;

	r->dev->cls->stats(r->dev, j);
	v = json_integer_value(json_object_get(json_object_get(j, "guest"), "free"));
	json_decref(j);
	return v;
}

static void statistics_come_and_go(void **state)
{
	struct err e = {0};
	struct rig *r = *state;

	start(r, F_STATS, 3);
	put_stat(r, 1234);
	assert_int_equal(used(r, STATS), 0); /* kept until somebody asks */
	assert_int_equal(r->dev->cls->quiesce(r->dev, &e), 0); /* and in nobody's way */
	r->dev->cls->resume(r->dev);
	uv_run(&r->d.loop, UV_RUN_NOWAIT);
	assert_int_equal(guest_free(r), 1234);
	assert_int_equal(used(r, STATS), 1); /* which asks for the next */
	put_stat(r, 5678);
	assert_int_equal(guest_free(r), 5678);
	assert_int_equal(used(r, STATS), 2);
	vd_write(&r->d, 0x14, 1, 0); /* nothing holds a reset up */
	assert_int_equal(vd_status(&r->d), 0);
}

static void a_target_is_told(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	start(r, 0, 2);
	assert_int_equal(virtio_balloon_set(r->dev, MiB, &e), 0);
	assert_int_equal(vd_read(&r->d, 0x2000, 4), MiB / PAGE_SIZE);
	vd_write(&r->d, 0x2004, 4, 77);
	assert_int_equal(vd_read(&r->d, 0x2004, 4), 77);
	vd_write(&r->d, 0x2000, 4, 12345); /* not the driver's */
	assert_int_equal(vd_read(&r->d, 0x2000, 4), MiB / PAGE_SIZE);
	assert_int_equal(virtio_balloon_set(r->dev, VD_RAM_LEN + PAGE_SIZE, &e), -EINVAL);
}

#define NET(f) cmocka_unit_test_setup_teardown(f, open_net, close_rig)
#define OFF(f) cmocka_unit_test_setup_teardown(f, open_net_offloads, close_rig)
#define BALLOON(f) cmocka_unit_test_setup_teardown(f, open_balloon, close_rig)

int main(void)
{
	const struct CMUnitTest tests[] = {
		NET(frames_go_out_whole),
		NET(bad_frames_are_dropped_and_counted),
		OFF(offloads_only_as_negotiated),
		NET(a_frame_fills_one_buffer),
		NET(a_frame_over_several_buffers_appears_at_once),
		NET(the_filter_obeys),
		NET(nobody_at_home_drops),
		NET(the_link_goes_down),
		NET(quiet_and_back),
		BALLOON(pages_are_given_back),
		BALLOON(free_pages_are_reported),
		BALLOON(empty_pages_are_not_announced),
		BALLOON(statistics_come_and_go),
		BALLOON(a_target_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
