#include "image/pull.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "image/agent.h"
#include "image/apt/deb.h"
#include "image/store.h"
#include "image/apt/verify.h"

/* Part of each image's key: raise it when a recipe makes something else from the same packages. */
#define RECIPE_VERSION 4

#define PARALLEL 6

char *pull_deb(const struct pull *p, const struct pkg *pkg)
{
	return text_fmt("%s/debs/" SLICE_FMT ".deb", p->dirs->cache, SLICE_ARG(pkg->sha256));
}

const struct pkg *pull_pkg(const struct pull *p, const char *name)
{
	for (size_t i = 0; i < p->set.n; i++)
		if (slice_is(p->set.v[i]->name, name))
			return p->set.v[i];
	return NULL;
}

const char *pull_kernel_meta(const struct image_kind *kind)
{
	/* The cloud kernel: the one for virtual machines, a quarter of the size. */
	return strcmp(kind->arch, "amd64") ? "linux-image-riscv64" : "linux-image-cloud-amd64";
}

const struct pkg *pull_kernel_pkg(const struct pull *p, struct err *e)
{
	const char *name = pull_kernel_meta(p->kind);
	const struct pkg *meta = pkgindex_find(&p->index, slice_of(name));
	struct slice rest = meta ? meta->depends : (struct slice){0};
	const struct pkg *k = NULL;
	struct debrel r;

	while (!k && debrel_next(&rest, &r) > 0)
		if (r.name.n > 12 && !memcmp(r.name.p, "linux-image-", 12))
			k = pkgindex_find(&p->index, r.name);
	if (!k)
		err_set(e, -ENOENT, "the mirror has no kernel for %s (%s)", p->kind->arch, name);
	return k;
}

int pull_step(const struct pull *p, const char *stage, uint64_t done, uint64_t total, struct err *e)
{
	if (!progress(&p->o->progress, stage, done, total, 0))
		return 0;
	return err_set(e, -ECANCELED, "interrupted (pull again: what was fetched is kept)");
}

static int take_busybox(
	void *ctx, struct archive *a, struct archive_entry *ent, const char *name, struct err *e)
{
	const char *s = strrchr(name, '/');

	if (archive_entry_filetype(ent) != AE_IFREG || !s || strcmp(s, "/busybox"))
		return 0;
	return deb_read(a, 16 * MiB, ctx, e) ?: 1;
}

int pull_busybox(const struct pull *p, struct buf *out, struct err *e)
{
	const struct pkg *pkg = pkgindex_find(&p->index, slice_of("busybox-static"));
	cleanup(free_ptr) char *deb = pkg ? pull_deb(p, pkg) : NULL;
	int r;

	if (!deb)
		return err_set(e, -ENOENT, "the mirror has no package busybox-static");
	r = deb_walk(deb, DEB_DATA, take_busybox, out, e);
	if (!r && !out->n)
		r = err_set(e, -ENOENT, "package busybox-static has no busybox in it");
	return r;
}

