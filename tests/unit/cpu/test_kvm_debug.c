/* What debuggers want of the kvm engine: registers, translation, stops; and what is said of an instruction that KVM cannot do. */
#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "kvm_bare.h"

GUEST(steps, "mov rax, 0x11\n mov rbx, 0x22\n mov [0x8000], rax\n mov rcx, 0x33\n mov al, 1\n out "
	     "0xf4, al\n");
#define STEP_1 (KB_CODE + 7)
#define STEP_2 (KB_CODE + 14)

static uint64_t reg(struct kvm_bare *b, unsigned n)
{
	uint64_t v = 0;

	assert_int_equal(kvm_engine.vcpu_reg_get(b->v[0], n, &v), 0);
	return v;
}

static void stop_at(struct kvm_bare *b, struct cpu_exit *x, uint64_t pc)
{
	kb_exit(b, 0, x);
	assert_int_equal(x->reason, CPU_EXIT_DEBUG);
	assert_int_equal(x->pc, pc);
	assert_int_equal(reg(b, 16), pc);
}

static void test_registers(void **state)
{
	static const unsigned written[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 24, 25, 27};
	struct kvm_bare *b = kb_new(1);
	uint64_t v;

	KB_LOAD(b, steps);
	assert_int_equal(reg(b, 16), KB_CODE);
	assert_int_equal(reg(b, 7), KB_STACK);
	assert_int_equal(reg(b, 17), 2);
	assert_int_equal(reg(b, 18), 0x10); /* cs */
	assert_int_equal(reg(b, 28), KB_TABLES); /* cr3 */
	for (unsigned i = 0; i < sizeof(written) / sizeof(written[0]); i++) {
		uint64_t to = 0x1000 + written[i];

		assert_int_equal(kvm_engine.vcpu_reg_set(b->v[0], written[i], to), 0);
		assert_int_equal(reg(b, written[i]), to);
	}
	assert_int_equal(kvm_engine.vcpu_reg_set(b->v[0], 18, 8), -EPERM);
	assert_int_equal(kvm_engine.vcpu_reg_get(b->v[0], 32, &v), -ENOENT);
	assert_int_equal(kvm_engine.vcpu_reg_set(b->v[0], 1000, 0), -ENOENT);
	kb_free(b);
}

static void test_translate(void **state)
{
	struct kvm_bare *b = kb_new(1);
	gpa_t a;

	KB_LOAD(b, steps);
	assert_int_equal(kvm_engine.vcpu_translate(b->v[0], 0x123456, MEM_READ, &a), 0);
	assert_int_equal(a.v, 0x123456);
	assert_int_equal(kvm_engine.vcpu_translate(b->v[0], 1ull << 40, MEM_READ, &a), -EFAULT);
	kb_free(b);
}

static void test_step(void **state)
{
	struct cpu_debug d = {.step = true}, none = {0};
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};
	struct err e = {0};

	KB_LOAD(b, steps);
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &d, &e), 0);
	stop_at(b, &x, STEP_1);
	assert_int_equal(reg(b, 0), 0x11);
	stop_at(b, &x, STEP_2);
	assert_int_equal(reg(b, 1), 0x22);
	/* What a debugger changes is what the guest goes on with. */
	assert_int_equal(kvm_engine.vcpu_reg_set(b->v[0], 0, 0x99), 0);
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &none, &e), 0);
	assert_int_equal(kb_end(b, 0, &x), 1);
	assert_int_equal(kb_get(b, 0x8000), 0x99);
	kb_free(b);
}

static void test_points(void **state)
{
	struct cpu_debug d = {.point = {{STEP_2, 1, MEM_EXEC}}};
	struct cpu_debug bad = {.point = {{STEP_2 + 1, 4, MEM_WRITE}}};
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};
	struct err e = {0};

	KB_LOAD(b, steps);
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &bad, &e), -EINVAL);
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &d, &e), 0);
	stop_at(b, &x, STEP_2);
	d = (struct cpu_debug){.point = {{0x8000, 8, MEM_WRITE}}};
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &d, &e), 0);
	kb_exit(b, 0, &x);
	if (x.reason == CPU_EXIT_DEBUG) /* a software KVM may not watch data */
		assert_int_equal(kb_get(b, 0x8000), 0x11);
	kb_free(b);
}

GUEST(trap, "int3\n mov al, 1\n out 0xf4, al\n");

static void test_soft(void **state)
{
	struct cpu_debug d = {.soft = true};
	struct kb_shim s = {.hide = "KVM_CAP_SET_GUEST_DEBUG"};
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};
	struct err e = {0};

	KB_LOAD(b, trap);
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &d, &e), 0);
	kb_exit(b, 0, &x);
	if (x.reason == CPU_EXIT_ERROR)
		print_message("%s\n", x.text);
	/* A software KVM may not know INT3 in ring 0; then it is an error that says so. */
	if (x.reason == CPU_EXIT_ERROR)
		assert_non_null(strstr(x.text, "bytes cc "));
	else
		assert_int_equal(x.reason, CPU_EXIT_DEBUG);
	assert_int_equal(x.pc, KB_CODE);
	kb_free(b);
	b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&s));
	assert_int_equal(kvm_engine.vcpu_debug(b->v[0], &d, &e), -ENOTSUP);
	kb_free(b);
}

/* Code where no memory is: KVM gives up, and the text says on what and where. */
GUEST(lost, "mov eax, 0xd0000000\n jmp rax\n");

static void test_internal_error(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct cpu_exit x = {0};

	KB_LOAD(b, lost);
	kb_exit(b, 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_ERROR);
	assert_non_null(strstr(x.text, "0xd0000000"));
	assert_non_null(strstr(x.text, "bytes"));
	assert_int_equal(x.pc, 0xd0000000);
	kb_free(b);
}

/* An MSR that guests may not read: #GP, whose handler is at KB_CODE + 16. */
GUEST(msr,
	"jmp 1f\n .org guest_msr + 16\n mov al, 13\n out 0xf4, al\n"
	"1: lgdt [0xa100]\n lidt [0xa110]\n mov ecx, 0x611\n rdmsr\n mov al, 1\n out 0xf4, al\n");

static void test_msr_filter(void **state)
{
	struct kb_shim s = {.hide = "KVM_CAP_X86_MSR_FILTER"};
	struct kvm_bare *b = kb_new(1);
	struct cpu_stats st = {0};
	struct cpu_exit x = {0};

	kb_put(b, KB_IDT + 16 * 13,
		((KB_CODE + 16) & 0xffff) | 0x10 << 16 | 0x8e00ull << 32 |
			((KB_CODE + 16) >> 16) << 48);
	KB_LOAD(b, msr);
	assert_int_equal(kb_end(b, 0, &x), 13);
	kvm_engine.vcpu_stats(b->v[0], &st);
	assert_int_equal(st.traps, 1); /* it was the filter that refused it */
	kb_free(b);
	b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&s));
	kb_free(b);
}

static void test_prefill(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct err e = {0};

	assert_int_equal(kvm_engine.vcpu_prefill(b->v[0], gpa(0x100000), 0x100000, &e), 0);
	assert_int_equal(kvm_engine.vcpu_prefill(b->v[0], gpa(0xd0000000), 0x1000, &e), -EFAULT);
	kb_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers),
		cmocka_unit_test(test_translate),
		cmocka_unit_test(test_step),
		cmocka_unit_test(test_points),
		cmocka_unit_test(test_soft),
		cmocka_unit_test(test_internal_error),
		cmocka_unit_test(test_msr_filter),
		cmocka_unit_test(test_prefill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
