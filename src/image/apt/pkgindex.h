/*
 * pkgindex.h: the packages of one suite and architecture, and what has to be installed with what.
 *
 * pkgindex_parse() takes over the text of a Packages file; each struct pkg points into it. Of
 * several versions of one name the newest counts. Packages for Architecture: all are part of the
 * index of each architecture.
 *
 * The resolver is not apt's: it takes the first alternative that can be had, prefers real packages
 * over those that only provide the name, never takes back a choice, and reports what it cannot
 * satisfy or what would conflict. Debian's own base system is built to be resolvable like this
 * (debootstrap does less). Source: Debian Policy 7.
 */
#ifndef LODGE_IMAGE_APT_PKGINDEX_H
#define LODGE_IMAGE_APT_PKGINDEX_H

#include <stdint.h>

#include "image/apt/deb822.h"
#include "image/text.h"

struct pkg {
	struct slice name, version, arch, priority, filename, sha256, source;
	struct slice depends, pre_depends, provides, conflicts, breaks;
	uint64_t size; /* of the .deb, bytes */
	uint64_t installed; /* bytes */
	bool essential;
	uint32_t next; /* in the chain of its name's hash; index + 1 */
};

struct pkgprov { /* one name that a package provides */
	struct slice name, version;
	uint32_t pkg;
	uint32_t next;
};

struct pkgindex {
	char *text;
	struct pkg *pkgs;
	size_t n;
	struct pkgprov *provs;
	size_t nprov;
	uint32_t *by_name, *by_prov; /* index + 1, or 0 */
	uint32_t mask;
};

/* Takes `text` (malloc'ed) over in every case. -EINVAL names line and cause. */
int pkgindex_parse(struct pkgindex *ix, char *text, size_t n, struct err *e);
void pkgindex_free(struct pkgindex *ix); /* fit for cleanup() */

const struct pkg *pkgindex_find(const struct pkgindex *ix, struct slice name);

/* A choice of packages, in order of names once resolved. The packages belong to the index. */
struct pkgset {
	const struct pkg **v;
	size_t n;
};

void pkgset_free(struct pkgset *s); /* fit for cleanup() */
bool pkgset_has(const struct pkgset *s, const char *name);

struct pkgwant {
	const char *const *names; /* NULL-terminated; installed with all that they depend on */
	const char *const *without; /* NULL-terminated or NULL: never taken by priority */
	bool essential; /* add Essential: yes and Priority: required */
	bool important; /* add Priority: important */
};

int pkgset_resolve(
	struct pkgset *s, const struct pkgindex *ix, const struct pkgwant *want, struct err *e);

#endif
