/* Write tracking over the kvm engine, each way: nothing that a guest writes is missed. */
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "kvm_bare.h"
#include "memory/uffd.h"

/* Writes to pages ecx..edx-1 of those from 0x100000 on (0x8000: from, 0x8008: to), ends, and again. */
GUEST(writer, "1: mov rcx, [0x8000]\n mov rdx, [0x8008]\n mov rbx, [0x8010]\n"
	      "2: cmp rcx, rdx\n jae 3f\n mov rsi, rcx\n shl rsi, 12\n mov [rsi + 0x100000], rbx\n "
	      "inc rcx\n jmp 2b\n"
	      "3: mov al, 1\n out 0xf4, al\n jmp 1b\n");

#define FIRST 0x100000ull
#define PAGES 64u

struct seen {
	struct kvm_bare *b;
	uint8_t hit[PAGES];
	unsigned others;
	uint64_t before[PAGES]; /* what the hook found in the page */
	uint8_t hooked[PAGES];
};

static void collect(void *ctx, gpa_t page)
{
	struct seen *s = ctx;

	if (page.v >= FIRST && page.v < FIRST + PAGES * PAGE_SIZE)
		s->hit[(page.v - FIRST) / PAGE_SIZE]++;
	else
		s->others++;
}

static void before(void *ctx, gpa_t page, const void *host)
{
	struct seen *s = ctx;

	if (page.v < FIRST || page.v >= FIRST + PAGES * PAGE_SIZE)
		return;
	memcpy(&s->before[(page.v - FIRST) / PAGE_SIZE], host, 8);
	s->hooked[(page.v - FIRST) / PAGE_SIZE]++;
}

static void writes(struct kvm_bare *b, struct cpu_exit *x, unsigned from, unsigned to, uint64_t v)
{
	kb_put(b, 0x8000, from);
	kb_put(b, 0x8008, to);
	kb_put(b, 0x8010, v);
	assert_int_equal(kb_end(b, 0, x), 1);
}

static void expect(struct seen *s, struct tracker *t, unsigned from, unsigned to)
{
	memset(s->hit, 0, sizeof(s->hit));
	tracker_collect(t, collect, s);
	for (unsigned i = 0; i < PAGES; i++)
		if (s->hit[i] != (i >= from && i < to))
			fail_msg("page %u: %u, want %u to %u", i, s->hit[i], from, to);
}

static void rounds(const struct cpu_vm_opts *o, const struct kvm_sys *sys)
{
	struct kvm_bare *b = kb_new_with(o, sys);
	struct seen s = {.b = b};
	struct tracker *t, *u;
	struct cpu_exit x = {0};
	struct err e = {0};

	KB_LOAD(b, writer);
	writes(b, &x, 0, PAGES, 1); /* before it starts: not seen */
	if (tracker_start(&t, b->space, NULL, &e))
		fail_msg("%s", err_msg(&e));
	expect(&s, t, 0, 0);
	writes(b, &x, 3, 9, 2);
	expect(&s, t, 3, 9);
	expect(&s, t, 0, 0);
	writes(b, &x, 3, 9, 3);
	writes(b, &x, 3, 9, 4); /* armed again after a collect; once is enough */
	expect(&s, t, 3, 9);
	/* A second one sees what comes after its start; the first misses nothing by it. */
	writes(b, &x, 20, 22, 5);
	assert_int_equal(tracker_start(&u, b->space, NULL, &e), 0);
	writes(b, &x, 30, 31, 6);
	memset(s.hit, 0, sizeof(s.hit));
	tracker_collect(u, collect, &s);
	assert_int_equal(s.hit[30], 1);
	memset(s.hit, 0, sizeof(s.hit));
	tracker_collect(t, collect, &s);
	assert_int_equal(s.hit[20] + s.hit[21] + s.hit[30], 3);
	tracker_stop(u);
	/* The host's writes and the guest's are one list. */
	kb_put(b, FIRST + 40 * PAGE_SIZE, 1);
	writes(b, &x, 41, 42, 7);
	expect(&s, t, 40, 42);
	/* A slot that goes takes its log along to the trackers. */
	writes(b, &x, 50, 52, 8);
	assert_int_equal(view_protect(space_view(b->space, 0), gpa(FIRST + 50 * PAGE_SIZE),
				 PAGE_SIZE, VIEW_R, &e),
		0);
	space_invalidate(b->space, 0, gpa(FIRST + 50 * PAGE_SIZE), PAGE_SIZE,
		MEM_READ | MEM_WRITE | MEM_EXEC);
	expect(&s, t, 50, 52);
	tracker_stop(t);
	kb_free(b);
}

