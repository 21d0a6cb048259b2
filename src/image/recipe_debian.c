#include <errno.h>

#include "image/pull.h"

const char *const recipe_debian_names[] = {"linux-image-riscv64", NULL};
const char *const recipe_debian_without[] = {NULL};

int recipe_debian(struct pull *p, json_t *manifest, struct err *e)
{
	return err_set(e, -EOPNOTSUPP, "the full image is not built by this version");
}
