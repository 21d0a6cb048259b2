/* The small devices as their drivers see them: console, entropy, power button; and what all share: save, quiesce, reset in mid-request. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/state.h"
#include "base/util.h"
#include "device/chardev.h"
#include "device/virtio.h"
#include "device/virtio_console.h"
#include "device/virtio_input.h"
#include "vdriver.h"

#define SIZE 16
#define TX_DESC (VD_RAM + 0x18000)
#define TX_AVAIL (VD_RAM + 0x19000)
#define TX_USED (VD_RAM + 0x1a000)
#define CFG 0x2000 /* device configuration in BAR 0 */

struct rig {
	struct vdriver d;
	struct device *dev;
	struct chardev *chr;
	uint16_t tx_idx;
};

static void rig_open(struct rig *r, const char *cls, uint64_t seed)
{
	struct virtio_console_opts console;

	memset(r, 0, sizeof(*r));
	vd_machine(&r->d);
	r->d.env.seed = seed;
	assert_int_equal(chardev_create(&r->chr, 1 << 16, 1 << 14, NULL), 0);
	console.chardev = r->chr;
	r->dev = vd_add(&r->d, cls, "dev", &console, 1);
}

static void rig_close(struct rig *r)
{
	vd_close(&r->d, &r->dev, 1);
	chardev_destroy(r->chr);
}

/* Starts with queue 1 as well, which vd_start() does not know. */
static void start_two(struct rig *r)
{
	struct vdriver *d = &r->d;

	vd_start(d, 0, SIZE);
	vd_queue(d, 1, SIZE, TX_DESC, TX_AVAIL, TX_USED);
	space_fill(d->space, gpa(TX_DESC), 0, 0x3000);
	r->tx_idx = 0;
	vd_bell(d, 1);
}

static void transmit(struct rig *r, uint64_t addr, uint32_t len)
{
	struct vdriver *d = &r->d;

	vd_desc_at(d, TX_DESC, r->tx_idx % SIZE, addr, len, 0, 0);
	space_store16(d->space, gpa(TX_AVAIL + 4 + 2ull * (r->tx_idx % SIZE)), r->tx_idx % SIZE);
	space_store16(d->space, gpa(TX_AVAIL + 2), ++r->tx_idx);
	vd_bell(d, 1);
}

static uint16_t sent(struct rig *r)
{
	uint16_t v = 0;

	space_load16(r->d.space, gpa(TX_USED + 2), &v);
	return v;
}

/* ---- console ---- */

static void what_the_guest_prints_comes_out(void **state)
{
	static struct rig r;
	char buf[64] = "";

	rig_open(&r, "virtio-console", 0);
	start_two(&r);
	space_write(r.d.space, gpa(VD_DATA), "hello, world", 12);
	transmit(&r, VD_DATA, 5);
	transmit(&r, VD_DATA + 5, 7);
	assert_int_equal(sent(&r), 2);
	assert_int_equal(chardev_take(r.chr, buf, sizeof(buf)), 12);
	assert_string_equal(buf, "hello, world");
	/* One port, 80 by 25. */
	assert_int_equal(vd_read(&r.d, CFG, 2), 80);
	assert_int_equal(vd_read(&r.d, CFG + 2, 2), 25);
	assert_int_equal(vd_read(&r.d, CFG + 4, 4), 1);
	rig_close(&r);
}

static void what_is_typed_goes_in_and_waits_for_buffers(void **state)
{
	static struct rig r;
	char buf[64] = "";

	rig_open(&r, "virtio-console", 0);
	start_two(&r);
	assert_int_equal(chardev_give(r.chr, "typed early", 11), 11);
	vd_bell(&r.d, 0);
	assert_int_equal(vd_used(&r.d), 0);
	vd_desc(&r.d, 0, VD_DATA, 6, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 0);
	assert_int_equal(vd_used(&r.d), 1);
	assert_int_equal(vd_used_len(&r.d, SIZE, 0), 6);
	vd_desc(&r.d, 1, VD_DATA + 6, 32, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 1);
	assert_int_equal(vd_used_len(&r.d, SIZE, 1), 5);
	space_read(r.d.space, gpa(VD_DATA), buf, 11);
	assert_string_equal(buf, "typed early");
	/* A buffer that waits is filled when something is typed. */
	vd_desc(&r.d, 2, VD_DATA, 32, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 2);
	assert_int_equal(vd_used(&r.d), 2);
	chardev_give(r.chr, "x", 1);
	uv_run(&r.d.loop, UV_RUN_NOWAIT);
	assert_int_equal(vd_used(&r.d), 3);
	assert_int_equal(vd_used_len(&r.d, SIZE, 2), 1);
	rig_close(&r);
}

