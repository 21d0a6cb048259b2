/*
 * features.h: CPUID's feature bits by name, sets of them, and the models made of them. No kernel here.
 *
 * Source: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; levels: "x86-64 psABI", "Micro-Architecture Levels". Names are those of
 * Linux' /proc/cpuinfo.
 */
#ifndef LODGE_CPU_KVM_FEATURES_H
#define LODGE_CPU_KVM_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct json_t;

/* The registers that hold features. */
enum feature_word {
	FW_1_ECX,
	FW_1_EDX,
	FW_7_EBX,
	FW_7_ECX,
	FW_7_EDX,
	FW_7_1_EAX,
	FW_D_1_EAX,
	FW_81_ECX, /* leaf 0x80000001 */
	FW_81_EDX,
	FW_87_EDX,
	FW_88_EBX,
	FW_KVM_EAX, /* what KVM itself has for its guests */
	FEATURE_WORDS
};

struct feature_set {
	uint32_t w[FEATURE_WORDS];
};

struct feature_place {
	uint32_t leaf, index;
	uint8_t reg; /* 0 eax .. 3 edx */
};
extern const struct feature_place feature_places[FEATURE_WORDS];

#define MODEL_TEXT 512
struct cpu_model {
	char name[64]; /* as it was asked for */
	bool host; /* everything that the host has, also what has no name here */
	struct feature_set want;
	struct feature_set off; /* said to be off */
};

/* "host", "x86-64-v2", "x86-64-v3,aes=on,avx=off"; NULL: host. -EINVAL with a word that is near. */
int model_parse(struct cpu_model *m, const char *text, struct err *e);
/* -ENOTSUP names the first feature that the model has and the host has not. */
int model_check(const struct cpu_model *m, const struct feature_set *host, struct err *e);
/* What a guest sees. */
struct feature_set model_features(const struct cpu_model *m, const struct feature_set *host);

/* "avx2", or "7.ebx[5]" for a bit without a name. In `buf`. */
const char *feature_name(enum feature_word w, unsigned bit, char buf[32]);
/* The first bit that is in `a` and not in `b`; false: none. */
bool feature_missing(const struct feature_set *a, const struct feature_set *b, char name[32]);

/* {"vendor": ..., "features": [...], "model": "x86-64-v2,aes=on,..."}; new reference. */
struct json_t *features_json(const char *vendor, const struct feature_set *host);
/* What every host of the list (features_json objects) has, as the same object. -EINVAL: one is none; -ENOTSUP: vendors differ, or even x86-64 is missing (names it). */
int features_common(const struct json_t *hosts, struct json_t **out, struct err *e);

/* features_json() of this host (host.c); needs /dev/kvm. */
int kvm_host_cpu(struct json_t **out, struct err *e);

#endif
