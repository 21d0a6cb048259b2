/*
 * both_devices.c: virtio devices of either engine's machine, with message interrupts.
 *
 *   rng, blk   guest/common/checks.h; tests/system/both.py makes the disk
 *   net        the user network: its gateway answers ARP and echo requests
 *   console    the host answers "marco" with a line (and what the guest prints goes there, too, from then on)
 *   balloon    pages that were given back come again, empty
 *
 * Source: virtio 1.2 sections 5.1 to 5.5; RFC 826, 791, 792.
 */
#include "guest/common/both.h"
#include "guest/common/checks.h"

/* Message 0 of the device is EV_MESSAGE. */
static void open_device(struct virtio *v, unsigned dev)
{
	uint64_t address;
	uint32_t data;

	virtio_open(v, dev);
	isa_message(&address, &data);
	virtio_message(v, 0, address, data);
}

/* Gives a chain and sleeps until its message comes; returns the written length. Another device's last one may come before, or at once with it. */
static uint32_t go(struct virtq *q, unsigned head)
{
	uint64_t before = isa_count[EV_MESSAGE];
	uint32_t len;
	int got;

	virtq_publish(q, head);
	do
		wait_past(EV_MESSAGE, before++, "a message");
	while ((got = virtq_take(q, &len)) < 0);
	if (got != (int)head)
		fail("used ring", (uint64_t)got);
	return len;
}

/* The next used chain, whatever messages come meanwhile. */
static unsigned next_used(struct virtq *q, uint32_t *len, const char *what)
{
	uint64_t end = isa_ticks() + 20 * isa_second;
	int got;

	while ((got = virtq_take(q, len)) < 0) {
		if (isa_ticks() > end)
			fail(what, q->used.idx);
		if (q->index % 2 == 0)
			isa_wait();
	}
	return (unsigned)got;
}

void test_rng(unsigned dev)
{
	static struct virtq q;
	struct virtio v;

	open_device(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &q, 0, 0);
	virtio_go(&v);
	check_rng(&q, go);
	virtio_stop(&v);
	done("virtio-rng");
}

void leave_running(unsigned dev)
{
	static struct virtq q;
	static uint64_t got[8];
	struct virtio v;

	open_device(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &q, 0, 0);
	virtio_go(&v);
	for (unsigned i = 0; i < VIRTQ_SIZE; i++) {
		q.desc[i] = (struct virtq_desc){(uint64_t)got, sizeof(got), VIRTQ_WRITE, 0};
		virtq_publish(&q, i);
	}
}

void test_disk(unsigned dev)
{
	static struct virtq q;
	struct virtio v;

	open_device(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &q, 0, 0);
	virtio_go(&v);
	check_disk(&q, go, 20);
	virtio_stop(&v);
	done("virtio-blk");
}

/* ---- console ---- */

static struct virtq console_rx, console_tx;

static void console_text(const char *s)
{
	static char copy[256];
	unsigned n = 0;
	uint32_t len;

	while (s[n] && n < sizeof(copy)) {
		copy[n] = s[n];
		n++;
	}
	console_tx.desc[0] = (struct virtq_desc){(uint64_t)copy, n, 0, 0};
	virtq_publish(&console_tx, 0);
	next_used(&console_tx, &len, "what was sent to the console");
}

void test_console(unsigned dev)
{
	static char line[64], got[64];
	struct virtio v;
	unsigned n = 0;
	uint32_t len;

	open_device(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &console_rx, 0, 0);
	virtq_set_up(&v, &console_tx, 1, VIRTQ_NO_VECTOR);
	virtio_go(&v);
	console_text("marco\n");
	while (!n || line[n - 1] != '\n') {
		console_rx.desc[0] = (struct virtq_desc){
			(uint64_t)got, sizeof(got), VIRTQ_WRITE, 0};
		virtq_publish(&console_rx, 0);
		next_used(&console_rx, &len, "a line from the console");
		for (unsigned i = 0; i < len; i++)
			if (n < sizeof(line) - 1)
				line[n++] = ((volatile char *)got)[i];
	}
	console_text("heard ");
	console_text(line);
	text_also = console_text;
	done("virtio-console");
}

/* ---- net ---- */

#define HEAD 12 /* virtio's, before each packet */
#define ARP_LEN 42
#define ECHO 56

static struct virtq net_rx, net_tx;
static uint8_t sent[256], buffers[4][2048];
static const uint8_t self[4] = {10, 0, 2, 15}, gateway[4] = {10, 0, 2, 2};
static uint8_t own[6], other[6];

static void copy(uint8_t *to, const volatile uint8_t *from, unsigned n)
{
	while (n--)
		*to++ = *from++;
}

