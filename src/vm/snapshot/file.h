/*
 * file.h: the snapshot container: one file that holds a machine at one moment.
 *
 *   header | page store: mapped straight at restore | packed pages | pagemap, digests, state, manifest, ...
 *
 * docs/snapshot-format.md is the specification. In short: a page of RAM has a fixed place in the page store, so a restore is one
 * mmap for each range of RAM; pages that are all zero are holes. Pages that a writer under pressure has compressed are
 * in the section of packed pages instead and are put over the map. The header is written last: a file
 * without one was never finished. Every byte is covered by a digest, or must be zero.
 *
 * Pages are numbered from 0 over all ranges of RAM, in address order.
 *
 * Threads: a writer or a reader belongs to one thread at a time, but for what is said at snapfile_put(). Descriptors are borrowed. Errors: -EBADMSG (not ours, cut, damaged,
 * never finished), -ENOTSUP (newer), -ENOMEM, what the host says of the file.
 */
#ifndef LODGE_VM_SNAPSHOT_FILE_H
#define LODGE_VM_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPFILE_FORMAT 1u
#define SNAPFILE_RANGES_MAX 64
#define SNAPFILE_PAGE 4096u
#define SNAPFILE_ID 16
#define SNAPFILE_DIGEST 16 /* of a page: the first half of its SHA-256 */
#define SNAPFILE_PACK_MAX 64 /* pages in one packed record */
#define SNAPFILE_PUT_MAX 64 /* pages in one call */
#define SNAPFILE_STORE_ALIGN (2ull << 20)

struct err;

/* What a page is in this file. */
enum snapfile_kind {
	SNAPFILE_ZERO, /* not there: all zero */
	SNAPFILE_RAW, /* in its place in the page store */
	SNAPFILE_PACKED, /* in a packed record */
	SNAPFILE_PARENT, /* as in the parent */
	SNAPFILE_KINDS
};

enum snapfile_section {
	SNAPFILE_S_MANIFEST = 1, /* JSON: what this is, of which machine */
	SNAPFILE_S_STATE, /* base/state.h */
	SNAPFILE_S_RANGES,
	SNAPFILE_S_PAGEMAP,
	SNAPFILE_S_DIGESTS,
	SNAPFILE_S_PAGES,
	SNAPFILE_S_PACKED,
	SNAPFILE_S_WORKING_SET, /* runs of pages in the order of their first use */
	SNAPFILE_S_HOT_CODE, /* guest-physical addresses of translated code, hottest first */
	SNAPFILE_SECTIONS
};

struct snapfile_range {
	uint64_t gpa, len; /* bytes, whole pages */
};

/* A run of pages of one kind; also of the working set, where `kind` is 0 (read) or 1 (written). */
struct snapfile_run {
	uint64_t first;
	uint32_t count, kind;
};

struct snapfile_stat {
	uint64_t pages[SNAPFILE_KINDS];
	uint64_t packed_bytes;
};

/* ---- writing ---- */

struct snapfile_writer;
struct snapfile_writer_opts {
	int fd; /* empty, readable and writable */
	const struct snapfile_range *ranges;
	unsigned nranges;
	uint64_t store_align; /* of the page store in the file; 0: SNAPFILE_STORE_ALIGN */
	bool no_store; /* pages only come packed: for export */
	const uint8_t *id; /* NULL: a new one */
	const uint8_t *parent; /* id, or NULL */
};
int snapfile_writer_create(
	struct snapfile_writer **out, const struct snapfile_writer_opts *o, struct err *e);
void snapfile_writer_free(struct snapfile_writer *w);
uint64_t snapfile_writer_pages(const struct snapfile_writer *w);

/*
 * n pages from number `first` on; those that are zero become holes. Each page at most once. Any number of threads at a time. `later`: their
 * digests are made by snapfile_finish(), which reads the pages back; for callers that somebody waits for.
 */
