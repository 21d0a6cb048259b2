/*
 * fuzz_config_json.c: a definition in JSON, as the control socket gets it. What is taken must come
 * out of its own JSON the same; what is refused must say why in one line.
 */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "vm/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vm_config c, d;
	struct err e = {0};
	json_t *in;

	if (json_parse((const char *)data, size, &in, NULL))
		return 0;
	must(!vm_config_init(&c, NULL) && !vm_config_init(&d, NULL));
	if (vm_config_from_json(&c, in, &e)) {
		must(e.msg[0] != 0);
	} else {
		json_t *a = vm_config_to_json(&c), *b;

		must(a && !vm_config_from_json(&d, a, NULL));
		b = vm_config_to_json(&d);
		must(json_equal(a, b));
		json_decref(a);
		json_decref(b);
	}
	json_decref(in);
	vm_config_free(&c);
	vm_config_free(&d);
	return 0;
}
