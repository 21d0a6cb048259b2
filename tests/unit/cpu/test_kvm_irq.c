/* Interrupts into guests of the kvm engine, doorbells out of them, and time: each with the controllers in the kernel and split. */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "kvm_bare.h"

static struct kvm_bare *machine(void **state, unsigned vcpus)
{
	struct cpu_vm_opts o = {.vcpus = vcpus, .irqchip = *(enum cpu_irqchip *)*state};

	return kb_new_with(&o, &kvm_sys_host);
}

/*
 * Waits, by halting or awake, until interrupts have come to what 0x8000 says, then ends. IOAPIC pin 5: 0x41, edge; pin 6: 0x42, level.
 * (Awake, because a software KVM runs on from an EOI into HLT without reporting the EOI, and then sleeps over it.)
 */
#define WAIT(how) \
	KB_INTERRUPTS \
	"mov edx, 0xfec00000\n" \
	"mov dword ptr [rdx], 0x1b\n mov dword ptr [rdx + 0x10], 0\n" \
	"mov dword ptr [rdx], 0x1a\n mov dword ptr [rdx + 0x10], 0x41\n" \
	"mov dword ptr [rdx], 0x1d\n mov dword ptr [rdx + 0x10], 0\n" \
	"mov dword ptr [rdx], 0x1c\n mov dword ptr [rdx + 0x10], 0x8042\n" \
	"mov dx, 0x510\n mov al, 1\n out dx, al\n" \
	"1: cli\n mov rax, [0x20208]\n add rax, [0x20210]\n cmp rax, [0x8000]\n" \
	"jae 2f\n sti\n " how "\n jmp 1b\n" \
	"2: mov al, 4\n out 0xf4, al\n jmp 1b\n"
GUEST(wait, WAIT("hlt"));
GUEST(wait_awake, WAIT("pause"));

static void ready(struct kvm_bare *b, struct cpu_exit *x, bool halts)
{
	if (halts)
		KB_LOAD(b, wait);
	else
		KB_LOAD(b, wait_awake);
	kb_exit(b, 0, x);
	assert_int_equal(x->reason, CPU_EXIT_PIO);
	assert_int_equal(x->mmio.gpa.v, 0x510);
}

static void test_wired(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	struct cpu_exit x = {0};

	kb_put(b, 0x8000, 1);
	ready(b, &x, false);
	kvm_engine.vm_irq(b->vm, 5, true);
	kvm_engine.vm_irq(b->vm, 5, false);
	assert_int_equal(kb_end(b, 0, &x), 4);
	assert_int_equal(kb_get(b, KB_COUNT(0x41)), 1);
	/* A level that stays high fires again after each EOI. */
	kb_put(b, 0x8000, 4);
	kvm_engine.vm_irq(b->vm, 6, true);
	assert_int_equal(kb_end(b, 0, &x), 4);
	kvm_engine.vm_irq(b->vm, 6, false);
	assert_true(kb_get(b, KB_COUNT(0x42)) >= 3);
	kb_free(b);
}

static void test_message(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	struct cpu_exit x = {0};

	kb_put(b, 0x8000, 1);
	ready(b, &x, true);
	kvm_engine.vm_msi(b->vm, 0xfee00000, 0x41);
	assert_int_equal(kb_end(b, 0, &x), 4);
	/* Nobody there: lost. */
	kvm_engine.vm_msi(b->vm, 0xfee7f000, 0x41);
	assert_int_equal(kb_get(b, KB_COUNT(0x41)), 1);
	kb_free(b);
}

