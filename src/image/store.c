#include "image/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/text.h"

static const struct image_kind kinds[] = {
	{"debian:mini", NULL, "Debian's kernel and a busybox initramfs: a shell within seconds",
		"riscv64", "trixie", true, NULL},
	{"debian:trixie", "debian", "Debian 13 with systemd, apt and networking on an ext4 disk",
		"riscv64", "trixie", false, NULL},
	{"debian:mini-amd64", NULL,
		"the same as debian:mini for amd64, with the cloud kernel (6.12)", "amd64",
		"trixie", true, "debian:mini"},
	{"debian:mini-bookworm-amd64", NULL, "the same with the cloud kernel of Debian 12 (6.1)",
		"amd64", "bookworm", true, NULL},
	{"debian:trixie-amd64", "debian-amd64", "Debian 13 for amd64", "amd64", "trixie", false,
		"debian:trixie"},
};

const struct image_kind *image_kinds(size_t *n)
{
	*n = ARRAY_SIZE(kinds);
	return kinds;
}

static const struct image_kind *kind_like(const struct image_kind *k, const char *arch)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].arch, arch) && kinds[i].like &&
			!strcmp(kinds[i].like, k->name))
			return &kinds[i];
	return NULL;
}

const struct image_kind *image_kind(const char *typed, const char *arch, struct err *e)
{
	cleanup(buf_free) struct buf b = {0};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct image_kind *k = &kinds[i], *other;

		buf_fmt(&b, "%s%s", i ? ", " : "", k->name);
		if (strcmp(typed, k->name) && (!k->alias || strcmp(typed, k->alias)))
			continue;
		if (!arch || !strcmp(k->arch, arch))
			return k;
		other = kind_like(k, arch);
		if (!other)
			err_set(e, -ENOENT, "image %s is not made for %s; it is for %s", k->name,
				arch, k->arch);
		return other;
	}
	err_set(e, -ENOENT, "no image is called %s; known are: %s", typed, b.p ?: "");
	return NULL;
}

int image_name(const char *typed, const char **name, struct err *e)
{
	const struct image_kind *k = image_kind(typed, NULL, e);

	if (!k)
		return -ENOENT;
	*name = k->name;
	return 0;
}

static char *dir_of(const char *xdg, const char *root, const char *home_part)
{
	const char *x = getenv(xdg), *home = getenv("HOME");

	if (x && x[0] == '/')
		return text_fmt("%s/lodge", x);
	if (!geteuid())
		return strdup(root);
	return home && home[0] == '/' ? text_fmt("%s/%s/lodge", home, home_part) : NULL;
}

int image_dirs_default(struct image_dirs *d, struct err *e)
{
	d->cache = dir_of("XDG_CACHE_HOME", "/var/cache/lodge", ".cache");
	d->data = dir_of("XDG_DATA_HOME", "/var/lib/lodge", ".local/share");
	if (d->cache && d->data)
		return 0;
	image_dirs_free(d);
	return err_set(
		e, -ENOENT, "no place for images: set HOME, or XDG_CACHE_HOME and XDG_DATA_HOME");
}

void image_dirs_free(struct image_dirs *d)
{
	free(d->cache);
	free(d->data);
	*d = (struct image_dirs){0};
}

char *store_dir(const struct image_dirs *d, const char *name)
{
	char *s = text_fmt("%s/images/%s", d->data, name);

	/* A ':' in a path would collide with FILE:FORMAT on command lines. */
	for (char *c = s ? s + strlen(d->data) : NULL; c && *c; c++)
		if (*c == ':')
			*c = '-';
	return s;
}

int store_lock(const struct image_dirs *d, const char *name, int *fd, struct err *e)
{
	cleanup(free_ptr) char *dir = store_dir(d, name);
	cleanup(free_ptr) char *parent = text_fmt("%s/images", d->data);
	cleanup(free_ptr) char *path = NULL;
	char who[32] = "";
	ssize_t n;
	int r;

	*fd = -1;
	path = dir ? text_fmt("%s/.%s.lock", parent, strrchr(dir, '/') + 1) : NULL;
	if (!path || !parent)
		return err_set(e, -ENOMEM, "out of memory");
	r = dir_make(parent, 0755, e);
	if (r)
		return r;
	*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (*fd < 0)
		return err_sys(e, -errno, "open %s", path);
	if (flock(*fd, LOCK_EX | LOCK_NB)) {
		n = read(*fd, who, sizeof(who) - 1);
		if (n > 0)
			who[strcspn(who, "\n")] = 0;
		close(steal_fd(fd));
		return err_set(e, -EBUSY,
			"image %s is being pulled or removed by process %s: wait for it", name,
			who[0] ? who : "(unknown)");
	}
	/* Only for the message above. */
	n = snprintf(who, sizeof(who), "%d\n", (int)getpid());
	if (ftruncate(*fd, 0) || pwrite(*fd, who, (size_t)n, 0) != n)
		return err_sys(e, -errno, "write %s", path);
	return 0;
}

