#include "vm/snapshot/fits.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "vm/internal.h"

static int fits_text(
	const json_t *j, const char *key, const char *have, const char *doing, struct err *e)
{
	const char *want = NULL;
	int rc = json_want_text(j, doing, key, true, &want, e);

	if (!rc && strcmp(want, have))
		rc = err_set(e, -EINVAL, "%s: the machine is of %s %s, and here is %s", doing, key,
			want, have);
	return rc;
}

static bool has_word(const char *list, const char *word, size_t len)
{
	for (const char *p = list; *p; p += *p == '_') {
		size_t n = strcspn(p, "_");

		if (n == len && !memcmp(p, word, n))
			return true;
		p += n;
	}
	return false;
}

int vm_fits_cpu(struct vm *vm, const json_t *j, const char *doing, struct err *e)
{
	const struct cpu_engine_ops *ops = vm->board->engine;
	const char *have = ops->isa_string ? ops->isa_string(vm->board->cpu_vm) : "";
	const char *want = NULL;
	int rc = fits_text(j, "engine", ops->name, doing, e)
			 ?: fits_text(j, "isa", ops->isa, doing, e);

	rc = rc ?: json_want_text(j, doing, "cpu", true, &want, e);
	if (rc)
		return rc;
	for (const char *p = want; *p; p += *p == '_') {
		size_t n = strcspn(p, "_");

		if (!has_word(have, p, n))
			return err_set(e, -ENOTSUP,
				"%s: the guest was started on a CPU with %.*s, which this one "
				"does not have (%s)",
				doing, (int)n, p, have);
		p += n;
	}
	return 0;
}