static void signal_fd(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void test_irqfd(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct cpu_irqfd f = {.fd = fd, .addr = 0xfee00000, .data = 0x41};
	struct cpu_exit x = {0};
	struct err e = {0};
	int id;

	kb_put(b, 0x8000, 1);
	ready(b, &x, true);
	id = kvm_engine.irqfd_add(b->vm, &f, &e);
	assert_true(id >= 0);
	signal_fd(fd);
	assert_int_equal(kb_end(b, 0, &x), 4);
	kb_put(b, 0x8000, 2);
	assert_int_equal(kvm_engine.irqfd_change(b->vm, id, 0xfee00000, 0x42, &e), 0);
	signal_fd(fd);
	assert_int_equal(kb_end(b, 0, &x), 4);
	assert_int_equal(kb_get(b, KB_COUNT(0x42)), 1);
	kvm_engine.irqfd_remove(b->vm, id);
	signal_fd(fd);
	usleep(20000);
	assert_int_equal(kb_get(b, KB_COUNT(0x42)), 1);
	assert_int_equal(kvm_engine.irqfd_change(b->vm, 3, 0, 0, &e), -EINVAL);
	kb_free(b);
	close(fd);
}

GUEST(bells,
	"mov ebx, 0xd0001000\n mov eax, 5\n mov [rbx], eax\n mov [rbx], eax\n"
	"mov eax, 6\n mov [rbx], eax\n mov dx, 0x600\n out dx, ax\n mov al, 1\n out 0xf4, al\n");

static uint64_t rung(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void test_doorbell(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct cpu_doorbell mem = {
		.addr = 0xd0001000, .size = 4, .match = true, .value = 5, .fd = fd};
	struct cpu_doorbell port = {.pio = true, .addr = 0x600, .size = 2, .fd = fd};
	struct cpu_exit x = {0};
	struct err e = {0};

	assert_int_equal(kvm_engine.doorbell_add(b->vm, &mem, &e), 0);
	assert_int_equal(kvm_engine.doorbell_add(b->vm, &mem, &e), -EEXIST);
	assert_int_equal(kvm_engine.doorbell_add(b->vm, &port, &e), 0);
	KB_LOAD(b, bells);
	kb_exit(b, 0, &x); /* only the value that nobody waits for */
	assert_int_equal(x.reason, CPU_EXIT_MMIO);
	assert_int_equal(x.mmio.data, 6);
	assert_int_equal(rung(fd), 2);
	assert_int_equal(kb_end(b, 0, &x), 1);
	assert_int_equal(rung(fd), 1);
	kvm_engine.doorbell_remove(b->vm, &mem);
	kvm_engine.doorbell_remove(b->vm, &port);
	KB_LOAD(b, bells);
	kb_exit(b, 0, &x);
	assert_int_equal(x.mmio.data, 5);
	assert_int_equal(rung(fd), 0);
	kb_free(b);
	close(fd);
}

/* INIT and SIPI to APIC id 1, vector 9: real mode at 0x9000. */
GUEST(starter, KB_INTERRUPTS
	"mov dword ptr [rbx + 0x310], 0x1000000\n mov dword ptr [rbx + 0x300], 0x4500\n"
	"mov dword ptr [rbx + 0x310], 0x1000000\n mov dword ptr [rbx + 0x300], 0x4609\n"
	"1: pause\n cmp word ptr [0x7f00], 1\n jne 1b\n mov al, 2\n out 0xf4, al\n");
GUEST(started, ".code16\n xor ax, ax\n mov ds, ax\n inc word ptr [0x7f00]\n mov al, 3\n out 0xf4, "
	       "al\n 1: hlt\n jmp 1b\n .code64\n");

struct second {
	struct kvm_bare *b;
	struct cpu_exit x;
	unsigned end;
};

static void *run_second(void *ctx)
{
	struct second *s = ctx;

	do
		kvm_engine.vcpu_run(s->b->v[1], 100000000, &s->x);
	while (s->x.reason == CPU_EXIT_BUDGET && !s->end);
	s->end = s->x.reason == CPU_EXIT_PIO ? s->x.mmio.data & 0xff : 99;
	return NULL;
}

static void test_smp(void **state)
{
	struct kvm_bare *b = machine(state, 2);
	struct second s = {.b = b};
	struct cpu_exit x = {0};
	pthread_t t;

	assert_int_equal(space_write(b->space, gpa(0x9000), guest_started,
				 (size_t)(guest_started_end - guest_started)),
		0);
	KB_LOAD(b, starter);
	pthread_create(&t, NULL, run_second, &s);
	assert_int_equal(kb_end(b, 0, &x), 2);
	pthread_join(t, NULL);
	assert_int_equal(s.end, 3);
	kb_free(b);
}

GUEST(nmi, KB_INTERRUPTS "mov dx, 0x510\n out dx, al\n 1: cmp qword ptr [0x20010], 0\n je 1b\n mov "
			 "al, 6\n out 0xf4, al\n");

static void test_nmi(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	struct cpu_exit x = {0};

	KB_LOAD(b, nmi);
	kb_exit(b, 0, &x);
	kvm_engine.vcpu_nmi(b->v[0]);
	assert_int_equal(kb_end(b, 0, &x), 6);
	assert_int_equal(kb_get(b, KB_COUNT(2)), 1);
	kb_free(b);
}

static void *wake_later(void *ctx)
{
	struct kvm_bare *b = ctx;

	usleep(100000);
	kvm_engine.vm_irq(b->vm, 5, true);
	kvm_engine.vm_irq(b->vm, 5, false);
	return NULL;
}

/* A halted vCPU stays inside, costs nothing, and is woken by an interrupt; without a budget nothing else lets it out. */
static void test_idle(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	struct cpu_exit x = {0};
	struct timespec c0, c1;
	pthread_t t;

	kb_put(b, 0x8000, 1);
	ready(b, &x, true);
	pthread_create(&t, NULL, wake_later, b);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &c0);
	kvm_engine.vcpu_run(b->v[0], CPU_BUDGET_NONE, &x);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &c1);
	pthread_join(t, NULL);
	assert_int_equal(x.reason, CPU_EXIT_PIO);
	assert_int_equal(x.mmio.gpa.v, KB_END);
	assert_true((c1.tv_sec - c0.tv_sec) * 1000000000 + c1.tv_nsec - c0.tv_nsec < 60000000);
	kb_free(b);
}

