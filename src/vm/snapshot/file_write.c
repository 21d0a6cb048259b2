#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "vm/snapshot/file_priv.h"

/*
 * Bytes that one call hands to the host. It makes one piece of its page cache of them, as large as that, and fills it without letting go of the processor (where
 * kernels are not preemptible): 256 KiB of memory that it had not used before took it 18 ms, in which a vCPU waited for that processor; 32 KiB 0.2 ms, and less in all.
 */
#define WRITE_AT_ONCE (32u * 1024)
#define KIND_LATER SNAPFILE_KINDS /* in the page store; its digest is still to be made */

struct entry {
	unsigned type;
	uint64_t off, len;
	uint8_t sha[32];
};

struct snapfile_writer {
	int fd;
	struct snapfile_range range[SNAPFILE_RANGES_MAX];
	unsigned nranges;
	uint64_t pages, store;
	uint8_t id[SNAPFILE_ID], parent[SNAPFILE_ID];
	uint8_t *kind; /* of each page */
	uint8_t (*digest)[SNAPFILE_DIGEST];
	uint64_t at; /* end of the file so far */
	uint64_t packed_off;
	EVP_MD_CTX *packed_sha;
	EVP_MD *sha256;
	struct entry sections[HEAD_TABLE_MAX];
	unsigned nsections;
	bool no_store;
};

/* From many places, of which each is a page at most, or there is one; changes iov. */
static int write_from(struct snapfile_writer *w, uint64_t off, struct iovec *iov, unsigned n)
{
	while (n) {
		unsigned some = MIN(n, WRITE_AT_ONCE / SNAPFILE_PAGE);
		ssize_t got = pwritev(w->fd, iov, (int)some, (off_t)off);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -ENOSPC;
		off += (uint64_t)got;
		for (; n && (size_t)got >= iov->iov_len; iov++, n--)
			got -= (ssize_t)iov->iov_len;
		if (n) {
			iov->iov_base = (char *)iov->iov_base + got;
			iov->iov_len -= (size_t)got;
		}
	}
	return 0;
}

static int write_at(struct snapfile_writer *w, uint64_t off, const void *buf, uint64_t len)
{
	int rc = 0;

	for (uint64_t at = 0; !rc && at < len; at += WRITE_AT_ONCE) {
		struct iovec iov = {(char *)(uintptr_t)buf + at, MIN(len - at, WRITE_AT_ONCE)};

		rc = write_from(w, off + at, &iov, 1);
	}
	return rc;
}

static int failed(int rc, const char *what, struct err *e)
{
	return err_sys(e, rc, "snapshot: writing %s", what);
}

int snapfile_writer_create(
	struct snapfile_writer **out, const struct snapfile_writer_opts *o, struct err *e)
{
	struct snapfile_writer *w = calloc(1, sizeof(*w));

	if (!w || o->nranges > SNAPFILE_RANGES_MAX)
		goto no_memory;
	w->fd = o->fd;
	w->nranges = o->nranges;
	w->no_store = o->no_store;
	for (unsigned i = 0; i < o->nranges; i++) {
		w->range[i] = o->ranges[i];
		w->pages += o->ranges[i].len / SNAPFILE_PAGE;
	}
	if (o->parent)
		memcpy(w->parent, o->parent, SNAPFILE_ID);
	if (o->id)
		memcpy(w->id, o->id, SNAPFILE_ID);
	else if (getrandom(w->id, SNAPFILE_ID, 0) != SNAPFILE_ID)
		goto no_memory;
	w->kind = calloc(w->pages ?: 1, 1);
	w->digest = calloc(w->pages ?: 1, SNAPFILE_DIGEST);
	w->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	w->packed_sha = EVP_MD_CTX_new();
	if (!w->kind || !w->digest || !w->sha256 || !w->packed_sha ||
		!EVP_DigestInit_ex(w->packed_sha, w->sha256, NULL))
		goto no_memory;
	w->store = align_up(HEAD_SIZE, o->store_align ?: SNAPFILE_STORE_ALIGN);
	w->at = w->no_store ? HEAD_SIZE : w->store + w->pages * SNAPFILE_PAGE;
	w->packed_off = w->at;
	*out = w;
	return 0;
no_memory:
	snapfile_writer_free(w);
	return err_set(e, -ENOMEM, "snapshot: out of memory");
}

void snapfile_writer_free(struct snapfile_writer *w)
{
	if (!w)
		return;
	EVP_MD_CTX_free(w->packed_sha);
	EVP_MD_free(w->sha256);
	free(w->kind);
	free(w->digest);
	free(w);
}

