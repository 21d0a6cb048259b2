#include "cpu/kvm/features.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/spell.h"
#include "base/util.h"

const struct feature_place feature_places[FEATURE_WORDS] = {
	[FW_1_ECX] = {1, 0, 2},
	[FW_1_EDX] = {1, 0, 3},
	[FW_7_EBX] = {7, 0, 1},
	[FW_7_ECX] = {7, 0, 2},
	[FW_7_EDX] = {7, 0, 3},
	[FW_7_1_EAX] = {7, 1, 0},
	[FW_D_1_EAX] = {0xd, 1, 0},
	[FW_81_ECX] = {0x80000001, 0, 2},
	[FW_81_EDX] = {0x80000001, 0, 3},
	[FW_87_EDX] = {0x80000007, 0, 3},
	[FW_88_EBX] = {0x80000008, 0, 1},
	[FW_KVM_EAX] = {0x40000001, 0, 0},
};

/*
 * level: 1 x86-64, 2 x86-64-v2, 3 x86-64-v3; 0: of no level. PLATFORM: what the virtual machine rather than the processor gives, or what
 * systems use where it is; every named model has it as far as the host does. NEVER: not for guests (nested
 * virtualization has state that is not saved).
 */
enum { PLATFORM = 8, NEVER = 9 };