/* The local APIC's timer, one shot, in the kernel. */
GUEST(timer, KB_INTERRUPTS "mov dword ptr [rbx + 0x3e0], 0xb\n mov dword ptr [rbx + 0x320], 0x50\n "
			   "mov dword ptr [rbx + 0x380], 1000000\n"
			   "1: cli\n cmp qword ptr [0x20280], 0\n jne 2f\n sti\n hlt\n jmp 1b\n 2: "
			   "mov al, 8\n out 0xf4, al\n");

static void test_timer(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	struct cpu_exit x = {0};

	KB_LOAD(b, timer);
	assert_int_equal(kb_end(b, 0, &x), 8);
	assert_int_equal(kb_get(b, KB_COUNT(0x50)), 1);
	kb_free(b);
}

/* Pauses take no time. */
static void test_pause(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	uint64_t t0, t1 = 0;

	kvm_engine.time_set(b->vm, 5000000000);
	t0 = kvm_engine.time_get(b->vm);
	assert_true(t0 >= 5000000000 && t0 < 35000000000);
	/* Once of many times a busy host lets us run at once. */
	for (unsigned tries = 0; !tries || (t1 - t0 >= 100000000 && tries < 50); tries++) {
		kvm_engine.time_stop(b->vm);
		t0 = kvm_engine.time_get(b->vm);
		usleep(150000);
		assert_int_equal(kvm_engine.time_get(b->vm), t0);
		kvm_engine.time_start(b->vm);
		t1 = kvm_engine.time_get(b->vm);
		assert_true(t1 >= t0);
	}
	assert_true(t1 - t0 < 100000000);
	usleep(20000);
	assert_true(kvm_engine.time_get(b->vm) - t1 >= 20000000);
	kb_free(b);
}

/* A machine that was moved has a TSC that went on with its other clocks. */
static void test_tsc_moves(void **state)
{
	struct kb_shim s = {0}, without = {.hide = "KVM_CAP_VCPU_ATTRIBUTES"};
	struct cpu_vm_opts o = {.vcpus = 2};
	struct kvm_bare *b = kb_new_with(&o, kb_shim(&s));
	uint64_t t;

	kvm_engine.time_stop(b->vm);
	t = kvm_engine.time_get(b->vm);
	kvm_engine.time_set(b->vm, t + 3000000000);
	assert_int_equal(kvm_engine.time_get(b->vm), t + 3000000000);
	/* At 0.5 to 10 GHz; it counts at whatever this host's does. */
	assert_true(s.tsc_is - s.tsc_was > 1500000000);
	assert_true(s.tsc_is - s.tsc_was < 30000000000);
	kvm_engine.time_set(b->vm, t);
	assert_true(s.tsc_was - s.tsc_is > 1500000000);
	kb_free(b);

	b = kb_new_with(&o, kb_shim(&without));
	kvm_engine.time_stop(b->vm);
	kvm_engine.time_set(b->vm, 7000000000);
	assert_int_equal(kvm_engine.time_get(b->vm), 7000000000);
	assert_int_equal(without.tsc_is, 0);
	kb_free(b);
}

/* The second boot finds the controllers as the first did. */
static void test_reset(void **state)
{
	struct kvm_bare *b = machine(state, 1);
	struct cpu_exit x = {0};

	kb_put(b, 0x8000, 1);
	for (unsigned i = 1; i <= 3; i++) {
		kb_put(b, KB_COUNT(0x41), 0);
		kb_put(b, KB_COUNT(0x42), 0);
		ready(b, &x, true);
		kvm_engine.vm_irq(b->vm, 6, true); /* left high, and in service, by the reset */
		assert_int_equal(kb_end(b, 0, &x), 4);
		kvm_engine.vm_irq(b->vm, 6, false);
	}
	kb_free(b);
}

/* Devices say their level at each access; the kernel is told when it changes, and anew after a reset. */
static void test_unchanged(void **state)
{
	struct kb_shim s = {.fail_nr = KVM_IRQ_LINE, .fail_at = 1000};
	struct kvm_bare *b = kb_new_with(
		&(struct cpu_vm_opts){.vcpus = 1, .irqchip = CPU_IRQCHIP_FULL}, kb_shim(&s));

	for (unsigned i = 0; i < 100; i++)
		kvm_engine.vm_irq(b->vm, 5, i >= 50);
	assert_int_equal(s.calls, 2);
	KB_LOAD(b, wait_awake);
	kvm_engine.vm_irq(b->vm, 5, true);
	assert_int_equal(s.calls, 3);
	kb_free(b);
}

int main(void)
{
	static enum cpu_irqchip full = CPU_IRQCHIP_FULL, split = CPU_IRQCHIP_SPLIT;
#define BOTH(f) \
	{#f " (full)", f, NULL, NULL, &full}, \
	{ \
#f " (split)", f, NULL, NULL, &split \
	}
	const struct CMUnitTest tests[] = {
		BOTH(test_wired),
		BOTH(test_message),
		BOTH(test_irqfd),
		BOTH(test_doorbell),
		BOTH(test_smp),
		BOTH(test_nmi),
		BOTH(test_idle),
		BOTH(test_timer),
		BOTH(test_pause),
		cmocka_unit_test(test_tsc_moves),
		BOTH(test_reset),
		cmocka_unit_test(test_unchanged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
