/* test_virtio_blk.c: a driver's good, odd and impossible requests to a disk, and what becomes of requests in flight. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/virtio_blk.h"
#include "disk/format.h"
#include "disk/tool.h"
#include "vdriver.h"

#define SIZE 64
#define SECTORS 2048u
#define HDR VD_DATA
#define STATUS (VD_DATA + 0x100)
#define BUF (VD_DATA + 0x1000)
#define CFG 0x2000
#define GENERATION 0x15

#define F_RO (1ull << 5)
#define F_FLUSH (1ull << 9)
#define F_WCE (1ull << 11)
#define F_DISCARD (1ull << 13)
#define F_ZEROES (1ull << 14)
#define ALL (F_FLUSH | F_WCE | F_DISCARD | F_ZEROES)

enum { IN, OUT, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK, IOERR, UNSUPP, NEVER = 0xee };

static struct rig {
	struct vdriver d;
	struct device *dev;
	char path[64];
	int fd;
} rig;

static void open_disk(bool readonly)
{
	struct virtio_blk_opts o = {
		.disk = {.path = rig.path, .format = "raw", .discard = true, .readonly = readonly},
		.queues = 2,
		.serial = "serial-that-is-longer-than-20"};

	vd_machine(&rig.d);
	rig.dev = vd_add(&rig.d, "virtio-blk", "disk0", &o, 1);
}

static void close_disk(void)
{
	vd_close(&rig.d, &rig.dev, 1);
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	strcpy(rig.path, "lodge-blk-XXXXXX");
	rig.fd = mkstemp(rig.path);
	assert_int_equal(ftruncate(rig.fd, SECTORS * 512), 0);
	open_disk(false);
	return 0;
}

static int teardown(void **state)
{
	close_disk();
	close(rig.fd);
	unlink(rig.path);
	return 0;
}

static void header(uint64_t at, uint32_t type, uint64_t sector)
{
	uint8_t h[16] = {0};

	put_le32(h, type);
	put_le64(h + 8, sector);
	space_write(rig.d.space, gpa(at), h, sizeof(h));
}

static uint8_t wait_status(uint16_t before)
{
	uint8_t s;

	while (vd_used(&rig.d) == before)
		uv_run(&rig.d.loop, UV_RUN_ONCE);
	space_read(rig.d.space, gpa(STATUS), &s, 1);
	return s;
}

/* One request; `len` bytes of payload at BUF. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t len)
{
	uint16_t before = vd_used(&rig.d);
	bool in = type == IN || type == GET_ID;

	header(HDR, type, sector);
	space_fill(rig.d.space, gpa(STATUS), NEVER, 1);
	vd_desc(&rig.d, 0, HDR, 16, VD_NEXT, 1);
	vd_desc(&rig.d, 1, BUF, len, (uint16_t)(VD_NEXT | (in ? VD_WRITE : 0)), 2);
	vd_desc(&rig.d, 2, STATUS, 1, VD_WRITE, 0);
	vd_submit(&rig.d, SIZE, 0);
	return wait_status(before);
}

static uint8_t range(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	uint8_t r[16];

	put_le64(r, sector);
	put_le32(r + 8, n);
	put_le32(r + 12, flags);
	space_write(rig.d.space, gpa(BUF), r, sizeof(r));
	return request(type, 0, sizeof(r));
}

static uint64_t ops(enum disk_op op)
{
	json_t *j = json_object();
	uint64_t n;

	rig.dev->cls->stats(rig.dev, j);
	n = (uint64_t)json_integer_value(
		json_object_get(json_object_get(j, disk_op_name(op)), "ops"));
	json_decref(j);
	return n;
}

static void data_goes_both_ways(void **state)
{
	uint8_t buf[1024], file[1024];

	vd_start(&rig.d, ALL, SIZE);
	space_fill(rig.d.space, gpa(BUF), 0x5a, 1024);
	assert_int_equal(request(OUT, 7, 1024), OK);
	assert_int_equal(vd_used_len(&rig.d, SIZE, 0), 1);
	assert_int_equal(pread(rig.fd, file, 1024, 7 * 512), 1024);
	memset(buf, 0x5a, sizeof(buf));
	assert_memory_equal(file, buf, 1024);
	space_fill(rig.d.space, gpa(BUF), 0, 2048);
	assert_int_equal(request(IN, 7, 1024), OK);
	assert_int_equal(vd_used_len(&rig.d, SIZE, 1), 1025);
	space_read(rig.d.space, gpa(BUF), file, 1024);
	assert_memory_equal(file, buf, 1024);
	space_read(rig.d.space, gpa(BUF + 1024), file, 1);
	assert_int_equal(file[0], 0);
	assert_int_equal(request(FLUSH, 0, 0), OK);
	assert_int_equal(ops(DISK_FLUSH), 1);
	assert_int_equal(request(GET_ID, 0, 20), OK);
	space_read(rig.d.space, gpa(BUF), file, 20);
	assert_memory_equal(file, "serial-that-is-longer-than-20", 20);
	assert_int_equal(request(GET_ID, 0, 5), OK);
	assert_int_equal(request(IN, SECTORS - 1, 512), OK);
}

/* Section 5.2.6: the driver may cut a request into pieces as it likes. */
static void any_framing(void **state)
{
	uint16_t before;
	uint8_t c;

	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(pwrite(rig.fd, "abcdefgh", 8, 512), 8);
	/* Header in two pieces; data and status in one. */
	header(HDR, IN, 1);
	before = vd_used(&rig.d);
	vd_desc(&rig.d, 0, HDR, 5, VD_NEXT, 1);
	vd_desc(&rig.d, 1, HDR + 5, 11, VD_NEXT, 2);
	vd_desc(&rig.d, 2, BUF, 513, VD_WRITE, 0);
	space_fill(rig.d.space, gpa(BUF), NEVER, 520);
	vd_submit(&rig.d, SIZE, 0);
	wait_status(before);
	space_read(rig.d.space, gpa(BUF + 512), &c, 1);
	assert_int_equal(c, OK);
	space_read(rig.d.space, gpa(BUF + 7), &c, 1);
	assert_int_equal(c, 'h');
	space_read(rig.d.space, gpa(BUF + 513), &c, 1);
	assert_int_equal(c, NEVER);
	/* Header and data of a write in one. */
	header(BUF, OUT, 3);
	space_fill(rig.d.space, gpa(BUF + 16), 'x', 512);
	before = vd_used(&rig.d);
	vd_desc(&rig.d, 0, BUF, 16 + 512, VD_NEXT, 1);
	vd_desc(&rig.d, 1, STATUS, 1, VD_WRITE, 0);
	vd_submit(&rig.d, SIZE, 0);
	assert_int_equal(wait_status(before), OK);
	assert_int_equal(pread(rig.fd, &c, 1, 3 * 512 + 511), 1);
	assert_int_equal(c, 'x');
	assert_int_equal(pread(rig.fd, &c, 1, 4 * 512), 1);
	assert_int_equal(c, 0);
}