static int find_mirror(struct pull *p, struct err *e)
{
	const char *m = p->o->mirror;
	size_t n;

	if (!m)
		return apt_mirror_find(&p->mirror, p->o->etc_apt ?: "/etc/apt", e);
	if (strncmp(m, "http://", 7) && strncmp(m, "https://", 8) && strncmp(m, "file:/", 6))
		return err_set(e, -EINVAL, "--mirror %s: not a http, https or file URL", m);
	n = strlen(m);
	while (n && m[n - 1] == '/')
		n--;
	p->mirror.uri = strndup(m, n);
	return p->mirror.uri ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int fetch_one(struct pull *p, char *url, char *path, char *what, const char *sha256,
	uint64_t size, struct err *e)
{
	struct fetch_item it = {.url = url, .path = path, .what = what, .size = size};
	int r = -ENOMEM;

	if (sha256)
		memcpy(it.sha256, sha256, SHA256_HEX);
	if (url && path && what)
		r = fetch_all(&it, 1, 1, &p->o->progress, e);
	else
		err_set(e, -ENOMEM, "out of memory");
	free(url);
	free(path);
	free(what);
	return r;
}

/* The signature says who made the file; this says that it is the one we asked for, and of today. */
static int check_release(const struct buf *text, const char *suite, struct err *e)
{
	cleanup(free_ptr) struct deb822 *d = malloc(sizeof(*d));
	struct slice until;
	struct tm tm = {0};
	char s[64] = "";

	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	deb822_init(d, "Release", text->p, text->n);
	if (deb822_next(d, e) < 1)
		return err_set(e, -EINVAL, "the Release file is empty or malformed");
	if (!slice_is(deb822_get(d, "Codename"), suite))
		return err_set(e, -EKEYREJECTED,
			"the mirror answers with the suite " SLICE_FMT " for %s",
			SLICE_ARG(deb822_get(d, "Codename")), suite);
	until = deb822_get(d, "Valid-Until");
	memcpy(s, until.p ?: "", MIN(until.n, sizeof(s) - 1));
	if (until.n && strptime(s, "%a, %d %b %Y %H:%M:%S", &tm) && timegm(&tm) < time(NULL))
		return err_set(e, -EKEYREJECTED,
			"the mirror's Release file was valid until %s: "
			"name a mirror that is kept up to date with --mirror URL",
			s);
	return 0;
}

int pull_index(struct pull *p, const char *uri, const char *suite, char **xz, struct err *e)
{
	cleanup(free_ptr) char *name = text_fmt("main/binary-%s/Packages.xz", p->kind->arch);
	cleanup(free_ptr) char *rel = text_fmt("%s/InRelease-%s", p->work, suite);
	cleanup(buf_free) struct buf text = {0};
	bool own = p->o->keyring != NULL;
	struct keyrings keys = {p->o->keyring ?: p->mirror.keyring,
		own ? "" : "/usr/share/keyrings", own ? "" : "/etc/apt/trusted.gpg.d"};
	char sha[SHA256_HEX];
	unsigned long long size;
	int r;

	if (!rel || !name)
		return err_set(e, -ENOMEM, "out of memory");
	r = fetch_one(p, text_fmt("%s/dists/%s/InRelease", uri, suite), strdup(rel),
		strdup("InRelease"), NULL, 0, e);
	if (!r)
		r = verify_inrelease(rel, &keys, p->work, &text, e)
			    ?: check_release(&text, suite, e);
	if (!r)
		r = release_find(&text, name, sha, &size, e);
	if (r)
		return r;
	*xz = text_fmt("%s/index/%s.xz", p->dirs->cache, sha);
	if (!*xz)
		return err_set(e, -ENOMEM, "out of memory");
	/* By digest: the plain name may already be of a newer Release (Acquire-By-Hash, apt's wiki). */
	r = fetch_one(p,
		text_fmt("%s/dists/%s/main/binary-%s/by-hash/SHA256/%s", uri, suite, p->kind->arch,
			sha),
		strdup(*xz), strdup("package index"), sha, size, e);
	if (r == -ENOENT)
		r = fetch_one(p, text_fmt("%s/dists/%s/%s", uri, suite, name), strdup(*xz),
			strdup("package index"), sha, size, e);
	return r;
}

static int read_index(struct pull *p, struct err *e)
{
	cleanup(free_ptr) char *xz = NULL;
	cleanup(buf_free) struct buf pk = {0};
	size_t size;
	int r;

	r = pull_step(p, "index", 0, 0, e) ?: pull_index(p, p->mirror.uri, p->kind->suite, &xz, e);
	if (!r)
		r = unpack_file(xz, 512 * MiB, &pk, e);
	if (r)
		return r;
	size = pk.n;
	return pkgindex_parse(&p->index, steal_ptr(pk.p), size, e);
}

static const char *const *with_list(const char *with, char **mem)
{
	const char **v;
	size_t n = 0;

	*mem = strdup(with ?: "");
	v = calloc(strlen(with ?: "") + 2, sizeof(*v));
	if (!*mem || !v) {
		free(v);
		return NULL;
	}
	for (char *save, *s = strtok_r(*mem, ", ", &save); s; s = strtok_r(NULL, ", ", &save))
		v[n++] = s;
	return v;
}

static int choose(struct pull *p, struct err *e)
{
	static const char *const mini[] = {"busybox-static", NULL};
	const struct pkg *k = pull_kernel_pkg(p, e);
	cleanup(free_ptr) char *mem = NULL;
	cleanup(free_ptr) const char *const *with = NULL;
	cleanup(free_ptr) const char **names = NULL;
	struct pkgwant want = {0};
	size_t n = 0;

	if (!k)
		return -ENOENT;
	if (p->kind->mini) {
		if (p->o->root_password)
			return err_set(e, -EINVAL, "%s has no login, so no root password", p->name);
		if (p->o->with)
			return err_set(e, -EINVAL,
				"%s has no package manager: --with works with debian:trixie",
				p->name);
		want.names = mini;
		/* The kernel is taken apart, not installed: none of its dependencies are wanted. */
		if (pkgset_resolve(&p->set, &p->index, &want, e))
			return e ? e->code : -EINVAL;
		p->set.v[p->set.n++] = k;
		return 0;
	}
	with = with_list(p->o->with, &mem);
	names = calloc(256 + (p->o->with ? strlen(p->o->with) : 0), sizeof(*names));
	if (!with || !names)
		return err_set(e, -ENOMEM, "out of memory");
	names[n++] = pull_kernel_meta(p->kind);
	for (const char *const *s = recipe_debian_names; *s; s++)
		names[n++] = *s;
	for (const char *const *s = with; *s; s++)
		names[n++] = *s;
	want = (struct pkgwant){names, recipe_debian_without, true, true};
	return pkgset_resolve(&p->set, &p->index, &want, e);
}

static bool hex_digest(struct slice s)
{
	if (s.n != 64)
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (!s.p[i] || !strchr("0123456789abcdef", s.p[i]))
			return false;
	return true;
}

/* What the image is made from: everything that changes its content, but the root password. */
static int make_key(struct pull *p, struct err *e)
{
	cleanup(buf_free) struct buf b = {0};

	cleanup(buf_free) struct buf agent = {0};
	struct err none = {0};

	if (!agent_program(p->kind->arch, &agent, &none)) {
		sha256_mem(agent.p, agent.n, p->key);
		buf_fmt(&b, "agent %s\n", p->key);
	}
	buf_fmt(&b, "recipe %d %s %s %llu\n", RECIPE_VERSION, p->name, p->mirror.uri,
		(unsigned long long)p->o->disk_size);
	for (size_t i = 0; i < p->set.n; i++) {
		const struct pkg *k = p->set.v[i];

		if (!hex_digest(k->sha256))
			return err_set(e, -EINVAL, "the index has no SHA256 for package " SLICE_FMT,
				SLICE_ARG(k->name));
		buf_fmt(&b, SLICE_FMT "\n", SLICE_ARG(k->sha256));
	}
	/* busybox makes the initial RAM file system of disk images too, where it is not installed. */
	if (!pull_pkg(p, "busybox-static")) {
		const struct pkg *k = pkgindex_find(&p->index, slice_of("busybox-static"));

		if (!k || !hex_digest(k->sha256))
			return err_set(e, -ENOENT, "the mirror has no package busybox-static");
		buf_fmt(&b, SLICE_FMT "\n", SLICE_ARG(k->sha256));
	}
	sha256_mem(b.p, b.n, p->key);
	return buf_err(&b, e);
}

static bool path_ok(struct slice s)
{
	if (!s.p || !s.n || s.p[0] == '/')
		return false;
	return !memmem(s.p, s.n, "..", 2) && !memchr(s.p, '\n', s.n);
}

static int add_item(struct pull *p, struct fetch_item *it, const struct pkg *k, struct err *e)
{
	if (!path_ok(k->filename))
		return err_set(e, -EINVAL, "the index has no good Filename for package " SLICE_FMT,
			SLICE_ARG(k->name));
	it->url = text_fmt("%s/" SLICE_FMT, p->mirror.uri, SLICE_ARG(k->filename));
	it->path = pull_deb(p, k);
	it->what = text_fmt(
		"package " SLICE_FMT " " SLICE_FMT, SLICE_ARG(k->name), SLICE_ARG(k->version));
	memcpy(it->sha256, k->sha256.p, 64);
	it->size = k->size;
	return it->url && it->path && it->what ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int check_space(const struct pull *p, uint64_t fetch, struct err *e)
{
	struct statvfs v;
	uint64_t need = fetch, have;

	/* Unpacked once in a directory and once in the disk. */
	for (size_t i = 0; i < p->set.n; i++)
		need += !p->kind->mini ? 2 * p->set.v[i]->installed : 0;
	need += 64 * MiB;
	if (statvfs(p->dirs->cache, &v))
		return 0;
	have = (uint64_t)v.f_bavail * v.f_frsize;
	if (have >= need)
		return 0;
	return err_set(e, -ENOSPC,
		"%s: %llu MiB are needed for this image and %llu MiB are free: free some "
		"space, or put cache and images on another disk with XDG_CACHE_HOME and "
		"XDG_DATA_HOME",
		p->dirs->cache, (unsigned long long)(need / MiB), (unsigned long long)(have / MiB));
}

/* One process at a time fetches into the cache; the other waits and then finds the files there. */
static int lock_cache(struct pull *p, int *fd, struct err *e)
{
	cleanup(free_ptr) char *path = text_fmt("%s/.fetch.lock", p->dirs->cache);

	*fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
	if (*fd < 0)
		return err_sys(e, -errno, "open %s", path ?: "lock");
	while (flock(*fd, LOCK_EX | LOCK_NB)) {
		int r = pull_step(p, "wait", 0, 0, e);

		if (r)
			return r;
		usleep(200000);
	}
	return 0;
}

static int fetch_debs(struct pull *p, struct err *e)
{
	cleanup(close_fd) int lock = -1;
	const struct pkg *bb = pkgindex_find(&p->index, slice_of("busybox-static"));
	struct fetch_item *v = calloc(p->set.n + 1, sizeof(*v));
	uint64_t todo = 0;
	size_t n = 0;
	int r = v ? 0 : err_set(e, -ENOMEM, "out of memory");

	for (size_t i = 0; !r && i < p->set.n; i++)
		r = add_item(p, &v[n++], p->set.v[i], e);
	if (!r && !pull_pkg(p, "busybox-static"))
		r = add_item(p, &v[n++], bb, e);
	for (size_t i = 0; !r && i < n; i++)
		todo += access(v[i].path, F_OK) ? v[i].size : 0;
	if (!r)
		r = check_space(p, todo, e) ?: lock_cache(p, &lock, e);
	if (!r)
		r = fetch_all(v, n, PARALLEL, &p->o->progress, e);
	fetch_items_free(v, n);
	return r;
}

static int add_files(json_t *m, const char *dir, struct err *e)
{
	json_t *files = json_array();
	struct dirent **v = NULL;
	int n = scandir(dir, &v, NULL, alphasort), r = 0;

	for (int i = 0; i < n; i++) {
		cleanup(free_ptr) char *path = text_fmt("%s/%s", dir, v[i]->d_name);
		char sha[SHA256_HEX];
		struct stat st;

		if (!r && v[i]->d_name[0] != '.' && path && !stat(path, &st)) {
			/* A disk is 8 GiB of mostly holes, and its manifest says so: its digest would take a
			 * minute and prove nothing that e2fsck has not. */
			sha[0] = 0;
			if ((uint64_t)st.st_size <= GiB)
				r = sha256_file(path, sha, e);
			chmod(path, 0444);
			json_array_append_new(
				files, json_pack("{s:s, s:I, s:I, s:s}", "name", v[i]->d_name,
					       "size", (json_int_t)st.st_size, "allocated",
					       (json_int_t)st.st_blocks * 512, "sha256", sha));
		}
		free(v[i]);
	}
	free(v);
	json_object_set_new(m, "files", files);
	return r;
}

int pull_save_manifest(const char *dir, const json_t *m, struct err *e)
{
	cleanup(free_ptr) char *path = text_fmt("%s/manifest.json", dir);
	cleanup(free_ptr) char *text = json_dumps(m, JSON_INDENT(1));

	if (!path || !text)
		return err_set(e, -ENOMEM, "out of memory");
	return whole_file_write(path, text, strlen(text), 0444, true, e);
}

static int write_manifest(struct pull *p, json_t *m, struct err *e)
{
	json_t *pk = json_array();
	int r;

	for (size_t i = 0; i < p->set.n; i++) {
		const struct pkg *k = p->set.v[i];

		json_array_append_new(pk,
			json_pack("{s:s%, s:s%, s:s%}", "name", k->name.p, k->name.n, "version",
				k->version.p, k->version.n, "sha256", k->sha256.p, k->sha256.n));
	}
	r = add_files(m, p->out, e);
	json_object_set_new(m, "packages", pk);
	return r ?: pull_save_manifest(p->out, m, e);
}

static json_t *new_manifest(const struct pull *p)
{
	char when[32];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:i, s:s}", "format", 1, "name", p->name,
		"arch", p->kind->arch, "suite", p->kind->suite, "mirror", p->mirror.uri, "created",
		when, "recipe", RECIPE_VERSION, "key", p->key);
}

