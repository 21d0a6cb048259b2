#include "image/apt/deb.h"

#include <errno.h>
#include <stdio.h>

#include "base/util.h"

static void read_free(struct archive **a)
{
	if (*a)
		archive_read_free(*a);
}

/* The inner archive reads the member that the outer one stands at. */
struct inner {
	struct archive *outer;
	char block[65536];
};

static la_ssize_t inner_read(struct archive *a, void *ctx, const void **block)
{
	struct inner *in = ctx;
	la_ssize_t n = archive_read_data(in->outer, in->block, sizeof(in->block));

	if (n < 0)
		archive_set_error(a, EBADMSG, "%s", archive_error_string(in->outer) ?: "cut off");
	*block = in->block;
	return n;
}

static int bad(const char *path, struct archive *a, struct err *e)
{
	return err_set(e, -EBADMSG, "package file %s is damaged: %s (delete it and pull again)",
		path, archive_error_string(a) ?: "not a .deb");
}

static const char *plain_name(const char *s, char *out, size_t cap)
{
	size_t n;

	while (s[0] == '.' && s[1] == '/')
		s += 2;
	while (*s == '/')
		s++;
	if (!strcmp(s, "."))
		s = "";
	n = strlen(s);
	while (n && s[n - 1] == '/')
		n--;
	if (n >= cap)
		return NULL;
	memcpy(out, s, n);
	out[n] = 0;
	return out;
}

static int walk_tar(
	const char *path, struct archive *outer, deb_entry_fn fn, void *ctx, struct err *e)
{
	cleanup(read_free) struct archive *a = archive_read_new();
	cleanup(free_ptr) struct inner *in = malloc(sizeof(*in));
	struct archive_entry *ent;
	char name[4096];
	int r, k;

	if (!a || !in)
		return err_set(e, -ENOMEM, "out of memory");
	in->outer = outer;
	archive_read_support_filter_all(a);
	archive_read_support_format_tar(a);
	if (archive_read_open(a, in, NULL, inner_read, NULL) != ARCHIVE_OK)
		return bad(path, a, e);
	while ((k = archive_read_next_header(a, &ent)) != ARCHIVE_EOF) {
		const char *s = archive_entry_pathname(ent);

		if (k < ARCHIVE_WARN || !s || !plain_name(s, name, sizeof(name)))
			return bad(path, a, e);
		r = fn(ctx, a, ent, name, e);
		if (r)
			return r < 0 ? r : 0;
	}
	return 0;
}

int deb_walk(const char *path, enum deb_part part, deb_entry_fn fn, void *ctx, struct err *e)
{
	const char *want = part == DEB_CONTROL ? "control.tar" : "data.tar";
	cleanup(read_free) struct archive *a = archive_read_new();
	struct archive_entry *ent;

	if (!a)
		return err_set(e, -ENOMEM, "out of memory");
	archive_read_support_format_ar(a);
	if (archive_read_open_filename(a, path, 256 * KiB) != ARCHIVE_OK)
		return bad(path, a, e);
	while (archive_read_next_header(a, &ent) == ARCHIVE_OK) {
		const char *s = archive_entry_pathname(ent);

		if (s && !strncmp(s, want, strlen(want)))
			return walk_tar(path, a, fn, ctx, e);
	}
	return bad(path, a, e);
}

int deb_read(struct archive *a, size_t max, struct buf *out, struct err *e)
{
	char b[65536];
	la_ssize_t n;

	while ((n = archive_read_data(a, b, sizeof(b))) > 0) {
		if ((size_t)n > max - out->n)
			return err_set(e, -EFBIG, "larger than the %zu bytes allowed", max);
		buf_add(out, b, (size_t)n);
	}
	if (n < 0)
		return err_set(e, -EBADMSG, "%s", archive_error_string(a) ?: "cut off");
	buf_add(out, "", 0);
	return buf_err(out, e);
}

static int unpack_open(struct archive *a, size_t max, struct buf *out, struct err *e)
{
	struct archive_entry *ent;

	if (archive_read_next_header(a, &ent) != ARCHIVE_OK)
		return err_set(e, -EBADMSG, "%s", archive_error_string(a) ?: "cannot be unpacked");
	return deb_read(a, max, out, e);
}

int unpack_mem(const void *p, size_t n, size_t max, struct buf *out, struct err *e)
{
	cleanup(read_free) struct archive *a = archive_read_new();

	if (!a)
		return err_set(e, -ENOMEM, "out of memory");
	archive_read_support_filter_all(a);
	archive_read_support_format_raw(a);
	if (archive_read_open_memory(a, p, n) != ARCHIVE_OK)
		return err_set(e, -EBADMSG, "%s", archive_error_string(a) ?: "cannot be unpacked");
	return unpack_open(a, max, out, e);
}

int unpack_file(const char *path, size_t max, struct buf *out, struct err *e)
{
	cleanup(read_free) struct archive *a = archive_read_new();
	int r;

	if (!a)
		return err_set(e, -ENOMEM, "out of memory");
	archive_read_support_filter_all(a);
	archive_read_support_format_raw(a);
	if (archive_read_open_filename(a, path, 256 * KiB) != ARCHIVE_OK)
		r = err_set(e, -EBADMSG, "%s", archive_error_string(a) ?: "cannot be unpacked");
	else
		r = unpack_open(a, max, out, e);
	return r ? err_wrap(e, "unpack %s", path) : 0;
}