/* One request that names the same RAM over and over, to 4 GiB in all: over soon, and answered. */
static void a_print_of_gigabytes_ends_soon(void **state)
{
	static struct rig r;
	uint64_t t;

	rig_open(&r, "virtio-console", 0);
	vd_start(&r.d, VIRTIO_F_INDIRECT_DESC, SIZE);
	vd_queue(&r.d, 1, SIZE, TX_DESC, TX_AVAIL, TX_USED);
	space_fill(r.d.space, gpa(TX_DESC), 0, 0x3000);
	for (unsigned i = 0; i < 1000; i++)
		vd_desc_at(&r.d, VD_RAM + 0x20000, i, VD_RAM, 4 << 20, i < 999 ? VD_NEXT : 0,
			(uint16_t)(i + 1));
	vd_desc_at(&r.d, TX_DESC, 0, VD_RAM + 0x20000, 16000, VD_INDIRECT, 0);
	space_store16(r.d.space, gpa(TX_AVAIL + 2), 1);
	t = uv_hrtime();
	vd_bell(&r.d, 1);
	assert_true(uv_hrtime() - t < 2000000000ull);
	assert_int_equal(sent(&r), 1);
	assert_int_equal(r.d.reports, 0);
	rig_close(&r);
}

/* ---- entropy ---- */

static void take(struct rig *r, uint8_t out[64])
{
	vd_start(&r->d, 0, SIZE);
	vd_desc(&r->d, 0, VD_DATA, 64, VD_WRITE, 0);
	vd_submit(&r->d, SIZE, 0);
	assert_int_equal(vd_used_len(&r->d, SIZE, 0), 64);
	space_read(r->d.space, gpa(VD_DATA), out, 64);
}

static void a_seed_repeats_and_the_host_does_not(void **state)
{
	static struct rig r;
	uint8_t got[6][64];

	for (unsigned i = 0; i < 4; i++) {
		rig_open(&r, "virtio-rng", i < 2 ? 42 : i == 2 ? 43 : 0);
		take(&r, got[i]);
		if (i == 3)
			take(&r, got[4]);
		rig_close(&r);
	}
	assert_memory_equal(got[0], got[1], 64);
	assert_memory_not_equal(got[0], got[2], 64);
	assert_memory_not_equal(got[3], got[4], 64);
}

static void one_request_takes_a_bounded_amount(void **state)
{
	static struct rig r;

	rig_open(&r, "virtio-rng", 1);
	vd_start(&r.d, 0, SIZE);
	vd_desc(&r.d, 0, VD_DATA, 2 << 20, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 0);
	assert_int_equal(vd_used(&r.d), 1);
	assert_int_equal(vd_used_len(&r.d, SIZE, 0), 65536);
	/* A buffer that cannot be written to is nothing to write. */
	vd_desc(&r.d, 1, VD_DATA, 16, 0, 0);
	vd_submit(&r.d, SIZE, 1);
	assert_int_equal(vd_used_len(&r.d, SIZE, 1), 0);
	rig_close(&r);
}

/* ---- power button ---- */

static void expect_event(struct rig *r, uint16_t i, unsigned type, unsigned code, unsigned value)
{
	uint8_t ev[8];

	assert_int_equal(vd_used_len(&r->d, SIZE, i), 8);
	space_read(r->d.space, gpa(VD_DATA + 8ull * i), ev, 8);
	assert_int_equal(get_le16(ev), type);
	assert_int_equal(get_le16(ev + 2), code);
	assert_int_equal(get_le32(ev + 4), value);
}

