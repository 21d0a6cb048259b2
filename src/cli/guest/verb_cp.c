/*
 * verb_cp.c: files between host and guest, by the guest's agent. Directories are walked here, on the host: the agent knows files.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/client.h"
#include "base/err.h"
#include "base/fsutil.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/guest/guest.h"
#include "cli/ui/progress.h"
#include "cli/verb.h"

struct cp {
	bool quiet, recursive;
	unsigned wait;
};

static const struct opt opts[] = {
	{"recursive", 'r', .type = OPT_FLAG, OPT_AT(struct cp, recursive),
		.help = "copy directories with what is in them"},
	{"quiet", 'q', .type = OPT_FLAG, OPT_AT(struct cp, quiet), .help = "show no progress"},
	{"wait", .type = OPT_UINT, OPT_AT(struct cp, wait), .arg = "SECONDS", .max = 3600,
		.dflt = "0", .help = "how long to wait for a guest that is still coming up"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

#define DEPTH_MAX 64

struct copy {
	struct agent_client *agent;
	struct progress bar;
	bool recursive, quiet;
	uint64_t done, files;
};

static void begin_file(struct copy *k)
{
	k->done = 0;
	progress_begin(&k->bar, 0);
	k->bar.tty &= !k->quiet;
}

static void show(struct copy *k, const char *name, uint64_t size)
{
	if (progress_due(&k->bar))
		progress_bytes(&k->bar, name, k->done, size);
}

static int split_time(uint64_t ns, struct timespec t[2])
{
	t[0] = (struct timespec){.tv_nsec = UTIME_OMIT};
	t[1] = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
	return ns != 0;
}

static uint64_t join_time(struct timespec t)
{
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- to the guest ---- */

static int stat_guest(
	struct copy *k, const char *path, uint32_t *mode, uint64_t *size, struct err *e)
{
	cleanup(free_ptr) char *target = NULL;
	int rc;

	agent_begin(&k->agent->out, AGENT_STAT);
	agent_put_text(&k->agent->out, path);
	rc = agent_send(k->agent, AGENT_F_FILES, e) ?: agent_expect(k->agent, AGENT_FILE, e);
	if (rc)
		return rc;
	*mode = agent_get_u32(&k->agent->in);
	*size = agent_get_u64(&k->agent->in);
	agent_get_u64(&k->agent->in);
	target = agent_get_text(&k->agent->in);
	return agent_checked(k->agent, e);
}

