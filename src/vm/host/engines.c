#include "vm/host/engines.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/cpu.h"
#include "vm/config/config.h"

const char *engine_kernel_isa(const char *path)
{
	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t head[0x240] = {0};

	if (fd < 0 || pread(fd, head, sizeof(head), 0) < 64)
		return NULL;
	/* Linux Documentation/arch/riscv/boot-image-header, Documentation/arch/x86/boot; e_machine of ELF */
	if (!memcmp(head + 0x38, "RSC\x05", 4))
		return "riscv64";
	if (!memcmp(head + 0x202, "HdrS", 4))
		return "x86-64";
	if (memcmp(head,
		    "\x7f"
		    "ELF",
		    4))
		return NULL;
	switch (head[18] | head[19] << 8) {
	case 243:
		return "riscv64";
	case 62:
		return "x86-64";
	}
	return NULL;
}

static const struct cpu_engine_ops *named(const char *name, struct err *e)
{
	const struct cpu_engine_ops *ops = cpu_engine_find(name);

	if (!ops)
		err_set(e, -ENOTSUP, "engine %s is not built in", name);
	return ops && !ops->available(e) ? ops : NULL;
}

static const struct cpu_engine_ops *automatic(const char *kernel, struct err *e)
{
	const char *isa = kernel ? engine_kernel_isa(kernel) : NULL;
	const struct cpu_engine_ops *ops;
	double slower = 0;

	if (!isa || strcmp(isa, "x86-64"))
		return named("rv64", e);
	ops = named("kvm", e);
	if (!ops || ops->privileged(&slower, e)) {
		err_wrap(e, "%s is a kernel for x86-64", kernel);
		return NULL;
	}
	if (slower < ENGINE_SLOW)
		return ops;
	err_set(e, -ENOTSUP,
		"%s is a kernel for x86-64, and this host's KVM interprets kernel code, %.0f times "
		"slower than it runs itself: use a host with VT-x or AMD-V, a riscv64 kernel, or "
		"--engine kvm all the same",
		kernel, slower);
	return NULL;
}

const struct cpu_engine_ops *engine_choose(int want, const char *kernel, struct err *e)
{
	switch ((enum vm_engine)want) {
	case VM_ENGINE_RV64:
	case VM_ENGINE_INTERP:
		return named("rv64", e);
	case VM_ENGINE_KVM:
		return named("kvm", e);
	case VM_ENGINE_AUTO:
		break;
	}
	return automatic(kernel, e);
}

bool engine_describe(const char *name, char *text, size_t size)
{
	struct err e = {0};
	const struct cpu_engine_ops *ops = named(name, &e);
	double slower = 0;

	if (!ops || (ops->privileged && ops->privileged(&slower, &e))) {
		snprintf(text, size, "%s", err_msg(&e));
		return false;
	}
	if (!ops->privileged)
		snprintf(text, size, "%s guests; needs nothing of this host", ops->isa);
	else if (slower < ENGINE_SLOW)
		snprintf(text, size,
			"%s guests; kernel code runs on hardware (%.1f times the host's own time)",
			ops->isa, slower);
	else
		snprintf(text, size,
			"%s guests; kernel code is interpreted (%.0f times the host's own time)",
			ops->isa, slower);
	return !ops->privileged || slower < ENGINE_SLOW;
}

struct features {
	char *text;
	size_t size, n;
	unsigned there, all;
	json_t *list;
};

static void on_feature(
	void *ctx, const char *name, int value, const char *serves, const char *without)
{
	struct features *f = ctx;

	f->all++;
	f->there += value != 0;
	json_array_append_new(f->list, json_pack("{s:s, s:i, s:s, s:s}", "name", name, "value",
					       value, "serves", serves, "without", without));
	if (!value && f->n < f->size)
		f->n += (size_t)snprintf(
			f->text + f->n, f->size - f->n, "%s%s", f->n ? ", " : "; not here: ", name);
}

bool engine_features(const char *name, char *text, size_t size, json_t **list)
{
	char missing[512] = "";
	struct features f = {.text = missing, .size = sizeof(missing), .list = json_array()};
	struct err e = {0};
	const struct cpu_engine_ops *ops = named(name, &e);

	*list = f.list;
	if (!ops || !ops->features || ops->features(on_feature, &f, &e)) {
		snprintf(text, size, "%s", err_msg(&e));
		return false;
	}
	snprintf(text, size, "%u of %u%s", f.there, f.all, missing);
	return true;
}