static int same(const volatile uint8_t *a, const uint8_t *b, unsigned n)
{
	while (n--)
		if (*a++ != *b++)
			return 0;
	return 1;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static unsigned sum(const volatile uint8_t *p, unsigned n)
{
	unsigned s = 0;

	for (unsigned i = 0; i < n; i += 2)
		s += (unsigned)p[i] << 8 | p[i + 1];
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s ^ 0xffff;
}

static void give_buffer(unsigned n)
{
	net_rx.desc[n] = (struct virtq_desc){
		(uint64_t)buffers[n], sizeof(buffers[n]), VIRTQ_WRITE, 0};
	virtq_publish(&net_rx, n);
}

static void send(unsigned len)
{
	uint32_t used;

	copy(sent + HEAD, other, 6);
	copy(sent + HEAD + 6, own, 6);
	net_tx.desc[0] = (struct virtq_desc){(uint64_t)sent, HEAD + len, 0, 0};
	virtq_publish(&net_tx, 0);
	next_used(&net_tx, &used, "a packet that was sent");
}

/* The next packet of this type; the others are let go. */
static volatile uint8_t *receive(unsigned type, unsigned least, unsigned *buffer)
{
	for (;;) {
		uint32_t len;
		unsigned n = next_used(&net_rx, &len, "a packet");
		volatile uint8_t *p = buffers[n] + HEAD;

		*buffer = n;
		if (len >= HEAD + least && p[12] == type >> 8 && p[13] == (type & 255))
			return p;
		give_buffer(n);
	}
}

static void ask_address(void)
{
	uint8_t *p = sent + HEAD;
	volatile uint8_t *r;
	unsigned buffer;

	for (unsigned i = 0; i < 6; i++)
		other[i] = 255;
	put16(p + 12, 0x806);
	copy(p + 14, (const uint8_t *)"\0\1\10\0\6\4\0\1", 8);
	copy(p + 22, own, 6);
	copy(p + 28, self, 4);
	copy(p + 38, gateway, 4);
	send(ARP_LEN);
	r = receive(0x806, ARP_LEN, &buffer);
	if (r[21] != 2 || !same(r + 28, gateway, 4) || !same(r, own, 6))
		fail("an answer to ARP", r[21]);
	copy(other, r + 22, 6);
	give_buffer(buffer);
}

static void echo(unsigned seq)
{
	uint8_t *p = sent + HEAD + 14;
	volatile uint8_t *r;
	unsigned buffer;

	put16(sent + HEAD + 12, 0x800);
	copy(p, (const uint8_t *)"\x45\0\0\0\0\0\0\0\x40\1\0\0", 12);
	put16(p + 2, 28 + ECHO);
	copy(p + 12, self, 4);
	copy(p + 16, gateway, 4);
	put16(p + 10, sum(p, 20));
	copy(p + 20, (const uint8_t *)"\x8\0\0\0\x4c\x6f", 6);
	put16(p + 26, seq);
	for (unsigned i = 0; i < ECHO; i++)
		p[28 + i] = (uint8_t)(seq * 7 + i);
	put16(p + 22, sum(p + 20, 8 + ECHO));
	send(14 + 28 + ECHO);
	r = receive(0x800, 14 + 28 + ECHO, &buffer) + 14;
	if (r[20] || !same(r + 24, p + 24, 4 + ECHO) || sum(r, 20) || sum(r + 20, 8 + ECHO))
		fail("an answer to an echo request", seq);
	give_buffer(buffer);
}

void test_net(unsigned dev)
{
	struct virtio v;

	open_device(&v, dev);
	if (!(virtio_begin(&v, 1 << 5) & 1 << 5))
		fail("VIRTIO_NET_F_MAC", 0);
	virtq_set_up(&v, &net_rx, 0, 0);
	virtq_set_up(&v, &net_tx, 1, VIRTQ_NO_VECTOR);
	virtio_go(&v);
	copy(own, v.config, 6);
	if (own[0] & 1)
		fail("an address of one's own", own[0]);
	for (unsigned n = 0; n < 4; n++)
		give_buffer(n);
	ask_address();
	for (unsigned seq = 1; seq <= 20; seq++)
		echo(seq);
	virtio_stop(&v);
	done("virtio-net");
}

/* ---- balloon ---- */

void test_balloon(unsigned dev)
{
	static struct virtq inflate, deflate;
	static uint64_t pages[8][512] __attribute__((aligned(4096)));
	static uint32_t numbers[8];
	struct virtio v;
	uint32_t len;

	open_device(&v, dev);
	virtio_begin(&v, 0);
	virtq_set_up(&v, &inflate, 0, 0);
	virtq_set_up(&v, &deflate, 1, VIRTQ_NO_VECTOR);
	virtio_go(&v);
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < 8; i++) {
			numbers[i] = (uint32_t)((uint64_t)pages[i] >> 12);
			for (unsigned k = 0; k < 512; k += 73)
				((volatile uint64_t *)pages[i])[k] = k + round + 1;
		}
		inflate.desc[0] = (struct virtq_desc){(uint64_t)numbers, sizeof(numbers), 0, 0};
		go(&inflate, 0);
		*(volatile uint32_t *)(v.config + 4) = 8;
		deflate.desc[0] = inflate.desc[0];
		virtq_publish(&deflate, 0);
		next_used(&deflate, &len, "a page of the balloon");
		*(volatile uint32_t *)(v.config + 4) = 0;
		for (unsigned i = 0; i < 8; i++)
			for (unsigned k = 0; k < 512; k += 73)
				if (((volatile uint64_t *)pages[i])[k])
					fail("a page that was given back", pages[i][k]);
	}
	virtio_stop(&v);
	done("virtio-balloon");
}
