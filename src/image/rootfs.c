#include "image/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "image/apt/deb.h"

#define FILE_MAX (512 * MiB)

/* Follows links as if the tree were the root, so that no package leads us out of it. */
static int open_in(const struct rootfs *r, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC), .mode = mode, .resolve = RESOLVE_IN_ROOT};

	return (int)syscall(SYS_openat2, r->fd, *path ? path : ".", &how, sizeof(how));
}

/* The directory that holds path, made where it is missing; *base is the last part. */
static int open_parent(const struct rootfs *r, const char *path, const char **base)
{
	const char *slash = strrchr(path, '/');
	cleanup(free_ptr) char *dir = slash ? strndup(path, (size_t)(slash - path)) : strdup("");
	int fd;

	*base = slash ? slash + 1 : path;
	if (!dir)
		return -ENOMEM;
	fd = open_in(r, dir, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0 && errno == ENOENT && *dir) {
		const char *sub;
		int up = open_parent(r, dir, &sub);

		if (up < 0)
			return up;
		if (mkdirat(up, sub, 0755) && errno != EEXIST) {
			close(up);
			return -errno;
		}
		close(up);
		fd = open_in(r, dir, O_RDONLY | O_DIRECTORY, 0);
	}
	return fd < 0 ? -errno : fd;
}

int rootfs_open(struct rootfs *r, const char *dir, struct err *e)
{
	int rc = dir_make(dir, 0700, e);

	*r = (struct rootfs){.fd = -1};
	if (rc)
		return rc;
	r->dir = strdup(dir);
	r->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->fd < 0 || !r->dir)
		return err_sys(e, -errno, "open %s", dir);
	return 0;
}

void rootfs_close(struct rootfs *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->meta[i].path);
	free(r->meta);
	free(r->dir);
	if (r->dir && r->fd >= 0)
		close(r->fd);
	buf_free(&r->status);
	buf_free(&r->trig_file);
	*r = (struct rootfs){.fd = -1};
}

int rootfs_owner(
	struct rootfs *r, const char *path, uid_t uid, gid_t gid, mode_t mode, struct err *e)
{
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 8192;
		struct meta *m = realloc(r->meta, cap * sizeof(*m));

		if (!m)
			return err_set(e, -ENOMEM, "out of memory");
		r->meta = m;
		r->cap = cap;
	}
	r->meta[r->n] = (struct meta){strdup(path), uid, gid, mode & 07777};
	if (!r->meta[r->n].path)
		return err_set(e, -ENOMEM, "out of memory");
	r->n++;
	return 0;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct meta *)a)->path, ((const struct meta *)b)->path);
}

/* Stable by hand: qsort() is not, and a later entry replaces an earlier one. */
void rootfs_sort(struct rootfs *r)
{
	struct meta *tmp = calloc(r->n + 1, sizeof(*tmp));

	for (size_t w = 1; tmp && w < r->n; w *= 2) {
		for (size_t i = 0; i < r->n; i += 2 * w) {
			size_t a = i, b = MIN(i + w, r->n), ae = b, be = MIN(i + 2 * w, r->n),
			       o = i;

			while (a < ae || b < be) {
				bool left = b == be ||
					    (a < ae && by_path(&r->meta[a], &r->meta[b]) <= 0);

				tmp[o++] = left ? r->meta[a++] : r->meta[b++];
			}
		}
		memcpy(r->meta, tmp, r->n * sizeof(*tmp));
	}
	free(tmp);
}

