/* CPU models: by table, and as a guest of the kvm engine sees them. */
#include <jansson.h>
#include <stdio.h>

#include "base/err.h"
#include "cpu/kvm/features.h"
#include "kvm_bare.h"

static struct feature_set all_but(enum feature_word w, unsigned bit)
{
	struct feature_set s;

	memset(&s, 0xff, sizeof(s));
	s.w[w] &= ~(1u << bit);
	return s;
}

static void test_names(void **state)
{
	struct cpu_model m;
	struct err e = {0};
	struct feature_set host = all_but(FW_7_EBX, 5), got;
	char buf[32];

	assert_int_equal(model_parse(&m, NULL, &e), 0);
	assert_true(m.host);
	assert_int_equal(model_check(&m, &host, &e), 0);
	got = model_features(&m, &host);
	assert_int_equal(got.w[FW_1_ECX] >> 5 & 1, 0); /* vmx */
	assert_int_equal(model_parse(&m, "x86-64-v2", &e), 0);
	assert_int_equal(model_check(&m, &host, &e), 0);
	got = model_features(&m, &host);
	assert_int_equal(got.w[FW_1_ECX] >> 23 & 1, 1); /* popcnt */
	assert_int_equal(got.w[FW_1_ECX] >> 28 & 1, 0); /* avx */
	assert_int_equal(got.w[FW_1_ECX] >> 31 & 1, 1); /* hypervisor */
	assert_int_equal(model_parse(&m, "x86-64-v3", &e), 0);
	assert_int_equal(model_check(&m, &host, &e), -ENOTSUP);
	assert_non_null(strstr(err_msg(&e), "avx2"));
	assert_int_equal(model_parse(&m, "x86-64-v3,avx2=off,aes=on", &e), 0);
	assert_int_equal(model_check(&m, &host, &e), 0);
	got = model_features(&m, &host);
	assert_int_equal(got.w[FW_1_ECX] >> 25 & 1, 1);
	assert_string_equal(feature_name(FW_7_EBX, 5, buf), "avx2");
	assert_string_equal(feature_name(FW_7_EBX, 13, buf), "7.0:ebx[13]");
}

static void test_bad(void **state)
{
	static const struct {
		const char *text, *word;
	} bad[] = {{"pentium", "x86-64-v2"}, {"host,avx3=on", "did you mean"}, {"host,avx2", "=on"},
		{"host,avx2=maybe", "on or off"}, {"host,vmx=on", "guests"}, {"", "x86-64"},
		{"x86-64-v4", "x86-64-v3"}};
	struct cpu_model m;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = {0};

		assert_true(model_parse(&m, bad[i].text, &e) < 0);
		if (!strstr(err_msg(&e), bad[i].word))
			fail_msg("%s: %s", bad[i].text, err_msg(&e));
	}
}

static void test_common(void **state)
{
	struct feature_set none = {{0}}, a = all_but(FW_7_EBX, 5), b = all_but(FW_1_ECX, 25);
	json_t *list = json_array(), *out = NULL;
	struct err e = {0};
	const char *model;

	assert_int_equal(features_common(list, &out, &e), -EINVAL);
	json_array_append_new(list, features_json("GenuineIntel", &a));
	assert_int_equal(features_common(list, &out, &e), 0);
	model = json_string_value(json_object_get(out, "model"));
	assert_int_equal(strncmp(model, "x86-64-v2,", 10), 0);
	assert_non_null(strstr(model, ",aes=on"));
	json_decref(out);
	json_array_append_new(list, features_json("GenuineIntel", &b));
	assert_int_equal(features_common(list, &out, &e), 0);
	model = json_string_value(json_object_get(out, "model"));
	assert_null(strstr(model, ",aes=on"));
	assert_null(strstr(model, "avx2=on"));
	assert_non_null(strstr(model, "avx=on"));
	/* What it prints can be asked for, and both hosts have it. */
	{
		struct cpu_model m;

		assert_int_equal(model_parse(&m, model, &e), 0);
		assert_int_equal(model_check(&m, &a, &e), 0);
		assert_int_equal(model_check(&m, &b, &e), 0);
	}
	json_decref(out);
	json_array_append_new(list, features_json("AuthenticAMD", &b));
	assert_int_equal(features_common(list, &out, &e), -ENOTSUP);
	assert_non_null(strstr(err_msg(&e), "AuthenticAMD"));
	json_array_remove(list, 2);
	json_array_append_new(list, features_json("GenuineIntel", &none));
	assert_int_equal(features_common(list, &out, &e), -ENOTSUP);
	assert_non_null(strstr(err_msg(&e), "host 3"));
	json_array_remove(list, 2);
	json_array_append_new(list, json_pack("{s:i}", "features", 3));
	assert_int_equal(features_common(list, &out, &e), -EINVAL);
	json_decref(list);
}

GUEST(cpuid,
	"mov esi, 0x8000\n 1: mov eax, [rsi]\n cmp eax, -1\n je 2f\n mov ecx, [rsi + 4]\n cpuid\n"
	"mov [rsi], eax\n mov [rsi + 4], ebx\n mov [rsi + 8], ecx\n mov [rsi + 12], edx\n"
	"add rsi, 16\n jmp 1b\n 2: mov al, 1\n out 0xf4, al\n");

