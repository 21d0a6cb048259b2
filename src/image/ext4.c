#include "image/ext4.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/run.h"

static int first_complaint(void *ctx, const char *line)
{
	struct buf *b = ctx;

	/* It echoes each command, and greets with its version. */
	if (!*line || !strncmp(line, "debugfs:", 8) || !strncmp(line, "debugfs ", 8) || b->n)
		return 0;
	/* `write` names the inode that it made. */
	if (!strncmp(line, "Allocated inode:", 16))
		return 0;
	buf_str(b, line);
	return 0;
}

int ext4_edit(const char *image, const struct buf *commands, const char *work, struct err *e)
{
	cleanup(free_ptr) char *cmds = text_fmt("%s/debugfs.cmd", work);
	cleanup(buf_free) struct buf bad = {0};
	const char *argv[] = {"debugfs", "-w", "-f", cmds, image, NULL};
	struct run_opts o = {.argv = argv, .line = first_complaint, .ctx = &bad};
	int status, r;

	if (!cmds)
		return err_set(e, -ENOMEM, "out of memory");
	r = whole_file_write(cmds, commands->p ?: "", commands->n, 0600, false, e)
		    ?: run_prog(&o, &status, e);
	if (!r && (status || bad.n))
		r = err_set(e, -EIO, "debugfs %s: %s", image, bad.p ?: "failed");
	return r;
}

static void quote(struct buf *b, const char *path)
{
	buf_fmt(b, "\"/%s\"", path);
}

static void set_field(
	struct buf *b, const char *path, const char *field, const char *fmt, unsigned int v)
{
	buf_str(b, "sif ");
	quote(b, path);
	buf_fmt(b, " %s ", field);
	buf_fmt(b, fmt[1] == 'o' ? "0%o\n" : "%u\n", v);
}

/* What has to change so that the image has what the table says. */
static void correct(struct buf *b, const struct rootfs *r, const char *path, const struct stat *st)
{
	const struct meta *m = rootfs_find(r, path);
	uid_t uid = m ? m->uid : 0;
	gid_t gid = m ? m->gid : 0;
	mode_t mode = m && !S_ISLNK(st->st_mode) ? (st->st_mode & S_IFMT) | m->mode : st->st_mode;

	if (uid != st->st_uid)
		set_field(b, path, "uid", "%u", uid);
	if (gid != st->st_gid)
		set_field(b, path, "gid", "%u", gid);
	if (mode != st->st_mode)
		set_field(b, path, "mode", "%o", mode);
}

static int correct_all(const struct rootfs *r, struct buf *cmds, struct err *e)
{
	char *const paths[] = {r->dir, NULL};
	FTS *f = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	size_t skip = strlen(r->dir) + 1;
	int rc = 0;
	FTSENT *en;

	if (!f)
		return err_sys(e, -errno, "read %s", r->dir);
	while (!rc && (en = fts_read(f))) {
		if (en->fts_info == FTS_DP || en->fts_level == 0)
			continue;
		if (en->fts_info == FTS_ERR || en->fts_info == FTS_DNR || en->fts_info == FTS_NS)
			rc = err_sys(e, -en->fts_errno, "read %s", en->fts_path);
		else
			correct(cmds, r, en->fts_path + skip, en->fts_statp);
	}
	fts_close(f);
	/* The root itself: mke2fs gives it to root, but with the mode of our private directory. */
	buf_str(cmds, "sif / mode 040755\n");
	return rc ?: buf_err(cmds, e);
}

int ext4_make(struct rootfs *r, const char *path, uint64_t size, const char *label,
	const char *work, struct err *e)
{
	cleanup(buf_free) struct buf cmds = {0};
	cleanup(close_fd) int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	const char *argv[] = {"mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L",
		label, "-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1", "-d", r->dir,
		path, NULL};
	int rc;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		return err_sys(e, -errno, "create %s", path);
	rootfs_sort(r);
	rc = run_ok(argv, NULL, e);
	if (rc)
		return err_wrap(e, "file system of %s", path);
	return correct_all(r, &cmds, e) ?: ext4_edit(path, &cmds, work, e);
}

int ext4_read(const char *image, const char *file, const char *work, struct buf *out, struct err *e)
{
	cleanup(free_ptr) char *to = text_fmt("%s/dumped", work);
	cleanup(free_ptr) char *cmd = text_fmt("dump \"/%s\" \"%s\"", file, to);
	const char *argv[] = {"debugfs", "-R", cmd, image, NULL};
	int r;

	if (!to || !cmd)
		return err_set(e, -ENOMEM, "out of memory");
	unlink(to);
	r = run_ok(argv, NULL, e);
	if (!r && access(to, R_OK))
		r = err_set(e, -ENOENT, "%s has no /%s", image, file);
	return r ?: whole_file_read(to, 64 * MiB, out, e);
}

int ext4_check(const char *image, struct err *e)
{
	const char *argv[] = {"e2fsck", "-f", "-n", image, NULL};
	int r = run_ok(argv, NULL, e);

	return r == -EIO ? err_set(e, -EUCLEAN, "the file system of %s is damaged (e2fsck)", image)
			 : r;
}