const struct meta *rootfs_find(const struct rootfs *r, const char *path)
{
	size_t lo = 0, hi = r->n;

	/* The last of equals. */
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (strcmp(r->meta[mid].path, path) <= 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && !strcmp(r->meta[lo - 1].path, path) ? &r->meta[lo - 1] : NULL;
}

int rootfs_read(
	const struct rootfs *r, const char *path, size_t max, struct buf *out, struct err *e)
{
	cleanup(close_fd) int fd = open_in(r, path, O_RDONLY, 0);
	char b[65536];
	ssize_t n;

	if (fd < 0)
		return err_sys(e, -errno, "root file system: read %s", path);
	while ((n = read(fd, b, sizeof(b))) > 0 && out->n < max)
		buf_add(out, b, (size_t)n);
	if (n < 0)
		return err_sys(e, -errno, "root file system: read %s", path);
	buf_add(out, "", 0);
	return buf_err(out, e);
}

bool rootfs_has(const struct rootfs *r, const char *path)
{
	cleanup(close_fd) int fd = open_in(r, path, O_PATH | O_NOFOLLOW, 0);

	return fd >= 0;
}

static int put_fd(struct rootfs *r, int fd, const char *path, const void *p, size_t n, mode_t mode,
	struct err *e)
{
	int rc = fd_write_all(fd, p, n, path, e);

	/* Ours to read whatever the mode in the image is. */
	fchmod(fd, mode | 0600);
	return rc ?: rootfs_owner(r, path, 0, 0, mode, e);
}

int rootfs_put(struct rootfs *r, const char *path, mode_t mode, const char *text, struct err *e)
{
	return rootfs_put_bytes(r, path, mode, text, strlen(text), e);
}

int rootfs_put_bytes(
	struct rootfs *r, const char *path, mode_t mode, const void *p, size_t len, struct err *e)
{
	const char *base;
	cleanup(close_fd) int dir = open_parent(r, path, &base);
	cleanup(close_fd) int fd = -1;

	if (dir < 0)
		return err_sys(e, dir, "root file system: %s", path);
	unlinkat(dir, base, 0);
	fd = openat(dir, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "root file system: create %s", path);
	return put_fd(r, fd, path, p, len, mode, e);
}

int rootfs_link(struct rootfs *r, const char *path, const char *to, struct err *e)
{
	const char *base;
	cleanup(close_fd) int dir = open_parent(r, path, &base);

	if (dir < 0)
		return err_sys(e, dir, "root file system: %s", path);
	unlinkat(dir, base, 0);
	if (symlinkat(to, dir, base))
		return err_sys(e, -errno, "root file system: link %s", path);
	return 0;
}

int rootfs_mkdir(struct rootfs *r, const char *path, mode_t mode, struct err *e)
{
	const char *base;
	cleanup(close_fd) int dir = open_parent(r, path, &base);

	if (dir < 0)
		return err_sys(e, dir, "root file system: %s", path);
	if (mkdirat(dir, base, (mode & 0777) | 0700) && errno != EEXIST)
		return err_sys(e, -errno, "root file system: make %s", path);
	return rootfs_owner(r, path, 0, 0, mode, e);
}

struct unpacking {
	struct rootfs *r;
	const struct pkg *pkg;
	struct buf list;
};

static int make_file(struct rootfs *r, int dir, const char *base, struct archive *a,
	struct archive_entry *ent, const char *name, struct err *e)
{
	cleanup(close_fd) int fd = -1;
	int rc;

	unlinkat(dir, base, 0);
	fd = openat(dir, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "create %s", name);
	for (;;) {
		const void *p;
		size_t n;
		la_int64_t off;
		int k = archive_read_data_block(a, &p, &n, &off);

		if (k == ARCHIVE_EOF)
			break;
		if (k < ARCHIVE_WARN)
			return err_set(
				e, -EBADMSG, "%s: %s", name, archive_error_string(a) ?: "cut off");
		if (off < 0 || (uint64_t)off + n > FILE_MAX || lseek(fd, off, SEEK_SET) < 0)
			return err_set(e, -EFBIG, "%s is too large", name);
		rc = fd_write_all(fd, p, n, name, e);
		if (rc)
			return rc;
	}
	fchmod(fd, (archive_entry_perm(ent) & 0777) | 0600);
	futimens(fd, (struct timespec[2]){{.tv_sec = archive_entry_mtime(ent)},
			     {.tv_sec = archive_entry_mtime(ent)}});
	return 0;
}

static int make_hardlink(struct rootfs *r, int dir, const char *base, const char *to, struct err *e)
{
	const char *tobase;
	cleanup(close_fd) int todir = -1;

	while (to[0] == '.' && to[1] == '/')
		to += 2;
	while (*to == '/')
		to++;
	todir = open_parent(r, to, &tobase);
	if (todir < 0)
		return err_sys(e, todir, "hard link to %s", to);
	unlinkat(dir, base, 0);
	return linkat(todir, tobase, dir, base, 0) ? err_sys(e, -errno, "hard link to %s", to) : 0;
}

static int unpack_entry(
	void *ctx, struct archive *a, struct archive_entry *ent, const char *name, struct err *e)
{
	struct unpacking *u = ctx;
	const char *base, *hard = archive_entry_hardlink(ent);
	cleanup(close_fd) int dir = -1;
	int rc = 0;

	buf_fmt(&u->list, "/%s\n", *name ? name : ".");
	if (strchr(name, '\n') || strchr(name, '"'))
		return err_set(e, -EBADMSG, "a path with a line end or quote");
	if (!*name)
		return 0;
	dir = open_parent(u->r, name, &base);
	if (dir < 0)
		return err_sys(e, dir, "%s", name);
	if (hard)
		return make_hardlink(u->r, dir, base, hard, e);
	switch (archive_entry_filetype(ent)) {
	case AE_IFDIR:
		/* Where base-files has put a link (/lib to usr/lib), a directory of that name is the link's. */
		if (!mkdirat(dir, base, (archive_entry_perm(ent) & 0777) | 0700))
			break;
		if (errno != EEXIST)
			return err_sys(e, -errno, "make %s", name);
		break;
	case AE_IFLNK:
		unlinkat(dir, base, 0);
		if (symlinkat(archive_entry_symlink(ent), dir, base))
			return err_sys(e, -errno, "link %s", name);
		break;
	case AE_IFREG:
		rc = make_file(u->r, dir, base, a, ent, name, e);
		break;
	default:
		return err_set(e, -EBADMSG, "%s is no file, directory or link", name);
	}
	if (rc)
		return rc;
	return rootfs_owner(u->r, name, (uid_t)archive_entry_uid(ent),
		(gid_t)archive_entry_gid(ent), archive_entry_perm(ent), e);
}

struct control {
	struct rootfs *r;
	const struct pkg *pkg;
	char prefix[512]; /* "var/lib/dpkg/info/NAME" or ".../NAME:ARCH" */
	struct buf text, conffiles, triggers;
	bool scripts; /* something has to run */
};

static int take_control(
	void *ctx, struct archive *a, struct archive_entry *ent, const char *name, struct err *e)
{
	static const char *const running[] = {"postinst", "config"};
	struct control *c = ctx;
	cleanup(buf_free) struct buf b = {0};
	struct buf *keep;
	int rc;

	if (archive_entry_filetype(ent) != AE_IFREG)
		return 0;
	keep = !strcmp(name, "control")	    ? &c->text
	       : !strcmp(name, "conffiles") ? &c->conffiles
	       : !strcmp(name, "triggers")  ? &c->triggers
					    : &b;
	rc = deb_read(a, 16 * MiB, keep, e);
	if (rc || !strcmp(name, "control"))
		return rc;
	if (strchr(name, '/') || strlen(name) > 64)
		return err_set(e, -EBADMSG, "control member %s", name);
	for (size_t i = 0; i < ARRAY_SIZE(running); i++)
		c->scripts |= !strcmp(name, running[i]);
	{
		cleanup(free_ptr) char *path = text_fmt("%s.%s", c->prefix, name);
		const char *base;
		cleanup(close_fd) int dir = path ? open_parent(c->r, path, &base) : -ENOMEM;
		cleanup(close_fd) int fd = dir < 0 ? -1
						   : openat(dir, base,
							     O_WRONLY | O_CREAT | O_TRUNC |
								     O_NOFOLLOW | O_CLOEXEC,
							     0600);

		if (fd < 0)
			return err_sys(e, -EIO, "write %s", name);
		return put_fd(c->r, fd, path, keep->p, keep->n, archive_entry_perm(ent) & 0755, e);
	}
}

static void md5_hex(const struct buf *b, char out[33])
{
	unsigned char d[EVP_MAX_MD_SIZE] = {0};

	EVP_Digest(b->p, b->n, d, NULL, EVP_md5(), NULL);
	for (int i = 0; i < 16; i++)
		snprintf(out + 2 * i, 3, "%02x", d[i]);
}

/* "Conffiles:" of the status: each with the digest that dpkg compares with at the next upgrade. */
static int add_conffiles(struct control *c, struct buf *out, struct err *e)
{
	struct slice rest = {c->conffiles.p, c->conffiles.n};
	struct slice w;
	bool first = true;

	while (slice_word(&rest, &w)) {
		cleanup(free_ptr) char *path = NULL;
		cleanup(buf_free) struct buf b = {0};
		char md5[33];
		int rc;

		if (w.p[0] != '/') /* "remove-on-upgrade /path" */
			continue;
		if (w.p > c->conffiles.p && w.p[-1] == ' ')
			continue;
		path = slice_dup(w);
		if (!path)
			return err_set(e, -ENOMEM, "out of memory");
		rc = rootfs_read(c->r, path + 1, 64 * MiB, &b, e);
		if (rc)
			return rc;
		md5_hex(&b, md5);
		if (first)
			buf_str(out, "Conffiles:\n");
		first = false;
		buf_fmt(out, " %s %s\n", path, md5);
	}
	return 0;
}

/* What dpkg keeps of interests: paths in triggers/File, names in a file each (deb-triggers(5)). */
static int add_triggers(struct control *c, struct err *e)
{
	struct slice rest = {c->triggers.p, c->triggers.n};
	const char *shown = strrchr(c->prefix, '/') + 1;

	while (rest.n) {
		const char *nl = memchr(rest.p, '\n', rest.n);
		struct slice line = {rest.p, nl ? (size_t)(nl - rest.p) : rest.n}, kind, what;
		const char *noawait;

		rest.p += line.n + (nl ? 1 : 0);
		rest.n -= line.n + (nl ? 1 : 0);
		if (!slice_word(&line, &kind) || !slice_word(&line, &what) || kind.n < 8 ||
			memcmp(kind.p, "interest", 8))
			continue;
		noawait = slice_is(kind, "interest-noawait") ? "/noawait" : "";
		if (what.p[0] == '/') {
			buf_fmt(&c->r->trig_file, SLICE_FMT " %s%s\n", SLICE_ARG(what), shown,
				noawait);
		} else {
			cleanup(free_ptr) char *path = text_fmt(
				"var/lib/dpkg/triggers/" SLICE_FMT, SLICE_ARG(what));
			cleanup(buf_free) struct buf b = {0};
			int rc;

			if (!path || memchr(what.p, '/', what.n))
				return err_set(e, -EBADMSG, "a trigger's name");
			if (rootfs_has(c->r, path))
				rootfs_read(c->r, path, MiB, &b, NULL);
			buf_fmt(&b, "%s%s\n", shown, noawait);
			rc = b.p ? rootfs_put(c->r, path, 0644, b.p, e) : -ENOMEM;
			if (rc)
				return rc;
		}
	}
	return 0;
}

static int enter(struct control *c, struct err *e)
{
	struct buf *s = &c->r->status;
	const char *nl = c->text.p ? strchr(c->text.p, '\n') : NULL;
	size_t n = c->text.n;
	int rc;

	if (!nl || strncmp(c->text.p, "Package:", 8))
		return err_set(e, -EBADMSG, "its control file does not start with Package");
	while (n && c->text.p[n - 1] == '\n')
		n--;
	buf_add(s, c->text.p, (size_t)(nl + 1 - c->text.p));
	buf_fmt(s, "Status: install ok %s\n", c->scripts ? "unpacked" : "installed");
	c->r->unpacked += c->scripts;
	rc = add_conffiles(c, s, e) ?: add_triggers(c, e);
	buf_add(s, nl + 1, n - (size_t)(nl + 1 - c->text.p));
	buf_str(s, "\n\n");
	return rc ?: buf_err(s, e);
}

static bool multiarch_same(const struct buf *control)
{
	cleanup(free_ptr) struct deb822 *d = malloc(sizeof(*d));

	if (!d)
		return false;
	deb822_init(d, "control", control->p, control->n);
	return deb822_next(d, NULL) == 1 && slice_is(deb822_get(d, "Multi-Arch"), "same");
}

static int take_text(
	void *ctx, struct archive *a, struct archive_entry *ent, const char *name, struct err *e)
{
	return strcmp(name, "control") ? 0 : deb_read(a, MiB, ctx, e) ?: 1;
}

int rootfs_unpack(struct rootfs *r, const char *deb, const struct pkg *pkg, struct err *e)
{
	struct unpacking u = {.r = r, .pkg = pkg};
	struct control c = {.r = r, .pkg = pkg};
	cleanup(buf_free) struct buf first = {0};
	cleanup(free_ptr) char *list = NULL;
	int rc;

	rc = deb_walk(deb, DEB_CONTROL, take_text, &first, e)
		     ?: deb_walk(deb, DEB_DATA, unpack_entry, &u, e);
	if (!rc) {
		snprintf(c.prefix, sizeof(c.prefix), "var/lib/dpkg/info/" SLICE_FMT "%s" SLICE_FMT,
			SLICE_ARG(pkg->name), multiarch_same(&first) ? ":" : "",
			(int)(multiarch_same(&first) ? pkg->arch.n : 0), pkg->arch.p);
		rc = deb_walk(deb, DEB_CONTROL, take_control, &c, e) ?: enter(&c, e);
	}
	list = text_fmt("%s.list", c.prefix);
	if (!rc)
		rc = list && u.list.p ? rootfs_put(r, list, 0644, u.list.p, e)
				      : err_set(e, -ENOMEM, "out of memory");
	buf_free(&u.list);
	buf_free(&c.text);
	buf_free(&c.conffiles);
	buf_free(&c.triggers);
	return rc ? err_wrap(e, "package " SLICE_FMT, SLICE_ARG(pkg->name)) : 0;
}

int rootfs_write_db(struct rootfs *r, struct err *e)
{
	int rc;

	rc = rootfs_put(r, "var/lib/dpkg/status", 0644, r->status.p ?: "", e);
	if (!rc)
		rc = rootfs_put(r, "var/lib/dpkg/triggers/File", 0644, r->trig_file.p ?: "", e);
	if (!rc)
		rc = rootfs_put(r, "var/lib/dpkg/triggers/Unincorp", 0644, "", e);
	if (!rc)
		rc = rootfs_put(r, "var/lib/dpkg/available", 0644, "", e);
	if (!rc)
		rc = rootfs_put(r, "var/lib/dpkg/diversions", 0644, "", e);
	if (!rc)
		rc = rootfs_put(r, "var/lib/dpkg/statoverride", 0644, "", e);
	if (!rc)
		rc = rootfs_put(r, "var/lib/dpkg/info/format", 0644, "1\n", e);
	if (!rc)
		rc = rootfs_mkdir(r, "var/lib/dpkg/updates", 0755, e);
	return rc;
}
