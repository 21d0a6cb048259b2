/*
 * rootfs.h: a root file system put together from packages without running anything of it.
 *
 * Packages are unpacked into a directory of the host as whoever runs us: owner, group and the full mode of each
 * path are kept in a table beside it and written into the ext4 image afterwards (ext4.h). So root and everybody
 * else get the same image. dpkg's database is written as dpkg itself would have left it after unpacking:
 * a package without maintainer scripts is `installed`, the others are `unpacked` and wait for
 * `dpkg --configure -a`.
 *
 * Sources: deb(5), deb-conffiles(5), deb-triggers(5), dpkg(1) "Package states", and the files of
 * /var/lib/dpkg as dpkg 1.22 writes them.
 */
#ifndef LODGE_IMAGE_ROOTFS_H
#define LODGE_IMAGE_ROOTFS_H

#include <sys/types.h>

#include "image/apt/pkgindex.h"
#include "image/text.h"

struct meta { /* of one path; "" is the root */
	char *path;
	uid_t uid;
	gid_t gid;
	mode_t mode; /* permission bits with set-id and sticky bits */
};

struct rootfs {
	const char *arch; /* Debian's name of it; set by the caller after rootfs_open() */
	char *dir; /* the directory; its mode is 0700 */
	int fd; /* of it; every access is confined to it (openat2 RESOLVE_IN_ROOT) */
	struct meta *meta;
	size_t n, cap;
	struct buf status; /* dpkg's database so far */
	struct buf trig_file; /* triggers/File */
	size_t unpacked; /* packages that wait to be configured */
};

int rootfs_open(struct rootfs *r, const char *dir, struct err *e);
void rootfs_close(struct rootfs *r); /* fit for cleanup(); the directory stays */

/* Unpacks a package and enters it in the database. */
int rootfs_unpack(struct rootfs *r, const char *deb, const struct pkg *pkg, struct err *e);

/* Writes the database's files. After the last package. */
int rootfs_write_db(struct rootfs *r, struct err *e);

/* Our own files: parent directories are made; they belong to root. `path` has no slash in front. */
int rootfs_put(struct rootfs *r, const char *path, mode_t mode, const char *text, struct err *e);
int rootfs_put_bytes(
	struct rootfs *r, const char *path, mode_t mode, const void *p, size_t len, struct err *e);
int rootfs_link(struct rootfs *r, const char *path, const char *to, struct err *e);
int rootfs_mkdir(struct rootfs *r, const char *path, mode_t mode, struct err *e);
int rootfs_owner(
	struct rootfs *r, const char *path, uid_t uid, gid_t gid, mode_t mode, struct err *e);

/* Reads a file of the tree, links inside it followed. */
int rootfs_read(
	const struct rootfs *r, const char *path, size_t max, struct buf *out, struct err *e);
bool rootfs_has(const struct rootfs *r, const char *path);

/* Sorts the table by path; of several entries for one path the last counts. */
void rootfs_sort(struct rootfs *r);
const struct meta *rootfs_find(const struct rootfs *r, const char *path);

#endif