uint64_t snapfile_writer_pages(const struct snapfile_writer *w)
{
	return w->pages;
}

static bool is_zero(const uint8_t *p)
{
	const uint64_t *q = (const uint64_t *)(const void *)p;

	return !q[0] && !memcmp(p, p + 8, SNAPFILE_PAGE - 8);
}

static bool digest_page(
	EVP_MD_CTX *md, const EVP_MD *sha256, const void *page, uint8_t digest[SNAPFILE_DIGEST])
{
	uint8_t sha[32];

	if (!EVP_DigestInit_ex(md, sha256, NULL) || !EVP_DigestUpdate(md, page, SNAPFILE_PAGE) ||
		!EVP_DigestFinal_ex(md, sha, NULL))
		return false;
	memcpy(digest, sha, SNAPFILE_DIGEST);
	return true;
}

int snapfile_put(struct snapfile_writer *w, uint64_t first, unsigned n, const void *const *pages,
	bool later, struct err *e)
{
	EVP_MD_CTX *md = later ? NULL : EVP_MD_CTX_new();
	struct iovec iov[SNAPFILE_PUT_MAX];
	int rc = md || later ? 0 : -ENOMEM;

	if (w->no_store || n > SNAPFILE_PUT_MAX || first > w->pages || n > w->pages - first) {
		EVP_MD_CTX_free(md);
		return err_set(e, -EINVAL, "snapshot: page %llu has no place in this file",
			(unsigned long long)first);
	}
	for (uint64_t i = 0, run; !rc && i < n; i += run + 1) {
		for (run = 0; i + run < n && !is_zero(pages[i + run]); run++) {
			uint64_t page = first + i + run;

			iov[run] = (struct iovec){(void *)(uintptr_t)pages[i + run], SNAPFILE_PAGE};
			w->kind[page] = later ? KIND_LATER : SNAPFILE_RAW;
			if (md && !digest_page(md, w->sha256, pages[i + run], w->digest[page]))
				rc = -ENOMEM;
		}
		rc = rc ?: write_from(w, w->store + (first + i) * SNAPFILE_PAGE, iov, run);
	}
	EVP_MD_CTX_free(md);
	return rc ? failed(rc, "pages", e) : 0;
}

/* What snapfile_put() left for later. */
static int digest_later(struct snapfile_writer *w, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = malloc((size_t)SNAPFILE_PUT_MAX * SNAPFILE_PAGE);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	int rc = buf && md ? 0 : -ENOMEM;

	for (uint64_t i = 0, run; !rc && i < w->pages; i += run + 1) {
		for (run = 0; i + run < w->pages && run < SNAPFILE_PUT_MAX &&
			      w->kind[i + run] == KIND_LATER;)
			run++;
		if (run && pread(w->fd, buf, run * SNAPFILE_PAGE,
				   (off_t)(w->store + i * SNAPFILE_PAGE)) !=
				   (ssize_t)(run * SNAPFILE_PAGE))
			rc = -EIO;
		for (uint64_t k = 0; !rc && k < run; k++) {
			if (!digest_page(md, w->sha256, buf + k * SNAPFILE_PAGE, w->digest[i + k]))
				rc = -ENOMEM;
			w->kind[i + k] = SNAPFILE_RAW;
		}
		run -= run == SNAPFILE_PUT_MAX;
	}
	EVP_MD_CTX_free(md);
	return rc ? failed(rc, "digests of pages", e) : 0;
}

void snapfile_put_parent(struct snapfile_writer *w, uint64_t first, uint64_t n)
{
	for (uint64_t i = first; i < first + n && i < w->pages; i++)
		if (w->kind[i] == SNAPFILE_ZERO)
			w->kind[i] = SNAPFILE_PARENT;
}

/* ---- packed records ---- */

/* A record as pack hands it to put_packed: the digests travel in front of what is written. */
struct rec {
	uint32_t n, len; /* len: of what follows the digests */
	uint8_t digest[SNAPFILE_PACK_MAX][SNAPFILE_DIGEST];
	uint8_t data[];
};

struct snapfile_pack {
	ZSTD_CCtx *z;
	EVP_MD_CTX *md;
	EVP_MD *sha256;
	int level;
	uint8_t *flat;
};

size_t snapfile_pack_bound(void)
{
	return sizeof(struct rec) + PACK_HEAD + 8 * SNAPFILE_PACK_MAX +
	       ZSTD_COMPRESSBOUND((size_t)SNAPFILE_PACK_MAX * SNAPFILE_PAGE) + 8;
}