static void test_bitmap(void **state)
{
	rounds(&(struct cpu_vm_opts){.vcpus = 1}, &kvm_sys_host);
}

static void test_bitmap_old(void **state)
{
	struct kb_shim s = {.hide = "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"};

	rounds(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&s));
}

static void test_ring(void **state)
{
	struct kb_shim s = {.hide = "KVM_CAP_DIRTY_LOG_RING"};
	struct kvm_bare *b = kb_new(1);
	struct cpu_vm_opts o = {.vcpus = 1, .dirty = CPU_DIRTY_RING, .space = b->space};
	struct cpu_vm *vm;
	struct err e = {0};

	assert_int_equal(kvm_vm_create_on(&vm, &o, kb_shim(&s), &e), -ENOTSUP);
	assert_int_equal(kvm_available_on(&kvm_sys_host, &e), 0);
	kb_free(b);
	rounds(&(struct cpu_vm_opts){.vcpus = 1, .dirty = CPU_DIRTY_RING}, &kvm_sys_host);
}

/* The pages as those of a machine that was restored: over a file, which has `v` in each. */
static void over_file(struct kvm_bare *b, uint64_t v)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	struct view_leaf l;
	struct err e = {0};

	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(pwrite(fd, &v, sizeof(v), i * PAGE_SIZE), sizeof(v));
	assert_int_equal(ftruncate(fd, PAGES * PAGE_SIZE), 0);
	assert_int_equal(view_lookup(space_view(b->space, 0), gpa(FIRST), &l), 0);
	if (frames_map_file(space_frames(b->space), l.mfn, PAGES, fd, 0, &e))
		fail_msg("%s", err_msg(&e));
	close(fd);
}

/* A copy before the write holds what was there before it. */
static void hook(bool restored)
{
	struct kvm_bare *b = kb_new(1);
	struct seen s = {.b = b};
	struct tracker_ops ops = {before, &s};
	struct tracker *t, *log;
	struct cpu_exit x = {0};
	struct err e = {0};
	int rc;

	KB_LOAD(b, writer);
	if (restored)
		over_file(b, 0x99);
	writes(b, &x, 0, PAGES / 2, 0x11);
	rc = tracker_start(&t, b->space, &ops, &e);
	if (rc == -ENOTSUP || rc == -EPERM) {
		print_message("skipped: %s\n", err_msg(&e));
		kb_free(b);
		skip();
	}
	if (rc)
		fail_msg("%s", err_msg(&e));
	assert_int_equal(tracker_start(&log, b->space, NULL, &e), 0);
	writes(b, &x, 4, 40, 0x22);
	writes(b, &x, 4, 40, 0x33);
	for (unsigned i = 0; i < PAGES; i++) {
		assert_int_equal(s.hooked[i], i >= 4 && i < 40);
		if (i >= 4 && i < 40)
			assert_int_equal(s.before[i], i < PAGES / 2 ? 0x11 : restored ? 0x99 : 0);
		if (i >= 4 && i < 40)
			assert_int_equal(kb_get(b, FIRST + i * PAGE_SIZE), 0x33);
	}
	expect(&s, log, 4, 40);
	/* Both armed again: collected by one, asked before again. */
	expect(&s, t, 4, 40);
	writes(b, &x, 5, 6, 0x44);
	assert_int_equal(s.hooked[5], 2);
	assert_int_equal(s.before[5], 0x33);
	/* Back to the log when the hook goes; it misses nothing on the way. */
	tracker_stop(t);
	writes(b, &x, 7, 8, 0x55);
	memset(s.hit, 0, sizeof(s.hit));
	tracker_collect(log, collect, &s);
	assert_int_equal(s.hit[5], 1);
	assert_int_equal(s.hit[7], 1);
	tracker_stop(log);
	if (restored)
		for (unsigned i = 41; i < PAGES; i++)
			assert_int_equal(kb_get(b, FIRST + i * PAGE_SIZE), 0x99);
	kb_free(b);
}

static void test_hook(void **state)
{
	hook(false);
}

static void test_hook_restored(void **state)
{
	hook(true);
}

struct racing {
	struct kvm_bare *b;
	_Atomic bool stop;
};

GUEST(racer, "xor ebx, ebx\n 1: inc rbx\n mov ecx, 0\n 2: mov rsi, rcx\n shl rsi, 12\n mov [rsi + "
	     "0x100000], rbx\n"
	     "inc ecx\n cmp ecx, 64\n jb 2b\n jmp 1b\n");

static void *run_racer(void *ctx)
{
	struct racing *r = ctx;
	struct cpu_exit x = {0};

	while (!r->stop)
		kvm_engine.vcpu_run(r->b->v[0], 10000000, &x);
	return NULL;
}

