#include "image/kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/apt/deb.h"

#define MODULE_MAX (64 * MiB)
#define NMOD_MAX 64

/* A change here must make old cache entries useless: it is part of their name. */
#define KERNEL_CACHE_VERSION 5

/* What guests of Lodge use, by file name without ".ko". Their dependencies are found. */
static const char *const wanted[] = {
	"button",
	"virtio_pci",
	"virtio_pci_modern_dev",
	"virtio_pci_legacy_dev",
	"virtio_blk",
	"virtio_net",
	"net_failover",
	"failover",
	"virtio_input",
	"evdev",
	"virtio_balloon",
	"virtio-rng",
	"virtio_scsi",
	"scsi_mod",
	"scsi_common",
	"ext4",
	"jbd2",
	"mbcache",
	"crc16",
	"crc32c_generic",
	"vsock",
	"vmw_vsock_virtio_transport",
	"vmw_vsock_virtio_transport_common",
};

struct extraction {
	const char *dir;
	char *release;
	const char *only; /* one further module (pass two), or NULL */
	bool kernel, modules;
};

static const char *base_of(const char *path)
{
	const char *s = strrchr(path, '/');

	return s ? s + 1 : path;
}

/* "virtio_blk.ko.xz" is `name`, with '-' and '_' the same. */
static bool is_module(const char *file, const char *name)
{
	size_t i;

	for (i = 0; name[i]; i++) {
		char a = file[i] == '-' ? '_' : file[i], b = name[i] == '-' ? '_' : name[i];

		if (a != b)
			return false;
	}
	return !strncmp(file + i, ".ko", 3);
}

static bool is_wanted(const struct extraction *x, const char *file)
{
	if (x->only)
		return is_module(file, x->only);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (is_module(file, wanted[i]))
			return true;
	return false;
}

static int save(struct archive *a, const char *dir, const char *name, struct err *e)
{
	cleanup(buf_free) struct buf b = {0}, plain = {0};
	cleanup(free_ptr) char *path = NULL;
	size_t n = strcspn(name, ".");
	bool module = strstr(name, ".ko") != NULL;
	int r;

	path = module ? text_fmt("%s/modules/%.*s.ko", dir, (int)n, name)
		      : text_fmt("%s/%s", dir, name);
	r = deb_read(a, 256 * MiB, &b, e);
	if (!r && module && b.n > 4 && memcmp(b.p, "\177ELF", 4))
		r = unpack_mem(b.p, b.n, MODULE_MAX, &plain, e);
	if (r)
		return err_wrap(e, "kernel package: %s", name);
	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	if (plain.n)
		return whole_file_write(path, plain.p, plain.n, 0644, false, e);
	return whole_file_write(path, b.p, b.n, 0644, false, e);
}

static int take_entry(
	void *ctx, struct archive *a, struct archive_entry *ent, const char *name, struct err *e)
{
	struct extraction *x = ctx;
	const char *base = base_of(name);

	if (archive_entry_filetype(ent) != AE_IFREG)
		return 0;
	if (!x->only && !strncmp(name, "boot/vmlinu", 11)) {
		const char *dash = strchr(base, '-');

		if (!dash || x->release)
			return 0;
		x->release = strdup(dash + 1);
		return x->release ? save(a, x->dir, "vmlinux", e) : -ENOMEM;
	}
	if (!x->only && !strncmp(name, "boot/config-", 12))
		return save(a, x->dir, "config", e);
	if (strstr(name, "/modules/") && strstr(base, ".ko") && is_wanted(x, base)) {
		int r;

		x->modules = true;
		archive_entry_set_pathname(ent, base);
		r = save(a, x->dir, base, e);
		return r ?: x->only != NULL;
	}
	return 0;
}

/* The value of depends= in a module's .modinfo: strings that end with 0 (kernel: scripts/mod/modpost.c). */
static struct slice modinfo(const struct buf *ko, const char *key)
{
	size_t k = strlen(key);
	const char *p = ko->p, *end = ko->p + ko->n;

	while (p && p < end && (p = memmem(p, (size_t)(end - p), key, k))) {
		if (p > ko->p && !p[-1])
			return (struct slice){p + k, strnlen(p + k, (size_t)(end - p) - k)};
		p++;
	}
	return (struct slice){0};
}

