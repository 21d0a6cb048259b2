/* fuzz_deb822.c: package indexes, relations, versions and apt's sources, with whatever a mirror may send. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "image/apt/aptsrc.h"
#include "image/apt/deb822.h"
#include "image/apt/pkgindex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void resolve_first(const struct pkgindex *ix)
{
	char *name = ix->n ? slice_dup(ix->pkgs[0].name) : NULL;
	const char *names[] = {name, NULL};
	struct pkgwant w = {names, NULL, true, true};
	struct pkgset s = {0};
	struct err e = {0};

	if (name && !pkgset_resolve(&s, ix, &w, &e) && !pkgset_has(&s, name))
		abort();
	pkgset_free(&s);
	free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct apt_mirror m = {0};
	struct pkgindex ix = {0};
	char *copy = malloc(size + 1);
	struct slice half = {(const char *)data, size / 2};
	struct slice rest = {(const char *)data + size / 2, size - size / 2};

	if (!copy)
		return 0;
	if (debver_cmp(half, half))
		abort();
	if ((debver_cmp(half, rest) > 0) != (debver_cmp(rest, half) < 0))
		abort();
	memcpy(copy, data, size);
	apt_mirror_parse(&m, copy, size, size & 1);
	apt_mirror_free(&m);
	if (!pkgindex_parse(&ix, copy, size, NULL))
		resolve_first(&ix);
	pkgindex_free(&ix);
	return 0;
}