int snapfile_pack_create(struct snapfile_pack **out, int level, struct err *e)
{
	struct snapfile_pack *p = calloc(1, sizeof(*p));

	if (p) {
		p->z = ZSTD_createCCtx();
		p->md = EVP_MD_CTX_new();
		p->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
		p->flat = malloc((size_t)SNAPFILE_PACK_MAX * SNAPFILE_PAGE);
		p->level = level;
	}
	if (!p || !p->z || !p->md || !p->sha256 || !p->flat) {
		snapfile_pack_free(p);
		return err_set(e, -ENOMEM, "snapshot: out of memory for compression");
	}
	*out = p;
	return 0;
}

void snapfile_pack_free(struct snapfile_pack *p)
{
	if (!p)
		return;
	ZSTD_freeCCtx(p->z);
	EVP_MD_CTX_free(p->md);
	EVP_MD_free(p->sha256);
	free(p->flat);
	free(p);
}

int snapfile_pack(struct snapfile_pack *p, const uint64_t *index, const void *const *pages,
	unsigned n, void *out)
{
	struct rec *r = out;
	uint8_t *at = r->data + PACK_HEAD;
	size_t z, whole;

	if (n > SNAPFILE_PACK_MAX)
		return -EINVAL;
	r->n = 0;
	for (unsigned i = 0; i < n; i++) {
		if (is_zero(pages[i]))
			continue;
		if (!digest_page(p->md, p->sha256, pages[i], r->digest[r->n]))
			return -ENOMEM;
		memcpy(p->flat + (size_t)r->n * SNAPFILE_PAGE, pages[i], SNAPFILE_PAGE);
		put_le64(at + 8 * r->n, index[i]);
		r->n++;
	}
	at += 8 * (size_t)r->n;
	z = ZSTD_compressCCtx(p->z, at,
		ZSTD_COMPRESSBOUND((size_t)SNAPFILE_PACK_MAX * SNAPFILE_PAGE), p->flat,
		(size_t)r->n * SNAPFILE_PAGE, p->level);
	if (ZSTD_isError(z))
		return -EIO;
	put_le32(r->data, r->n);
	put_le32(r->data + 4, (uint32_t)z);
	whole = align_up(PACK_HEAD + 8 * (size_t)r->n + z, 8);
	memset(at + z, 0, whole - (PACK_HEAD + 8 * (size_t)r->n + z));
	r->len = (uint32_t)whole;
	return (int)(sizeof(*r) + whole);
}

int snapfile_put_packed(struct snapfile_writer *w, const void *rec, size_t len, struct err *e)
{
	const struct rec *r = rec;
	int rc;

	if (!r->n)
		return 0;
	rc = write_at(w, w->at, r->data, r->len);
	if (rc)
		return failed(rc, "packed pages", e);
	EVP_DigestUpdate(w->packed_sha, r->data, r->len);
	w->at += r->len;
	for (unsigned i = 0; i < r->n; i++) {
		uint64_t page = get_le64(r->data + PACK_HEAD + 8 * (size_t)i);

		if (page >= w->pages)
			return err_set(e, -EINVAL, "snapshot: packed page out of range");
		memcpy(w->digest[page], r->digest[i], SNAPFILE_DIGEST);
		w->kind[page] = SNAPFILE_PACKED;
	}
	return 0;
}

/* ---- the end ---- */

int snapfile_put_section(struct snapfile_writer *w, enum snapfile_section type, const void *buf,
	size_t len, struct err *e)
{
	struct entry *s;
	int rc;

	/* The packed pages end where the first section begins. */
	if (!w->nsections) {
		s = &w->sections[w->nsections++];
		*s = (struct entry){SNAPFILE_S_PACKED, w->packed_off, w->at - w->packed_off, {0}};
		EVP_DigestFinal_ex(w->packed_sha, s->sha, NULL);
	}
	if (w->nsections == HEAD_TABLE_MAX)
		return err_set(e, -E2BIG, "snapshot: too many sections");
	s = &w->sections[w->nsections++];
	*s = (struct entry){type, align_up(w->at, 64), len, {0}};
	EVP_Digest(buf, len, s->sha, NULL, w->sha256, NULL);
	rc = write_at(w, s->off, buf, len);
	if (rc)
		return failed(rc, "its description", e);
	w->at = s->off + len;
	return 0;
}

static int put_ranges(struct snapfile_writer *w, struct err *e)
{
	uint8_t buf[SNAPFILE_RANGES_MAX * RANGE_SIZE];

	for (unsigned i = 0; i < w->nranges; i++) {
		put_le64(buf + i * RANGE_SIZE, w->range[i].gpa);
		put_le64(buf + i * RANGE_SIZE + 8, w->range[i].len);
	}
	return snapfile_put_section(w, SNAPFILE_S_RANGES, buf, w->nranges * RANGE_SIZE, e);
}

