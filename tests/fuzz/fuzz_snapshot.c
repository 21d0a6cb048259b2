/*
 * fuzz_snapshot.c: a snapshot from somebody else is hostile input: opened, every section read, unpacked, verified. The digests of the header and
 * of the small sections are made right first, so that what is behind them is reached. What verifies must copy to a file that verifies.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vm/snapshot/file_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
	if (!ok)
		abort();
}

static void make_right(uint8_t *p, size_t size)
{
	for (unsigned i = 0; i < HEAD_TABLE_MAX; i++) {
		uint8_t *ent = p + HEAD_AT_TABLE + i * ENT_SIZE;
		uint64_t off = get_le64(ent + ENT_AT_OFF), len = get_le64(ent + ENT_AT_LEN);

		if (off < size && len <= size - off && !section_is_pages(get_le32(ent)))
			EVP_Digest(p + off, len, ent + ENT_AT_SHA, NULL, EVP_sha256(), NULL);
	}
	EVP_Digest(p, HEAD_AT_DIGEST, p + HEAD_AT_DIGEST, NULL, EVP_sha256(), NULL);
}

static int take(void *ctx, uint64_t index, const void *page, struct err *e)
{
	const struct snapfile *s = ctx;

	must(index < s->pages && snapfile_kind_of(s, index) == SNAPFILE_PACKED);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapfile_stat st;
	struct err e = {0};
	struct snapfile *s;
	uint8_t *in;
	uint64_t n = 0;
	int fd;

	if (size < HEAD_SIZE || size > (4u << 20))
		return 0;
	in = malloc(size);
	must(in != NULL);
	memcpy(in, data, size);
	make_right(in, size);
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	must(fd >= 0 && write(fd, in, size) == (ssize_t)size);
	free(in);
	if (snapfile_open(&s, fd, &e)) {
		must(e.msg[0] != 0);
		return 0;
	}
	snapfile_stat(s, &st);
	for (unsigned k = 0; k < SNAPFILE_KINDS; k++)
		n += st.pages[k];
	must(n == s->pages);
	for (unsigned t = 1; t < SNAPFILE_SECTIONS; t++) {
		char *text = NULL;
		size_t len;

		if (!snapfile_section(s, (enum snapfile_section)t, &text, &len, &e))
			must(len <= size && !text[len]);
		free(text);
	}
	snapfile_unpack(s, take, s, &e);
	snapfile_verify(s, NULL, NULL, &e);
	snapfile_close(s);
	return 0;
}
