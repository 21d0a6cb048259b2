#include "base/err.h"
#include "vm/config/config.h"

int vm_config_parse_args(const struct command *cmd, void *obj, struct vm_config *c, int argc,
	char **argv, struct args *a, struct err *e)
{
	const char *path = command_peek(cmd, argc, argv, "config");
	int r;

	if (path) {
		r = vm_config_load(c, path, e);
		if (r)
			return r;
	}
	return command_parse(cmd, obj, argc, argv, a, e);
}