static int put_pagemap(struct snapfile_writer *w, struct err *e)
{
	cleanup(free_ptr) uint8_t *runs = NULL;
	uint64_t n = 0;

	for (int pass = 0; pass < 2; pass++) {
		if (pass && !(runs = malloc(n * RUN_SIZE + 1)))
			return err_set(e, -ENOMEM, "snapshot: out of memory for its index");
		n = 0;
		for (uint64_t i = 0, k; i < w->pages; i = k) {
			for (k = i + 1;
				k < w->pages && w->kind[k] == w->kind[i] && k - i < UINT32_MAX;)
				k++;
			if (w->kind[i] == SNAPFILE_ZERO)
				continue;
			if (pass) {
				put_le64(runs + n * RUN_SIZE, i);
				put_le32(runs + n * RUN_SIZE + 8, (uint32_t)(k - i));
				put_le32(runs + n * RUN_SIZE + 12, w->kind[i]);
			}
			n++;
		}
	}
	return snapfile_put_section(w, SNAPFILE_S_PAGEMAP, runs, n * RUN_SIZE, e);
}

static bool has_digest(const struct snapfile_writer *w, uint64_t i)
{
	return w->kind[i] == SNAPFILE_RAW || w->kind[i] == SNAPFILE_PACKED;
}

static int put_digests(struct snapfile_writer *w, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = NULL;
	uint64_t n = 0, at = 0;

	for (uint64_t i = 0; i < w->pages; i++)
		n += has_digest(w, i);
	buf = malloc(n * SNAPFILE_DIGEST + 1);
	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory for its digests");
	for (uint64_t i = 0; i < w->pages; i++)
		if (has_digest(w, i))
			memcpy(buf + SNAPFILE_DIGEST * at++, w->digest[i], SNAPFILE_DIGEST);
	return snapfile_put_section(w, SNAPFILE_S_DIGESTS, buf, at * SNAPFILE_DIGEST, e);
}

static void make_header(struct snapfile_writer *w, uint8_t *h)
{
	memset(h, 0, HEAD_SIZE);
	memcpy(h, HEAD_MAGIC, 8);
	put_le32(h + HEAD_AT_FORMAT, SNAPFILE_FORMAT);
	put_le32(h + HEAD_AT_SECTIONS, w->nsections);
	put_le32(h + HEAD_AT_PAGE, SNAPFILE_PAGE);
	put_le64(h + HEAD_AT_SIZE, w->at);
	put_le64(h + HEAD_AT_PAGES, w->pages);
	memcpy(h + HEAD_AT_ID, w->id, SNAPFILE_ID);
	memcpy(h + HEAD_AT_PARENT, w->parent, SNAPFILE_ID);
	for (unsigned i = 0; i < w->nsections; i++) {
		uint8_t *p = h + HEAD_AT_TABLE + i * ENT_SIZE;

		put_le32(p, w->sections[i].type);
		put_le64(p + ENT_AT_OFF, w->sections[i].off);
		put_le64(p + ENT_AT_LEN, w->sections[i].len);
		memcpy(p + ENT_AT_SHA, w->sections[i].sha, 32);
	}
	EVP_Digest(h, HEAD_AT_DIGEST, h + HEAD_AT_DIGEST, NULL, w->sha256, NULL);
}

int snapfile_finish(struct snapfile_writer *w, struct err *e)
{
	uint8_t head[HEAD_SIZE];
	int rc = digest_later(w, e) ?: put_ranges(w, e) ?: put_pagemap(w, e) ?: put_digests(w, e);

	if (rc)
		return rc;
	if (!w->no_store) {
		if (w->nsections == HEAD_TABLE_MAX)
			return err_set(e, -E2BIG, "snapshot: too many sections");
		w->sections[w->nsections++] = (struct entry){
			SNAPFILE_S_PAGES, w->store, w->pages * SNAPFILE_PAGE, {0}};
	}
	/* A section of no bytes at the very end would lie beyond the file. */
	if (ftruncate(w->fd, (off_t)w->at) || fdatasync(w->fd))
		return failed(-errno, "it to the medium", e);
	make_header(w, head);
	rc = write_at(w, 0, head, sizeof(head));
	if (!rc && fsync(w->fd))
		rc = -errno;
	return rc ? failed(rc, "its header", e) : 0;
}