static const struct feature {
	const char *name;
	uint8_t word, bit, level;
} table[] = {
	{"pni", FW_1_ECX, 0, 2},
	{"pclmulqdq", FW_1_ECX, 1, 0},
	{"monitor", FW_1_ECX, 3, NEVER},
	{"vmx", FW_1_ECX, 5, NEVER},
	{"ssse3", FW_1_ECX, 9, 2},
	{"fma", FW_1_ECX, 12, 3},
	{"cx16", FW_1_ECX, 13, 2},
	{"pcid", FW_1_ECX, 17, 0},
	{"sse4_1", FW_1_ECX, 19, 2},
	{"sse4_2", FW_1_ECX, 20, 2},
	{"x2apic", FW_1_ECX, 21, PLATFORM},
	{"movbe", FW_1_ECX, 22, 3},
	{"popcnt", FW_1_ECX, 23, 2},
	{"tsc_deadline_timer", FW_1_ECX, 24, PLATFORM},
	{"aes", FW_1_ECX, 25, 0},
	{"xsave", FW_1_ECX, 26, 3},
	{"avx", FW_1_ECX, 28, 3},
	{"f16c", FW_1_ECX, 29, 3},
	{"rdrand", FW_1_ECX, 30, 0},
	{"hypervisor", FW_1_ECX, 31, PLATFORM},
	{"fpu", FW_1_EDX, 0, 1},
	{"vme", FW_1_EDX, 1, PLATFORM},
	{"de", FW_1_EDX, 2, PLATFORM},
	{"pse", FW_1_EDX, 3, PLATFORM},
	{"tsc", FW_1_EDX, 4, 1},
	{"msr", FW_1_EDX, 5, 1},
	{"pae", FW_1_EDX, 6, 1},
	{"mce", FW_1_EDX, 7, PLATFORM},
	{"cx8", FW_1_EDX, 8, 1},
	{"apic", FW_1_EDX, 9, PLATFORM},
	{"sep", FW_1_EDX, 11, PLATFORM},
	{"mtrr", FW_1_EDX, 12, PLATFORM},
	{"pge", FW_1_EDX, 13, PLATFORM},
	{"mca", FW_1_EDX, 14, PLATFORM},
	{"cmov", FW_1_EDX, 15, 1},
	{"pat", FW_1_EDX, 16, PLATFORM},
	{"pse36", FW_1_EDX, 17, PLATFORM},
	{"clflush", FW_1_EDX, 19, PLATFORM},
	{"mmx", FW_1_EDX, 23, 1},
	{"fxsr", FW_1_EDX, 24, 1},
	{"sse", FW_1_EDX, 25, 1},
	{"sse2", FW_1_EDX, 26, 1},
	{"ss", FW_1_EDX, 27, PLATFORM},
	{"fsgsbase", FW_7_EBX, 0, 0},
	{"tsc_adjust", FW_7_EBX, 1, 0},
	{"bmi1", FW_7_EBX, 3, 3},
	{"hle", FW_7_EBX, 4, 0},
	{"avx2", FW_7_EBX, 5, 3},
	{"smep", FW_7_EBX, 7, 0},
	{"bmi2", FW_7_EBX, 8, 3},
	{"erms", FW_7_EBX, 9, 0},
	{"invpcid", FW_7_EBX, 10, 0},
	{"rtm", FW_7_EBX, 11, 0},
	{"mpx", FW_7_EBX, 14, 0},
	{"avx512f", FW_7_EBX, 16, 0},
	{"avx512dq", FW_7_EBX, 17, 0},
	{"rdseed", FW_7_EBX, 18, 0},
	{"adx", FW_7_EBX, 19, 0},
	{"smap", FW_7_EBX, 20, 0},
	{"avx512ifma", FW_7_EBX, 21, 0},
	{"clflushopt", FW_7_EBX, 23, 0},
	{"clwb", FW_7_EBX, 24, 0},
	{"avx512cd", FW_7_EBX, 28, 0},
	{"sha_ni", FW_7_EBX, 29, 0},
	{"avx512bw", FW_7_EBX, 30, 0},
	{"avx512vl", FW_7_EBX, 31, 0},
	{"avx512vbmi", FW_7_ECX, 1, 0},
	{"umip", FW_7_ECX, 2, 0},
	{"pku", FW_7_ECX, 3, 0},
	{"waitpkg", FW_7_ECX, 5, 0},
	{"avx512_vbmi2", FW_7_ECX, 6, 0},
	{"gfni", FW_7_ECX, 8, 0},
	{"vaes", FW_7_ECX, 9, 0},
	{"vpclmulqdq", FW_7_ECX, 10, 0},
	{"avx512_vnni", FW_7_ECX, 11, 0},
	{"avx512_bitalg", FW_7_ECX, 12, 0},
	{"avx512_vpopcntdq", FW_7_ECX, 14, 0},
	{"la57", FW_7_ECX, 16, 0},
	{"rdpid", FW_7_ECX, 22, 0},
	{"movdiri", FW_7_ECX, 27, 0},
	{"movdir64b", FW_7_ECX, 28, 0},
	{"fsrm", FW_7_EDX, 4, 0},
	{"md_clear", FW_7_EDX, 10, 0},
	{"serialize", FW_7_EDX, 14, 0},
	{"amx_bf16", FW_7_EDX, 22, 0},
	{"avx512_fp16", FW_7_EDX, 23, 0},
	{"amx_tile", FW_7_EDX, 24, 0},
	{"amx_int8", FW_7_EDX, 25, 0},
	{"spec_ctrl", FW_7_EDX, 26, 0},
	{"stibp", FW_7_EDX, 27, 0},
	{"arch_capabilities", FW_7_EDX, 29, 0},
	{"ssbd", FW_7_EDX, 31, 0},
	{"avx_vnni", FW_7_1_EAX, 4, 0},
	{"avx512_bf16", FW_7_1_EAX, 5, 0},
	{"xsaveopt", FW_D_1_EAX, 0, 0},
	{"xsavec", FW_D_1_EAX, 1, 0},
	{"xgetbv1", FW_D_1_EAX, 2, 0},
	{"xsaves", FW_D_1_EAX, 3, 0},
	{"lahf_lm", FW_81_ECX, 0, 2},
	{"svm", FW_81_ECX, 2, NEVER},
	{"abm", FW_81_ECX, 5, 3},
	{"sse4a", FW_81_ECX, 6, 0},
	{"misalignsse", FW_81_ECX, 7, 0},
	{"3dnowprefetch", FW_81_ECX, 8, 0},
	{"topoext", FW_81_ECX, 22, PLATFORM},
	{"syscall", FW_81_EDX, 11, 1},
	{"nx", FW_81_EDX, 20, PLATFORM},
	{"fxsr_opt", FW_81_EDX, 25, 0},
	{"pdpe1gb", FW_81_EDX, 26, 0},
	{"rdtscp", FW_81_EDX, 27, 0},
	{"lm", FW_81_EDX, 29, 1},
	{"invtsc", FW_87_EDX, 8, PLATFORM},
	{"clzero", FW_88_EBX, 0, 0},
	{"wbnoinvd", FW_88_EBX, 9, 0},
	{"amd_ibpb", FW_88_EBX, 12, 0},
	{"amd_stibp", FW_88_EBX, 15, 0},
	{"amd_ssbd", FW_88_EBX, 24, 0},
	{"kvmclock_old", FW_KVM_EAX, 0, PLATFORM},
	{"kvm_nopiodelay", FW_KVM_EAX, 1, PLATFORM},
	{"kvm_mmu", FW_KVM_EAX, 2, PLATFORM},
	{"kvmclock", FW_KVM_EAX, 3, PLATFORM},
	{"kvm_asyncpf", FW_KVM_EAX, 4, PLATFORM},
	{"kvm_steal_time", FW_KVM_EAX, 5, PLATFORM},
	{"kvm_pv_eoi", FW_KVM_EAX, 6, PLATFORM},
	{"kvm_pv_unhalt", FW_KVM_EAX, 7, PLATFORM},
	{"kvm_pv_tlb_flush", FW_KVM_EAX, 9, PLATFORM},
	{"kvm_asyncpf_vmexit", FW_KVM_EAX, 10, PLATFORM},
	{"kvm_pv_ipi", FW_KVM_EAX, 11, PLATFORM},
	{"kvm_poll_control", FW_KVM_EAX, 12, PLATFORM},
	{"kvm_pv_sched_yield", FW_KVM_EAX, 13, PLATFORM},
	{"kvm_asyncpf_int", FW_KVM_EAX, 14, PLATFORM},
	{"kvm_msi_ext_dest_id", FW_KVM_EAX, 15, PLATFORM},
	{"kvmclock_stable", FW_KVM_EAX, 24, PLATFORM},
};

