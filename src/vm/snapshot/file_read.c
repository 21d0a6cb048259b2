/* EVP's first use reads OpenSSL's configuration and sets up all of its algorithms, 2 ms: a restore does without (digest()). */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "vm/snapshot/file_priv.h"

static const char *const names[SNAPFILE_SECTIONS] = {[SNAPFILE_S_MANIFEST] = "manifest",
	[SNAPFILE_S_STATE] = "machine state",
	[SNAPFILE_S_RANGES] = "list of RAM",
	[SNAPFILE_S_PAGEMAP] = "index of pages",
	[SNAPFILE_S_DIGESTS] = "digests",
	[SNAPFILE_S_PAGES] = "pages",
	[SNAPFILE_S_PACKED] = "packed pages",
	[SNAPFILE_S_WORKING_SET] = "working set",
	[SNAPFILE_S_HOT_CODE] = "hot code"};

static int bad(struct err *e, const char *what)
{
	return err_set(e, -EBADMSG, "snapshot: damaged: %s", what);
}

/* Past the end of the file reads as what it is: an error. */
static int read_at(const struct snapfile *s, uint64_t off, void *buf, uint64_t len, struct err *e)
{
	for (char *p = buf; len;) {
		ssize_t n = pread(s->fd, p, MIN(len, 1 * GiB), (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, -errno, "snapshot: reading");
		if (!n)
			return bad(e, "the file is cut short");
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static void digest(const void *p, size_t len, uint8_t out[32])
{
	SHA256_CTX c;

	SHA256_Init(&c);
	SHA256_Update(&c, p, len);
	SHA256_Final(out, &c);
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* ---- header ---- */

static int check_entry(struct snapfile *s, const uint8_t *p, struct err *e)
{
	uint32_t type = get_le32(p);
	uint64_t off = get_le64(p + ENT_AT_OFF), len = get_le64(p + ENT_AT_LEN);

	if (!type || type >= SNAPFILE_SECTIONS)
		return err_set(e, -ENOTSUP,
			"snapshot: has a section of kind %u that this Lodge does not know: a newer "
			"one wrote it",
			type);
	if (s->section[type].off)
		return bad(e, "a section twice");
	if (off < HEAD_SIZE || off > s->size || len > s->size - off)
		return bad(e, "a section outside the file");
	s->section[type].off = off;
	s->section[type].len = len;
	memcpy(s->section[type].sha, p + ENT_AT_SHA, 32);
	return 0;
}

static int check_overlap(const struct snapfile *s, struct err *e)
{
	for (unsigned i = 1; i < SNAPFILE_SECTIONS; i++)
		for (unsigned j = 1; j < i; j++)
			if (s->section[i].len && s->section[j].len &&
				s->section[i].off < s->section[j].off + s->section[j].len &&
				s->section[j].off < s->section[i].off + s->section[i].len)
				return bad(e, "two sections overlap");
	return 0;
}

static int read_header(struct snapfile *s, struct err *e)
{
	uint8_t h[HEAD_SIZE], sha[32];
	struct stat st;
	uint32_t n;
	int rc;

	if (fstat(s->fd, &st))
		return err_sys(e, -errno, "snapshot");
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)HEAD_SIZE)
		return err_set(
			e, -EBADMSG, "snapshot: not a snapshot, or one that was never finished");
	rc = read_at(s, 0, h, sizeof(h), e);
	if (rc)
		return rc;
	if (all_zero(h, sizeof(h)))
		return err_set(e, -EBADMSG,
			"snapshot: was never finished: who wrote it was stopped in the middle");
	if (memcmp(h, HEAD_MAGIC, 8))
		return err_set(e, -EBADMSG, "snapshot: this is no snapshot of Lodge");
	if (get_le32(h + HEAD_AT_FORMAT) != SNAPFILE_FORMAT || get_le32(h + HEAD_AT_NEEDS))
		return err_set(e, -ENOTSUP,
			"snapshot: format %u with features %#x; this Lodge reads format %u",
			get_le32(h + HEAD_AT_FORMAT), get_le32(h + HEAD_AT_NEEDS), SNAPFILE_FORMAT);
	digest(h, HEAD_AT_DIGEST, sha);
	if (memcmp(sha, h + HEAD_AT_DIGEST, 32))
		return bad(e, "its header");
	s->size = get_le64(h + HEAD_AT_SIZE);
	s->pages = get_le64(h + HEAD_AT_PAGES);
	memcpy(s->id, h + HEAD_AT_ID, SNAPFILE_ID);
	memcpy(s->parent, h + HEAD_AT_PARENT, SNAPFILE_ID);
	n = get_le32(h + HEAD_AT_SECTIONS);
	if (get_le32(h + HEAD_AT_PAGE) != SNAPFILE_PAGE || n > HEAD_TABLE_MAX ||
		s->pages > PAGES_MAX)
		return bad(e, "impossible numbers in its header");
	if ((uint64_t)st.st_size < s->size)
		return bad(e, "the file is cut short");
	for (uint32_t i = 0; i < n; i++) {
		rc = check_entry(s, h + HEAD_AT_TABLE + i * ENT_SIZE, e);
		if (rc)
			return rc;
	}
	return check_overlap(s, e);
}

int snapfile_section(
	struct snapfile *s, enum snapfile_section type, char **out, size_t *len, struct err *e)
{
	uint64_t n = s->section[type].len;
	cleanup(free_ptr) char *buf = NULL;
	uint8_t sha[32];
	int rc;

	if (!s->section[type].off)
		return err_set(e, -ENOENT, "snapshot: has no %s", names[type]);
	if (section_is_pages(type) || n > (1ull << 34))
		return bad(e, "a section of impossible size");
	if ((type == SNAPFILE_S_MANIFEST && n > MANIFEST_MAX) ||
		(type == SNAPFILE_S_STATE && n > STATE_MAX))
		return bad(e, "a section of impossible size");
	buf = malloc(n + 1);
	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	rc = read_at(s, s->section[type].off, buf, n, e);
	if (rc)
		return rc;
	digest(buf, n, sha);
	if (memcmp(sha, s->section[type].sha, 32))
		return bad(e, names[type]);
	buf[n] = 0;
	*out = steal_ptr(buf);
	*len = n;
	return 0;
}

/* ---- ranges and index ---- */

static int read_ranges(struct snapfile *s, struct err *e)
{
	cleanup(free_ptr) char *buf = NULL;
	uint64_t end = 0, pages = 0;
	size_t len;
	int rc = snapfile_section(s, SNAPFILE_S_RANGES, &buf, &len, e);

	if (rc)
		return rc;
	if (len % RANGE_SIZE || len / RANGE_SIZE > SNAPFILE_RANGES_MAX)
		return bad(e, "its list of RAM");
	s->nranges = (unsigned)(len / RANGE_SIZE);
	for (unsigned i = 0; i < s->nranges; i++) {
		struct snapfile_range *r = &s->range[i];

		r->gpa = get_le64(buf + i * RANGE_SIZE);
		r->len = get_le64(buf + i * RANGE_SIZE + 8);
		if (!r->len || (r->gpa | r->len) % SNAPFILE_PAGE || r->gpa < end ||
			r->gpa + r->len < r->gpa)
			return bad(e, "its list of RAM");
		end = r->gpa + r->len;
		s->first_page[i] = pages;
		pages += r->len / SNAPFILE_PAGE;
	}
	return pages == s->pages ? 0 : bad(e, "its list of RAM");
}

static int read_pagemap(struct snapfile *s, struct err *e)
{
	cleanup(free_ptr) char *buf = NULL;
	uint64_t at = 0;
	size_t len;
	int rc = snapfile_section(s, SNAPFILE_S_PAGEMAP, &buf, &len, e);

	if (rc)
		return rc;
	if (len % RUN_SIZE)
		return bad(e, "its index of pages");
	s->nruns = len / RUN_SIZE;
	s->runs = calloc(s->nruns + 1, sizeof(*s->runs));
	if (!s->runs)
		return err_set(e, -ENOMEM, "snapshot: out of memory for its index");
	for (uint64_t i = 0; i < s->nruns; i++) {
		struct snapfile_run *r = &s->runs[i];

		r->first = get_le64(buf + i * RUN_SIZE);
		r->count = get_le32(buf + i * RUN_SIZE + 8);
		r->kind = get_le32(buf + i * RUN_SIZE + 12);
		if (!r->count || r->first < at || r->first > s->pages ||
			r->count > s->pages - r->first || !r->kind || r->kind >= SNAPFILE_KINDS)
			return bad(e, "its index of pages");
		if ((r->kind == SNAPFILE_RAW && !s->store) ||
			(r->kind == SNAPFILE_PARENT && !snapfile_has_parent(s)))
			return bad(e, "pages that this file cannot have");
		at = r->first + r->count;
	}
	return 0;
}

int snapfile_open(struct snapfile **out, int fd, struct err *e)
{
	struct snapfile *s = calloc(1, sizeof(*s));
	int rc;

	if (!s) {
		close(fd);
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	s->fd = fd;
	rc = read_header(s, e) ?: read_ranges(s, e);
	if (!rc && s->section[SNAPFILE_S_PAGES].off) {
		s->store = s->section[SNAPFILE_S_PAGES].off;
		if (s->store % SNAPFILE_PAGE ||
			s->section[SNAPFILE_S_PAGES].len != s->pages * SNAPFILE_PAGE)
			rc = bad(e, "its page store");
	}
	if (!rc)
		rc = read_pagemap(s, e);
	if (rc) {
		snapfile_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

int snapfile_open_path(struct snapfile **out, const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc = fd < 0 ? err_sys(e, -errno, "%s", path) : snapfile_open(out, fd, e);

	return rc && fd >= 0 ? err_wrap(e, "%s", path) : rc;
}

void snapfile_close(struct snapfile *s)
{
	if (!s)
		return;
	close(s->fd);
	free(s->runs);
	free(s);
}

bool snapfile_has_parent(const struct snapfile *s)
{
	return !all_zero(s->parent, sizeof(s->parent));
}

enum snapfile_kind snapfile_kind_of(const struct snapfile *s, uint64_t i)
{
	uint64_t lo = 0, hi = s->nruns;

	while (lo < hi) {
		uint64_t mid = (lo + hi) / 2;
		const struct snapfile_run *r = &s->runs[mid];

		if (i < r->first)
			hi = mid;
		else if (i >= r->first + r->count)
			lo = mid + 1;
		else
			return (enum snapfile_kind)r->kind;
	}
	return SNAPFILE_ZERO;
}

void snapfile_stat(const struct snapfile *s, struct snapfile_stat *st)
{
	*st = (struct snapfile_stat){.packed_bytes = s->section[SNAPFILE_S_PACKED].len};
	st->pages[SNAPFILE_ZERO] = s->pages;
	for (uint64_t i = 0; i < s->nruns; i++) {
		st->pages[s->runs[i].kind] += s->runs[i].count;
		st->pages[SNAPFILE_ZERO] -= s->runs[i].count;
	}
}

/* ---- packed pages ---- */

struct unpack {
	uint8_t raw[PACK_HEAD + 8 * SNAPFILE_PACK_MAX];
	uint8_t z[ZSTD_COMPRESSBOUND(SNAPFILE_PACK_MAX * SNAPFILE_PAGE) + 8];
	uint8_t flat[SNAPFILE_PACK_MAX * SNAPFILE_PAGE];
};

/* One record at *at; *at then is the next. */
static int unpack_record(struct snapfile *s, struct unpack *u, EVP_MD_CTX *md, uint64_t *at,
	uint64_t end, int (*fn)(void *, uint64_t, const void *, struct err *), void *ctx,
	struct err *e)
{
	uint32_t n, z;
	uint64_t body;
	int rc = end - *at < PACK_HEAD ? bad(e, "packed pages")
				       : read_at(s, *at, u->raw, PACK_HEAD, e);

	if (rc)
		return rc;
	n = get_le32(u->raw);
	z = get_le32(u->raw + 4);
	if (!n || n > SNAPFILE_PACK_MAX || !z || z > sizeof(u->z) - 8)
		return bad(e, "packed pages");
	body = align_up(8ull * n + z, 8);
	if (body > end - *at - PACK_HEAD)
		return bad(e, "packed pages");
	rc = read_at(s, *at + PACK_HEAD, u->raw + PACK_HEAD, 8ull * n, e)
		     ?: read_at(s, *at + PACK_HEAD + 8ull * n, u->z, body - 8ull * n, e);
	if (rc)
		return rc;
	EVP_DigestUpdate(md, u->raw, PACK_HEAD + 8ull * n);
	EVP_DigestUpdate(md, u->z, body - 8ull * n);
	if (ZSTD_decompress(u->flat, sizeof(u->flat), u->z, z) != (size_t)n * SNAPFILE_PAGE)
		return bad(e, "packed pages do not unpack");
	for (uint32_t i = 0; i < n; i++) {
		uint64_t page = get_le64(u->raw + PACK_HEAD + 8ull * i);

		if (page >= s->pages || snapfile_kind_of(s, page) != SNAPFILE_PACKED)
			return bad(e, "packed pages that its index does not know");
		rc = fn(ctx, page, u->flat + (size_t)i * SNAPFILE_PAGE, e);
		if (rc)
			return rc;
	}
	*at += PACK_HEAD + body;
	return 0;
}

int snapfile_unpack(struct snapfile *s,
	int (*fn)(void *ctx, uint64_t index, const void *page, struct err *e), void *ctx,
	struct err *e)
{
	uint64_t at = s->section[SNAPFILE_S_PACKED].off;
	uint64_t end = at + s->section[SNAPFILE_S_PACKED].len;
	struct unpack *u;
	EVP_MD_CTX *md;
	uint8_t sha[32];
	int rc = 0;

	if (at == end)
		return 0;
	u = malloc(sizeof(*u));
	md = EVP_MD_CTX_new();
	if (!u || !md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		rc = err_set(e, -ENOMEM, "snapshot: out of memory");
	while (!rc && at < end)
		rc = unpack_record(s, u, md, &at, end, fn, ctx, e);
	if (!rc) {
		EVP_DigestFinal_ex(md, sha, NULL);
		if (memcmp(sha, s->section[SNAPFILE_S_PACKED].sha, 32))
			rc = bad(e, "packed pages");
	}
	EVP_MD_CTX_free(md);
	free(u);
	return rc;
}

/* ---- verify ---- */

struct verify {
	struct snapfile *s;
	uint8_t *digests;
	uint64_t *before; /* of each run: how many digests come before it */
	EVP_MD *sha256;
	EVP_MD_CTX *md;
	uint8_t *seen; /* packed pages that were found, one bit each */
	uint64_t nseen;
	bool (*progress)(void *ctx, uint64_t done, uint64_t of);
	void *ctx;
	uint8_t buf[1 << 20];
};

static const uint8_t *digest_of(const struct verify *v, uint64_t page)
{
	for (uint64_t lo = 0, hi = v->s->nruns; lo < hi;) {
		uint64_t mid = (lo + hi) / 2;
		const struct snapfile_run *r = &v->s->runs[mid];

		if (page < r->first)
			hi = mid;
		else if (page >= r->first + r->count)
			lo = mid + 1;
		else
			return v->digests + SNAPFILE_DIGEST * (v->before[mid] + page - r->first);
	}
	return NULL;
}

static int check_page(struct verify *v, uint64_t page, const void *data, struct err *e)
{
	const uint8_t *want = digest_of(v, page);
	unsigned k = 0;
	uint8_t sha[32];

	if (!EVP_DigestInit_ex(v->md, v->sha256, NULL) ||
		!EVP_DigestUpdate(v->md, data, SNAPFILE_PAGE) ||
		!EVP_DigestFinal_ex(v->md, sha, NULL))
		return err_set(e, -ENOMEM, "snapshot: SHA-256 is not available");
	if (want && !memcmp(sha, want, SNAPFILE_DIGEST))
		return 0;
	while (k + 1 < v->s->nranges && v->s->first_page[k + 1] <= page)
		k++;
	return err_set(e, -EBADMSG, "snapshot: damaged: the page of guest memory at %#llx",
		(unsigned long long)(v->s->range[k].gpa +
				     (page - v->s->first_page[k]) * SNAPFILE_PAGE));
}

static int found_packed(void *ctx, uint64_t page, const void *data, struct err *e)
{
	struct verify *v = ctx;

	if (v->seen[page / 8] & 1 << (page % 8))
		return bad(e, "a packed page twice");
	v->seen[page / 8] |= (uint8_t)(1 << (page % 8));
	v->nseen++;
	return check_page(v, page, data, e);
}

/* [from, to) must read as zero. Holes are skipped where the file system says where they are. */
static int check_zero(struct verify *v, uint64_t from, uint64_t to, struct err *e)
{
	while (from < to) {
		off_t data = lseek(v->s->fd, (off_t)from, SEEK_DATA);
		uint64_t n;
		int rc;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data > (off_t)from)
			from = (uint64_t)data;
		if (from >= to)
			return 0;
		n = MIN(to - from, sizeof(v->buf));
		rc = read_at(v->s, from, v->buf, n, e);
		if (rc)
			return rc;
		if (!all_zero(v->buf, n))
			return err_set(e, -EBADMSG,
				"snapshot: damaged: bytes that belong to nothing at %#llx of the "
				"file",
				(unsigned long long)from);
		from += n;
	}
	return 0;
}

static int check_run(struct verify *v, const struct snapfile_run *r, uint64_t *done, struct err *e)
{
	struct snapfile *s = v->s;

	for (uint64_t i = 0; i < r->count;) {
		uint64_t n = MIN(r->count - i, sizeof(v->buf) / SNAPFILE_PAGE);
		int rc = read_at(
			s, s->store + (r->first + i) * SNAPFILE_PAGE, v->buf, n * SNAPFILE_PAGE, e);

		for (uint64_t k = 0; !rc && k < n; k++)
			rc = check_page(v, r->first + i + k, v->buf + k * SNAPFILE_PAGE, e);
		if (rc)
			return rc;
		i += n;
		*done += n;
		if (v->progress && !v->progress(v->ctx, *done, s->pages))
			return err_set(e, -ECANCELED, "snapshot: verify was stopped");
	}
	return 0;
}

/* Raw pages against their digests; what lies between them in the store must be holes. */
static int check_store(struct verify *v, struct err *e)
{
	struct snapfile *s = v->s;
	uint64_t at = 0, done = 0;
	int rc = 0;

	for (uint64_t i = 0; !rc && s->store && i < s->nruns; i++) {
		const struct snapfile_run *r = &s->runs[i];

		if (r->kind != SNAPFILE_RAW)
			continue;
		rc = check_zero(v, s->store + at * SNAPFILE_PAGE,
			     s->store + r->first * SNAPFILE_PAGE, e)
			     ?: check_run(v, r, &done, e);
		at = r->first + r->count;
	}
	if (!rc && s->store)
		rc = check_zero(
			v, s->store + at * SNAPFILE_PAGE, s->store + s->pages * SNAPFILE_PAGE, e);
	return rc;
}

/* What no section covers. */
static int check_gaps(struct verify *v, struct err *e)
{
	struct snapfile *s = v->s;
	uint64_t at = HEAD_SIZE;
	int rc = 0;

	while (!rc && at < s->size) {
		uint64_t next = s->size, end = s->size;

		for (unsigned i = 1; i < SNAPFILE_SECTIONS; i++)
			if (s->section[i].len && s->section[i].off >= at &&
				s->section[i].off < next) {
				next = s->section[i].off;
				end = next + s->section[i].len;
			}
		rc = check_zero(v, at, next, e);
		at = end;
	}
	return rc;
}

static int check_all(struct verify *v, struct err *e)
{
	struct snapfile *s = v->s;
	struct snapfile_stat st;
	char *text = NULL;
	uint64_t n = 0;
	off_t size = lseek(s->fd, 0, SEEK_END);
	size_t len;
	int rc = 0;

	if (size != (off_t)s->size)
		return bad(e, "there are bytes behind its end");
	snapfile_stat(s, &st);
	for (unsigned t = 1; !rc && t < SNAPFILE_SECTIONS; t++) {
		if (!s->section[t].off || section_is_pages(t) || t == SNAPFILE_S_PACKED)
			continue;
		rc = snapfile_section(s, (enum snapfile_section)t, &text, &len, e);
		if (!rc && t == SNAPFILE_S_DIGESTS)
			v->digests = (uint8_t *)text;
		else
			free(text);
		text = NULL;
	}
	if (!rc && (!v->digests || s->section[SNAPFILE_S_DIGESTS].len !=
					   SNAPFILE_DIGEST * (st.pages[SNAPFILE_RAW] +
								     st.pages[SNAPFILE_PACKED])))
		rc = bad(e, "its digests");
	if (rc)
		return rc;
	for (uint64_t i = 0; i < s->nruns; i++) {
		v->before[i] = n;
		n += s->runs[i].kind == SNAPFILE_PARENT ? 0 : s->runs[i].count;
	}
	rc = check_gaps(v, e) ?: check_store(v, e) ?: snapfile_unpack(s, found_packed, v, e);
	if (!rc && v->nseen != st.pages[SNAPFILE_PACKED])
		rc = bad(e, "packed pages are missing");
	return rc;
}

int snapfile_digests(struct snapfile *s,
	void (*fn)(void *ctx, uint64_t index, const uint8_t digest[SNAPFILE_DIGEST]), void *ctx,
	struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	struct snapfile_stat st;
	size_t len;
	int rc = snapfile_section(s, SNAPFILE_S_DIGESTS, &text, &len, e);
	const uint8_t *at = (const uint8_t *)text;

	snapfile_stat(s, &st);
	if (!rc && len != SNAPFILE_DIGEST * (st.pages[SNAPFILE_RAW] + st.pages[SNAPFILE_PACKED]))
		rc = bad(e, "its digests");
	for (uint64_t i = 0; !rc && i < s->nruns; i++) {
		const struct snapfile_run *r = &s->runs[i];

		for (uint64_t k = 0; k < r->count && r->kind != SNAPFILE_PARENT; k++) {
			fn(ctx, r->first + k, at);
			at += SNAPFILE_DIGEST;
		}
	}
	return rc;
}

int snapfile_verify(struct snapfile *s, bool (*progress)(void *ctx, uint64_t done, uint64_t of),
	void *ctx, struct err *e)
{
	struct verify *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	v->s = s;
	v->progress = progress;
	v->ctx = ctx;
	v->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	v->md = EVP_MD_CTX_new();
	v->before = calloc(s->nruns + 1, sizeof(*v->before));
	v->seen = calloc(s->pages / 8 + 1, 1);
	if (v->sha256 && v->md && v->before && v->seen)
		rc = check_all(v, e);
	else
		rc = err_set(e, -ENOMEM, "snapshot: out of memory");
	EVP_MD_CTX_free(v->md);
	EVP_MD_free(v->sha256);
	free(v->before);
	free(v->seen);
	free(v->digests);
	free(v);
	return rc;
}