static void the_power_button_is_pressed_and_released(void **state)
{
	static struct rig r;
	struct err e = {0};

	rig_open(&r, "virtio-input", 0);
	assert_int_equal(virtio_input_power(r.dev, &e), -ENOTCONN);
	assert_non_null(strstr(err_msg(&e), "driver"));
	vd_start(&r.d, 0, SIZE);
	for (unsigned i = 0; i < 3; i++) {
		vd_desc(&r.d, i, VD_DATA + 8ull * i, 8, VD_WRITE, 0);
		vd_submit(&r.d, SIZE, (uint16_t)i);
	}
	assert_int_equal(vd_used(&r.d), 0);
	assert_int_equal(virtio_input_power(r.dev, &e), 0);
	assert_int_equal(vd_used(&r.d), 3);
	/* The fourth event waits for a buffer. */
	vd_desc(&r.d, 3, VD_DATA + 24, 8, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 3);
	assert_int_equal(vd_used(&r.d), 4);
	expect_event(&r, 0, 1, 116, 1); /* EV_KEY KEY_POWER */
	expect_event(&r, 1, 0, 0, 0); /* EV_SYN SYN_REPORT */
	expect_event(&r, 2, 1, 116, 0);
	expect_event(&r, 3, 0, 0, 0);
	rig_close(&r);
}

static unsigned ask(struct rig *r, unsigned select, unsigned subsel)
{
	vd_write(&r->d, CFG, 1, select);
	vd_write(&r->d, CFG + 1, 1, subsel);
	return (unsigned)vd_read(&r->d, CFG + 2, 1);
}

static void the_keyboard_has_one_key(void **state)
{
	static struct rig r;
	unsigned keys = 0;

	rig_open(&r, "virtio-input", 0);
	assert_int_equal(ask(&r, 1, 0), 18); /* the name's length */
	assert_int_equal(vd_read(&r.d, CFG + 8, 1), 'L');
	assert_int_equal(ask(&r, 3, 0), 8);
	assert_int_equal(ask(&r, 0x11, 1), 116 / 8 + 1);
	for (unsigned i = 0; i < 128; i++)
		keys += (unsigned)__builtin_popcountll(vd_read(&r.d, CFG + 8 + i, 1));
	assert_int_equal(keys, 1);
	assert_int_equal(vd_read(&r.d, CFG + 8 + 116 / 8, 1), 1 << 116 % 8);
	assert_int_equal(ask(&r, 0x11, 2), 0); /* no axes */
	assert_int_equal(ask(&r, 0x55, 1), 0);
	rig_close(&r);
}

/* ---- what all share ---- */

/* A machine that is saved between two requests goes on in another one where it was. */
static void saved_rings_go_on_elsewhere(void **state)
{
	static struct rig a, b;
	struct state_obj obj;
	uint8_t *ram, *buf;
	struct err e = {0};
	size_t len;

	rig_open(&a, "virtio-rng", 7);
	rig_open(&b, "virtio-rng", 7);
	vd_start(&a.d, VIRTIO_F_EVENT_IDX, SIZE);
	for (unsigned i = 0; i < 5; i++) {
		vd_desc(&a.d, 0, VD_DATA, 16, VD_WRITE, 0);
		vd_submit(&a.d, SIZE, 0);
	}
	assert_int_equal(a.dev->cls->quiesce(a.dev, &e), 0);
	/* Rung while quiesced: stays in the ring, and is not forgotten. */
	vd_submit(&a.d, SIZE, 0);
	assert_int_equal(vd_used(&a.d), 5);
	obj = (struct state_obj){"dev", a.dev->cls->state, a.dev};
	assert_int_equal(state_save(&obj, 1, &buf, &len, &e), 0);
	ram = malloc(VD_RAM_LEN);
	space_read(a.d.space, gpa(VD_RAM), ram, VD_RAM_LEN);
	space_write(b.d.space, gpa(VD_RAM), ram, VD_RAM_LEN);
	obj.obj = b.dev;
	assert_int_equal(state_load(&obj, 1, buf, len, &e), 0);
	b.d.avail_idx = a.d.avail_idx;
	uv_run(&b.d.loop, UV_RUN_NOWAIT);
	uv_run(&b.d.loop, UV_RUN_NOWAIT);
	assert_int_equal(vd_used(&b.d), 6);
	vd_submit(&b.d, SIZE, 0);
	assert_int_equal(vd_used(&b.d), 7);
	/* And here as well, after resume. */
	a.dev->cls->resume(a.dev);
	uv_run(&a.d.loop, UV_RUN_NOWAIT);
	assert_int_equal(vd_used(&a.d), 6);
	free(ram);
	free(buf);
	rig_close(&a);
	rig_close(&b);
}