/* While the guest writes all the time: after the last collect, with the guest stopped, a copy made of what was told of equals memory. */
static void race(const struct cpu_vm_opts *o, bool hook, bool restored)
{
	struct kvm_bare *b = kb_new_with(o, &kvm_sys_host);
	struct racing r = {.b = b};
	struct seen s = {.b = b};
	struct tracker_ops ops = {before, &s};
	uint64_t copy[PAGES] = {0};
	struct tracker *t;
	struct err e = {0};
	pthread_t th;

	KB_LOAD(b, racer);
	if (restored)
		over_file(b, 0x99);
	if (tracker_start(&t, b->space, hook ? &ops : NULL, &e)) {
		print_message("skipped: %s\n", err_msg(&e));
		kb_free(b);
		skip();
	}
	pthread_create(&th, NULL, run_racer, &r);
	/* Until the guest has written through many of the collects: how fast it runs beside them is the host's business. */
	for (unsigned i = 0, last = 0; !last; i++) {
		last = (i >= 40 && copy[0] > 40) || i == 10000;
		if (last) {
			r.stop = true;
			pthread_join(th, NULL);
		}
		memset(s.hit, 0, sizeof(s.hit));
		tracker_collect(t, collect, &s);
		for (unsigned p = 0; p < PAGES; p++)
			if (s.hit[p])
				copy[p] = kb_get(b, FIRST + p * PAGE_SIZE);
		usleep(2000);
	}
	for (unsigned p = 0; p < PAGES; p++)
		assert_int_equal(copy[p], kb_get(b, FIRST + p * PAGE_SIZE));
	assert_true(copy[0] > 40);
	tracker_stop(t);
	kb_free(b);
}

static void test_race_bitmap(void **state)
{
	race(&(struct cpu_vm_opts){.vcpus = 1}, false, false);
}

static void test_race_ring(void **state)
{
	race(&(struct cpu_vm_opts){.vcpus = 1, .dirty = CPU_DIRTY_RING}, false, false);
}

static void test_race_hook(void **state)
{
	race(&(struct cpu_vm_opts){.vcpus = 1}, true, false);
}

static void test_race_hook_restored(void **state)
{
	race(&(struct cpu_vm_opts){.vcpus = 1}, true, true);
}

/* More pages than a ring holds: the vCPU comes out, and nothing is lost. */
GUEST(flood, "mov ebx, 0x30000\n 2: mov [rbx], ebx\n add ebx, 4096\n cmp ebx, 0x400000\n jb 2b\n "
	     "mov al, 1\n out 0xf4, al\n");

static void count_all(void *ctx, gpa_t page)
{
	uint8_t *hit = ctx;

	hit[page.v / PAGE_SIZE]++;
}

static void test_ring_full(void **state)
{
	struct cpu_vm_opts o = {.vcpus = 1, .dirty = CPU_DIRTY_RING, .ring_pages = 1024};
	struct kvm_bare *b = kb_new_with(&o, &kvm_sys_host);
	struct cpu_exit x = {0};
	struct tracker *t;
	struct err e = {0};

	assert_int_equal(tracker_start(&t, b->space, NULL, &e), 0);
	for (unsigned round = 0; round < 4; round++) {
		uint8_t hit[KB_RAM / PAGE_SIZE] = {0};

		KB_LOAD(b, flood);
		assert_int_equal(kb_end(b, 0, &x), 1);
		tracker_collect(t, count_all, hit);
		for (unsigned p = 0x30; p < 0x400; p++)
			assert_int_equal(hit[p], 1);
	}
	tracker_stop(t);
	kb_free(b);
}

static void test_policy(void **state)
{
	struct cpu_vm_opts o = {.vcpus = 1, .halt_poll_ns = 50000, .own_cpus = true};
	struct kvm_bare *b = kb_new_with(&o, &kvm_sys_host);
	struct kb_shim s = {.hide = "KVM_CAP_HALT_POLL"}, d = {.hide = "KVM_CAP_X86_DISABLE_EXITS"};
	struct cpu_exit x = {0};

	KB_LOAD(b, flood);
	assert_int_equal(kb_end(b, 0, &x), 1);
	kb_free(b);
	kb_free(kb_new_with(&o, kb_shim(&s)));
	kb_free(kb_new_with(&o, kb_shim(&d)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bitmap),
		cmocka_unit_test(test_bitmap_old),
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_hook),
		cmocka_unit_test(test_hook_restored),
		cmocka_unit_test(test_race_bitmap),
		cmocka_unit_test(test_race_ring),
		cmocka_unit_test(test_race_hook),
		cmocka_unit_test(test_race_hook_restored),
		cmocka_unit_test(test_ring_full),
		cmocka_unit_test(test_policy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
