/* The kvm engine by hand-made guests: exits, kicks, budgets, memory slots. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "kvm_bare.h"

static void run(struct kvm_bare *b, struct cpu_exit *x)
{
	kb_exit(b, 0, x);
	if (x->reason == CPU_EXIT_ERROR)
		fail_msg("%s", x->text);
}

GUEST(accesses,
	"mov dx, 0x510\n mov al, 0x41\n out dx, al\n"
	"mov eax, 0x11223344\n out dx, ax\n out dx, eax\n in eax, dx\n"
	"mov ebx, 0xd0000000\n mov [rbx], eax\n mov [rbx+2], ax\n mov [rbx+1], al\n"
	"mov rcx, [rbx+8]\n mov [0x8000], rcx\n movzx ecx, byte ptr [rbx+1]\n mov [0x8008], rcx\n"
	"mov al, 7\n out 0xf4, al\n 1: hlt\n jmp 1b\n");

static void test_accesses(void **state)
{
	static const struct {
		enum cpu_exit_reason reason;
		uint64_t addr, data;
		unsigned size;
		bool write;
	} want[] = {
		{CPU_EXIT_PIO, 0x510, 0x41, 1, true},
		{CPU_EXIT_PIO, 0x510, 0x3344, 2, true},
		{CPU_EXIT_PIO, 0x510, 0x11223344, 4, true},
		{CPU_EXIT_PIO, 0x510, 0xcafef00d, 4, false},
		{CPU_EXIT_MMIO, 0xd0000000, 0xcafef00d, 4, true},
		{CPU_EXIT_MMIO, 0xd0000002, 0xf00d, 2, true},
		{CPU_EXIT_MMIO, 0xd0000001, 0x0d, 1, true},
		{CPU_EXIT_MMIO, 0xd0000008, 0x1122334455667788, 8, false},
		{CPU_EXIT_MMIO, 0xd0000001, 0xa5, 1, false},
	};
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};

	KB_LOAD(b, accesses);
	for (unsigned i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		run(b, &x);
		assert_int_equal(x.reason, want[i].reason);
		assert_int_equal(x.mmio.gpa.v, want[i].addr);
		assert_int_equal(x.mmio.size, want[i].size);
		assert_int_equal(x.mmio.write, want[i].write);
		if (want[i].write)
			assert_int_equal(x.mmio.data, want[i].data);
		else
			x.mmio.data = want[i].data;
		assert_true(x.pc >= KB_CODE && x.pc < KB_CODE + 0x100);
	}
	assert_int_equal(kb_end(b, 0, &x), 7);
	assert_int_equal(kb_get(b, 0x8000), 0x1122334455667788);
	assert_int_equal(kb_get(b, 0x8008), 0xa5);
	kb_free(b);
}

/* Where nobody is, reads are ones. */
static void test_nobody(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};

	KB_LOAD(b, accesses);
	for (unsigned i = 0; i < 9; i++) {
		run(b, &x);
		x.mmio.error = true;
	}
	assert_int_equal(kb_end(b, 0, &x), 7);
	assert_int_equal(kb_get(b, 0x8000), UINT64_MAX);
	assert_int_equal(kb_get(b, 0x8008), 0xff);
	kb_free(b);
}

GUEST(strings, "mov esi, 0x8000\n mov dx, 0x600\n mov ecx, 3\n rep outsd\n"
	       "mov edi, 0x9000\n mov ecx, 5\n rep insb\n mov al, 1\n out 0xf4, al\n");

static void test_strings(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};

	kb_put(b, 0x8000, 0x2222222211111111);
	kb_put(b, 0x8008, 0x33333333);
	KB_LOAD(b, strings);
	for (unsigned i = 1; i <= 3; i++) {
		run(b, &x);
		assert_int_equal(x.reason, CPU_EXIT_PIO);
		assert_int_equal(x.mmio.size, 4);
		assert_int_equal(x.mmio.data, 0x11111111u * i);
		assert_int_equal(x.mmio.gpa.v, 0x600);
	}
	for (unsigned i = 1; i <= 5; i++) {
		run(b, &x);
		assert_int_equal(x.mmio.size, 1);
		assert_false(x.mmio.write);
		x.mmio.data = i;
	}
	assert_int_equal(kb_end(b, 0, &x), 1);
	assert_int_equal(kb_get(b, 0x9000), 0x0504030201);
	kb_free(b);
}

GUEST(spin, "1: inc qword ptr [0x8000]\n jmp 1b\n");

static void *kicker(void *ctx)
{
	usleep(50000);
	kvm_engine.vcpu_kick(ctx);
	return NULL;
}

static void test_kick(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};
	pthread_t t;

	KB_LOAD(b, spin);
	pthread_create(&t, NULL, kicker, b->v[0]);
	kvm_engine.vcpu_run(b->v[0], CPU_BUDGET_NONE, &x);
	pthread_join(t, NULL);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_true(kb_get(b, 0x8000) > 0);
	/* A kick that comes before run() is not lost, and is used up by one. */
	kvm_engine.vcpu_kick(b->v[0]);
	kb_put(b, 0x8000, 0);
	kvm_engine.vcpu_run(b->v[0], CPU_BUDGET_NONE, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_int_equal(kb_get(b, 0x8000), 0);
	kvm_engine.vcpu_run(b->v[0], 20000000, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_true(kb_get(b, 0x8000) > 0);
	kb_free(b);
}

static void test_budget(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};
	uint64_t t0;

	KB_LOAD(b, spin);
	t0 = clock_mono_ns();
	for (unsigned i = 0; i < 5; i++) {
		kvm_engine.vcpu_run(b->v[0], 20000000, &x);
		assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	}
	t0 = clock_mono_ns() - t0;
	assert_true(t0 >= 100000000 && t0 < 10000000000);
	/* Nothing to finish: back at once. */
	kb_put(b, 0x8000, 0);
	kvm_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_int_equal(kb_get(b, 0x8000), 0);
	kb_free(b);
}