json_t *manifest_read(const char *dir, struct err *e)
{
	cleanup(free_ptr) char *path = text_fmt("%s/manifest.json", dir);
	json_error_t je;
	json_t *j;

	if (!path) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	if (access(path, R_OK)) {
		err_sys(e, -errno, "read %s", path);
		return NULL;
	}
	j = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
	if (!j || !json_is_object(j) || !json_is_string(json_object_get(j, "name"))) {
		err_set(e, -EINVAL, "%s is damaged (%s): remove the image and pull it again", path,
			j ? "no name" : je.text);
		json_decref(j);
		return NULL;
	}
	return j;
}

json_t *image_manifest(const struct image_dirs *d, const char *typed, struct err *e)
{
	cleanup(free_ptr) char *dir = NULL;
	const char *name;
	json_t *j;

	if (image_name(typed, &name, e))
		return NULL;
	dir = store_dir(d, name);
	if (!dir) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	if (access(dir, F_OK)) {
		err_set(e, -ENOENT, "image %s is not here: lodge image pull %s", name, typed);
		return NULL;
	}
	j = manifest_read(dir, e);
	if (j)
		json_object_set_new(j, "directory", json_string(dir));
	return j;
}

json_t *image_list(const struct image_dirs *d, struct err *e)
{
	json_t *all = json_array();

	for (size_t i = 0; all && i < ARRAY_SIZE(kinds); i++) {
		cleanup(free_ptr) char *dir = store_dir(d, kinds[i].name);
		json_t *j;

		if (!dir || access(dir, F_OK))
			continue;
		j = image_manifest(d, kinds[i].name, e);
		if (!j) {
			json_decref(all);
			return NULL;
		}
		json_array_append_new(all, j);
	}
	if (!all)
		err_set(e, -ENOMEM, "out of memory");
	return all;
}

static char *member(const char *dir, const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	/* Only plain names: a manifest must not lead out of its directory. */
	if (!s || !*s || *s == '.' || strchr(s, '/'))
		return NULL;
	return text_fmt("%s/%s", dir, s);
}

int image_open(const struct image_dirs *d, const char *typed, struct image *im, struct err *e)
{
	json_t *j = image_manifest(d, typed, e), *disk;
	const char *dir;

	*im = (struct image){0};
	if (!j)
		return e && e->code ? e->code : -ENOENT;
	dir = json_string_value(json_object_get(j, "directory"));
	im->name = strdup(json_string_value(json_object_get(j, "name")));
	im->arch = strdup(json_string_value(json_object_get(j, "arch")) ?: "riscv64");
	im->dir = strdup(dir);
	im->kernel = member(dir, j, "kernel");
	im->initrd = member(dir, j, "initrd");
	im->append = strdup(json_string_value(json_object_get(j, "append")) ?: "");
	im->memory = (uint64_t)json_integer_value(json_object_get(j, "memory"));
	disk = json_object_get(j, "disk");
	if (disk) {
		im->disk = member(dir, disk, "file");
		im->disk_format = strdup(
			json_string_value(json_object_get(disk, "format")) ?: "raw");
		im->disk_size = (uint64_t)json_integer_value(json_object_get(disk, "size"));
	}
	json_decref(j);
	if (im->name && im->arch && im->dir && im->kernel && im->initrd && im->append &&
		(!disk || (im->disk && im->disk_format)))
		return 0;
	image_close(im);
	return err_set(
		e, -EINVAL, "image %s has a damaged manifest: remove it and pull it again", typed);
}

void image_close(struct image *im)
{
	free(im->name);
	free(im->arch);
	free(im->dir);
	free(im->kernel);
	free(im->initrd);
	free(im->append);
	free(im->disk);
	free(im->disk_format);
	*im = (struct image){0};
}

