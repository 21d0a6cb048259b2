/*
 * compress.c: one cluster, smaller.
 *
 * Source: qcow2.rst, "Additional fields" (compression_type): raw deflate without a zlib header, or one zstd frame. Behind the data, up to
 * the end of its last sector, may stand anything. QEMU's window of 2^12 bytes is kept for deflate, as its reader asks for that.
 */
#include <errno.h>
#include <string.h>

#include <zlib.h>
#include <zstd.h>

#include "disk/qcow2/qcow2.h"

#define WINDOW (-12)

static int inflate_cluster(const struct qcow2 *q, void *out, const void *in, size_t len)
{
	z_stream z = {.next_in = (void *)(uintptr_t)in,
		.avail_in = (unsigned)len,
		.next_out = out,
		.avail_out = (unsigned)q->cluster_size};
	int rc;

	/* What others wrote may use the largest window there is. */
	if (inflateInit2(&z, -15) != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* Full without the end mark having been read is enough. */
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(const struct qcow2 *q, void *out, const void *in, size_t len)
{
	ZSTD_outBuffer o = {out, q->cluster_size, 0};
	ZSTD_inBuffer i = {in, len, 0};
	ZSTD_DCtx *z = ZSTD_createDCtx();
	size_t rc = 1;

	if (!z)
		return -ENOMEM;
	/* Streaming, as the length of the frame is not known. Each call moves on, or it is over. */
	while (o.pos < o.size) {
		size_t was = o.pos, had = i.pos;

		rc = ZSTD_decompressStream(z, &o, &i);
		if (ZSTD_isError(rc) || (o.pos == was && i.pos == had))
			break;
	}
	ZSTD_freeDCtx(z);
	return o.pos == o.size ? 0 : -EIO;
}

int q_unpack(const struct qcow2 *q, void *out, const void *in, size_t len)
{
	return q->h.compression == QCOW2_ZSTD ? unzstd_cluster(q, out, in, len)
					      : inflate_cluster(q, out, in, len);
}

static int deflate_cluster(const struct qcow2 *q, void *out, size_t *n, const void *in)
{
	z_stream z = {.next_in = (void *)(uintptr_t)in,
		.avail_in = (unsigned)q->cluster_size,
		.next_out = out,
		.avail_out = (unsigned)q->cluster_size - 1};
	int rc;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW, 9, Z_DEFAULT_STRATEGY) !=
		Z_OK)
		return -ENOMEM;
	rc = deflate(&z, Z_FINISH);
	*n = q->cluster_size - 1 - z.avail_out;
	deflateEnd(&z);
	return rc == Z_STREAM_END ? 0 : -ENOSPC;
}

int q_pack(const struct qcow2 *q, void *out, size_t *n, const void *in)
{
	size_t rc;

	if (q->h.compression != QCOW2_ZSTD)
		return deflate_cluster(q, out, n, in);
	rc = ZSTD_compress(out, q->cluster_size - 1, in, q->cluster_size, ZSTD_CLEVEL_DEFAULT);
	if (ZSTD_isError(rc))
		return -ENOSPC;
	*n = rc;
	return 0;
}