static void bad_requests_are_answered(void **state)
{
	uint8_t c;

	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(request(IN, SECTORS, 512), IOERR);
	assert_int_equal(request(IN, SECTORS - 1, 1024), IOERR);
	assert_int_equal(request(IN, UINT64_MAX, 512), IOERR);
	assert_int_equal(request(IN, UINT64_MAX / 512, 512), IOERR);
	assert_int_equal(
		request(IN, (UINT64_MAX >> 9) + 1, 512), IOERR); /* 2^64 bytes: 0 when it wraps */
	assert_int_equal(request(OUT, 0, 100), IOERR);
	assert_int_equal(request(OUT, SECTORS, 512), IOERR);
	assert_int_equal(request(99, 0, 512), UNSUPP);
	assert_int_equal(request(2, 0, 512), UNSUPP); /* SCSI commands of old */
	assert_int_equal(range(DISCARD, 0, 8, 1), UNSUPP); /* unmap is for zeroes */
	assert_int_equal(range(DISCARD, 0, 8, 2), UNSUPP);
	assert_int_equal(range(ZEROES, 0, 8, 2), UNSUPP);
	assert_int_equal(range(ZEROES, SECTORS, 1, 0), IOERR);
	assert_int_equal(range(ZEROES, UINT64_MAX, 8, 0), IOERR);
	assert_int_equal(range(DISCARD, 0, UINT32_MAX, 0), IOERR);
	assert_int_equal(request(DISCARD, 0, 15), IOERR);
	assert_int_equal(request(DISCARD, 0, 0), IOERR);
	assert_int_equal(request(DISCARD, 0, 17 * 16), IOERR);
	/* A read that fails leaves zeroes, not what was there. */
	space_fill(rig.d.space, gpa(BUF), 0x77, 512);
	assert_int_equal(request(IN, SECTORS, 512), IOERR);
	space_read(rig.d.space, gpa(BUF + 100), &c, 1);
	assert_int_equal(c, 0);
	/* And the disk works on. */
	assert_int_equal(request(IN, 0, 512), OK);
	/* What was not negotiated is not there. */
	vd_start(&rig.d, F_FLUSH, SIZE);
	assert_int_equal(range(DISCARD, 0, 8, 0), UNSUPP);
	assert_int_equal(range(ZEROES, 0, 8, 0), UNSUPP);
}

