/* A KVM that is not what it should be: each call fails in turn, capabilities are missing, signals shower. An error by name or another way; never a hang. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "cpu/kvm/probe.h"
#include "kvm_bare.h"

GUEST(work, "mov ecx, 3\n 1: mov dx, 0x510\n mov eax, ecx\n out dx, eax\n dec ecx\n jnz 1b\n"
	    "mov ebx, 0xd0000000\n mov eax, [rbx]\n mov al, 5\n out 0xf4, al\n");

/* Memory for one machine after the other. */
struct ground {
	struct frames *frames;
	struct space *space;
};

static void ground_up(struct ground *g)
{
	struct kvm_bare *b = kb_new(1); /* skips where there is no KVM */
	struct frames_opts fo = {.nodes = 1, .node_bytes = {4 * KB_RAM}, .name = "faults"};

	kb_free(b);
	assert_int_equal(frames_create(&g->frames, &fo, NULL), 0);
	assert_int_equal(space_create(&g->space, g->frames, NULL), 0);
	assert_int_equal(space_add_ram(g->space, gpa(0), KB_RAM, 0, "ram", NULL), 0);
}

static void ground_down(struct ground *g)
{
	space_destroy(g->space);
	frames_destroy(g->frames);
}

static void test_open(void **state)
{
	static const struct {
		int open_with, version;
		const char *word;
	} bad[] = {{-ENOENT, 0, "no /dev/kvm"}, {-EACCES, 0, "no permission"},
		{-EPERM, 0, "no permission"}, {-ENODEV, 0, "no /dev/kvm"},
		{-EMFILE, 0, "Too many open files"}, {0, 10, "version 10"}};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct kb_shim s = {.open_with = bad[i].open_with, .version = bad[i].version};
		struct cpu_vm_opts o = {.vcpus = 1};
		struct cpu_vm *vm = NULL;
		struct err e = {0};

		if (!bad[i].open_with && access("/dev/kvm", R_OK | W_OK))
			continue;
		assert_true(kvm_available_on(kb_shim(&s), &e) < 0);
		assert_non_null(strstr(err_msg(&e), bad[i].word));
		e = (struct err){0};
		assert_true(kvm_vm_create_on(&vm, &o, kb_shim(&s), &e) < 0);
		assert_non_null(strstr(err_msg(&e), bad[i].word));
	}
}

/* Without each capability: a machine that works, or a refusal that names it. */
static void test_capabilities(void **state)
{
	struct ground g;

	ground_up(&g);
	for (unsigned i = 0; kvm_cap_row(i); i++) {
		struct kb_shim s = {.hide = kvm_cap_row(i)->name};
		struct cpu_vm_opts o = {.vcpus = 1, .space = g.space};
		struct cpu_vm *vm = NULL;
		struct err e = {0};
		int rc = kvm_vm_create_on(&vm, &o, kb_shim(&s), &e);

		if (kvm_cap_row(i)->needed) {
			assert_int_equal(rc, -ENOTSUP);
			assert_non_null(strstr(err_msg(&e), kvm_cap_row(i)->name));
		} else {
			struct kvm_bare *b;
			struct cpu_exit x = {0};

			if (rc)
				fail_msg("without %s: %s", s.hide, err_msg(&e));
			kvm_engine.vm_destroy(vm);
			b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&s));
			KB_LOAD(b, work);
			for (unsigned n = 0; n < 4; n++)
				kb_exit(b, 0, &x);
			assert_int_equal(kb_end(b, 0, &x), 5);
			kb_free(b);
		}
	}
	ground_down(&g);
}

/* Its writes are tracked, and its state goes out and in again. */
static int save_and_load(struct ground *g, struct cpu_vm *vm, struct vcpu *const *v,
	struct cpu_exit *x, struct err *e)
{
	struct state_obj o[] = {{"cpus", kvm_engine.vm_state(), kvm_engine.vm_state_obj(vm)},
		{"cpu0", kvm_engine.vcpu_state(), kvm_engine.vcpu_state_obj(v[0])},
		{"cpu1", kvm_engine.vcpu_state(), kvm_engine.vcpu_state_obj(v[1])}};
	struct tracker *t;
	uint8_t *buf;
	size_t len;
	int rc = tracker_start(&t, g->space, NULL, e);

	if (rc)
		return rc;
	kvm_engine.vcpu_run(v[0], 0, x);
	tracker_collect(t, NULL, NULL);
	tracker_stop(t);
	rc = state_save(o, 3, &buf, &len, e);
	if (!rc) {
		rc = state_load(o, 3, buf, len, e);
		free(buf);
	}
	return rc;
}