static void undash(char *s)
{
	for (; *s; s++)
		if (*s == '-')
			*s = '_';
}

static struct kmodule *find_mod(const struct kernel *k, const char *name)
{
	for (size_t i = 0; i < k->nmod; i++)
		if (!strcmp(k->mod[i].name, name))
			return &k->mod[i];
	return NULL;
}

static int read_deps(struct kernel *k, const char *file, struct err *e)
{
	cleanup(free_ptr) char *path = text_fmt("%s/modules/%s", k->dir, file);
	cleanup(buf_free) struct buf ko = {0}, deps = {0};
	struct kmodule *m = &k->mod[k->nmod];
	struct slice d;
	int r;

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	r = whole_file_read(path, MODULE_MAX, &ko, e);
	if (r)
		return r;
	d = modinfo(&ko, "depends=");
	buf_slice(&deps, d);
	/* ext4 asks for crc32c by a soft dependency on an alias: name the module that has it. */
	if (memmem(ko.p, ko.n, "softdep=pre: crypto-crc32c", 26) ||
		memmem(ko.p, ko.n, "softdep=pre: crc32c", 19))
		buf_str(&deps, d.n ? ",crc32c_generic" : "crc32c_generic");
	buf_add(&deps, "", 0);
	if (buf_err(&deps, e))
		return -ENOMEM;
	for (char *c = deps.p; *c; c++)
		if (*c == ',')
			*c = ' ';
	undash(deps.p);
	*m = (struct kmodule){.name = strndup(file, strcspn(file, ".")),
		.file = strdup(file),
		.deps = strdup(deps.p)};
	k->nmod++;
	if (!m->name || !m->file || !m->deps)
		return err_set(e, -ENOMEM, "out of memory");
	undash(m->name);
	return 0;
}

static int read_modules(struct kernel *k, struct err *e)
{
	cleanup(free_ptr) char *dir = text_fmt("%s/modules", k->dir);
	struct dirent **v = NULL;
	int n, r = 0;

	if (!dir)
		return err_set(e, -ENOMEM, "out of memory");
	n = scandir(dir, &v, NULL, alphasort);
	for (size_t i = 0; i < k->nmod; i++) {
		free(k->mod[i].name);
		free(k->mod[i].file);
		free(k->mod[i].deps);
	}
	k->nmod = 0;
	k->mod = k->mod ?: calloc(NMOD_MAX, sizeof(*k->mod));
	if (!k->mod)
		r = err_set(e, -ENOMEM, "out of memory");
	for (int i = 0; i < n; i++) {
		if (!r && strstr(v[i]->d_name, ".ko") && k->nmod < NMOD_MAX)
			r = read_deps(k, v[i]->d_name, e);
		free(v[i]);
	}
	free(v);
	return r;
}

/* Puts a module behind those that it needs. Circles do not exist among kernel modules; if they did, order stays. */
static void sort_modules(struct kernel *k)
{
	for (size_t round = 0; round < k->nmod; round++) {
		for (size_t i = 0; i < k->nmod; i++) {
			struct slice rest = slice_of(k->mod[i].deps), w;

			while (slice_word(&rest, &w)) {
				for (size_t j = i + 1; j < k->nmod; j++) {
					struct kmodule t = k->mod[j];

					if (!slice_is(w, t.name))
						continue;
					memmove(&k->mod[i + 1], &k->mod[i],
						(j - i) * sizeof(*k->mod));
					k->mod[i] = t;
					rest.n = 0;
					break;
				}
			}
		}
	}
}

/* The first dependency that is neither extracted nor part of the kernel; its name in `out`. */
static bool missing_dep(const struct kernel *k, char *out, size_t cap)
{
	for (size_t i = 0; i < k->nmod; i++) {
		struct slice rest = slice_of(k->mod[i].deps), w;

		while (slice_word(&rest, &w)) {
			snprintf(out, cap, SLICE_FMT, SLICE_ARG(w));
			if (!find_mod(k, out))
				return true;
		}
	}
	return false;
}