static void host_errors(void **state)
{
	unsigned reports;

	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(ftruncate(rig.fd, 512), 0);
	reports = rig.d.reports;
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(request(IN, 100, 512), IOERR);
	assert_int_equal(rig.d.reports - reports, 5); /* the 1st, 2nd, 4th, 8th, 16th */
	assert_int_equal(request(IN, 0, 512), OK);
}

/* What the guest wrote and did not flush is in memory only, and the host takes nothing any more: the end of the machine says so. */
static void lost_at_the_end(void **state)
{
	struct virtio_blk_opts o = {
		.disk = {.path = "lodge-blk.qcow2", .format = "qcow2"}, .queues = 1};
	struct rlimit was, none;
	struct uv_loop_s loop;
	struct err e = {0};
	unsigned reports;

	close_disk();
	uv_loop_init(&loop);
	if (disk_create("qcow2",
		    &(struct disk_create_opts){
			    .path = o.disk.path, .size = MiB, .loop = &loop, .overwrite = true},
		    &e))
		fail_msg("%s", err_msg(&e));
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	vd_machine(&rig.d);
	rig.dev = vd_add(&rig.d, "virtio-blk", "disk0", &o, 1);
	vd_start(&rig.d, F_FLUSH, SIZE);
	assert_int_equal(request(OUT, 0, 512), OK);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &was);
	none = (struct rlimit){512, was.rlim_max};
	reports = rig.d.reports;
	setrlimit(RLIMIT_FSIZE, &none);
	close_disk();
	setrlimit(RLIMIT_FSIZE, &was);
	unlink(o.disk.path);
	assert_int_equal(rig.d.reports - reports, 1);
	open_disk(false);
}

static void zeroes_and_discard(void **state)
{
	uint8_t buf[4096], ranges[32] = {0};

	vd_start(&rig.d, ALL, SIZE);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(pwrite(rig.fd, buf, sizeof(buf), 0), sizeof(buf));
	put_le64(ranges, 1);
	put_le32(ranges + 8, 1);
	put_le64(ranges + 16, 4);
	put_le32(ranges + 24, 2);
	put_le32(ranges + 28, 1);
	space_write(rig.d.space, gpa(BUF), ranges, sizeof(ranges));
	assert_int_equal(request(ZEROES, 0, sizeof(ranges)), OK);
	assert_int_equal(ops(DISK_WRITE_ZEROES), 2);
	assert_int_equal(pread(rig.fd, buf, sizeof(buf), 0), sizeof(buf));
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < 512; k++)
			assert_int_equal(buf[i * 512 + k], i == 1 || i == 4 || i == 5 ? 0 : 0xff);
	assert_int_equal(range(DISCARD, 0, SECTORS, 0), OK);
	assert_int_equal(ops(DISK_DISCARD), 1);
}

static void is_broken(unsigned reports)
{
	assert_int_equal(rig.d.reports, reports + 1);
	assert_true(vd_status(&rig.d) & VD_NEEDS_RESET);
	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(request(IN, 0, 512), OK);
}