/* Asks vCPU 0 of a machine for leaves; ring 0 is where every KVM answers itself. */
static void ask(struct kvm_bare *b, uint32_t q[][4], unsigned n)
{
	struct cpu_exit x = {0};
	uint32_t end = UINT32_MAX;

	assert_int_equal(space_write(b->space, gpa(0x8000), q, 16 * n), 0);
	assert_int_equal(space_write(b->space, gpa(0x8000 + 16 * n), &end, 4), 0);
	KB_LOAD(b, cpuid);
	assert_int_equal(kb_end(b, 0, &x), 1);
	assert_int_equal(space_read(b->space, gpa(0x8000), q, 16 * n), 0);
}

static void test_guest(void **state)
{
	struct cpu_vm_opts o = {
		.vcpus = 6, .cores = 3, .threads = 2, .cpu_model = "x86-64,clflush=off"};
	struct kb_shim s = {0};
	struct kvm_bare *b = kb_new_with(&o, kb_shim(&s));
	uint32_t q[][4] = {{1}, {0xb, 0}, {0xb, 1}, {0x80000002}, {0x40000000}};
	uint32_t *given;
	static const unsigned ids[] = {0, 1, 2, 3, 4, 5};

	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(kvm_engine.vcpu_hw_id(b->vm, i), ids[i]);
	/* Feature bits as they are handed to KVM: a software KVM may show guests those of its processor. */
	given = kb_shim_leaf(&s, 1, 0);
	assert_int_equal(given[3] >> 19 & 1, 0); /* clflush */
	assert_int_equal(given[3] >> 28 & 1, 1); /* several logical processors */
	assert_int_equal(given[2] >> 31, 1);
	assert_int_equal(given[2] >> 25 & 1, 0); /* aes */
	/* The oldest of the host's vendor that has all of the model. */
	assert_int_equal(given[0], __builtin_cpu_is("intel") ? 0x6f1 : 0x800f11);
	assert_int_equal(kb_shim_leaf(&s, 7, 0)[1], 0); /* nothing beyond the model */
	assert_null(kb_shim_leaf(&s, 4, 0));
	ask(b, q, 5);
	assert_int_equal(q[1][0], 1);
	assert_int_equal(q[1][1], 2);
	assert_int_equal(q[2][0], 3);
	assert_int_equal(q[2][1], 6);
	assert_memory_equal(q[3], "Lodge virtual pr", 16);
	assert_memory_equal(&q[4][1], "KVMKVMKVM\0\0\0", 12);
	kb_free(b);
}

/* What KVM has for its guests is named, and can be left out; asked for where it is not, it is refused by name. */
static void test_paravirtual(void **state)
{
	struct kb_shim s = {0}, without = {.hide = "KVM_CAP_STEAL_TIME"};
	struct cpu_vm_opts off = {.vcpus = 1, .cpu_model = "host,kvm_steal_time=off"},
			   on = {.vcpus = 1, .cpu_model = "x86-64,kvm_steal_time=on"};
	struct kvm_bare *b = kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&s));
	uint32_t has = kb_shim_leaf(&s, 0x40000001, 0)[0];
	struct cpu_vm *vm = NULL;
	struct err e = {0};

	on.space = b->space;
	assert_int_equal(kvm_vm_create_on(&vm, &on, kb_shim(&without), &e), -ENOTSUP);
	assert_non_null(strstr(err_msg(&e), "kvm_steal_time"));
	kb_free(b);
	kb_free(kb_new_with(&off, kb_shim(&s)));
	assert_int_equal(kb_shim_leaf(&s, 0x40000001, 0)[0], has & ~(1u << 5));
	kb_free(kb_new_with(&(struct cpu_vm_opts){.vcpus = 1}, kb_shim(&without)));
	assert_int_equal(kb_shim_leaf(&without, 0x40000001, 0)[0], has & ~(1u << 5));
}

static void test_sparse_ids(void **state)
{
	struct cpu_vm_opts o = {.vcpus = 4, .cores = 1, .threads = 1};
	struct kvm_bare *b = kb_new_with(&o, &kvm_sys_host);
	struct cpu_vm *vm;
	struct err e = {0};

	assert_int_equal(kvm_engine.vcpu_hw_id(b->vm, 3), 3); /* four packages */
	o = (struct cpu_vm_opts){.vcpus = 128, .cores = 5, .threads = 3, .space = b->space};
	assert_int_equal(kvm_engine.vm_create(&vm, &o, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "APIC"));
	o = (struct cpu_vm_opts){.vcpus = 1, .cpu_model = "x86-64-v9", .space = b->space};
	assert_int_equal(kvm_engine.vm_create(&vm, &o, &e), -EINVAL);
	kb_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_common),
		cmocka_unit_test(test_guest),
		cmocka_unit_test(test_paravirtual),
		cmocka_unit_test(test_sparse_ids),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
