/*
 * fuzz_config_flags.c: a command line with anything in it. Words are separated by line feeds. What is
 * taken must come out of its own JSON the same; what is refused must say why in one line.
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

static const struct opt_group groups[] = {{"Machine", vm_config_opts}, {0}};
static const struct command run = {.program = "lodge",
	.verb = "run",
	.args = "[IMAGE]",
	.max_args = 1,
	.summary = "run a machine",
	.groups = groups};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[34] = {(char *)"run"}, *text = malloc(size + 1), *rest = text;
	struct vm_config c, d;
	struct err e = {0};
	struct args a;
	int argc = 1;

	must(text != NULL);
	memcpy(text, data, size);
	text[size] = 0;
	while (argc < 33 && rest)
		argv[argc++] = strsep(&rest, "\n");
	must(!vm_config_init(&c, NULL) && !vm_config_init(&d, NULL));
	if (command_parse(&run, &c, argc, argv, &a, &e)) {
		must(e.msg[0] != 0);
	} else if (!a.help) {
		json_t *j = vm_config_to_json(&c), *k;

		must(a.n <= 1 && j && !vm_config_from_json(&d, j, NULL));
		k = vm_config_to_json(&d);
		must(json_equal(j, k));
		json_decref(j);
		json_decref(k);
	}
	vm_config_free(&c);
	vm_config_free(&d);
	free(text);
	return 0;
}
