/*
 * Save and restore of the kvm engine: a guest with AVX goes through 30 processes; and every way in which an older kernel hands its state
 * out.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "cpu/kvm/image.h"
#include "kvm_bare.h"

#define GENERATIONS 30
#define CR4_OSXSAVE (1ull << 18)

/*
 * Ring 3: adds ymm1 (ones) to ymm0 over and over; each round ends in a store to 0xd0000000 of the round's number, with ymm0 at 0x8000.
 * On hosts without AVX xmm does.
 */
#define RINGS(body) \
	"lgdt [0xa100]\n push 0x23\n push 0xe000\n push 2\n push 0x2b\n lea rax, [rip + 1f]\n " \
	"push rax\n " \
	"iretq\n1: mov r15, 0x1234567890abcdef\n xor ecx, ecx\n mov ebx, 0xd0000000\n" body
GUEST(avx, RINGS("vpxor ymm0, ymm0, ymm0\n vpcmpeqd ymm1, ymm1, ymm1\n vpsrld ymm1, ymm1, 31\n"
		 "2: vpaddd ymm0, ymm0, ymm1\n vmovdqu [0x8000], ymm0\n inc ecx\n mov [rbx], ecx\n "
		 "jmp 2b\n"));
GUEST(sse,
	RINGS("pxor xmm0, xmm0\n pcmpeqd xmm1, xmm1\n psrld xmm1, 31\n"
	      "2: paddd xmm0, xmm1\n movdqu [0x8000], xmm0\n inc ecx\n mov [rbx], ecx\n jmp 2b\n"));

struct stream {
	size_t len;
	uint32_t rounds;
	bool failed;
	char why[512];
	uint8_t ram[KB_RAM];
	uint8_t state[1 << 20];
};

static unsigned objs_of(struct kvm_bare *b, struct state_obj *o)
{
	static const char *const ids[] = {"cpu0", "cpu1"};

	o[0] = (struct state_obj){"cpus", kvm_engine.vm_state(), kvm_engine.vm_state_obj(b->vm)};
	for (unsigned i = 0; i < b->n; i++)
		o[1 + i] = (struct state_obj){
			ids[i], kvm_engine.vcpu_state(), kvm_engine.vcpu_state_obj(b->v[i])};
	return 1 + b->n;
}

static void save(struct kvm_bare *b, struct stream *s)
{
	struct state_obj o[3];
	struct err e = {0};
	uint8_t *buf;

	if (state_save(o, objs_of(b, o), &buf, &s->len, &e))
		fail_msg("%s", err_msg(&e));
	assert_true(s->len <= sizeof(s->state));
	memcpy(s->state, buf, s->len);
	free(buf);
	assert_int_equal(space_read(b->space, gpa(0), s->ram, KB_RAM), 0);
}

static int load(struct kvm_bare *b, struct stream *s, struct err *e)
{
	struct state_obj o[3];

	assert_int_equal(space_write(b->space, gpa(0), s->ram, KB_RAM), 0);
	return state_load(o, objs_of(b, o), s->state, s->len, e);
}