static const char *const levels[] = {[1] = "x86-64", [2] = "x86-64-v2", [3] = "x86-64-v3"};
#define LEVELS 3

static void add(struct feature_set *s, const struct feature *f)
{
	s->w[f->word] |= 1u << f->bit;
}

static bool in(const struct feature_set *s, const struct feature *f)
{
	return s->w[f->word] >> f->bit & 1;
}

static struct feature_set of_level(unsigned level)
{
	struct feature_set s = {{0}};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].level && table[i].level <= level)
			add(&s, &table[i]);
	return s;
}

static struct feature_set of_kind(unsigned kind)
{
	struct feature_set s = {{0}};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].level == kind)
			add(&s, &table[i]);
	return s;
}

const char *feature_name(enum feature_word w, unsigned bit, char buf[32])
{
	static const char *const regs[] = {"eax", "ebx", "ecx", "edx"};
	const struct feature_place *p = &feature_places[w];

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].word == w && table[i].bit == bit)
			return table[i].name;
	snprintf(buf, 32, "%x.%u:%s[%u]", p->leaf, p->index, regs[p->reg], bit);
	return buf;
}

bool feature_missing(const struct feature_set *a, const struct feature_set *b, char name[32])
{
	char buf[32];

	for (unsigned w = 0; w < FEATURE_WORDS; w++) {
		uint32_t lack = a->w[w] & ~b->w[w];

		if (!lack)
			continue;
		snprintf(name, 32, "%s", feature_name(w, (unsigned)__builtin_ctz(lack), buf));
		return true;
	}
	return false;
}

/* ---- models ---- */

static int parse_switch(
	struct cpu_model *m, const char *text, const char *p, size_t len, struct err *e)
{
	const char *eq = memchr(p, '=', len);
	struct spell near = {0};
	char name[32];
	bool on;

	if (!eq || (size_t)(eq - p) >= sizeof(name))
		return err_set(
			e, -EINVAL, "CPU model \"%s\": write FEATURE=on or FEATURE=off", text);
	snprintf(name, sizeof(name), "%.*s", (int)(eq - p), p);
	on = len - (size_t)(eq - p) == 3 && !strncmp(eq, "=on", 3);
	if (!on && !(len - (size_t)(eq - p) == 4 && !strncmp(eq, "=off", 4)))
		return err_set(e, -EINVAL, "CPU model \"%s\": %s is on or off", text, name);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		const struct feature *f = &table[i];

		spell_offer(&near, name, f->name);
		if (strcmp(f->name, name))
			continue;
		if (on && f->level == NEVER)
			return err_set(
				e, -ENOTSUP, "CPU model \"%s\": %s is not for guests", text, name);
		m->want.w[f->word] &= ~(1u << f->bit);
		m->off.w[f->word] &= ~(1u << f->bit);
		add(on ? &m->want : &m->off, f);
		return 0;
	}
	return err_set(e, -EINVAL, "CPU model \"%s\": there is no feature %s%s%s%s", text, name,
		near.best ? " (did you mean " : "", near.best ?: "", near.best ? "?)" : "");
}

