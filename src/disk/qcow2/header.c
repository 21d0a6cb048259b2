#include "disk/qcow2/header.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"

enum {
	EXT_END = 0,
	EXT_BACKING_FORMAT = 0xe2792aca,
	EXT_FEATURES = 0x6803f857,
	EXT_BITMAPS = 0x23852875,
	EXT_ENCRYPTION = 0x0537be77,
	EXT_DATA_FILE = 0x44415441,
};

#define EXTS_MAX 64u
#define FEATURE_LEN 48u

static const struct {
	uint8_t type, bit;
	const char *name;
} features[] = {
	{0, 0, "dirty bit"},
	{0, 1, "corrupt bit"},
	{0, 2, "external data file"},
	{0, 3, "compression type"},
	{0, 4, "extended L2 entries"},
	{1, 0, "lazy refcounts"},
	{2, 0, "bitmaps"},
	{2, 1, "raw external data"},
};

uint64_t qcow2_l1_entries(uint64_t size, unsigned cluster_bits, bool extended)
{
	unsigned shift = cluster_bits + cluster_bits - (extended ? 4 : 3);

	return size ? ((size - 1) >> shift) + 1 : 0;
}

int qcow2_header_peek(
	unsigned *cluster_bits, const void *data, size_t len, const char *path, struct err *e)
{
	const char *p = data;
	unsigned version;

	if (len < QCOW2_V2_LENGTH || get_be32(p) != QCOW2_MAGIC)
		return err_set(e, -EINVAL,
			"disk %s is not a qcow2 image: it does not begin with \"QFI\\xfb\"%s", path,
			len < QCOW2_V2_LENGTH ? " (it is shorter than a header)" : "");
	version = get_be32(p + 4);
	if (version != 2 && version != 3)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: qcow2 version %u is not known (2 and 3 are)", path, version);
	*cluster_bits = get_be32(p + 20);
	if (*cluster_bits < QCOW2_CLUSTER_BITS_MIN || *cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set(e, -EINVAL,
			"disk %s: clusters of 2^%u bytes: 512 bytes to 2 MiB are possible", path,
			*cluster_bits);
	return 0;
}

/* ---- extensions ---- */

struct parse {
	struct qcow2_header *h;
	const char *p;
	size_t len; /* of the first cluster */
	uint64_t file_size;
	const char *path;
	struct err *e;
	const char *feature_table;
	uint32_t feature_len;
};

static int take_text(struct parse *x, char **out, const char *what, const char *data, uint32_t len)
{
	if (*out)
		return err_set(
			x->e, -EINVAL, "disk %s: its header names the %s twice", x->path, what);
	if (!len || len > QCOW2_NAME_MAX || memchr(data, 0, len))
		return err_set(x->e, -EINVAL,
			"disk %s: the name of the %s is not a name (%u bytes)", x->path, what, len);
	*out = strndup(data, len);
	return *out ? 0 : err_set(x->e, -ENOMEM, "disk %s: out of memory", x->path);
}

static int take_bitmaps(struct parse *x, const char *data, uint32_t len)
{
	struct qcow2_header *h = x->h;

	if (h->has_bitmaps || len != 24)
		return err_set(x->e, -EINVAL, "disk %s: the bitmaps extension is damaged", x->path);
	h->has_bitmaps = true;
	h->nb_bitmaps = get_be32(data);
	h->bitmaps_size = get_be64(data + 8);
	h->bitmaps_off = get_be64(data + 16);
	return 0;
}

static int take_unknown(struct parse *x, uint32_t type, const char *data, uint32_t len)
{
	struct qcow2_header *h = x->h;
	struct qcow2_unknown_ext *more;

	if (h->nexts == EXTS_MAX)
		return err_set(x->e, -EINVAL, "disk %s: more than %u header extensions", x->path,
			EXTS_MAX);
	more = realloc(h->ext, (h->nexts + 1) * sizeof(*more));
	if (!more)
		return err_set(x->e, -ENOMEM, "disk %s: out of memory", x->path);
	h->ext = more;
	more += h->nexts;
	*more = (struct qcow2_unknown_ext){type, len, malloc(len + 1u)};
	if (!more->data)
		return err_set(x->e, -ENOMEM, "disk %s: out of memory", x->path);
	memcpy(more->data, data, len);
	h->nexts++;
	return 0;
}

static int take_ext(struct parse *x, uint32_t type, const char *data, uint32_t len)
{
	switch (type) {
	case EXT_BACKING_FORMAT:
		return take_text(x, &x->h->backing_format, "format of the backing file", data, len);
	case EXT_DATA_FILE:
		return take_text(x, &x->h->data_file, "external data file", data, len);
	case EXT_BITMAPS:
		return take_bitmaps(x, data, len);
	case EXT_FEATURES:
		x->feature_table = data;
		x->feature_len = len;
		return 0;
	case EXT_ENCRYPTION:
		return err_set(x->e, -EOPNOTSUPP,
			"disk %s: is encrypted (LUKS inside qcow2), which is not supported",
			x->path);
	default:
		return take_unknown(x, type, data, len);
	}
}

static int parse_exts(struct parse *x)
{
	const char *p = x->p;
	uint64_t at = x->h->length, end = x->len;
	uint64_t name = get_be64(p + 8);

	/* The backing file's name stands behind them. */
	if (name)
		end = MIN(end, name);
	while (at + 8 <= end) {
		uint32_t type = get_be32(p + at), len = get_be32(p + at + 4);
		int rc;

		if (type == EXT_END)
			return 0;
		at += 8;
		if (len > end - at)
			return err_set(x->e, -EINVAL,
				"disk %s: header extension 0x%08x is longer (%u bytes) than the "
				"header's cluster",
				x->path, type, len);
		rc = take_ext(x, type, p + at, len);
		if (rc)
			return rc;
		at = align_up(at + len, 8);
	}
	return 0;
}

/* ---- checks ---- */

static void feature_name(const struct parse *x, unsigned bit, char *out, size_t size)
{
	for (uint32_t at = 0; at + FEATURE_LEN <= x->feature_len; at += FEATURE_LEN) {
		const char *f = x->feature_table + at;

		if (f[0] == 0 && (uint8_t)f[1] == bit) {
			size_t n = 0;

			for (; n < FEATURE_LEN - 2 && f[2 + n] && n + 1 < size; n++)
				out[n] = f[2 + n] >= ' ' && f[2 + n] <= '~' ? f[2 + n] : '?';
			out[n] = 0;
			return;
		}
	}
	snprintf(out, size, "bit %u", bit);
}

static int check_features(struct parse *x)
{
	uint64_t unknown = x->h->incompatible & ~(uint64_t)QCOW2_INCOMPATIBLE_KNOWN;
	char list[256] = "", name[FEATURE_LEN];

	if (!unknown)
		return 0;
	for (; unknown; unknown &= unknown - 1) {
		size_t n = strlen(list);

		feature_name(x, (unsigned)__builtin_ctzll(unknown), name, sizeof(name));
		snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", name);
	}
	return err_set(x->e, -EOPNOTSUPP,
		"disk %s: needs qcow2 features that are not known here: %s", x->path, list);
}

/* A table of `bytes` at `off` that has to lie in the file and to begin with a cluster. */
static int check_table(const struct parse *x, const char *what, uint64_t off, uint64_t bytes)
{
	if (off & ((1ull << x->h->cluster_bits) - 1))
		return err_set(x->e, -EINVAL,
			"disk %s: the %s does not begin with a cluster (offset 0x%llx)", x->path,
			what, (unsigned long long)off);
	if (off >= 1ull << 56 || bytes > x->file_size || off > x->file_size - bytes ||
		(bytes && off < 1ull << x->h->cluster_bits))
		return err_set(x->e, -EINVAL,
			"disk %s: the %s (%llu bytes at 0x%llx) lies outside the file of %llu "
			"bytes: is the file cut off?",
			x->path, what, (unsigned long long)bytes, (unsigned long long)off,
			(unsigned long long)x->file_size);
	return 0;
}

static int check_tables(const struct parse *x)
{
	struct qcow2_header *h = x->h;
	bool extended = h->incompatible & QCOW2_EXTENDED_L2;
	uint64_t need = qcow2_l1_entries(h->size, h->cluster_bits, extended);
	uint64_t rt = (uint64_t)h->rt_clusters << h->cluster_bits;
	int rc;

	if (h->size >= 1ull << 62)
		return err_set(x->e, -EFBIG, "disk %s: a size of %llu bytes is too large", x->path,
			(unsigned long long)h->size);
	if (h->size % 512)
		return err_set(x->e, -EINVAL, "disk %s: %llu bytes are not whole sectors", x->path,
			(unsigned long long)h->size);
	if (h->l1_size > QCOW2_L1_MAX / 8)
		return err_set(x->e, -EFBIG, "disk %s: an L1 table of %u entries: at most %u",
			x->path, h->l1_size, QCOW2_L1_MAX / 8);
	if (h->l1_size < need)
		return err_set(x->e, -EINVAL, "disk %s: the L1 table has %u entries and needs %llu",
			x->path, h->l1_size, (unsigned long long)need);
	rc = check_table(x, "L1 table", h->l1_off, h->l1_size * 8ull);
	if (rc)
		return rc;
	if (!h->rt_clusters || rt > MAX((uint64_t)QCOW2_RT_MAX, 1ull << h->cluster_bits))
		return err_set(x->e, -EINVAL,
			"disk %s: a refcount table of %u clusters: 1 to %u are possible", x->path,
			h->rt_clusters, QCOW2_RT_MAX >> h->cluster_bits);
	rc = check_table(x, "refcount table", h->rt_off, rt);
	if (rc)
		return rc;
	if (h->nb_snapshots > QCOW2_SNAPSHOTS_MAX)
		return err_set(x->e, -EFBIG, "disk %s: %u snapshots: at most %u", x->path,
			h->nb_snapshots, QCOW2_SNAPSHOTS_MAX);
	rc = h->nb_snapshots
		     ? check_table(x, "snapshot table", h->snapshots_off, h->nb_snapshots * 40ull)
		     : 0;
	if (rc || !h->has_bitmaps)
		return rc;
	if (!h->nb_bitmaps || h->nb_bitmaps > QCOW2_BITMAPS_MAX ||
		h->bitmaps_size < h->nb_bitmaps * 24ull ||
		h->bitmaps_size > QCOW2_BITMAPS_MAX * 1100ull)
		return err_set(x->e, -EINVAL,
			"disk %s: %u bitmaps in a directory of %llu bytes are impossible", x->path,
			h->nb_bitmaps, (unsigned long long)h->bitmaps_size);
	return check_table(x, "bitmap directory", h->bitmaps_off, h->bitmaps_size);
}

static int check_combination(const struct parse *x)
{
	const struct qcow2_header *h = x->h;
	bool data_file = h->incompatible & QCOW2_DATA_FILE;

	if (h->refcount_order > 6)
		return err_set(x->e, -EINVAL, "disk %s: refcounts of 2^%u bits: at most 64",
			x->path, h->refcount_order);
	if ((h->incompatible & QCOW2_EXTENDED_L2) && h->cluster_bits < QCOW2_CLUSTER_BITS_EXTENDED)
		return err_set(x->e, -EINVAL,
			"disk %s: extended L2 entries need clusters of at least 16 KiB", x->path);
	if (!(h->incompatible & QCOW2_COMPRESSION) != (h->compression == QCOW2_ZLIB))
		return err_set(x->e, -EINVAL,
			"disk %s: the compression type and its feature bit contradict each other",
			x->path);
	if (h->compression >= QCOW2_COMPRESSIONS)
		return err_set(x->e, -EOPNOTSUPP,
			"disk %s: compression type %u is not known (zlib and zstd are)", x->path,
			h->compression);
	if (!data_file && (h->autoclear & QCOW2_DATA_FILE_RAW))
		return err_set(x->e, -EINVAL,
			"disk %s: claims raw external data without an external data file", x->path);
	if (data_file && (h->autoclear & QCOW2_DATA_FILE_RAW) && h->backing)
		return err_set(x->e, -EINVAL,
			"disk %s: a backing file and a raw external data file exclude each other",
			x->path);
	if (data_file && h->nb_snapshots)
		return err_set(x->e, -EINVAL,
			"disk %s: internal snapshots and an external data file exclude each other",
			x->path);
	if ((h->autoclear & QCOW2_BITMAPS) && !h->has_bitmaps)
		return err_set(x->e, -EINVAL,
			"disk %s: the bitmaps bit is set and there are no bitmaps", x->path);
	return 0;
}

/* ---- the header ---- */

static int parse_fixed(struct parse *x)
{
	struct qcow2_header *h = x->h;
	const char *p = x->p;
	uint32_t crypt = get_be32(p + 32);

	h->version = get_be32(p + 4);
	h->size = get_be64(p + 24);
	h->l1_size = get_be32(p + 36);
	h->l1_off = get_be64(p + 40);
	h->rt_off = get_be64(p + 48);
	h->rt_clusters = get_be32(p + 56);
	h->nb_snapshots = get_be32(p + 60);
	h->snapshots_off = get_be64(p + 64);
	h->refcount_order = 4;
	h->length = QCOW2_V2_LENGTH;
	if (crypt)
		return err_set(x->e, -EOPNOTSUPP,
			"disk %s: is encrypted (%s inside qcow2), which is not supported", x->path,
			crypt == 1   ? "AES"
			: crypt == 2 ? "LUKS"
				     : "an unknown method");
	if (h->version == 2)
		return 0;
	if (x->len < QCOW2_V3_LENGTH)
		return err_set(x->e, -EINVAL, "disk %s: is cut off within its header", x->path);
	h->incompatible = get_be64(p + 72);
	h->compatible = get_be64(p + 80);
	h->autoclear = get_be64(p + 88);
	h->refcount_order = get_be32(p + 96);
	h->length = get_be32(p + 100);
	if (h->length < QCOW2_V3_LENGTH || h->length % 8 || h->length > x->len)
		return err_set(x->e, -EINVAL, "disk %s: a header of %u bytes is impossible",
			x->path, h->length);
	if (h->length > QCOW2_V3_LENGTH)
		h->compression = (uint8_t)p[104];
	if (h->length > QCOW2_LENGTH) {
		h->extra_len = h->length - QCOW2_LENGTH;
		h->extra = malloc(h->extra_len);
		if (!h->extra)
			return err_set(x->e, -ENOMEM, "disk %s: out of memory", x->path);
		memcpy(h->extra, p + QCOW2_LENGTH, h->extra_len);
	}
	return 0;
}

static int parse_backing(struct parse *x)
{
	uint64_t off = get_be64(x->p + 8);
	uint32_t len = get_be32(x->p + 16);

	if (!off)
		return 0;
	if (off < x->h->length || len > x->len || off > x->len - len)
		return err_set(x->e, -EINVAL,
			"disk %s: the name of its backing file (%u bytes at 0x%llx) lies outside "
			"the header's cluster",
			x->path, len, (unsigned long long)off);
	if (!len)
		return 0;
	/* Without its format it is not opened (disk_open_backing()); but `rebase` can write that down. */
	return take_text(x, &x->h->backing, "backing file", x->p + off, len);
}

int qcow2_header_parse(struct qcow2_header *h, const void *data, size_t len, uint64_t file_size,
	const char *path, struct err *e)
{
	struct parse x = {
		.h = h, .p = data, .len = len, .file_size = file_size, .path = path, .e = e};
	int rc;

	memset(h, 0, sizeof(*h));
	rc = qcow2_header_peek(&h->cluster_bits, data, len, path, e);
	if (rc)
		return rc;
	x.len = MIN(len, (size_t)1 << h->cluster_bits);
	rc = parse_fixed(&x);
	/* Their names first: what is not known may also be laid out in a way that is not. */
	if (!rc && (h->incompatible & ~(uint64_t)QCOW2_INCOMPATIBLE_KNOWN)) {
		x.e = NULL;
		parse_exts(&x);
		x.e = e;
		return check_features(&x);
	}
	if (!rc)
		rc = parse_exts(&x);
	/* Who wrote last did not know bitmaps: what the extension says is out of date, and its places may be something else's by now. */
	if (!(h->autoclear & QCOW2_BITMAPS))
		h->has_bitmaps = false;
	if (!rc)
		rc = parse_backing(&x);
	if (!rc)
		rc = check_combination(&x);
	return rc ?: check_tables(&x);
}

void qcow2_header_free(struct qcow2_header *h)
{
	for (unsigned i = 0; i < h->nexts; i++)
		free(h->ext[i].data);
	free(h->ext);
	free(h->extra);
	free(h->backing);
	free(h->backing_format);
	free(h->data_file);
	memset(h, 0, sizeof(*h));
}

/* ---- writing ---- */

struct build {
	char *p;
	size_t at, size;
	bool full;
};

static void put_ext(struct build *b, uint32_t type, const void *data, size_t len)
{
	size_t need = 8 + align_up(len, 8);

	if (b->full || need > b->size - b->at) {
		b->full = true;
		return;
	}
	put_be32(b->p + b->at, type);
	put_be32(b->p + b->at + 4, (uint32_t)len);
	if (len)
		memcpy(b->p + b->at + 8, data, len);
	b->at += need;
}

static void put_features(struct build *b)
{
	char table[ARRAY_SIZE(features) * FEATURE_LEN] = {0};

	/* It explains; a cluster of 512 bytes has no room for that. */
	if (b->size < 4096)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		table[i * FEATURE_LEN] = (char)features[i].type;
		table[i * FEATURE_LEN + 1] = (char)features[i].bit;
		strncpy(table + i * FEATURE_LEN + 2, features[i].name, FEATURE_LEN - 2);
	}
	put_ext(b, EXT_FEATURES, table, sizeof(table));
}