static int put_file(struct copy *k, const char *from, const char *to, struct err *e)
{
	cleanup(close_fd) int fd = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char buf[AGENT_DATA_MAX];
	struct stat st;
	ssize_t n;
	int rc;

	if (fd < 0 && errno != ENXIO) /* of sockets */
		return err_sys(e, -errno, "%s", from);
	if (fd >= 0 && fstat(fd, &st))
		return err_sys(e, -errno, "%s", from);
	if (fd < 0 || !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s: neither a file nor a directory", from);
	agent_begin(&k->agent->out, AGENT_PUT);
	agent_put_text(&k->agent->out, to);
	agent_put_u32(&k->agent->out, st.st_mode & 07777);
	agent_put_u64(&k->agent->out, join_time(st.st_mtim));
	rc = agent_send(k->agent, AGENT_F_FILES, e);
	begin_file(k);
	while (!rc && (n = read(fd, buf, sizeof(buf))) > 0) {
		agent_begin(&k->agent->out, AGENT_DATA);
		agent_put_rest(&k->agent->out, buf, (size_t)n);
		rc = agent_send(k->agent, 0, e);
		k->done += (uint64_t)n;
		show(k, from, (uint64_t)st.st_size);
	}
	if (!rc && n < 0)
		rc = err_sys(e, -errno, "%s", from);
	progress_clear(&k->bar);
	/* Without END the guest throws away what it has. */
	if (rc)
		return rc;
	agent_begin(&k->agent->out, AGENT_END);
	k->files++;
	return agent_call(k->agent, 0, NULL, e);
}

static int put_any(struct copy *k, const char *from, const char *to, unsigned depth, struct err *e);

static int put_link(struct copy *k, const char *from, const char *to, struct err *e)
{
	char target[PATH_MAX];
	ssize_t n = readlink(from, target, sizeof(target) - 1);

	if (n < 0)
		return err_sys(e, -errno, "%s", from);
	target[n] = 0;
	agent_begin(&k->agent->out, AGENT_SYMLINK);
	agent_put_text(&k->agent->out, to);
	agent_put_text(&k->agent->out, target);
	return agent_call(k->agent, AGENT_F_FILES, NULL, e);
}

static int put_dir(struct copy *k, const char *from, const char *to, const struct stat *st,
	unsigned depth, struct err *e)
{
	struct dirent *d;
	DIR *dir;
	int rc;

	if (!k->recursive)
		return err_set(e, -EISDIR, "%s is a directory: --recursive copies it", from);
	if (depth > DEPTH_MAX)
		return err_set(e, -ELOOP, "%s: more than %d directories deep", from, DEPTH_MAX);
	agent_begin(&k->agent->out, AGENT_MKDIR);
	agent_put_text(&k->agent->out, to);
	agent_put_u32(&k->agent->out, st->st_mode & 07777);
	rc = agent_call(k->agent, AGENT_F_FILES, NULL, e);
	dir = rc ? NULL : opendir(from);
	if (!rc && !dir)
		return err_sys(e, -errno, "%s", from);
	while (!rc && (d = readdir(dir))) {
		char a[PATH_MAX], b[PATH_MAX];

		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		if ((size_t)snprintf(a, sizeof(a), "%s/%s", from, d->d_name) >= sizeof(a) ||
			(size_t)snprintf(b, sizeof(b), "%s/%s", to, d->d_name) >= sizeof(b))
			rc = err_set(e, -ENAMETOOLONG, "%s/%s", from, d->d_name);
		else
			rc = put_any(k, a, b, depth + 1, e);
	}
	if (dir)
		closedir(dir);
	return rc;
}

static int put_any(struct copy *k, const char *from, const char *to, unsigned depth, struct err *e)
{
	struct stat st;

	/* What is named is followed; links inside a tree are copied as links. */
	if (depth ? lstat(from, &st) : stat(from, &st))
		return err_sys(e, -errno, "%s", from);
	if (S_ISDIR(st.st_mode))
		return put_dir(k, from, to, &st, depth, e);
	if (depth && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return 0; /* as from the guest: in another system it means nothing */
	return S_ISLNK(st.st_mode) ? put_link(k, from, to, e) : put_file(k, from, to, e);
}

/* ---- from the guest ---- */

/*
 * A file without a name, so that whoever is ended leaves nothing; where the file system has none, one with the name `temp`.
 */
static int open_hidden(const char *to, char temp[PATH_MAX], bool *named, struct err *e)
{
	cleanup(free_ptr) char *dir = strdup(to);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	struct stat st;
	int fd = -1;

	/* A device, or a pipe, would make way for a file of its name. */
	if (!stat(to, &st) && !S_ISREG(st.st_mode))
		return err_set(
			e, -EINVAL, "%s is there, and is no file: nothing takes its place", to);
	if (!dir || (size_t)snprintf(temp, PATH_MAX, "%s.XXXXXX", to) >= PATH_MAX)
		return err_set(e, -ENAMETOOLONG, "%s", to);
	if (slash)
		slash[slash == dir] = 0;
	fd = open(slash ? dir : ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	*named = fd < 0;
	if (fd < 0)
		fd = mkostemp(temp, O_CLOEXEC);
	return fd < 0 ? err_sys(e, -errno, "%s", to) : fd;
}

/* In the place of what was there, in one step. `temp` is gone afterwards, or is to be removed. */
static int give_name(int fd, char temp[PATH_MAX], bool *named, const char *to)
{
	char self[40];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	for (unsigned i = 0; !*named; i++) {
		snprintf(temp + strlen(to), PATH_MAX - strlen(to), ".%06x",
			((unsigned)getpid() + i * 7919) & 0xffffff);
		*named = !linkat(AT_FDCWD, self, AT_FDCWD, temp, AT_SYMLINK_FOLLOW);
		if (!*named && (errno != EEXIST || i == 100))
			return -errno;
	}
	return rename(temp, to) ? -errno : 0;
}

static int get_file(struct copy *k, const char *from, const char *to, struct err *e)
{
	cleanup(free_ptr) char *target = NULL;
	char temp[PATH_MAX];
	struct timespec t[2];
	uint64_t size;
	uint32_t mode;
	bool named;
	int fd, rc;

	agent_begin(&k->agent->out, AGENT_GET);
	agent_put_text(&k->agent->out, from);
	rc = agent_send(k->agent, AGENT_F_FILES, e) ?: agent_expect(k->agent, AGENT_FILE, e);
	if (rc)
		return rc;
	mode = agent_get_u32(&k->agent->in);
	size = agent_get_u64(&k->agent->in);
	split_time(agent_get_u64(&k->agent->in), t);
	target = agent_get_text(&k->agent->in);
	rc = agent_checked(k->agent, e);
	if (rc)
		return rc;
	fd = open_hidden(to, temp, &named, e);
	if (fd < 0)
		return fd;
	begin_file(k);
	for (;;) {
		rc = agent_receive(k->agent, k->agent->timeout_ms, e);
		if (rc || k->agent->in.type == AGENT_END)
			break;
		if (k->agent->in.type != AGENT_DATA) {
			rc = err_set(e, -EPROTO, "the guest's agent sent %d inside a file",
				(int)k->agent->in.type);
			break;
		}
		rc = fs_write_all(fd, k->agent->in.payload, k->agent->in.left);
		if (rc) {
			err_sys(e, rc, "%s", to);
			break;
		}
		k->done += k->agent->in.left;
		show(k, from, size);
	}
	progress_clear(&k->bar);
	/* The guest's set-user-id bits mean nothing here, and must not. */
	if (!rc && (fchmod(fd, mode & 0777) || futimens(fd, t)))
		rc = err_sys(e, -errno, "%s", to);
	if (!rc) {
		rc = give_name(fd, temp, &named, to);
		if (rc)
			err_sys(e, rc, "%s", to);
	}
	close(fd);
	if (rc && named)
		unlink(temp);
	k->files++;
	return rc;
}

struct entry {
	uint32_t mode;
	char *name;
};

static void free_entries(struct entry *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(v[i].name);
	free(v);
}

/* The names are the guest's: one that would lead out of the directory is refused. */
static int take_entry(struct copy *k, const char *dir, struct entry *en, struct err *e)
{
	en->mode = agent_get_u32(&k->agent->in);
	agent_get_u64(&k->agent->in);
	agent_get_u64(&k->agent->in);
	en->name = agent_get_text(&k->agent->in);
	if (!en->name || !*en->name || strchr(en->name, '/') || !strcmp(en->name, ".") ||
		!strcmp(en->name, ".."))
		return err_set(
			e, -EPROTO, "the guest's agent names a file in %s that cannot be", dir);
	return agent_checked(k->agent, e);
}

static int list_guest(
	struct copy *k, const char *dir, struct entry **out, size_t *count, struct err *e)
{
	struct entry *v = NULL;
	size_t n = 0;
	int rc;

	agent_begin(&k->agent->out, AGENT_LIST);
	agent_put_text(&k->agent->out, dir);
	rc = agent_send(k->agent, AGENT_F_FILES, e);
	while (!rc) {
		rc = agent_receive(k->agent, k->agent->timeout_ms, e);
		if (rc || k->agent->in.type == AGENT_END)
			break;
		if (k->agent->in.type != AGENT_ENTRY || n >= 1000000) {
			rc = err_set(e, -EPROTO, "the guest's agent sent %d for a directory",
				(int)k->agent->in.type);
			break;
		}
		if (!(n & (n - 1))) {
			struct entry *w = realloc(v, (n ? 2 * n : 1) * sizeof(*v));

			if (!w) {
				rc = err_set(e, -ENOMEM, "out of memory");
				break;
			}
			v = w;
		}
		rc = take_entry(k, dir, &v[n], e);
		n++;
	}
	if (rc) {
		free_entries(v, n);
		return rc;
	}
	*out = v;
	*count = n;
	return 0;
}

static int get_link(struct copy *k, const char *from, const char *to, struct err *e)
{
	cleanup(free_ptr) char *target = NULL;
	int rc;

	agent_begin(&k->agent->out, AGENT_STAT);
	agent_put_text(&k->agent->out, from);
	rc = agent_send(k->agent, AGENT_F_FILES, e) ?: agent_expect(k->agent, AGENT_FILE, e);
	if (rc)
		return rc;
	agent_get_u32(&k->agent->in);
	agent_get_u64(&k->agent->in);
	agent_get_u64(&k->agent->in);
	target = agent_get_text(&k->agent->in);
	rc = agent_checked(k->agent, e);
	/* In the place of what is there, as files are. */
	while (!rc && symlink(target, to))
		if (errno != EEXIST || unlink(to))
			rc = err_sys(e, -errno, "%s", to);
	return rc;
}

static int get_any(struct copy *k, const char *from, const char *to, uint32_t mode, unsigned depth,
	struct err *e)
{
	struct entry *v;
	struct stat st;
	size_t n;
	int rc;

	if (S_ISLNK(mode))
		return get_link(k, from, to, e);
	if (!S_ISDIR(mode))
		return get_file(k, from, to, e);
	if (!k->recursive)
		return err_set(e, -EISDIR, "%s is a directory: --recursive copies it", from);
	if (depth > DEPTH_MAX)
		return err_set(e, -ELOOP, "%s: more than %d directories deep", from, DEPTH_MAX);
	/* A link made by an earlier entry must not lead the rest elsewhere. */
	if (mkdir(to, 0700) && (errno != EEXIST || lstat(to, &st) || !S_ISDIR(st.st_mode)))
		return err_sys(e, -errno, "%s", to);
	rc = list_guest(k, from, &v, &n, e);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && i < n; i++) {
		char a[PATH_MAX], b[PATH_MAX];
		uint32_t t = v[i].mode & S_IFMT;

		if (t != S_IFREG && t != S_IFDIR && t != S_IFLNK)
			continue; /* sockets, pipes and devices mean nothing elsewhere */
		if ((size_t)snprintf(a, sizeof(a), "%s/%s", from, v[i].name) >= sizeof(a) ||
			(size_t)snprintf(b, sizeof(b), "%s/%s", to, v[i].name) >= sizeof(b))
			rc = err_set(e, -ENAMETOOLONG, "%s/%s", from, v[i].name);
		else
			rc = get_any(k, a, b, v[i].mode, depth + 1, e);
	}
	free_entries(v, n);
	if (!rc && chmod(to, mode & 0777))
		rc = err_sys(e, -errno, "%s", to);
	return rc;
}

/* ---- the verb ---- */

/* "NAME:PATH"; a path of the host may have colons after a slash. */
static char *guest_path(char *arg)
{
	char *colon = strchr(arg, ':'), *slash = strchr(arg, '/');

	return colon && colon != arg && (!slash || colon < slash) ? colon : NULL;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Into a directory that is there, under its own name. */
static int destination(char *out, const char *from, const char *to, bool is_dir, struct err *e)
{
	size_t n = strlen(from);
	cleanup(free_ptr) char *trimmed = strdup(from);

	if (!trimmed)
		return err_set(e, -ENOMEM, "out of memory");
	while (n > 1 && trimmed[n - 1] == '/')
		trimmed[--n] = 0;
	if ((size_t)snprintf(out, PATH_MAX, "%s%s%s", to, is_dir ? "/" : "",
		    is_dir ? base_name(trimmed) : "") >= PATH_MAX)
		return err_set(e, -ENAMETOOLONG, "%s", to);
	return 0;
}

static int copy(struct copy *k, const char *from, const char *to, bool into_guest, struct err *e)
{
	char target[PATH_MAX];
	uint32_t mode = 0;
	uint64_t size;
	struct stat st;
	struct err none = {0};
	int rc;

	if (into_guest) {
		bool dir = !stat_guest(k, *to ? to : ".", &mode, &size, &none) && S_ISDIR(mode);

		rc = destination(target, from, *to ? to : ".", dir, e);
		return rc ?: put_any(k, from, target, 0, e);
	}
	from = *from ? from : ".";
	rc = stat_guest(k, from, &mode, &size, e);
	if (!rc)
		rc = destination(target, from, to, !stat(to, &st) && S_ISDIR(st.st_mode), e);
	/* What is named is followed. */
	return rc ?: get_any(k, from, target, S_ISLNK(mode) ? S_IFREG : mode, 0, e);
}

static int run(void *o, const struct args *a)
{
	const struct cp *c = o;
	char *from = guest_path(a->v[0]), *to = guest_path(a->v[1]);
	cleanup(agent_closep) struct agent_client *agent = NULL;
	struct copy k = {.recursive = c->recursive, .quiet = c->quiet};
	struct err e = {0};

	if (!from == !to)
		return usage(
			"one of the two must be in a guest (NAME:PATH), the other on this host");
	*(from ?: to) = 0;
	if (guest_agent(&agent, from ? a->v[0] : a->v[1], c->wait, &e))
		return fail(&e);
	k.agent = agent;
	if (copy(&k, from ? from + 1 : a->v[0], to ? to + 1 : a->v[1], to != NULL, &e))
		return fail(&e);
	return EXIT_DONE;
}

const struct verb verbs_cp[] = {
	{VERB("cp", "FROM TO", "copy files into a guest or out of it"), .cmd.min_args = 2,
		.cmd.max_args = 2, .cmd.groups = groups,
		.cmd.text =
			"One of FROM and TO is NAME:PATH, a path in the guest of machine NAME; the "
			"other is a path of this host. Works through the guest's lodge-agent over "
			"virtio-vsock, so no network is needed. A file appears at once when it is "
			"whole. Modes and times are kept; owners are not. Of a directory, what is "
			"neither file, directory nor link is left out. In the guest, relative "
			"paths begin at /.",
		.size = sizeof(struct cp), .run = run},
	VERBS_END,
};