/* Loads through an alias and stores to a read-only page, in a second view and in the first. */
GUEST(map, "mov rax, [0x200000]\n mov [0x8000], rax\n"
	   "mov rax, [0x201000]\n mov [0x8008], rax\n"
	   "mov rax, 0x77\n mov [0x201008], rax\n mov al, 3\n out 0xf4, al\n");

static void test_map(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct view *v0 = space_view(b->space, 0);
	struct cpu_exit x = {0};
	struct view_leaf leaf;
	struct err e = {0};

	kb_put(b, 0x100000, 0xaa);
	kb_put(b, 0x101000, 0xbb);
	kb_put(b, 0x200000, 1);
	assert_int_equal(view_lookup(v0, gpa(0x100000), &leaf), 0);
	assert_int_equal(view_remap(v0, gpa(0x200000), leaf.mfn, VIEW_RWX, &e), 0);
	assert_int_equal(view_lookup(v0, gpa(0x101000), &leaf), 0);
	assert_int_equal(view_remap(v0, gpa(0x201000), leaf.mfn, VIEW_R, &e), 0);
	space_invalidate(b->space, 0, gpa(0x200000), 0x2000, MEM_READ | MEM_WRITE | MEM_EXEC);
	KB_LOAD(b, map);
	run(b, &x);
	assert_int_equal(x.reason, CPU_EXIT_VIEW_FAULT);
	assert_int_equal(x.fault.gpa.v, 0x201008);
	assert_int_equal(x.fault.access, MEM_WRITE);
	assert_int_equal(kb_get(b, 0x8000), 0xaa);
	assert_int_equal(kb_get(b, 0x8008), 0xbb);
	/* Unchanged, it is the same again; changed, the store is made. */
	run(b, &x);
	assert_int_equal(x.reason, CPU_EXIT_VIEW_FAULT);
	assert_int_equal(view_protect(v0, gpa(0x201000), 0x1000, VIEW_RWX, &e), 0);
	space_invalidate(b->space, 0, gpa(0x201000), 0x1000, MEM_READ | MEM_WRITE | MEM_EXEC);
	assert_int_equal(kb_end(b, 0, &x), 3);
	assert_int_equal(kb_get(b, 0x101008), 0x77);
	kb_free(b);
}

GUEST(peek, "mov rax, [0x200000]\n out 0xf4, al\n");

static void test_views(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};
	struct view *v1;
	struct view_leaf leaf;
	struct err e = {0};

	kb_put(b, 0x100000, 0xaa);
	kb_put(b, 0x200000, 1);
	assert_int_equal(space_view_add(b->space, &v1, &e), 0);
	assert_int_equal(view_lookup(space_view(b->space, 0), gpa(0), &leaf), 0);
	assert_int_equal(view_map(v1, gpa(0), leaf.mfn, 0x200000, VIEW_RWX, &e), 0);
	assert_int_equal(view_lookup(space_view(b->space, 0), gpa(0x100000), &leaf), 0);
	assert_int_equal(view_map(v1, gpa(0x200000), leaf.mfn, 0x1000, VIEW_RWX, &e), 0);
	for (unsigned i = 0; i < 4; i++) {
		KB_LOAD(b, peek);
		assert_int_equal(kvm_engine.vm_view(b->vm, i & 1, &e), 0);
		assert_int_equal(kb_end(b, 0, &x), i & 1 ? 0xaa : 1);
	}
	assert_int_equal(kvm_engine.vm_view(b->vm, 7, &e), -ENOENT);
	kb_free(b);
}

GUEST(triple, "lidt [rip + 1f]\n ud2\n 1: .word 0\n .quad 0\n");

static void test_shutdown(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};

	KB_LOAD(b, triple);
	run(b, &x);
	assert_int_equal(x.reason, CPU_EXIT_SYSTEM);
	assert_int_equal(x.system.event, CPU_SYSTEM_CRASH);
	kb_free(b);
}

/* A PVH entry: 32-bit code, ebx points to the start info. */
GUEST(pvh, ".code32\n mov eax, ebx\n mov dx, 0x510\n out dx, eax\n mov eax, cr0\n out dx, eax\n"
	   "mov al, 9\n out 0xf4, al\n .code64\n");

static void test_pvh(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};

	KB_LOAD(b, pvh);
	kvm_engine.vcpu_reset(b->v[0],
		&(struct cpu_boot){
			.pc = KB_CODE, .mode = CPU_BOOT_PVH, .arg0 = 0x12345678, .running = true});
	run(b, &x);
	assert_int_equal(x.mmio.data, 0x12345678);
	run(b, &x);
	assert_int_equal(x.mmio.data & 0x80000001, 1);
	assert_int_equal(kb_end(b, 0, &x), 9);
	kb_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accesses),
		cmocka_unit_test(test_nobody),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_kick),
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_views),
		cmocka_unit_test(test_shutdown),
		cmocka_unit_test(test_pvh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