static int build(struct pull *p, const char *built, struct err *e)
{
	const struct pkg *k = pull_kernel_pkg(p, e);
	cleanup(free_ptr) char *deb = k ? pull_deb(p, k) : NULL;
	char sha[SHA256_HEX] = "";
	json_t *m;
	int r;

	if (!deb)
		return -ENOENT;
	memcpy(sha, k->sha256.p, 64);
	r = pull_step(p, "unpack", 0, 0, e) ?: dir_make(p->out, 0755, e);
	if (!r)
		r = kernel_load(&p->kernel, p->dirs->cache, deb, sha, p->kind->arch, e);
	if (r)
		return r;
	m = new_manifest(p);
	json_object_set_new(m, "kernel_release", json_string(p->kernel.release));
	r = !p->kind->mini ? recipe_debian(p, m, e) : recipe_mini(p, m, e);
	if (!r)
		r = write_manifest(p, m, e);
	json_decref(m);
	if (!r)
		r = dir_remove(built, e);
	if (!r && rename(p->out, built))
		r = err_sys(e, -errno, "rename %s", p->out);
	return r;
}

/* Results of the same name that newer packages have replaced. */
static void drop_old(const struct pull *p)
{
	cleanup(free_ptr) char *dir = text_fmt("%s/built", p->dirs->cache);
	struct dirent **v = NULL;
	int n = dir ? scandir(dir, &v, NULL, NULL) : -1;

	for (int i = 0; i < n; i++) {
		cleanup(free_ptr) char *path = text_fmt("%s/%s", dir, v[i]->d_name);
		json_t *m = path && v[i]->d_name[0] != '.' && strcmp(v[i]->d_name, p->key)
				    ? manifest_read(path, NULL)
				    : NULL;
		const char *name = json_string_value(json_object_get(m, "name"));

		if (name && !strcmp(name, p->name))
			dir_remove(path, NULL);
		json_decref(m);
		free(v[i]);
	}
	free(v);
}

