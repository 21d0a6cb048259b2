/*
 * loader.c: files, raw images and gzip. ELF is in loader_elf.c.
 */
#include "machine/loader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "machine/loader_priv.h"
#include "memory/space.h"

#define CHUNK (256 * KiB)
#define IMAGE_MAGIC2 0x05435352u /* "RSC\5" */
#define IMAGE_BIG_ENDIAN 1u
#define WANTED "give a riscv64 kernel, for example the one of 'lodge image pull debian'"

int boot_file_open(struct boot_file *f, const char *what, const char *path, struct err *e)
{
	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	*f = (struct boot_file){.what = what, .fd = -1};
	if (fd < 0)
		return err_sys(e, -errno, "%s %s", what, path);
	if (fstat(fd, &st) < 0)
		return err_sys(e, -errno, "%s %s", what, path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s %s: it is not a file", what, path);
	if (!st.st_size)
		return err_set(
			e, -EINVAL, "%s %s: the file is empty; copy or build it again", what, path);
	f->path = strdup(path);
	if (!f->path)
		return err_set(e, -ENOMEM, "%s %s: no memory", what, path);
	f->size = (uint64_t)st.st_size;
	f->fd = steal_fd(&fd);
	return 0;
}

int boot_file_memory(
	struct boot_file *f, const char *what, const void *bytes, uint64_t size, struct err *e)
{
	*f = (struct boot_file){.what = what, .fd = -1, .size = size};
	f->path = strdup("(memory)");
	f->mem = malloc(size ? size : 1);
	if (!f->path || !f->mem) {
		boot_file_close(f);
		return err_set(e, -ENOMEM, "%s: no memory", what);
	}
	memcpy(f->mem, bytes, size);
	return 0;
}

void boot_file_close(struct boot_file *f)
{
	if (f->path && f->fd >= 0)
		close(f->fd);
	free(f->path);
	free(f->mem);
	*f = (struct boot_file){.fd = -1};
}

int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len, struct err *e)
{
	uint8_t *to = buf;

	if (off > f->size || len > f->size - off)
		return err_set(e, -EINVAL, "%s %s: cut short; copy it again", f->what, f->path);
	if (f->fd < 0) {
		memcpy(buf, f->mem + off, len);
		return 0;
	}
	while (len) {
		ssize_t n = pread(f->fd, to, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, -errno, "%s %s", f->what, f->path);
		if (!n)
			return err_set(e, -EIO, "%s %s: it has become shorter", f->what, f->path);
		to += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int boot_file_copy(struct space *s, const struct boot_file *f, uint64_t off, uint64_t len,
	uint64_t at, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = malloc(CHUNK);
	int rc = 0;

	if (!buf)
		return err_set(e, -ENOMEM, "%s %s: no memory", f->what, f->path);
	for (uint64_t n; !rc && len; off += n, at += n, len -= n) {
		n = MIN(len, (uint64_t)CHUNK);
		rc = boot_file_read(f, off, buf, n, e);
		if (!rc && space_write(s, gpa(at), buf, n))
			rc = err_set(e, -EFAULT, "%s %s: there is no memory at 0x%llx", f->what,
				f->path, (unsigned long long)at);
	}
	return rc;
}

int loader_blob(struct space *s, const struct boot_file *f, uint64_t at, struct err *e)
{
	return boot_file_copy(s, f, 0, f->size, at, e);
}

/* Images. */

struct known {
	size_t off;
	const char *magic;
	size_t len;
	const char *is;
};

/* What people give by mistake. */
static const struct known others[] = {
	{0x202, "HdrS", 4, "a kernel for x86"},
	{0x38, "ARM\x64", 4, "a kernel for arm64"},
	{4, "zimg", 4, "a compressed EFI image; unpack the kernel from it"},
	{0,
		"\xfd"
		"7zXZ",
		5, "compressed with xz; unpack it with xz -d"},
	{0, "\x28\xb5\x2f\xfd", 4, "compressed with zstd; unpack it with zstd -d"},
	{0, "BZh", 3, "compressed with bzip2; unpack it with bzip2 -d"},
	{0, "\x04\x22\x4d\x18", 4, "compressed with lz4; unpack it with lz4 -d"},
	{0, "\xd0\x0d\xfe\xed", 4, "a device tree or FIT image; give the kernel in it"},
	{0, "\x27\x05\x19\x56", 4, "a U-Boot image; give the kernel in it"},
	{0, "!<arch>\ndebian", 14, "a Debian package; give boot/vmlinux-* in it"},
	{0, "070701", 6, "a cpio archive (an initrd?)"},
};

const char *kernel_mistaken(const uint8_t *head, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		const struct known *k = &others[i];

		if (len >= k->off + k->len && !memcmp(head + k->off, k->magic, k->len))
			return k->is;
	}
	return NULL;
}

int image_header_parse(
	const char *path, const uint8_t *head, size_t len, struct image_header *h, struct err *e)
{
	const char *other = kernel_mistaken(head, len);

	if (other)
		return err_set(e, -EINVAL, "kernel %s: it is %s; " WANTED, path, other);
	if (len < 64 || get_le32(head + 0x38) != IMAGE_MAGIC2)
		return err_set(
			e, -EINVAL, "kernel %s: it is no riscv64 Image and no ELF; " WANTED, path);
	h->text_offset = get_le64(head + 8);
	h->image_size = get_le64(head + 16);
	h->flags = get_le64(head + 24);
	if (h->flags & IMAGE_BIG_ENDIAN)
		return err_set(e, -EINVAL, "kernel %s: it is big-endian; " WANTED, path);
	/* Linux maps itself with leaves of 2 MiB and asks to be placed so. */
	if (!h->image_size || h->image_size > INT64_MAX || h->text_offset > INT64_MAX ||
		h->text_offset % (2 * MiB))
		return err_set(e, -EINVAL,
			"kernel %s: its header is damaged (size 0x%llx, offset 0x%llx); copy it "
			"again",
			path, (unsigned long long)h->image_size,
			(unsigned long long)h->text_offset);
	return 0;
}

/*
 * How long a kernel with an EFI stub must be, from its PE section table (PE/COFF specification, sections 3 and 4); 0 where it does not say.
 * The Image header cannot tell a file that was cut short from one with much zeroed data.
 */
static uint64_t pe_length(const uint8_t *head, size_t len)
{
	uint64_t pe = get_le32(head + 0x3c), at, need = 0;
	unsigned sections;

	if (head[0] != 'M' || head[1] != 'Z' || pe + 24 > len || memcmp(head + pe, "PE\0", 4))
		return 0;
	sections = get_le16(head + pe + 6);
	at = pe + 24 + get_le16(head + pe + 20);
	for (; sections && at + 40 <= len; sections--, at += 40)
		need = MAX(need, (uint64_t)get_le32(head + at + 16) + get_le32(head + at + 20));
	return need;
}

static int image_load(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e)
{
	cleanup(free_ptr) uint8_t *head = calloc(1, IMAGE_HEAD);
	size_t n = (size_t)MIN(f->size, (uint64_t)IMAGE_HEAD);
	struct image_header h = {0};
	uint64_t room, need;
	char a[SIZE_TEXT], b[SIZE_TEXT];
	int rc;

	if (!head)
		return err_set(e, -ENOMEM, "kernel %s: no memory", f->path);
	rc = boot_file_read(f, 0, head, n, e);
	if (!rc)
		rc = image_header_parse(f->path, head, n, &h, e);
	if (rc)
		return rc;
	if (pe_length(head, n) > f->size)
		return err_set(e, -EINVAL,
			"kernel %s: cut short, %llu of %llu bytes; copy it again", f->path,
			(unsigned long long)f->size, (unsigned long long)pe_length(head, n));
	/* Offset 0 is an image for M-mode; nothing may lie on firmware. */
	out->start = p->ram + h.text_offset < p->kernel ? p->kernel : p->ram + h.text_offset;
	room = out->start < p->ram_end ? p->ram_end - out->start : 0;
	need = MAX(h.image_size, f->size);
	if (need > room)
		return err_set(e, -E2BIG,
			"kernel %s: it needs %s of memory from 0x%llx on, and there is %s; give "
			"more "
			"with --memory",
			f->path, size_text(a, align_up(need, MiB)), (unsigned long long)out->start,
			size_text(b, room));
	out->end = out->start + need;
	out->entry = out->start;
	return boot_file_copy(s, f, 0, f->size, out->start, e);
}

/* gzip */

/* Inflates everything; no more than `max` bytes, so that a small file cannot fill the host's memory. */
static int inflate_all(
	z_stream *z, const struct boot_file *f, struct boot_file *out, uint64_t max, struct err *e)
{
	cleanup(free_ptr) uint8_t *in = malloc(CHUNK);
	uint64_t off = 0, cap = 0;
	int rc = Z_OK;

	while (in && rc == Z_OK) {
		if (!z->avail_in && off < f->size) {
			uint64_t n = MIN(f->size - off, (uint64_t)CHUNK);

			rc = boot_file_read(f, off, in, n, e);
			if (rc)
				return rc;
			z->next_in = in;
			z->avail_in = (uInt)n;
			off += n;
		}
		if (out->size == cap) {
			uint8_t *more = cap < max ? realloc(out->mem, cap + 4 * MiB) : NULL;

			if (!more)
				return err_set(e, -E2BIG,
					"%s %s: unpacked it is larger than the machine's memory; "
					"give more with --memory",
					f->what, f->path);
			out->mem = more;
			cap += 4 * MiB;
		}
		z->next_out = out->mem + out->size;
		z->avail_out = (uInt)(cap - out->size);
		rc = inflate(z, Z_NO_FLUSH);
		out->size = cap - z->avail_out;
	}
	if (!in)
		return err_set(e, -ENOMEM, "%s %s: no memory", f->what, f->path);
	return rc == Z_STREAM_END
		       ? 0
		       : err_set(e, -EINVAL, "%s %s: the gzip data is damaged; copy it again",
				 f->what, f->path);
}

int boot_file_gunzip(const struct boot_file *f, struct boot_file *out, uint64_t max, struct err *e)
{
	z_stream z = {0};
	int rc;

	*out = (struct boot_file){.what = f->what, .fd = -1, .path = strdup(f->path)};
	if (!out->path || inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) {
		free(out->path);
		return err_set(e, -ENOMEM, "%s %s: no memory", f->what, f->path);
	}
	rc = inflate_all(&z, f, out, max, e);
	inflateEnd(&z);
	if (rc)
		boot_file_close(out);
	return rc;
}

bool boot_file_starts(const struct boot_file *f, const char *magic, size_t len)
{
	uint8_t head[8];

	return f->size >= len && !boot_file_read(f, 0, head, len, NULL) &&
	       !memcmp(head, magic, len);
}

int loader_kernel(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e)
{
	struct boot_file plain;
	int rc;

	*out = (struct loaded){0};
	if (boot_file_starts(f, ELF_MAGIC, 4))
		return loader_elf(s, f, p, out, e);
	if (!boot_file_starts(f, GZIP_MAGIC, 2))
		return image_load(s, f, p, out, e);
	rc = boot_file_gunzip(f, &plain, p->ram_end - p->ram, e);
	if (rc)
		return rc;
	if (boot_file_starts(&plain, ELF_MAGIC, 4))
		rc = loader_elf(s, &plain, p, out, e);
	else
		rc = image_load(s, &plain, p, out, e);
	out->gzip = true;
	boot_file_close(&plain);
	return rc;
}

int loader_firmware(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e)
{
	char a[SIZE_TEXT];

	*out = (struct loaded){0};
	if (boot_file_starts(f, ELF_MAGIC, 4))
		return loader_elf(s, f, p, out, e);
	if (boot_file_starts(f, GZIP_MAGIC, 2))
		return err_set(e, -EINVAL, "firmware %s: it is compressed; unpack it with gzip -d",
			f->path);
	if (f->size > p->ram_end - p->ram)
		return err_set(e, -E2BIG,
			"firmware %s: larger than the machine's memory (%s); give more with "
			"--memory",
			f->path, size_text(a, p->ram_end - p->ram));
	out->start = out->entry = p->ram;
	out->end = p->ram + f->size;
	return boot_file_copy(s, f, 0, f->size, p->ram, e);
}