static void streams_that_lie_are_refused(void **state)
{
	static struct rig r;
	struct virtio *v;
	struct state_obj obj;
	struct err e = {0};
	uint8_t *buf;
	size_t len;

	for (unsigned i = 0; i < 4; i++) {
		rig_open(&r, "virtio-rng", 7);
		vd_start(&r.d, 0, SIZE);
		v = (struct virtio *)r.dev;
		obj = (struct state_obj){"dev", r.dev->cls->state, r.dev};
		if (i == 0)
			v->features |= 1ull << 40;
		if (i == 1)
			v->features = 0;
		if (i == 2)
			v->q[0].size = 12;
		if (i == 3)
			v->q[0].size = 2048;
		assert_int_equal(state_save(&obj, 1, &buf, &len, &e), 0);
		assert_int_equal(state_load(&obj, 1, buf, len, &e), -EINVAL);
		assert_true(err_msg(&e)[0]);
		free(buf);
		rig_close(&r);
	}
}

/* The driver resets while a request is open: status reads non-zero until it is done, and nothing reaches the rings of the old driver. */
static void a_reset_waits_for_open_requests(void **state)
{
	static struct rig r;
	struct virtio *v;
	struct vreq *open;

	rig_open(&r, "virtio-input", 0);
	v = (struct virtio *)r.dev;
	vd_start(&r.d, 0, SIZE);
	vd_desc(&r.d, 0, VD_DATA, 8, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 0);
	open = virtq_pop(v, 0, 16);
	assert_non_null(open);
	assert_int_equal(((uint8_t *)open->data)[15], 0);
	vd_write(&r.d, 0x14, 1, 0);
	assert_int_not_equal(vd_status(&r.d), 0);
	vd_write(&r.d, 0x14, 1, 3); /* too early: it must wait for 0 */
	assert_false(virtio_quiesce(v));
	v->quiesced = false;
	assert_null(virtq_pop(v, 0, 0));
	vreq_done(open, 8);
	assert_int_equal(vd_status(&r.d), 0);
	assert_int_equal(vd_used(&r.d), 0);
	assert_int_equal(v->open, 0);
	vd_start(&r.d, 0, SIZE);
	assert_int_equal(vd_status(&r.d), 0xf);
	rig_close(&r);
}

/* A thousand open requests of a thousand pieces: memory of the host is bounded, and all are served in the end. */
static void open_requests_hold_a_bounded_amount_of_memory(void **state)
{
	enum { MANY = 1024, PIECES = 1000 };
	static struct rig r;
	static struct vreq *open[MANY];
	uint64_t table = VD_RAM + 0x80000;
	unsigned n = 0, served = 0, rounds = 0;
	struct virtio *v;

	rig_open(&r, "virtio-input",
		0); /* keeps its hands off the queue until the button is pressed */
	v = (struct virtio *)r.dev;
	vd_start(&r.d, VIRTIO_F_INDIRECT_DESC, SIZE);
	vd_write(&r.d, 0x14, 1, 0);
	vd_write(&r.d, 0x14, 1, 3);
	for (unsigned half = 0; half < 2; half++) {
		vd_write(&r.d, 0x08, 4, half);
		vd_write(&r.d, 0x0c, 4, half ? 1 : VIRTIO_F_INDIRECT_DESC);
	}
	vd_write(&r.d, 0x14, 1, 0xb);
	vd_queue(&r.d, 0, MANY, VD_RAM + 0x40000, VD_RAM + 0x50000, VD_RAM + 0x60000);
	vd_write(&r.d, 0x14, 1, 0xf);
	for (unsigned i = 0; i < PIECES; i++)
		vd_desc_at(&r.d, table, i, VD_RAM + 0x100000 + 8ull * (i ^ 1), 4,
			VD_WRITE | (i < PIECES - 1 ? VD_NEXT : 0), (uint16_t)(i + 1));
	for (unsigned i = 0; i < MANY; i++) {
		vd_desc_at(&r.d, VD_RAM + 0x40000, i, table, PIECES * 16, VD_INDIRECT, 0);
		space_store16(r.d.space, gpa(VD_RAM + 0x50004 + 2ull * i), (uint16_t)i);
	}
	space_store16(r.d.space, gpa(VD_RAM + 0x50002), MANY);
	while (served < MANY && rounds++ < 100) {
		while (n < MANY && (open[n] = virtq_pop(v, 0, 0)))
			n++;
		assert_true(n > 0);
		assert_true(v->held < VIRTIO_HELD_MAX + (64u << 10));
		assert_true(served + n == MANY || v->starved == 1);
		uv_run(&r.d.loop, UV_RUN_NOWAIT);
		served += n;
		while (n)
			vreq_done(open[--n], 0);
		assert_int_equal(v->held, 0);
		/* Whoever was turned away is called again. */
		assert_true(served == MANY || v->q[0].kicked);
	}
	assert_int_equal(served, MANY);
	assert_true(rounds > 1);
	assert_int_equal(r.d.reports, 0);
	rig_close(&r);
}