static bool up_to_date(const struct pull *p)
{
	cleanup(free_ptr) char *dir = store_dir(p->dirs, p->name);
	json_t *m = dir && !p->o->force && !p->o->root_password ? manifest_read(dir, NULL) : NULL;
	const char *key = json_string_value(json_object_get(m, "key"));
	bool same = key && !strcmp(key, p->key) &&
		    !json_is_true(json_object_get(m, "root_password"));

	json_decref(m);
	return same;
}

static int make_dirs(struct pull *p, struct err *e)
{
	static const char *const sub[] = {"debs", "index", "kernel", "built", "making"};
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(sub); i++) {
		cleanup(free_ptr) char *s = text_fmt("%s/%s", p->dirs->cache, sub[i]);

		r = s ? dir_make(s, 0755, e) : err_set(e, -ENOMEM, "out of memory");
	}
	p->work = text_fmt("%s/making/%s", p->dirs->cache, p->name);
	for (char *c = p->work ? strrchr(p->work, '/') : NULL; c && *c; c++)
		if (*c == ':')
			*c = '-';
	p->out = p->work ? text_fmt("%s/out", p->work) : NULL;
	if (!r && !p->out)
		r = err_set(e, -ENOMEM, "out of memory");
	if (!r)
		r = dir_remove(p->work, e) ?: dir_make(p->work, 0700, e);
	return r;
}