static int check_image(const char *dir, const char *arch, struct err *e)
{
	bool x86 = !strcmp(arch, "amd64");
	cleanup(free_ptr) char *path = text_fmt("%s/vmlinux", dir);
	cleanup(close_fd) int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	unsigned char h[0x210];

	/* Linux' Documentation/arch/riscv/boot-image-header.rst: magic2; arch/x86/boot.rst: header. */
	if (fd < 0 || read(fd, h, sizeof(h)) != sizeof(h) ||
		(x86 ? memcmp(h + 0x202, "HdrS", 4) : memcmp(h + 56, "RSC\005", 4)))
		return err_set(e, -ENOEXEC, "the kernel package has no %s in boot/",
			x86 ? "bzImage" : "RISC-V Image");
	return 0;
}

static int extract(
	struct kernel *k, const char *deb, const char *tmp, const char *arch, struct err *e)
{
	cleanup(free_ptr) char *mods = text_fmt("%s/modules", tmp);
	cleanup(free_ptr) char *rel = text_fmt("%s/release", tmp);
	struct extraction x = {.dir = tmp};
	char name[128];
	int r;

	if (!mods || !rel)
		return err_set(e, -ENOMEM, "out of memory");
	r = dir_remove(tmp, e) ?: dir_make(mods, 0755, e);
	if (!r)
		r = deb_walk(deb, DEB_DATA, take_entry, &x, e);
	if (!r && !x.release)
		r = err_set(e, -ENOEXEC, "the kernel package has no kernel in boot/");
	if (!r)
		r = check_image(tmp, arch, e);
	if (!r)
		r = whole_file_write(rel, x.release, strlen(x.release), 0644, false, e);
	free(x.release);
	k->dir = strdup(tmp);
	if (!r && !k->dir)
		r = err_set(e, -ENOMEM, "out of memory");
	if (!r)
		r = read_modules(k, e);
	/* The list above names the dependencies of today's kernel; another kernel may have others. */
	while (!r && missing_dep(k, name, sizeof(name))) {
		x = (struct extraction){.dir = tmp, .only = name};
		r = deb_walk(deb, DEB_DATA, take_entry, &x, e);
		if (!r && !x.modules)
			r = err_set(e, -ENOENT, "the kernel package has no module %s", name);
		if (!r)
			r = read_modules(k, e);
	}
	free(k->dir);
	k->dir = NULL;
	return r;
}

int kernel_load(struct kernel *k, const char *cache, const char *deb, const char *sha256,
	const char *arch, struct err *e)
{
	cleanup(free_ptr) char *dir = text_fmt(
		"%s/kernel/%s-%d", cache, sha256, KERNEL_CACHE_VERSION);
	cleanup(free_ptr) char *tmp = text_fmt("%s/kernel/%s.tmp%d", cache, sha256, (int)getpid());
	cleanup(free_ptr) char *rel = text_fmt("%s/release", dir ?: "");
	cleanup(buf_free) struct buf b = {0};
	int r = 0;

	*k = (struct kernel){0};
	if (!dir || !tmp || !rel)
		return err_set(e, -ENOMEM, "out of memory");
	if (access(rel, R_OK)) {
		r = extract(k, deb, tmp, arch, e);
		if (!r && rename(tmp, dir) && errno != EEXIST && errno != ENOTEMPTY)
			r = err_sys(e, -errno, "rename %s", tmp);
		dir_remove(tmp, NULL);
	}
	k->dir = strdup(dir);
	if (!r && !k->dir)
		r = err_set(e, -ENOMEM, "out of memory");
	if (!r)
		r = whole_file_read(rel, 256, &b, e);
	if (!r)
		r = read_modules(k, e);
	if (!r) {
		sort_modules(k);
		k->release = steal_ptr(b.p);
	}
	if (r)
		kernel_free(k);
	return r;
}

void kernel_free(struct kernel *k)
{
	for (size_t i = 0; i < k->nmod; i++) {
		free(k->mod[i].name);
		free(k->mod[i].file);
		free(k->mod[i].deps);
	}
	free(k->mod);
	free(k->dir);
	free(k->release);
	*k = (struct kernel){0};
}