/* With EVENT_IDX the driver is interrupted when its index is passed, and not before. */
static void interrupts_are_sent_when_the_driver_wants_them(void **state)
{
	static struct rig r;
	struct virtio *v;
	uint64_t before;

	rig_open(&r, "virtio-rng", 1);
	v = (struct virtio *)r.dev;
	vd_start(&r.d, 0, SIZE);
	vd_desc(&r.d, 0, VD_DATA, 8, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 0);
	before = v->interrupts;
	space_store16(r.d.space, gpa(VD_AVAIL), 1); /* NO_INTERRUPT */
	vd_submit(&r.d, SIZE, 0);
	assert_int_equal(v->interrupts, before);
	vd_start(&r.d, VIRTIO_F_EVENT_IDX, SIZE);
	vd_desc(&r.d, 0, VD_DATA, 8, VD_WRITE, 0);
	vd_submit(&r.d, SIZE, 0);
	before = v->interrupts;
	space_store16(r.d.space, gpa(VD_AVAIL + 4 + 2 * SIZE), 4); /* tell me of the fifth */
	for (unsigned i = 2; i < 5; i++) {
		vd_submit(&r.d, SIZE, 0);
		assert_int_equal(v->interrupts, before);
	}
	vd_submit(&r.d, SIZE, 0);
	assert_int_equal(v->interrupts, before + 1);
	vd_submit(&r.d, SIZE, 0);
	assert_int_equal(v->interrupts, before + 1);
	rig_close(&r);
}

/* Without the right to DMA nothing is read or written, and nothing is lost. */
static void no_dma_without_bus_mastering(void **state)
{
	static struct rig r;

	rig_open(&r, "virtio-rng", 1);
	vd_start(&r.d, 0, SIZE);
	vd_desc(&r.d, 0, VD_DATA, 8, VD_WRITE, 0);
	pci_host_write(r.d.pci, 1 << 15 | PCI_CFG_COMMAND, 2, PCI_CMD_MEM);
	vd_submit(&r.d, SIZE, 0);
	assert_int_equal(vd_used(&r.d), 0);
	pci_host_write(r.d.pci, 1 << 15 | PCI_CFG_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	vd_bell(&r.d, 0);
	assert_int_equal(vd_used(&r.d), 1);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_guest_prints_comes_out),
		cmocka_unit_test(what_is_typed_goes_in_and_waits_for_buffers),
		cmocka_unit_test(a_print_of_gigabytes_ends_soon),
		cmocka_unit_test(a_seed_repeats_and_the_host_does_not),
		cmocka_unit_test(one_request_takes_a_bounded_amount),
		cmocka_unit_test(the_power_button_is_pressed_and_released),
		cmocka_unit_test(the_keyboard_has_one_key),
		cmocka_unit_test(saved_rings_go_on_elsewhere),
		cmocka_unit_test(streams_that_lie_are_refused),
		cmocka_unit_test(a_reset_waits_for_open_requests),
		cmocka_unit_test(open_requests_hold_a_bounded_amount_of_memory),
		cmocka_unit_test(interrupts_are_sent_when_the_driver_wants_them),
		cmocka_unit_test(no_dma_without_bus_mastering),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