int model_parse(struct cpu_model *m, const char *text, struct err *e)
{
	const char *p = strchrnul(text ?: "host", ',');
	size_t n;
	int rc = 0;

	text = text ?: "host";
	p = strchrnul(text, ',');
	n = (size_t)(p - text);
	*m = (struct cpu_model){0};
	snprintf(m->name, sizeof(m->name), "%s", text);
	m->host = n == 4 && !strncmp(text, "host", 4);
	for (unsigned l = 1; l <= LEVELS; l++)
		if (strlen(levels[l]) == n && !strncmp(levels[l], text, n))
			m->want = of_level(l);
	if (!m->host && !m->want.w[FW_1_EDX])
		return err_set(e, -EINVAL,
			"CPU model \"%s\": there are host, x86-64, x86-64-v2 and x86-64-v3, and "
			"features after a comma",
			text);
	while (!rc && *p) {
		const char *end = strchrnul(++p, ',');

		rc = parse_switch(m, text, p, (size_t)(end - p), e);
		p = end;
	}
	return rc;
}

int model_check(const struct cpu_model *m, const struct feature_set *host, struct err *e)
{
	char name[32];

	if (!feature_missing(&m->want, host, name))
		return 0;
	return err_set(e, -ENOTSUP,
		"CPU model %s: this host's KVM does not offer %s; lodge cpu show says what it has",
		m->name, name);
}

struct feature_set model_features(const struct cpu_model *m, const struct feature_set *host)
{
	struct feature_set never = of_kind(NEVER), platform = of_kind(PLATFORM), s = m->want;

	for (unsigned w = 0; w < FEATURE_WORDS; w++) {
		s.w[w] |= m->host ? host->w[w] : platform.w[w] & host->w[w];
		s.w[w] &= ~(m->off.w[w] | never.w[w]);
	}
	return s;
}

/* ---- lists of hosts ---- */

static char *model_text(const struct feature_set *s)
{
	struct feature_set base, platform = of_kind(PLATFORM), never = of_kind(NEVER);
	unsigned level = LEVELS;
	char *text = malloc(MODEL_TEXT * 8);
	char lack[32];
	size_t n;

	while (level && (base = of_level(level), feature_missing(&base, s, lack)))
		level--;
	if (!text || !level) {
		free(text);
		return NULL;
	}
	n = (size_t)snprintf(text, MODEL_TEXT * 8, "%s", levels[level]);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (in(s, &table[i]) && !in(&base, &table[i]) && !in(&platform, &table[i]) &&
			!in(&never, &table[i]))
			n += (size_t)snprintf(
				text + n, MODEL_TEXT * 8 - n, ",%s=on", table[i].name);
	return text;
}

json_t *features_json(const char *vendor, const struct feature_set *host)
{
	json_t *list = json_array(), *j;
	char *text = model_text(host);

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (in(host, &table[i]))
			json_array_append_new(list, json_string(table[i].name));
	j = json_pack("{s:s, s:o, s:s*}", "vendor", vendor, "features", list, "model", text);
	free(text);
	return j;
}

static int one_host(
	const json_t *h, size_t at, const char **vendor, struct feature_set *out, struct err *e)
{
	const json_t *list = json_object_get(h, "features"), *f;
	const char *name;
	size_t i;

	*vendor = json_string_value(json_object_get(h, "vendor"));
	if (!*vendor || !json_is_array(list))
		return err_set(e, -EINVAL,
			"host %zu of the list is not what lodge cpu show --json prints", at + 1);
	*out = (struct feature_set){{0}};
	json_array_foreach(list, i, f)
	{
		name = json_string_value(f);
		/* What this Lodge has no name for it cannot offer either. */
		for (unsigned k = 0; name && k < ARRAY_SIZE(table); k++)
			if (!strcmp(table[k].name, name))
				add(out, &table[k]);
	}
	return 0;
}

int features_common(const json_t *hosts, json_t **out, struct err *e)
{
	struct feature_set all, base = of_level(1);
	const char *first = NULL, *vendor;
	const json_t *h;
	char lack[32];
	size_t i;

	memset(&all, 0xff, sizeof(all));
	json_array_foreach(hosts, i, h)
	{
		struct feature_set s;
		int rc = one_host(h, i, &vendor, &s, e);

		if (rc)
			return rc;
		if (feature_missing(&base, &s, lack))
			return err_set(e, -ENOTSUP,
				"host %zu of the list has no %s, which even the model x86-64 needs",
				i + 1, lack);
		if (first && strcmp(first, vendor))
			return err_set(e, -ENOTSUP,
				"hosts 1 and %zu of the list are of two makers (%s, %s): machines "
				"cannot move between them",
				i + 1, first, vendor);
		first = vendor;
		for (unsigned w = 0; w < FEATURE_WORDS; w++)
			all.w[w] &= s.w[w];
	}
	if (!first)
		return err_set(e, -EINVAL, "the list of hosts is empty");
	*out = features_json(first, &all);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}