static int pull_locked(struct pull *p, enum image_pulled *how, struct err *e)
{
	cleanup(free_ptr) char *built = NULL;
	cleanup(free_ptr) char *manifest = NULL;
	int r;

	r = make_dirs(p, e) ?: find_mirror(p, e) ?: read_index(p, e) ?: choose(p, e) ?: make_key(p, e);
	if (r)
		return r;
	*how = IMAGE_UP_TO_DATE;
	if (up_to_date(p))
		return 0;
	built = text_fmt("%s/built/%s", p->dirs->cache, p->key);
	manifest = text_fmt("%s/manifest.json", built);
	if (!built || !manifest)
		return err_set(e, -ENOMEM, "out of memory");
	*how = IMAGE_FROM_CACHE;
	if (p->o->force || access(manifest, F_OK)) {
		*how = IMAGE_BUILT;
		r = !p->kind->mini ? recipe_debian_check(p, e) : 0;
		r = r ?: fetch_debs(p, e) ?: build(p, built, e);
	}
	if (!r)
		r = pull_step(p, "publish", 0, 0, e);
	if (!r && p->o->root_password)
		r = recipe_password(p, built, e) ?: store_publish(p->dirs, p->name, p->out, e);
	else if (!r)
		r = store_publish(p->dirs, p->name, built, e);
	if (!r)
		drop_old(p);
	return r;
}

int image_pull(const struct image_dirs *d, const struct image_pull *o, enum image_pulled *how,
	struct err *e)
{
	cleanup(close_fd) int lock = -1;
	struct pull p = {.dirs = d, .o = o};
	int r;

	p.kind = image_kind(o->name, o->arch, e);
	if (!p.kind)
		return -ENOENT;
	p.name = p.kind->name;
	if (o->keyring && access(o->keyring, R_OK))
		return err_sys(e, -errno, "--keyring %s", o->keyring);
	r = store_lock(d, p.name, &lock, e);
	if (r)
		return r;
	r = pull_locked(&p, how, e);
	if (p.work)
		dir_remove(p.work, NULL);
	kernel_free(&p.kernel);
	pkgset_free(&p.set);
	pkgindex_free(&p.index);
	apt_mirror_free(&p.mirror);
	free(p.work);
	free(p.out);
	return r ? err_wrap(e, "image %s", p.name) : 0;
}
