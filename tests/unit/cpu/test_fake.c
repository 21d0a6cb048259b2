/* The scripted engine keeps the contract of cpu/cpu.h, so that tests may stand on it; and exits have names. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "fake_engine.h"

static void saw(void *ctx, const struct cpu_exit *x)
{
	*(uint64_t *)ctx = x->mmio.data;
}

static void on_wake(void *ctx, unsigned vcpu)
{
	*(unsigned *)ctx |= 1u << vcpu;
}

static void plays_its_script(void **state)
{
	uint64_t answer = 0;
	unsigned woken = 0;
	const struct fake_step steps[] = {
		{.exit = {.reason = CPU_EXIT_MMIO, .mmio = {.gpa = gpa(0x1000), .size = 4}},
			.check = saw,
			.ctx = &answer},
		{.exit = {.reason = CPU_EXIT_IDLE, .idle = {UINT64_MAX}}},
		{.exit = {.reason = CPU_EXIT_SYSTEM, .system = {CPU_SYSTEM_SHUTDOWN, 3}}},
	};
	struct cpu_vm *vm;
	struct vcpu *v;
	struct cpu_exit x;
	struct err e = {0};
	struct cpu_stats st;

	assert_int_equal(
		fake_engine.vm_create(&vm,
			&(struct cpu_vm_opts){.vcpus = 1, .wake = on_wake, .wake_ctx = &woken}, &e),
		0);
	assert_int_equal(fake_engine.vcpu_create(&v, vm, 1, &e), -EINVAL);
	assert_int_equal(fake_engine.vcpu_create(&v, vm, 0, &e), 0);
	fake_engine.vcpu_reset(v, &(struct cpu_boot){.pc = 0x80000000, .running = true});
	fake_script(v, steps, ARRAY_SIZE(steps));
	fake_engine.vcpu_run(v, 1000, &x);
	assert_int_equal(x.reason, CPU_EXIT_MMIO);
	assert_int_equal(fake_steps_done(v), 0);
	/* a run without a budget takes the answer and does no more */
	x.mmio.data = 42;
	fake_engine.vcpu_run(v, 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_int_equal(answer, 42);
	assert_int_equal(fake_steps_done(v), 1);
	fake_engine.vcpu_run(v, 1000, &x);
	assert_int_equal(x.reason, CPU_EXIT_IDLE);
	/* messages wake, kicks use no step up */
	fake_engine.vcpu_msi(v, CPU_MSI_S, 7);
	fake_engine.vcpu_irq(v, CPU_IRQ_S_EXT, true);
	assert_int_equal(woken, 1);
	assert_int_equal(fake_last_msi(v), 7);
	assert_int_equal(fake_lines(v), 1u << CPU_IRQ_S_EXT);
	fake_engine.vcpu_run(v, 1000, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	fake_engine.vcpu_run(v, 1000, &x);
	assert_int_equal(x.reason, CPU_EXIT_SYSTEM);
	assert_int_equal(x.system.code, 3);
	fake_engine.vcpu_run(v, 1000, &x);
	assert_int_equal(x.reason, CPU_EXIT_STOPPED);
	assert_int_equal(fake_steps_done(v), 3);
	fake_engine.vcpu_stats(v, &st);
	assert_int_equal(st.exits[CPU_EXIT_MMIO], 1);
	assert_int_equal(st.exits[CPU_EXIT_BUDGET], 2);
	fake_engine.vm_destroy(vm);
}

static void engines_and_exits_have_names(void **state)
{
	const struct cpu_engine_ops *rv64 = cpu_engine_find("rv64");

	assert_non_null(rv64);
	assert_ptr_equal(cpu_engine_at(0), rv64);
	assert_null(cpu_engine_find("fake")); /* it is for tests: no user can choose it */
	assert_null(cpu_engine_find(""));
	assert_null(cpu_engine_at(1000));
	for (unsigned i = 0; i < CPU_EXIT_REASONS; i++) {
		assert_string_not_equal(cpu_exit_name(i), "unknown");
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(cpu_exit_name(i), cpu_exit_name(k));
	}
	assert_string_equal(cpu_exit_name(CPU_EXIT_REASONS), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plays_its_script),
		cmocka_unit_test(engines_and_exits_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