/* Everything that a small machine does, from its making to its end; 0, or the first error. `text` gets what was said. */
static int life(struct ground *g, struct kb_shim *s, enum cpu_irqchip irqchip, char *text)
{
	struct cpu_vm_opts o = {.vcpus = 2, .space = g->space, .irqchip = irqchip};
	struct cpu_vm *vm = NULL;
	struct vcpu *v[2];
	struct cpu_exit x = {0};
	struct err e = {0};
	uint64_t end = clock_mono_ns() + 3000000000ull;
	int rc = kvm_vm_create_on(&vm, &o, kb_shim(s), &e);

	for (unsigned i = 0; !rc && i < 2; i++)
		rc = kvm_engine.vcpu_create(&v[i], vm, i, &e);
	snprintf(text, 512, "%s", err_msg(&e));
	if (rc) {
		kvm_engine.vm_destroy(vm);
		return rc;
	}
	assert_int_equal(space_write(g->space, gpa(KB_CODE), guest_work,
				 (size_t)(guest_work_end - guest_work)),
		0);
	kvm_engine.vcpu_reset(
		v[0], &(struct cpu_boot){.pc = KB_CODE, .mode = CPU_BOOT_PVH, .running = true});
	kvm_engine.vcpu_reset(v[1], &(struct cpu_boot){0});
	kvm_engine.vm_irq(vm, 5, true);
	kvm_engine.vm_irq(vm, 5, false);
	kvm_engine.vm_msi(vm, 0xfee00000, 0x41);
	kvm_engine.time_stop(vm);
	kvm_engine.time_set(vm, kvm_engine.time_get(vm) + 1000000);
	kvm_engine.time_start(vm);
	rc = -ETIME;
	while (rc == -ETIME && clock_mono_ns() < end) {
		kvm_engine.vcpu_run(v[0], 50000000, &x);
		if (x.reason == CPU_EXIT_PIO && x.mmio.gpa.v == KB_END)
			rc = 0;
		if (x.reason == CPU_EXIT_ERROR || x.reason == CPU_EXIT_SYSTEM) {
			snprintf(text, 512, "%s",
				x.reason == CPU_EXIT_ERROR ? x.text : "triple fault");
			rc = -EIO;
		}
	}
	if (!rc) {
		rc = save_and_load(g, vm, v, &x, &e);
		snprintf(text, 512, "%s", err_msg(&e));
	}
	kvm_engine.vm_destroy(vm);
	return rc;
}

static void each_call(struct ground *g, enum cpu_irqchip irqchip, int with, unsigned step)
{
	char text[512];

	for (unsigned n = 1;; n += step) {
		struct kb_shim s = {.fail_at = n, .fail_with = with};
		int rc = life(g, &s, irqchip, text);

		if (!s.failed) {
			assert_int_equal(rc, 0);
			assert_true(n > 120);
			return;
		}
		if (rc == -ETIME)
			fail_msg("call %u (%s) with %d: hangs", n, kvm_sys_name(s.last), with);
		/* An error has a text that says which call it was, or what was done with it. */
		if (rc && !text[0])
			fail_msg("call %u (%s): no text", n, kvm_sys_name(s.last));
		if (rc && rc != -EIO && !strstr(text, "kvm") && !strstr(text, "vCPU") &&
			!strstr(text, "load state") && !strstr(text, "write tracking"))
			fail_msg("call %u (%s): \"%s\"", n, kvm_sys_name(s.last), text);
	}
}

static void test_each_call(void **state)
{
	struct ground g;

	ground_up(&g);
	each_call(&g, CPU_IRQCHIP_FULL, -EINVAL, 1);
	each_call(&g, CPU_IRQCHIP_SPLIT, -ENOMEM, 5);
	each_call(&g, CPU_IRQCHIP_AUTO, -EINTR, 7);
	ground_down(&g);
}