static void impossible_requests_break(void **state)
{
	vd_start(&rig.d, ALL, SIZE);
	header(HDR, IN, 0);
	vd_desc(&rig.d, 0, HDR, 15, VD_NEXT, 1);
	vd_desc(&rig.d, 1, STATUS, 1, VD_WRITE, 0);
	vd_submit(&rig.d, SIZE, 0);
	is_broken(0);
	header(HDR, OUT, 0);
	vd_desc(&rig.d, 0, HDR, 16, VD_NEXT, 1);
	vd_desc(&rig.d, 1, BUF, 512, 0, 0);
	vd_submit(&rig.d, SIZE, 0);
	is_broken(1);
	vd_desc(&rig.d, 0, HDR, 16, 0, 0);
	vd_submit(&rig.d, SIZE, 0);
	is_broken(2);
}

static void readonly(void **state)
{
	close_disk();
	open_disk(true);
	assert_true(vd_read(&rig.d, 0x04, 4) & F_RO);
	assert_false(vd_read(&rig.d, 0x04, 4) & (F_DISCARD | F_ZEROES));
	vd_start(&rig.d, F_RO | F_FLUSH, SIZE);
	assert_int_equal(request(OUT, 0, 512), IOERR);
	assert_int_equal(range(ZEROES, 0, 8, 0), IOERR);
	assert_int_equal(range(DISCARD, 0, 8, 0), IOERR);
	assert_int_equal(request(IN, 0, 512), OK);
	assert_int_equal(request(FLUSH, 0, 0), OK);
}

static void configuration(void **state)
{
	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(vd_read(&rig.d, CFG, 8), SECTORS);
	assert_int_equal(vd_read(&rig.d, CFG + 20, 4), 512);
	assert_int_equal(vd_read(&rig.d, CFG + 34, 2), 2);
	assert_int_equal(vd_read(&rig.d, CFG + 32, 1), 1);
	assert_true(vd_read(&rig.d, CFG + 36, 4) > 0);
	vd_write(&rig.d, CFG, 4, 1); /* not the driver's to write */
	assert_int_equal(vd_read(&rig.d, CFG, 8), SECTORS);
	vd_write(&rig.d, CFG + 32, 1, 0);
	assert_int_equal(vd_read(&rig.d, CFG + 32, 1), 0);
	assert_int_equal(request(OUT, 0, 512), OK);
	/* The switch goes back with a reset, and is not there without its feature. */
	vd_start(&rig.d, F_FLUSH, SIZE);
	assert_int_equal(vd_read(&rig.d, CFG + 32, 1), 1);
	vd_write(&rig.d, CFG + 32, 1, 0);
	assert_int_equal(vd_read(&rig.d, CFG + 32, 1), 1);
}

static void resized(void **state)
{
	struct err e = {0};
	uint8_t generation;

	vd_start(&rig.d, ALL, SIZE);
	generation = (uint8_t)vd_read(&rig.d, GENERATION, 1);
	assert_int_equal(request(IN, SECTORS, 512), IOERR);
	assert_int_equal(virtio_blk_resize(rig.dev, SECTORS * 1024, &e), 0);
	assert_int_not_equal(vd_read(&rig.d, GENERATION, 1), generation);
	assert_int_equal(vd_read(&rig.d, CFG, 8), SECTORS * 2);
	assert_int_equal(request(IN, SECTORS, 512), OK);
	assert_int_equal(virtio_blk_resize(rig.dev, 512, &e), -EINVAL);
}

/* Puts n reads into the queue; the device has taken them when it returns, and has answered what was quick. */
static void start_reads(unsigned n)
{
	header(HDR, IN, 0);
	vd_desc(&rig.d, 0, HDR, 16, VD_NEXT, 1);
	vd_desc(&rig.d, 1, BUF, 4096, VD_NEXT | VD_WRITE, 2);
	vd_desc(&rig.d, 2, STATUS, 1, VD_WRITE, 0);
	for (unsigned i = 0; i < n; i++) {
		space_store16(rig.d.space, gpa(VD_AVAIL + 4 + 2ull * (rig.d.avail_idx % SIZE)), 0);
		space_store16(rig.d.space, gpa(VD_AVAIL + 2), ++rig.d.avail_idx);
	}
	vd_write(&rig.d, 0x3000, 4, 0);
	uv_run(&rig.d.loop, UV_RUN_NOWAIT); /* the doorbell; completions come in a later turn */
}

