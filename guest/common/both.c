/*
 * both.c: what a guest of either engine must find: exceptions, a timer, a second processor, accesses of each width, aliases; and by
 * both_devices.c its virtio devices. One source for riscv64 and x86-64; isa.h is the difference.
 */
#include "guest/common/both.h"

#include "guest/common/virtio.h"

void done(const char *what)
{
	put_text("ok ");
	put_text(what);
	put_text("\n");
}

static void expect(enum isa_event e, uint64_t n, const char *what)
{
	if (isa_count[e] != n)
		fail(what, isa_count[e]);
}

void wait_past(enum isa_event e, uint64_t n, const char *what)
{
	uint64_t end = isa_ticks() + 20 * isa_second;

	while (isa_count[e] <= n) {
		if (isa_ticks() > end)
			fail(what, isa_count[e]);
		isa_wait();
	}
}

/* Sleeps until it has come n times, and no more often. */
static void wait_for(enum isa_event e, uint64_t n, const char *what)
{
	wait_past(e, n - 1, what);
	expect(e, n, what);
}

static void exceptions(void)
{
	for (unsigned i = 0; i < 100; i++)
		isa_break();
	expect(EV_BREAK, 100, "breakpoints");
	for (unsigned i = 0; i < 100; i++)
		isa_undefined();
	expect(EV_UNDEFINED, 100, "undefined instructions");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t at = isa_nowhere() + 8 * i;

		isa_touch(at, i & 1);
		if (isa_fault_address != at)
			fail("address of a page fault", isa_fault_address);
		if (isa_fault_write != (int)(i & 1))
			fail("direction of a page fault", i);
	}
	expect(EV_PAGE, 100, "page faults");
	done("exceptions");
}

static void timer(void)
{
	uint64_t begin = isa_ticks(), took;

	for (unsigned i = 1; i <= 20; i++) {
		isa_timer_in(5000);
		wait_for(EV_TIMER, i, "a timer");
	}
	took = isa_ticks() - begin;
	if (took < isa_second / 40)
		fail("20 timers of 5 ms took", took);
	done("timer");
}

/* ---- a second processor ---- */

static volatile unsigned second_is;
static volatile uint64_t shared;

static void second(unsigned cpu)
{
	uint64_t seen = isa_count[EV_IPI];

	second_is = cpu;
	for (unsigned i = 0; i < 20; i++) {
		while (isa_count[EV_IPI] == seen)
			isa_wait();
		seen = isa_count[EV_IPI];
		__atomic_add_fetch(&shared, 1, __ATOMIC_SEQ_CST);
	}
	second_is = 0;
}

static void processors(void)
{
	uint64_t end;

	if (!isa_start(1, second)) {
		put_text("one processor\n");
		return;
	}
	end = isa_ticks() + 20 * isa_second;
	while (second_is != 1)
		if (isa_ticks() > end)
			fail("a second processor", second_is);
	for (uint64_t i = 1; i <= 20; i++) {
		isa_ipi(1);
		while (shared != i)
			if (isa_ticks() > end)
				fail("an IPI", i);
	}
	done("a second processor");
}

/*
 * Two addresses of one page (tests/tools/alias-machine): what is written by one is read by the other, by both processors, also where
 * the translation is cached.
 */
static volatile uint64_t *pair[2];
static volatile uint64_t turn;

static void second_writer(unsigned cpu)
{
	for (uint64_t i = 0; i < 1000; i++) {
		while (turn != 2 * i + 1)
			;
		if (*pair[0] != 2 * i)
			fail("the other processor's alias", *pair[0]);
		pair[1][i % 512] = ~i;
		pair[1][0] = 2 * i + 1;
		isa_fence();
		turn = 2 * i + 2;
	}
}

static void aliases(void)
{
	pair[0] = (volatile uint64_t *)(isa_ram + (16 << 20));
	pair[1] = pair[0] + 512;
	if (pair[0][1] != ALIAS_MAGIC)
		return;
	for (uint64_t i = 0; i < 1000; i++) {
		pair[i & 1][i % 512] = i * 0x9e3779b97f4a7c15;
		if (pair[~i & 1][i % 512] != i * 0x9e3779b97f4a7c15)
			fail("an alias", i);
	}
	if (!isa_start(1, second_writer))
		fail("a second processor", 1);
	for (uint64_t i = 0; i < 1000; i++) {
		*pair[1] = 2 * i;
		isa_fence();
		turn = 2 * i + 1;
		while (turn != 2 * i + 2)
			;
		if (pair[0][0] != 2 * i + 1 || (i % 512 && pair[0][i % 512] != ~i))
			fail("an alias that the other processor wrote", i);
	}
	done("aliases");
}

/* The same register by each width, of memory and of the UART. */
static void widths(void)
{
	uint32_t id = PCI32(0, 0);

	if ((id & 0xffff) == 0xffff)
		fail("a host bridge", id);
	for (unsigned i = 0; i < 4; i++)
		if (PCI8(0, i) != (uint8_t)(id >> 8 * i) ||
			PCI16(0, i & 2) != (uint16_t)(id >> 8 * (i & 2)))
			fail("narrow reads of a register", i);
	if (PCI32(255, 0) != ~0u)
		fail("nothing answers in an empty slot", PCI32(255, 0));
	for (unsigned i = 0; i < 256; i++)
		if (isa_scratch(1, (uint8_t)i) != i || isa_scratch(0, 0) != i)
			fail("scratch register", i);
	done("widths");
}

/* Once, with a device at work and a word in memory that stays. */
static void reboot(void)
{
	volatile uint64_t *word = (volatile uint64_t *)(isa_ram + (24 << 20));

	if (!*word) {
		*word = 1;
		for (unsigned dev = 0; dev < 32; dev++)
			if (virtio_type(dev) == VIRTIO_RNG)
				leave_running(dev);
		isa_reboot();
	}
	*word = 0;
	if (isa_count[EV_MESSAGE] || isa_count[EV_TIMER])
		fail("counts of a program that has just been started", isa_count[EV_MESSAGE]);
	done("reboot");
}

int both(void)
{
	static void (*const test[])(unsigned) = {[VIRTIO_NET] = test_net,
		[VIRTIO_BLK] = test_disk,
		[VIRTIO_CONSOLE] = test_console,
		[VIRTIO_RNG] = test_rng,
		[VIRTIO_BALLOON] = test_balloon};

	pci_start(isa_ecam, isa_pci_window);
	reboot();
	/* Before the others, because from then on it is where the others' results go. */
	for (unsigned dev = 0; dev < 32; dev++)
		if (virtio_type(dev) == VIRTIO_CONSOLE)
			test_console(dev);
	widths();
	exceptions();
	timer();
	aliases();
	processors();
	for (unsigned dev = 0; dev < 32; dev++) {
		unsigned type = virtio_type(dev);

		if (type != VIRTIO_CONSOLE && type < sizeof(test) / sizeof(test[0]) && test[type])
			test[type](dev);
	}
	return 0;
}