/* A request that always fails: named, not tried for ever. */
static void test_always(void **state)
{
	static const unsigned long all[] = {KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE,
		KVM_SET_USER_MEMORY_REGION, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_CREATE_VCPU,
		KVM_SET_CPUID2, KVM_GET_SUPPORTED_CPUID, KVM_GET_LAPIC, KVM_RUN,
		KVM_SET_GSI_ROUTING, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR, KVM_GET_XSAVE2,
		KVM_GET_VCPU_EVENTS, KVM_SET_SREGS2, KVM_SET_MSRS, KVM_SET_XSAVE, KVM_SET_LAPIC,
		KVM_SET_MP_STATE, KVM_SET_REGS};
	struct ground g;
	char text[512];

	ground_up(&g);
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct kb_shim s = {.fail_nr = all[i],
			.fail_at = 1,
			.fail_times = 1000000,
			.fail_with = -EINVAL};
		int rc = life(&g, &s, CPU_IRQCHIP_FULL, text);

		assert_true(rc < 0 && rc != -ETIME);
		if (!strstr(text, kvm_sys_name(all[i])))
			fail_msg("%s: \"%s\"", kvm_sys_name(all[i]), text);
	}
	/* Without the controllers in the kernel, AUTO takes the other half. */
	{
		struct kb_shim s = {.fail_nr = KVM_CREATE_IRQCHIP,
			.fail_at = 1,
			.fail_times = 1000000,
			.fail_with = -EINVAL};

		assert_int_equal(life(&g, &s, CPU_IRQCHIP_AUTO, text), 0);
		assert_true(s.failed > 0);
	}
	ground_down(&g);
}

static void test_eintr_storm(void **state)
{
	struct kb_shim s = {
		.fail_nr = KVM_RUN, .fail_at = 1, .fail_times = 1000, .fail_with = -EINTR};
	struct kb_shim ever = {
		.fail_nr = KVM_RUN, .fail_at = 1, .fail_times = 0x7fffffff, .fail_with = -EINTR};
	struct ground g;
	char text[512];
	struct kvm_bare *b;
	struct cpu_exit x = {0};

	ground_up(&g);
	assert_int_equal(life(&g, &s, CPU_IRQCHIP_FULL, text), 0);
	assert_int_equal(s.failed, 1000);
	ground_down(&g);
	/* For ever: run() comes back all the same, and says that nothing happened. */
	b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&ever));
	KB_LOAD(b, work);
	kvm_engine.vcpu_run(b->v[0], CPU_BUDGET_NONE, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	kb_free(b);
}

/* A slot that is refused while the machine runs stops it with a text. */
static void test_slot_refused(void **state)
{
	struct kb_shim s = {0};
	struct kvm_bare *b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&s));
	struct cpu_exit x = {0};

	KB_LOAD(b, work);
	s.fail_nr = KVM_SET_USER_MEMORY_REGION;
	s.fail_at = 1;
	s.fail_times = 1000;
	s.fail_with = -ENOSPC;
	assert_int_equal(
		view_protect(space_view(b->space, 0), gpa(0x200000), 0x1000, VIEW_R, NULL), 0);
	space_invalidate(b->space, 0, gpa(0x200000), 0x1000, MEM_READ | MEM_WRITE | MEM_EXEC);
	kvm_engine.vcpu_run(b->v[0], 50000000, &x);
	assert_int_equal(x.reason, CPU_EXIT_ERROR);
	assert_non_null(strstr(x.text, "slots"));
	kb_free(b);
}

/* Is kernel code run by hardware: what cannot be measured is named by the call, and nothing is left open. */
static void test_probe(void **state)
{
	double slower = -1;
	struct err e = {0};
	struct kb_shim all = {.fail_at = 1000000};
	int fds = dup(0);

	close(fds);
	if (kvm_privileged_on(kb_shim(&all), &slower, &e))
		skip();
	assert_true(slower >= 0);
	for (unsigned n = 1; n <= all.calls; n++) {
		struct kb_shim s = {.fail_at = n, .fail_with = -ENOMEM};
		int rc;

		e = (struct err){0};
		rc = kvm_privileged_on(kb_shim(&s), &slower, &e);
		/* How often it runs is the host's speed: what comes last may not come at all. */
		if (!s.failed)
			break;
		assert_int_equal(rc, -ENOMEM);
		assert_non_null(strcasestr(err_msg(&e), "kvm"));
		assert_int_equal(dup(0), fds);
		close(fds);
	}
}

/* What the host offers, with the way that is gone without each. */
static void on_feature(
	void *ctx, const char *name, int value, const char *serves, const char *without)
{
	assert_true(name[0] >= 'A' && serves[0] && without[0]);
	++*(unsigned *)ctx;
}

static void test_features(void **state)
{
	struct err e = {0};
	unsigned n = 0, want = 0;

	if (kvm_engine.features(on_feature, &n, &e))
		skip();
	for (unsigned i = 0; kvm_cap_row(i); i++)
		want += !kvm_cap_row(i)->needed;
	assert_int_equal(n, want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_each_call),
		cmocka_unit_test(test_always),
		cmocka_unit_test(test_eintr_storm),
		cmocka_unit_test(test_slot_refused),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_features),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
