#include "image/apt/aptsrc.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "image/apt/deb822.h"

/* One parsed entry, whatever its format. */
struct entry {
	struct slice uri, suite, components, signed_by;
};

void apt_mirror_free(struct apt_mirror *m)
{
	free(m->uri);
	free(m->security);
	free(m->keyring);
	*m = (struct apt_mirror){0};
}

static bool has_word(struct slice list, const char *word)
{
	struct slice w;

	while (deb822_word(&list, &w))
		if (slice_is(w, word))
			return true;
	return false;
}

/* A Debian suite by its name: code names of the releases that apt of today may point at. */
static bool debian_suite(struct slice s, bool *security)
{
	static const char *const names[] = {"buster", "bullseye", "bookworm", "trixie", "forky",
		"duke", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"};
	static const char *const tails[] = {"", "-updates", "-backports", "-proposed-updates"};

	*security = false;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		size_t n = strlen(names[i]);
		struct slice tail;

		if (s.n < n || memcmp(s.p, names[i], n))
			continue;
		tail = (struct slice){s.p + n, s.n - n};
		if (slice_is(tail, "-security") || slice_is(tail, "/updates")) {
			*security = true;
			return true;
		}
		for (size_t k = 0; k < ARRAY_SIZE(tails); k++)
			if (slice_is(tail, tails[k]))
				return true;
	}
	return false;
}

static bool scheme_ok(struct slice u)
{
	static const char *const schemes[] = {"http://", "https://", "file:/"};

	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
		size_t n = strlen(schemes[i]);

		if (u.n > n && !memcmp(u.p, schemes[i], n))
			return true;
	}
	return false;
}

static void take_entry(struct apt_mirror *m, const struct entry *en)
{
	struct slice u = en->uri;
	bool security;

	if (!scheme_ok(u) || !debian_suite(en->suite, &security))
		return;
	if (!has_word(en->components, "main"))
		return;
	while (u.n && u.p[u.n - 1] == '/')
		u.n--;
	if (security) {
		if (!m->security)
			m->security = slice_dup(u);
		return;
	}
	if (m->uri)
		return;
	m->uri = slice_dup(u);
	/* Signed-By may also hold an armoured key or fingerprints: only a file is of use to gpgv. */
	if (en->signed_by.n && en->signed_by.p[0] == '/')
		m->keyring = slice_dup(en->signed_by);
}

/* "deb [opt=val ...] uri suite component..." */
static void parse_line(struct apt_mirror *m, struct slice line)
{
	struct entry en = {0};
	struct slice w;

	if (!slice_word(&line, &w) || !slice_is(w, "deb"))
		return;
	line = slice_trim(line);
	if (line.n && line.p[0] == '[') {
		const char *close = memchr(line.p, ']', line.n);
		struct slice opts;

		if (!close)
			return;
		opts = (struct slice){line.p + 1, (size_t)(close - line.p - 1)};
		line = (struct slice){close + 1, line.n - (size_t)(close + 1 - line.p)};
		while (slice_word(&opts, &w))
			if (w.n > 10 && !memcmp(w.p, "signed-by=", 10))
				en.signed_by = (struct slice){w.p + 10, w.n - 10};
	}
	if (!slice_word(&line, &en.uri) || !slice_word(&line, &en.suite))
		return;
	en.components = line;
	take_entry(m, &en);
}

static void parse_stanza(struct apt_mirror *m, const struct deb822 *d)
{
	struct slice uris = deb822_get(d, "URIs");
	struct slice enabled = deb822_get(d, "Enabled");
	struct slice signed_by = deb822_get(d, "Signed-By");
	struct entry en = {.components = deb822_get(d, "Components")};

	if (slice_is(enabled, "no") || slice_is(enabled, "false"))
		return;
	if (!has_word(deb822_get(d, "Types"), "deb"))
		return;
	deb822_word(&signed_by, &en.signed_by);
	while (deb822_word(&uris, &en.uri)) {
		struct slice suites = deb822_get(d, "Suites");

		while (deb822_word(&suites, &en.suite))
			take_entry(m, &en);
	}
}

void apt_mirror_parse(struct apt_mirror *m, const char *text, size_t n, bool one_line)
{
	struct deb822 d;
	struct slice rest = {text, n};

	if (!one_line) {
		deb822_init(&d, "sources", text, n);
		while (deb822_next(&d, NULL) > 0)
			parse_stanza(m, &d);
		return;
	}
	while (rest.n) {
		const char *nl = memchr(rest.p, '\n', rest.n);
		struct slice line = {rest.p, nl ? (size_t)(nl - rest.p) : rest.n};
		const char *hash;
		size_t used = line.n + (nl ? 1 : 0);

		rest = (struct slice){rest.p + used, rest.n - used};
		hash = line.n ? memchr(line.p, '#', line.n) : NULL;
		if (hash)
			line.n = (size_t)(hash - line.p);
		parse_line(m, line);
	}
}

static void parse_file(struct apt_mirror *m, const char *path, bool one_line)
{
	cleanup(buf_free) struct buf b = {0};

	/* A file that we may not read (credentials in it) is as good as absent. */
	if (!whole_file_read(path, MiB, &b, NULL))
		apt_mirror_parse(m, b.p, b.n, one_line);
}

static bool ends_with(const char *s, const char *tail)
{
	size_t n = strlen(s), t = strlen(tail);

	return n > t && !strcmp(s + n - t, tail);
}

int apt_mirror_find(struct apt_mirror *m, const char *etc_apt, struct err *e)
{
	cleanup(free_ptr) char *list = text_fmt("%s/sources.list", etc_apt);
	cleanup(free_ptr) char *dir = text_fmt("%s/sources.list.d", etc_apt);
	struct dirent **v = NULL;
	int n;

	*m = (struct apt_mirror){0};
	if (!list || !dir)
		return err_set(e, -ENOMEM, "out of memory");
	parse_file(m, list, true);
	n = scandir(dir, &v, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		cleanup(free_ptr) char *path = text_fmt("%s/%s", dir, v[i]->d_name);

		if (path && ends_with(v[i]->d_name, ".list"))
			parse_file(m, path, true);
		else if (path && ends_with(v[i]->d_name, ".sources"))
			parse_file(m, path, false);
		free(v[i]);
	}
	free(v);
	if (m->uri)
		return 0;
	return err_set(e, -ENOENT,
		"no Debian mirror in the apt configuration under %s: name one with --mirror URL",
		etc_apt);
}
