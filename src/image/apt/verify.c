#include "image/apt/verify.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/apt/deb822.h"
#include "image/run.h"

/* The base64 body of an armoured key file (RFC 4880 section 6.2), which gpgv itself does not read. */
static int dearmour(const struct buf *in, struct buf *out)
{
	const char *p = strstr(in->p ?: "", "\n\n"), *end;
	EVP_ENCODE_CTX *c;
	unsigned char *o;
	int n = 0, m = 0, r;

	if (!p || !strstr(in->p, "-----BEGIN PGP PUBLIC KEY BLOCK-----"))
		return -EINVAL;
	end = strstr(p, "\n=") ?: strstr(p, "\n-----END");
	if (!end)
		return -EINVAL;
	o = malloc((size_t)(end - p) + 64);
	c = EVP_ENCODE_CTX_new();
	if (!o || !c) {
		free(o);
		EVP_ENCODE_CTX_free(c);
		return -ENOMEM;
	}
	EVP_DecodeInit(c);
	r = EVP_DecodeUpdate(c, o, &n, (const unsigned char *)p, (int)(end - p + 1));
	if (r >= 0)
		EVP_DecodeFinal(c, o + n, &m);
	buf_add(out, o, (size_t)(n + m));
	free(o);
	EVP_ENCODE_CTX_free(c);
	return r < 0 ? -EINVAL : 0;
}

struct ringset {
	char *path[64];
	size_t n;
};

static void rings_free(struct ringset *rs)
{
	for (size_t i = 0; i < rs->n; i++)
		free(rs->path[i]);
}

/* Adds a key file; an armoured one is turned into a binary copy in the work directory. */
static void add_ring(struct ringset *rs, const char *path, const char *work)
{
	cleanup(buf_free) struct buf b = {0}, bin = {0};
	char *copy;

	if (rs->n == ARRAY_SIZE(rs->path) || whole_file_read(path, 4 * MiB, &b, NULL) || !b.n)
		return;
	if (strncmp(b.p, "-----BEGIN", 10)) {
		rs->path[rs->n] = strdup(path);
		rs->n += rs->path[rs->n] != NULL;
		return;
	}
	copy = text_fmt("%s/key-%zu.gpg", work, rs->n);
	if (copy && !dearmour(&b, &bin) && !whole_file_write(copy, bin.p, bin.n, 0600, false, NULL))
		rs->path[rs->n++] = steal_ptr(copy);
	free(copy);
}

static void find_rings(struct ringset *rs, const struct keyrings *k, const char *work)
{
	cleanup(free_ptr) char *main_ring = text_fmt("%s/debian-archive-keyring.gpg", k->share);
	struct dirent **v = NULL;
	int n;

	/* An entry of an older release may pin the keys of that release: Debian's own come along. */
	if (k->signed_by)
		add_ring(rs, k->signed_by, work);
	if (main_ring)
		add_ring(rs, main_ring, work);
	n = scandir(k->trusted, &v, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		const char *dot = strrchr(v[i]->d_name, '.');
		cleanup(free_ptr) char *p = text_fmt("%s/%s", k->trusted, v[i]->d_name);

		/* apt trusts these for every archive; for Debian's we want Debian's keys only. */
		if (p && dot && (!strcmp(dot, ".gpg") || !strcmp(dot, ".asc")) &&
			!strncmp(v[i]->d_name, "debian-archive-", 15))
			add_ring(rs, p, work);
		free(v[i]);
	}
	free(v);
}

struct verdict {
	unsigned int good, weak, bad; /* weak: of the good ones, by an expired or revoked key */
	char missing[64]; /* a key that nobody has */
};

static int on_status(void *ctx, const char *line)
{
	struct verdict *v = ctx;

	if (strncmp(line, "[GNUPG:] ", 9))
		return 0;
	line += 9;
	if (!strncmp(line, "VALIDSIG ", 9))
		v->good++;
	if (!strncmp(line, "EXPKEYSIG ", 10) || !strncmp(line, "REVKEYSIG ", 10))
		v->weak++;
	if (!strncmp(line, "BADSIG ", 7))
		v->bad++;
	if (!strncmp(line, "NO_PUBKEY ", 10))
		snprintf(v->missing, sizeof(v->missing), "%s", line + 10);
	return 0;
}

int verify_inrelease(const char *path, const struct keyrings *keys, const char *work,
	struct buf *out, struct err *e)
{
	cleanup(rings_free) struct ringset rs = {0};
	cleanup(free_ptr) char *plain = text_fmt("%s/Release", work);
	const char *argv[2 * ARRAY_SIZE(rs.path) + 8];
	struct verdict v = {0};
	struct run_opts o = {.argv = argv, .line = on_status, .ctx = &v, .timeout_s = 60};
	size_t n = 0;
	int status = 0, r;

	if (!plain)
		return err_set(e, -ENOMEM, "out of memory");
	find_rings(&rs, keys, work);
	if (!rs.n)
		return err_set(e, -ENOENT,
			"no keys of the Debian archive in %s or %s: "
			"apt-get install debian-archive-keyring",
			keys->share, keys->trusted);
	argv[n++] = "gpgv";
	argv[n++] = "--status-fd=1";
	argv[n++] = "--output";
	argv[n++] = plain;
	for (size_t i = 0; i < rs.n; i++) {
		argv[n++] = "--keyring";
		argv[n++] = rs.path[i];
	}
	argv[n++] = path;
	argv[n] = NULL;
	unlink(plain); /* gpgv does not overwrite */
	r = run_prog(&o, &status, e);
	if (r)
		return r;
	if (!v.good && !v.bad && v.missing[0])
		return err_set(e, -EKEYREJECTED,
			"%s is signed by key %s, which this host does not have: "
			"update debian-archive-keyring, or name another mirror with --mirror URL",
			path, v.missing);
	if (v.good <= v.weak || v.bad)
		return err_set(e, -EKEYREJECTED,
			"the signature of %s is not valid: the mirror or "
			"something on the way changed it; name another mirror with --mirror URL",
			path);
	return whole_file_read(plain, 16 * MiB, out, e);
}

int release_find(const struct buf *release, const char *name, char sha256[65],
	unsigned long long *size, struct err *e)
{
	cleanup(free_ptr) struct deb822 *d = malloc(sizeof(*d));
	struct slice list, hash, len, file;

	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	deb822_init(d, "Release", release->p, release->n);
	if (deb822_next(d, e) < 1)
		return err_set(e, -EINVAL, "the Release file is empty or malformed");
	list = deb822_get(d, "SHA256");
	while (slice_word(&list, &hash) && slice_word(&list, &len) && slice_word(&list, &file)) {
		char digits[24] = "";

		if (!slice_is(file, name) || hash.n != 64 || len.n >= sizeof(digits))
			continue;
		memcpy(digits, len.p, len.n);
		memcpy(sha256, hash.p, 64);
		sha256[64] = 0;
		for (int i = 0; i < 64; i++) {
			if (!isxdigit((unsigned char)sha256[i]))
				return err_set(e, -EINVAL, "Release: digest of %s", name);
			sha256[i] = (char)tolower((unsigned char)sha256[i]);
		}
		*size = strtoull(digits, NULL, 10);
		return 0;
	}
	return err_set(e, -ENOENT,
		"the mirror has no %s in this suite: name a full mirror with --mirror URL", name);
}