/* Copies what is data, leaves holes holes. */
static int copy_data(int in, int out, off_t size, const char *to, struct err *e)
{
	cleanup(free_ptr) char *b = NULL;
	off_t pos = 0, hole;

	while (pos < size && (pos = lseek(in, pos, SEEK_DATA)) >= 0) {
		hole = lseek(in, pos, SEEK_HOLE);
		if (hole < 0)
			hole = size;
		while (pos < hole) {
			loff_t i = pos, o = pos;
			ssize_t n = copy_file_range(in, &i, out, &o, (size_t)(hole - pos), 0);

			if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP ||
					     errno == ENOSYS)) {
				b = b ?: malloc(MiB);
				n = b ? pread(in, b, MIN((size_t)(hole - pos), (size_t)MiB), pos)
				      : -1;
				if (n > 0 && lseek(out, pos, SEEK_SET) >= 0 &&
					fd_write_all(out, b, (size_t)n, to, e))
					return e ? e->code : -EIO;
			}
			if (n <= 0)
				return err_sys(e, n ? -errno : -EIO, "copy to %s", to);
			pos += n;
		}
	}
	if (pos < 0 && errno != ENXIO)
		return err_sys(e, -errno, "copy to %s", to);
	return ftruncate(out, size) ? err_sys(e, -errno, "copy to %s", to) : 0;
}

int file_copy(const char *from, const char *to, mode_t mode, struct err *e)
{
	cleanup(close_fd) int in = open(from, O_RDONLY | O_CLOEXEC);
	cleanup(close_fd) int out = -1;
	struct stat st;
	int r = 0;

	if (in < 0 || fstat(in, &st))
		return err_sys(e, -errno, "read %s", from);
	out = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (out < 0)
		return err_sys(e, -errno, "create %s", to);
	if (ioctl(out, FICLONE, in))
		r = copy_data(in, out, st.st_size, to, e);
	if (r)
		unlink(to);
	return r;
}

int image_disk_copy(const struct image *im, const char *path, struct err *e)
{
	if (!im->disk)
		return err_set(e, -EINVAL, "image %s has no disk", im->name);
	return file_copy(im->disk, path, 0600, e);
}

/* Links where cache and store are on one file system: neither is ever written to. */
static int take_file(const char *from, const char *to, struct err *e)
{
	return link(from, to) ? file_copy(from, to, 0444, e) : 0;
}

static int take_files(const char *from, const char *to, struct err *e)
{
	DIR *d = opendir(from);
	struct dirent *de;
	int r = 0;

	if (!d)
		return err_sys(e, -errno, "read %s", from);
	while (!r && (de = readdir(d))) {
		cleanup(free_ptr) char *a = text_fmt("%s/%s", from, de->d_name);
		cleanup(free_ptr) char *b = text_fmt("%s/%s", to, de->d_name);

		if (de->d_name[0] == '.')
			continue;
		r = a && b ? take_file(a, b, e) : err_set(e, -ENOMEM, "out of memory");
	}
	closedir(d);
	return r;
}

int store_publish(const struct image_dirs *d, const char *name, const char *built, struct err *e)
{
	cleanup(free_ptr) char *dir = store_dir(d, name);
	cleanup(free_ptr) char *tmp =
		dir ? text_fmt("%s/images/.%s.new", d->data, strrchr(dir, '/') + 1) : NULL;
	int r;

	if (!dir || !tmp)
		return err_set(e, -ENOMEM, "out of memory");
	/* What an earlier attempt left: the lock is ours, so it is nobody's. */
	r = dir_remove(tmp, e) ?: dir_make(tmp, 0755, e) ?: take_files(built, tmp, e);
	if (!r && access(dir, F_OK)) {
		if (rename(tmp, dir))
			r = err_sys(e, -errno, "rename %s", tmp);
	} else if (!r && renameat2(AT_FDCWD, tmp, AT_FDCWD, dir, RENAME_EXCHANGE)) {
		/* A file system that cannot exchange (some network ones): a moment without the image. */
		r = dir_remove(dir, e);
		if (!r && rename(tmp, dir))
			r = err_sys(e, -errno, "rename %s", tmp);
	}
	dir_remove(tmp, NULL);
	return r;
}

int image_remove(const struct image_dirs *d, const char *typed, struct err *e)
{
	cleanup(close_fd) int lock = -1;
	cleanup(free_ptr) char *dir = NULL;
	cleanup(free_ptr) char *tmp = NULL;
	const char *name;
	int r;

	r = image_name(typed, &name, e);
	if (r)
		return r;
	dir = store_dir(d, name);
	tmp = dir ? text_fmt("%s/images/.%s.old", d->data, strrchr(dir, '/') + 1) : NULL;
	if (!tmp)
		return err_set(e, -ENOMEM, "out of memory");
	if (access(dir, F_OK))
		return err_set(
			e, -ENOENT, "image %s is not here, so there is nothing to remove", name);
	r = store_lock(d, name, &lock, e) ?: dir_remove(tmp, e);
	if (r)
		return r;
	if (rename(dir, tmp))
		return err_sys(e, -errno, "remove %s", dir);
	return dir_remove(tmp, e);
}
