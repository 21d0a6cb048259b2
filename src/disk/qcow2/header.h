/*
 * header.h: the first cluster of a qcow2 image: header, extensions, the backing file's name.
 *
 * Bytes in, a struct out, and the other way round; no files are touched. Everything that a header can claim is bounded here (the tables'
 * places and lengths against the file's size, the limits of QEMU for table sizes), so that later code may trust the numbers, but not what
 * stands in the tables.
 *
 * Source: docs/interop/qcow2.rst of QEMU 10 ("Header", "Header extensions", "Feature name table", "Bitmaps extension").
 */
#ifndef LODGE_DISK_QCOW2_HEADER_H
#define LODGE_DISK_QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_V2_LENGTH 72u
#define QCOW2_V3_LENGTH 104u
#define QCOW2_LENGTH 112u /* what is written: with the compression type */
#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_CLUSTER_BITS_EXTENDED 14u /* at least, with extended L2 entries */
#define QCOW2_NAME_MAX 1023u
#define QCOW2_L1_MAX (32u << 20) /* bytes of an L1 table */
#define QCOW2_RT_MAX (8u << 20) /* bytes of the refcount table */
#define QCOW2_SNAPSHOTS_MAX 65536u
#define QCOW2_BITMAPS_MAX 65535u

enum { /* places of the fields that are written on their own */
	QCOW2_AT_SIZE = 24,
	QCOW2_AT_L1_SIZE = 36,
	QCOW2_AT_L1 = 40,
	QCOW2_AT_RT = 48,
	QCOW2_AT_RT_CLUSTERS = 56,
	QCOW2_AT_NB_SNAPSHOTS = 60,
	QCOW2_AT_SNAPSHOTS = 64,
	QCOW2_AT_INCOMPATIBLE = 72,
	QCOW2_AT_AUTOCLEAR = 88,
};

enum {
	QCOW2_DIRTY = 1 << 0,
	QCOW2_CORRUPT = 1 << 1,
	QCOW2_DATA_FILE = 1 << 2,
	QCOW2_COMPRESSION = 1 << 3,
	QCOW2_EXTENDED_L2 = 1 << 4,
	QCOW2_INCOMPATIBLE_KNOWN = (1 << 5) - 1,

	QCOW2_LAZY_REFCOUNTS = 1 << 0, /* compatible */

	QCOW2_BITMAPS = 1 << 0, /* autoclear */
	QCOW2_DATA_FILE_RAW = 1 << 1,
	QCOW2_AUTOCLEAR_KNOWN = (1 << 2) - 1,
};

enum qcow2_compression { QCOW2_ZLIB, QCOW2_ZSTD, QCOW2_COMPRESSIONS };

struct qcow2_unknown_ext {
	uint32_t type, len;
	void *data;
};

struct qcow2_header {
	unsigned version, cluster_bits, refcount_order;
	uint32_t length; /* of the header itself */
	uint64_t size;
	uint32_t l1_size; /* entries */
	uint64_t l1_off;
	uint64_t rt_off;
	uint32_t rt_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_off;
	uint64_t incompatible, compatible, autoclear;
	enum qcow2_compression compression;
	char *backing, *backing_format, *data_file; /* owned; NULL: none */
	bool has_bitmaps;
	uint32_t nb_bitmaps;
	uint64_t bitmaps_size, bitmaps_off;
	/* What is not known is kept and written again. */
	struct qcow2_unknown_ext *ext;
	unsigned nexts;
	void *extra; /* header bytes after QCOW2_LENGTH */
	uint32_t extra_len;
};

/* The first bytes are enough for this: 0 and the cluster bits, or an error (not a qcow2 image, an unknown version). */
int qcow2_header_peek(
	unsigned *cluster_bits, const void *data, size_t len, const char *path, struct err *e);

/*
 * `data` is the first cluster (or what of it the file has), `file_size` bounds the tables. Refuses: unknown incompatible features, by name;
 * encryption; everything that does not fit. `h` is to be freed also after an error.
 */
int qcow2_header_parse(struct qcow2_header *h, const void *data, size_t len, uint64_t file_size,
	const char *path, struct err *e);

/*
 * Fills `cluster` (1 << cluster_bits bytes). -ENOSPC: names and extensions do not fit. name_at: where the name of the backing file stands; 0: behind the
 * extensions. brief: without the names of features, which only explain. *end: where the extensions end.
 */
int qcow2_header_build(const struct qcow2_header *h, void *cluster, uint64_t name_at, bool brief,
	uint64_t *end, const char *path, struct err *e);
/* The same of a cluster that was parsed. */
uint64_t qcow2_header_end(const void *cluster, uint64_t len);

void qcow2_header_free(struct qcow2_header *h);

/* Entries that an L1 table needs for a disk of `size` bytes. */
uint64_t qcow2_l1_entries(uint64_t size, unsigned cluster_bits, bool extended);

#endif