static void rounds(struct kvm_bare *b, struct stream *s, unsigned n, unsigned lanes)
{
	struct cpu_exit x = {0};

	for (unsigned i = 0; i < n; i++) {
		uint32_t lane[8];

		kb_exit(b, 0, &x);
		if (x.reason == CPU_EXIT_ERROR)
			fail_msg("%s", x.text);
		assert_int_equal(x.reason, CPU_EXIT_MMIO);
		assert_int_equal(x.mmio.data, ++s->rounds);
		assert_int_equal(space_read(b->space, gpa(0x8000), lane, sizeof(lane)), 0);
		for (unsigned k = 0; k < lanes; k++)
			assert_int_equal(lane[k], s->rounds);
	}
	/* The last store is answered and not finished: saving comes after that. */
	kvm_engine.vcpu_run(b->v[0], 0, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
}

static struct kvm_image *image(struct kvm_bare *b)
{
	return kvm_engine.vcpu_state_obj(b->v[0]);
}

static void put(struct kvm_bare *b)
{
	struct err e = {0};

	if (kvm_engine.vcpu_state()->post_load(image(b), 1, &e))
		fail_msg("%s", err_msg(&e));
}

/* What the guest would do by XSETBV if every KVM could emulate it. */
static void enable_avx(struct kvm_bare *b)
{
	kvm_engine.vcpu_state()->pre_save(image(b));
	image(b)->fp.xcr0 = 7;
	put(b);
	image(b)->sregs.cr4 |= 0x600;
	put(b);
}

static bool host_avx(void)
{
	return __builtin_cpu_supports("avx2");
}

/* One life: in a process of its own. */
static void life(struct stream *s, unsigned generation)
{
	unsigned lanes = host_avx() ? 8 : 4;
	struct kvm_bare *b = kb_new(1);
	struct err e = {0};
	struct kvm_image *im;

	if (!generation) {
		kb_put(b, KB_GDT + 0x20, 0x00cff3000000ffff); /* ring 3 */
		kb_put(b, KB_GDT + 0x28, 0x00affb000000ffff);
		kb_put(b, KB_GDT + 0x100, 0x2f | KB_GDT << 16);
		if (host_avx())
			KB_LOAD(b, avx);
		else
			KB_LOAD(b, sse);
		enable_avx(b);
	} else if (load(b, s, &e)) {
		fail_msg("%s", err_msg(&e));
	}
	rounds(b, s, 20, lanes);
	kvm_engine.vcpu_state()->pre_save(image(b));
	im = image(b);
	assert_int_equal(im->regs.r15, 0x1234567890abcdef);
	assert_int_equal(im->regs.rcx, s->rounds);
	for (unsigned k = 0; k < 4; k++)
		assert_memory_equal(im->fp.xmm + 4 * k, &s->rounds, 4);
	if (host_avx()) {
		assert_true(im->fp.xstate_bv >> 2 & 1);
		for (unsigned k = 0; k < 4; k++)
			assert_memory_equal(im->fp.avx + 4 * k, &s->rounds, 4);
	}
	save(b, s);
	kb_free(b);
}

static void test_generations(void **state)
{
	struct stream *s = mmap(
		NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	kb_free(kb_new(1)); /* skips here where there is no KVM */
	assert_true(s != MAP_FAILED);
	for (unsigned g = 0; g < GENERATIONS; g++) {
		int status;
		pid_t pid = fork();

		if (!pid) {
			life(s, g);
			_exit(0); /* forked child */
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status)
			fail_msg("generation %u failed", g);
	}
	assert_int_equal(s->rounds, 20 * GENERATIONS);
	munmap(s, sizeof(*s));
}

GUEST(count, "xor ecx, ecx\n 1: inc rcx\n mov dx, 0x510\n mov eax, ecx\n out dx, eax\n jmp 1b\n");

/* Save on one kernel, load on another, each with a capability less. */
static void test_fallbacks(void **state)
{
	static const char *const hidden[] = {NULL, "KVM_CAP_SREGS2", "KVM_CAP_XSAVE2",
		"KVM_CAP_XSAVE", "KVM_CAP_XCRS", "KVM_CAP_SYNC_REGS", "KVM_CAP_EXCEPTION_PAYLOAD",
		"KVM_CAP_X86_TRIPLE_FAULT_EVENT", "KVM_CAP_GET_TSC_KHZ", "KVM_CAP_ADJUST_CLOCK",
		"KVM_CAP_KVMCLOCK_CTRL", "KVM_CAP_PIT2", "KVM_CAP_NR_MEMSLOTS"};
	struct stream *s = calloc(1, sizeof(*s));

	for (unsigned i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
		struct kb_shim from = {.hide = hidden[i]}, to = {.hide = NULL};
		struct kvm_bare *b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 2}, kb_shim(&from));
		struct kvm_bare *c = kb_new_with(&(struct cpu_vm_opts){.vcpus = 2}, kb_shim(&to));
		struct cpu_exit x = {0};
		struct err e = {0};

		KB_LOAD(b, count);
		for (unsigned n = 1; n <= 5; n++) {
			kb_exit(b, 0, &x);
			assert_int_equal(x.mmio.data, n);
		}
		kvm_engine.vcpu_run(b->v[0], 0, &x);
		save(b, s);
		if (load(c, s, &e))
			fail_msg("%s: %s", hidden[i] ?: "all", err_msg(&e));
		kb_exit(c, 0, &x);
		assert_int_equal(x.mmio.data, 6);
		kvm_engine.vcpu_run(c->v[0], 0, &x);
		save(c, s);
		if (load(b, s, &e))
			fail_msg("%s: %s", hidden[i] ?: "all", err_msg(&e));
		kb_exit(b, 0, &x);
		assert_int_equal(x.mmio.data, 7);
		kb_free(b);
		kb_free(c);
	}
	free(s);
}

/* Another model is another machine. */
static void test_other_model(void **state)
{
	struct kvm_bare *b = kb_new(1);
	struct kvm_bare *c = kb_new_with(
		&(struct cpu_vm_opts){.vcpus = 1, .cpu_model = "host,clflush=off"}, &kvm_sys_host);
	struct stream *s = calloc(1, sizeof(*s));
	struct err e = {0};

	KB_LOAD(b, count);
	save(b, s);
	assert_int_equal(load(c, s, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "clflush"));
	kb_free(b);
	kb_free(c);
	free(s);
}

static void test_split_full(void **state)
{
	struct kvm_bare *b = kb_new_with(
		&(struct cpu_vm_opts){.vcpus = 1, .irqchip = CPU_IRQCHIP_SPLIT}, &kvm_sys_host);
	struct kvm_bare *c = kb_new(1);
	struct stream *s = calloc(1, sizeof(*s));
	struct err e = {0};

	KB_LOAD(b, count);
	save(b, s);
	assert_int_equal(load(b, s, &e), 0);
	assert_int_equal(load(c, s, &e), -ENOTSUP);
	kb_free(b);
	kb_free(c);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_generations),
		cmocka_unit_test(test_fallbacks),
		cmocka_unit_test(test_other_model),
		cmocka_unit_test(test_split_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