static void put_fixed(const struct qcow2_header *h, char *p)
{
	put_be32(p, QCOW2_MAGIC);
	put_be32(p + 4, h->version);
	put_be32(p + 20, h->cluster_bits);
	put_be64(p + QCOW2_AT_SIZE, h->size);
	put_be32(p + QCOW2_AT_L1_SIZE, h->l1_size);
	put_be64(p + QCOW2_AT_L1, h->l1_off);
	put_be64(p + QCOW2_AT_RT, h->rt_off);
	put_be32(p + QCOW2_AT_RT_CLUSTERS, h->rt_clusters);
	put_be32(p + QCOW2_AT_NB_SNAPSHOTS, h->nb_snapshots);
	put_be64(p + QCOW2_AT_SNAPSHOTS, h->snapshots_off);
	if (h->version == 2)
		return;
	put_be64(p + QCOW2_AT_INCOMPATIBLE, h->incompatible);
	put_be64(p + 80, h->compatible);
	put_be64(p + QCOW2_AT_AUTOCLEAR, h->autoclear);
	put_be32(p + 96, h->refcount_order);
	put_be32(p + 100, QCOW2_LENGTH + h->extra_len);
	p[104] = (char)h->compression;
	if (h->extra_len)
		memcpy(p + QCOW2_LENGTH, h->extra, h->extra_len);
}