static void quiesce_answers_all(void **state)
{
	struct err e = {0};
	struct state_obj obj = {"disk0", rig.dev->cls->state, rig.dev};
	uint8_t *stream;
	size_t len;
	uint16_t used;

	vd_start(&rig.d, ALL, SIZE);
	start_reads(32);
	assert_int_equal(rig.dev->cls->quiesce(rig.dev, &e), 0);
	assert_int_equal(vd_used(&rig.d), 32);
	/* One more comes while it is quiet: it stays in the ring, its bell is lost with the machine. */
	start_reads(1);
	assert_int_equal(vd_used(&rig.d), 32);
	assert_int_equal(state_save(&obj, 1, &stream, &len, &e), 0);
	rig.dev->cls->resume(rig.dev);
	wait_status(32);
	assert_int_equal(vd_used(&rig.d), 33);
	/* Back to the saved state: the one request is answered again without a bell. */
	space_store16(rig.d.space, gpa(VD_USED + 2), 32);
	used = 32;
	if (state_load(&obj, 1, stream, len, &e))
		fail_msg("%s", err_msg(&e));
	wait_status(used);
	assert_int_equal(vd_used(&rig.d), 33);
	/* A smaller disk is not the one that was saved. */
	close_disk();
	assert_int_equal(ftruncate(rig.fd, 512 * 100), 0);
	open_disk(false);
	obj.obj = rig.dev;
	assert_int_equal(state_load(&obj, 1, stream, len, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "not the same disk"));
	free(stream);
}

/* The driver resets with requests in flight: it sees 0 only when the device has let go of its memory. */
static void reset_in_flight(void **state)
{
	vd_start(&rig.d, ALL, SIZE);
	start_reads(40);
	vd_write(&rig.d, 0x14, 1, 0);
	while (vd_status(&rig.d))
		uv_run(&rig.d.loop, UV_RUN_ONCE);
	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(request(IN, 0, 512), OK);
	assert_int_equal(vd_used(&rig.d), 1);
	/* A reboot of the machine does not ask at all, and neither does its end (teardown). */
	start_reads(40);
	rig.dev->cls->reset(rig.dev);
	pci_host_write(rig.d.pci, (uint64_t)rig.d.slot << 15 | PCI_CFG_BAR0, 4, rig.d.bar);
	pci_host_write(rig.d.pci, (uint64_t)rig.d.slot << 15 | PCI_CFG_COMMAND, 2,
		PCI_CMD_MEM | PCI_CMD_MASTER);
	assert_int_equal(vd_status(&rig.d), 0);
	vd_start(&rig.d, ALL, SIZE);
	assert_int_equal(request(IN, 0, 512), OK);
	start_reads(40);
}

static void creation_fails_cleanly(void **state)
{
	struct virtio_blk_opts o = {.disk = {.path = rig.path, .format = "raw"}, .queues = 1};
	struct device *d;
	struct err e = {0};

	assert_int_equal(device_create(&d, "virtio-blk", "disk1", &rig.d.env, &o, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "in use"));
	o.disk.path = "/nowhere/at/all";
	assert_int_equal(device_create(&d, "virtio-blk", "disk1", &rig.d.env, &o, &e), -ENOENT);
	o.queues = 17;
	assert_int_equal(device_create(&d, "virtio-blk", "disk1", &rig.d.env, &o, &e), -EINVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(data_goes_both_ways),
		T(any_framing),
		T(bad_requests_are_answered),
		T(host_errors),
		T(lost_at_the_end),
		T(zeroes_and_discard),
		T(impossible_requests_break),
		T(readonly),
		T(configuration),
		T(resized),
		T(quiesce_answers_all),
		T(reset_in_flight),
		T(creation_fails_cleanly),
	};

	return cmocka_run_group_tests_name("virtio_blk", tests, NULL, NULL);
}