int snapfile_put(struct snapfile_writer *w, uint64_t first, unsigned n, const void *const *pages,
	bool later, struct err *e);
/*
 * A packed record in two steps, which may be in two threads: pack compresses (returns the bytes of *rec that are used, or
 * a negative errno), put_packed writes (one thread, beside those in snapfile_put()). Pages that are zero are left out. `rec` has
 * snapfile_pack_bound() bytes.
 */
size_t snapfile_pack_bound(void);
struct snapfile_pack;
int snapfile_pack(struct snapfile_pack *p, const uint64_t *index, const void *const *pages,
	unsigned n, void *rec);
int snapfile_pack_create(struct snapfile_pack **out, int level, struct err *e);
void snapfile_pack_free(struct snapfile_pack *p);
int snapfile_put_packed(struct snapfile_writer *w, const void *rec, size_t len, struct err *e);
/* n pages from `first` on are as in the parent. */
void snapfile_put_parent(struct snapfile_writer *w, uint64_t first, uint64_t n);
/* One of MANIFEST, STATE, WORKING_SET, HOT_CODE; after all pages. */
int snapfile_put_section(struct snapfile_writer *w, enum snapfile_section type, const void *buf,
	size_t len, struct err *e);
/* Index, digests, then everything to the medium, then the header, to the medium as well. */
int snapfile_finish(struct snapfile_writer *w, struct err *e);

/* ---- reading ---- */

struct snapfile {
	int fd; /* owned */
	uint64_t size; /* of the file, as its header says */
	uint8_t id[SNAPFILE_ID], parent[SNAPFILE_ID]; /* parent: all zero without one */
	struct snapfile_range range[SNAPFILE_RANGES_MAX];
	uint64_t first_page[SNAPFILE_RANGES_MAX];
	unsigned nranges;
	uint64_t pages;
	uint64_t store; /* offset of the page store; 0: there is none */
	struct snapfile_run *runs; /* of the pagemap, in order, without overlap */
	uint64_t nruns;
	struct {
		uint64_t off, len;
		uint8_t sha[32];
	} section[SNAPFILE_SECTIONS];
};

/* Header, ranges and pagemap are read and checked; page contents are not looked at. `fd` is owned from now on, also when it fails. */
int snapfile_open(struct snapfile **out, int fd, struct err *e);
int snapfile_open_path(struct snapfile **out, const char *path, struct err *e);
void snapfile_close(struct snapfile *s); /* fit for cleanup through snapfile_drop() */
bool snapfile_has_parent(const struct snapfile *s);

static inline void snapfile_drop(struct snapfile **s)
{
	snapfile_close(*s);
}

/* A whole section, its digest checked: *out is malloc'ed with a NUL behind. -ENOENT: this file has none. */
int snapfile_section(
	struct snapfile *s, enum snapfile_section type, char **out, size_t *len, struct err *e);
/* The kind of page i. */
enum snapfile_kind snapfile_kind_of(const struct snapfile *s, uint64_t i);
void snapfile_stat(const struct snapfile *s, struct snapfile_stat *st);
/* Calls fn for each packed page, in the order of the file. The bytes are valid during the call. Stops when fn answers not 0. */
int snapfile_unpack(struct snapfile *s,
	int (*fn)(void *ctx, uint64_t index, const void *page, struct err *e), void *ctx,
	struct err *e);

/* Calls fn for each page of kinds RAW and PACKED with its digest, by rising number. */
int snapfile_digests(struct snapfile *s,
	void (*fn)(void *ctx, uint64_t index, const uint8_t digest[SNAPFILE_DIGEST]), void *ctx,
	struct err *e);

/*
 * Reads everything and compares it with the digests; what no digest covers must be zero. `progress` may be NULL; its false stops
 * with -ECANCELED. The message says where the damage is.
 */
int snapfile_verify(struct snapfile *s, bool (*progress)(void *ctx, uint64_t done, uint64_t of),
	void *ctx, struct err *e);

#endif