uint64_t qcow2_header_end(const void *cluster, uint64_t len)
{
	const char *p = cluster;
	uint64_t at = get_be32(p + 4) == 2 ? QCOW2_V2_LENGTH : get_be32(p + 100);

	while (at + 8 <= len && get_be32(p + at) != EXT_END)
		at = align_up(at + 8 + get_be32(p + at + 4), 8);
	return MIN(at + 8, len);
}

int qcow2_header_build(const struct qcow2_header *h, void *cluster, uint64_t name_at, bool brief,
	uint64_t *end, const char *path, struct err *e)
{
	struct build b = {.p = cluster, .size = (size_t)1 << h->cluster_bits};
	size_t name = h->backing ? strlen(h->backing) : 0;
	char bitmaps[24] = {0};

	memset(cluster, 0, b.size);
	put_fixed(h, b.p);
	b.at = h->version == 2 ? QCOW2_V2_LENGTH : QCOW2_LENGTH + h->extra_len;
	if (h->backing_format)
		put_ext(&b, EXT_BACKING_FORMAT, h->backing_format, strlen(h->backing_format));
	if (h->data_file)
		put_ext(&b, EXT_DATA_FILE, h->data_file, strlen(h->data_file));
	if (h->version > 2 && !brief)
		put_features(&b);
	if (h->has_bitmaps) {
		put_be32(bitmaps, h->nb_bitmaps);
		put_be64(bitmaps + 8, h->bitmaps_size);
		put_be64(bitmaps + 16, h->bitmaps_off);
		put_ext(&b, EXT_BITMAPS, bitmaps, sizeof(bitmaps));
	}
	for (unsigned i = 0; i < h->nexts; i++)
		put_ext(&b, h->ext[i].type, h->ext[i].data, h->ext[i].len);
	put_ext(&b, EXT_END, NULL, 0);
	*end = b.at;
	b.at = MAX(b.at, (size_t)name_at);
	if (b.full || b.at > b.size || name > b.size - b.at || name > QCOW2_NAME_MAX)
		return err_set(e, -ENOSPC,
			"disk %s: the name of the backing file does not fit into a cluster of %zu "
			"bytes: take larger clusters or a shorter name",
			path, b.size);
	if (name) {
		put_be64(b.p + 8, b.at);
		put_be32(b.p + 16, (uint32_t)name);
		memcpy(b.p + b.at, h->backing, name);
	}
	return 0;
}
