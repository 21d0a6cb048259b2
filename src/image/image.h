/*
 * image.h: bootable images of Debian for riscv64 and amd64, made from Debian's own packages, and the store
 * that they live in.
 *
 * An image is a directory in the store with manifest.json and the files that it names: a kernel, an
 * initial RAM file system and, for all but debian:mini, a raw disk. Images are never written to once they
 * are there: a VM gets its own copy of the disk (image_disk_copy()). They appear by one rename, so that
 * an interrupted pull leaves nothing half made, and a lock per name keeps pulls of one image apart.
 * docs/images.md has the picture.
 *
 * Threads: no state is shared between calls but the file system. Errors: negative errno and a line that
 * says what to do; -ENOENT unknown image or none pulled, -EBUSY another process holds the lock.
 */
#ifndef LODGE_IMAGE_IMAGE_H
#define LODGE_IMAGE_IMAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "image/progress.h"

/* Where things are. */
struct image_dirs {
	char *cache; /* what can be fetched or made again */
	char *data; /* the store is in <data>/images */
};

/*
 * $XDG_CACHE_HOME/lodge and $XDG_DATA_HOME/lodge where these are set; else /var/cache/lodge and
 * /var/lib/lodge for root, ~/.cache/lodge and ~/.local/share/lodge for everybody else.
 */
int image_dirs_default(struct image_dirs *d, struct err *e);
void image_dirs_free(struct image_dirs *d); /* fit for cleanup() */

/* An image as `lodge run` needs it. All paths are absolute. */
struct image {
	char *name; /* "debian:trixie" */
	char *arch; /* Debian's name: "riscv64", "amd64" */
	char *dir;
	char *kernel, *initrd;
	char *append; /* the kernel's command line */
	char *disk; /* NULL: none */
	char *disk_format; /* "raw"; NULL without a disk */
	uint64_t disk_size; /* bytes, as the guest sees it */
	uint64_t memory; /* bytes that a guest of it should have at least */
};

/* Takes the name as people type it: "debian" is "debian:trixie". */
int image_open(const struct image_dirs *d, const char *name, struct image *im, struct err *e);
void image_close(struct image *im); /* fit for cleanup() */

/*
 * Makes a private, writable copy of the image's disk at `path` (which must not exist): shares the blocks
 * where the file system can (reflink), else copies what is not a hole. On an error nothing is left.
 */
int image_disk_copy(const struct image *im, const char *path, struct err *e);

/* The manifest of one image, or an array of all; a new reference. NULL and e on failure. */
json_t *image_manifest(const struct image_dirs *d, const char *name, struct err *e);
json_t *image_list(const struct image_dirs *d, struct err *e);

/* Removes an image from the store (not what the cache has of it). */
int image_remove(const struct image_dirs *d, const char *name, struct err *e);

/* One boot of a machine: the second stage of a pull. */
struct image_boot {
	const char *arch; /* Debian's name */
	const char *kernel, *initrd, *append;
	const char *disk; /* raw */
	const char *memory; /* "512M" */
	unsigned int timeout_s;
	int (*line)(void *ctx, const char *line); /* the guest's console; non-zero: end it */
	void *ctx;
};

/* Boots and waits until the guest has powered itself off (0) or something failed. */
typedef int (*image_boot_fn)(void *ctx, const struct image_boot *b, struct err *e);

struct image_pull {
	const char *name;
	const char *arch; /* NULL: that of the name */
	const char *mirror; /* NULL: from the host's apt configuration */
	const char *keyring; /* NULL: apt's keys */
	const char *etc_apt; /* NULL: "/etc/apt" */
	const char *with; /* further packages, commas or blanks between; or NULL */
	const char *root_password; /* NULL: none is needed on the console */
	uint64_t disk_size; /* bytes; 0: 8 GiB (the file is sparse) */
	bool force; /* build again even when the cache has the result */
	image_boot_fn boot; /* NULL: the program `machine` */
	void *boot_ctx;
	const char *machine; /* NULL: lodge-vm beside this program or in PATH */
	struct image_progress progress;
};

enum image_pulled { IMAGE_BUILT, IMAGE_FROM_CACHE, IMAGE_UP_TO_DATE };

/* Pulls or renews an image. Interrupted pulls go on where they were. */
int image_pull(const struct image_dirs *d, const struct image_pull *o, enum image_pulled *how,
	struct err *e);

/* What can be pulled. */
struct image_kind {
	const char *name;
	const char *alias; /* another name for it, or NULL */
	const char *help;
	const char *arch; /* Debian's name of it */
	const char *suite;
	bool mini; /* kernel and busybox, no disk */
	const char *
		like; /* of another architecture: the kind that this one is else; NULL: this is that */
};

const struct image_kind *image_kinds(size_t *n);

/* "debian" becomes "debian:trixie"; -ENOENT with the names that are known. */
int image_name(const char *typed, const char **name, struct err *e);
/* The same; "debian" for amd64 becomes "debian:trixie-amd64". arch NULL: what the name says. -ENOENT: there is none for it. */
const struct image_kind *image_kind(const char *typed, const char *arch, struct err *e);

#endif
