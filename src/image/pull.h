/*
 * pull.h: one pull under way; for the files of this folder.
 */
#ifndef LODGE_IMAGE_PULL_H
#define LODGE_IMAGE_PULL_H

#include "image/apt/aptsrc.h"
#include "image/apt/fetch.h"
#include "image/image.h"
#include "image/kernel.h"
#include "image/apt/pkgindex.h"

struct pull {
	const struct image_dirs *dirs;
	const struct image_pull *o;
	const struct image_kind *kind;
	const char *name; /* the kind's */
	struct apt_mirror mirror;
	struct pkgindex index;
	struct pkgset set;
	struct kernel kernel;
	char *work; /* <cache>/making/NAME: emptied at the start, removed at the end */
	char *out; /* <work>/out: becomes the image */
	char key[SHA256_HEX];
};

/* Path of a package's file in the cache; NULL without memory. */
char *pull_deb(const struct pull *p, const struct pkg *pkg);

/* The chosen package with this name, or NULL. */
const struct pkg *pull_pkg(const struct pull *p, const char *name);

/* The package that depends on today's kernel of an architecture. */
const char *pull_kernel_meta(const struct image_kind *kind);
/* The package with the kernel: what that one depends on. */
const struct pkg *pull_kernel_pkg(const struct pull *p, struct err *e);

/* Reads busybox-static's binary. */
int pull_busybox(const struct pull *p, struct buf *out, struct err *e);

/* Fails with -ECANCELED when the caller no longer wants the image. */
int pull_step(
	const struct pull *p, const char *stage, uint64_t done, uint64_t total, struct err *e);

/*
 * Fetches and verifies a suite's InRelease and its package index; *xz becomes the index' path in the cache.
 * Success means that the mirror serves the suite whole.
 */
int pull_index(struct pull *p, const char *uri, const char *suite, char **xz, struct err *e);

/* Writes dir/manifest.json. */
int pull_save_manifest(const char *dir, const json_t *m, struct err *e);

/* Copies the finished image `built` to p->out and sets root's password in the copy. */
int recipe_password(struct pull *p, const char *built, struct err *e);

/* The two recipes: fill p->out and add their part to the manifest. */
int recipe_mini(struct pull *p, json_t *manifest, struct err *e);
/* Whether the programs are there that the full image needs. */
int recipe_debian_check(const struct pull *p, struct err *e);
int recipe_debian(struct pull *p, json_t *manifest, struct err *e);

/* What the full image installs beside Essential, required and important packages. */
extern const char *const recipe_debian_names[];
extern const char *const recipe_debian_without[];

#endif
