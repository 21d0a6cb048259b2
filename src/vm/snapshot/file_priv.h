/*
 * file_priv.h: the layout that the writer and the reader of the container share. Integers are little-endian.
 */
#ifndef LODGE_VM_SNAPSHOT_FILE_PRIV_H
#define LODGE_VM_SNAPSHOT_FILE_PRIV_H

#include "vm/snapshot/file.h"

#define HEAD_SIZE 4096u
#define HEAD_MAGIC "LODGESNP"
#define HEAD_AT_FORMAT 8
#define HEAD_AT_NEEDS 12
#define HEAD_AT_SECTIONS 16
#define HEAD_AT_PAGE 20
#define HEAD_AT_SIZE 24
#define HEAD_AT_PAGES 32
#define HEAD_AT_ID 40
#define HEAD_AT_PARENT 56
#define HEAD_AT_TABLE 128
#define HEAD_AT_DIGEST (HEAD_SIZE - 32)
#define HEAD_TABLE_MAX 32

#define ENT_SIZE 64u /* type, 0, offset, length, SHA-256, 0 */
#define ENT_AT_OFF 8
#define ENT_AT_LEN 16
#define ENT_AT_SHA 24

#define RANGE_SIZE 16u
#define RUN_SIZE 16u
#define PACK_HEAD 8u /* pages, bytes of zstd data; then n numbers, then the data, padded to 8 */

#define MANIFEST_MAX (4u << 20)
#define STATE_MAX (64u << 20)
#define PAGES_MAX (1ull << 38) /* the guest-physical space is 50 bits */

/* Sections whose SHA-256 the header does not have: they have the digests of their pages, or of their records. */
static inline bool section_is_pages(unsigned type)
{
	return type == SNAPFILE_S_PAGES;
}

#endif
